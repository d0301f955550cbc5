"""One GET over aiohttp, with its permit, its deadline and its errors.

The rule of this file: before anything else is done with an answer, the permit learns whether the
exchange may have counted the request. No exception of another library leaves this file.
"""

import asyncio
import errno
import math
import os
import re
import socket
import ssl
from contextlib import suppress
from typing import NamedTuple, TypedDict

import aiohttp
from yarl import URL

from binance_oi.errors import TransportError, TransportTimeoutError, printable
from binance_oi.exchange.headers import says_longer
from binance_oi.sending.caller_session import CallerSessionMiddleware
from binance_oi.sending.connections import (
    NO_TIMEOUT,
    Connector,
    LateError,
    Response,
    is_out_of_descriptors,
    unusual_response,
)
from binance_oi.sending.deadline import Deadlines
from binance_oi.sending.governor import Permit
from binance_oi.sending.guard import (
    REFUSALS,
    Attempt,
    Guard,
    SilentConnectionError,
    current_attempt,
)
from binance_oi.sending.kept_connections import KeptConnections
from binance_oi.sending.plain_answers import PlainAnswer
from binance_oi.sending.wire import USER_AGENT, Target

Session = aiohttp.ClientSession
ERROR_TEXT_WAIT_S = 0.5  # how long to wait for the text of an error: its status says enough
REFUSAL_TEXT_WAIT_S = 0.2  # the same when the status stops all requests for some time
MAX_ERROR_TEXT = 64 * 1024  # bytes, decoded
TIMED_OUT = 408  # also sent by servers before they drop an idle connection
_NUMBERS = re.compile(r"\[Errno ([0-9]+)\]")
_of_the_parent: list[Session] = []  # sessions that were open before a fork


class Answer(NamedTuple):
    """Status and body of an answer."""

    status: int
    body: bytes
    complete: bool
    """False when the body stopped, stalled or went on for too long."""


class IdleTimeout(Answer):
    """A 408 on a connection that had served before: it was idle for too long, and is dropped."""

    __slots__ = ()


class _Options(TypedDict, total=False):
    """Options of every request. Our own session already has most of them."""

    allow_redirects: bool
    timeout: aiohttp.ClientTimeout
    proxy: str | None
    ssl: ssl.SSLContext
    middlewares: tuple[aiohttp.ClientMiddlewareType, ...]
    raise_for_status: bool
    auto_decompress: bool


class Started(NamedTuple):
    """A first attempt that `Transport.start` sent, or not."""

    permit: Permit
    began: float
    """Loop time."""
    attempt: Attempt | None = None
    """What was sent."""
    answer: Answer | None = None
    """A plain answer, which could not be used."""
    error: BaseException | None = None
    """What ended the wait for the answer, or its use."""


