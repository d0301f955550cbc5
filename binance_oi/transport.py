"""One GET over aiohttp; the only module that imports the aiohttp client.

The rule of this file: one permit, one request on the wire. Whatever happens, the permit learns
whether the request may have been counted, before anything else is done with the answer; and no
exception of anybody else leaves.

The first request to an origin goes through `ClientSession`, which is most of what a request costs.
Then the way is known: aiohttp's connector still opens and keeps the connections and its parser
reads the answers, and the bytes of the request go straight to the connection.
"""

import asyncio
import re
import ssl
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import NamedTuple, TypedDict
from urllib.parse import quote
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage
from aiohttp.tracing import Trace
from yarl import URL

from binance_oi.deadline import Deadlines
from binance_oi.errors import TransportError, TransportTimeoutError, printable
from binance_oi.governor import Permit

Session = aiohttp.ClientSession
USER_AGENT = f"binance-oi/{version('binance-oi')}"
ERROR_BODY = 0.5  # s to wait for the text of an answer that says what it is without it
REFUSAL_BODY = 0.2  # s, when it also says what to do: for some time nothing is sent by anyone
REFUSALS = (403, 418, 429, 451)
ERROR_TEXT = 64 * 1024  # bytes of it, decoded
# Bytes on the wire beside a body: headers, chunk sizes, 1xx answers. A real answer has one
# thousand; more than this would be as much work as some hundred answers.
ENVELOPE = 64 * 1024
PIECE = 16 * 1024  # bytes received at once at the most; as large as TLS makes them
HEADS = 8  # in one piece, 1xx answers and the real one; a flood of them is not worth the work
KEEP_ALIVE = 60.0  # s that an idle connection is kept, so that polls find it open
_SUCCESS, _BLANK_LINE = b"HTTP/1.1 2", b"\r\n\r\n"
_REFUSAL = re.compile(rf"HTTP/1\.[01] ({'|'.join(map(str, REFUSALS))})[ \r\n]".encode())
# Another aiohttp may want more of whoever uses its connections than we do.
_LEAN = aiohttp.__version__.startswith("3.14.")
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=None)  # one deadline for all of it


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes
    complete: bool
    """False when the body stopped, stalled or went on for too long."""


@dataclass(slots=True)
class _Attempt:
    """What the connector knows of the request it serves."""

    sent: bool = False  # a connection was handed out: from here on it may be counted
    fresh: bool = False  # the connection must not have served before
    reused: bool = False  # the connection had served before
    max_read: int = ENVELOPE  # bytes on the wire
    guard: "_Guard | None" = None  # of the connection

    @property
    def refusal(self) -> int:
        """The status of a refusal that began, also when its headers were broken; 0 for none."""
        return 0 if self.guard is None else self.guard.refusal

    @property
    def flooded(self) -> bool:
        """Whether the connection was ended because too much came."""
        return self.guard is not None and self.guard.flooded


_attempt: ContextVar[_Attempt] = ContextVar("_attempt")


class _SecondRequestError(Exception):
    """The connection ended, and aiohttp was about to send the request once more, by itself."""

    def __str__(self) -> str:
        return "the connection ended"


class _StaleConnectionError(Exception):
    """A connection holds more than silence, so nothing was sent on it."""


class _Guard(asyncio.BufferedProtocol):
    """Stands between a connection and aiohttp, and ends what brings more than one answer can have.

    aiohttp bounds the headers, and we the body, but there are bytes that never become either:
    chunk sizes and 1xx answers without end, trailers, gzip that unpacks to nothing.

    It has a buffer, for without one asyncio makes a new one of 256 KiB for each piece it receives,
    which costs 0.1 of a request.
    """

    def __init__(self, handler: ResponseHandler, generation: int) -> None:
        self._handler = handler
        self.generation = generation
        self.left = ENVELOPE  # bytes
        self.refusal = 0  # the status that began an answer, if it was one
        self._buffer = memoryview(bytearray(PIECE))
        self._tail = b""
        self._body: aiohttp.StreamReader | None = None

    @property
    def flooded(self) -> bool:
        """Whether the connection was ended for that."""
        return self.left < 0

    @property
    def gone(self) -> bool:
        """Whether the connection is closed."""
        return self._handler.transport is None

    def begin(self, max_read: int) -> None:
        """A request is sent: so many bytes may come."""
        self.left, self.refusal = max_read, 0

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
        self._handler.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._handler.connection_lost(exc)

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()


