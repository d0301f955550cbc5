"""Connections that served a moment ago, and are likely to serve again.

The rule of this file: nothing is decided here. A connection that nobody takes within a second or
so goes to aiohttp's pool, which closes what is idle for long; but to go through that pool for each
request would cost a tenth of it.
"""

import asyncio
from collections import deque
from contextvars import Context

from aiohttp.connector import Connection

PARKED = 1.0  # s, roughly, until aiohttp's pool has them back


class ParkedConnections:
    """Hands out the one first that waits longest, as aiohttp's pool does."""

    def __init__(self) -> None:
        self._by_origin: dict[str, deque[Connection]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._context = Context()  # or the timer would keep what surrounds the call that began it

    def __len__(self) -> int:
        return sum(map(len, self._by_origin.values()))

    def add(self, origin: str, connection: Connection) -> None:
        """Keep a connection whose answer is complete."""
        self._by_origin.setdefault(origin, deque()).append(connection)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(PARKED, self.release, context=self._context)

    def take(self, origin: str) -> Connection | None:
        """One that is still open."""
        parked = self._by_origin.get(origin)
        while parked:
            connection = parked.popleft()
            if not connection.closed:
                return connection
            connection.close()
        return None

    def release(self) -> None:
        """Give all of them to aiohttp's pool."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        by_origin, self._by_origin = self._by_origin, {}
        for parked in by_origin.values():
            for connection in parked:
                connection.release()
