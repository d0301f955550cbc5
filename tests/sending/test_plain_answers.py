"""The usual answer is read without a parser, exactly as aiohttp's parser reads it.

Rule of this file: the reader without a parser may leave an answer to the parser, but must never
read it differently from the parser.
"""

import asyncio
import gzip
import zlib
from itertools import accumulate, product
from typing import NamedTuple
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser

from binance_oi.exchange import headers as read
from binance_oi.sending import guard
from binance_oi.sending.parked_connections import PARKED_S
from binance_oi.sending.plain_answers import (
    MAX_CHUNKS,
    MAX_HEAD_BYTES,
    PlainAnswer,
    plain_answer,
)
from support.lanes import some
from support.raw_exchange import RawExchange, answer, open_interest
from support.sender import Sender

BODY = b'{"symbol":"BTCUSDT","openInterest":"96012.544","time":1790287793703}'
USUAL = (
    b"HTTP/1.1 200 OK\r\n"
    b"Content-Type: application/json\r\n"
    b"Content-Length: 68\r\n"
    b"Connection: keep-alive\r\n"
    b"date: Thu, 26 Nov 2026 19:09:30 GMT\r\n"
    b"x-mbx-used-weight-1m: 1234\r\n"
    b"vary: Accept-Encoding\r\n"
    b"Via: 1.1 0123456789abcdef.cloudfront.net (CloudFront)\r\n"
    b"\r\n"
) + BODY
PACKED_BODY = gzip.compress(BODY, mtime=0)
PACKED = USUAL.replace(BODY, PACKED_BODY).replace(
    b"Length: 68\r\n", b"Length: %d\r\nContent-Encoding: gzip\r\n" % len(PACKED_BODY)
)
CHUNKED_BODY = b"".join(
    b"%x\r\n%b\r\n" % (len(part), part) for part in (PACKED_BODY[:10], PACKED_BODY[10:], b"")
)
CHUNKED = USUAL.replace(BODY, CHUNKED_BODY).replace(
    b"Content-Length: 68\r\n", b"Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n"
)
FORMS = pytest.mark.parametrize(
    "usual", [USUAL, PACKED, CHUNKED], ids=["plain", "gzip", "gzip in chunks"]
)
MOST = 65_536  # the most bytes of a body
ODD_BYTES = b"\0\t\n\r :,;-08Aaz\x7f\x80\xff"
ODD_PARTS = (b"", b"\r\n", b"\r\n\r\n", b"\n", b" ", b"\t", b"chunked", b"Connection: close\r\n")


class Outcome(NamedTuple):
    """The content of an answer, and whether its connection stays open."""

    status: int
    used: int | None
    date: float | None
    body: bytes
    stays_open: bool


def ours(data: bytes) -> Outcome | None:
    """Read an answer without the parser; None if the answer is left to the parser."""
    found = plain_answer(memoryview(data), MOST)
    assert found == plain_answer(data, MOST)
    if found is None:
        return None
    assert (type(found.body), type(found.headers)) == (bytes, dict)
    used, date = read.used_weight(found.headers), read.date(found.headers)
    assert (used, date) == (found.used, found.date)
    return Outcome(200, used, date, found.body, True)


def theirs(data: bytes, loop: asyncio.AbstractEventLoop) -> Outcome | None:
    """Read an answer with aiohttp's parser, set up as on our connections; None if the bytes are not
    exactly one complete answer."""
    protocol = BaseProtocol(loop)
    parser = HttpResponseParser(
        protocol,
        loop,
        2**16,
        payload_exception=aiohttp.ClientPayloadError,
        response_with_body=True,
        read_until_eof=True,
        auto_decompress=True,
    )
    try:
        messages, upgraded, tail = parser.feed_data(data)
    except HttpProcessingError:
        return None
    if len(messages) != 1 or upgraded or tail:
        return None
    message, content = messages[0]
    if not content.is_eof() or content.exception() is not None:
        return None
    body = content.read_nowait() if content.total_bytes else b""
    used, date = read.used_weight(message.headers), read.date(message.headers)
    return Outcome(message.code, used, date, body, not message.should_close)


def changed(usual: bytes) -> list[bytes]:
    """Cut an answer short, add an odd part, or change, drop or double a byte; return each text."""
    texts = [usual[:at] for at in range(len(usual))]
    texts += [usual[:at] + usual[at + 1 :] for at in range(len(usual))]
    texts += [usual[:at] + usual[at - 1 :] for at in range(1, len(usual))]
    for at, odd in product(range(len(usual)), ODD_BYTES):
        texts.append(usual[:at] + bytes([odd]) + usual[at + 1 :])
    lines = list(accumulate((len(line) + 2 for line in usual.split(b"\r\n")), initial=0))
    texts += [usual[:at] + odd + usual[at:] for at, odd in product(lines[:-1], ODD_PARTS)]
    return texts


