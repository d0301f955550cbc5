"""Measures the CPU for one page of history: our client against tuned aiohttp with msgspec.

The rule of this file: all clients read the same pages from the same server, each over one
connection, into structs with the same exact decimals. They take turns, symbol by symbol.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import msgspec
from yarl import URL

from binance_oi import MachineBudget, OpenInterestClient, ProcessBudget
from binance_oi.sending import governors

from .loopback import ROWS, STEP, SYMBOLS, loopback

PAGES = 17  # pages of a symbol: 29.5 days
CALLS = 24  # symbols of one round; a new budget admits the requests for 58 of them at once
UNPACED = 1e6  # pages a second, more than a client can read

Read = Callable[[str, int], Awaitable[object]]


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
async def ours(url: str, budget: ProcessBudget) -> AsyncIterator[Read]:
    """`client.history`."""
    async with OpenInterestClient(base_url=url, budget=budget, pace=UNPACED) as client:

        async def read(symbol: str, last: int) -> object:
            first = last - PAGES * ROWS * STEP + 1
            return (await client.history(symbol, since=first, until=last)).rows

        yield read


@contextmanager
def _unpaced() -> Iterator[None]:
    """Let pages follow each other at once: while a pacer waits, the CPU's caches would go cold."""
    before, governors.HISTORY_PACE = governors.HISTORY_PACE, UNPACED
    try:
        yield
    finally:
        governors.HISTORY_PACE = before


def samples(rounds: int, *, packed: bool) -> dict[str, list[float]]:
    """Seconds of CPU for one page in each round, by client.

    Args:
        rounds: The number of rounds, each with a new server and new clients.
        packed: Whether the server compresses each page.
    """
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        with loopback(packed=packed) as url, TemporaryDirectory() as directory, _unpaced():
            for name, seconds in asyncio.run(_cpu(url, Path(directory))).items():
                found.setdefault(name, []).append(seconds)
    return found


async def _cpu(url: str, directory: Path) -> dict[str, float]:
    last = int(time.time()) // 300 * STEP
    budget = MachineBudget(directory=directory)
    async with (
        tuned(url) as theirs,
        ours(url, ProcessBudget()) as mine,
        ours(url, budget) as shared,
    ):
        readers = {
            "tuned aiohttp with msgspec": theirs,
            "ours, ProcessBudget": mine,
            "ours, MachineBudget": shared,
        }
        for symbol in SYMBOLS[:CALLS]:  # so that the server has made each page
            await theirs(symbol, last)
        for read in (mine, shared):
            await read(SYMBOLS[0], last)
        spent = dict.fromkeys(readers, 0.0)
        for symbol, (name, read) in product(SYMBOLS[:CALLS], readers.items()):
            began = time.process_time()
            rows = await read(symbol, last)
            spent[name] += time.process_time() - began
            assert isinstance(rows, list | tuple)
            assert len(rows) == PAGES * ROWS
            del rows
    budget.close()
    return {name: seconds / CALLS / PAGES for name, seconds in spent.items()}
