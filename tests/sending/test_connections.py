"""One attempt is one request on the wire, on a connection without unread bytes.

Rule of this file: the exchange, if a test has one, uses no HTTP library. So no library corrects
what it receives or sends.
"""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import cast
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler

from binance_oi.errors import TransportError
from binance_oi.sending import connections, guard
from binance_oi.sending.governor import Permit
from binance_oi.sending.guard import Attempt, Guard
from binance_oi.sending.kept_connections import KeptConnections
from binance_oi.sending.transport import Answer, Transport
from binance_oi.sending.wire import ready_url
from support.raw_exchange import CLOSE, RawExchange, answer, open_interest
from support.sender import PATH, Record, Sender

pytestmark = pytest.mark.virtual_time


def guard_of(handler: Mock) -> Guard:
    """A guard without a connection."""
    kept = KeptConnections()
    return Guard(handler, kept, kept.opened(), guard.read_buffer())


@pytest.mark.parametrize("injected", [False, True])
async def test_a_dropped_idle_connection_costs_only_one_request(
    injected: bool,
) -> None:
    script = [open_interest(), CLOSE, open_interest()]
    async with (
        RawExchange(lambda n: script[n - 1]) as exchange,
        aiohttp.ClientSession() as session,
        Sender(session if injected else None) as ours,
    ):
        await ours.get(exchange.url)
        with pytest.raises(TransportError) as caught:
            await ours.get(exchange.url)
        assert (len(exchange.requests), exchange.connections) == (2, 1)
        assert (await ours.get(exchange.url)).status == 200
        assert (len(exchange.requests), exchange.connections) == (3, 2)
    assert caught.value.retry == "now"
    assert ours.fates == ["settled 200", "may have been counted", "settled 200"]


async def test_a_flood_is_not_mistaken_for_the_end_of_a_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "ENVELOPE_BYTES", -900)  # `max_bytes` - 900 = 100 bytes in all
    text = b"HTTP/1.1 200 Text\r\n\r\n" + b"x" * 50  # the end of the connection ends the body
    async with RawExchange(lambda n: text) as exchange, Sender() as ours:
        asked = asyncio.ensure_future(ours.get(exchange.url, max_bytes=1000))
        await exchange.received(1)
        await asyncio.sleep(0.1)
        exchange.write(b"x" * 60)
        got = await asked
    assert got == (200, b"x" * 50, False)


@pytest.mark.parametrize("injected", [False, True])
async def test_a_distrusted_connection_is_not_used_again(injected: bool) -> None:
    async with (
        RawExchange(lambda n: open_interest()) as exchange,
        aiohttp.ClientSession() as session,
        Sender(session if injected else None) as ours,
    ):
        ours.transport.distrust_connections()  # the client has no connection yet
        await ours.get(exchange.url)
        await ours.get(exchange.url)
        assert exchange.connections == 1
        ours.transport.distrust_connections()
        await ours.get(exchange.url)
        assert exchange.connections == 2
        await ours.get(exchange.url)
        assert exchange.connections == 2
    assert len(exchange.requests) == 4


async def test_connections_opened_during_a_request_serve_the_next_requests() -> None:
    async with (
        RawExchange(lambda n: b"" if n == 1 else open_interest()) as exchange,
        Sender() as ours,
    ):
        url = ready_url(exchange.url, PATH, {})
        await ours.transport.open_connections(url, 4, busy=0)
        assert exchange.connections == 0  # the client has sent no request yet
        first = asyncio.create_task(ours.get(exchange.url))
        await exchange.received(1)
        await ours.transport.open_connections(url, 4, busy=4)  # opens none: 4 are in use
        await ours.transport.open_connections(url, 4, busy=1)
        await ours.transport.open_connections(url, 4, busy=1)
        await asyncio.gather(*(ours.get(exchange.url) for _ in range(3)))
        assert (len(exchange.requests), exchange.connections) == (4, 4)
        first.cancel()


