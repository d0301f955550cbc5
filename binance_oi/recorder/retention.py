"""Removes old days from a recording.

The rule of this file: it removes whole days, in short steps, each of which is one transaction. The
first step for a day replaces its sweeps and gaps with a summary: the number of slots with a sweep,
and for each reason the number of slots without one. The next steps remove its samples, some
thousands at a time. If the process is killed between two steps, samples without a sweep remain, and
the next run removes them. A sweep without its samples never remains.

The table `about` has the end of the removed days, if they had slots. So a check knows that the
slots after that end were due, even if none of them has a sweep or a gap.

A step removes a sample only if its transaction time and the time of its answer are both too old.
Otherwise a kept day's first sweep would lose the samples that the exchange dates before midnight.

Rows of the past (`Recording.past`) are never pruned, because the user asked for them. But a
rotating recorder removes them with their file.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from binance_oi.encoding import Encodable
from binance_oi.recorder import coverage
from binance_oi.recorder.slots import move_start, remove_slots
from binance_oi.recorder.statements import Statements

DAY_MS = 86_400_000
STEP_ROWS = 10_000  # samples that one step removes, roughly
SWEPT = "swept"

_OLDEST = """
SELECT min(slot) FROM (
    SELECT min(slot) AS slot FROM sweeps UNION ALL SELECT min(first) FROM gaps
) AS oldest
"""
_KEEP = """
ON CONFLICT (day, reason) DO UPDATE SET slots = pruned.slots + excluded.slots,
    rows = pruned.rows + excluded.rows,
    last = CASE WHEN pruned.last > excluded.last THEN pruned.last ELSE excluded.last END
"""
_SWEPT = f"""
INSERT INTO pruned (day, reason, slots, last, rows)
SELECT CAST(?1 AS BIGINT), '{SWEPT}', count(*), max(slot), CAST(sum(new) AS BIGINT) FROM sweeps
WHERE slot >= ?1 AND slot < ?2 HAVING count(*) > 0
{_KEEP}
"""
_MISSED = f"INSERT INTO pruned (day, reason, slots, last, rows) VALUES (?1, ?2, ?3, ?4, 0) {_KEEP}"
_DELETE_SWEEPS = "DELETE FROM sweeps WHERE slot >= ?1 AND slot < ?2"
_DELETE_GAPS = (
    "DELETE FROM gaps WHERE (symbol != '' AND last < ?1) OR (first < ?1 AND last < first)"
)
# Writes only a later end: a recorder and a command may keep different numbers of days.
PRUNED_UNTIL = """
INSERT INTO about (name, value) VALUES ('pruned until', CAST(CAST(?1 AS BIGINT) AS TEXT))
ON CONFLICT (name) DO UPDATE SET value = excluded.value
WHERE CAST(about.value AS BIGINT) < CAST(excluded.value AS BIGINT)
"""
_CROSSING = """
SELECT symbol, first, last, reason, detail, period FROM gaps
WHERE symbol != '' AND first < ?1 AND last >= ?1
"""


class _Pruned(NamedTuple):
    day: int
    """The beginning of the day, Unix ms."""
    reason: str
    """``swept``, or the reason why the slots had no sweep."""
    slots: int
    """The number of these slots."""
    last: int
    """The last of these slots, Unix ms."""
    rows: int
    """The number of samples that these slots had."""


class Pruned(_Pruned, Encodable):
    """The summary of a pruned day for one reason; a day has one summary for each of its reasons."""

    __slots__ = ()


class Keeper(Protocol):
    """Removes samples from one store, and gives its free space to the system, in short steps."""

    def writing(self) -> AbstractContextManager[Statements]:
        """Return the context manager of one transaction."""
        ...

    def now(self) -> int | None:
        """Return the newest time of a sample that a quick search finds, Unix ms.

        None if there is no sample.
        """
        ...

    def drop_samples(self, before: int) -> bool:
        """Remove some samples before `before`, Unix ms; return whether there may be more."""
        ...

    def compact(self) -> bool:
        """Give some free space back to the system; return whether there may be more."""
        ...


def end_of(days: int, now: int) -> int:
    """Return the beginning of the oldest day to keep, Unix ms.

    Args:
        days: The number of whole days to keep before the day of `now`.
        now: Unix ms.
    """
    return (now // DAY_MS - days) * DAY_MS


class Pruning:
    """Keeps the current day and the `days` before it, and removes older days step by step.

    If the clock is ahead of the newest sample, the time of that sample counts as now. So a wrong
    clock cannot remove days that should stay. We search for that sample once for many steps,
    because the search may be slow: it reads past the index entries of removed samples, which the
    store keeps for a while.

    Args:
        keeper: The store.
        days: The number of whole days to keep, in addition to the current one.
    """

    def __init__(self, keeper: Keeper, days: int) -> None:
        self._keeper, self._days = keeper, days
        self._done = 0  # Unix ms; everything before it has been removed
        self._end = 0  # Unix ms; the steps remove everything before it

    def step(self, now: int) -> bool:
        """Do one step; return whether there is more to do.

        Args:
            now: Unix ms.
        """
        if end_of(self._days, now) <= self._done:
            return False
        if self._end <= self._done:
            newest = self._keeper.now()
            self._end = end_of(self._days, now if newest is None else min(now, newest))
        end = min(self._end, end_of(self._days, now))
        if end <= self._done:
            return False
        if self._summarize_oldest(end) or self._keeper.drop_samples(end):
            return True
        self._done = end
        return False

    def _summarize_oldest(self, end: int) -> bool:
        with self._keeper.writing() as run:
            (oldest,) = run.execute(_OLDEST).fetchone()
            if oldest is None or oldest >= end:
                if run.execute(coverage.PRUNED_UNTIL).fetchone() is not None:
                    run.execute(PRUNED_UNTIL, (end,))
                return False
            summarize(run, oldest // DAY_MS * DAY_MS)
            run.execute(PRUNED_UNTIL, (end,))
            return True


def summarize(run: Statements, day: int) -> None:
    """Replace the sweeps and gaps of the oldest day with a summary.

    Args:
        run: A connection, within a transaction.
        day: The beginning of that day, Unix ms; the recording has no slot before it.
    """
    end = day + DAY_MS
    run.execute(_SWEPT, (day, end))
    slots, last = Counter[str](), dict[str, int]()
    for _, until, reason, _, _, count in run.execute(coverage.COUNTED, (day, end)).fetchall():
        slots[reason] += count
        last[reason] = max(until, last.get(reason, day))
    for reason, count in slots.items():
        if count:
            run.execute(_MISSED, (day, reason, count, last[reason]))
    run.execute(_DELETE_SWEEPS, (day, end))
    remove_slots(run, day, end - 1)
    run.execute(_DELETE_GAPS, (end,))
    for symbol, *gap, period in run.execute(_CROSSING, (end,)).fetchall():
        move_start(run, symbol, gap, period, end)


def clock(times: Sequence[int | None]) -> int | None:
    """Return the newest of these times; None if there is none."""
    return max((time for time in times if time is not None), default=None)
