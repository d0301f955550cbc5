"""Every exception that leaves this package, as one tree.

    BinanceOIError
    ├── InvalidSymbolError (also ValueError)      mend the symbol; nothing was sent
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
    └── ClientClosedError                         make a new client

The rule of this file: the type names the caller's next step. All of them pickle, so required
arguments are positional, and text that came from a server is escaped and bounded.
"""

from datetime import datetime

__all__ = [
    "BannedError",
    "BinanceOIError",
    "BudgetExhaustedError",
    "ClientClosedError",
    "DecodeError",
    "ForbiddenError",
    "InvalidSymbolError",
    "RateLimitedError",
    "ResponseError",
    "ServerError",
    "SymbolNotTradingError",
    "TransportError",
    "TransportTimeoutError",
    "UnknownSymbolError",
    "WrongSymbolError",
    "printable",
]

MAX_TEXT = 200  # characters of a server's text that we show


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """`text` fit for a log or a terminal: one line, nothing that moves the cursor, bounded."""
    cut = text[: limit + 1]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


class BinanceOIError(Exception):
    """Anything that this package raises."""


class InvalidSymbolError(BinanceOIError, ValueError):
    """What was given cannot be a symbol; nothing was sent."""

    def __init__(self, symbol: object, reason: str) -> None:
        super().__init__(symbol, reason)
        self.symbol = symbol
        self.reason = reason

    def __str__(self) -> str:
        return f"{printable(repr(self.symbol), 60)} is not a symbol: {self.reason}"


class TransportError(BinanceOIError):
    """There is no usable HTTP answer: DNS, refused, reset, TLS, broken framing."""

    def __init__(self, message: str, retry: str = "later") -> None:
        super().__init__(message, retry)
        self.message = message
        self.retry = retry
        """Whether another attempt may help: "now", "later" or "never"."""

    def __str__(self) -> str:
        return self.message


class TransportTimeoutError(TransportError, TimeoutError):
    """There was no whole answer within `timeout`."""


class ResponseError(BinanceOIError):
    """The exchange answered with an error."""

    def __init__(self, status: int, code: int | None, message: str, *more: object) -> None:
        super().__init__(status, code, message, *more)
        self.status = status
        """HTTP status."""
        self.code = code
        """The exchange's own code; None when the body was not its usual error."""
        self.message = message
        """The exchange's text, as it came."""

    def __str__(self) -> str:
        code = "" if self.code is None else f" (code {self.code})"
        return f"{self.status}{code}: {printable(self.message)}"


class UnknownSymbolError(ResponseError):
    """The exchange never listed this symbol (-1121)."""


class SymbolNotTradingError(ResponseError):
    """The symbol is listed, and not trading now (-4108)."""


class ForbiddenError(ResponseError):
    """The firewall (403) or the region (451) forbids it."""


class ServerError(ResponseError):
    """The exchange failed (5xx, 408); another attempt may help."""


class _RetryAtError(ResponseError):
    def __init__(self, status: int, code: int | None, message: str, retry_at: datetime) -> None:
        super().__init__(status, code, message, retry_at)
        self.retry_at = retry_at
        """When it may be tried again (aware UTC)."""

    def __str__(self) -> str:
        return f"{super().__str__()} [until {self.retry_at.isoformat(timespec='seconds')}]"


class RateLimitedError(_RetryAtError):
    """The exchange's limit was reached (429)."""


class BannedError(_RetryAtError):
    """This IP address is banned (418); whatever is sent before `retry_at` makes it longer."""


class DecodeError(BinanceOIError):
    """A 2xx answer whose body is not what the exchange documents."""


class WrongSymbolError(DecodeError):
    """The answer is for another symbol than the one asked for."""


class BudgetExhaustedError(BinanceOIError):
    """The call could not be admitted within `max_wait`."""

    def __init__(self, message: str, retry_at: datetime | None) -> None:
        super().__init__(message, retry_at)
        self.message = message
        self.retry_at = retry_at
        """When there may be room (aware UTC); None when that is not known, or never."""

    def __str__(self) -> str:
        return self.message


class ClientClosedError(BinanceOIError):
    """The client was closed, or belongs to another event loop or process."""

    def __init__(self, message: str = "the client is closed") -> None:
        super().__init__(message)
