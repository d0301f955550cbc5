"""Admits requests one by one, as the pool, the pacer and the limit of connections allow.

The rule of this file: only the governor makes calls wait, and decides in which order. The pool
decides how much weight may be sent, and the pacer how fast.
"""

import asyncio
import heapq
import logging
import math
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager
from contextvars import Context
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, cast

from binance_oi.arguments import check_count, check_number
from binance_oi.budget import Pool
from binance_oi.budget.usage import Receipt, Usage
from binance_oi.errors import (
    BannedError,
    BinanceOIError,
    BudgetExhaustedError,
    Reason,
    printable,
)
from binance_oi.exchange import headers as read
from binance_oi.exchange.refusals import MAX_BAN, MIN_BAN, Kind, Refusal
from binance_oi.sending.connection_limit import ConnectionLimit
from binance_oi.sending.late_flush import LateFlush
from binance_oi.sending.pacer import LONGEST_S, Pacer

logger: logging.Logger = logging.getLogger("binance_oi")

MAX_FINISHED = 100  # finished calls that may stay in the heap of deadlines while no call waits
ENDED_PER_STEP = 250  # waiters that end in a step of the loop, at most; tasks wake in the next step
LONGEST_SLEEP_S = 1.0  # s; then the queue asks the pool again: another process may have met a ban
LEAST_RETRY_S = 0.1  # s: the least from an error to its `retry_at`; a caller that obeys cannot spin

NO_ROOM = "no room for weight {weight} in time: "
NOT_ADMITTED = "weight {weight} was not admitted in time: "
WHY = {
    Reason.COOLDOWN: f"{NOT_ADMITTED}after a refusal the client sends nothing until {{end}}",
    Reason.PROBE_PENDING: f"{NOT_ADMITTED}a probe is under way, and its count decides",
    Reason.MINUTE_FULL: f"{NO_ROOM}the minute is full until {{rollover}}",
    Reason.MINUTE_UNCERTAIN: f"{NO_ROOM}the exchange may still be in the previous minute",
    Reason.OTHERS: f"{NO_ROOM}the rest of the minute is kept for other clients on this address",
    Reason.SINGLE_CALLS: f"{NO_ROOM}bulk work leaves the rest of the minute to single calls",
    Reason.CAUTION: f"{NO_ROOM}shortly after a start or a ban, requests are held back",
    Reason.SHARE: f"{NO_ROOM}our share of the minute is used up until {{rollover}}",
    Reason.STORE_BUSY: f"{NOT_ADMITTED}another process is changing the shared budget",
    Reason.LEASE: f"{NOT_ADMITTED}the server of the shared budget has not answered",
    Reason.OTHER_LIMIT: f"{NO_ROOM}a limit whose span is not a minute is used up",
    Reason.CONNECTIONS: f"{NOT_ADMITTED}all {{connections}} connections are busy",
    Reason.PACE: f"{NOT_ADMITTED}the pace of {{pace:g}} requests a second is used up",
    Reason.TOO_HEAVY: "weight {weight} never fits into this budget",
}
"""The text of a `BudgetExhaustedError`, by its reason. The sender has the text for `DEADLINE`."""


REFUSED = {
    Kind.LIMITED: "the exchange's limit was reached (429)",
    Kind.BANNED: "this IP address is banned (418)",
    Kind.FORBIDDEN: "the exchange's firewall refused us (403)",
}


