"""Returns free space of a database to the system, while others record and read.

The rule of this file: nobody waits for longer than one short step. VACUUM shortens a table only
from its end, so the rows there move to free pages before it, some pages at a time; then its indexes
are built anew beside the old ones. A process that is killed at any moment leaves every row, and at
most an unfinished index, which the next run removes.

Source: https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-FOR-SPACE-RECOVERY and
https://www.postgresql.org/docs/current/sql-reindex.html#SQL-REINDEX-CONCURRENTLY, 2026-11.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from binance_oi.errors import StorageError
from binance_oi.recorder import postgres_schema as schema
from binance_oi.recorder.postgres_connection import LOCK_TIMEOUT_MS, Connection

WORTH_BYTES = 1 << 20
PAGES_PER_STEP = 128  # 1 MiB; writers of the table wait for so long
PASSES = 3  # rows may move to another page near the end, or be written there meanwhile
SPARE = 1.2  # of the pages that the rows would fill
PATIENT_MS = 600_000  # for the end of transactions that still see the old indexes; nobody waits
PAGE_SIZE = 8192  # unless the server was built with another one: then goals are too low or high

_NAMES = f"""
SELECT relname::text FROM pg_class WHERE relnamespace = ({schema.NAMESPACE}) AND relkind = 'r'
    AND (relname IN ('sweeps', 'gaps', 'past') OR oid IN (
        SELECT inhrelid FROM pg_inherits JOIN pg_class AS parent ON parent.oid = inhparent
        WHERE parent.relname = 'samples' AND parent.relnamespace = ({schema.NAMESPACE})
    ))
ORDER BY relname
"""
# VACUUM passes over the tables of others without an error.
_IS_OWNER = f"""
SELECT coalesce(bool_and(pg_has_role(relowner, 'USAGE')), true) FROM pg_class
WHERE relnamespace = ({schema.NAMESPACE}) AND relname = 'samples'
"""
# How many bytes a table has, and how many its rows would fill.
_SIZE = f"""
SELECT pg_relation_size(oid), (coalesce((
    SELECT sum(avg_width) + 28 FROM pg_stats WHERE schemaname = current_schema()
        AND tablename = relname
), 0) * greatest(reltuples, 0))::bigint
FROM pg_class WHERE relnamespace = ({schema.NAMESPACE}) AND relkind = 'r' AND relname = ?1
"""
_UNFINISHED = f"""
SELECT index.relname::text FROM pg_index
JOIN pg_class AS index ON index.oid = indexrelid
JOIN pg_class AS of_table ON of_table.oid = indrelid
WHERE of_table.relnamespace = ({schema.NAMESPACE}) AND of_table.relname = ?1
    AND NOT indisvalid AND index.relname ~ '_cc(new|old)[0-9]*$'
"""


class _Size(NamedTuple):
    bytes: int
    needed: int
    """Bytes that the rows would fill."""

    @property
    def is_wasteful(self) -> bool:
        return self.bytes > 2 * self.needed + WORTH_BYTES

    @property
    def goal(self) -> int:
        """The first page that should become free."""
        return int(self.needed * SPARE) // PAGE_SIZE + 16


def compacting(connected: Callable[[], Connection]) -> Iterator[None]:
    """Compact each table of a recording; every step of the iterator is short, or disturbs nobody.

    Args:
        connected: Gives the connection, which is in no transaction.

    Raises:
        RecordingError: The server is out of reach or refuses; of the kind of the connection.
        StorageError: This user does not own the tables.
    """
    with connected().bounded():
        if not connected().execute(_IS_OWNER).fetchone()[0]:
            raise StorageError("only the owner of the tables may return their space")
        connected().execute("SET statement_timeout = 0")  # a step of VACUUM takes what it takes
        names = [name for (name,) in connected().execute(_NAMES).fetchall()]
    for name in names:
        yield from _compacted(connected, name)


def _compacted(connected: Callable[[], Connection], name: str) -> Iterator[None]:
    has_moved = False
    for _ in range(PASSES):
        with connected().translated():
            connected().execute(f"VACUUM (ANALYZE) {name}")
        yield
        size = _size(connected(), name)
        if not size.is_wasteful:
            break
        for _ in _moved(connected, name, size):
            has_moved = True
            yield
    if has_moved:
        with connected().translated():
            connected().execute(f"VACUUM (ANALYZE) {name}")
        yield
    if has_moved or _unfinished(connected(), name):
        _build_indexes(connected(), name)
        yield


def _size(connection: Connection, name: str) -> _Size:
    with connection.bounded():
        row = connection.execute(_SIZE, (name,)).fetchone()
        return _Size(0, 0) if row is None else _Size(*row)  # a prune may have dropped the month


def _moved(connected: Callable[[], Connection], name: str, size: _Size) -> Iterator[None]:
    """Move the rows of the last pages to free ones before them."""
    end = size.bytes // PAGE_SIZE
    while end > size.goal:
        begin = max(size.goal, end - PAGES_PER_STEP)
        connection = connected()
        with connection.bounded(), connection.transaction():
            # Without it, somebody who changes a row while it moves would miss it.
            connection.execute(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE")
            connection.execute(
                f"WITH moved AS (DELETE FROM {name} WHERE ctid >= '({begin},0)'"
                f" AND ctid < '({end},0)' RETURNING *) INSERT INTO {name} SELECT * FROM moved"
            )
        end = begin
        yield


def _unfinished(connection: Connection, name: str) -> list[str]:
    """Indexes that a run has not finished, because it was killed."""
    with connection.bounded():
        return [index for (index,) in connection.execute(_UNFINISHED, (name,)).fetchall()]


def _build_indexes(connection: Connection, name: str) -> None:
    """Build the indexes of a table anew: they keep the pages of rows that are gone."""
    for index in _unfinished(connection, name):
        with connection.translated():
            connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index}")
    with connection.translated():
        connection.execute(f"SET lock_timeout = {PATIENT_MS}")
        try:
            connection.execute(f"REINDEX TABLE CONCURRENTLY {name}")
        finally:
            connection.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
