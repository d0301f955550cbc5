"""A log, the file `-wal` of SQLite, is applied only to the recording to which it belongs.

A token is a random number in a recording and in its log. It shows that the two belong together.

Rule of this file: most tests kill no recorder, but copy the files of a running one, as a kill would
leave them. If the moment of a kill matters, a test kills a real process. Tests copy files as users
do, and read them with plain SQLite.
"""

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from binance_oi import RecordingError
from binance_oi.recorder import Recording, log, place, store
from binance_oi.recorder.log import FIRST_TOKEN, generation, is_foreign, token_of
from binance_oi.recorder.opening import check_source
from binance_oi.recorder.store import Store
from support import TESTS
from support.lanes import some, thorough
from support.recorded import sweep

PERIOD = 60_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "oi.db"


def killed(path: Path, *steps: object) -> None:
    """Make the files that a recorder leaves when it is killed after these saves and checkpoints."""
    now = 0.0
    opened = Store(path, clock=lambda: now)
    for step in steps:
        if isinstance(step, int):
            opened.save(sweep(step), [], PERIOD)
        else:
            now += store.CHECKPOINT_AFTER
            opened.tidy()
    left = {ending: Path(f"{path}{ending}").read_bytes() for ending in ("", "-wal", "-shm")}
    opened.close()
    for ending, content in left.items():
        Path(f"{path}{ending}").write_bytes(content)


def slot(number: int) -> int:
    at = sweep(number).slot
    assert at is not None
    return round(at.timestamp() * 1000)


