"""The decoder of a page of history keeps every digit of an amount, and omits only invalid rows.

Rule of this file: a test of a row shows only how the row differs from `LIVE`.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binance_oi.errors import BinanceOIError, DecodeError, WrongSymbolError
from binance_oi.exchange import decoding
from binance_oi.exchange.decoding import HistoryPage, decode_history
from binance_oi.exchange.models import HistoryRow
from binance_oi.exchange.refusals import RefusedError
from binance_oi.exchange.routes import MAX_ROWS, OPEN_INTEREST_HISTORY, PERIODS, history_page
from support.lanes import some

SYMBOL = "1000SHIBUSDT"
TIME = 1_795_435_200_000
LIVE: dict[str, object] = {
    "symbol": SYMBOL,
    "sumOpenInterest": "20403.63700000",
    "sumOpenInterestValue": "150570784.07809979",
    "CMCCirculatingSupply": "165880.538",
    "timestamp": TIME,
}
ROW = HistoryRow(
    SYMBOL, TIME, Decimal("20403.63700000"), Decimal("150570784.07809979"), Decimal("165880.538")
)


def body(*rows: object) -> bytes:
    return json.dumps(rows, separators=(",", ":"), ensure_ascii=False).encode()


def read(*rows: object) -> HistoryPage:
    return decode_history(body(*rows), SYMBOL)


def without(field: str) -> dict[str, object]:
    return {key: value for key, value in LIVE.items() if key != field}


def test_a_live_page_is_read_exactly_and_in_its_order() -> None:
    page = read(LIVE | {"timestamp": TIME + 1}, LIVE)
    assert page == HistoryPage((HistoryRow(SYMBOL, TIME + 1, *_amounts()), ROW))
    assert str(page.rows[0].open_interest) == "20403.63700000"
    assert page.rows[0].datetime == datetime(2026, 11, 23, 12, 0, 0, 1000, UTC)
    assert read() == HistoryPage(())


def _amounts() -> tuple[Decimal, Decimal, Decimal | None]:
    return ROW.open_interest, ROW.notional, ROW.circulating_supply


@pytest.mark.parametrize("time", [TIME, str(TIME)])
@pytest.mark.parametrize("number", ["20403.637", 20403.637, "20403", 20403])
def test_a_number_may_be_a_json_string_or_a_json_number(number: object, time: object) -> None:
    (row,) = read(LIVE | {"sumOpenInterest": number, "timestamp": time}).rows
    assert row.open_interest == Decimal(str(number))
    assert row.time == TIME


@pytest.mark.parametrize("digits", ["0", "1", "0.00000001", f"{'9' * 30}.{'1' * 30}"])
def test_an_amount_is_exact_to_the_last_digit(digits: str) -> None:
    (row,) = read(LIVE | {"sumOpenInterest": digits, "sumOpenInterestValue": digits}).rows
    assert str(row.open_interest) == str(Decimal(digits))
    raw = body(LIVE).replace(b'"20403.63700000"', digits.encode())
    assert decode_history(raw, SYMBOL).rows[0].open_interest == Decimal(digits)


ODD_NUMBERS: tuple[object, ...] = (
    *("NaN", "1_000", "1E+5", "", ".5", "5.", "1.2.3", ".", "-1", "+1", " 1", "١٢"),
    *("9" * 31, "0." + "9" * 31, None, True, [], {}, 1e300),
)


@pytest.mark.parametrize("odd", ODD_NUMBERS)
@pytest.mark.parametrize("field", ["sumOpenInterest", "sumOpenInterestValue"])
def test_a_row_with_an_invalid_amount_is_omitted_and_named(field: str, odd: object) -> None:
    page = read(LIVE | {field: odd}, LIVE)
    assert page == HistoryPage((ROW,), (f"{SYMBOL} (left out: an amount)",))


@pytest.mark.parametrize("odd", [0, -1, "x", "", None, 10**15, "1" * 5000, 1.5, "١"])
def test_a_row_with_an_invalid_time_is_omitted_and_named(odd: object) -> None:
    page = read(LIVE, LIVE | {"timestamp": odd})
    assert page == HistoryPage((ROW,), (f"{SYMBOL} (left out: timestamp)",))


@pytest.mark.parametrize("supply", ["", None])
def test_a_row_without_a_circulating_supply_is_kept(supply: object) -> None:
    expected = HistoryPage((HistoryRow(SYMBOL, TIME, ROW.open_interest, ROW.notional),))
    assert read(LIVE | {"CMCCirculatingSupply": supply}) == expected
    assert read(without("CMCCirculatingSupply")) == expected


def test_an_invalid_circulating_supply_is_omitted_and_its_row_is_kept() -> None:
    page = read(LIVE | {"CMCCirculatingSupply": "unknown"})
    assert page.rows == (HistoryRow(SYMBOL, TIME, ROW.open_interest, ROW.notional),)
    assert page.odd_rows == (f"{SYMBOL} (CMCCirculatingSupply)",)


@pytest.mark.parametrize(
    "odd",
    [
        *(without("sumOpenInterest"), without("timestamp"), without("symbol")),
        *(1, None, "text", [], LIVE | {"symbol": 5}),
    ],
)
def test_an_element_that_is_not_a_row_is_omitted_and_the_others_are_kept(odd: object) -> None:
    page = read(odd, LIVE)
    assert page.rows == (ROW,)
    assert len(page.odd_rows) == 1


def test_an_unknown_field_is_ignored_and_a_repeated_field_makes_its_row_invalid() -> None:
    assert read(LIVE | {"new": {"a": [1]}}) == HistoryPage((ROW,))
    twice = body(LIVE, LIVE).replace(b'{"symbol"', b'{"timestamp":5,"symbol"', 1)
    page = decode_history(twice, SYMBOL)
    assert page.rows == (ROW,)
    assert len(page.odd_rows) == 1


@pytest.mark.parametrize("other", ["2000SHIBUSDT", "SHIBUSDT", "BTCUSDT_261225", "币安人生USDT"])
def test_rows_of_another_symbol_are_omitted_and_a_page_of_them_is_an_error(other: str) -> None:
    theirs = LIVE | {"symbol": other}
    page = read(theirs, LIVE)
    assert page == HistoryPage((ROW,), (f"{other} (left out: another symbol)",))
    with pytest.raises(WrongSymbolError, match=f"asked for {SYMBOL}, answered for {other}"):
        read(theirs, theirs)


@pytest.mark.parametrize("symbol", ["BTCUSDT", "BTCUSDT_261225", "币安人生USDT", "4USDT"])
def test_symbols_of_every_kind_are_read(symbol: str) -> None:
    page = decode_history(body(LIVE | {"symbol": symbol}), symbol)
    assert [row.symbol for row in page.rows] == [symbol]
    assert not page.odd_rows


@pytest.mark.parametrize(
    "text",
    [b"", b"{}", b"null", b"[1,2]", b"<html>", b"[{}]", b'[{"symbol":"X"}', b"\xff", b"[" * 9999],
)
def test_anything_but_a_page_is_a_decode_error(text: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_history(text, SYMBOL)


def test_a_refusal_with_status_200_is_still_a_refusal() -> None:
    with pytest.raises(RefusedError) as caught:
        decode_history(b'{"code":-1121,"msg":"Invalid symbol."}', SYMBOL)
    assert caught.value.refusal.code == -1121


def test_the_first_invalid_rows_are_named_and_the_rest_counted() -> None:
    page = read(LIVE, *[LIVE | {"timestamp": 0}] * 20)
    assert len(page.odd_rows) == 9
    assert page.odd_rows[-1] == "and 12 more"


@given(st.data())
def test_a_mutated_page_gives_rows_of_the_symbol_or_our_error(data: st.DataObject) -> None:
    text = bytearray(body(LIVE, LIVE | {"timestamp": TIME + 300_000}))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        page = decode_history(bytes(text), SYMBOL)
    except (BinanceOIError, RefusedError):
        return
    assert {row.symbol for row in page.rows} <= {SYMBOL}
    assert all(row.open_interest.is_finite() and row.time > 0 for row in page.rows)


# The symbol of this page has digits, and its amounts differ in their number of digits.
PAGE = body(
    LIVE,
    LIVE | {"timestamp": TIME + 300_000, "sumOpenInterest": "9999.50000000"},
    LIVE | {"timestamp": TIME + 600_000, "sumOpenInterestValue": "99.00000001"},
)
ODD_BYTES = b'019."{}[]:,+-_eEnN \t\n\\\0\xd9\xff'
ODD_TEXTS = (
    *(b"0" * 31, b"..", b'."', b'".', b"\\u0031", "١".encode(), b"1e+5", b"null", b'""', b"{}"),
    *(b",{}", b'"timestamp":5,', b'"new":1,', b'"sumOpenInterest":1E+5,', b" ", b"\xef\xbb\xbf"),
)


def outcome(read: Callable[[bytes, str], HistoryPage], text: bytes, symbol: str) -> str:
    """The repr of the page, which shows every digit and all invalid rows, or that of the error."""
    try:
        return repr(read(text, symbol))
    except (BinanceOIError, RefusedError) as error:
        return repr(error)


def is_read_alike(text: bytes, symbol: str = SYMBOL) -> bool:
    """Check that both ways read a page alike; return whether the fast path (`_usual_rows`) did."""
    one_by_one = outcome(decoding._row_by_row, text, symbol)
    assert outcome(decode_history, text, symbol) == one_by_one, text
    return decoding._usual_rows(text, symbol) is not None


def changed() -> list[bytes]:
    """Copies of the page with one byte removed, doubled or changed, or with odd text inserted."""
    places = range(len(PAGE))
    texts = [PAGE[:at] + PAGE[at + 1 :] for at in places]
    texts += [PAGE[:at] + PAGE[at - 1 :] for at in places[1:]]
    texts += [PAGE[:at] + bytes([odd]) + PAGE[at + 1 :] for at in places for odd in ODD_BYTES]
    texts += [PAGE[:at] + odd + PAGE[at:] for at in (*places, len(PAGE)) for odd in ODD_TEXTS]
    return texts


@pytest.mark.parametrize("part", some(range(4), always=1))
def test_the_fast_path_reads_a_changed_page_as_the_slow_path_does_or_not_at_all(part: int) -> None:
    texts = changed()[part::4]
    taken = sum(map(is_read_alike, texts))
    assert 100 < taken < len(texts) // 4  # of these, the fast path reads only a few


@given(st.data())
def test_the_fast_path_reads_a_heavily_changed_page_as_the_slow_path_does_or_not_at_all(
    data: st.DataObject,
) -> None:
    names = st.sampled_from(
        [SYMBOL, "2000SHIBUSDT", "0X", "1X", "BTCUSDT", "币安人生USDT", "4USDT"]
    )
    digits = st.from_regex("[0-9]{1,31}([.][0-9]{0,31})?|[.][0-9]", fullmatch=True)
    odd = st.sampled_from(["1E+5", "-1-5", "1_0", "NaN", "", 1, 1.5, 1e300, None])
    amounts = st.one_of(digits, digits, digits, odd)
    symbol = data.draw(names)
    rows = data.draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "symbol": st.just(symbol) | names,
                    "sumOpenInterest": amounts,
                    "sumOpenInterestValue": amounts,
                    "CMCCirculatingSupply": amounts,
                    "timestamp": st.integers(10**12, 10**13) | st.integers(0, 10**15),
                }
            ),
            max_size=4,
        )
    )
    is_read_alike(body(*rows), symbol)


@pytest.mark.parametrize("symbol", ["BTCUSDT", "1000SHIBUSDT", "币安人生USDT", "0X"])
def test_the_fast_path_reads_a_usual_page(symbol: str) -> None:
    text = PAGE.replace(SYMBOL.encode(), symbol.encode())
    assert is_read_alike(text, symbol)
    assert not is_read_alike(text, "1X")
    assert is_read_alike(body(LIVE | {"symbol": symbol}), symbol)
    assert not is_read_alike(body(), symbol)


RUNS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 40)), min_size=1, max_size=7)


@given(RUNS)
def test_the_kinds_of_row_are_found_between_the_braces(runs: list[tuple[int, int]]) -> None:
    rows = [b'"a":"%b"' % (b"0" * digits) for digits, count in runs for _ in range(count)]
    page = b"[{%b}]" % b"},{".join(rows)
    assert set(decoding._kinds_of_row(page)) == set(rows)
    for damaged in (page[:-1], page[:-2], page + b"]", page.replace(b"},{", b"}{", 1)):
        kinds = set(decoding._kinds_of_row(damaged))
        assert kinds - set(rows) or kinds == set(damaged[2:-2].split(b"},{"))


def test_a_history_request_has_both_bounds_and_uses_the_limit_of_history() -> None:
    asked = history_page("BTCUSDT", "5m", 1, 2)
    assert asked.params == {
        "symbol": "BTCUSDT",
        "period": "5m",
        "limit": str(MAX_ROWS),
        "startTime": "1",
        "endTime": "2",
    }
    assert asked.route is OPEN_INTEREST_HISTORY
    assert (asked.route.limit.most, asked.route.limit.seconds) == (1000, 300)
    assert not asked.route.limit.is_aligned
    assert not asked.is_kept
    assert PERIODS["5m"] == 300_000
    assert PERIODS["1d"] == 86_400_000
