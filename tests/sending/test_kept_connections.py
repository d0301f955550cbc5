"""A client distinguishes a dead connection from a slow exchange at little cost.

Rule of this file: it has no sockets. A `ConnectionState` stands for a connection, and a
call of `heard` for a received byte.
"""

import asyncio
import random
from itertools import pairwise

import pytest

from binance_oi.sending.kept_connections import (
    ANSWERS_REMEMBERED,
    LAST_READ_S,
    PATIENCE,
    PATIENCE_FACTOR,
    ConnectionState,
    KeptConnections,
)
from support.lanes import thorough

pytestmark = pytest.mark.virtual_time


class Abandoned:
    """Records when a connection is abandoned."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.event = asyncio.Event()

    def __call__(self) -> None:
        self.at.append(now())
        self.event.set()


def now() -> float:
    return asyncio.get_running_loop().time()


def opened(kept: KeptConnections, *, is_kept: bool = True) -> ConnectionState:
    """Open a connection; if `is_kept`, its next request treats it as one that was kept open."""
    state = kept.opened()
    state.kept = is_kept
    return state


async def answered(kept: KeptConnections, state: ConnectionState, seconds: float) -> bool:
    """Let a kept connection answer after `seconds`; return whether it was abandoned before."""
    abandoned, state.kept = Abandoned(), True
    kept.sent(state, abandoned, now())
    try:
        async with asyncio.timeout(seconds):
            await abandoned.event.wait()
    except TimeoutError:
        kept.heard(state)
        return False
    kept.ended(state)
    return True


async def test_a_silent_kept_connection_is_abandoned_once_after_patience() -> None:
    kept, abandoned, began = KeptConnections(), Abandoned(), now()
    state = opened(kept)
    kept.sent(state, abandoned, now())
    await asyncio.sleep(60.0)
    assert abandoned.at == [pytest.approx(began + PATIENCE + LAST_READ_S)]
    assert kept._timer is None


async def test_a_byte_that_arrived_while_the_loop_was_blocked_is_read_first() -> None:
    kept, abandoned = KeptConnections(), Abandoned()
    state = opened(kept)
    kept.sent(state, abandoned, now())
    await asyncio.sleep(PATIENCE + LAST_READ_S / 2)  # the timer has fired; one last read follows
    kept.heard(state)
    kept.sent(state, abandoned, now())  # the next request on this connection
    await asyncio.sleep(LAST_READ_S)
    assert abandoned.at == []
    await asyncio.sleep(60.0)
    assert len(abandoned.at) == 1


async def test_each_request_has_full_patience() -> None:
    kept, ends = KeptConnections(), [Abandoned() for _ in range(20)]
    began = now()
    states = [opened(kept) for _ in ends]
    for number, (state, end) in enumerate(zip(states, ends, strict=True)):
        kept.sent(state, end, now())
        await asyncio.sleep(0.1)
        if number % 2:
            kept.heard(state)
    await asyncio.sleep(10.0)
    for number, end in enumerate(ends):
        due = (
            []
            if number % 2
            else [pytest.approx(began + 0.1 * number + PATIENCE, abs=2 * LAST_READ_S)]
        )
        assert end.at == due


async def test_only_kept_connections_are_abandoned_and_only_with_retries() -> None:
    for kept, is_kept in ((KeptConnections(), False), (KeptConnections(replace=False), True)):
        abandoned = Abandoned()
        kept.sent(opened(kept, is_kept=is_kept), abandoned, now())
        await asyncio.sleep(60.0)
        assert abandoned.at == []
        assert kept._timer is None


async def test_thousands_of_requests_need_a_timer_only_every_two_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, armed = asyncio.get_running_loop(), list[float]()
    call_at = loop.call_at

    def counting(when: float, *args: object, **kwargs: object) -> object:
        armed.append(when)
        return call_at(when, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "call_at", counting)
    kept = KeptConnections()
    states = [opened(kept) for _ in range(50)]
    for _ in range(200):  # 10 s
        for state in states:
            kept.sent(state, Abandoned(), now())
        await asyncio.sleep(0.05)
        for state in states:
            kept.heard(state)
    timers = len(armed) - 200
    assert 0 < timers <= 6
    assert all(later - earlier >= PATIENCE - 0.06 for earlier, later in pairwise(_ours(armed)))
    assert len(kept._silent) == 0


def _ours(armed: list[float]) -> list[float]:
    """Leave out the timers of `asyncio.sleep`, which are due earlier: in 0.05 s, and not in 2 s."""
    return [when for number, when in enumerate(armed) if when > max(armed[:number], default=0.0)]


async def test_connections_silent_since_a_dead_one_sent_its_request_are_suspect() -> None:
    kept = KeptConnections()
    before, dead, since = opened(kept), opened(kept), opened(kept)
    for state in (before, since, dead):
        kept.sent(state, Abandoned(), now())
        kept.heard(state)
    kept.sent(dead, Abandoned(), now())
    kept.sent(since, Abandoned(), now())
    kept.heard(since)
    await asyncio.sleep(PATIENCE + 2 * LAST_READ_S)
    assert [kept.trusts(state) for state in (before, dead, since)] == [False, False, True]
    assert kept.trusts(kept.opened())


@pytest.mark.parametrize("is_kept", [True, False])
async def test_only_a_silent_end_of_a_kept_connection_makes_other_connections_suspect(
    is_kept: bool,
) -> None:
    kept = KeptConnections()
    idle, state = opened(kept), opened(kept, is_kept=is_kept)
    kept.lost(state)  # while no request was under way
    kept.sent(state, Abandoned(), now())
    assert kept.trusts(idle)
    kept.lost(state)
    assert kept.trusts(idle) is not is_kept
    kept.close()


async def test_an_older_dead_connection_ends_no_suspicion() -> None:
    kept = KeptConnections()
    first, idle, second = kept.opened(), kept.opened(), kept.opened()
    kept.sent(first, Abandoned(), now())
    kept.sent(idle, Abandoned(), now())
    kept.heard(idle)
    kept.sent(second, Abandoned(), now())
    kept.suspect(second)
    kept.suspect(first)
    assert not kept.trusts(idle)


async def test_after_a_foreign_answer_no_open_connection_is_trusted() -> None:
    kept = KeptConnections()
    state = kept.opened()
    assert kept.trusts(state)
    kept.distrust()
    assert not kept.trusts(state)
    assert kept.trusts(kept.opened())


@pytest.mark.parametrize(
    "is_kept, seconds, suspect", [(True, 0.6, True), (True, 0.1, False), (False, 9.0, False)]
)
async def test_an_end_after_a_long_silence_makes_other_connections_suspect(
    is_kept: bool, seconds: float, suspect: bool
) -> None:
    kept = KeptConnections(replace=False)
    idle, state = opened(kept), opened(kept, is_kept=is_kept)
    kept.sent(state, Abandoned(), now())
    await asyncio.sleep(seconds)
    kept.ended(state)
    assert kept.trusts(idle) is not suspect


async def test_patience_grows_with_slow_answers_and_shrinks_with_quick_ones() -> None:
    kept = KeptConnections()
    state = opened(kept, is_kept=False)
    kept.sent(state, Abandoned(), now())
    await asyncio.sleep(4.0)
    kept.heard(state)  # the connection is new, so the exchange is slow
    assert kept.patience == pytest.approx(PATIENCE_FACTOR * 4.0)
    assert not await answered(kept, state, 5.0)
    assert kept.patience == pytest.approx(PATIENCE_FACTOR * 5.0)
    for _ in range(ANSWERS_REMEMBERED):
        assert not await answered(kept, state, 3.0)
    assert kept.patience > PATIENCE_FACTOR * 3.0  # the answer after 5 s still counts
    for _ in range(ANSWERS_REMEMBERED):
        assert not await answered(kept, state, 3.0)
    assert kept.patience == pytest.approx(PATIENCE_FACTOR * 3.0)
    for _ in range(2 * ANSWERS_REMEMBERED):
        assert not await answered(kept, state, 0.1)
    assert kept.patience == PATIENCE
    assert await answered(kept, state, 3.0)


@pytest.mark.parametrize("longest, slow", [(10 / 3, 7.0), (10 / 3, 3.4), (1.0, 2.5)])
async def test_patience_is_bounded_and_slower_answers_make_open_connections_unusable(
    longest: float, slow: float
) -> None:
    kept = KeptConnections(longest=longest)
    state = opened(kept, is_kept=False)
    kept.sent(state, Abandoned(), now())
    await asyncio.sleep(slow)
    kept.heard(state)
    assert kept.patience == max(PATIENCE, longest)
    assert not kept.are_usable
    for _ in range(2 * ANSWERS_REMEMBERED):  # each on a new connection
        state = opened(kept, is_kept=False)
        kept.sent(state, Abandoned(), now())
        kept.heard(state)
    assert kept.patience == PATIENCE
    assert kept.are_usable


async def test_connections_are_used_while_answers_are_within_patience() -> None:
    kept = KeptConnections(longest=10 / 3)
    state = opened(kept, is_kept=False)
    kept.sent(state, Abandoned(), now())
    await asyncio.sleep(3.0)
    kept.heard(state)
    assert kept.patience == 10 / 3
    assert kept.are_usable
    assert not await answered(kept, state, 3.1)


async def test_without_retries_slow_answers_make_no_connection_suspect() -> None:
    kept = KeptConnections(replace=False, longest=10 / 3)
    state = opened(kept, is_kept=False)
    kept.sent(state, Abandoned(), now())
    await asyncio.sleep(7.0)
    kept.heard(state)
    assert kept.are_usable


async def test_shrinking_patience_applies_to_waiting_requests() -> None:
    kept, abandoned = KeptConnections(), Abandoned()
    quick, silent = opened(kept, is_kept=False), opened(kept)
    kept.sent(quick, Abandoned(), now())
    await asyncio.sleep(20.0)
    kept.heard(quick)
    began = now()
    kept.sent(silent, abandoned, now())
    for _ in range(2 * ANSWERS_REMEMBERED):
        await answered(kept, quick, 0.001)
    await asyncio.sleep(60.0)
    assert abandoned.at == [pytest.approx(began + PATIENCE, abs=2 * LAST_READ_S)]


@pytest.mark.parametrize(
    "share",
    [0.01, *thorough(0.03, 0.3, 1.0)],
)
async def test_an_exchange_that_is_often_slow_costs_few_second_requests(share: float) -> None:
    chance, kept = random.Random(7), KeptConnections()
    state, extra, requests = kept.opened(), 0, 2_000

    def latency() -> float:
        return 3.0 if chance.random() < share else 0.1

    for _ in range(requests):
        if await answered(kept, state, latency()):
            extra += 1
            state = kept.opened()
            kept.sent(state, Abandoned(), now())
            await asyncio.sleep(latency())
            kept.heard(state)
    assert extra <= 0.03 * requests


async def test_closing_ends_the_timer() -> None:
    kept, abandoned = KeptConnections(), Abandoned()
    kept.close()
    kept.sent(opened(kept), abandoned, now())
    kept.close()
    await asyncio.sleep(60.0)
    assert (kept._timer, abandoned.at) == (None, [])
