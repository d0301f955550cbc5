"""Copies a recording in a file into a new file, even while a recorder writes it.

The rule of this file: the copy gets its name only when it is complete. Until then it has the name
that `atomic` gives to unfinished files, so no program mistakes it for a recording. If the process
is killed, the next output into that directory removes the unfinished file and its journal.

`replace_atomically` keeps its own descriptor of the unfinished file. When a process closes any
descriptor of a file, the system releases all of SQLite's locks on that file. So SQLite must close
the file before `replace_atomically` does. The lock of `replace_atomically` (``flock``) and those of
SQLite do not interfere.
"""

import errno
import os
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from binance_oi.errors import REPLACES_IT, RecordingError
from binance_oi.recorder.atomic import JOURNAL, LOG, SIDES, OvertakenError, replace_atomically
from binance_oi.recorder.connection import Connection, connect
from binance_oi.recorder.lock import RecorderLock
from binance_oi.recorder.log import settle
from binance_oi.recorder.opening import open_to_read
from binance_oi.recorder.place import set_aside_foreign_log
from binance_oi.recorder.schema import translate_read_errors
from binance_oi.recorder.sides import check_sides

PAGES_PER_STEP = 16_384  # 16 MiB; Python handles signals, such as Ctrl-C, between two steps
# How many instructions SQLite runs, while it checks a copy, before Python handles signals again.
INSTRUCTIONS_PER_SIGNAL_CHECK = 100_000

Pages = Callable[[int, int], object]

# Error codes that only the source of a copy can cause. BUSY and LOCKED are among them, because no
# other process opens the copy.
_OF_SOURCE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_PROTOCOL} | {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
}
_READ_ERRORS = {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ}


class _Progress:
    """Calls `on_pages`, and remembers an error that it raises.

    `copy` translates an `OSError` of the disk, but passes on an `OSError` of `on_pages`.
    """

    def __init__(self, on_pages: Pages | None) -> None:
        self._on_pages = on_pages
        self.error: Exception | None = None

    def __call__(self, _: int, remaining: int, total: int) -> None:
        try:
            if self._on_pages is not None:
                self._on_pages(total - remaining, total)
        except Exception as error:
            self.error = error
            raise


def copy(source: Path, target: Path, *, replace: bool, on_pages: Pages | None) -> None:
    """See `binance_oi.recorder.Recording.backup`."""
    if os.path.isdir(target):
        raise RecordingError(f"{target} is a directory; a recording is a file")
    if not replace and os.path.lexists(target):
        raise _already_exists(target)
    progress = _Progress(on_pages)
    try:
        with _alone(target):
            _check_room(target)
            with replace_atomically(target, lambda: replace or not os.path.lexists(target)) as file:
                _copy_pages(source, Path(file.name), progress)
                if replace or not os.path.lexists(target):
                    _make_room(target)
    except OvertakenError:
        raise _already_exists(target) from None
    except (sqlite3.Error, OSError) as error:
        if error is progress.error:
            raise
        reason = getattr(error, "strerror", None) or error
        raise RecordingError(f"{target} cannot be written: {reason}") from error


def _already_exists(target: Path) -> RecordingError:
    return RecordingError(f"{target} already exists; {REPLACES_IT}")


@contextmanager
def _alone(target: Path) -> Generator[None]:
    """Exclude recorders from the target within the block.

    If the target's name is too long for a lock file, no recorder can use the target anyway.
    """
    lock: RecorderLock | None = None
    try:
        lock = RecorderLock(target)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


def _copy_pages(source: Path, part: Path, progress: _Progress) -> None:
    uri = f"{part.absolute().as_uri()}?mode=rw"
    with (
        closing(open_to_read(source)) as ours,
        closing(connect(uri)) as theirs,
    ):
        with translate_read_errors(source):
            # The transaction pins the present state. Without it, each commit of the recorder would
            # restart the copy.
            ours.execute("BEGIN")
            ours.execute("SELECT count(*) FROM sqlite_master").fetchone()
        try:
            ours.backup(theirs, pages=PAGES_PER_STEP, progress=progress)
        except sqlite3.Error as error:
            if error is progress.error or not _is_of_source(error):
                raise
            raise RecordingError(f"{source} cannot be read: {error}") from error
        # Without a log, a recording stays one file while other programs read it.
        theirs.execute("PRAGMA journal_mode = DELETE")
        _check_whole(theirs, source)


def _is_of_source(error: sqlite3.Error) -> bool:
    # An error that Python itself raises has no code.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code in _READ_ERRORS or code & 0xFF in _OF_SOURCE


def _check_whole(copied: sqlite3.Connection, source: Path) -> None:
    """Check that the copied pages are a valid database. SQLite does not check pages that it copies.

    Without this check, the copy of a damaged recording could replace an older, good copy.

    Raises:
        RecordingError: The source is damaged.
        KeyboardInterrupt: The user interrupted the check.
    """
    # If Ctrl-C raises `KeyboardInterrupt` in the progress handler, SQLite drops that exception,
    # stops, and reports an interrupt.
    copied.set_progress_handler(lambda: 0, INSTRUCTIONS_PER_SIGNAL_CHECK)
    try:
        ((found,),) = copied.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
        if code == sqlite3.SQLITE_INTERRUPT:
            raise KeyboardInterrupt from None
        if code & 0xFF not in _OF_SOURCE:
            raise
        found = str(error)
    if found != "ok":
        raise RecordingError(f"{source} is damaged, and was not copied: {found}")


def _check_room(target: Path) -> None:
    """Check that no log of another file is beside the target.

    SQLite would apply such a log to the copy. The log may hold the last sweeps of a recording that
    the user has moved away, so we do not remove it. A pipe with the name of a log would block
    SQLite.

    Raises:
        RecordingError: There is a log of another file beside the target, or something other than a
            regular file has the name of such a log.
    """
    check_sides(target)
    if not _is_database(target):
        for ending in (LOG, JOURNAL):
            side = f"{target}{ending}"
            with suppress(OSError):
                if os.path.getsize(side):
                    raise RecordingError(
                        f"{side} is the log of another file, and SQLite would apply it to the "
                        "copy: move it, or choose another name"
                    )


def _is_database(path: Path) -> bool:
    # We let SQLite open the file. If we opened and closed the file ourselves, the system would
    # release all locks of this process on it.
    if path.is_symlink() or not os.path.isfile(path) or not path.stat().st_size:
        return False
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(uri, uri=True, factory=Connection)) as connection,
    ):
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return True
    return False


def _make_room(target: Path) -> None:
    """Remove every file beside the target that SQLite would use together with the copy."""
    if os.path.isfile(target):
        set_aside_foreign_log(target)
        # The old target stays if the rename fails. So move its log into it, which completes it.
        # SQLite reports an error for a target that is not a database.
        with suppress(sqlite3.Error):
            settle(target)
    for ending in SIDES:
        side = f"{target}{ending}"
        if os.path.lexists(side):  # False, and no error, for a name that is too long
            os.unlink(side)
