"""Test a bot: `pytest examples/test_of_a_bot.py`, or run this file. An hour in it takes no time."""

import asyncio
import subprocess
import sys
from contextlib import aclosing
from decimal import Decimal

from binance_oi import OpenInterestClient
from binance_oi.testing import VirtualTime, simulated_client


async def wait_for_jump(client: OpenInterestClient, symbol: str, share: Decimal) -> str:
    """The bot."""
    async with aclosing(client.poll([symbol], every=60.0)) as snapshots:
        before = (await anext(snapshots))[symbol]
        async for now in snapshots:
            if symbol in now and now[symbol].open_interest >= before.open_interest * (1 + share):
                return f"{symbol} jumped"
    return "the client was closed"


def test_the_bot_sees_a_jump_after_an_hour_and_an_outage(virtual_time: VirtualTime) -> None:
    async def scenario() -> None:
        async with simulated_client() as client:
            bot = asyncio.create_task(wait_for_jump(client, "BTCUSDT", Decimal("0.2")))
            await asyncio.sleep(3600.0)
            client.exchange.fail(10)
            client.exchange.jump("BTCUSDT", 0.25)
            assert await bot == "BTCUSDT jumped"

    asyncio.run(scenario())


if __name__ == "__main__":
    subprocess.run([sys.executable, "-m", "pytest", "-q", __file__], check=True)
