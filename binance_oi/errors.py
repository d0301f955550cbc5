"""The exceptions that this package defines for its callers, as one tree.

    BinanceOIError
    ├── InvalidSymbolError (also ValueError)      correct the symbol
    ├── TransportError                            try again later; .retry says when it helps
    │   └── TransportTimeoutError (also TimeoutError)
    ├── ResponseError                             read .status, .code and .message
    │   ├── UnknownSymbolError                    drop the symbol
    │   ├── SymbolNotTradingError                 leave the symbol out until it trades
    │   ├── RateLimitedError                      wait until .retry_at
    │   ├── BannedError                           send nothing before .retry_at
    │   ├── ForbiddenError                        ask a person: firewall or region
    │   └── ServerError                           try again later
    ├── DecodeError                               report it: this is not the documented answer
    │   └── WrongSymbolError
    ├── BudgetExhaustedError                      wait until .retry_at, or allow a longer max_wait
    ├── ClientClosedError                         make a new client
    └── RecordingError                            do what the text says, such as move a file
        ├── OccupiedError                         wait until the other recorder ends
        └── StorageError                          repeat the same call later

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
    """Escape and bound `text`, so that a log or a terminal can show it on one line.

    Unprintable characters become Python escapes, so they cannot move the cursor. Letters of any
    script stay. The result has at most `limit` characters; if it is cut off, the last one is ``…``.
    """
    cut = text[: limit + 1]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


class Reason(StrEnum):
    """Why a request waits, or is never sent."""

    COOLDOWN = "cooldown"
    """The exchange has refused a request, and we send nothing until the cooldown ends."""
    PROBE_PENDING = "probe_pending"
    """A probe is on the wire, or due at the rollover. Its answer shows whether there is room."""
    MINUTE_FULL = "minute_full"
    """The exchange may count the request in a minute that has no budget left."""
    MINUTE_UNCERTAIN = "minute_uncertain"
    """At the exchange, the previous minute may still run, and other clients may have filled it."""
    OTHERS = "others"
    """We keep the rest of the minute free for other clients on this IP address."""
    SINGLE_CALLS = "single_calls"
    """The request is bulk work, and we keep the rest of the minute free for single calls."""
    CAUTION = "caution"
    """Shortly after a start or a ban, we hold some requests back."""
    SHARE = "share"
    """Our share of the limit is used up."""
    STORE_BUSY = "store_busy"
    """Another process is changing the shared budget."""
    LEASE = "lease"
    """The server of the shared budget has not granted any weight yet, or does not answer."""
    OTHER_LIMIT = "other_limit"
    """A limit whose span is not a minute is used up, such as one per 10 s or per day."""
    CONNECTIONS = "connections"
    """The client already has its maximum of requests on the wire."""
    PACE = "pace"
    """The pace of the client allows no request at this moment."""
    DEADLINE = "deadline"
    """The deadline of the call passed while it waited."""
    TOO_HEAVY = "too_heavy"
    """The weight does not fit into the budget, even if nothing else is charged."""


class BinanceOIError(EncodableByKey, Exception):
    """The base of all errors of this package; catch it if every failure has the same next step."""

    def to_dict(self, *, decimals: Decimals = "text") -> dict[str, Any]:
        """Return a dictionary, ready for any JSON encoder.

        It has the name of the type as ``error``, the text as ``text``, and every attribute. See
        `binance_oi.encoding.Encodable`.
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
    """The argument cannot be a symbol, or the exchange lists none of the symbols of a poll.

    Correct the argument. If it cannot be a symbol, nothing was sent.
    """

    def __init__(self, symbol: object, reason: str) -> None:
        super().__init__(symbol, reason)
        self.symbol = symbol
        """The argument, of any type."""
        self.reason = reason
        """What is wrong with the argument, as text."""

    def __str__(self) -> str:
        # Of an argument that is not a str, show only the type: its repr may be very long, or raise.
        symbol, kind = self.symbol, type(self.symbol).__name__
        shown = repr(symbol[:MAX_TEXT]) if isinstance(symbol, str) else f"<{kind}>"
        return f"{printable(shown, 60)} is not a symbol: {self.reason}"

    def _field(self, name: str, decimals: Decimals) -> Any:
        if name != "symbol":
            return super()._field(name, decimals)
        symbol, kind = self.symbol, type(self.symbol).__name__
        return printable(symbol) if isinstance(symbol, str) else f"<{kind}>"


