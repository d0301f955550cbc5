"""The send loop that every request goes through, and the loop and process that it belongs to.

The rule of this file: one way to the exchange. Queue, pacer, bucket, send, settle before anything
else, classify by status, decode, check the symbol: in this order, for every request there is.
"""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeVar

from yarl import URL

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
from binance_oi.exchange.limits import WEIGHT, Limit
from binance_oi.exchange.refusals import Kind, Refusal, RefusedError
from binance_oi.exchange.routes import Request
from binance_oi.sending.governor import Governor, Permit
from binance_oi.sending.retry import Retries, RetryPolicy
from binance_oi.sending.transport import Answer, IdleTimeout, Transport, ready_url

T = TypeVar("T")

ANOTHER_LOOP = "the client belongs to another event loop"
ANOTHER_PROCESS = "the client belongs to another process; make one after the fork"


@dataclass(slots=True)
class Terms:
    """What one or many requests may take, and what they took."""

    timeout: float
    """Seconds for one of them, from its admission, over all its attempts."""
    max_wait: float | None
    """Seconds that one of them may wait for budget; None: as long as it takes."""
    bulk: bool = False
    """Whether single requests of others go first."""
    ends: float = math.inf
    """Loop time at which all of them must be done."""
    charged: int = 0
    """Weight, by now."""
    waited: float = 0.0
    """Seconds in the queue, by now."""


