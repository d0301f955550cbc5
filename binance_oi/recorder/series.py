"""Merges the samples of a recording and its rows of the past into one series.

The rule of this file: each symbol has at most one row for each instant, a multiple of the step. The
row comes from the first of these sources that has one:

    sample    the last sample at or before the instant, if it is at most one step old
    history   the row of the exchange's history for this instant
    archive   the row of the exchange's archive for this instant

An instant without any of them has no row; we interpolate nothing. Numbers keep their recorded
digits. The memory for reading does not grow with the recording.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Final, NamedTuple, Self, TypedDict, cast

from binance_oi.market import arrow
from binance_oi.market.changes import LATE_MS, ChangeTracker
from binance_oi.market.past import Point
from binance_oi.market.rows import SOURCES, PointRow, Row, digits, notional, notionals
from binance_oi.recorder.samples import are_right, check_samples, damaged, numbers, odd_sample
from binance_oi.recorder.schema import LATEST
from binance_oi.recorder.statements import Statements
from binance_oi.recorder.tables import BY_TIME, Tables

SAMPLE: Final = "sample"
CHUNK_MS = 7 * 86_400_000  # the span of one query; memory holds all of its instants

DENSE = 3  # samples per step; with more, the store finds the last one of a step faster than Python
_PAST = """
SELECT time, CAST(open_interest AS TEXT), CAST(notional AS TEXT),
    CAST(circulating_supply AS TEXT), source FROM past
