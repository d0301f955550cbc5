"""Commands that read the exchange."""

from datetime import timedelta
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from binance_oi.cli.app import command
from binance_oi.cli.options import (
    ArchiveSource,
    Bound,
    Flag,
    Movement,
    Order,
    Output,
    Place,
    Ranking,
    RequiredSymbols,
    RowPeriod,
    Schedule,
    Source,
    Store,
    Symbols,
    Window,
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
    window: Window = "1h",
    top: Annotated[int, Parameter(validator=Number(gt=0))] = 20,
    json: Flag = False,
    source: Source = Source(),
) -> int:
    """Follow the market in a table; on a pipe, print every change as a JSON line.

    Args:
        symbols: Only these symbols; by default, every symbol that is trading.
        every: The time between sweeps, such as 20s, 5m or 1h; or auto, the shortest of 5s to 10m
            that fits into the budget.
        sort: Sort by the change since the last sweep, since the start (total), or over the window;
            by its z-score (z); or by symbol.
        window: 5m or a multiple of it. What was before the start is read from the exchange's
            history, one request for each symbol, and kept for the next time.
        top: How many lines to show.
        json: Print JSON Lines, also on a terminal.
    """
    from binance_oi.cli import watching

    view = watching.View(sort, top, window)
    return watching.watch(symbols, every, view, source, as_json=json)


@command
def changes(
    symbols: Symbols = None,
    *,
    window: Window = "1h",
    top: Annotated[int, Parameter(validator=Number(gt=0))] = 20,
    sort: Ranking = "percent",
    recording: Store | None = None,
    source: Source = Source(),
    output: Output = Output(),
) -> int:
    """Show how open interest has changed over a window, the largest changes first.

    Each change is compared with the symbol's own changes over such windows in the 7 days before:
    the z-score is its distance from their mean in standard deviations, the percentile the share of
    them that is smaller. It needs at least 200 of them.

    The rows come from the exchange's history, and are kept for the next time: only what is new is
    asked for. The first time, up to 50 symbols are read 7 days back. More symbols are read 41 hours
    back, one request for each: the whole market takes 4 minutes.

    Args:
        symbols: Only these symbols; by default, every symbol that is trading.
        window: 5m or a multiple of it, such as 1h, 4h or 24h.
        top: How many changes to show.
        sort: By percent, usd or z-score, the largest in either direction first; or by symbol.
        recording: Read this recording instead, and send nothing.
    """
    from binance_oi.cli import comparing

    wanted = comparing.Wanted(symbols, window, top, sort)
    if recording is not None:
        return comparing.changes_recorded(wanted, recording, output)
    return comparing.changes_now(wanted, source, output)


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
    """Read open interest of the last 30 days, as the exchange keeps it.

    The exchange allows 1000 requests in 5 minutes. 30 days of 5m take 18 requests for each symbol,
    and 72 minutes for the whole market. With --to, the same command continues after an
    interruption. The exchange lacks some rows; the last line says how many stretches have none.

    Args:
        symbols: Such as BTCUSDT; by default, every symbol that is trading, which needs --to.
        since: The first instant: an age (30d, 12h, 90m), or ISO 8601, UTC unless it says otherwise.
        until: The last instant, in the same forms; by default, now.
        period: The time between rows.
        to: A name that ends in .parquet, .csv or .jsonl.
        replace: Replace an existing file of that name, and start again.
    """
    from binance_oi.cli import history as past

    wanted = past.Wanted(symbols, since, until, period)
    return past.history(wanted, to, replace=replace, source=source, output=output)


@command
def archive(
    symbols: RequiredSymbols,
    *,
    since: Annotated[Bound, Parameter(show_default=lambda _: "2020-09-01")] = None,
    until: Bound = None,
    to: Place,
    format: Literal["csv", "jsonl"] = "csv",
    source: ArchiveSource = ArchiveSource(),
) -> int:
    """Open interest since 2020, from the exchange's public archive, up to yesterday.

    The directory gets SYMBOL.csv with a row for each 5 minutes, and SYMBOL.holes.csv with each
    stretch that has none and the reason. Below it, files/ keeps the archive's own files: the same
    command goes on where it was interrupted, and reads a file again only when its checksum has
    changed. Rows are written anew, for the time that the command names.

    Args:
        symbols: Such as BTCUSDT, or BTCUSDT,ETHUSDT.
        since: The first instant: an age (30d), or ISO 8601, UTC unless it says otherwise. BTCUSDT
            begins on 2020-09-01, and most others on 2021-12-01.
        until: The last instant, given in the same way; without it, the end of yesterday.
        to: A directory, made when missing.
        format: The format of the rows.
    """
    from binance_oi.cli import archiving

    stretch = archiving.Stretch(since, until)
    return archiving.archive(symbols, to, stretch, format, source)
