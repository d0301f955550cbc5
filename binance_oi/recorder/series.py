"""One series from the samples of a recording and the instants of the past beside them.

The rule of this file: each symbol has at most one row for each instant, a multiple of the step. It
is the first of these that there is:

    sample    the last sample at or before the instant that is at most one step old
    history   the row of the exchange's history for this instant
    archive   the row of the exchange's archive for this instant

Nothing is interpolated: an instant with none of them has no row. Numbers leave as they were
written, and reading takes constant memory.
"""

import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple, TypedDict

from binance_oi.market import arrow
from binance_oi.market.changes import LATE_MS, ChangeTracker
from binance_oi.market.past import Point
from binance_oi.market.rows import SOURCES, PointRow, Row, digits, notional
from binance_oi.recorder.past import check_past
from binance_oi.recorder.samples import BY_TIME, SAMPLES, check_samples, open_for
from binance_oi.recorder.schema import LATEST, PAST_SINCE, read_version, translate_read_errors

SAMPLE: Final = "sample"
CHUNK_MS = 7 * 86_400_000  # of one query; memory is for the instants of this time

# The last sample of each step, by SQLite: the other columns are those of the row with the maximum.
# `recent` comes first, because a recorder moves samples from there to `settled` at any time.
# Source: https://www.sqlite.org/lang_select.html#bareagg (since SQLite 3.7.11).
_LAST = tuple(
    f"SELECT symbol, max(time), open_interest, received, mark_price FROM {table}"
    " WHERE symbol = ?1 AND time >= ?2 AND time <= ?3 GROUP BY (time + ?4 - 1) / ?4"
    for table in ("recent", "settled")
)
_PAST = """
SELECT symbol, time, source, open_interest, notional, circulating_supply FROM past
WHERE symbol = ?1 AND time >= ?2 AND time <= ?3 AND time % ?4 = 0 ORDER BY time, source
"""
_NEXT_SAMPLE = tuple(
    f"SELECT min(time) FROM {table} WHERE symbol = ?1 AND time >= ?2"
    for table in ("recent", "settled")
)
_NEWEST = tuple(
    f"SELECT max(time) FROM {table} WHERE symbol = ?1 AND time < ?2"
    for table in ("recent", "settled")
)
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


class _Found(NamedTuple):
    """A row with its numbers as text; a sample has a mark price in place of a notional."""

    symbol: str
    time: int
    open_interest: str
    notional: str | None
    circulating_supply: str | None
    source: str
    mark_price: str | None = None


