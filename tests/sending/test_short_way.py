"""A request on a connection that was just used takes a fast path, and ends as on the slow path.

Rule of this file: `warm` makes two calls: the first opens a connection, and the second keeps it
ready. So the next call takes the fast path. A call with an unusual answer must end as it does
without the fast path.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import Mock

import pytest

from binance_oi import OpenInterestClient, ProcessBudget, RetryPolicy
from binance_oi.errors import (
    BannedError,
    BudgetExhaustedError,
    ClientClosedError,
    DecodeError,
    TransportError,
    TransportTimeoutError,
)
from binance_oi.sending import guard
from binance_oi.sending.governor import Permit, Waiter
from binance_oi.sending.guard import Attempt, Guard
from binance_oi.sending.kept_connections import KeptConnections
from binance_oi.sending.transport import Transport
from support.raw_exchange import CLOSE, RawExchange, answer, open_interest
from support.waiting import future, tracked

pytestmark = [pytest.mark.virtual_time, pytest.mark.usefixtures("known_address")]

ONCE = RetryPolicy(attempts=1)
SILENCE = b""
Script = Callable[[int], bytes | None]


def replies(*replies: bytes | None) -> Script:
    """A script with these answers from the third request on, and usual answers before and after."""
    return lambda n: replies[n - 3] if 0 <= n - 3 < len(replies) else open_interest()


@asynccontextmanager
async def warm(
    *later: bytes | None, **options: Any
) -> AsyncGenerator[tuple[OpenInterestClient, RawExchange]]:
    """A client with an open connection; `later` are the answers to its next requests."""
    options.setdefault("budget", ProcessBudget())
    async with (
        RawExchange(replies(*later)) as exchange,
        OpenInterestClient(base_url=exchange.url, **options) as client,
    ):
        await client.get_open_interest("BTCUSDT")
        await client.get_open_interest("BTCUSDT")
        yield client, exchange


@pytest.fixture
def long_ways(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """A mock that counts the requests that do not take the fast path."""
    get = Mock(wraps=Transport.get)

    async def counted(self: Transport, *arguments: Any, **options: Any) -> Any:
        return await get(self, *arguments, **options)

    monkeypatch.setattr(Transport, "get", counted)
    return get


async def test_a_usual_request_uses_the_fast_path(long_ways: Mock) -> None:
    async with warm() as (client, exchange):
        before = long_ways.call_count
        for _ in range(5):
            await client.get_open_interest("BTCUSDT")
        assert (long_ways.call_count, exchange.connections) == (before, 1)
        assert client._governor.in_flight == 0


async def test_a_request_that_waited_uses_the_fast_path(long_ways: Mock) -> None:
    async with warm(max_connections=1) as (client, exchange):
        before = long_ways.call_count
        await asyncio.gather(*(client.get_open_interest("BTCUSDT") for _ in range(5)))
        assert (long_ways.call_count, exchange.connections) == (before, 1)


async def test_a_ban_that_comes_after_the_admission_stops_the_request() -> None:
    budget = ProcessBudget()
    async with warm(budget=budget, max_connections=1) as (client, exchange):
        governor = client._governor
        first = await governor.admit()
        call = asyncio.create_task(client.get_open_interest("BTCUSDT"))
        while not governor.waiting:  # noqa: ASYNC110 - until it is in the queue
            await asyncio.sleep(0)
        sent = len(exchange.requests)
        first.refund()
        first.release()
        while governor.waiting:  # noqa: ASYNC110 - admitted, but not awake yet
            await asyncio.sleep(0)
        governor.pool.hold(600.0, ban=True)
        with pytest.raises(BannedError):
            await call
        assert len(exchange.requests) == sent
        assert governor.in_flight == 0


@pytest.mark.parametrize(
    "reply, error",
    [
        (answer(200, b"{}"), DecodeError),
        (answer(200, b'{"code":-1121,"msg":"Invalid symbol."}'), Exception),
        (answer(404, b"{}"), Exception),
        (b"HTTP/1.1 200 OK\r\n\r\n", TransportError),
        (CLOSE, TransportError),
    ],
    ids=["no value", "a refusal", "another status", "no length", "the end"],
)
async def test_an_answer_without_a_value_is_an_error_and_frees_its_connection_slot(
    reply: bytes | None, error: type[Exception]
) -> None:
    options = {"retry": ONCE, "timeout": 5.0}
    async with warm(reply, **options) as (client, _):
        with pytest.raises(error):
            await client.get_open_interest("BTCUSDT")
        assert client._governor.in_flight == 0
        assert (await client.get_open_interest("BTCUSDT")).symbol == "BTCUSDT"


async def test_a_failing_pool_is_an_error_and_frees_the_connection_slot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with warm() as (client, _):
        with monkeypatch.context() as patch:
            patch.setattr(client._governor.pool, "settle", Mock(side_effect=ZeroDivisionError))
            with pytest.raises(ZeroDivisionError):
                await client.get_open_interest("BTCUSDT")
        assert client._governor.in_flight == 0
        await client.get_open_interest("BTCUSDT")


@pytest.mark.parametrize("how", ["cancelled", "timeout", "closed"])
async def test_a_request_without_an_answer_stays_charged(how: str) -> None:
    options = {"retry": ONCE, "timeout": 1.0}
    async with warm(SILENCE, **options) as (client, exchange):
        governor = client._governor
        call = asyncio.create_task(client.get_open_interest("BTCUSDT"))
        while len(exchange.requests) < 3:  # noqa: ASYNC110 - it is a real socket
            await asyncio.sleep(0)
        match how:
            case "cancelled":
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            case "timeout":
                with pytest.raises(TransportTimeoutError):
                    await call
            case _:
                await client.aclose()
                with pytest.raises(ClientClosedError):
                    await call
        assert governor.in_flight == 0
        assert governor.pool.usage.used >= 3


async def test_an_earlier_deadline_than_that_of_a_running_request_is_kept() -> None:
    options = {"retry": ONCE, "timeout": 60.0}
    async with warm(SILENCE, SILENCE, **options) as (client, exchange):
        slow = asyncio.create_task(client.get_open_interest("BTCUSDT"))
        while len(exchange.requests) < 3:  # noqa: ASYNC110 - it is a real socket
            await asyncio.sleep(0)
        began = asyncio.get_running_loop().time()
        market = await client.snapshot(["BTCUSDT"], deadline=1.0)
        assert isinstance(market.errors["BTCUSDT"], (TransportTimeoutError, BudgetExhaustedError))
        assert asyncio.get_running_loop().time() - began < 2.0
        assert not slow.done()
        slow.cancel()
        await asyncio.wait([slow])


def test_a_failed_write_is_raised_as_the_result_of_the_request() -> None:
    loop = asyncio.new_event_loop()
    try:
        kept = KeptConnections(replace=False)
        made = Guard(Mock(), kept, kept.opened(), guard.read_buffer())
        transport = Mock()
        made.begin(Attempt(), transport, 0.0)
        transport.write.side_effect = RuntimeError("the handler is closed")
        attempt = Attempt()
        assert made.start(attempt, b"GET", loop, 0.0)
        assert isinstance(attempt.answer.exception(), RuntimeError)
    finally:
        loop.close()


async def test_a_second_attempt_without_budget_raises_budget_exhausted() -> None:
    async with warm(answer(500, "{}")) as (client, exchange):
        call = asyncio.create_task(client.get_open_interest("BTCUSDT", max_wait=0.0))
        while len(exchange.requests) < 3:  # noqa: ASYNC110 - it is a real socket
            await asyncio.sleep(0)
        client._governor.pool.hold(60.0)
        with pytest.raises(BudgetExhaustedError):
            await call
        assert len(exchange.requests) == 3


# -- calls that wait ------------------------------------------------------------------------------


async def test_a_waiting_call_has_fewer_objects_than_a_task_that_awaits_a_future() -> None:
    async with warm() as (client, _):
        client._governor.pool.hold(600.0)
        ours = await tracked(lambda: client.get_open_interest("BTCUSDT"), 200)
        assert (
            ours < await tracked(future, 200) - 0.5
        )  # the test itself makes fewer than 0.5 objects per call
        assert client._governor.waiting == 0


async def test_calls_that_are_admitted_as_the_client_closes_send_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends = list[asyncio.Task[None]]()
    async with warm() as (client, exchange):
        client._governor.connections.now = 0
        calls = [asyncio.create_task(client.get_open_interest("BTCUSDT")) for _ in range(2)]
        while client._governor.waiting < 2:  # noqa: ASYNC110 - no event is set
            await asyncio.sleep(0)
        assert client._governor.waiting == 2
        sent, used = len(exchange.requests), client.usage.charged

        def admitted(waiter: Waiter, permit: Permit) -> None:
            ends.append(asyncio.create_task(client.aclose()))  # runs before the calls do
            asyncio.Future.set_result(waiter, permit)

        monkeypatch.setattr(Waiter, "set_result", admitted)
        client._governor.connections.now = 2
        client._governor._wake()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [ClientClosedError] * 2
        assert len(ends) == 2  # both were admitted
        assert (len(exchange.requests), client.usage.charged) == (sent, used)
        assert client._governor.in_flight == 0
        await asyncio.wait(ends)
