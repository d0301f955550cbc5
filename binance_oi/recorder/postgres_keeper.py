"""Removing samples from a database, and returning their space, while others use it.

The rule of this file: a month that is too old goes as a whole, and a day goes row by row. Nobody
waits for long but for a partition that is written anew, because most of it is free.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from binance_oi.recorder import postgres_schema as schema
from binance_oi.recorder.postgres_connection import Connection
from binance_oi.recorder.retention import DAY_MS, STEP_ROWS
from binance_oi.recorder.statements import Statements

_NEWEST = """
SELECT max(newest) FROM (SELECT (SELECT max(time) FROM samples WHERE samples.symbol = few.symbol)
    AS newest FROM (VALUES ((SELECT min(symbol) FROM samples)), ((SELECT max(symbol) FROM samples)))
    AS few (symbol)) AS found
"""
_NEXT = "SELECT symbol FROM samples WHERE symbol > ?1 ORDER BY symbol LIMIT 1"
_DELETE = "DELETE FROM samples WHERE symbol = ?1 AND time < ?2 AND received < ?2"
# Of each table with rows: its pages, and how many its rows would fill.
_SIZES = f"""
SELECT relname::text, pg_relation_size(pg_class.oid), coalesce((
    SELECT sum(avg_width) + 28 FROM pg_stats WHERE schemaname = current_schema()
        AND tablename = relname
), 0) * greatest(reltuples, 0)
FROM pg_class WHERE relnamespace = ({schema.NAMESPACE}) AND relkind = 'r' AND (
    relname IN ('sweeps', 'gaps', 'past')
    OR pg_class.oid IN (SELECT inhrelid FROM pg_inherits)
) ORDER BY relname
"""
SIZE: str = f"""
SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
WHERE relnamespace = ({schema.NAMESPACE}) AND relkind = 'r'
"""
WORTH_BYTES = 1 << 20


class PostgresKeeper:
    """Removes samples from a database; see `Keeper`.

    Args:
        connected: Gives a connection that holds the lock of the recording, or any connection.
    """

    def __init__(self, connected: Callable[[], Connection]) -> None:
        self._connected = connected
        self._symbol = ""  # the one whose old samples were removed last
        self._left: list[str] | None = None  # tables that `compact` has not reached yet

    @contextmanager
    def writing(self) -> Generator[Statements]:
        """See `Keeper.writing`."""
        connection = self._connected()
        with connection.bounded(), connection.transaction():
            yield connection

    def now(self) -> int | None:
        """See `Keeper.now`."""
        with self.writing() as run:
            found: int | None = run.execute(_NEWEST).fetchone()[0]
            return found

    def drop_samples(self, before: int) -> bool:
        """See `Keeper.drop_samples`."""
        with self.writing() as run:
            for month in schema.months(run):
                # The day after a month may still have answers that are dated in it.
                if schema.ends_of(month)[1] + DAY_MS <= before:
                    run.execute(f"DROP TABLE {schema.partition(month)}")
                    return True
        with self.writing() as run:
            removed = 0
            while removed < STEP_ROWS:
                row = run.execute(_NEXT, (self._symbol,)).fetchone()
                if row is None:
                    self._symbol = ""
                    return False
                removed += run.execute(_DELETE, (row[0], before)).rowcount
                self._symbol = row[0]
        return True

    def compact(self) -> bool:
        """See `Keeper.compact`: one table at a time."""
        connection = self._connected()
        if self._left is None:
            with connection.bounded():
                connection.execute("ANALYZE")
                self._left = [name for name, *_ in connection.execute(_SIZES).fetchall()]
        if self._left:
            name = self._left.pop(0)
            with connection.translated():
                connection.execute(f"VACUUM (ANALYZE) {name}")
                sizes: dict[str, Any] = {
                    table: (size, needed)
                    for table, size, needed in connection.execute(_SIZES).fetchall()
                }
                size, needed = sizes.get(name, (0, 0))
                if size > 2 * needed + WORTH_BYTES:
                    connection.execute(f"VACUUM (FULL, ANALYZE) {name}")
        if not self._left:
            self._left = None
            return False
        return True
