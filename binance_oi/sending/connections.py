"""Connections: what is sent on one, and how much may come back; beside `transport`, all of aiohttp.

The rule of this file: one attempt, one request on the wire, on a connection that holds nothing but
silence; and whatever brings more than one answer can have is ended.

The first request to an origin goes through `ClientSession`, which is most of what a request costs.
Then the way is known: aiohttp's connector still opens and keeps the connections and its parser
reads the answers, and the bytes of the request go straight to the connection.
"""

import asyncio
import errno
import re
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import NamedTuple, cast
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.tracing import Trace
from yarl import URL

from binance_oi.sending.kept_connections import KeptConnections, Line

USER_AGENT = f"binance-oi/{version('binance-oi')}"
REFUSALS = (403, 418, 429, 451)  # after one of these nothing is sent for some time
SHORTAGES = (errno.EMFILE, errno.ENFILE)  # of file descriptors, of the process or the machine
NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)  # one deadline for all of it
# Bytes on the wire beside a body: headers, chunk sizes, 1xx answers. A real answer has one
# thousand; more than this would be as much work as some hundred answers.
ENVELOPE = 64 * 1024
PIECE = 16 * 1024  # bytes received at once at the most; as large as TLS makes them
HEADS = 8  # in one piece, 1xx answers and the real one; a flood of them is not worth the work
KEEP_ALIVE = 60.0  # s that an idle connection is kept, so that polls find it open
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER for 0 s
_SUCCESS, _BLANK_LINE = b"HTTP/1.1 2", b"\r\n\r\n"
_REFUSAL = re.compile(rf"HTTP/1\.[01] ({'|'.join(map(str, REFUSALS))})[ \r\n]".encode())
# Another aiohttp may want more of whoever uses its connections than we do.
_LEAN = aiohttp.__version__.startswith("3.14.")


class SecondRequestError(Exception):
    """The connection ended, and aiohttp was about to send the request once more, by itself."""

    def __str__(self) -> str:
        return "the connection ended"


class LateError(Exception):
    """It took so long to get a connection that the request may not be sent; nothing was sent."""

    def __str__(self) -> str:
        return "the request could not be sent in time"


class _StaleConnectionError(Exception):
    """A connection holds more than silence, so nothing was sent on it."""


class SilentConnectionError(Exception):
    """A kept connection brought no byte for so long that it was abandoned."""


