"""Describes the exchange: its facts and its answers, without I/O and without a clock.

symbols.py    which text can be a symbol
limits.py     an amount allowed in a span of seconds
models.py     the exchange's answers, as frozen structs
hosts.py      base URLs, and the pool and the source that each stands for
headers.py    reads numbers from headers
refusals.py   the exchange's refusals
decoding.py   turns bytes into models
routes.py     requests: path, weight, and the limit on which each draws
archive.py    the public archive: paths of its files, and their decoding
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
