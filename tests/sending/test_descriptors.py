"""With too few file descriptors, a request waits until an open connection is free.

Rule of this file: only a separate process has a real shortage; the other tests simulate one.
"""

import asyncio
import errno
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from binance_oi import OpenInterestClient, RetryPolicy, TransportError
from binance_oi.budget import ProcessBudget
from binance_oi.sending.connections import is_out_of_descriptors
from binance_oi.sending.governor import Governor
from binance_oi.simulator import LocalExchange
from support.lanes import thorough

PATIENCE = 300.0  # s after which the test treats a child as hung

READ_ALL = """
import asyncio, logging, resource, sys
import aiohttp
from binance_oi import OpenInterestClient, ProcessBudget

url, descriptors, whose = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(descriptors), int(descriptors)))
logging.basicConfig(format="%(message)s")

async def main():
    session = aiohttp.ClientSession() if whose == "theirs" else None
    budget = ProcessBudget(limit=100_000)
    async with OpenInterestClient(base_url=url, budget=budget, session=session) as client:
        market = await client.snapshot()
        print(len(market), len(market.errors), client._governor.in_flight)
    if session is not None:
        await session.close()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def exchange_url() -> Iterator[str]:
    with LocalExchange(limit=100_000).in_thread() as exchange:
        yield exchange.url


@pytest.mark.parametrize(
    "descriptors, whose",
    [(40, "ours"), *thorough(*((n, w) for n in (12, 40, 80) for w in ("ours", "theirs")))],
)
def test_with_too_few_descriptors_no_value_is_lost(
    exchange_url: str, descriptors: int, whose: str
) -> None:
    command = [sys.executable, "-c", READ_ALL, exchange_url, str(descriptors), whose]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "789 0 0\n", done.stderr
    assert done.stderr.count("too few file descriptors for 100 connections") == 1


def allow(connections: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let only so many connections open; return a list whose only item counts the refused ones."""
    opened, refused = [0], [0]
    create = aiohttp.TCPConnector._create_connection

    async def counted(
        connector: aiohttp.TCPConnector, request: aiohttp.ClientRequest, *rest: Any
    ) -> object:
        if opened[0] >= connections:
            refused[0] += 1
            raise aiohttp.ClientConnectorError(
                request.connection_key, OSError(errno.EMFILE, "Too many open files")
            )
        opened[0] += 1
        return await create(connector, request, *rest)

    monkeypatch.setattr(aiohttp.TCPConnector, "_create_connection", counted)
    return refused


async def test_a_request_without_a_descriptor_waits_for_a_connection_and_is_charged_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = allow(3, monkeypatch)
    async with LocalExchange(latency=0.01) as exchange:
        names = exchange.universe.trading[:40]
        async with OpenInterestClient(base_url=exchange.url, budget=ProcessBudget()) as client:
            market = await client.snapshot(names)
            assert (list(market), market.errors, market.weight) == (list(names), {}, 40)
            assert client._governor.in_flight == 0
    assert refused[0] > 0
    assert exchange.answers == {200: 40}


async def test_without_descriptors_or_open_connections_a_request_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allow(0, monkeypatch)
    options = {"budget": ProcessBudget(), "retry": RetryPolicy(attempts=1)}
    async with (
        LocalExchange() as exchange,
        OpenInterestClient(base_url=exchange.url, **options) as client,  # type: ignore[arg-type]
    ):
        with pytest.raises(TransportError, match="Too many open files"):
            await client.get_open_interest("BTCUSDT")
        assert (client._governor.in_flight, client.usage.used) == (0, 0)


def governor(connections: int) -> Governor:
    return Governor(ProcessBudget(limit=100_000).pool(""), max_in_flight=connections)


async def test_a_shortage_lowers_the_limit_to_the_other_requests_under_way() -> None:
    short = governor(10)
    permits = [await short.admit() for _ in range(4)]
    assert short.connections.lower(short.in_flight)
    permits.pop().give_back()
    assert (short.connections.now, short.in_flight) == (3, 3)
    waiting = asyncio.ensure_future(short.admit(max_wait=600.0))
    await asyncio.sleep(0)
    assert not waiting.done()
    permits.pop().give_back()
    permits.append(await waiting)
    for permit in permits:
        permit.give_back()


async def test_the_only_request_does_not_lower_the_connection_limit() -> None:
    short = governor(10)
    async with short.reserve():
        assert not short.connections.lower(short.in_flight)
        assert short.connections.now == 10


async def test_after_a_shortage_answers_raise_the_limit_again() -> None:
    short = governor(10)
    permits = [await short.admit() for _ in range(2)]
    assert short.connections.lower(short.in_flight)
    for permit in permits:
        permit.give_back()
    counts = []
    while short.connections.now < 10:
        async with short.reserve() as permit:
            permit.settle(200, {})
        counts.append(short.connections.now)
    assert counts.count(1) == 9  # every 10 answers (`most`) raise the limit by one
    assert len(counts) == 90


KEY = ConnectionKey("127.0.0.1", 80, False, True, None, None, None)


@pytest.mark.parametrize(
    "error, is_short",
    [
        (OSError(errno.EMFILE, ""), True),
        (OSError(errno.ENFILE, ""), True),
        (OSError(errno.ECONNREFUSED, ""), False),
        (ValueError(), False),
        (aiohttp.ClientConnectorError(KEY, OSError(errno.EMFILE, "")), True),
        (aiohttp.ClientConnectorError(KEY, OSError(errno.ECONNREFUSED, "")), False),
        (aiohttp.ClientConnectorError(KEY, OSError("several failed")), False),
    ],
)
def test_a_shortage_is_distinguished_from_other_errors(error: Exception, is_short: bool) -> None:
    assert is_out_of_descriptors(error) == is_short


def test_after_an_ambiguous_error_a_new_socket_shows_whether_descriptors_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, "")

    monkeypatch.setattr(socket, "socket", refuse)
    unresolved = aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(-3, "no answer"))
    assert is_out_of_descriptors(unresolved)
    distrusted = aiohttp.ClientConnectorCertificateError(KEY, ssl.CertificateError("expired"))
    assert not is_out_of_descriptors(distrusted)
    assert not is_out_of_descriptors(OSError(errno.ECONNRESET, ""))
