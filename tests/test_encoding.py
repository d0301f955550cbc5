"""Every public value converts to a dictionary and to JSON, with every digit of the exchange."""

import json
import math
import pickle
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binance_oi import (
    ArchiveDay,
    ArchiveProgress,
    BannedError,
    BinanceOIError,
    BudgetExhaustedError,
    ExchangeInfo,
    Gap,
    History,
    HistoryProgress,
    HistoryRow,
    InvalidSymbolError,
    OpenInterest,
    ProcessBudget,
    RateLimit,
    Reason,
    RetryPolicy,
    ServerError,
    Snapshot,
    SymbolInfo,
    TransportError,
    UnknownSymbolError,
    Usage,
)
from binance_oi.budget import Receipt, Wait
from binance_oi.encoding import Encodable, EncodableByKey, plain
from binance_oi.exchange import Limit, MarkPrice
from binance_oi.market import Change, Instant, Point
from binance_oi.recorder import Backfilled, BackfillProgress, Sample, Saved, Status, Sweep
from binance_oi.recorder.recording import CountedGap

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NOON_MS = int(NOON.timestamp() * 1000)
# The simulator is left out: its values are arguments, and it imports no other folder.
FOLDERS = ("binance_oi", *(f"binance_oi.{n}" for n in ("budget", "exchange", "market", "recorder")))
FIELDS = ("__struct_fields__", "__dataclass_fields__", "_fields")

BTC = OpenInterest("BTCUSDT", Decimal("96012.5440"), NOON_MS)
TINY = OpenInterest("TINYUSDT", Decimal("0.00000001"), NOON_MS)
BANNED = BannedError(418, -1003, "Way too many requests", NOON)
LISTED = SymbolInfo("BTCUSDT", "TRADING", base_asset="BTC")
MARKET = Snapshot(
    values_by_symbol={"BTCUSDT": BTC},
    errors={"XUSDT": UnknownSymbolError(400, -1121, "Invalid symbol.")},
    started=NOON,
    finished=NOON,
    weight=2,
    received_ms={"BTCUSDT": NOON_MS},
    mark_prices={"BTCUSDT": MarkPrice("BTCUSDT", Decimal("66193.00000000"), NOON_MS)},
    slot=NOON,
    unchanged=frozenset({"ETHUSDT", "BTCUSDT"}),
    missed=(Gap(NOON_MS, NOON_MS, "banned"),),
)
PAST = History(
    symbol="BTCUSDT",
    period="5m",
    since=NOON,
    until=NOON,
    rows=(HistoryRow("BTCUSDT", NOON_MS, Decimal("91704.01500000"), Decimal("6070.10"), None),),
    holes=(Gap(NOON_MS, NOON_MS, "no_row"),),
    complete_until=NOON_MS,
    error=BANNED,
)
VALUES: tuple[Encodable, ...] = (
    BTC,
    TINY,
    BANNED,
    LISTED,
    MARKET,
    BinanceOIError("anything"),
    ExchangeInfo((LISTED,), (RateLimit("REQUEST_WEIGHT", "MINUTE", 1, 2400),)),
    RateLimit("ORDERS", "SECOND", 10, 300),
    MarkPrice("BTCUSDT", Decimal("66193.00000000"), 0),
    Limit(60, 2400, counts_requests=False),
    Gap(NOON_MS, NOON_MS, "late", "the sweep before took 55 s"),
    ProcessBudget().pool("x").usage,
    Receipt(1, 10.5, 3, 4, 7, probe=False),
    Wait(None, Reason.TOO_HEAVY),
    RetryPolicy(),
    Status(storage_error="disk full"),
    Sample("BTCUSDT", NOON_MS, Decimal("1.50"), NOON_MS, None),
    Instant("BTCUSDT", NOON_MS, "archive", Decimal("1.50"), Decimal("3.10"), None),
    ArchiveDay(
        symbol="BTCUSDT",
        day=date(2026, 11, 23),
        written=(("BTCUSDT", NOON_MS, 2, "1.50", None, None),),
        holes=(Gap(NOON_MS, NOON_MS, "no_row"),),
        error=ServerError(503, None, "down"),
    ),
    ArchiveProgress("BTCUSDT", date(2026, 11, 23), 1, 2, 288, 4),
    BackfillProgress("history", "BTCUSDT", 1, 2, 288),
    Backfilled(symbols=1, failed={"ETHUSDT": ServerError(503, None, "down")}),
    Point("BTCUSDT", NOON_MS, Decimal("1.50"), Decimal("3.10"), None, "sample"),
    Change(
        *("BTCUSDT", "1h", NOON_MS, Decimal("1.60"), Decimal("0.10"), 6.25, Decimal("0.40")),
        *(None, 1.5, 93.25, 2016),
    ),
    Sweep(NOON_MS, 1000, NOON_MS, NOON_MS, 1, 1, 1, 1),
    CountedGap(Gap(NOON_MS, NOON_MS, "late"), 1000, 1),
    PAST,
    PAST[0],
    HistoryProgress(1, 789, 8640, 18, 4260.0),
    Saved(1, 0),
)


