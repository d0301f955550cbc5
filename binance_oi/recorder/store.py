"""Writes a recording into an SQLite file: one transaction for each sweep.

The rule of this file: when `save` returns, the whole write is on disk, and stays there even if the
process or the machine stops at that moment. When `save` raises, it has written nothing. A write is
*acknowledged* when its call has returned.

SQLite first appends each transaction to its log, the file `-wal`. A *checkpoint* moves the log into
the file itself. *Settling* moves samples from the table `recent`, which is sorted by time, to the
table `settled`, which is sorted by symbol.
"""

import math
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from binance_oi.errors import RecordingError
from binance_oi.market.gap import Gap
from binance_oi.market.rows import InstantRow
from binance_oi.market.snapshot import Snapshot
from binance_oi.recorder.atomic import LOG
from binance_oi.recorder.connection import connect
from binance_oi.recorder.log import FIRST_TOKEN, Generation, generation, new_token, settle
from binance_oi.recorder.past import write_past
from binance_oi.recorder.place import Place, remove_all, set_aside_foreign_log
from binance_oi.recorder.schema import (
    APPLICATION_ID,
    PAGE_SIZE,
    SCHEMA,
    VERSION,
    check_version,
    migration,
    read_source,
)
from binance_oi.recorder.sides import beside, check_sides
from binance_oi.recorder.slots import (
    count_swept,
    last_slot,
    remove_slots,
    unrecorded,
    write_failures,
    write_missed,
)
from binance_oi.recorder.tables import ALL_TIME_MS
from binance_oi.times import unix_ms

STRICT_SINCE = (3, 37)  # the first version of SQLite with STRICT tables
LOCK_TIMEOUT_S = 1.0  # s to wait until another connection unlocks the file
CACHE_KIB = 16 * 1024  # KiB: far more than one page of each symbol, with its parent pages
# How many rows change before we settle samples: about those of sixty sweeps of the market. With
# fewer, most pages would get only a few samples at once. With more, a reader of one symbol would
# have to scan too many samples in `recent`.
SETTLE_AFTER_CHANGES = 49_152
LOG_BYTES = 64 * 1024 * 1024  # usual size of the log; only a long read makes the log larger
PAST_ROWS_IN_LOG = 131_072  # rows of the past after which `tidy` checkpoints: 1/3 of `LOG_BYTES`

# A checkpoint is due 40 s after the first write that the file lacks, and the next `tidy` comes
# within 10 s. So the file is less than a minute behind its log.
CHECKPOINT_AFTER = 40.0  # s
TIDY_EVERY = 10.0  # s
CLOSE_WAIT = 5.0  # s to wait at the end until other connections no longer prevent a checkpoint
RETRY_PAUSE_S = 0.05  # s between two checkpoints during that wait
BEGIN_ATTEMPTS = 3  # tries to begin a transaction while another program checkpoints the log

KEPT_ROWS = 200_000  # rows in memory in case someone removes the file; they take about 60 MB

# Write no observation that `recent` or `settled` has already.
_INSERT = """
INSERT OR IGNORE INTO recent SELECT ?1, ?2, ?3, ?4, ?5
WHERE NOT EXISTS (SELECT 1 FROM settled WHERE symbol = ?1 AND time = ?2)
"""


class ChangedError(FileNotFoundError):
    """Another program moved, removed or changed the file or its log: open the recording again."""


class Kept(NamedTuple):
    """A copy in memory of an acknowledged write that only the log may contain."""

    snapshot: Snapshot | None
    """The sweep; None if the write had only gaps, or if `lost`."""
    gaps: tuple[Gap, ...]
    """The gaps."""
    period: int
    """From slot to slot, ms."""
    lost: bool = False
    """Whether we dropped the sweep from memory, because the copies have too many rows. Then the
    last of `gaps` is the slot of the sweep."""

    def without_rows(self) -> "Kept":
        """Return the same write with a gap in place of its sweep."""
        if self.snapshot is None or self.snapshot.slot is None:
            return self
        slot = unix_ms(self.snapshot.slot)
        why = "the file was removed while its log could not be emptied"
        return Kept(None, (*self.gaps, Gap(slot, slot, "storage", why)), self.period, lost=True)


