"""Read a month of the public archive: the change of each day, and the instants without a row."""

import asyncio
from datetime import timedelta

from binance_oi import Archive
from binance_oi.simulator import LocalExchange


async def main() -> None:
    async with (
        LocalExchange() as exchange,  # the real archive needs no base_url
        Archive("oi-archive", base_url=exchange.url, pace=100.0) as archive,
    ):
        async for day in archive.days(["BTCUSDT", "ETHUSDT"], since=timedelta(days=30)):
            rows = list(day)
            if rows:
                change = rows[-1].open_interest / rows[0].open_interest - 1
                print(f"{day.symbol} {day.day}: {change:+.2%} in {len(rows)} rows")
            for hole in day.holes:
                print(f"{day.symbol} has nothing at {hole}")


asyncio.run(main())
