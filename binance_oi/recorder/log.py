"""Finds the database to which a log belongs, and reads both without leaving files behind.

SQLite finds a log by its name alone. When another file has taken the name of a recording, SQLite
applies the log of one to the other. The result mixes the rows of two recordings, or is damaged.

The rule of this file: a log is valid only beside a file whose token it contains. The token is the
schema version: four bytes in the first page, which SQLite itself only increments.

1. After each checkpoint, a recorder rewrites the first page unchanged. So the log begins with the
   file's token.
2. The next transaction gives the file a new, random token. The next checkpoint moves that token
   from the log into the file.

``kill -9`` at any moment leaves the file with one of the two tokens, and the log contains both.
Another program may checkpoint at any moment. So at the start of each transaction the recorder
reads the index, as SQLite does at that moment to decide whether the log restarts. Where the
recorder cannot read the index, it writes the first page in each transaction.

Another program may restart the log and change the schema in it: ``VACUUM``, ``CREATE INDEX``.
SQLite then increments the token, in the log alone. So a log also belongs to a file whose token is
slightly below the first token of the log. Two random tokens are never that close.

No two recordings share a token, and neither do two states of one recording. A copy's token also
differs: ``VACUUM INTO`` increments it, and SQLite's backup counts from 1 in the copy. So a copy's
token is above the first token of the original's log, or far below it. One case escapes this rule:
other programs change the original's schema many times while nothing is recorded. A log without a
token comes from an older program. It proves nothing, and this module accepts it.

The cost: two pages of 1 KiB for each checkpoint, one or two a minute; and one page for each sweep
that does not lengthen the file. A sweep of the whole market writes that page anyway. This module
reads only through SQLite or from the log: closing a descriptor of our own on the file itself would
release SQLite's locks.

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
except ImportError:  # not POSIX: an index that a reader made stays
    fcntl = None  # type: ignore[assignment]

FIRST_TOKEN = 1 << 16  # lower numbers are SQLite's own counts of schema changes
END_OF_TOKENS = (1 << 31) - (1 << 16)  # SQLite reads a signed number, and may increment it
MAX_SCHEMA_CHANGES = 1000  # in one transaction of another program, the first of its log
NOT_A_DATABASE = -1  # instead of a token
READ_ATTEMPTS = 20  # of a file and its log, until neither changes during a read
UNCHANGING = "mode=ro&immutable=1"  # in a URI for SQLite: read the file alone, without its log
OPEN_LOCK_BYTE = 128  # byte of the index that every open connection locks

_HEADER = struct.Struct(">I 4x I 4x 8s 8s")  # magic number, page size, salts, checksum
_FRAME = struct.Struct(">I4x 8s 8s")  # page number, salts, checksum of all up to here
_SUMMED = 8  # bytes of a frame's head that its checksum covers, besides the page
_TOKEN = struct.Struct(">40xI")  # the schema version in the first page
_PAGE_SIZES = frozenset(1 << bits for bits in range(9, 17))
_MOVED = struct.Struct("=16xI76xI")  # of the index: the log's last page, and the last moved page

Generation = tuple[int, bytes]
"""Page size and salts, which distinguish a log from earlier logs in the same file."""


def new_token() -> int:
    """A token that no other file has."""
    return FIRST_TOKEN + secrets.randbelow(END_OF_TOKENS - FIRST_TOKEN)


def is_foreign(path: Path, log: Path) -> bool:
    """Whether `log` belongs to a file other than the one at `path`.

    Args:
        path: The database. Other processes may write it during this call.
        log: The file that SQLite takes for its log.
    """
    for _ in range(READ_ATTEMPTS):
        seen = generation(log)
        if seen is None:
            return False
        token = token_of(path)
        if _belongs(token, log):
            return False
        if (generation(log), token_of(path)) == (seen, token):
            return True
    return False  # another process writes both, so they belong together


def generation(log: Path) -> Generation | None:
    """The generation of the log in a file; None when the file is missing or empty."""
    try:
        with open(log, "rb", buffering=0, opener=_open_regular) as file:
            return _read_header(file)
    except OSError:
        return None


def _open_regular(name: str, flags: int) -> int:
    """Open a regular file, without blocking on a pipe.

    Raises:
        OSError: The file is missing, or not a regular file.
    """
    file = os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "not a regular file", name)
    return file


def begins_anew(index: int) -> bool:
    """Whether all of the log is in the file, so that the next transaction may restart the log.

    A caller in a write transaction learns about that transaction: no other can restart the log.

    Args:
        index: Descriptor of the log's index (``-shm``).
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
    """The token of the file alone, without its log; None when SQLite cannot read the file."""
    if not size_of(path):
        return NOT_A_DATABASE
    try:
        with closing(_connect(path, UNCHANGING)) as connection:
            # A checkpoint that was killed leaves a file shorter than its header says.
            connection.execute("PRAGMA writable_schema = ON")
            return int(connection.execute("PRAGMA schema_version").fetchone()[0])
    except sqlite3.Error as error:
        return NOT_A_DATABASE if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB else None


