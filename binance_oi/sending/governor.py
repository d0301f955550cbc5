"""Who may send now: one queue, one pacer, one gate.

The rule of this file: it decides the order and it sleeps; how much may be sent is the pool's
decision, and how fast the pacer's.
"""

import asyncio
import heapq
import logging
import math
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import Context
from datetime import UTC, datetime, timedelta

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
from binance_oi.sending.pacer import FAR, Pacer

logger: logging.Logger = logging.getLogger("binance_oi")

FEW = 100  # finished calls that may stay in the heap of deadlines
SLICE = 250  # waiters completed in one step of the loop; each is woken in the next
NAP = 1.0  # s after which a sleeper looks whether another process was told to stop
AGAIN = 0.1  # s from a refusal to its `retry_at` at least: a caller who obeys it does not spin

NO_ROOM = "no room for weight {weight} in time: "
NOT_ADMITTED = "weight {weight} was not admitted in time: "
WHY = {
    Reason.COOLDOWN: f"{NOT_ADMITTED}after a refusal nothing is sent until {{held}}",
    Reason.PROBE_PENDING: f"{NOT_ADMITTED}a probe is under way, and its count decides",
    Reason.MINUTE_FULL: f"{NO_ROOM}the minute is full until {{turn}}",
    Reason.MINUTE_UNCERTAIN: f"{NO_ROOM}the minute before may not be over",
    Reason.OTHERS: f"{NO_ROOM}held back for other clients on this address",
    Reason.SHARE: f"{NO_ROOM}our share of the minute is used until {{turn}}",
    Reason.STORE_BUSY: f"{NOT_ADMITTED}another process is changing the shared budget",
    Reason.OTHER_LIMIT: f"{NO_ROOM}a limit of another span than a minute is used",
    Reason.CONNECTIONS: f"{NOT_ADMITTED}all {{connections}} connections are busy",
    Reason.PACE: f"{NOT_ADMITTED}the pace of {{pace:g}} requests a second is used",
    Reason.TOO_HEAVY: "weight {weight} never fits into this budget",
}
"""The text of a refusal, by what the call waited for; a `DEADLINE` is the client's own."""


REFUSED = {
    Kind.LIMITED: "the exchange's limit was reached (429)",
    Kind.BANNED: "this IP address is banned (418)",
    Kind.FORBIDDEN: "the exchange's firewall refused us (403)",
}


class Permit:
    """The right to send one request, now. Goes back exactly once."""

    __slots__ = ("_governor", "_receipt", "late", "refunded", "refusal")

    def __init__(self, governor: "Governor", receipt: Receipt) -> None:
        self._governor = governor
        self.refunded: bool = False
        self.late: bool = False  # refunded because its time to be sent was over
        self.refusal: Refusal | None = None  # what the headers of the answer say, if they refuse
        self._receipt: Receipt | None = receipt

    def may_send(self) -> bool:
        """Ask with nothing between the answer and the write; see `Bucket.sending`.

        A permit that may not be sent any more is refunded: ask for another one.
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
        """The answer's headers came; do this before anything else with it."""
        receipt, self._receipt = self._receipt, None
        if receipt is not None:
            self.refusal = self._governor.settle(receipt, status, headers)

    def refund(self) -> None:
        """It was never sent."""
        receipt, self._receipt = self._receipt, None
        if receipt is not None:
            self.refunded = True
            self._governor.pool.refund(receipt)

    def give_back(self) -> None:
        """It is not used at all: `refund`, then `release`."""
        try:
            self.refund()
        finally:
            self.release()

    def release(self) -> None:
        """Done. What was neither settled nor refunded may have been counted."""
        receipt, self._receipt = self._receipt, None
        try:
            if receipt is not None:
                self._governor.pool.lose(receipt)
        finally:  # whatever the pool raises: the next request may go
            self._governor.release()


class _Waiter(asyncio.Future[Receipt]):
    """A call that waits to be admitted.

    When thousands are cancelled at once, each leaves its queue at once and learns of it in its
    turn, or the loop would stand still until all of them have ended.
    """

    __slots__ = ("_leaving", "_message", "_queue", "deadline")

    def __init__(self, queue: "_Queue", leaving: "deque[_Waiter]") -> None:
        super().__init__()
        self.deadline = math.inf  # loop time
        self._queue = queue
        self._leaving = leaving

    def __lt__(self, other: "_Waiter") -> bool:
        return self.deadline < other.deadline

    def cancel(self, msg: object = None) -> bool:
        if self._queue.pop(self, None) is None:  # admitted, or told already
            return super().cancel(msg)
        self._message = msg
        self._leaving.append(self)
        if len(self._leaving) == 1:
            self.get_loop().call_soon(_end, self._leaving, _Waiter._leave)
        return True

    def _leave(self) -> None:
        super().cancel(self._message)


