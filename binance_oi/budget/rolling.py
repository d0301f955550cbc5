"""The bucket of a limit that no header reports, such as the limit of `/futures/data`.

Pure, like `Bucket`; a `Pool` uses both in the same way. The rule of this file: without a header, we
can rely only on our own books. We do not know when a window of the exchange begins, so our window
rolls. A request is in our window from its charge until one window length after the latest moment at
which the exchange may have counted it. So no window of the exchange contains more of our requests
than the budget, whenever that window begins.

Bulk requests go at an even pace. A request then leaves the window about as often as one enters it,
so no request waits long for room. A single request is one that is not bulk. A single request
ignores the pace, and may use all the room in the window. After a single request, bulk requests
leave a tenth of the budget free for other single requests, for the length of the window.
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

WINDOW_PARTS = 200  # slots: a request leaves a window of 5 minutes at most 1.5 s too late
SINGLE_SHARE = 0.1  # share of the budget that bulk requests leave free after a single request
SPARE_S = 3.0  # s: bulk requests use one budget in the window's length plus this time
CREDIT_S = 1.0  # s by which bulk requests that are behind their pace may catch up


class RollingBucket(Bucket):
    """Decides by a window of our own requests whether a request may be sent now.

    It cannot see others on the address. Only a refusal shows that they use the limit. After a
    refusal, the bucket sends nothing for a whole window.

    Args:
        known: Our knowledge so far. Its only window is the one of this limit; see `fresh`.
        parts: The parts of the limit; the reserve is a share. `interactive` has no effect.
    """

    __slots__ = ()
    leases_bulk = False  # bulk requests go at an even pace, so we charge none in advance

    # -- decide ------------------------------------------------------------------------------

    def charge(self, now: float, weight: int, bulk: bool = False) -> Receipt | Wait:
        """Book a request if it may be sent now; otherwise return how long to wait, and why."""
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
        return Receipt(weight, now, 0, 0, 0, False, bulk)

    def sending(self, receipt: Receipt, now: float) -> Receipt | None:
        """See `Bucket.sending`; here no receipt older than `PATIENCE` seconds may be used."""
        is_late = now - receipt.sent > PATIENCE
        return None if is_late or self.known.is_held(now) else receipt

    def spare(self, now: float) -> int:
        """Return 0, so that a lease does not grow with the room that is left."""
        return 0

    def room_in(self, now: float, weight: int, bulk: bool = False) -> float | None:
        """Seconds until there should be room; None if there never is."""
        wait = self._wait(now, weight, bulk)
        if wait is None:
            return 0.0
        return wait.seconds if wait.end is None else wait.end

    def _wait(self, now: float, weight: int, bulk: bool) -> Wait | None:
        """Return how long to wait, and why; None if the request may be sent now."""
        known, window = self.known, self._window
        if known.is_held(now):
            end = known.clock.when_over(known.cooldown_until) - now
            return Wait(known.cooldown_until - now - known.clock.lo, Reason.COOLDOWN, end)
        if window.cost(weight) > self._cap(now, bulk=False):
            return Wait(None, Reason.TOO_HEAVY)
        seconds = window.until_room(now, weight, self._cap(now, bulk=bulk))
        if seconds is None:  # it fits only when we no longer keep room for single requests
            seconds = max(window.kept_until - now, MIN_WAIT_S)
        if bulk:
            seconds = max(seconds, window.bulk_at - now)
        return Wait(seconds, Reason.OTHER_LIMIT) if seconds > 0.0 else None

    def _cap(self, now: float, *, bulk: bool) -> int:
        """Return the most that the window may contain after the request."""
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
        """Learn from an answer: the exchange has counted its request by `now`.

        No answer reports the use of this limit, so we ignore `used` and return None.
        """
        self._drift(now)
        if date is not None:
            learn_date(self.known, date, receipt.sent, now)
        self._window.settle(receipt.sent + FLIGHT, now, receipt.weight)
        return None

    def lose(self, receipt: Receipt, now: float) -> None:
        """Keep a request without an answer: the exchange may count it until its flight ends.

        If we gave up later than that, keep it as if the exchange had counted it now.
        """
        booked = receipt.sent + FLIGHT
        if now > booked:
            self._window.settle(booked, now, receipt.weight)

    def refund(self, receipt: Receipt) -> None:
        """Undo the charge of a request that was never sent."""
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
        """Begin a cooldown of a whole window or more: a 429 shows that others use the limit."""
        self.hold(now, max(seconds, float(self._window.seconds)), ban=ban)

    # -- show --------------------------------------------------------------------------------

    def usage(self, now: float) -> Usage:
        """Return the state of the budget, in requests of the rolling window.

        `resets_at` is when that window is empty if we send nothing more.
        """
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
    """Change `known`, which is new, into the knowledge of a new pool of `limit`."""
    known.limit = limit.most
    known.windows = [Window(*limit, since=0.0, parts=WINDOW_PARTS)]
    return known


def is_rolling(known: Known) -> bool:
    """Whether this is the knowledge of a limit without a header: see `fresh`."""
    return len(known.windows) == 1 and known.windows[0].parts == WINDOW_PARTS
