"""A malicious visitor gets a 4xx and no private text; a slow or silent one is disconnected."""

import asyncio
import gc
import os
import random
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec

import pytest

from binance_oi.web import Limits, Listener, oi_app
from binance_oi.web.aiohttp_app import SERVICE
from binance_oi.web.hub import Hub
from binance_oi.web.server import EXTRA_CONNECTIONS, IDLE_S, Server
from binance_oi.web.service import Service
from support.market_source import FedSource, reading
from support.service_servers import SERVERS

# The number of fuzzed requests; `nox -s service` sends 10,000.
REQUESTS = int(os.environ.get("BINANCE_OI_REQUESTS", "150"))
HOST = b"127.0.0.1"
SECRETS = (b"Traceback", b"site-packages", b"binance_oi/", b"never.db", b"/root", b"/home")
MARKET = {f"S{number}USDT": f"{number}.5" for number in range(800)}


@asynccontextmanager
async def serving(
    limits: Limits = Limits(),  # noqa: B008
    **options: int,
) -> AsyncIterator[tuple[Server, Service, int]]:
    app = oi_app(None, recording="never.db", hosts=[HOST.decode()], limits=limits)
    service, source = app[SERVICE], FedSource()
    service.hub = Hub(source, limits=limits)
    server = Server(app, "127.0.0.1", 0, **options)
    await server.start()
    service.begin()
    source.feed(reading(0, MARKET))
    await service.hub.ready()
    try:
        yield server, service, int(server.url.rpartition(":")[2].rstrip("/"))
    finally:
        await server.stop()


