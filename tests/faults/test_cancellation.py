"""After a cancellation at any moment, the charges are right, and no task or connection is left.

Neither a suspend nor a change of the system clock releases weight.

Rule of this file: a cancelled call raises only `CancelledError`. A request that reached the wire
is charged. A cancelled call may be charged for one more request, which did not reach the wire.
"""

import asyncio
import os
import random
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass

import pytest

from binance_oi import (
    BinanceOIError,
    ClientClosedError,
    OpenInterest,
    OpenInterestClient,
    ProcessBudget,
)
from binance_oi.budget.usage import Receipt
from faults.exchange import BAD, GOOD, Act, FaultExchange, Step, Wait
from faults.rules import START, Clock
from faults.table import GOOD as ANSWER
from faults.table import answer
from support.virtual_clock import VirtualLoop, run

SEEDS = int(os.environ.get("BINANCE_OI_SEEDS", "12"))
INSTANTS = 20  # calls of a run, each cancelled at a random instant

SLOWLY: tuple[Step, ...] = (Wait(0.01), ANSWER[:60], Wait(0.01), ANSWER[60:])
BROKEN: tuple[Step, ...] = (answer(b"", status=503),)
LATENCY = 0.03  # s of a slow answer
SYMBOLS = tuple(f"S{number}USDT" for number in range(5))


class SteppingLoop(VirtualLoop):
    """Counts `left` down before each step of the loop, and cancels `task` when `left` is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.left = -1
        self.task: asyncio.Task[object] | None = None

    def _run_once(self) -> None:
        self.left -= 1
        if self.left == 0 and self.task is not None:
            self.task.cancel()
        super()._run_once()  # type: ignore[misc]


@dataclass
class World:
    """A client, its exchange, their clock, and the calls that a scene may make."""

    client: OpenInterestClient
    exchange: FaultExchange
    clock: Clock

    async def call(self) -> object:
        return await self.client.get_open_interest(BAD)

    async def first_call(self) -> object:
        return await self.call()

    async def next_call(self) -> object:
        return await self.call()

    async def snapshot(self) -> object:
        return await self.client.snapshot((BAD, *SYMBOLS))

    async def retry(self) -> object:
        return await self.call()

    async def queue(self) -> object:
        return await asyncio.gather(*(self.client.get_open_interest(BAD) for _ in range(3)))


async def in_world(
    script: Callable[[int], tuple[Step, ...]],
    scene: Callable[[World], Coroutine[None, None, int]],
    *,
    limit: int = 2400,
    warm: bool = True,
) -> int:
    """Play a scene, which returns its number of cancelled calls; then check the charges."""
    clock = Clock()
    before = asyncio.all_tasks()
    budget = ProcessBudget(clock=clock.steady, wall=clock.wall, limit=limit, reserve=0)
    async with FaultExchange(script, now=clock.wall) as exchange:
        exchange.broken = True
        await exchange.listen()
        url = f"http://127.0.0.1:{exchange.port}"
        async with OpenInterestClient(base_url=url, budget=budget, max_connections=10) as client:
            if warm:
                await client.get_open_interest(GOOD)
            cancelled = await scene(World(client, exchange, clock))
            await balance(client, exchange, clock, cancelled)
        while exchange.open:  # noqa: ASYNC110 - ends with the client
            await asyncio.sleep(0.01)
    assert asyncio.all_tasks() == before
    return cancelled


async def balance(
    client: OpenInterestClient, exchange: FaultExchange, clock: Clock, cancelled: int
) -> None:
    """Check that nothing is on the wire, the charges are right, and a good call works."""
    await asyncio.sleep(0)
    assert client._governor.in_flight == client._governor.waiting == 0
    await asyncio.sleep(1.0)  # by then, every answer has arrived
    wire, usage = exchange.this_minute, client.usage
    assert wire <= usage.charged <= wire + cancelled
    assert wire <= usage.used <= wire + cancelled
    assert usage.held_until is None
    if usage.remaining == 0:
        clock.skip(70.0)  # into the next minute
    await client.get_open_interest(GOOD)
    assert client.usage.used <= wire + 1 + cancelled


SCENES: dict[str, tuple[Callable[[World], Coroutine[None, None, object]], int, bool]] = {
    "a first call": (World.first_call, 1, False),
    "a call on a kept connection": (World.next_call, 1, True),
    "a snapshot": (World.snapshot, 6, True),
    "a retry": (World.retry, 1, True),
    "a queue for the budget": (World.queue, 3, True),
}


@pytest.mark.parametrize("name", SCENES)
def test_a_call_cancelled_at_any_step_leaves_no_task_and_no_connection(name: str) -> None:
    play, calls, warm = SCENES[name]
    attempts = BROKEN if name == "a retry" else SLOWLY
    limit = 2 if name == "a queue for the budget" else 2400

    def script(attempt: int) -> tuple[Step, ...]:
        return attempts if attempt == 1 else SLOWLY

    async def scene(world: World, step: int) -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SteppingLoop)
        task = asyncio.ensure_future(play(world))
        loop.task, loop.left = task, step
        await asyncio.wait([task])
        loop.task = None
        return calls if task.cancelled() else task.exception() is not None

    steps = 0
    for step in range(1, 2000):
        with asyncio.Runner(loop_factory=SteppingLoop) as runner:
            cancelled = runner.run(
                in_world(script, lambda world, n=step: scene(world, n), limit=limit, warm=warm)  # type: ignore[misc]
            )
        steps = step
        if not cancelled:
            break
    assert 5 < steps < 1999


@pytest.mark.parametrize("seed", range(SEEDS))
def test_calls_cancelled_at_random_instants_keep_the_charges_right(seed: int) -> None:
    chance = random.Random(seed)
    kinds: tuple[tuple[Step, ...], ...] = (SLOWLY, BROKEN, (Act.CLOSE,), (Act.RESET,), (Act.STALL,))
    chosen = [chance.choices(kinds, (6, 1, 1, 1, 1))[0] for _ in range(200)]
    mute = {attempt for attempt, steps in enumerate(chosen) if steps[0] in tuple(Act)}

    async def scene(world: World) -> int:
        tasks = [asyncio.ensure_future(world.call()) for _ in range(INSTANTS)]
        loop = asyncio.get_running_loop()
        for task in tasks:
            loop.call_later(chance.uniform(0.0, 3 * LATENCY), task.cancel)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        for result in done:
            expected = OpenInterest | asyncio.CancelledError | BinanceOIError
            assert isinstance(result, expected), repr(result)
        unanswered = len(mute & set(range(1, world.exchange.wire.count(BAD) + 1)))
        return sum(task.cancelled() for task in tasks) + unanswered

    run(in_world(lambda attempt: chosen[attempt], scene))


def test_closing_ends_every_call_in_flight_within_a_second() -> None:
    async def scene(world: World) -> int:
        tasks = [asyncio.ensure_future(world.call()) for _ in range(30)]
        while len(world.exchange.wire) < 5:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.001)
        began = asyncio.get_running_loop().time()
        await world.client.aclose()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert asyncio.get_running_loop().time() - began <= 1.0
        assert {type(result) for result in results} == {ClientClosedError}
        return len(tasks)

    async def closing() -> None:
        clock = Clock()
        budget = ProcessBudget(clock=clock.steady, wall=clock.wall)
        async with FaultExchange(lambda n: (Act.STALL,), now=clock.wall) as exchange:
            exchange.broken = True
            await exchange.listen()
            url = f"http://127.0.0.1:{exchange.port}"
            await scene(World(OpenInterestClient(base_url=url, budget=budget), exchange, clock))

    run(closing())


class Machine:
    """A machine's clocks: a suspend moves both, and `wall_step` only the wall clock."""

    def __init__(self) -> None:
        self.steady, self.wall = 1000.0, START

    def sleep(self, seconds: float, *, wall_step: float = 0.0) -> None:
        self.steady += seconds
        self.wall += seconds + wall_step


