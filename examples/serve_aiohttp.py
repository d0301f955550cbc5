"""Serve our routes in an aiohttp application: one poll serves two visitors of the live events."""

import asyncio

from aiohttp import ClientSession, web

from binance_oi.testing import simulated_client
from binance_oi.web import oi_app


async def follow(base: str, name: str) -> None:
    async with (
        ClientSession() as visitor,
        visitor.get(f"{base}/events?symbols=BTCUSDT,ETHUSDT") as stream,
    ):
        async for line in stream.content:
            if line.startswith(b"data: "):
                print(name, line.decode().strip()[:78])
                break  # a real program continues


async def main() -> None:
    async with simulated_client() as client:  # yours: OpenInterestClient()
        app = web.Application()
        app.add_subapp("/oi", oi_app(client))
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        base = f"http://127.0.0.1:{runner.addresses[0][1]}/oi"
        await asyncio.gather(follow(base, "one"), follow(base, "two"))
        print(f"weight for both of them: {client.usage.charged}")
        await runner.cleanup()


asyncio.run(main())
