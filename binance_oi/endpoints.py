"""Routes, weights and limits of the exchange, each with its source.

Marks: [D] documented by the exchange, [O] observed live, with the month.
"""

from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

PRODUCTION = "https://fapi.binance.com"  # [D] 2026-11
TESTNET = "https://demo-fapi.binance.com"  # [D] 2026-11; its numbers are synthetic
DEFAULT_LIMIT = 2400  # weight per minute and IP [D] 2026-11; exchangeInfo tells the real one


class Endpoint(NamedTuple):
    """A route and what one request to it costs."""

    path: str
    weight: int


OPEN_INTEREST = Endpoint("/fapi/v1/openInterest", 1)  # [D], measured 1 [O 2026-10]
EXCHANGE_INFO = Endpoint("/fapi/v1/exchangeInfo", 1)  # [D]; ignores ?symbol= [O 2026-10]
SERVER_TIME = Endpoint("/fapi/v1/time", 1)  # [D]
PREMIUM_INDEX = Endpoint("/fapi/v1/premiumIndex", 10)  # [D] without a symbol; 1 with one

# One counter per IP for all of these, since 2026-06-30 [D].
_ONE_POOL = frozenset({"fapi.binance.com", "dapi.binance.com"})


def check_base_url(url: str) -> str:
    """`url` without a slash at its end.

    Raises:
        ValueError: Not ``https://host[:port]``; ``http://`` is for this machine only, and
            credentials do not belong into a URL.
    """
    parts = urlsplit(url)
    host = parts.hostname
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"base_url must be https://host: {parts.scheme}://{host}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("base_url must not hold credentials")
    if parts.query or parts.fragment or not 0 < (parts.port or 443) < 65536:
        raise ValueError("base_url must not hold a query or a fragment")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError(f"http:// is for this machine only, not for {host}")
    return url.rstrip("/")


def pool_key(base_url: str, proxy: str | None = None) -> str:
    """Name of the IP pool that requests to `base_url` draw from, without credentials.

    USDⓈ-M and COIN-M share one pool; a proxy has another address, and so another pool.
    """
    host = _place(base_url)
    pool = "binance-futures" if host in _ONE_POOL else host
    return pool if proxy is None else f"{pool} via {_place(proxy)}"


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
