"""How much visitors still may: tokens that come back evenly.

The rule of this file: pure; time is an argument. What it remembers is bounded, whatever addresses
come.
"""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address


class Allowance:
    """Tokens: at most `most` at once, and `most` come back in `seconds`."""

    __slots__ = ("_at", "_most", "_rate", "_used")

    def __init__(self, most: int, seconds: float) -> None:
        self._most, self._rate = most, most / seconds
        self._used = self._at = 0.0

    def take(self, tokens: int, now: float) -> float:
        """Take tokens.

        Returns:
            0 if they were there; or else the seconds until they are, and nothing was taken. More
            than there ever are need as long as all of them.
        """
        used = self.used(now)
        if used + tokens <= self._most:
            self._used, self._at = used + tokens, now
            return 0.0
        return (used + min(tokens, self._most) - self._most) / self._rate or 1 / self._rate

    def used(self, now: float) -> float:
        """Tokens that have not come back yet."""
        return max(0.0, self._used - max(0.0, now - self._at) * self._rate)


class Allowances:
    """An `Allowance` for each address.

    Args:
        most: Tokens of one address.
        seconds: In which they come back.
        addresses: How many are remembered; the one that came least recently is forgotten first.
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
    """What counts as one visitor: an IPv4 address, or the 64 bits of an IPv6 network."""
    try:
        known = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(known, IPv6Address):
        mapped = known.ipv4_mapped
        return str(mapped) if mapped is not None else known.exploded[:19]
    return str(known)
