"""Keeps the latest answers of a client, and lets calls share a request.

The rule of this file: a call shares an answer only if it states how old the answer may be.
"""

import math
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from binance_oi.errors import BudgetExhaustedError, Reason, TransportTimeoutError
from binance_oi.sending.sender import Sender, Terms
from binance_oi.sending.shared_calls import SharedCalls

T = TypeVar("T")

ALWAYS_ASK = math.inf  # a `since` for which every known answer is too old


def is_late(terms: Terms, error: Exception) -> bool:
    """Whether a shared request may have failed because the call that sent it had too little time.

    In that case, a call with more time sends the request again. Calls that share a request have the
    same `max_wait`, so if `max_wait` was too short for one of them, it is for all.

    Args:
        terms: The terms of a call that shares the request.
        error: The error of the request.
    """
    if isinstance(error, BudgetExhaustedError):
        return terms.max_wait is None or error.reason is Reason.DEADLINE
    return isinstance(error, TransportTimeoutError)


class Answer(NamedTuple, Generic[T]):
    """An answer, and when it came."""

    at: float
    """When the answer came, loop time."""
    value: T
    """The content of the answer."""


class Answers(Generic[T]):
    """The latest answer to each question, and the requests under way.

    Args:
        sender: The client's sender. We date the answers by the time of its loop.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._latest: dict[Hashable, Answer[T]] = {}
        self._calls: SharedCalls[Answer[T]] = SharedCalls()

    def keep(self, key: Hashable, value: T) -> Answer[T]:
        """Store `value` as the answer to the question `key`, received now."""
        answer = self._latest[key] = Answer(self._sender.now(), value)
        return answer

    async def read(
        self, key: Hashable, ask: Callable[[], Coroutine[Any, Any, T]], terms: Terms, since: float
    ) -> Answer[T]:
        """Return an answer that came at `since` or later; send a request if there is none.

        The call may share the request of another call.

        Args:
            key: Identifies the question.
            ask: Sends the request.
            terms: The caller's terms. Only calls with the same `max_wait` and the same priority
                share a request.
            since: Loop time. With `ALWAYS_ASK` the call sends a request of its own.

        Raises:
            BudgetExhaustedError: The shared request took longer than `terms` allow.
            BinanceOIError: `ask` raised it, or the client is closed.
        """

        async def ask_and_keep() -> Answer[T]:
            return self.keep(key, await ask())

        if since == ALWAYS_ASK:
            return await ask_and_keep()
        self._sender.check_usable()
        known = self._latest.get(key)
        if known is not None and known.at >= since:
            return known
        name = key, terms.max_wait, terms.bulk
        return await self._calls.join(name, ask_and_keep, terms.ends, partial(is_late, terms))
