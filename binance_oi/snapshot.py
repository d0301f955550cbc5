"""The whole market at one moment, as far as single requests can show it.

The rule of this file: a value is never lost and never invented. What could not be read is in
`errors` under its symbol; the order is the one asked for; numbers stay exact.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TypedDict

from binance_oi.errors import BinanceOIError
from binance_oi.models import OpenInterest


class Columns(TypedDict):
    """A snapshot by column, in the order asked for."""

    symbol: list[str]
    open_interest: list[Decimal]
    time: list[int]


class Row(TypedDict):
    """One value of a snapshot."""

    symbol: str
    open_interest: Decimal
    time: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot(Mapping[str, OpenInterest]):
    """Open interest by symbol, in the order asked for; what failed is in `errors`.

    `len`, `in` and iteration are about the values that were read.
    """

    values_by_symbol: Mapping[str, OpenInterest] = field(repr=False)
    errors: Mapping[str, BinanceOIError]
    """What could not be read, by symbol, in the order asked for."""
    started: datetime
    """When it began (aware UTC, this machine's clock)."""
    finished: datetime
    """When the last answer came (aware UTC, this machine's clock)."""
    weight: int
    """Weight charged for it, retries and exchangeInfo included."""

    def __getitem__(self, symbol: str) -> OpenInterest:
        return self.values_by_symbol[symbol]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_symbol)

    def __len__(self) -> int:
        return len(self.values_by_symbol)

    @property
    def skew_ms(self) -> int:
        """Milliseconds between the oldest and the newest transaction time in it; 0 when empty."""
        times = [value.time for value in self.values()]
        return max(times) - min(times) if times else 0

    def to_dicts(self) -> list[Row]:
        """One dictionary for each value."""
        return [
            Row(symbol=v.symbol, open_interest=v.open_interest, time=v.time) for v in self.values()
        ]

    def to_columns(self) -> Columns:
        """One list for each field, ready for a data frame."""
        return Columns(
            symbol=[v.symbol for v in self.values()],
            open_interest=[v.open_interest for v in self.values()],
            time=[v.time for v in self.values()],
        )
