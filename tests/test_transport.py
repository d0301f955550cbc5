"""One permit, one request on the wire, and exactly the bytes that we mean to send.

Rule of this file: the other side is a raw socket, so that no library mends what we send or get.
"""

import asyncio
import gc
import ssl
import traceback
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import cast
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from aioresponses import aioresponses
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from binance_oi import transport as module
from binance_oi.errors import TransportError, TransportTimeoutError
from binance_oi.governor import Permit
from binance_oi.models import MAX_SYMBOL
from binance_oi.transport import USER_AGENT, Answer, Transport, _Guard, ready_url
from raw_exchange import CLOSE, RawExchange, answer, open_interest

pytestmark = pytest.mark.virtual_time

PATH = "/fapi/v1/openInterest"


class Record:
    """A permit that writes down what became of it."""

    def __init__(self) -> None:
        self.fate = "may have been counted"

    def settle(self, status: int, headers: Mapping[str, str]) -> None:
        self.fate = f"settled {status}"

    def refund(self) -> None:
        if self.fate == "may have been counted":
            self.fate = "refunded"


class Sender:
    """A transport and the fates of its permits."""

    def __init__(self, session: aiohttp.ClientSession | None = None, **options: object) -> None:
        self.transport = Transport(session=session, **options)  # type: ignore[arg-type]
        self.permits: list[Record] = []

    async def get(self, base_url: str, *, max_bytes: int = 65_536, timeout: float = 10.0) -> Answer:
        permit = Record()
        self.permits.append(permit)
        url = ready_url(base_url, PATH, "BTCUSDT")
        return await self.transport.get(url, cast(Permit, permit), max_bytes, timeout)

    @property
    def fates(self) -> list[str]:
        return [permit.fate for permit in self.permits]

    async def __aenter__(self) -> "Sender":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.transport.aclose()


def now() -> float:
    return asyncio.get_running_loop().time()


# -- what is sent --------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", [True, False], ids=["by us", "by aiohttp"])
async def test_what_is_sent_is_ours_and_short_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, direct: bool
) -> None:
    monkeypatch.setattr(module, "_LEAN", direct)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password secret\n")
    netrc.chmod(0o600)
    cookie = "Set-Cookie: session=secret; Path=/"
    async with (
        RawExchange(lambda n: open_interest("BTCUSDT", cookie)) as exchange,
        Sender() as ours,
        RawExchange(lambda n: CLOSE) as proxy,
    ):
        monkeypatch.setenv("NETRC", str(netrc))
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        for _ in range(2):
            assert (await ours.get(exchange.url)).status == 200
        assert proxy.connections == 0
    lines = [
        "GET /fapi/v1/openInterest?symbol=BTCUSDT HTTP/1.1",
        f"Host: {exchange.url.removeprefix('http://')}",
        f"User-Agent: {USER_AGENT}",
        "Accept: */*",
        "Accept-Encoding: ENCODINGS",
    ]
    for request in exchange.requests:
        sent = request.decode().removesuffix("\r\n\r\n").split("\r\n")
        name, _, encodings = sent.pop().partition(": ")
        assert [*sent, f"{name}: ENCODINGS"] == lines
        assert encodings.startswith("gzip, deflate")  # more where aiohttp can decode more
    assert len(exchange.requests) == 2
    assert exchange.connections == 1


@pytest.mark.parametrize(
    "symbol, target",
    [
        ("BTCUSDT_261225", "symbol=BTCUSDT_261225"),
        ("币安人生USDT", "symbol=%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9FUSDT"),
        ("龙虾USDT", "symbol=%E9%BE%99%E8%99%BEUSDT"),
        ("𝔸USDT", "symbol=%F0%9D%94%B8USDT"),
        ("A&B=C#D E+F%", "symbol=A%26B%3DC%23D%20E%2BF%25"),
        ("", ""),
    ],
)
async def test_a_symbol_is_sent_as_percent_encoded_utf_8(symbol: str, target: str) -> None:
    async with RawExchange(lambda n: answer(200, "{}")) as exchange:
        ours = Transport(session=None)
        await ours.get(ready_url(exchange.url, PATH, symbol), cast(Permit, Record()), 100, 1.0)
        await ours.aclose()
    (request,) = exchange.requests
    line = f"GET {PATH}{'?' if target else ''}{target} HTTP/1.1\r\n"
    assert request.startswith(line.encode())


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=MAX_SYMBOL))
def test_no_symbol_can_add_to_the_request(symbol: str) -> None:
    url = ready_url("http://127.0.0.1:1", PATH, symbol)
    assert url.query == {"symbol": symbol}
    assert url.path == PATH
    assert str(url).isascii()
    assert str(url).isprintable()


