"""A request has exactly our bytes; its permit is settled, is refunded, or stays charged.

Rule of this file: the exchange, if a test has one, uses no HTTP library. So no library corrects
what it receives or sends.
"""

import asyncio
import gc
import ssl
import traceback
import warnings
import zlib
from pathlib import Path
from typing import cast

import aiohttp
import pytest
from aioresponses import aioresponses
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from binance_oi import OpenInterestClient, ProcessBudget
from binance_oi.errors import DecodeError, TransportError, TransportTimeoutError
from binance_oi.exchange.routes import MAX_LISTING
from binance_oi.exchange.symbols import MAX_SYMBOL
from binance_oi.sending import connections
from binance_oi.sending.governor import Permit
from binance_oi.sending.guard import Attempt
from binance_oi.sending.transport import Transport, _transport_error
from binance_oi.sending.wire import USER_AGENT, ready_url
from faults.doors import Tls
from support.balancer import Balancer
from support.certificates import good
from support.raw_exchange import CLOSE, RawExchange, answer, open_interest
from support.sender import PATH, Record, Sender

pytestmark = pytest.mark.virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


# -- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", [True, False], ids=["by us", "by aiohttp"])
async def test_a_request_has_only_our_headers_and_ignores_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, direct: bool
) -> None:
    monkeypatch.setattr(connections, "SENDS_DIRECTLY", direct)
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
    accepted: list[str] = []
    for request in exchange.requests:
        sent = request.decode().removesuffix("\r\n\r\n").split("\r\n")
        name, _, encodings = sent.pop().partition(": ")
        assert [*sent, f"{name}: ENCODINGS"] == lines
        accepted.append(encodings)
    assert accepted[0].startswith("gzip, deflate")  # and other codings that aiohttp can decode
    second = "identity" if direct else accepted[0]  # the second request does not use the session
    assert accepted[1] == second
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
        url = ready_url(exchange.url, PATH, {"symbol": symbol} if symbol else {})
        await ours.get(url, cast(Permit, Record()), 100, 1.0)
        await ours.aclose()
    (request,) = exchange.requests
    line = f"GET {PATH}{'?' if target else ''}{target} HTTP/1.1\r\n"
    assert request.startswith(line.encode())


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=MAX_SYMBOL))
def test_no_symbol_can_alter_the_request(symbol: str) -> None:
    url = ready_url("http://127.0.0.1:1", PATH, {"symbol": symbol})
    assert url.query == {"symbol": symbol}
    assert url.path == PATH
    assert str(url).isascii()
    assert str(url).isprintable()


async def test_a_given_proxy_is_used() -> None:
    async with RawExchange(lambda n: open_interest()) as proxy, Sender(proxy=proxy.url) as ours:
        assert (await ours.get("http://exchange.invalid")).status == 200
    assert proxy.requests[0].startswith(b"GET http://exchange.invalid/fapi/v1/openInterest?")


