"""What one member has written into the shared record, so that it can restore what a server lost.

Pure. The rule of this file: an entry holds what one write changed, and the serial of that write. A
server that restarts empty, or from an older copy, has lost some of our writes. Their entries are
exactly what we have to book again.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from binance_oi.budget.knowledge import Known

KEPT = 600.0  # s for which an entry stays: longer than a minute or the window of the past
TOGETHER = 5.0  # s of changes of one write that share an entry
ALONE = 2**62  # the serial of what no write holds yet: weight used without the server

Slot = tuple[int, bool, int]
"""Seconds of a window, whether it counts requests, and the slot."""


@dataclass(slots=True)
class Booked:
    """Weight by minute, and use by slot of a window: as totals, or as a change."""

    booked: Counter[int] = field(default_factory=Counter[int])
    under_way: Counter[int] = field(default_factory=Counter[int])
    single: Counter[int] = field(default_factory=Counter[int])
    slots: Counter[Slot] = field(default_factory=Counter[Slot])

    @classmethod
    def of(cls, known: Known) -> "Booked":
        """The totals of a record."""
        total = cls()
        for k, minute in known.ledger.minutes.items():
            total.booked[k] = minute.booked
            total.under_way[k] = minute.under_way
            total.single[k] = minute.single
        for window in known.windows:
            for slot, used in window.slots.items():
                total.slots[window.seconds, window.counts_requests, slot] = used
        return total

    def __iter__(self) -> Iterator[Counter[int] | Counter[Slot]]:
        yield from (self.booked, self.under_way, self.single, self.slots)

    def __bool__(self) -> bool:
        return any(any(part.values()) for part in self)

    def add(self, other: "Booked") -> None:
        """Add `other`."""
        for part, more in zip(self, other, strict=True):
            part.update(more)  # type: ignore[arg-type] # of one kind

    def since(self, before: "Booked") -> "Booked":
        """The change from `before` to this."""
        change = Booked()
        for part, now, then in zip(change, self, before, strict=True):
            part.update(now)  # type: ignore[arg-type]
            part.subtract(then)  # type: ignore[arg-type]
            for key in [key for key, amount in part.items() if not amount]:
                del part[key]
        return change


@dataclass(slots=True)
class _Entry:
    serial: int
    at: float
    change: Booked


class Journal:
    """Our latest writes, oldest first."""

    def __init__(self) -> None:
        self._entries: deque[_Entry] = deque()
        self._dropped = 0
        self._is_sealed = False
        self._total = Booked()  # of all entries; its slots are not kept
        self._highest = -1  # at least the serial of every entry

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, serial: int, now: float, change: Booked) -> None:
        """Write `serial` made this change."""
        self._forget(now)
        if not change:
            return
        self._count(change, 1)
        self._highest = max(self._highest, serial)
        last = self._entries[-1] if self._entries and not self._is_sealed else None
        if last is not None and last.serial == serial and last.at // TOGETHER == now // TOGETHER:
            last.change.add(change)
        else:
            self._entries.append(_Entry(serial, now, change))
            self._is_sealed = False

    def since(self, serial: int, now: float) -> Booked:
        """The changes of our writes after `serial`."""
        self._forget(now)
        total = Booked()
        for entry in self._entries if serial < self._highest else ():
            if entry.serial > serial:
                total.add(entry.change)
        return total

    def booked(self, minute: int) -> int:
        """The weight that we have booked to a minute."""
        return self._total.booked.get(minute, 0)

    def under_way(self, first: int, change: Booked) -> dict[int, int]:
        """Our weight without an answer after `change`, by minute, from minute `first` on."""
        ours = Counter(self._total.under_way)
        ours.update(change.under_way)
        return {k: weight for k, weight in ours.items() if k >= first and weight > 0}

    def _count(self, change: Booked, sign: int) -> None:
        """Add a change to the totals, or subtract it."""
        parts = (self._total.booked, change.booked), (self._total.under_way, change.under_way)
        for total, part in parts:
            for k, weight in part.items():
                total[k] += sign * weight
                if not total[k]:
                    del total[k]

    def seal(self) -> int:
        """The position after the last entry; later changes begin a new entry. See `renumber`."""
        self._is_sealed = True
        return self._dropped + len(self._entries)

    def renumber(self, after: int, end: int, serial: int) -> None:
        """Write `serial` holds the entries after write `after`, up to position `end`."""
        for place, entry in enumerate(self._entries, self._dropped):
            if place < end and entry.serial > after:
                entry.serial = serial
        self._highest = max((entry.serial for entry in self._entries), default=-1)

    def move(self, seconds: float, slots: Mapping[tuple[int, bool], int]) -> None:
        """Our time has jumped by `seconds`, and each window by that number of slots."""
        for entry in self._entries:
            entry.at += seconds
            moved = {
                (w, n, slot + slots.get((w, n), 0)): x
                for (w, n, slot), x in entry.change.slots.items()
            }
            entry.change.slots = Counter(moved)

    def _forget(self, now: float) -> None:
        while self._entries and self._entries[0].at < now - KEPT:
            self._count(self._entries.popleft().change, -1)
            self._dropped += 1
