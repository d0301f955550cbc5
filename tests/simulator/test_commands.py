"""Commands to a local exchange: from the loop of the exchange, from a thread, and over a socket."""

import asyncio
import gc
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from decimal import Decimal
from threading import Thread
from urllib.request import urlopen

import aiohttp
import pytest

from binance_oi import (
    BannedError,
    OpenInterestClient,
    ProcessBudget,
    RateLimitedError,
    RetryPolicy,
    ServerError,
    SymbolNotTradingError,
    TransportError,
    UnknownSymbolError,
)
from binance_oi.exchange.hosts import PRODUCTION, is_local_exchange, pool_key, source_name
from binance_oi.simulator import Admin, Commands, LocalExchange, spawn
from support.virtual_clock import wall_time

WEIGHT = "X-MBX-USED-WEIGHT-1M"


def client_of(exchange: LocalExchange) -> OpenInterestClient:
    """A client without retries, in virtual time."""
    budget = ProcessBudget(clock=asyncio.get_running_loop().time, wall=wall_time)
    once = RetryPolicy(attempts=1)
    return OpenInterestClient(base_url=exchange.url, budget=budget, retry=once)


@pytest.mark.virtual_time
async def test_each_value_that_a_test_sets_is_a_new_observation() -> None:
    async with LocalExchange(clock=wall_time) as exchange, client_of(exchange) as client:
        read = client.get_open_interest
        before = await read("BTCUSDT")
        exchange.set_open_interest("BTCUSDT", "96012.5440")
        first = await read("BTCUSDT")
        exchange.set_open_interest("BTCUSDT", Decimal("1E+3"))
        second = await read("BTCUSDT")
        await asyncio.sleep(3600.0)
        assert await read("BTCUSDT") == second
    assert (str(first.open_interest), str(second.open_interest)) == ("96012.5440", "1000")
    assert before.time < first.time < second.time


@pytest.mark.virtual_time
async def test_a_jump_is_one_observation_from_which_the_value_moves_on() -> None:
    async with LocalExchange(clock=wall_time) as exchange, client_of(exchange) as client:
        read = client.get_open_interest
        seen = [await read("BTCUSDT")]
        exchange.jump("BTCUSDT", 0.5)
        for _ in range(40):
            seen.append(await read("BTCUSDT"))
            await asyncio.sleep(0.25)
        exchange.jump("BTCUSDT", -0.5)
        after = await read("BTCUSDT")
        exchange.set_open_interest("BTCUSDT", "200")
        exchange.jump("BTCUSDT", 0.25)
        fixed = await read("BTCUSDT")
    assert float(seen[1].open_interest / seen[0].open_interest) == pytest.approx(1.5, rel=0.01)
    assert float(after.open_interest / seen[0].open_interest) == pytest.approx(0.75, rel=0.01)
    by_time = {
        value.time: {v.open_interest for v in seen if v.time == value.time} for value in seen
    }
    assert all(len(values) == 1 for values in by_time.values())
    assert list(by_time) == sorted(by_time)
    assert len(by_time) > 3
    assert fixed.open_interest == 250


@pytest.mark.virtual_time
async def test_a_test_can_set_a_mark_price() -> None:
    async with LocalExchange(clock=wall_time) as exchange, client_of(exchange) as client:
        exchange.set_open_interest("BTCUSDT", 2)
        exchange.set_mark_price("BTCUSDT", "66193.50")
        market = await client.snapshot(["BTCUSDT"], notional=True)
    assert str(market.mark_prices["BTCUSDT"].mark_price) == "66193.50"
    assert market.notional["BTCUSDT"] == 132387


@pytest.mark.virtual_time
async def test_exactly_the_commanded_number_of_answers_fail() -> None:
    async with LocalExchange(clock=wall_time) as exchange, client_of(exchange) as client:
        exchange.fail(2, status=500)
        exchange.drop()
        kinds = [await outcome(client, "BTCUSDT") for _ in range(4)]
        assert exchange.answers == {500: 2, 200: 1}
        assert exchange.used == 4  # failed requests cost their weight too
    assert kinds == [TransportError, ServerError, ServerError, None]


