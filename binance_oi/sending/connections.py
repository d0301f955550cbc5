"""Connections: how requests are sent, and how much may come back. With `transport`, all of aiohttp.

The rule of this file: one attempt is one request on the wire, on a connection without unread bytes.
A connection that brings more than one answer can have is closed.

The first request to an origin goes through `ClientSession`, which is most of a request's cost.
Later requests avoid it: aiohttp's connector opens and keeps the connections, and the bytes of a
request go straight to one. The usual answer comes straight back (`plain_answers`). An unusual one
goes to aiohttp's parser, from its first byte on.
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

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.tracing import Trace
from yarl import URL

from binance_oi.sending.kept_connections import KeptConnections, Line
from binance_oi.sending.local_address import family_of
from binance_oi.sending.parked_connections import ParkedConnections
from binance_oi.sending.plain_answers import PlainAnswer, has_surplus, plain_answer
from binance_oi.sending.wire import SMALL_BODY, origin_of, wire_request

REFUSALS = (403, 418, 429, 451)  # after one of these nothing is sent for some time
SHORTAGES = (errno.EMFILE, errno.ENFILE)  # of file descriptors, of the process or the machine
NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)  # `Deadlines` covers all of it
# Bytes on the wire besides a body: headers, chunk sizes, 1xx answers. A real answer has one
# thousand; more than this bound would be as much work as some hundred answers.
ENVELOPE = 64 * 1024
BYTES_PER_READ = 16 * 1024  # as large as a TLS record
MOST_PER_READ = 128 * 1024  # the same where a body may be large; a page of history has 90,000
HEADS_PER_READ = 8  # 1xx answers and the real one; a flood of them is not worth more work
KEEP_ALIVE = 60.0  # s that an idle connection is kept, so that polls find it open
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER for 0 s
_SUCCESS, _BLANK_LINE = b"HTTP/1.1 2", b"\r\n\r\n"
_REFUSAL = re.compile(rf"HTTP/1\.[01] ({'|'.join(map(str, REFUSALS))})[ \r\n]".encode())
# Another release of aiohttp may require more from users of its connections than our code does.
LEAN: bool = aiohttp.__version__.startswith("3.14.")


class SecondRequestError(Exception):
    """The connection ended, and aiohttp was about to send the request again by itself."""

    def __str__(self) -> str:
        return "the connection ended without an answer"


class LateError(Exception):
    """No connection was available in time to send the request; nothing was sent."""

    def __str__(self) -> str:
        return "the request could not be sent in time"


class SilentConnectionError(Exception):
    """A kept connection brought no byte for so long that it was abandoned."""


class Guard(asyncio.BufferedProtocol):
    """Stands between a connection and aiohttp, and ends what brings more than one answer can have.

    aiohttp bounds the headers, and we bound the body. But some bytes become neither: endless chunk
    sizes and 1xx answers, trailers, gzip that decompresses to nothing.

    It provides a buffer. Without one, asyncio allocates 256 KiB for each read, which costs 0.1 of a
    request. All connections of a loop may share one, because each read is taken out of it at once.
    """

    def __init__(
        self, handler: ResponseHandler, kept: KeptConnections, line: Line, buffer: memoryview
    ) -> None:
        self._handler = handler
        self._kept = kept
        self.line = line
        self.left: int = ENVELOPE  # bytes
        self.refusal: int = 0  # the status of an answer that is a refusal
        self.unused: bool = False  # opened for a request that was too late, kept for the next one
        self.ended: bool = False  # by the other side
        self._large, self._small = buffer, buffer[:BYTES_PER_READ]
        self._buffer = self._small
        self._tail = b""
        self._transport: asyncio.Transport | None = None  # the request was written to it
        self._socket: socket.socket  # of the transport
        self._body: aiohttp.StreamReader | None = None
        self._plain: asyncio.Future[PlainAnswer | None] | None = None  # until the first byte came
        self._is_idle = True  # the last answer is complete, and no request follows it yet

    @property
    def flooded(self) -> bool:
        """Whether the connection was ended because it brought too much."""
        return self.left < 0

    @property
    def gone(self) -> bool:
        """Whether the connection is closed."""
        return self._handler.transport is None

    def begin(self, attempt: "Attempt", transport: asyncio.Transport) -> None:
        """Note that the request of `attempt` is about to be written to `transport`."""
        self.left, self.refusal, self.unused = attempt.max_body + ENVELOPE, 0, False
        self._is_idle = False
        self._buffer = self._small if attempt.max_body <= SMALL_BODY else self._large
        self._tail, self._body = b"", None  # earlier bytes belong to an earlier request
        if self._transport is not transport:
            # Fetch the socket now: a TLS transport that was closed twice no longer has it.
            self._transport, self._socket = transport, transport.get_extra_info("socket")
        self._kept.sent(self.line, self._abandon)
        attempt.guard, attempt.request, attempt.sent = self, self.line.request, True

    def send(self, data: bytes) -> asyncio.Future[PlainAnswer | None]:
        """Write a request; the result is its answer, or None once aiohttp's parser reads it."""
        assert self._transport is not None  # `begin` came just before
        self._plain = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return self._plain

    def _parse(self) -> None:
        """Leave the answer to aiohttp's parser."""
        plain, self._plain = self._plain, None
        if plain is not None:
            self._handler.set_response_params(read_until_eof=True)
            if not plain.done():
                plain.set_result(None)

    def _abandon(self) -> None:
        """End a silent connection, so that its late answer reaches no other request.

        It sends no TLS close, because no peer would answer it.
        """
        if self._handler.transport is not None:
            self._parse()
            self._handler.set_exception(SilentConnectionError())
            self.reset()

    def reset(self) -> None:
        """End the connection with a reset, so that nothing written to it is sent any more.

        A request is charged to a minute. After a normal close, the system would resend its
        unacknowledged bytes for minutes.
        """
        transport, self._transport = self._transport, None
        if transport is not None:
            with suppress(
                AttributeError, OSError, TypeError, ValueError
            ):  # closed, or another loop
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()

    def rest(self) -> None:
        """Note that the answer is complete: what comes now belongs to no request."""
        self._is_idle = True

    def watch(self, body: aiohttp.StreamReader) -> None:
        """Raise an error to the reader of `body` when its chunks are broken.

        aiohttp itself closes the connection and drops the body, and its reader would wait for ever.
        """
        self._body = body
        self._end_body()

    def _end_body(self) -> None:
        error, body = self._handler.exception(), self._body
        if error is not None and body is not None and not body.is_eof():
            body.set_exception(aiohttp.ClientPayloadError(str(error)))

    def leave(self) -> None:
        """Give the connection back to aiohttp unchanged."""
        transport = self._handler.transport
        if transport is not None and transport.get_protocol() is self:
            transport.set_protocol(self._handler)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.line.silent:
            self._kept.heard(self.line)
        self.left -= nbytes
        view = self._buffer[:nbytes]
        if self._is_idle:  # the beginning of an answer that nobody asked for
            self._kept.refuse(self.line)
        if self._plain is not None:
            answer = plain_answer(view, self.left + nbytes - ENVELOPE)
            if answer is not None and not self._plain.done():
                self._plain.set_result(answer)
                self._plain, self._is_idle = None, True
                return
            if has_surplus(view):
                self._kept.refuse(self.line)
            self._parse()
        data = bytes(view)
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
        """Pass on headers before the bytes that follow them.

        aiohttp drops the status of a piece that also contains a broken body, but a ban must not be
        missed. It is noted even when its own headers are broken.
        """
        seen, start, line = self._tail + data, len(self._tail), 0
        self._note_refusal(seen, line)
        for _ in range(HEADS_PER_READ):
            blank = seen.find(_BLANK_LINE, max(0, start - 3))
            if blank == -1:
                break
            line = blank + len(_BLANK_LINE)
            self._handler.data_received(seen[start:line])
            self._note_refusal(seen, line)
            start = line
        if start < len(seen):
            self._handler.data_received(seen[start:])
        # What the next piece may continue: a first line, or else a blank one.
        self._tail = seen[line:] if len(seen) - line < 16 else seen[-3:]

    def _note_refusal(self, seen: bytes, start: int) -> None:
        match = _REFUSAL.match(seen, start)
        if match is not None:
            self.refusal = int(match[1])

    def eof_received(self) -> None:
        self.ended = True
        self._parse()
        self._handler.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.ended = self.ended or exc is not None
        self._kept.lost(self.line)
        self._parse()
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


