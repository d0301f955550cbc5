"""The pool that several processes share, with leases and late settlements.

`SharedPool` shares one record with other processes in a `Store`: a file, or anything else that can
store and lock a few bytes. `stored` locks, reads and writes the record. The rule of this file: a
process may charge in advance (a *lease*) and write its settlements late, but all processes together
never send more than the budget allows.
"""

import math
from collections.abc import Sequence
from functools import partial
from operator import methodcaller

from binance_oi import fork
from binance_oi.budget import record
from binance_oi.budget.bucket import Bucket
from binance_oi.budget.demand import DEMAND_LIFE_S, RENEWAL_S, Demand, believed, with_own
from binance_oi.budget.knowledge import Known
from binance_oi.budget.pool import Change, apply_limit, apply_refusal, changing
from binance_oi.budget.process import is_gone, this_process
from binance_oi.budget.stored import StoredPool
from binance_oi.budget.usage import Reason, Receipt, Wait
from binance_oi.exchange.limits import Limit

MAX_LEASED_CALLS = 8  # calls of weight 1 that a process usually charges in advance, at most
# While the minute has much room, a lease is larger. It takes so little of the room that other
# processes do not notice.
LEASE_PART = 32  # such a lease takes at most 1/32 of the room
LARGEST_LEASE = 32  # calls in such a lease, at most
LEASE_S = 0.02  # s for which a lease may be used; `tuning.FLIGHT` would allow far more
QUICK_SUCCESSION_S = 0.005  # s between two charges; if they are closer, take a lease
# The next three numbers are for a rolling window. Its leases may be larger and older: the use of a
# window never falls to 0 at once, as that of a minute does, and no other process waits for our
# counts. The pages of one history follow each other, one round trip apart; 30 days of 5m have 18
# pages.
WINDOW_LEASED_CALLS = 16  # calls in a lease, at most
WINDOW_LEASE_S = 1.0  # s for which a lease may be used
WINDOW_SUCCESSION_S = 0.25  # s between two charges; if they are closer, take a lease
MAX_LATE_SETTLEMENTS = 64  # settlements at which the pool writes them without delay
LOCKED_RETRY_S = 0.001  # s until the next try, while another process has locked the record


