"""Exceptions form one tree, can be pickled, and are safe to print whatever a server wrote."""

import copy
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binance_oi import errors
from binance_oi.errors import (
    BannedError,
    BinanceOIError,
    BudgetExhaustedError,
    ClientClosedError,
    DecodeError,
    ForbiddenError,
    InvalidSymbolError,
    OccupiedError,
    RateLimitedError,
    Reason,
    RecordingError,
    ResponseError,
    ServerError,
    StorageError,
    SymbolNotTradingError,
    TransportError,
    TransportTimeoutError,
    UnknownSymbolError,
    WrongSymbolError,
    printable,
)

NEXT_STEPS = {
    "Ask",
    "Drop",
    "Leave",
    "Make",
    "Correct",
    "Repair",
    "Read",
    "Report",
    "Send",
    "Try",
    "Wait",
}
NEXT_STEPS |= {"catch", "close"}
UNTIL = datetime(2026, 11, 23, 23, 42, 7, 900_000, tzinfo=UTC)


def examples() -> list[BinanceOIError]:
    """Make a new example of each error, which a test may change."""
    return [
        BinanceOIError("something"),
        InvalidSymbolError("BTC USDT", "it must be letters, digits and _"),
        TransportError("connection reset", "now"),
        TransportTimeoutError("no answer within 10 s"),
        ResponseError(400, -1102, "Mandatory parameter 'symbol' was not sent."),
        UnknownSymbolError(400, -1121, "Invalid symbol."),
        SymbolNotTradingError(400, -4108, "Symbol is on delivering."),
        RateLimitedError(429, -1003, "Too many requests", UNTIL),
        BannedError(418, -1003, "Way too many requests", UNTIL),
        ForbiddenError(403, None, "<HTML>"),
        ServerError(502, None, "(no text)"),
        DecodeError("not the documented answer"),
        WrongSymbolError("asked for BTCUSDT, answered for ETHUSDT"),
        BudgetExhaustedError("no room", UNTIL),
        BudgetExhaustedError("never fits", None),
        BudgetExhaustedError("held back for other clients", UNTIL, Reason.OTHERS),
        ClientClosedError(),
        RecordingError("open-interest.db is in use"),
        OccupiedError("open-interest.db is being recorded"),
        StorageError("the disk is full"),
    ]


every_example = pytest.mark.parametrize(
    "number", range(len(examples())), ids=lambda number: repr(examples()[number])
)


def classes(top: type[BinanceOIError] = BinanceOIError) -> Iterator[type[BinanceOIError]]:
    """Every exception of the package, except those that tests define."""
    yield top
    for below in top.__subclasses__():
        if below.__module__.startswith("binance_oi"):
            yield from classes(below)


def public_classes() -> list[type[BinanceOIError]]:
    return [c for c in classes() if not c.__name__.startswith("_")]


def test_every_error_class_has_an_example_in_this_module() -> None:
    assert {type(error) for error in examples()} == set(public_classes())


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@every_example
def test_every_error_survives_pickle(number: int, protocol: int) -> None:
    error = examples()[number]
    error.add_note("while reading the market")
    copied = pickle.loads(pickle.dumps(error, protocol))
    assert type(copied) is type(error)
    assert (vars(copied), copied.args, str(copied)) == (vars(error), error.args, str(error))


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy])
@every_example
def test_every_error_can_be_copied(number: int, copier: type) -> None:
    error = examples()[number]
    copied = copier(error)
    assert type(copied) is type(error)
    assert (vars(copied), str(copied)) == (vars(error), str(error))


@pytest.mark.parametrize("cls", public_classes(), ids=lambda cls: cls.__name__)
def test_every_error_is_public_and_in_the_tree_of_the_docstring(
    cls: type[BinanceOIError],
) -> None:
    assert cls.__name__ in errors.__all__
    assert errors.__doc__ is not None
    (line,) = [row for row in errors.__doc__.splitlines() if f" {cls.__name__}" in row]
    parents = [c for c in cls.__mro__[1:] if c in public_classes()]
    assert line.index(cls.__name__) == 4 + 4 * len(parents)


