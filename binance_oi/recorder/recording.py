"""The file of a recording, and how it is read.

A recording is an SQLite database that any tool may read while it is written. The rule of this
file: reading changes nothing, and numbers leave as the exchange wrote them. Damage is an error of
ours that names the file, in every way to read: SQLite says what it finds, and what it does not look
at (the type of a value, the text of a number) is checked here.
"""

import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from decimal import Decimal
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypedDict

from binance_oi.encoding import Encodable
from binance_oi.errors import RecordingError
from binance_oi.exchange.symbols import check_symbols, is_name
from binance_oi.market import arrow
from binance_oi.market.gap import Gap
from binance_oi.market.rows import Batch, Row
from binance_oi.recorder.atomic import check_place
from binance_oi.recorder.backup import copy
from binance_oi.recorder.opening import open_to_read
from binance_oi.recorder.schema import (
    COLUMNS,
    EVERY_SYMBOL,
    NOT_SETTLED,
    read_source,
    reading,
)
from binance_oi.recorder.sides import SIDE_FILES, beside, has_side_name, is_same
from binance_oi.times import instant, unix_ms

BATCH = 65_536  # rows in memory at a time


# SELECT DISTINCT would read every row; this reads one for each symbol, and the recent ones.
_SYMBOLS = """
WITH RECURSIVE found(symbol) AS (
    SELECT min(symbol) FROM settled
    UNION  -- ALL would go round for ever where damage has put an earlier symbol behind a later one
    SELECT (SELECT min(symbol) FROM settled WHERE settled.symbol > found.symbol)
    FROM found WHERE found.symbol IS NOT NULL
)
SELECT symbol FROM found WHERE symbol IS NOT NULL
UNION SELECT symbol FROM recent ORDER BY symbol
"""
# Not from the view: its `recent` is always that of the file, and never that of `_sort_recent`.
_SAMPLES = " UNION ALL ".join(
    f"SELECT symbol, time, open_interest, received, mark_price FROM {table} "
    f"WHERE symbol = ?1 AND time >= ?2 AND time < ?3 AND {condition}"
    for table, condition in (("settled", "TRUE"), ("recent", NOT_SETTLED))
)
_BY_TIME, _FIRST, _LAST = "ORDER BY time", "ORDER BY time LIMIT 1", "ORDER BY time DESC LIMIT 1"
# One by one: a query with both min and max, or over both tables, reads all the rows between.
_ENDS = " UNION ALL ".join(
    f"SELECT {end}(time) FROM {table} WHERE symbol = ?1 AND time >= ?2 AND time < ?3"
    for end in ("min", "max")
    for table in ("settled", "recent")
)
# Each gap with its period and its slots that have no sweep. A slot counts once, also where gaps
# overlap: of a gap, only what is after the end of all that begin before it. The period is that of
# the gap, for a recording may change its own; a gap with none that can be has no slot.
_COUNTED = """
WITH gap AS (
    SELECT first, last, reason, detail, iif(period > 0, period, NULL) AS period, coalesce(
        max(last) OVER (ORDER BY first ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
        first - 1
    ) AS before FROM gaps WHERE symbol = ''
), part AS (
    SELECT *, first + max(0, (before - first + period) / period) * period AS due FROM gap
)
SELECT first, last, reason, detail, coalesce(period, 0) AS period, CASE WHEN due <= last THEN
    (last - due) / period + 1 - (
        SELECT count(*) FROM sweeps
        WHERE slot BETWEEN due AND last AND (slot - due) % period = 0
    )
ELSE 0 END AS slots FROM part ORDER BY first
"""

