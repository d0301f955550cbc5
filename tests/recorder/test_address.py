"""A name decides whether a recording is a file or a database, and no message shows a password."""

import sys
from pathlib import Path

import pytest

from binance_oi.recorder import Recorder, Recording
from binance_oi.recorder.address import is_database, same_file, shown, title_of
from support.recording_market import Market


@pytest.mark.parametrize(
    "place, expected",
    [
        ("postgresql://oi@db/market", True),
        ("postgres:///market", True),
        ("POSTGRESQL://DB", True),
        ("oi.db", False),
        ("postgresql.db", False),
        ("./postgresql://x", False),
        (Path("postgresql://x"), False),
        (None, False),
    ],
)
def test_only_a_url_of_postgresql_is_a_database(place: object, expected: bool) -> None:
    assert is_database(place) is expected


@pytest.mark.parametrize(
    "url, text, title",
    [
        ("postgresql://oi:secret@db.example:5433/market", "db.example:5433/market", "market"),
        ("postgresql://oi:sec@ret@db/market?password=secret", "db/market", "market"),
        ("postgresql:///market?host=/run/postgresql&user=oi", "/market", "market"),
        ("postgres://db", "db", "db"),
    ],
)
def test_a_message_shows_only_the_host_and_the_name_of_a_database(
    url: str, text: str, title: str
) -> None:
    assert shown(url) == f"postgresql://{text}"
    assert title_of(url) == title
    assert shown("postgresql://oi:secret@[::1/x") == "the database"


def test_two_names_of_one_file_are_recognised_as_the_same(tmp_path: Path) -> None:
    (tmp_path / "oi.db").touch()
    (tmp_path / "link.db").symlink_to("oi.db")
    assert same_file(str(tmp_path / "oi.db"), tmp_path / "link.db")
    assert not same_file(str(tmp_path / "oi.db"), "postgresql:///oi")
    assert same_file(tmp_path / "no.db", tmp_path / "." / "no.db")


async def test_without_the_extra_an_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    said = r"this needs psycopg: pip install 'psycopg"
    with pytest.raises(ModuleNotFoundError, match=said):
        Recording.open("postgresql:///oi")
    with pytest.raises(ModuleNotFoundError, match=said):
        await Recorder(Market(), "postgresql:///oi", every=20.0).run()
