"""Numbered placeholders get the same values on every Python; a server's error is one line."""

import sqlite3
import sys
import warnings
from contextlib import closing
from types import ModuleType, SimpleNamespace

import pytest

from binance_oi import RecordingError
from binance_oi.cli import main
from binance_oi.recorder.connection import Connection, by_place
from binance_oi.recorder.postgres_connection import MAX_SAID
from binance_oi.recorder.postgres_connection import Connection as ServerConnection


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


ASKED = "\n\tIs the server running on that host and accepting TCP/IP connections?"
TEXTS = {  # errors of psycopg 3.3 with libpq 17 and 18, and what we show of them
    f'connection failed: connection to server at "127.0.0.1", port 1 failed: Connection refused'
    f"{ASKED}": 'connection to server at "127.0.0.1", port 1 failed: Connection refused',
    'connection is bad: connection to server on socket "/run/.s.PGSQL.5432" failed: No such file or'
    " directory\n\tIs the server running locally?": "connection to server on socket "
    '"/run/.s.PGSQL.5432" failed: No such file or directory',
    "\n".join(
        [
            'connection failed: connection to server at "10.0.0.2", port 2 failed: Connection timed'
            f" out{ASKED}",
            "Multiple connection attempts failed. All failures were:",
            "- host: 'db1', port: '1', hostaddr: '10.0.0.1': connection failed: connection to "
            f'server at "10.0.0.1", port 1 failed: Connection refused{ASKED}',
            "- host: 'db2', port: '2', hostaddr: '10.0.0.2': connection failed: connection to "
            f'server at "10.0.0.2", port 2 failed: FATAL:  the database is starting{ASKED}',
            "- host: '/run', port: '3', hostaddr: None: connection is bad: connection to server on "
            'socket "/run/.s.PGSQL.3" failed: No such file or directory',
        ]
    ): "host: 'db1', port: '1', hostaddr: '10.0.0.1': Connection refused; "
    "host: 'db2', port: '2', hostaddr: '10.0.0.2': FATAL: the database is starting; "
    "host: '/run', port: '3', hostaddr: None: No such file or directory",
    'relation "samples" does not exist\nLINE 1: SELECT 1 FROM samples\n                      ^': (
        'relation "samples" does not exist LINE 1: SELECT 1 FROM samples ^'
    ),
    "": "Error",
    "x" * 1000: "x" * (MAX_SAID - 1) + "…",
}


class Driver(ModuleType):
    """A library like psycopg, whose `connect` fails with `text`."""

    Error = type("Error", (Exception,), {})
    ProgrammingError = RawCursor = type("ProgrammingError", (Error,), {})
    conninfo = SimpleNamespace(conninfo_to_dict=lambda _: {})

    def __init__(self, text: str) -> None:
        super().__init__("psycopg")
        self.text = text

    def connect(self, **_: object) -> None:
        raise self.Error(self.text)


@pytest.mark.parametrize("text, said", TEXTS.items())
def test_an_error_of_the_server_keeps_host_port_and_reason_in_one_line(
    text: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", Driver(text))
    with pytest.raises(RecordingError) as caught:
        ServerConnection("postgresql://oi:secret@db/market", "test")
    assert str(caught.value) == f"postgresql://db/market: {said}"
    assert main(["check", "postgresql://oi:secret@db/market"]) == 2
    assert capsys.readouterr().err == f"binance-oi: postgresql://db/market: {said}\n"