class Guard(asyncio.BufferedProtocol):
    """Stands between a connection and aiohttp, and ends what brings more than one answer can have.

    aiohttp bounds the headers, and we the body, but there are bytes that never become either:
    chunk sizes and 1xx answers without end, trailers, gzip that unpacks to nothing.

    It has a buffer, for without one asyncio makes a new one of 256 KiB for each piece it receives,
    which costs 0.1 of a request.
    """

    def __init__(self, handler: ResponseHandler, kept: KeptConnections, line: Line) -> None:
        self._handler = handler
        self._kept = kept
        self.line = line
        self.left: int = ENVELOPE  # bytes
        self.refusal: int = 0  # the status that began an answer, if it was one
        self.unused: bool = False  # opened for a request that was too late, and kept for the next
        self.ended: bool = False  # by the other side
        self._buffer = memoryview(bytearray(PIECE))
        self._tail = b""
        self._transport: asyncio.Transport | None = None  # to which the request was written
        self._socket: socket.socket  # of that
        self._body: aiohttp.StreamReader | None = None

    @property
    def flooded(self) -> bool:
        """Whether the connection was ended for that."""
        return self.left < 0

    @property
    def gone(self) -> bool:
        """Whether the connection is closed."""
        return self._handler.transport is None

    def begin(self, attempt: "Attempt", transport: asyncio.Transport) -> None:
        """The request of `attempt` is written to `transport`, and its body may come."""
        self.left, self.refusal, self.unused = attempt.max_body + ENVELOPE, 0, False
        self._tail, self._body = b"", None  # what came before is of an earlier request
        # The socket now: a TLS transport that was closed twice has forgotten it.
        self._transport, self._socket = transport, transport.get_extra_info("socket")
        self._kept.sent(self.line, self._abandon)
        attempt.guard, attempt.request, attempt.sent = self, self.line.request, True

    def _abandon(self) -> None:
        """End a connection that is silent; its late answer reaches nobody.

        Not with a TLS farewell: nobody is there to return it.
        """
        if self._handler.transport is not None:
            self._handler.set_exception(SilentConnectionError())
            self.reset()

    def reset(self) -> None:
        """End the connection, and let nothing more of what was written to it be sent.

        A request is booked for a time. What of it is not acknowledged the system sends again and
        again, for minutes after the connection was closed, unless the close is a reset.
        """
        transport, self._transport = self._transport, None
        if transport is not None:
            with suppress(AttributeError, OSError, TypeError):  # closed, or a loop without options
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()

    def watch(self, body: aiohttp.StreamReader) -> None:
        """Tell whoever reads `body` when its chunks are broken.

        aiohttp then closes the connection and forgets the body, and its reader waits for ever.
        """
        self._body = body
        self._end_body()

    def _end_body(self) -> None:
        error, body = self._handler.exception(), self._body
        if error is not None and body is not None and not body.is_eof():
            body.set_exception(aiohttp.ClientPayloadError(str(error)))

    def leave(self) -> None:
        """Let aiohttp have its connection back, as it was."""
        transport = self._handler.transport
        if transport is not None and transport.get_protocol() is self:
            transport.set_protocol(self._handler)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.line.silent:
            self._kept.heard(self.line)
        self.left -= nbytes
        data = bytes(self._buffer[:nbytes])
        if self.left < 0:
            if self._handler.transport is not None:
                self._handler.transport.abort()
        elif data.startswith(_SUCCESS):  # nearly always
            self._handler.data_received(data)
        else:
            self._pass_on_by_heads(data)
        if self._body is not None:
            self._end_body()

    def _pass_on_by_heads(self, data: bytes) -> None:
        """Headers before what follows them.

        A body that is broken takes a status in the same piece along with it, and a ban must not be
        missed. Not even when its headers are what is broken.
        """
        seen, start, line = self._tail + data, len(self._tail), 0
        self._note_refusal(seen, line)
        for _ in range(HEADS):
            blank = seen.find(_BLANK_LINE, max(0, start - 3))
            if blank == -1:
                break
            line = blank + len(_BLANK_LINE)
            self._handler.data_received(seen[start:line])
            self._note_refusal(seen, line)
            start = line
        if start < len(seen):
            self._handler.data_received(seen[start:])
        # What may go on in the next piece: a first line, or else a blank one.
        self._tail = seen[line:] if len(seen) - line < 16 else seen[-3:]

    def _note_refusal(self, seen: bytes, start: int) -> None:
        match = _REFUSAL.match(seen, start)
        if match is not None:
            self.refusal = int(match[1])

    def eof_received(self) -> None:
        self.ended = True
        self._handler.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.ended = self.ended or exc is not None
        self._kept.lost(self.line)
        self._handler.connection_lost(exc)

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()


def is_out_of_descriptors(error: Exception) -> bool:
    """Whether there is no connection because there is no file descriptor for it.

    A name that was not resolved, and several addresses that failed differently, do not say so: then
    the system is asked for a descriptor.
    """
    if not isinstance(error, OSError):
        return False
    is_vague = isinstance(error, aiohttp.ClientConnectorError) and error.errno not in SHORTAGES
    if is_vague and not isinstance(error, aiohttp.ClientSSLError):
        try:
            socket.socket().close()
        except OSError as found:
            error = found
    return error.errno in SHORTAGES


def _at_any_time() -> bool:
    return True


@dataclass(slots=True)
class Attempt:
    """One request: what is asked of its connection, and what became of it there."""

    may_send: Callable[[], bool] = _at_any_time  # asked immediately before it is written
    sent: bool = False  # a connection was handed out: from here on it may be counted
    fresh: bool = False  # the connection must not have served before
    reused: bool = False  # the connection had served before
    max_body: int = 0  # bytes
    guard: Guard | None = None  # of the connection
    request: int = 0  # which of all requests it is, see `Line.request`

    @property
    def refusal(self) -> int:
        """The status of a refusal that began, also when its headers were broken; 0 for none."""
        return 0 if self.guard is None else self.guard.refusal

    @property
    def flooded(self) -> bool:
        """Whether the connection was ended because too much came."""
        return self.guard is not None and self.guard.flooded

    @property
    def dropped(self) -> bool:
        """Whether a connection that had served before ended, before or within its answer.

        Without a byte it is dropped whatever the error is.
        """
        return self.reused and (self.silent or (self.guard is not None and self.guard.ended))

    @property
    def silent(self) -> bool:
        """Whether the request was sent, and no byte has come since.

        The end of its body frees the connection before its call goes on: by then another call may
        have sent a request on the same line, and the silence is that request's.
        """
        line = None if self.guard is None else self.guard.line
        return line is not None and line.request == self.request and line.silent


