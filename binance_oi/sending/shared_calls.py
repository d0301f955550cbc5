"""Identical calls at the same time share one request."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Running(Generic[T]):
    """A running call, and the number of its callers."""

    task: asyncio.Task[T]
    callers: int = 0


class SharedCalls(Generic[T]):
    """Runs a call once for all that join while it runs; when the last one leaves, it ends.

    All callers get the same value, or the same exception. Cancelling one does not affect the
    others.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, _Running[T]] = {}

    async def join(self, key: Hashable, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Wait for the call named `key`; `start` it if it does not run."""
        running = self._running.get(key)
        if running is None:
            running = _Running(asyncio.get_running_loop().create_task(start()))
            self._running[key] = running
            running.task.add_done_callback(partial(self._ended, key))
        running.callers += 1
        try:
            # Not asyncio.shield: since 3.14 it logs an error that a cancelled caller never gets.
            await asyncio.wait((running.task,))
            return running.task.result()
        finally:
            running.callers -= 1
            if not running.callers and not running.task.done():
                self._running.pop(key, None)
                running.task.cancel()

    def _ended(self, key: Hashable, task: asyncio.Task[T]) -> None:
        running = self._running.get(key)
        if running is not None and running.task is task:  # not a newer task of that name
            del self._running[key]
        if not task.cancelled():
            task.exception()  # marks it as retrieved, even if all callers have just left
