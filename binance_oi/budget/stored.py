"""Entering the shared record, leaving it, going on alone and joining again.

The rule of this file: the record is read and changed only between `_enter` and `_leave`, no error
of the store reaches a caller, and nothing here knows where the store is.
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
from binance_oi.budget.knowledge import Known
from binance_oi.budget.pool import Change, Clock, ProcessPool, steady_clock
from binance_oi.budget.usage import Receipt

logger: logging.Logger = logging.getLogger("binance_oi")

RETRY = 1.0  # s after which a process that is alone tries to share again; doubled each time
RETRY_MOST = 30.0
CHECK = 60.0  # s between two looks at where the store has to be
NO_LINEAGE = -1  # of a record that is in no store any more

BOOT = boot_identity(time.time() - steady_clock())


def reason_to_doubt(found: record.Record, now: float) -> str:
    """Why a record is not believed; empty when it is."""
    if not is_same_boot(found.boot, BOOT):
        return "it is of another run of the machine"
    if record.is_old(found.state, now):
        return "it is old"
    return record.flaw(found.state, now)


def keep_of_doubtful(ours: Known, found: record.Record, now: float) -> None:
    """Keep what goes on of a record that is not believed: holds, and of an old one its windows."""
    record.keep_holds(ours, found.state, now)
    if is_same_boot(found.boot, BOOT) and record.is_old(found.state, now):
        record.keep_windows(ours, found.state, now)


class Left(NamedTuple):
    """What a store held that was deleted or replaced, as its last reader found it."""

    lineage: int
    """See `Store.lineage`."""
    sequence: int
    """Grows with each write of a lineage."""
    record: bytes

    def goes_on_from(self, other: "Left") -> bool:
        """Whether this record descends from `other`: a later write of its lineage, or the same."""
        if self.lineage != other.lineage:
            return False
        return other.sequence < self.sequence or other == self


class Store(Protocol):
    """One record that processes share, and a lock.

    `lock`, then `read`, then `write`, then `unlock`; nothing else keeps processes apart. What it
    hands out is whole and was written by `write`, or it is nothing. A process that ends or stops at
    any moment leaves the old record or the new one, and keeps nobody away for long.

    A store may be deleted or replaced while it is in use, also several times. `lock` then goes on
    in the new one, and `take_left` says what the old ones held.

    Every call but `peek` and `close` may raise `OSError`: the pool goes on alone, and asks for
    another store later.
    """

    @property
    def pool(self) -> str:
        """Name of the pool."""
        ...

    @property
    def room(self) -> int:
        """Bytes that a record may have; at least 4,000."""
        ...

    @property
    def lineage(self) -> int:
        """Names the beginning that the record, as we last read or wrote it, goes on from.

        A record that was lost, or that a reader did not believe, begins anew in another lineage.
        """
        ...

    def lock(self) -> bool:
        """Take the lock, or say that somebody else has it; never wait for it."""
        ...

    def unlock(self) -> None:
        """Let others have it."""
        ...

    def read(self) -> bytes | None:
        """The record; None when it is still as we wrote it; empty when there is none."""
        ...

    def write(self, record: bytes, held_until: float = 0.0) -> None:
        """Replace the record; `held_until`, Unix s, is the end of a hold in it.

        Raises:
            ValueError: It has more bytes than there is room for.
        """
        ...

    def peek(self) -> bytes:
        """The record, read without the lock and from any thread; empty when it cannot be read."""
        ...

    def is_hold_new(self) -> bool:
        """Whether somebody else has written another end of a hold; asked without the lock."""
        ...

    def begin_anew(self) -> None:
        """Write on from nothing: whoever was part of the record before sees another lineage."""
        ...

    def is_left(self) -> bool:
        """Whether it was deleted or replaced: others use another one; asked without the lock."""
        ...

    def take_left(self) -> Left | None:
        """What a store before this one held, if no later one goes on from it; each once.

        The oldest comes first: a store may be replaced again before anybody has its lock.
        """
        ...

    def go_on_from(self, left: Left) -> None:
        """Write on where a store ended that was left; whoever was part of it still is."""
        ...

    def leave(self) -> Sequence[Left]:
        """Close it; what it and those before it held, as far as it can be read."""
        ...

    def come_from(self, left: Sequence[Left]) -> None:
        """Know what the stores held that were left for this one."""
        ...

    def close(self) -> None:
        """Let go of it. The record stays, for others."""
        ...


class StoredPool(ProcessPool):
    """A pool whose books are in a store that other processes change as well.

    It knows how to enter the store and to leave it; `SharedPool` decides when.

    Args:
        make_bucket: A bucket with our reserve and our share.
        state: What is known without the store.
        clock: Monotonic seconds, the same in every process.
        open_store: The store that a process which starts now would use, given the one we have.
            It raises `OSError` when there is none.
        advice: What a user can do when there is none.
    """

    has_news: bool  # see `ProcessPool`

    def __init__(
        self,
        make_bucket: Callable[[Known], Bucket],
        state: Known,
        clock: Clock,
        open_store: Callable[[Store | None], Store],
        advice: str = "it is tried again",
    ) -> None:
        super().__init__(make_bucket, state, clock)
        self._advice = advice
        self._open_store = open_store
        self._store: Store | None = None
        self._late: list[Change] = []  # what others do not know yet, oldest first
        # A copy of the books with `_late` applied, while another process has the lock and one of
        # the changes is a hold: this process obeys its own hold before it can write it.
        self._held: Bucket | None = None
        self._leased: list[Receipt] = []  # charged for the next few milliseconds
        self._process = fork.current
        self._inherited_until = -math.inf  # monotonic s; by then our parent charged, and not we
        self._changed = False  # whether entering has changed the bucket already
        # Sharing. What we charge alone is the difference between our books and `_base`.
        self._base = record.encode(record.Record("", BOOT, state))  # what all knew when we parted
        self._lineage: int | None = None  # of the record that we are part of
        self._is_untold = False  # our books hold what the store does not
        self._is_alone = False  # we have said that nothing is shared
        self._check_at = -math.inf  # monotonic s at which to look where the store has to be
        self._joined_at = -math.inf
        self._pause = RETRY
        self._has_doubted = False
        self._find_store(clock())

    def _enter(self, now: float | None = None) -> bool:
        """Take the lock and put the shared state in place; without a store, just go on."""
        now = self._clock() if now is None else now
        if now >= self._check_at:
            self._find_store(now)
        store = self._store
        if store is not None:
            try:
                if not store.lock():
                    return False
                data, left = store.read(), store.take_left()
                if left is not None:
                    data = self._take_all_left(store, data, left)
                if data is not None:
                    self.has_news = True  # another process wrote it
                    self._take(store, data)
                if left is not None:
                    self._is_untold = True
            except OSError as error:
                self._go_on_alone(error)
        late, self._late, self._held = self._late, [], None
        for change in late:
            change(self._bucket)
        leased, self._leased = self._leased, []
        for receipt in leased:
            self._bucket.refund(receipt)
        self._changed = bool(late or leased)
        return True

    def _take_all_left(self, store: Store, data: bytes | None, left: Left) -> bytes | None:
        """Learn what `left` and all later stores held that are gone; the record to go on from."""
        all_left = [left, *iter(store.take_left, None)]
        if data == b"":  # nobody has gone on from the last one yet
            last = all_left.pop()
            store.go_on_from(last)
            data = last.record
        for each in all_left:
            self._take_left(each)
        return data

    def _take_left(self, left: Left) -> None:
        """Learn what others wrote into a store that is gone, before all of it is written anew."""
        found, now = record.decode(left.record), self._clock()
        if found is None:
            return
        if reason_to_doubt(found, now):
            keep_of_doubtful(self._bucket.known, found, now)
            return
        if self._lineage not in (None, left.lineage):  # begun without us, see `_take`
            self._is_untold, self._base = True, b""
        if self._is_untold:
            self._merge_into(found.state, now)
        self._bucket.known = found.state
        self._is_untold, self._base = True, left.record
        self._lineage = NO_LINEAGE

    def _merge_into(self, shared: Known, now: float) -> None:
        """Add to `shared` what only we know."""
        base = record.decode(self._base)
        ours = self._bucket.known
        record.merge(shared, ours, base.state if base is not None else None, now)

    def _take(self, store: Store, data: bytes) -> None:
        """Go on from what is in the store; without a record, from what we know ourselves."""
        found, now = record.decode(data), self._clock()
        doubt = (
            reason_to_doubt(found, now)
            if found is not None
            else "it was written by another version"
        )
        if found is None or doubt:
            if data:
                self._say_doubt(doubt)
                store.begin_anew()
            if found is not None:
                keep_of_doubtful(self._bucket.known, found, now)
            self._is_untold, self._base = True, b""
            return
        if self._lineage not in (None, store.lineage):  # begun without us: tell all that we know
            self._is_untold, self._base = True, b""
        if self._is_untold:
            self._merge_into(found.state, now)
        self._base, self._lineage = data, store.lineage
        self._bucket.known = found.state

    def _say_doubt(self, doubt: str) -> None:
        if not self._has_doubted:
            self._has_doubted = True
            logger.warning("the shared budget is not believed and starts anew: %s", doubt)

    def _leave(self, *, changed: bool) -> None:
        store = self._store
        if store is None:
            return
        try:
            if changed or self._is_untold:
                state = self._bucket.known
                data = record.fitted(record.Record(store.pool, BOOT, state), store.room)
                store.write(data, state.cooldown_until)
                if store.is_left():  # while we had the lock: whoever followed may not have seen it
                    self._is_untold = True
                else:
                    self._base, self._lineage = data, store.lineage
                    if self._is_untold:
                        self._come_back()
            store.unlock()
        except (OSError, ValueError) as error:  # ValueError: more than fits into a page
            self._go_on_alone(error)

    def _written(self) -> Known:
        """A copy of what all processes know; of what we know, where nothing can be read."""
        store = self._store
        if store is not None and not self._is_untold:
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
        """Begin as a process of our own; what our parent has not told yet it tells itself.

        Its holds are obeyed here as well: to tell them twice changes nothing.
        """
        if self._process is fork.current:
            return
        self._process, now = fork.current, self._clock()
        self._inherited_until = now
        if self._held is not None:
            record.keep_holds(self._bucket.known, self._held.known, now)
            self._is_untold = True
        self._late, self._leased, self._held = [], [], None
        self._base = record.encode(record.Record("", BOOT, self._bucket.known))
        self._lineage = None
        store, self._store = self._store, None
        if store is not None:
            store.close()
            self._check_at = -math.inf

    # -- alone, and together again ---------------------------------------------------------------

    def _find_store(self, now: float) -> None:
        """Use the store that a process which starts now would use; try again if there is none."""
        store = self._store
        try:
            found = self._open_store(store)
        except OSError as error:
            self._go_on_alone(error)
            return
        if found is not store:
            if store is not None:
                found.come_from(store.leave())
            self._store, self._joined_at = found, now
        self._check_at = now + CHECK

    def _go_on_alone(self, error: Exception) -> None:
        """Say it once, and when to try again: later each time, unless it went well for long."""
        store, self._store = self._store, None
        if store is not None:
            store.close()
            for left in iter(store.take_left, None):  # there is no other store to go on in
                self._take_left(left)
        now = self._clock()
        if store is not None and now - self._joined_at > CHECK:
            self._pause = RETRY
        self._is_untold = True
        self._check_at = now + self._pause
        self._pause = min(2 * self._pause, RETRY_MOST)
        if not self._is_alone:
            self._is_alone = True
            logger.warning(
                "the budget is not shared with other processes, until this ends: %s (%s)",
                error,
                self._advice,
            )

    def _come_back(self) -> None:
        self._is_untold = False
        if self._is_alone:
            self._is_alone = False
            logger.warning("the budget is shared with other processes again")
