"""Guards a connection against endless answers, and follows each attempt to send a request.

The rule of this file: each attempt writes one request. If a connection receives more bytes than
one answer can have, its guard closes it.
"""

import asyncio
import re
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Self

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from binance_oi.sending.deadline import Deadline
from binance_oi.sending.kept_connections import ConnectionState, KeptConnections
from binance_oi.sending.plain_answers import PlainAnswer, has_surplus, plain_answer
from binance_oi.sending.wire import SMALL_BODY

REFUSALS = (403, 418, 429, 451)  # statuses; after each except 451, we send nothing for some time
# The most bytes that an answer may have besides its body: headers, chunk sizes, 1xx answers. A real
# answer has about 1,000 such bytes.
ENVELOPE_BYTES = 64 * 1024
BYTES_PER_READ = 16 * 1024  # bytes in one read if the body is small; a TLS record has no more
MOST_PER_READ = 128 * 1024  # bytes in one read if the body may be large; a history page has 90,000
HEADS_PER_READ = 8  # sets of headers that we separate in one read; each 1xx answer has its own
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER for 0 s
_SUCCESS, _BLANK_LINE = b"HTTP/1.1 2", b"\r\n\r\n"
_REFUSAL = re.compile(rf"HTTP/1\.[01] ({'|'.join(map(str, REFUSALS))})[ \r\n]".encode())


class SilentConnectionError(Exception):
    """A reused connection received no byte for so long that we abandoned it."""


