"""Thousands of calls at once: gather them all, and the client sends what the limit allows."""

import asyncio
from time import perf_counter

from binance_oi import OpenInterestClient
from binance_oi.simulator import LocalExchange


async def main() -> None:
    async with (
        LocalExchange() as exchange,
        OpenInterestClient(base_url=exchange.url) as client,
    ):
        symbols = await client.symbols()
        print(f"before: used {client.usage.used} of {client.usage.limit}")
        began = perf_counter()
        # If there are more calls than fit into a minute, the rest go just after the rollover.
        await asyncio.gather(
            *(client.get_open_interest(symbols[i % len(symbols)]) for i in range(2000))
        )
        print(f"2000 values in {perf_counter() - began:.1f} s")
        print(f"after: used {client.usage.used} of {client.usage.limit}")
        print(f"answers by status: {dict(exchange.answers)}")


asyncio.run(main())
