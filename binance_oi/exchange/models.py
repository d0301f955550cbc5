"""What the exchange answers, as frozen structs, and the decoders that check it.

The rule of this file: no I/O, and nothing is believed. A decoder returns exactly what the exchange
said, or raises an exception of ours, whatever the bytes are. Numbers are taken as text and must be
plain ASCII digits first: `Decimal` itself takes ``NaN``, ``1_000``, ``1E+999999999`` and digits of
any script. Fields that we do not know are fine: the exchange adds some at any time.

Marks: [D] documented by the exchange, [O] observed live, with the month.
"""

import json
import re
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, TypeAlias, TypeVar

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
from binance_oi.exchange.limits import Limit

T = TypeVar("T")

MAX_SYMBOL = 50  # characters; the exchange's own pattern ends there [O 2025-12, spot]
MAX_TIME = 253_402_300_799_999  # ms: the end of the year 9999, the last that datetime knows
MAX_TEXT_READ = 1000  # of an error; all that we look for stands in its first sentence
MIN_STATED = 5  # weight per minute; what a text names below is more likely something else
MAX_LIMIT = 9_999_999  # weight per minute; the largest known is 15 000 [D] 2026-11
MAX_SPAN = 31 * 86_400  # s: the longest span of a limit; the longest known is a day [D] 2026-11
MAX_OTHERS = 8  # limits of other spans than a minute that are kept; two are known [D] 2026-11
_WEIGHT, _REQUESTS = "REQUEST_WEIGHT", "RAW_REQUESTS"  # [D] 2026-11
_MINUTE = (60, False)  # s, and weight
_INTERVALS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86_400}  # [D] 2026-11; the hour not
NOT_TRADING, UNKNOWN, TOO_MANY = -4108, -1121, -1003  # [O] 2026-10, [D], [D] 2026-11
SERVER_SIDE = frozenset({-1000, -1001, -1006, -1007, -1008})  # [D] 2026-11
UNKNOWN_HOLD = timedelta(seconds=60)  # 429 that names no time: the minute turns
UNKNOWN_BAN = timedelta(seconds=120)  # 418 that names no time: the shortest one [D] 2026-11

_ASCII_SYMBOL = re.compile(r"[A-Za-z0-9_]{1,50}")
_BANNED = re.compile(  # ms of the years 2001 to 2286
    r"banned until ([1-9][0-9]{12})(?!\d)", re.IGNORECASE
)
_LIMIT = re.compile(  # of weight: texts about the limits of orders use the same words
    r"current limit(?: of IP\([^)]{0,60}\))? is ([1-9][0-9]{0,6})"
    r" request(?:s| weight) per (?:1 )?minute",
    re.IGNORECASE,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# All that msgspec raises for bad bytes. Its own are not kinds of ValueError before 0.22; those that
# say that a text is not UTF-8 are nothing else.
_MALFORMED = (msgspec.MsgspecError, ValueError, RecursionError)

_Number = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,30}(?:\.[0-9]{1,30})?\Z")]
_Time = Annotated[int, msgspec.Meta(gt=0, le=MAX_TIME)]
_Code = Annotated[int, msgspec.Meta(gt=-1_000_000, lt=1_000_000)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_SYMBOL)]


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

    @property
    def seconds(self) -> int | None:
        """The span of time that it is for; None when that is not known or makes no sense."""
        seconds = _INTERVALS.get(self.interval, 0) * self.interval_num
        return seconds if 0 < seconds <= MAX_SPAN else None

    @property
    def is_ours(self) -> bool:
        """Whether it limits our requests; others limit orders."""
        return self.rate_limit_type in (_WEIGHT, _REQUESTS)

    @property
    def is_sane(self) -> bool:
        """Whether there is such a span, and requests and not too many of them fit into it."""
        minutes = max(1.0, (self.seconds or 0) / 60)
        return self.seconds is not None and 1 <= self.limit <= MAX_LIMIT * minutes


