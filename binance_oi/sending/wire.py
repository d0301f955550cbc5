"""The bytes of a request, as they go to a connection.

The rule of this file: what the session would send, ready once for each URL.
"""

from functools import lru_cache
from typing import NamedTuple

import aiohttp
from yarl import URL

from binance_oi.version import VERSION

USER_AGENT: str = f"binance-oi/{VERSION}"
SMALL = 64 * 1024  # bytes of a body: compression of so few would cost more than it saves


class Wire(NamedTuple):
    """All of a request, and where it goes."""

    origin: str
    data: bytes


@lru_cache(maxsize=4096)
def wire(url: URL, is_small: bool) -> Wire:
    """The request for `url`; a body that is small is asked for as it is, without compression."""
    lines = [f"GET {url.raw_path_qs} HTTP/1.1", f"Host: {url.host_port_subcomponent}"]
    lines.append(f"User-Agent: {USER_AGENT}")
    headers = {str(name): value for name, value in aiohttp.ClientRequest.DEFAULT_HEADERS.items()}
    if is_small:
        headers["Accept-Encoding"] = "identity"
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return Wire(origin_of(url), "\r\n".join([*lines, "\r\n"]).encode("ascii"))


def origin_of(url: URL) -> str:
    """Scheme, host and port."""
    return str(url.origin())
