"""Chooses the next turn of a process at the shared record, and handles the result of that turn.

A server keeps the record, and a member is a process that shares it. A turn is one call to the
server: a read or a write of the record. The rule of this file: it decides, and does no I/O. `begin`
returns the next turn. A task (`courier`) makes the call, and passes the result to `answered` or
`failed`. A lease is weight that a turn charges in advance for later requests to the exchange.
"""

import math
from collections import deque
from copy import copy
from operator import methodcaller

from binance_oi.budget import member_record, record
from binance_oi.budget.bucket import Bucket
from binance_oi.budget.journal import Booked
from binance_oi.budget.member_record import PRESENCE_S, Line, Shared
from binance_oi.budget.pool import changing
from binance_oi.budget.record_pool import RESTORE_S, UPDATE_S, RecordPool, Turn, Want
from binance_oi.budget.record_server import Answer, Outcome, Swap
from binance_oi.budget.usage import Reason, Receipt, Usage, Wait

MAX_LEASE_WEIGHT = 100  # weight that a turn charges in advance, at most
SMALL_LEASE_WEIGHT = 4  # weight of a lease, at most, while others are expected or little is free
LEASE_S = 1.0  # s in which a request may use weight charged in advance
READ_PAUSE_S = 0.1  # s between two reads while room may appear at any time
CROWD_MEMBERS = 10  # members; if there are more, each one that waits for room reads less often
CROWD_UPDATE_S = 1.5  # s between two such reads; this plus `CALL_TIMEOUT_S` is at most `RESTORE_S`
CALL_TIMEOUT_S = 0.5  # s; the timeout of one call to the server
LOST_AFTER_CALLS = 3  # calls that fail in a row, at least, before we treat the server as lost
LOST_AFTER_S = 2.5  # s from the start of the first of these calls, at least
QUICK_RETRY_S = 0.1  # s to the next call, from the second failed call in a row on
RETRY_S = 1.0  # s between two calls while the server is lost
WANT_LIFE_S = 2.0  # s since the last attempt to charge; then we assume that no request waits
TURN_S = 0.1  # s in which only the member at the head of the server's queue may write a charge
RECORD_LIFE_S = 900.0  # s from a write, or its cooldown's end; then the server drops the record

# The kinds of messages. NEWS: the record has changed. COOLDOWN: a cooldown has begun. NEXT: whose
# turn it is.
NEWS, COOLDOWN, NEXT = b"n", b"h", b"t"