def numbers(path: Path) -> list[int]:
    """Check that a file is valid and has every sample; return the numbers of its sweeps."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (rows, new) = connection.execute(
            "SELECT (SELECT count(*) FROM samples), (SELECT sum(new) FROM sweeps)"
        ).fetchone()
        assert rows == (new or 0)
        found = [s for (s,) in connection.execute("SELECT slot FROM sweeps ORDER BY slot")]
        return [(each - slot(0)) // PERIOD for each in found]


def another_recording(path: Path) -> Path:
    other = path.with_name("other.db")
    with closing(Store(other)) as opened:
        for number in range(100, 120):
            opened.save(sweep(number), [], PERIOD)
    return other


def a_killed_recording(path: Path) -> Path:
    """The file of another killed recorder; tests leave its log behind."""
    other = path.with_name("other.db")
    killed(other, *range(100, 110), "tidy", *range(110, 120), "tidy")
    return other


def an_older_version(path: Path) -> Path:
    other = another_recording(path)
    with closing(sqlite3.connect(other)) as connection:
        connection.executescript(
            "DROP TABLE about; DROP TABLE past; DROP TABLE pruned; PRAGMA user_version = 2"
        )
        connection.execute("PRAGMA schema_version = 5")
    return other


def older(path: Path) -> Path:
    """Make a recording as an earlier program without tokens made it."""
    other = another_recording(path)
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("PRAGMA schema_version = 6")
    return other


def our_backup(path: Path, to: Path) -> None:
    with Recording(path) as recording:
        recording.backup(to)


def backup_of_sqlite(path: Path, to: Path) -> None:
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as copy:
        source.backup(copy)


def vacuum_into(path: Path, to: Path) -> None:
    with closing(sqlite3.connect(path)) as source:
        source.execute("VACUUM INTO ?", (str(to),))


def cp(path: Path, to: Path) -> None:
    shutil.copy(path, to)


def replace(path: Path, other: Path) -> None:
    other.replace(path)


def copy_over(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


OTHERS = [another_recording, a_killed_recording, older, an_older_version]
COPIES = [our_backup, backup_of_sqlite, vacuum_into, cp]
HOW = [replace, copy_over]
STEPS = {
    "first": [0],
    "log alone": [0, 1, 2],
    "moved": [0, "tidy", 1, 2],
    "moved and idle": [0, 1, "tidy"],
    "often": [0, "tidy", 1, "tidy", 2, 3, "tidy", 4],
}


def check_set_aside(path: Path, expected: list[int], caplog: pytest.LogCaptureFixture) -> None:
    """Check that readers refuse the file, and that a recorder sets the log aside and continues."""
    held = path.with_name("oi.db-wal").read_bytes()
    before = path.read_bytes()
    with pytest.raises(RecordingError, match=r"oi\.db-wal is not the log of .*oi\.db"):
        Recording(path)
    check_source(path, None)
    assert path.read_bytes() == before
    assert path.with_name("oi.db-wal").read_bytes() == held
    with caplog.at_level(logging.WARNING, "binance_oi"), closing(Store(path)) as opened:
        opened.save(sweep(500), [], PERIOD)
    assert numbers(path) == [*expected, 500]
    assert "is the log of a recording that was moved away or replaced" in caplog.text
    assert path.with_name("oi.db-wal.1").read_bytes() == held


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("steps", some(list(STEPS.values()), always=1))
def test_the_log_of_a_killed_recorder_is_not_applied_to_another_recording(
    path: Path,
    steps: list[object],
    other: Callable[[Path], Path],
    how: Callable[[Path, Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = other(path)
    expected = numbers(made)
    killed(path, *steps)
    how(path, made)
    check_set_aside(path, expected, caplog)


@pytest.mark.parametrize("copy", COPIES)
def test_the_log_of_a_killed_recorder_is_not_applied_to_an_older_copy(
    path: Path, copy: Callable[[Path, Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    old = path.with_name("old.db")
    killed(path, 0, "tidy", 1, "tidy", 2)
    copy(path, old)
    expected = numbers(old)
    killed(path, 3, "tidy", 4)
    shutil.copyfile(old, path)
    check_set_aside(path, expected, caplog)


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("steps", some(list(STEPS.values()), always=2))
def test_the_log_is_applied_to_a_copy_of_the_same_state_or_not_at_all(
    path: Path, copy: Callable[[Path, Path], None], steps: list[object]
) -> None:
    """If SQLite applies the log, no sweep is missing. If not, the copy keeps its own sweeps."""
    old = path.with_name("old.db")
    killed(path, *steps)
    everything = [step for step in steps if isinstance(step, int)]
    copy(path, old)
    alone = numbers(old) if copy is not cp else None
    shutil.copyfile(old, path)
    Store(path).close()
    assert numbers(path) in (everything, alone)


def test_a_diverged_copy_does_not_take_the_log_of_the_other(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Store(path)) as opened:
        opened.save(sweep(0), [], PERIOD)
    other = path.with_name("other.db")
    shutil.copy(path, other)
    killed(path, 1)
    killed(other, 2, "tidy")
    shutil.copyfile(other, path)
    check_set_aside(path, [0, 2], caplog)


def test_a_log_is_not_applied_to_a_file_that_is_no_database(path: Path) -> None:
    killed(path, 0, "tidy", 1)
    held = path.with_name("oi.db-wal").read_bytes()
    path.write_text("precious" * 1000)
    with pytest.raises(RecordingError, match="is not the log of"):
        Recording(path)
    with pytest.raises(RecordingError, match="is not a recording"):
        Store(path)
    assert path.read_text() == "precious" * 1000
    assert path.with_name("oi.db-wal.1").read_bytes() == held


def test_a_reader_of_an_emptied_file_keeps_the_log_beside_it(path: Path) -> None:
    killed(path, 0, "tidy", 1)
    held = path.with_name("oi.db-wal").read_bytes()
    os.truncate(path, 0)
    with pytest.raises(RecordingError):
        Recording(path)
    assert path.with_name("oi.db-wal").read_bytes() == held


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_a_killed_recording_continues_with_its_log_after_both_files_were_copied(
    path: Path, steps: list[object], caplog: pytest.LogCaptureFixture
) -> None:
    killed(path, *steps)
    moved = path.with_name("moved.db")
    for ending in ("", "-wal"):
        shutil.copy(f"{path}{ending}", f"{moved}{ending}")
    everything = [step for step in steps if isinstance(step, int)]
    for file in (path, moved):
        with Recording(file) as recording:
            assert len(list(recording.sweeps())) == len(everything)
        with closing(Store(file)) as opened:
            opened.save(sweep(9), [], PERIOD)
        assert numbers(file) == [*everything, 9]
    assert caplog.records == []


KILLED_ANYWHERE = """
import os, sys; from pathlib import Path
from binance_oi.recorder import store
from support.recorded import sweep
from support.killing import kill_at_statement
def record(path, number):
    now = 0.0
    kill_at_statement(number)
    opened = store.Store(path, clock=lambda: now)
    for each in range(3):
        opened.save(sweep(each), [], 60_000)
        (path.parent / f"acknowledged-{each}").touch()
        now += 60.0
        opened.tidy()
    opened.close()
