"""Commands that make recordings, and that read them."""

from datetime import timedelta
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from binance_oi.cli.app import command
from binance_oi.cli.endings import UsageError
from binance_oi.cli.options import (
    ArchiveFiles,
    ArchiveUrl,
    Bound,
    Days,
    End,
    Flag,
    FromArchive,
    Place,
    RequiredSymbols,
    Rotation,
    Schedule,
    Source,
    Span,
    Store,
    Symbols,
    Window,
)

MONTH = timedelta(days=30)  # what the exchange's history keeps


@command
def record(
    symbols: Symbols = None,
    *,
    to: Store,
    every: Schedule = None,
    notional: Flag = False,
    backfill: Flag = False,
    standby: Flag = False,
    keep: Days | None = None,
    rotate: Rotation | None = None,
    end: End = End(),
    source: Source = Source(),
) -> int:
    """Record the whole market, or some symbols, until a signal stops the command.

    Ctrl-C, SIGTERM and SIGHUP (the terminal was closed) stop it; with nohup, SIGHUP does not. If
    sweeps were read but could not be written, the exit code is 7, and the last line says how many.
    Without any sweep, the exit code names the reason: 3 limited, 4 exchange, 5 network.

    Args:
        symbols: Only these symbols; by default, every symbol that is trading, including new ones.
        to: The recording: a file (SQLite), or postgresql://USER@HOST/DATABASE. If it exists, the
            command continues it.
        every: The time between sweeps, such as 20s, 5m or 1h; or auto, the shortest of 5s to 10m
            that fits into the budget. Slots are multiples of this time since 1970.
        notional: Record mark prices as well.
        backfill: Read the 5-minute instants of gaps from the exchange's history, also of gaps in
            earlier runs. That delays no sweep.
        standby: While another recorder records there, wait until it ends, and take over.
        keep: Remove older days, such as 90d. A summary of each day stays.
        rotate: Record into one file for each day or month: oi.db becomes oi.2026-11-26.db.
    """
    from binance_oi.cli import recording

    what = recording.What(every, notional, backfill, standby, keep, rotate)
    return recording.record(symbols, to, what, source=source, end=end)


@command
def backfill(
    recording: Store,
    /,
    symbols: Symbols = None,
    *,
    since: Annotated[Bound, Parameter(show_default=lambda _: "30d")] = MONTH,
    until: Bound = None,
    archive: FromArchive = False,
    cache: ArchiveFiles = None,
    archive_url: ArchiveUrl = None,
    source: Source = Source(),
) -> int:
    """Store 5-minute instants of the past in a recording, beside its samples.

    They come from the exchange's history, which has the last 30 days, and with --archive also from
    its public archive, which has all since 2020 up to yesterday. The command asks only for what the
    recording lacks, so the same command goes on where it was interrupted. It cannot run while a
    recorder writes there; record --backfill closes the gaps of a recorder.

    Args:
        recording: What `record` makes, a file or the URL of a database; made when missing.
        symbols: Only these; by default those of the recording, or all that trade if it has none.
        since: The first instant: an age (30d, 12h), or ISO 8601, UTC unless it says otherwise.
        until: The last instant, given in the same way; without it, now.
        archive: Read the archive as well.
        cache: The directory of the archive's files; by default in the user's cache directory.
        archive_url: The archive, or a mirror of it.
    """
    from binance_oi.cli import archiving

    archives = archiving.FromArchive(archive_url, cache) if archive else None
    stretch = archiving.Stretch(since, until)
    return archiving.fill(recording, symbols, stretch, archives, source)


