"""A copy of a recording gets its name only when it is complete, even while a recorder writes.

The rule of this file: tests read a copy in a directory without any other file. The processes that
they kill are real.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from binance_oi import RecordingError
from binance_oi.cli import main
from binance_oi.recorder import Recording, backup
from binance_oi.recorder.lock import RecorderLock
from binance_oi.recorder.store import Store
from support import SUPPORT, TESTS
from support.lanes import thorough
from support.recorded import sweep, write_recording

PERIOD = 60_000
CHILD = SUPPORT / "recording_process.py"
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "oi.db")


def checked_slots(path: Path) -> list[int]:
    """Check that a copy is valid without any other file; return its slots."""
    alone = path.with_name("alone") / "copy.db"
    alone.parent.mkdir(exist_ok=True)
    shutil.copy(path, alone)
    with Recording(alone) as recording:
        slots = [s.slot for s in recording.sweeps()]
        new = sum(s.new for s in recording.sweeps())
        assert len(list(recording.samples())) == new
        assert [*recording._tables.rows("PRAGMA integrity_check")] == [("ok",)]
    assert [file.name for file in alone.parent.iterdir()] == ["copy.db"]
    shutil.rmtree(alone.parent)
    return slots


def test_every_copy_of_a_live_recording_has_all_acknowledged_sweeps(tmp_path: Path) -> None:
    path, copy = tmp_path / "oi.db", tmp_path / "copy.db"
    command = [sys.executable, str(CHILD), str(path), "0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        acknowledged = list[int]()
        for _ in range(5):
            acknowledged += [int(process.stdout.readline().split()[0]) for _ in range(4)]
            with Recording(path) as recording:
                recording.backup(copy, replace=True)
            assert set(acknowledged) <= set(checked_slots(copy))
        process.kill()


def test_a_copy_is_one_file_with_the_same_rows_and_can_be_continued(path: Path) -> None:
    copy = path.with_name("copy.db")
    opened = Store(path, "local")
    opened.save(sweep(5), [], PERIOD)
    with Recording(path) as recording:
        recording.backup(str(copy))
        assert sorted(f.name for f in path.parent.glob("*copy*")) == ["copy.db"]
        with Recording(copy) as other:
            assert list(other.samples()) == list(recording.samples())
            assert (other.source, list(other.gaps())) == ("local", list(recording.gaps()))
    opened.close()
    with closing(Store(copy, "local")) as opened:
        opened.save(sweep(6), [], PERIOD)
    with Recording(copy) as other:
        assert len(list(other.sweeps())) == 5


def test_on_pages_gets_the_number_of_copied_pages(path: Path) -> None:
    progress = list[tuple[int, int]]()
    with Recording(path) as recording:
        recording.backup(path.with_name("copy.db"), on_pages=lambda *pages: progress.append(pages))
    assert progress[-1][0] == progress[-1][1] > 0


@pytest.mark.parametrize(
    "name", ["oi.db", "oi.db-wal", "oi.db-shm", "oi.db-lock", "link.db", "linked-wal", "hard.db"]
)
def test_the_recording_and_its_side_files_are_refused_as_targets(path: Path, name: str) -> None:
    path.with_name("link.db").symlink_to(path)
    path.with_name("hard.db").hardlink_to(path)
    path.with_name("linked-wal").symlink_to(path.with_name("oi.db-wal"))
    before = path.read_bytes()
    for live in (False, True):
        opened = Store(path) if live else None
        said = r"is the recording itself|belongs to the recording"
        with Recording(path) as recording, pytest.raises(RecordingError, match=said):
            recording.backup(path.with_name(name), replace=True)
        if opened is not None:
            opened.close()
    assert path.read_bytes() == before


def test_an_existing_file_is_replaced_only_with_replace(path: Path) -> None:
    copy, link, other = (path.with_name(name) for name in ("copy.db", "link", "other"))
    copy.write_text("precious")
    link.symlink_to(other)  # the link leads to a missing file
    with Recording(path) as recording:
        for target in (copy, link):
            with pytest.raises(RecordingError, match="already exists; replace=True replaces it"):
                recording.backup(target)
        with pytest.raises(RecordingError, match="is a directory"):
            recording.backup(path.parent, replace=True)
        assert copy.read_text() == "precious"
        recording.backup(copy, replace=True)
        recording.backup(link, replace=True)
    assert not other.exists()
    assert len(checked_slots(copy)) == len(checked_slots(link)) == 3


def test_the_log_of_a_replaced_recording_does_not_get_into_the_copy(path: Path) -> None:
    copy = path.with_name("copy.db")
    child = (
        "import os, sys; from pathlib import Path; from binance_oi.recorder.store import Store\n"
        "from support.recorded import sweep\n"
        "store = Store(Path(sys.argv[1]))\n"
        "for number in range(50, 60): store.save(sweep(number), [], 60_000)\n"
        "os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", child, str(copy)], cwd=TESTS, check=False)
    assert copy.with_name("copy.db-wal").stat().st_size
    with Recording(path) as recording:
        recording.backup(copy, replace=True)
    with Recording(copy) as recording:
        assert len(list(recording.sweeps())) == 3


def test_a_file_with_a_running_recorder_is_not_replaced(path: Path) -> None:
    copy = path.with_name("copy.db")
    lock = RecorderLock(copy)
    with Recording(path) as recording, pytest.raises(RecordingError, match="by process"):
        recording.backup(copy)
    lock.close()
    assert not copy.exists()


def test_a_planted_link_at_the_name_of_the_temporary_file_is_not_followed(path: Path) -> None:
    victim = path.with_name("victim")
    victim.write_text("precious")
    path.with_name(".copy.db.part").symlink_to(victim)
    with Recording(path) as recording:
        recording.backup(path.with_name("copy.db"))
    assert victim.read_text() == "precious"
    assert len(checked_slots(path.with_name("copy.db"))) == 3


KILLED = """
import os, signal, sys
from binance_oi.recorder import Recording, backup
backup.PAGES_PER_STEP = 100
with Recording(sys.argv[1]) as recording:
    kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
    recording.backup(sys.argv[2], on_pages=lambda done, total: done * 2 > total and kill())
