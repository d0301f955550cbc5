"""Decides whether to send a failed request again, and after which delay.

The rule of this file: a retry is admitted and charged like any other request. So we retry only if
that is likely to help. We never retry after an error of the caller or a ban.
"""

import random
from dataclasses import dataclass, field

from binance_oi.arguments import as_float, check_count
from binance_oi.encoding import Encodable
from binance_oi.errors import BinanceOIError, ServerError, TransportError

OVERLOADED = -1008  # code: the exchange is overloaded, so we wait longer


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy(Encodable):
    """Selects the failed requests to send again. `RetryPolicy(attempts=1)` turns retries off.

    Within the `timeout` of a call, the client retries after network errors, 5xx and 408. It never
    retries after wrong input, 403, 418, 451, other 4xx, errors of certificates, or answers whose
    content is wrong or too long. After a 429, the request returns to the queue. If a kept
    connection proves dead, the client sends the request at once on a new connection. All of these
    count as attempts.

    The wait before a retry is random, from 0 to ``base * 2 ** n`` (full jitter) and at most `cap`,
    where n is the number of earlier retries.

    Raises:
        TypeError: A value is not a number, or `attempts` is not an integer.
        ValueError: `attempts` is below 1 or infinite, or another value is below 0 or NaN.
    """

    attempts: int = 3
    """The most requests for one call, the first one included."""
    network_base: float = 0.05
    """The base of the wait after a network error, in seconds."""
    server_base: float = 0.25
    """The base of the wait after a 5xx or 408, in seconds."""
    overload_base: float = 1.0
    """The base of the wait after code -1008, in seconds."""
    cap: float = 2.0
    """The longest wait before a retry, in seconds."""
    budget: float = 60.0
    """The most retries that can be in a client's account, which bounds retries in an outage. Each
    retry takes one from the account, except after a 429 or a dead connection."""
    earned: float = 0.1
    """The retries that each success adds to the account."""

    def __post_init__(self) -> None:
        names = ("network_base", "server_base", "overload_base", "cap", "budget", "earned")
        for name in names:  # `Fraction` and numpy's numbers do not mix with all other numbers
            object.__setattr__(self, name, as_float(name, getattr(self, name)))
        enough = as_float("attempts", self.attempts) >= 1.0
        if not (enough and all(getattr(self, name) >= 0.0 for name in names)):
            raise ValueError(f"attempts must be at least 1, and no other value below 0: {self!r}")
        check_count("attempts", self.attempts)


@dataclass(slots=True)
class Retries:
    """A client's account of retries, which bounds the number of requests in an outage.

    The account starts full. So 600 calls in an outage send at most 660 requests, and one more for
    each kept connection that proves dead. These extra requests do not draw on the account: their
    cause is a balancer or a network that has forgotten connections, not an outage, and each
    connection proves dead only once.
    """

    policy: RetryPolicy
    left: float = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.policy.budget

    def succeeded(self) -> None:
        """Add `RetryPolicy.earned` to the account after a usable answer."""
        if self.left < self.policy.budget:
            self.left = min(self.policy.budget, self.left + self.policy.earned)

    def wait(self, error: BinanceOIError, attempt: int, seconds: float) -> float | None:
        """Return the seconds until the next attempt; None if there is none.

        Args:
            error: The error of the last attempt.
            attempt: The number of attempts so far.
            seconds: The seconds that the call has left. The next attempt must begin before then.
        """
        if attempt >= self.policy.attempts:
            return None
        if isinstance(error, TransportError) and error.retry == "now":
            return 0.0 if seconds > 0.0 else None
        base = self._base(error)
        if base is None or self.left < 1.0:
            return None
        longest = min(self.policy.cap, base * 2.0 ** min(attempt - 1, 100))
        wait = random.uniform(0.0, longest)
        if wait >= seconds:
            return None
        self.left -= 1.0
        return wait

    def _base(self, error: BinanceOIError) -> float | None:
        if isinstance(error, TransportError):
            return self.policy.network_base if error.retry == "later" else None
        if isinstance(error, ServerError):
            overloaded = error.code == OVERLOADED
            return self.policy.overload_base if overloaded else self.policy.server_base
        return None
