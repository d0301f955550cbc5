"""The tables of a recording in an SQLite file.

The rule of this file: reading changes nothing, and every error of SQLite leaves as a
`RecordingError` that names the file.
"""

import os
import sqlite3
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

from binance_oi.arguments import StrPath, check_path
from binance_oi.errors import RecordingError
from binance_oi.market import arrow
from binance_oi.recorder.backup import copy
from binance_oi.recorder.opening import open_to_read
from binance_oi.recorder.schema import (
    COLUMNS,
    NOT_SETTLED,
    SINCE,
    read_source,
    translate_read_errors,
)
from binance_oi.recorder.sides import SIDE_FILES, beside, is_same
from binance_oi.recorder.statements import Statements
from binance_oi.recorder.tables import Queries, Steps

# SELECT DISTINCT would read every row. This reads one row for each symbol, and all of `recent`.
_SYMBOLS = """
WITH RECURSIVE found(symbol) AS (
    SELECT min(symbol) FROM settled
    UNION  -- UNION ALL would loop for ever if damage put an earlier symbol behind a later one
    SELECT (SELECT min(symbol) FROM settled WHERE settled.symbol > found.symbol)
    FROM found WHERE found.symbol IS NOT NULL
)
SELECT symbol FROM found WHERE symbol IS NOT NULL
UNION SELECT symbol FROM recent ORDER BY symbol
"""
# Not from the view: its `recent` is always the file's, never the temporary one of `_sort_recent`.
_SAMPLES = " UNION ALL ".join(
    f"SELECT symbol, time, open_interest, received, mark_price FROM {table} "
    f"WHERE symbol = ?1 AND time >= ?2 AND time < ?3 AND {condition}"
    for table, condition in (("settled", "TRUE"), ("recent", NOT_SETTLED))
)
# Four queries: one query with both min and max, or over both tables, reads all rows in between.
_ENDS = " UNION ALL ".join(
    f"SELECT {end}(time) FROM {table} WHERE symbol = ?1 AND time >= ?2 AND time < ?3"
    for end in ("min", "max")
    for table in ("settled", "recent")
)
# Whether there is a mark price, and whether a number is longer than the exchange's usual ones. For
# most numbers the length alone is enough to say no.
_LONG = (
    f"(length({{0}}) > {arrow.PLAIN_SCALE + 1} AND CASE instr({{0}}, '.')"
    " WHEN 0 THEN length({0}) > {1} ELSE instr({0}, '.') > {1} + 1"
    f" OR length({{0}}) - instr({{0}}, '.') > {arrow.PLAIN_SCALE} END)"
)
_NUMBERS = " UNION ALL ".join(  # one query over both tables would take twice as long
    "SELECT max(mark_price IS NOT NULL),"
    f" max({_LONG.format('open_interest', arrow.PLAIN_VALUE)}"
    f" OR (mark_price IS NOT NULL AND {_LONG.format('mark_price', arrow.PLAIN_PRICE)}))"
    f" FROM {table} WHERE symbol = ?1 AND time >= ?2 AND time < ?3"
    for table in ("settled", "recent")
)

_SORTED = f"CREATE TEMP TABLE recent ({COLUMNS}    PRIMARY KEY (symbol, time)\n) WITHOUT ROWID"
SORT_RECENT_ABOVE = 8  # symbols: then one sort of `recent` is cheaper than a scan for each symbol
MAX_FOUND = 20  # problems that a check names
_SPAN = "WHERE symbol = ?1 AND time >= ?2 AND time <= ?3"
# The last sample of each step, chosen by SQLite: the other columns are those of the row with the
# maximum. Source: https://www.sqlite.org/lang_select.html#bareagg (since SQLite 3.7.11).
# `recent` comes first, because a recorder moves samples from there to `settled` at any time.
_STEPS = tuple(
    Steps(
        f"SELECT count(*) FROM {table} {_SPAN}",
        f"SELECT time, open_interest, mark_price FROM {table} {_SPAN} ORDER BY time",
        f"SELECT max(time), open_interest, mark_price FROM {table} {_SPAN}"
        " GROUP BY (time + ?4 - 1) / ?4 ORDER BY 1",
    )
    for table in ("recent", "settled")
)