@FORMS
@pytest.mark.parametrize("part", some(range(16), 4))
async def test_a_changed_answer_is_read_as_the_parser_reads_it_or_left_to_the_parser(
    usual: bytes, part: int
) -> None:
    loop, taken = asyncio.get_running_loop(), 0
    for text in changed(usual)[part::16]:
        found = ours(text)
        if found is not None:
            taken += 1
            assert found == theirs(text, loop), text
    assert taken > 50  # those with a change in the body or in an unread header


@FORMS
async def test_the_usual_answer_is_read_without_a_parser(usual: bytes) -> None:
    found = ours(usual)
    assert found == Outcome(200, 1234, 1795720170.0, BODY, True)
    assert found == theirs(usual, asyncio.get_running_loop())


@pytest.mark.parametrize(
    "old, new",
    [
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"200 OK", b"429 OK"),
        (b"200 OK", b"200"),
        (b"200 OK", b"206 OK"),
        (b"Content-Length: 68", b"Content-Length: 67"),
        (b"Content-Length: 68", b"Content-Length: 69"),
        (b"Content-Length: 68", b"Content-Length: +68"),
        (b"Content-Length: 68", b"Content-Length: 68, 68"),
        (b"Content-Length: 68", b"Content-Length: 68\r\nContent-Length: 68"),
        (b"Content-Length: 68", b"Transfer-Encoding: chunked"),
        (b"Content-Length: 68", b"Content-Length: 68\r\nTransfer-Encoding: identity"),
        (b"Content-Length: 68\r\n", b""),
        (b"Vary", b"Content-Encoding"),
        (b"vary: Accept-Encoding", b"CONTENT-ENCODING: gzip"),
        (b"keep-alive", b"close"),
        (b"keep-alive", b"upgrade"),
        (b"keep-alive", b"keep-alive, close"),
        (b"vary: ", b"x-mbx-used-weight-1m: "),
        (b"vary: ", b"Date: "),
        (b"vary: ", b"vary : "),
        (b"vary: ", b" vary: "),
        (b"Accept-Encoding", b"Accept-Encoding\r\n folded"),
        (b"Accept-Encoding", "Zürich".encode()),
        (b"Accept-Encoding", b"x" * MAX_HEAD_BYTES),
        (b"vary: Accept-Encoding\r\n", b"a: b\r\n" * 64),
        (BODY, BODY + b"\n"),
        (BODY, b""),
        (b"Content-Length: 68\r\n", b"Content-Length: 68\r\nTransfer-Encoding: chunked\r\n"),
        (USUAL, USUAL + USUAL),
        (USUAL, b""),
    ],
)
def test_an_unusual_answer_is_left_to_the_parser(old: bytes, new: bytes) -> None:
    assert old.lower() in USUAL.lower()
    at = USUAL.lower().index(old.lower())
    assert plain_answer(USUAL[:at] + new + USUAL[at + len(old) :], MOST) is None


@pytest.mark.parametrize(
    "body",
    [
        *(PACKED_BODY[:-1], PACKED_BODY + b"x", PACKED_BODY * 2, PACKED_BODY[:-8] + bytes(8)),
        *(BODY, gzip.compress(b"", mtime=0), zlib.compress(BODY), b"\x1f\x8b"),
        gzip.compress(bytes(MOST + 1), mtime=0),  # longer than `MOST` when unpacked
    ],
    ids=range(9),
)
def test_an_unusual_compressed_body_is_left_to_the_parser(body: bytes) -> None:
    text = PACKED.replace(PACKED_BODY, body)
    length = b"Content-Length: %d\r\n"
    text = text.replace(length % len(PACKED_BODY), length % len(body))
    assert text.endswith(body)
    assert plain_answer(text, MOST) is None


@pytest.mark.parametrize(
    "chunks",
    [
        *(
            b"0\r\n\r\n",
            b"",
            b"5\r\nabcd\r\n0\r\n\r\n",
            b"3\r\nabcd\r\n0\r\n\r\n",
            b"4\r\nabcd\r\n",
        ),
        *(b"4\nabcd\n0\n\n", b"+4\r\nabcd\r\n0\r\n\r\n", b"0x4\r\nabcd\r\n0\r\n\r\n", b"4\r\nabcd"),
        *(b"4;a=b\r\nabcd\r\n0\r\n\r\n", b"4 \r\nabcd\r\n0\r\n\r\n", b"4\r\nabcd\r\n0\r\n"),
        *(
            b"4\r\nabcd\r\n0\r\nA: b\r\n\r\n",
            b"4\r\nabcd\r\n0\r\n\r\nx",
            b"_4\r\nabcd\r\n0\r\n\r\n",
        ),
        b"0000004\r\nabcd\r\n0\r\n\r\n",
        b"1\r\na\r\n" * MAX_CHUNKS + b"0\r\n\r\n",
    ],
    ids=range(17),
)
def test_unusual_chunks_are_left_to_the_parser(chunks: bytes) -> None:
    head = CHUNKED.removesuffix(CHUNKED_BODY).replace(b"Content-Encoding: gzip\r\n", b"")
    assert plain_answer(head + b"4\r\nabcd\r\n0\r\n\r\n", MOST) is not None
    assert plain_answer(head + chunks, MOST) is None


