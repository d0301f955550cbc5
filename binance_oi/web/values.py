"""Keeps the latest values, and reads newer ones for visitors that need them.

The rule of this file: a value of the poll that is new enough needs no request. If a value is too
old for a visitor, one request reads it again for all visitors that wait, at most once in
`Limits.min_age` seconds.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import Final

from binance_oi.client import OpenInterestClient
from binance_oi.errors import (
    NOT_LISTED,
    BinanceOIError,
    BudgetExhaustedError,
    SymbolNotTradingError,
    UnknownSymbolError,
)
from binance_oi.exchange.models import OpenInterest
from binance_oi.market.listing import LISTING_AGE
from binance_oi.sending.shared_calls import SharedCalls
from binance_oi.web.allowances import Allowance
from binance_oi.web.events import Cell, Observation
from binance_oi.web.hub import Hub
from binance_oi.web.limits import Limits
from binance_oi.web.problems import KINDS, Kind, ProblemError

KEPT_VALUES: Final = 2000  # values in memory that visitors have requested
MINUTE: Final = 60.0
NO_DATA: Final = Kind(503, "no-data", "Nothing was read yet.")
TOO_OLD: Final = Kind(503, "too-old", "The latest value is too old.")

_BUDGET: Final = next(kind for type_, kind in KINDS if type_ is BudgetExhaustedError)


class Values:
    """The latest value of each symbol.

    Args:
        client: Reads the exchange; None if all values come from the hub.
        limits: Bounds on what visitors may use.
        clock: Returns Unix seconds.
    """

    def __init__(
        self,
        client: OpenInterestClient | None,
        limits: Limits,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._limits, self._clock = client, limits, clock
        self._read: OrderedDict[str, Cell] = OrderedDict()  # values read for visitors
        self._running: SharedCalls[Cell] = SharedCalls()
        self._weight = Allowance(limits.weight, MINUTE)

    @property
    def is_of_recording(self) -> bool:
        """Whether every value comes from the hub."""
        return self._client is None

    async def one(self, hub: Hub, symbol: str, max_age: float | None) -> Cell:
        """Return a value that is at most `max_age` (or, if larger, `Limits.min_age`) seconds old.

        Without `max_age`, the value is at most `Limits.min_age` seconds old, if possible. But if
        there is no client, or visitors have used up their requests, it may be older.

        Raises:
            ProblemError: There is no such value, and we cannot read one: there is no client, the
                budget has no room, or visitors have used up their requests.
            BinanceOIError: The value cannot be read.
            TimeoutError: The list of symbols cannot be read in time.
        """
        cell = self._known(hub, symbol, max_age)
        if cell is not None:
            return cell
        latest = self.latest(hub, symbol)
        if self._client is None:
            if latest is not None and max_age is None:
                return latest
            raise _absent(hub, latest, max_age)
        try:
            return await self._running.join(symbol, partial(self._ask, self._client, symbol))
        except ProblemError:
            if latest is not None and max_age is None:
                return latest
            raise

    def stale(self, hub: Hub, names: Sequence[str], max_age: float) -> list[str]:
        """Return the names whose value is missing, or older than both `max_age` and `min_age`."""
        return [name for name in names if self._known(hub, name, max_age) is None]

    async def renew(self, hub: Hub, names: Sequence[str], max_age: float) -> None:
        """Read these values again. Visitors that need the same symbol share its request.

        Raises:
            ProblemError: There is no client, or visitors have too few requests left.
            BinanceOIError: The values cannot be read.
        """
        client = self._client
        is_possible = client is not None and len(names) <= self._limits.weight
        wait = self._weight.take(len(names), _now()) if is_possible else math.inf
        if client is None or wait:
            cells = (self.latest(hub, name) for name in names)
            oldest = max(0.0 if cell is None else _now() - cell.at for cell in cells)
            raise _too_old(oldest, max_age, min(wait, max(1.0, hub.seconds_to_next())))
        market = await client.snapshot(
            names, max_age=max(max_age, self._limits.min_age), deadline=self._limits.max_wait
        )
        for name, value in market.items():
            known = hub.cells.get(name)
            self._keep(value, None if known is None else known.mark_price)
        if (error := next(iter(market.errors.values()), None)) is not None:
            raise error

    def latest(self, hub: Hub, symbol: str) -> Cell | None:
        """Return the latest value of a symbol, however old; None if there is none."""
        known = (hub.cells.get(symbol), self._read.get(symbol))
        return max((cell for cell in known if cell is not None), key=_newest, default=None)

    def _known(self, hub: Hub, symbol: str, max_age: float | None) -> Cell | None:
        cell = self.latest(hub, symbol)
        age = self._limits.min_age if max_age is None else max(max_age, self._limits.min_age)
        if cell is None or _now() - cell.at > age:
            return None
        return cell

    async def _ask(self, client: OpenInterestClient, symbol: str) -> Cell:
        """Request the value, if the exchange lists the symbol and visitors have requests left."""
        if symbol not in self._read:
            await self._check_listed(client, symbol)
        if wait := self._weight.take(1, _now()):
            raise ProblemError(_BUDGET, "Visitors have used up their requests.", after=wait)
        value = await client.get_open_interest(symbol, max_wait=self._limits.max_wait)
        return self._keep(value)

    def _keep(self, value: OpenInterest, price: Decimal | None = None) -> Cell:
        cell = Cell(Observation(value, price, round(self._clock() * 1000)), _now())
        self._read[value.symbol] = cell
        self._read.move_to_end(value.symbol)
        if len(self._read) > KEPT_VALUES:
            self._read.popitem(last=False)
        return cell

    async def _check_listed(self, client: OpenInterestClient, symbol: str) -> None:
        """Refuse a symbol that the exchange does not list or trade, without a request for it."""
        try:
            async with asyncio.timeout(self._limits.max_wait):
                info = await client.exchange_info(max_age=LISTING_AGE)
        except TimeoutError:
            usage = client.usage
            if usage.remaining and usage.held_until is None:
                raise
            until = usage.held_until or usage.resets_at
            raise ProblemError(_BUDGET, after=until.timestamp() - self._clock()) from None
        statuses = {listed.symbol: listed.status for listed in info.symbols}
        if symbol not in statuses and not info.left_out:
            raise UnknownSymbolError(200, None, NOT_LISTED)
        if symbol in statuses and symbol not in info.trading:
            raise SymbolNotTradingError(200, None, "the exchange does not trade it now")


def _absent(hub: Hub, latest: Cell | None, max_age: float | None) -> ProblemError | BinanceOIError:
    """Return the error for a missing or outdated value in a service without a client."""
    if latest is not None and max_age is not None:
        return _too_old(_now() - latest.at, max_age, hub.seconds_to_next())
    if hub.latest is None:
        return ProblemError(NO_DATA, after=hub.seconds_to_next())
    return UnknownSymbolError(200, None, "the recording does not have it")


def _too_old(age: float, max_age: float, after: float) -> ProblemError:
    seen = math.ceil(age * 10) / 10  # round up, so that the text shows more than `max_age`
    text = f"The latest value is {seen:g} s old, and max_age allows {max_age:g} s."
    return ProblemError(TOO_OLD, text, after=after)


def _newest(cell: Cell) -> tuple[int, float]:
    return cell.value.time, cell.at


def _now() -> float:
    return asyncio.get_running_loop().time()
