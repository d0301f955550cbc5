"""One run: an exchange, a network, others, and processes of ours.

Rule of this file: whoever sends is the shipped governor on a shipped budget. Everything around it
comes from the seed and from nothing else, so a trace can be had again.
"""

import asyncio
import selectors
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache, partial
from hashlib import blake2b
from math import inf
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, TypeVarTuple

from binance_oi.budget import MachineBudget, Pool, ProcessBudget
from binance_oi.errors import BannedError, ClientClosedError
from binance_oi.sending.governor import Governor, Permit
from binance_oi.simulator.counter import Bans, Others, Verdict, WeightCounter

from .networks import Leg, Uneven

EPOCH_S = 1_795_434_000.0  # the beginning of a minute
STEP_S = 1e-6  # the smallest move of time; without one, a timer set for now would spin
TIMEOUT_S = 10.0  # the client's default
LOOK_S = 2.0  # who has not looked at the count for so long knows all that happened until then
POOL = "the exchange"

_Ts = TypeVarTuple("_Ts")
Use = Callable[[], Coroutine[Any, Any, None]]
Watch = Callable[[Pool], Pool]
"""Puts a pool of its own between a governor and its pool, for example one that takes notes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a run is like. Seconds, weight, and shares from 0 to 1."""

    minutes: int = 10
    limit: int = 2400
    announced: int | None = None  # the limit that our budgets go by; None: `limit`
    start: float | None = None  # s into the first minute; None: drawn, 0 to 40
    budgets: int = 1  # that know nothing of each other
    apart: float = 0.0  # s from the start of one budget to the start of the next one
    bots: int = 0  # of the budgets, the last ones: all that they ask for is one call a second
    processes: int = 1  # on each budget; when more than one, it is a `MachineBudget`
    leg: Leg = field(default_factory=Uneven)
    wall_error: float = 0.0  # our wall clock less the exchange's
    date_error: tuple[float, float] = (0.0, 0.0)  # edge clocks less the clock that counts
    date_lies: float = 0.0  # share of answers whose `Date` is off by minutes or hours
    lost: float = 0.0  # share of requests, and of answers, that never arrive
    no_header: float = 0.0
    no_date: float = 0.0
    lag: float = 0.0  # how old the count in a header is
    used: int = 0  # weight used before we start
    others: Others | None = None
    bans: bool = False
    kills: int = 0  # per minute: a process is killed, and another one started
    sweep: int = 0  # symbols in a sweep; 0 is saturating demand
    every: float = 20.0  # between two sweeps
    bulk: bool = False  # saturating demand is bulk work
    singles: bool = False  # one more process on each budget makes one call a second
    in_flight: int = 100
    pace: float = 1000.0
    weights: tuple[int, ...] = (1,)  # of the requests; each weight is asked for by as many callers


@dataclass(slots=True)
class Outcome:
    """What came of it. Minutes count from 0, in which the run began."""

    limit: int
    minutes: int
    weights: dict[int, int] = field(default_factory=dict)  # everyone's
    ours: Counter[int] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    shares: list[int] = field(default_factory=list)  # weight of each process, from minute 1 on
    rash: Counter[int] = field(default_factory=Counter)  # ours that left too little room
    sent_in_hold: int = 0
    longest_wait: float = 0.0
    sweeps: list[float] = field(default_factory=list)  # s that each took
    parts: Counter[tuple[int, int]] = field(default_factory=Counter)  # by minute and process
    refused: Counter[int] = field(default_factory=Counter)  # ours, by minute
    waits: list[tuple[int, float]] = field(default_factory=list)
    """Of the calls that come once a second: the minute in which each came, and s to admission;
    infinite while it waits."""
    trace: str = ""

    def over(self, *, avoidable: bool = True) -> int:
        """Weight over the limit: everyone's refusals, not only ours."""
        return sum(
            max(0, weight - self.limit)
            for k, weight in self.weights.items()
            if self.is_avoidable(k) == avoidable
        )

    def is_avoidable(self, k: int) -> bool:
        """Could somebody who knows what can be known have kept minute `k` within the limit?

        Not if it is over the limit even without those of ours that left too little room for what
        others could be expected to use (`_Exchange._is_rash`): then others came late into a full
        minute, with more than they were known for.
        """
        return self.weights.get(k, 0) - self.rash[k] <= self.limit

    def used(self, first: int = 1) -> float:
        """Share of the limit that was used from minute `first` on, by everybody."""
        whole = [min(self.weights.get(k, 0), self.limit) for k in range(first, self.minutes)]
        return sum(whole) / (len(whole) * self.limit)

    def fairness(self) -> float:
        """What the poorest process got, as a share of an even part."""
        return poorest(self.shares)

    def fairness_since(self, first: int) -> float:
        """The same from minute `first` on."""
        parts = [0] * len(self.shares)
        for (k, process), weight in self.parts.items():
            parts[process] += weight if k >= first else 0
        return poorest(parts)


