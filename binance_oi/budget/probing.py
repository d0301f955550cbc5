"""Probes: when to probe the exchange's count, and which weight a probe may use.

Pure. The rule of this file: a probe is a request that goes alone, and all others wait for its
count. Clocks only propose when to probe; the count decides. A probe of a full minute uses the
reserve, and never exceeds the limit. A probe of a minute that is reserved for others uses the
weight that we keep free for them.
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
    """Whether we have no count of the minute before: after a start, or after idling."""
    return known.counted_at == UNKNOWN or not known.ledger.minute(ask.likeliest - 1).reported


def begins_with_a_probe(ask: Ask, known: Known) -> bool:
    """Whether the first request of this minute is a probe."""
    if known.is_blind:
        return False
    if known.counted_at != UNKNOWN and known.ledger.minute(ask.likeliest).reported:
        return False
    return is_newcomer(ask, known) or ask.likeliest <= known.others.expected_until


def expects_a_fall(ask: Ask, known: Known) -> bool:
    """Whether to probe for a count that falls within this minute.

    Such a fall shows that the exchange counts the last 60 s. We suspect it when the count did not
    fall at the rollover. Then it looks as if others had used as much as the whole minute before.
    """
    minute, before = (known.ledger.minute(k) for k in (ask.likeliest, ask.likeliest - 1))
    is_expected = ask.likeliest <= known.others.expected_until
    is_possible = is_expected and ask.first == ask.last and minute.used + ask.weight <= known.limit
    is_seen = minute.others + HIDING * known.limit >= before.reported > known.limit / 2
    return is_possible and is_seen and ask.now - known.counted_at > FLIGHT


def is_bearable(ask: Ask, known: Known, k: int) -> bool:
    """Whether the request stays within the limit, with what others may have used unseen."""
    minute = known.ledger.minute(k)
    theirs = known.unseen(ask.now, k) if minute.others else 0.0
    return minute.used + theirs + ask.weight <= known.limit


def _leaves_the_rest(ask: Ask, known: Known, k: int) -> bool:
    """Whether others keep enough room until the end of minute `k` at their usual rate.

    A light probe matters no more than a ping. A heavy probe could take what others are about to
    use.
    """
    if ask.weight <= known.negligible:
        return True
    rest = known.others.unseen(k, known.limit, known.clock.left(ask.now, k))
    return is_bearable(ask._replace(weight=ask.weight + math.ceil(rest)), known, k)


def is_affordable(ask: Ask, known: Known, k: int) -> bool:
    """Whether one request may use the reserve to probe the count of a full minute."""
    minute = known.ledger.minute(k)
    if known.is_blind or minute.booked + ask.weight > ask.share:
        return False
    if k > known.others.expected_until:
        # We are alone, apart from little weight. `used` would be too high here: it may count
        # undecided weight twice, in `reported` and in `unconfirmed`.
        counted = max(minute.booked + minute.others, minute.reported)
        return counted + ask.weight <= known.limit
    if known.is_in_a_crowd(k):  # copies of us send probes into the same reserve
        return minute.used + FROM_RESERVE * ask.reserve / 2 + ask.weight <= known.limit
    return is_bearable(ask, known, k) and _leaves_the_rest(ask, known, k)


def until_full_minute(ask: Ask, known: Known, k: int) -> float:
    """Seconds until a probe of full minute `k` may find room, by its end or by decided weight."""
    minute = known.ledger.minute(k)
    left, since = known.clock.left(ask.now, k), ask.now - known.counted_at
    decided = minute.undecided[0][0] - ask.now if minute.undecided else left
    probe = until_last(ask.now, known, k)
    spent = minute.booked + ask.weight - 1 - ask.budget
    is_cheap = spent < FROM_RESERVE * (ask.reserve - 1)  # the rest of it is for the last probe
    if is_cheap or not known.silent:  # after an answer without a count, probes may show nothing
        probe = min(probe, 0.0 if minute.doubtful else decided)
    if is_cheap:
        probe = min(probe, (left - since) / 2)  # when as much time is left as since the last count
    return min(max(PROBE_PAUSE - since, probe), left)


def until_reserved_minute(ask: Ask, known: Known, k: int, lack: float) -> float:
    """Seconds until a probe of minute `k`, of which others are expected to need `lack` too much.

    All probes of a minute may use `PROBES` of the limit. They use a quarter of that if we have no
    past of others and even the reserve is too little for them. If only the margin is missing, one
    more probe comes after a quarter of the time that was left at the last count.
    """
    clock, past = known.clock, known.others.past(k)
    left, since = clock.left(ask.now, k), max(0.0, ask.now - known.counted_at)
    wait = PROBE_PAUSE - since
    probe = MINUTE * ask.weight / (PROBES * known.limit)
    if lack > ask.reserve and not past:
        probe *= SPARING
    probe -= since
    if lack <= 0.0:
        probe = min(probe, OF_THE_REST * (left + since) - since)
    wait = min(max(wait, probe), left)
    closing = until_last(ask.now, known, k)
    return min(wait, closing) if closing + since > 0.0 else wait


def until_last(now: float, known: Known, k: int) -> float:
    """Seconds until the last probe of minute `k`.

    It moves from minute to minute: we do not know the end of the minute exactly, and never see what
    others use after the last probe.
    """
    clock = known.clock
    return clock.left(now, k) - CLOSING - clock.doubt * (k % 3) / 2
