"""Decodes the exchange's bytes into models.

The rule of this file: no I/O, and no trust in the bytes. A decoder returns exactly what the
exchange note, or raises an exception of ours, whatever the bytes are. When one of many rows is odd,
the decoder leaves out that row alone and names it. It takes numbers as text, and only plain ASCII
digits: `Decimal` itself takes ``NaN``, ``1_000``, ``1E+999999999`` and digits of any script. It
ignores unknown fields, because the exchange may add fields at any time.
"""

import json
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import msgspec

from binance_oi.errors import DecodeError, WrongSymbolError, printable
from binance_oi.exchange.limits import Limit
from binance_oi.exchange.models import (
    MAX_OTHERS,
    MAX_TIME,
    OURS,
    ExchangeInfo,
    HistoryRow,
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
from binance_oi.exchange.symbols import is_name

T = TypeVar("T")

MAX_RUNS = 4  # of equal rows in a page; one with more is split into its rows
MAX_NAMED = 8  # odd rows of one answer that are named; the others are only counted

_Number = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,30}(?:\.[0-9]{1,30})?\Z")]
_Time = Annotated[int, msgspec.Meta(gt=0, le=MAX_TIME)]


class _WireOpenInterest(msgspec.Struct, rename="camel"):
    symbol: str
    open_interest: _Number
    time: _Time


class _WireMarkPrice(msgspec.Struct, rename="camel"):
    symbol: str
    mark_price: _Number
    time: _Time = 0


R = TypeVar("R", SymbolInfo, _WireMarkPrice)


class MarkPrices(NamedTuple):
    """The mark prices of an answer, and its odd rows."""

    prices: tuple[MarkPrice, ...]
    odd_rows: tuple[str, ...] = ()
    """As `ExchangeInfo.odd_rows`."""


class HistoryPage(NamedTuple):
    """The rows of an answer with history, in the order of the answer."""

    rows: tuple[HistoryRow, ...]
    odd_rows: tuple[str, ...] = ()
    """As `ExchangeInfo.odd_rows`."""


class _WireHistoryRow(msgspec.Struct):
    """A row that is not as it usually is: each of its fields may be a text or a number."""

    symbol: str
    timestamp: msgspec.Raw
    sumOpenInterest: msgspec.Raw
    sumOpenInterestValue: msgspec.Raw
    CMCCirculatingSupply: msgspec.Raw = msgspec.Raw(b"null")  # since 2025-07 [O]


class _WireExchangeInfo(msgspec.Struct, rename="camel"):
    symbols: list[msgspec.Raw]  # each one is decoded alone
    rate_limits: msgspec.Raw = msgspec.Raw(b"[]")  # each one is decoded alone


class _WireLimitType(msgspec.Struct, rename="camel"):
    rate_limit_type: str


class _WireServerTime(msgspec.Struct, rename="camel"):
    server_time: _Time


_open_interest = msgspec.json.Decoder(_WireOpenInterest)
_raw_rows = msgspec.json.Decoder(list[msgspec.Raw])
_mark_price = msgspec.json.Decoder(_WireMarkPrice)
_history = msgspec.json.Decoder(list[HistoryRow])
_history_row = msgspec.json.Decoder(_WireHistoryRow)
_exchange_info = msgspec.json.Decoder(_WireExchangeInfo)
_rate_limit = msgspec.json.Decoder(RateLimit)
_limit_type = msgspec.json.Decoder(_WireLimitType)
_server_time = msgspec.json.Decoder(_WireServerTime)

_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_AMOUNT = rb'"0{1,30}(?:\.0{1,30})?"'
_USUAL_ROW = re.compile(  # after its symbol, with zeros for digits
    rb'"sumOpenInterest":%b,"sumOpenInterestValue":%b,"CMCCirculatingSupply":%b,"timestamp":0{13}'
    % (_AMOUNT, _AMOUNT, _AMOUNT)
)
_PLAIN_NUMBER = re.compile(r'(")?([0-9]{1,30}(?:\.[0-9]{1,30})?)(?(1)")', re.ASCII)
_PLAIN_TIME = re.compile(r'(")?([0-9]{1,15})(?(1)")', re.ASCII)
_NOTHING = (b"null", b'""')  # what stands where there is no circulating supply


