"""Tests the commands `archive` and `backfill`.

Rule of this file: the exchange and its archive are local.
"""

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from binance_oi import Archive, ArchiveDay, RecordingError
from binance_oi.cli import main
from binance_oi.output.days import DaysWriter
from binance_oi.recorder import Recording
from binance_oi.simulator import Files, LocalExchange
from support.archive_files import published, served, whole_day
from support.generators import note_ends

HANGS = 600.0  # s after which a process counts as hung
Captured = pytest.CaptureFixture[str]
TODAY = datetime.fromtimestamp(time.time(), UTC).date()
FAULTY = Files(missing_row=0.02, no_value=0.02)


@pytest.fixture(autouse=True)
def clean_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    monkeypatch.setenv("BINANCE_OI_BUDGET_DIR", str(tmp_path / "budget"))


@pytest.fixture
def exchange() -> Iterator[LocalExchange]:
    with LocalExchange(files=FAULTY).in_thread() as running:
        yield running


def last(days: int) -> list[str]:
    """The options for the last days. Their dates stay the same if a day ends during a test."""
    first, end = TODAY - timedelta(days=days), TODAY - timedelta(days=1)
    return [f"--since={first}", f"--until={end}T23:59:59"]


def cells(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


# -- archive -------------------------------------------------------------------------------------


def test_each_symbol_has_a_file_of_rows_and_a_file_of_holes(
    exchange: LocalExchange, tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "out"
    command = ["archive", "btcusdt,ETHUSDT", *last(3), "--to", str(out)]
    command += ["--archive-url", exchange.url]
    assert main(command) == 0
    first = {path.name: path.read_bytes() for path in out.glob("*.csv")}
    names = ["BTCUSDT.csv", "BTCUSDT.holes.csv", "ETHUSDT.csv", "ETHUSDT.holes.csv"]
    assert sorted(first) == names
    said = capsys.readouterr()
    assert said.out == ""
    assert "rows of 6 days, 0 from the cache" in said.err
    header, *rows = cells(out / "BTCUSDT.csv")
    assert header == ["symbol", "time", "open_interest", "notional"]
    times = [row[1] for row in rows]
    assert times == sorted(set(times))
    _, *holes = cells(out / "BTCUSDT.holes.csv")
    missing = sum(
        (datetime.fromisoformat(last) - datetime.fromisoformat(begin)) // timedelta(minutes=5) + 1
        for _, begin, last, *_ in holes
    )
    assert len(rows) + missing == 3 * 288
    assert main(command) == 0
    assert " 0 from the cache" not in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.glob("*.csv")} == first


def test_json_lines_have_the_same_rows_as_csv(exchange: LocalExchange, tmp_path: Path) -> None:
    command = ["archive", "BTCUSDT", *last(1), "--archive-url", exchange.url]
    assert main([*command, "--to", str(tmp_path / "a")]) == 0
    assert main([*command, "--to", str(tmp_path / "b"), "--format", "jsonl"]) == 0
    _, *rows = cells(tmp_path / "a" / "BTCUSDT.csv")
    lines = (tmp_path / "b" / "BTCUSDT.jsonl").read_text("utf-8").splitlines()
    assert [list(json.loads(line).values()) for line in lines] == rows


def test_a_symbol_missing_from_the_archive_is_named_and_the_exit_code_is_4(
    exchange: LocalExchange, tmp_path: Path, capsys: Captured
) -> None:
    command = ["archive", "NOUSDT", *last(2), "--to", str(tmp_path)]
    assert main([*command, "--archive-url", exchange.url]) == 4
    assert "NOUSDT: the archive has no file for that time" in capsys.readouterr().err


def test_days_that_fail_are_named_and_the_others_written(tmp_path: Path, capsys: Captured) -> None:
    day = TODAY - timedelta(days=2)
    files = published("BTCUSDT", day, whole_day("BTCUSDT", day))
    files |= published("BTCUSDT", TODAY - timedelta(days=1), [])
    bad = f"BTCUSDT-metrics-{TODAY - timedelta(days=1)}.zip.CHECKSUM"
    files[next(path for path in files if path.endswith(bad))] = b"0" * 64
    with served(files) as url:
        command = ["archive", "BTCUSDT", *last(2), "--to", str(tmp_path)]
        assert main([*command, "--archive-url", url]) == 6
    assert "1 day failed" in capsys.readouterr().err
    assert len(cells(tmp_path / "BTCUSDT.csv")) == 1 + 288


def test_an_interrupted_command_keeps_its_files_and_the_next_one_continues(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "binance_oi", "archive", "BTCUSDT", *last(60)]
    with LocalExchange().in_thread() as exchange:
        exchange.delay(0.001, 60)  # half of the 60 files: 30 files + 30 checksums = 60 requests
        exchange.delay(HANGS, 1000)  # so that the command does not end
        command += ["--to", str(out), "--archive-url", exchange.url]
        running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while not len([*out.glob("files/BTCUSDT/*.zip")]) > 2:
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=HANGS)
    assert running.returncode == 130
    assert said == "binance-oi: received data is kept; run the same command again to continue\n"
    assert not [*out.glob("*.csv"), *out.glob(".*")]