@pytest.mark.virtual_time
async def test_a_failure_of_one_symbol_affects_no_other() -> None:
    async with LocalExchange(clock=wall_time) as exchange, client_of(exchange) as client:
        exchange.fail(100, symbol="ETHUSDT")
        exchange.fail(1, symbol="龙虾USDT")
        market = await client.snapshot(["BTCUSDT", "ETHUSDT", "龙虾USDT"])
        exchange.reset()
        again = await client.snapshot(["ETHUSDT"])
    assert (list(market), list(market.errors)) == (["BTCUSDT"], ["ETHUSDT", "龙虾USDT"])
    assert list(again) == ["ETHUSDT"]


async def outcome(client: OpenInterestClient, symbol: str) -> type[BaseException] | None:
    try:
        await client.get_open_interest(symbol)
    except (ServerError, TransportError) as error:
        return type(error)
    return None


@pytest.mark.virtual_time
async def test_a_commanded_429_is_like_any_other() -> None:
    async with LocalExchange(clock=wall_time) as exchange, client_of(exchange) as client:
        await client.get_open_interest("BTCUSDT")
        exchange.fail(status=429)
        with pytest.raises(RateLimitedError) as caught:
            await client.get_open_interest("BTCUSDT")
        assert "current limit of IP(127.0.0.1) is 2400" in str(caught.value)
        assert caught.value.retry_at.timestamp() // 60 == wall_time() // 60 + 1
        assert exchange.answers == {200: 1, 429: 1}


@pytest.mark.virtual_time
async def test_exactly_the_commanded_number_of_answers_are_late() -> None:
    async with LocalExchange(clock=wall_time) as exchange, client_of(exchange) as client:
        exchange.delay(3.0, 2)
        took: list[int] = []
        for _ in range(3):
            start = wall_time()
            await client.get_open_interest("BTCUSDT")
            took.append(round(wall_time() - start))
    assert took == [3, 3, 0]


@pytest.mark.virtual_time
async def test_a_commanded_ban_begins_at_once_and_ends_on_time() -> None:
    async with LocalExchange(clock=wall_time) as exchange, client_of(exchange) as client:
        exchange.ban(600.0)
        with pytest.raises(BannedError) as caught:
            await client.get_open_interest("BTCUSDT")
        assert caught.value.retry_at.timestamp() - wall_time() == pytest.approx(600.0, abs=5.0)
        exchange.end_ban()
        async with client_of(exchange) as another:  # this client has not learned of a ban
            await another.get_open_interest("BTCUSDT")
        exchange.ban()
        assert exchange.counter.banned_until > wall_time() + 600.0  # longer than the last ban


async def test_exactly_the_commanded_number_of_answers_omit_the_used_weight() -> None:
    async with LocalExchange() as exchange, aiohttp.ClientSession() as session:

        async def shows_weight() -> bool:
            async with session.get(f"{exchange.url}/fapi/v1/ping") as response:
                return WEIGHT in response.headers

        exchange.hide_headers(2)
        assert [await shows_weight() for _ in range(3)] == [False, False, True]
        exchange.hide_headers()
        assert [await shows_weight() for _ in range(3)] == [False, False, False]
        exchange.show_headers()
        assert await shows_weight()


@pytest.mark.virtual_time
async def test_a_test_can_list_and_delist_a_symbol() -> None:
    async with LocalExchange(clock=wall_time) as exchange, client_of(exchange) as client:
        with pytest.raises(UnknownSymbolError):
            await client.get_open_interest("NEWUSDT")
        exchange.list_symbol("NEWUSDT")
        assert (await client.get_open_interest("NEWUSDT")).symbol == "NEWUSDT"
        exchange.delist("NEWUSDT")
        with pytest.raises(SymbolNotTradingError):
            await client.get_open_interest("NEWUSDT")
        listed = {row.symbol: row.status for row in (await client.exchange_info()).symbols}
    assert listed["NEWUSDT"] == "SETTLING"


