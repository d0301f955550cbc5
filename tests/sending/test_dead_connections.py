"""If a kept (pooled) connection died while idle, a call sends a second request on a new one.

Rule of this file: both ends run in one virtual loop, so seconds of silence pass at once. The
exchange counts requests and connections.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal

import aiohttp
import pytest

from binance_oi import (
    BannedError,
    BudgetExhaustedError,
    OpenInterestClient,
    ProcessBudget,
    RateLimitedError,
    RetryPolicy,
    ServerError,
    TransportError,
    TransportTimeoutError,
)
from faults.doors import Tls
from support.balancer import Balancer, Forgets
from support.certificates import good
from support.lanes import some, thorough
from support.raw_exchange import RawExchange, answer, open_interest
from support.sender import Sender
from support.virtual_clock import START_S, wall_time

pytestmark = pytest.mark.virtual_time

PATIENCE = 2.0  # s of silence after which the client abandons a kept connection
OURS, THEIRS = "our session", "the caller's session"
sessions = pytest.mark.parametrize("session", [OURS, THEIRS])
ours_first = pytest.mark.parametrize("session", [OURS, *thorough(THEIRS)])
# The client notices these ends only after it has sent a request.
UNSEEN = (Forgets.FIN, Forgets.RESET, Forgets.SILENTLY, Forgets.PART, Forgets.RESET_PART)
WHOLE = answer(200, '{"symbol":"BTCUSDT","openInterest":"1.5","time":1795435200000}')
PARTS = {
    "one byte": WHOLE[:1],
    "a status line": WHOLE[:17],
    "a part of the headers": WHOLE[:40],
    "all but the body": WHOLE[: WHOLE.index(b"{")],
    "a part of the body": WHOLE[:-5],
    "a part of a chunked body": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{",
    "an interim answer": b"HTTP/1.1 103 Early Hints\r\n\r\n",
    "a 408": answer(408, "", "Connection: close"),
    "a 408 that does not announce the end": answer(408, ""),
    "a part of a 408": answer(408, "<html>", length=100),
}


def now() -> float:
    """Seconds since the test began."""
    return asyncio.get_running_loop().time() - START_S


def names(count: int) -> list[str]:
    return [f"S{number}USDT" for number in range(count)]


@asynccontextmanager
async def client_of(
    exchange: Balancer,
    session: str | aiohttp.ClientSession = OURS,
    *,
    limit: int = 24_000,
    **options: object,
) -> AsyncGenerator[OpenInterestClient]:
    """A client in virtual time, with an ample budget."""
    clock = asyncio.get_running_loop().time
    budget = ProcessBudget(limit=limit, reserve=0, clock=clock, wall=wall_time)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as theirs:
        options = {"base_url": exchange.url, "budget": budget} | options
        if session != OURS:
            options["session"] = theirs if session == THEIRS else session
        async with OpenInterestClient(**options) as client:  # type: ignore[arg-type]
            yield client


async def keep(client: OpenInterestClient, exchange: Balancer, count: int) -> None:
    """Open `count` kept connections."""
    latency, exchange.latency = exchange.latency, 0.1
    await client.get_open_interest("WARMUSDT")  # the first request is a probe
    await asyncio.gather(*(client.get_open_interest("WARMUSDT") for _ in range(count)))
    exchange.latency = latency
    assert exchange.connections == count


async def sweep(client: OpenInterestClient, exchange: Balancer, count: int) -> int:
    """Read `count` symbols without an error, check the charges, and count the sent requests."""
    sent, charged = len(exchange.requests), client.usage.charged
    market = await client.snapshot(names(count))
    assert (len(market), market.errors) == (count, {})
    sent = len(exchange.requests) - sent
    assert market.weight == client.usage.charged - charged == sent
    assert client.usage.used >= exchange.this_minute
    assert client._governor.in_flight == client._governor.waiting == 0
    return sent


# -- all connections die at once -----------------------------------------------------------------


@ours_first
@pytest.mark.parametrize(
    "how", [Forgets.SILENTLY, *thorough(*(how for how in Forgets if how is not Forgets.SILENTLY))]
)
@pytest.mark.parametrize("connections", [100, *thorough(300)])
async def test_no_symbol_fails_after_all_kept_connections_died(
    session: str, how: Forgets, connections: int
) -> None:
    async with (
        Balancer(latency=0.02) as exchange,
        client_of(exchange, session, max_connections=connections) as client,
    ):
        await sweep(client, exchange, 600)
        for _ in range(2):  # UNSEEN ends repeat 200 requests or more; the retry budget is 60
            kept = exchange.forget(how)
            assert kept == connections
            await asyncio.sleep(1.5)  # by then the pacer has room for a whole second of requests
            began = now()
            sent = await sweep(client, exchange, 600)
            assert sent == 600 + (kept if how in UNSEEN else 0)
            assert now() - began < (4.0 if how is Forgets.SILENTLY else 2.0)
        assert client._sender._retries.left == client._sender._policy.budget


@sessions
async def test_a_silently_dead_connection_costs_a_call_one_wait_and_one_more_request(
    session: str,
) -> None:
    async with Balancer() as exchange, client_of(exchange, session) as client:
        await keep(client, exchange, 5)
        exchange.forget(Forgets.SILENTLY)
        before, began = len(exchange.requests), now()
        value = await client.get_open_interest("BTCUSDT")
        assert value.open_interest == Decimal("1.5")
        assert now() - began == pytest.approx(PATIENCE, abs=0.05)
        assert exchange.requests[before:] == [(1, "BTCUSDT"), (6, "BTCUSDT")]
        assert client.usage.charged == len(exchange.requests)
        assert client.usage.used == len(exchange.requests)  # all of them may have been counted


@sessions
async def test_connections_that_were_idle_as_long_as_a_dead_one_become_suspect(
    session: str,
) -> None:
    async with Balancer() as exchange, client_of(exchange, session) as client:
        await keep(client, exchange, 100)
        exchange.forget(Forgets.SILENTLY)
        await client.get_open_interest("BTCUSDT")
        began, before = now(), len(exchange.requests)
        for name in names(100):
            await client.get_open_interest(name)
        assert now() - began < 0.5
        assert len(exchange.requests) - before == 100
        assert sum(exchange.asked(number) for number in range(1, 101)) == 101 + 1


@sessions
async def test_a_connection_that_answers_during_the_silence_of_a_dead_one_is_not_suspect(
    session: str,
) -> None:
    async with Balancer() as exchange, client_of(exchange, session) as client:
        await keep(client, exchange, 2)
        exchange.dead[1] = Forgets.SILENTLY
        call = asyncio.create_task(client.get_open_interest("BTCUSDT"))
        await exchange.received(4)
        for _ in range(3):
            await client.get_open_interest("ETHUSDT")  # on the other connection
        assert exchange.asked(2) == 4
        await call
        assert exchange.connections == 3
        await asyncio.gather(*(client.get_open_interest("ETHUSDT") for _ in range(2)))
        assert exchange.connections == 4 if session == OURS else 3


@sessions
@pytest.mark.parametrize("how", [Forgets.PART, *thorough(Forgets.RESET_PART)])
@pytest.mark.parametrize("part", some(list(PARTS), always=1))
async def test_a_kept_connection_that_ends_within_its_answer_costs_one_request_and_no_retry(
    session: str, how: Forgets, part: str
) -> None:
    async with Balancer(latency=0.02) as exchange, client_of(exchange, session) as client:
        await sweep(client, exchange, 200)
        for _ in range(2):  # 200 repeated requests, more than the retry budget of 60
            exchange.part, kept = PARTS[part], exchange.forget(how)
            assert kept == 100
            await asyncio.sleep(1.5)  # by then the pacer has room for a whole second of requests
            assert await sweep(client, exchange, 200) == 200 + kept
        assert client._sender._retries.left == client._sender._policy.budget


@ours_first
@pytest.mark.parametrize("part", PARTS)
async def test_an_exchange_that_cuts_every_answer_uses_up_the_retries(
    session: str, part: str
) -> None:
    no_waits = RetryPolicy(network_base=0.0, server_base=0.0)
    async with Balancer() as exchange, client_of(exchange, session, retry=no_waits) as client:
        await keep(client, exchange, 1)
        exchange.part = PARTS[part]
        exchange.on_request = lambda: exchange.dead.update({exchange.connections: Forgets.PART})
        exchange.dead[1] = Forgets.PART
        with pytest.raises((TransportError, ServerError)) as caught:
            await client.get_open_interest("BTCUSDT")
        assert exchange.requests[2:] == [(n, "BTCUSDT") for n in (1, 2, 3)]
        assert client._sender._retries.left == client._sender._policy.budget - 1.0
        assert "RawResponseMessage" not in str(caught.value)
        assert client.usage.charged == len(exchange.requests)


@sessions
@pytest.mark.parametrize("status", [418, 429, 503])
@pytest.mark.parametrize("cut", ["after its headers", "within its body"])
async def test_a_refusal_that_ends_a_kept_connection_is_still_that_refusal(
    session: str, status: int, cut: str
) -> None:
    kinds = {418: BannedError, 429: RateLimitedError, 503: ServerError}
    body = "" if cut == "after its headers" else '{"code":'
    once = RetryPolicy(server_base=1e9, cap=1e9)  # no retry fits into the timeout
    async with Balancer() as exchange, client_of(exchange, session, retry=once) as client:
        await keep(client, exchange, 1)
        exchange.part, exchange.dead[1] = answer(status, body, length=100), Forgets.PART
        with pytest.raises(kinds[status]):
            await client.get_open_interest("BTCUSDT", max_wait=0.0)
        assert exchange.symbols["BTCUSDT"] == 1


@sessions
@pytest.mark.parametrize("text", ['{"code":-1007,"msg":"Timeout"}', '{"code":-1003,"msg":"no"}'])
async def test_a_408_with_a_code_is_an_answer_and_not_a_dropped_connection(
    session: str, text: str
) -> None:
    async with Balancer() as exchange, client_of(exchange, session) as client:
        await keep(client, exchange, 1)
        exchange.part, exchange.dead[1] = answer(408, text), Forgets.PART
        await client.get_open_interest("BTCUSDT")
        assert (
            client._sender._retries.left
            == client._sender._policy.budget - 1.0 + client._sender._policy.earned
        )


async def test_a_connection_is_not_used_again_after_a_408() -> None:
    script = [open_interest(), answer(408, ""), open_interest(), open_interest()]
    async with RawExchange(lambda n: script[n - 1]) as exchange, Sender() as ours:
        statuses = [(await ours.get(exchange.url)).status for _ in script]
        assert (statuses, exchange.connections) == ([200, 408, 200, 200], 2)


# -- one after another ---------------------------------------------------------------------------


@sessions
@pytest.mark.parametrize("how", UNSEEN)
async def test_a_call_uses_at_most_one_dead_connection(session: str, how: Forgets) -> None:
    async with Balancer() as exchange, client_of(exchange, session) as client:
        await keep(client, exchange, 10)
        for number in range(10):
            if number % 2:  # every second connection
                exchange.dead[number + 1] = how
        calls = (client.get_open_interest(name) for name in names(10))
        await asyncio.gather(*calls)
        assert max(exchange.symbols[name] for name in names(10)) == 2
        assert sum(exchange.symbols[name] for name in names(10)) == 15
        assert client.usage.charged == len(exchange.requests)


@sessions
async def test_the_last_attempt_of_a_call_uses_a_new_connection(session: str) -> None:
    async with (
        Balancer() as exchange,
        client_of(exchange, session, retry=RetryPolicy(server_base=0.0)) as client,
    ):
        await keep(client, exchange, 3)
        for _ in range(3):
            await client.get_open_interest("ETHUSDT")
        first, second, third = (number for number, _ in exchange.requests[-3:])
        exchange.dead[third] = Forgets.RESET
        exchange.refusals = [503, 503]
        await client.get_open_interest("BTCUSDT")
        assert exchange.requests[-3:] == [(n, "BTCUSDT") for n in (first, second, 4)]


@pytest.mark.parametrize("how", UNSEEN)
async def test_a_connection_used_only_by_the_caller_counts_as_kept(how: Forgets) -> None:
    async with Balancer() as exchange, aiohttp.ClientSession() as theirs:
        async with theirs.get(f"{exchange.url}/own?symbol=OWN") as response:
            await response.read()
        exchange.forget(how)
        async with client_of(exchange, session=theirs) as client:
            await client.get_open_interest("BTCUSDT")
            assert client.usage.charged == exchange.symbols["BTCUSDT"] == 2
            assert client._sender._retries.left == client._sender._policy.budget


async def test_a_connection_opened_in_advance_counts_as_kept() -> None:
    async with Balancer(latency=0.1) as exchange, client_of(exchange) as client:
        await client.snapshot(names(1))
        opening = asyncio.create_task(client.snapshot(names(20)))
        await exchange.received(2)
        await asyncio.sleep(0.05)
        idle = [n for n in range(1, exchange.connections + 1) if not exchange.asked(n)]
        for number in idle:
            exchange.dead[number] = Forgets.SILENTLY
        market = await opening
        assert market.errors == {}
        assert market.weight == 20 + sum(map(exchange.asked, idle))


# -- other ways to the exchange ------------------------------------------------------------------


@sessions
@pytest.mark.parametrize("how", some(list(Forgets), always=1))
@pytest.mark.parametrize("way", ["TLS", "a proxy", "TLS through a proxy"])
async def test_dead_connections_lose_no_value_over_tls_and_through_a_proxy(
    session: str, how: Forgets, way: str
) -> None:
    tls = good() if "TLS" in way else None
    async with Balancer(tls=tls, tunnel="through" in way) as exchange:
        options: dict[str, object] = {}
        if tls is not None:
            options["ssl"] = Tls().client_tls()
        if "proxy" in way:
            options["proxy"] = exchange.url
            options["base_url"] = "https://127.0.0.1:9" if tls else "http://127.0.0.1:9"
        async with client_of(exchange, session, **options) as client:  # type: ignore[arg-type]
            await keep(client, exchange, 5)
            for _ in range(3):
                kept = exchange.forget(how)
                assert kept == 5
                await asyncio.sleep(0.1)
                assert await sweep(client, exchange, 5) == 5 + (kept if how in UNSEEN else 0)
            assert client._sender._retries.left == client._sender._policy.budget


# -- a slow exchange -----------------------------------------------------------------------------


@pytest.mark.thorough
@ours_first
async def test_an_exchange_that_turns_slow_doubles_requests_only_once(session: str) -> None:
    async with Balancer(latency=0.02) as exchange, client_of(exchange, session) as client:
        await sweep(client, exchange, 300)
        exchange.latency = 3.0
        assert await sweep(client, exchange, 300) <= 300 + 100
        for _ in range(3):
            await asyncio.sleep(3600.0)  # an hour later, the client still knows the delay
            assert await sweep(client, exchange, 300) == 300
        exchange.latency = 0.02
        assert await sweep(client, exchange, 300) == 300
        exchange.forget(Forgets.SILENTLY)
        began = now()
        await sweep(client, exchange, 300)
        assert now() - began < 3.0  # after quick answers, the client waits only 2 s again


@ours_first
@pytest.mark.parametrize("slow", [9.0, *thorough(3.0, 5.0)])
@pytest.mark.parametrize("timeout", [10.0, *thorough(30.0)])
async def test_no_symbol_fails_when_all_connections_die_after_a_slow_answer(
    session: str, slow: float, timeout: float
) -> None:
    async with (
        Balancer(latency=slow) as exchange,
        client_of(exchange, session, timeout=timeout) as client,
    ):
        await client.get_open_interest("BTCUSDT")
        exchange.latency = 0.02
        await sweep(client, exchange, 150)
        exchange.forget(Forgets.SILENTLY)
        await asyncio.sleep(1.5)  # by then the pacer has room for a whole second of requests
        await sweep(client, exchange, 150)


@sessions
async def test_requests_to_a_very_slow_exchange_are_sent_once(
    session: str,
) -> None:
    async with Balancer(latency=7.0) as exchange, client_of(exchange, session) as client:
        await client.get_open_interest("BTCUSDT")
        for _ in range(3):
            assert await sweep(client, exchange, 20) == 20


@sessions
async def test_a_slow_answer_on_the_new_connection_is_awaited(
    session: str,
) -> None:
    async with Balancer() as exchange, client_of(exchange, session, timeout=10.0) as client:
        await keep(client, exchange, 1)
        exchange.latency = 7.9
        began = now()
        assert (await client.get_open_interest("BTCUSDT")).symbol == "BTCUSDT"
        assert now() - began == pytest.approx(PATIENCE + 7.9, abs=0.05)
        assert exchange.symbols["BTCUSDT"] == 2


@sessions
async def test_both_requests_share_the_calls_timeout(session: str) -> None:
    async with Balancer() as exchange, client_of(exchange, session, timeout=5.0) as client:
        await keep(client, exchange, 1)
        exchange.latency = 60.0
        began = now()
        with pytest.raises(TransportTimeoutError):
            await client.get_open_interest("BTCUSDT")
        assert now() - began == pytest.approx(5.0, abs=0.05)
        assert exchange.symbols["BTCUSDT"] == client.usage.charged - 2 == 2


async def test_a_new_connection_is_never_abandoned() -> None:
    async with Balancer(latency=5.0) as exchange, client_of(exchange) as client:
        await client.get_open_interest("BTCUSDT")
        assert len(exchange.requests) == exchange.connections == 1


@sessions
async def test_without_retries_no_request_is_abandoned_or_sent_again(session: str) -> None:
    once = RetryPolicy(attempts=1)
    async with Balancer() as exchange, client_of(exchange, session, retry=once) as client:
        await keep(client, exchange, 1)
        exchange.latency = 5.0
        await client.get_open_interest("BTCUSDT")
        assert exchange.symbols["BTCUSDT"] == 1
        exchange.forget(Forgets.RESET)
        with pytest.raises(TransportError):
            await client.get_open_interest("ETHUSDT")
        assert exchange.symbols["ETHUSDT"] == 1


# -- limits of the second request ----------------------------------------------------------------


@sessions
async def test_a_late_answer_on_an_abandoned_connection_reaches_no_call(session: str) -> None:
    async with Balancer() as exchange, client_of(exchange, session) as client:
        await keep(client, exchange, 3)
        exchange.late = PATIENCE + 0.02  # just after the client has abandoned the connection
        exchange.forget(Forgets.SILENTLY)
        for name in names(20):
            assert (await client.get_open_interest(name)).symbol == name
        await asyncio.sleep(10.0)
        assert (await client.get_open_interest("BTCUSDT")).symbol == "BTCUSDT"
        assert sum(exchange.asked(number) for number in (1, 2, 3)) == 4 + 1
        assert client.usage.charged == len(exchange.requests)


@sessions
async def test_no_request_is_sent_again_during_a_ban(session: str) -> None:
    async with Balancer() as exchange, client_of(exchange, session) as client:
        await keep(client, exchange, 2)
        exchange.dead[1] = Forgets.SILENTLY
        call = asyncio.create_task(client.get_open_interest("BTCUSDT"))
        await exchange.received(4)
        exchange.refusals = [418]
        with pytest.raises(BannedError):
            await client.get_open_interest("ETHUSDT")
        with pytest.raises(BannedError):
            await call
        assert exchange.symbols["BTCUSDT"] == 1


@sessions
@pytest.mark.parametrize("how", UNSEEN)
async def test_the_second_request_is_admitted_like_any_other(session: str, how: Forgets) -> None:
    async with Balancer() as exchange, client_of(exchange, session) as client:
        await keep(client, exchange, 1)
        exchange.forget(how)
        exchange.on_request = lambda: client._governor.pool.hold(30.0)  # another client got a 403
        began = now()
        call = asyncio.create_task(client.get_open_interest("BTCUSDT"))
        await exchange.received(3)
        exchange.on_request = None
        await call
        assert now() - began >= 30.0
        assert exchange.requests[2:] == [(1, "BTCUSDT"), (2, "BTCUSDT")]


@sessions
@pytest.mark.parametrize("how", UNSEEN)
async def test_a_call_that_cannot_wait_for_its_second_request_raises(
    session: str, how: Forgets
) -> None:
    async with Balancer() as exchange, client_of(exchange, session) as client:
        await keep(client, exchange, 1)
        exchange.forget(how)
        exchange.on_request = lambda: client._governor.pool.hold(30.0)
        with pytest.raises(BudgetExhaustedError):
            await client.get_open_interest("BTCUSDT", max_wait=0.5)
        assert client.usage.charged == len(exchange.requests) == 3
        assert client._governor.in_flight == client._governor.waiting == 0


# -- callers with less patience ------------------------------------------------------------------


@sessions
@pytest.mark.parametrize("end", ["timeout", "cancelled"])
async def test_giving_up_on_a_silent_connection_makes_other_connections_suspect(
    session: str, end: str
) -> None:
    timeout = 1.0 if end == "timeout" else 10.0
    async with Balancer() as exchange, client_of(exchange, session, timeout=timeout) as client:
        await keep(client, exchange, 10)
        exchange.forget(Forgets.SILENTLY)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0 if end == "cancelled" else None):
                await client.get_open_interest("BTCUSDT")
        began = now()
        for name in names(10):
            await client.get_open_interest(name)
        assert now() - began < 0.1
        assert client.usage.charged == len(exchange.requests) == 11 + 1 + 10


async def test_a_call_cancelled_at_once_makes_no_connection_suspect() -> None:
    async with Balancer(latency=0.05) as exchange, client_of(exchange) as client:
        await keep(client, exchange, 10)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await client.get_open_interest("BTCUSDT")
        await asyncio.gather(*(client.get_open_interest(name) for name in names(9)))
        assert exchange.connections == 10


async def test_closing_during_silence_leaves_no_timer_and_sends_nothing_more() -> None:
    async with Balancer() as exchange, client_of(exchange) as client:
        await keep(client, exchange, 1)
        exchange.forget(Forgets.SILENTLY)
        call = asyncio.create_task(client.get_open_interest("BTCUSDT"))
        await exchange.received(3)
        await client.aclose()
        await asyncio.gather(call, return_exceptions=True)
        assert client._transport._kept._timer is None
        await asyncio.sleep(10.0)
        assert len(exchange.requests) == 3
