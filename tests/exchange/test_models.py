"""For any bytes, a decoder returns values just as the exchange wrote them, or raises our error."""

import copy
import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from enum import StrEnum
from pathlib import Path
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from answers import made, recorded
from binance_oi.errors import (
    BannedError,
    BinanceOIError,
    DecodeError,
    ForbiddenError,
    InvalidSymbolError,
    RateLimitedError,
    ResponseError,
    ServerError,
    SymbolNotTradingError,
    UnknownSymbolError,
    WrongSymbolError,
)
from binance_oi.exchange.decoding import (
    MarkPrices,
    decode_exchange_info,
    decode_mark_prices,
    decode_open_interest,
    decode_server_time,
)
from binance_oi.exchange.models import (
    ExchangeInfo,
    MarkPrice,
    OpenInterest,
    RateLimit,
    SymbolInfo,
)
from binance_oi.exchange.refusals import (
    MAX_BAN,
    MAX_RETRY_AFTER,
    MIN_BAN,
    Refusal,
    RefusedError,
    ban_end_ms,
    stated_limit,
)
from binance_oi.exchange.symbols import check_symbol, check_symbols, odd_names

GOOD = b'{"symbol":"BTCUSDT","openInterest":"96012.544","time":1790287793703}'
VALUE = OpenInterest("BTCUSDT", Decimal("96012.544"), 1790287793703)
BAN_END = 1783855317204
BAN_TEXT = f"Way too many requests; IP(203.0.113.7) banned until {BAN_END}. Please use another."
BANNED_UNTIL = datetime(2026, 7, 12, 11, 21, 57, 204_000, tzinfo=UTC)
LIMIT_TEXT = "Too many requests; current limit of IP(203.0.113.7) is 2400 requests per minute."
PIECES = st.sampled_from([b'"', b"{", b":", b"\\u", b"1e9", b",", GOOD])
DEEP = b"[" * 100_000 + b"]" * 100_000
MISSING = "(no such field)"
HTML = b"<!DOCTYPE HTML>\n<HTML>\n<TITLE>ERROR: The request could not be satisfied</TITLE>"

Decode = Callable[[bytes], object]
DECODERS: dict[str, Decode] = {
    "open interest": lambda body: decode_open_interest(body, "BTCUSDT"),
    "mark prices": decode_mark_prices,
    "exchange info": decode_exchange_info,
    "server time": decode_server_time,
}
every_decoder = pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS.keys())


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def refusal(decode: Decode, body: bytes) -> str:
    """The text of the error that we raise; empty if we raise none."""
    try:
        decode(body)
    except BinanceOIError as error:
        return str(error)
    return ""


def error_body(code: object, msg: object) -> bytes:
    return json.dumps({"code": code, "msg": msg}).encode()


def answer(**fields: object) -> bytes:
    """`GOOD` with other values; None leaves a field out."""
    known: dict[str, object] = {
        "symbol": "BTCUSDT",
        "openInterest": "96012.544",
        "time": 1790287793703,
    }
    kept = {name: value for name, value in (known | fields).items() if value is not None}
    return json.dumps(kept).encode()


# -- symbols -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "symbol, checked",
    [
        ("BTCUSDT", "BTCUSDT"),
        ("btcusdt", "BTCUSDT"),
        ("1000000MOGUSDT", "1000000MOGUSDT"),
        ("4USDT", "4USDT"),
        ("BTCUSDT_261225", "BTCUSDT_261225"),
        ("_", "_"),
        ("X" * 50, "X" * 50),
        ("币安人生USDT", "币安人生USDT"),
        ("龙虾usdt", "龙虾USDT"),
        ("ßÿıusdt", "ßÿıUSDT"),  # only ASCII letters change case
        ("éüUSDT", "éüUSDT"),
        ("e\u0301USDT", "E\u0301USDT"),
        ("हिंदीUSDT", "हिंदीUSDT"),  # with vowel signs
        ("ไทยUSDT", "ไทยUSDT"),
        ("٣USDT", "٣USDT"),
        ("𠀀USDT", "𠀀USDT"),
    ],
)
def test_a_symbol_is_letters_digits_and_underscore_of_any_script(symbol: str, checked: str) -> None:
    assert check_symbol(symbol) == checked


@pytest.mark.parametrize(
    "symbol",
    [
        "",
        " ",
        "BTC USDT",
        "BTCUSDT\n",
        " BTCUSDT",
        "BTC-USDT",
        "BTC/USDT",
        "BTC.USDT",
        "BTC&symbol=ETHUSDT",
        "BTC%20",
        "BTC\x00",
        "X" * 51,
        "币" * 51,
        "币安 人生",
        "²",
        "Ⅷ",
        "½",
        "①",
        "😀USDT",
        "币\ufe0f\u20e3",
        "\u0301USDT",  # an accent without a letter
        "币\u200bUSDT",
        "币\u202eUSDT",
        "币\u3000USDT",
        "\ud800",
        "\ue000",
        "币‿USDT",  # a connector, like _
    ],
)
def test_any_other_text_is_refused_as_a_symbol(symbol: str) -> None:
    with pytest.raises(InvalidSymbolError) as caught:
        check_symbol(symbol)
    assert caught.value.symbol == symbol


@pytest.mark.parametrize("symbol", [None, 1, 1.5, True, b"BTCUSDT", ["BTCUSDT"], object()])
def test_anything_but_a_str_is_refused_as_a_symbol(symbol: object) -> None:
    with pytest.raises(InvalidSymbolError, match="must be a str, not"):
        check_symbol(symbol)


def test_a_subclass_of_str_becomes_a_plain_str() -> None:
    class Pair(StrEnum):
        ASCII = "btcusdt"
        CHINESE = "龙虾usdt"

    for pair, name in ((Pair.ASCII, "BTCUSDT"), (Pair.CHINESE, "龙虾USDT")):
        assert check_symbol(pair) == name
        assert type(check_symbol(pair)) is str


@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_a_checked_symbol_is_stable_bounded_and_printable(text: str) -> None:
    try:
        checked = check_symbol(text)
    except InvalidSymbolError:
        return
    assert check_symbol(checked) == checked
    assert 1 <= len(checked) <= 50
    assert checked.encode()
    assert checked.isprintable()


# -- open interest -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        GOOD,
        b'{"openInterest": "96012.544", "symbol": "BTCUSDT", "time": 1790287793703}\n',
        b'{"symbol":"BTCUSDT","pair":"BTCUSD","openInterest":"96012.544","contractType":"PERPETUAL",'
        b'"time":1790287793703}',
        b'{"symbol":"BTCUSDT","openInterest":"96012.544","time":1790287793703,"x":{"time":[null]}}',
        b'{"symbol":"BTC\\u0055SDT","openInterest":"96012.544","time":1790287793703}',
        b'{"symbol":"BTCUSDT","\\u006fpenInterest":"96012.544","time":1790287793703}',
        b'{"code":200,"symbol":"BTCUSDT","openInterest":"96012.544","time":1790287793703}',
    ],
)
def test_an_answer_is_decoded_in_any_order_and_with_new_fields(body: bytes) -> None:
    assert decode_open_interest(body, "BTCUSDT") == VALUE


