"""Pages of the past: CPU for one, ours against tuned aiohttp with msgspec.

The rule of this file: both read the same pages from the same server, one after the other, into the
same kinds of values.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal

import aiohttp
import msgspec
from yarl import URL

from binance_oi import OpenInterestClient, ProcessBudget

from .loopback import SYMBOLS, loopback

STEP, ROWS, PAGES = 300_000, 500, 17  # ms, rows of a page, pages of 29.5 days
CALLS = 20  # of one measurement; a new budget of the past has room for 58

Read = Callable[[str, int], Awaitable[object]]
Reader = Callable[[str], AbstractAsyncContextManager[Read]]


class _Row(msgspec.Struct, gc=False):
    symbol: str
    sumOpenInterest: Decimal
    sumOpenInterestValue: Decimal
    CMCCirculatingSupply: Decimal
    timestamp: int


@asynccontextmanager
async def tuned(url: str) -> AsyncIterator[Read]:
    """aiohttp as fast as we can make it: no governor, no checks, no retries, no timeout."""
    decode = msgspec.json.Decoder(list[_Row]).decode
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None)
    ) as session:

        async def read(symbol: str, last: int) -> object:
            rows: list[_Row] = []
            for _ in range(PAGES):
                first = last - ROWS * STEP + 1
                query = f"symbol={symbol}&period=5m&limit=500&startTime={first}&endTime={last}"
                target = URL(f"{url}/futures/data/openInterestHist?{query}", encoded=True)
                response = await session.get(target, allow_redirects=False)
                rows[:0] = decode(await response.read())
                last = first - 1
            return rows

        yield read


@asynccontextmanager
async def ours(url: str) -> AsyncIterator[Read]:
    """`client.history`."""
    async with OpenInterestClient(base_url=url, budget=ProcessBudget()) as client:

        async def read(symbol: str, last: int) -> object:
            first = last - PAGES * ROWS * STEP + 1
            return (await client.history(symbol, since=first, until=last)).rows

        yield read


def samples(rounds: int) -> dict[str, list[float]]:
    """Seconds of CPU for one page, by contender."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, reader in {"tuned aiohttp with msgspec": tuned, "ours": ours}.items():
            with loopback() as url:
                found.setdefault(name, []).append(asyncio.run(_cpu(reader, url)))
    return found


async def _cpu(reader: Reader, url: str) -> float:
    last = int(time.time()) // 300 * STEP
    async with reader(url) as read:
        await read(SYMBOLS[0], last)
        began = time.process_time()
        for symbol in SYMBOLS[1 : CALLS + 1]:
            rows = await read(symbol, last)
            assert isinstance(rows, list | tuple)
            assert len(rows) == PAGES * ROWS
        return (time.process_time() - began) / CALLS / PAGES