def test_a_range_that_the_archive_cannot_have_yet_writes_nothing(
    exchange: LocalExchange, tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "out"
    tomorrow = TODAY + timedelta(days=1)  # at least today, even if a day ends before this test
    command = ["archive", "BTCUSDT", f"--since={tomorrow}", "--to", str(out)]
    assert main([*command, "--archive-url", exchange.url]) == 0
    assert "the archive covers 2020-09-01 to yesterday" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "needs a symbol"),
        (["BTCUSDT"], "--to"),
        (["BTC USDT", "--to", "x"], "is not a symbol"),
        (["BTCUSDT", "--to", "x", "--since", "30x"], "an age such as 30d"),
        (["BTCUSDT", "--to", "x", "--since", "2d", "--until", "9d"], "must not be later"),
        (["BTCUSDT", "--to", "x", "--format", "xml"], "--format"),
        (["BTCUSDT", "--to", "x", "--archive-url", "ftp://x"], "base_url"),
        (["BTCUSDT", "--to", "x", "--simulated", "--archive-url", "https://x"], "exclude"),
        (["BTCUSDT", "--to", "x", "--proxy", "socks5://x"], "--proxy must be"),
    ],
)
def test_wrong_usage_is_an_error_in_one_line_with_exit_code_2(
    arguments: list[str],
    said: str,
    capsys: Captured,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["archive", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert not (tmp_path / "x").exists()


def test_an_unwritable_target_is_an_error_with_exit_code_2(
    exchange: LocalExchange, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "file").write_text("")
    command = ["archive", "BTCUSDT", *last(1), "--archive-url", exchange.url]
    assert main([*command, "--to", str(tmp_path / "file")]) == 2
    assert "cannot be" in capsys.readouterr().err


def test_the_downloads_end_before_an_error_of_the_file_is_reported(
    exchange: LocalExchange, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(_: DaysWriter, day: ArchiveDay) -> None:
        raise RecordingError(f"{day.symbol} cannot be written")

    monkeypatch.setattr(DaysWriter, "add", add)
    ended = note_ends(monkeypatch, Archive, "days")
    command = ["archive", "BTCUSDT", *last(3), "--to", str(tmp_path / "out")]
    assert main([*command, "--archive-url", exchange.url]) == 2
    assert capsys.readouterr().err == "binance-oi: BTCUSDT cannot be written\n"
    assert ended == ["days", "aclose"]


# -- backfill ------------------------------------------------------------------------------------


def kept(path: Path, source: str) -> set[str]:
    with Recording(path) as recording:
        return {row.symbol for row in recording.past(source=source)}


def test_a_recording_is_filled_from_the_history_and_on_request_from_the_archive(
    exchange: LocalExchange, tmp_path: Path, capsys: Captured
) -> None:
    path, url = tmp_path / "oi.db", ["--base-url", exchange.url]
    assert main(["backfill", str(path), "BTCUSDT", "ETHUSDT", "--since", "6h", *url]) == 0
    assert "2 symbols; 1" in capsys.readouterr().err
    assert kept(path, "history") == {"BTCUSDT", "ETHUSDT"}
    assert kept(path, "archive") == set()
    url += ["--archive-url", exchange.url]
    assert main(["backfill", str(path), *last(2), "--archive", *url]) == 0
    assert kept(path, "archive") == {"BTCUSDT", "ETHUSDT"}
    assert (tmp_path / "user-cache" / "binance-oi" / "archive" / "ETHUSDT").is_dir()
    assert exchange.used == 0


def test_a_symbol_that_fails_is_named_and_the_exit_code_is_6(
    exchange: LocalExchange, tmp_path: Path, capsys: Captured
) -> None:
    command = ["backfill", str(tmp_path / "oi.db"), "NOUSDT", "BTCUSDT", "--since", "1h"]
    assert main([*command, "--base-url", exchange.url]) == 6
    assert "NOUSDT: the exchange does not list it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "backfill needs RECORDING"),
        (["oi.db", "--testnet", "--archive"], "the testnet has no archive"),
        (["oi.db", "--since", "1h", "--until", "2h", "--simulated"], "must not be later"),
        (["oi.db", "BTC USDT", "--simulated"], "is not a symbol"),
        (["text", "BTCUSDT", "--since", "1h", "--simulated"], "is not a recording"),
    ],
)
def test_wrong_usage_of_backfill_is_an_error_in_one_line_with_exit_code_2(
    arguments: list[str],
    said: str,
    capsys: Captured,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("no recording")
    assert main(["backfill", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert not (tmp_path / "oi.db").exists()


def test_the_recorder_runs_with_the_backfill_option(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "oi.db"
    command = ["record", "BTCUSDT", "--to", str(path), "--every", "1s", "--for", "2s"]
    assert main([*command, "--backfill", "--simulated"]) == 0
    assert "stopped: sweeps " in capsys.readouterr().err
