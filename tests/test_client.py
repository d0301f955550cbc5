"""Every call of a client gets its value or one of our exceptions, in time, and causes no 429.

Rule of this file: coroutine tests run in virtual time, and all but one use real sockets: those of
the local exchange, or of a `RawExchange`, whose answers the test writes byte by byte.
"""

import asyncio
import gc
import json
import logging
import math
import os
import pickle
import ssl
import threading
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from aioresponses import aioresponses

from binance_oi import (
    TESTNET,
    BannedError,
    BinanceOIError,
    BudgetExhaustedError,
    ClientClosedError,
    DecodeError,
    ForbiddenError,
    InvalidSymbolError,
    OpenInterest,
    OpenInterestClient,
    ProcessBudget,
    RateLimitedError,
    Reason,
    ResponseError,
    RetryPolicy,
    ServerError,
    SymbolNotTradingError,
    TransportError,
    TransportTimeoutError,
    UnknownSymbolError,
    WrongSymbolError,
    fork,
)
from binance_oi import client as module
from binance_oi.sending import transport
from binance_oi.simulator import Bans, LocalExchange
from support.lanes import thorough
from support.raw_exchange import CLOSE, RawExchange, answer, open_interest
from support.virtual_clock import START_S, wall_time

pytestmark = pytest.mark.virtual_time

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)  # when virtual time begins
NAN = float("nan")
ONCE = RetryPolicy(attempts=1)
DOUBT = timedelta(seconds=6)  # `retry_at` may be later by this, because clocks differ


def local_client(exchange: LocalExchange | RawExchange, **options: object) -> OpenInterestClient:
    """A client in virtual time."""
    budget = ProcessBudget(clock=asyncio.get_running_loop().time, wall=wall_time)
    return OpenInterestClient(base_url=exchange.url, **({"budget": budget} | options))  # type: ignore[arg-type]


def now() -> float:
    """Seconds since the start of the test."""
    return asyncio.get_running_loop().time() - START_S


def assert_is_end_of_hold(error: RateLimitedError | BannedError, until: datetime | None) -> None:
    """Check that `retry_at` is not before the end of the cooldown, and at most `DOUBT` after it."""
    assert until is not None
    assert until <= error.retry_at < until + DOUBT


async def outcome(call: asyncio.Future[OpenInterest]) -> object:
    """The outcome of a call: its value or its exception."""
    (result,) = await asyncio.gather(call, return_exceptions=True)
    return result


# -- one call ------------------------------------------------------------------------------------


async def test_open_interest_has_every_digit_of_the_exchange() -> None:
    body = '{"symbol":"BTCUSDT","openInterest":"96012.5440","time":1790287793703}'
    async with (
        RawExchange(lambda n: answer(200, body)) as exchange,
        local_client(exchange) as client,
    ):
        value = await client.get_open_interest("btcusdt")
    assert (value.symbol, str(value.open_interest), value.time) == (
        "BTCUSDT",
        "96012.5440",
        1790287793703,
    )


async def test_a_symbol_in_any_script_is_read() -> None:
    async with LocalExchange(clock=wall_time) as exchange, local_client(exchange) as client:
        for symbol in ("币安人生USDT", "龙虾USDT", "1000000MOGUSDT", "BTCUSDT_261225"):
            assert (await client.get_open_interest(symbol)).symbol == symbol
        assert exchange.answers == {200: 4}
        assert client.usage.used == exchange.used == 4


async def test_calls_can_be_tested_with_mocked_answers_and_no_socket(mocked: aioresponses) -> None:
    url = f"{TESTNET}/fapi/v1/openInterest?symbol=BTCUSDT"
    mocked.get(url, body=b'{"symbol":"BTCUSDT","openInterest":"1","time":1}')
    mocked.get(url, status=400, body=b'{"code":-1121,"msg":"Invalid symbol."}')
    async with OpenInterestClient(base_url=TESTNET, budget=ProcessBudget()) as client:
        assert (await client.get_open_interest("BTCUSDT")).open_interest == Decimal(1)
        with pytest.raises(UnknownSymbolError):
            await client.get_open_interest("BTCUSDT")


@pytest.mark.parametrize("symbol", ["", "BTC USDT", "BTC/USDT", "x" * 51, None, 7, b"BTCUSDT"])
async def test_an_invalid_symbol_is_refused_before_any_io(symbol: str) -> None:
    async with LocalExchange(clock=wall_time) as exchange, local_client(exchange) as client:
        for max_age in (0.0, 60.0):
            with pytest.raises(InvalidSymbolError):
                await client.get_open_interest(symbol, max_age=max_age)
        assert (exchange.used, client.usage.charged) == (0, 0)


async def test_unknown_and_delisted_symbols_have_their_own_errors_after_one_request() -> None:
    async with LocalExchange(clock=wall_time) as exchange, local_client(exchange) as client:
        exchange.set_status("XRPUSDT", "SETTLING")
        with pytest.raises(UnknownSymbolError):
            await client.get_open_interest("NOPEUSDT")
        with pytest.raises(SymbolNotTradingError):
            await client.get_open_interest("XRPUSDT")
        assert exchange.answers == {400: 2}