# Whether there is a mark price, and whether a number is longer than the exchange's usual ones. The
# length alone says that most are not.
_LONG = (
    f"(length({{0}}) > {arrow.PLAIN_SCALE + 1} AND CASE instr({{0}}, '.')"
    " WHEN 0 THEN length({0}) > {1} ELSE instr({0}, '.') > {1} + 1"
    f" OR length({{0}}) - instr({{0}}, '.') > {arrow.PLAIN_SCALE} END)"
)
_LOOKS = " UNION ALL ".join(  # over both tables at once, it would take twice as long
    "SELECT max(mark_price IS NOT NULL),"
    f" max({_LONG.format('open_interest', arrow.PLAIN_VALUE)}"
    f" OR (mark_price IS NOT NULL AND {_LONG.format('mark_price', arrow.PLAIN_PRICE)}))"
    f" FROM {table} WHERE symbol = ?1 AND time >= ?2 AND time < ?3"
    for table in ("settled", "recent")
)

_SORTED = f"CREATE TEMP TABLE recent ({COLUMNS}    PRIMARY KEY (symbol, time)\n) WITHOUT ROWID"
FEW = 8  # symbols: for more, what is recent is sorted once instead of being looked through for each
EVER = 0, 1 << 62  # Unix ms
# Unix ms: the years 1 to 9999, which a `datetime` can be.
EARLIEST, LATEST = -62_135_596_800_000, 253_402_300_799_999
CHECKED = 1024  # rows whose values are checked together

# The exchange's answers have no other numbers, and an export takes none.
NUMBER = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?")
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
    """What is known of one sweep. Times are Unix ms."""

    __slots__ = ()


class _CountedGap(NamedTuple):
    gap: Gap
    period: int
    """From slot to slot of this gap, ms; 0 when the file holds none that can be."""
    slots: int
    """Slots without a sweep; 0 of an empty gap. A slot of two gaps counts in the first one."""


class CountedGap(_CountedGap, Encodable):
    """Slots without any sweep, and how many they are."""

    __slots__ = ()


def _damaged(path: Path, what: str) -> RecordingError:
    return RecordingError(f"{path} is damaged: {what}")


def _typed(rows: Iterable[tuple[Any, ...]], path: Path, *kinds: type) -> Iterator[tuple[Any, ...]]:
    """The same rows; a whole number is a time or a count, and no larger than a time can be.

    Raises:
        RecordingError: They cannot be read, or a value is of another type.
    """
    with reading(path):
        for row in rows:
            numbers = [value for value in row if type(value) is int]
            within = all(EARLIEST <= n <= LATEST for n in numbers)
            if tuple(map(type, row)) != kinds or not within:
                raise _damaged(path, f"{row!r:.80} is no row of it")
            yield row


def _check_samples(rows: Sequence[Row], path: Path) -> None:
    """See that values are what a recorder writes; by column, for there may be millions.

    Raises:
        RecordingError: They are not.
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
    """Recorded samples of some symbols and a span, sorted by symbol and time.

    Nothing is read before it is asked for, and nothing is kept: it may be larger than the memory,
    and may be read again. The Arrow stream (``pyarrow.table(samples)``, ``polars.from_arrow``,
    DuckDB) needs the extra `parquet`.
    """

    def __init__(self, path: Path, symbols: tuple[str, ...], since: int, until: int) -> None:
        self._path = path
        self.symbols = symbols
        self.since = since
        """Unix ms, included."""
        self.until = until
        """Unix ms, not included."""

    def __iter__(self) -> Iterator[Sample]:
        return map(_sample, self.rows())

    def rows(self) -> Iterator[Row]:
        """The same, with numbers as the exchange wrote them.

        Raises:
            RecordingError: The file cannot be read.
        """
        for rows in self._chunks(CHECKED):
            yield from rows

    def _chunks(self, size: int) -> Iterator[list[Row]]:
        """So many rows at a time, and fewer at the end, with values that were checked."""
        with reading(self._path), closing(_open_for(self._path, self.symbols)) as connection:
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
        """The same by column, some ten thousand rows at a time.

        Raises:
            RecordingError: The file cannot be read.
        """
        return map(Batch.of, self._chunks(BATCH))

    def between(self, since: int, until: int) -> Self:
        """The part of them from `since` until before `until` (Unix ms)."""
        since, until = max(since, self.since), min(until, self.until)
        return type(self)(self._path, self.symbols, since, until)

    def span(self) -> tuple[int, int] | None:
        """The first and the last transaction time (Unix ms); None when there is no sample.

        Raises:
            RecordingError: The file cannot be read.
        """
        ends: list[int] = []
        with reading(self._path), closing(_open_for(self._path, self.symbols)) as connection:
            for symbol in self.symbols:
                found = connection.execute(_ENDS, (symbol, self.since, self.until))
                known = ((time,) for (time,) in found if time is not None)
                ends += [time for (time,) in _typed(known, self._path, int)]
        return (min(ends), max(ends)) if ends else None

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
        """What the Arrow columns of their numbers are.

        It reads the numbers only when some are longer than the exchange's usual ones.

        Raises:
            RecordingError: The file cannot be read.
        """
        has_prices = has_long = False
        with reading(self._path), closing(_open_for(self._path, self.symbols)) as connection:
            for symbol in self.symbols:
                for prices, long in connection.execute(_LOOKS, (symbol, self.since, self.until)):
                    has_prices, has_long = has_prices or bool(prices), has_long or bool(long)
        columns = arrow.Columns.of(self.batches()) if has_long else arrow.Columns()
        return columns._replace(has_notional=has_prices)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The samples for anything that reads Arrow; decimals are exact, times are UTC.

        With recorded mark prices there is a column `notional`. A row with more than 20 digits
        before the point or 18 after it is left out, with a warning.
        """
        columns = self.columns()
        return arrow.stream(self.batches(), columns, self._path, requested_schema)


