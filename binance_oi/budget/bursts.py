"""Estimates how much room other clients need that come in bursts, at any second.

Pure. The rule of this file: it knows only what others used in each slot of the last minutes. The
number of their bursts shows how often bursts come. We keep room for so many that more are unlikely
in the rest of the minute; the more time is left, the less likely they must be. If the gaps between
the bursts are about equal, we expect the next one no earlier than after the smallest gap. Once we
have seen three minutes, we also expect no more than they lately used in about 60 s. If they also
use much for longer than a burst lasts, we keep room for at least the most that they used in any
span that is as long as the rest of this minute.

Example: 20 bursts of 150 came in 300 s, and 15 s of this minute are left. One burst is likely in
that time. More than four come with a probability of 0.5 %, and more than five with 0.1 %. With 15 s
left we accept 0.2 %. So we keep room for five.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from operator import sub
from typing import NamedTuple

from binance_oi.budget.tuning import BURST, BURST_RISK, BURST_RISK_FOR, BURST_SLOTS, LATE, SLOT
from binance_oi.exchange.limits import WEIGHT

SLOTS = round(WEIGHT.seconds / SLOT)  # slots in a minute


class Row(NamedTuple):
    """What others used in each slot of the minutes that we saw, the current one last."""

    usual: float
    """Their usual use of a slot."""
    uses: list[float]
    """Their use of each slot, up to our last count."""
    since: int
    """The first slot of the newest minutes that we saw without a gap between them."""
    holes: list[int]
    """Slots before which a burst may hide: there was no count for `LATE` / 2 seconds or more before
    or after a rollover, or the first count of a minute showed use by others."""
    begin: int
    """The slot with which the current minute begins."""


class Room(NamedTuple):
    """The room that others need for bursts in the rest of a minute."""

    weight: float
    """Weight, in addition to their usual use."""
    replaces: bool
    """Whether this room replaces the forecast from earlier minutes, which do not show when the
    bursts come. It does so if the next burst is not due in this minute, or if others are erratic:
    the gaps differ, and their use of about 60 s varies by more than two bursts."""


EMPTY, NONE = Row(0.0, [], 0, [], 0), Room(0.0, False)


def room_for_bursts(row: Row, into: float, limit: float, others: int) -> Room:
    """Return the room that others need for bursts.

    Args:
        row: Their use of the last minutes.
        into: Seconds since the current minute began.
        limit: The limit of a minute.
        others: Their use of the current minute so far.
    """
    bursts, ends = _bursts(row, BURST * limit)
    room = _room_for_short(row, bursts, [*row.holes, *ends], into, limit, others)
    if ends:
        # We cannot count the bursts within longer use, so the earlier minutes still decide, too.
        room = Room(max(room.weight, _room_for_long(row, into, others)), replaces=False)
    return room


def _room_for_short(
    row: Row,
    bursts: Sequence[tuple[int, float]],
    holes: Sequence[int],
    into: float,
    limit: float,
    others: int,
) -> Room:
    """The room for as many bursts as are likely, from the bursts and holes of a row."""
    if not bursts:
        return NONE
    seen = [(begin, size) for begin, size in bursts if begin >= row.since]
    sizes = sorted(size for _, size in seen or bursts)
    size, left, now = sizes[len(sizes) // 2], WEIGHT.seconds - into, row.begin + into / SLOT
    gap, is_sure = _gap([begin for begin, _ in seen], holes)
    fitting = _fitting(gap, seen[-1][0], now, row.begin + SLOTS) if gap else math.inf
    number, span = sum(size for _, size in bursts) / size, max(now * SLOT, 1.0)
    weight = min(_likely(number, span, left, limit / size), fitting) * size
    is_over = fitting == 0 and is_sure and seen[-1][0] + BURST_SLOTS <= now
    if len(row.uses) - row.since < 3 * SLOTS:
        return Room(weight, is_over)
    # A burst on the edge of a slot may look one slot early or late.
    used = [*accumulate(row.uses[row.since :], initial=0.0)]
    most, least = max(map(sub, used[SLOTS - 1 :], used)), min(map(sub, used[SLOTS + 1 :], used))
    varies = max(0.0, most - least)
    is_erratic = fitting == math.inf and varies > 2 * size
    bound = max(0.0, most + varies - others - row.usual * left / SLOT)
    return Room(min(weight, bound), is_over or is_erratic)


def _room_for_long(row: Row, into: float, others: int) -> float:
    """The room for use that goes on for longer than a burst, in addition to their usual use.

    It is the most that they used in any span as long as the rest of the minute. With this room,
    they use no more of this minute than in the busiest 55 s. So use that comes once a minute gets
    no room for a second time.
    """
    used, left = [*accumulate(row.uses, initial=0.0)], WEIGHT.seconds - into
    rest, minute = (
        max(map(sub, used[slots:], used), default=used[-1])
        for slots in (math.ceil(left / SLOT), SLOTS - 1)
    )
    return max(0.0, min(rest, minute - others) - row.usual * left / SLOT)


def even_rate(row: Row, most: float) -> float:
    """Their mean rate without bursts, weight/s: the higher one of this minute and the one before.

    It is a mean, because the median rate of a client that comes every 10 s is 0. We leave out the
    slots in which they used more than `most`. The mean is that of at least 20 s (`LATE`).
    """
    minutes = row.uses[max(0, row.begin - SLOTS) : row.begin], row.uses[row.begin :]
    calm = [[use for use in uses if use <= most] for uses in minutes]
    return max(sum(uses) / max(LATE, len(uses) * SLOT) for uses in calm)


def _bursts(row: Row, least: float) -> tuple[list[tuple[int, float]], list[int]]:
    """Find bursts: more than `least` weight above the usual use, within at most `BURST_SLOTS`.

    Use that goes on for longer is no burst. But a burst may hide in such use. Or it may come
    between two counts that are far apart: there the curve rises evenly.

    Returns:
        The slot in which each burst begins, with its weight; and the slots with which longer use
        ends.
    """
    bursts, ends = list[tuple[int, float]](), list[int]()
    for begin, end, weight in _stretches(row, least / 4):
        if weight > least and end - begin <= BURST_SLOTS:
            bursts.append((begin, weight))
        elif weight > least:
            ends.append(end)
    return bursts, ends


def _stretches(row: Row, least: float) -> Iterator[tuple[int, int, float]]:
    """Find slots in a row whose use exceeds the usual one by more than `least`.

    Yields:
        The first slot, the slot after the last one, and the sum of what exceeds the usual use.
    """
    begin, weight, most = -1, 0.0, row.usual + least
    for n, use in enumerate(row.uses):
        if use > most:
            begin = n if begin < 0 else begin
            weight += use - row.usual
        elif begin >= 0:
            yield begin, n, weight
            begin, weight = -1, 0.0
    if begin >= 0:
        yield begin, len(row.uses), weight


def _gap(begins: Sequence[int], holes: Sequence[int]) -> tuple[int, bool]:
    """The smallest gap between bursts, if the gaps are about equal.

    A gap in which a burst may hide may be longer than the others. A single gap may be short by
    chance, so it counts only if it is long.

    Args:
        begins: The slots in which the bursts began.
        holes: Slots before which a burst may hide.

    Returns:
        Slots, or 0 if the gaps differ or are unknown; and whether we know at least two gaps.
    """
    ends = [*pairwise(begins)]
    known = [b - a for a, b in ends if not any(a < hole <= b for hole in holes)]
    is_sure = len(known) > 1
    if not is_sure and sum(known) <= 2 * LATE / SLOT:
        return 0, False
    # A count may show a burst one slot late, which makes a single gap look longer.
    gap = min(known) - (not is_sure)
    differ = max(known) - min(b - a for a, b in ends)
    return (gap if differ <= min(LATE / SLOT, 1 + gap / 2) else 0), is_sure


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
