"""A file of history has only complete symbols, even if several runs wrote it.

Rule of this file: a killed run leaves a file beside the target. The tests write such a file, which
may end at any byte.
"""

import csv
import json
import logging
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from binance_oi import History, HistoryRow, RecordingError
from binance_oi.output.past import PART, PastFile

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
NOON_MS = 1_795_435_200_000
ASKED: dict[str, object] = {"symbols": None, "period": "5m"}


def row(symbol: str, time: int, value: str = "1.50", supply: str | None = "7.0") -> HistoryRow:
    amount = None if supply is None else Decimal(supply)
    return HistoryRow(symbol, time, Decimal(value), Decimal("3.25"), amount)


def history(symbol: str, *rows: HistoryRow) -> History:
    return History(
        symbol=symbol, period="5m", since=NOON, until=NOON, rows=rows, complete_until=NOON_MS
    )


B = history("BUSDT", row("BUSDT", NOON_MS), row("BUSDT", NOON_MS + 300_000, "2", None))
A = history("AUSDT", row("AUSDT", NOON_MS))
EMPTY = history("CUSDT")


def written(path: Path, *found: History) -> int:
    with closing(PastFile(path, ASKED)) as file:
        for each in found:
            file.add(each)
        return file.finish()


def test_csv_and_json_lines_have_every_digit_and_are_sorted_by_symbol_and_time(
    tmp_path: Path,
) -> None:
    assert written(tmp_path / "x.csv", B, EMPTY, A) == 3
    assert (tmp_path / "x.csv").read_text() == (
        "symbol,time,open_interest,notional,circulating_supply\n"
        "AUSDT,2026-11-23T12:00:00.000Z,1.50,3.25,7.0\n"
        "BUSDT,2026-11-23T12:00:00.000Z,1.50,3.25,7.0\n"
        "BUSDT,2026-11-23T12:05:00.000Z,2,3.25,\n"
    )
    assert written(tmp_path / "x.jsonl", B, A) == 3
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    with (tmp_path / "x.csv").open() as file:
        for line, other in zip(lines, csv.DictReader(file), strict=True):
            assert {key: value or "" for key, value in line.items()} == other
    assert {each.name for each in tmp_path.iterdir()} == {"x.csv", "x.jsonl"}


def test_parquet_has_exact_decimals_and_omits_numbers_that_no_column_holds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = row("DUSDT", NOON_MS, "9" * 30), row("DUSDT", NOON_MS + 1, "0.1234567891")
    wide = history("DUSDT", *rows)
    with caplog.at_level(logging.WARNING):
        assert written(tmp_path / "x.parquet", wide, B, A) == 4
    assert "odd rows are left out: DUSDT" in caplog.text
    table: Any = parquet.read_table(tmp_path / "x.parquet")
    found = table.to_pylist()
    assert [each["symbol"] for each in found] == ["AUSDT", "BUSDT", "BUSDT", "DUSDT"]
    assert found[3]["open_interest"] == Decimal("0.1234567891")
    assert found[2]["circulating_supply"] is None
    assert found[0]["time"] == NOON


ENDS: dict[str, Callable[[bytes], bytes]] = {
    "whole": lambda data: data,
    "in the middle of a line": lambda data: data[:-5],
    "just before its end": lambda data: data[:-1],
    "in the first line": lambda data: data[:20],
    "with bytes that no run wrote": lambda data: data + b"\xff\xfe{\n[1]\n",
    "with nothing": lambda data: b"",
}


@pytest.mark.parametrize("end", ENDS)
def test_an_interrupted_run_continues_after_its_complete_symbols(end: str, tmp_path: Path) -> None:
    path, part = tmp_path / "x.csv", tmp_path / f"x.csv{PART}"
    with closing(PastFile(path, ASKED)) as file:
        assert file.since is None
        file.add(B)
        file.add(A)
    part.write_bytes(ENDS[end](part.read_bytes()))
    with closing(PastFile(path, ASKED)) as file:
        have = file.symbols
        assert (file.since, file.until) == ((NOON, NOON) if have else (file.since, file.until))
        for each in (A, B):
            if each.symbol not in have:
                file.add(each)
        assert file.finish() == 3
    assert not part.exists()
    alone = tmp_path / "alone.csv"
    written(alone, A, B)
    assert path.read_bytes() == alone.read_bytes()


def test_a_symbol_that_was_added_twice_is_written_once(tmp_path: Path) -> None:
    assert written(tmp_path / "x.csv", B, B) == 2


def test_a_run_without_rows_leaves_no_file(tmp_path: Path) -> None:
    with closing(PastFile(tmp_path / "x.csv", ASKED)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_run_with_other_arguments_is_refused_unless_it_replaces(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    with closing(PastFile(path, ASKED)) as file:
        file.add(B)
    other = ASKED | {"period": "1h"}
    with pytest.raises(RecordingError, match="belongs to a run with another request"):
        PastFile(path, other)
    with closing(PastFile(path, other, replace=True)) as file:
        assert file.symbols == frozenset()
        file.add(A)
        file.finish()
    with pytest.raises(RecordingError, match="already exists"):
        PastFile(path, ASKED)


def test_a_second_run_on_the_same_file_is_refused(tmp_path: Path) -> None:
    with closing(PastFile(tmp_path / "x.csv", ASKED)) as file:
        file.add(A)
        with pytest.raises(RecordingError, match="written by another process"):
            PastFile(tmp_path / "x.csv", ASKED)


@pytest.mark.parametrize("name", ["x.txt", "x", "no/x.csv"])
def test_an_impossible_target_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecordingError):
        PastFile(tmp_path / name, ASKED)


def test_csv_for_a_spreadsheet_has_no_cell_that_is_a_formula(tmp_path: Path) -> None:
    odd = history("-1+1USDT", row("-1+1USDT", NOON_MS))
    for csv_safe, cell in ((False, "-1+1USDT"), (True, "'-1+1USDT")):
        path = tmp_path / f"{csv_safe}.csv"
        with closing(PastFile(path, ASKED, csv_safe=csv_safe)) as file:
            file.add(odd)
            file.add(A)
            file.finish()
        assert {line.split(",")[0] for line in path.read_text().splitlines()[1:]} == {cell, "AUSDT"}
