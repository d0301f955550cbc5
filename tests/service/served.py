"""Runs our server or a bare aiohttp handler that writes the same bytes; obeys commands on stdin.

    python -m tests.service.served ours|bare

Rule of this file: the bare handler is the simplest code for the task. Both servers print their
port. Each line on stdin is a command, and the server answers with one line:

    prepare N   make the bytes of event N, for the bare handler
    publish N   send event N to every listener
    figures     CPU seconds of this process, and its resident bytes
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from binance_oi.web import Hub, Limits, View, oi_app
from binance_oi.web.aiohttp_app import SERVICE
from binance_oi.web.events import OPENING
from binance_oi.web.hub import Source
from support.market_source import FedSource, reading

SYMBOLS = tuple(f"S{number:03}USDT" for number in range(789))
LIMITS = Limits(listeners=20_000)
LARGE = 2**24  # bytes


def values(number: int) -> dict[str, str]:
    """The values of the market in event `number`; each differs from that in every other event."""
    return {name: f"{10_000 + place * 7 + number}.{place:03}" for place, name in enumerate(SYMBOLS)}


class Ours:
    def __init__(self) -> None:
        self._source = FedSource()
        self.app = oi_app(None, recording="never.db", hosts=["127.0.0.1"], limits=LIMITS)
        service = self.app[SERVICE]
        service.hub = Hub(self._source, limits=LIMITS)

    async def prepare(self, number: int) -> None:
        """Do nothing, because making the bytes is a part of our server's work."""

    async def publish(self, number: int) -> None:
        hub = self.app[SERVICE].hub
        self._source.feed(reading(number, values(number)))
        while hub.number < number + 1:  # noqa: ASYNC110 - the hub sets no event
            await asyncio.sleep(0)


class Bare:
    def __init__(self) -> None:
        self._source: Source = FedSource()
        self._hub = Hub(self._source, limits=LIMITS)  # makes the bytes before the measurement
        self._bytes: dict[str, bytes] = {}
        self._views: dict[str, View] = {}
        self._news: asyncio.Future[None] | None = None
        self._body = b""
        self.app = web.Application()
        self.app.router.add_get("/events", self._events)
        self.app.router.add_get("/snapshot", self._snapshot)

    async def prepare(self, number: int) -> None:
        self._hub.publish(reading(number, values(number)))
        event, state = self._hub.after(number), self._hub.state
        assert event is not None
        assert state is not None
        for name, view in self._views.items():
            self._bytes[name] = event.framed(view)
        self._body = state.data(View())

    async def publish(self, number: int) -> None:
        news, self._news = self._news, asyncio.get_running_loop().create_future()
        if news is not None:
            news.set_result(None)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        name = request.query.get("symbols", "")
        if name not in self._views:
            self._views[name] = View(tuple(name.split(","))) if name else View()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(OPENING)
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        while True:
            await self._news
            await response.write(self._bytes[name])

    async def _snapshot(self, request: web.Request) -> web.Response:
        return web.Response(body=self._body, content_type="application/json")


def figures() -> dict[str, Any]:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return {"cpu": time.process_time(), "rss": pages * os.sysconf("SC_PAGE_SIZE")}


async def main(kind: str) -> None:
    # Until a process has freed a large block, glibc may return the memory of an answer to the
    # kernel after each request. In some runs, that makes one of the two servers a third slower.
    bytearray(LARGE)
    server = Ours() if kind == "ours" else Bare()
    runner = web.AppRunner(server.app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    if isinstance(server, Ours):
        server.app[SERVICE].begin()
    print(runner.addresses[0][1], flush=True)
    loop, lines = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        command, _, argument = line.decode().strip().partition(" ")
        if command == "figures":
            print(json.dumps(figures()), flush=True)
        else:
            await getattr(server, command)(int(argument))
            print("done", flush=True)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
