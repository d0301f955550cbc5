"""What the budget learns from answers and refusals.

Pure. The rule of this file: within a minute, a count never lowers `reported`. `attribution` finds
the minute of a count. If two minutes are possible, we take the count in the way that lets us send
less.
"""

from binance_oi.budget.attribution import attribute
from binance_oi.budget.knowledge import UNKNOWN, Known
from binance_oi.budget.ledger import Minute
from binance_oi.budget.server_clock import MINUTE, ServerClock, dated
from binance_oi.budget.tuning import (
    CONTRADICTIONS,
    DISTRUST,
    FLIGHT,
    HIDING,
    LAG,
    LOWEST,
    MEMORY,
    OURS,
    PROBE_PAUSE,
    SLACK,
    SLOT,
    SURGE_FADES,
    SURGE_GROWS,
    SURGE_LEAST,
    SURGE_MOST,
)
from binance_oi.budget.usage import Receipt
from binance_oi.exchange.headers import is_plausible


def learn(known: Known, receipt: Receipt, k: int, used: int) -> None:
    """Learn from a count: `used` is what minute `k` had counted when this request arrived.

    Args:
        known: What we know; this call adds to it.
        receipt: The receipt of the request.
        k: The minute that counted the request.
        used: The count in the answer.
    """
    ledger, others = known.ledger, known.others
    known.silent = 0
    minute, before = ledger.open_minute(k), ledger.minutes.get(k - 1)
    if k > ledger.newest:
        _begin(known, k, before)
        if receipt.sent < known.cautious_until and before is not None and used > before.reported:
            before.others = 0  # the count near the rollover was this minute's
            others.curves.pop(k - 1, None)
    if _falls(known, receipt, minute, k, used):
        known.rolling_until = k + DISTRUST
    minute.unconfirmed -= receipt.weight
    if minute.undecided or minute.doubtful:
        minute.absorb(receipt.sent, used, known.counted_at)
    if known.is_rolling(k):
        _leave_window_to_others(known, receipt, used)
    elif used > minute.booked + minute.others or k <= others.expected_until:
        _learn_of_others(known, receipt.sent, k, used)
    if used > minute.reported:
        minute.reported = used
    if receipt.sent > known.counted_at:
        known.counted_at = receipt.sent


def _falls(known: Known, receipt: Receipt, minute: Minute, k: int, used: int) -> bool:
    """Whether a count fell within its minute, which means that the exchange counts no minutes.

    The count must certainly be later than the earlier one. It must be lower by more than nodes of
    the exchange differ. An earlier count far above the limit does not qualify: it was never true.
    """
    clock, sent, limit = known.clock, receipt.sent, known.limit
    if not used + SLACK * limit < minute.reported <= (1 + HIDING) * limit:
        return False
    is_inside = clock.earliest(sent - LAG) == k == clock.latest(sent + FLIGHT)
    return is_inside and sent > known.counted_at + FLIGHT


def _is_minute_before(known: Known, now: float, k: int, used: int) -> bool:
    """Whether a refusal early in minute `k` came at the count of the minute before it."""
    before, ours = known.ledger.minute(k - 1).reported, known.ledger.minute(k).booked
    is_early = known.clock.into(now, k) < SLOT
    return is_early and known.limit / 2 < before and known.limit <= used <= before + ours


def _leave_window_to_others(known: Known, receipt: Receipt, used: int) -> None:
    """Leave others what they used of the last 60 s, and a little more."""
    known.open_window(receipt.sent, used)
    ours = sum(window.used(receipt.sent) for window in known.windows if window.is_minute)
    flying = max((minute.under_way for minute in known.ledger.minutes.values()), default=0)
    theirs = max(0, used - max(0, ours - flying))
    most = int((1 - OURS) * known.limit) - theirs
    for window in known.windows:
        if window.is_minute:
            window.most = max(int(OURS * known.limit), most)


