"""Polls of one client share requests and a schedule, and all polls fit into one budget.

Rule of this file: the local exchange, on virtual time, counts the requests.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from binance_oi import (
    BudgetExhaustedError,
    ClientClosedError,
    Gap,
    MachineBudget,
    OpenInterestClient,
    ProcessBudget,
    Reason,
    RetryPolicy,
    Snapshot,
    TransportTimeoutError,
)
from binance_oi.budget import Budget
from binance_oi.market.polling import begin_plan, poll, sweeps
from binance_oi.recorder import Recorder, Recording
from binance_oi.simulator import LocalExchange
from support.lanes import thorough
from support.virtual_clock import wall_time

pytestmark = pytest.mark.virtual_time


@pytest.fixture(autouse=True)
async def _between_two_slots() -> None:
    await asyncio.sleep(1.0)


def budget(directory: Path | None = None, **options: float) -> Budget:
    clock = asyncio.get_running_loop().time
    if directory is None:
        return ProcessBudget(clock=clock, wall=wall_time, **options)  # type: ignore[arg-type]
    return MachineBudget(directory=directory, clock=clock, wall=wall_time, **options)  # type: ignore[arg-type]


@asynccontextmanager
async def market(
    symbols: int,
    *budgets: Budget,
    latency: float = 0.0,
    limit: int = 2400,
    max_wait: float | None = None,
) -> AsyncIterator[tuple[LocalExchange, list[OpenInterestClient]]]:
    """A market in which this many symbols trade, with one client for each budget.

    Many tests use a tenth of the limit and of the symbols, which shows the same in less time.
    """
    async with AsyncExitStack() as stack:
        exchange = LocalExchange(clock=wall_time, latency=latency, limit=limit)
        await stack.enter_async_context(exchange)
        trading = exchange.universe.trading
        for name in trading[symbols:]:
            exchange.set_status(name, "SETTLING")
        for number in range(symbols - len(trading)):
            exchange.set_status(f"NEW{number}USDT", "TRADING")
        clients = [
            await stack.enter_async_context(
                OpenInterestClient(
                    base_url=exchange.url,
                    budget=each,
                    max_wait=max_wait,
                    retry=RetryPolicy(attempts=1),
                )
            )
            for each in budgets or (budget(),)
        ]
        yield exchange, clients


def polled(
    client: OpenInterestClient,
    symbols: Iterable[str] | None = None,
    *,
    every: float | None = None,
    notional: bool = False,
) -> AsyncGenerator[Snapshot, None]:
    """`client.poll` on virtual time."""
    return poll(client, symbols, every=every, notional=notional, clock=wall_time)


async def taken(count: int, running: AsyncGenerator[Snapshot, None]) -> list[Snapshot]:
    async with aclosing(running):
        return [await anext(running) for _ in range(count)]


async def until(ready: Callable[[], object], recording: asyncio.Future[None]) -> None:
    """Wait until `ready()` is true, or until the recorder ends."""
    while not ready() and not recording.done():  # noqa: ASYNC110 - on virtual time
        await asyncio.sleep(0.1)


def seconds(snapshots: Iterable[Snapshot]) -> list[float]:
    """The second of the minute of each slot."""
    return [s.slot.timestamp() % 60 for s in snapshots if s.slot is not None]


def reasons(snapshots: Iterable[Snapshot]) -> list[str]:
    return [gap.reason for snapshot in snapshots for gap in snapshot.missed]


# -- shared requests ---------------------------------------------------------------------------


async def test_300_polls_of_one_symbol_cost_one_request_a_slot() -> None:
    async with market(10) as (exchange, [client]):
        names = exchange.universe.trading[:1]
        polls = [taken(5, polled(client, names, every=1.0)) for _ in range(300)]
        snapshots = await asyncio.gather(*polls)
    (slots,) = {tuple(seconds(each)) for each in snapshots}
    assert [later - before for before, later in pairwise(slots)] == [1.0] * 4
    assert all(len(snapshot) == 1 for each in snapshots for snapshot in each)
    assert sum(exchange.answers.values()) == 6  # one for each slot, and one for the list


async def test_polls_of_different_symbols_share_the_requests_for_common_symbols() -> None:
    async with market(10, latency=0.05) as (exchange, [client]):
        a, b, c = exchange.universe.trading[:3]
        both = await asyncio.gather(
            taken(5, polled(client, [a, b], every=1.0)),
            taken(5, polled(client, [b, c], every=1.0, notional=True)),
            taken(5, polled(client, [c, a], every=1.0, notional=True)),
        )
    assert [list(each[0]) for each in both] == [[a, b], [b, c], [c, a]]
    assert all(snapshot.mark_prices for each in both[1:] for snapshot in each)
    assert sum(exchange.answers.values()) == 1 + 5 * (3 + 1)


async def test_a_recorder_shares_its_requests_with_polls(tmp_path: Path) -> None:
    async with market(10) as (exchange, [client]):
        recorder = Recorder(
            client, tmp_path / "oi.db", every=1.0, symbols=["BTCUSDT"], clock=wall_time
        )
        recording = asyncio.ensure_future(recorder.run())
        await taken(5, polled(client, ["BTCUSDT"], every=1.0))
        await asyncio.sleep(0.5)
        recorder.stop()
        await recording
    assert sum(exchange.answers.values()) - 1 <= 6


async def test_each_poll_has_its_own_view_of_a_shared_snapshot() -> None:
    async with market(10) as (_, [client]):
        early = polled(client, ["BTCUSDT"], every=1.0)
        async with aclosing(early):
            await anext(early)
            late = asyncio.ensure_future(taken(1, polled(client, ["BTCUSDT"], every=1.0)))
            seen = await anext(early)
            (other,) = await late
    assert seen.values_by_symbol == other.values_by_symbol
    assert (other.unchanged, other.missed) == (frozenset(), ())


async def test_a_poll_that_ends_does_not_disturb_the_others() -> None:
    async with market(10, latency=0.2) as (_, [client]):
        leaving = [
            asyncio.ensure_future(taken(9, polled(client, ["BTCUSDT"], every=1.0)))
            for _ in range(5)
        ]
        staying = asyncio.ensure_future(taken(3, polled(client, ["BTCUSDT"], every=1.0)))
        await asyncio.sleep(1.1)  # in the middle of the first sweep
        for each in leaving:
            each.cancel()
        assert [len(snapshot) for snapshot in await staying] == [1, 1, 1]
        await asyncio.gather(*leaving, return_exceptions=True)


async def test_snapshots_with_a_max_age_share_their_requests() -> None:
    async with market(50) as (exchange, [client]):
        many = await asyncio.gather(*(client.snapshot(max_age=1.0) for _ in range(300)))
        assert {len(snapshot) for snapshot in many} == {50}
        assert sum(exchange.answers.values()) == 51
        again = await client.snapshot(max_age=1.0)
        assert (len(again), again.weight) == (50, 0)
        await asyncio.sleep(2.0)
        assert (await client.snapshot(max_age=1.0)).weight == 50
        assert (await client.snapshot()).weight == 50


async def test_a_snapshot_reuses_values_only_within_its_max_age() -> None:
    async with market(2) as (exchange, [client]):
        old = await client.snapshot()
        await asyncio.sleep(30.0)
        exchange.answers.clear()
        easy, strict = await asyncio.gather(
            client.snapshot(max_age=60.0), client.snapshot(max_age=1.0)
        )
        assert (easy.weight, easy.values_by_symbol) == (0, old.values_by_symbol)
        assert (strict.weight, sum(exchange.answers.values())) == (2, 2)
        again = await asyncio.gather(*(client.snapshot(max_age=2.0) for _ in range(9)))
        assert {snapshot.weight for snapshot in again} == {0}


async def test_a_shared_value_has_the_time_of_its_answer() -> None:
    async with market(10) as (_, [client]):
        before = await client.snapshot(["BTCUSDT"])
        await asyncio.sleep(3.0)  # of virtual time; `received_ms` is in real time
        earliest = time.time_ns() // 1_000_000 - 3000
        known = await client.snapshot(["BTCUSDT"], max_age=5.0)
        latest = time.time_ns() // 1_000_000 - 3000
    assert known["BTCUSDT"] == before["BTCUSDT"]
    assert earliest - 10 <= known.received_ms["BTCUSDT"] <= latest + 10


@pytest.mark.parametrize("max_age", [-1.0, float("nan"), float("inf")])
async def test_an_invalid_age_is_refused(max_age: float) -> None:
    async with market(10) as (exchange, [client]):
        with pytest.raises(ValueError, match="max_age must be finite"):
            await client.snapshot(max_age=max_age)
        assert not exchange.answers


@pytest.mark.parametrize("deadline", [60.0, None])
@pytest.mark.parametrize("max_wait", [None, *thorough(5.0)])
async def test_a_caller_with_more_time_continues_a_shared_request_after_a_timeout(
    deadline: float | None, max_wait: float | None
) -> None:
    async with market(10, latency=2.0, max_wait=max_wait) as (exchange, [client]):
        names = ["BTCUSDT"]
        hasty = asyncio.ensure_future(client.snapshot(names, max_age=1.0, deadline=1.0))
        await asyncio.sleep(0.5)
        patient = asyncio.ensure_future(client.snapshot(names, max_age=1.0, deadline=deadline))
        hurried = await asyncio.gather(client.snapshot(names, max_age=1.0, deadline=0.1))
        kinds = BudgetExhaustedError, TransportTimeoutError
        assert [type(e) in kinds for e in (await hasty).errors.values()] == [True]
        assert [type(e) in kinds for e in hurried[0].errors.values()] == [True]
        assert list(await patient) == names
        assert len(exchange.answers) == 1


# -- a schedule that fits ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "symbols, slots", [(100, [5.0, 10.0]), *thorough((300, [10.0, 20.0])), (840, [30.0, 0.0])]
)
async def test_a_poll_without_a_period_takes_the_shortest_that_fits(
    symbols: int, slots: list[float]
) -> None:
    async with market(symbols) as (_, [client]):
        snapshots = await taken(2, polled(client))
    assert seconds(snapshots) == slots
    assert [len(snapshot) for snapshot in snapshots] == [symbols] * 2
    due = [s.next_slot.timestamp() % 60 for s in snapshots if s.next_slot is not None]
    assert due[0] == slots[1]


async def test_a_poll_that_is_never_awaited_costs_nothing() -> None:
    async with market(10) as (exchange, [client]):
        running = client.poll()
        await running.aclose()
        assert client.pollers.demands.demand(None) == 0.0
    assert not exchange.answers


async def test_polls_without_a_period_share_one_schedule() -> None:
    async with market(400) as (exchange, [client]):
        many = await asyncio.gather(*(taken(2, polled(client)) for _ in range(20)))
    assert {tuple(seconds(each)) for each in many} == {(15.0, 30.0)}
    assert sum(exchange.answers.values()) == 1 + 2 * 400


async def test_a_poll_without_a_listing_plans_for_the_whole_market() -> None:
    async with market(10) as (exchange, [client]):
        await exchange.close()
        async with aclosing(sweeps(client, clock=wall_time)) as outcomes:
            outcome = await anext(outcomes)
    assert isinstance(outcome, Gap)
    assert (outcome.first / 1000 % 60, outcome.reason) == (30.0, "outage")


@pytest.mark.parametrize(
    "every, slots", [(20.0, [20, 40, 0, 30, 0, 30]), *thorough((None, [30, 0, 30, 0, 0]))]
)
async def test_a_schedule_that_no_longer_fits_slows_to_the_next_one_that_fits(
    every: float | None, slots: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    grown = 6 if every else 70
    async with market(78, limit=240) as (exchange, [client]):
        snapshots: list[Snapshot] = []
        with caplog.at_level(logging.WARNING, "binance_oi"):
            async with aclosing(polled(client, every=every)) as running:
                async for snapshot in running:
                    snapshots.append(snapshot)
                    if len(snapshots) == len(slots):
                        break
                    if len(snapshots) == 3:
                        for number in range(grown):
                            exchange.set_status(f"GROWN{number}USDT", "TRADING")
                        client._listing._known = None
    assert seconds(snapshots) == slots
    assert set(reasons(snapshots[:3])) == set()
    assert set(reasons(snapshots[3:])) == {"budget"}
    assert len(snapshots[-1]) == 78 + grown
    assert [record.message.split(":")[0] for record in caplog.records] == [
        f"the schedule continues every {30 if every else 60} s"
    ]
    assert set(exchange.answers) == {200}


async def test_the_requested_schedule_returns_when_there_is_room_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with market(82, limit=240) as (exchange, [client]):
        plan = await begin_plan(client, every=20.0)
        plan.yield_room()
        outcomes: list[Snapshot | Gap] = []
        async with aclosing(sweeps(client, clock=wall_time, plan=plan)) as running:
            async for outcome in running:
                outcomes.append(outcome)
                if len(outcomes) == 4:
                    for name in exchange.universe.trading[:20]:
                        exchange.set_status(name, "SETTLING")
                    client._listing._known = None
                if len(outcomes) == 9:
                    break
    begins = [
        o.first // 1000 if isinstance(o, Gap) else round(o.slot.timestamp()) if o.slot else 0
        for o in outcomes
    ]
    assert [begin % 60 for begin in begins] == [20, 30, 40, 0, 20, 40, 0, 20, 40]
    is_gap = [isinstance(outcome, Gap) for outcome in outcomes]
    assert is_gap == [True, False, True, False, True, False, False, False, False]
    assert all(o.detail for o in outcomes if isinstance(o, Gap))
    said = [record.message for record in caplog.records if "schedule" in record.message]
    assert len(said) == 2
    assert said[1] == "the schedule continues every 20 s: there is room for it"


# -- polls of several clients ------------------------------------------------------------------


async def test_a_second_poller_on_one_budget_is_refused_with_the_numbers(tmp_path: Path) -> None:
    ours, theirs = budget(tmp_path), budget(tmp_path)
    async with market(50, ours, theirs, limit=240) as (_, [first, second]):
        async with aclosing(polled(first, every=20.0)) as running:
            await anext(running)
            with pytest.raises(ValueError, match=r"other polls take 150\); every 35 s is poss"):
                await taken(1, polled(second, every=20.0))
            assert seconds(await taken(1, polled(second))) == [0.0]  # it polls every 60 s
            assert len(await anext(running)) == 50
        assert len((await taken(1, polled(second, every=20.0)))[0]) == 50


async def test_a_refused_poll_leaves_no_demand_behind() -> None:
    shared = budget()
    async with market(50, shared, shared, limit=240) as (_, [first, second]):
        for _ in range(3):
            with pytest.raises(ValueError, match="is possible"):
                await taken(1, polled(first, every=10.0))
        assert len((await taken(1, polled(second, every=20.0)))[0]) == 50


async def test_the_demands_of_two_polls_of_one_client_are_added() -> None:
    async with market(50, limit=240) as (exchange, [client]):
        names = exchange.universe.trading
        async with aclosing(polled(client, names[:30], every=10.0)) as running:
            await anext(running)
            with pytest.raises(ValueError, match="other polls take 180"):
                await taken(1, polled(client, names[30:], every=15.0))
            assert len((await taken(1, polled(client, names[:30], every=10.0)))[0]) == 30
            with pytest.raises(ValueError, match="50 symbols every 10 s take 300"):
                await taken(1, polled(client, names, every=10.0))
            assert len(await anext(running)) == 30


async def test_of_two_growing_pollers_the_first_one_keeps_its_schedule(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shared = budget()
    async with (
        market(39, shared, shared, limit=240) as (exchange, [first, second]),
        aclosing(polled(first, every=20.0)) as older,
        aclosing(polled(second, every=20.0)) as younger,
    ):
        await asyncio.gather(anext(older), anext(younger))
        for number in range(3):
            exchange.set_status(f"GROWN{number}USDT", "TRADING")
        first._listing._known = second._listing._known = None

        async def following(running: AsyncGenerator[Snapshot, None], count: int) -> list[float]:
            return seconds([await anext(running) for _ in range(count)])

        slots = await asyncio.gather(following(older, 7), following(younger, 5))
    assert slots[0] == [40, 0, 20, 40, 0, 20, 40]
    assert {later - before for before, later in pairwise(slots[1][1:])} == {30, -30}
    assert set(exchange.answers) == {200}


async def test_a_recorder_continues_a_recording_whose_schedule_no_longer_fits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "oi.db"
    async with market(78, limit=240) as (exchange, [client]):

        async def record(sweeps: int) -> Recorder:
            recorder = Recorder(client, path, every=20.0, clock=wall_time)
            recording = asyncio.ensure_future(recorder.run())
            await until(lambda: recorder.status.sweeps >= sweeps, recording)
            recorder.stop()
            await recording
            return recorder

        await record(2)
        for number in range(6):
            exchange.set_status(f"GROWN{number}USDT", "TRADING")
        client._listing._known = None
        with caplog.at_level(logging.WARNING, "binance_oi"):
            await record(3)
        client._listing._known = None
        path, new = tmp_path / "new.db", path
        with pytest.raises(ValueError, match="every 22 s is possible"):
            await record(1)
        assert not path.exists()
    with Recording(new) as recording:
        slots = [sweep.slot // 1000 % 60 for sweep in recording.sweeps()]
        assert slots[:2] == [20, 40]
        assert {later - before for before, later in pairwise(slots[2:])} <= {30, -30}
        assert {gap.reason for gap in recording.gaps()} == {"budget"}
    assert [r.message.split(":")[0] for r in caplog.records] == [
        "the schedule continues every 30 s"
    ]


async def test_a_recorder_without_a_period_logs_the_schedule_it_chose(tmp_path: Path) -> None:
    async with market(100) as (_, [client]):
        recorder = Recorder(client, tmp_path / "oi.db", clock=wall_time)
        assert recorder.status.every is None
        recording = asyncio.ensure_future(recorder.run())
        await until(lambda: recorder.status.sweeps >= 2, recording)
        recorder.stop()
        await recording
    assert recorder.status.every == 5.0
    assert recorder.status.trouble is None


# -- the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [None, 30.0, 86_400.0])
async def test_a_poll_that_waits_for_its_slot_ends_with_its_client(every: float | None) -> None:
    async with market(10) as (_, [client]):
        waiting = asyncio.ensure_future(taken(99, polled(client, every=every)))
        await asyncio.sleep(2.0)
        began = wall_time()
        await client.aclose()
        with pytest.raises(ClientClosedError):
            await waiting
        assert wall_time() - began < 0.5


async def test_a_recorder_that_waits_for_its_slot_ends_with_its_client(tmp_path: Path) -> None:
    async with market(10) as (_, [client]):
        recorder = Recorder(client, tmp_path / "oi.db", every=600.0, clock=wall_time)
        recording = asyncio.ensure_future(recorder.run())
        await asyncio.sleep(2.0)
        await client.aclose()
        with pytest.raises(ClientClosedError):
            await recording


async def test_a_poll_that_ends_withdraws_its_demand() -> None:
    shared = budget()
    async with market(10, shared) as (_, [client]):
        pool = client._governor.pool
        running = polled(client, every=1.0)
        await anext(running)
        assert pool.demand(None) == pytest.approx(600.2)
        await running.aclose()
        assert pool.demand(None) == 0.0


@pytest.mark.parametrize("pace", [0.2, 1.0, 5.0])
async def test_a_low_pace_does_not_extend_a_deadline_or_max_wait(pace: float) -> None:
    loop = asyncio.get_running_loop()
    async with LocalExchange(clock=wall_time) as exchange:
        clock = loop.time
        own = ProcessBudget(clock=clock, wall=wall_time)
        async with OpenInterestClient(base_url=exchange.url, budget=own, pace=pace) as client:
            for _ in range(max(1, int(pace))):
                await client.get_open_interest("BTCUSDT")
            began = loop.time()
            with pytest.raises(BudgetExhaustedError) as caught:
                await client.get_open_interest("BTCUSDT", max_wait=0.1)
            assert caught.value.reason is Reason.PACE
            market = await client.snapshot(["BTCUSDT", "ETHUSDT"], deadline=0.05)
            assert len(market.errors) >= 1
            assert loop.time() - began < 0.16
