"""How a pool enters and leaves the shared record, continues alone, and joins again.

The rule of this file: the pool changes the record only between `_enter` and `_leave`. No error of
the store reaches a caller. This file does not know where the store is.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from binance_oi import fork
from binance_oi.budget import record
from binance_oi.budget.boot import boot_identity, is_same_boot
from binance_oi.budget.bucket import Bucket
from binance_oi.budget.deferred import DeferredPool
from binance_oi.budget.knowledge import Known
from binance_oi.budget.pool import Change, Clock, steady_clock
from binance_oi.budget.usage import Receipt

logger: logging.Logger = logging.getLogger("binance_oi")

RETRY_S = 1.0  # s until a process that is alone tries to share again; each failure doubles it
MAX_RETRY_S = 30.0  # s; the pause grows no further
CHECK_S = 60.0  # s between two checks whether our store is still the right one
NO_LINEAGE = -1  # the lineage of a record that came from an earlier store

BOOT = boot_identity(time.time() - steady_clock())


def reason_to_doubt(found: record.Record, now: float) -> str:
    """Return why we do not trust a record, as a clause; empty if we trust it."""
    if not is_same_boot(found.boot, BOOT):
        return "it was written before a reboot"
    if record.is_old(found.state, now):
        return "it is old"
    part = record.flaw(found.state, now)
    return f"{part} is impossible" if part else ""


def keep_of_doubtful(ours: Known, found: record.Record, now: float) -> None:
    """Adopt the cooldowns of a record that we do not trust, and its windows if it is only old."""
    record.keep_cooldowns(ours, found.state, now)
    if is_same_boot(found.boot, BOOT) and record.is_old(found.state, now):
        record.keep_windows(ours, found.state, now)


class EarlierRecord(NamedTuple):
    """The last record of an earlier store, which was deleted or replaced."""

    lineage: int
    """See `Store.lineage`."""
    sequence: int
    """The number of this write in its lineage; a later write has a higher number."""
    record: bytes
    """The encoded record."""

    def contains(self, other: "EarlierRecord") -> bool:
        """Whether this record contains `other`: it is the same, or a later write of the same
        lineage."""
        if self.lineage != other.lineage:
            return False
        return other.sequence < self.sequence or other == self


class Store(Protocol):
    """One record that processes share, and a lock.

    Call `lock`, then `read`, then `write`, then `unlock`: only the lock excludes other processes.
    The store returns a complete record that some process has written, or nothing. A process that is
    killed or suspended at any moment leaves the old record or the new one, and does not block the
    others for long.

    A store may be deleted or replaced while it is in use, even several times. `lock` then switches
    to the new store, and `take_earlier_record` returns the records of the old ones.

    `peek`, `take_earlier_record`, `leave`, `take_over` and `close` raise nothing. The other methods
    may raise `OSError`. Then the pool continues alone, and later asks for another store.
    """

    @property
    def pool(self) -> str:
        """The name of the pool."""
        ...

    @property
    def room(self) -> int:
        """The largest length of a record in bytes; at least 4,000."""
        ...

    @property
    def lineage(self) -> int:
        """The lineage of the record, as we last read or wrote it.

        Each write continues the record before it, and keeps its lineage. So a record contains all
        earlier writes of its lineage. A process that finds no record, or one that it does not
        trust, begins a new lineage from its own knowledge. Other processes notice the new lineage,
        and add their knowledge.
        """
        ...

    def lock(self) -> bool:
        """Take the lock; False at once if another process has it."""
        ...

    def unlock(self) -> None:
        """Release the lock."""
        ...

    def read(self) -> bytes | None:
        """Return the record; None if we know it already, and empty if there is none."""
        ...

    def write(self, record: bytes, held_until: float = 0.0) -> None:
        """Replace the record.

        Args:
            record: The new record.
            held_until: The end of its cooldown, Unix s; 0.0 if it has none.

        Raises:
            ValueError: The record is longer than `room`.
        """
        ...

    def peek(self) -> bytes:
        """Read the record without the lock, from any thread; empty if it cannot be read."""
        ...

    def is_cooldown_new(self) -> bool:
        """Whether another process has changed the end of the cooldown; needs no lock."""
        ...

    def begin_anew(self) -> None:
        """Begin a new lineage, so that every process that used the record adds its knowledge."""
        ...

    def is_replaced(self) -> bool:
        """Whether others no longer use this store: it was deleted or replaced. Needs no lock."""
        ...

    def take_earlier_record(self) -> EarlierRecord | None:
        """Remove and return the oldest record of earlier stores; None if there is none.

        There may be several: another process may replace a store before we have taken its lock.
        """
        ...

    def continue_record(self, earlier: EarlierRecord) -> None:
        """Continue the record of an earlier store, in its lineage."""
        ...

    def leave(self) -> Sequence[EarlierRecord]:
        """Close the store; return its record and those of earlier stores, as far as readable."""
        ...

    def take_over(self, earlier: Sequence[EarlierRecord]) -> None:
        """Take over the records that `leave` of an earlier store returned."""
        ...

    def close(self) -> None:
        """Close the store. The record stays for others."""
        ...


class StoredPool(DeferredPool):
    """A pool whose books are in a store that other processes change too.

    This class knows how to enter and leave the store. `SharedPool` decides when to do so.

    Args:
        make_bucket: Makes a bucket with our reserve and our share.
        state: Our knowledge before we read the store.
        clock: Returns monotonic seconds, the same in every process.
        open_store: Returns the store to use now. Its argument is the store that we have, or None.
            It may return that store again. It raises `OSError` if there is no store.
        advice: Tells the user how to get a store; part of the warning if there is none.
    """

    has_news: bool  # see `ProcessPool`

    def __init__(
        self,
        make_bucket: Callable[[Known], Bucket],
        state: Known,
        clock: Clock,
        open_store: Callable[[Store | None], Store],
        advice: str = "we try again",
    ) -> None:
        super().__init__(make_bucket, state, clock)
        self._advice = advice
        self._open_store = open_store
        self._store: Store | None = None
        self._late: list[Change] = []  # changes that are not in the record yet, oldest first
        # A copy of our books with `_late` applied. It exists while another process has the lock and
        # a late change is a cooldown: we obey our own cooldown before we can write it.
        self._held: Bucket | None = None
        self._leased: list[Receipt] = []  # receipts charged in advance; see `SharedPool.charge`
        self._process = fork.current
        self._inherited_until = -math.inf  # monotonic s; our parent charged all earlier receipts
        self._changed = False  # whether `_enter` left changes to write
        # The encoded record that we last shared. The rest of our books we charged alone.
        self._base = record.encode(record.Record("", BOOT, state))
        self._lineage: int | None = None  # the lineage of the record that we share
        self._has_unwritten = False  # whether our books contain more than the store
        self._is_alone = False  # whether we have logged that the budget is not shared
        self._check_at = -math.inf  # monotonic s of the next check whether the store is right
        self._joined_at = -math.inf  # monotonic s at which we began to use the store
        self._pause = RETRY_S
        self._has_doubted = False  # whether we have logged that we do not trust a record
        self._find_store(clock())

    def _enter(self, now: float | None = None) -> bool:
        """Take the lock and load the shared state; False if another process has the lock.

        With the lock, the call applies the late changes and refunds the leases. Without a store, it
        does so in our own books.
        """
        now = self._clock() if now is None else now
        if now >= self._check_at:
            self._find_store(now)
        store = self._store
        if store is not None:
            try:
                if not store.lock():
                    return False
                data, earlier = store.read(), store.take_earlier_record()
                if earlier is not None:
                    data = self._take_earlier_records(store, data, earlier)
                if data is not None:
                    self.has_news = True  # another process wrote it
                    self._take(store, data)
                if earlier is not None:
                    self._has_unwritten = True
            except OSError as error:
                self._continue_alone(error)
        late, self._late, self._held = self._late, [], None
        for change in late:
            change(self._bucket)
        leased, self._leased = self._leased, []
        for receipt in leased:
            self._bucket.refund(receipt)
        self._changed = bool(late or leased)
        return True

    def _take_earlier_records(
        self, store: Store, data: bytes | None, earlier: EarlierRecord
    ) -> bytes | None:
        """Adopt the records of earlier stores, beginning with `earlier`.

        Returns:
            The record to continue: `data`, or the last record of an earlier store if the new store
            is still empty.
        """
        records = [earlier, *iter(store.take_earlier_record, None)]
        if data == b"":  # no process has continued the last record yet
            last = records.pop()
            store.continue_record(last)
            data = last.record
        for each in records:
            self._adopt_earlier_record(each)
        return data

    def _adopt_earlier_record(self, earlier: EarlierRecord) -> None:
        """Adopt the record of an earlier store, so that we can write it into the new one."""
        found, now = record.decode(earlier.record), self._clock()
        if found is None:
            return
        if reason_to_doubt(found, now):
            keep_of_doubtful(self._bucket.known, found, now)
            return
        if self._lineage not in (None, earlier.lineage):  # a new lineage lacks our weight: add all
            self._has_unwritten, self._base = True, b""
        if self._has_unwritten:
            self._merge_into(found.state, now)
        self._bucket.known = found.state
        self._has_unwritten, self._base = True, earlier.record
        self._lineage = NO_LINEAGE

    def _merge_into(self, shared: Known, now: float) -> None:
        """Add to `shared` all that we have learned since `_base`."""
        base = record.decode(self._base)
        ours = self._bucket.known
        record.merge(shared, ours, base.state if base is not None else None, now)

    def _take(self, store: Store, data: bytes) -> None:
        """Adopt the record of the store; keep our own books if there is none that we trust."""
        found, now = record.decode(data), self._clock()
        doubt = (
            reason_to_doubt(found, now)
            if found is not None
            else "it was written by another version"
        )
        if found is None or doubt:
            if data:
                self._warn_of_distrust(doubt)
                store.begin_anew()
            if found is not None:
                keep_of_doubtful(self._bucket.known, found, now)
            self._has_unwritten, self._base = True, b""
            return
        if self._lineage not in (None, store.lineage):  # a new lineage lacks our weight: add all
            self._has_unwritten, self._base = True, b""
        if self._has_unwritten:
            self._merge_into(found.state, now)
        self._base, self._lineage = data, store.lineage
        self._bucket.known = found.state

    def _warn_of_distrust(self, doubt: str) -> None:
        if not self._has_doubted:
            self._has_doubted = True
            logger.warning("starting a new shared budget; the old one is not trusted: %s", doubt)

    def _leave(self, *, changed: bool) -> None:
        """Write the record if our books contain more than the store, and release the lock."""
        store = self._store
        if store is None:
            return
        try:
            if changed or self._has_unwritten:
                state = self._bucket.known
                data = record.fitted(record.Record(store.pool, BOOT, state), store.room)
                store.write(data, state.cooldown_until)
                if store.is_replaced():  # replaced while we had the lock: others may miss our write
                    self._has_unwritten = True
                else:
                    self._base, self._lineage = data, store.lineage
                    if self._has_unwritten:
                        self._note_rejoined()
            store.unlock()
        except (OSError, ValueError) as error:  # ValueError: the record is too long
            self._continue_alone(error)

    def _written(self) -> Known:
        """Return a copy of the shared knowledge.

        If our own knowledge contains more than the store, or if we cannot read or trust the record,
        the result is a copy of our own. It also contains the cooldowns of a record that we do not
        trust.
        """
        store = self._store
        if store is not None and not self._has_unwritten:
            found, now = record.decode(store.peek()), self._clock()
            if found is not None:
                if not reason_to_doubt(found, now):
                    return found.state
                ours = record.copied(self._bucket.known)
                keep_of_doubtful(ours, found, now)
                return ours
        return record.copied(self._bucket.known)

    # -- after a fork ----------------------------------------------------------------------------

    def _notice_fork(self) -> None:
        """In a forked child, begin with a store and receipts of our own.

        The parent writes its pending changes itself, so the child drops them. The child keeps only
        the cooldowns among them, because a cooldown that is written twice does no harm.
        """
        if self._process is fork.current:
            return
        self._process, now = fork.current, self._clock()
        self._inherited_until = now
        if self._held is not None:
            record.keep_cooldowns(self._bucket.known, self._held.known, now)
            self._has_unwritten = True
        self._late, self._leased, self._held = [], [], None
        self._base = record.encode(record.Record("", BOOT, self._bucket.known))
        self._lineage = None
        store, self._store = self._store, None
        if store is not None:
            store.close()
            self._check_at = -math.inf

    # -- continuing alone, and joining again -----------------------------------------------------

    def _find_store(self, now: float) -> None:
        """Open the right store, or keep it if we have it; try again later if there is none."""
        store = self._store
        try:
            found = self._open_store(store)
        except OSError as error:
            self._continue_alone(error)
            return
        if found is not store:
            if store is not None:
                found.take_over(store.leave())
            self._store, self._joined_at = found, now
        self._check_at = now + CHECK_S

    def _continue_alone(self, error: Exception) -> None:
        """Continue without a store: log one warning, and plan the next try.

        The pause before that try doubles with each failure, up to `MAX_RETRY_S`. If we had this
        store for more than `CHECK_S`, the pause begins again with `RETRY_S`.
        """
        store, self._store = self._store, None
        if store is not None:
            store.close()
            # Adopt the earlier records now, because no later store takes them over.
            for earlier in iter(store.take_earlier_record, None):
                self._adopt_earlier_record(earlier)
        now = self._clock()
        if store is not None and now - self._joined_at > CHECK_S:
            self._pause = RETRY_S
        self._has_unwritten = True
        self._check_at = now + self._pause
        self._pause = min(2 * self._pause, MAX_RETRY_S)
        if not self._is_alone:
            self._is_alone = True
            logger.warning(
                "the budget is not shared with other processes until this error ends: %s (%s)",
                error,
                self._advice,
            )

    def _note_rejoined(self) -> None:
        """Note that the store contains our books again, and log it if we were alone."""
        self._has_unwritten = False
        if self._is_alone:
            self._is_alone = False
            logger.warning("the budget is shared with other processes again")