class TransportError(BinanceOIError):
    """No usable HTTP answer came: DNS, connection refused or reset, TLS, malformed HTTP.

    Try again when `retry` says so. If `retry` is "never", ask a person: for example, a certificate
    is wrong, or the proxy refuses us.
    """

    def __init__(self, message: str, retry: str = "later") -> None:
        super().__init__(message, retry)
        self.message = message
        """The text of the error."""
        self.retry = retry
        """When another attempt may help: "now" (only a kept connection was dead), "later" or
        "never"."""

    def __str__(self) -> str:
        return self.message


class TransportTimeoutError(TransportError, TimeoutError):
    """No complete answer came within `timeout`, or before the deadline of the call.

    Try again later, or allow more time.
    """


class ResponseError(BinanceOIError):
    """The exchange answered with an error. Read `status`, `code` and `message`."""

    def __init__(self, status: int, code: int | None, message: str, *more: object) -> None:
        super().__init__(status, code, message, *more)
        self.status = status
        """The HTTP status."""
        self.code = code
        """The exchange's own code; None if the body was not its usual error."""
        self.message = message
        """The exchange's text, escaped and bounded."""

    def __str__(self) -> str:
        text = printable(self.message)
        if self.code is not None:
            return f"{self.status} (code {self.code}): {text}"
        # A status of 200 says nothing: we have read the reason in a good answer.
        return text if self.status == 200 else f"{self.status}: {text}"


NOT_LISTED: Final = "the exchange does not list it"
"""Why a symbol is unknown, if we know that from the list of symbols."""


REPLACES_IT: Final = "replace=True replaces it"
"""The end of an error about a file that exists. The command line names its option instead."""


class UnknownSymbolError(ResponseError):
    """The exchange does not know this symbol (-1121), or does not list it. Drop it."""


class SymbolNotTradingError(ResponseError):
    """The symbol is listed but not trading now: by the list of symbols, or by the code -4108.

    Leave it out until it trades.
    """


class ForbiddenError(ResponseError):
    """The firewall (403) or the region (451) forbids the request. Ask a person; do not retry."""


class ServerError(ResponseError):
    """The exchange failed (5xx, 408, or a code such as -1001), and no retry is left. Try later."""


class _RetryAtError(ResponseError):
    """A refusal that ends by itself. Wait until `retry_at`, by this machine's clock."""

    def __init__(self, status: int, code: int | None, message: str, retry_at: datetime) -> None:
        super().__init__(status, code, message, retry_at)
        self.retry_at = retry_at
        """When to try again (aware UTC)."""

    def __str__(self) -> str:
        return f"{super().__str__()} [until {iso(self.retry_at)}]"


class RateLimitedError(_RetryAtError):
    """The exchange's limit was reached (429, or the code -1003). Wait until `retry_at`."""


class BannedError(_RetryAtError):
    """This IP address is banned (418, or a text that names the end of a ban).

    Send nothing before `retry_at`; requests prolong the ban.
    """


class DecodeError(BinanceOIError):
    """An answer, or a file of the archive, does not have the documented form.

    Report it, with the text of this error.
    """


class WrongSymbolError(DecodeError):
    """The answer is not for the requested symbol.

    It may be the answer to an earlier request. Other open connections may deliver such answers too,
    so the client opens new connections. Try again.
    """


class BudgetExhaustedError(BinanceOIError):
    """The client did not admit the request within `max_wait`, or before the call's deadline.

    The request was not sent. But an earlier attempt of the same call may have been sent, or an
    identical request of another caller. Wait until `retry_at`, or allow a longer `max_wait`.
    """

    def __init__(
        self, message: str, retry_at: datetime | None, reason: Reason | None = None
    ) -> None:
        super().__init__(message, retry_at, reason)
        self.message = message
        """Why the request waited, as text."""
        self.retry_at = retry_at
        """When there should be room (aware UTC); None if that is unknown, or never."""
        self.reason = reason
        """Why the request waited; None if another package raised the error."""

    def __str__(self) -> str:
        return self.message


class ClientClosedError(BinanceOIError):
    """The client was closed, or belongs to another event loop or process. Make a new one."""

    def __init__(self, message: str = "the client is closed") -> None:
        super().__init__(message)


class RecordingError(BinanceOIError):
    """A recording, or the target of an export, cannot be used.

    For example, the recording is damaged, lacks the requested rows, or was written by a newer
    version; or a file exists already, or is in an unsuitable place. The text names the file or the
    database. Repair or move it, or name another one.
    """


class OccupiedError(RecordingError):
    """Another recorder uses this recording. Wait for its end, as `Recorder(standby=True)` does."""


class StorageError(RecordingError):
    """A recording cannot be read or written now. Try the same call again later.

    The failed call may have stored some rows. A repeated call stores each row once.
    """
