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
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Protocol

import msgspec

from binance_oi.arguments import check_count, check_number
from binance_oi.endpoints import DEFAULT_LIMIT
from binance_oi.minutes import Bucket, Receipt, State, Usage
from binance_oi.pool_file import PoolFile, read_records, runtime_directory
from binance_oi.server_clock import ServerClock
from binance_oi.window import Limit

logger = logging.getLogger("binance_oi")

Clock = Callable[[], float]

MOST = 10**12  # weight per minute: a limit that is none, for tests and private exchanges
WALL_ERROR = 2.5  # s: how far this machine's wall clock may be off, until an answer tells
LOT = 8  # weight charged in advance
LEASE = 0.02  # s for which it may be sent; FLIGHT allows for far more
BRISK = 0.005  # s between two charges, below which the next ones are charged in advance
MANY = 64  # answers that wait to be told to others
BUSY = 0.001  # s after which to ask again for a bucket that another process has in its hands

if hasattr(time, "CLOCK_BOOTTIME"):

    def steady_clock() -> float:
        """Monotonic seconds, the same for every process, that go on while the machine sleeps."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

else:
    steady_clock = time.monotonic


class Budget(Protocol):
    """What a client needs of a budget."""

    def pool(self, name: str) -> "Pool":
        """The pool of that name; the same for everyone who shares this budget."""
        ...

    def close(self) -> None:
        """Let go of files. What was charged stays charged."""
        ...


class Pool:
    """The budget of one IP address, held in this process."""

    def __init__(self, bucket: Bucket, clock: Clock) -> None:
        self._bucket = bucket
        self._clock = clock

    def charge(self, weight: int) -> Receipt | float:
        """See `Bucket.charge`; seconds to wait, or a receipt."""
        return self._bucket.charge(self._clock(), weight)

    def sending(self, receipt: Receipt) -> Receipt | None:
        """See `Bucket.sending`."""
        return self._bucket.sending(receipt, self._clock())

    def room_in(self, weight: int) -> float:
        """See `Bucket.room_in`."""
        return self._bucket.room_in(self._clock(), weight)

    def settle(self, receipt: Receipt, used: int | None, date: float | None) -> None:
        """See `Bucket.settle`."""
        self._bucket.settle(receipt, self._clock(), used, date)

    def lose(self, receipt: Receipt) -> None:
        """See `Bucket.lose`."""
        self._bucket.lose(receipt, self._clock())

    def refund(self, receipt: Receipt) -> None:
        """See `Bucket.refund`."""
        self._bucket.refund(receipt)

    def hold(self, seconds: float, *, ban: bool = False) -> None:
        """See `Bucket.hold`."""
        self._bucket.hold(self._clock(), seconds, ban=ban)

    def hold_until(self, until: float, *, ban: bool = False) -> None:
        """Send nothing before `until`, Unix s of the exchange's clock."""
        self._bucket.hold_until(until, ban=ban)

    def refused(self, seconds: float, *, ban: bool = False) -> None:
        """See `Bucket.refused`."""
        self._bucket.refused(self._clock(), seconds, ban=ban)

    def settle_refused(
        self, receipt: Receipt, used: int | None, date: float | None, seconds: float, *, ban: bool
    ) -> None:
        """`settle` and `refused` for one answer: it tells which minute was full."""
        now = self._clock()
        minute = self._bucket.settle(receipt, now, used, date)
        self._bucket.refused(now, seconds, ban=ban, minute=minute, used=used)

    def set_limit(self, limit: int) -> None:
        """The exchange said what it allows in a minute."""
        self._bucket.state.limit = limit

    def set_limits(self, limit: int | None, others: Sequence[Limit]) -> None:
        """See `Bucket.set_limits`."""
        self._bucket.set_limits(self._clock(), limit, others)

    def flush(self) -> None:
        """Nothing is under way: what others may want to know is told now."""

    @property
    def banned_until(self) -> datetime | None:
        """See `Usage.banned_until`, which costs more."""
        state = self._bucket.state
        is_banned = state.banned_until > self._clock() + state.clock.lo
        return datetime.fromtimestamp(state.banned_until, UTC) if is_banned else None

    @property
    def usage(self) -> Usage:
        """What is known at this moment."""
        return self._bucket.usage(self._clock())


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
        self._limit = limit = check_count("limit", limit, most=MOST)
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
        pools = ", ".join(f"{name}: {pool!r}" for name, pool in self._pools.items())
        return f"<{type(self).__name__} {pools or 'unused'}>"

    def pool(self, name: str) -> Pool:
        """The pool of that name, made on first use."""
        if name not in self._pools:
            self._pools[name] = self._make_pool(name)
        return self._pools[name]

    def close(self) -> None:
        """Nothing to let go of."""

    def _make_pool(self, name: str) -> Pool:
        return Pool(self._bucket(), self._clock)

    def _bucket(self) -> Bucket:
        state = fresh_state(self._limit, self._clock, self._wall)
        return Bucket(state, reserve=self._reserve, share=self._share)


