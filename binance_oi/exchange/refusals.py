"""What the exchange says when it refuses.

The rule of this file: no I/O, and nothing is believed. Whatever the bytes are, they become one
exception of ours.

Marks: [D] documented by the exchange, [O] observed live, with the month.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec

from binance_oi.errors import (
    BannedError,
    ForbiddenError,
    RateLimitedError,
    ResponseError,
    ServerError,
    SymbolNotTradingError,
    UnknownSymbolError,
    printable,
)
from binance_oi.exchange.models import MAX_LIMIT

MAX_TEXT_READ = 1000  # of an error; all that we look for stands in its first sentence
MIN_STATED = 5  # weight per minute; what a text names below is more likely something else
NOT_TRADING, UNKNOWN, TOO_MANY = -4108, -1121, -1003  # [O] 2026-10, [D], [D] 2026-11
SERVER_SIDE = frozenset({-1000, -1001, -1006, -1007, -1008})  # [D] 2026-11
UNKNOWN_HOLD = timedelta(seconds=60)  # 429 that names no time: the minute turns
UNKNOWN_BAN = timedelta(seconds=120)  # 418 that names no time: the shortest one [D] 2026-11


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
MALFORMED = (msgspec.MsgspecError, ValueError, RecursionError)

_Code = Annotated[int, msgspec.Meta(gt=-1_000_000, lt=1_000_000)]


class _WireError(msgspec.Struct):
    code: _Code
    msg: object = None  # the code counts, also without a text


_error = msgspec.json.Decoder(_WireError)


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
    code, text = code_and_text(body)
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


def code_and_text(body: bytes) -> tuple[int | None, str]:
    """What the exchange says in its usual error, or the start of whatever this is."""
    try:
        wire = _error.decode(body)
    except MALFORMED:
        return None, start_of(body)
    return wire.code, wire.msg[:MAX_TEXT_READ] if isinstance(wire.msg, str) else ""


def start_of(body: bytes) -> str:
    return body[:MAX_TEXT_READ].decode("utf-8", "replace")


def one_line(text: str) -> str:
    return printable(" ".join(text.split())) or "(no text)"


def _message(text: str) -> str:
    """On one line; from the end of a ban on, when that comes too late in `text` to be shown."""
    message, ban = one_line(text), _BANNED.search(text)
    return message if ban is None or _BANNED.search(message) else one_line(text[ban.start() :])


def _instant(unix_ms: int | None) -> datetime | None:
    return None if unix_ms is None else _EPOCH + timedelta(milliseconds=unix_ms)
