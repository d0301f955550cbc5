"""Sends one GET over aiohttp under its permit and deadline, and converts errors.

The rule of this file: before `get` does anything else with an answer, it settles the permit,
because the exchange may have counted the request. For an answer from `follow`, the caller settles
the permit. No exception of another library leaves `get`.
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
ERROR_TEXT_WAIT_S = 0.5  # s: the longest wait for the text of an error; the status is enough
REFUSAL_TEXT_WAIT_S = 0.2  # s: the same for the statuses in `REFUSALS`
MAX_ERROR_TEXT = 64 * 1024  # bytes, uncompressed
TIMED_OUT = 408  # status; servers also send it before they close an idle connection
_NUMBERS = re.compile(r"\[Errno ([0-9]+)\]")
_sessions_of_parent: list[Session] = []  # sessions that were open before a fork


class Answer(NamedTuple):
    """Status and body of an answer."""

    status: int
    """The HTTP status."""
    body: bytes
    """The body, uncompressed."""
    complete: bool
    """False if the body was cut off, stalled, or exceeded its bound."""


class IdleTimeout(Answer):
    """A 408: the server closes a reused connection, because it was idle for too long."""

    __slots__ = ()


class _Options(TypedDict, total=False):
    """The options of every request. Our own session has most of them by default."""

    allow_redirects: bool
    timeout: aiohttp.ClientTimeout
    proxy: str | None
    ssl: ssl.SSLContext
    middlewares: tuple[aiohttp.ClientMiddlewareType, ...]
    raise_for_status: bool
    auto_decompress: bool


class Started(NamedTuple):
    """An attempt with its permit, and how far the fast path of `Sender.send` got with it."""

    permit: Permit
    began: float
    """Loop time at which the permit was issued."""
    attempt: Attempt | None = None
    """The attempt, if `Transport.start` sent it."""
    answer: Answer | None = None
    """The complete answer, if booking or decoding it then raised `error`."""
    error: BaseException | None = None
    """The error that ended the wait for the answer, or that the settlement or the decoder
    raised."""


class Transport:
    """Sends GET requests, each with a permit.

    Args:
        session: The caller's session, which we never close; None opens our own at the first
            request.
        tls: Replaces the default checks of certificates. None checks as usual, or as the caller's
            session does.
        proxy: The URL of a proxy. Our own session ignores the environment's proxies.
        local_address: The IP address of this machine that our own connections use.
        replace: Whether the caller sends a request again if a kept connection proves dead. If not,
            the transport waits on a silent connection until the timeout.
        patience: The most seconds that a kept connection may be silent, even if the exchange is
            slow. A value below `PATIENCE` means `PATIENCE`.
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
            if tls is not None:  # otherwise the session's own checks apply
                self._options["ssl"] = tls
            self._options["middlewares"] = (CallerSessionMiddleware(self._kept),)
            self._options["raise_for_status"] = False  # or it would raise before the permit settles
            self._options["auto_decompress"] = True

    async def aclose(self) -> None:
        """End running requests with a timeout error; close our own session, not the caller's."""
        self._closed = True
        self._deadlines.expire_all()
        self._deadlines.cancel()
        self._kept.close()
        session, self._session = self._session, None
        if session is not None and self._owned:
            await session.close()

    def abandon(self) -> bool:
        """Close without a loop; return whether a session of ours was open."""
        session, self._session = self._session, None
        self._connector = None  # on a closed loop, aiohttp closes no connection
        if session is None or not self._owned or session.closed:
            return False
        closing = session.close()
        with suppress(StopIteration):
            closing.send(None)  # the first step closes the connections if the loop is open
        closing.close()
        return True

    async def open_connections(self, url: URL, count: int, busy: int) -> None:
        """See `Connector.open`. Without an open session of ours, this method does nothing."""
        if self._connector is not None:
            await self._connector.open(url, count, busy)

    def leave_to_parent(self) -> None:
        """In a forked child, keep the parent's session open forever.

        A child shares the sockets and the epoll of its parent. If the child closed a connection,
        the parent would receive nothing more on it.
        """
        if self._session is not None:
            _sessions_of_parent.append(self._session)

    def distrust_connections(self) -> None:
        """Stop using all open connections: an answer to an earlier request may still arrive."""
        self._kept.distrust()

    def start(
        self,
        target: Target,
        max_bytes: int,
        timeout: float,
        loop: asyncio.AbstractEventLoop,
        now: float,
    ) -> Attempt | None:
        """Send a request at once, if a connection has just served another request.

        The caller must have got or checked its permit in this step of the loop. Afterwards, it
        awaits `Attempt.answer` and calls `follow`. If the wait raises an error, or `follow` returns
        None, it passes the attempt and the error to `get`.

        Args:
            target: The request.
            max_bytes: The largest body accepted, in bytes after decompression.
            timeout: Seconds from now to the end of the body.
            loop: The running loop.
            now: The loop's time.

        Returns:
            The attempt; None if nothing was sent.
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
        """Return the answer to a request of `start`. None if it is unusual; then call `get`."""
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
        by_deadline: bool = False,
        fresh: bool = False,
        sent: Attempt | None = None,
        error: BaseException | None = None,
    ) -> Answer:
        """Send one request and read its answer.

        Args:
            url: A URL from `ready_url`.
            permit: The permit. `get` checks it right before it writes the request. Afterwards
                the permit is settled, refunded, or neither (then the exchange may have counted the
                request). `permit.late` is set if `Permit.may_send` refunded the permit.
                `permit.crowded` is set if `get` refunded the permit because there was no file
                descriptor for a connection.
            max_bytes: The largest size of the uncompressed body.
            timeout: Seconds from now to the end of the body.
            by_deadline: Whether this time is what a deadline leaves; then the error says so.
            fresh: Whether to use a new connection.
            sent: The attempt, if `start` has sent it.
            error: The error that ended the wait for its answer, if any.

        Raises:
            TransportTimeoutError: There was no complete answer within `timeout`. Or `permit.late`
                is set. Or, if `retry` is "now", a kept connection was silent for too long.
            TransportError: There was no usable HTTP answer. If `retry` is "now", a kept connection
                was dead, or ended during its answer.
        """
        if self._closed and sent is None:  # closed while this request waited in the queue
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
                self._kept.refuse(attempt.guard.state)
            body = content.read_nowait() if status == 200 else b""
            if status == 200 and content.at_eof():  # the body came with the headers
                return Answer(status, body, len(body) <= max_bytes)
            return await self._slow_answer(response, attempt, body, max_bytes)
        except asyncio.CancelledError as ended:
            refusal = None if response is not None else _bare_refusal(attempt, permit)
            if not deadline.done():
                raise
            if response is not None and response.status != 200:  # the status alone is enough
                return Answer(response.status, b"", False)
            if refusal is not None:
                return refusal
            limit = "before the deadline" if by_deadline else f"within {timeout:g} s"
            raise TransportTimeoutError(f"no answer {limit}") from ended
        except Exception as ended:  # aiohttp raises OSError, ValueError, zlib.error and its own
            return _refusal_after(ended, attempt, permit, response)
        finally:
            deadline.done()
            if not attempt.sent:
                permit.refund()
            if attempt.guard is not None:
                self._end_use(attempt.guard, attempt)

    def _end_use(self, guard: Guard, attempt: Attempt) -> None:
        """End the use of a connection by an attempt; reset the connection if no byte came."""
        if attempt.silent:
            self._kept.ended(guard.state)
            guard.reset()
        if not self._owned:
            guard.detach()

    async def _ask(
        self, url: URL, attempt: Attempt
    ) -> PlainAnswer | Response | aiohttp.ClientResponse:
        """Send the request. Return the whole usual answer, or the beginning of any other answer."""
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
        """Read the rest of an answer that is an error, or whose body comes after its headers."""
        if attempt.guard is not None:
            attempt.guard.watch(response.content)
        if response.status != 200:
            answer = await self._error_answer(response, attempt, max_bytes)
            is_dropped = attempt.reused and answer.status == TIMED_OUT
            return IdleTimeout(*answer) if is_dropped else answer
        if says_longer(response.headers, max_bytes):  # the body would exceed its bound
            response.close()
            return Answer(response.status, body[:max_bytes], False)
        answer = await _rest(response, body, max_bytes)
        # If the guard has ended the connection, aiohttp takes the body for complete.
        return answer._replace(complete=False) if attempt.has_overflowed else answer

    async def _error_answer(
        self, response: Response | aiohttp.ClientResponse, attempt: Attempt, max_bytes: int
    ) -> Answer:
        """Read the text of an error; the text is empty if it does not come within a short time."""
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
    """Read the rest of a body; close the connection if the body does not end."""
    content, pieces, size = response.content, [body], len(body)
    try:
        while not content.at_eof() and size <= max_bytes:
            pieces.append(await content.readany())
            size += len(pieces[-1])
    finally:
        if not content.at_eof() or response.status == 101:  # 101: another protocol follows
            response.close()
    return Answer(response.status, b"".join(pieces)[:max_bytes], size <= max_bytes)


def _refusal_after(
    error: Exception,
    attempt: Attempt,
    permit: Permit,
    response: Response | aiohttp.ClientResponse | None,
) -> Answer:
    """Return the refusal whose status came before `error`.

    Raises:
        TransportError: No such status came.
    """
    if response is not None:
        response.close()
    elif (refusal := _bare_refusal(attempt, permit)) is not None:
        return refusal
    permit.crowded = not attempt.sent and is_out_of_descriptors(error)
    # This error of aiohttp may show the URL of a proxy with its password.
    cause = None if isinstance(error, aiohttp.ClientResponseError) else error
    raise _transport_error(error, attempt) from cause


def _bare_refusal(attempt: Attempt, permit: Permit) -> Answer | None:
    """Return the refusal if its status came, even if nothing else did; otherwise None."""
    if not attempt.refusal:
        return None
    permit.settle(attempt.refusal, {})
    return Answer(attempt.refusal, b"", False)


def _transport_error(error: Exception, attempt: Attempt) -> TransportError:
    """Return the error for the caller; its `retry` shows when another attempt may help."""
    retry = "later"
    if isinstance(error, LateError):
        return TransportTimeoutError(str(error))
    if attempt.has_overflowed:
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
    """Describe an error in our own words.

    A parser's error has a status that no server has sent, so the text omits it.
    """
    if isinstance(error, aiohttp.ServerDisconnectedError):
        if isinstance(error.message, str):
            return "the connection ended without an answer"
        return "the connection ended within the answer"  # aiohttp's text would be all the headers
    if isinstance(error, aiohttp.ClientConnectorError):
        return printable(_no_connection(error))
    return printable(str(getattr(error, "message", "") or error)) or type(error).__name__


def _no_connection(error: aiohttp.ClientConnectorError) -> str:
    """Return why a connection could not be opened, with its target."""
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
