"""Which minute of the exchange counted a request?

Pure. The rule of this file: it says what an answer proves, and changes nothing. The receipt says
which minutes may have counted the request. Our estimate of the exchange's clock and the `Date`
header often leave only one of them. Near a rollover they may leave two, and the count may decide.
"""

from typing import NamedTuple

from binance_oi.budget.ledger import Ledger
from binance_oi.budget.server_clock import MINUTE, ServerClock
from binance_oi.budget.tuning import EDGE
from binance_oi.budget.usage import Receipt


class Attribution(NamedTuple):
    """What an answer proves."""

    minute: int | None
    """The minute that counted the request; None if the answer does not show it."""
    interval: tuple[float, float] | None = None
    """If the count decided the minute: an interval for the exchange's clock minus our clock; see
    `ServerClock`. Otherwise None."""


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
        receipt: The receipt of the request.
        now: When the answer came, monotonic s.
        used: The answer's count; None if it has none.
        date: The answer's `Date`, Unix s; None if it has none or if we do not trust it.
        clock: Our estimate of the exchange's clock.
        ledger: What we know about each minute.
        slack: Weight by which two counts of one minute may differ.
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


def _by_count(receipt: Receipt, used: int, k: int, ledger: Ledger, slack: int) -> int | None:
    """Return which minute a count belongs to: `k` or the next; None if the count does not show it.

    Counts only rise within a minute. So a count that is lower, by more than `slack`, than an
    earlier one of minute `k` belongs to the next minute. A count that is at least as high belongs
    to minute `k` on three conditions. The earlier count exceeds `slack`. Minute `k` is the newest
    one that an answer has proved. And the count exceeds twice our own weight in the next minute by
    more than `slack`, so the next minute does not explain the count.
    """
    before = receipt.reported if receipt.first == k else 0
    if used < before - slack:
        return k + 1
    most_of_next = 2 * ledger.minute(k + 1).booked + slack
    if k == ledger.newest and used >= before > slack and used > most_of_next:
        return k
    return None
