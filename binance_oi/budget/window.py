"""Limits beside that of the minute: so much weight, or so many requests, in so many seconds.

Pure, like the decision core in `budget`. The rule of this file: only our own books count. No
header that we read shows what the exchange has counted for such a limit, nor where its window
begins. So a `Window` rolls: whatever was counted in the last `seconds` is in it. That is enough for
windows that are aligned to a clock. What others use of such a limit is not seen.

A request is in its window from its charge until `seconds` after the latest moment at which the
exchange may have counted it. That is the moment of its answer, and before there is one, the latest
moment for which the ledger has booked it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from binance_oi.exchange.limits import WEIGHT, Limit

SLOTS = 20  # parts of a window, in each of which what was used is one sum
SHORTEST = 10.0  # s: a shorter window has slots as if it were so long, or there would be too many
SOON = 0.02  # s until the answer may have changed, at the least


@dataclass(slots=True)
class Window:
    """What we used of one limit: plain numbers, so that processes can share it."""

    seconds: int
    most: int
    counts_requests: bool
    since: float  # monotonic s: what is counted by then at the latest is in `slots` as two sums
    slots: dict[int, int] = field(default_factory=dict[int, int])
    """What was used, by the slot of time in which it was counted at the latest."""
    parts: int = SLOTS
    """Slots in the window."""
    bulk_at: float = 0.0
    """Monotonic s from which the next request of many may go; see `rolling`."""
    kept_until: float = 0.0
    """Monotonic s until which room is kept for single requests; see `rolling`."""

    @classmethod
    def begin(
        cls, limit: Limit, now: float, latest: float, *, counted: int, flying: int
    ) -> "Window":
        """A window whose charges are known from `now` on.

        Args:
            limit: What the exchange announced.
            now: Monotonic s.
            latest: By when the exchange counts what is charged now.
            counted: What was used before and has its answers, at the most.
            flying: What was used before and has no answer yet, at the most.
        """
        window = cls(*limit, since=latest)
        window._add(now, counted)
        window._add(latest, flying)
        return window

    @property
    def is_minute(self) -> bool:
        """Whether it is the window of the minute's limit, should the exchange's count roll."""
        return self.seconds == WEIGHT.seconds and not self.counts_requests

    def cost(self, weight: int) -> int:
        """What a request of `weight` uses of this limit."""
        return 1 if self.counts_requests else weight

    def used(self, now: float) -> int:
        """The most that the exchange may hold in any window that ends now or later."""
        return sum(used for slot, used in self.slots.items() if self.leaves(slot) > now)

    def under_way(self, now: float) -> int:
        """The part of `used` that may still be counted later than now."""
        return sum(used for slot, used in self.slots.items() if slot > self._slot(now))

    def cap(self, reserve: int, share: int, limit: int) -> int:
        """Our cap on it: `most` less the fraction that `reserve` is of the minute's `limit`.

        It is 1 at least, or nothing would ever be sent; unless the reserve is all of the minute.
        """
        kept = math.ceil(self.most * reserve / limit)
        cap = min(self.most - kept, self.most * share // limit)
        return max(1, cap) if reserve < limit else cap

    def until_room(self, now: float, weight: int, cap: int) -> float | None:
        """Seconds until `weight` may fit under `cap`: 0 if it does, None if it never will."""
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
                # What is under way may be answered at once, and no sooner.
                leaves = min(self.leaves(slot), now + self.seconds)
        return max(leaves - now, SOON)

    def charge(self, now: float, latest: float, weight: int) -> None:
        """A request is booked, which the exchange counts by `latest` if at all."""
        for slot in [slot for slot in self.slots if self.leaves(slot) <= now]:
            del self.slots[slot]
        self._add(latest, self.cost(weight))

    def settle(self, latest: float, now: float, weight: int) -> None:
        """What was booked with `latest` is answered: the exchange has counted it by `now`."""
        if latest >= self.since:
            self.refund(latest, weight)
            self._add(now, self.cost(weight))

    def refund(self, latest: float, weight: int) -> None:
        """What was booked with `latest` was never sent."""
        slot = self._slot(latest)
        if latest >= self.since and slot in self.slots:
            self.slots[slot] = max(0, self.slots[slot] - self.cost(weight))

    def _add(self, latest: float, used: int) -> None:
        slot = self._slot(latest)
        self.slots[slot] = self.slots.get(slot, 0) + used

    @property
    def _width(self) -> float:
        return max(self.seconds, SHORTEST) / self.parts

    def _slot(self, moment: float) -> int:
        return int(moment // self._width)

    def leaves(self, slot: int) -> float:
        """Monotonic s from which what is in that slot is not in the window."""
        return (slot + 1) * self._width + self.seconds


def renewed(
    windows: Sequence[Window], limits: Sequence[Limit], begin: Callable[[Limit], Window]
) -> list[Window]:
    """A window for each of `limits`: of the same span as before, or one that begins now."""
    before = {(window.seconds, window.counts_requests): window for window in windows}
    made = [before.get((each.seconds, each.counts_requests)) or begin(each) for each in limits]
    for window, limit in zip(made, limits, strict=True):
        window.most = limit.most
    return made