"""


def test_a_killed_copy_leaves_no_file_that_opens_as_a_recording(
    path: Path,
) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "WITH RECURSIVE n(time) AS (SELECT 0 UNION ALL SELECT time + 1 FROM n LIMIT 40000)"
            " INSERT INTO settled SELECT 'BTCUSDT', time, '1.' || time, time, NULL FROM n"
        )
    copy = path.with_name("copy.db")
    with Recording(path):  # SQLite makes the side files that it needs to read
        before = set(path.parent.iterdir())
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(copy)], check=False)
    assert done.returncode == -signal.SIGKILL
    left = [file for file in path.parent.iterdir() if file not in before]
    assert max(file.stat().st_size for file in left) > 200_000  # the copy had begun
    assert not copy.exists()
    for file in left:
        with pytest.raises(RecordingError):
            Recording(file)
    with Recording(path) as recording:
        recording.backup(copy)
    assert {file.name for file in path.parent.iterdir() if file not in before} == {"copy.db"}
    assert len(btc_times(copy)) == 40_000 + 2


def btc_times(path: Path) -> list[int]:
    with Recording(path) as recording:
        return recording.samples(["BTCUSDT"]).to_columns()["time"][:200_000]


def test_a_failed_copy_raises_recording_error_and_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(backup, "_copy_pages", full)
    with Recording(path) as recording:
        with pytest.raises(RecordingError, match=r"copy\.db cannot be written: .* disk is full"):
            recording.backup(path.with_name("copy.db"))
        with pytest.raises(RecordingError, match="cannot be written: No such file"):
            recording.backup(path.parent / "nowhere" / "copy.db")
    assert not [file for file in path.parent.iterdir() if "copy" in file.name]


def test_the_command_copies_and_exits_with_2_when_it_refuses(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(path.parent)
    assert main(["backup", "oi.db", "--to", "copy.db"]) == 0
    assert capsys.readouterr().err == "binance-oi: oi.db copied to copy.db\n"
    assert len(checked_slots(path.with_name("copy.db"))) == 3
    for target in ("copy.db", "oi.db", "oi.db-wal", "nowhere/copy.db"):
        assert main(["backup", "oi.db", "--to", target]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert main(["backup", "oi.db", "--to", "copy.db", "--replace"]) == 0
    assert main(["backup", "none.db", "--to", "copy.db"]) == 2
    assert os.listdir(path.parent).count("copy.db") == 1


@pytest.mark.parametrize("replace", [False, True])
def test_a_users_file_beside_the_copy_is_kept_whatever_its_name(path: Path, replace: bool) -> None:
    names = (".copy.db.part", ".copy.db.part-journal", "copy.db.part", ".copy.db", ".binance-oi-x")
    for name in names:
        path.with_name(name).write_text(f"precious {name}")
    with Recording(path) as recording:
        recording.backup(path.with_name("copy.db"), replace=replace)
    assert len(checked_slots(path.with_name("copy.db"))) == 3
    for name in names:
        assert path.with_name(name).read_text() == f"precious {name}"


@pytest.mark.parametrize("length", [216, 217, 239, 246, 247, 248, 250, 251, 254, 255])
@pytest.mark.parametrize("letter", ["x", *thorough("\u5e01")])
def test_a_copy_may_have_the_longest_possible_name(path: Path, length: int, letter: str) -> None:
    name = letter * (length // len(letter.encode()))
    name += "x" * (length - len(name.encode()))
    copy = path.with_name(name)
    with Recording(path) as recording:
        recording.backup(copy)
        with pytest.raises(RecordingError, match="already exists"):
            recording.backup(copy)
        recording.backup(copy, replace=True)
    assert len(checked_slots(copy)) == 3
    assert {file.name for file in path.parent.iterdir()} <= {
        "oi.db",
        name,
        "oi.db-wal",
        "oi.db-shm",
    }


def test_a_name_that_is_too_long_raises_recording_error(path: Path) -> None:
    with Recording(path) as recording, pytest.raises(RecordingError, match="File name too long"):
        recording.backup(path.with_name("x" * 256))
    assert [file for file in path.parent.iterdir() if not file.name.startswith("oi.db")] == []


@pytest.mark.parametrize("error", [OSError(5, "of mine"), sqlite3.Error("of mine"), ValueError()])
def test_an_error_from_on_pages_reaches_the_caller_unchanged(path: Path, error: Exception) -> None:
    def fail(*_: int) -> None:
        raise error

    with Recording(path) as recording, pytest.raises(type(error)) as raised:
        recording.backup(path.with_name("copy.db"), on_pages=fail)
    assert raised.value is error
    assert not [file for file in path.parent.iterdir() if "copy" in file.name or "unf" in file.name]


@pytest.mark.parametrize("damage", ["zeros", "a page", "cut", "cut while it is copied"])
def test_a_damaged_recording_is_named_and_does_not_replace_an_earlier_copy(
    path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [("BTCUSDT", time, f"1.{time}", time, None) for time in range(5000)]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("INSERT INTO settled VALUES (?, ?, ?, ?, ?)", rows)
    copy = path.with_name("copy.db")
    monkeypatch.setattr(backup, "PAGES_PER_STEP", 20)
    with Recording(path) as recording:
        recording.backup(copy)
        before = copy.read_bytes()
        content = path.read_bytes()
        zeros = bytes(len(content) - 40 * 1024)
        end = {"zeros": zeros, "a page": bytes(1024) + content[41 * 1024 :], "cut": b""}
        if damage in end:
            path.write_bytes(content[: 40 * 1024] + end[damage])

        def cut(*_: int) -> None:
            if damage not in end:
                os.truncate(path, 100 * 1024)

        with pytest.raises(RecordingError, match=r"oi\.db (is damaged|cannot be read)"):
            recording.backup(copy, replace=True, on_pages=cut)
    assert copy.read_bytes() == before


@pytest.mark.parametrize("ending", ["-wal", "-journal"])
@pytest.mark.parametrize("there", [None, "a text", ""])
def test_a_foreign_log_beside_the_copy_is_neither_removed_nor_applied(
    path: Path, ending: str, there: str | None
) -> None:
    copy, log = path.with_name("copy.db"), path.with_name(f"copy.db{ending}")
    log.write_text("the last sweeps of a recorder that was killed")
    if there is not None:
        copy.write_text(there)
    with Recording(path) as recording:
        with pytest.raises(RecordingError, match=rf"copy\.db{ending} is the log of another file"):
            recording.backup(copy, replace=True)
        assert log.read_text() == "the last sweeps of a recorder that was killed"
        assert (copy.read_text() if copy.exists() else None) == there
        log.unlink()
        recording.backup(copy, replace=True)
    assert len(checked_slots(copy)) == 3


def test_a_target_that_appears_during_the_copy_is_not_replaced(path: Path) -> None:
    copy = path.with_name("copy.db")
    with Recording(path) as recording, pytest.raises(RecordingError, match="already exists"):
        recording.backup(copy, on_pages=lambda *_: copy.write_text("precious"))
    assert copy.read_text() == "precious"
