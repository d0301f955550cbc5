"""Checks whether an address of this machine is the one that the system would choose by itself.

The rule of this file: the exchange counts weight by address, so each address has one budget. If a
user names the default address, that must not make a second budget, so `is_default` detects it.
"""

import socket
from ipaddress import ip_address

# No machine has these addresses (RFC 5737, RFC 3849); packets to them take the default route.
_UNUSED_ADDRESSES = {4: "192.0.2.1", 6: "2001:db8::1"}
_DISCARD_PORT = 9  # a port number is required, although we send nothing


def family_of(address: str) -> socket.AddressFamily:
    """The family of an IP address."""
    return socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6


def is_default(address: str, host: str) -> bool:
    """Whether the system chooses `address` by itself for a connection to `host`.

    This function asks the system for the route to `host` and sends nothing. It returns False if
    there is no route.

    Args:
        address: An IP address of this machine.
        host: The host of the exchange. If it is not an IP address of the same version, this
            function uses the default route.
    """
    version = ip_address(address).version
    try:
        is_literal = ip_address(host).version == version
    except ValueError:
        is_literal = False
    try:
        with socket.socket(family_of(address), socket.SOCK_DGRAM) as probe:
            probe.connect((host if is_literal else _UNUSED_ADDRESSES[version], _DISCARD_PORT))
            found = str(probe.getsockname()[0])
    except OSError:
        return False
    return ip_address(found) == ip_address(address)
