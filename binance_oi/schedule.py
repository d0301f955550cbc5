"""When it is the turn of a slot.

The rule of this file: slots are multiples of the period since 1970, and the wall clock says when
one is due, also when that clock is set.
"""

import asyncio
import math
from collections.abc import Callable

from binance_oi.snapshot import Gap, Snapshot

LATEST = 0.5  # share of the period by which a sweep may begin late
NAP = 60.0  # s: a clock that was set is noticed within this time


def period_ms(every: float) -> int:
    """`every` in ms.

    Raises:
        ValueError: It is not a number of at least 1 ms.
    """
    if not 0.001 <= every <= 86_400.0 * 366:
        raise ValueError(f"every must be at least 0.001 s, and at most a year: {every!r}")
    return round(every * 1000)


def follows(gap: Gap, before: Gap, period: int) -> bool:
    """Whether the two are one gap."""
    return gap.reason == before.reason and gap.first == before.last + period


def next_slot(clock: Callable[[], float], period: int) -> int:
    """The first slot that is not over, Unix ms."""
    return math.ceil(clock() * 1000 / period) * period


class Schedule:
    """When it is the turn of a slot."""

    def __init__(self, period: int, clock: Callable[[], float]) -> None:
        self.period = period
        self._clock = clock

    def next_slot(self) -> int:
        return next_slot(self._clock, self.period)

    def after(self, outcome: Snapshot | Gap) -> int:
        """The slot after it."""
        if isinstance(outcome, Gap):
            return outcome.last + self.period
        assert outcome.slot is not None
        return round(outcome.slot.timestamp() * 1000) + self.period

    def seconds_to(self, slot: int) -> float:
        return slot / 1000 - self._clock()

    async def reach(self, slot: int, lead: float = 0.0) -> None:
        """Sleep until `lead` seconds before `slot`, also when the clock is set meanwhile."""
        while (left := self.seconds_to(slot) - lead) > 0.0:  # noqa: ASYNC110 - a clock has no bell
            await asyncio.sleep(min(left, NAP))

    def in_time(self, slot: int) -> int:
        """`slot`, or the next one when it is too late for it."""
        late = -self.seconds_to(slot) * 1000
        return slot if late <= self.period * LATEST else self.next_slot()

    async def done_before(self, task: asyncio.Task[Snapshot | Gap], slot: int) -> bool:
        """Wait for `task`; False as soon as the turn of `slot` has come."""
        while not task.done() and (left := self.seconds_to(slot)) > 0.0:
            await asyncio.wait({task}, timeout=min(left, NAP))
        return task.done()