class Permit:
    """The right to send one request now. Settle or refund it at most once, and then release it."""

    __slots__ = ("_governor", "_receipt", "crowded", "late", "refunded", "refusal")

    def __init__(self, governor: "Governor", receipt: Receipt) -> None:
        self._governor = governor
        self.refunded: bool = False
        self.late: bool = False  # whether the request may no longer be sent
        self.crowded: bool = False  # whether no file descriptor was free for a connection
        self.refusal: Refusal | None = None  # set by `settle` if the answer is a refusal
        self._receipt: Receipt | None = receipt

    def may_send(self) -> bool:
        """Whether the request may still be written; call this right before the write.

        If it returns False, it has refunded the permit: get another one. See `Pool.sending`.
        """
        if self._receipt is not None:
            receipt = self._governor.pool.sending(self._receipt)
            if receipt is not None:
                self._receipt = receipt
                return True
            self.late = True
            self.refund()
        return False

    def settle(self, status: int, headers: Mapping[str, str]) -> None:
        """Settle the request with the headers of its answer, before any other use of the answer."""
        receipt, self._receipt = self._receipt, None
        if receipt is not None:
            self.refusal = self._governor.settle(receipt, status, headers)

    def book(self, used: int | None, date: float | None) -> None:
        """Settle the request after status 200, with the count and the `Date` of the answer."""
        receipt, self._receipt = self._receipt, None
        assert receipt is not None  # it was sent just now
        self._governor.answered(receipt, used, date)

    def refund(self) -> None:
        """Refund the weight of a request that was never sent."""
        receipt, self._receipt = self._receipt, None
        if receipt is not None:
            self.refunded = True
            self._governor.pool.refund(receipt)

    def give_back(self) -> None:
        """Return an unused permit: `refund`, then `release`."""
        try:
            self.refund()
        finally:
            self.release()

    def release(self) -> None:
        """End the permit. If it was not settled or refunded, call `Pool.lose` for its weight."""
        receipt, self._receipt = self._receipt, None
        try:
            if receipt is not None:
                self._governor.pool.lose(receipt)
        finally:  # even if the pool raises, the next request may go
            self._governor.release()


class Waiter(asyncio.Future[Permit]):
    """A call that waits to be admitted.

    If thousands of waiters are cancelled together, all leave their queue immediately, but each task
    wakes in a later step of the loop. If all woke in one step, they would block the loop.
    """

    __slots__ = ("_leaving", "_message", "_queue", "deadline")

    def __init__(self, queue: "_Queue", leaving: "deque[Waiter]") -> None:
        super().__init__()
        self.deadline: float = math.inf  # loop time
        self._queue = queue
        self._leaving = leaving

    def __lt__(self, other: "Waiter") -> bool:
        return self.deadline < other.deadline

    def cancel(self, msg: object = None) -> bool:
        if self._queue.pop(self, None) is None:  # admitted, or already cancelled
            return super().cancel(msg)
        self._message = msg
        self._leaving.append(self)
        if len(self._leaving) == 1:
            self.get_loop().call_soon(_end_in_steps, self._leaving, Waiter._leave)
        return True

    def _leave(self) -> None:
        super().cancel(self._message)

    # A future makes an iterator for each await. A waiter is its own iterator, so a waiting call has
    # only one object in the queue. With thousands of calls, this saves the garbage collector time.

    def __await__(self) -> Generator[Any, None, Permit]:
        return cast("Generator[Any, None, Permit]", self)

    def __next__(self) -> "Waiter":
        if self.done():
            raise StopIteration(self.result())
        self._asyncio_future_blocking = True  # as in every future that a task awaits
        return self

    def throw(self, error: BaseException, *_: object) -> NoReturn:
        """Raise `error` in the call, for example because its task is cancelled.

        If the call was admitted in the same step of the loop, this method gives back its
        permit.
        """
        if self.done() and not self.cancelled() and self.exception() is None:
            self.result().give_back()
        raise error


# The weight of each waiter. An object with more facts would cost the garbage collector time.
_Queue = OrderedDict[Waiter, int]


