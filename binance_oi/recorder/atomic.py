"""Atomic file replacement: a name always leads to the old file or to the complete new one.

The rule of this file: a writer puts the new file beside its target, under a random name that never
existed (``O_EXCL``). It syncs the file to disk before the rename, and removes the file when it
fails. A killed process removes nothing. But each unfinished file carries a lock (``flock``) that
the system releases with the process, so the next writer in that directory knows it is stale.
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
except ImportError:  # not POSIX: unfinished files of killed processes stay
    fcntl = None  # type: ignore[assignment]

from binance_oi.errors import RecordingError

# One pattern for every target, so that any command removes what another one left. The leading dot
# hides the file from readers of a Parquet directory. The target's own name could make it too long.
PREFIX, SUFFIX = ".binance-oi-", ".unfinished"
_OURS = re.compile(rf"{re.escape(PREFIX)}[0-9a-f]{{16}}{re.escape(SUFFIX)}", re.ASCII)
JOURNAL, LOG, INDEX = "-journal", "-wal", "-shm"  # connections share the index of the log
SIDES = JOURNAL, LOG, INDEX  # what SQLite may put beside a file it writes
# We hold the lock for one rename. Another program may hold it long (`flock DIR binance-oi ...`).
LOCK_TRIES, LOCK_PAUSE_S = 20, 0.005

Version = tuple[int, ...]
"""Tells a file from an earlier one under the same name."""


class OvertakenError(Exception):
    """Another process gave the name to its own file in the meantime; that file stays."""


@contextmanager
def translate_write_errors(target: Path) -> Generator[None]:
    """Turn an `OSError` into a `RecordingError` that names `target`."""
    try:
        yield
    except OSError as error:
        raise RecordingError(f"{target} cannot be written: {error.strerror or error}") from error


def check_place(path: Path) -> None:
    """Check that a file may be put at `path`: a rename would replace a device, too.

    Raises:
        RecordingError: `path` is a device, a pipe or a socket, such as ``/dev/stdout``, or lies in
            ``/dev`` or ``/proc``. A regular file behind ``/dev/stdout`` does not help: the rename
            would replace the link.
    """
    try:
        mode = path.stat().st_mode
        special = not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    except OSError:
        special = False  # it is missing, or the writer reports why it is out of reach
    directory = Path(os.path.realpath(path.parent))
    if special or directory == Path("/dev") or directory.is_relative_to("/proc"):
        raise RecordingError(f"{path} is a device, a pipe or a socket, and no place for a file")


def version(path: Path) -> Version | None:
    """The version of the file at `path`; None when there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def replace_atomically(
    path: Path, is_current: Callable[[], bool] = lambda: True
) -> Generator[BinaryIO]:
    """Yield a new file; rename it to `path` when the block ends without an error.

    The file has the mode of any new file (umask). Its contents are on disk before the rename. When
    the block fails, `path` stays as it was and the new file is removed. A link at `path` is
    replaced, never followed. Writers that need a name use ``file.name``; files that SQLite puts
    beside it are removed, too. Unfinished files of killed processes are removed first.

    Args:
        path: The final name. Its directory must exist.
        is_current: Called just before the rename, while no other process of ours renames in the
            directory. False cancels the rename.

    Raises:
        OvertakenError: `is_current` returned False.
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
                file.close()  # Windows renames no open file
            with _alone_in(path.parent) as directory:
                if not is_current():
                    raise OvertakenError(path)
                os.replace(file.name, path)
                _sync(directory)
    finally:
        _remove(Path(file.name))


def _sync(directory: int | None) -> None:
    """Sync the directory, where the system can: the new name is on disk then."""
    if directory is not None:
        with suppress(OSError):
            os.fsync(directory)


def remove_stale(directory: Path) -> None:
    """Remove unfinished files of ended processes; files of other programs stay."""
    if fcntl is None:
        return
    with suppress(OSError), os.scandir(directory) as entries:
        names = [entry.name for entry in entries if _OURS.fullmatch(entry.name)]
        for name in names:
            with suppress(OSError):  # in use, already removed, or not ours to remove
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
        with suppress(OSError):  # usually it does not exist
            os.unlink(f"{path}{ending}")


def _unfinished(directory: Path) -> BinaryIO:
    """Create a file and lock it for as long as this process has it open."""
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
        file.close()  # another process took it for stale before we locked it


def _opener(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)


def _hold(file: BinaryIO) -> bool:
    """Lock the file; False when another process is removing it or has removed it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: no process can take it for stale either
    return os.fstat(file.fileno()).st_nlink > 0


@contextmanager
def _alone_in(directory: Path) -> Generator[int | None]:
    """Exclude other renames of ours in `directory`; yields its descriptor, for syncing."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, AttributeError):  # the directory is not readable, or this is Windows
        yield None
        return
    try:
        with suppress(OSError):  # the file system locks no directories
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
            time.sleep(LOCK_PAUSE_S)
        else:
            return