def decode_open_interest(body: bytes, symbol: str) -> OpenInterest:
    """Decode the answer to a request for `symbol`.

    A repeated field is an error, for it is not clear which value is meant.

    Raises:
        WrongSymbolError: The answer is for another symbol.
        DecodeError: The answer is not what the exchange documents.
        RefusedError: The answer is a refusal, under status 200.
    """
    wire = _decode(_open_interest, body)
    # Three fields and three colons: no field is repeated. Otherwise, which takes a new field, the
    # check parses the body again and takes five times as long.
    if body.count(b":") != 3:
        _check_repeated(body)
    if wire.symbol != symbol:
        raise _wrong_symbol(symbol, wire.symbol)
    return OpenInterest(wire.symbol, Decimal(wire.open_interest), wire.time)


def _wrong_symbol(asked: str, got: str) -> WrongSymbolError:
    return WrongSymbolError(f"asked for {printable(asked, 60)}, answered for {printable(got, 60)}")


def decode_mark_prices(body: bytes) -> MarkPrices:
    """Decode the mark prices of all symbols, or of one.

    A row needs a symbol and a price. A row without them is left out and named. A time that cannot
    be decoded becomes 0.

    Raises:
        DecodeError: The answer is not what the exchange documents, or no row can be decoded.
        RefusedError: The answer is a refusal, under status 200.
    """
    if not body.lstrip().startswith(b"["):
        return MarkPrices((_price(_decode(_mark_price, body)),))
    raws = _decode(_raw_rows, body)
    rows, odd = _price_rows.read(raws, body)
    return MarkPrices(tuple(map(_price, rows)), odd)


def decode_history(body: bytes, symbol: str) -> HistoryPage:
    """A page of the history of `symbol`: its rows, as many as there are, in any order.

    Numbers may be texts or numbers [D, O]. An odd row is left out and named: one that lacks a time
    or an amount, has a field twice, or is of another symbol. One whose circulating supply cannot be
    read has None.

    Raises:
        WrongSymbolError: There are rows, and all of them are for another symbol.
        DecodeError: It is not what the exchange documents, or no row of it can be read.
        RefusedError: It is a refusal, under status 200.
    """
    usual = _usual_rows(body, symbol)
    return _row_by_row(body, symbol) if usual is None else HistoryPage(tuple(usual))


def _row_by_row(body: bytes, symbol: str) -> HistoryPage:
    """A page of any form; see `decode_history`."""
    raws = _decode(_raw_rows, body)
    read = [_read_history_row(raw) for raw in raws]
    rows = [row for row, _ in read if row is not None and row.symbol == symbol]
    others = [row.symbol for row, _ in read if row is not None and row.symbol != symbol]
    if others and not rows:
        raise _wrong_symbol(symbol, others[0])
    if raws and not rows:
        raise _undocumented("no row can be decoded", one_line(start_of(body)))
    odd = [said for _, said in read if said]
    odd += [_left_out(other, ["another symbol"]) for other in others]
    return HistoryPage(tuple(rows), _first_of(odd))


def _usual_rows(body: bytes, symbol: str) -> list[HistoryRow] | None:
    """The rows of a page that is byte by byte as the exchange writes it, but for its digits.

    Then each value holds digits and points alone and no field comes twice, so the page can be
    decoded in one step. For 500 rows that takes an eighth of the time.

    Returns:
        None when the page is any other, or has an odd row.
    """
    name = symbol.encode()
    zeros = name.translate(_ZEROS)
    prefix = b'"symbol":"%b",' % zeros
    for row in _kinds_of_row(body.translate(_ZEROS)):
        if not row.startswith(prefix) or not _USUAL_ROW.fullmatch(row, len(prefix)):
            return None
    try:
        rows = _history.decode(body)
    except MALFORMED:  # there is no page around its rows, or a time begins with 0
        return None
    is_theirs = b"0" not in zeros or [row.symbol for row in rows].count(symbol) == len(rows)
    return rows if is_theirs else None


