"""Decodes the exchange's bytes into models.

The rule of this file: no I/O, and no trust in the bytes. A decoder never guesses a value: it
decodes the bytes, or raises an exception of this library. A row is *odd* if we cannot decode one of
its fields. A decoder of many rows names the odd ones. If the field is required, the decoder omits
the row; otherwise the field gets its default. Odd rows make a decoder raise only if it would omit
all rows. A number must be plain ASCII digits with at most one point, because `Decimal` itself
accepts ``NaN``, ``1_000``, ``1E+999999999`` and digits of any script. A decoder ignores unknown
fields, because the exchange may add fields at any time.

Marks: [D] documented by the exchange, [O] observed live, with the month.
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

MAX_RUNS = 4  # runs of rows with the same lengths of numbers; see `_kinds_of_row`
MAX_NAMED = 8  # odd rows of one answer that a decoder names; it only counts the others

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
    """The mark prices."""
    odd_rows: tuple[str, ...] = ()
    """The odd rows, in the form of `ExchangeInfo.odd_rows`."""


class HistoryPage(NamedTuple):
    """The rows of an answer with history, in the order of the answer."""

    rows: tuple[HistoryRow, ...]
    """The rows."""
    odd_rows: tuple[str, ...] = ()
    """The odd rows, in the form of `ExchangeInfo.odd_rows`."""


class _WireHistoryRow(msgspec.Struct):
    """A row in an unusual form: each of its numbers may be a JSON number or a text."""

    symbol: str
    timestamp: msgspec.Raw
    sumOpenInterest: msgspec.Raw
    sumOpenInterestValue: msgspec.Raw
    CMCCirculatingSupply: msgspec.Raw = msgspec.Raw(b"null")  # in all rows since 2025-07 [O]


class _WireExchangeInfo(msgspec.Struct, rename="camel"):
    symbols: list[msgspec.Raw]  # we decode each symbol separately
    rate_limits: msgspec.Raw = msgspec.Raw(b"[]")  # we decode each limit separately too


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
_USUAL_ROW = re.compile(  # the part after the symbol, with each digit replaced by 0
    rb'"sumOpenInterest":%b,"sumOpenInterestValue":%b,"CMCCirculatingSupply":%b,"timestamp":0{13}'
    % (_AMOUNT, _AMOUNT, _AMOUNT)
)
_PLAIN_NUMBER = re.compile(r'(")?([0-9]{1,30}(?:\.[0-9]{1,30})?)(?(1)")', re.ASCII)
_PLAIN_TIME = re.compile(r'(")?([0-9]{1,15})(?(1)")', re.ASCII)
_NOTHING = (b"null", b'""')  # values that stand for an unknown circulating supply


def decode_open_interest(body: bytes, symbol: str) -> OpenInterest:
    """Decode the answer to a request for `symbol`.

    A repeated field is an error, because we cannot know which of the values is right.

    Raises:
        WrongSymbolError: The answer is for another symbol.
        DecodeError: The answer does not have the documented form.
        RefusedError: The answer is a refusal with the status 200.
    """
    try:
        wire = _open_interest.decode(body)
    except MALFORMED:
        wire = _decode(_open_interest, body)  # raises
    # Three colons mean three fields, so no field is repeated. More colons mean a new or a repeated
    # field, so we parse the body a second time, which takes several times as long as the first.
    if body.count(b":") != 3:
        _check_repeated(body)
    if wire.symbol != symbol:
        raise _wrong_symbol(symbol, wire.symbol)
    return OpenInterest(wire.symbol, Decimal(wire.open_interest), wire.time)


def _wrong_symbol(asked: str, got: str) -> WrongSymbolError:
    return WrongSymbolError(f"asked for {printable(asked, 60)}, answered for {printable(got, 60)}")


def decode_mark_prices(body: bytes) -> MarkPrices:
    """Decode the mark prices of all symbols, or of one.

    The result names odd rows, and omits those without a valid symbol and price. A time that we
    cannot decode becomes 0. If the answer is a single price instead of a list, an odd field is an
    error.

    Raises:
        DecodeError: The answer does not have the documented form, or the result would omit all
            rows.
        RefusedError: The answer is a refusal with the status 200.
    """
    if not body.lstrip().startswith(b"["):
        return MarkPrices((_price(_decode(_mark_price, body)),))
    raws = _decode(_raw_rows, body)
    rows, odd = _price_rows.read(raws, body)
    return MarkPrices(tuple(map(_price, rows)), odd)


def decode_history(body: bytes, symbol: str) -> HistoryPage:
    """Decode a page of the history of `symbol`, with any number of rows in any order.

    A number may be a JSON number or a text [D, O]. The result omits and names odd rows: those that
    lack a required field, have a field twice, or are for another symbol. If we cannot decode only
    the circulating supply, the row stays, and its supply is None.

    Raises:
        WrongSymbolError: Some rows are for another symbol, and the result would omit all rows.
        DecodeError: The answer does not have the documented form, or the result would omit all
            rows.
        RefusedError: The answer is a refusal with the status 200.
    """
    usual = _usual_rows(body, symbol)
    return _row_by_row(body, symbol) if usual is None else HistoryPage(tuple(usual))


def _row_by_row(body: bytes, symbol: str) -> HistoryPage:
    """Decode a page of any form, row by row; see `decode_history`."""
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
    """Decode a page in one step, if it has exactly the usual form of the exchange.

    To check the form, we replace all digits with 0 and match the bytes with a pattern. In a page of
    that form, each number is plain digits with at most one point, and no field is repeated. So the
    page needs no check row by row, which saves seven eighths of the time for 500 rows.

    Returns:
        The rows; None if the page has another form, or an odd row.
    """
    name = symbol.encode()
    zeros = name.translate(_ZEROS)
    prefix = b'"symbol":"%b",' % zeros
    for row in _kinds_of_row(body.translate(_ZEROS)):
        if not row.startswith(prefix) or not _USUAL_ROW.fullmatch(row, len(prefix)):
            return None
    try:
        rows = _history.decode(body)
    except MALFORMED:  # the brackets around the rows are missing, or a time begins with 0
        return None
    is_theirs = b"0" not in zeros or [row.symbol for row in rows].count(symbol) == len(rows)
    return rows if is_theirs else None


def _kinds_of_row(page: bytes) -> Iterable[bytes]:
    """Return each kind of row in `page`, without its braces. Each digit of `page` is 0 already.

    The numbers change little from row to row. So nearly always all rows have the same number of
    digits, and are equal here. If a number gets one more digit, there is a second kind of row. A
    kind may occur more than once in the result. Beyond `MAX_RUNS` runs of equal rows, we split the
    page into single rows.
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
    """Return the index after the repetitions of `row` that begin at index `start`."""
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
    """Decode a row if it has the required fields; describe what is odd about it."""
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
    """Return the digits of a JSON number or text; None if the value does not match `pattern`."""
    match = pattern.fullmatch(bytes(raw).decode("utf-8", "replace"))
    return match[2] if match else None