@command
def export(
    recording: Store,
    /,
    symbols: Symbols = None,
    *,
    to: Place,
    span: Span = Span(),
    replace: Flag = False,
    new: Flag = False,
    csv_safe: Flag = False,
    series: Window | None = None,
) -> int:
    """Add a recording to Parquet, CSV or JSON Lines; existing rows stay.

    With --series the file gets one row for each symbol and instant: the last sample, or what
    history or the archive has. Such a file is not added to, only replaced.

    Args:
        recording: What `record` made: a file, or the URL of a database.
        symbols: Only these symbols.
        to: A name that ends in .parquet, .csv or .jsonl; or a directory for Parquet by day.
        replace: Replace all rows of each file that is written.
        new: Export only days that are missing or have grown. It is no error if there are none.
        csv_safe: In CSV, put an apostrophe before cells that a spreadsheet would run as a formula.
        series: Write the series with this step, 5m or a multiple of it, in place of the samples.
    """
    from binance_oi.cli import outputs

    if series is not None:
        if new:
            raise UsageError("--new and --series exclude each other")
        wanted = outputs.SeriesWanted(series, symbols, span)
        return outputs.export_series(recording, to, wanted, replace=replace, csv_safe=csv_safe)
    return outputs.export(recording, to, symbols, span, replace=replace, new=new, csv_safe=csv_safe)


@command
def copy(source: Store, target: Store, /) -> int:
    """Add everything of one recording to another: between files and databases, in any direction.

    Rows meet by their key, and what is there stays. A gap of either remains only where neither has
    a sweep. The same command continues where it was interrupted.

    Args:
        source: A file, or the URL of a database. A recorder may write it meanwhile.
        target: The same; made when missing. No recorder may write it.
    """
    from binance_oi.cli import caring

    return caring.copy(source, target)


@command
def prune(recording: Store, /, *, keep: Days) -> int:
    """Remove whole days that are too old, and return their space, also while a recorder writes.

    A summary of each day stays: how many slots had a sweep, and why the others had none.

    Args:
        recording: What `record` made: a file, or the URL of a database.
        keep: How many days stay, such as 90d, besides the current one.
    """
    from binance_oi.cli import caring

    return caring.prune(recording, keep)


@command
def compact(recording: Store, /) -> int:
    """Return free space to the system in short steps, while others record and read.

    Args:
        recording: What `record` made: a file, or the URL of a database.
    """
    from binance_oi.cli import caring

    return caring.compact(recording)


@command
def check(recording: Store, /, *, json: Flag = False) -> int:
    """Read a recording as a whole: what is damaged, what is missing, and why.

    Every slot from the first to the last should have a sweep. If one has none, the exit code is 6.

    Args:
        recording: What `record` made: a file, or the URL of a database.
        json: Print a JSON object.
    """
    from binance_oi.cli import caring

    return caring.check(recording, as_json=json)


@command
def backup(recording: Store, /, *, to: Place, replace: Flag = False) -> int:
    """Copy a recording, also while a recorder writes to it.

    Args:
        recording: What `record` made: a file, or the URL of a database.
        to: The copy: one file, which is complete as soon as it exists.
        replace: Replace an existing file.
    """
    from binance_oi.cli import outputs

    return outputs.backup(recording, to, replace=replace)


@command
def plot(
    recording: Store,
    /,
    symbols: RequiredSymbols,
    *,
    to: Place,
    span: Span = Span(),
    usd: Flag = False,
    dark: Flag = False,
) -> int:
    """Draw a chart of open interest over time, with the gaps shaded.

    Args:
        recording: What `record` made: a file, or the URL of a database.
        symbols: The symbols; each has a chart of its own.
        to: A name that ends in .svg or .png.
        usd: Draw open interest times mark price.
        dark: Light lines on a dark ground.
    """
    from binance_oi.cli import outputs

    return outputs.plot(recording, to, symbols, span, usd=usd, dark=dark)


@command
def report(
    recording: Store,
    /,
    symbols: Symbols = None,
    *,
    to: Place,
    span: Span = Span(),
    top: Annotated[int, Parameter(validator=Number(gt=0, lte=50))] = 10,
) -> int:
    """Write one HTML page about a recording: what the market did, and how complete it is.

    Args:
        recording: What `record` made: a file, or the URL of a database.
        symbols: Only these symbols.
        to: A name that ends in .html. The page loads no other file and opens offline.
        top: The number of movers in each table.
    """
    from binance_oi.cli import outputs

    return outputs.report(recording, to, symbols, span, top=top)
