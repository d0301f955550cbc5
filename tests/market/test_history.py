"""A history has every row that the exchange keeps, and a reason for each stretch without rows.

Rule of this file: expected rows come from the local exchange or from the test. Time is virtual.
"""

import asyncio
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from binance_oi import (
    BannedError,
    BudgetExhaustedError,
    ClientClosedError,
    DecodeError,
    ForbiddenError,
    Gap,
    History,
    HistoryProgress,
    HistoryRow,
    InvalidSymbolError,
    OpenInterestClient,
    ProcessBudget,
    RateLimitedError,
    Reason,
    ResponseError,
    ServerError,
    TransportError,
    UnknownSymbolError,
)
from binance_oi.exchange.limits import HISTORY
from binance_oi.exchange.routes import KEPT_MS, PERIODS
from binance_oi.market.history import MARGINS_MS, OUTAGE, SETTLED_MS, WORKERS
from binance_oi.simulator import Bans, LocalExchange, Pages
from support.lanes import some
from support.raw_exchange import RawExchange, answer
from support.virtual_clock import wall_time

pytestmark = pytest.mark.virtual_time

STEP = PERIODS["5m"]
NOON_MS = 1_795_435_200_000  # when virtual time begins
DAY = timedelta(days=1)
NAMES = ("BTCUSDT", "1000SHIBUSDT", "币安人生USDT", "BTCUSDT_261225", "ETHUSDT")


def client_of(
    exchange: LocalExchange | RawExchange, *, wall_error: float = 0.0, **options: Any
) -> OpenInterestClient:
    loop = asyncio.get_running_loop()
    budget = ProcessBudget(clock=loop.time, wall=lambda: wall_time() + wall_error)
    return OpenInterestClient(base_url=exchange.url, budget=budget, **options)


def local(**options: Any) -> LocalExchange:
    return LocalExchange(clock=wall_time, **options)


def truth_of(exchange: LocalExchange, found: History) -> list[tuple[int, str, str]]:
    """The exchange's rows of the requested stretch, except the rows that are too old."""
    first, last = (round(each.timestamp() * 1000) for each in (found.since, found.until))
    for hole in found.holes:
        if hole.reason == "too_old":
            assert hole.first - PERIODS[found.period] < first
            first = hole.last + 1
    rows = exchange.history(found.symbol, found.period, first, last)
    return [(row.time, row.open_interest, row.value) for row in rows]


def plain(found: History) -> list[tuple[int, str, str]]:
    return [(row.time, f"{row.open_interest:f}", f"{row.notional:f}") for row in found]


# -- one symbol ----------------------------------------------------------------------------------


