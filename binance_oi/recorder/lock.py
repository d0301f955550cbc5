"""The lock that allows only one recorder for each recording.

The rule of this file: the system releases the lock when the process ends, even if it is killed. A
recorder never overwrites a file that is not an old lock.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not POSIX: SQLite protects the file, but a second recorder is not detected
    fcntl = None  # type: ignore[assignment]

from binance_oi.errors import OccupiedError, RecordingError
from binance_oi.recorder.place import name_of
from binance_oi.recorder.sides import beside

LOCK_BYTES = 20  # enough for a process id and a line end


class RecorderLock:
    """Keeps other recorders away from a recording until `close`, or until this process ends.

    Args:
        path: The recording. The lock is a file beside it that holds the process id. A link to the
            recording leads to the same lock. The lock file itself must not be a link. It must be
            empty or hold only a process id; anything else may be a file of another program.

    Raises:
        OccupiedError: Another recorder holds the lock.
        RecordingError: Something other than a lock file has the name of the lock file.
        OSError: The lock file cannot be opened, locked or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = beside(path, "-lock")
        self._file: int | None = self._taken(path)
        try:
            os.truncate(self._file, 0)
            os.write(self._file, f"{os.getpid()}\n".encode())
        except BaseException:
            self.close()  # on a full disk, remove the empty lock file
            raise

    def _taken(self, path: Path) -> int:
        while True:
            file = _open_lock(self._path)
            try:
                _lock(file, path)
                if _leads_to(self._path, file):
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)  # the previous owner has just removed it

    def _name(self, file: int) -> Path | None:
        """Return the present path of the lock file, whose directory may have been renamed."""
        return self._path if _leads_to(self._path, file) else name_of(file)

    def protects(self, path: Path) -> bool:
        """Whether another recorder of `path` would find this lock.

        It would not find the lock if someone removed the lock or moved its directory. `path` may
        also reach the recording through a link to the directory, or through a mount of it.
        """
        return self._file is not None and _leads_to(beside(path, "-lock"), self._file)

    def renew(self, path: Path) -> None:
        """Move the lock to the directory to which `path` leads now, if that has changed.

        Raises:
            OccupiedError: Another recorder holds the lock there; the present lock stays.
            RecordingError: Something other than a lock file has that name there; the present lock
                stays.
            OSError: The lock file cannot be opened, locked or written; the present lock stays.
        """
        if self.protects(path):
            self._path = beside(path, "-lock")  # its directory may have been renamed
            return
        there = RecorderLock(path)
        self.close()
        self._path, self._file = there._path, there._file

    def close(self) -> None:
        """Release the lock. A second call does nothing."""
        file, self._file = self._file, None
        if file is None:
            return
        with suppress(OSError):
            if name := self._name(file):
                name.unlink()
        os.close(file)


def _leads_to(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.lstat())
    except FileNotFoundError:
        return False


def _open_lock(path: Path) -> int:
    """Open the lock file, or make it if it is missing; refuse any other file of this name.

    Raises:
        RecordingError: The name belongs to a link, to something other than a regular file, or to a
            file that is not a lock.
        OSError: The file cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    try:
        file = os.open(path, flags, 0o666)
    except OSError:
        if path.is_symlink():
            raise RecordingError(f"{path} is a link; a lock must not be one. Remove it") from None
        raise
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:  # a second name of another file
        os.close(file)
        raise RecordingError(f"{path} leads to another file; the lock needs this name. Remove it")
    if not _is_lock(file):
        os.close(file)
        raise RecordingError(f"{path} is not a lock file; a recorder would empty it. Move it away")
    return file


def _is_lock(file: int) -> bool:
    """Whether the file holds a process id; or zeros or nothing, as after a power failure."""
    held = os.pread(file, LOCK_BYTES + 1, 0)
    return len(held) <= LOCK_BYTES and not held.strip(b"0123456789\0 \r\n")


def _lock(file: int, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(file, LOCK_BYTES, 0).decode("ascii", "replace").strip() or "unknown"
        raise OccupiedError(f"{path} is being recorded by process {pid}") from None
