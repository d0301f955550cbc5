"""Shortens a recorder's waits for other users of its file to 50 ms.

Rule of this file: it changes only the length of a wait, and never what the recorder does then.
"""

import pytest

from binance_oi.recorder import store

SECONDS = 0.05


def wait_briefly(monkeypatch: pytest.MonkeyPatch, seconds: float = SECONDS) -> None:
    """Shorten the wait for a lock, and the last wait for other readers and writers."""
    monkeypatch.setattr(store, "LOCK_TIMEOUT_S", seconds)
    monkeypatch.setattr(store.Store.close, "__kwdefaults__", {"wait": seconds})
