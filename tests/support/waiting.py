"""Counts the objects that the garbage collector tracks for each task that waits."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any


async def tracked(call: Callable[[], Coroutine[Any, Any, object]], count: int) -> float:
    """Start `count` tasks that wait in `call`; return the tracked objects for each.

    The task itself is one of them. All tasks are cancelled before the function returns.
    """
    gc.collect()
    before = len(gc.get_objects())
    tasks = [asyncio.create_task(call()) for _ in range(count)]
    await asyncio.sleep(0)
    gc.collect()
    found = (len(gc.get_objects()) - before) / count
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return found


async def future() -> None:
    """Wait for a future that gets no result, as the plainest waiting task does."""
    await asyncio.get_running_loop().create_future()