@pytest.mark.parametrize(
    "number", ["0", "0.000", "12668208", "2273930.468", "9" * 30 + "." + "9" * 30, "91235.490"]
)
def test_open_interest_is_exact_to_the_last_digit(number: str) -> None:
    with localcontext(prec=3):
        value = decode_open_interest(answer(openInterest=number), "BTCUSDT").open_interest
    assert str(value) == number


@pytest.mark.parametrize(
    "number",
    [
        "",
        "NaN",
        "sNaN",
        "Infinity",
        "-1",
        "+1",
        "1_000",
        "1,000",
        "1E+999999999",
        "1e3",
        "0x10",
        ".5",
        "5.",
        "1.2.3",
        " 1",
        "1 ",
        "1\n",
        "1\u0000",
        "٣",
        "１２",
        "²",
        "9" * 31,
        "0." + "9" * 31,
        1.5,
        96012,
        True,
        ["1"],
        {"a": "1"},
    ],
)
def test_open_interest_must_be_plain_digits(number: object) -> None:
    with pytest.raises(DecodeError, match="not the documented answer"):
        decode_open_interest(answer(openInterest=number), "BTCUSDT")


@pytest.mark.parametrize(
    "time",
    [
        0,
        -1,
        1790287793703.0,
        1e12,
        True,
        "1790287793703",
        [1790287793703],
        253_402_300_800_000,
        2**63,
        2**64,
        10**100,
        -(10**100),
    ],
)
def test_a_time_must_be_a_plausible_whole_number(time: object) -> None:
    with pytest.raises(DecodeError, match="not the documented answer"):
        decode_open_interest(answer(time=time), "BTCUSDT")


def test_a_time_of_five_thousand_digits_is_refused() -> None:
    body = GOOD.replace(b"1790287793703", b"9" * 5000)
    with pytest.raises(DecodeError):
        decode_open_interest(body, "BTCUSDT")


@pytest.mark.parametrize(
    "time, instant",
    [
        (1, datetime(1970, 1, 1, microsecond=1000, tzinfo=UTC)),
        (1790287793703, datetime(2026, 9, 24, 22, 9, 53, 703_000, tzinfo=UTC)),
        (253_402_300_799_999, datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)),
    ],
)
def test_the_time_is_available_as_an_aware_datetime(time: int, instant: datetime) -> None:
    value = decode_open_interest(answer(time=time), "BTCUSDT")
    assert value.time == time
    assert value.datetime == instant
    assert value.datetime.tzinfo is UTC


@pytest.mark.parametrize("field", ["symbol", "openInterest", "time"])
def test_an_answer_without_one_of_its_fields_is_refused(field: str) -> None:
    with pytest.raises(DecodeError, match="missing required field"):
        decode_open_interest(answer(**{field: None}), "BTCUSDT")


@pytest.mark.parametrize("symbol", [1, True, ["BTCUSDT"], {"a": 1}])
def test_a_symbol_that_is_not_a_string_is_refused(symbol: object) -> None:
    with pytest.raises(DecodeError):
        decode_open_interest(answer(symbol=symbol), "BTCUSDT")


@pytest.mark.parametrize("symbol", ["ETHUSDT", "btcusdt", "BTCUSDT ", "", "BTCUSDT\u0000"])
def test_an_answer_for_another_symbol_is_refused(symbol: str) -> None:
    with pytest.raises(WrongSymbolError, match="asked for BTCUSDT, answered for"):
        decode_open_interest(answer(symbol=symbol), "BTCUSDT")


@pytest.mark.parametrize(
    "body",
    [
        b'{"symbol":"ETHUSDT","openInterest":"1","symbol":"BTCUSDT","time":1790287793703}',
        b'{"symbol":"BTCUSDT","openInterest":"1","openInterest":"2","time":1790287793703}',
        b'{"symbol":"BTCUSDT","openInterest":"1","time":1790287793703,"time":1790287793703}',
        b'{"symbol":"BTCUSDT","openInterest":"1","\\u0074ime":1,"time":1790287793703}',
        b'{"symbol":"BTCUSDT","openInterest":"1","time":1790287793703,"x":1,"x":2}',
    ],
)
def test_a_repeated_field_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError, match=r"\(a field is repeated\): \{"):
        decode_open_interest(body, "BTCUSDT")


@pytest.mark.parametrize(
    "extra", [b'"\xff"', b"9" * 5000, b"[" * 500 + b"]" * 500, b'"\\ud800"', b"0.1"]
)
def test_an_odd_value_of_an_unknown_field_is_ignored_or_refused(extra: bytes) -> None:
    try:
        value = decode_open_interest(GOOD[:-1] + b',"x":' + extra + b"}", "BTCUSDT")
    except DecodeError:
        return
    assert value == VALUE


# -- every decoder -------------------------------------------------------------------------------

NOT_ANSWERS = {
    "nothing": b"",
    "spaces": b"  \r\n",
    "HTML": HTML,
    "null": b"null",
    "true": b"true",
    "a number": b"1790287793703",
    "a text": b'"96012.544"',
    "a list of lists": b"[[]]",
    "a list of null": b"[null]",
    "an empty object": b"{}",
    "half": GOOD[:-30],
    "twice": GOOD + GOOD,
    "with a byte order mark": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "not UTF-8": GOOD.replace(b"BTC", b"B\xff\xfe"),
    "an encoded surrogate": GOOD.replace(b"BTC", b"\xed\xa0\x80"),
    "half a surrogate pair": GOOD.replace(b"BTC", b"\\ud800"),
    "single quotes": GOOD.replace(b'"', b"'"),
    "NaN": GOOD.replace(b'"96012.544"', b"NaN"),
    "a comma too many": GOOD[:-1] + b",}",
    "deep": DEEP,
    "deep in a new field": GOOD[:-1] + b',"x":' + DEEP + b"}",
    "zeros": bytes(1000),
    "a code that is a text": b'{"code":"-1121","msg":"Invalid symbol."}',
    "an absurd code": b'{"code":99999999999999999999,"msg":""}',
    "a list of errors": b'[{"code":-1121,"msg":"Invalid symbol."}]',
}