WHERE symbol = ?1 AND time >= ?2 AND time <= ?3 AND time % ?4 = 0 ORDER BY time, source
"""
_NEWEST_PAST = "SELECT max(time) FROM past WHERE symbol = ?1 AND time < ?2"
_NEXT_PAST = "SELECT min(time) FROM past WHERE symbol = ?1 AND time >= ?2 AND time % ?3 = 0"


class SeriesColumns(TypedDict):
    """A series by column."""

    symbol: list[str]
    time: list[int]
    open_interest: list[Decimal]
    notional: list[Decimal | None]
    circulating_supply: list[Decimal | None]
    source: list[str]


_Kept = tuple[int, str, str | None, str | None, int]
"""A row of the past: time, open interest, notional, circulating supply, number of the source."""
_Cells = tuple[int, str, str | None, str | None, str, str | None]
"""Time, open interest, notional, circulating supply, source, mark price."""
_Sampled = tuple[int, str, str | None]
"""Time, open interest, mark price."""


class _Chunk(NamedTuple):
    """Rows of one symbol by column, with numbers as text.

    A sample has a mark price in place of a notional.
    """

    symbol: str
    time: Sequence[int]
    open_interest: Sequence[str]
    notional: Sequence[str | None]
    circulating_supply: Sequence[str | None]
    source: Sequence[str]
    mark_price: Sequence[str | None]

    def points(self) -> Iterator[Point]:
        """The rows as values."""
        values = list(map(Decimal, self.open_interest))
        amounts = values, self.notionals(values), numbers(self.circulating_supply)
        rows = zip(self.time, *amounts, self.source, strict=True)
        return (Point(self.symbol, *row) for row in rows)

    def rows(self) -> list[PointRow]:
        """The rows as text."""
        texts = self.notional
        if self.mark_price.count(None) < len(self.mark_price):
            products = self.notionals(list(map(Decimal, self.open_interest)))
            texts = [None if each is None else digits(each) for each in products]
        symbols = [self.symbol] * len(self.time)
        columns = self.time, self.open_interest, texts, self.circulating_supply, self.source
        return list(zip(symbols, *columns, strict=True))

    def notionals(self, values: Sequence[Decimal]) -> Iterable[Decimal | None]:
        """Return the exact notional of each row, or None where it is unknown.

        Args:
            values: `open_interest` as numbers.
        """
        without = self.mark_price.count(None)
        if without == len(values):
            return numbers(self.notional)
        prices = numbers(self.mark_price)
        if not without:  # nearly always, if the recorder reads prices
            return notionals(values, cast("Iterable[Decimal]", prices))
        columns = values, numbers(self.notional), prices
        return (
            known if price is None else notional(value, price)
            for value, known, price in zip(*columns, strict=True)
        )


class Series:
    """Open interest of some symbols at instants one step apart, sorted by symbol and time.

    Every iteration reads the recording again and keeps no rows. So it works with more rows than fit
    into memory. The Arrow stream (``pyarrow.table(series)``, ``polars.from_arrow``, DuckDB) needs
    the extra `parquet`.
    """

    def __init__(
        self, tables: Tables, symbols: tuple[str, ...], step: int, since: int, until: int
    ) -> None:
        self._tables = tables
        self.symbols = symbols
        self.step = step
        """The time from instant to instant, ms."""
        self.since = since
        """The start of the span, Unix ms, included."""
        self.until = until
        """The end of the span, Unix ms, excluded."""

    def __iter__(self) -> Iterator[Point]:
        for chunk in self._chunks():
            yield from chunk.points()

    def rows(self) -> Iterator[PointRow]:
        """Yield the rows, with numbers as the text that the exchange wrote.

        The notional of a sample is the exact product of its open interest and its mark price.

        Raises:
            RecordingError: The recording cannot be read, or is damaged.
        """
        for rows in self.blocks():
            yield from rows

    def blocks(self) -> Iterator[list[PointRow]]:
        """Yield the rows of `rows` in lists; each list has at most a few thousand rows of one
        symbol.

        Raises:
            RecordingError: The recording cannot be read, or is damaged.
        """
        for chunk in self._chunks():
            yield chunk.rows()

    def between(self, since: int, until: int) -> Self:
        """Return the part of the series from `since` (Unix ms, included) to `until` (excluded)."""
        since, until = max(since, self.since), min(until, self.until)
        return type(self)(self._tables, self.symbols, self.step, since, until)

    def count(self) -> int:
        """Return the number of rows. It reads all of them.

        Raises:
            RecordingError: The recording cannot be read, or is damaged.
        """
        return sum(len(chunk.time) for chunk in self._chunks())

    def newest(self) -> int | None:
        """Return the latest time before `until` of a sample or of a row of the past, or None.

        The time is Unix ms. It may lie before `since`.

        Raises:
            RecordingError: The recording cannot be read.
        """
        with self._opened() as reader:
            times = [reader.newest(symbol, self.until) for symbol in self.symbols]
        return max((time for time in times if time is not None), default=None)

    def to_columns(self) -> SeriesColumns:
        """Return one list per field, as the constructor of a data frame takes it.

        Raises:
            RecordingError: The recording cannot be read, or is damaged.
        """
        columns = SeriesColumns(
            symbol=[], time=[], open_interest=[], notional=[], circulating_supply=[], source=[]
        )
        for chunk in self._chunks():
            columns["symbol"] += [chunk.symbol] * len(chunk.time)
            columns["time"] += chunk.time
            values = list(map(Decimal, chunk.open_interest))
            columns["open_interest"] += values
            columns["notional"] += chunk.notionals(values)
            columns["circulating_supply"] += numbers(chunk.circulating_supply)
            columns["source"] += chunk.source
        return columns

    def columns(self) -> arrow.PastColumns:
        """Return the Arrow types of the numbers. It reads all rows.

        Raises:
            RecordingError: The recording cannot be read, or is damaged.
        """
        columns = arrow.POINTS
        for rows in self.blocks():
            columns = columns.widened(rows)
        return columns

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Export the series to any library that reads Arrow; decimals are exact, times are UTC.

        The stream omits rows with more than 20 digits before the point, or more than 18 after it,
        and logs a warning.
        """
        columns = self.columns()
        return arrow.point_stream(self.blocks(), columns, self._tables, requested_schema)

    def fill(self, tracker: ChangeTracker) -> None:
        """Fill a tracker of changes from the recording, so that it continues after a restart.

        The tracker gets the rows, and the latest samples, which may still become rows. If the
        series begins at least 7 days plus the longest window ago, the tracker computes the same
        values as one that was never stopped.

        Args:
            tracker: A tracker with the step of the series.

        Raises:
            RecordingError: The recording cannot be read, or is damaged.
            ValueError: The steps differ.
        """
        if tracker.step != self.step:
            raise ValueError(f"the tracker has a step of {tracker.step} ms, the series {self.step}")
        with self._opened() as reader:
            for symbol in self.symbols:
                points = [point for chunk in self._of(reader, symbol) for point in chunk.points()]
                newest = reader.newest_sample(symbol, self.until)
                if newest is None:
                    tracker.fill(symbol, points)
                else:
                    self._fill(tracker, symbol, points, reader, newest)

    def _fill(
        self,
        tracker: ChangeTracker,
        symbol: str,
        points: Sequence[Point],
        reader: "_Reader",
        newest: int,
    ) -> None:
        """Fill in one symbol; its newest sample has the time `newest`."""
        step = self.step
        final = (newest - LATE_MS - 1) // step * step  # a late sample may still change later rows
        if points and points[-1].time > newest + step:  # the recorder stopped long ago
            final = points[-1].time
        tracker.fill(symbol, [point for point in points if point.time <= final])
        for _, time, text, _, mark in reader.samples_since(symbol, final - step, self.until):
            value = Decimal(text)
            price = None if mark is None else notional(value, Decimal(mark))
            tracker.observe(symbol, time, value, notional=price)

    @contextmanager
    def _opened(self) -> "Generator[_Reader]":
        with self._tables.moment(len(self.symbols)) as run:
            yield _Reader(run, self._tables, self.step)

    def _chunks(self) -> Iterator[_Chunk]:
        """Yield the rows, symbol after symbol, in chunks of `CHUNK_MS`."""
        with self._opened() as reader:
            for symbol in self.symbols:
                yield from self._of(reader, symbol)

    def _of(self, reader: "_Reader", symbol: str) -> Iterator[_Chunk]:
        step, end = self.step, min(self.until, LATEST + 1)
        size = max(1, CHUNK_MS // step) * step
        first = reader.next_instant(symbol, self.since)
        while first is not None and first < end:
            after = min(first + size, -(-end // step) * step)
            chunk = reader.chunk(symbol, first, after - step)
            if chunk.time:
                yield chunk
            first = reader.next_instant(symbol, after)


class _Reader:
    """Reads the rows of instants through one connection."""

    def __init__(self, run: Statements, tables: Tables, step: int) -> None:
        self._run, self._tables, self._step = run, tables, step
        self._has_past = tables.has("past", run)

    def next_instant(self, symbol: str, since: int) -> int | None:
        """Return the first instant at or after `since` that may have a row, or None."""
        step = self._step
        first = max(0, -(-since // step) * step)
        times = [self._time(self._tables.queries.next_time, symbol, first - step)]
        if self._has_past:
            times.append(self._time(_NEXT_PAST, symbol, first, step))
        known = [time for time in times if time is not None]
        return max(first, -(-min(known) // step) * step) if known else None

    def _time(self, query: str, *values: object) -> int | None:
        """Run a query for one time, and return that time, or None."""
        ((time,),) = self._run.execute(query, values).fetchall()
        return time if isinstance(time, int) else None

    def newest_sample(self, symbol: str, until: int) -> int | None:
        """Return the time of the last sample before `until`; None if there is none."""
        return self._time(self._tables.queries.newest_time, symbol, until)

    def newest(self, symbol: str, until: int) -> int | None:
        """Return the time of the last sample or row of the past before `until`, or None."""
        times = [self.newest_sample(symbol, until)]
        if self._has_past:
            times.append(self._time(_NEWEST_PAST, symbol, until))
        return max((time for time in times if time is not None), default=None)

    def samples_since(self, symbol: str, since: int, until: int) -> list[Row]:
        """Return the samples from `since` (included) to `until` (excluded), sorted by time."""
        rows: list[Row] = self._run.execute(
            f"{self._tables.queries.samples} {BY_TIME}", (symbol, since, until)
        ).fetchall()
        if rows:
            check_samples(rows, self._tables)
        return rows

    def chunk(self, symbol: str, first: int, last: int) -> _Chunk:
        """Return the rows from instant `first` to instant `last`, both multiples of the step."""
        past, sampled = self._past(symbol, first, last), self._sampled(symbol, first, last)
        none = [None] * max(len(past), len(sampled))
        if not past:
            times = [time for time, _ in sampled]
            values = [row[1] for _, row in sampled]
            prices = [row[2] for _, row in sampled]
            return _Chunk(symbol, times, values, none, none, [SAMPLE] * len(times), prices)
        if not sampled:
            instants, numbers, amounts, supplies, sources = zip(*past, strict=True)
            names = [SOURCES[each] for each in sources]
            return _Chunk(symbol, instants, numbers, amounts, supplies, names, none)
        found: dict[int, _Cells] = {row[0]: (*row[:4], SOURCES[row[4]], None) for row in past}
        found |= {time: (time, row[1], None, None, SAMPLE, row[2]) for time, row in sampled}
        rows = [found[time] for time in sorted(found)]
        return _Chunk(symbol, *zip(*rows, strict=True))

    def _past(self, symbol: str, first: int, last: int) -> list[_Kept]:
        """Return the rows of the past, sorted by time. If both sources have a row, take history's.

        Raises:
            RecordingError: The rows have a value that no backfill writes.
        """
        if not self._has_past:
            return []
        span = symbol, first, last, self._step
        rows: list[_Kept] = self._run.execute(_PAST, span).fetchall()
        if not rows:
            return []
        times, values, amounts, supplies, sources = zip(*rows, strict=True)
        if not (are_right([times], values, amounts, supplies) and SOURCES.keys() >= {*sources}):
            raise damaged(self._tables, f"an impossible row of the past of {symbol!r:.40}")
        if len({*times}) < len(times):  # some instants have a row of each source
            return [*{row[0]: row for row in reversed(rows)}.values()][::-1]
        return rows

    def _sampled(self, symbol: str, first: int, last: int) -> list[tuple[int, _Sampled]]:
        """Return the instants that have a sample, in order, each with its last sample."""
        step = self._step
        latest = self._last_of_each_step(symbol, first - step, last)
        found = [(slot * step, row) for slot, row in latest.items() if slot * step >= first]
        # A sample exactly at an instant is one step old at the next one, so it still counts there.
        late = [
            (row[0] + step, row)
            for slot, row in latest.items()
            if row[0] == slot * step and slot + 1 not in latest and row[0] < last
        ]
        return sorted(found + late) if late else found

    def _last_of_each_step(self, symbol: str, first: int, last: int) -> dict[int, _Sampled]:
        """Return the last sample of each step, in order. A key is a step's end / its length."""
        step, latest, is_mixed = self._step, dict[int, _Sampled](), False
        span = symbol, first, last
        for count, samples, last_of_step in self._tables.queries.steps:
            ((number,),) = self._run.execute(count, span).fetchall()
            if number > DENSE * ((last - first) // step + 1):
                rows = self._run.execute(last_of_step, (*span, step)).fetchall()
            else:
                rows = self._run.execute(samples, span).fetchall()
            self._check(symbol, rows)
            before, latest = latest, {-(-row[0] // step): row for row in rows}
            for slot, row in before.items():  # an earlier table may have the later sample
                if slot not in latest or latest[slot][0] < row[0]:
                    latest[slot], is_mixed = row, True
        return dict(sorted(latest.items())) if is_mixed else latest

    def _check(self, symbol: str, rows: Sequence[_Sampled]) -> None:
        """Check that a recorder may have written these values.

        Raises:
            RecordingError: One of them is a value that no recorder writes.
        """
        if rows:
            times, values, prices = zip(*rows, strict=True)
            if not are_right([times], values, prices):
                raise odd_sample(self._tables, symbol)
