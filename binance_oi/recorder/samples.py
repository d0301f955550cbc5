"""Reads the samples of a recording in order, and checks them, with little memory.

The rule of this file: a reader changes nothing, and returns each number exactly as the exchange
wrote it. SQLite and PostgreSQL find some damage themselves. This module also rejects every value
that no recorder writes: by its type, its range, or the form of a number or a symbol.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from decimal import Decimal
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, Self, TypedDict, cast

from binance_oi.arguments import StrPath
from binance_oi.encoding import Encodable
from binance_oi.errors import RecordingError
from binance_oi.exchange.symbols import is_name
from binance_oi.market import arrow
from binance_oi.market.rows import Batch, Row
from binance_oi.recorder.address import is_database
from binance_oi.recorder.schema import EARLIEST, LATEST, NUMBER
from binance_oi.recorder.sqlite_tables import SqliteTables
from binance_oi.recorder.statements import Statements
from binance_oi.recorder.tables import BY_TIME, Tables

ROWS_PER_BATCH = 65_536
# A day of a symbol has 4320 samples, with one every 20 s. So one fetch reads a whole day. With two
# fetches, reading a day would take 5 % longer.
ROWS_PER_CHECK = 4500

# `*+` matches without backtracking.
_NUMBERS_IN_LINES = re.compile(rf"{NUMBER.pattern}(?:\n{NUMBER.pattern})*+")


class _Sample(NamedTuple):
    symbol: str
    """The symbol."""
    time: int
    """The exchange's transaction time, Unix ms."""
    open_interest: Decimal
    """The open interest, in units of the base asset."""
    received: int
    """When the answer came, Unix ms by our clock."""
    mark_price: Decimal | None
    """The mark price, in units of the quote asset; None if the sweep did not record it."""


class Sample(_Sample, Encodable):
    """One observation of one symbol."""

    __slots__ = ()


class SampleColumns(TypedDict):
    """Samples as one list per field."""

    symbol: list[str]
    time: list[int]
    open_interest: list[Decimal]
    received: list[int]
    mark_price: list[Decimal | None]


def tables_of(place: StrPath | Tables) -> Tables:
    """Return the tables of a recording at a path or URL. It opens nothing."""
    if is_database(place):
        from binance_oi.recorder.postgres_tables import PostgresTables

        return PostgresTables(place)
    if isinstance(place, Tables):
        return place
    return SqliteTables(place)


def damaged(tables: Tables, what: str) -> RecordingError:
    """Return the error about damage in a recording."""
    return RecordingError(f"{tables} is damaged: {what}")


def typed(
    rows: Iterable[tuple[Any, ...]], tables: Tables, *kinds: type
) -> Iterator[tuple[Any, ...]]:
    """Check the types of rows and yield them; each integer must lie in the range of times.

    Raises:
        RecordingError: The rows cannot be read, or a value has a wrong type or is out of range.
    """
    for row in rows:
        numbers = [value for value in row if type(value) is int]
        within = all(EARLIEST <= n <= LATEST for n in numbers)
        if tuple(map(type, row)) != kinds or not within:
            raise damaged(tables, f"it contains an invalid row: {row!r:.80}")
        yield row


def check_samples(rows: Sequence[Row], tables: Tables) -> None:
    """Check that a recorder may have written these values.

    It checks whole columns at once, because there may be millions of rows.

    Raises:
        RecordingError: There is a value that no recorder writes.
    """
    symbols, times, values, received, marks = zip(*rows, strict=True)
    is_named = {*map(type, symbols)} == {str} and all(map(is_name, {*symbols}))
    if not is_named or not are_right((times, received), values, marks):
        raise odd_sample(tables, symbols[0])


def odd_sample(tables: Tables, symbol: object) -> RecordingError:
    """Return the error about a value that no recorder writes."""
    return damaged(tables, f"a sample of {symbol!r:.40} has a value that no recorder writes")


