"""Numbers out of response headers.

The rule of this file: a header is bounded plain ASCII, or it counts as absent. `int` and `float`
take `nan`, full-width digits and five thousand digits; servers, proxies and attackers send them.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache

from binance_oi.exchange.limits import WEIGHT

MAX_DIGITS = 9
_USED_WEIGHT = WEIGHT.header
# The futures exchange opened in 2019. A date of 1970, of year 1 or of 9999 comes from a clock that
# was never set, or from a default. It says nothing about the exchange's minute, and near the ends
# of the calendar `datetime` fails.
EARLIEST_DATE_S = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
END_OF_DATES_S = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DATE = re.compile(  # the only form that RFC 9110 allows a server to send
    rf"[A-Z][a-z]{{2}}, ([0-9]{{2}}) ({'|'.join(_MONTHS)}) ([0-9]{{4}})"
    r" ([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT",
    re.ASCII,
)


def used_weight(headers: Mapping[str, str]) -> int | None:
    """Weight that the whole IP used in the minute of this answer, the answer's own included.

    None when the header is absent, `-1` (not applicable here), or not a number.

    Source: [D, O] every fapi answer carries it; `/futures/data` does not, and some send -1.
    """
    return _number(headers.get(_USED_WEIGHT))


def date(headers: Mapping[str, str]) -> float | None:
    """The exchange's clock at its answer, in Unix seconds; 1 s resolution.

    None when the header is absent, not a date, or an impossible time for an answer.
    """
    text = headers.get("Date")
    unix = None if text is None else _unix(text)
    return unix if unix is not None and is_plausible(unix) else None


def retry_after(headers: Mapping[str, str], now: float | None) -> float:
    """Seconds in which to send nothing; 0 when the header is absent or not usable.

    Args:
        headers: Headers of the answer.
        now: The answer's `Date`, from which an HTTP date in `Retry-After` is counted. That date may
            be in any year: the caller bounds the seconds.

    Source: [?] whether futures send it, and in which form; seconds and 0 were seen elsewhere.
    """
    text = headers.get("Retry-After")
    if text is None:
        return 0.0
    seconds = _number(text)
    if seconds is not None:
        return float(seconds)
    until = _unix(text)
    return max(0.0, until - now) if until is not None and now is not None else 0.0


def says_longer(headers: Mapping[str, str], most: int) -> bool:
    """Whether `Content-Length` says that the body on the wire has more than `most` bytes."""
    text = headers.get("Content-Length", "")
    if not (text.isascii() and text.isdigit()):
        return False
    digits = text.lstrip("0")
    return len(digits) > MAX_DIGITS or int(digits or "0") > most


def is_plausible(date: float) -> bool:
    """Whether the exchange's clock can have shown this date, Unix s, whenever this code runs."""
    return EARLIEST_DATE_S <= date < END_OF_DATES_S


def _number(text: str | None) -> int | None:
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
