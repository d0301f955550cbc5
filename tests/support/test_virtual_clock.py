"""On the virtual loop, waiting takes no time, sockets and threads work, and runs are repeatable."""

import asyncio
import selectors
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, ClientTimeout, web
from aiolimiter import AsyncLimiter

from binance_oi.testing import virtual_clock

pytestmark = pytest.mark.virtual_time

HOUR_S = 3600.0
MEGABYTE = b"x" * (1 << 20)


def now() -> float:
    return asyncio.get_running_loop().time()


def steps() -> int:
    """Count the iterations of the running loop: what waiting costs, on any machine the same."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, virtual_clock.VirtualLoop)
    return loop.steps


async def _slow(request: web.Request) -> web.Response:
    await asyncio.sleep(float(request.query["s"]))
    return web.Response(body=MEGABYTE if "large" in request.query else b"ok")


@asynccontextmanager
async def _server() -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/", _slow)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def _get(session: ClientSession, url: str, seconds: float, *, large: bool = False) -> bytes:
    query = {"s": str(seconds)} | ({"large": "1"} if large else {})
    async with session.get(url, params=query) as response:
        return await response.read()


async def test_an_hour_of_sleep_is_one_jump() -> None:
    virtual, before = now(), steps()
    await asyncio.sleep(HOUR_S)
    assert now() - virtual == pytest.approx(HOUR_S, abs=1e-5)
    assert steps() - before <= 3


async def test_timers_run_in_order_and_each_at_its_time() -> None:
    ran: list[tuple[str, float]] = []
    loop, start = asyncio.get_running_loop(), now()

    def note(name: str) -> None:
        ran.append((name, now() - start))

    for name, delay in [("c", 3.0), ("a", 1.0), ("b", 1.0)]:
        loop.call_later(delay, note, name)
    loop.call_later(2.0, note, "never").cancel()
    await asyncio.sleep(4.0)
    assert [name for name, _ in ran] == ["a", "b", "c"]
    assert [when for _, when in ran] == pytest.approx([1.0, 1.0, 3.0], abs=1e-5)


async def test_the_clock_stands_still_while_there_is_work() -> None:
    start = now()
    for _ in range(1000):
        await asyncio.sleep(0)
    assert now() == start


async def test_a_timer_rearmed_for_now_still_advances_the_clock() -> None:
    loop, start = asyncio.get_running_loop(), now()
    done = asyncio.Event()

    def again() -> None:
        if now() > start:
            done.set()
        else:
            loop.call_at(now(), again)

    loop.call_at(start, again)
    await done.wait()
    assert now() - start < 1e-3


def test_timers_run_after_a_year_of_virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    select = virtual_clock._JumpingSelector.select

    def counted(
        selector: virtual_clock._JumpingSelector, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        assert selector.steps < 1000, "the loop spins"
        return select(selector, timeout)

    monkeypatch.setattr(virtual_clock._JumpingSelector, "select", counted)

    async def sleep() -> float:
        await asyncio.sleep(366 * 24 * HOUR_S)
        began = now()
        await asyncio.sleep(0.3)
        return now() - began

    assert virtual_clock.run(sleep()) == pytest.approx(0.3, abs=1e-6)


async def test_aiolimiter_releases_each_waiter_in_time_without_spinning() -> None:
    limiter, start, before = AsyncLimiter(10, 1.0), now(), steps()
    for _ in range(1010):
        await limiter.acquire()
    assert now() - start == pytest.approx(100.0, abs=0.01)
    assert steps() - before <= 5 * 1000


async def test_a_real_server_answers_after_its_virtual_latency() -> None:
    async with _server() as url, ClientSession() as session:
        start, before = now(), steps()
        assert await _get(session, url, 60.0) == b"ok"
        assert now() - start == pytest.approx(60.0, abs=0.01)
        assert steps() - before <= 100


async def test_answers_arrive_in_the_order_of_their_latency() -> None:
    finished: list[int] = []
    start = now()

    async def one(seconds: int) -> None:
        await _get(session, url, seconds)
        finished.append(seconds)
        assert now() - start == pytest.approx(seconds, abs=0.01)

    async with _server() as url, ClientSession() as session:
        await asyncio.gather(*(one(seconds) for seconds in reversed(range(1, 51))))
    assert finished == list(range(1, 51))


async def test_large_bodies_take_no_virtual_time() -> None:
    # A full send buffer waits for a real acknowledgement, before which no timer may fire.
    async with _server() as url, ClientSession(timeout=ClientTimeout(total=1.0)) as session:
        start = now()
        bodies = await asyncio.gather(*(_get(session, url, 0, large=True) for _ in range(20)))
        assert all(body == MEGABYTE for body in bodies)
        assert now() - start < 0.01


async def test_a_timeout_is_raised_at_its_virtual_time() -> None:
    async with _server() as url, ClientSession(timeout=ClientTimeout(total=10.0)) as session:
        start = now()
        with pytest.raises(TimeoutError):
            await _get(session, url, HOUR_S)
        assert now() - start == pytest.approx(10.0, abs=1.0)  # aiohttp rounds a timeout up


async def test_the_loop_waits_only_once_for_a_peer_that_never_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float | None] = []
    select = selectors.DefaultSelector.select

    def noting(
        selector: selectors.DefaultSelector, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout != 0:
            waits.append(timeout)
        return select(selector, timeout)

    monkeypatch.setattr(selectors.DefaultSelector, "select", noting)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(ours, MEGABYTE * 8))
        start = now()
        for _ in range(100):
            await asyncio.sleep(HOUR_S)
        assert not sending.done()
        assert now() - start >= 100 * HOUR_S
        assert 1 <= len(waits) <= 3
        sending.cancel()


async def test_the_clock_stands_still_while_a_thread_runs() -> None:
    start, late = now(), asyncio.create_task(asyncio.sleep(HOUR_S))
    assert await asyncio.to_thread(lambda: sum(range(1_000_000))) == 499_999_500_000
    assert now() == start
    assert not late.done()
    late.cancel()


async def test_a_name_can_be_resolved_in_a_thread() -> None:
    found = await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80, type=socket.SOCK_STREAM)
    assert found[0][4] == ("127.0.0.1", 80)


async def test_wall_time_follows_the_virtual_clock_from_the_start_of_a_minute() -> None:
    wall, loop = virtual_clock.wall_time(), now()
    await asyncio.sleep(30.0)
    assert virtual_clock.wall_time() - wall == pytest.approx(30.0, abs=1e-5)
    assert (wall - (loop - virtual_clock.START_S)) % 60.0 == pytest.approx(0.0, abs=1e-5)


def test_a_loop_without_anything_to_wait_for_raises_deadlock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(virtual_clock, "_DEADLOCK_S", 0.01)

    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(virtual_clock.Deadlock):
        virtual_clock.run(main())


def test_runs_of_the_same_program_are_identical() -> None:
    async def main() -> list[tuple[int, float]]:
        trace: list[tuple[int, float]] = []
        limiter = AsyncLimiter(7, 1.0)

        async def one(number: int) -> None:
            await limiter.acquire()
            await _get(session, url, (number * 37 % 11) / 10)
            trace.append((number, now()))

        async with _server() as url, ClientSession() as session:
            await asyncio.gather(*(one(number) for number in range(100)))
        return trace

    first = virtual_clock.run(main())
    assert first[-1][1] > virtual_clock.START_S + 10
    assert virtual_clock.run(main()) == first


def test_run_returns_the_result_and_closes_its_loop() -> None:
    async def main() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert virtual_clock.run(main()).is_closed()