class Series:
    """Open interest of some symbols at instants, a step apart; sorted by symbol and time.

    Every iteration reads the file anew and keeps nothing, so the rows may exceed the memory. The
    Arrow stream (``pyarrow.table(series)``, ``polars.from_arrow``, DuckDB) needs the extra
    `parquet`.
    """

    def __init__(
        self, path: Path, symbols: tuple[str, ...], step: int, since: int, until: int
    ) -> None:
        self._path = path
        self.symbols = symbols
        self.step = step
        """Ms from instant to instant."""
        self.since = since
        """Unix ms, included."""
        self.until = until
        """Unix ms, not included."""

    def __iter__(self) -> Iterator[Point]:
        for found in self._chunks():
            yield from map(_point, found)

    def rows(self) -> Iterator[PointRow]:
        """The rows, with numbers as the exchange wrote them.

        Raises:
            RecordingError: The file cannot be read, or is damaged.
        """
        for rows in self.blocks():
            yield from rows

    def blocks(self) -> Iterator[list[PointRow]]:
        """The same as `rows`, some thousand of one symbol at a time.

        Raises:
            RecordingError: The file cannot be read, or is damaged.
        """
        for found in self._chunks():
            yield [(*row[:3], _notional_text(row), *row[4:6]) for row in found]

    def count(self) -> int:
        """How many rows there are.

        Raises:
            RecordingError: The file cannot be read, or is damaged.
        """
        return sum(map(len, self._chunks()))

    def newest(self) -> int | None:
        """The latest time of a sample or of an instant of the past (Unix ms); None without any.

        Raises:
            RecordingError: The file cannot be read.
        """
        with self._opened() as reader:
            times = [reader.newest(symbol, self.until) for symbol in self.symbols]
        return max((time for time in times if time is not None), default=None)

    def to_columns(self) -> SeriesColumns:
        """One list for each field, ready for a data frame.

        Raises:
            RecordingError: The file cannot be read, or is damaged.
        """
        columns = SeriesColumns(
            symbol=[], time=[], open_interest=[], notional=[], circulating_supply=[], source=[]
        )
        for found in self._chunks():
            symbols, times, values, _, supplies, sources, _ = zip(*found, strict=True)
            columns["symbol"] += symbols
            columns["time"] += times
            columns["open_interest"] += map(Decimal, values)
            columns["notional"] += map(_notional, found)
            columns["circulating_supply"] += map(_number, supplies)
            columns["source"] += sources
        return columns

    def columns(self) -> arrow.PastColumns:
        """How the numbers of the series are typed in Arrow; it reads all of them.

        Raises:
            RecordingError: The file cannot be read, or is damaged.
        """
        columns = arrow.POINTS
        for rows in self.blocks():
            columns = columns.widened(rows)
        return columns

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Export the series to any library that reads Arrow; decimals are exact, times are UTC.

        The stream leaves out a row with more than 20 digits before the point or 18 after it, and
        warns.
        """
        columns = self.columns()
        return arrow.point_stream(self.blocks(), columns, self._path, requested_schema)

    def fill(self, tracker: ChangeTracker) -> None:
        """Give a tracker what the recording knows, so that it continues as if it had never stopped.

        It gets the rows, and those samples that can still become rows. For the same values as
        before, `since` must be 7 days and the longest window ago, or earlier.

        Args:
            tracker: It must have the step of the series.

        Raises:
            RecordingError: The file cannot be read, or is damaged.
            ValueError: The steps differ.
        """
        if tracker.step != self.step:
            raise ValueError(f"the tracker has a step of {tracker.step} ms, the series {self.step}")
        with self._opened() as reader:
            for symbol in self.symbols:
                points = [_point(row) for rows in self._of(reader, symbol) for row in rows]
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
        """Fill in one symbol whose newest sample is of `newest`."""
        step = self.step
        final = (newest - LATE_MS - 1) // step * step  # later rows may change while samples come
        if points and points[-1].time > newest + step:  # the recorder stopped long ago
            final = points[-1].time
        tracker.fill(symbol, [point for point in points if point.time <= final])
        for _, time, text, _, mark in reader.samples_since(symbol, final - step, self.until):
            value = Decimal(text)
            price = None if mark is None else notional(value, Decimal(mark))
            tracker.observe(symbol, time, value, notional=price)

    @contextmanager
    def _opened(self) -> "Generator[_Reader]":
        with (
            translate_read_errors(self._path),
            closing(open_for(self._path, self.symbols)) as connection,
        ):
            yield _Reader(connection, self._path, self.step)

    def _chunks(self) -> Iterator[list[_Found]]:
        """Yield the rows of one symbol after the other, as many at a time as `CHUNK_MS` has."""
        with self._opened() as reader:
            for symbol in self.symbols:
                yield from self._of(reader, symbol)

    def _of(self, reader: "_Reader", symbol: str) -> Iterator[list[_Found]]:
        step, end = self.step, min(self.until, LATEST + 1)
        size = max(1, CHUNK_MS // step) * step
        first = reader.next_instant(symbol, self.since)
        while first is not None and first < end:
            after = min(first + size, -(-end // step) * step)
            if rows := reader.rows(symbol, first, after - step):
                yield rows
            first = reader.next_instant(symbol, after)


class _Reader:
    """Reads the rows of instants through one connection."""

    def __init__(self, connection: sqlite3.Connection, path: Path, step: int) -> None:
        self._connection, self._path, self._step = connection, path, step
        self._has_past = read_version(connection) >= PAST_SINCE

    def next_instant(self, symbol: str, since: int) -> int | None:
        """The first instant from `since` on that has a row; None when there is none."""
        step = self._step
        first = max(0, -(-since // step) * step)
        times = [self._time(query, symbol, first - step) for query in _NEXT_SAMPLE]
        if self._has_past:
            times.append(self._time(_NEXT_PAST, symbol, first, step))
        known = [time for time in times if time is not None]
        return max(first, -(-min(known) // step) * step) if known else None

    def _time(self, query: str, *values: object) -> int | None:
        """The result of a query for one time."""
        ((time,),) = self._connection.execute(query, values).fetchall()
        return time if isinstance(time, int) else None

    def rows(self, symbol: str, first: int, last: int) -> list[_Found]:
        """The rows from instant `first` to instant `last`; both are multiples of the step."""
        found = self._past(symbol, first, last)
        for time, row in self._samples(symbol, first, last):
            _, _, value, _, price = row
            found[time] = _Found(symbol, time, value, None, None, SAMPLE, price)
        return [found[time] for time in sorted(found)]

    def _past(self, symbol: str, first: int, last: int) -> dict[int, _Found]:
        found = dict[int, _Found]()
        if not self._has_past:
            return found
        rows = self._connection.execute(_PAST, (symbol, first, last, self._step)).fetchall()
        check_past(rows, self._path)
        for _, time, source, value, amount, supply in rows:
            if time not in found:  # history comes before the archive
                found[time] = _Found(symbol, time, value, amount, supply, SOURCES[source])
        return found

    def _samples(self, symbol: str, first: int, last: int) -> Iterator[tuple[int, Row]]:
        """The instants that have a sample, each with the last sample before it."""
        step = self._step
        latest = self._last_of_each_step(symbol, first - step, last)
        for slot, row in latest.items():
            if slot * step >= first:
                yield slot * step, row
            # A sample at an instant is one step old at the next one.
            if row[1] == slot * step and slot + 1 not in latest and first <= row[1] + step <= last:
                yield row[1] + step, row

    def newest_sample(self, symbol: str, until: int) -> int | None:
        """The time of the last sample before `until`; None when there is none."""
        times = (self._time(query, symbol, until) for query in _NEWEST)
        return max((time for time in times if time is not None), default=None)

    def newest(self, symbol: str, until: int) -> int | None:
        """The time of the last sample or instant before `until`; None when there is none."""
        times = [self.newest_sample(symbol, until)]
        if self._has_past:
            times.append(self._time(_NEWEST_PAST, symbol, until))
        return max((time for time in times if time is not None), default=None)

    def samples_since(self, symbol: str, since: int, until: int) -> list[Row]:
        """The samples of a span of time, in its order."""
        rows: list[Row] = self._connection.execute(
            f"{SAMPLES} {BY_TIME}", (symbol, since, until)
        ).fetchall()
        if rows:
            check_samples(rows, self._path)
        return rows

    def _last_of_each_step(self, symbol: str, first: int, last: int) -> dict[int, Row]:
        """The last sample of each step, by the number of the instant at its end."""
        step, latest = self._step, dict[int, Row]()
        for query in _LAST:
            rows: Sequence[Row] = self._connection.execute(
                query, (symbol, first, last, step)
            ).fetchall()
            if rows:
                check_samples(rows, self._path)
            for row in rows:
                slot = -(-row[1] // step)
                if slot not in latest or latest[slot][1] <= row[1]:  # in both: `settled` counts
                    latest[slot] = row
        return latest


def _number(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _notional(row: _Found) -> Decimal | None:
    """The exact notional, if it is known."""
    if row.mark_price is None:
        return _number(row.notional)
    return notional(Decimal(row.open_interest), Decimal(row.mark_price))


def _notional_text(row: _Found) -> str | None:
    known = row.notional if row.mark_price is None else _notional(row)
    return digits(known) if isinstance(known, Decimal) else known


def _point(row: _Found) -> Point:
    symbol, time, value, _, supply, source, _ = row
    return Point(symbol, time, Decimal(value), _notional(row), _number(supply), source)
