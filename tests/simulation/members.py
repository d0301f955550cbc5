"""Simulates members: processes on several machines that share one budget through a server.

Rule of this file: time is virtual. A member has the pool and governor of the package, and the
exchange is that of `world`. The seed decides each failure. `python -m tests.simulation.members`
prints a table with one row for each failure and number of members.
"""

import argparse
import asyncio
import logging
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from random import Random
from statistics import mean
from typing import Any, cast

from binance_oi.budget import Pool, ProcessBudget
from binance_oi.budget.courier import Courier
from binance_oi.budget.member import MemberPool
from binance_oi.budget.pool import fresh_state
from binance_oi.budget.tuning import CAREFUL
from binance_oi.budget.usage import Reason, Receipt, Wait
from binance_oi.sending.governor import Permit
from support.record_keeper import Keeper, Link

from .world import (
    EPOCH_S,
    POOL,
    Outcome,
    Situation,
    _Answer,
    _Common,
    _Exchange,
    _Loop,
    _Process,
)

FAILURES = (
    *("none", "one cut off", "all cut off", "server empty", "rollback", "failover"),
    *("lost calls", "killed", "stopped", "server time", "clocks", "one far away"),
)
BAN = "ban"  # no failure of members or servers; `Run.late` must be 0
ROUND_TRIP_S = 0.001  # s from a member to the server and back
OBEYED_S = ROUND_TRIP_S + 0.02  # s after one member learns of a ban; by then all obey it
MINUTE_MS = 60_000
DELAYED_S = 2.0  # s by which the answers to all members but one are late during a ban


@dataclass
class Run:
    """The result of one run."""

    outcome: Outcome
    calls: int = 0
    """Calls that the members made to the server."""
    late: int = 0
    """Requests sent during a ban, later than `OBEYED_S` after the first member learned of it."""
    beyond: int = 0
    """Weight over an equal part, sent by cut-off members in minutes wholly within a cut."""

    @property
    def most(self) -> int:
        """The largest weight of a minute."""
        return max(self.outcome.weights.values())

    @property
    def calls_per_weight(self) -> float:
        return self.calls / max(1, sum(self.outcome.ours.values()))

    @property
    def refused(self) -> int:
        return sum(n for status, n in self.outcome.statuses.items() if status != 200)

    def is_met(self, failure: str) -> bool:
        """Whether the run stays within every bound.

        The bounds of the used share and of the members' parts apply to all minutes but the first.
        So they apply to the minute in which a failure begins, unless that is the first.
        """
        if failure == BAN:
            return self.refused > 0 and not self.late
        return (
            not self.refused
            and self.most <= self.outcome.limit
            and not self.beyond
            and self.outcome.used() >= (0.97 if failure == "all cut off" else 0.985)
            and self.outcome.fairness() >= (0.6 if failure == "none" else 0.35)
            and self.calls_per_weight <= 1.0
        )


class Stopping:
    """The pool of a process that a signal may stop. Until the stop ends, it admits nothing."""

    def __init__(self, pool: MemberPool, gate: "_Gate") -> None:
        self._pool, self._gate = pool, gate

    def charge(self, weight: int, waiting: int = 0, bulk: bool = False) -> Receipt | Wait:
        if self._gate.is_closed:
            return Wait(0.05, Reason.PACE)
        return self._pool.charge(weight, waiting, bulk)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