class Store:
    """A connection that writes a recording. It belongs to the thread that made it.

    If the caller calls `tidy` several times a minute, the file itself is never more than a minute
    behind the acknowledged writes. There is one exception: while another connection reads an
    earlier state, later writes stay in the log. Then every `tidy` tries to move them.

    Args:
        path: The recording. A missing file is created. An older version is migrated in one
            transaction; if the process is killed meanwhile, the old version stays. A migration
            changes no row.
        source: The exchange's name; see `binance_oi.exchange.hosts.source_name`. A file without a
            source gets this one, which stays. None neither writes nor compares a source.
        clock: Returns monotonic seconds.

    Raises:
        RecordingError: The file is not a recording, has an unknown version or another source, or
            has a side file that is not a regular file. Or SQLite is too old.
        sqlite3.Error: The file cannot be created or opened.
        OSError: The file cannot be created or opened.
    """

    def __init__(
        self,
        path: Path,
        source: str | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if sqlite3.sqlite_version_info < STRICT_SINCE:
            raise RecordingError(f"SQLite 3.37 is needed; this is {sqlite3.sqlite_version}")
        self.path = path
        self._clock = clock
        check_sides(path)
        set_aside_foreign_log(path)
        new = not path.exists()
        self._log = beside(path, LOG)
        self._log_generation: Generation | None = None  # of the log in which we changed the token
        self._connection = self._connect("mode=rwc")
        self.connection: sqlite3.Connection = self._connection
        """Use it to read; use `writing` for changes."""
        try:
            self._prepare(source)
            self._tidied = -SETTLE_AFTER_CHANGES  # settle soon what a killed recorder left
            self._idle = self._second_connection()
        except BaseException:
            self._connection.close()
            if new:  # a full disk has room for an empty file, but that is not a recording
                remove_all(path)
            raise
        self._behind_since: float | None = clock()  # when the log got what the file lacks, or None
        self._past_in_log = 0  # rows of the past in the log
        self._kept: list[Kept] = []
        self._in_file = 0  # how many of `_kept` the last complete checkpoint moved into the file
        self._closed = False

    def _connect(self, mode: str) -> sqlite3.Connection:
        uri = f"{self.path.absolute().as_uri()}?{mode}"
        return connect(uri, LOCK_TIMEOUT_S)

    def _second_connection(self) -> sqlite3.Connection:
        """Open a connection that prevents a checkpoint when the writing connection closes.

        SQLite checkpoints when the last connection closes. So the writing connection must not be
        the last one. The connection that we open here closes later. It is read-only, so SQLite does
        not checkpoint when it closes.
        """
        connection = self._connect("mode=ro")
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, source: str | None) -> None:
        run = self._connection.execute
        version = check_version(self._connection, self.path)
        if not version:
            run(f"PRAGMA page_size = {PAGE_SIZE}")
            run("PRAGMA auto_vacuum = INCREMENTAL")  # without it, only a VACUUM returns space
        known = read_source(self._connection)
        if None not in (known, source) and known != source:
            raise RecordingError(f"{self.path} is a recording of {known}, and not of {source}")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")  # NORMAL may lose commits in a power failure
        run("PRAGMA wal_autocheckpoint = 0")
        run("PRAGMA temp_store = MEMORY")  # else `_settle` would write its samples a third time
        run(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        run(f"PRAGMA cache_size = -{CACHE_KIB}")
        (token,) = run("PRAGMA schema_version").fetchone()
        self._place = Place(self.path)  # now, because SQLite has opened the log and the index
        is_older = version != VERSION or token < FIRST_TOKEN
        if is_older or (known is None and source is not None):
            with self._transaction():
                for statement in _changes(version):
                    run(statement)
                run("INSERT OR IGNORE INTO about SELECT 'source', ?1 WHERE ?1 NOT NULL", (source,))

    @contextmanager
    def _transaction(self) -> Generator[None]:
        run = self._connection.execute
        try:
            begun = self._begin()
            yield
            if begun is not None:
                run(f"PRAGMA schema_version = {new_token()}")
            run("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                run("ROLLBACK")
            raise
        if begun is not None:
            self._log_generation = begun

    def _begin(self) -> Generation | None:
        """Begin a transaction in a log that contains the file's token.

        The *token* is a random number in the file, which shows later that a log belongs to this
        file. After a checkpoint, SQLite writes the log from its start again. Then a first
        transaction writes the token into the log, and a second transaction changes the token. If
        another program checkpoints the first transaction before the second begins, we try again.
        After `BEGIN_ATTEMPTS` tries, the caller's transaction comes first in the log, and only a
        later one changes the token.

        Returns:
            The generation of the log in which this transaction must change the token; None if it
            must not change it.
        """
        begun: Generation | None = None
        for _ in range(BEGIN_ATTEMPTS):
            self._connection.execute("BEGIN IMMEDIATE")
            log = None if self._place.log_begins_anew() else generation(self._log)
            if log is not None and log == begun:
                return begun
            self._write_first_page()
            if log is not None and log == self._log_generation:
                return None
            self._connection.execute("COMMIT")
            begun = generation(self._log)
        self._connection.execute("BEGIN IMMEDIATE")
        self._write_first_page()
        return None

    def _write_first_page(self) -> None:
        """Write the first page unchanged, so that the log contains the file's token."""
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        self._connection.execute(f"PRAGMA user_version = {version}")

    def close(self, *, wait: float = CLOSE_WAIT) -> list[Kept]:
        """Move the log into the file, and close both. A second call does nothing.

        If another program has moved the file, the log goes into the moved file, or moves beside it.

        Args:
            wait: Seconds to wait for other connections that read an earlier state, or write. After
                that time, the log keeps its content, and the next `Store` continues with that log.

        Returns:
            Acknowledged writes that may be in no file, because another program removed or changed
            the file or its log before a checkpoint. Write them into another file with `restore`.
        """
        if self._closed:
            return []
        self._closed = True
        try:
            return self._leave(wait)
        finally:
            self._connection.close()
            self._idle.close()

    def _leave(self, wait: float) -> list[Kept]:
        """Move the log to where the file is now; return the writes that may be in no file."""
        if self._place.is_overwritten():
            self._connection.close()  # without a checkpoint, because another connection is open
            self._idle.close()
            self._place.remove_log()
            self._place.set_aside_cut_file()
            self._place.forget_index()
            return self.forget()
        self._idle.close()
        has_log = self._place.has_sides()
        until = time.monotonic() + wait
        # Without the index, a new connection would not notice that the log was truncated.
        while not self._try_checkpoint("TRUNCATE" if has_log else "PASSIVE"):
            if time.monotonic() >= until:
                break
            time.sleep(RETRY_PAUSE_S)
        if not self._place.is_moved():
            return [] if has_log else self._leave_log()
        home = self._place.take_log_along()
        if home is None:
            removed = self._place.is_removed()
            self._place.remove_log()
            return self.forget()[0 if removed else self._in_file :]
        self._connection.close()
        self.forget()
        with suppress(sqlite3.Error):
            settle(home)
        return []

    def _try_checkpoint(self, mode: str) -> bool:
        """Checkpoint; False if another connection prevents it for now."""
        try:
            return self._checkpoint(mode)
        except sqlite3.Error as error:
            return not is_busy(error)

    def change(self) -> str | None:
        """Return why the file must be opened again before a write; None if it need not.

        Raises:
            OSError: The system cannot show the state of the file.
        """
        return self._place.change()

    def _leave_log(self) -> list[Kept]:
        """Close a file that is still in its place, but whose log another program has removed."""
        is_whole = self._behind_since is None
        self._place.drop_lost_log()
        if is_whole:
            return []
        self._connection.close()
        self._place.forget_index()
        return self.forget()

    def forget(self) -> list[Kept]:
        """Return the copies of acknowledged writes, and drop them from memory."""
        kept, self._kept = self._kept, []
        return kept

    def remember(self, kept: Sequence[Kept]) -> list[Kept]:
        """Take over the copies that an earlier `Store` of this path had in memory at its end.

        Args:
            kept: The result of the earlier store's `forget`.

        Returns:
            The writes that this file lacks, because it is another file. Pass each to `restore`.

        Raises:
            sqlite3.Error: This store has taken over nothing.
        """
        here, missing = list[Kept](), list[Kept]()
        for each in kept:
            (here if self._has(each) else missing).append(each)
        self._kept += here
        return missing

    def _has(self, kept: Kept) -> bool:
        """Whether the file contains a write."""
        if kept.snapshot is None or kept.snapshot.slot is None:
            return not any(any(unrecorded(self._connection, g, kept.period)) for g in kept.gaps)
        query, slot = "SELECT 1 FROM sweeps WHERE slot = ?", unix_ms(kept.snapshot.slot)
        return self._connection.execute(query, (slot,)).fetchone() is not None

    def restore(self, kept: Kept) -> int:
        """Repeat a write that was lost with another file. A slot keeps its sweep, as in `save`.

        Returns:
            The number of sweeps that stay lost: 1 if memory kept only the slot of the sweep, and
            the file has no other sweep for that slot; otherwise 0.

        Raises:
            sqlite3.Error: Nothing was written.
            ChangedError: As in `save`; nothing was written.
        """
        self.save(kept.snapshot, kept.gaps, kept.period)
        return int(kept.lost and not self.count_swept(kept.gaps[-1:], kept.period))

    def last_slot(self, before: int = ALL_TIME_MS[1]) -> int | None:
        """Return the last slot before `before` (Unix ms) with a sweep or a gap, or None."""
        return last_slot(self._connection, before)

    def save(self, snapshot: Snapshot | None, gaps: Sequence[Gap], period: int) -> int:
        """Write a sweep and gaps, all or nothing.

        If a slot has a sweep already, that sweep stays, and no gap covers the slot. Of the new
        sweep only the samples are written.

        Args:
            snapshot: A sweep with its slot; None if there are only gaps.
            gaps: Slots without a sweep.
            period: From slot to slot, ms.

        Returns:
            The number of new samples.

        Raises:
            sqlite3.Error: Nothing was written.
            ChangedError: Another program has removed, replaced, truncated or overwritten the file,
                or removed its log; nothing was written.
            OSError: The system cannot show the state of the file; nothing was written.
        """
        if change := self.change():
            raise ChangedError(f"{self.path} {change}")
        with self._transaction():
            for gap in gaps:
                write_missed(self._connection, gap, period)
            new = 0 if snapshot is None else self._write_sweep(snapshot, period)
        self._keep(Kept(snapshot, tuple(gaps), period))
        return new

    def save_past(self, rows: Sequence[InstantRow]) -> int:
        """Write rows of the past, all or nothing; see `Sink.save_past`.

        Memory keeps no copy of them. If another program removes the file before a checkpoint, they
        are lost. The caller can read them from the exchange again.

        Returns:
            The number of rows that are new or have new numbers.

        Raises:
            sqlite3.Error: Nothing was written.
            ChangedError: As in `save`; nothing was written.
        """
        with self.writing() as connection:
            return write_past(connection, rows)

    @contextmanager
    def writing(self) -> Generator[sqlite3.Connection]:
        """Run other statements in a transaction; as with `save_past`, memory keeps no copy of them.

        Raises:
            sqlite3.Error: Nothing was written.
            ChangedError: As in `save`; nothing was written.
        """
        if change := self.change():
            raise ChangedError(f"{self.path} {change}")
        before = self._connection.total_changes
        with self._transaction():
            yield self._connection
        changed = self._connection.total_changes - before
        self._tidied += changed  # these changes add nothing to `recent`
        self._past_in_log += changed
        if self._past_in_log > PAST_ROWS_IN_LOG:
            self._behind_since = -math.inf  # checkpoint soon, because the log is long now
        elif self._behind_since is None:
            self._behind_since = self._clock()

    def _keep(self, kept: Kept) -> None:
        """Keep a copy of a write in memory until a second checkpoint after it.

        Before the first checkpoint, another program may remove the file. The second checkpoint is
        for ``mv`` to another file system: ``mv`` first copies the file, and the copy lacks the
        pages that a later checkpoint moves into the original.
        """
        if self._behind_since is None:
            self._behind_since = self._clock()
        self._kept.append(kept)
        rows = 0
        for number in reversed(range(len(self._kept))):
            rows += len(self._kept[number].snapshot or ())
            if rows > KEPT_ROWS:
                self._kept[number] = self._kept[number].without_rows()

    def _write_sweep(self, snapshot: Snapshot, period: int) -> int:
        assert snapshot.slot is not None
        slot = unix_ms(snapshot.slot)
        before = self._connection.total_changes
        by_time = sorted(snapshot.rows(), key=itemgetter(1))  # appends to `recent`
        self._connection.executemany(_INSERT, by_time)
        new = self._connection.total_changes - before
        asked, times = len(snapshot) + len(snapshot.errors), (snapshot.started, snapshot.finished)
        first = self._connection.execute(
            "INSERT OR IGNORE INTO sweeps VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (slot, period, *map(unix_ms, times), asked, len(snapshot), new, snapshot.weight),
        )
        remove_slots(self._connection, slot, slot)
        if first.rowcount == 0:  # the slot has a sweep already: someone set the clock back
            return new
        write_failures(self._connection, snapshot, slot, period)
        return new

    def count_swept(self, gaps: Sequence[Gap], period: int) -> int:
        """Return how many slots of `gaps` have a sweep."""
        return sum(count_swept(self._connection, gap, period) for gap in gaps)

    def is_due(self) -> bool:
        """Whether `tidy` must run now, so that the file stays less than a minute behind its log."""
        since = self._behind_since
        return since is not None and self._clock() - since >= CHECKPOINT_AFTER

    def tidy(self) -> None:
        """Settle samples and checkpoint the log, if it is time to. Call it between two sweeps.

        After a checkpoint, SQLite writes the log again from its start. So the size of the log stays
        the same, which makes commits faster. This call never waits for readers: while they read an
        earlier state, later writes stay in the log.

        Raises:
            sqlite3.Error: SQLite cannot write now. The log still has all acknowledged writes.
        """
        enough = self._connection.total_changes - self._tidied >= SETTLE_AFTER_CHANGES
        try:
            if enough:
                self._checkpoint("PASSIVE")  # after `_settle`, present readers would block it
                self._settle()
        finally:
            if self.is_due():
                self._checkpoint("PASSIVE")

    def _settle(self) -> None:
        with self._transaction():
            # No sample should be in both tables. If one is, ignore the second row, because the
            # other samples must still move.
            self._connection.execute(
                "INSERT OR IGNORE INTO settled SELECT * FROM recent ORDER BY symbol, time"
            )
            self._connection.execute("DELETE FROM recent")
        self._tidied = self._connection.total_changes
        self._behind_since = -math.inf  # checkpoint at once, because the log is long now

    def _checkpoint(self, mode: str) -> bool:
        """Move the log into the file; move nothing while a connection reads an earlier state.

        Returns:
            False if a later try may move more, after other connections have ended.
        """
        if self._place.is_overwritten():
            return True
        if self._place.is_earlier_state_read():
            return False
        run = self._connection.execute
        busy, logged, moved = run(f"PRAGMA wal_checkpoint({mode})").fetchone()
        self._place.note_own_write()
        if logged == moved != -1:
            self._log_generation = None
        # `logged` and `moved` are -1 while another connection checkpoints. A removed file loses all
        # content.
        if logged == moved != -1 and not self._place.is_removed():
            self._behind_since, self._past_in_log = None, 0
            if len(self._kept) > self._in_file:
                del self._kept[: self._in_file]
                self._in_file = len(self._kept)
        return not busy


def is_busy(error: Exception) -> bool:
    """Whether the error only says that another connection has locked the file."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)  # some have no code
    return code & 0xFF == sqlite3.SQLITE_BUSY


def _changes(version: int) -> Iterator[str]:
    """Yield the statements that migrate a file from `version` (0 if empty) to the current one."""
    if version == VERSION:
        return
    yield from migration(version) if version else SCHEMA
    yield f"PRAGMA application_id = {APPLICATION_ID}"
    yield f"PRAGMA user_version = {VERSION}"
