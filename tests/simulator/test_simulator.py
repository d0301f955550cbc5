"""Step tables test the counter of the local exchange; requests over real sockets test its answers.

Rule of this file: the test or a virtual loop advances the time, so no test sleeps in real time. If
recorded answers of the real exchange are available, tests compare them with ours.
"""

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, cast
from urllib.request import urlopen

import aiohttp
import pytest
from multidict import CIMultiDictProxy

from answers import made, recorded
from binance_oi.simulator import (
    Bans,
    Bursts,
    Headers,
    LocalExchange,
    Others,
    Steady,
    spawn,
)
from binance_oi.simulator.counter import Verdict, WeightCounter
from binance_oi.simulator.market import Market
from binance_oi.simulator.universe import Universe, exchange_info
from support.lanes import thorough

START = datetime(2026, 10, 7, tzinfo=UTC).timestamp()
WEIGHT = "X-MBX-USED-WEIGHT-1M"
MINUTE = int(START) // 60


@dataclass
class Clock:
    """A clock that the test advances. If it has a loop, it follows that loop too."""

    now: float = START
    loop: asyncio.AbstractEventLoop | None = None

    def __post_init__(self) -> None:
        self.now -= self.loop.time() if self.loop else 0.0

    def __call__(self) -> float:
        return self.now + (self.loop.time() if self.loop else 0.0)