def public_values() -> Iterator[type]:
    """Every public class of values: a class that has fields, or an error."""
    for folder in FOLDERS:
        module = import_module(folder)
        for kind in (getattr(module, name) for name in module.__all__):
            if isinstance(kind, type) and (
                issubclass(kind, BinanceOIError) or any(hasattr(kind, name) for name in FIELDS)
            ):
                yield kind


def test_every_public_value_has_a_dictionary_and_json() -> None:
    kinds = set(public_values())
    assert {OpenInterest, Snapshot, Gap, Usage, MarkPrice, SymbolInfo, BannedError} <= kinds
    assert [kind for kind in kinds if not issubclass(kind, Encodable)] == []
    shown = {type(value) for value in VALUES}
    assert [k for k in kinds if k not in shown and not issubclass(k, BinanceOIError)] == []


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_dictionary_can_be_strict_json_and_equals_the_json_of_its_value(value: Encodable) -> None:
    found = value.to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert json.loads(value.to_json()) == found
    assert "\n" not in value.to_json()
    assert json.loads(value.to_json(decimals="number"), parse_float=Decimal).keys() == found.keys()


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_is_equal_after_pickle(value: Encodable) -> None:
    assert pickle.loads(pickle.dumps(value)).to_dict() == value.to_dict()


def test_a_field_is_named_like_its_attribute_and_keeps_every_digit() -> None:
    expected = {"symbol": "BTCUSDT", "open_interest": "96012.5440", "time": NOON_MS}
    assert BTC.to_dict() == expected
    assert TINY.to_dict()["open_interest"] == "0.00000001"
    assert BTC.to_json() == f'{{"symbol":"BTCUSDT","open_interest":"96012.5440","time":{NOON_MS}}}'
    assert LISTED.to_dict()["base_asset"] == "BTC"


def test_decimals_as_numbers_are_exact_in_both_forms() -> None:
    exact = BTC.to_dict(decimals="number")["open_interest"]
    assert (type(exact), str(exact)) == (Decimal, "96012.5440")
    assert '"open_interest":96012.5440,' in BTC.to_json(decimals="number")
    assert '"open_interest":0.00000001,' in TINY.to_json(decimals="number")


@pytest.mark.parametrize(
    "text, as_number",
    [
        ("96012.544", True),
        ("0.1", True),
        ("9007199254740992", True),
        ("9007199254740993", False),  # a double has too few bits for it
        ("12345678901234567890.12345678", False),
        ("9" * 30 + "." + "9" * 30, False),
        ("0." + "0" * 29 + "1", True),
        ("1E+400", False),
        ("NaN", False),
        ("sNaN", False),
        ("Infinity", False),
    ],
)
def test_a_decimal_that_a_double_would_round_stays_text(text: str, as_number: bool) -> None:
    digits = f"{Decimal(text):f}"
    shown = digits if as_number else f'"{digits}"'
    written = OpenInterest("X", Decimal(text), 1).to_json(decimals="number")
    assert written == f'{{"symbol":"X","open_interest":{shown},"time":1}}'


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=0, max_value=10**20, places=8))
def test_usual_numbers_keep_their_digits_when_read_as_doubles(number: Decimal) -> None:
    read = json.loads(OpenInterest("X", number, 1).to_json(decimals="number"))["open_interest"]
    assert Decimal(str(read)) == number


