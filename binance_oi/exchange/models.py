"""The exchange's answers, as frozen structs.

The rule of this file: it defines values, which users see. Their constructors decode nothing and
check nothing.

Marks: [D] documented by the exchange, [O] observed live, with the month.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated

import msgspec

from binance_oi.encoding import EncodableByKey
from binance_oi.exchange.limits import WEIGHT, Limit

MAX_LIMIT = 9_999_999  # weight per minute; the largest known is 15 000 [D] 2026-11
MAX_SPAN = 31 * 86_400  # s: the longest span of a limit; the longest known is a day [D] 2026-11
MAX_OTHERS = 8  # limits that we keep beside the weight per minute; two are known [D] 2026-11
# We choose `MAX_OTHERS` limits from at most this many, the tightest ones. We compare each pair of
# these, so without this bound a server that sends thousands could make the choice slow.
MAX_COMPARED = 64
MAX_TIME = 253_402_300_799_999  # Unix ms: the end of the year 9999, the last year of `datetime`
_WEIGHT = "REQUEST_WEIGHT"  # [D] 2026-11
OURS = (_WEIGHT, "RAW_REQUESTS")  # the types of limits on requests, not on orders [D] 2026-11
_MINUTE = (WEIGHT.seconds, WEIGHT.counts_requests)
_INTERVALS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86_400}  # [D] 2026-11, except HOUR
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Text = Annotated[str, msgspec.Meta(min_length=1)]


class OpenInterest(EncodableByKey, msgspec.Struct, frozen=True):
    """Open interest of one symbol."""

    symbol: str
    open_interest: Decimal
    """In units of the base asset, exactly as the exchange wrote it."""
    time: int
    """The transaction time, Unix ms. It is some seconds old; two calls may return the same time [O
    2026-09]."""

    @property
    def datetime(self) -> datetime:
        """`time` as aware UTC."""
        return _EPOCH + timedelta(milliseconds=self.time)


# `gc=False` saves the garbage collector thousands of visits; a row cannot be part of a cycle.
class HistoryRow(
    EncodableByKey,
    msgspec.Struct,
    frozen=True,
    gc=False,
    rename={
        "time": "timestamp",
        "open_interest": "sumOpenInterest",
        "notional": "sumOpenInterestValue",
        "circulating_supply": "CMCCirculatingSupply",
    },
):
    """Open interest of one symbol at one instant of the past, as the exchange keeps it."""

    symbol: str
    time: int
    """The instant of the row, Unix ms. The numbers are those of this instant, not averages. The
    exchange adds the row some 6 s later, and does not change it [O 2026-09-12]."""
    open_interest: Decimal
    """In units of the base asset, exactly as the exchange wrote it."""
    notional: Decimal
    """In units of the quote asset, exactly as the exchange wrote it."""
    circulating_supply: Decimal | None = None
    """The circulating supply of the base asset, which the exchange quotes from another source. None
    if the exchange omits it, or if we cannot decode it."""

    @property
    def datetime(self) -> datetime:
        """`time` as aware UTC."""
        return _EPOCH + timedelta(milliseconds=self.time)


class RateLimit(EncodableByKey, msgspec.Struct, frozen=True, rename="camel"):
    """One of the exchange's limits."""

    rate_limit_type: str
    interval: str
    interval_num: int
    limit: int

    @property
    def seconds(self) -> int | None:
        """The span of the limit; None if it is unknown or impossible."""
        seconds = _INTERVALS.get(self.interval, 0) * self.interval_num
        return seconds if 0 < seconds <= MAX_SPAN else None

    @property
    def is_ours(self) -> bool:
        """Whether it limits requests; other types limit orders."""
        return self.rate_limit_type in OURS

    @property
    def is_sane(self) -> bool:
        """Whether its span is known, and its amount is possible for that span."""
        minutes = max(1.0, (self.seconds or 0) / WEIGHT.seconds)
        return self.seconds is not None and 1 <= self.limit <= MAX_LIMIT * minutes


