"""Copies one recording into another, which may have rows already.

The rule of this file: existing samples and sweeps of the target stay; a sample or sweep of the
source with the same key is not copied. Only in the table `past`, a row of the source replaces the
numbers of the target. A gap of whole sweeps remains only where neither recording has a sweep. The
summary of a pruned day remains only if neither recording has the slots of that day, so no slot
counts twice. Samples are copied first, then the past, sweeps and gaps. So a killed copy leaves no
sweep without its samples. Each transaction with samples also stores how far the copy is. After a
kill, the next run continues there.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, Protocol, TypeVar

from binance_oi.market.gap import Gap
from binance_oi.market.rows import InstantRow, Row
from binance_oi.recorder import coverage
from binance_oi.recorder.recording import Recording, Sweep
from binance_oi.recorder.retention import DAY_MS, PRUNED_UNTIL, Pruned
from binance_oi.recorder.slots import remove_slots, write_empty, write_gap, write_missed
from binance_oi.recorder.statements import Statements
from binance_oi.recorder.tables import ALL_TIME_MS

ROWS = 20_000  # samples in one transaction
SWEEPS = 2_000  # sweeps in one transaction
END = ALL_TIME_MS[1]

_REMEMBER = """
INSERT INTO about (name, value) VALUES ('copying', ?1)
ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""
_FORGET = "DELETE FROM about WHERE name = 'copying'"
_MERGED = "INSERT INTO about (name, value) VALUES ('merged', 'yes') ON CONFLICT DO NOTHING"
_SOURCE = "INSERT INTO about (name, value) VALUES ('source', ?1) ON CONFLICT DO NOTHING"
_SWEEP = f"""
INSERT INTO sweeps ({", ".join(coverage.SWEEP)}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
ON CONFLICT DO NOTHING
"""
# Finds the slots that have a sweep, but lie within a gap. The copy removes them from the gap.
_TWICE = """
SELECT slot FROM sweeps JOIN gaps ON gaps.symbol = '' AND slot BETWEEN first AND last
WHERE slot BETWEEN ?1 AND ?2
"""
_ANY_SWEEP = "SELECT 1 FROM sweeps LIMIT 1"
_PRUNED = """
INSERT INTO pruned (day, reason, slots, last, rows) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT DO NOTHING
"""
# One recording may have the slots of a day that the other has pruned. `OR EXISTS` is for a day that
# has only gaps.
_COUNTED_TWICE = f"""
DELETE FROM pruned WHERE EXISTS (
    SELECT 1 FROM sweeps WHERE slot >= day AND slot < day + {DAY_MS}
) OR EXISTS (
    SELECT 1 FROM gaps WHERE symbol = '' AND gaps.reason = pruned.reason
        AND first < day + {DAY_MS} AND last >= day AND last >= first
)
"""

_T = TypeVar("_T")


class Target(Protocol):
    """The recording that gets the rows. No recorder writes it meanwhile."""

    def writing(self) -> AbstractContextManager[Statements]:
        """Return the context of one transaction."""
        ...

    def add_samples(self, run: Statements, rows: Sequence[Row], /) -> int:
        """Add samples with new keys; return how many were added."""
        ...

    def add_past(self, run: Statements, rows: Sequence[InstantRow], /) -> int:
        """Add rows of the past, or correct existing ones; return how many changed."""
        ...


def copy_into(target: Target, source: Recording, *, on_rows: Callable[[int], object] = int) -> int:
    """Add all rows of `source` to `target`.

    Args:
        target: A recording of the same exchange.
        source: The recording to copy. A recorder may write it meanwhile; the copy may omit what the
            recorder adds.
        on_rows: Called with the number of samples read since the last call.

    Returns:
        The number of samples that this run added.

    Raises:
        RecordingError: `source` cannot be read.
        StorageError: `target` cannot be written. Call again to continue.
    """
    return _Copy(target, source, on_rows).run()


