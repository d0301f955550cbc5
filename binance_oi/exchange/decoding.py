"""Bytes of the exchange to models.

The rule of this file: no I/O, and nothing is believed. A decoder returns exactly what the exchange
said, or raises an exception of ours, whatever the bytes are. Numbers are taken as text and must be
plain ASCII digits first: `Decimal` itself takes ``NaN``, ``1_000``, ``1E+999999999`` and digits of
any script. Fields that we do not know are fine: the exchange adds some at any time.
"""

import json
from decimal import Decimal
from typing import Annotated, TypeAlias, TypeVar

import msgspec

from binance_oi.errors import DecodeError, WrongSymbolError, printable
from binance_oi.exchange.limits import Limit
from binance_oi.exchange.models import (
    MAX_OTHERS,
    OURS,
    ExchangeInfo,
    MarkPrice,
    OpenInterest,
    RateLimit,
    SymbolInfo,
    not_kept,
    span_of,
)
from binance_oi.exchange.refusals import (
    MALFORMED,
    Refusal,
    RefusedError,
    one_line,
    start_of,
)

T = TypeVar("T")

MAX_TIME = 253_402_300_799_999  # ms: the end of the year 9999, the last that datetime knows

_Number = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,30}(?:\.[0-9]{1,30})?\Z")]
_Time = Annotated[int, msgspec.Meta(gt=0, le=MAX_TIME)]


class _WireOpenInterest(msgspec.Struct, rename="camel"):
    symbol: str
    open_interest: _Number
    time: _Time


class _WireMarkPrice(msgspec.Struct, rename="camel"):
    symbol: str
    mark_price: _Number
    time: _Time


class _WireExchangeInfo(msgspec.Struct, rename="camel"):
    symbols: tuple[SymbolInfo, ...]
    rate_limits: msgspec.Raw = msgspec.Raw(b"[]")  # each of them is read by itself


class _WireLimitType(msgspec.Struct, rename="camel"):
    rate_limit_type: str


_WireMarkPrices: TypeAlias = _WireMarkPrice | list[_WireMarkPrice]


class _WireServerTime(msgspec.Struct, rename="camel"):
    server_time: _Time


_open_interest = msgspec.json.Decoder(_WireOpenInterest)
_mark_prices: msgspec.json.Decoder[_WireMarkPrices] = msgspec.json.Decoder(_WireMarkPrices)
_exchange_info = msgspec.json.Decoder(_WireExchangeInfo)
_raw_limits = msgspec.json.Decoder(list[msgspec.Raw])
_rate_limit = msgspec.json.Decoder(RateLimit)
_limit_type = msgspec.json.Decoder(_WireLimitType)
_server_time = msgspec.json.Decoder(_WireServerTime)


def decode_open_interest(body: bytes, symbol: str) -> OpenInterest:
    """The answer to a question for `symbol`.

    A field that comes twice is refused, for nobody can say which one is meant.

    Raises:
        WrongSymbolError: It is for another symbol.
        DecodeError: It is not what the exchange documents.
        RefusedError: It is a refusal, under status 200.
    """
    wire = _decode(_open_interest, body)
    # Three fields and three colons: nothing comes twice. More of them have to be looked at, which
    # takes five times as long, and which only a new field makes necessary.
    if body.count(b":") != 3:
        _check_repeated(body)
    if wire.symbol != symbol:
        asked, got = printable(symbol, 60), printable(wire.symbol, 60)
        raise WrongSymbolError(f"asked for {asked}, answered for {got}")
    return OpenInterest(wire.symbol, Decimal(wire.open_interest), wire.time)


def decode_mark_prices(body: bytes) -> tuple[MarkPrice, ...]:
    """Mark prices of every symbol, or of the one that was asked for.

    Raises:
        DecodeError: It is not what the exchange documents.
        RefusedError: It is a refusal, under status 200.
    """
    wire = _decode(_mark_prices, body)
    rows = wire if isinstance(wire, list) else [wire]
    return tuple(MarkPrice(row.symbol, Decimal(row.mark_price), row.time) for row in rows)


def decode_exchange_info(body: bytes) -> ExchangeInfo:
    """Everything listed; unknown fields, statuses and contract types are fine.

    So are limits that cannot be read: see `ExchangeInfo.ignored_limits`.

    Any printable name of up to 50 characters is, too. That is more than `check_symbol` takes: one
    new kind of name must not keep the whole market from being read.

    Raises:
        DecodeError: It is not what the exchange documents.
        RefusedError: It is a refusal, under status 200.
    """
    wire = _decode(_exchange_info, body)
    for listed in wire.symbols:
        if not listed.symbol.isprintable():
            raise DecodeError(f"not a name of a symbol: {printable(listed.symbol, 60)}")
    return ExchangeInfo(wire.symbols, *_decode_limits(wire.rate_limits))


def _decode_limits(raw: msgspec.Raw) -> tuple[tuple[RateLimit, ...], tuple[str, ...]]:
    """The limits that can be read, and those of our requests that are of no use."""
    try:
        rows = _raw_limits.decode(raw)
    except MALFORMED:
        return (), (_shown(raw),)
    limits, texts, ignored = list[RateLimit](), list[str](), list[str]()
    for row in rows:
        try:
            limit = _rate_limit.decode(row)
        except MALFORMED:
            if _may_be_ours(row):
                ignored.append(_shown(row))
            continue
        limits.append(limit)
        texts.append(_shown(row))
        if limit.is_ours and not limit.is_sane:
            ignored.append(texts[-1])
    excess = not_kept(limits)
    for limit, text in zip(limits, texts, strict=True):
        seconds, counts_requests = span_of(limit)
        if limit.is_ours and Limit(seconds, limit.limit, counts_requests) in excess:
            ignored.append(text)
    return tuple(limits), tuple(ignored[:MAX_OTHERS])


def _may_be_ours(row: msgspec.Raw) -> bool:
    """Whether a limit that cannot be read may limit our requests."""
    try:
        return _limit_type.decode(row).rate_limit_type in OURS
    except MALFORMED:
        return True


def _shown(raw: msgspec.Raw) -> str:
    return printable(one_line(start_of(bytes(raw))), 120)


def decode_server_time(body: bytes) -> int:
    """The exchange's clock, Unix ms.

    Raises:
        DecodeError: It is not what the exchange documents.
        RefusedError: It is a refusal, under status 200.
    """
    return _decode(_server_time, body).server_time


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except MALFORMED as error:
        refusal = Refusal.of(200, {}, None).reading(body)
        if refusal.code is not None:
            raise RefusedError(refusal) from error
        why = printable(str(error), 100)
        raise DecodeError(f"not the documented answer ({why}): {refusal.message}") from error


def _check_repeated(body: bytes) -> None:
    try:
        json.loads(body, object_pairs_hook=_refuse_repeated)
    except MALFORMED as error:
        why = printable(str(error), 100)
        text = one_line(start_of(body))
        raise DecodeError(f"not the documented answer ({why}): {text}") from error


def _refuse_repeated(pairs: list[tuple[str, object]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a field comes twice")