class SymbolInfo(EncodableByKey, msgspec.Struct, frozen=True, rename="camel"):
    """A listed symbol.

    Select symbols by `status`, not by `contract_type`: the exchange often adds new contract types.
    """

    symbol: _Text
    status: _Text
    """``TRADING`` symbols have open interest; delisted symbols stay in the list for years."""
    pair: str = ""
    contract_type: str = ""
    base_asset: str = ""
    quote_asset: str = ""
    margin_asset: str = ""
    onboard_date: int = 0
    """Unix ms."""
    delivery_date: int = 0
    """Unix ms; the year 2100 for perpetual contracts."""
    price_precision: int = 0
    """Decimal places of a price."""
    quantity_precision: int = 0
    """Decimal places of a quantity."""
    underlying_type: str = ""


class ExchangeInfo(EncodableByKey, msgspec.Struct, frozen=True, rename="camel"):
    """All listed symbols, and the limits."""

    symbols: tuple[SymbolInfo, ...]
    rate_limits: tuple[RateLimit, ...] = ()
    """All limits that can be decoded, of requests and of orders."""
    ignored_limits: tuple[str, ...] = ()
    """Limits on requests that the budget ignores, as the exchange wrote them.

    We cannot decode such a limit, or it is impossible, or it is too loose to be one of the eight
    `other_limits`. This tuple has the first eight ignored limits.
    """
    odd_rows: tuple[str, ...] = ()
    """The symbols with fields that we cannot decode, each with the names of these fields.

    If there are more than eight such symbols, a last text says ``and N more``. If one of the fields
    is the name or the status, `symbols` does not contain the row.
    """
    left_out: int = 0
    """The number of rows that `symbols` does not contain. If you miss a symbol in `symbols`, it may
    be one of them."""

    @property
    def trading(self) -> tuple[str, ...]:
        """Names of the trading symbols, each once, in the exchange's order."""
        return tuple(dict.fromkeys(s.symbol for s in self.symbols if s.status == "TRADING"))

    @property
    def weight_limit(self) -> int | None:
        """Weight allowed per minute and IP; None if the exchange announces no possible limit.

        If there are several such limits, it is the lowest. 60 seconds count as a minute too.
        """
        minute = (x.limit for x in self.rate_limits if x.is_sane and span_of(x) == _MINUTE)
        return min(minute, default=None)

    @property
    def other_limits(self) -> tuple[Limit, ...]:
        """The limits on requests other than the weight per minute, the tightest first.

        For each span, there are at most two: the lowest limit of weight, and the lowest limit of
        requests. In all there are at most eight. If the exchange announces more, the result first
        omits limits that another limit implies: 10 per second implies 600 per minute. If it must
        omit any other limit, `ignored_limits` has that limit.
        """
        return tuple(_kept(_least(self.rate_limits)))


def span_of(limit: RateLimit) -> tuple[int, bool]:
    """Return the span in s (0 if unknown), and whether the limit counts requests, not weight."""
    return limit.seconds or 0, limit.rate_limit_type != _WEIGHT


def _least(limits: Iterable[RateLimit]) -> list[Limit]:
    """Return the lowest sane limits of each span, the tightest first; no weight per minute."""
    least: dict[tuple[int, bool], int] = {}
    for limit in limits:
        if limit.is_ours and limit.is_sane and (span := span_of(limit)) != _MINUTE:
            least[span] = min(limit.limit, least.get(span, limit.limit))
    found = [Limit(seconds, most, requests) for (seconds, requests), most in least.items()]
    return sorted(found, key=lambda limit: limit.most / limit.seconds)


def _kept(limits: list[Limit]) -> list[Limit]:
    """Return at most `MAX_OTHERS` of `limits`, which are sorted with the tightest first."""
    kept = limits[:MAX_COMPARED]
    for limit in reversed(kept.copy()):
        if len(kept) > MAX_OTHERS and any(each.implies(limit) for each in kept if each != limit):
            kept.remove(limit)
    return kept[:MAX_OTHERS]


def not_kept(limits: Iterable[RateLimit]) -> set[Limit]:
    """Return the limits that the budget does not keep, and that no kept limit implies."""
    least = _least(limits)
    kept = _kept(least)
    return {limit for limit in least if not any(each.implies(limit) for each in kept)}


class MarkPrice(EncodableByKey, msgspec.Struct, frozen=True):
    """The mark price of one symbol."""

    symbol: str
    mark_price: Decimal
    """In units of the quote asset, exactly as the exchange wrote it."""
    time: int
    """Unix ms; 0 if the exchange sends no possible time."""
