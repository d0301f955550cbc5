"""The bytes of a request.

The rule of this file: these are the bytes that aiohttp's session would send. They are made once for
each URL.
"""

from functools import lru_cache
from typing import NamedTuple

import aiohttp
from yarl import URL

from binance_oi.version import VERSION

USER_AGENT: str = f"binance-oi/{VERSION}"
SMALL_BODY = 64 * 1024  # bytes of a body; to compress a smaller one costs more than it saves


class WireRequest(NamedTuple):
    """The bytes of a request, and the origin that they go to."""

    origin: str
    data: bytes


@lru_cache(maxsize=4096)
def wire_request(url: URL, is_small: bool) -> WireRequest:
    """Make the request for `url`; it asks for a small body without compression."""
    lines = [f"GET {url.raw_path_qs} HTTP/1.1", f"Host: {url.host_port_subcomponent}"]
    lines.append(f"User-Agent: {USER_AGENT}")
    headers = {str(name): value for name, value in aiohttp.ClientRequest.DEFAULT_HEADERS.items()}
    if is_small:
        headers["Accept-Encoding"] = "identity"
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return WireRequest(origin_of(url), "\r\n".join([*lines, "\r\n"]).encode("ascii"))


def origin_of(url: URL) -> str:
    """Scheme, host and port."""
    return str(url.origin())
