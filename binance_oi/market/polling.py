"""Snapshots on a schedule that follows the clock.

The rule of this file: no slot is lost in silence. Every instant of the schedule gives a snapshot
or is in a `Gap` with its reason, in the order of the schedule:

    overrun     the sweep before it was still under way
    limited     the same, because the exchange said 429 and nothing may be sent
    banned      this IP address is banned
    budget      no room in the budget, in time
    forbidden   the firewall or the region forbids it
    outage      the exchange, or the way to it, failed
    unknown, not_trading   of none of the named symbols there is anything to read
    late        nobody asked for the next snapshot in time, or the machine slept
    clock       somebody set the clock of this machine forward, and the slots were never due

A clock that was set back makes slots come a second time. None is missing then, and the gap `clock`
is empty: it names where the schedule goes on, and ends before it begins.

A recorder adds two of its own: `storage`, read and not written, and `stopped`, no recorder ran.

Slots are multiples of the period since 1970, so every 20 s means :00, :20 and :40, and the time
that one sweep takes never adds up to a drift.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

from binance_oi.budget.usage import Usage
from binance_oi.errors import (
    BinanceOIError,
    ClientClosedError,
    InvalidSymbolError,
    Reason,
    SymbolNotTradingError,
    UnknownSymbolError,
    printable,
)
from binance_oi.exchange.limits import WEIGHT
from binance_oi.exchange.models import ExchangeInfo
from binance_oi.exchange.routes import PREMIUM_INDEX
from binance_oi.exchange.symbols import check_symbols
from binance_oi.market.gap import Gap, join, reason
from binance_oi.market.listing import LISTING_AGE
from binance_oi.market.schedule import NAP, Schedule, period_ms
from binance_oi.market.snapshot import Snapshot
from binance_oi.times import instant, plain

logger: logging.Logger = logging.getLogger("binance_oi")

LEAD = 5.0  # s before a slot at which that is done
_REFUSED = (UnknownSymbolError, SymbolNotTradingError)
EVENLY = "; after a start or a ban, requests are sent evenly for a minute"
LONGEST_HOLD = 60.0  # s: a 429 that ends with the minute is waited out inside of a sweep


class Reader(Protocol):
    """What polling needs of a client."""

    @property
    def usage(self) -> Usage:
        """The budget at this moment."""
        ...

    async def exchange_info(self, *, max_age: float = 0.0) -> ExchangeInfo:
        """Everything listed."""
        ...

    async def snapshot(
        self,
        symbols: Iterable[str] | None = None,
        *,
        notional: bool = False,
        deadline: float | None = None,
    ) -> Snapshot:
        """Open interest of many symbols."""
        ...


async def poll(
    reader: Reader,
    symbols: Iterable[str] | None = None,
    *,
    every: float,
    notional: bool = False,
    clock: Callable[[], float] = time.time,
) -> AsyncGenerator[Snapshot, None]:
    """Snapshots on a schedule; what is missing between two of them is in `Snapshot.missed`.

    See `binance_oi.client.OpenInterestClient.poll`.
    """
    period, missed = period_ms(every), list[Gap]()
    outcomes = sweeps(reader, symbols, every=every, notional=notional, clock=clock)
    async with aclosing(outcomes):
        async for outcome in outcomes:
            if isinstance(outcome, Snapshot):
                yield replace(outcome, missed=tuple(missed))
                missed.clear()
            else:
                join(missed, outcome, period)


async def check(
    reader: Reader, symbols: Iterable[str] | None = None, *, every: float, notional: bool = False
) -> None:
    """Raise at once what `sweeps` would raise with its first outcome.

    An exchange that does not answer is no reason: see `sweeps` for what is.
    """
    await _Market(reader, symbols, every, notional).refresh(NAP)


async def sweeps(
    reader: Reader,
    symbols: Iterable[str] | None = None,
    *,
    every: float,
    notional: bool = False,
    clock: Callable[[], float] = time.time,
    begin: int | None = None,
) -> AsyncGenerator[Snapshot | Gap, None]:
    """What becomes of every slot, one after the other, for ever: a snapshot or a gap.

    Args:
        reader: A client.
        symbols: None follows the exchange's list.
        every: Seconds from slot to slot.
        notional: Read mark prices as well.
        clock: Unix seconds.
        begin: The first slot, Unix ms, at most a period away; None begins with the next one.

    Raises:
        ValueError: The schedule does not fit into the budget.
        InvalidSymbolError: The exchange lists none of `symbols`.
        ClientClosedError: The client was closed.
    """
    schedule = Schedule(period_ms(every), clock)
    slot = schedule.next_slot() if begin is None else begin
    market = _Market(reader, symbols, every, notional)
    await market.refresh(NAP)
    told = ""
    while True:
        outcomes = await _outcomes(market, schedule, slot)
        slot = schedule.after(outcomes[-1])
        for outcome in outcomes:
            told = _tell(outcome, told)
            yield outcome


async def _outcomes(market: "_Market", schedule: Schedule, slot: int) -> Sequence[Snapshot | Gap]:
    """Wait for `slot`, and give what becomes of it and of those that pass meanwhile."""
    reached = await schedule.reach(slot, LEAD)
    if reached:
        await market.refresh(schedule.seconds_to(slot))
        reached = await schedule.reach(slot)
    if not reached:
        return [schedule.restart(slot)]
    return schedule.skipped(slot) or await _sweep(market, schedule, slot)


async def _sweep(market: "_Market", schedule: Schedule, slot: int) -> list[Snapshot | Gap]:
    """What becomes of `slot`, and of those that pass meanwhile."""
    gaps: list[Gap] = []
    sweep = asyncio.create_task(market.sweep(slot))
    try:
        passing = slot + schedule.period
        while not await schedule.done_before(sweep, passing):
            for gap in schedule.passed(passing, *market.obstacle(slot)):
                join(gaps, gap, schedule.period)
            passing = schedule.after(gaps[-1])
    finally:
        sweep.cancel()
        await asyncio.wait({sweep})
    return [sweep.result(), *gaps]


def _tell(outcome: Snapshot | Gap, told: str) -> str:
    """Log a gap, unless the one before it had the same reason; a set clock each time."""
    if isinstance(outcome, Snapshot):
        return ""
    if outcome.last < outcome.first:
        logger.warning("the schedule goes on at %s", outcome)
    elif outcome.reason != told or outcome.reason == "clock":
        logger.warning("no snapshot for %s", outcome)
    return outcome.reason


class _Market:
    """What is swept, and what was seen of it before.

    Symbols that the caller names need no listing. When there is one, it says which of them are not
    asked for, since the exchange would refuse them: those are errors of each snapshot.
    """

    def __init__(
        self, reader: Reader, symbols: Iterable[str] | None, every: float, notional: bool
    ) -> None:
        self._reader = reader
        self._wanted = None if symbols is None else check_symbols(symbols)
        self._every, self._notional = every, notional
        self._names: tuple[str, ...] | None = None
        self._absent: dict[str, BinanceOIError] = {}  # named, and not asked for
        self._listed = False  # a listing was read
        self._refused = frozenset[str]()  # named, and of no use in the sweep before
        self._priceless = False  # the sweep before has no mark prices, and should
        self._times: dict[str, int] = {}

    async def refresh(self, seconds: float) -> None:
        """Read the list of symbols again when it is old; keep the old one when that fails."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                info = await self._reader.exchange_info(max_age=LISTING_AGE)
        except ClientClosedError:
            raise
        except (BinanceOIError, TimeoutError) as error:
            logger.debug("the list of symbols was not read: %s", error)
            if self._names is None and self._wanted is not None:
                self._read(self._wanted)
        else:
            self._follow(info)

    def _follow(self, info: ExchangeInfo) -> None:
        """Read what a listing says that there is to read."""
        if self._wanted is None:
            self._read(info.trading)
            return
        absent = _absent(self._wanted, info)
        if not self._listed:
            self._check_listed(self._wanted, absent)
        self._listed, self._absent = True, absent
        self._read(tuple(name for name in self._wanted if name not in absent))

    def _read(self, names: tuple[str, ...]) -> None:
        """From now on sweep these.

        Raises:
            ValueError: They are the first, and the schedule does not fit into the budget.
        """
        if names == self._names:
            return
        problem = self._misfit(len(names))
        if self._names is None and problem:
            raise ValueError(problem)
        if self._names is not None:
            _tell_change(self._names, names)
            if problem:
                logger.warning("%s", problem)
        self._names = names

    def _check_listed(self, wanted: Sequence[str], absent: Mapping[str, BinanceOIError]) -> None:
        unknown = [name for name in wanted if isinstance(absent.get(name), UnknownSymbolError)]
        if unknown and len(unknown) == len(wanted):
            others = ", nor any other that was named" if unknown[1:] else ""
            raise InvalidSymbolError(unknown[0], f"the exchange does not list it{others}")

    def _misfit(self, count: int) -> str:
        """Why so many symbols cannot be read on this schedule; empty when they can.

        Source: [D] 2400 weight per minute and IP; one request for each symbol, weight 1.
        """
        usage = self._reader.usage
        weight = count + (PREMIUM_INDEX.weight if self._notional else 0)
        rate = weight * WEIGHT.seconds / self._every
        listing = WEIGHT.seconds / max(LISTING_AGE, self._every)
        budget = int(min(usage.limit - usage.reserve, usage.share, usage.sustained))
        if rate <= budget - listing:
            return ""
        slower = math.ceil(weight * WEIGHT.seconds / (budget - listing)) if budget > listing else 0
        return (
            f"{count} symbols every {self._every:g} s take {rate:.0f} weight"
            f" a minute, and the budget is {budget} (limit {usage.limit}, reserve {usage.reserve},"
            f" share {usage.share}); "
            + (f"every {slower} s is possible" if slower else "that is too little for any")
        )

    async def sweep(self, slot: int) -> Snapshot | Gap:
        """The snapshot for `slot`, or why there is none."""
        try:
            if self._names is None:
                self._follow(await self._reader.exchange_info(max_age=LISTING_AGE))
            if self._absent and not self._names:
                return self._gap(slot, self._absent)
            snapshot = await self._reader.snapshot(
                self._names, notional=self._notional, deadline=self._every + LONGEST_HOLD
            )
        except (ClientClosedError, InvalidSymbolError):
            raise
        except BinanceOIError as error:
            return Gap(slot, slot, reason(error), str(error))
        if snapshot.errors and not snapshot:
            return self._gap(slot, snapshot.errors)
        errors = self._with_absent(snapshot.errors)
        self._tell_refused(errors)
        self._tell_priceless(snapshot.notional_error)
        return replace(
            snapshot,
            errors=errors,
            slot=instant(slot),
            unchanged=self._unchanged(snapshot),
        )

    def _gap(self, slot: int, errors: Mapping[str, BinanceOIError]) -> Gap:
        first = next(iter(errors.values()))
        return Gap(slot, slot, reason(first), str(first))

    def _with_absent(self, errors: Mapping[str, BinanceOIError]) -> Mapping[str, BinanceOIError]:
        """The errors of a sweep and of what was not asked for, in the order asked for."""
        if not self._absent:
            return errors
        known = {**errors, **self._absent}
        return {name: known[name] for name in self._wanted or () if name in known}

    def _tell_refused(self, errors: Mapping[str, BinanceOIError]) -> None:
        """Warn once of symbols that the caller names and that cannot be read."""
        if self._wanted is None:
            return
        refused = {n: e for n, e in errors.items() if isinstance(e, _REFUSED)}
        if new := refused.keys() - self._refused:
            texts = (f"{name} ({error})" for name, error in refused.items() if name in new)
            logger.warning("symbols are left out: %s", ", ".join(texts))
        self._refused = frozenset(refused)

    def _tell_priceless(self, error: BinanceOIError | None) -> None:
        """Warn once that snapshots have no mark prices, until they have some again."""
        if error is not None and not self._priceless:
            logger.warning("there are no mark prices: %s", error)
        self._priceless = error is not None

    def _unchanged(self, snapshot: Snapshot) -> frozenset[str]:
        """A time that goes back is another server's older answer: nothing new either."""
        old = frozenset(n for n, v in snapshot.items() if v.time <= self._times.get(n, -1))
        self._times.update({n: v.time for n, v in snapshot.items() if n not in old})
        return old

    def obstacle(self, begun: int) -> tuple[str, str]:
        """Why the sweep for `begun` is still under way."""
        usage = self._reader.usage
        since = f"the sweep of {instant(begun):%T} is under way"
        if Reason.CAUTION in usage.waiting_for:
            since += EVENLY
        if usage.banned_until is not None:
            return "banned", f"until {plain(usage.banned_until)} UTC"
        if usage.held_until is not None:
            return "limited", f"{since}; nothing is sent before {plain(usage.held_until)} UTC"
        return "overrun", since


def _absent(wanted: Iterable[str], info: ExchangeInfo) -> dict[str, BinanceOIError]:
    """Those of `wanted` that the listing says the exchange would refuse, and how.

    Where rows of the listing are left out, a name that it does not have may be one of them; the
    exchange is asked for it.
    """
    statuses = {listed.symbol: listed.status for listed in info.symbols}
    trading, absent = set(info.trading), dict[str, BinanceOIError]()
    for name in wanted:
        if name in trading:
            continue
        if name in statuses:
            text = f"the exchange lists it as {printable(statuses[name], 60)}"
            absent[name] = SymbolNotTradingError(200, None, text)
        elif not info.left_out:
            absent[name] = UnknownSymbolError(200, None, "the exchange does not list it")
    return absent


def _tell_change(before: tuple[str, ...], after: tuple[str, ...]) -> None:
    old, new = set(before), set(after)
    joined = [name for name in after if name not in old]
    left = [name for name in before if name not in new]
    logger.info("symbols that joined: %s; that left: %s", joined, left)