async def test_the_last_30_days_take_18_requests_and_return_every_row() -> None:
    async with local() as exchange, client_of(exchange) as client:
        found = await client.history("btcusdt")
        assert exchange.history_counter.total == found.requests == 18
        assert exchange.used == 0
        assert client.usage.used == 0
        assert client.history_usage.used == 18
        assert plain(found) == truth_of(exchange, found)
    assert found.until == datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert found.since == datetime(2026, 10, 24, 12, 5, tzinfo=UTC)
    assert len(found) > 8_500
    assert {hole.reason for hole in found.holes} == {"no_row"}
    missing = sum((hole.last - hole.first) // STEP + 1 for hole in found.holes)
    assert len(found) + missing == 8_639  # the row of the current instant does not exist yet
    assert isinstance(found[0], HistoryRow)
    assert found[-2:] == found.rows[-2:]
    assert list(found) == list(found.rows)
    assert found.error is None


SEEDS = range(200)


@pytest.mark.parametrize("seed", some(SEEDS, always=12))
async def test_rows_equal_those_of_the_exchange_for_any_range_and_any_irregular_page(
    seed: int,
) -> None:
    draw = random.Random(seed)
    pages = Pages(
        stray_share=draw.choice([0.0, 0.5, 1.0]),
        repeated_share=draw.choice([0.0, 0.5, 1.0]),
        newest_first=draw.random() < 0.3,
        times_as_text=draw.random() < 0.3,
    )
    period = draw.choice(list(PERIODS))
    step = PERIODS[period]
    length = draw.choice([0, 1, step - 1, 499 * step, 500 * step, 500 * step - 1, 501 * step])
    if draw.random() < 0.5:
        length = draw.randrange(1, 3 * 86_400_000) * max(1, step // STEP // 4)
    last = NOON_MS + draw.choice([0, -1, 10_000, -step, -draw.randrange(20 * 86_400_000)])
    async with (
        local(seed=seed, pages=pages) as exchange,
        client_of(exchange) as client,
    ):
        found = await client.history(
            draw.choice(NAMES), period=period, since=max(0, last - length), until=last
        )
        assert plain(found) == truth_of(exchange, found)
        times = [row.time for row in found]
        assert times == sorted(set(times))
        _check_holes(found, step)


def _check_holes(found: History, step: int) -> None:
    """Check that each instant has a row, or is in one hole, or may still get its row."""
    first, last = (round(each.timestamp() * 1000) for each in (found.since, found.until))
    instants = set(range(-(-first // step) * step, last + 1, step))
    missing = {
        instant for hole in found.holes for instant in range(hole.first, hole.last + 1, step)
    }
    assert sum((hole.last - hole.first) // step + 1 for hole in found.holes) == len(missing)
    have = {row.time for row in found}
    assert not have & missing
    assert have | missing <= instants
    assert all(each > found.complete_until for each in instants - have - missing)


@pytest.mark.parametrize(
    "since, until, first",
    [
        (timedelta(hours=1), None, 0),
        (NOON_MS - 3_600_000, NOON_MS, 0),
        (datetime(2026, 11, 23, 11, tzinfo=UTC), timedelta(0), 0),
        (datetime(2026, 11, 23, 12, tzinfo=timezone(timedelta(hours=1))), None, 0),
    ],
)
async def test_a_bound_is_a_datetime_or_a_timedelta_before_now_or_unix_ms(
    since: Any, until: Any, first: int
) -> None:
    async with local() as exchange, client_of(exchange) as client:
        found = await client.history("ETHUSDT", since=since, until=until)
    assert found.since == datetime(2026, 11, 23, 11, tzinfo=UTC)
    assert found.until == datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert found[first].time == NOON_MS - 3_600_000
    assert found.requests == 1


@pytest.mark.parametrize(
    "error, arguments",
    [
        (ValueError, {"period": "7m"}),
        (ValueError, {"period": 5}),
        (ValueError, {"since": datetime(2026, 11, 1)}),
        (ValueError, {"since": -1}),
        (ValueError, {"until": timedelta(days=-1)}),
        (ValueError, {"since": float("nan")}),
        (TypeError, {"since": "30d"}),
        (TypeError, {"until": True}),
        (TypeError, {"max_wait": "1"}),
        (ValueError, {"since": DAY, "until": 2 * DAY}),
        (InvalidSymbolError, {"symbol": "BTC USDT"}),
    ],
)
async def test_an_invalid_argument_sends_no_request(
    error: type[Exception], arguments: dict[str, Any]
) -> None:
    async with local() as exchange, client_of(exchange) as client:
        with pytest.raises(error):
            await client.history(arguments.pop("symbol", "BTCUSDT"), **arguments)
        assert exchange.history_counter.total == 0


async def test_a_range_older_than_30_days_is_a_hole_and_costs_no_request() -> None:
    async with local() as exchange, client_of(exchange) as client:
        found = await client.history("BTCUSDT", since=40 * DAY)
        assert exchange.answers == {200: 18}
        assert plain(found) == truth_of(exchange, found)
        hole = found.holes[0]
        assert hole[:3] == (NOON_MS - 40 * 86_400_000, NOON_MS - KEPT_MS, "too_old")
        gone = await client.history("BTCUSDT", since=60 * DAY, until=50 * DAY)
        ancient = await client.history("BTCUSDT", since=0, until=1)
    assert not gone.rows
    assert [hole.reason for hole in gone.holes] == ["too_old"]
    assert str(gone.holes[0]).endswith("too_old (only the last 30 days are kept)")
    assert [hole.reason for hole in ancient.holes] == ["too_old"]
    assert exchange.history_counter.total == 18


@pytest.mark.parametrize("seconds", [20.0, 90.0, 500.0])
async def test_a_request_that_waited_past_the_oldest_kept_row_asks_for_less(seconds: float) -> None:
    # During the cooldown the request waits, and the oldest rows expire.
    async with local(history_limit=1000) as exchange, client_of(exchange) as client:
        pool = client._sender.governors.of(HISTORY).pool
        asyncio.get_running_loop().call_later(0.0, pool._own.hold, seconds)  # type: ignore[attr-defined]
        await asyncio.sleep(0.001)
        found = await client.history("BTCUSDT", since=NOON_MS - KEPT_MS, until=29 * DAY)
        assert plain(found) == truth_of(exchange, found)
        assert exchange.answers[400] == sum(seconds * 1000 > margin for margin in MARGINS_MS[:1])
    assert found.holes[0].reason == "too_old"


async def test_a_refused_start_within_the_kept_range_is_an_error() -> None:
    invalid = answer(400, '{"code":-1130,"msg":"parameter \'startTime\' is invalid."}')
    async with RawExchange(lambda n: invalid) as exchange, client_of(exchange) as client:
        with pytest.raises(ResponseError) as caught:
            await client.history("BTCUSDT", since=DAY)
        assert caught.value.code == -1130
        assert len(exchange.requests) == 1
        with pytest.raises(ResponseError):
            await client.history("BTCUSDT", since=30 * DAY, until=30 * DAY - timedelta(hours=1))
        assert len(exchange.requests) == 1 + len(MARGINS_MS)


@pytest.mark.parametrize("hours", [-2.0, 2.0])
async def test_a_wall_clock_that_is_hours_wrong_moves_no_bound(hours: float) -> None:
    async with (
        local() as exchange,
        client_of(exchange, wall_error=3600 * hours) as client,
    ):
        found = await client.history("BTCUSDT", since=DAY)
        assert plain(found) == truth_of(exchange, found)
        assert abs(found.until.timestamp() - exchange.now()) < 5.0
        assert abs(found.since.timestamp() + 86_400 - exchange.now()) < 5.0
        fixed = await client_again(exchange, hours)
    assert fixed[-1].time == NOON_MS - STEP


async def client_again(exchange: LocalExchange, hours: float) -> History:
    """Read fixed bounds with a client whose clock is wrong by `hours`."""
    async with client_of(exchange, wall_error=3600 * hours) as client:
        return await client.history("BTCUSDT", since=NOON_MS - 86_400_000, until=NOON_MS + 1_000)


async def test_an_end_in_the_future_costs_no_extra_request() -> None:
    async with local() as exchange, client_of(exchange) as client:
        found = await client.history("BTCUSDT", since=DAY, until=NOON_MS + 10**12)
        assert exchange.history_counter.total == 1
    assert found[-1].time == NOON_MS - STEP
    assert all(hole.last < NOON_MS for hole in found.holes)


async def test_a_row_that_may_still_appear_is_not_reported_as_a_hole() -> None:
    async with local() as exchange, client_of(exchange) as client:
        found = await client.history("BTCUSDT", since=timedelta(minutes=10))
    assert found[-1].time == NOON_MS - STEP  # the row of noon appears 6 s later
    assert found.holes == ()
    assert found.complete_until <= NOON_MS - SETTLED_MS + 1000


# -- pages that differ from the request ---------------------------------------------------------


def row(time: int, symbol: str = "BTCUSDT") -> dict[str, object]:
    return {
        "symbol": symbol,
        "sumOpenInterest": "1.5",
        "sumOpenInterestValue": "3.0",
        "timestamp": time,
    }


def page(*rows: object) -> bytes:
    return answer(200, json.dumps(rows))


def asked(request: bytes) -> dict[str, str]:
    query = urlsplit(request.split()[1].decode()).query
    return {name: values[0] for name, values in parse_qs(query).items()}


async def read(
    script: Callable[[int], bytes | None], **options: Any
) -> tuple[History, list[dict[str, str]]]:
    async with RawExchange(script) as exchange, client_of(exchange) as client:
        found = await client.history(
            "BTCUSDT", since=NOON_MS - 3_600_000, until=NOON_MS - 600_000, **options
        )
        return found, [asked(request) for request in exchange.requests]


INSIDE, OUTSIDE = NOON_MS - 1_800_000, NOON_MS - 7_200_000


async def test_rows_outside_of_the_range_are_dropped() -> None:
    found, requests = await read(lambda n: page(row(OUTSIDE), row(INSIDE), row(NOON_MS)))
    assert [each.time for each in found] == [INSIDE]
    assert len(requests) == 1


async def test_a_page_of_other_times_is_requested_once_more() -> None:
    found, requests = await read(lambda n: page(row(OUTSIDE)) if n == 1 else page(row(INSIDE)))
    assert [each.time for each in found] == [INSIDE]
    assert requests[0] == requests[1]
    found, requests = await read(lambda n: page(row(OUTSIDE)))
    assert not found.rows
    assert len(requests) == 2


async def test_after_a_page_of_another_symbol_the_next_request_uses_a_new_connection() -> None:
    def script(number: int) -> bytes:
        return page(row(INSIDE, "ETHUSDT" if number == 1 else "BTCUSDT"))

    async with RawExchange(script) as exchange, client_of(exchange) as client:
        with pytest.raises(DecodeError):
            await client.history("BTCUSDT", since=DAY)
        found = await client.history("BTCUSDT", since=DAY)
        assert exchange.connections == 2
    assert [each.time for each in found] == [INSIDE]


async def test_an_invalid_row_is_omitted_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    odd = row(INSIDE + STEP) | {"sumOpenInterest": "NaN"}
    async with (
        RawExchange(lambda n: page(row(INSIDE), odd)) as exchange,
        client_of(exchange) as client,
    ):
        found, again = [await client.history("BTCUSDT", since=DAY) for _ in range(2)]
    assert [each.time for each in found] == [each.time for each in again] == [INSIDE]
    assert [record.message for record in caplog.records] == [
        "odd rows in the exchange's history: BTCUSDT (left out: an amount)"
    ]
    assert Gap(INSIDE + STEP, NOON_MS - STEP, "no_row") in found.holes


# -- the budget ----------------------------------------------------------------------------------


async def test_max_wait_bounds_the_wait_of_all_pages_together() -> None:
    async with local() as exchange, client_of(exchange) as client:
        pool = client._sender.governors.of(HISTORY).pool
        for _ in range(985):
            pool.charge(1)
        with pytest.raises(BudgetExhaustedError) as caught:
            await client.history("BTCUSDT", max_wait=1.0)
        assert caught.value.reason is Reason.OTHER_LIMIT
        assert exchange.history_counter.total == 5
        waiting = asyncio.create_task(client.history("BTCUSDT"))
        await asyncio.sleep(1.0)
        assert client.history_usage.waiting_for == {Reason.OTHER_LIMIT: 1}
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_a_cancelled_call_refunds_only_requests_that_were_never_sent() -> None:
    async with local(latency=2.0) as exchange, client_of(exchange) as client:
        call = asyncio.create_task(client.history("BTCUSDT"))
        await asyncio.sleep(3.0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(2.0)
        assert exchange.history_counter.total == client.history_usage.used == 2


async def test_a_ban_is_raised_at_once_and_stops_current_requests_too() -> None:
    async with (
        local(history_limit=1, bans=Bans(after=0)) as exchange,
        client_of(exchange) as client,
    ):
        with pytest.raises(BannedError):
            await client.history("BTCUSDT")
        with pytest.raises(BannedError):
            await client.get_open_interest("BTCUSDT")
        with pytest.raises(BannedError):
            await client.history("BTCUSDT")
        assert exchange.answers.total() == 2
        assert exchange.used == 0


async def test_a_429_of_history_does_not_stop_current_requests() -> None:
    async with local(history_limit=1) as exchange, client_of(exchange) as client:
        with pytest.raises(RateLimitedError):
            await client.history("BTCUSDT", max_wait=0.0)
        assert await client.get_open_interest("BTCUSDT")
        assert exchange.answers == {200: 2, 429: 1}


async def test_a_block_of_the_firewall_stops_history_and_current_requests() -> None:
    async with (
        RawExchange(lambda n: answer(403, "<html>")) as exchange,
        client_of(exchange, max_wait=0.0) as client,
    ):
        with pytest.raises(ForbiddenError):
            await client.history("BTCUSDT")
        for call in (client.history, client.get_open_interest):
            with pytest.raises(BudgetExhaustedError) as caught:
                await call("BTCUSDT")
            assert caught.value.reason is Reason.COOLDOWN
        assert len(exchange.requests) == 1


# -- many symbols --------------------------------------------------------------------------------


async def test_each_of_many_symbols_is_returned_as_soon_as_it_is_read() -> None:
    seen: list[HistoryProgress] = []
    async with local(latency=0.1) as exchange, client_of(exchange) as client:
        found = {
            each.symbol: each
            async for each in client.histories(NAMES, since=4 * DAY, on_progress=seen.append)
        }
        assert found.keys() == set(NAMES)
        for each in found.values():
            assert plain(each) == truth_of(exchange, each)
            assert each.requests == 3
    assert [each.done for each in seen] == [1, 2, 3, 4, 5]
    assert {each.symbols for each in seen} == {5}
    assert seen[-1].rows == sum(map(len, found.values()))
    assert seen[-1].requests == 15
    assert seen[-1].seconds_left == 0.0
    assert seen[0].seconds_left > seen[1].seconds_left > 0.0


async def test_without_names_every_trading_symbol_is_read() -> None:
    async with local() as exchange, client_of(exchange) as client:
        for name in exchange.universe.trading[5:]:
            exchange.set_status(name, "SETTLING")
        found = [each.symbol async for each in client.histories(since=DAY)]
        assert sorted(found) == sorted(exchange.universe.trading)
        assert exchange.used == 1


async def test_a_symbol_that_fails_has_its_error_and_does_not_stop_the_others() -> None:
    async with local() as exchange, client_of(exchange) as client:
        found = {e.symbol: e async for e in client.histories(["NOUSDT", "BTCUSDT"], since=DAY)}
    assert isinstance(found["NOUSDT"].error, UnknownSymbolError)
    assert not found["NOUSDT"].rows
    assert found["NOUSDT"].holes == ()
    assert found["BTCUSDT"].error is None
    assert len(found["BTCUSDT"]) > 200


@pytest.mark.parametrize("stop", some(range(50), always=6))
async def test_a_run_that_ends_at_any_instant_continues_to_the_same_rows(stop: int) -> None:
    names, since, until = [*NAMES, "NOUSDT"], NOON_MS - 9 * 86_400_000, NOON_MS - 1_000
    rows: dict[str, list[HistoryRow]] = {name: [] for name in names}
    received: dict[str, int] = {}

    async def run(client: OpenInterestClient) -> None:
        async for each in client.histories(names, since=since, until=until, received=received):
            rows[each.symbol] += each
            received[each.symbol] = each.complete_until

    async with local(latency=0.2, pages=Pages(stray_share=0.5)) as exchange:
        async with client_of(exchange) as client:
            task = asyncio.create_task(run(client))
            await asyncio.sleep(0.25 * stop)
            task.cancel()
            await asyncio.wait([task])
        async with client_of(exchange) as client:
            await run(client)
        for name in NAMES:
            truth = exchange.history(name, "5m", since, until)
            assert [row.time for row in rows[name]] == [row.time for row in truth]
        assert rows["NOUSDT"] == []


async def test_received_rows_are_not_requested_again() -> None:
    async with local() as exchange, client_of(exchange) as client:
        until = NOON_MS - 600_000
        (first,) = [e async for e in client.histories(["BTCUSDT"], since=4 * DAY, until=until)]
        received = {"BTCUSDT": first.complete_until}
        again = client.histories(["BTCUSDT"], since=4 * DAY, until=until, received=received)
        assert [each async for each in again] == []
        assert exchange.history_counter.total == 3
        await asyncio.sleep(3600.0)
        (more,) = [e async for e in client.histories(["BTCUSDT"], since=4 * DAY, received=received)]
        assert exchange.history_counter.total == 4
    assert more[0].time == first[-1].time + STEP
    assert len(more) == 13  # the row of 13:00 does not exist yet


async def test_a_caller_that_stops_iterating_leaves_no_task_and_no_request() -> None:
    async with local(latency=0.1) as exchange, client_of(exchange) as client:
        before = asyncio.all_tasks()
        names = exchange.universe.trading[:20]
        run = client.histories(names, since=DAY)
        await anext(run)
        await run.aclose()
        left = asyncio.all_tasks() - before
        assert not any("worker" in repr(task) for task in left)
        await asyncio.sleep(10.0)
        assert exchange.history_counter.total <= WORKERS + 2


async def test_a_slow_reader_pauses_reading_ahead() -> None:
    async with local() as exchange, client_of(exchange) as client:
        run = client.histories(exchange.universe.trading[:40], since=timedelta(hours=1))
        await anext(run)
        await asyncio.sleep(100.0)
        assert exchange.history_counter.total <= WORKERS + 3
        await run.aclose()


async def test_a_run_waits_for_the_end_of_a_ban_and_of_a_refusal() -> None:
    async with (
        local(history_limit=30, bans=Bans(after=1)) as exchange,
        client_of(exchange) as client,
    ):
        found = [e async for e in client.histories(NAMES, since=20 * DAY, until=DAY)]
        assert all(each.error is None for each in found)
        for each in found:
            assert plain(each) == truth_of(exchange, each)
        assert exchange.answers[418] <= 3


@pytest.mark.parametrize("failures", [3, 3 * len(OUTAGE) + 3])
async def test_a_run_waits_for_an_outage_to_end_but_only_for_a_bounded_time(failures: int) -> None:
    def script(number: int) -> bytes:
        return answer(503, "down") if number <= failures else page(row(INSIDE))

    async with RawExchange(script) as exchange, client_of(exchange) as client:
        (found,) = [e async for e in client.histories(["BTCUSDT"], since=timedelta(hours=1))]
    if failures == 3:
        assert [each.time for each in found] == [INSIDE]
    else:
        assert isinstance(found.error, ServerError)


async def test_a_connection_that_never_works_is_not_retried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with local() as exchange, client_of(exchange) as client:
        calls: list[None] = []

        async def send(*_: object) -> None:
            calls.append(None)
            raise TransportError("certificate", "never")

        monkeypatch.setattr(client._sender, "send", send)
        client._sender.check_usable()
        (found,) = [e async for e in client.histories(["BTCUSDT"], since=DAY)]
    assert isinstance(found.error, TransportError)
    assert len(calls) == 1


async def test_a_client_that_is_closed_ends_a_run() -> None:
    async with local(latency=0.5) as exchange:
        client = client_of(exchange)
        run = client.histories(NAMES, since=20 * DAY)
        asyncio.get_running_loop().call_later(2.0, lambda: tasks.append(close(client)))
        tasks: list[asyncio.Task[None]] = []
        with pytest.raises(ClientClosedError):
            async for _ in run:
                pass
        await asyncio.gather(*tasks)
        with pytest.raises(ClientClosedError):
            await client.history("BTCUSDT")
        with pytest.raises(ClientClosedError):
            await anext(client.histories(NAMES))


def close(client: OpenInterestClient) -> asyncio.Task[None]:
    return asyncio.create_task(client.aclose())


async def test_arguments_of_a_run_are_checked_before_it_starts() -> None:
    async with local() as exchange, client_of(exchange) as client:
        with pytest.raises(ValueError, match="period"):
            client.histories(period="1w")
        with pytest.raises(TypeError):
            client.histories(since="1d")  # type: ignore[arg-type]
        with pytest.raises(InvalidSymbolError):
            client.histories(["BTC USDT"])
        assert [each async for each in client.histories([])] == []
