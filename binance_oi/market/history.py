"""Open interest of the past: of one symbol, and of many.

The rule of this file: a row is what the exchange keeps, or it is not there. Nothing is
interpolated, and each stretch without rows is a hole with its reason:

    too_old   the exchange does not keep it any more: only the last 30 days
    no_row    the exchange has no row: nobody traded, or the symbol was not listed; it stays so

Pages are read backwards from the end. Each one asks for a stretch of time into which no more rows
fit than a page holds, so neither a hole nor an odd row moves the pages after it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple

from binance_oi.arguments import check_number
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
from binance_oi.exchange.models import HistoryRow
from binance_oi.exchange.routes import KEPT_MS, MAX_ROWS, PERIODS, Request, history_page
from binance_oi.market.gap import Gap
from binance_oi.market.listing import LISTING_AGE, Listing
from binance_oi.market.past import History, HistoryProgress
from binance_oi.sending.sender import Sender, Terms
from binance_oi.times import instant, unix_ms

TOO_OLD, NO_ROW = "too_old", "no_row"
INVALID = -1130  # the code for a startTime that is earlier than what is kept [O 2026-07 to 09]
# ms that a request may take from its making to the exchange, or a clock may be off; then longer
# ones, for calls that waited longer in the queue.
MARGINS_MS = (30_000, 120_000, 600_000)
SETTLED_MS = 60_000  # after which a row is there, if it ever is; 6 s were seen [O 2026-09-12]
WORKERS = 8  # symbols at a time: enough for the limit while an answer takes 2 s, and little memory
OUTAGE = (1.0, 5.0, 25.0, 60.0)  # s to wait, one after the other, before a symbol is given up
MOVED = 60.0  # s by which the exchange's clock differs from what we took it for
HELD = 1.0  # s to wait at the least after a refusal

Moment = datetime | timedelta | int | None
"""A bound: aware, or so long before now, or Unix ms; None is the default."""


class Stretch(NamedTuple):
    """What is asked for: a period, and the first and the last instant, Unix ms."""

    period: str
    first: int
    last: int

    @property
    def step(self) -> int:
        """Ms from row to row."""
        return PERIODS[self.period]

    @property
    def pages(self) -> int:
        """How many pages hold it."""
        return max(0, -(-(self.last - self.first + 1) // (MAX_ROWS * self.step)))


OnProgress = Callable[[HistoryProgress], None]


def check_period(period: object) -> str:
    """`period`, if the exchange has it.

    Raises:
        ValueError: It has not.
    """
    if not isinstance(period, str) or period not in PERIODS:
        raise ValueError(f"period must be one of {', '.join(PERIODS)}: {period!r}")
    return period


def _check_moment(name: str, moment: object) -> None:
    """See that `moment` is a bound.

    Raises:
        TypeError: It is of another type.
        ValueError: It does not say its time zone, or is before 1970.
    """
    match moment:
        case None:
            return
        case datetime():
            at: float = unix_ms(moment)
        case timedelta():
            at = moment.total_seconds()
        case _:
            at = check_number(name, moment)
    if at < 0:
        raise ValueError(f"{name} must not be negative, nor before 1970: {moment!r}")


Ask = Callable[[int], Stretch]
"""What to read, given the exchange's clock in Unix ms."""


def make_ask(period: str, since: Moment, until: Moment) -> Ask:
    """What these arguments ask for; see `stretch`.

    Raises:
        TypeError: A bound is of another type.
        ValueError: There is no such period, or a bound cannot be one.
    """
    _check_moment("since", since)
    _check_moment("until", until)
    return partial(stretch, check_period(period), since, until)


