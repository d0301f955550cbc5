"""What an answer and a refusal teach.

Pure. The rule of this file: within its minute, a count never lowers what is reported. Which minute
it is of has been found out before (`attribution`). Where that cannot be told, the count is taken in
the way that lets us send less.
"""

from binance_oi.budget.attribution import attribute
from binance_oi.budget.knowledge import UNKNOWN, Known
from binance_oi.budget.ledger import Minute
from binance_oi.budget.server_clock import MINUTE, ServerClock, dated
from binance_oi.budget.tuning import (
    CONTRADICTIONS,
    LAG,
    MEMORY,
    NEWCOMER,
    PROBE_PAUSE,
    SLACK,
    SURGE_FADES,
    SURGE_GROWS,
    SURGE_LEAST,
    SURGE_MOST,
    TOO_SOON,
)
from binance_oi.budget.usage import Receipt
from binance_oi.exchange.headers import is_plausible


def learn(known: Known, receipt: Receipt, k: int, used: int, reserve: int) -> None:
    """`used` is what minute `k` had counted when this request came.

    Args:
        known: What is learned is added here.
        receipt: Of the request.
        k: The minute that counted it.
        used: Its count.
        reserve: Weight that we leave unused.
    """
    ledger, others = known.ledger, known.others
    known.silent = 0
    minute, before = ledger.open_minute(k), ledger.minutes.get(k - 1)
    if k > ledger.newest:
        _begin(known, k, before)
        if minute.newcomer_reserve and before is not None and used > before.reported:
            before.others = 0  # the count near the rollover was this minute's
            others.curves.pop(k - 1, None)
    minute.unconfirmed -= receipt.weight
    if minute.undecided or minute.doubtful:
        minute.absorb(receipt.sent, used, known.counted_at)
    if used > minute.booked + minute.others or k <= others.expected_until:
        _learn_of_others(known, receipt.sent, k, used)
    if used > minute.reported:
        minute.reported = used
    if minute.newcomer_reserve:
        # A rate of others that is higher than this would show in the count by now.
        into, left = known.clock.into(receipt.sent, k), known.clock.left(receipt.sent, k)
        most = int(NEWCOMER * known.limit / max(into, TOO_SOON) * left)
        minute.newcomer_reserve = min(minute.newcomer_reserve, max(0, most - reserve))
    if receipt.sent > known.counted_at:
        known.counted_at = receipt.sent


def _begin(known: Known, k: int, before: Minute | None) -> None:
    """Minute `k` begins. A whole minute that went well makes a refusal matter less."""
    others = known.others
    was_whole = known.cooldown_until <= MINUTE * (k - 1)
    if before is not None and before.reported and not before.refused and was_whole:
        others.expected_surge = int(SURGE_FADES * others.expected_surge)
        if before.reported > others.refused_count + known.few:
            others.refused_count = 0
    if others.refused_count:
        others.expect_until(k + MEMORY)
    known.ledger.newest = k


def _learn_of_others(known: Known, sent: float, k: int, used: int) -> None:
    """How much others have used, and by when."""
    others, limit, minute = known.others, known.limit, known.ledger.open_minute(k)
    minute.others = max(minute.others, used - minute.booked)
    if minute.others > known.few:
        others.expect_until(k + MEMORY)
    if k > others.expected_until:
        return
    into, curve = known.clock.into(sent, k), others.curve(k, limit)
    if not curve.heights and known.counted_at != UNKNOWN:
        # Until our last count there was nobody.
        others.draw(k, limit, known.clock.into(known.counted_at, k), 0)
        curve = others.curve(k, limit)
    # Ours under way, and those that a header lags behind, may hide as many of theirs. Drawn too low
    # they are a use that is still to come; but where there is no past, a rate too low.
    is_exact = sent >= known.counted_at + LAG and not minute.under_way
    if is_exact or others.past(k) or minute.others >= curve.rate * into:
        others.draw(k, limit, into, minute.others)


