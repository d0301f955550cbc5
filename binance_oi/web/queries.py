"""Reads the parameters of a query strictly.

The rule of this file: pure functions. If a parameter is unknown, repeated or out of range, the
visitor gets status 400. So a misspelt name never silently selects the default.
"""

import re
from collections.abc import Collection
from typing import Final
from urllib.parse import unquote_plus

from binance_oi.encoding import Decimals
from binance_oi.errors import InvalidSymbolError
from binance_oi.exchange.symbols import check_symbol
from binance_oi.web.problems import KINDS, Kind, ProblemError

MALFORMED: Final = Kind(400, "query", "The query is malformed.")
TOO_LONG: Final = Kind(414, "query", "The query is too long.")
LONGEST_AGE: Final = 366 * 86_400.0  # s: the largest number of seconds in a query

_INVALID_SYMBOL = next(kind for type_, kind in KINDS if type_ is InvalidSymbolError)
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?", re.ASCII)
_INSTANT = re.compile(r"[0-9]{1,15}", re.ASCII)
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Query:
    """The parameters of one request, each at most once.

    A method raises `ProblemError` if its parameter has a wrong value.

    Args:
        text: The query, percent-encoded.
        names: The parameters that the route knows.
        most: The most characters of a query.

    Raises:
        ProblemError: The query is malformed or too long, or a parameter is unknown or repeated.
    """

    def __init__(self, text: str, names: Collection[str], most: int) -> None:
        if len(text) > most:
            raise ProblemError(TOO_LONG)
        self._values: dict[str, str] = {}
        for part in filter(None, text.split("&")):
            name, equals, value = part.partition("=")
            if name not in names or not equals:
                raise ProblemError(
                    MALFORMED, f"The parameters of this route: {', '.join(names) or 'none'}."
                )
            if name in self._values:
                raise ProblemError(MALFORMED, f"{name} is given twice.")
            self._values[name] = _decoded(name, value)

    def text(self, name: str) -> str | None:
        """Return the text of a parameter; None if it is not given."""
        return self._values.get(name)

    def one_of(self, name: str, choices: Collection[str], default: str) -> str:
        """Return a parameter that must be one of `choices`."""
        value = self._values.get(name, default)
        if value not in choices:
            raise ProblemError(MALFORMED, f"{name} is one of {', '.join(choices)}.")
        return value

    def flag(self, name: str) -> bool:
        """Whether a parameter is ``true``."""
        return self.one_of(name, ("true", "false"), "false") == "true"

    def decimals(self) -> Decimals:
        """Return the format in which the visitor wants decimals."""
        return (
            "number" if self.one_of("decimal", ("text", "number"), "text") == "number" else "text"
        )

    def seconds(self, name: str) -> float | None:
        """Return a parameter in seconds; None if it is not given."""
        value = self._values.get(name)
        if value is None:
            return None
        if not _SECONDS.fullmatch(value) or float(value) > LONGEST_AGE:
            most = f"{LONGEST_AGE:.0f}"
            raise ProblemError(MALFORMED, f"{name} is 0 to {most} seconds, such as 2 or 0.5.")
        return float(value)

    def count(self, name: str, most: int) -> int | None:
        """Return a parameter that is a number from 1 to `most`; None if it is not given."""
        value = self._values.get(name)
        if value is None:
            return None
        if not _INSTANT.fullmatch(value) or not 1 <= int(value) <= most:
            raise ProblemError(MALFORMED, f"{name} is a number from 1 to {most}.")
        return int(value)

    def instant(self, name: str) -> int | None:
        """Return a parameter in Unix ms; None if it is not given."""
        value = self._values.get(name)
        if value is None:
            return None
        if not _INSTANT.fullmatch(value):
            raise ProblemError(MALFORMED, f"{name} is an instant in Unix ms.")
        return int(value)

    def symbols(self, most: int) -> tuple[str, ...] | None:
        """Return the parameter `symbols`, names separated by commas; None if it is not given."""
        value = self._values.get("symbols")
        if value is None:
            return None
        if value.count(",") >= most:
            raise ProblemError(MALFORMED, f"A request may name at most {most} symbols.")
        return tuple(dict.fromkeys(map(symbol_of, value.split(","))))


def symbol_of(text: str) -> str:
    """Return the symbol that a visitor named.

    Raises:
        ProblemError: The text cannot be the name of a symbol.
    """
    try:
        return check_symbol(text)
    except InvalidSymbolError:
        raise ProblemError(_INVALID_SYMBOL) from None


def _decoded(name: str, value: str) -> str:
    try:
        if _BAD_ESCAPE.search(value):
            raise ProblemError(MALFORMED, f"{name} has a % that begins no escape.")
        return unquote_plus(value, errors="strict")
    except UnicodeDecodeError:
        raise ProblemError(MALFORMED, f"{name} is not UTF-8.") from None
