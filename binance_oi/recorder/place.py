"""Where the file of an open recording is by now, and the files that SQLite keeps beside it.

The rule of this file: a log belongs to one database, and goes where that goes. SQLite finds a log
by its name alone: under the name of a recording that was moved, it would delete it as soon as a new
one is made there, or write its pages into whatever has replaced it. Nor does it know a database
that is open under two names: whoever opens one that was moved begins another log. From then on the
log of before belongs to no file, and none of it goes into the one that was moved.
"""

import logging
import os
from contextlib import suppress
from pathlib import Path

from binance_oi.recorder.atomic import INDEX, LOG, SIDES
from binance_oi.recorder.log import (
    begins_anew,
    descriptor,
    is_as_long_as_it_says,
    is_foreign,
    size_of,
)
from binance_oi.recorder.readers import somebody_reads_the_past
from binance_oi.recorder.sides import beside

INDEX_HEADER = 96  # bytes, of both copies

logger: logging.Logger = logging.getLogger("binance_oi")


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
        self.note_own_write()

    def _path_of(self, ending: str) -> Path:
        return _side(self._real, ending)

    def change(self) -> str | None:
        """What others did to the file, so that it must be opened again; None when they did nothing.

        Raises:
            OSError: Nobody can say.
        """
        try:
            found = self._path.stat()
        except FileNotFoundError:
            found = None
        if found is None or not os.path.samestat(self._inode, found):
            return "was removed or replaced; recording goes on in a new file"
        if self.is_overwritten():
            return "was truncated or overwritten; recording goes on in a new file"
        if not self.has_sides():
            return "has lost its log; it is opened again"
        return None

    def note_own_write(self) -> None:
        """Take what is in the file now for what the recorder has written."""
        home = self._home()
        self._seen = _version(None if home is None else _found(home))

    def is_overwritten(self) -> bool:
        """Whether the file is no longer the one that the log continues.

        Somebody truncated it in its place, copied another one over it, or has opened it under the
        name that it has now. The log must not be moved into it then: it holds a part of the file
        that was here before.
        """
        home = self._home()
        found = None if home is None else _found(home)
        if home is None or found is None or not os.path.samestat(self._inode, found):
            return False
        if home != self._real and self._has_other_sides(home):
            return True
        now = _version(found)
        if now == self._seen:
            return False
        if self._is_cut(home, found) or self._has_other_token(home):
            return True
        self._seen = now
        return False

    def _has_other_sides(self, home: Path) -> bool:
        """Whether somebody has opened a file that was moved, with a log or an index of their own.

        An empty log of theirs counts too: its process keeps old pages in memory, and would write
        them over what our log brings into the file.
        """
        log, index = (_side(home, ending) for ending in (LOG, INDEX))
        found = index if self._is_the_log(log) else log
        return _found(found) is not None and not self._is_one_of_ours(found)

    def _is_one_of_ours(self, path: Path) -> bool:
        return any(inode is not None and _is(path, inode) for inode in self._sides.values())

    def _has_other_token(self, home: Path) -> bool:
        logs = (_side(place, LOG) for place in (self._real, home))
        log = next(filter(self._is_one_of_ours, logs), None)
        return log is not None and is_foreign(home, log)

    def _is_cut(self, home: Path, found: os.stat_result) -> bool:
        # A VACUUM makes a file shorter, and whole.
        return found.st_size < self._seen[0] and not is_as_long_as_it_says(home)

    def set_aside_cut_file(self) -> None:
        """Give the name of a file that was truncated to the next one.

        Whoever reads the old one keeps SQLite from making another recording in it.
        """
        found = _found(self._real)
        if found is None or self.is_moved() or not self._is_cut(self._real, found):
            return
        with suppress(OSError):
            if found.st_size:
                aside = _renamed(self._real)
                logger.warning("%s was truncated. What is left is %s now", self._real, aside.name)
            else:
                self._real.unlink()

    def has_sides(self) -> bool:
        """Whether SQLite finds under their names the log and the index that it has open here."""
        return all(self._sides[ending] is None or self._is_ours(ending) for ending in (LOG, INDEX))

    def forget_index(self) -> None:
        """Let whoever opens the file in this process read the log that is there by then.

        Connections of one process share the index of a file as long as one of them is open. One
        without a header is made anew from the log.
        """
        index = self._index()
        if index is not None:
            with suppress(OSError):
                os.pwrite(index, bytes(INDEX_HEADER), 0)

    def drop_lost_log(self) -> None:
        """Let nobody find what does not belong together, after the log or the index was removed.

        A log that somebody else put there is set aside: SQLite would delete it on closing. The
        index of a log that has no name goes: whoever opens the file would take it for that of a
        new log.
        """
        if self._is_ours(LOG):
            return
        with suppress(OSError):
            if size_of(self._path_of(LOG)):
                _set_aside(self._path_of(LOG))
            if self._is_ours(INDEX):
                self._path_of(INDEX).unlink()

    def is_moved(self) -> bool:
        """Whether the file has another name now, or none: SQLite then leaves its log alone."""
        return not _is(self._real, self._inode)

    def is_removed(self) -> bool:
        """Whether no name leads to the file, as far as anybody can say."""
        if not self.is_moved():
            return False
        file = descriptor(self._inode)
        return file is None or os.fstat(file).st_nlink == 0

    def is_read_in_the_past(self) -> bool:
        """Whether somebody reads a moment before the last commit, as far as the system tells."""
        index = self._index()
        return index is not None and somebody_reads_the_past(index)

    def log_begins_anew(self) -> bool:
        """Whether the log may begin with what is written next, as far as the index can be seen."""
        index = self._index()
        return index is not None and begins_anew(index)

    def _index(self) -> int | None:
        inode = self._sides[INDEX]
        return None if inode is None else descriptor(inode)

    def _now(self) -> Path | None:
        """The name of the file by now; None when it has none, or none that the system tells."""
        file = descriptor(self._inode)
        return None if file is None else name_of(file)

    def _home(self) -> Path | None:
        """The name under which the file can be seen; None as for `_now`."""
        return self._now() if self.is_moved() else self._real

    def take_log_along(self) -> Path | None:
        """Give the log of a file that was moved the name under which SQLite looks for it.

        Connections that have it open go on with it: what has another name is the same file.

        Returns:
            The file, which now has its log beside it; None when the log cannot follow.
        """
        home = self._now()
        if home is None or self.is_overwritten():
            return None
        log, index = (_side(home, ending) for ending in (LOG, INDEX))
        try:
            self._rename(LOG, log)
            if not index.exists():
                self._rename(INDEX, index)
            self.remove_log()
        except OSError as error:
            logger.debug("the log of %s cannot follow it: %s", home, error)
            return None
        return home if self._is_the_log(log) else None  # it may have been removed before

    def _rename(self, ending: str, there: Path) -> None:
        if self._is_ours(ending):
            self._path_of(ending).rename(there)

    def _is_the_log(self, path: Path) -> bool:
        inode = self._sides[LOG]
        return inode is None or _is(path, inode)

    def _is_ours(self, ending: str) -> bool:
        inode = self._sides[ending]
        return inode is not None and _is(self._path_of(ending), inode)

    def remove_log(self) -> None:
        """Remove what lies under the old name, or the next file of that name would be mixed up."""
        for ending in (LOG, INDEX):
            if self._is_ours(ending):
                with suppress(OSError):
                    self._path_of(ending).unlink()


