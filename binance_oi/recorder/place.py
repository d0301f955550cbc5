"""Finds the file of an open recording, and SQLite's log and index, after someone has moved them.

The rule of this file: a log belongs to one database, and moves with it. SQLite finds a log by its
name alone. Suppose that someone moves a recording and its log stays behind. If a new file is then
created at the old path, SQLite deletes the log. If another file is put there, SQLite writes the
pages of the log into that file.

SQLite also does not notice that a database is open under two names. If another program opens the
moved file, it starts a second log. From then on our log belongs to no file, and SQLite must move
nothing of it into the moved file.
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
from binance_oi.recorder.readers import is_earlier_state_read
from binance_oi.recorder.sides import beside

INDEX_HEADER = 96  # bytes of the index's header; the index begins with two copies of it

logger: logging.Logger = logging.getLogger("binance_oi")


class Place:
    """The files of a recording that this process has open for writing.

    Args:
        path: The path under which the process opened the recording.

    Raises:
        OSError: The file is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._real = path, Path(os.path.realpath(path))
        self._inode = path.stat()
        self._sides = {ending: _found(self._path_of(ending)) for ending in (LOG, INDEX)}
        self.note_own_write()

    def _path_of(self, ending: str) -> Path:
        return _side(self._real, ending)

    def change(self) -> str | None:
        """Return why the file must be opened again after a change by another program, or None.

        Raises:
            OSError: The system cannot show the state of the file.
        """
        try:
            found = self._path.stat()
        except FileNotFoundError:
            found = None
        if found is None or not os.path.samestat(self._inode, found):
            return "was moved, removed or replaced; recording continues in a new file"
        if self.is_overwritten():
            return "was truncated or overwritten; recording continues in a new file"
        if not self.has_sides():
            return "has lost its log; it is opened again"
        return None

    def note_own_write(self) -> None:
        """Note the state of the file after our own write, to notice writes of other programs."""
        home = self._home()
        self._seen = _version(None if home is None else _found(home))

    def is_overwritten(self) -> bool:
        """Whether the file no longer has the content to which the log belongs.

        That is so if another program has truncated the file, copied another file over it, or opened
        it under its new name. Then the log must not go into the file.
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
        """Whether another program has opened the moved file, with its own log or index.

        An empty log counts too. The program that opened it keeps old pages in memory, and would
        later write them over the pages of our log.
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
        # After a VACUUM a file is shorter, but complete.
        return found.st_size < self._seen[0] and not is_as_long_as_it_says(home)

    def set_aside_cut_file(self) -> None:
        """Rename what is left of a truncated file, so that a new file can have its path.

        If the file is empty, remove it. If we left the file there, SQLite could not create a
        recording at its path while another program reads it.
        """
        found = _found(self._real)
        if found is None or self.is_moved() or not self._is_cut(self._real, found):
            return
        with suppress(OSError):
            if found.st_size:
                aside = _renamed(self._real)
                logger.warning("%s was truncated; the rest of it is now %s", self._real, aside.name)
            else:
                self._real.unlink()

    def has_sides(self) -> bool:
        """Whether the log and the index that this process has open still have their names."""
        return all(self._sides[ending] is None or self._is_ours(ending) for ending in (LOG, INDEX))

    def forget_index(self) -> None:
        """Make SQLite rebuild the index from the log, because they no longer match.

        All connections of a process share one index while any of them is open. This call clears the
        header of the index, and SQLite rebuilds an index without a header.
        """
        index = self._index()
        if index is not None:
            with suppress(OSError):
                os.pwrite(index, bytes(INDEX_HEADER), 0)

    def drop_lost_log(self) -> None:
        """Separate the file from a log or an index that no longer belongs to it.

        If our log's name leads to the log of another program, we rename that log; otherwise SQLite
        would delete it when we close. We remove the index of our removed log; otherwise SQLite
        would use it for a new log.
        """
        if self._is_ours(LOG):
            return
        with suppress(OSError):
            if size_of(self._path_of(LOG)):
                _set_aside(self._path_of(LOG))
            if self._is_ours(INDEX):
                self._path_of(INDEX).unlink()

    def is_moved(self) -> bool:
        """Whether the file has another path now, or none. Then SQLite does not touch the log."""
        return not _is(self._real, self._inode)

    def is_removed(self) -> bool:
        """Whether the file has no path any longer, or the system does not show it."""
        if not self.is_moved():
            return False
        file = descriptor(self._inode)
        return file is None or os.fstat(file).st_nlink == 0

    def is_earlier_state_read(self) -> bool:
        """Whether a connection reads an earlier state; False if we cannot read the index."""
        index = self._index()
        return index is not None and is_earlier_state_read(index)

    def log_begins_anew(self) -> bool:
        """Whether the next write may restart the log; False if we cannot read the index."""
        index = self._index()
        return index is not None and begins_anew(index)

    def _index(self) -> int | None:
        inode = self._sides[INDEX]
        return None if inode is None else descriptor(inode)

    def _now(self) -> Path | None:
        """Return the file's path now; None if it has none, or if the system does not show it."""
        file = descriptor(self._inode)
        return None if file is None else name_of(file)

    def _home(self) -> Path | None:
        """Return the file's path, moved or not; None if it has none, or the system hides it."""
        return self._now() if self.is_moved() else self._real

    def take_log_along(self) -> Path | None:
        """Move the log of a moved file beside that file, where SQLite searches for it.

        Connections that have the log open continue to use it, because a renamed file stays the same
        file.

        Returns:
            The new path of the file; None if the log could not be moved there.
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
        return home if self._is_the_log(log) else None  # another program may have removed the log

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
        """Remove the log and the index at the old path, because a new file there would get them."""
        for ending in (LOG, INDEX):
            if self._is_ours(ending):
                with suppress(OSError):
                    self._path_of(ending).unlink()


def _side(path: Path, ending: str) -> Path:
    """Return the path of a side file of `path`; `path` itself must not be a link."""
    return path.with_name(path.name + ending)


def name_of(file: int) -> Path | None:
    """Return the path of an open file; None if it has none, or if the system does not show it."""
    with suppress(OSError):
        name = Path(os.readlink(f"/proc/self/fd/{file}"))
        if _is(name, os.fstat(file)):
            return name
    return None


def remove_all(path: Path) -> None:
    """Remove a file that could not become a recording, and SQLite's side files."""
    for name in (Path(os.path.realpath(path)), *(beside(path, ending) for ending in SIDES)):
        with suppress(OSError):
            name.unlink()


