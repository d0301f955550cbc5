"""Lets identical calls at the same time share one request."""

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
    """Loop time at which the task ends by itself, because its deadline is over."""
    callers: int = 0


class SharedCalls(Generic[T]):
    """Runs one call for all callers that join while it runs.

    All callers get the same value or exception, unless their deadlines differ (see `join`).
    Cancelling one caller does not affect the others. When no caller waits any more, the call is
    cancelled.
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
        """Join the running call named `key`, or start it; return its value.

        Args:
            key: The name of the call. Identical calls have the same name.
            start: Makes the call's coroutine, which must end by itself at `ends`.
            ends: The caller's deadline, in loop time. At this time, the caller stops waiting for a
                call that another caller started.
            is_late: Returns whether an error may come from the deadline of the call. If so, and the
                caller's own deadline is later, the caller joins or starts the call once more.

        Raises:
            BudgetExhaustedError: The call of another caller was still running at `ends`.
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
            task.exception()  # so that asyncio does not log it when all callers have left
