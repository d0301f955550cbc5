"""Leases and late settlements: the pool that processes share.

`SharedPool` keeps one record with other processes in a `Store`: a file, or whatever else can keep a
few bytes and lock them. The rule of this file: what a process charges ahead, and what it tells the
others late, never lets any of them send more than all together may; `stored` does the rest.
"""

import math
from collections.abc import Sequence
from functools import partial
from operator import methodcaller

from binance_oi import fork
from binance_oi.budget import record
from binance_oi.budget.bucket import Bucket
from binance_oi.budget.demand import LIFE, RENEWAL, Demand, believed, with_own
from binance_oi.budget.knowledge import Known
from binance_oi.budget.pool import Change, apply_limit, apply_refusal, changing
from binance_oi.budget.process import is_gone, this_process
from binance_oi.budget.stored import StoredPool
from binance_oi.budget.usage import Reason, Receipt, Wait
from binance_oi.exchange.limits import Limit

LOT = 8  # weight charged in advance
LEASE = 0.02  # s for which it may be sent; FLIGHT allows for far more
BRISK = 0.005  # s between two charges, below which the next ones are charged in advance
MANY = 64  # answers that wait to be told to others
BUSY = 0.001  # s after which to ask again for a bucket that another process has in its hands


class SharedPool(StoredPool):
    """A pool that several processes share through a store; see `StoredPool` for its arguments."""

    _charged_at = -math.inf  # monotonic s
    has_news: bool

    @changing
    def close(self) -> None:
        """Book what is late, as far as others let us, and close the store."""
        self._notice_fork()
        self._withdraw()
        if self._is_untold:
            self._check_at = -math.inf
        self.flush()
        self._check_at = math.inf
        if self._store is not None:
            self._store.close()
            self._store = None

    @changing
    def charge(self, weight: int, waiting: int = 0, bulk: bool = False) -> Receipt | Wait:
        """See `Pool.charge`.

        Leases no more than is known to wait, unless calls come in quick succession: then `LOT`.
        Calls behind one of another weight are not taken for calls of weight 1. A lease is for
        single calls or for bulk work, as the call it follows.
        """
        if self._process is not fork.current:
            self._notice_fork()
        now = self._clock()
        if now <= self._inherited_until:  # a clock that stands still: ours come after all of those
            now = math.nextafter(self._inherited_until, math.inf)
        leased = self._leased
        is_fit = leased and weight == 1 and (leased[-1].single == 0) is bulk
        if is_fit and now - leased[-1].sent < LEASE and not self._is_hold_new():
            return leased.pop()
        if not self._enter(now):
            return Wait(BUSY, Reason.STORE_BUSY)
        self._tell_doubts()
        answer = self._bucket.charge(now, weight, bulk)
        if isinstance(answer, Receipt):
            wanted = waiting if weight == 1 else 0
            if now - self._charged_at < BRISK:
                wanted = LOT
            if wanted and answer.first > self._bucket.known.others.expected_until:
                self._take_lease(now, min(wanted, LOT), bulk)
            self._charged_at = now
        self._leave(changed=self._changed or isinstance(answer, Receipt))
        return answer

    def _is_hold_new(self) -> bool:
        """What was charged in advance may not be sent once another process was refused.

        A lease lasts 20 ms, so whether the store was replaced is not asked here: `sending` and
        `_enter` ask it.
        """
        store = self._store
        try:
            return store is not None and store.is_hold_new()
        except OSError:
            return True  # whoever takes the lock next says what is wrong

    def _is_hold_possible(self) -> bool:
        """Whether another process may have written a hold, here or in a store after ours."""
        store = self._store
        try:
            return store is not None and (store.is_hold_new() or store.is_left())
        except OSError:
            return True

    def _take_lease(self, now: float, wanted: int, bulk: bool) -> None:
        """Charge for the next few calls, so that the store is locked once for all of them."""
        while self._bucket.leases and len(self._leased) < wanted:
            more = self._bucket.charge(now, 1, bulk)
            if not isinstance(more, Receipt):
                return
            self._leased.append(more)

    @changing
    def sending(self, receipt: Receipt) -> Receipt | None:
        """See `Pool.sending`; a hold that another process has written counts, too."""
        if self._is_of_parent(receipt):
            return None
        if self._clock() - receipt.sent >= LEASE and self._is_hold_possible():
            if not self._enter():
                return None
            self._leave(changed=self._changed)
        if self._held is not None and self._held.known.is_held(self._clock()):
            return None
        return super().sending(receipt)

    @changing
    def settle(self, receipt: Receipt, used: int | None, date: float | None) -> None:
        """See `Pool.settle`. Told to others with the next charge, or with `flush`."""
        if self._is_of_parent(receipt):
            return
        self.has_news = True
        self._late.append(methodcaller("settle", receipt, self._clock(), used, date))
        if receipt.probe or len(self._late) >= MANY:  # others may be waiting for it
            self.flush()

    def lose(self, receipt: Receipt) -> None:
        """See `Pool.lose`."""
        if not self._is_of_parent(receipt):
            self._change(methodcaller("lose", receipt, self._clock()))

    def refund(self, receipt: Receipt) -> None:
        """See `Pool.refund`."""
        if not self._is_of_parent(receipt):
            self._change(methodcaller("refund", receipt))

    def hold(self, seconds: float, *, ban: bool = False) -> None:
        """See `Pool.hold`."""
        self._hold(methodcaller("hold", self._clock(), seconds, ban=ban))

    def hold_until(self, until: float, *, ban: bool = False) -> None:
        """See `Pool.hold_until`."""
        self._hold(methodcaller("hold_until", until, ban=ban))

    def refused(self, seconds: float, *, ban: bool = False) -> None:
        """See `Pool.refused`."""
        self._hold(methodcaller("refused", self._clock(), seconds, ban=ban))

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
        """See `Pool.declare`; all pollers of this pool are one demand of the record."""
        self.declared.notice_fork()
        now = self._clock()
        is_new = self.declared.put(key, weight, now, anew=anew)
        if is_new or (self.declared.is_written and now - self.declared.renewed_at >= RENEWAL):
            self._write_demand(now)

    def _write_demand(self, now: float) -> None:
        declared = self.declared
        total = declared.total
        own = Demand(declared.owner, this_process(), total, declared.since, now + LIFE)
        declared.renewed_at, declared.is_written = now, total > 0.0
        self._change(partial(apply_demand, own, now))

    def _withdraw(self) -> None:
        """Need nothing any more."""
        self.declared.notice_fork()
        if self.declared.is_written:
            self.declared.clear()
            self._write_demand(self._clock())

    def demand(self, key: object) -> float:
        """See `Pool.demand`.

        Reads the record without its lock. The demand of a process that has ended does not count.
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
        if self._is_hold_possible():
            return self._between_changes(self._shown).held_for(self._clock(), ban=ban)
        return super().held_for(ban=ban)

    def _shown(self) -> tuple[Known, list[Change]]:
        """What others have written, and the changes that we have not told them yet.

        Reads the store without the lock, and changes neither the store nor the pool.
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
        """Others have to know at once: try to share, also when we just tried."""
        self._notice_fork()
        if self._store is None and self._check_at < math.inf:
            self._check_at = -math.inf
        self._change(change)
        if self._late:  # another process has the bucket in its hands; we obey the hold already
            held = self._make_bucket(record.copied(self._bucket.known))
            for late in self._late:
                late(held)
            self._held = held

    @changing
    def _change(self, change: Change) -> None:
        """Do it now, or with the next change when another process has the bucket in its hands."""
        self._notice_fork()
        # What was charged in advance was charged before this: it may not be sent after a hold.
        leased, self._leased = self._leased, []
        self._late += [methodcaller("refund", receipt) for receipt in leased]
        self._late.append(change)
        self.has_news = True
        self.flush()

    @changing
    def flush(self) -> None:
        """See `Pool.flush`."""
        self._notice_fork()
        if (self._late or self._leased or self._is_untold) and self._enter():
            self._leave(changed=True)
            self._tell_doubts()
        self._charged_at = -math.inf  # nothing is under way: the next charge is not one of many

    def _is_of_parent(self, receipt: Receipt) -> bool:
        """Whether our parent charged it before a fork: the call is under way there, not here."""
        if self._process is not fork.current:
            self._notice_fork()
        return receipt.sent <= self._inherited_until


def apply_demand(own: Demand, now: float, bucket: Bucket) -> None:
    """Write `own` beside the demands of processes that are still there."""
    known = bucket.known
    others = (each for each in known.demands if not is_gone(each.process))
    known.demands = with_own(others, own, now)
