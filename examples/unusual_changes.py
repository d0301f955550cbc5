"""Find changes over an hour that are unusual for their symbol, already in the first sweep."""

import asyncio
from datetime import timedelta

from binance_oi import ChangeTracker, OpenInterestClient
from binance_oi.simulator import LocalExchange

SYMBOLS = ["BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"]


async def main() -> None:
    tracker = ChangeTracker(["1h"])
    async with (
        LocalExchange() as exchange,
        OpenInterestClient(base_url=exchange.url) as client,
    ):
        async for past in client.histories(SYMBOLS, since=timedelta(hours=41)):
            tracker.fill(past.symbol, past)
        async for market in client.poll(SYMBOLS, every=1.0):
            for value in market.values():
                tracker.observe(value.symbol, value.time, value.open_interest)
                change = tracker.latest(value.symbol, "1h")
                if change is None or change.z_score is None or change.percent is None:
                    continue
                mark = "!" if abs(change.z_score) > 2.0 else " "
                print(f"{mark} {value.symbol}: {change.percent:+.2f} %, z {change.z_score:+.1f}")
            break  # yours continues


asyncio.run(main())
