"""Defines the record that members share: the books of one limit, and a line for each member.

A member is a process on one of several machines, and a server keeps the record. A member that has
written nothing for some seconds is silent: it may have been killed, or may have lost the server.
Without the server, a member may use only its part of the limit. That is an even part of what is
left after the parts of members that were silent before.

Pure. The rule of this file: a record holds no reading of a single machine's clock. Its instants are
in the time of the record, which is the clock of the record's server plus `shift`. When that clock
is set, or another server takes over, the members change `shift`. So no instant moves.
"""

import math
import os

import msgspec

from binance_oi.budget.knowledge import Known
from binance_oi.budget.server_clock import MINUTE
from binance_oi.budget.tuning import FLIGHT, MEMORY
from binance_oi.budget.usage import Receipt

FORMAT = 1  # the version of the layout of a record; part of the record's key
VERSION_BYTES = 16  # the length of a record's version, which is in front of it and random each time
ID_BYTES = 16  # the length of the id of a member
KEPT_MINUTES = 12  # minutes without a write after which the record drops a member
MOST_MEMBERS = 256  # members in a record, at most
LEAST_MEMBERS = 2  # members that we assume, at least: one may exist that we have never seen
MOST_PARTS = 100  # a part is no smaller than the limit divided by this, enough for most requests
PROBE_ROOM = 2  # weight kept free for a request whose count shows what a silent member sent
PRESENCE_S = 2.0  # s between two writes of a member that has a part, at most
LONGEST_SHIFT = 1e11  # s; a record with a larger `shift` is damaged

# Seconds since the last write of a member:
EVEN_PART_S = 2.0  # s; until then, the others leave the member its even part of the weight
SILENT_AFTER_S = 4.0  # s; from then on, they keep its own part of the limit free
COUNTED_AFTER_S = FLIGHT + 1.0  # s; by then the exchange has counted all of its requests
APART_AFTER_S = SILENT_AFTER_S + COUNTED_AFTER_S  # s; then it may use its part without the server

# Without the server, a member uses its part of a minute only if it begins by the later of these:
CLAIM_BY_S = 6.0  # s from the beginning of the minute
LATE_CLAIM_S = 3.0  # s from the moment at which it may use its part (`APART_AFTER_S`)


class Line(msgspec.Struct, array_like=True):
    """The entry of one member in the record."""

    serial: int
    """The serial number of the member's latest write in this record."""
    at: float
    """The instant of that write, in the time of the record."""
    minute: int
    """The exchange's minute at that write, as the member estimated it."""
    used: int
    """Weight that the member has booked to that minute."""
    is_hungry: bool
    """Whether the member needs more weight than that write charged."""
    under_way: dict[int, int] = msgspec.field(default_factory=dict[int, int])
    """Weight of the member's requests without an answer, by minute."""
    released: dict[int, int] = msgspec.field(default_factory=dict[int, int])
    """Weight that others moved out of `under_way`, because the member was silent. See
    `Shared.release`."""
    members: int = 0
    """The part of the member is the limit divided by this number. 0: it has no part."""
    left: int = 0
    """The part of the member in `minute`; see `Shared.left`."""

    def part(self, k: int, limit: int) -> int:
        """The weight that the member may use of minute `k` without the server."""
        return self.left if k == self.minute else limit // self.members

    @property
    def is_possible(self) -> bool:
        """Whether the numbers are within their bounds; a damaged record can break them."""
        weights = [*self.under_way.values(), *self.released.values()]
        weights += [self.serial, self.used, self.members, self.left]
        return math.isfinite(self.at) and min(weights) >= 0


