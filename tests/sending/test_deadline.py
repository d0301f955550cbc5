"""A deadline interrupts its own task only, as `asyncio.timeout` does."""

import asyncio
import gc
from contextvars import ContextVar
from weakref import ref

import pytest

from binance_oi.sending.deadline import Deadline, Deadlines

pytestmark = pytest.mark.virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


async def limited(deadlines: Deadlines, seconds: float, work: float) -> str:
    """Work for `work` seconds under a deadline; return how and when the work ended."""
    deadline = deadlines.start(seconds)
    try:
        await asyncio.sleep(work)
    except asyncio.CancelledError:
        if deadline.done():
            return f"ended at {now() - 1000:.1f}"
        return "cancelled by another task"
    finally:
        deadline.done()
    return f"done at {now() - 1000:.1f}"


async def test_a_task_is_interrupted_at_its_deadline_and_can_continue() -> None:
    assert await limited(Deadlines(), 2.0, 5.0) == "ended at 2.0"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(1.0)


async def test_a_task_that_ends_in_time_is_not_interrupted() -> None:
    deadlines = Deadlines()
    assert await limited(deadlines, 2.0, 1.0) == "done at 1.0"
    await asyncio.sleep(10.0)
    assert await limited(deadlines, 2.0, 1.0) == "done at 12.0"


async def test_many_deadlines_expire_in_any_order() -> None:
    deadlines = Deadlines()
    limits = [(10.0, 20.0), (3.0, 20.0), (10.0, 1.0), (5.0, 20.0), (12.0, 20.0), (4.0, 2.0)]
    ends = await asyncio.gather(*(limited(deadlines, *limit) for limit in limits))
    assert ends == [
        "ended at 10.0",
        "ended at 3.0",
        "done at 1.0",
        "ended at 5.0",
        "ended at 12.0",
        "done at 2.0",
    ]


async def test_one_timer_serves_consecutive_deadlines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, armed, call_at = asyncio.get_running_loop(), list[float](), None
    call_at = loop.call_at

    def counting(when: float, *args: object, **kwargs: object) -> object:
        armed.append(when)
        return call_at(when, *args, **kwargs)  # type: ignore[arg-type]

    deadlines, calls = Deadlines(), list[asyncio.Task[str]]()
    monkeypatch.setattr(loop, "call_at", counting)
    loop_now = now()
    for _ in range(100):
        calls.append(asyncio.create_task(limited(deadlines, 10.0, 0.0)))
    await asyncio.gather(*calls)
    assert [when for when in armed if when >= loop_now + 9.0] == [loop_now + 10.0]


async def test_finished_deadlines_are_dropped_before_they_expire() -> None:
    deadlines = Deadlines()
    for _ in range(1000):
        await limited(deadlines, 10.0, 0.0)
    assert len(deadlines._queue) <= 2
    assert (
        await limited(deadlines, 3.0, 5.0) == "ended at 3.0"
    )  # the last of the 1,000 would be due at 10 s


@pytest.mark.parametrize("work", [0.5, 5.0], ids=["done", "cancelled"])
async def test_the_deadline_of_a_second_attempt_is_dropped_when_its_call_ends(work: float) -> None:
    deadlines = Deadlines()
    await limited(deadlines, 10.0, 0.0)
    task = asyncio.create_task(limited(deadlines, 9.0, work))
    await asyncio.sleep(1.0)
    task.cancel()
    await task
    gc.collect()
    kept = [kept for kept in gc.get_objects() if isinstance(kept, Deadline) and kept.when == 1009.0]
    assert (len(deadlines._early), kept) == (0, [])


async def test_a_timer_does_not_keep_the_context_of_its_call() -> None:
    class Request:
        """A request to a web service; the service answers it with a value of ours."""

    of_the_task: ContextVar[Request] = ContextVar("of_the_task")
    requests, deadlines = list[ref[Request]](), Deadlines()

    async def answer(seconds: float) -> None:
        request = Request()
        requests.append(ref(request))
        of_the_task.set(request)
        await limited(deadlines, seconds, 1.0)

    for seconds in (10.0, 8.0):  # a first attempt, and a second one with less time
        await asyncio.create_task(answer(seconds))
    await asyncio.sleep(0.0)  # lets the loop drop the finished task
    gc.collect()
    assert [request() for request in requests] == [None, None]


async def test_another_cancellation_is_not_mistaken_for_the_deadline() -> None:
    task = asyncio.create_task(limited(Deadlines(), 2.0, 5.0))
    await asyncio.sleep(1.0)
    task.cancel()
    assert await task == "cancelled by another task"


async def test_a_simultaneous_cancellation_wins_over_the_deadline() -> None:
    deadlines = Deadlines()
    task = asyncio.create_task(limited(deadlines, 2.0, 5.0))
    await asyncio.sleep(1.0)
    deadlines.expire_all()
    task.cancel()
    assert await task == "cancelled by another task"


async def test_a_task_with_an_earlier_cancellation_can_have_a_deadline() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(100.0)
        except asyncio.CancelledError:
            return await limited(Deadlines(), 2.0, 5.0)
        return "not cancelled"

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(1.0)
    task.cancel()
    assert await task == "ended at 3.0"


async def test_expire_all_interrupts_every_task_once() -> None:
    deadlines = Deadlines()
    waiting = [asyncio.create_task(limited(deadlines, s, 20.0)) for s in (10.0, 3.0, 10.0)]
    done = asyncio.create_task(limited(deadlines, 10.0, 0.5))
    await asyncio.sleep(1.0)
    deadlines.expire_all()
    deadlines.expire_all()  # no task is interrupted twice
    deadlines.cancel()
    assert await asyncio.gather(*waiting, done) == ["ended at 1.0"] * 3 + ["done at 0.5"]
    await asyncio.sleep(100.0)  # and no task is interrupted later


async def test_cancelling_without_a_deadline_does_nothing() -> None:
    deadlines = Deadlines()
    deadlines.cancel()
    assert await limited(deadlines, 1.0, 2.0) == "ended at 1.0"
