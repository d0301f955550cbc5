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


def check_local_address(address: str, url: str) -> str:
    """`address` in one spelling.

    Args:
        address: That connections come from.
        url: That they go to: of the exchange, or of a proxy.

    Raises:
        ValueError: It is no IP address that a machine can have, or of another version than the IP
            address in `url`.
    """
    try:
        found = ip_address(address)
    except ValueError:
        found = None
    if found is None or found.is_unspecified or found.is_multicast:
        raise ValueError("local_address must be an IP address of this machine, such as 192.0.2.7")
    spelled = _one_spelling(address)
    try:
        other = ip_address(host_of(url))
    except ValueError:  # a name
        return spelled
    if other.version != ip_address(spelled).version:
        raise ValueError(f"local_address must be an IPv{other.version} address to reach {other}")
    return spelled


def host_of(url: str) -> str:
    """The host in a URL."""
    return _host_and_place(url)[0]


def pool_key(base_url: str, proxy: str | None = None, local_address: str | None = None) -> str:
    """Name of the IP pool that requests to `base_url` draw from.

    Every host name of the exchange counts as one pool, because USDⓈ-M, COIN-M and the WebSocket
    API share one ([D] since 2026-06-30), and so do those of the testnet: taking two pools for one
    is slow, and taking one for two breaks the limit. A proxy has another address and so another
    pool, whoever logs in to it and from where. So has each further address of this machine that
    requests are sent from. Credentials are never part of the name.

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
        pool = f"{urlsplit(base_url).scheme}://{place}"
    if proxy is not None:
        return f"{pool} via {_host_and_place(proxy)[1]}"
    return pool if local_address is None else f"{pool} from {local_address}"


def local_place(pool: str) -> tuple[str, int] | None:
    """Host and port of a pool that is of this machine alone; None of any other."""
    match = _BASE_URL.fullmatch(pool)  # any other name is none of a URL
    if match is None:
        return None
    host, port = match["host"].strip("[]"), int(match["port"] or 0)
    return (host, port) if _is_loopback(host) and 0 < port < 65_536 else None


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
