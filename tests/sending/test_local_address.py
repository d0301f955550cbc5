"""A host with several addresses has a budget for each; connections come from `local_address`."""

import asyncio
import os
import socket
import ssl
import sys
from pathlib import Path

import aiohttp
import pytest

from binance_oi import MachineBudget, OpenInterestClient, ProcessBudget, RetryPolicy, TransportError
from binance_oi.budget import machine_pools
from binance_oi.exchange.hosts import check_local_address, pool_key
from binance_oi.sending.local_address import is_default
from binance_oi.simulator import LocalExchange
from support.ports import closed_port
from support.raw_exchange import CLOSE, RawExchange, open_interest

HAS_MANY = sys.platform == "linux"  # on Linux, all addresses of 127.0.0.0/8 are local
ONCE = RetryPolicy(attempts=1)


class Peers(RawExchange):
    """An exchange that answers correctly, and records the peer address of each connection."""

    def __init__(self) -> None:
        super().__init__(lambda n: open_interest(used=n))
        self.peers: list[str] = []

    async def _talk(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.peers.append(writer.get_extra_info("peername")[0])
        await super()._talk(number, reader, writer)


def test_each_local_address_has_its_own_pool_and_a_proxy_has_one_for_all() -> None:
    url, proxy = "https://fapi.binance.com", "http://proxy.example:3128"
    assert pool_key(url) == "binance-futures"
    assert pool_key(url, None, "192.0.2.7") == "binance-futures from 192.0.2.7"
    assert pool_key(url, None, "192.0.2.8") != pool_key(url, None, "192.0.2.7")
    assert pool_key(url, proxy, "192.0.2.7") == pool_key(url, proxy)


@pytest.mark.parametrize(
    "address", ["", "nonsense", "0.0.0.0", "::", "224.0.0.1", "127.0.0.1:80", "1.2.3", "localhost"]
)
def test_a_text_that_is_no_address_of_a_machine_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="local_address must be an IP address of this machine"):
        OpenInterestClient(local_address=address, budget=ProcessBudget())


def test_every_spelling_of_an_address_is_normalised() -> None:
    url = "https://fapi.binance.com"
    assert check_local_address("2001:DB8:0:0::7", url) == "2001:db8::7"
    assert check_local_address("::ffff:192.0.2.7", url) == "192.0.2.7"


def test_a_local_address_of_another_ip_version_than_the_exchanges_is_refused() -> None:
    place, budget = "http://127.0.0.1:9", ProcessBudget()
    with pytest.raises(ValueError, match=r"must be an IPv4 address to reach 127\.0\.0\.1"):
        OpenInterestClient(local_address="::1", budget=budget, base_url=place)
    with pytest.raises(ValueError, match=r"must be an IPv4 address to reach 127\.0\.0\.1"):
        OpenInterestClient(local_address="::1", budget=budget, proxy=place)


async def test_a_session_of_the_caller_binds_its_own_connections() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ValueError, match="leave out local_address"):
            OpenInterestClient(local_address="127.0.0.2", session=session, budget=ProcessBudget())


def test_an_address_of_another_type_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="local_address must be str or None"):
        OpenInterestClient(local_address=7, budget=ProcessBudget())  # type: ignore[arg-type]


@pytest.mark.skipif(not HAS_MANY, reason="this system has only one loopback address")
async def test_each_local_address_has_its_own_connections_and_budget(
    tmp_path: Path,
) -> None:
    async with Peers() as exchange:
        for address in ("127.0.0.2", "127.0.0.3"):
            budget = MachineBudget(directory=tmp_path)
            async with OpenInterestClient(
                base_url=exchange.url, local_address=address, budget=budget
            ) as client:
                await client.get_open_interest("BTCUSDT")
                assert client.usage.charged == 1
        assert exchange.peers == ["127.0.0.2", "127.0.0.3"]
        names = {f"{pool_key(exchange.url)} from 127.0.0.{n}" for n in (2, 3)}
        assert set(machine_pools(tmp_path)) == names


async def test_the_default_address_of_the_system_shares_the_usual_budget() -> None:
    budget = ProcessBudget()
    async with (
        LocalExchange() as exchange,
        OpenInterestClient(base_url=exchange.url, budget=budget) as one,
        OpenInterestClient(
            base_url=exchange.url, budget=budget, local_address="127.0.0.1"
        ) as other,
    ):
        await one.get_open_interest("BTCUSDT")
        await other.get_open_interest("BTCUSDT")
        assert one.usage.charged == other.usage.charged == 2


def test_the_route_to_the_exchange_decides_which_address_is_the_default() -> None:
    assert is_default("127.0.0.1", "127.0.0.1")
    assert not is_default("192.0.2.77", "127.0.0.1")
    assert not is_default("192.0.2.77", "fapi.binance.com")


def test_without_a_route_no_address_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> socket.socket:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "socket", unreachable)
    assert not is_default("127.0.0.1", "127.0.0.1")


# -- errors of a connection, in our words ----------------------------------------------------


async def failing(**options: object) -> str:
    """Make a call that gets no answer; return the text of its error."""
    client = OpenInterestClient(budget=ProcessBudget(), retry=ONCE, **options)  # type: ignore[arg-type]
    async with client:
        with pytest.raises(TransportError) as caught:
            await client.get_open_interest("BTCUSDT")
    return str(caught.value)


async def test_a_failed_connection_is_explained_in_our_words() -> None:
    refused = os.strerror(111 if sys.platform == "linux" else 61)
    with closed_port() as port:
        place = f"127.0.0.1:{port}"
        assert await failing(base_url=f"http://{place}") == (
            f"no answer from the exchange: no connection to {place}: {refused}"
        )
        assert await failing(base_url=f"https://{place}", proxy=f"http://u:secret@{place}") == (
            f"no answer from the exchange: no connection to the proxy {place}: {refused}"
        )


async def test_a_local_address_of_another_machine_is_explained_in_our_words() -> None:
    with closed_port() as port:
        said = await failing(base_url=f"http://127.0.0.1:{port}", local_address="192.0.2.77")
    assert "ssl:" not in said
    assert "[" not in said
    assert "no connection to 127.0.0.1:" in said


async def test_an_unresolvable_name_is_explained_in_our_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def no_address(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", no_address)
    assert await failing(base_url="https://exchange.example") == (
        "no answer from the exchange: exchange.example:443 has no address: "
        "Name or service not known"
    )


async def test_a_server_without_tls_is_explained_in_our_words() -> None:
    async with LocalExchange() as exchange:
        said = await failing(
            base_url=exchange.url.replace("http:", "https:"), ssl=ssl.create_default_context()
        )
    assert said.startswith("no answer from the exchange: no TLS connection to 127.0.0.1:")
    assert "Cannot connect" not in said


async def test_a_server_that_closes_the_connection_is_explained_in_our_words() -> None:
    async with RawExchange(lambda _: CLOSE) as exchange:
        said = await failing(base_url=exchange.url)
    assert said == "no answer from the exchange: the connection ended without an answer"
