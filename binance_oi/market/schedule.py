"""When it is the turn of a slot, also when somebody sets the clock.

The rule of this file: slots are multiples of the period since 1970. The wall clock says when one is
due; a steady clock beside it says how much time has really passed. Where the two disagree, somebody
set the wall clock, and the schedule goes on at its new time at once:

    set forward   slots that were never due in real time are a gap `clock`, and not `late`
    set back      the schedule restarts at the new time, and slots come a second time; no slot is
                  missing, so the gap `clock` is empty: it ends before it begins
    suspended     the steady clock goes on while the machine sleeps: its slots were due, and `late`;
                  where a system does not count that time (macOS), they are `clock`

A clock that goes back by a little is not set: NTP and a leap second do that. As long as the next
slot is at most a period and `STEP` away, the schedule waits for it, and no slot comes twice.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from binance_oi.arguments import check_number
from binance_oi.budget import steady_clock
from binance_oi.market.gap import Gap
from binance_oi.market.snapshot import Snapshot

LATEST = 0.5  # share of the period by which a sweep may begin late
LONGEST_PERIOD = 86_400.0 * 366  # s
NAP = 60.0  # s: a clock that was set is noticed within this time
STEP = 1.5  # s beyond the period; a leap second is 1, and NTP steps by less than that
AT_ONCE = 0.02  # s between two readings of the steady clock that belong to one moment
READINGS = 5  # tries for that; a busy machine may stop us between two lines


def period_ms(every: float) -> int:
    """`every` in ms.

    Raises:
        TypeError: It is no number.
        ValueError: It is shorter than 1 ms, longer than a year, or not finite.
    """
    seconds = check_number("every", every, least=0.001)
    if seconds > LONGEST_PERIOD:
        raise ValueError(f"every must be at most a year of {LONGEST_PERIOD:g} s: {seconds!r}")
    return round(seconds * 1000)


def next_slot(clock: Callable[[], float], period: int) -> int:
    """The first slot that is not over, Unix ms."""
    return math.ceil(clock() * 1000 / period) * period


def suspended() -> float:
    """Seconds for which this machine slept since its start; 0 where the system does not say."""
    return steady_clock() - time.monotonic()


def steady() -> float:
    """Seconds that have really passed: those of the running loop, and those of a suspend."""
    return asyncio.get_running_loop().time() + suspended()


class Schedule:
    """When it is the turn of a slot. Belongs to the running loop.

    Args:
        period: From slot to slot, ms.
        clock: Unix seconds.
        pause: Sleeps, or raises what ends the schedule.
    """

    def __init__(
        self,
        period: int,
        clock: Callable[[], float],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.period: int = period
        """May be changed between two slots."""
        self._clock = clock
        self._pause = pause
        self._wall, self._steady = self._read()  # when the latest slot was decided

    def next_slot(self) -> int:
        """The first slot that is not over, Unix ms."""
        return next_slot(self._clock, self.period)

    def slot_after(self, slot: int) -> int:
        """The first slot that is not over and comes after `slot`."""
        first = self.next_slot()
        return first if first > slot else (slot // self.period + 1) * self.period

    def after(self, outcome: Snapshot | Gap) -> int:
        """The slot after it."""
        if isinstance(outcome, Gap):
            return outcome.last + self.period
        assert outcome.slot is not None
        return round(outcome.slot.timestamp() * 1000) + self.period

    def seconds_to(self, slot: int) -> float:
        """Seconds until `slot` on the wall clock, negative after it."""
        return slot / 1000 - self._clock()

    async def reach(self, slot: int, lead: float = 0.0) -> bool:
        """Sleep until `lead` seconds before `slot`; False as soon as the clock was set back.

        Args:
            slot: The next one, at most a period away: if it is farther, the clock was set back.
            lead: Seconds.
        """
        while (left := self.seconds_to(slot)) > lead:
            if left > self.period / 1000 + STEP:
                return False
            await self._pause(min(left - lead, NAP))
        return True

    def restart(self, slot: int) -> Gap:
        """An empty gap where the schedule goes on, because `slot` is too far away."""
        wall, jump = self._look()
        back = max(-jump, slot / 1000 - wall - self.period / 1000)
        self._decided()
        first = math.ceil(wall * 1000 / self.period) * self.period
        return Gap(first, first - self.period, "clock", f"the clock was set back by {back:,.1f} s")

    def skipped(self, slot: int) -> list[Gap]:
        """What is missing when it is too late for `slot`; nothing when its sweep may begin."""
        wall, jump = self._look()
        end = self._in_time(slot, wall)
        due = self._in_time(slot, wall - self._ahead(jump))
        self._decided()
        return self._missing((slot, min(due, end), end), ("late", ""), jump)

    def passed(self, slot: int, reason: str, detail: str) -> list[Gap]:
        """What is missing from `slot` until now, because a sweep is under way."""
        wall, jump = self._look()
        end = self._after(wall)
        due = max(slot, self._after(wall - self._ahead(jump)))
        self._decided()
        return self._missing((slot, min(due, end), end), (reason, detail), jump)

    def _missing(self, ends: tuple[int, int, int], why: tuple[str, str], jump: float) -> list[Gap]:
        """Slots that were due in real time, and after them those that never were."""
        first, due, end = ends
        forward = f"the clock was set forward by {jump:,.1f} s"
        gaps = (Gap(first, due - self.period, *why), Gap(due, end - self.period, "clock", forward))
        return [gap for gap in gaps if gap.first <= gap.last]

    def _in_time(self, slot: int, wall: float) -> int:
        """`slot`, or the next one when it is too late for it."""
        late = wall * 1000 - slot
        if late <= self.period * LATEST:
            return slot
        return math.ceil(wall * 1000 / self.period) * self.period

    def _after(self, wall: float) -> int:
        """The first slot after that moment."""
        return (math.floor(wall * 1000 / self.period) + 1) * self.period

    async def done_before(self, task: asyncio.Task[Snapshot | Gap], slot: int) -> bool:
        """Wait for `task`; False as soon as the turn of `slot` has come."""
        while not task.done() and (left := self.seconds_to(slot)) > 0.0:
            await asyncio.wait({task}, timeout=min(left, NAP))
        return task.done()

    # -- the two clocks -------------------------------------------------------------------------

    def _read(self) -> tuple[float, float]:
        """Both clocks at one moment, as far as a busy machine lets us."""
        tries = 0
        while True:
            before, wall, after = steady(), self._clock(), steady()
            tries += 1
            if abs(after - before) < AT_ONCE or tries == READINGS:
                return wall, after

    def _look(self) -> tuple[float, float]:
        """The wall clock, and by how many seconds it was set since the latest slot was decided."""
        wall, now = self._read()
        return wall, (wall - self._wall) - (now - self._steady)

    def _ahead(self, jump: float) -> float:
        """The part of `jump` by which slots were skipped that were never due."""
        return jump if jump > min(STEP, self.period / 1000 * LATEST) else 0.0

    def _decided(self) -> None:
        self._wall, self._steady = self._read()
