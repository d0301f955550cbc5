"""Reads numbers from response headers.

The rule of this file: if the value of a header does not have the expected form in plain ASCII, we
treat the header as missing. `int` and `float` accept more: full-width digits, `nan`, or a thousand
digits. Servers, proxies and attackers send such values.

Marks: [D] documented by the exchange, [O] observed live, [?] unknown.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache

from binance_oi.exchange.limits import WEIGHT

MAX_DIGITS = 9  # digits of a number that `number` accepts
_USED_WEIGHT = WEIGHT.header
# The futures exchange opened in 2019. A date in 1970, in the year 1 or in 9999 comes from a clock
# that was never set, or is a default. So it does not show the exchange's minute. And near the years
# 1 and 9999, `datetime` may raise.
EARLIEST_DATE_S = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
END_OF_DATES_S = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DATE = re.compile(  # the only form that RFC 9110 allows a server to send
    rf"[A-Z][a-z]{{2}}, ([0-9]{{2}}) ({'|'.join(_MONTHS)}) ([0-9]{{4}})"
    r" ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT",
    re.ASCII,
)


def used_weight(headers: Mapping[str, str]) -> int | None:
    """Return the weight that the whole IP address has used in the minute of this answer.

    The result includes the weight of the request itself. It is None if the header is missing, or is
    not one to nine plain digits. So it is None for `-1`, which some routes send instead of a count.

    Source: [D, O] every fapi answer has the header; an answer of `/futures/data` does not.
    """
    return number(headers.get(_USED_WEIGHT))


def date(headers: Mapping[str, str]) -> float | None:
    """Return the exchange's time of the answer, Unix s, with a resolution of 1 s.

    None if the header is missing, not a date, or before 2020 or after 2099.
    """
    text = headers.get("Date")
    unix = None if text is None else _unix(text)
    return unix if unix is not None and is_plausible(unix) else None


def retry_after(headers: Mapping[str, str], now: float | None) -> float:
    """Return the seconds for which to send nothing; 0 if the header is missing or not usable.

    Args:
        headers: The headers of the answer.
        now: The answer's `Date`, Unix s, to convert an HTTP date in `Retry-After` to seconds. The
            HTTP date may be in any year, so the caller must bound the result.

    Source: [?] it is unknown whether the futures API sends the header, and in which form. Other
    APIs of the exchange sent seconds, sometimes 0.
    """
    text = headers.get("Retry-After")
    if text is None:
        return 0.0
    seconds = number(text)
    if seconds is not None:
        return float(seconds)
    until = _unix(text)
    return max(0.0, until - now) if until is not None and now is not None else 0.0


def says_longer(headers: Mapping[str, str], most: int) -> bool:
    """Whether the body on the wire has more than `most` bytes, according to `Content-Length`."""
    text = headers.get("Content-Length", "")
    if not (text.isascii() and text.isdigit()):
        return False
    digits = text.lstrip("0")
    return len(digits) > MAX_DIGITS or int(digits or "0") > most


def is_plausible(date: float) -> bool:
    """Whether a date, Unix s, can come from the exchange's clock: not before 2020 or after 2099."""
    return EARLIEST_DATE_S <= date < END_OF_DATES_S


def number(text: str | None) -> int | None:
    """The number that a header states in plain digits; None for anything else."""
    if text is None or len(text) > MAX_DIGITS or not (text.isascii() and text.isdigit()):
        return None
    return int(text)


@lru_cache(maxsize=8)  # the date changes once a second, and hundreds of answers share it
def _unix(text: str) -> float | None:
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    day, month, *year_and_time = match.groups()
    year, hour, minute, second = map(int, year_and_time)
    try:
        instant = datetime(
            year, _MONTHS.index(month) + 1, int(day), hour, minute, second, tzinfo=UTC
        )
    except ValueError:
        return None
    return instant.timestamp()
