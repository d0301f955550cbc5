"""Runs an application that contains the service: `python service_programs.py KIND`.

Rule of this file: each program contains the service as the page about serving shows it. A program
first prints its URL. At a signal, its server ends it.
"""

import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from binance_oi.testing import simulated_client
from binance_oi.web import OIAsgi, oi_app, oi_asgi, oi_lifespan

SYMBOLS = ("BTCUSDT", "ETHUSDT")


def on_aiohttp(place: socket.socket) -> None:
    from aiohttp import web

    async def make() -> web.Application:
        app, reading = web.Application(), simulated_client()
        client = await reading.__aenter__()
        app.add_subapp("/oi", oi_app(client, symbols=SYMBOLS, every=1.0))

        async def close(_: web.Application) -> None:
            await reading.__aexit__(None, None, None)

        app.on_cleanup.append(close)
        say(place, "/oi/")
        return app

    # By default, the server would wait a minute for a visitor that does not read.
    web.run_app(make(), sock=place, print=None, access_log=None, shutdown_timeout=1.0)


def on_fastapi(place: socket.socket) -> None:
    from fastapi import FastAPI

    on_mounted(FastAPI, place, "/oi")


def on_starlette(place: socket.socket) -> None:
    from starlette.applications import Starlette

    on_mounted(Starlette, place, "/a/b")


def on_mounted(make: Callable[..., Any], place: socket.socket, prefix: str) -> None:
    """Serve the service, mounted into an application from `make`."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with serving() as oi:
            app.mount(prefix, oi)
            yield

    on_uvicorn(make(lifespan=lifespan), place, f"{prefix}/")


def on_uvicorn(app: Any, place: socket.socket, path: str) -> None:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    say(place, path)
    with suppress(KeyboardInterrupt):  # as `uvicorn.run` does
        server.run(sockets=[place])


def alone(place: socket.socket) -> None:
    """Serve only the application of this package, which ends with the lifespan of uvicorn."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if not made:
            made.append(oi_asgi(await reading.__aenter__(), symbols=SYMBOLS, every=1.0))
        await made[0](scope, receive, send)
        if scope["type"] == "lifespan":
            await reading.__aexit__(None, None, None)

    reading, made = simulated_client(), list[OIAsgi]()
    on_uvicorn(app, place, "/")


@asynccontextmanager
async def serving() -> AsyncIterator[OIAsgi]:
    async with simulated_client() as client:
        oi = oi_asgi(client, symbols=SYMBOLS, every=1.0)
        async with oi_lifespan(oi):
            yield oi


def say(place: socket.socket, path: str) -> None:
    print(f"http://127.0.0.1:{place.getsockname()[1]}{path}", flush=True)


PROGRAMS = {
    "aiohttp": on_aiohttp,
    "FastAPI": on_fastapi,
    "Starlette": on_starlette,
    "uvicorn": alone,
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](socket.create_server(("127.0.0.1", 0)))
