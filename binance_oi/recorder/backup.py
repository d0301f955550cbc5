"""Copies a recording, also while a recorder writes it.

The rule of this file: the copy gets its name only when it is complete. Until then it is an
unfinished file of `atomic` with SQLite's journal beside it: nobody mistakes the remains of a killed
copy for a recording, and the next output into that directory removes them.

`replace_atomically` keeps its own descriptor of the unfinished file. When a process closes any
descriptor of a file, the system releases SQLite's locks on that file. So this descriptor closes
after SQLite's, and its own lock (``flock``) is of another kind.
"""

import errno
import os
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from binance_oi.errors import RecordingError
from binance_oi.recorder.atomic import JOURNAL, LOG, SIDES, OvertakenError, replace_atomically
from binance_oi.recorder.connection import Connection, connect
from binance_oi.recorder.lock import RecorderLock
from binance_oi.recorder.log import settle
from binance_oi.recorder.opening import open_to_read
from binance_oi.recorder.place import set_aside_foreign_log
from binance_oi.recorder.schema import translate_read_errors
from binance_oi.recorder.sides import check_sides

PAGES_PER_STEP = 16_384  # 16 MiB; Python handles signals between two steps
# SQLite's check of a copy lets Python handle signals once in this many of its instructions.
INSTRUCTIONS_PER_SIGNAL_CHECK = 100_000

Pages = Callable[[int, int], object]

# Errors of a failed copy that concern its source: no other process opens the copy.
_OF_SOURCE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_PROTOCOL} | {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
}
_READ_ERRORS = {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ}


class _Progress:
    """Calls `on_pages`, and remembers its error to tell it from an error of the disk."""

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
        raise _is_there(target)
    progress = _Progress(on_pages)
    try:
        with _alone(target):
            _check_room(target)
            with replace_atomically(target, lambda: replace or not os.path.lexists(target)) as file:
                _copy_pages(source, Path(file.name), progress)
                if replace or not os.path.lexists(target):
                    _make_room(target)
    except OvertakenError:
        raise _is_there(target) from None
    except (sqlite3.Error, OSError) as error:
        if error is progress.error:
            raise
        reason = getattr(error, "strerror", None) or error
        raise RecordingError(f"{target} cannot be written: {reason}") from error


def _is_there(target: Path) -> RecordingError:
    return RecordingError(f"{target} already exists; --replace, or replace=True, replaces it")


@contextmanager
def _alone(target: Path) -> Generator[None]:
    """Keep recorders away from the target. No recorder can use a name too long for a lock."""
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
            # A transaction pins this moment; without it, each commit would restart the copy.
            ours.execute("BEGIN")
            ours.execute("SELECT count(*) FROM sqlite_master").fetchone()
        try:
            ours.backup(theirs, pages=PAGES_PER_STEP, progress=progress)
        except sqlite3.Error as error:
            if error is progress.error or not _is_of_source(error):
                raise
            raise RecordingError(f"{source} cannot be read: {error}") from error
        theirs.execute("PRAGMA journal_mode = DELETE")  # one file, also while others read it
        _check_whole(theirs, source)


def _is_of_source(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)  # Python's own errors have none
    return code in _READ_ERRORS or code & 0xFF in _OF_SOURCE


def _check_whole(copied: sqlite3.Connection, source: Path) -> None:
    """Check that the copied pages are a valid database; the copying itself checks nothing.

    A damaged recording must not replace a copy that was made before the damage.
    """
    # An exception cannot leave the handler: SQLite stops instead, and reports an interrupt.
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
    """Check that a log beside the target belongs to the file that the copy replaces.

    SQLite would apply a foreign log to the copy, and would block on a pipe. A foreign log may hold
    the last sweeps of a recording that was moved away, so we do not remove it.
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
    # SQLite opens the file: closing a descriptor of our own would release this process's locks.
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
    """Leave nothing beside the target that SQLite could take for a part of the copy."""
    if os.path.isfile(target):
        set_aside_foreign_log(target)
        with suppress(sqlite3.Error):  # it is no recording, or its log is in the file afterwards
            settle(target)
    for ending in SIDES:
        side = f"{target}{ending}"
        if os.path.lexists(side):  # False also for a name that is too long
            os.unlink(side)
