"""A recording is read exactly as it was written, and no output may replace one of its files."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from binance_oi import InvalidSymbolError, RecordingError
from binance_oi.recorder import Recording
from binance_oi.recorder.samples import ROWS_PER_BATCH
from binance_oi.recorder.sides import beside
from support.lanes import thorough
from support.recorded import BEGIN, EVERY, PRICE, VALUES, write_recording

HANGS = 600.0  # s after which a process counts as hung


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "oi.db")


def test_samples_are_sorted_by_symbol_and_time_and_have_exact_numbers(path: Path) -> None:
    with Recording(path) as recording:
        assert recording.symbols() == tuple(sorted(VALUES))
        samples = list(recording.samples())
    assert [(s.symbol, s.time) for s in samples] == sorted((s.symbol, s.time) for s in samples)
    assert len(samples) == 3 * 3 - 1
    bitcoin = [s for s in samples if s.symbol == "BTCUSDT"]
    assert [f"{s.open_interest:f}" for s in bitcoin] == ["96012.544", "96052.544"]
    assert bitcoin[0].mark_price == Decimal(PRICE)
    assert bitcoin[0].received - bitcoin[0].time == 2625
    assert f"{samples[-1].open_interest:f}" == VALUES["币安人生USDT"]
    assert samples[-1].mark_price is None


def test_columns_equal_rows(path: Path) -> None:
    with Recording(path) as recording:
        samples = recording.samples()
    columns = samples.to_columns()
    assert list(zip(*columns.values(), strict=True)) == [tuple(s) for s in samples]


def test_a_range_includes_its_start_and_excludes_its_end(path: Path) -> None:
    with Recording(path) as recording:
        first, second = (s.time for s in recording.samples(["BTCUSDT"]))
        since, until = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (first, second))
        found = recording.samples(["btcusdt"], since=since, until=until)
        assert [s.time for s in found] == [first]
        assert found.span() == (first, first)
        assert recording.samples(until=since).span() is None


def test_sweeps_and_gaps_and_the_time_span_are_readable(path: Path) -> None:
    with Recording(path) as recording:
        assert [sweep.read for sweep in recording.sweeps()] == [3, 2, 3]
        assert [str(gap) for gap in recording.gaps()] == [
            "2026-11-24 00:00:00 to 2026-11-24 00:01:00 UTC: banned (until 00:02)"
        ]
        assert [gap.reason for gap in recording.gaps("BTCUSDT")] == ["outage"]
        assert recording.missed() == 2
        assert recording.span() == (BEGIN, BEGIN + 4 * EVERY)


def test_a_symbol_that_was_never_recorded_is_an_error(path: Path) -> None:
    with Recording(path) as recording:
        with pytest.raises(RecordingError, match="has no ETHUSDT, XRPUSDT"):
            recording.samples(["XRPUSDT", "BTCUSDT", "ETHUSDT"])
        with pytest.raises(InvalidSymbolError):
            recording.samples(["no symbol"])
        with pytest.raises(ValueError, match="has no time zone"):
            recording.samples(since=datetime(2026, 11, 23))


def test_a_missing_or_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="does not exist"):
        Recording(tmp_path / "oi.db")
    (tmp_path / "empty.db").touch()
    with pytest.raises(RecordingError, match="is empty"):
        Recording(tmp_path / "empty.db")
    assert (tmp_path / "empty.db").stat().st_size == 0


def test_reading_leaves_the_file_as_it_was(path: Path) -> None:
    before = path.read_bytes()
    with Recording(path) as recording:
        list(recording.samples())
        with pytest.raises(RecordingError, match="readonly"):
            recording._tables.rows("DELETE FROM settled")
    assert path.read_bytes() == before


def test_batches_together_contain_every_row(path: Path) -> None:
    rows = [("BTCUSDT", time, "1.5", time, None) for time in range(ROWS_PER_BATCH + 10)]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("INSERT INTO settled VALUES (?, ?, ?, ?, ?)", rows)
    with Recording(path) as recording:
        batches = [len(b.symbol) for b in recording.samples(["BTCUSDT"]).batches()]
    assert batches == [ROWS_PER_BATCH, 12]


def test_reading_works_without_any_extra(path: Path) -> None:
    source = (
        "import sys; sys.modules.update(dict.fromkeys(['pyarrow', 'cyclopts', 'rich']))\n"
        "from binance_oi.recorder import Recording\n"
        f"print(len(Recording({str(path)!r}).samples().to_columns()['symbol']))"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("8\n", "")


def others_name(kind: str, own: Path, tmp_path: Path) -> Path:
    """A name of the given kind that leads to `own`."""
    if kind == "relative":
        return Path(os.path.relpath(own))
    if kind == "other case":
        return own.with_name(own.name.upper())
    if kind == "linked directory":
        (tmp_path / "other").symlink_to(own.parent)
        return tmp_path / "other" / own.name
    if kind == "detour":
        return own.parent / ".." / own.parent.name / own.name
    if kind == "link":
        (tmp_path / "link").symlink_to(own)
        return tmp_path / "link"
    if kind == "hard link":
        os.link(own, tmp_path / "link")
        return tmp_path / "link"
    return own


MEETS_A_PIPE = """
import sys; from pathlib import Path
from binance_oi import RecordingError
from binance_oi.recorder import Recording
from binance_oi.recorder.opening import check_source
from binance_oi.recorder.store import Store
path, copy = Path(sys.argv[1]), Path(sys.argv[2])
try:
    match sys.argv[3]:
        case "read": Recording(path)
        case "record": Store(path)
        case "check": check_source(path, None)
        case "backup": Recording(copy).backup(path, replace=True)
