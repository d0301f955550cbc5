"""A copy of a recording, also of one that is recorded into.

The rule of this file: the copy gets its name when it is whole. Until then it is an unfinished file
of `atomic` with SQLite's journal beside it, so nobody takes what a killed copy has left for a
recording, and the next output into that directory removes it. `whole` keeps a descriptor of it
open, and when a process closes any descriptor of a file the system drops SQLite's locks on it: this
one is closed after SQLite's, and its own lock (``flock``) is of another kind.
"""

import errno
import os
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from binance_oi.errors import RecordingError
from binance_oi.recorder.atomic import JOURNAL, LOG, SIDES, OvertakenError, whole
from binance_oi.recorder.lock import RecorderLock
from binance_oi.recorder.log import settle
from binance_oi.recorder.opening import open_to_read
from binance_oi.recorder.place import set_aside_foreign_log
from binance_oi.recorder.schema import reading
from binance_oi.recorder.sides import check_sides

PAGES = 16_384  # in one step, 16 MiB: after each one a signal is heard
HEARD = 100_000  # steps of SQLite's machine between two looks for a signal while a copy is checked

Pages = Callable[[int, int], object]

# Of a copy that fails, these are about what is read: nobody else opens the copy.
_OF_SOURCE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_PROTOCOL} | {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
}
_READ_ERRORS = {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ}


class _Teller:
    """Calls `on_pages`, and knows its error from one of the disk."""

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
    tell = _Teller(on_pages)
    try:
        with _alone(target):
            _check_room(target)
            with whole(target, lambda: replace or not os.path.lexists(target)) as file:
                _copy_pages(source, Path(file.name), tell)
                if replace or not os.path.lexists(target):
                    _make_room(target)
    except OvertakenError:
        raise _is_there(target) from None
    except (sqlite3.Error, OSError) as error:
        if error is tell.error:
            raise
        reason = getattr(error, "strerror", None) or error
        raise RecordingError(f"{target} cannot be written: {reason}") from error


def _is_there(target: Path) -> RecordingError:
    return RecordingError(f"{target} is there already; --replace, or replace=True, replaces it")


@contextmanager
def _alone(target: Path) -> Generator[None]:
    """Nobody records into the target meanwhile. A name too long for a lock, no recorder can use."""
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


def _copy_pages(source: Path, part: Path, tell: _Teller) -> None:
    uri = f"{part.absolute().as_uri()}?mode=rw"
    with (
        closing(open_to_read(source)) as ours,
        closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as theirs,
    ):
        with reading(source):
            # As of this moment: without a transaction each commit would start the copy anew.
            ours.execute("BEGIN")
            ours.execute("SELECT count(*) FROM sqlite_master").fetchone()
        try:
            ours.backup(theirs, pages=PAGES, progress=tell)
        except sqlite3.Error as error:
            if error is tell.error or not _is_of_source(error):
                raise
            raise RecordingError(f"{source} cannot be read: {error}") from error
        theirs.execute("PRAGMA journal_mode = DELETE")  # one file, also while it is read
        _check_whole(theirs, source)


def _is_of_source(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)  # Python's own have none
    return code in _READ_ERRORS or code & 0xFF in _OF_SOURCE


def _check_whole(copied: sqlite3.Connection, source: Path) -> None:
    """See that the pages are a database: copying looks at none of them.

    A damaged recording must not take the place of a copy that was made before the damage.
    """
    # A signal's exception cannot leave the handler; SQLite then stops, and says so.
    copied.set_progress_handler(lambda: 0, HEARD)
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
    """See that a log beside the target belongs to what the copy is to replace.

    SQLite would play a foreign one into the copy, and wait for a pipe. And it may hold the last
    sweeps of a recording that was moved away, so we do not remove it.
    """
    check_sides(target)
    if not _is_database(target):
        for ending in (LOG, JOURNAL):
            side = f"{target}{ending}"
            with suppress(OSError):
                if os.path.getsize(side):
                    raise RecordingError(
                        f"{side} is the log of another file, and SQLite would play it into the "
                        f"copy: move it, or take another name"
                    )


def _is_database(path: Path) -> bool:
    # SQLite opens it: another descriptor, once closed, would end the locks of this process on it.
    if path.is_symlink() or not os.path.isfile(path) or not path.stat().st_size:
        return False
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with suppress(sqlite3.Error), closing(sqlite3.connect(uri, uri=True)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return True
    return False


def _make_room(target: Path) -> None:
    """What was recorded into the file before must not be found beside the copy."""
    if os.path.isfile(target):
        set_aside_foreign_log(target)
        with suppress(sqlite3.Error):  # no recording; or it is whole after this
            settle(target)
    for ending in SIDES:
        side = f"{target}{ending}"
        if os.path.lexists(side):  # a name that is too long does not exist either
            os.unlink(side)
