"""The bucket of a limit without a header, whose window begins at an unknown time: `/futures/data`.

Pure, like `Bucket`, and used by a `Pool` in the same way. The rule of this file: only our own books
count. A request is in the window from its charge until a whole window after the latest moment at
which the exchange may have counted it. So the exchange's window never holds more than the budget,
wherever it begins and whether or not it rolls.

Bulk requests go at an even pace: one leaves the window about as often as one enters it, so there is
never a long wait for room. A single request takes any room that there is. For the length of a
window after it, a part of the limit stays free for further single requests.
"""

import math
from datetime import UTC, datetime

from binance_oi.budget.bucket import Bucket
from binance_oi.budget.knowledge import Known
from binance_oi.budget.learning import learn_date
from binance_oi.budget.tuning import DRIFT_EVERY, FLIGHT, PATIENCE
from binance_oi.budget.usage import Reason, Receipt, Usage, Wait
from binance_oi.budget.window import MIN_WAIT_S, Window
from binance_oi.exchange.limits import Limit

WINDOW_PARTS = 200  # slots of the window: a request leaves it at most 1.5 s late
SINGLE_SHARE = 0.1  # share of the budget kept for single requests after one of them came
SPARE_S = 3.0  # s by which the time over which we spread a full budget exceeds the window
CREDIT_S = 1.0  # s that late bulk requests may catch up with


class RollingBucket(Bucket):
    """Decides by a window of our own requests whether a request may be sent now.

    It cannot see others on the address. Only a refusal shows them; after one, the bucket sends
    nothing for a whole window.

    Args:
        known: What we know so far, with the limit as its only window; see `fresh`.
        reserve: The share of the limit that we leave unused.
        share: The most of the limit that we use ourselves, 0 to 1.
    """

    __slots__ = ()
    leases_bulk = False  # requests at an even pace are never charged in advance

    # -- decide ------------------------------------------------------------------------------

    def charge(self, now: float, weight: int, bulk: bool = False) -> Receipt | Wait:
        """Book `weight` if it may be sent now; otherwise say how long to wait, and why."""
        self._drift(now)
        wait = self._wait(now, weight, bulk)
        if wait is not None:
            return wait
        window = self._window
        window.charge(now, now + FLIGHT, weight)
        if bulk:
            every = (window.seconds + SPARE_S) / self._cap(now, bulk=False) * window.cost(weight)
            window.bulk_at = max(window.bulk_at, now - CREDIT_S) + every
        else:
            window.kept_until = now + window.seconds
        return Receipt(weight, now, 0, 0, 0, False, 0 if bulk else weight)

    def sending(self, receipt: Receipt, now: float) -> Receipt | None:
        """See `Bucket.sending`; a request is booked for `FLIGHT` seconds from its charge."""
        is_late = now - receipt.sent > PATIENCE
        return None if is_late or self.known.is_held(now) else receipt

    def room_in(self, now: float, weight: int, bulk: bool = False) -> float | None:
        """Seconds after which there may be room; None for never."""
        wait = self._wait(now, weight, bulk)
        if wait is None:
            return 0.0
        return wait.seconds if wait.end is None else wait.end

    def _wait(self, now: float, weight: int, bulk: bool) -> Wait | None:
        """How long to wait, and why; None if the request may be sent now."""
        known, window = self.known, self._window
        if known.is_held(now):
            end = known.clock.when_over(known.cooldown_until) - now
            return Wait(known.cooldown_until - now - known.clock.lo, Reason.COOLDOWN, end)
        if window.cost(weight) > self._cap(now, bulk=False):
            return Wait(None, Reason.TOO_HEAVY)
        seconds = window.until_room(now, weight, self._cap(now, bulk=bulk))
        if seconds is None:  # it fits only once no room is kept for single requests
            seconds = max(window.kept_until - now, MIN_WAIT_S)
        if bulk:
            seconds = max(seconds, window.bulk_at - now)
        return Wait(seconds, Reason.OTHER_LIMIT) if seconds > 0.0 else None

    def _cap(self, now: float, *, bulk: bool) -> int:
        """The most that the window may hold after the request."""
        window = self._window
        cap = window.cap(self._reserve, self._share, self._limit)
        if bulk and now < window.kept_until:
            cap -= math.ceil(SINGLE_SHARE * cap)
        return max(1, cap)

    @property
    def _window(self) -> Window:
        return self.known.windows[0]

    def _drift(self, now: float) -> None:
        if now - self.known.clock.at > DRIFT_EVERY:
            self.known.clock.drift(now)

    # -- learn -------------------------------------------------------------------------------

    def settle(
        self, receipt: Receipt, now: float, used: int | None, date: float | None
    ) -> int | None:
        """An answer came, so the exchange has counted the request by now. It has no count."""
        self._drift(now)
        if date is not None:
            learn_date(self.known, date, receipt.sent, now)
        self._window.settle(receipt.sent + FLIGHT, now, receipt.weight)
        return None

    def lose(self, receipt: Receipt, now: float) -> None:
        """No answer came. The exchange may have counted it until now, or until its flight ends."""
        booked = receipt.sent + FLIGHT
        if now > booked:
            self._window.settle(booked, now, receipt.weight)

    def refund(self, receipt: Receipt) -> None:
        """Undo the charge: the request was never sent."""
        self._window.refund(receipt.sent + FLIGHT, receipt.weight)

    def refused(
        self,
        now: float,
        seconds: float,
        *,
        ban: bool = False,
        minute: int | None = None,
        used: int | None = None,
    ) -> None:
        """The exchange answered 429 or 418, so others use the limit too: wait a whole window."""
        self.hold(now, max(seconds, float(self._window.seconds)), ban=ban)

    # -- tell --------------------------------------------------------------------------------

    def usage(self, now: float) -> Usage:
        """The budget at this moment, in requests of the current window."""
        known, window = self.known, self._window
        used, cap = window.used(now), self._cap(now, bulk=False)
        over = max((window.leaves(slot) for slot, n in window.slots.items() if n), default=now)
        at = max(over, now) + known.clock.hi
        return Usage(
            limit=window.most,
            used=used,
            remaining=max(0, cap - used),
            charged=used,
            others=0,
            in_flight=window.under_way(now),
            reserve=self._reserve,
            share=self._share,
            resets_at=datetime.fromtimestamp(at, UTC),
            held_until=self._instant(now, known.cooldown_until),
            banned_until=self._instant(now, known.banned_until),
            sustained=cap * 60.0 / window.seconds,
        )


def fresh(known: Known, limit: Limit) -> Known:
    """Turn `known`, which holds only the time, into the knowledge of a new pool of this limit."""
    known.limit = limit.most
    known.windows = [Window(*limit, since=0.0, parts=WINDOW_PARTS)]
    return known


def is_rolling(known: Known) -> bool:
    """Whether a record belongs to a limit without a header, for which no minute is counted."""
    return len(known.windows) == 1 and known.windows[0].parts == WINDOW_PARTS