current_attempt: ContextVar[Attempt] = ContextVar("current_attempt")
"""Of whoever calls a session: aiohttp hands nothing on to where the connections are."""


class Response:
    """Status, headers and body, and none of aiohttp's conveniences."""

    __slots__ = ("_connection", "content", "headers", "status")

    def __init__(
        self, connection: Connection, message: RawResponseMessage, content: aiohttp.StreamReader
    ) -> None:
        self._connection = connection
        self.status: int = message.code
        self.headers: Mapping[str, str] = message.headers
        self.content: aiohttp.StreamReader = content
        content.on_eof(connection.release)

    def close(self) -> None:
        """Close the connection, unless it was released with the end of the body."""
        self._connection.close()


class _Wire(NamedTuple):
    """All of a request, and where it goes."""

    origin: str
    data: bytes


@lru_cache(maxsize=4096)
def _wire(url: URL) -> _Wire:
    lines = [f"GET {url.raw_path_qs} HTTP/1.1", f"Host: {url.host_port_subcomponent}"]
    lines.append(f"User-Agent: {USER_AGENT}")
    lines += [f"{k}: {v}" for k, v in aiohttp.ClientRequest.DEFAULT_HEADERS.items()]
    return _Wire(_origin(url), "\r\n".join([*lines, "\r\n"]).encode("ascii"))


def _origin(url: URL) -> str:
    return str(url.origin())


class Connector(aiohttp.TCPConnector):
    """Hands out connections that hold nothing but silence, one for each permit."""

    def __init__(self, *, tls: ssl.SSLContext | None, kept: KeptConnections) -> None:
        # No limits here: a permit that waited for a connection would be charged too early.
        super().__init__(  # pyright: ignore[reportUnknownMemberType] - of an argument not used
            limit=0, limit_per_host=0, keepalive_timeout=KEEP_ALIVE, ssl=tls or True
        )
        # For each origin a request that aiohttp made: it tells the connector where to connect.
        self._ways: dict[str, aiohttp.ClientRequest] = {}
        self._guards: dict[int, Guard] = {}  # by id of aiohttp's handler, which it keeps
        self._kept = kept

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """For the session: a connection, unless this request had one already."""
        attempt = current_attempt.get()
        if attempt.sent:
            raise SecondRequestError
        if _LEAN and req.proxy is None:
            self._ways.setdefault(_origin(req.url), req)
        return await self._take(req, attempt)

    async def ask(self, url: URL, attempt: Attempt) -> Response | None:
        """Around the session: send a request, and wait for the headers of its answer.

        None when nothing was sent, for no way to there is known yet: the session finds one.
        """
        wire = _wire(url)
        way = self._ways.get(wire.origin)
        if way is None:
            return None
        connection = await self._take(way, attempt)
        try:
            handler = connection.protocol
            assert handler is not None
            assert handler.transport is not None  # `_take` came just before
            handler.set_response_params(read_until_eof=True)
            handler.transport.write(wire.data)
            while True:
                message, content = await handler.read()
                if not 100 <= message.code < 200 or message.code == 101:
                    return Response(connection, message, content)
        except BaseException:
            connection.close()
            raise

    async def _take(self, way: aiohttp.ClientRequest, attempt: Attempt) -> Connection:
        """A connection for this attempt."""
        while True:
            connection = await super().connect(way, [], NO_TIMEOUT)
            fresh = attempt.fresh or not self._kept.are_usable
            guard = self._guard_of(connection, fresh=fresh)
            if guard is not None:
                break
        attempt.reused = guard.line.kept
        if not attempt.may_send():
            guard.unused = guard.unused or not attempt.reused
            connection.release()
            raise LateError
        assert connection.transport is not None
        guard.begin(attempt, connection.transport)
        return connection

    def _guard_of(self, connection: Connection, *, fresh: bool) -> Guard | None:
        """Of a connection that may be used; another one is closed."""
        handler = connection.protocol
        assert handler is not None
        guard = self._guards.get(id(handler))
        if guard is None:
            return self._new_guard(handler)
        trusted = self._kept.trusts(guard.line) and not handler.should_close
        if trusted and (guard.unused or not fresh):
            guard.line.kept = not fresh
            return guard
        del self._guards[id(handler)]
        connection.close()  # it may be dead, or hold an answer that nobody asked for
        return None

    async def open(self, url: URL, count: int, busy: int) -> None:
        """Until there are `count`, of which `busy` requests have or open one themselves.

        Only beside a request on its way to the same place; whatever fails, fails for the request
        that needs it.
        """
        way = self._ways.get(_origin(url))
        if way is not None:
            trusts = self._kept.trusts
            live = sum(not guard.gone and trusts(guard.line) for guard in self._guards.values())
            opening = (self._open_one(way) for _ in range(count - max(busy, live)))
            await asyncio.gather(*opening, return_exceptions=True)

    async def _open_one(self, way: aiohttp.ClientRequest) -> None:
        while True:
            connection = await super().connect(way, [], NO_TIMEOUT)
            if self._guard_of(connection, fresh=False) is not None:
                connection.release()
                break

    def _new_guard(self, handler: ResponseHandler) -> Guard:
        for key in [k for k, guard in self._guards.items() if guard.gone]:
            del self._guards[key]
        guard = self._guards[id(handler)] = Guard(handler, self._kept, self._kept.opened())
        assert handler.transport is not None
        handler.transport.set_protocol(guard)
        return guard