class _Connector(aiohttp.TCPConnector):
    """Hands out connections that hold nothing but silence, one for each permit."""

    def __init__(self, *, tls: ssl.SSLContext | None) -> None:
        # No limits here: a permit that waited for a connection would be charged too early.
        super().__init__(  # pyright: ignore[reportUnknownMemberType] - of an argument not used
            limit=0, limit_per_host=0, keepalive_timeout=KEEP_ALIVE, ssl=tls or True
        )
        self.ways: dict[str, aiohttp.ClientRequest] = {}
        """For each origin a request that aiohttp made: it tells the connector where to connect."""
        self._guards: dict[int, _Guard] = {}  # by id of aiohttp's handler, which it keeps
        self._generation = 0

    def distrust(self) -> None:
        """An answer was somebody else's: use no connection again that is open now."""
        self._generation += 1

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """For the session: a connection, unless this request had one already."""
        attempt = _attempt.get()
        if attempt.sent:
            raise _SecondRequestError
        if _LEAN and req.proxy is None:
            self.ways.setdefault(_origin(req.url), req)
        return await self.take(req, attempt)

    async def take(self, way: aiohttp.ClientRequest, attempt: _Attempt) -> Connection:
        """A connection for this attempt."""
        while True:
            connection = await super().connect(way, [], _NO_TIMEOUT)
            handler = connection.protocol
            assert handler is not None
            guard = self._guards.get(id(handler))
            if guard is None:
                guard = self._new_guard(handler)
                break
            trusted = guard.generation == self._generation and not handler.should_close
            if trusted and not attempt.fresh:
                attempt.reused = True
                break
            del self._guards[id(handler)]
            connection.close()  # an answer nobody asked for may be waiting in it
        guard.begin(attempt.max_read)
        attempt.guard = guard
        attempt.sent = True
        return connection

    @property
    def live(self) -> int:
        """Connections that are open."""
        return sum(not guard.gone for guard in self._guards.values())

    async def open(self, way: aiohttp.ClientRequest) -> None:
        """One connection more, for later."""
        connection = await super().connect(way, [], _NO_TIMEOUT)
        handler = connection.protocol
        assert handler is not None
        if id(handler) not in self._guards:
            self._new_guard(handler)
        connection.release()

    def _new_guard(self, handler: ResponseHandler) -> _Guard:
        for key in [k for k, guard in self._guards.items() if guard.gone]:
            del self._guards[key]
        guard = self._guards[id(handler)] = _Guard(handler, self._generation)
        assert handler.transport is not None
        handler.transport.set_protocol(guard)
        return guard


class _Response:
    """Status, headers and body, and none of aiohttp's conveniences."""

    __slots__ = ("_connection", "content", "headers", "status")

    def __init__(
        self, connection: Connection, message: RawResponseMessage, content: aiohttp.StreamReader
    ) -> None:
        self._connection = connection
        self.status, self.headers, self.content = message.code, message.headers, content
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


async def _exchange(connection: Connection, data: bytes) -> _Response:
    """Send a request, and wait for the headers of its answer."""
    try:
        handler = connection.protocol
        assert handler is not None
        assert handler.transport is not None  # `_Connector.take` came just before
        handler.set_response_params(read_until_eof=True)
        handler.transport.write(data)
        while True:
            message, content = await handler.read()
            if not 100 <= message.code < 200 or message.code == 101:
                return _Response(connection, message, content)
    except BaseException:
        connection.close()
        raise


class _Borrowed:
    """What our own connector does, for a session that is not ours: a middleware of aiohttp's.

    What is looked at is the connection, at the moment at which the request is written to it. Other
    traffic of that session is left alone.
    """

    def __init__(self) -> None:
        self._generations: WeakKeyDictionary[ResponseHandler, int] = WeakKeyDictionary()
        self._generation = 0

    def distrust(self) -> None:
        """See `_Connector.distrust`."""
        self._generation += 1

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        attempt = _attempt.get()
        if attempt.sent:
            raise _SecondRequestError
        if not _LEAN:
            return await _unwatched(request, handler, attempt)
        self._watch(request, attempt)
        while True:
            try:
                return await handler(request)
            except _StaleConnectionError:
                continue  # aiohttp has closed it

    def _watch(self, request: aiohttp.ClientRequest, attempt: _Attempt) -> None:
        send = request.send

        async def send_guarded(conn: Connection) -> aiohttp.ClientResponse:
            handler = conn.protocol
            assert handler is not None
            assert handler.transport is not None
            attempt.reused = handler in self._generations
            generation = self._generations.setdefault(handler, self._generation)
            trusted = generation == self._generation and not handler.should_close
            if not trusted or (attempt.fresh and attempt.reused):
                raise _StaleConnectionError
            attempt.guard = _Guard(handler, generation)
            attempt.guard.begin(attempt.max_read)
            handler.transport.set_protocol(attempt.guard)
            attempt.sent = True
            return await send(conn)

        request.send = send_guarded  # type: ignore[method-assign]


