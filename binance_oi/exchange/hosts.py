"""Base URLs of the exchange, and the names of the budget and of the source behind each.

The rule of this file: a wrong base URL is refused, never corrected, and no message repeats it: it
may hold a password. Marks: [D] documented by the exchange, [O] observed live, with the month.
"""

import re
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

PRODUCTION = "https://fapi.binance.com"  # [D] 2026-11
TESTNET = "https://demo-fapi.binance.com"  # [D] 2026-11; its numbers are synthetic

# Hosts that serve /fapi. Others of the exchange share its pool, and are another market (dapi).
_SOURCES = {
    "production": re.compile(  # www serves the same API [O] 2026-11
        r"(?:(?:fapi[0-9]*(?:-[a-z0-9]+)?|www)\.)?binance\.com"
    ),
    "testnet": re.compile(  # [D] 2026-11
        r"demo-fapi[0-9]*\.binance\.com|(?:testnet\.)?binancefuture\.com"
    ),
}

_LOCAL_EXCHANGE = re.compile(r"/local-[0-9a-f]+/*")  # each one begins its paths with another name

# Strict, for what one URL parser drops (tabs, an empty query, a backslash) another one keeps.
_BASE_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?:/[a-z0-9._~!$&'()*+,;=:@%-]*)*",
    re.IGNORECASE,
)


def check_base_url(url: object) -> str:
    """`url` without a slash at its end.

    Raises:
        ValueError: Not ``https://host[:port][/path]``. Credentials, a query or a fragment do not
            belong into it, and ``http://`` is for this machine only.
    """
    match = _BASE_URL.fullmatch(url) if isinstance(url, str) else None
    if match is None or not 0 < int(match["port"] or 443) < 65_536:
        raise ValueError(
            "base_url must be https://host[:port][/path], "
            "without credentials, query, fragment or anything but ASCII"
        )
    if match["scheme"].lower() == "http" and not _is_loopback(match["host"].strip("[]")):
        raise ValueError("base_url must be https:// for any host but this machine")
    return match[0].rstrip("/")


def pool_key(base_url: str, proxy: str | None = None) -> str:
    """Name of the IP pool that requests to `base_url` draw from.

    Every host name of the exchange counts as one pool, because USDⓈ-M, COIN-M and the WebSocket
    API share one ([D] since 2026-06-30), and so do those of the testnet: taking two pools for one
    is slow, and taking one for two breaks the limit. A proxy has another address and so another
    pool, whoever logs in to it. Two local exchanges are two pools, also one after the other on one
    port; their paths tell them apart. Credentials are never part of the name.

    Raises:
        ValueError: `proxy` is not a URL with a host.
    """
    host, place = _host_and_place(base_url)
    demo = host.startswith("demo-") and _is_under(host, "binance.com")
    if demo or _is_under(host, "binancefuture.com"):
        pool = "binance-futures-testnet"
    elif _is_under(host, "binance.com"):
        pool = "binance-futures"
    else:
        parts = urlsplit(base_url)
        is_ours = _is_loopback(host) and _LOCAL_EXCHANGE.fullmatch(parts.path)
        pool = f"{parts.scheme}://{place}{parts.path.rstrip('/') if is_ours else ''}"
    return pool if proxy is None else f"{pool} via {_host_and_place(proxy)[1]}"


def is_local_exchange(pool: str) -> bool:
    """Whether a pool is that of a local exchange, which nobody starts again under its name."""
    match = _BASE_URL.fullmatch(pool)  # the name of any other pool is no URL
    return match is not None and _LOCAL_EXCHANGE.fullmatch(urlsplit(pool).path) is not None


def source_name(base_url: str) -> str:
    """What a recording calls the exchange at `base_url`.

    ``production`` and ``testnet`` under every host name that serves their USDⓈ-M REST API.
    ``local`` for every address of this machine: a local exchange has another port after each start,
    and its recording goes on. Anything else is called by its URL, with the port, without a slash at
    its end and with one spelling of an IP address; so is a host of another API of the exchange.
    """
    host, place = _host_and_place(base_url)
    if _is_loopback(host):
        return "local"
    for name, hosts in _SOURCES.items():
        if hosts.fullmatch(host):
            return name
    parts = urlsplit(base_url)
    return f"{parts.scheme}://{place}{parts.path.rstrip('/')}"


def _host_and_place(url: str) -> tuple[str, str]:
    """The host, and ``host:port``; an IP address has one spelling."""
    try:
        parts = urlsplit(url)
        host = _one_spelling((parts.hostname or "").rstrip("."))
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:  # its text may hold a part of the password
        host, port = "", 0
    if not host:
        raise ValueError("a proxy must be http://[user:password@]host[:port]")
    return host, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _one_spelling(host: str) -> str:
    """An IPv6 address in its shortest form, one that maps an IPv4 address as that; others stay."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _is_under(host: str, domain: str) -> bool:
    return host == domain or host.endswith(f".{domain}")


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(_one_spelling(host)).is_loopback
    except ValueError:
        return False
