"""One GET over aiohttp; the only module that imports the aiohttp client.

The rule of this file: one permit, one request on the wire. Whatever happens, the permit learns
whether the request may have been counted, before anything else is done with the answer; and no
exception of anybody else leaves.
"""

import asyncio
import ssl
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import version
from typing import NamedTuple
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from binance_oi.deadline import Deadlines
from binance_oi.errors import BinanceOIError, TransportError, TransportTimeoutError, printable
from binance_oi.governor import Permit

Session = aiohttp.ClientSession
USER_AGENT = f"binance-oi/{version('binance-oi')}"
ERROR_BODY = 0.5  # s to wait for the text of an answer whose status already says what it is
KEEP_ALIVE = 60.0  # s that an idle connection is kept, so that polls find it open
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
    reused: bool = False  # the connection had served before


_attempt: ContextVar[_Attempt] = ContextVar("_attempt")


class _SecondRequestError(Exception):
    """aiohttp was about to send a failed request once more, by itself."""


class _Connector(aiohttp.TCPConnector):
    """Hands out connections that hold nothing but silence, one for each permit."""

    def __init__(self, *, tls: ssl.SSLContext | None) -> None:
        # No limits here: a permit that waited for a connection would be charged too early.
        super().__init__(limit=0, limit_per_host=0, keepalive_timeout=KEEP_ALIVE, ssl=tls or True)
        self._served: WeakKeyDictionary[ResponseHandler, int] = WeakKeyDictionary()
        self._generation = 0

    def distrust(self) -> None:
        """An answer was somebody else's: use no connection again that is open now."""
        self._generation += 1

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """A connection, unless this request had one already."""
        attempt = _attempt.get()
        if attempt.sent:
            raise _SecondRequestError
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol = connection.protocol
            assert protocol is not None
            generation = self._served.get(protocol)
            if generation is None:
                self._served[protocol] = self._generation
                break
            if generation == self._generation and not protocol.should_close:
                attempt.reused = True
                break
            connection.close()  # an answer nobody asked for is waiting in it
        attempt.sent = True
        return connection


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """The same for a session that is not ours, and whose connector we cannot choose."""
    attempt = _attempt.get()
    if attempt.sent:
        raise _SecondRequestError
    attempt.sent = True
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        attempt.sent = False
        raise


class Transport:
    """Sends GET requests, each with a permit.

    Args:
        session: The caller's session, never closed by us; None opens our own with the first
            request.
        tls: Replaces the default certificate checks; None verifies as usual.
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
        self._proxy = proxy
        self._connector: _Connector | None = None
        self._deadlines = Deadlines()

    async def aclose(self) -> None:
        """End what is under way with a timeout; close our own session, the caller's stays open."""
        self._deadlines.expire_all()
        session, self._session = self._session, None
        if session is not None and self._owned:
            await session.close()

    def abandon(self) -> bool:
        """Without a loop: give up what `aclose` would have closed; whether there was anything."""
        session, self._session = self._session, None
        if session is None or not self._owned or session.closed:
            return False
        session.detach()  # or aiohttp complains as well
        return True

    def distrust_connections(self) -> None:
        """Close what may still deliver an answer to somebody else's question."""
        if self._connector is not None:
            self._connector.distrust()

    async def get(self, url: URL, permit: Permit, *, max_bytes: int, timeout: float) -> Answer:
        """Send one request and read its answer.

        Args:
            url: Ready to be sent.
            permit: Is settled, refunded, or left as it is (may have been counted).
            max_bytes: Of the decoded body.
            timeout: Seconds for all of it, from now to the end of the body.

        Raises:
            TransportTimeoutError: Not done within `timeout`.
            TransportError: No usable HTTP answer.
        """
        attempt = _Attempt()
        _attempt.set(attempt)
        try:
            with self._deadlines.after(timeout):
                return await self._exchange(url, permit, max_bytes)
        except BinanceOIError:
            raise
        except TimeoutError as error:
            raise TransportTimeoutError(f"no answer within {timeout:g} s") from error
        except Exception as error:  # aiohttp raises OSError, ValueError, zlib.error and its own
            raise _transport_error(error, attempt) from error
        finally:
            if not attempt.sent:
                permit.refund()

    async def _exchange(self, url: URL, permit: Permit, max_bytes: int) -> Answer:
        session = self._session or self._open()
        response = await session.get(
            url,
            allow_redirects=False,
            timeout=_NO_TIMEOUT,
            proxy=self._proxy,
            middlewares=() if self._owned else (_send_once,),
        )
        try:
            status = response.status
            permit.settle(status, response.headers)
            if status == 200:
                return Answer(status, *await _read(response.content, max_bytes))
            return Answer(status, *await _read_error(response.content, max_bytes))
        finally:
            if not response.content.at_eof():
                response.close()

    def _open(self) -> aiohttp.ClientSession:
        self._connector = _Connector(tls=self._tls)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": USER_AGENT, "Accept": "application/json"},
            trust_env=False,
        )
        return self._session


async def _read(content: aiohttp.StreamReader, max_bytes: int) -> tuple[bytes, bool]:
    """The body, as far as it is not longer than allowed."""
    body = await content.readany()
    while not content.at_eof() and len(body) <= max_bytes:
        body += await content.readany()
    return body[:max_bytes], len(body) <= max_bytes


async def _read_error(content: aiohttp.StreamReader, max_bytes: int) -> tuple[bytes, bool]:
    """The text of an error: nice to have, and never worth a wait or another error."""
    try:
        async with asyncio.timeout(ERROR_BODY):
            return await _read(content, max_bytes)
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
        return b"", False


def _transport_error(error: Exception, attempt: _Attempt) -> TransportError:
    """Says whether another attempt could help."""
    retry = "later"
    if isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
        retry = "never"
    elif isinstance(error, (_SecondRequestError, aiohttp.ServerDisconnectedError)):
        retry = "now" if attempt.reused else "later"
    text = printable(str(error)) or type(error).__name__
    return TransportError(f"no answer from the exchange: {text}", retry)
