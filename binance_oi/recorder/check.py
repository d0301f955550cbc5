"""Whether a recording is whole: what is damaged, and what is missing, and why.

The rule of this file: every slot from the first one to the last has a sweep or a gap. A slot with
neither is unaccounted for, and a slot with both is damage. Reading takes constant memory.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import merge
from typing import NamedTuple

from binance_oi.encoding import Encodable
from binance_oi.errors import RecordingError
from binance_oi.recorder.recording import Recording

MAX_NAMED = 20  # stretches that a check names; it counts the others

Known = tuple[int, int, int, bool]
"""First and last slot, period, and whether it is a sweep; in ms."""


class _Check(NamedTuple):
    damage: tuple[str, ...]
    """What cannot be read, or contradicts itself; in words for people."""
    unaccounted: int
    """Slots with neither a sweep nor a gap."""
    stretches: tuple[tuple[int, int], ...]
    """The first stretches of such slots: first and last slot, Unix ms."""
    sweeps: int
    rows: int
    """Samples."""
    missed: tuple[tuple[str, int], ...]
    """Why slots have no sweep, and how many; the most first."""
    failed: tuple[tuple[str, str, int], ...]
    """Symbols that single sweeps lack, why, and how many sweeps; the most first."""
    pruned: int
    """Days of which only a summary is left."""


class Check(_Check, Encodable):
    """What a check of a recording has found."""

    __slots__ = ()

    @property
    def is_whole(self) -> bool:
        """Whether nothing is damaged and nothing is missing."""
        return not (self.damage or self.unaccounted or self.missed or self.failed)


def check(recording: Recording) -> Check:
    """Read a recording as a whole, also while a recorder writes it.

    Raises:
        RecordingError: Not even its sweeps and gaps can be read.
    """
    damage = list(recording.integrity())
    rows = 0
    try:
        for batch in recording.samples().batches():
            rows += len(batch.symbol)
        for _ in recording.past().rows():
            pass
    except RecordingError as error:
        damage.append(str(error))
    schedule = _Schedule()
    schedule.read(merge(_sweeps(recording), _gaps(recording)))
    # Second sweeps of a slot have samples that no sweep counts, and so has a merged recording.
    if rows < schedule.new and not damage and not recording.is_merged:
        damage.append(f"samples that sweeps count and are not there: {schedule.new - rows:,}")
    if schedule.twice:
        damage.append(f"slots with a sweep and a gap: {schedule.twice:,}")
    reasons = Counter[str]()
    for gap, _, slots in recording.counted_gaps():
        reasons[gap.reason] += slots
    return Check(
        tuple(damage),
        schedule.unaccounted,
        tuple(schedule.stretches),
        schedule.sweeps,
        rows,
        tuple((reason, slots) for reason, slots in reasons.most_common() if slots),
        tuple(recording.failures()),
        len({each.day for each in recording.pruned()}),
    )


def _sweeps(recording: Recording) -> Iterator[tuple[Known, int]]:
    for sweep in recording.sweeps():
        yield (sweep.slot, sweep.slot, sweep.period, True), sweep.new


def _gaps(recording: Recording) -> Iterator[tuple[Known, int]]:
    for gap, period, _ in recording.counted_gaps():
        if gap.last >= gap.first:
            yield (gap.first, gap.last, period, False), 0


class _Schedule:
    """Follows the schedule from slot to slot."""

    def __init__(self) -> None:
        self.sweeps = self.new = self.twice = self.unaccounted = 0
        self.stretches: list[tuple[int, int]] = []
        self._end: int | None = None  # the last slot so far
        self._gap: tuple[int, int, int] | None = None  # first, last and period of the latest gap

    def read(self, known: Iterable[tuple[Known, int]]) -> None:
        """Follow everything that is known, in the order of its first slots."""
        for (first, last, period, is_sweep), new in known:
            self._expect(first, period)
            if is_sweep:
                self.sweeps, self.new = self.sweeps + 1, self.new + new
                self.twice += self._is_in_gap(first)
            elif period > 0:
                self._gap = first, last, period
            self._end = last if self._end is None else max(self._end, last)

    def _expect(self, first: int, period: int) -> None:
        """Count the slots between the latest one and `first`."""
        if self._end is None or period <= 0:
            return
        due = (self._end // period + 1) * period
        if first > due:
            self.unaccounted += (first - due + period - 1) // period
            if len(self.stretches) < MAX_NAMED:
                self.stretches.append((due, due + (first - due - 1) // period * period))

    def _is_in_gap(self, slot: int) -> bool:
        if self._gap is None:
            return False
        first, last, period = self._gap
        return first <= slot <= last and (slot - first) % period == 0