_Queue = OrderedDict[_Waiter, int]  # and its weight; an object more for each shows in the collector


class Governor:
    """Admits requests one by one, as the pool, the pacer and the connections allow.

    Args:
        pool: Decides whether weight may be used now.
        pace: Requests per second; a second's worth may go at once.
        max_in_flight: Requests under way at the same time. A permit that waited for a connection
            would be booked for a time at which it is not sent, so the limit is here.

    Raises:
        TypeError: `pace` or `max_in_flight` is no number.
        ValueError: One of them is not above 0, or not finite.
    """

    def __init__(self, pool: Pool, *, pace: float = 1000.0, max_in_flight: int = 100) -> None:
        self.max_in_flight: int = check_count("max_in_flight", max_in_flight)
        self.pool = pool
        self.in_flight: int = 0
        self._pacer = Pacer(check_number("pace", pace, above=0.0))
        self._reason = Reason.PACE  # of the last wait
        self._single: _Queue = OrderedDict()
        self._bulk: _Queue = OrderedDict()
        self._leaving: deque[_Waiter] = deque()  # cancelled, and not told so yet
        self._deadlines: list[_Waiter] = []  # a heap
        self._dispatcher: asyncio.Task[None] | None = None
        self._bell: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Governor {self.in_flight} in flight, {self.waiting} waiting, {self.pool!r}>"

    @property
    def waiting(self) -> int:
        """Calls that wait to be admitted."""
        return len(self._single) + len(self._bulk)

    @property
    def waiting_for(self) -> dict[Reason, int]:
        """Calls that wait, by what they wait for; from any thread.

        There is one queue: all of them wait for what its head waits for.
        """
        waiting = self.waiting
        return {self._reason: waiting} if waiting else {}

    @asynccontextmanager
    async def reserve(
        self, weight: int = 1, *, bulk: bool = False, max_wait: float | None = None
    ) -> AsyncGenerator[Permit]:
        """Wait until `weight` may be used; the block sends the request.

        Leaving without `permit.settle` means that it may have been counted; `permit.refund` means
        that it was never sent.

        Args:
            weight: What the request costs.
            bulk: Let single calls go first.
            max_wait: Seconds to wait at the most; None waits as long as it takes.

        Raises:
            TypeError: `weight` or `max_wait` is no number; nothing was queued.
            ValueError: One of them is out of range; nothing was queued.
            BudgetExhaustedError: It could not be admitted within `max_wait`; raised as soon as
                that is certain.
            BannedError: The exchange has banned this IP address; raised at once.
        """
        permit = await self.admit(weight, bulk=bulk, max_wait=max_wait)
        try:
            yield permit
        finally:
            permit.release()

    async def admit(
        self, weight: int = 1, *, bulk: bool = False, max_wait: float | None = None
    ) -> Permit:
        """`reserve` without the block: the caller must call `permit.release`."""
        weight = check_count("weight", weight)
        if max_wait is not None:
            max_wait = check_number("max_wait", max_wait, least=0.0)
        if not self._pacer.passed and not self.waiting:
            await self._pacer.take_at_once()
        permit = self.admit_now(weight, bulk)
        return permit or Permit(self, await self._queue(weight, bulk, max_wait))

    def admit_now(self, weight: int = 1, bulk: bool = False) -> Permit | None:
        """`admit` when nobody waits and there is room, or None: the caller asks `admit`."""
        if self._single or self._bulk:
            return None
        if not self._pacer.passed:
            self._reason = Reason.PACE
            return None
        if self.in_flight >= self.max_in_flight:
            self._reason = Reason.CONNECTIONS
            return None
        receipt = self.pool.charge(weight, 0, bulk)
        if not isinstance(receipt, Receipt):
            self._reason = receipt.reason
            return None
        self._pacer.passed -= 1
        self.in_flight += 1
        return Permit(self, receipt)

    async def _queue(self, weight: int, bulk: bool, max_wait: float | None) -> Receipt:
        """Stand in the queue until the dispatcher hands out a receipt."""
        banned = self._ban()
        if banned is not None:
            raise banned
        loop = asyncio.get_running_loop()
        queue = self._bulk if bulk else self._single
        waiter = _Waiter(queue, self._leaving)
        if max_wait is not None:
            waiter.deadline = loop.time() + max_wait
        queue[waiter] = weight
        if max_wait is not None:
            self._forget_deadlines()
            heapq.heappush(self._deadlines, waiter)
        if self._dispatcher is None:
            self._start_dispatcher()
        self._ring()
        try:
            return await waiter
        except asyncio.CancelledError:
            # Admitted and cancelled in the same loop step?
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                Permit(self, waiter.result()).give_back()
            raise

    def close(self, error: Exception) -> None:
        """Every waiter gets `error`, and nobody is woken any more."""
        self._fail_all(error)
        if self._dispatcher is not None:
            self._dispatcher.cancel()
        self._pacer.stop()

    def abandon(self) -> None:
        """Forget every waiter, of a loop that is closed: it can wake none of them."""
        self._single.clear()
        self._bulk.clear()
        self._deadlines.clear()
        self._dispatcher = None
        self._pacer.abandon()

    # -- what permits report -----------------------------------------------------------------

    def settle(self, receipt: Receipt, status: int, headers: Mapping[str, str]) -> Refusal | None:
        """The headers of an answer came: book what they say, and obey them when they refuse."""
        used, date = read.used_weight(headers), read.date(headers)
        if status == 200:
            self.pool.settle(receipt, used, date)
            self._ring()
            return None
        refusal = Refusal.of(status, headers, date)
        is_ban = refusal.kind is Kind.BANNED
        if refusal.is_hold:
            self.pool.settle_refused(receipt, used, date, refusal.hold, ban=is_ban)
        else:
            self.pool.settle(receipt, used, date)
            if refusal.hold:
                self.pool.hold(refusal.hold)
        if refusal.hold or refusal.is_hold:
            self._warn(REFUSED[refusal.kind])
        if is_ban:
            self._raise_ban()
        self._ring()
        return refusal

    def heed(self, refusal: Refusal) -> datetime:
        """Obey what the text of a refusal says beyond its headers; it is one that `is_hold`.

        Returns:
            When requests are sent again, by this machine's clock.
        """
        if refusal.until is not None:  # under 429 as well: the text says more than the status
            self.obey_ban(refusal.until)
        elif refusal.status not in (418, 429):  # a limit is a limit, also under another status
            self.pool.refused(0.0)
        if refusal.limit is not None and refusal.limit < self.pool.usage.limit:
            self.pool.set_limit(refusal.limit)
        left = self.pool.held_for(ban=True) or self.pool.held_for() or refusal.hold
        return _in(left)

    def obey_ban(self, until: float) -> None:
        """Send nothing before the end of a ban that the exchange named, Unix s.

        An end that is over by our clock is wrong, or our clock is; the ban is not over.
        """
        turn = self.pool.usage.resets_at.timestamp()
        self.pool.hold_until(min(until, turn + MAX_BAN), ban=True)
        if not self.pool.held_for(ban=True):
            self.pool.hold(MIN_BAN, ban=True)
        self._warn("this IP address is banned")
        self._raise_ban()

    def _warn(self, what: str) -> None:
        logger.warning("%s; nothing is sent before %s", what, self.pool.usage.held_until)

    def release(self) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self.pool.flush()
        self._ring()

    # -- the dispatcher ----------------------------------------------------------------------

    def _ring(self) -> None:
        """Something changed: let the dispatcher look again."""
        if self._bell is not None and not self._bell.done():
            self._bell.set_result(None)

    def _start_dispatcher(self) -> None:
        """It serves everybody, so it keeps nothing of what surrounds the first who waits."""
        loop = asyncio.get_running_loop()
        self._dispatcher = loop.create_task(self._dispatch(), context=Context())
        if self._dispatcher.done():  # an eager task may end before it is returned
            self._dispatcher = None

    async def _dispatch(self) -> None:
        """Serve all who wait. However this ends, none of them is left to wait for nobody.

        An error that nobody foresaw goes to all of them, and the next call starts again. Somebody
        may cancel every task of the loop but those that wait here: then another task goes on.
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
        """Admit one at a time, in the order of the queue."""
        while self.waiting:
            if not self._pacer.passed and not await self._pacer.take(self._ring):
                await self._stand_still(self._pacer.every, Reason.PACE)
            elif self.in_flight >= self.max_in_flight:
                await self._stand_still(NAP, Reason.CONNECTIONS)
            else:
                await self._admit_head()

    async def _stand_still(self, seconds: float, reason: Reason) -> None:
        """Nobody can be admitted before somebody rings, which may take about `seconds`."""
        self._reason = reason
        if self._expire(0.0, lambda _: seconds):
            await asyncio.sleep(0)
        else:
            await self._sleep(NAP)

    async def _admit_head(self) -> None:
        """Admit the one who is first by now, or sleep until that may be possible."""
        queue = self._single or self._bulk
        waiter, weight = next(iter(queue.items()))
        answer = self.pool.charge(weight, self._next(), queue is self._bulk)
        if isinstance(answer, Receipt):
            del queue[waiter]
            self._pacer.passed -= 1
            self.in_flight += 1
            waiter.set_result(answer)
            return
        self._reason = answer.reason
        if (seconds := answer.seconds) is None:  # waiting would not help, and would block others
            error = self._exhausted(weight, None, self.pool.usage)
            del queue[waiter]
            waiter.set_exception(error)
        elif self._raise_ban():
            pass  # nobody waits any more
        elif self._expire(seconds, self.pool.room_in):
            await asyncio.sleep(0)
        else:
            stop = self.pool.listen(self._ring)
            try:
                await self._sleep(seconds)
            finally:
                stop()

    def _next(self) -> int:
        """Calls behind the first one that the pacer and the connections let pass with it."""
        free = min(self._pacer.passed, self.max_in_flight - self.in_flight)
        return min(len(self._single) + len(self._bulk), free) - 1

    def _raise_ban(self) -> bool:
        """Every waiter learns of a ban, if there is one."""
        banned = self._ban()
        if banned is not None:
            self._fail_all(banned)
        return banned is not None

    def _ban(self) -> BannedError | None:
        left = self.pool.held_for(ban=True)
        if not left:
            return None
        return BannedError(418, -1003, "this IP address is banned", _in(left))

    async def _sleep(self, seconds: float) -> None:
        """Until somebody rings, or a deadline passes, or the time is over."""
        loop = asyncio.get_running_loop()
        until = loop.time() + min(seconds, NAP)
        if self._deadlines:
            until = min(until, self._deadlines[0].deadline)
        self._bell = loop.create_future()
        timer = loop.call_at(until, self._ring)
        try:
            await self._bell
        finally:
            self._bell = None
            timer.cancel()

    def _forget_deadlines(self) -> None:
        """Most calls are admitted long before their deadline, which must not pile up."""
        if len(self._deadlines) > 2 * self.waiting + FEW:
            self._deadlines = [waiter for waiter in self._deadlines if not waiter.done()]
            heapq.heapify(self._deadlines)

    def _expire(self, seconds: float, room_in: Callable[[int], float | None]) -> bool:
        """Nobody is admitted for `seconds`: refuse whoever cannot wait that long.

        Args:
            seconds: From now.
            room_in: Seconds after which there may be room for a weight, if that is later; None
                for never.

        Returns:
            Whether somebody was refused; there may be more of them, for the loop's next step.
        """
        if not self._deadlines:
            return False
        certain, refused = asyncio.get_running_loop().time() + seconds, 0
        if self._deadlines[0].deadline > certain:
            return False
        usage = self.pool.usage
        while refused < SLICE and self._deadlines and self._deadlines[0].deadline <= certain:
            waiter = heapq.heappop(self._deadlines)
            refused += 1
            for queue in (self._single, self._bulk):
                weight = queue.get(waiter)
                if weight is not None:
                    room = room_in(weight)
                    later = None if room is None else max(seconds, room)
                    error = self._exhausted(weight, later, usage)
                    del queue[waiter]
                    waiter.set_exception(error)
        return refused > 0

    def _exhausted(self, weight: int, seconds: float | None, usage: Usage) -> BudgetExhaustedError:
        """The refusal of a call that waits, or would wait, for what the queue waits for.

        Args:
            weight: Of the call.
            seconds: After which there may be room; None for never.
            usage: At this moment.
        """
        reason = Reason.TOO_HEAVY if seconds is None else self._reason
        text = WHY[reason].format(
            weight=weight,
            held=f"{usage.held_until or usage.resets_at:%T} UTC",
            turn=f"{usage.resets_at:%T} UTC",
            connections=self.max_in_flight,
            pace=self._pacer.pace,
        )
        return BudgetExhaustedError(text, None if seconds is None else _in(seconds), reason)

    def _fail_all(self, error: Exception) -> None:
        """Nobody waits any more; a few are woken in each step of the loop."""
        waiters = deque([*self._single, *self._bulk])
        self._single.clear()
        self._bulk.clear()
        self._deadlines.clear()
        _end(waiters, lambda waiter: waiter.set_exception(error))


def _in(seconds: float) -> datetime:
    """A moment of our clock, for a `retry_at`: the caller's clock is ours, not the exchange's."""
    return datetime.now(UTC) + timedelta(seconds=min(max(seconds, AGAIN), FAR))


def _failure(error: Exception) -> BinanceOIError:
    """What the callers get when the queue fails; the cause shows where."""
    text = printable(f"{type(error).__name__}: {error}")
    failure = BinanceOIError(f"no request can be admitted: {text}")
    failure.__cause__ = error
    return failure


def _end(waiters: deque[_Waiter], how: Callable[[_Waiter], object]) -> None:
    """A few now, and the others in the next steps."""
    for _ in range(min(SLICE, len(waiters))):
        waiter = waiters.popleft()
        if not waiter.done():
            how(waiter)
    if waiters:
        waiters[0].get_loop().call_soon(_end, waiters, how)
