"""Writing a recording: one transaction for each sweep, acknowledged after its commit.

The rule of this file: when `save` returns, the write is on disk as a whole, whatever happens next
to this process or the machine. When `save` raises, nothing is written.
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
    fail,
    last_slot,
    swept,
    uncover,
    unknown,
    write_missed,
)
from binance_oi.recorder.tables import ALL_TIME_MS
from binance_oi.times import unix_ms

STRICT_SINCE = (3, 37)  # of SQLite: STRICT tables
LOCK_TIMEOUT_S = 1.0  # how long to wait until another connection unlocks the file
CACHE_KIB = 16 * 1024  # far more than one page of each symbol with its parent pages
# Moving new samples to `settled` pays after sixty sweeps of the market: most pages then get many
# samples at once. It stays few enough for a reader of one symbol to scan.
SETTLE_AFTER_CHANGES = 49_152
LOG_BYTES = 64 * 1024 * 1024  # kept for the log; longer only while somebody reads for a long time
PAST_ROWS_IN_LOG = 131_072  # a third of `LOG_BYTES`, roughly

# The file itself is at most a minute behind: after 40 s, the next `tidy` comes within 10 s.
CHECKPOINT_AFTER = 40.0  # s
TIDY_EVERY = 10.0  # s
CLOSE_WAIT = 5.0  # s at the end, for connections that read an earlier state, or write
RETRY_PAUSE_S = 0.05
BEGIN_ATTEMPTS = 3  # before a sweep, while another program checkpoints the log again and again

KEPT_ROWS = 200_000  # in memory in case the file is removed; some 60 MB

# Write an observation only once, whichever table has it.
_INSERT = """
INSERT OR IGNORE INTO recent SELECT ?1, ?2, ?3, ?4, ?5
WHERE NOT EXISTS (SELECT 1 FROM settled WHERE symbol = ?1 AND time = ?2)
"""


class ChangedError(FileNotFoundError):
    """Somebody moved, removed or changed the file or a side file: open the recording again."""


class Kept(NamedTuple):
    """An acknowledged write that only the log holds."""

    snapshot: Snapshot | None
    gaps: tuple[Gap, ...]
    period: int
    lost: bool = False
    """Too many writes wait for the log: of this sweep only the slot is kept, as the last gap."""

    def without_rows(self) -> "Kept":
        """The same write without its sweep: the sweep is lost, and its slot is a gap."""
        if self.snapshot is None or self.snapshot.slot is None:
            return self
        slot = unix_ms(self.snapshot.slot)
        why = "the file was removed while its log could not be emptied"
        return Kept(None, (*self.gaps, Gap(slot, slot, "storage", why)), self.period, lost=True)


class Store:
    """A connection that writes. It belongs to the thread that made it.

    The file itself is never more than a minute behind what was acknowledged, if `tidy` is called
    several times a minute. A connection that reads an earlier state delays that until it ends;
    every `tidy` tries again.

    Args:
        path: The recording; made when missing. An older recording is migrated in one
            transaction: as a whole or, when this process is killed, not at all. No row changes.
        source: The exchange's name; see `binance_oi.exchange.hosts.source_name`. The first one is
            written into the file and stays. None is neither written nor compared.
        clock: Monotonic seconds.

    Raises:
        RecordingError: The file is not a recording, has an unknown version or another source, or
            has a side file that is not a regular file; or SQLite is too old.
        sqlite3.Error: The file cannot be made or opened.
        OSError: The same.
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
        self._log_generation: Generation | None = None  # the log that has given the file a token
        self._connection = self._connect("mode=rwc")
        self.connection: sqlite3.Connection = self._connection
        """For reading; `writing` is for changes."""
        try:
            self._prepare(source)
            self._tidied = -SETTLE_AFTER_CHANGES  # a killed recorder may have left a long log
            self._idle = self._second_connection()
        except BaseException:
            self._connection.close()
            if new:  # a full disk has room for an empty file, but that is no recording
                remove_all(path)
            raise
        self._behind_since: float | None = clock()
        self._past_in_log = 0  # rows
        self._kept: list[Kept] = []
        self._in_file = 0  # how many of `_kept` an earlier checkpoint has moved
        self._closed = False

    def _connect(self, mode: str) -> sqlite3.Connection:
        uri = f"{self.path.absolute().as_uri()}?{mode}"
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=LOCK_TIMEOUT_S)

    def _second_connection(self) -> sqlite3.Connection:
        """Open a connection that keeps SQLite from checkpointing when the writing one closes.

        SQLite checkpoints when the last connection closes. While this one is open, the writing one
        is not the last. This one cannot write, so SQLite moves nothing when it closes at last.
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
            run("PRAGMA auto_vacuum = INCREMENTAL")  # or only a VACUUM could return space
        known = read_source(self._connection)
        if None not in (known, source) and known != source:
            raise RecordingError(f"{self.path} is a recording of {known}, and not of {source}")
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")  # NORMAL may lose commits in a power failure
        run("PRAGMA wal_autocheckpoint = 0")
        run("PRAGMA temp_store = MEMORY")  # or moving samples would write them a third time
        run(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        run(f"PRAGMA cache_size = -{CACHE_KIB}")
        (token,) = run("PRAGMA schema_version").fetchone()
        self._place = Place(self.path)  # with the log and the index, which are open now
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

        When the log restarts, a transaction of its own writes the token there first. Another
        program may checkpoint that transaction before ours begins. After a few tries, our
        transaction starts the log, and the file keeps its token until the next one.

        Returns:
            The log in which this transaction gives the file a new token; None if it gives none.
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
        """Move the log into the file, and close both. May be repeated.

        The log of a moved file goes into that file, or follows it to its new name.

        Args:
            wait: Seconds to wait for connections that read an earlier state, or write. After that,
                the log keeps what it holds, and the next `Store` continues with it.

        Returns:
            Acknowledged writes that are in no file, because the file was removed before its log
            went into it. Write them elsewhere with `restore`.
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
        if self._place.is_overwritten():
            self._connection.close()  # no checkpoint: it is not the last connection
            self._idle.close()
            self._place.remove_log()
            self._place.set_aside_cut_file()
            self._place.forget_index()
            return self.forget()
        self._idle.close()
        has_log = self._place.has_sides()
        until = time.monotonic() + wait
        # After the index was removed, a new connection does not notice that the log is truncated.
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
        """Checkpoint; False when another connection prevents it for now."""
        try:
            return self._checkpoint(mode)
        except sqlite3.Error as error:
            return not is_busy(error)

    def change(self) -> str | None:
        """Why the file must be opened again before a write; None when it need not be.

        Raises:
            OSError: The system does not say.
        """
        return self._place.change()

    def _leave_log(self) -> list[Kept]:
        """Close a file that is in its place but has lost its log."""
        is_whole = self._behind_since is None
        self._place.drop_lost_log()
        if is_whole:
            return []
        self._connection.close()
        self._place.forget_index()
        return self.forget()

    def forget(self) -> list[Kept]:
        """Return the acknowledged writes that only the log may hold, and keep them no longer."""
        kept, self._kept = self._kept, []
        return kept

    def remember(self, kept: Sequence[Kept]) -> list[Kept]:
        """Take over the writes that an earlier `Store` of this name still kept at its end.

        Returns:
            The writes that this file lacks, because it is another one: `restore` them.

        Raises:
            sqlite3.Error: Nothing is kept.
        """
        here, missing = list[Kept](), list[Kept]()
        for each in kept:
            (here if self._has(each) else missing).append(each)
        self._kept += here
        return missing

    def _has(self, kept: Kept) -> bool:
        if kept.snapshot is None or kept.snapshot.slot is None:
            return not any(any(unknown(self._connection, g, kept.period)) for g in kept.gaps)
        query, slot = "SELECT 1 FROM sweeps WHERE slot = ?", unix_ms(kept.snapshot.slot)
        return self._connection.execute(query, (slot,)).fetchone() is not None

    def restore(self, kept: Kept) -> int:
        """Write again what was lost with another file. A slot keeps its sweep, as in `save`.

        Returns:
            The number of lost sweeps: 1 if `kept` has only the slot of its sweep, and the slot has
            no other sweep; else 0.

        Raises:
            sqlite3.Error: Nothing was written.
            ChangedError: As in `save`; nothing was written.
        """
        self.save(kept.snapshot, kept.gaps, kept.period)
        return int(kept.lost and not self.swept(kept.gaps[-1:], kept.period))

    def last_slot(self, before: int = ALL_TIME_MS[1]) -> int | None:
        """The last slot before `before` that has a sweep or a gap, Unix ms."""
        return last_slot(self._connection, before)

    def save(self, snapshot: Snapshot | None, gaps: Sequence[Gap], period: int) -> int:
        """Write a sweep and gaps, all or nothing.

        A slot that has a sweep keeps it. Of a second sweep, only the observations are written, and
        no gap covers the slot.

        Args:
            snapshot: A sweep with its slot; None when there are only gaps.
            gaps: Slots without a sweep.
            period: From slot to slot, ms.

        Returns:
            The number of new samples.

        Raises:
            sqlite3.Error: Nothing was written.
            ChangedError: The file was removed, replaced, truncated or overwritten, or has lost its
                log; nothing was written.
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

        They are not kept in memory: when somebody removes the file before a checkpoint, they are
        lost with its log, and can be read from the exchange again.

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
        """One transaction of statements that are not kept in memory; see `save_past`.

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
        self._tidied += changed  # none of them is in `recent`
        self._past_in_log += changed
        if self._past_in_log > PAST_ROWS_IN_LOG:
            self._behind_since = -math.inf  # checkpoint soon, because the log is long now
        elif self._behind_since is None:
            self._behind_since = self._clock()

    def _keep(self, kept: Kept) -> None:
        """Keep a write in memory until the file itself has held it for a while.

        The file may be removed before that. Also, ``mv`` to another file system copies the file
        first, and the copy lacks what goes into the file in the meantime.
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
        uncover(self._connection, slot, slot)
        if first.rowcount == 0:  # the clock was set back, and this slot has a sweep already
            return new
        fail(self._connection, snapshot, slot, period)
        return new

    def swept(self, gaps: Sequence[Gap], period: int) -> int:
        """The number of slots of `gaps` that have a sweep."""
        return sum(swept(self._connection, gap, period) for gap in gaps)

    def is_due(self) -> bool:
        """Whether `tidy` must checkpoint now, to keep the file less than a minute behind."""
        since = self._behind_since
        return since is not None and self._clock() - since >= CHECKPOINT_AFTER

    def tidy(self) -> None:
        """Move samples to `settled` and the log into the file when due; between two sweeps.

        SQLite then overwrites the log from its start: a file of constant size is on disk sooner.
        This never waits for readers; what they read stays in the log.

        Raises:
            sqlite3.Error: It is not possible now; the log still holds what was acknowledged.
        """
        enough = self._connection.total_changes - self._tidied >= SETTLE_AFTER_CHANGES
        try:
            if enough:
                self._checkpoint("PASSIVE")  # after the move, current readers would block it
                self._settle()
        finally:
            if self.is_due():
                self._checkpoint("PASSIVE")

    def _settle(self) -> None:
        with self._transaction():
            # We write a sample to one table only. If it is in both, it is one observation, and
            # the row in `settled` stays: the others must still be moved.
            self._connection.execute(
                "INSERT OR IGNORE INTO settled SELECT * FROM recent ORDER BY symbol, time"
            )
            self._connection.execute("DELETE FROM recent")
        self._tidied = self._connection.total_changes
        self._behind_since = -math.inf  # checkpoint at once, because the log is long now

    def _checkpoint(self, mode: str) -> bool:
        """Move the log into the file, unless somebody reads an earlier state: then move nothing.

        Returns:
            False when it may get further after other connections end.
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
        # -1: another connection is checkpointing. And a removed file keeps nothing.
        if logged == moved != -1 and not self._place.is_removed():
            self._behind_since, self._past_in_log = None, 0
            if len(self._kept) > self._in_file:
                del self._kept[: self._in_file]
                self._in_file = len(self._kept)
        return not busy


def is_busy(error: Exception) -> bool:
    """Whether another connection has locked the file: it is intact, and stays open."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)  # Python's own have none
    return code & 0xFF == sqlite3.SQLITE_BUSY


def _changes(version: int) -> Iterator[str]:
    """The statements that bring a file from `version` (0: empty) to the current version."""
    if version == VERSION:
        return
    yield from migration(version) if version else SCHEMA
    yield f"PRAGMA application_id = {APPLICATION_ID}"
    yield f"PRAGMA user_version = {VERSION}"
