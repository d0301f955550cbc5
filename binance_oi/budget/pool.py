"""Pools share a bucket between clients; `ProcessBudget` shares one within its process.

The rule of this file: other code reads and changes a bucket only through a `Pool`, and the pool
passes the time to the bucket.
"""

import logging
import time
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial, wraps
from numbers import Integral
from threading import get_ident
from typing import Concatenate, ParamSpec, Protocol, Self, TypedDict, TypeVar

from binance_oi.arguments import check_count, check_number
from binance_oi.budget import record, rolling
from binance_oi.budget.bucket import Bucket
from binance_oi.budget.demand import Declared
from binance_oi.budget.knowledge import Known, Parts
from binance_oi.budget.server_clock import ServerClock
from binance_oi.budget.usage import Receipt, Usage, Wait
from binance_oi.exchange.hosts import LIMIT_MARK
from binance_oi.exchange.limits import WEIGHT, Limit
from binance_oi.times import plain

logger: logging.Logger = logging.getLogger("binance_oi")

Clock = Callable[[], float]
Change = Callable[[Bucket], object]

WALL_ERROR_S = 2.5  # s by which we allow our wall clock to be wrong, until the first answer
MAX_VIEWS = 1000  # tries to read the books between two changes; each try takes some 20 us
QUICK_VIEWS = 100  # tries without a pause between them; most changes take microseconds
VIEW_PAUSE_S = 2e-4  # s before each later try: the change may wait for the disk or for a core

steady_clock: Clock = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    if hasattr(time, "CLOCK_BOOTTIME")
    else time.monotonic
)
"""Returns monotonic seconds, the same in every process of this boot. Where the system has
`CLOCK_BOOTTIME`, such as Linux, this clock also runs while the machine sleeps."""


class Budget(Protocol):
    """The calls of a budget that a client uses."""

    def pool(self, name: str, limit: Limit = WEIGHT) -> "Pool":
        """Return the pool of one name and limit. All clients of this budget share it.

        Args:
            name: The name of the pool; it stands for the IP address and the exchange.
            limit: The limit. Each limit has its own pool.
        """
        ...

    def close(self) -> None:
        """Close open files. The weight of sent requests stays charged."""
        ...


