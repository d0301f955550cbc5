"""Reading the history of the market uses nearly the whole limit, and causes no 429.

Rule of this file: time is virtual, and the tests count requests at the exchange. `nox -s history`
reads all 789 symbols. Otherwise most tests read 20, and must use the same share of the limit.
"""

import asyncio
import math
import mmap
import os
import random
import tracemalloc
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from binance_oi import Gap, MachineBudget, OpenInterestClient
from binance_oi.market import polling
from binance_oi.simulator import LocalExchange
from binance_oi.simulator.history import LATE_MS, PERIODS_MS, History, Question
from support.virtual_clock import wall_time

pytestmark = pytest.mark.virtual_time


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve pages without rows: the 7 million rows of the market would take minutes to make."""
    monkeypatch.setattr(History, "page", lambda *_: b"[]")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve full pages that take little time to make: their rows differ only in the instant."""

    def page(_: History, asked: Question, now: int) -> bytes:
        assert asked.start is not None
        assert asked.end is not None
        step = PERIODS_MS[asked.period]
        times = range(-(-asked.start // step) * step, min(asked.end, now - LATE_MS) + 1, step)
        row = (
            b'{"symbol":"%b","sumOpenInterest":"20403.63700000","sumOpenInterestValue":'
            b'"150570784.07809979","CMCCirculatingSupply":"165880.53800000","timestamp":%%d}'
        ) % asked.symbol.encode()
        return b"[" + b",".join([row % time for time in times]) + b"]"

    monkeypatch.setattr(History, "page", page)


SYMBOLS = int(os.environ.get("BINANCE_OI_HISTORY_SYMBOLS", "20"))  # 789 in `nox -s history`
MARKET = 789
PAGES = 18  # requests for 30 days of one symbol in steps of 5 minutes
LEAST = 0.97  # a run must use at least this share of the limit
CALLS = 100  # single calls of `history` during a run
PARTS = 20  # a run measures memory this many times


class World:
    """An exchange, and clients that share the budget of one machine.

    Attributes:
        exchange: The local exchange.
    """

    def __init__(self, directory: Path, **options: Any) -> None:
        self.loop = asyncio.get_running_loop()
        self.exchange = LocalExchange(clock=wall_time, latency=0.1, **options)
        self._directory = directory
        self._budgets: list[MachineBudget] = []

    def client(self) -> OpenInterestClient:
        """A client with a budget object of its own, as in a separate process."""
        budget = MachineBudget(directory=self._directory, clock=self.loop.time, wall=wall_time)
        self._budgets.append(budget)
        return OpenInterestClient(base_url=self.exchange.url, budget=budget)

    def names(self, count: int) -> list[str]:
        """This many symbols that are trading."""
        return list(self.exchange.universe.trading[:count])

    def check_spared(self) -> None:
        """Check that no request was refused, and that no window had more than the limit."""
        assert self.exchange.answers.keys() == {200}
        assert self.exchange.history_counter.most <= 1000
        assert max(self.exchange.weights.values(), default=0) <= 2400
        for budget in self._budgets:
            budget.close()


def seconds_of(requests: int) -> float:
    """The seconds that this many requests take if the whole limit is used."""
    return requests / 1000 * 300


async def read_all(client: OpenInterestClient, names: list[str], **options: Any) -> Counter[str]:
    rows: Counter[str] = Counter()
    async for each in client.histories(names, **options):
        assert each.error is None
        rows[each.symbol] = len(each)
    return rows


@pytest.mark.usefixtures("light")
async def test_reading_the_market_takes_hardly_longer_than_the_limit_requires(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    async with world.exchange, world.client() as client:
        names = world.names(SYMBOLS)
        began = world.loop.time()
        rows = await read_all(client, names)
        took = world.loop.time() - began
        requests = world.exchange.history_counter.total
    assert len(rows) == SYMBOLS
    assert requests == pytest.approx(PAGES * SYMBOLS, rel=0.01)
    assert seconds_of(requests) <= took + 10.0
    assert took * LEAST <= seconds_of(requests)
    if SYMBOLS == MARKET:
        assert 70 <= took / 60 <= 75
    world.check_spared()


@pytest.mark.usefixtures("light")
async def test_a_recorder_loses_no_slot_while_history_is_read(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.exchange, world.client() as client, world.client() as poller:
        names = world.names(SYMBOLS)
        missed, sweeps = list[Gap](), 0

        async def poll() -> None:
            nonlocal sweeps
            async for market in polling.poll(poller, names, every=30.0, clock=wall_time):
                assert not market.errors
                missed.extend(market.missed)
                sweeps += 1

        recorder = asyncio.create_task(poll())
        began = world.loop.time()
        await read_all(client, names)
        took = world.loop.time() - began
        recorder.cancel()
        await asyncio.wait([recorder])
        assert recorder.cancelled()
        requests = world.exchange.history_counter.total
    assert missed == []
    assert sweeps >= took / 30 - 1
    assert requests == pytest.approx(PAGES * SYMBOLS, rel=0.01)
    assert took * LEAST <= seconds_of(requests)
    world.check_spared()


@pytest.mark.usefixtures("light")
async def test_two_processes_share_the_work_and_the_limit(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.exchange, world.client() as one, world.client() as other:
        names = world.names(SYMBOLS)
        began = world.loop.time()
        found = await asyncio.gather(read_all(one, names[::2]), read_all(other, names[1::2]))
        took = world.loop.time() - began
        requests = world.exchange.history_counter.total
    assert len(found[0]) + len(found[1]) == SYMBOLS
    assert took * LEAST <= seconds_of(requests)
    world.check_spared()


@pytest.mark.usefixtures("light")
async def test_the_newest_41_hours_take_one_request_for_each_symbol(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.exchange, world.client() as client:
        names = world.names(SYMBOLS)
        count = len(names)
        began = world.loop.time()
        await read_all(client, names, since=timedelta(hours=41))
        took = world.loop.time() - began
        assert world.exchange.history_counter.total == count
    assert took / count * MARKET <= 4.2 * 60
    world.check_spared()


@pytest.mark.usefixtures("light")
@pytest.mark.thorough
async def test_a_single_call_during_a_run_waits_for_at_most_two_seconds(tmp_path: Path) -> None:
    world, draw = World(tmp_path), random.Random(1)
    waits: list[float] = []
    async with world.exchange, world.client() as client, world.client() as single:
        names = world.names(MARKET)
        run = asyncio.create_task(read_all(client, names))
        await asyncio.sleep(400.0)  # by then, the window is as full as it can be
        for _ in range(CALLS):
            began = world.loop.time()
            await draw.choice((client, single)).history("BTCUSDT", since=timedelta(days=1))
            waits.append(world.loop.time() - began - 0.1)
            await asyncio.sleep(draw.expovariate(1 / 4.0))
        run.cancel()
        await asyncio.wait([run])
    waits.sort()
    assert waits[math.ceil(0.99 * CALLS) - 1] <= 2.0
    world.check_spared()


@pytest.mark.usefixtures("quick")
@pytest.mark.thorough
async def test_memory_does_not_grow_with_the_number_of_pages(tmp_path: Path) -> None:
    world = World(tmp_path)
    samples: list[Memory] = []
    async with world.exchange, world.client() as client:
        names = world.names(SYMBOLS)
        tracemalloc.start()
        try:
            done = 0
            async for _ in client.histories(names):
                done += 1
                if done * PARTS // len(names) > len(samples):
                    samples.append(Memory.now_after(world.exchange.history_counter.total))
                    tracemalloc.reset_peak()
        finally:
            tracemalloc.stop()
    for sample in samples:
        print("after {:>6,} pages: {:.1f} MiB, at most {:.1f}, resident {:.1f}".format(*sample))
    peaks = [sample.peak for sample in samples]
    assert max(peaks[1:]) <= 1.2 * max(peaks[:2])
    world.check_spared()


class Memory(NamedTuple):
    """The memory of this process in MiB, which contains client, exchange and sockets."""

    pages: int
    now: float
    peak: float
    """The peak since the previous sample."""
    resident: float

    @classmethod
    def now_after(cls, pages: int) -> "Memory":
        """Take a sample."""
        now, peak = tracemalloc.get_traced_memory()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
        return cls(pages, now / 2**20, peak / 2**20, resident / 2**20)