def _side(path: Path, ending: str) -> Path:
    """A file beside that one, which is no link."""
    return path.with_name(path.name + ending)


def name_of(file: int) -> Path | None:
    """The name of an open file by now; None when it has none, or none that the system tells."""
    with suppress(OSError):
        name = Path(os.readlink(f"/proc/self/fd/{file}"))
        if _is(name, os.fstat(file)):
            return name
    return None


def remove_all(path: Path) -> None:
    """Remove a file that could not be made into a recording, and what SQLite has put beside it."""
    for name in (Path(os.path.realpath(path)), *(beside(path, ending) for ending in SIDES)):
        with suppress(OSError):
            name.unlink()


def set_aside_foreign_log(path: Path) -> None:
    """Rename the log of a recording that was moved away or replaced while nobody recorded.

    SQLite would delete it when it makes a new file of that name, and with it the last sweeps of a
    recorder that was killed. Into another file of that name it would write pages of the old one.

    Raises:
        OSError: It cannot be renamed.
    """
    log = beside(path, LOG)
    if is_foreign(path, log):
        _set_aside(log)
        # An index that somebody still has open describes that log, and not the next one.
        beside(path, INDEX).unlink(missing_ok=True)


def _renamed(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.{number}") for number in range(1, 1_000_000))
    aside = next(name for name in names if not name.exists())
    path.rename(aside)
    return aside


def _set_aside(log: Path) -> None:
    aside = _renamed(log)
    logger.warning(
        "%s is the log of a recording that was moved away or replaced. It is %s now. It holds the "
        "latest sweeps of that recording: name it like the recording, with -wal, and put it beside "
        "it",
        *(log, aside.name),
    )


def _version(found: os.stat_result | None) -> tuple[int, int]:
    """What changes when a file is written: size and time."""
    return (0, 0) if found is None else (found.st_size, found.st_mtime_ns)


def _found(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _is(path: Path, inode: os.stat_result) -> bool:
    found = _found(path)
    return found is not None and os.path.samestat(found, inode)
