"""Thousands of listeners in one process, each a connection that counts its events.

Rule of this file: a listener reads only ids and losses, so that the crowd costs little compared to
the server.
"""

import asyncio
import re
import socket
import urllib.parse
from collections.abc import Iterable, Sequence
from typing import Final

ID: Final = re.compile(rb"(?:^|\n)id: ([0-9a-f]+)-([0-9]+)\n")
LOST: Final = re.compile(rb'\nevent: lost\ndata: \{"events":([0-9]+)\}')
AT_ONCE: Final = 200  # connections that open at the same time


class Listener(asyncio.Protocol):
    """One connection to `/events`."""

    def __init__(self, crowd: "Crowd", query: str, *, last_event_id: str = "") -> None:
        self.query = query
        # An id has two parts: the number of the event, and the epoch of the server that sent it.
        self.last, self.epoch = 0, ""
        self.missing = 0  # events neither received nor reported as lost
        self.lost = 0
        self.is_open = False
        self._crowd, self._resume, self._rest = crowd, last_event_id, b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.is_open = transport, True
        query = f"?{self.query}" if self.query else ""
        resume = f"Last-Event-ID: {self._resume}\r\n" if self._resume else ""
        transport.write(f"GET /events{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n{resume}\r\n".encode())

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 200"):
            self._crowd.refused.append(data[:200])
        for found in LOST.finditer(data):
            self.lost += int(found[1])
            self.missing -= int(found[1])
        for found in ID.finditer(data):
            number = int(found[2])
            if self.last:
                # After a loss, the server sends a state, which replaces the last lost event.
                self.missing += max(0, number - self.last - 1)
                self.missing += number > self.last and self._was_lost(data, found.start())
            self.last, self.epoch = number, found[1].decode()
            self._crowd.saw(number)
        end = data.rfind(b"\n") + 1
        self._rest = data[end:][-256:] if end else data[-256:]

    def _was_lost(self, data: bytes, place: int) -> bool:
        return b"event: lost" in data[max(0, place - 80) : place]

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._crowd.wake()


class Crowd:
    """Many listeners of one server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.listeners: list[Listener] = []
        self.refused: list[bytes] = []
        self._seen: dict[int, int] = {}
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}
        self._news = asyncio.Event()

    def wake(self) -> None:
        self._news.set()

    def saw(self, number: int) -> None:
        now = asyncio.get_running_loop().time()
        self._seen[number] = self._seen.get(number, 0) + 1
        self._first.setdefault(number, now)
        self._last[number] = now
        self._news.set()

    def spread(self, number: int) -> float:
        """Seconds from the first delivery of an event to the last one."""
        return self._last[number] - self._first[number]

    async def join(self, queries: Iterable[str], *, reads: bool = True) -> Sequence[Listener]:
        """Connect listeners, and return them. Only listeners that read join `listeners`; the others
        get a small buffer."""
        gate, made = asyncio.Semaphore(AT_ONCE), list[Listener]()

        async def connect(query: str) -> None:
            listener = Listener(self, query)
            place = socket.socket()
            place.setblocking(False)
            if not reads:
                place.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            loop = asyncio.get_running_loop()
            async with gate:
                await loop.sock_connect(place, ("127.0.0.1", self._port))
                await loop.create_connection(lambda: listener, sock=place)
                if not reads and listener.transport is not None:
                    listener.transport.pause_reading()
            made.append(listener)

        await asyncio.gather(*map(connect, queries))
        if reads:
            self.listeners += made
        return made

    async def all_have_begun(self) -> None:
        """Wait until every listener that reads has received an event."""
        while not all(listener.last for listener in self.listeners):
            assert not self.refused, self.refused[0]
            self._news.clear()
            await self._news.wait()

    async def until(self, number: int, count: int) -> None:
        """Wait until this many listeners have received the event."""
        while self._seen.get(number, 0) < count:
            assert not self.refused, self.refused[0]
            self._news.clear()
            await self._news.wait()

    def leave(self) -> None:
        for listener in self.listeners:
            if listener.transport is not None:
                listener.transport.abort()


def queries(symbols: Sequence[str], of_symbols: int, of_market: int) -> list[str]:
    """Return queries for ten symbols each, and then queries for the whole market."""
    names = [
        ",".join(symbols[(number * 7 + place * 31) % len(symbols)] for place in range(10))
        for number in range(of_symbols)
    ]
    # A request line is ASCII, and some symbols are Chinese.
    return [f"symbols={urllib.parse.quote(name)}" for name in names] + [""] * of_market
