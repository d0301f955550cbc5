"""Limits the requests per second, in batches.

The rule of this file: aiolimiter limits the pace of requests, and never counts weight. A low pace
does not alarm a firewall, and lets the first answers, which report the used weight, arrive before
the client has sent too many requests. As a budget, aiolimiter would fail: `AsyncLimiter(2400, 60)`
admits a weight of 4799 in one minute, and serves small weights first, so that large ones starve.
aiolimiter also cannot pause, correct its count, or refund weight.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context

from aiolimiter import AsyncLimiter

BATCHES_PER_SECOND = 100  # a batch is the number of requests that the pace allows in 1/100 s
LONGEST_S = 1e9  # s: longer than any wait; larger values may overflow `datetime` and timers


class Pacer:
    """Lets requests pass, one batch at a time.

    Args:
        pace: Requests per second, on average, above 0. Up to a second's requests may go at once, so
            the first second may have nearly twice as many.
    """

    def __init__(self, pace: float) -> None:
        self.pace: float = pace
        self.passed: int = 0
        """How many requests of the latest batch may still pass."""
        self._limiter = AsyncLimiter(max(1.0, pace), min(max(1.0, 1.0 / pace), LONGEST_S))
        self._batch = max(1, int(pace / BATCHES_PER_SECOND))
        self.every: float = min(self._batch / pace, LONGEST_S)
        """Seconds from one batch to the next."""
        self._pacing: asyncio.Task[None] | None = None  # the task that waits for a batch

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
        """Take a batch if it is available; return whether it was.

        If not, a task waits for the batch and then calls `wake`; call this method again after that.
        At most one such task exists. The caller itself must not wait for the limiter, because it
        also serves deadlines.
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
        if pacing.cancelled():  # by an application that cancels all tasks of its loop
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
        """Like `stop`, for a closed loop: a task of a closed loop cannot be cancelled."""
        self._pacing = None
