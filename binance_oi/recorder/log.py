"""Which file a log belongs to, and how to read one without leaving a trace.

SQLite finds a log by its name alone. When another file has got the name of a recording, SQLite
applies the log of the one to the other: rows of two recordings in one file, or a damaged one.

The rule of this file: a log is valid only beside a file whose token it contains. The token is the
schema version, four bytes in the first page, which SQLite itself only counts up by one.

1. After each checkpoint, a recorder rewrites the first page unchanged. So the log begins with the
   token that the file has.
2. Its next transaction gives the file a new token, a random number. The next checkpoint moves that
   into the file.

``kill -9`` at any moment leaves the file with one of the two, and the log contains both. Another
program may checkpoint at any moment. So the recorder looks into the index when its transaction
begins, as SQLite does: that is when SQLite decides whether the log begins anew. Where the recorder
cannot see the index, each of its transactions writes the first page.

Another program may begin the log, and change the schema in it: ``VACUUM``, ``CREATE INDEX``. SQLite
then counts the token up, in the log alone. So a log also belongs to a file whose token is a little
below the first one that the log contains. No random number comes that close to another one.

Another recording has another token, and so has an older or a newer state of the same one. A copy
has one as well: ``VACUUM INTO`` adds one, and SQLite's backup counts in the copy alone, from 1. So
its token is above the one with which the log of the original begins, or far below, unless others
change the schema of the original again and again while nothing is recorded. A log without any token
is of an older program: it says nothing, and is believed.

This costs two pages of 1 KiB for each checkpoint, one or two a minute, and one for each sweep that
does not make the file longer; a sweep of the market has that page anyway. This module reads only
through SQLite or from the log: a descriptor of our own on the file itself, once closed, would end
SQLite's locks.

Source: https://www.sqlite.org/fileformat2.html#the_write_ahead_log and, on closing descriptors,
https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_
"""

import errno
import os
import secrets
import sqlite3
import stat
import struct
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not POSIX: an index that a reader has made stays
    fcntl = None  # type: ignore[assignment]

FIRST_TOKEN = 1 << 16  # below: how often SQLite has seen the schema change
END_OF_TOKENS = (1 << 31) - (1 << 16)  # SQLite takes the number as signed, and may count it up
CHANGES = 1000  # of the schema, in the one transaction of another program that begins a log
NOT_A_DATABASE = -1  # in the place of a token
LOOKS = 20  # at a file and its log, until both stay the same meanwhile
UNCHANGING = "mode=ro&immutable=1"  # of SQLite's URIs: the file alone, without its log
USED = 128  # the byte of the index that every connection has locked while it is open

_HEADER = struct.Struct(">I 4x I 4x 8s 8s")  # magic number, page size, salts, checksum
_FRAME = struct.Struct(">I4x 8s 8s")  # page number, salts, checksum of all up to here
_FRAME_SUMMED = 8  # bytes of it that its checksum is of, beside the page
_TOKEN = struct.Struct(">40xI")  # of the first page, the schema version
_PAGE_SIZES = frozenset(1 << bits for bits in range(9, 17))
_MOVED = struct.Struct(
    "=16xI76xI"
)  # of the index: the last page in the log, and the last one moved

Generation = tuple[int, bytes]
"""What tells a log from the one before it in the same file: page size and salts."""


def new_token() -> int:
    """A token that no other file has."""
    return FIRST_TOKEN + secrets.randbelow(END_OF_TOKENS - FIRST_TOKEN)


def is_foreign(path: Path, log: Path) -> bool:
    """Whether `log` belongs to another file than the one that is at `path` now.

    Args:
        path: Of the database, which may be written meanwhile.
        log: The file that SQLite takes for its log.
    """
    for _ in range(LOOKS):
        seen = generation(log)
        if seen is None:
            return False
        token = token_of(path)
        if _belongs(token, log):
            return False
        if (generation(log), token_of(path)) == (seen, token):
            return True
    return False  # somebody writes both, so they belong together


def generation(log: Path) -> Generation | None:
    """Which log is in the file; None when there is none, or an empty one."""
    try:
        with open(log, "rb", buffering=0, opener=_open_regular) as file:
            return _read_header(file)
    except OSError:
        return None


def _open_regular(name: str, flags: int) -> int:
    """Open a file; a pipe is none, and nobody waits for its other end.

    Raises:
        OSError: It is not there, or no regular file.
    """
    file = os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "It is no regular file", name)
    return file


def begins_anew(index: int) -> bool:
    """Whether the log is in the file as a whole: the next transaction may write it from its start.

    Within a transaction that writes, the answer is of this one: nobody else may begin a log then.

    Args:
        index: Descriptor of the index of the log (``-shm``).
    """
    with suppress(OSError, struct.error):
        last, moved = _MOVED.unpack(os.pread(index, _MOVED.size, 0))
        return bool(last == moved)
    return False


def _read_header(file: BinaryIO) -> Generation | None:
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    _, size, salts, _ = _HEADER.unpack(header)
    return size, salts


