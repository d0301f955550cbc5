"""The tables of a recording, its versions, and what makes one of another.

The rule of this file: what is in the file, and nothing about who reads or writes it.
"""

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from binance_oi.errors import RecordingError

APPLICATION_ID = 0x624F4931  # "bOI1": what `file` and we know a recording by
VERSION = 3
READABLE = (2, 3)  # versions; a recorder makes the newest of an older one
EVERY_SYMBOL = ""  # in `gaps`: the whole sweep

# Samples of one symbol lie together, or a day of it could not be read at once. If every sweep were
# written there, it would change a page for each symbol: twenty times what is new. So a sweep goes
# to the end of `recent`, and sixty of them together to their places in `settled`; a sample is in
# one of the two, and whoever reads `samples` need not know in which.
PAGE_SIZE = 1024  # of which `settled` changes at least one for each symbol
COLUMNS = """
    symbol TEXT NOT NULL,
    time INTEGER NOT NULL,        -- the exchange's transaction time, Unix ms
    open_interest TEXT NOT NULL,  -- in units of the base asset, as the exchange wrote it
    received INTEGER NOT NULL,    -- when the answer came, Unix ms
    mark_price TEXT,              -- in units of the quote asset; NULL when it was not asked for
"""

# Nobody writes an observation to both tables; where one is in both, `settled` has it.
NOT_SETTLED = (
    "NOT EXISTS (SELECT 1 FROM settled"
    " WHERE settled.symbol = recent.symbol AND settled.time = recent.time)"
)
_VIEW = (
    "CREATE VIEW samples AS SELECT * FROM settled"
    f" UNION ALL SELECT * FROM recent WHERE {NOT_SETTLED}"
)
_ABOUT = """
CREATE TABLE about (
    name TEXT PRIMARY KEY,        -- 'source': what `source_name` calls the exchange
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID
"""

SCHEMA = (
    f"CREATE TABLE settled ({COLUMNS}    PRIMARY KEY (symbol, time)\n) STRICT, WITHOUT ROWID",
    f"CREATE TABLE recent ({COLUMNS}    PRIMARY KEY (time, symbol)\n) STRICT, WITHOUT ROWID",
    _VIEW,
    _ABOUT,
    """
CREATE TABLE sweeps (
    slot INTEGER PRIMARY KEY,     -- the instant it was for, Unix ms
    period INTEGER NOT NULL,      -- from slot to slot, ms
    started INTEGER NOT NULL,     -- Unix ms
    finished INTEGER NOT NULL,    -- Unix ms
    asked INTEGER NOT NULL,       -- symbols
    read INTEGER NOT NULL,        -- values; the others are in gaps
    new INTEGER NOT NULL,         -- values that were not there yet: rows of samples
    weight INTEGER NOT NULL
) STRICT
""",
    """
CREATE TABLE gaps (
    symbol TEXT NOT NULL,         -- '': the whole sweep
    first INTEGER NOT NULL,       -- slots from the first to the last one missed, Unix ms
    last INTEGER NOT NULL,
    period INTEGER NOT NULL,      -- from slot to slot, ms
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (symbol, first)
) STRICT, WITHOUT ROWID
""",
)
# What makes this version of the one before: no row of it is touched.
MIGRATION = ("DROP VIEW IF EXISTS samples", _VIEW, _ABOUT)


def check_version(connection: sqlite3.Connection, path: Path) -> int:
    """The version of the recording in the file; 0 when the file is empty.

    Raises:
        RecordingError: It is not ours, or of another version.
    """
    try:
        connection.execute("BEGIN")  # of one moment: it may just be made by somebody
        (objects,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.OperationalError as error:
        raise RecordingError(f"{path} cannot be opened: {error}") from error
    except sqlite3.DatabaseError as error:
        foreign = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB
        what = "is not a recording" if foreign else "cannot be read"
        raise RecordingError(f"{path} {what}: {error}") from error
    finally:
        connection.rollback()
    if not objects and not application:
        return 0
    if application != APPLICATION_ID:
        raise RecordingError(f"{path} is a database, and not a recording of ours")
    if version not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise RecordingError(f"{path} has version {version}; this program knows {known}")
    return int(version)


@contextmanager
def reading(path: Path) -> Generator[None]:
    """Raise what SQLite says of a file as an error of ours that names the file."""
    try:
        yield
    except sqlite3.Error as error:
        raise RecordingError(f"{path} cannot be read: {error}") from error


def read_source(connection: sqlite3.Connection) -> str | None:
    """Which exchange the recording is of; None when it does not say, as before version 3."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version < VERSION:
        return None
    row = connection.execute("SELECT value FROM about WHERE name = 'source'").fetchone()
    return None if row is None else str(row[0])