class Guard(asyncio.BufferedProtocol):
    """Sits between a connection and aiohttp, and ends a connection that receives too many bytes.

    aiohttp bounds the headers, and we bound the body. But some bytes belong to neither: endless
    chunk sizes and 1xx answers, trailers, and gzip that decompresses to nothing.

    The guard provides the read buffer. Without it, asyncio allocates 256 KiB for each read, which
    takes a tenth of the time of a request. All connections of a client share one buffer, because
    each read is copied out of it at once.
    """

    def __init__(
        self,
        handler: ResponseHandler,
        kept: KeptConnections,
        state: ConnectionState,
        buffer: memoryview,
    ) -> None:
        self._handler = handler
        self._kept = kept
        self.state = state
        self.left: int = ENVELOPE_BYTES  # bytes that may still come for this answer
        self.refusal: int = 0  # the status of the answer if it is a refusal
        # Whether the connection is new and unused, because its first request was too late to be
        # sent.
        self.unused: bool = False
        self.ended: bool = False  # whether the other side, or an error, ended the connection
        self._large, self._small = buffer, buffer[:BYTES_PER_READ]
        self._buffer = self._small
        self._tail = b""
        self._transport: asyncio.Transport | None = None  # to which the last request was written
        self._socket: socket.socket  # of that transport
        self._body: aiohttp.StreamReader | None = None
        self._plain: asyncio.Future[PlainAnswer | None] | None = None  # see `send`
        self._is_idle = True  # whether no answer is due, because the last answer is complete

    @property
    def has_overflowed(self) -> bool:
        """Whether we ended the connection because it received too many bytes."""
        return self.left < 0

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed."""
        return self._handler.transport is None

    def begin(self, attempt: "Attempt", transport: asyncio.Transport, now: float) -> None:
        """Note that the caller is about to write the request of `attempt` to `transport`.

        Args:
            attempt: The attempt; this method sets its guard.
            transport: The transport of the connection.
            now: The loop's time.
        """
        self.left, self.refusal, self.unused = attempt.max_body + ENVELOPE_BYTES, 0, False
        self._is_idle = False
        self._buffer = self._small if attempt.max_body <= SMALL_BODY else self._large
        self._tail, self._body = b"", None  # earlier bytes belong to an earlier request
        if self._transport is not transport:
            # Fetch the socket now: a TLS transport that was closed twice no longer has it.
            self._transport, self._socket = transport, transport.get_extra_info("socket")
        self._kept.sent(self.state, self._abandon, now)
        attempt.guard, attempt.request, attempt.sent = self, self.state.request, True

    def send(self, data: bytes) -> asyncio.Future[PlainAnswer | None]:
        """Write a request.

        Returns:
            A future. Its result is the answer if that has the plainest form; otherwise None, and
            aiohttp's parser reads the answer. See `plain_answer`.
        """
        assert self._transport is not None  # `begin` came just before
        self._plain = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return self._plain

    def start(
        self, attempt: "Attempt", data: bytes, loop: asyncio.AbstractEventLoop, now: float
    ) -> bool:
        """Send a request at once if the connection is open and may be used again.

        Args:
            attempt: The attempt; this method sets its guard, and the future of its answer (see
                `send`).
            data: The bytes of the request.
            loop: The running loop.
            now: The loop's time.

        Returns:
            Whether the request was sent. If its write failed, the result is True, and the future
            has the error.
        """
        transport = self._transport
        if transport is None or self.ended or not self._kept.trusts(self.state):
            return False
        self.state.kept = attempt.reused = True
        self.begin(attempt, transport, now)
        attempt.answer = self._plain = loop.create_future()
        try:
            transport.write(data)
        except Exception as error:  # from uvloop, if its handle was closed in this step of the loop
            self._plain = None
            attempt.answer.set_exception(error)
        return True

    def _parse(self) -> None:
        """Leave the answer to aiohttp's parser."""
        plain, self._plain = self._plain, None
        if plain is not None:
            self._handler.set_response_params(read_until_eof=True)
            if not plain.done():
                plain.set_result(None)

    def _abandon(self) -> None:
        """End a silent connection, so that its late answer cannot reach another request.

        This sends no TLS close, because a dead peer would not answer it.
        """
        if self._handler.transport is not None:
            self._parse()
            self._handler.set_exception(SilentConnectionError())
            self.reset()

    def reset(self) -> None:
        """End the connection with a reset, so that the system sends no more of its bytes.

        After a normal close, the system resends unacknowledged bytes for minutes. So the request
        could still arrive in a later minute, although it is charged to the present minute.
        """
        transport, self._transport = self._transport, None
        if transport is not None:
            with suppress(
                AttributeError, OSError, TypeError, ValueError
            ):  # the socket is closed, or comes from another loop than asyncio's
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()

    def note_answer_end(self) -> None:
        """Note that the answer is complete. Bytes from now to the next request are surplus."""
        self._is_idle = True

    def watch(self, body: aiohttp.StreamReader) -> None:
        """Raise an error in the reader of `body` if its chunks are broken.

        Otherwise, aiohttp would close the connection and drop the body, and the reader would wait
        forever.
        """
        self._body = body
        self._end_body()

    def _end_body(self) -> None:
        error, body = self._handler.exception(), self._body
        if error is not None and body is not None and not body.is_eof():
            body.set_exception(aiohttp.ClientPayloadError(str(error)))

    def detach(self) -> None:
        """Make aiohttp's handler the protocol of the connection again, without this guard."""
        transport = self._handler.transport
        if transport is not None and transport.get_protocol() is self:
            transport.set_protocol(self._handler)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self.state.silent:
            self._kept.heard(self.state)
        self.left -= nbytes
        view = self._buffer[:nbytes]
        if self._is_idle:  # these bytes answer no request
            self._kept.refuse(self.state)
        if self._plain is not None:
            answer = plain_answer(view, self.left + nbytes - ENVELOPE_BYTES)
            if answer is not None and not self._plain.done():
                self._plain.set_result(answer)
                self._plain, self._is_idle = None, True
                return
            if has_surplus(view):
                self._kept.refuse(self.state)
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
        """Pass headers on to aiohttp separately from the bytes after them.

        If one piece has both headers and a broken body, aiohttp drops the status with the body, and
        we would miss a ban. We also note the status of a refusal ourselves, because its headers
        may be broken.
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
        # Keep the last bytes: the next piece may complete their status line or blank line.
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
        self._kept.lost(self.state)
        self._parse()
        self._handler.connection_lost(exc)

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()


def read_buffer() -> memoryview:
    """Return a new buffer, for all guards of one client."""
    return memoryview(bytearray(MOST_PER_READ))


def _at_any_time() -> bool:
    return True


class Attempt(Deadline):
    """One attempt at a request: its conditions, and the events on its connection.

    It can also be the deadline of its call; see `Deadlines.add`.

    Args:
        max_body: The largest body accepted, in bytes.
        may_send: Called right before the request is written; if it returns False, nothing is sent.
        fresh: Whether the request must go on a new connection.
    """

    __slots__ = (
        *("answer", "connection", "fresh", "guard", "max_body", "may_send"),
        *("request", "reused", "sent"),
    )
    answer: asyncio.Future[PlainAnswer | None]  # of a request that `Connector.start` sent
    connection: Connection

    def __init__(
        self, max_body: int = 0, may_send: Callable[[], bool] = _at_any_time, fresh: bool = False
    ) -> None:
        self.may_send = may_send
        self.max_body = max_body
        self.fresh = fresh
        self.sent: bool = False  # whether the exchange may have counted the request
        self.reused: bool = False  # whether its connection was open before, and so may be dead
        self.guard: Guard | None = None  # the guard of its connection
        self.request: int = 0  # its number among all requests; see `ConnectionState.request`
        self.expired = False
        self.task: asyncio.Task[object] | None = None

    def _progress(self) -> Self:
        """See `Deadline`. This is a method, because an attribute would make a reference cycle."""
        return self

    @property
    def received(self) -> int:
        """The number of bytes received since the request was sent; -1 before that."""
        if not self.sent:
            return -1
        return 0 if self.guard is None else self.max_body + ENVELOPE_BYTES - self.guard.left

    @property
    def most_reads(self) -> int:
        """About how many reads of `BYTES_PER_READ` the longest accepted answer needs."""
        return (self.max_body + ENVELOPE_BYTES) // BYTES_PER_READ

    @property
    def refusal(self) -> int:
        """The status of the answer if it is one of `REFUSALS`, otherwise 0.

        It is known as soon as the status line has come, even if the headers are broken.
        """
        return 0 if self.guard is None else self.guard.refusal

    @property
    def has_overflowed(self) -> bool:
        """Whether we ended the connection because it received too many bytes."""
        return self.guard is not None and self.guard.has_overflowed

    @property
    def dropped(self) -> bool:
        """Whether the attempt failed because a reused connection ended.

        If no byte of the answer came, any error on a reused connection counts as its end.
        """
        return self.reused and (self.silent or (self.guard is not None and self.guard.ended))

    @property
    def silent(self) -> bool:
        """Whether the request was sent, and no byte has come since.

        The end of a body frees the connection before the attempt's own call continues. In between,
        another call may send a request on the connection. Its silence then belongs to that request,
        and this attempt is not silent.
        """
        state = None if self.guard is None else self.guard.state
        return state is not None and state.request == self.request and state.silent


current_attempt: ContextVar[Attempt] = ContextVar("current_attempt")
"""The attempt of the running call. aiohttp cannot pass it to us, so it is in the context."""
