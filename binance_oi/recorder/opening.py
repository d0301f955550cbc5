"""Opens a recording to read it.

The rule of this file: a reader changes no file, and leaves no new file behind.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from binance_oi.errors import RecordingError
from binance_oi.recorder.atomic import INDEX, JOURNAL, LOG
from binance_oi.recorder.log import UNCHANGING, LogReader, is_foreign, size_of
from binance_oi.recorder.schema import check_version, read_source, translate_read_errors
from binance_oi.recorder.sides import beside, check_sides

LOCK_TIMEOUT_S = 5.0  # s to wait until another connection unlocks the file
READING, WRITING = "mode=ro", "mode=rw"  # parameters of SQLite's URIs


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open a connection that changes no file and leaves no new file behind.

    If there is no log beside the file, and this user cannot write the file or its directory, SQLite
    assumes that the file never changes. So while such a connection is open, do not start a recorder
    as another user.

    Raises:
        RecordingError: The file is missing, cannot be read, is not a recording, or has an unknown
            version. Or the log beside the file belongs to another recording. Or one of SQLite's
            files beside it is not a regular file.
    """
    _check_no_directory(path)
    if not os.path.isfile(path):  # `Path.is_file` raises for names that are too long
        raise RecordingError(f"{path} does not exist")
    check_sides(path)
    log = beside(path, LOG)
    if is_foreign(path, log):
        raise RecordingError(
            f"{log} is not the log of {path}, which was replaced; together they would mix two "
            "recordings. Move the log away to read the file alone"
        )
    return _open(path)


def _check_no_directory(path: Path) -> None:
    if os.path.isdir(path):
        raise RecordingError(f"{path} is a directory; a recording is a file")


def _open(path: Path, *, reads_log: bool = True, may_be_empty: bool = False) -> sqlite3.Connection:
    if not reads_log:
        return _checked(path, UNCHANGING, may_be_empty)
    mode = _mode(path)
    try:
        return _checked(path, mode, may_be_empty)
    except RecordingError as error:
        if size_of(beside(path, LOG)) and not os.path.exists(beside(path, INDEX)):
            raise RecordingError(f"{error}; copy it with its log to a writable place") from error
        if size_of(beside(path, LOG)) or os.path.exists(beside(path, JOURNAL)):
            raise  # some of the recording may be only in the log or the journal
        # Perhaps SQLite could not create its files in this directory. Without a log and a journal,
        # the file is the whole recording, so read it as a file that never changes.
        return _checked(path, UNCHANGING, may_be_empty)


def _mode(path: Path) -> str:
    """Return the mode for a connection that leaves no new file beside the recording."""
    log, index = beside(path, LOG), beside(path, INDEX)
    if size_of(log) or (log.exists() and index.exists()):
        return READING  # a writable connection would move the log into the file on closing
    # SQLite creates files beside the recording. A writable connection removes them on closing; a
    # read-only connection cannot.
    may_write = os.access(path, os.W_OK) and os.access(log.parent, os.W_OK)
    return WRITING if may_write else UNCHANGING


def _checked(path: Path, mode: str, may_be_empty: bool) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?{mode}"
    # A reader of an Arrow stream may use the connection in other threads, one at a time.
    with translate_read_errors(path):
        connection = sqlite3.connect(
            uri,
            uri=True,
            isolation_level=None,
            timeout=LOCK_TIMEOUT_S,
            check_same_thread=False,
            factory=LogReader,
        )
    connection.watch(*(beside(path, ending) for ending in ("", LOG, INDEX)))
    try:
        connection.execute("PRAGMA query_only = ON")
        if not check_version(connection, path) and not may_be_empty:
            raise RecordingError(f"{path} is empty")
    except BaseException:
        connection.close()
        raise
    return connection


def check_source(path: Path, source: str | None) -> None:
    """Check that a recorder of `source` may continue the file at `path`.

    Raises:
        RecordingError: The file has another source or is not a recording, or a file beside it is
            not a regular file.
    """
    _check_no_directory(path)
    if not path.exists() or not path.stat().st_size:
        return
    check_sides(path)
    reads_log = not is_foreign(path, beside(path, LOG))
    # If a recorder was killed while it created the file, the file is a database without tables.
    opened = _open(path, reads_log=reads_log, may_be_empty=True)
    with translate_read_errors(path), closing(opened) as connection:
        known = read_source(connection)
    if known is not None and known != source:
        raise RecordingError(f"{path} is a recording of {known}, and not of {source}")
