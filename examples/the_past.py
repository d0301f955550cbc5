"""Read the past of some symbols: their change in a day, and the instants without a row."""

import asyncio
from datetime import timedelta

from binance_oi import HistoryProgress, OpenInterestClient
from binance_oi.simulator import LocalExchange


def tell(seen: HistoryProgress) -> None:
    print(f"{seen.done} of {seen.symbols}, {seen.rows} rows, {seen.seconds_left:.0f} s left")


async def main() -> None:
    async with (
        LocalExchange() as exchange,
        OpenInterestClient(base_url=exchange.url) as client,
    ):
        symbols = ["BTCUSDT", "ETHUSDT", "NOSUCHUSDT"]
        async for past in client.histories(symbols, since=timedelta(days=1), on_progress=tell):
            if past.error is not None:
                print(f"{past.symbol}: {past.error}")
                continue
            change = past[-1].open_interest / past[0].open_interest - 1
            print(f"{past.symbol}: {change:+.2%} in {len(past)} rows")
            for hole in past.holes:
                print(f"{past.symbol} has nothing at {hole}")


asyncio.run(main())