for number in range(1000):
    path = Path(sys.argv[1]) / str(number) / "oi.db"
    path.parent.mkdir()
    child = os.fork()
    if not child:
        record(path, number)
        os._exit(0)
    if not os.waitpid(child, 0)[1]:
        break
"""


@pytest.mark.thorough
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_kill_9_at_any_statement_leaves_a_log_that_belongs_to_its_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED_ANYWHERE, str(tmp_path)]
    subprocess.run(command, cwd=TESTS, check=True, timeout=600)
    homes = list(tmp_path.iterdir())
    assert len(homes) > 40
    for home in homes:
        path = home / "oi.db"
        assert not path.exists() or not is_foreign(path, home / "oi.db-wal")
        Store(path).close()
        acknowledged = {int(file.name[-1]) for file in home.glob("acknowledged-*")}
        assert acknowledged <= set(numbers(path))
        assert not list(home.glob("*-wal.*"))


def test_a_checkpoint_killed_at_any_page_leaves_a_file_that_owns_its_log(
    path: Path,
) -> None:
    """Such a kill leaves the first pages new, and the others old or missing."""
    for steps in ([0, 1], [0, "tidy", *range(1, 40)]):
        killed(path, *steps)
        sides = {e: Path(f"{path}{e}").read_bytes() for e in ("", "-wal")}
        done = path.with_name("done.db")
        for ending, content in sides.items():
            Path(f"{done}{ending}").write_bytes(content)
        with closing(sqlite3.connect(done)) as connection:
            connection.execute("PRAGMA wal_checkpoint").close()
            after = done.read_bytes()
        assert after != sides[""]
        for pages in range(len(after) // 1024 + 1):
            torn = after[: pages * 1024] + sides[""][pages * 1024 :]
            path.write_bytes(torn)
            assert not is_foreign(path, path.with_name("oi.db-wal"))
        for file in path.parent.iterdir():
            file.unlink()


def moves_the_log(path: Path, mode: str) -> None:
    """Checkpoint as another program does, as far as readers allow."""
    with closing(sqlite3.connect(path, timeout=0.0)) as connection, suppress(sqlite3.Error):
        connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()


def holds_the_token(path: Path) -> bool:
    its_log = path.with_name("oi.db-wal")
    return generation(its_log) is None or token_of(path) in set(log._tokens(its_log))


@pytest.mark.parametrize("index", ["seen", "not seen"])
@pytest.mark.parametrize("mode", ["PASSIVE", *thorough("RESTART", "TRUNCATE")])
def test_the_log_holds_the_files_token_after_a_foreign_checkpoint(
    path: Path, mode: str, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some sweeps allocate no page. Then nothing but a token changes the first page."""
    if index == "not seen":
        monkeypatch.setattr(place, "descriptor", lambda _: None)
    with closing(Store(path)) as opened:
        for number in range(40):
            opened.save(sweep(number), [], PERIOD)
            if number % 3:
                moves_the_log(path, mode)
            else:
                assert generation(path.with_name("oi.db-wal")) is not None
            assert holds_the_token(path), number
    assert numbers(path) == list(range(40))


@pytest.mark.parametrize("mode", ["PASSIVE", *thorough("RESTART", "TRUNCATE")])
@pytest.mark.parametrize("until", [1, 1000], ids=["once", "from then on"])
def test_the_log_holds_the_files_token_after_a_checkpoint_at_any_statement(
    path: Path, mode: str, until: int
) -> None:
    """A `kill -9` at a statement leaves the files as they are at that statement."""
    wrong, seen, at, begin = list[tuple[int, str]](), 0, 0, 0

    def another_program(statement: str) -> None:
        nonlocal seen
        if begin <= seen - at < begin + until:
            moves_the_log(path, mode)
        seen += 1
        if not holds_the_token(path):
            wrong.append((begin, statement))

    with closing(Store(path)) as opened:
        opened._connection.set_trace_callback(another_program)
        number, longest = 0, 0
        while begin <= longest:
            for _ in range(3):
                at = seen
                opened.save(sweep(number), [], PERIOD)
                number += 1
                longest = max(longest, seen - at)
                assert holds_the_token(path)
            begin += 1
        opened._connection.set_trace_callback(None)
    assert wrong == []
    assert begin > 10
    assert numbers(path) == list(range(number))


