"""What is to be seen while a command reads: a bar.

The rule of this file: stderr, and nothing of it stays on a terminal.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from binance_oi.cli.render import waiting
from binance_oi.cli.screen import console
from binance_oi.client import OpenInterestClient

TICK = 0.1  # s between two looks at the budget while the bar is shown


@asynccontextmanager
async def progress(
    client: OpenInterestClient,
) -> AsyncGenerator[Callable[[int, int], None] | None]:
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