@pytest.mark.parametrize(
    "text, kind, requests",
    [
        (answer(200, "{}"), DecodeError, 1),
        (answer(200, "x" * 70_000), DecodeError, 1),
        (answer(202, "<html>"), DecodeError, 1),
        (answer(200, '{"code":-1121,"msg":"Invalid symbol."}'), UnknownSymbolError, 1),
        (open_interest("ETHUSDT"), WrongSymbolError, 1),
        (answer(302, ""), ResponseError, 1),
        (answer(400, '{"code":-1102,"msg":"Mandatory"}'), ResponseError, 1),
        (answer(403, "<html>"), ForbiddenError, 1),
        (answer(451, '{"code":0,"msg":"restricted"}'), ForbiddenError, 1),
        (answer(408, ""), ServerError, 3),
        (answer(500, "<html>"), ServerError, 3),
        (answer(503, '{"code":-1008,"msg":"throttled"}'), ServerError, 3),
        (CLOSE, TransportError, 3),
        (answer(418, '{"code":-1003,"msg":"banned"}'), BannedError, 1),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_each_answer_has_its_error_and_its_number_of_requests(
    text: bytes | None, kind: type[BinanceOIError], requests: int
) -> None:
    async with RawExchange(lambda n: text) as exchange, local_client(exchange) as client:
        with pytest.raises(BinanceOIError) as caught:
            await client.get_open_interest("BTCUSDT")
        assert type(caught.value) is kind
        assert len(exchange.requests) == client.usage.charged == requests
        assert client._governor.in_flight == 0


async def test_a_connection_that_delivers_another_answer_is_not_used_again() -> None:
    script = [open_interest("BTCUSDT"), open_interest("ETHUSDT"), open_interest("BTCUSDT")]
    async with RawExchange(lambda n: script[n - 1]) as exchange, local_client(exchange) as client:
        await client.get_open_interest("BTCUSDT")
        with pytest.raises(WrongSymbolError, match="asked for BTCUSDT, answered for ETHUSDT"):
            await client.get_open_interest("BTCUSDT")
        await client.get_open_interest("BTCUSDT")
    assert exchange.connections == 2


# -- retries -------------------------------------------------------------------------------------


async def test_a_temporary_failure_is_retried() -> None:
    script = [CLOSE, answer(502, "<html>"), open_interest()]
    async with RawExchange(lambda n: script[n - 1]) as exchange, local_client(exchange) as client:
        assert (await client.get_open_interest("BTCUSDT")).symbol == "BTCUSDT"
        assert client.usage.charged == 3


async def test_a_dropped_idle_connection_is_replaced_at_once_and_charged_twice() -> None:
    script = [open_interest(), CLOSE, open_interest()]
    slow = RetryPolicy(network_base=2.0)
    async with (
        RawExchange(lambda n: script[n - 1]) as exchange,
        local_client(exchange, retry=slow) as client,
    ):
        await client.get_open_interest("BTCUSDT")
        before = now()
        await client.get_open_interest("BTCUSDT")
        assert now() - before < 0.01
        assert (len(exchange.requests), exchange.connections) == (3, 2)
        assert client.usage.charged == 3


@pytest.mark.parametrize("injected", [False, True])
async def test_after_a_dropped_connection_no_suspect_connection_is_used(
    injected: bool,
) -> None:
    async with (
        RawExchange(lambda n: CLOSE if n == 6 else open_interest()) as exchange,
        aiohttp.ClientSession() as session,
        local_client(exchange, session=session if injected else None) as client,
    ):
        await client.get_open_interest("BTCUSDT")  # the first request is a probe
        await asyncio.gather(*(client.get_open_interest("BTCUSDT") for _ in range(4)))
        kept = exchange.connections
        assert kept > 1
        await client.get_open_interest("BTCUSDT")
        assert exchange.connections == kept + 1
        assert len(exchange.requests) == 7


async def test_an_injected_session_sends_one_request_for_each_charge() -> None:
    script = [open_interest(), CLOSE, open_interest(), open_interest()]
    async with RawExchange(lambda n: script[n - 1]) as exchange, aiohttp.ClientSession() as session:
        async with local_client(exchange, session=session, retry=ONCE) as client:
            await client.get_open_interest("BTCUSDT")
            with pytest.raises(TransportError):
                await client.get_open_interest("BTCUSDT")
            assert len(exchange.requests) == client.usage.charged == 2
            await client.get_open_interest("BTCUSDT")
        assert not session.closed
        async with session.get(exchange.url) as response:  # the session still works
            assert response.status == 200


async def test_once_the_retries_are_used_up_an_outage_costs_one_request_per_call() -> None:
    policy = RetryPolicy(budget=10.0)
    async with (
        RawExchange(lambda n: CLOSE) as exchange,
        local_client(exchange, retry=policy) as client,
    ):
        calls = (client.get_open_interest("BTCUSDT") for _ in range(50))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {TransportError}
        assert len(exchange.requests) == client.usage.charged == 60


async def test_a_timeout_uses_none_of_the_retries() -> None:
    script: list[bytes | None] = [*[b""] * 20, CLOSE, open_interest()]
    policy = RetryPolicy(budget=1.0, earned=0.0)
    async with (
        RawExchange(lambda n: script[n - 1]) as exchange,
        local_client(exchange, retry=policy, timeout=1.0) as client,
    ):
        for _ in range(20):
            with pytest.raises(TransportTimeoutError):
                await client.get_open_interest("BTCUSDT")
        await client.get_open_interest("BTCUSDT")  # no earlier call has used the one retry


async def test_a_pause_before_a_retry_ends_when_the_client_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    async with RawExchange(lambda n: answer(500, "")) as exchange:
        client = local_client(exchange, retry=RetryPolicy(server_base=2.0))
        call = asyncio.ensure_future(client.get_open_interest("BTCUSDT"))
        await exchange.received(1)
        await asyncio.sleep(0.1)
        before = now()
        await client.aclose()
        assert isinstance(await outcome(call), ClientClosedError)
        assert now() - before < 0.1


# -- time ----------------------------------------------------------------------------------------


async def test_the_timeout_is_for_all_attempts_together() -> None:
    async with (
        RawExchange(lambda n: b"" if n == 2 else CLOSE) as exchange,
        local_client(exchange, timeout=3.0) as client,
    ):
        with pytest.raises(TransportTimeoutError):
            await client.get_open_interest("BTCUSDT")
        assert now() == pytest.approx(3.0, abs=0.1)
        assert len(exchange.requests) == 2


@pytest.mark.usefixtures("known_address")
async def test_the_timeout_does_not_count_time_in_the_queue() -> None:
    async with LocalExchange(clock=wall_time, limit=100) as exchange:
        async with local_client(exchange, budget=_small_budget(100), timeout=1.0) as client:
            calls = (client.get_open_interest("BTCUSDT") for _ in range(150))
            values = await asyncio.gather(*calls)
            assert len(values) == 150
            assert 60.0 < now() < 66.0
        assert exchange.answers == {200: 150}


def _small_budget(limit: int) -> ProcessBudget:
    return ProcessBudget(limit=limit, clock=asyncio.get_running_loop().time, wall=wall_time)


@pytest.mark.usefixtures("known_address")
@pytest.mark.parametrize("of_the_client", [False, True])
async def test_a_call_that_cannot_wait_fails_as_soon_as_that_is_certain(
    of_the_client: bool,
) -> None:
    async with LocalExchange(clock=wall_time, limit=100) as exchange:
        options = {"max_wait": 20.0} if of_the_client else {}
        await asyncio.sleep(10.0)  # far from a rollover, so the exchange's minute is certain
        async with local_client(exchange, budget=_small_budget(100), **options) as client:
            wait = module.DEFAULT if of_the_client else 20.0
            calls = [client.get_open_interest("BTCUSDT", max_wait=wait) for _ in range(150)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert now() < 13.0
            assert exchange.answers == {200: 99}
            refused = [result for result in results if isinstance(result, BudgetExhaustedError)]
            assert len(refused) == 51
            assert client.usage.remaining == 0
            assert {error.reason for error in refused} == {Reason.MINUTE_FULL}
            assert "the minute is full until 12:" in str(refused[0])
            assert client.usage.waiting_for == {}
            call = asyncio.create_task(client.get_open_interest("BTCUSDT", max_wait=None))
            await asyncio.sleep(1.0)
            usage = client.usage
            assert usage.waiting_for == {Reason.MINUTE_FULL: 1}
            assert pickle.loads(pickle.dumps(usage)) == usage
            assert hash(usage) == hash(replace(usage, waiting_for={}))
            patient = await call
            assert client.usage.waiting_for == {}
            assert patient.symbol == "BTCUSDT"
            assert now() > 55.0  # then the exchange's minute may be over
    assert all(error.retry_at is not None for error in refused)


async def test_a_max_wait_of_0_suffices_when_there_is_room() -> None:
    async with LocalExchange(clock=wall_time) as exchange, local_client(exchange) as client:
        for _ in range(3):
            await client.get_open_interest("BTCUSDT", max_wait=0.0)
        assert exchange.answers == {200: 3}


# -- other limits of the exchange ----------------------------------------------------------------


class Announcing(RawExchange):
    """An exchange that announces limits, and notes the time of each request."""

    def __init__(self, *limits: tuple[str, str, object, object]) -> None:
        super().__init__(self.answer)
        names = "rateLimitType", "interval", "intervalNum", "limit"
        self.limits = [dict(zip(names, limit, strict=True)) for limit in limits]
        self.asked: list[float] = []

    def answer(self, n: int) -> bytes:
        self.asked.append(now())
        if b"exchangeInfo" in self.requests[n - 1]:
            symbols = [{"symbol": "BTCUSDT", "status": "TRADING"}]
            return answer(200, json.dumps({"symbols": symbols, "rateLimits": self.limits}))
        return open_interest()

    def most(self, seconds: float) -> int:
        """The most requests in any window of this many seconds."""
        return max(sum(at - seconds < t <= at for t in self.asked) for at in self.asked)


async def test_the_tightest_announced_limit_is_kept_whatever_its_interval() -> None:
    async with (
        Announcing(
            ("REQUEST_WEIGHT", "MINUTE", 1, 2400),
            ("REQUEST_WEIGHT", "SECOND", 10, 300),
            ("REQUEST_WEIGHT", "SECOND", 10, 100),
            ("RAW_REQUESTS", "MINUTE", 5, 500),
            ("ORDERS", "SECOND", 1, 5),
        ) as exchange,
        local_client(exchange) as client,
    ):
        await asyncio.sleep(10.0)
        await client.exchange_info()
        await asyncio.gather(*(client.get_open_interest("BTCUSDT") for _ in range(600)))
        assert (exchange.most(10.0), exchange.most(300.0)) == (99, 495)
        assert 310.0 < now() < 400.0
        assert client.usage.limit == 2400
        with pytest.raises(ValueError, match="and the budget is 99 "):  # 495 / 5 minutes = 99
            await anext(client.poll(every=0.5))


async def test_a_call_refused_by_another_limit_succeeds_at_its_retry_at() -> None:
    async with (
        Announcing(("REQUEST_WEIGHT", "DAY", 1, 50)) as exchange,
        local_client(exchange) as client,
    ):
        await asyncio.sleep(10.0)  # far from a rollover
        await client.exchange_info()
        calls = [client.get_open_interest("BTCUSDT", max_wait=5.0) for _ in range(60)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        refused = [result for result in results if isinstance(result, BudgetExhaustedError)]
        assert (len(exchange.asked), len(refused)) == (49, 12)
        assert all(error.retry_at is not None for error in refused)
        days = [(e.retry_at.timestamp() - wall_time()) / 86_400 for e in refused]  # type: ignore[union-attr]
        assert days == pytest.approx([1.0] * 12, abs=0.1)


async def test_impossible_limits_are_ignored_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    odd = ("REQUEST_WEIGHT", "FORTNIGHT", 1, 1), ("REQUEST_WEIGHT", "SECOND", 0, "x")
    async with (
        Announcing(("REQUEST_WEIGHT", "MINUTE", 1, 1200), *odd) as exchange,
        local_client(exchange) as client,
    ):
        for _ in range(3):
            await client.exchange_info()
        assert client.usage.limit == 1200
        (record,) = caplog.records
        assert "FORTNIGHT" in record.getMessage()
        exchange.limits.clear()  # a listing without limits, so the known limits remain
        await client.exchange_info()
        assert client.usage.limit == 1200


# -- the moment of sending -----------------------------------------------------------------------


@asynccontextmanager
async def sending_client(
    way: str, exchange: LocalExchange | RawExchange, **options: object
) -> AsyncIterator[OpenInterestClient]:
    """A client that sends in one of `WAYS`; see there."""
    if way.startswith("injected"):
        async with (
            aiohttp.ClientSession() as session,
            local_client(exchange, session=session, **options) as client,
        ):
            yield client
        return
    async with local_client(exchange, **options) as client:
        if way == "ours":  # our own writer sends from the second request on
            await client.get_open_interest("BTCUSDT")
            client._transport.distrust_connections()
        yield client


@pytest.fixture
def connecting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the next connections take to open; the last number is for all later ones."""
    seconds = [0.0]
    connect = aiohttp.TCPConnector._create_connection

    async def slowly(self: aiohttp.TCPConnector, *arguments: Any) -> ResponseHandler:
        await asyncio.sleep(seconds.pop(0) if len(seconds) > 1 else seconds[0])
        return await connect(self, *arguments)

    monkeypatch.setattr(aiohttp.TCPConnector, "_create_connection", slowly)
    return seconds


# How a request reaches the wire. "first": the first request of a client, through aiohttp's session.
# "ours": a later request, by our own writer. "injected": through a session of the caller.
# "injected, unknown": the same, with an unknown version of aiohttp.
WAYS = ("first", "ours", "injected", "injected, unknown")


@pytest.mark.parametrize("way", WAYS)
async def test_a_request_on_a_slow_connection_is_sent_in_a_minute_that_has_room(
    way: str, connecting: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("binance_oi.sending.connections.SENDS_DIRECTLY", "unknown" not in way)
    budget = _small_budget(60)
    await asyncio.sleep(30)
    async with LocalExchange(clock=wall_time, limit=60) as exchange:
        async with (
            sending_client(way, exchange, budget=budget, timeout=60.0) as slow,
            local_client(exchange, budget=budget) as quick,
        ):
            await quick.get_open_interest("BTCUSDT")
            await asyncio.sleep(44.0 - now())
            connecting[:] = [23.0]
            calls = [asyncio.ensure_future(slow.get_open_interest("BTCUSDT")) for _ in range(30)]
            await asyncio.sleep(63.0 - now())
            connecting[:] = [0.0]
            rest = [quick.get_open_interest("BTCUSDT") for _ in range(59)]
            await asyncio.gather(*rest, *calls)
        assert exchange.answers == {200: 91 if way == "ours" else 90}
        assert max(exchange.weights.values()) <= 60


@pytest.mark.parametrize("way", WAYS)
async def test_a_request_that_is_too_late_costs_no_weight_and_its_connection_is_kept(
    way: str, connecting: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("binance_oi.sending.connections.SENDS_DIRECTLY", "unknown" not in way)
    async with (
        RawExchange(lambda n: open_interest()) as exchange,
        sending_client(way, exchange, timeout=60.0, retry=ONCE) as client,
    ):
        requests, connections = len(exchange.requests), exchange.connections
        charged = client.usage.charged
        await asyncio.sleep(40.0 - now())
        connecting[:] = [40.0, 1e6]
        await client.get_open_interest("BTCUSDT")
        assert now() == pytest.approx(80.0, abs=0.1)
        assert len(exchange.requests) == requests + 1
        assert exchange.connections == connections + 1
        assert (client.usage.charged, client.usage.in_flight) == (1, 0)
        assert client._sender._retries.left == ONCE.budget
        await asyncio.sleep(60.0)
        assert client.usage.used == 0
        assert charged == requests


async def test_a_request_that_is_too_late_for_its_timeout_costs_no_weight(
    connecting: list[float],
) -> None:
    async with RawExchange(lambda n: open_interest()) as exchange:
        await asyncio.sleep(40.0)
        connecting[:] = [30.0]
        async with local_client(exchange, timeout=20.0) as client:
            with pytest.raises(TransportTimeoutError):
                await client.get_open_interest("BTCUSDT")
        assert (exchange.requests, client.usage.charged) == ([], 0)


@pytest.mark.parametrize("ending", ["timeout", "close"])
async def test_a_resumed_process_sends_nothing_that_was_booked_before_the_suspend(
    ending: str,
) -> None:
    """The machine's clock advances and the loop's does not, so the timeout is not over."""
    loop, slept = asyncio.get_running_loop(), 0.0
    budget = ProcessBudget(clock=lambda: loop.time() + slept, wall=lambda: wall_time() + slept)
    async with RawExchange(lambda n: open_interest()) as exchange, aiohttp.ClientSession() as ours:
        client = local_client(exchange, session=ours, budget=budget, timeout=60.0)
        async with client:
            call = asyncio.ensure_future(client.get_open_interest("BTCUSDT"))
            await asyncio.sleep(0)  # the request is charged, and opens its connection
            slept = 3600.0
            if ending == "timeout":
                assert (await call).symbol == "BTCUSDT"
                assert len(exchange.requests) == client.usage.charged == 1
        if ending == "close":
            assert isinstance(await outcome(call), ClientClosedError)
            assert exchange.requests == []


@pytest.mark.parametrize("many", [250, *thorough(1000)])
async def test_cold_connections_and_a_stalled_loop_cause_no_refusal(
    many: int,
) -> None:
    more = many * 11 // 10
    loop, stall = asyncio.get_running_loop(), 0.0
    budget = ProcessBudget(
        limit=many * 6 // 5, clock=lambda: loop.time() + stall, wall=lambda: wall_time() + stall
    )
    await asyncio.sleep(45)
    async with LocalExchange(clock=lambda: wall_time() + stall, limit=many * 6 // 5) as exchange:
        options = {"budget": budget, "timeout": 60.0, "pace": 1e6}
        async with (
            local_client(exchange, **options, max_connections=many) as client,
            local_client(exchange, **options) as other,
        ):
            await other.get_open_interest("BTCUSDT")
            calls = [
                asyncio.ensure_future(client.get_open_interest("BTCUSDT")) for _ in range(many - 1)
            ]
            while client._governor.in_flight < many // 2:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0)
            stall = 16.0
            others = [other.get_open_interest("BTCUSDT") for _ in range(more)]
            await asyncio.gather(*others, *calls)
        assert exchange.answers == {200: many + more}


async def test_time_spent_in_a_trace_before_the_write_counts_towards_patience() -> None:
    pauses = [0.0, 30.0, 0.0]

    async def pause(*_: object) -> None:
        await asyncio.sleep(pauses.pop(0))

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(pause)
    await asyncio.sleep(40.0)
    async with (
        RawExchange(lambda n: open_interest()) as exchange,
        aiohttp.ClientSession(trace_configs=[trace]) as session,
        local_client(exchange, session=session, timeout=60.0, retry=ONCE) as client,
    ):
        for _ in range(2):
            await client.get_open_interest("BTCUSDT")
        assert pauses == []
        assert (len(exchange.requests), exchange.connections) == (2, 1)
        pauses.append(0.0)
        async with session.get(exchange.url) as response:  # the connection is unchanged
            assert response.status == 200


async def test_a_connection_that_is_lost_before_the_write_costs_no_weight() -> None:
    exchange = RawExchange(lambda n: open_interest())

    async def drop(*_: object) -> None:
        for writer in list(exchange._serving.values()):
            writer.transport.abort()
        await asyncio.sleep(0.1)

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(drop)
    async with (
        exchange,
        aiohttp.ClientSession(trace_configs=[trace]) as session,
        local_client(exchange, session=session, retry=ONCE) as client,
    ):
        with pytest.raises(TransportError):
            await client.get_open_interest("BTCUSDT")
        assert (exchange.requests, client.usage.charged) == ([], 0)


@pytest.mark.parametrize("way", ["first", "injected"])
async def test_a_replacement_connection_that_opens_too_late_is_kept_for_the_next_call(
    way: str, connecting: list[float]
) -> None:
    script = [open_interest(), CLOSE, open_interest()]
    async with (
        RawExchange(lambda n: script[n - 1]) as exchange,
        sending_client(way, exchange, timeout=60.0) as client,
    ):
        await asyncio.sleep(40.0)
        await client.get_open_interest("BTCUSDT")
        connecting[:] = [30.0, 1e6]
        await client.get_open_interest("BTCUSDT")
        assert (len(exchange.requests), exchange.connections) == (3, 2)


async def test_nothing_is_sent_in_a_cooldown_that_began_while_the_connection_opened(
    connecting: list[float],
) -> None:
    async with (
        LocalExchange(clock=wall_time) as exchange,
        local_client(exchange, max_wait=300.0) as client,
    ):
        await asyncio.sleep(10.0)
        await client.get_open_interest("BTCUSDT")
        client._transport.distrust_connections()
        connecting[:] = [1.0]
        call = asyncio.ensure_future(client.get_open_interest("BTCUSDT"))
        await asyncio.sleep(0.5)
        client._governor.pool.hold(100.0)  # another call was refused meanwhile
        await call
        assert now() >= 110.0
        assert exchange.answers == {200: 2}


# -- thousands of calls --------------------------------------------------------------------------


async def test_3600_simultaneous_calls_are_answered_as_fast_as_the_minutes_allow() -> None:
    ends: list[float] = []

    async def call(client: OpenInterestClient) -> None:
        await client.get_open_interest("BTCUSDT")
        ends.append(now())

    async with LocalExchange(clock=wall_time, latency=0.05, jitter=0.02) as exchange:
        async with local_client(exchange) as client:
            await asyncio.gather(*(call(client) for _ in range(3600)))
        assert exchange.answers == {200: 3600}
        minutes = list(exchange.weights.values())
    assert sum(minutes) == 3600
    assert 2300 <= minutes[0] <= 2400  # near the rollover, a request needs room in both minutes
    ends.sort()
    assert ends[1190] < 3.0  # half of the limit at once
    rest = [sum(second <= end < second + 10.0 for end in ends) for second in range(10, 50, 10)]
    grows = [later - earlier for earlier, later in pairwise(rest)]
    assert max(grows) - min(grows) <= 20  # what is sent of the rest grows with the square of time
    assert sum(rest) == pytest.approx(1176 * (25 - 1) / 36, rel=0.1)  # 2376 - 1200 = 1176
    assert ends[2376 + 1190] < 63.0  # the second minute begins with a half, too
    assert max(ends) < 70.0  # 24 of the rest, after a seventh of the minute


async def test_a_cold_start_gets_no_429_after_others_used_2300() -> None:
    async with LocalExchange(clock=wall_time, latency=0.05, used=2300) as exchange:
        async with local_client(exchange) as client:
            await asyncio.gather(*(client.get_open_interest("BTCUSDT") for _ in range(500)))
            assert client.usage.limit == 2400
        assert exchange.answers == {200: 500}
        assert 2301 <= next(iter(exchange.weights.values())) <= 2376


# -- refusals ------------------------------------------------------------------------------------


async def test_a_call_refused_with_429_returns_to_the_queue() -> None:
    text = "Too many requests; current limit of IP(1.2.3.4) is 1200 requests per minute."
    script = [answer(429, f'{{"code":-1003,"msg":"{text}"}}'), open_interest()]
    async with RawExchange(lambda n: script[n - 1]) as exchange, local_client(exchange) as client:
        assert (await client.get_open_interest("BTCUSDT")).symbol == "BTCUSDT"
        assert 57.0 < now() < 66.0
        assert client.usage.limit == 1200
    assert len(exchange.requests) == 2


async def test_a_limit_above_ours_in_a_refusal_is_ignored() -> None:
    text = '{"code":-1003,"msg":"Too many requests; current limit is 6000 requests per minute."}'
    async with (
        RawExchange(lambda n: answer(429, text)) as exchange,
        local_client(exchange, retry=ONCE) as client,
    ):
        with pytest.raises(RateLimitedError) as caught:
            await client.get_open_interest("BTCUSDT")
        assert client.usage.limit == 2400
        assert_is_end_of_hold(caught.value, client.usage.held_until)


async def test_a_429_that_cannot_wait_is_raised_as_rate_limited() -> None:
    async with (
        RawExchange(lambda n: answer(429, "{}")) as exchange,
        local_client(exchange, max_wait=5.0) as client,
    ):
        with pytest.raises(RateLimitedError) as caught:
            await client.get_open_interest("BTCUSDT")
        assert now() < 1.0
        with pytest.raises(BudgetExhaustedError):  # this call was never sent
            await client.get_open_interest("BTCUSDT")
    assert NOON + timedelta(seconds=57) < caught.value.retry_at < NOON + timedelta(seconds=66)
    assert len(exchange.requests) == 1


async def test_a_call_refused_at_every_attempt_is_rate_limited() -> None:
    async with (
        RawExchange(lambda n: answer(429, "{}")) as exchange,
        local_client(exchange) as client,
    ):
        with pytest.raises(RateLimitedError):
            await client.get_open_interest("BTCUSDT")
        assert now() > 115.0
    assert len(exchange.requests) == 3


async def test_a_rate_limit_is_recognised_under_another_status() -> None:
    text = '{"code":-1003,"msg":"Too many requests."}'
    async with (
        RawExchange(lambda n: answer(400, text)) as exchange,
        local_client(exchange, retry=ONCE) as client,
    ):
        with pytest.raises(RateLimitedError) as caught:
            await client.get_open_interest("BTCUSDT")
        assert_is_end_of_hold(caught.value, client.usage.held_until)


@pytest.mark.parametrize("status", [418, 403, 400])
async def test_a_ban_is_raised_at_once_to_every_caller_until_it_ends(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    end = NOON + timedelta(minutes=5)
    text = f"Way too many requests; IP(1.2.3.4) banned until {int(end.timestamp() * 1000)}. Please"
    body = f'{{"code":-1003,"msg":"{text}"}}'
    banned = [True]

    def script(_: int) -> bytes:
        return answer(status, body) if banned[0] else open_interest()

    async with RawExchange(script) as exchange, local_client(exchange) as client:
        calls = [client.get_open_interest("BTCUSDT") for _ in range(500)]
        with caplog.at_level(logging.WARNING, "binance_oi"):
            results = await asyncio.gather(*calls, return_exceptions=True)
        assert now() < 1.0
        assert {type(result) for result in results} == {BannedError}
        ends = {result.retry_at for result in results if isinstance(result, BannedError)}
        assert any(end <= each < end + DOUBT for each in ends)
        assert min(ends) >= NOON + timedelta(
            minutes=2
        )  # some calls failed before the text was read
        assert len(exchange.requests) == 1  # a probe; the ban ended the other calls
        assert str(end) in caplog.text
        for wait in (None, 1.0, 600.0):
            with pytest.raises(BannedError) as caught:
                await client.get_open_interest("BTCUSDT", max_wait=wait)
            assert_is_end_of_hold(caught.value, end)
        with pytest.raises(BannedError):
            await client.symbols()
        await asyncio.sleep(296.0 - now())
        with pytest.raises(BannedError):
            await client.get_open_interest("BTCUSDT")
        assert len(exchange.requests) == 1
        banned[0] = False
        await asyncio.sleep(310.0 - now())
        assert (await client.get_open_interest("BTCUSDT")).symbol == "BTCUSDT"


@pytest.mark.parametrize("offset", [-300.0, 300.0, *thorough(-3600.0, 3600.0)])
async def test_a_caller_that_waits_until_retry_at_meets_no_second_ban(
    offset: float,
) -> None:
    bans = Bans(after=0, first_s=120.0)
    async with (
        LocalExchange(limit=100, clock=wall_time, clock_offset=offset, bans=bans) as exchange,
        local_client(exchange) as client,
    ):
        for _ in range(5):  # the `Date` headers of the answers show the exchange's clock
            await client.get_open_interest("BTCUSDT")
            await asyncio.sleep(1.3)
        exchange.counter.ban(exchange.now())
        began, answers = now(), dict(exchange.answers)
        for _ in range(3):
            with pytest.raises(BannedError) as caught:
                await client.get_open_interest("BTCUSDT")
            await asyncio.sleep(caught.value.retry_at.timestamp() - wall_time())
            if now() - began > 120.0:
                break
        assert (await client.get_open_interest("BTCUSDT")).symbol == "BTCUSDT"
        assert 120.0 < now() - began < 130.0
        assert exchange.answers == answers | {200: 6, 418: 1}


async def test_a_418_whose_body_stalls_is_a_ban_within_a_second() -> None:
    text = answer(418, '{"code":-1003,', length=100)
    for timeout in (10.0, 0.3):
        async with (
            RawExchange(lambda n: text) as exchange,
            local_client(exchange, timeout=timeout) as client,
        ):
            began = now()
            with pytest.raises(BannedError) as caught:
                await client.get_open_interest("BTCUSDT")
            assert now() - began < 1.0
            assert_is_end_of_hold(caught.value, client.usage.banned_until)
            ends = NOON + timedelta(seconds=began + 120)
            assert ends <= caught.value.retry_at < ends + timedelta(seconds=10)


async def test_a_403_of_the_firewall_is_a_cooldown_of_a_minute() -> None:
    script = [answer(403, "<html>"), open_interest()]
    async with RawExchange(lambda n: script[n - 1]) as exchange, local_client(exchange) as client:
        with pytest.raises(ForbiddenError):
            await client.get_open_interest("BTCUSDT")
        await client.get_open_interest("BTCUSDT")
        assert 60.0 < now() < 70.0


# -- known values --------------------------------------------------------------------------------


async def test_callers_of_one_symbol_share_one_request() -> None:
    async with (
        LocalExchange(clock=wall_time, latency=0.1) as exchange,
        local_client(exchange) as client,
    ):
        calls = (client.get_open_interest("BTCUSDT", max_age=5.0) for _ in range(1000))
        values = await asyncio.gather(*calls)
        assert len({id(value) for value in values}) == 1
        assert exchange.used == 1
        await asyncio.sleep(4.8)
        assert await client.get_open_interest("btcusdt", max_age=5.0) is values[0]
        assert exchange.used == 1
        await client.get_open_interest("BTCUSDT", max_age=0.0)
        assert exchange.used == 2
        await asyncio.sleep(4.8)
        await client.get_open_interest("BTCUSDT", max_age=5.0)  # the latest value is known too
        assert exchange.used == 2
        await asyncio.sleep(0.5)
        await client.get_open_interest("BTCUSDT", max_age=5.0)
        await client.get_open_interest("ETHUSDT", max_age=5.0)
        assert exchange.used == 4


async def test_a_later_call_reuses_the_values_of_a_snapshot() -> None:
    async with LocalExchange(clock=wall_time) as exchange, local_client(exchange) as client:
        market = await client.snapshot(["BTCUSDT"])
        assert await client.get_open_interest("BTCUSDT", max_age=1.0) is market["BTCUSDT"]
        assert exchange.used == 1


async def test_every_sharing_caller_gets_the_failure_and_the_next_call_asks_again() -> None:
    script = [answer(400, "{}"), open_interest()]
    async with RawExchange(lambda n: script[n - 1]) as exchange, local_client(exchange) as client:
        calls = (client.get_open_interest("BTCUSDT", max_age=5.0) for _ in range(10))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {ResponseError}
        assert (await client.get_open_interest("BTCUSDT", max_age=5.0)).symbol == "BTCUSDT"
    assert len(exchange.requests) == 2


async def test_calls_with_different_max_wait_do_not_share_a_request() -> None:
    async with (
        LocalExchange(clock=wall_time, latency=0.1) as exchange,
        local_client(exchange) as client,
    ):
        await asyncio.gather(
            client.get_open_interest("BTCUSDT", max_age=5.0, max_wait=1.0),
            client.get_open_interest("BTCUSDT", max_age=5.0, max_wait=None),
        )
        assert exchange.used == 2


# -- the listing ---------------------------------------------------------------------------------


async def test_the_listing_has_the_trading_symbols_and_the_limits() -> None:
    async with (
        LocalExchange(clock=wall_time, limit=6000) as exchange,
        local_client(exchange) as client,
    ):
        assert client.usage.limit == 2400
        info = await client.exchange_info()
        assert len(info.trading) == 789
        assert client.usage.limit == 6000
        assert await client.symbols(max_age=60.0) == info.trading
        assert exchange.used == 1
        await client.symbols()
        assert exchange.used == 2


async def test_a_listing_without_limits_changes_none() -> None:
    async with (
        RawExchange(lambda n: answer(200, '{"symbols":[]}')) as exchange,
        local_client(exchange) as client,
    ):
        assert await client.symbols() == ()
        assert client.usage.limit == 2400


# -- closing and misuse --------------------------------------------------------------------------


async def test_closing_ends_every_pending_call() -> None:
    async with RawExchange(lambda n: b"") as exchange, aiohttp.ClientSession() as session:
        for theirs in (None, session):
            client = local_client(exchange, session=theirs, max_connections=3)
            names = [f"S{n}USDT" for n in range(10)]
            calls = [asyncio.ensure_future(client.get_open_interest(name)) for name in names]
            calls += [
                asyncio.ensure_future(client.get_open_interest(name, max_age=1.0)) for name in names
            ]
            await asyncio.sleep(1.5)  # a probe first, then two more requests
            before = now()
            await client.aclose()
            assert {type(await outcome(call)) for call in calls} == {ClientClosedError}
            assert now() - before < 1.0
            await client.aclose()
            assert repr(client) == f"<OpenInterestClient {exchange.url} closed>"
        assert not session.closed


async def test_closing_ends_a_call_admitted_at_the_same_moment() -> None:
    admitted: set[int] = set()
    async with LocalExchange(clock=wall_time) as exchange:
        for delay in range(12):
            client = local_client(exchange)
            calls = [asyncio.ensure_future(client.get_open_interest("BTCUSDT")) for _ in range(3)]
            for _ in range(delay):
                await asyncio.sleep(0)
            pending = [call for call in calls if not call.done()]
            admitted.add(client._governor.in_flight)
            await client.aclose()
            assert {type(await outcome(call)) for call in pending} == {ClientClosedError}
            assert client._governor.in_flight == 0
    assert admitted == {0, 1}  # some clients close before the admission, some after it


async def test_a_closed_client_refuses_every_call() -> None:
    async with LocalExchange(clock=wall_time) as exchange:
        async with local_client(exchange) as client:
            await client.get_open_interest("BTCUSDT")
        calls = [
            client.get_open_interest("BTCUSDT"),
            client.get_open_interest("BTCUSDT", max_age=60.0),
            client.exchange_info(),
            client.exchange_info(max_age=60.0),
            client.symbols(),
            client.snapshot(),
            client.snapshot(["BTCUSDT"]),
            client.__aenter__(),
        ]
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, ClientClosedError)
        assert exchange.used == 1
        assert client.usage.used == 1  # the usage stays readable


async def test_a_client_of_another_loop_is_refused_before_any_io() -> None:
    async with LocalExchange(clock=wall_time) as exchange, local_client(exchange) as client:
        await client.get_open_interest("BTCUSDT")
        caught: list[BaseException] = []

        def elsewhere() -> None:
            for max_age in (0.0, 60.0):
                try:
                    asyncio.run(client.get_open_interest("BTCUSDT", max_age=max_age))
                except ClientClosedError as error:
                    caught.append(error)
            try:
                asyncio.run(client.aclose())
            except ClientClosedError as error:
                caught.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert [str(error) for error in caught] == ["the client belongs to another event loop"] * 3
        await client.get_open_interest("BTCUSDT")
        assert exchange.used == 2


def exit_code_of_a_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked child; 0 if it ended without an exception."""
    child = os.fork()
    if child == 0:
        code = 1
        with suppress(BaseException):
            work()
            code = 0
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_client_from_before_a_fork_is_refused_before_any_io() -> None:
    client = OpenInterestClient(base_url="http://127.0.0.1:9", budget=ProcessBudget())

    def use() -> None:
        with pytest.raises(ClientClosedError, match="after the fork"):
            asyncio.run(client.get_open_interest("BTCUSDT"))

    assert exit_code_of_a_child(use) == 0
    assert client.usage.charged == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("end", ["forgotten", "closed"])
def test_a_forked_child_leaves_the_connections_of_its_parent_open(end: str) -> None:
    async def main() -> None:
        async with RawExchange(lambda n: open_interest()) as exchange:
            budget = ProcessBudget()
            clients = [OpenInterestClient(base_url=exchange.url, budget=budget, timeout=600.0)]
            await clients[0].get_open_interest("BTCUSDT")

            def in_the_child() -> None:
                if end == "closed":
                    with pytest.raises(StopIteration):
                        clients[0].aclose().send(None)
                clients.clear()
                gc.collect()

            assert exit_code_of_a_child(in_the_child) == 0
            await clients[0].get_open_interest("BTCUSDT")
            await clients[0].aclose()
            assert exchange.connections == 1

    asyncio.run(main())


async def test_a_client_of_another_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with LocalExchange(clock=wall_time) as exchange, local_client(exchange) as client:
        monkeypatch.setattr(fork, "current", object())
        with pytest.raises(ClientClosedError, match="another process"):
            await client.get_open_interest("BTCUSDT")
        async with local_client(exchange) as new:
            await new.get_open_interest("BTCUSDT")
        assert exchange.used == 1


async def test_closing_in_a_forked_child_leaves_the_parent_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with LocalExchange(clock=wall_time) as exchange:
        client = local_client(exchange)
        await client.get_open_interest("BTCUSDT")
        with monkeypatch.context() as child:
            child.setattr(fork, "current", object())
            await client.aclose()
        session = transport._sessions_of_parent.pop()
        assert not session.closed
        await session.close()
        with monkeypatch.context() as child:
            child.setattr(fork, "current", object())
            await local_client(exchange).aclose()  # a client without an open connection
        assert transport._sessions_of_parent == []


@pytest.mark.parametrize(
    "name, value",
    [("retry", None), ("retry", 3), ("proxy", 5), ("budget", 5), ("session", 5), ("ssl", "x")],
)
def test_the_error_for_an_argument_of_another_type_has_its_name(name: str, value: object) -> None:
    before = files_of_budgets()
    with pytest.raises(TypeError, match=f"^{name} must be "):
        OpenInterestClient(**{name: value})  # type: ignore[arg-type]
    assert files_of_budgets() == before


async def test_a_cancelled_close_still_releases_the_shared_budget() -> None:
    async with RawExchange(lambda n: open_interest()) as exchange:
        before = files_of_budgets()
        client = OpenInterestClient(base_url=exchange.url)
        await client.get_open_interest("BTCUSDT")
        assert files_of_budgets() > before
        closing = asyncio.create_task(client.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        assert closing.cancelled()
        assert files_of_budgets() == before
        await client.aclose()


def files_of_budgets() -> int:
    """How many open descriptors of this process are files of shared budgets."""
    names = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return sum("budget" in os.readlink(name) for name in names if os.path.lexists(name))


def test_a_client_whose_loop_was_closed_while_calls_waited_can_be_closed_from_another() -> None:
    loop, calls = asyncio.new_event_loop(), list[asyncio.Task[object]]()
    client = OpenInterestClient(base_url="http://127.0.0.1:9", budget=ProcessBudget())
    client._governor.pool.hold(1000.0)

    async def start() -> None:
        for _ in range(10):
            calls.append(asyncio.create_task(client.get_open_interest("BTCUSDT")))
        for _ in range(10):  # steps of the loop, so that each call waits
            await asyncio.sleep(0)
        assert client._governor.waiting == 10

    loop.run_until_complete(start())
    loop.close()
    asyncio.run(client.aclose())
    assert client._governor.waiting == 0
    for call in calls:
        setattr(call, "_log_destroy_pending", False)  # noqa: B010 - or asyncio complains


def test_a_client_whose_loop_has_ended_can_still_be_closed() -> None:
    client = OpenInterestClient(base_url="http://127.0.0.1:9", budget=ProcessBudget())
    with pytest.raises(TransportError):
        asyncio.run(client.get_open_interest("BTCUSDT"))
    asyncio.run(client.aclose())
    with pytest.raises(ClientClosedError, match="is closed"):
        asyncio.run(client.get_open_interest("BTCUSDT"))


@pytest.mark.parametrize("used", [False, True])
async def test_an_unclosed_client_warns_once_and_leaves_no_task_or_connection(used: bool) -> None:
    noise: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with RawExchange(lambda n: open_interest()) as exchange:
            client = local_client(exchange)
            if used:
                await asyncio.gather(*(client.get_open_interest("BTCUSDT") for _ in range(5)))
                assert exchange._serving
            del client
            gc.collect()
            await asyncio.sleep(0.01)
            assert not exchange._serving
            gc.collect()
    assert [warning.category for warning in caught] == [ResourceWarning] * used
    said = f"unclosed <OpenInterestClient {exchange.url} <Governor 0 in flight, 0 waiting, "
    assert all(f"{said}<ProcessPool used=5 of 2400, " in str(warning.message) for warning in caught)
    assert noise == []


async def test_an_unclosed_client_with_a_given_session_does_not_warn() -> None:
    async with (
        RawExchange(lambda n: open_interest()) as exchange,
        aiohttp.ClientSession() as session,
    ):
        client = local_client(exchange, session=session)
        await client.get_open_interest("BTCUSDT")
        del client
        gc.collect()
        assert not session.closed


async def test_a_client_closes_its_own_budget_and_no_given_one() -> None:
    closed: list[object] = []

    class Watched(ProcessBudget):
        def close(self) -> None:
            closed.append(self)

    budget = Watched()
    async with RawExchange(lambda n: open_interest()) as exchange:
        async with OpenInterestClient(base_url=exchange.url, budget=budget) as client:
            await client.get_open_interest("BTCUSDT")
        assert closed == []
        async with OpenInterestClient(base_url=exchange.url) as client:
            assert (await client.get_open_interest("BTCUSDT")).symbol == "BTCUSDT"
            assert repr(client._governor.pool).startswith("<SharedPool used=1 of 2400, ")
        assert not client._budget._pools  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"timeout": 0}, r"^timeout must be finite and above 0: 0"),
        ({"timeout": -1.0}, r"^timeout must be finite and above 0: -1"),
        ({"timeout": NAN}, r"^timeout must be finite and above 0: nan"),
        ({"max_wait": -1.0}, r"^max_wait must be finite and at least 0: -1"),
        ({"max_wait": NAN}, r"^max_wait must be finite and at least 0: nan"),
        ({"pace": 0}, r"^pace must be finite and above 0: 0"),
        ({"pace": NAN}, r"^pace must be finite and above 0: nan"),
        ({"max_connections": 0}, r"^max_connections must be finite and above 0: 0$"),
        ({"base_url": "http://fapi.binance.com"}, r"^base_url must be https:// for any host but "),
        ({"base_url": "https://user:secret@fapi.binance.com"}, r"^base_url must be .* without cre"),
        ({"base_url": ""}, r"^base_url must be https://host"),
        ({"proxy": "not a url"}, r"^a proxy must be http://"),
        (
            {"proxy": "socks5://user:secret@proxy.example"},
            r"^a proxy must be .* such as SOCKS, hand ",
        ),
    ],
    ids=repr,
)
def test_an_argument_out_of_range_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        OpenInterestClient(budget=ProcessBudget(), **options)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)
    gc.collect(0)  # a client whose constructor failed causes no warning