def poorest(parts: Sequence[float]) -> float:
    """The smallest part, as a share of an even one."""
    return min(parts) * len(parts) / max(1, sum(parts))


class _Selector(selectors.DefaultSelector):
    """Never waits: time moves to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "every task waits and no timer is armed"
        if timeout > 0.0:
            self.now += max(timeout, STEP_S)
        return []


class _Loop(asyncio.SelectorEventLoop):
    """Virtual time without sockets: a third of the work of `virtual_clock`, for days of it."""

    def __init__(self) -> None:
        self._time = _Selector()
        super().__init__(self._time)

    def time(self) -> float:
        return self._time.now

    def call_at(  # two timers in a row are never at once
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Any = None
    ) -> asyncio.TimerHandle:
        when = max(when, self.time() + STEP_S)
        return super().call_at(when, callback, *args, context=context)


class _Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    counted: float  # when, Unix s
    until: float  # Unix s up to which nothing may be sent; 0 when it may


class _Exchange:
    """Counts, and answers as honestly as the situation allows."""

    def __init__(self, situation: Situation, random: Random, outcome: Outcome, into: float) -> None:
        self._situation, self._random, self._outcome = situation, random, outcome
        self._loop = asyncio.get_running_loop()
        self._offset = EPOCH_S + into - self._loop.time()
        self._counter = WeightCounter(
            situation.limit,
            start=EPOCH_S,
            used=situation.used,
            others=situation.others,
            bans=Bans() if situation.bans else Bans(after=None),
        )
        self._trace = blake2b(digest_size=8)
        self._past: list[float] = []  # when ours were counted, for `lag`
        self._largest = 0.0  # weight that others used in a minute, of those before `_whole`
        self._whole = EPOCH_S + into

    def now(self) -> float:
        """The clock that counts, Unix s."""
        return self._loop.time() + self._offset

    def arrive(self, process: int, known: float, weight: int) -> _Answer:
        """A request is counted; who sent it could know what had happened until `known`."""
        now, outcome = self.now(), self._outcome
        verdict = self._counter.count(weight, now)
        self._trace.update(b"%.6f %d %d %d\n" % (now, process, verdict.status, verdict.used))
        k = _minute(now)
        outcome.ours[k] += weight
        outcome.statuses[verdict.status] += 1
        outcome.shares[process] += weight if k > 0 else 0
        outcome.parts[k, process] += weight
        outcome.refused[k] += verdict.status != 200
        if self._is_rash(now, known, verdict.used):
            outcome.rash[k] += weight
        return _Answer(verdict.status, self._headers(verdict, now, weight), now, verdict.until)

    def _is_rash(self, now: float, known: float, used: int) -> bool:
        """Did it leave less room than others are known to need?

        They need as much as in the largest minute so far and a tenth more; in the first minute,
        what they will use if they go on as they did until it could be known. What they used before
        our start is a number without a pattern, so the first minute counts with what came after it.
        """
        others = self._situation.others
        if others is None:
            return used > self._situation.limit
        began = now // 60 * 60
        known = max(known, began)
        theirs = others.weight(began, known)
        left = self._situation.limit - used + others.weight(known, now)
        if began == EPOCH_S:
            return theirs / max(1.0, known - began) * (began + 60 - known) > left
        while self._whole < began:
            end = self._whole // 60 * 60 + 60
            whole = others.weight(self._whole, end) * 60 / (end - self._whole)
            self._largest = max(self._largest, whole)
            self._whole = end
        return max(0.0, 1.1 * self._largest - theirs) > left

    def finish(self) -> None:
        weights = self._counter.weights(self.now())
        self._outcome.weights = {_minute(60.0 * k): w for k, w in weights.items()}
        self._outcome.trace = self._trace.hexdigest()

    def _headers(self, verdict: Verdict, now: float, weight: int) -> dict[str, str]:
        situation, random = self._situation, self._random
        headers: dict[str, str] = {}
        if random.random() >= situation.no_header:
            headers["X-MBX-USED-WEIGHT-1M"] = str(self._lagging(verdict.used, now, weight))
        if random.random() >= situation.no_date:
            now += random.uniform(*situation.date_error)
            if random.random() < situation.date_lies:
                now += random.choice((-1, 1)) * random.uniform(60.0, 43_200.0)
            headers["Date"] = _http_date(int(now))
        return headers

    def _lagging(self, used: int, now: float, weight: int) -> int:
        """Without what came in the last moments, but for this request."""
        lag, others = self._situation.lag, self._situation.others
        if not lag:
            return used
        self._past += [now] * weight
        since = max(now - lag, now // 60 * 60)
        ours = len(self._past) - bisect_right(self._past, since)
        theirs = others.weight(since, now) if others is not None else 0
        return max(weight, used - ours - theirs + weight)


@lru_cache(maxsize=64)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)


def _minute(moment: float) -> int:
    return int((moment - EPOCH_S) // 60)


@dataclass(slots=True)
class _Common:
    """What every process of one budget must obey, and may know."""

    held_until: float = 0.0  # Unix s
    known: float = 0.0  # when the latest was counted whose answer came, Unix s


class _Process:
    """A governor, and the calls that wait for it."""

    def __init__(
        self,
        world: tuple[Situation, _Exchange, Outcome, Random],
        make_pool: Callable[[], Pool],
        common: _Common,
        *,
        is_bot: bool = False,
    ) -> None:
        self._is_bot = is_bot
        self._situation, self._exchange, self._outcome, self._random = world
        self._make_pool, self._common = make_pool, common
        self._loop = asyncio.get_running_loop()
        self._number = len(self._outcome.shares)
        self._outcome.shares.append(0)
        self.start()

    def start(self) -> None:
        situation = self._situation
        self._governor = Governor(
            self._make_pool(),
            pace=situation.pace,
            max_in_flight=situation.in_flight,
        )
        callers = situation.in_flight + 5  # some always wait
        uses: list[Use] = [
            partial(self._call_for_ever, situation.weights[n % len(situation.weights)])
            for n in range(callers)
        ]
        if self._is_bot:
            uses = [self._call_every_second]
        elif situation.sweep:
            uses = [self._sweep_for_ever]
        self._tasks = [self._loop.create_task(use()) for use in uses]

    def kill(self) -> None:
        """As `kill -9` does: nothing goes back."""
        self._governor.pool = ProcessBudget().pool("a place that nobody looks at")
        for task in self._tasks:
            task.cancel()
        self._governor.close(ClientClosedError())

    async def _call_for_ever(self, weight: int) -> None:
        while True:
            await self._call(weight, bulk=self._situation.bulk)

    async def _call_every_second(self) -> None:
        """One call each second, however long those before it wait."""
        due, calls = self._loop.time(), set[asyncio.Task[None]]()
        while True:
            await asyncio.sleep(due - self._loop.time())
            calls = {call for call in calls if not call.done()}
            calls.add(self._loop.create_task(self._call(1)))
            due += 1.0

    async def _sweep_for_ever(self) -> None:
        due = self._loop.time()
        while True:
            await asyncio.sleep(due - self._loop.time())
            symbols = iter(range(self._situation.sweep))
            workers = range(self._situation.in_flight)
            await asyncio.gather(*(self._sweep(symbols) for _ in workers))
            self._outcome.sweeps.append(self._loop.time() - due)
            due += self._situation.every

    async def _sweep(self, symbols: Iterator[int]) -> None:
        for _ in symbols:
            await self._call(1, bulk=True)

    async def _call(self, weight: int, *, bulk: bool = False) -> None:
        began, outcome, came = self._loop.time(), self._outcome, _minute(self._exchange.now())
        number = len(outcome.waits)
        if self._is_bot:
            outcome.waits.append((came, inf))
        try:
            async with self._governor.reserve(weight, bulk=bulk) as permit:
                wait = self._loop.time() - began
                outcome.longest_wait = max(outcome.longest_wait, wait)
                if self._is_bot:
                    outcome.waits[number] = came, wait
                outcome.sent_in_hold += self._exchange.now() < self._common.held_until
                await self._send(permit, weight)
        except BannedError:
            await asyncio.sleep(max(0.1, self._governor.pool.held_for(ban=True)))

    async def _send(self, permit: Permit, weight: int) -> None:
        """Both legs, either of which may lose the message."""
        loop, random, lost = self._loop, self._random, self._situation.lost
        answered: asyncio.Future[_Answer | None] = loop.create_future()
        up = self._situation.leg(loop.time(), random)
        down = self._situation.leg(loop.time() + up, random)
        fails = lost > random.random(), lost > random.random() or up + down > TIMEOUT_S
        if not fails[0]:
            known = max(self._common.known, self._exchange.now() - LOOK_S)
            arrive = partial(self._exchange.arrive, self._number, known, weight)
            loop.call_later(up, self._arrive, arrive, answered, None if fails[1] else down)
        if any(fails):  # a reset comes sooner than a timeout
            later = TIMEOUT_S if random.random() < 0.5 else random.uniform(up, TIMEOUT_S)
            loop.call_later(later, _set, answered, None)
        answer = await answered
        if answer is not None:
            permit.settle(answer.status, answer.headers)
            self._common.known = max(self._common.known, answer.counted)
            if answer.status != 200:
                self._common.held_until = max(self._common.held_until, answer.until)
            if answer.status == 418:  # its text names the end
                self._governor.obey_ban(answer.until)

    def _arrive(
        self,
        arrive: Callable[[], _Answer],
        answered: asyncio.Future[_Answer | None],
        down: float | None,
    ) -> None:
        answer = arrive()
        if down is not None:
            self._loop.call_later(down, _set, answered, answer)


def _set(answered: asyncio.Future[_Answer | None], answer: _Answer | None) -> None:
    if not answered.done():  # it is, when its process was killed
        answered.set_result(answer)


def run(situation: Situation, seed: int, watch: Watch = lambda pool: pool) -> Outcome:
    """Run a situation to its end; `watch` sees each pool before its governor does."""
    with asyncio.Runner(loop_factory=_Loop) as runner, tempfile.TemporaryDirectory() as directory:
        return runner.run(_run(situation, Random(seed), Path(directory), watch))


async def _run(situation: Situation, random: Random, directory: Path, watch: Watch) -> Outcome:
    loop = asyncio.get_running_loop()
    outcome = Outcome(situation.limit, situation.minutes)
    into = random.uniform(0.0, 40.0) if situation.start is None else situation.start
    exchange = _Exchange(situation, random, outcome, into)

    def wall() -> float:
        return exchange.now() + situation.wall_error

    def pool(number: int) -> Pool:
        limit, clock = situation.announced or situation.limit, loop.time
        budget = ProcessBudget(limit=limit, clock=clock, wall=wall)
        if situation.processes > 1 or situation.singles:
            place = directory / str(number)
            budget = MachineBudget(directory=place, limit=limit, clock=clock, wall=wall)
        return watch(budget.pool(POOL))

    end = loop.time() + 60.0 * situation.minutes - into
    processes: list[_Process] = []
    for number in range(situation.budgets):
        if number and situation.apart:
            await asyncio.sleep(situation.apart)
        make = partial(pool, number)
        world, common = (situation, exchange, outcome, random), _Common()
        is_bot = number >= situation.budgets - situation.bots
        made = [_Process(world, make, common, is_bot=is_bot) for _ in range(situation.processes)]
        if situation.singles:
            made.append(_Process(world, make, common, is_bot=True))
        processes += made
    while situation.kills and loop.time() < end - 60.0 / situation.kills:
        await asyncio.sleep(60.0 / situation.kills * random.uniform(0.5, 1.0))
        victim = random.choice(processes)
        victim.kill()
        victim.start()
    await asyncio.sleep(end - loop.time())
    exchange.finish()
    return outcome
