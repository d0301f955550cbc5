"""Puts a rollover soon after the beginning of each test: `BINANCE_OI_ROLLOVER=20 pytest`, in ms.

Rule of this file: it moves only Unix time, in this process and in those that it starts. So if a
rollover at this moment breaks a test, the test fails every time.
"""

import os
import sys
import time
from pathlib import Path

import pytest

from .moved_clock import MOVED, install, moved_time, real_time

__all__ = ["AFTER_MS", "install", "turn_soon"]

HERE = Path(__file__).parent
_given = os.environ.get("BINANCE_OI_ROLLOVER")
AFTER_MS = float(_given) if _given else None
"""Milliseconds from a test's beginning to the rollover; None does not move the clocks."""


def turn_soon(monkeypatch: pytest.MonkeyPatch, after_ms: float) -> None:
    """Move Unix time by less than a minute, so that a rollover comes after `after_ms`."""
    monkeypatch.setenv(MOVED, repr((60.0 - after_ms / 1000 - real_time()) % 60.0))
    # Python imports `sitecustomize` from this folder when it starts.
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


def early() -> list[str]:
    """Our modules that were imported already, and may have stored `time.time` as a default.

    pytest imports our plugin when it starts, and with it some modules that use no clock.
    """
    ours = [name for name in sys.modules if name.partition(".")[0] == "binance_oi"]
    return [name for name in ours if "time" in vars(sys.modules[name])]


# pytest imports this folder a second time, as a part of the package `tests`.
if AFTER_MS is not None and time.time.__name__ != moved_time.__name__:
    assert early() == []
    install()
