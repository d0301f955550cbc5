"""The record that a member reads and changes, and what of ours it has lost.

The rule of this file: no change is made to the record twice, and none is lost. A change stays in
`_late` until a write that holds it is known to be done; and what we wrote is in the journal, from
which it is booked again when the server has lost it.
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
from binance_oi.budget.journal import Booked, Journal
from binance_oi.budget.knowledge import UNKNOWN, Known
from binance_oi.budget.member_record import Shared
from binance_oi.budget.pool import Change, Clock, ProcessPool
from binance_oi.budget.record_server import Swap
from binance_oi.budget.record_time import RecordTime
from binance_oi.budget.usage import Receipt, Wait

logger: logging.Logger = logging.getLogger("binance_oi")

BEAT = 1.0  # s after which what others do not know yet is written
GRACE = 2.0  # s in which members book again what the server has lost; more than BEAT and a try
TRUSTED = -10  # contradictions of a copy of our clock: what contradicts ours is counted there


class MakeBucket(Protocol):
    """Makes a bucket with our reserve and our share."""

    def __call__(self, state: Known, members: int = 1) -> Bucket:
        """For one of `members` that cannot see each other."""
        ...


@dataclass(slots=True)
class Want:
    """What the head of the queue asks for."""

    weight: int
    waiting: int
    bulk: bool
    at: float  # when it asked last


@dataclass(slots=True)
class Turn:
    """One call of the server, and what it means if it is done."""

    swap: Swap
    serial: int = 0
    bucket: Bucket | None = None  # None: it reads only
    told: int = 0  # of `_late`
    receipts: list[Receipt] = field(default_factory=list[Receipt])
    change: Booked = field(default_factory=Booked)
    rebooked: tuple[int, int] | None = None  # what was booked again: see `Journal.renumber`
    holds: int = 0  # of the pool when it was made
    is_bulk: bool = False  # whether `receipts` are for bulk work


class RecordPool(ProcessPool):
    """A pool whose books are in a record on a server; see `MemberPool` for its arguments.

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
        """Be a member that wrote nothing yet."""
        self.member: bytes = os.urandom(member_record.ID)
        """Names this process in the record."""
        self._found: bytes | None = None  # the record; empty when there is none; None: unknown
        self._last = b""  # the latest record that we believed
        self._serial = 0  # of our latest write, done or not
        self._journal = Journal()
        self._late: list[Change] = []  # what the record does not hold yet, oldest first
        self._late_since = math.inf
        self._unsure: list[Turn] = []  # writes that may have been done, or may be done yet
        self._leased: dict[tuple[int, bool], deque[Receipt]] = {}  # charged in advance
        self._leased_at = -math.inf
        self._want: Want | None = None
        self._refusal: tuple[float, float, Wait] | None = None  # until when it stands, and its time
        self._turn_at = -math.inf  # when to ask for a turn again
        self._lots = 0  # weight to charge in advance: doubled when it is used up, see `_lot`
        self._read_at = -math.inf  # when the record was read or written last
        self._out: int = 0  # receipts that have not come back
        self._holds = 0  # holds so far: what was charged before one is not sent
        self._heard = Known(1, copy(self._bucket.known.clock))  # holds that others tell
        self._is_urgent = False
        self._is_probe_late = False
        self._failures, self._failing_since, self._retry_at = 0, math.inf, -math.inf
        self._is_reading = False  # the next call has to read: nobody knows what is there
        self._is_unseen = False  # what was read has to be compared with what we wrote
        self._is_write_failing = False
        # We are no part of the record: from the start, and while the server is lost.
        self._is_apart, self._is_joining, self._is_changed = True, False, False
        self._parted = self._bucket.known.limit, self._bucket.known.others.expected_until

    def _now(self) -> float:
        return self._steady() + self._time.ahead

    def _loaded(self, now: float) -> tuple[Shared, tuple[int, int] | None]:
        """The record, with what it has lost of ours; see `Turn.rebooked`."""
        shared = self._believed(self._found or b"", now)
        is_lost = shared is None and bool(self._last)
        shared = shared or self._believed(self._last, now)
        shared = shared or Shared(0.0, 0.0, {}, self._make_state(self._now))
        shared.shift = self._time.shift
        self._take_clock(shared.state)
        line, rebooked = shared.lines.get(self.member), None
        after = -1 if line is None else line.serial
        missing = self._journal.since(after, now)
        if missing or self._is_changed or is_lost:
            rebooked = after, self._journal.seal()
            self._rebook(shared, missing, now)
        if is_lost or (rebooked and self._may_others_miss(shared, now)):
            shared.quiet_until = now + GRACE
            shared.state.counted_at = UNKNOWN
        shared.quiet_until = min(shared.quiet_until, now + GRACE)
        return shared, rebooked

    def _may_others_miss(self, shared: Shared, now: float) -> bool:
        """Whether others may have to book something again as well; not if we alone were away."""
        if not self._is_apart:
            return True
        minute = shared.state.clock.likeliest(now)
        lines = [line for who, line in shared.lines.items() if who != self.member]
        return any(line.minute >= minute - 1 and now - line.at > 2 * BEAT for line in lines)

    def _believed(self, data: bytes, now: float) -> Shared | None:
        shared = member_record.decode(data) if data else None
        return None if shared is None or record.flaw(shared.state, now) else shared

    def _take_clock(self, known: Known) -> None:
        """Go by a copy of our own clock: what is applied once more must not change ours."""
        known.clock = copy(self._bucket.known.clock)
        known.clock.contradictions = TRUSTED

    def _rebook(self, shared: Shared, missing: Booked, now: float) -> None:
        """Book again what the record lost, or never had, and add what only we know."""
        ours = record.copied(self._bucket.known)
        self._take_clock(ours)
        before = record.copied(ours)
        before.limit = ours.limit
        if self._is_apart:  # who was there meanwhile may have been members that we did not hear
            before.limit, ours.others.expected_until = self._parted
            ours.others.curves.clear()
        for k, minute in before.ledger.minutes.items():
            under_way = minute.under_way - missing.under_way[k]
            minute.booked -= missing.booked[k]
            minute.single -= missing.single[k]
            minute.undecided = list(shared.state.ledger.minute(k).undecided)
            minute.unconfirmed = under_way + sum(weight for _, weight in minute.undecided)
        for window in before.windows:
            for slot in window.slots:
                window.slots[slot] -= missing.slots[window.seconds, window.counts_requests, slot]
        record.merge(shared.state, ours, before, now)

    def _note_time(self, server: float, sent: float) -> None:
        shared = member_record.decode(self._found) if self._found else None
        shift = None if shared is None else shared.shift
        moved = self._time.learn(server, sent, self._steady(), shift)
        if moved:
            self._move(moved)

    def _judge_unsure(self) -> None:
        """Whether a write was done whose answer never came: the record we found says so."""
        found = self._found or b""
        shared = member_record.decode(found)
        line = shared.lines.get(self.member) if shared is not None else None
        for turn in self._unsure:
            if line is not None and line.serial == turn.serial:
                self._confirm(turn)
                self._late += [methodcaller("refund", receipt) for receipt in turn.receipts]
                self._late_since = self._now() if self._late else math.inf
                self._is_urgent |= bool(turn.receipts)
                break
        if any(turn.swap.expected != member_record.version(found) for turn in self._unsure):
            self._unsure.clear()  # what was not done by now never will be

    def _confirm(self, turn: Turn) -> None:
        """A write is done: others know what it told, and the journal holds it."""
        if turn.rebooked is not None:
            self._journal.renumber(*turn.rebooked, turn.serial)
        self._journal.add(turn.serial, self._now(), turn.change)
        del self._late[: turn.told]
        self._late_since = self._now() if self._late else math.inf
        self._is_probe_late = False

    def _adopt(self, bucket: Bucket, late: Sequence[Change]) -> None:
        """Go on from these books, and what they do not hold yet; our clock stays as it is."""
        clock = self._bucket.known.clock
        self._take_clock(bucket.known)
        for change in late:
            change(bucket)
        record.keep_holds(bucket.known, self._heard, self._now())
        bucket.known.clock = clock
        self._bucket = bucket

    def _note(self, change: Change) -> None:
        """Make a change, and tell others with the next write."""
        change(self._bucket)
        self._late.append(change)
        self._late_since = min(self._late_since, self._now())

    def _move(self, moved: float) -> None:
        raise NotImplementedError