def spend(pool_budget: ProcessBudget, machine: Machine, exchange: dict[int, int]) -> Iterator[int]:
    """Send as much as the budget allows; yield the true minute of each request."""
    pool = pool_budget.pool("one")
    while isinstance(receipt := pool.charge(1), Receipt):
        true = START + machine.steady - 1000.0
        minute = int(true // 60)
        exchange[minute] = exchange.get(minute, 0) + 1
        pool.settle(receipt, exchange[minute], float(int(true)))
        yield minute


@pytest.mark.parametrize("step", [3600.0, -3600.0, 59.0, -59.0, 86_400.0])
def test_setting_the_system_clock_releases_no_weight(step: float) -> None:
    machine, minutes = Machine(), dict[int, int]()
    budget = ProcessBudget(clock=lambda: machine.steady, wall=lambda: machine.wall, limit=100)
    for _ in range(40):
        sum(1 for _ in spend(budget, machine, minutes))
        machine.sleep(7.0, wall_step=step)
    assert max(minutes.values()) <= 100
    assert sum(minutes.values()) >= 90 * 4  # 40 rounds, one every 7 s, fall into five minutes


@pytest.mark.parametrize("asleep", [0.5, 30.0, 59.0, 61.0, 600.0, 90_000.0])
def test_a_suspended_machine_sends_no_more_than_allowed(asleep: float) -> None:
    machine, minutes = Machine(), dict[int, int]()
    budget = ProcessBudget(clock=lambda: machine.steady, wall=lambda: machine.wall, limit=100)
    for _ in range(20):
        sum(1 for _ in spend(budget, machine, minutes))
        machine.sleep(asleep)
    assert max(minutes.values()) <= 100


@pytest.mark.parametrize("asleep", [600.0, 90_000.0])
def test_an_answer_read_after_a_suspend_releases_no_weight(asleep: float) -> None:
    machine = Machine()
    budget = ProcessBudget(clock=lambda: machine.steady, wall=lambda: machine.wall, limit=100)
    pool = budget.pool("one")
    receipt = pool.charge(1)
    assert isinstance(receipt, Receipt)
    sent_in = float(int(START))
    machine.sleep(asleep)
    pool.settle(receipt, 1, sent_in)  # its count is from before the suspend
    minutes: dict[int, int] = {}
    sum(1 for _ in spend(budget, machine, minutes))
    assert max(minutes.values()) <= 100
