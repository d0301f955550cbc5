"""Where the file of an open recording is by now, and the files that SQLite keeps beside it.

The rule of this file: a log belongs to one database, and goes where that goes. SQLite finds a log
by its name alone: under the name of a recording that was moved, it would delete it as soon as a new
one is made there, or write its pages into whatever has replaced it.
"""

import logging
import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from binance_oi.atomic import SIDES
from binance_oi.recorder.readers import somebody_reads_the_past
from binance_oi.recorder.recording import beside

LOG, INDEX = "-wal", "-shm"  # of SQLite; connections share the index of the log

logger = logging.getLogger("binance_oi")


class Place:
    """Of a recording that this process has open and writes.

    Args:
        path: Its name when it was opened.

    Raises:
        OSError: It is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._real = path, Path(os.path.realpath(path))
        self._inode = path.stat()
        self._sides = {ending: _found(self._path_of(ending)) for ending in (LOG, INDEX)}

    def _path_of(self, ending: str) -> Path:
        return self._real.with_name(self._real.name + ending)

    def is_current(self) -> bool:
        """Whether the name that was asked for still leads to the file.

        Raises:
            OSError: Nobody can say; FileNotFoundError: there is no such name.
        """
        return os.path.samestat(self._inode, self._path.stat())

    def is_moved(self) -> bool:
        """Whether the file has another name now, or none: SQLite then leaves its log alone."""
        return not _is(self._real, self._inode)

    def is_removed(self) -> bool:
        """Whether no name leads to the file, as far as anybody can say."""
        if not self.is_moved():
            return False
        file = _descriptor(self._inode)
        return file is None or os.fstat(file).st_nlink == 0

    def is_read_in_the_past(self) -> bool:
        """Whether somebody reads a moment before the last commit, as far as the system tells."""
        inode = self._sides[INDEX]
        index = None if inode is None else _descriptor(inode)
        return index is not None and somebody_reads_the_past(index)

    def _now(self) -> Path | None:
        """The name of the file by now; None when it has none, or none that the system tells."""
        file = _descriptor(self._inode)
        return None if file is None else name_of(file)

    def take_log_along(self) -> Path | None:
        """Give the log of a file that was moved the name under which SQLite looks for it.

        Connections that have it open go on with it: what has another name is the same file.

        Returns:
            The file, which now has its log beside it; None when the log cannot follow.
        """
        home = self._now()
        if home is None:
            return None
        log, index = (home.with_name(home.name + ending) for ending in (LOG, INDEX))
        # Another than ours belongs to somebody who opened the file under its new name.
        if self._is_ours(LOG) and _size(log):
            return None
        try:
            self._rename(LOG, log)
            if not index.exists():
                self._rename(INDEX, index)
            self.remove_log()
        except OSError as error:
            logger.debug("the log of %s cannot follow it: %s", home, error)
            return None
        return home

    def _rename(self, ending: str, there: Path) -> None:
        if self._is_ours(ending):
            self._path_of(ending).rename(there)

    def _is_ours(self, ending: str) -> bool:
        inode = self._sides[ending]
        return inode is not None and _is(self._path_of(ending), inode)

    def remove_log(self) -> None:
        """Remove what lies under the old name, or the next file of that name would be mixed up."""
        for ending in (LOG, INDEX):
            if self._is_ours(ending):
                with suppress(OSError):
                    self._path_of(ending).unlink()


def _descriptor(inode: os.stat_result) -> int | None:
    """That of SQLite. One of our own, once closed, would end SQLite's locks on the file."""
    with suppress(OSError):
        for name in os.listdir("/dev/fd"):
            with suppress(OSError):  # the one that lists them
                if os.path.samestat(os.fstat(int(name)), inode):
                    return int(name)
    return None


def name_of(file: int) -> Path | None:
    """The name of an open file by now; None when it has none, or none that the system tells."""
    with suppress(OSError):
        name = Path(os.readlink(f"/proc/self/fd/{file}"))
        if _is(name, os.fstat(file)):
            return name
    return None


def settle(path: Path) -> None:
    """Let SQLite empty and remove the log of a file that nobody writes, unless somebody reads."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def remove_all(path: Path) -> None:
    """Remove a file that could not be made into a recording, and what SQLite has put beside it."""
    for name in (Path(os.path.realpath(path)), *(beside(path, ending) for ending in SIDES)):
        with suppress(OSError):
            name.unlink()


def set_aside_foreign_log(path: Path) -> None:
    """Rename the log of a recording that was moved away while nobody recorded.

    SQLite would delete it when it makes a new file of that name, and with it the last sweeps of a
    recorder that was killed.

    Raises:
        OSError: It cannot be renamed.
    """
    log = beside(path, LOG)
    if _size(path) or not _size(log):
        return
    names = (log.with_name(f"{log.name}.{number}") for number in range(1, 1_000_000))
    aside = next(name for name in names if not name.exists())
    log.rename(aside)
    logger.warning(
        "%s is the log of a recording that was moved away. It is %s now. It holds the latest "
        "sweeps of that recording: name it like the recording, with -wal, and put it beside it",
        *(log, aside.name),
    )


def _size(path: Path) -> int:
    found = _found(path)
    return 0 if found is None else found.st_size


def _found(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _is(path: Path, inode: os.stat_result) -> bool:
    found = _found(path)
    return found is not None and os.path.samestat(found, inode)
