"""Who asks, and for which host: what a header may claim.

The rule of this file: pure. A header is believed only from a proxy that the owner named.

Without the check of `Host`, a page of another site could read a service on loopback: its name
resolves to 127.0.0.1 after the page was loaded (DNS rebinding).
"""

from collections.abc import Collection, Mapping
from typing import Final

from binance_oi.web.messages import Headers
from binance_oi.web.problems import Kind, ProblemError

WRONG_HOST: Final = Kind(421, "host", "This service does not answer for that host.")
LONGEST_CHAIN: Final = 32  # addresses of an `X-Forwarded-For`


def check_host(host: str, allowed: Collection[str] | None) -> None:
    """Check the header `Host`; None allows any.

    Raises:
        ProblemError: The service does not answer for it.
    """
    if allowed is not None and name_of(host) not in allowed:
        raise ProblemError(WRONG_HOST)


def name_of(host: str) -> str:
    """The name in a `Host`, without its port, in lower case; empty if it cannot be one."""
    if host.startswith("["):
        name, bracket, port = host.partition("]")
        name, port = name + bracket, port.removeprefix(":") if port.startswith(":") else port or "0"
    else:
        name, colon, port = host.partition(":")
        port = port if colon else "0"
    is_port = port.isascii() and port.isdigit() and len(port) <= 5
    return name.lower().removesuffix(".") if is_port else ""


def address_of(peer: str, headers: Mapping[str, str], proxies: Collection[str]) -> str:
    """The address of the visitor: the peer, or what a known proxy says of it.

    Args:
        peer: The address of the connection.
        headers: Of the request.
        proxies: Addresses whose `X-Forwarded-For` is believed.
    """
    if peer not in proxies:
        return peer
    chain = headers.get("x-forwarded-for", "").split(",")[-LONGEST_CHAIN:]
    for address in reversed([each.strip() for each in chain]):
        if address and address not in proxies:
            return address
    return peer


def cross_origin(origin: str, origins: Collection[str]) -> Headers:
    """Headers that let pages of a named origin read an answer; none for any other."""
    if not origins:
        return ()
    vary = ("Vary", "Origin")
    if is_allowed(origin, origins):
        return (vary, ("Access-Control-Allow-Origin", origin))
    return (vary,)


def is_allowed(origin: str, origins: Collection[str]) -> bool:
    """Whether pages of this origin may read answers; ``*`` allows all."""
    return bool(origin) and (origin in origins or "*" in origins)
