"""A pool that keeps its books in a record on a server, and restores changes that the server lost.

The rule of this file: no change reaches the record twice, and no change is lost. A change stays in
`_late` until the server has certainly done a write that contains it. Then the pool moves the change
to the journal. If the server loses a write, the pool books its changes again from the journal.
"""

import logging
import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from operator import methodcaller
from typing import Protocol

from binance_oi import fork
from binance_oi.budget import member_record, record
from binance_oi.budget.bucket import Bucket
from binance_oi.budget.deferred import DeferredPool
from binance_oi.budget.journal import Booked, Journal
from binance_oi.budget.knowledge import UNKNOWN, Known
from binance_oi.budget.member_record import COUNTED_AFTER_S, Line, Shared
from binance_oi.budget.pool import Change, Clock
from binance_oi.budget.record_server import Swap
from binance_oi.budget.record_time import RecordTime
from binance_oi.budget.usage import Receipt, Wait

logger: logging.Logger = logging.getLogger("binance_oi")

UPDATE_S = 1.0  # s for which a change may wait for the next write, at most
RESTORE_S = 2.0  # s in which members restore lost writes; longer than `UPDATE_S` and one call
NOTICE_LOSS_S = 0.3  # s after a failed call or a new connection; by then members know what is lost
NEVER = 2**62  # a minute that does not come
TRUSTED = -10  # a count of contradictions so low that no answer replaces a copy of our clock


class MakeBucket(Protocol):
    """The type of a function that makes a bucket with our reserve and our share."""

    def __call__(self, state: Known, members: int = 1) -> Bucket:
        """Make a bucket for one of `members` members that cannot see each other's requests."""
        ...


@dataclass(slots=True)
class Want:
    """The call at the head of our queue, which waits for a charge."""

    weight: int
    waiting: int  # number of calls behind this one
    bulk: bool
    at: float  # when the call last tried to charge


@dataclass(slots=True)
class Turn:
    """One call to the server, with the state that the pool adopts if the server does the write."""

    swap: Swap
    line: Line | None = None  # our line in the record after the write
    bucket: Bucket | None = None  # the books after the write; None: the call only reads
    sent: int = 0  # how many `_late` changes the write contains, from the oldest on
    receipts: list[Receipt] = field(default_factory=list[Receipt])  # charged by the write
    change: Booked = field(default_factory=Booked)  # what the write books; for the journal
    rebooked: tuple[int, int] | None = None  # `after` and `end` of `Journal.renumber`
    cooldowns: int = 0  # `_cooldowns` when the pool made this turn
    is_bulk: bool = False  # whether `receipts` are for bulk work

    @property
    def serial(self) -> int:
        """The serial number of the write; 0 for a read."""
        return 0 if self.line is None else self.line.serial


def _forget_members(known: Known, now: float) -> None:
    """Drop the curves of minutes in which others used a negligible weight.

    While the record lacked the weight of some members, that weight looked like weight of others.
    Without any curve left, we no longer expect others.
    """
    others, minute = known.others, known.ledger.minute
    seen = {k: curve for k, curve in others.curves.items() if minute(k).others > known.negligible}
    others.curves = seen
    known.forget_others(known.clock.earliest(now) - 1)


