"""May a request be sent now? A list of rules decides; the first rule that answers wins.

Pure. The rule of this file: the rules only read. They change nothing but `Ask.forecast`, which
stores the latest forecast.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from binance_oi.budget import probing
from binance_oi.budget.knowledge import UNKNOWN, Ask, Known
from binance_oi.budget.ledger import Minute
from binance_oi.budget.server_clock import MINUTE
from binance_oi.budget.tuning import (
    BUSY,
    CROWD,
    FAIR,
    FLIGHT,
    FROM_RESERVE,
    GROWS,
    HIDING,
    LEAST_WAIT,
    MEMORY,
    OURS,
    PACE,
    POLL,
    PROBE_PAUSE,
    PROBES,
    RELEASE,
    SINGLE_GROWS,
    SINGLE_LEAST,
    UNSEEN_AT_ONCE,
)
from binance_oi.budget.usage import Reason, Wait


class Send(NamedTuple):
    """The request may be sent now."""


class Probe(NamedTuple):
    """The request may be sent now, alone: all other requests wait for the count in its answer."""


Verdict = Send | Probe | Wait
Rule = Callable[[Ask, Known], Verdict | None]  # None: the rule leaves the decision to the next one


def in_cooldown(ask: Ask, known: Known) -> Verdict | None:
    """Send nothing until the cooldown is certainly over."""
    if known.is_held(ask.now):
        wait = known.cooldown_until - ask.now - known.clock.lo
        end = known.clock.when_over(known.cooldown_until) - ask.now
        return Wait(wait, Reason.COOLDOWN, end)
    return None


def probe_pending(ask: Ask, known: Known) -> Verdict | None:
    """Wait for the answer to a probe, at most `POLL` seconds at a time."""
    if known.probe_ends_at > ask.now:
        end = known.probe_ends_at - ask.now
        return Wait(min(end, POLL), Reason.PROBE_PENDING, end)
    return None


def every_limit_has_room(ask: Ask, known: Known) -> Verdict | None:
    """Wait while another limit of the exchange has no room, such as a limit per 10 s."""
    longest = 0.0
    for window in known.windows:
        cap = window.cap(ask.reserve, ask.share, known.limit)
        seconds = window.until_room(ask.now, ask.weight, cap)
        if seconds is None:
            return Wait(None, Reason.TOO_HEAVY)
        longest = max(longest, seconds)
    return Wait(longest, Reason.OTHER_LIMIT) if longest > 0.0 else None


def too_heavy(ask: Ask, known: Known) -> Verdict | None:
    """Refuse a request that does not fit even into an empty minute."""
    if ask.weight > min(ask.budget, ask.share):
        return Wait(None, Reason.TOO_HEAVY)
    return None


def probe_for_a_fall(ask: Ask, known: Known) -> Verdict | None:
    """Probe to see whether the count falls within a minute, which shows a rolling window.

    The count of a minute never falls. If it does, the exchange counts the last 60 s instead. We
    suspect a window of 60 s if the count did not fall at the rollover. In our books, the weight of
    the minute before then looks like use of this minute by others. Copies of us that use up a
    minute within seconds look the same, and each of them sends such probes. So these probes leave
    half of the reserve: otherwise those of all copies could exceed the limit together.
    """
    minute, before = (known.ledger.minute(k) for k in (ask.likeliest, ask.likeliest - 1))
    is_expected = ask.likeliest <= known.others.expected_until
    most = known.limit - FROM_RESERVE * ask.reserve
    is_possible = is_expected and ask.first == ask.last and minute.used + ask.weight <= most
    is_seen = minute.others + HIDING * known.limit >= before.reported > known.limit / 2
    is_due = ask.now - known.counted_at > FLIGHT
    return Probe() if is_possible and is_seen and is_due else None


def every_minute_has_room(ask: Ask, known: Known) -> Verdict | None:
    """Wait while a minute that may count the request is full; probe to see whether it is over.

    Near a rollover, also wait if others may have used up the rest of the old minute unseen.
    """
    for k in range(ask.first, ask.last + 1):
        minute = known.ledger.minute(k)
        if minute.used + ask.weight > ask.budget:
            return _full(ask, known, k, Reason.MINUTE_FULL)
        if minute.booked + ask.weight > ask.share:
            return _full(ask, known, k, Reason.SHARE)
        if k < ask.likeliest and not probing.stays_within_limit(ask, known, k):
            return Wait(POLL, Reason.MINUTE_UNCERTAIN, PROBE_PAUSE)
    return None


def _full(ask: Ask, known: Known, k: int, reason: Reason) -> Verdict:
    """Wait until minute `k`, which is full, may have room; or probe it."""
    wait = MINUTE * (k + 1) - ask.now - known.clock.lo
    end = known.clock.when_over(MINUTE * (k + 1)) - ask.now
    # The exchange may count the probe in a later minute, so that minute must have room for it too.
    if all(probing.is_affordable(ask, known, j) for j in range(k, ask.last + 1)):
        wait = probing.until_full_minute(ask, known, k)
        if wait <= 0.0:
            return Probe()
    if known.ledger.minute(k).under_way > 0:  # an answer with a count may come at any time
        wait = min(POLL, wait)
    else:
        wait = _until_decided(ask._replace(weight=1), known, k, wait)
    wait = max(wait, LEAST_WAIT)
    return Wait(wait, reason, max(wait, _until_room(ask, known, k, end)))


def _until_decided(ask: Ask, known: Known, k: int, end: float) -> float:
    """Seconds until a count can decide undecided weight of full minute `k`; at most `end`.

    No further answer comes for undecided weight. The count of a later request decides it, if there
    is still room for `ask` as a probe.
    """
    minute = known.ledger.minute(k)
    if minute.undecided and probing.is_affordable(ask, known, k):
        return min(max(minute.undecided[0][0] - ask.now, PROBE_PAUSE), end)
    return end


def _until_room(ask: Ask, known: Known, k: int, end: float) -> float:
    """Seconds until full minute `k` may have room: until its end, or less if answers make room.

    An answer makes room in two cases: it shows that another minute counted the request, or that the
    reported count already contained the request's weight. The second case does not help if our
    booked weight and that of others fill this minute. The first case is possible while requests
    near the rollover are under way: they are booked to two minutes.
    """
    minute = known.ledger.minute(k)
    booked = minute.booked + ask.weight
    lack = max(minute.used + ask.weight - ask.budget, booked - ask.share)
    is_booked = booked + minute.others > ask.budget or booked > ask.share
    is_near_rollover = ask.first < ask.last or known.ledger.minute(k - 1).under_way > 0
    if minute.under_way >= lack and (is_near_rollover or not is_booked):
        return min(end, PROBE_PAUSE)
    return _until_decided(ask, known, k, end)


def probe_first(ask: Ask, known: Known) -> Verdict | None:
    """Probe a minute before using it, if we know no count of it and others may have used it.

    They may have used it if we know no count of the minute before either, or if we expect others.
    """
    minute, before = (known.ledger.minute(k) for k in (ask.likeliest, ask.likeliest - 1))
    is_alone = before.reported > 0 and ask.likeliest > known.others.expected_until
    is_known = known.counted_at != UNKNOWN and (minute.reported > 0 or is_alone)
    return None if is_known or known.is_blind else Probe()


def leave_room_for_single_calls(ask: Ask, known: Known) -> Verdict | None:
    """Let bulk work wait, so that single calls keep their part of the minute.

    In the last `RELEASE` seconds of the minute that part shrinks to nothing.
    """
    part = _part_of_single_calls(ask, known)
    room = ask.budget - known.ledger.minute(ask.likeliest).used - ask.weight
    if not part or room >= part:
        return None
    wait = known.clock.left(ask.now, ask.likeliest) - RELEASE * room / part
    return Wait(max(wait, LEAST_WAIT), Reason.SINGLE_CALLS) if wait > 0.0 else None


def _part_of_single_calls(ask: Ask, known: Known) -> int:
    """Weight that bulk work leaves for single calls, by their use of this minute and recent ones.

    For a single call it is 0, because a single call need not wait for others of its kind.
    """
    if not ask.bulk:
        return 0
    k = ask.likeliest
    minutes = [known.ledger.minute(j) for j in range(k - MEMORY, k + 1)]
    used = max(minute.single for minute in minutes)
    if not used:
        return 0
    most = max(ask.interactive, *(minute.interactive for minute in minutes))
    part = max(SINGLE_GROWS * used, int(SINGLE_LEAST * known.limit))
    return max(0, min(part, most) - minutes[-1].single)


def spread_beside_copies(ask: Ask, known: Known) -> Verdict | None:
    """Send slowly beside other clients of this library, so that late ones find room too."""
    k = ask.likeliest
    is_busy = known.weight_of_copies(k - 1) > BUSY * known.limit
    if not (_keeps_room(ask, known) and is_busy):
        return None
    ours = known.ledger.minute(k).booked + ask.weight - OURS * known.limit
    wait = ours / (PACE * known.limit) - known.clock.into(ask.now, k)
    return Wait(max(wait, LEAST_WAIT), Reason.OTHERS) if wait > 0.0 else None


def wait_for_first_count(ask: Ask, known: Known) -> Verdict | None:
    """Before a minute's first count, send little if two minutes together may exceed the budget.

    The two are this minute and the one before it. The first count shows whether the exchange began
    to count from 0 again. If instead it counts the last 60 s, both minutes draw on the same limit.
    """
    minute, before = (known.ledger.minute(k) for k in (ask.likeliest, ask.likeliest - 1))
    if minute.reported or known.is_blind or before.used + minute.used + ask.weight <= ask.budget:
        return None
    is_much = minute.under_way > 0 and minute.under_way + ask.weight > UNSEEN_AT_ONCE
    return Wait(POLL, Reason.PROBE_PENDING, PROBE_PAUSE) if is_much else None


def begin_carefully(ask: Ask, known: Known) -> Verdict | None:
    """Send little while we know too little about this address: after a start, or after a ban."""
    k, minute = ask.likeliest, known.ledger.minute(ask.likeliest)
    if known.careful_since == math.inf and not minute.under_way:
        return None  # careful sending begins with this request
    if ask.now >= known.careful_until:
        return None  # almost always, so nothing is computed
    left = min(1.0, known.clock.left(ask.now, k) / RELEASE)
    ours = minute.booked + ask.weight + left * _part_of_single_calls(ask, known)
    wait = known.until_allowed(ask.now, k, ours, ask.budget)
    return Wait(max(wait, POLL), Reason.CAUTION) if wait > 0.0 else None


def leave_room_for_others(ask: Ask, known: Known) -> Verdict | None:
    """Keep free the weight that we expect others to use until the minute ends.

    A small part of the minute is ours, however much they need.
    """
    k, minute = ask.likeliest, known.ledger.minute(ask.likeliest)
    if not _keeps_room(ask, known):
        return None
    crowded = _is_crowded(ask, known, minute)
    if crowded and ask.now - known.counted_at < PROBE_PAUSE:
        return Wait(POLL, Reason.OTHERS, PROBE_PAUSE)
    room = ask.budget - minute.used - ask.weight - _part_of_single_calls(ask, known)
    need, most = _kept(ask, known, minute)
    fits = not crowded and room >= most
    if not fits and known.unseen(ask.now, k) > room:
        return Wait(PROBE_PAUSE, Reason.OTHERS)
    if fits or (not crowded and _is_our_part(ask, known)):
        # After a refusal below the limit, requests above the refused count go one at a time.
        return Probe() if 0 < known.others.refused_count < minute.used + ask.weight else None
    wait = probing.until_reserved_minute(ask, known, need - room)
    return Wait(wait, Reason.OTHERS) if wait > 0.0 else Probe()


def _keeps_room(ask: Ask, known: Known) -> bool:
    """Whether to keep room for others. Without counts no forecast is possible."""
    return ask.likeliest <= known.others.expected_until and not known.is_blind


def _is_crowded(ask: Ask, known: Known, minute: Minute) -> bool:
    """Whether too much of our weight is under way.

    A count may or may not contain that weight, so the same amount of use by others may stay hidden.
    """
    hiding = CROWD if known.is_in_a_crowd(ask.likeliest - 1) else HIDING
    most = max(ask.weight, int(hiding * (ask.budget - minute.reported)))
    return minute.under_way + ask.weight > most


def _kept(ask: Ask, known: Known, minute: Minute) -> tuple[float, float]:
    """Weight to keep free for others; and that weight with a margin for chance and our probes."""
    k = ask.likeliest
    into = known.clock.into(min(ask.now, known.counted_at), k)
    need, most = known.others.forecast(k, minute, known.limit, into, ask.forecast)
    # We rarely send all of the probes that a minute allows, so we keep half of their weight free.
    probes = PROBES * known.limit * known.clock.left(ask.now, k) / MINUTE / 2
    return need, most + probes


def _is_our_part(ask: Ask, known: Known) -> bool:
    """Whether the request is within our own part of the minute, which others cannot take.

    Without such a part, others would use more every minute, until nothing is left for us. The part
    is at most the weight that we used in the minute before. So only our probes make it grow, slowly
    enough for others to adapt. Beside other clients of this library, the part is larger and grows
    each minute until all have equal parts.
    """
    k, others = ask.likeliest, known.others
    ours = known.ledger.minute(k).booked + ask.weight + _part_of_single_calls(ask, known)
    if known.weight_of_copies(k - 1):
        most = max(known.ledger.minute(j).booked for j in range(k - MEMORY, k))
        return ours <= min(FAIR * known.limit, most + GROWS * known.limit)
    if others.expected_surge or not others.past(k):
        return False
    return ours <= min((OURS - PROBES) * known.limit, known.ledger.minute(k - 1).booked)


RULES: tuple[Rule, ...] = (
    in_cooldown,
    probe_pending,
    every_limit_has_room,
    too_heavy,
    probe_for_a_fall,
    every_minute_has_room,
    probe_first,
    leave_room_for_single_calls,
    spread_beside_copies,
    wait_for_first_count,
    begin_carefully,
    leave_room_for_others,
)


def limit_weight_under_way(ask: Ask, known: Known) -> Verdict | None:
    """Limit our weight under way in a rolling window, because that weight hides use by others."""
    flying = sum(known.ledger.minute(k).under_way for k in {ask.first, ask.last})
    for window in (window for window in known.windows if window.is_minute):
        room = window.cap(ask.reserve, ask.share, known.limit) - window.used(ask.now)
        if flying > 0 and flying + ask.weight > HIDING * room:
            return Wait(POLL, Reason.OTHERS)
    return None


ROLLING: tuple[Rule, ...] = (
    *(in_cooldown, probe_pending, every_limit_has_room, too_heavy, probe_first),
    limit_weight_under_way,
)
"""The rules while the exchange seems to count the last 60 s: one window replaces the minutes."""


def decide(ask: Ask, known: Known) -> Verdict:
    """Return the answer of the first rule that has one; `Send` if no rule has one."""
    for rule in ROLLING if known.is_rolling(ask.likeliest) else RULES:
        verdict = rule(ask, known)
        if verdict is not None:
            return verdict
    return Send()
