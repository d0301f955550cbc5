"""One small locked file for all processes of a user, with one record for each IP pool.

The rule of this file: what it hands out is whole and ours, or it is nothing. A record is one page,
written by one call under an exclusive lock and with a checksum, so a process that is killed at any
moment leaves the old record or the new one, and the kernel drops its lock. Nobody waits for the
lock: it is held for microseconds, and who does not get it asks again later, so that even a process
suspended while holding it cannot block an event loop.
"""

import errno
import hashlib
import logging
import math
import os
import stat
import struct
import sys
import tempfile
import time
import weakref
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from binance_oi import fork
from binance_oi.budget.place import check_private
from binance_oi.budget.stored import Left
from binance_oi.exchange.hosts import is_local_exchange
from binance_oi.exchange.models import MAX_SPAN

if sys.platform != "win32":
    import fcntl

logger: logging.Logger = logging.getLogger("binance_oi")

FORMAT = 8  # changes with what is in a record: versions never read each other
FILE_NAME = f"budget-{FORMAT}"
MAGIC = b"binance-oi budget %d\n" % FORMAT
PAGE = 4096  # bytes; a write inside one page is never seen half
RECORDS = 64
# No link is followed, no child process gets it, and a pipe in its place blocks nobody.
_SAFE = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK"))
UNUSED = 86_400.0 + MAX_SPAN  # s after which a record that nobody used is cleared away
# s of the same for a local exchange, also while it bans: tests start many, and each has a record of
# its own. When no place is left, the record that may go first is overwritten: never a real one.
UNUSED_LOCAL = 3600.0
TRIES = 4  # times to ask for the lock, letting others run in between
STUCK = 1.0  # s, and tries, in which the lock was never free: whoever holds it does not run
STUCK_TRIES = 200
# Checksum of the rest, length, sequence, kept until, held until, pool.
_HEADER = struct.Struct("<IIQdd16s")
ROOM = PAGE - _HEADER.size  # bytes for a record
_HELD = slice(24, 32)  # where `held until` is
_NAME = slice(_HEADER.size - 16, _HEADER.size)
_OFFSETS = range(PAGE, PAGE * (RECORDS + 1), PAGE)
_WRITES = 32  # bits of a sequence that count writes; those above name where it began
_LAST = 2**64 - 1  # sequence that a header holds; nobody counts so far, so only damage leads there


