"""Commands that read the exchange."""

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from binance_oi.cli.app import command
from binance_oi.cli.options import (
    Flag,
    Movement,
    Order,
    Output,
    RequiredSymbols,
    Schedule,
    Source,
    Symbols,
)


@command
def get(symbols: RequiredSymbols, *, source: Source = Source(), output: Output = Output()) -> int:
    """Read open interest of some symbols.

    Args:
        symbols: Such as BTCUSDT, or BTCUSDT,ETHUSDT. Lower case is allowed.
    """
    from binance_oi.cli.reading import read

    return read(symbols, source, output)


@command
def snapshot(
    symbols: Symbols = None,
    *,
    notional: Flag = False,
    sort: Order = "name",
    all: Flag = False,
    source: Source = Source(),
    output: Output = Output(),
) -> int:
    """Read open interest of the whole market, or of some symbols.

    Args:
        symbols: Only these symbols; by default, every symbol that is trading.
        notional: Show also the mark price, and open interest in units of the quote asset.
        sort: Sort by name, or by notional value (usd), the largest first; usd reads mark prices.
        all: Show every row, even if the terminal has room for fewer.
    """
    from binance_oi.cli import reading

    return reading.snapshot(symbols, source, output, notional=notional, order=sort, is_cut=not all)


@command
def symbols(*, all: Flag = False, source: Source = Source(), output: Output = Output()) -> int:
    """List every symbol that is trading.

    Args:
        all: Show every row, even if the terminal has room for fewer.
    """
    from binance_oi.cli import reading

    return reading.symbols(source, output, is_cut=not all)


@command
def watch(
    symbols: Symbols = None,
    *,
    every: Schedule = None,
    sort: Movement = "change",
    top: Annotated[int, Parameter(validator=Number(gt=0))] = 20,
    json: Flag = False,
    source: Source = Source(),
) -> int:
    """Follow the market in a table; on a pipe, print every change as a JSON line.

    Args:
        symbols: Only these symbols; by default, every symbol that is trading.
        every: The time between sweeps, such as 20s, 5m or 1h; or auto, the shortest of 5s to 10m
            that fits into the budget.
        sort: Sort by the change since the last sweep, or since the start (total), or by symbol.
        top: How many lines to show.
        json: Print JSON Lines, also on a terminal.
    """
    from binance_oi.cli import watching

    return watching.watch(symbols, every, watching.View(sort, top), source, as_json=json)
