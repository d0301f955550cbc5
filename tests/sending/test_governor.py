"""The governor admits calls in order, obeys cooldowns, and refunds calls that give up.

Rule of this file: time is virtual, the pool is real, and each test makes the exchange's answers.
"""

import asyncio
import gc
import logging
import math
import re
import sys
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from contextvars import ContextVar
from datetime import timedelta
from decimal import Decimal
from email.utils import formatdate
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import pytest

from binance_oi.budget import MachineBudget, Pool, ProcessBudget
from binance_oi.budget.pool import ProcessPool
from binance_oi.budget.pool_file import FILE_NAME
from binance_oi.budget.tuning import POLL
from binance_oi.budget.usage import Receipt, Wait
from binance_oi.errors import (
    BannedError,
    BinanceOIError,
    BudgetExhaustedError,
    ClientClosedError,
    Reason,
)
from binance_oi.exchange.limits import Limit
from binance_oi.exchange.refusals import FIREWALL_COOLDOWN, MAX_BAN, MIN_BAN
from binance_oi.sending.governor import (
    ENDED_PER_STEP,
    LONGEST_SLEEP_S,
    MAX_FINISHED,
    Governor,
    Permit,
)
from support.counting import calls_counted
from support.memory_store import Options
from support.virtual_clock import VirtualLoop, wall_time

if sys.platform != "win32":
    import fcntl

pytestmark = [pytest.mark.virtual_time, pytest.mark.usefixtures("known_address")]


def make_pool(limit: int = 100, reserve: int = 0, share: float = 1.0) -> Pool:
    loop = asyncio.get_running_loop()
    budget = ProcessBudget(
        limit=limit, reserve=reserve, share=share, clock=loop.time, wall=wall_time
    )
    return budget.pool("test")


def answer(used: int, **more: str) -> Mapping[str, str]:
    return {"X-MBX-USED-WEIGHT-1M": str(used), "Date": formatdate(wall_time(), usegmt=True)} | more


async def known(limit: int = 100, *, pace: float = 1000.0, max_in_flight: int = 100) -> Governor:
    """A governor that has settled one answer, with used weight 1: it knows the exchange's clock."""
    await asyncio.sleep(10)
    governor = Governor(make_pool(limit), pace=pace, max_in_flight=max_in_flight)
    async with governor.reserve() as permit:
        permit.settle(200, answer(1))
    return governor


async def fill(governor: Governor, weight: int) -> None:
    async with governor.reserve(weight) as permit:
        permit.settle(200, answer(governor.pool.usage.used))


async def until_waiting(governor: Governor, count: int) -> None:
    while governor.waiting < count:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)


@pytest.fixture
async def full() -> AsyncIterator[Governor]:
    """A governor whose minute is full, 50 s before the rollover."""
    governor = await known()
    await fill(governor, 99)
    yield governor
    governor.close(ClientClosedError())


async def test_a_settled_permit_counts_in_the_usage() -> None:
    governor = await known()
    async with governor.reserve(5) as permit:
        assert governor.pool.usage.in_flight == 5
        permit.settle(200, answer(6))
    usage = governor.pool.usage
    assert (usage.used, usage.in_flight, governor.in_flight) == (6, 0, 0)


async def test_releasing_without_an_answer_keeps_the_charge() -> None:
    governor = await known()
    async with governor.reserve(5):
        pass
    assert governor.pool.usage.used == 6


async def test_only_the_first_end_of_a_permit_counts() -> None:
    governor = await known()
    permit = await governor.admit(5)
    permit.refund()
    permit.refund()
    permit.settle(200, answer(50))
    permit.release()
    assert (governor.pool.usage.used, governor.in_flight) == (1, 0)


async def test_the_first_request_is_a_probe() -> None:
    await asyncio.sleep(10)
    governor = Governor(make_pool())
    first = await governor.admit()
    second = asyncio.create_task(governor.admit())
    await until_waiting(governor, 1)
    began = asyncio.get_running_loop().time()
    await asyncio.sleep(0.3)
    assert not second.done()
    first.settle(200, answer(1))
    first.release()
    (await second).release()
    assert asyncio.get_running_loop().time() - began < 0.31


async def test_waiters_are_admitted_at_the_rollover(full: Governor) -> None:
    permit = await full.admit()
    assert 0 <= wall_time() % 60 < 4  # the governor knows the exchange's clock to a few seconds
    permit.release()


async def test_single_calls_precede_bulk_calls_and_both_keep_their_order(
    full: Governor,
) -> None:
    order: list[str] = []

    async def call(name: str, weight: int, bulk: bool) -> None:
        async with full.reserve(weight, bulk=bulk) as permit:
            order.append(name)
            permit.settle(200, answer(full.pool.usage.used))

    calls = [("b1", 1, True), ("b2", 1, True), ("s1", 9, False), ("s2", 1, False)]
    async with asyncio.TaskGroup() as group:
        for number, each in enumerate(calls):
            group.create_task(call(*each))
            await until_waiting(full, number + 1)
    assert order == ["s1", "s2", "b1", "b2"]


async def test_a_heavy_request_is_not_overtaken() -> None:
    governor = await known()
    await fill(governor, 80)
    heavy = asyncio.create_task(governor.admit(50))
    await until_waiting(governor, 1)
    light = asyncio.create_task(governor.admit(1))
    await asyncio.sleep(1)
    assert not light.done()
    for task in (heavy, light):
        (await task).release()


