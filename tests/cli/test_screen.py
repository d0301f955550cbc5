"""Output fits the terminal, and a waiting command says why it waits."""

import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from rich.console import Console

from binance_oi.budget import ProcessBudget
from binance_oi.budget.usage import Usage
from binance_oi.cli import main, recording
from binance_oi.cli import progress as bars
from binance_oi.cli.endings import UNEXPECTED
from binance_oi.cli.options import End
from binance_oi.cli.progress import Notices
from binance_oi.cli.render import (
    Sheet,
    by_name,
    by_notional,
    fitting_table,
    grouped,
    history_sheet,
    history_table,
    omitted_columns,
    table,
)
from binance_oi.client import OpenInterestClient
from binance_oi.errors import Reason
from binance_oi.exchange.models import HistoryRow
from binance_oi.recorder import Recorder, Recording, Sweep
from binance_oi.simulator import LocalExchange
from support.busy import without_busy
from support.lanes import thorough
from support.terminals import left_on_screen, seen_on_a_terminal

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
NOON_MS = int(NOON.timestamp()) * 1000
PATIENT = ("--timeout", "600s")
COLUMNS = ("symbol", "open_interest", "time", "mark_price", "notional")
NUMBERS = frozenset({"open_interest", "mark_price", "notional"})


def a_sheet(rows: int, number: str = "1.5") -> Sheet:
    return Sheet(
        COLUMNS,
        [(f"S{n:03}USDT", number, "2026-11-23T12:00:00.000Z", number, number) for n in range(rows)],
        NUMBERS,
        ("time", "mark_price"),
    )


def drawn(sheet: Sheet, width: int, lines: int = 1000) -> tuple[list[str], int]:
    """The drawn lines of a table, and the number of omitted rows."""
    text = io.StringIO()
    screen = Console(file=text, width=width, height=lines)
    made, left = fitting_table(sheet, screen, lines)
    screen.print(made)
    return text.getvalue().rstrip("\n").split("\n"), left


def test_an_empty_table_omits_no_rows() -> None:
    _, left = drawn(Sheet(COLUMNS, [], NUMBERS), 80, 10)
    assert left == 0


@pytest.mark.parametrize("lines", [1, 5, 10, 20, 400])
@pytest.mark.parametrize("width", [9, 30, 80])
def test_a_table_fits_the_screen_and_counts_the_omitted_rows(width: int, lines: int) -> None:
    shown, left = drawn(a_sheet(300, "123456.789"), width, lines)
    # A table has at least one row, even if the screen has fewer lines.
    smallest, _ = drawn(a_sheet(1, "123456.789"), width)
    assert len(shown) <= max(lines, len(smallest) + 1)
    if width == 80:
        assert sum("USDT" in line for line in shown) == 300 - left
        assert left == (0 if lines == 400 else 300 - max(1, lines - 4))


def test_a_wide_table_drops_optional_columns_before_it_folds_a_number() -> None:
    assert "mark price" in " ".join(drawn(a_sheet(2), 80)[0])
    wide, _ = drawn(a_sheet(2, "123456789012.12345678"), 80)
    assert "time" not in wide[1]
    assert "mark price" not in wide[1]
    assert "123,456,789,012.12345678" in wide[3]
    assert all(len(line) <= 80 for line in wide)


def test_the_omitted_columns_of_a_table_are_known_by_their_titles() -> None:
    screen = Console(file=io.StringIO(), width=80)
    wide = a_sheet(2, "123456789012.12345678")
    assert omitted_columns(wide, table(wide, screen)) == ["time", "mark price"]
    assert omitted_columns(a_sheet(2), table(a_sheet(2), screen)) == []
    blocks = Sheet(tuple("abcdefgh"), [tuple("abcdefgh")])
    assert omitted_columns(blocks, table(blocks, screen)) == []


