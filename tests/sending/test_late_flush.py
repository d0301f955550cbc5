"""A governor lets its pool write pending settlements soon after its last call.

Rule of this file: time is virtual.
"""

import asyncio
import sys
from pathlib import Path

import pytest

from binance_oi.budget.machine import MachineBudget
from binance_oi.budget.pool import ProcessBudget, ProcessPool
from binance_oi.budget.pool_file import PoolFile
from binance_oi.errors import ClientClosedError
from binance_oi.sending.governor import Governor

NOON = 1_795_435_200.0  # the beginning of a minute, Unix s

pytestmark = pytest.mark.virtual_time


class Flushed(ProcessPool):
    """A pool that records the times of its flushes."""

    times: list[float]

    def flush(self) -> None:
        self.times.append(asyncio.get_running_loop().time())


def _pool() -> Flushed:
    pool = ProcessBudget().pool("x")
    pool.__class__ = Flushed
    assert isinstance(pool, Flushed)
    pool.times = []
    return pool


async def _call(governor: Governor, seconds: float = 0.0) -> None:
    permit = await governor.admit()
    await asyncio.sleep(seconds)
    permit.settle(200, {"X-MBX-USED-WEIGHT-1M": "1"})
    permit.release()


async def test_calls_one_after_the_other_cause_one_flush_after_the_last() -> None:
    pool, loop = _pool(), asyncio.get_running_loop()
    governor = Governor(pool, idle=1.0)
    began = loop.time()
    for _ in range(20):
        await _call(governor)
        await asyncio.sleep(0.01)
    assert pool.times == []
    await asyncio.sleep(5.0)
    assert [round(time - began, 2) for time in pool.times] == [1.0]


async def test_a_call_under_way_postpones_the_flush_until_after_its_end() -> None:
    pool = _pool()
    governor = Governor(pool, idle=1.0)
    await _call(governor)
    permit = await governor.admit()
    await asyncio.sleep(3.0)
    assert pool.times == []
    permit.refund()
    permit.release()
    await asyncio.sleep(1.1)
    assert len(pool.times) == 1


@pytest.mark.parametrize("end", ["close", "abandon"])
async def test_ending_the_governor_flushes_once_and_at_once(end: str) -> None:
    pool = _pool()
    governor = Governor(pool, idle=1.0)
    await _call(governor)
    if end == "close":
        governor.close(ClientClosedError())
    else:
        governor.abandon()
    assert len(pool.times) == 1
    governor.close(ClientClosedError())
    await asyncio.sleep(5.0)
    assert len(pool.times) == 1


async def test_a_pool_of_one_process_is_never_flushed_without_an_idle_time() -> None:
    pool = _pool()
    governor = Governor(pool)
    await _call(governor)
    await asyncio.sleep(5.0)
    assert pool.times == []


# -- two processes that share a file --------------------------------------------------------------


class Shared:
    """A governor whose pool is a shared file, another pool of that file, and a count of writes."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = asyncio.get_running_loop().time
        began = clock() - 20.0  # a test begins 20 s after a rollover, and ends before the next

        def wall() -> float:
            return NOON + clock() - began

        budgets = [MachineBudget(directory=directory, clock=clock, wall=wall) for _ in range(2)]
        self.pool, self.other = (budget.pool("x") for budget in budgets)
        self.governor = Governor(self.pool)
        self.writes = 0
        write = PoolFile.write

        def counted(file: PoolFile, record: bytes, held_until: float = 0.0) -> None:
            self.writes += 1
            write(file, record, held_until)

        monkeypatch.setattr(PoolFile, "write", counted)

    async def calls(self, count: int) -> int:
        """Make calls of 30 ms, one after the other; return how often they wrote the record."""
        before = self.writes
        for _ in range(count):
            await _call(self.governor, 0.03)
        return self.writes - before


@pytest.fixture
async def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shared:
    if sys.platform == "win32":
        pytest.skip("the shared file needs POSIX locks")
    made = Shared(tmp_path / "budgets", monkeypatch)
    await made.calls(1)  # a probe: its settlement is written at once
    assert made.writes == 2
    return made


async def test_a_call_writes_the_settlement_of_the_call_before_it(shared: Shared) -> None:
    assert await shared.calls(20) == 20
    assert (shared.other.usage.charged, shared.other.usage.in_flight) == (21, 1)
    await asyncio.sleep(0)
    assert shared.other.usage.in_flight == 0


async def test_other_processes_see_each_charge_at_once_and_the_last_settlement_soon(
    shared: Shared,
) -> None:
    permit = await shared.governor.admit()
    assert (shared.other.usage.charged, shared.other.usage.in_flight) == (2, 1)
    permit.settle(200, {"X-MBX-USED-WEIGHT-1M": "2"})
    permit.release()
    assert (shared.pool.usage.in_flight, shared.other.usage.in_flight) == (0, 1)
    await asyncio.sleep(0)
    assert shared.other.usage.in_flight == 0
    writes = shared.writes
    await asyncio.sleep(5.0)
    assert shared.writes == writes


async def test_a_process_writes_at_once_while_it_has_a_lease(shared: Shared) -> None:
    permits = await asyncio.gather(*(shared.governor.admit() for _ in range(3)))
    assert shared.other.usage.charged > 4  # the second charge took a lease
    for permit in permits:
        permit.settle(200, {"X-MBX-USED-WEIGHT-1M": "4"})
        permit.release()
    assert (shared.other.usage.charged, shared.other.usage.in_flight) == (4, 0)


async def test_calls_in_one_step_of_the_loop_take_no_lease(shared: Shared) -> None:
    for _ in range(5):
        permit = await shared.governor.admit()
        permit.settle(200, {"X-MBX-USED-WEIGHT-1M": "1"})
        permit.release()
    assert (shared.other.usage.charged, shared.other.usage.in_flight) == (6, 1)


@pytest.mark.parametrize("end", ["close", "abandon"])
async def test_ending_the_governor_writes_the_last_settlement(shared: Shared, end: str) -> None:
    await shared.calls(1)
    assert shared.other.usage.in_flight == 1
    if end == "close":
        shared.governor.close(ClientClosedError())
    else:
        shared.governor.abandon()
    assert shared.other.usage.in_flight == 0


async def test_a_permit_that_ends_without_a_loop_is_written_at_once(shared: Shared) -> None:
    permit = await shared.governor.admit()
    permit.settle(200, {"X-MBX-USED-WEIGHT-1M": "2"})
    await asyncio.to_thread(permit.release)  # that thread runs no loop
    assert shared.other.usage.in_flight == 0
