"""Estimates how much room other clients need that come in bursts, at any second.

Pure. The rule of this file: it knows only what others used in each slot of the last minutes. The
number of their bursts shows how often bursts come. We keep room for so many that more are unlikely
in the rest of the minute; the more time is left, the less likely they must be. If the gaps between
the bursts are about equal, we expect the next one no earlier than after the smallest gap. Once we
have seen three earlier minutes, their use of about 60 s is a bound: the highest, and as much more
as it exceeds the lowest.

Example: 20 bursts of 150 came in 300 s, and 15 s of this minute are left. One burst is likely in
that time. More than four come with a probability of 0.5 %, and more than five with 0.1 %. With 15 s
left we accept 0.2 %. So we keep room for five.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import sub
from typing import NamedTuple

from binance_oi.budget.tuning import BURST, BURST_RISK, BURST_RISK_FOR, ENOUGH, LATE, SLOT
from binance_oi.exchange.limits import WEIGHT

SLOTS = round(WEIGHT.seconds / SLOT)  # slots in a minute


class Row(NamedTuple):
    """What others used in each slot of the minutes that we saw, the current one last."""

    usual: float
    """Their usual use of a slot."""
    uses: list[float]
    """Their use of each slot, up to our last count."""
    begin: int
    """The slot with which the current minute begins."""
    minutes: int
    """How many earlier minutes we saw."""


class Burst(NamedTuple):
    """Slots in which others used much more than usual."""

    begin: int
    """The first of the slots."""
    end: int
    """The slot after the last of them."""
    weight: float
    """Their use above the usual one."""


def find_bursts(row: Row, limit: float) -> list[Burst]:
    """Find the bursts in a row: together over `BURST` of the limit above the usual use.

    Each slot of a burst has over a quarter of that.
    """
    bursts, begin, weight, least = list[Burst](), 0, 0.0, BURST * limit
    for n, use in enumerate([*row.uses, row.usual]):  # the last entry ends a burst that goes on
        if use > row.usual + least / 4:
            begin = begin if weight else n
            weight += use - row.usual
            continue
        if weight > least:
            bursts.append(Burst(begin, n, weight))
        weight = 0.0
    return bursts


def room_for_bursts(
    row: Row, bursts: Sequence[Burst], into: float, limit: float, others: int
) -> float:
    """The room that others need for bursts in the rest of a minute, besides their usual use.

    Args:
        row: Their use of the last minutes.
        bursts: The bursts in it, at least one.
        into: Seconds since the current minute began.
        limit: The limit of a minute.
        others: Their use of the current minute so far.
    """
    sizes = sorted(burst.weight for burst in bursts)
    size, last = sizes[len(sizes) // 2], bursts[-1]
    left, now = WEIGHT.seconds - into, row.begin + into / SLOT
    number = _likely(sum(sizes) / size, max(now * SLOT, 1.0), left, limit / size)
    gap = _gap([burst.begin for burst in bursts])
    if gap:
        number = min(number, _fitting(gap, last.begin, now, row.begin + SLOTS))
    # The last burst may still go on. Then we expect it to become as large as the median burst.
    room = number * size + (max(0.0, size - last.weight) if now < last.end + 1 else 0.0)
    if row.minutes < ENOUGH:
        return room
    # A burst may look one slot early or late, so we take 55 s for the most and 65 s for the least.
    used = [*accumulate(row.uses, initial=0.0)]
    most: float = max(map(sub, used[SLOTS - 1 :], used))
    least: float = min(map(sub, used[SLOTS + 1 :], used))
    bound = most + max(0.0, most - least) - others - row.usual * left / SLOT
    return max(0.0, min(room, bound))


def even_rate(row: Row, limit: float) -> float:
    """Their mean rate without bursts, weight/s: the higher one of this minute and the one before.

    It is a mean, because the median rate of a client that comes every 10 s is 0. We leave out the
    slots in which they used over `BURST` of the limit. The mean is that of at least 20 s (`LATE`).
    """
    minutes = row.uses[max(0, row.begin - SLOTS) : row.begin], row.uses[row.begin :]
    calm = [[use for use in uses if use <= BURST * limit] for uses in minutes]
    return max(sum(uses) / max(LATE, len(uses) * SLOT) for uses in calm)


def _gap(begins: Sequence[int]) -> int:
    """The smallest gap between bursts if the gaps are about equal, in slots; otherwise 0.

    A single gap may be short by chance, so it counts only if it is long.

    Args:
        begins: The slots in which the bursts began.
    """
    gaps = [b - a for a, b in pairwise(begins)]
    is_single = len(gaps) == 1
    if not gaps or (is_single and gaps[0] <= 2 * LATE / SLOT):
        return 0
    # A count may show a burst one slot late, which makes a single gap look longer.
    gap = min(gaps) - is_single
    return gap if max(gaps) - min(gaps) <= min(LATE / SLOT, 1 + gap / 4) else 0


def _fitting(gap: int, last: int, now: float, end: int) -> int:
    """How many bursts fit into the rest of a minute.

    The last one began in slot `last`, and the minute ends before slot `end`. One slot of tolerance
    covers the time until a count shows a burst, and the edge of a slot. Others whose gaps are about
    a minute come only once in each minute.
    """
    due = last + gap - 1
    if gap >= SLOTS - 1:
        due = max(due, (last // SLOTS + 1) * SLOTS)
    return max(0, math.ceil((end - max(due, now)) / gap))


def _likely(seen: float, span: float, left: float, most: float) -> int:
    """How many bursts to keep room for, so that more come with at most the accepted risk.

    In the last `BURST_RISK_FOR` seconds of a minute, the risk is `BURST_RISK`. Earlier it is lower,
    in inverse proportion to the time left, because we may still use the room later.

    Bursts come at random, and we have seen only a few, so their rate is uncertain. Then the number
    of further bursts has a negative binomial distribution. A Poisson distribution would assume that
    we know the rate.

    Args:
        seen: How many bursts came: their weight, in median bursts.
        span: In how many seconds they came.
        left: The seconds in which further bursts may come.
        most: With room for so many, we keep the whole limit free.
    """
    risk = BURST_RISK / max(1.0, left / BURST_RISK_FOR)
    passed = span / (span + left)
    number, chance = 0, passed**seen
    below = chance
    while below < 1.0 - risk and number < most:
        chance *= (seen + number) / (number + 1) * (1.0 - passed)
        number += 1
        below += chance
    return number