@pytest.mark.parametrize("encoding", [b"deflate", b"br", b"gzip, gzip", b"identity", b""])
def test_a_body_in_another_encoding_is_left_to_the_parser(encoding: bytes) -> None:
    assert plain_answer(PACKED, MOST) is not None
    assert plain_answer(PACKED.replace(b": gzip", b": " + encoding), MOST) is None


async def test_the_bound_of_a_compressed_body_is_the_bound_of_its_request() -> None:
    text = answer(200, gzip.compress(BODY), "Content-Encoding: gzip")
    async with RawExchange(lambda n: text) as exchange, Sender() as sender:
        for most, is_complete in [(68, True), (68, True), (67, False), (69, True)]:
            found = await sender.get(exchange.url, max_bytes=most)
            assert found.complete == is_complete
            assert not is_complete or found.body == BODY
    assert sender.fates == ["settled 200"] * 4


@pytest.mark.parametrize("name", ["x-mbx-used-weight-1m", "date"])
def test_a_missing_header_is_not_made_up(name: str) -> None:
    text = b"".join(
        line for line in USUAL.splitlines(keepends=True) if not line.startswith(name.encode())
    )
    found = plain_answer(text, MOST)
    assert found is not None
    assert name not in {each.lower() for each in found.headers}
    assert len(found.headers) == 1


@pytest.mark.virtual_time
async def test_only_an_unusual_answer_creates_a_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = Mock(wraps=ResponseHandler.set_response_params)
    monkeypatch.setattr(
        ResponseHandler, "set_response_params", lambda self, **more: parsed(self, **more)
    )
    script = {3: answer(400, "{}"), 5: open_interest("BTCUSDT", "Connection: x")}
    async with (
        RawExchange(lambda n: script.get(n) or open_interest()) as exchange,
        Sender() as sender,
    ):
        counts = []
        for _ in range(6):
            await sender.get(exchange.url)
            counts.append(parsed.call_count)
        assert exchange.connections == 1
    assert counts == [1, 1, 2, 2, 3, 3]  # for the first request, and for the unusual answers


@pytest.mark.virtual_time
async def test_an_answer_in_two_pieces_is_read_by_the_parser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[PlainAnswer | None] = []
    came = asyncio.Event()

    def noted(data: memoryview, max_body: int) -> PlainAnswer | None:
        taken.append(plain_answer(data, max_body))
        came.set()
        return taken[-1]

    monkeypatch.setattr(guard, "plain_answer", noted)
    text = open_interest()
    async with RawExchange(lambda n: text if n == 1 else text[:-9]) as exchange, Sender() as sender:
        await sender.get(exchange.url)
        second = asyncio.ensure_future(sender.get(exchange.url))
        await came.wait()
        exchange.write(text[-9:])
        found = await second
    assert taken == [None]
    assert text.endswith(found.body)
    assert sender.fates == ["settled 200", "settled 200"]


@pytest.mark.virtual_time
async def test_an_unused_parked_connection_returns_to_the_pool() -> None:
    async with RawExchange(lambda n: open_interest()) as exchange, Sender() as sender:
        for _ in range(2):
            await sender.get(exchange.url)
        connector = sender.transport._connector
        assert connector is not None
        assert (len(connector._parked), len(connector._conns)) == (1, 0)
        await asyncio.sleep(2 * PARKED_S)
        assert (len(connector._parked), len(connector._conns)) == (0, 1)
        await sender.get(exchange.url)
        assert exchange.connections == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("data", [b"HTTP/1.1 200 OK\r\nX-A: b\r\n", b"HTTP/1.1 4", b"\r"])
@pytest.mark.parametrize("parsed", [False, True])
async def test_a_connection_with_the_beginning_of_an_unwanted_answer_is_not_used_again(
    data: bytes, parsed: bool
) -> None:
    unusual = ("X-Cafe: \u00e9",) if parsed else ()
    async with (
        RawExchange(lambda n: open_interest("BTCUSDT", *unusual)) as exchange,
        Sender() as sender,
    ):
        for _ in range(2):
            await sender.get(exchange.url)
        exchange.write(data)
        await asyncio.sleep(0.1)
        await sender.get(exchange.url)
        assert (len(exchange.requests), exchange.connections) == (3, 2)
    assert sender.fates == ["settled 200"] * 3


@pytest.mark.virtual_time
@pytest.mark.parametrize("data", [b"HTTP/1.1 200 OK\r\nX-A: b\r\n", b"H", b"\n"])
async def test_a_connection_that_brings_more_than_an_answer_is_not_used_again(data: bytes) -> None:
    script = {2: open_interest() + data}
    async with (
        RawExchange(lambda n: script.get(n) or open_interest()) as exchange,
        Sender() as sender,
    ):
        for _ in range(3):
            await sender.get(exchange.url)
        assert (len(exchange.requests), exchange.connections) == (3, 2)
    assert sender.fates == ["settled 200"] * 3
