"""Open interest of the past: of one symbol, and of many.

The rule of this file: each row is one that the exchange keeps, and nothing is interpolated. Each
stretch without rows is a hole with its reason:

    too_old   the exchange no longer keeps it: it keeps only the last 30 days
    no_row    the exchange has no row and will not have one: there was no trade, or no listing

We read pages backwards from the end. Each page asks for a stretch of time that has at most as many
rows as fit into a page. So neither a hole nor an odd row shifts the pages after it.
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

INVALID = -1130  # the code for a startTime that is earlier than what is kept [O 2026-07 to 09]
# ms between making a request and its arrival, or by which a clock may be wrong. The later, longer
# ones are for calls that waited longer in the queue.
MARGINS_MS = (30_000, 120_000, 600_000)
SETTLED_MS = 60_000  # after which a row has appeared, if ever; after 6 s [O 2026-09-12]
WORKERS = 8  # symbols at once: enough to use the limit if an answer takes 2 s
OUTAGE = (1.0, 5.0, 25.0, 60.0)  # s: the waits in an outage, before a symbol fails
MOVED = 60.0  # s by which the exchange's clock must differ from our estimate to count as wrong
HELD = 1.0  # s: the shortest wait after a refusal


OnProgress = Callable[[HistoryProgress], None]


def check_period(period: object) -> str:
    """`period`, if the exchange has it.

    Raises:
        ValueError: It has no such period.
    """
    if not isinstance(period, str) or period not in PERIODS:
        raise ValueError(f"period must be one of {', '.join(PERIODS)}: {period!r}")
    return period


Ask = Callable[[int], Stretch]
"""Returns the stretch to read, given the exchange's clock in Unix ms."""


def make_ask(period: str, since: Moment, until: Moment) -> Ask:
    """Check these arguments and make the function that turns them into a stretch.

    Raises:
        TypeError: A bound is of another type.
        ValueError: There is no such period, or a bound cannot be one.
    """
    check_moment("since", since)
    check_moment("until", until)
    return partial(stretch, check_period(period), since, until)


