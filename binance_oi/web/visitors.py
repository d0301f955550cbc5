"""Finds the address of a visitor, and checks the host and the origin of a request.

The rule of this file: pure functions, which trust `X-Forwarded-For` only from a proxy that the
owner of the service named.

Without the check of `Host`, a page of another site could read a service on loopback. After a
browser has loaded the page, the owner of that site can point the site's host name to 127.0.0.1 (DNS
rebinding).
"""

from collections.abc import Collection, Mapping
from typing import Final

from binance_oi.web.messages import Headers
from binance_oi.web.problems import Kind, ProblemError

WRONG_HOST: Final = Kind(421, "host", "This service does not answer for that host.")
LONGEST_CHAIN: Final = 32  # the most addresses to read in an `X-Forwarded-For`


def check_host(host: str, allowed: Collection[str] | None) -> None:
    """Check the header `Host`.

    Args:
        host: The value of the header.
        allowed: The names for which the service answers; None allows any.

    Raises:
        ProblemError: The service does not answer for this name.
    """
    if allowed is not None and name_of(host) not in allowed:
        raise ProblemError(WRONG_HOST)


def name_of(host: str) -> str:
    """Return the name in a `Host`, without its port, in lower case; empty if it is malformed."""
    if host.startswith("["):
        name, bracket, port = host.partition("]")
        name, port = name + bracket, port.removeprefix(":") if port.startswith(":") else port or "0"
    else:
        name, colon, port = host.partition(":")
        port = port if colon else "0"
    is_port = port.isascii() and port.isdigit() and len(port) <= 5
    return name.lower().removesuffix(".") if is_port else ""


def address_of(peer: str, headers: Mapping[str, str], proxies: Collection[str]) -> str:
    """Return the address of the visitor: the peer's, or the one that a trusted proxy reports.

    Args:
        peer: The address of the other end of the connection.
        headers: The headers of the request.
        proxies: The addresses of the trusted proxies.
    """
    if peer not in proxies:
        return peer
    chain = headers.get("x-forwarded-for", "").split(",")[-LONGEST_CHAIN:]
    for address in reversed([each.strip() for each in chain]):
        if address and address not in proxies:
            return address
    return peer


def cross_origin(origin: str, origins: Collection[str]) -> Headers:
    """Return the headers that let pages of an allowed origin read an answer.

    Args:
        origin: The header `Origin` of the request.
        origins: The allowed origins; ``*`` allows all.
    """
    if not origins:
        return ()
    vary = ("Vary", "Origin")
    if is_allowed(origin, origins):
        return (vary, ("Access-Control-Allow-Origin", origin))
    return (vary,)


def is_allowed(origin: str, origins: Collection[str]) -> bool:
    """Whether pages of this origin may read answers; ``*`` in `origins` allows all."""
    return bool(origin) and (origin in origins or "*" in origins)
