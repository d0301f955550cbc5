"""What a member does while the server is lost, and how it returns to the shared record.

A member is a process that shares a budget through a server, which keeps the record. The rule of
this file: a member without the server uses only its own part of the limit. For example, if it last
saw four members, itself included, it uses at most a quarter of the limit. So all members together
stay within the limit, although none of them sees the others' requests. `README.md` in this folder
names the exceptions.
"""

import math
from collections.abc import Callable
from typing import Literal

from binance_oi.budget import member_record, record_time
from binance_oi.budget.journal import UNWRITTEN, Booked
from binance_oi.budget.knowledge import UNKNOWN, Known
from binance_oi.budget.member_record import (
    APART_AFTER_S,
    CLAIM_BY_S,
    COUNTED_AFTER_S,
    LATE_CLAIM_S,
    LEAST_MEMBERS,
    Line,
)
from binance_oi.budget.pool import Change, Clock
from binance_oi.budget.record_pool import UPDATE_S, MakeBucket, logger
from binance_oi.budget.server_clock import MINUTE
from binance_oi.budget.tuning import MEMORY, POLL
from binance_oi.budget.turns import READ_PAUSE_S, TurnPool
from binance_oi.budget.usage import Reason, Receipt, Wait

WithoutServer = Literal["share", "wait"]
MIN_PART_WEIGHT = 8  # weight left in a minute for each member; with less, we wait for the next


class Early(Receipt):
    """A receipt from before the server's first answer, when our time was only a guess."""

    __slots__ = ()


