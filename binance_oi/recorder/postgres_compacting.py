"""Gives free space of a database to the system, while other programs record and read.

The rule of this file: no other program waits longer than one short step. VACUUM shortens a table
only if the pages at its end are free. So we move the rows of the last pages to free pages before
them, some pages at a time. Then PostgreSQL builds new indexes beside the old ones. If the process
is killed, no row is lost. At most, an unfinished index stays, and the next run removes it.

PostgreSQL chooses the page of a moved row, and may choose a free page near the end. So one pass may
not be enough. A pass that finds no free page before the end stops, because more moves would make
the table longer.

Source: https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-FOR-SPACE-RECOVERY and
https://www.postgresql.org/docs/current/sql-reindex.html#SQL-REINDEX-CONCURRENTLY, 2026-11.
"""

import logging
from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

from binance_oi.errors import RecordingError, StorageError
from binance_oi.recorder import postgres_schema as schema
from binance_oi.recorder.postgres_connection import LOCK_TIMEOUT_MS, Connection
from binance_oi.recorder.postgres_vacuum import Patience, shorten, vacuum

logger: logging.Logger = logging.getLogger("binance_oi")

# Bytes. We compact a table if it is larger than twice the size that its rows need, plus this. If
# its indexes are larger than that, we build them anew; they need less space than the rows.
WORTH_BYTES = 1 << 20
PAGES_PER_STEP = 128  # 1 MiB; a writer of the table waits until one step has moved these pages
# Passes over a table, at most. After a pass, some rows may still be near the end: the server may
# have moved a row to another page there, or a recorder may have written new rows there meanwhile.
# Each pass leaves fewer pages near the end.
PASSES = 10
SPARE = 1.2  # the goal is a table of this many times the pages that its rows would fill
MISSES = 3  # after this many steps that made the table longer, we assume that no page is free
# s that we wait, in all, for transactions of other programs. We block no other program meanwhile.
PATIENT_S = 600.0
PAGE_SIZE = 8192  # bytes, PostgreSQL's default; with another page size, goals are too low or high

_UNDIVIDED = ("sweeps", "gaps", "past")  # the tables without partitions
_NAMES = f"""
SELECT relname::text FROM pg_class WHERE relnamespace = ({schema.NAMESPACE}) AND relkind = 'r'
    AND (relname IN {_UNDIVIDED} OR oid IN (
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
# Finds the bytes of a table, the bytes that its rows would fill without free space, and the bytes
# of its indexes.
_SIZE = f"""
SELECT pg_relation_size(oid), (coalesce((
    SELECT sum(avg_width) + 28 FROM pg_stats WHERE schemaname = current_schema()
        AND tablename = relname
), 0) * greatest(reltuples, 0))::bigint, pg_indexes_size(oid)
FROM pg_class WHERE relnamespace = ({schema.NAMESPACE}) AND relkind = 'r' AND relname = ?1
"""
# Moves the rows of the pages from {1} until {2} (excluded). Returns the number of moved rows, and
# the highest page that got one of them.
_MOVE = """
WITH moved AS (DELETE FROM {0} WHERE ctid >= '({1},0)' AND ctid < '({2},0)' RETURNING *),
    placed AS (INSERT INTO {0} SELECT * FROM moved RETURNING ctid)
SELECT count(*), coalesce((max(ctid)::text::point)[0], 0)::bigint FROM placed
"""
# Finds the indexes of a table, and whether each is finished.
_INDEXES = f"""
SELECT index.relname::text, indisvalid FROM pg_index
JOIN pg_class AS index ON index.oid = indexrelid
JOIN pg_class AS of_table ON of_table.oid = indrelid
WHERE of_table.relnamespace = ({schema.NAMESPACE}) AND of_table.relname = ?1
    AND (indisvalid OR index.relname ~ '_cc(new|old)[0-9]*$')
