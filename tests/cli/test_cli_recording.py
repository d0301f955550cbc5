"""Tests the commands that record, and those that read recordings."""

import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import aclosing, closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console

from binance_oi import OpenInterest, OpenInterestClient, ProcessBudget, Reason, Snapshot
from binance_oi.cli import main, outputs, recording, watching
from binance_oi.cli.options import Span
from binance_oi.cli.recording import live_line, status_line
from binance_oi.cli.watching import Board, View, change_line, draw, gauge, heading, sparkline
from binance_oi.exchange.models import HistoryRow
from binance_oi.market.plan import MisfitError
from binance_oi.market.polling import Plan
from binance_oi.recorder import Recorder, Recording, Status, care
from binance_oi.recorder.store import Store
from binance_oi.simulator import LocalExchange
from binance_oi.testing import simulated_client
from binance_oi.testing.virtual_clock import wall_time
from support.lanes import some, thorough
from support.recorded import sweep, write_recording
from support.terminals import CONTROL, seen_on_a_terminal

if sys.platform != "win32":
    import fcntl
    import pty
    import termios

Captured = pytest.CaptureFixture[str]
VIEW = View(order="symbol", top=5)
ENTERS_SCREEN, LEAVES_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"
QUICK = "JDUSDT"  # its open interest changes every second; `watch` shows only changes
HANGS = 600.0  # s after which a process counts as hung
ENDS_WITHIN = 2.0  # s after SIGINT or SIGTERM


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "oi.db")