@pytest.mark.parametrize("cls", list(classes()), ids=lambda cls: cls.__name__)
def test_the_docstring_of_every_error_names_the_next_step(cls: type[BinanceOIError]) -> None:
    assert cls.__doc__ is not None
    words = {word.strip(".:,") for word in cls.__doc__.split()}
    assert words & NEXT_STEPS


@pytest.mark.parametrize(
    "cls, builtin", [(InvalidSymbolError, ValueError), (TransportTimeoutError, TimeoutError)]
)
def test_errors_also_have_the_matching_builtin_type(
    cls: type[BinanceOIError], builtin: type[Exception]
) -> None:
    assert issubclass(cls, builtin)


@pytest.mark.parametrize(
    "error, text",
    [
        (SymbolNotTradingError(200, None, "it is listed as PENDING"), "it is listed as PENDING"),
        (
            BannedError(418, -1003, "Way too many requests", UNTIL),
            "418 (code -1003): Way too many requests [until 2026-11-23T23:42:07Z]",
        ),
        (UnknownSymbolError(400, -1121, "Invalid symbol."), "400 (code -1121): Invalid symbol."),
        (ForbiddenError(403, None, "<HTML>"), "403: <HTML>"),
        (ForbiddenError(451, 0, "restricted"), "451 (code 0): restricted"),
        (TransportError("connection reset", "now"), "connection reset"),
        (BudgetExhaustedError("no room", UNTIL), "no room"),
        (ClientClosedError(), "the client is closed"),
        (
            InvalidSymbolError("BTC USDT", "it must be letters, digits and _"),
            "'BTC USDT' is not a symbol: it must be letters, digits and _",
        ),
        (InvalidSymbolError(7, "it must be a str"), "<int> is not a symbol: it must be a str"),
    ],
)
def test_the_text_of_every_error_is_as_expected(error: BinanceOIError, text: str) -> None:
    assert str(error) == text


def test_the_attributes_of_an_error_hold_its_arguments() -> None:
    banned = BannedError(418, -1003, "Way too many requests", UNTIL)
    assert (banned.status, banned.code, banned.message) == (418, -1003, "Way too many requests")
    assert banned.retry_at is UNTIL
    invalid = InvalidSymbolError(["BTCUSDT"], "it must be a str, not list")
    assert (invalid.symbol, invalid.reason) == (["BTCUSDT"], "it must be a str, not list")
    assert TransportError("reset").retry == "later"
    assert TransportError("reset", "now").retry == "now"
    assert BudgetExhaustedError("never fits", None).retry_at is None


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    "symbol",
    ["x" * 10_000_000, "\x1b[2J" * 1000, Hostile(), 10**5000],
    ids=["endless", "moves the cursor", "has no repr", "too many digits"],
)
def test_the_message_about_an_invalid_symbol_is_short(symbol: object) -> None:
    text = str(InvalidSymbolError(symbol, "no"))
    assert len(text) <= 60 + len(" is not a symbol: no")
    assert text.isprintable()


def test_a_servers_text_cannot_control_the_terminal() -> None:
    error = ServerError(500, None, "\x1b]0;owned\x07\r\n\u202edesrever" + "x" * 100_000)
    assert str(error).startswith(r"500: \x1b]0;owned\x07\r\n\u202edesreverxxx")
    assert len(str(error)) == len("500: ") + 200


@pytest.mark.parametrize(
    "text, limit, shown",
    [
        ("", 200, ""),
        ("币安人生USDT é", 200, "币安人生USDT é"),
        ("a\nb\tc\0", 200, r"a\nb\tc\x00"),
        ("\x7f\x85\u2028\u200b\ufeff", 200, r"\x7f\x85\u2028\u200b\ufeff"),
        ("\ud800", 200, r"\ud800"),
        ("\U000e0041", 200, r"\U000e0041"),
        ("abcd", 4, "abcd"),
        ("abcde", 4, "abc…"),
        ("\n\n\n", 4, "\\n\\…"),
    ],
)
def test_printable_text_is_escaped_and_bounded(text: str, limit: int, shown: str) -> None:
    assert printable(text, limit) == shown


@given(st.text(st.characters(exclude_categories=())), st.integers(1, 300))
def test_printable_text_is_printable_and_bounded_for_any_input(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    assert printable(shown, limit) == shown