def stretch(period: str, since: Moment, until: Moment, now: int) -> Stretch:
    """What these arguments ask for.

    Args:
        period: From row to row.
        since: The first instant; None is the oldest row that is kept.
        until: The last instant; None is now.
        now: The exchange's clock, Unix ms.

    Raises:
        ValueError: The range ends before it begins.
    """
    step = PERIODS[period]
    last = now if until is None else _ms(until, now)
    # The first row that is certain to be kept while its page is under way.
    oldest = -(-(now - KEPT_MS + MARGINS_MS[0]) // step) * step
    first = oldest if since is None else _ms(since, now)
    if first > last:
        raise ValueError(f"since ({instant(first)}) must not be later than until ({instant(last)})")
    return Stretch(period, first, last)


def _ms(moment: datetime | timedelta | int, now: int) -> int:
    if isinstance(moment, datetime):
        return unix_ms(moment)
    if isinstance(moment, timedelta):
        return max(0, now - round(moment.total_seconds() * 1000))
    return int(moment)


class Reader:
    """Reads a stretch of the past, symbol by symbol.

    Args:
        sender: Sends the requests.
        listing: Says what is odd, once.
        ask: The stretch, given the exchange's clock in Unix ms.
        received: Unix ms up to which all rows of a symbol are known.
        terms: Of each request. `max_wait` is for all pages of a symbol together; in bulk, bans,
            refusals and outages are waited out.
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
        self._clocks = 1  # that the stretch was made by
        self.pages: int = 0
        """Pages received."""
        self.requests: int = 0
        """Requests charged for symbols that are done."""
        self.rows: int = 0
        """Rows of symbols that are done."""

    @property
    def now(self) -> int:
        """The exchange's clock, Unix ms."""
        return round(self._pool.exchange_time * 1000)

    @property
    def loop_time(self) -> float:
        """Seconds of the loop."""
        return self._sender.now()

    @property
    def seconds_each(self) -> float:
        """From request to request, at the speed of the limit."""
        return 60.0 / max(1.0, self._pool.usage.sustained)

    def pages_of(self, symbol: str) -> int:
        """How many pages a symbol has, as far as its rows are kept."""
        first, now = self.asked_of(symbol).first, self.now
        last = min(self._asked.last, now)
        return self._asked._replace(first=max(first, now - KEPT_MS), last=last).pages

    def asked_of(self, symbol: str) -> Stretch:
        """What is to be read of a symbol: nothing when its end comes before its beginning."""
        first = max(self._asked.first, self._received.get(symbol, -1) + 1)
        return self._asked._replace(first=first)

    async def read(self, symbol: str) -> History:
        """All rows of one symbol.

        Raises:
            BinanceOIError: A page could not be read; see `OpenInterestClient.history`.
        """
        terms = replace(self._terms, charged=0, waited=0.0)
        pages: list[list[HistoryRow]] = []  # the newest first
        clocks = 0
        asked, began, first = self.asked_of(symbol), self.now, 0
        try:
            while clocks != self._clocks:  # once, and again when the clock proves wrong
                clocks, asked, began = self._clocks, self.asked_of(symbol), self.now
                pages.clear()
                first = await self._read_back(symbol, asked, min(asked.last, began), terms, pages)
        finally:
            self.requests += terms.charged
        rows = _in_order(pages)
        self.rows += len(rows)
        return _history(symbol, asked, rows, first, began, terms.charged)

    async def _read_back(
        self, symbol: str, asked: Stretch, last: int, terms: Terms, pages: list[list[HistoryRow]]
    ) -> int:
        """Read from `last` backwards, as long as the clock stays what it was; where it ends."""
        clocks = self._clocks
        while last >= asked.first and clocks == self._clocks:
            first, rows = await self._page(symbol, asked, last, terms)
            self._notice_clock()
            pages.append(rows)
            if first > last:
                break
            last = first - 1
        return last + 1

    def _notice_clock(self) -> None:
        """Make the stretch anew when an answer shows that the clock it was made by was wrong."""
        offset = self._pool.exchange_time - self._sender.now()
        before, self._offset = self._offset, offset
        if abs(offset - before) > MOVED:
            self._asked = self._ask(self.now)
            self._clocks += 1

    async def _page(
        self, symbol: str, asked: Stretch, last: int, terms: Terms
    ) -> tuple[int, list[HistoryRow]]:
        """The page that ends at `last`: where it begins, and its rows.

        What is kept moves on while the request waits, so after a refusal for that a bit less is
        asked for. A page that would begin after `last` is too old, and is not asked for.
        """
        for margin in MARGINS_MS:
            kept = self.now - KEPT_MS
            first = max(asked.first, last - MAX_ROWS * asked.step + 1, kept + margin)
            if first > last:
                break
            try:
                return first, await self._rows(symbol, asked.period, first, last, terms)
            except ResponseError as error:
                # By the clock as it is after the answer, which may be another one.
                is_near = first < self.now - KEPT_MS + MARGINS_MS[-1]
                if error.code != INVALID or not is_near or margin == MARGINS_MS[-1]:
                    raise
        return last + 1, []

    async def _rows(
        self, symbol: str, period: str, first: int, last: int, terms: Terms
    ) -> list[HistoryRow]:
        """The rows between these instants.

        A page may have rows outside of them [O]. One that has no other rows may be the answer to an
        earlier question, so it is asked for once more.
        """
        request = history_page(symbol, period, first, last)
        page = await self._send(request, terms)
        rows = _within(page.rows, first, last)
        if page.rows and not rows:
            page = await self._send(request, terms)
            rows = _within(page.rows, first, last)
        self._listing.warn_of_odd_rows("history", page.odd_rows)
        self.pages += 1
        return rows

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


def _within(rows: Sequence[HistoryRow], first: int, last: int) -> list[HistoryRow]:
    """Those of a page that were asked for; nearly always all of them."""
    times = [row.time for row in rows]
    if times and first <= min(times) and max(times) <= last:
        return list(rows)
    return [row for row in rows if first <= row.time <= last]


def _in_order(pages: list[list[HistoryRow]]) -> tuple[HistoryRow, ...]:
    """The rows of all pages, of which the newest come first; each instant once."""
    rows = tuple(chain.from_iterable(reversed(pages)))
    times = [row.time for row in rows]
    if sorted(set(times)) == times:  # nearly always
        return rows
    found = dict(zip(times, rows, strict=True))
    return tuple(found[time] for time in sorted(found))


def _history(
    symbol: str,
    asked: Stretch,
    rows: tuple[HistoryRow, ...],
    first: int,
    began: int,
    requests: int,
    error: BinanceOIError | None = None,
) -> History:
    """Rows that were read back to `first`, beginning at `began`; both in Unix ms."""
    complete_until = min(asked.last, began - SETTLED_MS)
    return History(
        symbol=symbol,
        period=asked.period,
        since=instant(asked.first),
        until=instant(asked.last),
        rows=rows,
        holes=tuple(_holes(rows, asked, first, complete_until)),
        complete_until=complete_until,
        requests=requests,
        error=error,
    )


def _holes(
    rows: Iterable[HistoryRow], asked: Stretch, first: int, complete_until: int
) -> Iterator[Gap]:
    """The stretches without rows, in steps of the period.

    Args:
        rows: The oldest first.
        asked: What was asked for.
        first: Before it nothing is kept any more.
        complete_until: After it rows may still appear.
    """
    step = asked.step
    due = -(-asked.first // step) * step  # the next instant that may have a row
    kept = -(-first // step) * step
    if kept > due:
        yield Gap(due, kept - step, TOO_OLD, "only the last 30 days are kept")
        due = kept
    before = due - step
    for row in rows:
        if row.time - before != step:  # nearly never
            due, slot = before // step * step + step, row.time // step * step
            if slot > due:
                yield Gap(due, slot - step, NO_ROW)
        before = row.time
    due = before // step * step + step
    end = complete_until // step * step
    if end >= due:
        yield Gap(due, end, NO_ROW)


async def histories(
    sender: Sender,
    listing: Listing,
    symbols: Sequence[str] | None,
    ask: Ask,
    timeout: float,
    received: Mapping[str, int],
    on_progress: OnProgress | None,
) -> AsyncGenerator[History]:
    """Each symbol as soon as it is read, a few at a time; those that are complete are left out.

    Args:
        sender: Sends the requests.
        listing: What to read when `symbols` is None.
        symbols: None reads every symbol that is trading.
        ask: What to read of each.
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
        except Exception as error:  # the client was closed, or something nobody foresaw
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
    """Counts, and says how much is left."""

    def __init__(
        self, reader: Reader, names: Sequence[str], on_progress: OnProgress | None
    ) -> None:
        self._reader, self._on_progress = reader, on_progress
        self._pages = {name: reader.pages_of(name) for name in names}
        self._symbols, self._done = len(names), 0
        self._began = reader.loop_time

    def tell(self, result: History) -> None:
        """One more symbol is done."""
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