async def test_max_in_flight_bounds_the_requests_on_the_wire() -> None:
    governor = await known(max_in_flight=2)
    permits = [await governor.admit(), await governor.admit()]
    third = asyncio.create_task(governor.admit())
    await asyncio.sleep(0.5)
    assert not third.done()
    permits[0].release()
    permits.append(await third)
    assert governor.in_flight == 2
    for permit in permits[1:]:
        permit.release()


async def test_admissions_keep_the_pace() -> None:
    governor = await known(limit=2000, pace=10.0)
    began = asyncio.get_running_loop().time()
    for used in range(2, 42):
        async with governor.reserve() as permit:
            permit.settle(200, answer(used))
    assert 2.9 <= asyncio.get_running_loop().time() - began <= 4.1


async def test_waiters_for_the_pacer_are_admitted_as_soon_as_it_allows() -> None:
    governor = await known(limit=2000, pace=10.0)

    async def call() -> None:
        async with governor.reserve() as permit:
            permit.settle(200, answer(1))

    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(call() for _ in range(40)))
    assert 2.9 <= asyncio.get_running_loop().time() - began <= 4.1


@pytest.mark.parametrize("pace, in_flight", [(0, 1), (math.nan, 1), (math.inf, 1), (1, 0)])
async def test_impossible_arguments_are_refused(pace: float, in_flight: int) -> None:
    with pytest.raises(ValueError, match="finite and above 0"):
        Governor(make_pool(), pace=pace, max_in_flight=in_flight)


# -- cancellation ------------------------------------------------------------------------------


async def test_cancelling_a_waiter_changes_neither_queue_nor_charges(full: Governor) -> None:
    task = asyncio.create_task(full.admit())
    await until_waiting(full, 1)
    task.cancel()
    await asyncio.wait([task])
    assert (full.waiting, full.in_flight, full.pool.usage.used) == (0, 0, 100)


async def test_cancelling_right_after_admission_refunds_the_charge() -> None:
    governor = await known(max_in_flight=1)
    permit = await governor.admit()
    task = asyncio.create_task(governor.admit(10))
    await until_waiting(governor, 1)
    permit.settle(200, answer(2))
    permit.release()
    while governor.waiting:  # noqa: ASYNC110 - until the dispatcher has removed its waiter
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert (governor.in_flight, governor.pool.usage.used) == (0, 2)


async def test_cancelling_a_failing_waiter_raises_cancelled_error(full: Governor) -> None:
    task = asyncio.create_task(full.admit())
    await until_waiting(full, 1)
    full.close(ClientClosedError())
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_second_cancellation_keeps_the_first_message(
    full: Governor,
) -> None:
    task = asyncio.create_task(full.admit())
    await until_waiting(full, 1)
    task.cancel("first")
    assert full.waiting == 0
    await asyncio.sleep(0)
    task.cancel("second")
    with pytest.raises(asyncio.CancelledError, match="first"):
        await task


async def test_the_dispatcher_skips_a_cancelled_waiter_that_has_not_run_yet() -> None:
    governor = await known(max_in_flight=1)
    permit = await governor.admit()
    first, second = (asyncio.create_task(governor.admit()) for _ in range(2))
    await until_waiting(governor, 2)
    permit.release()  # wakes the dispatcher, which runs only after the next line
    first.cancel()
    (await second).release()
    assert first.cancelled()
    assert governor.in_flight == 0


async def test_cancelling_the_last_waiter_ends_the_dispatcher() -> None:
    governor = await known(max_in_flight=1)
    permit = await governor.admit()
    only = asyncio.create_task(governor.admit())
    await until_waiting(governor, 1)
    permit.release()
    only.cancel()
    await asyncio.wait([only])
    await asyncio.sleep(2 * LONGEST_SLEEP_S)
    assert (governor.waiting, governor.in_flight) == (0, 0)


# -- max_wait ----------------------------------------------------------------------------------


async def test_an_insufficient_max_wait_is_refused_at_once(full: Governor) -> None:
    began = asyncio.get_running_loop().time()
    with pytest.raises(BudgetExhaustedError, match="no room") as caught:
        await full.admit(max_wait=20)
    assert asyncio.get_running_loop().time() - began < 0.1
    assert caught.value.retry_at is not None
    assert caught.value.retry_at.timestamp() > wall_time()


async def test_a_call_that_can_wait_long_enough_is_admitted(full: Governor) -> None:
    minute = wall_time() // 60
    (await full.admit(max_wait=55)).release()
    assert wall_time() // 60 == minute + 1


@pytest.mark.parametrize("max_wait", [0.0, 1.0])
async def test_a_weight_that_never_fits_is_refused_even_if_other_calls_wait(
    full: Governor, max_wait: float
) -> None:
    first = asyncio.create_task(full.admit())
    await until_waiting(full, 1)
    with pytest.raises(BudgetExhaustedError, match="never fits") as caught:
        await full.admit(101, max_wait=max_wait)
    assert (caught.value.reason, caught.value.retry_at) == (Reason.TOO_HEAVY, None)
    first.cancel()


async def test_a_weight_that_never_fits_is_refused_and_blocks_no_call() -> None:
    governor = await known()
    for max_wait in (None, 10.0):
        with pytest.raises(BudgetExhaustedError, match="never fits") as caught:
            await governor.admit(101, max_wait=max_wait)
        assert caught.value.retry_at is None
    (await governor.admit()).release()


def end_at_once(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, None, Any], **_: object
) -> asyncio.Future[Any]:
    """Do what `asyncio.eager_task_factory` does, for a coroutine that never waits."""
    future = loop.create_future()
    try:
        coroutine.send(None)
    except StopIteration as end:
        future.set_result(end.value)
    return future


