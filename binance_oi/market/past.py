"""Defines the values that describe the past of symbols, and the progress of `histories`.

The rule of this file: it only defines values. Other modules make them, except that `instant_of`
makes an `Instant`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, overload

from binance_oi.encoding import Encodable
from binance_oi.errors import BinanceOIError
from binance_oi.exchange.models import HistoryRow
from binance_oi.market.gap import Gap
from binance_oi.market.rows import SOURCES, InstantRow


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class History(Sequence[HistoryRow], Encodable):
    """Rows of one symbol, oldest first, each instant once; `holes` has the missing instants."""

    symbol: str
    """The symbol."""
    period: str
    """The time between rows, such as ``5m``."""
    since: datetime
    """The first requested instant (aware UTC)."""
    until: datetime
    """The last requested instant (aware UTC)."""
    rows: tuple[HistoryRow, ...] = field(default=(), repr=False)
    """The rows. Iteration over the history yields the same rows."""
    holes: tuple[Gap, ...] = ()
    """The stretches without rows, oldest first, each from its first to its last missing instant.
    The reason is ``too_old`` or ``no_row``."""
    complete_until: int
    """The instant (Unix ms) up to which no further row can appear."""
    requests: int = 0
    """How many requests were sent for this history, retries included; 0 if there is an `error`."""
    error: BinanceOIError | None = None
    """Why there are no rows. Only `histories` yields a history with an error."""

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[HistoryRow]:
        return iter(self.rows)

    @overload
    def __getitem__(self, index: int) -> HistoryRow: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[HistoryRow, ...]: ...
    def __getitem__(self, index: int | slice) -> HistoryRow | tuple[HistoryRow, ...]:
        return self.rows[index]


class _Instant(NamedTuple):
    symbol: str
    """The symbol."""
    time: int
    """The instant, Unix ms."""
    source: str
    """``history`` or ``archive``."""
    open_interest: Decimal
    """The open interest, in units of the base asset."""
    notional: Decimal | None
    """The open interest in units of the quote asset; None if it is unknown."""
    circulating_supply: Decimal | None
    """The circulating supply of the base asset; None if it is unknown."""


class Instant(_Instant, Encodable):
    """The exchange's values for one instant of the past."""

    __slots__ = ()


class _Point(NamedTuple):
    symbol: str
    """The symbol."""
    time: int
    """The instant, Unix ms: a multiple of the step of the series."""
    open_interest: Decimal
    """The open interest, in units of the base asset."""
    notional: Decimal | None
    """The open interest in units of the quote asset; None if it is unknown."""
    circulating_supply: Decimal | None
    """The circulating supply of the base asset; None if it is unknown, as in every sample."""
    source: str
    """``sample`` (a value that a recorder polled), ``history`` or ``archive``."""


class Point(_Point, Encodable):
    """Open interest of one symbol at one instant, from the best source that has it."""

    __slots__ = ()


def instant_of(row: InstantRow) -> Instant:
    """Convert a row of a recording to an `Instant`."""
    symbol, time, source, value, notional, supply = row
    return Instant(
        symbol,
        time,
        SOURCES[source],
        Decimal(value),
        None if notional is None else Decimal(notional),
        None if supply is None else Decimal(supply),
    )


class _HistoryProgress(NamedTuple):
    done: int
    """The number of finished symbols, failed ones included."""
    symbols: int
    """The number of all symbols of the run."""
    rows: int
    """The number of rows of the finished symbols."""
    requests: int
    """The number of requests for the finished symbols."""
    seconds_left: float
    """The estimated seconds left, at the pace so far or at the limit, whichever is slower."""


class HistoryProgress(_HistoryProgress, Encodable):
    """The progress of a run of `histories`."""

    __slots__ = ()
