"""The usual answer, read without an HTTP parser.

The rule of this file: one piece that is exactly one complete answer of the plainest form, or None.
Nothing is repaired or guessed here. From the first unusual byte on, aiohttp's parser reads all of
the answer, and a test holds that both ways come to the same end.
"""

import re
from typing import NamedTuple

from binance_oi.exchange.limits import WEIGHT

MOST_HEAD = 4096  # bytes of the headers; a real answer has one thousand
# Only what RFC 9112 calls a token before each colon, and printable ASCII after it: no folded line,
# no bare line feed, no space before a colon, over which parsers differ. At most 64 lines; a real
# answer has 25.
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
    """Those that the governor reads."""
    body: bytes
    """All of it."""


def plain_answer(data: bytes) -> PlainAnswer | None:
    """The answer that `data` is, if it is one complete answer of the plainest form.

    That is: HTTP/1.1, status 200, one `Content-Length`, which is what follows the blank line, no
    `Transfer-Encoding` or `Content-Encoding`, no `Connection` but `keep-alive`, which changes
    nothing, and none of these twice, nor what the governor reads.
    """
    match = _HEAD.match(data)
    if match is None or match.end() > MOST_HEAD:
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
    return None if used else PlainAnswer(headers, data[end:])  # what is left encodes the body


def has_surplus(data: bytes) -> bool:
    """Whether more bytes follow a plain answer in one piece: they belong to no request."""
    match = _HEAD.match(data)
    if match is None:
        return False
    used = dict[bytes, bytes](_USED.findall(data[: match.end()].lower()))
    length = _DIGITS.fullmatch(used.get(_LENGTH, b""))
    return length is not None and int(length[1]) < len(data) - match.end()
