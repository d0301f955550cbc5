"""Each slot of a schedule has a snapshot or a gap with a reason, even if the clock is set.

Rule of this file: most tests run the schedule with a scripted reader. The last tests show that the
real client keeps its schedule through bans, outages, listings and delistings.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise

import pytest

from binance_oi import (
    BannedError,
    BinanceOIError,
    ClientClosedError,
    ExchangeInfo,
    Gap,
    InvalidSymbolError,
    OpenInterest,
    OpenInterestClient,
    ProcessBudget,
    Reason,
    RetryPolicy,
    ServerError,
    Snapshot,
    SymbolInfo,
    TransportError,
    Usage,
)
from binance_oi.market import schedule
from binance_oi.market.gap import gap_reason
from binance_oi.market.polling import poll, sweeps
from binance_oi.market.schedule import Schedule
from binance_oi.simulator import Bans, LocalExchange
from support.virtual_clock import wall_time

pytestmark = pytest.mark.virtual_time

START_MS = 1_795_435_200_000  # 2026-11-23T12:00:00Z, where virtual wall time begins
EVERY = 20.0
NOW = datetime.fromtimestamp(START_MS / 1000, UTC)


def usage(**changes: object) -> Usage:
    known: dict[str, object] = {
        "limit": 2400,
        "used": 0,
        "remaining": 2376,
        "charged": 0,
        "others": 0,
        "in_flight": 0,
        "reserve": 24,
        "share": 2400,
        "resets_at": NOW,
        "held_until": None,
        "banned_until": None,
    }
    return Usage(**(known | changes))  # type: ignore[arg-type]


class Scripted:
    """A reader whose sweeps have the durations and results that the test sets."""

    def __init__(self, *names: str) -> None:
        self.names = list(names or ("BTCUSDT", "ETHUSDT"))
        self.usage = usage()
        self.begun: list[float] = []
        self.seconds: dict[int, float] = {}  # the number of a sweep -> its duration
        self.failures: dict[int, BinanceOIError] = {}
        self.listing_error: BinanceOIError | None = None
        self.cancelled = 0
        self.value_time: Callable[[str], int] = lambda _: int(wall_time() * 1000)

    async def exchange_info(self, *, max_age: float = 0.0) -> ExchangeInfo:
        if self.listing_error is not None:
            raise self.listing_error
        listed = [SymbolInfo(name, "TRADING") for name in self.names]
        return ExchangeInfo((*listed, SymbolInfo("OLDUSDT", "SETTLING")))

    async def snapshot(
        self,
        symbols: Iterable[str] | None = None,
        *,
        notional: bool = False,
        deadline: float | None = None,
    ) -> Snapshot:
        number = len(self.begun)
        self.begun.append(wall_time() - START_MS / 1000)
        try:
            await asyncio.sleep(self.seconds.get(number, 1.0))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        names, error = list(symbols or ()), self.failures.get(number)
        values = {n: OpenInterest(n, Decimal(number), self.value_time(n)) for n in names}
        return Snapshot(
            values_by_symbol={} if error else values,
            errors=dict.fromkeys(names, error) if error else {},
            started=NOW,
            finished=NOW,
            weight=len(names),
        )


@pytest.fixture(autouse=True)
async def _between_two_slots() -> None:
    await asyncio.sleep(1.0)


async def first(count: int, reader: Scripted, every: float = EVERY) -> list[Snapshot | Gap]:
    outcomes: list[Snapshot | Gap] = []
    async with aclosing(sweeps(reader, every=every, clock=wall_time)) as running:
        async for outcome in running:
            outcomes.append(outcome)
            if len(outcomes) == count:
                break
    return outcomes


def shown(outcomes: Iterable[Snapshot | Gap]) -> list[tuple[float, str]]:
    """For each outcome, the seconds from the start of the schedule, and the reason of a gap."""
    return [
        ((o.first - START_MS) / 1000, o.reason)
        if isinstance(o, Gap)
        else ((o.slot or NOW).timestamp() - START_MS / 1000, "")
        for o in outcomes
    ]


async def test_sweeps_begin_at_multiples_of_the_period_and_never_drift() -> None:
    reader = Scripted()
    await asyncio.sleep(6.3)
    outcomes = await first(200, reader)
    assert [slot for slot, _ in shown(outcomes)] == [EVERY * k for k in range(1, 201)]
    assert reader.begun == pytest.approx([EVERY * k for k in range(1, 201)], abs=1e-3)


async def test_slots_that_pass_during_a_long_sweep_are_gaps_with_reason_overrun(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reader = Scripted()
    reader.seconds[1] = 45.0
    with caplog.at_level(logging.WARNING, "binance_oi"):
        outcomes = await first(5, reader)
    assert shown(outcomes) == [(20, ""), (40, ""), (60, "overrun"), (100, ""), (120, "")]
    assert isinstance(outcomes[2], Gap)
    assert (outcomes[2].last - START_MS) / 1000 == 80
    assert len(caplog.records) == 1


async def test_slots_that_pass_during_a_cooldown_are_gaps_with_reason_limited() -> None:
    reader = Scripted()
    reader.seconds[0] = 30.0
    reader.usage = usage(held_until=NOW)
    assert shown(await first(2, reader)) == [(20, ""), (40, "limited")]
    reader = Scripted()
    reader.seconds[0] = 30.0
    reader.usage = usage(held_until=NOW, banned_until=NOW)
    assert [why for _, why in shown(await first(2, reader))] == ["", "banned"]


async def test_the_detail_of_a_gap_after_a_ban_says_that_requests_are_held_back() -> None:
    reader = Scripted()
    reader.seconds[0] = 30.0
    reader.usage = usage(waiting_for={Reason.CAUTION: 5})
    gap = (await first(2, reader))[1]
    assert isinstance(gap, Gap)
    assert gap.reason == "overrun"
    assert gap.detail.endswith("; shortly after a start or a ban, requests are held back")


async def test_a_sweep_without_any_value_is_a_gap() -> None:
    reader = Scripted()
    reader.failures = {
        0: BannedError(418, -1003, "banned", NOW),
        1: TransportError("no route"),
        2: ServerError(503, None, ""),
    }
    outcomes = await first(4, reader)
    assert [why for _, why in shown(outcomes)] == ["banned", "outage", "outage", ""]


async def test_slots_that_pass_while_the_caller_is_away_are_gaps_with_reason_late() -> None:
    reader = Scripted()
    outcomes: list[Snapshot | Gap] = []
    async with aclosing(sweeps(reader, every=EVERY, clock=wall_time)) as running:
        async for outcome in running:
            outcomes.append(outcome)
            if len(outcomes) == 1:
                await asyncio.sleep(65.0)  # until 20 + 1 + 65 = 86 s
            if len(outcomes) == 3:
                break
    assert shown(outcomes) == [(20, ""), (40, "late"), (100, "")]
    gap = outcomes[1]
    assert isinstance(gap, Gap)
    assert (gap.last - START_MS) / 1000 == 80


async def test_a_slot_is_not_missed_by_a_small_delay() -> None:
    reader = Scripted()
    async with aclosing(sweeps(reader, every=EVERY, clock=wall_time)) as running:
        await anext(running)
        await asyncio.sleep(24.0)
        assert shown([await anext(running)]) == [(40, "")]
    assert reader.begun == pytest.approx([20.0, 45.0], abs=0.01)


async def test_poll_yields_snapshots_with_joined_gaps() -> None:
    reader = Scripted()
    reader.seconds[1] = 65.0
    reader.failures = {n: TransportError("no route") for n in (3, 4)}
    async with aclosing(poll(reader, every=EVERY, clock=wall_time)) as running:
        snapshots = [await anext(running) for _ in range(4)]
    assert [len(s.missed) for s in snapshots] == [0, 0, 1, 1]
    overrun, outage = snapshots[2].missed[0], snapshots[3].missed[0]
    assert ((overrun.first - START_MS) / 1000, (overrun.last - START_MS) / 1000) == (60, 100)
    assert ((outage.first - START_MS) / 1000, (outage.last - START_MS) / 1000) == (140, 160)
    assert str(overrun).startswith("2026-11-23 12:01:00 to 2026-11-23 12:01:40 UTC: overrun (")
    assert str(outage._replace(last=outage.first)) == "2026-11-23 12:02:20 UTC: outage (no route)"


async def test_a_value_whose_time_has_not_moved_is_unchanged() -> None:
    reader = Scripted("A1", "B1", "C1")
    times = iter([10, 10, 10, 10, 11, 9, 12, 11, 10])  # three for each sweep
    reader.value_time = lambda _: next(times)
    outcomes = await first(3, reader)
    unchanged = [sorted(o.unchanged) for o in outcomes if isinstance(o, Snapshot)]
    assert unchanged == [[], ["A1", "C1"], ["B1", "C1"]]


async def test_an_impossible_schedule_is_refused_at_once_with_the_numbers() -> None:
    reader = Scripted(*(f"S{n}USDT" for n in range(789)))
    expected = "789 symbols every 10 s take 4734 weight a minute, and the budget is 2376"
    with pytest.raises(ValueError, match=expected) as caught:
        await first(1, reader, every=10.0)
    assert "every 20 s is possible" in str(caught.value)
    assert reader.begun == []
    assert len(await first(1, reader, every=20.0)) == 1


@pytest.mark.parametrize(
    "kept, budget, possible",
    [
        ({"reserve": 600}, 1800, "every 27 s"),
        ({"share": 1200}, 1200, "every 40 s"),
        ({"reserve": 2400}, 0, "no schedule fits"),
        ({"sustained": 600.0}, 600, "every 79 s"),  # if the limit is 100 in 10 s
        ({"sustained": 694.4}, 694, "every 69 s"),  # if the limit is 1,000,000 in a day
    ],
)
async def test_a_schedule_must_fit_into_what_reserve_and_share_leave(
    kept: dict[str, float], budget: int, possible: str
) -> None:
    reader = Scripted(*(f"S{n}USDT" for n in range(789)))
    reader.usage = usage(**kept)
    with pytest.raises(ValueError, match=f"and the budget is {budget} .*{possible}"):
        await first(1, reader, every=20.0)


async def test_usage_shows_the_share_of_a_budget() -> None:
    pool = ProcessBudget(limit=100, reserve=20, share=0.5).pool("")
    assert (pool.usage.share, pool.usage.remaining) == (50, 50)
    pool.charge(1)
    assert (pool.usage.share, pool.usage.remaining) == (50, 49)


async def test_one_string_is_not_accepted_as_a_list_of_symbols() -> None:
    with pytest.raises(InvalidSymbolError, match=r"such as \['BTCUSDT'\]"):
        await anext(sweeps(Scripted(), "BTCUSDT", every=EVERY, clock=wall_time))


@pytest.mark.parametrize("every", [0.0, -1.0, float("nan"), float("inf"), 0.0001, 86_400 * 367])
async def test_an_invalid_period_is_refused(every: float) -> None:
    with pytest.raises(ValueError, match="every must be"):
        await first(1, Scripted(), every=every)


async def test_unlisted_symbols_are_refused_and_symbols_that_do_not_trade_are_omitted() -> None:
    reader = Scripted()
    with pytest.raises(InvalidSymbolError, match="NOSUCHUSDT"):
        await anext(sweeps(reader, ["NOSUCHUSDT"], every=EVERY, clock=wall_time))
    running = sweeps(reader, ["ethusdt", "OLDUSDT"], every=EVERY, clock=wall_time)
    async with aclosing(running):
        outcome = await anext(running)
    assert isinstance(outcome, Snapshot)
    assert list(outcome) == ["ETHUSDT"]


async def test_listed_symbols_join_a_poll_and_delisted_ones_leave_it() -> None:
    reader = Scripted()
    names: list[list[str]] = []
    async with aclosing(poll(reader, every=EVERY, clock=wall_time)) as running:
        async for snapshot in running:
            names.append(list(snapshot))
            reader.names = ["ETHUSDT", "NEWUSDT"]
            if len(names) == 2:
                break
    assert names == [["BTCUSDT", "ETHUSDT"], ["ETHUSDT", "NEWUSDT"]]


async def test_a_poll_waits_for_an_exchange_that_is_down_at_the_start() -> None:
    reader = Scripted()
    reader.listing_error = TransportError("refused")
    async with aclosing(sweeps(reader, every=EVERY, clock=wall_time)) as running:
        assert [why for _, why in shown([await anext(running)])] == ["outage"]
        reader.listing_error = None
        assert [why for _, why in shown([await anext(running)])] == [""]


async def test_the_old_listing_is_used_when_a_new_one_cannot_be_read() -> None:
    reader = Scripted()
    async with aclosing(sweeps(reader, every=EVERY, clock=wall_time)) as running:
        await anext(running)
        reader.listing_error = TransportError("refused")
        assert [why for _, why in shown([await anext(running)])] == [""]


async def test_closing_the_client_ends_a_poll() -> None:
    reader = Scripted()
    reader.listing_error = ClientClosedError()
    with pytest.raises(ClientClosedError):
        await first(1, reader)


async def test_ending_a_poll_cancels_its_sweep() -> None:
    reader = Scripted()
    reader.seconds[0] = 100.0
    waiting = asyncio.create_task(first(1, reader))
    await asyncio.sleep(30.0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert reader.cancelled == 1


class SetClock:
    """A wall clock that the test sets; it counts its readings."""

    def __init__(self) -> None:
        self.shift = 0.0
        self.readings = 0

    def __call__(self) -> float:
        self.readings += 1
        return wall_time() + self.shift


def spans(outcomes: Iterable[Snapshot | Gap]) -> list[tuple[float, float, str]]:
    """The first slot, the last slot and the reason, as in `shown`; a snapshot has one slot."""
    ends = [(o.last - START_MS) / 1000 if isinstance(o, Gap) else None for o in outcomes]
    return [
        (slot, slot if end is None else end, why)
        for (slot, why), end in zip(shown(outcomes), ends, strict=True)
    ]


async def test_setting_the_clock_forward_makes_a_gap_and_keeps_the_slots_aligned() -> None:
    reader, clock = Scripted(), SetClock()
    running = sweeps(reader, every=EVERY, clock=clock)
    async with aclosing(running):
        await anext(running)
        clock.shift = 70.0  # to 21 + 70 = 91 s
        outcomes = [await anext(running), await anext(running)]
    assert spans(outcomes) == [(40, 80, "clock"), (100, 100, "")]
    assert isinstance(outcomes[0], Gap)
    assert outcomes[0].detail == "the clock was set forward by 70.0 s"


@pytest.mark.parametrize("every, ahead", [(20.0, 3600.0), (20.0, 31.0), (0.5, 8.0), (1.0, 1.2)])
async def test_slots_skipped_by_a_set_clock_are_gaps_with_reason_clock(
    every: float, ahead: float
) -> None:
    reader, clock = Scripted(), SetClock()
    reader.seconds = dict.fromkeys(range(3), every / 10)
    running = sweeps(reader, every=every, clock=clock)
    async with aclosing(running):
        before = await anext(running)
        waiting = asyncio.ensure_future(anext(running))
        await asyncio.sleep(every / 4)
        clock.shift = ahead
        outcomes = [before, await waiting, await anext(running)]
    assert [why for _, why in shown(outcomes)] == ["", "clock", ""]
    steps = [b - a for (_, a, _), (b, _, _) in pairwise(spans(outcomes))]
    assert steps == [every, every]


async def test_slots_that_passed_in_real_time_are_late_and_skipped_ones_have_reason_clock() -> None:
    clock = SetClock()
    async with aclosing(sweeps(Scripted(), every=EVERY, clock=clock)) as running:
        await anext(running)
        await asyncio.sleep(65.0)  # until 20 + 1 + 65 = 86 s
        clock.shift = 3600.0
        outcomes = [await anext(running) for _ in range(3)]
    assert spans(outcomes) == [(40, 80, "late"), (100, 3680, "clock"), (3700, 3700, "")]


async def test_setting_the_clock_forward_by_years_takes_only_a_few_clock_readings() -> None:
    reader, clock = Scripted(), SetClock()
    reader.seconds[0] = 30.0
    years = 56 * 365 * 86_400.0  # from 1970, where a clock without a battery starts
    async with aclosing(sweeps(reader, every=EVERY, clock=clock)) as running:
        waiting = asyncio.ensure_future(anext(running))
        await asyncio.sleep(24.0)
        clock.shift, clock.readings = years, 0
        outcomes = [await waiting] + [await anext(running) for _ in range(3)]
    slots = [(20, 20, ""), (40, 40, "overrun"), (60, years + 40, "clock")]
    assert spans(outcomes) == [*slots, (years + 60, years + 60, "")]
    assert clock.readings < 100


@pytest.mark.parametrize("error", [-0.009, 0.0, 0.009])
async def test_slots_have_reason_overrun_until_the_clock_is_set_forward(
    error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, clock = Scripted(), SetClock()
    steady = schedule.steady_seconds
    monkeypatch.setattr(schedule, "steady_seconds", lambda: steady() + error * (clock.shift > 0))
    reader.seconds[0] = 50.0  # the first sweep lasts from 20 to 70 s
    async with aclosing(sweeps(reader, every=EVERY, clock=clock)) as running:
        waiting = asyncio.ensure_future(anext(running))
        await asyncio.sleep(45.0)
        clock.shift = 100.0
        outcomes = [await waiting] + [await anext(running) for _ in range(3)]
    assert spans(outcomes[1:]) == [(40, 60, "overrun"), (80, 160, "clock"), (180, 180, "")]


@pytest.mark.parametrize("when", ["held", "asleep", "sweeping"])
@pytest.mark.parametrize("back", [45.0, 3600.0, 86_400.0 * 365 * 20])
async def test_setting_the_clock_back_restarts_the_schedule_at_once(
    back: float, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    reader, clock = Scripted(), SetClock()
    with caplog.at_level(logging.WARNING, "binance_oi"):
        async with aclosing(poll(reader, every=EVERY, clock=clock)) as running:
            await anext(running)
            if when != "held":
                waiting = asyncio.ensure_future(anext(running))
                await asyncio.sleep(5.0 if when == "asleep" else 19.5)
                clock.shift = -back
                reached = await waiting
                snapshots = [reached] if reached.missed else []
            else:
                clock.shift, snapshots = -back, []
            while len(snapshots) < 3:
                snapshots.append(await anext(running))
    ((first, last, reason, detail), *more) = snapshots[0].missed
    slots = [round((s.slot or NOW).timestamp() * 1000) for s in snapshots]
    assert (first, last, reason, more) == (slots[0], slots[0] - 20_000, "clock", [])
    assert detail == f"the clock was set back by {back:,.1f} s"
    assert slots == list(range(slots[0], slots[0] + 60_000, 20_000))
    assert [s.missed for s in snapshots[1:]] == [(), ()]
    assert max(b - a for a, b in pairwise(reader.begun)) <= 2 * EVERY
    assert [r.message.split(" at ")[0] for r in caplog.records] == ["the schedule continues"]


async def test_a_clock_set_back_during_a_long_period_is_noticed_within_a_minute() -> None:
    reader, clock = Scripted(), SetClock()
    async with aclosing(sweeps(reader, every=86_400.0, clock=clock)) as running:
        await anext(running)
        waiting = asyncio.ensure_future(anext(running))
        await asyncio.sleep(3600.0)
        clock.shift, began = -86_400.0 * 3, wall_time()
        outcome = await waiting
    assert wall_time() - began <= 60.0
    assert isinstance(outcome, Gap)
    assert outcome.reason == "clock"


@pytest.mark.parametrize("step", [-1.0, -0.128, 0.128, 1.0, 5.0, -15.0])
async def test_small_clock_corrections_repeat_no_slot(
    step: float, caplog: pytest.LogCaptureFixture
) -> None:
    clock = SetClock()
    outcomes: list[Snapshot | Gap] = []
    async with aclosing(sweeps(Scripted(), every=EVERY, clock=clock)) as running:
        for number in range(6):
            outcomes.append(await anext(running))
            if number == 2:
                await asyncio.sleep(15.0)
                clock.shift = step
    assert shown(outcomes) == [(EVERY * k, "") for k in range(1, 7)]
    assert caplog.records == []


async def test_each_change_of_the_clock_gives_its_own_gap() -> None:
    clock = SetClock()
    outcomes: list[Snapshot | Gap] = []
    async with aclosing(sweeps(Scripted(), every=EVERY, clock=clock)) as running:
        for shift in (0.0, 3600.0, -3600.0, 0.0):
            clock.shift = shift
            outcomes += [await anext(running)]
            if isinstance(outcomes[-1], Gap):
                outcomes += [await anext(running)]
    assert spans(outcomes) == [
        (20, 20, ""),
        (40, 3620, "clock"),
        (3640, 3640, ""),
        (-3540, -3560, "clock"),
        (-3540, -3540, ""),
        (-3520, 60, "clock"),
        (80, 80, ""),
    ]


async def test_slots_during_a_suspend_are_gaps_with_reason_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, asleep = SetClock(), [0.0]
    monkeypatch.setattr(schedule, "suspended_seconds", lambda: asleep[0])
    async with aclosing(sweeps(Scripted(), every=EVERY, clock=clock)) as running:
        await anext(running)
        clock.shift = asleep[0] = 3600.0
        outcomes = [await anext(running), await anext(running)]
    assert spans(outcomes) == [(40, 3620, "late"), (3640, 3640, "")]


def test_suspended_time_is_the_difference_of_the_steady_and_the_monotonic_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(schedule, "steady_clock", lambda: 130.0)
        patch.setattr(time, "monotonic", lambda: 100.0)
        asleep = schedule.suspended_seconds()
    assert asleep == 30.0


async def test_a_pause_between_two_clock_readings_does_not_count_as_a_set_clock() -> None:
    loop, pauses = asyncio.get_running_loop(), [7.0]

    def clock() -> float:
        now = wall_time()
        if pauses:
            loop._jumping.now += pauses.pop()  # type: ignore[attr-defined]
        return now

    plan = Schedule(1000, clock)
    slot = plan.next_slot()
    await plan.reach(slot)
    await asyncio.sleep(3.7)
    assert [gap.reason for gap in plan.skipped(slot)] == ["late"]


async def test_an_outage_and_a_ban_have_their_gap_reasons() -> None:
    assert gap_reason(ServerError(503, None, "")) == "outage"
    assert gap_reason(BannedError(418, -1003, "", NOW)) == "banned"


@asynccontextmanager
async def market(
    *names: str, limit: int = 2400, bans: Bans | None = None
) -> AsyncIterator[tuple[LocalExchange, OpenInterestClient]]:
    """A local exchange and a client on virtual time. Without `names`, the whole market trades."""
    clock = asyncio.get_running_loop().time
    budget = ProcessBudget(limit=limit, clock=clock, wall=wall_time)
    async with LocalExchange(limit=limit, clock=wall_time, bans=bans) as exchange:
        for name in exchange.universe.trading if names else ():
            if name not in names:
                exchange.set_status(name, "SETTLING")
        retry = RetryPolicy(attempts=1)
        client = OpenInterestClient(base_url=exchange.url, budget=budget, retry=retry)
        async with client:
            yield exchange, client


async def test_the_whole_market_can_be_polled_three_times_a_minute_without_a_gap() -> None:
    async with market() as (exchange, client):
        snapshots: list[Snapshot] = []
        async with aclosing(poll(client, every=EVERY, clock=wall_time)) as running:
            async for snapshot in running:
                snapshots.append(snapshot)
                if len(snapshots) == 4:
                    break
        assert {len(s) for s in snapshots} == {789}
        assert [s.missed for s in snapshots] == [()] * 4
        assert set(exchange.answers) == {200}


async def test_a_poll_drops_a_delisted_symbol_and_adds_a_new_one() -> None:
    async with market("BTCUSDT", "ETHUSDT") as (exchange, client):
        names: list[list[str]] = []
        async with aclosing(poll(client, every=EVERY, clock=wall_time)) as running:
            async for snapshot in running:
                names.append(list(snapshot))
                if len(names) == 1:
                    exchange.set_status("ETHUSDT", "SETTLING")
                if len(names) == 2:  # error -4108 made the poll read the list again
                    assert [type(e).__name__ for e in snapshot.errors.values()] == [
                        "SymbolNotTradingError"
                    ]
                if len(names) == 4:
                    exchange.set_status("NEWUSDT", "TRADING")
                if len(names) == 25:
                    break
    assert names[1:4] == [["BTCUSDT"]] * 3
    assert names[-1] == ["BTCUSDT", "NEWUSDT"]


async def test_a_poll_waits_for_the_end_of_a_ban_and_reports_the_gap() -> None:
    async with (
        market("BTCUSDT", "ETHUSDT") as (exchange, client),
        aclosing(poll(client, every=EVERY, clock=wall_time)) as running,
    ):
        await anext(running)
        exchange.counter.ban(wall_time())
        snapshot = await anext(running)
    # A ban lasts at least 120 s, and a request during the ban makes it begin again.
    assert [gap.reason for gap in snapshot.missed] == ["banned"]
    gap = snapshot.missed[0]
    assert 6 <= (gap.last - gap.first) / 20_000 + 1 <= 8
    assert 1 <= exchange.answers[418] <= 2


async def test_a_poll_waits_for_the_end_of_a_429() -> None:
    async with (
        market("BTCUSDT", "ETHUSDT", limit=600) as (exchange, client),
        aclosing(poll(client, every=EVERY, clock=wall_time)) as running,
    ):
        await anext(running)
        exchange.counter.count(600, wall_time())  # another client
        snapshots = [await anext(running) for _ in range(3)]
    assert {gap.reason for s in snapshots for gap in s.missed} == {"limited"}
    assert all(len(s) == 2 for s in snapshots)
    assert 1 <= exchange.answers[429] <= 2  # both requests of a sweep may get a 429


async def test_polling_continues_after_an_outage_with_a_gap() -> None:
    async with market("BTCUSDT") as (exchange, client):
        port = exchange.port
        async with aclosing(poll(client, every=EVERY, clock=wall_time)) as running:
            await anext(running)
            await exchange.close()
            waiting = asyncio.ensure_future(anext(running))
            await asyncio.sleep(110.0)  # between two slots
            async with LocalExchange(clock=wall_time, port=port):
                snapshot = await waiting
    assert [gap.reason for gap in snapshot.missed] == ["outage"]
    assert snapshot.missed[0].last - snapshot.missed[0].first == 4 * 20_000


async def test_the_poll_method_of_a_client_yields_snapshots() -> None:
    async with (
        market("BTCUSDT") as (_, client),
        aclosing(client.poll(every=0.5)) as running,
    ):
        snapshot = await anext(running)
    assert list(snapshot) == ["BTCUSDT"]
