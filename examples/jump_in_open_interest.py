"""A bot that reacts when open interest jumps."""

import asyncio
from contextlib import aclosing

from binance_oi import OpenInterestClient, Snapshot
from binance_oi.simulator import LocalExchange

JUMP = 0.0001  # share of the open interest; a real bot waits for more


def jumps(before: Snapshot, now: Snapshot) -> list[str]:
    changes: list[str] = []
    for symbol, value in now.items():
        if symbol in before and symbol not in now.unchanged:
            old = before[symbol].open_interest
            share = float((value.open_interest - old) / old)
            if abs(share) >= JUMP:
                changes.append(f"{symbol} {share:+.3%}, notional {now.notional[symbol]:,.0f}")
    return changes


async def main() -> None:
    async with LocalExchange() as exchange, OpenInterestClient(base_url=exchange.url) as client:
        symbols = ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
        async with aclosing(client.poll(symbols, every=2.0, notional=True)) as snapshots:
            before = await anext(snapshots)
            async for now in snapshots:
                for gap in now.missed:  # across a gap, a jump may have taken longer
                    print("missed", gap)
                if found := jumps(before, now):
                    print(*found, sep="\n")
                    break
                before = now


asyncio.run(main())
