"""Returns free space of a database to the system, while other programs record and read.

The rule of this file: no other program waits longer than one short step. VACUUM shortens a table
only by free pages at its end. So we move the rows of the last pages to free pages before them, some
pages at a time. Then PostgreSQL builds new indexes beside the old ones. If the process is killed,
no row is lost. At most, an unfinished index stays, and the next run removes it.

Source: https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-FOR-SPACE-RECOVERY and
https://www.postgresql.org/docs/current/sql-reindex.html#SQL-REINDEX-CONCURRENTLY, 2026-11.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from binance_oi.errors import StorageError
from binance_oi.recorder import postgres_schema as schema
from binance_oi.recorder.postgres_connection import LOCK_TIMEOUT_MS, Connection

# We compact a table if it is larger than twice the size that its rows need, plus this.
WORTH_BYTES = 1 << 20
PAGES_PER_STEP = 128  # 1 MiB; a writer of the table waits until one step has moved these pages
# After a pass, some rows may still be near the end: the server may have moved a row to another page
# there, or a recorder may have written new rows there meanwhile.
PASSES = 3
SPARE = 1.2  # the goal is a table of this many times the pages that its rows would fill
# How long REINDEX waits for transactions that still use the old indexes. It blocks no other program
# meanwhile.
PATIENT_MS = 600_000
PAGE_SIZE = 8192  # bytes, PostgreSQL's default; with another page size, goals are too low or high

_NAMES = f"""
SELECT relname::text FROM pg_class WHERE relnamespace = ({schema.NAMESPACE}) AND relkind = 'r'
    AND (relname IN ('sweeps', 'gaps', 'past') OR oid IN (
        SELECT inhrelid FROM pg_inherits JOIN pg_class AS parent ON parent.oid = inhparent
        WHERE parent.relname = 'samples' AND parent.relnamespace = ({schema.NAMESPACE})
    ))
ORDER BY relname
"""
# VACUUM skips the tables of other owners without an error, so we check the owner first.
_IS_OWNER = f"""
SELECT coalesce(bool_and(pg_has_role(relowner, 'USAGE')), true) FROM pg_class
WHERE relnamespace = ({schema.NAMESPACE}) AND relname = 'samples'
"""
# How many bytes a table has, and how many bytes its rows would fill without free space.
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
    """How many bytes the rows would fill without free space."""

    @property
    def is_wasteful(self) -> bool:
        return self.bytes > 2 * self.needed + WORTH_BYTES

    @property
    def goal(self) -> int:
        """The number of the first page that should become free."""
        return int(self.needed * SPARE) // PAGE_SIZE + 16


def compacting(connected: Callable[[], Connection]) -> Iterator[None]:
    """Compact each table of a recording; one `next` on the iterator is one step.

    A step that moves rows blocks writers of the table, but is short. A step that runs VACUUM or
    REINDEX may take minutes, but other programs read and write meanwhile.

    Args:
        connected: Returns the connection, which must not be in a transaction.

    Raises:
        RecordingError: The server is out of reach, or refuses. The exact class is the `failure` of
            the connection.
        StorageError: This user does not own the tables.
    """
    with connected().bounded():
        if not connected().execute(_IS_OWNER).fetchone()[0]:
            raise StorageError("only the owner of the tables may return their space")
        # VACUUM may take longer than a timeout that the user has set for ordinary statements.
        connected().execute("SET statement_timeout = 0")
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
        return _Size(0, 0) if row is None else _Size(*row)  # a pruning may have dropped the table


def _moved(connected: Callable[[], Connection], name: str, size: _Size) -> Iterator[None]:
    """Move the rows of the last pages to free pages before them, one step for each `next`."""
    end = size.bytes // PAGE_SIZE
    while end > size.goal:
        begin = max(size.goal, end - PAGES_PER_STEP)
        connection = connected()
        with connection.bounded(), connection.transaction():
            # We delete a row and insert it elsewhere. Without the lock, an UPDATE that another
            # program runs at this moment would find the row deleted, and would change nothing.
            connection.execute(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE")
            connection.execute(
                f"WITH moved AS (DELETE FROM {name} WHERE ctid >= '({begin},0)'"
                f" AND ctid < '({end},0)' RETURNING *) INSERT INTO {name} SELECT * FROM moved"
            )
        end = begin
        yield


def _unfinished(connection: Connection, name: str) -> list[str]:
    """Return the names of unfinished indexes, which a killed run left."""
    with connection.bounded():
        return [index for (index,) in connection.execute(_UNFINISHED, (name,)).fetchall()]


def _build_indexes(connection: Connection, name: str) -> None:
    """Build the indexes of a table anew. The old ones keep the pages of deleted rows."""
    for index in _unfinished(connection, name):
        with connection.translated():
            connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index}")
    with connection.translated():
        connection.execute(f"SET lock_timeout = {PATIENT_MS}")
        try:
            connection.execute(f"REINDEX TABLE CONCURRENTLY {name}")
        finally:
            connection.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