def learn_near_rollover(known: Known, receipt: Receipt, now: float, used: int) -> None:
    """Learn from a count that may be of either minute.

    It is safely taken for the old minute's, which it fills more than the new one's would. In the
    new one the request stays unconfirmed.
    """
    ledger, theirs = known.ledger, used - receipt.weight
    if known.counted_at == UNKNOWN and theirs > known.few:
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
    """Others were here before us, in one minute or the other.

    Ask again when it is clear which one it is, if there is room to ask.
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
    """Learn an interval that holds the exchange's clock; False when it is not believed.

    One that contradicts what is known is believed at once only while the clock was a guess.
    Afterwards several in a row are needed, also after a cooldown: a single wrong `Date` must not
    move the end of a ban. And none that is wider than a minute: an answer that came a day late
    would make every minute of that day possible.
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
    """Learn the `Date` of an answer; False when it is not believed."""
    clock = known.clock
    if not is_plausible(date):
        return False
    lo, hi = dated(date, sent, now)
    if clock.dated and lo <= clock.hi and hi >= clock.lo:  # nearly always
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
    """Which minute counted a request, where that is not plain; it stays booked to that one alone.

    Returns:
        The receipt as it is booked, and the minute; None when nothing tells.
    """
    receipt, clock, ledger = rebook(known, receipt, sent, now), known.clock, known.ledger
    slack = int(SLACK * known.limit)
    k, proved = attribute(receipt, now, used, date, clock, ledger, slack)
    if proved is not None:
        narrow(known, *proved, now, not clock.dated)
    if k is not None and not receipt.first == k == receipt.last:
        ledger.move(receipt, k)
    return receipt, k


def rebook(known: Known, receipt: Receipt, sent: float, until: float) -> Receipt:
    """Book a receipt by the clock as it is now: counted after `sent` and before `until`, if at all.

    Nearly always it is booked so. A clock that was given up since the charge has left it in minutes
    that are hours or years away: whoever waited for one of them would wait as long.
    """
    clock, ledger = known.clock, known.ledger
    first, last = clock.earliest(sent), clock.latest(until)
    if first <= receipt.last and receipt.first <= max(last, ledger.newest):
        return receipt
    ledger.give_back(receipt)
    ledger.book(receipt.weight, first, last, receipt.single)
    return receipt._replace(first=first, last=last, reported=0)


def book_late(known: Known, receipt: Receipt, now: float) -> Receipt:
    """Book a request whose answer is late to each minute up to now that may have counted it."""
    clock = known.clock
    first = max(receipt.last + 1, clock.earliest(now))
    last = clock.latest(now)
    known.ledger.book(receipt.weight, first, last, receipt.single)
    if first > receipt.last + 1:  # the minutes in between are over, and those it is booked to
        return receipt._replace(first=first, last=last, reported=0)
    return receipt._replace(last=max(receipt.last, last))


def learn_refusal(
    known: Known, now: float, seconds: float, ban: bool, minute: int | None, used: int | None
) -> float:
    """Expect more of others after a 429 or 418; see `Bucket.refused`.

    Returns:
        The end of the cooldown, Unix s of the exchange.
    """
    clock, others = known.clock, known.others
    others.expect_until(clock.latest(now + seconds) + MEMORY)
    if minute is None:
        minute = clock.latest(now)
    turn = MINUTE * (minute + 1)
    if turn > known.cooldown_until and not known.is_held(now):
        surge = others.expected_surge
        more = surge if ban else SURGE_GROWS * surge  # a ban may be somebody else's doing
        least, most = int(SURGE_LEAST * known.limit), int(SURGE_MOST * known.limit)
        others.expected_surge = min(max(more, least), most)
    known.ledger.open_minute(minute).refused = True
    if used is not None and used < known.limit:
        others.refused_count = min(others.refused_count or used, used)
        others.expected_surge = max(others.expected_surge, known.limit - used)
    return max(turn, now + clock.hi + seconds) if seconds > 0.0 else turn
