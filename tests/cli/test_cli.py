"""Tests the command line: rendering as pure functions, and commands over real sockets.

No test waits for a fixed time. A test polls until a process has reached a state.
"""

import asyncio
import csv
import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console

from binance_oi import __main__, __version__
from binance_oi.budget import MachineBudget, ProcessBudget
from binance_oi.budget.place import VARIABLE
from binance_oi.budget.pool_file import FILE_NAME
from binance_oi.budget.usage import Receipt, Usage
from binance_oi.cli import main
from binance_oi.cli.endings import exit_code, explain, snapshot_code
from binance_oi.cli.render import (
    Sheet,
    align,
    counted,
    csv_text,
    json_lines,
    pools_sheet,
    stretches,
    summary,
    symbols_sheet,
    table,
    values_sheet,
)
from binance_oi.errors import (
    BannedError,
    BinanceOIError,
    BudgetExhaustedError,
    ClientClosedError,
    DecodeError,
    ForbiddenError,
    InvalidSymbolError,
    RateLimitedError,
    ServerError,
    TransportError,
    TransportTimeoutError,
    UnknownSymbolError,
)
from binance_oi.exchange.hosts import pool_key
from binance_oi.exchange.models import OpenInterest, SymbolInfo
from binance_oi.market.snapshot import Snapshot
from binance_oi.simulator import LocalExchange
from support.lanes import some, thorough
from support.ports import closed_port
from support.raw_exchange import RawExchange, answer

DEADLINE = 600.0  # s after which a process counts as hung
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
NOON_MS = int(NOON.timestamp()) * 1000
UNKNOWN = UnknownSymbolError(400, -1121, "Invalid symbol.")
PATIENT = ("--timeout", "600")  # so that no request times out on a busy machine
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
PROGRAM = [sys.executable, "-m", "binance_oi"]


@pytest.fixture
def exchange() -> Iterator[LocalExchange]:
    young = 10.0 - time.time() % 60.0  # at the start, the exchange's minute is 10 s old
    with LocalExchange(clock_offset=young).in_thread() as running:
        yield running


@pytest.fixture(autouse=True)
def quiet_afterwards() -> Iterator[None]:
    """Remove the log handler of `main`, so that other tests do not print warnings."""
    logger = logging.getLogger("binance_oi")
    before = list(logger.handlers)
    yield
    logger.handlers[:] = before


def run(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=DEADLINE,
        env={**os.environ, **(env or {})},
    )