def _begin(known: Known, k: int, before: Minute | None) -> None:
    """Begin minute `k`. A whole minute without a refusal makes an earlier refusal matter less."""
    others = known.others
    was_whole = known.cooldown_until <= MINUTE * (k - 1)
    if before is not None and before.reported and not before.refused and was_whole:
        others.expected_surge = int(SURGE_FADES * others.expected_surge)
        if before.reported > others.refused_count + known.negligible:
            others.refused_count = 0
    if known.announced and k > known.lowered_until:
        known.limit, known.announced = known.announced, 0
    if others.refused_count and not known.announced:
        others.expect_until(k + MEMORY)
    if 0 < known.rolling_until < k:
        known.windows = [window for window in known.windows if not window.is_minute]
        known.rolling_until = 0
    known.ledger.newest = k


def _learn_of_others(known: Known, sent: float, k: int, used: int) -> None:
    """Learn how much others have used of minute `k`, and by when."""
    others, limit, minute = known.others, known.limit, known.ledger.open_minute(k)
    minute.others = max(minute.others, used - minute.booked)
    if minute.others > known.negligible:
        others.expect_until(k + MEMORY)
    if k > others.expected_until:
        return
    into, curve = known.clock.into(sent, k), others.curve(k, limit)
    if not curve.heights and known.counted_at != UNKNOWN:
        # Up to our last count there were no others.
        others.draw(k, limit, known.clock.into(known.counted_at, k), 0)
        curve = others.curve(k, limit)
    # Our weight under way, and weight that a lagging header omits, may hide as much of theirs. A
    # curve with a past may be drawn too low: the forecast then expects the missing use later. A
    # curve without a past may not: it would give too low a rate.
    is_exact = sent >= known.counted_at + LAG and not minute.under_way
    if is_exact or others.past(k) or minute.others >= curve.rate * into:
        others.draw(k, limit, into, minute.others)


def learn_near_rollover(known: Known, receipt: Receipt, now: float, used: int) -> None:
    """Learn from a count that either of two minutes may have.

    It is safe to take it for the count of the old minute, which is the fuller one. In the new
    minute the request stays unconfirmed.
    """
    ledger, theirs = known.ledger, used - receipt.weight
    if known.counted_at == UNKNOWN and theirs > known.negligible:
        _expect_who_was_there(known, receipt, used)
        ledger.leave_undecided(receipt, None, now + LAG)
        return
    old = ledger.open_minute(receipt.first)
    old.unconfirmed -= receipt.weight
    old.doubtful += receipt.weight
    old.reported = max(old.reported, used)
    ledger.leave_undecided(receipt._replace(first=receipt.first + 1), None, now + LAG)
    known.counted_at = max(known.counted_at, receipt.sent)


def _expect_who_was_there(known: Known, receipt: Receipt, used: int) -> None:
    """Expect the others that used one of two minutes before we started.

    All requests wait until a probe can show which minute it was, if there is room for a probe.
    """
    ledger, others, theirs = known.ledger, known.others, used - receipt.weight
    old, shown = ledger.open_minute(receipt.first), receipt.first
    old.others, old.reported = max(old.others, theirs), max(old.reported, used)
    if used >= known.limit:
        shown += 1
        ledger.open_minute(shown).others = theirs
    others.draw(shown, known.limit, known.clock.into(receipt.sent, shown), theirs)
    others.expect_until(receipt.first + 1 + MEMORY)
    clear = MINUTE * (receipt.first + 1) - known.clock.lo
    known.probe_ends_at = max(receipt.sent + PROBE_PAUSE, clear)


def narrow(known: Known, lo: float, hi: float, now: float, was_guess: bool) -> bool:
    """Learn an interval that contains the exchange's clock; False if we do not trust it.

    We trust an interval that contradicts the clock at once only while the clock is a guess. Later
    we need several in a row, even after a cooldown, because a single wrong `Date` must not move the
    end of a ban. We never trust a contradicting interval wider than a minute: an answer that came a
    day late would make every minute of that day possible.
    """
    clock = known.clock
    if hi - lo > MINUTE and not clock.agrees(lo, hi):
        return False
    if clock.narrow(lo, hi):
        return True
    if clock.contradictions < CONTRADICTIONS and not was_guess:
        return False
    known.start_again(ServerClock(lo, hi, clock.at, clock.dated), now)
    return True


