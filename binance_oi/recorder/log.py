"""Decides whether a log belongs to a database, and reads both without leaving new files.

SQLite keeps the latest transactions in a log beside the database, and finds that log by its name
alone. If someone puts another file at the path of a recording, SQLite applies the old log to the
new file. The result mixes the rows of two recordings, or is damaged.

The rule of this file: a log is valid only beside a file whose token it contains. The token is the
schema version: four bytes in the first page, which SQLite itself only increments. A recorder sets
it as follows:

1. After each checkpoint, a recorder rewrites the first page unchanged. So the log begins with the
   file's token.
2. The next transaction gives the file a new, random token. The next checkpoint moves that token
   from the log into the file.

A ``kill -9`` at any moment leaves the file with one of these two tokens, and the log contains both.
Another program may also checkpoint at any moment. So at the start of each transaction, the recorder
reads the index of the log (``-shm``), which shows whether SQLite is about to restart the log. In
case it cannot read the index, the recorder writes the first page in every transaction.

Another program may restart the log and change the schema in it, by ``VACUUM`` or ``CREATE INDEX``.
SQLite then increments the token, but only in the log. So a log also belongs to a file whose token
is slightly below the first token of the log. Two random tokens are hardly ever that close.

Tokens are random. So two recordings hardly ever share one, and a recording hardly ever gets one
twice. A copy has another token too: ``VACUUM INTO`` increments the token of the copy, and SQLite's
backup sets it to a small number. So the log of the original does not contain the token of a copy.
The rule fails in two cases. If another program changes the schema of the original after ``VACUUM
INTO``, the log of the original also fits the copy. If a log begins with a transaction that changes
the schema more than `MAX_SCHEMA_CHANGES` times, the log fits no file. A log without a token comes
from an older program. It proves nothing, and this module accepts it.

Cost, in pages of 1 KiB: two for each checkpoint, of which there are one or two a minute. One more
for each small transaction, which would otherwise not write the first page; a sweep of the whole
market writes it anyway. This module reads a database only through SQLite. If it opened and closed
the file itself, the system would release SQLite's locks.

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

from binance_oi.recorder.connection import Connection, connect

try:
    import fcntl
except ImportError:  # without POSIX locks, an index that a reader has created stays
    fcntl = None  # type: ignore[assignment]

FIRST_TOKEN = 1 << 16  # lower numbers are SQLite's own counts of schema changes
END_OF_TOKENS = (1 << 31) - (1 << 16)  # SQLite reads a signed number, and may increment it
MAX_SCHEMA_CHANGES = 1000  # we expect no more in the first transaction of a log
NOT_A_DATABASE = -1  # stands for the token of a file that is not a database
READ_ATTEMPTS = 20  # tries to read a file and its log while neither changes
UNCHANGING = "mode=ro&immutable=1"  # in a URI for SQLite: read the file alone, without its log
OPEN_LOCK_BYTE = 128  # offset in the index of the byte that every open connection locks

_HEADER = struct.Struct(">I 4x I 4x 8s 8s")  # magic number, page size, salts, checksum
_FRAME = struct.Struct(">I4x 8s 8s")  # page number, salts, checksum of the log up to this frame
_SUMMED = 8  # bytes of a frame's head that its checksum covers, in addition to the page
_TOKEN = struct.Struct(">40xI")  # the schema version in the first page
_PAGE_SIZES = frozenset(1 << bits for bits in range(9, 17))
_MOVED = struct.Struct("=16xI76xI")  # in the index: last frame of the log, last checkpointed frame

Generation = tuple[int, bytes]
"""Page size and salts of a log. Each restart of a log changes its salts."""


def new_token() -> int:
    """Return a random token, which hardly any other file has."""
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
    """Return the generation of the log in a file; None if the file is missing or has no header."""
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
    """Whether the next transaction may restart the log, because the file has all of its content.

    If the caller is in a write transaction, the answer holds for that transaction, because no other
    program can write meanwhile.

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
    """Return the token of the file alone, without its log.

    Return `NOT_A_DATABASE` for a file that is missing, empty or no database. Return None if SQLite
    cannot read the file.
    """
    if not size_of(path):
        return NOT_A_DATABASE
    try:
        with closing(_connect(path, UNCHANGING)) as connection:
            # After a killed checkpoint, the file may be shorter than its header says. With this
            # setting, SQLite reads the file all the same.
            connection.execute("PRAGMA writable_schema = ON")
            return int(connection.execute("PRAGMA schema_version").fetchone()[0])
    except sqlite3.Error as error:
        return NOT_A_DATABASE if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB else None