class Borrowed:
    """What our own connector does, for a session that is not ours: a middleware of aiohttp's.

    It judges the connection at the moment at which the request is written to it. Other traffic of
    that session is left alone, except that a new connection is only to be had once every idle one
    is closed.
    """

    def __init__(self, kept: KeptConnections) -> None:
        self._kept = kept
        self._lines: WeakKeyDictionary[ResponseHandler, Line] = WeakKeyDictionary()

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        attempt = current_attempt.get()
        if attempt.sent:
            raise SecondRequestError
        if not _LEAN:
            return await _unwatched(request, handler, attempt)
        self._watch(request, attempt)
        while True:
            try:
                response = await handler(request)
            except _StaleConnectionError:
                continue  # aiohttp has closed it
            assert attempt.guard is not None
            # The next request on the connection may be the owner's, before this call goes on.
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
            attempt.guard = Guard(handler, self._kept, line)
            handler.transport.set_protocol(attempt.guard)
            gate = _Gate(handler, attempt, attempt.guard)
            try:
                return await send(conn)
            except LateError:
                attempt.guard.leave()
                conn.release()  # the next request takes it
                raise
            finally:
                gate.open()

        request.send = send_guarded  # type: ignore[method-assign]


class _Gate:
    """Stands before the transport of a connection until a request is written to it.

    A session's trace is awaited after the connection was handed out and before the write, and may
    take its time. Only here it is certain that nothing comes between the question and the write.
    """

    def __init__(self, handler: ResponseHandler, attempt: Attempt, guard: Guard) -> None:
        assert handler.transport is not None
        self._handler, self._transport = handler, handler.transport
        self._attempt, self._guard = attempt, guard
        handler.transport = cast(asyncio.Transport, self)

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def open(self) -> None:
        """Stand aside; a connection that is lost has no transport any more."""
        if self._handler.transport is cast(asyncio.Transport, self):
            self._handler.transport = self._transport

    def write(self, data: bytes) -> None:
        """What aiohttp does once, with all of the request."""
        self.open()
        if not self._attempt.may_send():
            raise LateError
        self._guard.begin(self._attempt, self._transport)
        self._transport.write(data)


def _has_served(handler: ResponseHandler) -> bool:
    """Whether an answer has come on it, also one to a request of the session's owner.

    aiohttp keeps the last body there until the connection ends, and tells it nowhere else.
    """
    return handler._payload is not None  # pyright: ignore[reportPrivateUsage]


async def _unwatched(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType, attempt: Attempt
) -> aiohttp.ClientResponse:
    """With an aiohttp that we do not know: one request for each permit, and no more than that.

    Which connection it uses cannot be seen, so a kept one that is dead looks like any other error.
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
