"""Names of symbols: which text can be one.

The rule of this file: what cannot be a symbol is refused before anything is sent, and a name is
never changed but for the case of its ASCII letters.
"""

import re
import unicodedata
from collections.abc import Container, Iterable
from contextlib import suppress

from binance_oi.errors import InvalidSymbolError

MAX_SYMBOL = 50  # characters; the exchange's own pattern ends there [O 2025-12, spot]
_ASCII_SYMBOL = re.compile(r"[A-Za-z0-9_]{1,50}")


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


def check_symbols(
    symbols: Iterable[str], odd: Container[str] = frozenset[str]()
) -> tuple[str, ...]:
    """Each of them as `check_symbol` gives it, once, in the order asked for.

    Args:
        symbols: Names.
        odd: See `odd_names`: names that stay as they are.

    Raises:
        InvalidSymbolError: One of them cannot be a symbol; or it is a single `str`, of which every
            letter would be taken for a symbol.
    """
    if isinstance(symbols, str | bytes):
        raise InvalidSymbolError(symbols, "a list of them is needed, such as ['BTCUSDT']")
    if not odd:
        return tuple(dict.fromkeys(map(check_symbol, symbols)))
    return tuple(dict.fromkeys(_known_or_checked(symbol, odd) for symbol in symbols))


def odd_names(listed: Iterable[str]) -> frozenset[str]:
    """Names that the exchange lists and `check_symbol` refuses or changes, such as ``BTC-USDT``.

    One whose upper case is listed as well is none of them: a caller who writes it means the other.
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
    """Whether the exchange may list it under this name, and a line of CSV holds it without quotes.

    More than `check_symbol` takes: what a new kind of name looks like is the exchange's business.
    """
    return 0 < len(symbol) <= MAX_SYMBOL and symbol.isprintable() and not {*symbol} & {*',"'}


def _starts_a_name(character: str) -> bool:
    # Not str.isalnum: that takes ², ½ and Ⅷ.
    category = unicodedata.category(character)
    return character == "_" or category[0] == "L" or category == "Nd"


def _continues_a_name(character: str) -> bool:
    return _starts_a_name(character) or unicodedata.category(character) in ("Mn", "Mc")