async def test_a_dispatcher_that_ends_at_once_does_not_strand_later_calls() -> None:
    governor, loop = await known(), asyncio.get_running_loop()
    factory: Any = end_at_once
    loop.set_task_factory(getattr(asyncio, "eager_task_factory", factory))  # from Python 3.12
    for _ in range(3):
        async with asyncio.timeout(600):
            with pytest.raises(BudgetExhaustedError, match="never fits"):
                await governor.admit(101)
    assert governor._dispatcher is None


@pytest.mark.parametrize("pace", [1000.0, 1.0])
async def test_max_wait_applies_while_all_connections_are_busy(pace: float) -> None:
    governor = await known(max_in_flight=1, pace=pace)
    permit = await governor.admit()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    began = loop.time()
    with pytest.raises(BudgetExhaustedError):
        await governor.admit(max_wait=3)
    assert 2.9 <= loop.time() - began <= 4.1
    waiter = asyncio.create_task(governor.admit())
    before = loop.steps
    await asyncio.sleep(600)
    assert loop.steps - before <= 3 * 600 / LONGEST_SLEEP_S  # the dispatcher does not spin
    permit.release()
    (await waiter).release()


async def test_deadlines_of_admitted_calls_do_not_pile_up() -> None:
    governor = await known(limit=10_000, max_in_flight=1)
    for used in range(2, 5 * MAX_FINISHED):
        permit = await governor.admit()
        waiter = asyncio.create_task(governor.admit(max_wait=3600))
        await until_waiting(governor, 1)
        permit.settle(200, answer(used))
        permit.release()
        (await waiter).release()
    assert len(governor._deadlines) <= MAX_FINISHED + 2


async def test_the_deadline_of_a_cancelled_waiter_does_not_affect_other_waiters(
    full: Governor,
) -> None:
    gone = asyncio.create_task(full.admit(max_wait=1e6))
    await until_waiting(full, 1)
    full._deadlines[0].deadline = asyncio.get_running_loop().time() + 20
    gone.cancel()
    late = asyncio.create_task(full.admit())
    await asyncio.sleep(100)
    (await late).release()
    assert full._deadlines == []


async def test_the_dispatcher_keeps_nothing_of_the_call_that_started_it(full: Governor) -> None:
    class Request:
        pass

    request = ContextVar[Request]("request")

    async def handle() -> weakref.ref[Request]:
        request.set(Request())
        with pytest.raises(BudgetExhaustedError):
            await full.admit(max_wait=1)
        return weakref.ref(request.get())

    handled = asyncio.create_task(handle())
    other = asyncio.create_task(full.admit())  # it still waits when `handle` has ended
    ended = await handled
    del handled
    await asyncio.sleep(0)  # lets the loop drop the finished task
    gc.collect()
    assert full.waiting == 1
    assert ended() is None
    (await other).release()


NOT_A_WAIT = (Decimal(1), "1", timedelta(seconds=1), True, [1], math.nan, math.inf, -1.0, -1)


@pytest.mark.parametrize("max_wait", NOT_A_WAIT, ids=repr)
async def test_an_invalid_max_wait_is_refused_and_changes_nothing(
    max_wait: object, full: Governor
) -> None:
    tasks = asyncio.all_tasks()
    with pytest.raises((TypeError, ValueError), match=r"^max_wait must be "):
        await full.admit(max_wait=max_wait)  # type: ignore[arg-type]
    with pytest.raises((TypeError, ValueError), match=r"^max_wait must be "):
        async with full.reserve(max_wait=max_wait):  # type: ignore[arg-type]
            pytest.fail("the call was admitted")
    assert (full.waiting, full.in_flight, full._deadlines) == (0, 0, [])
    assert full.pool.usage.used == 100
    assert asyncio.all_tasks() == tasks


@pytest.mark.parametrize("weight", [0, -1, 1.0, "1", Decimal(1), True, None], ids=repr)
async def test_an_invalid_weight_is_refused_and_changes_nothing(
    weight: object, full: Governor
) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^weight must be "):
        await full.admit(weight)  # type: ignore[arg-type]
    assert (full.waiting, full.in_flight, full.pool.usage.used) == (0, 0, 100)


async def test_every_real_number_is_accepted_as_max_wait(full: Governor) -> None:
    for max_wait in (0, 0.5, Fraction(1, 2)):
        with pytest.raises(BudgetExhaustedError):
            await full.admit(max_wait=max_wait)  # type: ignore[arg-type]


async def refusals_until_admitted(governor: Governor) -> int:
    """Repeat a call that may not wait, at each `retry_at`; return how often it was refused."""
    for refused in range(1000):
        (answer,) = await asyncio.gather(governor.admit(max_wait=0.0), return_exceptions=True)
        if isinstance(answer, Permit):
            answer.refund()
            answer.release()
            return refused
        assert isinstance(answer, BudgetExhaustedError)
        assert answer.retry_at is not None
        assert answer.retry_at.timestamp() > wall_time()
        await asyncio.sleep(answer.retry_at.timestamp() - wall_time())
    pytest.fail("the call was refused 1,000 times")


