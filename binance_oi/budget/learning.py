"""What the budget learns from answers and refusals.

Pure. The rule of this file: within a minute, a count never lowers `reported`. `attribution` finds
the minute of a count. If a count may belong to either of two minutes, we assume the one that lets
us send less.
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
    """Learn from the count in an answer.

    Args:
        known: What we know; this call adds to it.
        receipt: The receipt of the request.
        k: The minute that counted the request.
        used: The count: the weight of minute `k` when the request arrived, including the request.
    """
    ledger, others = known.ledger, known.others
    known.silent = 0
    minute = ledger.minutes.get(k) or ledger.open_minute(k)
    if k > ledger.newest:
        before = ledger.minutes.get(k - 1)
        _begin(known, k, before)
        _correct_first_count(known, receipt, k, before, used)
    if used < minute.reported and _falls(known, receipt, minute, k, used):
        known.rolling_until = k + DISTRUST
    minute.unconfirmed -= receipt.weight
    if minute.undecided or minute.doubtful:
        minute.absorb(receipt.sent, used, known.counted_at)
    if k <= known.rolling_until:
        _leave_window_to_others(known, receipt, used)
    elif used > minute.booked + minute.others or k <= others.expected_until:
        _learn_of_others(known, receipt.sent, k, used)
    if used > minute.reported:
        minute.reported = used
    if receipt.sent > known.counted_at:
        known.counted_at = receipt.sent


def _falls(known: Known, receipt: Receipt, minute: Minute, k: int, used: int) -> bool:
    """Whether the count of minute `k` fell, which shows that the exchange does not count minutes.

    The lower count must certainly be later than the higher one, and the difference must be larger
    than that between two nodes of the exchange. A higher count far above the limit proves nothing,
    because it cannot have been right. While `counted_at` is unknown, the lower count may be the
    earlier one: a late answer to a request from before a cooldown, or from before a loss of the
    shared record.
    """
    clock, sent, limit = known.clock, receipt.sent, known.limit
    if not used + SLACK * limit < minute.reported <= (1 + HIDING) * limit:
        return False
    is_inside = clock.earliest(sent - LAG) == k == clock.latest(sent + FLIGHT)
    return is_inside and UNKNOWN < known.counted_at < sent - FLIGHT


def _is_minute_before(known: Known, now: float, k: int, used: int) -> bool:
    """Whether the count of a refusal early in minute `k` is still that of the minute before.

    The result is False if a count of minute `k` has shown that this minute began from 0. Then
    others used the rest of the limit.

    Args:
        known: What we know.
        now: When the refusal came, monotonic s.
        k: The minute of the refusal.
        used: The count in the refusal.
    """
    before, minute = known.ledger.minute(k - 1).reported, known.ledger.minute(k)
    began_from_0 = minute.reported > 0 and minute.others < before / 2
    if began_from_0 or known.clock.into(now, k) >= SLOT:
        return False
    return known.limit / 2 < before and known.limit <= used <= before + minute.booked


def _leave_window_to_others(known: Known, receipt: Receipt, used: int) -> None:
    """Leave others as much of the rolling window as they used in the last 60 s, and `OURS` more.

    But keep at least `OURS` of the limit for us.
    """
    known.open_window(receipt.sent, used)
    ours = sum(window.used(receipt.sent) for window in known.windows if window.is_minute)
    flying = max((minute.under_way for minute in known.ledger.minutes.values()), default=0)
    theirs = max(0, used - max(0, ours - flying))
    most = int((1 - OURS) * known.limit) - theirs
    for window in known.windows:
        if window.is_minute:
            window.most = max(int(OURS * known.limit), most)


def _begin(known: Known, k: int, before: Minute | None) -> None:
    """Begin minute `k`.

    If the minute before had no refusal and no cooldown, halve the expected surge, and forget the
    refused count if the count of that minute was higher. When the time for a lower limit is over,
    obey the announced limit again, and expect others while we remember a refused count. When the
    time for a rolling window is over, use minutes again.
    """
    others = known.others
    # The minute before had no cooldown, so it had no refusal either: a refusal begins a cooldown.
    was_whole = known.cooldown_until <= MINUTE * (k - 1)
    if before is not None and before.reported and was_whole:
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


def _correct_first_count(
    known: Known, receipt: Receipt, k: int, before: Minute | None, used: int
) -> None:
    """Forget what others used of minute `before` if its count probably belonged to minute `k`.

    A count falls at the rollover. So if the first count of `k` is above the count that we assigned
    to the minute before, we probably assigned that earlier count to the wrong minute. We assume
    this only in the first 60 s of careful sending, after a start or a ban.
    """
    is_new = receipt.sent < known.careful_since + MINUTE
    if before is not None and is_new and used > before.reported:
        before.others = 0
        known.others.curves.pop(k - 1, None)


def _learn_of_others(known: Known, sent: float, k: int, used: int) -> None:
    """Learn how much others used of minute `k`, from a count of a request sent at `sent`."""
    others, limit, minute = known.others, known.limit, known.ledger.open_minute(k)
    minute.others = max(minute.others, used - minute.booked)
    if minute.others > known.negligible:
        others.expect_until(k + MEMORY)
    if k > others.expected_until:
        return
    into, curve = known.clock.into(sent, k), others.curve(k, limit)
    if not curve.heights and known.counted_at != UNKNOWN:
        # No earlier count of this minute showed use by others, so draw 0 at our last count.
        others.draw(k, limit, known.clock.into(known.counted_at, k), 0)
        curve = others.curve(k, limit)
    # Our weight under way, and weight that a lagging header omits, may hide as much use by others.
    # Then `minute.others` is too low. If we know earlier minutes, that does no harm: the forecast
    # expects the missing use later. Otherwise the forecast rests on their rate in this minute
    # alone, so we draw only a count that is exact or does not lower the rate.
    is_exact = sent >= known.counted_at + LAG and not minute.under_way
    if is_exact or others.past(k) or minute.others >= curve.rate * into:
        others.draw(k, limit, into, minute.others)


def learn_near_rollover(known: Known, receipt: Receipt, now: float, used: int) -> None:
    """Learn from a count that may belong to either of two minutes.

    We assume that it belongs to the old minute, which is the fuller one. That is safe, because in
    the new minute the request stays unconfirmed. But if it is the first count after a start or a
    cooldown, and shows others, we wait until another count shows which minute these others used.

    Args:
        known: What we know; this call adds to it.
        receipt: The receipt of the request.
        now: When the answer came, monotonic s.
        used: The count.
    """
    ledger, theirs = known.ledger, used - receipt.weight
    if known.counted_at == UNKNOWN and theirs > known.negligible:
        _expect_others_at_first_count(known, receipt, used)
        ledger.leave_undecided(receipt, now + LAG)
        return
    old = ledger.open_minute(receipt.first)
    old.unconfirmed -= receipt.weight
    old.doubtful += receipt.weight
    old.reported = max(old.reported, used)
    ledger.leave_undecided(receipt._replace(first=receipt.first + 1), now + LAG)
    known.counted_at = max(known.counted_at, receipt.sent)


def _expect_others_at_first_count(known: Known, receipt: Receipt, used: int) -> None:
    """Expect others after our first count, which shows their use in one of two minutes.

    All requests wait, at least `PROBE_PAUSE`, until another probe can show which minute it was. If
    the count has reached the limit, that probe might exceed the limit of the new minute. Then we
    assume that the new minute is full too, and send no probe.
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
    """Learn an interval that an answer proved for the exchange's clock.

    An interval may contradict our estimate. While the estimate is a guess, we trust the interval at
    once. Later we trust it only after `CONTRADICTIONS` contradicting intervals in a row, even after
    a cooldown: one wrong `Date` must not move the end of a ban. We never trust a contradicting
    interval wider than a minute, because an answer that came a day late would make every minute of
    that day possible.

    Args:
        known: What we know; this call changes its clock.
        lo: The least that the exchange's clock, less ours, may be; s.
        hi: The most that it may be; s.
        now: When the answer came, monotonic s.
        was_guess: Whether the estimate was a guess from our wall clock before this answer.

    Returns:
        Whether we trust the interval.
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
    lo, hi = dated(date, sent, now)
    if clock.dated and lo <= clock.hi and hi >= clock.lo:  # nearly every answer takes this path
        return clock.narrow(lo, hi)
    if not is_plausible(date):
        return False
    was_guess = not clock.dated
    clock.replace_guess(lo, hi)
    return narrow(known, lo, hi, now, was_guess)


def find_minute(
    known: Known, receipt: Receipt, now: float, used: int | None, date: float | None
) -> tuple[Receipt, int | None]:
    """Find the minute that counted a request, and take its weight out of all other minutes.

    Args:
        known: What we know; this call changes its ledger, and may change its clock.
        receipt: The receipt of the request.
        now: When the answer came, monotonic s.
        used: The answer's count; None if it has none.
        date: The answer's `Date`, Unix s; None if it has none or if we do not trust it.

    Returns:
        The receipt as it is booked now, and the minute; None if the answer does not show it.
    """
    if now > receipt.sent + FLIGHT:
        receipt = _book_late(known, receipt, now)
    receipt = rebook(known, receipt, max(receipt.sent, now - FLIGHT), now)
    if known.is_rolling(receipt.last):
        used = None  # a count of the last 60 s belongs to no minute
    k, proved = attribute(known, receipt, now, used, date)
    if proved is not None:
        narrow(known, *proved, now, not known.clock.dated)
    if k is not None:
        receipt = known.ledger.move(receipt, k, k)
    return receipt, k


def rebook(known: Known, receipt: Receipt, sent: float, until: float) -> Receipt:
    """Book a receipt again if we have replaced the clock since its charge.

    By the new clock, the minutes to which it is booked may be hours or years away, and callers
    would wait for them. So we book it to the minutes that may contain the time from `sent` to
    `until`, both monotonic s. Usually the clock is the same, and nothing changes.
    """
    clock, ledger = known.clock, known.ledger
    first, last = clock.earliest(sent), clock.latest(until)
    if first <= receipt.last and receipt.first <= max(last, ledger.newest):
        return receipt
    return ledger.move(receipt, first, last)


def _book_late(known: Known, receipt: Receipt, now: float) -> Receipt:
    """Book a late answer's request to each later minute that may count it and is not over."""
    clock = known.clock
    first = max(receipt.last + 1, clock.earliest(now))
    last = clock.latest(now)
    late = receipt._replace(first=first, last=last, reported=0)
    known.ledger.book(late)
    if first > receipt.last + 1:  # the minutes to which it was booked before are over
        return late
    return receipt._replace(last=max(receipt.last, last))