@contextmanager
def in_thread() -> Iterator[tuple[Commands, str]]:
    with LocalExchange().in_thread() as exchange:
        yield exchange, exchange.url


@contextmanager
def in_process() -> Iterator[tuple[Commands, str]]:
    with spawn() as url:
        yield Admin(url), url


@contextmanager
def over_the_socket_of_a_thread() -> Iterator[tuple[Commands, str]]:
    with LocalExchange().in_thread() as exchange:
        yield Admin(exchange.url), exchange.url


WRONG: list[tuple[Callable[[Commands], object], type[Exception], str]] = [
    (lambda e: e.set_open_interest("NOSUCHUSDT", 1), ValueError, "'NOSUCHUSDT' is not listed"),
    (lambda e: e.jump("NOSUCHUSDT", 1), ValueError, "'NOSUCHUSDT' is not listed"),
    (lambda e: e.delist("NOSUCHUSDT"), ValueError, "'NOSUCHUSDT' is not listed"),
    (lambda e: e.list_symbol("NONSENSE"), ValueError, "has no known quote asset"),
    (lambda e: e.set_open_interest("BTCUSDT", 0.1), TypeError, "value must be a Decimal"),  # type: ignore[arg-type]
    (lambda e: e.set_open_interest("BTCUSDT", True), TypeError, "value must be a Decimal"),
    (lambda e: e.set_open_interest("BTCUSDT", "much"), ValueError, "value must be a number"),
    (lambda e: e.set_open_interest("BTCUSDT", "-1"), ValueError, "not negative"),
    (lambda e: e.set_open_interest("BTCUSDT", "NaN"), ValueError, "finite"),
    (lambda e: e.jump("BTCUSDT", -1), ValueError, "share must be finite and above -1"),
    (lambda e: e.jump("BTCUSDT", float("inf")), ValueError, "share must be finite"),
    (lambda e: e.fail(0), ValueError, "times must be above 0"),
    (lambda e: e.fail(1.5), TypeError, "times must be an int"),  # type: ignore[arg-type]
    (lambda e: e.fail(status=418), ValueError, "see ban"),
    (lambda e: e.fail(status=200), ValueError, "from 400 to 599"),
    (lambda e: e.delay(-1.0), ValueError, "seconds must be finite and above 0"),
    (lambda e: e.delay("1"), TypeError, "seconds must be an int or a float"),  # type: ignore[arg-type]
    (lambda e: e.ban(0.0), ValueError, "seconds must be finite and above 0"),
    (lambda e: e._do("explode"), ValueError, "there is no command 'explode'"),
    (lambda e: e._do("jump", what=1), TypeError, "unexpected keyword"),
]


@pytest.mark.parametrize("where", [in_thread, in_process, over_the_socket_of_a_thread])
def test_every_command_works_from_another_thread_and_from_another_process(
    where: Callable[[], AbstractContextManager[tuple[Commands, str]]],
) -> None:
    with where() as (exchange, url):
        exchange.set_open_interest("BTCUSDT", "7.50")
        exchange.set_mark_price("BTCUSDT", "3")
        exchange.jump("ETHUSDT", 0.1)
        exchange.list_symbol("NEWUSDT")
        exchange.delist("ETHUSDT")
        exchange.delay(0.001)
        exchange.hide_headers(1)
        with urlopen(f"{url}/fapi/v1/openInterest?symbol=BTCUSDT") as response:
            assert WEIGHT not in response.headers
            assert json.load(response)["openInterest"] == "7.50"
        exchange.fail(1)
        exchange.drop(1)
        exchange.reset()
        exchange.hide_headers()
        exchange.show_headers()
        exchange.ban()
        exchange.end_ban()
        with urlopen(f"{url}/fapi/v1/ping") as response:
            assert response.headers[WEIGHT] == "2"  # commands cost no weight
        for command, kind, text in WRONG:
            with pytest.raises(kind, match=text):
                command(exchange)


