"""Caches recent history of each symbol in the user's cache directory.

The rule of this file: the cache only saves requests. If a file is missing, damaged or foreign, it
counts as empty. If we cannot write the directory, we log one warning and use no cache. We replace a
file in a single step, so several processes may read and write at the same time. Each process adds
its rows to those that other processes have written.
"""

import asyncio
import json
import logging
import os
import sys
import time
import zlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

from binance_oi.client import OpenInterestClient
from binance_oi.errors import BinanceOIError
from binance_oi.exchange.models import HistoryRow
from binance_oi.exchange.routes import PERIODS
from binance_oi.market.changes import USUAL_MS
from binance_oi.market.history import OnProgress
from binance_oi.market.past import History
from binance_oi.market.rows import digits
from binance_oi.recorder.atomic import OvertakenError, replace_atomically, version
from binance_oi.recorder.schema import LATEST, NUMBER
from binance_oi.times import unix_ms

logger: logging.Logger = logging.getLogger("binance_oi")

FORMAT: Final = 1
FOLDER: Final = f"history-{FORMAT}"
SUFFIX: Final = ".json.z"
PERIOD: Final = "5m"
STEP: Final = PERIODS[PERIOD]
# ms: changes over 24h that end in the last 7 days need 8 days of rows; this is 1h more.
KEPT_MS: Final = USUAL_MS + 25 * 3_600_000
UNUSED_S: Final = 30 * 86_400.0  # s without a write, after which we remove an exchange's files
LARGEST: Final = 1 << 24  # bytes that a file may have, compressed or not; 30 days take about 1 MB
REPLACED_AT_MOST: Final = 20  # tries of `save`; a try fails if another process replaces the file
APPEARS_MS: Final = 7_000  # ms from an instant until its row appears; 6.2 s seen on 2026-09-12


