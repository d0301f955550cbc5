"""The client, and the send loop that every call goes through.

The rule of this file: one way to the exchange. Queue, pacer, bucket, send, settle before anything
else, classify by status, decode, check the symbol: in this order, for every request there is.
"""

import asyncio
import logging
import math
import ssl as tls
import time
import warnings
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from types import TracebackType
from typing import Final, Generic, NamedTuple, Self, TypeVar

from binance_oi import fork
from binance_oi.arguments import check_count, check_number
from binance_oi.budget import Budget, MachineBudget
from binance_oi.budget.usage import Usage
from binance_oi.errors import (
    BinanceOIError,
    BudgetExhaustedError,
    ClientClosedError,
    DecodeError,
    RateLimitedError,
    Reason,
    SymbolNotTradingError,
    TransportError,
    UnknownSymbolError,
    WrongSymbolError,
)
from binance_oi.exchange import decoding, hosts, routes
from binance_oi.exchange.models import ExchangeInfo, MarkPrice, OpenInterest
from binance_oi.exchange.refusals import Kind, Refusal, RefusedError
from binance_oi.exchange.symbols import check_symbol, check_symbols
from binance_oi.market import polling, schedule
from binance_oi.market.snapshot import Snapshot
from binance_oi.sending.governor import Governor, Permit
from binance_oi.sending.retry import Retries, RetryPolicy
from binance_oi.sending.shared_calls import SharedCalls
from binance_oi.sending.transport import Answer, IdleTimeout, Session, Transport, ready_url

T = TypeVar("T")

logger = logging.getLogger("binance_oi")

PATIENCE_PART = 1 / 3  # of `timeout` for a silent kept connection: the second request has the rest
MAX_ANSWER = 64 * 1024  # bytes, decoded; a real one has about 70
MAX_LISTING = 16 * 1024 * 1024  # bytes, decoded; a real exchangeInfo has about 1 MB
# Defaults are recognised by identity, so that no number of a caller means one of them.
DEFAULT: Final = float("-1.0")  # of `max_wait`: what the client was made with
FRESH: Final = float("0.0")  # of `max_age`: always ask the exchange
_ANOTHER_LOOP = "the client belongs to another event loop"
_ANOTHER_PROCESS = "the client belongs to another process; make one after the fork"


class _Route(NamedTuple, Generic[T]):
    """What is asked, and how to read the answer."""

    path: str
    weight: int
    max_bytes: int
    decode: Callable[..., T]  # of the body, and of the symbol when one was asked for


