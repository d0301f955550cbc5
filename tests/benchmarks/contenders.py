"""The clients that the benchmarks compare; each call of a client reads one symbol."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from ssl import SSLContext
from typing import Protocol

import aiohttp
import msgspec
from yarl import URL

from binance_oi import MachineBudget, OpenInterestClient, ProcessBudget

from .loopback import SYMBOLS

Read = Callable[[str], Awaitable[object]]


class Contender(Protocol):
    """A client of the exchange at a URL; `ssl` has the certificates that it trusts."""

    def __call__(
        self, url: str, ssl: SSLContext | None = None
    ) -> AbstractAsyncContextManager[Read]:
        """Open the client."""
        ...


HUGE = 10**9  # weight a minute: a limit so high that the budget decides as usual, but always admits


class _Answer(msgspec.Struct):
    symbol: str
    openInterest: str
    time: int


@asynccontextmanager
async def plain(url: str, ssl: SSLContext | None = None) -> AsyncIterator[Read]:
    """The simplest client: aiohttp and `response.json()`."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=ssl or True)) as session:

        async def read(symbol: str) -> object:
            async with session.get(
                f"{url}/fapi/v1/openInterest", params={"symbol": symbol}
            ) as response:
                answer = await response.json()
                return Decimal(answer["openInterest"])

        yield read


@asynccontextmanager
async def tuned(url: str, ssl: SSLContext | None = None) -> AsyncIterator[Read]:
    """aiohttp as fast as we can make it: no governor, no checks, no retries, no timeout."""
    decode = msgspec.json.Decoder(_Answer).decode
    urls = {s: URL(f"{url}/fapi/v1/openInterest?symbol={s}", encoded=True) for s in SYMBOLS}
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        connector=aiohttp.TCPConnector(limit=100, ssl=ssl or True),
    ) as session:

        async def read(symbol: str) -> object:
            response = await session.get(urls[symbol], allow_redirects=False)
            answer = decode(await response.read())
            return Decimal(answer.openInterest)

        yield read


@asynccontextmanager
async def process_budget(url: str, ssl: SSLContext | None = None) -> AsyncIterator[Read]:
    """Our client, with a budget for this process."""
    budget = ProcessBudget(limit=HUGE)
    async with OpenInterestClient(base_url=url, budget=budget, pace=1e6, ssl=ssl) as client:
        yield client.get_open_interest


def machine_budget(directory: Path) -> Contender:
    """Our client, with the budget that all processes of the machine share."""

    @asynccontextmanager
    async def contender(url: str, ssl: SSLContext | None = None) -> AsyncIterator[Read]:
        budget = MachineBudget(limit=HUGE, directory=directory)
        async with OpenInterestClient(base_url=url, budget=budget, pace=1e6, ssl=ssl) as client:
            yield client.get_open_interest
        budget.close()

    return contender


async def read_all(read: Read, count: int, workers: int) -> None:
    """Read `count` times, `workers` reads at a time."""
    left = iter(range(count))

    async def worker() -> None:
        for number in left:
            await read(SYMBOLS[number % len(SYMBOLS)])

    await asyncio.gather(*(worker() for _ in range(workers)))
