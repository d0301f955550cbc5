"""Finds out whether another connection still reads an earlier state of a recording.

The rule of this file: it changes nothing. A checkpoint moves a page from the log into the file,
unless a reader needs the older version of that page in the file. So while a connection reads an
earlier state, a checkpoint moves only some of the pages. Until that connection ends, the file alone
is not a valid database, and a plain copy of it is useless. One check before the checkpoint is
enough, because no other process writes, and new readers read the latest state.

Only Linux lists the owners of locks. On other systems, the answer is always no.

Source: https://www.sqlite.org/walformat.html#the_wal_index_file_format (since SQLite 3.7.0).
"""

import os
import re
import struct
from contextlib import suppress
from pathlib import Path

LOCKS = Path("/proc/locks")
# The last page of the log, and for each of the read marks 1 to 4 the last page that readers see.
MARKS = struct.Struct("=16xI84x4I")
FIRST_LOCK = 124  # the byte of the index that a reader locks while it uses read mark 1

_READ_LOCK = re.compile(r"\S+ POSIX +\S+ +READ +\d+ +\S+:(\d+) (\d+) (\d+)")


def is_earlier_state_read(index: int) -> bool:
    """Whether a checkpoint would now move only part of the log.

    Args:
        index: The descriptor of the index of the log (``-shm``).
    """
    with suppress(OSError, struct.error):
        latest, *marks = MARKS.unpack(os.pread(index, MARKS.size, 0))
        inode = os.fstat(index).st_ino
        return any(marks[reader] < latest for reader in _reading(inode))
    return False


def _reading(inode: int) -> set[int]:
    """Return the read marks that are in use, counted from 0: read mark 1 is 0."""
    found = set[int]()
    for line in LOCKS.read_text().splitlines():
        lock = _READ_LOCK.search(line)
        if lock is not None and int(lock[1]) == inode:
            held = range(int(lock[2]) - FIRST_LOCK, int(lock[3]) - FIRST_LOCK + 1)
            found |= {0, 1, 2, 3} & set(held)
    return found
