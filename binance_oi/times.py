"""Converts instants between `datetime`, Unix ms and text.

The rule of this file: an instant is aware UTC or Unix ms. Text for programs is ISO 8601 with a Z,
and text for people is a date and a time.
"""

from datetime import UTC, datetime
from functools import lru_cache


def unix_ms(moment: datetime) -> int:
    """Convert an aware `datetime` to Unix ms.

    Raises:
        ValueError: `moment` has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone; use UTC")
    return round(moment.timestamp() * 1000)


def instant(unix_ms: int) -> datetime:
    """Convert Unix ms to aware UTC."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC)


def iso(moment: datetime) -> str:
    """Format an aware UTC instant as ISO 8601 with a Z, to the second."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def iso_ms(unix_ms: int) -> str:
    """Format Unix ms as ISO 8601 with a Z, to the millisecond."""
    minute, rest = divmod(unix_ms, 60_000)
    return f"{_minute(minute)}:{rest // 1000:02d}.{rest % 1000:03d}Z"


def plain(moment: datetime) -> str:
    """Format an aware UTC instant for people, to the second, without its time zone."""
    return f"{moment:%Y-%m-%d %H:%M:%S}"


@lru_cache(maxsize=4096)  # minutes; many rows of many symbols share one
def _minute(number: int) -> str:
    return datetime.fromtimestamp(number * 60, UTC).isoformat()[:16]
