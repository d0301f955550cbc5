"""A service begins with the first request that needs it, and ends with its application."""

import asyncio
import json
import signal
from typing import Any

import pytest

from binance_oi import InvalidSymbolError
from binance_oi.testing import simulated_client
from binance_oi.web import Limits, OIAsgi, oi_app, oi_asgi, oi_lifespan
from binance_oi.web.problems import ProblemError
from binance_oi.web.service import AGAIN_S, Service
from support.market_source import FedSource
from support.virtual_clocks import use_virtual_clocks

pytestmark = pytest.mark.virtual_time


@pytest.fixture(autouse=True)
def one_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    use_virtual_clocks(monkeypatch)


@pytest.mark.parametrize(
    "options, error",
    [
        ({}, TypeError),
        ({"recording": ""}, ValueError),
        ({"recording": b"oi.db"}, TypeError),
        ({"recording": "oi.db", "everyy": 20.0}, TypeError),
        ({"recording": "oi.db", "hosts": "oi.example"}, TypeError),
        ({"recording": "oi.db", "origins": "https://oi.example"}, TypeError),
        ({"recording": "oi.db", "limits": 7}, TypeError),
        ({"client": "https://fapi.example"}, TypeError),
    ],
)
def test_an_invalid_option_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    for make in (oi_app, oi_asgi):
        with pytest.raises(error):
            make(**options)


async def test_the_options_of_the_poll_are_checked_at_once() -> None:
    async with simulated_client() as client:
        with pytest.raises(ValueError, match="every"):
            oi_app(client, every=0.0)
        with pytest.raises(InvalidSymbolError):
            oi_app(client, symbols=["BTC-USDT"])
        with pytest.raises(TypeError, match="symbols must be a list"):
            oi_app(client, symbols="BTCUSDT")


async def test_a_failed_hub_is_restarted_after_a_pause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = Service(None, {"recording": "never.db", "limits": Limits(max_wait=1.0)})
    first = FedSource()
    service._source = service.hub.source = first
    service.begin()
    first.end(ValueError("no schedule fits"))
    with pytest.raises(ValueError, match="no schedule fits"):
        await service.ended()
    with pytest.raises(ProblemError) as caught:
        await service.ready()
    assert caught.value.kind.status == 503
    assert "no schedule fits" in caplog.text
    await asyncio.sleep(AGAIN_S)
    service.begin()
    assert service.failure is None
    assert not service.hub.is_closed
    await service.aclose()
    await service.aclose()


async def test_all_visitors_together_use_a_bounded_weight() -> None:
    async with simulated_client() as client:
        service = Service(client, {"limits": Limits(weight=2)})
        for name in ("BTCUSDT", "ETHUSDT"):
            await service.values.one(service.hub, name, None)
        with pytest.raises(ProblemError) as caught:
            await service.values.one(service.hub, "XRPUSDT", None)
        assert (caught.value.kind.status, caught.value.kind.name) == (503, "budget")
        assert caught.value.after is not None
        with pytest.raises(ProblemError):
            await service.values.renew(service.hub, ["BTCUSDT", "ETHUSDT"], 1.0)
        weight = client.usage.charged
        cells = [await service.values.one(service.hub, "BTCUSDT", 60.0) for _ in range(3)]
        assert client.usage.charged == weight
    assert len({id(cell) for cell in cells}) == 1
    assert cells[0].value.symbol == "BTCUSDT"


