"""A server for the service alone, on aiohttp.

The rule of this file: a visitor who is slow, or silent, holds a connection for a bounded time.
"""

import asyncio
import logging
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from binance_oi.web.aiohttp_app import SERVICE

IDLE_S: Final = 75.0  # s without a whole request, after which a connection ends
DRAIN_S: Final = 0.7  # s that answers under way get at the end, twice
BACKLOG: Final = 2048
CHECK_S: Final = 5.0  # s between two looks at what visitors have not read
OF_VISITORS: Final = (HttpProcessingError, web.RequestPayloadError)


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether an error is not that of a request; any visitor could fill the log with those."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, OF_VISITORS)


logger: logging.Logger = logging.getLogger("binance_oi.server")
logger.addFilter(_is_ours)


class Server:
    """Serves an application of `oi_app` on one address.

    Args:
        app: The application.
        host: The address to listen on.
        port: The port; 0 takes a free one.
    """

    def __init__(self, app: web.Application, host: str, port: int) -> None:
        self._app, self._host, self._port = app, host, port
        self._runner = web.AppRunner(
            app,
            handle_signals=False,
            access_log=None,
            logger=logger,
            keepalive_timeout=IDLE_S,
            shutdown_timeout=DRAIN_S,
            lingering_time=1.0,
        )
        # Since when each connection has something that its visitor has not read, loop time.
        self._unread: dict[RequestHandler, float] = {}
        self._care: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        port = self._runner.addresses[0][1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{port}/"

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: The address cannot be used.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port, backlog=BACKLOG).start()
        except BaseException:
            await self._runner.cleanup()
            raise
        self._care = asyncio.create_task(self._end_unread())

    async def stop(self) -> None:
        """End the streams, let answers under way end, and close every connection."""
        if self._care is not None:
            self._care.cancel()
            await asyncio.wait([self._care])
        await self._runner.cleanup()

    async def _end_unread(self) -> None:
        """End connections whose visitor does not read what was sent."""
        loop, stalled = asyncio.get_running_loop(), self._app[SERVICE].limits.stalled
        while True:
            await asyncio.sleep(min(CHECK_S, stalled))
            server, now, before = self._runner.server, loop.time(), self._unread
            self._unread = {}
            for handler in () if server is None else server.connections:
                transport = handler.transport
                if transport is None or not transport.get_write_buffer_size():
                    continue
                since = self._unread[handler] = before.get(handler, now)
                if now - since >= stalled:
                    transport.abort()
