"""An exported series has every row with exact numbers, and replaces a file only on request."""

import csv
import json
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from binance_oi import RecordingError
from binance_oi.cli import main
from binance_oi.market import Point
from binance_oi.output import export_series
from binance_oi.recorder import Recording
from support.recorded import BEGIN, VALUES, write_recording

DAY = timedelta(days=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "oi.db")


def points(path: Path) -> list[Point]:
    with Recording(path) as recording:
        return list(recording.series())


def ms_of(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def number(text: str | None) -> Decimal | None:
    return Decimal(text) if text else None


def as_points(rows: list[dict[str, Any]]) -> list[Point]:
    return [
        Point(
            row["symbol"],
            ms_of(row["time"]),
            Decimal(row["open_interest"]),
            number(row["notional"]),
            number(row["circulating_supply"]),
            row["source"],
        )
        for row in rows
    ]


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
def test_a_file_has_every_row_of_the_series(name: str, path: Path, tmp_path: Path) -> None:
    wanted, counts = points(path), list[int]()
    with Recording(path) as recording:
        rows = export_series(recording, tmp_path / name, on_rows=counts.append)
    assert rows == sum(counts) == len(wanted) > len(VALUES)
    text = "" if name == "x.parquet" else (tmp_path / name).read_text(encoding="utf-8")
    if name == "x.csv":
        found = as_points(list(csv.DictReader(text.splitlines())))
    elif name == "x.jsonl":
        found = as_points([json.loads(line) for line in text.splitlines()])
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        table = parquet.read_table(tmp_path / name)
        table = table.set_column(1, "time", table["time"].cast("int64"))
        found = [Point(*row.values()) for row in table.to_pylist()]
    assert found == wanted


def test_an_export_replaces_an_earlier_file_only_on_request(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.csv"
    with Recording(path) as recording:
        export_series(recording, target)
        with pytest.raises(RecordingError, match="no rows can be added"):
            export_series(recording, target)
        assert export_series(recording, target, symbols=["BTCUSDT"], replace=True) > 0
        assert {line.split(",")[0] for line in target.read_text().splitlines()[1:]} == {"BTCUSDT"}
        before = target.read_text()
        assert export_series(recording, target, since=BEGIN + DAY, replace=True) == 0
        assert target.read_text() == before
        with pytest.raises(RecordingError, match="a file's name must end in"):
            export_series(recording, tmp_path / "x.txt")
        with pytest.raises(RecordingError, match="name must end in"):
            export_series(recording, path, replace=True)


def test_an_instant_with_an_impossible_date_is_omitted(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "oi.db")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO settled VALUES ('X', 5, '1', 5, NULL)")
    with Recording(path) as recording:
        assert "X" in recording.series().symbols
        export_series(recording, tmp_path / "x.csv")
    assert "X" not in (tmp_path / "x.csv").read_text()


def test_a_cell_that_a_spreadsheet_would_run_gets_an_apostrophe(tmp_path: Path) -> None:
    path, at = write_recording(tmp_path / "oi.db"), round(BEGIN.timestamp() * 1000)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO settled VALUES ('=1+1', ?, '1', 5, NULL)", (at,))
    with Recording(path) as recording:
        export_series(recording, tmp_path / "x.csv", csv_safe=True)
    assert "\n'=1+1," in (tmp_path / "x.csv").read_text()


def test_the_export_command_writes_a_series(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "x.jsonl"
    command = ["export", str(path), "--to", str(target), "--series", "15m"]
    assert main(command) == 0
    with Recording(path) as recording:
        wanted = recording.series(step="15m").count()
    assert len(target.read_text().splitlines()) == wanted
    assert f"{wanted} rows written" in capsys.readouterr().err
    for more, said in (
        ([], "no rows can be added to a series; --replace replaces it\n"),
        (["--new"], "--new and --series exclude each other"),
        (["--replace", "--until", "2020-01-01"], "has no rows in that range; nothing"),
        (["--symbol", "NOUSDT", "--replace"], "has no NOUSDT"),
    ):
        assert main([*command, *more]) == 2
        assert said in capsys.readouterr().err
    assert len(target.read_text().splitlines()) == wanted
