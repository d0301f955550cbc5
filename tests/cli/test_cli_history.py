"""The command that reads the past.

Rule of this file: the exchange is a local one; a command that is killed is a real process.
"""

import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from binance_oi.cli import main
from binance_oi.output.past import PART
from binance_oi.simulator import LocalExchange
from binance_oi.times import unix_ms

Captured = pytest.CaptureFixture[str]
HANGS = 600.0  # s after which a process hangs


def test_rows_are_shown_in_the_order_asked_for(capsys: Captured) -> None:
    assert main(["history", "ethusdt", "BTCUSDT", "--since", "1h", "--simulated"]) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["symbol"] for row in rows] == sorted((r["symbol"] for r in rows), reverse=True)
    columns = ["symbol", "time", "open_interest", "notional", "circulating_supply"]
    assert list(rows[0]) == columns
    assert re.search(r"\d+ rows; \d+ stretches without rows; 0 symbols failed", err)


def test_csv_and_other_periods(capsys: Captured) -> None:
    since = time.strftime("%Y-%m-%dT00:00Z", time.gmtime(time.time() - 5 * 86_400))
    arguments = ["--since", since, "--until", "1h", "--period", "1d", "--csv"]
    assert main(["history", "BTCUSDT", *arguments, "--simulated"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header == "symbol,time,open_interest,notional,circulating_supply"
    assert 4 <= len(lines) <= 6


def test_a_symbol_that_fails_is_named_and_the_others_are_shown(capsys: Captured) -> None:
    assert main(["history", "NOUSDT", "BTCUSDT", "--since", "1h", "--simulated"]) == 6
    out, err = capsys.readouterr()
    assert len(out.splitlines()) >= 11
    assert "NOUSDT: 400 (code -1121)" in err
    assert main(["history", "NOUSDT", "--since", "1h", "--simulated"]) == 4
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "needs a file"),
        (["BTCUSDT", "--since", "30x"], "an age such as 30d"),
        (["BTCUSDT", "--since", "9999999999d"], "an age such as 30d"),
        (["BTCUSDT", "--period", "7m"], "--period. Choose from"),
        (["BTCUSDT", "--since", "1h", "--until", "2h", "--simulated"], "must not be later"),
        (["BTC USDT", "--simulated"], "is not a symbol"),
        (["BTCUSDT", "--to", "x.txt", "--simulated"], "a file's name ends in"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    arguments: list[str], said: str, capsys: Captured
) -> None:
    assert main(["history", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_a_file_is_written_when_all_of_it_is_there(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "x.jsonl"
    command = ["history", "BTCUSDT", "NOUSDT", "--since", "1h", "--to", str(path), "--simulated"]
    assert main(command) == 6
    assert len(path.read_text().splitlines()) >= 11
    assert main(command) == 2
    assert "is there already" in capsys.readouterr().err
    assert main([*command, "--replace"]) == 6
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["x.jsonl"]


NAMES = ("BTCUSDT", "ETHUSDT", "1000SHIBUSDT", "SOLUSDT", "XRPUSDT", "DOGEUSDT")


def test_a_command_that_is_killed_goes_on_to_the_same_file(tmp_path: Path) -> None:
    path, part = tmp_path / "x.csv", tmp_path / f"x.csv{PART}"
    bounds = time.time() - 3 * 86_400, time.time() - 600
    with LocalExchange(latency=0.05).in_thread() as exchange:
        # Moments, not ages: the second run may begin after the next row.
        first, last = (f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%MZ}" for at in bounds)
        asked = ["--base-url", exchange.url, "--since", first, "--until", last, "--period", "5m"]
        command = [sys.executable, "-m", "binance_oi", "history", *NAMES, *asked]
        killed = subprocess.Popen([*command, "--to", str(path)], stderr=subprocess.DEVNULL)
        while not (part.exists() and part.read_bytes().count(b"\n") >= 2):
            assert killed.poll() is None
            time.sleep(0.01)
        killed.kill()
        killed.wait()
        assert not path.exists()
        before = exchange.history_counter.total
        again = subprocess.run(
            [*command, "--to", str(path)], capture_output=True, text=True, timeout=HANGS, check=True
        )
        assert "going on after" in again.stderr
        assert exchange.history_counter.total - before < 2 * len(NAMES)
        assert exchange.answers[429] == 0
        rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
        for name in NAMES:
            times = [row[1] for row in rows if row[0] == name]
            truth = exchange.history(name, "5m", _ms(first), _ms(last))
            assert [_ms(each) for each in times] == [row.time for row in truth]
    assert not part.exists()


def _ms(text: str) -> int:
    return unix_ms(datetime.fromisoformat(text))
