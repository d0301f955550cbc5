"""An exchange behind a network that forgets connections: dropped, reset, or black holes.

Rule of this file: no HTTP library. It listens in the caller's loop, a virtual one.
"""

import asyncio
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable
from enum import Enum
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

from raw_exchange import answer, open_interest
from virtual_clock import wall_time

__all__ = ["Balancer", "Forgets"]

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, for 0 s


class Forgets(Enum):
    """How a connection ends."""

    FIN_NOW = "FIN while it is idle"
    RESET_NOW = "RST while it is idle"
    FIN = "FIN as the answer to a request"
    RESET = "RST as the answer to a request"
    SILENTLY = "without a sign: requests vanish"


class Balancer:
    """Answers every request well, on connections that it has not forgotten.

    Args:
        latency: Seconds before each answer.
        tls: Speaks TLS with this context; with `tunnel` only after a CONNECT, as a proxy does.
    """

    def __init__(
        self, *, latency: float = 0.0, tls: ssl.SSLContext | None = None, tunnel: bool = False
    ) -> None:
        self.latency = latency
        self.requests: list[tuple[int, str]] = []  # number of the connection, symbol
        self.connections = 0
        self.refusals: list[int] = []  # statuses of the next answers
        self.on_request: Callable[[], None] | None = None  # as soon as one has come
        self.late: float | None = None  # s after which a forgotten connection answers after all
        self.url = ""
        self._tls, self._tunnel = tls, tunnel
        self.dead: dict[int, Forgets] = {}
        self._serving: dict[asyncio.Task[object], tuple[int, asyncio.StreamWriter]] = {}
        self._minutes: Counter[int] = Counter()
        self._server: asyncio.Server | None = None
        self._news = asyncio.Event()

    @property
    def symbols(self) -> Counter[str]:
        """How often each symbol was asked for."""
        return Counter(symbol for _, symbol in self.requests)

    @property
    def this_minute(self) -> int:
        """Requests in the minute that it is now."""
        return self._minutes[int(wall_time() // 60)]

    def asked(self, connection: int) -> int:
        """Requests on one connection."""
        return sum(number == connection for number, _ in self.requests)

    async def received(self, requests: int) -> None:
        """Wait until so many have come."""
        while len(self.requests) < requests:
            self._news.clear()
            await self._news.wait()

    def forget(self, how: Forgets) -> int:
        """Forget every connection that is open now, and return how many there are."""
        for number, writer in self._serving.values():
            self.dead[number] = how
            if how is Forgets.FIN_NOW:
                writer.close()
            elif how is Forgets.RESET_NOW:
                _reset(writer)
        return len(self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.connections += 1
        number = self.connections
        self._serving[task] = number, writer
        try:
            if self._tunnel:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await writer.drain()
            if self._tls is not None:
                await writer.start_tls(self._tls)
            while await self._answer(number, reader, writer):
                pass
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()
            del self._serving[task]

    async def _answer(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        symbol = parse_qs(urlsplit(head.split()[1]).query)[b"symbol"][0].decode()
        self.requests.append((number, symbol))
        self._minutes[int(wall_time() // 60)] += 1
        self._news.set()
        if self.on_request is not None:
            self.on_request()
        how = self.dead.get(number)
        if how is Forgets.SILENTLY:
            if self.late is None:
                await reader.read()
                return False
            await asyncio.sleep(self.late)
        elif how is not None:
            if how is Forgets.RESET:
                _reset(writer)
            return False
        await asyncio.sleep(self.latency)
        if self.refusals:
            writer.write(answer(self.refusals.pop(0), "{}"))
        else:
            writer.write(open_interest(symbol, used=self.this_minute))
        return True

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
        scheme = "http" if self._tls is None or self._tunnel else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._serving)
        for _, writer in list(self._serving.values()):
            writer.transport.abort()
        await asyncio.gather(*tasks)
        await self._server.wait_closed()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()