def learn_refusal(
    known: Known, now: float, seconds: float, ban: bool, minute: int | None, used: int | None
) -> float:
    """Learn from a refusal; for the arguments, see `Bucket.refused`.

    A 429 shows one of three things: the limit is lower than we thought, the exchange counts the
    last 60 s, or others use more than we expected. A ban shows none of them, because another client
    may have caused it. After a ban we send evenly (`Known.until_allowed`), so the counts show the
    use by others before we send much.

    Returns:
        The end of the cooldown, Unix s by the exchange's clock.
    """
    clock, others, is_proved = known.clock, known.others, minute is not None
    if minute is None:
        minute = clock.latest(now)
    turn = MINUTE * (minute + 1)
    end = max(turn, now + clock.hi + seconds) if seconds > 0.0 else turn
    if ban:
        return end
    if used is not None and LOWEST * known.limit <= used < known.limit:
        known.lower(used - 1, minute)
        others.refused_count = used
        return end
    # Near the rollover, a refusal of the old minute must not look like one of the new minute.
    if is_proved and used is not None and _is_minute_before(known, now, minute, used):
        known.rolling_until = minute + DISTRUST
        return end
    others.expect_until(clock.latest(now + seconds) + MEMORY)
    if turn > known.cooldown_until and not known.is_held(now):
        least, most = int(SURGE_LEAST * known.limit), int(SURGE_MOST * known.limit)
        others.expected_surge = min(max(SURGE_GROWS * others.expected_surge, least), most)
    return end
