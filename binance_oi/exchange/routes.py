"""Routes of the exchange: path, weight, limit, and decoder.

The rule of this file: each fact has its source beside it. Marks: [D] documented by the exchange,
[O] observed live, with the month.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Generic, TypeVar

from binance_oi.exchange.decoding import (
    HistoryPage,
    MarkPrices,
    decode_exchange_info,
    decode_history,
    decode_mark_prices,
    decode_open_interest,
    decode_server_time,
)
from binance_oi.exchange.limits import HISTORY, WEIGHT, Limit
from binance_oi.exchange.models import ExchangeInfo, OpenInterest

T = TypeVar("T")

MAX_ANSWER = 64 * 1024  # bytes, decoded; a real one has about 70
MAX_PAGE = 1024 * 1024  # bytes, decoded; 500 rows have about 90,000
MAX_LISTING = 16 * 1024 * 1024  # bytes, decoded; a real exchangeInfo has about 1 MB


@dataclass(frozen=True, slots=True, eq=False)
class Route(Generic[T]):
    """A kind of request. Two routes are never equal."""

    path: str
    """The path, without the base URL."""
    weight: int
    """What one request costs, in the unit of `limit`: weight, or requests."""
    decode: Callable[..., T]
    """Decodes a body. It is called with the body and the items of `Request.subject`."""
    max_bytes: int = MAX_ANSWER
    """The largest size of an uncompressed body; a larger one is an error."""
    limit: Limit = WEIGHT
    """The limit on which a request draws."""


@dataclass(frozen=True, slots=True, eq=False)
class Request(Generic[T]):
    """One request. It may be sent any number of times, so a caller that polls keeps it."""

    route: Route[T]
    params: Mapping[str, str] = field(default_factory=dict[str, str])
    subject: tuple[str, ...] = ()
    """The symbol that the answer must have, if any. On a reused connection, a late answer to
    another caller's request may come instead."""
    is_kept: bool = True
    """Whether to keep its URL in memory, because callers send this request again and again."""


OPEN_INTEREST = Route(  # [D] 2026-11, measured 1 [O 2026-10]
    "/fapi/v1/openInterest", 1, decode_open_interest
)
EXCHANGE_INFO = Route(  # [D] 2026-11; ignores ?symbol= [O 2026-10]
    "/fapi/v1/exchangeInfo", 1, decode_exchange_info, MAX_LISTING
)
SERVER_TIME = Route("/fapi/v1/time", 1, decode_server_time)  # [D] 2026-11
PREMIUM_INDEX = Route(  # [D] 2026-11; all symbols
    "/fapi/v1/premiumIndex", 10, decode_mark_prices, MAX_LISTING
)
PREMIUM_INDEX_OF_ONE = Route(  # [D] 2026-11; with ?symbol=
    "/fapi/v1/premiumIndex", 1, decode_mark_prices
)

OPEN_INTEREST_HISTORY = Route(  # [D] 2026-11
    "/futures/data/openInterestHist", 1, decode_history, MAX_PAGE, HISTORY
)
PERIODS: Mapping[str, int] = MappingProxyType(  # ms [D] 2026-11
    {
        name: minutes * 60_000
        for name, minutes in (
            *(("5m", 5), ("15m", 15), ("30m", 30), ("1h", 60), ("2h", 120), ("4h", 240)),
            *(("6h", 360), ("12h", 720), ("1d", 1440)),
        )
    }
)
MAX_ROWS = 500  # rows of a page, at most [D] 2026-11
KEPT_MS = 30 * 86_400_000  # ms; an older startTime gets status 400, code -1130 [O 2026-07 to 09]

LISTING: Request[ExchangeInfo] = Request(EXCHANGE_INFO)
MARK_PRICES: Request[MarkPrices] = Request(PREMIUM_INDEX)


@lru_cache(maxsize=4096)  # callers request a symbol again and again
def open_interest(symbol: str) -> Request[OpenInterest]:
    """Return the request for one symbol; `symbol` comes from `check_symbols`."""
    return Request(OPEN_INTEREST, {"symbol": symbol}, (symbol,))


def history_page(symbol: str, period: str, first: int, last: int) -> Request[HistoryPage]:
    """Return the request for the rows of one symbol from `first` to `last`, both included, Unix ms.

    The caller chooses bounds between which at most `MAX_ROWS` rows fit. So the exchange never has
    to omit rows of that span from its answer.
    """
    params = {
        "symbol": symbol,
        "period": period,
        "limit": str(MAX_ROWS),
        "startTime": str(first),
        "endTime": str(last),
    }
    return Request(OPEN_INTEREST_HISTORY, params, (symbol,), is_kept=False)
