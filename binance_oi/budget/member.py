"""The pool of one member, a process that shares a budget with other machines through a server.

The rule of this file: no call blocks. A charge takes a lease: weight that the pool has charged in
advance. Without a lease, the charge returns a wait and wakes the courier, which talks to the
server. `turns` decides what the courier asks. `apart` decides what happens while the member is
*apart*: before its first write to the record, and while the server is lost.
"""

import math
import struct
from collections.abc import Callable, Sequence
from functools import partial
from operator import methodcaller

from binance_oi import fork
from binance_oi.budget import record
from binance_oi.budget.apart import ApartPool
from binance_oi.budget.demand import DEMAND_LIFE_S, RENEWAL_S, Demand, Process, believed
from binance_oi.budget.knowledge import Known
from binance_oi.budget.pool import Change, apply_limit, apply_refusal, changing
from binance_oi.budget.process import UNKNOWN_NAMESPACE
from binance_oi.budget.record_pool import Want, logger
from binance_oi.budget.shared import apply_demand
from binance_oi.budget.tuning import PATIENCE
from binance_oi.budget.turns import COOLDOWN, LEASE_S, NEWS, NEXT, READ_PAUSE_S
from binance_oi.budget.usage import Reason, Receipt, Wait
from binance_oi.exchange.limits import Limit

GROUP_MINUTES = 3  # minutes in a row in which others look like more members; then we warn
MAX_LATE_CHANGES = 256  # late changes at which the pool writes them without delay
_COOLDOWN = struct.Struct("<dd")  # the ends of a cooldown and of a ban, Unix s
ELSEWHERE = Process(UNKNOWN_NAMESPACE, 0, 0)  # a process whose end other machines cannot see


def _no_courier() -> None:
    """Do nothing, because the pool has no courier yet."""


