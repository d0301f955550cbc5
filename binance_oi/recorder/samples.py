"""Samples of a recording: reading them in order, checked, in constant memory.

The rule of this file: reading changes nothing, and numbers leave as the exchange wrote them. SQLite
finds some damage; this module checks what SQLite does not: the type of a value, the text of a
number.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from decimal import Decimal
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, Self, TypedDict

from binance_oi.arguments import StrPath, check_path
from binance_oi.encoding import Encodable
from binance_oi.errors import RecordingError
from binance_oi.exchange.symbols import is_name
from binance_oi.market import arrow
from binance_oi.market.rows import Batch, Row
from binance_oi.recorder.opening import open_to_read
from binance_oi.recorder.schema import (
    COLUMNS,
    EARLIEST,
    LATEST,
    NOT_SETTLED,
    NUMBER,
    translate_read_errors,
)

ROWS_PER_BATCH = 65_536

# Not from the view: its `recent` is always the file's, never the temporary one of `_sort_recent`.
SAMPLES = " UNION ALL ".join(
    f"SELECT symbol, time, open_interest, received, mark_price FROM {table} "
    f"WHERE symbol = ?1 AND time >= ?2 AND time < ?3 AND {condition}"
    for table, condition in (("settled", "TRUE"), ("recent", NOT_SETTLED))
)
BY_TIME, FIRST, LAST = "ORDER BY time", "ORDER BY time LIMIT 1", "ORDER BY time DESC LIMIT 1"
# Four queries: one query with both min and max, or over both tables, reads all rows in between.
_FIRST_AND_LAST_TIMES = " UNION ALL ".join(
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
ALL_TIME_MS = 0, 1 << 62  # Unix ms
ROWS_PER_CHECK = 1024

_NUMBERS_IN_LINES = re.compile(rf"{NUMBER.pattern}(?:\n{NUMBER.pattern})*+")  # without backtracking
_BY_KIND = itemgetter(0, 1, 3, 2, 4)  # the symbol, two instants, two numbers


class _Sample(NamedTuple):
    symbol: str
    time: int
    """The exchange's transaction time, Unix ms."""
    open_interest: Decimal
    """In units of the base asset."""
    received: int
    """When the answer came, Unix ms."""
    mark_price: Decimal | None
    """In units of the quote asset; None when it was not recorded."""


class Sample(_Sample, Encodable):
    """One observation."""

    __slots__ = ()


class SampleColumns(TypedDict):
    """Samples by column."""

    symbol: list[str]
    time: list[int]
    open_interest: list[Decimal]
    received: list[int]
    mark_price: list[Decimal | None]


def damaged(path: Path, what: str) -> RecordingError:
    return RecordingError(f"{path} is damaged: {what}")


def typed(rows: Iterable[tuple[Any, ...]], path: Path, *kinds: type) -> Iterator[tuple[Any, ...]]:
    """Yield the rows after a check of their types; integers must be possible times.

    Raises:
        RecordingError: The rows cannot be read, or a value has a wrong type or is out of range.
    """
    with translate_read_errors(path):
        for row in rows:
            numbers = [value for value in row if type(value) is int]
            within = all(EARLIEST <= n <= LATEST for n in numbers)
            if tuple(map(type, row)) != kinds or not within:
                raise damaged(path, f"it contains an invalid row: {row!r:.80}")
            yield row


def check_samples(rows: Sequence[Row], path: Path) -> None:
    """Check that the values are what a recorder writes; by column, for there may be millions.

    Raises:
        RecordingError: A value is not.
    """
    symbols, *instants, values, marks = zip(*map(_BY_KIND, rows), strict=True)
    is_named = {*map(type, symbols)} == {str} and all(map(is_name, {*symbols}))
    if not is_named or not are_right(instants, values, marks):
        raise odd_sample(path, symbols[0])


def odd_sample(path: Path, symbol: object) -> RecordingError:
    """The error about a value that no recorder writes."""
    return damaged(path, f"a sample of {symbol!r:.40} is none that a recorder writes")


def are_right(
    instants: Iterable[Sequence[Any]], values: Sequence[Any], *others: Sequence[Any]
) -> bool:
    """Whether columns have what a recorder writes.

    Args:
        instants: Columns of Unix ms.
        values: A column of numbers.
        others: Columns of numbers, or None where there is none.
    """
    try:
        texts = list(values)
        for column in others:
            if column.count(None) < len(column):
                texts += [each for each in column if each is not None]
        return _are_numbers(texts) and all(map(_are_instants, instants))
    except TypeError:
        return False


def _are_numbers(texts: Sequence[Any]) -> bool:
    """Whether each text is a number; one match of all of them takes a third of the time."""
    joined = "\n".join(texts)
    return joined.count("\n") == len(texts) - 1 and _NUMBERS_IN_LINES.fullmatch(joined) is not None


def _are_instants(times: Sequence[Any]) -> bool:
    return {*map(type, times)} == {int} and min(times) >= 0 and max(times) <= LATEST


