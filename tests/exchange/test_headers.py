"""The value of a header is short plain ASCII, or the header counts as absent.

Only a `Content-Length` may have any number of digits.
"""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from answers import made, recorded
from binance_oi.exchange import headers

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC).timestamp()
NOON_TEXT = "Mon, 23 Nov 2026 12:00:00 GMT"
NO_NUMBERS = [
    "",
    " ",
    "-1",
    "+1",
    "1.0",
    "1e3",
    "1_000",
    "0x10",
    "nan",
    "inf",
    "12 ",
    " 12",
    "12\n",
    "1,2",
    "１２",
    "٣",
    "²",
    "\x00",
    "1" * 10,
    "9" * 5000,
]
NO_DATES = [
    "",
    "0",
    "Mon, 23 Nov 2026 12:00:00",
    "Mon, 23 Nov 2026 12:00:00 UTC",
    "Mon, 23 Nov 2026 12:00:00 +0000",
    "Monday, 23-Nov-26 12:00:00 GMT",
    "Mon Nov 23 12:00:00 2026",
    "Mon, 23 nov 2026 12:00:00 GMT",
    "Mon, 32 Nov 2026 12:00:00 GMT",
    "Mon, 30 Feb 2026 12:00:00 GMT",
    "Mon, 23 Nov 2026 24:00:00 GMT",
    "Mon, 23 Nov 2026 12:60:00 GMT",
    "Mon, 23 Nov 2026 12:00:60 GMT",
    "Mon, 23 Nov 0000 12:00:00 GMT",
    "Mon, 2３ Nov 2026 12:00:00 GMT",
    " " + NOON_TEXT,
    NOON_TEXT + "\n",
    NOON_TEXT * 1000,
]

NO_EXCHANGE = [  # dates at which the exchange cannot have answered
    "Mon, 01 Jan 0001 00:00:00 GMT",
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "Tue, 31 Dec 2019 23:59:59 GMT",
    "Fri, 01 Jan 2100 00:00:00 GMT",
    "Fri, 31 Dec 9999 23:59:59 GMT",
]


def answer(**fields: str) -> CIMultiDict[str]:
    """Headers as aiohttp provides them: names are case-insensitive."""
    return CIMultiDict({name.replace("_", "-"): text for name, text in fields.items()})


@pytest.mark.parametrize("text, used", [("0", 0), ("1", 1), ("2400", 2400), ("0007", 7)])
def test_the_used_weight_is_a_whole_number(text: str, used: int) -> None:
    assert headers.used_weight(answer(x_mbx_used_weight_1m=text)) == used


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_any_other_used_weight_is_ignored(text: str) -> None:
    assert headers.used_weight(answer(X_MBX_USED_WEIGHT_1M=text)) is None


def test_an_absent_header_has_no_value() -> None:
    none = answer()
    assert headers.used_weight(none) is None
    assert headers.date(none) is None
    assert headers.retry_after(none, NOON) == 0.0


@pytest.mark.parametrize(
    "text, longer",
    [
        *(("0", False), ("999", False), ("1000", False), ("1001", True), ("0001001", True)),
        *(("0" * 5000 + "7", False), ("9" * 5000, True), ("18446744073709551616", True)),
        *((text, False) for text in NO_NUMBERS if not (text.isascii() and text.isdigit())),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_length_above_the_bound_is_known_from_the_header(text: str, longer: bool) -> None:
    assert headers.says_longer(answer(Content_Length=text), 1000) is longer
    assert not headers.says_longer(answer(), 1000)


@pytest.mark.parametrize(
    "text, unix",
    [
        (NOON_TEXT, NOON),
        ("Wed, 01 Jan 2020 00:00:00 GMT", 1_577_836_800.0),
        ("Thu, 24 Sep 2026 22:09:57 GMT", 1_790_287_797.0),
        ("Tue, 29 Feb 2028 23:59:59 GMT", 1_835_481_599.0),
        ("Thu, 31 Dec 2099 23:59:59 GMT", 4_102_444_799.0),
    ],
)
def test_the_date_is_unix_seconds(text: str, unix: float) -> None:
    assert headers.date(answer(date=text)) == unix


@pytest.mark.parametrize("text", [*NO_DATES, *NO_EXCHANGE])
def test_any_other_date_is_ignored(text: str) -> None:
    assert headers.date(answer(Date=text)) is None


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("0", 0.0),
        ("120", 120.0),
        ("259200", 259_200.0),
        ("Mon, 23 Nov 2026 12:02:30 GMT", 150.0),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0.0),  # already past
        *((text, 0.0) for text in NO_NUMBERS),
        *((text, 0.0) for text in NO_DATES),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_never_negative(text: str, seconds: float) -> None:
    assert headers.retry_after(answer(Retry_After=text), NOON) == seconds


def test_retry_after_may_name_any_year_and_needs_a_plausible_date_beside_it() -> None:
    for text in NO_EXCHANGE:
        unix = parsedate_to_datetime(text).timestamp()
        assert headers.retry_after(answer(Retry_After=text), NOON) == max(0.0, unix - NOON)
        date = headers.date(answer(Date=text))
        assert headers.retry_after(answer(Retry_After=NOON_TEXT), date) == 0.0


def test_retry_after_with_a_date_needs_the_date_of_the_answer() -> None:
    assert headers.retry_after(answer(Retry_After=NOON_TEXT), None) == 0.0
    assert headers.retry_after(answer(Retry_After="7"), None) == 7.0


@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_any_header_is_a_plausible_number_or_none(text: str) -> None:
    fields = answer(X_MBX_USED_WEIGHT_1M=text, Date=text, Retry_After=text)
    used, date = headers.used_weight(fields), headers.date(fields)
    assert used is None or 0 <= used < 10**headers.MAX_DIGITS
    assert date is None or NOON - 7 * 366 * 86_400 < date < NOON + 74 * 366 * 86_400
    assert 0 <= headers.retry_after(fields, NOON) < 10**headers.MAX_DIGITS


@pytest.mark.parametrize(
    "path, used, seconds",
    [
        made("headers/http_1_1.txt", 791, 0.0),
        made("headers/http_2.txt", 12, 0.0),
        made("headers/another_case.txt", 13, 0.0),
        made("headers/not_applicable.txt", None, 0.0),
        made("headers/history.txt", None, 0.0),
        made("headers/limited.txt", 2401, 0.0),
        made("headers/banned.txt", 2402, 120.0),
        made("headers/banned_with_a_date.txt", None, 600.0),
        made("headers/firewall.txt", None, 0.0),
        recorded("headers/fapi-openInterest-20260924.headers.txt", 1, 0.0),
        recorded("headers/fapi-ticker24hr-2021-05-27-ccxt9273.headers.txt", 2, 0.0),
        recorded("headers/fapi-v1-exchangeInfo-20260703T170827Z.headers.txt", 503, 0.0),
        recorded(
            "headers/fapi-v1-fundingRate-BTCUSDT-limit3-20260704T044945Z.headers.txt", None, 0.0
        ),
        recorded("headers/fapi-v1-premiumIndex-20260704T044945Z.headers.txt", 34, 0.0),
    ],
)
def test_recorded_headers_are_read(path: Path, used: int | None, seconds: float) -> None:
    lines = [line.partition(": ") for line in path.read_text().splitlines()]
    fields = CIMultiDict((key, text) for key, colon, text in lines if colon)
    assert headers.used_weight(fields) == used
    date = headers.date(fields)
    assert date is not None
    assert 2021 <= datetime.fromtimestamp(date, UTC).year <= 2026
    assert headers.retry_after(fields, date) == seconds
