"""Snapshots on a schedule that follows the clock.

The rule of this file: no slot is lost silently. For each slot, in order, `sweeps` yields a
snapshot, or a `Gap` with its reason. `poll` puts these gaps into `Snapshot.missed`:

    overrun     the previous sweep was still running
    limited     a 429 made this sweep fail, or the previous one still waited for a cooldown to end
    banned      the exchange had banned this IP address
    budget      the budget had no room in time; or the schedule does not fit into the budget, and
                a slower one runs instead
    forbidden   the firewall refused the requests, or the exchange does not serve this region
    outage      the exchange failed, or the network did
    unknown, not_trading   the exchange has no open interest for any of the named symbols
    late        the caller did not take the next snapshot in time, or the machine was suspended
    clock       someone set the clock of this machine forward, past these slots

If someone sets the clock back, slots occur a second time. Then no slot is missing, so the gap with
the reason `clock` is empty: it begins at the slot with which the schedule continues, and ends
before that slot.

A recorder adds two reasons: `storage` (it has read the sweep, but could not write it) and `stopped`
(no recorder ran).

Slots are multiples of the period since 1970: every 20 s means :00, :20 and :40. The time that a
sweep takes does not shift the next slot.
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
    NOT_LISTED,
    BinanceOIError,
    ClientClosedError,
    InvalidSymbolError,
    Reason,
    SymbolNotTradingError,
    UnknownSymbolError,
    printable,
)
from binance_oi.exchange.models import ExchangeInfo
from binance_oi.exchange.symbols import check_symbols
from binance_oi.market.gap import Gap, add_gap, gap_reason
from binance_oi.market.listing import LISTING_AGE
from binance_oi.market.plan import MisfitError
from binance_oi.market.pollers import ClientPoll, NoDemands, Pollers, Sharing
from binance_oi.market.requested import RequestedSlots
from binance_oi.market.schedule import LONGEST_SLEEP, Schedule, next_slot, period_ms
from binance_oi.market.snapshot import Snapshot
from binance_oi.times import instant, plain

logger: logging.Logger = logging.getLogger("binance_oi")

LISTING_LEAD = 5.0  # s before a slot at which we read the list of symbols again, if it is old
_REFUSED = (UnknownSymbolError, SymbolNotTradingError)
CAREFULLY = "; shortly after a start or a ban, requests are held back"
LONGEST_COOLDOWN = 60.0  # s that a sweep may wait after a 429: usually until the minute ends


class Reader(Protocol):
    """The calls of a client that polling uses."""

    @property
    def usage(self) -> Usage:
        """The state of the budget at this moment."""
        ...

    async def exchange_info(self, *, max_age: float = 0.0) -> ExchangeInfo:
        """Read every listed symbol."""
        ...

    async def snapshot(
        self,
        symbols: Iterable[str] | None = None,
        *,
        notional: bool = False,
        deadline: float | None = None,
    ) -> Snapshot:
        """Read open interest of many symbols."""
        ...


async def poll(
    reader: Reader,
    symbols: Iterable[str] | None = None,
    *,
    every: float | None = None,
    notional: bool = False,
    clock: Callable[[], float] = time.time,
    begin: int | None = None,
    plan: "Plan | None" = None,
) -> AsyncGenerator[Snapshot, None]:
    """Yield snapshots on a schedule; `Snapshot.missed` has the slots missed before each one.

    See `binance_oi.client.OpenInterestClient.poll`, and `sweeps` for `begin` and `plan`.
    """
    plan, missed = plan or Plan(reader, symbols, every, notional), list[Gap]()
    outcomes = sweeps(reader, clock=clock, begin=begin, plan=plan)
    async with aclosing(outcomes):
        async for outcome in outcomes:
            if isinstance(outcome, Snapshot):
                yield replace(outcome, missed=tuple(missed))
                missed.clear()
            else:
                add_gap(missed, outcome, plan.period)


async def begin_plan(
    reader: Reader,
    symbols: Iterable[str] | None = None,
    *,
    every: float | None = None,
    notional: bool = False,
) -> "Plan":
    """Begin a plan for `sweeps`, and declare its demand to other polls.

    `begin_plan` raises the errors of `sweeps`, except one: if the requested schedule does not fit
    into the budget, the error is in `Plan.misfit`. If the list of symbols could not be read, the
    error is in `Plan.trouble`. At the end the caller must call `Plan.end`.
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
    """Yield the outcome of every slot in order, without end: a snapshot or a gap.

    If the schedule no longer fits into the budget, the poll continues with the next slower schedule
    of `plan.AUTOMATIC` that fits, if there is one. For the requested slots that this schedule
    omits, the poll yields gaps with the reason `budget`.

    Args:
        reader: A client.
        symbols: The symbols to read; None follows the exchange's list.
        every: Seconds from slot to slot; None chooses the shortest schedule that fits.
        notional: Whether to read mark prices too.
        clock: Returns Unix seconds.
        begin: The first slot, Unix ms, at most a period away; None for the next one.
        plan: A plan of `begin_plan`, in place of `symbols`, `every` and `notional`.

    Raises:
        ValueError: `every` is out of range, or the schedule does not fit into the budget.
        InvalidSymbolError: One of `symbols` cannot be a symbol, or the exchange lists none of them.
        ClientClosedError: The client was closed.
    """
    market = plan or Plan(reader, symbols, every, notional)
    try:
        await market.begin()
        market.check_fits()
        async for outcome in _run_plan(market, clock, begin):
            yield outcome
    finally:
        market.end()