async def _unwatched(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType, attempt: _Attempt
) -> aiohttp.ClientResponse:
    """With an aiohttp that we do not know: one request for each permit, and no more than that."""
    attempt.sent = True
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        attempt.sent = False
        raise


_of_the_parent: list[Session] = []  # what was open before a fork


class _Options(TypedDict, total=False):
    """Of every request; in our own session most of it is the session's already."""

    allow_redirects: bool
    timeout: aiohttp.ClientTimeout
    proxy: str | None
    ssl: ssl.SSLContext
    middlewares: tuple[aiohttp.ClientMiddlewareType, ...]
    raise_for_status: bool
    auto_decompress: bool


class Transport:
    """Sends GET requests, each with a permit.

    Args:
        session: The caller's session, never closed by us; None opens our own with the first
            request.
        tls: Replaces the default certificate checks; None verifies as usual, or as the caller's
            session does.
        proxy: URL of a proxy; the environment is never asked.
    """

    def __init__(
        self,
        *,
        session: Session | None,
        tls: ssl.SSLContext | None = None,
        proxy: str | None = None,
    ) -> None:
        self._session = session
        self._owned = session is None
        self._tls = tls
        self._connector: _Connector | None = None
        self._borrowed = _Borrowed()
        self._deadlines = Deadlines()
        self._proxy = proxy
        self._closed = False
        self._options: _Options = {"allow_redirects": False}
        if session is not None:
            self._options["timeout"] = _NO_TIMEOUT
            self._options["proxy"] = proxy
            if tls is not None:  # or else the session's own
                self._options["ssl"] = tls
            self._options["middlewares"] = (self._borrowed,)
            self._options["raise_for_status"] = False  # not asked: the permit comes first
            self._options["auto_decompress"] = True

    async def aclose(self) -> None:
        """End what is under way with a timeout; close our own session, the caller's stays open."""
        self._closed = True
        self._deadlines.expire_all()
        self._deadlines.cancel()
        session, self._session = self._session, None
        if session is not None and self._owned:
            await session.close()

    def abandon(self) -> bool:
        """Without a loop: give up what `aclose` would have closed; whether there was anything."""
        session, self._session = self._session, None
        if session is None or not self._owned or session.closed:
            return False
        closing = session.close()
        with suppress(StopIteration):
            closing.send(None)  # its first step closes everything, or aiohttp complains as well
        closing.close()
        return True

    async def open_connections(self, url: URL, count: int, busy: int) -> None:
        """Until there are `count`, of which `busy` requests have or open one themselves.

        Only beside a request on its way to the same place; whatever fails, fails for the request
        that needs it.
        """
        connector = self._connector
        way = None if connector is None else connector.ways.get(_origin(url))
        if connector is not None and way is not None:
            missing = count - max(busy, connector.live)
            opening = (connector.open(way) for _ in range(missing))
            await asyncio.gather(*opening, return_exceptions=True)

    def leave_to_parent(self) -> None:
        """In a child after a fork: keep the session, for not even its end may be noticed.

        A child has the parent's sockets and also its epoll: to close a connection here would make
        the parent deaf to it.
        """
        if self._session is not None:
            _of_the_parent.append(self._session)

    def distrust_connections(self) -> None:
        """Close what may still deliver an answer to somebody else's question."""
        self._borrowed.distrust()
        if self._connector is not None:
            self._connector.distrust()

    async def get(
        self, url: URL, permit: Permit, max_bytes: int, timeout: float, *, fresh: bool = False
    ) -> Answer:
        """Send one request and read its answer.

        Args:
            url: Ready to be sent.
            permit: Is settled, refunded, or left as it is (may have been counted).
            max_bytes: Of the decoded body.
            timeout: Seconds for all of it, from now to the end of the body.
            fresh: On a new connection, after one that was kept had been dropped: when one is,
                mostly all are.

        Raises:
            TransportTimeoutError: Not done within `timeout`.
            TransportError: No usable HTTP answer.
        """
        if self._closed:  # while this request was being admitted
            permit.refund()
            raise TransportError("the connections are closed", "never")
        attempt, response = _Attempt(max_read=max_bytes + ENVELOPE, fresh=fresh), None
        deadline = self._deadlines.start(timeout)
        try:
            response = await self._ask(url, attempt)
            status, content = response.status, response.content
            permit.settle(status, response.headers)
            body = content.read_nowait() if status == 200 else b""
            if status == 200 and content.at_eof():  # nearly always: it came with the headers
                return Answer(status, body, len(body) <= max_bytes)
            return await _slow_answer(response, attempt, body, max_bytes)
        except asyncio.CancelledError as error:
            if not deadline.done():
                raise
            if response is not None and response.status != 200:  # it says so without its text
                return Answer(response.status, b"", False)
            if response is None and (refusal := _bare_refusal(attempt, permit)) is not None:
                return refusal
            raise TransportTimeoutError(f"no answer within {timeout:g} s") from error
        except Exception as error:  # aiohttp raises OSError, ValueError, zlib.error and its own
            if response is not None:
                response.close()
            elif (refusal := _bare_refusal(attempt, permit)) is not None:
                return refusal
            # aiohttp's shows the URL of a proxy, with its password.
            cause = None if isinstance(error, aiohttp.ClientResponseError) else error
            raise _transport_error(error, attempt) from cause
        finally:
            deadline.done()
            if not attempt.sent:
                permit.refund()
            if attempt.guard is not None and not self._owned:
                attempt.guard.leave()

    async def _ask(self, url: URL, attempt: _Attempt) -> _Response | aiohttp.ClientResponse:
        """Status and headers of the answer; the body is on its way."""
        connector = self._connector
        if connector is not None:
            wire = _wire(url)
            way = connector.ways.get(wire.origin)
            if way is not None:
                return await _exchange(await connector.take(way, attempt), wire.data)
        _attempt.set(attempt)
        session = self._session or self._open()
        return await session.get(url, **self._options)

    def _open(self) -> aiohttp.ClientSession:
        self._connector = _Connector(tls=self._tls)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": USER_AGENT},
            timeout=_NO_TIMEOUT,
            proxy=self._proxy,
            trust_env=False,
        )
        return self._session


