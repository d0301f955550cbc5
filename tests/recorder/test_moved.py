"""Moving, removing or changing a live recording loses no acknowledged sweep that fits into memory.

Rule of this file: files are real, and a plain SQLite connection checks their content. Readers are
other connections.
"""

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from binance_oi.recorder import place, store
from binance_oi.recorder.store import Store
from support import ROOT, TESTS
from support.lanes import some, thorough
from support.patience import wait_briefly
from support.reading import reader_of, reading_earlier_state
from support.recorded import sweep

PERIOD = 60_000  # ms
BEFORE, AFTER = range(5), range(5, 8)  # numbers of the sweeps before and after the change
HANGS = 600.0  # s after which a process counts as hung

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot move an open file")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_briefly(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home / "oi.db"


def renamed(path: Path) -> None:
    path.rename(path.with_name("old.db"))


def directory_renamed(path: Path) -> None:
    path.parent.rename(path.parent.with_name("away"))
    path.parent.mkdir()


def all_moved(path: Path) -> None:
    away = path.parent.with_name("away")
    away.mkdir()
    for file in path.parent.iterdir():
        file.rename(away / file.name)


def linked_and_removed(path: Path) -> None:
    path.with_name("old.db").hardlink_to(path)
    path.unlink()


def removed(path: Path) -> None:
    path.unlink()


def copied_and_removed(path: Path) -> None:
    """Move the file as `mv` does to another file system."""
    shutil.copy(path, path.with_name("old.db"))
    path.unlink()


def replaced(path: Path) -> None:
    other = path.with_name("other.db")
    with closing(Store(other)) as opened:
        opened.save(sweep(100), [], PERIOD)
    other.replace(path)


def copied_and_truncated(path: Path) -> None:
    """Copy and empty the file, as `logrotate` does with `copytruncate`."""
    shutil.copy(path, path.with_name("old.db"))
    os.truncate(path, 0)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwritten(path: Path) -> None:
    """Overwrite the file, as `cp other.db oi.db` does."""
    other = path.with_name("other.db")
    with closing(Store(other)) as opened:
        opened.save(sweep(100), [], PERIOD)
    shutil.copyfile(other, path)


def overwritten_with_a_longer_one(path: Path) -> None:
    other = path.with_name("other.db")
    with closing(Store(other)) as opened:
        for number in range(100, 400):
            opened.save(sweep(number), [], PERIOD)
    shutil.copyfile(other, path)


def log_removed(path: Path) -> None:
    path.with_name("oi.db-wal").unlink()


def index_removed(path: Path) -> None:
    path.with_name("oi.db-shm").unlink()


def sides_removed(path: Path) -> None:
    log_removed(path)
    index_removed(path)


def log_replaced(path: Path) -> None:
    """Replace the log by that of another recording."""
    other = path.with_name("other.db")
    with closing(Store(other)) as opened:
        opened.save(sweep(100), [], PERIOD)
        shutil.copy(path.with_name("other.db-wal"), path.with_name("new"))
    path.with_name("new").rename(path.with_name("oi.db-wal"))


WAYS: list[Callable[[Path], None]] = [
    *(renamed, directory_renamed, all_moved, linked_and_removed),
    *(removed, copied_and_removed, replaced),
]
SIDE_WAYS: list[Callable[[Path], None]] = [log_removed, index_removed, sides_removed, log_replaced]
IN_PLACE: list[Callable[[Path], None]] = [
    *(copied_and_truncated, cut, cut_in_half, overwritten, overwritten_with_a_longer_one),
    *SIDE_WAYS,
]


