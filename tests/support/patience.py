"""A recorder that waits 50 ms for whoever else has its file, where a test holds the file for long.

Rule of this file: only how long it waits differs, and never what it does then.
"""

import pytest

from binance_oi.recorder import store

SECONDS = 0.05


def wait_briefly(monkeypatch: pytest.MonkeyPatch, seconds: float = SECONDS) -> None:
    """Shorten the wait for a lock, and at the end for those who read or write."""
    monkeypatch.setattr(store, "LOCK_TIMEOUT_S", seconds)
    monkeypatch.setattr(store.Store.close, "__kwdefaults__", {"wait": seconds})
