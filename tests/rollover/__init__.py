"""A minute that turns a moment after each test begins: `BINANCE_OI_ROLLOVER=20 pytest`, in ms.

Rule of this file: only Unix time is moved, of this process and of those that it starts, so that a
test which depends on the second of the minute in which it runs fails every time.
"""

import os
import sys
from pathlib import Path

import pytest

from .moved_clock import MOVED, install, real_time

__all__ = ["AFTER_MS", "install", "turn_soon"]

HERE = Path(__file__).parent
_given = os.environ.get("BINANCE_OI_ROLLOVER")
AFTER_MS = float(_given) if _given else None
"""Milliseconds from a test's beginning to the turn of the minute; None leaves the clocks alone."""


def turn_soon(monkeypatch: pytest.MonkeyPatch, after_ms: float) -> None:
    """Move Unix time, by less than a minute, so that the minute turns in so many ms."""
    monkeypatch.setenv(MOVED, repr((60.0 - after_ms / 1000 - real_time()) % 60.0))
    # Python imports `sitecustomize` when it starts, from there.
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


if AFTER_MS is not None:
    assert "binance_oi" not in sys.modules, "it has made `time.time` a default already"
    install()
