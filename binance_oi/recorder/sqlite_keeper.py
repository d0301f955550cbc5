"""Removes samples from a file, and gives its free space back, while other processes use it.

The rule of this file: each transaction is short, so that a recorder in another process can write
between two of them. Readers see the state before a transaction or after it.
"""

import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing

from binance_oi.recorder.connection import connect
from binance_oi.recorder.retention import STEP_ROWS, clock
from binance_oi.recorder.store import Store

# A larger number would have no effect: the module `sqlite3` stops this statement after one page.
_RETURN_PAGE = "PRAGMA incremental_vacuum(1)"
PAGES_PER_STEP = 4096  # 4 MiB
# To return a free page, SQLite searches the list of all free pages. If that list has hundreds of
# thousands of pages, `PAGES_PER_STEP` would take more than a second, and a recorder would wait.
STEP_S = 0.05  # s of one step, at most
INCREMENTAL = 2  # a value of `PRAGMA auto_vacuum`

_RECENT = "DELETE FROM recent WHERE time < ?1 AND received < ?1"
_NEXT = "SELECT min(symbol) FROM settled WHERE symbol > ?1"
# Finds the time of the first row that a step leaves to the next step.
_BOUND = (
    "SELECT time FROM settled WHERE symbol = ?1 AND time < ?2"
    f" ORDER BY time LIMIT 1 OFFSET {STEP_ROWS}"
)
_SETTLED = "DELETE FROM settled WHERE symbol = ?1 AND time < ?2 AND received < ?3"
_NEWEST = (
    "SELECT max(time) FROM recent",
    *(
        f"SELECT max(time) FROM settled WHERE symbol = (SELECT {end}(symbol) FROM settled)"
        for end in ("min", "max")
    ),
)


class SqliteKeeper:
    """Removes samples from a file; see `Keeper`.

    Args:
        store: The file, opened in this thread. Another process may record into it.
        clock: Returns seconds, from any origin.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._symbol = ""  # the last symbol whose old samples have all been removed

    def writing(self) -> AbstractContextManager[sqlite3.Connection]:
        """See `Keeper.writing`."""
        return self._store.writing()

    def now(self) -> int | None:
        """See `Keeper.now`."""
        return clock([self._value(query) for query in _NEWEST])

    def drop_samples(self, before: int) -> bool:
        """See `Keeper.drop_samples`."""
        with self.writing() as run:
            removed = run.execute(_RECENT, (before,)).rowcount
            while removed < STEP_ROWS:
                (symbol,) = run.execute(_NEXT, (self._symbol,)).fetchone()
                if symbol is None:
                    self._symbol = ""
                    return False
                bound = run.execute(_BOUND, (symbol, before)).fetchone()
                end = before if bound is None else bound[0]
                found = run.execute(_SETTLED, (symbol, end, before)).rowcount
                removed += found
                if bound is None or not found:
                    self._symbol = symbol
        return True

    def _value(self, query: str) -> int | None:
        found: int | None = self._store.connection.execute(query).fetchone()[0]
        return found

    def is_wasteful(self) -> bool:
        """Whether more than a third of the file is free, and the file can shrink in steps."""
        free, pages = (self._value(f"PRAGMA {name}_count") for name in ("freelist", "page"))
        return 3 * (free or 0) > (pages or 0) and self._is_incremental()

    def _is_incremental(self) -> bool:
        return self._value("PRAGMA auto_vacuum") == INCREMENTAL

    def compact(self) -> bool:
        """See `Keeper.compact`. A file of an early version is rewritten as a whole, in one step."""
        if not self._is_incremental():
            self._write_anew()
            return False
        with self.writing() as run:
            end = self._clock() + STEP_S
            for _ in range(min(PAGES_PER_STEP, self._value("PRAGMA freelist_count") or 0)):
                run.execute(_RETURN_PAGE)
                if self._clock() >= end:
                    break
        return bool(self._value("PRAGMA freelist_count"))

    def _write_anew(self) -> None:
        """Rewrite the file, so that it can give space back in steps. Recorders wait."""
        uri = f"{self._store.path.absolute().as_uri()}?mode=rw"
        with closing(connect(uri, 60.0)) as other:
            other.execute("PRAGMA wal_autocheckpoint = 0")
            other.execute("PRAGMA synchronous = FULL")
            other.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
            other.execute("VACUUM")
