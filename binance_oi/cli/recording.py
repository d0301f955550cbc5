"""The commands that record, and that read what was recorded.

The rule of this file: a recorder that receives a stop signal ends, and that is no error; everything
that can be known to be wrong is said in one line before anything is touched.
"""

import asyncio
import re
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, Token
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from binance_oi.cli.commands import (
    EXCHANGE,
    HUNG_UP,
    LIMITED,
    LOST,
    NETWORK,
    OK,
    SIGHUP,
    UNEXPECTED,
    USAGE,
    Source,
    app,
)
from binance_oi.cli.terminal import complain, console
from binance_oi.client import OpenInterestClient
from binance_oi.errors import RecordingError, printable
from binance_oi.market.plan import MisfitError
from binance_oi.output.chart import plot as draw
from binance_oi.output.export import export as export_to
from binance_oi.output.report import write_report
from binance_oi.recorder import Recorder, Recording, Status
from binance_oi.times import iso

AUTO = "auto"
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
# Exit codes of gap reasons; of any other one it is the network.
CODES = {
    **dict.fromkeys(("limited", "banned", "budget"), LIMITED),
    **dict.fromkeys(("forbidden", "unknown", "not_trading"), EXCHANGE),
    **dict.fromkeys(("late", "clock", "overrun", "storage"), UNEXPECTED),
}
LONGEST_REASON = 200  # characters of it in a status line
TICK = 0.5  # s between two looks at a status line
LOG_EVERY = 60.0  # s between two lines where there is no terminal

_PERIOD = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h|)", re.ASCII)


class Duration(float):
    """Seconds; written as a number with s, m or h. Its name is what the help page shows."""


def _seconds(_: object, tokens: Sequence[Token]) -> Duration | None:
    if tokens[0].value == AUTO:
        return None
    match = _PERIOD.fullmatch(tokens[0].value)
    if match is None:
        raise ValueError("a period is a number with s, m or h, such as 20s, or auto")
    return Duration(float(match[1]) * UNITS[match[2]])


