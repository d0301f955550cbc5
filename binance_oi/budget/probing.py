"""Decides when to send a probe, and how much weight it may use.

Pure. The rule of this file: a probe is a request that we send alone, to read the exchange's count
in its answer. All other requests wait for that answer. Clocks only propose when to probe. The count
decides what to do next. Two kinds of minute need probes:

- A *full* minute has no room left in our books. Its probes use the reserve, and never exceed the
  limit. Their counts show whether a new minute has begun, or whether our books are too high.
- A *reserved* minute has room, but we keep it free for others. Its probes use some of that room.
  Their counts show whether others still need it.
"""

import math

from binance_oi.budget.knowledge import Ask, Known
from binance_oi.budget.server_clock import MINUTE
from binance_oi.budget.tuning import (
    CLOSING,
    FROM_RESERVE,
    OF_THE_REST,
    PROBE_PAUSE,
    PROBES,
    SPARING,
)


def stays_within_limit(ask: Ask, known: Known, k: int) -> bool:
    """Whether the request stays within the limit, even if others used more since our last count."""
    minute = known.ledger.minute(k)
    theirs = known.unseen(ask.now, k) if minute.others else 0.0
    return minute.used + theirs + ask.weight <= known.limit


def is_affordable(ask: Ask, known: Known, k: int) -> bool:
    """Whether one request may use the reserve to probe the count of a full minute."""
    minute = known.ledger.minute(k)
    if known.is_blind or minute.booked + ask.weight > ask.share:
        return False
    if k > known.others.expected_until:
        # We are alone, apart from negligible weight. `used` would be too high here, because it may
        # contain undecided weight twice: in `reported` and in `unconfirmed`.
        counted = max(minute.booked + minute.others, minute.reported)
        return counted + ask.weight <= known.limit
    if known.is_in_a_crowd(k):  # copies of us send probes into the same reserve
        return minute.used + FROM_RESERVE * ask.reserve + ask.weight <= known.limit
    if ask.weight > known.negligible:
        # A heavy probe leaves others what they need until the minute ends, at their usual rate.
        rest = known.others.unseen(k, known.limit, known.clock.left(ask.now, k))
        ask = ask._replace(weight=ask.weight + math.ceil(rest))
    return stays_within_limit(ask, known, k)


def until_full_minute(ask: Ask, known: Known, k: int) -> float:
    """Seconds until the next probe of full minute `k`; 0 or less if it is due.

    A probe may find room in two cases: the minute is over, or a count decides undecided weight. So
    we send one as soon as a count can decide undecided weight. If the last answer had no count, we
    do so only while probes have used less than half of the reserve. While they have used less than
    half, we also send one when as much time is left as has passed since the last count. For
    example, if a count comes 40 s before the end, the probe goes 20 s before the end. The last
    probe goes just before the minute ends.
    """
    minute = known.ledger.minute(k)
    left, since = known.clock.left(ask.now, k), ask.now - known.counted_at
    decided = minute.undecided[0][0] - ask.now if minute.undecided else left
    probe = until_last(ask.now, known, k)
    spent = minute.booked + ask.weight - 1 - ask.budget
    is_cheap = spent < FROM_RESERVE * (ask.reserve - 1)
    if is_cheap or not known.silent:  # if the last answer had no count, the next may have none
        probe = min(probe, 0.0 if minute.doubtful else decided)
    if is_cheap:
        probe = min(probe, (left - since) / 2)
    return min(max(PROBE_PAUSE - since, probe), left)


def until_reserved_minute(ask: Ask, known: Known, lack: float) -> float:
    """Seconds until the next probe of this minute, if it is reserved; 0 or less if it is due.

    All probes of a minute together may use `PROBES` of the limit; only a quarter of that if we know
    no earlier minute of others, and `lack` exceeds the reserve. If there is room for the forecast,
    and only its margin does not fit, a probe comes earlier: after a quarter of the time that was
    left at the last count.

    Args:
        ask: The request.
        known: What we know.
        lack: Weight by which the forecast of others exceeds the room; 0 or less if it fits.
    """
    k, since = ask.likeliest, max(0.0, ask.now - known.counted_at)
    left = known.clock.left(ask.now, k)
    pause = MINUTE * ask.weight / (PROBES * known.limit)  # seconds after the last count
    if lack > ask.reserve and not known.others.past(k):
        pause *= SPARING
    if lack <= 0.0:
        pause = min(pause, OF_THE_REST * (left + since))
    wait = min(max(PROBE_PAUSE, pause) - since, left)
    closing = until_last(ask.now, known, k)
    return min(wait, closing) if closing + since > 0.0 else wait


def until_last(now: float, known: Known, k: int) -> float:
    """Seconds until the last probe of minute `k`; 0 or less if it is due.

    We never see what others use after the last probe, and we do not know exactly when the minute
    ends. So in each of three minutes in a row, we send the last probe at a different time before
    the end.
    """
    error = (known.clock.hi - known.clock.lo) / 2
    return known.clock.left(now, k) - CLOSING - error * (k % 3) / 2
