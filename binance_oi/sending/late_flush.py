"""Flushes a pool when no request is under way, or some time later.

A flush tells other processes which requests were answered (the settlements), and returns the weight
that this process has charged in advance (its leases).

The rule of this file: at most one flush is planned at any time, whatever the number of calls.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context

from binance_oi.budget import Pool


class LateFlush:
    """Calls `Pool.flush` after the last request under way.

    If requests follow each other, a flush after each one would cost two writes for each request:
    its charge and its settlement. A later flush lets the next charge write the settlement too.

    Args:
        pool: The pool to flush.
        idle: Seconds from the end of a request until the flush. With 0, leases go back at once, and
            the flush comes in the next step of the loop, without a timer, which would wake the loop
            during the next request. If a caller makes one call after the other, the next charge
            comes before that step, and writes the settlement too.
        in_flight: Returns the number of requests under way.
    """

    def __init__(self, pool: Pool, idle: float, in_flight: Callable[[], int]) -> None:
        self._pool, self._idle, self._in_flight = pool, idle, in_flight
        self._timer: asyncio.Handle | None = None
        self._context = Context()  # empty; otherwise the timer would keep a call's context alive

    def when_idle(self) -> None:
        """Note that no request is under way any more; plan a flush if the pool may need one."""
        is_pending = self._idle > 0.0 or self._pool.when_idle()
        if self._timer is not None or not is_pending:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # the garbage collector ends a request of a loop that has ended
            self._pool.flush()
            return
        if self._idle:
            self._timer = loop.call_later(self._idle, self._due, context=self._context)
        else:
            self._timer = loop.call_soon(self._due, context=self._context)

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