NO_NUMBERS = (Decimal(1), "1", timedelta(seconds=1), True, [1])
NO_SECONDS = (*NO_NUMBERS, NAN, math.inf, -math.inf)


@pytest.mark.parametrize("value", NO_SECONDS, ids=repr)
@pytest.mark.parametrize("name", ["timeout", "max_wait", "pace", "max_connections"])
def test_the_error_for_an_argument_that_is_not_a_number_has_its_name(
    name: str, value: object
) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{name} must be "):
        OpenInterestClient(budget=ProcessBudget(), **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [*NO_SECONDS, -1.0, -1], ids=repr)
async def test_a_call_refuses_an_invalid_number_before_it_starts_a_task(value: object) -> None:
    async with LocalExchange(clock=wall_time) as exchange, local_client(exchange) as client:
        tasks = asyncio.all_tasks()
        bad: dict[str, Callable[[], object]] = {
            "max_wait": lambda: client.get_open_interest("BTCUSDT", max_wait=value),  # type: ignore[arg-type]
            "max_age": lambda: client.get_open_interest("BTCUSDT", max_age=value),  # type: ignore[arg-type]
            "max_age ": lambda: client.exchange_info(max_age=value),  # type: ignore[arg-type]
            "max_age  ": lambda: client.symbols(max_age=value),  # type: ignore[arg-type]
            "every": lambda: client.poll(every=value),  # type: ignore[arg-type]
        }
        if value not in (-1.0, -1):  # a deadline may be in the past
            bad["deadline"] = lambda: client.snapshot(deadline=value)  # type: ignore[arg-type]
        for name, call in bad.items():
            with pytest.raises((TypeError, ValueError), match=rf"^{name.strip()} must be "):
                await call()  # type: ignore[misc]
        assert asyncio.all_tasks() == tasks
        assert (client._governor.waiting, client._governor.in_flight) == (0, 0)
        assert (exchange.used, client.usage.used) == (0, 0)


