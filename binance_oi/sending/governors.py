"""The governors of one client: one for each limit that its requests draw on.

The rule of this file: the governor of the minute is there from the start, the others from their
first request on.
"""

from binance_oi.budget import Budget
from binance_oi.budget.beside import pool_of
from binance_oi.exchange.limits import WEIGHT, Limit
from binance_oi.sending.governor import Governor

# Of requests for the past, beside all others: their limit allows 3.3 a second.
HISTORY_PACE, HISTORY_CONNECTIONS = 50.0, 8
HISTORY_IDLE_S = 1.0  # without a request, after which a lease goes back; see `PoolBeside.flush`


class Governors:
    """The governors of one client.

    Args:
        budget: Has the pools.
        name: Of its pools.
        pace: Requests per second.
        max_in_flight: Requests under way at the same time.
    """

    def __init__(self, budget: Budget, name: str, *, pace: float, max_in_flight: int) -> None:
        self._budget, self._name = budget, name
        self._pace, self._max_in_flight = pace, max_in_flight
        self.minute: Governor = Governor(budget.pool(name), pace=pace, max_in_flight=max_in_flight)
        """Of requests that draw on the minute's weight."""
        self._made = {WEIGHT: self.minute}

    def of(self, limit: Limit) -> Governor:
        """The governor of requests that draw on `limit`; made on first use."""
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
