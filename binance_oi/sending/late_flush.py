"""Flushes a pool after some time without a request under way.

The rule of this file: at most one timer is armed at any time, whatever the number of calls.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context

from binance_oi.budget import Pool


class LateFlush:
    """Calls `Pool.flush` when no request is under way.

    A pool with leases takes a lease before a request, and a flush returns the lease. If requests
    follow each other, a flush after each one would cost two writes for each request. So with `idle`
    above 0, the flush comes only some time after a request.

    Args:
        pool: The pool. A flush writes its settlements and returns its leases.
        idle: Seconds from the end of a request until the flush; 0 flushes at once.
        in_flight: Returns the number of requests under way.
    """

    def __init__(self, pool: Pool, idle: float, in_flight: Callable[[], int]) -> None:
        self._pool, self._idle, self._in_flight = pool, idle, in_flight
        self._timer: asyncio.TimerHandle | None = None
        self._context = Context()  # empty; otherwise the timer would keep a call's context alive

    def when_idle(self) -> None:
        """Note that no request is under way any more; flush, now or later."""
        if not self._idle:
            self._pool.flush()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._idle, self._due, context=self._context)

    def now(self) -> None:
        """If the timer is armed, stop it and flush now. The governor calls this when it ends."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            self._pool.flush()

    def _due(self) -> None:
        self._timer = None
        if not self._in_flight():  # else the end of the last request calls `when_idle` again
            self._pool.flush()