def slots(path: Path) -> set[int]:
    """Check that a file is valid; return its slots that have a sweep."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {slot for (slot,) in connection.execute("SELECT slot FROM sweeps")}


def slot(number: int) -> int:
    at = sweep(number).slot
    assert at is not None
    return round(at.timestamp() * 1000)


def record_on(path: Path, opened: Store) -> Store:
    """Continue as a recorder does when its file was moved."""
    kept = opened.close(wait=0.0)
    after = Store(path)
    assert [after.restore(each) for each in kept] == [0] * len(kept)
    for number in AFTER:
        after.save(sweep(number), [], PERIOD)
    return after


@pytest.mark.parametrize("read", ["nobody", *thorough("idle", "past")])
@pytest.mark.parametrize("way", some([*WAYS, *IN_PLACE], always=6))
def test_every_acknowledged_sweep_is_in_the_old_file_or_the_new_one(
    path: Path, way: Callable[[Path], None], read: str
) -> None:
    opened = Store(path)
    opened.save(sweep(0), [], PERIOD)
    opened.tidy()
    with closing(reader_of(path)) as reader:
        if read != "nobody":
            reader.execute("BEGIN" if read == "past" else "SELECT 1")
            assert reader.execute("SELECT count(*) FROM sweeps").fetchone() == (1,)
        for number in BEFORE[1:]:
            opened.save(sweep(number), [], PERIOD)
        way(path)
        with pytest.raises(FileNotFoundError):
            opened.save(sweep(5), [], PERIOD)
        record_on(path, opened).close(wait=0.0)  # even while a reader has the old file open
        if read == "past" and way in WAYS:  # in an overwritten file, a reader may see mixed pages
            assert reader.execute("SELECT count(*) FROM sweeps").fetchone() == (1,)
    whole = [file for file in path.parent.parent.rglob("*.db") if file.stat().st_size]
    found = set[int]().union(*(slots(file) for file in whole))
    assert {slot(number) for number in (*BEFORE, *AFTER)} <= found
    assert {slot(number) for number in AFTER} <= slots(path)


ANOTHER_RECORDER = """
import os, sys; from pathlib import Path
from binance_oi.recorder.store import Store
from support.recorded import sweep
now = 0.0
opened = Store(Path(sys.argv[1]), clock=lambda: now)
opened.last_slot()
for number in map(int, sys.argv[3:]):
    opened.save(sweep(number), [], 60_000)
if sys.argv[2] == "is killed":
    os._exit(9)
if sys.argv[2] != "stops":
    if sys.argv[2] == "runs on after a move":
        now += 60.0
        opened.tidy()
    print("open", flush=True)
    sys.stdin.readline()
    opened.save(sweep(299), [], 60_000)
