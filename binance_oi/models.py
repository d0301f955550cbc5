"""What the exchange answers, as frozen structs, and the decoders that check it.

The rule of this file: no I/O, and nothing is believed. A decoder returns exactly what the exchange
said, or raises an exception of ours, whatever the bytes are. Numbers are taken as text and must be
plain ASCII digits first: `Decimal` itself takes ``NaN``, ``1_000``, ``1E+999999999`` and digits of
any script.
"""

import re
import unicodedata
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TypeVar

import msgspec

from binance_oi.errors import (
    BannedError,
    DecodeError,
    ForbiddenError,
    InvalidSymbolError,
    RateLimitedError,
    ResponseError,
    ServerError,
    SymbolNotTradingError,
    UnknownSymbolError,
    WrongSymbolError,
    printable,
)

T = TypeVar("T")

MAX_SYMBOL = 50  # characters; the exchange's own pattern ends there [O 2025-12, spot]
MAX_TIME = 253_402_300_799_999  # ms: the end of the year 9999, the last that datetime knows
NOT_TRADING, UNKNOWN, TOO_MANY = -4108, -1121, -1003
SERVER_SIDE = frozenset({-1000, -1001, -1006, -1007, -1008})
UNKNOWN_HOLD = timedelta(seconds=60)  # 429 that names no time: the minute turns
UNKNOWN_BAN = timedelta(seconds=120)  # 418 that names no time: the shortest one [D]