async def test_distrusted_connections_are_replaced_before_they_are_needed() -> None:
    async with RawExchange(lambda n: open_interest()) as exchange, Sender() as ours:
        url = ready_url(exchange.url, PATH, {})
        await asyncio.gather(*(ours.get(exchange.url) for _ in range(4)))
        assert exchange.connections == 4
        ours.transport.distrust_connections()
        await ours.transport.open_connections(url, 4, busy=0)
        assert exchange.connections == 8
        await asyncio.gather(*(ours.get(exchange.url) for _ in range(4)))
        assert exchange.connections == 8


async def test_a_connection_that_cannot_be_opened_in_advance_is_no_error() -> None:
    async with RawExchange(lambda n: b"") as exchange, Sender() as ours:
        first = asyncio.create_task(ours.get(exchange.url))
        await exchange.received(1)
        assert exchange._server is not None
        exchange._server.close()
        await ours.transport.open_connections(ready_url(exchange.url, PATH, {}), 4, busy=1)
        assert exchange.connections == 1
        first.cancel()


async def test_no_connections_are_opened_in_advance_through_a_proxy() -> None:
    async with RawExchange(lambda n: open_interest()) as proxy, Sender(proxy=proxy.url) as ours:
        await ours.get("http://exchange.invalid")
        url = ready_url("http://exchange.invalid", PATH, {})
        await ours.transport.open_connections(url, 4, busy=0)
        assert proxy.connections == 1


async def test_an_unrequested_answer_ends_a_connection_opened_in_advance() -> None:
    script = [b"", open_interest()]
    async with RawExchange(lambda n: script[n - 1]) as exchange, Sender() as ours:
        first = asyncio.create_task(ours.get(exchange.url))
        await exchange.received(1)
        await ours.transport.open_connections(ready_url(exchange.url, PATH, {}), 2, busy=1)
        await asyncio.sleep(0.1)
        exchange.write(open_interest("ETHUSDT"))  # to both connections
        await first
        await asyncio.sleep(0.1)
        assert b"BTCUSDT" in (await ours.get(exchange.url)).body
        assert (len(exchange.requests), exchange.connections) == (2, 2)


@pytest.mark.parametrize("injected", [False, True])
async def test_a_connection_with_an_unrequested_answer_is_not_used_again(injected: bool) -> None:
    async with (
        RawExchange(lambda n: open_interest() * (2 if n == 1 else 1)) as exchange,
        aiohttp.ClientSession() as session,
        Sender(session if injected else None) as ours,
    ):
        await ours.get(exchange.url)
        await asyncio.sleep(0.1)
        await ours.get(exchange.url)
    assert exchange.connections == 2
    assert ours.fates == ["settled 200"] * 2


async def test_the_records_of_connections_do_not_grow_without_bound() -> None:
    async with RawExchange(lambda n: open_interest()) as exchange, Sender() as ours:
        for _ in range(5):
            await ours.get(exchange.url)
            ours.transport.distrust_connections()
        connector = ours.transport._connector
        assert connector is not None
        assert exchange.connections == 5
        assert len(connector._guards) == 1


def test_the_guard_passes_events_without_bytes_to_its_handler() -> None:
    handler = Mock(spec=ResponseHandler)
    guard = guard_of(handler)
    guard.pause_writing()
    guard.resume_writing()
    guard.eof_received()
    guard.connection_lost(None)
    names = [call[0] for call in handler.method_calls]
    assert names == ["pause_writing", "resume_writing", "eof_received", "connection_lost"]


@pytest.mark.parametrize("refusal", [418, 429])
async def test_a_refusal_with_broken_headers_is_noticed_after_an_error_answer(
    refusal: int,
) -> None:
    broken = f"HTTP/1.1 {refusal} No\r\nContent-Length: none\r\n\r\n".encode()
    answers = [answer(400, '{"code":-1121,"msg":"Invalid symbol."}'), broken]
    async with RawExchange(lambda n: answers[min(n, 2) - 1]) as exchange, Sender() as sender:
        assert (await sender.get(exchange.url)).status == 400
        with suppress(TransportError):
            await sender.get(exchange.url)
        assert sender.fates[1] == f"settled {refusal}"


