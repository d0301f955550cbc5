"""Maintains a recording over years: removes old days, gives free space to the system, and copies.

The rule of this file: it works in short steps. So a recorder can continue between them, and a
killed process leaves a valid recording. A recorder may write the recording meanwhile, unless the
recording is the target of a copy.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from binance_oi.arguments import StrPath, check_count
from binance_oi.errors import RecordingError, StorageError
from binance_oi.market.rows import InstantRow, Row
from binance_oi.recorder.address import check_file, is_database, same_file, shown
from binance_oi.recorder.copying import Target, copy_into
from binance_oi.recorder.lock import RecorderLock
from binance_oi.recorder.opening import check_source
from binance_oi.recorder.past import write_past
from binance_oi.recorder.postgres import PostgresSink
from binance_oi.recorder.postgres_connection import Connection
from binance_oi.recorder.postgres_keeper import SIZE, PostgresKeeper
from binance_oi.recorder.recording import Recording
from binance_oi.recorder.retention import Keeper, Pruning
from binance_oi.recorder.sqlite_keeper import SqliteKeeper
from binance_oi.recorder.statements import Statements
from binance_oi.recorder.store import ChangedError, Store

PAUSE_S = 0.02  # s between two steps
# s of a longer pause. A recorder that waits for SQLite's lock tries again after at most 100 ms, so
# it gets the lock in this pause.
TURN_S = 0.12
TURN_AFTER_S = 0.2  # s of work after which `rest` makes the longer pause
LAST_WAIT_MS = 200  # ms that we wait for readers at the end, at most
BUSY_FOR_MS = 600_000  # ms that we wait for other programs that write, at most

# A file has its samples in two tables: `recent`, sorted by time, and `settled`, sorted by symbol. A
# copy reads samples by symbol, so it writes them straight to `settled`.
_SAMPLES = """
INSERT OR IGNORE INTO settled SELECT ?1, ?2, ?3, ?4, ?5
WHERE NOT EXISTS (SELECT 1 FROM recent WHERE symbol = ?1 AND time = ?2)
"""

Progress = Callable[[int], object]


class _Cared(Protocol):
    """A recording that is open for maintenance."""

    keeper: Keeper
    """Removes samples and returns free space, one step at a time."""

    def rest(self) -> None:
        """Pause between two steps, so that others can write."""
        ...

    def size(self) -> int:
        """Return the size of the recording in bytes."""
        ...


def prune(place: StrPath, keep_days: int, *, now: Callable[[], float] = time.time) -> int:
    """Remove whole days that are too old, and give their space to the system.

    A summary of each removed day stays, and so do the rows of the past that a backfill wrote. A
    recorder may write the recording meanwhile.

    Args:
        place: The recording: a file, or the URL of a database.
        keep_days: The number of whole days to keep, besides the current one.
        now: Returns Unix seconds.

    Returns:
        The number of removed days.

    Raises:
        TypeError: `keep_days` is not an integer, or `place` is neither a path nor a URL.
        ValueError: `keep_days` is not positive, or `place` is empty, or `place` is a URL that names
            no PostgreSQL database.
        RecordingError: There is no recording.
        StorageError: The recording cannot be written now. Days removed before the error stay
            removed.
    """
    days = check_count("keep_days", keep_days)
    with Recording(place) as recording:
        before = len({each.day for each in recording.pruned()})
    with _cared(place) as cared:
        pruning = Pruning(cared.keeper, days)
        while pruning.step(round(now() * 1000)):
            cared.rest()
        while cared.keeper.compact():
            cared.rest()
    with Recording(place) as recording:
        return len({each.day for each in recording.pruned()}) - before


def compact(place: StrPath) -> tuple[int, int]:
    """Give free space to the system in short steps, even while others record and read.

    If an earlier version of this library made the file, the first call rewrites the whole file.
    While it does so, a recorder keeps its sweeps in memory.

    Args:
        place: The recording: a file, or the URL of a database.

    Returns:
        The size before and after, in bytes. If a recorder writes a file, the file may shrink only
        after this call, within a minute.

    Raises:
        TypeError: `place` is neither a path nor a URL.
        ValueError: `place` is empty, or a URL that names no PostgreSQL database.
        RecordingError: There is no recording.
        StorageError: The recording cannot be written now.
    """
    with Recording(place):
        pass
    with _cared(place) as cared:
        before = cared.size()
        while cared.keeper.compact():
            cared.rest()
    with _cared(place) as cared:
        return before, cared.size()


def copy(source: StrPath, target: StrPath, *, on_rows: Progress = int) -> int:
    """Add all rows of one recording to another one, which is created if missing.

    Two samples are the same if they have the same symbol and time. Two sweeps are the same if they
    have the same slot. Existing samples and sweeps of the target stay; rows of the past get the
    values of the source. A gap remains only where neither recording has a sweep. The summary of a
    pruned day remains only if neither recording has the slots of that day. After an interruption,
    the same call continues.

    Args:
        source: A file, or the URL of a database. A recorder may write it.
        target: A file, or the URL of a database, for the same exchange. No recorder may write it.
        on_rows: Called with the number of samples read since the last call.

    Returns:
        The number of samples that this call added.

    Raises:
        TypeError: `source` or `target` is neither a path nor a URL.
        ValueError: `source` or `target` is empty, or a URL that names no PostgreSQL database.
        RecordingError: `source` is not a recording, `source` and `target` are the same recording,
            or they belong to two exchanges.
        OccupiedError: A recorder writes `target`.
        StorageError: `target` cannot be written now.
    """
    with prepared_copy(source, target) as copy_all:
        return copy_all(on_rows)


@contextmanager
def prepared_copy(source: StrPath, target: StrPath) -> Generator[Callable[[Progress], int]]:
    """Open both recordings of a copy; yield the function that copies, see `copy`.

    If opening them fails, no row was copied.
    """
    if same_file(source, target):
        raise _same_recording(target)
    with Recording(source) as opened, _target(target, opened) as there:
        if is_database(source) and isinstance(there, PostgresSink) and there.is_at(source):
            raise _same_recording(target)  # two URLs may lead to one schema
        yield lambda on_rows: copy_into(there, opened, on_rows=on_rows)


def _same_recording(target: StrPath) -> RecordingError:
    name, kind = (shown(target), "database") if is_database(target) else (target, "file")
    return RecordingError(f"source and target are the same {kind}: {name}")


@contextmanager
def _target(place: StrPath, source: Recording) -> Generator[Target]:
    if is_database(place):
        with closing(PostgresSink(place, source.source)) as sink:
            sink.claim(time.monotonic)
            sink.open()
            yield sink
        return
    path = check_file("target", place)
    if source.source is not None:
        check_source(path, source.source)
    with closing(SqliteTarget(path, source.source)) as file:
        yield file


class SqliteTarget:
    """A file as the target of a copy; see `Target`.

    Args:
        path: The file; created if missing.
        source: The name of the exchange.

    Raises:
        OccupiedError: A recorder writes the file.
        RecordingError: The file is not a recording, or belongs to another exchange.
        StorageError: The file cannot be written.
    """

    def __init__(self, path: Path, source: str | None) -> None:
        with _storage_errors(path):
            self._lock = RecorderLock(path)
            try:
                self._store = Store(path, source)
            except BaseException:
                self._lock.close()
                raise
        self._path = path

    @contextmanager
    def writing(self) -> Generator[Statements]:
        """See `Target.writing`."""
        with _storage_errors(self._path):
            with self._store.writing() as run:
                yield run
            self._store.tidy()

    def add_samples(self, _: Statements, rows: Sequence[Row]) -> int:
        """See `Target.add_samples`."""
        run = self._store.connection
        before = run.total_changes
        run.executemany(_SAMPLES, rows)
        return run.total_changes - before

    def add_past(self, _: Statements, rows: Sequence[InstantRow]) -> int:
        """See `Target.add_past`."""
        return write_past(self._store.connection, rows)

    def close(self) -> None:
        """Close the file, and release its lock."""
        try:
            with _storage_errors(self._path):
                self._store.close()
        finally:
            self._lock.close()


class _CaredFile:
    """A file that is open for maintenance. A recorder may have it open at the same time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._store = Store(path)
        self._store.connection.execute(f"PRAGMA busy_timeout = {BUSY_FOR_MS}")
        self._since = time.monotonic()  # the end of the last pause that was long enough for others
        self.keeper: Keeper = SqliteKeeper(self._store)

    def rest(self) -> None:
        self._store.tidy()
        worked = time.monotonic() - self._since
        if worked < TURN_AFTER_S:
            time.sleep(PAUSE_S)
            return
        # A recorder can write only in a pause. On a busy machine, a step takes longer. With pauses
        # of constant length, a recorder would then get too little time to keep up.
        time.sleep(max(TURN_S, worked))
        self._since = time.monotonic()

    def size(self) -> int:
        return os.stat(self._path).st_size

    def close(self) -> None:
        # The last checkpoint waits for readers, and a recorder waits for the last checkpoint. So
        # we wait only briefly.
        self._store.connection.execute(f"PRAGMA busy_timeout = {LAST_WAIT_MS}")
        self._store.close()


class _CaredDatabase:
    """A database that is open for maintenance."""

    def __init__(self, url: str) -> None:
        self._connection = Connection(url, "binance-oi care", StorageError)
        self.keeper: Keeper = PostgresKeeper(lambda: self._connection)

    def rest(self) -> None:
        time.sleep(PAUSE_S)

    def size(self) -> int:
        with self._connection.bounded():
            (size,) = self._connection.execute(SIZE).fetchone()
        return int(size)

    def close(self) -> None:
        self._connection.close()


@contextmanager
def _cared(place: StrPath) -> Generator[_Cared]:
    """Open a recording for maintenance.

    Raises:
        StorageError: The recording cannot be written now.
    """
    if is_database(place):
        with closing(_CaredDatabase(place)) as database:
            yield database
        return
    path = check_file("place", place)
    with _storage_errors(path), closing(_CaredFile(path)) as cared:
        yield cared


@contextmanager
def _storage_errors(path: Path) -> Generator[None]:
    try:
        yield
    except ChangedError as error:
        raise StorageError(str(error)) from error
    except (sqlite3.Error, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"{path}: {reason}") from error