def is_as_long_as_it_says(path: Path) -> bool:
    """Whether the file alone, without its log, has all the pages that its header counts."""
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
        return True  # unknown
    seen = set[int]()
    for held in _tokens(log):
        if held == token or (not seen and _follows_by_schema_changes(token, held)):
            return True
        seen.add(held)
    is_another = bool(seen) and max(token, *seen) >= FIRST_TOKEN
    return token != NOT_A_DATABASE and not is_another


def _follows_by_schema_changes(token: int, first: int) -> bool:
    """Whether `first` follows `token` by schema changes that SQLite has counted.

    The tokens of older programs are all close to each other, and prove nothing.
    """
    return FIRST_TOKEN <= token < first <= token + MAX_SCHEMA_CHANGES


def _tokens(log: Path) -> Iterator[int]:
    """The tokens of all versions of the first page in the log.

    SQLite writes a frame in two steps: its head, then the page. In a restarted log, the page after
    a new head still belongs to the previous log, and has an older token, until the second step. A
    ``kill -9`` in between leaves it so. A page therefore counts only if the frame's checksum
    matches.
    """
    with suppress(OSError), open(log, "rb", opener=_open_regular) as file:
        header = file.read(_HEADER.size)
        if len(header) == _HEADER.size:
            yield from _tokens_after(file, *_HEADER.unpack(header))


def _tokens_after(
    file: BinaryIO, magic: int, size: int, salts: bytes, before: bytes
) -> Iterator[int]:
    """The tokens in the frames that follow the header of a log."""
    if size not in _PAGE_SIZES:
        return
    while len(head := file.read(_FRAME.size)) == _FRAME.size:
        page, its_salts, checksum = _FRAME.unpack(head)
        if its_salts != salts:  # a frame of the previous log
            break
        if page != 1:
            file.seek(size, os.SEEK_CUR)
        else:
            data = file.read(size)
            if _checksum(magic, before, head[:_SUMMED] + data) != checksum:
                break  # SQLite's log ends here, too
            yield _TOKEN.unpack_from(data)[0]
        before = checksum


def _checksum(magic: int, before: bytes, data: bytes) -> bytes:
    """The checksum of a frame, computed from its data and the checksum of the previous frame.

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
    """SQLite's descriptor of a file. Closing one of our own would release SQLite's locks."""
    with suppress(OSError):
        for name in os.listdir("/dev/fd"):
            with suppress(OSError):  # the descriptor that lists the others
                if os.path.samestat(os.fstat(int(name)), inode):
                    return int(name)
    return None


class LogReader(sqlite3.Connection):
    """A connection that leaves no new file beside the database that it reads."""

    _files: tuple[Path, Path, Path] | None = None
    _had_index = True

    def watch(self, path: Path, log: Path, index: Path) -> None:
        """Note which files the connection reads. Call it before the first read."""
        self._files, self._had_index = (path, log, index), index.exists()

    def close(self) -> None:
        """Close the connection. May be repeated."""
        super().close()
        files, self._files = self._files, None
        if files is None:
            return
        path, log, index = files
        if not index.exists():
            return
        with suppress(OSError, sqlite3.Error):
            if not size_of(log):
                if os.access(path, os.W_OK):  # or SQLite would make files that it cannot remove
                    settle(path)
            elif not self._had_index:
                _remove_unused(index)


def settle(path: Path) -> None:
    """Let SQLite empty and remove the log of a file, unless other connections use the file."""
    with closing(_connect(path, "mode=rw")) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _remove_unused(index: Path) -> None:
    """Remove the index that a reader made for a log, unless another connection uses it now."""
    if fcntl is None or descriptor(index.stat()) is not None:
        return
    file = os.open(index, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, OPEN_LOCK_BYTE)
        index.unlink()
    finally:
        os.close(file)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?{mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None)


def size_of(path: Path) -> int:
    """The size of a file in bytes; 0 when it cannot be determined."""
    with suppress(OSError):
        return path.stat().st_size
    return 0
