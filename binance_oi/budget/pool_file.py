"""Keeps one small locked file for all processes of a user, with one record for each pool.

The rule of this file: it returns a complete record that this library wrote, or nothing. A record is
one page with a checksum, and one call writes it, under an exclusive lock. So a process that is
killed at any moment leaves the old record or the new one, and the kernel releases its lock. A
process has the lock for microseconds. The others do not wait for it, but try again later. So a
process that is suspended while it has the lock blocks no event loop.
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
from binance_oi.budget.stored import EarlierRecord
from binance_oi.exchange.hosts import is_local_exchange
from binance_oi.exchange.models import MAX_SPAN

if sys.platform != "win32":
    import fcntl

logger: logging.Logger = logging.getLogger("binance_oi")

FORMAT = 9  # changes with the content of a record, so that no version reads another version's file
FILE_NAME = f"budget-{FORMAT}"
MAGIC = b"binance-oi budget %d\n" % FORMAT
PAGE_BYTES = 4096  # bytes: a reader without the lock rarely sees half of a write to one page
MAX_RECORDS = 64  # records in the file; each pool has one
# Follow no link, give the file to no child process, and do not block if it is a pipe.
_SAFE = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK"))
UNUSED_S = 86_400.0 + MAX_SPAN  # s to the expiry, from the last write or the end of the cooldown
# s from the last write to the expiry of a record of a local exchange, whatever its cooldown: tests
# start many local exchanges, and each has a record of its own. If the file is full, a new record
# replaces the one that expires first, which is usually a local one if there is any.
UNUSED_LOCAL_S = 3600.0
LOCK_TRIES = 4  # attempts to take the lock in one call; other processes run between them
# If all attempts fail for `STUCK_S` seconds and in `STUCK_TRIES` calls of `lock`, we assume that a
# suspended process has the lock.
STUCK_S = 1.0
STUCK_TRIES = 200
# Checksum of the rest, length, sequence, expiry (Unix s), end of the cooldown (Unix s), pool.
_HEADER = struct.Struct("<IIQdd16s")
MAX_RECORD_BYTES = PAGE_BYTES - _HEADER.size
_HELD = slice(24, 32)  # the position of the end of the cooldown
_NAME = slice(_HEADER.size - 16, _HEADER.size)
_OFFSETS = range(PAGE_BYTES, PAGE_BYTES * (MAX_RECORDS + 1), PAGE_BYTES)
_WRITES = 32  # low bits of a sequence, which count writes; the high bits identify the lineage
_MAX_SEQUENCE = 2**64 - 1  # the largest sequence that fits a header; only damage makes it so large


class PoolFile:
    """The record of one pool in the shared file, as a `stored.Store`.

    Args:
        directory: The directory of the file. If it is missing, we create it for this user alone.
        pool: The name of the pool.

    Raises:
        OSError: The file cannot be opened or created here.
    """

    room = MAX_RECORD_BYTES

    def __init__(self, directory: Path, pool: str) -> None:
        self.path: Path = directory / FILE_NAME
        self._place = str(self.path)  # `lstat` of a `Path` takes 1 us longer
        self.pool = pool
        self._is_local = is_local_exchange(pool)
        self._name = hashlib.blake2b(pool.encode(), digest_size=16).digest()
        self._sequence = -1
        self._seen = b""  # the record and its header, as we last read or wrote them
        self._held = b""  # the end of the cooldown, as the bytes that we last read or wrote
        self._stuck_since = math.inf  # monotonic s of the first failed try since a successful one
        self._failures = 0  # failed tries since then
        # Records of earlier files, oldest first. We drop a record that a later one continues.
        self._earlier: list[EarlierRecord] = []
        self._open()

    def _open(self) -> None:
        self._process = fork.current
        self._fd = _open_file(self.path)
        found = os.fstat(self._fd)
        self._identity = found.st_dev, found.st_ino
        self._close = weakref.finalize(self, os.close, self._fd)
        self._offset = 0  # where our record is in the file; 0 until we have searched for it

    def close(self) -> None:
        """Close the file; an error of the system is ignored. The record stays for others."""
        with suppress(OSError):
            self._close()

    def lock(self) -> bool:
        """Take the lock; False if another process has it."""
        if self._process is not fork.current:  # parent and child would share the lock of one file
            self._leave()
            self._open()
        for _ in range(LOCK_TRIES):
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
        if self._failures >= STUCK_TRIES and now - self._stuck_since > STUCK_S:
            self._stuck_since = math.inf
            self._replace()

    def unlock(self) -> None:
        """Release the lock."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def is_replaced(self) -> bool:
        """Whether our path leads to another file, or to none: others no longer use this one.

        It needs no lock and takes 1 us. While we have the file open, the system gives its inode
        number to no other file.
        """
        try:
            found = os.lstat(self._place)
        except (FileNotFoundError, NotADirectoryError):
            return True
        return (found.st_dev, found.st_ino) != self._identity

    def take_earlier_record(self) -> EarlierRecord | None:
        """Remove and return the oldest record of earlier files; None if there is none.

        There may be several: another process may replace a file before we have taken its lock.
        """
        return self._earlier.pop(0) if self._earlier else None

    def leave(self) -> Sequence[EarlierRecord]:
        """Close this file; return its record and those of earlier files, as far as readable."""
        self._leave()
        self.close()
        return self._earlier

    def take_over(self, earlier: Sequence[EarlierRecord]) -> None:
        """Take over the records that `leave` of an earlier file returned."""
        self._earlier = list(earlier)

    def continue_record(self, earlier: EarlierRecord) -> None:
        """Continue the record of an earlier file, in its lineage."""
        self._sequence, self._seen = earlier.sequence, b""

    def _follow(self) -> bool:
        """Switch to the new file if this one was deleted or replaced; True if it was.

        `lock` calls it each time, because others never see a charge in a file that they no longer
        use. Before we switch, we read the old file once more: it may contain a charge that no
        process has copied to the new one.
        """
        if not self.is_replaced():
            return False
        self._leave()
        self.close()
        self._open()
        return True

    def _leave(self) -> None:
        """Remember the record of the current file, if we can read it."""
        with suppress(OSError):
            pages = (os.pread(self._fd, PAGE_BYTES, offset) for offset in (self._offset, *_OFFSETS))
            page = next((page for page in pages if page[_NAME] == self._name), b"")
            record = _record(page)
            if record is not None:
                found = _earlier_record(_HEADER.unpack_from(page)[2], record)
                self._earlier = [each for each in self._earlier if not found.contains(each)]
                self._earlier.append(found)

    def _replace(self) -> None:
        """Replace the file with a copy, because a suspended process has the lock of the file."""
        logger.warning("a suspended process has locked %s; continuing in a copy", self.path)
        fd, copy = tempfile.mkstemp(dir=self.path.parent)
        try:
            with open(fd, "wb") as file:
                file.write(os.pread(self._fd, PAGE_BYTES * (MAX_RECORDS + 1), 0))
            os.replace(copy, self.path)
        except BaseException:
            os.unlink(copy)
            raise
        self._follow()

    def read(self) -> bytes | None:
        """Return the record; None if we know it already, empty if there is no complete one.

        We compare the whole record with the one that we last read or wrote. So we notice if another
        program has truncated or overwritten the file.
        """
        if not self._offset:
            self._offset = self._find()
        elif (
            self._seen
            and not self._earlier
            and os.pread(self._fd, len(self._seen), self._offset) == self._seen
        ):
            return None
        page = os.pread(self._fd, PAGE_BYTES, self._offset)
        if page[_NAME] != self._name:  # another process has deleted our record
            self._offset = self._find()
            page = os.pread(self._fd, PAGE_BYTES, self._offset)
        header = _HEADER.unpack_from(page.ljust(_HEADER.size, b"\0"))
        self._held = page[_HELD]
        record = _record(page)
        if header[5] == self._name and record is None:
            logger.warning("the budget record of %s is damaged; starting a new one", self.pool)
        if header[5] != self._name or record is None:
            self.begin_anew()
            return b""
        found = _earlier_record(header[2], record)
        # If this file is a copy, it contains a record that we know. An equal sequence does not
        # prove that we know it: two processes may have continued one record in two files. So we
        # compare the content too.
        is_ours = found.sequence == self._sequence and found in self._earlier
        self._continue(found)
        self._seen = page[: _HEADER.size + len(record)]
        self._earlier = [each for each in self._earlier if not found.contains(each)]
        return None if is_ours else record

    def _continue(self, found: EarlierRecord) -> None:
        """Continue the record `found`, or begin a new lineage if `found` is older than ours.

        It is older if a user has restored an old copy of the file. Every process that used the
        record sees the new lineage, and adds its own knowledge.
        """
        is_older = found.lineage == self.lineage and found.sequence <= self._sequence
        if is_older and self._seen and not self._earlier:
            self.begin_anew()
        else:
            self._sequence = found.sequence

    def begin_anew(self) -> None:
        """Begin a new lineage, so that every process that used the record adds its knowledge."""
        self._sequence = int.from_bytes(os.urandom(4), "little") << _WRITES
        self._seen = b""

    @property
    def lineage(self) -> int:
        """A number that is the same in all writes that continue one record; see `Store.lineage`.

        A process that finds a damaged, deleted or doubtful record begins a new lineage from its own
        knowledge. Copies of the file stay in the lineage.
        """
        return self._sequence >> _WRITES

    def is_cooldown_new(self) -> bool:
        """Whether another process has changed the end of the cooldown since our last read or write.

        It needs no lock and takes 1 us. Before our first read, it is True if there is a record of
        our pool, because that record may contain a cooldown.
        """
        if not self._offset:
            return bool(self._page_in(self._fd))
        return os.pread(self._fd, 8, self._offset + _HELD.start) != self._held

    def write(self, record: bytes, held_until: float = 0.0) -> None:
        """Replace the record.

        The record expires `UNUSED_S` after this write, or after the end of its cooldown if that is
        later. `UNUSED_S` is longer than any window. The record of a local exchange expires an hour
        after this write.
        """
        if self._sequence >= _MAX_SEQUENCE:
            self.begin_anew()
        self._sequence += 1
        now = time.time()
        keep = now + UNUSED_LOCAL_S if self._is_local else max(now, held_until) + UNUSED_S
        header = _HEADER.pack(0, len(record), self._sequence, keep, held_until, self._name)
        page = _page(header + record)
        if os.pwrite(self._fd, page, self._offset) != len(page):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self._held, self._seen = page[_HELD], page

    def erase(self) -> None:
        """Delete the record; needs the lock. Processes that still use the record write it again."""
        for offset in _OFFSETS:
            if os.pread(self._fd, PAGE_BYTES, offset)[_NAME] == self._name:
                os.pwrite(self._fd, bytes(PAGE_BYTES), offset)
        self._offset, self._seen = 0, b""

    def peek(self) -> bytes:
        """Return the record that a process would find if it started now; empty if there is none.

        It changes nothing and needs no lock, so any thread may call it.
        """
        offset = self._offset
        try:
            with _reading(self.path) as file:
                page = _whole_page(file.fileno(), offset) if offset else b""
                if page[_NAME] != self._name:
                    page = self._page_in(file.fileno())
        except OSError:
            return b""
        return _record(page) or b""

    def _page_in(self, fd: int) -> bytes:
        """Return the page of our record in an open file; empty if there is none.

        It has to be fast. A client that reads only history calls it twice for each request, because
        a cooldown of the minute's limit stops history too. So it reads all pages with one system
        call; most files have few.
        """
        size = min(os.fstat(fd).st_size, _OFFSETS.stop)  # a buffer for a full file takes 30 us
        data = os.pread(fd, size, 0)
        for offset in range(PAGE_BYTES, len(data), PAGE_BYTES):
            if data[offset + _NAME.start : offset + _NAME.stop] == self._name:
                return _whole_page(fd, offset)
        return b""

    def _find(self) -> int:
        """Return the offset of our record, or of a page for it; delete expired records on the way.

        Our record may be missing because the file was truncated, so check the first line too.
        """
        if os.pread(self._fd, len(MAGIC), 0) != MAGIC:
            logger.warning("%s was truncated or overwritten; writing again what we know", self.path)
            os.pwrite(self._fd, MAGIC, 0)
        now, free, oldest = time.time(), 0, (math.inf, PAGE_BYTES)
        for offset in _OFFSETS:
            page = os.pread(self._fd, PAGE_BYTES, offset)
            if page[_NAME] == self._name:
                return offset
            until = _HEADER.unpack_from(page)[3] if _record(page) is not None else 0.0
            if until < now:
                if any(page):
                    os.pwrite(self._fd, bytes(PAGE_BYTES), offset)
                free = free or offset
            oldest = min(oldest, (until, offset))
        return free or oldest[1]


