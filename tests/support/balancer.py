"""An exchange behind a network that closes, resets or silently drops connections.

Rule of this file: it uses no HTTP library, and listens in the caller's virtual loop.
"""

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable
from enum import Enum
from urllib.parse import parse_qs, urlsplit

from support.raw_exchange import answer, open_interest
from support.serving import RecordingServer, reset
from support.virtual_clock import wall_time

__all__ = ["Balancer", "Forgets"]


class Forgets(Enum):
    """The ways in which the network forgets a connection."""

    FIN_NOW = "FIN while it is idle"
    RESET_NOW = "RST while it is idle"
    FIN = "FIN as the answer to a request"
    RESET = "RST as the answer to a request"
    SILENTLY = "silently: requests vanish"
    PART = "FIN after the first bytes of an answer"
    RESET_PART = "RST after the first bytes of an answer"


class Balancer(RecordingServer[tuple[int, str]]):
    """An exchange that answers every request correctly, except on connections that it forgot.

    `requests` holds a pair for each request: the number of its connection, and its symbol.

    Args:
        latency: Seconds before each answer.
        tls: Use TLS with this context.
        tunnel: Expect a CONNECT first, as a proxy does; TLS begins after it.
    """

    def __init__(
        self, *, latency: float = 0.0, tls: ssl.SSLContext | None = None, tunnel: bool = False
    ) -> None:
        super().__init__()
        self.latency = latency
        self.refusals: list[int] = []  # statuses of the next answers
        self.on_request: Callable[[], None] | None = None  # called for each request
        self.part = b"H"  # sent before a connection ends with `PART` or `RESET_PART`
        self.late: float | None = None  # s before a silent connection answers; None: never
        self._tls, self._tunnel = tls, tunnel
        self.dead: dict[int, Forgets] = {}
        self._minutes: Counter[int] = Counter()

    @property
    def url(self) -> str:
        """The base URL."""
        scheme = "http" if self._tls is None or self._tunnel else "https"
        return f"{scheme}://127.0.0.1:{self.port}"

    @property
    def symbols(self) -> Counter[str]:
        """The number of requests for each symbol."""
        return Counter(symbol for _, symbol in self.requests)

    @property
    def this_minute(self) -> int:
        """Requests in the current minute."""
        return self._minutes[int(wall_time() // 60)]

    def asked(self, connection: int) -> int:
        """The number of requests on one connection."""
        return sum(number == connection for number, _ in self.requests)

    def forget(self, how: Forgets) -> int:
        """Forget every open connection, and return their number."""
        for number, writer in self._serving.items():
            self.dead[number] = how
            if how is Forgets.FIN_NOW:
                writer.close()
            elif how is Forgets.RESET_NOW:
                reset(writer)
        return len(self._serving)

    async def _talk(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._tunnel:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await writer.drain()
        if self._tls is not None:
            await writer.start_tls(self._tls)
        while await self._answer(number, reader, writer):
            pass

    async def _answer(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; return whether the connection stays open."""
        head = await reader.readuntil(b"\r\n\r\n")
        symbol = parse_qs(urlsplit(head.split()[1]).query)[b"symbol"][0].decode()
        self._minutes[int(wall_time() // 60)] += 1
        self._came((number, symbol))
        if self.on_request is not None:
            self.on_request()
        how = self.dead.get(number)
        if how is Forgets.SILENTLY:
            if self.late is None:
                await reader.read()
                return False
            await asyncio.sleep(self.late)
        elif how is not None:
            writer.write(self.part if how in (Forgets.PART, Forgets.RESET_PART) else b"")
            if how in (Forgets.RESET, Forgets.RESET_PART):
                await writer.drain()
                reset(writer)
            return False
        await asyncio.sleep(self.latency)
        if self.refusals:
            writer.write(answer(self.refusals.pop(0), "{}"))
        else:
            writer.write(open_interest(symbol, used=self.this_minute))
        return True
