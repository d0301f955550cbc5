"""Who shares a bucket.

`ProcessBudget`: everyone in this process who is given the same object. `MachineBudget`, the
default: every process of this user on this machine, also one started later. The rule of this file:
a bucket is never read or changed but through a `Pool`, and a pool keeps the time.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial, wraps
from numbers import Integral
from operator import methodcaller
from pathlib import Path
from threading import get_ident
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from binance_oi.arguments import check_count, check_number
from binance_oi.budget import record
from binance_oi.budget.bucket import Bucket
from binance_oi.budget.knowledge import Known
from binance_oi.budget.place import ADVICE, budget_directory
from binance_oi.budget.pool_file import ROOM, Left, PoolFile, read_records
from binance_oi.budget.server_clock import ServerClock
from binance_oi.budget.usage import Reason, Receipt, Usage, Wait
from binance_oi.endpoints import DEFAULT_LIMIT
from binance_oi.process import boot_identity, is_same_boot
from binance_oi.window import Limit

logger = logging.getLogger("binance_oi")

Clock = Callable[[], float]
_Change = Callable[[Bucket], object]

WALL_ERROR = 2.5  # s: how far this machine's wall clock may be off, until an answer tells
LOT = 8  # weight charged in advance
LEASE = 0.02  # s for which it may be sent; FLIGHT allows for far more
BRISK = 0.005  # s between two charges, below which the next ones are charged in advance
MANY = 64  # answers that wait to be told to others
BUSY = 0.001  # s after which to ask again for a bucket that another process has in its hands
RETRY = 1.0  # s after which a process that is alone tries to share again; doubled each time
RETRY_MOST = 30.0
CHECK = 60.0  # s between two looks at where the file has to be
NO_LINEAGE = -1  # of a record that is in no file any more
VIEWS = 1000  # tries to see the books between two changes; each takes some 20 us
QUICK_VIEWS = 100  # of them that follow each other at once; most changes take microseconds
VIEW_PAUSE = 2e-4  # s before each of the others: a change may wait for the disk, or for a core

if hasattr(time, "CLOCK_BOOTTIME"):

    def steady_clock() -> float:
        """Monotonic seconds, the same for every process, that go on while the machine sleeps."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:
    steady_clock = time.monotonic

BOOT = boot_identity(time.time() - steady_clock())


class Budget(Protocol):
    """What a client needs of a budget."""

    def pool(self, name: str) -> "Pool":
        """The pool of that name; the same for everyone who shares this budget."""
        ...

    def close(self) -> None:
        """Let go of files. What was charged stays charged."""
        ...


_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S", bound="Pool")