@pytest.mark.parametrize("sweeps", some(range(1, 13), always=4))
def test_a_file_overwritten_after_a_foreign_checkpoint_stays_as_it_is(
    path: Path, sweeps: int
) -> None:
    other = another_recording(path)
    opened = Store(path)
    for number in range(sweeps):
        opened.save(sweep(number), [], PERIOD)
    moves_the_log(path, "PASSIVE")
    opened.save(sweep(sweeps), [], PERIOD)
    left = path.with_name("left.db")
    shutil.copy(f"{path}-wal", f"{left}-wal")
    shutil.copy(other, left)
    with pytest.raises(RecordingError, match=r"left\.db-wal is not the log of .*left\.db"):
        Recording(left)  # `left` is as after a `kill -9`
    shutil.copyfile(other, path)
    with pytest.raises(FileNotFoundError, match="was truncated or overwritten"):
        opened.save(sweep(sweeps + 1), [], PERIOD)
    kept = {each.snapshot.slot for each in opened.close() if each.snapshot}
    assert sweep(sweeps).slot in kept
    assert numbers(path) == list(range(100, 120))


@pytest.mark.parametrize("sweeps", some(range(1, 13), always=4))
def test_a_copy_made_between_two_foreign_checkpoints_takes_no_later_log(
    path: Path, sweeps: int
) -> None:
    old = path.with_name("old.db")
    with closing(Store(path)) as opened:
        for number in range(sweeps):
            opened.save(sweep(number), [], PERIOD)
        moves_the_log(path, "PASSIVE")
        shutil.copy(path, old)
        for number in (sweeps, sweeps + 1):
            opened.save(sweep(number), [], PERIOD)
            moves_the_log(path, "PASSIVE")
        opened.save(sweep(sweeps + 2), [], PERIOD)
        assert is_foreign(old, path.with_name("oi.db-wal"))


SCHEMA_CHANGES = {
    "vacuum": "VACUUM",
    "index": "CREATE INDEX by_time ON settled (time)",
    "analyze": "ANALYZE",
    "several": "BEGIN; CREATE TABLE a (x); CREATE TABLE b (x); CREATE INDEX c ON a (x); COMMIT",
    "one by one": "CREATE TABLE a (x); VACUUM; DROP TABLE a",
    "many": "BEGIN;" + "".join(f"CREATE TABLE t{n} (x);" for n in range(99)) + "COMMIT",
}


