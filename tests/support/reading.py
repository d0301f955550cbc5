"""Another program that reads a recording while it is recorded.

Rule of this file: SQLite alone, as any other program would read it.
"""

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path


def reader_of(path: Path) -> sqlite3.Connection:
    """A connection that only reads, and has read nothing yet."""
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)


@contextmanager
def reading_the_past(path: Path) -> Generator[sqlite3.Connection]:
    """Until the block ends, somebody reads the recording as it is at the beginning of the block."""
    with closing(reader_of(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sweeps").fetchone()
        yield reader
