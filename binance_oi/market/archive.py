"""Reads open interest since 2020 from the exchange's public archive, day by day.

The rule of this file: every row comes from the archive; we interpolate nothing. A stretch of time
without rows is a hole, with its reason:

    no_file         the archive has no file for that day, or none with a checksum
    not_published   the day is one of the last two, and its file may still appear
    no_row          the file has no row for the instant
    no_value        the row has no open interest above 0
    unreadable      we could not read the file; see `ArchiveDay.error`

We use a cached file only if its checksum equals the one that the archive publishes now. So we
download an incomplete, damaged or outdated file again. If a run is killed, the next run downloads
only the files that are missing.
"""

import asyncio
import hashlib
import logging
import os
import secrets
import ssl as tls
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Container, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from binance_oi.arguments import StrPath, check_count, check_number, check_path
from binance_oi.encoding import Encodable
from binance_oi.errors import (
    BinanceOIError,
    ClientClosedError,
    DecodeError,
    ForbiddenError,
    RecordingError,
)
from binance_oi.exchange.archive import (
    DAY_MS,
    MAX_CHECKSUM,
    MAX_ZIP,
    PUBLIC_ARCHIVE,
    STEP_MS,
    MetricsFile,
    decode_checksum,
    decode_metrics,
    metrics_path,
    midnight_ms,
    unzip,
)
from binance_oi.exchange.hosts import check_base_url, check_proxy
from binance_oi.exchange.symbols import check_symbols
from binance_oi.market.gap import Gap, add_gap
from binance_oi.market.moments import Moment, check_moment, moment_ms
from binance_oi.market.past import Instant, instant_of
from binance_oi.market.rows import ARCHIVE, InstantRow
from binance_oi.sending.files import Files
from binance_oi.times import instant

logger: logging.Logger = logging.getLogger("binance_oi")

NO_FILE, NOT_PUBLISHED, NO_ROW = "no_file", "not_published", "no_row"
NO_VALUE, UNREADABLE = "no_value", "unreadable"
DETAILS = {
    NO_FILE: "the archive has no file for that day",
    NOT_PUBLISHED: "the file may still appear",
    NO_VALUE: "the row has no open interest above 0",
}

FIRST_DAY = date(2020, 9, 1)  # of BTCUSDT; most symbols begin on 2021-12-01 (seen 2026-11)
PUBLISHED_WITHIN_MS = 2 * DAY_MS  # a file may appear so many ms after its day; seen 2026-11: 1 day
MAX_CONNECTIONS = 4  # requests at the same time, at most
AHEAD = 8  # files that we read before the caller takes them
TRIES = 3  # attempts at a file and its checksum, which the archive may replace between two requests
TRY_AGAIN_S = 2.0  # s between two of these attempts
FAILED_IN_A_ROW = 3  # days in a row without an answer; then we stop


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArchiveDay(Encodable):
    """One day (UTC) of one symbol: each instant once, sorted by time."""

    symbol: str
    """The symbol."""
    day: date
    """The day, UTC."""
    written: tuple[InstantRow, ...] = field(default=(), repr=False)
    """The rows, with numbers as the text that the archive has; a recording stores this text."""
    holes: tuple[Gap, ...] = ()
    """The stretches without rows, each from its first to its last missing instant."""
    odd_rows: tuple[str, ...] = ()
    """The first eight odd rows of the file, each with the reason. `written` has an odd row only if
    that row contradicts an earlier row of the same instant."""
    odd: int = 0
    """The number of odd rows."""
    repeated: int = 0
    """The number of rows that equal another row of the same instant."""
    is_cached: bool = False
    """Whether the file came from the cache, with the checksum that the archive publishes now."""
    error: BinanceOIError | None = None
    """Why we could not read the file of the day; None if we read it, or if there is no file."""

    def __len__(self) -> int:
        return len(self.written)

    def __iter__(self) -> Iterator[Instant]:
        return map(instant_of, self.written)