async def test_a_proxy_is_used_when_it_is_handed_in() -> None:
    async with RawExchange(lambda n: open_interest()) as proxy, Sender(proxy=proxy.url) as ours:
        assert (await ours.get("http://exchange.invalid")).status == 200
    assert proxy.requests[0].startswith(b"GET http://exchange.invalid/fapi/v1/openInterest?")


@pytest.mark.parametrize("status, retry", [(407, "never"), (502, "later")])
async def test_what_a_proxy_refuses_was_never_sent_and_names_no_password(
    status: int, retry: str
) -> None:
    async with RawExchange(lambda n: answer(status, "")) as proxy:
        url = proxy.url.replace("//", "//user:secret@")
        async with Sender(proxy=url) as ours:
            with pytest.raises(
                TransportError, match=f"the proxy answered {status}: Text"
            ) as caught:
                await ours.get("https://exchange.invalid")
    assert caught.value.retry == retry
    assert "secret" not in "".join(traceback.format_exception(caught.value))
    assert ours.fates == ["refunded"]


async def test_a_redirect_is_an_answer_and_nobody_goes_there() -> None:
    async with RawExchange(lambda n: open_interest()) as elsewhere:
        text = answer(302, "", f"Location: {elsewhere.url}{PATH}")
        async with RawExchange(lambda n: text) as exchange, Sender() as ours:
            assert (await ours.get(exchange.url)).status == 302
        async with RawExchange(lambda n: text) as exchange, aiohttp.ClientSession() as session:
            assert (await Sender(session).get(exchange.url)).status == 302
    assert elsewhere.connections == 0


# -- what becomes of a permit --------------------------------------------------------------------


async def test_a_good_answer_is_settled_and_whole() -> None:
    async with RawExchange(lambda n: open_interest()) as exchange, Sender() as ours:
        status, body, complete = await ours.get(exchange.url)
    assert (status, body[:20], complete) == (200, b'{"symbol":"BTCUSDT",', True)
    assert ours.fates == ["settled 200"]


async def test_what_was_refused_at_the_door_was_never_sent() -> None:
    async with RawExchange(lambda n: CLOSE) as gone:
        pass
    async with Sender() as ours:
        with pytest.raises(TransportError) as caught:
            await ours.get(gone.url)
    assert caught.value.retry == "later"
    async with aiohttp.ClientSession() as session:
        theirs = Sender(session)
        with pytest.raises(TransportError):
            await theirs.get(gone.url)
    assert ours.fates == theirs.fates == ["refunded"]


@pytest.mark.parametrize("injected", [False, True])
async def test_a_connection_that_ends_without_an_answer_may_have_been_counted(
    injected: bool,
) -> None:
    async with (
        RawExchange(lambda n: CLOSE) as exchange,
        aiohttp.ClientSession() as session,
        Sender(session if injected else None) as ours,
    ):
        with pytest.raises(TransportError, match=r"^no answer from the exchange: ") as caught:
            await ours.get(exchange.url)
    assert caught.value.retry == "later"
    assert ours.fates == ["may have been counted"]
    assert len(exchange.requests) == 1


