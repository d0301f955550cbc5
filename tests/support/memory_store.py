"""An in-memory store for shared pools, with only what a pool needs.

Rule of this file: processes share a `Memory`, and a `MemoryStore` is one process's access to it. A
test can lock the memory, delete its record, or put another record in its place.
"""

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TypedDict, Unpack

from binance_oi.budget.machine import MachineBudget
from binance_oi.budget.pool import Clock, ProcessBudget
from binance_oi.budget.shared import SharedPool
from binance_oi.budget.stored import EarlierRecord, Store

LINEAGE = 32  # low bits of a sequence, which count writes; the high bits identify its origin


class _Cell:
    """A record, and the store that holds its lock."""

    def __init__(self) -> None:
        self.sequence = -1
        self.record = b""
        self.held_until = 0.0
        self.holder: MemoryStore | None = None

    def as_earlier_record(self) -> EarlierRecord:
        return EarlierRecord(self.sequence >> LINEAGE, self.sequence, self.record)


class Memory:
    """What all processes share: a record and its lock.

    Attributes:
        is_locked: Whether another program has the lock and never releases it.
        locks: The number of times the lock was taken.
    """

    def __init__(self) -> None:
        self.cell = _Cell()
        self.is_locked = False
        self.locks = 0
        self._lineages = count(1)

    def store(self, current: Store | None = None) -> Store:
        """The store of one process: `current`, or a new one."""
        return current or MemoryStore(self)

    def lose(self) -> None:
        """Delete the record, as a server does that loses its data."""
        self.cell.record, self.cell.sequence = b"", -1

    def copy(self) -> EarlierRecord:
        """A copy of the current record."""
        return self.cell.as_earlier_record()

    def replace(self, copy: EarlierRecord | None = None) -> None:
        """Put a new record in place of the current one: empty, or an earlier copy."""
        self.cell = _Cell()
        if copy is not None:
            self.cell.sequence, self.cell.record = copy.sequence, copy.record

    def next_lineage(self) -> int:
        return next(self._lineages)


class MemoryStore:
    """One process's access to the record of a `Memory`; see `stored.Store`."""

    pool = "exchange"
    room = 4_000

    def __init__(self, memory: Memory) -> None:
        self._memory, self._cell = memory, memory.cell
        self._sequence, self._held = -1, 0.0
        self._earlier: list[EarlierRecord] = []

    @property
    def lineage(self) -> int:
        return self._sequence >> LINEAGE

    def lock(self) -> bool:
        if self.is_replaced():
            self._keep_left()
            self._cell = self._memory.cell
        if self._memory.is_locked or self._cell.holder not in (None, self):
            return False
        self._memory.locks += 1
        self._cell.holder = self
        return True

    def unlock(self) -> None:
        self._cell.holder = None

    def read(self) -> bytes | None:
        cell = self._cell
        self._held = cell.held_until
        if not cell.record:
            self.begin_anew()
            return b""
        found, is_known = cell.as_earlier_record(), cell.sequence == self._sequence
        is_ours = is_known and (not self._earlier or found in self._earlier)
        self._sequence = cell.sequence
        self._earlier = [each for each in self._earlier if not found.contains(each)]
        return None if is_ours else cell.record

    def write(self, record: bytes, held_until: float = 0.0) -> None:
        if len(record) > self.room:
            raise ValueError(f"a record of {len(record)} bytes")
        self._sequence += 1
        cell = self._cell
        cell.sequence, cell.record, cell.held_until = self._sequence, record, held_until
        self._held = held_until

    def peek(self) -> bytes:
        return self._memory.cell.record

    def is_cooldown_new(self) -> bool:
        return self._cell.held_until != self._held

    def begin_anew(self) -> None:
        self._sequence = self._memory.next_lineage() << LINEAGE

    def is_replaced(self) -> bool:
        return self._cell is not self._memory.cell

    def take_earlier_record(self) -> EarlierRecord | None:
        return self._earlier.pop(0) if self._earlier else None

    def continue_record(self, earlier: EarlierRecord) -> None:
        self._sequence = earlier.sequence

    def leave(self) -> Sequence[EarlierRecord]:
        self._keep_left()
        self.close()
        return self._earlier

    def take_over(self, earlier: Sequence[EarlierRecord]) -> None:
        self._earlier = list(earlier)

    def close(self) -> None:
        if self._cell.holder is self:
            self._cell.holder = None

    def _keep_left(self) -> None:
        if self._cell.record:
            found = self._cell.as_earlier_record()
            self._earlier = [each for each in self._earlier if not found.contains(each)]
            self._earlier.append(found)


class Options(TypedDict):
    """The common arguments of both kinds of budget."""

    limit: int
    reserve: float
    clock: Clock
    wall: Clock


class MemoryBudget(ProcessBudget):
    """The budget of one process; all budgets with the same `Memory` share its record."""

    def __init__(self, memory: Memory, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self._memory = memory

    def _make_pool(self, name: str) -> SharedPool:
        def open_store(current: Store | None) -> Store:
            return self._memory.store(current)

        return SharedPool(self._make_bucket, self._fresh_state(), self._clock, open_store)


def shared_pool(kind: str, directory: Path, memory: Memory, options: Options) -> SharedPool:
    """A new pool, as a separate process makes it; `kind` is `file` or `memory`."""
    budget: ProcessBudget = MachineBudget(directory=directory, **options)
    if kind == "memory":
        budget = MemoryBudget(memory, **options)
    pool = budget.pool("exchange")
    assert isinstance(pool, SharedPool)
    return pool
