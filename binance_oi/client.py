"""The client, and the send loop that every call goes through.

The rule of this file: one way to the exchange. Queue, pacer, bucket, send, settle before anything
else, classify by status, decode, check the symbol: in this order, for every request there is.
"""

import asyncio
import math
import os
import ssl as tls
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import quote

from yarl import URL

from binance_oi import endpoints, models
from binance_oi.budget import Budget, MachineBudget
from binance_oi.errors import (
    BinanceOIError,
    BudgetExhaustedError,
    ClientClosedError,
    DecodeError,
    RateLimitedError,
    SymbolNotTradingError,
    UnknownSymbolError,
    WrongSymbolError,
)
from binance_oi.governor import Governor, Permit
from binance_oi.minutes import Usage
from binance_oi.models import ExchangeInfo, OpenInterest
from binance_oi.retry import Retries, RetryPolicy
from binance_oi.shared_calls import SharedCalls
from binance_oi.snapshot import Snapshot
from binance_oi.transport import Answer, Session, Transport

T = TypeVar("T")

MAX_ANSWER = 64 * 1024  # bytes, decoded; a real one has about 70
MAX_LISTING = 16 * 1024 * 1024  # bytes, decoded; a real exchangeInfo has about 1 MB
LISTING_AGE = 300.0  # s for which `snapshot` takes the list of symbols it has; about one is new a day
DEFAULT: Final = -1.0  # of `max_wait`: what the client was made with


@dataclass(slots=True)
class _Terms:
    """What one or many calls may take, and what they took."""

    timeout: float
    max_wait: float | None
    bulk: bool = False
    ends: float = math.inf  # loop time at which all of it must be done
    charged: int = 0  # weight