def until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    while not condition():
        assert process.poll() is None
        time.sleep(0.01)


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen([*PROGRAM, *arguments], stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def on_a_terminal(*arguments: str, **env: str) -> tuple[int, str]:
    """Run the program with all streams on one pseudo-terminal; return exit code and output."""
    if not hasattr(os, "openpty"):
        pytest.skip("no pseudo-terminals on this system")
    ours, theirs = os.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    environment |= {"TERM": "xterm", "COLUMNS": "100", "LINES": "40", **env}
    command = [*PROGRAM, *arguments]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        seen = b"".join(iter(lambda: _read(ours), b""))
    os.close(ours)
    return process.returncode, seen.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux raises it when the last process has closed the terminal
        return b""


def without_waits(stderr: str) -> list[str]:
    """The lines except those about waits, which a slow machine adds."""
    return [line for line in stderr.splitlines() if ": waiting" not in line]


def a_snapshot(*values: OpenInterest, **errors: BinanceOIError) -> Snapshot:
    return Snapshot(
        values_by_symbol={value.symbol: value for value in values},
        errors=errors,
        started=NOON,
        finished=NOON + timedelta(seconds=1.234),
        weight=len(values) + len(errors) + 1,
    )


def a_value(symbol: str = "BTCUSDT", number: str = "1.0", ms: int = 0) -> OpenInterest:
    return OpenInterest(symbol, Decimal(number), NOON_MS + ms)


def drawn(sheet: Sheet) -> str:
    text = io.StringIO()
    screen = Console(file=text, width=120)
    screen.print(table(sheet, screen))
    return text.getvalue()


def a_usage(held_until: datetime | None = None) -> Usage:
    """The usage of a budget of 2,400 of which 7 are used."""
    usage = ProcessBudget().pool("test").usage
    return replace(usage, used=7, resets_at=NOON, held_until=held_until)


# -- rendering -------------------------------------------------------------------------------


def test_numbers_keep_every_digit_and_have_no_exponent() -> None:
    numbers = ["0.00000001", "96012.544", "1.10", "123456789012345678901234567890"]
    sheet = values_sheet(a_value(number=number) for number in numbers)
    assert [row[1] for row in sheet.rows] == numbers


def test_times_are_iso_8601_in_utc() -> None:
    assert values_sheet([a_value(ms=7)]).rows[0][2] == "2026-11-23T12:00:00.007Z"


def test_json_lines_are_one_object_for_each_row() -> None:
    lines = json_lines(values_sheet([a_value("币安人生USDT", "1.50"), a_value()])).splitlines()
    assert "币安人生USDT" in lines[0]
    assert json.loads(lines[0]) == {
        "symbol": "币安人生USDT",
        "open_interest": "1.50",
        "time": "2026-11-23T12:00:00.000Z",
    }
    assert len(lines) == 2


def test_json_has_no_control_characters_and_parses_to_the_same_value() -> None:
    text = "\x1b[2J\x7f\x9b31m\u202e\u2028\U000e0001 é"
    lines = json_lines(Sheet(("x",), [(text,)]))
    assert lines.rstrip("\n").isprintable()
    assert json.loads(lines) == {"x": text}


def test_csv_has_a_header_and_empty_cells_for_missing_values() -> None:
    text = csv_text(Sheet(("a", "b_c"), [("x,y", None), ('"', 3)]))
    assert list(csv.reader(io.StringIO(text))) == [["a", "b_c"], ["x,y", ""], ['"', "3"]]
    assert "\r" not in text


FORMULAS = (
    *("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"),
    *("＝1", "＋1", "－1", "＠x", "'=1"),
)


def test_safe_csv_has_no_cell_that_a_spreadsheet_runs() -> None:
    sheet = Sheet(("a", "b"), [*((cell, f"x{cell}") for cell in FORMULAS), (-5, None)])
    header, *rows = csv.reader(io.StringIO(csv_text(sheet, safe=True)))
    assert header == ["a", "b"]
    for first, second in rows:
        assert not first.startswith(tuple("=+-@\t\r\n＝＋－＠"))
        assert second.startswith("x") or not second
    assert rows[0] == ["'=1+1", "x=1+1"]
    assert rows[-1] == ["'-5", ""]


def test_csv_is_unchanged_without_csv_safe() -> None:
    rows = list(csv.reader(io.StringIO(csv_text(Sheet(("a",), [("=1+1",), ("@x",)])))))
    assert rows == [["a"], ["=1+1"], ["@x"]]


@pytest.mark.parametrize("flags", [["--csv-safe"], ["--csv", "--csv-safe"]])
async def test_csv_safe_works_with_and_without_the_csv_option(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"symbol": "=1+1", "status": "TRADING", "baseAsset": "@x", "quoteAsset": "USDT"}
    listing = answer(200, json.dumps({"symbols": [row]}))
    async with RawExchange(lambda n: listing) as exchange:
        arguments = ["symbols", *flags, "--base-url", exchange.url, *PATIENT]
        assert await asyncio.to_thread(main, arguments) == 0
    header, listed = csv.reader(io.StringIO(capsys.readouterr().out))
    assert header == ["symbol", "status", "contract_type", "base_asset", "quote_asset"]
    assert listed == ["'=1+1", "TRADING", "", "'@x", "USDT"]


def test_csv_without_rows_has_only_the_header() -> None:
    assert csv_text(values_sheet([])) == "symbol,open_interest,time\n"


def test_decimal_points_are_aligned() -> None:
    assert align(["1234567.5", "1", "0.00000001"]) == [
        "1,234,567.5       ",
        "1         ",
        "0.00000001",
    ]
    assert align([]) == []


def test_server_text_is_shown_without_markup_or_control_characters() -> None:
    info = SymbolInfo("BTCUSDT", "TRADING", contract_type="[red]x[/red]\x1b[31m:smile:")
    assert "[red]x[/red]\\x1b[31m:smile:" in drawn(symbols_sheet([info]))


def test_a_table_has_one_line_for_each_row() -> None:
    lines = drawn(values_sheet([a_value(number="1234.5"), a_value("ETHUSDT", "7")])).split("\n")
    assert [line.split() for line in lines if "USDT" in line] == [
        ["BTCUSDT", "1,234.5", "2026-11-23T12:00:00.000Z"],
        ["ETHUSDT", "7", "2026-11-23T12:00:00.000Z"],
    ]


def test_a_narrow_table_folds_and_hides_no_digit() -> None:
    text = io.StringIO()
    sheet = Sheet(("n",), [("123456789.123456789",)], frozenset({"n"}))
    screen = Console(file=text, width=12)
    screen.print(table(sheet, screen))
    assert "123,456,789.123456789" in re.sub(r"\s", "", text.getvalue())


def test_a_sheet_with_many_columns_is_drawn_as_blocks() -> None:
    text = drawn(pools_sheet({"one": a_usage(), "two": a_usage(held_until=NOON)}))
    rows = dict(line.rsplit(maxsplit=1) for line in text.splitlines() if line.strip())
    assert {name.strip(): value for name, value in rows.items()} | {"budget": "two"} == {
        "budget": "two",
        "limit": "2400",
        "used": "7",
        "remaining": "2376",
        "ours": "0",
        "others": "0",
        "in flight": "0",
        "reserve": "24",
        "resets at": "2026-11-23T12:00:00Z",
        "held until": "2026-11-23T12:00:00Z",
        "banned until": "-",
    }


def test_the_summary_has_the_number_of_symbols_and_the_weight() -> None:
    values = [a_value("A"), a_value("B", ms=1500)]
    assert summary(a_snapshot(*values), a_usage()) == (
        "2 values in 1.23 s, 1.50 s apart; weight 3, used 7/2400"
    )
    assert summary(a_snapshot(*values, C=UNKNOWN), a_usage()) == (
        "2 of 3 in 1.23 s, 1.50 s apart; weight 4, used 7/2400"
    )
    assert summary(a_snapshot(values[0]), a_usage()) == ("1 value in 1.23 s; weight 2, used 7/2400")


@pytest.mark.parametrize("failed", [0, 1, 4999])
@pytest.mark.parametrize("seconds", [0.004, 12.345, 99.95, 9876.5])
def test_the_summary_always_fits_80_columns(failed: int, seconds: float) -> None:
    names = [f"S{i}USDT" for i in range(9999)]
    values = [a_value(name, ms=i) for i, name in enumerate(names[failed:])]
    values[-1] = replace_time(values[-1], round(seconds * 1000))
    taken = a_snapshot(*values, **dict.fromkeys(names[:failed], UNKNOWN))
    taken = replace(taken, finished=NOON + timedelta(seconds=seconds))
    usage = replace(a_usage(), used=9999, limit=9999)
    assert len(f"binance-oi: {summary(taken, usage)}") <= 80


def replace_time(value: OpenInterest, ms: int) -> OpenInterest:
    return OpenInterest(value.symbol, value.open_interest, NOON_MS + ms)


def test_an_error_is_shown_in_one_bounded_line() -> None:
    line = explain(ServerError(500, None, "<html>\n\x1b[2J" + "x" * 10_000))
    assert line.isprintable()
    assert len(line) < 600


@pytest.mark.parametrize(
    "error",
    [
        BannedError(418, -1003, "banned", NOON),
        RateLimitedError(429, -1003, "too many", NOON),
        BudgetExhaustedError("no room", NOON),
    ],
)
def test_an_error_line_says_when_to_retry(error: BinanceOIError) -> None:
    assert "[until 2026-11-23T12:00:00" in explain(error)


@pytest.mark.parametrize(
    "error, code",
    [
        (InvalidSymbolError("-", "it is odd"), 2),
        (RateLimitedError(429, None, "", NOON), 3),
        (BannedError(418, None, "", NOON), 3),
        (BudgetExhaustedError("no room", None), 3),
        (UNKNOWN, 4),
        (ForbiddenError(403, None, ""), 4),
        (ServerError(503, None, ""), 4),
        (DecodeError("odd"), 4),
        (TransportError("refused"), 5),
        (TransportTimeoutError("late"), 5),
        (ClientClosedError(), 1),
    ],
)
def test_every_error_has_its_exit_code(error: BinanceOIError, code: int) -> None:
    assert exit_code(error) == code


def test_a_snapshot_says_whether_some_or_all_failed_and_why() -> None:
    network = TransportError("refused")
    assert snapshot_code(a_snapshot()) == 0
    assert snapshot_code(a_snapshot(a_value())) == 0
    assert snapshot_code(a_snapshot(a_value(), A=UNKNOWN)) == 6
    assert snapshot_code(a_snapshot(A=UNKNOWN, B=UNKNOWN)) == 4
    assert snapshot_code(a_snapshot(A=network)) == 5
    assert snapshot_code(a_snapshot(A=network, B=UNKNOWN)) == 6


# -- commands, in this process ---------------------------------------------------------------

Captured = pytest.CaptureFixture[str]


def test_values_are_printed_even_if_another_symbol_fails(
    exchange: LocalExchange, capsys: Captured
) -> None:
    symbols = ("btcusdt", "NOSUCHUSDT", "币安人生USDT")
    assert main(["get", *symbols, "--csv", "--base-url", exchange.url, *PATIENT]) == 6
    out, err = capsys.readouterr()
    header, *rows = csv.reader(io.StringIO(out))
    assert header == ["symbol", "open_interest", "time"]
    assert [row[0] for row in rows] == ["BTCUSDT", "币安人生USDT"]
    error, summary_line = err.splitlines()
    assert error == "binance-oi: NOSUCHUSDT: the exchange does not list it"
    assert summary_line.startswith("binance-oi: 2 of 3 in ")
    assert summary_line.endswith(" s apart; weight 3, used 3/2400")


@pytest.mark.parametrize(
    "command",
    [
        "get",
        "record --to {file}",
        "history --since 1h",
        *thorough("snapshot", "watch", "changes", "backfill --since 1h {file}"),
    ],
)
def test_an_unlisted_symbol_is_the_same_error_in_every_command(
    exchange: LocalExchange, capsys: Captured, tmp_path: Path, command: str
) -> None:
    arguments = command.format(file=tmp_path / "oi.db").split()
    assert main([*arguments, "NOSUCHUSDT", "--base-url", exchange.url, *PATIENT]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == "binance-oi: NOSUCHUSDT: the exchange does not list it"


@pytest.mark.parametrize(
    "number, text",
    [(0, "0 symbols"), (1, "1 symbol"), (2, "2 symbols"), (1200, "1,200 symbols")],
)
def test_a_count_of_one_is_singular(number: int, text: str) -> None:
    assert counted(number, "symbol") == text
    assert stretches(1) == "1 stretch without rows"


def test_options_may_stand_between_symbols(exchange: LocalExchange, capsys: Captured) -> None:
    assert main(["get", "BTCUSDT", "--base-url", exchange.url, "ETHUSDT", *PATIENT]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_nothing_is_printed_on_stdout_when_every_symbol_fails(
    exchange: LocalExchange, capsys: Captured
) -> None:
    assert main(["get", "NOSUCHUSDT", "--csv", "--base-url", exchange.url, *PATIENT]) == 4
    assert capsys.readouterr().out == ""


def test_the_symbols_command_lists_the_trading_symbols(
    exchange: LocalExchange, capsys: Captured
) -> None:
    exchange.set_status("ETHUSDT", "SETTLING")
    assert main(["symbols", "--base-url", exchange.url, *PATIENT]) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert err == "binance-oi: 788 symbols trading; used 1/2400\n"
    assert {row["status"] for row in rows} == {"TRADING"}
    assert rows[0]["symbol"] == "BTCUSDT"
    assert "ETHUSDT" not in {row["symbol"] for row in rows}
    assert len(rows) == 788


def test_the_simulated_exchange_ends_with_the_command_and_leaves_no_budget(
    tmp_path: Path, capsys: Captured
) -> None:
    assert main(["snapshot", "BTCUSDT", "--simulated", *PATIENT]) == 0
    assert json.loads(capsys.readouterr().out)["symbol"] == "BTCUSDT"
    assert main(["budget"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("binance-oi: no budget has been used on this machine yet")
    assert err.endswith(f" {tmp_path / 'binance-oi' / FILE_NAME}\n")


def test_the_budget_command_names_its_file_and_sends_nothing(
    exchange: LocalExchange, tmp_path: Path, capsys: Captured
) -> None:
    receipt = MachineBudget().pool(pool_key(exchange.url)).charge(5)
    assert isinstance(receipt, Receipt)
    assert main(["budget"]) == 0
    out, err = capsys.readouterr()
    assert err == f"binance-oi: the budgets are in {tmp_path / 'binance-oi' / FILE_NAME}\n"
    (line,) = out.splitlines()
    shown = json.loads(line)
    assert (shown["budget"], shown["used"], shown["limit"]) == (pool_key(exchange.url), 5, 2400)
    assert (shown["in_flight"], shown["held_until"]) == (5, None)
    assert not exchange.answers


def test_an_unusable_budget_directory_is_an_error_in_one_line_with_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv(VARIABLE, "not/absolute")
    assert main(["budget"]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert VARIABLE in err


def test_warnings_of_the_library_are_shown_once(capsys: Captured) -> None:
    assert main(["budget"]) == 0
    assert main(["budget"]) == 0
    capsys.readouterr()
    logging.getLogger("binance_oi").warning("nothing is sent before %s", "noon")
    assert capsys.readouterr().err == "binance-oi: nothing is sent before noon\n"


@pytest.mark.parametrize(
    "arguments",
    [
        "get",
        "get bad-symbol",
        "get BTCUSDT --json --csv",
        "get BTCUSDT --json --csv-safe",
        "get BTCUSDT --simulated --testnet",
        "get BTCUSDT --base-url http://192.0.2.1",
        "get BTCUSDT --base-url https://me:secret@example.com",
        "get BTCUSDT --timeout 0",
        "get BTCUSDT --timeout nan",
        "snapshot --max-wait -1",
        "simulate --port 65536",
        "simulate --limit 0",
        "nonsense",
        "get BTCUSDT --nonsense",
    ],
)
def test_wrong_usage_is_an_error_in_one_line_with_exit_code_2(
    arguments: str, capsys: Captured
) -> None:
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("binance-oi: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        "--base-url https://me:secret@example.com",
        "--base-url https://me:sec@secret@example.com/",
        "--base-url me:secret@example.com",
        "--base-ul https://me:secret@example.com",
        "--base-ul=https://me:secret@example.com",
    ],
)
def test_an_error_hides_the_password_in_a_url(arguments: str, capsys: Captured) -> None:
    assert main(["get", "BTCUSDT", *arguments.split()]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "secret" not in err


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_commands_and_exit_codes(flag: str, capsys: Captured) -> None:
    assert main([flag]) == 0
    out = capsys.readouterr().out
    for word in (
        "get",
        "snapshot",
        "symbols",
        "simulate",
        "budget",
        "130 interrupted",
        "129 hung up",
    ):
        assert word in out


def test_version_prints_the_version(capsys: Captured) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"binance-oi {__version__}\n"


def test_an_unexpected_error_is_raised_with_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> dict[str, Usage]:
        raise KeyError("a defect")

    monkeypatch.setattr("binance_oi.cli.budgets.machine_pools", broken)
    with pytest.raises(KeyError, match="a defect"):
        main(["budget"])


def test_only_a_missing_extra_is_reported_as_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "binance_oi.cli", None)
    with pytest.raises(ModuleNotFoundError, match=r"binance_oi\.cli"):
        __main__.main()


# -- commands, as processes ------------------------------------------------------------------


def test_a_pipe_gets_json_lines_of_the_whole_market() -> None:
    done = run("snapshot", "--simulated", *PATIENT)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert len({row["symbol"] for row in rows}) == len(rows) == 789
    assert all(re.fullmatch(r"\d+(\.\d+)?", row["open_interest"]) for row in rows)
    assert all(re.fullmatch(r"[\d-]{10}T[\d:.]{12}Z", row["time"]) for row in rows)
    assert re.fullmatch(
        r"binance-oi: 789 values in \d+(\.\d+)? s, \d+(\.\d+)? s apart; "
        r"weight 790, used \d+/2400\n",
        done.stderr,
    )


@pytest.mark.thorough
def test_symbols_in_any_script_are_printed_in_any_locale() -> None:
    done = run("get", "币安人生USDT", "--simulated", *PATIENT, env={"PYTHONIOENCODING": "ascii"})
    assert json.loads(done.stdout)["symbol"] == "币安人生USDT"
    assert done.returncode == 0


def test_a_pipe_reader_that_closes_early_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*PROGRAM, "snapshot", "--simulated", *PATIENT]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=DEADLINE)
    os.close(writing)
    assert done.returncode == 0
    assert done.stderr.startswith(b"binance-oi: 789 values in ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.thorough
@pytest.mark.parametrize("arguments", [["get", "--help"], *thorough(["--help"], ["--version"])])
def test_a_pipe_reader_that_closes_the_help_page_early_is_no_error(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*PROGRAM, *arguments], stdout=writing, stderr=subprocess.PIPE, timeout=DEADLINE
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize("closed", [">&- 2>&- <&-", *thorough(">&-", "2>&-", "2>/dev/full")])
def test_closed_standard_streams_are_no_error(closed: str) -> None:
    script = f'"$@" {closed}'
    command = ["sh", "-c", script, "sh", *PROGRAM, "get", "BTCUSDT", "--simulated", *PATIENT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert done.stdout.count("BTCUSDT") == (0 if closed.startswith(">") else 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("unbuffered", ["", *thorough("1")])
@pytest.mark.parametrize(
    "arguments", some([["get", "bad-symbol"], ["nonsense"], ["get"]], always=1)
)
def test_a_full_stderr_does_not_change_the_exit_code(arguments: list[str], unbuffered: str) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*PROGRAM, *arguments],
            stdout=subprocess.PIPE,
            stderr=full,
            env=environment,
            timeout=DEADLINE,
        )
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_a_full_disk_is_an_error_in_one_line_for_help_too(flag: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*PROGRAM, flag], stdout=full, stderr=subprocess.PIPE, timeout=DEADLINE
        )
    assert done.returncode == 1
    assert done.stderr == b"binance-oi: stdout cannot be written: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_an_error_in_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [*PROGRAM, "get", "BTCUSDT", "--simulated", *PATIENT]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=DEADLINE)
    assert done.returncode == 1
    assert done.stderr == b"binance-oi: stdout cannot be written: No space left on device\n"


def test_an_interrupted_snapshot_prints_nothing() -> None:
    with (
        LocalExchange(limit=50).in_thread() as exchange,  # so that the command must wait
        started("snapshot", "--base-url", exchange.url, *PATIENT) as process,
    ):
        until(lambda: exchange.answers[200] > 20, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out, without_waits(err)) == (130, "", [])


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("ignored", [False, *thorough(True)])
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), *thorough((signal.SIGHUP, 129))])
def test_sigterm_and_sighup_end_a_snapshot_as_ctrl_c_does(
    number: signal.Signals, code: int, ignored: bool
) -> None:
    with LocalExchange(limit=50).in_thread() as exchange:
        command = [*PROGRAM, "snapshot", "--base-url", exchange.url, *PATIENT]
        if ignored:  # as a shell does for background processes
            command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
            until(lambda: exchange.answers[200] > 20, process)
            process.send_signal(number)
            out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out, without_waits(err)) == (code, "", [])


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.thorough
def test_an_ignored_sighup_does_not_end_the_command() -> None:
    with LocalExchange(limit=50).in_thread() as exchange:
        command = [*PROGRAM, "snapshot", "--base-url", exchange.url, *PATIENT]
        command = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
            until(lambda: exchange.answers[200] > 20, process)
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGTERM)  # SIGHUP, if not ignored, would end it first
            out, err = process.communicate(timeout=DEADLINE)
    assert (process.returncode, out, without_waits(err)) == (143, "", [])