@pytest.mark.parametrize(
    "obstacle, most",
    [
        ("a full minute", 2),
        ("a cooldown", 2),
        ("a probe", 2),
        ("a full minute in flight", 60),  # at most one refusal a second until the rollover
        ("lost weight", 2),
        ("another limit", 3),
        ("connections", 31),  # one refusal a second, until a connection is free after 30 s
        ("the pace", 2),
    ],
)
async def test_a_call_repeated_at_retry_at_is_admitted_after_few_refusals(
    obstacle: str, most: int
) -> None:
    governor = await known(pace=0.2 if obstacle == "the pace" else 1000.0, max_in_flight=2)
    held: list[Permit] = []
    if obstacle == "a full minute":
        await fill(governor, 99)
    elif obstacle == "a cooldown":
        governor.pool.hold(700)
    elif obstacle == "a probe":
        governor.pool.hold(1)
        await asyncio.sleep(10)
        held.append(await governor.admit())
    elif obstacle == "a full minute in flight":
        held.append(await governor.admit(99))
    elif obstacle == "lost weight":
        (await governor.admit(99)).release()
    elif obstacle == "another limit":
        governor.pool.set_limits(None, [Limit(20, 50, False)])
        await fill(governor, 49)
    elif obstacle == "connections":
        held += [await governor.admit(), await governor.admit()]
        asyncio.get_running_loop().call_later(30.0, held.pop().release)
    assert 1 <= await refusals_until_admitted(governor) <= most
    for permit in held:
        permit.release()


async def test_a_max_wait_of_zero_admits_a_call_when_there_is_room(full: Governor) -> None:
    await asyncio.sleep(60)
    first = asyncio.create_task(full.admit(max_wait=0.0))
    others = [asyncio.create_task(full.admit(max_wait=0.0)) for _ in range(20)]
    (await first).release()
    for each in others:
        (await each).release()


@pytest.mark.parametrize("max_wait", [0.0, 0.5, 4.0])
async def test_max_wait_is_kept_while_the_pacer_blocks(max_wait: float) -> None:
    governor = await known(pace=0.2)
    loop = asyncio.get_running_loop()
    patient = asyncio.create_task(governor.admit())
    await until_waiting(governor, 1)
    began = loop.time()
    with pytest.raises(BudgetExhaustedError):
        await governor.admit(max_wait=max_wait)
    assert loop.time() - began == pytest.approx(max_wait, abs=0.01)
    (await patient).release()
    assert 4.5 <= loop.time() - began <= 5.5


@pytest.mark.parametrize("ending", ["cancelled", "closed"])
async def test_the_pacer_task_ends_with_the_last_waiter(ending: str) -> None:
    governor = await known(pace=0.2)
    before = asyncio.all_tasks()
    call = asyncio.create_task(governor.admit())
    await until_waiting(governor, 1)
    await asyncio.sleep(1)
    if ending == "closed":
        governor.close(ClientClosedError())
    else:
        call.cancel()
    await asyncio.wait([call])
    await asyncio.sleep(2 * LONGEST_SLEEP_S)
    assert asyncio.all_tasks() == before
    assert governor.waiting == 0


# -- the check before the write ------------------------------------------------------------------


async def test_a_permit_that_is_too_old_is_refunded_and_marked_as_late() -> None:
    governor = await known()
    permit = await governor.admit(5)
    assert permit.may_send()
    await asyncio.sleep(60)
    assert not permit.may_send()
    assert (permit.late, permit.refunded) == (True, True)
    assert not permit.may_send()  # a second check gives the same result
    permit.release()
    assert (governor.pool.usage.charged, governor.in_flight) == (0, 0)


async def test_a_refunded_permit_may_not_be_sent_and_is_not_marked_as_late() -> None:
    governor = await known()
    permit = await governor.admit(5)
    permit.refund()
    assert not permit.may_send()
    assert not permit.late
    permit.release()


# -- cooldowns ---------------------------------------------------------------------------------


async def refuse(governor: Governor, status: int, **headers: str) -> None:
    async with governor.reserve() as permit:
        permit.settle(status, answer(101, **headers))


@pytest.mark.parametrize(
    "after, seconds", [({}, 60), ({"Retry-After": "0"}, 60), ({"Retry-After": "99999"}, 60)]
)
async def test_after_a_429_nothing_is_sent_in_the_same_minute(
    after: dict[str, str], seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    governor = await known()
    minute = wall_time() // 60
    await refuse(governor, 429, **after)
    permit = await governor.admit()
    assert wall_time() // 60 == minute + 1
    second = asyncio.create_task(governor.admit())
    await asyncio.sleep(0.3)
    assert not second.done()  # the first request after the cooldown is a probe
    permit.settle(200, answer(1))
    permit.release()
    (await second).release()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_the_retry_after_of_a_429_is_obeyed() -> None:
    governor = await known()
    began = asyncio.get_running_loop().time()
    await refuse(governor, 429, **{"Retry-After": "150"})
    (await governor.admit()).release()
    assert asyncio.get_running_loop().time() - began >= 150


async def test_a_403_causes_a_cooldown_of_a_minute_and_no_ban() -> None:
    governor = await known()
    began = asyncio.get_running_loop().time()
    await refuse(governor, 403)
    assert governor.pool.usage.banned_until is None
    (await governor.admit()).release()
    assert asyncio.get_running_loop().time() - began >= FIREWALL_COOLDOWN


async def test_a_ban_fails_every_waiter_at_once(full: Governor) -> None:
    tasks = [asyncio.create_task(full.admit(bulk=n % 2 > 0)) for n in range(10)]
    await until_waiting(full, 10)
    permit = Permit(full, Receipt(1, 0.0, 0, 0, 0, False))
    full.in_flight += 1
    permit.settle(418, answer(101))
    permit.release()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(error) for error in errors} == {BannedError}
    with pytest.raises(BannedError) as caught:
        await full.admit()
    left = full.pool.held_for(ban=True)
    assert caught.value.retry_at.timestamp() == pytest.approx(wall_time() + left)
    assert left >= MIN_BAN - 1


