"""A statement with numbered placeholders gets the same values on every Python."""

import sqlite3
import warnings
from contextlib import closing

from binance_oi.recorder.connection import Connection, by_place


def test_numbered_placeholders_take_the_values_of_a_sequence() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        found = connection.execute("SELECT ?2, ?1, ?2", by_place(("a", None)))
        assert found.fetchone() == (None, "a", None)


def test_no_python_warns_of_a_numbered_placeholder() -> None:
    with (
        closing(sqlite3.connect(":memory:", factory=Connection)) as connection,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")
        found = connection.execute("SELECT ?1, ?2, ?1", ("a", 2))
        assert found.fetchone() == ("a", 2, "a")
        connection.execute("CREATE TABLE pairs (one, other)")
        connection.executemany("INSERT INTO pairs SELECT ?2, ?1", [(1, 2), (3, 4)])
        rows = connection.execute("SELECT * FROM pairs").fetchall()
        assert rows == [(2, 1), (4, 3)]
        assert connection.execute("SELECT ?, ?", (1, 2)).fetchone() == (1, 2)
