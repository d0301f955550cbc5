"""The tables of a recording in a file, its versions, and the migration between them.

The rule of this file: it defines what a recording contains; other files write it, and read its
rows.
"""

import re
import sqlite3
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from binance_oi.errors import RecordingError

APPLICATION_ID = 0x624F4931  # "bOI1": identifies a recording, also to the command `file`
VERSION = 5
READABLE = (2, 3, 4, 5)  # versions; a recorder migrates an older recording to the newest version
# The version that introduced each of these tables.
SINCE: Mapping[str, int] = MappingProxyType({"about": 3, "past": 4, "pruned": 5})
# Unix ms: the years 1 to 9999, the range of a `datetime`.
EARLIEST, LATEST = -62_135_596_800_000, 253_402_300_799_999
# The form of each number that a recording stores as text. A reader takes any other form for damage.
# The `+` after a quantifier makes matching twice as fast, because the matcher never has to go back.
NUMBER = re.compile(r"-?+[0-9]{1,30}+(?:\.[0-9]{1,30}+)?+")
EVERY_SYMBOL = ""  # as the symbol of a row of `gaps`: the whole sweep is missing

# In `settled`, the samples of one symbol lie together, so a reader gets a day of them at once. But
# a sweep has one sample of each symbol. If the recorder wrote each sweep to `settled`, it would
# change one page for each symbol, and SQLite would write twenty times the new data. So the recorder
# appends a sweep to `recent`, and moves sixty sweeps together to `settled`. A sample is in one of
# the two tables; the view `samples` has the rows of both.
PAGE_SIZE = 1024  # small, because each move to `settled` changes at least one page of each symbol
COLUMNS = """
    symbol TEXT NOT NULL,
    time INTEGER NOT NULL,        -- the exchange's transaction time, Unix ms
    open_interest TEXT NOT NULL,  -- in units of the base asset, as the exchange wrote it
    received INTEGER NOT NULL,    -- when the answer came, Unix ms
    mark_price TEXT,              -- in units of the quote asset; NULL when it was not asked for
"""

# The recorder keeps a sample in one table only. If a file has it in both, readers use the row of
# `settled`.
NOT_SETTLED = (
    "NOT EXISTS (SELECT 1 FROM settled"
    " WHERE settled.symbol = recent.symbol AND settled.time = recent.time)"
)
_VIEW = (
    "CREATE VIEW samples AS SELECT * FROM settled"
    f" UNION ALL SELECT * FROM recent WHERE {NOT_SETTLED}"
)
# Facts about the recording, by name. 'source': the exchange. 'merged': another recording was copied
# into this one. 'copying': such a copy has not ended. 'pruned until': the end of the removed days.
_ABOUT = """
CREATE TABLE about (
    name TEXT PRIMARY KEY,        -- 'source': what `source_name` calls the exchange
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID
"""
# Values that the exchange published later for an instant of the past. They are not samples, so they
# have a table of their own. The exchange has two sources of such values. Each source has its own
# rows, so a reader can compare them. The key begins with symbol and time, because readers and
# backfills go through one symbol in the order of time.
_PAST = """
CREATE TABLE past (
    symbol TEXT NOT NULL,
    time INTEGER NOT NULL,        -- the instant, Unix ms
    source INTEGER NOT NULL,      -- 1: the exchange's history; 2: its archive
    open_interest TEXT NOT NULL,  -- in units of the base asset, as the exchange wrote it
    notional TEXT,                -- in units of the quote asset; NULL where it is unknown
    circulating_supply TEXT,      -- of the base asset; NULL where it is unknown
    PRIMARY KEY (symbol, time, source)
) STRICT, WITHOUT ROWID
"""
# The summary of a pruned day: how many of its slots (the times at which sweeps were due) have a
# sweep, and how many have none, for each reason.
_PRUNED = """
CREATE TABLE pruned (
    day INTEGER NOT NULL,         -- its beginning, Unix ms
    reason TEXT NOT NULL,         -- 'swept', or why the slots have no sweep
    slots INTEGER NOT NULL,
    last INTEGER NOT NULL,        -- the last of these slots, Unix ms
    rows INTEGER NOT NULL,        -- samples of these slots
    PRIMARY KEY (day, reason)
) STRICT, WITHOUT ROWID
"""

SCHEMA = (
    f"CREATE TABLE settled ({COLUMNS}    PRIMARY KEY (symbol, time)\n) STRICT, WITHOUT ROWID",
    f"CREATE TABLE recent ({COLUMNS}    PRIMARY KEY (time, symbol)\n) STRICT, WITHOUT ROWID",
    _VIEW,
    _ABOUT,
    _PAST,
    _PRUNED,
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
    first INTEGER NOT NULL,       -- the first missed slot, Unix ms
    last INTEGER NOT NULL,        -- the last missed slot, Unix ms
    period INTEGER NOT NULL,      -- from slot to slot, ms
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (symbol, first)
) STRICT, WITHOUT ROWID
""",
)
# The statements that lead from each version to the next one. They change no row.
_STEPS = {2: ("DROP VIEW IF EXISTS samples", _VIEW, _ABOUT), 3: (_PAST,), 4: (_PRUNED,)}


def migration(version: int) -> Iterator[str]:
    """Return the statements that migrate a recording of `version` to the newest version."""
    for step in range(version, VERSION):
        yield from _STEPS[step]


def check_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of the recording in the file; 0 if it is empty or has no tables yet.

    Raises:
        RecordingError: The file is not a recording, or has an unknown version.
    """
    try:
        # A recorder may be creating the file: all three queries must see the same state.
        connection.execute("BEGIN")
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
        raise RecordingError(f"{path} is a database, but not a recording")
    if version not in READABLE:
        known = f"{READABLE[0]} to {READABLE[-1]}"
        raise RecordingError(f"{path} has version {version}; this program reads {known}")
    return int(version)


@contextmanager
def translate_read_errors(path: Path) -> Generator[None]:
    """Turn an error of SQLite into a `RecordingError` that names the file."""
    try:
        yield
    except sqlite3.Error as error:
        raise RecordingError(f"{path} cannot be read: {error}") from error


def read_version(connection: sqlite3.Connection) -> int:
    """Read the version again: a recorder may have migrated the file since we opened it."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def read_source(connection: sqlite3.Connection) -> str | None:
    """Return the name of the recorded exchange; None if the recording does not contain it.

    Recordings before version 3 never do.
    """
    if read_version(connection) < SINCE["about"]:
        return None
    row = connection.execute("SELECT value FROM about WHERE name = 'source'").fetchone()
    return None if row is None else str(row[0])
