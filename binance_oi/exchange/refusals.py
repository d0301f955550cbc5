"""Parses each refusal of the exchange into a `Refusal`, and makes its exception.

The rule of this file: an answer is parsed once. The governor acts on the `Refusal`, and
`Refusal.error` makes the exception from it. No I/O, no clock, and no trust in the bytes: any bytes
at all become a refusal.

Marks: [D] documented by the exchange, [O] observed live, with the month.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum, auto
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
from binance_oi.exchange.headers import retry_after
from binance_oi.exchange.models import MAX_LIMIT

MAX_TEXT_READ = 1000  # characters of an error; the first sentence contains all that we need
MIN_STATED = 5  # weight per minute; a smaller number in a text probably means something else
NOT_TRADING, UNKNOWN, TOO_MANY = (
    -4108,  # NOT_TRADING [O] 2026-10
    -1121,  # UNKNOWN [D]
    -1003,  # TOO_MANY [D] 2026-11
)
SERVER_SIDE = frozenset({-1000, -1001, -1006, -1007, -1008})  # [D] 2026-11
FIREWALL = 403  # status
FIREWALL_COOLDOWN = 60.0  # s after a 403; then we try again. A block usually lasts 5 minutes [D]
MIN_BAN = 120.0  # s: the shortest ban; bans last "2 minutes to 3 days" [D]
MAX_BAN = 3 * 86_400.0  # s: the longest ban
MAX_RETRY_AFTER = 3600.0  # s: we ignore a longer Retry-After of a 429, and wait for the rollover
NO_TEXT = "(no text)"

_BANNED = re.compile(  # ms of the years 2001 to 2286
    r"banned until ([1-9][0-9]{12})(?!\d)", re.IGNORECASE
)
_LIMIT = re.compile(  # limits of weight only; texts about limits of orders are similar
    r"current limit(?: of IP\([^)]{0,60}\))? is ([1-9][0-9]{0,6})"
    r" request(?:s| weight) per (?:1 )?minute",
    re.IGNORECASE,
)
# All exceptions of msgspec for bad bytes. Invalid UTF-8 raises a ValueError in every version; for
# other bytes, MsgspecError is not a ValueError before msgspec 0.22. So we name both.
MALFORMED = (msgspec.MsgspecError, ValueError, RecursionError)

_Code = Annotated[int, msgspec.Meta(gt=-1_000_000, lt=1_000_000)]


class _WireError(msgspec.Struct):
    code: _Code
    msg: object = None  # any type, so that a bad text does not spoil the code


_error = msgspec.json.Decoder(_WireError)


class Kind(Enum):
    """The kinds of refusals, by their meaning for the sender."""

    LIMITED = auto()
    BANNED = auto()
    FORBIDDEN = auto()
    SERVER = auto()
    UNKNOWN_SYMBOL = auto()
    NOT_TRADING = auto()
    OTHER = auto()


ERRORS: Mapping[Kind, Callable[..., ResponseError]] = {
    Kind.LIMITED: RateLimitedError,
    Kind.BANNED: BannedError,
    Kind.FORBIDDEN: ForbiddenError,
    Kind.SERVER: ServerError,
    Kind.UNKNOWN_SYMBOL: UnknownSymbolError,
    Kind.NOT_TRADING: SymbolNotTradingError,
    Kind.OTHER: ResponseError,
}
BY_CODE: Mapping[int | None, Kind] = {
    TOO_MANY: Kind.LIMITED,
    UNKNOWN: Kind.UNKNOWN_SYMBOL,
    NOT_TRADING: Kind.NOT_TRADING,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal, parsed once from status, headers and text.

    `of` parses status and headers, which come first and contain the cooldown. `with_text` adds the
    text, which may come later or never.
    """

    status: int
    """The HTTP status."""
    kind: Kind
    """What the refusal means for the sender."""
    cooldown: float = 0.0
    """For how many seconds after the arrival of the answer we send nothing. We compute it from
    status and headers, and bound it."""
    code: int | None = None
    """The exchange's own code. None if no text came, or if the text is not the exchange's usual
    error."""
    message: str = NO_TEXT
    """The exchange's text on one line, escaped and bounded."""
    until: float | None = None
    """The end of the ban if the text states it, Unix s by the exchange's clock."""
    limit: int | None = None
    """The limit if the text states it, in weight per minute."""

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], date: float | None) -> "Refusal":
        """Make a refusal from status and headers, before its text.

        Args:
            status: The HTTP status. It has priority over a code in the text, because a proxy may
                have written the text.
            headers: The headers of the answer.
            date: The answer's `Date`, Unix s, to convert an HTTP date in `Retry-After` to seconds.
        """
        kind, cooldown = _kind(status, None, names_ban=False), 0.0
        if kind is Kind.LIMITED:
            after = retry_after(headers, date)
            cooldown = after if after <= MAX_RETRY_AFTER else 0.0
        elif kind is Kind.BANNED:
            cooldown = max(MIN_BAN, min(retry_after(headers, date), MAX_BAN))
        elif status == FIREWALL:
            cooldown = FIREWALL_COOLDOWN
        return cls(status, kind, cooldown)

    def with_text(self, body: bytes) -> "Refusal":
        """Return the refusal with the content of its text. This never raises.

        If the text states the end of a ban, the refusal is a ban, unless the status is 429, 451 or
        5xx. Bans were seen with the status 403 too [O].

        Args:
            body: The body: JSON of the exchange, or any other bytes.
        """
        code, text = code_and_text(body)
        text = unwrapped(text)  # an HTML page may break its lines anywhere
        end = ban_end_ms(text)
        return replace(
            self,
            kind=_kind(self.status, code, names_ban=end is not None),
            code=code,
            message=_message(text),
            until=None if end is None else end / 1000,
            limit=stated_limit(text),
        )

    @property
    def is_temporary(self) -> bool:
        """Whether we know when it ends. If so, its exception has a `retry_at`."""
        return self.kind in (Kind.LIMITED, Kind.BANNED)

    def error(self, retry_at: datetime | None = None) -> ResponseError:
        """Make the exception for this refusal.

        Args:
            retry_at: When we send requests again, by this machine's clock. Required if the refusal
                `is_temporary`.
        """
        more = () if retry_at is None else (retry_at,)
        return ERRORS[self.kind](self.status, self.code, self.message, *more)