def stretch(period: str, since: Moment, until: Moment, now: int) -> Stretch:
    """The stretch that these arguments ask for.

    Args:
        period: The time between rows.
        since: The first instant; None is the oldest row that is kept.
        until: The last instant; None is now.
        now: The exchange's clock, Unix ms.

    Raises:
        ValueError: The range ends before it begins.
    """
    step = PERIODS[period]
    last = now if until is None else moment_ms(until, now)
    # The first row that the exchange certainly still keeps when the page's request arrives.
    oldest = -(-(now - KEPT_MS + MARGINS_MS[0]) // step) * step
    first = oldest if since is None else moment_ms(since, now)
    if first > last:
        raise ValueError(f"since ({instant(first)}) must not be later than until ({instant(last)})")
    return Stretch(period, first, last)


class Reader:
    """Reads a stretch of the past, symbol by symbol.

    Args:
        sender: Sends the requests.
        listing: Logs odd rows once.
        ask: Returns the stretch to read, given the exchange's clock in Unix ms.
        received: Unix ms up to which all rows of a symbol are known.
        terms: The terms of each request. `max_wait` is for all pages of a symbol together. In bulk,
            the reader waits until a ban, a refusal or an outage is over.
    """

    def __init__(
        self,
        sender: Sender,
        listing: Listing,
        ask: Ask,
        terms: Terms,
        received: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self._sender, self._listing, self._terms = sender, listing, terms
        self._ask, self._received = ask, received
        self._pool = sender.governors.of(HISTORY).pool
        self._offset = self._pool.exchange_time - sender.now()
        self._asked = ask(self.now)
        self._clocks = 1  # number of estimates of the exchange's clock so far
        self.pages: int = 0
        """Pages received."""
        self.requests: int = 0
        """Requests charged for finished symbols."""
        self.rows: int = 0
        """Rows of finished symbols."""

    @property
    def now(self) -> int:
        """The exchange's clock, Unix ms."""
        return round(self._pool.exchange_time * 1000)

    @property
    def loop_time(self) -> float:
        """The time of the loop, s."""
        return self._sender.now()

    @property
    def seconds_each(self) -> float:
        """Seconds between two requests at the pace of the limit."""
        return 60.0 / max(1.0, self._pool.usage.sustained)

    def pages_of(self, symbol: str) -> int:
        """The number of pages of a symbol whose rows the exchange keeps."""
        first, now = self.asked_of(symbol).first, self.now
        last = min(self._asked.last, now)
        return self._asked._replace(first=max(first, now - KEPT_MS), last=last).pages

    def asked_of(self, symbol: str) -> Stretch:
        """The stretch to read of a symbol; empty if its end is before its beginning."""
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
        asked, began, first = self.asked_of(symbol), self.now, 0
        try:
            while clocks != self._clocks:  # once, and again when the clock proves wrong
                clocks, asked, began = self._clocks, self.asked_of(symbol), self.now
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
        """Read from `last` backwards until the clock proves wrong; return where that ends."""
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
        """Make a new stretch if an answer shows that our estimate of the clock was wrong."""
        offset = self._pool.exchange_time - self._sender.now()
        before, self._offset = self._offset, offset
        if abs(offset - before) > MOVED:
            self._asked = self._ask(self.now)
            self._clocks += 1

    async def _page(self, symbol: str, asked: Stretch, last: int, terms: Terms) -> tuple[int, Page]:
        """Read the page that ends at `last`; return where it begins, and the page.

        While the request waits, the oldest kept instant moves on. If the exchange refuses the page
        for that reason, we ask again from a slightly later instant. If that is after `last`, the
        page is too old, and we do not ask.
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
                # The answer may have changed the clock, so use the new one.
                is_near = first < self.now - KEPT_MS + MARGINS_MS[-1]
                if error.code != INVALID or not is_near or margin == MARGINS_MS[-1]:
                    raise
        return last + 1, Page([], [], is_whole=False)

    async def _rows(self, symbol: str, part: Stretch, terms: Terms) -> Page:
        """Read the rows of a stretch that fits into one page.

        A page may have rows outside of it [O]. If all of them are outside, the page may be the
        answer to an earlier request, so we ask once more.
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
    """Make a history of pages, oldest first.

    Args:
        symbol: The symbol.
        asked: The requested stretch.
        pages: The pages.
        first: The instant back to which they were read, Unix ms.
        began: When that started, Unix ms.
        requests: The requests that it took.
        error: Why there are no rows.
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
    ask: Ask,
    timeout: float,
    received: Mapping[str, int],
    on_progress: OnProgress | None,
) -> AsyncGenerator[History]:
    """Yield each symbol as soon as it is read, a few at once, without those that are complete.

    Args:
        sender: Sends the requests.
        listing: The symbols to read if `symbols` is None.
        symbols: None reads every symbol that is trading.
        ask: Returns the stretch to read of each.
        timeout: Seconds for one page.
        received: Unix ms up to which all rows of a symbol are known.
        on_progress: Called after each symbol.

    Raises:
        BinanceOIError: The list of symbols could not be read.
        ClientClosedError: The client was closed meanwhile.
    """
    sender.check_usable()
    terms = Terms(timeout, None, bulk=True)
    if symbols is None:
        symbols = (await listing.read(LISTING_AGE, terms)).trading
    reader = Reader(sender, listing, ask, terms, received)
    names = [symbol for symbol in symbols if reader.asked_of(symbol).pages]
    progress = _Progress(reader, names, on_progress)
    results: asyncio.Queue[History | BaseException] = asyncio.Queue(1)  # the reader sets the pace
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
            progress.tell(result)
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
        asked = reader.asked_of(symbol)
        return _history(symbol, asked, (), asked.first, asked.first, 0, error)


class _Progress:
    """Counts finished symbols, and estimates the time that is left."""

    def __init__(
        self, reader: Reader, names: Sequence[str], on_progress: OnProgress | None
    ) -> None:
        self._reader, self._on_progress = reader, on_progress
        self._pages = {name: reader.pages_of(name) for name in names}
        self._symbols, self._done = len(names), 0
        self._began = reader.loop_time

    def tell(self, result: History) -> None:
        """Report that one more symbol is done."""
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