def set_aside_foreign_log(path: Path) -> None:
    """Rename the log beside `path` if it belongs to another recording.

    That is so if someone moved or replaced the other recording while no recorder ran. The log may
    contain the last sweeps of a killed recorder. If there is no file at `path`, SQLite would delete
    the log when it creates one. If there is a file, SQLite would write old pages of the log into
    it.

    Raises:
        OSError: The log cannot be renamed.
    """
    log = beside(path, LOG)
    if is_foreign(path, log):
        _set_aside(log)
        # The index describes the old log, not the next one, and a program may still have it open.
        beside(path, INDEX).unlink(missing_ok=True)


def _renamed(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.{number}") for number in range(1, 1_000_000))
    aside = next(name for name in names if not name.exists())
    path.rename(aside)
    return aside


def _set_aside(log: Path) -> None:
    aside = _renamed(log)
    logger.warning(
        "%s is the log of a recording that was moved away or replaced. It is now %s. It may hold "
        "the latest sweeps of that recording: to keep them, put it beside the recording, under the "
        "recording's name with -wal",
        *(log, aside.name),
    )


def _version(found: os.stat_result | None) -> tuple[int, int]:
    """Return size and modification time, which change when a program writes the file."""
    return (0, 0) if found is None else (found.st_size, found.st_mtime_ns)


def _found(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _is(path: Path, inode: os.stat_result) -> bool:
    found = _found(path)
    return found is not None and os.path.samestat(found, inode)
