"""A pool calls its listeners when `charge` may give another answer.

Rule of this file: tests count how often a pool calls a listener. Each pool over a store in memory
stands for one process.
"""

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from binance_oi.budget import Pool, ProcessBudget
from binance_oi.budget.usage import Receipt, Wait
from binance_oi.exchange.limits import Limit
from support.memory_store import Memory, MemoryBudget, Options

NOON = 1_795_435_200.0  # the beginning of a minute, Unix s
NOW = 10.0  # monotonic s; the minute is 10 s old
OPTIONS = Options(limit=100, reserve=0, clock=lambda: NOW, wall=lambda: NOON + NOW)


def take(pool: Pool, weight: int = 1) -> Receipt:
    receipt = pool.charge(weight)
    assert isinstance(receipt, Receipt), receipt
    return receipt


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture(params=["process", "memory"])
def pool(request: pytest.FixtureRequest, memory: Memory) -> Pool:
    """Return a pool that has used a weight of 1. Each test runs once with each kind of pool."""
    budget = ProcessBudget(**OPTIONS)
    if request.param == "memory":
        budget = MemoryBudget(memory, **OPTIONS)
    pool = budget.pool("exchange")
    pool.settle(take(pool), 1, NOON + NOW)
    pool.flush()
    return pool


CHANGES: dict[str, Callable[[Pool, Receipt], object]] = {
    "settle": lambda pool, receipt: pool.settle(receipt, 2, NOON + NOW),
    "lose": lambda pool, receipt: pool.lose(receipt),
    "refund": lambda pool, receipt: pool.refund(receipt),
    "hold": lambda pool, _: pool.hold(5.0),
    "hold_until": lambda pool, _: pool.hold_until(NOON + 90.0, ban=True),
    "refused": lambda pool, _: pool.refused(0.0),
    "settle_refused": lambda pool, receipt: pool.settle_refused(
        receipt, 2, NOON + NOW, 0.0, ban=False
    ),
    "set_limit": lambda pool, _: pool.set_limit(200),
    "set_limits": lambda pool, _: pool.set_limits(None, [Limit(10, 50, False)]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_each_listener_is_called_once_for_a_change_and_sees_the_complete_change(
    change: Callable[[Pool, Receipt], object], pool: Pool
) -> None:
    receipt = take(pool)
    seen: list[object] = []
    for _ in range(2):
        pool.listen(lambda: seen.append(pool.usage))
    before = pool.usage
    change(pool, receipt)
    assert seen == [pool.usage] * 2
    assert pool.usage != before or change is CHANGES["lose"]


def test_neither_reading_nor_charging_calls_a_listener(pool: Pool) -> None:
    calls: list[None] = []
    pool.listen(lambda: calls.append(None))
    receipt = take(pool)
    assert pool.sending(receipt) is not None
    assert isinstance(pool.charge(100), Wait)
    assert pool.room_in(1) is not None
    assert pool.usage.charged == 2
    assert not pool.held_for(ban=True)
    assert repr(pool)
    pool.flush()
    assert calls == []


def test_an_ended_listener_is_never_called(pool: Pool) -> None:
    calls: list[str] = []
    first = pool.listen(lambda: calls.append("first"))
    pool.listen(lambda: calls.append("second"))
    first()
    first()
    pool.hold(1.0)
    assert calls == ["second"]


def test_listening_may_end_and_begin_within_a_call(pool: Pool) -> None:
    calls: list[str] = []

    def once() -> None:
        calls.append("first")
        stop()
        pool.listen(lambda: calls.append("later"))

    stop = pool.listen(once)
    pool.hold(1.0)
    assert calls == ["first"]
    pool.hold(2.0)
    assert calls == ["first", "later"]


def test_a_failing_listener_affects_neither_the_others_nor_the_change(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[None] = []
    pool.listen(lambda: 1 // 0)
    pool.listen(lambda: calls.append(None))
    pool.settle(take(pool, 5), 6, NOON + NOW)
    assert pool.usage.charged == 6
    assert len(calls) == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    pool.set_limit(50)
    assert (pool.usage.limit, len(calls)) == (50, 2)


def test_a_listener_is_called_only_in_its_own_thread(pool: Pool) -> None:
    here: list[int] = []
    there: list[int] = []
    pool.listen(lambda: here.append(threading.get_ident()))
    for work in (lambda: pool.listen(lambda: there.append(1)), lambda: pool.usage):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert here == []
    pool.hold(1.0)
    assert (here, there) == ([threading.get_ident()], [])


# -- another process -----------------------------------------------------------------------------


@pytest.fixture
def processes(memory: Memory) -> Iterator[tuple[Pool, Pool]]:
    one, other = (MemoryBudget(memory, **OPTIONS).pool("exchange") for _ in range(2))
    one.settle(take(one), 1, NOON + NOW)
    one.flush()
    take(other)
    one.charge(100)  # reads the record of the other process
    yield one, other
    one.close()
    other.close()


def test_listeners_are_called_once_for_a_record_that_another_process_wrote(
    processes: tuple[Pool, Pool],
) -> None:
    one, other = processes
    calls: list[None] = []
    one.listen(lambda: calls.append(None))
    other.hold(300.0, ban=True)
    assert calls == []  # this process has not read the ban yet
    assert isinstance(one.charge(1), Wait)
    assert len(calls) == 1
    one.charge(1)
    assert len(calls) == 1


def test_listeners_are_called_for_a_record_found_right_before_a_request_is_sent(
    memory: Memory,
) -> None:
    now = NOW
    options = Options(limit=100, reserve=0, clock=lambda: now, wall=lambda: NOON + NOW)
    one, other = (MemoryBudget(memory, **options).pool("exchange") for _ in range(2))
    one.settle(take(one), 1, NOON + NOW)
    receipt = take(one)
    calls: list[None] = []
    one.listen(lambda: calls.append(None))
    other.hold(300.0)
    now += 1.0
    assert one.sending(receipt) is None
    assert len(calls) == 1


def test_listeners_are_called_for_a_settlement_that_is_not_yet_stored(
    processes: tuple[Pool, Pool], memory: Memory
) -> None:
    one, _ = processes
    receipts = take(one, 5), take(one, 3)
    calls: list[None] = []
    one.listen(lambda: calls.append(None))
    memory.is_locked = True
    one.settle(receipts[0], 6, NOON + NOW)
    one.refund(receipts[1])
    assert len(calls) == 2