@contextmanager
def started(*arguments: str) -> "Generator[subprocess.Popen[str]]":
    command = [sys.executable, "-m", "binance_oi", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def sweeps_in(path: Path) -> int:
    """The number of sweeps in a file; 0 while it does not exist."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            (count,) = connection.execute("SELECT count(*) FROM sweeps").fetchone()
            return int(count)
    except sqlite3.OperationalError:
        return 0


def until_sweeps(path: Path, count: int, process: "subprocess.Popen[str]") -> None:
    """Wait until the process has recorded this many sweeps."""
    while sweeps_in(path) < count:
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.parametrize(
    "number, code",
    [(signal.SIGTERM, 0), *thorough((signal.SIGINT, 0), (signal.SIGHUP, 129))],
)
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_signal_stops_a_recorder_after_a_complete_sweep(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    path = tmp_path / "oi.db"
    with LocalExchange().in_thread() as exchange:
        arguments = ("--to", str(path), "--every", "0.2s", "--base-url", exchange.url)
        with started("record", "BTCUSDT", "ETHUSDT", *arguments) as process:
            until_sweeps(path, 2, process)
            process.send_signal(number)
            _, stderr = process.communicate(timeout=HANGS)
    assert process.returncode == code
    assert stderr.splitlines()[-1].startswith("binance-oi: stopped: ")
    assert "Traceback" not in stderr
    assert [file.name for file in tmp_path.glob("oi*")] == [
        "oi.db"
    ]  # SQLite has emptied and removed the log
    with Recording(path) as recording:
        assert {(sweep.asked, sweep.read) for sweep in recording.sweeps()} == {(2, 2)}


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_recorder_under_nohup_continues_when_its_terminal_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "oi.db"
    arguments = ("record", "BTCUSDT", "--to", str(path), "--every", "0.2s", "--simulated")
    command = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", sys.executable, "-m", "binance_oi"]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, *arguments], stderr=pipe, text=True) as process:
        until_sweeps(path, 2, process)
        process.send_signal(signal.SIGHUP)
        until_sweeps(path, sweeps_in(path) + 3, process)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=HANGS)
    assert process.returncode == 0
    assert "stopped: " in stderr


@pytest.mark.wallclock
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_record_and_watch_end_within_two_seconds_of_a_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    path = tmp_path / "oi.db"
    arguments = ("BTCUSDT", "--every", "0.2s", "--simulated")
    with (
        started("record", *arguments, "--to", str(path)) as recorder,
        started("watch", *arguments) as watcher,
    ):
        until_sweeps(path, 2, recorder)
        assert watcher.stdout is not None
        assert watcher.stdout.readline()
        for process in (recorder, watcher):
            began = time.monotonic()
            process.send_signal(number)
            process.communicate(timeout=HANGS)
            assert time.monotonic() - began < ENDS_WITHIN


@pytest.mark.thorough  # the recorder retries for ten seconds; `nox -s recorder` runs this
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_recorder_that_lost_sweeps_ends_with_exit_code_7_and_prints_their_number(
    tmp_path: Path,
) -> None:
    path = tmp_path / "oi.db"
    with LocalExchange().in_thread() as exchange:
        arguments = ("--to", str(path), "--every", "0.2s", "--base-url", exchange.url)
        with started("record", "BTCUSDT", *arguments) as process:
            while not sweeps_in(path):
                assert process.poll() is None
            with closing(sqlite3.connect(path, isolation_level=None, timeout=60.0)) as other:
                other.execute("BEGIN IMMEDIATE")  # the other program keeps the lock
                answers = exchange.answers[200]
                while exchange.answers[200] < answers + 3:
                    assert process.poll() is None
                process.send_signal(signal.SIGTERM)
                _, stderr = process.communicate(timeout=HANGS)
    assert process.returncode == 7
    assert re.search(r"stopped: .*, sweeps lost [1-9]", stderr.splitlines()[-1])
    assert "unwritten" not in stderr


def test_a_second_recorder_is_refused_with_the_process_id_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "oi.db"
    with LocalExchange().in_thread() as exchange:
        arguments = ("record", "BTCUSDT", "--to", str(path), "--base-url", exchange.url)
        with started(*arguments, "--every", "0.2s") as first:
            until_sweeps(path, 1, first)
            with started(*arguments) as second:
                _, stderr = second.communicate(timeout=HANGS)
            assert stderr == f"binance-oi: {path} is being recorded by process {first.pid}\n"
            assert second.returncode == 2


@pytest.mark.parametrize(
    "arguments, said",
    some(
        [
            (
                "record --to {new} --every 1s --simulated",
                "take 47340 weight a minute, and the budget",
            ),
            ("record --to {text} --simulated", "is not a recording"),
            ("record --to {text}/oi.db --simulated", "cannot be recorded into"),
            ("record --to {dir} --simulated", "is a directory"),
            ("record --to {new} --every soon", "a period is a number with s, m, h or d"),
            ("export {new} --to {out}.csv", "does not exist"),
            ("export {text} --to {out}.csv", "is not a recording"),
            ("export {db} --to {out}.csv --symbol NOSUCHUSDT", "has no NOSUCHUSDT"),
            ("export {db} --to {out}.csv --until 2020-01-01", "oi.db has no rows in that range; "),
            (
                "export {db} --to {out}.csv --symbol BTCUSDT --since 2099-01-01",
                "oi.db has no rows of these symbols in that range; nothing was written",
            ),
            (
                "export {db} --to {out}.csv --since never",
                "a moment is ISO 8601, such as 2026-11-23",
            ),
            ("export {db} --to {out} --since 2026-11-25 --until 2026-11-24", "is later than until"),
            (
                "export {db} --to {out} --since 2026-11-25 --until 2026-11-24 --new",
                "later than until",
            ),
            (
                "export {db} --to {bad}.csv --since 2030-01-01 --until 2029-01-01 --replace",
                "is later",
            ),
            (
                "plot {db} BTCUSDT --to {out}.svg --since 2026-11-25 --until 2026-11-24",
                "is later than",
            ),
            (
                "export {db} --to {out}/oi.csv",
                "oi.csv cannot be written: No such file or directory",
            ),
            ("plot {db} BTCUSDT --to {out}/oi.svg", "cannot be written: No such file or directory"),
            ("report {db} --to {out}/oi.html", "cannot be written: No such file or directory"),
            ("export {db} --to {out}.xlsx", "name must end in one of .parquet, .csv, .jsonl"),
            ("plot {db} BTCUSDT --to {out}.gif", "must end in .svg or .png"),
            ("plot {db} BTCUSDT --to {out}.svg --since 2030-01-01", "has no sample of BTCUSDT"),
            ("report {text} --to {out}.html", "is not a recording"),
            ("report {db} --to {db}-wal", "belongs to the recording"),
            ("export {db} --to {db}-wal", "belongs to the recording"),
            ("plot {db} BTCUSDT --to {db}-shm", "belongs to the recording"),
            ("report {db} --to {text}", "a page's name must end in .html or .htm"),
            ("report {db} --to /dev/fd/1", "so no file can replace it"),
            ("report {db} --to=-", "a name is needed"),
            ("export {db} --to=-", "a name is needed"),
            ("export {db} --to {pipe}.csv", "so no file can replace it"),
            ("export {db} --to {dir}.csv", "is a directory"),
            ("export {db} --to {bad}.csv --replace --until 2020-01-01", "no rows in that range"),
            ("export {db} --to {bad}.csv", "bad.csv: line 1: it does not begin as"),
            ("export {db} --to {bad}.jsonl", "bad.jsonl: line 1: it is not as an export"),
            ("export {db} --to {bad}.parquet", "bad.parquet: "),
            ("export {db} --to {bad}", "cannot add to "),
            ("watch --every 1s --simulated", "take 47340 weight a minute"),
        ],
        always=12,
    ),
)
def test_impossible_arguments_are_an_error_in_one_line_and_change_no_file(
    arguments: str, said: str, path: Path, tmp_path: Path, capsys: Captured
) -> None:
    names = {"new": "new", "text": "text", "out": "o", "bad": "bad", "pipe": "pipe", "dir": "dir"}
    places = {key: tmp_path / name for key, name in names.items()} | {"db": path}
    text = "not a database" * 100
    bad_day = tmp_path / "bad" / "date=2026-11-24" / "open_interest.parquet"
    bad_day.parent.mkdir(parents=True)
    for file in ("text", "bad.csv", "bad.jsonl", "bad.parquet", bad_day):
        (tmp_path / file).write_text(text)
    for directory in ("dir", "dir.csv"):
        (tmp_path / directory).mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    before = everything(tmp_path)
    given = [word.format(**places) for word in arguments.split()]
    assert main(given) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert everything(tmp_path) == before


def everything(directory: Path) -> dict[str, bytes | None]:
    """The files in a directory, except those of the budget and the side files `oi.db-*`."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
        if not path.relative_to(directory).parts[0].startswith(("binance-oi", "oi.db-"))
    }


