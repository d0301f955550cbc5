"""Shows the whole market at one moment, as far as one request for each symbol can do so.

The rule of this file: each requested symbol has either its value or its error. Symbols keep the
order of the request, and numbers stay exact.
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
    """A snapshot by column, in the order of the request."""

    symbol: list[str]
    open_interest: list[Decimal]
    time: list[int]


class Value(TypedDict):
    """One value of a snapshot, ready for JSON."""

    symbol: str
    open_interest: str
    """The open interest, with the digits that the exchange sent."""
    time: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot(Mapping[str, OpenInterest], Encodable):
    """Open interest by symbol, in the order of the request.

    It is a mapping of the symbols that have a value. `errors` has the other symbols.
    """

    values_by_symbol: Mapping[str, OpenInterest] = field(repr=False)
    """The values by symbol; the same as the snapshot itself."""
    errors: Mapping[str, BinanceOIError]
    """The error of each symbol that has no value, by symbol, in the order of the request."""
    started: datetime
    """When the sweep began (aware UTC, this machine's clock)."""
    finished: datetime
    """When the sweep ended (aware UTC, this machine's clock)."""
    weight: int
    """The weight of all requests of the sweep, retries and exchangeInfo included. If several calls
    share a sweep, the snapshot of each has this whole weight."""
    received_ms: Mapping[str, int] = field(default_factory=dict[str, int], repr=False)
    """When each answer came, by symbol (Unix ms, this machine's clock)."""
    mark_prices: Mapping[str, MarkPrice] = field(default_factory=dict[str, MarkPrice], repr=False)
    """Mark prices by symbol; empty without `notional=True`."""
    notional_error: BinanceOIError | None = None
    """Why `mark_prices` is empty although the caller set `notional=True`; otherwise None."""
    slot: datetime | None = None
    """The slot of the schedule (aware UTC); None outside of `poll`."""
    next_slot: datetime | None = None
    """When the next snapshot is due (aware UTC); None outside of `poll`."""
    unchanged: frozenset[str] = frozenset()
    """Symbols whose `time` is not later than in an earlier snapshot, so that their value is not
    new."""
    missed: tuple[Gap, ...] = ()
    """The slots without a snapshot since the previous snapshot, with the reasons.

    An empty gap with the reason `clock` means that someone set the clock back, so slots repeat.
    """

    def __getitem__(self, symbol: str) -> OpenInterest:
        return self.values_by_symbol[symbol]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_symbol)

    def __len__(self) -> int:
        return len(self.values_by_symbol)

    @property
    def skew_ms(self) -> int:
        """Milliseconds from the oldest to the newest transaction time; 0 for an empty snapshot."""
        times = [value.time for value in self.values()]
        return max(times) - min(times) if times else 0

    @property
    def notional(self) -> dict[str, Decimal]:
        """Open interest in units of the quote asset, by symbol: open interest times mark price.

        The products are exact. Symbols without a value or without a mark price are absent.
        """
        return {
            symbol: notional(value.open_interest, self.mark_prices[symbol].mark_price)
            for symbol, value in self.items()
            if symbol in self.mark_prices
        }

    def to_dicts(self) -> list[Value]:
        """Return one dictionary for each value, ready for any JSON encoder.

        `to_columns` returns decimals instead of text. `to_dict` adds errors, times and gaps.
        """
        return [
            Value(symbol=v.symbol, open_interest=digits(v.open_interest), time=v.time)
            for v in self.values()
        ]

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Export the values to any library that reads Arrow, as in ``pyarrow.table(snapshot)``.

        Decimals are exact, and times are UTC. If there are mark prices, there is a column
        `notional`. The stream omits a row if a number has more than 20 digits before the point, or
        more than 18 after it. If only the notional is too long, it is null. Warnings report both.

        Raises:
            ModuleNotFoundError: pyarrow is not installed; the extra `parquet` installs it.
        """
        batch = Batch.of(list(self.rows()))
        return arrow.stream([batch], arrow.Columns.of([batch]), "snapshot", requested_schema)

    def rows(self) -> Iterator[Row]:
        """Yield the values as plain rows, in the order of the request.

        The field `received` is the time of the answer; if that is unknown, the end of the sweep.
        """
        finished = unix_ms(self.finished)
        for symbol, value in self.items():
            yield row(value, self.received_ms.get(symbol, finished), self.mark_prices.get(symbol))

    def to_columns(self) -> Columns:
        """Return one list per field, as the constructor of a data frame takes it."""
        return Columns(
            symbol=[v.symbol for v in self.values()],
            open_interest=[v.open_interest for v in self.values()],
            time=[v.time for v in self.values()],
        )
