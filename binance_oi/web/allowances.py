"""Limits the requests of visitors with token buckets.

A request takes a token. Tokens return at a constant rate: with 30 tokens in 60 s, one every 2 s.

The rule of this file: no clock; time is an argument. The memory of `Allowances` is bounded, however
many addresses visitors have.
"""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address


class Allowance:
    """One token bucket.

    Args:
        most: The tokens of a full bucket.
        seconds: The time in which an empty bucket becomes full.
    """

    __slots__ = ("_at", "_most", "_rate", "_used")

    def __init__(self, most: int, seconds: float) -> None:
        self._most, self._rate = most, most / seconds
        self._used = self._at = 0.0

    def take(self, tokens: int, now: float) -> float:
        """Take tokens.

        Returns:
            0 if the bucket had enough tokens. Otherwise the call takes none, and returns the
            seconds until the bucket will have enough. If even a full bucket has too few, it returns
            the seconds until the bucket is full. If that is full already, it returns the seconds in
            which one token returns.
        """
        used = self.used(now)
        if used + tokens <= self._most:
            self._used, self._at = used + tokens, now
            return 0.0
        return (used + min(tokens, self._most) - self._most) / self._rate or 1 / self._rate

    def used(self, now: float) -> float:
        """Return the number of tokens that have not returned yet."""
        return max(0.0, self._used - max(0.0, now - self._at) * self._rate)


class Allowances:
    """An `Allowance` for each address.

    Args:
        most: The tokens of one address.
        seconds: The time in which all of them return.
        addresses: The most addresses to remember. If there are more, the object forgets the address
            whose last request is oldest.
    """

    def __init__(self, most: int, seconds: float, addresses: int) -> None:
        self._most, self._seconds, self._addresses = most, seconds, addresses
        self._known: OrderedDict[str, Allowance] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def take(self, address: str, now: float) -> float:
        """Take one token of an address; see `Allowance.take`."""
        name = network_of(address)
        allowance = self._known.pop(name, None) or Allowance(self._most, self._seconds)
        self._known[name] = allowance
        if len(self._known) > self._addresses:
            self._known.popitem(last=False)
        return allowance.take(1, now)


def network_of(address: str) -> str:
    """Return the key of a visitor: an IPv4 address, or the first 64 bits of an IPv6 address.

    The key is empty if the text is not an address.
    """
    try:
        known = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(known, IPv6Address):
        mapped = known.ipv4_mapped
        return str(mapped) if mapped is not None else known.exploded[:19]
    return str(known)
