"""The record that members on several machines share: the knowledge of one pool, and its members.

A member is one process that takes part in the pool.

Pure. The rule of this file: a record holds no reading of a single machine's clock. Its instants are
in the time of the record, which is the server's clock plus `shift`. When the server's clock is set,
or another server takes over, the members change `shift`. So no instant moves.
"""

import math
import os

import msgspec

from binance_oi.budget.knowledge import Known
from binance_oi.budget.server_clock import MINUTE
from binance_oi.budget.tuning import FLIGHT, MEMORY
from binance_oi.budget.usage import Receipt

FORMAT = 1  # the version of the layout of a record; part of the record's key
VERSION = 16  # bytes in front of a record, random for each write
ID = 16  # bytes of the id of a member
GONE = 12  # minutes without a write after which the record drops a member
MOST_MEMBERS = 256
WAITED = 2.0  # s without a write; until then, others leave a silent member its even part
SETTLED = FLIGHT + 1.0  # s without a write; by then the exchange has counted all of its requests
LOOK = 2  # weight that others leave unused, so that a later request can read the counter
PRESENT = 2.0  # s between two writes of a member that has a part of its own, at most
SILENT = 4.0  # s without a write; then others keep the part of the member free
PARTED = SILENT + SETTLED  # s without a write; then a member may begin to use its part alone
CLAIM = 6.0  # s from the beginning of a minute; a member that is alone begins by then
BEGIN = 3.0  # s from `PARTED` on; the same in the minute in which it lost the server
LONGEST_SHIFT = 1e11  # s


