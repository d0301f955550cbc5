"""Keeps connections that have just served a request, for the next requests.

The rule of this file: it stores connections, and drops closed ones. Its callers decide which of the
others may be used. About once a second, all parked connections go to aiohttp's pool, which closes
connections that stay idle. If every request took its connection from that pool, it would need a
tenth more CPU time.
"""

import asyncio
from collections import deque
from contextvars import Context
from typing import Generic, TypeVar

from aiohttp.connector import Connection

G = TypeVar("G")

PARKED_S = 1.0  # s from the first parked connection until all of them go to aiohttp's pool


class ParkedConnections(Generic[G]):
    """Hands out the connections to an origin in the order in which callers parked them.

    Each connection is stored with its guard, of type `G`, which bounds what the connection receives
    (`guard.Guard`).
    """

    def __init__(self) -> None:
        self._by_origin: dict[str, deque[tuple[Connection, G]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._context = Context()  # empty; otherwise the timer would keep a call's context alive

    def __len__(self) -> int:
        return sum(map(len, self._by_origin.values()))

    def add(self, origin: str, connection: Connection, guard: G) -> None:
        """Park a connection to `origin` whose answer is complete."""
        parked = self._by_origin.get(origin)
        if parked is None:
            parked = self._by_origin[origin] = deque()
        parked.append((connection, guard))
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(PARKED_S, self.release, context=self._context)

    def at(self, origin: str) -> deque[tuple[Connection, G]] | None:
        """Connections parked for `origin`; some may be closed. Empty or None if none are parked."""
        return self._by_origin.get(origin)

    def take(self, origin: str) -> tuple[Connection, G] | None:
        """Take a connection to `origin` that is still open; None if there is none."""
        parked = self._by_origin.get(origin)
        while parked:
            found = parked.popleft()
            if not found[0].closed:
                return found
            found[0].close()
        return None

    def release(self) -> None:
        """Hand all parked connections to aiohttp's pool."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        by_origin, self._by_origin = self._by_origin, {}
        for parked in by_origin.values():
            for connection, _ in parked:
                connection.release()
