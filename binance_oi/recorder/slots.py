"""Looks up a slot in a recording: it has a sweep, a gap, or nothing.

The rule of this file: a slot never has both a sweep and a gap, and a written sweep does not change.
Slots occur a second time when somebody sets the clock back. Then it depends on what the slot has:

    a sweep         it stays; a second sweep only adds its observations
    a gap           a sweep takes its slot out of the gap
    a gap `clock`   a later gap takes its slots out: they were due again, and it has the reason
    nothing         the sweep or the gap is written

A shorter period has slots between those of a gap. When they are missed, the gap gets the shorter
period in that span, and names each slot. A sweep then takes out its own slot alone.

The gaps that we write are disjoint. A file of version 2 may hold gaps that overlap, contain each
other or have several periods. Its rows stay as they are, so nothing here relies on disjoint gaps.

All functions write within the caller's transaction. Their SQL is that of every store.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from binance_oi.market.gap import Gap, gap_reason
from binance_oi.market.snapshot import Snapshot
from binance_oi.recorder.schema import EVERY_SYMBOL
from binance_oi.recorder.statements import Statements, smaller

# The holes in the schedule ?1, ?1 + ?3, ... ?2: spans of slots without a sweep or a gap. A long
# recording has millions of sweeps, so SQL computes the holes, and only they leave the database.
_HOLES = """
WITH known(first, last) AS (
    SELECT ?1 - 1, ?1 - 1 UNION ALL SELECT ?2 + 1, ?2 + 1
    UNION ALL SELECT slot, slot FROM sweeps WHERE slot BETWEEN ?1 AND ?2
    UNION ALL SELECT first, last FROM gaps
        WHERE symbol = '' AND first <= ?2 AND last >= ?1 AND last >= first
), after(first, before) AS (
    SELECT first, max(last) OVER (
        ORDER BY first ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) FROM known
), hole(first, last) AS (
    SELECT ?1 + (before - ?1 + ?3) / ?3 * ?3, ?1 + ((first - 1 - ?1 + ?3) / ?3 - 1) * ?3
    FROM after
)
SELECT first, last FROM hole WHERE first <= last
"""
_SWEPT = """
SELECT count(*) FROM sweeps WHERE slot BETWEEN ?1 AND ?2 AND (slot - ?1) % ?3 = 0
"""
# No lower bound on `first`: a gap that begins long before the span may reach into it.
_COVERING = """
SELECT first, last, period, reason, detail FROM gaps
WHERE symbol = '' AND first <= ?2 AND last >= ?1 AND last >= first
"""
# Gaps whose period is a multiple of ?3, and whose slots are among ?1, ?1 + ?3, ...
_COARSER = """
SELECT first, last, period, reason, detail FROM gaps
WHERE symbol = '' AND first <= ?2 AND last >= ?1 AND last > first
    AND period > ?3 AND period % ?3 = 0 AND (first - ?1) % ?3 = 0