class Samples:
    """Recorded samples of some symbols in a span of time, sorted by symbol and time.

    Every iteration reads the file anew and keeps nothing, so the samples may exceed the memory. The
    Arrow stream (``pyarrow.table(samples)``, ``polars.from_arrow``, DuckDB) needs the extra
    `parquet`.
    """

    def __init__(self, path: StrPath, symbols: tuple[str, ...], since: int, until: int) -> None:
        self._path = check_path("path", path)
        self.symbols = symbols
        self.since = since
        """Unix ms, included."""
        self.until = until
        """Unix ms, not included."""

    def __iter__(self) -> Iterator[Sample]:
        return map(sample, self.rows())

    def rows(self) -> Iterator[Row]:
        """The samples, with numbers as the exchange wrote them.

        Raises:
            RecordingError: The file cannot be read.
        """
        for rows in self._chunks(ROWS_PER_CHECK):
            yield from rows

    def _chunks(self, size: int) -> Iterator[list[Row]]:
        """Yield checked rows, `size` at a time; the last chunk may be shorter."""
        with (
            translate_read_errors(self._path),
            closing(open_for(self._path, self.symbols)) as connection,
        ):
            rows: list[Row] = []
            for symbol in self.symbols:
                found = connection.execute(f"{SAMPLES} {BY_TIME}", (symbol, self.since, self.until))
                while more := found.fetchmany(size - len(rows)):
                    check_samples(more, self._path)
                    rows += more
                    if len(rows) == size:
                        yield rows
                        rows = []
            if rows:
                yield rows

    def batches(self) -> Iterator[Batch]:
        """The samples by column, some ten thousand rows at a time.

        Raises:
            RecordingError: The file cannot be read.
        """
        return map(Batch.of, self._chunks(ROWS_PER_BATCH))

    def between(self, since: int, until: int) -> Self:
        """The samples from `since` until before `until` (Unix ms)."""
        since, until = max(since, self.since), min(until, self.until)
        return type(self)(self._path, self.symbols, since, until)

    def span(self) -> tuple[int, int] | None:
        """The first and the last transaction time (Unix ms); None when there is no sample.

        Raises:
            RecordingError: The file cannot be read.
        """
        ends: list[int] = []
        with (
            translate_read_errors(self._path),
            closing(open_for(self._path, self.symbols)) as connection,
        ):
            for symbol in self.symbols:
                found = connection.execute(_FIRST_AND_LAST_TIMES, (symbol, self.since, self.until))
                known = ((time,) for (time,) in found if time is not None)
                ends += [time for (time,) in typed(known, self._path, int)]
        return (min(ends), max(ends)) if ends else None

    def count(self) -> int:
        """How many there are.

        Raises:
            RecordingError: The file cannot be read.
        """
        count = 0
        with (
            translate_read_errors(self._path),
            closing(open_for(self._path, self.symbols)) as connection,
        ):
            for symbol in self.symbols:
                query = f"SELECT count(*) FROM ({SAMPLES})"
                ((found,),) = connection.execute(query, (symbol, self.since, self.until))
                count += found
        return count

    def to_columns(self) -> SampleColumns:
        """One list for each field, ready for a data frame.

        Raises:
            RecordingError: The file cannot be read.
        """
        columns = SampleColumns(symbol=[], time=[], open_interest=[], received=[], mark_price=[])
        for batch in self.batches():
            columns["symbol"] += batch.symbol
            columns["time"] += batch.time
            columns["open_interest"] += map(Decimal, batch.open_interest)
            columns["received"] += batch.received
            columns["mark_price"] += (None if m is None else Decimal(m) for m in batch.mark_price)
        return columns

    def columns(self) -> arrow.Columns:
        """How the numbers of the samples are typed in Arrow.

        It reads all numbers only when some are longer than the exchange's usual ones.

        Raises:
            RecordingError: The file cannot be read.
        """
        has_prices = has_long = False
        with (
            translate_read_errors(self._path),
            closing(open_for(self._path, self.symbols)) as connection,
        ):
            for symbol in self.symbols:
                for prices, long in connection.execute(_NUMBERS, (symbol, self.since, self.until)):
                    has_prices, has_long = has_prices or bool(prices), has_long or bool(long)
        columns = arrow.Columns.of(self.batches()) if has_long else arrow.Columns()
        return columns._replace(has_notional=has_prices)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Export the samples to any library that reads Arrow; decimals are exact, times are UTC.

        With recorded mark prices there is a column `notional`. The stream leaves out a row with
        more than 20 digits before the point or 18 after it, and warns.
        """
        columns = self.columns()
        return arrow.stream(self.batches(), columns, self._path, requested_schema)


def sample(row: Row) -> Sample:
    symbol, time, value, received, mark = row
    return Sample(symbol, time, Decimal(value), received, None if mark is None else Decimal(mark))


def open_for(path: Path, symbols: tuple[str, ...]) -> sqlite3.Connection:
    """Open a connection for reading the symbols one by one; many symbols see one moment.

    Raises:
        RecordingError: The file cannot be read.
    """
    connection = open_to_read(path)
    try:
        with translate_read_errors(path):
            if len(symbols) > SORT_RECENT_ABOVE:
                _sort_recent(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _sort_recent(connection: sqlite3.Connection) -> None:
    """Replace `recent` for this connection by a copy in memory, sorted by symbol."""
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA query_only = OFF")  # it forbids temporary tables as well
    connection.execute("BEGIN")  # or a recorder could move rows to `settled`: they would be twice
    connection.execute(_SORTED)
    connection.execute("INSERT INTO temp.recent SELECT * FROM main.recent")
    connection.execute("PRAGMA query_only = ON")
