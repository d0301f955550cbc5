"""One GET over aiohttp, with its permit, its deadline and its errors.

The rule of this file: whatever happens, the permit learns whether the request may have been
counted, before anything else is done with the answer; and no exception of anybody else leaves.
"""

import asyncio
import math
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple, TypedDict
from urllib.parse import quote

import aiohttp
from yarl import URL

from binance_oi.errors import TransportError, TransportTimeoutError, printable
from binance_oi.sending.connections import (
    NO_TIMEOUT,
    REFUSALS,
    USER_AGENT,
    Attempt,
    Borrowed,
    Connector,
    LateError,
    Response,
    SilentConnectionError,
    current_attempt,
    is_out_of_descriptors,
)
from binance_oi.sending.deadline import Deadlines
from binance_oi.sending.governor import Permit
from binance_oi.sending.kept_connections import KeptConnections

Session = aiohttp.ClientSession
ERROR_BODY = 0.5  # s to wait for the text of an answer that says what it is without it
REFUSAL_BODY = 0.2  # s, when it also says what to do: for some time nothing is sent by anyone
ERROR_TEXT = 64 * 1024  # bytes of it, decoded
TIMED_OUT = 408  # also what a server says before it drops a connection that was idle
_of_the_parent: list[Session] = []  # what was open before a fork


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes
    complete: bool
    """False when the body stopped, stalled or went on for too long."""


class IdleTimeout(Answer):
    """A 408 on a connection that had served before: it was idle for too long, and is dropped."""

    __slots__ = ()


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
        replace: Whether the caller sends a request once more when a kept connection proves dead.
            If not, none is abandoned while it is silent.
        patience: Seconds that a kept connection may be silent at the most, however slow the
            exchange is.
    """

    def __init__(
        self,
        *,
        session: Session | None,
        tls: ssl.SSLContext | None = None,
        proxy: str | None = None,
        replace: bool = True,
        patience: float = math.inf,
    ) -> None:
        self._session = session
        self._owned = session is None
        self._tls = tls
        self._connector: Connector | None = None
        self._kept = KeptConnections(replace=replace, longest=patience)
        self._borrowed = Borrowed(self._kept)
        self._deadlines = Deadlines()
        self._proxy = proxy
        self._closed = False
        self._options: _Options = {"allow_redirects": False}
        if session is not None:
            self._options["timeout"] = NO_TIMEOUT
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
        self._kept.close()
        session, self._session = self._session, None
        if session is not None and self._owned:
            await session.close()

    def abandon(self) -> bool:
        """Without a loop: give up what `aclose` would have closed; whether there was anything."""
        session, self._session = self._session, None
        self._connector = None  # aiohttp closes no connection of a loop that is closed
        if session is None or not self._owned or session.closed:
            return False
        closing = session.close()
        with suppress(StopIteration):
            closing.send(None)  # its first step closes everything, or aiohttp complains as well
        closing.close()
        return True

    async def open_connections(self, url: URL, count: int, busy: int) -> None:
        """See `Connector.open`; of a caller's session none are opened."""
        if self._connector is not None:
            await self._connector.open(url, count, busy)

    def leave_to_parent(self) -> None:
        """In a child after a fork: keep the session, for not even its end may be noticed.

        A child has the parent's sockets and also its epoll: to close a connection here would make
        the parent deaf to it.
        """
        if self._session is not None:
            _of_the_parent.append(self._session)

    def distrust_connections(self) -> None:
        """Close what may still deliver an answer to somebody else's question."""
        self._kept.distrust()

    async def get(
        self, url: URL, permit: Permit, max_bytes: int, timeout: float, *, fresh: bool = False
    ) -> Answer:
        """Send one request and read its answer.

        Args:
            url: Ready to be sent.
            permit: Is asked immediately before the request is written, and settled, refunded, or
                left as it is (may have been counted). `permit.late` says that it was refunded
                because no connection was to be had in time; the connection is kept.
                `permit.crowded` says that it was refunded because the process, or the machine, has
                no file descriptor left for a connection.
            max_bytes: Of the decoded body.
            timeout: Seconds for all of it, from now to the end of the body.
            fresh: On a new connection, after one that was kept had proved dead.

        Raises:
            TransportTimeoutError: Not done within `timeout`; or, with `retry` "now", a kept
                connection was silent for too long.
            TransportError: No usable HTTP answer; with `retry` "now" a kept connection was dead,
                or ended within its answer.
        """
        if self._closed:  # while this request was being admitted
            permit.refund()
            raise TransportError("the connections are closed", "never")
        attempt = Attempt(max_body=max_bytes, fresh=fresh, may_send=permit.may_send)
        response = None
        deadline = self._deadlines.start(timeout)
        try:
            response = await self._ask(url, attempt)
            status, content = response.status, response.content
            permit.settle(status, response.headers)
            if status == TIMED_OUT and attempt.guard is not None:
                self._kept.refuse(attempt.guard.line)
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
            permit.crowded = not attempt.sent and is_out_of_descriptors(error)
            # aiohttp's shows the URL of a proxy, with its password.
            cause = None if isinstance(error, aiohttp.ClientResponseError) else error
            raise _transport_error(error, attempt) from cause
        finally:
            deadline.done()
            if not attempt.sent:
                permit.refund()
            guard = attempt.guard
            if guard is not None and attempt.silent:
                self._kept.ended(guard.line)
                guard.reset()
            if guard is not None and not self._owned:
                guard.leave()

    async def _ask(self, url: URL, attempt: Attempt) -> Response | aiohttp.ClientResponse:
        """Status and headers of the answer; the body is on its way."""
        if self._connector is not None:
            response = await self._connector.ask(url, attempt)
            if response is not None:
                return response
        current_attempt.set(attempt)
        session = self._session or self._open()
        return await session.get(url, **self._options)

    def _open(self) -> aiohttp.ClientSession:
        self._connector = Connector(tls=self._tls, kept=self._kept)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": USER_AGENT},
            timeout=NO_TIMEOUT,
            proxy=self._proxy,
            trust_env=False,
        )
        return self._session