class Shared(msgspec.Struct, array_like=True):
    """The content of a record."""

    shift: float
    """The time of the record minus the server's clock, in seconds."""
    quiet_until: float
    """No member charges before this instant: members first restore what the server has lost."""
    lines: dict[bytes, Line]
    """The entry of each member, by the member's id."""
    state: Known

    def seen(self, minute: int) -> int:
        """The number of members that wrote in `minute`, in the minute before it, or later."""
        return sum(line.minute >= minute - 1 for line in self.lines.values())

    def sharers(self, member: bytes, minute: int, read_at: float) -> int:
        """The limit divided by this number is the part that `member` may get now.

        That part is an even part of what the parts of silent members leave. So all parts together
        stay within the limit, unless they are more than `MOST_PARTS`. Without silent members, the
        result is the number of members that `seen` counts, plus `member` if it is not among them,
        but from `LEAST_MEMBERS` to `MOST_PARTS`.

        Args:
            member: The id of the member.
            minute: The exchange's minute.
            read_at: When the member read the record, s in the time of the record.
        """
        limit, rest, others = self.state.limit, self.state.limit, 0
        for who, line in self.lines.items():
            if who == member:
                continue
            is_silent = line.members > 0 and read_at - line.at > SILENT_AFTER_S
            if is_silent and line.minute >= minute - MEMORY:
                rest -= limit // line.members
            else:
                others += line.minute >= minute - 1
        live = max(LEAST_MEMBERS, others + 1)
        return min(MOST_PARTS, -(-live * limit // max(1, rest)))

    def fresh(self, now: float, age: float) -> int:
        """The number of members that wrote in the last `age` seconds."""
        return sum(now - line.at <= age for line in self.lines.values())

    def even_part(self, member: bytes, used: int, free: int, now: float) -> int:
        """The part of `free` for `member`, so that all hungry members use the same weight.

        For example, two members have used 10 and 40, and 50 are free. Both should reach 50, so the
        first may take 40 and the second 10. The function ignores a member without a write in the
        last `EVEN_PART_S` seconds, so a dead member delays the others only briefly. In the first
        `EVEN_PART_S` seconds of a minute, a write in the minute before is recent enough.

        Args:
            member: The id of the member.
            used: Weight that the member has used in this minute.
            free: Weight that is left for all members in this minute.
            now: Seconds, in the time of the record.
        """
        clock, parts = self.state.clock, [used]
        minute = clock.likeliest(now)
        is_new = clock.into(now, minute) < EVEN_PART_S
        for who, line in self.lines.items():
            is_there = now - line.at < EVEN_PART_S or (is_new and line.minute == minute - 1)
            if who != member and line.is_hungry and is_there:
                parts.append(line.used if line.minute == minute else 0)
        return max(0, _level(sorted(parts), free) - used)

    def left(self, k: int, members: int) -> int:
        """The weight of minute `k` that a member may use if it loses the server now.

        It is an even part of the weight that is left, even if the member has used more of the
        minute than others. The others may use more of it before they notice that the member is
        silent. And if the record is restored from an older copy, the part also covers weight of
        the member that the copy lacks.

        Args:
            k: The minute.
            members: The number of members; 0 if the member has no part.
        """
        free = max(0, self.state.limit - self.state.ledger.minute(k).used)
        return free // members if members else 0

    def kept(self, member: bytes, k: int, now: float) -> int:
        """Weight of minute `k` that `member` leaves to silent members; usually 0.

        A silent member may have lost the server. Then it begins to use its part early in the
        minute, or not at all. So a later count shows whether it uses the part. If it does not, the
        others use the part. Weight of others in the count is subtracted, because it may be the
        silent member's.

        A silent member may also have requests under way. The others keep `PROBE_ROOM` for one more
        request. The count in its answer shows how much of the weight under way arrived.
        """
        is_any = any(
            who != member and now - line.at > EVEN_PART_S and line.under_way.get(k)
            for who, line in self.lines.items()
        )
        others = self.state.ledger.minute(k).others
        is_used = others > self.state.negligible
        parts = sum(
            line.part(k, self.state.limit)
            for line, shown_at in self._silent(member, k, now)
            if is_used or self.state.counted_at < shown_at
        )
        return max(PROBE_ROOM if is_any else 0, parts - others)

    def until_reserve_is_free(self, member: bytes, weight: int, now: float, budget: int) -> float:
        """Seconds until a request of `member` may use the reserve; 0.0 if it may now, or need not.

        A silent member may have lost the server, and use the reserve too. Neither of us sees the
        other's latest request. So a request that uses the reserve leaves room below the limit for
        one such request of each silent member.
        """
        known = self.state
        first, _, last = known.span(now)
        for k in range(last, first - 1, -1):
            used = known.ledger.minute(k).used
            if used + weight > budget:
                silent = len(self._silent(member, k, now))
                if silent and used + weight * (1 + silent) > known.limit:
                    return known.clock.when_over(MINUTE * (k + 1)) - now
        return 0.0

    def is_count_due(self, member: bytes, now: float) -> bool:
        """Whether `member` may charge one request, to learn if silent members use their parts."""
        known = self.state
        k = known.clock.likeliest(now)
        return not known.ledger.minute(k).under_way and any(
            known.counted_at < shown_at <= now for _, shown_at in self._silent(member, k, now)
        )

    def expect_members(self, member: bytes, now: float) -> None:
        """Silent members may have used some weight: do not mistake it for weight of other clients.

        `kept` leaves enough room for the silent members.
        """
        known = self.state
        k = known.clock.likeliest(now)
        parts = sum(line.part(k, known.limit) for line, _ in self._silent(member, k, now))
        if known.negligible < known.ledger.minute(k).others <= parts:
            known.others.curves.pop(k, None)
            known.forget_others(known.clock.earliest(now) - 1)

    def _silent(self, member: bytes, k: int, now: float) -> list[tuple[Line, float]]:
        """The lines of silent members that have a part.

        Returns:
            Each line, and the instant from which a count shows whether the member uses its part of
            minute `k`.
        """
        start = MINUTE * k - self.state.clock.lo
        lines = [
            line
            for who, line in self.lines.items()
            if who != member
            and line.members
            and now - line.at > SILENT_AFTER_S
            and line.minute >= k - MEMORY
        ]
        by = start + CLAIM_BY_S
        return [
            (line, max(by, line.at + APART_AFTER_S + LATE_CLAIM_S) + COUNTED_AFTER_S)
            for line in lines
        ]

    def release(self, member: bytes, now: float) -> None:
        """Let a later count decide the weight that silent members had under way.

        A member that was killed settles nothing. The exchange counts each of its requests at most
        `FLIGHT` seconds after the charge. So the count of a request that we send from now on shows
        how much of that weight the exchange has counted.
        """
        ledger = self.state.ledger
        for who, line in self.lines.items():
            if who == member or not line.under_way or now - line.at <= COUNTED_AFTER_S:
                continue
            for k, weight in line.under_way.items():
                if k in ledger.minutes:
                    ledger.leave_undecided(Receipt(weight, now, k, k, 0, False), now)
                    line.released[k] = line.released.get(k, 0) + weight
            line.under_way = {}

    def restore(self, member: bytes) -> None:
        """Book again the weight of `member` that others released.

        The member is back, and settles that weight itself. Until a count has decided the released
        weight, the books contain it twice. After that, it is under way again, but not booked again:
        the count contains all of it that the exchange has counted.
        """
        line, ledger = self.lines.get(member), self.state.ledger
        if line is None:
            return
        for k, weight in line.released.items():
            if k in ledger.minutes:
                minute = ledger.minutes[k]
                undecided = minute.doubtful + sum(each for _, each in minute.undecided)
                again = min(weight, undecided)
                minute.book(again, bulk=True)
                minute.unconfirmed += weight - again
                minute.booked = max(minute.booked, minute.unconfirmed)
        line.released = {}

    def put_line(self, member: bytes, line: Line) -> None:
        """Set the line of a member, and drop members without a write in `KEPT_MINUTES` minutes.

        If too many members are left, the function also drops those that wrote in the oldest
        minutes.
        """
        first = line.minute - KEPT_MINUTES
        lines = {who: line for who, line in self.lines.items() if line.minute >= first}
        lines.pop(member, None)
        for who in sorted(lines, key=lambda who: lines[who].minute)[: -(MOST_MEMBERS - 1)]:
            del lines[who]
        lines[member] = line
        self.lines = lines


def _level(parts: list[int], free: int) -> int:
    """Return the level to which all of `free` raises the lowest of `parts`, rounded up.

    Args:
        parts: Weight that each member has used, in ascending order.
        free: Weight to share.
    """
    filled = 0
    for count, part in enumerate(parts, 1):
        filled += part
        level = -(-(free + filled) // count)
        if count == len(parts) or level <= parts[count]:
            return level
    return free


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Shared).decode


def encode(shared: Shared) -> bytes:
    """Encode a record, with a new random version in front."""
    return os.urandom(VERSION_BYTES) + _encode(shared)


def decode(data: bytes) -> Shared | None:
    """Decode a record; None if `data` is damaged, or if a number is out of bounds."""
    try:
        shared = _decode(memoryview(data)[VERSION_BYTES:])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    is_possible = (
        abs(shared.shift) <= LONGEST_SHIFT
        and math.isfinite(shared.quiet_until)
        and len(shared.lines) <= MOST_MEMBERS
        and all(line.is_possible for line in shared.lines.values())
    )
    return shared if is_possible else None


def version(data: bytes) -> bytes:
    """The version in front of a record; empty if `data` is empty."""
    return data[:VERSION_BYTES]
