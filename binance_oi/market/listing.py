"""What the exchange lists, and the limits that it announces.

The rule of this file: the list is read again when it is too old or proved wrong, and its limits
reach the budget before anybody sees the list.
"""

import logging

from binance_oi.exchange.models import ExchangeInfo
from binance_oi.exchange.routes import LISTING
from binance_oi.sending.sender import Sender, Terms

logger: logging.Logger = logging.getLogger("binance_oi")

LISTING_AGE = 300.0  # s for which a list of symbols is used again; about one is new a day


class Listing:
    """The list of symbols that a client knows, and its age."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._known: tuple[float, ExchangeInfo] | None = None  # and the loop time of its answer
        self._ignored: tuple[str, ...] = ()

    async def read(self, max_age: float, terms: Terms) -> ExchangeInfo:
        """The list, if it is no older than `max_age` seconds; or else a new one."""
        self._sender.check_usable()
        if self._known is not None and self._sender.now() - self._known[0] < max_age:
            return self._known[1]
        info = await self._sender.send(LISTING, terms)
        self._known = (self._sender.now(), info)
        if info.rate_limits:
            self._sender.governor.pool.set_limits(info.weight_limit, info.other_limits)
        if info.ignored_limits not in ((), self._ignored):
            logger.warning("limits of the exchange are not kept: %s", info.ignored_limits)
        self._ignored = info.ignored_limits
        return info

    def forget(self) -> None:
        """It does not tell the truth any more: read it again."""
        self._known = None
