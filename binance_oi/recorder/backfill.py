"""Instants of the past for a recording: from the exchange's history, and from its archive.

The rule of this file: only what the recording lacks is asked for, and what was received is stored
at once. So a run may end at any moment, also by a kill: the next one stores the rest, and then the
recording has the same rows as after one run. An instant that the exchange does not have is a hole;
every run asks for it again, in case it appears.
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

from binance_oi.arguments import StrPath, check_path
from binance_oi.encoding import Encodable
from binance_oi.errors import BinanceOIError, RecordingError, StorageError
from binance_oi.exchange.routes import KEPT_MS, MAX_ROWS, PERIODS
from binance_oi.exchange.symbols import check_symbols
from binance_oi.market.archive import Archive
from binance_oi.market.history import MARGINS_MS, SETTLED_MS
from binance_oi.market.moments import Moment, check_moment, moment_ms
from binance_oi.market.past import History
from binance_oi.market.rows import HISTORY, InstantRow, instant_row
from binance_oi.recorder.recording import Recording
from binance_oi.recorder.sink import Sink
from binance_oi.recorder.sqlite import SqliteSink
from binance_oi.recorder.writing_thread import WritingThread
from binance_oi.times import instant

STEP_MS = PERIODS["5m"]
PAGE_MS = MAX_ROWS * STEP_MS  # one request
MONTH = timedelta(days=30)  # what the exchange keeps
WORKERS = 8  # symbols at a time, as `histories`
ROWS_PER_WRITE = 4096  # of the archive: two weeks, in one transaction


@runtime_checkable
class PastReader(Protocol):
    """The part of a client that reads the past; `OpenInterestClient` has it."""

    @property
    def source(self) -> str:
        """The exchange's name in a recording."""
        ...

    async def symbols(self, *, max_age: float = 0.0) -> tuple[str, ...]:
        """Every symbol that is trading."""
        ...

    def histories(
        self,
        symbols: Iterable[str] | None = None,
        *,
        period: str = "5m",
        since: Moment = None,
        until: Moment = None,
    ) -> AsyncGenerator[History, None]:
        """Open interest of many symbols as it was."""
        ...


class Span(NamedTuple):
    """Instants from the first to the last one, Unix ms."""

    first: int
    last: int


class _BackfillProgress(NamedTuple):
    source: str
    """``history`` or ``archive``."""
    symbol: str
    done: int
    """Symbols of the history, or days of the archive."""
    of: int
    """How many there are."""
    rows: int
    """Rows received so far, of both sources."""


class BackfillProgress(_BackfillProgress, Encodable):
    """How far `backfill` is."""

    __slots__ = ()


@dataclass(slots=True, kw_only=True)
class Backfilled(Encodable):
    """What a backfill has done."""

    symbols: int = 0
    rows: int = 0
    """Rows received."""
    new: int = 0
    """Rows that the recording did not have, or had with other numbers."""
    holes: int = 0
    """Stretches for which the history, or the archive, has no rows."""
    failed: dict[str, BinanceOIError] = field(default_factory=dict[str, BinanceOIError])
    """Why a symbol, or a day of it in the archive, could not be read. The next run tries again."""