class _ArchiveProgress(NamedTuple):
    symbol: str
    """The symbol of the latest day."""
    day: date
    """The latest day."""
    done: int
    """The number of days read so far, over all symbols."""
    days: int
    """The number of days to read, over all symbols."""
    rows: int
    """The number of rows so far."""
    requests: int
    """The number of requests so far."""


class ArchiveProgress(_ArchiveProgress, Encodable):
    """The progress of `Archive.days`."""

    __slots__ = ()


class _Stretch(NamedTuple):
    first: int
    """The first instant, Unix ms."""
    last: int
    """The last instant, Unix ms."""

    def days(self) -> Iterator[date]:
        """Yield each day (UTC) of which the stretch has a part."""
        day, last = instant(self.first).date(), instant(self.last).date()
        while day <= last:
            yield day
            day += timedelta(days=1)

    @property
    def day_count(self) -> int:
        """The number of these days."""
        return max(0, self.last // DAY_MS - self.first // DAY_MS + 1)


class _File(NamedTuple):
    """One file, or the error of reading it; neither if the archive has no such file."""

    found: MetricsFile | None = None
    is_cached: bool = False
    error: BinanceOIError | None = None


_NOTHING = _File()


class Archive:
    """Reads the exchange's public archive of open interest, from 2020 to yesterday.

        async with Archive("oi-archive") as archive:
            async for day in archive.days(["BTCUSDT"], since=datetime(2021, 12, 1, tzinfo=UTC)):
                for row in day:
                    ...

    It needs no client, and uses none of the exchange's limits.

    Args:
        cache: A directory for the files; created if missing. Several archives and processes may use
            one directory at the same time.
        base_url: The URL of the archive or of a mirror: ``https://host``, or ``http://`` for this
            machine.
        connections: The number of concurrent requests, 1 to 4.
        pace: The most requests per second.
        timeout: Seconds for one attempt at a file. After a temporary failure we try again, up to
            three times, after at least 1, 5 and 25 s.
        proxy: The URL of an HTTP proxy, ``http://`` or ``https://``. Environment variables for
            proxies have no effect.
        ssl: Replaces the default checks of certificates.
        clock: Returns Unix seconds.

    Raises:
        TypeError: An argument has another type.
        ValueError: A number is out of range, or a URL is not supported.
    """

    def __init__(
        self,
        cache: StrPath,
        *,
        base_url: str = PUBLIC_ARCHIVE,
        connections: int = MAX_CONNECTIONS,
        pace: float = 20.0,
        timeout: float = 30.0,
        proxy: str | None = None,
        ssl: tls.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.cache: Path = check_path("cache", cache)
        self._clock = clock
        self._files = Files(
            check_base_url(base_url),
            connections=check_count("connections", connections, most=MAX_CONNECTIONS),
            pace=check_number("pace", pace, above=0.0),
            timeout=check_number("timeout", timeout, above=0.0),
            proxy=check_proxy(proxy),
            ssl=ssl,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. A second call does nothing."""
        await self._files.aclose()

    def days(
        self,
        symbols: Iterable[str],
        *,
        since: Moment = None,
        until: Moment = None,
        on_progress: Callable[[ArchiveProgress], None] | None = None,
    ) -> AsyncGenerator[ArchiveDay, None]:
        """Yield each day of each symbol: symbol after symbol, and the oldest day first.

        A day has its instants from 00:00 to 23:55, UTC. The row of 00:00 may come from the file of
        the previous day. If a file cannot be read, its day has an `error`, and the iteration
        continues. Memory contains only a few days at a time.

        Args:
            symbols: Names, such as ``BTCUSDT``.
            since: The first instant: an aware `datetime`, a `timedelta` before now, or Unix ms.
                None for 2020-09-01, where the archive begins.
            until: The last instant, given in the same way. None for the end of yesterday, which is
                also the latest possible end.
            on_progress: Called after each day.

        Raises:
            TypeError: At once: `symbols` or a bound has the wrong type.
            ValueError: At once: a bound is not a possible time, or `since` is later than `until`.
            InvalidSymbolError: At once: one of `symbols` cannot be a symbol.
            BinanceOIError: The archive refuses this IP address, or three downloads in a row failed.
                The same call later uses the files in the cache.
            RecordingError: The cache cannot be read or written.

        Cost: one request for a day that is cached or has no file, and two for any other day;
        retries in addition; no weight. A symbol may need the file of one more day, for the row of
        its first midnight.
        """
        asked = _stretch(since, until, round(self._clock() * 1000))
        return self._days(check_symbols(symbols), asked, on_progress)

    async def _days(
        self,
        symbols: Sequence[str],
        asked: _Stretch,
        on_progress: Callable[[ArchiveProgress], None] | None,
    ) -> AsyncGenerator[ArchiveDay, None]:
        before, of, done, rows = _NOTHING, "", 0, 0
        files = self._files_of(symbols, asked)
        async with aclosing(files):
            async for symbol, day, file in files:
                if symbol != of:
                    before = await self._file_before(symbol, day, asked, file)
                found = _day(symbol, day, asked, file, before, round(self._clock() * 1000))
                before, of, done, rows = file, symbol, done + 1, rows + len(found)
                if on_progress is not None:
                    of_all, requests = asked.day_count * len(symbols), self._files.requests
                    on_progress(ArchiveProgress(symbol, day, done, of_all, rows, requests))
                yield found

    async def _files_of(
        self, symbols: Sequence[str], asked: _Stretch
    ) -> AsyncGenerator[tuple[str, date, _File], None]:
        """Yield every file in order; download up to `AHEAD` files before the caller takes them."""
        wanted = ((symbol, day) for symbol in symbols for day in asked.days())
        ahead: deque[tuple[str, date, asyncio.Task[_File]]] = deque()
        failed = 0
        try:
            while True:
                for symbol, day in islice(wanted, AHEAD - len(ahead)):
                    ahead.append((symbol, day, asyncio.create_task(self._file(symbol, day))))
                if not ahead:
                    return
                symbol, day, task = ahead.popleft()
                try:
                    file = await task
                finally:
                    task.cancel()
                failed = failed + 1 if _is_outage(file.error) else 0
                if failed == FAILED_IN_A_ROW and file.error is not None:
                    raise file.error
                yield symbol, day, file
        finally:
            await _end([task for _, _, task in ahead])

    async def _file_before(self, symbol: str, day: date, asked: _Stretch, file: _File) -> _File:
        """Return the file of the previous day, if only that file can have the row of midnight."""
        midnight = midnight_ms(day)
        if asked.first > midnight or (file.found is not None and midnight in file.found.rows):
            return _NOTHING
        return await self._file(symbol, day - timedelta(days=1))

    async def _file(self, symbol: str, day: date) -> _File:
        """Read one file, from the cache or from the archive.

        Raises:
            ForbiddenError: The archive refuses this address.
            RecordingError: The cache cannot be used.
            ClientClosedError: The archive was closed.
        """
        path = metrics_path(symbol, day)
        name = f"{symbol}-metrics-{day.isoformat()}.zip"
        place = self.cache / symbol / name
        try:
            for _ in range(TRIES):
                said = await self._files.get(f"{path}.CHECKSUM", MAX_CHECKSUM)
                if said is None:
                    return _NOTHING
                checksum = decode_checksum(said)
                found = await asyncio.to_thread(_cached, place, checksum, symbol, day)
                if found is not None:
                    return _File(found, is_cached=True)
                data = await self._files.get(path, MAX_ZIP)
                if data is None:
                    return _NOTHING
                if hashlib.sha256(data).hexdigest() == checksum:
                    return _File(await asyncio.to_thread(_keep, place, data, symbol, day))
                await asyncio.sleep(TRY_AGAIN_S)
            return _File(error=DecodeError(f"{name} does not have its checksum"))
        except (ForbiddenError, ClientClosedError, RecordingError):
            raise
        except BinanceOIError as error:
            return _File(error=error)


async def _end(tasks: Sequence[asyncio.Task[_File]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _is_outage(error: BinanceOIError | None) -> bool:
    """Whether an error says more about the archive than about one file."""
    return error is not None and not isinstance(error, DecodeError)


def _cached(place: Path, checksum: str, symbol: str, day: date) -> MetricsFile | None:
    """Decode the cached file; None if there is none, or if its checksum is another one."""
    try:
        with place.open("rb") as file:
            data = file.read(MAX_ZIP + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordingError(f"{place} cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(data).hexdigest() != checksum:
        return None
    return decode_metrics(unzip(data, place.name), symbol, day)


def _keep(place: Path, data: bytes, symbol: str, day: date) -> MetricsFile:
    """Write a file into the cache, and decode it.

    A crash may leave an incomplete file in spite of the rename; then its checksum is wrong. The
    rename serves people who open the files by hand: they rarely see an incomplete file.
    """
    # The temporary name is random, because several archives may use one directory at once.
    part = place.with_name(f"{place.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, place)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise RecordingError(f"{place} cannot be written: {error.strerror or error}") from error
    return decode_metrics(unzip(data, place.name), symbol, day)


def _day(
    symbol: str, day: date, asked: _Stretch, file: _File, before: _File, now: int
) -> ArchiveDay:
    """Make the day from its file. The row of midnight may come from the file before."""
    midnight = midnight_ms(day)
    first, last = max(asked.first, midnight), min(asked.last, midnight + DAY_MS - 1)
    found = file.found or MetricsFile()
    rows = found.rows
    if before.found is not None and midnight not in rows and midnight in before.found.rows:
        rows = {midnight: before.found.rows[midnight], **rows}
    due = range(-(-first // STEP_MS) * STEP_MS, last + 1, STEP_MS)
    return ArchiveDay(
        symbol=symbol,
        day=day,
        written=tuple(
            (symbol, at, ARCHIVE, value, notional, None)
            for at, (value, notional) in rows.items()
            if first <= at <= last
        ),
        holes=tuple(_holes(due, rows, file, before, now)),
        odd_rows=tuple(found.odd_rows),
        odd=found.odd,
        repeated=found.repeated,
        is_cached=file.is_cached,
        error=file.error,
    )


def _holes(due: range, rows: Container[int], file: _File, before: _File, now: int) -> Sequence[Gap]:
    """Return the stretches of instants without a row, each with its reason."""
    missing = [at for at in due if at not in rows]
    if not missing:  # nearly always
        return ()
    if file.error is not None:
        usual = UNREADABLE
    elif file.found is None:
        ended = due.start // DAY_MS * DAY_MS + DAY_MS
        usual = NOT_PUBLISHED if now - ended < PUBLISHED_WITHIN_MS else NO_FILE
    else:
        usual = NO_ROW
    blank = {*_blank_of(file), *_blank_of(before)}
    detail = DETAILS.get(usual, "" if file.error is None else str(file.error))
    holes: list[Gap] = []
    for at in missing:
        reason, why = (NO_VALUE, DETAILS[NO_VALUE]) if at in blank else (usual, detail)
        add_gap(holes, Gap(at, at, reason, why), STEP_MS)
    return holes


def _blank_of(file: _File) -> Iterable[int]:
    return () if file.found is None else file.found.blank


def _stretch(since: Moment, until: Moment, now: int) -> _Stretch:
    """Return the requested stretch, which ends with yesterday at the latest.

    Raises:
        TypeError: A bound has another type.
        ValueError: A bound is not a possible time, or the stretch ends before it begins.
    """
    yesterday = now // DAY_MS * DAY_MS - 1
    check_moment("since", since)
    check_moment("until", until)
    first = midnight_ms(FIRST_DAY) if since is None else moment_ms(since, now)
    last = yesterday if until is None else moment_ms(until, now)
    if first > last and until is not None:
        raise ValueError(f"since ({instant(first)}) must not be later than until ({instant(last)})")
    return _Stretch(max(first, midnight_ms(FIRST_DAY)), min(last, yesterday))