@every_decoder
@pytest.mark.parametrize("body", NOT_ANSWERS.values(), ids=NOT_ANSWERS.keys())
def test_any_other_body_is_a_decode_error(decode: Decode, body: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^not the documented answer \(.+\): ") as caught:
        decode(body)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@every_decoder
@pytest.mark.parametrize(
    "body, kind",
    [
        (error_body(-1121, "Invalid symbol."), UnknownSymbolError),
        (error_body(-4108, "Symbol is on delivering."), SymbolNotTradingError),
        (error_body(-1003, LIMIT_TEXT), RateLimitedError),
        (error_body(-1003, BAN_TEXT), BannedError),
        (error_body(-1007, "Timeout waiting for response from backend server."), ServerError),
        (error_body(0, ""), ResponseError),
        (b'{"code":-1102}', ResponseError),
    ],
)
def test_an_error_with_status_200_is_recognised(
    decode: Decode, body: bytes, kind: type[ResponseError]
) -> None:
    with pytest.raises(RefusedError) as caught:
        decode(body)
    refusal = caught.value.refusal
    assert type(refusal.error(UNTIL if refusal.is_temporary else None)) is kind
    assert refusal.status == 200


def test_a_decode_error_shows_the_body_in_one_short_line() -> None:
    with pytest.raises(DecodeError) as caught:
        decode_open_interest(HTML + b"\x1b[2J" + b"x" * 10_000_000, "BTCUSDT")
    text = str(caught.value)
    assert r"<HTML> <TITLE>ERROR: The request could not be satisfied</TITLE>\x1b[2Jxxx" in text
    assert text.isprintable()
    assert len(text) < 400


@every_decoder
@given(body=st.binary(max_size=200))
@example(body=b"[]")
def test_random_bytes_raise_only_our_errors(decode: Decode, body: bytes) -> None:
    assert refusal(decode, body).isprintable()


@every_decoder
@given(st.integers(0, len(GOOD)), st.integers(0, 20), st.binary(max_size=20) | PIECES)
def test_a_mutated_answer_is_decoded_or_raises_our_error(
    decode: Decode, place: int, length: int, piece: bytes
) -> None:
    body = GOOD[:place] + piece + GOOD[place + length :]
    try:
        value = decode(body)
    except BinanceOIError:
        return
    if isinstance(value, OpenInterest):
        assert value.symbol == "BTCUSDT"
        assert json.loads(body)["openInterest"] == str(value.open_interest)
        assert value.datetime.tzinfo is UTC


def test_values_can_be_pickled_and_hashed_but_not_changed() -> None:
    assert pickle.loads(pickle.dumps(VALUE)) == copy.copy(VALUE) == VALUE
    assert len({VALUE, copy.deepcopy(VALUE)}) == 1
    with pytest.raises(AttributeError):
        VALUE.time = 1  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]


# -- mark prices and server time -----------------------------------------------------------------

MARK = b'{"symbol":"BTCUSDT","markPrice":"61234.50000000","indexPrice":"1","time":1783140584000}'
MARK_VALUE = MarkPrice("BTCUSDT", Decimal("61234.50000000"), 1783140584000)


def test_mark_prices_are_decoded_from_a_list_or_from_one_object() -> None:
    both = decode_mark_prices(b" [" + MARK + b"," + MARK + b"]")
    assert both == MarkPrices((MARK_VALUE, MARK_VALUE))
    assert decode_mark_prices(MARK) == MarkPrices((MARK_VALUE,))
    assert decode_mark_prices(b"[]") == MarkPrices(())
    assert str(decode_mark_prices(MARK).prices[0].mark_price) == "61234.50000000"


ODD_PRICES: list[object] = ["", "NaN", "-1", "1E-8", "1_0", "٣", "9" * 31, None, 1.5, 7, [], {}]


@pytest.mark.parametrize(
    "odd, said",
    [
        *(({"markPrice": price}, "ODDUSDT (left out: markPrice)") for price in ODD_PRICES),
        ({"markPrice": MISSING}, "ODDUSDT (left out: no markPrice)"),
        ({"symbol": None}, '{"symbol": null, "markPrice": "1.5", "time": 5} (left out: symbol)'),
        ({"symbol": ""}, " (left out: symbol)"),
        ({"symbol": "A" * 51}, "A" * 51 + " (left out: symbol)"),
        ({"symbol": "A\nB"}, r"A\nB (left out: symbol)"),
    ],
    ids=str,
)
def test_an_invalid_mark_price_is_omitted_and_named(odd: dict[str, object], said: str) -> None:
    row = {"symbol": "ODDUSDT", "markPrice": "1.5", "time": 5} | odd
    kept = {name: value for name, value in row.items() if value is not MISSING}
    body = b"[" + json.dumps(kept, ensure_ascii=False).encode() + b"," + MARK + b"]"
    assert decode_mark_prices(body) == MarkPrices((MARK_VALUE,), (said,))
    if "symbol" not in odd:
        with pytest.raises(DecodeError):  # no row is left
            decode_mark_prices(json.dumps(kept).encode())


@pytest.mark.parametrize("time", [0, -1, None, "5", 1.5, 10**15, [], MISSING])
def test_a_mark_price_without_a_valid_time_is_kept(time: object) -> None:
    row = {"symbol": "ODDUSDT", "markPrice": "1.5"} | ({} if time is MISSING else {"time": time})
    found = decode_mark_prices(json.dumps([row]).encode())
    assert found.prices == (MarkPrice("ODDUSDT", Decimal("1.5"), 0),)
    assert found.odd_rows == (() if time is MISSING else ("ODDUSDT (time)",))


@pytest.mark.parametrize("row", ["null", "7", "[]", '"BTCUSDT"', "{}", '{"symbol":"A","symbol":5}'])
def test_an_element_that_is_not_a_row_is_omitted_and_the_others_are_kept(row: str) -> None:
    assert decode_mark_prices(f"[{row},{MARK.decode()}]".encode()).prices == (MARK_VALUE,)
    (said,) = decode_exchange_info(f'{{"symbols":[{row},{json.dumps(BTC)}]}}'.encode()).odd_rows
    assert "left out" in said


def test_the_server_time_is_whole_milliseconds() -> None:
    assert decode_server_time(b'{"serverTime":1790287793703}') == 1790287793703
    for time in (b"0", b"-1", b"1.0", b'"1790287793703"', b"true", b"9" * 20):
        with pytest.raises(DecodeError):
            decode_server_time(b'{"serverTime":' + time + b"}")


# -- exchangeInfo --------------------------------------------------------------------------------

