"""Estimates the exchange's clock, as an interval relative to our own clock.

Pure. The rule of this file: callers pass monotonic seconds, and this file reads no clock. The
`Date` header of an answer may narrow the interval. Between two answers the interval grows, because
the two clocks drift apart. A `Date` has a resolution of one second, and the clock of the edge
server that wrote it may be wrong by `EDGE`. So `Date`s alone leave an interval of about 3 s. Near a
rollover, two minutes are then possible, and often only a count shows which of them counted a
request. Such a count narrows the interval too (`attribution`).
"""

from dataclasses import dataclass

from binance_oi.budget.tuning import DRIFT, EDGE
from binance_oi.exchange.limits import WEIGHT

MINUTE = WEIGHT.seconds
# A shared record with values beyond these bounds is damaged; see `ServerClock.is_possible`.
MAX_WIDTH_S = 120.0  # s: the interval of an answer has at most 60 s, and drift adds 17 s a day
CORES_APART_S = 1.0  # s by which two processor cores may read the monotonic clock differently
MAX_CONTRADICTIONS = 10**9  # far more than can occur
MAX_UNIX_S = 1e11  # Unix s, in the year 5138: `datetime` can show every earlier time


@dataclass(slots=True)
class ServerClock:
    """The exchange's Unix time is our monotonic time plus `lo` to `hi` seconds."""

    lo: float
    hi: float
    at: float  # monotonic s up to which the interval includes the drift
    dated: bool = True  # False while the interval is a guess from our wall clock
    contradictions: int = 0  # how many intervals of answers in a row contradicted this one

    @property
    def middle(self) -> float:
        """The likeliest difference between the two clocks, in seconds."""
        return (self.lo + self.hi) / 2

    def earliest(self, now: float) -> int:
        """The first minute that may be the exchange's current one."""
        return int((now + self.lo) // MINUTE)

    def likeliest(self, now: float) -> int:
        """The exchange's current minute if `middle` is right."""
        return int((now + (self.lo + self.hi) / 2) // MINUTE)

    def latest(self, now: float) -> int:
        """The last minute that may be the exchange's current one."""
        return int((now + self.hi) // MINUTE)

    def into(self, now: float, minute: int) -> float:
        """Seconds since a minute began if `middle` is right; from 0 to 60."""
        return min(max(0.0, now + self.middle - MINUTE * minute), float(MINUTE))

    def left(self, now: float, minute: int) -> float:
        """Seconds until a minute ends if `middle` is right; 0 if it is over."""
        return max(0.0, MINUTE * (minute + 1) - now - self.middle)

    def drift(self, now: float) -> None:
        """Widen the interval by the drift of the two clocks since the last call."""
        gap = now - self.at
        self.lo -= DRIFT * gap
        self.hi += DRIFT * gap
        self.at = now

    def replace_guess(self, lo: float, hi: float) -> None:
        """Replace the guess from our wall clock with the interval of a `Date`.

        If our wall clock is wrong by a little more than the guess allows, the two intervals still
        overlap. Then their overlap may not contain the exchange's clock, so we keep only the new
        interval. If the two do not overlap, only `dated` changes, and `learning.narrow` replaces
        the guess. The call ignores an interval of half a minute or more.
        """
        if not self.dated and hi - lo < MINUTE / 2:
            self.dated = True
            if self.agrees(lo, hi):
                self.lo, self.hi = lo, hi

    def narrow(self, lo: float, hi: float) -> bool:
        """Narrow the interval to its overlap with another; count a contradiction if there is none.

        Returns:
            Whether the two overlap. If not, this interval stays as it is.
        """
        if lo > self.hi or hi < self.lo:
            self.contradictions += 1
            return False
        self.contradictions = 0
        if lo > self.lo:
            self.lo = lo
        if hi < self.hi:
            self.hi = hi
        return True

    def is_over(self, until: float, now: float) -> bool:
        """Whether an instant, Unix s by the exchange's clock, is certainly over; 0.0 always is."""
        return until == 0.0 or until <= now + self.lo

    def when_over(self, until: float) -> float:
        """Monotonic s at which an instant of the exchange's clock is certainly over.

        Until then the interval still grows by the drift. The result includes that growth, so that a
        caller does not return too early.
        """
        return (until - self.lo - DRIFT * self.at) / (1.0 - DRIFT)

    def convert(self, until: float, now: float, after: "ServerClock") -> float:
        """Convert an instant of this clock to another estimate, `after`; 0.0 if it is over.

        By the new estimate, at least as much time is left as by this one, even after later answers
        narrow the new one.
        """
        return 0.0 if self.is_over(until, now) else until - self.lo + after.hi

    def is_possible(self, now: float) -> bool:
        """Whether another process may have written these values into a shared record.

        They are impossible if an end is not finite, `lo` exceeds `hi`, the interval is too wide,
        `at` is in the future, or the exchange's time or the contradictions are out of bounds.
        """
        return (
            0.0 <= self.hi - self.lo <= MAX_WIDTH_S
            and 0.0 <= now + self.lo <= MAX_UNIX_S
            and self.at <= now + CORES_APART_S
            and 0 <= self.contradictions <= MAX_CONTRADICTIONS
        )

    def agrees(self, lo: float, hi: float) -> bool:
        """Whether both intervals may contain the exchange's clock."""
        return lo <= self.hi and hi >= self.lo


def dated(date: float, sent: float, now: float) -> tuple[float, float]:
    """Return the interval that the `Date` of an answer proves.

    Args:
        date: The `Date`, Unix s.
        sent: When the request was sent, monotonic s.
        now: When the answer came, monotonic s.
    """
    return date - EDGE - now, date + 1 + EDGE - sent
