"""A pool whose books are in a record on a server, and how it restores what the server has lost.

The rule of this file: no change reaches the record twice, and none is lost. A change stays in
`_late` until a write that holds it is certainly done. The journal holds what we have written; if
the server has lost it, we book it again.
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
from binance_oi.budget.member_record import SETTLED, Shared
from binance_oi.budget.pool import Change, Clock
from binance_oi.budget.record_server import Swap
from binance_oi.budget.record_time import RecordTime
from binance_oi.budget.usage import Receipt, Wait

logger: logging.Logger = logging.getLogger("binance_oi")

BEAT = 1.0  # s after which late changes are written
GRACE = 2.0  # s for members to restore what the server has lost; longer than BEAT and a call
NEVER = 2**62  # a minute that does not come
TRUSTED = -10  # contradictions of a copied clock: our own clock has counted them already


class MakeBucket(Protocol):
    """Makes a bucket with our reserve and our share."""

    def __call__(self, state: Known, members: int = 1) -> Bucket:
        """A bucket for one of `members` that do not see each other."""
        ...


@dataclass(slots=True)
class Want:
    """The call at the head of the queue."""

    weight: int
    waiting: int
    bulk: bool
    at: float  # when it last asked


@dataclass(slots=True)
class Turn:
    """One call of the server, and its meaning if it is done."""

    swap: Swap
    serial: int = 0
    bucket: Bucket | None = None  # None: it only reads
    sent: int = 0  # number of `_late` changes that it holds
    receipts: list[Receipt] = field(default_factory=list[Receipt])
    change: Booked = field(default_factory=Booked)
    rebooked: tuple[int, int] | None = None  # what it restores: see `Journal.renumber`
    holds: int = 0  # `_holds` when it was made
    is_bulk: bool = False  # whether `receipts` are for bulk work


def _forget_members(known: Known, now: float) -> None:
    """Expect nobody who was only a member whose weight the record had lost."""
    others, minute = known.others, known.ledger.minute
    seen = {k: curve for k, curve in others.curves.items() if minute(k).others > known.negligible}
    others.curves = seen
    if not others.curves and not others.expected_surge:
        others.expected_until = min(others.expected_until, known.clock.earliest(now) - 1)


class RecordPool(DeferredPool):
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
        """Become a member that has written nothing."""
        self.member: bytes = os.urandom(member_record.ID)
        """Names this process in the record."""
        self._found: bytes | None = None  # the record; empty: none exists; None: unknown
        self._last = b""  # the latest record that was valid
        self._serial = 0  # of our latest write, successful or not
        self._journal = Journal()
        self._late: list[Change] = []  # changes that the record does not hold yet, oldest first
        self._late_since = math.inf
        self._unsure: list[Turn] = []  # writes that the server may have made, or may still make
        self._leased: dict[tuple[int, bool], deque[Receipt]] = {}  # charged in advance
        self._leased_at = -math.inf
        self._want: Want | None = None
        self._refusal: tuple[float, float, Wait] | None = (
            None  # until when it is valid, and when it was made
        )
        self._turn_at = -math.inf  # when to ask for a turn again
        self._lots = 0  # weight to charge in advance; doubles while it is used up
        self._read_at: float = -math.inf  # when the server last answered
        self._out: int = 0  # weight of the receipts that are out
        self._holds = 0  # number of holds; a lease from before a hold is not sent
        self._heard = Known(1, copy(self._bucket.known.clock))  # holds that others have published
        self._is_urgent = False
        self._is_probe_late = False
        self._failures, self._failing_since, self._retry_at = 0, math.inf, -math.inf
        self._is_reading = False  # the next call must read: the record is unknown
        self._is_unseen = False  # the record was read, and not yet compared with the journal
        self._is_write_failing = False
        # The record does not hold our changes: at the start, and while the server is lost.
        self._is_apart, self._is_joining, self._is_changed = True, False, False
        self._parted_in = NEVER  # the minute in which the server answered last
        self._parted = self._bucket.known.limit, self._bucket.known.others.expected_until

    def _now(self) -> float:
        return self._steady() + self._time.ahead

    def _loaded(self, now: float) -> tuple[Shared, tuple[int, int] | None]:
        """The record with all that we have written, and what had to be restored."""
        shared = self._believed(self._found or b"", now)
        is_lost = shared is None and bool(self._last)
        shared = shared or self._believed(self._last, now)
        shared = shared or Shared(0.0, 0.0, {}, self._make_state(self._now))
        shared.shift = self._time.shift
        self._take_clock(shared.state)
        if self._time.joined_for(self._steady()) > SETTLED:  # earlier, our time may be wrong
            shared.release(self.member, now)
        shared.restore(self.member)
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
        """Whether other members may have to restore something, too; not if only we were away."""
        if not self._is_apart:
            return True
        minute = min(shared.state.clock.likeliest(now), self._parted_in)
        lines = [line for who, line in shared.lines.items() if who != self.member]
        return any(line.minute >= minute - 1 and now - line.at > 2 * BEAT for line in lines)

    def _believed(self, data: bytes, now: float) -> Shared | None:
        shared = member_record.decode(data) if data else None
        return None if shared is None or record.flaw(shared.state, now) else shared

    def _take_clock(self, known: Known) -> None:
        """Use a copy of our own clock: a change that is applied again must not change ours."""
        known.clock = copy(self._bucket.known.clock)
        known.clock.contradictions = TRUSTED

    def _rebook(self, shared: Shared, missing: Booked, now: float) -> None:
        """Book what the record lacks of ours, and merge what only we know."""
        ours = record.copied(self._bucket.known)
        self._take_clock(ours)
        before = record.copied(ours)
        before.limit = ours.limit
        if self._is_apart:  # members that we did not hear may have looked like others
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
        _forget_members(shared.state, now)

    def _note_time(self, server: float, sent: float) -> None:
        shared = member_record.decode(self._found) if self._found else None
        shift = None if shared is None else shared.shift
        moved = self._time.learn(server, sent, self._steady(), shift)
        if moved:
            self._move(moved)

    def _judge_unsure(self) -> None:
        """Decide by the record found whether a write without an answer was done."""
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
            self._unsure.clear()  # with another version, none of them can still be done

    def _confirm(self, turn: Turn) -> None:
        """A write is done: its changes are no longer late, and the journal holds it."""
        if turn.rebooked is not None:
            self._journal.renumber(*turn.rebooked, turn.serial)
        self._journal.add(turn.serial, self._now(), turn.change)
        del self._late[: turn.sent]
        self._late_since = self._now() if self._late else math.inf
        self._is_probe_late = False

    def _adopt(self, bucket: Bucket, late: Sequence[Change]) -> None:
        """Continue with these books and the late changes; our own clock stays."""
        clock = self._bucket.known.clock
        self._take_clock(bucket.known)
        for change in late:
            change(bucket)
        record.keep_holds(bucket.known, self._heard, self._now())
        bucket.known.clock = clock
        self._bucket = bucket

    def _note(self, change: Change) -> None:
        """Make a change, and write it with the next turn."""
        change(self._bucket)
        self._late.append(change)
        self._late_since = min(self._late_since, self._now())

    def _move(self, moved: float) -> None:
        raise NotImplementedError
