"""One call for everyone who asks the same at the same time."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Running(Generic[T]):
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
            running.task.add_done_callback(lambda _: self._running.pop(key, None))
        running.callers += 1
        try:
            return await asyncio.shield(running.task)
        finally:
            running.callers -= 1
            if not running.callers and not running.task.done():
                self._running.pop(key, None)
                running.task.cancel()
