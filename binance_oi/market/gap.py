"""Slots of a schedule that have no snapshot, and the word that says why.

The rule of this file: a value that others make. What the words mean stands in `polling`.
"""

from typing import NamedTuple

from binance_oi.encoding import Encodable
from binance_oi.errors import (
    BannedError,
    BinanceOIError,
    BudgetExhaustedError,
    ForbiddenError,
    RateLimitedError,
    SymbolNotTradingError,
    UnknownSymbolError,
)
from binance_oi.times import instant, plain

REASONS: tuple[tuple[type[BinanceOIError], str], ...] = (
    (BannedError, "banned"),
    (RateLimitedError, "limited"),
    (BudgetExhaustedError, "budget"),
    (ForbiddenError, "forbidden"),
    (UnknownSymbolError, "unknown"),
    (SymbolNotTradingError, "not_trading"),
)


class _Gap(NamedTuple):
    first: int
    """The first slot missed, Unix ms."""
    last: int
    """The last slot missed, Unix ms; the same as `first` when it is one."""
    reason: str
    """One word: see `binance_oi.market.polling`, and of a history `binance_oi.market.history`."""
    detail: str = ""
    """What is known beyond the reason, for people."""


class Gap(_Gap, Encodable):
    """Slots of a schedule that have no snapshot, one after the other, for one reason.

    In a history they are instants that have no row.

    A gap is empty when the clock was set back: slots come a second time, and none is missing.
    `first` is then where the schedule goes on, and `last` the slot before it.
    """

    __slots__ = ()

    def __str__(self) -> str:
        ends = (self.first,) if self.last <= self.first else (self.first, self.last)
        span = " to ".join(f"{plain(instant(ms))}" for ms in ends)
        return f"{span} UTC: {self.reason}" + (f" ({self.detail})" if self.detail else "")


def follows(gap: Gap, before: Gap, period: int) -> bool:
    """Whether the two are one gap."""
    return gap.reason == before.reason and gap.first == before.last + period


def join(gaps: list[Gap], gap: Gap, period: int) -> None:
    """Add `gap` to those before it, as the end of the last one when the two are one gap."""
    if gaps and follows(gap, gaps[-1], period):
        gap = gaps.pop()._replace(last=gap.last)
    gaps.append(gap)


def reason(error: BinanceOIError) -> str:
    """The word for `error` in a gap."""
    return next((word for kind, word in REASONS if isinstance(error, kind)), "outage")
