"""A reader that notices damage to a file raises a `RecordingError` that names the file.

Rule of this file: each test makes a valid file and damages it. A reader may notice nothing, because
SQLite reads only the pages that it needs. But none of our readers raises any other error.
"""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from binance_oi import RecordingError
from binance_oi.cli import main
from binance_oi.output.chart import plot
from binance_oi.output.curve import curve
from binance_oi.output.export import export
from binance_oi.output.report import report, write_report
from binance_oi.recorder import Recorder, Recording
from binance_oi.recorder.connection import Connection
from binance_oi.recorder.opening import check_source
from binance_oi.recorder.schema import PAGE_SIZE
from support.lanes import some, thorough
from support.recorded import BEGIN, write_recording
from support.recording_process import Reader

BEGIN_MS = round(BEGIN.timestamp() * 1000)
NUMBER = b"77777.125"  # occurs once in the file
Captured = pytest.CaptureFixture[str]


def _fill(path: Path) -> None:
    """Write many pages of every table."""
    times = [BEGIN_MS + number * 60_000 for number in range(10, 1500)]
    with closing(sqlite3.connect(path, factory=Connection)) as connection, connection:
        for table, symbols in (("settled", ("BTCUSDT", "ETHUSDT")), ("recent", ("SOLUSDT",))):
            rows = [(s, at, f"{n}.25", at, None) for s in symbols for n, at in enumerate(times)]
            connection.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?)", rows)
        # This row is the last one of its symbol, so a reader meets it late in an iteration.
        number = (NUMBER.decode(), BEGIN_MS + 10**8)
        connection.execute("INSERT INTO settled VALUES ('BTCUSDT', ?2, ?1, ?2, NULL)", number)
        connection.executemany(
            "INSERT INTO sweeps VALUES (?1, 60000, ?1, ?1, 3, 3, 3, 3)", [(at,) for at in times]
        )
        gaps = [("", at, at, 60_000, "outage", "") for at in range(10**6, 10**6 + 500)]
        gaps += [("ETHUSDT", at, at, 60_000, "outage", "") for at in times]
        connection.executemany("INSERT INTO gaps VALUES (?, ?, ?, ?, ?, ?)", gaps)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = write_recording(tmp_path_factory.mktemp("whole") / "oi.db")
    _fill(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        connection.execute("PRAGMA journal_mode = DELETE")
    content = path.read_bytes()
    assert content.count(NUMBER) == 1
    return content


def zeros(content: bytes, page: int) -> bytes:
    at = page * PAGE_SIZE
    return content[:at] + bytes(PAGE_SIZE) + content[at + PAGE_SIZE :]


def noise(content: bytes, page: int) -> bytes:
    at = page * PAGE_SIZE
    return content[:at] + Random(page).randbytes(PAGE_SIZE) + content[at + PAGE_SIZE :]


def swapped(content: bytes, page: int) -> bytes:
    """Replace a page by another page of the file."""
    at, other = page * PAGE_SIZE, (page * 7 + 3) % (len(content) // PAGE_SIZE) * PAGE_SIZE
    return content[:at] + content[other : other + PAGE_SIZE] + content[at + PAGE_SIZE :]


def cut(content: bytes, page: int) -> bytes:
    return content[: page * PAGE_SIZE + page % 2 * 100]


def not_sqlite(content: bytes, page: int) -> bytes:
    return content[:PAGE_SIZE] + Random(page).randbytes(len(content) - PAGE_SIZE)


def bit(content: bytes, page: int) -> bytes:
    """Flip one bit in every 64 bytes of a page."""
    changed, chance = bytearray(content), Random(page)
    for at in range(page * PAGE_SIZE, (page + 1) * PAGE_SIZE, 64):
        changed[at + chance.randrange(64)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def ways(path: Path) -> dict[str, Callable[[], object]]:
    out = path.parent / "out"
    out.mkdir(exist_ok=True)

    def with_it(use: Callable[[Recording], object]) -> Callable[[], object]:
        def run() -> object:
            with Recording(path) as opened:
                return use(opened)

        return run

    reading: dict[str, Callable[[Recording], object]] = {
        "source": lambda it: it.source,
        "symbols": lambda it: it.symbols(),
        "samples": lambda it: list(it.samples(["BTCUSDT", "ETHUSDT"])),
        "rows of all": lambda it: list(it.samples().rows()),
        "batches": lambda it: list(it.samples().batches()),
        "columns": lambda it: it.samples().to_columns(),
        "span of samples": lambda it: it.samples().span(),
        "curve": lambda it: curve(it.samples(["BTCUSDT"])),
        "first_and_last": lambda it: list(it.first_and_last()),
        "span": lambda it: it.span(),
        "sweeps": lambda it: list(it.sweeps()),
        "missed": lambda it: it.missed(),
        "gaps": lambda it: list(it.gaps()),
        "gaps of one": lambda it: list(it.gaps("ETHUSDT")),
        "failures": lambda it: list(it.failures()),
        "csv": lambda it: export(it, out / "oi.csv", replace=True),
        "jsonl": lambda it: export(it, out / "oi.jsonl", replace=True),
        "report": report,
        "page": lambda it: write_report(it, out / "oi.html"),
        "backup": lambda it: it.backup(out / "copy.db", replace=True),
    }
    return {name: with_it(use) for name, use in reading.items()} | {
        "source of a recorder": lambda: check_source(path, "local")
    }


def errors(path: Path) -> dict[str, str]:
    """Return the message of each way of reading that finds damage; other errors fail the test."""
    said = dict[str, str]()
    for name, way in ways(path).items():
        try:
            way()
        except RecordingError as error:
            said[name] = str(error)
    return said


@pytest.mark.parametrize("damage", [cut, *thorough(zeros, not_sqlite, noise, swapped, bit)])
def test_damage_is_reported_only_as_an_error_that_names_the_file(
    intact: bytes, tmp_path: Path, damage: Callable[[bytes, int], bytes]
) -> None:
    path, said = tmp_path / "oi.db", dict[str, set[str]]()
    pages = len(intact) // PAGE_SIZE
    for page in [*range(1, 9), *Random(5).sample(range(9, pages), 12)]:
        path.write_bytes(damage(intact, page))
        for name, error in errors(path).items():
            said.setdefault(name, set()).add(error)
    assert said
    assert all(str(path) in error for errors in said.values() for error in errors)
    if damage in (cut, not_sqlite):
        assert {"samples", "batches", "sweeps", "report", "csv", "backup"} <= said.keys()
    left = [file.name for file in (tmp_path / "out").iterdir() if file.name.startswith(".")]
    assert not left


def test_an_intact_file_is_readable_in_every_way(intact: bytes, tmp_path: Path) -> None:
    path = tmp_path / "oi.db"
    path.write_bytes(intact)
    for way in ways(path).values():
        way()


def test_damage_raises_the_same_error_in_the_middle_of_an_iteration(
    intact: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("binance_oi.recorder.samples.ROWS_PER_CHECK", 100)
    path = tmp_path / "oi.db"
    path.write_bytes(intact)
    with Recording(path) as recording:
        running = iter(recording.samples(["BTCUSDT"]))
        assert next(running).symbol == "BTCUSDT"
        with path.open("r+b") as file:
            file.seek(PAGE_SIZE)
            file.write(bytes(len(intact) - PAGE_SIZE))
        with pytest.raises(RecordingError, match=r"oi\.db"):
            list(running)


@pytest.mark.parametrize("text", [b"77x77.125", b"77777..12", b"-nan(ind)", b"77777\xff125"])
def test_a_value_that_is_no_number_is_damage_and_is_never_exported(
    intact: bytes, tmp_path: Path, text: bytes
) -> None:
    path = tmp_path / "oi.db"
    path.write_bytes(intact.replace(NUMBER, text))
    raised = errors(path)
    assert all(str(path) in error for error in raised.values())
    wanted = {"samples", "rows of all", "batches", "columns", "curve", "csv", "jsonl"}
    assert {*wanted, "first_and_last"} <= raised.keys()
    assert not list((tmp_path / "out").glob("*.csv"))


def _with_sample(path: Path, table: str, symbol: str, value: str, mark: str | None) -> Path:
    write_recording(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        row = (symbol, BEGIN_MS, value, BEGIN_MS, mark)
        connection.execute(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?)", row)
    return path


# SQLite stores all these texts, but the exchange's decoder and an export accept none of them.
NO_NUMBERS = [
    *("5.", ".5", "-.5", "-5.", "-", ".", "", " 5", "5 ", "5\n", "+5", "1_0", "1e3", "0x5"),
    *("nan", "inf", "٥", "５", "9" * 31, f"0.{'9' * 31}", "9" * 400),
]


@pytest.mark.parametrize("table", ["settled", *thorough("recent")])
@pytest.mark.parametrize("mark", [False, True])
@pytest.mark.parametrize("text", some(NO_NUMBERS, always=7))
def test_a_number_that_an_export_could_not_read_back_is_damage(
    tmp_path: Path, table: str, mark: bool, text: str
) -> None:
    path = tmp_path / "oi.db"
    _with_sample(path, table, "ETHUSDT", *(("5", text) if mark else (text, None)))
    with Recording(path) as recording:
        for name in ("oi.csv", "oi.jsonl"):
            with pytest.raises(RecordingError, match=r"oi\.db is damaged"):
                export(recording, tmp_path / name)
            assert not (tmp_path / name).exists()
        with pytest.raises(RecordingError, match=r"oi\.db is damaged"):
            report(recording)


@pytest.mark.parametrize("table", ["settled", *thorough("recent")])
@pytest.mark.parametrize(
    "symbol", ["A,B", "A\nB", "A\r", '"A"', "", "\x1b[2J", "A\tB", "A\u2028B", "A" * 51, "A\0"]
)
def test_a_name_that_an_export_could_not_read_back_is_damage(
    tmp_path: Path, table: str, symbol: str
) -> None:
    path = _with_sample(tmp_path / "oi.db", table, symbol, "5", None)
    with Recording(path) as recording:
        for name in ("oi.csv", "oi.jsonl"):
            with pytest.raises(RecordingError, match=r"oi\.db is damaged") as caught:
                export(recording, tmp_path / name)
            assert str(caught.value).isprintable()
            assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    "symbol", ["A-B", "a", "币安人生USDT", "BTCUSDT_261225", "A" * 50, "A.B 2"]
)
@pytest.mark.parametrize(
    "value", ["5", *thorough("0.00000010", "9" * 30, f"{'9' * 30}.{'9' * 30}", "-5")]
)
def test_every_value_that_a_recorder_may_write_is_exported(
    tmp_path: Path, symbol: str, value: str
) -> None:
    path = _with_sample(tmp_path / "oi.db", "settled", symbol, value, value)
    with Recording(path) as recording:
        for name in ("oi.csv", "oi.jsonl"):
            assert export(recording, tmp_path / name) == 9
            assert export(recording, tmp_path / name) == 0
        report(recording)


def test_an_arrow_stream_names_the_damaged_file(intact: bytes, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "oi.db"
    path.write_bytes(not_sqlite(intact, 1))
    with pytest.raises(RecordingError, match=r"oi\.db"), Recording(path) as recording:
        pyarrow.table(recording.samples())
    path.write_bytes(intact.replace(NUMBER, b"77x77.125"))
    with Recording(path) as recording, pytest.raises(Exception, match=r"oi\.db is damaged"):
        pyarrow.table(recording.samples())
    with Recording(path) as recording, pytest.raises(RecordingError, match=r"oi\.db is damaged"):
        export(recording, tmp_path / "oi.parquet")
    assert not (tmp_path / "oi.parquet").exists()


@pytest.mark.parametrize("command", ["export", "plot", "report", "backup", "record"])
@pytest.mark.parametrize("damage", [cut, not_sqlite])
def test_a_command_reports_damage_in_one_line_and_exits_with_2(
    intact: bytes,
    tmp_path: Path,
    capsys: Captured,
    command: str,
    damage: Callable[[bytes, int], bytes],
) -> None:
    path, out = tmp_path / "oi.db", tmp_path / "out"
    out.mkdir()
    content = damage(intact, 3)
    path.write_bytes(content)
    arguments = {
        "export": ["export", str(path), "--to", str(out / "oi.csv")],
        "plot": ["plot", str(path), "BTCUSDT", "--to", str(out / "oi.svg")],
        "report": ["report", str(path), "--to", str(out / "oi.html")],
        "backup": ["backup", str(path), "--to", str(out / "copy.db")],
        "record": ["record", "BTCUSDT", "--to", str(path), "--simulated"],
    }
    assert main(arguments[command]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"binance-oi: {path} " in said
    assert list(out.iterdir()) == []
    assert path.read_bytes() == content


async def test_a_recorder_refuses_a_damaged_file_and_names_it(
    intact: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "oi.db"
    path.write_bytes(not_sqlite(intact, 1))
    with pytest.raises(RecordingError, match=r"oi\.db cannot be read: "):
        await Recorder(Reader(), path, every=60.0, source="local").run()
    assert os.listdir(tmp_path) == ["oi.db"]


def test_a_chart_of_a_damaged_file_is_refused(intact: bytes, tmp_path: Path) -> None:
    path = tmp_path / "oi.db"
    path.write_bytes(intact.replace(NUMBER, b"77x77.125"))
    with Recording(path) as recording, pytest.raises(RecordingError, match="is damaged"):
        plot(recording, tmp_path / "oi.svg", ["BTCUSDT"])
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert [file.name for file in tmp_path.iterdir()] == ["oi.db"]


@pytest.mark.parametrize("name", ["x" * 255, "x" * 256, "x" * 5000, "no/such/file", "nul\0"])
def test_a_name_that_no_file_can_have_is_a_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecordingError, match="does not exist"):
        Recording(tmp_path / name)


def test_reading_a_closed_recording_raises_recording_error(tmp_path: Path) -> None:
    recording = Recording(write_recording(tmp_path / "oi.db"))
    recording.close()
    with pytest.raises(RecordingError, match=r"oi\.db cannot be read: .*closed"):
        list(recording.sweeps())
