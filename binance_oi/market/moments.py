"""Checks the bounds that a caller sets for a stretch of the past, and converts them to instants.

The rule of this file: it reads no clock. To convert a bound to an instant, it uses the time that
the caller passes.
"""

from datetime import datetime, timedelta

from binance_oi.arguments import check_number
from binance_oi.times import unix_ms

Moment = datetime | timedelta | int | None
"""A bound: an aware `datetime`, a `timedelta` before now, Unix ms, or None for the default."""


def check_moment(name: str, moment: object) -> None:
    """Check that `moment` is a bound.

    Raises:
        TypeError: `moment` has a wrong type.
        ValueError: `moment` has no time zone, is before 1970 or not finite, or is a negative
            `timedelta`.
    """
    match moment:
        case None:
            return
        case datetime():
            at: float = unix_ms(moment)
        case timedelta():
            at = moment.total_seconds()
        case _:
            at = check_number(name, moment)
    if at < 0:
        raise ValueError(f"{name} must not be negative, nor before 1970: {moment!r}")


def moment_ms(moment: datetime | timedelta | int, now: int) -> int:
    """Convert a bound to Unix ms; `now` is the present time, Unix ms."""
    if isinstance(moment, datetime):
        return unix_ms(moment)
    if isinstance(moment, timedelta):
        return max(0, now - round(moment.total_seconds() * 1000))
    return int(moment)
