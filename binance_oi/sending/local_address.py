"""Which address of this machine a request comes from.

The rule of this file: the exchange counts for each address, so two names of one address would be
two budgets for one limit.
"""

import socket
from ipaddress import ip_address

# Nobody has these (RFC 5737, RFC 3849), and they are behind the default route.
_ANYWHERE = {4: "192.0.2.1", 6: "2001:db8::1"}
_DISCARD = 9  # a port; nothing is sent to it


def family_of(address: str) -> socket.AddressFamily:
    """The family of an IP address."""
    return socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6


def is_default(address: str, host: str) -> bool:
    """Whether this machine sends from `address` to `host` when nobody names an address.

    Asks for the route, and sends nothing. Without a route the answer is no.

    Args:
        address: Of this machine.
        host: Of the exchange; where it is a name, the default route counts.
    """
    version = ip_address(address).version
    try:
        is_literal = ip_address(host).version == version
    except ValueError:
        is_literal = False
    try:
        with socket.socket(family_of(address), socket.SOCK_DGRAM) as probe:
            probe.connect((host if is_literal else _ANYWHERE[version], _DISCARD))
            found = str(probe.getsockname()[0])
    except OSError:
        return False
    return ip_address(found) == ip_address(address)
