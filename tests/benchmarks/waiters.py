"""Measures the cost of 10,000 waiting calls (waiters): `python -m tests.benchmarks waiters`.

Rule of this file: all times are CPU time, so that other work on the machine does not count. A step
is the work of the loop between two turns of a task that does nothing. The garbage collector walks
all objects of the process at once, so its time is measured separately. Each step adds 100 waiters,
because to make 10,000 tasks in one step would be slow in any case. One step cancels all waiters. A
run with plain futures in place of waiters shows the cost of asyncio itself.
"""

import asyncio
import gc
import statistics
import time
import tracemalloc
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from binance_oi import OpenInterestClient
from binance_oi.budget import MachineBudget, ProcessBudget
from binance_oi.budget.usage import Receipt
from binance_oi.errors import BinanceOIError, ClientClosedError
from binance_oi.sending.governor import Governor, Permit
from support.waiting import future, tracked

WAITER_COUNT = 10_000
STEP = 100  # waiters that are added in one step
LIMIT = 100  # weight a minute
WAIT_S = 3.0  # s of the wait whose CPU is measured

Figures = dict[str, list["Steps"]]
Call = Callable[[], Awaitable[object]]


class Steps:
    """The longest step of the loop, and the CPU time of all steps."""

    def __init__(self) -> None:
        self.cpu_s = self.longest_ms = self.collector_ms = 0.0

    async def __aenter__(self) -> "Steps":
        gc.collect()
        gc.callbacks.append(self._collect)
        self._task = asyncio.create_task(self._run())
        await asyncio.sleep(0)
        self._began = self._last = time.thread_time()
        self._collected = self.longest_ms = 0.0
        return self

    async def __aexit__(self, *_: object) -> None:
        for _turn in range(3):
            await asyncio.sleep(0)
        self._task.cancel()
        gc.callbacks.remove(self._collect)
        self.cpu_s = time.thread_time() - self._began

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            ms = (now - self._last - self._collected) * 1e3
            self.longest_ms = max(self.longest_ms, ms)
            self._last, self._collected = now, 0.0

    def _collect(self, phase: str, _: object) -> None:
        seconds = time.thread_time()
        self._collected += seconds if phase == "stop" else -seconds
        self.collector_ms = max(self.collector_ms, self._collected * 1e3)


@asynccontextmanager
async def full_minute() -> AsyncGenerator[tuple[Governor, Permit]]:
    """A governor on a shared file, 40 s before the end of a minute that is used up.

    One request is under way.
    """
    loop = asyncio.get_running_loop()
    offset = 1_795_435_220.0 - loop.time()
    with TemporaryDirectory() as directory:
        budget = MachineBudget(
            directory=Path(directory),
            limit=LIMIT,
            reserve=0,
            clock=loop.time,
            wall=lambda: loop.time() + offset,
        )
        pool = budget.pool("waiters")
        first = pool.charge(LIMIT - 1)
        assert isinstance(first, Receipt)
        pool.settle(first, LIMIT - 1, None)
        governor = Governor(pool)
        yield governor, await governor.admit()
        governor.close(ClientClosedError())
        budget.close()


async def queue(call: Call) -> list[asyncio.Task[None]]:
    async def wait() -> None:
        await call()

    tasks: list[asyncio.Task[None]] = []
    while len(tasks) < WAITER_COUNT:
        tasks += [asyncio.create_task(wait()) for _ in range(STEP)]
        await asyncio.sleep(0)
    return tasks


async def measure(
    figures: Figures, name: str, call: Call, end: Callable[[list[asyncio.Task[None]]], None]
) -> None:
    """Queue 10,000 calls, and let `end` end all of them."""
    async with Steps() as steps:
        tasks = await queue(call)
    figures.setdefault(f"{name}: queued", []).append(steps)
    async with Steps() as steps:
        end(tasks)
        while not all(task.done() for task in reversed(tasks)):  # noqa: ASYNC110 - a part of the ending
            await asyncio.sleep(0)
    figures.setdefault(f"{name}: ended", []).append(steps)
    for task in tasks:
        assert task.cancelled() or isinstance(task.exception(), BinanceOIError)


def cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()


async def measure_endings(figures: Figures) -> None:
    """Measure every way in which a wait can end without admission."""

    def answer(permit: Permit, status: int) -> Callable[[object], None]:
        return lambda _: permit.settle(status, {"Retry-After": "600"})

    def limited(governor: Governor) -> Call:
        return lambda: governor.admit(max_wait=300.0)

    await measure(figures, "plain futures: cancelled", asyncio.Future, cancel)
    async with full_minute() as (governor, _):
        await measure(figures, "cancelled", governor.admit, cancel)
    async with full_minute() as (governor, _):
        await measure(figures, "with `max_wait`: cancelled", limited(governor), cancel)
    async with full_minute() as (governor, permit):
        call = limited(governor)
        await measure(figures, "with `max_wait`: a cooldown", call, answer(permit, 429))
    async with full_minute() as (governor, permit):
        await measure(figures, "a ban", governor.admit, answer(permit, 418))
    async with full_minute() as (governor, _):
        await measure(
            figures, "closed", governor.admit, lambda _: governor.close(ClientClosedError())
        )


async def memory() -> float:
    """Bytes for each waiter, its task included."""
    async with full_minute() as (governor, _):
        tracemalloc.start()
        plain = await queue(asyncio.Future)
        before = tracemalloc.get_traced_memory()[0]
        tasks = await queue(governor.admit)
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        cancel(plain + tasks)
        await asyncio.wait(plain + tasks)
    return (after - before) / WAITER_COUNT


async def waiting() -> float:
    """Share of a core while 10,000 calls wait and nothing else happens."""
    async with full_minute() as (governor, _):
        tasks = await queue(governor.admit)
        await asyncio.sleep(0.1)
        began = time.process_time()
        await asyncio.sleep(WAIT_S)
        share = (time.process_time() - began) / WAIT_S
        cancel(tasks)
        await asyncio.wait(tasks)
    return share


async def _of_a_client() -> tuple[float, float]:
    async with OpenInterestClient(base_url="http://127.0.0.1:9", budget=ProcessBudget()) as client:
        client._governor.pool.hold(600.0)
        ours = await tracked(partial(client.get_open_interest, "BTCUSDT"), 500)
    return ours, await tracked(future, 500)


def objects(_: int) -> None:
    """Print how many objects the garbage collector tracks for one waiting call of a client."""
    ours, plain = asyncio.run(_of_a_client())
    print(f"{ours:.1f} for a waiting call, its task included; {plain:.1f} for a plain future")


def main(rounds: int) -> None:
    """Measure queueing, waiting, and every way in which a wait ends."""
    figures: Figures = {}
    for _ in range(rounds):
        asyncio.run(measure_endings(figures))
    print(f"{WAITER_COUNT} waiters; CPU in all (median), and ms of the longest of all steps\n")
    print("| | CPU s | step | garbage collector in one step |\n|---|---|---|---|")
    for name, samples in figures.items():
        cpu = statistics.median(steps.cpu_s for steps in samples)
        longest = max(steps.longest_ms for steps in samples)
        collector = max(steps.collector_ms for steps in samples)
        print(f"| {name} | {cpu:.3f} | {longest:.1f} | {collector:.1f} |")
    print(f"\n{asyncio.run(memory()):.0f} bytes each, its task included")
    print(f"{asyncio.run(waiting()):.2%} of a core while they wait")
