"""Tests of each route of the service; most run on every server, and so with both our adapters.

Time is virtual, so a sweep begins as soon as the loop is idle.
"""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from binance_oi.simulator import LocalExchange
from binance_oi.testing import simulated_client
from binance_oi.testing.client import SimulatedClient
from binance_oi.testing.virtual_clock import wall_time
from binance_oi.web import Limits
from binance_oi.web.service import Service
from support.service_servers import SERVERS
from support.sse import Seen, events
from support.virtual_clocks import use_virtual_clocks

pytestmark = pytest.mark.virtual_time

SYMBOLS = ["BTCUSDT", "ETHUSDT", "JDUSDT"]
EVERY = 20.0

everywhere = pytest.mark.parametrize(
    "server",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                name not in ("aiohttp", "a proxy") and find_spec("fastapi") is None,
                reason="pydantic has no wheels for this Python yet",
            ),
        )
        for name in SERVERS
    ],
)


@pytest.fixture(autouse=True)
def one_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all parts read the virtual clock."""
    use_virtual_clocks(monkeypatch)


class Got(NamedTuple):
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        is_packed = self.headers.get("Content-Encoding") == "gzip"
        return json.loads(gzip.decompress(self.body) if is_packed else self.body)


class Visitor:
    def __init__(self, session: aiohttp.ClientSession, url: str, service: Service) -> None:
        self.session, self.url, self.service = session, url, service

    async def get(self, path: str, method: str = "GET", **headers: str) -> Got:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"{self.url}{path}"
        async with self.session.request(method, url, headers=names) as answer:
            return Got(answer.status, answer.headers, await answer.read())

    @asynccontextmanager
    async def stream(self, path: str, **headers: str) -> AsyncIterator[AsyncIterator[Seen]]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.get(f"{self.url}{path}", headers=names) as answer:
            assert answer.status == 200, await answer.text()
            assert answer.headers["Content-Type"] == "text/event-stream"
            yield events(answer)


@asynccontextmanager
async def visiting(
    server: str, *, client: bool = True, exchange: LocalExchange | None = None, **options: Any
) -> AsyncIterator[tuple[Visitor, SimulatedClient]]:
    options.setdefault("symbols", SYMBOLS)
    options.setdefault("every", EVERY)
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        simulated_client(exchange) as reads,
        SERVERS[server](reads if client else None, **options) as (url, service),
        aiohttp.ClientSession(auto_decompress=False, timeout=timeout) as session,
    ):
        yield Visitor(session, url, service), reads


@everywhere
async def test_a_value_is_served_with_exact_digits_and_its_age_and_an_etag(server: str) -> None:
    loop = asyncio.get_running_loop()
    async with visiting(server) as (visitor, reads):
        reads.exchange.set_open_interest("BTCUSDT", "7.50")
        began = loop.time()
        got = await visitor.get("/open-interest/btcusdt?max_age=60")
        number = await visitor.get("/open-interest/BTCUSDT?max_age=60&decimal=number")
        again = await visitor.get("/open-interest/BTCUSDT", If_None_Match=got.headers["ETag"])
        await asyncio.sleep(10.0)
        old = await visitor.get("/open-interest/BTCUSDT?max_age=60")
        passed = loop.time() - began
        head = await visitor.get("/open-interest/BTCUSDT?max_age=60", "HEAD")
    assert (got.status, got.json["open_interest"]) == (200, "7.50")
    assert got.headers["Content-Type"] == "application/json"
    assert got.headers["Age"] == "0"
    assert b'"open_interest":7.50' in number.body
    assert (again.status, again.body) == (304, b"")
    assert again.headers["ETag"] == got.headers["ETag"]
    assert 10 <= int(old.headers["Age"]) <= passed
    assert old.body == got.body
    assert (head.status, head.body, head.headers["Content-Length"]) == (
        200,
        b"",
        str(len(got.body)),
    )


@everywhere
async def test_the_snapshot_route_serves_the_latest_sweep_without_a_request(server: str) -> None:
    async with visiting(server) as (visitor, reads):
        got = await visitor.get("/snapshot")
        weight = reads.usage.charged
        some = await visitor.get("/snapshot?symbols=ethusdt,NOSUCHUSDT")
        same = await visitor.get("/snapshot", If_None_Match=f'"x", {got.headers["ETag"]}')
        assert reads.usage.charged == weight
        await asyncio.sleep(2 * EVERY)
        later = await visitor.get("/snapshot", If_None_Match=got.headers["ETag"])
    assert [value["symbol"] for value in got.json["values"]] == SYMBOLS
    assert got.json["next_slot"] - got.json["slot"] == EVERY * 1000
    assert [value["symbol"] for value in some.json["values"]] == ["ETHUSDT"]
    assert some.json["absent"] == ["NOSUCHUSDT"]
    assert (same.status, later.status) == (304, 200)
    assert later.json["slot"] > got.json["slot"]


async def test_the_retry_time_of_a_snapshot_too_heavy_to_renew_is_after_the_next_sweep() -> None:
    async with visiting("aiohttp", limits=Limits(weight=2), every=600.0) as (visitor, reads):
        await visitor.get("/snapshot")
        await asyncio.sleep(30.0)
        weight = reads.usage.charged
        got = await visitor.get("/snapshot?max_age=5")  # three symbols weigh more than 2
        assert reads.usage.charged == weight
        left = visitor.service.hub.seconds_to_next()
    assert (got.status, got.json["type"]) == (503, "urn:binance-oi:too-old")
    assert int(got.headers["Retry-After"]) >= left


@everywhere
async def test_the_first_visitor_waits_for_the_first_sweep(server: str) -> None:
    async with visiting(server, every=30.0) as (visitor, reads):
        reads.exchange.delay(6.0, times=100)  # longer than a visitor waits for the budget
        first, changes = await asyncio.gather(
            visitor.get("/snapshot?symbols=BTCUSDT"), visitor.get("/changes")
        )
    assert (first.status, changes.status) == (200, 200)
    assert [value["symbol"] for value in first.json["values"]] == ["BTCUSDT"]


@everywhere
async def test_the_wait_for_the_first_sweep_is_bounded_and_ends_with_503(server: str) -> None:
    async with visiting(server, limits=Limits(first_sweep=3.0)) as (visitor, reads):
        reads.exchange.delay(9.0, times=100)
        got = await visitor.get("/snapshot")
        waiting = asyncio.create_task(visitor.get("/changes"))
        await asyncio.sleep(0.5)
        visitor.service.drain()
        ended = await waiting
    assert (got.status, got.json["type"]) == (503, "urn:binance-oi:no-data")
    assert got.json["detail"] == "Nothing was read yet."
    assert int(got.headers["Retry-After"]) >= 1
    assert (ended.status, ended.json["type"]) == (503, "urn:binance-oi:closed")


async def test_during_a_ban_no_visitor_waits_for_the_first_sweep() -> None:
    async with visiting("aiohttp", limits=Limits(first_sweep=60.0)) as (visitor, reads):
        reads.exchange.ban(300.0)
        await visitor.get("/open-interest/BTCUSDT")
        began = asyncio.get_running_loop().time()
        got = await visitor.get("/snapshot")
        assert asyncio.get_running_loop().time() - began < 1.0  # virtual seconds
    assert (got.status, got.json["type"]) == (503, "urn:binance-oi:no-data")
    assert int(got.headers["Retry-After"]) > 60


@everywhere
async def test_a_snapshot_with_a_max_age_requests_only_older_values(server: str) -> None:
    async with visiting(server, every=600.0) as (visitor, reads):
        first = await visitor.get("/snapshot")
        await asyncio.sleep(30.0)
        await visitor.get("/open-interest/BTCUSDT")
        weight = reads.usage.charged
        kept = await visitor.get("/snapshot?symbols=BTCUSDT,ETHUSDT&max_age=300")
        assert reads.usage.charged == weight
        newer = await visitor.get("/snapshot?symbols=BTCUSDT,ETHUSDT&max_age=5")
        assert reads.usage.charged == weight + 1
    assert (first.status, kept.status, newer.status) == (200, 200, 200)
    times = [{v["symbol"]: v["time"] for v in got.json["values"]} for got in (kept, newer)]
    assert times[1]["ETHUSDT"] > times[0]["ETHUSDT"]


@everywhere
async def test_a_large_answer_is_compressed_for_a_visitor_that_accepts_gzip(server: str) -> None:
    async with visiting(server, symbols=None, every=60.0) as (visitor, _):
        packed = await visitor.get("/snapshot", Accept_Encoding="gzip")
        plain = await visitor.get("/snapshot", Accept_Encoding="identity")
        small = await visitor.get("/open-interest/BTCUSDT", Accept_Encoding="gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < len(plain.body) / 2
    assert "Content-Encoding" not in plain.headers
    assert "Content-Encoding" not in small.headers
    assert packed.headers["ETag"] == plain.headers["ETag"]
    assert "Accept-Encoding" in packed.headers["Vary"]


@everywhere
async def test_a_stream_begins_with_the_state_and_continues_with_changes(server: str) -> None:
    async with visiting(server) as (visitor, _):
        async with visitor.stream("/events?symbols=JDUSDT,BTCUSDT&head=true") as seen:
            state, delta = await anext(seen), await anext(seen)
        async with visitor.stream("/events", Last_Event_ID=state.id) as seen:
            resumed = await anext(seen)
        async with visitor.stream(f"/events?last_event_id={delta.id}") as seen:
            after = await anext(seen)
    assert (state.kind, delta.kind, resumed.kind) == ("state", "sweep", "sweep")
    assert [value["symbol"] for value in state.data["values"]] == ["JDUSDT", "BTCUSDT"]
    assert delta.data["slot"] > state.data["slot"]
    assert state.data["head"]["budget"]["limit"] == 2400
    assert resumed.id == delta.id
    assert int(after.id.partition("-")[2]) == int(delta.id.partition("-")[2]) + 1


@everywhere
async def test_a_listener_that_disconnects_is_removed(server: str) -> None:
    async with visiting(server) as (visitor, _):
        async with visitor.stream("/events") as seen:
            await anext(seen)
            assert visitor.service.hub.listeners == 1
        while visitor.service.hub.listeners:  # noqa: ASYNC110 - nobody sets an event
            await asyncio.sleep(1.0)


@everywhere
async def test_open_streams_end_with_the_service(server: str) -> None:
    async with visiting(server) as (visitor, _):
        async with visitor.stream("/events") as seen:
            await anext(seen)
            visitor.service.drain()
            assert [event async for event in seen] == []
        got = await visitor.get("/events")
    assert (got.status, got.json["type"]) == (503, "urn:binance-oi:closed")


@everywhere
async def test_the_number_of_streams_is_bounded(server: str) -> None:
    async with (
        visiting(server, limits=Limits(listeners=1)) as (visitor, _),
        visitor.stream("/events") as seen,
    ):
        await anext(seen)
        got = await visitor.get("/events")
    assert (got.status, got.json["type"]) == (503, "urn:binance-oi:full")
    assert int(got.headers["Retry-After"]) >= 1


@everywhere
async def test_a_stream_of_a_hub_that_has_just_closed_is_refused(server: str) -> None:
    async with visiting(server, origins=["https://example.org"]) as (visitor, _):
        await visitor.get("/snapshot")
        visitor.service.hub.close()
        got = await visitor.get("/events", Origin="https://example.org")
    assert (got.status, got.json["type"]) == (503, "urn:binance-oi:full")
    assert got.headers["Access-Control-Allow-Origin"] == "https://example.org"


@everywhere
async def test_equal_history_requests_are_sent_to_the_exchange_once(server: str) -> None:
    async with visiting(server) as (visitor, reads):
        path = "/history/BTCUSDT?period=1h"
        first, same = await asyncio.gather(visitor.get(path), visitor.get(path))
        again = await visitor.get(path, If_None_Match=first.headers["ETag"])
        assert reads.history_usage.used == 1
    rows = first.json["rows"]
    assert (first.status, first.body, again.status) == (200, same.body, 304)
    assert (first.json["from"], first.json["symbol"]) == ("exchange", "BTCUSDT")
    assert 0 < len(rows) <= 500
    assert {row["time"] % 3_600_000 for row in rows} == {0}
    assert all(isinstance(row["open_interest"], str) for row in rows)


@everywhere
async def test_the_history_requests_of_one_address_are_limited(server: str) -> None:
    async with visiting(server, limits=Limits(past_requests=3)) as (visitor, _):
        got = [await visitor.get("/history/BTCUSDT?period=1d") for _ in range(4)]
        await asyncio.sleep(20.0)
        later = await visitor.get("/history/BTCUSDT?period=1d")
    assert [each.status for each in got] == [200, 200, 200, 429]
    assert got[-1].json["type"] == "urn:binance-oi:visitor"
    assert 1 <= int(got[-1].headers["Retry-After"]) <= 20
    assert later.status == 200


@everywhere
async def test_changes_come_from_the_poll_and_cost_no_request(server: str) -> None:
    async with visiting(server) as (visitor, reads):
        reads.exchange.set_open_interest("BTCUSDT", "100")
        reads.exchange.set_open_interest("ETHUSDT", "100")
        await visitor.get("/changes")  # from this request on, the service notes what the poll reads
        await asyncio.sleep(1200.0)
        reads.exchange.set_open_interest("BTCUSDT", "150")
        reads.exchange.set_open_interest("ETHUSDT", "25")
        await asyncio.sleep(70.0)
        weight, slots = sum(reads.exchange.weights.values()), visitor.service.hub.number
        found = await visitor.get("/changes?window=15m&sort=percent&top=2")
        one = await visitor.get("/changes?window=15m&symbols=BTCUSDT&decimal=number")
        long = await visitor.get("/changes?window=24h&trend=true")
        wrong = [await visitor.get(f"/changes?{q}") for q in ("window=2h", "top=0", "sort=name")]
        slots = visitor.service.hub.number - slots  # under uvicorn, sweeps may come meanwhile
        # Each sweep costs 3, and the list of symbols before it 1. One more may be under way.
        assert sum(reads.exchange.weights.values()) <= weight + 4 * (slots + 1)
    assert [each["symbol"] for each in found.json["changes"]] == ["ETHUSDT", "BTCUSDT"]
    assert [each["percent"] for each in found.json["changes"]] == [-75.0, 50.0]
    assert one.json["changes"][0]["open_interest"] == 150
    assert (long.json["changes"], long.json["filling"]) == ([], False)
    trend = long.json["trend"]["values"]["BTCUSDT"]
    assert len(trend) == 25  # the full hours of one day, with both ends
    assert set(trend) <= {None, 100.0, 150.0}
    assert "trend" not in found.json
    assert {each.status for each in wrong} == {400}


@everywhere
async def test_symbols_without_a_change_are_listed_with_the_reason(server: str) -> None:
    async with visiting(server) as (visitor, _):
        some = await visitor.get("/changes?window=24h&symbols=NOSUCHUSDT,BTCUSDT")
        every = await visitor.get("/changes?window=24h")
    assert (some.json["absent"], some.json["short"]) == (["NOSUCHUSDT"], ["BTCUSDT"])
    assert every.json == {"window": "24h", "filling": False, "changes": []}


@everywhere
async def test_without_a_max_age_a_known_value_is_served_when_the_budget_is_used_up(
    server: str,
) -> None:
    async with visiting(server, limits=Limits(weight=1), every=600.0) as (visitor, _):
        await visitor.get("/snapshot")
        await asyncio.sleep(10.0)
        fresh = await visitor.get("/open-interest/BTCUSDT")
        known = await visitor.get("/open-interest/ETHUSDT")
        refused = await visitor.get("/open-interest/ETHUSDT?max_age=2")
    assert (fresh.status, fresh.headers["Age"]) == (200, "0")
    assert (known.status, known.json["symbol"]) == (200, "ETHUSDT")
    assert int(known.headers["Age"]) >= 10
    assert (refused.status, refused.json["type"]) == (503, "urn:binance-oi:budget")


@everywhere
async def test_the_health_route_shows_the_state_of_the_hub(server: str) -> None:
    async with visiting(server) as (visitor, _):
        idle = await visitor.get("/healthz")
        await visitor.get("/snapshot")
        live = await visitor.get("/healthz")
        visitor.service.drain()
        ended = await visitor.get("/healthz")
    assert (idle.status, idle.json["status"]) == (200, "idle")
    assert (live.status, live.json["status"], live.json["symbols"]) == (200, "live", 3)
    assert (ended.status, ended.json["status"]) == (503, "failed")


@everywhere
@pytest.mark.parametrize(
    "path, status, kind",
    [
        ("/open-interest/BTC-USDT", 400, "invalid-symbol"),
        ("/open-interest/NOSUCHUSDT", 404, "unknown-symbol"),
        ("/open-interest/BTCUSDT?max_age=x", 400, "query"),
        ("/open-interest/BTCUSDT?maxage=2", 400, "query"),
        ("/open-interest/BTCUSDT?max_age=1&max_age=2", 400, "query"),
        ("/open-interest/", 400, "invalid-symbol"),
        ("/open-interest", 404, "not-found"),
        ("/open-interest/BTCUSDT/x", 400, "invalid-symbol"),
        ("/snapshot/", 404, "not-found"),
        ("/snapshot?symbols=", 400, "invalid-symbol"),
        ("/snapshot?symbols=BTCUSDT,,", 400, "invalid-symbol"),
        ("/snapshot?decimal=float", 400, "query"),
        ("/history/BTCUSDT?period=7m", 400, "query"),
        ("/history/BTCUSDT?since=9999999999999", 400, "query"),
        ("/history/BTCUSDT?period=5m&since=0", 400, "query"),
        ("/events?symbols=%ff", 400, "query"),
        ("/nothing", 404, "not-found"),
        ("//snapshot", 404, "not-found"),
    ],
)
async def test_an_invalid_request_is_a_problem_and_costs_no_weight(
    server: str, path: str, status: int, kind: str
) -> None:
    async with visiting(server) as (visitor, reads):
        got = await visitor.get(path)
        assert reads.exchange.used <= 1  # only the list of symbols was requested
    assert got.status == status, got.body
    assert got.headers["Content-Type"] == "application/problem+json"
    assert got.json["type"] == f"urn:binance-oi:{kind}"
    assert got.json["status"] == status


@everywhere
async def test_methods_that_write_are_refused(server: str) -> None:
    async with visiting(server) as (visitor, reads):
        got = [await visitor.get("/snapshot", method) for method in ("POST", "PUT", "DELETE")]
        assert reads.exchange.used == 0
    assert {each.status for each in got} == {405}
    assert {each.headers["Allow"] for each in got} == {"GET, HEAD, OPTIONS"}


@everywhere
async def test_a_full_budget_and_a_ban_are_503_with_a_retry_time(server: str) -> None:
    exchange = LocalExchange(limit=20, used=20, clock=wall_time)
    async with visiting(server, exchange=exchange, limits=Limits(max_wait=2.0)) as (visitor, _):
        full = await visitor.get("/open-interest/BTCUSDT")
    async with visiting(server) as (visitor, reads):
        await visitor.get("/open-interest/BTCUSDT")
        reads.exchange.ban(300.0)
        await asyncio.sleep(5.0)
        banned = [await visitor.get("/open-interest/BTCUSDT") for _ in range(2)]
        used = reads.exchange.used
    assert full.status == 503
    assert int(full.headers["Retry-After"]) >= 1
    for got in banned:
        assert (got.status, got.json["type"]) == (503, "urn:binance-oi:banned")
        assert 1 <= int(got.headers["Retry-After"]) <= 310
        assert b"IP" not in got.body
    assert used <= 3


@everywhere
async def test_an_unknown_host_or_origin_gets_no_data(
    server: str,
) -> None:
    options: dict[str, Any] = {"hosts": ["oi.example"], "origins": ["https://page.example"]}
    async with visiting(server, **options) as (visitor, _):
        path = "/open-interest/BTCUSDT?max_age=60"
        wrong = await visitor.get(path, Host="evil.example")
        local = await visitor.get(path)
        right = await visitor.get(path, Host="OI.example:80", Origin="https://page.example")
        other = await visitor.get(path, Host="oi.example", Origin="https://evil.example")
        asks = await visitor.get(path, "OPTIONS", Host="oi.example", Origin="https://page.example")
    assert (wrong.status, wrong.json["type"]) == (421, "urn:binance-oi:host")
    assert local.status == 421
    assert (right.status, right.headers["Access-Control-Allow-Origin"]) == (
        200,
        "https://page.example",
    )
    assert (other.status, "Access-Control-Allow-Origin" in other.headers) == (200, False)
    assert "Origin" in ", ".join(other.headers.getall("Vary"))
    assert asks.status == 204
    assert asks.headers["Access-Control-Allow-Methods"] == "GET, HEAD"


@everywhere
async def test_no_other_origin_is_allowed_by_default(server: str) -> None:
    async with visiting(server) as (visitor, _):
        got = await visitor.get("/healthz", Origin="https://page.example")
    assert "Access-Control-Allow-Origin" not in got.headers


@everywhere
async def test_the_page_is_served_with_a_strict_content_security_policy(
    server: str, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text("<!doctype html>", encoding="utf-8")
    (tmp_path / "page.js").write_text("1", encoding="utf-8")
    (tmp_path / "secret.db").write_text("1", encoding="utf-8")
    async with visiting(server, page=tmp_path) as (visitor, _):
        page, script = await visitor.get("/"), await visitor.get("/page.js")
        others = [await visitor.get(path) for path in ("/secret.db", "/..%2fpage.js", "/x/page.js")]
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert (script.status, script.headers["Content-Type"]) == (
        200,
        "text/javascript; charset=utf-8",
    )
    assert {each.status for each in others} == {404}


async def test_many_visitors_of_one_symbol_cost_one_request_in_each_max_age() -> None:
    async with visiting("aiohttp") as (visitor, reads):
        end = asyncio.get_running_loop().time() + 60.0

        async def visit() -> None:
            while asyncio.get_running_loop().time() < end:
                got = await visitor.get("/open-interest/BTCUSDT?max_age=2")
                assert got.status == 200
                await asyncio.sleep(0.5)

        await asyncio.gather(*(visit() for _ in range(20)))
    assert sum(reads.exchange.weights.values()) <= 31


async def test_an_internal_error_tells_the_visitor_nothing_about_its_cause(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with visiting("aiohttp") as (visitor, _):
        monkeypatch.setattr(visitor.service.values, "one", None)
        got = await visitor.get("/open-interest/BTCUSDT")
    assert (got.status, got.json["type"]) == (500, "urn:binance-oi:unexpected")
    assert b"NoneType" not in got.body
    assert "NoneType" in caplog.text
