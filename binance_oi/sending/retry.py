"""Decides whether a request is sent again, and after which delay.

The rule of this file: a retry is a request like any other. It is admitted and charged again, so it
must be worth its weight. An error of the caller or a ban by the exchange is never retried.
"""

import random
from dataclasses import dataclass, field

from binance_oi.arguments import as_float, check_count
from binance_oi.encoding import Encodable
from binance_oi.errors import BinanceOIError, ServerError, TransportError

OVERLOADED = -1008  # "throttled by system-level protection": not counted; back off [D]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy(Encodable):
    """Selects the failed requests to send again. `RetryPolicy(attempts=1)` turns retries off.

    Retried within the call's `timeout`: network errors, timeouts of a connection, 5xx and 408.
    Never retried: wrong input, other 4xx, 403, 418, 451, certificates, well-formed wrong answers. A
    request that got a 429 goes back to the queue. A request on a kept connection that proves dead
    is sent once more on a new one, at once.

    Waits are random between 0 and ``base * 2 ** retries`` (full jitter), at most `cap`.
    """

    attempts: int = 3
    """Requests for one call, including the first."""
    network_base: float = 0.05
    """Seconds; for a network error."""
    server_base: float = 0.25
    """Seconds; for 5xx or 408."""
    overload_base: float = 1.0
    """Seconds; for code -1008."""
    cap: float = 2.0
    """The longest wait between two requests, in seconds."""
    budget: float = 60.0
    """The most retries that a client saves up; each retry costs 1."""
    earned: float = 0.1
    """Retries that each success earns."""

    def __post_init__(self) -> None:
        names = ("network_base", "server_base", "overload_base", "cap", "budget", "earned")
        for name in names:  # `Fraction` and numpy's numbers do not mix with all others
            object.__setattr__(self, name, as_float(name, getattr(self, name)))
        enough = as_float("attempts", self.attempts) >= 1.0
        if not (enough and all(getattr(self, name) >= 0.0 for name in names)):
            raise ValueError(f"attempts must be at least 1, and nothing below 0: {self!r}")
        check_count("attempts", self.attempts)


@dataclass(slots=True)
class Retries:
    """A client's account of retries, which bounds the requests that an outage can cost.

    The account starts full: 600 calls in an outage send at most 660 requests, and one more for each
    kept connection that proves dead. Those extra requests do not draw on the account: their cause
    is a balancer or a network that forgot connections, not an outage, and each connection proves
    dead only once.
    """

    policy: RetryPolicy
    left: float = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.policy.budget

    def succeeded(self) -> None:
        """Earn a part of a retry for a usable answer."""
        if self.left < self.policy.budget:
            self.left = min(self.policy.budget, self.left + self.policy.earned)

    def wait(self, error: BinanceOIError, attempt: int, seconds: float) -> float | None:
        """Seconds until attempt `attempt + 1` (counted from 1); None when there is none.

        There is none if it would begin after the `seconds` that the call has left.
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
