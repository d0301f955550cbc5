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

MONTH = timedelta(days=30)  # the exchange keeps rows of the past for this long


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
    the recorder read sweeps that it could not write, the exit code is 7, and the last line shows
    their number. If there was no sweep at all, the exit code shows the reason: 3 limited, 4
    exchange, 5 network, 1 this machine.

    Args:
        symbols: Only these symbols; by default, every symbol that is trading, including new ones.
        to: The recording: a file (SQLite), or postgresql://USER@HOST/DATABASE. If it exists, the
            command continues it.
        every: The time between sweeps, such as 20s, 5m or 1h; or auto, the shortest time from 5s to
            10m that fits into the budget. Sweeps begin at multiples of this time since 1970: with
            20s, at :00, :20 and :40.
        notional: Record mark prices too.
        backfill: Read rows for gaps, also for those of earlier runs, from the exchange's history:
            a row for every 5 minutes. Backfilling delays no sweep.
        standby: Wait while another recorder records there, and take over when it ends.
        keep: Remove days older than this, such as 90d. A summary of each day stays.
        rotate: Record into one file for each day or month: oi.db becomes oi.2026-11-26.db.
    """
    from binance_oi.cli import recording

    arguments = recording.RecorderArguments(every, notional, backfill, standby, keep, rotate)
    return recording.record(symbols, to, arguments, source=source, end=end)


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
    """Store past open interest in a recording, beside its samples: a row for every 5 minutes.

    These rows come from the exchange's history, which has the last 30 days. With --archive they
    also come from its public archive, which has 2020 to yesterday. The command requests only
    what the recording lacks, so run the same command again to continue after an interruption. It
    cannot run while a recorder writes the recording; for that, use record --backfill.

    Args:
        recording: The recording: a file, or the URL of a database. It is created if missing.
        symbols: Only these symbols; by default those of the recording, or every symbol that is
            trading if the recording has none.
        since: The first instant: an age (30d, 12h), or ISO 8601, in UTC unless it has an offset.
        until: The last instant, in the same forms; by default, now.
        archive: Read the archive too.
        cache: The directory for the archive's files; by default in the user's cache directory.
        archive_url: The URL of the archive, or of a mirror of it.
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
    """Add the samples of a recording to a Parquet, CSV or JSON Lines file; existing rows stay.

    With --series the file gets one row for each symbol and instant: the last sample, or the row of
    the history or the archive. No rows can be added to such a file later; --replace replaces it.

    Args:
        recording: The recording: a file, or the URL of a database.
        symbols: Only these symbols.
        to: A name that ends in .parquet, .csv or .jsonl; or a directory for one Parquet file a day.
        replace: Replace all rows of each file that the command writes.
        new: With --replace, skip files that have every selected row already. With --new, it is not
            an error if there is nothing to export.
        csv_safe: In CSV, put an apostrophe before cells that a spreadsheet would run as a formula.
        series: Write a series with this step, 5m or a multiple of it, instead of the samples.
    """
    from binance_oi.cli import outputs

    if series is not None:
        if new:
            raise UsageError("--new and --series exclude each other")
        arguments = outputs.SeriesArguments(series, symbols, span)
        return outputs.export_series(recording, to, arguments, replace=replace, csv_safe=csv_safe)
    return outputs.export(recording, to, symbols, span, replace=replace, new=new, csv_safe=csv_safe)


@command
def copy(source: Store, target: Store, /) -> int:
    """Add all rows of one recording to another; each may be a file or a database.

    Existing rows of the target stay. A gap remains only where neither recording has a sweep. Run
    the same command again to continue after an interruption.

    Args:
        source: A file, or the URL of a database. A recorder may write it at the same time.
        target: A file, or the URL of a database; created if missing. No recorder may write it.
    """
    from binance_oi.cli import caring

    return caring.copy(source, target)


@command
def prune(recording: Store, /, *, keep: Days) -> int:
    """Remove old days, and return their space, even while a recorder writes.

    A summary of each day stays: how many slots had a sweep, and why the others had none.

    Args:
        recording: The recording: a file, or the URL of a database.
        keep: How many days to keep, such as 90d, besides the current one.
    """
    from binance_oi.cli import caring

    return caring.prune(recording, keep)


@command
def compact(recording: Store, /) -> int:
    """Return free space to the system in short steps, even while other programs record and read.

    Args:
        recording: The recording: a file, or the URL of a database.
    """
    from binance_oi.cli import caring

    return caring.compact(recording)


@command
def check(recording: Store, /, *, json: Flag = False) -> int:
    """Check a whole recording for damage and missing sweeps, and show the reasons.

    Every slot from the first to the last should have a sweep of all symbols, except on pruned days.
    The exit code is 6 if a sweep is missing, if a sweep lacks a symbol, if the recording is
    damaged, or if a copy into it has not ended.

    Args:
        recording: The recording: a file, or the URL of a database.
        json: Print a JSON object.
    """
    from binance_oi.cli import caring

    return caring.check(recording, as_json=json)


@command
def backup(recording: Store, /, *, to: Place, replace: Flag = False) -> int:
    """Copy a recording, even while a recorder writes it.

    Args:
        recording: The recording: a file, or the URL of a database.
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
        recording: The recording: a file, or the URL of a database.
        symbols: The symbols; each gets a chart of its own.
        to: The picture: a name that ends in .svg or .png. It replaces an existing file.
        usd: Draw open interest times mark price.
        dark: Draw light lines on a dark background.
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
    """Write an HTML page about a recording: its largest movements, and how complete it is.

    Args:
        recording: The recording: a file, or the URL of a database.
        symbols: Only these symbols.
        to: The page: a name that ends in .html. It replaces an existing file. It loads no other
            file, so it works offline.
        top: The number of movers in each table.
    """
    from binance_oi.cli import outputs

    return outputs.report(recording, to, symbols, span, top=top)
