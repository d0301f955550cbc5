"""The whole market at one moment, as far as single requests can show it.

The rule of this file: a value is never lost and never invented. What could not be read is in
`errors` under its symbol; the order is the one asked for; numbers stay exact.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TypedDict

from binance_oi.encoding import Encodable
from binance_oi.errors import BinanceOIError
from binance_oi.exchange.models import MarkPrice, OpenInterest
from binance_oi.market import arrow
from binance_oi.market.gap import Gap
from binance_oi.market.rows import Batch, Row, digits, notional, row
from binance_oi.times import unix_ms


class Columns(TypedDict):
    """A snapshot by column, in the order asked for."""

    symbol: list[str]
    open_interest: list[Decimal]
    time: list[int]


class Value(TypedDict):
    """One value of a snapshot, ready for JSON."""

    symbol: str
    open_interest: str
    """With the exchange's digits."""
    time: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot(Mapping[str, OpenInterest], Encodable):
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
    """Weight charged for it, retries and exchangeInfo included; not what was never sent. Polls that
    share a snapshot share its weight as well."""
    received_ms: Mapping[str, int] = field(default_factory=dict[str, int], repr=False)
    """When each answer came, by symbol (Unix ms, this machine's clock)."""
    mark_prices: Mapping[str, MarkPrice] = field(default_factory=dict[str, MarkPrice], repr=False)
    """Mark prices by symbol; empty unless `notional` was asked for."""
    notional_error: BinanceOIError | None = None
    """Why there are no mark prices although they were asked for."""
    slot: datetime | None = None
    """The instant of the schedule that it is for (aware UTC); None outside of `poll`."""
    next_slot: datetime | None = None
    """When the next one is due (aware UTC); None outside of `poll`."""
    unchanged: frozenset[str] = frozenset()
    """Symbols whose `time` has not moved since the snapshot before it: no new observation."""
    missed: tuple[Gap, ...] = ()
    """Slots between the snapshot before it and this one, and why they have none.

    An empty gap `clock` among them says that the clock was set back, and slots come again.
    """

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

    @property
    def notional(self) -> dict[str, Decimal]:
        """Open interest in units of the quote asset: exactly open interest times mark price.

        Has the symbols that were read and have a mark price.
        """
        return {
            symbol: notional(value.open_interest, self.mark_prices[symbol].mark_price)
            for symbol, value in self.items()
            if symbol in self.mark_prices
        }

    def to_dicts(self) -> list[Value]:
        """One dictionary for each value, ready for any JSON encoder; see `to_columns` for numbers.

        `to_dict` has the errors, the times and the gaps as well.
        """
        return [
            Value(symbol=v.symbol, open_interest=digits(v.open_interest), time=v.time)
            for v in self.values()
        ]

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The values for anything that reads Arrow: ``pyarrow.table(snapshot)``, polars, DuckDB.

        Decimals are exact, times are UTC. With mark prices there is a column `notional`. A row with
        more than 20 digits before the point or 18 after it is left out, with a warning.

        Raises:
            ModuleNotFoundError: pyarrow is missing; it comes with the extra `parquet`.
        """
        batch = Batch.of(list(self.rows()))
        return arrow.stream([batch], arrow.Columns.of([batch]), "snapshot", requested_schema)

    def rows(self) -> Iterator[Row]:
        """The values as rows, in the order asked for.

        One whose answer has no time of its own has the end of the sweep.
        """
        finished = unix_ms(self.finished)
        for symbol, value in self.items():
            yield row(value, self.received_ms.get(symbol, finished), self.mark_prices.get(symbol))

    def to_columns(self) -> Columns:
        """One list for each field, ready for a data frame."""
        return Columns(
            symbol=[v.symbol for v in self.values()],
            open_interest=[v.open_interest for v in self.values()],
            time=[v.time for v in self.values()],
        )