class ApartPool(TurnPool):
    """A pool that continues while the server is lost; see `MemberPool` for its arguments."""

    has_news: bool  # see `ProcessPool`

    def __init__(
        self,
        make_bucket: MakeBucket,
        make_state: Callable[[Clock], Known],
        steady: Clock,
        wall: Clock,
        without_server: WithoutServer = "share",
    ) -> None:
        self._without_server = without_server
        self._moved = 0.0  # s by which our time has jumped since the start
        self._is_lost = False  # whether the server is lost, and we have logged that
        self._alone_from = 0.0  # the instant from which we may use our part without the server
        # The instant from which the others expect us to use our part; None: they keep none for us.
        self._claim_from: float | None = None
        self._sharers = LEAST_MEMBERS  # how many members share the limit without the server
        # Weight by minute that we had booked when the server was lost; the others know of it.
        self._claimed: dict[int, int] = {}
        # Whether the members keep our part free, and we expect no other clients.
        self._is_part_free = False
        super().__init__(make_bucket, make_state, steady, wall)

    def _lose_server(self, why: str) -> None:
        """Warn once; from now on, use only our own part of the limit, or send nothing.

        We first wait until the others have kept our part free for so long that the exchange has
        counted all their earlier requests. We also wait for the next minute, unless we shared the
        record until now, and it shows enough weight left in this minute.

        Args:
            why: The error of the last call, for the warning.
        """
        if self._is_lost:
            return
        now = self._now()
        known = self._bucket.known
        k = known.clock.latest(now)
        self._alone_from = known.clock.when_over(MINUTE * (k + 1))
        if not self._is_apart:
            self._parted_in = known.clock.earliest(self._read_at)
        lines = self._own_lines()
        members = max([self._members(k), *(line.members for line in lines)])
        self._claim_from = min((line.at + APART_AFTER_S for line in lines), default=None)
        self._claimed.clear()
        self._padding.clear()
        begin = max((line.at + APART_AFTER_S for line in lines), default=-math.inf)
        if not self._is_apart:
            begin = max(begin, self._read_at + COUNTED_AFTER_S)
            leases = self._return_leases()
            self._parted = known.limit, known.others.expected_until
            if self._bucket.usage(now).remaining >= MIN_PART_WEIGHT * members:
                self._alone_from = min(self._alone_from, now)
                self._count_only_ours(known.clock.earliest(now), leases, members)
        self._alone_from = max(self._alone_from, begin)
        self._is_lost = self._is_apart = True
        self._is_joining = False
        self._want = self._refusal = None
        known.counted_at = UNKNOWN
        self._is_part_free = bool(lines) and known.others.expected_until < k
        if not self._is_part_free:
            known.others.expect_until(k + 1 + MEMORY)
        self._bucket = self._make(known, members)
        self._sharers = members
        self.has_news = True
        is_waiting = self._without_server == "wait"
        part = "sends nothing" if is_waiting else f"may use 1/{members} of the limit"
        logger.warning(
            "the budget is not shared with other machines, and this process %s until this ends: %s",
            *(part, why),
        )

    def _count_only_ours(self, first: int, leases: list[Receipt], members: int) -> None:
        """Move the weight of the other members into `others`, and leave only ours booked.

        From now on, our share is an even part of the limit. Each of our lines (entries) in the
        record gives us a part of the minute, and so does our copy of the record; we may use the
        least of these parts. We book the rest of the even part as if we had used it. `_padding` is
        the booked weight less what we have used. If we have used more, it is negative, and the
        excess counts as weight of others. Our first request is a probe: the count in its
        answer shows how much the others sent.

        Args:
            first: The first minute to change; earlier minutes are over.
            leases: Receipts that we have just refunded; the journal still holds their weight.
            members: The number of members, this one included.
        """
        shared = self._latest()
        assert shared is not None  # we have joined, so we have written a record
        for k, minute in self._bucket.known.ledger.minutes.items():
            if k < first:
                continue
            returned = sum(each.weight for each in leases if each.first <= k <= each.last)
            ours = max(0, self._journal.booked(k) - returned)
            under_way = max(0, min(self._unreturned, minute.under_way))
            minute.others = max(minute.others, minute.reported - max(0, ours - under_way))
            part = self._bucket.known.limit // members
            lefts = [line.part(k, part * members) for line in self._own_lines()]
            lefts.append(shared.left(k, members))
            minute.unconfirmed = under_way + sum(weight for _, weight in minute.undecided)
            minute.booked = max(minute.unconfirmed, part - min(lefts))
            minute.others += max(0, ours - minute.booked)
            self._padding[k] = minute.booked - ours
            self._claimed[k] = minute.booked + returned

    def _own_lines(self) -> list[Line]:
        """Those of our lines (entries) that may be in the record and give us a part."""
        lines = [self._line, *(turn.line for turn in self._unsure)]
        return [line for line in lines if line is not None and line.members]

    def _until_claim(self, now: float) -> float:
        """Seconds until we may use our part; 0.0 if we may use it now.

        We begin to use it early in a minute, or soon after `_claim_from`, or not at all: if the
        counts do not show soon that we use it, the others use it. Two kinds of our weight do not
        show our use: weight without an answer, which may be in no count yet, and the weight in
        `_claimed`, which the others have booked.
        """
        if self._claim_from is None:
            return 0.0
        known = self._bucket.known
        k = known.span(now)[0]
        minute = known.ledger.minute(k)
        shown = minute.booked - minute.unconfirmed - self._claimed.get(k, 0)
        until = max(MINUTE * k - known.clock.hi + CLAIM_BY_S, self._claim_from + LATE_CLAIM_S)
        if shown > known.negligible or now <= until:
            return 0.0
        return known.clock.when_over(MINUTE * (k + 1)) - now

    def _latest(self) -> member_record.Shared | None:
        """The record as we last saw it; None if we have seen none."""
        return member_record.decode(self._found or b"") or member_record.decode(self._last)

    def _members(self, minute: int) -> int:
        """By the server's last answer, our part is the limit divided by this number; 2 or more."""
        found, minute = self._latest(), min(minute, self._parted_in)
        return found.sharers(self.member, minute, self._read_at) if found else LEAST_MEMBERS

    def _charge_apart(self, now: float, weight: int, bulk: bool) -> Receipt | Wait:
        """Charge to our own part of the limit; we write the change when we join again."""
        if not self._is_lost or self._is_joining:
            return Wait(READ_PAUSE_S, Reason.LEASE)
        if self._without_server == "wait":
            return Wait(UPDATE_S, Reason.LEASE)
        if now < self._alone_from:
            return Wait(self._alone_from - now, Reason.LEASE)
        too_late = self._until_claim(now)
        if too_late > 0.0:
            return Wait(too_late, Reason.LEASE)
        wait = self._leaves_no_room(now, weight)
        if wait > 0.0:
            return Wait(wait, Reason.LEASE)
        before = Booked.of(self._bucket.known)
        answer = self._bucket.charge(now, weight, bulk)
        if isinstance(answer, Wait):
            return answer
        self._keep(before)
        self._unreturned += answer.weight
        return answer if self._time.is_known else Early(*answer)

    def _leaves_no_room(self, now: float, weight: int) -> float:
        """Seconds until we may ask again, because other members may need the room; 0.0 if none do.

        Others may be without the server too. None of us sees what the others have under way, and
        all of us may see the same room in a count. So our weight under way is at most an even part
        of the room in this minute. One request may always be under way, if the limit has room for
        one from each member. The rules refuse a request that never fits.
        """
        known, ask = self._bucket.known, self._bucket.question(now, weight)
        if weight > min(ask.budget, ask.share):
            return 0.0
        minute = known.ledger.minute(ask.likeliest)
        room = ask.budget - minute.used + minute.under_way
        if minute.under_way > 0 and (minute.under_way + weight) * self._sharers > room:
            return POLL
        for k in range(ask.last, ask.first - 1, -1):
            if known.ledger.minute(k).used + weight * self._sharers > known.limit:
                return known.clock.when_over(MINUTE * (k + 1)) - now
        return 0.0

    def _keep(self, before: Booked) -> None:
        """Add the change of our books since `before` to the journal; we write it when we join."""
        self._journal.add(UNWRITTEN, self._now(), Booked.of(self._bucket.known).since(before))
        self._is_changed = True

    def _note(self, change: Change) -> None:
        """Apply a change; we write it with the next turn, or when we join again."""
        if not self._is_apart or self._is_joining:
            super()._note(change)
            return
        known = self._bucket.known
        before = Booked.of(known)
        change(self._bucket)
        self._keep(before)
        if self._is_part_free:  # the use in the counts is that of members; expect no others
            known.others.curves.clear()
            known.forget_others(known.ledger.newest - 1)

    def _join(self) -> None:
        if not self._is_apart:
            return
        self._is_apart = self._is_joining = self._is_changed = False
        self.has_news = True
        if self._is_lost:
            self._is_lost = False
            logger.warning("the budget is shared with other machines again")

    def _move(self, moved: float) -> None:
        """Move these instants by `moved` seconds, because our time has jumped by that much."""
        slots = record_time.move(self._bucket.known, moved)
        self._journal.move(moved, slots)
        self._moved += moved
        self._alone_from += moved
        if self._claim_from is not None:
            self._claim_from += moved
        if self._line is not None:
            self._line.at += moved
        self._read_at += moved
        self._late_since += moved
        self._refusal = None

    def _timely(self, receipt: Receipt) -> Receipt:
        """Return `receipt` with its instants in the time of the record."""
        if not isinstance(receipt, Early):
            return receipt
        return Receipt(*receipt)._replace(sent=receipt.sent + self._moved)
