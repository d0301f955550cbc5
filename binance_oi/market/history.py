"""Reads the past open interest of one symbol, or of many.

The rule of this file: each row comes from the exchange; we interpolate nothing. A stretch of time
without rows is a hole, with its reason:

    too_old   the exchange no longer has the rows: it keeps only the last 30 days
    no_row    the exchange has no row there and never will, because the symbol was not listed, or
              not traded

We read pages backwards from the end. For each page we request a stretch of time so short that its
rows fit into one page. So a hole or an odd row does not shift the other pages.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from types import MappingProxyType

from binance_oi.errors import (
    BannedError,
    BinanceOIError,
    ClientClosedError,
    RateLimitedError,
    ResponseError,
    ServerError,
    TransportError,
)
from binance_oi.exchange.decoding import HistoryPage
from binance_oi.exchange.limits import HISTORY
from binance_oi.exchange.routes import KEPT_MS, MAX_ROWS, PERIODS, Request, history_page
from binance_oi.market.listing import LISTING_AGE, Listing
from binance_oi.market.moments import Moment, check_moment, moment_ms
from binance_oi.market.pages import Page, Stretch, holes
from binance_oi.market.past import History, HistoryProgress
from binance_oi.sending.sender import Sender, Terms
from binance_oi.times import instant

INVALID = -1130  # the code for a startTime older than the kept rows; seen 2026-07 to 09
# ms by which each requested row must be newer than the oldest row that the exchange keeps. While a
# request waits in the queue, the exchange drops more rows; and clocks differ. If the exchange still
# refuses the request, we try the next margin.
MARGINS_MS = (30_000, 120_000, 600_000)
SETTLED_MS = 60_000  # ms after an instant, when its row exists or never will; seen 2026-09: 6 s
WORKERS = 8  # symbols read at once: enough to use the whole limit, even if an answer takes 2 s
OUTAGE = (1.0, 5.0, 25.0, 60.0)  # s to wait after a request's 1st to 4th failure; the 5th is final
MOVED = 60.0  # s: if our estimate of the exchange's clock jumps by more, it was wrong before
HELD = 1.0  # s: the shortest wait after a refusal


OnProgress = Callable[[HistoryProgress], None]


def check_period(period: object) -> str:
    """Return `period` if the exchange has it.

    Raises:
        ValueError: The exchange has no such period.
    """
    if not isinstance(period, str) or period not in PERIODS:
        raise ValueError(f"period must be one of {', '.join(PERIODS)}: {period!r}")
    return period


FindStretch = Callable[[int], Stretch]
"""Returns the stretch to read, given the exchange's clock in Unix ms."""


def stretch_finder(period: str, since: Moment, until: Moment) -> FindStretch:
    """Check these arguments, and return the function that makes a stretch of them.

    Raises:
        TypeError: A bound has another type.
        ValueError: The exchange has no such period, or a bound is not a possible time.
    """
    check_moment("since", since)
    check_moment("until", until)
    return partial(stretch, check_period(period), since, until)