@pytest.mark.parametrize("ending", ["-wal", "-shm", "-journal", "-lock"])
def test_a_report_never_replaces_a_side_file_of_a_running_recorder(
    ending: str, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "oi.db"
    with closing(Store(path)) as store:
        store.save(sweep(0), [], 60_000)
        (tmp_path / "oi.db-lock").touch()
        side = tmp_path / f"oi.db{ending}"
        before = side.stat() if side.exists() else None
        assert main(["report", str(path), "--to", str(side)]) == 2
        assert "belongs to the recording" in capsys.readouterr().err
        after = side.stat() if side.exists() else None
        assert (after and after.st_ino) == (before and before.st_ino)
        store.save(sweep(1), [], 60_000)
        with Recording(path) as recording:
            assert [found.read for found in recording.sweeps()] == [3, 2]


def test_a_second_export_keeps_the_rows_of_the_first_and_prints_how_many_it_added(
    path: Path, tmp_path: Path, capsys: Captured
) -> None:
    pytest.importorskip("pyarrow")

    def export(*more: str) -> tuple[int, str]:
        code = main(["export", str(path), "--to", str(tmp_path / "out"), *more])
        return code, capsys.readouterr().err.removeprefix("binance-oi: ")

    out = tmp_path / "out"
    assert export("--symbol", "BTCUSDT") == (0, f"2 rows written to {out}\n")
    assert export("--since", "2026-11-24") == (0, f"2 rows written to {out}\n")
    assert export("--new") == (0, f"4 rows written to {out}\n")
    assert export() == export("--new") == (0, f"no new rows for {out}\n")
    assert export("--new", "--until", "2020-01-01")[0] == 0
    assert export("--until", "2020-01-01")[0] == 2
    assert export("--replace", "--new") == (0, f"no new rows for {out}\n")
    assert export("--replace", "--symbol", "BTCUSDT") == (0, f"2 rows written to {out}\n")
    assert export("--replace", "--new") == (0, f"8 rows written to {out}\n")


def test_a_backup_onto_an_existing_file_names_the_option_that_replaces_it(
    path: Path, tmp_path: Path, capsys: Captured
) -> None:
    copy = tmp_path / "copy.db"
    copy.write_text("precious")
    assert main(["backup", str(path), "--to", str(copy)]) == 2
    said = f"binance-oi: {copy} already exists; --replace replaces it\n"
    assert capsys.readouterr().err == said
    assert copy.read_text() == "precious"


def test_compact_prints_the_sizes_and_says_if_there_was_nothing_to_return(
    path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["compact", str(path)]) == 0
    capsys.readouterr()
    assert main(["compact", str(path)]) == 0
    said = f"binance-oi: {path}: {path.stat().st_size:,} bytes, nothing to return\n"
    assert capsys.readouterr().err == said
    monkeypatch.setattr(care, "compact", lambda _: (48_128, 12_288))
    assert main(["compact", str(path)]) == 0
    assert capsys.readouterr().err == f"binance-oi: {path}: 48,128 bytes, now 12,288\n"


@pytest.mark.parametrize("command, name", [("plot BTCUSDT", "oi.svg"), ("report", "oi.html")])
def test_a_picture_or_a_page_replaces_an_existing_file_as_its_help_says(
    command: str, name: str, path: Path, tmp_path: Path, capsys: Captured
) -> None:
    verb, *symbols = command.split()
    target = tmp_path / name
    target.write_text("old")
    assert main([verb, "--help"]) == 0
    assert "It replaces an existing file." in re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    if verb == "plot":
        pytest.importorskip("matplotlib")
    assert main([verb, str(path), *symbols, "--to", str(target)]) == 0
    assert target.read_text(encoding="utf-8") != "old"


@pytest.mark.parametrize("series", [(), ("--series", "5m")])
@pytest.mark.parametrize(
    "chosen, said",
    [
        ((), "has no rows to export"),
        (("--since", "2026-11-24"), "has no rows in that range"),
    ],
)
def test_an_export_without_rows_says_whether_a_range_was_chosen(
    chosen: tuple[str, ...],
    said: str,
    series: tuple[str, ...],
    tmp_path: Path,
    capsys: Captured,
) -> None:
    recording = tmp_path / "oi.db"
    Store(recording).close()
    words = ["export", str(recording), "--to", str(tmp_path / "oi.csv"), *chosen, *series]
    assert main(words) == 2
    assert capsys.readouterr().err == f"binance-oi: {recording} {said}; nothing was written\n"
    assert not (tmp_path / "oi.csv").exists()


@pytest.mark.parametrize("name", ["oi.csv", "oi.svg", "oi.html"])
@pytest.mark.parametrize("linked", [False, True])
def test_no_output_overwrites_its_own_recording(
    name: str, linked: bool, tmp_path: Path, capsys: Captured
) -> None:
    recording = write_recording(tmp_path / ("oi.db" if linked else name))
    if linked:
        (tmp_path / name).symlink_to(recording)
    before = recording.read_bytes()
    command = {"oi.csv": ["export"], "oi.svg": ["plot"], "oi.html": ["report"]}[name]
    symbols = ["BTCUSDT"] if command == ["plot"] else []
    target = str(tmp_path / name)
    assert main([*command, str(recording), *symbols, "--to", target]) == 2
    assert capsys.readouterr().err == f"binance-oi: {target} is the recording itself\n"
    assert recording.read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    ["record --to= --simulated", "export {db} --to=", "report {db} --to=", "plot {db} X --to="],
)
def test_an_empty_file_name_is_refused(arguments: str, path: Path, capsys: Captured) -> None:
    assert main([word.format(db=path) for word in arguments.split()]) == 2
    assert "a name is needed" in capsys.readouterr().err