def _changing(
    method: Callable[Concatenate[_S, _P], _R],
) -> Callable[Concatenate[_S, _P], _R]:
    """Count the changes that have begun and ended: between them, no other thread sees the pool."""

    @wraps(method)
    def counted(pool: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        pool.changer = get_ident()
        pool.begun += 1
        try:
            return method(pool, *args, **kwargs)
        finally:
            pool.ended += 1

    return counted


class Pool:
    """The budget of one IP address, held in this process.

    One thread charges. `usage`, `banned_until` and `repr` change nothing: any thread may read them,
    and what it sees is the books between two changes. A reader never holds up that thread: it
    reads without a lock, counts the changes, and reads again when there was one meanwhile.
    """

    def __init__(self, make_bucket: Callable[[Known], Bucket], state: Known, clock: Clock) -> None:
        self._make_bucket = make_bucket
        self._bucket = make_bucket(state)
        self._clock = clock
        self.begun = self.ended = 0  # changes, see `_changing`
        self.changer = 0  # the thread that made the last one

    def __repr__(self) -> str:
        usage = self._between_changes(self._own).usage(self._clock())  # reads no file
        return f"<{type(self).__name__} used={usage.used} of {usage.limit}>"

    def charge(self, weight: int) -> Receipt | Wait:
        """See `Bucket.charge`; seconds to wait, or a receipt."""
        # As `_changing` does it, which would cost a fifth of a charge.
        self.changer = get_ident()
        self.begun += 1
        try:
            return self._bucket.charge(self._clock(), weight)
        finally:
            self.ended += 1

    def sending(self, receipt: Receipt) -> Receipt | None:
        """See `Bucket.sending`."""
        self.changer = get_ident()
        self.begun += 1
        try:
            return self._bucket.sending(receipt, self._clock())
        finally:
            self.ended += 1

    def room_in(self, weight: int) -> float:
        """See `Bucket.room_in`."""
        return self._bucket.room_in(self._clock(), weight)

    def settle(self, receipt: Receipt, used: int | None, date: float | None) -> None:
        """See `Bucket.settle`."""
        self.changer = get_ident()
        self.begun += 1
        try:
            self._bucket.settle(receipt, self._clock(), used, date)
        finally:
            self.ended += 1

    @_changing
    def lose(self, receipt: Receipt) -> None:
        """See `Bucket.lose`."""
        self._bucket.lose(receipt, self._clock())

    @_changing
    def refund(self, receipt: Receipt) -> None:
        """See `Bucket.refund`."""
        self._bucket.refund(receipt)

    @_changing
    def hold(self, seconds: float, *, ban: bool = False) -> None:
        """See `Bucket.hold`."""
        self._bucket.hold(self._clock(), seconds, ban=ban)

    @_changing
    def hold_until(self, until: float, *, ban: bool = False) -> None:
        """Send nothing before `until`, Unix s of the exchange's clock."""
        self._bucket.hold_until(until, ban=ban)

    @_changing
    def refused(self, seconds: float, *, ban: bool = False) -> None:
        """See `Bucket.refused`."""
        self._bucket.refused(self._clock(), seconds, ban=ban)

    @_changing
    def settle_refused(
        self, receipt: Receipt, used: int | None, date: float | None, seconds: float, *, ban: bool
    ) -> None:
        """`settle` and `refused` for one answer: it tells which minute was full."""
        _settle_refused(receipt, self._clock(), used, date, seconds, ban, self._bucket)

    @_changing
    def set_limit(self, limit: int) -> None:
        """The exchange named its limit of a minute; limits of other spans stay as they are."""
        _set_limit(limit, self._bucket)

    @_changing
    def set_limits(self, limit: int | None, others: Sequence[Limit]) -> None:
        """See `Bucket.set_limits`."""
        self._bucket.set_limits(self._clock(), limit, others)

    def flush(self) -> None:
        """Nothing is under way: publish what other processes may need."""

    def close(self) -> None:
        """Nothing to let go of."""

    @property
    def banned_until(self) -> datetime | None:
        """See `Usage.banned_until`, which costs more."""
        state = self._bucket.known
        until = state.banned_until
        is_over = state.clock.is_over(until, self._clock())
        return None if is_over else datetime.fromtimestamp(until, UTC)

    @property
    def usage(self) -> Usage:
        """What is known at this moment; from any thread."""
        return self._between_changes(self._shown).usage(self._clock())

    def _own(self) -> tuple[Known, list[_Change]]:
        """A copy of what this pool knows."""
        return record.copied(self._bucket.known), []

    def _shown(self) -> tuple[Known, list[_Change]]:
        """A copy of what is known, and the changes that are not in it yet."""
        return self._own()

    def _between_changes(self, read: Callable[[], tuple[Known, list[_Change]]]) -> Bucket:
        """What `read` finds while nobody changes the books.

        Two readers see less: one inside a change, such as the handler of a signal, which cannot
        wait for its own thread; and one that waits longer than for a slow disk.
        """
        for tries in range(VIEWS):
            ended = self.ended
            if self.begun != ended:  # in the middle of a change: let its thread finish it
                if self.changer == get_ident():
                    break
                time.sleep(0 if tries < QUICK_VIEWS else VIEW_PAUSE)
                continue
            state, changes = read()
            if self.begun == ended:
                bucket = self._make_bucket(state)
                for change in changes:
                    change(bucket)
                return bucket
        return self._make_bucket(read()[0])


def _settle_refused(
    receipt: Receipt,
    now: float,
    used: int | None,
    date: float | None,
    seconds: float,
    ban: bool,
    bucket: Bucket,
) -> None:
    minute = bucket.settle(receipt, now, used, date)
    bucket.refused(now, seconds, ban=ban, minute=minute, used=used)


def _set_limit(limit: int, bucket: Bucket) -> None:
    bucket.known.limit = limit


class ProcessBudget:
    """A budget for everyone in this process who is given this object.

    Other processes on this machine are *others* to it: seen in the header, and given room.

    Args:
        reserve: What we leave unused of each minute's limit, for orders and other tools: weight
            when `int`, a share of the limit when `float`. The default of 1 % is also what lets us
            look at the count when everything else is used; do not go far below it.
        share: The most of the limit that we use ourselves, 0 < share <= 1.
        limit: Weight per minute, until the exchange has told its own.
        clock: Monotonic seconds.
        wall: Unix seconds; read once, and only believed to within 2.5 s of the truth until the
            first answer.

    Raises:
        TypeError: `reserve`, `share` or `limit` is no number.
        ValueError: One of them is out of range.
    """

    def __init__(
        self,
        *,
        reserve: float = 0.01,
        share: float = 1.0,
        limit: int = DEFAULT_LIMIT,
        clock: Clock = steady_clock,
        wall: Clock = time.time,
    ) -> None:
        self._limit = limit = check_count("limit", limit, most=record.MOST)
        kept = check_number("reserve", reserve, least=0.0)
        is_weight = isinstance(reserve, Integral)
        if kept >= (limit if is_weight else 1.0):
            raise ValueError(f"reserve must be a weight below {limit} or a share below 1: {kept!r}")
        self._reserve = int(kept) if is_weight else kept
        self._share = check_number("share", share, above=0.0)
        if self._share > 1.0:
            raise ValueError(f"share must be above 0 and at most 1: {share!r}")
        self._clock, self._wall = clock, wall
        self._pools: dict[str, Pool] = {}

    def __repr__(self) -> str:
        pools = ", ".join(f"{name}: {pool!r}" for name, pool in list(self._pools.items()))
        return f"<{type(self).__name__} {pools or 'unused'}>"

    def pool(self, name: str) -> Pool:
        """The pool of that name, made on first use."""
        pool = self._pools.get(name)
        if pool is None:  # of two threads that make one, the first wins
            pool = self._pools.setdefault(name, self._make_pool(name))
        return pool

    def close(self) -> None:
        """Nothing to let go of."""

    def _make_pool(self, name: str) -> Pool:
        return Pool(self._make_bucket, self._fresh_state(), self._clock)

    def _make_bucket(self, state: Known) -> Bucket:
        return Bucket(state, reserve=self._reserve, share=self._share)

    def _fresh_state(self) -> Known:
        return fresh_state(self._limit, self._clock, self._wall)


class MachineBudget(ProcessBudget):
    """A budget for every process of this user on this machine. The default.

    All of them obey one bucket and one ban, also after a restart. A process that is killed blocks
    nobody, and costs at most what it had in flight, until the minute ends. Other users, containers
    and other machines behind the same address are *others*: seen in the header, and given room.

    The file is in one place for each user id, whatever the environment of the process is: in
    `/dev/shm/binance-oi-UID`, or in the same directory of `/var/tmp` or `/tmp` where that place
    cannot be used. `BINANCE_OI_BUDGET_DIR` names another directory, for containers that share one.

    While the file cannot be used, the process says so once, goes on like `ProcessBudget`, and tries
    again at each charge, every second at first and every 30 s at last. When it can, it adds what it
    has charged meanwhile, and obeys the holds of others before it charges anything more.

    Args:
        directory: Where the file is, instead of the place of this user id.
        reserve: See `ProcessBudget`. Each process keeps its own reserve, on the common count.
        share: See `ProcessBudget`; of all processes together.
        limit: See `ProcessBudget`.
        clock: Monotonic seconds, the same in every process.
        wall: See `ProcessBudget`.
    """

    def __init__(
        self,
        *,
        directory: Path | None = None,
        reserve: float = 0.01,
        share: float = 1.0,
        limit: int = DEFAULT_LIMIT,
        clock: Clock = steady_clock,
        wall: Clock = time.time,
    ) -> None:
        super().__init__(reserve=reserve, share=share, limit=limit, clock=clock, wall=wall)
        self._directory = directory

    def close(self) -> None:
        """Close the shared file. What was charged stays charged."""
        for pool in list(self._pools.values()):
            pool.close()
        self._pools.clear()

    def _make_pool(self, name: str) -> Pool:
        return MachinePool(
            self._make_bucket, self._fresh_state(), self._clock, partial(self._open, name)
        )

    def _open(self, name: str, current: PoolFile | None) -> PoolFile:
        """The file of that pool: `current`, if it is still where it has to be, or another one."""
        directory = self._directory or budget_directory()
        if current is not None and current.path.parent == directory:
            return current
        return PoolFile(directory, name)


def machine_pools(directory: Path | None = None) -> dict[str, Usage]:
    """What is known of every pool on this machine; sends nothing and changes nothing."""
    pools: dict[str, Usage] = {}
    for data in read_records(directory or budget_directory()):
        found, now = record.decode(data), steady_clock()
        if found is not None and not _doubt(found, now):
            pools[found.pool] = Bucket(found.state).usage(now)
    return pools


def _doubt(found: record.Record, now: float) -> str:
    """Why a record is not believed; empty when it is."""
    if not is_same_boot(found.boot, BOOT):
        return "it is of another run of the machine"
    if record.is_old(found.state, now):
        return "it is old"
    return record.flaw(found.state, now)


class MachinePool(Pool):
    """The budget of one IP address, held in a file that all processes of a user share.

    Args:
        make_bucket: A bucket with our reserve and our share.
        state: What is known without the file.
        clock: Monotonic seconds, the same in every process.
        open_file: The file that a process which starts now would use, given the one we have.
    """

    def __init__(
        self,
        make_bucket: Callable[[Known], Bucket],
        state: Known,
        clock: Clock,
        open_file: Callable[[PoolFile | None], PoolFile],
    ) -> None:
        super().__init__(make_bucket, state, clock)
        self._open_file = open_file
        self._file: PoolFile | None = None
        self._late: list[_Change] = []  # what others do not know yet, oldest first
        self._leased: list[Receipt] = []  # charged for the next few milliseconds
        self._charged_at = -math.inf
        self._changed = False  # whether entering has changed the bucket already
        # Sharing. What we charge alone is the difference between our books and `_base`.
        self._base = record.encode(record.Record("", BOOT, state))  # what all knew when we parted
        self._lineage: int | None = None  # of the record that we are part of
        self._is_untold = False  # our books hold what the file does not
        self._is_alone = False  # we have said that nothing is shared
        self._check_at = -math.inf  # monotonic s at which to look where the file has to be
        self._joined_at = -math.inf
        self._pause = RETRY
        self._has_doubted = False
        self._find_file(clock())

    @_changing
    def close(self) -> None:
        """Book what is late, as far as others let us, and close the file."""
        if self._is_untold:
            self._check_at = -math.inf
        self.flush()
        self._check_at = math.inf
        if self._file is not None:
            self._file.close()
            self._file = None

    @_changing
    def charge(self, weight: int) -> Receipt | Wait:
        """See `Bucket.charge`."""
        now = self._clock()
        leased = self._leased
        if leased and weight == 1 and now - leased[-1].sent < LEASE and not self._is_hold_new():
            return leased.pop()
        if not self._enter(now):
            return Wait(BUSY, Reason.STORE_BUSY)
        answer = self._bucket.charge(now, weight)
        if isinstance(answer, Receipt):
            if (
                now - self._charged_at < BRISK
                and answer.first > self._bucket.known.others.expected_until
            ):
                self._take_lease(now)
            self._charged_at = now
        self._leave(changed=self._changed or isinstance(answer, Receipt))
        return answer

    def _is_hold_new(self) -> bool:
        """What was charged in advance may not be sent once another process was refused.

        It is sent so soon that a file which others have left may still be asked.
        """
        file = self._file
        try:
            return file is not None and file.is_hold_new()
        except OSError:
            return True  # whoever takes the lock next says what is wrong

    def _is_hold_possible(self) -> bool:
        """Whether another process may have written a hold, here or in a file that replaced ours."""
        file = self._file
        try:
            return file is not None and (file.is_hold_new() or file.is_left())
        except OSError:
            return True

    def _take_lease(self, now: float) -> None:
        """Calls come in quick succession: charge for the next few, and lock the file once."""
        while len(self._leased) < LOT:
            more = self._bucket.charge(now, 1)
            if not isinstance(more, Receipt):
                return
            self._leased.append(more)

    @_changing
    def sending(self, receipt: Receipt) -> Receipt | None:
        """See `Bucket.sending`; a hold that another process has written counts, too."""
        if self._clock() - receipt.sent >= LEASE and self._is_hold_possible():
            if not self._enter():
                return None
            self._leave(changed=self._changed)
        return super().sending(receipt)

    @_changing
    def settle(self, receipt: Receipt, used: int | None, date: float | None) -> None:
        """See `Bucket.settle`. Told to others with the next charge, or with `flush`."""
        self._late.append(methodcaller("settle", receipt, self._clock(), used, date))
        if receipt.probe or len(self._late) >= MANY:  # others may be waiting for it
            self.flush()

    def lose(self, receipt: Receipt) -> None:
        """See `Bucket.lose`."""
        self._change(methodcaller("lose", receipt, self._clock()))

    def refund(self, receipt: Receipt) -> None:
        """See `Bucket.refund`."""
        self._change(methodcaller("refund", receipt))

    def hold(self, seconds: float, *, ban: bool = False) -> None:
        """See `Bucket.hold`."""
        self._hold(methodcaller("hold", self._clock(), seconds, ban=ban))

    def hold_until(self, until: float, *, ban: bool = False) -> None:
        """See `Pool.hold_until`."""
        self._hold(methodcaller("hold_until", until, ban=ban))

    def refused(self, seconds: float, *, ban: bool = False) -> None:
        """See `Bucket.refused`."""
        self._hold(methodcaller("refused", self._clock(), seconds, ban=ban))

    def settle_refused(
        self, receipt: Receipt, used: int | None, date: float | None, seconds: float, *, ban: bool
    ) -> None:
        """See `Pool.settle_refused`."""
        now = self._clock()
        self._hold(partial(_settle_refused, receipt, now, used, date, seconds, ban))

    def set_limit(self, limit: int) -> None:
        """See `Pool.set_limit`."""
        self._change(partial(_set_limit, limit))

    def set_limits(self, limit: int | None, others: Sequence[Limit]) -> None:
        """See `Pool.set_limits`."""
        self._change(methodcaller("set_limits", self._clock(), limit, tuple(others)))

    @property
    def banned_until(self) -> datetime | None:
        """See `Pool.banned_until`."""
        if self._is_hold_possible():
            return self.usage.banned_until
        return super().banned_until

    def _shown(self) -> tuple[Known, list[_Change]]:
        """What others have written, and the changes that we have not told them yet.

        Reads the file without the lock, and changes neither the file nor the pool.
        """
        state = self._written()
        changes: list[_Change] = [*self._late]
        changes += [methodcaller("refund", receipt) for receipt in self._leased]
        return state, changes

    def _written(self) -> Known:
        """A copy of what all processes know; of what we know, where nothing can be read."""
        file = self._file
        if file is not None and not self._is_untold:
            found, now = record.decode(file.peek()), self._clock()
            if found is not None:
                if not _doubt(found, now):
                    return found.state
                ours = record.copied(self._bucket.known)
                record.keep_holds(ours, found.state, now)
                return ours
        return record.copied(self._bucket.known)

    def _hold(self, change: _Change) -> None:
        """Others have to know at once: try to share, also when we just tried."""
        if self._file is None and self._check_at < math.inf:
            self._check_at = -math.inf
        self._change(change)

    @_changing
    def _change(self, change: _Change) -> None:
        """Do it now, or with the next change when another process has the bucket in its hands."""
        # What was charged in advance was charged before this: it may not be sent after a hold.
        leased, self._leased = self._leased, []
        self._late += [methodcaller("refund", receipt) for receipt in leased]
        self._late.append(change)
        self.flush()

    @_changing
    def flush(self) -> None:
        """See `Pool.flush`."""
        if (self._late or self._leased or self._is_untold) and self._enter():
            self._leave(changed=True)
        self._charged_at = -math.inf  # nothing is under way: the next charge is not one of many

    def _enter(self, now: float | None = None) -> bool:
        """Take the lock and put the shared state in place; without a file, just go on."""
        now = self._clock() if now is None else now
        if now >= self._check_at:
            self._find_file(now)
        file = self._file
        if file is not None:
            try:
                if not file.lock():
                    return False
                data, left = file.read(), file.take_left()
                if left is not None:
                    data = self._take_all_left(file, data, left)
                if data is not None:
                    self._take(file, data)
                if left is not None:
                    self._is_untold = True
            except OSError as error:
                self._go_on_alone(error)
        late, self._late = self._late, []
        for change in late:
            change(self._bucket)
        leased, self._leased = self._leased, []
        for receipt in leased:
            self._bucket.refund(receipt)
        self._changed = bool(late or leased)
        return True

    def _take_all_left(self, file: PoolFile, data: bytes | None, left: Left) -> bytes | None:
        """Learn what `left` and all later files held that are gone; the record to go on from."""
        all_left = [left, *iter(file.take_left, None)]
        if data == b"":  # nobody has gone on from the last one yet
            last = all_left.pop()
            file.go_on_from(last)
            data = last.record
        for each in all_left:
            self._take_left(each)
        return data

    def _take_left(self, left: Left) -> None:
        """Learn what others wrote into a file that is gone, before all of it is told anew."""
        found, now = record.decode(left.record), self._clock()
        if found is None:
            return
        if _doubt(found, now):
            record.keep_holds(self._bucket.known, found.state, now)
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

    def _take(self, file: PoolFile, data: bytes) -> None:
        """Go on from what is in the file; without a record, from what we know ourselves."""
        found, now = record.decode(data), self._clock()
        doubt = _doubt(found, now) if found is not None else "it was written by another version"
        if found is None or doubt:
            if data:
                self._say_doubt(doubt)
                file.begin_anew()
            if found is not None:  # its monotonic times mean nothing, but a ban goes on
                record.keep_holds(self._bucket.known, found.state, now)
            self._is_untold, self._base = True, b""
            return
        if self._lineage not in (None, file.lineage):  # begun without us: tell all that we know
            self._is_untold, self._base = True, b""
        if self._is_untold:
            self._merge_into(found.state, now)
        self._base, self._lineage = data, file.lineage
        self._bucket.known = found.state

    def _say_doubt(self, doubt: str) -> None:
        if not self._has_doubted:
            self._has_doubted = True
            logger.warning("the shared budget is not believed and starts anew: %s", doubt)

    def _leave(self, *, changed: bool) -> None:
        file = self._file
        if file is None:
            return
        try:
            if changed or self._is_untold:
                state = self._bucket.known
                data = record.fitted(record.Record(file.pool, BOOT, state), ROOM)
                file.write(data, state.cooldown_until)
                if file.is_left():  # while we had the lock: whoever followed may not have seen it
                    self._is_untold = True
                else:
                    self._base, self._lineage = data, file.lineage
                    if self._is_untold:
                        self._come_back()
            file.unlock()
        except (OSError, ValueError) as error:  # ValueError: more than fits into a page
            self._go_on_alone(error)

    # -- alone, and together again ---------------------------------------------------------------

    def _find_file(self, now: float) -> None:
        """Use the file that a process which starts now would use; try again if there is none."""
        file = self._file
        try:
            found = self._open_file(file)
        except OSError as error:
            self._go_on_alone(error)
            return
        if found is not file:
            if file is not None:
                file.leave_for(found)
            self._file, self._joined_at = found, now
        self._check_at = now + CHECK

    def _go_on_alone(self, error: Exception) -> None:
        """Say it once, and when to try again: later each time, unless it went well for long."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
            for left in iter(file.take_left, None):  # there is no other file to go on in
                self._take_left(left)
        now = self._clock()
        if file is not None and now - self._joined_at > CHECK:
            self._pause = RETRY
        self._is_untold = True
        self._check_at = now + self._pause
        self._pause = min(2 * self._pause, RETRY_MOST)
        if not self._is_alone:
            self._is_alone = True
            logger.warning(
                "the budget is not shared with other processes, until this ends: %s (%s)",
                error,
                ADVICE,
            )

    def _come_back(self) -> None:
        self._is_untold = False
        if self._is_alone:
            self._is_alone = False
            logger.warning("the budget is shared with other processes again")


def fresh_state(limit: int, clock: Clock, wall: Clock) -> Known:
    """Nothing is known but the time, roughly."""
    now = clock()
    offset = wall() - now
    return Known(limit, ServerClock(offset - WALL_ERROR, offset + WALL_ERROR, now, dated=False))
