"""A server that writes exactly the bytes of a script, and records the bytes that it receives.

Rule of this file: it uses no HTTP library, and listens in the caller's loop. So it works in
virtual time.
"""

import asyncio
from collections.abc import Callable

from support.serving import RecordingServer

__all__ = ["CLOSE", "RawExchange", "answer", "open_interest"]

CLOSE = None  # instead of an answer: end the connection


def answer(status: int, body: bytes | str, *headers: str, length: int | None = None) -> bytes:
    """An HTTP answer. If `length` is more than the length of the body, the answer never ends."""
    data = body.encode() if isinstance(body, str) else body
    size = f"Content-Length: {len(data) if length is None else length}"
    return "\r\n".join([f"HTTP/1.1 {status} Text", size, *headers, "", ""]).encode() + data


def open_interest(symbol: str = "BTCUSDT", *headers: str, used: int = 1) -> bytes:
    """A valid answer."""
    body = f'{{"symbol":"{symbol}","openInterest":"1.5","time":1795435200000}}'
    return answer(200, body, f"X-MBX-USED-WEIGHT-1M: {used}", *headers)


class RawExchange(RecordingServer[bytes]):
    """A server that answers the nth request, counted from 1, with `script(n)`.

    An empty answer means silence. A connection stays open until the script answers `CLOSE`; with
    `one_each`, only until its first answer.
    """

    def __init__(self, script: Callable[[int], bytes | None], *, one_each: bool = False) -> None:
        super().__init__()
        self._script = script
        self._one_each = one_each

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}"

    def write(self, data: bytes, *, to: int | None = None) -> None:
        """Write without a request, on every open connection or on number `to`, counted from 1."""
        for number, writer in self._serving.items():
            if to in (None, number):
                writer.write(data)

    async def _talk(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            self._came(await reader.readuntil(b"\r\n\r\n"))
            text = self._script(len(self.requests))
            if text is None:  # CLOSE
                return
            writer.write(text)
            if self._one_each:
                return
