"""The client, with all its public calls.

The rule of this file: a call checks its arguments before it sends anything, and has only a few
lines. `Sender` sends the requests, and `Sweeps` reads many symbols.
"""

import ssl as tls
import warnings
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

from binance_oi.arguments import check_count, check_number, check_type
from binance_oi.budget import Budget, MachineBudget
from binance_oi.budget.usage import Usage
from binance_oi.exchange import hosts
from binance_oi.exchange.limits import HISTORY
from binance_oi.exchange.models import ExchangeInfo, OpenInterest
from binance_oi.exchange.routes import open_interest
from binance_oi.exchange.symbols import check_symbol, check_symbols
from binance_oi.market import polling, schedule
from binance_oi.market.answers import ALWAYS_ASK
from binance_oi.market.history import OnProgress, Reader, histories, stretch_finder
from binance_oi.market.listing import Listing
from binance_oi.market.moments import Moment
from binance_oi.market.past import History
from binance_oi.market.pollers import Pollers
from binance_oi.market.snapshot import Snapshot
from binance_oi.market.sweep import Sweeps
from binance_oi.sending.governors import Governors
from binance_oi.sending.local_address import is_default
from binance_oi.sending.retry import RetryPolicy
from binance_oi.sending.sender import Sender, Terms
from binance_oi.sending.transport import Session, Transport

# A kept connection may be silent for at most this part of `timeout`, or for 2 s if that is longer,
# however slow answers are. After that, a second request on a new connection still has time.
PATIENCE_PART = 1 / 3
# Calls recognise these two defaults by identity, so they never mistake a caller's number for one.
DEFAULT: Final = float("-1.0")  # as `max_wait`: use the client's
FRESH: Final = float("0.0")  # as `max_age`: always send a request