def are_right(
    instants: Iterable[Sequence[Any]], values: Sequence[Any], *others: Sequence[Any]
) -> bool:
    """Whether a recorder may have written these columns.

    Args:
        instants: Columns of Unix ms.
        values: A column of numbers, as text.
        others: More columns of numbers, as text; they may contain None.
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
    """Whether each text is a number.

    One match of the joined texts takes a third of the time that a match of each text would take.
    """
    joined = "\n".join(texts)
    return joined.count("\n") == len(texts) - 1 and _NUMBERS_IN_LINES.fullmatch(joined) is not None


def _are_instants(times: Sequence[Any]) -> bool:
    return {*map(type, times)} == {int} and min(times) >= 0 and max(times) <= LATEST


class Samples:
    """Recorded samples of some symbols in a span of time, sorted by symbol and time.

    Every iteration reads the recording again and keeps few rows in memory. So there may be more
    samples than fit into memory. The Arrow stream (``pyarrow.table(samples)``,
    ``polars.from_arrow``, DuckDB) needs the extra `parquet`.

    Args:
        place: The recording: a path, the URL of a database, or its tables.
        symbols: The symbols, sorted; the samples of each come together.
        since: The start of the span, Unix ms, included.
        until: The end of the span, Unix ms, excluded.
    """

    def __init__(
        self, place: StrPath | Tables, symbols: tuple[str, ...], since: int, until: int
    ) -> None:
        self._tables = tables_of(place)
        self.symbols = symbols
        self.since = since
        """The start of the span, Unix ms, included."""
        self.until = until
        """The end of the span, Unix ms, excluded."""

    def __iter__(self) -> Iterator[Sample]:
        return chain.from_iterable(map(_in_columns, self._chunks(ROWS_PER_CHECK)))

    def rows(self) -> Iterator[Row]:
        """Yield the samples as plain rows, with numbers as the text that the exchange wrote.

        Raises:
            RecordingError: The recording cannot be read or is damaged.
        """
        return chain.from_iterable(self._chunks(ROWS_PER_CHECK))

    def _moment(self) -> AbstractContextManager[Statements]:
        return self._tables.moment(len(self.symbols))

    def _chunks(self, size: int) -> Iterator[list[Row]]:
        """Yield checked rows, `size` at a time; the last chunk may be shorter."""
        query = f"{self._tables.queries.samples} {BY_TIME}"
        with self._moment() as run:
            rows: list[Row] = []
            for symbol in self.symbols:
                found = run.execute(query, (symbol, self.since, self.until))
                is_more = True
                while is_more:
                    wanted = size - len(rows)
                    more = found.fetchmany(wanted)
                    is_more = len(more) == wanted
                    if more:
                        check_samples(more, self._tables)
                        rows += more
                    if len(rows) == size:
                        yield rows
                        rows = []
            if rows:
                yield rows

    def batches(self) -> Iterator[Batch]:
        """Yield the samples by column, up to `ROWS_PER_BATCH` rows at a time.

        Raises:
            RecordingError: The recording cannot be read or is damaged.
        """
        return map(Batch.of, self._chunks(ROWS_PER_BATCH))

    def between(self, since: int, until: int) -> Self:
        """Return the samples from `since` (Unix ms, included) to `until` (excluded)."""
        since, until = max(since, self.since), min(until, self.until)
        return type(self)(self._tables, self.symbols, since, until)

    def span(self) -> tuple[int, int] | None:
        """Return the first and the last transaction time, Unix ms; None if there is no sample.

        Raises:
            RecordingError: The recording cannot be read or is damaged.
        """
        query = self._tables.queries.ends
        ends: list[int] = []
        with self._moment() as run:
            for symbol in self.symbols:
                found = run.execute(query, (symbol, self.since, self.until))
                known = ((time,) for (time,) in found if time is not None)
                ends += [time for (time,) in typed(known, self._tables, int)]
        return (min(ends), max(ends)) if ends else None

    def count(self) -> int:
        """Return the number of samples.

        Raises:
            RecordingError: The recording cannot be read or is damaged.
        """
        query = f"SELECT count(*) FROM ({self._tables.queries.samples}) AS found"
        count = 0
        with self._moment() as run:
            for symbol in self.symbols:
                ((found,),) = run.execute(query, (symbol, self.since, self.until))
                count += found
        return count

    def to_columns(self) -> SampleColumns:
        """Return one list per field, as the constructor of a data frame takes it.

        Raises:
            RecordingError: The recording cannot be read or is damaged.
        """
        columns = SampleColumns(symbol=[], time=[], open_interest=[], received=[], mark_price=[])
        for batch in self.batches():
            columns["symbol"] += batch.symbol
            columns["time"] += batch.time
            columns["open_interest"] += map(Decimal, batch.open_interest)
            columns["received"] += batch.received
            columns["mark_price"] += numbers(batch.mark_price)
        return columns

    def columns(self) -> arrow.Columns:
        """Return the Arrow types of the numbers.

        The types depend on how many digits the numbers have. A query first searches for a number
        with more digits than usual. Only if it finds one, this call reads every number.

        Raises:
            RecordingError: The recording cannot be read or is damaged.
        """
        query = self._tables.queries.numbers
        has_prices = has_long = False
        with self._moment() as run:
            for symbol in self.symbols:
                for prices, long in run.execute(query, (symbol, self.since, self.until)):
                    has_prices, has_long = has_prices or bool(prices), has_long or bool(long)
        columns = arrow.Columns.of(self.batches()) if has_long else arrow.Columns()
        return columns._replace(has_notional=has_prices)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Export the samples to any library that reads Arrow; decimals are exact, times are UTC.

        If mark prices were recorded, there is a column `notional`. The stream omits a row if one of
        its numbers has more than 20 digits before the point, or more than 18 after it, and logs a
        warning.
        """
        columns = self.columns()
        return arrow.stream(self.batches(), columns, self._tables, requested_schema)


def sample(row: Row) -> Sample:
    """Convert a plain row to a sample."""
    symbol, time, value, received, mark = row
    return Sample(symbol, time, Decimal(value), received, None if mark is None else Decimal(mark))


def _in_columns(rows: Sequence[Row]) -> Iterator[Sample]:
    """Convert plain rows to samples, a column at a time. A call for each row would cost more."""
    symbols, times, values, received, marks = zip(*rows, strict=True)
    amounts = map(Decimal, values)
    return map(_SAMPLE, zip(symbols, times, amounts, received, numbers(marks), strict=True))


# A named tuple's own constructor runs Python code for each tuple; `_SAMPLE` does not.
_SAMPLE: Callable[[Iterable[Any]], Sample] = partial(cast("Any", tuple).__new__, Sample)


def numbers(texts: Sequence[str | None]) -> Iterable[Decimal | None]:
    """Convert texts to numbers. If all of them are None, or none is, that needs no Python loop."""
    without = texts.count(None)
    if without == len(texts):
        return cast("Sequence[None]", texts)
    if not without:
        return map(Decimal, cast("Sequence[str]", texts))
    return (None if text is None else Decimal(text) for text in texts)
