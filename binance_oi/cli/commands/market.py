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

MONTH = timedelta(days=30)  # the exchange keeps rows of the past for this long


@command
def get(symbols: RequiredSymbols, *, source: Source = Source(), output: Output = Output()) -> int:
    """Read open interest of some symbols.

    Args:
        symbols: Symbols such as BTCUSDT, or BTCUSDT,ETHUSDT. Lower case is allowed.
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
        notional: Show the mark price too, and open interest in units of the quote asset.
        sort: Sort by name, or by notional value (usd), the largest first; usd reads mark prices
            too.
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
    """Follow the market in a table; on a pipe, print every new value as a JSON line.

    Args:
        symbols: Only these symbols; by default, every symbol that is trading.
        every: The time between sweeps, such as 20s, 5m or 1h; or auto, the shortest time from 5s to
            10m that fits into the budget.
        sort: Sort by change (since the last sweep), total (the change since the start), window (the
            change over the window), z (the z-score of that change), or symbol.
        window: The window of the change: 5m or a multiple of it, such as 1h. Like `changes`,
            the command reads the exchange's history for values from before its own start.
        top: How many lines to show.
        json: Print JSON Lines, even on a terminal.
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

    The command compares each change with the changes of the same symbol over windows of the same
    length in the 7 days before. The z-score is the distance of a change from the mean of these
    changes, in standard deviations. The percentile is the percentage of these changes that are
    smaller; an equal one counts half. Both need at least 200 changes to compare with.

    The rows come from the exchange's history. The command caches them, and the next time requests
    only new rows. The first time, it reads 8 days for up to 50 symbols, with 5 requests for each.
    For more symbols, it reads 41 hours, with one request for each: the whole market takes 4
    minutes. A long window needs more in both cases.

    Args:
        symbols: Only these symbols; by default, every symbol that is trading.
        window: The window: 5m or a multiple of it, such as 1h, 4h or 24h.
        top: How many changes to show.
        sort: Sort by percent, usd or z (the z-score), the largest change first; or by symbol.
        recording: Read this recording instead, and send nothing.
    """
    from binance_oi.cli import comparing

    arguments = comparing.Arguments(symbols, window, top, sort)
    if recording is not None:
        return comparing.changes_recorded(arguments, recording, output)
    return comparing.changes_now(arguments, source, output)


@command
def history(
    symbols: Symbols = None,
    *,
    since: Annotated[Bound, Parameter(show_default=lambda _: "30d")] = MONTH,
    until: Bound = None,
    period: RowPeriod = "5m",
    to: Place | None = None,
    replace: Flag = False,
    all: Flag = False,
    source: Source = Source(),
    output: Output = Output(),
) -> int:
    """Read open interest of the last 30 days from the exchange's history.

    The exchange allows 1000 requests in 5 minutes. For 30 days with a period of 5m, each symbol
    needs 18 requests, and the whole market takes 72 minutes. With --to, run the same command again
    to continue after an interruption. The exchange lacks some rows; the last line reports how many
    stretches of time have none.

    Args:
        symbols: Symbols such as BTCUSDT; with --to, by default every symbol that is trading.
        since: The first instant: an age (30d, 12h, 90m), or ISO 8601, in UTC unless it has an
            offset.
        until: The last instant, in the same forms; by default, now.
        period: The time between rows.
        to: The file: a name that ends in .parquet, .csv or .jsonl.
        replace: Replace an existing file of that name, and start again.
        all: Show every row, even if the terminal has room for fewer.
    """
    from binance_oi.cli import history as past

    arguments = past.Arguments(symbols, since, until, period)
    return past.history(
        arguments, to, replace=replace, is_cut=not all, source=source, output=output
    )


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
    """Read open interest from 2020 to yesterday from the exchange's public archive.

    The command writes two files for each symbol into the directory. SYMBOL.csv (or .jsonl) has one
    row per 5 minutes. SYMBOL.holes.csv has each stretch of time without rows, and the reason. The
    command replaces existing files of these names. The subdirectory files/ caches the archive's own
    files. Run the same command again to continue after an interruption: it downloads a file again
    only if the file's checksum has changed.

    Args:
        symbols: Symbols such as BTCUSDT, or BTCUSDT,ETHUSDT.
        since: The first instant: an age (30d), or ISO 8601, in UTC unless it has an offset. BTCUSDT
            begins on 2020-09-01, and most others on 2021-12-01.
        until: The last instant, in the same forms; by default, the end of yesterday.
        to: The directory. It is created if missing.
        format: The format of the rows.
    """
    from binance_oi.cli import archiving

    stretch = archiving.Stretch(since, until)
    return archiving.archive(symbols, to, stretch, format, source)