def test_a_recording_of_another_source_is_refused_before_any_request(
    tmp_path: Path, capsys: Captured
) -> None:
    path, page = tmp_path / "oi.db", tmp_path / "oi.html"
    for _ in range(2):  # a local exchange on another port is the same source
        before = sweeps_in(path)
        arguments = ("BTCUSDT", "--to", str(path), "--every", "0.2s", "--simulated")
        with started("record", *arguments) as process:
            until_sweeps(path, before + 2, process)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=HANGS)
        assert process.returncode == 0
    written = path.read_bytes()
    for source, name in (
        (["--testnet"], "testnet"),
        ([], "production"),
        (["--base-url", "https://oi.invalid"], "https://oi.invalid:443"),
    ):
        assert main(["record", "BTCUSDT", "--to", str(path), *source]) == 2
        said = f"binance-oi: {path} is a recording of local, and not of {name}\n"
        assert capsys.readouterr().err == said
    assert path.read_bytes() == written
    assert main(["report", str(path), "--to", str(page)]) == 0
    assert "Source: local" in page.read_text("utf-8")


def test_a_recording_is_exported_plotted_and_reported(
    path: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert (
        main(["export", str(path), "--to", str(tmp_path / "o.jsonl"), "--symbol", "BTCUSDT"]) == 0
    )
    assert "2 rows written to" in capsys.readouterr().err
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 2
    page, chart = tmp_path / "o.html", tmp_path / "o.svg"
    assert main(["report", str(path), "--to", str(page)]) == 0
    all_of_it = "from 2026-11-23 23:57:57 to 2026-11-24 00:01:57 UTC written to"
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"binance-oi: report on {path} {all_of_it} {page}\n")
    pytest.importorskip("matplotlib")
    since = ["--since", "2026-11-24T00:00:00Z"]
    assert main(["plot", str(path), "btcusdt", "--to", str(chart), *since]) == 0
    part_of_it = "from 2026-11-24 00:01:57 to 2026-11-24 00:01:57 UTC written to"
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"binance-oi: chart of BTCUSDT {part_of_it} {chart}\n")