class SymbolInfo(msgspec.Struct, frozen=True, rename="camel"):
    """A listed symbol. Select by `status`: new contract types appear all the time."""

    symbol: _Name
    status: str
    """``TRADING`` is what has open interest to read; delisted symbols stay for years."""
    pair: str = ""
    contract_type: str = ""
    base_asset: str = ""
    quote_asset: str = ""
    margin_asset: str = ""
    onboard_date: int = 0
    """Unix ms."""
    delivery_date: int = 0
    """Unix ms; the year 2100 for perpetual contracts."""
    price_precision: int = 0
    """Decimal places of a price."""
    quantity_precision: int = 0
    """Decimal places of a quantity."""
    underlying_type: str = ""


class ExchangeInfo(msgspec.Struct, frozen=True, rename="camel"):
    """Everything that is listed, and the limits."""

    symbols: tuple[SymbolInfo, ...]
    rate_limits: tuple[RateLimit, ...] = ()
    """All that can be read, whatever they limit."""
    ignored_limits: tuple[str, ...] = ()
    """Limits of our requests that are not kept, as the exchange wrote them.

    They cannot be read, make no sense, or are the loosest of more than eight other spans.
    """

    @property
    def trading(self) -> tuple[str, ...]:
        """Names of the symbols that are trading, each once, in the exchange's order."""
        return tuple(dict.fromkeys(s.symbol for s in self.symbols if s.status == "TRADING"))

    @property
    def weight_limit(self) -> int | None:
        """Weight allowed per minute and IP: the least sane limit announced; None without one.

        A span of 60 s is a minute, whatever its unit.
        """
        minute = (x.limit for x in self.rate_limits if x.is_sane and _span(x) == _MINUTE)
        return min(minute, default=None)

    @property
    def other_limits(self) -> tuple[Limit, ...]:
        """The least limit for each other span, of weight and of requests; the tightest first.

        Of more than eight, those are left out first that others imply: 10 in a second imply 600 in
        a minute. What is still too much is in `ignored_limits`.
        """
        return tuple(_kept(_least(self.rate_limits)))


def _span(limit: RateLimit) -> tuple[int, bool]:
    """How long, and whether requests are counted and not their weight."""
    return limit.seconds or 0, limit.rate_limit_type != _WEIGHT


def _least(limits: Iterable[RateLimit]) -> list[Limit]:
    """The least sane limit for each span but that of the minute; the tightest first."""
    least: dict[tuple[int, bool], int] = {}
    for limit in limits:
        if limit.is_ours and limit.is_sane and (span := _span(limit)) != _MINUTE:
            least[span] = min(limit.limit, least.get(span, limit.limit))
    found = [Limit(seconds, most, requests) for (seconds, requests), most in least.items()]
    return sorted(found, key=lambda limit: limit.most / limit.seconds)


def _kept(limits: list[Limit]) -> list[Limit]:
    """At most `MAX_OTHERS` of `limits`, which come the tightest first."""
    kept = list(limits)
    for limit in reversed(limits):
        if len(kept) > MAX_OTHERS and any(each.implies(limit) for each in kept if each != limit):
            kept.remove(limit)
    return kept[:MAX_OTHERS]


def _not_kept(limits: Iterable[RateLimit]) -> set[Limit]:
    """Those for which there is no place, and which no limit that is kept implies."""
    least = _least(limits)
    kept = _kept(least)
    return {limit for limit in least if not any(each.implies(limit) for each in kept)}


class MarkPrice(msgspec.Struct, frozen=True):
    """The mark price of one symbol."""

    symbol: str
    mark_price: Decimal
    """In units of the quote asset, exactly as the exchange wrote it."""
    time: int
    """Unix ms."""


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


class _WireError(msgspec.Struct):
    code: _Code
    msg: object = None  # the code counts, also without a text


