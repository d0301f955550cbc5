"""What the exchange allows: so much in so many seconds.

The rule of this file: values. What was used of a limit is kept in `budget`.
"""

from typing import NamedTuple

# Headers that say what the exchange has counted in the minute of its clock, by span and kind.
# Every fapi answer carries it; `/futures/data` does not, and some send -1 [D, O] 2026-11.
_HEADERS = {(60, False): "X-MBX-USED-WEIGHT-1M"}


class Limit(NamedTuple):
    """So much in so many seconds, as the exchange announces it."""

    seconds: int
    most: int
    counts_requests: bool
    """Whether each request counts as 1, whatever its weight is."""

    @property
    def header(self) -> str:
        """The header of an answer that says what is used of it; empty when none does."""
        return _HEADERS.get((self.seconds, self.counts_requests), "")

    @property
    def is_aligned(self) -> bool:
        """Whether its windows are known to begin with the exchange's clock.

        Only a header shows it. A window of any other limit is taken to roll: whoever keeps to a
        limit then keeps to it whenever its windows begin.
        """
        return bool(self.header)

    def implies(self, other: "Limit") -> bool:
        """Whether whoever keeps to this one, in a window that rolls, keeps to `other` as well."""
        windows = -(-other.seconds // self.seconds)  # they cover the span of `other`
        counts_enough = other.counts_requests or not self.counts_requests  # each weighs 1 or more
        return counts_enough and windows * self.most <= other.most


HISTORY = Limit(300, 1000, counts_requests=True)
"""Requests of `/futures/data` per 5 minutes and IP [D] 2026-11.

No header says what is used of it [O 2026-09-12]. Whether its window rolls, and whether all of
`/futures/data` shares it, is not known [?]: a rolling one is kept, and all of them count together.
"""
WEIGHT = Limit(60, 2400, counts_requests=False)
"""Weight per minute and IP [D] 2026-11; exchangeInfo tells the real amount."""
