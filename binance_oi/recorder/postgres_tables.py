"""The tables of a recording in PostgreSQL, for reading.

The rule of this file: reading changes nothing. Rows stay on the server until a reader fetches them,
so memory does not grow with their number. The server sends numbers as text, with every digit and
zero.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from binance_oi.errors import RecordingError
from binance_oi.market import arrow
from binance_oi.recorder import postgres_schema as schema
from binance_oi.recorder.address import shown, title_of
from binance_oi.recorder.postgres_connection import Connection
from binance_oi.recorder.statements import Found, Statements
from binance_oi.recorder.tables import Queries, Steps

ROWS_PER_FETCH = 4096
KEPT = 2  # idle connections that stay open for later readers, at most

# SELECT DISTINCT would read every row. This query searches the index of each partition once for
# each symbol. A search reads past the entries of deleted rows, which stay until VACUUM removes
# them. A single search of all partitions would read past them again for each symbol, even in a
# partition that has no rows left.
_SYMBOLS = f"""
WITH RECURSIVE bounds (text) AS (
    SELECT pg_get_expr(relpartbound, pg_class.oid)
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = 'samples'::regclass
), found (first, until, symbol) AS (
    SELECT coalesce(substring(text FROM 'FROM [(]''([0-9]+)''[)]')::bigint, {-(1 << 63)}),
        coalesce(substring(text FROM 'TO [(]''([0-9]+)''[)]')::bigint, {(1 << 63) - 1}),
        '' COLLATE "C"
    FROM bounds
    UNION ALL
    SELECT first, until, (
        SELECT samples.symbol FROM samples
        WHERE samples.symbol > found.symbol AND time >= first AND time < until
        ORDER BY samples.symbol LIMIT 1
    ) FROM found WHERE symbol IS NOT NULL
)
SELECT DISTINCT symbol FROM found WHERE symbol > '' ORDER BY 1
"""
_WITHIN = "FROM samples WHERE symbol = ?1 AND time >= ?2 AND time < ?3"
_SAMPLES = f"SELECT symbol, time, open_interest::text, received, mark_price::text {_WITHIN}"
_LONG = f"coalesce(scale({{0}}) > {arrow.PLAIN_SCALE} OR abs({{0}}) >= 1e{{1}}::numeric, false)"
_NUMBERS = (
    "SELECT coalesce(bool_or(mark_price IS NOT NULL), false), coalesce(bool_or("
    f"{_LONG.format('open_interest', arrow.PLAIN_VALUE)}"
    f" OR {_LONG.format('mark_price', arrow.PLAIN_PRICE)}), false) {_WITHIN}"
)
_ENDS = f"SELECT min(time) {_WITHIN} UNION ALL SELECT max(time) {_WITHIN}"
_SPAN = "FROM samples WHERE symbol = ?1 AND time >= ?2 AND time <= ?3"
_STEPS = Steps(
    f"SELECT count(*) {_SPAN}",
    f"SELECT time, open_interest::text, mark_price::text {_SPAN} ORDER BY time",
    "SELECT DISTINCT ON ((time + ?4 - 1) / ?4) time, open_interest::text, mark_price::text"
    f" {_SPAN} ORDER BY (time + ?4 - 1) / ?4, time DESC",
)
QUERIES: Queries = Queries(
    *(_SYMBOLS, _SAMPLES, _ENDS, _NUMBERS),
    (_STEPS,),
    "SELECT min(time) FROM samples WHERE symbol = ?1 AND time >= ?2",
    "SELECT max(time) FROM samples WHERE symbol = ?1 AND time < ?2",
)

_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class PostgresTables:
    """A recording in a database; see `Tables`.

    Args:
        url: ``postgresql://...``; the tables are in the first schema of its search path.
    """

    queries: Queries = QUERIES

    def __init__(self, url: str) -> None:
        self._url = url
        self._kept = list[Connection]()
        self._is_open = False

    def __str__(self) -> str:
        return shown(self._url)

    @property
    def title(self) -> str:
        """See `Tables.title`. It is the name of the database."""
        return title_of(self._url)

    def open(self) -> None:
        """See `Tables.open`."""
        self._is_open = True
        with self._connection():
            pass

    def close(self) -> None:
        """See `Tables.close`."""
        self._is_open = False
        while self._kept:
            self._kept.pop().close()

    def rows(self, query: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """See `Tables.rows`."""
        with self.moment(1) as run:
            found = run.execute(query, values)
            while rows := found.fetchmany(ROWS_PER_FETCH):
                yield from rows

    @contextmanager
    def moment(self, symbols: int) -> Generator[Statements]:
        """See `Tables.moment`. All queries of the block see the same state of the recording."""
        with self._connection() as connection:
            streams = _Streams(connection)
            try:
                yield streams
            finally:
                with suppress(RecordingError), connection.translated():
                    streams.close()

    @contextmanager
    def _connection(self) -> Generator[Connection]:
        """Give a reader a connection in a transaction, and then keep it for the next reader."""
        connection = self._taken()
        try:
            with connection.translated():
                yield connection
        except GeneratorExit:  # the reader wants no more rows
            self._keep(connection)
            raise
        except BaseException:
            connection.close()
            raise
        self._keep(connection)

    def _keep(self, connection: Connection) -> None:
        with suppress(RecordingError), connection.translated():
            connection.execute("ROLLBACK")
        if self._is_open and len(self._kept) < KEPT and not connection.is_lost:
            self._kept.append(connection)
        else:
            connection.close()

    def _taken(self) -> Connection:
        while self._kept:
            kept = self._kept.pop()
            if kept.begins(_BEGIN):
                return kept
            kept.close()
        connection = Connection(self._url, "binance-oi read")
        try:
            with connection.bounded():
                connection.execute(_BEGIN)
                if not schema.check_version(connection, str(self)):
                    raise RecordingError(f"{self} holds no recording")
        except BaseException:
            connection.close()
            raise
        return connection

    def has(self, table: str, run: Statements) -> bool:
        """See `Tables.has`. A recording in PostgreSQL always has all tables."""
        return True

    def integrity(self) -> Iterator[str]:
        """See `Tables.integrity`. It finds nothing: the server checks its pages itself."""
        return iter(())

    def source(self) -> str | None:
        """See `Tables.source`."""
        with self.moment(1) as run:
            return schema.read_source(run)

    def check_target(self, target: Path) -> None:
        """See `Tables.check_target`. A file never belongs to a recording in a database."""

    def backup(
        self, target: Path, *, replace: bool, on_pages: Callable[[int, int], object] | None
    ) -> None:
        """See `Tables.backup`. It cannot copy a database.

        Raises:
            RecordingError: Always; the message names the commands that can.
        """
        raise RecordingError(
            f"{self} is a database: `binance-oi copy` copies it into a file; pg_dump backs it up"
        )


class _Streams:
    """Runs one query at a time, whose rows stay on the server until the reader fetches them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._latest: Any = None

    def execute(self, query: str, values: Sequence[Any] = (), /) -> Found:
        """Drop the unread rows of the previous query, and run a query."""
        self.close()
        self._latest = self._connection.stream(query, values)
        found: Found = self._latest
        return found

    def close(self) -> None:
        """Drop the unread rows of the latest query."""
        latest, self._latest = self._latest, None
        if latest is not None:
            latest.close()