_open_interest = msgspec.json.Decoder(_WireOpenInterest)
_mark_prices: msgspec.json.Decoder[_WireMarkPrices] = msgspec.json.Decoder(_WireMarkPrices)
_exchange_info = msgspec.json.Decoder(_WireExchangeInfo)
_raw_limits = msgspec.json.Decoder(list[msgspec.Raw])
_rate_limit = msgspec.json.Decoder(RateLimit)
_limit_type = msgspec.json.Decoder(_WireLimitType)
_server_time = msgspec.json.Decoder(_WireServerTime)
_error = msgspec.json.Decoder(_WireError)


def check_symbol(symbol: object) -> str:
    """`symbol` as a plain `str`, with its ASCII letters in upper case.

    Letters and decimal digits of any script and ``_`` are legal, for the exchange lists Chinese
    names; so are the accents and vowel signs that some scripts write after a letter. Other scripts
    are not changed, not even normalised: the exchange compares names character by character.

    Raises:
        InvalidSymbolError: It cannot be a symbol.
    """
    if not isinstance(symbol, str):
        raise InvalidSymbolError(symbol, f"it must be a str, not {type(symbol).__name__}")
    if _ASCII_SYMBOL.fullmatch(symbol):
        return str.upper(symbol)
    if not 0 < len(symbol) <= MAX_SYMBOL:
        raise InvalidSymbolError(symbol, f"it must have 1 to {MAX_SYMBOL} characters")
    legal = _starts_a_name
    for character in symbol:
        if not legal(character):
            raise InvalidSymbolError(symbol, "it must be letters, digits and _")
        legal = _continues_a_name
    return "".join(c.upper() if c.isascii() else c for c in symbol)


def check_symbols(symbols: Iterable[str]) -> tuple[str, ...]:
    """Each of them as `check_symbol` gives it, once, in the order asked for.

    Raises:
        InvalidSymbolError: One of them cannot be a symbol; or it is a single `str`, of which every
            letter would be taken for a symbol.
    """
    if isinstance(symbols, str | bytes):
        raise InvalidSymbolError(symbols, "a list of them is needed, such as ['BTCUSDT']")
    return tuple(dict.fromkeys(map(check_symbol, symbols)))


