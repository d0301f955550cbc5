"""Downloads files from a public server: few at a time, evenly spaced, and each of bounded size.

The rule of this file: such a server announces no limit, so we keep a modest one of our own. The
requests have no weight, so we never touch a budget. After a temporary error, we wait and try again,
up to three times; after a dead kept connection, we try again at once. Any other error reaches the
caller at once.
"""

import asyncio
import ssl as tls
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

from binance_oi.errors import (
    BinanceOIError,
    ClientClosedError,
    DecodeError,
    RateLimitedError,
    ServerError,
    TransportError,
)
from binance_oi.exchange import headers as read
from binance_oi.exchange.refusals import Kind, Refusal
from binance_oi.sending.governor import Permit
from binance_oi.sending.transport import Answer, Transport
from binance_oi.sending.wire import ready_url

NOT_FOUND = 404
PAUSES = (1.0, 5.0, 25.0)  # s before each new attempt after a temporary error; then give up
LONGEST_PAUSE = 120.0  # s: if a 429 asks us to wait longer, we wait only this long


class FreePermit(Permit):
    """The right to send a request without weight."""

    __slots__ = ()

    def __init__(self) -> None:
        self.refunded: bool = False
        self.late: bool = False
        self.crowded: bool = False
        self.refusal: Refusal | None = None

    def may_send(self) -> bool:
        """See `Permit.may_send`."""
        return True

    def settle(self, status: int, headers: Mapping[str, str]) -> None:
        """See `Permit.settle`."""
        if status != 200:
            self.refusal = Refusal.of(status, headers, read.date(headers))

    def refund(self) -> None:
        """See `Permit.refund`."""
        self.refunded = True


class Files:
    """Downloads files below one URL.

    Args:
        base_url: The server's URL, as `check_base_url` returns it.
        connections: The most requests on the wire at the same time.
        pace: The most requests per second, evenly spaced.
        timeout: The most seconds for one attempt at a file.
        proxy: URL of a proxy. None means no proxy, even if the environment names one.
        ssl: Replaces the default certificate checks.
    """

    def __init__(
        self,
        base_url: str,
        *,
        connections: int,
        pace: float,
        timeout: float,
        proxy: str | None = None,
        ssl: tls.SSLContext | None = None,
    ) -> None:
        self._base_url, self._timeout, self._every = base_url, timeout, 1.0 / pace
        self._free = asyncio.Semaphore(connections)
        self._next = 0.0  # loop time before which the next request must not be sent
        self._transport = Transport(session=None, tls=ssl, proxy=proxy)
        self._is_closed = False
        self.requests: int = 0
        """The number of requests so far, including repeated ones."""

    async def aclose(self) -> None:
        """Close the connections; running requests end with an error."""
        self._is_closed = True
        await self._transport.aclose()

    async def get(self, path: str, max_bytes: int) -> bytes | None:
        """Download a file; None if the server does not have it (status 404).

        Args:
            path: The path below `base_url`.
            max_bytes: The longest content accepted, in bytes.

        Raises:
            DecodeError: The file is longer than `max_bytes`, or has no end.
            ResponseError: The server refused the request.
            TransportError: No usable answer came.
            ClientClosedError: `aclose` was called meanwhile.
        """
        pauses = iter(PAUSES)
        fresh = False
        while True:
            try:
                return await self._get_once(path, max_bytes, fresh=fresh)
            except (RateLimitedError, ServerError, TransportError) as error:
                seconds = self._wait_after(error, pauses, fresh=fresh)
                if seconds is None:
                    raise
            fresh = True
            await asyncio.sleep(seconds)

    def _wait_after(
        self, error: BinanceOIError, pauses: Iterator[float], *, fresh: bool
    ) -> float | None:
        """Return the seconds until the next attempt; None if there is no further attempt.

        Args:
            error: The error of the last attempt.
            pauses: The pauses that are left for this download.
            fresh: Whether the last attempt demanded a new connection.

        Raises:
            ClientClosedError: `aclose` was called meanwhile.
        """
        if self._is_closed:
            raise ClientClosedError from error
        retry = error.retry if isinstance(error, TransportError) else "later"
        if retry == "now" and not fresh:  # a kept connection was dead; the server may be fine
            return 0.0
        seconds = None if retry == "never" else next(pauses, None)
        return None if seconds is None else max(seconds, _asked_for(error))

    async def _get_once(self, path: str, max_bytes: int, *, fresh: bool) -> bytes | None:
        url, permit = ready_url(self._base_url, path, {}), FreePermit()
        async with self._free:
            await self._take_turn()
            self.requests += 1
            answer = await self._transport.get(url, permit, max_bytes, self._timeout, fresh=fresh)
        if answer.status == NOT_FOUND:
            return None
        if permit.refusal is not None:
            raise _refused(permit.refusal.with_text(answer.body))
        return _content(answer, max_bytes)

    async def _take_turn(self) -> None:
        """Wait until `1 / pace` seconds after the previous request."""
        now = asyncio.get_running_loop().time()
        at = max(now, self._next)
        self._next = at + self._every
        if at > now:
            await asyncio.sleep(at - now)


def _refused(refusal: Refusal) -> BinanceOIError:
    """The error for a refusal.

    A `BannedError` would mean a ban by the exchange. So a ban by a file server becomes a
    `ServerError`, as if the server were unavailable.
    """
    if refusal.kind is Kind.BANNED:
        return ServerError(refusal.status, refusal.code, refusal.message)
    if refusal.kind is Kind.LIMITED:
        seconds = min(refusal.cooldown, LONGEST_PAUSE)
        return refusal.error(datetime.now(UTC) + timedelta(seconds=seconds))
    return refusal.error()


def _asked_for(error: BinanceOIError) -> float:
    """Seconds for which a 429 asked us to wait; 0 for other errors."""
    if not isinstance(error, RateLimitedError):
        return 0.0
    return (error.retry_at - datetime.now(UTC)).total_seconds()


def _content(answer: Answer, max_bytes: int) -> bytes:
    if not answer.complete:
        raise DecodeError(f"the file is longer than {max_bytes:,} bytes, or has no end")
    if answer.status != 200:
        raise DecodeError(f"status {answer.status} came instead of a file")
    return answer.body
