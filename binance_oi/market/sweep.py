"""Reads many symbols once, as closely together in time as the budget allows.

The rule of this file: if one symbol fails, the sweep continues with the others, unless the client
was closed.
"""

import asyncio
import math
import time
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Hashable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import count

from binance_oi.errors import (
    BinanceOIError,
    ClientClosedError,
    SymbolNotTradingError,
    UnknownSymbolError,
)
from binance_oi.exchange.decoding import MarkPrices
from binance_oi.exchange.models import MarkPrice, OpenInterest
from binance_oi.exchange.routes import LISTING, MARK_PRICES, open_interest
from binance_oi.market.answers import ALWAYS_ASK, Answer, Answers
from binance_oi.market.listing import LISTING_AGE, Listing
from binance_oi.market.snapshot import Snapshot
from binance_oi.sending.sender import Sender, Terms
from binance_oi.sending.shared_calls import SharedCalls

CLOCK_TOLERANCE = 0.001  # s by which two callers may compute the same moment differently

Progress = Callable[[int, int], None]
Prices = tuple[MarkPrice, ...] | BinanceOIError


class Sweeps:
    """The sweeps of one client, and the values that they have read.

    Args:
        sender: Sends the requests.
        listing: Returns the symbols if the caller passes None. If the exchange refuses a listed
            symbol, the sweep reports that to the listing, which then reads the list again.
    """

    def __init__(self, sender: Sender, listing: Listing) -> None:
        self._sender, self._listing = sender, listing
        self.values: Answers[OpenInterest] = Answers(sender)
        """The latest value of each symbol."""
        self._prices: Answers[MarkPrices] = Answers(sender)
        self._shared: SharedCalls[Snapshot] = SharedCalls()
        # For each running sweep: its `since`, its deadline (both loop time), and its number.
        self._running: dict[Hashable, tuple[float, float, int]] = {}
        self._numbers = count()

    async def read(
        self, name: str, terms: Terms, since: float = ALWAYS_ASK
    ) -> Answer[OpenInterest]:
        """Read open interest of a symbol, or return an answer that came at loop time `since` or
        later."""
        ask = partial(self._sender.send, open_interest(name), terms)
        return await self.values.read(name, ask, terms, since)

    async def join(
        self, names: tuple[str, ...] | None, terms: Terms, *, notional: bool, since: float
    ) -> Snapshot:
        """Sweep, or share a running sweep of the same symbols, `notional` and `max_wait`.

        The call shares only a sweep whose `since` and deadline are not earlier than the call's.
        """
        key = names, notional, terms.max_wait
        oldest, ends, number = self._running.get(key, (-math.inf, -math.inf, -1))
        if oldest < since - CLOCK_TOLERANCE or ends < terms.ends - CLOCK_TOLERANCE:
            number = next(self._numbers)
            self._running[key] = since, terms.ends, number

        async def sweep_once() -> Snapshot:
            try:
                return await self.sweep(names, terms, notional=notional, since=since)
            finally:
                if self._running.get(key, (0.0, 0.0, -1))[2] == number:
                    del self._running[key]

        return await self._shared.join(number, sweep_once, terms.ends)

    async def sweep(
        self,
        names: Sequence[str] | None,
        terms: Terms,
        *,
        notional: bool,
        on_progress: Progress | None = None,
        since: float = ALWAYS_ASK,
    ) -> Snapshot:
        """Read all symbols, as many at once as there are connections.

        Args:
            names: The symbols; None for every symbol that is trading.
            terms: The terms of all requests together. The call adds their weight to
                `terms.charged`.
            notional: Whether to read mark prices too.
            on_progress: Called with the number of finished symbols and the number of all symbols.
            since: The sweep may use answers that came at this loop time or later.

        Raises:
            BinanceOIError: The list of symbols could not be read.
            ClientClosedError: The client was closed during the sweep.
        """
        sender, started = self._sender, datetime.now(UTC)
        most = sender.governor.connections.most
        async with _opening_connections(sender, most if names is None else min(len(names), most)):
            if names is None:
                names = (await self._listing.read(LISTING_AGE, terms)).trading
            results: dict[str, OpenInterest | BinanceOIError] = {}
            received: dict[str, int] = {}
            prices: Prices = ()
            queue, total = iter(names), len(names)

            async def worker() -> None:
                for name in queue:
                    results[name], age = await self._value_or_error(name, terms, since)
                    received[name] = time.time_ns() // 1_000_000 - round(age * 1000)
                    if on_progress is not None:
                        on_progress(len(results), total)

            async def mark_prices() -> None:
                nonlocal prices
                prices = await self._prices_or_error(terms, since)

            jobs = [worker() for _ in range(min(total, most))]
            await _run_all([*jobs, mark_prices()] if notional else jobs)
            return _snapshot(names, results, started, terms.charged, received, prices)

    async def _value_or_error(
        self, symbol: str, terms: Terms, since: float
    ) -> tuple[OpenInterest | BinanceOIError, float]:
        """Return the value or the error of a symbol, and the age of the answer in seconds."""
        try:
            answer = await self.read(symbol, terms, since)
        except ClientClosedError:
            raise
        except BinanceOIError as error:
            if isinstance(error, UnknownSymbolError | SymbolNotTradingError):
                self._listing.doubt(symbol)
            return error, 0.0
        return answer.value, self._sender.now() - answer.at

    async def _prices_or_error(self, terms: Terms, since: float) -> Prices:
        ask = partial(self._sender.send, MARK_PRICES, terms)
        try:
            found = (await self._prices.read(MARK_PRICES, ask, terms, since)).value
        except ClientClosedError:
            raise
        except BinanceOIError as error:
            return error
        self._listing.warn_of_odd_rows("mark prices", found.odd_rows)
        return found.prices


@asynccontextmanager
async def _opening_connections(sender: Sender, count: int) -> AsyncGenerator[None]:
    """Open `count` connections at once, while the block sends the first requests.

    A handshake takes as long as two answers, and costs no weight.
    """
    opening = asyncio.ensure_future(sender.open_connections(LISTING, count))
    try:
        yield
    finally:
        opening.cancel()
        await asyncio.wait([opening])


async def _run_all(jobs: Iterable[Coroutine[None, None, None]]) -> None:
    """Run all jobs concurrently. If one fails, cancel the others, and then raise its error."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise


def _snapshot(
    names: Sequence[str],
    results: Mapping[str, OpenInterest | BinanceOIError],
    started: datetime,
    weight: int,
    received: Mapping[str, int],
    prices: Prices,
) -> Snapshot:
    """Make the snapshot, with its symbols in the order of `names`."""
    error, marks = (prices, ()) if isinstance(prices, BinanceOIError) else (None, prices)
    values = {n: r for n in names if isinstance(r := results[n], OpenInterest)}
    errors = {n: r for n in names if isinstance(r := results[n], BinanceOIError)}
    return Snapshot(
        values_by_symbol=values,
        errors=errors,
        started=started,
        finished=datetime.now(UTC),
        weight=weight,
        received_ms={n: received[n] for n in values},
        mark_prices={p.symbol: p for p in marks if p.symbol in values},
        notional_error=error,
    )
