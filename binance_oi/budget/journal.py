"""The journal of a member: what one process has changed in a record that it shares on a server.

Pure. The rule of this file: an entry holds a change and a serial. The serial is that of the last
write that contained the change, or `UNWRITTEN` if none has contained it yet. A server that restarts
empty, or from an older copy, has lost our latest writes. The member then books the changes of those
writes again, but not those of earlier ones. For example, the restored record names write 7 as our
latest, and the journal goes up to write 9: the member books writes 8 and 9 again.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from binance_oi.budget.knowledge import Known

ENTRY_LIFE_S = 600.0  # s for which an entry stays: longer than a minute or a window of 5 minutes
ENTRY_SPAN_S = 5.0  # s; changes with one serial share an entry if they fall into one such period
UNWRITTEN = 2**62  # the serial of weight that we used without the server; no write contains it yet

Slot = tuple[int, bool, int]
"""The length of a window in s, whether that window counts requests, and the number of a slot."""


@dataclass(slots=True)
class Booked:
    """Weight by minute, and use by slot of a window.

    An object is either the totals of a record, or the change between two totals.
    """

    booked: Counter[int] = field(default_factory=Counter[int])
    under_way: Counter[int] = field(default_factory=Counter[int])
    single: Counter[int] = field(default_factory=Counter[int])
    slots: Counter[Slot] = field(default_factory=Counter[Slot])

    @classmethod
    def of(cls, known: Known) -> "Booked":
        """The totals of the record `known`."""
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
        """Add `other` to this object, in place."""
        for part, more in zip(self, other, strict=True):
            part.update(more)  # type: ignore[arg-type] # keys of one type

    def since(self, before: "Booked") -> "Booked":
        """The change from the totals `before` to these totals. It leaves out zeros."""
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
    """Our latest writes, and the weight that we used without the server; oldest first."""

    def __init__(self) -> None:
        self._entries: deque[_Entry] = deque()
        self._dropped = 0
        self._is_sealed = False
        self._total = Booked()  # the sum of all entries, without `single` and `slots`
        self._highest = -1  # no entry has a higher serial

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, serial: int, now: float, change: Booked) -> None:
        """Note that write `serial` made `change`, in a new entry or in the last one.

        Args:
            serial: The serial of the write, or `UNWRITTEN`.
            now: Seconds, in the time of the record.
            change: If it is empty, the journal stays as it is.
        """
        self._forget(now)
        if not change:
            return
        self._count(change, 1)
        self._highest = max(self._highest, serial)
        last = self._entries[-1] if self._entries and not self._is_sealed else None
        if (
            last is not None
            and last.serial == serial
            and last.at // ENTRY_SPAN_S == now // ENTRY_SPAN_S
        ):
            last.change.add(change)
        else:
            self._entries.append(_Entry(serial, now, change))
            self._is_sealed = False

    def since(self, serial: int, now: float) -> Booked:
        """The sum of our changes after write `serial`, with those that no write contains yet."""
        self._forget(now)
        total = Booked()
        for entry in self._entries if serial < self._highest else ():
            if entry.serial > serial:
                total.add(entry.change)
        return total

    def booked(self, minute: int) -> int:
        """The weight that we have booked to `minute`, in all entries together."""
        return self._total.booked.get(minute, 0)

    def under_way(self, first: int, change: Booked) -> dict[int, int]:
        """Our weight under way, by minute, including that of `change`.

        Args:
            first: The result leaves out earlier minutes.
            change: A change that the journal does not hold yet.
        """
        ours = Counter(self._total.under_way)
        ours.update(change.under_way)
        return {k: weight for k, weight in ours.items() if k >= first and weight > 0}

    def _count(self, change: Booked, sign: int) -> None:
        """Add a change to the totals (`sign` 1), or subtract it (`sign` -1)."""
        parts = (self._total.booked, change.booked), (self._total.under_way, change.under_way)
        for total, part in parts:
            for k, weight in part.items():
                total[k] += sign * weight
                if not total[k]:
                    del total[k]

    def seal(self) -> int:
        """Close the last entry, so that later changes begin a new one.

        Returns:
            The position after the last entry, for `renumber`.
        """
        self._is_sealed = True
        return self._dropped + len(self._entries)

    def renumber(self, after: int, end: int, serial: int) -> None:
        """Give entries the serial of the write that has booked them again.

        Args:
            after: Entries with this serial, or a lower one, stay as they are.
            end: The position from `seal`; entries from this position on stay as they are.
            serial: The serial of the write that booked the other entries again.
        """
        for place, entry in enumerate(self._entries, self._dropped):
            if place < end and entry.serial > after:
                entry.serial = serial
        self._highest = max((entry.serial for entry in self._entries), default=-1)

    def move(self, seconds: float, slots: Mapping[tuple[int, bool], int]) -> None:
        """Move every entry, after our time has jumped.

        Args:
            seconds: The jump of our time.
            slots: For each window, the number of slots by which it moved. The key is the length of
                the window in seconds, and whether it counts requests.
        """
        for entry in self._entries:
            entry.at += seconds
            moved = {
                (w, n, slot + slots.get((w, n), 0)): x
                for (w, n, slot), x in entry.change.slots.items()
            }
            entry.change.slots = Counter(moved)

    def _forget(self, now: float) -> None:
        while self._entries and self._entries[0].at < now - ENTRY_LIFE_S:
            self._count(self._entries.popleft().change, -1)
            self._dropped += 1