async def test_the_lifespan_of_a_mounted_application_restores_the_servers_signal_handlers() -> None:
    heard = list[int]()
    app = oi_asgi(recording="never.db")

    def handler(number: int, frame: object) -> None:
        heard.append(number)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        async with oi_lifespan(app):
            assert not app.service.is_closed
            signal.raise_signal(signal.SIGTERM)
            await asyncio.sleep(0.01)
            assert app.service.is_closed
            assert heard == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is handler
        async with oi_lifespan(app):  # the application may start again
            assert not app.service.is_closed
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_a_signal_ends_streams_even_if_the_server_sets_its_handler_later() -> None:
    heard, app, visitor = list[int](), oi_asgi(recording="never.db"), AsgiVisitor()

    def of_server(number: int, frame: object) -> None:
        heard.append(number)

    outer = signal.signal(signal.SIGTERM, of_server)
    try:
        async with oi_lifespan(app):
            of_lifespan = signal.signal(signal.SIGTERM, of_server)
            running = visitor.visit(app)
            while not app.service.hub.listeners:  # noqa: ASYNC110 - nobody sets an event
                await asyncio.sleep(0.01)
            signal.raise_signal(signal.SIGTERM)
            await asyncio.wait_for(running, 3600.0)  # virtual seconds
            assert heard == [signal.SIGTERM]
            signal.signal(signal.SIGTERM, of_lifespan)  # the server has ended
        assert signal.getsignal(signal.SIGTERM) is of_server
    finally:
        signal.signal(signal.SIGTERM, outer)
    assert visitor.sent[-1] == {"type": "http.response.body", "body": b""}


@pytest.mark.parametrize("first", [0, 1])
async def test_services_of_one_process_may_end_in_any_order_and_restore_the_signal_handlers(
    first: int,
) -> None:
    heard = list[int]()

    def of_server(number: int, frame: object) -> None:
        heard.append(number)

    outer = signal.signal(signal.SIGTERM, of_server)
    try:
        apps = [oi_asgi(recording="never.db") for _ in range(2)]
        lives = [oi_lifespan(app) for app in apps]
        for life in lives:
            await life.__aenter__()
        for app in apps * 100:  # each stream checks the signal handlers again
            assert app.draining is not None
            app.draining.install()
        await lives[first].__aexit__(None, None, None)
        left = apps[1 - first].service
        assert not left.is_closed
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(0.01)
        assert (left.is_closed, heard) == (True, [signal.SIGTERM])
        await lives[1 - first].__aexit__(None, None, None)
        assert signal.getsignal(signal.SIGTERM) is of_server
    finally:
        signal.signal(signal.SIGTERM, outer)


async def test_an_asgi_application_refuses_other_protocols_than_http() -> None:
    app, sent = oi_asgi(recording="never.db"), list[Any]()

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "websocket"}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1000}]
    with pytest.raises(RuntimeError):
        await app({"type": "carrier-pigeon"}, receive, send)


# -- streams of an ASGI server -------------------------------------------------------------------


class AsgiVisitor:
    """A visitor that stays connected. It reads while `reads` is set, which it is at first."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.reads.set()
        self.sent = list[Any]()

    async def receive(self) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def send(self, message: Any) -> None:
        await asyncio.sleep(0)
        await self.reads.wait()
        self.sent.append(message)

    def visit(self, app: OIAsgi) -> asyncio.Task[None]:
        scope = {"type": "http", "method": "GET", "path": "/events", "headers": []}
        return asyncio.create_task(app(scope, self.receive, self.send))


async def test_too_many_simultaneous_visitors_of_an_asgi_application_get_503() -> None:
    app = oi_asgi(recording="never.db", limits=Limits(listeners=3))
    visitors = [AsgiVisitor() for _ in range(12)]
    running = [visitor.visit(app) for visitor in visitors]
    await asyncio.gather(*running[3:])
    await app.service.aclose()
    await asyncio.gather(*running)
    starts = [visitor.sent[0]["status"] for visitor in visitors]
    assert starts == [200] * 3 + [503] * 9
    for visitor in visitors[3:]:
        assert json.loads(visitor.sent[1]["body"])["type"] == "urn:binance-oi:full"


async def test_one_cancellation_ends_a_stream_whose_visitor_does_not_read() -> None:
    app, visitor = oi_asgi(recording="never.db"), AsgiVisitor()
    before = asyncio.all_tasks()
    visitor.reads.clear()
    running = visitor.visit(app)
    while not app.service.hub.listeners:  # noqa: ASYNC110 - nobody sets an event
        await asyncio.sleep(0.01)
    await asyncio.sleep(1.0)  # by then, the stream waits for its visitor
    running.cancel()
    await asyncio.wait([running], timeout=3600.0)
    assert running.cancelled()
    assert app.service.hub.listeners == 0
    await app.service.aclose()
    assert asyncio.all_tasks() == before