@pytest.mark.parametrize(
    "number, code", some([(signal.SIGINT, 130), (signal.SIGHUP, 129)], always=1)
)
def test_the_local_exchange_serves_until_it_is_interrupted(
    number: signal.Signals, code: int
) -> None:
    with started("simulate", "--limit", "77") as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        done = run("get", "BTCUSDT", "--base-url", url, *PATIENT)
        process.send_signal(number)
        out, err = process.communicate(timeout=DEADLINE)
    assert json.loads(done.stdout)["symbol"] == "BTCUSDT"
    assert (process.returncode, out, err) == (code, "", "")


def test_an_occupied_port_is_an_error_in_one_line_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = run("simulate", "--port", str(port))
    said = f"binance-oi: --port {port} on 127.0.0.1 cannot be used: Address already in use\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


@pytest.mark.thorough
def test_a_full_minute_ends_the_command_with_exit_code_3_and_the_retry_time() -> None:
    # The exchange's clock stands still, so its minute is full whenever the process asks.
    standing = LocalExchange(used=2400, clock=lambda: NOON.timestamp() + 10.0)
    with standing.in_thread() as exchange:
        done = run("get", "BTCUSDT", "--max-wait", "0", "--base-url", exchange.url, *PATIENT)
    assert done.returncode == 3
    assert "BTCUSDT: 429" in done.stderr
    assert "[until 20" in done.stderr
    assert done.stdout == ""