class MemberPool(ApartPool):
    """A pool that processes on several machines share through a server.

    Args:
        make_bucket: Makes a bucket with our reserve and our share.
        make_state: Makes the knowledge of a pool before any answer; its argument is our clock.
        steady: Monotonic seconds of this machine.
        wall: Unix seconds.
        without_server: What to do while the server is lost: `share` the limit, or `wait`.
    """

    wake: Callable[[], object] = staticmethod(_no_courier)
    """The pool calls this to make the courier ask the server; it starts the courier if needed."""
    nudge: Callable[[], object] = staticmethod(_no_courier)
    """The pool calls this to make a running courier ask the server; it starts none."""
    has_news: bool  # see `ProcessPool`
    _like_a_group = 0  # minutes in a row in which others looked like a second group of members
    _inherited_until = -math.inf  # our parent charged the receipts from before this instant

    def charge(self, weight: int, waiting: int = 0, bulk: bool = False) -> Receipt | Wait:
        """See `Pool.charge`. A lease serves nearly every call."""
        if self._process is not fork.current:
            self._notice_fork()
        now = self._now()
        leased = self._leased.get((weight, bulk))
        if leased and now - leased[0].sent < LEASE_S:
            self._unreturned += weight
            return leased.popleft()
        if self._is_apart:
            self.wake()
            return self._charge_alone(now, weight, bulk)
        want = self._want
        if want is None or (want.weight, want.bulk) != (weight, bulk):
            self._want, self._refusal = Want(weight, waiting, bulk, now), None
        else:
            want.waiting, want.at = waiting, now
        if self._refusal is not None and now < self._refusal[0]:
            _, since, wait = self._refusal
            if wait.seconds is None:
                return wait
            seconds = max(wait.seconds - (now - since), self._refusal[0] - now)
            end = None if wait.end is None else max(seconds, wait.end - (now - since))
            return Wait(seconds, wait.reason, end)
        self.wake()
        return Wait(READ_PAUSE_S, Reason.LEASE)

    @changing
    def _charge_alone(self, now: float, weight: int, bulk: bool) -> Receipt | Wait:
        return self._charge_apart(now, weight, bulk)

    @changing
    def sending(self, receipt: Receipt) -> Receipt | None:
        """See `Pool.sending`.

        It returns None for a receipt older than `PATIENCE`, because other members may have released
        its weight. It also returns None for a receipt of our parent. In both cases the caller
        charges again.
        """
        timely = self._timely(receipt)
        if self._is_of_parent(receipt) or self._now() - timely.sent > PATIENCE:
            return None
        return super().sending(timely)

    @changing
    def settle(self, receipt: Receipt, used: int | None, date: float | None) -> None:
        """See `Pool.settle`. Other members learn of the answer with our next write."""
        if self._is_of_parent(receipt):
            return
        newest = self._bucket.known.ledger.newest
        receipt = self._timely(receipt)
        self._take_back(receipt, methodcaller("settle", receipt, self._now(), used, date))
        self._is_probe_late |= receipt.probe
        is_new_minute = self._bucket.known.ledger.newest > newest
        if receipt.probe or len(self._late) >= MAX_LATE_CHANGES or is_new_minute:
            self._hurry()
        if is_new_minute and not self._is_apart:
            self._warn_of_a_group()
        self._warn_of_doubts()

    def _warn_of_a_group(self) -> None:
        """Warn if others use the limit as another group would, for `GROUP_MINUTES` in a row."""
        known = self._bucket.known
        is_like_one = known.weight_of_copies(known.ledger.newest - 1) > 0.0
        self._like_a_group = self._like_a_group + 1 if is_like_one else 0
        if self._like_a_group == GROUP_MINUTES:
            logger.warning(
                "others on this address use the limit as another group of this package would: every"
                " process behind it needs RedisBudget with the same server and the same egress"
            )

    def lose(self, receipt: Receipt) -> None:
        """See `Pool.lose`."""
        if not self._is_of_parent(receipt):
            receipt = self._timely(receipt)
            self._take_back(receipt, methodcaller("lose", receipt, self._now()))

    def refund(self, receipt: Receipt) -> None:
        """See `Pool.refund`."""
        if not self._is_of_parent(receipt):
            receipt = self._timely(receipt)
            self._take_back(receipt, methodcaller("refund", receipt))

    @changing
    def _take_back(self, receipt: Receipt, change: Change) -> None:
        """Take a receipt back from a caller, and apply the `change` of the books."""
        self._unreturned -= receipt.weight
        self.has_news = True
        self._note(change)
        self.nudge()

    def settle_refused(
        self, receipt: Receipt, used: int | None, date: float | None, seconds: float, *, ban: bool
    ) -> None:
        """See `Pool.settle_refused`."""
        if self._is_of_parent(receipt):
            self.refused(seconds, ban=ban)
            return
        self._unreturned -= receipt.weight
        receipt = self._timely(receipt)
        self._hold(partial(apply_refusal, receipt, self._now(), used, date, seconds, ban))
        self._warn_of_doubts()

    @changing
    def _hold(self, change: Change) -> None:
        """Begin a cooldown, and publish it at once."""
        self._notice_fork()
        self._drop_leases()
        self._note(change)
        self._hurry()

    def set_limit(self, limit: int) -> None:
        """See `Pool.set_limit`."""
        if limit != self._bucket.known.limit:
            self._change(partial(apply_limit, limit))

    def set_limits(self, limit: int | None, others: Sequence[Limit]) -> None:
        """See `Pool.set_limits`."""
        self._change(methodcaller("set_limits", self._now(), limit, tuple(others)))

    @changing
    def _change(self, change: Change) -> None:
        self._notice_fork()
        self.has_news = True
        self._note(change)
        self.nudge()

    def _hurry(self) -> None:
        """Write the late changes at once, because other members wait for them."""
        self._is_urgent = self.has_news = True
        self.nudge()

    def _drop_leases(self) -> None:
        self._cooldowns += 1
        self._return_leases()

    # -- demands ---------------------------------------------------------------------------------

    def declare(self, key: object, weight: float, *, anew: bool = False) -> None:
        """See `Pool.declare`. The record has one demand for all pollers of this pool together."""
        self.declared.notice_fork()
        now, declared = self._now(), self.declared
        is_new = declared.put(key, weight, now, anew=anew)
        if is_new or (declared.is_written and now - declared.renewed_at >= RENEWAL_S):
            self._write_demand(now)

    def _write_demand(self, now: float) -> None:
        declared, total = self.declared, self.declared.total
        own = Demand(declared.owner, ELSEWHERE, total, declared.since, now + DEMAND_LIFE_S)
        declared.renewed_at, declared.is_written = now, total > 0.0
        self._change(partial(apply_demand, own, now))

    def withdraw(self) -> None:
        """Withdraw the demand of this process."""
        self.declared.notice_fork()
        if self.declared.is_written:
            self.declared.clear()
            self._write_demand(self._now())

    def demand(self, key: object) -> float:
        """See `Pool.demand`."""
        self.declared.notice_fork()
        declared, needed = self.declared, self.declared.before(key)
        ours = (declared.since, declared.owner) if key in declared else (math.inf, 0)
        for other in believed(self._bucket.known.demands, self._now()):
            if other.owner != declared.owner and (other.since, other.owner) < ours:
                needed += other.weight
        return needed

    # -- the server ------------------------------------------------------------------------------

    def take_news(self) -> bytes:
        """Return the message of a new cooldown, for all members; empty if there is none."""
        known = self._bucket.known
        heard, now = self._heard, self._now()
        is_new = known.cooldown_until > heard.cooldown_until
        is_new |= known.banned_until > heard.banned_until
        if not (is_new and known.is_held(now)):
            return b""
        heard.cooldown_until = max(heard.cooldown_until, known.cooldown_until)
        heard.banned_until = max(heard.banned_until, known.banned_until)
        return COOLDOWN + _COOLDOWN.pack(heard.cooldown_until, heard.banned_until)

    @changing
    def hear(self, news: bytes) -> None:
        """Handle a message from another member or from the server."""
        kind, rest = news[:1], news[1:]
        if kind == NEXT and rest != self.member:
            return
        if kind == COOLDOWN and len(rest) == _COOLDOWN.size:
            self._hear_cooldown(*_COOLDOWN.unpack(rest))
        elif kind == NEXT:
            self._turn_at = -math.inf
        elif kind == NEWS:
            self._refusal, self.has_news = None, True
        if self._want is not None:
            self.nudge()

    def _hear_cooldown(self, cooldown: float, banned: float) -> None:
        """Obey a cooldown of another member, unless it is longer than the longest ban.

        Args:
            cooldown: The end of the cooldown, Unix s.
            banned: The end of a ban, Unix s; 0.0 for none.
        """
        known, now = self._bucket.known, self._now()
        heard = Known(1, known.clock, cooldown_until=cooldown, banned_until=banned)
        before = known.cooldown_until, known.banned_until
        record.keep_cooldowns(known, heard, now)
        after = known.cooldown_until, known.banned_until
        if after != before:
            self._heard.cooldown_until, self._heard.banned_until = after
            self._drop_leases()
            self.has_news = True

    def reset(self) -> None:
        """Read the record again if we have written to it or are apart: the connection is new.

        The connection may lead to another server, or the server may have lost our writes.
        """
        self._doubted_at = self._steady()
        if len(self._journal) or self._is_apart:
            self._found = None
            self.nudge()

    def give_back(self) -> None:
        """Return the leases, withdraw the demand, and make a last write due.

        That write contains the late changes, and gives up our part of the limit.
        """
        self.withdraw()
        self._want = None
        self._return_leases()
        self._is_leaving = self._line is not None and self._line.members > 0
        self._is_urgent = bool(self._late) or self._is_leaving

    def is_written(self) -> bool:
        """Whether nothing is left to write; also True while we are apart, when we write nothing."""
        return self._is_apart or not (self._late or self._unsure or self._is_leaving)

    def held_for(self, *, ban: bool = False) -> float:
        """See `Pool.held_for`. Before our first read of the record, the call wakes the courier,
        because another member may be in a cooldown."""
        if self._found is None:
            self.wake()
        return super().held_for(ban=ban)

    # -- after a fork ----------------------------------------------------------------------------

    def _notice_fork(self) -> None:
        """In a forked child, become a new member; the parent writes its own late changes."""
        if self._process is fork.current:
            return
        self._process = fork.current
        self._inherited_until = self._now()
        self._begin_anew()

    # -- shown -----------------------------------------------------------------------------------

    def _shown(self) -> tuple[Known, list[Change]]:
        leased = [receipt for queue in list(self._leased.values()) for receipt in list(queue)]
        changes: list[Change] = [methodcaller("refund", receipt) for receipt in leased]
        return record.copied(self._bucket.known), changes
