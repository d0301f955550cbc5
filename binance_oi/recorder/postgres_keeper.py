"""Removing samples from a database, and returning their space, while others use it.

The rule of this file: a month that is too old goes as a whole, and a day goes row by row. Nobody
waits for long.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

from binance_oi.recorder import postgres_schema as schema
from binance_oi.recorder.postgres_compacting import compacting
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
SIZE: str = f"""
SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class
WHERE relnamespace = ({schema.NAMESPACE}) AND relkind = 'r'
"""
# How long a month that should go may make others wait for its lock.
_BRIEFLY = "SET LOCAL lock_timeout = 200"


class PostgresKeeper:
    """Removes samples from a database; see `Keeper`.

    Args:
        connected: Gives a connection that holds the lock of the recording, or any connection.
    """

    def __init__(self, connected: Callable[[], Connection]) -> None:
        self._connected = connected
        self._symbol = ""  # the one whose old samples were removed last
        self._compacting: Iterator[None] | None = None  # what `compact` has begun

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
        if self._drop_month(before):
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

    def _drop_month(self, before: int) -> bool:
        """Drop a month that is too old, unless somebody reads: then its rows go one by one."""
        connection = self._connected()
        with connection.bounded(), connection.transaction():
            for month in schema.months(connection):
                # The day after a month may still have answers that are dated in it.
                if schema.ends_of(month)[1] + DAY_MS <= before:
                    connection.execute(_BRIEFLY)
                    return connection.has_locked(f"DROP TABLE {schema.partition(month)}")
        return False

    def compact(self) -> bool:
        """See `Keeper.compact`."""
        self._compacting = self._compacting or compacting(self._connected)
        try:
            next(self._compacting)
        except StopIteration:
            self._compacting = None
            return False
        except BaseException:
            self._compacting = None
            raise
        return True
