"""What a recording knows of a slot: a sweep, a gap, or nothing.

The rule of this file: a slot has one of the two and never both, and a sweep stays as it was
written. Slots come a second time when somebody sets the clock back. What a slot has then decides:

    a sweep         it stays; the second one adds its observations only
    a gap           a sweep takes its slot out of the gap
    a gap `clock`   a later gap takes its slots out of it: now they were due, and it says why
    nothing         what comes is written

All functions write within the transaction of the caller.
"""

import sqlite3
from collections.abc import Iterator

from binance_oi.snapshot import Gap

# Slots of the schedule ?1, ?1 + ?3, ... ?2 between what is known, from one to the next. A long
# recording has millions of sweeps: only the holes leave the database.
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
# Gaps do not overlap, so one that reaches into a span begins in it, or is the last one before it.
_COVERING = """
SELECT first, last, period, reason, detail FROM gaps
WHERE symbol = '' AND last >= first AND last >= ?1 AND first <= ?2 AND first >= coalesce(
    (SELECT max(first) FROM gaps WHERE symbol = '' AND last >= first AND first <= ?1), ?1
)
"""
_DELETE = "DELETE FROM gaps WHERE symbol = '' AND first = ?"
_INSERT = "INSERT OR REPLACE INTO gaps VALUES ('', ?, ?, ?, ?, ?)"


def unknown(connection: sqlite3.Connection, gap: Gap, period: int) -> Iterator[Gap]:
    """The parts of `gap` of whose slots nothing is known."""
    for first, last in connection.execute(_HOLES, (gap.first, gap.last, period)).fetchall():
        yield gap._replace(first=first, last=last)


def swept(connection: sqlite3.Connection, gap: Gap, period: int) -> int:
    """How many slots of `gap` have a sweep."""
    (count,) = connection.execute(_SWEPT, (gap.first, gap.last, period)).fetchone()
    return int(count)


def uncover(
    connection: sqlite3.Connection, first: int, last: int, reason: str | None = None
) -> None:
    """Take the slots from `first` to `last` out of the gaps; only out of those for `reason`."""
    for row in connection.execute(_COVERING, (first, last)).fetchall():
        gap, period = Gap(row[0], row[1], row[3], row[4]), int(row[2])
        if reason is None or gap.reason == reason:
            connection.execute(_DELETE, (gap.first,))
            for part in _without(gap, first, last, period):
                connection.execute(_INSERT, (part.first, part.last, period, *part[2:]))


def _without(gap: Gap, first: int, last: int, period: int) -> Iterator[Gap]:
    """What is left of `gap` before `first`, and after `last`."""
    before = gap.first + (first - 1 - gap.first) // period * period
    after = gap.first + ((last - gap.first) // period + 1) * period
    if before >= gap.first:
        yield gap._replace(last=before)
    if after <= gap.last:
        yield gap._replace(first=max(after, gap.first))