WEIGHT_2400 = {
    "rateLimitType": "REQUEST_WEIGHT",
    "interval": "MINUTE",
    "intervalNum": 1,
    "limit": 2400,
}
BTC = {
    "symbol": "BTCUSDT",
    "pair": "BTCUSDT",
    "contractType": "PERPETUAL",
    "deliveryDate": 4133404800000,
    "onboardDate": 1567965300000,
    "status": "TRADING",
    "baseAsset": "BTC",
    "quoteAsset": "USDT",
    "marginAsset": "USDT",
    "pricePrecision": 2,
    "quantityPrecision": 3,
    "underlyingType": "COIN",
    "filters": [{"filterType": "PRICE_FILTER", "tickSize": "0.10"}],
}


def listing(symbols: object, limits: object = None) -> bytes:
    known = {"timezone": "UTC", "serverTime": 1783051218599, "symbols": symbols}
    return json.dumps(known if limits is None else known | {"rateLimits": limits}).encode()


def test_a_listing_keeps_the_documented_fields() -> None:
    info = decode_exchange_info(listing([BTC], [WEIGHT_2400]))
    assert info == ExchangeInfo(
        symbols=(
            SymbolInfo(
                symbol="BTCUSDT",
                status="TRADING",
                pair="BTCUSDT",
                contract_type="PERPETUAL",
                base_asset="BTC",
                quote_asset="USDT",
                margin_asset="USDT",
                onboard_date=1567965300000,
                delivery_date=4133404800000,
                price_precision=2,
                quantity_precision=3,
                underlying_type="COIN",
            ),
        ),
        rate_limits=(RateLimit("REQUEST_WEIGHT", "MINUTE", 1, 2400),),
    )
    assert info.weight_limit == 2400


def test_a_listed_symbol_needs_only_a_name_and_a_status() -> None:
    info = decode_exchange_info(listing([{"symbol": "BTCUSDT", "status": "CLOSE"}]))
    assert info.symbols == (SymbolInfo("BTCUSDT", "CLOSE"),)
    assert info.rate_limits == ()
    assert info.weight_limit is None
    assert info.trading == ()


def test_trading_symbols_are_selected_by_status_in_order() -> None:
    rows = [
        ("ZUSDT", "TRADING", "PERPETUAL"),
        ("OLDUSDT", "SETTLING", "PERPETUAL"),
        ("龙虾USDT", "TRADING", "TRADIFI_PERPETUAL"),
        ("BTCUSDT_261225", "TRADING", "CURRENT_QUARTER DELIVERING"),
        ("NEWUSDT", "PENDING_TRADING", ""),
        ("AUSDT", "TRADING", "SOMETHING_NEW"),
        ("ODDUSDT", "SOMETHING_NEW", "PERPETUAL"),
        ("LOWUSDT", "trading", "PERPETUAL"),
    ]
    symbols = [{"symbol": s, "status": status, "contractType": c} for s, status, c in rows]
    info = decode_exchange_info(listing(symbols))
    assert info.trading == ("ZUSDT", "龙虾USDT", "BTCUSDT_261225", "AUSDT")
    assert len(info.symbols) == len(rows)


def test_a_symbol_that_is_listed_twice_trades_once() -> None:
    assert decode_exchange_info(listing([BTC, BTC])).trading == ("BTCUSDT",)


@pytest.mark.parametrize(
    "limits, weight",
    [
        ([WEIGHT_2400], 2400),
        ([WEIGHT_2400 | {"rateLimitType": "ORDERS", "limit": 1200}, WEIGHT_2400], 2400),
        ([WEIGHT_2400 | {"interval": "SECOND", "limit": 5}, WEIGHT_2400], 2400),
        ([WEIGHT_2400 | {"intervalNum": 5, "limit": 5}, WEIGHT_2400], 2400),
        ([WEIGHT_2400 | {"limit": 9_999_999}], 9_999_999),
        ([WEIGHT_2400 | {"limit": 10_000_000}], None),
        ([WEIGHT_2400 | {"limit": 10**30}], None),
        ([WEIGHT_2400 | {"limit": 5}], 5),
        ([WEIGHT_2400 | {"limit": 3}], 3),
        ([WEIGHT_2400 | {"limit": 1}], 1),
        ([WEIGHT_2400 | {"limit": 0}], None),
        ([WEIGHT_2400 | {"limit": -1}], None),
        ([WEIGHT_2400 | {"limit": 0}, WEIGHT_2400], 2400),
        ([], None),
    ],
)
def test_the_weight_limit_is_a_plausible_limit_of_weight_per_minute(
    limits: object, weight: int | None
) -> None:
    assert decode_exchange_info(listing([BTC], limits)).weight_limit == weight


@pytest.mark.parametrize(
    "symbols",
    [
        None,
        {},
        "BTCUSDT",
        ["BTCUSDT"],
        [None],
        [BTC | {"symbol": 1}],
        [BTC | {"symbol": None}],
        [BTC | {"symbol": ""}],
        [BTC | {"symbol": "X" * 51}],
        [BTC | {"symbol": "BTC\nUSDT"}],
        [BTC | {"symbol": "\x1b[2J"}],
        [BTC | {"symbol": "BTC\u202eUSDT"}],
        [BTC | {"status": 1}],
        [BTC | {"status": ""}],
        [{"symbol": "BTCUSDT"}],
    ],
)
def test_a_listing_without_a_decodable_row_is_a_decode_error(symbols: object) -> None:
    with pytest.raises(DecodeError, match=r"^not the documented answer \(.+\): ") as caught:
        decode_exchange_info(listing(symbols))
    assert str(caught.value).isprintable()


ODD_NAMES: list[object] = [
    1,
    None,
    "",
    "X" * 51,
    "ODD\nUSDT",
    "\x1b[2J",
    "O\u202eUSDT",
    "A,B",
    'A"B',
]
ODD_TEXTS: list[object] = [None, 1, 1.5, True, [], {}]
ODD_NUMBERS: list[object] = [None, "8", "yesterday", "1569398400000", 8.5, True, [], {}]
TEXTS = ("pair", "contractType", "baseAsset", "quoteAsset", "marginAsset", "underlyingType")
NUMBERS = ("onboardDate", "deliveryDate", "pricePrecision", "quantityPrecision")
NO_ROW: tuple[object, ...] = (None, 7, "BTCUSDT", [], [1], {}, {"code": -1121})


@pytest.mark.parametrize(
    "odd",
    [
        *NO_ROW,
        *(BTC | {"symbol": name} for name in ODD_NAMES),
        *(BTC | {"symbol": "ODDUSDT", "status": status} for status in ("", *ODD_TEXTS)),
        {"symbol": "ODDUSDT"},
        {"status": "TRADING"},
    ],
    ids=str,
)
def test_a_listing_row_without_a_name_or_a_status_is_omitted_and_named(odd: object) -> None:
    info = decode_exchange_info(listing([odd, BTC, odd], [WEIGHT_2400]))
    assert (info.trading, info.weight_limit) == (("BTCUSDT",), 2400)
    first, second = info.odd_rows
    assert (first, info.left_out) == (second, 2)
    assert first.isprintable()
    assert "left out: " in first
    assert len(first) < 200
    if isinstance(odd, dict) and odd.get("symbol") == "ODDUSDT":
        assert first.startswith("ODDUSDT (left out: ")