@pytest.mark.parametrize("max_wait", [None, 0.0, 5.0])
async def test_during_a_ban_every_later_call_fails_at_once(max_wait: float | None) -> None:
    governor = await known(max_in_flight=1)
    busy = await governor.admit()
    governor.pool.hold(500, ban=True)  # as another governor on the same pool would
    steps = 0

    async def call() -> None:
        nonlocal steps
        with pytest.raises(BannedError):
            await governor.admit(max_wait=max_wait)

    task = asyncio.create_task(call())
    while not task.done():
        await asyncio.sleep(0)
        steps += 1
    await task
    assert steps <= 2  # even while all connections are busy
    busy.release()


async def test_the_stated_end_of_a_ban_is_obeyed() -> None:
    governor = await known()
    await refuse(governor, 418)
    governor.obey_ban(wall_time() + 1000)
    await asyncio.sleep(990)
    with pytest.raises(BannedError):
        await governor.admit()
    await asyncio.sleep(15)
    (await governor.admit()).release()


@pytest.mark.parametrize("ago", [0.0, 1.0, 1000.0, 3.2e7, 1.7e9])
async def test_a_ban_with_an_end_in_the_past_is_still_a_ban(ago: float) -> None:
    governor = await known()
    governor.obey_ban(wall_time() - 2.0 - ago)
    await asyncio.sleep(MIN_BAN - 1)
    with pytest.raises(BannedError):
        await governor.admit()
    await asyncio.sleep(10)
    (await governor.admit()).release()


async def test_a_ban_is_limited_to_three_days() -> None:
    governor = await known()
    governor.obey_ban(wall_time() + 1e9)
    until = governor.pool.usage.banned_until
    assert until is not None
    assert until.timestamp() <= wall_time() + MAX_BAN + 120


async def test_a_ban_learned_by_another_governor_fails_waiters(full: Governor) -> None:
    task = asyncio.create_task(full.admit())
    await until_waiting(full, 1)
    full.pool.hold(500, ban=True)  # as another governor on the same pool would
    began = asyncio.get_running_loop().time()
    with pytest.raises(BannedError):
        await task
    assert asyncio.get_running_loop().time() - began <= LONGEST_SLEEP_S


async def test_closing_fails_every_waiter(full: Governor) -> None:
    tasks = [asyncio.create_task(full.admit()) for _ in range(3)]
    await until_waiting(full, 3)
    tasks[0].cancel()
    full.close(ClientClosedError())
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert list(map(type, errors)) == [asyncio.CancelledError, ClientClosedError, ClientClosedError]


async def test_the_repr_shows_the_current_state(full: Governor) -> None:
    async with AsyncExitStack() as stack:
        task = asyncio.create_task(stack.enter_async_context(full.reserve()))
        await until_waiting(full, 1)
        pool = "<ProcessPool used=100 of 100, 0 in flight>"
        assert repr(full) == f"<Governor 0 in flight, 1 waiting, {pool}>"
        task.cancel()
        await asyncio.wait([task])


# -- 10,000 waiters ----------------------------------------------------------------------------


async def woken_in_a_step(tasks: list[asyncio.Task[Permit]]) -> int:
    """Wait for all tasks; return the largest number that ended in one step of the loop."""
    most = before = 0
    while before < len(tasks):
        await asyncio.sleep(0)
        done = sum(task.done() for task in tasks)
        most, before = max(most, done - before), done
    await asyncio.wait(tasks)
    return most


async def test_closing_wakes_only_a_bounded_number_of_waiters_in_a_step(full: Governor) -> None:
    tasks = [asyncio.create_task(full.admit()) for _ in range(3 * ENDED_PER_STEP)]
    await until_waiting(full, len(tasks))
    full.close(ClientClosedError())
    tasks[-1].cancel()
    assert full.waiting == 0
    assert await woken_in_a_step(tasks) <= ENDED_PER_STEP + 1
    assert tasks[-1].cancelled()
    assert all(isinstance(task.exception(), ClientClosedError) for task in tasks[:-1])


async def test_cancelled_waiters_leave_the_queue_at_once_and_wake_in_several_steps(
    full: Governor,
) -> None:
    tasks = [asyncio.create_task(full.admit(bulk=True)) for _ in range(3 * ENDED_PER_STEP)]
    await until_waiting(full, len(tasks))
    for task in tasks:
        task.cancel()
    assert full.waiting == 0
    assert await woken_in_a_step(tasks) <= ENDED_PER_STEP
    assert all(task.cancelled() for task in tasks)


async def test_waiters_with_an_insufficient_max_wait_wake_in_several_steps(full: Governor) -> None:
    tasks = [asyncio.create_task(full.admit(max_wait=100.0)) for _ in range(3 * ENDED_PER_STEP)]
    await until_waiting(full, len(tasks))
    patient = asyncio.create_task(full.admit(max_wait=900.0))
    full.pool.hold(600.0)
    assert await woken_in_a_step(tasks) <= ENDED_PER_STEP
    assert all(isinstance(task.exception(), BudgetExhaustedError) for task in tasks)
    (await patient).release()