def ready_url(base_url: str, path: str, params: Mapping[str, str]) -> URL:
    """Ready for the wire: aiohttp would spend 15 % of a request on quoting a string."""
    query = "&".join(f"{name}={quote(value)}" for name, value in params.items())
    return URL(f"{base_url}{path}{'?' if query else ''}{query}", encoded=True)


async def _slow_answer(
    response: Response | aiohttp.ClientResponse, attempt: Attempt, body: bytes, max_bytes: int
) -> Answer:
    """An answer that is an error, or whose body did not come with its headers."""
    if attempt.guard is not None:
        attempt.guard.watch(response.content)
    if response.status != 200:
        answer = await _error_answer(response, max_bytes)
        is_dropped = attempt.reused and answer.status == TIMED_OUT
        return IdleTimeout(*answer) if is_dropped else answer
    answer = await _rest(response, body, max_bytes)
    return answer._replace(complete=False) if attempt.flooded else answer  # it looks like an end


async def _rest(response: Response | aiohttp.ClientResponse, body: bytes, max_bytes: int) -> Answer:
    """The rest of a body, to its end, or the connection is closed."""
    content = response.content
    try:
        while not content.at_eof() and len(body) <= max_bytes:
            body += await content.readany()
    finally:
        if not content.at_eof() or response.status == 101:  # it speaks something else now
            response.close()
    return Answer(response.status, body[:max_bytes], len(body) <= max_bytes)


async def _error_answer(response: Response | aiohttp.ClientResponse, max_bytes: int) -> Answer:
    """With an error the text is nice to have, and never worth a wait or another error."""
    try:
        async with asyncio.timeout(REFUSAL_BODY if response.status in REFUSALS else ERROR_BODY):
            return await _rest(response, b"", min(max_bytes, ERROR_TEXT))
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
        return Answer(response.status, b"", False)


def _bare_refusal(attempt: Attempt, permit: Permit) -> Answer | None:
    """What there is when nothing but the status of a refusal could be read: it says enough."""
    if not attempt.refusal:
        return None
    permit.settle(attempt.refusal, {})
    return Answer(attempt.refusal, b"", False)


def _transport_error(error: Exception, attempt: Attempt) -> TransportError:
    """Says whether another attempt could help."""
    retry = "later"
    if isinstance(error, LateError):
        return TransportTimeoutError(str(error))
    if attempt.flooded:
        return TransportError("the exchange sends without end", "never")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        text = f"the proxy answered {error.status}: {printable(error.message)}"
        return TransportError(text, "later" if error.status >= 500 else "never")
    if isinstance(error, SilentConnectionError):
        return TransportTimeoutError("a kept connection was silent for too long", "now")
    if attempt.dropped:
        retry = "now"
    elif isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
        retry = "never"
    return TransportError(f"no answer from the exchange: {_text(error)}", retry)


def _text(error: Exception) -> str:
    """Of a parser's error only the text: the status that it carries was sent by nobody."""
    if isinstance(error, aiohttp.ServerDisconnectedError) and not isinstance(error.message, str):
        return "the connection ended within the answer"  # of which aiohttp's error has the headers
    return printable(str(getattr(error, "message", "") or error)) or type(error).__name__