async def _run_plan(
    market: "Plan", clock: Callable[[], float], begin: int | None
) -> AsyncGenerator[Snapshot | Gap, None]:
    """Yield the outcomes of a plan that has begun."""
    schedule = Schedule(market.step, clock, market.pause)
    first = next_slot(clock, market.period) if begin is None else begin
    requested = RequestedSlots(market.period, first)
    slot = -(-first // schedule.period) * schedule.period
    logged = why = ""
    while True:
        step, why = schedule.period, market.why or why
        outcomes = await _outcomes(market, schedule, slot)
        for outcome in outcomes:
            logged = _log_gap(outcome, logged)
            for known in requested.account(outcome, step, ("budget", why)):
                yield known
        if outcomes:
            slot = schedule.after(outcomes[-1])
        market.renew()
        if market.step != schedule.period:
            last, schedule.period = slot - step, market.step
            slot = schedule.slot_after(last)


async def _outcomes(market: "Plan", schedule: Schedule, slot: int) -> Sequence[Snapshot | Gap]:
    """Wait for `slot`; return its outcome, and those of the slots that pass during its sweep.

    The list is empty if the plan switches to another schedule before the slot.
    """
    reached = await schedule.reach(slot, LISTING_LEAD)
    if reached:
        await market.refresh(schedule.seconds_to(slot))
        if market.step != schedule.period:
            return []
        reached = await schedule.reach(slot)
    if not reached:
        return [schedule.restart(slot)]
    return schedule.skipped(slot) or await _sweep(market, schedule, slot)


async def _sweep(market: "Plan", schedule: Schedule, slot: int) -> list[Snapshot | Gap]:
    """Sweep for `slot`; return its outcome, and gaps of the slots that pass during the sweep."""
    gaps: list[Gap] = []
    due = asyncio.get_running_loop().time() + schedule.seconds_to(slot)
    sweep = asyncio.create_task(market.sweep(slot, due))
    try:
        passing = slot + schedule.period
        while not await schedule.done_before(sweep, passing):
            for gap in schedule.passed(passing, *market.obstacle(slot)):
                add_gap(gaps, gap, schedule.period)
            passing = schedule.after(gaps[-1])
    finally:
        sweep.cancel()
        await asyncio.wait({sweep})
    return [sweep.result(), *gaps]


def _log_gap(outcome: Snapshot | Gap, logged: str) -> str:
    """Log a gap unless the previous outcome had the same reason; always log the reason `clock`."""
    if isinstance(outcome, Snapshot):
        return ""
    if outcome.last < outcome.first:
        logger.warning("the schedule continues at %s", outcome)
    elif outcome.reason != logged or outcome.reason == "clock":
        logger.warning("no snapshot for %s", outcome)
    return outcome.reason


class Plan:
    """The symbols of a poll, its schedule, and its state from sweep to sweep.

    If the caller names the symbols, the poll can begin without the exchange's list. As soon as it
    has the list, its sweeps omit named symbols that the exchange would refuse. Each snapshot then
    has an error for each of these symbols.
    """

    def __init__(
        self, reader: Reader, symbols: Iterable[str] | None, every: float | None, notional: bool
    ) -> None:
        if every is not None:
            period_ms(every)
        self._reader = reader
        self._wanted = None if symbols is None else check_symbols(symbols)
        self._poll = ClientPoll(_pollers_of(reader), every, notional)
        self._is_begun = self._yields = False
        self._names: tuple[str, ...] | None = None
        self._absent: dict[str, BinanceOIError] = {}  # named symbols that the sweeps omit
        self._listed = False  # whether we have read the exchange's list
        self._refused = frozenset[str]()  # named symbols that the previous sweep could not read
        self._priceless = False  # whether the previous sweep could not read mark prices
        self._times: dict[str, int] = {}  # the latest transaction time of each symbol, Unix ms
        self.trouble: BinanceOIError | TimeoutError | None = None
        """Why the latest `refresh` could not read the list of symbols; None if it could."""

    # -- the schedule ------------------------------------------------------------------------

    @property
    def period(self) -> int:
        """From slot to slot of the requested or chosen schedule, ms."""
        return period_ms(self._poll.requested)

    @property
    def step(self) -> int:
        """From slot to slot of the schedule that runs now, ms."""
        return period_ms(self._poll.every)

    @property
    def why(self) -> str:
        """Why `step` is not `period`; empty if it is."""
        return self._poll.why

    @property
    def misfit(self) -> MisfitError | None:
        """Why the requested schedule does not fit into the budget; None if it does."""
        return self._poll.misfit

    async def begin(self) -> None:
        """Read the list of symbols and choose a schedule; a second call does nothing.

        Raises:
            ValueError: None of the automatic schedules fits into the budget.
            InvalidSymbolError: The exchange lists none of the symbols.
            ClientClosedError: The client was closed.
        """
        if not self._is_begun:
            await self.refresh(LONGEST_SLEEP)
            self._poll.begin_without_list()
            self._is_begun = True
            if self._names is None:
                logger.warning("the list of symbols could not be read yet: %s", self.trouble)

    def check_fits(self) -> None:
        """Raise `misfit` if there is one, unless the caller has called `yield_room`."""
        if self._poll.misfit is not None and not self._yields:
            raise self._poll.misfit

    def yield_room(self) -> None:
        """Run the next slower schedule if the requested one does not fit, now or later."""
        self._yields = True
        if self._poll.misfit is not None:
            self._poll.yield_room()

    def renew(self) -> None:
        """Declare the demand again, and run the schedule that fits now."""
        self._poll.renew()

    def end(self) -> None:
        """End the poll, and withdraw its demand."""
        self._poll.leave()

    async def pause(self, seconds: float) -> None:
        """Sleep; raise `ClientClosedError` as soon as the client is closed."""
        await self._poll.pause(seconds)

    # -- the symbols -------------------------------------------------------------------------

    async def refresh(self, seconds: float) -> None:
        """Read the list of symbols again if it is old; if that fails, keep the old list."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                info = await self._reader.exchange_info(max_age=LISTING_AGE)
        except ClientClosedError:
            raise
        except (BinanceOIError, TimeoutError) as error:
            logger.debug("the list of symbols could not be read: %s", error)
            self.trouble = error
            if self._names is None and self._wanted is not None:
                self._set_names(self._wanted)
        else:
            self.trouble = None
            self._apply_list(info)

    def _apply_list(self, info: ExchangeInfo) -> None:
        """From now on, sweep the symbols that the list allows."""
        if self._wanted is None:
            self._set_names(info.trading)
            return
        absent = _absent(self._wanted, info)
        if not self._listed:
            self._check_listed(self._wanted, absent)
        self._listed, self._absent = True, absent
        self._set_names(tuple(name for name in self._wanted if name not in absent))

    def _set_names(self, names: tuple[str, ...]) -> None:
        """From now on, sweep these symbols."""
        if names == self._names:
            return
        if self._names is not None:
            _log_change(self._names, names)
        self._names = names
        self._poll.read(names)
        if self._yields:
            self.yield_room()
        elif self._is_begun:
            self.check_fits()

    def _check_listed(self, wanted: Sequence[str], absent: Mapping[str, BinanceOIError]) -> None:
        unknown = [name for name in wanted if isinstance(absent.get(name), UnknownSymbolError)]
        if unknown and len(unknown) == len(wanted):
            others = ", nor any other named symbol" if unknown[1:] else ""
            raise InvalidSymbolError(unknown[0], f"{NOT_LISTED}{others}")

    async def sweep(self, slot: int, due: float) -> Snapshot | Gap:
        """Sweep for `slot`, which is due at loop time `due`; return the snapshot or a gap."""
        try:
            if self._names is None:
                self._apply_list(await self._reader.exchange_info(max_age=LISTING_AGE))
            if self._absent and not self._names:
                return self._gap(slot, self._absent)
            deadline = self._poll.every + LONGEST_COOLDOWN
            snapshot = await self._poll.sweep(deadline, due)
        except (ClientClosedError, InvalidSymbolError):
            raise
        except BinanceOIError as error:
            return Gap(slot, slot, gap_reason(error), str(error))
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
        return Gap(slot, slot, gap_reason(first), str(first))

    def _with_absent(self, errors: Mapping[str, BinanceOIError]) -> Mapping[str, BinanceOIError]:
        """Return the errors of a sweep and those of `_absent`, in the order of the request."""
        if not self._absent:
            return errors
        known = {**errors, **self._absent}
        return {name: known[name] for name in self._wanted or () if name in known}

    def _warn_of_refused(self, errors: Mapping[str, BinanceOIError]) -> None:
        """Warn of each named symbol that the exchange refuses, but did not refuse before."""
        if self._wanted is None:
            return
        refused = {n: e for n, e in errors.items() if isinstance(e, _REFUSED)}
        if new := refused.keys() - self._refused:
            texts = (f"{name} ({error})" for name, error in refused.items() if name in new)
            logger.warning("symbols are left out: %s", ", ".join(texts))
        self._refused = frozenset(refused)

    def _warn_of_no_prices(self, error: BinanceOIError | None) -> None:
        """Warn if a sweep could not read mark prices; again only after one could."""
        if error is not None and not self._priceless:
            logger.warning("the mark prices could not be read: %s", error)
        self._priceless = error is not None

    def _unchanged(self, snapshot: Snapshot) -> frozenset[str]:
        """Return the symbols without a new value; a value with an earlier time is not new."""
        old = frozenset(n for n, v in snapshot.items() if v.time <= self._times.get(n, -1))
        self._times.update({n: v.time for n, v in snapshot.items() if n not in old})
        return old

    def obstacle(self, begun: int) -> tuple[str, str]:
        """Return the reason and the detail of a gap during the sweep for slot `begun`."""
        usage = self._reader.usage
        since = f"the sweep of {instant(begun):%T} is under way"
        if Reason.CAUTION in usage.waiting_for:
            since += CAREFULLY
        if usage.banned_until is not None:
            return "banned", f"until {plain(usage.banned_until)} UTC"
        if usage.held_until is not None:
            return "limited", f"{since}; nothing is sent before {plain(usage.held_until)} UTC"
        return "overrun", since


def _pollers_of(reader: Reader) -> Pollers:
    """Return the polls of the reader's client; new ones if the reader is not `Sharing`."""
    if isinstance(reader, Sharing):
        return reader.pollers

    def sweep(
        names: Sequence[str], *, notional: bool, deadline: float, since: float | None
    ) -> Awaitable[Snapshot]:
        return reader.snapshot(names, notional=notional, deadline=deadline)

    return Pollers(NoDemands(), lambda: reader.usage, sweep, asyncio.sleep)


def _absent(wanted: Iterable[str], info: ExchangeInfo) -> dict[str, BinanceOIError]:
    """Return an error for each named symbol that the exchange would refuse, according to its list.

    If our decoder has omitted rows of the list, a missing name may be one of them. Then the sweep
    requests the symbol.
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
            absent[name] = UnknownSymbolError(200, None, NOT_LISTED)
    return absent


def _log_change(before: tuple[str, ...], after: tuple[str, ...]) -> None:
    old, new = set(before), set(after)
    joined = [name for name in after if name not in old]
    left = [name for name in before if name not in new]
    logger.info("symbols joined: %s; left: %s", joined, left)
