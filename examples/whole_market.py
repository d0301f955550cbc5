"""Read the whole market, and print the largest values, the time they span, and what failed."""

import asyncio

from binance_oi import OpenInterestClient
from binance_oi.simulator import LocalExchange


async def main() -> None:
    async with (
        LocalExchange() as exchange,
        OpenInterestClient(base_url=exchange.url) as client,
    ):
        # `client.snapshot()` reads every trading symbol; this adds one that does not exist.
        market = await client.snapshot([*await client.symbols(), "NOSUCHUSDT"])

    largest = sorted(market.values(), key=lambda value: value.open_interest, reverse=True)
    for value in largest[:10]:
        print(f"{value.symbol:<14} {value.open_interest:>22,} units of its base asset")
    print(f"{len(market)} symbols for weight {market.weight}, {market.skew_ms} ms apart")
    for symbol, error in market.errors.items():
        print(f"{symbol}: {type(error).__name__}: {error}")


asyncio.run(main())