@pytest.mark.parametrize("injected", [False, True])
async def test_a_dropped_idle_connection_costs_one_request_and_not_two(
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


async def test_silence_is_a_timeout_and_may_have_been_counted() -> None:
    async with RawExchange(lambda n: b"") as exchange, Sender() as ours:
        began = now()
        with pytest.raises(TransportTimeoutError, match="no answer within 3 s"):
            await ours.get(exchange.url, timeout=3.0)
        assert now() - began == pytest.approx(3.0, abs=0.01)
    assert ours.fates == ["may have been counted"]


async def test_a_body_that_stalls_is_a_timeout_of_the_whole_exchange() -> None:
    text = answer(200, b'{"symbol":', length=70)
    async with RawExchange(lambda n: text) as exchange, Sender() as ours:
        began = now()
        with pytest.raises(TransportTimeoutError):
            await ours.get(exchange.url, timeout=3.0)
        assert now() - began == pytest.approx(3.0, abs=0.01)
    assert ours.fates == ["settled 200"]


@pytest.mark.parametrize(
    "status, timeout, took", [(418, 10.0, 0.2), (418, 0.1, 0.1), (503, 10.0, 0.5)]
)
async def test_an_error_whose_body_stalls_is_that_error_at_once(
    status: int, timeout: float, took: float
) -> None:
    text = answer(status, b'{"code":', length=70)
    async with RawExchange(lambda n: text) as exchange, Sender() as ours:
        began = now()
        assert await ours.get(exchange.url, timeout=timeout) == (status, b"", False)
        assert now() - began == pytest.approx(took, abs=0.01)
    assert ours.fates == [f"settled {status}"]


async def test_an_error_whose_body_breaks_off_is_that_error() -> None:
    text = answer(429, b'{"code":', length=70)
    async with RawExchange(lambda n: text, one_each=True) as exchange, Sender() as ours:
        status, _, complete = await ours.get(exchange.url)
    assert (status, complete) == (429, False)
    assert ours.fates == ["settled 429"]


async def test_cancelling_passes_and_leaves_the_charge() -> None:
    async with RawExchange(lambda n: b"") as exchange, Sender() as ours:
        call = asyncio.create_task(ours.get(exchange.url))
        await exchange.received(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert ours.fates == ["may have been counted"]


# -- what comes back -----------------------------------------------------------------------------


async def test_a_body_may_have_as_many_bytes_as_allowed_and_not_one_more() -> None:
    for size, complete in ((1000, True), (1001, False), (500_000, False)):
        text = answer(200, b"x" * size)
        async with RawExchange(lambda n, text=text: text) as exchange, Sender() as ours:  # type: ignore[misc]
            got = await ours.get(exchange.url, max_bytes=1000)
        assert (got.complete, len(got.body) >= min(size, 1000)) == (complete, True)


async def test_a_body_that_comes_in_pieces_is_put_together() -> None:
    text = answer(200, b"x" * 600_000)
    async with RawExchange(lambda n: text) as exchange, Sender() as ours:
        got = await ours.get(exchange.url, max_bytes=1_000_000)
    assert got == (200, b"x" * 600_000, True)


async def test_a_body_is_bounded_after_it_was_unpacked() -> None:
    bomb = answer(200, zlib.compress(b"0" * 50_000_000), "Content-Encoding: deflate")
    async with RawExchange(lambda n: bomb) as exchange, Sender() as ours:
        got = await ours.get(exchange.url)
    assert not got.complete
    assert len(got.body) < 1_000_000


async def test_a_flood_that_aiohttp_takes_for_the_end_of_a_body_is_not_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ENVELOPE", -900)  # 100 bytes, and the 1,000 of the body
    text = b"HTTP/1.1 200 Text\r\n\r\n" + b"x" * 50  # no length: it ends with the connection
    async with RawExchange(lambda n: text) as exchange, Sender() as ours:
        asked = asyncio.ensure_future(ours.get(exchange.url, max_bytes=1000))
        await exchange.received(1)
        await asyncio.sleep(0.1)
        exchange.write(b"x" * 60)
        got = await asked
    assert got == (200, b"x" * 50, False)


@pytest.mark.parametrize(
    "text",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 999999 Text\r\n\r\n",
        answer(200, b"not compressed", "Content-Encoding: gzip"),
        answer(200, b"zz\r\n", "Transfer-Encoding: chunked"),
        answer(200, b"x", "X: " + "y" * 100_000),
    ],
    ids=["another protocol", "no status", "not gzip", "bad chunks", "endless header"],
)
async def test_broken_http_is_a_transport_error(text: bytes) -> None:
    async with RawExchange(lambda n: text) as exchange, Sender() as ours:
        with pytest.raises(TransportError):
            await ours.get(exchange.url)
    assert ours.fates[0] in ("may have been counted", "settled 200")


async def test_tls_that_cannot_be_checked_is_never_tried_again() -> None:
    async with RawExchange(lambda n: answer(200, "")) as exchange, Sender() as ours:
        with pytest.raises(TransportError) as caught:
            await ours.get(exchange.url.replace("http://", "https://"), timeout=3.0)
    assert ours.fates == ["refunded"]
    assert caught.value.retry in ("never", "later")
    refused = ssl.SSLCertVerificationError(1, "self-signed certificate")
    error = module._transport_error(refused, module._Attempt())
    assert error.retry == "never"


def test_an_error_without_a_text_is_told_by_its_name() -> None:
    error = module._transport_error(OSError(), module._Attempt())
    assert str(error) == "no answer from the exchange: OSError"


@pytest.mark.parametrize("injected", [False, True])
async def test_a_connection_that_is_distrusted_is_not_used_again(injected: bool) -> None:
    async with (
        RawExchange(lambda n: open_interest()) as exchange,
        aiohttp.ClientSession() as session,
        Sender(session if injected else None) as ours,
    ):
        ours.transport.distrust_connections()  # there is none yet
        await ours.get(exchange.url)
        await ours.get(exchange.url)
        assert exchange.connections == 1
        ours.transport.distrust_connections()
        await ours.get(exchange.url)
        assert exchange.connections == 2
        await ours.get(exchange.url)
        assert exchange.connections == 2
    assert len(exchange.requests) == 4


async def test_connections_are_opened_beside_a_request_and_are_used_by_the_next() -> None:
    async with (
        RawExchange(lambda n: b"" if n == 1 else open_interest()) as exchange,
        Sender() as ours,
    ):
        url = ready_url(exchange.url, PATH, "")
        await ours.transport.open_connections(url, 4, busy=0)
        assert exchange.connections == 0  # nobody has been there yet
        first = asyncio.create_task(ours.get(exchange.url))
        await exchange.received(1)
        await ours.transport.open_connections(url, 4, busy=4)  # each will open its own
        await ours.transport.open_connections(url, 4, busy=1)
        await ours.transport.open_connections(url, 4, busy=1)
        await asyncio.gather(*(ours.get(exchange.url) for _ in range(3)))
        assert (len(exchange.requests), exchange.connections) == (4, 4)
        first.cancel()


async def test_a_connection_that_cannot_be_opened_for_later_is_nobody_s_error() -> None:
    async with RawExchange(lambda n: b"") as exchange, Sender() as ours:
        first = asyncio.create_task(ours.get(exchange.url))
        await exchange.received(1)
        assert exchange._server is not None
        exchange._server.close()
        await ours.transport.open_connections(ready_url(exchange.url, PATH, ""), 4, busy=1)
        assert exchange.connections == 1
        first.cancel()


async def test_an_answer_before_the_request_ends_a_connection_that_was_opened_for_later() -> None:
    script = [b"", open_interest()]
    async with RawExchange(lambda n: script[n - 1]) as exchange, Sender() as ours:
        first = asyncio.create_task(ours.get(exchange.url))
        await exchange.received(1)
        await ours.transport.open_connections(ready_url(exchange.url, PATH, ""), 2, busy=1)
        await asyncio.sleep(0.1)
        exchange.write(open_interest("ETHUSDT"))  # on both
        await first
        await asyncio.sleep(0.1)
        assert b"BTCUSDT" in (await ours.get(exchange.url)).body
        assert (len(exchange.requests), exchange.connections) == (2, 2)


@pytest.mark.parametrize("injected", [False, True])
async def test_a_connection_with_an_unasked_answer_in_it_is_not_used_again(injected: bool) -> None:
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


async def test_what_is_known_of_connections_does_not_grow_for_ever() -> None:
    async with RawExchange(lambda n: open_interest()) as exchange, Sender() as ours:
        for _ in range(5):
            await ours.get(exchange.url)
            ours.transport.distrust_connections()
        connector = ours.transport._connector
        assert connector is not None
        assert exchange.connections == 5
        assert len(connector._guards) == 1


def test_the_guard_passes_on_what_it_does_not_decide() -> None:
    handler = Mock(spec=ResponseHandler)
    guard = _Guard(handler, generation=0)
    guard.pause_writing()
    guard.resume_writing()
    guard.eof_received()
    guard.connection_lost(None)
    names = [call[0] for call in handler.method_calls]
    assert names == ["pause_writing", "resume_writing", "eof_received", "connection_lost"]


def test_a_connection_that_another_has_taken_over_stays_with_them() -> None:
    taken = Mock(spec=asyncio.Transport)
    for handler in (Mock(spec=ResponseHandler, transport=taken), Mock(transport=None)):
        _Guard(handler, generation=0).leave()
    taken.set_protocol.assert_not_called()


def test_a_flood_that_arrives_after_the_end_of_its_connection_is_ignored() -> None:
    handler = Mock(spec=ResponseHandler, transport=None)
    guard = _Guard(handler, generation=0)
    guard.left = 3
    guard.get_buffer(-1)[:4] = b"four"
    guard.buffer_updated(4)
    assert guard.flooded
    assert guard.gone
    assert handler.method_calls == []


# -- sessions ------------------------------------------------------------------------------------


async def test_a_session_that_raises_for_status_cannot_hide_a_ban() -> None:
    async with (
        RawExchange(lambda n: answer(418, "{}")) as exchange,
        aiohttp.ClientSession(raise_for_status=True) as session,
    ):
        ours = Sender(session)
        assert await ours.get(exchange.url) == (418, b"{}", True)
    assert ours.fates == ["settled 418"]


async def test_a_session_that_does_not_unpack_does_so_for_us() -> None:
    packed = answer(200, zlib.compress(b"{}"), "Content-Encoding: deflate")
    async with (
        RawExchange(lambda n: packed) as exchange,
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        assert await Sender(session).get(exchange.url) == (200, b"{}", True)


async def test_an_injected_session_stays_open_and_its_own_timeout_is_not_ours() -> None:
    async with (
        RawExchange(lambda n: open_interest()) as exchange,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1e-9)) as session,
    ):
        ours = Sender(session)
        await ours.get(exchange.url)
        ours.transport.distrust_connections()
        await ours.transport.aclose()
        assert not session.closed
        assert not ours.transport.abandon()