class MachineBudget(ProcessBudget):
    """A budget for every process of this user on this machine. The default.

    All of them obey one bucket and one ban, also after a restart. A process that is killed blocks
    nobody, and costs at most what it had in flight, until the minute ends. Other users, containers
    and other machines behind the same address are *others*: seen in the header, and given room.

    Where the shared file cannot be made it says so once and goes on like `ProcessBudget`.

    Args:
        directory: Where the file is; by default the user's runtime directory.
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
        for pool in self._pools.values():
            if isinstance(pool, MachinePool):
                pool.close()
        self._pools.clear()

    def _make_pool(self, name: str) -> Pool:
        try:
            file = PoolFile(self._directory or runtime_directory(), name)
        except OSError as error:
            logger.warning("the budget is not shared with other processes: %s", error)
            return super()._make_pool(name)
        return MachinePool(self._bucket(), self._clock, file)


def machine_pools(directory: Path | None = None) -> dict[str, Usage]:
    """What is known of every pool on this machine; sends nothing and changes nothing."""
    pools: dict[str, Usage] = {}
    for data in read_records(directory or runtime_directory()):
        record = _decode(data)
        if record is not None and record.boot == BOOT:
            pools[record.pool] = Bucket(record.state).usage(steady_clock())
    return pools


class MachinePool(Pool):
    """The budget of one IP address, held in a file that all processes of a user share."""

    def __init__(self, bucket: Bucket, clock: Clock, file: PoolFile) -> None:
        super().__init__(bucket, clock)
        self._file: PoolFile | None = file
        self._late: list[Callable[[], object]] = []  # what others do not know yet, oldest first
        self._leased: list[Receipt] = []  # charged for the next few milliseconds
        self._charged_at = -math.inf
        self._changed = False  # whether entering has changed the bucket already

    def close(self) -> None:
        """Book what is late, as far as others let us, and close the file."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def charge(self, weight: int) -> Receipt | float:
        """See `Bucket.charge`."""
        now = self._clock()
        leased = self._leased
        if leased and weight == 1 and now - leased[-1].sent < LEASE and not self._is_hold_new():
            return leased.pop()
        if not self._enter():
            return BUSY
        answer = self._bucket.charge(now, weight)
        if isinstance(answer, Receipt):
            if now - self._charged_at < BRISK and answer.first > self._bucket.state.wary:
                self._take_lease(now)
            self._charged_at = now
        self._leave(changed=self._changed or isinstance(answer, Receipt))
        return answer

    def _is_hold_new(self) -> bool:
        """What was charged in advance may not be sent once another process was refused."""
        try:
            return self._file is not None and self._file.is_hold_new()
        except OSError:
            return True  # whoever takes the lock next says what is wrong

    def _take_lease(self, now: float) -> None:
        """Calls come thick and fast: charge for the next few at once, and lock the file once."""
        while len(self._leased) < LOT:
            more = self._bucket.charge(now, 1)
            if not isinstance(more, Receipt):
                return
            self._leased.append(more)

    def sending(self, receipt: Receipt) -> Receipt | None:
        """See `Bucket.sending`; a hold that another process has written counts, too."""
        if self._clock() - receipt.sent >= LEASE and self._is_hold_new():
            if not self._enter():
                return None
            self._leave(changed=self._changed)
        return super().sending(receipt)

    def settle(self, receipt: Receipt, used: int | None, date: float | None) -> None:
        """See `Bucket.settle`. Told to others with the next charge, or with `flush`."""
        self._late.append(partial(self._bucket.settle, receipt, self._clock(), used, date))
        if receipt.alone or len(self._late) >= MANY:  # others may be waiting for it
            self.flush()

    def lose(self, receipt: Receipt) -> None:
        """See `Bucket.lose`."""
        self._change(partial(self._bucket.lose, receipt, self._clock()))

    def refund(self, receipt: Receipt) -> None:
        """See `Bucket.refund`."""
        self._change(partial(self._bucket.refund, receipt))

    def hold(self, seconds: float, *, ban: bool = False) -> None:
        """See `Bucket.hold`."""
        self._change(partial(self._bucket.hold, self._clock(), seconds, ban=ban))

    def hold_until(self, until: float, *, ban: bool = False) -> None:
        """See `Pool.hold_until`."""
        self._change(partial(self._bucket.hold_until, until, ban=ban))

    def refused(self, seconds: float, *, ban: bool = False) -> None:
        """See `Bucket.refused`."""
        self._change(partial(self._bucket.refused, self._clock(), seconds, ban=ban))

    def settle_refused(
        self, receipt: Receipt, used: int | None, date: float | None, seconds: float, *, ban: bool
    ) -> None:
        """See `Pool.settle_refused`."""
        self._change(partial(super().settle_refused, receipt, used, date, seconds, ban=ban))

    def set_limit(self, limit: int) -> None:
        """See `Pool.set_limit`."""
        self._change(partial(super().set_limit, limit))

    def set_limits(self, limit: int | None, others: Sequence[Limit]) -> None:
        """See `Pool.set_limits`."""
        self._change(partial(super().set_limits, limit, tuple(others)))

    @property
    def banned_until(self) -> datetime | None:
        """See `Pool.banned_until`."""
        if self._is_hold_new() and self._enter():
            self._leave(changed=self._changed)
        return super().banned_until

    @property
    def usage(self) -> Usage:
        """What is known at this moment."""
        if self._enter():
            self._leave(changed=self._changed)
        return super().usage

    def _change(self, change: Callable[[], object]) -> None:
        """Do it now, or with the next change when another process has the bucket in its hands."""
        # What was charged in advance was charged before this: it may not be sent after a hold.
        self._late += [partial(self._bucket.refund, receipt) for receipt in self._leased]
        self._leased.clear()
        self._late.append(change)
        self.flush()

    def flush(self) -> None:
        """See `Pool.flush`."""
        if (self._late or self._leased) and self._enter():
            self._leave(changed=True)
        self._charged_at = -math.inf  # nothing is under way: the next charge is not one of many

    def _enter(self) -> bool:
        """Take the lock and put the shared state in place; without a file, just go on."""
        file = self._file
        if file is not None:
            try:
                if not file.lock():
                    return False
                data = file.read()
                if data is not None:
                    self._take(data)
            except OSError as error:
                self._go_on_alone(file, error)
        late, self._late = self._late, []
        for change in late:
            change()
        leased, self._leased = self._leased, []
        for receipt in leased:
            self._bucket.refund(receipt)
        self._changed = bool(late or leased)
        return True

    def _take(self, data: bytes) -> None:
        """Go on from what is in the file; without a record, from what we know ourselves."""
        record = _decode(data)
        if record is None:
            if data:
                logger.warning("the shared budget was written by another version; it starts anew")
            return
        if record.boot == BOOT:
            self._bucket.state = record.state
        else:  # the monotonic clock began anew, but a ban goes on
            self._bucket.state.held_until = record.state.held_until
            self._bucket.state.banned_until = record.state.banned_until

    def _leave(self, *, changed: bool) -> None:
        file = self._file
        if file is None:
            return
        try:
            if changed:
                state = self._bucket.state
                file.write(_encode(_Record(file.pool, BOOT, state)), state.held_until)
            file.unlock()
        except OSError as error:
            self._go_on_alone(file, error)

    def _go_on_alone(self, file: PoolFile, error: OSError) -> None:
        logger.warning("the budget is no longer shared with other processes: %s", error)
        file.close()
        self._file = None


class _Record(msgspec.Struct, array_like=True):
    pool: str
    boot: str  # names the run of the machine, and so the monotonic clock
    state: State


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(_Record)


def _decode(data: bytes) -> _Record | None:
    try:
        return _decoder.decode(data) if data else None
    except msgspec.DecodeError:
        return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux: runtime directories are emptied at a start there
        return ""


BOOT = _boot()


def fresh_state(limit: int, clock: Clock, wall: Clock) -> State:
    """Nothing is known but the time, roughly."""
    now = clock()
    offset = wall() - now
    return State(limit, ServerClock(offset - WALL_ERROR, offset + WALL_ERROR, now, dated=False))
