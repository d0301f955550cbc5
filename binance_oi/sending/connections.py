"""Writes requests to connections, and bounds the number of bytes in each answer.

The rule of this file: each attempt writes one request, on a connection without unread bytes. If a
connection receives more bytes than one answer can have, its `Guard` closes it.

`ClientSession` takes most of the CPU time of a request, so we avoid it. The session sends only the
first requests to an origin, requests through a proxy, and all requests if aiohttp is not 3.14. For
others, aiohttp's connector opens and keeps the connections, and we write the bytes of each request
directly to a connection. The usual answer is one complete answer with status 200; `plain_answers`
parses it. aiohttp's parser gets any other answer, from its first byte on.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Mapping

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.tracing import Trace
from yarl import URL

from binance_oi.sending.guard import Attempt, Guard, current_attempt, read_buffer
from binance_oi.sending.kept_connections import KeptConnections
from binance_oi.sending.local_address import family_of
from binance_oi.sending.parked_connections import ParkedConnections
from binance_oi.sending.plain_answers import PlainAnswer
from binance_oi.sending.wire import SMALL_BODY, WireRequest, origin_of, wire_request

SHORTAGES = (errno.EMFILE, errno.ENFILE)  # the process or the machine has no file descriptor left
NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)  # `Deadlines` ends late calls
KEEP_ALIVE = 60.0  # s: we keep an idle connection this long, so that polls find it open
# Our direct use of aiohttp's connections is tested with 3.14 only. With any other release, every
# request goes through `ClientSession`.
SENDS_DIRECTLY: bool = aiohttp.__version__.startswith("3.14.")


class SecondRequestError(Exception):
    """The connection ended, and aiohttp was about to send the request again by itself."""

    def __str__(self) -> str:
        return "the connection ended without an answer"


class LateError(Exception):
    """The request may no longer be sent: it is late, or a cooldown began. Nothing was sent."""

    def __str__(self) -> str:
        return "the request could not be sent in time"


def is_out_of_descriptors(error: Exception) -> bool:
    """Whether a connection failed because there was no file descriptor for it.

    An error may hide a shortage, for example if aiohttp could not resolve the name, or if several
    addresses failed in different ways. So if an error of aiohttp's connector neither shows a
    shortage nor concerns TLS, we open a socket to test whether a descriptor is left.
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


class Response:
    """Status, headers and body of an answer that aiohttp's parser reads."""

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
        content.on_eof(guard.note_answer_end)
        content.on_eof(connection.release)

    def close(self) -> None:
        """Close the connection, unless the end of the body has released it."""
        self._connection.close()


async def unusual_response(attempt: Attempt, error: BaseException | None) -> Response:
    """Return the unusual answer to a request of `Connector.start` once its headers are read.

    If `error` is given, raise it instead. Any error closes the connection.
    """
    assert attempt.guard is not None
    try:
        if error is not None:
            raise error
        return await _parsed(attempt.connection, attempt.guard)
    except BaseException:
        attempt.connection.close()
        raise


async def _parsed(connection: Connection, guard: Guard) -> Response:
    """Wait until aiohttp's parser has read the final headers; skip interim ones such as 103."""
    handler = connection.protocol
    assert handler is not None
    while True:
        message, content = await handler.read()
        if not 100 <= message.code < 200 or message.code == 101:
            return Response(connection, guard, message, content)


