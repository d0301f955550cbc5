"""Sends every request, and sends it again if that may help.

The rule of this file: every request takes the same steps in the same order. It waits in the queue
until the pacer and the budget admit it. We send it, and settle it as soon as its answer comes. Then
we classify the status, decode the body, and check the symbol.
"""

import asyncio
import math
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeVar

from binance_oi import fork
from binance_oi.errors import (
    BinanceOIError,
    BudgetExhaustedError,
    ClientClosedError,
    DecodeError,
    RateLimitedError,
    Reason,
    TransportError,
    WrongSymbolError,
)
from binance_oi.exchange.limits import WEIGHT
from binance_oi.exchange.refusals import Kind, Refusal, RefusedError
from binance_oi.exchange.routes import Request
from binance_oi.sending.governor import Governor, Permit, Waiter
from binance_oi.sending.governors import Governors
from binance_oi.sending.retry import Retries, RetryPolicy
from binance_oi.sending.transport import Answer, IdleTimeout, Started, Transport
from binance_oi.sending.wire import Target, target_of

T = TypeVar("T")

ANOTHER_LOOP = "the client belongs to another event loop"
ANOTHER_PROCESS = "the client belongs to another process; make one after the fork"


@dataclass(slots=True)
class Terms:
    """The bounds of one or many requests, and their cost so far."""

    timeout: float
    """Seconds for each request from its admission, over all its attempts."""
    max_wait: float | None
    """Seconds that each request may wait for the budget; None: no limit."""
    bulk: bool = False
    """Whether the requests are bulk work, which lets single calls go first."""
    ends: float = math.inf
    """Loop time at which all requests must be finished."""
    charged: int = 0
    """The weight charged so far."""
    waited: float = 0.0
    """The seconds spent in the queue so far."""


