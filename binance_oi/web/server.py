"""Runs a server of aiohttp for the service alone.

The rule of this file: a visitor that sends no whole request, or does not read, can use a connection
only for a bounded time. An idle connection ends earlier if the server needs room for a new one.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from binance_oi.web.aiohttp_app import SERVICE

IDLE_S: Final = 75.0  # s without a complete request, after which we close a connection
DRAIN_S: Final = 0.7  # s for current answers when the server stops; aiohttp applies it twice
BACKLOG: Final = 2048  # connections that wait in the kernel
ACCEPTED_AT_ONCE: Final = 32  # connections that the server accepts before other tasks may run
CONNECTIONS: Final = 20_000  # connections: the default limit
EXTRA_CONNECTIONS: Final = 32  # connections above the limit that the server still accepts
REFUSAL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)
CHECK_S: Final = 5.0  # s between two checks for visitors that do not read
OF_VISITORS: Final = (HttpProcessingError, web.RequestPayloadError)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether to log a record. We omit bad requests, with which visitors could fill the log."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, OF_VISITORS)


logger: logging.Logger = logging.getLogger("binance_oi.server")
logger.addFilter(_is_ours)


class Server:
    """Serves an application of `oi_app` on one address.

    Args:
        app: The application.
        host: The address to listen on.
        port: The port; 0 for any free port.
        connections: From this number of connections on, the server closes idle ones. It refuses a
            new one if `EXTRA_CONNECTIONS` more are open. The sum of both must be below the number
            of files that the process may open, because `accept` fails at that number.
    """

    def __init__(
        self, app: web.Application, host: str, port: int, *, connections: int = CONNECTIONS
    ) -> None:
        self._app, self._host, self._port, self._most = app, host, port, connections
        self._runner = web.AppRunner(
            app,
            handle_signals=False,
            access_log=None,
            logger=logger,
            keepalive_timeout=IDLE_S,
            shutdown_timeout=DRAIN_S,
            lingering_time=1.0,
        )
        app.middlewares.append(self._noted)
        self._busy: set[RequestHandler] = set()  # connections with a request under way
        # For each connection with unread bytes: the loop time since which it has had some.
        self._unread: dict[RequestHandler, float] = {}
        self._checking: asyncio.Task[None] | None = None
        self._listening: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The URL of the service."""
        assert self._listening is not None
        port = self._listening.sockets[0].getsockname()[1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{port}/"

    @property
    def connections(self) -> Sequence[RequestHandler]:
        """The open connections, the oldest first."""
        server = self._runner.server
        return () if server is None else server.connections

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: The address cannot be used.
        """
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        try:
            # asyncio accepts up to `backlog` connections in one step; meanwhile we can close none.
            self._listening = await loop.create_server(
                self._protocol, self._host, self._port, backlog=ACCEPTED_AT_ONCE
            )
        except BaseException:
            await self._runner.cleanup()
            raise
        for each in self._listening.sockets:
            with socket.fromfd(each.fileno(), each.family, each.type) as same:
                same.listen(BACKLOG)
        self._checking = asyncio.create_task(self._end_unread())

    async def stop(self) -> None:
        """End the streams, let current answers finish, and close every connection."""
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.wait([self._checking])
        if self._listening is not None:
            self._listening.close()
        await self._runner.cleanup()

    @web.middleware
    async def _noted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.protocol
        self._busy.add(connection)
        try:
            return await handler(request)
        finally:
            self._busy.discard(connection)

    def _protocol(self) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        server = self._runner.server
        if server is None:  # it has just stopped
            return _Refused()
        connections = self.connections
        if len(connections) >= self._most:
            idle = [each for each in connections if each not in self._busy]
            for each in idle[: -(-len(idle) // 2)]:  # the oldest ones
                each.force_close()
        return _Refused() if len(connections) >= self._most + EXTRA_CONNECTIONS else server()

    async def _end_unread(self) -> None:
        """Close connections whose visitors do not read."""
        loop, stalled = asyncio.get_running_loop(), self._app[SERVICE].limits.stalled
        while True:
            await asyncio.sleep(min(CHECK_S, stalled))
            now, before = loop.time(), self._unread
            self._unread = {}
            for handler in self.connections:
                transport = handler.transport
                if transport is None or not transport.get_write_buffer_size():
                    continue
                since = self._unread[handler] = before.get(handler, now)
                if now - since >= stalled:
                    transport.abort()


class _Refused(asyncio.Protocol):
    """A connection that ends as soon as it begins."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(REFUSAL)
        transport.close()
