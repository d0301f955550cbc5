"""The schema of a recording of version 2, as earlier versions of the package made it."""

COLUMNS = (
    "symbol TEXT NOT NULL, time INTEGER NOT NULL, open_interest TEXT NOT NULL,"
    " received INTEGER NOT NULL, mark_price TEXT,"
)
VERSION_2 = f"""
PRAGMA page_size = 1024;
PRAGMA journal_mode = WAL;
CREATE TABLE settled ({COLUMNS} PRIMARY KEY (symbol, time)) STRICT, WITHOUT ROWID;
CREATE TABLE recent ({COLUMNS} PRIMARY KEY (time, symbol)) STRICT, WITHOUT ROWID;
CREATE VIEW samples AS SELECT * FROM settled UNION ALL SELECT * FROM recent;
CREATE TABLE sweeps (
    slot INTEGER PRIMARY KEY, period INTEGER NOT NULL, started INTEGER NOT NULL,
    finished INTEGER NOT NULL, asked INTEGER NOT NULL, read INTEGER NOT NULL,
    new INTEGER NOT NULL, weight INTEGER NOT NULL
) STRICT;
CREATE TABLE gaps (
    symbol TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, period INTEGER NOT NULL,
    reason TEXT NOT NULL, detail TEXT NOT NULL, PRIMARY KEY (symbol, first)
) STRICT, WITHOUT ROWID;
PRAGMA application_id = {0x624F4931};
PRAGMA user_version = 2;
"""
