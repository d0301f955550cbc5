"""A sink that stores into one SQLite file, even if other programs move or remove that file.

The rule of this file: the sink does what it can to lose no acknowledged write. A write is
*acknowledged* when its call has returned. If another program has moved, removed or replaced the
file, the sink continues in the file that is now at the path, or creates one. It repeats there the
writes that only the log of the old file contained. For that, it keeps copies of writes in memory.
If the copies have too many rows, it drops the oldest; if that loses a sweep, `take_lost` counts the
sweep.
"""

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from binance_oi.errors import RecordingError, StorageError
from binance_oi.market.gap import Gap
from binance_oi.market.rows import InstantRow
from binance_oi.market.snapshot import Snapshot
from binance_oi.recorder.lock import RecorderLock
from binance_oi.recorder.opening import check_source
from binance_oi.recorder.past import past_times
from binance_oi.recorder.retention import Pruning
from binance_oi.recorder.sides import has_side_name
from binance_oi.recorder.sink import Saved
from binance_oi.recorder.slots import gaps_since
from binance_oi.recorder.sqlite_keeper import SqliteKeeper
from binance_oi.recorder.statements import Statements
from binance_oi.recorder.store import ChangedError, Kept, Store, is_busy

WRITE_ERRORS = (sqlite3.Error, OSError, RecordingError)

_T = TypeVar("_T")

logger: logging.Logger = logging.getLogger("binance_oi")


class Retention:
    """Removes old days from a file, in small steps.

    After that, it gives free space to the system while more than a third of the file is free.

    Args:
        days: The number of whole days to keep, besides the current one.
        now: Returns Unix seconds.
    """

    def __init__(self, days: int, now: Callable[[], float]) -> None:
        self._days, self._now = days, now
        self._of: Store | None = None
        self.has_more: bool = False
        """Whether there is work left for another step."""

    def step(self, store: Store) -> None:
        """Do the next step.

        Raises:
            sqlite3.Error: The step has changed nothing.
            OSError: As in `Store.save`; the step has changed nothing.
        """
        if store is not self._of:
            self._of, self._keeper = store, SqliteKeeper(store)
            self._pruning = Pruning(self._keeper, self._days)
        self.has_more = self._pruning.step(round(self._now() * 1000))
        if not self.has_more and self._keeper.is_wasteful():
            self.has_more = self._keeper.compact()