async def test_waiters_with_an_expired_max_wait_wake_in_several_steps() -> None:
    governor = await known(max_in_flight=1)
    busy = await governor.admit()
    tasks = [asyncio.create_task(governor.admit(max_wait=0.0)) for _ in range(3 * ENDED_PER_STEP)]
    assert await woken_in_a_step(tasks) <= ENDED_PER_STEP
    assert all(isinstance(task.exception(), BudgetExhaustedError) for task in tasks)
    busy.release()


async def test_ten_thousand_waiters_take_less_than_4_kib_each(full: Governor) -> None:
    many = 10_000
    tracemalloc.start()
    calls = [full.admit() for _ in range(many)]
    before = tracemalloc.get_traced_memory()[0]
    tasks = [asyncio.create_task(call) for call in calls]
    await until_waiting(full, many)
    each = (tracemalloc.get_traced_memory()[0] - before) / many
    tracemalloc.stop()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert each <= 4096


async def calls_of_waiters(governor: Governor, count: int) -> tuple[float, int, float]:
    """Count the function calls to queue one waiter, to let all wait 20 s, and to cancel one."""
    with calls_counted() as queueing:
        tasks = [asyncio.create_task(governor.admit()) for _ in range(count)]
        await until_waiting(governor, count)
    with calls_counted() as waiting:
        await asyncio.sleep(20)
    with calls_counted() as cancelling:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert governor.waiting == 0
    return queueing.count / count, waiting.count, cancelling.count / count


async def test_the_cost_of_a_waiter_does_not_grow_with_the_number_of_waiters(
    full: Governor,
) -> None:
    few = await calls_of_waiters(full, 100)
    many = await calls_of_waiters(full, 2_000)
    assert all(of_many <= 1.1 * of_few for of_many, of_few in zip(many, few, strict=True))


# -- reasons of waits --------------------------------------------------------------------------


async def in_cooldown() -> Governor:
    governor = await known()
    governor.pool.hold(30.0)
    return governor


async def during_a_probe() -> Governor:
    await asyncio.sleep(10)
    governor = Governor(make_pool())
    await governor.admit()
    return governor


async def in_a_full_minute() -> Governor:
    governor = await known()
    await fill(governor, 99)
    return governor


async def with_a_used_share() -> Governor:
    await asyncio.sleep(10)
    governor = Governor(make_pool(share=0.1))
    for weight in (1, 9):
        await fill(governor, weight)
    return governor


async def beside_others() -> Governor:
    await asyncio.sleep(10)
    governor = Governor(make_pool())
    async with governor.reserve() as permit:
        permit.settle(200, answer(60))
    return governor


async def with_another_limit() -> Governor:
    governor = await known()
    governor.pool.set_limits(100, [Limit(10, 5, False)])
    await fill(governor, 4)
    return governor


async def with_all_connections_busy() -> Governor:
    governor = await known(max_in_flight=3)
    for _ in range(3):
        await governor.admit()
    return governor


async def at_a_low_pace() -> Governor:
    return await known(pace=0.125)


Situation = Callable[[], Awaitable[Governor]]
SITUATIONS: dict[Reason, tuple[Situation, str]] = {
    Reason.COOLDOWN: (
        in_cooldown,
        r"weight 1 was not admitted in time: "
        r"after a refusal the client sends nothing until 12:\d\d:\d\d UTC",
    ),
    Reason.PROBE_PENDING: (
        during_a_probe,
        "weight 1 was not admitted in time: a probe is under way, and its count decides",
    ),
    Reason.MINUTE_FULL: (
        in_a_full_minute,
        r"no room for weight 1 in time: the minute is full until 12:\d\d:00 UTC",
    ),
    Reason.SHARE: (
        with_a_used_share,
        r"no room for weight 1 in time: our share of the minute is used up until 12:\d\d:00 UTC",
    ),
    Reason.OTHERS: (
        beside_others,
        "no room for weight 1 in time: the rest of the minute is kept for other clients on this"
        " address",
    ),
    Reason.OTHER_LIMIT: (
        with_another_limit,
        "no room for weight 1 in time: a limit whose span is not a minute is used up",
    ),
    Reason.CONNECTIONS: (
        with_all_connections_busy,
        "weight 1 was not admitted in time: all 3 connections are busy",
    ),
    Reason.PACE: (
        at_a_low_pace,
        r"weight 1 was not admitted in time: the pace of 0\.125 requests a second is used up",
    ),
}


@pytest.mark.parametrize("reason", SITUATIONS)
async def test_a_refusal_names_the_reason_of_the_wait(reason: Reason) -> None:
    situation, text = SITUATIONS[reason]
    governor = await situation()
    assert governor.waiting_for == {}
    patient = asyncio.create_task(governor.admit())
    await until_waiting(governor, 1)
    assert governor.waiting_for == {reason: 1}
    with pytest.raises(BudgetExhaustedError) as caught:
        await governor.admit(max_wait=0)
    assert caught.value.reason is reason
    assert re.fullmatch(text, str(caught.value))
    assert caught.value.retry_at is not None
    assert caught.value.retry_at.timestamp() > wall_time()
    assert governor.waiting_for == {reason: 1}
    patient.cancel()
    await asyncio.wait([patient])
    assert governor.waiting_for == {}
    with pytest.raises(BudgetExhaustedError, match=text):  # also if no other call waits
        await governor.admit(max_wait=0)