def token_of(path: Path) -> int | None:
    """The token of the file alone, without its log; None when it cannot be read."""
    if not size_of(path):
        return NOT_A_DATABASE
    try:
        with closing(_connect(path, UNCHANGING)) as connection:
            # A move that was killed leaves a file that is shorter than it says.
            connection.execute("PRAGMA writable_schema = ON")
            return int(connection.execute("PRAGMA schema_version").fetchone()[0])
    except sqlite3.Error as error:
        return NOT_A_DATABASE if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB else None


def is_as_long_as_it_says(path: Path) -> bool:
    """Whether the file, without its log, has all its pages."""
    if not size_of(path):
        return False
    try:
        with closing(_connect(path, UNCHANGING)) as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            (size,) = connection.execute("PRAGMA page_size").fetchone()
    except sqlite3.DatabaseError:
        return False
    return int(pages) * int(size) <= size_of(path)


def _belongs(token: int | None, log: Path) -> bool:
    if token is None:
        return True  # nobody can say
    others = set[int]()
    for held in _tokens(log):
        if held == token or (not others and _is_counted_up(token, held)):
            return True
        others.add(held)
    is_said = bool(others) and max(token, *others) >= FIRST_TOKEN
    return token != NOT_A_DATABASE and not is_said


def _is_counted_up(token: int, first: int) -> bool:
    """Whether a log may begin with `first` because SQLite has seen the schema change.

    Numbers of older programs are all close to each other, and say nothing.
    """
    return FIRST_TOKEN <= token < first <= token + CHANGES


def _tokens(log: Path) -> Iterator[int]:
    """What the first page has in each of its states in the log.

    SQLite writes a frame in two steps, its head and then the page. In a log that begins anew, the
    page of the log before follows the head meanwhile, with an older token; ``kill -9`` leaves it
    there. So the checksum of the frame has to be that of the page.
    """
    with suppress(OSError), open(log, "rb", opener=_open_regular) as file:
        header = file.read(_HEADER.size)
        if len(header) == _HEADER.size:
            yield from _tokens_after(file, *_HEADER.unpack(header))


def _tokens_after(
    file: BinaryIO, magic: int, size: int, salts: bytes, before: bytes
) -> Iterator[int]:
    """The same, from the frames that follow the header of a log."""
    if size not in _PAGE_SIZES:
        return
    while len(head := file.read(_FRAME.size)) == _FRAME.size:
        page, its_salts, checksum = _FRAME.unpack(head)
        if its_salts != salts:  # of the log that was here before
            break
        if page != 1:
            file.seek(size, os.SEEK_CUR)
        else:
            data = file.read(size)
            if _checksum(magic, before, head[:_FRAME_SUMMED] + data) != checksum:
                break  # SQLite's log ends here, too
            yield _TOKEN.unpack_from(data)[0]
        before = checksum


def _checksum(magic: int, before: bytes, data: bytes) -> bytes:
    """That of a frame, which continues that of the one before.

    Source: https://www.sqlite.org/fileformat2.html#checksum_algorithm
    """
    first, second = struct.unpack(">2I", before)
    order, count = ">" if magic & 1 else "<", len(data) // 4
    words = struct.unpack(f"{order}{count}I", data[: count * 4])
    for even, odd in zip(words[::2], words[1::2], strict=False):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return struct.pack(">2I", first, second)


def descriptor(inode: os.stat_result) -> int | None:
    """That of SQLite. One of our own, once closed, would end SQLite's locks on the file."""
    with suppress(OSError):
        for name in os.listdir("/dev/fd"):
            with suppress(OSError):  # the one that lists them
                if os.path.samestat(os.fstat(int(name)), inode):
                    return int(name)
    return None


class LogReader(sqlite3.Connection):
    """A connection that leaves no file beside the one it reads that was not there."""

    _files: tuple[Path, Path, Path] | None = None
    _had_index = True

    def watch(self, path: Path, log: Path, index: Path) -> None:
        """Say what it reads, before it reads anything."""
        self._files, self._had_index = (path, log, index), index.exists()

    def close(self) -> None:
        """Close it. May be repeated."""
        super().close()
        files, self._files = self._files, None
        if files is None:
            return
        path, log, index = files
        if not index.exists():
            return
        with suppress(OSError, sqlite3.Error):
            if not size_of(log):
                if os.access(path, os.W_OK):  # or SQLite would make what it cannot remove
                    settle(path)
            elif not self._had_index:
                _remove_unused(index)


def settle(path: Path) -> None:
    """Let SQLite empty and remove the log of a file that nobody writes, unless somebody reads."""
    with closing(_connect(path, "mode=rw")) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _remove_unused(index: Path) -> None:
    """Remove the index that a reader has made for a log, unless somebody else uses it by now."""
    if fcntl is None or descriptor(index.stat()) is not None:
        return
    file = os.open(index, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, USED)
        index.unlink()
    finally:
        os.close(file)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?{mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None)


def size_of(path: Path) -> int:
    """Bytes of a file; 0 when nobody can say."""
    with suppress(OSError):
        return path.stat().st_size
    return 0
