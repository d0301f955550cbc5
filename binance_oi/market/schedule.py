"""Computes when each slot of a schedule is due, even after a user sets the clock.

The rule of this file: slots are multiples of the period since 1970. The wall clock says when a slot
is due; a steady clock says how much time has really passed. When the two disagree, a user has set
the wall clock, and the schedule continues at the new time at once:

    set forward   the clock skips slots, so these were never due; their gap has the reason `clock`
    set back      the schedule restarts at the new time, and slots come a second time; no slot is
                  missing, so the gap with the reason `clock` is empty: it ends before it begins
    suspended     the steady clock runs while the machine sleeps, so the slots of that time were
                  due; their gap has the reason `late`; but on macOS the steady clock stops during
                  sleep, so the wall clock seems set forward, and the gap has the reason `clock`

After a small step back, the schedule does not restart: NTP and a leap second cause such a step. As
long as the next slot is at most a period and `TOLERATED_STEP` away, the schedule waits for it, and
no slot comes twice.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from binance_oi.arguments import check_number
from binance_oi.budget import steady_clock
from binance_oi.market.gap import Gap
from binance_oi.market.snapshot import Snapshot

LATEST_START = 0.5  # share of the period by which a sweep may begin late
LONGEST_PERIOD = 86_400.0 * 366  # s
LONGEST_SLEEP = 60.0  # s of one sleep; within this time the schedule notices a clock that was set
TOLERATED_STEP = 1.5  # s; a smaller step of the clock is a leap second or NTP, not a user
ONE_MOMENT = 0.02  # s: if reading both clocks takes no longer, both show the same moment
MAX_READINGS = 5  # tries to read both clocks within `ONE_MOMENT`; a busy machine may interrupt us


def period_ms(every: float) -> int:
    """Convert a period in seconds to ms.

    Raises:
        TypeError: `every` is not a number.
        ValueError: `every` is shorter than 1 ms, longer than a year, or not finite.
    """
    seconds = check_number("every", every, least=0.001)
    if seconds > LONGEST_PERIOD:
        raise ValueError(f"every must be at most a year of {LONGEST_PERIOD:g} s: {seconds!r}")
    return round(seconds * 1000)


def next_slot(clock: Callable[[], float], period: int) -> int:
    """Return the first slot that is now or later, Unix ms."""
    return math.ceil(clock() * 1000 / period) * period


def suspended_seconds() -> float:
    """Return for how many seconds this machine was suspended since its boot; 0 if unknown."""
    return steady_clock() - time.monotonic()


def steady_seconds() -> float:
    """Return the time of the running loop plus `suspended_seconds`, s."""
    return asyncio.get_running_loop().time() + suspended_seconds()


class Schedule:
    """Waits for slots, and finds those that were missed. It belongs to the running loop.

    Args:
        period: The time from slot to slot, ms.
        clock: Returns Unix seconds.
        pause: Sleeps. If it raises an error, the schedule ends.
    """

    def __init__(
        self,
        period: int,
        clock: Callable[[], float],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.period: int = period
        """The time from slot to slot, ms. The owner may change it between two slots."""
        self._clock = clock
        self._pause = pause
        # What both clocks showed when the schedule began, or last decided which slots were missed.
        self._wall, self._steady = self._read_clocks()

    def next_slot(self) -> int:
        """Return the first slot that is now or later, Unix ms."""
        return next_slot(self._clock, self.period)

    def slot_after(self, slot: int) -> int:
        """Return the first slot after `slot` that is now or later."""
        first = self.next_slot()
        return first if first > slot else (slot // self.period + 1) * self.period

    def after(self, outcome: Snapshot | Gap) -> int:
        """Return the slot after the last slot of `outcome`."""
        if isinstance(outcome, Gap):
            return outcome.last + self.period
        assert outcome.slot is not None
        return round(outcome.slot.timestamp() * 1000) + self.period

    def seconds_to(self, slot: int) -> float:
        """Return the seconds until `slot` by the wall clock; negative after it."""
        return slot / 1000 - self._clock()

    async def reach(self, slot: int, lead: float = 0.0) -> bool:
        """Sleep until `lead` seconds before `slot`.

        Args:
            slot: The next slot. It is at most a period away, unless someone has set the clock back.
            lead: Seconds.

        Returns:
            False if someone set the clock back so far that the schedule must restart.
        """
        while (left := self.seconds_to(slot)) > lead:
            if left > self.period / 1000 + TOLERATED_STEP:
                return False
            await self._pause(min(left - lead, LONGEST_SLEEP))
        return True

    def restart(self, slot: int) -> Gap:
        """After the clock was set back, return an empty gap whose `first` is the next slot.

        Args:
            slot: The slot that is too far away now.
        """
        wall, jump = self._wall_and_jump()
        back = max(-jump, slot / 1000 - wall - self.period / 1000)
        self._remember_clocks()
        first = math.ceil(wall * 1000 / self.period) * self.period
        return Gap(first, first - self.period, "clock", f"the clock was set back by {back:,.1f} s")

    def skipped(self, slot: int) -> list[Gap]:
        """Return gaps for the slots, from `slot` on, whose sweep can no longer begin in time."""
        wall, jump = self._wall_and_jump()
        end = self._in_time(slot, wall)
        due = self._in_time(slot, wall - self._forward_jump(jump))
        self._remember_clocks()
        return self._missing((slot, min(due, end), end), ("late", ""), jump)

    def passed(self, slot: int, reason: str, detail: str) -> list[Gap]:
        """Return gaps for the slots from `slot` until now, which passed during a sweep."""
        wall, jump = self._wall_and_jump()
        end = self._first_after(wall)
        # We wake exactly when a slot is due, and `jump` is only as exact as the readings of the two
        # clocks. Without the margin, an error of 1 us would give this slot the reason `clock`.
        due = max(slot, self._first_after(wall - self._forward_jump(jump) + ONE_MOMENT))
        self._remember_clocks()
        return self._missing((slot, min(due, end), end), (reason, detail), jump)

    def _missing(self, ends: tuple[int, int, int], why: tuple[str, str], jump: float) -> list[Gap]:
        """Return a gap for missed slots, and one with the reason `clock` for skipped slots.

        Args:
            ends: The first missed slot; the first skipped slot; the first slot after these.
            why: The reason and the detail for the missed slots.
            jump: Seconds by which someone set the clock forward.
        """
        first, due, end = ends
        forward = f"the clock was set forward by {jump:,.1f} s"
        gaps = (Gap(first, due - self.period, *why), Gap(due, end - self.period, "clock", forward))
        return [gap for gap in gaps if gap.first <= gap.last]

    def _in_time(self, slot: int, wall: float) -> int:
        """Return `slot`; or, if it is too late for `slot`, the first slot at `wall` or later."""
        late = wall * 1000 - slot
        if late <= self.period * LATEST_START:
            return slot
        return math.ceil(wall * 1000 / self.period) * self.period

    def _first_after(self, wall: float) -> int:
        """Return the first slot after `wall`, Unix s."""
        return (math.floor(wall * 1000 / self.period) + 1) * self.period

    async def done_before(self, task: asyncio.Task[Snapshot | Gap], slot: int) -> bool:
        """Wait for `task`, at most until `slot` is due; return whether it is done."""
        while not task.done() and (left := self.seconds_to(slot)) > 0.0:
            await asyncio.wait({task}, timeout=min(left, LONGEST_SLEEP))
        return task.done()

    # -- the two clocks -------------------------------------------------------------------------

    def _read_clocks(self) -> tuple[float, float]:
        """Read both clocks at one moment, as far as a busy machine allows."""
        tries = 0
        while True:
            before, wall, after = steady_seconds(), self._clock(), steady_seconds()
            tries += 1
            if abs(after - before) < ONE_MOMENT or tries == MAX_READINGS:
                return wall, after

    def _wall_and_jump(self) -> tuple[float, float]:
        """Return the wall clock, and by how many seconds it was set since `_remember_clocks`."""
        wall, now = self._read_clocks()
        return wall, (wall - self._wall) - (now - self._steady)

    def _forward_jump(self, jump: float) -> float:
        """Return `jump` if it is large enough to skip slots; otherwise 0."""
        return jump if jump > min(TOLERATED_STEP, self.period / 1000 * LATEST_START) else 0.0

    def _remember_clocks(self) -> None:
        self._wall, self._steady = self._read_clocks()
