"""How days that are too old leave a recording.

The rule of this file: whole days leave, and a step is short and complete. A day first becomes a
summary, in one transaction: how many slots had a sweep, and why the others had none. Then its
samples go, some thousands at a time. A process that is killed in between leaves samples without
their sweep, which the next run removes; it never leaves a sweep without its samples.

A sample goes if its transaction time and the moment of its answer are both too old: the first sweep
of a day that stays has samples that the exchange dates before midnight.

Instants of the past (`Recording.past`) stay: whoever filled them in wanted them.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from binance_oi.encoding import Encodable
from binance_oi.recorder import coverage
from binance_oi.recorder.slots import move_start, uncover
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
_CROSSING = """
SELECT symbol, first, last, reason, detail, period FROM gaps
WHERE symbol != '' AND first < ?1 AND last >= ?1
"""


class _Pruned(NamedTuple):
    day: int
    """Its beginning, Unix ms."""
    reason: str
    """``swept``, or why the slots had no sweep."""
    slots: int
    last: int
    """The last of these slots, Unix ms."""
    rows: int
    """Samples that belonged to these slots."""


class Pruned(_Pruned, Encodable):
    """What is left of a day that was pruned: the number of its slots, by what became of them."""

    __slots__ = ()


class Keeper(Protocol):
    """Removes and returns space in one store, in short steps."""

    def writing(self) -> AbstractContextManager[Statements]:
        """One transaction."""
        ...

    def now(self) -> int | None:
        """The time of the newest sample, as far as a few symbols say, Unix ms."""
        ...

    def drop_samples(self, before: int) -> bool:
        """Remove some samples before `before`, Unix ms; return whether there may be more."""
        ...

    def compact(self) -> bool:
        """Return some free space to the system; return whether there is more."""
        ...


def end_of(days: int, now: int) -> int:
    """The beginning of the oldest day that stays, Unix ms.

    Args:
        days: Whole days before the day of `now`.
        now: Unix ms.
    """
    return (now // DAY_MS - days) * DAY_MS


class Pruning:
    """Removes what is older than some days from one store, step by step.

    The newest sample says what time it is if the clock is ahead of it: a wrong clock removes
    nothing that should stay.

    Args:
        keeper: The store.
        days: Whole days that stay, besides the current one.
    """

    def __init__(self, keeper: Keeper, days: int) -> None:
        self._keeper, self._days = keeper, days
        self._done = 0  # Unix ms: nothing before it is left

    def step(self, now: int) -> bool:
        """Do one step; return whether there is more to do.

        Args:
            now: Unix ms.
        """
        if end_of(self._days, now) <= self._done:
            return False
        newest = self._keeper.now()
        end = end_of(self._days, now if newest is None else min(now, newest))
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
                return False
            summarize(run, oldest // DAY_MS * DAY_MS)
            return True


def summarize(run: Statements, day: int) -> None:
    """Replace the sweeps and gaps of a day, and of all before it, by a summary of that day.

    Args:
        run: Within a transaction.
        day: Its beginning, Unix ms; the recording has no slot before it.
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
    uncover(run, day, end - 1)
    run.execute(_DELETE_GAPS, (end,))
    for symbol, *gap, period in run.execute(_CROSSING, (end,)).fetchall():
        move_start(run, symbol, gap, period, end)


def clock(times: Sequence[int | None]) -> int | None:
    """The newest of these times; None when there is none."""
    return max((time for time in times if time is not None), default=None)
