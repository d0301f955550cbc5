"""The client: the public calls, each a few lines.

The rule of this file: a call checks its arguments before it sends anything. `Sender` sends, and
`Sweeps` reads many symbols.
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
from binance_oi.market.history import OnProgress, Reader, histories, make_ask
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

PATIENCE_PART = 1 / 3  # of `timeout`, on a silent kept connection; a second request gets the rest
# Calls recognise these defaults by identity, so no number of a caller is mistaken for one.
DEFAULT: Final = float("-1.0")  # `max_wait` of the client
FRESH: Final = float("0.0")  # `max_age`: always ask the exchange


class OpenInterestClient:
    """Reads open interest of Binance USDⓈ-M Futures, and never trips the rate limit.

    A program may await any number of calls at once: the client sends them as fast as the budget,
    the pace and the connections allow. Use it as ``async with OpenInterestClient() as client``, or
    call `aclose` at the end. A client belongs to the event loop that first used it.

    Args:
        base_url: The exchange. Each exchange has a budget of its own.
        budget: Who shares the limit with this client. None means `MachineBudget()`: every process
            of this user on this machine.
        session: An `aiohttp.ClientSession` to send with, including its headers, cookies,
            certificates and limits. The client never closes it. None opens a session of our own.
            The client replaces a dead kept connection. In a given session that needs aiohttp 3.14,
            and also closes the session's other idle connections to the same host.
        max_connections: Requests under way at the same time; for history at most 8 more.
        pace: Requests per second; the requests of one second may go at once.
        timeout: Seconds for one call, from its admission, over all its attempts. Time spent
            waiting for budget does not count. When a kept connection is silent for 2 s, the client
            sends the request once more on a new one, and charges it again.
        max_wait: Seconds that a call may wait for budget; None waits as long as it takes.
        retry: Which failed requests the client sends again.
        proxy: URL of an HTTP proxy, ``http://`` or ``https://``. The client ignores proxies of the
            environment. For SOCKS, pass a `session` whose connector speaks it, and a budget for its
            address.
        local_address: The IP address of this machine to send from, on a host with several that
            reach the exchange as different public addresses. Each has a budget of its own. The
            address that the system would choose anyway has the usual budget.
        ssl: Replaces the default certificate checks.

    Raises:
        TypeError: An argument has another type. A number may not be a `Decimal`, a `str`, a
            `timedelta` or a `bool`.
        ValueError: A number is out of range or not finite. Or `base_url` is not ``https://host``
            (``http://`` only for this machine), or has credentials. Or `proxy` is not supported.
            Or `local_address` is no IP address, or comes with a `session`, which binds its own
            connections.
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
                raise ValueError("a session binds its own connections; it takes no local_address")
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
        """Close the connections; pending calls end with `ClientClosedError`. A repeat does nothing.

        Raises:
            ClientClosedError: The client belongs to another event loop, and that one is running.
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
        """The budget of the whole IP address at this moment, and what our calls wait for.

        Sends nothing and changes nothing. Any thread may read it.
        """
        return replace(self._governor.pool.usage, waiting_for=self._governor.waiting_for)

    @property
    def history_usage(self) -> Usage:
        """The budget of the past at this moment: requests of `history` in the last 5 minutes.

        The exchange does not report its count, so `used` is only the part of everyone who shares
        this budget. At `resets_at`, all of these requests have left the 5 minutes. This budget is
        independent of `usage`; only a ban stops both. Sends nothing.
        """
        governor = self._sender.governors.of(HISTORY)
        return replace(governor.pool.usage, waiting_for=governor.waiting_for)

    @property
    def source(self) -> str:
        """The exchange of this client: ``production``, ``testnet``, ``local`` or its base URL."""
        return hosts.source_name(self.base_url)

    async def get_open_interest(
        self, symbol: str, *, max_age: float = FRESH, max_wait: float | None = DEFAULT
    ) -> OpenInterest:
        """Read open interest of one symbol.

        Args:
            symbol: For example ``BTCUSDT``; ASCII letters may be lower case.
            max_age: The oldest value to return, in seconds since this client received it. Above 0,
                calls for one symbol at the same time share one request. 0 always asks the exchange.
            max_wait: The longest wait for budget, in seconds. None waits as long as it takes. The
                default is the client's.

        Returns:
            The exact value, with the exchange's transaction time. That time is some seconds old and
            does not advance on every call: two values with the same time are one observation.

        Raises:
            TypeError: `max_age` or `max_wait` is no number; the client sent nothing.
            ValueError: One of them is negative or not finite; the client sent nothing.
            InvalidSymbolError: `symbol` cannot be a symbol; the client sent nothing.
            UnknownSymbolError: The exchange never listed the symbol.
            SymbolNotTradingError: The exchange lists the symbol, but does not trade it now.
            BudgetExhaustedError: The budget did not admit the call within `max_wait`; its `reason`
                says why.
            RateLimitedError: The exchange refused every attempt (429).
            BannedError: The exchange banned this IP address; raised at once until the ban ends.
            ForbiddenError: The firewall or the region forbids the request.
            ServerError: The exchange failed at every attempt.
            ResponseError: The exchange refused the request for another reason.
            DecodeError: The answer is not what the exchange documents.
            TransportError: No usable answer came (`TransportTimeoutError`: none within `timeout`).
            ClientClosedError: The client is closed, or belongs to another loop or process.

        Cost: weight 1 for each attempt.

        Source: ``GET /fapi/v1/openInterest`` [D], 2026-11.
        """
        name = check_symbol(symbol)
        if max_age is FRESH and max_wait is DEFAULT:  # nearly always
            value = await self._sender.send(open_interest(name), self._terms)
            self._sweeps.keep(name, value)
            return value
        max_age = check_number("max_age", max_age, least=0.0)
        wait = self._max_wait if max_wait is DEFAULT else _check_max_wait(max_wait)
        answer = await self._sweeps.read(name, Terms(self._timeout, wait), self._since(max_age))
        return answer.value

    async def exchange_info(self, *, max_age: float = 0.0) -> ExchangeInfo:
        """Read every listed symbol, and the limits. The budget adopts these limits.

        To the budget it is bulk work: single calls go first, and keep their part of the minute.

        Args:
            max_age: The oldest list to return, in seconds since this client received it.

        Raises:
            TypeError: `max_age` is no number; the client sent nothing.
            ValueError: `max_age` is negative or not finite; the client sent nothing.
            BinanceOIError: See `get_open_interest`.

        Cost: weight 1, about 1 MB.

        Source: ``GET /fapi/v1/exchangeInfo`` [D], 2026-11.
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
        """Read open interest of many symbols, as close together as the budget allows.

        When one symbol fails, its error is in `Snapshot.errors` and the others go on.

        Args:
            symbols: None reads every symbol that is trading.
            notional: Read mark prices as well, for `Snapshot.notional`.
            deadline: Seconds for the whole snapshot. A symbol that has no answer by then has a
                `BudgetExhaustedError` or a `TransportTimeoutError`. A deadline that is over, such
                as a negative one, sends nothing.
            max_age: The oldest value to return, in seconds from its receipt to this call. Above 0,
                calls at the same time share their requests. 0 always asks the exchange.
            on_progress: Called with the number of symbols done and the number of all.

        Raises:
            TypeError: `deadline` or `max_age` is no number; the client sent nothing.
            ValueError: One of them is not finite, or `max_age` is negative; the client sent
                nothing.
            InvalidSymbolError: One of `symbols` cannot be a symbol, or `symbols` is one `str`
                instead of a list; the client sent nothing.
            BinanceOIError: The client could not read the list of symbols.
            ClientClosedError: The client was closed during the call.

        Cost: weight 1 for each symbol, 1 for the list when it is older than 5 minutes, and 10 for
        mark prices. A value that `max_age` allows, or that another call reads, costs nothing.
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

        The poll ends with the loop over it. It waits until a ban, a refusal or an outage is over.
        Slots without a snapshot are in `Snapshot.missed` of the next one, with the reason, and in
        the log as a warning. A sweep that takes longer than `every` runs to its end; the slots that
        pass meanwhile are missed. Symbols without a new value are in `Snapshot.unchanged`.

        When somebody sets the clock of this machine, the schedule continues at the new time. After
        a step forward, the skipped slots are missed for the reason `clock`. After a step back,
        slots come a second time; `missed` then has an empty gap `clock` that begins at this slot.

        When the schedule no longer fits into the budget, the poll continues with the next slower
        one that fits, until there is room again. The slots in between are missed for the reason
        `budget`.

        Args:
            symbols: None follows the exchange's list: new listings join, delisted symbols leave.
                Symbols named here need no list. One that does not trade, or is not listed, is in
                `Snapshot.errors` of each snapshot; the poll reads it as soon as the list has it.
            every: Seconds from slot to slot; slots are its multiples since 1970. None takes the
                shortest of 5, 10, 15, 20, 30, 60 s, 2, 5 and 10 min that fits into the budget with
                room for a tenth more symbols.
            notional: See `snapshot`.

        Raises:
            TypeError: At once: `every` is no number.
            ValueError: At once: `every` is no period. With the first snapshot: the schedule does
                not fit into the budget beside the other polls that share it.
            InvalidSymbolError: The exchange lists none of `symbols`, or one of them cannot be a
                symbol.
            ClientClosedError: The client was closed during the poll.

        Cost: as `snapshot`, for each slot; polls of this client with the same period pay once.
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

        The exchange keeps 30 days. `History.holes` names each stretch that is too old or has no
        row, with the reason. Nothing is interpolated.

        Args:
            symbol: For example ``BTCUSDT``.
            period: The time between rows: 5m, 15m, 30m, 1h, 2h, 4h, 6h, 12h or 1d.
            since: The first instant: an aware `datetime`, a `timedelta` before now, or Unix ms.
                None means the oldest instant that the exchange keeps.
            until: The last instant, in the same forms; None means now. A row appears some 6 s after
                its instant.
            max_wait: The longest wait for budget of all requests together, in seconds. None waits
                as long as it takes. The default is the client's.

        Returns:
            The rows in the order of time, each instant once, and none outside the range.

        Raises:
            TypeError: `since`, `until` or `max_wait` has a wrong type; the client sent nothing.
            ValueError: There is no such period, or the range ends before it begins; the client sent
                nothing.
            BinanceOIError: A page could not be read; see `get_open_interest`.

        Cost: one request per 500 rows, such as 18 for 30 days of 5m, of the limit of 1000 requests
        in 5 minutes. The requests go before those of `histories` and cost no weight.

        Source: ``GET /futures/data/openInterestHist`` [D], 2026-11.
        """
        name, ask = check_symbol(symbol), make_ask(period, since, until)
        wait = self._max_wait if max_wait is DEFAULT else _check_max_wait(max_wait)
        self._sender.check_usable()
        return await Reader(self._sender, self._listing, ask, Terms(self._timeout, wait)).read(name)

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

        Requests go at an even pace over the 5 minutes of the limit: 30 days of 5m of 789 symbols
        take 72 minutes, and the newest 500 rows of each take 4. The call waits until a ban, a
        refusal or an outage of up to 90 s is over, whatever `max_wait` is. A symbol that fails has
        `History.error` and no rows, and the others go on. Only a few symbols are in memory at once.

        Args:
            symbols: None reads every symbol that is trading.
            period: See `history`.
            since: See `history`.
            until: See `history`. To continue after an interruption, pass the same instant again.
            received: To continue: `History.complete_until` of each symbol that was received. The
                call reads only later rows, and leaves out symbols that are complete.
            on_progress: Called after each symbol with a `HistoryProgress`.

        Raises:
            TypeError: At once: `since` or `until` has a wrong type.
            ValueError: At once: there is no such period. With the first symbol: the range ends
                before it begins.
            InvalidSymbolError: At once: one of `symbols` cannot be a symbol.
            BinanceOIError: The list of symbols could not be read.
            ClientClosedError: The client was closed meanwhile.

        Cost: for each symbol as in `history`, and weight 1 for the list of symbols.
        """
        ask = make_ask(period, since, until)
        names = None if symbols is None else check_symbols(symbols, self._listing.odd_names)
        return histories(
            self._sender, self._listing, names, ask, self._timeout, received or {}, on_progress
        )

    @property
    def pollers(self) -> Pollers:
        """The polls of this client, for `Recorder` and other code that polls."""
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
        """The loop time before which a value is too old."""
        self._sender.check_usable()
        return self._sender.now() - max_age if max_age > 0.0 else ALWAYS_ASK


def _pool_key(base_url: str, proxy: str | None, local_address: str | None) -> str:
    """The pool of these connections; the system's own choice of an address has the usual pool."""
    if local_address is not None and is_default(local_address, hosts.host_of(base_url)):
        local_address = None
    return hosts.pool_key(base_url, proxy, local_address)


def _check_max_wait(max_wait: object) -> float | None:
    return None if max_wait is None else check_number("max_wait", max_wait, least=0.0)