def changes_the_schema(path: Path, statements: str) -> None:
    """Change the schema in another program, while the recorder has the file open."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(statements)


@pytest.mark.parametrize("then", [0, 1, 2])
@pytest.mark.parametrize("change", some([*SCHEMA_CHANGES.values()], always=2), ids=SCHEMA_CHANGES)
def test_a_log_that_begins_with_a_foreign_schema_change_belongs_to_its_file(
    path: Path, change: str, then: int, caplog: pytest.LogCaptureFixture
) -> None:
    """We checkpoint before the change. Then we copy the files, as a `kill -9` would leave them."""
    now, left = 0.0, path.with_name("left.db")
    its_log = path.with_name("oi.db-wal")
    with closing(Store(path, clock=lambda: now)) as opened:
        for number in range(3):
            opened.save(sweep(number), [], PERIOD)
        now += store.CHECKPOINT_AFTER
        opened.tidy()
        changes_the_schema(path, change)
        for number in range(3, 3 + then):
            opened.save(sweep(number), [], PERIOD)
        assert token_of(path) not in set(log._tokens(its_log))
        assert not is_foreign(path, its_log)
        with Recording(path) as recording:
            assert len(list(recording.sweeps())) == 3 + then
        for ending in ("", "-wal"):
            shutil.copy(f"{path}{ending}", f"{left}{ending}")
    with closing(Store(left)) as opened:
        opened.save(sweep(9), [], PERIOD)
    assert numbers(left) == [*range(3 + then), 9]
    assert caplog.records == []


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize(
    "change", some(["", *SCHEMA_CHANGES.values()], always=2), ids=["none", *SCHEMA_CHANGES]
)
def test_an_older_copy_takes_no_log_that_begins_with_a_schema_change(
    path: Path, change: str, copy: Callable[[Path, Path], None]
) -> None:
    now, old = 0.0, path.with_name("old.db")
    with closing(Store(path, clock=lambda: now)) as opened:
        for number in range(3):
            opened.save(sweep(number), [], PERIOD)
            now += store.CHECKPOINT_AFTER
            opened.tidy()
            if number == 1:
                copy(path, old)
        changes_the_schema(path, change)
        opened.save(sweep(3), [], PERIOD)
        assert is_foreign(old, path.with_name("oi.db-wal"))


@pytest.mark.parametrize("copy", [our_backup, backup_of_sqlite, vacuum_into])
def test_a_copy_with_an_incremented_token_does_not_take_the_next_log(
    path: Path, copy: Callable[[Path, Path], None]
) -> None:
    now, old = 0.0, path.with_name("old.db")
    with closing(Store(path, clock=lambda: now)) as opened:
        opened.save(sweep(0), [], PERIOD)
        now += store.CHECKPOINT_AFTER
        opened.tidy()
        copy(path, old)
        opened.save(sweep(1), [], PERIOD)
        assert is_foreign(old, path.with_name("oi.db-wal"))


def test_a_log_without_a_token_is_accepted(path: Path) -> None:
    """An earlier program that knew no tokens left this log. Readers and recorders accept it."""
    made = older(path)
    made.rename(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        writer.execute("CREATE TABLE more (x)")
        old = path.with_name("old.db")
        for ending in ("", "-wal"):
            shutil.copy(f"{path}{ending}", f"{old}{ending}")
    with Recording(old) as recording:
        assert len(list(recording.sweeps())) == 20
    with closing(Store(old)) as opened:
        opened.save(sweep(500), [], PERIOD)
    assert numbers(old) == [*range(100, 120), 500]
    assert (token_of(old) or 0) >= FIRST_TOKEN


def test_tokens_write_nothing_when_idle_and_a_few_pages_a_minute_when_busy(
    path: Path,
) -> None:
    now = 0.0
    opened = Store(path, clock=lambda: now)
    opened.save(sweep(0), [], PERIOD)
    opened.tidy()
    before = path.read_bytes()
    for _ in range(60):
        now += 60.0
        opened.tidy()
    assert path.read_bytes() == before
    for number in range(1, 21):
        opened.save(sweep(number), [], PERIOD)
    tokens = list(log._tokens(path.with_name("oi.db-wal")))
    # Each version of the first page has a token: one after the checkpoint, and one per commit.
    assert len(tokens) <= 1 + 20
    assert len(set(tokens)) == 2
    opened.close()
    before = path.read_bytes()
    Store(path).close()
    assert path.read_bytes() == before


def test_a_backup_over_a_replaced_file_sets_the_old_log_aside(path: Path) -> None:
    copy = path.with_name("copy.db")
    killed(copy, 0, "tidy", 1)
    held = path.with_name("copy.db-wal").read_bytes()
    with closing(Store(path)) as opened:
        opened.save(sweep(7), [], PERIOD)
    shutil.copy(path, copy)
    with Recording(path) as recording:
        recording.backup(copy, replace=True)
    assert numbers(copy) == [7]
    assert path.with_name("copy.db-wal.1").read_bytes() == held


def test_a_log_is_accepted_even_if_file_and_log_change_during_the_check(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recorder may checkpoint and restart the log between two reads of the check."""
    now = 0.0
    with closing(Store(path, clock=lambda: now)) as opened:
        opened.save(sweep(0), [], PERIOD)
        opened.tidy()
        number = 0

        def token_before(file: Path) -> int | None:
            nonlocal number, now
            found = token_of(file)
            if number < 3:
                for _ in range(2):
                    number += 1
                    opened.save(sweep(number), [], PERIOD)
                    now += 60.0
                    opened.tidy()
            return found

        monkeypatch.setattr(log, "token_of", token_before)
        assert not is_foreign(path, path.with_name("oi.db-wal"))
        assert number > 3


def a_log_that_begins_anew(path: Path) -> tuple[bytes, bytes, bytes]:
    """Return the bytes of a file, of its log after a checkpoint, and of its log a sweep later."""
    now = 0.0
    with closing(Store(path, clock=lambda: now)) as opened:
        for number in range(3):
            opened.save(sweep(number), [], PERIOD)
        now += store.CHECKPOINT_AFTER
        opened.tidy()
        its_log = path.with_name("oi.db-wal")
        file, before = path.read_bytes(), its_log.read_bytes()
        opened.save(sweep(3), [], PERIOD)
        assert path.read_bytes() == file
        after = its_log.read_bytes()
    assert after[16:24] != before[16:24]  # the log has a new salt
    for left in path.parent.iterdir():
        left.unlink()
    return file, before, after


