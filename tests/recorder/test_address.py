"""A name decides whether a recording is a file or a database, and no message shows a password."""

import re
import sys
from pathlib import Path

import pytest

from binance_oi.cli import main
from binance_oi.recorder import Recorder, Recording, care
from binance_oi.recorder.address import (
    check_file,
    check_recording,
    is_ambiguous,
    is_database,
    same_file,
    shown,
    title_of,
)
from binance_oi.recorder.backfill import backfill
from binance_oi.testing import simulated_client
from binance_oi.web import oi_app
from support.filled import HOUR, START, fill
from support.recording_market import Market

Captured = pytest.CaptureFixture[str]


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
    "place",
    [
        *("mysql://oi:secret@db/market", "http://db/oi.db", "file:///oi.db", "sqlite:///oi.db"),
        *("postgres+foo://oi:secret@db/market", "PostgreSQL+psycopg://db", "s3://oi"),
    ],
)
async def test_a_url_of_another_kind_is_no_recording(place: str, capsys: Captured) -> None:
    scheme = place.partition("://")[0]
    said = f"must be a file, or a URL with postgresql:// or postgres://, not with {scheme}://"
    for use in (
        Recording,
        lambda name: Recorder(Market(), name, every=20.0),
        lambda name: Recorder(Market(), name, every=20.0, rotate="day"),
        lambda name: care.prune(name, 1),
        care.compact,
        lambda name: care.copy(name, "oi.db"),
        lambda name: oi_app(None, recording=name),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            use(place)
    async with simulated_client() as client:
        with pytest.raises(ValueError, match=re.escape(said)):
            await backfill(client, place)
    for words in (["check", place], ["record", "--to", place], ["serve", "--recording", place]):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"a recording {said}" in line
        assert "secret" not in line


def test_a_copy_into_a_url_of_another_kind_is_an_error(tmp_path: Path) -> None:
    fill(str(tmp_path / "oi.db"), range(START, START + HOUR, HOUR))
    with pytest.raises(ValueError, match="not with mysql://"):
        care.copy(tmp_path / "oi.db", "mysql://db/oi")


@pytest.mark.parametrize(
    "place",
    [
        *("./a:b.db", "a:b.db", "C:\\oi.db", "c:/oi.db", "c://oi.db", "postgresql:/oi.db"),
        *("./mysql://oi.db", "oi/x://oi.db", "-x://oi.db", "://oi.db", Path("mysql://oi.db")),
    ],
)
def test_a_name_with_a_colon_or_a_drive_is_a_path(place: str | Path) -> None:
    assert check_file("path", place) == Path(place)
    assert check_recording("path", place) == Path(place)


@pytest.mark.parametrize(
    "url, text, title",
    [
        ("postgresql://oi:secret@db.example:5433/market", "db.example:5433/market", "market"),
        ("postgresql://oi:sec@ret@db/market?password=secret", "db/market", "market"),
        ("postgresql:///market?host=/run/postgresql&user=oi", "/market", "market"),
        ("postgres://db", "db", "db"),
        ("postgresql://[::1]:5433/market", "[::1]:5433/market", "market"),
        ("postgresql://a:1,b:2/market", "a:1,b:2/market", "market"),
        ("postgresql://db/", "db/", "db"),
        ("postgresql://db/a/b", "db/a/b", "a/b"),
        ("postgresql://oi:sec#ret@db/market", "db/market", "market"),
        ("postgresql://oi:sec?ret@db/market", "db/market", "market"),
        ("postgresql://", "", "PostgreSQL"),
    ],
)
def test_a_message_shows_only_the_host_and_the_name_of_a_database(
    url: str, text: str, title: str
) -> None:
    assert shown(url) == f"postgresql://{text}"
    assert title_of(url) == title


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://oi:secret@[::1/x",
        "postgresql://oi:sec/ret@db/market",
        "postgresql://oi:12/ret@db/market",
        "postgresql://oi:12?34/ret@db/market",
        "postgresql://oi:12/secr?et@db/market",
        "postgresql://oi:p@sss/wor?d@db/market",
        "postgresql://db/market?user=oi@home",
        "postgresql://db?user=oi@home&password=secret",
        "postgresql://oi:sec#ret/x@db/market",
        "postgresql://db/sec@ret",
        "postgresql://db/market#secret",
    ],
)
def test_a_message_shows_no_part_of_a_password_that_is_not_escaped(url: str) -> None:
    assert shown(url) == title_of(url) == "the database"


@pytest.mark.parametrize(
    "url, expected",
    [
        ("postgresql://oi:secret@db/market?user=oi@home", False),
        ("postgresql://?host=/run/postgresql&user=oi@home", False),
        ("postgresql:///market?user=oi@home", False),
        ("postgresql://oi:sec@ret@db/market", True),
        ("postgresql://oi:sec/ret@db/market", True),
        ("postgresql://oi:12,sec/ret@db/market", True),
        ("postgresql://db?user=oi@home&password=secret", True),
    ],
)
def test_a_url_is_ambiguous_if_an_escape_is_missing(url: str, expected: bool) -> None:
    assert is_ambiguous(url) is expected


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
    said = r"this needs psycopg: pip install 'binance-oi\[postgres\]'"
    with pytest.raises(ModuleNotFoundError, match=said):
        Recording.open("postgresql:///oi")
    with pytest.raises(ModuleNotFoundError, match=said):
        await Recorder(Market(), "postgresql:///oi", every=20.0).run()
