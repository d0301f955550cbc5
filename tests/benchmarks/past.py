"""Pages of the past: CPU for one, ours against tuned aiohttp with msgspec.

The rule of this file: both read the same pages from the same server over one connection each, in
turn, symbol by symbol, into structs with the same exact decimals.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from itertools import product

import aiohttp
import msgspec
from yarl import URL

from binance_oi import OpenInterestClient, ProcessBudget
from binance_oi.sending import governors

from .loopback import ROWS, STEP, SYMBOLS, loopback

PAGES = 17  # of 29.5 days
CALLS = 24  # of one round; a budget of the past that begins anew has room for 58
TUNED = "tuned aiohttp with msgspec"

Read = Callable[[str, int], Awaitable[object]]


class _Row(msgspec.Struct, gc=False):
    symbol: str
    sumOpenInterest: Decimal
    sumOpenInterestValue: Decimal
    CMCCirculatingSupply: Decimal
    timestamp: int


@asynccontextmanager
async def tuned(url: str, pace: float) -> AsyncIterator[Read]:
    """aiohttp as fast as we can make it: no governor, no checks, no retries, no timeout."""
    decode = msgspec.json.Decoder(list[_Row]).decode
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None)
    ) as session:

        async def read(symbol: str, last: int) -> object:
            rows: list[_Row] = []
            for _ in range(PAGES):
                if pace < UNPACED:
                    await asyncio.sleep(1.0 / pace)
                first = last - ROWS * STEP + 1
                query = f"symbol={symbol}&period=5m&limit=500&startTime={first}&endTime={last}"
                target = URL(f"{url}/futures/data/openInterestHist?{query}", encoded=True)
                response = await session.get(target, allow_redirects=False)
                rows[:0] = decode(await response.read())
                last = first - 1
            return rows

        yield read


@asynccontextmanager
async def ours(url: str, pace: float) -> AsyncIterator[Read]:
    """`client.history`."""
    with _paced(pace):
        async with OpenInterestClient(base_url=url, budget=ProcessBudget(), pace=pace) as client:

            async def read(symbol: str, last: int) -> object:
                first = last - PAGES * ROWS * STEP + 1
                return (await client.history(symbol, since=first, until=last)).rows

            yield read


UNPACED = 1e6  # pages in a second
PACED = governors.HISTORY_PACE


@contextmanager
def _paced(pace: float) -> Iterator[None]:
    """Let requests for the past leave at this pace."""
    before, governors.HISTORY_PACE = governors.HISTORY_PACE, pace
    try:
        yield
    finally:
        governors.HISTORY_PACE = before


def samples(rounds: int, *, packed: bool, pace: float) -> dict[str, list[float]]:
    """Seconds of CPU for one page, by whose they are, of each call.

    Args:
        rounds: Each has a server, a session and a client of its own.
        packed: Whether the server compresses.
        pace: Pages in a second.
    """
    found: dict[str, list[float]] = {TUNED: [], "ours": []}
    for _ in range(rounds):
        with loopback(packed=packed) as url:
            for name, seconds in asyncio.run(_cpu(url, pace)).items():
                found[name].append(seconds)
    return found


async def _cpu(url: str, pace: float) -> dict[str, float]:
    last = int(time.time()) // 300 * STEP
    async with tuned(url, pace) as theirs, ours(url, pace) as mine:
        readers = {TUNED: theirs, "ours": mine}
        spent = dict.fromkeys(readers, 0.0)
        for symbol in SYMBOLS[:CALLS]:  # the server makes each page when it is first asked for
            await theirs(symbol, last)
        await mine(SYMBOLS[0], last)
        for symbol, (name, read) in product(SYMBOLS[:CALLS], readers.items()):
            began = time.process_time()
            rows = await read(symbol, last)
            spent[name] += time.process_time() - began
            assert isinstance(rows, list | tuple)
            assert len(rows) == PAGES * ROWS
            del rows
    return {name: seconds / CALLS / PAGES for name, seconds in spent.items()}
