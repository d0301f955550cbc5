"""Whether somebody still reads an earlier moment of a recording.

The rule of this file: it only looks. SQLite moves a page from the log into the file unless a reader
needs what the file has; with a reader of an earlier moment it moves some pages and leaves others.
The file alone is then no database until that reader ends, and whoever copies it has nothing. So we
look first, which is enough: nobody else writes, and who comes later reads the latest moment.

Linux tells who holds a lock; elsewhere the answer is always no.

Source: https://www.sqlite.org/walformat.html#the_wal_index_file_format (since SQLite 3.7.0).
"""

import os
import re
import struct
from contextlib import suppress
from pathlib import Path

LOCKS = Path("/proc/locks")
MARKS = struct.Struct("=16xI84x4I")  # the last page in the log; the last one for readers 1 to 4
FIRST_LOCK = 124  # the byte of the index that reader 1 has locked while it reads

_READ_LOCK = re.compile(r"\S+ POSIX +\S+ +READ +\d+ +\S+:(\d+) (\d+) (\d+)")


def somebody_reads_the_past(index: int) -> bool:
    """Whether moving the log now would move only a part of it.

    Args:
        index: Descriptor of the index of the log (``-shm``).
    """
    with suppress(OSError, struct.error):
        latest, *marks = MARKS.unpack(os.pread(index, MARKS.size, 0))
        inode = os.fstat(index).st_ino
        return any(marks[reader] < latest for reader in _reading(inode))
    return False


def _reading(inode: int) -> set[int]:
    """The numbers, from 0, of the marks that are in use."""
    found = set[int]()
    for line in LOCKS.read_text().splitlines():
        lock = _READ_LOCK.search(line)
        if lock is not None and int(lock[1]) == inode:
            held = range(int(lock[2]) - FIRST_LOCK, int(lock[3]) - FIRST_LOCK + 1)
            found |= {0, 1, 2, 3} & set(held)
    return found
