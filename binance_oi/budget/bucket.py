"""The token bucket of one IP address: its tokens come back when the exchange's minute rolls over.

Pure. The rule of this file: it does no I/O, and reads no clock; `now` is always an argument, in
monotonic seconds. The bucket decides, `governor` waits, and `transport` sends.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from binance_oi.budget import admission, learning
from binance_oi.budget.knowledge import UNKNOWN, Ask, Known, Parts
from binance_oi.budget.others import Forecast
from binance_oi.budget.server_clock import MINUTE
from binance_oi.budget.tuning import (
    BLIND_RESERVE,
    CAREFUL,
    DRIFT_EVERY,
    FLIGHT,
    IDLE,
    LAG,
    PATIENCE,
    PROBE_PATIENCE,
    TRAVEL,
)
from binance_oi.budget.usage import Receipt, Usage, Wait
from binance_oi.budget.window import Window, renewed
from binance_oi.exchange.limits import Limit


class Bucket:
    """Decides whether a request may be sent now. Each IP address has one bucket.

    Give every receipt back exactly once: to `settle` when an answer came, to `lose` when
    none came but the exchange may have counted the request, and to `refund` when it was never sent.

    Args:
        known: Our knowledge so far. A pool that processes share replaces it whenever another
            process has changed it.
        parts: The parts of the limit, as the user set them.
    """

    __slots__ = ("_forecast", "_interactive", "_limit", "_parts", "_reserve", "_share", "known")
    leases_bulk: bool = True
    """Whether a pool may charge for bulk requests in advance."""

    def __init__(self, known: Known, parts: Parts) -> None:
        self.known: Known = known
        self._parts, self._forecast = parts, Forecast()
        self._resize()

    def _resize(self) -> None:
        """Adopt the limit in `known`. An answer to us or to another process may have changed it."""
        self._limit = self.known.limit
        self._reserve, self._share, self._interactive = self._parts.of(self._limit)

    # -- decide ------------------------------------------------------------------------------

    def charge(self, now: float, weight: int, bulk: bool = False) -> Receipt | Wait:
        """Book a request if it may be sent now; otherwise return how long to wait, and why.

        Args:
            now: Monotonic s.
            weight: The weight of the request.
            bulk: Whether the request leaves single calls their part of the minute.
        """
        receipt = self.charge_plainly(now, weight, bulk)
        if receipt is not None:  # nearly always
            return receipt
        ask = self.question(now, weight, bulk)
        verdict = admission.decide(ask, self.known)
        if isinstance(verdict, Wait):
            return verdict
        return self._book(ask, isinstance(verdict, admission.Probe))

    def charge_plainly(self, now: float, weight: int, bulk: bool) -> Receipt | None:
        """Book a request, or several together, if they may clearly be sent now; otherwise None.

        The request may clearly be sent if all of this is true:

        - There is no cooldown, no probe under way and no limit of another span.
        - Only one minute may count it. That minute has room and a count, and we expect no other
          clients in it. A count came since the start, the last cooldown and the last new clock.
        - Answers show counts, and no refusal showed a lower limit.
        - Our share allows it, and so does careful sending after a start or a ban.
        - It is a single call, or no single call came lately.

        A property test compares this path with the rules, which admit several requests one by one.

        Args:
            now: Monotonic s.
            weight: The weight of the request, or of all requests that are charged together.
            bulk: Whether they leave single calls their part of the minute.
        """
        known = self.known
        clock = known.clock
        if now - clock.at > DRIFT_EVERY:
            clock.drift(now)
        if self._limit != known.limit:
            self._resize()
        first, _, last = known.span(now)
        minute, budget = known.ledger.minutes.get(last), self._limit - self._reserve
        if (
            first == last > known.others.expected_until
            and known.cooldown_until <= now + clock.lo
            and known.probe_ends_at <= now
            and known.counted_at != UNKNOWN
            and not known.is_blind
            and not known.others.refused_count
            and not known.windows
            and not (bulk and any(each.single for each in known.ledger.minutes.values()))
            and minute is not None
            and minute.reported
            and minute.used + weight <= budget
            and (ours := minute.booked + weight) <= self._share
            and (
                now >= known.careful_since + CAREFUL  # usually; this needs no call
                or known.until_allowed(now, last, ours, budget) <= 0.0
            )
        ):
            minute.book(weight, bulk, self._interactive)
            return Receipt(weight, now, first, last, minute.reported, False, bulk)
        return None

    def spare(self, now: float) -> int:
        """Weight left in the latest minute that may count a request: 0 if new; may be below 0."""
        minute = self.known.ledger.minutes.get(self.known.span(now)[2])
        return 0 if minute is None else self._limit - self._reserve - minute.used

    def question(self, now: float, weight: int, bulk: bool = False) -> Ask:
        """Return the question that the rules answer for a request; arguments as in `charge`."""
        limit, span = self.known.limit, self.known.span(now)
        reserve, share, interactive = self._parts.of(limit)
        kept = reserve
        if self.known.is_blind:  # we leave more unused while answers have no counts
            kept = max(reserve, min(math.ceil(BLIND_RESERVE * limit), limit - 1))
        bounds = reserve, limit - kept, share
        return Ask(now, weight, *span, *bounds, self._forecast, bulk, interactive)

    def sending(self, receipt: Receipt, now: float) -> Receipt | None:
        """Return the receipt to use if a charged request may be written to the wire now.

        The caller writes the request right after this call, or not at all.

        Returns:
            The receipt to use from now on. None if the request may not be written, because a
            cooldown has begun since the charge. A charge older than `PATIENCE` also gives None if
            it is not booked to the latest minute that may count it, if the books have dropped its
            minute, or if the exchange has other limits too. After None, `refund` the receipt and
            charge again.
        """
        known, clock = self.known, self.known.clock
        if known.is_held(now):
            return None
        if now - receipt.sent <= PATIENCE:
            return receipt
        if now - clock.at > DRIFT_EVERY:
            clock.drift(now)
        last = int((now + clock.hi + TRAVEL) // MINUTE)
        minute = known.ledger.minutes.get(receipt.first)
        if last > receipt.last or minute is None or known.windows:
            return None
        return receipt._replace(sent=now, reported=minute.reported)

    def room_in(self, now: float, weight: int, bulk: bool = False) -> float | None:
        """Seconds until there should be room for a request; None if there never is.

        The result is for a caller that waits this long before it asks again. The queue asks sooner,
        after the seconds that `charge` returns, because an answer to another request may make room.
        """
        ask, known = self.question(now, weight, bulk), self.known
        verdict = admission.too_heavy(ask, known) or admission.decide(ask, known)
        if not isinstance(verdict, Wait):
            return 0.0
        return verdict.seconds if verdict.end is None else verdict.end

    def _book(self, ask: Ask, probe: bool) -> Receipt:
        """Book a request that the rules admitted, and return its receipt."""
        known, ledger = self.known, self.known.ledger
        if probe and ask.likeliest > ledger.newest + IDLE:
            known.careful_since, known.after_ban = math.inf, False
        reported = ledger.minute(ask.first).reported
        receipt = Receipt(ask.weight, ask.now, ask.first, ask.last, reported, probe, ask.bulk)
        ledger.book(receipt, ask.interactive)
        for window in known.windows:
            window.charge(ask.now, ask.now + FLIGHT, ask.weight)
        if probe:
            known.probe_ends_at = ask.now + PROBE_PATIENCE
        return receipt

    # -- learn -------------------------------------------------------------------------------

    def settle(
        self, receipt: Receipt, now: float, used: int | None, date: float | None
    ) -> int | None:
        """Learn from an answer.

        Args:
            receipt: The receipt of the request.
            now: When the answer came, monotonic s.
            used: The answer's count; None if it has none.
            date: The answer's `Date`, Unix s; None if it has none.

        Returns:
            The minute that counted the request; None if the answer does not show it.
        """
        known = self.known
        if now - known.clock.at > DRIFT_EVERY:
            known.clock.drift(now)
        if receipt.probe:
            known.probe_ends_at = UNKNOWN
        for window in known.windows:
            window.settle(receipt.sent + FLIGHT, now, receipt.weight)
        if date is not None and not learning.learn_date(known, date, receipt.sent, now):
            date = None
        if known.careful_since == math.inf and not known.is_held(now):
            known.careful_since = receipt.sent
        k: int | None = receipt.last
        if now > receipt.sent + FLIGHT or not receipt.first == k == known.clock.latest(now):
            receipt, k = learning.find_minute(known, receipt, now, used, date)
        if used is None:
            known.miss_count(now)
            known.ledger.leave_undecided(receipt, now + LAG)
        elif k is None:
            learning.learn_near_rollover(known, receipt, now, used)
        else:
            learning.learn(known, receipt, k, used)
        return k

    def lose(self, receipt: Receipt, now: float) -> None:
        """Keep the weight of a request without an answer: the exchange may have counted it.

        Args:
            receipt: The receipt of the request.
            now: When we gave up waiting for the answer, monotonic s.
        """
        if receipt.probe:
            self.known.probe_ends_at = UNKNOWN
        counted = receipt.sent + FLIGHT  # by then, or never
        receipt = learning.rebook(self.known, receipt, receipt.sent, min(now, counted))
        self.known.ledger.leave_undecided(receipt, max(now, counted))

    def refund(self, receipt: Receipt) -> None:
        """Undo the charge of a request that was never sent."""
        if receipt.probe:
            self.known.probe_ends_at = UNKNOWN
        for window in self.known.windows:
            window.refund(receipt.sent + FLIGHT, receipt.weight)
        self.known.ledger.give_back(receipt)

    # -- limits ------------------------------------------------------------------------------

    def set_limits(self, now: float, limit: int | None, others: Sequence[Limit]) -> None:
        """Adopt the limits that the exchange announced.

        The window of a new limit starts with our weight in all minutes that overlap it. That weight
        may be too high. It is too low only if the window is longer than our memory of minutes.

        Args:
            now: Monotonic s.
            limit: The limit of the minute; None if the exchange did not announce it.
            others: The limits of other spans.
        """
        known = self.known
        known.announce(limit or known.announced or known.limit)

        def begin(each: Limit) -> Window:
            counted, flying = known.ledger.held(now + known.clock.lo - each.seconds)
            return Window.begin(each, now, now + FLIGHT, counted=counted, flying=flying)

        rolling = [Limit(MINUTE, known.limit, False)] if known.rolling_until else []
        known.windows = renewed(known.windows, [*others, *rolling], begin)

    # -- cooldown ----------------------------------------------------------------------------

    def hold(self, now: float, seconds: float, *, ban: bool = False) -> None:
        """Begin a cooldown of `seconds` from now, unless another cooldown ends later."""
        self.hold_until(now + self.known.clock.hi + seconds, ban=ban)

    def hold_until(self, until: float, *, ban: bool = False) -> None:
        """Begin a cooldown that ends at `until`, unless another cooldown ends later.

        Args:
            until: Unix s by the exchange's clock.
            ban: Whether the exchange called it a ban.
        """
        known = self.known
        known.cooldown_until = max(known.cooldown_until, until)
        known.silent = 0  # refusals may lack counts, but must not make us blind
        if ban:
            known.banned_until = max(known.banned_until, until)
            known.careful_since, known.after_ban = math.inf, True
        known.counted_at = UNKNOWN

    def held_for(self, now: float, *, ban: bool = False) -> float:
        """Seconds until the cooldown, or the ban if `ban`, is certainly over; 0.0 without one."""
        known, clock = self.known, self.known.clock
        until = known.banned_until if ban else known.cooldown_until
        return 0.0 if clock.is_over(until, now) else clock.when_over(until) - now

    def refused(
        self,
        now: float,
        seconds: float,
        *,
        ban: bool = False,
        minute: int | None = None,
        used: int | None = None,
    ) -> None:
        """Begin a cooldown after a 429 or 418, and learn from it.

        Args:
            now: When the refusal came, monotonic s.
            seconds: The wait that the exchange asked for. The cooldown lasts at least until the
                minute of the refused request is over.
            ban: Whether the exchange called it a ban.
            minute: The minute that counted the request; None if it is unknown.
            used: The count in the refusal; None if it has none.
        """
        until = learning.learn_refusal(self.known, now, seconds, ban, minute, used)
        self.hold_until(until, ban=ban)

    # -- show --------------------------------------------------------------------------------

    def usage(self, now: float) -> Usage:
        """Return the state of the budget at `now`, monotonic s."""
        known, ask = self.known, self.question(now, 1)
        minute = known.ledger.minute(ask.likeliest)
        # Each bound has what we may use in a span, what is used of that, and the span in seconds.
        bounds = [(ask.budget, minute.used, MINUTE), (ask.share, minute.booked, MINUTE)]
        for window in known.windows:
            cap = window.cap(ask.reserve, ask.share, known.limit)
            bounds.append((cap, window.used(now), window.seconds))
        return Usage(
            limit=known.limit,
            used=minute.used,
            remaining=max(0, min(cap - used for cap, used, _ in bounds)),
            charged=minute.booked,
            others=minute.used - minute.booked,
            in_flight=minute.unconfirmed,
            reserve=known.limit - ask.budget,
            share=ask.share,
            resets_at=datetime.fromtimestamp(MINUTE * (ask.likeliest + 1), UTC),
            held_until=self._instant(now, known.cooldown_until),
            banned_until=self._instant(now, known.banned_until),
            # If the user gave the reserve as weight, it may exceed a limit that was lowered later.
            sustained=max(0.0, min(cap * MINUTE / seconds for cap, _, seconds in bounds)),
        )

    def _instant(self, now: float, until: float) -> datetime | None:
        is_over = self.known.clock.is_over(until, now)
        return None if is_over else datetime.fromtimestamp(until, UTC)