@pytest.mark.parametrize("reason", [r for r in Reason if r not in ("deadline", "too_heavy")])
async def test_every_reason_of_the_pool_has_a_text_for_the_caller(reason: Reason) -> None:
    governor = await known()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(governor.pool, "charge", lambda *_: Wait(30.0, reason))
        with pytest.raises(BudgetExhaustedError, match=r"weight 1 .*in time: ") as caught:
            await governor.admit(max_wait=10.0)
    assert caught.value.reason is reason


async def test_a_weight_that_never_fits_is_refused_with_its_own_reason(full: Governor) -> None:
    waiting = [asyncio.create_task(full.admit())]
    await until_waiting(full, 1)
    full.pool.set_limits(100, [Limit(3600, 50, False)])
    for call in (full.admit(51, max_wait=0), full.admit(101, max_wait=0)):
        with pytest.raises(BudgetExhaustedError, match="never fits") as caught:
            await call
        assert (caught.value.reason, caught.value.retry_at) == (Reason.TOO_HEAVY, None)
    waiting[0].cancel()
    with pytest.raises(BudgetExhaustedError) as caught:
        await full.admit(101)
    assert (caught.value.reason, caught.value.retry_at) == (Reason.TOO_HEAVY, None)


@pytest.mark.skipif(sys.platform == "win32", reason="the shared file needs POSIX locks")
async def test_a_budget_locked_by_another_process_is_named_as_the_reason(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    budget = MachineBudget(directory=tmp_path / "budgets", clock=loop.time, wall=wall_time)
    governor = Governor(budget.pool("test"))
    await fill(governor, 1)
    with (tmp_path / "budgets" / FILE_NAME).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BudgetExhaustedError, match="another process is changing") as caught:
            await governor.admit(max_wait=0)
    assert caught.value.reason is Reason.STORE_BUSY
    (await governor.admit()).release()
    budget.close()


# -- two clients of one process -------------------------------------------------------------------


