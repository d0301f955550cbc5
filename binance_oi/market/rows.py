"""Converts values to rows: plain tuples, with numbers as text, for recordings and exports.

The rule of this file: it defines all rows of values that we store or export. A number in a row
keeps every digit that the exchange wrote, and is never a float.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Context, Decimal
from types import MappingProxyType
from typing import NamedTuple, Self

from binance_oi.errors import printable
from binance_oi.exchange.models import HistoryRow, MarkPrice, OpenInterest
from binance_oi.times import iso_ms

logger: logging.Logger = logging.getLogger("binance_oi")

MAX_NAMED = 3  # odd rows that a warning names; it counts the others
# The decoder allows 60 digits. The product of two such numbers, with 120 digits, is never rounded.
_EXACTLY = Context(prec=120)

Row = tuple[str, int, str, int, str | None]
"""Symbol, transaction time, open interest, when the answer came, mark price; times in Unix ms."""


def digits(number: Decimal) -> str:
    """Write a number with the exchange's digits; `str` would write ``1E-8``."""
    return f"{number:f}"


def notional(open_interest: Decimal, mark_price: Decimal) -> Decimal:
    """Return open interest times mark price: exact, in units of the quote asset."""
    return _EXACTLY.multiply(open_interest, mark_price)


def notionals(open_interest: Iterable[Decimal], mark_price: Iterable[Decimal]) -> Iterator[Decimal]:
    """Return the notional of each pair; twice as fast as single calls of `notional`."""
    return map(_EXACTLY.multiply, open_interest, mark_price)


def row(value: OpenInterest, received: int, mark: MarkPrice | None) -> Row:
    """Make the row of a value, for recordings and exports.

    Args:
        value: A value of the exchange.
        received: When the answer came, Unix ms.
        mark: The mark price of that symbol; None if the sweep did not read it.
    """
    price = None if mark is None else digits(mark.mark_price)
    return value.symbol, value.time, digits(value.open_interest), received, price


PastRow = tuple[str, int, str, str, str | None]
"""A row of the past: symbol, instant in Unix ms, open interest, notional, circulating supply."""


def past_row(row: HistoryRow) -> PastRow:
    """Make a row of the past, for tables and exports."""
    supply = row.circulating_supply
    amounts = digits(row.open_interest), digits(row.notional)
    return row.symbol, row.time, *amounts, None if supply is None else digits(supply)


InstantRow = tuple[str, int, int, str, str | None, str | None]
"""A row of the past in a recording: symbol, instant in Unix ms, source (see `SOURCES`), open
interest, notional, circulating supply. The last two are None if they are unknown."""

HISTORY, ARCHIVE = 1, 2
SOURCES: Mapping[int, str] = MappingProxyType({HISTORY: "history", ARCHIVE: "archive"})
"""The sources of rows of the past, by their numbers in a recording."""


PointRow = tuple[str, int, str, str | None, str | None, str]
"""A row of a series: symbol, instant in Unix ms, open interest, notional, circulating supply,
source. Notional and supply are None if they are unknown."""


def instant_row(row: HistoryRow) -> InstantRow:
    """Make a row of the exchange's history, for a recording."""
    symbol, time, value, notional, supply = past_row(row)
    return symbol, time, HISTORY, value, notional, supply


class Batch(NamedTuple):
    """Many rows, as one list per column."""

    symbol: list[str]
    """The symbols."""
    time: list[int]
    """The transaction times, Unix ms."""
    open_interest: list[str]
    """The open interests, in units of the base asset."""
    received: list[int]
    """When the answers came, Unix ms."""
    mark_price: list[str | None]
    """The mark prices, in units of the quote asset; None if the sweep did not read them."""

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Self:
        """Make a batch of rows."""
        if not rows:
            return cls([], [], [], [], [])
        symbol, time, value, received, mark = zip(*rows, strict=True)
        return cls(list(symbol), list(time), list(value), list(received), list(mark))

    def rows(self) -> Iterator[Row]:
        """Return the rows of the batch."""
        return zip(
            self.symbol, self.time, self.open_interest, self.received, self.mark_price, strict=True
        )


class OddRows:
    """Counts rows that an export omits or writes in part, and names the first ones."""

    def __init__(self) -> None:
        self.count: int = 0
        """The number of these rows."""
        self._named: list[str] = []

    def add(self, row: Row | PastRow | PointRow, why: str) -> None:
        """Count a row.

        Args:
            row: The odd row.
            why: The reason, as short text for people.
        """
        self.count += 1
        if len(self._named) < MAX_NAMED:
            symbol, time, *_ = row
            self._named.append(f"{printable(symbol, 60)} of {iso_ms(time)} ({why})")

    def warn(self, where: object, what: str = "rows are left out") -> None:
        """Log one warning if there are odd rows.

        Args:
            where: The file or other object that has the rows.
            what: What the export did with them.
        """
        if self.count:
            more = self.count - len(self._named)
            others = [f"and {more} more"] if more else []
            logger.warning("%s: odd %s: %s", where, what, ", ".join([*self._named, *others]))
