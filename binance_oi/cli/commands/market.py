"""Commands that read the exchange."""

from datetime import timedelta
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from binance_oi.cli.app import command
from binance_oi.cli.options import (
    Bound,
    Flag,
    Movement,
    Order,
    Output,
    Place,
    RequiredSymbols,
    RowPeriod,
    Schedule,
    Source,
    Symbols,
)

MONTH = timedelta(days=30)  # what the exchange keeps


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


@command
def history(
    symbols: Symbols = None,
    *,
    since: Annotated[Bound, Parameter(show_default=lambda _: "30d")] = MONTH,
    until: Bound = None,
    period: RowPeriod = "5m",
    to: Place | None = None,
    replace: Flag = False,
    source: Source = Source(),
    output: Output = Output(),
) -> int:
    """Open interest of the last 30 days, as the exchange keeps it.

    The exchange allows 1000 requests in 5 minutes for it. 30 days of 5m are 18 requests for each
    symbol; of the whole market they take 72 minutes. With --to, the same command goes on where it
    was interrupted. Rows that the exchange does not have are not made up; the last line says how
    many stretches lack them.

    Args:
        symbols: Such as BTCUSDT. Without any: every symbol that is trading, with --to only.
        since: The first instant: an age (30d, 12h, 90m), or ISO 8601, UTC unless it says otherwise.
        until: The last instant, given in the same way; without it, now.
        period: From row to row.
        to: A name that ends in .parquet, .csv or .jsonl.
        replace: Put the file in the place of what has that name, and begin anew.
    """
    from binance_oi.cli import history as past

    wanted = past.Wanted(symbols, since, until, period)
    return past.history(wanted, to, replace=replace, source=source, output=output)