def test_the_line_about_a_page_counts_many_symbols_and_knows_a_recording_of_gaps(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "MAX_NAMED", 2)
    with Recording(path) as recording:
        names = recording.symbols()
        assert outputs._covered(recording, names, Span()).startswith("3 symbols from 2026-11-23 ")
        later = Span(datetime(2026, 12, 1, tzinfo=UTC))
        assert outputs._covered(recording, None, later) == str(path)


def test_a_pipe_gets_the_changes_as_json_lines() -> None:
    with started("watch", QUICK, "--every", "0.2s", "--simulated") as process:
        assert process.stdout is not None
        rows = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=HANGS)
    assert process.returncode == 130
    assert "Traceback" not in stderr  # a busy machine may miss slots, with a warning
    first, second = (Decimal(row["open_interest"]) for row in rows)
    assert (rows[0]["change"], Decimal(rows[1]["change"])) == ("0.00", second - first)


@pytest.mark.thorough
def test_watch_ends_when_the_pipe_reader_closes() -> None:
    with started("watch", QUICK, "--every", "0.2s", "--simulated") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=HANGS) == 0


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """Runs the program on a terminal of a given size, and reads its output."""

    def __init__(self, *arguments: str, columns: int = 100, controlling: bool = False) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(columns)
        command = [sys.executable, "-m", "binance_oi", *arguments]
        # readline sets COLUMNS and LINES for child processes, and rich trusts them.
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            start_new_session=controlling,
            preexec_fn=_take_terminal if controlling else None,
        )
        os.close(theirs)
        self.shown = b""

    def resize(self, columns: int) -> None:
        termios.tcsetwinsize(self._ours, (30, columns))

    def close(self) -> None:
        """Close the window: the system sends SIGHUP, and writes to the terminal fail."""
        os.close(self._ours)

    def read_until(self, wanted: Callable[[bytes], bool]) -> None:
        while not wanted(self.shown):
            self.shown += os.read(self._ours, 65536)

    def read_to_the_end(self) -> None:
        with suppress(OSError):  # the program has closed its end
            while more := os.read(self._ours, 65536):
                self.shown += more
        self.process.wait()
        os.close(self._ours)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")
@pytest.mark.parametrize("more_signals", [3, *thorough(0)])
def test_a_recorder_whose_terminal_is_closed_stops_cleanly_with_129(
    tmp_path: Path, more_signals: int
) -> None:
    path = tmp_path / "oi.db"
    arguments = ("BTCUSDT", "--to", str(path), "--every", "0.2s", "--simulated")
    terminal = Terminal("record", *arguments, controlling=True)
    terminal.read_until(lambda shown: re.search(rb"sweeps ([2-9]|\d\d)", shown) is not None)
    terminal.close()
    for _ in range(more_signals):  # a shell may send SIGHUP again
        terminal.process.send_signal(signal.SIGHUP)
    assert terminal.process.wait(timeout=HANGS) == 129
    assert [file.name for file in tmp_path.glob("oi*")] == ["oi.db"]
    assert sweeps_in(path) >= 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")