def test_a_ban_ends_the_command_with_exit_code_3_and_the_retry_time() -> None:
    with LocalExchange().in_thread() as exchange:
        pool = MachineBudget().pool(pool_key(exchange.url))
        pool.hold(300.0, ban=True)  # as if the exchange had banned another process
        done = run("snapshot", "--base-url", exchange.url)
        assert not exchange.answers
    assert done.returncode == 3
    assert re.fullmatch(r"binance-oi: 418 .*\[until 20.*\]\n", done.stderr)


def test_a_network_failure_ends_the_command_with_exit_code_5() -> None:
    with closed_port() as port:
        done = run("snapshot", "--base-url", f"http://127.0.0.1:{port}")
    assert done.returncode == 5
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_the_exit_code_of_the_process_is_that_of_main(exchange: LocalExchange) -> None:
    assert run("get", "bad-symbol", *PATIENT).returncode == 2
    assert run("get", "BTCUSDT", "NOSUCHUSDT", "--base-url", exchange.url, *PATIENT).returncode == 6


@pytest.mark.parametrize("missing", ["cyclopts", *thorough("rich")])
def test_without_the_extra_an_error_in_one_line_names_what_to_install(missing: str) -> None:
    source = (
        f"import runpy, sys; sys.modules['{missing}'] = None;"
        "runpy.run_module('binance_oi', run_name='__main__', alter_sys=True)"
    )
    command = [sys.executable, "-c", source, "symbols"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "binance-oi: the command line needs pip install 'binance-oi[cli]'\n"


def test_a_terminal_shows_a_bar_then_a_table_then_the_summary() -> None:
    code, seen = on_a_terminal("snapshot", "--simulated", *PATIENT)
    assert code == 0
    plain = COLOUR.sub("", seen)
    bar, head, row, summary = (
        plain.find(text) for text in ("789/789", "open interest", "0GUSDT ", "789 values in ")
    )
    assert 0 < bar < head < row < summary
    assert seen.rfind("\x1b[?25h") > seen.rfind("\x1b[?25l")  # the cursor is visible again
    assert COLOUR.search(seen)
    assert "{" not in plain


@pytest.mark.thorough
def test_the_variable_no_color_turns_colours_off() -> None:
    code, seen = on_a_terminal("get", "BTCUSDT", "--simulated", *PATIENT, NO_COLOR="1")
    assert code == 0
    assert "BTCUSDT" in seen
    assert not COLOUR.search(seen)


@pytest.mark.thorough
def test_json_is_printed_on_a_terminal_on_request() -> None:
    code, seen = on_a_terminal("get", "BTCUSDT", "--simulated", *PATIENT, "--json")
    assert code == 0
    assert '{"symbol": "BTCUSDT", "open_interest": ' in seen
