"""The usual answer, read without an HTTP parser.

The rule of this file: one piece that is exactly one complete answer of the plainest form, or None.
Nothing is repaired or guessed here. From the first unusual byte on, aiohttp's parser reads all of
the answer, and a test holds that both ways come to the same end.
"""

import re
from collections.abc import Mapping

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


class PlainAnswer:
    """An answer with status 200, and all of its body."""

    __slots__ = ("_body", "headers")

    status = 200

    def __init__(self, headers: Mapping[str, str], body: bytes) -> None:
        self.headers: Mapping[str, str] = headers
        """Those that the governor reads."""
        self._body = body

    @property
    def content(self) -> "PlainAnswer":
        """Itself: what aiohttp calls a stream."""
        return self

    def read_nowait(self) -> bytes:
        """The body."""
        return self._body

    def at_eof(self) -> bool:
        """The body is here."""
        return True

    def close(self) -> None:
        """Its connection serves the next request already."""


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
