"""Counts our use of limits that no header reports, such as 100 requests in 10 s.

Pure. The rule of this file: we rely only on our own books. No header shows the exchange's count for
such a limit, or when its window begins. So a `Window` rolls: it contains all that the exchange may
have counted in the last `seconds`. A client that stays within a limit in every rolling window also
stays within it in windows that a clock aligns. We cannot see how much others use of such a limit.

There is one exception. If the exchange seems to count the last 60 s instead of minutes, its counts
show the use of that window, and `learning` sets `most` by them.

A request is in the window from its charge until `seconds` after the latest moment at which the
exchange may have counted it. That moment is the arrival of its answer; without an answer, it is the
end of its flight.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from binance_oi.exchange.limits import WEIGHT, Limit

SLOTS = 20  # parts of a window; we keep one sum for each part
MIN_SLOTTED_S = 10.0  # s: in a shorter window, slots are as wide as in one of this length
MIN_WAIT_S = 0.02  # s: the shortest wait for room


@dataclass(slots=True)
class Window:
    """Our use of one limit, as plain numbers that processes can share."""

    seconds: int
    """The span of the limit."""
    most: int
    """The amount that the exchange allows in the span."""
    counts_requests: bool
    """Whether each request counts as 1, whatever its weight."""
    since: float
    """Monotonic s. A request with an earlier `latest` (see `charge`) is in one of the two sums with
    which the window began (see `begin`). `settle` and `refund` leave these sums unchanged."""
    slots: dict[int, int] = field(default_factory=dict[int, int])
    """Our use, by slot. A slot is a short span of time. A request is in the last slot in which the
    exchange may have counted it."""
    parts: int = field(default_factory=lambda: SLOTS)
    """The number of slots in the length of the window, or in `MIN_SLOTTED_S` if that is longer."""
    bulk_at: float = 0.0
    """Monotonic s from which the next bulk request may be sent; see `rolling`."""
    kept_until: float = 0.0
    """Monotonic s until which we keep room for single requests; see `rolling`."""

    @classmethod
    def begin(
        cls, limit: Limit, now: float, latest: float, *, counted: int, flying: int
    ) -> "Window":
        """Make a window that knows each charge from `now` on.

        Args:
            limit: The limit that the exchange announced.
            now: Monotonic s.
            latest: The latest moment at which the exchange may count a request charged now,
                monotonic s.
            counted: The most that our earlier requests have used, as far as a count contains them.
            flying: The most that our other earlier requests may use.
        """
        window = cls(*limit, since=latest)
        window._add(now, counted)
        window._add(latest, flying)
        return window

    @property
    def is_minute(self) -> bool:
        """Whether this is the minute limit as a rolling window."""
        return self.seconds == WEIGHT.seconds and not self.counts_requests

    def cost(self, weight: int) -> int:
        """Return how much of this limit a request of `weight` uses."""
        return 1 if self.counts_requests else weight

    def used(self, now: float) -> int:
        """Return the most that our charges so far may use of a window that ends now or later."""
        if not self._has_left(now):
            return sum(self.slots.values())
        return sum(used for slot, used in self.slots.items() if self.leaves(slot) > now)

    def _has_left(self, now: float) -> bool:
        """Whether any slot has left the window; quick even with hundreds of slots."""
        return bool(self.slots) and self.leaves(min(self.slots)) <= now

    def under_way(self, now: float) -> int:
        """Return the part of `used` that the exchange may still count later than now."""
        return sum(used for slot, used in self.slots.items() if slot > self._slot(now))

    def cap(self, reserve: int, share: int, limit: int) -> int:
        """Return the most that we put into the window.

        The reserve and the share are the same fractions of this limit as of the minute's limit. The
        result is at least 1, so that we can send something, unless the reserve is the whole minute.

        Args:
            reserve: The weight of a minute that we leave unused.
            share: The most weight of a minute that we use ourselves.
            limit: The limit of a minute.
        """
        kept = math.ceil(self.most * reserve / limit)
        cap = min(self.most - kept, self.most * share // limit)
        return max(1, cap) if reserve < limit else cap

    def until_room(self, now: float, weight: int, cap: int) -> float | None:
        """Return the seconds until a request may fit under `cap`: 0 if now, None if never."""
        cost = self.cost(weight)
        if cost > cap:
            return None
        excess = self.used(now) + cost - cap
        if excess <= 0:
            return 0.0
        leaves = now
        for slot in sorted(self.slots):
            if self.leaves(slot) > now and excess > 0:
                excess -= self.slots[slot]
                # If the answer to a request under way came now, its weight would leave the window
                # `seconds` from now.
                leaves = min(self.leaves(slot), now + self.seconds)
        return max(leaves - now, MIN_WAIT_S)

    def charge(self, now: float, latest: float, weight: int) -> None:
        """Book a request that the exchange counts by `latest`, or never."""
        if self._has_left(now):
            for slot in [slot for slot in self.slots if self.leaves(slot) <= now]:
                del self.slots[slot]
        self._add(latest, self.cost(weight))

    def settle(self, latest: float, now: float, weight: int) -> None:
        """Note that the exchange has counted, by `now`, a request that was booked with `latest`."""
        if latest >= self.since:
            self.refund(latest, weight)
            self._add(now, self.cost(weight))

    def refund(self, latest: float, weight: int) -> None:
        """Take out a request that was never sent; it was booked with `latest`."""
        slot = self._slot(latest)
        if latest >= self.since and slot in self.slots:
            self.slots[slot] = max(0, self.slots[slot] - self.cost(weight))

    def move(self, seconds: float) -> int:
        """Add `seconds` to every instant; weight leaves the window at most one slot too late.

        Returns:
            The number of slots by which the weight moved.
        """
        by = math.ceil(seconds / self._width)
        self.slots = {slot + by: used for slot, used in self.slots.items()}
        self.since += seconds
        if self.bulk_at:
            self.bulk_at += seconds
        if self.kept_until:
            self.kept_until += seconds
        return by

    def _add(self, latest: float, used: int) -> None:
        slot = self._slot(latest)
        self.slots[slot] = self.slots.get(slot, 0) + used

    @property
    def _width(self) -> float:
        return max(self.seconds, MIN_SLOTTED_S) / self.parts

    def _slot(self, moment: float) -> int:
        return int(moment // self._width)

    def leaves(self, slot: int) -> float:
        """Monotonic s from which the content of a slot is outside the window."""
        return (slot + 1) * self._width + self.seconds


def renewed(
    windows: Sequence[Window], limits: Sequence[Limit], begin: Callable[[Limit], Window]
) -> list[Window]:
    """Return a window for each of `limits`: the existing one of its span and kind, or a new one."""
    before = {(window.seconds, window.counts_requests): window for window in windows}
    made = [before.get((each.seconds, each.counts_requests)) or begin(each) for each in limits]
    for window, limit in zip(made, limits, strict=True):
        window.most = limit.most
    return made