async def exchange(port: int, data: bytes) -> bytes:
    """Send bytes, and return the answer; `b""` if the connection ends without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: ([0-9]+)\r\n", head)
        return head + await reader.readexactly(0 if length is None else int(length[1]))
    except (ConnectionError, asyncio.IncompleteReadError):
        return b""
    finally:
        writer.close()


# -- malformed requests --------------------------------------------------------------------------

PIECES = (
    *("..", ".", "%2e%2e", "%2f", "%00", "%0d%0aX:%201", "%ff", "%", "%zz", "\\", "~", "*", ";"),
    *(
        "BTCUSDT",
        "币",
        "${7*7}",
        "{{7}}",
        "'--",
        "<script>",
        "etc",
        "passwd",
        "a" * 300,
    ),
    *("open-interest", "snapshot", "history", "events", "changes", "healthz", "index.html"),
)
NAMES = ("symbols", "max_age", "decimal", "since", "until", "period", "window", "head", "x", "")
VALUES = ("", "-1", "1e9", "NaN", "null", "%00", "%ff", "A,B", ",", "1" * 400, "true ", "\u0661")


def fuzzed(rng: random.Random) -> bytes:
    """Make a random request that no route serves."""
    kind = rng.randrange(8)
    if kind == 0:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(1, 400))) + b"\r\n\r\n"
    path = "/" + "/".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 6))) + "/"
    if rng.random() < 0.5:
        path += "?" + "&".join(
            f"{rng.choice(NAMES)}={rng.choice(VALUES)}" for _ in range(rng.randrange(1, 5))
        )
    head = {"Host": HOST.decode(), "Connection": "close"}
    method, version, more = "GET", "HTTP/1.1", b""
    match kind:
        case 1:
            head["Host"] = rng.choice(["evil.example", "127.0.0.1.evil", "", "[::1", "a@127.0.0.1"])
        case 2:
            head[f"X-{'A' * rng.randrange(1, 50)}"] = "b" * rng.choice([10, 9_000, 70_000])
        case 3:
            head |= {f"X-{number}": "1" for number in range(rng.choice([10, 500]))}
        case 4:
            method = rng.choice(["FOO", "get", "POST", "CONNECT", "TRACE", "G\tT", "", "PRI"])
        case 5:
            version = rng.choice(["HTTP/9.9", "HTTP/1", "http/1.1", "", "HTTP/1.1 x"])
        case 6:
            head |= {"Content-Length": rng.choice(["-1", "5", "x", "9" * 30])}
            head |= {"Transfer-Encoding": rng.choice(["chunked", "identity", "xchunked"])}
            more = b"ZZ\r\n"
        case _:
            path = path.replace("/", rng.choice(["//", "/./", "/%2e/", "\\"]), 1)
    lines = [f"{method} {path} {version}", *(f"{name}: {value}" for name, value in head.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + more


@pytest.mark.parametrize(
    "server",
    [
        "ours",
        pytest.param(
            "uvicorn",
            marks=pytest.mark.skipif(find_spec("fastapi") is None, reason="FastAPI is missing"),
        ),
    ],
)
async def test_a_fuzzed_request_gets_a_4xx_without_private_text_and_leaves_no_connection(
    server: str, caplog: pytest.LogCaptureFixture
) -> None:
    rng, statuses = random.Random(20261126), set[int]()
    async with _served(server) as (service, port):
        await exchange(port, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        tasks = len(asyncio.all_tasks())
        for _ in range(REQUESTS):
            sent = fuzzed(rng)
            got = await exchange(port, sent)
            assert not [secret for secret in SECRETS if secret in got], (sent, got)
            if got:
                statuses.add(int(got.split(b" ", 2)[1]))
                assert 400 <= int(got.split(b" ", 2)[1]) < 500, (sent, got)
        while len(asyncio.all_tasks()) > tasks:  # noqa: ASYNC110 - no event is set
            await asyncio.sleep(0.01)
        assert service.hub.listeners == 0
        assert len(service.visitors) <= 1
    assert {400, 404, 405, 421} & statuses
    names = "binance_oi", "aiohttp.server"
    assert [record for record in caplog.records if record.name.startswith(names)] == []


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    ],
    ids=["two hosts", "a negative length", "a chunk without length"],
)
async def test_a_malformed_request_is_not_logged(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as (_, _, port):
        for _ in range(3):
            got = await exchange(port, sent)
            assert got.split(b" ", 2)[1] == b"400"
    assert [record for record in caplog.records if record.exc_info] == []


async def test_an_error_of_the_server_itself_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("binance_oi.web.aiohttp_app._response", None)
    ask = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    async with serving() as (_, _, port):
        assert (await exchange(port, ask)).startswith(b"HTTP/1.1 500")
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("binance_oi.server", "ERROR")


@asynccontextmanager
async def _served(server: str) -> AsyncIterator[tuple[Service, int]]:
    if server == "ours":
        async with serving() as (_, service, port):
            yield service, port
        return
    options = {"recording": "never.db", "hosts": [HOST.decode()]}
    async with SERVERS[server](None, **options) as (url, service):
        service.hub = Hub(FedSource())
        yield service, int(url.rpartition(":")[2])


# -- slow and silent visitors --------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_visitor_that_never_finishes_a_request_is_disconnected() -> None:
    async with serving() as (_, _, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        loop = asyncio.get_running_loop()
        began = loop.time()
        writer.write(b"GET /snapshot HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        for _ in range(int(IDLE_S)):
            await asyncio.sleep(0.9)
            writer.write(b"a")
        assert await reader.read() == b""
        assert loop.time() - began <= IDLE_S + 1.0
        writer.close()


@pytest.mark.virtual_time
async def test_a_visitor_that_does_not_read_is_disconnected_without_delaying_others() -> None:
    async with serving(Limits(stalled=30.0)) as (_, _, port):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(
            connection, b"GET /snapshot HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 150
        )
        for _ in range(10):
            ask = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
            assert (await exchange(port, ask)).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(5.0)
        with suppress(ConnectionError):
            while await loop.sock_recv(connection, 1 << 20):
                pass
        connection.close()


@pytest.mark.virtual_time
async def test_a_listener_that_does_not_read_is_disconnected() -> None:
    async with serving(Limits(stalled=30.0)) as (server, service, port):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        for number in range(1, 200):
            service.hub.publish(reading(number, dict.fromkeys(MARKET, f"{number}")))
            await service.hub.wake()
            await asyncio.sleep(1.0)
            if not service.hub.listeners and number > 5:
                break
        assert service.hub.listeners == 0
        assert server.url
        connection.close()


@pytest.mark.virtual_time
async def test_stopping_the_server_ends_every_stream_at_once_even_unread_ones() -> None:
    async with serving() as (_, service, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        writer.write(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await reader.readuntil(b"\n\n\r\n")
        assert service.hub.listeners == 1
        loop = asyncio.get_running_loop()
        began = loop.time()
    assert loop.time() - began <= 2.0
    assert (await reader.read()).endswith(b"0\r\n\r\n")
    writer.close()


async def test_a_listener_that_disconnects_leaves_no_object_or_task() -> None:
    async with serving() as (_, service, port):
        tasks = len(asyncio.all_tasks())
        for _ in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
            writer.write(b"GET /events?symbols=S1USDT HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            await reader.readuntil(b"\n\n\r\n")
            writer.transport.abort()
        while service.hub.listeners or len(asyncio.all_tasks()) > tasks:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        gc.collect()
        assert [each for each in gc.get_objects() if isinstance(each, Listener)] == []


# -- too many connections ------------------------------------------------------------------------

ASK = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
FOLLOW = b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


async def test_idle_connections_end_when_others_need_their_place_and_streams_do_not() -> None:
    async with serving(connections=20) as (server, service, port):
        stream, following = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        following.write(FOLLOW)
        await stream.readuntil(b"event: state")
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
        for _ in range(3):
            assert (await exchange(port, ASK)).startswith(b"HTTP/1.1 200")
        assert len(server.connections) <= 20 + EXTRA_CONNECTIONS
        service.hub.publish(reading(1, MARKET))
        await service.hub.wake()
        await stream.readuntil(b"event: sweep")
        reader, _ = idle[0]
        assert await reader.read() == b""  # the oldest connection was closed
        for _, writer in (*idle, (stream, following)):
            writer.close()


async def test_connections_beyond_the_limit_are_refused_when_none_is_idle(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(connections=4) as (server, service, port):
        streams = list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]()
        for _ in range(4 + EXTRA_CONNECTIONS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
            writer.write(FOLLOW)
            await reader.readuntil(b"event: state")
            streams.append((reader, writer))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        refused = await reader.read()
        writer.close()
        assert service.hub.listeners == len(server.connections) == 4 + EXTRA_CONNECTIONS
        streams[0][1].transport.abort()
        while len(server.connections) == 4 + EXTRA_CONNECTIONS:  # noqa: ASYNC110 - no event is set
            await asyncio.sleep(0.01)
        assert (await exchange(port, ASK)).startswith(b"HTTP/1.1 200")
        for _, writer in streams:
            writer.close()
    assert refused.startswith(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\n")
    assert caplog.records == []


@pytest.mark.virtual_time
async def test_a_visitor_that_never_sends_anything_is_disconnected() -> None:
    async with serving() as (_, _, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await reader.read() == b""
        assert loop.time() - began <= IDLE_S + 1.0
        writer.close()
