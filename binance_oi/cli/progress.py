"""What is to be seen while a command reads: a bar on a terminal, a few lines elsewhere.

The rule of this file: stderr; of the bar nothing stays on a terminal, and nobody waits for a minute
without knowing what for.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from binance_oi.budget.usage import Usage
from binance_oi.cli.render import waiting
from binance_oi.cli.screen import console, redraws
from binance_oi.cli.streams import complain
from binance_oi.client import OpenInterestClient
from binance_oi.errors import Reason

TICK = 0.1  # s between two looks at the budget while the bar is shown
LOOK = 0.5  # s between two looks where there is none
LINE_EVERY = 20  # looks between two lines on a terminal that has no bar
# Of these a call waits for much less than a minute.
BRIEF = frozenset((Reason.PACE, Reason.CONNECTIONS, Reason.STORE_BUSY))


@dataclass(slots=True)
class Seen:
    """How far a snapshot is."""

    done: int = 0
    total: int | None = None

    def update(self, done: int, total: int) -> None:
        """What a snapshot calls with the symbols that are done, and all of them."""
        self.done, self.total = done, total

    def __str__(self) -> str:
        return "nothing yet" if self.total is None else f"{self.done} of {self.total} read"


@asynccontextmanager
async def progress(client: OpenInterestClient) -> AsyncGenerator[Callable[[int, int], None]]:
    """Show what happens; gives what is to be called with the symbols that are done, and all.

    It is drawn by a task of the loop: with rich's own thread, two would look at the budget.
    """
    if not redraws(sys.stderr):
        seen = Seen()  # a terminal that redraws nothing is one all the same: somebody looks at it
        showing = asyncio.create_task(_tell(client, seen, is_seen=sys.stderr.isatty()))
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
        showing = asyncio.create_task(_tick(bar, task, client))
        try:
            yield lambda done, total: bar.update(task, completed=done, total=total)
        finally:
            showing.cancel()


async def _tick(bar: Progress, task: TaskID, client: OpenInterestClient) -> None:
    while True:
        bar.update(task, budget=budget_line(client.usage, datetime.now(UTC)), refresh=True)
        await asyncio.sleep(TICK)


def budget_line(usage: Usage, now: datetime) -> str:
    """What is used, when the minute turns, and what waits."""
    left = max(0.0, (usage.resets_at - now).total_seconds())
    return f"used {usage.used} of {usage.limit}, minute turns in {left:.0f} s{waiting(usage)}"


async def _tell(client: OpenInterestClient, seen: Seen, *, is_seen: bool) -> None:
    """A line for each wait, and now and then one for somebody who looks at it."""
    notices, looks = Notices(), 0
    while True:
        if is_seen and not looks % LINE_EVERY:
            complain(f"reading, {seen}; {budget_line(client.usage, datetime.now(UTC))}")
        await asyncio.sleep(LOOK)
        looks += 1
        line = notices.look(client.usage)
        if line:
            complain(f"{line}; {seen}")


class Notices:
    """Says once for each minute, or hold, that every call waits for its end.

    A wait counts when two looks in a row find it: most are over at once.
    """

    def __init__(self) -> None:
        self._before: datetime | None = None
        self._said: datetime | None = None

    def look(self, usage: Usage) -> str:
        """What is to be said now; empty when there is nothing new."""
        why = next((why for why in usage.waiting_for if why not in BRIEF), None)
        end = usage.held_until or usage.resets_at
        before, self._before = self._before, None if why is None else end
        if why is None or end == self._said or end != before:
            return ""
        self._said = end
        until = "" if why is Reason.OTHER_LIMIT else f" until {end:%T} UTC"
        return f"waiting{until}: {why.replace('_', ' ')}"
