"""One observation as a row, and many of them by column.

The rule of this file: the one place where a value becomes a row. A number leaves as the exchange
wrote it, digit by digit, and never as a float.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple, Self

from binance_oi.exchange.models import MarkPrice, OpenInterest

Row = tuple[str, int, str, int, str | None]
"""Symbol, transaction time, open interest, when the answer came, mark price; times in Unix ms."""


def digits(number: Decimal) -> str:
    """A number as the exchange wrote it; `str` would write ``1E-8``."""
    return f"{number:f}"


def row(value: OpenInterest, received: int, mark: MarkPrice | None) -> Row:
    """A value as it is recorded and exported.

    Args:
        value: What the exchange answered.
        received: When the answer came, Unix ms.
        mark: The mark price of that symbol; None when it was not asked for.
    """
    price = None if mark is None else digits(mark.mark_price)
    return value.symbol, value.time, digits(value.open_interest), received, price


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
