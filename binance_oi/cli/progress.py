"""Shows the progress of a command that reads: a bar on a terminal, a few lines elsewhere.

The rule of this file: everything goes to stderr, and the bar disappears at the end. If calls
wait for the next minute or the end of a cooldown, it shows the reason.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from binance_oi.budget.usage import Usage
from binance_oi.cli.render import in_words, waiting
from binance_oi.cli.screen import console, redraws
from binance_oi.cli.streams import write_note
from binance_oi.client import OpenInterestClient
from binance_oi.errors import Reason

REDRAW_S = 0.1  # s between two updates of the bar
READ_S = 0.5  # s between two readings of the budget, if there is no bar
READINGS_PER_LINE = 20  # readings between two lines, on a terminal that cannot show a bar
# A wait for one of these reasons lasts much less than a minute.
BRIEF_REASONS = frozenset((Reason.PACE, Reason.CONNECTIONS, Reason.STORE_BUSY))
# A wait for one of these reasons ends with the minute or the cooldown; most others may end earlier.
EXACT_REASONS = frozenset((Reason.COOLDOWN, Reason.MINUTE_FULL, Reason.SHARE))


@dataclass(slots=True)
class Count:
    """The progress of a snapshot, in symbols."""

    done: int = 0
    """The number of finished symbols."""
    total: int | None = None
    """The number of all symbols; None until it is known."""

    def update(self, done: int, total: int) -> None:
        """Note the number of finished symbols and of all symbols; a snapshot calls this."""
        self.done, self.total = done, total

    def __str__(self) -> str:
        return "nothing yet" if self.total is None else f"{self.done} of {self.total} read"


@asynccontextmanager
async def progress(client: OpenInterestClient) -> AsyncGenerator[Callable[[int, int], None]]:
    """Show the progress; yield a function for `on_progress` of a snapshot.

    A task of the event loop draws the bar. rich's own thread would read the budget while the loop
    changes it.
    """
    if not redraws(sys.stderr):
        seen = Count()  # a terminal that cannot redraw gets lines instead of a bar
        showing = asyncio.create_task(_write_lines(client, seen, is_seen=sys.stderr.isatty()))
        try:
            yield seen.update
        finally:
            showing.cancel()
        return
    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn())
    budget = TextColumn("{task.fields[budget]}")
    with Progress(
        *columns, budget, console=console(sys.stderr), transient=True, auto_refresh=False
    ) as bar:
        task = bar.add_task("", total=None, budget="")
        showing = asyncio.create_task(_redraw(bar, task, client))
        try:
            yield lambda done, total: bar.update(task, completed=done, total=total)
        finally:
            showing.cancel()
            _draw(bar, task, client)  # a short command ends before the second drawing


async def _redraw(bar: Progress, task: TaskID, client: OpenInterestClient) -> None:
    while True:
        _draw(bar, task, client)
        await asyncio.sleep(REDRAW_S)


def _draw(bar: Progress, task: TaskID, client: OpenInterestClient) -> None:
    bar.update(task, budget=budget_line(client.usage, datetime.now(UTC)), refresh=True)


def budget_line(usage: Usage, now: datetime) -> str:
    """Return a line with the used weight, the time to the rollover, and the waiting calls."""
    left = max(0.0, (usage.resets_at - now).total_seconds())
    return f"used {usage.used} of {usage.limit}, next minute in {left:.0f} s{waiting(usage)}"


async def _write_lines(client: OpenInterestClient, seen: Count, *, is_seen: bool) -> None:
    """Print a line for each long wait, and on a terminal also the progress every 10 s."""
    notices, readings = Notices(), 0
    while True:
        if is_seen and not readings % READINGS_PER_LINE:
            write_note(f"reading, {seen}; {budget_line(client.usage, datetime.now(UTC))}")
        await asyncio.sleep(READ_S)
        readings += 1
        line = notices.next_line(client.usage)
        if line:
            write_note(f"{line}; {seen}")


class Notices:
    """Reports that calls wait for the end of a minute or of a cooldown, once for each such end.

    It reports a wait only if two readings in a row find the same end, because most waits are short.
    """

    def __init__(self) -> None:
        self._before: datetime | None = None
        self._said: datetime | None = None

    def next_line(self, usage: Usage) -> str:
        """Return the line to print now; empty if there is no new wait."""
        why = next((why for why in usage.waiting_for if why not in BRIEF_REASONS), None)
        end = usage.held_until or usage.resets_at
        before, self._before = self._before, None if why is None else end
        if why is None or end == self._said or end != before:
            return ""
        self._said = end
        return waiting_line(why, end)


def waiting_line(why: Reason, end: datetime) -> str:
    """Return the line about a wait.

    Args:
        why: Why calls wait.
        end: The end of the cooldown or of the minute.
    """
    latest = f"until {end:%T} UTC at the latest"
    if why is Reason.LEASE:  # the wait goes on, even after the minute, until the server answers
        return f"waiting for the {in_words(why)}, {latest} if it answers"
    if why is Reason.OTHER_LIMIT:
        return f"waiting: {in_words(why)}"
    until = f"until {end:%T} UTC" if why in EXACT_REASONS else latest
    return f"waiting {until}: {in_words(why)}"
