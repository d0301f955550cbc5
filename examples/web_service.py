"""Use one client for the whole life of a web service; its values are up to a second old."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import ClientSession, web

from binance_oi import OpenInterestClient
from binance_oi.simulator import LocalExchange

CLIENT = web.AppKey("client", OpenInterestClient)


async def client_for_life(app: web.Application) -> AsyncIterator[None]:
    async with LocalExchange() as exchange, OpenInterestClient(base_url=exchange.url) as client:
        app[CLIENT] = client
        yield
        print(f"weight used for all of them: {client.usage.charged}")


async def open_interest(request: web.Request) -> web.Response:
    value = await request.app[CLIENT].get_open_interest(request.match_info["symbol"], max_age=1)
    return web.json_response(value.to_dict())


async def main() -> None:
    app = web.Application()
    app.cleanup_ctx.append(client_for_life)
    app.router.add_get("/{symbol}", open_interest)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as visitor:
        visits = await asyncio.gather(*(visitor.get("/BTCUSDT") for _ in range(100)))
        print(f"{len(visits)} visitors, the last one got {await visits[-1].text()}")
    await runner.cleanup()


asyncio.run(main())
