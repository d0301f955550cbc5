"""Kills a process between two statements of SQLite.

Rule of this file: it changes the calling process, so only a child of a test may call it.
"""

import os
import signal
import sqlite3
from typing import Any
from unittest.mock import patch


def kill_at_statement(number: int) -> None:
    """Let `number` more statements run in this process, and kill it at the next one."""
    connect = sqlite3.connect

    def count(_: str) -> None:
        nonlocal number
        number -= 1
        if number < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def connected(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **kwargs)
        connection.set_trace_callback(count)
        return connection

    patch.object(sqlite3, "connect", connected).start()