class Sender:
    """Sends requests until there is an answer, and closes what it sends with.

    It belongs to the event loop that first used it, and to the process that made it.

    Args:
        base_url: The exchange.
        governor: Says who may send now what draws on the minute's weight.
        transport: Sends one request.
        retry: Which failed requests are sent again.
        govern: Makes the governor of another limit, when something first draws on it.
    """

    def __init__(
        self,
        base_url: str,
        governor: Governor,
        transport: Transport,
        retry: RetryPolicy,
        govern: Callable[[Limit], Governor],
    ) -> None:
        self.governor = governor
        self._govern = govern
        self._governors = {WEIGHT: governor}
        self._base_url = base_url
        self._transport = transport
        self._policy, self._retries = retry, Retries(retry)
        self._url = lru_cache(maxsize=4096)(partial(_url_of, base_url))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = fork.current
        self._closing = asyncio.Event()  # for those who sleep
        self.is_closed: bool = False

    # -- whose it is, and its end ----------------------------------------------------------------

    def check_usable(self) -> asyncio.AbstractEventLoop:
        """Before any I/O: it is open, and ours to use in this loop, which is returned.

        Raises:
            ClientClosedError: It is not.
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
        """Seconds of the loop that it belongs to."""
        assert self._loop is not None
        return self._loop.time()

    async def aclose(self) -> None:
        """Close the connections; pending calls end with `ClientClosedError`.

        Raises:
            ClientClosedError: It belongs to another event loop, and that one is running. It stays
                open.
        """
        here = self._process is fork.current
        at_home = here and self._loop in (None, asyncio.get_running_loop())
        if here and not at_home and self._loop is not None and self._loop.is_running():
            raise ClientClosedError(ANOTHER_LOOP)
        self.is_closed = True
        if self._loop is not None and self._loop.is_closed():  # it wakes nobody any more
            for governor in self._governors.values():
                governor.abandon()
        else:
            self._closing.set()
            for governor in self._governors.values():
                governor.close(ClientClosedError())
        if at_home:
            await self._transport.aclose()
        else:
            self.give_up()

    def give_up(self) -> bool:
        """Without our loop: whether there was anything to close."""
        if self._process is fork.current:
            return self._transport.abandon()
        self._transport.leave_to_parent()
        return False

    def governor_of(self, limit: Limit) -> Governor:
        """Who says when what draws on `limit` may be sent; made when first asked for."""
        governor = self._governors.get(limit)
        if governor is None:
            governor = self._governors[limit] = self._govern(limit)
        return governor

    # -- the send loop ---------------------------------------------------------------------------

    async def open_connections(self, request: Request[Any], count: int) -> None:
        """Open what `count` requests like this one need, once those that may go have gone."""
        await asyncio.sleep(0)
        url = self._url(request)
        await self._transport.open_connections(url, count, self.governor.in_flight)

    async def send(self, request: Request[T], terms: Terms) -> T:
        """Send until there is an answer, no attempt is left, or the time is over.

        Time runs while a request is under way and between two attempts, not in the queue. A request
        that could not be sent in time is no attempt: it is charged again, for a later time.

        Raises:
            BinanceOIError: There is no answer; see `OpenInterestClient.get_open_interest`.
        """
        loop, route, weight = self.check_usable(), request.route, request.route.weight
        url = self._url(request) if request.is_kept else _url_of(self._base_url, request)
        governor = self.governor if route.limit is WEIGHT else self.governor_of(route.limit)
        left, attempt, refused, fresh = terms.timeout, 0, None, False
        while True:
            permit = governor.admit_now(weight, terms.bulk) if terms.ends == math.inf else None
            if permit is None:
                permit = await self._admit(governor, weight, terms, refused)
            terms.charged += weight
            attempt += 1
            began = loop.time()
            if began + left > terms.ends:
                left = terms.ends - began
            try:
                answer = await self._transport.get(url, permit, route.max_bytes, left, fresh=fresh)
                if answer.status != 200 or not answer.complete:
                    raise self._failure(answer, permit.refusal, governor)
                try:
                    value = route.decode(answer.body, *request.subject)
                except RefusedError as found:
                    raise self._refused(found.refusal, governor) from found.__cause__
            except BinanceOIError as error:
                if permit.refunded:  # it was never sent
                    terms.charged -= weight
                left -= loop.time() - began
                if permit.late and left > 0.0 and not self.is_closed:
                    attempt -= 1
                    continue
                wait = self._wait_after(error, attempt, left)
                if wait is None:
                    raise
                refused = error if isinstance(error, RateLimitedError) else None
                fresh = self._next_is_fresh(error, attempt, fresh)
            else:
                self._retries.succeeded()
                return value
            finally:
                permit.release()
            left -= wait
            await self.pause(wait)

    async def _admit(
        self, governor: Governor, weight: int, terms: Terms, refused: RateLimitedError | None
    ) -> Permit:
        """Stand in the queue. Whoever came back with a 429 and cannot wait gets that 429."""
        began, max_wait = self.now(), terms.max_wait
        if terms.ends < math.inf:
            left = terms.ends - began
            if left <= 0.0:
                raise BudgetExhaustedError("the deadline is over", None, Reason.DEADLINE)
            max_wait = left if max_wait is None else min(left, max_wait)
        try:
            return await governor.admit(weight, bulk=terms.bulk, max_wait=max_wait)
        except BudgetExhaustedError:
            if refused is not None:
                raise refused from None
            raise
        finally:
            terms.waited += self.now() - began

    def _failure(
        self, answer: Answer, refusal: Refusal | None, governor: Governor
    ) -> BinanceOIError:
        """The error of an answer that has no value.

        Args:
            answer: With its text, as far as that could be read.
            refusal: What its headers say; None when the status is 200.
            governor: Of the limit that it drew on.
        """
        if refusal is None:
            return DecodeError("the answer is longer than any real one, or has no end")
        if 200 < answer.status < 300:
            return DecodeError(f"status {answer.status} is not an answer to this request")
        refusal = refusal.reading(answer.body)
        is_dropped = isinstance(answer, IdleTimeout) and refusal.kind is Kind.SERVER
        if is_dropped and refusal.code is None and self._policy.attempts > 1:
            return TransportError("a kept connection was idle for too long (408)", "now")
        return self._refused(refusal, governor)

    def _refused(self, refusal: Refusal, governor: Governor) -> BinanceOIError:
        """Obey a refusal, and make its exception."""
        return refusal.error(governor.heed(refusal) if refusal.is_hold else None)

    def _next_is_fresh(self, error: BinanceOIError, attempt: int, fresh: bool) -> bool:
        """Whether the attempt after this one needs a new connection.

        After a kept connection proved dead, so that a call meets only one such. And for the last
        attempt, which nothing could replace.
        """
        dead = isinstance(error, TransportError) and error.retry == "now"
        return fresh or dead or attempt + 1 == self._policy.attempts

    def _wait_after(self, error: BinanceOIError, attempt: int, left: float) -> float | None:
        """Seconds until the next attempt; None when there is none in the seconds `left`."""
        if self.is_closed:
            raise ClientClosedError from error
        if isinstance(error, WrongSymbolError):
            self._transport.distrust_connections()
        if isinstance(error, RateLimitedError):  # the queue waits until the hold ends, not a ban
            again = attempt < self._policy.attempts and left > 0.0
            return 0.0 if again and not self.governor.pool.held_for(ban=True) else None
        return self._retries.wait(error, attempt, left)

    async def pause(self, seconds: float) -> None:
        """Sleep, but not on when the sender is closed.

        Raises:
            ClientClosedError: It was closed meanwhile.
        """
        if seconds > 0.0:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._closing.wait()
            self.check_usable()


def _url_of(base_url: str, request: Request[Any]) -> URL:
    return ready_url(base_url, request.route.path, request.params)