class CountedPool:
    """A pool that counts the calls of `charge`, and records the argument `waiting` of each."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.asked = 0
        self.waiting: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def charge(self, weight: int, waiting: int = 0, bulk: bool = False) -> Receipt | Wait:
        self.asked += 1
        self.waiting.append(waiting)
        return self._pool.charge(weight, waiting, bulk)


async def until_asleep(pool: CountedPool) -> None:
    """Wait until the dispatcher sleeps, so that only time or a change wakes it."""
    while not pool.asked:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    pool.asked = 0


NEWS: dict[Reason, Callable[[Permit], object]] = {
    Reason.MINUTE_FULL: Permit.refund,
    Reason.PROBE_PENDING: lambda permit: permit.settle(200, answer(1)),
    Reason.SHARE: lambda permit: permit._governor.pool.set_limit(500),
}


@pytest.mark.parametrize("reason", NEWS)
@pytest.mark.parametrize("is_shared", [False, True])
async def test_a_change_by_another_client_wakes_a_waiter_once_and_at_once(
    reason: Reason, is_shared: bool, tmp_path: Path
) -> None:
    loop = asyncio.get_running_loop()
    options = Options(limit=100, reserve=0, clock=loop.time, wall=wall_time)
    share = 0.5 if reason is Reason.SHARE else 1.0
    budget = ProcessBudget(share=share, **options)
    if is_shared:
        budget = MachineBudget(directory=tmp_path / "budgets", share=share, **options)
    await asyncio.sleep(10)
    pool = budget.pool("test")
    first, watched = Governor(pool), CountedPool(pool)
    second = Governor(cast(Pool, watched))
    weight = 1
    if reason is not Reason.PROBE_PENDING:
        await fill(first, 1)
        weight = int(100 * share) - 1
    permit = await first.admit(weight)
    call = loop.create_task(second.admit(2))
    await until_asleep(watched)
    assert second.waiting_for == {reason: 1}
    began = loop.time()
    NEWS[reason](permit)
    for _ in range(5):
        await asyncio.sleep(0)
    assert (call.done(), watched.asked) == (True, 1)
    assert loop.time() - began < POLL / 2  # no timer has fired
    for each in (await call, permit):
        each.release()
    budget.close()


@pytest.mark.parametrize(
    "options, behind",
    [
        ({}, [3, 2, 1, 0]),
        ({"max_in_flight": 2}, [1, 0]),  # two connections are free
        ({"pace": 200.0}, [1, 0, 1, 0]),  # two at a time pass the pacer
    ],
)
async def test_a_charge_has_the_number_of_calls_that_may_follow_at_once(
    options: dict[str, Any], behind: list[int], full: Governor
) -> None:
    pool = CountedPool(full.pool)
    governor = Governor(cast(Pool, pool), **options)
    calls = [asyncio.create_task(governor.admit(bulk=n % 2 > 0)) for n in range(4)]
    await until_asleep(pool)
    assert governor.waiting == 4
    pool.waiting.clear()
    pool.set_limit(500)
    for _ in range(5):
        await asyncio.sleep(0)
    assert pool.waiting == behind
    for call in sorted(calls, key=asyncio.Task.done, reverse=True):
        (await call).release()


async def test_a_ban_learned_by_another_client_ends_every_wait_at_once(full: Governor) -> None:
    second = Governor(full.pool)
    call = asyncio.create_task(second.admit())
    await until_waiting(second, 1)
    await asyncio.sleep(0)
    began = asyncio.get_running_loop().time()
    full.obey_ban(wall_time() + 600.0)
    with pytest.raises(BannedError):
        await call
    assert asyncio.get_running_loop().time() - began < LONGEST_SLEEP_S / 2


async def test_the_governor_listens_to_the_pool_only_while_it_waits_for_room(
    full: Governor,
) -> None:
    pool = full.pool
    assert isinstance(pool, ProcessPool)
    busy, gone = Governor(make_pool(), max_in_flight=1), Governor(pool)
    permit = await busy.admit()
    calls = [asyncio.create_task(each.admit()) for each in (busy, gone)]
    for each in (busy, gone):
        await until_waiting(each, 1)
    for _ in range(5):
        await asyncio.sleep(0)
    assert isinstance(busy.pool, ProcessPool)
    assert (len(busy.pool.listeners), len(pool.listeners)) == (0, 1)
    gone.close(ClientClosedError())
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(pool.listeners) == 0
    pool.set_limit(500)  # wakes no dispatcher
    permit.release()
    (await calls[0]).release()
    with pytest.raises(ClientClosedError):
        await calls[1]


# -- unforeseen failures -------------------------------------------------------------------------


@pytest.mark.parametrize("pace", [1e-3, 1e-7, 1e-12, 1e-100, 1e-308, 5e-324])
async def test_at_a_low_pace_no_call_is_lost(pace: float) -> None:
    governor = await known(pace=pace)
    patient = asyncio.create_task(governor.admit())
    await until_waiting(governor, 1)
    for max_wait in (0, 3.0):
        with pytest.raises(BudgetExhaustedError) as caught:
            await governor.admit(max_wait=max_wait)
        assert caught.value.retry_at is not None
        assert caught.value.retry_at.timestamp() > wall_time()
    assert not patient.done()
    patient.cancel()
    await asyncio.wait([patient])
    assert (governor.waiting, governor.in_flight) == (0, 0)


async def test_a_low_pace_admits_a_call_after_its_interval() -> None:
    governor = await known(pace=1e-3)
    began = asyncio.get_running_loop().time()
    (await governor.admit()).release()
    assert 900 <= asyncio.get_running_loop().time() - began <= 1100


def fail(*_: object, **__: object) -> bool:
    raise ZeroDivisionError("nobody\nforesaw it")


class BrokenPacer:
    """The limiter of a pacer, which fails at once, or after 1 s in the task that waits for it."""

    def __init__(self, *, at_once: bool) -> None:
        self.has_capacity = fail if at_once else lambda _: False

    async def acquire(self, _amount: float) -> None:
        await asyncio.sleep(1)
        fail()


@contextmanager
def breaking(where: str, governor: Governor) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if where in ("has_capacity", "acquire"):
            patch.setattr(governor._pacer, "passed", 0)
            patch.setattr(governor._pacer, "_limiter", BrokenPacer(at_once=where == "has_capacity"))
        else:
            patch.setattr(governor.pool, where, fail)
        yield


@pytest.mark.parametrize("where", ["charge", "room_in", "held_for", "has_capacity", "acquire"])
async def test_an_error_in_the_queue_reaches_every_waiter_and_the_next_call_recovers(
    where: str, full: Governor
) -> None:
    calls = [asyncio.create_task(full.admit()) for _ in range(2 * ENDED_PER_STEP)]
    calls += [asyncio.create_task(full.admit(bulk=True, max_wait=1e6)) for _ in range(5)]
    calls += [asyncio.create_task(full.admit(max_wait=100.0))]
    await until_waiting(full, len(calls))
    # With this deadline, the dispatcher calls `room_in`.
    full._deadlines[0].deadline = asyncio.get_running_loop().time() + 5
    with breaking(where, full):
        done, pending = await asyncio.wait(calls, timeout=3600)
    assert not pending
    for call in done:
        error = call.exception()
        assert type(error) is BinanceOIError
        assert str(error) == r"no request can be admitted: ZeroDivisionError: nobody\nforesaw it"
        assert isinstance(error.__cause__, ZeroDivisionError)
    assert (full.waiting, full.in_flight, full.pool.usage.in_flight) == (0, 0, 0)
    (await full.admit()).release()
    assert full.in_flight == 0


async def test_cancelling_the_tasks_of_the_loop_strands_no_call() -> None:
    governor = await known(pace=0.1)
    call = asyncio.create_task(governor.admit())
    await until_waiting(governor, 1)
    for _ in range(3):
        await asyncio.sleep(1)
        others = asyncio.all_tasks() - {call, asyncio.current_task()}
        assert others
        for task in others:
            task.cancel()
    (await call).release()
    assert (governor.waiting, governor.in_flight) == (0, 0)


async def test_a_cancelled_pacer_task_admits_no_call() -> None:
    governor = await known(pace=0.1)
    began = asyncio.get_running_loop().time()
    call = asyncio.create_task(governor.admit())
    await asyncio.sleep(1)
    pacing = governor._pacer._pacing
    assert pacing is not None
    pacing.cancel()
    (await call).release()
    assert asyncio.get_running_loop().time() - began > 9.0


@pytest.mark.parametrize("where", ["lose", "refund"])
async def test_a_connection_is_free_again_whatever_the_pool_raises(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    governor = await known(max_in_flight=1)
    first = await governor.admit()
    call = asyncio.create_task(governor.admit())
    await until_waiting(governor, 1)
    first.settle(200, answer(2))
    first.release()
    while governor.waiting:  # noqa: ASYNC110 - admitted, but not awake yet
        await asyncio.sleep(0)
    monkeypatch.setattr(governor.pool, where, fail)
    if where == "refund":
        call.cancel()
        with pytest.raises(ZeroDivisionError):
            await call
    else:
        permit = await call
        with pytest.raises(ZeroDivisionError):
            permit.release()
    assert governor.in_flight == 0