def decode_open_interest(body: bytes, symbol: str) -> OpenInterest:
    """The answer to a question for `symbol`.

    A field that comes twice is refused, for nobody can say which one is meant.

    Raises:
        WrongSymbolError: It is for another symbol.
        DecodeError: It is not what the exchange documents.
        ResponseError: It is an error, under status 200.
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
        ResponseError: It is an error, under status 200.
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
        ResponseError: It is an error, under status 200.
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
    except _MALFORMED:
        return (), (_shown(raw),)
    limits, texts, ignored = list[RateLimit](), list[str](), list[str]()
    for row in rows:
        try:
            limit = _rate_limit.decode(row)
        except _MALFORMED:
            if _may_be_ours(row):
                ignored.append(_shown(row))
            continue
        limits.append(limit)
        texts.append(_shown(row))
        if limit.is_ours and not limit.is_sane:
            ignored.append(texts[-1])
    excess = _not_kept(limits)
    for limit, text in zip(limits, texts, strict=True):
        seconds, counts_requests = _span(limit)
        if limit.is_ours and Limit(seconds, limit.limit, counts_requests) in excess:
            ignored.append(text)
    return tuple(limits), tuple(ignored[:MAX_OTHERS])


def _may_be_ours(row: msgspec.Raw) -> bool:
    """Whether a limit that cannot be read may limit our requests."""
    try:
        return _limit_type.decode(row).rate_limit_type in (_WEIGHT, _REQUESTS)
    except _MALFORMED:
        return True


def _shown(raw: msgspec.Raw) -> str:
    return printable(_one_line(_start_of(bytes(raw))), 120)


def decode_server_time(body: bytes) -> int:
    """The exchange's clock, Unix ms.

    Raises:
        DecodeError: It is not what the exchange documents.
        ResponseError: It is an error, under status 200.
    """
    return _decode(_server_time, body).server_time


def decode_error(status: int, body: bytes, retry_at: datetime | None = None) -> ResponseError:
    """The exception for an answer that is an error. Never raises.

    A text that names the end of a ban means a ban, whatever the status says but 429, 451 and 5xx:
    bans were seen under 403 too [O].

    Args:
        status: HTTP status; says more than the body, which a proxy may have written.
        body: JSON of the exchange, or anything.
        retry_at: When requests are sent again; None takes the time in the text, or else 60 s for
            429 and 120 s for 418.
    """
    code, text = _code_and_text(body)
    message = _message(text)
    ban_end = _instant(ban_end_ms(text))
    if status == 429:
        until = retry_at or ban_end or datetime.now(UTC) + UNKNOWN_HOLD
        return RateLimitedError(status, code, message, until)
    if status == 418 or (ban_end is not None and status != 451 and status < 500):
        until = retry_at or ban_end or datetime.now(UTC) + UNKNOWN_BAN
        return BannedError(status, code, message, until)
    if status in (403, 451):
        return ForbiddenError(status, code, message)
    if status == 408 or status >= 500 or code in SERVER_SIDE:
        return ServerError(status, code, message)
    if code == TOO_MANY:
        until = retry_at or datetime.now(UTC) + UNKNOWN_HOLD
        return RateLimitedError(status, code, message, until)
    if code == UNKNOWN:
        return UnknownSymbolError(status, code, message)
    if code == NOT_TRADING:
        return SymbolNotTradingError(status, code, message)
    return ResponseError(status, code, message)


def ban_end_ms(text: str) -> int | None:
    """The end of a ban named in `text`, Unix ms [O]; None when there is none, or it is absurd."""
    match = _BANNED.search(text)
    return int(match[1]) if match else None


def stated_limit(text: str) -> int | None:
    """The weight per minute named in the text of a 429 [O]; None when there is no sane one."""
    match = _LIMIT.search(text)
    return limit if match and MIN_STATED <= (limit := int(match[1])) <= MAX_LIMIT else None


def _starts_a_name(character: str) -> bool:
    # Not str.isalnum: that takes ², ½ and Ⅷ.
    category = unicodedata.category(character)
    return character == "_" or category[0] == "L" or category == "Nd"


def _continues_a_name(character: str) -> bool:
    return _starts_a_name(character) or unicodedata.category(character) in ("Mn", "Mc")


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except _MALFORMED as error:
        code, text = _code_and_text(body)
        if code is not None:
            raise decode_error(200, body) from error
        why = printable(str(error), 100)
        raise DecodeError(f"not the documented answer ({why}): {_one_line(text)}") from error


def _check_repeated(body: bytes) -> None:
    try:
        json.loads(body, object_pairs_hook=_refuse_repeated)
    except _MALFORMED as error:
        why = printable(str(error), 100)
        text = _one_line(_start_of(body))
        raise DecodeError(f"not the documented answer ({why}): {text}") from error


def _refuse_repeated(pairs: list[tuple[str, object]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a field comes twice")


def _code_and_text(body: bytes) -> tuple[int | None, str]:
    """What the exchange says in its usual error, or the start of whatever this is."""
    try:
        wire = _error.decode(body)
    except _MALFORMED:
        return None, _start_of(body)
    return wire.code, wire.msg[:MAX_TEXT_READ] if isinstance(wire.msg, str) else ""


def _start_of(body: bytes) -> str:
    return body[:MAX_TEXT_READ].decode("utf-8", "replace")


def _one_line(text: str) -> str:
    return printable(" ".join(text.split())) or "(no text)"


def _message(text: str) -> str:
    """On one line; from the end of a ban on, when that comes too late in `text` to be shown."""
    message, ban = _one_line(text), _BANNED.search(text)
    return message if ban is None or _BANNED.search(message) else _one_line(text[ban.start() :])


def _instant(unix_ms: int | None) -> datetime | None:
    return None if unix_ms is None else _EPOCH + timedelta(milliseconds=unix_ms)
