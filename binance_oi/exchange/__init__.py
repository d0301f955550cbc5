"""What the exchange is: facts and shapes. No I/O, and no clock.

symbols.py    which text can be a symbol
limits.py     so much in so many seconds
models.py     what the exchange answers, as frozen structs
hosts.py      base URLs, and the budget and the source behind each
headers.py    numbers out of headers
refusals.py   what it says when it refuses
decoding.py   bytes to models
routes.py     paths, weights, and the limit that each draws on
"""

from binance_oi.exchange.hosts import PRODUCTION, TESTNET
from binance_oi.exchange.limits import Limit
from binance_oi.exchange.models import (
    ExchangeInfo,
    HistoryRow,
    MarkPrice,
    OpenInterest,
    RateLimit,
    SymbolInfo,
)

__all__ = [
    "PRODUCTION",
    "TESTNET",
    "ExchangeInfo",
    "HistoryRow",
    "Limit",
    "MarkPrice",
    "OpenInterest",
    "RateLimit",
    "SymbolInfo",
]
