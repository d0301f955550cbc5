"""Counts the requests to the exchange while 300 visitors read one value for a minute.

Rule of this file: time and connections are real, and only requests are counted.
"""

import asyncio

import aiohttp

from binance_oi import OpenInterestClient, ProcessBudget
from binance_oi.simulator import LocalExchange
from support.service_servers import on_aiohttp

VISITORS, SECONDS, MAX_AGE = 300, 60.0, 2
MOST = 31  # requests: the first, and 60 s / 2 s = 30 more


async def measure() -> bool:
    """Print the counts; return whether they stay within their bound."""
    answers = refused = 0
    async with (
        LocalExchange() as exchange,
        OpenInterestClient(base_url=exchange.url, budget=ProcessBudget()) as client,
        on_aiohttp(client) as (url, _),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=VISITORS)) as session,
    ):
        end = asyncio.get_running_loop().time() + SECONDS

        async def visit() -> None:
            nonlocal answers, refused
            while asyncio.get_running_loop().time() < end:
                path = f"{url}/open-interest/BTCUSDT?max_age={MAX_AGE}"
                async with session.get(path) as answer:
                    await answer.read()
                    answers, refused = answers + 1, refused + (answer.status != 200)

        await asyncio.gather(*(visit() for _ in range(VISITORS)))
        asked = sum(exchange.weights.values())
    print(
        f"\n{VISITORS} visitors, {SECONDS:.0f} s, max_age {MAX_AGE} s: {answers:,} answers, ",
        end="",
    )
    print(f"{refused} refused, {asked} requests to the exchange")
    return asked <= MOST and not refused