class SqliteSink:
    """Stores sweeps in a recording; see `Sink`.

    Args:
        path: The recording. A missing file is created, an existing one is continued.
        source: The exchange's name. None neither writes nor compares a source.
        keep_days: The number of whole days to keep, besides the current one; None keeps all.
        now: Returns Unix seconds.
    """

    def __init__(
        self,
        path: Path,
        source: str | None,
        *,
        keep_days: int | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._source = source
        self._retention = None if keep_days is None else Retention(keep_days, now)
        self._clock: Callable[[], float] | None = None
        self._lock: RecorderLock | None = None
        self._store: Store | None = None
        # Acknowledged writes that may be only in the log of a file that we closed after an error.
        self._in_closed_log: list[Kept] = []
        self._unstored: list[Kept] = []  # acknowledged writes that are in no file now
        self._lost = 0  # acknowledged sweeps that are lost; `take_lost` has yet to report them

    def __str__(self) -> str:
        return str(self._path)

    def claim(self, clock: Callable[[], float]) -> None:
        """See `Sink.claim`. When this process ends, the system releases the lock."""
        self._clock = clock
        self._lock = _lock(self._path)
        check_source(self._path, self._source)

    def open(self) -> None:
        """See `Sink.open`."""
        try:
            self._store = self._opened()
        except (sqlite3.Error, OSError) as error:
            raise StorageError(str(error)) from error

    def last_slot(self, before: int | None = None) -> int | None:
        """See `Sink.last_slot`."""
        if before is None:
            return self._read(lambda store: store.last_slot())
        return self._read(lambda store: store.last_slot(before))

    def save(self, sweep: Snapshot | None, gaps: Sequence[Gap], period: int) -> Saved:
        """See `Sink.save`."""

        def write(store: Store) -> Saved:
            swept = store.count_swept(gaps, period)
            return Saved(store.save(sweep, gaps, period), swept)

        try:
            return self._written(write)
        except WRITE_ERRORS as error:
            raise StorageError(str(error)) from error

    def save_past(self, rows: Sequence[InstantRow]) -> int:
        """See `Sink.save_past`."""
        try:
            return self._written(lambda store: store.save_past(rows))
        except WRITE_ERRORS as error:
            raise StorageError(str(error)) from error

    def write(self, work: Callable[[Statements], object]) -> None:
        """Run `work` in one transaction.

        Raises:
            StorageError: Nothing was written.
        """

        def within(store: Store) -> None:
            with store.writing() as run:
                work(run)

        try:
            self._written(within)
        except WRITE_ERRORS as error:
            raise StorageError(str(error)) from error

    def past_times(self, symbol: str, source: int, first: int, last: int) -> list[int]:
        """See `Sink.past_times`."""
        return self._read(lambda store: past_times(store.connection, symbol, source, first, last))

    def gaps_since(self, since: int) -> list[tuple[str, Gap, int]]:
        """See `Sink.gaps_since`."""
        return self._read(lambda store: gaps_since(store.connection, since))

    def is_due(self) -> bool:
        """See `Sink.is_due`: old days are left to remove, or the file lags behind its log."""
        store = self._store
        if store is not None and self._retention is not None and self._retention.has_more:
            return True
        return store is not None and store.is_due()

    def tidy(self) -> None:
        """See `Sink.tidy`."""
        if self._store is None:
            return
        try:
            self._store.tidy()
            if self._retention is not None:
                self._retention.step(self._store)
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"{self} cannot be tidied yet: {error}") from error

    def take_lost(self) -> int:
        """See `Sink.take_lost`. Such sweeps were only in the log of a removed file."""
        lost, self._lost = self._lost, 0
        if lost:
            logger.warning("%s was removed with its log: %d sweeps are lost", self, lost)
        return lost

    def close(self) -> None:
        """Close the file. Write acknowledged sweeps that are in no file into a new one."""
        lock = self._lock
        if lock is None:
            return
        try:
            self._finish()
        finally:
            lock.close()
            self._lock = None

    def _opened(self) -> Store:
        assert self._lock is not None
        assert self._clock is not None
        self._lock.renew(self._path)
        return Store(self._path, self._source, clock=self._clock)

    def _read(self, read: Callable[[Store], _T]) -> _T:
        assert self._store is not None
        try:
            return read(self._store)
        except sqlite3.Error as error:
            raise StorageError(str(error)) from error

    def _written(self, write: Callable[[Store], _T]) -> _T:
        """Run a write. If it fails, open the file again and try once more.

        The path may lead to another file now, or a temporary error may be over. If another
        connection has locked the file, there is no second try.
        """
        change = ""
        if self._store is not None:
            try:
                return self._write_to(self._store, write)
            except (sqlite3.Error, OSError) as error:
                if is_busy(error):
                    raise
                logger.debug("%s is opened again: %s", self._path, error)
                change = str(error) if isinstance(error, ChangedError) else ""
                self._close(wait=0.0)
        self._store = self._opened()
        if change:
            logger.warning("%s", change)
        return self._write_to(self._store, write)

    def _write_to(self, store: Store, write: Callable[[Store], _T]) -> _T:
        assert self._lock is not None
        if not self._lock.protects(self._path):
            change = store.change() or "has lost its lock; it is opened again"
            raise ChangedError(f"{self._path} {change}")
        self._store_again(store)
        return write(store)

    def _store_again(self, store: Store) -> None:
        """Repeat the acknowledged writes that are in no file now."""
        if self._in_closed_log:
            self._unstored += store.remember(self._in_closed_log)
            self._in_closed_log = []
        while self._unstored:
            self._lost += store.restore(self._unstored[0])
            del self._unstored[0]

    def _finish(self) -> None:
        """Close the file. Write acknowledged sweeps that are in no file into a new one."""
        closed_by_an_error = bool(self._in_closed_log)
        self._close()
        if self._unstored or closed_by_an_error:
            with suppress(sqlite3.Error, OSError, RecordingError):
                self._store = self._opened()
                self._store_again(self._store)
            self._close()
        self._in_closed_log = []  # if they are in no file, they are in `_unstored` now
        if self._unstored:
            self._lost += sum(k.lost or k.snapshot is not None for k in self._unstored)
            # A cancelled recorder may run again. Then it writes these sweeps as gaps.
            self._unstored = [k.without_rows()._replace(lost=False) for k in self._unstored]

    def _close(self, **how: float) -> None:
        """Close the store, if there is one; see `Store.close`."""
        store, self._store = self._store, None
        if store is not None:
            self._unstored += store.close(**how)
            self._in_closed_log += store.forget()


def _lock(path: Path) -> RecorderLock:
    if path.is_dir():
        raise RecordingError(f"{path} is a directory; a recording is a file")
    for name in (path, Path(os.path.realpath(path))):
        if has_side_name(name):
            raise RecordingError(f"{name} has the name of a side file of a recording; take another")
    try:
        return RecorderLock(path)
    except OSError as error:
        raise RecordingError(
            f"{path} cannot be recorded into: {error.strerror or error}"
        ) from error
