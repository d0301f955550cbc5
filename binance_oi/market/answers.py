"""What a client was answered last, and who shares the request for it.

The rule of this file: an answer is shared by those who say how old it may be, and by nobody else.
"""

import math
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from binance_oi.errors import BudgetExhaustedError, Reason, TransportTimeoutError
from binance_oi.sending.sender import Sender, Terms
from binance_oi.sending.shared_calls import SharedCalls

T = TypeVar("T")

NEVER = math.inf  # loop time since when an answer may be known: only a new one is young enough


def is_late(terms: Terms, error: Exception) -> bool:
    """Whether a call with more time than another had may succeed where that one got `error`.

    Where calls have a `max_wait`, only the client's own deadline is a lack of time: the wait of the
    other call was as long as ours may be.
    """
    if isinstance(error, BudgetExhaustedError):
        return terms.max_wait is None or error.reason is Reason.DEADLINE
    return isinstance(error, TransportTimeoutError)


class Answer(NamedTuple, Generic[T]):
    """An answer, and when it came."""

    at: float
    """Loop time."""
    value: T


class Answers(Generic[T]):
    """The latest answer to each question, and the requests under way.

    Args:
        sender: Whose loop tells the time.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._latest: dict[Hashable, Answer[T]] = {}
        self._calls: SharedCalls[Answer[T]] = SharedCalls()

    def keep(self, key: Hashable, value: T) -> Answer[T]:
        """`value` is the answer to the question `key`, now."""
        answer = self._latest[key] = Answer(self._sender.now(), value)
        return answer

    async def read(
        self, key: Hashable, ask: Callable[[], Coroutine[Any, Any, T]], terms: Terms, since: float
    ) -> Answer[T]:
        """An answer that came at `since` or later; the request for it may be that of another.

        Args:
            key: The question.
            ask: Sends a request for it.
            terms: Of the caller; who has another `max_wait` or priority shares no request.
            since: Loop time; `NEVER` always asks the exchange.

        Raises:
            BudgetExhaustedError: The request of another took longer than `terms` allow.
        """

        async def asked() -> Answer[T]:
            return self.keep(key, await ask())

        if since == NEVER:
            return await asked()
        self._sender.check_usable()
        known = self._latest.get(key)
        if known is not None and known.at >= since:
            return known
        name = key, terms.max_wait, terms.bulk
        return await self._calls.join(name, asked, terms.ends, partial(is_late, terms))
