"""Another program that reads a recording while a recorder writes it.

Rule of this file: plain SQLite, as any other program would use it.
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
    """Keep a reader of the recording's state at the start of the block until the block ends."""
    with closing(reader_of(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM sweeps").fetchone()
        yield reader
