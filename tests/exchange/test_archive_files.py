"""Decoders accept the oddities of real archive files, and take no invalid row from damaged ones.

Rule of this file: each test makes the bytes that it decodes; no test reads a downloaded file.
"""

import io
import random
import tracemalloc
import zipfile
from collections.abc import Callable
from datetime import date

import pytest

from binance_oi import DecodeError
from binance_oi.exchange.archive import (
    MAX_NAMED,
    MAX_TEXT,
    decode_checksum,
    decode_metrics,
    metrics_path,
    unzip,
)
from support.archive_files import HEADER, STEP, line, midnight, pack, text, whole_day
from support.lanes import some

DAY = date(2024, 8, 8)
MIDNIGHT = midnight(DAY)
SYMBOLS = ("BTCUSDT", "1000SHIBUSDT", "币安人生USDT", "BTCUSDT_261225")
WHOLE = {MIDNIGHT + n * STEP: (f"{n + 1}.50", "1.5") for n in range(288)}


@pytest.mark.parametrize("symbol", SYMBOLS)
@pytest.mark.parametrize("late", [False, True], ids=["00:00", "00:05"])
def test_a_day_may_begin_at_midnight_or_five_minutes_later(symbol: str, late: bool) -> None:
    found = decode_metrics(text(whole_day(symbol, DAY, late=late)), symbol, DAY)
    shift = STEP if late else 0
    assert found.rows == {time + shift: row for time, row in WHOLE.items()}
    assert (found.blank, found.odd_rows, found.repeated) == (set(), [], 0)


def test_doubled_rows_count_once() -> None:
    found = decode_metrics(text(2 * whole_day("BTCUSDT", DAY)), "BTCUSDT", DAY)
    assert (found.rows, found.repeated, found.odd) == (WHOLE, 288, 0)


def test_rows_out_of_order_are_returned_in_order() -> None:
    lines = random.Random(1).sample(whole_day("BTCUSDT", DAY), 288)
    found = decode_metrics(text(lines), "BTCUSDT", DAY)
    assert list(found.rows.items()) == list(WHOLE.items())


def test_blank_ratios_do_not_affect_the_rows() -> None:
    lines = [line("BTCUSDT", time, value, "1.5", ",,,") for time, (value, _) in WHOLE.items()]
    assert decode_metrics(text(lines), "BTCUSDT", DAY).rows == WHOLE


@pytest.mark.parametrize("value", ["", " ", '""', "0", "0.0000000000000000", "-5.0", "-0.00"])
def test_blank_or_non_positive_open_interest_is_a_hole(value: str) -> None:
    lines = whole_day("BTCUSDT", DAY)
    lines[7] = line("BTCUSDT", MIDNIGHT + 7 * STEP, value)
    found = decode_metrics(text(lines), "BTCUSDT", DAY)
    assert found.blank == {MIDNIGHT + 7 * STEP}
    assert found.rows == {t: row for t, row in WHOLE.items() if t not in found.blank}
    assert found.odd == 0


@pytest.mark.parametrize(
    "value",
    ["nan", "null", "1_000", "1E+9", "９６", "1.2.3", "+1", "0x1", "9" * 5000, "\x00"],
)
def test_a_value_that_is_not_a_plain_number_is_a_hole_and_its_row_is_named(value: str) -> None:
    lines = whole_day("BTCUSDT", DAY)
    lines[7] = f"2024-08-08 00:35:00,BTCUSDT,{value};,1.5,1,2,3,4"
    found = decode_metrics(text(lines), "BTCUSDT", DAY)
    assert found.blank == {MIDNIGHT + 7 * STEP}
    assert len(found.rows) == 287
    assert (len(found.odd_rows), found.odd) == (1, 1)


@pytest.mark.parametrize("notional", ["", "0", "-1", "nan", "1e9"])
def test_an_invalid_notional_becomes_unknown_and_the_row_is_kept(notional: str) -> None:
    found = decode_metrics(
        text([line("BTCUSDT", MIDNIGHT, "5", notional), line("BTCUSDT", MIDNIGHT + STEP, "6")]),
        "BTCUSDT",
        DAY,
    )
    assert list(found.rows.values()) == [("5", None), ("6", "1.5")]