class Transport:
    """Sends GET requests, each with a permit.

    Args:
        session: The caller's session, never closed by us; None opens our own at the first request.
        tls: Replaces the default certificate checks; None verifies as usual, or as the caller's
            session does.
        proxy: URL of a proxy; the environment is never read.
        local_address: The IP address of this machine that our own connections come from.
        replace: Whether the caller sends a request once more when a kept connection proves dead.
            If not, no silent connection is abandoned.
        patience: The most seconds that a kept connection may be silent, however slow the exchange
            is.
    """

    def __init__(
        self,
        *,
        session: Session | None,
        tls: ssl.SSLContext | None = None,
        proxy: str | None = None,
        local_address: str | None = None,
        replace: bool = True,
        patience: float = math.inf,
    ) -> None:
        self._session = session
        self._owned = session is None
        self._tls = tls
        self._connector: Connector | None = None
        self._kept = KeptConnections(replace=replace, longest=patience)
        self._deadlines = Deadlines()
        self._proxy = proxy
        self._local_address = local_address
        self._closed = False
        self._options: _Options = {"allow_redirects": False}
        if session is not None:
            self._options["timeout"] = NO_TIMEOUT
            self._options["proxy"] = proxy
            if tls is not None:  # otherwise the session's own
                self._options["ssl"] = tls
            self._options["middlewares"] = (CallerSessionMiddleware(self._kept),)
            self._options["raise_for_status"] = False  # or it would raise before the permit settles
            self._options["auto_decompress"] = True

    async def aclose(self) -> None:
        """End running requests with a timeout; close our own session, but not the caller's."""
        self._closed = True
        self._deadlines.expire_all()
        self._deadlines.cancel()
        self._kept.close()
        session, self._session = self._session, None
        if session is not None and self._owned:
            await session.close()

    def abandon(self) -> bool:
        """Close without a loop; return whether there was anything to close."""
        session, self._session = self._session, None
        self._connector = None  # aiohttp closes no connection of a closed loop
        if session is None or not self._owned or session.closed:
            return False
        closing = session.close()
        with suppress(StopIteration):
            closing.send(None)  # the first step closes everything; without it aiohttp warns
        closing.close()
        return True

    async def open_connections(self, url: URL, count: int, busy: int) -> None:
        """See `Connector.open`. Opens none for a caller's session."""
        if self._connector is not None:
            await self._connector.open(url, count, busy)

    def leave_to_parent(self) -> None:
        """Keep the session in a child after a fork, so that it is never closed there.

        A child shares the parent's sockets and its epoll: closing a connection in the child would
        stop the parent from receiving on it.
        """
        if self._session is not None:
            _of_the_parent.append(self._session)

    def distrust_connections(self) -> None:
        """Close every connection that may still deliver the answer to another request."""
        self._kept.distrust()

    def start(
        self,
        target: Target,
        max_bytes: int,
        timeout: float,
        loop: asyncio.AbstractEventLoop,
        now: float,
    ) -> Attempt | None:
        """Send a request at once, if a connection has just served; the permit must be of now.

        Wait for `Attempt.answer`, and then call `follow`; or pass the attempt to `get`, with the
        error if there is one.

        Args:
            target: The request.
            max_bytes: Bound of the decoded body.
            timeout: Seconds from now to the end of the body.
            loop: The running loop.
            now: Its time.
        """
        connector, task = self._connector, asyncio.current_task(loop)
        if connector is None or task is None or self._closed:
            return None
        attempt = Attempt(max_bytes)
        if not self._deadlines.add(attempt, now + timeout, task, now):
            return None
        if connector.start(target.wire, attempt, loop, now):
            return attempt
        attempt.task = None
        return None

    def follow(self, target: Target, attempt: Attempt) -> PlainAnswer | None:
        """The usual answer to a started request; None for another, which `get` reads."""
        assert self._connector is not None  # it has sent the request
        plain = self._connector.follow(target.wire.origin, attempt)
        if plain is not None:
            attempt.task = None
        return plain

    async def get(
        self,
        url: URL,
        permit: Permit,
        max_bytes: int,
        timeout: float,
        *,
        fresh: bool = False,
        sent: Attempt | None = None,
        error: BaseException | None = None,
    ) -> Answer:
        """Send one request and read its answer.

        Args:
            url: A URL from `ready_url`.
            permit: Checked right before the request is written. Afterwards it is settled, refunded,
                or neither (the exchange may have counted it). `permit.late` says that it was
                refunded because no connection was available in time; the connection is kept.
                `permit.crowded` says that it was refunded because there is no file descriptor for
                a connection.
            max_bytes: Bound of the decoded body.
            timeout: Seconds from now to the end of the body.
            fresh: Use a new connection, because a kept one proved dead.
            sent: The attempt, if `start` has sent it.
            error: What ended the wait for its answer.

        Raises:
            TransportTimeoutError: Not done within `timeout`; or, with `retry` "now", a kept
                connection was silent for too long.
            TransportError: No usable HTTP answer; with `retry` "now" a kept connection was dead,
                or ended within its answer.
        """
        if self._closed and sent is None:  # closed while this request was being admitted
            permit.refund()
            raise TransportError("the connections are closed", "never")
        response: Response | aiohttp.ClientResponse | None = None
        attempt = sent or Attempt(max_bytes, permit.may_send, fresh)
        deadline = sent or self._deadlines.start(timeout, attempt)
        try:
            found = await (unusual_response(sent, error) if sent else self._ask(url, attempt))
            if isinstance(found, PlainAnswer):  # nearly always
                permit.settle(200, found.headers)
                return Answer(200, found.body, len(found.body) <= max_bytes)
            response = found
            status, content = response.status, response.content
            permit.settle(status, response.headers)
            if status == TIMED_OUT and attempt.guard is not None:
                self._kept.refuse(attempt.guard.line)
            body = content.read_nowait() if status == 200 else b""
            if status == 200 and content.at_eof():  # the body came with the headers
                return Answer(status, body, len(body) <= max_bytes)
            return await self._slow_answer(response, attempt, body, max_bytes)
        except asyncio.CancelledError as ended:
            refusal = None if response is not None else _bare_refusal(attempt, permit)
            if not deadline.done():
                raise
            if response is not None and response.status != 200:  # the status alone says enough
                return Answer(response.status, b"", False)
            if refusal is not None:
                return refusal
            raise TransportTimeoutError(f"no answer within {timeout:g} s") from ended
        except Exception as ended:  # aiohttp raises OSError, ValueError, zlib.error and its own
            return _refusal_after(ended, attempt, permit, response)
        finally:
            deadline.done()
            if not attempt.sent:
                permit.refund()
            if attempt.guard is not None:
                self._leave(attempt.guard, attempt)

    def _leave(self, guard: Guard, attempt: Attempt) -> None:
        """End what an attempt has to do with its connection."""
        if attempt.silent:
            self._kept.ended(guard.line)
            guard.reset()
        if not self._owned:
            guard.leave()

    async def _ask(
        self, url: URL, attempt: Attempt
    ) -> PlainAnswer | Response | aiohttp.ClientResponse:
        """Send the request; wait for the answer, or for status and headers of an unusual one."""
        if self._connector is not None:
            found = await self._connector.ask(url, attempt)
            if found is not None:
                return found
        current_attempt.set(attempt)
        session = self._session or self._open()
        return await session.get(url, **self._options)

    async def _slow_answer(
        self,
        response: Response | aiohttp.ClientResponse,
        attempt: Attempt,
        body: bytes,
        max_bytes: int,
    ) -> Answer:
        """Read an answer that is an error, or whose body did not come with its headers."""
        if attempt.guard is not None:
            attempt.guard.watch(response.content)
        if response.status != 200:
            answer = await self._error_answer(response, attempt, max_bytes)
            is_dropped = attempt.reused and answer.status == TIMED_OUT
            return IdleTimeout(*answer) if is_dropped else answer
        if says_longer(response.headers, max_bytes):  # it would be refused anyway
            response.close()
            return Answer(response.status, body[:max_bytes], False)
        answer = await _rest(response, body, max_bytes)
        return answer._replace(complete=False) if attempt.flooded else answer  # looks complete

    async def _error_answer(
        self, response: Response | aiohttp.ClientResponse, attempt: Attempt, max_bytes: int
    ) -> Answer:
        """Read an error's text, which is useful but never worth a long wait or another error."""
        seconds = REFUSAL_TEXT_WAIT_S if response.status in REFUSALS else ERROR_TEXT_WAIT_S
        deadline = self._deadlines.start(seconds, attempt)
        try:
            return await _rest(response, b"", min(max_bytes, MAX_ERROR_TEXT))
        except asyncio.CancelledError:
            if not deadline.done():
                raise
        except (aiohttp.ClientError, OSError, ValueError):
            pass
        finally:
            deadline.done()
        return Answer(response.status, b"", False)

    def _open(self) -> aiohttp.ClientSession:
        self._connector = Connector(tls=self._tls, kept=self._kept, local=self._local_address)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": USER_AGENT},
            timeout=NO_TIMEOUT,
            proxy=self._proxy,
            trust_env=False,
        )
        return self._session


