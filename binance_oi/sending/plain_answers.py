"""Reads the usual answer without an HTTP parser.

The rule of this file: read only a piece that is exactly one complete answer of the plainest form.
Never repair or guess: aiohttp's parser reads any other answer. A test checks that both read the
same answer in the same way.
"""

import re
from typing import NamedTuple

from binance_oi.exchange.limits import WEIGHT

MAX_HEAD_BYTES = 4096  # bytes of the headers; a real answer has 1,000
# Before each colon, only what RFC 9112 calls a token; after it, only printable ASCII. This excludes
# folded lines, bare line feeds and spaces before a colon, which parsers read in different ways. At
# most 64 lines; a real answer has 25.
_HEAD = re.compile(
    rb"HTTP/1\.1 200 [ -~]*+\r\n(?:[!#-'*+.0-9A-Z^-z|~-]++:[ -~]*+\r\n){1,64}+\r\n", re.ASCII
)
_LENGTH, _CONNECTION, _DATE = b"content-length", b"connection", b"date"
_COUNT = WEIGHT.header.lower().encode()
_USED = re.compile(
    rb"\n(content-length|content-encoding|transfer-encoding|connection|date|%b):([ -~]*)" % _COUNT
)
_DIGITS = re.compile(rb" ?([1-9][0-9]{0,6})")


class PlainAnswer(NamedTuple):
    """An answer with status 200."""

    headers: dict[str, str]
    """The headers that the governor reads."""
    body: bytes
    """The whole body."""


def plain_answer(data: bytes) -> PlainAnswer | None:
    """Read `data` if it is one complete answer of the plainest form; None otherwise.

    The plainest form is HTTP/1.1 with status 200. Its one `Content-Length` is the number of bytes
    after the blank line. It has no `Transfer-Encoding`, no `Content-Encoding`, and no `Connection`
    except `keep-alive`. None of these comes twice, nor does a header that the governor reads.
    """
    match = _HEAD.match(data)
    if match is None or match.end() > MAX_HEAD_BYTES:
        return None
    end = match.end()
    head = data[:end].lower()
    lines: list[tuple[bytes, bytes]] = _USED.findall(head)
    used = dict(lines)
    length = _DIGITS.fullmatch(used.pop(_LENGTH, b""))
    if length is None or int(length[1]) != len(data) - end or len(used) != len(lines) - 1:
        return None
    if used.pop(_CONNECTION, b" keep-alive") != b" keep-alive":
        return None
    headers: dict[str, str] = {}
    if (count := used.pop(_COUNT, None)) is not None:
        headers[WEIGHT.header] = count.strip(b" ").decode("ascii")
    if used.pop(_DATE, None) is not None:  # names of days and months have capitals
        start = head.index(b"\ndate:") + len(b"\ndate:")
        headers["Date"] = data[start : data.index(b"\r", start)].strip(b" ").decode("ascii")
    return None if used else PlainAnswer(headers, data[end:])  # other headers encode the body


def has_surplus(data: bytes) -> bool:
    """Whether more bytes follow a plain answer in one piece: they belong to no request."""
    match = _HEAD.match(data)
    if match is None:
        return False
    used = dict[bytes, bytes](_USED.findall(data[: match.end()].lower()))
    length = _DIGITS.fullmatch(used.get(_LENGTH, b""))
    return length is not None and int(length[1]) < len(data) - match.end()
