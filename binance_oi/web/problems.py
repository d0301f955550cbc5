"""Converts errors to problem details, which visitors get as answers.

The rule of this file: an answer shows a visitor what to do next, and nothing about this machine. It
contains neither the exchange's text, which may name our IP address, nor the text of a
`RecordingError`, which names a path. If the exchange limits, bans or blocks us, the visitor does
not get the exchange's status, but a 503 with the time to try again.

Source: RFC 9457.
"""

import math
import time
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus
from typing import Final, NamedTuple

from binance_oi.encoding import json_text
from binance_oi.errors import (
    BannedError,
    BinanceOIError,
    BudgetExhaustedError,
    ClientClosedError,
    DecodeError,
    ForbiddenError,
    InvalidSymbolError,
    RateLimitedError,
    RecordingError,
    ResponseError,
    ServerError,
    SymbolNotTradingError,
    TransportError,
    TransportTimeoutError,
    UnknownSymbolError,
)
from binance_oi.web.messages import NOSNIFF, Answer, Headers

KIND: Final = "application/problem+json"
PREFIX: Final = "urn:binance-oi:"  # the beginning of each problem type
AGAIN_AFTER: Final = 5  # s: `Retry-After` if we do not know when the problem ends
LONGEST: Final = 86_400  # s: the longest `Retry-After`


class Kind(NamedTuple):
    """The answer for one kind of error."""

    status: int
    """The HTTP status."""
    name: str
    """The end of the problem type."""
    detail: str
    """The text for people."""
    again: bool = False
    """Whether it helps to wait and try again."""


# The first row whose type fits decides.
KINDS: tuple[tuple[type[BinanceOIError], Kind], ...] = (
    (InvalidSymbolError, Kind(400, "invalid-symbol", "This cannot be the name of a symbol.")),
    (UnknownSymbolError, Kind(404, "unknown-symbol", "The exchange does not list this symbol.")),
    (
        SymbolNotTradingError,
        Kind(404, "not-trading", "The exchange lists this symbol, and does not trade it now."),
    ),
    (
        BudgetExhaustedError,
        Kind(503, "budget", "The budget of requests to the exchange has no room now.", again=True),
    ),
    (
        RateLimitedError,
        Kind(503, "limited", "The exchange takes no requests of this service now.", again=True),
    ),
    (
        BannedError,
        Kind(503, "banned", "The exchange takes no requests of this service now.", again=True),
    ),
    (
        ForbiddenError,
        Kind(503, "forbidden", "The exchange refuses the requests of this service.", again=True),
    ),
    (ServerError, Kind(502, "exchange", "The exchange failed.", again=True)),
    (ResponseError, Kind(502, "exchange", "The exchange refused the request.")),
    (DecodeError, Kind(502, "exchange", "The answer of the exchange is not the documented one.")),
    (TransportTimeoutError, Kind(504, "timeout", "The exchange did not answer in time.", True)),
    (TransportError, Kind(502, "network", "The exchange cannot be reached.", again=True)),
    (RecordingError, Kind(503, "recording", "The recording cannot be read now.", again=True)),
    (ClientClosedError, Kind(503, "closed", "The service is about to end.", again=True)),
)
UNKNOWN: Final = Kind(500, "unexpected", "The service failed.")


class ProblemError(Exception):
    """Ends a request with a problem.

    Args:
        kind: The problem.
        detail: Replaces the text of `kind`.
        after: Seconds after which the visitor may try again; None leaves them out of the answer.
        headers: More headers.
    """

    def __init__(
        self,
        kind: Kind,
        detail: str | None = None,
        *,
        after: float | None = None,
        headers: Headers = (),
    ) -> None:
        super().__init__(kind.name)
        self.kind: Kind = kind
        self.detail: str = kind.detail if detail is None else detail
        self.after: float | None = after
        self.headers: Headers = headers

    def answer(self) -> Answer:
        """Return the answer for the visitor."""
        after = None if self.after is None else min(max(1, math.ceil(self.after)), LONGEST)
        fields: dict[str, object] = {
            "type": f"{PREFIX}{self.kind.name}",
            "title": HTTPStatus(self.kind.status).phrase,
            "status": self.kind.status,
            "detail": self.detail,
        }
        headers = [("Content-Type", KIND), ("Cache-Control", "no-store"), NOSNIFF, *self.headers]
        if after is not None:
            fields["retry_after"] = after
            headers.append(("Retry-After", str(after)))
        return Answer(self.kind.status, tuple(headers), json_text(fields).encode())


def problem(
    error: BinanceOIError,
    held_until: datetime | None = None,
    clock: Callable[[], float] = time.time,
) -> ProblemError:
    """Make the problem for an error of this package.

    Args:
        error: The error.
        held_until: The end of the cooldown; None if there is none.
        clock: Returns Unix seconds.
    """
    kind = next((kind for type_, kind in KINDS if isinstance(error, type_)), UNKNOWN)
    if not kind.again:
        return ProblemError(kind)
    until = getattr(error, "retry_at", None) or held_until
    after = AGAIN_AFTER if until is None else until.timestamp() - clock()
    return ProblemError(kind, after=after)