def read_buffer() -> memoryview:
    """A buffer for all guards of one loop."""
    return memoryview(bytearray(MOST_PER_READ))


def _at_any_time() -> bool:
    return True


@dataclass(slots=True)
class Attempt:
    """One attempt at a request: its conditions, and what happened on its connection."""

    may_send: Callable[[], bool] = _at_any_time  # called right before the request is written
    sent: bool = False  # it has a connection: from now on the exchange may count it
    fresh: bool = False  # it needs a connection that has not served before
    reused: bool = False  # its connection has served before
    max_body: int = 0  # bytes
    guard: Guard | None = None  # of its connection
    request: int = 0  # its number among all requests, see `Line.request`

    @property
    def received(self) -> int:
        """Bytes that have come since it was sent; -1 before that."""
        if not self.sent:
            return -1
        return 0 if self.guard is None else self.max_body + ENVELOPE - self.guard.left

    @property
    def pieces(self) -> int:
        """The number of reads that the longest possible answer takes."""
        return (self.max_body + ENVELOPE) // BYTES_PER_READ

    @property
    def refusal(self) -> int:
        """The status of a refusal that began, even with broken headers; 0 for none."""
        return 0 if self.guard is None else self.guard.refusal

    @property
    def flooded(self) -> bool:
        """Whether the connection was ended because it brought too much."""
        return self.guard is not None and self.guard.flooded

    @property
    def dropped(self) -> bool:
        """Whether a connection that had served before ended before or within its answer.

        A connection without a single byte counts, whatever the error is.
        """
        return self.reused and (self.silent or (self.guard is not None and self.guard.ended))

    @property
    def silent(self) -> bool:
        """Whether the request was sent, and no byte has come since.

        The end of a body frees the connection before its call continues. Another call may have sent
        a request on it by then; its silence belongs to that request.
        """
        line = None if self.guard is None else self.guard.line
        return line is not None and line.request == self.request and line.silent