def test_the_guard_does_not_touch_a_connection_with_another_protocol() -> None:
    taken = Mock(spec=asyncio.Transport)
    for handler in (Mock(spec=ResponseHandler, transport=taken), Mock(transport=None)):
        guard_of(handler).detach()
    taken.set_protocol.assert_not_called()


def test_an_ended_connection_is_not_abandoned() -> None:
    handler = Mock(spec=ResponseHandler, transport=None)
    guard_of(handler)._abandon()
    assert handler.method_calls == []


def test_a_flood_after_the_end_of_its_connection_is_ignored() -> None:
    handler = Mock(spec=ResponseHandler, transport=None)
    guard = guard_of(handler)
    guard.left = 3
    guard.get_buffer(-1)[:4] = b"four"
    guard.buffer_updated(4)
    assert guard.has_overflowed
    assert guard.is_closed
    assert handler.method_calls == []


async def test_an_injected_session_gets_its_connections_back_unchanged() -> None:
    long = answer(200, b"x" * 1_000_000)
    async with (
        RawExchange(lambda n: open_interest() if n == 1 else long) as exchange,
        aiohttp.ClientSession() as session,
    ):
        await Sender(session).get(exchange.url)
        async with session.get(exchange.url) as response:  # far more bytes than we would accept
            assert len(await response.read()) == 1_000_000
        assert exchange.connections == 1


async def test_an_injected_session_is_guarded_against_endless_answers() -> None:
    endless = b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000
    async with RawExchange(lambda n: endless) as exchange, aiohttp.ClientSession() as session:
        ours = Sender(session)
        with pytest.raises(TransportError, match="without end"):
            await ours.get(exchange.url)
    assert ours.fates == ["may have been counted"]


async def test_with_an_unknown_aiohttp_version_one_permit_is_still_one_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "SENDS_DIRECTLY", False)
    script = [open_interest(), answer(503, "{}"), CLOSE]
    async with aiohttp.ClientSession() as session:
        ours = Sender(session)
        async with RawExchange(lambda n: script[n - 1]) as exchange:
            await ours.get(exchange.url)
            assert (await ours.get(exchange.url)).status == 503
            with pytest.raises(TransportError):
                await ours.get(exchange.url)
        assert len(exchange.requests) == 3
        with pytest.raises(TransportError):
            await ours.get(exchange.url)  # the server has stopped
    assert ours.fates == ["settled 200", "settled 503", "may have been counted", "refunded"]


def test_a_new_attempt_may_be_sent_by_default() -> None:
    assert Attempt().may_send()


# -- bytes after the end of a call ----------------------------------------------------------------

LONG = "A" * 300_000  # far more than a peer accepts without reading


async def all_received(peer: socket.socket) -> tuple[int, bool]:
    """The number of received bytes, and whether the connection was reset after them."""
    loop, count = asyncio.get_running_loop(), 0
    try:
        while piece := await loop.sock_recv(peer, 65_536):
            count += len(piece)
    except ConnectionResetError:
        return count, True
    return count, False


@pytest.mark.parametrize("ours", [True, False], ids=["our session", "a session of the caller"])
@pytest.mark.parametrize("ending", ["timeout", "cancelled", "silent", "closed"])
async def test_no_part_of_a_request_is_sent_after_its_call_has_ended(
    ending: str, ours: bool
) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with aiohttp.ClientSession() as session:
            transport = Transport(session=None if ours else session)

            def get(symbol: str, timeout: float) -> asyncio.Task[Answer]:
                permit = cast(Permit, Record())
                target = ready_url(url, PATH, {"symbol": symbol})
                return asyncio.create_task(transport.get(target, permit, 1000, timeout))

            first = get("BTCUSDT" if ending == "silent" else LONG, 60.0)
            peer, _ = await loop.sock_accept(listener)
            with peer:
                if ending == "silent":
                    await loop.sock_recv(peer, 65_536)
                    await loop.sock_sendall(peer, answer(200, "{}"))
                    assert (await first).status == 200
                    first = get(LONG, 60.0)
                await asyncio.sleep(1.0)
                if ending == "cancelled":
                    first.cancel()
                elif ending == "closed":
                    await transport.aclose()
                await asyncio.wait([first])
                count, was_reset = await all_received(peer)
            await transport.aclose()
    assert was_reset
    assert count < len(LONG)


