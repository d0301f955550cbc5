"""The commands `export`, `backup`, `plot` and `report`.

The rule of this file: a command checks everything that it can before it touches a file, and reports
an error in one line. None of these commands needs a client or an event loop.
"""

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from binance_oi.cli.endings import OK, UsageError, as_usage_errors
from binance_oi.cli.options import Span
from binance_oi.cli.render import counted
from binance_oi.cli.screen import console
from binance_oi.cli.streams import write_note
from binance_oi.recorder.recording import Recording
from binance_oi.times import instant, plain

MAX_NAMED = 3  # symbols that a line names; of more symbols, it gives only the number


def export(
    recording: str | Path,
    to: Path,
    symbols: Sequence[str] | None,
    span: Span,
    *,
    replace: bool,
    new: bool,
    csv_safe: bool,
) -> int:
    """Export a recording to a file, and print how many rows were written."""
    from binance_oi.output import export as write

    since, until = span.since, span.until
    with as_usage_errors(), Recording(recording) as opened:
        is_all = symbols is None and not span
        with bar(
            "exporting", sum(sweep.new for sweep in opened.sweeps()) if is_all else None
        ) as on_rows:
            rows = write(
                opened,
                to,
                symbols=symbols,
                since=since,
                until=until,
                replace=replace,
                new=new,
                csv_safe=csv_safe,
                on_rows=on_rows,
            )
        found = rows or opened.samples(symbols, since=since, until=until).span()
    if not found and not new:
        raise _empty(opened, symbols, span)
    write_note(f"{counted(rows, 'row')} written to {to}" if rows else f"no new rows for {to}")
    return OK


class SeriesArguments(NamedTuple):
    """The arguments of `output.export_series` that choose the rows and their distance in time."""

    step: str
    symbols: Sequence[str] | None
    span: Span


def export_series(
    recording: str | Path, to: Path, arguments: SeriesArguments, *, replace: bool, csv_safe: bool
) -> int:
    """Write a series to a file, and print how many rows it has."""
    from binance_oi.output import export_series as write

    with as_usage_errors(), Recording(recording) as opened, bar("exporting", None) as on_rows:
        rows = write(
            opened,
            to,
            step=arguments.step,
            symbols=arguments.symbols,
            since=arguments.span.since,
            until=arguments.span.until,
            replace=replace,
            csv_safe=csv_safe,
            on_rows=on_rows,
        )
    if not rows:
        raise _empty(opened, arguments.symbols, arguments.span)
    write_note(f"{counted(rows, 'row')} written to {to}")
    return OK


def _empty(recording: Recording, symbols: Sequence[str] | None, span: Span) -> UsageError:
    """Return the error about a recording, or the chosen part of it, that has no rows."""
    of = "" if symbols is None else " of these symbols"
    where = " in that range" if span else ""
    return UsageError(f"{recording} has no rows{of}{where or ' to export'}; nothing was written")


@contextmanager
def bar(what: str, total: int | None) -> Generator[Callable[[int], None]]:
    """Show a progress bar on a terminal; yield a function that adds a number of rows to it."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("rows"))
    screen = console(sys.stderr)
    with Progress(
        *columns, console=screen, transient=True, disable=not screen.is_terminal
    ) as shown:
        task = shown.add_task("", total=total)
        yield lambda more: shown.advance(task, more)


def backup(recording: str | Path, to: Path, *, replace: bool) -> int:
    """Copy a recording, and print a line about it."""
    with as_usage_errors(), Recording(recording) as opened:
        opened.backup(to, replace=replace)
    write_note(f"{opened} copied to {to}")
    return OK


def plot(
    recording: str | Path, to: Path, symbols: Sequence[str], span: Span, *, usd: bool, dark: bool
) -> int:
    """Draw charts of a recording, and print a line about them."""
    from binance_oi.output import plot as draw

    with as_usage_errors(), Recording(recording) as opened:
        draw(opened, to, symbols, since=span.since, until=span.until, usd=usd, dark=dark)
        covered = _covered(opened, symbols, span)
    write_note(f"chart of {covered} written to {to}")
    return OK


def report(
    recording: str | Path, to: Path, symbols: Sequence[str] | None, span: Span, *, top: int
) -> int:
    """Write a page about a recording, or about a part of it, and print a line about the page."""
    from binance_oi.output import write_report

    with as_usage_errors(), Recording(recording) as opened:
        write_report(opened, to, symbols=symbols, since=span.since, until=span.until, top=top)
        covered = _covered(opened, symbols, span)
    write_note(f"report on {covered} written to {to}")
    return OK


def _covered(recording: Recording, symbols: Sequence[str] | None, span: Span) -> str:
    """Describe what an output shows: the recording or some symbols, and the first and last time."""
    from binance_oi.output.selection import DATES

    chosen = recording.samples(symbols, since=span.since, until=span.until).between(*DATES)
    what = str(recording)
    if symbols is not None:
        names = chosen.symbols
        what = ", ".join(names) if len(names) <= MAX_NAMED else counted(len(names), "symbol")
    found = chosen.span()
    if found is None:  # it has no sample, only gaps
        return what
    first, last = (plain(instant(time)) for time in found)
    return f"{what} from {first} to {last} UTC"
