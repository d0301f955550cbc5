"""The service as an aiohttp application, alone or as a part of another one.

The rule of this file: it only translates requests and answers. `Router` decides every answer.
"""

from functools import partial
from typing import Unpack

from aiohttp import web

from binance_oi.client import OpenInterestClient
from binance_oi.web.events import OPENING
from binance_oi.web.hub import FullError
from binance_oi.web.messages import Answer, Request
from binance_oi.web.router import Router, Stream
from binance_oi.web.service import Options, Service

SERVICE: web.AppKey[Service] = web.AppKey("binance_oi", Service)


def oi_app(client: OpenInterestClient | None = None, **options: Unpack[Options]) -> web.Application:
    """Make an application that serves open interest.

        app.add_subapp("/oi", oi_app(client))

    The first request for a snapshot, changes or events starts one poll for all visitors. When the
    application ends, it ends all streams. It does not close the client: close it after the
    application.

    Args:
        client: Sends the requests to the exchange. With None, the service sends no requests, and
            serves only the values of the option `recording`.
        options: See `Options`.

    Raises:
        TypeError: Both the client and the option `recording` are missing; or an option is unknown;
            or an argument has the wrong type.
        ValueError: An option is out of range.
        InvalidSymbolError: One of `symbols` cannot be a symbol.
    """
    service = Service(client, options)
    app = web.Application()
    app[SERVICE] = service
    router = Router(service)
    for path in router.plain_paths:  # aiohttp finds these without a pattern
        app.router.add_route("*", path, partial(_handle, router, path))
    app.router.add_route("*", "/{path:.*}", partial(_handle_any, router))
    app.on_startup.append(_open)
    app.on_shutdown.append(_drain)
    app.on_cleanup.append(_close)
    return app


async def _open(app: web.Application) -> None:
    app[SERVICE].open()


async def _drain(app: web.Application) -> None:
    app[SERVICE].drain()


async def _close(app: web.Application) -> None:
    await app[SERVICE].aclose()


async def _handle_any(router: Router, request: web.Request) -> web.StreamResponse:
    return await _handle(router, f"/{request.match_info['path']}", request)


async def _handle(router: Router, path: str, request: web.Request) -> web.StreamResponse:
    query = request.raw_path.partition("?")[2]
    result = await router.answer(
        Request(request.method, path, query, request.headers, lambda: request.remote or "")
    )
    if isinstance(result, Answer):
        return _response(result)
    return await _stream(request, result)


def _response(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, headers=answer.headers, body=answer.body or None)


async def _stream(request: web.Request, stream: Stream) -> web.StreamResponse:
    transport, response = request.transport, web.StreamResponse(headers=stream.headers)
    if transport is None:  # the visitor has left already
        return response
    try:
        listener = stream.listen(cut=transport.abort, is_gone=transport.is_closing)
    except FullError:
        return _response(stream.full)
    try:
        await response.prepare(request)
        await response.write(OPENING)
        while (data := await listener.next()) is not None:
            await response.write(data)
    except ConnectionError:  # the visitor has left
        pass
    finally:
        listener.leave()
    return response