except RecordingError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes of POSIX")
@pytest.mark.parametrize("way", ["read", *thorough("record", "check", "backup")])
@pytest.mark.parametrize("ending", ["-wal", *thorough("-journal", "-shm")])
def test_a_pipe_beside_a_recording_is_refused_without_blocking(
    path: Path, ending: str, way: str
) -> None:
    copy = Path(shutil.copy(path, path.with_name("copy.db")))
    pipe = Path(f"{path}{ending}")
    os.mkfifo(pipe)
    before = path.read_bytes()
    command = [sys.executable, "-c", MEETS_A_PIPE, str(path), str(copy), way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, check=True)
    assert f"oi.db{ending} is not a regular file" in done.stdout
    assert pipe.is_fifo()
    assert path.read_bytes() == before


@pytest.mark.parametrize("ending", ["-wal", *thorough("-shm", "-journal"), "-lock"])
@pytest.mark.parametrize(
    "kind",
    ["same", "relative", "other case", "linked directory", "detour", "link", "hard link"],
)
@pytest.mark.parametrize("there", [True, *thorough(False)])
def test_a_side_file_is_refused_as_a_target_under_any_name(
    tmp_path: Path, ending: str, kind: str, there: bool
) -> None:
    (tmp_path / "data").mkdir()
    path = write_recording(tmp_path / "data" / "oi.db")
    own = tmp_path / "data" / f"oi.db{ending}"
    if there or kind == "hard link":
        own.touch()
    with Recording(path) as recording:
        with pytest.raises(RecordingError, match="belongs to the recording"):
            recording.check_target(others_name(kind, own, tmp_path))
        recording.check_target(tmp_path / "data" / "other.db")


def test_a_link_to_a_recording_shares_its_side_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link.db").symlink_to(write_recording(tmp_path / "data" / "oi.db"))
    with (
        Recording(tmp_path / "link.db") as recording,
        pytest.raises(RecordingError, match="belongs to the recording"),
    ):
        recording.check_target(tmp_path / "data" / "oi.db-wal")


@pytest.mark.parametrize("ending", ["-wal", "-shm", "-journal", "-lock", "-WAL"])
def test_the_name_of_any_side_file_is_refused_as_a_target(path: Path, ending: str) -> None:
    with Recording(path) as recording, pytest.raises(RecordingError, match="name of a side file"):
        recording.check_target(path.with_name(f"other.db{ending}"))


def test_a_directory_cannot_take_the_name_of_a_side_file(tmp_path: Path) -> None:
    with Recording(write_recording(tmp_path / "oi")) as recording:
        for target in (tmp_path / "oi-journal", tmp_path / "oi-journal" / "by" / "day"):
            with pytest.raises(RecordingError, match="belongs to the recording"):
                recording.check_target(target)
        recording.check_target(tmp_path / "oi-days")


def test_a_link_to_itself_is_a_recording_error(tmp_path: Path) -> None:
    loop = tmp_path / "loop.db"
    loop.symlink_to(loop)
    assert beside(loop, "-wal").name == "loop.db-wal"  # `Path.resolve` raises before Python 3.13
    with pytest.raises(RecordingError):
        Recording(loop)


def test_a_range_that_ends_before_it_starts_is_an_error(path: Path) -> None:
    since, until = datetime(2026, 11, 24, tzinfo=UTC), datetime(2026, 11, 23, tzinfo=UTC)
    said = (
        r"since \(2026-11-24T00:00:00\+00:00\) is later than until \(2026-11-23T00:00:00\+00:00\)"
    )
    with Recording(path) as recording:
        with pytest.raises(ValueError, match=said):
            recording.samples(since=since, until=until)
        assert list(recording.samples(since=since, until=since)) == []
