"""Which minute of the exchange counted a request?

Pure. The rule of this file: it says what an answer proves, and changes nothing. The receipt, our
estimate of the exchange's clock and the `Date` header often leave only one minute that may have
counted the request. Near a rollover they may leave two, and the count may decide.
"""

from binance_oi.budget.knowledge import Known
from binance_oi.budget.server_clock import MINUTE
from binance_oi.budget.tuning import EDGE, SLACK
from binance_oi.budget.usage import Receipt


def attribute(
    known: Known, receipt: Receipt, now: float, used: int | None, date: float | None
) -> tuple[int | None, tuple[float, float] | None]:
    """Say which minute counted a request.

    Args:
        known: What we know of the exchange's clock and of each minute.
        receipt: The receipt of the request.
        now: When the answer came, monotonic s.
        used: The answer's count; None if it has none.
        date: The answer's `Date`, Unix s; None if it has none or if we do not trust it.

    Returns:
        The minute; None if the answer does not show it. And an interval for the exchange's clock
        minus our clock (see `ServerClock`) if the count decided the minute; otherwise None.
    """
    first = max(receipt.first, known.clock.earliest(receipt.sent))
    last = known.clock.latest(now)
    if date is not None:
        first = max(first, int((date - EDGE) // MINUTE))
        last = min(last, int((date + 1 + EDGE) // MINUTE))
    if first == last:
        return first, None
    if used is None or last != first + 1:
        return None, None
    k = _by_count(known, receipt, used, first)
    return k, None if k is None else (MINUTE * k - now, MINUTE * (k + 1) - receipt.sent)


def _by_count(known: Known, receipt: Receipt, used: int, k: int) -> int | None:
    """Return which minute a count belongs to: `k` or the next; None if the count does not show it.

    Counts only rise within a minute. But two nodes may show different counts at one moment; the
    difference is at most a slack, `SLACK` of the limit. So a count that is lower, by more than the
    slack, than an earlier one of minute `k` belongs to the next minute. A count that is at least as
    high belongs to minute `k` on three conditions. The earlier count exceeds the slack. Minute `k`
    is the newest one that an answer has proved. And the count exceeds twice our own weight in the
    next minute by more than the slack, so the next minute does not explain the count.
    """
    before, slack = receipt.reported if receipt.first == k else 0, int(SLACK * known.limit)
    if used < before - slack:
        return k + 1
    most_of_next = 2 * known.ledger.minute(k + 1).booked + slack
    if k == known.ledger.newest and used >= before > slack and used > most_of_next:
        return k
    return None
