"""A process that shares a budget on a server is a member, and its courier talks to the server.

Rule of this file: the server is a `Keeper` in memory, each member has a `Link` to it, and time is
virtual. Each member has a governor, as in a client.
"""

import asyncio
import gc
import logging
from typing import Any

import pytest

from binance_oi.budget.courier import Courier
from binance_oi.budget.member import MemberPool
from binance_oi.budget.pool import ProcessBudget, fresh_state
from binance_oi.budget.record_server import Answer, ServerError, Swap
from binance_oi.budget.turns import LOST_AFTER_S
from binance_oi.errors import BudgetExhaustedError, ClientClosedError, Reason
from binance_oi.sending.governor import Governor
from support.record_keeper import Keeper, Link
from support.virtual_clock import EPOCH_S, run, wall_time

pytestmark = [pytest.mark.virtual_time, pytest.mark.usefixtures("known_address")]

LIMIT = 1000
POOL = "exchange"


def steady() -> float:
    return wall_time() - EPOCH_S


class Member:
    """A governor over a pool, with its courier and its link."""

    def __init__(self, keeper: Keeper, without_server: Any = "share") -> None:
        def make(state: Any, members: int = 1) -> Any:
            return ProcessBudget(limit=LIMIT, reserve=0, share=1.0 / members)._make_bucket(state)

        self.link = Link(keeper)
        self.pool = MemberPool(
            make,
            lambda clock: fresh_state(LIMIT, clock, wall_time),
            steady,
            wall_time,
            without_server,
        )
        self.courier = Courier(self.pool, POOL, lambda: self.link, steady)
        self.governor = Governor(self.pool)

    async def call(self, **more: Any) -> None:
        """Send one request; its answer has the count of all weight used."""
        async with self.governor.reserve(1, **more) as permit:
            headers = {"X-MBX-USED-WEIGHT-1M": str(max(1, self.pool.usage.charged))}
            permit.settle(200, headers)


@pytest.fixture
def keeper() -> Keeper:
    return Keeper(wall_time)


async def test_members_that_share_a_server_share_one_count(keeper: Keeper) -> None:
    one, other = Member(keeper), Member(keeper)
    await asyncio.gather(*(member.call() for member in (one, other) for _ in range(50)))
    await one.courier.aclose()
    await other.courier.aclose()
    third = Member(keeper)
    await third.call()
    assert third.pool.usage.charged == 101
    await third.courier.aclose()


async def test_a_single_call_costs_little_more_than_one_round_trip_to_the_server(
    keeper: Keeper,
) -> None:
    member = Member(keeper)
    await member.call()
    calls = keeper.calls
    for _ in range(20):
        await asyncio.sleep(0.9)
        await member.call()
    assert keeper.calls - calls <= 25
    await member.courier.aclose()


async def test_closing_refunds_unused_leases(keeper: Keeper) -> None:
    one, other = Member(keeper), Member(keeper)
    await one.call()
    await asyncio.gather(*(one.call() for _ in range(30)))
    await one.courier.aclose()
    await other.call()
    assert other.pool.usage.charged == 32
    await one.courier.aclose()
    await one.call()
    assert one.pool.usage.charged >= 33
    for member in (one, other):
        await member.courier.aclose()


async def test_closing_during_a_request_keeps_its_charge_and_stops_all_tasks(
    keeper: Keeper,
) -> None:
    one, other = Member(keeper), Member(keeper)
    await one.call()
    async with one.governor.reserve(7):
        await one.courier.aclose()
    assert not one.courier._tasks  # settling the request after `aclose` starts no task
    await other.call()
    assert other.pool.usage.charged == 9
    await asyncio.sleep(5.0)
    await one.courier.aclose()
    await other.courier.aclose()


async def test_closing_during_a_call_to_the_server_refunds_the_cancelled_request(
    keeper: Keeper,
) -> None:
    one, other = Member(keeper), Member(keeper)
    await one.call()
    one.link.delay = 0.1
    waiting = asyncio.create_task(one.call())
    await asyncio.sleep(0.15)  # the server has made the change, and its answer is under way
    waiting.cancel()
    one.link.delay = 0.001
    await one.courier.aclose()
    await other.call()
    assert other.pool.usage.charged == 2
    await other.courier.aclose()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_closing_takes_only_seconds_if_the_server_does_not_answer(keeper: Keeper) -> None:
    member = Member(keeper)
    await member.call()
    async with member.governor.reserve(1):
        began = steady()
        member.link.cut_until = asyncio.get_running_loop().time() + 3600.0
        await member.courier.aclose()
        assert steady() - began < 10.0