HEADER, HEAD, PAGE = 32, 24, 1024  # bytes of a log's header, a frame's head, and a page
WRITES = [0, HEADER, *(HEADER + n * (HEAD + PAGE) + m for n in range(4) for m in (0, HEAD))]


def test_a_log_that_is_partly_overwritten_belongs_to_its_file(path: Path) -> None:
    """SQLite writes a frame's head, then its page. In between, an old page follows the new head."""
    file, before, after = a_log_that_begins_anew(path)
    its_log = path.with_name("oi.db-wal")
    ends = {*WRITES, *range(0, len(after), 97)}  # ends of writes, and points within them
    for end in sorted(ends):
        path.write_bytes(file)
        its_log.write_bytes(after[:end] + before[end:])
        assert not is_foreign(path, its_log), end


@pytest.mark.parametrize("end", [HEADER, HEADER + HEAD, HEADER + HEAD + PAGE])
def test_a_recorder_killed_while_it_overwrites_its_log_can_be_read_and_continued(
    end: int, path: Path
) -> None:
    file, before, after = a_log_that_begins_anew(path)
    path.write_bytes(file)
    path.with_name("oi.db-wal").write_bytes(after[:end] + before[end:])
    with Recording(path) as recording:
        assert [(each.slot - slot(0)) // PERIOD for each in recording.sweeps()] == [0, 1, 2]
    with closing(Store(path)) as opened:
        opened.save(sweep(3), [], PERIOD)
    assert numbers(path) == [0, 1, 2, 3]
    assert not list(path.parent.glob("*-wal.*"))  # nothing was set aside


class Gaps:
    """Lets a recorder act before one of the reads that `is_foreign` does for a reader.

    `is_foreign` reads the header of the log, the token of the file, and the tokens in the log.
    """

    READS = ("generation", "token_of", "_tokens")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gap: int, act: Callable[[], None]) -> None:
        self.reads = 0
        self._gap, self._act, self._is_acting = gap, act, False
        for name in self.READS:
            monkeypatch.setattr(log, name, self._before(getattr(log, name)))

    def _before(self, read: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def stopped(file: Path) -> Any:
            if self._is_acting:  # a starting recorder reads too
                return read(file)
            if self.reads == self._gap:
                self._is_acting = True
                self._act()
                self._is_acting = False
            self.reads += 1
            return read(file)

        return stopped


ACTS: dict[str, str] = {  # what a recorder does; the letters are steps of `Acting`
    "writes": "s",
    "moves its log": "t",
    "begins its log anew": "ts",
    "begins it anew and moves it": "tsst",
    "begins it anew twice": "tstss",
    "stops": "c",
    "stops and starts": "cos",
    "is killed and starts": "kos",
    "is killed, starts and moves its log": "kosts",
    "is killed after a move": "tkos",
}


@pytest.mark.parametrize("act", ACTS)
def test_a_reader_is_never_refused_whatever_a_recorder_does_between_its_reads(
    act: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gap, reads = 0, 1
    while gap < reads:
        acting = Acting(path.with_name(f"oi{gap}.db"))
        acting.do("ossts")
        with monkeypatch.context() as patched:
            gaps = Gaps(patched, gap, lambda acting=acting: acting.do(ACTS[act]))  # type: ignore[misc]
            with Recording(acting.path) as recording:
                found = len(list(recording.sweeps()))
        assert found in (acting.before, acting.sweeps)
        acting.end()
        gap, reads = gap + 1, gaps.reads


class Acting:
    """A recorder in steps: it opens (o), saves (s), checkpoints (t), closes (c), is killed (k)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sweeps = self.before = 0  # counts of sweeps: now, and before the last `do`
        self._now = 0.0
        self._stores: list[Store] = []

    def do(self, steps: str) -> None:
        self.before = self.sweeps
        takes = {
            "o": self._open,
            "s": self._save,
            "t": self._tidy,
            "c": self._close,
            "k": self._kill,
        }
        for step in steps:
            takes[step]()

    def _open(self) -> None:
        self._stores.append(Store(self.path, clock=lambda: self._now))

    def _save(self) -> None:
        self._stores[-1].save(sweep(self.sweeps), [], PERIOD)
        self.sweeps += 1

    def _tidy(self) -> None:
        self._now += store.CHECKPOINT_AFTER
        self._stores[-1].tidy()

    def _close(self) -> None:
        self._stores.pop().close()

    def _kill(self) -> None:
        """Close, and write the files back as a kill would have left them, without any lock."""
        left = {e: Path(f"{self.path}{e}").read_bytes() for e in ("", "-wal")}
        self._close()
        for ending, content in left.items():
            Path(f"{self.path}{ending}").write_bytes(content)

    def end(self) -> None:
        for opened in self._stores:
            opened.close()


# -- readers leave no files ------------------------------------------------------------------------


def read_all(path: Path) -> None:
    with Recording(path) as recording:
        assert list(recording.samples())
        assert list(recording.first_and_last())
        assert recording.samples().span()
        recording.backup(path.parent.parent / "copy.db", replace=True)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    return made


def names(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


def test_a_reader_of_an_idle_recording_leaves_no_new_file(home: Path) -> None:
    path = home / "oi.db"
    with closing(Store(path)) as opened:
        opened.save(sweep(0), [], PERIOD)
    before = path.read_bytes()
    read_all(path)
    assert names(home) == ["oi.db"]
    assert path.read_bytes() == before


def test_a_reader_of_a_killed_recording_leaves_its_files_unchanged(home: Path) -> None:
    path = home / "oi.db"
    killed(path, 0, "tidy", 1)
    before = {name: (home / name).read_bytes() for name in ("oi.db", "oi.db-wal")}
    read_all(path)
    assert names(home) == ["oi.db", "oi.db-shm", "oi.db-wal"]
    (home / "oi.db-shm").unlink()
    read_all(path)
    assert {name: (home / name).read_bytes() for name in names(home)} == before


def test_a_reader_that_outlives_the_recorder_removes_the_empty_log(home: Path) -> None:
    path = home / "oi.db"
    with closing(Store(path)) as opened:
        opened.save(sweep(0), [], PERIOD)
        recording = Recording(path)
        assert len(list(recording.sweeps())) == 1
    recording.close()
    recording.close()
    assert names(home) == ["oi.db"]


def test_a_recorder_that_starts_during_a_read_keeps_its_log(home: Path) -> None:
    path = home / "oi.db"
    with closing(Store(path)) as opened:
        opened.save(sweep(0), [], PERIOD)
    with Recording(path) as recording:
        assert len(list(recording.sweeps())) == 1
        opened = Store(path)
        opened.save(sweep(1), [], PERIOD)
        assert len(list(recording.sweeps())) == 2
    assert {"oi.db-shm", "oi.db-wal"} <= set(names(home))
    opened.save(sweep(2), [], PERIOD)
    opened.close()
    assert names(home) == ["oi.db"]
    assert numbers(path) == [0, 1, 2]


def test_an_index_that_another_reader_uses_is_kept(home: Path) -> None:
    path = home / "oi.db"
    killed(path, 0, "tidy", 1)
    (home / "oi.db-shm").unlink()
    first, second = Recording(path), Recording(path)
    assert len(list(second.sweeps())) == 2
    first.close()
    assert "oi.db-shm" in names(home)
    assert len(list(second.sweeps())) == 2
    second.close()


def test_a_read_only_recording_is_read_without_side_files(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """We may not write a recording on a read-only medium, or one that belongs to another user."""
    path = home / "oi.db"
    with closing(Store(path)) as opened:
        opened.save(sweep(0), [], PERIOD)
    for leftovers in ([], ["oi.db-wal"]):
        for name in leftovers:
            (home / name).touch()
        with monkeypatch.context() as patch:
            patch.setattr(os, "access", lambda *_: False)
            read_all(path)
        assert names(home) == ["oi.db", *leftovers]


def test_each_generation_of_a_log_has_another_identity(path: Path) -> None:
    now = 0.0
    its_log = path.with_name("oi.db-wal")
    assert generation(its_log) is None
    with closing(Store(path, clock=lambda: now)) as opened:
        seen = set[object]()
        for number in range(3):
            opened.save(sweep(number), [], PERIOD)
            seen.add(generation(its_log))
            now += store.CHECKPOINT_AFTER
            opened.tidy()
        assert len(seen) == 3
