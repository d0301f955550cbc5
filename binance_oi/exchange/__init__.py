"""Describes the exchange: facts and shapes, without I/O and without a clock.

symbols.py    which text can be a symbol
limits.py     an amount allowed in a span of seconds
models.py     the exchange's answers, as frozen structs
hosts.py      base URLs, and the budget and the source behind each
headers.py    numbers out of headers
refusals.py   the exchange's refusals
decoding.py   bytes to models
routes.py     paths, weights, and the limit that each draws on
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