opened.close()
"""


@contextmanager
def another_recorder(path: Path, ends: str, *numbers: int) -> Generator[None]:
    """Let another process record into a file. If it runs on, it saves a last sweep at its end."""
    command = [sys.executable, "-c", ANOTHER_RECORDER, str(path), ends, *map(str, numbers)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=TESTS, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        if ends.startswith("runs"):
            assert process.stdout.readline() == "open\n"
        else:
            assert process.wait(timeout=HANGS) == (9 if ends == "is killed" else 0)
        yield
        process.communicate("\n", timeout=HANGS)
    assert process.returncode == (9 if ends == "is killed" else 0)


@pytest.mark.parametrize("then", ["save", *thorough("tidy", "stop")])
@pytest.mark.parametrize(
    "ends, number",
    [
        *[("stops", 30), ("runs", 1)],
        *thorough(("is killed", 1), ("runs", 0), ("runs on after a move", 30)),
    ],
)
def test_two_recorders_of_one_moved_file_lose_nothing(
    path: Path, ends: str, number: int, then: str
) -> None:
    """SQLite does not notice that both have one file open, because each of them has its own log."""
    now = 0.0
    opened = Store(path, clock=lambda: now)
    for each in BEFORE:
        opened.save(sweep(each), [], PERIOD)
        if each == 1:
            now += store.CHECKPOINT_AFTER
            opened.tidy()
    renamed(path)
    old = path.with_name("old.db")
    theirs = range(200, 200 + number)
    with another_recorder(old, ends, *theirs):
        before = old.read_bytes()
        if then == "tidy":
            now += store.CHECKPOINT_AFTER
            opened.tidy()
        if then == "save":
            with pytest.raises(FileNotFoundError):
                opened.save(sweep(5), [], PERIOD)
        record_on(path, opened).close()
        assert old.read_bytes() == before
    acknowledged = {slot(each) for each in (*theirs, *[299] * ends.startswith("runs"))}
    assert acknowledged | {slot(0), slot(1)} <= slots(old)
    assert {slot(each) for each in (*BEFORE[2:], *AFTER)} <= slots(path)


def test_a_moved_file_is_complete_and_leaves_no_side_file(
    path: Path,
) -> None:
    opened = Store(path)
    for number in BEFORE:
        opened.save(sweep(number), [], PERIOD)
    renamed(path)
    assert opened.close() == []
    assert [file.name for file in path.parent.iterdir()] == ["old.db"]
    assert len(slots(path.with_name("old.db"))) == len(BEFORE)


def test_the_log_follows_a_moved_file_while_an_earlier_state_is_read(path: Path) -> None:
    opened = Store(path)
    opened.save(sweep(0), [], PERIOD)
    opened.tidy()
    with reading_earlier_state(path):
        opened.save(sweep(1), [], PERIOD)
        renamed(path)
        assert opened.close(wait=0.0) == []
        left = sorted(file.name for file in path.parent.iterdir())
        assert left == ["old.db", "old.db-shm", "old.db-wal"]
    assert slots(path.with_name("old.db")) == {slot(0), slot(1)}


def test_the_content_of_a_log_that_cannot_follow_its_file_is_written_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "name_of", lambda _: None)  # some systems show no name
    opened = Store(path)
    opened.save(sweep(0), [], PERIOD)
    opened.tidy()
    with reading_earlier_state(path):
        opened.save(sweep(1), [], PERIOD)
        renamed(path)
        record_on(path, opened).close()
    assert slots(path) == {slot(number) for number in (1, *AFTER)}


def test_sweeps_checkpointed_while_mv_copies_the_file_are_written_again(
    path: Path,
) -> None:
    now = 0.0
    opened = Store(path, clock=lambda: now)
    opened.tidy()
    opened.save(sweep(0), [], PERIOD)
    shutil.copy(path, path.with_name("old.db"))
    now += store.CHECKPOINT_AFTER
    opened.tidy()
    path.unlink()
    record_on(path, opened).close()
    assert slots(path) == {slot(number) for number in (0, *AFTER)}


def test_sweeps_of_a_file_that_replaced_ours_are_not_overwritten(path: Path) -> None:
    other = path.with_name("other.db")
    with closing(Store(other)) as opened:
        opened.save(sweep(3), [], 7)
    opened = Store(path)
    for number in BEFORE:
        opened.save(sweep(number), [], PERIOD)
    other.replace(path)
    record_on(path, opened).close()
    with closing(sqlite3.connect(path)) as connection:
        periods = dict(connection.execute("SELECT slot, period FROM sweeps"))
        new, rows = connection.execute(
            "SELECT sum(new), (SELECT count(*) FROM samples) FROM sweeps"
        ).fetchone()
    assert {number: periods[slot(number)] for number in BEFORE} == {
        number: 7 if number == 3 else PERIOD for number in BEFORE
    }
    assert new == rows


def test_sweeps_beyond_the_memory_bound_keep_their_slots_and_count_as_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "KEPT_ROWS", 6)  # two sweeps of three symbols
    opened = Store(path)
    for number in (2, 3, 4, 5):
        opened.save(sweep(number), [], PERIOD)
    path.unlink()
    kept = opened.close()
    with closing(Store(path)) as after:
        assert sum(after.restore(each) for each in kept) == 2
    assert slots(path) == {slot(4), slot(5)}
    with closing(sqlite3.connect(path)) as connection:
        gaps = connection.execute("SELECT first, last, reason FROM gaps").fetchall()
    assert gaps == [(slot(2), slot(3), "storage")]


def test_the_log_of_a_killed_recorder_survives_the_move_of_its_file(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    child = (
        "import os, sys; from pathlib import Path; from binance_oi.recorder.store import Store\n"
        "from support.recorded import sweep\n"
        "store = Store(Path(sys.argv[1])); store.save(sweep(0), [], 60_000); os._exit(9)"
    )
    os.spawnve(
        os.P_WAIT,
        sys.executable,
        [sys.executable, "-c", child, str(path)],
        {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (TESTS, ROOT)))},
    )
    old = path.with_name("old.db")
    path.rename(old)
    with caplog.at_level(logging.WARNING, "binance_oi"), closing(Store(path)) as opened:
        opened.save(sweep(1), [], PERIOD)
    assert "oi.db-wal is the log of a recording that was moved away" in caplog.text
    path.with_name("oi.db-wal.1").rename(path.with_name("old.db-wal"))
    assert (slots(old), slots(path)) == ({slot(0)}, {slot(1)})


@pytest.mark.parametrize("way", some(IN_PLACE, always=4))
def test_nothing_is_checkpointed_into_a_file_that_was_changed_in_place(
    path: Path, way: Callable[[Path], None]
) -> None:
    now = 0.0
    opened = Store(path, clock=lambda: now)
    for number in BEFORE:
        opened.save(sweep(number), [], PERIOD)
        opened.tidy()
    opened.save(sweep(5), [], PERIOD)
    way(path)
    before = path.read_bytes()
    now += store.CHECKPOINT_AFTER
    opened.tidy()
    kept = opened.close()
    if way not in SIDE_WAYS:
        left = [p for p in (path, path.with_name("oi.db.1")) if p.exists()]
        assert [file.read_bytes() for file in left] == [before][: len(before)]
        assert {k.snapshot.slot for k in kept if k.snapshot} >= {sweep(5).slot}
    else:  # SQLite still has the old log and its index open
        assert kept == []
        assert slots(path) == {slot(number) for number in (*BEFORE, 5)}


@pytest.mark.parametrize("way", SIDE_WAYS)
def test_a_stop_after_the_log_was_removed_leaves_one_complete_file(
    path: Path, way: Callable[[Path], None]
) -> None:
    opened = Store(path)
    for number in BEFORE:
        opened.save(sweep(number), [], PERIOD)
    way(path)
    assert opened.close() == []
    left = {file.name for file in path.parent.iterdir()} - {"other.db"}
    assert left == ({"oi.db", "oi.db-wal.1"} if way is log_replaced else {"oi.db"})
    assert slots(path) == {slot(number) for number in BEFORE}


@pytest.mark.parametrize("moved", [False, True])
def test_a_removed_log_that_a_reader_blocks_is_written_again(path: Path, moved: bool) -> None:
    opened = Store(path)
    opened.save(sweep(0), [], PERIOD)
    opened.tidy()
    with reading_earlier_state(path):
        opened.save(sweep(1), [], PERIOD)
        log_removed(path)
        if moved:
            renamed(path)
        kept = opened.close(wait=0.0)
        with closing(Store(path)) as after:
            assert [after.restore(each) for each in kept] == [0] * len(kept)
    assert slots(path) >= ({slot(1)} if moved else {slot(0), slot(1)})


def test_recording_continues_in_a_file_that_a_vacuum_has_shortened(path: Path) -> None:
    opened = Store(path)
    for number in range(300):
        opened.save(sweep(number), [], PERIOD)
    opened.tidy()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("DELETE FROM settled")
        other.execute("VACUUM")
        before = path.stat().st_size
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    assert path.stat().st_size < before
    assert opened.save(sweep(300), [], PERIOD) == 3
    opened.close()
    assert len(slots(path)) == 301