def test_threads_may_send_commands_while_the_exchange_answers() -> None:
    def command(number: int) -> None:
        for step in range(50):
            exchange.list_symbol(f"N{number}X{step}USDT")
            exchange.set_open_interest("BTCUSDT", step)
            exchange.fail(1, symbol="ETHUSDT")

    with LocalExchange().in_thread() as exchange:
        threads = [Thread(target=command, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        listed = 0
        while any(thread.is_alive() for thread in threads):
            with urlopen(f"{exchange.url}/fapi/v1/exchangeInfo") as response:
                listed = len(json.load(response)["symbols"])
            assert sum(exchange.weights.values()) > 0
        for thread in threads:
            thread.join()
        with urlopen(f"{exchange.url}/fapi/v1/exchangeInfo") as response:
            # 924 symbols from the start, and 50 from each of four threads.
            assert len(json.load(response)["symbols"]) == 924 + 200 >= listed


def test_an_exchange_in_a_thread_leaves_no_task_of_a_delayed_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with LocalExchange().in_thread() as exchange:
        exchange.delay(600.0)
        with socket.create_connection(("127.0.0.1", exchange.port)) as visitor:
            visitor.sendall(b"GET /fapi/v1/ping HTTP/1.1\r\nHost: a\r\n\r\n")
            while not exchange.used:
                time.sleep(0.01)
        assert exchange._runner is not None
        assert exchange._runner.server is not None
        while any(each.transport for each in exchange._runner.server.connections):
            time.sleep(0.01)  # the exchange has not seen yet that the visitor left
    gc.collect()
    assert caplog.records == []


# -- each exchange has its own budget --------------------------------------------------------------


async def test_a_ban_does_not_carry_over_to_the_next_exchange_on_the_port() -> None:
    async with LocalExchange() as first, OpenInterestClient(base_url=first.url) as client:
        port = first.port
        first.ban(86_400.0)
        with pytest.raises(BannedError):
            await client.get_open_interest("BTCUSDT")
    async with (
        LocalExchange(port=port) as second,
        OpenInterestClient(base_url=second.url, timeout=600.0) as client,
    ):
        assert (await client.get_open_interest("BTCUSDT")).symbol == "BTCUSDT"
        assert (second.port, second.answers) == (port, {200: 1})
        assert client.usage.used == 1


async def test_an_exchange_that_reopens_keeps_its_budget_and_its_url() -> None:
    exchange = LocalExchange()
    async with exchange:
        before = exchange.url
    assert (exchange.url, exchange.port) == ("", 0)
    async with exchange:
        assert exchange.url == before


@pytest.mark.parametrize(
    "place", ["", pytest.param("/local-00ff00ff00ff", id="of an earlier exchange")]
)
async def test_an_exchange_answers_with_and_without_its_own_path_prefix(place: str) -> None:
    async with LocalExchange() as exchange, aiohttp.ClientSession() as session:
        base = f"http://127.0.0.1:{exchange.port}{place}"
        async with session.get(f"{base}/fapi/v1/openInterest?symbol=BTCUSDT") as response:
            assert response.status == 200
        async with session.get(f"{base}/fapi/v2/nothing") as response:
            assert "Path /fapi/v2/nothing, Method GET is invalid" in await response.text()


def test_only_the_path_prefix_of_a_local_exchange_selects_its_own_budget() -> None:
    local = "http://127.0.0.1:8080/local-0123456789ab"
    assert pool_key(local) == pool_key(f"{local}/") == local
    assert pool_key("http://127.0.0.1:8080/local-exchange") == "http://127.0.0.1:8080"
    assert pool_key("http://127.0.0.1:8080/gateway") == "http://127.0.0.1:8080"
    assert pool_key("https://gateway.example/local-0123456789ab") == "https://gateway.example:443"
    assert source_name(local) == "local"
    assert is_local_exchange(pool_key(local))
    for url in ("http://127.0.0.1:8080", PRODUCTION, "https://gateway.example/local-0123456789ab"):
        assert not is_local_exchange(pool_key(url))