class PoolFile:
    """The record of one pool in the shared file: a `stored.Store`.

    Args:
        directory: Where the file is; made when missing, for this user only.
        pool: Name of the pool.

    Raises:
        OSError: No such file can be made here.
    """

    room = ROOM

    def __init__(self, directory: Path, pool: str) -> None:
        self.path: Path = directory / FILE_NAME
        self._place = str(self.path)  # `lstat` takes a `Path` for 1 us more
        self.pool = pool
        self._is_local = is_local_exchange(pool)
        self._name = hashlib.blake2b(pool.encode(), digest_size=16).digest()
        self._sequence = -1
        self._seen = b""  # the record and its header, as we last read or wrote them
        self._held = b""  # the hold that we know of, as it is in the file
        self._stuck_since = math.inf  # monotonic s of the first try that failed, of all that did
        self._failures = 0
        self._left: list[Left] = []  # oldest first, and none that a later one goes on from
        self._open()

    def _open(self) -> None:
        self._process = fork.current
        self._fd = _open_file(self.path)
        found = os.fstat(self._fd)
        self._identity = found.st_dev, found.st_ino
        self._close = weakref.finalize(self, os.close, self._fd)
        self._offset = 0  # not found yet

    def close(self) -> None:
        """Close the file, if the system can. The record stays, for others."""
        with suppress(OSError):
            self._close()

    def lock(self) -> bool:
        """Take the lock, or say that somebody else has it."""
        if self._process is not fork.current:  # after a fork both would hold one lock
            self._leave()
            self._open()
        for _ in range(TRIES):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.sched_yield()
            else:
                if not self._follow():
                    self._stuck_since = math.inf
                    return True
        self._failed(time.monotonic())
        return False

    def _failed(self, now: float) -> None:
        if self._follow() or self._stuck_since == math.inf:
            self._stuck_since, self._failures = now, 0
        self._failures += 1
        if self._failures >= STUCK_TRIES and now - self._stuck_since > STUCK:
            self._stuck_since = math.inf
            self._replace()

    def unlock(self) -> None:
        """Let others have it."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def is_left(self) -> bool:
        """Whether the file was deleted, moved or replaced: others use another one, or will.

        Asked without the lock, for 1 us. No other file gets its number while we have it open.
        """
        try:
            found = os.lstat(self._place)
        except (FileNotFoundError, NotADirectoryError):
            return True
        return (found.st_dev, found.st_ino) != self._identity

    def take_left(self) -> Left | None:
        """What a file before this one held, if no later one goes on from it; each once.

        The oldest comes first: a file may be replaced again before anybody has its lock.
        """
        return self._left.pop(0) if self._left else None

    def leave(self) -> Sequence[Left]:
        """Close this file; what it and those before it held, as far as it can be read."""
        self._leave()
        self.close()
        return self._left

    def come_from(self, left: Sequence[Left]) -> None:
        """Know what the files held that were left for this one."""
        self._left = list(left)

    def go_on_from(self, left: Left) -> None:
        """Write on where a file ended that was left; whoever was part of it still is."""
        self._sequence, self._seen = left.sequence, b""

    def _follow(self) -> bool:
        """Whether the file was deleted or replaced, and this is the new one now.

        Asked at every lock: a single charge in a file that others have left would be unknown to
        them. What others wrote into the old file nobody else may know, so it is read once more.
        """
        if not self.is_left():
            return False
        self._leave()
        self.close()
        self._open()
        return True

    def _leave(self) -> None:
        """Keep what the file holds that is about to be left, as far as it can be read."""
        with suppress(OSError):
            pages = (os.pread(self._fd, PAGE, offset) for offset in (self._offset, *_OFFSETS))
            page = next((page for page in pages if page[_NAME] == self._name), b"")
            record = _record(page)
            if record is not None:
                found = _left(_HEADER.unpack_from(page)[2], record)
                self._left = [left for left in self._left if not found.goes_on_from(left)]
                self._left.append(found)

    def _replace(self) -> None:
        """Somebody was suspended with the lock: leave the file to them, and go on in a copy."""
        logger.warning("%s is held by a process that does not run; going on in a copy", self.path)
        fd, copy = tempfile.mkstemp(dir=self.path.parent)
        try:
            with open(fd, "wb") as file:
                file.write(os.pread(self._fd, PAGE * (RECORDS + 1), 0))
            os.replace(copy, self.path)
        except BaseException:
            os.unlink(copy)
            raise
        self._follow()

    def read(self) -> bytes | None:
        """The record; None when it is still as we wrote it; empty when there is none.

        All of it is compared, so a file that was cut off or overwritten is noticed here.
        """
        if not self._offset:
            self._offset = self._find()
        elif (
            self._seen
            and not self._left
            and os.pread(self._fd, len(self._seen), self._offset) == self._seen
        ):
            return None
        page = os.pread(self._fd, PAGE, self._offset)
        if page[_NAME] != self._name:  # another process cleared it away, or it was never there
            self._offset = self._find()
            page = os.pread(self._fd, PAGE, self._offset)
        header = _HEADER.unpack_from(page.ljust(_HEADER.size, b"\0"))
        self._held = page[_HELD]
        record = _record(page)
        if header[5] == self._name and record is None:
            logger.warning("the budget record of %s is damaged and starts anew", self.pool)
        if header[5] != self._name or record is None:
            self.begin_anew()
            return b""
        found = _left(header[2], record)
        # In a copy our record is ours. But two may have gone on from one record in two files.
        is_ours = found.sequence == self._sequence and found in self._left
        self._go_on(found)
        self._seen = page[: _HEADER.size + len(record)]
        self._left = [left for left in self._left if not found.goes_on_from(left)]
        return None if is_ours else record

    def _go_on(self, found: Left) -> None:
        """Write on after `found`; in another lineage when an older copy came back into the file.

        Whoever was part of the record then adds all that it knows.
        """
        is_older = found.lineage == self.lineage and found.sequence <= self._sequence
        if is_older and self._seen and not self._left:
            self.begin_anew()
        else:
            self._sequence = found.sequence

    def begin_anew(self) -> None:
        """Write on from nothing: whoever was part of the record before sees another lineage."""
        self._sequence = int.from_bytes(os.urandom(4), "little") << _WRITES
        self._seen = b""

    @property
    def lineage(self) -> int:
        """Names the beginning that the record, as we last read or wrote it, goes on from.

        A record that was damaged, deleted or not believed is begun anew from what one process
        knows. Copies go on in the lineage.
        """
        return self._sequence >> _WRITES

    def is_hold_new(self) -> bool:
        """Whether somebody else has written a hold since; asked without the lock, for 1 us."""
        return os.pread(self._fd, 8, self._offset + _HELD.start) != self._held

    def write(self, record: bytes, held_until: float = 0.0) -> None:
        """Replace the record, which is kept longer than any window, and so long after a hold.

        That of a local exchange is kept for an hour.
        """
        if self._sequence >= _LAST:
            self.begin_anew()
        self._sequence += 1
        now = time.time()
        keep = now + UNUSED_LOCAL if self._is_local else max(now, held_until) + UNUSED
        header = _HEADER.pack(0, len(record), self._sequence, keep, held_until, self._name)
        page = _page(header + record)
        if os.pwrite(self._fd, page, self._offset) != len(page):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self._held, self._seen = page[_HELD], page

    def erase(self) -> None:
        """Clear the record away, under the lock; whoever is part of it writes it again."""
        for offset in _OFFSETS:
            if os.pread(self._fd, PAGE, offset)[_NAME] == self._name:
                os.pwrite(self._fd, bytes(PAGE), offset)
        self._offset, self._seen = 0, b""

    def peek(self) -> bytes:
        """The record as a process that starts now would find it; empty when there is none.

        Changes nothing and needs no lock, so it may be called from any thread.
        """
        offset = self._offset
        try:
            with _reading(self.path) as file:
                page = _whole_page(file.fileno(), offset) if offset else b""
                if page[_NAME] == self._name:
                    return _record(page) or b""
                pages = (_whole_page(file.fileno(), other) for other in _OFFSETS)
                found = next((page for page in pages if page[_NAME] == self._name), b"")
        except OSError:
            return b""
        return _record(found) or b""

    def _find(self) -> int:
        """Where the record of this pool is, or a place for it; clears away what nobody uses.

        Our record may be gone because the file was cut off, so the first line is checked, too.
        """
        if os.pread(self._fd, len(MAGIC), 0) != MAGIC:
            logger.warning("%s was cut off or overwritten; what we know is written anew", self.path)
            os.pwrite(self._fd, MAGIC, 0)
        now, free, oldest = time.time(), 0, (math.inf, PAGE)
        for offset in _OFFSETS:
            page = os.pread(self._fd, PAGE, offset)
            if page[_NAME] == self._name:
                return offset
            until = _HEADER.unpack_from(page)[3] if _record(page) is not None else 0.0
            if until < now:
                if any(page):
                    os.pwrite(self._fd, bytes(PAGE), offset)
                free = free or offset
            oldest = min(oldest, (until, offset))
        return free or oldest[1]


def _left(sequence: int, record: bytes) -> Left:
    return Left(sequence >> _WRITES, sequence, record)


def read_records(directory: Path) -> Iterator[bytes]:
    """Every whole record in the file; reads only, and without the lock."""
    try:
        file = _reading(directory / FILE_NAME)
    except FileNotFoundError:
        return
    with file:
        for offset in _OFFSETS:
            record = _record(_whole_page(file.fileno(), offset))
            if record is not None:
                yield record


def _reading(path: Path) -> BinaryIO:
    return open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | _SAFE))


def _whole_page(fd: int, offset: int) -> bytes:
    """A page that nobody is just writing, if it is whole at all."""
    page = b""
    for _ in range(TRIES):
        page = os.pread(fd, PAGE, offset)
        if not any(page[: _HEADER.size]) or _record(page) is not None:
            break
    return page


def _page(page: bytes) -> bytes:
    """With its checksum."""
    if len(page) > PAGE:
        raise ValueError(f"a record of {len(page) - _HEADER.size} bytes does not fit into a page")
    return zlib.crc32(page[4:]).to_bytes(4, "little") + page[4:]


def _record(page: bytes) -> bytes | None:
    """What a page holds, if it is whole."""
    if len(page) < _HEADER.size:
        return None
    checksum, length = _HEADER.unpack_from(page)[:2]
    end = _HEADER.size + length
    if not length or end > len(page) or zlib.crc32(page[4:end]) != checksum:
        return None
    return page[_HEADER.size : end]


def _open_file(path: Path) -> int:
    """Open or make the file: ours, private, and in our format."""
    if sys.platform == "win32":
        raise OSError("file locks are not available on this system")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private(path.parent)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | _SAFE, 0o600)
    try:
        _check_format(fd, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_format(fd: int, path: Path) -> None:
    """A file in another format becomes ours, in place: others may have it open.

    Whole records stay. Where only the first line is missing, somebody has cut off or overwritten
    the file while others use it, and a record may hold their ban. `_find` clears all else away.
    """
    found = os.fstat(fd)
    if found.st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to somebody else")
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise PermissionError(f"{path} is not a file of its own")
    os.fchmod(fd, 0o600)
    if os.pread(fd, len(MAGIC), 0) == MAGIC:
        return
    if any(_record(_whole_page(fd, offset)) is not None for offset in _OFFSETS):
        logger.warning("%s was cut off or overwritten; its whole records stay", path)
    elif found.st_size:
        logger.warning("%s was not a budget file and is replaced", path)
    if found.st_size > _OFFSETS.stop:
        os.ftruncate(fd, _OFFSETS.stop)
    os.pwrite(fd, MAGIC, 0)