@pytest.mark.parametrize(
    "odd, why",
    [
        ("2024-08-08 00:07:00,BTCUSDT,5,5", "time"),
        ("2024-08-07 23:55:00,BTCUSDT,5,5", "time"),
        ("2024-08-09 00:05:00,BTCUSDT,5,5", "time"),
        ("1723075500000,BTCUSDT,5,5", "time"),
        ("2024-08-08 24:00:00,BTCUSDT,5,5", "time"),
        ("2024-08-08 00:05:00,ETHUSDT,5,5", "another symbol"),
        ("2024-08-08 00:05:00,btcusdt,5,5", "another symbol"),
        ("2024-08-08 00:05:00,BTC", "cut off"),
        ("x", "cut off"),
        (HEADER, "time"),
    ],
)
def test_an_invalid_row_is_omitted_with_its_reason_and_all_others_are_kept(
    odd: str, why: str
) -> None:
    lines = whole_day("BTCUSDT", DAY)
    found = decode_metrics(text([*lines[:100], odd, *lines[100:]]), "BTCUSDT", DAY)
    assert found.rows == WHOLE
    assert found.odd == 1
    assert why in found.odd_rows[0]


def test_of_two_values_for_one_instant_the_later_one_is_kept_and_both_are_named() -> None:
    lines = [line("BTCUSDT", MIDNIGHT, "5"), line("BTCUSDT", MIDNIGHT, "6")]
    found = decode_metrics(text(lines), "BTCUSDT", DAY)
    assert found.rows == {MIDNIGHT: ("6", "1.5")}
    assert "another row of this instant has 5" in found.odd_rows[0]


@pytest.mark.parametrize("order", [1, -1])
def test_of_a_blank_row_and_a_value_for_one_instant_the_value_is_kept(order: int) -> None:
    lines = [line("BTCUSDT", MIDNIGHT, ""), line("BTCUSDT", MIDNIGHT, "6")][::order]
    found = decode_metrics(text(lines), "BTCUSDT", DAY)
    assert (found.rows, found.blank) == ({MIDNIGHT: ("6", "1.5")}, set())


def test_the_first_invalid_rows_are_named_and_the_rest_counted() -> None:
    found = decode_metrics(text(["rubbish"] * 1000), "BTCUSDT", DAY)
    assert (found.odd, len(found.odd_rows)) == (1000, MAX_NAMED)


@pytest.mark.parametrize(
    "change",
    [
        lambda body: b"\xef\xbb\xbf" + body,
        lambda body: body.replace(b"\n", b"\r\n"),
        lambda body: body.replace(b"\n", b"\r"),
        lambda body: body.rstrip(b"\n"),
        lambda body: body.replace(b"\n", b"\n\n"),
        lambda body: body.split(b"\n", 1)[1],
        lambda body: body.replace(b"create_time", b"CREATE_TIME "),
        lambda body: b"\n".join(
            b",".join(b'"' + cell + b'"' for cell in row.split(b",")) for row in body.splitlines()
        ),
        lambda body: body.replace(b",", b", "),
    ],
    ids=["mark", "CRLF", "CR", "no end", "empty lines", "no header", "case", "quotes", "blanks"],
)
def test_line_ends_quotes_and_a_byte_order_mark_do_not_affect_the_rows(
    change: Callable[[bytes], bytes],
) -> None:
    found = decode_metrics(change(text(whole_day("BTCUSDT", DAY))), "BTCUSDT", DAY)
    assert (found.rows, found.odd) == (WHOLE, 0)


def test_columns_are_found_by_the_header() -> None:
    lines = [f"{n + 1}.50,new,2024-08-08 {n // 12:02d}:{n % 12 * 5:02d}:00" for n in range(288)]
    found = decode_metrics(text(lines, "sum_open_interest,extra,create_time"), "BTCUSDT", DAY)
    assert found.rows == {time: (value, None) for time, (value, _) in WHOLE.items()}


def test_a_header_without_the_columns_that_we_need_is_an_error() -> None:
    with pytest.raises(DecodeError, match="the header lacks sum_open_interest"):
        decode_metrics(b"create_time,symbol,oi\n", "BTCUSDT", DAY)


