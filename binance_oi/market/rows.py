"""One observation as a row, and many rows by column.

The rule of this file: only this file turns a value into a row. A number keeps every digit that the
exchange wrote, and is never a float.
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
# The decoder allows 60 digits. The product of two such numbers has 120, and is never rounded.
_EXACTLY = Context(prec=120)

Row = tuple[str, int, str, int, str | None]
"""Symbol, transaction time, open interest, when the answer came, mark price; times in Unix ms."""


def digits(number: Decimal) -> str:
    """Write a number with the exchange's digits; `str` would write ``1E-8``."""
    return f"{number:f}"


def notional(open_interest: Decimal, mark_price: Decimal) -> Decimal:
    """Open interest times mark price, exact: in units of the quote asset."""
    return _EXACTLY.multiply(open_interest, mark_price)


def notionals(open_interest: Iterable[Decimal], mark_price: Iterable[Decimal]) -> Iterator[Decimal]:
    """The notional of each pair, in half the time of single calls of `notional`."""
    return map(_EXACTLY.multiply, open_interest, mark_price)


def row(value: OpenInterest, received: int, mark: MarkPrice | None) -> Row:
    """Make the row of a value, for recordings and exports.

    Args:
        value: A value of the exchange.
        received: When the answer came, Unix ms.
        mark: The mark price of that symbol; None when the sweep did not read it.
    """
    price = None if mark is None else digits(mark.mark_price)
    return value.symbol, value.time, digits(value.open_interest), received, price


PastRow = tuple[str, int, str, str, str | None]
"""Symbol, instant in Unix ms, open interest, notional, circulating supply: of the past."""


def past_row(row: HistoryRow) -> PastRow:
    """A row of the past as it is shown and exported."""
    supply = row.circulating_supply
    amounts = digits(row.open_interest), digits(row.notional)
    return row.symbol, row.time, *amounts, None if supply is None else digits(supply)


InstantRow = tuple[str, int, int, str, str | None, str | None]
"""Symbol, instant in Unix ms, source (see `SOURCES`), open interest, notional, circulating supply:
a row of the past as a recording keeps it. The last two are None where they are unknown."""

HISTORY, ARCHIVE = 1, 2
SOURCES: Mapping[int, str] = MappingProxyType({HISTORY: "history", ARCHIVE: "archive"})
"""Where a row of the past comes from, by its number in a recording."""


PointRow = tuple[str, int, str, str | None, str | None, str]
"""Symbol, instant in Unix ms, open interest, notional, circulating supply, source: a row of a
series as it is shown and exported. Notional and supply are None where they are unknown."""


def instant_row(row: HistoryRow) -> InstantRow:
    """A row of the exchange's history as a recording keeps it."""
    symbol, time, value, notional, supply = past_row(row)
    return symbol, time, HISTORY, value, notional, supply


class Batch(NamedTuple):
    """Rows by column."""

    symbol: list[str]
    time: list[int]
    """Transaction times, Unix ms."""
    open_interest: list[str]
    received: list[int]
    """When the answers came, Unix ms."""
    mark_price: list[str | None]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Self:
        """Make a batch of rows."""
        if not rows:
            return cls([], [], [], [], [])
        symbol, time, value, received, mark = zip(*rows, strict=True)
        return cls(list(symbol), list(time), list(value), list(received), list(mark))

    def rows(self) -> Iterator[Row]:
        """The rows of the batch."""
        return zip(
            self.symbol, self.time, self.open_interest, self.received, self.mark_price, strict=True
        )


class OddRows:
    """Rows that are left out, or written in part: their number, and the names of the first ones."""

    def __init__(self) -> None:
        self.count: int = 0
        self._named: list[str] = []

    def add(self, row: Row | PastRow | PointRow, why: str) -> None:
        """Count a row.

        Args:
            row: The odd row.
            why: The reason, in a few words for people.
        """
        self.count += 1
        if len(self._named) < MAX_NAMED:
            symbol, time, *_ = row
            self._named.append(f"{printable(symbol, 60)} of {iso_ms(time)} ({why})")

    def warn(self, where: object, what: str = "rows are left out") -> None:
        """Log one warning if there are odd rows.

        Args:
            where: The file or object that they belong to.
            what: What happened to them.
        """
        if self.count:
            more = self.count - len(self._named)
            others = [f"and {more} more"] if more else []
            logger.warning("%s: odd %s: %s", where, what, ", ".join([*self._named, *others]))