current_attempt: ContextVar[Attempt] = ContextVar("current_attempt")
"""The attempt of the call that uses a session: aiohttp passes no argument on to the connector."""


class Response:
    """Status, headers and body, without aiohttp's conveniences."""

    __slots__ = ("_connection", "content", "headers", "status")

    def __init__(
        self,
        connection: Connection,
        guard: Guard,
        message: RawResponseMessage,
        content: aiohttp.StreamReader,
    ) -> None:
        self._connection = connection
        self.status: int = message.code
        self.headers: Mapping[str, str] = message.headers
        self.content: aiohttp.StreamReader = content
        content.on_eof(guard.rest)
        content.on_eof(connection.release)

    def close(self) -> None:
        """Close the connection, unless the end of the body has released it."""
        self._connection.close()


class Connector(aiohttp.TCPConnector):
    """Provides connections without unread bytes, one for each permit."""

    def __init__(
        self, *, tls: ssl.SSLContext | None, kept: KeptConnections, local: str | None = None
    ) -> None:
        # No limits here: a permit that waited for a connection would be charged too early.
        super().__init__(  # pyright: ignore[reportUnknownMemberType] - of an argument not used
            limit=0,
            limit_per_host=0,
            keepalive_timeout=KEEP_ALIVE,
            ssl=tls or True,
            local_addr=None if local is None else (local, 0),
            family=socket.AF_UNSPEC if local is None else family_of(local),
        )
        # For each origin, a request that aiohttp made: it says how to connect there.
        self._templates: dict[str, aiohttp.ClientRequest] = {}
        self._guards: dict[int, Guard] = {}  # by id of aiohttp's handler, which the guard keeps
        self._kept = kept
        self._buffer = read_buffer()
        self._parked = ParkedConnections()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """Called by the session: provide a connection, unless this request already had one."""
        attempt = current_attempt.get()
        if attempt.sent:
            raise SecondRequestError
        if LEAN and req.proxy is None:
            self._templates.setdefault(origin_of(req.url), req)
        return await self._take(req, attempt)

    async def ask(self, url: URL, attempt: Attempt) -> PlainAnswer | Response | None:
        """Send a request without the session; wait for its answer, or only for unusual headers.

        None when nothing was sent, because no template for the origin is known: use the session.
        """
        origin, data = wire_request(url, attempt.max_body <= SMALL_BODY)
        connection = self._take_parked(origin, attempt)
        if connection is None:
            template = self._templates.get(origin)
            if template is None:
                return None
            connection = await self._take(template, attempt)
        try:
            assert attempt.guard is not None  # by `_take` and `_take_parked`
            plain = await attempt.guard.send(data)
            if plain is not None:
                self._parked.add(origin, connection)
                return plain
            handler = connection.protocol
            assert handler is not None
            while True:
                message, content = await handler.read()
                if not 100 <= message.code < 200 or message.code == 101:
                    return Response(connection, attempt.guard, message, content)
        except BaseException:
            connection.close()
            raise

    async def close(self, *, abort_ssl: bool = False) -> None:
        """Close all connections, the parked ones included."""
        self._parked.release()
        await super().close(abort_ssl=abort_ssl)

    def _take_parked(self, origin: str, attempt: Attempt) -> Connection | None:
        """Take a connection that has just served, for this attempt."""
        fresh = attempt.fresh or not self._kept.are_usable
        while (connection := self._parked.take(origin)) is not None:
            guard = self._guard_of(connection, fresh=fresh)
            if guard is not None:
                self._hand_out(connection, guard, attempt)
                return connection
        return None

    async def _take(self, template: aiohttp.ClientRequest, attempt: Attempt) -> Connection:
        """Take a connection from aiohttp's pool, or a new one, for this attempt."""
        while True:
            connection = await super().connect(template, [], NO_TIMEOUT)
            fresh = attempt.fresh or not self._kept.are_usable
            guard = self._guard_of(connection, fresh=fresh)
            if guard is not None:
                break
        self._hand_out(connection, guard, attempt)
        return connection

    def _hand_out(self, connection: Connection, guard: Guard, attempt: Attempt) -> None:
        """Give a connection to an attempt, unless it is too late for its request."""
        attempt.reused = guard.line.kept
        if not attempt.may_send():
            guard.unused = guard.unused or not attempt.reused
            connection.release()
            raise LateError
        assert connection.transport is not None
        guard.begin(attempt, connection.transport)

    def _guard_of(self, connection: Connection, *, fresh: bool) -> Guard | None:
        """The guard of a usable connection; closes one that is not usable."""
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
        connection.close()  # it may be dead, or deliver an answer that nobody requested
        return None

    async def open(self, url: URL, count: int, busy: int) -> None:
        """Open connections until there are `count`; `busy` requests have or open one themselves.

        It runs only beside a request to the same origin. It ignores errors, because the request
        that needs the connection gets them as well.
        """
        template = self._templates.get(origin_of(url))
        if template is not None:
            trusts = self._kept.trusts
            live = sum(not guard.gone and trusts(guard.line) for guard in self._guards.values())
            opening = (self._open_one(template) for _ in range(count - max(busy, live)))
            await asyncio.gather(*opening, return_exceptions=True)

    async def _open_one(self, template: aiohttp.ClientRequest) -> None:
        while True:
            connection = await super().connect(template, [], NO_TIMEOUT)
            if self._guard_of(connection, fresh=False) is not None:
                connection.release()
                break

    def _new_guard(self, handler: ResponseHandler) -> Guard:
        for key in [k for k, guard in self._guards.items() if guard.gone]:
            del self._guards[key]
        guard = Guard(handler, self._kept, self._kept.opened(), self._buffer)
        self._guards[id(handler)] = guard
        assert handler.transport is not None
        handler.transport.set_protocol(guard)
        return guard
