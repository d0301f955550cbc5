"""What the exchange lists, and the limits that it announces.

The rule of this file: the list is read again when it is too old or proved wrong, and its limits
reach the budget before anybody sees the list. An odd row is in the log once, not with each answer.
"""

import logging
from functools import partial

from binance_oi.exchange.models import ExchangeInfo
from binance_oi.exchange.routes import LISTING
from binance_oi.exchange.symbols import odd_names
from binance_oi.market.answers import is_late
from binance_oi.sending.sender import Sender, Terms
from binance_oi.sending.shared_calls import SharedCalls

logger: logging.Logger = logging.getLogger("binance_oi")

LISTING_AGE = 300.0  # s for which a list of symbols is used again; about one is new a day


class Listing:
    """The list of symbols that a client knows, and its age."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._calls: SharedCalls[ExchangeInfo] = SharedCalls()
        self._known: tuple[float, ExchangeInfo] | None = None  # and the loop time of its answer
        self._trading = frozenset[str]()  # as that says
        self._ignored: tuple[str, ...] = ()
        self._odd_rows: dict[str, tuple[str, ...]] = {}  # the latest of each kind of answer
        self.odd_names: frozenset[str] = frozenset()
        """Listed, and not what `check_symbol` takes; kept when the list is doubted."""

    async def read(self, max_age: float, terms: Terms) -> ExchangeInfo:
        """The list, if it is no older than `max_age` seconds; or else a new one.

        Those who take a known one share the request for a new one.
        """
        self._sender.check_usable()
        if self._known is not None and self._sender.now() - self._known[0] < max_age:
            return self._known[1]
        if max_age == 0.0:
            return await self._ask(terms)
        name, ask = (terms.max_wait, terms.bulk), partial(self._ask, terms)
        return await self._calls.join(name, ask, terms.ends, partial(is_late, terms))

    async def _ask(self, terms: Terms) -> ExchangeInfo:
        info = await self._sender.send(LISTING, terms)
        self._known, self._trading = (self._sender.now(), info), frozenset(info.trading)
        if info.rate_limits:
            self._sender.governor.pool.set_limits(info.weight_limit, info.other_limits)
        if info.ignored_limits not in ((), self._ignored):
            logger.warning("limits of the exchange are not kept: %s", info.ignored_limits)
        self._ignored = info.ignored_limits
        self.odd_names = odd_names(listed.symbol for listed in info.symbols)
        self.tell_odd("list of symbols", info.odd_rows)
        return info

    def doubt(self, symbol: str) -> None:
        """Read the list again before it is used, if it says that this symbol trades."""
        if symbol in self._trading:
            self._known, self._trading = None, frozenset[str]()

    def tell_odd(self, what: str, odd: tuple[str, ...]) -> None:
        """Warn of odd rows once, and again when others come.

        Args:
            what: The kind of answer.
            odd: What is said of each of its odd rows.
        """
        if odd and not {*odd} <= {*self._odd_rows.get(what, ())}:
            logger.warning("odd rows in the exchange's %s: %s", what, "; ".join(odd))
        if odd:
            self._odd_rows[what] = odd