_NUMBER = re.compile(r"[0-9]{1,30}(?:\.[0-9]{1,30})?", re.ASCII)
_ASCII_SYMBOL = re.compile(r"[A-Z0-9_]{1,50}", re.ASCII)
_BANNED = re.compile(r"banned until ([0-9]{13})(?![0-9])", re.ASCII)
_LIMIT = re.compile(r"current limit(?: of IP\([^)]{0,60}\))? is ([0-9]{1,7}) ", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class OpenInterest(msgspec.Struct, frozen=True):
    """Open interest of one symbol."""

    symbol: str
    open_interest: Decimal
    """In units of the base asset, exactly as the exchange wrote it."""
    time: int
    """Transaction time, Unix ms. Some seconds old; does not advance on every call [O 2026-09]."""

    @property
    def datetime(self) -> datetime:
        """`time` as aware UTC."""
        return _EPOCH + timedelta(milliseconds=self.time)


class RateLimit(msgspec.Struct, frozen=True, rename="camel"):
    """One of the exchange's limits."""

    rate_limit_type: str
    interval: str
    interval_num: int
    limit: int


class SymbolInfo(msgspec.Struct, frozen=True, rename="camel"):
    """A listed symbol. Select by `status`: new contract types appear all the time."""

    symbol: str
    status: str
    pair: str = ""
    contract_type: str = ""
    base_asset: str = ""
    quote_asset: str = ""
    margin_asset: str = ""
    onboard_date: int = 0
    """Unix ms."""
    delivery_date: int = 0
    """Unix ms; the year 2100 for perpetual contracts."""


class ExchangeInfo(msgspec.Struct, frozen=True, rename="camel"):
    """Everything that is listed, and the limits."""

    symbols: tuple[SymbolInfo, ...]
    rate_limits: tuple[RateLimit, ...] = ()

    @property
    def trading(self) -> tuple[str, ...]:
        """Names of the symbols that are trading, in the exchange's order."""
        return tuple(s.symbol for s in self.symbols if s.status == "TRADING")

    @property
    def weight_limit(self) -> int | None:
        """Weight allowed per minute and IP; None when it is not told."""
        for limit in self.rate_limits:
            period = (limit.rate_limit_type, limit.interval, limit.interval_num)
            if period == ("REQUEST_WEIGHT", "MINUTE", 1) and 0 < limit.limit < 10_000_000:
                return limit.limit
        return None


class MarkPrice(msgspec.Struct, frozen=True):
    """The mark price of one symbol."""

    symbol: str
    mark_price: Decimal
    """In units of the quote asset, exactly as the exchange wrote it."""
    time: int
    """Unix ms."""


class _WireOpenInterest(msgspec.Struct):
    symbol: str
    openInterest: str  # noqa: N815 - the exchange's name
    time: int


class _WireMarkPrice(msgspec.Struct):
    symbol: str
    markPrice: str  # noqa: N815 - the exchange's name
    time: int


class _WireError(msgspec.Struct):
    code: int
    msg: str = ""


_open_interest = msgspec.json.Decoder(_WireOpenInterest)
_mark_prices = msgspec.json.Decoder(list[_WireMarkPrice])
_exchange_info = msgspec.json.Decoder(ExchangeInfo)
_error = msgspec.json.Decoder(_WireError)


def check_symbol(symbol: object) -> str:
    """`symbol` with its ASCII letters in upper case.

    Letters and digits of any script and ``_`` are legal: the exchange lists Chinese names.

    Raises:
        InvalidSymbolError: It cannot be a symbol.
    """
    if not isinstance(symbol, str):
        raise InvalidSymbolError(symbol, f"it is a {type(symbol).__name__}")
    if _ASCII_SYMBOL.fullmatch(symbol):
        return symbol
    if not 0 < len(symbol) <= MAX_SYMBOL:
        raise InvalidSymbolError(symbol, f"it must have 1 to {MAX_SYMBOL} characters")
    for character in symbol:
        if character != "_" and unicodedata.category(character)[0] not in "LM":
            if unicodedata.category(character) != "Nd":
                raise InvalidSymbolError(symbol, "it must be letters, digits and _")
    return "".join(c.upper() if c.isascii() else c for c in symbol)


def decode_open_interest(body: bytes, symbol: str) -> OpenInterest:
    """The answer to a question for `symbol`.

    Raises:
        WrongSymbolError: It is for another symbol.
        DecodeError: It is not what the exchange documents.
        ResponseError: It is an error, under status 200.
    """
    wire = _decode(_open_interest, body)
    if wire.symbol != symbol:
        asked, got = printable(symbol, 60), printable(wire.symbol, 60)
        raise WrongSymbolError(f"asked for {asked}, answered for {got}")
    value = _decimal(wire.openInterest)
    return OpenInterest(wire.symbol, value, _checked_time(wire.time))


def decode_mark_prices(body: bytes) -> tuple[MarkPrice, ...]:
    """Mark prices of every symbol.

    Raises:
        DecodeError: It is not what the exchange documents.
        ResponseError: It is an error, under status 200.
    """
    return tuple(
        MarkPrice(w.symbol, _decimal(w.markPrice), _checked_time(w.time))
        for w in _decode(_mark_prices, body)
    )


def decode_exchange_info(body: bytes) -> ExchangeInfo:
    """Everything listed; unknown fields, statuses and contract types are fine.

    Raises:
        DecodeError: It is not what the exchange documents.
        ResponseError: It is an error, under status 200.
    """
    info = _decode(_exchange_info, body)
    for symbol in info.symbols:
        try:
            check_symbol(symbol.symbol)
        except InvalidSymbolError as error:
            raise DecodeError(f"exchangeInfo lists something odd: {error}") from error
    return info


def decode_error(
    status: int, body: bytes, retry_at: datetime | None = None
) -> ResponseError:
    """The exception for an answer that is an error. Never raises.

    Args:
        status: HTTP status; says more than the body, which a proxy may have written.
        body: JSON of the exchange, or anything.
        retry_at: When requests are sent again; None takes the time in the text, or else 60 s for
            429 and 120 s for 418.
    """
    code, message = _code_and_message(body)
    banned_until = ban_end_ms(message)
    if status == 418 or (status == 403 and banned_until is not None):
        until = retry_at or _instant(banned_until) or datetime.now(UTC) + UNKNOWN_BAN
        return BannedError(status, code, message, until)
    if status == 429 or (code == TOO_MANY and status not in (403, 451)):
        until = retry_at or _instant(banned_until) or datetime.now(UTC) + UNKNOWN_HOLD
        return RateLimitedError(status, code, message, until)
    if status in (403, 451):
        return ForbiddenError(status, code, message)
    if status == 408 or status >= 500 or code in SERVER_SIDE:
        return ServerError(status, code, message)
    if code == UNKNOWN:
        return UnknownSymbolError(status, code, message)
    if code == NOT_TRADING:
        return SymbolNotTradingError(status, code, message)
    return ResponseError(status, code, message)


def ban_end_ms(text: str) -> int | None:
    """The end of a ban named in `text`, Unix ms [O]."""
    match = _BANNED.search(text)
    return int(match[1]) if match else None


def stated_limit(text: str) -> int | None:
    """The weight per minute named in the text of a 429 [O]."""
    match = _LIMIT.search(text)
    return int(match[1]) if match and int(match[1]) > 0 else None


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as error:
        code, message = _code_and_message(body)
        if code is not None:
            raise decode_error(200, body) from error
        raise DecodeError(f"not the documented answer: {printable(message)}") from error


def _code_and_message(body: bytes) -> tuple[int | None, str]:
    try:
        wire = _error.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError):
        return None, body[:1000].decode("utf-8", "replace").strip()[:200]
    return wire.code, wire.msg[:1000]


def _decimal(text: str) -> Decimal:
    if not _NUMBER.fullmatch(text):
        raise DecodeError(f"not a plain number: {printable(text, 60)}")
    return Decimal(text)


def _checked_time(time: int) -> int:
    if not 0 < time <= MAX_TIME:
        raise DecodeError(f"not a time in Unix ms: {printable(str(time)[:30])}")
    return time


def _instant(unix_ms: int | None) -> datetime | None:
    return None if unix_ms is None else _EPOCH + timedelta(milliseconds=unix_ms)
