"""Writes what a pool keeps back, once nothing has been under way for a while.

The rule of this file: it arms at most one timer in each such while, whatever the number of calls.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context

from binance_oi.budget import Pool


class LateFlush:
    """Calls `Pool.flush` when no request is under way.

    A pool that lends leases would write twice for each of many requests that follow each other, so
    this waits `idle` seconds.

    Args:
        pool: Its settlements are written, and its leases returned.
        idle: Seconds; 0 flushes at once.
        in_flight: Returns the number of requests under way.
    """

    def __init__(self, pool: Pool, idle: float, in_flight: Callable[[], int]) -> None:
        self._pool, self._idle, self._in_flight = pool, idle, in_flight
        self._timer: asyncio.TimerHandle | None = None
        self._context = Context()  # or the timer would keep the context of a call

    def when_idle(self) -> None:
        """Note that nothing is under way."""
        if not self._idle:
            self._pool.flush()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._idle, self._due, context=self._context)

    def now(self) -> None:
        """Flush if a flush is due later: the governor ends."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            self._pool.flush()

    def _due(self) -> None:
        self._timer = None
        if not self._in_flight():  # otherwise the last of them comes back here
            self._pool.flush()
