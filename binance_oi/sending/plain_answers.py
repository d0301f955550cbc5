"""Reads the usual answer without an HTTP parser.

The rule of this file: read only a piece that is exactly one complete answer of the plainest form.
Never repair or guess: aiohttp's parser reads any other answer. A test checks that both read the
same answer in the same way.
"""

import re
import zlib
from functools import lru_cache
from typing import NamedTuple

from binance_oi.exchange import headers as read
from binance_oi.exchange.limits import WEIGHT

MAX_HEAD_BYTES = 4096  # bytes of the headers; a real answer has 1,000
# Before each colon, only what RFC 9112 calls a token; after it, only printable ASCII. This excludes
# folded lines, bare line feeds and spaces before a colon, which parsers read in different ways. At
# most 64 lines; a real answer has 25.
_HEAD = re.compile(
    rb"HTTP/1\.1 200 [ -~]*+\r\n(?:[!#-'*+.0-9A-Z^-z|~-]++:[ -~]*+\r\n){1,64}+\r\n", re.ASCII
)
MAX_CHUNKS = 64  # of a body; a compressed page of history has one to ten
_LENGTH, _CODING, _ENCODING = b"content-length", b"transfer-encoding", b"content-encoding"
_CONNECTION, _DATE = b"connection", b"date"
_COUNT = WEIGHT.header.lower().encode()
_USED = re.compile(
    rb"\n(content-length|content-encoding|transfer-encoding|connection|date|%b):([ -~]*)" % _COUNT
)
_DIGITS = re.compile(rb" ?([1-9][0-9]{0,6})")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,6})\r\n")
_GZIP = 16 + zlib.MAX_WBITS


class PlainAnswer(NamedTuple):
    """An answer with status 200."""

    counted: bytes | None
    """The used-weight header, as it was written; None if there is none."""
    dated: bytes | None
    """The `Date` header, as it was written."""
    body: bytes
    """The whole body, decompressed."""

    @property
    def used(self) -> int | None:
        """See `headers.used_weight`."""
        counted = self.counted
        return int(counted) if counted is not None and _is_number(counted) else None

    @property
    def date(self) -> float | None:
        """See `headers.date`."""
        return None if self.dated is None else _date(self.dated)

    @property
    def headers(self) -> dict[str, str]:
        """The headers that the governor reads."""
        headers: dict[str, str] = {}
        if self.counted is not None:
            headers[WEIGHT.header] = self.counted.decode("ascii")
        if self.dated is not None:
            headers["Date"] = self.dated.decode("ascii")
        return headers


def _is_number(text: bytes) -> bool:
    """As `headers.number`."""
    return len(text) <= read.MAX_DIGITS and text.isdigit()


@lru_cache(maxsize=8)  # as `headers.date`: hundreds of answers share a date
def _date(text: bytes) -> float | None:
    return read.date({"Date": text.decode("ascii")})


def plain_answer(data: bytes | memoryview, max_body: int) -> PlainAnswer | None:
    """Read `data` if it is one complete answer of the plainest form; None otherwise.

    The plainest form is HTTP/1.1 with status 200. Its one `Content-Length` is the number of bytes
    after the blank line; or else its `Transfer-Encoding` is `chunked`, and all chunks are there. It
    has no `Content-Encoding` except `gzip`, and no `Connection` except `keep-alive`. None of these
    comes twice, nor does a header that the governor reads. A body that is chunked or compressed has
    from 1 to `max_body` bytes in the end.
    """
    match = _HEAD.match(data)
    if match is None or (end := match.end()) > MAX_HEAD_BYTES:
        return None
    written = match[0]
    head = written.lower()
    lines: list[tuple[bytes, bytes]] = _USED.findall(head)
    used = dict(lines)
    if len(used) != len(lines) or used.get(_CONNECTION, b" keep-alive") != b" keep-alive":
        return None
    length = used.get(_LENGTH)
    if length is not None and _CODING not in used:  # nearly always
        if not _DIGITS.fullmatch(length) or int(length) != len(data) - end:
            return None
        body: bytes | None = bytes(data[end:])
    else:
        body = _chunked(data, end) if length is None and used.get(_CODING) == b" chunked" else None
    if body is not None and _ENCODING in used:
        body = _decompressed(body, max_body) if used[_ENCODING] == b" gzip" else None
    if body is None:
        return None
    count, day = used.get(_COUNT), used.get(_DATE)
    if day is not None:  # names of days and months have capitals
        start = head.index(b"\ndate:") + len(b"\ndate:")
        day = written[start : start + len(day)].strip(b" ")
    return PlainAnswer(None if count is None else count.strip(b" "), day, body)


def _chunked(data: bytes | memoryview, start: int) -> bytes | None:
    """The body of the chunks that begin at `start` and end with `data`."""
    chunks: list[bytes | memoryview] = []
    for _ in range(MAX_CHUNKS):
        match = _CHUNK.match(data, start)
        if match is None:
            return None
        size, start = int(match[1], 16), match.end()
        if data[start + size : start + size + 2] != b"\r\n":
            return None
        if not size:  # the last one; trailers would follow
            return b"".join(chunks) or None if start + 2 == len(data) else None
        chunks.append(data[start : start + size])
        start += size + 2
    return None


def _decompressed(packed: bytes, most: int) -> bytes | None:
    """The bytes in `packed`, if they are one gzip member of 1 to `most` bytes."""
    reader = zlib.decompressobj(_GZIP)
    try:
        body = reader.decompress(packed, most)
    except zlib.error:
        return None
    return body if body and reader.eof and not reader.unused_data else None


def has_surplus(data: bytes | memoryview) -> bool:
    """Whether more bytes follow a plain answer in one piece: they belong to no request."""
    match = _HEAD.match(data)
    if match is None:
        return False
    used = dict[bytes, bytes](_USED.findall(bytes(data[: match.end()]).lower()))
    length = _DIGITS.fullmatch(used.get(_LENGTH, b""))
    return length is not None and int(length[1]) < len(data) - match.end()