async def test_an_injected_session_gets_its_connections_back_as_they_were() -> None:
    long = answer(200, b"x" * 1_000_000)
    async with (
        RawExchange(lambda n: open_interest() if n == 1 else long) as exchange,
        aiohttp.ClientSession() as session,
    ):
        await Sender(session).get(exchange.url)
        async with session.get(exchange.url) as response:  # far more than we would read
            assert len(await response.read()) == 1_000_000
        assert exchange.connections == 1


async def test_an_injected_session_is_guarded_against_what_has_no_end() -> None:
    endless = b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000
    async with RawExchange(lambda n: endless) as exchange, aiohttp.ClientSession() as session:
        ours = Sender(session)
        with pytest.raises(TransportError, match="without end"):
            await ours.get(exchange.url)
    assert ours.fates == ["may have been counted"]


async def test_with_an_aiohttp_that_we_do_not_know_one_permit_is_still_one_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LEAN", False)
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
            await ours.get(exchange.url)  # nobody listens any more
    assert ours.fates == ["settled 200", "settled 503", "may have been counted", "refunded"]


async def test_a_session_that_was_closed_sends_nothing() -> None:
    session = aiohttp.ClientSession()
    await session.close()
    ours = Sender(session)
    with pytest.raises(TransportError, match="Session is closed"):
        await ours.get("http://127.0.0.1:1")
    assert ours.fates == ["refunded"]