def test_rows_are_sorted_by_name_or_notional_with_unknown_notional_last() -> None:
    rows = [("B", "10"), ("C", None), ("A", "9"), ("D", "1e3"), ("E", "10")]
    sheet = Sheet(("symbol", "notional"), [*rows])
    assert [row[0] for row in by_name(sheet).rows] == ["A", "B", "C", "D", "E"]
    assert [row[0] for row in by_notional(sheet).rows] == ["D", "B", "E", "A", "C"]


def test_a_table_without_optional_columns_keeps_every_column() -> None:
    screen = Console(file=io.StringIO(), width=20)
    sheet = a_sheet(1)._replace(spare=())
    assert len(table(sheet, screen).columns) == len(COLUMNS)


@pytest.mark.parametrize(
    "options, first",
    [((), "0GUSDT"), (("--sort", "usd"), "BTCUSDT"), *thorough((("--notional",), "0GUSDT"))],
)
def test_a_snapshot_fits_the_terminal_and_counts_the_omitted_rows(
    options: tuple[str, ...], first: str
) -> None:
    code, seen = seen_on_a_terminal("snapshot", "--simulated", *options, *PATIENT)
    assert code == 0
    lines = left_on_screen(seen)
    assert len(lines) <= 24  # the last line is the shell's prompt
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines[3:] if re.match(r"  \w*USD\w* +[\d,.]+", line)]
    assert rows[0][0] == first
    more = next(line for line in lines if "more; --all shows them" in line)
    assert more.split()[1] == str(789 - len(rows))
    wanted = ("time", "mark price") if options else ("time",)
    titles = [title for title in wanted if title not in lines[1]]
    said = [f"binance-oi: no room for {', '.join(titles)}; a pipe shows all columns"]
    assert [line for line in lines if "no room" in line] == (said if titles else [])
    assert bool(titles) is bool(options)
    assert len(rows) >= 15


def test_history_fits_the_terminal_and_the_all_option_shows_every_row() -> None:
    request = ("history", "BTCUSDT", "--simulated", "--since", "5h", *PATIENT)
    code, seen = seen_on_a_terminal(*request)
    lines = left_on_screen(seen)
    assert code == 0
    assert len(lines) <= 24
    (more,) = [line for line in lines if "more; --all shows them" in line]
    assert max(map(len, lines)) <= 80
    shown = sum("BTCUSDT" in line for line in lines)
    assert shown >= 15
    row = r"  BTCUSDT +20[\d-]{8}T[\d:]{8}Z +[\d,]+\.?\d* +[\d,]+\.?\d* *"
    assert sum(re.fullmatch(row, line) is not None for line in lines) == shown
    assert "binance-oi: no room for circulating supply; a pipe shows all columns" in lines
    code, seen = seen_on_a_terminal(*request, "--all")
    lines = left_on_screen(seen)
    assert not any("more" in line for line in lines)
    left = int(more.split()[1])
    # Between the two commands, a new row may appear, and the oldest may become too old.
    assert abs(sum("BTCUSDT" in line for line in lines) - shown - left) <= 2


def test_rows_of_the_past_take_one_line_each_and_keep_their_digits() -> None:
    values = [("94939.60200000", "5661807241.55424814", "7560197.50"), ("100", "0.00", None)]
    rows = [
        HistoryRow(
            "BTCUSDT", NOON_MS, Decimal(oi), Decimal(usd), Decimal(supply) if supply else None
        )
        for oi, usd, supply in values
    ]
    text = io.StringIO()
    screen = Console(file=text, width=120)
    screen.print(table(history_table(rows), screen))
    shown = [line.split() for line in text.getvalue().splitlines() if "BTCUSDT" in line]
    assert shown == [
        ["BTCUSDT", "2026-11-23T12:00:00Z", "94,939.602", "5,661,807,241.55424814", "7,560,197.5"],
        ["BTCUSDT", "2026-11-23T12:00:00Z", "100", "0"],
    ]
    lines, _ = drawn(history_table(rows), 80)
    assert "circulating" not in lines[1]
    assert [line.split() for line in lines if "BTCUSDT" in line] == [row[:4] for row in shown]
    assert history_sheet(rows).rows[0][1:3] == ("2026-11-23T12:00:00.000Z", "94939.60200000")


