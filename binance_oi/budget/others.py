"""Forecasts how much weight other clients on this IP address will still use of a minute.

Pure. The rule of this file: it does not model who the others are. A bot that polls every 20 s, a
bot that wakes at second 30, a steady stream and a copy of this library all repeat within a minute
or so. So each minute keeps a `Curve`: how much others had used at each second. To forecast the rest
of a minute, we compare the minute with each of the last five, and keep the highest forecast. From
each of these minutes, we expect two kinds of use to come again: the use after the same second, and
earlier use that the current minute still lacks, because it may only be late. If we have not seen a
whole minute yet, or if others use more than in any minute that we saw, we also expect them to
continue at their mean rate so far.

Example: in the last minute others used 300 by second 20, and 1000 by its end. Now it is second 20,
and they have used 200. We expect the 700 that followed second 20 in the last minute. Of the 100
that this minute lacks, chance explains 35. We expect the other 65 too, because they may be late.

A client with another rhythm, such as every 45 s, comes at other seconds in each minute. So if
others come in bursts, we also keep room for the bursts that are likely in the rest of the minute.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from operator import sub

from binance_oi.budget.bursts import EMPTY, NONE, SLOTS, Room, Row, even_rate, room_for_bursts
from binance_oi.budget.ledger import Minute
from binance_oi.budget.tuning import (
    BURST,
    CHANCE,
    FORECAST_AGE,
    LATE,
    MEMORY,
    SIGMA,
    SLOT,
    UNSEEN,
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


def rest_if_repeated(curve: Curve, into: float, others: int, rate: float) -> float:
    """How much others will still use of this minute if they repeat an earlier one.

    Args:
        curve: Their curve of the earlier minute.
        into: Seconds since this minute began.
        others: Their use of this minute so far.
        rate: Weight/s to assume in the earlier minute from our last count to its end.
    """
    whole, now, seen = curve.at(MINUTE, rate), curve.at(into, rate), curve.at(into, 0.0)
    before = curve.at(max(0.0, into - LATE), 0.0)
    if into > curve.since + UNSEEN * (MINUTE - curve.since):
        # We do not know when others used the weight before our first count. This late in the
        # minute, we no longer expect any of that weight.
        before = max(before, curve.base)
    due = whole - now
    # Others are late by the weight that they lack compared with that minute, less the part that
    # chance explains. But we no longer expect use that is over `LATE` seconds late.
    late = max(0.0, min(seen - others - CHANCE * math.sqrt(seen), seen - before))
    rest = due + late
    if others < before and curve.since < into - LATE:  # they use less than in that minute
        rest -= min(rest, curve.calm * (MINUTE - into + LATE)) * (1.0 - others / before)
    return rest


def rest_if_steady(current: Curve, into: float, others: int) -> float:
    """How much others will still use of a minute if they continue at their mean rate.

    The result is the higher of two forecasts: one from their mean rate up to now, and one from
    their mean rate up to our last count.

    Args:
        current: Their curve of this minute.
        into: Seconds since the minute began.
        others: Their use of it so far.
    """
    rate = min(others / max(into, 1.0), current.fastest)
    held = current.rate * (MINUTE - current.until) - (others - current.top)
    return max(rate * (MINUTE - into), held)


def expected_rest(past: Collection[Curve], current: Curve, into: float, others: int) -> float:
    """The most that others are expected to use in the rest of a minute.

    Args:
        past: Their curves of the minutes before this one, oldest first.
        current: Their curve of this minute.
        into: Seconds since the minute began.
        others: Their use of it so far.
    """
    most, known = 0.0, -1.0
    whole = any(curve.whole for curve in past)
    for curve in past:
        rate = curve.calm if curve.until - curve.since > LATE / 2 else curve.rate
        # Once our counts cover a whole minute, we ignore the use before our first count in every
        # minute that they cover only in part.
        if whole and not curve.whole:
            curve = curve.seen()
            rate = curve.calm if curve.until - curve.since > SLOT else 0.0
        most = max(most, rest_if_repeated(curve, into, others, rate))
        known = max(known, curve.at(min(MINUTE, into + LATE), rate))
    if others > known or not whole:
        most = max(most, rest_if_steady(current, into, others))
    return most


def rest_in_each(past: Collection[Curve], into: float, others: int) -> float:
    """The least that others will still use if they repeat an earlier minute that we saw whole.

    For the arguments, see `expected_rest`.
    """
    rests = [rest_if_repeated(each, into, others, each.calm) for each in past if each.whole]
    return min(rests, default=0.0)


def row_of_past(minutes: Mapping[int, Curve], k: int) -> Row:
    """Their use of each slot of the minutes that we saw before minute `k`.

    After our last count of a minute, we assume the usual use: that of the median minute.

    Args:
        minutes: Their curves by minute, oldest first.
        k: The current minute.
    """
    # The median of a few seconds may be that of a burst, so it is not their usual rate.
    calm = sorted(c.calm for c in minutes.values() if c.until - c.since > LATE) or [0.0]
    row = Row(calm[(len(calm) - 1) // 2] * SLOT, [], 0, [], 0)
    last = -1
    for j, curve in minutes.items():
        row = _and_minute(row, curve, is_next=last == j - 1)
        uses = row.uses + [row.usual] * (row.begin + SLOTS - len(row.uses))
        holes = [*row.holes, len(uses)] if curve.until <= MINUTE - LATE / 2 else row.holes
        row, last = row._replace(uses=uses, begin=len(uses), holes=holes), j
    return row if last == k - 1 else row._replace(since=row.begin)


def _and_minute(row: Row, curve: Curve, *, is_next: bool = True) -> Row:
    """Add a minute to a row; `is_next` if we saw the minute before it."""
    since = row.since if is_next else row.begin
    holes, first = row.holes, row.begin + math.ceil(curve.since / SLOT)
    is_hidden = curve.base > 0 and (since == row.begin or curve.since > LATE / 2)
    if is_hidden:
        holes = [*holes, first - 1, first]  # we do not know the gaps before and after that use
    # So much use before our first count is hardly a burst. We may have used it before a restart.
    is_much = curve.base > USED_UP / 2 * curve.fastest * MINUTE
    rises = curve.rises(row.usual, keep_all=not (is_hidden and is_much))
    return Row(row.usual, [*row.uses, *rises], since, holes, row.begin)


@dataclass(slots=True)
class Forecast:
    """The latest forecast of one bucket. It stays valid while `question` is the same."""

    question: tuple[int, float, int] | None = None
    """The minute, the time in steps of `FORECAST_AGE`, and the weight that others have used."""
    need: float = 0.0
    """Weight that we expect others to use until the minute ends."""
    bursts: float = 0.0
    """Weight that they may use until then in bursts and at their usual rate; 0 without bursts."""
    most_of_bursts: float = 0.0
    """`bursts`, with a margin because their usual use varies by chance."""
    past: tuple[object, ...] = ()
    """What `row` depends on: the current minute, and where each earlier curve ends."""
    row: Row = EMPTY
    """Their use of each slot of the earlier minutes."""


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
        """Their curves of the last `MEMORY` minutes before `k`, by minute."""
        known = self.curves.items()
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
            latest.question = question
            room, steady = self._room_for_bursts(k, limit, into, others, latest)
            most = max(0.0, limit - others)
            # The room for bursts covers chance already, but not that of their steady use.
            latest.bursts = min(room.weight + steady, most)
            latest.most_of_bursts = min(latest.bursts + SIGMA * math.sqrt(steady), most)
            if room.replaces:
                latest.need = max(steady, rest_in_each(past.values(), into, others))
            else:
                latest.need = expected_rest(past.values(), curve, into, others)
        # A rate that we saw for only a tenth of a minute has ten times the variance.
        spread = 1.0 if past else MINUTE / max(1.0, curve.until)
        margin = SIGMA * math.sqrt(latest.need * spread)
        need = max(latest.need, self.expected_surge - minute.others)
        return max(need, latest.bursts), max(need + margin, latest.most_of_bursts)

    def _room_for_bursts(
        self, k: int, limit: int, into: float, others: int, latest: Forecast
    ) -> tuple[Room, float]:
        """Return the room for bursts, and the use of others at their usual rate; 0 without bursts.

        That rate is the highest of this minute, the minute before and the median minute. So a
        client that has just begun gets room, too.
        """
        curve, past = self.curve(k, limit), self.past(k)
        tops = sorted(each.top for each in past.values()) or [curve.top]
        if tops[(len(tops) - 1) // 2] > USED_UP / 2 * limit:
            return NONE, 0.0  # maybe copies of us: each would keep room that none would use
        seen = (k, *((j, each.until, each.top) for j, each in past.items()))
        if seen != latest.past:
            latest.past, latest.row = seen, row_of_past(past, k)
        usual = latest.row.usual if past else curve.calm * SLOT
        row = _and_minute(latest.row._replace(usual=usual), curve)
        room = room_for_bursts(row, into, limit, others)
        if room is NONE:
            return room, 0.0
        last, even = self.curve(k - 1, limit), even_rate(row, BURST * limit)
        rate = min(max(curve.calm, last.calm, usual / SLOT, even), limit / MINUTE)
        return room, rate * (MINUTE - into)
