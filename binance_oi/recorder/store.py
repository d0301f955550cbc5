"""Writing a recording: one transaction for each sweep, acknowledged after its commit.

The rule of this file: what `save` has returned from is on the disk, whole, whatever happens to
this process or the machine next; what it raised from is not there at all.
"""

import os
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # not POSIX: SQLite keeps the file whole, and a second recorder is not noticed
    fcntl = None  # type: ignore[assignment]

from binance_oi.errors import RecordingError
from binance_oi.polling import reason
from binance_oi.recorder.recording import (
    APPLICATION_ID,
    EVER,
    EVERY_SYMBOL,
    PAGE_SIZE,
    SCHEMA,
    VERSION,
    beside,
    check_version,
    unix_ms,
)
from binance_oi.recorder.slots import swept, uncover, unknown
from binance_oi.snapshot import Gap, Snapshot

STRICT_SINCE = (3, 37)  # of SQLite: STRICT tables
BUSY = 1.0  # s to wait for whoever else has the file locked
CACHE_KIB = 16 * 1024  # one page for each symbol and the way to it, many times over
# Changes after which new samples are moved to their places: forty sweeps of the market, so that
# most pages get many at once, and few enough for whoever reads one symbol to look through.
SETTLE = 32_768
LOG_BYTES = 64 * 1024 * 1024  # of the log, kept; longer only while somebody reads for long

# An observation is there once, wherever it is.
_INSERT = """
INSERT OR IGNORE INTO recent SELECT ?1, ?2, ?3, ?4, ?5
WHERE NOT EXISTS (SELECT 1 FROM settled WHERE symbol = ?1 AND time = ?2)
"""
_LAST = (
    "SELECT max(slot) FROM sweeps WHERE slot < ?1",
    # A gap `clock` that goes on after `before` is of a clock that was wrong, not of this one.
    "SELECT max(min(last, ?1 - 1)) FROM gaps WHERE symbol = '' AND first < ?1 AND last >= first"
    " AND (reason != 'clock' OR last < ?1)",
)


class RecorderLock:
    """Keeps a second recorder away from a recording, until this process ends, however it does.

    Args:
        path: Of the recording; the lock is a file beside it, with the process id in it. A link
            leads to the recording itself, so it has the same lock under every name.

    Raises:
        RecordingError: Another recorder has it.
        OSError: The lock file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = beside(path, "-lock")
        while True:
            self._file = self._path.open("a+")
            try:
                _lock(self._file, path)
            except BaseException:
                self._file.close()
                raise
            if self._is_in_place():
                break
            self._file.close()  # the one before us has just removed it
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Let others record. May be repeated."""
        if not self._file.closed:
            with suppress(OSError):
                self._path.unlink()
            self._file.close()


