"""Replaces files atomically: a path always leads to the old file or to the complete new one.

The rule of this file: a writer creates the new file in the directory of its target, under a new
random name (``O_EXCL``). It syncs the file to disk, and then renames it. If it fails, it removes
the file. A killed process cannot remove its file. But each process locks its unfinished file
(``flock``), and the system releases that lock when the process ends. So the next writer in the
directory recognises the file as stale, and removes it.
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
except ImportError:  # without POSIX locks, unfinished files of killed processes stay
    fcntl = None  # type: ignore[assignment]

from binance_oi.errors import RecordingError

# One pattern for every target, so that each command can remove stale files of every other command.
# The leading dot hides the file from readers of a Parquet directory. The name does not contain the
# target's name, because together they could be too long.
PREFIX, SUFFIX = ".binance-oi-", ".unfinished"
_OURS = re.compile(rf"{re.escape(PREFIX)}[0-9a-f]{{16}}{re.escape(SUFFIX)}", re.ASCII)
JOURNAL, LOG, INDEX = "-journal", "-wal", "-shm"  # the index of the log is shared memory
SIDES = JOURNAL, LOG, INDEX  # endings of the files that SQLite may put beside a database
# How often we try to lock the directory for one rename, and seconds between two tries. Another
# program may hold that lock for long, as `flock DIR binance-oi ...` does. Then we rename without
# the lock.
LOCK_TRIES, LOCK_PAUSE_S = 20, 0.005

Version = tuple[int, ...]
"""Distinguishes a file from an earlier one at the same path."""


class OvertakenError(Exception):
    """Another process has put its own file at the path in the meantime; that file stays."""


@contextmanager
def translate_write_errors(target: Path) -> Generator[None]:
    """Turn an `OSError` into a `RecordingError` that names `target`."""
    try:
        yield
    except OSError as error:
        raise RecordingError(f"{target} cannot be written: {error.strerror or error}") from error


def check_place(path: Path) -> None:
    """Check that a file may be put at `path`. A rename would replace even a device.

    Raises:
        RecordingError: `path` is a device, a pipe or a socket, or lies directly in ``/dev`` or
            anywhere in ``/proc``. So ``/dev/stdout`` is refused even if it leads to a regular file,
            because the rename would replace the link.
    """
    try:
        mode = path.stat().st_mode
        special = not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
    except OSError:
        special = False  # there is no such file; or the writer reports the error later
    directory = Path(os.path.realpath(path.parent))
    if special or directory == Path("/dev") or directory.is_relative_to("/proc"):
        raise RecordingError(
            f"{path} is a device, a pipe or a socket, or lies among such files, so no file can "
            "replace it"
        )


def version(path: Path) -> Version | None:
    """Return the version of the file at `path`; None if there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@contextmanager
def replace_atomically(
    path: Path, is_current: Callable[[], bool] = lambda: True
) -> Generator[BinaryIO]:
    """Yield a new file, and rename it to `path` when the block ends without an error.

    The content is on disk before the rename. If the block raises, the file at `path` stays, and
    this function removes the new file, with all files that SQLite has put beside it. If `path` is a
    link, the new file replaces the link. The mode of the new file follows the umask. A writer that
    needs a path uses ``file.name``. The call first removes unfinished files of killed processes.

    Args:
        path: The final path. Its directory must exist.
        is_current: Called just before the rename. If it returns False, there is no rename. Before
            we call it, we lock the directory, if the system can and no other program holds that
            lock. Until the rename, other processes of this library then rename no file there.

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
                file.close()  # Windows cannot rename an open file
            with _alone_in(path.parent) as directory:
                if not is_current():
                    raise OvertakenError(path)
                os.replace(file.name, path)
                _sync(directory)
    finally:
        _remove(Path(file.name))


def _sync(directory: int | None) -> None:
    """Sync the directory if the system can, so that the new name is on disk."""
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
            if _lock_unfinished(file):
                return file
        except BaseException:
            file.close()
            _remove(path)
            raise
        file.close()  # another process took the file for stale before we locked it


def _opener(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)


def _lock_unfinished(file: BinaryIO) -> bool:
    """Lock the file; False if another process is removing it, or has removed it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: no process can take the file for stale
    return os.fstat(file.fileno()).st_nlink > 0


@contextmanager
def _alone_in(directory: Path) -> Generator[int | None]:
    """Exclude renames by other processes of this library, if possible, within the block.

    Yield the directory's descriptor; None if the system cannot open a directory.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, AttributeError):  # the directory is not readable, or this is Windows
        yield None
        return
    try:
        with suppress(OSError):  # the file system cannot lock a directory
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
