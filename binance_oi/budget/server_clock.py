"""The exchange's clock, as far as we know it: an interval around our own.

Pure. The rule of this file: monotonic seconds come in, and nobody is asked the time. Each answer's
`Date` narrows the interval, and both ends drift apart until the next one. A `Date` has a
resolution of one second, and the edge server that wrote it may be off by `EDGE`. So this clock
never knows a moment to better than some tenths of a second. Within them, only the count tells
which minute it is (`attribution`).
"""

from dataclasses import dataclass

from binance_oi.budget.tuning import DRIFT, EDGE
from binance_oi.exchange.limits import WEIGHT

MINUTE = WEIGHT.seconds
WIDEST = 120.0  # s: a request that took two minutes tells no more
AHEAD = 1.0  # s by which another processor's reading of our clock may be ahead of this one's
MOST_CONTRADICTIONS = 10**9
LATEST = 1e11  # Unix s; the calendar ends with the year 9999


@dataclass(slots=True)
class ServerClock:
    """Unix seconds of the exchange less our monotonic ones: within [lo, hi]."""

    lo: float
    hi: float
    at: float  # monotonic s at which that was so
    dated: bool = True  # False: a guess by our wall clock, until a `Date` comes
    contradictions: int = 0  # intervals in a row that contradict this one

    @property
    def middle(self) -> float:
        """The likeliest."""
        return (self.lo + self.hi) / 2

    @property
    def doubt(self) -> float:
        """Seconds by which the middle may be wrong."""
        return (self.hi - self.lo) / 2

    def earliest(self, now: float) -> int:
        """The first minute in which it may be, there."""
        return int((now + self.lo) // MINUTE)

    def likeliest(self, now: float) -> int:
        """The minute in which it is, by the middle."""
        return int((now + (self.lo + self.hi) / 2) // MINUTE)

    def latest(self, now: float) -> int:
        """The last minute in which it may be, there."""
        return int((now + self.hi) // MINUTE)

    def into(self, now: float, minute: int) -> float:
        """Seconds that a minute is old, by the middle; 0 to 60."""
        return min(max(0.0, now + self.middle - MINUTE * minute), float(MINUTE))

    def left(self, now: float, minute: int) -> float:
        """Seconds that a minute has still to go, by the middle."""
        return max(0.0, MINUTE * (minute + 1) - now - self.middle)

    def drift(self, now: float) -> None:
        """Widen the interval: two clocks part a little every second."""
        gap = now - self.at
        self.lo -= DRIFT * gap
        self.hi += DRIFT * gap
        self.at = now

    def replace_guess(self, lo: float, hi: float) -> None:
        """Take the first `Date` instead of our wall clock, which was a guess.

        Kept, the guess would be wrong by up to `EDGE` unnoticed.
        """
        if not self.dated and hi - lo < MINUTE / 2:
            self.dated = True
            if self.agrees(lo, hi):
                self.lo, self.hi = lo, hi

    def narrow(self, lo: float, hi: float) -> bool:
        """Learn one more interval; False, and nothing learned, when it contradicts."""
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
        """Whether an instant of the exchange is over for certain; 0.0 stands for none, and is."""
        return until == 0.0 or until <= now + self.lo

    def when_over(self, until: float) -> float:
        """Monotonic s at which an instant of the exchange is over for certain, by this interval.

        It drifts apart until then: whoever came back without the drift would come too early.
        """
        return (until - self.lo - DRIFT * self.at) / (1.0 - DRIFT)

    def carried(self, until: float, now: float, after: "ServerClock") -> float:
        """An instant of this clock by another clock that contradicts it; 0.0 when it is over.

        It leaves at least as much time by any clock to which the other one may be narrowed.
        """
        return 0.0 if self.is_over(until, now) else until - self.lo + after.hi

    def is_possible(self, now: float) -> bool:
        """Whether a clock can be so at `now`: in order, finite, and no wider than `WIDEST`."""
        return (
            0.0 <= self.hi - self.lo <= WIDEST
            and 0.0 <= now + self.lo <= LATEST
            and self.at <= now + AHEAD
            and 0 <= self.contradictions <= MOST_CONTRADICTIONS
        )

    def agrees(self, lo: float, hi: float) -> bool:
        """Whether both intervals may hold the exchange's clock."""
        return lo <= self.hi and hi >= self.lo


def dated(date: float, sent: float, now: float) -> tuple[float, float]:
    """The interval that the `Date` of an answer proves."""
    return date - EDGE - now, date + 1 + EDGE - sent