class Kept(NamedTuple):
    """Cached history of one symbol: every row that the exchange has for a span of time."""

    rows: tuple[HistoryRow, ...]
    """The rows."""
    first: int
    """The start of the span, Unix ms."""
    until: int
    """The end of the span, Unix ms."""

    @classmethod
    def of(cls, history: History) -> "Kept":
        """Make an object from a result of `client.histories`."""
        newest = history.rows[-1].time if history.rows else 0
        return cls(history.rows, unix_ms(history.since), max(history.complete_until, newest))

    def joined(self, other: "Kept") -> "Kept":
        """Join two spans; if there is unknown time between them, return only the newer one."""
        older, newer = sorted((self, other), key=lambda kept: kept.until)
        if older.until + 1 < newer.first:
            return newer
        rows = {row.time: row for row in (*older.rows, *newer.rows)}
        ordered = tuple(rows[time] for time in sorted(rows))
        return Kept(ordered, min(older.first, newer.first), newer.until)

    def since(self, first: int) -> "Kept":
        """Return this object without rows before `first`."""
        if first <= self.first:
            return self
        return Kept(tuple(row for row in self.rows if row.time >= first), first, self.until)

    def lacks(self, now: int) -> bool:
        """Whether the exchange may have a newer row.

        Args:
            now: Unix ms by this machine. If it is before `until`, the clock is wrong, and the
                result is True.
        """
        new = (self.until // STEP + 1) * STEP
        return new + APPEARS_MS <= now or now < self.until


def cache_directory() -> Path | None:
    """Return our directory in the user's cache directory; None if the user has none."""
    try:
        if sys.platform == "win32":
            place = os.environ.get("LOCALAPPDATA", "")
        elif sys.platform == "darwin":
            place = str(Path.home() / "Library" / "Caches")
        else:
            place = os.environ.get("XDG_CACHE_HOME", "")
            if not os.path.isabs(place):  # the specification says to ignore a relative path
                place = str(Path.home() / ".cache")
    except RuntimeError:  # this user has no home
        return None
    return Path(place) / "binance-oi" if os.path.isabs(place) else None


class HistoryCache:
    """Recent 5-minute rows of the symbols of one exchange.

    Args:
        directory: The directory of the files; None caches nothing.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self._is_cleaned = False

    @classmethod
    def of(cls, base_url: str) -> "HistoryCache":
        """Return the cache of the exchange at this URL."""
        place = cache_directory()
        name = quote(urlsplit(base_url).netloc.rpartition("@")[2], safe="")
        return cls(None if place is None or not name else place / FOLDER / name)

    def load(self, symbol: str) -> Kept | None:
        """Return the cached rows of a symbol; None if there is no usable file."""
        if self.directory is None:
            return None
        try:
            with self._path(symbol).open("rb") as file:
                packed = file.read(LARGEST + 1)
            return _decoded(packed, symbol)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, LookupError, RecursionError, zlib.error) as error:
            logger.debug("the cache of %s is not used: %s", symbol, error)
            return None

    def save(self, symbol: str, kept: Kept, since: int) -> None:
        """Cache the rows of a symbol, if possible; join them with the rows that the file has.

        Args:
            symbol: The symbol.
            kept: Its rows.
            since: Unix ms; earlier rows are dropped.
        """
        if self.directory is None:
            return
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._clean()
            for _ in range(REPLACED_AT_MOST):
                with suppress(OvertakenError):
                    self._replace(symbol, kept, since)
                    return
        except OSError as error:
            why = error.strerror or error
            logger.warning("history is not cached in %s: %s", self.directory, why)
            self.directory = None

    def _replace(self, symbol: str, kept: Kept, since: int) -> None:
        """Write the file of a symbol.

        Raises:
            OvertakenError: Another process has replaced the file in the meantime.
            OSError: The file cannot be written.
        """
        path = self._path(symbol)
        seen = version(path)
        before = self.load(symbol)
        if before is not None:
            kept = before.joined(kept)
        with replace_atomically(path, lambda: version(path) == seen) as file:
            file.write(_encoded(symbol, kept.since(since)))

    def _path(self, symbol: str) -> Path:
        assert self.directory is not None
        return self.directory / f"{quote(symbol, safe='')}{SUFFIX}"

    def _clean(self) -> None:
        """Remove the files of exchanges for which no process cached anything in `UNUSED_S`."""
        if self._is_cleaned or self.directory is None:
            return
        self._is_cleaned, before = True, time.time() - UNUSED_S
        with suppress(OSError):
            for other in self.directory.parent.iterdir():
                if other != self.directory and other.stat().st_mtime < before:
                    for file in other.glob(f"*{SUFFIX}"):
                        file.unlink()
                    other.rmdir()


def _encoded(symbol: str, kept: Kept) -> bytes:
    content = {
        "format": FORMAT,
        "symbol": symbol,
        "first": kept.first,
        "until": kept.until,
        "rows": [
            (
                row.time,
                digits(row.open_interest),
                digits(row.notional),
                None if row.circulating_supply is None else digits(row.circulating_supply),
            )
            for row in kept.rows
        ],
    }
    return zlib.compress(json.dumps(content, separators=(",", ":")).encode(), 1)


def _decoded(packed: bytes, symbol: str) -> Kept:
    """Decode the content of a file.

    Raises:
        ValueError: `_encoded` has not written this file, or not for this symbol. The other errors
            that `load` catches mean the same, except an `OSError`.
    """
    unpacking = zlib.decompressobj()
    text = unpacking.decompress(packed, LARGEST)
    if not unpacking.eof:
        raise ValueError("it is cut off, or too long")
    content: Any = json.loads(text)
    if (content["format"], content["symbol"]) != (FORMAT, symbol):
        raise ValueError("it is of another format or symbol")
    first, until, found = content["first"], content["until"], content["rows"]
    numbers = [text for row in found for text in row[1:] if text is not None]
    times = [row[0] for row in found]
    if not (
        all(type(each) is int and 0 <= each <= LATEST for each in (first, until, *times))
        and all(earlier < later for earlier, later in pairwise(times))
        and all(map(NUMBER.fullmatch, numbers))
    ):
        raise ValueError("a value is not possible")
    rows = (
        HistoryRow(symbol, at, Decimal(value), Decimal(amount), supply and Decimal(supply))
        for at, value, amount, supply in found
    )
    return Kept(tuple(rows), first, until)


class Recent(NamedTuple):
    """Recent history of one symbol."""

    symbol: str
    """The symbol."""
    rows: tuple[HistoryRow, ...]
    """The rows."""
    error: BinanceOIError | None = None
    """Why newer rows could not be read. Then `rows` has only cached rows. None if all went well."""


def load_recent(cache: HistoryCache, symbols: Sequence[str]) -> dict[str, Kept]:
    """Return the cached rows of these symbols. It reads one file for each symbol."""
    found = {symbol: cache.load(symbol) for symbol in symbols}
    return {symbol: kept for symbol, kept in found.items() if kept is not None}


async def read_recent(
    client: OpenInterestClient,
    cache: HistoryCache,
    symbols: Sequence[str],
    span: timedelta,
    on_progress: OnProgress | None = None,
) -> AsyncGenerator[Recent]:
    """Yield the history of the last `span` of each symbol.

    Cached rows may begin before that span. Symbols for which the cache is enough come first. For
    the other symbols, which come in any order, the call requests the missing rows, and caches them
    as soon as they arrive.

    Args:
        client: Reads the exchange.
        cache: The cache.
        symbols: The symbols.
        span: How far back to read.
        on_progress: See `client.histories`.

    Raises:
        ClientClosedError: The client was closed during the run.
    """
    now = round(time.time() * 1000)
    since = now - round(span.total_seconds() * 1000)
    known = await asyncio.to_thread(load_recent, cache, symbols)
    # `since` is a time of our clock, which may differ from the exchange's by some seconds. So the
    # cached rows are also enough if they begin one step later.
    known = {symbol: kept for symbol, kept in known.items() if kept.first <= since + STEP}
    for symbol, kept in known.items():
        if not kept.lacks(now):
            yield Recent(symbol, kept.rows)
    wanted = [each for each in symbols if each not in known or known[each].lacks(now)]
    received = {symbol: known[symbol].until for symbol in wanted if symbol in known}
    if not wanted:
        return
    found = client.histories(
        wanted, period=PERIOD, since=span, received=received, on_progress=on_progress
    )
    async with aclosing(found):
        async for history in found:
            symbol, before = history.symbol, known.get(history.symbol)
            if history.error is not None:
                yield Recent(symbol, () if before is None else before.rows, history.error)
                continue
            kept = Kept.of(history) if before is None else before.joined(Kept.of(history))
            await asyncio.to_thread(cache.save, symbol, kept, min(since, now - KEPT_MS))
            yield Recent(symbol, kept.rows)
