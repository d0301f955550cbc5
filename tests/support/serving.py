"""A TCP server for tests that accepts, serves, resets and ends connections.

Rule of this file: it listens in the caller's loop, so it works in virtual time.
"""

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Generic, Self, TypeVar

__all__ = ["RecordingServer", "Server", "reset"]

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, for 0 s
BACKLOG = 512  # more than any test opens at once

Request = TypeVar("Request")


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()


class Server:
    """Listens on the loopback interface; a connection ends when `_talk` returns."""

    def __init__(self) -> None:
        self.connections = 0  # accepted so far
        self.port = 0
        self._serving: dict[int, asyncio.StreamWriter] = {}  # by the number of the connection
        self._tasks: set[asyncio.Task[object]] = set()
        self._server: asyncio.Server | None = None

    @property
    def open(self) -> int:
        """Connections that have not ended."""
        return len(self._serving)

    async def _talk(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Serve a connection; an error of the connection ends it."""
        raise NotImplementedError

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        number = self.connections
        self._serving[number] = writer
        try:
            with contextlib.suppress(
                OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
            ):
                await self._talk(number, reader, writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        finally:
            writer.close()
            del self._serving[number]
            self._tasks.remove(task)

    async def listen(self, port: int = 0) -> None:
        """Start to accept connections."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, backlog=BACKLOG)
        self.port = self._server.sockets[0].getsockname()[1]

    async def end(self) -> None:
        """Stop accepting, and end all connections."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._tasks)
        for writer in list(self._serving.values()):
            writer.transport.abort()
        await asyncio.gather(*tasks)
        if self._server is not None:
            await self._server.wait_closed()

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.end()


class RecordingServer(Server, Generic[Request]):
    """A server that records all received requests."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self._news = asyncio.Event()

    def _came(self, request: Request) -> None:
        self.requests.append(request)
        self._news.set()

    async def received(self, requests: int) -> None:
        """Wait until this many requests have arrived."""
        while len(self.requests) < requests:
            self._news.clear()
            await self._news.wait()
