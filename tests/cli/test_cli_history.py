"""Tests the command `history`.

Rule of this file: the exchange is a local one. A command that a test kills is a real process.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from binance_oi import History, OpenInterestClient, RecordingError
from binance_oi.cli import main
from binance_oi.output.past import PART, PastFile
from binance_oi.simulator import LocalExchange
from binance_oi.times import unix_ms
from support.generators import note_ends
from support.lanes import some

Captured = pytest.CaptureFixture[str]
HANGS = 600.0  # s after which a process counts as hung


def test_rows_are_printed_in_the_order_of_the_arguments(capsys: Captured) -> None:
    assert main(["history", "ethusdt", "BTCUSDT", "--since", "1h", "--simulated"]) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["symbol"] for row in rows] == sorted((r["symbol"] for r in rows), reverse=True)
    columns = ["symbol", "time", "open_interest", "notional", "circulating_supply"]
    assert list(rows[0]) == columns
    assert re.search(r"\d+ rows; \d+ stretches without rows; 0 symbols failed", err)


def test_csv_of_daily_rows_has_a_header_and_one_line_for_each_day(capsys: Captured) -> None:
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
    assert "NOUSDT: the exchange does not list it" in err
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
        (["BTCUSDT", "--to", "x.txt", "--simulated"], "a file's name must end in"),
    ],
)
def test_wrong_usage_is_an_error_in_one_line_with_exit_code_2(
    arguments: list[str], said: str, capsys: Captured
) -> None:
    assert main(["history", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_a_file_is_replaced_only_on_request(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "x.jsonl"
    command = ["history", "BTCUSDT", "NOUSDT", "--since", "1h", "--to", str(path), "--simulated"]
    assert main(command) == 6
    assert len(path.read_text().splitlines()) >= 11
    assert main(command) == 2
    said = f"binance-oi: {path} already exists; --replace replaces it\n"
    assert capsys.readouterr().err.endswith(said)
    assert main([*command, "--replace"]) == 6
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["x.jsonl"]


def test_the_reading_ends_before_an_error_of_the_file_is_reported(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(_: PastFile, found: History) -> None:
        raise RecordingError(f"{found.symbol} cannot be written")

    monkeypatch.setattr(PastFile, "add", add)
    ended = note_ends(monkeypatch, OpenInterestClient, "histories")
    command = ["history", "BTCUSDT", "--since", "1h", "--to", str(tmp_path / "x.csv")]
    assert main([*command, "--simulated"]) == 2
    assert capsys.readouterr().err == "binance-oi: BTCUSDT cannot be written\n"
    assert ended == ["histories", "aclose"]


NAMES = ("BTCUSDT", "1000SHIBUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT")
REQUESTS = 2 * len(NAMES)  # of a complete run: two pages for each symbol
KILLS = int(os.environ.get("BINANCE_OI_KILLS", "4"))


class Run:
    """A command that reads three days of some symbols into a file, and may need several runs.

    Args:
        exchange: A local exchange.
        path: The file.
    """

    def __init__(self, exchange: LocalExchange, path: Path) -> None:
        # The bounds are fixed moments: ages would ask for other rows in the second run.
        bounds = time.time() - 3 * 86_400, time.time() - 600
        self.first, self.last = (
            f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%MZ}" for at in bounds
        )
        self.exchange, self.path = exchange, path
        asked = ["--base-url", exchange.url, "--since", self.first, "--until", self.last]
        command = [sys.executable, "-m", "binance_oi", "history", *NAMES, *asked]
        self._command = [*command, "--period", "5m", "--to", str(path)]

    def killed(self, instant: random.Random) -> bool:
        """Start the command and kill it; return whether it was still running.

        The kill comes at a random moment after a random request. After the last request, it comes
        within about 20 ms, while the command may be writing the file.
        """
        wanted = instant.randrange(REQUESTS + 1)
        process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)
        while True:
            # Poll first, then count: a command that has ended has sent all its requests.
            has_ended = process.poll() is not None
            if self.exchange.history_counter.total >= wanted:
                break
            assert not has_ended
            time.sleep(0.001)
        time.sleep(instant.random() * (0.02 if wanted == REQUESTS else 0.3))
        process.kill()
        return process.wait() == -signal.SIGKILL

    def finished(self) -> str:
        """Let the command run to its end; return its stderr."""
        return subprocess.run(
            self._command, capture_output=True, text=True, timeout=HANGS, check=True
        ).stderr

    def check(self) -> None:
        """Compare the file with the rows of the exchange."""
        rows = [line.split(",") for line in self.path.read_text().splitlines()[1:]]
        assert [row[0] for row in rows] == sorted(row[0] for row in rows)
        for name in NAMES:
            truth = self.exchange.history(name, "5m", _ms(self.first), _ms(self.last))
            assert [(_ms(row[1]), *map(Decimal, row[2:4])) for row in rows if row[0] == name] == [
                (row.time, Decimal(row.open_interest), Decimal(row.value)) for row in truth
            ]


@pytest.mark.parametrize("kill", some(range(KILLS), always=1))
def test_a_command_killed_at_any_instant_continues_to_the_same_rows(
    kill: int, tmp_path: Path
) -> None:
    path, part = tmp_path / "x.csv", tmp_path / f"x.csv{PART}"
    with LocalExchange(latency=0.05).in_thread() as exchange:
        run = Run(exchange, path)
        is_killed = run.killed(random.Random(kill))
        print(f"kill {kill}: after {exchange.history_counter.total} requests, in time: {is_killed}")
        lines = part.read_bytes().count(b"\n") if part.exists() else 0
        before = exchange.history_counter.total
        if not path.exists():
            assert ("continuing after" in run.finished()) is (lines > 0)
            # At the kill, one request of each symbol may still have been on the wire.
            left = REQUESTS - 2 * max(0, lines - 1) + len(NAMES)
            assert exchange.history_counter.total - before <= left
        assert exchange.answers[429] == 0
        run.check()
    assert not part.exists()


def _ms(text: str) -> int:
    return unix_ms(datetime.fromisoformat(text))