@dataclass
class Reply:
    """A completely read answer."""

    status: int
    headers: CIMultiDictProxy[str]
    header_names: list[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def used(self) -> int:
        return int(self.headers[WEIGHT])


@dataclass
class Wire:
    """An exchange, its clock, and a plain session for requests to it."""

    exchange: LocalExchange
    clock: Clock
    session: aiohttp.ClientSession

    async def get(self, target: str, method: str = "GET", encoding: str = "gzip") -> Reply:
        url = f"{self.exchange.url}/fapi/v1/{target}"
        accept = {"Accept-Encoding": encoding}
        async with self.session.request(method, url, headers=accept) as response:
            names = [name.decode() for name, _ in response.raw_headers]
            return Reply(response.status, response.headers, names, await response.read())

    async def open_interest(self, symbol: str = "BTCUSDT") -> Reply:
        return await self.get(f"openInterest?symbol={symbol}")

    async def statuses(self, times: int) -> list[int]:
        return [(await self.open_interest()).status for _ in range(times)]


@asynccontextmanager
async def wired(**options: Any) -> AsyncIterator[Wire]:
    clock = options.setdefault("clock", Clock())
    async with LocalExchange(**options) as exchange, aiohttp.ClientSession() as session:
        yield Wire(exchange, clock, session)


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with wired() as wire:
        yield wire


# --- counting -----------------------------------------------------------------------------

Step = tuple[float, int, tuple[int, int, float]]  # second, weight, (status, used, until)


def walk(counter: WeightCounter, steps: list[Step]) -> None:
    for number, (second, weight, (status, used, until)) in enumerate(steps):
        expected = Verdict(status, used, START + until if until else 0.0)
        assert counter.count(weight, START + second) == expected, f"step {number}"


def counter(limit: int = 3, **options: Any) -> WeightCounter:
    return WeightCounter(limit, start=START, **options)


# Each row makes its counter in the test, because counting changes it.
COUNTING: dict[str, tuple[Callable[[], WeightCounter], list[Step]]] = {
    "the count starts again at the rollover, not sixty seconds later": (
        counter,
        [(50, 1, (200, 1, 0)), (59.999, 1, (200, 2, 0)), (60, 1, (200, 1, 0))],
    ),
    "the last weight of the limit is served and the next one is refused until the rollover": (
        counter,
        [
            (0, 2, (200, 2, 0)),
            (1, 1, (200, 3, 0)),
            (2, 1, (429, 4, 60)),
            (59.999, 1, (429, 5, 60)),
            (60, 1, (200, 1, 0)),
        ],
    ),
    "a heavy request over the limit is refused although a light one would fit": (
        lambda: counter(count_refused=False),
        [(0, 2, (200, 2, 0)), (1, 10, (429, 2, 60)), (2, 1, (200, 3, 0)), (3, 1, (429, 3, 60))],
    ),
    "weight used before the start counts in that minute only": (
        lambda: counter(used=3),
        [(0, 1, (429, 4, 60)), (60, 1, (200, 1, 0))],
    ),
    "refusals become a ban, requests lengthen it, and the next one is twice as long": (
        lambda: counter(1, bans=Bans(after=2)),
        [
            (0, 1, (200, 1, 0)),
            (1, 1, (429, 2, 60)),
            (2, 1, (429, 3, 60)),
            (3, 1, (418, 4, 123)),
            (70, 1, (418, 1, 190)),
            (189.9, 1, (418, 1, 309.9)),
            (310, 1, (200, 1, 0)),
            (310, 1, (429, 2, 360)),
            (310, 1, (429, 3, 360)),
            (310, 1, (418, 4, 550)),
        ],
    ),
    "a ban can end at its announced time": (
        lambda: counter(1, bans=Bans(after=0, first_s=30, lengthen=False)),
        [
            (0, 2, (418, 2, 30)),
            (29.9, 1, (418, 3, 30)),
            (60, 1, (200, 1, 0)),
            (60, 1, (418, 2, 120)),
        ],
    ),
    "no ban exceeds the longest one": (
        lambda: counter(1, bans=Bans(after=0, longest_s=200)),
        [(0, 2, (418, 2, 120)), (120, 2, (418, 2, 320)), (360, 2, (418, 2, 560))],
    ),
    "after a whole minute without a refusal the number of refusals starts again": (
        lambda: counter(1, bans=Bans(after=1)),
        [(0, 2, (429, 2, 60)), (120, 2, (429, 2, 180)), (180, 2, (418, 2, 300))],
    ),
    "without bans every refusal is a 429": (
        lambda: counter(1, bans=Bans(after=None)),
        [(0, 2, (429, 2, 60)), (1, 1, (429, 3, 60)), (2, 1, (429, 4, 60))],
    ),
    "others can use up the limit": (
        lambda: counter(10, others=Steady(1.0)),
        [(0, 1, (200, 1, 0)), (9, 1, (429, 11, 60)), (60, 1, (200, 1, 0))],
    ),
}


@pytest.mark.parametrize("case", COUNTING)
def test_the_counter_counts_and_refuses_as_the_step_tables_say(case: str) -> None:
    make, steps = COUNTING[case]
    walk(make(), steps)


OTHERS: list[tuple[Others, float, float, int]] = [
    (Steady(2.0), 0, 60, 120),
    (Steady(2.0), 0, 0.4, 0),
    (Steady(0.5), 1, 2, 1),
    (Bursts(100), -0.001, 0, 100),
    (Bursts(100), 0, 59.999, 0),
    (Bursts(100, at_second=30), 0, 29.999, 0),
    (Bursts(100, at_second=30), 0, 30, 100),
    (Bursts(100, at_second=30), 30, 90, 100),
    (Bursts(7, at_second=5, every=20), 0, 60, 21),
]


@pytest.mark.parametrize("others, since, until, weight", OTHERS)
def test_others_use_their_weight_as_time_passes(
    others: Others, since: float, until: float, weight: int
) -> None:
    assert others.weight(START + since, START + until) == weight


@pytest.mark.parametrize("others", [Steady(1.7), Bursts(5, at_second=1.3, every=7)])
def test_the_use_of_others_does_not_depend_on_how_often_it_is_read(others: Others) -> None:
    looks = [START + step * 0.37 for step in range(1000)]
    parts = sum(others.weight(a, b) for a, b in pairwise(looks))
    assert parts == others.weight(looks[0], looks[-1]) > 0


def test_others_are_counted_from_the_start_and_to_the_end_of_their_minute() -> None:
    counted = WeightCounter(2400, start=START + 50, used=7, others=Steady(10.0))
    assert counted.used(START + 55) == 7 + 50
    assert counted.weights(START + 600) == {MINUTE: 7 + 100}


def test_a_clock_behind_the_start_sees_no_others() -> None:
    assert counter(others=Steady(10.0)).used(START - 1) == 0


def test_the_counter_keeps_only_the_last_1500_minutes() -> None:
    counted = counter()
    for minute in range(2000):
        counted.count(1, START + minute * 60)
    assert list(counted.weights(START + 2000 * 60)) == list(range(MINUTE + 500, MINUTE + 2000))


def test_the_repr_of_the_counter_shows_its_limit() -> None:
    assert repr(counter(3)) == "<WeightCounter limit=3 banned_until=0.000>"


# --- the universe ---------------------------------------------------------------------------


def test_the_universe_has_as_many_symbols_as_the_exchange_on_2026_10_07() -> None:
    universe = Universe()
    assert len(universe.symbols) == 924
    assert len(universe.trading) == 789
    assert repr(universe) == "<Universe 924 listed, 789 trading>"


def test_the_universe_has_every_kind_of_symbol() -> None:
    symbols = Universe().symbols
    kinds = Counter(symbol.contract_type for symbol in symbols.values())
    assert set(kinds) == {
        "PERPETUAL",
        "TRADIFI_PERPETUAL",
        "CURRENT_QUARTER",
        "NEXT_QUARTER",
    }
    assert {symbol.status for symbol in symbols.values()} == {
        "TRADING",
        "SETTLING",
        "PENDING_TRADING",
    }
    odd = {"1000SHIBUSDT", "1000000MOGUSDT", "4USDT", "BTCUSDT_261225", "BTCUSDC", "龙虾USDT"}
    assert odd <= set(symbols)
    assert all(symbol.price > 0 for symbol in symbols.values())


def test_a_new_symbol_must_end_in_a_quote_asset() -> None:
    with pytest.raises(ValueError, match="NONSENSE"):
        Universe().set_status("NONSENSE", "TRADING", START)


def test_a_new_delivery_contract_ends_on_the_date_in_its_name() -> None:
    contract = Universe().set_status("BTCUSDT_270625", "TRADING", START)
    assert contract.contract_type == "CURRENT_QUARTER"
    delivery = datetime.fromtimestamp(contract.delivery_ms / 1000, UTC)
    assert delivery == datetime(2027, 6, 25, 8, tzinfo=UTC)


in_july = pytest.mark.parametrize(
    "path", [made("exchange_info_july.json"), recorded("fapi-exchangeInfo-20260703.json")]
)


@in_july
def test_the_universe_has_the_recorded_symbols_unchanged(path: Path) -> None:
    changed = {"BTCUSDT_261225", "ETHUSDT_261225", "ETHUSD1"}  # changed since the recording
    delivered = {"BTCUSDT_260925", "ETHUSDT_260925"}
    ours = _by_name(json.loads(exchange_info(Universe().symbols.values(), limit=1, now=START)))
    listed = _by_name(_json_of(path))
    assert delivered == listed.keys() - ours.keys()
    unchanged = listed.keys() - delivered - changed
    assert len(unchanged) > 10
    for name in unchanged:
        for field in _FACTS:
            assert ours[name][field] == listed[name][field], (name, field)


@pytest.mark.parametrize(
    "path",
    [made("exchange_info_october.json"), recorded("fapi-exchangeInfo-trimmed-20261007.json")],
)
def test_the_universe_has_the_recorded_symbols_of_october_unchanged(path: Path) -> None:
    ours = _by_name(json.loads(exchange_info(Universe().symbols.values(), limit=1, now=START)))
    listed = _by_name(_json_of(path))
    assert "BTCUSDT_261225" in listed
    for name, symbol in listed.items():
        assert {f: ours[name][f] for f in _FACTS} == {f: symbol[f] for f in _FACTS}


@in_july
def test_exchange_info_has_the_fields_of_the_recorded_one(path: Path) -> None:
    ours = json.loads(exchange_info(Universe().symbols.values(), limit=2400, now=START))
    listing = _json_of(path)
    assert list(ours) == list(listing)
    assert ours["rateLimits"] == listing["rateLimits"]
    assert list(ours["symbols"][0]) == list(listing["symbols"][0])
    kinds = [rule["filterType"] for rule in ours["symbols"][0]["filters"]]
    assert kinds == [rule["filterType"] for rule in listing["symbols"][0]["filters"]]


_FACTS = (
    "pair",
    "status",
    "contractType",
    "baseAsset",
    "quoteAsset",
    "marginAsset",
    "pricePrecision",
    "quantityPrecision",
)


def _json_of(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _by_name(body: Any) -> dict[str, Any]:
    return {symbol["symbol"]: symbol for symbol in body["symbols"]}


# --- the market -----------------------------------------------------------------------------

MARKETS = {name: Market(7, symbol) for name, symbol in Universe().symbols.items()}


def test_the_seed_decides_open_interest() -> None:
    symbol = Universe().symbols["SOLUSDT"]
    assert Market(7, symbol).open_interest(START) == MARKETS["SOLUSDT"].open_interest(START)
    assert Market(8, symbol).open_interest(START) != MARKETS["SOLUSDT"].open_interest(START)
    # A literal, because the answer is the same in every process, on every Python and every day.
    assert Market(7, symbol).open_interest(START) == ("6440.83", 1_791_331_195_480)


@pytest.mark.parametrize("name", ["BTCUSDT", "1000SHIBUSDT", "BTCUSDT_261225", "龙虾USDT"])
def test_open_interest_is_two_to_six_seconds_old_and_stays_the_same_for_a_while(name: str) -> None:
    moments = [START + step * 0.1 for step in range(3000)]
    readings = [(moment, *MARKETS[name].open_interest(moment)) for moment in moments]
    assert all(1.999 <= moment - time / 1000 <= 6.001 for moment, _, time in readings)
    distinct = len({time for _, _, time in readings})
    assert 100 <= distinct <= 302
    assert len({(value, time) for _, value, time in readings}) == distinct


def test_symbols_have_different_times_of_open_interest() -> None:
    assert len({market.open_interest(START)[1] for market in MARKETS.values()}) > 700


def test_open_interest_has_the_decimals_of_the_quantity_and_is_never_zero() -> None:
    for name, symbol in Universe().symbols.items():
        value, _ = MARKETS[name].open_interest(START)
        assert len(value.partition(".")[2]) == symbol.quantity_precision
        assert float(value) > 0


def test_open_interest_moves_without_jumps() -> None:
    btc = MARKETS["BTCUSDT"]
    hours = [float(btc.open_interest(START + hour * 3600)[0]) for hour in range(200)]
    assert 80_000 < min(hours) < 0.97 * max(hours) < 120_000
    seconds = [float(btc.open_interest(START + second)[0]) for second in range(600)]
    assert all(abs(b / a - 1) < 0.001 for a, b in pairwise(seconds))


def test_the_repr_of_a_market_shows_its_name() -> None:
    assert repr(MARKETS["BTCUSDT"]) == "<Market BTCUSDT>"


# --- on the wire ----------------------------------------------------------------------------


async def test_an_answer_is_compact_with_fields_in_the_order_of_the_real_one(wire: Wire) -> None:
    reply = await wire.open_interest()
    assert reply.status == 200
    shape = rb'\{"symbol":"BTCUSDT","openInterest":"\d+\.\d{3}","time":\d{13}\}'
    assert re.fullmatch(shape, reply.body)
    assert int(reply.headers["Content-Length"]) == len(reply.body)


async def test_every_trading_symbol_and_no_other_has_an_answer(wire: Wire) -> None:
    for name, symbol in wire.exchange.universe.symbols.items():
        reply = await wire.open_interest(name)
        assert reply.status == (200 if symbol.status == "TRADING" else 400)
        assert reply.json.get("symbol", name) == name
    assert wire.exchange.answers == {200: 789, 400: 135}
    assert wire.exchange.used == 924


WEIGHTS = [
    ("openInterest?symbol=BTCUSDT", 200, 1),
    ("openInterest?symbol=NOSUCHUSDT", 400, 1),
    ("openInterest", 400, 1),
    ("exchangeInfo", 200, 1),
    ("time", 200, 1),
    ("ping", 200, 1),
    ("premiumIndex?symbol=BTCUSDT", 200, 1),
    ("premiumIndex?symbol=NOSUCHUSDT", 400, 1),
    ("premiumIndex?symbol=", 200, 10),
    ("premiumIndex", 200, 10),
    ("nosuch", 404, 1),
]


@pytest.mark.parametrize("target, status, weight", WEIGHTS)
async def test_every_request_that_arrives_costs_its_weight(
    wire: Wire, target: str, status: int, weight: int
) -> None:
    reply = await wire.get(target)
    assert (reply.status, reply.used) == (status, weight)
    assert wire.exchange.weights == {MINUTE: weight}
    assert wire.exchange.answers == {status: 1}


REFUSED = [
    ("openInterest", -1102),
    ("openInterest?symbol=", -1102),
    ("openInterest?symbol=NOSUCHUSDT", -1121),
    ("openInterest?symbol=OMGUSDT", -4108),
    ("openInterest?symbol=btcusdt", -1100),
    ("openInterest?symbol=BTC%20USDT", -1100),
    ("openInterest?symbol=" + "A" * 51, -1100),
    ("openInterest?symbol=%FF", -1130),
    ("openInterest?symbol=BTCUSDT&symbol=ETHUSDT", -1130),
]


@pytest.mark.parametrize("target, code", REFUSED)
async def test_the_answer_to_an_invalid_request_names_the_reason(
    wire: Wire, target: str, code: int
) -> None:
    reply = await wire.get(target)
    assert (reply.status, reply.json["code"]) == (400, code)


@pytest.mark.parametrize("query", ["symbol=BTCUSDT&x=1", "x=1&symbol=BTCUSDT", "symbol=%42TCUSDT"])
async def test_the_symbol_is_found_in_every_form_of_the_query(wire: Wire, query: str) -> None:
    assert (await wire.get(f"openInterest?{query}")).json["symbol"] == "BTCUSDT"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_other_methods_are_refused(wire: Wire, method: str) -> None:
    reply = await wire.get("openInterest?symbol=BTCUSDT", method=method)
    message = f"Path /fapi/v1/openInterest, Method {method} is invalid"
    assert (reply.status, reply.json) == (404, {"code": -5000, "msg": message})


async def test_the_clock_of_the_exchange_is_ahead_by_its_offset() -> None:
    async with wired(clock_offset=90.5) as wire:
        reply = await wire.get("time")
        assert reply.json == {"serverTime": int((START + 90.5) * 1000)}
        assert reply.headers["Date"] == "Wed, 07 Oct 2026 00:01:30 GMT"
        assert wire.exchange.weights == {MINUTE + 1: 1}
        assert (await wire.get("ping")).json == {}


async def test_the_count_and_the_date_change_at_the_rollover(wire: Wire) -> None:
    wire.clock.now = START + 59.9
    before = [await wire.open_interest(), await wire.open_interest()]
    wire.clock.now = START + 60
    after = await wire.open_interest()
    assert [reply.used for reply in [*before, after]] == [1, 2, 1]
    assert [parsedate_to_datetime(r.headers["Date"]).second for r in [*before, after]] == [
        59,
        59,
        0,
    ]
    assert wire.exchange.weights == {MINUTE: 2, MINUTE + 1: 1}


async def test_requests_over_the_limit_get_429_and_then_418_with_the_real_texts() -> None:
    async with wired(limit=2, used=1, bans=Bans(after=1)) as wire:
        assert (await wire.open_interest()).used == 2
        limited, banned = await wire.open_interest(), await wire.open_interest()
    assert (limited.status, limited.used) == (429, 3)
    assert limited.json == {
        "code": -1003,
        "msg": "Too many requests; current limit of IP(127.0.0.1) is 2 requests per minute."
        " Please use the websocket for live updates to avoid polling the API.",
    }
    assert (banned.status, banned.used) == (418, 4)
    assert banned.json == {
        "code": -1003,
        "msg": f"Way too many requests; IP(127.0.0.1) banned until {int(START + 120) * 1000}."
        " Please use the websocket for live updates to avoid bans.",
    }
    assert "Retry-After" not in limited.headers
    assert "Retry-After" not in banned.headers


RETRY_AFTER = [("0", "0", "0"), ("seconds", "50", "120")]


@pytest.mark.parametrize("rule, limited, banned", RETRY_AFTER)
async def test_refusals_can_have_a_retry_after(rule: Any, limited: str, banned: str) -> None:
    options = {"limit": 1, "bans": Bans(after=1), "headers": Headers(retry_after=rule)}
    async with wired(**options) as wire:
        wire.clock.now += 10
        await wire.open_interest()
        assert (await wire.open_interest()).headers["Retry-After"] == limited
        assert (await wire.open_interest()).headers["Retry-After"] == banned


async def test_a_test_can_ban_the_address(wire: Wire) -> None:
    wire.exchange.counter.ban(START)
    assert await wire.statuses(1) == [418]
    wire.clock.now += 120
    assert await wire.statuses(1) == [200]


async def test_refusals_can_omit_the_used_weight() -> None:
    async with wired(limit=1, headers=Headers(on_refusal=False)) as wire:
        assert WEIGHT in (await wire.open_interest()).headers
        assert WEIGHT not in (await wire.open_interest()).headers


async def test_a_share_of_the_answers_can_omit_the_used_weight() -> None:
    async with wired(headers=Headers(missing_share=0.5)) as wire:
        replies = [await wire.open_interest() for _ in range(100)]
    missing = sum(WEIGHT not in reply.headers for reply in replies)
    assert 30 < missing < 70


async def test_the_header_can_be_below_the_count_and_never_above_it() -> None:
    async with wired(headers=Headers(behind=5)) as wire:
        shown = [(await wire.open_interest()).used for _ in range(100)]
    assert all(max(1, count - 5) <= used <= count for count, used in enumerate(shown, 1))
    assert shown != sorted(shown)


async def test_the_header_contains_the_weight_of_others() -> None:
    async with wired(others=Bursts(500, at_second=30)) as wire:
        assert (await wire.open_interest()).used == 1
        wire.clock.now += 30
        assert (await wire.open_interest()).used == 502
        assert wire.exchange.used == 502
        assert repr(wire.exchange) == f"<LocalExchange {wire.exchange.url} used=502 of 2400>"


def loop_clock(second: float = 0.0) -> Clock:
    """A clock that follows the running loop and is now at START + `second`."""
    return Clock(START + second, asyncio.get_running_loop())


@pytest.mark.virtual_time
async def test_a_request_is_counted_half_the_latency_after_it_was_sent() -> None:
    async with wired(latency=0.2, clock=loop_clock(59.95)) as wire:
        reply = await wire.open_interest()
        assert wire.clock() == pytest.approx(START + 60.15, abs=0.01)
        assert reply.headers["Date"] == "Wed, 07 Oct 2026 00:01:00 GMT"
        assert wire.exchange.weights == {MINUTE: 0, MINUTE + 1: 1}


@pytest.mark.virtual_time
async def test_a_request_counts_even_if_its_sender_gave_up() -> None:
    async with wired(latency=0.2, clock=loop_clock()) as wire:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wire.open_interest(), 0.05)
        assert wire.exchange.used == 0
        await asyncio.sleep(0.1)
        assert wire.exchange.used == 1


@pytest.mark.virtual_time
async def test_jitter_lengthens_round_trips_and_repeats_with_the_seed() -> None:
    runs = [await _round_trips(seed) for seed in (1, 1, 2)]
    assert runs[0] == pytest.approx(runs[1], abs=0.001)
    assert runs[0] != pytest.approx(runs[2], abs=0.001)
    assert all(0.2 <= trip <= 0.31 for trip in runs[0])


async def _round_trips(seed: int) -> list[float]:
    trips: list[float] = []
    async with wired(latency=0.2, jitter=0.1, seed=seed, clock=loop_clock()) as wire:
        for _ in range(10):
            sent = wire.clock()
            await wire.open_interest()
            trips.append(wire.clock() - sent)
    return trips


@pytest.mark.virtual_time
async def test_closing_drops_requests_in_flight() -> None:
    async with wired(latency=1000, clock=loop_clock()) as wire:
        asking = asyncio.create_task(wire.open_interest())
        await asyncio.sleep(1)
        await wire.exchange.close()
        with pytest.raises(aiohttp.ClientError):
            await asking
        assert wire.clock() < START + 10


async def test_the_same_seed_makes_the_same_market() -> None:
    bodies: list[bytes] = []
    for seed in (3, 3, 4):
        async with wired(seed=seed) as wire:
            bodies.append((await wire.open_interest()).body)
    assert bodies[0] == bodies[1] != bodies[2]


async def test_a_symbol_can_be_halted_resumed_and_listed(wire: Wire) -> None:
    wire.exchange.set_status("BTCUSDT", "PRE_SETTLE")
    assert (await wire.open_interest()).json["code"] == -4108
    wire.exchange.set_status("BTCUSDT", "TRADING")
    assert (await wire.open_interest()).status == 200
    assert (await wire.open_interest("新币USDT")).json["code"] == -1121
    wire.exchange.set_status("新币USDT", "TRADING")
    assert (await wire.open_interest("新币USDT")).json["symbol"] == "新币USDT"


async def test_a_change_of_status_shows_in_exchange_info(wire: Wire) -> None:
    before = _by_name((await wire.get("exchangeInfo")).json)
    wire.exchange.set_status("BTCUSDT", "SETTLING")
    wire.exchange.set_status("NEWUSDT", "PENDING_TRADING")
    after = _by_name((await wire.get("exchangeInfo")).json)
    assert before["BTCUSDT"]["status"] == "TRADING"
    assert after["BTCUSDT"]["status"] == "SETTLING"
    assert after.keys() - before.keys() == {"NEWUSDT"}


async def test_planned_statuses_change_on_time() -> None:
    changes = [(START + 20, "BTCUSDT", "SETTLING"), (START + 10, "NEWUSDT", "TRADING")]
    seen: list[tuple[int, int]] = []
    async with wired(changes=changes) as wire:
        for second in (9, 10, 20):
            wire.clock.now = START + second
            new, old = await wire.open_interest("NEWUSDT"), await wire.open_interest()
            seen.append((new.status, old.status))
    assert seen == [(400, 200), (200, 200), (200, 400)]


async def test_exchange_info_lists_every_symbol_and_is_cached_and_ignores_a_symbol_parameter() -> (
    None
):
    async with wired(limit=6000) as wire:
        reply = await wire.get("exchangeInfo?symbol=BTCUSDT")
        wire.clock.now += 30
        assert (await wire.get("exchangeInfo")).body == reply.body
    body = reply.json
    assert len(body["symbols"]) == 924
    assert body["rateLimits"][0]["limit"] == 6000
    assert START - body["serverTime"] / 1000 > 3600
    assert 900_000 < len(reply.body) < 1_300_000


async def test_the_mark_prices_of_all_symbols_equal_the_single_ones(wire: Wire) -> None:
    marks = {mark["symbol"]: mark for mark in (await wire.get("premiumIndex")).json}
    assert len(marks) == 924
    for name in ("BTCUSDT", "OMGUSDT", "ETHUSDT_261225"):
        assert (await wire.get(f"premiumIndex?symbol={name}")).json == marks[name]
    assert 50_000 < float(marks["BTCUSDT"]["markPrice"]) < 75_000
    assert marks["BTCUSDT"]["nextFundingTime"] == (START + 8 * 3600) * 1000
    assert marks["ETHUSDT_261225"]["nextFundingTime"] == 0


@pytest.mark.parametrize(
    "path", [made("premium_index.json"), recorded("fapi-premiumIndex-20260704.json")]
)
async def test_mark_prices_have_the_fields_of_the_recorded_ones(wire: Wire, path: Path) -> None:
    fields = list(_json_of(path)[0])
    assert list((await wire.get("premiumIndex")).json[0]) == fields


@pytest.mark.parametrize("encoding", ["identity", "gzip;q=0", "br"])
async def test_a_large_body_is_plain_if_the_client_does_not_accept_gzip(
    wire: Wire, encoding: str
) -> None:
    reply = await wire.get("exchangeInfo", encoding=encoding)
    assert "Content-Encoding" not in reply.headers
    assert int(reply.headers["Content-Length"]) == len(reply.body)


async def test_a_large_body_is_gzip_and_chunked_if_the_client_accepts_it(wire: Wire) -> None:
    reply = await wire.get("exchangeInfo", encoding="gzip, deflate")
    assert (reply.headers["Content-Encoding"], reply.headers["Transfer-Encoding"]) == (
        "gzip",
        "chunked",
    )
    assert len(reply.json["symbols"]) == 924
    assert "Content-Encoding" not in (await wire.open_interest()).headers


async def test_a_connection_is_closed_if_the_client_asks_for_it(wire: Wire) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.exchange.port)
    writer.write(b"GET /fapi/v1/ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert b"\r\nConnection: close\r\n" in answer
    assert answer.endswith(b"\r\n\r\n{}")


def _names_of_headers(path: Path) -> set[str]:
    block = path.read_text().strip().split("\n\n")[-1]
    names = {line.split(":")[0] for line in block.splitlines()[1:]}
    assert "date" in {name.lower() for name in names}
    return names


@pytest.mark.parametrize(
    "path",
    [
        made("headers/http_1_1.txt"),
        recorded("headers/fapi-ticker24hr-2021-05-27-ccxt9273.headers.txt"),
    ],
)
async def test_header_names_are_those_of_the_recorded_http_1_1_answer(
    wire: Wire, path: Path
) -> None:
    reply = await wire.get("exchangeInfo")
    added_since = {"Via", "X-Amz-Cf-Pop", "X-Amz-Cf-Id"}
    assert set(reply.header_names) == _names_of_headers(path) | added_since


@pytest.mark.parametrize(
    "path",
    [
        made("headers/http_2.txt"),
        recorded("headers/fapi-openInterest-20260924.headers.txt"),
        recorded("headers/fapi-v1-exchangeInfo-20260703T170827Z.headers.txt"),
        recorded("headers/fapi-v1-premiumIndex-20260704T044945Z.headers.txt"),
    ],
)
async def test_every_header_of_the_recorded_answers_is_present(wire: Wire, path: Path) -> None:
    reply = await wire.open_interest()
    assert _names_of_headers(path) <= {name.lower() for name in reply.header_names}


def _texts_of_errors(path: Path) -> set[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    bodies = [body for line in lines if (body := json.loads(line).get("body"))]
    return {_without_particulars(body.encode()) for body in bodies}


def _without_particulars(body: bytes) -> str:
    text = cast(str, json.loads(body)["msg"])
    text = re.sub(r"IP\([\d.]+\)|\d{4,}", "#", text)
    text = re.sub(r"Path \S+,", "Path #,", text)
    return re.sub(r"parameter '\w+' is not valid", "parameter # is not valid", text)


@pytest.mark.parametrize("path", [made("errors.jsonl"), recorded("observed_error_bodies.jsonl")])
async def test_error_texts_are_the_recorded_ones(path: Path) -> None:
    texts = _texts_of_errors(path)
    async with wired(bans=Bans(after=1)) as wire:
        replies = [await wire.get(target) for target, _ in REFUSED]
        replies.append(await wire.get("algoOrders"))
        wire.exchange.counter.count(2400, START)
        replies += [await wire.open_interest(), await wire.open_interest()]
    assert [reply.status for reply in replies[-2:]] == [418, 418]
    for reply in replies:
        assert _without_particulars(reply.body) in texts


# --- threads and processes ------------------------------------------------------------------


def test_an_exchange_runs_in_a_thread_of_its_own() -> None:
    with LocalExchange(clock=Clock()).in_thread() as exchange:
        with urlopen(f"{exchange.url}/fapi/v1/openInterest?symbol=BTCUSDT") as response:
            assert json.load(response)["symbol"] == "BTCUSDT"
        assert exchange.answers == {200: 1}
        assert exchange.used == 1
    assert exchange.url == ""
    assert repr(exchange) == "<LocalExchange closed used=1 of 2400>"


async def test_an_exchange_can_be_closed_several_times() -> None:
    async with wired() as wire:
        await wire.exchange.close()
    assert wire.exchange.url == ""


def test_an_exchange_runs_in_a_process_of_its_own() -> None:
    with spawn("--limit", "1", "--retry-after", "seconds", "--ban-after", "-1") as url:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/local-[0-9a-f]{12}", url)
        with urlopen(f"{url}/fapi/v1/ping") as response:
            assert response.headers[WEIGHT] == "1"


def test_a_process_that_does_not_start_raises(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="did not start"), spawn("--port", "none"):
        pass
    assert "invalid int value" in capfd.readouterr().err


def test_a_port_in_use_is_reported_without_a_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with LocalExchange().in_thread() as exchange:
        port = str(exchange.port)
        with pytest.raises(RuntimeError, match="did not start"), spawn("--port", port):
            pass
    errors = capfd.readouterr().err
    assert errors.startswith("the local exchange did not start: ")
    assert "Traceback" not in errors


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "binance_oi.simulator", "--others", "1.5"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        yield process
        process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, *thorough(signal.SIGTERM, signal.SIGHUP)])
def test_a_signal_ends_the_process_without_output(
    process: subprocess.Popen[str], number: signal.Signals
) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().startswith("http://127.0.0.1:")
    process.send_signal(number)
    rest, errors = process.communicate(timeout=600)
    assert (process.returncode, rest, errors) == (0, "", "")
