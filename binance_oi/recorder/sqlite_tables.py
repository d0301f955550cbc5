"""The tables of a recording in an SQLite file.

The rule of this file: reading changes no file. Every error of SQLite becomes a `RecordingError`
that names the file. A recorder appends samples to the table `recent`, and later moves them to the
table `settled`; see `schema`.
"""

import os
import sqlite3
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

from binance_oi.arguments import StrPath
from binance_oi.errors import RecordingError
from binance_oi.market import arrow
from binance_oi.recorder.address import check_file
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

# SELECT DISTINCT would read every row. This query reads one row of `settled` for each symbol, and
# all rows of `recent`.
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
# This query does not use the view `samples`. The view would ignore the temporary table `recent`
# that `_sort_recent` creates.
_SAMPLES = " UNION ALL ".join(
    f"SELECT symbol, time, open_interest, received, mark_price FROM {table} "
    f"WHERE symbol = ?1 AND time >= ?2 AND time < ?3 AND {condition}"
    for table, condition in (("settled", "TRUE"), ("recent", NOT_SETTLED))
)
# Four queries, because SQLite finds a single min or max of one table in the index. For a query with
# both min and max, or over both tables, it would read all rows of the span.
_ENDS = " UNION ALL ".join(
    f"SELECT {end}(time) FROM {table} WHERE symbol = ?1 AND time >= ?2 AND time < ?3"
    for end in ("min", "max")
    for table in ("settled", "recent")
)
# Whether a number has more digits, before or after the point, than the usual Arrow columns hold.
# The first comparison alone rules out most numbers, because they are short.
_LONG = (
    f"(length({{0}}) > {arrow.PLAIN_SCALE + 1} AND CASE instr({{0}}, '.')"
    " WHEN 0 THEN length({0}) > {1} ELSE instr({0}, '.') > {1} + 1"
    f" OR length({{0}}) - instr({{0}}, '.') > {arrow.PLAIN_SCALE} END)"
)
# Whether there is a mark price, and whether there is a long number. One query over both tables
# would take twice as long.
_NUMBERS = " UNION ALL ".join(
    "SELECT max(mark_price IS NOT NULL),"
    f" max({_LONG.format('open_interest', arrow.PLAIN_VALUE)}"
    f" OR (mark_price IS NOT NULL AND {_LONG.format('mark_price', arrow.PLAIN_PRICE)}))"
    f" FROM {table} WHERE symbol = ?1 AND time >= ?2 AND time < ?3"
    for table in ("settled", "recent")
)

_SORTED = f"CREATE TEMP TABLE recent ({COLUMNS}    PRIMARY KEY (symbol, time)\n) WITHOUT ROWID"
# For more symbols than this, it is cheaper to sort `recent` once than to scan it for each symbol.
SORT_RECENT_ABOVE = 8
MAX_FOUND = 20  # the most problems that a check lists
_SPAN = "WHERE symbol = ?1 AND time >= ?2 AND time <= ?3"
# The third query of a `Steps` finds the last sample of each step. In a query with a single max(),
# SQLite takes the other columns from the row with the maximum.
# Source: https://www.sqlite.org/lang_select.html#bareagg (since SQLite 3.7.11).
# A reader must read `recent` before `settled`, because a recorder may move samples from `recent` to
# `settled` at any time. In the other order, the reader could miss the moved samples.
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
    """A query for the first or last time in both tables.

    The same query over the view `samples` would read all rows.
    """
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
        self.path: Path = check_file("path", path)
        self._connection: sqlite3.Connection | None = None

    def __str__(self) -> str:
        return str(self.path)

    @property
    def title(self) -> str:
        """See `Tables.title`. It is the file's name."""
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
            # If a caller abandons the iterator, `yield from` would close the cursor. The cursor's
            # `close` raises if the connection is closed already.
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
        """See `Tables.integrity`. SQLite checks pages, keys and types."""
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
        """See `Tables.check_target`. The recording is the file and its side files."""
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
    """Open a connection; for many symbols, begin a transaction and sort `recent` first.

    Raises:
        RecordingError: The file cannot be read.
    """
    with translate_read_errors(path), closing(open_to_read(path)) as connection:
        if symbols > SORT_RECENT_ABOVE:
            _sort_recent(connection)
        yield connection


def _sort_recent(connection: sqlite3.Connection) -> None:
    """Copy `recent` into memory, sorted by symbol, and let this connection read the copy."""
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA query_only = OFF")  # ON would forbid temporary tables too
    # The transaction hides later changes. Without it, a recorder could move rows to `settled`, and
    # this connection would read them twice.
    connection.execute("BEGIN")
    connection.execute(_SORTED)
    connection.execute("INSERT INTO temp.recent SELECT * FROM main.recent")
    connection.execute("PRAGMA query_only = ON")
