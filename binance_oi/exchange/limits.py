"""What the exchange allows: so much in so many seconds.

The rule of this file: values. What was used of a limit is kept in `budget`.
"""

from typing import NamedTuple


class Limit(NamedTuple):
    """So much in so many seconds, as the exchange announces it."""

    seconds: int
    most: int
    counts_requests: bool
    """Whether each request counts as 1, whatever its weight is."""

    def implies(self, other: "Limit") -> bool:
        """Whether whoever keeps to this one, in a window that rolls, keeps to `other` as well."""
        windows = -(-other.seconds // self.seconds)  # they cover the span of `other`
        counts_enough = other.counts_requests or not self.counts_requests  # each weighs 1 or more
        return counts_enough and windows * self.most <= other.most
