"""Simultaneous callers share one call, which ends when its last caller leaves."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from binance_oi.errors import BudgetExhaustedError, Reason, ServerError, TransportTimeoutError
from binance_oi.sending.shared_calls import SharedCalls


class Source:
    """A source that keeps a future for each call; the test sets the answer in it."""

    def __init__(self) -> None:
        self.started: list[asyncio.Future[int]] = []
        self.cancelled = 0

    async def __call__(self) -> int:
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.started.append(answer)
        try:
            return await answer
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def ask(
    shared: SharedCalls[int],
    start: Callable[[], Coroutine[Any, Any, int]],
    *,
    times: int = 1,
    key: str = "BTCUSDT",
) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(shared.join(key, start)) for _ in range(times)]


async def test_callers_at_the_same_time_share_one_call() -> None:
    shared, source = SharedCalls[int](), Source()
    callers = ask(shared, source, times=100)
    await settle()
    source.started[0].set_result(7)
    assert await asyncio.gather(*callers) == [7] * 100
    assert len(source.started) == 1


async def test_callers_of_other_symbols_and_later_callers_get_their_own_calls() -> None:
    shared, source = SharedCalls[int](), Source()
    callers = ask(shared, source) + ask(shared, source, key="ETHUSDT")
    await settle()
    for n, answer in enumerate(source.started):
        answer.set_result(n)
    assert await asyncio.gather(*callers) == [0, 1]
    (later,) = ask(shared, source)
    await settle()
    source.started[2].set_result(2)
    assert await later == 2


async def test_every_caller_of_a_shared_call_gets_the_same_exception() -> None:
    shared, source = SharedCalls[int](), Source()
    callers = ask(shared, source, times=3)
    await settle()
    source.started[0].set_exception(ValueError("no"))
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [str(result) for result in results] == ["no"] * 3


async def test_cancelling_one_caller_does_not_affect_the_others() -> None:
    shared, source = SharedCalls[int](), Source()
    first, *others = ask(shared, source, times=3)
    await settle()
    first.cancel()
    await settle()
    assert first.cancelled()
    source.started[0].set_result(7)
    assert await asyncio.gather(*others) == [7, 7]
    assert source.cancelled == 0


async def test_the_last_caller_to_leave_ends_the_call() -> None:
    shared, source = SharedCalls[int](), Source()
    callers = ask(shared, source, times=3)
    await settle()
    for caller in callers:
        caller.cancel()
    await settle()
    assert source.cancelled == 1


async def test_a_call_that_is_ending_does_not_block_the_next_one() -> None:
    shared, source = SharedCalls[int](), Source()
    (first,) = ask(shared, source)
    await settle()
    first.cancel()
    await asyncio.sleep(0)  # the caller has left, but the shared call has not ended
    second = ask(shared, source)
    await settle()
    third = ask(shared, source)
    await settle()
    assert len(source.started) == 2  # the second and the third caller share one
    source.started[1].set_result(7)
    assert await asyncio.gather(*second, *third) == [7, 7]


async def test_an_error_without_a_waiting_caller_is_not_logged() -> None:
    noise: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    shared, source = SharedCalls[int](), Source()
    gone, stays = ask(shared, source, times=2)
    await settle()
    gone.cancel()
    await settle()
    source.started[0].set_exception(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await stays
    (last,) = ask(shared, source)
    await settle()
    source.started[1].set_exception(ValueError("nobody sees it"))
    last.cancel()
    with pytest.raises(asyncio.CancelledError):
        await last
    await settle()
    del source, gone, stays, last, shared
    await settle()
    assert noise == []


async def test_leaving_a_finished_call_ends_nothing() -> None:
    shared, source = SharedCalls[int](), Source()
    (caller,) = ask(shared, source)
    await settle()
    source.started[0].set_result(7)
    await asyncio.sleep(0)  # the call is done, but the caller has not resumed
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert source.cancelled == 0


def is_late(error: Exception) -> bool:
    return isinstance(error, BudgetExhaustedError | TransportTimeoutError)


def never(_: Exception) -> bool:
    return False


@pytest.mark.virtual_time
async def test_a_caller_whose_time_is_over_leaves_a_shared_call_running() -> None:
    shared, source, loop = SharedCalls[int](), Source(), asyncio.get_running_loop()
    (patient,) = ask(shared, source)
    await settle()
    with pytest.raises(BudgetExhaustedError, match="the deadline is over") as caught:
        await shared.join("BTCUSDT", source, loop.time() + 5.0, is_late)
    assert caught.value.reason is Reason.DEADLINE
    source.started[0].set_result(7)
    assert (await patient, len(source.started)) == (7, 1)


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "late", [TransportTimeoutError("no answer"), BudgetExhaustedError("", None)]
)
async def test_a_caller_with_more_time_asks_again_after_a_shared_call_ran_out_of_time(
    late: Exception,
) -> None:
    shared, source, loop = SharedCalls[int](), Source(), asyncio.get_running_loop()
    hasty = asyncio.create_task(shared.join("BTCUSDT", source, loop.time() + 1.0, is_late))
    await settle()
    patient = asyncio.create_task(shared.join("BTCUSDT", source, loop.time() + 60.0, is_late))
    await settle()
    source.started[0].set_exception(late)
    with pytest.raises(type(late)):
        await hasty
    await settle()
    source.started[1].set_result(8)
    assert await patient == 8


@pytest.mark.virtual_time
@pytest.mark.parametrize("judge", [is_late, never])
async def test_an_error_that_more_time_would_not_avoid_is_raised_to_every_caller(
    judge: Callable[[Exception], bool],
) -> None:
    shared, source, loop = SharedCalls[int](), Source(), asyncio.get_running_loop()
    (first,) = ask(shared, source)
    await settle()
    second = asyncio.create_task(shared.join("BTCUSDT", source, loop.time() + 60.0, judge))
    await settle()
    error = ServerError(500, None, "") if judge is is_late else TransportTimeoutError("no answer")
    source.started[0].set_exception(error)
    for caller in (first, second):
        with pytest.raises(type(error)):
            await caller
    assert len(source.started) == 1


@pytest.mark.virtual_time
async def test_a_caller_whose_time_is_over_does_not_ask_again() -> None:
    shared, source, loop = SharedCalls[int](), Source(), asyncio.get_running_loop()
    (first,) = ask(shared, source)
    await settle()
    ends = loop.time() + 5.0
    second = asyncio.create_task(shared.join("BTCUSDT", source, ends, is_late))
    await settle()
    loop.call_at(ends, source.started[0].set_exception, TransportTimeoutError("no answer"))
    for caller in (first, second):
        with pytest.raises((TransportTimeoutError, BudgetExhaustedError)):
            await caller
    assert len(source.started) == 1


@pytest.mark.virtual_time
async def test_the_time_of_a_caller_does_not_end_its_own_call() -> None:
    shared, source, loop = SharedCalls[int](), Source(), asyncio.get_running_loop()
    alone = asyncio.create_task(shared.join("BTCUSDT", source, loop.time() + 1.0, is_late))
    await asyncio.sleep(2.0)
    source.started[0].set_result(9)
    assert await alone == 9


@pytest.mark.virtual_time
@pytest.mark.parametrize("ends", [60.0, math.inf])
async def test_a_caller_with_more_time_gets_a_value_even_if_the_shared_call_timed_out(
    ends: float,
) -> None:
    shared, source, loop = SharedCalls[int](), Source(), asyncio.get_running_loop()
    hasty = asyncio.create_task(shared.join("BTCUSDT", source, loop.time() + 1.0, is_late))
    await settle()
    patient = asyncio.create_task(shared.join("BTCUSDT", source, loop.time() + ends, is_late))
    await settle()
    source.started[0].set_exception(TransportTimeoutError("no answer"))
    with pytest.raises(TransportTimeoutError):
        await hasty
    await settle()
    source.started[1].set_result(7)
    assert await patient == 7
