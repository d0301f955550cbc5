"""Checks lengths of time: the step of a series, and the windows for which we compute changes.

The rule of this file: a window is a whole number of steps. A step is a multiple of 5 minutes, which
is the time between two rows of the past. So a window always begins and ends at an instant that may
have a row.
"""

import re
from collections.abc import Sequence
from datetime import timedelta

from binance_oi.arguments import check_count

ROW_MS = 300_000  # ms from one row of the past to the next
LONGEST_MS = 366 * 86_400_000  # ms: 366 days; each step of the longest window needs memory
WINDOWS = ("5m", "15m", "1h", "4h", "24h")
"""The default windows."""

Length = str | timedelta | int
"""A length of time: text such as ``5m``, ``4h`` or ``7d``; a `timedelta`; or milliseconds."""

_UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
_TEXT = re.compile(r"([0-9]{1,9})([mhd])", re.ASCII)


def length_ms(name: str, length: object) -> int:
    """Convert a length to milliseconds.

    Args:
        name: The name of the argument, for errors.
        length: The caller's value.

    Raises:
        TypeError: `length` has another type.
        ValueError: `length` has a wrong form, such as ``1x``, or is not whole milliseconds; or it
            is 0 or less, or longer than 366 days.
    """
    match length:
        case str():
            found = _TEXT.fullmatch(length)
            if found is None:
                raise ValueError(f"{name} must be a number with m, h or d, such as 1h: {length!r}")
            ms = int(found[1]) * _UNITS_MS[found[2]]
        case timedelta():
            ms = length // timedelta(milliseconds=1)
            if timedelta(milliseconds=ms) != length:
                raise ValueError(f"{name} must be whole milliseconds: {length!r}")
        case _:
            ms = check_count(name, length)
    if not 0 < ms <= LONGEST_MS:
        raise ValueError(f"{name} must be above 0, and at most 366 days: {length!r}")
    return ms


def step_ms(step: Length) -> int:
    """Convert a step to milliseconds.

    Raises:
        TypeError: `step` has another type.
        ValueError: `step` has a wrong form, such as ``1x``; or it is 0 or less, longer than 366
            days, or not a multiple of 5 minutes.
    """
    ms = length_ms("step", step)
    if ms % ROW_MS:
        raise ValueError(f"step must be 5m or a multiple of it: {step!r}")
    return ms


def windows_ms(windows: Sequence[Length], step: int) -> tuple[int, ...]:
    """Convert windows to milliseconds, each once, in the given order.

    Args:
        windows: The caller's values.
        step: The step in milliseconds.

    Raises:
        TypeError: A window has another type, or `windows` is a single text.
        ValueError: `windows` is empty; or a window has a wrong form, is 0 or less or longer than
            366 days, or is not a multiple of the step.
    """
    if isinstance(windows, str):
        raise TypeError(f"windows must be a list of lengths, such as ['1h'], not {windows!r}")
    found = tuple(dict.fromkeys(length_ms("window", window) for window in windows))
    if not found:
        raise ValueError("windows must name at least one window")
    for window in found:
        if window % step:
            raise ValueError(f"window {label(window)} is not a multiple of the step {label(step)}")
    return found


def label(ms: int) -> str:
    """Return a length as text, in the largest unit that divides it: hours, minutes, s or ms."""
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if ms % size == 0:
            return f"{ms // size}{unit}"
    return f"{ms}ms"