class RecordPool(DeferredPool):
    """A pool that keeps its books in a record on a server; see `MemberPool` for its arguments.

    Its clock is the time of the record.
    """

    has_news: bool  # see `ProcessPool`

    def __init__(
        self,
        make_bucket: MakeBucket,
        make_state: Callable[[Clock], Known],
        steady: Clock,
        wall: Clock,
    ) -> None:
        self._steady = steady
        self._time = RecordTime(wall() - steady())
        super().__init__(make_bucket, make_state(self._now), self._now)
        self._make, self._make_state = make_bucket, make_state
        self._process = fork.current
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Become a member that has written nothing."""
        self.member: bytes = os.urandom(member_record.ID_BYTES)
        """The random id of this process in the record."""
        self._found: bytes | None = None  # the server's record; empty: it has none; None: unknown
        self._last = b""  # the record of our latest write
        self._line: Line | None = None  # our line in that record
        self._is_leaving = False  # the next write gives up our part of the limit
        self._serial = 0  # the serial number of our latest write, successful or not
        self._journal = Journal()
        self._late: list[Change] = []  # changes that the record does not hold yet, oldest first
        self._late_since = math.inf  # the instant of the first late change
        self._unsure: list[Turn] = []  # writes without an answer: the server may still do them
        self._leased: dict[tuple[int, bool], deque[Receipt]] = {}  # leases, by weight and bulk
        self._leased_at = -math.inf  # the instant of their charge
        self._want: Want | None = None
        # The end of the latest refusal, its start, and the wait that callers get until its end.
        self._refusal: tuple[float, float, Wait] | None = None
        self._turn_at = -math.inf  # the earliest instant of our next request for a turn
        self._lease_weight = 0  # the next lease may have twice this weight; 0 after a return
        self._read_at: float = -math.inf  # the instant of the server's last answer
        self._unreturned: int = 0  # weight of receipts that callers have not returned yet
        self._cooldowns = 0  # number of cooldowns so far; each ends all leases from before it
        self._heard = Known(1, copy(self._bucket.known.clock))  # cooldowns that were published
        self._is_urgent = False
        self._is_probe_late = False
        self._failures, self._failing_since, self._retry_at = 0, math.inf, -math.inf
        self._doubted_at = -math.inf  # steady s of the latest failed call or new connection
        self._is_reading = False  # the next call must read, because the record may have changed
        self._is_unseen = False  # we have read a record, and not yet compared it with the journal
        self._is_write_failing = False
        # We are apart at the start and while the server is lost: the record lacks our changes.
        self._is_apart, self._is_joining, self._is_changed = True, False, False
        self._parted_in = NEVER  # the minute of the server's last answer before we lost it
        self._padding: dict[int, int] = {}  # see `ApartPool._count_only_ours`
        self._parted = self._bucket.known.limit, self._bucket.known.others.expected_until

    def _now(self) -> float:
        return self._steady() + self._time.ahead

    def _loaded(self, now: float) -> tuple[Shared, tuple[int, int] | None]:
        """Return the record, with all changes of our journal.

        Returns:
            The record, and the entries of the journal that were missing from the record, as the
            arguments `after` and `end` of `Journal.renumber`. None: no entry was missing.
        """
        shared = self._believed(self._found or b"", now)
        is_lost = shared is None and bool(self._last)
        shared = shared or self._believed(self._last, now)
        shared = shared or Shared(0.0, 0.0, {}, self._make_state(self._now))
        shared.shift = self._time.shift
        self._take_clock(shared.state)
        shared.restore(self.member)
        line, rebooked = shared.lines.get(self.member), None
        after = -1 if line is None else line.serial
        missing = self._journal.since(after, now)
        if missing or self._is_changed or is_lost:
            rebooked = after, self._journal.seal()
            self._rebook(shared, missing, now)
        if is_lost or (rebooked and self._may_others_miss(shared, now)):
            shared.quiet_until = now + RESTORE_S
            shared.state.counted_at = UNKNOWN
        shared.quiet_until = min(shared.quiet_until, now + RESTORE_S)
        if self._may_release(shared, now):
            shared.release(self.member, now)
        return shared, rebooked

    def _may_release(self, shared: Shared, now: float) -> bool:
        """Whether an old line in `shared` certainly belongs to a silent member.

        Until we have joined for a while, our time may be wrong. After a failed call or on a new
        connection, the record may be an older copy. Then the lines of all members are old until
        they have restored what the server lost. If we released their weight, the books would
        contain it twice.
        """
        is_trusted = self._steady() - self._doubted_at > RESTORE_S
        return self._is_settled() and now >= shared.quiet_until and is_trusted

    def _until_restored(self) -> float:
        """Seconds until the other members have restored what the server may have lost, or 0.0.

        A member whose own writes are all there cannot see that the server lost those of others.
        """
        if not self._is_settled():  # our first connection is no sign of a loss
            return 0.0
        return max(0.0, self._doubted_at + NOTICE_LOSS_S - self._steady())

    def _is_settled(self) -> bool:
        return self._time.joined_for(self._steady()) > COUNTED_AFTER_S

    def _may_others_miss(self, shared: Shared, now: float) -> bool:
        """Whether other members may have to restore changes too; False if only we were apart."""
        if not self._is_apart:
            return True
        minute = min(shared.state.clock.likeliest(now), self._parted_in)
        lines = [line for who, line in shared.lines.items() if who != self.member]
        return any(line.minute >= minute - 1 and now - line.at > 2 * UPDATE_S for line in lines)

    def _believed(self, data: bytes, now: float) -> Shared | None:
        shared = member_record.decode(data) if data else None
        return None if shared is None or record.flaw(shared.state, now) else shared

    def _take_clock(self, known: Known) -> None:
        """Give `known` a copy of our clock.

        The pool applies each late change again to every new record. Only the first application may
        change our own clock.
        """
        known.clock = copy(self._bucket.known.clock)
        known.clock.contradictions = TRUSTED

    def _rebook(self, shared: Shared, missing: Booked, now: float) -> None:
        """Book the changes that are `missing` from the record, and merge what only we know."""
        ours = record.copied(self._bucket.known)
        self._take_clock(ours)
        for k, weight in self._padding.items() if self._is_apart else ():
            minute = ours.ledger.minute(k)
            minute.booked = max(0, minute.booked - weight)
            minute.others += min(0, weight)  # what we had used beyond our part
        before = record.copied(ours)
        before.limit = ours.limit
        if self._is_apart:  # weight of members may have looked like weight of others
            before.limit, ours.others.expected_until = self._parted
            ours.others.curves.clear()
        earliest = shared.state.clock.earliest(now)
        for k, minute in shared.state.ledger.minutes.items():
            if k < earliest:  # it is over, and `merge` leaves it out
                minute.others = max(0, minute.others - missing.booked[k])
        for k, minute in before.ledger.minutes.items():
            if k >= earliest:
                # An older record may lack the minute. Otherwise `merge` would add all of our copy,
                # and every other member would book its weight a second time.
                shared.state.ledger.open_minute(k)
            under_way = minute.under_way - missing.under_way[k]
            minute.booked -= missing.booked[k]
            minute.single -= missing.single[k]
            minute.undecided = list(shared.state.ledger.minute(k).undecided)
            minute.unconfirmed = under_way + sum(weight for _, weight in minute.undecided)
        for window in before.windows:
            for slot in window.slots:
                window.slots[slot] -= missing.slots[window.seconds, window.counts_requests, slot]
        record.merge(shared.state, ours, before, now)
        _forget_members(shared.state, now)

    def _note_time(self, server: float, sent: float) -> None:
        shared = member_record.decode(self._found) if self._found else None
        shift = None if shared is None else shared.shift
        moved = self._time.learn(server, sent, self._steady(), shift)
        if moved:
            self._move(moved)

    def _judge_unsure(self) -> None:
        """Find out from the record whether the server did a write that got no answer.

        If it did, the pool refunds the receipts of that write: no call waits for them any longer.
        """
        found = self._found or b""
        shared = member_record.decode(found)
        line = shared.lines.get(self.member) if shared is not None else None
        for turn in self._unsure:
            if line is not None and line.serial == turn.serial:
                self._confirm(turn)
                self._line = turn.line
                self._late += [methodcaller("refund", receipt) for receipt in turn.receipts]
                self._late_since = self._now() if self._late else math.inf
                self._is_urgent |= bool(turn.receipts)
                break
        if any(turn.swap.expected != member_record.version(found) for turn in self._unsure):
            self._unsure.clear()  # the version has changed, so these writes can no longer succeed

    def _confirm(self, turn: Turn) -> None:
        """The server has done a write: move its changes from `_late` into the journal."""
        if turn.rebooked is not None:
            self._journal.renumber(*turn.rebooked, turn.serial)
        self._journal.add(turn.serial, self._now(), turn.change)
        del self._late[: turn.sent]
        self._late_since = self._now() if self._late else math.inf
        self._is_probe_late = False

    def _adopt(self, bucket: Bucket, late: Sequence[Change]) -> None:
        """Continue with the books of `bucket`, plus the changes in `late`; our own clock stays."""
        clock = self._bucket.known.clock
        self._take_clock(bucket.known)
        for change in late:
            change(bucket)
        record.keep_cooldowns(bucket.known, self._heard, self._now())
        bucket.known.clock = clock
        self._bucket = bucket

    def _note(self, change: Change) -> None:
        """Apply a change to our books now, and write it into the record with the next turn."""
        change(self._bucket)
        self._late.append(change)
        self._late_since = min(self._late_since, self._now())

    def _move(self, moved: float) -> None:
        raise NotImplementedError
