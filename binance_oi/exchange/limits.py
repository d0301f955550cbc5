"""The limits of the exchange: each allows an amount in a span of seconds.

The rule of this file: it has plain values; `budget` tracks the use of a limit. Marks: [D]
documented by the exchange, [O] observed live, with the date, [?] unknown.
"""

from typing import NamedTuple

from binance_oi.encoding import Encodable

# A key is the span of a limit in s, and whether the limit counts requests. The value is the header
# that reports the use of that limit. Every fapi answer has the header of the weight per minute,
# though some routes send -1. An answer of `/futures/data` does not have it [D, O] 2026-11.
_HEADERS = {(60, False): "X-MBX-USED-WEIGHT-1M"}


class _Limit(NamedTuple):
    seconds: int
    """The span in s."""
    most: int
    """The amount allowed in the span: weight, or requests if `counts_requests`."""
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
        """Whether we know that its windows are the minutes of the exchange's clock.

        We know it only of a limit that a header reports. We treat the windows of any other limit as
        rolling. If a client keeps the limit in every rolling window, it keeps the limit wherever
        the exchange's windows start.
        """
        return bool(self.header)

    def implies(self, other: "Limit") -> bool:
        """Whether a client that keeps this limit in every rolling window keeps `other` too."""
        windows = -(-other.seconds // self.seconds)  # this many cover the span of `other`
        # A weight is at least 1, so a limit of weight bounds requests too, but not vice versa.
        counts_enough = other.counts_requests or not self.counts_requests
        return counts_enough and windows * self.most <= other.most


HISTORY = Limit(300, 1000, counts_requests=True)
"""Requests of `/futures/data` per 5 minutes and IP [D] 2026-11.

No header reports its use [O 2026-09-12]. It is unknown whether its window rolls, and whether all
routes of `/futures/data` share it [?]. So we assume a rolling window that all of them share.
"""
WEIGHT = Limit(60, 2400, counts_requests=False)
"""Weight per minute and IP [D] 2026-11; exchangeInfo announces the current amount."""