class Sender:
    """Sends each request until there is an answer, or no further attempt may help.

    It belongs to the event loop that first used it, and to the process that made it.

    Args:
        base_url: The exchange.
        governors: Admit requests.
        transport: Sends one request.
        retry: Selects the failed requests to send again.
    """

    def __init__(
        self, base_url: str, governors: Governors, transport: Transport, retry: RetryPolicy
    ) -> None:
        self.governors: Governors = governors
        self.governor: Governor = governors.minute
        self._base_url = base_url
        self._transport = transport
        self._policy, self._retries = retry, Retries(retry)
        self._target = lru_cache(maxsize=4096)(partial(_target_of, base_url))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = fork.current
        self._closing = asyncio.Event()  # ends pauses
        self.is_closed: bool = False

    # -- owner and end ---------------------------------------------------------------------------

    def check_usable(self) -> asyncio.AbstractEventLoop:
        """Check, before any I/O, that the sender is open and this is its loop; return the loop.

        Raises:
            ClientClosedError: The sender is closed, or belongs to another loop or process.
        """
        if self.is_closed:
            raise ClientClosedError
        if self._process is not fork.current:
            raise ClientClosedError(ANOTHER_PROCESS)
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                raise ClientClosedError(ANOTHER_LOOP)
            self._loop = loop
        return loop

    def now(self) -> float:
        """Return the time of its loop, in seconds."""
        assert self._loop is not None
        return self._loop.time()

    async def aclose(self) -> None:
        """Close the connections; pending calls end with `ClientClosedError`.

        Raises:
            ClientClosedError: The sender belongs to another event loop, which is still running.
                The sender stays open.
        """
        here = self._process is fork.current
        at_home = here and self._loop in (None, asyncio.get_running_loop())
        if here and not at_home and self._loop is not None and self._loop.is_running():
            raise ClientClosedError(ANOTHER_LOOP)
        self.is_closed = True
        if self._loop is not None and self._loop.is_closed():  # it can wake no task
            self.governors.abandon()
        else:
            self._closing.set()
            self.governors.close(ClientClosedError())
        if at_home:
            await self._transport.aclose()
        else:
            self.give_up()

    def give_up(self) -> bool:
        """Close without the loop; return whether a session of ours was open."""
        if self._process is fork.current:
            return self._transport.abandon()
        self._transport.leave_to_parent()
        return False

    # -- the send loop ---------------------------------------------------------------------------

    async def open_connections(self, request: Request[Any], count: int) -> None:
        """Let admitted requests start; then open connections for `request`, up to `count`."""
        await asyncio.sleep(0)
        url = self._target(request).url
        await self._transport.open_connections(url, count, self.governor.in_flight)

    def queue(self, request: Request[Any], terms: Terms) -> Waiter:
        """Queue a request behind other calls that wait.

        Await the waiter at once and directly, and give its permit to `send`. A call that waits
        within `send` needs one more object, which costs the garbage collector time.

        Raises:
            BinanceOIError: The request cannot wait; see `Governor.queue` and `check_usable`.
        """
        self.check_usable()
        route = request.route
        governor = self.governor if route.limit is WEIGHT else self.governors.of(route.limit)
        return governor.queue(route.weight, terms.bulk, self._longest_wait(terms))

    async def send(self, request: Request[T], terms: Terms, queued: Permit | None = None) -> T:
        """Send until there is an answer, no attempt is left, or the time is over.

        The time runs while a request is on the wire, and between two attempts, but not in the
        queue. If a charged request may no longer be sent, that is not an attempt: the loop charges
        it again.

        This method has a fast path for nearly all requests: a kept connection is open, and the
        answer is the usual one. In every other case, `_send` continues the request.

        Args:
            request: The request.
            terms: Its bounds.
            queued: A permit for this request, which came from `queue`; None to get one here.

        Raises:
            BinanceOIError: No attempt succeeded; see `OpenInterestClient.get_open_interest`.
        """
        loop = asyncio.get_running_loop() if queued else self.check_usable()
        route = request.route
        governor = self.governor if route.limit is WEIGHT else self.governors.of(route.limit)
        target = self._target(request) if request.is_kept else _target_of(self._base_url, request)
        is_free = terms.ends == math.inf
        wait = terms.max_wait if is_free or queued else self._longest_wait(terms)
        permit = queued or governor.admit_now(route.weight, bulk=terms.bulk)
        if permit is None:
            queued_at = loop.time()
            try:
                permit = queued = await governor.queue(route.weight, terms.bulk, wait)
            finally:
                terms.waited += loop.time() - queued_at
        terms.charged += route.weight
        began, attempt, plain, failure = loop.time(), None, None, None
        if queued is None or permit.may_send():  # a permit of this step of the loop needs no check
            left = terms.timeout if is_free else min(terms.timeout, terms.ends - began)
            attempt = self._transport.start(target, route.max_bytes, left, loop, began)
        if attempt is not None:
            try:
                await attempt.answer
                plain = self._transport.follow(target, attempt)
                if plain is not None:
                    permit.book(plain.used, plain.date)
                    value = route.decode(plain.body, *request.subject)
                    permit.release()
                    self._retries.succeeded()
                    return value
            except BaseException as error:
                failure = error
        answer = (
            None if plain is None else Answer(200, plain.body, len(plain.body) <= route.max_bytes)
        )
        started = Started(permit, began, attempt, answer, failure)
        return await self._send(request, terms, governor, target, started)

    async def _queued(self, weight: int, terms: Terms, governor: Governor) -> Permit:
        """Wait in the queue.

        Raises:
            BinanceOIError: See `Governor.reserve`.
        """
        queued_at = self.now()
        try:
            wait = self._longest_wait(terms)
            return await governor.admit(weight, bulk=terms.bulk, max_wait=wait)
        finally:
            terms.waited += self.now() - queued_at

    async def _send(
        self,
        request: Request[T],
        terms: Terms,
        governor: Governor,
        target: Target,
        started: Started,
    ) -> T:
        """Continue a request whose first attempt did not end on the fast path of `send`."""
        permit, began, route = started.permit, started.began, request.route
        left, attempt, fresh, by_deadline = terms.timeout, 0, False, False
        while True:
            attempt += 1
            by_deadline = by_deadline or terms.ends - began < left
            left = min(left, terms.ends - began)
            try:
                answer = started.answer or await self._transport.get(
                    *(target.url, permit, route.max_bytes, left),
                    by_deadline=by_deadline,
                    fresh=fresh,
                    sent=started.attempt,
                    error=started.error,
                )
                value = self._value(request, answer, permit, governor)
                if started.error is not None:  # the answer is good, but booking it failed
                    raise started.error
                self._retries.succeeded()
                return value
            except BinanceOIError as error:
                if permit.refunded:  # the request was never sent
                    terms.charged -= route.weight
                left -= self.now() - began
                wait = self._wait_for_next(error, permit, governor, attempt, left)
                refused = error if isinstance(error, RateLimitedError) else None
                if permit.late:
                    attempt -= 1
                else:
                    fresh = self._next_is_fresh(error, attempt, fresh)
            finally:
                permit.release()
            left -= wait
            await self.pause(wait)
            try:
                permit = await self._queued(route.weight, terms, governor)
            except BudgetExhaustedError:
                if refused is not None:  # if the last answer was a 429, raise its error
                    raise refused from None
                raise
            terms.charged += route.weight
            began = self.now()
            started = Started(permit, began)

    def _longest_wait(self, terms: Terms) -> float | None:
        """Return the seconds that a request may wait in the queue.

        Raises:
            BudgetExhaustedError: The deadline is over.
        """
        if terms.ends == math.inf:
            return terms.max_wait
        left = terms.ends - self.now()
        if left <= 0.0:
            raise BudgetExhaustedError("the deadline is over", None, Reason.DEADLINE)
        return left if terms.max_wait is None else min(left, terms.max_wait)

    def _value(self, request: Request[T], answer: Answer, permit: Permit, governor: Governor) -> T:
        """Return the value in the answer.

        Raises:
            BinanceOIError: The answer has no value.
        """
        if answer.status != 200 or not answer.complete:
            raise self._failure(answer, permit.refusal, governor)
        try:
            return request.route.decode(answer.body, *request.subject)
        except RefusedError as found:
            raise self._refused(found.refusal, governor) from found.__cause__

    def _failure(
        self, answer: Answer, refusal: Refusal | None, governor: Governor
    ) -> BinanceOIError:
        """Return the error for an answer without a value.

        Args:
            answer: The answer, with the part of its text that we could read.
            refusal: The refusal from its status and headers; None if the status is 200.
            governor: The governor of the limit on which the request drew.
        """
        if refusal is None:
            return DecodeError("the answer is longer than any real one, or has no end")
        if 200 < answer.status < 300:
            return DecodeError(f"status {answer.status} is not an answer to this request")
        refusal = refusal.with_text(answer.body)
        is_dropped = isinstance(answer, IdleTimeout) and refusal.kind is Kind.SERVER
        if is_dropped and refusal.code is None and self._policy.attempts > 1:
            return TransportError("a kept connection was idle for too long (408)", "now")
        return self._refused(refusal, governor)

    def _refused(self, refusal: Refusal, governor: Governor) -> BinanceOIError:
        """Obey a refusal, and return its exception."""
        return refusal.error(governor.obey_text(refusal) if refusal.is_temporary else None)

    def _next_is_fresh(self, error: BinanceOIError, attempt: int, fresh: bool) -> bool:
        """Whether the next attempt needs a new connection.

        It needs one after a dead kept connection, so that a call meets only one dead connection.
        The last attempt needs one too: if it met a dead connection, no attempt would follow.
        """
        dead = isinstance(error, TransportError) and error.retry == "now"
        return fresh or dead or attempt + 1 == self._policy.attempts

    def _wait_for_next(
        self, error: BinanceOIError, permit: Permit, governor: Governor, attempt: int, left: float
    ) -> float:
        """Return the seconds until the next attempt, or raise `error` if there is none.

        If `permit.late` is set, this try does not count as an attempt. The method sets it if there
        was no file descriptor while other requests are under way. It clears it if no time is left
        or the sender is closed.

        Args:
            error: The error of the last attempt.
            permit: The permit of that attempt.
            governor: The governor that issued it.
            attempt: The number of that attempt, from 1.
            left: The seconds that remain for the request.
        """
        if permit.crowded and not permit.late:
            permit.late = governor.connections.lower(governor.in_flight)
        permit.late = permit.late and left > 0.0 and not self.is_closed
        wait = 0.0 if permit.late else self._wait_after(error, attempt, left)
        if wait is None:
            raise error
        return wait

    def _wait_after(self, error: BinanceOIError, attempt: int, left: float) -> float | None:
        """Return the seconds until the next attempt; None if no attempt may follow."""
        if self.is_closed:
            raise ClientClosedError from error
        if isinstance(error, WrongSymbolError):
            self._transport.distrust_connections()
        if isinstance(error, RateLimitedError):  # the queue waits out a cooldown, but no ban
            again = attempt < self._policy.attempts and left > 0.0
            return 0.0 if again and not self.governor.pool.held_for(ban=True) else None
        return self._retries.wait(error, attempt, left)

    async def pause(self, seconds: float) -> None:
        """Sleep; raise `ClientClosedError` as soon as the sender is closed."""
        if seconds > 0.0:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._closing.wait()
            self.check_usable()


def _target_of(base_url: str, request: Request[Any]) -> Target:
    route = request.route
    return target_of(base_url, route.path, request.params, route.max_bytes)