class OpenInterestClient:
    """Reads open interest of Binance USDⓈ-M Futures, and never trips the limit.

    Any number of calls may be awaited at once: they are sent as fast as the budget, the pace and
    the connections allow. Use it as ``async with OpenInterestClient() as client``, or call
    `aclose` in the end. A client belongs to the event loop that first used it.

    Args:
        base_url: The exchange. Each one has a budget of its own.
        budget: Who shares the limit with this client; None means `MachineBudget()`: every process
            of this user on this machine.
        session: An `aiohttp.ClientSession` to send with; never closed by us. None opens our own.
        max_connections: Requests under way at the same time.
        pace: Requests per second; a second's worth may go at once.
        timeout: Seconds for one call, from its admission, over all its attempts. Time spent
            waiting for budget does not count.
        max_wait: Seconds that a call may wait for budget; None waits as long as it takes.
        retry: Which failed requests are sent again.
        proxy: URL of an HTTP proxy. The environment is never asked.
        ssl: Replaces the default certificate checks.

    Raises:
        ValueError: A number is out of range, or `base_url` is not ``https://host`` (``http://``
            is for this machine only) or holds credentials.
    """

    def __init__(
        self,
        *,
        base_url: str = endpoints.PRODUCTION,
        budget: Budget | None = None,
        session: Session | None = None,
        max_connections: int = 100,
        pace: float = 1000.0,
        timeout: float = 10.0,
        max_wait: float | None = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        proxy: str | None = None,
        ssl: tls.SSLContext | None = None,
    ) -> None:
        self._base_url = endpoints.check_base_url(base_url)
        self._owns_budget = budget is None
        self._budget = MachineBudget() if budget is None else budget
        pool = self._budget.pool(endpoints.pool_key(self._base_url, proxy))
        self._governor = Governor(pool, pace=pace, max_in_flight=max_connections)
        self._transport = Transport(session=session, tls=ssl, proxy=proxy)
        self._timeout = _positive("timeout", timeout)
        self._max_wait = max_wait
        self._policy, self._retries = retry, Retries(retry)
        self._url = lru_cache(maxsize=4096)(partial(_open_interest_url, self._base_url))
        self._shared: SharedCalls[OpenInterest] = SharedCalls()
        self._latest: dict[str, tuple[float, OpenInterest]] = {}
        self._listing: tuple[float, ExchangeInfo] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._closing = asyncio.Event()

    def __repr__(self) -> str:
        state = "closed" if self._closing.is_set() else repr(self._governor)
        return f"<OpenInterestClient {self._base_url} {state}>"

    async def __aenter__(self) -> Self:
        self._check_usable()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; pending calls end with `ClientClosedError`. May be repeated."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._governor.close(ClientClosedError())
        await self._transport.aclose()
        if self._owns_budget:
            self._budget.close()

    def __del__(self) -> None:
        if hasattr(self, "_closing") and not self._closing.is_set() and self._transport.abandon():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=1)

    @property
    def usage(self) -> Usage:
        """The budget at this moment, for the whole IP address. Sends nothing."""
        return self._governor.pool.usage

    async def get_open_interest(
        self, symbol: str, *, max_age: float = 0.0, max_wait: float | None = DEFAULT
    ) -> OpenInterest:
        """Open interest of one symbol.

        Args:
            symbol: For example ``BTCUSDT``; ASCII letters may be lower case.
            max_age: Seconds that the value may have been known to this client. Above 0, calls for
                one symbol at the same time share one request. 0 always asks the exchange.
            max_wait: Seconds to wait for budget at the most; None waits as long as it takes. The
                default is the client's.

        Returns:
            The exact value, with the exchange's transaction time, which is some seconds old and
            does not advance on every call: two values with the same time are one observation.

        Raises:
            InvalidSymbolError: `symbol` cannot be a symbol; nothing was sent.
            UnknownSymbolError: The exchange never listed it.
            SymbolNotTradingError: It is listed, and not trading now.
            BudgetExhaustedError: No room within `max_wait`.
            RateLimitedError: Refused again and again (429).
            BannedError: This IP address is banned; raised at once until the ban ends.
            ForbiddenError: The firewall or the region forbids it.
            ServerError: The exchange failed, also when asked again.
            ResponseError: Any other refusal.
            DecodeError: The answer is not what the exchange documents.
            TransportError: No usable answer (`TransportTimeoutError`: none within `timeout`).
            ClientClosedError: The client was closed, or belongs to another loop or process.

        Cost: weight 1 for each attempt.

        Source: ``GET /fapi/v1/openInterest`` [D], 2026-11.
        """
        name = models.check_symbol(symbol)
        wait = self._max_wait if max_wait == DEFAULT else max_wait
        if max_age <= 0.0:
            return await self._read(name, _Terms(self._timeout, wait))
        self._check_usable()
        known = self._latest.get(name)
        if known is not None and self._now() - known[0] <= max_age:
            return known[1]
        start = partial(self._read, name, _Terms(self._timeout, wait))
        return await self._shared.join((name, wait), start)

    async def exchange_info(self, *, max_age: float = 0.0) -> ExchangeInfo:
        """Everything listed, and the limits. The budget takes its limit from it.

        Args:
            max_age: Seconds that the list may have been known to this client.

        Raises:
            BinanceOIError: See `get_open_interest`.

        Cost: weight 1, about 1 MB.

        Source: ``GET /fapi/v1/exchangeInfo`` [D], 2026-11.
        """
        return await self._list(max_age, _Terms(self._timeout, self._max_wait))

    async def symbols(self, *, max_age: float = 0.0) -> tuple[str, ...]:
        """Names of all symbols that are trading, in the exchange's order.

        See `exchange_info` for arguments, errors and cost.
        """
        return (await self.exchange_info(max_age=max_age)).trading

    async def snapshot(
        self,
        symbols: Iterable[str] | None = None,
        *,
        deadline: float | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Snapshot:
        """Open interest of many symbols, as close together as the budget allows.

        One symbol's failure is an entry in `Snapshot.errors` and stops nothing.

        Args:
            symbols: None reads every symbol that is trading.
            deadline: Seconds for all of it; what was not read by then has a
                `BudgetExhaustedError` or a `TransportTimeoutError`.
            on_progress: Called with the number of symbols done, and of all.

        Raises:
            InvalidSymbolError: One of `symbols` cannot be a symbol; nothing was sent.
            BinanceOIError: The list of symbols could not be read.
            ClientClosedError: The client was closed meanwhile.

        Cost: weight 1 for each symbol, and 1 for the list when it is older than 5 minutes.
        """
        names = None if symbols is None else list(dict.fromkeys(map(models.check_symbol, symbols)))
        started = datetime.now(UTC)
        terms = _Terms(self._timeout, self._max_wait, bulk=True)
        if deadline is not None:
            terms.ends = asyncio.get_running_loop().time() + deadline
        if names is None:
            names = list((await self._list(LISTING_AGE, terms)).trading)
        results: dict[str, OpenInterest | BinanceOIError] = {}
        queue = iter(names)

        async def worker() -> None:
            for name in queue:
                results[name] = await self._read_or_error(name, terms)
                if on_progress is not None:
                    on_progress(len(results), len(names))

        await asyncio.gather(*(worker() for _ in range(self._governor.max_in_flight)))
        return _snapshot(names, results, started, terms.charged)

    # -- the send loop -----------------------------------------------------------------------

    async def _read_or_error(self, symbol: str, terms: _Terms) -> OpenInterest | BinanceOIError:
        try:
            return await self._read(symbol, terms)
        except ClientClosedError:
            raise
        except BinanceOIError as error:
            if isinstance(error, UnknownSymbolError | SymbolNotTradingError):
                self._listing = None  # it does not tell the truth any more
            return error

    async def _read(self, symbol: str, terms: _Terms) -> OpenInterest:
        decode = partial(models.decode_open_interest, symbol=symbol)
        value = await self._call(
            self._url(symbol), endpoints.OPEN_INTEREST.weight, MAX_ANSWER, decode, terms
        )
        self._latest[symbol] = (self._now(), value)
        return value

    async def _list(self, max_age: float, terms: _Terms) -> ExchangeInfo:
        self._check_usable()
        if self._listing is not None and self._now() - self._listing[0] <= max_age:
            return self._listing[1]
        url = URL(self._base_url + endpoints.EXCHANGE_INFO.path)
        weight = endpoints.EXCHANGE_INFO.weight
        info = await self._call(url, weight, MAX_LISTING, models.decode_exchange_info, terms)
        self._listing = (self._now(), info)
        if info.weight_limit is not None:
            self._governor.pool.set_limit(info.weight_limit)
        return info

    async def _call(
        self, url: URL, weight: int, max_bytes: int, decode: Callable[[bytes], T], terms: _Terms
    ) -> T:
        """Send until there is an answer, no attempt is left, or the time is over.

        Time runs while a request is under way and between two attempts, not in the queue.
        """
        self._check_usable()
        left, attempt, refused = terms.timeout, 0, None
        while True:
            permit = await self._admit(weight, terms, refused)
            attempt += 1
            began = self._now()
            left = min(left, terms.ends - began)
            try:
                answer = await self._transport.get(
                    url, permit, max_bytes=max_bytes, timeout=left
                )
                value = self._value(answer, decode)
            except BinanceOIError as error:
                left -= self._now() - began
                wait = self._wait_after(error, attempt)
                if wait is None or wait >= left:
                    raise
                refused = error if isinstance(error, RateLimitedError) else None
            else:
                self._retries.succeeded()
                return value
            finally:
                permit.release()
            left -= wait
            await self._pause(wait)

    async def _admit(
        self, weight: int, terms: _Terms, refused: RateLimitedError | None
    ) -> Permit:
        """Stand in the queue. Whoever came back with a 429 and cannot wait gets that 429."""
        max_wait = terms.max_wait
        if terms.ends < math.inf:
            left = terms.ends - self._now()
            if left <= 0.0:
                raise BudgetExhaustedError("the deadline is over", None)
            max_wait = left if max_wait is None else min(left, max_wait)
        try:
            permit = await self._governor.admit(weight, bulk=terms.bulk, max_wait=max_wait)
        except BudgetExhaustedError:
            if refused is not None:
                raise refused from None
            raise
        terms.charged += weight
        return permit

    def _wait_after(self, error: BinanceOIError, attempt: int) -> float | None:
        """Seconds until the next attempt; None when there is none."""
        if self._closing.is_set():
            raise ClientClosedError from error
        if isinstance(error, RateLimitedError):  # the queue waits until the hold ends
            return 0.0 if attempt < self._policy.attempts else None
        return self._retries.wait(error, attempt)

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not on when the client is closed."""
        if seconds > 0.0:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._closing.wait()
            self._check_usable()

    def _value(self, answer: Answer, decode: Callable[[bytes], T]) -> T:
        """What the answer says, or the error that it is."""
        if answer.status != 200:
            raise self._refusal(answer)
        if not answer.complete:
            raise DecodeError(f"the answer is longer than {len(answer.body)} bytes")
        try:
            return decode(answer.body)
        except WrongSymbolError:
            self._transport.distrust_connections()
            raise

    def _refusal(self, answer: Answer) -> BinanceOIError:
        """The error for any status but 200; also learns what its text tells about limits."""
        if 200 <= answer.status < 300:
            return DecodeError(f"status {answer.status} is not an answer to this request")
        text = answer.body.decode("utf-8", "replace")
        ban_end, limit = models.ban_end_ms(text), models.stated_limit(text)
        if ban_end is not None and answer.status in (403, 418, 429):
            self._governor.banned_until(ban_end / 1000)
        if limit is not None and answer.status == 429 and limit < self.usage.limit:
            self._governor.pool.set_limit(limit)
        usage = self.usage
        return models.decode_error(
            answer.status, answer.body, usage.banned_until or usage.held_until
        )

    def _now(self) -> float:
        assert self._loop is not None
        return self._loop.time()

    def _check_usable(self) -> None:
        """Before any I/O: this client is open, and ours to use here."""
        if self._closing.is_set():
            raise ClientClosedError
        if self._pid != os.getpid():
            raise ClientClosedError("the client belongs to another process; make one after the fork")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ClientClosedError("the client belongs to another event loop")


def _open_interest_url(base_url: str, symbol: str) -> URL:
    """Ready for the wire: aiohttp would spend 15 % of a request on quoting a string."""
    path = endpoints.OPEN_INTEREST.path
    return URL(f"{base_url}{path}?symbol={quote(symbol)}", encoded=True)


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise ValueError(f"{name} must be above 0: {value!r}")
    return value


def _snapshot(
    names: Sequence[str],
    results: Mapping[str, OpenInterest | BinanceOIError],
    started: datetime,
    weight: int,
) -> Snapshot:
    """In the order asked for."""
    values = {n: r for n in names if isinstance(r := results[n], OpenInterest)}
    errors = {n: r for n in names if isinstance(r := results[n], BinanceOIError)}
    return Snapshot(
        values_by_symbol=values,
        errors=errors,
        started=started,
        finished=datetime.now(UTC),
        weight=weight,
    )
