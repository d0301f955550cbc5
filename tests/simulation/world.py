"""Plays one run: processes of ours use an exchange over a network, beside other clients.

Rule of this file: the library's own governor and budget decide when to send. Everything else
depends only on the situation and the seed, so a run can be repeated.
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

from .counters import RollingCounter
from .networks import Leg, Uneven

EPOCH_S = 1_795_434_000.0  # the beginning of a minute
STEP_S = 1e-6  # s: the least step of time, so that timers due now do not spin
TIMEOUT_S = 10.0  # the client's default
COULD_KNOW_S = 2.0  # s: a probe takes less, so a client can know all older events
AT_ONCE_S = 0.02  # s: requests this close together were sent at once; an answer takes longer
POOL = "the exchange"

_Ts = TypeVarTuple("_Ts")
Use = Callable[[], Coroutine[Any, Any, None]]
Watch = Callable[[Pool], Pool]
"""Wraps the pool of a governor, for example in one that takes notes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """The conditions of a run, in seconds, weight, and shares from 0 to 1."""

    minutes: int = 10
    limit: int = 2400
    announced: int | None = None  # the limit that our budgets start with; None: `limit`
    start: float | None = None  # our start, s into the first minute; None: drawn, 0 to 40
    budgets: int = 1  # number of budgets without a shared store
    apart: float = 0.0  # s from the start of one budget to the start of the next one
    bots: int = 0  # number of budgets that only make one call a second; they are the last ones
    processes: int = 1  # on each budget; several share a `MachineBudget`
    leg: Leg = field(default_factory=Uneven)
    wall_error: float = 0.0  # s: our wall clock less the exchange's
    date_error: tuple[float, float] = (0.0, 0.0)  # s: edge clocks less the clock that counts
    date_lies: float = 0.0  # share of answers whose `Date` is wrong by minutes or hours
    lost: float = 0.0  # share of requests, and of answers, that never arrive
    no_header: float = 0.0  # share of answers without a count
    no_date: float = 0.0  # share of answers without a `Date`
    lag: float = 0.0  # s: the age of the count in a header
    used: int = 0  # weight used before we start
    others: Others | None = None  # clients on the same IP address that are not ours
    bans: bool = False  # whether many refusals cause a ban; see `Bans`
    banned_at: float | None = None  # s after our last start; another client causes the ban
    bare: bool = False  # refusals have no header and no text
    rolling: bool = False  # the exchange counts the last 60 s instead of minutes
    kills: int = 0  # at least so many times a minute, a process is killed and restarted
    sweep: int = 0  # symbols in a sweep; 0 means saturating demand
    every: float = 20.0  # s from one sweep to the next
    bulk: bool = False  # saturating demand is bulk work
    singles: bool = False  # one more process on each budget makes one call a second
    in_flight: int = 100  # the most requests of one process under way at once
    pace: float = 1000.0  # requests a second, of each process
    weights: tuple[int, ...] = (1,)  # of the requests; each weight has the same number of callers


