"""One observation as a row, and many of them by column.

The rule of this file: the one place where a value becomes a row. A number leaves as the exchange
wrote it, digit by digit, and never as a float.
"""

import logging
from collections.abc import Iterator, Sequence
from decimal import Context, Decimal
from typing import NamedTuple, Self

from binance_oi.errors import printable
from binance_oi.exchange.models import HistoryRow, MarkPrice, OpenInterest
from binance_oi.times import iso_ms

logger: logging.Logger = logging.getLogger("binance_oi")

MAX_NAMED = 3  # odd rows that a warning names; of the others it says how many they are
# Two numbers of 60 digits each have a product of 120: with these it is never rounded.
_EXACTLY = Context(prec=120)

Row = tuple[str, int, str, int, str | None]
"""Symbol, transaction time, open interest, when the answer came, mark price; times in Unix ms."""


def digits(number: Decimal) -> str:
    """A number as the exchange wrote it; `str` would write ``1E-8``."""
    return f"{number:f}"


def notional(open_interest: Decimal, mark_price: Decimal) -> Decimal:
    """Open interest in units of the quote asset, exact to the last digit."""
    return _EXACTLY.multiply(open_interest, mark_price)


def row(value: OpenInterest, received: int, mark: MarkPrice | None) -> Row:
    """A value as it is recorded and exported.

    Args:
        value: What the exchange answered.
        received: When the answer came, Unix ms.
        mark: The mark price of that symbol; None when it was not asked for.
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
        """Rows by column."""
        if not rows:
            return cls([], [], [], [], [])
        symbol, time, value, received, mark = zip(*rows, strict=True)
        return cls(list(symbol), list(time), list(value), list(received), list(mark))

    def rows(self) -> Iterator[Row]:
        """The same row by row."""
        return zip(
            self.symbol, self.time, self.open_interest, self.received, self.mark_price, strict=True
        )


class OddRows:
    """Rows of which something is left out: how many, and the first ones by name."""

    def __init__(self) -> None:
        self.count: int = 0
        self._named: list[str] = []

    def add(self, row: Row | PastRow, why: str) -> None:
        """One more.

        Args:
            row: The row.
            why: A few words for people.
        """
        self.count += 1
        if len(self._named) < MAX_NAMED:
            symbol, time, *_ = row
            self._named.append(f"{printable(symbol, 60)} of {iso_ms(time)} ({why})")

    def tell(self, where: object, what: str = "rows are left out") -> None:
        """Warn, if there are any.

        Args:
            where: Of which file or object they are.
            what: What became of them.
        """
        if self.count:
            more = self.count - len(self._named)
            others = [f"and {more} more"] if more else []
            logger.warning("%s: odd %s: %s", where, what, ", ".join([*self._named, *others]))
