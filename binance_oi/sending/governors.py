"""Makes the governors of one client, one for each limit that the exchange sets.

The rule of this file: the governor of the weight per minute exists from the start. The governor of
any other limit is made for the first request under that limit.
"""

from binance_oi.budget import Budget
from binance_oi.budget.beside import pool_of
from binance_oi.exchange.limits import WEIGHT, Limit
from binance_oi.sending.governor import Governor

# Bounds on requests for the past: requests per second, and requests at the same time. The exchange
# allows 3.3 requests for the past per second on average.
HISTORY_PACE, HISTORY_CONNECTIONS = 50.0, 8
HISTORY_IDLE_S = 1.0  # s without a request for the past, after which we return leases (`LateFlush`)


class Governors:
    """The governors of one client.

    Args:
        budget: The budget that has the pools.
        name: The name of the client's pools in that budget.
        pace: The requests per second of one governor, on average; see `Governor`.
        max_in_flight: The most requests of one governor on the wire at the same time.
    """

    def __init__(self, budget: Budget, name: str, *, pace: float, max_in_flight: int) -> None:
        self._budget, self._name = budget, name
        self._pace, self._max_in_flight = pace, max_in_flight
        self.minute: Governor = Governor(budget.pool(name), pace=pace, max_in_flight=max_in_flight)
        """The governor of requests that have weight in the minute."""
        self._made = {WEIGHT: self.minute}

    def of(self, limit: Limit) -> Governor:
        """The governor of requests that `limit` counts. The first call for a limit makes it."""
        governor = self._made.get(limit)
        if governor is None:
            governor = self._made[limit] = Governor(
                pool_of(self._budget, self._name, limit),
                pace=min(self._pace, HISTORY_PACE),
                max_in_flight=min(self._max_in_flight, HISTORY_CONNECTIONS),
                idle=HISTORY_IDLE_S,
            )
        return governor

    def close(self, error: Exception) -> None:
        """See `Governor.close`."""
        for governor in self._made.values():
            governor.close(error)

    def abandon(self) -> None:
        """See `Governor.abandon`."""
        for governor in self._made.values():
            governor.abandon()