class Line(msgspec.Struct, array_like=True):
    """The entry of one member in the record."""

    serial: int
    """The serial of the member's latest write in this record."""
    at: float
    """The instant of that write, in the time of the record."""
    minute: int
    """The exchange's minute at that write, by the member's clock."""
    used: int
    """Weight that the member has booked to that minute."""
    is_hungry: bool
    """Whether more calls of the member wait for weight."""
    under_way: dict[int, int] = msgspec.field(default_factory=dict[int, int])
    """Weight of the member's requests without an answer, by minute."""
    released: dict[int, int] = msgspec.field(default_factory=dict[int, int])
    """Weight that others moved out of `under_way`, because the member was silent. See
    `Shared.release`."""
    members: int = 0
    """Without the server, the member may use the limit divided by this number; 0: no part."""
    left: int = 0
    """Weight that it may then use of `minute`."""

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

    def fresh(self, now: float, age: float) -> int:
        """The number of members that wrote in the last `age` seconds."""
        return sum(now - line.at <= age for line in self.lines.values())

    def even_part(self, member: bytes, used: int, free: int, now: float) -> int:
        """The part of `free` for `member`, so that all hungry members use the same weight.

        For example, two members have used 10 and 40, and 50 are free. Both should reach 50, so the
        first may take 40 and the second 10. The function leaves out members that have written
        nothing for `WAITED` seconds, so a dead member delays the others only briefly.

        Args:
            member: The id of the member.
            used: Weight that the member has used in this minute.
            free: Weight that is left for all members in this minute.
            now: Seconds, in the time of the record.
        """
        clock, parts = self.state.clock, [used]
        minute = clock.likeliest(now)
        is_new = clock.into(now, minute) < WAITED
        for who, line in self.lines.items():
            is_there = now - line.at < WAITED or (is_new and line.minute == minute - 1)
            if who != member and line.is_hungry and is_there:
                parts.append(line.used if line.minute == minute else 0)
        return max(0, _level(sorted(parts), free) - used)

    def kept(self, member: bytes, k: int, now: float) -> int:
        """Weight of minute `k` that `member` leaves to members that are silent; usually 0.

        A silent member may be apart, and then it uses its own part of the minute. It begins early
        in the minute, or not at all. So a later count shows whether the others may use the part.

        A silent member may also have sent requests before. The other members need room in this
        minute for one more request. Its used-weight header shows how much of that weight the
        exchange counted.
        """
        is_any = any(
            who != member and now - line.at > WAITED and line.under_way.get(k)
            for who, line in self.lines.items()
        )
        others = self.state.ledger.minute(k).others
        is_used = others > self.state.negligible
        parts = sum(
            line.part(k, self.state.limit)
            for line, shown_at in self._silent(member, k, now)
            if is_used or self.state.counted_at < shown_at
        )
        return max(LOOK if is_any else 0, parts - others)

    def is_count_due(self, member: bytes, now: float) -> bool:
        """Whether one request should show if silent members use their parts of the minute."""
        known = self.state
        k = known.clock.likeliest(now)
        return not known.ledger.minute(k).under_way and any(
            known.counted_at < shown_at <= now for _, shown_at in self._silent(member, k, now)
        )

    def expect_members(self, member: bytes, now: float) -> None:
        """Expect no others for weight that silent members may have used alone.

        That weight is no reason to leave more room than `kept`.
        """
        known = self.state
        k = known.clock.likeliest(now)
        parts = sum(line.part(k, known.limit) for line, _ in self._silent(member, k, now))
        if known.negligible < known.ledger.minute(k).others <= parts:
            known.others.curves.pop(k, None)
            known.forget_others(known.clock.earliest(now) - 1)

    def _silent(self, member: bytes, k: int, now: float) -> list[tuple[Line, float]]:
        """The lines of silent members that have a part of their own.

        Returns:
            Each line, and the instant from which a count contains a request that the member has
            sent alone in minute `k`.
        """
        start = MINUTE * k - self.state.clock.lo
        return [
            (line, max(start + CLAIM, line.at + PARTED + BEGIN) + SETTLED)
            for who, line in self.lines.items()
            if who != member
            and line.members
            and now - line.at > SILENT
            and line.minute >= k - MEMORY
        ]

    def release(self, member: bytes, now: float) -> None:
        """Let the next used-weight header decide the weight that silent members had under way.

        A member that was killed settles nothing. The exchange counts each of its requests at most
        `FLIGHT` seconds after the charge. So a later header shows which weight was never sent.
        """
        ledger = self.state.ledger
        for who, line in self.lines.items():
            if who == member or not line.under_way or now - line.at <= SETTLED:
                continue
            for k, weight in line.under_way.items():
                if k in ledger.minutes:
                    ledger.leave_undecided(Receipt(weight, now, k, k, 0, False), k, now)
                    line.released[k] = line.released.get(k, 0) + weight
            line.under_way = {}

    def restore(self, member: bytes) -> None:
        """Book again the weight of `member` that others released.

        The member is back, and settles that weight itself. Until a used-weight header has decided
        the released weight, the books hold that weight twice.
        """
        line, ledger = self.lines.get(member), self.state.ledger
        if line is None:
            return
        for k, weight in line.released.items():
            if k in ledger.minutes:
                ledger.book(weight, k, k)
        line.released = {}

    def sign(self, member: bytes, line: Line) -> None:
        """Write the line of a member, and drop members without a write in `GONE` minutes.

        If too many members are left, the function also drops those with the oldest minutes.
        """
        first = line.minute - GONE
        lines = {who: line for who, line in self.lines.items() if line.minute >= first}
        lines.pop(member, None)
        for who in sorted(lines, key=lambda who: lines[who].minute)[: -(MOST_MEMBERS - 1)]:
            del lines[who]
        lines[member] = line
        self.lines = lines


def _level(parts: list[int], free: int) -> int:
    """Return the equal weight that the lowest parts reach if they get all of `free`.

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
    return os.urandom(VERSION) + _encode(shared)


def decode(data: bytes) -> Shared | None:
    """Decode a record; None if `data` is damaged, or if a number is out of bounds."""
    try:
        shared = _decode(memoryview(data)[VERSION:])
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
    return data[:VERSION]
