"""A governor lets its pool write pending settlements soon after its last call.

Rule of this file: time is that of the virtual loop.
"""

import asyncio

import pytest

from binance_oi.budget.pool import ProcessBudget, ProcessPool
from binance_oi.errors import ClientClosedError
from binance_oi.sending.governor import Governor

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


async def _call(governor: Governor) -> None:
    permit = await governor.admit()
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


async def test_without_an_idle_time_the_last_call_flushes_at_once() -> None:
    pool = _pool()
    governor = Governor(pool)
    await _call(governor)
    assert len(pool.times) == 1