def _end(end: str, condition: str) -> str:
    """The first or last time of both tables; one query over the view would read all rows."""
    both = " UNION ALL ".join(
        f"SELECT {end}(time) AS time FROM {table} WHERE symbol = ?1 AND time {condition}"
        for table in ("recent", "settled")
    )
    return f"SELECT {end}(time) FROM ({both})"


QUERIES: Queries = Queries(
    *(_SYMBOLS, _SAMPLES, _ENDS, _NUMBERS),
    *(_STEPS, _end("min", ">= ?2"), _end("max", "< ?2")),
)


class SqliteTables:
    """A recording in a file; see `Tables`.

    Args:
        path: The file.
    """

    queries: Queries = QUERIES

    def __init__(self, path: StrPath) -> None:
        self.path: Path = check_path("path", path)
        self._connection: sqlite3.Connection | None = None

    def __str__(self) -> str:
        return str(self.path)

    @property
    def title(self) -> str:
        """See `Tables.title`: the file's name."""
        return self.path.name

    def open(self) -> None:
        """See `Tables.open`."""
        self._connection = open_to_read(self.path)

    def close(self) -> None:
        """See `Tables.close`."""
        if self._connection is not None:
            self._connection.close()

    def rows(self, query: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """See `Tables.rows`."""
        connection = self._opened()
        with translate_read_errors(self.path):
            found = connection.execute(query, values)
        return self._translated(found)

    def _translated(self, found: sqlite3.Cursor) -> Iterator[tuple[Any, ...]]:
        with translate_read_errors(self.path):
            # Not `yield from`: it would close the cursor of an abandoned iterator, which fails
            # when the connection is closed already.
            for row in found:  # noqa: UP028
                yield row

    def moment(self, symbols: int) -> AbstractContextManager[Statements]:
        """See `Tables.moment`."""
        return _moment(self.path, symbols)

    def has(self, table: str, run: Statements) -> bool:
        """See `Tables.has`."""
        (version,) = run.execute("PRAGMA user_version").fetchone()
        return int(version) >= SINCE[table]

    def integrity(self) -> Iterator[str]:
        """See `Tables.integrity`: pages, keys and types, as SQLite checks them."""
        for (found,) in self.rows(f"PRAGMA integrity_check({MAX_FOUND})"):
            if found != "ok":
                yield f"{self}: {found}"

    def source(self) -> str | None:
        """See `Tables.source`."""
        connection = self._opened()
        with translate_read_errors(self.path):
            return read_source(connection)

    def _opened(self) -> sqlite3.Connection:
        assert self._connection is not None
        return self._connection

    def check_target(self, target: Path) -> None:
        """See `Tables.check_target`: the file, its log, and the other files beside it."""
        if is_same(target, self.path):
            raise RecordingError(f"{target} is the recording itself")
        made = (target, *(path for path in target.parents if not os.path.exists(path)))
        for own in (beside(self.path, ending) for ending in SIDE_FILES):
            if any(is_same(path, own) for path in made):
                raise RecordingError(f"{target} belongs to the recording {self.path}")

    def backup(
        self, target: Path, *, replace: bool, on_pages: Callable[[int, int], object] | None
    ) -> None:
        """See `Tables.backup`."""
        copy(self.path, target, replace=replace, on_pages=on_pages)


@contextmanager
def _moment(path: Path, symbols: int) -> Generator[Statements]:
    """A connection for reading the symbols one by one; many symbols see one moment.

    Raises:
        RecordingError: The file cannot be read.
    """
    with translate_read_errors(path), closing(open_to_read(path)) as connection:
        if symbols > SORT_RECENT_ABOVE:
            _sort_recent(connection)
        yield connection


def _sort_recent(connection: sqlite3.Connection) -> None:
    """Replace `recent` for this connection by a copy in memory, sorted by symbol."""
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA query_only = OFF")  # it forbids temporary tables as well
    connection.execute("BEGIN")  # or a recorder could move rows to `settled`: they would be twice
    connection.execute(_SORTED)
    connection.execute("INSERT INTO temp.recent SELECT * FROM main.recent")
    connection.execute("PRAGMA query_only = ON")
