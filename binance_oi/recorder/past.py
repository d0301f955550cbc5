"""Writes rows of the past into a recording, and reads them in order.

A row of the past is a value that the exchange published later for an earlier instant. Its source is
the exchange's history or the exchange's archive.

The rule of this file: a recording has at most one row for each symbol, instant and source; a second
write replaces the first. Reading takes constant memory, and numbers keep the exchange's digits.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

from binance_oi.errors import RecordingError
from binance_oi.exchange.symbols import is_name
from binance_oi.market.past import Instant, instant_of
from binance_oi.market.rows import SOURCES, InstantRow
from binance_oi.recorder.schema import LATEST, NUMBER
from binance_oi.recorder.statements import Statements
from binance_oi.recorder.tables import ALWAYS, Tables

ROWS_PER_READ = 1024

# The exchange may replace a file of its archive with one that has other numbers; the newest numbers
# are right. If a row has not changed, this statement changes no page of the file.
_INSERT = """
INSERT INTO past VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    open_interest = excluded.open_interest,
    notional = excluded.notional,
    circulating_supply = excluded.circulating_supply
WHERE (open_interest, notional, circulating_supply)
    IS NOT (excluded.open_interest, excluded.notional, excluded.circulating_supply)
"""
_ROWS = """
SELECT symbol, time, source, CAST(open_interest AS TEXT), CAST(notional AS TEXT),
    CAST(circulating_supply AS TEXT) FROM past
WHERE symbol = ?1 AND time >= ?2 AND time < ?3 AND source BETWEEN ?4 AND ?5
ORDER BY time, source
"""
_TIMES = """
SELECT time FROM past WHERE symbol = ?1 AND source = ?2 AND time BETWEEN ?3 AND ?4 ORDER BY time
"""
# SELECT DISTINCT would read every row. Repeated, this query reads one row for each symbol.
_NEXT = "SELECT min(symbol) FROM past WHERE symbol > ?1"


def source_number(source: str | None) -> int | None:
    """Return the number of a source in a recording; None, for all sources, if `source` is None.

    Raises:
        ValueError: There is no source of this name.
    """
    if source is None:
        return None
    for number, name in SOURCES.items():
        if name == source:
            return number
    raise ValueError(f"source must be one of {', '.join(SOURCES.values())}: {source!r}")


def write_past(connection: sqlite3.Connection, rows: Iterable[InstantRow]) -> int:
    """Write rows within the caller's transaction; return how many are new or have new numbers."""
    before = connection.total_changes
    connection.executemany(_INSERT, rows)
    return connection.total_changes - before


def past_times(
    connection: Statements, symbol: str, source: int, first: int, last: int
) -> list[int]:
    """See `binance_oi.recorder.sink.Sink.past_times`."""
    found = connection.execute(_TIMES, (symbol, source, first, last))
    return [time for (time,) in found.fetchall()]


class Past:
    """Rows of the past of some symbols in a span of time, sorted by symbol, time and source.

    Each iteration reads the recording again and keeps few rows in memory, so there may be more rows
    than memory can hold. A recording of an early version has no table of the past, and yields no
    rows.

    Args:
        tables: The recording.
        symbols: The symbols to read; None reads all.
        since: Unix ms, included.
        until: Unix ms, not included.
        source: The number of the source to read; None reads both.
    """

    def __init__(
        self,
        tables: Tables,
        symbols: Sequence[str] | None,
        since: int,
        until: int,
        source: int | None,
    ) -> None:
        self._tables, self._symbols, self._span = tables, symbols, (since, until)
        # None reads rows of any source number, so that `check_past` also sees impossible numbers.
        self._sources = ALWAYS if source is None else (source, source)

    def __iter__(self) -> Iterator[Instant]:
        return map(instant_of, self.rows())

    def symbols(self) -> tuple[str, ...]:
        """Return every symbol that has rows of the past, of any time and source, sorted.

        Raises:
            RecordingError: The recording cannot be read.
        """
        with self._tables.moment(1) as run:
            return tuple(past_symbols(run)) if self._tables.has("past", run) else ()

    def rows(self) -> Iterator[InstantRow]:
        """Yield the rows, with numbers as text, as the exchange wrote them.

        Raises:
            RecordingError: The recording cannot be read, or is damaged.
        """
        with self._tables.moment(1) as run:
            if not self._tables.has("past", run):
                return
            for symbol in past_symbols(run) if self._symbols is None else self._symbols:
                found = run.execute(_ROWS, (symbol, *self._span, *self._sources))
                while rows := found.fetchmany(ROWS_PER_READ):
                    check_past(rows, self._tables)
                    yield from rows


def check_past(rows: Sequence[InstantRow], tables: Tables) -> None:
    """Check that a backfill can have written these rows.

    Raises:
        RecordingError: A row has a value that no backfill writes.
    """
    if rows and not _are_right(rows):
        row = next(row for row in rows if not _are_right([row]))
        what = f"a row of the past is impossible: {row!r:.80}"
        raise RecordingError(f"{tables} is damaged: {what}")


def past_symbols(connection: Statements) -> Iterator[str]:
    """Yield every symbol that has rows, sorted; the recording must have the table `past`."""
    symbol = ""
    while True:
        ((found,),) = connection.execute(_NEXT, (symbol,)).fetchall()
        # In a damaged index, an earlier symbol may follow a later one. This check ends the loop.
        if not isinstance(found, str) or found <= symbol:
            return
        yield found
        symbol = found


def _are_right(rows: Sequence[InstantRow]) -> bool:
    """Whether a backfill can have written these values. A check by column is faster than by row."""
    symbols, times, sources, values, notionals, supplies = zip(*rows, strict=True)
    known = (*values, *_known(notionals), *_known(supplies))
    try:
        return (
            {*map(type, symbols)} == {str}
            and all(map(is_name, {*symbols}))
            and {*map(type, times)} == {int}
            and min(times) >= 0
            and max(times) <= LATEST
            and {*sources} <= SOURCES.keys()
            and all(map(NUMBER.fullmatch, known))
        )
    except TypeError:  # a number is not text
        return False


def _known(texts: Sequence[str | None]) -> Sequence[str]:
    """Return the texts that are not None; fast if all are None."""
    if texts.count(None) == len(texts):
        return ()
    return [text for text in texts if text is not None]
