"""Replaces the default clocks of the package with the clock of the loop, for `virtual_time`.

Rule of this file: it is for tests whose code passes no clock of its own.
"""

import asyncio
import time

import pytest

from binance_oi.testing.default_clocks import replace_default_clocks
from binance_oi.testing.virtual_clock import VirtualDatetime, wall_time


def use_virtual_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace every default clock with that of the running loop."""

    def steady() -> float:
        return asyncio.get_running_loop().time()

    def wall_ns() -> int:
        return round(wall_time() * 1e9)

    replace_default_clocks(monkeypatch, steady=steady, wall=wall_time)
    monkeypatch.setattr("binance_oi.market.schedule.steady_clock", time.monotonic)
    monkeypatch.setattr("binance_oi.market.sweep.datetime", VirtualDatetime)
    monkeypatch.setattr("binance_oi.market.sweep.time", Nanoseconds(wall_ns))


class Nanoseconds:
    """The module `time` with another `time_ns`."""

    def __init__(self, time_ns: object) -> None:
        self.time_ns = time_ns
