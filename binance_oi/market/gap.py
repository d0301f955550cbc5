"""Describes slots of a schedule that have no snapshot, with one word for the reason.

The rule of this file: a `Gap` is a plain value. `polling` explains the reasons of a poll.
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
    """The last slot missed, Unix ms; the same as `first` if the gap is one slot."""
    reason: str
    """One word. `binance_oi.market.polling` explains the reasons of a poll,
    `binance_oi.market.history` and `binance_oi.market.archive` those of holes in the past."""
    detail: str = ""
    """More about the reason, as text for people."""


class Gap(_Gap, Encodable):
    """Consecutive slots of a schedule that have no snapshot, for one reason.

    In a history, the slots are instants that have no row.

    If someone sets the clock back, slots occur a second time, and none is missing. Then the gap is
    empty: its `first` is the slot with which the schedule continues, and its `last` is the slot
    before that.
    """

    __slots__ = ()

    def __str__(self) -> str:
        ends = (self.first,) if self.last <= self.first else (self.first, self.last)
        span = " to ".join(f"{plain(instant(ms))}" for ms in ends)
        return f"{span} UTC: {self.reason}" + (f" ({self.detail})" if self.detail else "")


def follows(gap: Gap, before: Gap, period: int) -> bool:
    """Whether `gap` continues `before`, so that the two are one gap."""
    return gap.reason == before.reason and gap.first == before.last + period


def add_gap(gaps: list[Gap], gap: Gap, period: int) -> None:
    """Append `gap` to `gaps`, or extend the last gap if `gap` continues it."""
    if gaps and follows(gap, gaps[-1], period):
        gap = gaps.pop()._replace(last=gap.last)
    gaps.append(gap)


def gap_reason(error: BinanceOIError) -> str:
    """Return the word for `error` in a gap."""
    return next((word for kind, word in REASONS if isinstance(error, kind)), "outage")