@dataclass(slots=True)
class Outcome:
    """The result of a run. The run began in minute 0."""

    limit: int
    minutes: int
    weights: dict[int, int] = field(default_factory=dict)  # of all clients, by minute
    ours: Counter[int] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    served: int = 0  # our weight that was not refused
    refusals: list[float] = field(default_factory=list)  # times of our refusals, s since minute 0
    tries: list[int] = field(default_factory=list)  # requests at once after each cooldown
    bans: int = 0
    shares: list[int] = field(default_factory=list)  # weight of each process, from minute 1 on
    rash: Counter[int] = field(default_factory=Counter)  # our weight that left too little room
    sent_in_hold: int = 0  # requests sent during a cooldown that their budget knew
    longest_wait: float = 0.0  # s from a call to its admission
    sweeps: list[float] = field(default_factory=list)  # duration of each sweep, s
    parts: Counter[tuple[int, int]] = field(default_factory=Counter)  # weight by minute and process
    refused: Counter[int] = field(default_factory=Counter)  # our refused requests, by minute
    waits: list[tuple[int, float]] = field(default_factory=list)
    """For each call of a caller with one call a second: its minute, and the seconds until its
    admission, which are infinite while it waits."""
    trace: str = ""

    def over(self, *, avoidable: bool = True) -> int:
        """The weight over the limit in all minutes for which `is_avoidable` equals `avoidable`."""
        return sum(
            max(0, weight - self.limit)
            for k, weight in self.weights.items()
            if self.is_avoidable(k) == avoidable
        )

    def is_avoidable(self, k: int) -> bool:
        """Whether a perfect client could have kept minute `k` within the limit.

        A rash request is one that left too little room for others (`_Exchange._is_rash`). If the
        minute is over the limit even without our rash requests, no client could have prevented
        that: others came late into a full minute, and used more than any client could expect.
        """
        return self.weights.get(k, 0) - self.rash[k] <= self.limit

    def used(self, first: int = 1) -> float:
        """The share of the limit that all clients together used from minute `first` on."""
        whole = [min(self.weights.get(k, 0), self.limit) for k in range(first, self.minutes)]
        return sum(whole) / (len(whole) * self.limit)

    def fairness(self) -> float:
        """The part of the poorest process from minute 1 on, as a share of an even part."""
        return poorest(self.shares)

    def fairness_since(self, first: int) -> float:
        """The part of the poorest process from minute `first` on, as a share of an even part."""
        parts = [0] * len(self.shares)
        for (k, process), weight in self.parts.items():
            parts[process] += weight if k >= first else 0
        return poorest(parts)


def poorest(parts: Sequence[float]) -> float:
    """The smallest part, as a share of an even part."""
    return min(parts) * len(parts) / max(1, sum(parts))


class _Selector(selectors.DefaultSelector):
    """A selector that never waits, but advances the time to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "every task waits and no timer is armed"
        if timeout > 0.0:
            self.now += max(timeout, STEP_S)
        return []


class _Loop(asyncio.SelectorEventLoop):
    """A loop with virtual time and without sockets, at a third of the cost of `virtual_clock`."""

    def __init__(self) -> None:
        self._time = _Selector()
        super().__init__(self._time)

    def time(self) -> float:
        return self._time.now

    def call_at(  # every timer is ahead of the present time
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Any = None
    ) -> asyncio.TimerHandle:
        when = max(when, self.time() + STEP_S)
        return super().call_at(when, callback, *args, context=context)


class _Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    counted: float  # Unix s at which the request was counted
    until: float  # Unix s until which nothing may be sent; 0 without a cooldown


class _Exchange:
    """Counts requests, and answers with the errors of the situation."""

    def __init__(self, situation: Situation, random: Random, outcome: Outcome, into: float) -> None:
        self._situation, self._random, self._outcome = situation, random, outcome
        self._loop = asyncio.get_running_loop()
        self._offset = EPOCH_S + into - self._loop.time()
        make = RollingCounter if situation.rolling else WeightCounter
        self._counter = make(
            situation.limit,
            start=EPOCH_S,
            used=situation.used,
            others=situation.others,
            bans=Bans() if situation.bans else Bans(after=None),
        )
        self._trace = blake2b(digest_size=8)
        self._refused, self._latest, self._tried = False, 0.0, 0.0
        self._past: list[float] = []  # when our requests were counted, for `lag`
        self._largest = 0.0  # the largest weight of others in any minute until `_whole`
        self._whole = EPOCH_S + into

    def now(self) -> float:
        """The time of the clock that counts, Unix s."""
        return self._loop.time() + self._offset

    def arrive(self, process: int, known: float, weight: int) -> _Answer:
        """Count a request whose sender could know all events until `known`, Unix s."""
        now, outcome = self.now(), self._outcome
        was_banned = now < self._counter.banned_until
        verdict = self._counter.count(weight, now)
        outcome.bans += now < self._counter.banned_until and not was_banned
        self._trace.update(b"%.6f %d %d %d\n" % (now, process, verdict.status, verdict.used))
        k = _minute(now)
        self._note_try(now, verdict.status)
        outcome.ours[k] += weight
        outcome.statuses[verdict.status] += 1
        outcome.served += weight * (verdict.status == 200)
        if verdict.status != 200:
            outcome.refusals.append(now - EPOCH_S)
        outcome.shares[process] += weight if k > 0 else 0
        outcome.parts[k, process] += weight
        outcome.refused[k] += verdict.status != 200
        if self._is_rash(now, known, verdict.used):
            outcome.rash[k] += weight
        is_bare = self._situation.bare and verdict.status != 200
        headers = {} if is_bare else self._headers(verdict, now, weight)
        return _Answer(verdict.status, headers, now, verdict.until)

    def _note_try(self, now: float, status: int) -> None:
        """Count the requests that arrive at once after a cooldown."""
        if self._refused and now > self._latest + COULD_KNOW_S:
            self._outcome.tries.append(0)
            self._tried = now
        if now <= self._tried + AT_ONCE_S:
            self._outcome.tries[-1] += 1
        self._refused, self._latest = status != 200, now

    def ban(self) -> None:
        """Ban the address for two minutes, as if another client had caused it."""
        self._counter.ban(self.now())

    def _is_rash(self, now: float, known: float, used: int) -> bool:
        """Whether a request left less room than others can be expected to need.

        Others are expected to need a tenth more than in their largest minute so far. Of the first
        minute, only their use since our start counts, scaled to 60 s. In the first minute itself,
        they are expected to continue at the rate that we could have seen.
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
        """The count without the weight of the last `lag` seconds, but with this request."""
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
    """What all processes of one budget can know: a cooldown to obey, and the newest count."""

    held_until: float = 0.0  # Unix s
    known: float = 0.0  # Unix s at which the newest answered request was counted


