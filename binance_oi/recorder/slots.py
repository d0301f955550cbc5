"""Writes the slots of a recording: each one has a sweep, a gap, or nothing.

The rule of this file: no slot has both a sweep and a gap of whole sweeps, and a written sweep never
changes. (A gap of one symbol is different: it names a sweep that could not read the symbol.) A slot
occurs a second time if someone sets the clock back. The second outcome then changes the slot as
follows:

    slot has        second outcome: sweep                 second outcome: gap
    a sweep         the sweep stays, the samples are      the sweep stays
                    added
    a gap           the gap loses this slot               the gap stays
    a gap `clock`   the gap loses this slot               the later gap, with the real reason,
                                                          replaces it there
    nothing         the sweep is written                  the gap is written

A recorder writes a gap with the reason `clock` for slots past which someone set the clock forward.
If someone sets the clock back, the recorder writes an empty gap, whose `last` is before its
`first`.

A recorder with a shorter period has slots between the slots of an older gap. If the recorder misses
these slots too, that part of the gap gets the shorter period, and so contains them. A later sweep
removes only its own slot from the gap.

The gaps that we write are disjoint. A file of version 2 may contain gaps that overlap, contain each
other or have several periods. A migration keeps them, so no function here relies on disjoint gaps.

All functions write within the caller's transaction. Their SQL works in SQLite and in PostgreSQL.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from binance_oi.market.gap import Gap, gap_reason
from binance_oi.market.snapshot import Snapshot
from binance_oi.recorder.schema import EVERY_SYMBOL
from binance_oi.recorder.statements import Statements, smaller

# Finds the holes among the slots ?1, ?1 + ?3, ... ?2: spans of slots without a sweep or a gap. A
# long recording has millions of sweeps, so the database itself finds the few holes.
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
# Finds gaps whose period is a multiple of ?3, and whose slots are among ?1, ?1 + ?3, ...
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
# Extends a gap only if no sweep lies between the gap and the new slots: a recorder with another
# period may have written a sweep there.
_EXTEND = """
UPDATE gaps SET last = ?1 WHERE symbol = ?2 AND last = ?3 - ?4 AND reason = ?5 AND period = ?4
    AND first = (SELECT max(first) FROM gaps WHERE symbol = ?2)
    AND NOT EXISTS (SELECT 1 FROM sweeps WHERE slot > ?3 - ?4 AND slot < ?3)
