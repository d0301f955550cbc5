"""Limits the requests per second, in batches.

The rule of this file: aiolimiter only paces. It smooths bursts, so that no firewall reacts, and so
that headers arrive before too much is sent. It never counts weight: `AsyncLimiter(2400, 60)` lets
4799 through in one minute, serves small amounts first so that large ones starve, and cannot be
paused, refunded or corrected.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context

from aiolimiter import AsyncLimiter

BATCHES_PER_SECOND = 100  # a batch is what the pace allows in 1/100 s; it is taken at once
LONGEST_S = 1e9  # longer than any wait; beyond it, `datetime` and timers may overflow


class Pacer:
    """Lets requests pass, one batch at a time.

    Args:
        pace: Requests per second, above 0; a second's worth may go at once.
    """

    def __init__(self, pace: float) -> None:
        self.pace: float = pace
        self.passed: int = 0
        """Requests that may pass now and were not sent yet."""
        self._limiter = AsyncLimiter(max(1.0, pace), min(max(1.0, 1.0 / pace), LONGEST_S))
        self._batch = max(1, int(pace / BATCHES_PER_SECOND))
        self.every: float = min(self._batch / pace, LONGEST_S)
        """Seconds from one batch to the next."""
        self._pacing: asyncio.Task[None] | None = None  # waits for a batch

    def take_at_once(self) -> bool:
        """Take a batch if it is available now; return whether it was."""
        if not self._limiter.has_capacity(self._batch):
            return False
        acquire = self._limiter.acquire(self._batch)
        with suppress(StopIteration):
            acquire.send(None)  # there is room, so this does not wait
        acquire.close()
        self.passed = self._batch
        return True

    def take(self, wake: Callable[[], object]) -> bool:
        """Take a batch if it is available; otherwise a task waits for it, and then calls `wake`.

        The caller itself must not wait for the limiter, because it keeps deadlines in the meantime.
        At most one request to the limiter is pending.
        """
        if self._pacing is None:
            if self.take_at_once():
                return True
            acquire = self._limiter.acquire(self._batch)
            self._pacing = asyncio.get_running_loop().create_task(acquire, context=Context())
            self._pacing.add_done_callback(lambda _: wake())
            return False
        if not self._pacing.done():
            return False
        pacing, self._pacing = self._pacing, None
        if pacing.cancelled():  # by code that cancels every task of the loop
            return False
        pacing.result()
        self.passed = self._batch
        return True

    def stop(self) -> None:
        """Stop waiting for a batch."""
        if self._pacing is not None:
            self._pacing.cancel()
            self._pacing = None

    def abandon(self) -> None:
        """Like `stop`, for a closed loop, whose tasks cannot be cancelled."""
        self._pacing = None