async def test_every_real_number_is_accepted() -> None:
    numbers = {"timeout": Fraction(5), "max_wait": 5, "pace": Fraction(500)}
    async with (
        LocalExchange(clock=wall_time) as exchange,
        local_client(exchange, **numbers) as client,
    ):
        for number in (1, 1.0, Fraction(1)):
            await client.get_open_interest("BTCUSDT", max_age=number, max_wait=number)  # type: ignore[arg-type]
        assert len(await client.snapshot(["BTCUSDT"], deadline=Fraction(5))) == 1  # type: ignore[arg-type]


def test_arguments_are_keyword_only() -> None:
    with pytest.raises(TypeError, match="positional argument"):
        OpenInterestClient("https://fapi.binance.com")  # type: ignore[call-arg]


def test_a_client_can_be_made_without_a_loop_and_its_repr_shows_its_state() -> None:
    context = ssl.create_default_context()
    client = OpenInterestClient(budget=ProcessBudget(), ssl=context, proxy="http://127.0.0.1:3128")
    assert repr(client) == (
        "<OpenInterestClient https://fapi.binance.com "
        "<Governor 0 in flight, 0 waiting, <ProcessPool used=0 of 2400, 0 in flight>>>"
    )
    assert client.usage.used == 0


async def test_a_schedule_that_does_not_fit_is_refused_with_the_first_snapshot() -> None:
    async with LocalExchange(clock=wall_time) as exchange, local_client(exchange) as client:
        polled = client.poll(every=1.0)
        with pytest.raises(ValueError, match=r"^789 symbols every 1 s take 47340 weight a minute"):
            await anext(polled)
        assert exchange.used <= 1


