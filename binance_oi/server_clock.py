"""The exchange's clock, as far as we know it: an interval around our own.

Pure, like `minutes`. The rule of this file: monotonic seconds come in, and nobody is asked the
time. Each answer's `Date` narrows the interval, and both ends drift apart until the next one. A
`Date` has a resolution of one second, and the edge server that wrote it may be off by `EDGE`. So
this clock never knows a moment to better than some tenths of a second, and within them only the
count tells which minute it is (`minutes`).
"""

from dataclasses import dataclass

MINUTE = 60  # s
EDGE = 1.5  # s: how far a `Date` header may be from the clock that counts (edge servers differ)
DRIFT = 1e-4  # s per s that two clocks may drift apart
WIDEST = 120.0  # s: a request that took two minutes tells no more
AHEAD = 1.0  # s by which another processor's reading of our clock may be ahead of this one's
ODDEST = 10**9
LATEST = 1e11  # Unix s; the calendar ends with the year 9999


@dataclass(slots=True)
class ServerClock:
    """Unix seconds of the exchange less our monotonic ones: within [lo, hi]."""

    lo: float
    hi: float
    at: float  # monotonic s at which that was so
    dated: bool = True  # False: a guess by our wall clock, until a `Date` comes
    odd: int = 0  # intervals in a row that contradict this one

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
        """Two clocks part a little every second."""
        gap = now - self.at
        self.lo -= DRIFT * gap
        self.hi += DRIFT * gap
        self.at = now

    def interval(self, date: float, sent: float, now: float) -> tuple[float, float]:
        """What the `Date` of an answer says: the earliest and the latest that this clock may be."""
        lo, hi = date - EDGE - now, date + 1 + EDGE - sent
        if not self.dated and hi - lo < MINUTE / 2:
            # Our wall clock was a guess. Kept, it would be wrong by up to `EDGE` unnoticed.
            self.dated = True
            if self._agrees(lo, hi):
                self.lo, self.hi = lo, hi
        return lo, hi

    def narrow(self, lo: float, hi: float) -> bool:
        """One more interval that holds it; False, and nothing learned, when it contradicts."""
        if not self._agrees(lo, hi):
            self.odd += 1
            return False
        self.odd = 0
        if lo > self.lo:
            self.lo = lo
        if hi < self.hi:
            self.hi = hi
        return True

    def start_again(self, lo: float, hi: float) -> None:
        """Forget all but this interval."""
        self.lo, self.hi, self.odd = lo, hi, 0

    def is_possible(self, now: float) -> bool:
        """Whether a clock can be so at `now`: in order, finite, and no wider than `WIDEST`."""
        return (
            0.0 <= self.hi - self.lo <= WIDEST
            and 0.0 <= now + self.lo <= LATEST
            and self.at <= now + AHEAD
            and 0 <= self.odd <= ODDEST
        )

    def _agrees(self, lo: float, hi: float) -> bool:
        return lo <= self.hi and hi >= self.lo