@pytest.mark.parametrize(
    "field, odd",
    [(field, odd) for field in TEXTS for odd in ODD_TEXTS]
    + [(field, odd) for field in NUMBERS for odd in ODD_NUMBERS],
    ids=str,
)
def test_an_invalid_optional_field_gets_its_default(field: str, odd: object) -> None:
    info = decode_exchange_info(listing([BTC | {"symbol": "ODDUSDT", field: odd}, BTC]))
    assert info.trading == ("ODDUSDT", "BTCUSDT")
    assert (info.odd_rows, info.left_out) == ((f"ODDUSDT ({field})",), 0)
    fields = set(SymbolInfo.__struct_fields__) - {"symbol"}
    differs = {f for f in fields if getattr(info.symbols[0], f) != getattr(info.symbols[1], f)}
    assert [f.lower().replace("_", "") for f in differs] == [field.lower()]


def test_a_row_with_odd_values_in_unknown_fields_is_complete() -> None:
    row = json.dumps(BTC).encode()
    for odd in (row[:-1] + b', "note": "\xff"}', b'{"pair": null, ' + row[1:]):
        info = decode_exchange_info(b'{"symbols": [' + odd + b"]}")
        assert info == decode_exchange_info(listing([BTC]))


def test_the_first_invalid_rows_are_named_and_the_rest_counted() -> None:
    rows = [BTC, *(BTC | {"symbol": f"ODD{n}USDT", "status": None} for n in range(1000))]
    *named, more = decode_exchange_info(listing(rows)).odd_rows
    assert named == [f"ODD{n}USDT (left out: status)" for n in range(8)]
    assert more == "and 992 more"


TEN_SECONDS = {"rateLimitType": "REQUEST_WEIGHT", "interval": "SECOND", "intervalNum": 10}


@pytest.mark.parametrize(
    "limits, others",
    [
        ([WEIGHT_2400], []),
        ([TEN_SECONDS | {"limit": 100}], [(10, 100, False)]),
        ([TEN_SECONDS | {"limit": 4}], [(10, 4, False)]),
        ([TEN_SECONDS | {"intervalNum": 1, "limit": 1}], [(1, 1, False)]),
        ([TEN_SECONDS | {"rateLimitType": "RAW_REQUESTS", "limit": 1}], [(10, 1, True)]),
        ([TEN_SECONDS | {"limit": 300}, TEN_SECONDS | {"limit": 100}], [(10, 100, False)]),
        ([TEN_SECONDS | {"interval": "MINUTE", "limit": 100}], [(600, 100, False)]),
        ([TEN_SECONDS | {"interval": "HOUR", "limit": 100}], [(36_000, 100, False)]),
        ([TEN_SECONDS | {"interval": "DAY", "limit": 1_000_000}], [(864_000, 1_000_000, False)]),
        ([TEN_SECONDS | {"interval": "DAY", "limit": 10**9}], [(864_000, 10**9, False)]),
        ([TEN_SECONDS | {"rateLimitType": "RAW_REQUESTS", "limit": 50}], [(10, 50, True)]),
        ([WEIGHT_2400 | {"rateLimitType": "RAW_REQUESTS"}], [(60, 2400, True)]),
        ([WEIGHT_2400 | {"interval": "SECOND", "intervalNum": 60}], []),
        ([TEN_SECONDS | {"rateLimitType": "ORDERS", "limit": 300}], []),
        ([TEN_SECONDS | {"rateLimitType": "CONNECTIONS", "limit": 300}], []),
        (
            [TEN_SECONDS | {"limit": 600}, TEN_SECONDS | {"intervalNum": 1, "limit": 10}],
            [(1, 10, False), (10, 600, False)],
        ),
        (
            [TEN_SECONDS | {"intervalNum": n, "limit": 1000} for n in range(1, 30)],
            [(n, 1000, False) for n in range(29, 21, -1)],
        ),
        (
            [
                *(TEN_SECONDS | {"intervalNum": n, "limit": n - 10} for n in range(30, 37)),
                TEN_SECONDS | {"limit": 10},
                TEN_SECONDS | {"limit": 10, "rateLimitType": "RAW_REQUESTS"},
            ],
            [*((n, n - 10, False) for n in range(30, 37)), (10, 10, False)],
        ),
    ],
)
def test_the_smallest_limit_of_each_span_is_kept_and_the_tightest_comes_first(
    limits: object, others: list[tuple[int, int, bool]]
) -> None:
    info = decode_exchange_info(listing([BTC], limits))
    assert list(info.other_limits) == others
    assert info.ignored_limits == ()


def test_the_loosest_of_too_many_limits_is_reported_unless_implied() -> None:
    growing = [TEN_SECONDS | {"intervalNum": n, "limit": 100 + n} for n in range(1, 12)]
    info = decode_exchange_info(listing([BTC], [WEIGHT_2400, *growing]))
    assert list(info.other_limits) == [(n, 100 + n, False) for n in range(11, 3, -1)]
    assert info.ignored_limits == tuple(json.dumps(row) for row in growing[:3])


def test_a_limit_is_reported_when_the_limit_that_implied_it_is_ignored_too() -> None:
    growing = [TEN_SECONDS | {"intervalNum": n, "limit": 100 + n} for n in range(2, 11)]
    loosest = TEN_SECONDS | {"intervalNum": 1, "limit": 102}  # per 1 s; only 102 per 2 s implies it
    info = decode_exchange_info(listing([BTC], [loosest, *growing]))
    assert list(info.other_limits) == [(n, 100 + n, False) for n in range(10, 2, -1)]
    assert info.ignored_limits == (json.dumps(loosest), json.dumps(growing[0]))


def test_the_smaller_of_two_limits_per_minute_is_used() -> None:
    limits = [
        WEIGHT_2400,
        WEIGHT_2400 | {"limit": 1200},
        WEIGHT_2400 | {"interval": "SECOND", "intervalNum": 60, "limit": 1800},
    ]
    assert decode_exchange_info(listing([BTC], limits)).weight_limit == 1200


ODD_LIMITS: list[object] = [0, -1, 10_000_000, 10**30, "100", None, 1.5, True, []]
ODD_COUNTS: list[object] = [0, -1, 10**30, "10", None, 1.5]
ODD_INTERVALS: list[object] = ["FORTNIGHT", "minute", "", None, 7]