def _earlier_record(sequence: int, record: bytes) -> EarlierRecord:
    return EarlierRecord(sequence >> _WRITES, sequence, record)


def read_records(directory: Path) -> Iterator[bytes]:
    """Yield every complete record in the file. It takes no lock and changes nothing."""
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
    """Read a page, and again while another process writes it. The result may be damaged."""
    page = b""
    for _ in range(LOCK_TRIES):
        page = os.pread(fd, PAGE_BYTES, offset)
        if not any(page[: _HEADER.size]) or _record(page) is not None:
            break
    return page


def _page(page: bytes) -> bytes:
    """Return a page with its checksum filled in."""
    if len(page) > PAGE_BYTES:
        raise ValueError(f"a record of {len(page) - _HEADER.size} bytes does not fit in a page")
    return zlib.crc32(page[4:]).to_bytes(4, "little") + page[4:]


def _record(page: bytes) -> bytes | None:
    """Return the record in a page; None if there is none, or if it is damaged."""
    if len(page) < _HEADER.size:
        return None
    checksum, length = _HEADER.unpack_from(page)[:2]
    end = _HEADER.size + length
    if not length or end > len(page) or zlib.crc32(page[4:end]) != checksum:
        return None
    return page[_HEADER.size : end]


def _open_file(path: Path) -> int:
    """Open or create the file; afterwards it belongs to this user alone and has our format."""
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
    """Check the owner and the format of a file; if the format is another, write our first line.

    We do not replace the file, because others may have it open. Complete records stay. If only the
    first line is wrong, another program has overwritten it, and a record may still contain a ban.
    `_find` clears each page without a complete record when it searches.
    """
    found = os.fstat(fd)
    if found.st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to another user")
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise PermissionError(f"{path} is not a regular file with a single link")
    os.fchmod(fd, 0o600)
    if os.pread(fd, len(MAGIC), 0) == MAGIC:
        return
    if any(_record(_whole_page(fd, offset)) is not None for offset in _OFFSETS):
        logger.warning("%s was truncated or overwritten; its complete records stay", path)
    elif found.st_size:
        logger.warning("%s is not a budget file; replacing its content", path)
    if found.st_size > _OFFSETS.stop:
        os.ftruncate(fd, _OFFSETS.stop)
    os.pwrite(fd, MAGIC, 0)
