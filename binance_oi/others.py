"""What others on this IP address may still use of a minute: as in one of the minutes before it.

Pure, like `minutes`. The rule of this file: no model of who they are. A bot that polls every 20 s,
one that wakes at :30, a steady stream and a copy of ourselves all repeat within a minute or so. So
each minute keeps the `Curve` of what others had used by when, and the forecast is what is still to
come in the most demanding of the last ones, less what has come already. Where there is none, or
where others are beyond all that was seen, they are expected to go on at the mean rate so far.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

MINUTE = 60.0  # s
SLOT = 5.0  # s
MORE = 1.1  # times what they used in a whole minute is the most they are expected to
CHANCE = 2.0  # standard deviations by which they may be behind without being late
LATE = 20.0  # s that a use may be late before it is not expected any more


@dataclass(slots=True)
class Curve:
    """What others had used by when, in one minute: weight at the end of each `SLOT`."""

    fastest: float  # weight/s that nobody could go on with for long
    heights: list[int] = field(default_factory=list[int])
    since: float = MINUTE  # s into the minute at which we first looked
    until: float = 0.0  # and last

    @property
    def top(self) -> int:
        """What they had used when we last looked."""
        return self.heights[-1] if self.heights else 0

    @property
    def rate(self) -> float:
        """Weight/s, on average since the minute began."""
        return min(self.top / self.until, self.fastest) if self.until > 0.0 else 0.0

    @property
    def calm(self) -> float:
        """Weight/s when nothing special happens: of the `SLOT` in the middle."""
        if not self.heights:
            return 0.0
        rates = [(b - a) / SLOT for a, b in pairwise([0, *self.heights])]
        rates[-1] *= SLOT / (self.until - SLOT * (len(rates) - 1))
        return min(sorted(rates)[(len(rates) - 1) // 2], self.fastest)

    @property
    def whole(self) -> bool:
        """Did we look from near its beginning until near its end?"""
        return self.since < LATE / 2 and self.until > MINUTE - LATE / 2

    def draw(self, into: float, height: int) -> None:
        """They had used `height` after `into` s; since we last looked, evenly."""
        into = min(max(into, self.until, 0.25), MINUTE)
        rise, steps = height - self.top, math.ceil(into / SLOT) - len(self.heights)
        base = self.top
        self.heights += [base + rise * step // steps for step in range(1, steps + 1)]
        self.heights[-1] = max(self.heights[-1], height)
        self.since, self.until = min(self.since, into), into

    def at(self, into: float, rate: float | None = None) -> float:
        """What they had used after `into` s; at `rate` since our last look, or calmly."""
        if into >= self.until:
            return self.top + (self.calm if rate is None else rate) * (into - self.until)
        slot = int(into / SLOT)
        start = slot * SLOT
        end = min(start + SLOT, self.until)
        before = self.heights[slot - 1] if slot else 0
        return before + (self.heights[slot] - before) * (into - start) / (end - start)


def to_come(curve: Curve, into: float, others: int, rate: float) -> float:
    """What others, having used `others` after `into` s, would still use if they did as then.

    `rate` is weight/s from our last look to the end of that minute.
    """
    whole, now, seen = curve.at(MINUTE, rate), curve.at(into, rate), curve.at(into, 0.0)
    # What came before our first look may have come at any time; not all of a minute is kept for it.
    before = curve.at(max(0.0, into - min(LATE, (MINUTE - curve.since) / 2)), 0.0)
    late = max(0.0, min(seen - others - CHANCE * math.sqrt(seen), seen - before))
    rest = max(0.0, min(whole - now + late, MORE * whole - others))
    if others < before and curve.since < into - LATE:  # they do not go on as they did
        rest -= min(rest, curve.calm * (MINUTE - into + LATE)) * (1.0 - others / before)
    return rest


def expected(past: Sequence[Curve], current: Curve, into: float, others: int) -> float:
    """The most that others are expected to use in the rest of a minute.

    Args:
        past: Of the minutes before it.
        current: Of the minute itself.
        into: Seconds since the minute began.
        others: What they have used so far.
    """
    most, known = 0.0, -1.0
    whole = [curve for curve in past if curve.whole]
    for curve in whole or past:
        rate = curve.calm if curve.whole else curve.rate
        most = max(most, to_come(curve, into, others, rate))
        known = max(known, curve.at(min(MINUTE, into + LATE), rate))
    if others > known:  # or there is no past
        most = max(most, current.rate * (MINUTE - into))
    return most