class Governor:
    """Admits requests one by one, as the pool, the pacer and the connections allow.

    Args:
        pool: Decides whether weight may be used now.
        pace: Requests per second, on average. Up to a second's requests may go at once.
        max_in_flight: The most requests on the wire at the same time. The governor limits them
            before it charges. A charge is for the current minute, so a charged request must not
            wait for a connection.
        idle: Seconds without a request under way, after which the governor calls `Pool.flush`.

    Raises:
        TypeError: `pace` is not a number, or `max_in_flight` is not an integer.
        ValueError: One of them is not above 0, or not finite.
    """

    def __init__(
        self, pool: Pool, *, pace: float = 1000.0, max_in_flight: int = 100, idle: float = 0.0
    ) -> None:
        self.connections: ConnectionLimit = ConnectionLimit(max_in_flight)
        self.pool = pool
        self.in_flight: int = 0
        self._pacer = Pacer(check_number("pace", pace, above=0.0))
        self.reason: Reason = Reason.PACE
        """The reason of the latest wait."""
        self.pace: float = self._pacer.pace
        self._single: _Queue = OrderedDict()
        self._bulk: _Queue = OrderedDict()
        self._leaving: deque[Waiter] = deque()  # cancelled, and not woken yet
        self._deadlines: list[Waiter] = []  # a heap
        self._dispatcher: asyncio.Task[None] | None = None
        self._wakeup: asyncio.Future[None] | None = None
        self._flush = LateFlush(pool, idle, lambda: self.in_flight)

    def __repr__(self) -> str:
        return f"<Governor {self.in_flight} in flight, {self.waiting} waiting, {self.pool!r}>"

    @property
    def waiting(self) -> int:
        """The number of calls that wait to be admitted."""
        return len(self._single) + len(self._bulk)

    @property
    def waiting_for(self) -> dict[Reason, int]:
        """How many calls wait, by reason. Any thread may read it.

        All of them get one reason: why the first call waits. The first call is the oldest single
        call, or the oldest bulk call if no single call waits.
        """
        waiting = self.waiting
        return {self.reason: waiting} if waiting else {}

    @asynccontextmanager
    async def reserve(
        self, weight: int = 1, *, bulk: bool = False, max_wait: float | None = None
    ) -> AsyncGenerator[Permit]:
        """Wait until `weight` may be used; the block then sends the request.

        The block calls `permit.settle` with the answer, or `permit.refund` if it sent nothing. If
        it calls neither, the exchange may have counted the request, so its weight stays charged.

        Args:
            weight: The weight of the request.
            bulk: Whether to let single calls go first, and leave them their part of the minute.
            max_wait: The longest wait in seconds; None waits as long as necessary.

        Raises:
            TypeError: `weight` or `max_wait` is not a number; nothing was queued.
            ValueError: One of them is out of range; nothing was queued.
            BudgetExhaustedError: Admission within `max_wait` is impossible; raised as soon as that
                is certain.
            BannedError: The exchange has banned this IP address; raised at once.
            BinanceOIError: `close` was called meanwhile, or an unexpected error stopped the queue.
        """
        permit = await self.admit(weight, bulk=bulk, max_wait=max_wait)
        try:
            yield permit
        finally:
            permit.release()

    async def admit(
        self, weight: int = 1, *, bulk: bool = False, max_wait: float | None = None
    ) -> Permit:
        """Like `reserve`, without the block: the caller must call `permit.release`."""
        weight = check_count("weight", weight)
        if max_wait is not None:
            max_wait = check_number("max_wait", max_wait, least=0.0)
        return self.admit_now(weight, bulk=bulk) or await self.queue(weight, bulk, max_wait)

    def admit_now(self, weight: int = 1, *, bulk: bool = False) -> Permit | None:
        """Admit without waiting; None if the call has to wait: then call `admit`."""
        if self._single or self._bulk:
            return None
        if not self._pacer.passed and not self._pacer.take_at_once():
            self.reason = Reason.PACE
            return None
        if self.in_flight >= self.connections.now:
            self.reason = Reason.CONNECTIONS
            return None
        receipt = self.pool.charge(weight, 0, bulk)
        if not isinstance(receipt, Receipt):
            self.reason = receipt.reason
            return None
        self._pacer.passed -= 1
        self.in_flight += 1
        return Permit(self, receipt)

    def queue(self, weight: int, bulk: bool, max_wait: float | None) -> Waiter:
        """Add a call to the queue; the dispatcher gives its waiter a permit.

        Await the waiter at once and directly: another coroutine between the call and the waiter
        would be one more object for each waiting call.

        Raises:
            BannedError: The exchange has banned this IP address.
        """
        if (banned := _ban_of(self.pool)) is not None:
            raise banned
        queue = self._bulk if bulk else self._single
        waiter = Waiter(queue, self._leaving)
        queue[waiter] = weight
        if max_wait is not None:
            waiter.deadline = asyncio.get_running_loop().time() + max_wait
            self._forget_deadlines()
            heapq.heappush(self._deadlines, waiter)
        if self._dispatcher is None:
            self._start_dispatcher()
        self._wake()
        return waiter

    def close(self, error: Exception) -> None:
        """Fail every waiter with `error`, and stop the dispatcher."""
        self._fail_all(error)
        if self._dispatcher is not None:
            self._dispatcher.cancel()
        self._pacer.stop()
        self._flush.now()

    def abandon(self) -> None:
        """Forget every waiter: the loop is closed, so it can no longer wake them."""
        self._flush.now()
        self._single.clear()
        self._bulk.clear()
        self._deadlines.clear()
        self._dispatcher = None
        self._pacer.abandon()

    # -- reports of permits ------------------------------------------------------------------

    def settle(self, receipt: Receipt, status: int, headers: Mapping[str, str]) -> Refusal | None:
        """Settle a request with the headers of its answer; obey the answer if it is a refusal."""
        used, date = read.used_weight(headers), read.date(headers)
        if status == 200:
            self.answered(receipt, used, date)
            return None
        refusal = Refusal.of(status, headers, date)
        is_ban = refusal.kind is Kind.BANNED
        if refusal.is_temporary:
            self.pool.settle_refused(receipt, used, date, refusal.cooldown, ban=is_ban)
        else:
            self.pool.settle(receipt, used, date)
            if refusal.cooldown:
                self.pool.hold(refusal.cooldown)
        if refusal.cooldown or refusal.is_temporary:
            self._warn(REFUSED[refusal.kind])
        if is_ban:
            self._raise_ban()
        self._wake()
        return refusal

    def answered(self, receipt: Receipt, used: int | None, date: float | None) -> None:
        """Book an answer with status 200: its used-weight header and its `Date` header."""
        self.pool.settle(receipt, used, date)
        connections = self.connections
        if connections.now != connections.most:
            connections.answered()
        if self._wakeup is not None:
            self._wake()

    def obey_text(self, refusal: Refusal) -> datetime:
        """Obey a temporary refusal's text, which may name the end of a ban or a lower limit.

        `settle` has already obeyed the headers.

        Returns:
            The instant from which requests may be sent again, by this machine's clock.
        """
        if refusal.until is not None:  # even with status 429: a text that names an end means a ban
            self.obey_ban(refusal.until)
        elif refusal.status not in (418, 429):  # the text reports a limit; the status does not
            self.pool.refused(0.0)
        if refusal.limit is not None and refusal.limit < self.pool.usage.limit:
            self.pool.set_limit(refusal.limit)
        left = self.pool.held_for(ban=True) or self.pool.held_for() or refusal.cooldown
        return _in(left)

    def obey_ban(self, until: float) -> None:
        """Send nothing before `until`, the end of a ban that the exchange named, in Unix seconds.

        If that end is in the past, our clock or the exchange's is wrong, because the ban still
        lasts. Then send nothing for `MIN_BAN` seconds.
        """
        rollover = self.pool.usage.resets_at.timestamp()
        self.pool.hold_until(min(until, rollover + MAX_BAN), ban=True)
        if not self.pool.held_for(ban=True):
            self.pool.hold(MIN_BAN, ban=True)
        self._warn("this IP address is banned")
        self._raise_ban()

    def _warn(self, what: str) -> None:
        logger.warning("%s; nothing is sent before %s", what, self.pool.usage.held_until)

    def release(self) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self._flush.when_idle()
        self._wake()

    # -- the dispatcher ----------------------------------------------------------------------

    def _wake(self) -> None:
        """Wake the dispatcher, because something changed."""
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    def _start_dispatcher(self) -> None:
        """Start the dispatcher in an empty context, because it serves more than the first call."""
        loop = asyncio.get_running_loop()
        self._dispatcher = loop.create_task(self._dispatch(), context=Context())
        if self._dispatcher.done():  # an eager task may end before it is returned
            self._dispatcher = None

    async def _dispatch(self) -> None:
        """Serve all waiters. However this task ends, no waiter is left without a dispatcher.

        An unexpected error fails all waiters, and the next call starts a new dispatcher. If the
        application cancels this task but not the waiters, this method starts another dispatcher.
        """
        is_wanted = False
        try:
            await self._serve()
        except asyncio.CancelledError:
            is_wanted = self.waiting > 0
            raise
        except Exception as error:
            self._fail_all(_failure(error))
        finally:
            self._dispatcher = None
            self._pacer.stop()
            if is_wanted:
                self._start_dispatcher()

    async def _serve(self) -> None:
        """Admit one call at a time: single calls before bulk work, older before newer calls."""
        while self.waiting:
            if not self._pacer.passed and not self._pacer.take(self._wake):
                await self._refuse_or_sleep(self._pacer.every, Reason.PACE)
            elif self.in_flight >= self.connections.now:
                await self._refuse_or_sleep(LONGEST_SLEEP_S, Reason.CONNECTIONS)
            else:
                await self._admit_head()

    async def _refuse_or_sleep(self, seconds: float, reason: Reason) -> None:
        """Refuse the calls whose deadline is over; if there is none, sleep.

        The sleep ends at a wakeup, at the next deadline, or after `LONGEST_SLEEP_S`.

        Args:
            seconds: Seconds after which a refused call may try again.
            reason: Why no call can be admitted now.
        """
        self.reason = reason
        if self._expire(0.0, lambda _weight, _bulk: seconds):
            await asyncio.sleep(0)
        else:
            await self._sleep(LONGEST_SLEEP_S)

    async def _admit_head(self) -> None:
        """Admit the first call in the queue, or sleep until that may be possible."""
        queue = self._single or self._bulk
        waiter, weight = next(iter(queue.items()))
        answer = self.pool.charge(weight, self._could_follow(), queue is self._bulk)
        if isinstance(answer, Receipt):
            del queue[waiter]
            self._pacer.passed -= 1
            self.in_flight += 1
            waiter.set_result(Permit(self, answer))
            return
        self.reason = answer.reason
        if (seconds := answer.seconds) is None:  # the weight never fits: do not block the queue
            error = _exhausted(self, weight, None, self.pool.usage)
            del queue[waiter]
            waiter.set_exception(error)
        elif self._raise_ban():
            pass  # the queue is empty now
        elif self._expire(seconds, self.pool.room_in):
            await asyncio.sleep(0)
        else:
            stop = self.pool.listen(self._wake)
            try:
                await self._sleep(seconds)
            finally:
                stop()

    def _could_follow(self) -> int:
        """The number of calls that pace and connections would admit right after the first one."""
        free = min(self._pacer.passed, self.connections.now - self.in_flight)
        return min(len(self._single) + len(self._bulk), free) - 1

    def _raise_ban(self) -> bool:
        """Fail every waiter if this IP address is banned; return whether it is banned."""
        if (banned := _ban_of(self.pool)) is not None:
            self._fail_all(banned)
        return banned is not None

    async def _sleep(self, seconds: float) -> None:
        """Sleep until a wakeup or the earliest deadline, but at most `seconds`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + min(seconds, LONGEST_SLEEP_S)
        if self._deadlines:
            until = min(until, self._deadlines[0].deadline)
        self._wakeup = loop.create_future()
        timer = loop.call_at(until, self._wake)
        try:
            await self._wakeup
        finally:
            self._wakeup = None
            timer.cancel()

    def _forget_deadlines(self) -> None:
        """Drop deadlines of finished calls from the heap, where they would pile up.

        Most calls end long before their deadline.
        """
        if len(self._deadlines) > 2 * self.waiting + MAX_FINISHED:
            self._deadlines = [waiter for waiter in self._deadlines if not waiter.done()]
            heapq.heapify(self._deadlines)

    def _expire(self, seconds: float, room_in: Callable[[int, bool], float | None]) -> bool:
        """Refuse the calls whose deadline comes before the pool can admit any call.

        Args:
            seconds: Seconds from now in which we admit no call.
            room_in: Takes a weight, and whether it is for bulk work. Returns the seconds until
                there may be room for that weight, or None if there never is. The `retry_at` of a
                refused call comes after the longer of this time and `seconds`.

        Returns:
            Whether a deadline was due, even if its call had finished. If so, call again in the
            loop's next step: one call of this method handles at most `ENDED_PER_STEP`.
        """
        if not self._deadlines:
            return False
        certain, refused = asyncio.get_running_loop().time() + seconds, 0
        if self._deadlines[0].deadline > certain:
            return False
        usage = self.pool.usage
        due = self._deadlines
        while refused < ENDED_PER_STEP and due and due[0].deadline <= certain:
            waiter = heapq.heappop(due)
            refused += 1
            for queue in (self._single, self._bulk):
                weight = queue.get(waiter)
                if weight is not None:
                    room = room_in(weight, queue is self._bulk)
                    later = None if room is None else max(seconds, room)
                    error = _exhausted(self, weight, later, usage)
                    del queue[waiter]
                    waiter.set_exception(error)
        return refused > 0

    def _fail_all(self, error: Exception) -> None:
        """Fail all waiters, at most `ENDED_PER_STEP` in each step of the loop."""
        waiters = deque([*self._single, *self._bulk])
        self._single.clear()
        self._bulk.clear()
        self._deadlines.clear()
        _end_in_steps(waiters, lambda waiter: waiter.set_exception(error))


def _exhausted(
    governor: Governor, weight: int, seconds: float | None, usage: Usage
) -> BudgetExhaustedError:
    """Return the error for a call that cannot be admitted in time, or never.

    The error has the reason for which the queue waits, unless the weight never fits.

    Args:
        governor: The governor in whose queue the call waited.
        weight: Weight of the call.
        seconds: Seconds until there may be room; None means never.
        usage: The current usage.
    """
    reason = Reason.TOO_HEAVY if seconds is None else governor.reason
    text = WHY[reason].format(
        weight=weight,
        end=f"{usage.held_until or usage.resets_at:%T} UTC",
        rollover=f"{usage.resets_at:%T} UTC",
        connections=governor.connections.now,
        pace=governor.pace,
    )
    return BudgetExhaustedError(text, None if seconds is None else _in(seconds), reason)


def _ban_of(pool: Pool) -> BannedError | None:
    left = pool.held_for(ban=True)
    return BannedError(418, -1003, "this IP address is banned", _in(left)) if left else None


def _in(seconds: float) -> datetime:
    """A `retry_at` by this machine's clock; the caller does not know the exchange's clock."""
    return datetime.now(UTC) + timedelta(seconds=min(max(seconds, LEAST_RETRY_S), LONGEST_S))


def _failure(error: Exception) -> BinanceOIError:
    """The error that every waiter gets if the dispatcher fails with `error`."""
    text = printable(f"{type(error).__name__}: {error}")
    failure = BinanceOIError(f"no request can be admitted: {text}")
    failure.__cause__ = error
    return failure


def _end_in_steps(waiters: deque[Waiter], how: Callable[[Waiter], object]) -> None:
    """Call `how` for `ENDED_PER_STEP` waiters now, and for the rest in later steps of the loop."""
    for _ in range(min(ENDED_PER_STEP, len(waiters))):
        waiter = waiters.popleft()
        if not waiter.done():
            how(waiter)
    if waiters:
        waiters[0].get_loop().call_soon(_end_in_steps, waiters, how)