def is_as_long_as_it_says(path: Path) -> bool:
    """Whether the file alone, without its log, has all pages that its header counts."""
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
        return True  # we cannot read the token, so nothing proves the opposite
    seen = set[int]()
    for held in _tokens(log):
        if held == token or (not seen and _follows_by_schema_changes(token, held)):
            return True
        seen.add(held)
    is_another = bool(seen) and max(token, *seen) >= FIRST_TOKEN
    return token != NOT_A_DATABASE and not is_another


def _follows_by_schema_changes(token: int, first: int) -> bool:
    """Whether SQLite may have incremented `token` to `first`, by schema changes.

    Files of older programs have small tokens, which are all close together and prove nothing.
    """
    return FIRST_TOKEN <= token < first <= token + MAX_SCHEMA_CHANGES


def _tokens(log: Path) -> Iterator[int]:
    """Yield the tokens of all versions of the first page in the log.

    SQLite writes a frame in two steps: its head, then the page. In a restarted log, between the two
    steps, a new head is followed by a page of the previous log, with an older token. A ``kill -9``
    may leave such a frame. So we accept a page only if the checksum of its frame matches.
    """
    with suppress(OSError), open(log, "rb", opener=_open_regular) as file:
        header = file.read(_HEADER.size)
        if len(header) == _HEADER.size:
            yield from _tokens_after(file, *_HEADER.unpack(header))


def _tokens_after(
    file: BinaryIO, magic: int, size: int, salts: bytes, before: bytes
) -> Iterator[int]:
    """Yield the tokens in the frames after the header of a log."""
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
                break  # SQLite ignores the rest of the log too
            yield _TOKEN.unpack_from(data)[0]
        before = checksum


def _checksum(magic: int, before: bytes, data: bytes) -> bytes:
    """Compute the checksum of a frame from its data and the checksum of the previous frame.

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
    """Return the descriptor that SQLite has of a file; None if we find none.

    We must not open the file ourselves: closing our own descriptor would release SQLite's locks.
    """
    with suppress(OSError):
        for name in os.listdir("/dev/fd"):
            with suppress(OSError):  # the descriptor of the directory itself is closed by now
                if os.path.samestat(os.fstat(int(name)), inode):
                    return int(name)
    return None


class LogReader(Connection):
    """A connection for reading. When it closes, it leaves no new file beside the database."""

    _files: tuple[Path, Path, Path] | None = None
    _had_index = True

    def watch(self, path: Path, log: Path, index: Path) -> None:
        """Note the files and whether there is an index. Call it before the first statement."""
        self._files, self._had_index = (path, log, index), index.exists()

    def close(self) -> None:
        """Close the connection, and remove files that it leaves unused beside the database.

        It removes an empty log together with its index, or an index that this connection created.
        If another connection uses them, they stay.
        """
        super().close()
        files, self._files = self._files, None
        if files is None:
            return
        path, log, index = files
        if not index.exists():
            return
        with suppress(OSError, sqlite3.Error):
            if not size_of(log):
                if os.access(path, os.W_OK):  # else SQLite would create files and not remove them
                    settle(path)
            elif not self._had_index:
                _remove_unused(index)


def settle(path: Path) -> None:
    """Let SQLite empty and remove the log of a file, unless other connections use the file."""
    with closing(_connect(path, "mode=rw")) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _remove_unused(index: Path) -> None:
    """Remove the index that a reader has created for a log, unless a connection uses it now."""
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
    return connect(uri)


def size_of(path: Path) -> int:
    """Return the size of a file in bytes; 0 if the system does not show it."""
    with suppress(OSError):
        return path.stat().st_size
    return 0