@pytest.mark.parametrize("body", [b"", b"\n", HEADER.encode()])
def test_an_empty_file_has_no_rows(body: bytes) -> None:
    found = decode_metrics(body, "BTCUSDT", DAY)
    assert (found.rows, found.blank, found.odd) == ({}, set(), 0)


# -- the zip file --------------------------------------------------------------------------------

NAME = "BTCUSDT-metrics-2024-08-08.zip"


def zipped(*texts: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as packed:
        for name, body in texts:
            packed.writestr(name, body)
    return file.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_text_of_the_expected_name_or_else_the_only_one_is_unpacked(method: int) -> None:
    own = ("BTCUSDT-metrics-2024-08-08.csv", b"ours")
    assert unzip(zipped(own, method=method), NAME) == b"ours"
    assert unzip(zipped(("__MACOSX/x.csv", b"no"), own, ("r.txt", b"")), NAME) == b"ours"
    assert unzip(zipped(("renamed.csv", b"only")), NAME) == b"only"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no zip",
        b"PK\x05\x06" + bytes(18),
        zipped(),
        zipped(("x.txt", b"")),
        zipped(("a.csv", b""), ("b.csv", b"")),
        zipped(("a.csv", b"x" * 99))[:-30],
        zipped(("a.csv", b"unpacked"), method=zipfile.ZIP_STORED).replace(b"unpacked", b"Unpacked"),
        zipped(("a.csv", b"x" * 99), method=zipfile.ZIP_BZIP2),
        zipped(("a.csv", b"x" * 99), method=zipfile.ZIP_LZMA),
    ],
    ids=["empty", "text", "end", "none", "no csv", "two", "cut", "checksum", "bzip2", "lzma"],
)
def test_a_zip_file_whose_text_is_missing_ambiguous_or_damaged_is_a_decode_error(
    data: bytes,
) -> None:
    with pytest.raises(DecodeError, match="BTCUSDT-metrics-2024-08-08"):
        unzip(data, NAME)


def test_a_zip_bomb_uses_bounded_memory() -> None:
    bomb = pack("a.csv", bytes(64 * 1024 * 1024))
    assert len(bomb) < 1024 * 1024
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match=r"unpacks to more than 4,194,304 bytes"):
            unzip(bomb, NAME)
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_TEXT
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("seed", some(range(2000), always=200))
def test_a_damaged_file_is_a_decode_error_or_has_only_valid_rows(seed: int) -> None:
    draw = random.Random(seed)
    data = bytearray(pack("a.csv", text(whole_day("BTCUSDT", DAY)), draw.choice([0, 8])))
    for _ in range(draw.randrange(1, 6)):
        place = draw.randrange(len(data)) if draw.random() < 0.5 else -draw.randrange(1, 120)
        data[place] = draw.randrange(256)
    try:
        found = decode_metrics(unzip(bytes(data), NAME), "BTCUSDT", DAY)
    except DecodeError:
        return
    assert set(found.rows) <= set(WHOLE)


# -- checksums and paths -------------------------------------------------------------------------

SUM = "0123456789abcdef" * 4


@pytest.mark.parametrize("said", [f"{SUM}  x.zip\n", f"{SUM}", f"\n{SUM} *x", f"{SUM.upper()}\t"])
def test_a_checksum_is_the_first_word_of_its_file(said: str) -> None:
    assert decode_checksum(said.encode()) == SUM


@pytest.mark.parametrize("said", ["", SUM[1:], f"{SUM}0", "<html>", f"x {SUM}", "\x00" * 99])
def test_a_file_without_a_checksum_is_a_decode_error(said: str) -> None:
    with pytest.raises(DecodeError, match="the file has no SHA-256"):
        decode_checksum(said.encode())


def test_the_path_of_a_file_is_percent_encoded_utf_8() -> None:
    assert metrics_path("龙USDT", DAY) == (
        "/data/futures/um/daily/metrics/%E9%BE%99USDT/%E9%BE%99USDT-metrics-2024-08-08.zip"
    )