async def test_a_ban_reaches_every_member_within_two_round_trips(keeper: Keeper) -> None:
    members = [Member(keeper) for _ in range(4)]
    for member in members:
        member.link.delay = 0.01
        await member.call()
    members[0].pool.refused(300.0, ban=True)
    await asyncio.sleep(2 * 0.01 + 0.02)
    assert all(member.pool.held_for(ban=True) for member in members)
    for member in members:
        await member.courier.aclose()


async def test_a_member_that_missed_the_news_of_a_ban_learns_it_with_its_next_charge(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Keeper, "publish", lambda *_: None)
    one, other = Member(keeper), Member(keeper)
    await one.call()
    await other.call()
    await asyncio.sleep(2.0)
    one.pool.refused(300.0, ban=True)
    await asyncio.sleep(0.1)
    with pytest.raises(Exception, match="banned"):
        await other.call(max_wait=5.0)
    for member in (one, other):
        await member.courier.aclose()


async def test_without_a_server_at_the_start_calls_wait_for_the_next_minute(
    keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    member = Member(keeper)
    member.link.is_refused = True
    with pytest.raises(BudgetExhaustedError) as caught:
        await member.call(max_wait=LOST_AFTER_S + 5.0)
    assert caught.value.reason is Reason.LEASE
    await member.call()
    assert steady() > 60.0
    assert [each.levelno for each in caplog.records] == [logging.WARNING]
    member.link.is_refused = False
    await asyncio.sleep(2.0)
    await member.call()
    assert len(caplog.records) == 2
    await member.courier.aclose()


async def test_without_a_server_a_member_that_is_set_to_wait_sends_nothing(keeper: Keeper) -> None:
    member = Member(keeper, "wait")
    member.link.is_refused = True
    with pytest.raises(BudgetExhaustedError) as caught:
        await member.call(max_wait=600.0)
    assert caught.value.reason is Reason.LEASE
    member.link.is_refused = False
    await member.call(max_wait=5.0)
    await member.courier.aclose()


async def test_an_unexpected_error_of_the_server_does_not_end_sharing(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = Member(keeper)
    await member.call()
    real, failures = Link.swap, iter([ZeroDivisionError("odd"), RuntimeError("odd")])

    async def swap(self: Link, pool: str, swap: Swap) -> Answer:
        for error in failures:
            raise error
        return await real(self, pool, swap)

    monkeypatch.setattr(Link, "swap", swap)
    await member.call()
    await member.courier.aclose()


async def test_an_error_of_our_own_is_logged_and_does_not_end_sharing(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    member = Member(keeper)
    await member.call()
    real, failures = member.pool.begin, iter([ZeroDivisionError("odd")])

    def begin() -> Any:
        for error in failures:
            raise error
        return real()

    monkeypatch.setattr(member.pool, "begin", begin)
    await member.call()
    assert "a turn at the shared budget failed" in caplog.text
    await member.courier.aclose()


def test_a_library_that_swallows_a_cancellation_cannot_block_the_end_of_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = Link.listen

    async def listen(self: Link, *arguments: Any) -> None:
        try:
            await real(self, *arguments)
        except asyncio.CancelledError:
            raise ServerError("a time-out of its own") from None

    monkeypatch.setattr(Link, "listen", listen)

    async def use() -> None:
        await Member(Keeper(lambda: EPOCH_S + 1030.0)).call()

    run(use())  # `run` cancels its tasks, and waits for them


def test_a_loop_that_ends_without_closing_returns_the_leases() -> None:
    kept: list[Any] = []

    async def use() -> None:
        keeper = Keeper(lambda: EPOCH_S + 1030.0)
        kept.append(keeper)
        member = Member(keeper)
        await member.call()
        await asyncio.gather(*(member.call() for _ in range(20)))

    run(use())
    gc.collect()

    async def look() -> None:
        member = Member(kept[0])
        await member.call()
        assert member.pool.usage.charged == 22
        await member.courier.aclose()

    run(look())


def test_a_second_event_loop_continues_with_the_same_budget() -> None:
    kept, charged = list[Member](), list[int]()

    async def use() -> None:
        if not kept:
            kept.append(Member(Keeper(lambda: EPOCH_S + 1030.0)))
        member = kept[0]
        member.governor = Governor(member.pool)
        await member.call()
        charged.append(member.pool.usage.charged)

    for _ in range(3):
        run(use())
    assert charged == [1, 2, 3]


async def test_a_second_event_loop_is_refused_while_the_first_one_runs(keeper: Keeper) -> None:
    member = Member(keeper)
    await member.call()
    now = steady()
    member.pool._steady = lambda: now

    async def use() -> None:
        with pytest.raises(ClientClosedError, match="another event loop"):
            member.pool.charge(5)
        with pytest.raises(ClientClosedError, match="another event loop"):
            await member.courier.aclose()

    await asyncio.to_thread(asyncio.run, use())
    await member.courier.aclose()
