"""Checks a whole recording for damage and missing slots.

A slot is a time at which a sweep of all symbols was due; a gap names slots without a sweep.

The rule of this file: each slot from the first to the last must have a sweep or a gap, or belong to
a pruned day, which has only a summary. If pruning has removed the first days, the schedule begins
after them. Any other slot is unaccounted for. A slot with both a sweep and a gap is damaged. The
check also reports an unfinished copy into the recording, because the recording may lack slots that
the copy will bring. The memory that a check needs does not grow with the recording.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from typing import NamedTuple

from binance_oi.encoding import Encodable
from binance_oi.errors import RecordingError
from binance_oi.recorder.recording import Recording
from binance_oi.recorder.retention import DAY_MS

MAX_NAMED = 20  # the most stretches of slots that a check names; it counts the slots of all of them

Known = tuple[int, int, int, bool]
"""A sweep or a gap: its first and last slot and its period, in ms, and whether it is a sweep."""


class _Check(NamedTuple):
    damage: tuple[str, ...]
    """The damage: unreadable or contradictory parts, each as text for people."""
    unaccounted: int
    """The number of slots with neither a sweep nor a gap, outside of pruned days."""
    stretches: tuple[tuple[int, int], ...]
    """The first `MAX_NAMED` stretches of such slots, each by its first and last slot, Unix ms."""
    sweeps: int
    """The number of sweeps."""
    rows: int
    """The number of samples."""
    missed: tuple[tuple[str, int], ...]
    """The reasons of gaps, each with its number of slots; the largest number first."""
    failed: tuple[tuple[str, str, int], ...]
    """The symbols that sweeps failed to read: symbol, reason, number of sweeps; the largest number
    first."""
    pruned: int
    """The number of days that have only a summary."""
    copying: str | None
    """The source of an unfinished copy into this recording; None if there is none."""


class Check(_Check, Encodable):
    """The result of a check of a recording."""

    __slots__ = ()

    @property
    def is_whole(self) -> bool:
        """Whether every slot outside of pruned days has a sweep of all symbols, nothing is damaged,
        and no copy is unfinished. A recording without slots and samples is whole too."""
        is_copying = self.copying is not None
        return not (self.damage or self.unaccounted or self.missed or self.failed or is_copying)


def check(recording: Recording) -> Check:
    """Check a whole recording, even while a recorder writes it.

    Raises:
        RecordingError: The sweeps or the gaps cannot be read.
    """
    damage = list(recording.integrity())
    rows, copying = 0, None
    try:
        copying = recording.unfinished_copy()
        for batch in recording.samples().batches():
            rows += len(batch.symbol)
        for _ in recording.past().rows():
            pass
    except RecordingError as error:
        damage.append(str(error))
    pruned = sorted({each.day for each in recording.pruned()})
    schedule = _Schedule(pruned, recording.pruned_until)
    schedule.read(merge(_sweeps(recording), _gaps(recording)))
    # There may be more samples than the sweeps count: a second sweep of a slot adds only samples,
    # and so may a copy. After a copy of a second recording, there may also be fewer.
    if rows < schedule.new and not damage and not recording.is_merged:
        damage.append(f"samples that sweeps count but that are missing: {schedule.new - rows:,}")
    if schedule.twice:
        damage.append(f"slots with a sweep and a gap: {schedule.twice:,}")
    # A copy writes all samples before the sweeps; pruning removes sweeps before samples.
    if rows and not (schedule.has_slots or damage or pruned or copying is not None):
        damage.append(f"samples without a sweep, although no gap gives a reason: {rows:,}")
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
        len(pruned),
        copying,
    )


def _sweeps(recording: Recording) -> Iterator[tuple[Known, int]]:
    for sweep in recording.sweeps():
        yield (sweep.slot, sweep.slot, sweep.period, True), sweep.new


def _gaps(recording: Recording) -> Iterator[tuple[Known, int]]:
    for gap, period, _ in recording.counted_gaps():
        if gap.last >= gap.first:
            yield (gap.first, gap.last, period, False), 0


class _Schedule:
    """Follows the schedule from slot to slot.

    Args:
        pruned: The beginnings of the pruned days.
        begins: The end of the removed days, Unix ms, at which the schedule begins. None if no day
            was removed; then the schedule begins with the first slot.
    """

    def __init__(self, pruned: Sequence[int], begins: int | None) -> None:
        self._pruned, self._begins = pruned, begins
        self.sweeps = self.new = self.twice = self.unaccounted = 0
        self.stretches: list[tuple[int, int]] = []
        self._end: int | None = None  # the last slot so far
        self._gap: tuple[int, int, int] | None = None  # first, last and period of the latest gap

    @property
    def has_slots(self) -> bool:
        """Whether there was any sweep or gap."""
        return self._end is not None

    def read(self, known: Iterable[tuple[Known, int]]) -> None:
        """Follow sweeps and gaps, sorted by their first slots."""
        for (first, last, period, is_sweep), new in known:
            self._expect(first, period)
            if is_sweep:
                self.sweeps, self.new = self.sweeps + 1, self.new + new
                self.twice += self._is_in_gap(first)
            elif period > 0:
                self._gap = first, last, period
            self._end = last if self._end is None else max(self._end, last)

    def _expect(self, first: int, period: int) -> None:
        """Count the slots between the last one so far and `first` as unaccounted for.

        Slots of pruned days do not count.
        """
        end = self._end
        if end is None and self._begins is not None:
            end = self._begins - 1
        if end is None or period <= 0:
            return
        due = (end // period + 1) * period
        if first <= due:
            return
        for day in self._pruned:  # a pruned day lies between two slots only after a copy
            if due < day + DAY_MS and day < first:
                self._leave_out(due, day, period)
                due = -(-(day + DAY_MS) // period) * period
        self._leave_out(due, first, period)

    def _leave_out(self, due: int, end: int, period: int) -> None:
        """Count the slots from `due` (included) to `end` (excluded) as unaccounted for."""
        if end > due:
            self.unaccounted += (end - due + period - 1) // period
            if len(self.stretches) < MAX_NAMED:
                self.stretches.append((due, due + (end - due - 1) // period * period))

    def _is_in_gap(self, slot: int) -> bool:
        if self._gap is None:
            return False
        first, last, period = self._gap
        return first <= slot <= last and (slot - first) % period == 0
