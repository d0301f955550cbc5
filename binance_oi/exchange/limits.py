"""The limits of the exchange: each allows an amount in a span of seconds.

The rule of this file: plain values. `budget` tracks the use of a limit.
"""

from typing import NamedTuple

from binance_oi.encoding import Encodable

# Headers with the exchange's count for the minute of its clock, by span and kind. Every fapi answer
# carries it; `/futures/data` does not, and some send -1 [D, O] 2026-11.
_HEADERS = {(60, False): "X-MBX-USED-WEIGHT-1M"}


class _Limit(NamedTuple):
    seconds: int
    most: int
    counts_requests: bool
    """Whether each request counts as 1, whatever its weight."""


class Limit(_Limit, Encodable):
    """An amount allowed in a span of seconds, as the exchange announces it."""

    __slots__ = ()

    @property
    def header(self) -> str:
        """The header that reports the use of the limit; empty if there is none."""
        return _HEADERS.get((self.seconds, self.counts_requests), "")

    @property
    def is_aligned(self) -> bool:
        """Whether its windows are known to start with the exchange's clock.

        Only a header shows that. The windows of any other limit count as rolling: a client that
        keeps the limit in every rolling window keeps it wherever the windows start.
        """
        return bool(self.header)

    def implies(self, other: "Limit") -> bool:
        """Whether a client that keeps this limit in a rolling window keeps `other` as well."""
        windows = -(-other.seconds // self.seconds)  # enough to cover the span of `other`
        counts_enough = other.counts_requests or not self.counts_requests  # a weight is 1 or more
        return counts_enough and windows * self.most <= other.most


HISTORY = Limit(300, 1000, counts_requests=True)
"""Requests of `/futures/data` per 5 minutes and IP [D] 2026-11.

No header says what is used of it [O 2026-09-12]. Whether its window rolls, and whether all of
`/futures/data` shares it, is not known [?]: a rolling one is kept, and all of them count together.
"""
WEIGHT = Limit(60, 2400, counts_requests=False)
"""Weight per minute and IP [D] 2026-11; exchangeInfo announces the current amount."""
