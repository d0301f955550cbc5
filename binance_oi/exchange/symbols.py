"""Checks whether a text can be the name of a symbol.

The rule of this file: it refuses an impossible symbol before we send anything. It changes only the
case of ASCII letters in a name. Mark: [O] observed live, with the month.
"""

import re
import unicodedata
from collections.abc import Container, Iterable
from contextlib import suppress

from binance_oi.errors import InvalidSymbolError

MAX_SYMBOL = 50  # characters; the exchange's own pattern has the same bound [O 2025-12, spot]
_ASCII_SYMBOL = re.compile(r"[A-Za-z0-9_]{1,50}")


def check_symbol(symbol: object) -> str:
    """Return `symbol` as a plain `str`, with its ASCII letters in upper case.

    Letters and decimal digits of any script, and ``_``, are legal, because the exchange lists
    Chinese names. Accents and vowel signs, which some scripts write after a letter, are legal too.
    The function does not change or normalise text of other scripts, because the exchange compares
    names character by character.

    Raises:
        InvalidSymbolError: `symbol` cannot be a symbol.
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


def check_symbols(
    symbols: Iterable[str], odd: Container[str] = frozenset[str]()
) -> tuple[str, ...]:
    """Return each symbol once, as `check_symbol` returns it, in the given order.

    Args:
        symbols: Names.
        odd: Names to accept without a change; see `odd_names`.

    Raises:
        InvalidSymbolError: One of `symbols` cannot be a symbol. Or `symbols` is `bytes` or a single
            `str`, which would be a list of one-letter symbols.
        TypeError: `symbols` is not iterable.
    """
    if isinstance(symbols, str | bytes):
        raise InvalidSymbolError(symbols, "symbols must be a list, such as ['BTCUSDT']")
    if not odd:
        return tuple(dict.fromkeys(map(check_symbol, symbols)))
    return tuple(dict.fromkeys(_known_or_checked(symbol, odd) for symbol in symbols))


def odd_names(listed: Iterable[str]) -> frozenset[str]:
    """Return the listed names that `check_symbol` refuses or changes, such as ``BTC-USDT``.

    If both a valid name and its upper case are listed, the result contains neither: a caller who
    writes either means the upper-case name.
    """
    names = frozenset(listed)
    return frozenset(name for name in names if not names & _checked(name))


def _known_or_checked(symbol: object, odd: Container[str]) -> str:
    return symbol if isinstance(symbol, str) and symbol in odd else check_symbol(symbol)


def _checked(name: str) -> frozenset[str]:
    with suppress(InvalidSymbolError):
        return frozenset((check_symbol(name),))
    return frozenset()


def is_name(symbol: str) -> bool:
    """Whether the exchange may list this name, and CSV needs no quotes for it.

    It accepts more than `check_symbol`, because the exchange may invent new kinds of names.
    """
    return 0 < len(symbol) <= MAX_SYMBOL and symbol.isprintable() and not {*symbol} & {*',"'}


def _starts_a_name(character: str) -> bool:
    # Not str.isalnum, which accepts ², ½ and Ⅷ.
    category = unicodedata.category(character)
    return character == "_" or category[0] == "L" or category == "Nd"


def _continues_a_name(character: str) -> bool:
    return _starts_a_name(character) or unicodedata.category(character) in ("Mn", "Mc")
