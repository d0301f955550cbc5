"""Every exception that leaves this package, as one tree.

    BinanceOIError
    ├── InvalidSymbolError (also ValueError)      correct the symbol; nothing was sent
    ├── TransportError                            try again later; .retry says when it helps
    │   └── TransportTimeoutError (also TimeoutError)
    ├── ResponseError                             read .status, .code and .message
    │   ├── UnknownSymbolError                    drop the symbol
    │   ├── SymbolNotTradingError                 leave the symbol out until it trades
    │   ├── RateLimitedError                      wait until .retry_at
    │   ├── BannedError                           send nothing before .retry_at
    │   ├── ForbiddenError                        ask a person: firewall or region
    │   └── ServerError                           try again later
    ├── DecodeError                               report it: the exchange changed, or is not there
    │   └── WrongSymbolError
    ├── BudgetExhaustedError                      wait until .retry_at, or allow a longer max_wait
    ├── ClientClosedError                         make a new client
    └── RecordingError                            repair or move the file
        ├── OccupiedError                         wait until the other recorder ends
        └── StorageError                          nothing is stored now; try again later

The rule of this file: the type names the caller's next step. Every exception pickles, so required
arguments are positional. A server's text is escaped and bounded.
"""

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from binance_oi.encoding import Decimals, EncodableByKey, check_decimals, plain
from binance_oi.times import iso

__all__ = [
    "BannedError",
    "BinanceOIError",
    "BudgetExhaustedError",
    "ClientClosedError",
    "DecodeError",
    "ForbiddenError",
    "InvalidSymbolError",
    "OccupiedError",
    "RateLimitedError",
    "Reason",
    "RecordingError",
    "ResponseError",
    "ServerError",
    "StorageError",
    "SymbolNotTradingError",
    "TransportError",
    "TransportTimeoutError",
    "UnknownSymbolError",
    "WrongSymbolError",
    "printable",
]

MAX_TEXT = 200  # characters of a server's text that we show


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """Escape and bound `text` for a log or a terminal: one line, no control of the cursor.

    Unprintable characters become Python escapes; letters of any script stay as they are. The result
    has at most `limit` characters; the last one is ``…`` when text was cut off.
    """
    cut = text[: limit + 1]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


class Reason(StrEnum):
    """The reason for which a request waits, or is never sent."""

    COOLDOWN = "cooldown"
    """The exchange refused a request; nothing is sent until the cooldown ends."""
    PROBE_PENDING = "probe_pending"
    """A probe is on the wire, or due at the rollover, and its count decides."""
    MINUTE_FULL = "minute_full"
    """A minute that may count the request has no budget left."""
    MINUTE_UNCERTAIN = "minute_uncertain"
    """The last minute may not be over, and has no room for what others may have used of it."""
    OTHERS = "others"
    """The rest of the minute is kept for other clients on this IP address."""
    SINGLE_CALLS = "single_calls"
    """Bulk work: the rest of the minute is kept for single calls."""
    CAUTION = "caution"
    """Nothing is known of this IP address yet, or a ban is just over: requests go evenly."""
    SHARE = "share"
    """Our share of the limit is used up."""
    STORE_BUSY = "store_busy"
    """Another process is changing the shared budget."""
    LEASE = "lease"
    """The server of the shared budget has not answered yet, or does not answer."""
    OTHER_LIMIT = "other_limit"
    """A limit on another span than a minute is used up: per 10 s, per day."""
    CONNECTIONS = "connections"
    """The client already has its maximum of requests on the wire."""
    PACE = "pace"
    """The client has sent its maximum of requests for this second."""
    DEADLINE = "deadline"
    """The deadline of a snapshot passed before the request's turn came."""
    TOO_HEAVY = "too_heavy"
    """The weight does not fit into any minute."""


class BinanceOIError(EncodableByKey, Exception):
    """Any error of this package; catch it where every failure has the same next step."""

    def to_dict(self, *, decimals: Decimals = "text") -> dict[str, Any]:
        """The name of its type as ``error``, its text as ``text``, and every attribute.

        Ready for any JSON encoder; see `binance_oi.encoding.Encodable`.
        """
        check_decimals(decimals)
        return {name: self._field(name, decimals) for name in self._field_names()}

    def __getitem__(self, name: str) -> Any:
        return self.to_dict()[name]

    def _field_names(self) -> Collection[str]:
        return ("error", "text", *(name for name in vars(self) if not name.startswith("_")))

    def _field(self, name: str, decimals: Decimals) -> Any:
        if name == "error":
            return type(self).__name__
        return plain(str(self) if name == "text" else getattr(self, name), decimals)


