"""The schema of a recording of version 3, as earlier programs made it."""

from support.version_2 import VERSION_2

VERSION_3 = f"""
{VERSION_2}
DROP VIEW samples;
CREATE VIEW samples AS SELECT * FROM settled UNION ALL SELECT * FROM recent WHERE NOT EXISTS (
    SELECT 1 FROM settled WHERE settled.symbol = recent.symbol AND settled.time = recent.time
);
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO about VALUES ('source', 'local');
PRAGMA user_version = 3;
"""
