"""One call for everyone who asks the same at the same time."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Running(Generic[T]):
    """A call under way, and how many wait for it."""

    task: asyncio.Task[T]
    callers: int = 0


class SharedCalls(Generic[T]):
    """Runs a call once for all who join it while it runs; the last one to leave ends it.

    Everyone gets the same value, or the same exception. Cancelling one caller does not touch the
    others.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, _Running[T]] = {}

    async def join(self, key: Hashable, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Wait for the call named `key`; `start` it when it does not run."""
        running = self._running.get(key)
        if running is None:
            running = _Running(asyncio.get_running_loop().create_task(start()))
            self._running[key] = running
            running.task.add_done_callback(partial(self._ended, key))
        running.callers += 1
        try:
            # Not asyncio.shield: from 3.14 on it reports an error that a cancelled caller misses.
            await asyncio.wait((running.task,))
            return running.task.result()
        finally:
            running.callers -= 1
            if not running.callers and not running.task.done():
                self._running.pop(key, None)
                running.task.cancel()

    def _ended(self, key: Hashable, task: asyncio.Task[T]) -> None:
        running = self._running.get(key)
        if running is not None and running.task is task:  # not a newer one of that name
            del self._running[key]
        if not task.cancelled():
            task.exception()  # is seen, also when every caller has left in this very moment
