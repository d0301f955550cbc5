"""What `get`, `snapshot` and `symbols` do.

The rule of this file: a command reads, then shows everything at once.
"""

import asyncio
from collections.abc import Sequence

from binance_oi.budget.usage import Usage
from binance_oi.cli.endings import OK, explain, snapshot_code
from binance_oi.cli.options import Output, Source
from binance_oi.cli.progress import progress
from binance_oi.cli.render import notional_sheet, summary, symbols_sheet, values_sheet
from binance_oi.cli.streams import complain
from binance_oi.client import OpenInterestClient
from binance_oi.exchange.models import ExchangeInfo
from binance_oi.market.snapshot import Snapshot


def read(
    symbols: Sequence[str] | None, source: Source, output: Output, *, notional: bool = False
) -> int:
    """Read open interest, and show it."""
    with source.client() as client:
        market, usage = asyncio.run(_snapshot(client, symbols, notional))
    if market or not market.errors:
        output.show(notional_sheet(market) if notional else values_sheet(market.values()))
    for symbol, error in market.errors.items():
        complain(f"{symbol}: {explain(error)}")
    if market.notional_error is not None:
        complain(f"mark prices: {explain(market.notional_error)}")
    complain(summary(market, usage))
    return snapshot_code(market)


def symbols(source: Source, output: Output) -> int:
    """Read the listing, and show what is trading."""
    with source.client() as client:
        listed = asyncio.run(_exchange_info(client)).symbols
    output.show(symbols_sheet(s for s in listed if s.status == "TRADING"))
    return OK


async def _snapshot(
    client: OpenInterestClient, symbols: Sequence[str] | None, notional: bool
) -> tuple[Snapshot, Usage]:
    async with client, progress(client) as on_progress:
        market = await client.snapshot(symbols, notional=notional, on_progress=on_progress)
        return market, client.usage


async def _exchange_info(client: OpenInterestClient) -> ExchangeInfo:
    async with client:
        return await client.exchange_info()
