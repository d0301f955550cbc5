"""The exchange's answers, as frozen structs.

The rule of this file: values that a user sees. They decode nothing and check nothing.

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
MAX_OTHERS = 8  # limits of other spans than a minute that are kept; two are known [D] 2026-11
MAX_TIME = 253_402_300_799_999  # ms: the end of the year 9999, the last of `datetime`
# The eight are chosen among these, the tightest first. Each is compared with each, so the answer
# must not decide how many they are.
MAX_COMPARED = 64
_WEIGHT = "REQUEST_WEIGHT"  # [D] 2026-11
OURS = (_WEIGHT, "RAW_REQUESTS")  # the types of limit on our requests [D] 2026-11
_MINUTE = (WEIGHT.seconds, WEIGHT.counts_requests)
_INTERVALS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86_400}  # [D] 2026-11; HOUR is not
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Text = Annotated[str, msgspec.Meta(min_length=1)]


class OpenInterest(EncodableByKey, msgspec.Struct, frozen=True):
    """Open interest of one symbol."""

    symbol: str
    open_interest: Decimal
    """In units of the base asset, exactly as the exchange wrote it."""
    time: int
    """Transaction time, Unix ms. Some seconds old; may stay the same over calls [O 2026-09]."""

    @property
    def datetime(self) -> datetime:
        """`time` as aware UTC."""
        return _EPOCH + timedelta(milliseconds=self.time)


# No row refers to anything that refers to it, so the collector need not visit thousands.
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
    """The instant of the row, Unix ms: the row has the value at this instant, not an average. It
    appears some 6 s later and does not change [O 2026-09-12]."""
    open_interest: Decimal
    """In units of the base asset, exactly as the exchange wrote it."""
    notional: Decimal
    """In units of the quote asset, exactly as the exchange wrote it."""
    circulating_supply: Decimal | None = None
    """Of the base asset, from a source of the exchange; None if the exchange omits it."""

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
        """The span of time of the limit; None when it is unknown or impossible."""
        seconds = _INTERVALS.get(self.interval, 0) * self.interval_num
        return seconds if 0 < seconds <= MAX_SPAN else None

    @property
    def is_ours(self) -> bool:
        """Whether it limits our requests; other types limit orders."""
        return self.rate_limit_type in OURS

    @property
    def is_sane(self) -> bool:
        """Whether its span is known, and the amount is possible in that span."""
        minutes = max(1.0, (self.seconds or 0) / WEIGHT.seconds)
        return self.seconds is not None and 1 <= self.limit <= MAX_LIMIT * minutes


class SymbolInfo(EncodableByKey, msgspec.Struct, frozen=True, rename="camel"):
    """A listed symbol. Select by `status`: new contract types appear all the time."""

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
    """Everything that is listed, and the limits."""

    symbols: tuple[SymbolInfo, ...]
    rate_limits: tuple[RateLimit, ...] = ()
    """All limits that can be decoded, of requests and of orders."""
    ignored_limits: tuple[str, ...] = ()
    """Limits of our requests that the budget ignores, as the exchange wrote them.

    They cannot be decoded, are impossible, or are the loosest of more than eight other spans.
    """
    odd_rows: tuple[str, ...] = ()
    """The symbols with a field that cannot be decoded, each with the names of these fields.

    Symbols with an odd name or status are left out of `symbols`. The first eight are named, and the
    others counted.
    """
    left_out: int = 0
    """The number of rows left out; a symbol that is missing in `symbols` may be one of them."""

    @property
    def trading(self) -> tuple[str, ...]:
        """Names of the trading symbols, each once, in the exchange's order."""
        return tuple(dict.fromkeys(s.symbol for s in self.symbols if s.status == "TRADING"))

    @property
    def weight_limit(self) -> int | None:
        """Weight allowed per minute and IP: the least sane limit announced; None without one.

        A span of 60 s is a minute, whatever its unit.
        """
        minute = (x.limit for x in self.rate_limits if x.is_sane and span_of(x) == _MINUTE)
        return min(minute, default=None)

    @property
    def other_limits(self) -> tuple[Limit, ...]:
        """The least limit for each other span, of weight and of requests; the tightest first.

        At most eight. Limits that others imply are left out first: 10 in a second imply 600 in a
        minute. The remaining excess is in `ignored_limits`.
        """
        return tuple(_kept(_least(self.rate_limits)))


def span_of(limit: RateLimit) -> tuple[int, bool]:
    """The span in seconds, and whether the limit counts requests instead of weight."""
    return limit.seconds or 0, limit.rate_limit_type != _WEIGHT


def _least(limits: Iterable[RateLimit]) -> list[Limit]:
    """The least sane limit for each span except the minute's; the tightest first."""
    least: dict[tuple[int, bool], int] = {}
    for limit in limits:
        if limit.is_ours and limit.is_sane and (span := span_of(limit)) != _MINUTE:
            least[span] = min(limit.limit, least.get(span, limit.limit))
    found = [Limit(seconds, most, requests) for (seconds, requests), most in least.items()]
    return sorted(found, key=lambda limit: limit.most / limit.seconds)


def _kept(limits: list[Limit]) -> list[Limit]:
    """At most `MAX_OTHERS` of `limits`, which are sorted with the tightest first."""
    kept = limits[:MAX_COMPARED]
    for limit in reversed(kept.copy()):
        if len(kept) > MAX_OTHERS and any(each.implies(limit) for each in kept if each != limit):
            kept.remove(limit)
    return kept[:MAX_OTHERS]


def not_kept(limits: Iterable[RateLimit]) -> set[Limit]:
    """The limits that are not among the kept ones and that no kept limit implies."""
    least = _least(limits)
    kept = _kept(least)
    return {limit for limit in least if not any(each.implies(limit) for each in kept)}


class MarkPrice(EncodableByKey, msgspec.Struct, frozen=True):
    """The mark price of one symbol."""

    symbol: str
    mark_price: Decimal
    """In units of the quote asset, exactly as the exchange wrote it."""
    time: int
    """Unix ms; 0 when the exchange names no possible time."""
