"""Counters that the real exchange does not use, as far as we know.

Rule of this file: a client can identify the counter only by its counts.
"""

from collections import deque

from binance_oi.simulator.counter import Bans, Others, Verdict, WeightCounter

WINDOW_S = 60.0  # s


class RollingCounter(WeightCounter):
    """Counts the weight of the last 60 s, not of the current minute; see `WeightCounter`."""

    def __init__(
        self, limit: int, *, start: float, used: int, others: Others | None, bans: Bans
    ) -> None:
        super().__init__(limit, start=start, used=used, others=others, bans=bans)
        self._first, self._theirs = start, others
        self._ours = deque([(start, used)])
        self._sum = used

    def used(self, now: float) -> int:
        """The weight that all clients on this IP address used in the 60 s before `now`."""
        while self._ours and self._ours[0][0] <= now - WINDOW_S:
            self._sum -= self._ours.popleft()[1]
        since = max(self._first, now - WINDOW_S)
        return self._sum + (self._theirs.weight(since, now) if self._theirs else 0)

    def count(self, weight: int, now: float) -> Verdict:
        """Count a request that arrives at `now`, and decide whether it is served."""
        verdict = super().count(weight, now)
        self._ours.append((now, weight))
        self._sum += weight
        return verdict