def ready_url(base_url: str, path: str, symbol: str) -> URL:
    """Ready for the wire: aiohttp would spend 15 % of a request on quoting a string."""
    query = f"?symbol={quote(symbol)}" if symbol else ""
    return URL(f"{base_url}{path}{query}", encoded=True)


async def _slow_answer(
    response: _Response | aiohttp.ClientResponse, attempt: _Attempt, body: bytes, max_bytes: int
) -> Answer:
    """An answer that is an error, or whose body did not come with its headers."""
    if attempt.guard is not None:
        attempt.guard.watch(response.content)
    if response.status != 200:
        return await _error_answer(response, max_bytes)
    answer = await _rest(response, body, max_bytes)
    return answer._replace(complete=False) if attempt.flooded else answer  # it looks like an end


async def _rest(
    response: _Response | aiohttp.ClientResponse, body: bytes, max_bytes: int
) -> Answer:
    """The rest of a body, to its end, or the connection is closed."""
    content = response.content
    try:
        while not content.at_eof() and len(body) <= max_bytes:
            body += await content.readany()
    finally:
        if not content.at_eof() or response.status == 101:  # it speaks something else now
            response.close()
    return Answer(response.status, body[:max_bytes], len(body) <= max_bytes)


async def _error_answer(response: _Response | aiohttp.ClientResponse, max_bytes: int) -> Answer:
    """With an error the text is nice to have, and never worth a wait or another error."""
    try:
        async with asyncio.timeout(REFUSAL_BODY if response.status in REFUSALS else ERROR_BODY):
            return await _rest(response, b"", min(max_bytes, ERROR_TEXT))
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
        return Answer(response.status, b"", False)


def _bare_refusal(attempt: _Attempt, permit: Permit) -> Answer | None:
    """What there is when nothing but the status of a refusal could be read: it says enough."""
    if not attempt.refusal:
        return None
    permit.settle(attempt.refusal, {})
    return Answer(attempt.refusal, b"", False)


def _transport_error(error: Exception, attempt: _Attempt) -> TransportError:
    """Says whether another attempt could help."""
    retry = "later"
    if attempt.flooded:
        return TransportError("the exchange sends without end", "never")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        text = f"the proxy answered {error.status}: {printable(error.message)}"
        return TransportError(text, "later" if error.status >= 500 else "never")
    if isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
        retry = "never"
    elif isinstance(error, (_SecondRequestError, aiohttp.ServerDisconnectedError)):
        retry = "now" if attempt.reused else "later"
    # Of a parser's error only the text: the status that it carries as well was sent by nobody.
    text = printable(str(getattr(error, "message", "") or error)) or type(error).__name__
    return TransportError(f"no answer from the exchange: {text}", retry)
