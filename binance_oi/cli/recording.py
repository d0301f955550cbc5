"""The command `record`.

The rule of this file: a stop signal ends the recorder, and is not an error. Only SIGHUP changes the
exit code, to 129. The command checks everything that it can before it touches a file, and reports
an error in one line.
"""

import asyncio
import math
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.live import Live
from rich.text import Text

from binance_oi.cli.endings import (
    EXCHANGE,
    HUNG_UP,
    LIMITED,
    LOST,
    NETWORK,
    OK,
    SIGHUP,
    UNEXPECTED,
    UsageError,
    as_usage_errors,
)
from binance_oi.cli.options import End, Source
from binance_oi.cli.screen import console, redraws
from binance_oi.cli.signals import stopped_by_signals
from binance_oi.cli.streams import write_note
from binance_oi.cli.summary import write_summary
from binance_oi.client import OpenInterestClient
from binance_oi.errors import printable
from binance_oi.recorder import Recorder, Status
from binance_oi.recorder.rotating import Rotation
from binance_oi.times import iso

# Exit codes, by the reason of a gap. Any other reason is a fault of the network.
CODES = {
    "standby": OK,
    **dict.fromkeys(("limited", "banned", "budget"), LIMITED),
    **dict.fromkeys(("forbidden", "unknown", "not_trading"), EXCHANGE),
    **dict.fromkeys(("late", "clock", "overrun", "storage"), UNEXPECTED),
}
MAX_REASON_LENGTH = 200  # characters of a reason in a status line
REDRAW_S = 0.5  # s between two updates of the status line
LINE_S = 60.0  # s between two lines where the status cannot change in place
CHECK_S = 1.0  # s between two checks whether the recording has to end


class RecorderArguments(NamedTuple):
    """Arguments of the recorder; see `Recorder`."""

    every: float | None
    notional: bool
    backfill: bool
    standby: bool
    keep_days: int | None
    rotate: Rotation | None


def record(
    symbols: Sequence[str] | None,
    to: str | Path,
    arguments: RecorderArguments,
    *,
    source: Source,
    end: End,
) -> int:
    """Record until a signal stops the recorder, or until `end`."""
    if end.until is not None and end.until <= datetime.now(UTC):
        raise UsageError(f"--until {iso(end.until)} is in the past")

    async def run(client: OpenInterestClient) -> int:
        async with client:
            recorder = Recorder(client, to, symbols=symbols, **arguments._asdict())
            with stopped_by_signals(recorder.stop) as stopped:
                beside = [
                    asyncio.create_task(_show_status(recorder, client)),
                    asyncio.create_task(_stop_at(recorder, end)),
                ]
                try:
                    await recorder.run()
                finally:
                    for task in beside:
                        task.cancel()
        write_summary(f"stopped: {status_line(recorder.status)}{_schedule(recorder.status)}")
        if recorder.status.lost:
            return LOST
        if not recorder.status.sweeps and recorder.status.trouble is not None:
            return trouble_code(recorder.status.trouble)
        return HUNG_UP if SIGHUP in stopped.received else OK

    with source.client() as client, as_usage_errors():
        return asyncio.run(run(client))


async def _stop_at(recorder: Recorder, end: End) -> None:
    """Stop the recorder at `end`, or never if `end` has no time."""
    loop = asyncio.get_running_loop()
    stops_at = math.inf if end.seconds is None else loop.time() + end.seconds
    until = math.inf if end.until is None else end.until.timestamp()
    while True:  # in short sleeps, because someone may set the clock
        left = min(stops_at - loop.time(), until - time.time())
        if left <= 0.0:
            break
        await asyncio.sleep(min(left, CHECK_S))
    recorder.stop()


def trouble_code(trouble: str) -> int:
    """Return the exit code for a recorder that made no sweep, from the reason of its latest gap."""
    return CODES.get(trouble.partition(":")[0], NETWORK)


def status_line(status: Status) -> str:
    """Return the status of a recorder as one line."""
    return ", ".join((*_counts(status), *_troubles(status)))


def live_line(status: Status, used: str, width: int) -> str:
    """Return the status as a line of a terminal: troubles first, and without what does not fit.

    The line omits the schedule, and then the used weight. A trouble takes a third of it at most.

    Args:
        status: The status of a recorder.
        used: The used weight as text.
        width: The width of the terminal. If the rest is still too long, rich cuts its end.
    """
    troubles = (_cut(trouble, width // 3) for trouble in reversed(_troubles(status)))
    done = ", ".join((*troubles, *_counts(status)))
    lines = (f"{done}{_schedule(status)}; {used}", f"{done}; {used}", done)
    return next((line for line in lines if cell_len(line) <= width), done)


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1).rstrip()}…"


def _counts(status: Status) -> list[str]:
    parts = [
        f"sweeps {status.sweeps:,}",
        f"rows {status.rows:,}",
        f"slots missed {status.missed:,}",
    ]
    if status.failed:
        parts.append(f"reads failed {status.failed:,}")
    if status.lost:
        parts.append(f"sweeps lost {status.lost:,}")
    if status.backfilled:
        parts.append(f"instants backfilled {status.backfilled:,}")
    if status.unwritten:
        parts.append(f"sweeps unwritten {status.unwritten:,}")
    if status.sweeps:
        parts.append(f"last {status.late:.1f} s late")
    return parts


def _troubles(status: Status) -> list[str]:
    parts = list[str]()
    if status.trouble:
        parts.append(f"NO SWEEP: {printable(status.trouble, MAX_REASON_LENGTH)}")
    if status.storage_error:
        parts.append(f"CANNOT WRITE: {printable(status.storage_error)}")
    return parts


def _schedule(status: Status) -> str:
    return "" if status.every is None else f"; every {status.every:g} s"


async def _show_status(recorder: Recorder, client: OpenInterestClient) -> None:
    """Show the status: on a terminal in a line that changes, elsewhere in a line per minute."""

    def used() -> str:
        return f"used {client.usage.used} of {client.usage.limit}"

    def line() -> str:
        return f"{status_line(recorder.status)}{_schedule(recorder.status)}; {used()}"

    if not redraws(sys.stderr):
        if sys.stderr.isatty():  # a person waits for a first line
            write_note(f"recording, {line()}")
        while True:
            await asyncio.sleep(LINE_S)
            write_note(f"{iso(datetime.now(UTC))} {line()}")
    screen = console(sys.stderr)
    with Live(console=screen, auto_refresh=False, transient=True) as live:
        while True:
            text = live_line(recorder.status, used(), screen.width)
            live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
            await asyncio.sleep(REDRAW_S)
