"""Open interest from Binance USDⓈ-M Futures, without ever being rate-limited or banned."""

import logging
from typing import TYPE_CHECKING

from binance_oi.lazy import on_first_use
from binance_oi.version import VERSION

if TYPE_CHECKING:
    from binance_oi.budget import MachineBudget, ProcessBudget
    from binance_oi.budget.redis import RedisBudget
    from binance_oi.budget.usage import Usage
    from binance_oi.client import OpenInterestClient
    from binance_oi.errors import (
        BannedError,
        BinanceOIError,
        BudgetExhaustedError,
        ClientClosedError,
        DecodeError,
        ForbiddenError,
        InvalidSymbolError,
        OccupiedError,
        RateLimitedError,
        Reason,
        RecordingError,
        ResponseError,
        ServerError,
        StorageError,
        SymbolNotTradingError,
        TransportError,
        TransportTimeoutError,
        UnknownSymbolError,
        WrongSymbolError,
    )
    from binance_oi.exchange.hosts import PRODUCTION, TESTNET
    from binance_oi.exchange.models import (
        ExchangeInfo,
        HistoryRow,
        OpenInterest,
        RateLimit,
        SymbolInfo,
    )
    from binance_oi.market.archive import Archive, ArchiveDay, ArchiveProgress
    from binance_oi.market.changes import Change, ChangeTracker, changes_of
    from binance_oi.market.gap import Gap
    from binance_oi.market.past import History, HistoryProgress, Instant
    from binance_oi.market.snapshot import Snapshot
    from binance_oi.recorder.backfill import backfill
    from binance_oi.sending.retry import RetryPolicy

__all__ = [  # noqa: RUF022 - in the order of `sorted`; tests/test_house.py checks it
    "Archive",
    "ArchiveDay",
    "ArchiveProgress",
    "BannedError",
    "BinanceOIError",
    "BudgetExhaustedError",
    "Change",
    "ChangeTracker",
    "ClientClosedError",
    "DecodeError",
    "ExchangeInfo",
    "ForbiddenError",
    "Gap",
    "History",
    "HistoryProgress",
    "HistoryRow",
    "Instant",
    "InvalidSymbolError",
    "MachineBudget",
    "OccupiedError",
    "OpenInterest",
    "OpenInterestClient",
    "PRODUCTION",
    "ProcessBudget",
    "RateLimit",
    "RateLimitedError",
    "Reason",
    "RecordingError",
    "RedisBudget",
    "ResponseError",
    "RetryPolicy",
    "ServerError",
    "Snapshot",
    "StorageError",
    "SymbolInfo",
    "SymbolNotTradingError",
    "TESTNET",
    "TransportError",
    "TransportTimeoutError",
    "UnknownSymbolError",
    "Usage",
    "WrongSymbolError",
    "backfill",
    "changes_of",
]
__version__ = VERSION

logging.getLogger("binance_oi").addHandler(logging.NullHandler())

if not TYPE_CHECKING:  # a type checker finds each name in the imports above
    __getattr__ = on_first_use(
        __name__,
        {
            "budget": ("MachineBudget", "ProcessBudget"),
            "budget.redis": ("RedisBudget",),
            "budget.usage": ("Usage",),
            "client": ("OpenInterestClient",),
            "errors": (
                "BannedError",
                "BinanceOIError",
                "BudgetExhaustedError",
                "ClientClosedError",
                "DecodeError",
                "ForbiddenError",
                "InvalidSymbolError",
                "OccupiedError",
                "RateLimitedError",
                "Reason",
                "RecordingError",
                "ResponseError",
                "ServerError",
                "StorageError",
                "SymbolNotTradingError",
                "TransportError",
                "TransportTimeoutError",
                "UnknownSymbolError",
                "WrongSymbolError",
            ),
            "exchange.hosts": ("PRODUCTION", "TESTNET"),
            "exchange.models": (
                "ExchangeInfo",
                "HistoryRow",
                "OpenInterest",
                "RateLimit",
                "SymbolInfo",
            ),
            "market.archive": ("Archive", "ArchiveDay", "ArchiveProgress"),
            "market.changes": ("Change", "ChangeTracker", "changes_of"),
            "market.gap": ("Gap",),
            "market.past": ("History", "HistoryProgress", "Instant"),
            "market.snapshot": ("Snapshot",),
            "recorder.backfill": ("backfill",),
            "sending.retry": ("RetryPolicy",),
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