def learn_date(known: Known, date: float, sent: float, now: float) -> bool:
    """Learn the `Date` of an answer; False if we do not trust it."""
    clock = known.clock
    if not is_plausible(date):
        return False
    lo, hi = dated(date, sent, now)
    if clock.dated and lo <= clock.hi and hi >= clock.lo:  # the fast path, nearly always taken
        return clock.narrow(lo, hi)
    was_guess = not clock.dated
    clock.replace_guess(lo, hi)
    return narrow(known, lo, hi, now, was_guess)


def find_minute(
    known: Known,
    receipt: Receipt,
    sent: float,
    now: float,
    used: int | None,
    date: float | None,
) -> tuple[Receipt, int | None]:
    """Find the minute that counted a request, and take its weight out of all other minutes.

    Returns:
        The receipt as it is booked now, and the minute; None if the answer does not show it.
    """
    receipt, clock, ledger = rebook(known, receipt, sent, now), known.clock, known.ledger
    slack = int(SLACK * known.limit)
    if known.is_rolling(receipt.last):
        used = None  # the count of the last 60 s shows no minute
    k, proved = attribute(receipt, now, used, date, clock, ledger, slack)
    if proved is not None:
        narrow(known, *proved, now, not clock.dated)
    if k is not None and not receipt.first == k == receipt.last:
        ledger.move(receipt, k)
    return receipt, k


def rebook(known: Known, receipt: Receipt, sent: float, until: float) -> Receipt:
    """Book a receipt to the minutes from `sent` to `until` by the clock as it is now.

    Nearly always it is booked like that already. But if we replaced the clock since the charge, the
    receipt is booked to minutes that may be hours or years away, and callers would wait for them.
    """
    clock, ledger = known.clock, known.ledger
    first, last = clock.earliest(sent), clock.latest(until)
    if first <= receipt.last and receipt.first <= max(last, ledger.newest):
        return receipt
    ledger.give_back(receipt)
    ledger.book(receipt.weight, first, last, receipt.single)
    return receipt._replace(first=first, last=last, reported=0)


def book_late(known: Known, receipt: Receipt, now: float) -> Receipt:
    """Book a request with a late answer to every minute up to now that may have counted it."""
    clock = known.clock
    first = max(receipt.last + 1, clock.earliest(now))
    last = clock.latest(now)
    known.ledger.book(receipt.weight, first, last, receipt.single)
    if first > receipt.last + 1:  # the minutes to which it was booked before are over
        return receipt._replace(first=first, last=last, reported=0)
    return receipt._replace(last=max(receipt.last, last))


def learn_refusal(
    known: Known, now: float, seconds: float, ban: bool, minute: int | None, used: int | None
) -> float:
    """Learn from a 429 that others use more than we expected; see `Bucket.refused`.

    A ban teaches nothing about them, because another client may have caused it. After a ban we
    send evenly (`Known.evenly`), and the counts show others in time.

    Returns:
        The end of the cooldown, Unix s by the exchange's clock.
    """
    clock, others = known.clock, known.others
    if minute is None:
        minute = clock.latest(now)
    turn = MINUTE * (minute + 1)
    known.ledger.open_minute(minute).refused = True
    end = max(turn, now + clock.hi + seconds) if seconds > 0.0 else turn
    if ban:
        return end
    if used is not None and LOWEST * known.limit <= used < known.limit:
        known.lower(used - 1, minute)
        others.refused_count = used
        return end
    if used is not None and _is_minute_before(known, now, minute, used):
        known.rolling_until = minute + DISTRUST
        return end
    others.expect_until(clock.latest(now + seconds) + MEMORY)
    if turn > known.cooldown_until and not known.is_held(now):
        least, most = int(SURGE_LEAST * known.limit), int(SURGE_MOST * known.limit)
        others.expected_surge = min(max(SURGE_GROWS * others.expected_surge, least), most)
    return end