class TurnPool(RecordPool):
    """A pool that takes turns at the record; see `MemberPool` for its arguments."""

    has_news: bool  # see `ProcessPool`

    def due_in(self) -> float | None:
        """Seconds until `begin` may return a turn; None until a request or a message comes."""
        now = self._now()
        if self._is_reading or self._is_apart:
            return max(0.0, self._retry_at - now)
        if self._found is None or self._is_urgent or self._is_unseen:
            return 0.0
        moments = [self._late_since + UPDATE_S]
        if self._unreturned:
            moments.append(self._read_at + UPDATE_S)
        if self._has_leases:
            moments.append(self._leased_at + LEASE_S)
        if self._line is not None and self._line.members:
            moments.append(self._line.at + PRESENCE_S)
        if self._want is not None:
            moments.append(max(self._refusal[0] if self._refusal else now, self._turn_at))
        due = min(moments)
        return None if due == math.inf else max(0.0, due - now)

    @property
    def _has_leases(self) -> bool:
        return any(self._leased.values())

    @changing
    def begin(self) -> Turn | None:
        """Return the next turn; None if none is due."""
        now = self._now()
        is_unknown = self._found is None or self._is_reading
        if is_unknown or (self._is_apart and not self._is_joining):
            return self._reading()
        if self._has_leases and now - self._leased_at >= LEASE_S:
            self._return_leases()
        if self._want is not None and now - self._want.at > WANT_LIFE_S:
            self._want = None
        was_refused = self._refusal
        turn = self._turn(now)
        if turn is not None:
            return turn
        self._is_urgent = False
        is_refused = self._refusal is not None and self._refusal is not was_refused
        if is_refused and now - self._read_at > READ_PAUSE_S:  # our copy may be outdated
            self._refusal = None
            return self._reading()
        return None

    def _reading(self) -> Turn:
        return Turn(Swap(member_record.version(self._found or b"")))

    def _return_leases(self) -> list[Receipt]:
        """Refund all weight that is charged in advance, and return its receipts."""
        self._lease_weight = 0
        leased = self._take_leases()
        for receipt in leased:
            self._note(methodcaller("refund", receipt))
        return leased

    def _take_leases(self) -> list[Receipt]:
        leased = [receipt for queue in self._leased.values() for receipt in queue]
        self._leased.clear()
        return leased

    def _turn(self, now: float) -> Turn | None:
        """Prepare a write of new charges and unwritten changes; None if no write is due."""
        self._is_unseen = False
        shared, rebooked = self._loaded(now)
        state, bucket = shared.state, self._make(shared.state)
        before, newest, held = Booked.of(state), state.ledger.newest, state.cooldown_until
        for late in self._late:
            late(bucket)
        record.keep_cooldowns(state, self._heard, now)
        shared.expect_members(self.member, now)
        receipts = self._charged(bucket, shared, now)
        is_due = self._is_urgent or now >= min(self._late_since, self._read_at) + UPDATE_S
        is_due_now = (is_due and bool(self._late or self._unreturned)) or self._is_presence_due(now)
        if not (receipts or is_due_now or rebooked or self._is_apart):
            self._adopt(bucket, ())
            return None
        change = Booked.of(state).since(before)
        state.clock = copy(self._bucket.known.clock)
        self._serial += 1
        k = state.clock.likeliest(now)
        used = max(0, self._journal.booked(k) + change.booked[k])
        under_way = self._journal.under_way(k, change)
        is_hungry = self._want is not None and self._lease_weight > 0
        members = self._members_beside(shared, k) if used or self._is_active(k) else 0
        left = shared.left(k, members)
        line = Line(self._serial, now, k, used, is_hungry, under_way, {}, members, left)
        shared.put_line(self.member, line)
        is_news = state.ledger.newest > newest or state.cooldown_until > held
        swap = Swap(
            member_record.version(self._found or b""),
            member_record.encode(shared),
            self.member if receipts else b"",
            NEWS if is_news or self._is_probe_late else b"",
            int(1000 * (RECORD_LIFE_S + max(0.0, state.cooldown_until - now - state.clock.lo))),
        )
        sent = len(self._late)
        made = Turn(swap, line, bucket, sent, receipts, change, rebooked, self._cooldowns)
        made.is_bulk = self._want is not None and self._want.bulk
        return made

    def _is_presence_due(self, now: float) -> bool:
        """Whether to write even without a change: to show that we reach the server, or that we
        leave."""
        line = self._line
        is_due = line is not None and line.members > 0 and now >= line.at + PRESENCE_S
        return is_due or self._is_leaving

    def _is_active(self, k: int) -> bool:
        """Whether we have used weight in minute `k` or in the minute before it, or are about to."""
        is_calling = self._want is not None or bool(self._unreturned)
        return is_calling or any(self._journal.booked(j) > 0 for j in (k - 1, k))

    def _members_beside(self, shared: Shared, k: int) -> int:
        """Our part without the server is the limit divided by this; 0: we leave, and have none."""
        if self._is_leaving and self._want is None:
            return 0
        return shared.sharers(self.member, k, self._read_at)  # our copy may be outdated now

    def _charged(self, bucket: Bucket, shared: Shared, now: float) -> list[Receipt]:
        """Charge for the request at the head of our queue, and in advance for later ones.

        Returns:
            The receipt of that request, and then the leases; empty without a charge.
        """
        want = self._want
        is_refused = self._refusal is not None and now < self._refusal[0]
        if want is None or is_refused or self._is_apart or now < self._turn_at:
            return []
        usage = bucket.usage(now)
        wait = self._too_early(shared, usage, want.weight, now)
        free = self._free(bucket, shared, usage, want.weight, now)
        used = self._journal.booked(bucket.known.clock.likeliest(now))
        part = shared.even_part(self.member, used, free, now)
        is_count_due = shared.is_count_due(self.member, now)
        soon = READ_PAUSE_S * max(1, shared.fresh(now, RESTORE_S)) / 2
        is_crowd = shared.seen(bucket.known.clock.likeliest(now)) > CROWD_MEMBERS
        longest = CROWD_UPDATE_S if is_crowd else UPDATE_S
        if not wait and usage.remaining >= want.weight > part and not is_count_due:
            wait = Wait(soon if free else longest, Reason.LEASE)
        first = wait or bucket.charge(now, want.weight, want.bulk)
        if isinstance(first, Wait):
            seconds = longest if first.seconds is None else min(max(first.seconds, soon), longest)
            self._refusal = now + seconds, now, first
            self.has_news |= first.seconds is None
            return []
        receipts = [first]
        lease = 0 if is_count_due else self._next_lease(bucket, shared, want, now)
        while len(receipts) <= min(lease, part - 1):
            more = bucket.charge(now, 1, want.bulk)
            if isinstance(more, Wait):
                break
            receipts.append(more)
        return receipts

    def _free(self, bucket: Bucket, shared: Shared, usage: Usage, weight: int, now: float) -> int:
        """The weight that we may use, less the weight that we leave to silent members.

        Near a rollover, every minute that may count the request must have room for the request and
        for that weight. This function ignores a minute without room for the request: there the
        bucket itself decides.
        """
        known = bucket.known
        first, likeliest, last = known.span(now)
        free = usage.remaining - shared.kept(self.member, likeliest, now)
        for k in range(first, last + 1):
            kept = 0 if k == likeliest else shared.kept(self.member, k, now)
            room = usage.limit - usage.reserve - known.ledger.minute(k).used
            if kept and room >= weight:
                free = min(free, room - kept)
        return max(0, free)

    def _too_early(self, shared: Shared, usage: Usage, weight: int, now: float) -> Wait | None:
        """The wait before we may charge, even if the bucket has room; None if we may charge."""
        restored = max(shared.quiet_until - now, self._until_restored())
        if restored > 0.0:
            return Wait(restored, Reason.LEASE)
        if self._unreturned and not self._bucket.known.clock.dated:
            return Wait(READ_PAUSE_S, Reason.PROBE_PENDING)  # the answer brings the exchange's time
        kept = shared.until_reserve_is_free(self.member, weight, now, usage.limit - usage.reserve)
        if kept > 0.0:
            return Wait(kept, Reason.MINUTE_FULL)
        return None

    def _next_lease(self, bucket: Bucket, shared: Shared, want: Want, now: float) -> int:
        """The weight to charge in advance for the requests behind the first one, 1 for each."""
        known = bucket.known
        is_single = want.weight != 1 or not bucket.leases_bulk or not known.clock.dated
        if is_single or known.is_held(now) or known.probe_ends_at > now:
            return 0
        if not want.waiting or known.span(now)[2] <= known.others.expected_until:
            return min(want.waiting, SMALL_LEASE_WEIGHT)
        self._lease_weight = min(max(2 * self._lease_weight, want.waiting), MAX_LEASE_WEIGHT)
        free, members = bucket.usage(now).remaining, max(1, shared.fresh(now, RESTORE_S))
        return min(self._lease_weight, max(SMALL_LEASE_WEIGHT, free // (2 * members)))

    @changing
    def answered(self, turn: Turn, answer: Answer, sent: float) -> None:
        """Process the server's answer to a call that began at `sent`, s by our steady clock."""
        if answer.outcome is Outcome.OUTDATED:
            self._lose_server("a newer version of this package uses the same budget")
            self._is_reading, self._retry_at = True, self._now() + RETRY_S
            return
        self._is_reading, self._retry_at = False, -math.inf
        if answer.outcome is Outcome.DONE or not self._is_write_failing:
            self._failures, self._failing_since = 0, math.inf
            self._is_write_failing = False
        if answer.outcome is Outcome.DONE:
            self._found = turn.swap.record
        elif answer.found is not None:
            self._found = answer.found
        elif self._found is None:
            self._found = b""
        self._note_time(answer.time, sent)
        self._read_at = self._now()
        if answer.outcome is Outcome.DONE:
            self._done(turn)
            return
        if answer.found is not None:
            self._refusal = None
            self._judge_unsure()
        if answer.outcome is Outcome.TURN:
            self._turn_at = self._read_at + TURN_S / 2
        if turn.bucket is None:
            self._is_unseen = True
            self._begin_to_join()

    def _done(self, turn: Turn) -> None:
        """The server has done the write: continue with the books and leases of `turn`."""
        assert turn.bucket is not None
        self._last, self._line = turn.swap.record, turn.line
        self._is_leaving = False
        self._confirm(turn)
        self._unsure.clear()
        self._adopt(turn.bucket, self._late)
        self._is_urgent = False
        self._join()
        if turn.receipts:
            self._want, self._refusal, self.has_news = None, None, True
            self._leased_at = turn.receipts[0].sent
            for receipt in turn.receipts:
                key = receipt.weight, turn.is_bulk
                self._leased.setdefault(key, deque()).append(receipt)
            if turn.cooldowns != self._cooldowns:
                self._return_leases()

    def _begin_to_join(self) -> None:
        """If we were apart, begin to join, because we have read the record."""
        if not self._is_apart:
            return
        self._is_joining = True
        now = self._now()
        shared, own = self._believed(self._found or b"", now), self._bucket.known
        if shared is not None:
            record.keep_cooldowns(own, shared.state, now)
        if shared is not None and not own.clock.dated and shared.state.clock.dated:
            clock = shared.state.clock
            clock.drift(now)
            if clock.agrees(own.clock.lo, own.clock.hi):
                own.clock = clock

    @changing
    def failed(self, turn: Turn, why: str, sent: float) -> None:
        """Process the failure of a call; the server may have done the write nevertheless.

        Args:
            turn: The call.
            why: The error, for the warning.
            sent: When the call began, s by our steady clock.
        """
        now = self._now()
        if turn.bucket is not None:
            self._unsure.append(turn)
            self._is_write_failing = True
        self._is_joining, self._is_reading = False, True
        self._doubted_at = self._steady()
        self._failures += 1
        self._failing_since = min(self._failing_since, sent)
        failing_s = self._steady() - self._failing_since
        is_lost = self._failures >= LOST_AFTER_CALLS and failing_s > LOST_AFTER_S
        if is_lost:
            self._lose_server(why)
        pause = RETRY_S if is_lost else QUICK_RETRY_S if self._failures > 1 else 0.0
        self._retry_at = now + pause

    def _lose_server(self, why: str) -> None:
        raise NotImplementedError

    def _join(self) -> None:
        raise NotImplementedError