class SharedPool(StoredPool):
    """A pool that several processes share through a store; see `StoredPool` for its arguments."""

    _charged_at = -math.inf  # monotonic s of the latest charge
    has_news: bool

    @changing
    def close(self) -> None:
        """Close the store; first refund leases and write late changes, if the lock is free."""
        self._notice_fork()
        self._withdraw()
        if self._has_unwritten:
            self._check_at = -math.inf
        self.flush()
        self._check_at = math.inf
        if self._store is not None:
            self._store.close()
            self._store = None

    def charge(self, weight: int, waiting: int = 0, bulk: bool = False) -> Receipt | Wait:
        """See `Pool.charge`.

        It leases weight for waiting calls, up to `MAX_LEASED_CALLS`. If calls come in quick
        succession, it leases weight for `MAX_LEASED_CALLS` of them, or for up to `LARGEST_LEASE`
        while there is much room. It takes no lease while it expects others. A lease serves only
        calls of weight 1, and only those of one kind: single or bulk, like the call with which it
        was charged. In a rolling window, a lease serves up to `WINDOW_LEASED_CALLS` single calls;
        bulk work goes at an even pace, and takes no lease.
        """
        now, leased = self._clock(), self._leased
        if leased and weight == 1 and self._process is fork.current:
            receipt, is_brief = leased[-1], self._bucket.leases_bulk
            is_fit = receipt.bulk is bulk
            if is_fit and now - receipt.sent < (LEASE_S if is_brief else WINDOW_LEASE_S):
                is_new = now - receipt.sent < LEASE_S
                if not self._is_cooldown_possible(is_new):
                    if not is_brief:  # calls that use a long lease are in quick succession too
                        self._charged_at = now
                    return leased.pop()  # one step, so a reader sees it done or not begun
        return self._charge_anew(now, weight, waiting, bulk)

    @changing
    def _charge_anew(self, now: float, weight: int, waiting: int, bulk: bool) -> Receipt | Wait:
        """Charge in the record, because no lease serves the call; perhaps take a new lease."""
        self._notice_fork()
        if now <= self._inherited_until:  # a child's receipts must be later than its parent's
            now = math.nextafter(self._inherited_until, math.inf)
        if not self._enter(now):
            return Wait(LOCKED_RETRY_S, Reason.STORE_BUSY)
        self._warn_of_doubts()
        answer = self._bucket.charge(now, weight, bulk)
        if isinstance(answer, Receipt):
            wanted = self._wanted(now, weight, waiting, bulk)
            if wanted and answer.first > self._bucket.known.others.expected_until:
                self._take_lease(now, wanted, bulk)
            self._charged_at = now
        self._leave(changed=self._changed or isinstance(answer, Receipt))
        return answer

    def _wanted(self, now: float, weight: int, waiting: int, bulk: bool) -> int:
        """Return the number of calls to charge for in advance."""
        if self._bucket.leases_bulk:
            most, succession_s = MAX_LEASED_CALLS, QUICK_SUCCESSION_S
        elif bulk:
            return 0
        else:
            most, succession_s = WINDOW_LEASED_CALLS, WINDOW_SUCCESSION_S
        if now - self._charged_at < succession_s:
            spare = self._bucket.spare(now)
            return max(most, min(LARGEST_LEASE, spare // LEASE_PART))
        return min(waiting, most) if weight == 1 else 0

    def _is_cooldown_possible(self, is_new: bool = False) -> bool:
        """Whether another process may have written a cooldown, here or in a newer store.

        Args:
            is_new: Whether we used the store less than `LEASE_S` ago. Then the call does not check
                whether the store was replaced.
        """
        store = self._store
        try:
            return store is not None and (
                store.is_cooldown_new() or (not is_new and store.is_replaced())
            )
        except OSError:
            return True  # the next `_enter` reports the error

    def _take_lease(self, now: float, wanted: int, bulk: bool) -> None:
        """Charge for the next few calls, so that one lock of the store serves all of them."""
        whole = self._bucket.charge_plainly(now, wanted, bulk)
        if whole is not None:  # nearly always: the calls are alike, and so are their receipts
            one = whole._replace(weight=1)
            self._leased = [one] * wanted
            return
        while len(self._leased) < wanted:
            more = self._bucket.charge(now, 1, bulk)
            if not isinstance(more, Receipt):
                return
            self._leased.append(more)

    @changing
    def sending(self, receipt: Receipt) -> Receipt | None:
        """See `Pool.sending`; it also obeys a cooldown that another process has written."""
        if self._is_of_parent(receipt):
            return None
        if self._clock() - receipt.sent >= LEASE_S and self._is_cooldown_possible():
            if not self._enter():
                return None
            self._leave(changed=self._changed)
        if self._held is not None and self._held.known.is_held(self._clock()):
            return None
        return super().sending(receipt)

    def settle(self, receipt: Receipt, used: int | None, date: float | None) -> None:
        """See `Pool.settle`. The next charge or `flush` writes the settlement into the record."""
        if self._is_of_parent(receipt):
            return
        # One step, so a reader sees it done or not begun.
        self._late.append(methodcaller("settle", receipt, self._clock(), used, date))
        if receipt.probe or len(self._late) >= MAX_LATE_SETTLEMENTS:
            self.has_news = True  # `flush` calls the listeners
            self.flush()  # other processes wait for the count of a probe
        elif self.listeners:
            self.call_listeners()

    def lose(self, receipt: Receipt) -> None:
        """See `Pool.lose`."""
        if not self._is_of_parent(receipt):
            self._change(methodcaller("lose", receipt, self._clock()))

    def refund(self, receipt: Receipt) -> None:
        """See `Pool.refund`."""
        if not self._is_of_parent(receipt):
            self._change(methodcaller("refund", receipt))

    def settle_refused(
        self, receipt: Receipt, used: int | None, date: float | None, seconds: float, *, ban: bool
    ) -> None:
        """See `Pool.settle_refused`."""
        if self._is_of_parent(receipt):
            self.refused(seconds, ban=ban)
            return
        now = self._clock()
        self._hold(partial(apply_refusal, receipt, now, used, date, seconds, ban))

    def set_limit(self, limit: int) -> None:
        """See `Pool.set_limit`."""
        self._change(partial(apply_limit, limit))

    def set_limits(self, limit: int | None, others: Sequence[Limit]) -> None:
        """See `Pool.set_limits`."""
        self._change(methodcaller("set_limits", self._clock(), limit, tuple(others)))

    def declare(self, key: object, weight: float, *, anew: bool = False) -> None:
        """See `Pool.declare`. The record has one demand for all pollers of this pool."""
        self.declared.notice_fork()
        now = self._clock()
        is_new = self.declared.put(key, weight, now, anew=anew)
        if is_new or (self.declared.is_written and now - self.declared.renewed_at >= RENEWAL_S):
            self._write_demand(now)

    def _write_demand(self, now: float) -> None:
        declared = self.declared
        total = declared.total
        own = Demand(declared.owner, this_process(), total, declared.since, now + DEMAND_LIFE_S)
        declared.renewed_at, declared.is_written = now, total > 0.0
        self._change(partial(apply_demand, own, now))

    def _withdraw(self) -> None:
        """Withdraw the demand."""
        self.declared.notice_fork()
        if self.declared.is_written:
            self.declared.clear()
            self._write_demand(self._clock())

    def demand(self, key: object) -> float:
        """See `Pool.demand`.

        It reads the record without the lock, and ignores demands of processes that have ended.
        """
        self.declared.notice_fork()
        declared, needed = self.declared, self.declared.before(key)
        ours = (declared.since, declared.owner) if key in declared else (math.inf, 0)
        for other in believed(self._written().demands, self._clock()):
            is_before = other.owner != declared.owner and (other.since, other.owner) < ours
            if is_before and not is_gone(other.process):
                needed += other.weight
        return needed

    def held_for(self, *, ban: bool = False) -> float:
        """See `Pool.held_for`."""
        if self._is_cooldown_possible():
            return self._between_changes(self._shown).held_for(self._clock(), ban=ban)
        return super().held_for(ban=ban)

    def _shown(self) -> tuple[Known, list[Change]]:
        """Return a copy of the shared knowledge, and our changes that are not written yet.

        It reads the store without the lock, and changes neither the store nor the pool.
        """
        state = self._written()
        if self._process is not fork.current:
            return state, []
        changes: list[Change] = [*self._late]
        changes += [methodcaller("refund", receipt) for receipt in self._leased]
        return state, changes

    @property
    def _obeyed(self) -> Bucket:
        return self._bucket if self._held is None else self._held

    @changing
    def _hold(self, change: Change) -> None:
        """Begin a cooldown. To publish it at once, also try a store that has failed lately."""
        self._notice_fork()
        if self._store is None and self._check_at < math.inf:
            self._check_at = -math.inf
        self._change(change)
        if self._late:  # another process has the lock; until we can write, obey a copy
            held = self._make_bucket(record.copied(self._bucket.known))
            for late in self._late:
                late(held)
            self._held = held

    @changing
    def _change(self, change: Change) -> None:
        """Apply a change now, or together with the next one if another process has the lock."""
        self._notice_fork()
        # Refund the leases first, because this change may be a cooldown.
        leased, self._leased = self._leased, []
        self._late += [methodcaller("refund", receipt) for receipt in leased]
        self._late.append(change)
        self.has_news = True
        self.flush()

    def when_idle(self) -> bool:
        """See `Pool.when_idle`.

        The pool keeps back only settlements: until it writes them, the other processes take their
        weight for unconfirmed, so `used` is never too low.
        """
        if self._leased or self._has_unwritten:
            self.flush()
        self._charged_at = -math.inf  # calls that come now are not in quick succession
        return bool(self._late)

    @changing
    def flush(self) -> None:
        """See `Pool.flush`."""
        self._notice_fork()
        if (self._late or self._leased or self._has_unwritten) and self._enter():
            self._leave(changed=True)
            self._warn_of_doubts()
        self._charged_at = -math.inf  # calls that come now are not in quick succession


def apply_demand(own: Demand, now: float, bucket: Bucket) -> None:
    """Write our demand into the record, and remove those of processes that have ended."""
    known = bucket.known
    others = (each for each in known.demands if not is_gone(each.process))
    known.demands = with_own(others, own, now)
