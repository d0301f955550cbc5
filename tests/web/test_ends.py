"""On every server, a signal ends the service despite open streams, without a message on stderr.

The processes are real, and run under `-X dev -W error`. So they write a line on stderr if they leak
a task, a socket or a generator, or fail when a visitor disconnects.
"""

import asyncio
import os
import signal
import socket
import sys
import urllib.parse
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from support.busy import without_busy
from support.lanes import thorough

HANGS = 600.0  # s after which a process counts as hung
PROGRAM = str(Path(__file__).resolve().parents[1] / "support" / "service_programs.py")
FEW = ("BTCUSDT", "ETHUSDT", "--every", "1s", "--simulated", "--port", "0")
COMMANDS = {
    "serve": ("-m", "binance_oi", "serve", *FEW),
    **{kind: (PROGRAM, kind) for kind in ("aiohttp", "FastAPI", "Starlette", "uvicorn")},
}
GET = "GET {path}{route} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="this needs POSIX signals"),
    pytest.mark.skipif(find_spec("fastapi") is None, reason="FastAPI is missing"),
]


class Ended(NamedTuple):
    code: int
    said: list[str]


class Running:
    """A process that serves, and its visitors."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        place = urllib.parse.urlsplit(url)
        assert place.port is not None, url
        self._port, self._path = place.port, place.path

    async def connect(self, buffer: int | None = None) -> socket.socket:
        connection = socket.socket()
        connection.setblocking(False)
        if buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self._port))
        return connection

    async def ask(self, route: str, buffer: int | None = None) -> socket.socket:
        connection = await self.connect(buffer)
        request = GET.format(path=self._path, route=route).encode()
        await asyncio.get_running_loop().sock_sendall(connection, request)
        return connection

    async def stream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a stream, and wait for its first event."""
        connection = await self.ask("events")
        reader, writer = await asyncio.open_connection(sock=connection)
        await reader.readuntil(b"event: state")
        return reader, writer

    async def ended(self) -> Ended:
        _, said = await asyncio.wait_for(self.process.communicate(), HANGS)
        assert self.process.returncode is not None
        return Ended(self.process.returncode, without_busy(said.decode()))


@asynccontextmanager
async def running(kind: str) -> AsyncIterator[Running]:
    pipe, command = asyncio.subprocess.PIPE, COMMANDS[kind]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", *command),
        stdout=pipe,
        stderr=pipe,
        env={**os.environ, "PYTHONASYNCIODEBUG": "0"},
    )
    assert process.stdout is not None
    try:
        yield Running(process, (await process.stdout.readline()).decode().strip())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def codes(kind: str, number: signal.Signals) -> Sequence[int]:
    """The possible exit codes. uvicorn sends itself the signal again, which may kill it."""
    return (0,) if kind in ("serve", "aiohttp") else (-number, 0)


@pytest.mark.parametrize(
    "kind, number",
    [
        *((kind, signal.SIGTERM) for kind in ("serve", "FastAPI")),
        *thorough(*((kind, signal.SIGTERM) for kind in ("aiohttp", "Starlette", "uvicorn"))),
        *thorough(*((kind, signal.SIGINT) for kind in COMMANDS)),
    ],
)
async def test_a_signal_ends_a_service_and_its_streams_without_output_on_stderr(
    kind: str, number: signal.Signals
) -> None:
    async with running(kind) as service:
        left = await service.stream()
        left[1].transport.abort()  # in the middle of its stream
        streams = [await service.stream() for _ in range(5)]
        silent = [
            await service.connect(),  # a visitor that sends nothing
            await service.ask("events", buffer=2048),  # a listener that does not read
            await service.ask("snapshot"),  # a visitor that keeps its connection
        ]
        half = await service.connect()
        await asyncio.get_running_loop().sock_sendall(half, b"GET /events HTTP/1.1\r\nHo")
        for reader, _ in streams:
            await reader.readuntil(b"event: sweep")
        service.process.send_signal(number)
        rests = [await asyncio.wait_for(reader.read(), HANGS) for reader, _ in streams]
        ended = await service.ended()
        for connection in (*silent, half):
            connection.close()
        for _, writer in (*streams, left):
            writer.close()
    assert ended.said == []
    assert ended.code in codes(kind, number)
    for rest in rests:
        assert rest.endswith(b"\r\n0\r\n\r\n"), rest[-200:]  # the stream has its proper end


@pytest.mark.parametrize("kind", ["aiohttp", *thorough("serve", "FastAPI", "Starlette", "uvicorn")])
async def test_visitors_who_disconnect_at_any_moment_cause_no_traceback(kind: str) -> None:
    async with running(kind) as service:
        streams = [await service.stream()]
        for route in ("events", "snapshot", "open-interest/BTCUSDT", "history/BTCUSDT", "changes"):
            for _ in range(4):
                connection = await service.ask(route)
                # Reset the connection, so that the service writes its answer to a closed one.
                linger = b"\1\0\0\0\0\0\0\0"
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                connection.close()
            streams[-1][1].transport.abort()
            streams.append(await service.stream())  # other visitors are still served
        service.process.send_signal(signal.SIGTERM)
        ended = await service.ended()
        for _, writer in streams:
            writer.close()
    assert ended.said == []
    assert ended.code in codes(kind, signal.SIGTERM)
