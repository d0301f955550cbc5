"""Files that appear whole: under their name is the file before, or the new one, and nothing else.

The rule of this file: a new file is written beside its place under a name that nobody can guess and
that never existed (``O_EXCL``), is on the disk before it gets its name, and is removed when it does
not get it. A process that is killed removes nothing: its file holds a lock (``flock``) that the
system drops with the process, so the next one that writes into the directory knows it for stale.
"""

import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not POSIX: what a killed process leaves stays
    fcntl = None  # type: ignore[assignment]

from binance_oi.errors import RecordingError

# One pattern for every target: what one command leaves, another one removes. The dot hides it from
# whoever reads a directory of Parquet; the name of the target might make it too long.
PREFIX, SUFFIX = ".binance-oi-", ".unfinished"
_OURS = re.compile(rf"{re.escape(PREFIX)}[0-9a-f]{{16}}{re.escape(SUFFIX)}", re.ASCII)
JOURNAL, LOG, INDEX = "-journal", "-wal", "-shm"  # connections share the index of the log
SIDES = JOURNAL, LOG, INDEX  # that SQLite may put beside a file it writes
# The lock is held for one rename. Someone else may hold it for long (`flock DIR binance-oi ...`).
LOCK_TRIES, LOCK_PAUSE = 20, 0.005  # s between two of them

Version = tuple[int, ...]
"""What tells a file from the one before it under the same name."""


class OvertakenError(Exception):
    """Another process gave the name to a file of its own meanwhile; that file is still there."""


@contextmanager
def writing(target: Path) -> Generator[None]:
    """Raise what the disk refuses as an error of ours, by the name of what was asked for."""
    try:
        yield
    except OSError as error:
        raise RecordingError(f"{target} cannot be written: {error.strerror or error}") from error


def check_place(path: Path) -> None:
    """See that a file may be put at `path`: a rename would replace a device, too.

    Raises:
        RecordingError: It is a device, a pipe or a socket, such as ``/dev/stdout``, or would lie
            among them. A regular file behind ``/dev/stdout`` is one as well: the link would go.
    """
    try:
        mode = path.stat().st_mode
        special = not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    except OSError:
        special = False  # it is not there, or writing says why it cannot be
    directory = Path(os.path.realpath(path.parent))
    if special or directory == Path("/dev") or directory.is_relative_to("/proc"):
        raise RecordingError(f"{path} is a device, a pipe or a socket, and no place for a file")


def version(path: Path) -> Version | None:
    """Which file is at `path` now; None when there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def whole(path: Path, still: Callable[[], bool] = lambda: True) -> Generator[BinaryIO]:
    """A new file that gets the name `path` when the block ends without an error.

    The file has the mode of any new file (umask). Its contents are on the disk before the rename.
    Whatever ends the block early, `path` stays as it was and the new file is removed. A link at
    `path` is replaced, never followed. Writers that need a name use ``file.name``; what SQLite puts
    beside it is removed, too. A file that a killed process left in the directory is removed first.

    Args:
        path: The name to get. Its directory is there.
        still: Asked just before the rename, when no other process of ours renames in the directory.

    Raises:
        OvertakenError: `still` said no.
        OSError: The file cannot be written, or `path` is a directory.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    remove_stale(path.parent)
    file = _unfinished(path.parent)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name == "nt":
                file.close()  # it renames no open file
            with _alone_in(path.parent) as directory:
                if not still():
                    raise OvertakenError(path)
                os.replace(file.name, path)
                _sync(directory)
    finally:
        _remove(Path(file.name))


def _sync(directory: int | None) -> None:
    """Put the new name on the disk, where a directory can be synced."""
    if directory is not None:
        with suppress(OSError):
            os.fsync(directory)


def remove_stale(directory: Path) -> None:
    """Remove the unfinished files of processes that are gone; what is not ours stays."""
    if fcntl is None:
        return
    with suppress(OSError), os.scandir(directory) as entries:
        names = [entry.name for entry in entries if _OURS.fullmatch(entry.name)]
        for name in names:
            with suppress(OSError):  # it is in use, or was removed, or may not be
                _remove_if_stale(directory / name)


def _remove_if_stale(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if fcntl is not None and stat.S_ISREG(os.fstat(fd).st_mode):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    for ending in (*SIDES, ""):
        with suppress(OSError):  # most often it is not there
            os.unlink(f"{path}{ending}")


def _unfinished(directory: Path) -> BinaryIO:
    """A new file that is locked as long as this process has it open."""
    while True:
        path = directory / f"{PREFIX}{secrets.token_hex(8)}{SUFFIX}"
        file = open(path, "xb", opener=_opener)  # noqa: SIM115 - the caller closes it
        try:
            if _hold(file):
                return file
        except BaseException:
            file.close()
            _remove(path)
            raise
        file.close()  # somebody took it for stale before it was locked


def _opener(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)


def _hold(file: BinaryIO) -> bool:
    """Lock it; False when it is being removed, or was."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: nobody can take it for stale either
    return os.fstat(file.fileno()).st_nlink > 0


@contextmanager
def _alone_in(directory: Path) -> Generator[int | None]:
    """Keep other renames of ours away for a moment; gives the directory, to be synced."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, AttributeError):  # it may be written and not read; or Windows
        yield None
        return
    try:
        with suppress(OSError):  # a file system that locks no directory
            _lock(fd)
        yield fd
    finally:
        os.close(fd)


def _lock(fd: int) -> None:
    if fcntl is None:
        return
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE)
        else:
            return
