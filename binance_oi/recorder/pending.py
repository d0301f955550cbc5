"""The queue of sweeps and gaps that polling has produced and the recorder has yet to store.

The rule of this file: the queue keeps the order in which sweeps and gaps came, and has each once. A
sweep waits in memory while the store cannot be written. If the oldest sweep has waited too long, or
if the sweeps together take too much memory, the queue drops the oldest one, and puts a gap with the
reason `storage` in its place. It never drops a gap.
"""

from collections import deque
from dataclasses import dataclass, field

from binance_oi.market.gap import Gap, add_gap
from binance_oi.market.snapshot import Snapshot
from binance_oi.times import unix_ms

KEPT_FOR_S = 600.0  # s that a sweep may wait
KEPT_BYTES = 64 * 1024 * 1024  # bytes that all sweeps together may take
# Bytes of memory of one object, measured with tracemalloc on CPython 3.11 and rounded up.
SNAPSHOT_BYTES, VALUE_BYTES, MARK_BYTES, ERROR_BYTES = 2048, 512, 320, 2048


@dataclass(slots=True)
class Unit:
    """The content of one transaction: a sweep, and the gaps before it."""

    gaps: list[Gap] = field(default_factory=list[Gap])
    sweep: Snapshot | None = None
    since: float = 0.0
    """When the sweep came, in seconds of the caller's clock."""
    bytes: int = 0
    """The memory of the sweep, roughly; 0 without a sweep."""


def size(sweep: Snapshot) -> int:
    """Return the memory of a sweep in bytes, roughly."""
    return (
        SNAPSHOT_BYTES
        + VALUE_BYTES * len(sweep)
        + MARK_BYTES * len(sweep.mark_prices)
        + ERROR_BYTES * len(sweep.errors)
    )


class Pending:
    """A queue of sweeps and gaps, in the order of arrival. Its length is the number of sweeps.

    Args:
        period: From slot to slot, ms.
    """

    def __init__(self, period: int) -> None:
        self.period: int = period
        """From slot to slot, ms. Change it only while the queue is empty."""
        self._units = deque([Unit()])  # each has a sweep, except the last one
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._units) - 1

    def add(self, outcome: Snapshot | Gap, now: float) -> None:
        """Append the outcome of a slot.

        Args:
            outcome: A sweep or a gap.
            now: Seconds of a monotonic clock.
        """
        unit = self._units[-1]
        if isinstance(outcome, Gap):
            add_gap(unit.gaps, outcome, self.period)
            return
        unit.sweep, unit.since, unit.bytes = outcome, now, size(outcome)
        self._bytes += unit.bytes
        self._units.append(Unit())

    def take(self) -> Unit | None:
        """Remove and return the oldest sweep with the gaps before it.

        Without a sweep, return the gaps alone; with neither, None.
        """
        unit = self._units.popleft()
        self._bytes -= unit.bytes
        if unit.sweep is None:
            self._units.append(Unit())
        return unit if unit.sweep is not None or unit.gaps else None

    def put_back(self, unit: Unit) -> None:
        """Put a unit back at the front, because its write failed."""
        if unit.sweep is not None:
            self._units.appendleft(unit)
            self._bytes += unit.bytes
        else:
            self._prepend(unit.gaps)

    def give_up(self, now: float, why: str) -> int:
        """Replace the oldest sweeps with gaps, until none is too old and the others fit in memory.

        Return how many sweeps were replaced.

        Args:
            now: Seconds of the same clock as in `add`.
            why: The reason, for the text of the gaps.
        """
        given_up = 0
        while len(self) and self._is_over(self._units[0], now):
            self._give_up_oldest(why)
            given_up += 1
        return given_up

    def give_up_all(self, why: str) -> int:
        """Replace all sweeps with gaps; return how many."""
        given_up = len(self)
        while len(self):
            self._give_up_oldest(why)
        return given_up

    def _is_over(self, oldest: Unit, now: float) -> bool:
        return now - oldest.since > KEPT_FOR_S or self._bytes > KEPT_BYTES

    def _give_up_oldest(self, why: str) -> None:
        unit = self._units.popleft()
        self._bytes -= unit.bytes
        assert unit.sweep is not None
        assert unit.sweep.slot is not None
        slot = unix_ms(unit.sweep.slot)
        add_gap(unit.gaps, Gap(slot, slot, "storage", why), self.period)
        self._prepend(unit.gaps)

    def _prepend(self, gaps: list[Gap]) -> None:
        """Put `gaps` before the gaps of the oldest unit."""
        oldest = self._units[0]
        later, oldest.gaps = oldest.gaps, gaps
        for gap in later:
            add_gap(oldest.gaps, gap, self.period)