def stretch(period: str, since: Moment, until: Moment, now: int) -> Stretch:
    """Return the stretch of time that these arguments stand for.

    Args:
        period: The time between rows.
        since: The first instant; None for the oldest row that the exchange keeps.
        until: The last instant; None for now.
        now: The exchange's time, Unix ms.

    Raises:
        ValueError: The range ends before it begins.
    """
    step = PERIODS[period]
    last = now if until is None else moment_ms(until, now)
    # The oldest row that the exchange should still keep when the request for it arrives.
    oldest = -(-(now - KEPT_MS + MARGINS_MS[0]) // step) * step
    first = oldest if since is None else moment_ms(since, now)
    if first > last:
        raise ValueError(f"since ({instant(first)}) must not be later than until ({instant(last)})")
    return Stretch(period, first, last)


class Reader:
    """Reads a stretch of the past, symbol by symbol.

    Args:
        sender: Sends the requests.
        listing: Logs the rows that we cannot decode.
        find_stretch: Returns the stretch to read, given the exchange's time in Unix ms.
        received: For each symbol, the instant (Unix ms) up to which the caller has all rows.
        terms: The terms of each request. `max_wait` bounds the wait of all pages of a symbol
            together. With `bulk`, the reader waits until a ban or a rate limit is over; after
            an outage it waits as `OUTAGE` says, and repeats the request.
    """

    def __init__(
        self,
        sender: Sender,
        listing: Listing,
        find_stretch: FindStretch,
        terms: Terms,
        received: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._sender, self._listing, self._terms = sender, listing, terms
        self._find_stretch, self._received = find_stretch, received
        self._pool = sender.governors.of(HISTORY).pool
        self._offset = self._pool.exchange_time - sender.now()
        self._asked = find_stretch(self.now)
        self._clocks = 1  # grows by 1 when an answer shows that our estimate of the clock was wrong
        self.pages: int = 0
        """The number of received pages."""
        self.requests: int = 0
        """The number of requests charged for symbols that are finished or have failed."""
        self.rows: int = 0
        """The number of rows of finished symbols."""

    @property
    def now(self) -> int:
        """The exchange's time, Unix ms."""
        return round(self._pool.exchange_time * 1000)

    @property
    def loop_time(self) -> float:
        """The time of the loop, s."""
        return self._sender.now()

    @property
    def seconds_each(self) -> float:
        """Seconds between two requests if we use up the limit evenly."""
        return 60.0 / max(1.0, self._pool.usage.sustained)

    def pages_of(self, symbol: str) -> int:
        """Return how many pages to read of a symbol: only those that the exchange still keeps."""
        first, now = self.stretch_of(symbol).first, self.now
        last = min(self._asked.last, now)
        return self._asked._replace(first=max(first, now - KEPT_MS), last=last).pages

    def stretch_of(self, symbol: str) -> Stretch:
        """Return the stretch to read of a symbol. It is empty if it ends before it begins."""
        first = max(self._asked.first, self._received.get(symbol, -1) + 1)
        return self._asked._replace(first=first)

    async def read(self, symbol: str) -> History:
        """Read all rows of one symbol.

        Raises:
            BinanceOIError: A page could not be read; see `OpenInterestClient.history`.
        """
        terms = replace(self._terms, charged=0, waited=0.0)
        pages: list[Page] = []  # the newest first
        clocks = 0
        asked, began, first = self.stretch_of(symbol), self.now, 0
        try:
            while clocks != self._clocks:  # once, and again if our estimate of the clock was wrong
                clocks, asked, began = self._clocks, self.stretch_of(symbol), self.now
                pages.clear()
                first = await self._read_back(symbol, asked, min(asked.last, began), terms, pages)
        finally:
            self.requests += terms.charged
        pages.reverse()
        found = _history(symbol, asked, pages, first, began, terms.charged)
        self.rows += len(found)
        return found

    async def _read_back(
        self, symbol: str, asked: Stretch, last: int, terms: Terms, pages: list[Page]
    ) -> int:
        """Read pages backwards from `last`; stop if our estimate of the clock was wrong.

        Returns:
            The first instant that was read, Unix ms.
        """
        clocks = self._clocks
        while last >= asked.first and clocks == self._clocks:
            first, page = await self._page(symbol, asked, last, terms)
            self._notice_clock()
            pages.append(page)
            if first > last:
                break
            last = first - 1
        return last + 1

    def _notice_clock(self) -> None:
        """If the last answer shows that our estimate of the clock was wrong, make a new stretch."""
        offset = self._pool.exchange_time - self._sender.now()
        before, self._offset = self._offset, offset
        if abs(offset - before) > MOVED:
            self._asked = self._find_stretch(self.now)
            self._clocks += 1

    async def _page(self, symbol: str, asked: Stretch, last: int, terms: Terms) -> tuple[int, Page]:
        """Read the page that ends at `last`; return its first instant, and the page.

        While the request waits in the queue, the oldest kept row moves on. If the exchange refuses
        the request for that reason, we send another one that begins at a later instant. If that
        instant is after `last`, all rows of the page are too old, and we send no request.
        """
        for margin in MARGINS_MS:
            kept = self.now - KEPT_MS
            first = max(asked.first, last - MAX_ROWS * asked.step + 1, kept + margin)
            if first > last:
                break
            try:
                part = asked._replace(first=first, last=last)
                return first, await self._rows(symbol, part, terms)
            except ResponseError as error:
                # Compare by the present estimate of the clock: this answer may have corrected it.
                is_near = first < self.now - KEPT_MS + MARGINS_MS[-1]
                if error.code != INVALID or not is_near or margin == MARGINS_MS[-1]:
                    raise
        return last + 1, Page([], [], is_whole=False)

    async def _rows(self, symbol: str, part: Stretch, terms: Terms) -> Page:
        """Read the rows of a stretch that fits into one page.

        The exchange may add rows outside of the stretch. If all rows are outside, the answer may
        belong to an earlier request, so we send the request once more.
        """
        request = history_page(symbol, part.period, part.first, part.last)
        answer = await self._send(request, terms)
        page = Page.of(answer.rows, part)
        if answer.rows and not page.rows:
            answer = await self._send(request, terms)
            page = Page.of(answer.rows, part)
        self._listing.warn_of_odd_rows("history", answer.odd_rows)
        self.pages += 1
        return page

    async def _send(self, request: Request[HistoryPage], terms: Terms) -> HistoryPage:
        outages = iter(OUTAGE)
        while True:
            if self._terms.max_wait is not None:
                terms.max_wait = max(0.0, self._terms.max_wait - terms.waited)
            try:
                return await self._sender.send(request, terms)
            except (BannedError, RateLimitedError):
                if not terms.bulk:
                    raise
                seconds = max(HELD, self._pool.held_for())
            except (TransportError, ServerError) as error:
                is_final = isinstance(error, TransportError) and error.retry == "never"
                seconds = 0.0 if is_final or not terms.bulk else next(outages, 0.0)
                if not seconds:
                    raise
            await self._sender.pause(seconds)


def _history(
    symbol: str,
    asked: Stretch,
    pages: Sequence[Page],
    first: int,
    began: int,
    requests: int,
    error: BinanceOIError | None = None,
) -> History:
    """Make a history of its pages.

    Args:
        symbol: The symbol.
        asked: The requested stretch.
        pages: The pages, oldest first.
        first: The first instant of the oldest page, Unix ms.
        began: When we began to read, by the exchange's clock, Unix ms.
        requests: The number of requests for the pages.
        error: Why there are no rows; None if reading succeeded.
    """
    complete_until = min(asked.last, began - SETTLED_MS)
    return History(
        symbol=symbol,
        period=asked.period,
        since=instant(asked.first),
        until=instant(asked.last),
        rows=tuple(chain.from_iterable(page.rows for page in pages)),
        holes=tuple(holes(pages, asked, first, complete_until)),
        complete_until=complete_until,
        requests=requests,
        error=error,
    )


async def histories(
    sender: Sender,
    listing: Listing,
    symbols: Sequence[str] | None,
    find_stretch: FindStretch,
    timeout: float,
    received: Mapping[str, int],
    on_progress: OnProgress | None,
) -> AsyncGenerator[History]:
    """Read several symbols at once, and yield each as soon as it is complete or has failed.

    It omits a symbol if the caller has all its rows already.

    Args:
        sender: Sends the requests.
        listing: Returns the symbols if `symbols` is None.
        symbols: The symbols to read; None for every symbol that is trading.
        find_stretch: Returns the stretch to read, given the exchange's time in Unix ms.
        timeout: Seconds for one request.
        received: For each symbol, the instant (Unix ms) up to which the caller has all rows.
        on_progress: Called after each symbol.

    Raises:
        ValueError: The stretch ends before it begins.
        BinanceOIError: The list of symbols could not be read.
        ClientClosedError: The client was closed.
    """
    sender.check_usable()
    terms = Terms(timeout, None, bulk=True)
    if symbols is None:
        symbols = (await listing.read(LISTING_AGE, terms)).trading
    reader = Reader(sender, listing, find_stretch, terms, received)
    names = [symbol for symbol in symbols if reader.stretch_of(symbol).pages]
    progress = _Progress(reader, names, on_progress)
    results: asyncio.Queue[History | BaseException] = asyncio.Queue(1)  # if full, workers wait
    left = iter(names)

    async def worker() -> None:
        try:
            for symbol in left:
                await results.put(await _read_or_error(reader, symbol))
        except Exception as error:  # the client was closed, or an unexpected error
            await results.put(error)

    tasks = [asyncio.create_task(worker()) for _ in range(min(WORKERS, len(names)))]
    try:
        for _ in names:
            result = await results.get()
            if isinstance(result, BaseException):
                raise result
            progress.report(result)
            yield result
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _read_or_error(reader: Reader, symbol: str) -> History:
    try:
        return await reader.read(symbol)
    except ClientClosedError:
        raise
    except BinanceOIError as error:
        asked = reader.stretch_of(symbol)
        return _history(symbol, asked, (), asked.first, asked.first, 0, error)


class _Progress:
    """Counts finished symbols, and estimates the remaining time."""

    def __init__(
        self, reader: Reader, names: Sequence[str], on_progress: OnProgress | None
    ) -> None:
        self._reader, self._on_progress = reader, on_progress
        self._pages = {name: reader.pages_of(name) for name in names}
        self._symbols, self._done = len(names), 0
        self._began = reader.loop_time

    def report(self, result: History) -> None:
        """Report that one more symbol is finished."""
        self._done += 1
        del self._pages[result.symbol]
        if self._on_progress is None:
            return
        reader = self._reader
        each = reader.seconds_each
        if reader.pages:
            each = max(each, (reader.loop_time - self._began) / reader.pages)
        self._on_progress(
            HistoryProgress(
                self._done,
                self._symbols,
                reader.rows,
                reader.requests,
                each * sum(self._pages.values()),
            )
        )