@pytest.mark.parametrize("status, retry", [(407, "never"), (502, "later")])
async def test_a_refusal_by_a_proxy_is_refunded_and_shows_no_password(
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


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    async with RawExchange(lambda n: open_interest()) as elsewhere:
        text = answer(302, "", f"Location: {elsewhere.url}{PATH}")
        async with RawExchange(lambda n: text) as exchange, Sender() as ours:
            assert (await ours.get(exchange.url)).status == 302
        async with RawExchange(lambda n: text) as exchange, aiohttp.ClientSession() as session:
            assert (await Sender(session).get(exchange.url)).status == 302
    assert elsewhere.connections == 0


# -- the fate of a permit ------------------------------------------------------------------------


async def test_a_good_answer_is_settled_and_complete() -> None:
    async with RawExchange(lambda n: open_interest()) as exchange, Sender() as ours:
        status, body, complete = await ours.get(exchange.url)
    assert (status, body[:20], complete) == (200, b'{"symbol":"BTCUSDT",', True)
    assert ours.fates == ["settled 200"]


async def test_a_refused_connection_refunds_the_permit() -> None:
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
async def test_a_request_whose_connection_ends_without_an_answer_stays_charged(
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


async def test_silence_is_a_timeout_and_the_request_stays_charged() -> None:
    async with RawExchange(lambda n: b"") as exchange, Sender() as ours:
        began = now()
        with pytest.raises(TransportTimeoutError, match="no answer within 3 s"):
            await ours.get(exchange.url, timeout=3.0)
        assert now() - began == pytest.approx(3.0, abs=0.01)
    assert ours.fates == ["may have been counted"]


async def test_a_stalled_body_runs_into_the_timeout() -> None:
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
async def test_an_error_with_a_stalled_body_is_returned_soon(
    status: int, timeout: float, took: float
) -> None:
    text = answer(status, b'{"code":', length=70)
    async with RawExchange(lambda n: text) as exchange, Sender() as ours:
        began = now()
        assert await ours.get(exchange.url, timeout=timeout) == (status, b"", False)
        assert now() - began == pytest.approx(took, abs=0.01)
    assert ours.fates == [f"settled {status}"]


async def test_a_refusal_with_unfinished_headers_is_that_refusal() -> None:
    text = b"HTTP/1.1 418 I'm a teapot\r\nRetry-After: 120\r\n"
    async with RawExchange(lambda n: text) as exchange, Sender() as ours:
        began = now()
        assert await ours.get(exchange.url, timeout=3.0) == (418, b"", False)
        assert now() - began == pytest.approx(3.0, abs=0.01)
    assert ours.fates == ["settled 418"]


async def test_an_error_with_a_truncated_body_is_that_error() -> None:
    text = answer(429, b'{"code":', length=70)
    async with RawExchange(lambda n: text, one_each=True) as exchange, Sender() as ours:
        status, _, complete = await ours.get(exchange.url)
    assert (status, complete) == (429, False)
    assert ours.fates == ["settled 429"]


@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
async def test_cancelling_a_request_whose_refusal_began_settles_the_refusal(kept: bool) -> None:
    script = [open_interest()] * kept + [b"HTTP/1.1 418 Teapot\r\nRetry-After: 120\r\n"]
    async with RawExchange(lambda n: script[n - 1]) as exchange, Sender() as ours:
        if kept:
            await ours.get(exchange.url)
        call = asyncio.create_task(ours.get(exchange.url))
        await asyncio.sleep(0.3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert ours.fates[-1] == "settled 418"


async def test_cancelling_a_request_keeps_the_charge() -> None:
    async with RawExchange(lambda n: b"") as exchange, Sender() as ours:
        call = asyncio.create_task(ours.get(exchange.url))
        await exchange.received(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert ours.fates == ["may have been counted"]


# -- answers -------------------------------------------------------------------------------------


async def test_max_bytes_is_the_largest_allowed_body() -> None:
    for size, complete in ((1000, True), (1001, False), (500_000, False)):
        text = answer(200, b"x" * size)
        async with RawExchange(lambda n, text=text: text) as exchange, Sender() as ours:  # type: ignore[misc]
            got = await ours.get(exchange.url, max_bytes=1000)
        assert (got.complete, len(got.body) >= min(size, 1000)) == (complete, True)


@pytest.mark.parametrize("sent", [0, 1, 999], ids=lambda sent: f"{sent} bytes came")
@pytest.mark.parametrize("length", [1001, 10**12])
async def test_a_body_whose_header_announces_too_many_bytes_is_not_awaited(
    length: int, sent: int
) -> None:
    text = answer(200, b"x" * sent, length=length)
    async with RawExchange(lambda n: text) as exchange, Sender() as ours:
        for times in (1, 2):  # first through the session, then without it
            began = now()
            got = await ours.get(exchange.url, max_bytes=1000)
            assert (got.complete, len(got.body)) == (False, sent)
            assert now() - began < 1.0
            assert ours.fates == ["settled 200"] * times
        await asyncio.sleep(1.0)
        assert (exchange.connections, exchange.open) == (2, 0)  # closed, so no more arrives


async def test_a_body_of_the_largest_allowed_length_is_awaited() -> None:
    text = answer(200, b"x" * 999, length=1000)
    async with RawExchange(lambda n: text) as exchange, Sender() as ours:
        call = asyncio.create_task(ours.get(exchange.url, max_bytes=1000))
        await asyncio.sleep(5.0)
        exchange.write(b"y")
        assert await call == (200, b"x" * 999 + b"y", True)


@pytest.mark.parametrize("whose", ["ours", "the caller's"])
async def test_a_listing_that_is_too_long_is_an_error_at_once_and_not_retried(
    whose: str,
) -> None:
    async with RawExchange(lambda n: answer(200, b"{", length=MAX_LISTING + 1)) as exchange:
        async with aiohttp.ClientSession() as session:
            client = OpenInterestClient(
                base_url=exchange.url,
                budget=ProcessBudget(),
                session=None if whose == "ours" else session,
            )
            async with client:
                began = now()
                with pytest.raises(DecodeError, match="longer than any real one"):
                    await client.exchange_info()
                assert now() - began < 1.0
        assert len(exchange.requests) == 1


async def test_a_body_in_pieces_is_joined() -> None:
    text = answer(200, b"x" * 600_000)
    async with RawExchange(lambda n: text) as exchange, Sender() as ours:
        got = await ours.get(exchange.url, max_bytes=1_000_000)
    assert got == (200, b"x" * 600_000, True)


async def test_the_bound_of_a_body_holds_after_decompression() -> None:
    bomb = answer(200, zlib.compress(b"0" * 50_000_000), "Content-Encoding: deflate")
    async with RawExchange(lambda n: bomb) as exchange, Sender() as ours:
        got = await ours.get(exchange.url)
    assert not got.complete
    assert len(got.body) < 1_000_000


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


async def test_a_failed_tls_check_is_never_retried() -> None:
    async with RawExchange(lambda n: answer(200, "")) as exchange, Sender() as ours:
        with pytest.raises(TransportError) as caught:
            await ours.get(exchange.url.replace("http://", "https://"), timeout=3.0)
    assert ours.fates == ["refunded"]
    assert caught.value.retry in ("never", "later")
    refused = ssl.SSLCertVerificationError(1, "self-signed certificate")
    error = _transport_error(refused, Attempt())
    assert error.retry == "never"


def test_an_error_without_a_text_shows_its_type() -> None:
    error = _transport_error(OSError(), Attempt())
    assert str(error) == "no answer from the exchange: OSError"


# -- sessions ------------------------------------------------------------------------------------


async def test_a_session_that_raises_for_status_cannot_hide_a_ban() -> None:
    async with (
        RawExchange(lambda n: answer(418, "{}")) as exchange,
        aiohttp.ClientSession(raise_for_status=True) as session,
    ):
        ours = Sender(session)
        assert await ours.get(exchange.url) == (418, b"{}", True)
    assert ours.fates == ["settled 418"]


async def test_a_given_tls_context_replaces_the_checks_of_the_session() -> None:
    async with Balancer(tls=good()) as exchange, aiohttp.ClientSession() as session:
        with pytest.raises(TransportError):
            await Sender(session).get(exchange.url)
        assert (await Sender(session, tls=Tls().client_tls()).get(exchange.url)).status == 200


async def test_a_session_without_decompression_still_decompresses_for_us() -> None:
    packed = answer(200, zlib.compress(b"{}"), "Content-Encoding: deflate")
    async with (
        RawExchange(lambda n: packed) as exchange,
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        assert await Sender(session).get(exchange.url) == (200, b"{}", True)


async def test_an_injected_session_stays_open_and_its_timeout_is_ignored() -> None:
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


async def test_a_closed_session_sends_nothing() -> None:
    session = aiohttp.ClientSession()
    await session.close()
    ours = Sender(session)
    with pytest.raises(TransportError, match="Session is closed"):
        await ours.get("http://127.0.0.1:1")
    assert ours.fates == ["refunded"]


async def test_nothing_is_opened_after_closing() -> None:
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


async def test_closing_ends_running_requests() -> None:
    async with RawExchange(lambda n: b"") as exchange, Sender() as ours:
        calls = [asyncio.create_task(ours.get(exchange.url)) for _ in range(3)]
        await exchange.received(3)
        began = now()
        await ours.transport.aclose()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [TransportTimeoutError] * 3
        assert now() - began < 0.1


@pytest.mark.parametrize("used", [False, True])
async def test_an_abandoned_transport_closes_its_session_silently(used: bool) -> None:
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
            assert not exchange._serving  # the server has seen the end
            del ours
            gc.collect()
    assert [str(warning.message) for warning in caught] == []
    assert noise == []


async def test_a_transport_without_connections_is_abandoned_silently(mocked: aioresponses) -> None:
    mocked.get(URL(f"http://127.0.0.1:1{PATH}?symbol=BTCUSDT"), body=b"{}")
    ours = Sender()
    assert (await ours.get("http://127.0.0.1:1")).body == b"{}"
    assert ours.transport.abandon()
    del ours
    gc.collect()