def _sample(row: Row) -> Sample:
    symbol, time, value, received, mark = row
    return Sample(symbol, time, Decimal(value), received, None if mark is None else Decimal(mark))


class Recording:
    """Reads a recording, also while it is written.

        with Recording("oi.db") as recording:
            for sample in recording.samples(["BTCUSDT"]):
                ...

    Raises:
        RecordingError: There is no such file, it is not ours, or of another version. Every way to
            read raises it as well, also in the middle of an iteration: the file is damaged or cut
            short, or cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path: Path = Path(path)
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

    def check_target(self, target: Path) -> None:
        """See that a file or a directory at `target` would not replace what must stay.

        The name does not matter: links, hard links, other ways to the directory and other case
        (of file systems that ignore it) lead to the same place. A side file that is not there is
        refused as well, beside any recording: SQLite would take a file of that name for its own.

        Raises:
            RecordingError: It is the recording, its log or another file beside it; or a device, a
                pipe or a socket.
        """
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
        target: str | Path,
        *,
        replace: bool = False,
        on_pages: Callable[[int, int], object] | None = None,
    ) -> None:
        """Copy the recording as it is at this moment, also while it is recorded into.

        The copy is one file that is whole as soon as it has its name, with everything that was
        acknowledged before this call. It can be read, moved and continued like any recording. A
        recorder goes on meanwhile; its file grows more than usual until the copy is made.

        Args:
            target: Name of the copy.
            replace: Put it in the place of what has that name; otherwise that is an error.
            on_pages: Called now and then with the pages copied and the pages there are.

        Raises:
            RecordingError: The target is there already, is the recording or belongs to it, is
                written by somebody else, or cannot be written.
        """
        path = Path(target)
        self.check_target(path)
        copy(self.path, path, replace=replace, on_pages=on_pages)

    @property
    def source(self) -> str | None:
        """Where it was recorded: ``production``, ``testnet``, ``local`` or another base URL.

        None when the file does not say, as those of version 2 do not.
        """
        with reading(self.path):
            return read_source(self._connection)

    def _rows(self, query: str, values: Sequence[object], *kinds: type) -> Iterator[Any]:
        """What a query finds as of now, read while it is iterated over."""
        with reading(self.path):
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
            until: Before this one (aware).

        Raises:
            InvalidSymbolError: One of `symbols` cannot be a symbol.
            RecordingError: One of `symbols` was never recorded.
            ValueError: A moment does not say its time zone, or `since` is later than `until`.
        """
        if since is not None and until is not None and unix_ms(since) > unix_ms(until):
            raise ValueError(
                f"since ({since.isoformat()}) is later than until ({until.isoformat()})"
            )
        wanted = self.symbols() if symbols is None else sorted(check_symbols(symbols))
        if unknown := [symbol for symbol in wanted if not self._has(symbol)]:
            raise RecordingError(f"{self.path} has no {', '.join(unknown)}")
        first = EVER[0] if since is None else unix_ms(since)
        last = EVER[1] if until is None else unix_ms(until)
        return Samples(self.path, tuple(wanted), first, last)

    def _has(self, symbol: str) -> bool:
        query = "SELECT 1 FROM samples WHERE symbol = ? LIMIT 1"
        return any(self._rows(query, (symbol,), int))

    def ends(self, span: tuple[int, int] = EVER) -> Iterator[tuple[Sample, Sample]]:
        """The first and the last sample of every symbol that has some.

        Args:
            span: Unix ms, from the first on and before the second; everything unless it is given.
        """
        symbols = self.symbols()
        with reading(self.path), closing(_open_for(self.path, symbols)) as connection:
            for symbol in symbols:
                both = [
                    row
                    for end in (_FIRST, _LAST)
                    for row in connection.execute(f"{_SAMPLES} {end}", (symbol, *span)).fetchall()
                ]
                if not both and span != EVER:
                    continue
                if not both:  # what lists the symbols has it, and what finds a symbol has not
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

    def sweeps(self) -> Iterator[Sweep]:
        """Every sweep, in the order of the schedule."""
        columns = ", ".join(Sweep._fields)
        query = f"SELECT {columns} FROM sweeps ORDER BY slot"
        return map(Sweep._make, self._rows(query, (), *[int] * len(Sweep._fields)))

    def missed(self) -> int:
        """How many slots have no sweep."""
        query = f"SELECT coalesce(sum(slots), 0) FROM ({_COUNTED})"
        ((missed,),) = self._rows(query, (), int)
        return int(missed)

    def counted_gaps(self) -> Iterator[CountedGap]:
        """The same as `gaps`, with the number of slots of each; their sum is `missed`."""
        for *gap, period, slots in self._rows(_COUNTED, (), int, int, str, str, int, int):
            yield CountedGap(Gap._make(gap), period, slots)

    def failures(self) -> Iterator[tuple[str, str, int]]:
        """Symbols that some sweeps lack: symbol, reason and number of sweeps, most first."""
        query = (
            "SELECT symbol, reason, sum((last - first) / period + 1) AS sweeps FROM gaps"
            " WHERE symbol != '' GROUP BY symbol, reason ORDER BY sweeps DESC, symbol"
        )
        return self._rows(query, (), str, str, int)

    def gaps(self, symbol: str = EVERY_SYMBOL) -> Iterator[Gap]:
        """Slots without any sweep; with `symbol`, sweeps that lack only this one."""
        query = "SELECT first, last, reason, detail FROM gaps WHERE symbol = ? ORDER BY first"
        return map(Gap._make, self._rows(query, (symbol,), int, int, str, str))


def _open_for(path: Path, symbols: tuple[str, ...]) -> sqlite3.Connection:
    """A connection that reads those symbols one after the other; many of them as of one moment.

    Raises:
        RecordingError: The file cannot be read.
    """
    connection = open_to_read(path)
    try:
        with reading(path):
            if len(symbols) > FEW:
                _sort_recent(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _sort_recent(connection: sqlite3.Connection) -> None:
    """From now on `recent` is a copy in memory, by symbol."""
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA query_only = OFF")  # what is temporary counts as well
    connection.execute("BEGIN")  # or some of it could be moved to `settled` and be there twice
    connection.execute(_SORTED)
    connection.execute("INSERT INTO temp.recent SELECT * FROM main.recent")
    connection.execute("PRAGMA query_only = ON")