@pytest.mark.parametrize(
    "odd",
    [
        *({"limit": limit} for limit in ODD_LIMITS),
        *({"intervalNum": count} for count in ODD_COUNTS),
        *({"interval": interval} for interval in ODD_INTERVALS),
        {"interval": "DAY", "intervalNum": 32},
        {"rateLimitType": None},
        {"rateLimitType": "RAW_REQUESTS", "limit": 0},
    ],
    ids=str,
)
def test_an_impossible_limit_is_ignored_and_named(odd: dict[str, object]) -> None:
    rows: list[dict[str, object]] = [{**TEN_SECONDS, "limit": 100, **odd}, {**WEIGHT_2400}]
    info = decode_exchange_info(listing([BTC], rows))
    assert (info.weight_limit, info.other_limits) == (2400, ())
    (text,) = info.ignored_limits
    assert json.dumps(next(iter(odd.values())))[:20] in text


@pytest.mark.parametrize("limits", [{}, 7, "x", [1], [None], [[]], [{}], [{"limit": 1}]])
def test_limits_of_an_unknown_shape_do_not_hide_symbols_or_other_limits(limits: object) -> None:
    info = decode_exchange_info(listing([BTC], limits))
    assert (info.trading, info.weight_limit, info.other_limits) == (("BTCUSDT",), None, ())
    assert len(info.ignored_limits) == 1
    if isinstance(limits, list):
        assert decode_exchange_info(listing([BTC], [*limits, WEIGHT_2400])).weight_limit == 2400


def test_an_undecodable_limit_of_orders_is_ignored_without_a_report() -> None:
    rows = [WEIGHT_2400 | {"rateLimitType": "ORDERS", "limit": "many"}]
    assert decode_exchange_info(listing([BTC], rows)).ignored_limits == ()


def test_descriptions_of_invalid_limits_are_printable_and_bounded() -> None:
    rows = [WEIGHT_2400 | {"interval": "\x1b[2J\n" * 1000, "limit": n} for n in range(1000)]
    ignored = decode_exchange_info(listing([BTC], rows)).ignored_limits
    assert all(text.isprintable() and len(text) <= 120 for text in ignored)
    assert len(ignored) <= 10


def test_a_symbol_of_a_new_form_is_listed_and_does_not_hide_others() -> None:
    rows = [{"symbol": name, "status": "TRADING"} for name in ("BTCUSDT", "BTC-USDT", "😀USDT")]
    assert decode_exchange_info(listing(rows)).trading == ("BTCUSDT", "BTC-USDT", "😀USDT")


def test_odd_names_are_listed_names_that_check_symbol_would_refuse() -> None:
    assert odd_names(["BTCUSDT", "BTC-USDT", "lowUSDT", "btcusdt", "币安人生USDT"]) == {
        "BTC-USDT",
        "lowUSDT",
    }
    known = odd_names(["BTC-USDT"])
    assert check_symbols(["btcusdt", "BTC-USDT", "BTCUSDT"], known) == ("BTCUSDT", "BTC-USDT")
    for other in ("BTC-USDC", "btc-usdt", ["BTC-USDT"], None):
        with pytest.raises(InvalidSymbolError):
            check_symbols([other], known)  # type: ignore[list-item] # pyright: ignore


# -- errors --------------------------------------------------------------------------------------

UNTIL = datetime(2026, 11, 23, 23, 45, tzinfo=UTC)


def error_of(status: int, body: bytes) -> ResponseError:
    """Return our exception for an answer with this status and this body."""
    refusal = Refusal.of(status, {}, None).with_text(body)
    return refusal.error(UNTIL if refusal.is_temporary else None)


@pytest.mark.parametrize(
    "status, body, kind",
    [
        (400, error_body(-1121, "Invalid symbol."), UnknownSymbolError),
        (200, error_body(-1121, "Invalid symbol."), UnknownSymbolError),
        (400, error_body(-4108, "Symbol is on delivering."), SymbolNotTradingError),
        (200, error_body(-4108, "Symbol is on delivering."), SymbolNotTradingError),
        (400, error_body(-1102, "Mandatory parameter"), ResponseError),
        (400, error_body(-1100, "Illegal characters"), ResponseError),
        (401, error_body(-2014, "API-key format invalid."), ResponseError),
        (404, HTML, ResponseError),
        (302, b"", ResponseError),
        (400, error_body(-1000, ""), ServerError),
        (400, error_body(-1001, ""), ServerError),
        (400, error_body(-1006, ""), ServerError),
        (200, error_body(-1007, ""), ServerError),
        (400, error_body(-1008, ""), ServerError),
        (408, b"", ServerError),
        (500, error_body(-1000, ""), ServerError),
        (502, HTML, ServerError),
        (503, error_body(-1008, ""), ServerError),
        (504, b"", ServerError),
        (599, b"", ServerError),
        (429, error_body(-1003, LIMIT_TEXT), RateLimitedError),
        (429, HTML, RateLimitedError),
        (429, b"", RateLimitedError),
        (200, error_body(-1003, LIMIT_TEXT), RateLimitedError),
        (400, error_body(-1003, LIMIT_TEXT), RateLimitedError),
        (418, error_body(-1003, BAN_TEXT), BannedError),
        (418, error_body(-1121, "Invalid symbol."), BannedError),
        (418, HTML, BannedError),
        (418, b"", BannedError),
        (403, error_body(-1003, BAN_TEXT), BannedError),
        (400, error_body(-1003, BAN_TEXT), BannedError),
        (403, error_body(-1003, LIMIT_TEXT), ForbiddenError),
        (403, HTML, ForbiddenError),
        (403, b"", ForbiddenError),
        (451, error_body(0, "Service unavailable from a restricted location"), ForbiddenError),
        # The status takes precedence over a code that contradicts it.
        (429, error_body(-1003, BAN_TEXT), RateLimitedError),
        (429, error_body(-1121, ""), RateLimitedError),
        (403, error_body(-1121, ""), ForbiddenError),
        (451, error_body(-1003, BAN_TEXT), ForbiddenError),
        (503, error_body(-1003, BAN_TEXT), ServerError),
        (503, error_body(-1121, ""), ServerError),
        (408, error_body(-4108, ""), ServerError),
    ],
)
def test_the_status_and_then_the_code_select_the_error(
    status: int, body: bytes, kind: type[ResponseError]
) -> None:
    error = error_of(status, body)
    assert type(error) is kind
    assert error.status == status


