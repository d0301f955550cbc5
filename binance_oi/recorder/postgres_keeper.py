"""Removes samples from a database and frees their space while other programs use it.

The rule of this file: when all of a month is too old, we drop its table at once. Otherwise, or
while other programs use the table, we delete rows. Each transaction deletes the old rows of one
symbol after another, until it has deleted `STEP_ROWS` or more. So no other program waits for long.
"""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from math import inf

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
# While DROP TABLE waits for its lock, new readers and writers wait behind it. So we let DROP TABLE
# give up after 200 ms, and try again only after `DROP_AGAIN_S`.
_BRIEFLY = "SET LOCAL lock_timeout = 200"
DROP_AGAIN_S = 10.0


class PostgresKeeper:
    """Removes samples from a database; see `Keeper`.

    Args:
        connected: Returns the connection to use. In a recorder, it must return the connection that
            holds the lock; in other programs, any connection will do.
        clock: Returns seconds, from any origin.
    """

    def __init__(
        self, connected: Callable[[], Connection], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connected, self._clock = connected, clock
        self._in_use_until = -inf  # seconds of `clock` before which we drop no table
        self._symbol = ""  # the symbol whose old samples were deleted last
        self._compacting: Iterator[None] | None = None  # the remaining steps of `compact`

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
        """Drop the table of a month that is too old; False if there is none, or if it is in use."""
        if self._clock() < self._in_use_until:
            return False
        connection = self._connected()
        with connection.bounded(), connection.transaction():
            for month in schema.months(connection):
                # A sample that came on the day after a month may have a time in that month. It
                # stays until that day is also too old.
                if schema.ends_of(month)[1] + DAY_MS <= before:
                    connection.execute(_BRIEFLY)
                    if connection.has_locked(f"DROP TABLE {schema.partition(month)}"):
                        return True
                    self._in_use_until = self._clock() + DROP_AGAIN_S
                    return False
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
