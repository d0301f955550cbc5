"""One pass over many symbols, as close together as the budget allows.

The rule of this file: one symbol's failure is an entry in the errors and stops nothing; only the
end of the client stops the others.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from binance_oi.errors import (
    BinanceOIError,
    ClientClosedError,
    SymbolNotTradingError,
    UnknownSymbolError,
)
from binance_oi.exchange.models import MarkPrice, OpenInterest
from binance_oi.exchange.routes import LISTING, MARK_PRICES
from binance_oi.market.listing import LISTING_AGE, Listing
from binance_oi.market.snapshot import Snapshot
from binance_oi.sending.sender import Sender, Terms

Read = Callable[[str, Terms], Coroutine[Any, Any, OpenInterest]]
Progress = Callable[[int, int], None]
Prices = tuple[MarkPrice, ...] | BinanceOIError


async def sweep(
    sender: Sender,
    listing: Listing,
    read: Read,
    names: Sequence[str] | None,
    terms: Terms,
    *,
    notional: bool,
    on_progress: Progress | None,
) -> Snapshot:
    """Read all of them, as many at once as there are connections.

    Args:
        sender: Sends the requests.
        listing: What to read when `names` is None; doubted when a symbol of it is not there.
        read: Reads one symbol.
        names: None reads every symbol that is trading.
        terms: Of all requests together; has what they charged afterwards.
        notional: Read mark prices as well.
        on_progress: Called with the number of symbols done, and of all.

    Raises:
        BinanceOIError: The list of symbols could not be read.
        ClientClosedError: The client was closed meanwhile.
    """
    started = datetime.now(UTC)
    most = sender.governor.connections.most
    async with _connecting(sender, most if names is None else min(len(names), most)):
        if names is None:
            names = (await listing.read(LISTING_AGE, terms)).trading
        results: dict[str, OpenInterest | BinanceOIError] = {}
        received: dict[str, int] = {}
        prices: Prices = ()
        queue, count = iter(names), len(names)

        async def worker() -> None:
            for name in queue:
                results[name] = await _read_or_error(read, listing, name, terms)
                received[name] = time.time_ns() // 1_000_000
                if on_progress is not None:
                    on_progress(len(results), count)

        async def mark_prices() -> None:
            nonlocal prices
            prices = await _mark_prices_or_error(sender, listing, terms)

        jobs = [worker() for _ in range(min(count, most))]
        await _all_of([*jobs, mark_prices()] if notional else jobs)
        return _snapshot(names, results, started, terms.charged, received, prices)


@asynccontextmanager
async def _connecting(sender: Sender, count: int) -> AsyncGenerator[None]:
    """While the first request goes alone, the connections that the others need are opened.

    A handshake takes as long as two answers; nothing is counted for it.
    """
    opening = asyncio.ensure_future(sender.open_connections(LISTING, count))
    try:
        yield
    finally:
        opening.cancel()
        await asyncio.wait([opening])


async def _read_or_error(
    read: Read, listing: Listing, symbol: str, terms: Terms
) -> OpenInterest | BinanceOIError:
    try:
        return await read(symbol, terms)
    except ClientClosedError:
        raise
    except BinanceOIError as error:
        if isinstance(error, UnknownSymbolError | SymbolNotTradingError):
            listing.doubt(symbol)
        return error


async def _mark_prices_or_error(sender: Sender, listing: Listing, terms: Terms) -> Prices:
    try:
        found = await sender.send(MARK_PRICES, terms)
    except ClientClosedError:
        raise
    except BinanceOIError as error:
        return error
    listing.tell_odd("mark prices", found.odd_rows)
    return found.prices


async def _all_of(jobs: Iterable[Coroutine[None, None, None]]) -> None:
    """Run them all; when one fails, end the others before its error is raised."""
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
    """In the order asked for."""
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