async def _rest(response: Response | aiohttp.ClientResponse, body: bytes, max_bytes: int) -> Answer:
    """Read the rest of a body; close the connection unless the body ends."""
    content, pieces, size = response.content, [body], len(body)
    try:
        while not content.at_eof() and size <= max_bytes:
            pieces.append(await content.readany())
            size += len(pieces[-1])
    finally:
        if not content.at_eof() or response.status == 101:  # after 101 it speaks another protocol
            response.close()
    return Answer(response.status, b"".join(pieces)[:max_bytes], size <= max_bytes)


def _refusal_after(
    error: Exception,
    attempt: Attempt,
    permit: Permit,
    response: Response | aiohttp.ClientResponse | None,
) -> Answer:
    """The refusal whose status came before `error`.

    Raises:
        TransportError: None did.
    """
    if response is not None:
        response.close()
    elif (refusal := _bare_refusal(attempt, permit)) is not None:
        return refusal
    permit.crowded = not attempt.sent and is_out_of_descriptors(error)
    # aiohttp's error shows the URL of a proxy, with its password.
    cause = None if isinstance(error, aiohttp.ClientResponseError) else error
    raise _transport_error(error, attempt) from cause


def _bare_refusal(attempt: Attempt, permit: Permit) -> Answer | None:
    """The answer when only the status of a refusal could be read: it says enough."""
    if not attempt.refusal:
        return None
    permit.settle(attempt.refusal, {})
    return Answer(attempt.refusal, b"", False)


def _transport_error(error: Exception, attempt: Attempt) -> TransportError:
    """The error for the caller; its `retry` says whether another attempt can help."""
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
    """Say what went wrong, in our words.

    Of a parser's error it shows only the text: no server sent the status that it carries.
    """
    if isinstance(error, aiohttp.ServerDisconnectedError):
        if isinstance(error.message, str):
            return "the connection ended without an answer"
        return "the connection ended within the answer"  # aiohttp's text would be all the headers
    if isinstance(error, aiohttp.ClientConnectorError):
        return printable(_no_connection(error))
    return printable(str(getattr(error, "message", "") or error)) or type(error).__name__


def _no_connection(error: aiohttp.ClientConnectorError) -> str:
    """The reason why there is no connection, and the target."""
    cause = error.os_error
    is_proxy = isinstance(error, aiohttp.ClientProxyConnectionError)
    host = f"[{error.host}]" if ":" in error.host else error.host
    place = f"{'the proxy ' if is_proxy else ''}{host}:{error.port}"
    if isinstance(cause, socket.gaierror):
        return f"{place} has no address: {cause.strerror}"
    if isinstance(cause, ssl.SSLError):
        return f"no TLS connection to {place}: {cause.reason or cause}"
    numbers = [cause.errno or 0, *map(int, _NUMBERS.findall(str(cause)))]  # one for each address
    words = dict.fromkeys(os.strerror(n) for n in numbers if n in errno.errorcode)
    return f"no connection to {place}: {' and '.join(words) or cause}"
