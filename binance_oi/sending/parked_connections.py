"""Connections that served a request a moment ago, and are likely to serve the next one.

The rule of this file: it decides nothing. A connection that no request takes within about a second
goes to aiohttp's pool, which closes connections that stay idle. Going through that pool for each
request would cost a tenth of the request.
"""

import asyncio
from collections import deque
from contextvars import Context
from typing import Generic, TypeVar

from aiohttp.connector import Connection

G = TypeVar("G")

PARKED_S = 1.0  # about; after it, the connections go to aiohttp's pool


class ParkedConnections(Generic[G]):
    """Hands out the connection that has waited longest, as aiohttp's pool does.

    Each one has its guard with it.
    """

    def __init__(self) -> None:
        self._by_origin: dict[str, deque[tuple[Connection, G]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._context = Context()  # or the timer would keep the context of the call that started it

    def __len__(self) -> int:
        return sum(map(len, self._by_origin.values()))

    def add(self, origin: str, connection: Connection, guard: G) -> None:
        """Keep a connection whose answer is complete."""
        parked = self._by_origin.get(origin)
        if parked is None:
            parked = self._by_origin[origin] = deque()
        parked.append((connection, guard))
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(PARKED_S, self.release, context=self._context)

    def at(self, origin: str) -> deque[tuple[Connection, G]] | None:
        """The connections to `origin`, which may have ended."""
        return self._by_origin.get(origin)

    def take(self, origin: str) -> tuple[Connection, G] | None:
        """Take a connection that is still open; None if there is none."""
        parked = self._by_origin.get(origin)
        while parked:
            found = parked.popleft()
            if not found[0].closed:
                return found
            found[0].close()
        return None

    def release(self) -> None:
        """Give all connections to aiohttp's pool."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        by_origin, self._by_origin = self._by_origin, {}
        for parked in by_origin.values():
            for connection, _ in parked:
                connection.release()