def spans_of(times: Iterable[int]) -> Iterator[Span]:
    """The spans of these 5-minute instants that the fewest requests read.

    Args:
        times: Unix ms, sorted. Instants that are not among them may be read as well: within one
            request they cost nothing.
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
        sink: Open; used in `thread` alone.
        thread: Where the sink works.
        clock: Unix seconds.
    """

    def __init__(
        self, reader: PastReader, sink: Sink, thread: WritingThread, clock: Callable[[], float]
    ) -> None:
        self._reader, self._sink, self._thread, self._clock = reader, sink, thread, clock
        self.rows: int = 0
        self.new: int = 0
        self.holes: int = 0

    async def fill(self, symbol: str, span: Span, wanted: Container[int] | None = None) -> None:
        """Store the instants of `span` that the sink lacks and the exchange has.

        Instants of the last minute are left for later: their rows may still appear.

        Args:
            symbol: A name.
            span: Where to look.
            wanted: Instants of `span` that are needed; None needs all.

        Raises:
            BinanceOIError: The history could not be read. What was received before is stored.
            StorageError: The sink stored nothing of the last write.
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
            self.new += await self._thread.run(partial(self._sink.save_past, rows))
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

    def _tell(self, source: str, symbol: str, done: int, of: int) -> None:
        if self._on_progress is not None:
            self._on_progress(BackfillProgress(source, symbol, done, of, self._filler.rows))

    async def history(self, span: Span) -> None:
        """Read the history of every symbol, a few at a time."""
        left = iter(self._symbols)

        async def work() -> None:
            for symbol in left:
                await self._fill(symbol, span)
                self._done += 1
                self._tell("history", symbol, self._done, len(self._symbols))

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
            on_progress=lambda seen: self._tell("archive", seen.symbol, seen.done, seen.days),
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
    """Store 5-minute instants of the past in a recording, beside its samples.

    The exchange's history has the last 30 days, and the archive all since 2020. Each keeps rows of
    its own, so that a reader can compare them. A ban and an outage are waited out. When it ends at
    any moment, the same call goes on; what is stored already is not asked for again. Only the
    checksums of the archive's days are.

    Args:
        reader: The client.
        to: The recording; made when missing. Or a `Sink` that stores elsewhere.
        symbols: None takes those of the recording, or, when it has none, every one that trades.
        since: The first instant: an aware `datetime`, a `timedelta` before now, or Unix ms.
        until: The last instant, given in the same way; None is now.
        archive: Reads the archive as well. The caller closes it.
        source: The exchange's name in the file; None takes that of the client.
        on_progress: Called after each symbol of the history, and each day of the archive.
        clock: Unix seconds.

    Returns:
        What was read and stored. A symbol that failed is in `Backfilled.failed`.

    Raises:
        TypeError: `since` or `until` is of another type; nothing was sent.
        ValueError: One of them cannot be a bound, or the range ends before it begins.
        InvalidSymbolError: One of `symbols` cannot be a symbol.
        RecordingError: The recording is written by another process (a recorder has `backfill=` for
            that), has another source, or cannot be written. What was stored before stays.
        BinanceOIError: The list of symbols could not be read, or the archive is out of reach.

    Cost: of each symbol, one of the 1000 requests in 5 minutes for 500 instants that it lacks.
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
    sink = _sink_of(to, reader.source if source is None else source)
    with WritingThread() as thread:
        try:
            await thread.run(partial(sink.claim, asyncio.get_running_loop().time))
            names = wanted or await thread.run(partial(_recorded, to)) or await reader.symbols()
            await thread.run(sink.open)
            filler = Filler(reader, sink, thread, clock)
            run = _Run(filler, names, on_progress)
            await run.history(span)
            if archive is not None:
                await run.archive(archive, span)
        except StorageError as error:
            raise RecordingError(f"{sink} cannot be written: {error}") from error
        finally:
            await thread.run(sink.close)
    return Backfilled(
        symbols=len(names),
        rows=filler.rows,
        new=filler.new,
        holes=filler.holes + run.holes,
        failed=run.failed,
    )


def _sink_of(to: StrPath | Sink, source: str) -> Sink:
    """What stores.

    Raises:
        TypeError: `to` is neither a path nor a sink.
    """
    if isinstance(to, str | os.PathLike):
        return SqliteSink(check_path("to", to), source)
    if not hasattr(to, "save_past"):
        raise TypeError(f"to must be a path or a Sink: {to!r}")
    return to


def _recorded(to: StrPath | Sink) -> Sequence[str]:
    """The symbols that a recording has, in its samples or of the past."""
    if not isinstance(to, str | os.PathLike) or not os.path.exists(to) or not os.path.getsize(to):
        return ()
    with Recording(to) as recording:
        return sorted({*recording.symbols(), *recording.past().symbols()})
