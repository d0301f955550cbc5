"""Computes the weight that the polls of one client need together, and chooses their schedules.

The rule of this file: polls that request the same period are one group. They share their requests,
so each symbol of the group costs weight only once. They share one schedule, so their slots are the
same. If a group no longer fits into the budget, it runs the next slower schedule that fits. When
there is room again, it returns to the requested schedule.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, runtime_checkable

from binance_oi.budget import Usage
from binance_oi.budget.demand import RENEWAL_S
from binance_oi.market.plan import AUTOMATIC, USUAL_SYMBOLS, Load, MisfitError, Room
from binance_oi.market.snapshot import Snapshot

logger: logging.Logger = logging.getLogger("binance_oi")

SLOT_SLACK = 0.001  # s: a sweep may use an answer that came at most this long before its slot


class Sweep(Protocol):
    """Reads many symbols once."""

    def __call__(
        self, names: Sequence[str], *, notional: bool, deadline: float, since: float | None
    ) -> Awaitable[Snapshot]:
        """Read `names`.

        Args:
            names: The symbols.
            notional: Whether to read mark prices too.
            deadline: Seconds for the whole sweep.
            since: The sweep may use answers that came at this loop time or later, to requests of
                other polls. None if there is no other poll; then the sweep requests every symbol.
        """
        ...


class Demands(Protocol):
    """The demand of each poller: the weight per minute that it needs. A `Pool` keeps them."""

    def declare(self, key: object, weight: float, *, anew: bool = False) -> None:
        """See `Pool.declare`."""
        ...

    def demand(self, key: object) -> float:
        """See `Pool.demand`."""
        ...


class NoDemands:
    """Has no demands; for a reader that shares no budget."""

    def declare(self, key: object, weight: float, *, anew: bool = False) -> None:
        """Do nothing."""

    def demand(self, key: object) -> float:
        """Return 0."""
        return 0.0


class Pollers:
    """The polls of one client.

    Args:
        demands: The demands of all pollers that share the budget.
        usage: Returns the state of the budget at this moment.
        sweep: Reads many symbols once.
        pause: Sleeps; raises `ClientClosedError` as soon as the client is closed.
    """

    def __init__(
        self,
        demands: Demands,
        usage: Callable[[], Usage],
        sweep: Sweep,
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self.demands: Demands = demands
        self.usage: Callable[[], Usage] = usage
        self.pause: Callable[[float], Awaitable[None]] = pause
        self._sweep = sweep
        self._groups: dict[float, Group] = {}  # by the requested period

    def group(self, every: float) -> "Group":
        """Return the group of the polls that request this period (s); make it if it is missing."""
        group = self._groups.get(every)
        if group is None:
            group = self._groups[every] = Group(self, every)
        return group

    def choose(self, names: Sequence[str], notional: bool) -> float:
        """Choose the shortest automatic schedule that would fit with a tenth more symbols.

        If there is none, choose the shortest that fits. In a schedule that other polls of this
        client run already, this poll needs weight only for the symbols that they do not read.

        Raises:
            MisfitError: No automatic schedule fits.
        """
        room, load = Room(self.usage(), self.demands.demand(None)), Load(len(names), notional)
        for grow in (True, False):
            for every in AUTOMATIC:
                if self._is_free(every, names, notional, room, grow=grow):
                    return every
        raise room.misfit(load, AUTOMATIC[-1])

    def _is_free(
        self, every: float, names: Sequence[str], notional: bool, room: Room, *, grow: bool
    ) -> bool:
        group = self._groups.get(every)
        load = Load(len(names), notional)
        if group is not None:
            load, others = group.load_with(names, notional), room.others - group.declared
            if group.why or load == group.load:
                return not group.why
            room = room._replace(others=max(0.0, others))
        return room.fits(load.grown if grow else load, every)

    def choose_without_list(self, notional: bool) -> float:
        """Choose a schedule for `USUAL_SYMBOLS` symbols."""
        room = Room(self.usage(), self.demands.demand(None))
        return room.shortest(Load(USUAL_SYMBOLS, notional).grown) or AUTOMATIC[-1]

    def remove(self, group: "Group") -> None:
        """Forget a group without polls."""
        if self._groups.get(group.requested) is group:
            del self._groups[group.requested]

    async def sweep(
        self, names: Sequence[str], *, notional: bool, deadline: float, due: float
    ) -> Snapshot:
        """Read `names` for a slot due at loop time `due`, sharing requests with other polls."""
        shares = sum(group.polls for group in self._groups.values()) > 1
        since = due - SLOT_SLACK if shares else None
        return await self._sweep(names, notional=notional, deadline=deadline, since=since)


@runtime_checkable
class Sharing(Protocol):
    """A reader whose polls share requests and a budget, such as `OpenInterestClient`."""

    @property
    def pollers(self) -> Pollers:
        """The polls of the reader."""
        ...


class Group:
    """The polls of one client that request the same period.

    Args:
        pollers: All polls of the client.
        requested: The requested period, s.
    """

    def __init__(self, pollers: Pollers, requested: float) -> None:
        self.requested: float = requested
        self.every: float = requested
        """Seconds from slot to slot of the schedule that runs now."""
        self.why: str = ""
        """Why `every` is not the requested period; empty if it is."""
        self.polls: int = 0
        """The number of polls."""
        self._pollers = pollers
        self._names: Counter[str] = Counter()  # how many of the polls read each symbol
        self._polls_with_prices = 0  # number of polls that read mark prices
        self.declared: float = 0.0
        """The weight per minute that the group has last declared."""
        self._checked_at = -math.inf  # loop time at which `renew` last chose a schedule

    @property
    def load(self) -> Load:
        """The load of one sweep that serves all polls of the group."""
        return Load(len(self._names), self._polls_with_prices > 0)

    def add(self, names: Sequence[str], notional: bool) -> bool:
        """Add a poll; return whether that changes the load."""
        before = self.load
        self.polls += 1
        self._polls_with_prices += notional
        self._replace((), names)
        return self.load != before

    def remove(self, names: Sequence[str], notional: bool) -> None:
        """Remove a poll."""
        self.polls -= 1
        self._polls_with_prices -= notional
        self._replace(names, ())

    def replace(self, old: Sequence[str], new: Sequence[str]) -> None:
        """Replace the symbols of one poll."""
        self._replace(old, new)
        self._checked_at = -math.inf

    def _replace(self, old: Sequence[str], new: Sequence[str]) -> None:
        self._names.subtract(old)
        self._names.update(new)
        for name in old:
            if self._names[name] <= 0:
                del self._names[name]

    def load_with(self, names: Sequence[str], notional: bool) -> Load:
        """Return the load of the group if a poll of these symbols joins it."""
        more = sum(name not in self._names for name in names)
        return Load(len(self._names) + more, self._polls_with_prices > 0 or notional)

    @property
    def room(self) -> Room:
        """The weight left for this group by all pollers that began before it."""
        return Room(self._pollers.usage(), self._pollers.demands.demand(self))

    def misfit(self) -> MisfitError | None:
        """Return why the requested schedule does not fit into the budget; None if it does."""
        load, room = self.load, self.room
        return None if room.fits(load, self.requested) else room.misfit(load, self.requested)

    def declare(self, *, anew: bool = False) -> None:
        """Declare the weight per minute that the group needs."""
        self.declared = self.load.rate(self.every) if self.polls else 0.0
        self._pollers.demands.declare(self, self.declared, anew=anew)

    def renew(self) -> None:
        """Declare the demand again, and every `RENEWAL_S` s switch to the schedule that fits."""
        now = asyncio.get_running_loop().time()
        if now - self._checked_at >= RENEWAL_S:
            self._checked_at = now
            self.adapt()
        self._pollers.demands.declare(self, self.declared)

    def adapt(self) -> None:
        """Run the schedule that fits now: the requested one, or the next slower one that fits.

        If none fits, the present one stays. To return to a shorter schedule, the group needs room
        for a tenth more symbols. So a small change does not switch schedules again and again.
        """
        load, before, room = self.load, self.every, self.room
        if room.fits(load, self.requested) and (
            before == self.requested or room.fits(load.grown, self.requested)
        ):
            self._switch_to(self.requested, "")
        elif not room.fits(load, before):
            slower = room.shortest(load, above=self.requested)
            self._switch_to(slower or before, str(room.misfit(load, self.requested)))
        elif (slower := room.shortest(load.grown, above=self.requested)) and slower < before:
            self._switch_to(slower, str(room.misfit(load, self.requested)))
        self.declare()

    def _switch_to(self, every: float, why: str) -> None:
        before, self.every = self.every, every
        is_news = bool(why) and not self.why
        self.why = why
        if every > before:
            logger.warning("the schedule continues every %g s: %s", every, why)
        elif every < before:
            logger.warning("the schedule continues every %g s: there is room for it", every)
        elif is_news:
            logger.warning("%s", why)


class ClientPoll:
    """One poll of a client.

    Args:
        pollers: All polls of the client.
        every: Seconds from slot to slot; None chooses the shortest schedule that fits.
        notional: Whether the poll reads mark prices.
    """

    def __init__(self, pollers: Pollers, every: float | None, notional: bool) -> None:
        self.misfit: MisfitError | None = None
        """Why the requested schedule does not fit into the budget; None if it does."""
        self._pollers = pollers
        self._requested, self._notional = every, notional
        self._is_chosen = every is None
        self._names: tuple[str, ...] = ()
        self._group: Group | None = None

    @property
    def group(self) -> Group:
        """The group of this poll."""
        assert self._group is not None
        return self._group

    def read(self, names: tuple[str, ...]) -> None:
        """From now on, read these symbols."""
        if self._group is None:
            self._begin(names)
        elif names != self._names:
            self._group.replace(self._names, names)
            self._names = names
            self._group.renew()

    def begin_without_list(self) -> None:
        """Choose a schedule for the usual number of symbols, because we could not read the list."""
        if self._group is None and self._requested is None:
            self._requested = self._pollers.choose_without_list(self._notional)

    def _begin(self, names: tuple[str, ...]) -> None:
        if self._requested is None:
            self._requested = self._pollers.choose(names, self._notional)
        self._group, self._names = self._pollers.group(self._requested), names
        if self._group.add(names, self._notional) or self._group.why:
            self._group.declare(anew=True)
            self.misfit = self._group.misfit()
            # A chosen schedule may not fit: another poll took the room first, or there are more
            # symbols than we assumed without the list.
            if self.misfit is not None and self._is_chosen:
                self.yield_room()

    def yield_room(self) -> None:
        """Run the next slower schedule that fits, instead of the requested one."""
        self.misfit = None
        self.group.adapt()

    def leave(self) -> None:
        """End the poll, and withdraw its demand."""
        group, self._group = self._group, None
        if group is not None:
            group.remove(self._names, self._notional)
            group.declare()
            if not group.polls:
                self._pollers.remove(group)

    @property
    def every(self) -> float:
        """Seconds from slot to slot of the schedule that runs now."""
        if self._group is not None:
            return self._group.every
        assert self._requested is not None
        return self._requested

    @property
    def why(self) -> str:
        """Why `every` is not `requested`; empty if it is."""
        return "" if self._group is None else self._group.why

    @property
    def requested(self) -> float:
        """Seconds from slot to slot of the requested or chosen schedule."""
        assert self._requested is not None
        return self._requested

    def renew(self) -> None:
        """See `Group.renew`."""
        if self._group is not None:
            self._group.renew()

    async def pause(self, seconds: float) -> None:
        """Sleep; raise `ClientClosedError` as soon as the client is closed."""
        self.renew()
        await self._pollers.pause(seconds)

    async def sweep(self, deadline: float, due: float) -> Snapshot:
        """Read the symbols of this poll for a slot that is due at loop time `due`."""
        return await self._pollers.sweep(
            self._names, notional=self._notional, deadline=deadline, due=due
        )
