"""Tests the command `changes`, and the history that `changes` and `watch` cache.

Rule of this file: the exchange is a local one, and its own rows give the expected values.
"""

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from binance_oi import Change, HistoryRow, changes_of
from binance_oi.cli import main
from binance_oi.cli.comparing import FRESH_ROWS, FULL_HISTORY_SYMBOLS, history_span, ranked
from binance_oi.cli.options import Ranking
from binance_oi.cli.render import align
from binance_oi.market.changes import USUAL_MS
from binance_oi.market.history import SETTLED_MS
from binance_oi.market.windows import length_ms
from binance_oi.recorder import Recording
from binance_oi.recorder.history_cache import APPEARS_MS, STEP
from binance_oi.simulator import LocalExchange
from support.recorded import write_recording
from support.terminals import left_on_screen, seen_on_a_terminal

Captured = pytest.CaptureFixture[str]
SYMBOLS = ("BTCUSDT", "ETHUSDT")
HANGS = 600.0  # s, longer than a command takes


@pytest.fixture
def exchange() -> Iterator[LocalExchange]:
    with LocalExchange().in_thread() as exchange:
        yield exchange


def printed(capsys: Captured) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def instants_since(began: float) -> int:
    """The number of rows of a symbol that may have appeared since `began`."""
    first, last = began * 1000 - SETTLED_MS, time.time() * 1000 - APPEARS_MS
    return int(last // STEP) - int(first // STEP)


def truth(exchange: LocalExchange, symbol: str, end: int, window: str, began: float) -> Change:
    """The last change up to `end`, from the rows of the exchange that the command requests.

    If the newest row is old, these rows lack some of the changes to compare with.
    """
    first = round(began * 1000) - USUAL_MS - length_ms("window", window) - 2 * STEP
    rows = exchange.history(symbol, "5m", first, end)
    values = [
        HistoryRow(symbol, row.time, Decimal(row.open_interest), Decimal(row.value)) for row in rows
    ]
    return list(changes_of(values, [window]))[-1]


def ms_of(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@pytest.mark.parametrize("window", ["1h", "24h"])
def test_printed_changes_equal_those_computed_from_the_exchanges_history(
    window: str, exchange: LocalExchange, capsys: Captured
) -> None:
    command = ["changes", *SYMBOLS, "--window", window, "--base-url", exchange.url]
    began = time.time()
    assert main(command) == 0
    rows = printed(capsys)
    assert {row["symbol"] for row in rows} == set(SYMBOLS)
    for row in rows:
        wanted = truth(exchange, row["symbol"], ms_of(row["time"]), window, began)
        assert Decimal(row["absolute"]) == wanted.absolute
        assert Decimal(row["usd"]) == wanted.usd
        assert (row["percent"], row["window"]) == (wanted.percent, window)
        assert wanted.z_score is not None
        assert row["z_score"] == pytest.approx(wanted.z_score, rel=1e-9)
        assert (row["percentile"], row["compared"]) == (wanted.percentile, wanted.compared)
        assert row["per_supply"] is not None


def test_a_second_command_requests_only_newer_history(
    exchange: LocalExchange, capsys: Captured
) -> None:
    command = ["changes", *SYMBOLS, "--base-url", exchange.url]
    began = time.time()
    assert main(command) == 0
    first, asked = printed(capsys), exchange.history_counter.total
    assert asked >= 5 * len(SYMBOLS)
    assert main([*command, "--window", "4h"]) == 0
    again = printed(capsys)
    new = exchange.history_counter.total - asked
    assert new <= len(SYMBOLS) * instants_since(began)
    assert {row["symbol"] for row in again} == set(SYMBOLS)
    assert main(command) == 0
    third = printed(capsys)
    assert {row["symbol"] for row in third} == {row["symbol"] for row in first}
    assert instants_since(began) or third == first


def watched(url: str) -> dict[str, Any]:
    """The first line of `watch` that has a change over the window."""
    command = [sys.executable, "-m", "binance_oi", "watch", "ETHUSDT", "--every", "0.2s"]
    with subprocess.Popen(
        [*command, "--base-url", url], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            return next(
                line for line in map(json.loads, process.stdout) if line["percent"] is not None
            )
        finally:
            process.terminate()


def test_watch_shows_changes_over_the_window_and_reuses_cached_history(
    exchange: LocalExchange,
) -> None:
    began = time.time()
    first = watched(exchange.url)
    asked = exchange.history_counter.total
    assert asked >= 5
    second = watched(exchange.url)
    assert exchange.history_counter.total - asked <= instants_since(began)
    for line in (first, second):
        assert line["window"] == "1h"
        assert line["z_score"] is not None
        now = Decimal(line["open_interest"])
        start = (ms_of(line["time"]) - 3_600_000) // STEP * STEP
        (row,) = exchange.history("ETHUSDT", "5m", start, start)
        before = Decimal(row.open_interest)
        assert line["percent"] == pytest.approx(float((now - before) / before * 100), rel=1e-9)


def test_changes_of_a_recording_send_no_request(tmp_path: Path, capsys: Captured) -> None:
    path = write_recording(tmp_path / "oi.db")
    command = ["changes", "--recording", str(path), "--window", "5m", "--base-url"]
    assert main([*command, "http://127.0.0.1:9", "--sort", "symbol"]) == 0
    out, err = capsys.readouterr()
    assert out == ""  # no sample is 5 minutes older than the newest one
    assert "without a recent change over 5m" in err
    with Recording(path) as recording:
        assert len(list(recording.series())) > 3
    assert main(["changes", "--recording", str(tmp_path / "no.db")]) == 2
    assert "no.db does not exist" in capsys.readouterr().err
    assert main(["changes", "NOUSDT", "--recording", str(path)]) == 2
    assert "has no NOUSDT" in capsys.readouterr().err


def write_samples(path: Path, rows: list[tuple[str, int, str]]) -> None:
    with closing(sqlite3.connect(write_recording(path))) as connection, connection:
        for table in ("settled", "recent"):
            connection.execute(f"DELETE FROM {table}")
        connection.executemany("INSERT INTO settled VALUES (?, ?, ?, 5, NULL)", rows)


def test_changes_of_a_recording_end_at_its_last_sample(tmp_path: Path, capsys: Captured) -> None:
    begin, path = 1_790_000_100_000, tmp_path / "oi.db"
    rows = [("A", begin + n * STEP - 5, str(100 + n)) for n in range(300)]
    rows.append(("A", begin + 300 * STEP - 100_000, "500"))
    rows += [("ODD", 4_000_000_000_000, "1"), ("OLD", begin - 10**9, "1"), ("OLD", begin, "2")]
    write_samples(path, rows)
    assert main(["changes", "--recording", str(path), "--window", "15m"]) == 0
    out, err = capsys.readouterr()
    (row,) = [json.loads(line) for line in out.splitlines()]
    assert (row["symbol"], row["open_interest"], row["absolute"]) == ("A", "500", "104")
    assert ms_of(row["time"]) == begin + 300 * STEP - 100_000
    assert row["z_score"] > 3
    assert "1 of 1 change over 15m until" in err
    write_samples(tmp_path / "empty.db", [])
    assert main(["changes", "--recording", str(tmp_path / "empty.db")]) == 0
    assert "0 of 0 changes over 1h" in capsys.readouterr().err


def test_an_interrupted_command_prints_nothing_and_keeps_what_it_has_read(
    tmp_path: Path, capsys: Captured
) -> None:
    symbols = ["BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "DOGEUSDT"]
    with LocalExchange().in_thread() as exchange:
        exchange.delay(HANGS, 1000, symbol=symbols[-1])  # so that the command does not end
        url = ["--base-url", exchange.url]
        command = [sys.executable, "-m", "binance_oi", "changes", *symbols, *url]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            while not list(tmp_path.rglob("*.json.z")):
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            assert (process.stdout.read(), process.wait()) == (b"", 130)
        exchange.reset()
        began, asked = time.time(), exchange.history_counter.total
        whole = len(list(tmp_path.rglob("*.json.z")))
        assert main(["changes", *symbols, *url]) == 0
        more = exchange.history_counter.total - asked
        assert more <= 6 * (len(symbols) - whole) + len(symbols) * (1 + instants_since(began))
        found = printed(capsys)
        newest = max(ms_of(line["time"]) for line in found)
        fresh = newest - FRESH_ROWS * STEP  # an hour after a hole in its history, a symbol has none
        changes = [truth(exchange, symbol, newest, "1h", began) for symbol in symbols]
        recent = {change.symbol for change in changes if change.time >= fresh}
        assert {line["symbol"] for line in found} == recent


def test_an_unwritable_cache_directory_causes_one_warning_and_no_error(
    exchange: LocalExchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    (tmp_path / "cache").write_text("no directory")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for _ in range(2):
        assert main(["changes", *SYMBOLS, "--base-url", exchange.url]) == 0
        out, err = capsys.readouterr()
        assert len(out.splitlines()) == len(SYMBOLS)
        assert err.count("history is not cached in") == 1


def test_a_symbol_that_fails_is_named_and_the_others_are_shown(
    exchange: LocalExchange, capsys: Captured
) -> None:
    url = ["--base-url", exchange.url]
    assert main(["changes", "NOUSDT", "ETHUSDT", *url]) == 6
    out, err = capsys.readouterr()
    assert [json.loads(line)["symbol"] for line in out.splitlines()] == ["ETHUSDT"]
    assert "NOUSDT: the exchange does not list it" in err
    assert main(["changes", "NOUSDT", *url]) == 4


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--window", "7m"], "a window is 5m or a multiple of it"),
        (["--window", "0h"], "a window is 5m or a multiple of it"),
        (["--window", "1w"], "a window is 5m or a multiple of it"),
        (["--window", "30d", "--simulated"], "the exchange keeps 30 days"),
        (["--top", "0"], "Must be > 0"),
        (["--sort", "size"], "--sort. Choose from"),
        (["BTC USDT", "--simulated"], "is not a symbol"),
    ],
)
def test_wrong_usage_is_an_error_in_one_line_with_exit_code_2(
    arguments: list[str], said: str, capsys: Captured
) -> None:
    assert main(["changes", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def a_change(symbol: str, percent: float | None, usd: str | None, z: float | None) -> Change:
    dollars = None if usd is None else Decimal(usd)
    return Change(symbol, "1h", 0, Decimal(1), Decimal(1), percent, dollars, None, z, None, 0)


@pytest.mark.parametrize(
    "order, wanted",
    [("percent", "BADC"), ("usd", "ACBD"), ("z", "DBAC"), ("symbol", "ABCD")],
)
def test_changes_are_sorted_by_size_in_either_direction_and_unknown_ones_last(
    order: Ranking, wanted: str
) -> None:
    changes = [
        a_change("D", 0.5, None, 3.0),
        a_change("C", None, "7", None),
        a_change("B", -9.0, "-1", -2.0),
        a_change("A", 2.0, "-8", 0.0),
    ]
    assert "".join(change.symbol for change in ranked(changes, order)) == wanted


def test_a_few_symbols_are_read_for_7_days_and_a_market_as_far_as_one_request_reaches() -> None:
    assert history_span(FULL_HISTORY_SYMBOLS, "1h") == timedelta(days=8, minutes=10)
    for window in ("5m", "1h", "24h"):
        assert history_span(FULL_HISTORY_SYMBOLS + 1, window) == timedelta(minutes=5 * 499)
    assert history_span(789, "48h") > timedelta(hours=48 + 200 / 12)
    assert history_span(1, "29d") < timedelta(days=30)
    with pytest.raises(ValueError, match="no change over 30d"):
        history_span(1, "30d")


def test_on_a_terminal_changes_are_a_table_with_signed_numbers(exchange: LocalExchange) -> None:
    code, seen = seen_on_a_terminal("changes", *SYMBOLS, "--base-url", exchange.url)
    assert code == 0
    lines = left_on_screen(seen)
    assert any(line.split()[:3] == ["symbol", "change", "percent"] for line in lines)
    rows = [line.split() for line in lines if line.split()[:1] in (["BTCUSDT"], ["ETHUSDT"])]
    assert len(rows) == 2
    assert all(row[1][0] in "+-" and row[2][0] in "+-" for row in rows)
    assert max(map(len, lines)) <= 80


def test_aligned_numbers_keep_their_sign() -> None:
    numbers = ["-0.5", "+1234.25", "-1234567", "", "7"]
    assert align(numbers) == ["-0.5 ", "+1,234.25", "-1,234,567   ", "   ", "7   "]
