"""A connection to SQLite in which `?1`, `?2`, ... are the first, second, ... value on every Python.

The rule of this file: a statement has the same values on every Python. Python 3.12.0 to 3.12.3 read
`?1` as a name, and warn if the values are a sequence (python/cpython#117995).
"""

import sqlite3
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def by_place(values: Sequence[Any]) -> Mapping[str, Any]:
    """Return the values by name: `?1` has the name ``1``, `?2` the name ``2``, ..."""
    return {str(place): value for place, value in enumerate(values, 1)}


class Connection(sqlite3.Connection):
    """See `sqlite3.Connection`."""

    if (3, 12) <= sys.version_info < (3, 12, 4):

        def execute(self, query: str, values: Any = (), /) -> sqlite3.Cursor:
            """Run one statement."""
            return super().execute(query, by_place(values) if "?1" in query else values)

        def executemany(self, query: str, values: Iterable[Any], /) -> sqlite3.Cursor:
            """Run one statement for each row of values."""
            return super().executemany(query, map(by_place, values) if "?1" in query else values)


def connect(uri: str, timeout: float = 5.0) -> Connection:
    """Open a database without implicit transactions.

    Args:
        uri: Its URI.
        timeout: Seconds to wait until another connection unlocks the database.
    """
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=timeout, factory=Connection)