@pytest.mark.parametrize(
    "arguments, shown",
    some(
        [
            ("watch BTCUSDT --every 0.2s --simulated", b"since start"),
            ("watch BTCUSDT --every 1h --simulated", b"waiting for the first sweep"),
            ("snapshot --simulated", b"reading"),
            ("simulate", b"http://"),
        ],
        always=1,
    ),
)
def test_a_command_whose_terminal_is_closed_ends_with_129(arguments: str, shown: bytes) -> None:
    terminal = Terminal(*arguments.split(), controlling=True)
    terminal.read_until(lambda seen: shown in seen)
    terminal.close()
    assert terminal.process.wait(timeout=HANGS) == 129


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")
@pytest.mark.parametrize(
    "number, code",
    [(signal.SIGINT, 130), *thorough((signal.SIGTERM, 143), (signal.SIGHUP, 129))],
)
def test_watch_shows_a_table_and_restores_the_cursor(number: signal.Signals, code: int) -> None:
    terminal = Terminal("watch", "BTCUSDT", "--every", "0.2s", "--simulated")
    terminal.read_until(lambda shown: b"since start" in shown)
    terminal.process.send_signal(number)
    terminal.read_to_the_end()
    assert terminal.process.returncode == code
    assert b"Traceback" not in terminal.shown
    assert terminal.shown.rindex(b"\x1b[?25h") > terminal.shown.rindex(b"\x1b[?25l")
    before, _, after = terminal.shown.partition(LEAVES_SCREEN)
    assert before.count(ENTERS_SCREEN) == 1
    assert b"BTCUSDT" in after  # the last screen remains


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")
def test_a_terminal_that_becomes_narrow_is_redrawn_at_once() -> None:
    terminal = Terminal("watch", "BTCUSDT", "--every", "1h", "--simulated")
    terminal.read_until(lambda shown: b"waiting for the first sweep" in shown)
    terminal.resize(20)
    terminal.shown = b""
    terminal.process.send_signal(signal.SIGWINCH)  # the system sends none without `controlling`
    terminal.read_until(lambda shown: "waiting for the fir…".encode() in shown)
    terminal.process.send_signal(signal.SIGINT)
    terminal.read_to_the_end()
    assert terminal.process.returncode == 130


def test_the_status_line_counts_lost_sweeps_and_names_the_reason() -> None:
    status = Status(
        sweeps=3,
        rows=7,
        failed=2,
        missed=5,
        lost=4,
        unwritten=1200,
        late=0.25,
        storage_error="full\x1b",
    )
    assert status_line(status) == (
        "sweeps 3, rows 7, slots missed 5, reads failed 2, sweeps lost 4, sweeps unwritten 1,200, "
        "last 0.2 s late, CANNOT WRITE: full\\x1b"
    )
    assert status_line(Status()) == "sweeps 0, rows 0, slots missed 0"


def test_the_line_of_a_terminal_leaves_out_the_schedule_and_then_the_used_weight() -> None:
    status, used = Status(sweeps=12, rows=9468, every=20.0), "used 1600 of 2400"
    counts = "sweeps 12, rows 9,468, slots missed 0, last 0.0 s late"
    shown = {f"{counts}; every 20 s; {used}", f"{counts}; {used}", counts}
    assert {live_line(status, used, width) for width in range(40, 120)} == shown
    assert live_line(status, used, 80) == f"{counts}; {used}"
    assert all(len(live_line(status, used, width)) <= width for width in range(len(counts), 120))
    troubled = Status(missed=2, trouble="outage: no route", storage_error="disk full")
    assert live_line(troubled, used, 80).startswith(
        "CANNOT WRITE: disk full, NO SWEEP: outage: no route, sweeps 0, rows 0"
    )
    troubled = Status(missed=2, trouble=f"outage: {'no route ' * 20}", storage_error="x" * 200)
    line = live_line(troubled, used, 60)
    assert line.startswith("CANNOT WRITE: xxxxx…, NO SWEEP: outage: n…, sweeps 0, ")


@pytest.mark.parametrize("columns", [30, 50, 70])
def test_a_recorder_draws_its_status_on_one_line_of_the_terminal(
    columns: int, tmp_path: Path
) -> None:
    path = str(tmp_path / "oi.db")
    words = ("record", "BTCUSDT", "--to", path, "--every", "1s", "--for", "60s", "--simulated")
    _, seen = seen_on_a_terminal(
        *words, columns=columns, until=lambda shown: re.search("sweeps [1-9]", shown) is not None
    )
    drawn, _, summary = seen.partition("binance-oi: stopped: ")
    lines = CONTROL.sub("\n", drawn).replace("\r", "\n").split("\n")
    assert any(line.startswith("sweeps ") for line in lines)
    assert max(map(len, lines)) <= columns
    assert drawn.count("\x1b[1A") <= 1  # more lines would move the cursor up for each
    rows = f"binance-oi: stopped: {CONTROL.sub('', summary)}".replace("\r", "").split("\n")
    assert max(map(len, rows)) <= columns


