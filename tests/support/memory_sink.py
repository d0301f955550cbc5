"""A sink that stores in memory; most of its methods fail on request.

Rule of this file: it fulfils the protocol `Sink` without SQLite, so tests of a recorder need no
files.
"""

from collections.abc import Callable, Sequence

from binance_oi import Gap, Snapshot, StorageError
from binance_oi.market.rows import InstantRow
from binance_oi.recorder.sink import Saved
from binance_oi.times import unix_ms


class MemorySink:
    """A sink with sweeps by slot, and gaps in the order in which the recorder saved them."""

    def __init__(self) -> None:
        self.sweeps: dict[int, Snapshot] = {}
        self.gaps: list[Gap] = []
        self.period = 0
        self.past: dict[tuple[str, int, int], InstantRow] = {}
        self.calls: list[str] = []
        self.failing: dict[str, str] = {}  # name of a method -> the text of its error
        self.lost = 0
        self.is_claimed = False

    def __str__(self) -> str:
        return "memory"

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failing:
            raise StorageError(self.failing[name])

    def claim(self, clock: Callable[[], float]) -> None:
        self._called("claim")
        self.is_claimed = True

    def open(self) -> None:
        self._called("open")

    def last_slot(self, before: int | None = None) -> int | None:
        self._called("last_slot")
        known = [*self.sweeps, *(gap.last for gap in self.gaps)]
        return max((s for s in known if before is None or s < before), default=None)

    def save(self, sweep: Snapshot | None, gaps: Sequence[Gap], period: int) -> Saved:
        self._called("save")
        self.gaps, self.period = [*self.gaps, *gaps], period
        if sweep is None:
            return Saved(0, 0)
        assert sweep.slot is not None
        self.sweeps.setdefault(unix_ms(sweep.slot), sweep)
        return Saved(len(sweep), 0)

    def save_past(self, rows: Sequence[InstantRow]) -> int:
        self._called("save_past")
        found = {row[:3]: row for row in rows}
        changed = sum(self.past.get(key) != row for key, row in found.items())
        self.past |= found
        return changed

    def past_times(self, symbol: str, source: int, first: int, last: int) -> list[int]:
        self._called("past_times")
        found = (time for name, time, kind in self.past if (name, kind) == (symbol, source))
        return sorted(time for time in found if first <= time <= last)

    def gaps_since(self, since: int) -> list[tuple[str, Gap, int]]:
        self._called("gaps_since")
        found = sorted(gap for gap in self.gaps if gap.last >= max(since, gap.first))
        return [("", gap, self.period) for gap in found]

    def is_due(self) -> bool:
        return True

    def tidy(self) -> None:
        self._called("tidy")

    def take_lost(self) -> int:
        lost, self.lost = self.lost, 0
        return lost

    def close(self) -> None:
        self.calls.append("close")
        self.is_claimed = False
