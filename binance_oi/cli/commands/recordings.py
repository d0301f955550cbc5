"""Commands that record, and that read what was recorded."""

from binance_oi.cli.app import command
from binance_oi.cli.options import End, Flag, Given, Place, Schedule, Source, Span, Symbols


@command
def record(
    symbols: Symbols = None,
    *,
    to: Place,
    every: Schedule = None,
    notional: Flag = False,
    end: End = End(),
    source: Source = Source(),
) -> int:
    """Record the whole market, or some symbols, until it is stopped.

    Ctrl-C, SIGTERM and SIGHUP (its terminal is closed) stop it; with nohup, SIGHUP does not. The
    exit code is 7 when sweeps were read and could not be written; the last line says how many. When
    there was no sweep at all, it is that of the reason: 3 limited, 4 exchange, 5 network.

    Args:
        symbols: Without any: every symbol that is trading, also when that changes.
        to: The recording (SQLite); made when missing, continued when it is there.
        every: From sweep to sweep: 20s, 5m, 1h; or auto, the shortest of 5s to 10m that fits into
            the budget. Slots are multiples of it since 1970.
        notional: Record mark prices as well.
    """
    from binance_oi.cli import recording

    return recording.record(symbols, to, every=every, notional=notional, source=source, end=end)


@command
def export(
    recording: Place,
    /,
    symbols: Symbols = None,
    *,
    to: Place,
    span: Span = Span(),
    replace: Flag = False,
    new: Flag = False,
    csv_safe: Flag = False,
) -> int:
    """Add a recording to Parquet, CSV or JSON Lines; rows that are there stay.

    Args:
        recording: Made by `record`.
        symbols: Only these.
        to: A name that ends in .parquet, .csv or .jsonl; or a directory for Parquet by day.
        replace: Write these rows alone; a file that is written loses its others.
        new: Only days that are missing or have grown. No such day is no error.
        csv_safe: In CSV, put an apostrophe before cells that a spreadsheet would run as a formula.
    """
    from binance_oi.cli import outputs

    return outputs.export(recording, to, symbols, span, replace=replace, new=new, csv_safe=csv_safe)


@command
def backup(recording: Place, /, *, to: Place, replace: Flag = False) -> int:
    """Copy a recording, also while it is recorded into.

    Args:
        recording: Made by `record`.
        to: The copy; one file that is whole as soon as it is there.
        replace: Put the copy in the place of what has that name.
    """
    from binance_oi.cli import outputs

    return outputs.backup(recording, to, replace=replace)


@command
def plot(recording: Place, /, symbols: Given, *, to: Place, span: Span = Span()) -> int:
    """Draw a chart of open interest over time.

    Args:
        recording: Made by `record`.
        symbols: One chart for each.
        to: A name that ends in .svg or .png.
    """
    from binance_oi.cli import outputs

    return outputs.plot(recording, to, symbols, span)


@command
def report(recording: Place, /, symbols: Symbols = None, *, to: Place, span: Span = Span()) -> int:
    """Write one HTML page about a recording: coverage and gaps, largest movers, charts.

    Args:
        recording: Made by `record`.
        symbols: Only these.
        to: A name that ends in .html; the page needs nothing else and opens offline.
    """
    from binance_oi.cli import outputs

    return outputs.report(recording, to, symbols, span)
