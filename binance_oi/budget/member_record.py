"""The record that members on several machines share: what is known of one pool, and who is there.

Pure. The rule of this file: no clock of one machine is in it. Instants are in the time of the
record, which goes on evenly: it is the time of the server plus `shift`. When the server's clock is
set, or another server takes over, members change `shift`, and no instant moves.
"""

import math
import os

import msgspec

from binance_oi.budget import record
from binance_oi.budget.knowledge import Known

FORMAT = 1  # changes with what is in a record, and is part of its key
VERSION = 16  # bytes in front of a record, other ones after each write
ID = 16  # bytes that name a member
GONE = 12  # minutes after which a member that wrote nothing is forgotten
MOST_MEMBERS = 256
WAITED = 2.0  # s for which others leave a member its even part: then they take it
LONGEST_SHIFT = 1e11  # s


class Line(msgspec.Struct, array_like=True):
    """What a record says of one member."""

    serial: int
    """The number of its latest write that is in this record."""
    at: float
    """When that was, in the time of the record."""
    minute: int
    """The exchange's minute, by the clock of that member."""
    used: int
    """What it has booked to that minute."""
    is_hungry: bool
    """Whether it wants more than it got."""

    @property
    def is_possible(self) -> bool:
        """Whether its numbers can be so."""
        return math.isfinite(self.at) and self.serial >= 0 and self.used >= 0


class Shared(msgspec.Struct, array_like=True):
    """What is in a record."""

    shift: float
    """Seconds of the time of the record less those of the server's clock."""
    quiet_until: float
    """Nothing is charged before: members that have lost something book it again."""
    lines: dict[bytes, Line]
    state: Known

    def seen(self, minute: int) -> int:
        """Members that wrote in `minute`, the one before it, or later."""
        return sum(line.minute >= minute - 1 for line in self.lines.values())

    def fresh(self, now: float, age: float) -> int:
        """Members that wrote in the last `age` seconds."""
        return sum(now - line.at <= age for line in self.lines.values())

    def even_part(self, member: bytes, used: int, free: int, now: float) -> int:
        """What `member`, which has used so much, may take of what is free.

        All who want more than they got come to the same level. Nobody waits for long for others to
        take theirs: only for those who wrote lately, or may have been waiting for the minute.
        """
        clock, parts = self.state.clock, [used]
        minute = clock.likeliest(now)
        is_new = clock.into(now, minute) < WAITED
        for who, line in self.lines.items():
            is_there = now - line.at < WAITED or (is_new and line.minute == minute - 1)
            if who != member and line.is_hungry and is_there:
                parts.append(line.used if line.minute == minute else 0)
        return max(0, _level(sorted(parts), free) - used)

    def sign(self, member: bytes, line: Line) -> None:
        """Write the line of a member, and forget members that wrote nothing for long."""
        first = line.minute - GONE
        lines = {who: line for who, line in self.lines.items() if line.minute >= first}
        lines.pop(member, None)
        for who in sorted(lines, key=lambda who: lines[who].minute)[: -(MOST_MEMBERS - 1)]:
            del lines[who]
        lines[member] = line
        self.lines = lines


def _level(parts: list[int], free: int) -> int:
    """The level to which `free` fills these parts, the smallest first."""
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
    """What is in a record; None when it is none."""
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


def flaw(shared: Shared, now: float) -> str:
    """What in a record cannot be so; empty when it can be believed. See `record.flaw`."""
    return record.flaw(shared.state, now)
