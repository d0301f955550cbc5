"""The record that members on several machines share: the knowledge of one pool, and its members.

Pure. The rule of this file: it holds no reading of one machine's clock. Instants are in the time of
the record, which is the server's clock plus `shift`. When somebody sets the server's clock, or
another server takes over, members change `shift`, and no instant moves.
"""

import math
import os

import msgspec

from binance_oi.budget.knowledge import Known
from binance_oi.budget.tuning import FLIGHT
from binance_oi.budget.usage import Receipt

FORMAT = 1  # changes with what is in a record, and is part of its key
VERSION = 16  # random bytes in front of a record; each write has its own
ID = 16  # bytes that name a member
GONE = 12  # minutes without a write after which the record drops a member
MOST_MEMBERS = 256
WAITED = 2.0  # s for which others leave a silent member its even part
SETTLED = FLIGHT + 1.0  # s after its last write by which what a silent member sent is counted
LOOK = 2  # weight that others keep for a count which shows what a silent member has sent
LONGEST_SHIFT = 1e11  # s


class Line(msgspec.Struct, array_like=True):
    """One member, in the record."""

    serial: int
    """The serial of its latest write that this record holds."""
    at: float
    """When that was, in the time of the record."""
    minute: int
    """The exchange's minute, by the clock of that member."""
    used: int
    """What it has booked to that minute."""
    is_hungry: bool
    """Whether more of its calls wait."""
    under_way: dict[int, int] = msgspec.field(default_factory=dict[int, int])
    """Its weight without an answer, by minute."""
    released: dict[int, int] = msgspec.field(default_factory=dict[int, int])
    """The same, which others released because the member was silent. See `Shared.release`."""

    @property
    def is_possible(self) -> bool:
        """Whether its numbers can be so."""
        weights = [self.serial, self.used, *self.under_way.values(), *self.released.values()]
        return math.isfinite(self.at) and min(weights) >= 0


class Shared(msgspec.Struct, array_like=True):
    """What is in a record."""

    shift: float
    """Seconds of the time of the record less those of the server's clock."""
    quiet_until: float
    """Nothing is charged before this instant: members restore what the server has lost."""
    lines: dict[bytes, Line]
    state: Known

    def seen(self, minute: int) -> int:
        """The number of members that wrote in `minute`, in the one before, or later."""
        return sum(line.minute >= minute - 1 for line in self.lines.values())

    def fresh(self, now: float, age: float) -> int:
        """The number of members that wrote in the last `age` seconds."""
        return sum(now - line.at <= age for line in self.lines.values())

    def even_part(self, member: bytes, used: int, free: int, now: float) -> int:
        """The weight that `member` may take of `free`, if it has used `used` of this minute.

        All members with waiting calls come to the same level. A member that has written nothing
        for `WAITED` seconds does not count, so a dead one delays nobody for long.
        """
        clock, parts = self.state.clock, [used]
        minute = clock.likeliest(now)
        is_new = clock.into(now, minute) < WAITED
        for who, line in self.lines.items():
            is_there = now - line.at < WAITED or (is_new and line.minute == minute - 1)
            if who != member and line.is_hungry and is_there:
                parts.append(line.used if line.minute == minute else 0)
        return max(0, _level(sorted(parts), free) - used)

    def kept(self, member: bytes, now: float) -> int:
        """Weight to keep for a count that comes after all that a silent member may have sent."""
        minute = self.state.clock.likeliest(now)
        is_any = any(
            who != member and now - line.at > WAITED and line.under_way.get(minute)
            for who, line in self.lines.items()
        )
        return LOOK if is_any else 0

    def release(self, member: bytes, now: float) -> None:
        """Let the next count decide the weight that silent members had under way.

        A member that was killed settles nothing. All that it sent is counted `FLIGHT` seconds after
        it was charged, so a later count shows what of it was never sent.
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
        """Book again what others released of `member`: it is back, and settles it itself.

        Until a count has decided the released weight, it counts twice.
        """
        line, ledger = self.lines.get(member), self.state.ledger
        if line is None:
            return
        for k, weight in line.released.items():
            if k in ledger.minutes:
                ledger.book(weight, k, k)
        line.released = {}

    def sign(self, member: bytes, line: Line) -> None:
        """Write the line of a member, and drop members without a recent write."""
        first = line.minute - GONE
        lines = {who: line for who, line in self.lines.items() if line.minute >= first}
        lines.pop(member, None)
        for who in sorted(lines, key=lambda who: lines[who].minute)[: -(MOST_MEMBERS - 1)]:
            del lines[who]
        lines[member] = line
        self.lines = lines


def _level(parts: list[int], free: int) -> int:
    """The level to which `free` fills these parts, smallest first."""
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
    """A record with a new version in front."""
    return os.urandom(VERSION) + _encode(shared)


def decode(data: bytes) -> Shared | None:
    """The content of a record; None when it cannot be one."""
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
    """The version in front of a record; empty when there is no record."""
    return data[:VERSION]