def _lock(file: TextIO, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        pid = file.read(20).strip() or "unknown"
        raise RecordingError(f"{path} is being recorded by process {pid}") from None


class Store:
    """One connection that writes. Belongs to the thread that made it.

    Raises:
        RecordingError: The file is not ours, or of another version, or SQLite is too old.
        sqlite3.Error: It cannot be made or opened.
    """

    def __init__(self, path: Path) -> None:
        if sqlite3.sqlite_version_info < STRICT_SINCE:
            raise RecordingError(f"SQLite 3.37 is needed; this is {sqlite3.sqlite_version}")
        self.path = path
        uri = f"{path.absolute().as_uri()}?mode=rwc"
        self._connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY)
        try:
            self._prepare()
            self._tidied = -SETTLE  # a recorder that was killed may have left a long log
            self._place = path.stat()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        run = self._connection.execute
        ours = check_version(self._connection, self.path)
        if not ours:
            run(f"PRAGMA page_size = {PAGE_SIZE}")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")  # NORMAL may lose commits with the power
        run("PRAGMA wal_autocheckpoint = 0")
        run("PRAGMA temp_store = MEMORY")  # or the move would be written a third time
        run(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        run(f"PRAGMA cache_size = -{CACHE_KIB}")
        if not ours:
            with self._transaction():
                for statement in SCHEMA:
                    run(statement)
                run(f"PRAGMA application_id = {APPLICATION_ID}")
                run(f"PRAGMA user_version = {VERSION}")

    @contextmanager
    def _transaction(self) -> Generator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file. May be repeated."""
        self._connection.close()

    def last_slot(self, before: int = EVER[1]) -> int | None:
        """The last slot before `before` of which something is known, Unix ms."""
        found = [self._connection.execute(query, (before,)).fetchone()[0] for query in _LAST]
        return max((slot for slot in found if slot is not None), default=None)

    def save(self, snapshot: Snapshot | None, gaps: Sequence[Gap], period: int) -> int:
        """Write a sweep and gaps, all or nothing.

        A slot that has a sweep keeps it: of a second one, only the observations are written, and
        no gap covers it.

        Args:
            snapshot: With its slot; None when there are only gaps.
            gaps: Slots without a sweep.
            period: From slot to slot, ms.

        Returns:
            How many samples are new.

        Raises:
            sqlite3.Error: Nothing was written.
            FileNotFoundError: The file was removed or replaced; nothing was written.
        """
        if not os.path.samestat(self._place, self.path.stat()):
            raise FileNotFoundError(f"{self.path} was replaced")
        with self._transaction():
            for gap in gaps:
                self._write_missed(gap, period)
            return 0 if snapshot is None else self._write_sweep(snapshot, period)

    def _write_sweep(self, snapshot: Snapshot, period: int) -> int:
        assert snapshot.slot is not None
        slot = unix_ms(snapshot.slot)
        before = self._connection.total_changes
        by_time = sorted(_rows(snapshot), key=itemgetter(1))  # each at the end of `recent`
        self._connection.executemany(_INSERT, by_time)
        new = self._connection.total_changes - before
        asked, times = len(snapshot) + len(snapshot.errors), (snapshot.started, snapshot.finished)
        first = self._connection.execute(
            "INSERT OR IGNORE INTO sweeps VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (slot, period, *map(unix_ms, times), asked, len(snapshot), new, snapshot.weight),
        )
        if first.rowcount == 0:  # the clock was set back, and the slot has come before
            return new
        uncover(self._connection, slot, slot)
        for symbol, error in snapshot.errors.items():
            self._write_gap(symbol, Gap(slot, slot, reason(error), str(error)), period)
        return new

    def swept(self, gaps: Sequence[Gap], period: int) -> int:
        """How many slots of `gaps` have a sweep."""
        return sum(swept(self._connection, gap, period) for gap in gaps)

    def _write_missed(self, gap: Gap, period: int) -> None:
        """Write a gap for those of its slots that have no sweep.

        An empty one says that the clock was set back: the slots from there to the last one that is
        known are a gap until their sweeps come, so that a recorder may end at any time.
        """
        written = False
        empty = gap.last < gap.first
        if gap.reason != "clock":
            uncover(self._connection, gap.first, gap.last, "clock")
        whole = gap._replace(last=self.last_slot() or gap.last) if empty else gap
        for part in unknown(self._connection, whole, period):
            self._write_gap(EVERY_SYMBOL, part, period)
            written = True
        if empty and not written:
            self._connection.execute(
                "INSERT OR IGNORE INTO gaps VALUES (?, ?, ?, ?, ?, ?)",
                (EVERY_SYMBOL, gap.first, gap.last, period, gap.reason, gap.detail),
            )

    def _write_gap(self, symbol: str, gap: Gap, period: int) -> None:
        """As the end of the gap before it, when that is one."""
        longer = self._connection.execute(
            "UPDATE gaps SET last = ? WHERE symbol = ? AND last = ? AND reason = ? AND period = ?"
            " AND first = (SELECT max(first) FROM gaps WHERE symbol = ?)",
            (gap.last, symbol, gap.first - period, gap.reason, period, symbol),
        )
        if longer.rowcount == 0:
            self._connection.execute(
                "INSERT OR REPLACE INTO gaps VALUES (?, ?, ?, ?, ?, ?)",
                (symbol, gap.first, gap.last, period, gap.reason, gap.detail),
            )

    def tidy(self) -> None:
        """Put what is recent to its place, and what is in the log; for the time between two sweeps.

        The log is then written over from its start, not made anew: a file that does not grow is on
        the disk sooner. Nobody who reads is waited for; what is read by others stays in the log.
        """
        run = self._connection.execute
        if self._connection.total_changes - self._tidied >= SETTLE:
            with self._transaction():
                run("INSERT INTO settled SELECT * FROM recent ORDER BY symbol, time")
                run("DELETE FROM recent")
            run("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._tidied = self._connection.total_changes


def _rows(snapshot: Snapshot) -> Iterator[tuple[str, int, str, int, str | None]]:
    finished = unix_ms(snapshot.finished)
    for symbol, value in snapshot.items():  # those that did not move are there, and ignored
        mark = snapshot.mark_prices.get(symbol)
        yield (
            symbol,
            value.time,
            f"{value.open_interest:f}",  # str() would write 1E-8
            snapshot.received_ms.get(symbol, finished),
            None if mark is None else f"{mark.mark_price:f}",
        )
