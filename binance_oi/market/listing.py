"""Reads the symbols that the exchange lists, and the limits that it announces.

The rule of this file: a `Listing` reads the list again if the list is too old, or if a refusal has
shown that it is wrong. The budget gets the limits before any caller gets the list. If we cannot
decode rows of an answer, the log names these odd rows once, and again only when new ones appear.
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

LISTING_AGE = 300.0  # s for which a list is fresh; the exchange adds about one symbol a day


class Listing:
    """The list of symbols that a client knows, and its age."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._calls: SharedCalls[ExchangeInfo] = SharedCalls()
        self._known: tuple[float, ExchangeInfo] | None = None  # loop time of the answer; the list
        self._trading = frozenset[str]()  # trading symbols of that list
        self._ignored: tuple[str, ...] = ()  # the ignored limits that we have logged
        self._odd_rows: dict[str, tuple[str, ...]] = {}  # the latest odd rows, by kind of answer
        self.odd_names: frozenset[str] = frozenset()
        """Listed names that `check_symbol` refuses or changes. `doubt` does not forget them."""

    async def read(self, max_age: float, terms: Terms) -> ExchangeInfo:
        """Return the known list if it is younger than `max_age` seconds; otherwise read a new one.

        Calls with a `max_age` above 0 share the request for a new list, if they have the same
        `max_wait` and the same priority.
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
            logger.warning("the budget ignores limits of the exchange: %s", info.ignored_limits)
        self._ignored = info.ignored_limits
        self.odd_names = odd_names(listed.symbol for listed in info.symbols)
        self.warn_of_odd_rows("list of symbols", info.odd_rows)
        return info

    def doubt(self, symbol: str) -> None:
        """After the exchange refused a symbol, forget the list if the symbol trades in it."""
        if symbol in self._trading:
            self._known, self._trading = None, frozenset[str]()

    def warn_of_odd_rows(self, what: str, odd: tuple[str, ...]) -> None:
        """Warn of odd rows once, and again when new ones appear.

        Args:
            what: The kind of answer, for people, such as ``mark prices``.
            odd: A description of each odd row.
        """
        if odd and not {*odd} <= {*self._odd_rows.get(what, ())}:
            logger.warning("odd rows in the exchange's %s: %s", what, "; ".join(odd))
        if odd:
            self._odd_rows[what] = odd