def _price(row: _WireMarkPrice) -> MarkPrice:
    return MarkPrice(row.symbol, Decimal(row.mark_price), row.time)


def decode_exchange_info(body: bytes) -> ExchangeInfo:
    """Decode the list of symbols and limits. New fields, statuses and contract types are no error.

    The result omits a row without a valid name and status. Any other field that we cannot decode
    gets its default. In both cases, `ExchangeInfo.odd_rows` names the row.
    `ExchangeInfo.ignored_limits` has limits that the budget ignores, for example because we cannot
    decode them.

    A name is valid if `is_name` accepts it. `is_name` accepts more names than `check_symbol`, so
    that the result contains symbols with new kinds of names.

    Raises:
        DecodeError: The answer does not have the documented form, or the result would omit all
            rows.
        RefusedError: The answer is a refusal with the status 200.
    """
    wire = _decode(_exchange_info, body)
    rows, odd = _listed_rows.read(wire.symbols, body)
    left_out = len(wire.symbols) - len(rows)
    return ExchangeInfo(tuple(rows), *_decode_limits(wire.rate_limits), odd, left_out)


class _Rows(Generic[R]):
    """Decodes rows of one kind, each row separately."""

    def __init__(self, kind: type[R]) -> None:
        self._kind: type[R] = kind
        self._whole: msgspec.json.Decoder[R] = msgspec.json.Decoder(kind)
        self._parts = msgspec.json.Decoder(dict[str, msgspec.Raw])
        self._fields = [
            (field.encode_name, field.name, field.required, _decoder(field.type))
            for field in msgspec.structs.fields(kind)
        ]

    def read(self, raws: Sequence[msgspec.Raw], body: bytes) -> tuple[list[R], tuple[str, ...]]:
        """Decode the rows, and describe the odd ones.

        Raises:
            DecodeError: There are rows, and the result would contain none of them.
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
        """Decode a row with an odd field, field by field."""
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
    """Return the descriptions of the first odd rows, and how many more there are."""
    more = [f"and {len(odd) - MAX_NAMED} more"] if len(odd) > MAX_NAMED else []
    return tuple(odd[:MAX_NAMED] + more)


def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def _left_out(name: str, why: Sequence[str]) -> str:
    return f"{printable(name, 120)} (left out: {', '.join(why)})"


_listed_rows = _Rows(SymbolInfo)
_price_rows = _Rows(_WireMarkPrice)


def _decode_limits(raw: msgspec.Raw) -> tuple[tuple[RateLimit, ...], tuple[str, ...]]:
    """Return the limits that we can decode, and texts of limits that the budget ignores."""
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
    """Whether a limit that we cannot decode may apply to requests, not to orders."""
    try:
        return _limit_type.decode(row).rate_limit_type in OURS
    except MALFORMED:
        return True


def _shown(raw: msgspec.Raw) -> str:
    return printable(one_line(start_of(bytes(raw))), 120)


def decode_server_time(body: bytes) -> int:
    """Decode the exchange's time, Unix ms.

    Raises:
        DecodeError: The answer does not have the documented form.
        RefusedError: The answer is a refusal with the status 200.
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