def _moment(_: object, tokens: Sequence[Token]) -> datetime:
    try:
        moment = datetime.fromisoformat(tokens[0].value)
    except ValueError as error:
        raise ValueError("a moment is ISO 8601, such as 2026-11-23 or 2026-11-23T08:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _place(_: object, tokens: Sequence[Token]) -> Path:
    name = tokens[0].value
    if not name:  # would be the directory we are in
        raise ValueError("a name is needed")
    if name == "-":  # no output goes to stdout, and a file of that name is a trap
        raise ValueError("a name is needed; ./- is a file named -")
    return Path(name)


Place = Annotated[Path, Parameter(converter=_place)]
Period = Annotated[Duration | None, Parameter(converter=_seconds, show_default=lambda _: AUTO)]
Moment = Annotated[datetime | None, Parameter(converter=_moment)]
Symbols = Annotated[list[str] | None, Parameter(name="--symbol", negative=())]
Flag = Annotated[bool, Parameter(negative=())]


def told(run: Callable[[], int]) -> int:
    """The exit code of `run`; an error that the user can correct is one line, and wrong usage."""
    try:
        return run()
    except MisfitError:
        raise  # `main` knows the command
    except (RecordingError, ValueError, ModuleNotFoundError) as error:
        complain(printable(str(error)))
        return USAGE


@app.command
def record(
    *symbols: str,
    to: Place,
    every: Period = None,
    notional: Flag = False,
    source: Source = Source(),  # noqa: B008 - frozen
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

    async def run(client: OpenInterestClient) -> int:
        async with client:
            recorder = Recorder(client, to, every=every, symbols=symbols or None, notional=notional)
            with _stopped_by_signals(recorder) as received:
                telling = asyncio.create_task(_tell(recorder, client))
                try:
                    await recorder.run()
                finally:
                    telling.cancel()
        complain(f"stopped: {status_line(recorder.status)}")
        if recorder.status.lost:
            return LOST
        if not recorder.status.sweeps and recorder.status.trouble is not None:
            return trouble_code(recorder.status.trouble)
        return HUNG_UP if SIGHUP in received else OK

    with source.client() as client:
        return told(lambda: asyncio.run(run(client)))


@contextmanager
def _stopped_by_signals(recorder: Recorder) -> Generator[set[int]]:
    """Signals stop it, and no signal breaks off its end; gives those that came."""
    loop, received = asyncio.get_running_loop(), set[int]()

    def stop(number: int) -> None:
        received.add(number)
        recorder.stop()

    numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
    if SIGHUP is not None and signal.getsignal(SIGHUP) != signal.SIG_IGN:  # as with nohup
        numbers.append(SIGHUP)
    for number in numbers:
        with suppress(NotImplementedError):  # Windows: Ctrl-C interrupts, and the file is whole
            loop.add_signal_handler(number, stop, number)
    try:
        yield received
    finally:
        for number in numbers:
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
        if SIGHUP is not None and SIGHUP in received:  # the shell of the terminal sends another one
            signal.signal(SIGHUP, signal.SIG_IGN)


def trouble_code(trouble: str) -> int:
    """The exit code of a recorder that has no sweep, by the reason of its latest gap."""
    return CODES.get(trouble.partition(":")[0], NETWORK)


def status_line(status: Status) -> str:
    """What a recorder has done, in one line."""
    parts = [
        f"sweeps {status.sweeps:,}",
        f"rows {status.rows:,}",
        f"slots missed {status.missed:,}",
    ]
    if status.failed:
        parts.append(f"reads failed {status.failed:,}")
    if status.lost:
        parts.append(f"sweeps lost {status.lost:,}")
    if status.unwritten:
        parts.append(f"sweeps unwritten {status.unwritten:,}")
    if status.sweeps:
        parts.append(f"last {status.late:.1f} s late")
    if status.trouble:
        parts.append(f"NO SWEEP: {printable(status.trouble, LONGEST_REASON)}")
    if status.storage_error:
        parts.append(f"CANNOT WRITE: {printable(status.storage_error)}")
    return ", ".join(parts)


async def _tell(recorder: Recorder, client: OpenInterestClient) -> None:
    """A line that changes on a terminal; a line a minute elsewhere."""

    def line() -> str:
        usage = client.usage
        return f"{status_line(recorder.status)}; used {usage.used} of {usage.limit}"

    if not sys.stderr.isatty():
        while True:
            await asyncio.sleep(LOG_EVERY)
            complain(f"{iso(datetime.now(UTC))} {line()}")
    with Live(console=console(sys.stderr), auto_refresh=False, transient=True) as live:
        while True:
            live.update(Text(line()), refresh=True)
            await asyncio.sleep(TICK)


@app.command
def export(
    recording: Place,
    *,
    to: Place,
    symbol: Symbols = None,
    since: Moment = None,
    until: Moment = None,
    replace: Flag = False,
    new: Flag = False,
) -> int:
    """Add a recording to Parquet, CSV or JSON Lines; rows that are there stay.

    Args:
        recording: Made by `record`.
        to: A name that ends in .parquet, .csv or .jsonl; or a directory for Parquet by day.
        symbol: Only this one; may be repeated.
        since: The earliest transaction time, ISO 8601, UTC unless it says otherwise.
        until: Before this one.
        replace: Write these rows alone; a file that is written loses its others.
        new: Only days that are missing or have grown. No such day is no error.
    """

    everything = symbol is None and since is None and until is None

    def run() -> int:
        with Recording(recording) as opened:
            total = sum(sweep.new for sweep in opened.sweeps()) if everything else None
            with _bar(total) as on_rows:
                rows = export_to(
                    opened,
                    to,
                    symbols=symbol,
                    since=since,
                    until=until,
                    replace=replace,
                    new=new,
                    on_rows=on_rows,
                )
            found = rows or opened.samples(symbol, since=since, until=until).span()
        if not found and not new:
            complain(f"{recording} has nothing in that range; nothing was written")
            return USAGE
        complain(f"{rows:,} rows written to {to}" if rows else f"{to} has every row already")
        return OK

    return told(run)


@contextmanager
def _bar(total: int | None) -> Generator[Callable[[int], None]]:
    """Rows of an export on a terminal; gives what is called with each number of them."""
    columns = (TextColumn("exporting"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"))
    screen = console(sys.stderr)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda more: bar.advance(task, more)


@app.command
def backup(
    recording: Place, *, to: Place, replace: Annotated[bool, Parameter(negative=())] = False
) -> int:
    """Copy a recording, also while it is recorded into.

    Args:
        recording: Made by `record`.
        to: The copy; one file that is whole as soon as it is there.
        replace: Put the copy in the place of what has that name.
    """

    def run() -> int:
        with Recording(recording) as opened:
            opened.backup(to, replace=replace)
            complain(f"{recording} copied to {to}")
        return OK

    return told(run)


@app.command
def plot(
    recording: Place,
    *symbols: Annotated[str, Parameter(required=True)],
    to: Place,
    since: Moment = None,
    until: Moment = None,
) -> int:
    """Draw a chart of open interest over time.

    Args:
        recording: Made by `record`.
        symbols: One chart for each.
        to: A name that ends in .svg or .png.
        since: The earliest transaction time, ISO 8601, UTC unless it says otherwise.
        until: Before this one.
    """

    def run() -> int:
        with Recording(recording) as opened:
            draw(opened, to, symbols, since=since, until=until)
        return OK

    return told(run)


@app.command
def report(recording: Place, *, to: Place) -> int:
    """Write one HTML page about a recording: coverage and gaps, largest movers, charts.

    Args:
        recording: Made by `record`.
        to: A name that ends in .html; the page needs nothing else and opens offline.
    """

    def run() -> int:
        with Recording(recording) as opened:
            write_report(opened, to)
        return OK

    return told(run)
