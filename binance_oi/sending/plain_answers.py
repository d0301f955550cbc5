"""Reads the usual answer without an HTTP parser.

The rule of this file: it reads only a piece of data that is exactly one complete answer of the
plainest form. It never repairs and never guesses; aiohttp's parser reads every other answer. A test
checks that this reader and aiohttp's parser read the same values in the same answer.
"""

import re
import zlib
from functools import lru_cache
from typing import NamedTuple

from binance_oi.exchange import headers as read
from binance_oi.exchange.limits import WEIGHT

MAX_HEAD_BYTES = 4096  # bytes of status line and headers; a real answer has 1,000
# The status line and the headers. A header's name is a token of RFC 9112, and its value is
# printable ASCII. This excludes folded lines, bare line feeds and spaces before a colon, which
# parsers read in different ways. At most 64 headers; a real answer has 25.
_HEAD = re.compile(
    rb"HTTP/1\.1 200 [ -~]*+\r\n(?:[!#-'*+.0-9A-Z^-z|~-]++:[ -~]*+\r\n){1,64}+\r\n", re.ASCII
)
MAX_CHUNKS = 64  # in one body, the empty last chunk included; a page of history has one to ten
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
    """The used-weight header, as the exchange wrote it; None if there is none."""
    dated: bytes | None
    """The `Date` header, as the exchange wrote it; None if there is none."""
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
    """Whether `headers.number` would read `text`."""
    return len(text) <= read.MAX_DIGITS and text.isdigit()


@lru_cache(maxsize=8)  # hundreds of answers have the same date
def _date(text: bytes) -> float | None:
    return read.date({"Date": text.decode("ascii")})


def plain_answer(data: bytes | memoryview, max_body: int) -> PlainAnswer | None:
    """Read `data` if it is one complete answer of the plainest form; otherwise return None.

    An answer has the plainest form under these conditions, and within the bounds of this file:

    - It is HTTP/1.1 with status 200.
    - It has a `Content-Length`, which is the number of bytes after the blank line. Or it has
      `Transfer-Encoding: chunked`, and `data` contains all chunks. It does not have both headers.
    - Its `Content-Encoding`, if any, is `gzip`.
    - Its `Connection`, if any, is `keep-alive`.
    - None of these headers occurs twice, nor does the used-weight header or `Date`.
    - Its body is not empty. A compressed body has 1 to `max_body` bytes after decompression.
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
    if day is not None:  # take it from `written`: a date has capitals
        start = head.index(b"\ndate:") + len(b"\ndate:")
        day = written[start : start + len(day)].strip(b" ")
    return PlainAnswer(None if count is None else count.strip(b" "), day, body)


def _chunked(data: bytes | memoryview, start: int) -> bytes | None:
    """Join the chunks from `start` to the end of `data`; None if they are not one whole body."""
    chunks: list[bytes | memoryview] = []
    for _ in range(MAX_CHUNKS):
        match = _CHUNK.match(data, start)
        if match is None:
            return None
        size, start = int(match[1], 16), match.end()
        if data[start + size : start + size + 2] != b"\r\n":
            return None
        if not size:  # the last chunk; None if trailers follow, or if the body is empty
            return b"".join(chunks) or None if start + 2 == len(data) else None
        chunks.append(data[start : start + size])
        start += size + 2
    return None


def _decompressed(packed: bytes, most: int) -> bytes | None:
    """Decompress `packed`; None unless it is one gzip member that contains 1 to `most` bytes."""
    reader = zlib.decompressobj(_GZIP)
    try:
        body = reader.decompress(packed, most)
    except zlib.error:
        return None
    return body if body and reader.eof and not reader.unused_data else None


def has_surplus(data: bytes | memoryview) -> bool:
    """Whether `data` is an answer with a `Content-Length`, followed by surplus bytes."""
    match = _HEAD.match(data)
    if match is None:
        return False
    used = dict[bytes, bytes](_USED.findall(bytes(data[: match.end()]).lower()))
    length = _DIGITS.fullmatch(used.get(_LENGTH, b""))
    return length is not None and int(length[1]) < len(data) - match.end()