class RefusedError(Exception):
    """The answer is a refusal with the status 200. The send loop turns this into another error."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal


def _kind(status: int, code: int | None, *, names_ban: bool) -> Kind:
    """Return the kind.

    The status decides before the code. A named ban decides before both, unless the status is 429,
    451 or 5xx.
    """
    if status == 429:
        return Kind.LIMITED
    if status == 418 or (names_ban and status != 451 and status < 500):
        return Kind.BANNED
    if status in (FIREWALL, 451):
        return Kind.FORBIDDEN
    if status == 408 or status >= 500 or code in SERVER_SIDE:
        return Kind.SERVER
    return BY_CODE.get(code, Kind.OTHER)


def ban_end_ms(text: str) -> int | None:
    """Return the end of a ban in `text`, Unix ms [O]; None if `text` has no valid one."""
    match = _BANNED.search(text)
    return int(match[1]) if match else None


def stated_limit(text: str) -> int | None:
    """Return the limit in `text`, weight per minute [O]; None if `text` has no possible limit."""
    match = _LIMIT.search(text)
    return limit if match and MIN_STATED <= (limit := int(match[1])) <= MAX_LIMIT else None


def code_and_text(body: bytes) -> tuple[int | None, str]:
    """Return code and text of the exchange's usual error, or None and the start of the body."""
    try:
        wire = _error.decode(body)
    except MALFORMED:
        return None, start_of(body)
    return wire.code, wire.msg[:MAX_TEXT_READ] if isinstance(wire.msg, str) else ""


def start_of(body: bytes) -> str:
    """Return the start of a body as text."""
    return body[:MAX_TEXT_READ].decode("utf-8", "replace")


def unwrapped(text: str) -> str:
    """Return `text` on one line, with one blank between two words."""
    return " ".join(text.split())


def one_line(text: str) -> str:
    """Return `text` in a form to show: on one line, escaped, bounded, and never empty."""
    return _shown(unwrapped(text))


def _shown(line: str) -> str:
    return printable(line) or NO_TEXT


def _message(line: str) -> str:
    """Return `line` in a form to show.

    If `line` is so long that we would cut off the end time of a ban, the message begins with the
    words "banned until" instead of the start of `line`.
    """
    message, ban = _shown(line), _BANNED.search(line)
    return message if ban is None or _BANNED.search(message) else _shown(line[ban.start() :])
