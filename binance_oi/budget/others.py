"""Forecasts how much weight other clients on this IP address will still use of a minute.

Pure. The rule of this file: it does not model who the others are. Each minute keeps a `Curve`: how
much others had used at each second. From the curves of this minute and of the last five, we expect
three kinds of use in the rest of the minute:

- Steady use: others continue at their usual rate.
- Bursts, which may come at any second (`bursts`). The number of the last ones shows how many are
  likely.
- Use that comes at the same seconds of each minute (`rest_if_repeated`). Without bursts, we expect
  what the minute shows that leaves most to come. The seconds of bursts may differ from minute to
  minute, so beside bursts we expect only what came in every minute.

Example of the third kind, without bursts: in the last minute others used 300 by second 20, and 1000
by its end. Now it is second 20, and they have used 200. We expect the 700 that followed second 20
in the last minute. Of the 100 that this minute lacks, chance explains 35. We expect the other 65
too, because they may be late.

Until we have seen a whole minute, we are more cautious: we expect what the minute shows that leaves
most to come, even beside bursts, and at least that others continue at their mean rate so far.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import sub

from binance_oi.budget.bursts import SLOTS, Row, even_rate, find_bursts, room_for_bursts
from binance_oi.budget.ledger import Minute
from binance_oi.budget.tuning import (
    CHANCE,
    ENOUGH,
    FORECAST_AGE,
    LATE,
    MEMORY,
    SIGMA,
    SLOT,
    USED_UP,
)
from binance_oi.exchange.limits import WEIGHT

MINUTE = float(WEIGHT.seconds)


@dataclass(slots=True)
class Curve:
    """How much weight others had used by the end of each `SLOT` of one minute."""

    fastest: float  # weight/s that uses up the limit in one minute; we expect no higher rate
    heights: list[int] = field(default_factory=list[int])
    base: int = 0  # weight that others had used at our first count; we do not know when
    since: float = MINUTE  # seconds into the minute at our first count
    until: float = 0.0  # seconds into the minute at our last count

    @property
    def top(self) -> int:
        """Weight that others had used at our last count."""
        return self.heights[-1] if self.heights else 0

    @property
    def rate(self) -> float:
        """The mean rate of others from the beginning of the minute to our last count, weight/s."""
        return min(self.top / self.until, self.fastest) if self.until > 0.0 else 0.0

    @property
    def calm(self) -> float:
        """The usual rate of others, weight/s: the median over the slots that we have seen."""
        rises = [b - a for a, b in pairwise([0, *self.heights])]
        rates = [rise / SLOT for rise in rises[round(self.since / SLOT) :]]
        if not rates:
            return self.rate
        rates[-1] *= SLOT / (self.until - SLOT * (len(self.heights) - 1))
        return min(sorted(rates)[(len(rates) - 1) // 2], self.fastest)

    def rises(self, usual: float, *, keep_all: bool) -> list[float]:
        """Weight that others used in each slot from the beginning of the minute to our last count.

        We do not know when others used the weight before our first count. We assume that they used
        it evenly, but no more than `usual` in each slot.

        Args:
            usual: Their usual use of a slot.
            keep_all: Whether the remainder belongs to the slot of our first count. Otherwise we
                leave the remainder out.
        """
        rises: list[float] = [b - a for a, b in pairwise([0, *self.heights])]
        slots = min(math.ceil(self.since / SLOT), len(rises))
        if self.base:
            even = min(self.base / slots, usual)
            last = self.base - even * (slots - 1) if keep_all else even
            rises[:slots] = [even] * (slots - 1) + [rises[slots - 1] - self.base + last]
        return rises

    def busiest(self, seconds: float) -> int:
        """Weight that others used in their busiest `seconds`."""
        heights, slots = [0, *self.heights], round(seconds / SLOT)
        return max(map(sub, heights[slots:], heights), default=heights[-1])

    def slots_with_rate(self, rate: float) -> int:
        """In how many slots others used half to one and a half times `rate`, in weight/s.

        If that is less than a weight of 1, a slot with 1 counts. Between two counts that are far
        apart, we take the use for even.
        """
        least, most = SLOT * rate / 2, max(1.0, SLOT * rate * 1.5)
        return sum(least <= b - a <= most for a, b in pairwise(self.heights))

    def seen(self) -> "Curve":
        """Return this curve without the weight that others used before our first count."""
        heights = [max(0, height - self.base) for height in self.heights]
        return Curve(self.fastest, heights, 0, self.since, self.until)

    @property
    def whole(self) -> bool:
        """Whether our counts cover the minute, except less than 10 s (`LATE` / 2) at either end."""
        return self.since < LATE / 2 and self.until > MINUTE - LATE / 2

    def draw(self, into: float, height: int) -> None:
        """Note that others had used `height` by second `into` of the minute.

        The curve rises evenly between two counts. It puts all use before our first count into the
        slot of that count. A curve never falls, because others cannot return weight. So its values
        are never negative, and `rest_if_repeated` may take their square root.
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
        """Weight that others had used by second `into` of the minute.

        Args:
            into: Seconds since the minute began.
            rate: Weight/s to assume after our last count; None for their usual rate.
        """
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


