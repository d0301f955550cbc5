"""Our estimate of the exchange's clock: an interval, relative to our own clock.

Pure. The rule of this file: callers pass monotonic seconds, and this file reads no clock. Each
answer's `Date` narrows the interval, and both ends drift apart until the next one. A `Date` has a
resolution of one second, and the clock of the edge server that wrote it may be wrong by `EDGE`. So
the interval is never narrower than some tenths of a second. Within it, only the count shows which
minute it is (`attribution`).
"""

from dataclasses import dataclass

from binance_oi.budget.tuning import DRIFT, EDGE
from binance_oi.exchange.limits import WEIGHT

MINUTE = WEIGHT.seconds
MAX_WIDTH_S = 120.0  # s: even a request that took two minutes makes no wider interval
CORES_APART_S = 1.0  # s by which another core's reading of our clock may be ahead of this core's
MAX_CONTRADICTIONS = 10**9
MAX_UNIX_S = 1e11  # Unix s; the calendar of `datetime` ends with the year 9999


@dataclass(slots=True)
class ServerClock:
    """The exchange's Unix seconds less our monotonic seconds: between `lo` and `hi`."""

    lo: float
    hi: float
    at: float  # monotonic s at which the interval was right
    dated: bool = True  # False while the interval is a guess by our wall clock
    contradictions: int = 0  # number of intervals in a row that contradicted this one

    @property
    def middle(self) -> float:
        """The likeliest offset."""
        return (self.lo + self.hi) / 2

    @property
    def doubt(self) -> float:
        """Seconds by which `middle` may be wrong."""
        return (self.hi - self.lo) / 2

    def earliest(self, now: float) -> int:
        """The first minute that may be the exchange's current one."""
        return int((now + self.lo) // MINUTE)

    def likeliest(self, now: float) -> int:
        """The exchange's current minute by `middle`."""
        return int((now + (self.lo + self.hi) / 2) // MINUTE)

    def latest(self, now: float) -> int:
        """The last minute that may be the exchange's current one."""
        return int((now + self.hi) // MINUTE)

    def into(self, now: float, minute: int) -> float:
        """Seconds since a minute began, by `middle`; 0 to 60."""
        return min(max(0.0, now + self.middle - MINUTE * minute), float(MINUTE))

    def left(self, now: float, minute: int) -> float:
        """Seconds until a minute ends, by `middle`; 0 if it is over."""
        return max(0.0, MINUTE * (minute + 1) - now - self.middle)

    def drift(self, now: float) -> None:
        """Widen the interval up to `now`: two clocks drift apart."""
        gap = now - self.at
        self.lo -= DRIFT * gap
        self.hi += DRIFT * gap
        self.at = now

    def replace_guess(self, lo: float, hi: float) -> None:
        """Replace the guess by our wall clock with the first `Date`.

        If we kept the guess, an error of up to `EDGE` would stay unnoticed.
        """
        if not self.dated and hi - lo < MINUTE / 2:
            self.dated = True
            if self.agrees(lo, hi):
                self.lo, self.hi = lo, hi

    def narrow(self, lo: float, hi: float) -> bool:
        """Narrow the interval by another one; False, without a change, if the two contradict."""
        if lo > self.hi or hi < self.lo:
            self.contradictions += 1
            return False
        self.contradictions = 0
        if lo > self.lo:
            self.lo = lo
        if hi < self.hi:
            self.hi = hi
        return True

    def start_again(self, lo: float, hi: float) -> None:
        """Forget all but this interval."""
        self.lo, self.hi, self.contradictions = lo, hi, 0

    def is_over(self, until: float, now: float) -> bool:
        """Whether an instant of the exchange's clock is certainly over; always true for 0.0."""
        return until == 0.0 or until <= now + self.lo

    def when_over(self, until: float) -> float:
        """Monotonic s at which an instant of the exchange's clock is certainly over.

        It includes the drift until then; without the drift, a caller would come back too early.
        """
        return (until - self.lo - DRIFT * self.at) / (1.0 - DRIFT)

    def carried(self, until: float, now: float, after: "ServerClock") -> float:
        """Convert an instant of this clock to another clock; 0.0 if it is over.

        By any clock to which `after` may be narrowed, at least as much time is left.
        """
        return 0.0 if self.is_over(until, now) else until - self.lo + after.hi

    def is_possible(self, now: float) -> bool:
        """Whether the values are possible at `now`: ordered, finite, and not too wide."""
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
    """The interval that the `Date` of an answer proves."""
    return date - EDGE - now, date + 1 + EDGE - sent