class Pool(Protocol):
    """The budget of one IP address.

    No call waits for room, for an answer or for a lock. Only one thread at a time may make changes.
    `usage`, `held_for` and `repr` change no books, so any thread may call them. While another
    thread changes the books, these three wait a moment, so that they show no change that is half
    done.
    """

    def charge(self, weight: int, waiting: int = 0, bulk: bool = False) -> Receipt | Wait:
        """Book a request, or return how long to wait and why; see `Bucket.charge`.

        Args:
            weight: The weight of the request.
            waiting: How many calls behind this one only need a charge to be sent too. A pool that
                several processes share may charge for them in advance, as a lease.
            bulk: Whether the request is bulk work, which leaves single calls their part of the
                minute.
        """
        ...

    def listen(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback` when an event may change the answer of `charge`.

        Such an event occurs when a client of this process settles, loses or refunds a receipt,
        begins a cooldown or learns a limit, even if that is the listening client. It also occurs
        when this pool finds that another process has written the shared record. Passing time is no
        such event. An event does not promise room, so call `charge` again.

        The pool calls `callback` in the thread that called `listen`, after the change is complete.
        Changes in other threads cause no call, so a waiting request must also ask again after
        `Wait.seconds`. The callback must not change the pool. If it raises, the pool logs the
        exception. The other listeners and the client that made the change do not notice it.

        Returns:
            A function that stops the calls. Until then the pool keeps `callback` alive.
        """
        ...

    def sending(self, receipt: Receipt) -> Receipt | None:
        """Return the receipt to use if the request may be written to the wire now; otherwise None.

        See `Bucket.sending`.
        """
        ...

    def room_in(self, weight: int, bulk: bool = False) -> float | None:
        """Seconds until there should be room; None if there never is. See `Bucket.room_in`."""
        ...

    def settle(self, receipt: Receipt, used: int | None, date: float | None) -> None:
        """Learn from an answer with this count and this `Date`; see `Bucket.settle`."""
        ...

    def lose(self, receipt: Receipt) -> None:
        """Keep the weight of a request that got no answer: the exchange may have counted it."""
        ...

    def refund(self, receipt: Receipt) -> None:
        """Undo the charge of a request that was never sent."""
        ...

    def hold(self, seconds: float, *, ban: bool = False) -> None:
        """Begin a cooldown of `seconds` from now, unless another cooldown ends later."""
        ...

    def hold_until(self, until: float, *, ban: bool = False) -> None:
        """Begin a cooldown that ends at `until`, Unix s by the exchange's clock.

        Nothing changes if another cooldown ends later.
        """
        ...

    def refused(self, seconds: float, *, ban: bool = False) -> None:
        """Begin a cooldown after the refusal of a request without a receipt: `Bucket.refused`."""
        ...

    def settle_refused(
        self, receipt: Receipt, used: int | None, date: float | None, seconds: float, *, ban: bool
    ) -> None:
        """Settle a refused request, and begin a cooldown: `Bucket.settle` and `Bucket.refused`."""
        ...

    def set_limit(self, limit: int) -> None:
        """Adopt the limit of a minute that the exchange announced; other limits stay."""
        ...

    def set_limits(self, limit: int | None, others: Sequence[Limit]) -> None:
        """Adopt all limits that the exchange announced; see `Bucket.set_limits`."""
        ...

    def declare(self, key: object, weight: float, *, anew: bool = False) -> None:
        """Declare how much weight a poller plans to use, so that other pollers can plan with it.

        The declaration is only information: `charge` ignores it. In a shared record, it ends with
        the pool, or three minutes after a poller of this pool last renewed it. In a shared file, it
        also ends with this process. A repeated declaration is cheap: the pool writes an unchanged
        one at most once a minute.

        Args:
            key: The poller.
            weight: Weight per minute; 0 if the poller needs no more weight.
            anew: Whether to treat a known poller as one that begins now, so that it is the newest.
        """
        ...

    def demand(self, key: object) -> float:
        """Weight per minute that all pollers older than `key` have declared together.

        These include the pollers of every client and process that shares this pool. Of another
        process, either all pollers count or none, because its demand is one sum with the start of
        its newest poller. If `key` has declared nothing, all pollers count.
        """
        ...

    def when_idle(self) -> bool:
        """Note that no request is under way, and return leases to other processes.

        Returns:
            Whether other processes still lack settlements of ours. The next charge publishes them.
            If none comes in this step of the event loop, call `flush` in the next step.
        """
        ...

    def flush(self) -> None:
        """Publish pending settlements to other processes. Call it when no request is under way."""
        ...

    def close(self) -> None:
        """Close open files. The weight of sent requests stays charged."""
        ...

    def held_for(self, *, ban: bool = False) -> float:
        """Seconds until the cooldown, or the ban if `ban`, is certainly over; 0.0 without one.

        Any thread may call it. Use it to wait: `Usage.held_until` and `Usage.banned_until` are
        instants of the exchange's clock, which may differ from ours by hours.
        """
        ...

    @property
    def exchange_time(self) -> float:
        """The exchange's time as we estimate it, Unix s; until the first answer, our own time."""
        ...

    @property
    def usage(self) -> Usage:
        """The state of the budget at this moment. Any thread may read it."""
        ...


_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S", bound="ProcessPool")


def changing(
    method: Callable[Concatenate[_S, _P], _R],
) -> Callable[Concatenate[_S, _P], _R]:
    """Decorate a method that changes the pool, so that readers notice the change.

    The decorator counts the changes that have begun and the changes that have ended. While the two
    counts differ, readers in other threads wait, for at most `MAX_VIEWS` tries. Changes may be
    nested. After the outermost one, the decorator calls the listeners if the answer of `charge` may
    have changed.
    """

    @wraps(method)
    def counted(pool: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        pool.changer = get_ident()
        pool.begun += 1
        try:
            return method(pool, *args, **kwargs)
        finally:
            pool.ended += 1
            if pool.has_news and pool.begun == pool.ended:
                pool.has_news = False
                if pool.listeners:
                    pool.call_listeners()

    return counted


def notifying(
    method: Callable[Concatenate[_S, _P], _R],
) -> Callable[Concatenate[_S, _P], _R]:
    """Decorate, as `changing` does, a method that may also change the answer of `charge`."""

    @wraps(method)
    def notified(pool: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        pool.has_news = True
        return method(pool, *args, **kwargs)

    return changing(notified)


class ProcessPool:
    """The pool of one process.

    A reader never blocks the thread that charges. It reads without a lock, and reads again if a
    change began or ended in the meantime.
    """

    def __init__(self, make_bucket: Callable[[Known], Bucket], state: Known, clock: Clock) -> None:
        self._make_bucket = make_bucket
        self._bucket = make_bucket(state)
        self._clock = clock
        # What we have warned of: a lower limit (0: none), and a window of the last 60 s.
        self._doubts: tuple[int, bool] = (0, False)
        self.begun: int = 0  # number of changes that have begun; see `changing`
        self.ended: int = 0  # number of changes that have ended
        self.changer: int = 0  # the thread that began the last change
        self.has_news: bool = False  # whether to call the listeners after the outermost change
        self.listeners: dict[object, tuple[int, Callable[[], object]]] = {}  # each with its thread
        self.declared: Declared = Declared()

    def __repr__(self) -> str:
        usage = self._between_changes(self._own).usage(self._clock())  # reads no file
        state = f"used={usage.used} of {usage.limit}, {usage.in_flight} in flight"
        if usage.held_until is not None:
            state += f", cooling down until {plain(usage.held_until)} UTC"
        return f"<{type(self).__name__} {state}>"

    def charge(self, weight: int, waiting: int = 0, bulk: bool = False) -> Receipt | Wait:
        """See `Pool.charge`; one process leases nothing."""
        # Count the change as `changing` does. With the decorator, a charge would take a fifth
        # longer.
        self.changer = get_ident()
        self.begun += 1
        try:
            return self._bucket.charge(self._clock(), weight, bulk)
        finally:
            self.ended += 1

    def listen(self, callback: Callable[[], object]) -> Callable[[], None]:
        """See `Pool.listen`."""
        key = object()
        self.listeners[key] = get_ident(), callback

        def stop() -> None:
            self.listeners.pop(key, None)

        return stop

    def call_listeners(self) -> None:
        """Call the listeners of this thread. Never call this during a change."""
        here = get_ident()
        for thread, callback in tuple(self.listeners.values()):
            if thread == here:
                try:
                    callback()
                except Exception:
                    logger.exception("a listener of the budget failed")

    def sending(self, receipt: Receipt) -> Receipt | None:
        """See `Pool.sending`."""
        self.changer = get_ident()
        self.begun += 1
        try:
            return self._bucket.sending(receipt, self._clock())
        finally:
            self.ended += 1

    def room_in(self, weight: int, bulk: bool = False) -> float | None:
        """See `Pool.room_in`."""
        return self._obeyed.room_in(self._clock(), weight, bulk)

    def settle(self, receipt: Receipt, used: int | None, date: float | None) -> None:
        """See `Pool.settle`."""
        self.changer = get_ident()
        self.begun += 1
        try:
            self._bucket.settle(receipt, self._clock(), used, date)
        finally:
            self.ended += 1
        self._warn_of_doubts()
        if self.listeners:
            self.call_listeners()

    def _warn_of_doubts(self) -> None:
        """Warn if the exchange has a lower limit than it announces, or a rolling window.

        The log gets one warning for each lower limit, and one for the rolling window.
        """
        known = self._bucket.known
        if not known.announced and not known.rolling_until:
            return
        lower = known.limit if known.announced else 0
        logged, self._doubts = self._doubts, (lower, known.rolling_until > 0)
        if self._doubts[0] and self._doubts[0] != logged[0]:
            logger.warning(
                "the exchange refused a request at a count of %d, below the limit of %d that it"
                " announces; for more than an hour the budget obeys a limit of %d",
                *(known.others.refused_count, known.announced, known.limit),
            )
        if self._doubts[1] and not logged[1]:
            logger.warning(
                "the exchange's count did not start again with its minute; for more than an hour"
                " the budget takes it for the weight of the last 60 s"
            )

    @notifying
    def lose(self, receipt: Receipt) -> None:
        """See `Pool.lose`."""
        self._bucket.lose(receipt, self._clock())

    @notifying
    def refund(self, receipt: Receipt) -> None:
        """See `Pool.refund`."""
        self._bucket.refund(receipt)

    @notifying
    def hold(self, seconds: float, *, ban: bool = False) -> None:
        """See `Pool.hold`."""
        self._bucket.hold(self._clock(), seconds, ban=ban)

    @notifying
    def hold_until(self, until: float, *, ban: bool = False) -> None:
        """See `Pool.hold_until`."""
        self._bucket.hold_until(until, ban=ban)

    @notifying
    def refused(self, seconds: float, *, ban: bool = False) -> None:
        """See `Pool.refused`."""
        self._bucket.refused(self._clock(), seconds, ban=ban)

    @notifying
    def settle_refused(
        self, receipt: Receipt, used: int | None, date: float | None, seconds: float, *, ban: bool
    ) -> None:
        """See `Pool.settle_refused`."""
        apply_refusal(receipt, self._clock(), used, date, seconds, ban, self._bucket)
        self._warn_of_doubts()

    @notifying
    def set_limit(self, limit: int) -> None:
        """See `Pool.set_limit`."""
        apply_limit(limit, self._bucket)

    @notifying
    def set_limits(self, limit: int | None, others: Sequence[Limit]) -> None:
        """See `Pool.set_limits`."""
        self._bucket.set_limits(self._clock(), limit, others)

    def declare(self, key: object, weight: float, *, anew: bool = False) -> None:
        """See `Pool.declare`."""
        self.declared.notice_fork()
        self.declared.put(key, weight, self._clock(), anew=anew)

    def demand(self, key: object) -> float:
        """See `Pool.demand`."""
        self.declared.notice_fork()
        return self.declared.before(key)

    def when_idle(self) -> bool:
        """See `Pool.when_idle`; one process has nothing to publish."""
        return False

    def flush(self) -> None:
        """See `Pool.flush`."""

    def close(self) -> None:
        """Do nothing: there are no files."""

    def held_for(self, *, ban: bool = False) -> float:
        """See `Pool.held_for`."""
        return self._when_still(lambda: self._obeyed.held_for(self._clock(), ban=ban))[0]

    @property
    def _obeyed(self) -> Bucket:
        """The bucket of this pool, with every cooldown that the pool must obey."""
        return self._bucket

    @property
    def exchange_time(self) -> float:
        """See `Pool.exchange_time`."""
        clock = self._bucket.known.clock
        return self._clock() + (clock.lo + clock.hi) / 2

    @property
    def usage(self) -> Usage:
        """See `Pool.usage`."""
        return self._between_changes(self._shown).usage(self._clock())

    def _own(self) -> tuple[Known, list[Change]]:
        """Return a copy of this pool's own knowledge, and no pending changes."""
        return record.copied(self._bucket.known), []

    def _shown(self) -> tuple[Known, list[Change]]:
        """Return a copy of the knowledge for `usage`, and the changes that the copy lacks."""
        return self._own()

    def _between_changes(self, read: Callable[[], tuple[Known, list[Change]]]) -> Bucket:
        """Call `read` between two changes; return a bucket with the result.

        Args:
            read: Returns a state, and changes that the state lacks. The bucket lacks them too if
                `read` ran inside a change; see `_when_still`.
        """
        (state, changes), is_still = self._when_still(read)
        bucket = self._make_bucket(state)
        for change in changes if is_still else ():
            change(bucket)
        return bucket

    def _when_still(self, read: Callable[[], _R]) -> tuple[_R, bool]:
        """Call `read` between two changes of the books.

        In two cases the call cannot do so: it runs inside a change, for example in a signal
        handler, or all of `MAX_VIEWS` tries meet a change. Then the result may contain half of a
        change.

        Returns:
            The result of `read`, and whether it was read between two changes.
        """
        for tries in range(MAX_VIEWS):
            ended = self.ended
            if self.begun != ended:  # during a change: let its thread finish it
                if self.changer == get_ident():
                    break
                time.sleep(0 if tries < QUICK_VIEWS else VIEW_PAUSE_S)
                continue
            found = read()
            if self.begun == ended:
                return found, True
        return read(), False


def apply_refusal(
    receipt: Receipt,
    now: float,
    used: int | None,
    date: float | None,
    seconds: float,
    ban: bool,
    bucket: Bucket,
) -> None:
    """Settle a refused request in `bucket`, and begin a cooldown there."""
    minute = bucket.settle(receipt, now, used, date)
    bucket.refused(now, seconds, ban=ban, minute=minute, used=used)


def apply_limit(limit: int, bucket: Bucket) -> None:
    """Adopt the announced limit of a minute in `bucket`."""
    bucket.known.announce(limit)


class Options(TypedDict, total=False):
    """The arguments of `ProcessBudget`, for other budgets that take them too."""

    reserve: float
    share: float
    interactive: float
    limit: int
    clock: Clock
    wall: Clock


class ProcessBudget:
    """A budget for those clients of this process that use this object.

    It treats other processes on this machine as *others*: it sees their weight in the header, and
    leaves them room.

    Args:
        reserve: The part of each minute's limit that we leave unused, for orders and other tools: a
            weight if `int`, a share of the limit if `float`. After the rest is used up, probes use
            some of the reserve, so do not set it far below the default of 1 %.
        share: The largest share of the limit that we use ourselves, above 0 and at most 1.
        interactive: The largest share of the limit that bulk work (`snapshot`, `poll`, a recorder)
            leaves for single calls, 0 to 1. Bulk work leaves them twice the weight that they used
            in the busiest minute (of this one and the last five), at least 1 % of the limit, less
            what they have used of this minute. If no single call came in these minutes, it leaves
            them nothing. In the last five seconds of a minute, the weight that it leaves shrinks to
            nothing.
        limit: Weight per minute, 1 to 1,000,000,000, until the exchange announces its own limit.
        clock: Returns monotonic seconds.
        wall: Returns Unix seconds. The budget reads it once for each pool. Until the first answer,
            the budget allows for an error of 2.5 s in it.

    Raises:
        TypeError: `reserve`, `share` or `interactive` is not a number, or `limit` is not an
            integer.
        ValueError: One of them is out of range.
    """

    def __init__(
        self,
        *,
        reserve: float = 0.01,
        share: float = 1.0,
        interactive: float = 0.05,
        limit: int = WEIGHT.most,
        clock: Clock = steady_clock,
        wall: Clock = time.time,
    ) -> None:
        self._limit = limit = check_count("limit", limit, most=record.MAX_LIMIT)
        kept = check_number("reserve", reserve, least=0.0)
        is_weight = isinstance(reserve, Integral)
        if kept >= (limit if is_weight else 1.0):
            raise ValueError(f"reserve must be a weight below {limit} or a share below 1: {kept!r}")
        most = check_number("share", share, above=0.0)
        if most > 1.0:
            raise ValueError(f"share must be above 0 and at most 1: {share!r}")
        left = check_number("interactive", interactive, least=0.0)
        if left > 1.0:
            raise ValueError(f"interactive must be 0 to 1: {interactive!r}")
        self._parts = Parts(int(kept) if is_weight else kept, most, left)
        self._clock, self._wall = clock, wall
        self._pools: dict[str, ProcessPool] = {}
        self._rolling: Limit | None = None  # the limit of its pools, if it is not the minute's

    def __repr__(self) -> str:
        pools = ", ".join(f"{name}: {pool!r}" for name, pool in list(self._pools.items()))
        return f"<{type(self).__name__} {pools or 'unused'}>"

    def pool(self, name: str, limit: Limit = WEIGHT) -> ProcessPool:
        """Return the pool of that name and limit; make it on first use."""
        key = name if limit == WEIGHT else f"{name}{LIMIT_MARK}{limit.most} in {limit.seconds} s"
        pool = self._pools.get(key)
        if pool is None:  # if two threads make the pool at once, both use the first one
            made = self._of_limit(limit)._make_pool(key)
            pool = self._pools.setdefault(key, made)
        return pool

    def _of_limit(self, limit: Limit) -> Self:
        """Return a copy of this budget that makes pools of `limit`, in the same dictionary."""
        if limit == WEIGHT:
            return self
        budget = copy(self)
        budget._rolling = limit
        return budget

    def close(self) -> None:
        """Do nothing: there are no files."""

    def _make_pool(self, name: str) -> ProcessPool:
        return ProcessPool(self._make_bucket, self._fresh_state(), self._clock)

    def _make_bucket(self, state: Known) -> Bucket:
        if self._rolling is None:
            return Bucket(state, self._parts)
        # Turn a reserve in weight into a share of the minute's limit. The pool leaves the same
        # share of its own limit unused.
        reserve = self._parts.reserve
        reserve = reserve / self._limit if isinstance(reserve, int) else reserve
        return rolling.RollingBucket(state, self._parts._replace(reserve=reserve))

    def _fresh_state(self) -> Known:
        state = fresh_state(self._limit, self._clock, self._wall)
        return state if self._rolling is None else rolling.fresh(state, self._rolling)


def fresh_state(limit: int, clock: Clock, wall: Clock) -> Known:
    """Return the knowledge of a new pool: a limit, and a guess of the exchange's clock."""
    now = clock()
    offset = wall() - now
    return Known(limit, ServerClock(offset - WALL_ERROR_S, offset + WALL_ERROR_S, now, dated=False))
