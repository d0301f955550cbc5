"""Commands that read the exchange."""

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from binance_oi.cli.app import command
from binance_oi.cli.options import Flag, Given, Movement, Order, Output, Schedule, Source, Symbols


@command
def get(symbols: Given, *, source: Source = Source(), output: Output = Output()) -> int:
    """Open interest of some symbols.

    Args:
        symbols: Such as BTCUSDT; lower case will do. Also BTCUSDT,ETHUSDT.
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
    """Open interest of the whole market, or of some symbols.

    Args:
        symbols: Without any: every symbol that is trading.
        notional: Also the mark price, and open interest in units of the quote asset.
        sort: By name, or by what it is worth (usd), the largest first; that reads mark prices.
        all: Every row, also where the terminal shows fewer.
    """
    from binance_oi.cli import reading

    return reading.snapshot(symbols, source, output, notional=notional, order=sort, is_cut=not all)


@command
def symbols(*, all: Flag = False, source: Source = Source(), output: Output = Output()) -> int:
    """Every symbol that is trading.

    Args:
        all: Every row, also where the terminal shows fewer.
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
    """Follow the market in a table; on a pipe, every change as a JSON line.

    Args:
        symbols: Without any: every symbol that is trading.
        every: From sweep to sweep: 20s, 5m, 1h; or auto, the shortest of 5s to 10m that fits into
            the budget.
        sort: By the change since the last sweep, or since the start (total), or by symbol.
        top: How many lines to show.
        json: JSON Lines, also on a terminal.
    """
    from binance_oi.cli import watching

    return watching.watch(symbols, every, watching.View(sort, top), source, as_json=json)
