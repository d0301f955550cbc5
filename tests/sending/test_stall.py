"""An answer that has arrived is used, however long the caller's code blocked the loop.

Rule of this file: within one callback, the exchange writes its answer and the clock jumps. So the
answer is in the socket while every timer is due, as after a real stall.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import cast

import aiohttp
import pytest

from binance_oi import (
    BannedError,
    OpenInterestClient,
    ProcessBudget,
    RetryPolicy,
    TransportTimeoutError,
)
from binance_oi.sending import connections, guard
from support.raw_exchange import RawExchange, answer, open_interest
from support.virtual_clock import VirtualLoop

pytestmark = pytest.mark.virtual_time

STALL = 100.0  # s; longer than the time limits that an answer must survive
BAN_END = 1_795_521_600_000  # ms; a day after the virtual clock begins
BANNED = json.dumps({"code": -1003, "msg": f"IP banned until {BAN_END}. Please"})


def stall() -> None:
    """Block the loop as the caller's code may do: time passes, and no other task runs."""
    cast(VirtualLoop, asyncio.get_running_loop()).stall(STALL)


@asynccontextmanager
async def client_of(
    script: Callable[[int], bytes | None], *, whose: str = "ours", timeout: float = 10.0
) -> AsyncGenerator[tuple[OpenInterestClient, RawExchange]]:
    async with RawExchange(script) as exchange, aiohttp.ClientSession() as session:
        client = OpenInterestClient(
            base_url=exchange.url,
            budget=ProcessBudget(),
            session=None if whose == "ours" else session,
            timeout=timeout,
            retry=RetryPolicy(attempts=1),
        )
        async with client:
            yield client, exchange


def at(number: int, text: bytes) -> Callable[[int], bytes]:
    """Answer each request with `text`; stall the loop during the answer to request `number`."""

    def script(request: int) -> bytes:
        if request == number:
            stall()
        return text

    return script


WHOSE = pytest.mark.parametrize("whose", ["ours", "the caller's"])


@WHOSE
@pytest.mark.parametrize("number", [1, 2], ids=["first", "kept connection"])
@pytest.mark.parametrize("timeout", [0.01, 10.0])
async def test_an_answer_that_has_arrived_survives_a_stall_longer_than_the_timeout(
    whose: str, number: int, timeout: float
) -> None:
    async with client_of(at(number, open_interest()), whose=whose, timeout=timeout) as (client, _):
        for _ in range(number):
            assert (await client.get_open_interest("BTCUSDT")).symbol == "BTCUSDT"


async def test_an_answer_survives_a_stall_with_an_unknown_aiohttp_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "SENDS_DIRECTLY", False)
    for whose in ("ours", "the caller's"):
        async with client_of(at(1, open_interest()), whose=whose) as (client, _):
            assert (await client.get_open_interest("BTCUSDT")).symbol == "BTCUSDT"


@WHOSE
async def test_an_answer_of_many_pieces_survives_a_stall(
    whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MOST_PER_READ", guard.BYTES_PER_READ)
    names = [f"S{number}USDT" for number in range(2000)]
    body = json.dumps({"symbols": [{"symbol": name, "status": "TRADING"} for name in names]})
    assert len(body) > 5 * guard.BYTES_PER_READ
    async with client_of(at(1, answer(200, body)), whose=whose) as (client, _):
        assert list(await client.symbols()) == names


async def test_each_value_of_a_snapshot_with_a_deadline_survives_a_stall() -> None:
    def script(number: int) -> bytes:
        if number == 3:
            stall()
        return open_interest(exchange.requests[-1].split(b"symbol=")[1].split()[0].decode())

    async with client_of(script) as (client, exchange):
        market = await client.snapshot(["AUSDT", "BUSDT", "CUSDT"], deadline=5.0)
    assert (list(market), dict(market.errors)) == (["AUSDT", "BUSDT", "CUSDT"], {})


@WHOSE
async def test_the_text_of_a_refusal_survives_a_stall(whose: str) -> None:
    head, text = answer(418, BANNED)[: -len(BANNED)], BANNED.encode()
    async with client_of(lambda n: head, whose=whose, timeout=1000.0) as (client, exchange):
        call = asyncio.create_task(client.get_open_interest("BTCUSDT"))
        await exchange.received(1)
        await asyncio.sleep(0.1)  # the client has read the headers, and waits for the text
        exchange.write(text)
        stall()
        with pytest.raises(BannedError) as caught:
            await call
    assert str(BAN_END) in str(caught.value)


async def test_an_answer_that_has_not_arrived_after_a_stall_is_a_timeout() -> None:
    def script(number: int) -> bytes:
        stall()
        return answer(200, b"{", length=70)

    async with client_of(script) as (client, _):
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(TransportTimeoutError):
            await client.get_open_interest("BTCUSDT")
        assert loop.time() - began < STALL + 1.0


async def test_an_exchange_that_keeps_sending_slowly_gets_no_extra_time() -> None:
    """The exchange sends one byte in each pass of the loop."""

    async def trickle(exchange: RawExchange) -> None:
        while True:
            exchange.write(b"1")
            await asyncio.sleep(0)

    async with client_of(lambda n: answer(200, b"", length=60_000)) as (client, exchange):
        loop = cast(VirtualLoop, asyncio.get_running_loop())
        call = asyncio.create_task(client.get_open_interest("BTCUSDT"))
        await exchange.received(1)
        stall()
        trickling = asyncio.create_task(trickle(exchange))
        passes = loop.steps
        with pytest.raises(TransportTimeoutError):
            await call
        trickling.cancel()
        assert loop.steps - passes < 50
