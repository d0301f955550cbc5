"""Checks base URLs of the exchange, and finds the names of their pools and their sources.

The rule of this file: it refuses a wrong URL instead of correcting it. No message repeats the URL,
because it may contain a password. A *pool* is the budget of one limit for one IP address: all
requests from that address that count towards the limit draw on it. A *source* is the name of an
exchange in a recording. Marks: [D] documented by the exchange, [O] observed live, with the month.
"""

import re
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

PRODUCTION = "https://fapi.binance.com"  # [D] 2026-11
TESTNET = "https://demo-fapi.binance.com"  # [D] 2026-11; its numbers are synthetic

# Hosts that serve /fapi. Other hosts of the exchange draw on the same pool, but serve other
# markets.
_SOURCES = {
    "production": re.compile(  # www serves the same API [O] 2026-11
        r"(?:(?:fapi[0-9]*(?:-[a-z0-9]+)?|www)\.)?binance\.com"
    ),
    "testnet": re.compile(  # [D] 2026-11
        r"demo-fapi[0-9]*\.binance\.com|(?:testnet\.)?binancefuture\.com"
    ),
}

_LOCAL_EXCHANGE = re.compile(r"/local-[0-9a-f]+/*")  # each local exchange has a random path

LIMIT_MARK = ", "
"""Separates name and limit of a pool, as in ``binance-futures, 1000 in 300 s``.

The name of a pool for the weight per minute has neither mark nor limit. No URL contains the mark.
"""

# Strict, because URL parsers disagree on tabs, an empty query or a backslash.
_BASE_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?:/[a-z0-9._~!$&'()*+,;=:@%-]*)*",
    re.IGNORECASE,
)

# So strict that our parser and aiohttp's find the same host in every match.
_PROXY = re.compile(
    r"https?://"
    r"(?:[^\s/?#\\]*@)?"
    r"(?P<host>[^\s/?#\\@:\[\]%]+|\[[0-9a-f:.]+(?:%[a-z0-9._~%-]+)?\])"
    r"(?::(?P<port>[0-9]{1,5}))?/?",
    re.IGNORECASE,
)
_NO_PROXY = (
    "a proxy must be http://[user:password@]host[:port] or https://..., as a str. For any other "
    "kind, such as SOCKS, hand in a session whose connector speaks it: "
    "session=aiohttp.ClientSession(connector=aiohttp_socks.ProxyConnector.from_url(...)), and a "
    "budget for its address"
)


def check_base_url(url: object) -> str:
    """Return `url` without a slash at its end.

    Raises:
        ValueError: `url` is not ``https://host[:port][/path]`` as a `str`. A URL with credentials,
            a query or a fragment is wrong; ``http://`` is for this machine only.
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


def check_proxy(proxy: object) -> str | None:
    """Return `proxy` unchanged if it is valid; None stays None.

    Raises:
        TypeError: `proxy` is neither text nor a URL; for example, the number 8080.
        ValueError: `proxy` is not ``http://[user:password@]host[:port]`` or the same with
            ``https``; or it is not a `str`, but `bytes` or a URL object such as a `yarl.URL`. The
            message says what to do for other proxies, and does not repeat the URL.
    """
    if proxy is None:
        return None
    if not isinstance(proxy, str):
        if isinstance(proxy, bytes | bytearray) or "://" in str(proxy):
            raise ValueError(_NO_PROXY)
        raise TypeError(f"proxy must be str or None, not {type(proxy).__name__}")
    match = _PROXY.fullmatch(proxy)
    if match is None or not 0 < int(match["port"] or 80) < 65_536 or not _is_host(match["host"]):
        raise ValueError(_NO_PROXY)
    return proxy


def _is_host(text: str) -> bool:
    """Whether `text` is a name or a valid IP address; dots alone are neither."""
    if not text.startswith("["):
        return bool(text.strip("."))
    try:
        return bool(ip_address(text[1:-1]))
    except ValueError:
        return False


def check_local_address(address: str, url: str) -> str:
    """Return `address` in its usual spelling.

    Args:
        address: The IP address of this machine from which we connect.
        url: The URL of the exchange or of a proxy, to which we connect.

    Raises:
        ValueError: `address` is not an IP address that a machine can have, or `url` has an IP
            address of another version.
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
    """Return the host in a URL."""
    return _host_and_place(url)[0]


def pool_key(base_url: str, proxy: str | None = None, local_address: str | None = None) -> str:
    """Return the name of the pool on which requests to `base_url` draw.

    All host names of the exchange have one pool, because USDⓈ-M, COIN-M and the WebSocket API share
    a limit ([D] since 2026-06-30). All host names of the testnet have another pool. If one limit
    had two pools, we could exceed it; if two limits share one pool, we are only slower. The
    exchange limits each IP address separately. So each exchange has one more pool for each proxy,
    and one more for each `local_address`. Two local exchanges have two pools even if they use the
    same port one after the other, because their paths differ. The name never contains credentials.

    Raises:
        TypeError: See `check_proxy`.
        ValueError: See `check_proxy`; or `base_url` has no host.
    """
    check_proxy(proxy)
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
    if proxy is not None:
        return f"{pool} via {_host_and_place(proxy)[1]}"
    return pool if local_address is None else f"{pool} from {local_address}"


def local_place(pool: str) -> tuple[str, int] | None:
    """Return host and port of a pool for an exchange on this machine; None for any other pool."""
    # "binance-futures" is no URL, and neither is "... via ...", the name of a pool with a proxy.
    match = _BASE_URL.fullmatch(_without_limit(pool))
    if match is None:
        return None
    host, port = match["host"].strip("[]"), int(match["port"] or 0)
    return (host, port) if _is_loopback(host) and 0 < port < 65_536 else None


def is_local_exchange(pool: str) -> bool:
    """Whether a pool belongs to a local exchange, whose random name never occurs again."""
    url = _without_limit(pool)
    match = _BASE_URL.fullmatch(url)
    return match is not None and _LOCAL_EXCHANGE.fullmatch(urlsplit(url).path) is not None


def _without_limit(pool: str) -> str:
    return pool.partition(LIMIT_MARK)[0]


def source_name(base_url: str) -> str:
    """Return the name that a recording has for the exchange at `base_url`.

    ``production`` and ``testnet`` stand for every host name that serves their USDⓈ-M REST API.
    ``local`` stands for every address of this machine: a local exchange gets another port at each
    start, but a recording of it must continue. Any other exchange, such as another API of Binance,
    has its URL as its name: with the port, without a slash at the end, and with IP addresses in
    their usual spelling.
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
    """Return the host, and ``host:port``, with IP addresses in their usual spelling."""
    try:
        parts = urlsplit(url)
        host = _one_spelling((parts.hostname or "").rstrip("."))
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:  # the error's text may quote the password, so raise another error
        host, port = "", 0
    if not host:
        raise ValueError(_NO_PROXY)
    return host, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _one_spelling(host: str) -> str:
    """Return an IPv6 address in its shortest form, or the IPv4 address in it; any other `host` as
    it is."""
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