def _kinds_of_row(page: bytes) -> Iterable[bytes]:
    """The different rows of `page`, whose digits are all zeros, without their braces.

    The numbers change by little. So a page has one kind of row, or a second one from the row on in
    which a number gets one more digit.
    """
    kinds, at = list[bytes](), 2
    while len(kinds) < MAX_RUNS:
        row = page[at : page.find(b"}", at)]
        kinds.append(row)
        at = _end_of_run(page, at, row + b"},{")
        if len(page) - at == len(row) + 2 and page.endswith(row + b"}]"):
            return kinds
    return set(page[2:-2].split(b"},{"))


def _end_of_run(page: bytes, start: int, row: bytes) -> int:
    """Where the repetitions of `row` end that begin at `start`."""
    certain, possible = 0, (len(page) - start) // len(row)
    tried = possible
    while certain < possible:
        if page.startswith(row * (tried - certain), start + certain * len(row)):
            certain = tried
        else:
            possible = tried - 1
        tried = (certain + possible + 1) // 2
    return start + certain * len(row)


def _read_history_row(raw: msgspec.Raw) -> tuple[HistoryRow | None, str]:
    """A row, if it has all that it needs, and what is odd."""
    try:
        wire = _history_row.decode(raw)
        _check_repeated(bytes(raw))
    except (*MALFORMED, DecodeError):
        return None, _left_out(_shown(raw), ["no row"])
    time = _plain(_PLAIN_TIME, wire.timestamp)
    value = _plain(_PLAIN_NUMBER, wire.sumOpenInterest)
    notional = _plain(_PLAIN_NUMBER, wire.sumOpenInterestValue)
    supply = _plain(_PLAIN_NUMBER, wire.CMCCirculatingSupply)
    if time is None or not 0 < int(time) <= MAX_TIME:
        return None, _left_out(wire.symbol, ["timestamp"])
    if value is None or notional is None:
        return None, _left_out(wire.symbol, ["an amount"])
    is_odd = supply is None and bytes(wire.CMCCirculatingSupply) not in _NOTHING
    said = f"{printable(wire.symbol, 120)} (CMCCirculatingSupply)" if is_odd else ""
    amounts = Decimal(value), Decimal(notional), None if supply is None else Decimal(supply)
    return HistoryRow(wire.symbol, int(time), *amounts), said


def _plain(pattern: re.Pattern[str], raw: msgspec.Raw) -> str | None:
    """The digits of a value, be it a text or a number; None when it is not plain."""
    match = pattern.fullmatch(bytes(raw).decode("utf-8", "replace"))
    return match[2] if match else None


def _price(row: _WireMarkPrice) -> MarkPrice:
    return MarkPrice(row.symbol, Decimal(row.mark_price), row.time)


def decode_exchange_info(body: bytes) -> ExchangeInfo:
    """Decode everything listed; unknown fields, statuses and contract types are fine.

    A row needs a name and a status. A row without them is left out and named in
    `ExchangeInfo.odd_rows`. Any other field that cannot be decoded gets its default, and the row is
    named there too. Limits that cannot be decoded are in `ExchangeInfo.ignored_limits`.

    `is_name` decides which names are decoded. It accepts more than `check_symbol`, so that a new
    kind of name does not hide its symbol.

    Raises:
        DecodeError: The answer is not what the exchange documents, or no row can be decoded.
        RefusedError: The answer is a refusal, under status 200.
    """
    wire = _decode(_exchange_info, body)
    rows, odd = _listed_rows.read(wire.symbols, body)
    left_out = len(wire.symbols) - len(rows)
    return ExchangeInfo(tuple(rows), *_decode_limits(wire.rate_limits), odd, left_out)