ORDER BY indisvalid
"""


class _Size(NamedTuple):
    bytes: int
    needed: int
    """How many bytes the rows would fill without free space."""
    indexes: int
    """Bytes of the indexes."""

    @property
    def is_wasteful(self) -> bool:
        return self.bytes > 2 * self.needed + WORTH_BYTES

    @property
    def has_wasteful_indexes(self) -> bool:
        return self.indexes > 2 * self.needed + WORTH_BYTES

    @property
    def end(self) -> int:
        """The number of pages."""
        return self.bytes // PAGE_SIZE

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
        # The user may have set a timeout for ordinary statements. VACUUM may take longer.
        connected().execute("SET statement_timeout = 0")
        names = [name for (name,) in connected().execute(_NAMES).fetchall()]
    patience = Patience(PATIENT_S)
    for name in names:
        try:
            yield from _compacted(connected, name, patience)
        except RecordingError:
            if _exists(connected(), name):  # otherwise a pruning has dropped the table
                raise
    if patience.is_over:
        logger.warning("%s may keep free space: a transaction lasts too long", connected())


def _exists(connection: Connection, name: str) -> bool:
    with connection.bounded():
        return bool(connection.execute("SELECT to_regclass(?1) IS NOT NULL", (name,)).fetchone()[0])


def _compacted(
    connected: Callable[[], Connection], name: str, patience: Patience
) -> Iterator[None]:
    vacuum(connected(), name)
    yield
    has_moved, size = False, _size(connected(), name)
    if size.is_wasteful:
        has_moved = yield from _shortened(connected, name, patience)
    if has_moved or size.has_wasteful_indexes or not _are_finished(connected(), name):
        _build_indexes(connected(), name, patience)
        yield


def _shortened(
    connected: Callable[[], Connection], name: str, patience: Patience
) -> Generator[None, None, bool]:
    """Move rows and run VACUUM in turn, until the table is short or we give up.

    Returns:
        Whether a pass moved rows.
    """
    passes = 0
    while True:
        yield from patience.await_readers(connected())
        shorten(connected(), name, None if name in _UNDIVIDED else "samples")
        yield
        size = _size(connected(), name)
        if not size.is_wasteful or passes == PASSES:
            return passes > 0
        if _has_rows(connected(), name, size.goal):
            is_full = yield from _moved(connected, name, size)
            passes = PASSES if is_full else passes + 1
        elif patience.is_over:
            return passes > 0
        else:  # programs used the table all the time
            yield from patience.pause()


def _size(connection: Connection, name: str) -> _Size:
    with connection.bounded():
        row = connection.execute(_SIZE, (name,)).fetchone()
    if row is None:  # a pruning has dropped the table
        return _Size(0, 0, 0)
    return _Size(*row)


def _has_rows(connection: Connection, name: str, begin: int) -> bool:
    """Whether page `begin` or any later page has rows. The server reads those pages."""
    query = f"SELECT EXISTS (SELECT FROM {name} WHERE ctid >= '({begin},0)')"
    with connection.translated():
        return bool(connection.execute(query).fetchone()[0])


def _moved(
    connected: Callable[[], Connection], name: str, size: _Size
) -> Generator[None, None, bool]:
    """Move the rows of the last pages to free pages before them, one step for each `next`.

    Returns:
        Whether it stopped early because no page before the end was free.
    """
    end, misses = size.end, 0
    while end > size.goal:
        begin = max(size.goal, end - PAGES_PER_STEP)
        connection = connected()
        with connection.bounded(), connection.transaction():
            # We delete a row and insert it elsewhere. Without the lock, an UPDATE that another
            # program runs at this moment would find the row deleted, and would change nothing.
            connection.execute(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE")
            rows, highest = connection.execute(_MOVE.format(name, begin, end)).fetchone()
        misses += bool(rows and highest >= size.end)
        if misses == MISSES:
            return True
        end = begin
        yield
    return False


def _indexes(connection: Connection, name: str) -> list[tuple[str, bool]]:
    """Return each index of a table, and whether it is finished.

    A run that was killed may have left unfinished indexes.
    """
    with connection.bounded():
        return [(index, done) for index, done in connection.execute(_INDEXES, (name,)).fetchall()]


def _are_finished(connection: Connection, name: str) -> bool:
    return all(is_finished for _, is_finished in _indexes(connection, name))


def _build_indexes(connection: Connection, name: str, patience: Patience) -> None:
    """Build the indexes of a table anew, and remove unfinished ones, until patience is over.

    An old index keeps the pages of deleted rows.

    We do not use ``REINDEX TABLE``, because it also builds the index of the table's TOAST table,
    which has no rows. After an interruption, an unfinished index would remain in a schema that
    belongs to the server.
    """
    with connection.translated():
        # Both statements wait for transactions that use the old indexes.
        connection.execute(f"SET lock_timeout = {max(1, round(patience.left * 1000))}")
        try:
            for index, is_finished in _indexes(connection, name):
                what = "REINDEX INDEX CONCURRENTLY" if is_finished else "DROP INDEX CONCURRENTLY"
                if not connection.runs(f"{what} {index}"):
                    patience.left = 0.0
                    return
        finally:
            connection.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
