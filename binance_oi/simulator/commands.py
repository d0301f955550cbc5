"""Defines what a test can command a local exchange: values, failures, delays, bans, listings.

The rule of this file: it defines every command once, with its types. A `LocalExchange` runs it at
once, and `Admin` sends it to an exchange of another process.
"""

import json
from collections.abc import Callable
from datetime import date
from decimal import Decimal, InvalidOperation
from http.client import HTTPConnection
from math import isfinite
from typing import Any
from urllib.parse import urlsplit

ADMIN = "/admin"  # below the URL of an exchange
PATIENCE_S = 60.0  # s that `Admin` waits for the answer to a command
_ERRORS: dict[str, type[Exception]] = {"TypeError": TypeError, "ValueError": ValueError}

Number = Decimal | str | int


class Commands:
    """The commands that a test may give to an exchange, from any thread.

    A command affects requests from the next one on. If two calls of `fail` affect the same answers,
    the second begins when the first is used up. The same holds for `drop`, `delay` and
    `hide_headers`. A dropped answer uses up no failure.

    Raises:
        ValueError: An argument is out of range, or a symbol is not listed, but has to be.
        TypeError: An argument has a wrong type.
    """

    def set_open_interest(self, symbol: str, value: Number) -> None:
        """Fix the open interest of a symbol. Each call is a new observation with a later time.

        Args:
            symbol: A listed symbol.
            value: Open interest in the base asset, exactly as answers show it; not a `float`.
        """
        self._do("set_open_interest", symbol=symbol, value=_digits("value", value))

    def set_mark_price(self, symbol: str, price: Number) -> None:
        """Fix the mark price of a symbol, with exactly these digits."""
        self._do("set_mark_price", symbol=symbol, price=_digits("price", price))

    def jump(self, symbol: str, share: float) -> None:
        """Change open interest by a share of itself, as one observation.

        Afterwards the value moves on from there, or stays if `set_open_interest` has fixed it.

        Args:
            symbol: A listed symbol.
            share: 0.05 adds 5 %, -0.5 halves it.
        """
        self._do("jump", symbol=symbol, share=_number("share", share, above=-1.0))

    def fail(self, times: int = 1, *, status: int = 503, symbol: str | None = None) -> None:
        """Answer the next requests with an error. They still cost their weight.

        A request that the exchange refuses anyway is not one of them.

        By default the client retries after a 5xx, so a caller sees only the third failure in a row.

        Args:
            times: The number of requests.
            status: An HTTP status from 400 to 599. For 418 see `ban`.
            symbol: Fail only requests for this symbol; None for all requests.
        """
        if not 400 <= _count("status", status) <= 599 or status == 418:
            raise ValueError(f"status must be from 400 to 599, and not 418 (see ban): {status!r}")
        self._do("fail", times=_count("times", times), status=status, symbol=symbol)

    def drop(self, times: int = 1, *, symbol: str | None = None) -> None:
        """Close the connection instead of answering the next requests. They cost their weight."""
        self._do("drop", times=_count("times", times), symbol=symbol)

    def delay(self, seconds: float, times: int = 1, *, symbol: str | None = None) -> None:
        """Delay the next answers by `seconds`. The exchange counts their requests without a
        delay."""
        seconds = _number("seconds", seconds, above=0.0)
        self._do("delay", seconds=seconds, times=_count("times", times), symbol=symbol)

    def ban(self, seconds: float | None = None) -> None:
        """Ban this IP address now (418).

        Args:
            seconds: How long; None for the length that `Bans` gives the next ban.
        """
        if seconds is not None:
            seconds = _number("seconds", seconds, above=0.0)
        self._do("ban", seconds=seconds)

    def end_ban(self) -> None:
        """End the ban. A client that saw the ban still waits until the end that it was given."""
        self._do("end_ban")

    def hide_headers(self, times: int | None = None) -> None:
        """Omit the used weight from the next answers; None: until `show_headers` or `reset`."""
        self._do("hide_headers", times=None if times is None else _count("times", times))

    def show_headers(self) -> None:
        """Undo `hide_headers`."""
        self._do("show_headers")

    def list_symbol(self, symbol: str) -> None:
        """List a symbol as trading; its name ends in a quote asset, such as ``NEWUSDT``."""
        self.set_status(symbol, "TRADING")

    def delist(self, symbol: str) -> None:
        """End the trading of a symbol. It stays listed as ``SETTLING``, as on the real exchange."""
        self._do("delist", symbol=symbol)

    def set_status(self, name: str, status: str) -> None:
        """Change the status of a symbol, or list a new one, from now on.

        Raises:
            ValueError: A new name has no known quote asset.
        """
        self._do("set_status", name=name, status=status)

    def republish(self, symbol: str, day: str) -> None:
        """Publish a day of the archive again, with another checksum and faults in other rows.

        Args:
            symbol: A listed symbol.
            day: Such as ``2026-11-25``. If the day had no file, it has one from then on.
        """
        self._do("republish", symbol=symbol, day=_day("day", day))

    def reset(self) -> None:
        """Cancel all pending failures, drops, delays and hidden headers."""
        self._do("reset")

    def _do(self, command: str, **arguments: Any) -> None:
        raise NotImplementedError


class Admin(Commands):
    """The same commands for an exchange of another process or thread, through its URL.

    Commands cost no weight. A call blocks until the exchange has run the command, so never call
    one in the event loop of the exchange.

        with spawn() as url:
            Admin(url).fail(2)

    Args:
        url: The URL of the exchange, from `LocalExchange.url` or `spawn`.
    """

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url.rstrip("/"))

    def __repr__(self) -> str:
        return f"<Admin {self._parts.geturl()}>"

    def _do(self, command: str, **arguments: Any) -> None:
        body = json.dumps({"command": command, "arguments": arguments})
        host, port = self._parts.hostname or "", self._parts.port
        connection = HTTPConnection(host, port, timeout=PATIENCE_S)  # no proxy, because it is local
        try:
            connection.request("POST", self._parts.path + ADMIN, body)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status != 200:
            outcome = json.loads(text)
            raise _ERRORS.get(outcome.get("error"), RuntimeError)(outcome.get("text"))


def obey(do: Callable[..., None], body: bytes) -> tuple[int, dict[str, str]]:
    """Run a command that `Admin` has sent; return the status and the body of the answer."""
    try:
        sent = json.loads(body)
        do(sent["command"], **sent["arguments"])
    except (TypeError, ValueError, KeyError) as error:
        kind = "TypeError" if isinstance(error, TypeError) else "ValueError"
        return 400, {"error": kind, "text": str(error)}
    return 200, {}


def _digits(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, Decimal | str | int):
        raise TypeError(f"{name} must be a Decimal, str or int, not {type(value).__name__}")
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise ValueError(f"{name} must be a number: {value!r}") from None
    if not number.is_finite() or number < 0:
        raise ValueError(f"{name} must be finite and not negative: {value!r}")
    return f"{number:f}"


def _number(name: str, value: object, *, above: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be an int or a float, not {type(value).__name__}")
    if not (isfinite(value) and value > above):
        raise ValueError(f"{name} must be finite and above {above:g}: {value!r}")
    return float(value)


def _day(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    return date.fromisoformat(value).isoformat()


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be above 0: {value!r}")
    return value