class _Process:
    """A governor and its waiting calls."""

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
        callers = situation.in_flight + 5  # so that some calls always wait
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
        """End the process as `kill -9` does: it settles and refunds no receipt."""
        self._governor.pool = ProcessBudget().pool("unused")
        for task in self._tasks:
            task.cancel()
        self._governor.close(ClientClosedError())

    async def _call_for_ever(self, weight: int) -> None:
        while True:
            await self._call(weight, bulk=self._situation.bulk)

    async def _call_every_second(self) -> None:
        """Make one call each second, even while earlier ones wait."""
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
        """Send a request. Each leg of the network may lose its message."""
        loop, random, lost = self._loop, self._random, self._situation.lost
        answered: asyncio.Future[_Answer | None] = loop.create_future()
        up = self._situation.leg(loop.time(), random)
        down = self._situation.leg(loop.time() + up, random)
        fails = lost > random.random(), lost > random.random() or up + down > TIMEOUT_S
        if not fails[0]:
            known = max(self._common.known, self._exchange.now() - COULD_KNOW_S)
            arrive = partial(self._exchange.arrive, self._number, known, weight)
            loop.call_later(up, self._arrive, arrive, answered, None if fails[1] else down)
        if any(fails):  # half of them time out; the others end earlier, as by a reset
            later = TIMEOUT_S if random.random() < 0.5 else random.uniform(up, TIMEOUT_S)
            loop.call_later(later, _set, answered, None)
        answer = await answered
        if answer is not None:
            permit.settle(answer.status, answer.headers)
            self._common.known = max(self._common.known, answer.counted)
            if answer.status != 200:
                self._common.held_until = max(self._common.held_until, answer.until)
            if answer.status == 418 and not self._situation.bare:  # its text states `until`
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
    if not answered.done():  # it is done if a kill has ended it
        answered.set_result(answer)


def run(situation: Situation, seed: int, watch: Watch = lambda pool: pool) -> Outcome:
    """Run a situation to its end; `watch` may wrap each pool before its governor gets it."""
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
    if situation.banned_at is not None:
        loop.call_later(situation.banned_at, exchange.ban)
    while situation.kills and loop.time() < end - 60.0 / situation.kills:
        await asyncio.sleep(60.0 / situation.kills * random.uniform(0.5, 1.0))
        victim = random.choice(processes)
        victim.kill()
        victim.start()
    await asyncio.sleep(end - loop.time())
    exchange.finish()
    return outcome
