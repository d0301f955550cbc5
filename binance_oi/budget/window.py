"""Limits of other spans than a minute: so much weight, or so many requests, in so many seconds.

Pure. The rule of this file: only our own books count. No header shows what the exchange has counted
for such a limit, or when its window begins. So a `Window` rolls: it contains everything counted in
the last `seconds`. That also keeps limits whose windows are aligned to a clock. We cannot see what
others use of such a limit.

A request is in its window from its charge until `seconds` after the latest moment at which the
exchange may have counted it. That moment is the end of its flight, or earlier, when its answer
comes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from binance_oi.exchange.limits import WEIGHT, Limit

SLOTS = 20  # parts of a window; each keeps one sum of what was used in it
MIN_SLOTTED_S = 10.0  # s: a shorter window gets slots of this one's length, to bound their number
MIN_WAIT_S = 0.02  # s: the shortest wait for room


@dataclass(slots=True)
class Window:
    """What we used of one limit, as plain numbers that processes can share."""

    seconds: int
    most: int
    counts_requests: bool
    since: float  # monotonic s; `slots` holds all charges up to here as two sums
    slots: dict[int, int] = field(default_factory=dict[int, int])
    """What was used, by the slot in which the exchange counted it at the latest."""
    parts: int = field(default_factory=lambda: SLOTS)
    """The number of slots in the window."""
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
            latest: The latest moment at which the exchange counts a charge of now, monotonic s.
            counted: Upper bound of what was used before `now` and has its answers.
            flying: Upper bound of what was used before `now` and has no answer yet.
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
        """What a request of `weight` uses of this limit."""
        return 1 if self.counts_requests else weight

    def used(self, now: float) -> int:
        """The most that the exchange may have counted in a window that ends now or later."""
        if not self._has_left(now):
            return sum(self.slots.values())
        return sum(used for slot, used in self.slots.items() if self.leaves(slot) > now)

    def _has_left(self, now: float) -> bool:
        """Whether a slot has left the window; a quick question, also with hundreds of slots."""
        return bool(self.slots) and self.leaves(min(self.slots)) <= now

    def under_way(self, now: float) -> int:
        """The part of `used` that the exchange may count after now."""
        return sum(used for slot, used in self.slots.items() if slot > self._slot(now))

    def cap(self, reserve: int, share: int, limit: int) -> int:
        """The most that we put into the window.

        It is `most` less the same fraction that `reserve` is of the minute's `limit`. It is at
        least 1, or we would never send anything, unless the reserve is the whole minute.
        """
        kept = math.ceil(self.most * reserve / limit)
        cap = min(self.most - kept, self.most * share // limit)
        return max(1, cap) if reserve < limit else cap

    def until_room(self, now: float, weight: int, cap: int) -> float | None:
        """Seconds until `weight` may fit under `cap`: 0 if it fits now, None if it never will."""
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
                # Weight under way may be answered now; then it leaves `seconds` from now.
                leaves = min(self.leaves(slot), now + self.seconds)
        return max(leaves - now, MIN_WAIT_S)

    def charge(self, now: float, latest: float, weight: int) -> None:
        """Book a request that the exchange counts by `latest`, if at all."""
        if self._has_left(now):
            for slot in [slot for slot in self.slots if self.leaves(slot) <= now]:
                del self.slots[slot]
        self._add(latest, self.cost(weight))

    def settle(self, latest: float, now: float, weight: int) -> None:
        """Note the answer to a request booked with `latest`: the exchange counted it by `now`."""
        if latest >= self.since:
            self.refund(latest, weight)
            self._add(now, self.cost(weight))

    def refund(self, latest: float, weight: int) -> None:
        """Take out a request booked with `latest`: it was never sent."""
        slot = self._slot(latest)
        if latest >= self.since and slot in self.slots:
            self.slots[slot] = max(0, self.slots[slot] - self.cost(weight))

    def move(self, seconds: float) -> int:
        """Add `seconds` to every instant; weight leaves the window at most one slot too late.

        Returns:
            The number of slots by which it moved.
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
    """A window for each of `limits`: the one of the same span so far, or one that begins now."""
    before = {(window.seconds, window.counts_requests): window for window in windows}
    made = [before.get((each.seconds, each.counts_requests)) or begin(each) for each in limits]
    for window, limit in zip(made, limits, strict=True):
        window.most = limit.most
    return made