class Connector(aiohttp.TCPConnector):
    """Hands out connections without unread bytes, one for each attempt."""

    def __init__(
        self, *, tls: ssl.SSLContext | None, kept: KeptConnections, local: str | None = None
    ) -> None:
        # No limit of connections here, because a request is charged for the current minute when it
        # gets its permit. If it then waited for a connection, it could be sent in the next minute.
        super().__init__(  # pyright: ignore[reportUnknownMemberType] - type of unused argument
            limit=0,
            limit_per_host=0,
            keepalive_timeout=KEEP_ALIVE,
            ssl=tls or True,
            local_addr=None if local is None else (local, 0),
            family=socket.AF_UNSPEC if local is None else family_of(local),
        )
        # The template of each origin: the first request that aiohttp's session made for it. It has
        # all that aiohttp needs to connect there.
        self._templates: dict[str, aiohttp.ClientRequest] = {}
        self._guards: dict[int, Guard] = {}  # by `id` of the handler that the guard refers to
        self._kept = kept
        self._buffer = read_buffer()
        self._parked: ParkedConnections[Guard] = ParkedConnections()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """Provide a connection for the session's request.

        Raises:
            SecondRequestError: This attempt was already sent, so aiohttp is repeating it.
            LateError: The request may no longer be sent.
        """
        attempt = current_attempt.get()
        if attempt.sent:
            raise SecondRequestError
        if SENDS_DIRECTLY and req.proxy is None:
            self._templates.setdefault(origin_of(req.url), req)
        return await self._take(req, attempt)

    async def ask(self, url: URL, attempt: Attempt) -> PlainAnswer | Response | None:
        """Send a request without the session, and wait for its answer.

        Returns:
            The complete answer if it is the usual one. Otherwise a `Response`, whose body the
            caller reads. None if nothing was sent, because `connect` has not stored a template for
            this origin. Then send this request through the session.
        """
        origin, data = wire_request(url, attempt.max_body <= SMALL_BODY)
        connection = self._take_parked(origin, attempt)
        if connection is None:
            template = self._templates.get(origin)
            if template is None:
                return None
            connection = await self._take(template, attempt)
        guard = attempt.guard
        assert guard is not None  # by `_take` and `_take_parked`
        try:
            plain = await guard.send(data)
            return self._parked_after(origin, connection, guard, plain) or await _parsed(
                connection, guard
            )
        except BaseException:
            connection.close()
            raise

    def start(
        self, wire: WireRequest, attempt: Attempt, loop: asyncio.AbstractEventLoop, now: float
    ) -> bool:
        """Send a request at once, on a connection that has just served another request.

        Most requests are sent this way, because it needs the least CPU time. Await
        `attempt.answer`, and then call `follow`. If the wait raises an error, or `follow` returns
        None, call `unusual_response`.

        Returns:
            Whether the request was sent. False if no such connection could be used.
        """
        parked = self._parked.at(wire.origin) if self._kept.are_usable else None
        if not parked:
            return False
        attempt.connection, guard = parked.popleft()
        if guard.start(attempt, wire.data, loop, now):
            return True
        attempt.connection.close()
        return False

    def follow(self, origin: str, attempt: Attempt) -> PlainAnswer | None:
        """Return the answer to a request of `start`, and park its connection for the next request.

        None if the answer is unusual; its connection stays in use. Call this only after the future
        `attempt.answer` is done.
        """
        plain = attempt.answer.result()
        if plain is not None:
            assert attempt.guard is not None
            self._parked.add(origin, attempt.connection, attempt.guard)
        return plain

    def _parked_after(
        self, origin: str, connection: Connection, guard: Guard, plain: PlainAnswer | None
    ) -> PlainAnswer | None:
        if plain is not None:
            self._parked.add(origin, connection, guard)
        return plain

    async def close(self, *, abort_ssl: bool = False) -> None:
        """Close all connections, including the parked ones."""
        self._parked.release()
        await super().close(abort_ssl=abort_ssl)

    def _take_parked(self, origin: str, attempt: Attempt) -> Connection | None:
        """Take a parked connection for this attempt; None if none of them can be used."""
        fresh = attempt.fresh or not self._kept.are_usable
        while (parked := self._parked.take(origin)) is not None:
            connection = parked[0]
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
        """Give a connection to an attempt.

        Raises:
            LateError: The attempt may no longer send its request; the connection is free again.
        """
        attempt.reused = guard.state.kept
        if not attempt.may_send():
            guard.unused = guard.unused or not attempt.reused
            connection.release()
            raise LateError
        assert connection.transport is not None
        guard.begin(attempt, connection.transport, asyncio.get_running_loop().time())

    def _guard_of(self, connection: Connection, *, fresh: bool) -> Guard | None:
        """Return the guard of a connection, or close an unusable connection and return None.

        Args:
            connection: A connection that aiohttp's pool or `ParkedConnections` handed out.
            fresh: Whether only a connection without earlier requests is usable.
        """
        handler = connection.protocol
        assert handler is not None
        guard = self._guards.get(id(handler))
        if guard is None:
            return self._new_guard(handler)
        trusted = self._kept.trusts(guard.state) and not handler.should_close
        if trusted and (guard.unused or not fresh):
            guard.state.kept = not fresh
            return guard
        del self._guards[id(handler)]
        connection.close()  # it may be dead, or deliver the answer to an earlier request
        return None

    async def open(self, url: URL, count: int, busy: int) -> None:
        """Open connections to the origin of `url` until there are `count`.

        It ignores errors, because a request that needs a connection gets the same error. It opens
        no connection if `connect` has not stored a template for this origin.

        Args:
            url: Any URL of the origin.
            count: The number of connections wanted.
            busy: The number of requests under way; each has a connection, or is opening one.
        """
        template = self._templates.get(origin_of(url))
        if template is not None:
            trusts = self._kept.trusts
            live = sum(
                not guard.is_closed and trusts(guard.state) for guard in self._guards.values()
            )
            opening = (self._open_one(template) for _ in range(count - max(busy, live)))
            await asyncio.gather(*opening, return_exceptions=True)

    async def _open_one(self, template: aiohttp.ClientRequest) -> None:
        while True:
            connection = await super().connect(template, [], NO_TIMEOUT)
            if self._guard_of(connection, fresh=False) is not None:
                connection.release()
                break

    def _new_guard(self, handler: ResponseHandler) -> Guard:
        for key in [k for k, guard in self._guards.items() if guard.is_closed]:
            del self._guards[key]
        guard = Guard(handler, self._kept, self._kept.opened(), self._buffer)
        self._guards[id(handler)] = guard
        assert handler.transport is not None
        handler.transport.set_protocol(guard)
        return guard
