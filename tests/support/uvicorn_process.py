"""FastAPI on uvicorn with the service mounted, in a process of its own: it prints its URL.

Rule of this file: it is what a user writes, and a signal ends it.
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from binance_oi.testing import simulated_client
from binance_oi.web import oi_asgi, oi_lifespan


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with simulated_client() as client:
        oi = oi_asgi(client, symbols=["BTCUSDT"], every=1.0)
        app.mount("/oi", oi)
        async with oi_lifespan(oi):
            yield


if __name__ == "__main__":
    place = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{place.getsockname()[1]}/oi/", flush=True)
    server = uvicorn.Server(uvicorn.Config(FastAPI(lifespan=lifespan), log_level="warning"))
    asyncio.run(server.serve(sockets=[place]))
    place.close()
    sys.exit(0)