# -- cancelling ----------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.08, 0.4])
async def test_cancelling_refunds_all_weight_that_was_certainly_not_counted(delay: float) -> None:
    async with (
        LocalExchange(clock=wall_time, latency=0.05) as exchange,
        local_client(exchange, max_connections=5) as client,
    ):
        calls = [asyncio.ensure_future(client.get_open_interest("BTCUSDT")) for _ in range(200)]
        await asyncio.sleep(delay)
        for call in calls:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        kinds = {type(result) for result in results}
        assert {asyncio.CancelledError} <= kinds <= {asyncio.CancelledError, OpenInterest}
        await client.get_open_interest("ETHUSDT")
        await asyncio.sleep(1.0)
        assert client._governor.in_flight == client._governor.waiting == 0
        good = sum(not isinstance(result, BaseException) for result in results)
        assert good <= exchange.used <= client.usage.used <= good + 5 + 1 + 5


@pytest.mark.parametrize(
    "status, kind",
    [(101, ResponseError), (204, DecodeError), (299, DecodeError), (302, ResponseError)],
)
async def test_a_status_that_is_neither_200_nor_an_error_is_an_undocumented_answer(
    status: int, kind: type[BinanceOIError]
) -> None:
    async with (
        RawExchange(lambda n: answer(status, "" if status == 204 else "{}")) as exchange,
        local_client(exchange) as client,
    ):
        with pytest.raises(BinanceOIError) as caught:
            await client.get_open_interest("BTCUSDT")
    assert type(caught.value) is kind
