"""Which minute of the exchange counted a request?

Pure. The rule of this file: say what an answer proves, and change nothing. The receipt says in
which minutes the request may land, our clock of the exchange which minutes it can be, and the
`Date` header which second it was. Near a rollover only the count tells.
"""

from typing import NamedTuple

from binance_oi.budget.ledger import Ledger
from binance_oi.budget.server_clock import MINUTE, ServerClock
from binance_oi.budget.tuning import EDGE
from binance_oi.budget.usage import Receipt


class Attribution(NamedTuple):
    """What an answer proves."""

    minute: int | None
    """The one that counted the request; None when nothing tells."""
    interval: tuple[float, float] | None = None
    """What the count proves of the exchange's clock; see `ServerClock`."""


def attribute(
    receipt: Receipt,
    now: float,
    used: int | None,
    date: float | None,
    clock: ServerClock,
    ledger: Ledger,
    slack: int,
) -> Attribution:
    """Say which minute counted a request.

    Args:
        receipt: Of the request.
        now: When the answer came, monotonic s.
        used: Its count; None: it has none.
        date: Its `Date`, Unix s; None: it has none, or one that contradicts all that is known.
        clock: Of the exchange.
        ledger: What is known of the minutes.
        slack: Weight by which two counts may differ, and mean the same.
    """
    first = max(receipt.first, clock.earliest(receipt.sent))
    last = clock.latest(now)
    if date is not None:
        first = max(first, int((date - EDGE) // MINUTE))
        last = min(last, int((date + 1 + EDGE) // MINUTE))
    if first == last:
        return Attribution(first)
    if used is None or last != first + 1:
        return Attribution(None)
    k = _by_count(receipt, used, first, ledger, slack)
    if k is None:
        return Attribution(None)
    return Attribution(k, (MINUTE * k - now, MINUTE * (k + 1) - receipt.sent))


def is_clear_of_rollovers(date: float, k: int) -> bool:
    """Whether a `Date` that is believed proves minute `k`, whatever edge server wrote it."""
    return EDGE <= date - MINUTE * k < MINUTE - 1 - EDGE


def _by_count(receipt: Receipt, used: int, k: int, ledger: Ledger, slack: int) -> int | None:
    """Minute `k` or the next? A count far below what it was before is the next one's."""
    before = receipt.reported if receipt.first == k else 0
    if used < before - slack:
        return k + 1
    most_of_next = 2 * ledger.minute(k + 1).booked + slack
    if k == ledger.newest and used >= before > slack and used > most_of_next:
        return k
    return None
