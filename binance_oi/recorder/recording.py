"""Reading a recording: samples, sweeps and gaps.

A recording is an SQLite database that any tool may read while a recorder writes it. The rule of
this file: reading changes nothing, and numbers leave as the exchange wrote them. Every way to read
reports damage as a `RecordingError` that names the file. SQLite finds some damage; this module
checks what SQLite does not: the type of a value, the text of a number.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from decimal import Decimal
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypedDict

from binance_oi.arguments import StrPath, check_path
from binance_oi.encoding import Encodable
from binance_oi.errors import RecordingError
from binance_oi.exchange.symbols import check_symbols, is_name
from binance_oi.market import arrow
from binance_oi.market.gap import Gap
from binance_oi.market.rows import Batch, Row
from binance_oi.recorder.atomic import check_place
from binance_oi.recorder.backup import copy
from binance_oi.recorder.opening import open_to_read
from binance_oi.recorder.past import Past, source_number
from binance_oi.recorder.schema import (
    COLUMNS,
    EARLIEST,
    EVERY_SYMBOL,
    LATEST,
    NOT_SETTLED,
    NUMBER,
    read_source,
    translate_read_errors,
)
from binance_oi.recorder.sides import SIDE_FILES, beside, has_side_name, is_same
from binance_oi.times import instant, unix_ms

ROWS_PER_BATCH = 65_536


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
_BY_TIME, _FIRST, _LAST = "ORDER BY time", "ORDER BY time LIMIT 1", "ORDER BY time DESC LIMIT 1"
# Four queries: one query with both min and max, or over both tables, reads all rows in between.
_FIRST_AND_LAST_TIMES = " UNION ALL ".join(
    f"SELECT {end}(time) FROM {table} WHERE symbol = ?1 AND time >= ?2 AND time < ?3"
    for end in ("min", "max")
    for table in ("settled", "recent")
)
# Each gap with its period and the number of its slots that have no sweep, from ?1 on and before ?2.
# Where gaps overlap, a slot counts once: a gap counts only after the end of all gaps that begin
# before it. The period is the gap's own, for a recording may change its period. A gap with an
# impossible period has no slot. An empty gap is where it begins.
_COUNTED = """
WITH gap AS (
    SELECT first, last, reason, detail, iif(period > 0, period, NULL) AS period, coalesce(
        max(last) OVER (ORDER BY first ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
        first - 1
    ) AS before FROM gaps WHERE symbol = ''
), inside AS (
    SELECT reason, detail, period, before,
        first + coalesce(max(0, (?1 - first + period - 1) / period) * period, 0) AS first,
        iif(last < ?2, last, coalesce(first + (?2 - 1 - first) / period * period, ?2 - 1)) AS last
    FROM gap WHERE first < ?2 AND max(first, last) >= ?1
), part AS (
    SELECT *, first + max(0, (before - first + period) / period) * period AS due FROM inside
)
SELECT first, last, reason, detail, coalesce(period, 0) AS period, CASE WHEN due <= last THEN
    (last - due) / period + 1 - (
        SELECT count(*) FROM sweeps
        WHERE slot BETWEEN due AND last AND (slot - due) % period = 0
    )
ELSE 0 END AS slots FROM part ORDER BY first
"""
# The slots from ?1 on and before ?2 in which sweeps lack one symbol alone.
_FAILED = """
WITH part AS (
    SELECT symbol, reason, period, min(last, ?2 - 1) AS ends,
        first + max(0, (?1 - first + period - 1) / period) * period AS begins
    FROM gaps WHERE symbol != '' AND period > 0
)
SELECT symbol, reason, sum((ends - begins) / period + 1) AS sweeps FROM part
WHERE begins <= ends GROUP BY symbol, reason ORDER BY sweeps DESC, symbol
"""

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
ALWAYS = -(1 << 62), 1 << 62  # Unix ms, of slots: damage may put one before 1970
ROWS_PER_CHECK = 1024

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


class _Sweep(NamedTuple):
    slot: int
    period: int
    started: int
    finished: int
    asked: int
    read: int
    new: int
    weight: int


class Sweep(_Sweep, Encodable):
    """One row of the table `sweeps`. Times are Unix ms."""

    __slots__ = ()


class _CountedGap(NamedTuple):
    gap: Gap
    period: int
    """From slot to slot of this gap, ms; 0 when the file holds an impossible period."""
    slots: int
    """Slots without a sweep; 0 for an empty gap. A slot in two gaps counts in the first one."""


class CountedGap(_CountedGap, Encodable):
    """Slots without any sweep, and their number."""

    __slots__ = ()


def _damaged(path: Path, what: str) -> RecordingError:
    return RecordingError(f"{path} is damaged: {what}")


def _typed(rows: Iterable[tuple[Any, ...]], path: Path, *kinds: type) -> Iterator[tuple[Any, ...]]:
    """Yield the rows after a check of their types; integers must be possible times.

    Raises:
        RecordingError: The rows cannot be read, or a value has a wrong type or is out of range.
    """
    with translate_read_errors(path):
        for row in rows:
            numbers = [value for value in row if type(value) is int]
            within = all(EARLIEST <= n <= LATEST for n in numbers)
            if tuple(map(type, row)) != kinds or not within:
                raise _damaged(path, f"it contains an invalid row: {row!r:.80}")
            yield row


def _check_samples(rows: Sequence[Row], path: Path) -> None:
    """Check that the values are what a recorder writes; by column, for there may be millions.

    Raises:
        RecordingError: A value is not.
    """
    symbols, *instants, values, marks = zip(*map(_BY_KIND, rows), strict=True)
    without = marks.count(None) == len(marks)
    texts = values if without else (*values, *(mark for mark in marks if mark is not None))
    try:
        right = (
            {*map(type, symbols)} == {str}
            and all(map(is_name, {*symbols}))
            and all(map(NUMBER.fullmatch, texts))
            and all({*map(type, times)} == {int} for times in instants)
            and all(min(times) >= 0 and max(times) <= LATEST for times in instants)
        )
    except TypeError:
        right = False
    if not right:
        raise _damaged(path, f"a sample of {symbols[0]!r:.40} is none that a recorder writes")


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
        return map(_sample, self.rows())

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
            closing(_open_for(self._path, self.symbols)) as connection,
        ):
            rows: list[Row] = []
            for symbol in self.symbols:
                found = connection.execute(
                    f"{_SAMPLES} {_BY_TIME}", (symbol, self.since, self.until)
                )
                while more := found.fetchmany(size - len(rows)):
                    _check_samples(more, self._path)
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
            closing(_open_for(self._path, self.symbols)) as connection,
        ):
            for symbol in self.symbols:
                found = connection.execute(_FIRST_AND_LAST_TIMES, (symbol, self.since, self.until))
                known = ((time,) for (time,) in found if time is not None)
                ends += [time for (time,) in _typed(known, self._path, int)]
        return (min(ends), max(ends)) if ends else None

    def count(self) -> int:
        """How many there are.

        Raises:
            RecordingError: The file cannot be read.
        """
        count = 0
        with (
            translate_read_errors(self._path),
            closing(_open_for(self._path, self.symbols)) as connection,
        ):
            for symbol in self.symbols:
                query = f"SELECT count(*) FROM ({_SAMPLES})"
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
            closing(_open_for(self._path, self.symbols)) as connection,
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


def _sample(row: Row) -> Sample:
    symbol, time, value, received, mark = row
    return Sample(symbol, time, Decimal(value), received, None if mark is None else Decimal(mark))


def _span(since: datetime | None, until: datetime | None) -> tuple[int, int]:
    """These bounds in Unix ms.

    Raises:
        ValueError: A time has no time zone, or `since` is later than `until`.
    """
    if since is not None and until is not None and unix_ms(since) > unix_ms(until):
        raise ValueError(f"since ({since.isoformat()}) is later than until ({until.isoformat()})")
    first = ALL_TIME_MS[0] if since is None else unix_ms(since)
    return first, ALL_TIME_MS[1] if until is None else unix_ms(until)


class Recording:
    """Reads a recording, also while a recorder writes it.

        with Recording("oi.db") as recording:
            for sample in recording.samples(["BTCUSDT"]):
                ...

    Raises:
        RecordingError: The file is missing, is not a recording, or has an unknown version. Every
            method that reads raises it as well, also in the middle of an iteration: the file is
            damaged or truncated, or cannot be read.
    """

    def __init__(self, path: StrPath) -> None:
        self.path: Path = check_path("path", path)
        self._connection = open_to_read(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. May be repeated."""
        self._connection.close()

    def check_target(self, target: StrPath) -> None:
        """Check that a file or a directory at `target` would not replace what must stay.

        The name alone does not decide: links, hard links, other ways to the directory and, where
        the file system ignores it, other case lead to the same place. The name of a side file is
        refused beside any recording, even if there is no such file: SQLite would take it for one.

        Raises:
            RecordingError: The target is the recording, its log or another file beside it, or a
                device, a pipe or a socket.
        """
        target = check_path("target", target)
        check_place(target)
        if is_same(target, self.path):
            raise RecordingError(f"{target} is the recording itself")
        made = (target, *(path for path in target.parents if not os.path.exists(path)))
        for own in (beside(self.path, ending) for ending in SIDE_FILES):
            if any(is_same(path, own) for path in made):
                raise RecordingError(f"{target} belongs to the recording {self.path}")
        if has_side_name(target):
            raise RecordingError(f"{target} has the name of a file beside a recording")

    def backup(
        self,
        target: StrPath,
        *,
        replace: bool = False,
        on_pages: Callable[[int, int], object] | None = None,
    ) -> None:
        """Copy the recording as it is at this moment, also while a recorder writes it.

        The copy is one file that is complete when it gets its name. It holds everything that was
        acknowledged before this call, and can be read, moved and continued like any recording. A
        recorder continues meanwhile; its log grows more than usual until the copy is complete.

        Args:
            target: Name of the copy.
            replace: Replace an existing file of that name; otherwise it is an error.
            on_pages: Called repeatedly with the number of copied pages and of all pages.

        Raises:
            RecordingError: The target exists, is the recording or belongs to it, is being written
                by another process, or cannot be written.
        """
        path = check_path("target", target)
        self.check_target(path)
        copy(self.path, path, replace=replace, on_pages=on_pages)

    @property
    def source(self) -> str | None:
        """Where it was recorded: ``production``, ``testnet``, ``local`` or another base URL.

        None when the file does not say, as in version 2.
        """
        with translate_read_errors(self.path):
            return read_source(self._connection)

    def _rows(self, query: str, values: Sequence[object], *kinds: type) -> Iterator[Any]:
        """The rows of a query on the current state, read while they are iterated over."""
        with translate_read_errors(self.path):
            found = self._connection.execute(query, values)
        return _typed(found, self.path, *kinds)

    def symbols(self) -> tuple[str, ...]:
        """Every symbol that has samples, sorted."""
        return tuple(symbol for (symbol,) in self._rows(_SYMBOLS, (), str))

    def samples(
        self,
        symbols: Iterable[str] | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Samples:
        """Samples by symbol and time.

        Args:
            symbols: None takes all.
            since: The earliest transaction time (aware).
            until: The end of the span, excluded (aware).

        Raises:
            InvalidSymbolError: One of `symbols` cannot be a symbol.
            RecordingError: One of `symbols` was never recorded.
            ValueError: A time has no time zone, or `since` is later than `until`.
        """
        span = _span(since, until)
        wanted = self.symbols() if symbols is None else sorted(check_symbols(symbols))
        if unknown := [symbol for symbol in wanted if not self._has(symbol)]:
            raise RecordingError(f"{self.path} has no {', '.join(unknown)}")
        return Samples(self.path, tuple(wanted), *span)

    def past(
        self,
        symbols: Iterable[str] | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        source: str | None = None,
    ) -> Past:
        """Instants of the past that were stored beside the samples, by symbol, time and source.

        A symbol without such rows has none here; that is no error.

        Args:
            symbols: None takes all.
            since: The earliest instant (aware).
            until: The end of the span, excluded (aware).
            source: ``history`` or ``archive``; None takes both.

        Raises:
            InvalidSymbolError: One of `symbols` cannot be a symbol.
            ValueError: A time has no time zone, `since` is later than `until`, or there is no such
                source.
        """
        wanted = None if symbols is None else sorted(check_symbols(symbols))
        return Past(self.path, wanted, *_span(since, until), source_number(source))

    def _has(self, symbol: str) -> bool:
        query = "SELECT 1 FROM samples WHERE symbol = ? LIMIT 1"
        return any(self._rows(query, (symbol,), int))

    def first_and_last(
        self, span: tuple[int, int] = ALL_TIME_MS
    ) -> Iterator[tuple[Sample, Sample]]:
        """The first and the last sample of every symbol that has samples in `span`.

        Args:
            span: Unix ms; the start is included, the end is not. The default is all time.
        """
        symbols = self.symbols()
        with (
            translate_read_errors(self.path),
            closing(_open_for(self.path, symbols)) as connection,
        ):
            for symbol in symbols:
                both = [
                    row
                    for end in (_FIRST, _LAST)
                    for row in connection.execute(f"{_SAMPLES} {end}", (symbol, *span)).fetchall()
                ]
                if not both and span != ALL_TIME_MS:
                    continue
                if not both:  # the table lists the symbol, but a search for it finds nothing
                    raise _damaged(self.path, f"the samples of {symbol!r:.40} are not found")
                _check_samples(both, self.path)
                yield _sample(both[0]), _sample(both[-1])

    def span(self) -> tuple[datetime, datetime] | None:
        """The first and the last slot of the schedule, gaps included; None when there is none."""
        query = (
            "SELECT min(slot), max(slot) FROM (SELECT slot FROM sweeps UNION ALL"
            " SELECT first FROM gaps WHERE symbol = '' UNION ALL"
            " SELECT last FROM gaps WHERE symbol = '' AND last >= first) HAVING count(*) > 0"
        )
        for first, last in self._rows(query, (), int, int):
            return instant(first), instant(last)
        return None

    def sweeps(self, span: tuple[int, int] = ALWAYS) -> Iterator[Sweep]:
        """Every sweep, in the order of the schedule.

        Args:
            span: Of slots, Unix ms, from the first on and before the second; so it is below.
        """
        columns = ", ".join(Sweep._fields)
        query = f"SELECT {columns} FROM sweeps WHERE slot >= ? AND slot < ? ORDER BY slot"
        return map(Sweep._make, self._rows(query, span, *[int] * len(Sweep._fields)))

    def missed(self) -> int:
        """The number of slots without a sweep."""
        query = f"SELECT coalesce(sum(slots), 0) FROM ({_COUNTED})"
        ((missed,),) = self._rows(query, ALWAYS, int)
        return int(missed)

    def counted_gaps(self, span: tuple[int, int] = ALWAYS) -> Iterator[CountedGap]:
        """The same as `gaps`, with the number of slots of each; they add up to `missed`.

        Of a gap that begins before `span`, or ends after it, only the slots within.
        """
        for *gap, period, slots in self._rows(_COUNTED, span, int, int, str, str, int, int):
            yield CountedGap(Gap._make(gap), period, slots)

    def failures(self, span: tuple[int, int] = ALWAYS) -> Iterator[tuple[str, str, int]]:
        """Symbols that some sweeps lack: symbol, reason, number of sweeps; the most first."""
        return self._rows(_FAILED, span, str, str, int)

    def gaps(self, symbol: str = EVERY_SYMBOL) -> Iterator[Gap]:
        """Slots without any sweep; with `symbol`, sweeps that lack only this one."""
        query = "SELECT first, last, reason, detail FROM gaps WHERE symbol = ? ORDER BY first"
        return map(Gap._make, self._rows(query, (symbol,), int, int, str, str))


def _open_for(path: Path, symbols: tuple[str, ...]) -> sqlite3.Connection:
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