class OpenInterestClient:
    """Reads open interest of Binance USDⓈ-M Futures, and never trips the rate limit.

    A program may await any number of calls at once. The client sends their requests as fast as the
    budget, the pace and the connections allow. Use it as ``async with OpenInterestClient() as
    client``, or call `aclose` at the end. A client belongs to the event loop that first used it.

    Args:
        base_url: The URL of the exchange. Each exchange has a budget of its own.
        budget: The budget, which other clients may share. None means `MachineBudget()`, which every
            process of this user on this machine shares.
        session: An `aiohttp.ClientSession` for all requests, with its own headers, cookies,
            certificates and limits. The client never closes it. None opens a session of our own.
            If a kept connection is dead, the client replaces it. In a session of yours, it can do
            so only with aiohttp 3.14, and then also closes the session's other idle connections to
            the host.
        max_connections: The most requests on the wire at the same time; history may use up to 8
            more.
        pace: Requests per second, on average. The requests of one second may go at once.
        timeout: Seconds for one call from its admission, over all its attempts. Time in the queue
            does not count. If a kept connection is silent for 2 s (longer while answers are slow),
            the client repeats the request on a new connection, which costs its weight again. If
            `retry` allows only one attempt, the client does not repeat it.
        max_wait: Seconds that a call may wait for the budget; None waits as long as necessary.
        retry: The policy that selects failed requests to send again.
        proxy: The URL of an HTTP proxy, ``http://`` or ``https://``. Environment variables for
            proxies have no effect. For SOCKS, pass a `session` with a connector for it, and a
            `budget` that only clients behind that proxy share.
        local_address: The IP address of this machine to use. It is for machines with several
            addresses that reach the exchange as different public addresses. Each local address has
            a budget of its own, except the system's default address, which has the usual budget.
        ssl: Replaces the default checks of certificates.

    Raises:
        TypeError: An argument has another type. A `Decimal`, a `str`, a `timedelta` or a `bool` is
            not accepted as a number.
        ValueError: A number is out of range or not finite. Or `base_url` is not ``https://host``
            (``http://`` only for this machine), or has credentials. Or `proxy` is not supported. Or
            `local_address` is not an IP address, or was passed together with a `session`, which
            chooses its own address.
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
        local_address: str | None = None,
        ssl: tls.SSLContext | None = None,
    ) -> None:
        if budget is not None and not callable(getattr(budget, "pool", None)):
            raise TypeError(f"budget must be a Budget or None, not {type(budget).__name__}")
        check_type("session", session, Session, None)
        check_type("retry", retry, RetryPolicy)
        check_type("local_address", local_address, str, None)
        check_type("ssl", ssl, tls.SSLContext, None)
        self.base_url: str = hosts.check_base_url(base_url)
        """The exchange, without a slash at its end."""
        hosts.check_proxy(proxy)
        self._timeout = check_number("timeout", timeout, above=0.0)
        self._max_wait = _check_max_wait(max_wait)
        max_connections = check_count("max_connections", max_connections)
        pace = check_number("pace", pace, above=0.0)
        if local_address is not None:
            if session is not None:
                raise ValueError("a session chooses its own address; leave out local_address")
            local_address = hosts.check_local_address(local_address, proxy or self.base_url)
        key = _pool_key(self.base_url, proxy, local_address)
        self._owns_budget = budget is None
        self._budget = MachineBudget() if budget is None else budget
        governors = Governors(self._budget, key, pace=pace, max_in_flight=max_connections)
        self._governor = governors.minute
        self._transport = Transport(
            session=session,
            tls=ssl,
            proxy=proxy,
            local_address=local_address,
            replace=retry.attempts > 1,
            patience=PATIENCE_PART * self._timeout,
        )
        self._sender = Sender(self.base_url, governors, self._transport, retry)
        self._terms = Terms(self._timeout, self._max_wait)  # of most calls
        self._listing = Listing(self._sender)
        self._sweeps = Sweeps(self._sender, self._listing)
        self._pollers: Pollers | None = None

    def __repr__(self) -> str:
        state = "closed" if self._sender.is_closed else repr(self._governor)
        return f"<OpenInterestClient {self.base_url} {state}>"

    async def __aenter__(self) -> Self:
        self._sender.check_usable()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; pending calls end with `ClientClosedError`.

        A second call does nothing.

        Raises:
            ClientClosedError: The client belongs to another event loop, which is still running.
        """
        if self._sender.is_closed:
            return
        try:
            await self._sender.aclose()
        finally:
            if self._owns_budget and self._sender.is_closed:
                self._budget.close()

    def __del__(self) -> None:
        is_made = hasattr(self, "_pollers")
        if is_made and not self._sender.is_closed and self._sender.give_up():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=1)

    @property
    def usage(self) -> Usage:
        """The state of the budget at this moment, and why calls of this client wait.

        It sends nothing and changes nothing. Any thread may read it.
        """
        return replace(self._governor.pool.usage, waiting_for=self._governor.waiting_for)

    @property
    def history_usage(self) -> Usage:
        """The state of the budget of history, in requests of the last 5 minutes.

        The exchange does not report its count, so `used` contains only the requests of clients that
        share this budget. At `resets_at`, the last of these requests is 5 minutes old. This budget
        counts separately from that of `usage`. But a ban stops both, and every cooldown of that
        budget stops this one too. The property sends nothing.
        """
        governor = self._sender.governors.of(HISTORY)
        return replace(governor.pool.usage, waiting_for=governor.waiting_for)

    @property
    def source(self) -> str:
        """This client's exchange: ``production``, ``testnet``, ``local``, or its URL with port."""
        return hosts.source_name(self.base_url)

    async def get_open_interest(
        self, symbol: str, *, max_age: float = FRESH, max_wait: float | None = DEFAULT
    ) -> OpenInterest:
        """Read open interest of one symbol.

        Args:
            symbol: For example ``BTCUSDT``; ASCII letters may be lower case.
            max_age: The greatest age of the value, in seconds since this client received it. Above
                0, calls for one symbol at the same time share one request. With 0, the call always
                sends a request.
            max_wait: The longest wait for the budget, in seconds. None waits as long as necessary.
                The default is the client's.

        Returns:
            The exact value, with the exchange's transaction time. That time is some seconds old and
            does not advance on every call: two values with the same time are one observation.

        Raises:
            TypeError: `max_age` or `max_wait` is not a number; the client sent nothing.
            ValueError: One of them is negative or not finite; the client sent nothing.
            InvalidSymbolError: `symbol` cannot be a symbol; the client sent nothing.
            UnknownSymbolError: The exchange does not know the symbol.
            SymbolNotTradingError: The exchange lists the symbol, but does not trade it now.
            BudgetExhaustedError: The budget did not admit the call within `max_wait`. The attribute
                `reason` shows why.
            RateLimitedError: The exchange refused the last attempt (429).
            BannedError: The exchange has banned this IP address. Until the ban ends, each
                single call raises it at once.
            ForbiddenError: The exchange's firewall refused the request, or the exchange does not
                serve this region.
            ServerError: The exchange failed at the last attempt.
            ResponseError: The exchange refused the request for another reason.
            DecodeError: The answer does not have the documented form.
            TransportError: No usable answer came (`TransportTimeoutError`: none within `timeout`).
            ClientClosedError: The client is closed, or belongs to another loop or process.

        Cost: weight 1 for each attempt. A value that `max_age` allows has no cost.

        Source: Binance's documentation of ``GET /fapi/v1/openInterest``, 2026-11.
        """
        name, sender, terms = check_symbol(symbol), self._sender, self._terms
        if max_age is FRESH and max_wait is DEFAULT:  # nearly always
            request = open_interest(name)
            permit = await sender.queue(request, terms) if self._governor.waiting else None
            return self._sweeps.values.keep(name, await sender.send(request, terms, permit)).value
        max_age = check_number("max_age", max_age, least=0.0)
        wait = self._max_wait if max_wait is DEFAULT else _check_max_wait(max_wait)
        answer = await self._sweeps.read(name, Terms(self._timeout, wait), self._since(max_age))
        return answer.value

    async def exchange_info(self, *, max_age: float = 0.0) -> ExchangeInfo:
        """Read every listed symbol, and the limits. The budget adopts these limits.

        The call is bulk work: single calls go first, and keep their part of the minute.

        Args:
            max_age: The greatest age of the list, in seconds since this client received it.

        Raises:
            TypeError: `max_age` is not a number; the client sent nothing.
            ValueError: `max_age` is negative or not finite; the client sent nothing.
            BinanceOIError: See `get_open_interest`.

        Cost: weight 1; the answer has about 1 MB. A list that `max_age` allows has no cost.

        Source: Binance's documentation of ``GET /fapi/v1/exchangeInfo``, 2026-11.
        """
        max_age = check_number("max_age", max_age, least=0.0)
        terms = Terms(self._timeout, self._max_wait, bulk=True)
        return await self._listing.read(max_age, terms)

    async def symbols(self, *, max_age: float = 0.0) -> tuple[str, ...]:
        """Read the names of all symbols that are trading, in the exchange's order.

        See `exchange_info` for arguments, errors and cost.
        """
        return (await self.exchange_info(max_age=max_age)).trading

    async def snapshot(
        self,
        symbols: Iterable[str] | None = None,
        *,
        notional: bool = False,
        deadline: float | None = None,
        max_age: float = 0.0,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Snapshot:
        """Read open interest of many symbols, as closely together in time as the budget allows.

        If one symbol fails, its error is in `Snapshot.errors`, and the call reads the others.

        Args:
            symbols: The symbols; None for every symbol that is trading.
            notional: Whether to read mark prices too, for `Snapshot.notional`.
            deadline: Seconds for the whole snapshot. A symbol without an answer by then has a
                `BudgetExhaustedError` or a `TransportTimeoutError`. If the deadline is 0 or
                negative, the client sends nothing.
            max_age: The greatest age of a value at the time of this call, in seconds since this
                client received it. Above 0, calls at the same time share their requests. With 0,
                the call always sends its own requests.
            on_progress: Called with the number of finished symbols and the number of all symbols.

        Raises:
            TypeError: `deadline` or `max_age` is not a number; the client sent nothing.
            ValueError: One of them is not finite, or `max_age` is negative; the client sent
                nothing.
            InvalidSymbolError: One of `symbols` cannot be a symbol, or `symbols` is one `str`
                instead of a list; the client sent nothing.
            BinanceOIError: The client could not read the list of symbols.
            ClientClosedError: The client was closed during the call.

        Cost: weight 1 for each symbol, and 10 for mark prices. Without `symbols`, also weight 1 for
        the list if it is older than 5 minutes. A value that `max_age` allows, or that another call
        reads, has no cost.
        """
        max_age = check_number("max_age", max_age, least=0.0)
        if deadline is not None:
            deadline = check_number("deadline", deadline)
        names = None if symbols is None else check_symbols(symbols, self._listing.odd_names)
        since = self._since(max_age)
        terms = self._bulk_terms(deadline)
        if since < ALWAYS_ASK and deadline is None and on_progress is None:
            return await self._sweeps.join(names, terms, notional=notional, since=since)
        return await self._sweeps.sweep(
            names, terms, notional=notional, on_progress=on_progress, since=since
        )

    def poll(
        self,
        symbols: Iterable[str] | None = None,
        *,
        every: float | None = None,
        notional: bool = False,
    ) -> AsyncGenerator[Snapshot, None]:
        """Yield snapshots on a schedule that follows the clock: every 20 s means :00, :20 and :40.

        The poll runs until the caller leaves the loop over it. It waits until a ban, a refusal or
        an outage is over. If a slot has no snapshot, `Snapshot.missed` of the next snapshot has the
        slot and the reason, and the log has a warning. If a sweep takes longer than `every`, it
        still runs to its end, and the slots that pass during it are missed. `Snapshot.unchanged`
        has the symbols without a new value.

        If someone sets the clock of this machine, the schedule continues at the new time. After a
        step forward, the skipped slots are missed for the reason `clock`. After a step back, some
        slots occur a second time. Then `missed` has an empty gap with the reason `clock`, whose
        `first` is the first slot that occurs again.

        If the schedule no longer fits into the budget, the poll continues with the next slower
        schedule that fits, until there is room again. The slots that the slower schedule leaves out
        are missed for the reason `budget`.

        Args:
            symbols: The symbols. None follows the exchange's list: new symbols join, delisted ones
                leave. If you name a symbol that is not listed or does not trade, each snapshot has
                an error for it; the poll reads the symbol as soon as it trades.
            every: Seconds from slot to slot. Each slot is a multiple of `every` after the beginning
                of 1970. None chooses the shortest of 5, 10, 15, 20, 30, 60 s, 2, 5 and 10 min that
                fits into the budget with room for a tenth more symbols.
            notional: See `snapshot`.

        Raises:
            TypeError: The call itself raises it: `every` is not a number.
            ValueError: The call itself raises it if `every` cannot be a period. The first iteration
                raises it if the schedule does not fit into the budget beside other polls.
            InvalidSymbolError: The exchange lists none of `symbols`, or one of them cannot be a
                symbol.
            ClientClosedError: The client was closed during the poll.

        Cost: that of a `snapshot`, for each slot. Polls of this client with the same period share
        their requests.
        """
        if every is not None:
            schedule.period_ms(every)
        return polling.poll(self, symbols, every=every, notional=notional)

    async def history(
        self,
        symbol: str,
        *,
        period: str = "5m",
        since: Moment = None,
        until: Moment = None,
        max_wait: float | None = DEFAULT,
    ) -> History:
        """Read past open interest of one symbol.

        The exchange keeps 30 days. `History.holes` has each stretch of time without rows, with the
        reason. The call interpolates nothing.

        Args:
            symbol: For example ``BTCUSDT``.
            period: The time between rows: 5m, 15m, 30m, 1h, 2h, 4h, 6h, 12h or 1d.
            since: The first instant: an aware `datetime`, a `timedelta` before now, or Unix ms.
                None for the oldest instant that the exchange keeps.
            until: The last instant, in the same forms; None for now. A row appears some 6 s after
                its instant.
            max_wait: The longest wait for the budget, in seconds, for all requests of this call
                together. None waits as long as necessary. The default is the client's.

        Returns:
            The rows in the order of time, each instant once, and none outside the range.

        Raises:
            TypeError: `since`, `until` or `max_wait` has another type; the client sent nothing.
            ValueError: The exchange has no such period, `since` or `until` is not a possible time,
                the range ends before it begins, or `max_wait` is negative or not finite; the client
                sent nothing.
            InvalidSymbolError: `symbol` cannot be a symbol; the client sent nothing.
            BinanceOIError: A page could not be read; see `get_open_interest`.

        Cost: one request for each 500 rows, so 18 for 30 days of 5m; no weight. The requests draw
        on the limit of 1000 requests in 5 minutes, and go before those of `histories`.

        Source: Binance's documentation of ``GET /futures/data/openInterestHist``, 2026-11.
        """
        name, find = check_symbol(symbol), stretch_finder(period, since, until)
        wait = self._max_wait if max_wait is DEFAULT else _check_max_wait(max_wait)
        self._sender.check_usable()
        reader = Reader(self._sender, self._listing, find, Terms(self._timeout, wait))
        return await reader.read(name)

    def histories(
        self,
        symbols: Iterable[str] | None = None,
        *,
        period: str = "5m",
        since: Moment = None,
        until: Moment = None,
        received: Mapping[str, int] | None = None,
        on_progress: OnProgress | None = None,
    ) -> AsyncGenerator[History, None]:
        """Yield past open interest of many symbols, each as soon as it is read, in any order.

        Requests go at an even pace over the 5 minutes of the limit. For 789 symbols, 30 days of 5m
        take 72 minutes, and the newest 500 rows of each take 4 minutes. The call waits until a ban
        or a refusal is over. In an outage, it tries each request for about 90 s. The client's
        `max_wait` does not apply. If a symbol fails, its `History` has an `error` and no rows, and
        the call reads the others. Only a few symbols are in memory at once.

        Args:
            symbols: The symbols; None for every symbol that is trading.
            period: See `history`.
            since: See `history`.
            until: See `history`. To continue after an interruption, pass the same instant again.
            received: To continue, pass `History.complete_until` of each symbol that you have. The
                call then reads only later rows, and omits symbols that are complete.
            on_progress: Called after each symbol with a `HistoryProgress`.

        Raises:
            TypeError: The call itself raises it: `since` or `until` has another type.
            ValueError: The call itself raises it if the exchange has no such period, or if `since`
                or `until` is not a possible time. The first iteration raises it if the range ends
                before it begins.
            InvalidSymbolError: The call itself raises it: one of `symbols` cannot be a symbol.
            BinanceOIError: The list of symbols could not be read.
            ClientClosedError: The client was closed during the run.

        Cost: the cost of `history` for each symbol. Without `symbols`, also weight 1 for the list
        if it is older than 5 minutes.
        """
        find, listing = stretch_finder(period, since, until), self._listing
        names = None if symbols is None else check_symbols(symbols, listing.odd_names)
        known = received or {}
        return histories(self._sender, listing, names, find, self._timeout, known, on_progress)

    @property
    def pollers(self) -> Pollers:
        """The shared polls of this client, for `Recorder` and other code that polls."""
        if self._pollers is None:
            demands, pause = self._governor.pool, self._sender.pause
            self._pollers = Pollers(demands, lambda: self.usage, self._sweep, pause)
        return self._pollers

    async def _sweep(
        self, names: Sequence[str], *, notional: bool, deadline: float, since: float | None
    ) -> Snapshot:
        """See `binance_oi.market.pollers.Sweep`."""
        self._sender.check_usable()
        terms = self._bulk_terms(deadline)
        if since is None:
            return await self._sweeps.sweep(names, terms, notional=notional)
        return await self._sweeps.join(tuple(names), terms, notional=notional, since=since)

    def _bulk_terms(self, deadline: float | None) -> Terms:
        terms = Terms(self._timeout, self._max_wait, bulk=True)
        if deadline is not None:
            terms.ends = self._sender.now() + deadline
        return terms

    def _since(self, max_age: float) -> float:
        """Return the loop time before which a value is too old."""
        self._sender.check_usable()
        return self._sender.now() - max_age if max_age > 0.0 else ALWAYS_ASK


def _pool_key(base_url: str, proxy: str | None, local_address: str | None) -> str:
    """Return the name of the pool. The system's default local address has the usual pool."""
    if local_address is not None and is_default(local_address, hosts.host_of(base_url)):
        local_address = None
    return hosts.pool_key(base_url, proxy, local_address)


def _check_max_wait(max_wait: object) -> float | None:
    return None if max_wait is None else check_number("max_wait", max_wait, least=0.0)