class _Copy:
    def __init__(self, target: Target, source: Recording, on_rows: Callable[[int], object]) -> None:
        self._target, self._source, self._on_rows = target, source, on_rows

    def run(self) -> int:
        last = self._last_sweep()
        job = {"from": str(self._source), "last": last}
        with self._target.writing() as run:
            row = run.execute(coverage.COPYING).fetchone()
            state: dict[str, Any] = {} if row is None else json.loads(row[0])
            if not self._continues(state):
                state = {**job, "symbol": "", "time": 0}
                self._begin(run)
                _remember(run, state)
        added = self._samples(state)
        self._past()
        until = state["last"][0] if state["last"] else END
        self._sweeps(until)
        self._gaps(until)
        with self._target.writing() as run:
            for each in self._source.pruned():
                run.execute(_PRUNED, tuple(each))
            if (end := self._source.pruned_until) is not None:
                run.execute(PRUNED_UNTIL, (end,))
            run.execute(_COUNTED_TWICE)
            run.execute(_FORGET)
        return added

    def _last_sweep(self) -> list[int] | None:
        """Return when the last sweep of the source was due, and when it ended, Unix ms.

        None if the source has no sweep. The copy omits sweeps that a recorder adds after this call,
        because it may lack their samples.
        """
        span = self._source.span()
        if span is None:
            return None
        found: Sweep | None = None
        for sweep in self._source.sweeps():
            found = sweep
        return None if found is None else [found.slot, found.finished]

    def _continues(self, state: dict[str, Any]) -> bool:
        """Whether the target has an unfinished copy of this recording."""
        if state.get("from") != str(self._source):
            return False
        if state["last"] is None:
            return True
        slot, finished = state["last"]
        return any(s.finished == finished for s in self._source.sweeps((slot, slot + 1)))

    def _begin(self, run: Statements) -> None:
        if self._source.source is not None:
            run.execute(_SOURCE, (self._source.source,))
        if run.execute(_ANY_SWEEP).fetchone() is not None or self._source.is_merged:
            run.execute(_MERGED)
        self._bridge(run)

    def _bridge(self, run: Statements) -> None:
        """If the source has a sweep, write a gap for the time between the two recordings.

        A recording begins with its pruned days, if it has any, although only their summaries are
        left.
        """
        span, found = self._source.span(), run.execute(coverage.SPAN).fetchone()
        sweep = next(self._source.sweeps(), None)
        if span is None or sweep is None or found is None or found[0] is None:
            return
        period, pruned = sweep.period, run.execute(coverage.PRUNED).fetchall()
        begin, end = (round(moment.timestamp() * 1000) for moment in span)
        ours = found[0], found[1], [*map(Pruned._make, pruned)]
        theirs = begin, end, [*self._source.pruned()]
        (_, older_end, _), (newer_begin, _, days) = sorted((ours, theirs))
        newer_begin = _with_pruned(
            newer_begin, [day for day in days if day.day > older_end], period
        )
        first, last = (older_end // period + 1) * period, newer_begin - period
        if first <= last:
            write_missed(run, Gap(first, last, "stopped", "no recorder was running"), period)

    def _samples(self, state: dict[str, Any]) -> int:
        added = 0
        for symbol in self._source.symbols():
            if symbol < state["symbol"]:
                continue
            since = state["time"] + 1 if symbol == state["symbol"] else ALL_TIME_MS[0]
            rows = self._source.selection([symbol], (since, END)).rows()
            for some in _chunks(rows, ROWS):
                with self._target.writing() as run:
                    added += self._target.add_samples(run, some)
                    _remember(run, {**state, "symbol": symbol, "time": some[-1][1]})
                self._on_rows(len(some))
        return added

    def _past(self) -> None:
        for some in _chunks(self._source.past().rows(), ROWS):
            with self._target.writing() as run:
                self._target.add_past(run, some)

    def _sweeps(self, until: int) -> None:
        gaps = self._failures()
        for some in _chunks(self._source.sweeps((-END, until + 1)), SWEEPS):
            with self._target.writing() as run:
                added = {s.slot for s in some if run.execute(_SWEEP, tuple(s)).rowcount == 1}
                first, last = some[0].slot, some[-1].slot
                for (slot,) in run.execute(_TWICE, (first, last)).fetchall():
                    remove_slots(run, slot, slot)
                for symbol, gap, period in gaps:
                    for part in _within(gap, period, first, last, added):
                        write_gap(run, symbol, part, period)

    def _failures(self) -> list[tuple[str, Gap, int]]:
        """Return the gaps of single symbols."""
        return [each for each in self._source.periods() if each[0]]

    def _gaps(self, until: int) -> None:
        gaps = [(gap, period) for symbol, gap, period in self._source.periods() if not symbol]
        for some in _chunks(iter(gaps), SWEEPS):
            with self._target.writing() as run:
                for gap, period in some:
                    if gap.first > until and until != END:
                        continue
                    if gap.last < gap.first:
                        write_empty(run, gap, period)
                    else:
                        write_missed(run, gap, period)


def _remember(run: Statements, state: dict[str, Any]) -> None:
    run.execute(_REMEMBER, (json.dumps(state, ensure_ascii=False),))


def _with_pruned(begin: int, pruned: Sequence[Pruned], period: int) -> int:
    """Return the first slot of a recording, counting its pruned days; `begin` if it has none.

    The summaries of a day contain its last slot and the number of its slots. So the result is exact
    if the first of these days has only one period, and each of its slots has a sweep or a gap.
    """
    if not pruned:
        return begin
    day = [row for row in pruned if row.day == min(row.day for row in pruned)]
    first = max(row.last for row in day) - (sum(row.slots for row in day) - 1) * period
    return max(day[0].day, first)


def _within(gap: Gap, period: int, first: int, last: int, slots: set[int]) -> Iterator[Gap]:
    """Yield the parts of a gap between `first` and `last` that consist of slots in `slots`."""
    if gap.last < first or gap.first > last or period <= 0:
        return
    begin = gap.first + max(0, -(-(first - gap.first) // period)) * period
    part: Gap | None = None
    for slot in range(begin, min(gap.last, last) + 1, period):
        if slot not in slots:
            if part is not None:
                yield part
            part = None
        else:
            part = gap._replace(first=slot, last=slot) if part is None else part._replace(last=slot)
    if part is not None:
        yield part


def _chunks(items: Iterator[_T], size: int) -> Iterator[list[_T]]:
    while some := list(islice(items, size)):
        yield some
