"""The whole market at one moment, as far as single requests can show it.

The rule of this file: a value is never lost and never invented. What could not be read is in
`errors` under its symbol; the order is the one asked for; numbers stay exact.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Context, Decimal
from typing import NamedTuple, TypedDict

from binance_oi.errors import BinanceOIError
from binance_oi.exchange.models import MarkPrice, OpenInterest
from binance_oi.market import arrow

# Two numbers of 60 digits each have a product of 120: with these it is never rounded.
_EXACTLY = Context(prec=120)


class Gap(NamedTuple):
    """Slots of a schedule that have no snapshot, one after the other, for one reason.

    A gap is empty when the clock was set back: slots come a second time, and none is missing.
    `first` is then where the schedule goes on, and `last` the slot before it.
    """

    first: int
    """The first slot missed, Unix ms."""
    last: int
    """The last slot missed, Unix ms; the same as `first` when it is one."""
    reason: str
    """One word: see `binance_oi.market.polling`."""
    detail: str = ""
    """What is known beyond the reason, for people."""

    def __str__(self) -> str:
        ends = (self.first,) if self.last <= self.first else (self.first, self.last)
        span = " to ".join(f"{datetime.fromtimestamp(ms / 1000, UTC):%F %T}" for ms in ends)
        return f"{span} UTC: {self.reason}" + (f" ({self.detail})" if self.detail else "")


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
    """Weight charged for it, retries and exchangeInfo included; not what was never sent."""
    received_ms: Mapping[str, int] = field(default_factory=dict[str, int], repr=False)
    """When each answer came, by symbol (Unix ms, this machine's clock)."""
    mark_prices: Mapping[str, MarkPrice] = field(default_factory=dict[str, MarkPrice], repr=False)
    """Mark prices by symbol; empty unless `notional` was asked for."""
    notional_error: BinanceOIError | None = None
    """Why there are no mark prices although they were asked for."""
    slot: datetime | None = None
    """The instant of the schedule that it is for (aware UTC); None outside of `poll`."""
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
            symbol: _EXACTLY.multiply(value.open_interest, self.mark_prices[symbol].mark_price)
            for symbol, value in self.items()
            if symbol in self.mark_prices
        }

    def to_dicts(self) -> list[Row]:
        """One dictionary for each value."""
        return [
            Row(symbol=v.symbol, open_interest=v.open_interest, time=v.time) for v in self.values()
        ]

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The values for anything that reads Arrow: ``pyarrow.table(snapshot)``, polars, DuckDB.

        Decimals are exact, times are UTC.

        Raises:
            ModuleNotFoundError: pyarrow is missing; it comes with the extra `parquet`.
            ValueError: A number has more than 20 digits before the point or 18 after it.
        """
        return arrow.stream(lambda: [self._batch()], requested_schema)

    def _batch(self) -> arrow.Batch:
        finished = int(self.finished.timestamp() * 1000)
        marks = [self.mark_prices.get(symbol) for symbol in self]
        return arrow.Batch(
            symbol=list(self),
            time=[v.time for v in self.values()],
            open_interest=[f"{v.open_interest:f}" for v in self.values()],
            received=[self.received_ms.get(symbol, finished) for symbol in self],
            mark_price=[None if m is None else f"{m.mark_price:f}" for m in marks],
        )

    def to_columns(self) -> Columns:
        """One list for each field, ready for a data frame."""
        return Columns(
            symbol=[v.symbol for v in self.values()],
            open_interest=[v.open_interest for v in self.values()],
            time=[v.time for v in self.values()],
        )
