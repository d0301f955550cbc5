"""The polls of one client: what they need together, and the schedule that each can keep.

The rule of this file: polls with one period are one group. They share their requests, so each
symbol of the group counts once; they keep one schedule, so their slots are the same. A group that
stops fitting into the budget goes on at the next schedule that fits, and comes back when there is
room again.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, runtime_checkable

from binance_oi.budget import Usage
from binance_oi.budget.demand import RENEWAL
from binance_oi.market.plan import AUTOMATIC, USUAL, Load, MisfitError, Room
from binance_oi.market.snapshot import Snapshot

logger: logging.Logger = logging.getLogger("binance_oi")

SLACK = 0.001  # s before a slot: a value that came then is of that slot


class Sweep(Protocol):
    """Reads many symbols once."""

    def __call__(
        self, names: Sequence[str], *, notional: bool, deadline: float, since: float | None
    ) -> Awaitable[Snapshot]:
        """Read `names`.

        Args:
            names: Symbols.
            notional: Read mark prices as well.
            deadline: Seconds for all of it.
            since: Loop time; what was read since then is not read again. None reads all of it, for
                nobody else reads it.
        """
        ...


class Demands(Protocol):
    """What a `Pool` knows of pollers."""

    def declare(self, key: object, weight: float, *, anew: bool = False) -> None:
        """See `Pool.declare`."""
        ...

    def demand(self, key: object) -> float:
        """See `Pool.demand`."""
        ...


class Alone:
    """The demands of nobody: of a reader that shares no budget."""

    def declare(self, key: object, weight: float, *, anew: bool = False) -> None:
        """Nobody wants to know."""

    def demand(self, key: object) -> float:
        """Nothing."""
        return 0.0


class Pollers:
    """The polls of one client.

    Args:
        demands: Of everyone who shares the budget.
        usage: The budget at this moment.
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
        self._groups: dict[float, Group] = {}  # by the period that was asked for

    def group(self, every: float) -> "Group":
        """Those that asked for this period, s."""
        group = self._groups.get(every)
        if group is None:
            group = self._groups[every] = Group(self, every)
        return group

    def choose(self, names: Sequence[str], notional: bool) -> float:
        """The shortest of the automatic schedules that fits, with room for a tenth more symbols.

        Where none has that room, the shortest that fits. Polls that have such a schedule already
        share it.

        Raises:
            MisfitError: None of them fits.
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
            load, others = group.with_also(names, notional), room.others - group.declared
            if group.why or load == group.load:
                return not group.why
            room = room._replace(others=max(0.0, others))
        return room.fits(load.grown if grow else load, every)

    def choose_without_list(self, notional: bool) -> float:
        """The same for as many symbols as there usually are."""
        room = Room(self.usage(), self.demands.demand(None))
        return room.shortest(Load(USUAL, notional).grown) or AUTOMATIC[-1]

    def end(self, group: "Group") -> None:
        """It has no polls any more."""
        if self._groups.get(group.asked) is group:
            del self._groups[group.asked]

    async def sweep(
        self, names: Sequence[str], *, notional: bool, deadline: float, due: float
    ) -> Snapshot:
        """Read `names` for a slot that was due at loop time `due`, together with other polls."""
        shares = sum(group.polls for group in self._groups.values()) > 1
        since = due - SLACK if shares else None
        return await self._sweep(names, notional=notional, deadline=deadline, since=since)


@runtime_checkable
class Sharing(Protocol):
    """A reader whose polls share their requests and a budget; `OpenInterestClient` does."""

    @property
    def pollers(self) -> Pollers:
        """Its polls."""
        ...


class Group:
    """Polls of one client that asked for the same period.

    Args:
        pollers: All polls of the client.
        asked: Seconds.
    """

    def __init__(self, pollers: Pollers, asked: float) -> None:
        self.asked: float = asked
        self.every: float = asked
        """Seconds from slot to slot of the schedule that is kept now."""
        self.why: str = ""
        """Why that is not the one that was asked for; empty when it is."""
        self.polls: int = 0
        self._pollers = pollers
        self._names: Counter[str] = Counter()
        self._priced = 0  # polls that want mark prices
        self.declared: float = 0.0
        """Weight a minute that it has said it needs."""
        self._checked_at = -math.inf  # loop time

    @property
    def load(self) -> Load:
        """What one sweep of all of them reads."""
        return Load(len(self._names), self._priced > 0)

    def put(self, names: Sequence[str], notional: bool, polls: int) -> bool:
        """Add a poll, or take it away (`polls` is -1); whether the load is another one now."""
        before = self.load
        self.polls += polls
        self._priced += polls if notional else 0
        self._replace(names if polls < 0 else (), names if polls > 0 else ())
        return self.load != before

    def replace(self, old: Sequence[str], new: Sequence[str]) -> None:
        """One of them reads other symbols from now on."""
        self._replace(old, new)
        self._checked_at = -math.inf

    def _replace(self, old: Sequence[str], new: Sequence[str]) -> None:
        self._names.subtract(old)
        self._names.update(new)
        for name in old:
            if self._names[name] <= 0:
                del self._names[name]

    def with_also(self, names: Sequence[str], notional: bool) -> Load:
        """`load`, if a poll of these symbols were one of them."""
        more = sum(name not in self._names for name in names)
        return Load(len(self._names) + more, self._priced > 0 or notional)

    @property
    def room(self) -> Room:
        """What those who came before leave to it."""
        return Room(self._pollers.usage(), self._pollers.demands.demand(self))

    def misfit(self) -> MisfitError | None:
        """Why the schedule that was asked for does not fit; None when it does."""
        load, room = self.load, self.room
        return None if room.fits(load, self.asked) else room.misfit(load, self.asked)

    def declare(self, *, anew: bool = False) -> None:
        """Say what it needs."""
        self.declared = self.load.rate(self.every) if self.polls else 0.0
        self._pollers.demands.declare(self, self.declared, anew=anew)

    def renew(self) -> None:
        """Say it again, and keep the schedule that fits now."""
        now = asyncio.get_running_loop().time()
        if now - self._checked_at >= RENEWAL:
            self._checked_at = now
            self.settle()
        self._pollers.demands.declare(self, self.declared)

    def settle(self) -> None:
        """Keep the schedule that fits now: the one that was asked for, or the next one."""
        load, before, room = self.load, self.every, self.room
        if room.fits(load, self.asked) and (
            before == self.asked or room.fits(load.grown, self.asked)
        ):
            self._keep(self.asked, "")
        elif not room.fits(load, before):
            slower = room.shortest(load, above=self.asked)
            self._keep(slower or before, str(room.misfit(load, self.asked)))
        elif (slower := room.shortest(load.grown, above=self.asked)) and slower < before:
            self._keep(slower, str(room.misfit(load, self.asked)))
        self.declare()

    def _keep(self, every: float, why: str) -> None:
        before, self.every = self.every, every
        is_news = bool(why) and not self.why
        self.why = why
        if every > before:
            logger.warning("the schedule goes on every %g s: %s", every, why)
        elif every < before:
            logger.warning("the schedule goes on every %g s: there is room for it", every)
        elif is_news:
            logger.warning("%s", why)


class Standing:
    """One poll among those of its client.

    Args:
        pollers: All of them.
        every: Seconds from slot to slot; None chooses.
        notional: Whether it reads mark prices.
    """

    def __init__(self, pollers: Pollers, every: float | None, notional: bool) -> None:
        self.misfit: MisfitError | None = None
        """Why the schedule that was asked for does not fit; None when it does."""
        self._pollers = pollers
        self._asked, self._notional = every, notional
        self._is_chosen = every is None
        self._names: tuple[str, ...] = ()
        self._group: Group | None = None

    @property
    def group(self) -> Group:
        """Those that asked for the same period."""
        assert self._group is not None
        return self._group

    def read(self, names: tuple[str, ...]) -> None:
        """From now on it reads these symbols."""
        if self._group is None:
            self._begin(names)
        elif names != self._names:
            self._group.replace(self._names, names)
            self._names = names
            self._group.renew()

    def begin_without_list(self) -> None:
        """No list of symbols could be read: plan with as many as there usually are."""
        if self._group is None and self._asked is None:
            self._asked = self._pollers.choose_without_list(self._notional)

    def _begin(self, names: tuple[str, ...]) -> None:
        if self._asked is None:
            self._asked = self._pollers.choose(names, self._notional)
        self._group, self._names = self._pollers.group(self._asked), names
        if self._group.put(names, self._notional, 1) or self._group.why:
            self._group.declare(anew=True)
            self.misfit = self._group.misfit()
            if self.misfit is not None and self._is_chosen:  # others were quicker, or there are
                self.yield_room()  # more symbols than we planned with

    def yield_room(self) -> None:
        """Go on at the next schedule that fits, instead of the one that does not."""
        self.misfit = None
        self.group.settle()

    def leave(self) -> None:
        """It has ended."""
        group, self._group = self._group, None
        if group is not None:
            group.put(self._names, self._notional, -1)
            group.declare()
            if not group.polls:
                self._pollers.end(group)

    @property
    def every(self) -> float:
        """Seconds from slot to slot of the schedule that is kept now."""
        if self._group is not None:
            return self._group.every
        assert self._asked is not None
        return self._asked

    @property
    def why(self) -> str:
        """Why that is not the one that was asked for; empty when it is."""
        return "" if self._group is None else self._group.why

    @property
    def asked(self) -> float:
        """Seconds from slot to slot of the schedule that was asked for, or chosen."""
        assert self._asked is not None
        return self._asked

    def renew(self) -> None:
        """It goes on."""
        if self._group is not None:
            self._group.renew()

    async def pause(self, seconds: float) -> None:
        """Sleep; `ClientClosedError` as soon as the client is closed."""
        self.renew()
        await self._pollers.pause(seconds)

    async def sweep(self, deadline: float, due: float) -> Snapshot:
        """Read its symbols for a slot that was due at loop time `due`."""
        return await self._pollers.sweep(
            self._names, notional=self._notional, deadline=deadline, due=due
        )