@pytest.mark.parametrize(
    "body, code, message",
    [
        (b'{"code":-1121,"msg":"Invalid symbol."}', -1121, "Invalid symbol."),
        (b'{"msg":"Invalid symbol.","code":-1121,"more":[1]}', -1121, "Invalid symbol."),
        (b'{"code":-1121}', -1121, "(no text)"),
        (b'{"code":-1121,"msg":null}', -1121, "(no text)"),
        (b'{"code":-1121,"msg":{"a":1}}', -1121, "(no text)"),
        (b'{"code":-1121,"msg":""}', -1121, "(no text)"),
        (b'{"code":-1121,"msg":"a\\u001b[2J\\n b"}', -1121, r"a\x1b[2J b"),
        (b'{"code":"-1121","msg":"x"}', None, '{"code":"-1121","msg":"x"}'),
        (b'{"code":-1121.0,"msg":"x"}', None, '{"code":-1121.0,"msg":"x"}'),
        (b'{"code":true,"msg":"x"}', None, '{"code":true,"msg":"x"}'),
        (b'{"code":1000000,"msg":"x"}', None, '{"code":1000000,"msg":"x"}'),
        (b'{"code":-1121,"msg":"Inva', None, '{"code":-1121,"msg":"Inva'),
        (b'{"msg":"x"}', None, '{"msg":"x"}'),
        (b"", None, "(no text)"),
        (b" \r\n ", None, "(no text)"),
        (b"<HTML>\r\n<H1>403 ERROR</H1>", None, "<HTML> <H1>403 ERROR</H1>"),
        (b"\xff\x1b", None, "\ufffd\\x1b"),
        ("币".encode(), None, "币"),
        ("币".encode()[:2], None, "\ufffd"),
    ],
)
def test_code_and_message_come_from_the_exchange_or_from_the_start_of_the_body(
    body: bytes, code: int | None, message: str
) -> None:
    error = error_of(400, body)
    assert (error.code, error.message) == (code, message)


@pytest.mark.parametrize(
    "body",
    [b"x" * 10_000_000, error_body(-1, "x" * 10_000_000), b'{"code":-1,"x":' + DEEP + b"}", DEEP],
    ids=["text", "message", "deep in a field", "deep"],
)
@pytest.mark.parametrize("status", [200, 400, 403, 418, 429, 500])
def test_the_message_of_an_endless_or_deep_error_is_short(status: int, body: bytes) -> None:
    assert len(error_of(status, body).message) <= 200


@given(
    st.one_of(st.integers(100, 599), st.sampled_from([200, 400, 403, 408, 418, 429, 451, 503])),
    st.one_of(
        st.binary(max_size=300),
        st.builds(error_body, st.integers(), st.text()),
        st.text().map(lambda text: f"{text} banned until {BAN_END}{text}".encode()),
    ),
)
def test_every_refusal_becomes_a_printable_exception(status: int, body: bytes) -> None:
    error = error_of(status, body)
    assert error.status == status
    assert str(error).isprintable()
    if isinstance(error, RateLimitedError | BannedError):
        assert error.retry_at.tzinfo is UTC


@pytest.mark.parametrize("status", [400, 403, 418, 429])
def test_the_text_of_a_refusal_adds_the_end_of_a_ban_and_the_limit(status: int) -> None:
    refusal = Refusal.of(status, {}, None)
    assert (refusal.until, refusal.limit) == (None, None)
    banned = refusal.with_text(error_body(-1003, BAN_TEXT))
    assert (banned.until, banned.limit) == (BANNED_UNTIL.timestamp(), None)
    limited = refusal.with_text(error_body(-1003, LIMIT_TEXT))
    assert (limited.until, limited.limit) == (None, 2400)
    assert banned.cooldown == limited.cooldown == refusal.cooldown  # the text does not change it


@pytest.mark.parametrize("name", ["Retry-After", "retry-after"])
@pytest.mark.parametrize(
    "status, after, hold",
    [
        (418, None, MIN_BAN),
        (418, 0, MIN_BAN),
        (418, 121, 121.0),
        (418, 900_000, MAX_BAN),
        (429, None, 0.0),
        (429, 7, 7.0),
        (429, 3600, MAX_RETRY_AFTER),
        (429, 3601, 0.0),
        (403, 7, 60.0),
        (451, 7, 0.0),
        (503, 7, 0.0),
        (400, 7, 0.0),
    ],
)
def test_status_and_headers_set_the_cooldown(
    status: int, after: int | None, hold: float, name: str
) -> None:
    headers = CIMultiDict({} if after is None else {name: str(after)})
    assert Refusal.of(status, headers, None).cooldown == hold


@pytest.mark.parametrize("status, body", [(418, b""), (429, b""), (400, error_body(-1003, ""))])
def test_the_retry_time_of_a_temporary_refusal_comes_from_the_governor(
    status: int, body: bytes
) -> None:
    error = error_of(status, body)
    assert isinstance(error, RateLimitedError | BannedError)
    assert error.retry_at == UNTIL


@pytest.mark.parametrize(
    "text, end",
    [
        (BAN_TEXT, BAN_END),
        ("Way too many requests; IP banned until 1532118492680. Please", 1532118492680),
        ("Way too much request weight used; IP banned until 1659761931230.", 1659761931230),
        ("IP(2001:db8::1) banned until 1783855317204", BAN_END),
        ("IP(...) banned until <ms>. ...", None),
        ("banned until 1783855317", None),  # in seconds, not in ms
        ("banned until 17838553172040", None),
        ("banned until 0783855317204", None),
        ("banned until １７８３８５５３１７２０４", None),
        ("banned until 1783855317204７", None),
        ("banned until -1783855317204", None),
        ("banned until " + "9" * 5000, None),
        (LIMIT_TEXT, None),
        ("", None),
    ],
)
def test_the_end_of_a_ban_is_thirteen_plain_digits(text: str, end: int | None) -> None:
    assert ban_end_ms(text) == end


@pytest.mark.parametrize(
    "text, limit",
    [
        (LIMIT_TEXT, 2400),
        ("Too many requests; current limit of IP(2001:db8::1) is 6000 requests per minute.", 6000),
        ("Too many requests; current limit is 1200 requests per minute. Please", 1200),
        ("weight used; current limit is 1200 request weight per 1 MINUTE. Please", 1200),
        ("Too many requests; current request has limited.", None),
        ("Too many new orders; current limit is 300 orders per TEN_SECONDS.", None),
        ("current limit is 5 requests per minute", 5),
        ("current limit is 4 requests per minute", None),
        ("current limit is 0 requests per minute", None),
        ("current limit is -5 requests per minute", None),
        ("current limit is 10000000 requests per minute", None),
        ("current limit is ２４００ requests per minute", None),
        ("current limit is " + "9" * 5000 + " requests per minute", None),
        (f"current limit of IP({'1' * 61}) is 2400 requests per minute", None),
        (BAN_TEXT, None),
        ("", None),
    ],
)
def test_only_a_weight_limit_in_plain_digits_is_a_stated_limit(
    text: str, limit: int | None
) -> None:
    assert stated_limit(text) == limit


