"""Defines requests and answers as values that do not depend on the server.

The rule of this file: it imports no framework. An adapter converts its framework's request to a
`Request`, and sends the `Answer`.
"""

import gzip
import hashlib
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from binance_oi.encoding import json_text

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
PACKS_FROM: Final = 1400  # bytes: a smaller body fits into one packet uncompressed
PACKED_LEVEL: Final = 6

NOSNIFF: Final = ("X-Content-Type-Options", "nosniff")
CACHING: Final = (("Cache-Control", "no-cache"), ("Vary", "Accept-Encoding"))

Headers = tuple[tuple[str, str], ...]


class Request(NamedTuple):
    """The request of a visitor."""

    method: str
    """The HTTP method."""
    path: str
    """The path below the service's mount point, percent-decoded; it begins with ``/``."""
    query: str
    """The query, percent-encoded as it was sent."""
    headers: Mapping[str, str]
    """The headers, by lower-case name."""
    address: Callable[[], str]
    """Returns the address of the connection's peer; empty if the server does not know it."""


class Body:
    """The bytes of an answer, its tag, and its compressed form, which is made at most once."""

    __slots__ = ("_headers", "_packed", "_tag", "data", "kind")

    def __init__(self, data: bytes, kind: str = JSON) -> None:
        self.data: bytes = data
        self.kind: str = kind
        self._tag: str | None = None
        self._headers: Headers | None = None
        self._packed: bytes | None = None

    @classmethod
    def of(cls, value: object) -> "Body":
        """Make the JSON body of a value; decimals become text."""
        return cls(json_text(value).encode())

    @property
    def tag(self) -> str:
        """The entity tag of the body. It is weak, because the compressed form has the same tag."""
        if self._tag is None:
            digest = hashlib.blake2b(self.data, digest_size=12).hexdigest()
            self._tag = f'W/"{digest}"'
        return self._tag

    @property
    def headers(self) -> Headers:
        """The headers of every answer with this body, and of a 304 that confirms it."""
        if self._headers is None:
            self._headers = (("ETag", self.tag), *CACHING, NOSNIFF, ("Content-Type", self.kind))
        return self._headers

    @property
    def pays_to_pack(self) -> bool:
        """Whether the body is so long that its compressed form may save a packet."""
        return len(self.data) >= PACKS_FROM

    @property
    def packed(self) -> bytes:
        """The body, compressed with gzip."""
        if self._packed is None:
            self._packed = gzip.compress(self.data, PACKED_LEVEL, mtime=0)
        return self._packed


class Answer(NamedTuple):
    """An answer that is not a stream."""

    status: int
    headers: Headers
    body: bytes = b""


def accepts_gzip(accepted: str) -> bool:
    """Whether a visitor with this ``Accept-Encoding`` accepts gzip.

    Source: RFC 9110, 12.5.3.
    """
    if accepted in ("", "gzip, deflate", "gzip, deflate, br", "gzip, deflate, br, zstd"):
        return bool(accepted)
    weights = dict(map(_coding, accepted.lower().split(",")))
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0.0


def _coding(text: str) -> tuple[str, float]:
    name, _, parameter = text.partition(";")
    key, _, value = parameter.partition("=")
    weight = 1.0
    if key.strip() == "q":
        try:
            weight = float(value) if value.strip().isascii() else 0.0
        except ValueError:
            weight = 0.0
    return name.strip(), weight


def matches(tags: str, tag: str) -> bool:
    """Whether an ``If-None-Match`` contains `tag`, by weak comparison.

    Source: RFC 9110, 13.1.2.
    """
    if tags.strip() == "*":
        return True
    strong = tag.removeprefix("W/")
    return any(each.strip().removeprefix("W/") == strong for each in tags.split(","))
