"""Measures sweeps over TLS: how long one takes, and how many connections are best at a latency.

    python -m tests.benchmarks market
    python -m tests.benchmarks connections

The rule of this file: a client checks certificates, and computes real handshakes. TCP and TLS 1.3
each need a round trip, so a new connection gives its first answer two round trips later. The floor
is the time that the round trips of the requests need at least.
"""

import asyncio
import math
import ssl
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import aiohttp

from binance_oi import OpenInterestClient, ProcessBudget
from support.certificates import authority

from .contenders import HUGE
from .loopback import loopback

SYMBOLS = [f"S{number:03d}USDT" for number in range(840)]
LATENCIES_MS = (20, 50, 150)
CONNECTIONS = (25, 50, 100, 200)
HANDSHAKE = 2  # round trips
PAUSE = 1.0  # s between the two sweeps; by then, the pacer has recovered

Sweep = Callable[[], Awaitable[object]]
Contender = Callable[[str, ssl.SSLContext], AbstractAsyncContextManager[Sweep]]


class Cost(NamedTuple):
    """Wall and CPU seconds of a sweep that opens connections (cold), and of the next (warm)."""

    cold: float
    cold_cpu: float
    warm: float
    warm_cpu: float


@asynccontextmanager
async def gather(connections: int, url: str, tls: ssl.SSLContext) -> AsyncIterator[Sweep]:
    """`asyncio.gather` over tuned aiohttp."""
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        connector=aiohttp.TCPConnector(limit=connections, ssl=tls),
    ) as session:

        async def read(symbol: str) -> bytes:
            target = f"{url}/fapi/v1/openInterest?symbol={symbol}"
            async with session.get(target, allow_redirects=False) as response:
                return await response.read()

        async def sweep() -> object:
            return await asyncio.gather(*map(read, SYMBOLS))

        yield sweep


@asynccontextmanager
async def ours(connections: int, url: str, tls: ssl.SSLContext) -> AsyncIterator[Sweep]:
    """`client.snapshot`."""
    async with OpenInterestClient(
        base_url=url,
        budget=ProcessBudget(limit=HUGE),
        ssl=tls,
        max_connections=connections,
        pace=1e6,
    ) as client:

        async def sweep() -> object:
            market = await client.snapshot(SYMBOLS)
            assert len(market) == len(SYMBOLS)
            return market

        yield sweep


@contextmanager
def served(latency_s: float = 0.0) -> Iterator[tuple[str, ssl.SSLContext]]:
    """The URL of a server, and an SSL context that trusts its certificate."""
    issuer = authority("ours")
    tls = ssl.create_default_context()
    issuer.configure_trust(tls)
    with TemporaryDirectory() as directory:
        certificate = Path(directory) / "server.pem"
        issuer.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
        with loopback(latency_s, HANDSHAKE * latency_s, certificate=certificate) as url:
            yield url, tls


async def _cost(contender: Contender, url: str, tls: ssl.SSLContext) -> Cost:
    found = list[float]()
    async with contender(url, tls) as sweep:
        for _ in range(2):
            began, cpu = time.perf_counter(), time.process_time()
            await sweep()
            found += [time.perf_counter() - began, time.process_time() - cpu]
            await asyncio.sleep(PAUSE)
    return Cost(*found)


def market(rounds: int) -> None:
    """Print the costs of a sweep over 100 connections at 50 ms, and the ratio to `gather`."""
    latency_ms, connections = 50, 100
    floor = math.ceil(len(SYMBOLS) / connections) * latency_ms / 1e3
    costs = _costs(latency_ms, connections, rounds)
    print("| | warm, ms above the floor | CPU, ms | cold CPU, ms |\n|---|---|---|---|")
    for name, found in costs.items():
        warm, cpu, cold = (
            statistics.median(each) * 1e3
            for each in zip(*((c.warm - floor, c.warm_cpu, c.cold_cpu) for c in found), strict=True)
        )
        print(f"| {name} | {warm:.1f} | {cpu:.0f} | {cold:.0f} |")
    ratios = [
        (ours.warm - floor) / (theirs.warm - floor)
        for ours, theirs in zip(costs["ours"], costs["gather"], strict=True)
    ]
    print(f"\nours above the floor, gather = 1: {statistics.median(ratios):.2f}")


def _costs(latency_ms: int, connections: int, rounds: int) -> dict[str, list[Cost]]:
    contenders: dict[str, Contender] = {
        "gather": partial(gather, connections),
        "ours": partial(ours, connections),
    }
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            with served(latency_ms / 1000) as (url, tls):
                costs[name].append(asyncio.run(_cost(contender, url, tls)))
    return costs


def main(rounds: int) -> None:
    """Print the costs of a sweep for each number of connections at each latency."""
    print(
        "| latency, ms | connections | who | cold, ms above the floor | CPU, ms "
        "| warm, ms above the floor | CPU, ms |\n|---|---|---|---|---|---|---|"
    )
    for latency_ms, connections in product(LATENCIES_MS, CONNECTIONS):
        floor = math.ceil(len(SYMBOLS) / connections) * latency_ms
        for name, found in _costs(latency_ms, connections, rounds).items():
            cold, cold_cpu, warm, warm_cpu = (
                statistics.median(each) * 1e3 for each in zip(*found, strict=True)
            )
            print(
                f"| {latency_ms} | {connections} | {name} "
                f"| {cold - floor - HANDSHAKE * latency_ms:.0f} | {cold_cpu:.0f} "
                f"| {warm - floor:.0f} | {warm_cpu:.0f} |",
                flush=True,
            )
