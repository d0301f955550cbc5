"""An exchange that can fail at any byte for one symbol, and answers the other symbols correctly.

Rule of this file: the exchange uses no HTTP library, and listens in the caller's loop. So it works
in virtual time.
"""

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from enum import Enum
from typing import Self
from urllib.parse import parse_qs, urlsplit

from support.serving import Server, reset

__all__ = ["BAD", "GOOD", "Act", "FaultExchange", "Repeat", "Step", "Wait"]

BAD, GOOD = "BADUSDT", "GOODUSDT"
GOOD_VALUE = "2.5"
FOR_EVER = 64 * 2**20  # bytes that stand for an endless answer: more than a client may read


class Act(Enum):
    """An action on a connection."""

    CLOSE = "close"
    RESET = "reset"
    HALF_CLOSE = "half-close"
    STALL = "stall"


@dataclass(frozen=True)
class Wait:
    """Send nothing for these seconds."""

    seconds: float


@dataclass(frozen=True)
class Repeat:
    """Send `data` `times` times, `every` seconds apart, or until the peer is gone.

    If `times` is None, stop after about `FOR_EVER` bytes.
    """

    data: bytes
    times: int | None = None
    every: float = 0.0


Step = bytes | Act | Wait | Repeat


class FaultExchange(Server):
    """Plays `script(n)` for the nth request for `BAD`. `at_accept` and `bad_tls` need `broken`.

    Args:
        script: Steps for the nth request, from 1. Bytes may contain `{DATE}` and `{USED}`.
        now: The exchange's clock, Unix seconds.
        at_accept: While `broken`, play `script(n)` on the nth connection without reading a request.
        bad_tls: The context of connections that are accepted while `broken`.
        good_tls: The context of all other connections; None: plain HTTP.
    """

    def __init__(
        self,
        script: Callable[[int], Sequence[Step]],
        *,
        now: Callable[[], float],
        at_accept: bool = False,
        bad_tls: ssl.SSLContext | None = None,
        good_tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__()
        self.broken = False
        self.wire: list[str] = []  # the symbol of each request
        self.minutes: Counter[int] = Counter()  # requests counted in each minute
        self.sent = 0  # bytes sent
        self.one_each = False  # whether each connection ends after its first answer
        self._script = script
        self._now = now
        self._at_accept = at_accept
        self._bad_tls, self._good_tls = bad_tls, good_tls

    def good(self, symbol: str) -> bytes:
        """A valid answer."""
        body = f'{{"symbol":"{symbol}","openInterest":"{GOOD_VALUE}","time":1795435200000}}'
        end = "Connection: close\r\n" if self.one_each else ""
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nX-MBX-USED-WEIGHT-1M: {{USED}}\r\nDate: {{DATE}}\r\n"
        )
        return self._filled(f"{head}{end}\r\n{body}".encode())

    def hang_up(self) -> None:
        """Close every connection."""
        for writer in self._serving.values():
            writer.close()

    async def _talk(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self.broken and self._at_accept:
            await self._play(self._script(number), reader, writer)
            return
        context = self._bad_tls if self.broken and self._bad_tls else self._good_tls
        if context is not None:
            await writer.start_tls(context)
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            symbol = parse_qs(urlsplit(head.split()[1]).query)[b"symbol"][0].decode()
            self.wire.append(symbol)
            self.minutes[self._minute()] += 1
            if symbol != BAD:
                await self._send(self.good(symbol), writer)
            elif not await self._play(self._script(self.wire.count(BAD)), reader, writer):
                return
            if self.one_each:
                return

    async def _play(
        self, steps: Sequence[Step], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Play a script; return whether the connection stays open."""
        half = False
        for step in steps:
            match step:
                case bytes():
                    await self._send(self._filled(step), writer)
                case Wait(seconds):
                    await asyncio.sleep(seconds)
                case Repeat(data, times, every):
                    await self._repeat(data, times, every, writer)
                case Act.HALF_CLOSE:
                    writer.write_eof()
                    half = True
                case Act.STALL:
                    await reader.read()
                case Act.RESET:
                    reset(writer)
                    return False
                case Act.CLOSE:
                    return False
        return not half

    async def _repeat(
        self, data: bytes, times: int | None, every: float, writer: asyncio.StreamWriter
    ) -> None:
        done = 0
        times = FOR_EVER // len(data) if times is None else times
        while not writer.is_closing() and done < times:
            await self._send(data, writer)
            await asyncio.sleep(every)
            done += 1

    async def _send(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if writer.is_closing():  # as asyncio's `drain` does; uvloop's raises another error
            raise ConnectionResetError
        writer.write(data)
        await writer.drain()
        self.sent += len(data)

    def _filled(self, data: bytes) -> bytes:
        date = formatdate(self._now(), usegmt=True).encode()
        return data.replace(b"{DATE}", date).replace(b"{USED}", b"%d" % self.this_minute)

    def _minute(self) -> int:
        return int(self._now() // 60)

    @property
    def this_minute(self) -> int:
        """Requests in the current minute."""
        return self.minutes[self._minute()]

    async def __aenter__(self) -> Self:
        return self  # `Door.opened` makes the exchange listen