async def test_without_a_terminal_the_status_is_printed_as_a_line_at_intervals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(recording, "LINE_S", 0.01)
    async with LocalExchange() as exchange, OpenInterestClient(base_url=exchange.url) as client:
        showing = asyncio.create_task(
            recording._show_status(Recorder(client, tmp_path / "oi.db", every=1.0), client)
        )
        said = ""
        while said.count("\n") < 2:
            await asyncio.sleep(0.01)
            said += capsys.readouterr().err
        showing.cancel()
    line = "sweeps 0, rows 0, slots missed 0; used 0 of 2400"
    for text in said.splitlines()[:2]:
        assert re.fullmatch(rf"binance-oi: 20..-..-..T..:..:..Z {line}", text)


def seen(*values: str, time: int = 0, unchanged: tuple[str, ...] = ()) -> Snapshot:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    names = ("A", "B", "C")
    return Snapshot(
        values_by_symbol={
            n: OpenInterest(n, Decimal(v), time) for n, v in zip(names, values, strict=False)
        },
        errors={},
        started=now,
        finished=now,
        weight=3,
        unchanged=frozenset(unchanged),
    )


def test_the_board_ranks_changes_since_the_last_sweep_and_totals_since_the_start() -> None:
    board = Board("1h")
    assert [v.symbol for v in board.add(seen("100", "10", "1"))] == ["A", "B", "C"]
    changed = board.add(seen("110", "10", "0.5", unchanged=("B",)))
    assert [v.symbol for v in changed] == ["A", "C"]
    assert [name for name, _ in board.top("change", 2)] == ["C", "A"]
    board.add(seen("110", "12", "0.5"))
    assert [name for name, _ in board.top("change", 3)] == ["B", "A", "C"]
    assert [name for name, _ in board.top("total", 3)] == ["C", "B", "A"]
    assert [name for name, _ in board.top("symbol", 1)] == ["A"]
    line = board.lines["B"]
    assert json.loads(change_line(line.latest, line, None, "1h"))["change"] == "2"
    board.add(seen("110", "12"))
    assert list(board.lines) == ["A", "B"]


def test_the_board_shows_changes_over_the_window_from_history() -> None:
    board = Board("10m")
    board.add(seen("110", "10", "1", time=3 * 300_000 + 5))
    assert board.changes == {}
    for name, before in (("A", "100"), ("B", "5"), ("C", "0")):
        rows = [HistoryRow(name, n * 300_000, Decimal(before), Decimal(1)) for n in range(1, 4)]
        board.fill(name, rows)
    assert {name: change.percent for name, change in board.changes.items()} == {
        "A": 10.0,
        "B": 100.0,
        "C": None,
    }
    assert [name for name, _ in board.top("window", 3)] == ["B", "A", "C"]
    assert [name for name, _ in board.top("z", 2)] == ["A", "B"]
    text = drawn(board, 100)
    assert "+100.000 %" in text
    of_a = board.lines["A"]
    line = json.loads(change_line(of_a.latest, of_a, board.changes["A"], "10m"))
    assert (line["window"], line["percent"], line["z_score"]) == ("10m", 10.0, None)
    board.add(seen("110"))
    assert list(board.changes) == ["A"]
    board.add(seen("0.5", time=4_000_000_000_000))  # a time of the year 2096
    assert (board.changes["A"].absolute, len(board.lines)) == (Decimal(10), 1)


def drawn(board: Board, width: int, height: int = 20) -> str:
    now = datetime.fromtimestamp(0, UTC) + timedelta(seconds=4)
    screen = Console(width=width, height=height)
    with screen.capture() as captured:
        screen.print(draw(board, ProcessBudget().pool("").usage, now, VIEW, screen))
    return captured.get()


def test_the_table_shows_every_digit_and_the_budget_and_the_age() -> None:
    board = Board("1h")
    board.add(seen("96012.544", "0.00000010"))
    text = drawn(board, 100)
    for expected in ("96,012.544", "0.00000010", "+0.000 %", "4 s", "used 0 of 2400"):
        assert expected in text


@pytest.mark.parametrize(
    "width, shown",
    [
        (90, "symbol open interest change since start 1h z age trend"),
        (85, "symbol open interest change since start 1h z age"),
        (78, "symbol open interest change since start 1h z"),
        (66, "symbol open interest change 1h z"),
        (59, "symbol open interest change 1h"),
        (47, "symbol open interest 1h"),
        (41, "symbol open interest"),
    ],
)
def test_a_narrow_terminal_has_fewer_columns_and_every_digit(width: int, shown: str) -> None:
    board = Board("1h")
    board.add(seen("51857726234713.12345678"))
    text = drawn(board, width)
    assert " ".join(text.splitlines()[2].split()) == shown
    assert "51,857,726,234,713.12345678" in text


