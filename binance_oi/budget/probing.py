"""Probes: when to look at the exchange's count, and who pays for it.

Pure. The rule of this file: a probe is a request that goes alone, and everyone waits for its count.
Clocks only propose when to look, and the count decides. A probe of a full minute is paid for with
the reserve, never with more than the limit. A probe of a minute that is kept for others is paid
for with what is kept for them.
"""

import math

from binance_oi.budget.knowledge import UNKNOWN, Ask, Known
from binance_oi.budget.server_clock import MINUTE
from binance_oi.budget.tuning import (
    CLOSING,
    FLIGHT,
    FROM_RESERVE,
    HIDING,
    OF_THE_REST,
    PROBE_PAUSE,
    PROBES,
    SPARING,
)


def is_newcomer(ask: Ask, known: Known) -> bool:
    """Whether no count has shown the minute before: after a start, or long idleness."""
    return known.counted_at == UNKNOWN or not known.ledger.minute(ask.likeliest - 1).reported


def begins_with_a_probe(ask: Ask, known: Known) -> bool:
    """Whether the first request of this minute goes alone."""
    if known.is_blind:
        return False
    if known.counted_at != UNKNOWN and known.ledger.minute(ask.likeliest).reported:
        return False
    return is_newcomer(ask, known) or ask.likeliest <= known.others.expected_until


def expects_a_fall(ask: Ask, known: Known) -> bool:
    """Whether to look for a count that falls in the middle of this minute, which shows that the
    exchange counts the last 60 s: it did not fall when the minute began, as if others had used
    all of the minute before once more."""
    minute, before = (known.ledger.minute(k) for k in (ask.likeliest, ask.likeliest - 1))
    is_expected = ask.likeliest <= known.others.expected_until
    is_possible = is_expected and ask.first == ask.last and minute.used + ask.weight <= known.limit
    is_seen = minute.others + HIDING * known.limit >= before.reported > known.limit / 2
    return is_possible and is_seen and ask.now - known.counted_at > FLIGHT


def is_bearable(ask: Ask, known: Known, k: int) -> bool:
    """Whether the limit bears it, after what others may have used of minute `k` unseen."""
    minute = known.ledger.minute(k)
    theirs = known.unseen(ask.now, k) if minute.others else 0.0
    return minute.used + theirs + ask.weight <= known.limit


def _leaves_the_rest(ask: Ask, known: Known, k: int) -> bool:
    """Whether others have room until the end of minute `k`, if they go on calmly.

    A light probe matters no more than a ping. A heavy one would take what others are about to use.
    """
    if ask.weight <= known.few:
        return True
    rest = known.others.unseen(k, known.limit, known.clock.left(ask.now, k))
    return is_bearable(ask._replace(weight=ask.weight + math.ceil(rest)), known, k)


def is_affordable(ask: Ask, known: Known, k: int) -> bool:
    """Whether one request may go into the reserve, to look at the count of a full minute."""
    minute = known.ledger.minute(k)
    if known.is_blind or minute.booked + ask.weight > ask.share:
        return False
    if k > known.others.expected_until:
        # We are alone, but for a few. Not `used`: `reported + unconfirmed` holds twice what was
        # answered undecided.
        counted = max(minute.booked + minute.others, minute.reported)
        return counted + ask.weight <= known.limit
    if known.is_in_a_crowd(k):  # copies of us use nothing but the reserve, for their probes
        return minute.used + FROM_RESERVE * ask.reserve / 2 + ask.weight <= known.limit
    return is_bearable(ask, known, k) and _leaves_the_rest(ask, known, k)


def until_full_minute(ask: Ask, known: Known, k: int) -> float:
    """Seconds until a probe of full minute `k`: its end, or what is undecided, may give room."""
    minute = known.ledger.minute(k)
    left, since = known.clock.left(ask.now, k), ask.now - known.counted_at
    decided = minute.undecided[0][0] - ask.now if minute.undecided else left
    probe = until_last(ask.now, known, k)
    spent = minute.booked + ask.weight - 1 - ask.budget
    is_cheap = spent < FROM_RESERVE * (ask.reserve - 1)  # what is left of it is for the end
    if is_cheap or not known.silent:  # many probes may show nothing
        probe = min(probe, 0.0 if minute.doubtful else decided)
    if is_cheap:
        probe = min(probe, (left - since) / 2)  # so that it comes when as much is left as has gone
    return min(max(PROBE_PAUSE - since, probe), left)


def until_reserved_minute(ask: Ask, known: Known, k: int, lack: float) -> float:
    """Seconds until a probe of minute `k`, of which others are expected to need `lack` more than
    there is.

    All probes of a minute may use `PROBES`; a quarter of it where we have just come and even the
    reserve is not enough. Where only the margin is in the way, one more may come after a third of
    the time that is left then.
    """
    clock, past = known.clock, known.others.past(k)
    left, since = clock.left(ask.now, k), max(0.0, ask.now - known.counted_at)
    wait = PROBE_PAUSE - since
    probe = MINUTE * ask.weight / (PROBES * known.limit)
    if lack > ask.reserve and not past:
        probe *= SPARING
    probe -= since
    if lack <= 0.0:
        # After this part of the time that was left at the last count.
        probe = min(probe, OF_THE_REST * (left + since) - since)
    wait = min(max(wait, probe), left)
    closing = until_last(ask.now, known, k)
    return min(wait, closing) if closing + since > 0.0 else wait


def until_last(now: float, known: Known, k: int) -> float:
    """Seconds until the last probe of minute `k`: sooner or later from minute to minute, for its
    end is not known exactly, and what others use after the last probe is never seen."""
    clock = known.clock
    return clock.left(now, k) - CLOSING - clock.doubt * (k % 3) / 2