"""
_LAST_SWEEP = "SELECT max(slot) FROM sweeps WHERE slot < ?1"
# This omits a gap with the reason `clock` that ends at ?1 or later: it comes from a wrong clock.
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
    """Return the last slot before `before` (Unix ms) with a sweep or a gap, or None.

    Slots of pruned days count too. A gap with the reason `clock` that ends at `before` or later
    does not count.
    """
    found = [connection.execute(query, (before,)).fetchone()[0] for query in _LAST]
    return max((slot for slot in found if slot is not None), default=None)


def gaps_since(connection: Statements, since: int) -> list[tuple[str, Gap, int]]:
    """See `binance_oi.recorder.sink.Sink.gaps_since`."""
    found = connection.execute(_SINCE, (since,)).fetchall()
    return [(symbol, Gap(*gap), period) for symbol, *gap, period in found]


def write_missed(connection: Statements, gap: Gap, period: int) -> None:
    """Write those slots of a gap that have neither a sweep nor a gap yet.

    If the reason of `gap` is not `clock`, its slots are first removed from stored gaps with that
    reason. If `gap` is empty, someone set the clock back. Then this function extends `gap` to the
    last known slot, and each later sweep removes its own slot from the gap. So no slot is left out,
    even if the recorder stops before that last slot.
    """
    written = False
    empty = gap.last < gap.first
    if gap.reason != "clock":
        remove_slots(connection, gap.first, gap.last, "clock")
    latest = last_slot(connection, END_OF_TIME) if empty else None
    whole = gap._replace(last=latest or gap.last)
    shorten_periods(connection, whole, period)
    for part in unrecorded(connection, whole, period):
        write_gap(connection, EVERY_SYMBOL, part, period)
        written = True
    if empty and not written:
        write_empty(connection, gap, period)


def write_empty(connection: Statements, gap: Gap, period: int) -> None:
    """Write an empty gap, unless another gap begins at its first slot.

    An empty gap marks that someone set the clock back.
    """
    detail = _storable(gap.detail)
    connection.execute(_EMPTY, (gap.first, gap.last, period, gap.reason, detail))


def write_failures(connection: Statements, sweep: Snapshot, slot: int, period: int) -> None:
    """Write a gap for each symbol that the sweep of `slot` could not read."""
    for symbol, error in sweep.errors.items():
        write_gap(connection, symbol, Gap(slot, slot, gap_reason(error), str(error)), period)


def unrecorded(connection: Statements, gap: Gap, period: int) -> Iterator[Gap]:
    """Yield the parts of `gap` whose slots have neither a sweep nor a gap yet."""
    for first, last in connection.execute(_HOLES, (gap.first, gap.last, period)).fetchall():
        yield gap._replace(first=first, last=last)


def shorten_periods(connection: Statements, gap: Gap, period: int) -> None:
    """Within the span of `gap`, give stored gaps of a longer period the shorter `period`.

    These gaps then contain all slots of the shorter period, and keep their reasons. A gap changes
    only if its slots are slots of the shorter period too. A stored gap that contains a sweep there
    does not change; only files of version 2 have such gaps.
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


def count_swept(connection: Statements, gap: Gap, period: int) -> int:
    """Return how many slots of `gap` have a sweep."""
    (count,) = connection.execute(_SWEPT, (gap.first, gap.last, period)).fetchone()
    return int(count)


def write_gap(connection: Statements, symbol: str, gap: Gap, period: int) -> None:
    """Write a gap, or extend the gap just before it if both have the same reason and period.

    The table has at most one gap for each symbol and first slot. If a gap begins at the same slot
    already, it stays, and the new one begins at the next slot where no gap begins. Only an empty
    gap is replaced, because it has no slots.
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
    """Return the text of an error in a form that every store accepts: valid UTF-8 without NUL."""
    return text.replace("\0", "").encode("utf-8", "backslashreplace").decode()


def remove_slots(connection: Statements, first: int, last: int, reason: str | None = None) -> None:
    """Remove the slots from `first` to `last` from all gaps of whole sweeps.

    With a `reason`, only gaps with that reason lose slots.
    """
    found = [
        (Gap(begin, end, why, detail), max(1, period))
        for begin, end, period, why, detail in connection.execute(_COVERING, (first, last))
        if reason in (None, why)
    ]
    # Delete all these gaps before writing what remains of them. A remaining part may begin at the
    # slot of a deleted gap.
    for gap, _ in found:
        connection.execute(_DELETE, (gap.first,))
    for gap, period in found:
        for part in _without(gap, first, last, period):
            _insert(connection, "", part, period)


def _without(gap: Gap, first: int, last: int, period: int) -> Iterator[Gap]:
    """Yield the parts of `gap` before `first` and after `last`."""
    before = gap.first + (first - 1 - gap.first) // period * period
    after = gap.first + ((last - gap.first) // period + 1) * period
    if before >= gap.first:
        yield gap._replace(last=before)
    if after <= gap.last:
        yield gap._replace(first=max(after, gap.first))


def move_start(
    connection: Statements, symbol: str, gap: Sequence[Any], period: int, start: int
) -> None:
    """Remove the slots before `start` from a gap of one symbol."""
    old = Gap(*gap)
    connection.execute("DELETE FROM gaps WHERE symbol = ?1 AND first = ?2", (symbol, old.first))
    for part in _without(old, old.first, start - 1, max(1, period)):
        _insert(connection, symbol, part, max(1, period))
