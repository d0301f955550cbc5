"""Makes the service an ASGI application, alone or mounted in another application.

The rule of this file: like `aiohttp_app`, it only translates requests and answers. It needs no
framework, and no extra of this package.

Source: https://asgi.readthedocs.io/en/latest/specs/ (HTTP 2.5, lifespan 2.0).
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Unpack

from binance_oi.client import OpenInterestClient
from binance_oi.web.events import OPENING
from binance_oi.web.hub import FullError, Listener
from binance_oi.web.messages import Answer, Headers, Request
from binance_oi.web.router import Router, Stream
from binance_oi.web.service import Options, Service
from binance_oi.web.signals import Draining

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class OIAsgi:
    """The ASGI application that `oi_asgi` makes."""

    def __init__(self, service: Service) -> None:
        self.service: Service = service
        self.draining: Draining | None = None
        """Ends the streams at SIGINT or SIGTERM; None outside `oi_lifespan`."""
        self._router = Router(service)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection; see the specification of ASGI."""
        match scope["type"]:
            case "lifespan":
                await self._lifespan(receive, send)
            case "http":
                await self._http(scope, receive, send)
            case "websocket":
                await send({"type": "websocket.close", "code": 1000})
            case kind:
                raise RuntimeError(f"this application does not serve {kind}")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        async with oi_lifespan(self):
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Message, receive: Receive, send: Send) -> None:
        result = await self._router.answer(_request(scope))
        with suppress(OSError):  # the visitor has left
            if isinstance(result, Answer):
                await _answer(result, send)
                return
            if self.draining is not None:
                self.draining.install()  # the server may have set its own handlers meanwhile
            try:
                await _stream(result, receive, send)
            except FullError:
                await _answer(result.full, send)


def oi_asgi(client: OpenInterestClient | None = None, **options: Unpack[Options]) -> OIAsgi:
    """Make an ASGI application that serves open interest.

        app.mount("/oi", oi_asgi(client))

    The first request for a snapshot, changes or events starts one poll for all visitors. If a
    server runs this application alone, the poll ends with the server. But frameworks do not notify
    a mounted application when they end, so run `oi_lifespan` in the lifespan of your own
    application.

    Args:
        client: Sends the requests to the exchange. With None, the service sends no requests, and
            serves only the values of the option `recording`.
        options: See `Options`.

    Raises:
        TypeError: Both the client and the option `recording` are missing; or an option is unknown,
            or has another type.
        ValueError: An option is out of range.
        InvalidSymbolError: One of `symbols` cannot be a symbol.
    """
    return OIAsgi(Service(client, options))


@asynccontextmanager
async def oi_lifespan(app: OIAsgi) -> AsyncGenerator[None, None]:
    """Run a mounted application during the block; its streams and its poll end with the block.

    Before a server ends an application, it waits for open streams. So within the block, SIGINT and
    SIGTERM first end the streams, and then call the handlers that were set before.
    """
    service = app.service
    service.open()
    app.draining = draining = Draining(service.drain)
    draining.install()
    try:
        yield
    finally:
        draining.forget()
        app.draining = None
        await service.aclose()


def _request(scope: Message) -> Request:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    # Servers and frameworks differ in whether `path` includes the mount point, `root_path`.
    if root and (path == root or path.startswith(f"{root}/")):
        path = path[len(root) :] or "/"
    peer = scope.get("client") or ("",)
    query = scope.get("query_string", b"").decode("latin-1")
    return Request(scope["method"], path, query, headers, lambda: str(peer[0]))


def _start(status: int, headers: Headers) -> Message:
    encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return {"type": "http.response.start", "status": status, "headers": encoded}


async def _answer(answer: Answer, send: Send) -> None:
    body = answer.body
    length = () if answer.status in (204, 304) else (("Content-Length", str(len(body))),)
    await send(_start(answer.status, (*answer.headers, *length)))
    await send({"type": "http.response.body", "body": body})


async def _stream(stream: Stream, receive: Receive, send: Send) -> None:
    """Send the events until the visitor leaves or stops reading, or the hub closes.

    Raises:
        FullError: There are too many listeners, or the hub is closed; nothing was sent.
    """
    listener = stream.listen(cut=lambda: writing.cancel())
    writing = asyncio.create_task(_write(listener, stream.headers, send))
    leaving = asyncio.create_task(_until_gone(receive))
    try:
        await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        listener.leave()
        leaving.cancel()
        writing.cancel()  # otherwise it would wait as long as the visitor reads nothing
        await asyncio.wait({writing, leaving})
    if not writing.cancelled():
        writing.result()


async def _write(listener: Listener, headers: Headers, send: Send) -> None:
    await send(_start(200, headers))
    await send(_chunk(OPENING))
    while (data := await listener.next()) is not None:
        await send(_chunk(data))
    await send({"type": "http.response.body", "body": b""})


def _chunk(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