def test_without_budgets_the_budget_command_prints_no_empty_line(tmp_path: Path) -> None:
    env = {"BINANCE_OI_BUDGET_DIR": str(tmp_path)}
    code, seen = seen_on_a_terminal("budget", env=env)
    assert code == 0
    assert seen.lstrip("\r").startswith("binance-oi: no budget has been used")


@pytest.mark.thorough
def test_the_all_option_shows_the_whole_snapshot() -> None:
    code, seen = seen_on_a_terminal("snapshot", "--simulated", "--all", *PATIENT)
    lines = left_on_screen(seen)
    assert code == 0
    assert sum(bool(re.match(r"  \S+ +[\d,.]+ ", line)) for line in lines) == 789
    assert not any("more" in line for line in lines)


@pytest.mark.thorough
def test_the_list_of_symbols_fits_the_terminal() -> None:
    code, seen = seen_on_a_terminal("symbols", "--simulated", *PATIENT)
    lines = left_on_screen(seen)
    assert code == 0
    assert len(lines) <= 24
    assert any("more; --all shows them" in line for line in lines)


@pytest.mark.thorough
def test_a_pipe_gets_every_row_sorted_by_notional() -> None:
    command = [sys.executable, "-m", "binance_oi", "snapshot", "--simulated", "--sort", "usd"]
    done = subprocess.run([*command, *PATIENT], capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    worth = [float(row["notional"]) for row in rows if row["notional"] is not None]
    assert len(rows) == 789
    assert worth == sorted(worth, reverse=True)


def test_symbols_with_the_same_error_share_a_line_and_few_lines_are_shown() -> None:
    assert grouped({}) == []
    assert grouped({"A": "late", "B": "odd", "C": "late"}) == ["A, C: late", "B: odd"]
    assert grouped(dict.fromkeys("ABCDE", "late")) == ["A, B, C and 2 more: late"]
    many = grouped({f"S{n}": f"reason {n}" for n in range(700)})
    assert many[:5] == [f"S{n}: reason {n}" for n in range(5)]
    assert many[5:] == ["695 symbols failed too; redirect stderr to see them"]


def test_a_table_stays_on_the_screen_when_most_symbols_fail() -> None:
    standing = LocalExchange(limit=100, clock=lambda: NOON.timestamp() + 10.0)
    with standing.in_thread() as exchange:
        words = ["snapshot", "--base-url", exchange.url, "--max-wait", "0", *PATIENT]
        code, seen = seen_on_a_terminal(*words)
    assert code == 6
    lines = left_on_screen(seen)
    assert sum(bool(re.match(r"  \w*USD\w* +[\d,.]+", line)) for line in lines) >= 5
    assert any(" more: no room for weight 1 in time" in line for line in lines)
    assert len(lines) <= 24 + 5  # a reason may be longer than a line


# -- waits, and terminals without a progress bar ---------------------------------------------


def a_usage(turn: datetime = NOON, *, held: datetime | None = None, **waiting: int) -> Usage:
    usage = ProcessBudget().pool("test").usage
    for_ = {Reason[name.upper()]: count for name, count in waiting.items()}
    return replace(usage, resets_at=turn, held_until=held, waiting_for=for_)


def test_a_lasting_wait_is_reported_once_for_each_minute() -> None:
    notices, later = Notices(), NOON + timedelta(minutes=1)
    looks = [
        (a_usage(), ""),
        (a_usage(minute_full=3), ""),
        (a_usage(minute_full=2), "waiting until 12:00:00 UTC: minute full"),
        (a_usage(probe_pending=2), ""),
        (a_usage(later, minute_full=2), ""),
        (a_usage(later), ""),
        (a_usage(later, others=1), ""),
        (a_usage(later, others=1), "waiting until 12:01:00 UTC at the latest: others"),
        (a_usage(later, others=1), ""),
    ]
    assert [notices.next_line(usage) for usage, _ in looks] == [line for _, line in looks]


@pytest.mark.parametrize(
    "reason, line",
    [
        ("minute_full", "waiting until 12:00:00 UTC: minute full"),
        ("share", "waiting until 12:00:00 UTC: share"),
        ("caution", "waiting until 12:00:00 UTC at the latest: caution"),
        ("single_calls", "waiting until 12:00:00 UTC at the latest: single calls"),
        (
            "lease",
            "waiting for the server of the shared budget, "
            "until 12:00:00 UTC at the latest if it answers",
        ),
        ("other_limit", "waiting: other limit"),
    ],
)
def test_a_wait_that_may_end_before_the_minute_is_reported_so(reason: str, line: str) -> None:
    notices, usage = Notices(), replace(a_usage(), waiting_for={Reason(reason): 3})
    assert [notices.next_line(usage) for _ in range(3)] == ["", line, ""]


@pytest.mark.parametrize("reason", ["pace", "connections", "store_busy"])
def test_a_brief_wait_is_not_reported(reason: str) -> None:
    notices = Notices()
    usage = replace(a_usage(), waiting_for={Reason(reason): 1})
    assert [notices.next_line(usage) for _ in range(3)] == ["", "", ""]


def test_a_cooldown_is_reported_with_its_end() -> None:
    notices, end = Notices(), NOON + timedelta(minutes=7)
    looks = [notices.next_line(a_usage(held=end, cooldown=1)) for _ in range(3)]
    assert looks == ["", "waiting until 12:07:00 UTC: cooldown", ""]


def test_a_wait_for_the_rollover_is_reported_on_a_pipe() -> None:
    # The exchange's clock stands still, so its minute stays full.
    standing = LocalExchange(limit=50, clock=lambda: NOON.timestamp() + 10.0)
    with standing.in_thread() as exchange:
        command = [sys.executable, "-m", "binance_oi", "snapshot", "--base-url", exchange.url]
        pipe = subprocess.PIPE
        with subprocess.Popen([*command, *PATIENT], stdout=pipe, stderr=pipe, text=True) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate()
    assert re.fullmatch(
        r"binance-oi: waiting until 12:01:00 UTC( at the latest)?: [a-z ]+; \d+ of 789 read\n", line
    ), line
    assert (process.returncode, out) == (130, "")


@pytest.mark.parametrize(
    "words, shown",
    [
        ("snapshot --base-url {url}", "reading, "),
        ("watch JDUSDT --every 1s --base-url {url}", "waiting for the first sweep"),
        *thorough(("record JDUSDT --to {path} --every 1s --base-url {url}", "recording, sweeps 0")),
    ],
)
def test_a_dumb_terminal_prints_a_line_before_the_first_answer(
    words: str, shown: str, tmp_path: Path
) -> None:
    with LocalExchange(limit=50).in_thread() as exchange:
        given = words.format(url=exchange.url, path=tmp_path / "oi.db").split()
        code, seen = seen_on_a_terminal(*given, term="dumb", until=lambda seen: shown in seen)
    missed = re.search("NO SWEEP: (late|overrun)", seen)  # on a busy machine
    assert code == (130 if given[0] != "record" else UNEXPECTED if missed else 0)
    assert shown in seen
    assert "\x1b" not in seen


async def test_the_last_picture_of_the_bar_shows_what_was_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = io.StringIO()
    screen = Console(file=shown, force_terminal=True, color_system=None, width=100)
    monkeypatch.setattr(bars, "redraws", lambda _: True)
    monkeypatch.setattr(bars, "console", lambda _: screen)
    client = SimpleNamespace(usage=replace(a_usage(), used=0))
    async with bars.progress(cast(OpenInterestClient, client)) as on_progress:
        client.usage = replace(client.usage, used=1)
        on_progress(1, 1)
    *_, last = re.findall(r"reading .*? (\S+) used (\d+) of 2400", shown.getvalue())
    assert last == ("1/1", "1")


def test_a_pipe_with_forced_colours_has_no_progress_bar() -> None:
    command = [sys.executable, "-m", "binance_oi", "get", "BTCUSDT", "--simulated", *PATIENT]
    environment = os.environ | {"FORCE_COLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stderr.startswith("binance-oi: 1 value in ")


def test_a_dumb_terminal_prints_the_board_after_each_sweep() -> None:
    code, seen = seen_on_a_terminal(
        *("watch", "JDUSDT", "--every", "1s", "--simulated"),
        term="dumb",
        until=lambda seen: seen.count("JDUSDT") >= 2,
    )
    assert code == 130
    assert seen.count("open interest") >= 2
    assert "\x1b" not in seen


# -- the end of a recording ------------------------------------------------------------------


def test_a_recorder_ends_by_itself_with_exit_code_0(tmp_path: Path) -> None:
    path = tmp_path / "oi.db"
    words = ["record", "BTCUSDT", "--to", str(path), "--every", "0.2s", "--simulated"]
    sweeps = list[Sweep]()
    for seconds in (3, 12, 48, 192):  # a slow machine may need more than 3 s for a sweep
        command = [sys.executable, "-m", "binance_oi", *words, "--for", f"{seconds}s"]
        done = subprocess.run(command, capture_output=True, text=True)
        if path.exists():  # a slow machine may stop before it makes the file
            with Recording(path) as recording:
                sweeps = list(recording.sweeps())
        if sweeps:
            break
    assert done.returncode == 0
    (said,) = without_busy(done.stderr)
    assert said.startswith("binance-oi: stopped: sweeps ")
    assert all((sweep.asked, sweep.read) == (1, 1) for sweep in sweeps)


class Stopped:
    """A recorder that does nothing but note when `stop` is called."""

    def __init__(self) -> None:
        self.at: float | None = None

    def stop(self) -> None:
        self.at = asyncio.get_running_loop().time()


async def stopped_after(end: End, limit: float) -> float | None:
    """Seconds after which a recorder was stopped; None if that took longer than `limit`."""
    recorder, begun = Stopped(), asyncio.get_running_loop().time()
    with suppress(TimeoutError):
        async with asyncio.timeout(limit):
            await recording._stop_at(cast(Recorder, recorder), end)
    return None if recorder.at is None else recorder.at - begun


@pytest.mark.virtual_time
async def test_a_recorder_stops_after_the_given_time_and_not_without_one() -> None:
    assert await stopped_after(End(seconds=7200.0), 1e6) == pytest.approx(7200.0, abs=0.01)
    assert await stopped_after(End(), 1e5) is None


@pytest.mark.virtual_time
async def test_a_recorder_stops_at_the_given_wall_clock_time_even_if_the_clock_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()

    def clock() -> float:  # after a minute, it is set forward by an hour
        passed = loop.time() - begun
        return NOON.timestamp() + passed + (3600.0 if passed > 60.0 else 0.0)

    monkeypatch.setattr(recording, "time", SimpleNamespace(time=clock))
    found = await stopped_after(End(until=NOON + timedelta(hours=1)), 1e5)
    assert found is not None
    assert 60.0 < found < 62.0
    assert await stopped_after(End(until=NOON), 1e5) == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize(
    "options, said",
    [
        ("--until 2020-01-01", "--until 2020-01-01T00:00:00Z is in the past"),
        ("--for 1h --until 2099-01-01", "--for and --until exclude each other"),
        ("--for 0s", "Must be > 0"),
    ],
)
def test_an_impossible_end_is_wrong_usage_and_changes_no_file(
    options: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["record", "BTCUSDT", "--to", str(tmp_path / "new.db"), "--simulated"]
    assert main([*words, *options.split()]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.glob("new*")) == []
