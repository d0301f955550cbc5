"""Values of the past: rows of one symbol, and how far a run is.

The rule of this file: it has values only; other modules make them.
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
    """Rows of one symbol, oldest first, each instant once; `holes` has what is missing."""

    symbol: str
    period: str
    since: datetime
    """The first instant asked for (aware UTC)."""
    until: datetime
    """The last instant asked for (aware UTC)."""
    rows: tuple[HistoryRow, ...] = field(default=(), repr=False)
    holes: tuple[Gap, ...] = ()
    """Stretches without rows, oldest first, each from its first to its last missing row. The
    reason is ``too_old`` or ``no_row``."""
    complete_until: int
    """Unix ms up to which no further row can appear."""
    requests: int = 0
    """Requests that were charged for it and sent, including retries."""
    error: BinanceOIError | None = None
    """Why there are no rows; only `histories` yields a history with an error."""

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
    time: int
    """The instant, Unix ms."""
    source: str
    """``history`` or ``archive``."""
    open_interest: Decimal
    """In units of the base asset."""
    notional: Decimal | None
    """In units of the quote asset; None where it is unknown."""
    circulating_supply: Decimal | None
    """Of the base asset; None where it is unknown."""


class Instant(_Instant, Encodable):
    """The exchange's values for one instant of the past."""

    __slots__ = ()


class _Point(NamedTuple):
    symbol: str
    time: int
    """The instant, Unix ms: a multiple of the step of the series."""
    open_interest: Decimal
    """In units of the base asset."""
    notional: Decimal | None
    """In units of the quote asset; None where it is unknown."""
    circulating_supply: Decimal | None
    """Of the base asset; None where it is unknown, as in every sample."""
    source: str
    """``sample``, ``history`` or ``archive``."""


class Point(_Point, Encodable):
    """Open interest of one symbol at one instant, from the best source that has it."""

    __slots__ = ()


def instant_of(row: InstantRow) -> Instant:
    """A row of a recording as a value."""
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
    """Finished symbols, including failed ones."""
    symbols: int
    """All symbols of the run."""
    rows: int
    """Rows received."""
    requests: int
    """Requests charged."""
    seconds_left: float
    """The time that is left, at the pace so far or at that of the limit, whichever is slower."""


class HistoryProgress(_HistoryProgress, Encodable):
    """The progress of a run of `histories`."""

    __slots__ = ()