# -- recorded answers, and made ones --------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        made("open_interest.jsonl"),
        made("open_interest_coin_m.jsonl"),
        recorded("observed_fapi_openInterest.jsonl"),
        recorded("observed_dapi_openInterest.jsonl"),
    ],
)
def test_every_recorded_open_interest_is_decoded(path: Path) -> None:
    lines = [line for line in lines_of(path) if line["status"] == 200]
    assert lines
    for line in lines:
        body = cast(str, line["body"])
        symbol = cast(str, line["request"]).partition("symbol=")[2]
        value = decode_open_interest(body.encode(), symbol)
        said = json.loads(body)
        assert (value.symbol, str(value.open_interest), value.time) == (
            symbol,
            said["openInterest"],
            said["time"],
        )


@pytest.mark.parametrize(
    "path, number, time",
    [
        made("documented_example.json", "20403.150", 1600000000000),
        recorded("documented_example.json", "10659.509", 1589437530011),
    ],
)
def test_the_documented_example_is_decoded(path: Path, number: str, time: int) -> None:
    value = decode_open_interest(path.read_bytes(), "BTCUSDT")
    assert (value.symbol, str(value.open_interest), value.time) == ("BTCUSDT", number, time)


@pytest.mark.parametrize("path, time", [made("server_time.json", 1795435200417)])
def test_our_example_of_a_server_time_is_decoded(path: Path, time: int) -> None:
    assert decode_server_time(path.read_bytes()) == time


@pytest.mark.parametrize(
    "path, listed, limit",
    [
        made("exchange_info_july.json", 15, 2400),
        made("exchange_info_october.json", 4, 2400),
        made("exchange_info_testnet.json", 9, 6000),
        recorded("fapi-exchangeInfo-20260703.json", 818, 2400),
        recorded("fapi-exchangeInfo-trimmed-20261007.json", 5, 2400),
        recorded("testnet-exchangeInfo-20251126.json", 647, 6000),
    ],
)
def test_every_recorded_listing_is_decoded(path: Path, listed: int, limit: int) -> None:
    body = path.read_bytes()
    info = decode_exchange_info(body)
    said = json.loads(body)["symbols"]
    assert (len(info.symbols), info.weight_limit) == (listed, limit)
    assert [s.symbol for s in info.symbols] == [row["symbol"] for row in said]
    assert [s.quantity_precision for s in info.symbols] == [r["quantityPrecision"] for r in said]
    assert list(info.trading) == [row["symbol"] for row in said if row["status"] == "TRADING"]
    assert info.odd_rows == ()
    assert [check_symbol(s.symbol) for s in info.symbols] == [row["symbol"] for row in said]


@pytest.mark.parametrize(
    "path", [made("premium_index.json"), recorded("fapi-premiumIndex-20260704.json")]
)
def test_every_recorded_mark_price_is_decoded(path: Path) -> None:
    body = path.read_bytes()
    rows = [(m.symbol, f"{m.mark_price:f}", m.time) for m in decode_mark_prices(body).prices]
    assert rows == [(row["symbol"], row["markPrice"], row["time"]) for row in json.loads(body)]
    assert rows


@pytest.mark.parametrize(
    "path",
    [
        made("firewall.html"),
        recorded("cloudfront_403_2019.html"),
        recorded("cloudfront_403_2023.html"),
    ],
)
def test_every_recorded_firewall_page_is_a_forbidden_error(path: Path) -> None:
    error = error_of(403, path.read_bytes())
    assert type(error) is ForbiddenError
    assert error.code is None
    assert error.message.startswith("<!DOCTYPE HTML")
    for decode in DECODERS.values():
        with pytest.raises(DecodeError):
            decode(path.read_bytes())


KIND_OF_STATUS = {
    403: ForbiddenError,
    408: ServerError,
    418: BannedError,
    429: RateLimitedError,
    451: ForbiddenError,
    500: ServerError,
    503: ServerError,
}
KIND_OF_CODE = {
    -1000: ServerError,
    -1003: RateLimitedError,
    -1007: ServerError,
    -1008: ServerError,
    -1121: UnknownSymbolError,
    -4108: SymbolNotTradingError,
}
STATUS_IN_WORDS = {"418 or 403": [418, 403], "n/a": [404], "5xx": [500], "unclear": [400]}


def statuses(recorded_as: object) -> list[int]:
    if isinstance(recorded_as, int):
        return [recorded_as]
    return STATUS_IN_WORDS.get(str(recorded_as)) or [int(str(recorded_as).split()[0])]


@pytest.mark.parametrize("path", [made("errors.jsonl"), recorded("observed_error_bodies.jsonl")])
def test_every_recorded_error_becomes_the_right_exception(path: Path) -> None:
    lines = lines_of(path)
    assert lines
    for line in lines:
        said = json.loads(cast(str, line["body"])) if "body" in line else None
        body = cast(str, line.get("body", line.get("msg"))).encode()
        for status in statuses(line["http"]):
            error = error_of(status, body)
            by_code = KIND_OF_CODE.get(said["code"] if said else 0, ResponseError)
            kind = line.get("error", KIND_OF_STATUS.get(status, by_code).__name__)
            assert type(error).__name__ == kind, line
            text = said["msg"] if said else body.decode()
            assert error.message == text
            assert error.code == (said["code"] if said else None)


@pytest.mark.parametrize(
    "path, first, stated",
    [
        made("errors.jsonl", 1795435500123, [2400, 6000, 1100, 1300]),
        recorded("observed_error_bodies.jsonl", BAN_END, [2400, 6000, 400, 1200, 1200]),
    ],
)
def test_the_ban_or_the_limit_of_every_recorded_text_is_read(
    path: Path, first: int, stated: list[int]
) -> None:
    texts = [str(line.get("body")) for line in lines_of(path)]
    ends = [end for text in texts if (end := ban_end_ms(text)) is not None]
    limits = [limit for text in texts if (limit := stated_limit(text)) is not None]
    assert len(ends) == sum("banned until 1" in text for text in texts) > 0
    assert ends[0] == first
    assert limits == stated


@pytest.mark.parametrize("blank", ["\n", "  ", "\t", "\r\n    "], ids=repr)
def test_line_breaks_do_not_change_the_meaning_of_a_text(blank: str) -> None:
    limit = "The current limit is 1200 requests per minute"
    text = f"<p>Too many requests; IP banned until {BAN_END}. {limit}</p>"
    refusal = Refusal.of(418, {}, None).with_text(text.replace(" ", blank).encode())
    assert (refusal.until, refusal.limit) == (BAN_END / 1000, 1200)
    assert refusal.message == text
