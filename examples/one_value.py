"""One value: exact, with the exchange's own time."""

import asyncio

from binance_oi import OpenInterestClient
from binance_oi.simulator import LocalExchange


async def main() -> None:
    # For the real exchange leave out `base_url`, and the local exchange with it.
    async with (
        LocalExchange() as exchange,
        OpenInterestClient(base_url=exchange.url) as client,
    ):
        value = await client.get_open_interest("BTCUSDT")
        print(f"{value.symbol}: {value.open_interest} BTC at {value.datetime:%H:%M:%S} UTC")


asyncio.run(main())
