"""Other clients on this IP address: what they used of each minute, and what they may still use.

Pure. The rule of this file: no model of who they are. A bot that polls every 20 s, one that wakes
at :30, a steady stream and a copy of ourselves all repeat within a minute or so. So each minute
keeps the `Curve` of what others had used by when. The forecast is what is still to come in the most
demanding of the last minutes, less what has come already. Until we saw a whole minute, and where
others are beyond all that we saw, the forecast also expects them to go on at the mean rate so far.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from binance_oi.budget.ledger import Minute
from binance_oi.budget.tuning import (
    CHANCE,
    FORECAST_AGE,
    LATE,
    MEMORY,
    SIGMA,
    SLOT,
    SOONEST,
    UNSEEN,
)
from binance_oi.exchange.limits import WEIGHT

MINUTE = float(WEIGHT.seconds)


@dataclass(slots=True)
class Curve:
    """What others had used by when, in one minute: weight at the end of each `SLOT`."""

    fastest: float  # weight/s that nobody could go on with for long
    heights: list[int] = field(default_factory=list[int])
    base: int = 0  # what they had used at our first count: nobody knows by when
    since: float = MINUTE  # s into the minute of our first count
    until: float = 0.0  # and of our last one

    @property
    def top(self) -> int:
        """What they had used at our last count."""
        return self.heights[-1] if self.heights else 0

    @property
    def rate(self) -> float:
        """Weight/s, on average since the minute began."""
        return min(self.top / self.until, self.fastest) if self.until > 0.0 else 0.0

    @property
    def calm(self) -> float:
        """Weight/s when nothing special happens: of the `SLOT` in the middle, of those seen."""
        rises = [b - a for a, b in pairwise([0, *self.heights])]
        rates = [rise / SLOT for rise in rises[round(self.since / SLOT) :]]
        if not rates:
            return self.rate
        rates[-1] *= SLOT / (self.until - SLOT * (len(self.heights) - 1))
        return min(sorted(rates)[(len(rates) - 1) // 2], self.fastest)

    def seen(self) -> "Curve":
        """The same without what came before our first count."""
        heights = [max(0, height - self.base) for height in self.heights]
        return Curve(self.fastest, heights, 0, self.since, self.until)

    @property
    def whole(self) -> bool:
        """Whether we counted from near its beginning until near its end."""
        return self.since < LATE / 2 and self.until > MINUTE - LATE / 2

    def draw(self, into: float, height: int) -> None:
        """They had used `height` after `into` s; since our last count, evenly, and before our
        first one, as late as may be.

        A curve never falls: others cannot give back what they have used. A rise below 0 would be
        a negative rate, which has no square root.
        """
        into, height = min(max(into, self.until, SOONEST), MINUTE), max(height, self.top)
        rise, steps = height - self.top, math.ceil(into / SLOT) - len(self.heights)
        base = self.top
        if self.until == 0.0:
            self.base, self.heights, steps = height, [0] * (steps - 1), 1
        self.heights += [base + rise * step // steps for step in range(1, steps + 1)]
        self.heights[-1] = max(self.heights[-1], height)
        self.since, self.until = min(self.since, into), into

    def at(self, into: float, rate: float | None = None) -> float:
        """What they had used after `into` s; at `rate` since our last count, or calmly."""
        if into >= self.until:
            more = (self.calm if rate is None else rate) * (into - self.until)
            return min(self.top + more, max(self.top, self.fastest * MINUTE))
        slot = int(into / SLOT)
        start, end = slot * SLOT, min(slot * SLOT + SLOT, self.until)
        before = self.heights[slot - 1] if slot else 0
        if start < self.since:
            if into < self.since:
                return 0.0
            start, before = self.since, self.base
        return before + (self.heights[slot] - before) * (into - start) / (end - start)


def to_come(curve: Curve, into: float, others: int, rate: float) -> float:
    """What others, having used `others` after `into` s, would still use if they did as then.

    `rate` is weight/s from our last count to the end of that minute.
    """
    whole, now, seen = curve.at(MINUTE, rate), curve.at(into, rate), curve.at(into, 0.0)
    before = curve.at(max(0.0, into - LATE), 0.0)
    if into > curve.since + UNSEEN * (MINUTE - curve.since):
        before = max(before, curve.base)  # not all of a minute is kept for what came unseen
    due = whole - now
    late = max(0.0, min(seen - others - CHANCE * math.sqrt(seen), seen - before))
    rest = due + late
    if others < before and curve.since < into - LATE:  # they do not go on as they did
        rest -= min(rest, curve.calm * (MINUTE - into + LATE)) * (1.0 - others / before)
    return rest


def going_on(current: Curve, into: float, others: int) -> float:
    """What they would use if they went on at the mean rate so far, or as at our last count."""
    rate = min(others / max(into, 1.0), current.fastest)
    held = current.rate * (MINUTE - current.until) - (others - current.top)
    return max(rate * (MINUTE - into), held)


def expected(past: Sequence[Curve], current: Curve, into: float, others: int) -> float:
    """The most that others are expected to use in the rest of a minute.

    Args:
        past: Of the minutes before it, the last one last.
        current: Of the minute itself.
        into: Seconds since the minute began.
        others: What they have used so far.
    """
    most, known = 0.0, -1.0
    whole = any(curve.whole for curve in past)
    for curve in past:
        rate = curve.calm if curve.until - curve.since > LATE / 2 else curve.rate
        if whole and not curve.whole:  # it adds what we saw happen, and that they go on calmly
            curve = curve.seen()
            rate = curve.calm if curve.until - curve.since > SLOT else 0.0
        most = max(most, to_come(curve, into, others, rate))
        known = max(known, curve.at(min(MINUTE, into + LATE), rate))
    if others > known or not whole:
        most = max(most, going_on(current, into, others))
    return most


@dataclass(slots=True)
class Forecast:
    """The latest forecast of one bucket. It stands until its question changes."""

    question: tuple[int, float, int] | None = None
    """Minute, time in steps of `FORECAST_AGE`, and what others have used."""
    need: float = 0.0


@dataclass(slots=True)
class Others:
    """What we know of other clients."""

    curves: dict[int, Curve] = field(default_factory=dict[int, Curve])
    """Of each minute in which we saw them."""
    expected_until: int = -1
    """The last minute in which we keep room for them."""
    expected_surge: int = 0
    """Weight that a refusal makes us expect at once; it fades."""
    refused_count: int = 0
    """The count at which the exchange refused us below the limit; 0: never."""

    def expect_until(self, k: int) -> None:
        """Keep room for them until the end of minute `k`, at the least."""
        self.expected_until = max(self.expected_until, k)

    def past(self, k: int) -> list[Curve]:
        """Their curves of the minutes before `k`."""
        return [curve for j, curve in self.curves.items() if k - MEMORY <= j < k and curve.heights]

    def curve(self, k: int, limit: int) -> Curve:
        """Their curve of minute `k`; an empty one when we saw nothing."""
        return self.curves.get(k) or Curve(limit / MINUTE)

    def draw(self, k: int, limit: int, into: float, used: int) -> None:
        """They had used `used` of minute `k` after `into` s."""
        if k not in self.curves:
            self.curves = {j: curve for j, curve in self.curves.items() if j >= k - MEMORY - 1}
            self.curves[k] = Curve(limit / MINUTE)
        self.curves[k].draw(into, used)

    def unseen(self, k: int, limit: int, gap: float) -> float:
        """Weight they may have used in `gap` s without a count, if nothing special happened."""
        return gap * max(curve.calm for curve in [self.curve(k, limit), *self.past(k)])

    def forecast(
        self, k: int, minute: Minute, limit: int, into: float, latest: Forecast
    ) -> tuple[float, float]:
        """Weight they are expected to use of minute `k` after `into` s, and a margin for chance."""
        past, curve = self.past(k), self.curve(k, limit)
        # Ours under way may hide as much of theirs, which matters while theirs is only a rate.
        others = minute.others + (0 if past else minute.under_way)
        question = k, into // FORECAST_AGE, others
        if question != latest.question:
            latest.question, latest.need = question, expected(past, curve, into, others)
        need = latest.need
        # A rate that we saw for a tenth of a minute has ten times the variance.
        spread = 1.0 if past else MINUTE / max(1.0, curve.until)
        surge = self.expected_surge - minute.others
        return max(need, surge), SIGMA * math.sqrt(need * spread)
