"""Runs the service in the loop of the test, on each server for which it has an adapter.

Rule of this file: a visitor needs only a URL, so a test of a route can run on every server.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web

from binance_oi import OpenInterestClient
from binance_oi.web import OIAsgi, oi_app, oi_asgi, oi_lifespan
from binance_oi.web.aiohttp_app import SERVICE
from binance_oi.web.service import Service

PROXY = "127.0.0.1"

Serve = Callable[..., AbstractAsyncContextManager[tuple[str, Service]]]


@asynccontextmanager
async def _listening(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def on_aiohttp(
    client: OpenInterestClient | None, **options: Any
) -> AsyncIterator[tuple[str, Service]]:
    """The service as a part of another aiohttp application."""
    app, whole = oi_app(client, **options), web.Application()
    whole.add_subapp("/oi", app)
    async with _listening(whole) as url:
        yield f"{url}/oi", app[SERVICE]


@asynccontextmanager
async def behind_a_proxy(
    client: OpenInterestClient | None, **options: Any
) -> AsyncIterator[tuple[str, Service]]:
    """The service alone, behind a proxy that removes a prefix."""
    app = oi_app(client, proxies=[PROXY], **options)
    async with _listening(app) as inner, aiohttp.ClientSession(auto_decompress=False) as session:

        async def forward(request: web.Request) -> web.StreamResponse:
            target = inner + request.raw_path.removeprefix("/behind")
            headers = {**request.headers, "X-Forwarded-For": "192.0.2.1, 198.51.100.7"}
            async with session.request(
                request.method, target, headers=headers, allow_redirects=False
            ) as answer:
                response = web.StreamResponse(status=answer.status, headers=answer.headers)
                response.headers.popall("Transfer-Encoding", None)
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                return response

        outer = web.Application()
        outer.router.add_route("*", "/behind/{path:.*}", forward)
        async with _listening(outer) as url:
            yield f"{url}/behind", app[SERVICE]


@asynccontextmanager
async def on_fastapi(
    client: OpenInterestClient | None, **options: Any
) -> AsyncIterator[tuple[str, Service]]:
    """The service mounted in a FastAPI application, on uvicorn."""
    import fastapi

    app = oi_asgi(client, **options)
    whole = fastapi.FastAPI(lifespan=lambda _: oi_lifespan(app))
    whole.mount("/oi", app)
    async with _on_uvicorn(whole, app, "auto") as url:
        yield f"{url}/oi", app.service


@asynccontextmanager
async def on_starlette(
    client: OpenInterestClient | None, **options: Any
) -> AsyncIterator[tuple[str, Service]]:
    """The service mounted in a Starlette application without a lifespan, on uvicorn."""
    from starlette.applications import Starlette

    app, whole = oi_asgi(client, **options), Starlette()
    whole.mount("/a/b", app)
    async with _on_uvicorn(whole, app, "off") as url:
        yield f"{url}/a/b", app.service


@asynccontextmanager
async def on_uvicorn(
    client: OpenInterestClient | None, **options: Any
) -> AsyncIterator[tuple[str, Service]]:
    """The service alone on uvicorn, with a root path as behind a proxy."""
    app = oi_asgi(client, **options)
    async with _on_uvicorn(app, app, "on", root_path="/behind") as url:
        yield url, app.service


@asynccontextmanager
async def _on_uvicorn(whole: Any, app: OIAsgi, lifespan: str, **options: Any) -> AsyncIterator[str]:
    import uvicorn

    config = uvicorn.Config(whole, lifespan=lifespan, log_level="warning", **options)  # type: ignore[arg-type]
    server, place = uvicorn.Server(config), socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve(sockets=[place]))
    while not server.started:  # noqa: ASYNC110 - nobody sets an event
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{place.getsockname()[1]}"
    finally:
        app.service.drain()  # a signal would do this
        server.should_exit = True
        await serving
        await app.service.aclose()
        place.close()


SERVERS: dict[str, Serve] = {
    "aiohttp": on_aiohttp,
    "a proxy": behind_a_proxy,
    "FastAPI": on_fastapi,
    "Starlette": on_starlette,
    "uvicorn": on_uvicorn,
}