def test_a_snapshot_has_its_values_errors_times_and_gaps() -> None:
    found = MARKET.to_dict()
    assert found["values_by_symbol"] == {"BTCUSDT": BTC.to_dict()}
    assert found["errors"]["XUSDT"]["error"] == "UnknownSymbolError"
    assert (found["started"], found["slot"]) == ("2026-11-23T12:00:00Z", "2026-11-23T12:00:00Z")
    assert found["unchanged"] == ["BTCUSDT", "ETHUSDT"]
    gap = {"first": NOON_MS, "last": NOON_MS, "reason": "banned", "detail": ""}
    assert found["missed"] == [gap]
    assert found["mark_prices"]["BTCUSDT"]["mark_price"] == "66193.00000000"
    assert json.loads(json.dumps(MARKET.to_dicts())) == [BTC.to_dict()]


def test_a_dictionary_of_an_error_has_its_type_text_and_attributes() -> None:
    assert BANNED.to_dict() == {
        "error": "BannedError",
        "text": "418 (code -1003): Way too many requests [until 2026-11-23T12:00:00Z]",
        "status": 418,
        "code": -1003,
        "message": "Way too many requests",
        "retry_at": "2026-11-23T12:00:00Z",
    }
    exhausted = BudgetExhaustedError("the minute is full", None, Reason.MINUTE_FULL)
    assert (exhausted.to_dict()["reason"], exhausted.to_dict()["retry_at"]) == ("minute_full", None)
    noted = TransportError("no route")
    noted.add_note("seen in a test")
    assert noted.to_dict().keys() == {"error", "text", "message", "retry"}


@pytest.mark.parametrize("symbol", ["\ud800", "x" * 10_000, object(), [[]], None, b"BTC", 7])
def test_an_error_about_any_object_is_bounded_json(symbol: object) -> None:
    error = InvalidSymbolError(symbol, "not one")
    assert json.loads(error.to_json().encode())["error"] == "InvalidSymbolError"
    assert len(error.to_json()) < 600


def test_values_that_json_cannot_write_are_replaced() -> None:
    assert plain(math.inf, "text") is plain(math.nan, "number") is None
    assert plain({Reason.PACE: (1, {2})}, "text") == {"pace": [1, [2]]}
    assert plain("a file \udcff", "text") == "a file \\udcff"
    assert plain("币安人生USDT", "text") == "币安人生USDT"
    assert plain(object(), "text") == "<object>"
    assert plain(True, "text") is True


def test_usage_always_has_the_sustained_weight() -> None:
    assert ProcessBudget(reserve=400).pool("x").usage.sustained == 2000.0
    assert ProcessBudget(share=0.5).pool("x").usage.sustained == 1200.0


def test_dict_of_a_value_has_its_fields_and_a_value_is_no_sequence() -> None:
    assert dict(BTC) == {**BTC} == BTC.to_dict()
    assert dict(BANNED) == BANNED.to_dict()
    with pytest.raises(KeyError):
        BTC["datetime"]
    with pytest.raises(TypeError):
        iter(BTC)  # type: ignore[call-overload]


def test_a_value_without_fields_raises_a_type_error() -> None:
    class Nothing(EncodableByKey):
        pass

    with pytest.raises(TypeError, match="Nothing has no fields"):
        Nothing().to_dict()


@pytest.mark.parametrize("decimals", ["float", "", None, 1])
def test_an_unknown_form_of_decimals_is_refused(decimals: Any) -> None:
    for value in (OpenInterest("BTCUSDT", Decimal("1.5"), 1), BinanceOIError("")):
        with pytest.raises(ValueError, match='decimals must be "text" or "number"'):
            value.to_dict(decimals=decimals)
        with pytest.raises(ValueError, match='decimals must be "text" or "number"'):
            value.to_json(decimals=decimals)