"""
_ANY_SWEEP = "SELECT EXISTS (SELECT 1 FROM sweeps WHERE slot BETWEEN ?1 AND ?2)"
_DELETE = "DELETE FROM gaps WHERE symbol = '' AND first = ?1"
_BEGINS = "SELECT 1 FROM gaps WHERE symbol = ?1 AND first = ?2 AND last >= first"
_INSERT = """
INSERT INTO gaps (symbol, first, last, period, reason, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (symbol, first) DO UPDATE SET last = excluded.last, period = excluded.period,
    reason = excluded.reason, detail = excluded.detail
"""
# A gap may only be extended over slots without a sweep; with another period there may be sweeps.
_EXTEND = """
UPDATE gaps SET last = ?1 WHERE symbol = ?2 AND last = ?3 - ?4 AND reason = ?5 AND period = ?4
    AND first = (SELECT max(first) FROM gaps WHERE symbol = ?2)
    AND NOT EXISTS (SELECT 1 FROM sweeps WHERE slot > ?3 - ?4 AND slot < ?3)
"""
_LAST_SWEEP = "SELECT max(slot) FROM sweeps WHERE slot < ?1"
# A gap `clock` that lasts beyond `before` comes from a clock that was wrong.
_LAST_MISSED = f"""
SELECT max({smaller("last", "?1 - 1")}) FROM gaps
WHERE symbol = '' AND first < ?1 AND last >= first AND (reason != 'clock' OR last < ?1)
"""
_EMPTY = """
INSERT INTO gaps (symbol, first, last, period, reason, detail) VALUES ('', ?1, ?2, ?3, ?4, ?5)
ON CONFLICT DO NOTHING
"""
_LAST_PRUNED = "SELECT max(last) FROM pruned WHERE last < ?1"
_LAST = _LAST_SWEEP, _LAST_MISSED, _LAST_PRUNED
END_OF_TIME = 1 << 62  # Unix ms
_SINCE = """
SELECT symbol, first, last, reason, detail, period FROM gaps WHERE last >= ?1 AND last >= first
ORDER BY first, symbol
"""


def last_slot(connection: Statements, before: int) -> int | None:
    """The last slot before `before` that has a sweep or a gap, or had one before it was pruned."""
    found = [connection.execute(query, (before,)).fetchone()[0] for query in _LAST]
    return max((slot for slot in found if slot is not None), default=None)


def gaps_since(connection: Statements, since: int) -> list[tuple[str, Gap, int]]:
    """See `binance_oi.recorder.sink.Sink.gaps_since`."""
    found = connection.execute(_SINCE, (since,)).fetchall()
    return [(symbol, Gap(*gap), period) for symbol, *gap, period in found]


def write_missed(connection: Statements, gap: Gap, period: int) -> None:
    """Write a gap for those of its slots that have no sweep.

    An empty gap says that the clock was set back. The slots from there to the last known one are a
    gap until their sweeps come, so that the recorder may end at any time.
    """
    written = False
    empty = gap.last < gap.first
    if gap.reason != "clock":
        uncover(connection, gap.first, gap.last, "clock")
    latest = last_slot(connection, END_OF_TIME) if empty else None
    whole = gap._replace(last=latest or gap.last)
    refine(connection, whole, period)
    for part in unknown(connection, whole, period):
        cover(connection, EVERY_SYMBOL, part, period)
        written = True
    if empty and not written:
        write_empty(connection, gap, period)


def write_empty(connection: Statements, gap: Gap, period: int) -> None:
    """Write an empty gap, which says that the clock was set back, unless one begins there."""
    detail = _storable(gap.detail)
    connection.execute(_EMPTY, (gap.first, gap.last, period, gap.reason, detail))


def fail(connection: Statements, sweep: Snapshot, slot: int, period: int) -> None:
    """Write a gap for each symbol that the sweep of `slot` lacks."""
    for symbol, error in sweep.errors.items():
        cover(connection, symbol, Gap(slot, slot, gap_reason(error), str(error)), period)


def unknown(connection: Statements, gap: Gap, period: int) -> Iterator[Gap]:
    """The parts of `gap` whose slots have neither a sweep nor a gap."""
    for first, last in connection.execute(_HOLES, (gap.first, gap.last, period)).fetchall():
        yield gap._replace(first=first, last=last)


def refine(connection: Statements, gap: Gap, period: int) -> None:
    """Give gaps of a longer period, within `gap`, the shorter `period` and all its slots.

    They keep their reasons. A gap over a sweep, which only a file of version 2 has, stays as it is.
    """
    found = connection.execute(_COARSER, (gap.first, gap.last, period)).fetchall()
    for begin, end, longer, why, detail in found:
        old = Gap(begin, end, why, detail)
        first, last = max(begin, gap.first), min(end, gap.last)
        last -= (last - first) % period
        (any_sweep,) = connection.execute(_ANY_SWEEP, (first, last)).fetchone()
        if any_sweep:
            continue
        connection.execute(_DELETE, (begin,))
        for part in _without(old, first, last, longer):
            _insert(connection, "", part, longer)
        _insert(connection, "", old._replace(first=first, last=last), period)


def swept(connection: Statements, gap: Gap, period: int) -> int:
    """The number of slots of `gap` that have a sweep."""
    (count,) = connection.execute(_SWEPT, (gap.first, gap.last, period)).fetchone()
    return int(count)


def cover(connection: Statements, symbol: str, gap: Gap, period: int) -> None:
    """Write a gap, or extend the gap before it when they are adjacent and alike.

    A gap is identified by its first slot. An existing gap with the same first slot stays; the new
    one then begins at the next slot where no gap begins. Only an empty gap, which covers nothing,
    is replaced.
    """
    longer = (gap.last, symbol, gap.first, period, gap.reason)
    if not connection.execute(_EXTEND, longer).rowcount:
        _insert(connection, symbol, gap, period)


def _insert(connection: Statements, symbol: str, gap: Gap, period: int) -> None:
    for first in range(gap.first, gap.last + 1, period):
        if connection.execute(_BEGINS, (symbol, first)).fetchone() is None:
            detail = _storable(gap.detail)
            connection.execute(_INSERT, (symbol, first, gap.last, period, gap.reason, detail))
            return


def _storable(text: str) -> str:
    """Text of an error as every store takes it: without NUL, and in UTF-8."""
    return text.replace("\0", "").encode("utf-8", "backslashreplace").decode()


def uncover(connection: Statements, first: int, last: int, reason: str | None = None) -> None:
    """Take the slots from `first` to `last` out of all gaps, or only out of gaps for `reason`."""
    found = [
        (Gap(begin, end, why, detail), max(1, period))
        for begin, end, period, why, detail in connection.execute(_COVERING, (first, last))
        if reason in (None, why)
    ]
    # Delete all of them first: a remaining part may begin where another gap did.
    for gap, _ in found:
        connection.execute(_DELETE, (gap.first,))
    for gap, period in found:
        for part in _without(gap, first, last, period):
            _insert(connection, "", part, period)


def _without(gap: Gap, first: int, last: int, period: int) -> Iterator[Gap]:
    """The parts of `gap` before `first` and after `last`."""
    before = gap.first + (first - 1 - gap.first) // period * period
    after = gap.first + ((last - gap.first) // period + 1) * period
    if before >= gap.first:
        yield gap._replace(last=before)
    if after <= gap.last:
        yield gap._replace(first=max(after, gap.first))


def move_start(
    connection: Statements, symbol: str, gap: Sequence[Any], period: int, start: int
) -> None:
    """Take the slots before `start` out of a gap of one symbol."""
    old = Gap(*gap)
    connection.execute("DELETE FROM gaps WHERE symbol = ?1 AND first = ?2", (symbol, old.first))
    for part in _without(old, old.first, start - 1, max(1, period)):
        _insert(connection, symbol, part, max(1, period))
