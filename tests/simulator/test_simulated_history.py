"""The history that the local exchange serves: its rows, its pages, and its limit.

Rule of this file: the test advances the time, and answers cross a real socket.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import aiohttp
import pytest

from binance_oi.simulator import Bans, Headers, LocalExchange, Pages
from binance_oi.simulator.counter import RollingCounter, WeightCounter
from binance_oi.simulator.history import KEPT_MS, PERIODS_MS, BadParameterError, Question

NOW = datetime(2026, 11, 25, 10, 2, tzinfo=UTC).timestamp()  # a Wednesday
NOW_MS = int(NOW * 1000)
STEP = PERIODS_MS["5m"]
NEWEST = NOW_MS // STEP * STEP


def exchange(**options: Any) -> LocalExchange:
    return LocalExchange(clock=lambda: NOW, **options)


@asynccontextmanager
async def asking(made: LocalExchange) -> AsyncIterator[Any]:
    async with made, aiohttp.ClientSession() as session:

        async def ask(**params: object) -> tuple[int, Any, Any]:
            query = {name: str(value) for name, value in params.items()}
            url = f"{made.url}/futures/data/openInterestHist"
            async with session.get(url, params=query) as answer:
                return answer.status, json.loads(await answer.read()), answer.headers

        yield ask


async def test_a_history_page_has_the_newest_rows_up_to_its_end_and_no_weight_header() -> None:
    made = exchange(pages=Pages(stray_share=0.0))
    async with asking(made) as ask:
        status, rows, headers = await ask(
            symbol="BTCUSDT", period="5m", limit=500, startTime=NOW_MS - KEPT_MS, endTime=NOW_MS
        )
    assert status == 200
    assert "X-MBX-USED-WEIGHT-1M" not in headers
    assert len(rows) == 500
    times = [row["timestamp"] for row in rows]
    assert times == sorted(times)
    assert times[-1] == NEWEST
    assert list(rows[0]) == [
        *("symbol", "sumOpenInterest", "sumOpenInterestValue", "CMCCirculatingSupply"),
        "timestamp",
    ]
    truth = made.history("BTCUSDT", "5m", times[0], times[-1])
    assert [(row["timestamp"], row["sumOpenInterest"]) for row in rows] == [
        (row.time, row.open_interest) for row in truth
    ]
    assert made.used == 0  # history costs no weight of the minute
    assert made.history_counter.used(NOW) == 1


@pytest.mark.parametrize(
    "params, code",
    [
        ({"period": "5m"}, -1102),
        ({"symbol": "BTCUSDT"}, -1102),
        ({"symbol": "BTCUSDT", "period": "7m"}, -1130),
        ({"symbol": "BTCUSDT", "period": "5m", "limit": 501}, -1130),
        ({"symbol": "BTCUSDT", "period": "5m", "limit": 0}, -1130),
        ({"symbol": "BTCUSDT", "period": "5m", "endTime": "x"}, -1130),
        ({"symbol": "BTCUSDT", "period": "5m", "startTime": NOW_MS - KEPT_MS - 1}, -1130),
        ({"symbol": "BTCUSDT", "period": "5m", "startTime": NOW_MS, "endTime": 1}, -1130),
        ({"symbol": "NOUSDT", "period": "5m"}, -1121),
    ],
)
async def test_an_invalid_parameter_is_refused(params: dict[str, object], code: int) -> None:
    async with asking(exchange()) as ask:
        status, error, _ = await ask(**params)
    assert (status, error["code"]) == (400, code)


async def test_without_bounds_a_page_has_the_newest_or_the_first_rows() -> None:
    async with asking(exchange(pages=Pages(stray_share=0.0))) as ask:
        _, newest, _ = await ask(symbol="ETHUSDT", period="1h")
        _, first, _ = await ask(symbol="ETHUSDT", period="1h", startTime=NOW_MS - KEPT_MS, limit=3)
    assert len(newest) == 30
    assert newest[-1]["timestamp"] == NOW_MS // 3_600_000 * 3_600_000
    assert first[0]["timestamp"] - (NOW_MS - KEPT_MS) < 2 * 3_600_000


async def test_a_symbol_that_is_not_trading_has_no_rows() -> None:
    made = exchange()
    made.set_status("BTCUSDT", "SETTLING")
    async with asking(made) as ask:
        assert (await ask(symbol="BTCUSDT", period="5m"))[:2] == (200, [])


def test_a_history_row_has_the_latest_value_observed_by_its_instant() -> None:
    made = exchange()
    (row,) = made.history("BTCUSDT", "5m", NEWEST, NEWEST)
    live = made._exchange._market("BTCUSDT")
    assert float(row.open_interest) == float(live.open_interest_at(NEWEST / 1000))
    now = NEWEST / 1000 + 4.0  # a live value is 2 to 6 s older than its answer
    value, time = live.open_interest(now)
    assert live.open_interest_at(time / 1000 + 0.01) == value
    assert float(row.value) == pytest.approx(
        float(row.open_interest) * live.mark_price(NEWEST / 1000)
    )


def test_a_history_row_appears_6_seconds_late() -> None:
    clock = [NEWEST / 1000 + 6.0]
    made = LocalExchange(clock=lambda: clock[0])
    assert made.history("BTCUSDT", "5m", NEWEST, NEWEST) == []
    clock[0] += 0.3
    assert len(made.history("BTCUSDT", "5m", NEWEST, NEWEST)) == 1


def test_history_lacks_the_same_rows_in_every_run_and_stocks_lack_weekends() -> None:
    made = exchange()
    all_rows = made.history("BTCUSDT", "5m", 0, NOW_MS)
    missing = KEPT_MS // STEP - len(all_rows)
    assert 0 < missing < 200
    assert len(exchange().history("BTCUSDT", "5m", 0, NOW_MS)) == len(all_rows)
    stock = next(
        symbol.name
        for symbol in made.universe.symbols.values()
        if symbol.contract_type == "TRADIFI_PERPETUAL" and symbol.onboard_ms < NOW_MS - KEPT_MS
    )
    days = {
        datetime.fromtimestamp(row.time / 1000, UTC).weekday()
        for row in made.history(stock, "1h", 0, NOW_MS)
    }
    assert days == {0, 1, 2, 3, 4}


async def test_a_page_can_have_stray_and_repeated_rows_in_descending_order() -> None:
    pages = Pages(stray_share=1.0, repeated_share=1.0, newest_first=True, times_as_text=True)
    first, last = NEWEST - 20 * STEP, NEWEST - 10 * STEP
    async with asking(exchange(pages=pages)) as ask:
        _, rows, _ = await ask(symbol="BTCUSDT", period="5m", startTime=first, endTime=last)
    times = [int(row["timestamp"]) for row in rows]
    assert isinstance(rows[0]["timestamp"], str)
    assert times == sorted(times, reverse=True)
    assert len(set(times)) == len(times) - 1
    assert not first <= min(times) or not max(times) <= last


def test_a_query_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(BadParameterError):
        Question.of("symbol=%ff&period=5m", NOW_MS)


def test_the_limit_of_history_rolls_and_counts_refused_requests() -> None:
    address = WeightCounter(2400, start=NOW, bans=Bans(after=2))
    counter = RollingCounter(3, 300, address)
    assert [counter.count(NOW + n).status for n in (0, 1, 2)] == [200] * 3
    refused = counter.count(NOW + 3)
    assert (refused.status, refused.used, refused.until) == (429, 4, NOW + 300)
    assert counter.count(NOW + 299).status == 429
    assert counter.count(NOW + 302.5).status == 200  # those of 0, 1 and 2 are over 300 s old
    assert counter.most == 5


def test_a_ban_for_history_applies_to_every_request() -> None:
    address = WeightCounter(2400, start=NOW, bans=Bans(after=1))
    counter = RollingCounter(1, 300, address)
    assert [counter.count(NOW).status for _ in range(3)] == [200, 429, 418]
    assert address.count(1, NOW + 1).status == 418
    assert counter.count(NOW + 120.5).status == 418  # each request makes the ban longer


async def test_a_refusal_names_the_limit_of_history() -> None:
    made = exchange(history_limit=1)
    async with asking(made) as ask:
        results = [await ask(symbol="BTCUSDT", period="5m") for _ in range(2)]
    status, error, headers = results[1]
    assert (status, error["code"]) == (429, -1003)
    assert "1 requests per 5 minutes" in error["msg"]
    assert "X-MBX-USED-WEIGHT-1M" not in headers
    assert repr(made.history_counter) == "<RollingCounter 2 of 1 in 300 s>"


async def test_commands_affect_history_under_any_path_prefix() -> None:
    made = exchange(pages=Pages(stray_share=0.0))
    ask_for = {"symbol": "BTCUSDT", "period": "5m", "limit": 1}
    async with asking(made) as ask:
        assert "/local-" in made.url
        made.fail(1, status=503)
        made.fail(1, status=429, symbol="BTCUSDT")
        made.drop(2)  # two, because aiohttp repeats the request once
        with pytest.raises(aiohttp.ClientError):
            await ask(**ask_for)
        assert [(await ask(**ask_for))[0] for _ in range(3)] == [503, 429, 200]
        assert made.history_counter.total == 5
        assert made.used == 0
        made.ban(60.0)
        status, body, headers = await ask(**ask_for)
        assert (status, body["code"]) == (418, -1003)
        assert "X-MBX-USED-WEIGHT-1M" not in headers
        made.end_ban()
        assert (await ask(**ask_for))[0] == 200
        made.fail(1, symbol="ETHUSDT")
        assert (await ask(**ask_for))[0] == 200
        made.delist("BTCUSDT")
        assert (await ask(**ask_for))[1] == []


async def test_a_scripted_refusal_of_history_lasts_for_its_window() -> None:
    made = exchange(headers=Headers(retry_after="seconds"))
    async with asking(made) as ask:
        made.fail(1, status=429)
        status, body, headers = await ask(symbol="BTCUSDT", period="5m")
    assert (status, headers["Retry-After"]) == (429, "300")
    assert "1000 requests per 5 minutes" in body["msg"]


def test_a_value_that_a_test_sets_is_in_history_from_then_on() -> None:
    now = [NOW]
    made = LocalExchange(clock=lambda: now[0])
    before = made.history("BTCUSDT", "5m", NEWEST - 10 * STEP, NEWEST)
    made.set_open_interest("BTCUSDT", "123456789.123456789")
    made.set_mark_price("BTCUSDT", "2.5")
    now[0] += 600.0
    made.jump("BTCUSDT", 1.0)
    now[0] += 600.0
    assert made.history("BTCUSDT", "5m", NEWEST - 10 * STEP, NEWEST) == before
    after = {row.time: row for row in made.history("BTCUSDT", "5m", NEWEST + 1, NEWEST + 4 * STEP)}
    first, last = after[NEWEST + STEP], after[NEWEST + 3 * STEP]
    assert Decimal(first.open_interest) == Decimal("123456789.12345679")
    assert Decimal(first.value) == Decimal("308641972.80864197")
    assert Decimal(last.open_interest) == Decimal("246913578.247")


def test_a_jump_changes_no_row_before_it() -> None:
    now = [NOW]
    made = LocalExchange(clock=lambda: now[0])
    before = made.history("ETHUSDT", "5m", NEWEST - 10 * STEP, NEWEST)
    made.jump("ETHUSDT", 0.5)
    made.jump("ETHUSDT", 1.0)
    now[0] += 600.0
    assert made.history("ETHUSDT", "5m", NEWEST - 10 * STEP, NEWEST) == before
    (row, *_) = made.history("ETHUSDT", "5m", NEWEST + STEP, NEWEST + 2 * STEP)
    assert float(row.open_interest) == pytest.approx(3 * float(before[-1].open_interest), rel=0.05)
