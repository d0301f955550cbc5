"""Serve our routes in a FastAPI application, on uvicorn."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from aiohttp import ClientSession
from fastapi import FastAPI

from binance_oi.testing import simulated_client
from binance_oi.web import oi_asgi, oi_lifespan


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with simulated_client() as client:  # yours: OpenInterestClient()
        oi = oi_asgi(client)
        app.mount("/oi", oi)
        async with oi_lifespan(oi):
            yield


async def main() -> None:
    app, place = FastAPI(lifespan=lifespan), socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    serving = asyncio.create_task(server.serve(sockets=[place]))
    url = f"http://127.0.0.1:{place.getsockname()[1]}/oi/open-interest"
    async with ClientSession() as visitor:
        for symbol in ("BTCUSDT", "NOSUCHUSDT"):
            async with visitor.get(f"{url}/{symbol}?max_age=2") as answer:
                print(answer.status, await answer.text())
    server.should_exit = True
    await serving


asyncio.run(main())
