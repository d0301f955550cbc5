"""Open interest from Binance USDⓈ-M Futures, without ever being rate-limited or banned."""

import logging

from binance_oi.budget import MachineBudget, ProcessBudget
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
from binance_oi.exchange.models import ExchangeInfo, HistoryRow, OpenInterest, RateLimit, SymbolInfo
from binance_oi.market.gap import Gap
from binance_oi.market.history import History, HistoryProgress
from binance_oi.market.snapshot import Snapshot
from binance_oi.sending.retry import RetryPolicy

__all__ = [  # noqa: RUF022 - the order of `sorted`, which needs no tool to know
    "BannedError",
    "BinanceOIError",
    "BudgetExhaustedError",
    "ClientClosedError",
    "DecodeError",
    "ExchangeInfo",
    "ForbiddenError",
    "Gap",
    "History",
    "HistoryProgress",
    "HistoryRow",
    "InvalidSymbolError",
    "MachineBudget",
    "OpenInterest",
    "OpenInterestClient",
    "PRODUCTION",
    "ProcessBudget",
    "RateLimit",
    "RateLimitedError",
    "Reason",
    "RecordingError",
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
]
__version__ = "0.1.0"

logging.getLogger("binance_oi").addHandler(logging.NullHandler())
