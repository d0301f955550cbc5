"""The commands `get`, `snapshot` and `symbols`.

The rule of this file: a command prints no result before it has read everything.
"""

import asyncio
import sys
from collections.abc import Sequence

from binance_oi.budget.usage import Usage
from binance_oi.cli.endings import OK, explain, snapshot_code
from binance_oi.cli.options import Order, Output, Source
from binance_oi.cli.progress import progress
from binance_oi.cli.render import (
    by_name,
    by_notional,
    counted,
    grouped,
    notional_sheet,
    summary,
    symbols_sheet,
    values_sheet,
)
from binance_oi.cli.streams import write_note
from binance_oi.client import OpenInterestClient
from binance_oi.exchange.models import ExchangeInfo
from binance_oi.market.snapshot import Snapshot


def read(symbols: Sequence[str], source: Source, output: Output) -> int:
    """Read open interest of these symbols, and show it in their order."""
    with source.client() as client:
        market, usage = asyncio.run(_snapshot(client, symbols, notional=False))
    if market or not market.errors:
        output.show(values_sheet(market.values()))
    return _end(market, usage, _failed(market))


def snapshot(
    symbols: Sequence[str] | None,
    source: Source,
    output: Output,
    *,
    notional: bool,
    order: Order,
    is_cut: bool,
) -> int:
    """Read open interest of the market, or of these symbols, and show it in the given order."""
    has_prices = notional or order == "usd"
    with source.client() as client:
        market, usage = asyncio.run(_snapshot(client, symbols, has_prices))
    failed = _failed(market)
    if market or not market.errors:
        sheet = notional_sheet(market) if has_prices else values_sheet(market.values())
        sheet = by_notional(sheet) if order == "usd" else by_name(sheet)
        output.show(sheet, is_cut=is_cut, below=len(failed))
    return _end(market, usage, failed)


def _failed(market: Snapshot) -> list[str]:
    """Return lines about failures: a few on a terminal, one for each symbol elsewhere."""
    reasons = {symbol: explain(error) for symbol, error in market.errors.items()}
    lines = grouped(reasons) if sys.stderr.isatty() else [f"{s}: {r}" for s, r in reasons.items()]
    if market.notional_error is not None:
        lines.append(f"mark prices: {explain(market.notional_error)}")
    return lines


def _end(market: Snapshot, usage: Usage, failed: Sequence[str]) -> int:
    """Print the failures and a summary; return the exit code."""
    for line in failed:
        write_note(line)
    write_note(summary(market, usage))
    return snapshot_code(market)


def symbols(source: Source, output: Output, *, is_cut: bool) -> int:
    """Read the list of symbols, and show those that are trading."""
    with source.client() as client:
        info, usage = asyncio.run(_exchange_info(client))
    trading = [symbol for symbol in info.symbols if symbol.status == "TRADING"]
    output.show(symbols_sheet(trading), is_cut=is_cut)
    write_note(f"{counted(len(trading), 'symbol')} trading; used {usage.used}/{usage.limit}")
    return OK


async def _snapshot(
    client: OpenInterestClient, symbols: Sequence[str] | None, notional: bool
) -> tuple[Snapshot, Usage]:
    async with client, progress(client) as on_progress:
        market = await client.snapshot(symbols, notional=notional, on_progress=on_progress)
        return market, client.usage


async def _exchange_info(client: OpenInterestClient) -> tuple[ExchangeInfo, Usage]:
    async with client, progress(client):
        return await client.exchange_info(), client.usage
