"""Moves Unix time by the seconds that the environment names, also in child processes.

Rule of this file: it must be imported before modules that use the clock, so it imports very little.
"""

import os
import time

MOVED = "BINANCE_OI_CLOCK_MOVED"  # seconds; read at each call, because each test sets its own

real_time, _real_time_ns = time.time, time.time_ns


def _moved() -> float:
    return float(os.environ.get(MOVED, "0"))


def moved_time() -> float:
    """The result of `time.time` after `install`."""
    return real_time() + _moved()


def moved_time_ns() -> int:
    """The result of `time.time_ns` after `install`."""
    return _real_time_ns() + round(_moved() * 1e9)


def install() -> None:
    """Replace the functions of `time`; call this before another module stores them as a default."""
    time.time, time.time_ns = moved_time, moved_time_ns
