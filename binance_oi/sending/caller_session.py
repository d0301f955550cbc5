"""Sends our requests through a caller's session.

The rule of this file: each attempt writes one request, on a connection without unread bytes,
although the caller uses the same session. We do not change the caller's own requests.
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
from binance_oi.sending.kept_connections import ConnectionState, KeptConnections


class _StaleConnectionError(Exception):
    """A connection is unusable, or it is old and the request needs a new one. We sent nothing."""


class CallerSessionMiddleware:
    """Does what our `connections.Connector` does, as a middleware of aiohttp in a caller's session.

    It checks a connection right before aiohttp writes our request to it. It changes no other
    traffic of the session, with one exception: to get a new connection to a host, it must close all
    idle ones to that host.
    """

    def __init__(self, kept: KeptConnections) -> None:
        self._kept = kept
        self._buffer = read_buffer()
        self._states: WeakKeyDictionary[ResponseHandler, ConnectionState] = WeakKeyDictionary()

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        attempt = current_attempt.get()
        if attempt.sent:
            raise SecondRequestError
        if not connections.SENDS_DIRECTLY:
            return await _unwatched(request, handler, attempt)
        self._watch(request, attempt)
        while True:
            try:
                response = await handler(request)
            except _StaleConnectionError:
                continue  # aiohttp has closed the connection
            assert attempt.guard is not None
            # Remove the guard as soon as the body ends. The session's owner may send the next
            # request on this connection before the present call continues.
            response.content.on_eof(attempt.guard.detach)
            return response

    def _watch(self, request: aiohttp.ClientRequest, attempt: Attempt) -> None:
        send = request.send

        async def send_guarded(conn: Connection) -> aiohttp.ClientResponse:
            handler = conn.protocol
            assert handler is not None
            assert handler.transport is not None
            attempt.reused = _has_served(handler)
            state = self._states.get(handler)
            if state is None:
                state = self._states[handler] = self._kept.opened()
            state.kept = attempt.reused
            trusted = self._kept.trusts(state) and not handler.should_close
            fresh = attempt.fresh or not self._kept.are_usable
            if not trusted or (fresh and attempt.reused):
                raise _StaleConnectionError
            attempt.guard = Guard(handler, self._kept, state, self._buffer)
            handler.transport.set_protocol(attempt.guard)
            gate = _Gate(handler, attempt, attempt.guard)
            try:
                return await send(conn)
            except LateError:
                attempt.guard.detach()
                conn.release()  # a later request may use it
                raise
            finally:
                gate.open()

        request.send = send_guarded  # type: ignore[method-assign]


class _Gate:
    """Replaces the transport of a connection until a request is written to it.

    After a session gets a connection, it awaits its traces before it writes, and they may take
    long. So this class checks the permit in `write`, with no await between the check and the write.
    """

    def __init__(self, handler: ResponseHandler, attempt: Attempt, guard: Guard) -> None:
        assert handler.transport is not None
        self._handler, self._transport = handler, handler.transport
        self._attempt, self._guard = attempt, guard
        handler.transport = cast(asyncio.Transport, self)

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def open(self) -> None:
        """Put the transport back, unless the connection was lost and has no transport now."""
        if self._handler.transport is cast(asyncio.Transport, self):
            self._handler.transport = self._transport

    def write(self, data: bytes) -> None:
        """Write the request. aiohttp calls this once, with the whole request.

        Raises:
            LateError: The request may no longer be sent.
        """
        self.open()
        if not self._attempt.may_send():
            raise LateError
        now = asyncio.get_running_loop().time()
        self._guard.begin(self._attempt, self._transport, now)
        self._transport.write(data)


def _has_served(handler: ResponseHandler) -> bool:
    """Whether this connection has received an answer, to our request or the session owner's.

    Only a private attribute of aiohttp shows this: it has the last body until the connection ends.
    """
    return handler._payload is not None  # pyright: ignore[reportPrivateUsage]


async def _unwatched(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType, attempt: Attempt
) -> aiohttp.ClientResponse:
    """Send a request with a release of aiohttp whose internals we do not know.

    Each permit still sends at most one request. But we cannot observe the connections, so a dead
    kept connection looks like any other error.
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
