"""Stores past open interest in a recording, from the exchange's history and its archive.

An *instant* is a multiple of 5 minutes. History and archive have one row for each symbol and
instant. An instant without a row is a *hole*.

The rule of this file: a run requests only stretches of the history in which the recording lacks
rows, and downloads only files of the archive that the archive's cache lacks. It stores rows soon
after it has received them. So a run may end at any moment, even by a kill. The next run stores the
rest, and the recording then has the same rows as after a single run. Each run requests the holes of
the history again, because a row may have appeared.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Container, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

from binance_oi.arguments import StrPath
from binance_oi.encoding import Encodable
from binance_oi.errors import BinanceOIError, StorageError
from binance_oi.exchange.routes import KEPT_MS, MAX_ROWS, PERIODS
from binance_oi.exchange.symbols import check_symbols
from binance_oi.market.archive import Archive
from binance_oi.market.history import MARGINS_MS, SETTLED_MS
from binance_oi.market.moments import Moment, check_moment, moment_ms
from binance_oi.market.past import History
from binance_oi.market.rows import HISTORY, InstantRow, instant_row
from binance_oi.recorder.address import check_recording, is_database
from binance_oi.recorder.recording import Recording
from binance_oi.recorder.sink import Sink, as_unusable
from binance_oi.recorder.stored import SinkOptions, make_sink
from binance_oi.recorder.writing_thread import WritingThread
from binance_oi.times import instant

STEP_MS = PERIODS["5m"]
PAGE_MS = MAX_ROWS * STEP_MS  # the span of one request
MONTH = timedelta(days=30)  # the exchange keeps rows of history for this long
WORKERS = 8  # symbols at once, as in `histories`
ROWS_PER_WRITE = 4096  # archive rows to collect before a write; two weeks of one symbol


@runtime_checkable
class PastReader(Protocol):
    """The part of a client that a backfill uses; `OpenInterestClient` has it."""

    @property
    def source(self) -> str:
        """The name of the exchange in a recording."""
        ...

    async def symbols(self, *, max_age: float = 0.0) -> tuple[str, ...]:
        """Read the names of all symbols that are trading."""
        ...

    def histories(
        self,
        symbols: Iterable[str] | None = None,
        *,
        period: str = "5m",
        since: Moment = None,
        until: Moment = None,
    ) -> AsyncGenerator[History, None]:
        """Yield past open interest of many symbols."""
        ...


class Span(NamedTuple):
    """Instants from the first to the last one, both included, Unix ms."""

    first: int
    last: int


class _BackfillProgress(NamedTuple):
    source: str
    """``history`` or ``archive``."""
    symbol: str
    """The latest symbol."""
    done: int
    """The number of finished symbols of the history, or of finished days of the archive."""
    of: int
    """The number of all symbols or days."""
    rows: int
    """The number of rows that the recording has received so far, from both sources."""


class BackfillProgress(_BackfillProgress, Encodable):
    """The progress of `backfill`."""

    __slots__ = ()


@dataclass(slots=True, kw_only=True)
class Backfilled(Encodable):
    """The result of a backfill."""

    symbols: int = 0
    """The number of symbols."""
    rows: int = 0
    """The number of received rows."""
    new: int = 0
    """How many of these rows the recording lacked, or had with other numbers."""
    holes: int = 0
    """The number of stretches of time for which the history, or the archive, has no rows."""
    failed: dict[str, BinanceOIError] = field(default_factory=dict[str, BinanceOIError])
    """The error of each symbol that could not be read. For an error of the archive, the key is
    ``SYMBOL DAY``. The next run tries again."""


def spans_of(times: Iterable[int]) -> Iterator[Span]:
    """Yield spans that cover these 5-minute instants with few requests.

    Args:
        times: The instants, Unix ms, sorted. A span may also cover other instants that lie between
            two of these, if that costs no further request.
    """
    first = last = -1
    for at in times:
        if first >= 0 and at - last > STEP_MS and at - first >= PAGE_MS:
            yield Span(first, last)
            first = -1
        first, last = at if first < 0 else first, at
    if first >= 0:
        yield Span(first, last)


class Filler:
    """Reads spans of the history into a sink.

    Args:
        reader: Reads the history.
        sink: An open sink; only `thread` uses it.
        thread: The thread that writes.
        clock: Returns Unix seconds.
    """

    def __init__(
        self, reader: PastReader, sink: Sink, thread: WritingThread, clock: Callable[[], float]
    ) -> None:
        self._reader, self._sink, self._thread, self._clock = reader, sink, thread, clock
        self.rows: int = 0
        self.new: int = 0
        self.holes: int = 0

    async def fill(self, symbol: str, span: Span, wanted: Container[int] | None = None) -> None:
        """Store the row of each instant of `span`, if the sink lacks it and the exchange has it.

        The call omits the last minute, whose rows may not have appeared yet, and instants that are
        too old for the exchange's history.

        Args:
            symbol: The symbol to read.
            span: The span to fill.
            wanted: The instants of `span` to fill; None for all.

        Raises:
            BinanceOIError: The history could not be read. Rows received earlier are stored.
            StorageError: The sink cannot be read or written.
        """
        now = round(self._clock() * 1000)
        first = max(span.first, now - KEPT_MS + MARGINS_MS[0])
        last = min(span.last, now - SETTLED_MS)
        known = {*await self._thread.run(partial(self._known, symbol, first, last))}
        missing = (
            at
            for at in range(-(-first // STEP_MS) * STEP_MS, last + 1, STEP_MS)
            if at not in known and (wanted is None or at in wanted)
        )
        for since, until in spans_of(missing):
            async with aclosing(self._reader.histories([symbol], since=since, until=until)) as read:
                async for history in read:
                    if history.error is not None:
                        raise history.error
                    self.holes += len(history.holes)
                    await self.save([instant_row(row) for row in history])

    def _known(self, symbol: str, first: int, last: int) -> list[int]:
        return self._sink.past_times(symbol, HISTORY, first, last)

    async def save(self, rows: Sequence[InstantRow]) -> None:
        """Store rows, and let the sink do its deferred work."""
        if rows:
            self.rows += len(rows)
            new = await self._thread.run(partial(self._sink.save_past, rows))
            self.new += new  # add after the wait, because other symbols add in the meantime
            await self._thread.run(self._sink.tidy)


class _Run:
    """One backfill."""

    def __init__(
        self,
        filler: Filler,
        symbols: Sequence[str],
        on_progress: Callable[[BackfillProgress], object] | None,
    ) -> None:
        self._filler, self._symbols, self._on_progress = filler, symbols, on_progress
        self.failed: dict[str, BinanceOIError] = {}
        self.holes: int = 0
        self._done = 0

    def _report(self, source: str, symbol: str, done: int, of: int) -> None:
        if self._on_progress is not None:
            self._on_progress(BackfillProgress(source, symbol, done, of, self._filler.rows))

    async def history(self, span: Span) -> None:
        """Read the history of every symbol, a few at a time."""
        left = iter(self._symbols)

        async def work() -> None:
            for symbol in left:
                await self._fill(symbol, span)
                self._done += 1
                self._report("history", symbol, self._done, len(self._symbols))

        tasks = [asyncio.create_task(work()) for _ in range(min(WORKERS, len(self._symbols)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _fill(self, symbol: str, span: Span) -> None:
        try:
            await self._filler.fill(symbol, span)
        except StorageError:
            raise
        except BinanceOIError as error:
            self.failed[symbol] = error

    async def archive(self, archive: Archive, span: Span) -> None:
        """Read the archive, symbol after symbol."""
        rows: list[InstantRow] = []
        since, until = span
        days = archive.days(
            self._symbols,
            since=since,
            until=until,
            on_progress=lambda seen: self._report("archive", seen.symbol, seen.done, seen.days),
        )
        async with aclosing(days):
            async for day in days:
                rows += day.written
                self.holes += len(day.holes)
                if day.error is not None:
                    self.failed[f"{day.symbol} {day.day}"] = day.error
                if len(rows) >= ROWS_PER_WRITE:
                    await self._filler.save(rows)
                    rows = []
        await self._filler.save(rows)


async def backfill(
    reader: PastReader,
    to: StrPath | Sink,
    symbols: Iterable[str] | None = None,
    *,
    since: Moment = MONTH,
    until: Moment = None,
    archive: Archive | None = None,
    source: str | None = None,
    on_progress: Callable[[BackfillProgress], object] | None = None,
    clock: Callable[[], float] = time.time,
) -> Backfilled:
    """Store past open interest in a recording, beside its samples: a row for every 5 minutes.

    The exchange's history has the last 30 days. The archive begins on 2020-09-01 for BTCUSDT, and
    later for other symbols; few days are missing. The recording keeps the rows of both, so that a
    reader can compare them. A backfill waits for the end of a ban. If an outage lasts longer than
    about 90 s, a symbol of the history fails; a day of the archive fails after about 30 s. After an
    interruption, the same call continues the backfill. It requests only stretches of the history in
    which the recording lacks rows. From the archive, it requests the checksum of each day again,
    and the file of the day only if the archive's cache lacks it.

    Args:
        reader: The client.
        to: The recording: a file, created if missing, or the URL of a database. Or a `Sink` that
            stores elsewhere.
        symbols: The symbols to read. None or an empty list reads the symbols of the recording. If
            the recording has no symbols, or `to` is a `Sink`, it reads every trading symbol.
        since: The first instant: an aware `datetime`, a `timedelta` before now, or Unix ms.
        until: The last instant, given in the same way; None for now.
        archive: An archive to read too; None to read only the history. The caller closes it.
        source: The name of the exchange in the recording; None for the client's.
        on_progress: Called after each symbol of the history, and each day of the archive.
        clock: Returns Unix seconds.

    Returns:
        The counts of rows that it read and stored, and in `Backfilled.failed` the symbols that
        failed.

    Raises:
        TypeError: `since` or `until` has another type, `to` is neither a path nor a sink, or
            `symbols` is not iterable; the call sent nothing.
        ValueError: `since` or `until` is not a possible time, or the range ends before it begins.
            Or `to` is empty, or a URL that names no PostgreSQL database.
        InvalidSymbolError: One of `symbols` cannot be a symbol.
        RecordingError: Another process writes the recording (use `Recorder(backfill=True)` then).
            Or the recording has another source, or cannot be written. Rows stored earlier stay.
        BinanceOIError: The list of symbols could not be read, or the archive does not answer.

    Cost: at least one request for each 500 missing instants of a symbol, and more if they lie in
    distant stretches. The limit of the history is 1000 requests in 5 minutes.
    """
    check_moment("since", since)
    check_moment("until", until)
    now = round(clock() * 1000)
    first = moment_ms(MONTH if since is None else since, now)
    span = Span(first, now if until is None else moment_ms(until, now))
    if span.first > span.last:
        raise ValueError(
            f"since ({instant(span.first)}) must not be later than until ({instant(span.last)})"
        )
    wanted: Sequence[str] = () if symbols is None else check_symbols(symbols)
    sink = _sink_of(to, reader.source if source is None else source, clock)
    with WritingThread() as thread:
        try:
            with as_unusable(sink, "written"):
                await thread.run(partial(sink.claim, asyncio.get_running_loop().time))
                names = (
                    wanted
                    or await thread.run(partial(_recorded, to, sink))
                    or await reader.symbols()
                )
                await thread.run(sink.open)
                filler = Filler(reader, sink, thread, clock)
                run = _Run(filler, names, on_progress)
                await run.history(span)
                if archive is not None:
                    await run.archive(archive, span)
        finally:
            await thread.run(sink.close)
    return Backfilled(
        symbols=len(names),
        rows=filler.rows,
        new=filler.new,
        holes=filler.holes + run.holes,
        failed=run.failed,
    )


def _sink_of(to: StrPath | Sink, source: str, clock: Callable[[], float]) -> Sink:
    """Return the sink that writes to `to`.

    Raises:
        TypeError: `to` is neither a path, nor a URL, nor a sink.
        ValueError: `to` is empty, or a URL that names no PostgreSQL database.
    """
    if isinstance(to, str | os.PathLike):
        place = check_recording("to", to)
        return make_sink(place, SinkOptions(source, None, None, clock))[1]
    if not hasattr(to, "save_past"):
        raise TypeError(f"to must be a path or a Sink: {to!r}")
    return to


def _recorded(to: StrPath | Sink, sink: Sink) -> Sequence[str]:
    """Return the symbols that have samples or rows of the past in a recording."""
    if is_database(to):
        sink.open()  # creates the tables in an empty database
    elif not isinstance(to, str | os.PathLike) or not os.path.exists(to) or not os.path.getsize(to):
        return ()
    with Recording(to) as recording:
        return sorted({*recording.symbols(), *recording.past().symbols()})
