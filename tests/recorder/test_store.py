"""A sweep is written as a whole or not at all, and a lock lasts as long as its owner."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest

from binance_oi import Gap, OpenInterest, RecordingError
from binance_oi.recorder import Recording, sqlite_tables, store
from binance_oi.recorder import lock as lock_module
from binance_oi.recorder.lock import RecorderLock
from binance_oi.recorder.store import Store
from binance_oi.times import unix_ms
from support.lanes import some
from support.patience import wait_briefly
from support.reading import reader_of, reading_earlier_state
from support.recorded import BEGIN, sweep

PERIOD = 60_000


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_briefly(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "oi.db"


def test_a_sweep_is_written_as_a_whole_or_not_at_all(path: Path) -> None:
    broken = replace(sweep(1), weight="much")  # type: ignore[arg-type]
    with closing(Store(path)) as opened:
        with pytest.raises(sqlite3.IntegrityError):
            opened.save(broken, [Gap(0, 0, "banned")], PERIOD)
        with Recording(path) as recording:
            assert (recording.symbols(), recording.missed()) == ((), 0)
        assert opened.save(sweep(1), [], PERIOD) == 2


@pytest.mark.parametrize("settle", [1, 1000], ids=["settled", "recent"])
def test_an_observation_is_stored_once_and_a_late_one_is_kept(
    path: Path, settle: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SETTLE_AFTER_CHANGES", settle)
    first = sweep(0)
    times = [first["BTCUSDT"].time + step for step in (0, 2000, 0, 1000)]
    with closing(Store(path)) as opened:
        for number, time in enumerate(times):
            value = OpenInterest("BTCUSDT", first["BTCUSDT"].open_interest, time)
            snapshot = replace(sweep(10 + number), values_by_symbol={"BTCUSDT": value})
            opened.save(replace(snapshot, unchanged=frozenset(["BTCUSDT"])), [], PERIOD)
            opened.tidy()
    with Recording(path) as recording:
        assert [s.time for s in recording.samples()] == sorted(set(times))
        assert [s.new for s in recording.sweeps()] == [1, 1, 0, 1]


def rows(path: Path) -> list[tuple[int, int]]:
    """The numbers of samples in the tables `recent` and `settled`."""
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT (SELECT count(*) FROM recent), (SELECT count(*) FROM settled)"
        return connection.execute(query).fetchall()


@pytest.mark.parametrize("few", [0, 100], ids=["sorted", "looked through"])
def test_recent_and_settled_samples_read_alike_and_recent_ones_are_moved_in_batches(
    path: Path, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_tables, "SORT_RECENT_ABOVE", few)
    monkeypatch.setattr(store, "SETTLE_AFTER_CHANGES", 12)  # 3 sweeps and their 9 samples
    found: list[tuple[int, int]] = []
    times: list[int] = []
    with closing(Store(path)) as opened, Recording(path) as reader:
        for number in (0, 2, 3, 4):
            opened.save(sweep(number), [], PERIOD)
            opened.tidy()
            found += rows(path)
            times.append(sweep(number)["BTCUSDT"].time)
            for name in reader.symbols():
                assert [sample.time for sample in reader.samples([name])] == times
            assert reader.samples().span() == (times[0], times[-1])
            ends = [(first.time, last.time) for first, last in reader.first_and_last()]
            assert ends == [(times[0], times[-1])] * 3
    assert found == [(0, 3), (3, 3), (6, 3), (0, 12)]


def test_gaps_grow_only_at_their_end_and_for_one_reason(path: Path) -> None:
    with closing(Store(path)) as opened:
        for slot, reason in enumerate(["banned", "banned", "outage", "banned"], 1):
            opened.save(None, [Gap(slot * PERIOD, slot * PERIOD, reason)], PERIOD)
        assert opened.last_slot() == 4 * PERIOD
    with Recording(path) as recording:
        found = [(gap.first // PERIOD, gap.last // PERIOD, gap.reason) for gap in recording.gaps()]
        assert found == [(1, 2, "banned"), (3, 3, "outage"), (4, 4, "banned")]
        assert recording.missed() == 4


def in_the_file_itself(path: Path) -> int:
    """The number of sweeps in the file without its log."""
    alone = path.with_name("alone.db")
    alone.write_bytes(path.read_bytes())
    with closing(sqlite3.connect(f"{alone.as_uri()}?immutable=1", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM sweeps").fetchone()[0])


def test_the_log_is_checkpointed_between_two_sweeps_and_overwritten(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = path.with_name("oi.db-wal")
    with closing(Store(path)) as opened:
        opened.save(sweep(0), [], PERIOD)
        opened.tidy()  # the first `tidy` always checkpoints: a killed recorder may have left a log
        assert in_the_file_itself(path) == 1
        size = log.stat().st_size
        opened.save(sweep(1), [], PERIOD)
        opened.tidy()
        assert in_the_file_itself(path) == 1
        assert log.stat().st_size == size
        monkeypatch.setattr(store, "SETTLE_AFTER_CHANGES", 1)
        with Recording(path) as recording:
            samples = iter(recording.samples().rows())
            next(samples)  # `tidy` does not wait for this reader
            opened.tidy()
            assert len(list(samples)) == 4
        assert in_the_file_itself(path) == 2


def test_the_file_itself_has_a_sweep_after_forty_seconds(
    path: Path,
) -> None:
    now = 0.0
    with closing(Store(path, clock=lambda: now)) as opened:
        opened.tidy()
        for number in range(1, 4):
            opened.save(sweep(number), [], PERIOD)
            before, now = now, now + store.CHECKPOINT_AFTER - 1.0
            opened.tidy()
            assert (in_the_file_itself(path), opened.is_due()) == (number - 1, False)
            now = before + store.CHECKPOINT_AFTER
            assert opened.is_due()
            opened.tidy()
            assert (in_the_file_itself(path), opened.is_due()) == (number, False)
    assert store.CHECKPOINT_AFTER + store.TIDY_EVERY < 60.0


def test_a_reader_of_an_earlier_state_delays_the_file_only_until_it_ends(
    path: Path,
) -> None:
    now = 0.0
    with closing(Store(path, clock=lambda: now)) as opened, closing(reader_of(path)) as reader:
        opened.save(sweep(0), [], PERIOD)
        opened.tidy()
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM sweeps").fetchone() == (1,)
        opened.save(sweep(1), [], PERIOD)
        now += store.CHECKPOINT_AFTER
        opened.tidy()
        assert (in_the_file_itself(path), opened.is_due()) == (1, True)
        assert reader.execute("SELECT count(*) FROM sweeps").fetchone() == (1,)
        reader.execute("COMMIT")
        opened.tidy()
        assert (in_the_file_itself(path), opened.is_due()) == (2, False)


@pytest.mark.parametrize("latest", [False, True], ids=["idle", "in the latest moment"])
def test_a_clean_end_during_a_read_leaves_everything_in_the_file_itself(
    path: Path, latest: bool
) -> None:
    opened = Store(path)
    with closing(reader_of(path)) as reader:
        opened.save(sweep(0), [], PERIOD)
        reader.execute("BEGIN" if latest else "SELECT 1")
        reader.execute("SELECT count(*) FROM sweeps").fetchone()
        assert opened.close() == []
        assert in_the_file_itself(path) == 1
        assert path.with_name("oi.db-wal").stat().st_size == 0 or latest


def test_a_reader_of_an_earlier_state_at_the_end_costs_no_sweep(path: Path) -> None:
    opened = Store(path)
    opened.save(sweep(0), [], PERIOD)
    opened.tidy()
    with reading_earlier_state(path):
        opened.save(sweep(1), [], PERIOD)
        assert opened.close(wait=0.0) == []
        assert in_the_file_itself(path) == 1
        with Recording(path) as recording:
            assert len(list(recording.sweeps())) == 2
    with closing(Store(path)) as opened:
        opened.tidy()
        assert in_the_file_itself(path) == 2


def test_a_plain_copy_during_a_read_of_an_earlier_state_is_a_valid_recording(
    path: Path,
) -> None:
    now = 0.0
    with closing(Store(path, clock=lambda: now)) as opened, closing(reader_of(path)) as reader:
        opened.save(sweep(0), [], PERIOD)
        opened.tidy()
        opened.save(sweep(1), [], PERIOD)
        reader.execute("BEGIN")  # between two checkpoints
        assert reader.execute("SELECT count(*) FROM sweeps").fetchone() == (2,)
        for number in range(2, 8):
            opened.save(sweep(number), [], PERIOD)
        now += store.CHECKPOINT_AFTER
        opened.tidy()
        assert in_the_file_itself(path) == 1
        with closing(sqlite3.connect(path.with_name("alone.db"))) as alone:
            assert alone.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        reader.execute("COMMIT")
        opened.tidy()
        assert in_the_file_itself(path) == 8


def test_a_sample_in_both_tables_is_read_once_and_does_not_block_moving_the_others(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SETTLE_AFTER_CHANGES", 3)
    with closing(Store(path)) as opened:
        opened.save(sweep(0), [], PERIOD)
        opened.tidy()
        assert rows(path) == [(0, 3)]
        opened.save(sweep(2), [], PERIOD)
        with closing(sqlite3.connect(path)) as connection, connection:
            query = "INSERT INTO recent SELECT symbol, time, '7', 7, '7' FROM settled"
            assert connection.execute(query).rowcount == 3
        with Recording(path) as recording:
            before = list(recording.samples())
            assert [s.open_interest for s in before if s.received == 7] == []
            (count,) = recording._tables.rows("SELECT count(*) FROM samples")
            assert count == (len(before),) == (6,)
        opened.tidy()
        assert rows(path) == [(0, 6)]
        with Recording(path) as recording:
            assert list(recording.samples()) == before


def test_a_lock_file_that_its_owner_just_removed_is_created_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RecorderLock(path)
    waiting = [first]
    lock = lock_module._lock

    def release_the_first(file: int, of: Path) -> None:
        if waiting:
            waiting.pop().close()
        lock(file, of)

    monkeypatch.setattr(lock_module, "_lock", release_the_first)
    second = RecorderLock(path)
    monkeypatch.undo()
    with pytest.raises(RecordingError, match=f"process {os.getpid()}$"):
        RecorderLock(path)
    second.close()
    assert not path.with_name("oi.db-lock").exists()


def test_a_recording_has_one_lock_under_all_its_names(path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    lock = RecorderLock(link)
    with pytest.raises(RecordingError, match=f"process {os.getpid()}$"):
        RecorderLock(path)
    lock.close()
    with closing(Store(link)) as opened:
        opened.save(sweep(0), [], PERIOD)
        with Recording(link) as recording:
            assert len(recording.symbols()) == 3
    assert sorted(file.name for file in path.parent.glob("*.db*")) == ["link.db", "oi.db"]


@pytest.mark.parametrize(
    "kind", ["writes", "writes and changes the file", "reads", "reads an earlier state"]
)
def test_close_empties_the_log_as_soon_as_other_programs_allow(
    path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOCK_TIMEOUT_S", 0.001)
    opened = Store(path)
    opened.save(sweep(0), [], PERIOD)
    tries = list[int]()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:

        def allow_it_after_three_tries(_: float) -> None:
            tries.append(path.with_name("oi.db-wal").stat().st_size)
            if len(tries) == 3:
                other.execute("ROLLBACK")

        other.execute("BEGIN IMMEDIATE" if kind.startswith("writes") else "BEGIN")
        other.execute("SELECT count(*) FROM sweeps").fetchone()
        if kind == "writes and changes the file":
            other.execute("DELETE FROM sweeps")
        if kind == "reads an earlier state":
            opened.save(sweep(1), [], PERIOD)
        monkeypatch.setattr(time, "sleep", allow_it_after_three_tries)
        opened.close(wait=600.0)
        monkeypatch.undo()
        assert path.with_name("oi.db-wal").stat().st_size == 0
        assert len(tries) == 3
        assert 0 not in tries
    with closing(sqlite3.connect(path)) as alone:
        (found,) = alone.execute("SELECT count(*) FROM sweeps").fetchone()
        assert found == 1 + (kind == "reads an earlier state")


def test_closing_waits_no_longer_than_its_bound(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOCK_TIMEOUT_S", 0.001)
    opened = Store(path)
    opened.save(sweep(0), [], PERIOD)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert opened.close(wait=0.0) == []
        assert path.with_name("oi.db-wal").stat().st_size > 0


@pytest.mark.parametrize("link", ["symbolic", "dangling", "hard"])
def test_a_planted_link_at_the_locks_name_is_refused(path: Path, link: str) -> None:
    victim, lock = path.with_name("victim"), path.with_name("oi.db-lock")
    if link != "dangling":
        victim.write_text("precious")
    lock.hardlink_to(victim) if link == "hard" else lock.symlink_to(victim)
    with pytest.raises(RecordingError, match=r"oi\.db-lock .* Remove it"):
        RecorderLock(path)
    assert [f.name for f in (victim,) if f.exists()] == ["victim"] * (link != "dangling")
    assert link == "dangling" or victim.read_text() == "precious"
    lock.unlink()
    RecorderLock(path).close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes of POSIX")
def test_a_pipe_at_the_locks_name_is_refused_without_blocking(
    path: Path,
) -> None:
    os.mkfifo(path.with_name("oi.db-lock"))
    with pytest.raises(RecordingError, match="Remove it"):
        RecorderLock(path)


@pytest.mark.parametrize("held", ["recording", "notes", "short", "number"])
def test_a_lock_never_empties_a_file_that_holds_more_than_a_process_id(
    path: Path, held: str
) -> None:
    lock = path.with_name("oi.db-lock")
    if held == "recording":
        with closing(Store(lock)) as opened:
            opened.save(sweep(0), [], PERIOD)
    else:
        lock.write_text({"notes": "precious" * 9, "short": "precious", "number": "1" * 21}[held])
    before = lock.read_bytes()
    with pytest.raises(RecordingError, match=r"oi\.db-lock is not a lock file.* Move it away"):
        RecorderLock(path)
    assert lock.read_bytes() == before


@pytest.mark.parametrize("held", [b"", b"4194304\n", b"12", bytes(8)])
def test_a_lock_left_by_a_killed_recorder_is_taken(path: Path, held: bytes) -> None:
    path.with_name("oi.db-lock").write_bytes(held)
    RecorderLock(path).close()
    assert not path.with_name("oi.db-lock").exists()


FULL = """
import resource, sys
from pathlib import Path
from binance_oi.recorder.lock import RecorderLock
from binance_oi.recorder.store import Store
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
path = Path(sys.argv[1])
try:
    RecorderLock(path) if sys.argv[3] == "lock" else Store(path)
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on the size of files")
@pytest.mark.parametrize(
    "what, room, error",
    [
        ("lock", 0, "OSError"),
        *some(
            [("store", room, "OperationalError") for room in (1024, 0, 500, 4096, 20_000)], always=1
        ),
    ],
)
def test_starting_on_a_full_disk_leaves_no_file(
    path: Path, what: str, room: int, error: str
) -> None:
    command = [sys.executable, "-c", FULL, str(path), str(room), what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == (f"{error}\n", "")
    assert list(path.parent.glob("oi*")) == []


def test_closing_after_the_directory_was_replaced_keeps_the_other_recorders_lock(
    path: Path,
) -> None:
    home = path.parent / "home"
    home.mkdir()
    first = RecorderLock(home / "oi.db")
    home.rename(path.parent / "away")
    home.mkdir()
    second = RecorderLock(home / "oi.db")
    first.close()
    with pytest.raises(RecordingError, match=f"process {os.getpid()}$"):
        RecorderLock(home / "oi.db")
    second.close()


def link_to_the_directory(home: Path, away: Path) -> None:
    home.rename(away)
    home.symlink_to(away)


def chain_of_links(home: Path, away: Path) -> None:
    home.rename(away)
    home.with_name("between").symlink_to(away)
    home.symlink_to(home.with_name("between"))


def hard_links(home: Path, away: Path) -> None:
    """Stand in for a directory that is mounted twice: the same files under both names."""
    home.rename(away)
    home.mkdir()
    for file in away.iterdir():
        home.joinpath(file.name).hardlink_to(file)


def there_and_back(home: Path, away: Path) -> None:
    home.rename(away)
    home.symlink_to(away)
    home.unlink()
    away.rename(home)


@pytest.mark.parametrize("way", [link_to_the_directory, chain_of_links, hard_links, there_and_back])
def test_the_lock_is_the_same_under_every_name(
    path: Path, way: Callable[[Path, Path], None]
) -> None:
    home, away = path.parent / "home", path.parent / "away"
    home.mkdir()
    path = home / "oi.db"
    lock = RecorderLock(path)
    way(home, away)
    for _ in range(2):
        assert lock.protects(path)
        with pytest.raises(RecordingError, match=r"by process \d+$|leads to another"):
            RecorderLock(path)
        lock.renew(path)
    lock.close()
    assert not path.with_name("oi.db-lock").exists() or way is hard_links
    if way is not hard_links:
        RecorderLock(path).close()


@pytest.mark.parametrize("knows_names", [True, False])
def test_a_lock_in_a_moved_directory_is_removed_at_its_new_place(
    path: Path, knows_names: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not knows_names:
        monkeypatch.setattr(lock_module, "name_of", lambda _: None)
    home, away = path.parent / "home", path.parent / "away"
    home.mkdir()
    lock = RecorderLock(home / "oi.db")
    link_to_the_directory(home, away)
    lock.renew(home / "oi.db")
    home.unlink()
    home.mkdir()
    assert not lock.protects(home / "oi.db")
    lock.close()
    assert list(away.iterdir()) == []


def test_a_link_redirected_to_a_copy_leads_to_another_lock(path: Path) -> None:
    home, away, copy = (path.parent / name for name in ("home", "away", "copy"))
    home.mkdir()
    lock = RecorderLock(home / "oi.db")
    link_to_the_directory(home, away)
    lock.renew(home / "oi.db")
    shutil.copytree(away, copy)
    home.unlink()
    home.symlink_to(copy)
    assert not lock.protects(home / "oi.db")
    lock.renew(home / "oi.db")
    assert lock.protects(copy / "oi.db")
    assert list(away.iterdir()) == []
    lock.close()
    assert list(copy.iterdir()) == []


def test_an_sqlite_without_strict_tables_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(RecordingError, match=r"SQLite 3\.37 is needed"):
        Store(path)
    assert not path.exists()


def state(path: Path) -> dict[int, str]:
    """Check that no slot has a sweep and a gap; map each slot to "sweep" or its gap's reason."""
    with Recording(path) as recording:
        found = {each.slot: "sweep" for each in recording.sweeps()}
        for gap in recording.gaps():
            for slot in range(gap.first, gap.last + 1, PERIOD):
                assert slot not in found, f"{slot}: {gap}, and {found[slot]}"
                found[slot] = gap.reason
    return found


def slot_of(number: int) -> int:
    return unix_ms(sweep(number).slot or BEGIN)


@pytest.mark.parametrize("seed", some(range(20), always=6))
def test_a_slot_has_a_sweep_or_one_gap_in_any_order_of_slots(path: Path, seed: int) -> None:
    chance, expected = Random(seed), dict[int, str]()
    with closing(Store(path)) as opened:
        for _ in range(25):
            first = chance.randrange(12)
            if chance.random() < 0.5:
                opened.save(sweep(first), [], PERIOD)
                expected[slot_of(first)] = "sweep"
                continue
            last, reason = first + chance.randrange(6), chance.choice(["banned", "outage", "clock"])
            opened.save(None, [Gap(slot_of(first), slot_of(last), reason)], PERIOD)
            for slot in map(slot_of, range(first, last + 1)):
                due = reason != "clock" and expected.get(slot) == "clock"
                if slot not in expected or due:
                    expected[slot] = reason
    assert state(path) == expected
    with Recording(path) as recording:
        assert recording.missed() == sum(what != "sweep" for what in expected.values())


def test_a_second_sweep_of_a_slot_only_adds_its_observations(
    path: Path,
) -> None:
    later = {"BTCUSDT": OpenInterest("BTCUSDT", Decimal("7"), slot_of(0) + 3_600_000)}
    second = replace(
        sweep(1), slot=sweep(0).slot, values_by_symbol=later, weight=99, unchanged=frozenset()
    )
    with closing(Store(path)) as opened, Recording(path) as recording:
        opened.save(sweep(0), [], PERIOD)
        before = list(recording.sweeps())
        assert opened.save(second, [], PERIOD) == 1
        assert list(recording.sweeps()) == before
        assert len(list(recording.samples())) == 4
        assert list(recording.failures()) == []  # `second` has an error of BTCUSDT


def test_a_gap_is_written_only_for_slots_without_a_sweep(path: Path) -> None:
    with closing(Store(path)) as opened:
        for number in (2, 3, 6):
            opened.save(sweep(number), [], PERIOD)
        gap = Gap(slot_of(0), slot_of(8), "stopped")
        assert opened.count_swept([gap], PERIOD) == 3
        opened.save(None, [gap], PERIOD)
    with Recording(path) as recording:
        found = [(gap.first, gap.last) for gap in recording.gaps()]
    ends = [(0, 1), (4, 5), (7, 8)]
    assert found == [(slot_of(first), slot_of(last)) for first, last in ends]


def test_slots_after_a_clock_change_are_a_gap_until_their_sweeps_come(
    path: Path,
) -> None:
    with closing(Store(path)) as opened:
        opened.save(sweep(9), [], PERIOD)
        opened.save(None, [Gap(slot_of(5), slot_of(4), "clock", "set back")], PERIOD)
        assert state(path) == dict.fromkeys(map(slot_of, range(5, 9)), "clock") | {
            slot_of(9): "sweep"
        }
        for number in range(5, 9):
            opened.save(sweep(number), [], PERIOD)
    assert state(path) == dict.fromkeys(map(slot_of, range(5, 10)), "sweep")


def test_a_clock_change_over_known_slots_is_an_empty_gap(path: Path) -> None:
    step = Gap(slot_of(1), slot_of(0), "clock", "set back")
    with closing(Store(path)) as opened:
        for number in range(4):
            opened.save(sweep(number), [], PERIOD)
        for _ in range(2):
            opened.save(sweep(1), [step], PERIOD)
    with Recording(path) as recording:
        assert (list(recording.gaps()), recording.missed()) == ([step], 0)
        assert recording.span() == (sweep(0).slot, sweep(3).slot)


def test_an_empty_gap_does_not_lengthen_the_span(path: Path) -> None:
    with closing(Store(path)) as opened:
        opened.save(sweep(1), [], PERIOD)
        opened.save(None, [Gap(slot_of(1), slot_of(0), "clock")], PERIOD)
    with Recording(path) as recording:
        assert recording.span() == (sweep(1).slot, sweep(1).slot)


def test_last_slot_ignores_slots_of_a_wrong_clock(path: Path) -> None:
    with closing(Store(path)) as opened:
        assert opened.last_slot() is None
        opened.save(sweep(0), [Gap(slot_of(1), slot_of(2), "banned")], PERIOD)
        opened.save(sweep(90), [Gap(slot_of(3), slot_of(89), "clock")], PERIOD)
        assert opened.last_slot() == slot_of(90)
        assert opened.last_slot(slot_of(50)) == slot_of(2)
        assert opened.last_slot(slot_of(2)) == slot_of(2) - 1
        assert opened.last_slot(slot_of(90)) == slot_of(89)
