"""Snapshots on a schedule that follows the clock.

The rule of this file: no slot is lost in silence. Every instant of the schedule gives a snapshot
or is in a `Gap` with its reason, in the order of the schedule:

    overrun     the sweep before it was still under way
    limited     the same, because the exchange said 429 and nothing may be sent
    banned      this IP address is banned
    budget      no room in the budget, in time; or a slower schedule is kept, because this one
                does not fit into it
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
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

from binance_oi.budget.usage import Usage
from binance_oi.errors import (
    BinanceOIError,
    ClientClosedError,
    InvalidSymbolError,
    SymbolNotTradingError,
    UnknownSymbolError,
    printable,
)
from binance_oi.exchange.models import ExchangeInfo
from binance_oi.exchange.symbols import check_symbols
from binance_oi.market.asked import Asked
from binance_oi.market.gap import Gap, join, reason
from binance_oi.market.listing import LISTING_AGE
from binance_oi.market.plan import MisfitError
from binance_oi.market.pollers import Alone, Pollers, Sharing, Standing
from binance_oi.market.schedule import NAP, Schedule, next_slot, period_ms
from binance_oi.market.snapshot import Snapshot
from binance_oi.times import instant, plain

logger: logging.Logger = logging.getLogger("binance_oi")

LEAD = 5.0  # s before a slot at which that is done
_REFUSED = (UnknownSymbolError, SymbolNotTradingError)
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
    every: float | None = None,
    notional: bool = False,
    clock: Callable[[], float] = time.time,
) -> AsyncGenerator[Snapshot, None]:
    """Snapshots on a schedule; what is missing between two of them is in `Snapshot.missed`.

    See `binance_oi.client.OpenInterestClient.poll`.
    """
    plan, missed = Plan(reader, symbols, every, notional), list[Gap]()
    outcomes = sweeps(reader, clock=clock, plan=plan)
    async with aclosing(outcomes):
        async for outcome in outcomes:
            if isinstance(outcome, Snapshot):
                yield replace(outcome, missed=tuple(missed))
                missed.clear()
            else:
                join(missed, outcome, plan.period)


async def planned(
    reader: Reader,
    symbols: Iterable[str] | None = None,
    *,
    every: float | None = None,
    notional: bool = False,
) -> "Plan":
    """A schedule for `sweeps`, whose demand others see already. Call `Plan.end` in the end.

    An exchange that does not answer is no reason to raise: see `sweeps` for what is, and
    `Plan.trouble`. A schedule that does not fit is `Plan.misfit`, and not raised.
    """
    plan = Plan(reader, symbols, every, notional)
    try:
        await plan.begin()
    except BaseException:
        plan.end()
        raise
    return plan


async def sweeps(
    reader: Reader,
    symbols: Iterable[str] | None = None,
    *,
    every: float | None = None,
    notional: bool = False,
    clock: Callable[[], float] = time.time,
    begin: int | None = None,
    plan: "Plan | None" = None,
) -> AsyncGenerator[Snapshot | Gap, None]:
    """What becomes of every slot, one after the other, for ever: a snapshot or a gap.

    A schedule that stops fitting into the budget goes on at the next one of `plan.AUTOMATIC` that
    fits. The slots that were asked for and are not swept then are gaps `budget`.

    Args:
        reader: A client.
        symbols: None follows the exchange's list.
        every: Seconds from slot to slot; None takes the shortest schedule that fits.
        notional: Read mark prices as well.
        clock: Unix seconds.
        begin: The first slot, Unix ms, at most a period away; None begins with the next one.
        plan: What `planned` gave, instead of `symbols`, `every` and `notional`. It goes on also
            where it does not fit.

    Raises:
        ValueError: The schedule does not fit into the budget.
        InvalidSymbolError: The exchange lists none of `symbols`.
        ClientClosedError: The client was closed.
    """
    market = plan or Plan(reader, symbols, every, notional)
    try:
        await market.begin()
        market.check_fits()
        async for outcome in _follow(market, clock, begin):
            yield outcome
    finally:
        market.end()


async def _follow(
    market: "Plan", clock: Callable[[], float], begin: int | None
) -> AsyncGenerator[Snapshot | Gap, None]:
    """`sweeps` of a plan that has begun."""
    schedule = Schedule(market.step, clock, market.pause)
    first = next_slot(clock, market.period) if begin is None else begin
    asked, slot = Asked(market.period, first), -(-first // schedule.period) * schedule.period
    said = why = ""
    while True:
        step, why = schedule.period, market.why or why
        outcomes = await _outcomes(market, schedule, slot)
        for outcome in outcomes:
            said = _say(outcome, said)
            for known in asked.account(outcome, step, ("budget", why)):
                yield known
        if outcomes:
            slot = schedule.after(outcomes[-1])
        market.renew()
        if market.step != schedule.period:
            last, schedule.period = slot - step, market.step
            slot = schedule.slot_after(last)


async def _outcomes(market: "Plan", schedule: Schedule, slot: int) -> Sequence[Snapshot | Gap]:
    """Wait for `slot`, and give what becomes of it and of those that pass meanwhile.

    Nothing, when another schedule is to be kept.
    """
    reached = await schedule.reach(slot, LEAD)
    if reached:
        await market.refresh(schedule.seconds_to(slot))
        if market.step != schedule.period:
            return []
        reached = await schedule.reach(slot)
    if not reached:
        return [schedule.restart(slot)]
    return schedule.skipped(slot) or await _sweep(market, schedule, slot)


async def _sweep(market: "Plan", schedule: Schedule, slot: int) -> list[Snapshot | Gap]:
    """What becomes of `slot`, and of those that pass meanwhile."""
    gaps: list[Gap] = []
    due = asyncio.get_running_loop().time() + schedule.seconds_to(slot)
    sweep = asyncio.create_task(market.sweep(slot, due))
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


def _say(outcome: Snapshot | Gap, said: str) -> str:
    """Log a gap, unless the one before it had the same reason; a set clock each time."""
    if isinstance(outcome, Snapshot):
        return ""
    if outcome.last < outcome.first:
        logger.warning("the schedule goes on at %s", outcome)
    elif outcome.reason != said or outcome.reason == "clock":
        logger.warning("no snapshot for %s", outcome)
    return outcome.reason


class Plan:
    """What is swept, how often, and what was seen of it before.

    Symbols that the caller names need no listing. When there is one, it says which of them are not
    asked for, since the exchange would refuse them: those are errors of each snapshot.
    """

    def __init__(
        self, reader: Reader, symbols: Iterable[str] | None, every: float | None, notional: bool
    ) -> None:
        if every is not None:
            period_ms(every)
        self._reader = reader
        self._wanted = None if symbols is None else check_symbols(symbols)
        self._standing = Standing(_pollers_of(reader), every, notional)
        self._is_begun = self._yields = False
        self._names: tuple[str, ...] | None = None
        self._absent: dict[str, BinanceOIError] = {}  # named, and not asked for
        self._listed = False  # a listing was read
        self._refused = frozenset[str]()  # named, and of no use in the sweep before
        self._priceless = False  # the sweep before has no mark prices, and should
        self._times: dict[str, int] = {}
        self.trouble: BinanceOIError | TimeoutError | None = None
        """Why the list of symbols was not read when it was needed last; None when it was."""

    # -- the schedule ------------------------------------------------------------------------

    @property
    def period(self) -> int:
        """From slot to slot of the schedule that was asked for, or chosen, ms."""
        return period_ms(self._standing.asked)

    @property
    def step(self) -> int:
        """From slot to slot of the schedule that is kept now, ms."""
        return period_ms(self._standing.every)

    @property
    def why(self) -> str:
        """Why these are two; empty when they are one."""
        return self._standing.why

    @property
    def misfit(self) -> MisfitError | None:
        """Why the schedule that was asked for does not fit; None when it does."""
        return self._standing.misfit

    async def begin(self) -> None:
        """Read the list of symbols and choose a schedule, unless that was done before.

        Raises:
            ValueError: None of the schedules to choose from fits into the budget.
            InvalidSymbolError: The exchange lists none of the symbols.
            ClientClosedError: The client was closed.
        """
        if not self._is_begun:
            await self.refresh(NAP)
            self._standing.begin_without_list()
            self._is_begun = True
            if self._names is None:
                logger.warning("the list of symbols was not read yet: %s", self.trouble)

    def check_fits(self) -> None:
        """Raise a misfit, unless this plan is to go on in spite of it."""
        if self._standing.misfit is not None and not self._yields:
            raise self._standing.misfit

    def yield_room(self) -> None:
        """Go on also where the schedule does not fit: at the next one that does."""
        self._yields = True
        if self._standing.misfit is not None:
            self._standing.yield_room()

    def renew(self) -> None:
        """The schedule goes on, if it fits."""
        self._standing.renew()

    def end(self) -> None:
        """Nothing is swept any more."""
        self._standing.leave()

    async def pause(self, seconds: float) -> None:
        """Sleep; `ClientClosedError` as soon as the client is closed."""
        await self._standing.pause(seconds)

    # -- the symbols -------------------------------------------------------------------------

    async def refresh(self, seconds: float) -> None:
        """Read the list of symbols again when it is old; keep the old one when that fails."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                info = await self._reader.exchange_info(max_age=LISTING_AGE)
        except ClientClosedError:
            raise
        except (BinanceOIError, TimeoutError) as error:
            logger.debug("the list of symbols was not read: %s", error)
            self.trouble = error
            if self._names is None and self._wanted is not None:
                self._read(self._wanted)
        else:
            self.trouble = None
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
        """From now on sweep these."""
        if names == self._names:
            return
        if self._names is not None:
            _log_change(self._names, names)
        self._names = names
        self._standing.read(names)
        if self._yields:
            self.yield_room()
        elif self._is_begun:
            self.check_fits()

    def _check_listed(self, wanted: Sequence[str], absent: Mapping[str, BinanceOIError]) -> None:
        unknown = [name for name in wanted if isinstance(absent.get(name), UnknownSymbolError)]
        if unknown and len(unknown) == len(wanted):
            others = ", nor any other that was named" if unknown[1:] else ""
            raise InvalidSymbolError(unknown[0], f"the exchange does not list it{others}")

    async def sweep(self, slot: int, due: float) -> Snapshot | Gap:
        """The snapshot for `slot`, which was due at loop time `due`, or why there is none."""
        try:
            if self._names is None:
                self._follow(await self._reader.exchange_info(max_age=LISTING_AGE))
            if self._absent and not self._names:
                return self._gap(slot, self._absent)
            deadline = self._standing.every + LONGEST_HOLD
            snapshot = await self._standing.sweep(deadline, due)
        except (ClientClosedError, InvalidSymbolError):
            raise
        except BinanceOIError as error:
            return Gap(slot, slot, reason(error), str(error))
        if snapshot.errors and not snapshot:
            return self._gap(slot, snapshot.errors)
        errors = self._with_absent(snapshot.errors)
        self._warn_of_refused(errors)
        self._warn_of_no_prices(snapshot.notional_error)
        return replace(
            snapshot,
            errors=errors,
            slot=instant(slot),
            next_slot=instant((slot // self.step + 1) * self.step),
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

    def _warn_of_refused(self, errors: Mapping[str, BinanceOIError]) -> None:
        """Warn once of symbols that the caller names and that cannot be read."""
        if self._wanted is None:
            return
        refused = {n: e for n, e in errors.items() if isinstance(e, _REFUSED)}
        if new := refused.keys() - self._refused:
            texts = (f"{name} ({error})" for name, error in refused.items() if name in new)
            logger.warning("symbols are left out: %s", ", ".join(texts))
        self._refused = frozenset(refused)

    def _warn_of_no_prices(self, error: BinanceOIError | None) -> None:
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
        if usage.banned_until is not None:
            return "banned", f"until {plain(usage.banned_until)} UTC"
        if usage.held_until is not None:
            return "limited", f"{since}; nothing is sent before {plain(usage.held_until)} UTC"
        return "overrun", since


def _pollers_of(reader: Reader) -> Pollers:
    """The polls of its client; of a reader that shares nothing, its own."""
    if isinstance(reader, Sharing):
        return reader.pollers

    def sweep(
        names: Sequence[str], *, notional: bool, deadline: float, since: float | None
    ) -> Awaitable[Snapshot]:
        return reader.snapshot(names, notional=notional, deadline=deadline)

    return Pollers(Alone(), lambda: reader.usage, sweep, asyncio.sleep)


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


def _log_change(before: tuple[str, ...], after: tuple[str, ...]) -> None:
    old, new = set(before), set(after)
    joined = [name for name in after if name not in old]
    left = [name for name in before if name not in new]
    logger.info("symbols that joined: %s; that left: %s", joined, left)