def rest_if_repeated(curve: Curve, into: float, others: int) -> float:
    """How much others will still use of this minute if they repeat an earlier one.

    Args:
        curve: Their curve of the earlier minute.
        into: Seconds since this minute began.
        others: Their use of this minute so far.
    """
    seen, before = curve.at(into), curve.at(max(0.0, into - LATE))
    # Others are late by the weight that they lack compared with that minute, less the part that
    # chance explains. But we no longer expect use that is over `LATE` seconds late.
    late = min(seen - others - CHANCE * math.sqrt(seen), seen - before)
    return curve.at(MINUTE) - seen + max(0.0, late)


def row_of(past: Mapping[int, Curve], k: int, current: Curve) -> Row:
    """Their use of each slot, from the first minute of `past` to our last count of minute `k`.

    After our last count of an earlier minute, and in minutes without counts, we assume the usual
    use: that of the median minute. `past` has the oldest minute first.
    """
    # The median of a few seconds may be that of a burst, so it is not their usual rate. In our
    # first minute there is nothing better, so we take a shorter time.
    least = LATE if past else LATE / 2
    seen = [each for each in past.values() or [current] if each.until - each.since > least]
    calm = sorted(each.calm for each in seen) or [0.0]
    usual, first = SLOT * calm[(len(calm) - 1) // 2], min(past, default=k)
    uses = list[float]()
    for j, curve in [*past.items(), (k, current)]:
        uses += [usual] * (SLOTS * (j - first) - len(uses))
        # We do not know when others used the weight before our first count. It may even be ours,
        # before a restart. So we leave it out if we know enough other minutes, or if it is so much
        # that it is hardly a burst.
        is_much = curve.base > USED_UP / 2 * curve.fastest * MINUTE
        is_unclear = j == first and (is_much or len(past) > ENOUGH)
        uses += curve.rises(usual, keep_all=not is_unclear)
    return Row(usual, uses, SLOTS * (k - first), len(past))


@dataclass(slots=True)
class Forecast:
    """The latest forecast of one bucket. It stays valid while `question` is the same."""

    question: tuple[int, float, int] | None = None
    """The minute, the time in steps of `FORECAST_AGE`, and the weight that others have used."""
    need: float = 0.0
    """Weight that we expect others to use until the minute ends."""
    margin: float = 0.0
    """Weight to keep free in addition, because their use varies by chance."""


@dataclass(slots=True)
class Others:
    """What we know about other clients."""

    curves: dict[int, Curve] = field(default_factory=dict[int, Curve])
    """Their curve of each minute in which we saw them, by minute."""
    expected_until: int = -1
    """The last minute in which we keep room for them; -1 if we never saw them."""
    expected_surge: int = 0
    """Weight that they may use at any moment. A refusal raises it, because others used more than we
    expected. Each minute without a refusal halves it."""
    refused_count: int = 0
    """The count at which the exchange refused us, if that was below the limit; otherwise 0."""

    def expect_until(self, k: int) -> None:
        """Keep room for them until the end of minute `k`, or longer if we already do."""
        self.expected_until = max(self.expected_until, k)

    def past(self, k: int) -> dict[int, Curve]:
        """Their curves of the last `MEMORY` minutes before `k`, by minute, oldest first."""
        known = sorted(self.curves.items())  # a late answer may begin the curve of an older minute
        return {j: curve for j, curve in known if k - MEMORY <= j < k and curve.heights}

    def curve(self, k: int, limit: int) -> Curve:
        """Their curve of minute `k`; an empty curve if we saw nothing."""
        return self.curves.get(k) or Curve(limit / MINUTE)

    def draw(self, k: int, limit: int, into: float, used: int) -> None:
        """Note that they had used `used` of minute `k` by its second `into`."""
        if k not in self.curves:
            self.curves = {j: curve for j, curve in self.curves.items() if j >= k - MEMORY - 1}
            self.curves[k] = Curve(limit / MINUTE)
        self.curves[k].draw(into, used)

    def unseen(self, k: int, limit: int, gap: float) -> float:
        """Weight that they use in `gap` seconds at the highest of their usual rates.

        The rates are those of minute `k` and of the `MEMORY` minutes before it.
        """
        return gap * max(curve.calm for curve in [self.curve(k, limit), *self.past(k).values()])

    def forecast(
        self, k: int, minute: Minute, limit: int, into: float, latest: Forecast
    ) -> tuple[float, float]:
        """Forecast the rest of minute `k`, from its second `into`.

        Returns:
            Weight that they are expected to use; and that weight with a margin, because their use
            varies by chance.
        """
        past, curve = self.past(k), self.curve(k, limit)
        # `minute.others` assumes that the count contains our weight under way. If the count does
        # not contain it yet, others have used that much more. Without an earlier minute, the
        # forecast depends on their rate alone, which would be too low, so we add that weight.
        others = minute.others + (0 if past else minute.under_way)
        question = k, into // FORECAST_AGE, others
        if question != latest.question:
            need, varies = self._rest(k, limit, into, others)
            # A rate that we saw for only a tenth of a minute has ten times the variance.
            spread = 1.0 if past else MINUTE / max(1.0, curve.until)
            latest.question, latest.need = question, max(0.0, min(need, limit - others))
            latest.margin = SIGMA * math.sqrt(varies * spread)
        need = max(latest.need, self.expected_surge - minute.others)
        return need, need + latest.margin

    def _rest(self, k: int, limit: int, into: float, others: int) -> tuple[float, float]:
        """Return how much others will still use of minute `k`, and the part that varies by chance.

        If that part is their steady use, it continues at their usual rate: the highest of the rates
        of this minute, the minute before and the median minute. So a client that has just begun
        gets room, too. The room for bursts covers chance already.
        """
        curve, past, left = self.curve(k, limit), self.past(k), max(0.0, MINUTE - into)
        whole = [each for each in past.values() if each.whole]
        row = row_of(past, k, curve)
        rates = [row.usual / SLOT, even_rate(row, limit)]
        rates += [
            each.calm
            for each in (curve, self.curve(k - 1, limit))
            if each.until - each.since > LATE / 2
        ]
        steady = min(max(rates), limit / MINUTE) * left
        bursts = [] if _are_heavy(whole, limit) else find_bursts(row, limit)
        room = room_for_bursts(row, bursts, into, limit, others) if bursts else 0.0
        # In a minute seen in part, we do not know when others used the weight before our first
        # count, so we leave it out.
        rests = [
            rest_if_repeated(each, into, others)
            for each in whole or [each.seen() for each in past.values()]
        ]
        if not whole:  # we know too little of their minutes, so their mean rate so far counts too
            # `learning` omits counts that our weight under way may make too low. So the curve may
            # end earlier, and show a higher mean rate.
            held = curve.rate * (MINUTE - curve.until) - (others - curve.top)
            rests += [min(others / max(into, 1.0), curve.fastest) * left, held]
        repeated = min(rests) if bursts and whole else max(rests)
        if repeated > steady + room:
            return repeated, repeated
        return steady + room, steady


def _are_heavy(whole: Sequence[Curve], limit: int) -> bool:
    """Whether others used so much of most minutes that they may be copies of us.

    Room for bursts of copies would be wasted: each copy would keep it free, and none would use it.
    """
    tops = sorted(each.top for each in whole)
    return bool(tops) and tops[(len(tops) - 1) // 2] > USED_UP / 2 * limit