# -- a call on a connection whose previous call has not ended yet --------------------------------


async def call(transport: Transport, url: str) -> Answer:
    """Make one call, and accept a body of at most 1000 bytes."""
    permit = cast(Permit, Record())
    return await transport.get(ready_url(url, PATH, {"symbol": "BTCUSDT"}), permit, 1000, 60.0)


@pytest.mark.parametrize("ours", [True, False], ids=["our session", "a session of the caller"])
async def test_an_ended_call_does_not_disturb_the_next_request_on_its_connection(
    ours: bool,
) -> None:
    def script(number: int) -> bytes:
        return {1: b"", 2: answer(200, "{ ", length=4)}.get(number, answer(200, "{}"))

    async with RawExchange(script) as exchange, aiohttp.ClientSession() as session:
        transport = Transport(session=None if ours else session)

        async def two_in_turn() -> list[Answer]:
            return [await call(transport, exchange.url) for _ in range(2)]

        turns = asyncio.create_task(two_in_turn())
        await asyncio.sleep(1.0)
        slow = asyncio.create_task(call(transport, exchange.url))
        await asyncio.sleep(1.0)
        # Both answers end in the same step of the loop. The end of the second answer frees the
        # connection of `slow`, and the next call of `turns` uses it before `slow` continues.
        exchange.write(answer(200, "{}"), to=1)
        exchange.write(b" }", to=2)
        assert await slow == Answer(200, b"{  }", True)
        assert await turns == [Answer(200, b"{}", True)] * 2
        await transport.aclose()
    assert (len(exchange.requests), exchange.connections) == (3, 2)


@asynccontextmanager
async def held_up() -> AsyncGenerator[tuple[aiohttp.ClientSession, asyncio.Event, asyncio.Event]]:
    """Yield a session with a trace, and two events.

    At the first answer, the trace sets the first event, and waits until the second is set.
    """
    held, go_on = asyncio.Event(), asyncio.Event()

    async def hold_up(*_: object) -> None:
        if not held.is_set():
            held.set()
            await go_on.wait()

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(hold_up)
    async with aiohttp.ClientSession(trace_configs=[trace]) as session:
        yield session, held, go_on


async def test_a_call_delayed_by_a_trace_does_not_disturb_the_next_request() -> None:
    def script(number: int) -> bytes:
        return answer(200, "{}") if number == 1 else b""

    async with RawExchange(script) as exchange, held_up() as (session, held, go_on):
        transport = Transport(session=session)
        first = asyncio.create_task(call(transport, exchange.url))
        await held.wait()
        second = asyncio.create_task(call(transport, exchange.url))
        await asyncio.sleep(1.0)  # the request is written, and its answer comes later
        go_on.set()
        assert await first == Answer(200, b"{}", True)
        await asyncio.sleep(0.5)
        exchange.write(answer(200, "{}"))
        assert await second == Answer(200, b"{}", True)
        await transport.aclose()
    assert exchange.connections == 1


async def test_the_callers_own_requests_are_not_bounded_during_a_trace() -> None:
    large = "A" * 300_000

    def script(number: int) -> bytes:
        return answer(200, "{}" if number == 1 else large)

    async with RawExchange(script) as exchange, held_up() as (session, held, go_on):
        transport = Transport(session=session)
        first = asyncio.create_task(call(transport, exchange.url))
        await held.wait()
        async with session.get(exchange.url) as response:
            assert await response.text() == large
        go_on.set()
        assert await first == Answer(200, b"{}", True)
        await transport.aclose()
    assert exchange.connections == 1


async def test_a_reset_of_a_socket_that_its_loop_has_closed_ends_the_connection() -> None:
    handler, transport = Mock(), Mock()
    # With uvloop, the descriptor is -1 for one pass of the loop before the connection is lost.
    transport.get_extra_info.return_value.setsockopt.side_effect = ValueError("negative")
    guard = guard_of(handler)
    guard.begin(Attempt(), transport, 0.0)
    guard.reset()
    transport.abort.assert_called_once_with()