class InvalidSymbolError(BinanceOIError, ValueError):
    """The argument cannot be a symbol; nothing was sent. Correct the caller."""

    def __init__(self, symbol: object, reason: str) -> None:
        super().__init__(symbol, reason)
        self.symbol = symbol
        """The argument, of whatever type."""
        self.reason = reason

    def __str__(self) -> str:
        # Show only the type of anything but a str: its repr may be endless, or fail.
        symbol, kind = self.symbol, type(self.symbol).__name__
        shown = repr(symbol[:MAX_TEXT]) if isinstance(symbol, str) else f"<{kind}>"
        return f"{printable(shown, 60)} is not a symbol: {self.reason}"

    def _field(self, name: str, decimals: Decimals) -> Any:
        if name != "symbol":
            return super()._field(name, decimals)
        symbol, kind = self.symbol, type(self.symbol).__name__
        return printable(symbol) if isinstance(symbol, str) else f"<{kind}>"


class TransportError(BinanceOIError):
    """There was no usable HTTP answer: DNS, refused, reset, TLS, broken framing.

    Try again as `retry` says; if that is "never" (certificates), ask a person.
    """

    def __init__(self, message: str, retry: str = "later") -> None:
        super().__init__(message, retry)
        self.message = message
        self.retry = retry
        """Whether another attempt may help: "now" (only a kept connection was dead), "later" or
        "never"."""

    def __str__(self) -> str:
        return self.message


class TransportTimeoutError(TransportError, TimeoutError):
    """There was no complete answer within `timeout`. Try again later, or allow more time."""


class ResponseError(BinanceOIError):
    """The exchange answered with an error. Read `status`, `code` and `message`."""

    def __init__(self, status: int, code: int | None, message: str, *more: object) -> None:
        super().__init__(status, code, message, *more)
        self.status = status
        """HTTP status."""
        self.code = code
        """The exchange's own code; None when the body was not its usual error."""
        self.message = message
        """The exchange's text, escaped and bounded if this package decoded it."""

    def __str__(self) -> str:
        code = "" if self.code is None else f" (code {self.code})"
        return f"{self.status}{code}: {printable(self.message)}"


NOT_LISTED: Final = "the exchange does not list it"
"""Why a symbol is unknown, where the list of symbols says it."""


class UnknownSymbolError(ResponseError):
    """The exchange does not know this symbol (-1121). Drop it."""


class SymbolNotTradingError(ResponseError):
    """The symbol is listed but not trading now (-4108). Leave it out until it trades."""


class ForbiddenError(ResponseError):
    """The firewall (403) or the region (451) forbids the request. Ask a person; do not retry."""


class ServerError(ResponseError):
    """The exchange failed (5xx, 408), also for our retries. Try again later."""


class _RetryAtError(ResponseError):
    """An error that ends by itself. Wait until `retry_at`, by this machine's clock."""

    def __init__(self, status: int, code: int | None, message: str, retry_at: datetime) -> None:
        super().__init__(status, code, message, retry_at)
        self.retry_at = retry_at
        """When to try again (aware UTC)."""

    def __str__(self) -> str:
        return f"{super().__str__()} [until {iso(self.retry_at)}]"


class RateLimitedError(_RetryAtError):
    """The exchange's limit was reached (429). Wait until `retry_at`."""


class BannedError(_RetryAtError):
    """This IP address is banned (418). Send nothing before `retry_at`: that prolongs the ban."""


class DecodeError(BinanceOIError):
    """A 2xx answer has a body that the exchange does not document. Report it, with its text."""


class WrongSymbolError(DecodeError):
    """The answer is for another symbol than the requested one.

    The connection may hold more answers to other requests: close it, then ask again.
    """


class BudgetExhaustedError(BinanceOIError):
    """Not admitted within `max_wait`; nothing was sent. Wait until `retry_at`, or allow more."""

    def __init__(
        self, message: str, retry_at: datetime | None, reason: Reason | None = None
    ) -> None:
        super().__init__(message, retry_at, reason)
        self.message = message
        """What the request waited for, in words."""
        self.retry_at = retry_at
        """When there may be room (aware UTC); None when that is unknown, or never."""
        self.reason = reason
        """What the request waited for; None in an error that another package raised."""

    def __str__(self) -> str:
        return self.message


class ClientClosedError(BinanceOIError):
    """The client was closed, or belongs to another event loop or process. Make a new one."""

    def __init__(self, message: str = "the client is closed") -> None:
        super().__init__(message)


class RecordingError(BinanceOIError):
    """A recording cannot be used: not a recording, too new, in use, or in an unsuitable place.

    Repair or move the file.
    """


class OccupiedError(RecordingError):
    """Another recorder records there. Wait until it ends (`Recorder(standby=True)` does)."""


class StorageError(RecordingError):
    """A sink cannot store anything now, and stored nothing of the last call. Try again later."""