async def test_after_closing_nothing_is_opened_again() -> None:
    async with (
        RawExchange(lambda n: open_interest()) as exchange,
        aiohttp.ClientSession() as session,
    ):
        for ours in (Sender(), Sender(session)):
            await ours.transport.aclose()
            with pytest.raises(TransportError, match="closed"):
                await ours.get(exchange.url)
            assert ours.fates == ["refunded"]
            assert not ours.transport.abandon()
        assert exchange.connections == 0


async def test_closing_ends_what_is_under_way() -> None:
    async with RawExchange(lambda n: b"") as exchange, Sender() as ours:
        calls = [asyncio.create_task(ours.get(exchange.url)) for _ in range(3)]
        await exchange.received(3)
        began = now()
        await ours.transport.aclose()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [TransportTimeoutError] * 3
        assert now() - began < 0.1


@pytest.mark.parametrize("used", [False, True])
async def test_what_is_abandoned_is_closed_without_a_word(used: bool) -> None:
    noise: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with RawExchange(lambda n: open_interest()) as exchange:
            ours = Sender()
            if used:
                await asyncio.gather(*(ours.get(exchange.url) for _ in range(3)))
            assert ours.transport.abandon() is used
            assert not ours.transport.abandon()
            await asyncio.sleep(0.1)
            assert not exchange._serving  # the other side saw it end
            del ours
            gc.collect()
    assert [str(warning.message) for warning in caught] == []
    assert noise == []


async def test_what_has_no_connections_is_abandoned_without_a_word(mocked: aioresponses) -> None:
    mocked.get(URL(f"http://127.0.0.1:1{PATH}?symbol=BTCUSDT"), body=b"{}")
    ours = Sender()
    assert (await ours.get("http://127.0.0.1:1")).body == b"{}"
    assert ours.transport.abandon()
    del ours
    gc.collect()
