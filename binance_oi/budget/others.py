"""Other clients on this IP address: what they used of each minute, and what they may still use.

Pure. The rule of this file: it does not model who the others are. A bot that polls every 20 s, one
that wakes at :30, a steady stream and a copy of ourselves all repeat within a minute or so. So each
minute keeps a `Curve`: what others had used by when. The forecast takes the most demanding of the
last minutes. It expects what others used in that minute from the same second on, and what is late.
Before we have seen a whole minute, and when others exceed everything that we saw, the forecast also
expects them to go on at their mean rate so far.
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
    UNSEEN,
)
from binance_oi.exchange.limits import WEIGHT

MINUTE = float(WEIGHT.seconds)


@dataclass(slots=True)
class Curve:
    """What others had used by when, in one minute: weight at the end of each `SLOT`."""

    fastest: float  # weight/s that uses up the limit in a minute; no client goes on faster
    heights: list[int] = field(default_factory=list[int])
    base: int = 0  # what they had used at our first count; when they used it is unknown
    since: float = MINUTE  # seconds into the minute at our first count
    until: float = 0.0  # seconds into the minute at our last count

    @property
    def top(self) -> int:
        """What they had used at our last count."""
        return self.heights[-1] if self.heights else 0

    @property
    def rate(self) -> float:
        """Their mean rate from the beginning of the minute to our last count, weight/s."""
        return min(self.top / self.until, self.fastest) if self.until > 0.0 else 0.0

    @property
    def calm(self) -> float:
        """Their usual rate, weight/s: the median of the slots that we have seen."""
        rises = [b - a for a, b in pairwise([0, *self.heights])]
        rates = [rise / SLOT for rise in rises[round(self.since / SLOT) :]]
        if not rates:
            return self.rate
        rates[-1] *= SLOT / (self.until - SLOT * (len(self.heights) - 1))
        return min(sorted(rates)[(len(rates) - 1) // 2], self.fastest)

    def seen(self) -> "Curve":
        """The same curve without what they used before our first count."""
        heights = [max(0, height - self.base) for height in self.heights]
        return Curve(self.fastest, heights, 0, self.since, self.until)

    @property
    def whole(self) -> bool:
        """Whether our counts cover the minute from near its beginning to near its end."""
        return self.since < LATE / 2 and self.until > MINUTE - LATE / 2

    def draw(self, into: float, height: int) -> None:
        """Note that others had used `height` after `into` s.

        The curve rises evenly from our last count on. Weight from before our first count is put as
        late as possible. A curve never falls: others cannot return what they have used, and
        `to_come` takes the square root of its values.
        """
        into, height = min(max(into, self.until, FORECAST_AGE), MINUTE), max(height, self.top)
        rise, steps = height - self.top, math.ceil(into / SLOT) - len(self.heights)
        base = self.top
        if self.until == 0.0:
            self.base, self.heights, steps = height, [0] * (steps - 1), 1
        self.heights += [base + rise * step // steps for step in range(1, steps + 1)]
        self.heights[-1] = max(self.heights[-1], height)
        self.since, self.until = min(self.since, into), into

    def at(self, into: float, rate: float | None = None) -> float:
        """What they had used after `into` s; after our last count at `rate`, or the usual rate."""
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
    """What others would still use of a minute if they did as in the minute of `curve`.

    Args:
        curve: Of an earlier minute.
        into: Seconds since the minute began.
        others: What they have used so far.
        rate: Weight/s to assume from our last count to the end of the earlier minute.
    """
    whole, now, seen = curve.at(MINUTE, rate), curve.at(into, rate), curve.at(into, 0.0)
    before = curve.at(max(0.0, into - LATE), 0.0)
    if into > curve.since + UNSEEN * (MINUTE - curve.since):
        before = max(before, curve.base)  # stop expecting what they used before our first count
    due = whole - now
    late = max(0.0, min(seen - others - CHANCE * math.sqrt(seen), seen - before))
    rest = due + late
    if others < before and curve.since < into - LATE:  # they use less than in that minute
        rest -= min(rest, curve.calm * (MINUTE - into + LATE)) * (1.0 - others / before)
    return rest


def going_on(current: Curve, into: float, others: int) -> float:
    """What others would still use at their mean rate so far, or at that of our last count."""
    rate = min(others / max(into, 1.0), current.fastest)
    held = current.rate * (MINUTE - current.until) - (others - current.top)
    return max(rate * (MINUTE - into), held)


def expected(past: Sequence[Curve], current: Curve, into: float, others: int) -> float:
    """The most that others are expected to use in the rest of a minute.

    Args:
        past: The curves of the minutes before it, oldest first.
        current: The curve of the minute itself.
        into: Seconds since the minute began.
        others: What they have used so far.
    """
    most, known = 0.0, -1.0
    whole = any(curve.whole for curve in past)
    for curve in past:
        rate = curve.calm if curve.until - curve.since > LATE / 2 else curve.rate
        if whole and not curve.whole:  # use only what we saw, and their usual rate after it
            curve = curve.seen()
            rate = curve.calm if curve.until - curve.since > SLOT else 0.0
        most = max(most, to_come(curve, into, others, rate))
        known = max(known, curve.at(min(MINUTE, into + LATE), rate))
    if others > known or not whole:
        most = max(most, going_on(current, into, others))
    return most


@dataclass(slots=True)
class Forecast:
    """The latest forecast of one bucket. It stays valid until its question changes."""

    question: tuple[int, float, int] | None = None
    """The minute, the time in steps of `FORECAST_AGE`, and what others have used."""
    need: float = 0.0
    """Weight that others are expected to use until the minute ends."""


@dataclass(slots=True)
class Others:
    """What we know about other clients."""

    curves: dict[int, Curve] = field(default_factory=dict[int, Curve])
    """Their curve of each minute in which we saw them."""
    expected_until: int = -1
    """The last minute in which we keep room for them."""
    expected_surge: int = 0
    """Weight that we expect at any moment after a refusal; it halves with each good minute."""
    refused_count: int = 0
    """The count below the limit at which the exchange refused us; 0 if it never did."""

    def expect_until(self, k: int) -> None:
        """Keep room for them until the end of minute `k`, or longer."""
        self.expected_until = max(self.expected_until, k)

    def past(self, k: int) -> list[Curve]:
        """Their curves of the last `MEMORY` minutes before `k`."""
        return [curve for j, curve in self.curves.items() if k - MEMORY <= j < k and curve.heights]

    def curve(self, k: int, limit: int) -> Curve:
        """Their curve of minute `k`; an empty curve if we saw nothing."""
        return self.curves.get(k) or Curve(limit / MINUTE)

    def draw(self, k: int, limit: int, into: float, used: int) -> None:
        """Note that they had used `used` of minute `k` after `into` s."""
        if k not in self.curves:
            self.curves = {j: curve for j, curve in self.curves.items() if j >= k - MEMORY - 1}
            self.curves[k] = Curve(limit / MINUTE)
        self.curves[k].draw(into, used)

    def unseen(self, k: int, limit: int, gap: float) -> float:
        """Weight that they use in `gap` s at their highest usual rate."""
        return gap * max(curve.calm for curve in [self.curve(k, limit), *self.past(k)])

    def forecast(
        self, k: int, minute: Minute, limit: int, into: float, latest: Forecast
    ) -> tuple[float, float]:
        """Weight that they are expected to use of minute `k` after `into` s, and a margin."""
        past, curve = self.past(k), self.curve(k, limit)
        # Our weight under way may hide as much of theirs. Without a past that lowers the rate.
        others = minute.others + (0 if past else minute.under_way)
        question = k, into // FORECAST_AGE, others
        if question != latest.question:
            latest.question, latest.need = question, expected(past, curve, into, others)
        need = latest.need
        # A rate that we saw for a tenth of a minute has ten times the variance.
        spread = 1.0 if past else MINUTE / max(1.0, curve.until)
        surge = self.expected_surge - minute.others
        return max(need, surge), SIGMA * math.sqrt(need * spread)
