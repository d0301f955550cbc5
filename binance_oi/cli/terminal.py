"""What the command line writes, and how.

The rule of this file: results to stdout, in one piece and when they are whole; everything else to
stderr. A reader who leaves early is no error. Colours and the progress bar are for terminals, and
``NO_COLOR`` means none.
"""

import asyncio
import io
import logging
import os
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from binance_oi.cli.render import Sheet, csv_text, json_lines, table, waiting
from binance_oi.client import OpenInterestClient

PROGRAM = "binance-oi"
TICK = 0.1  # s between two looks at the budget while the bar is shown


class _Notes(logging.Handler):
    """Warnings of the library as lines on stderr, above the bar while there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(record.getMessage())


@contextmanager
def warnings_to(keep: Callable[[str], object]) -> Generator[None]:
    """Warnings of the library go there: a screen of its own has no place for lines on stderr."""
    global _say
    before, _say = _say, keep
    try:
        yield
    finally:
        _say = before


def prepare() -> None:
    """Make the streams fit for symbols in any script, and show the library's warnings."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")
    logger = logging.getLogger("binance_oi")
    if not any(isinstance(handler, _Notes) for handler in logger.handlers):
        logger.addHandler(_Notes(logging.WARNING))


def show(
    sheet: Sheet, *, as_json: bool = False, as_csv: bool = False, csv_safe: bool = False
) -> None:
    """Print all of it: as asked for, or else a table on a terminal and JSON lines elsewhere."""
    if as_csv or csv_safe:
        put(csv_text(sheet, safe=csv_safe))
    elif as_json or not sys.stdout.isatty():
        put(json_lines(sheet))
    else:
        console(sys.stdout).print(table(sheet))


def put(text: str) -> bool:
    """Write to stdout, now; False when nobody reads it any more."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        discard(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            raise
        return False  # the reader has seen enough
    return True


def discard(stream: TextIO) -> None:
    """Drop what a stream that cannot be written still holds.

    Python writes it again when the process ends, fails again, and replaces the exit code with 120.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def drop_unwritten() -> None:
    """Drop what the streams still hold and cannot write, as on a terminal that is gone."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                discard(stream)


def complain(line: str) -> None:
    """One line on stderr."""
    try:
        print(f"{PROGRAM}: {line}", file=sys.stderr, flush=True)
    except OSError:  # stderr is full or closed; the exit code remains
        with suppress(OSError):
            discard(sys.stderr)


_say: Callable[[str], object] = complain


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the program with 1."""
        raise BrokenPipeError


def console(stream: TextIO | None) -> Console:
    """Rich's view of a stream; None follows stdout. Its own `no_color` would keep bold."""
    plain = bool(os.environ.get("NO_COLOR"))
    return _Console(file=stream, color_system=None if plain else "auto", highlight=False)


@asynccontextmanager
async def progress(client: OpenInterestClient) -> AsyncGenerator[Callable[[int, int], None] | None]:
    """A bar on stderr, if that is a terminal; gives what is to be called with done and total.

    It is drawn by a task of the loop: with rich's own thread, two would look at the budget.
    """
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn())
    budget = TextColumn("{task.fields[budget]}")
    screen = console(sys.stderr)
    with Progress(*columns, budget, console=screen, transient=True, auto_refresh=False) as bar:
        task = bar.add_task("", total=None, budget="")
        ticker = asyncio.create_task(_tick(bar, task, client))
        try:
            yield lambda done, total: bar.update(task, completed=done, total=total)
        finally:
            ticker.cancel()


async def _tick(bar: Progress, task: TaskID, client: OpenInterestClient) -> None:
    while True:
        usage = client.usage
        left = (usage.resets_at - datetime.now(UTC)).total_seconds()
        budget = f"used {usage.used} of {usage.limit}, minute turns in {max(0.0, left):.0f} s"
        bar.update(task, budget=budget + waiting(usage), refresh=True)
        await asyncio.sleep(TICK)
