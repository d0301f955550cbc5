"""A server that writes exactly the bytes it is told to, and keeps the bytes that it got.

Rule of this file: no HTTP library. It listens in the caller's loop, so it works in virtual time.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = ["CLOSE", "RawExchange", "answer", "open_interest"]

CLOSE = None  # an answer: end the connection without one


def answer(status: int, body: bytes | str, *headers: str, length: int | None = None) -> bytes:
    """An HTTP answer; with a `length` above its own it never ends."""
    data = body.encode() if isinstance(body, str) else body
    size = f"Content-Length: {len(data) if length is None else length}"
    return "\r\n".join([f"HTTP/1.1 {status} Text", size, *headers, "", ""]).encode() + data


def open_interest(symbol: str = "BTCUSDT", *headers: str, used: int = 1) -> bytes:
    """A good answer."""
    body = f'{{"symbol":"{symbol}","openInterest":"1.5","time":1795435200000}}'
    return answer(200, body, f"X-MBX-USED-WEIGHT-1M: {used}", *headers)


class RawExchange:
    """Answers the nth request, counted from 1, with `script(n)`; and keeps the connection.

    An empty answer is silence. With `one_each`, every connection ends after its first answer.
    """

    def __init__(self, script: Callable[[int], bytes | None], *, one_each: bool = False) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.url = ""
        self._script = script
        self._one_each = one_each
        self._serving: dict[asyncio.Task[object], asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None
        self._news = asyncio.Event()

    async def received(self, requests: int) -> None:
        """Wait until so many have come."""
        while len(self.requests) < requests:
            self._news.clear()
            await self._news.wait()

    def write(self, data: bytes) -> None:
        """Unasked, on every open connection."""
        for writer in self._serving.values():
            writer.write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        self.connections += 1
        try:
            while True:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                self._news.set()
                text = self._script(len(self.requests))
                if text is None:  # CLOSE
                    break
                writer.write(text)
                if self._one_each:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            del self._serving[task]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
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
        for writer in list(self._serving.values()):
            writer.transport.abort()
        await asyncio.gather(*tasks)
        await self._server.wait_closed()
