"""Identical calls at the same time share one request."""

import asyncio
import math
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from binance_oi.errors import BinanceOIError, BudgetExhaustedError, Reason

T = TypeVar("T")


@dataclass(slots=True)
class _Running(Generic[T]):
    """A running call, and the number of its callers."""

    task: asyncio.Task[T]
    ends: float
    """Loop time at which it ends by itself."""
    callers: int = 0


class SharedCalls(Generic[T]):
    """Runs a call once for all that join while it runs; when the last one leaves, it ends.

    All callers get the same value, or the same exception. Cancelling one does not affect the
    others.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, _Running[T]] = {}

    async def join(
        self,
        key: Hashable,
        start: Callable[[], Coroutine[Any, Any, T]],
        ends: float = math.inf,
        is_late: Callable[[Exception], bool] = lambda _: False,
    ) -> T:
        """Wait for the call named `key`; `start` it if it does not run.

        Args:
            key: Its name.
            start: Makes it; ends by itself at `ends`.
            ends: Loop time until which to wait for a call of another; ours ends by itself.
            is_late: Whether an error may come from a lack of time. A caller with more time than the
                call had starts it once more.

        Raises:
            BudgetExhaustedError: A call of another was under way at `ends`.
        """
        while (running := self._running.get(key)) is not None:
            try:
                async with asyncio.timeout_at(ends if ends < math.inf else None):
                    return await self._result(key, running)
            except BinanceOIError as error:
                if running.ends >= ends or not is_late(error):
                    raise
            except TimeoutError:
                raise BudgetExhaustedError("the deadline is over", None, Reason.DEADLINE) from None
        running = _Running(asyncio.get_running_loop().create_task(start()), ends)
        self._running[key] = running
        running.task.add_done_callback(partial(self._ended, key))
        return await self._result(key, running)

    async def _result(self, key: Hashable, running: _Running[T]) -> T:
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
