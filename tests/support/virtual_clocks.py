"""The clocks of the package, in a test marked `virtual_time`: all of them are the loop's.

Rule of this file: for tests whose code takes its clocks by default.
"""

import asyncio
import time

import pytest

from binance_oi.testing.default_clocks import replace_default_clocks
from binance_oi.testing.virtual_clock import VirtualDatetime, wall_time


def use_virtual_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every default clock be that of the running loop."""

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