def test_a_low_terminal_has_fewer_lines_and_keeps_the_budget_and_the_warnings() -> None:
    board = Board("1h")
    board.add(seen("1", "2", "3"))
    board.warnings.append("banned")
    lines = drawn(board, 80, height=10).splitlines()
    assert len(lines) <= 10
    assert sum(line.startswith(("  A ", "  B ", "  C ")) for line in lines) == 2
    assert "used 0 of 2400" in lines[-2]
    assert lines[-1] == "banned"


def test_the_heading_describes_the_sweep_and_when_the_next_is_due() -> None:
    slot = datetime(2026, 11, 23, 12, tzinfo=UTC)
    snapshot = replace(seen("1", "2"), slot=slot, finished=slot + timedelta(seconds=0.5))
    snapshot = replace(snapshot, started=slot, next_slot=slot + timedelta(seconds=20))
    said = "2 symbols at 12:00:00 UTC in 0.5 s, "
    assert heading(snapshot, slot + timedelta(seconds=7)) == said + "next in 13 s"
    assert heading(snapshot, slot + timedelta(seconds=90)) == said + "next is 70 s late"
    said = "waiting for the first sweep"
    assert heading(None, slot) == said
    assert heading(None, slot - timedelta(seconds=13), slot) == f"{said} at 12:00:00 UTC, in 13 s"
    assert heading(None, slot + timedelta(seconds=1), slot) == f"{said}, due at 12:00:00 UTC"


def test_a_pipe_of_watch_gets_only_values_and_stderr_says_when_the_first_sweep_comes() -> None:
    with started("watch", QUICK, "--every", "1s", "--simulated") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = process.stderr.readline()
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        process.communicate()
    begins = r"binance-oi: waiting for the first sweep(, due)? at \d\d:\d\d:\d\d UTC(, in \d+ s)?\n"
    assert re.fullmatch(begins, said), said
    assert first["symbol"] == QUICK


@pytest.mark.virtual_time
@pytest.mark.parametrize("every", [20.0, None])
async def test_watch_knows_when_its_first_sweep_is_due(every: float | None) -> None:
    board, said = Board("1h"), list[str]()
    async with simulated_client() as client:
        plan = Plan(client, ["BTCUSDT"], every, notional=False)
        polls = watching._polled(client, plan, board, said.append, wall_time)
        async with aclosing(polls) as polled:
            snapshot = await anext(polled)
    assert board.first is not None
    assert (snapshot.slot, snapshot.missed) == (board.first, ())
    (line,) = said
    assert line.startswith("waiting for the first sweep")
    assert f" at {board.first:%T} UTC" in line


@pytest.mark.virtual_time
async def test_watch_says_no_time_for_a_schedule_that_does_not_fit() -> None:
    board, said = Board("1h"), list[str]()
    async with simulated_client() as client:
        plan = Plan(client, None, 1.0, notional=False)
        async with aclosing(watching._polled(client, plan, board, said.append)) as polled:
            with pytest.raises(MisfitError):
                await anext(polled)
    assert (board.first, said) == (None, [])


def test_a_sparkline_spans_the_lowest_to_the_highest_value() -> None:
    assert sparkline(map(Decimal, (1, 8, 4))) == "▁█▄"
    assert sparkline([Decimal(5)] * 3) == "▁▁▁"


def test_the_budget_line_shows_a_cooldown() -> None:
    pool = ProcessBudget().pool("")
    pool.hold(60.0)
    assert "nothing is sent before" in gauge(pool.usage)


def test_the_budget_line_counts_waiting_calls_by_reason() -> None:
    usage = ProcessBudget().pool("test").usage
    assert "waiting" not in gauge(usage)
    one = replace(usage, waiting_for={Reason.MINUTE_FULL: 1})
    assert gauge(one).endswith(" used 0 of 2400, 1 call waiting: minute full")
    many = replace(usage, waiting_for={Reason.PACE: 20})
    assert gauge(many).endswith(", 20 calls waiting: pace")
    shared = replace(usage, waiting_for={Reason.LEASE: 2})
    assert gauge(shared).endswith(", 2 calls waiting: server of the shared budget")
