"""Sends our requests through a caller's session.

The rule of this file: it keeps the rules of our own connections (`connections`), although the
caller's code uses the same session. It does not affect the caller's own requests.
"""

import asyncio
from typing import cast
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from binance_oi.sending import connections
from binance_oi.sending.connections import LateError, SecondRequestError
from binance_oi.sending.guard import Attempt, Guard, current_attempt, read_buffer
from binance_oi.sending.kept_connections import KeptConnections, Line


class _StaleConnectionError(Exception):
    """A connection is dead or has unread bytes, so nothing was sent on it."""


class CallerSessionMiddleware:
    """Does the work of `Connector` for a caller's session, as a middleware of aiohttp.

    It checks the connection at the moment when the request is written to it. It leaves other
    traffic of the session alone. But it can only get a new connection by closing every idle one.
    """

    def __init__(self, kept: KeptConnections) -> None:
        self._kept = kept
        self._buffer = read_buffer()
        self._lines: WeakKeyDictionary[ResponseHandler, Line] = WeakKeyDictionary()

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        attempt = current_attempt.get()
        if attempt.sent:
            raise SecondRequestError
        if not connections.LEAN:
            return await _unwatched(request, handler, attempt)
        self._watch(request, attempt)
        while True:
            try:
                response = await handler(request)
            except _StaleConnectionError:
                continue  # aiohttp has closed it
            assert attempt.guard is not None
            # The connection's next request may be the owner's, before this call continues.
            response.content.on_eof(attempt.guard.leave)
            return response

    def _watch(self, request: aiohttp.ClientRequest, attempt: Attempt) -> None:
        send = request.send

        async def send_guarded(conn: Connection) -> aiohttp.ClientResponse:
            handler = conn.protocol
            assert handler is not None
            assert handler.transport is not None
            attempt.reused = _has_served(handler)
            line = self._lines.get(handler)
            if line is None:
                line = self._lines[handler] = self._kept.opened()
            line.kept = attempt.reused
            trusted = self._kept.trusts(line) and not handler.should_close
            fresh = attempt.fresh or not self._kept.are_usable
            if not trusted or (fresh and attempt.reused):
                raise _StaleConnectionError
            attempt.guard = Guard(handler, self._kept, line, self._buffer)
            handler.transport.set_protocol(attempt.guard)
            gate = _Gate(handler, attempt, attempt.guard)
            try:
                return await send(conn)
            except LateError:
                attempt.guard.leave()
                conn.release()  # the next request uses it
                raise
            finally:
                gate.open()

        request.send = send_guarded  # type: ignore[method-assign]


class _Gate:
    """Replaces the transport of a connection until a request is written to it.

    A session awaits its traces between getting a connection and the write, and they may take long.
    Only here nothing can come between the check of the permit and the write.
    """

    def __init__(self, handler: ResponseHandler, attempt: Attempt, guard: Guard) -> None:
        assert handler.transport is not None
        self._handler, self._transport = handler, handler.transport
        self._attempt, self._guard = attempt, guard
        handler.transport = cast(asyncio.Transport, self)

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def open(self) -> None:
        """Put the transport back; a lost connection no longer has one."""
        if self._handler.transport is cast(asyncio.Transport, self):
            self._handler.transport = self._transport

    def write(self, data: bytes) -> None:
        """Write the request; aiohttp calls this once, with all of it."""
        self.open()
        if not self._attempt.may_send():
            raise LateError
        now = asyncio.get_running_loop().time()
        self._guard.begin(self._attempt, self._transport, now)
        self._transport.write(data)


def _has_served(handler: ResponseHandler) -> bool:
    """Whether an answer has come on this connection, also to a request of the session's owner.

    aiohttp keeps the last body there until the connection ends, and shows it nowhere else.
    """
    return handler._payload is not None  # pyright: ignore[reportPrivateUsage]


async def _unwatched(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType, attempt: Attempt
) -> aiohttp.ClientResponse:
    """Send with an unknown release of aiohttp: one request for each permit, and no more.

    Its connections are not visible, so a dead kept connection looks like any other error.
    """
    send = request.send

    async def send_in_time(conn: Connection) -> aiohttp.ClientResponse:
        if not attempt.may_send():
            conn.release()
            raise LateError
        return await send(conn)

    request.send = send_in_time  # type: ignore[method-assign]
    attempt.sent = True
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, LateError):
        attempt.sent = False
        raise
