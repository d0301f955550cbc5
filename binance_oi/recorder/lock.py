"""One recorder for each recording.

The rule of this file: the lock ends with the process, however it ends, and nothing but an old lock
is ever written over.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not POSIX: SQLite keeps the file whole, and a second recorder is not noticed
    fcntl = None  # type: ignore[assignment]

from binance_oi.errors import RecordingError
from binance_oi.recorder.place import name_of
from binance_oi.recorder.sides import beside

LOCK_BYTES = 20  # a process id and the end of its line take less


class RecorderLock:
    """Keeps a second recorder away from a recording, until this process ends, however it does.

    Args:
        path: Of the recording; the lock is a file beside it, with the process id in it. A link
            leads to the recording itself, so it has the same lock under every name. The lock's own
            name must not be a link: nothing is written through one. Nor is anything written over
            a file that holds more than a process id.

    Raises:
        RecordingError: Another recorder has it, or its name leads to another file.
        OSError: The lock file cannot be made; none is left.
    """

    def __init__(self, path: Path) -> None:
        self._path = beside(path, "-lock")
        self._file: int | None = self._taken(path)
        try:
            os.truncate(self._file, 0)
            os.write(self._file, f"{os.getpid()}\n".encode())
        except BaseException:
            self.close()  # a full disk has room for an empty file, and nobody needs one
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
            os.close(file)  # the owner before us has just removed it

    def _name(self, file: int) -> Path | None:
        """What to remove; its directory may have been renamed, and another be in its place."""
        return self._path if _leads_to(self._path, file) else name_of(file)

    def protects(self, path: Path) -> bool:
        """Whether the lock is where another recorder of `path` looks for it.

        It is not after its directory was moved, or when somebody has removed it. What counts is the
        file and not its name: a link to the directory, or a mount of it, leads to the same lock.
        """
        return self._file is not None and _leads_to(beside(path, "-lock"), self._file)

    def renew(self, path: Path) -> None:
        """Take the lock where `path` leads now, unless it is there.

        Raises:
            RecordingError: Another recorder has it there; this one is kept as it is.
            OSError: The same, because the lock file cannot be made.
        """
        if self.protects(path):
            self._path = beside(path, "-lock")  # its directory may have another name now
            return
        there = RecorderLock(path)
        self.close()
        self._path, self._file = there._path, there._file

    def close(self) -> None:
        """Let others record. May be repeated."""
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
    """The lock file, made when missing; never another file that the name leads to.

    Raises:
        RecordingError: The name is a link, or no file, or the file is no lock.
        OSError: It cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    try:
        file = os.open(path, flags, 0o666)
    except OSError:
        if path.is_symlink():
            raise RecordingError(f"{path} is a link, and the lock is no link; remove it") from None
        raise
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:  # a hard link is another file, too
        os.close(file)
        raise RecordingError(f"{path} leads to another file, and is to be the lock; remove it")
    if not _is_lock(file):
        os.close(file)
        raise RecordingError(f"{path} is no lock, and a recorder would empty it; move it away")
    return file


def _is_lock(file: int) -> bool:
    """Whether it holds a process id at most; the power may have failed before that was written."""
    held = os.pread(file, LOCK_BYTES + 1, 0)
    return len(held) <= LOCK_BYTES and not held.strip(b"0123456789\0 \r\n")


def _lock(file: int, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(file, LOCK_BYTES, 0).decode("ascii", "replace").strip() or "unknown"
        raise RecordingError(f"{path} is being recorded by process {pid}") from None