@dataclass
class _Gate:
    """A gate that keeps a stopped process from continuing until the stop ends."""

    until: float = 0.0

    @property
    def is_closed(self) -> bool:
        return asyncio.get_running_loop().time() < self.until

    async def wait(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self.until:
            await asyncio.sleep(self.until - loop.time())
            await self.wait()


@dataclass
class _Gated:
    """A link of a process that may be stopped."""

    link: Link
    gate: _Gate

    async def swap(self, pool: str, swap: Any) -> Any:
        await self.gate.wait()
        answer = await self.link.swap(pool, swap)
        await self.gate.wait()
        return answer

    async def publish(self, pool: str, news: bytes) -> None:
        await self.gate.wait()
        await self.link.publish(pool, news)

    async def listen(self, pool: str, hear: Any, reset: Any) -> None:
        loop = asyncio.get_running_loop()

        def later(news: bytes) -> None:
            loop.call_at(max(loop.time(), self.gate.until), hear, news)

        await self.link.listen(pool, later, reset)

    async def aclose(self) -> None:
        pass


Steps = tuple[tuple[float, float], ...]
"""A demand. Each pair: s since minute 0 began, and the calls a second from then on."""


class _Member(_Process):
    """The process of a member. Without a `demand`, it sends as often as it may."""

    gate: _Gate
    stage: "Stage"
    demand: Steps = ()
    _due = -inf  # when the next call is due, Unix s

    async def _call_for_ever(self, weight: int) -> None:
        while True:
            if self.demand:
                await self._wait_until_due()
            await self._call(weight, bulk=self._situation.bulk)

    async def _wait_until_due(self) -> None:
        while True:
            now = self._exchange.now()
            rate = next(rate for at, rate in reversed(self.demand) if at <= now - EPOCH_S)
            if rate == inf or (rate and self._due <= now):
                self._due = now + (0.0 if rate == inf else 1.0 / rate)
                return
            await asyncio.sleep(min(0.1, self._due - now) if rate else 0.1)

    async def _send(self, permit: Permit, weight: int) -> None:
        await self.gate.wait()
        if not permit.may_send():
            return
        stage, now = self.stage, self._exchange.now()
        stage.late += stage.learned_at + OBEYED_S < now < stage.held_until
        await super()._send(permit, weight)
        if self._common.held_until:
            stage.learned_at = min(stage.learned_at, self._exchange.now())
            stage.held_until = self._common.held_until

    def _arrive(
        self,
        arrive: Callable[[], _Answer],
        answered: asyncio.Future[_Answer | None],
        down: float | None,
    ) -> None:
        if down is not None and self.stage.informed not in (None, self._number):
            down += DELAYED_S
        super()._arrive(arrive, answered, down)


@dataclass
class Stage:
    """The server, and all members."""

    keeper: Keeper
    random: Random
    gates: list[_Gate] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    couriers: list[Courier] = field(default_factory=list)
    members: list[_Member] = field(default_factory=list)
    limit: int = 0
    sent: Counter[tuple[int, int]] = field(default_factory=Counter)  # weight by minute and member
    ban: Callable[[], None] = lambda: None
    informed: int | None = None  # after the ban, the only member whose answers come soon
    learned_at: float = inf  # Unix s at which the first member learned of a ban
    held_until: float = 0.0  # Unix s at which the ban ends
    late: int = 0  # see `Run.late`
    cuts: list[tuple[int, float, float]] = field(default_factory=list)
    """For each cut of a link: the number of its member, its beginning and its end, Unix s."""


Trouble = Callable[["Stage", float], Coroutine[Any, Any, None]]
"""Its arguments are the stage, and the loop time at which the run ends."""


def run(failure: str, members: int, seed: int, *, minutes: int = 5, limit: int = 2400) -> Run:
    """Play one run."""
    random = Random(seed)
    into = random.uniform(0.0, 40.0)
    error = 2.0 if failure == "clocks" else 0.0
    scene = play(_TROUBLES[failure], random, members, minutes, limit, into=into, error=error)
    return in_virtual_time(scene)


def in_virtual_time(scene: Coroutine[Any, Any, Run]) -> Run:
    """Play a run in a loop of its own, whose time is virtual."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(scene)


async def play(
    trouble: Trouble,
    random: Random,
    count: int,
    minutes: int,
    limit: int,
    *,
    into: float,
    error: float = 0.0,
    demands: Sequence[Steps] = (),
) -> Run:
    """Play one run in the current loop; see `in_virtual_time`.

    Args:
        trouble: What happens to the members and their server.
        random: Draws everything that is left to chance.
        count: The number of members.
        minutes: How many minutes of the exchange the run spans; it ends with the last one.
        limit: The limit, weight per minute.
        into: The start of the members, s into the first minute.
        error: The most by which the wall clock of a member is wrong, s.
        demands: The demand of each member; empty: all send without a pause.
    """
    loop = asyncio.get_running_loop()
    situation = Situation(minutes=minutes, limit=limit, in_flight=max(10, limit // 24))
    outcome = Outcome(limit, minutes)
    exchange = _Exchange(situation, random, outcome, into)
    keeper = Keeper(exchange.now)
    stage = Stage(keeper, random, limit=limit, sent=outcome.parts, ban=exchange.ban)
    world = situation, exchange, outcome, random
    for number in range(count):
        stage.gates.append(_Gate())
        stage.links.append(Link(keeper, Random(random.random())))
        make = partial(_make_pool, stage, exchange, error, number, limit)
        _Member.gate, _Member.stage = stage.gates[number], stage
        member = _Member(world, make, _Common())
        member.gate = stage.gates[number]
        member.demand = demands[number] if demands else ()
        stage.members.append(member)
    end = loop.time() + 60.0 * minutes - into
    task = loop.create_task(trouble(stage, end))
    await asyncio.sleep(end - loop.time())
    if task.done():
        task.result()
    task.cancel()
    exchange.finish()
    await asyncio.gather(task, return_exceptions=True)
    return Run(outcome, keeper.calls, stage.late, _beyond(stage, outcome))


def _beyond(stage: Stage, outcome: Outcome) -> int:
    part = outcome.limit // len(stage.links)
    return sum(
        max(0, outcome.parts[k, number] - part)
        for number, begin, end in stage.cuts
        for k in range(outcome.minutes)
        if begin <= EPOCH_S + 60.0 * k and EPOCH_S + 60.0 * (k + 1) <= end
    )


def _make_pool(stage: Stage, exchange: _Exchange, error: float, number: int, limit: int) -> Pool:
    loop, random = asyncio.get_running_loop(), stage.random
    boot = random.uniform(0.0, 1e6)  # the clocks of machines differ
    ahead = random.uniform(-error, error) if error else 0.0

    def steady() -> float:
        return loop.time() + boot

    def wall() -> float:
        return exchange.now() + ahead

    def make_bucket(state: Any, members: int = 1) -> Any:
        return ProcessBudget(limit=limit, share=1.0 / members)._make_bucket(state)

    pool = MemberPool(make_bucket, lambda clock: fresh_state(limit, clock, wall), steady, wall)
    gated = _Gated(stage.links[number], stage.gates[number])
    courier = Courier(pool, POOL, lambda: gated, steady)
    if number < len(stage.couriers):
        stage.couriers[number] = courier
    else:
        stage.couriers.append(courier)
    return cast(Pool, Stopping(pool, stage.gates[number]))


# -- failures --------------------------------------------------------------------------------------


async def _nothing(stage: Stage, end: float) -> None:
    pass


async def _cut(stage: Stage, end: float, *, all_of_them: bool) -> None:
    loop, random = asyncio.get_running_loop(), stage.random
    await asyncio.sleep(random.uniform(50.0, 80.0))
    seconds = random.uniform(*((70.0, 130.0) if all_of_them else (1.0, 130.0)))
    chosen = stage.links if all_of_them else [random.choice(stage.links)]
    now = stage.keeper.time()
    for number, link in enumerate(stage.links):
        if any(link is each for each in chosen):
            link.cut_until = loop.time() + seconds
            stage.cuts.append((number, now, now + seconds))


async def _restart(
    stage: Stage, end: float, down: tuple[float, float], lost: tuple[float, float] | None
) -> None:
    random = stage.random
    while True:
        await asyncio.sleep(random.uniform(40.0, 90.0))
        stage.keeper.restart(random.uniform(*down), lost=random.uniform(*lost) if lost else None)


async def _fail_over(stage: Stage, end: float) -> None:
    random = stage.random
    while True:
        await asyncio.sleep(random.uniform(40.0, 90.0))
        stage.keeper.ahead += random.uniform(-2.0, 2.0)
        stage.keeper.restart(random.uniform(0.05, 2.0), lost=random.uniform(0.05, 2.0))


async def _lose_calls(stage: Stage, end: float) -> None:
    for link in stage.links:
        link.lost = 0.02


async def _kill(stage: Stage, end: float) -> None:
    random = stage.random
    while True:
        await asyncio.sleep(random.uniform(10.0, 40.0))
        number = random.randrange(len(stage.members))
        stage.members[number].kill()
        for task in stage.couriers[number]._tasks:
            task.cancel()
        stage.couriers[number]._pool.give_back = lambda: None  # type: ignore[method-assign]
        stage.couriers[number]._pool.is_written = lambda: True  # type: ignore[method-assign]
        stage.members[number].start()


async def _stop(stage: Stage, end: float) -> None:
    loop, random = asyncio.get_running_loop(), stage.random
    while True:
        await asyncio.sleep(random.uniform(10.0, 40.0))
        random.choice(stage.gates).until = loop.time() + random.uniform(0.5, 20.0)


async def _set_clock(stage: Stage, end: float) -> None:
    random = stage.random
    while True:
        await asyncio.sleep(random.uniform(20.0, 60.0))
        stage.keeper.ahead += random.choice((-1, 1)) * random.choice((0.5, 2.0, 60.0, 3600.0))


async def _ban(stage: Stage, end: float) -> None:
    """Ban the address while all members send. Only one of them gets an answer soon.

    That is after careful sending, in which members hold requests back.
    """
    await asyncio.sleep(stage.random.uniform(CAREFUL, CAREFUL + 60.0))
    k = int((stage.keeper.time() - EPOCH_S) // 60.0) + 1
    members = range(len(stage.members))
    least = stage.random.randint(1, stage.limit // (2 * len(members)))
    await asyncio.sleep(EPOCH_S + 60.0 * k - stage.keeper.time())
    for _ in range(MINUTE_MS):
        await asyncio.sleep(0.001)
        if min(stage.sent[k, number] for number in members) >= least:
            stage.informed = stage.random.choice(members)
            stage.ban()
            break


async def _move_away(stage: Stage, end: float) -> None:
    stage.links[0].delay = 0.015


_TROUBLES: dict[str, Trouble] = {
    "none": _nothing,
    "one cut off": partial(_cut, all_of_them=False),
    "all cut off": partial(_cut, all_of_them=True),
    "server empty": partial(_restart, down=(0.05, 5.0), lost=None),
    "rollback": partial(_restart, down=(0.05, 2.0), lost=(0.1, 30.0)),
    "failover": _fail_over,
    "lost calls": _lose_calls,
    "killed": _kill,
    "stopped": _stop,
    "server time": _set_clock,
    "clocks": _nothing,
    "one far away": _move_away,
    BAN: _ban,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.members")
    parser.add_argument("--members", type=int, nargs="+", default=[3, 8])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--minutes", type=int, default=5)
    parser.add_argument("--limit", type=int, default=2400)
    parser.add_argument("--failures", nargs="+", default=[*FAILURES, BAN])
    options = parser.parse_args()
    logging.getLogger("binance_oi").setLevel(logging.ERROR)
    print(
        "| failure | members | runs | refused | most | used, worst | mean | poorest | mean |"
        " calls a weight | late | beyond |"
    )
    is_met = True
    for failure in options.failures:
        for count in options.members:
            runs = [
                run(failure, count, seed, minutes=options.minutes, limit=options.limit)
                for seed in range(options.first, options.first + options.seeds)
            ]
            print(f"| {failure} | {count} | {_row(runs)}", flush=True)
            is_met &= all(each.is_met(failure) for each in runs)
    sys.exit(not is_met)


def _row(runs: list[Run]) -> str:
    used = [each.outcome.used() for each in runs]
    poorest = [each.outcome.fairness() for each in runs]
    return (
        f"{len(runs)} | {sum(each.refused for each in runs)} | {max(each.most for each in runs)} |"
        f" {min(used):.2%} | {mean(used):.2%} | {min(poorest):.0%} | {mean(poorest):.0%} |"
        f" {max(each.calls_per_weight for each in runs):.2f} | {sum(each.late for each in runs)} |"
        f" {sum(each.beyond for each in runs)} |"
    )


if __name__ == "__main__":
    main()