class _Rows(Generic[R]):
    """Decodes rows of one kind, each one alone."""

    def __init__(self, kind: type[R]) -> None:
        self._kind: type[R] = kind
        self._whole: msgspec.json.Decoder[R] = msgspec.json.Decoder(kind)
        self._parts = msgspec.json.Decoder(dict[str, msgspec.Raw])
        self._fields = [
            (field.encode_name, field.name, field.required, _decoder(field.type))
            for field in msgspec.structs.fields(kind)
        ]

    def read(self, raws: Sequence[msgspec.Raw], body: bytes) -> tuple[list[R], tuple[str, ...]]:
        """Decode the rows that can be decoded, and describe the odd ones.

        Raises:
            DecodeError: There are rows, and none can be decoded.
        """
        rows, odd = list[R](), list[str]()
        for raw in raws:
            row, note = self._one(raw)
            if row is not None:
                rows.append(row)
            if note:
                odd.append(note)
        if raws and not rows:
            raise _undocumented("no row can be decoded", one_line(start_of(body)))
        return rows, _first_of(odd)

    def _one(self, raw: msgspec.Raw) -> tuple[R | None, str]:
        """Decode a row if it has all required fields; describe what is odd."""
        row: R | None
        try:
            row, note = self._whole.decode(raw), ""
        except MALFORMED:
            row, note = self._by_field(raw)
        if row is not None and not is_name(row.symbol):
            return None, _left_out(row.symbol, ["symbol"])
        return row, note

    def _by_field(self, raw: msgspec.Raw) -> tuple[R | None, str]:
        """Decode a row in which some field cannot be decoded, field by field."""
        try:
            parts = self._parts.decode(raw)
        except MALFORMED:
            return None, _left_out(_shown(raw), ["no row"])
        values, needed, others = dict[str, Any](), list[str](), list[str]()
        for wire_name, name, required, decoder in self._fields:
            try:
                values[name] = decoder.decode(parts[wire_name])
            except KeyError:
                needed += [f"no {wire_name}"] if required else []
            except MALFORMED:
                (needed if required else others).append(wire_name)
        symbol = values.get("symbol", _shown(raw))
        if needed:
            return None, _left_out(symbol, needed)
        note = f"{printable(symbol, 120)} ({', '.join(others)})" if others else ""
        return self._kind(**values), note


def _first_of(odd: list[str]) -> tuple[str, ...]:
    """What is said of the first odd rows, and how many more there are."""
    more = [f"and {len(odd) - MAX_NAMED} more"] if len(odd) > MAX_NAMED else []
    return tuple(odd[:MAX_NAMED] + more)


def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def _left_out(name: str, why: Sequence[str]) -> str:
    return f"{printable(name, 120)} (left out: {', '.join(why)})"


_listed_rows = _Rows(SymbolInfo)
_price_rows = _Rows(_WireMarkPrice)


def _decode_limits(raw: msgspec.Raw) -> tuple[tuple[RateLimit, ...], tuple[str, ...]]:
    """The limits that can be decoded, and those of our requests that cannot be kept."""
    try:
        rows = _raw_rows.decode(raw)
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
    """Whether a limit that cannot be decoded may limit our requests."""
    try:
        return _limit_type.decode(row).rate_limit_type in OURS
    except MALFORMED:
        return True


def _shown(raw: msgspec.Raw) -> str:
    return printable(one_line(start_of(bytes(raw))), 120)


def decode_server_time(body: bytes) -> int:
    """Decode the exchange's clock, Unix ms.

    Raises:
        DecodeError: The answer is not what the exchange documents.
        RefusedError: The answer is a refusal, under status 200.
    """
    return _decode(_server_time, body).server_time


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except MALFORMED as error:
        refusal = Refusal.of(200, {}, None).with_text(body)
        if refusal.code is not None:
            raise RefusedError(refusal) from error
        raise _undocumented(str(error), refusal.message) from error


def _check_repeated(body: bytes) -> None:
    try:
        json.loads(body, object_pairs_hook=_refuse_repeated)
    except MALFORMED as error:
        raise _undocumented(str(error), one_line(start_of(body))) from error


def _undocumented(why: str, text: str) -> DecodeError:
    return DecodeError(f"not the documented answer ({printable(why, 100)}): {text}")


def _refuse_repeated(pairs: list[tuple[str, object]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a field is repeated")
