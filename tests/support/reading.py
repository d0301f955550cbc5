"""Reads a recording as another program does, while a recorder writes it.

Rule of this file: it uses plain SQLite, as any other program would.
"""

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path


def reader_of(path: Path) -> sqlite3.Connection:
    """A read-only connection that has read nothing yet."""
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)


@contextmanager
def reading_earlier_state(path: Path) -> Generator[sqlite3.Connection]:
    """During the block, a reader sees the recording as it was when the block began."""
    with closing(reader_of(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sweeps").fetchone()
        yield reader