_OPEN_INTEREST = _Route(*routes.OPEN_INTEREST, MAX_ANSWER, decoding.decode_open_interest)
_EXCHANGE_INFO = _Route(*routes.EXCHANGE_INFO, MAX_LISTING, decoding.decode_exchange_info)
_MARK_PRICES = _Route(*routes.PREMIUM_INDEX, MAX_LISTING, decoding.decode_mark_prices)


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
        session: An `aiohttp.ClientSession` to send with, with its headers, cookies, certificates
            and limits; never closed by us. None opens our own. A dead kept connection is replaced
            in either, in the caller's with aiohttp 3.14 only; that closes its other idle ones to
            the same host.
        max_connections: Requests under way at the same time.
        pace: Requests per second; a second's worth may go at once.
        timeout: Seconds for one call, from its admission, over all its attempts. Time spent
            waiting for budget does not count. A kept connection may be silent for 2 of them, then
            the request is sent once more on a new one, and charged again.
        max_wait: Seconds that a call may wait for budget; None waits as long as it takes.
        retry: Which failed requests are sent again.
        proxy: URL of an HTTP proxy. The environment is never asked.
        ssl: Replaces the default certificate checks.

    Raises:
        TypeError: An argument has another type. Of numbers, `Decimal`, `str`, `timedelta` and
            `bool` are not accepted.
        ValueError: A number is out of range or not finite, or `base_url` is not ``https://host``
            (``http://`` is for this machine only) or holds credentials.
    """

    def __init__(
        self,
        *,
        base_url: str = hosts.PRODUCTION,
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
        if budget is not None and not callable(getattr(budget, "pool", None)):
            raise TypeError(f"budget must be a Budget or None, not {type(budget).__name__}")
        _check_type("session", session, Session, None)
        _check_type("retry", retry, RetryPolicy)
        _check_type("proxy", proxy, str, None)
        _check_type("ssl", ssl, tls.SSLContext, None)
        self._base_url = hosts.check_base_url(base_url)
        self._timeout = check_number("timeout", timeout, above=0.0)
        self._max_wait = _check_max_wait(max_wait)
        max_connections = check_count("max_connections", max_connections)
        pace = check_number("pace", pace, above=0.0)
        self._owns_budget = budget is None
        self._budget = MachineBudget() if budget is None else budget
        pool = self._budget.pool(hosts.pool_key(self._base_url, proxy))
        self._governor = Governor(pool, pace=pace, max_in_flight=max_connections)
        self._transport = Transport(
            session=session,
            tls=ssl,
            proxy=proxy,
            replace=retry.attempts > 1,
            patience=PATIENCE_PART * self._timeout,
        )
        self._terms = _Terms(self._timeout, self._max_wait)  # of most calls
        self._policy, self._retries = retry, Retries(retry)
        self._url = lru_cache(maxsize=4096)(partial(ready_url, self._base_url))
        self._shared: SharedCalls[OpenInterest] = SharedCalls()
        self._latest: dict[str, tuple[float, OpenInterest]] = {}
        self._listing: tuple[float, ExchangeInfo] | None = None
        self._ignored_limits: tuple[str, ...] = ()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = fork.current
        self._closed = False
        self._closing = asyncio.Event()  # the same, for those who sleep

    def __repr__(self) -> str:
        state = "closed" if self._closed else repr(self._governor)
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
        """Close the connections; pending calls end with `ClientClosedError`. May be repeated.

        Raises:
            ClientClosedError: The client belongs to another event loop, and that one is running.
        """
        if self._closed:
            return
        here = self._process is fork.current
        at_home = here and self._loop in (None, asyncio.get_running_loop())
        if here and not at_home and self._loop is not None and self._loop.is_running():
            raise ClientClosedError(_ANOTHER_LOOP)
        self._closed = True
        try:
            if self._loop is not None and self._loop.is_closed():  # it wakes nobody any more
                self._governor.abandon()
            else:
                self._closing.set()
                self._governor.close(ClientClosedError())
            if at_home:
                await self._transport.aclose()
            else:
                self._give_up()
        finally:
            if self._owns_budget:
                self._budget.close()

    def _give_up(self) -> bool:
        """Without our loop: whether there was anything to close."""
        if self._process is fork.current:
            return self._transport.abandon()
        self._transport.leave_to_parent()
        return False

    def __del__(self) -> None:
        if hasattr(self, "_closing") and not self._closed and self._give_up():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=1)

    @property
    def usage(self) -> Usage:
        """The budget at this moment, for the whole IP address, and what our calls wait for.

        Sends nothing, changes nothing, and may be read from any thread.
        """
        return replace(self._governor.pool.usage, waiting_for=self._governor.waiting_for)

    @property
    def source(self) -> str:
        """Which exchange it reads: ``production``, ``testnet``, ``local`` or another base URL."""
        return hosts.source_name(self._base_url)

    async def get_open_interest(
        self, symbol: str, *, max_age: float = FRESH, max_wait: float | None = DEFAULT
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
            TypeError: `max_age` or `max_wait` is no number; nothing was sent.
            ValueError: One of them is negative or not finite; nothing was sent.
            InvalidSymbolError: `symbol` cannot be a symbol; nothing was sent.
            UnknownSymbolError: The exchange never listed it.
            SymbolNotTradingError: It is listed, and not trading now.
            BudgetExhaustedError: Not admitted within `max_wait`; its `reason` says why.
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
        name = check_symbol(symbol)
        if max_age is FRESH and max_wait is DEFAULT:  # nearly always
            value = await self._call(_OPEN_INTEREST, name, self._terms)
            self._latest[name] = (self._now(), value)
            return value
        max_age = check_number("max_age", max_age, least=0.0)
        wait = self._max_wait if max_wait is DEFAULT else _check_max_wait(max_wait)
        if max_age == 0.0:
            return await self._read(name, _Terms(self._timeout, wait))
        self._check_usable()
        known = self._latest.get(name)
        if known is not None and self._now() - known[0] <= max_age:
            return known[1]
        start = partial(self._read, name, _Terms(self._timeout, wait))
        return await self._shared.join((name, wait), start)

    async def exchange_info(self, *, max_age: float = 0.0) -> ExchangeInfo:
        """Everything listed, and the limits. The budget takes its limits from it.

        Args:
            max_age: Seconds that the list may have been known to this client.

        Raises:
            TypeError: `max_age` is no number; nothing was sent.
            ValueError: It is negative or not finite; nothing was sent.
            BinanceOIError: See `get_open_interest`.

        Cost: weight 1, about 1 MB.

        Source: ``GET /fapi/v1/exchangeInfo`` [D], 2026-11.
        """
        max_age = check_number("max_age", max_age, least=0.0)
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
        notional: bool = False,
        deadline: float | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Snapshot:
        """Open interest of many symbols, as close together as the budget allows.

        One symbol's failure is an entry in `Snapshot.errors` and stops nothing.

        Args:
            symbols: None reads every symbol that is trading.
            notional: Read mark prices as well, for `Snapshot.notional`.
            deadline: Seconds for all of it; what was not read by then has a
                `BudgetExhaustedError` or a `TransportTimeoutError`. One that is over, for example
                the negative rest of a schedule, sends nothing.
            on_progress: Called with the number of symbols done, and of all.

        Raises:
            TypeError: `deadline` is no number; nothing was sent.
            ValueError: It is not finite; nothing was sent.
            InvalidSymbolError: One of `symbols` cannot be a symbol, or it is one `str`, not a list;
                nothing was sent.
            BinanceOIError: The list of symbols could not be read.
            ClientClosedError: The client was closed meanwhile.

        Cost: weight 1 for each symbol, 1 for the list when it is older than 5 minutes, and 10 for
        mark prices.
        """
        if deadline is not None:
            deadline = check_number("deadline", deadline)
        names = None if symbols is None else check_symbols(symbols)
        self._check_usable()
        started = datetime.now(UTC)
        terms = _Terms(self._timeout, self._max_wait, bulk=True)
        if deadline is not None:
            terms.ends = asyncio.get_running_loop().time() + deadline
        async with self._connecting(names):
            if names is None:
                names = (await self._list(polling.LISTING_AGE, terms)).trading
            return await self._sweep(names, started, terms, notional, on_progress)

    def poll(
        self, symbols: Iterable[str] | None = None, *, every: float, notional: bool = False
    ) -> AsyncGenerator[Snapshot, None]:
        """Snapshots on a schedule that follows the clock: every 20 s means :00, :20 and :40.

        Ends when the loop over it does. A ban, a refusal and an outage are waited out: what has no
        snapshot is in `Snapshot.missed` of the next one, with its reason, and in the log as a
        warning. A sweep that takes longer than `every` is finished, and the slots it ran over are
        missed. What did not move since the snapshot before is in `Snapshot.unchanged`.

        When somebody sets the clock of this machine, the schedule goes on at the new time at once.
        Slots that a step forward skips are missed for the reason `clock`. After a step back slots
        come a second time; `missed` then has an empty gap `clock`, which begins at this slot.

        Args:
            symbols: None follows the exchange's list: new listings join, delisted symbols leave.
                Symbols named here are left out while they do not trade.
            every: Seconds from slot to slot; slots are its multiples since 1970.
            notional: See `snapshot`.

        Raises:
            TypeError: At once: `every` is no number.
            ValueError: At once: `every` is no period. With the first snapshot: the schedule does
                not fit into the budget.
            InvalidSymbolError: One of `symbols` is not listed.
            ClientClosedError: The client was closed meanwhile.

        Cost: as `snapshot`, for each slot.
        """
        schedule.period_ms(every)
        return polling.poll(self, symbols, every=every, notional=notional)

    async def _sweep(
        self,
        names: Sequence[str],
        started: datetime,
        terms: _Terms,
        notional: bool,
        on_progress: Callable[[int, int], None] | None,
    ) -> Snapshot:
        """Read all of them, as many at once as there are connections."""
        results: dict[str, OpenInterest | BinanceOIError] = {}
        received: dict[str, int] = {}
        prices: tuple[MarkPrice, ...] | BinanceOIError = ()
        queue = iter(names)

        async def worker() -> None:
            for name in queue:
                results[name] = await self._read_or_error(name, terms)
                received[name] = time.time_ns() // 1_000_000
                if on_progress is not None:
                    on_progress(len(results), len(names))

        async def mark_prices() -> None:
            nonlocal prices
            prices = await self._mark_prices_or_error(terms)

        jobs = [worker() for _ in range(min(len(names), self._governor.max_in_flight))]
        await _all_of([*jobs, mark_prices()] if notional else jobs)
        return _snapshot(names, results, started, terms.charged, received, prices)

    @asynccontextmanager
    async def _connecting(self, names: Sequence[str] | None) -> AsyncGenerator[None]:
        """While the first request goes alone, the connections that the others need are opened.

        A handshake takes as long as two answers; nothing is counted for it.
        """
        count = self._governor.max_in_flight
        opening = asyncio.ensure_future(
            self._open_connections(count if names is None else min(len(names), count))
        )
        try:
            yield
        finally:
            opening.cancel()
            await asyncio.wait([opening])

    async def _open_connections(self, count: int) -> None:
        await asyncio.sleep(0)  # in which every request that may go has gone
        url = self._url(_OPEN_INTEREST.path, "")
        await self._transport.open_connections(url, count, self._governor.in_flight)

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

    async def _mark_prices_or_error(self, terms: _Terms) -> tuple[MarkPrice, ...] | BinanceOIError:
        try:
            return await self._call(_MARK_PRICES, "", terms)
        except ClientClosedError:
            raise
        except BinanceOIError as error:
            return error

    async def _read(self, symbol: str, terms: _Terms) -> OpenInterest:
        value = await self._call(_OPEN_INTEREST, symbol, terms)
        self._latest[symbol] = (self._now(), value)
        return value

    async def _list(self, max_age: float, terms: _Terms) -> ExchangeInfo:
        self._check_usable()
        if self._listing is not None and self._now() - self._listing[0] < max_age:
            return self._listing[1]
        info = await self._call(_EXCHANGE_INFO, "", terms)
        self._listing = (self._now(), info)
        if info.rate_limits:
            self._governor.pool.set_limits(info.weight_limit, info.other_limits)
        if info.ignored_limits not in ((), self._ignored_limits):
            logger.warning("limits of the exchange are not kept: %s", info.ignored_limits)
        self._ignored_limits = info.ignored_limits
        return info

    async def _call(self, route: _Route[T], symbol: str, terms: _Terms) -> T:
        """Send until there is an answer, no attempt is left, or the time is over.

        Time runs while a request is under way and between two attempts, not in the queue. A request
        that could not be sent in time is no attempt: it is charged again, for a later time.
        """
        loop = self._check_usable()
        weight, url = route.weight, self._url(route.path, symbol)
        left, attempt, refused, fresh = terms.timeout, 0, None, False
        while True:
            permit = self._governor.admit_now(weight) if terms.ends == math.inf else None
            if permit is None:
                permit = await self._admit(weight, terms, refused)
            terms.charged += weight
            attempt += 1
            began = loop.time()
            if began + left > terms.ends:
                left = terms.ends - began
            try:
                answer = await self._transport.get(url, permit, route.max_bytes, left, fresh=fresh)
                if answer.status != 200 or not answer.complete:
                    raise self._failure(answer, permit.refusal)
                try:
                    body = answer.body
                    value = route.decode(body, symbol) if symbol else route.decode(body)
                except RefusedError as found:
                    raise self._refused(found.refusal) from found.__cause__
            except BinanceOIError as error:
                if permit.refunded:  # it was never sent
                    terms.charged -= weight
                left -= loop.time() - began
                if permit.late and left > 0.0 and not self._closed:
                    attempt -= 1
                    continue
                wait = self._wait_after(error, attempt, left)
                if wait is None:
                    raise
                refused = error if isinstance(error, RateLimitedError) else None
                fresh = self._next_is_fresh(error, attempt, fresh)
            else:
                self._retries.succeeded()
                return value
            finally:
                permit.release()
            left -= wait
            await self._pause(wait)

    def _next_is_fresh(self, error: BinanceOIError, attempt: int, fresh: bool) -> bool:
        """Whether the attempt after this one needs a new connection.

        After a kept connection proved dead, so that a call meets only one such. And for the last
        attempt, which nothing could replace.
        """
        dead = isinstance(error, TransportError) and error.retry == "now"
        return fresh or dead or attempt + 1 == self._policy.attempts

    async def _admit(self, weight: int, terms: _Terms, refused: RateLimitedError | None) -> Permit:
        """Stand in the queue. Whoever came back with a 429 and cannot wait gets that 429."""
        max_wait = terms.max_wait
        if terms.ends < math.inf:
            left = terms.ends - self._now()
            if left <= 0.0:
                raise BudgetExhaustedError("the deadline is over", None, Reason.DEADLINE)
            max_wait = left if max_wait is None else min(left, max_wait)
        try:
            return await self._governor.admit(weight, bulk=terms.bulk, max_wait=max_wait)
        except BudgetExhaustedError:
            if refused is not None:
                raise refused from None
            raise

    def _wait_after(self, error: BinanceOIError, attempt: int, left: float) -> float | None:
        """Seconds until the next attempt; None when there is none in the seconds `left`."""
        if self._closed:
            raise ClientClosedError from error
        if isinstance(error, WrongSymbolError):
            self._transport.distrust_connections()
        if isinstance(error, RateLimitedError):  # the queue waits until the hold ends, not a ban
            again = attempt < self._policy.attempts and left > 0.0
            return 0.0 if again and not self._governor.pool.held_for(ban=True) else None
        return self._retries.wait(error, attempt, left)

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not on when the client is closed."""
        if seconds > 0.0:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._closing.wait()
            self._check_usable()

    def _failure(self, answer: Answer, refusal: Refusal | None) -> BinanceOIError:
        """The error that an answer is."""
        if refusal is None:  # the status is 200
            return DecodeError("the answer is longer than any real one, or has no end")
        if answer.status < 300:
            return DecodeError(f"status {answer.status} is not an answer to this request")
        refusal = refusal.reading(answer.body)
        is_dropped = isinstance(answer, IdleTimeout) and refusal.kind is Kind.SERVER
        if is_dropped and refusal.code is None and self._policy.attempts > 1:
            return TransportError("a kept connection was idle for too long (408)", "now")
        return self._refused(refusal)

    def _refused(self, refusal: Refusal) -> BinanceOIError:
        """Obey a refusal, and make its exception."""
        return refusal.error(self._governor.heed(refusal) if refusal.is_hold else None)

    def _now(self) -> float:
        assert self._loop is not None
        return self._loop.time()

    def _check_usable(self) -> asyncio.AbstractEventLoop:
        """Before any I/O: this client is open, and ours to use in this loop, which is returned."""
        if self._closed:
            raise ClientClosedError
        if self._process is not fork.current:
            raise ClientClosedError(_ANOTHER_PROCESS)
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                raise ClientClosedError(_ANOTHER_LOOP)
            self._loop = loop
        return loop


def _check_max_wait(max_wait: object) -> float | None:
    return None if max_wait is None else check_number("max_wait", max_wait, least=0.0)


def _check_type(name: str, value: object, kind: type, *others: None) -> None:
    if not isinstance(value, kind) and value not in others:
        wanted = " or ".join([kind.__name__, *map(str, others)])
        raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")


async def _all_of(jobs: Iterable[Coroutine[None, None, None]]) -> None:
    """Run them all; when one fails, end the others before its error is raised."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise


def _snapshot(
    names: Sequence[str],
    results: Mapping[str, OpenInterest | BinanceOIError],
    started: datetime,
    weight: int,
    received: Mapping[str, int],
    prices: tuple[MarkPrice, ...] | BinanceOIError,
) -> Snapshot:
    """In the order asked for."""
    error, marks = (prices, ()) if isinstance(prices, BinanceOIError) else (None, prices)
    values = {n: r for n in names if isinstance(r := results[n], OpenInterest)}
    errors = {n: r for n in names if isinstance(r := results[n], BinanceOIError)}
    return Snapshot(
        values_by_symbol=values,
        errors=errors,
        started=started,
        finished=datetime.now(UTC),
        weight=weight,
        received_ms={n: received[n] for n in values},
        mark_prices={p.symbol: p for p in marks if p.symbol in values},
        notional_error=error,
    )
