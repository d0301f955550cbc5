"""A sweep is written whole or not at all, and the lock stands while its owner does."""

import os
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from binance_oi import Gap, OpenInterest, RecordingError
from binance_oi.recorder import Recording, recording, store
from binance_oi.recorder.store import RecorderLock, Store
from recorded import sweep

PERIOD = 60_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "oi.db"


def test_a_sweep_that_cannot_be_written_whole_is_not_written_at_all(path: Path) -> None:
    broken = replace(sweep(1), weight="much")  # type: ignore[arg-type]
    with closing(Store(path)) as opened:
        with pytest.raises(sqlite3.IntegrityError):
            opened.save(broken, [Gap(0, 0, "banned")], PERIOD)
        with Recording(path) as recording:
            assert (recording.symbols(), recording.missed()) == ((), 0)
        assert opened.save(sweep(1), [], PERIOD) == 2


@pytest.mark.parametrize("settle", [1, 1000], ids=["settled", "recent"])
def test_an_observation_is_there_once_and_a_late_one_is_not_lost(
    path: Path, settle: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SETTLE", settle)
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
    """How many samples are recent, and how many in their places."""
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT (SELECT count(*) FROM recent), (SELECT count(*) FROM settled)"
        return connection.execute(query).fetchall()


@pytest.mark.parametrize("few", [0, 100], ids=["sorted", "looked through"])
def test_what_is_recent_is_read_as_what_is_settled_and_moved_when_it_is_enough(
    path: Path, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "FEW", few)
    monkeypatch.setattr(store, "SETTLE", 12)  # changes: three sweeps of three symbols
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
            ends = [(first.time, last.time) for first, last in reader.ends()]
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
    """How many sweeps would be there without the log."""
    alone = path.with_name("alone.db")
    alone.write_bytes(path.read_bytes())
    with closing(sqlite3.connect(f"{alone.as_uri()}?immutable=1", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM sweeps").fetchone()[0])


def test_the_log_is_moved_into_the_file_between_two_sweeps_and_written_over(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = path.with_name("oi.db-wal")
    with closing(Store(path)) as opened:
        opened.save(sweep(0), [], PERIOD)
        opened.tidy()  # the first one, for a log that a killed recorder has left
        assert in_the_file_itself(path) == 1
        size = log.stat().st_size
        opened.save(sweep(1), [], PERIOD)
        opened.tidy()
        assert in_the_file_itself(path) == 1
        assert log.stat().st_size == size
        monkeypatch.setattr(store, "SETTLE", 1)
        with Recording(path) as recording:
            samples = iter(recording.samples().rows())
            next(samples)  # somebody is reading: nobody waits for them
            opened.tidy()
            assert len(list(samples)) == 4
        assert in_the_file_itself(path) == 2


def test_a_lock_whose_file_was_just_removed_by_its_owner_is_taken_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RecorderLock(path)
    waiting = [first]
    lock = store._lock

    def let_the_first_go(file: int, of: Path) -> None:
        if waiting:
            waiting.pop().close()
        lock(file, of)

    monkeypatch.setattr(store, "_lock", let_the_first_go)
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


@pytest.mark.parametrize("link", ["symbolic", "dangling", "hard"])
def test_a_link_planted_at_the_locks_name_is_refused_and_not_followed(
    path: Path, link: str
) -> None:
    victim, lock = path.with_name("victim"), path.with_name("oi.db-lock")
    if link != "dangling":
        victim.write_text("precious")
    lock.hardlink_to(victim) if link == "hard" else lock.symlink_to(victim)
    with pytest.raises(RecordingError, match=r"oi\.db-lock .* remove it"):
        RecorderLock(path)
    assert [f.name for f in (victim,) if f.exists()] == ["victim"] * (link != "dangling")
    assert link == "dangling" or victim.read_text() == "precious"
    lock.unlink()
    RecorderLock(path).close()


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_a_pipe_at_the_locks_name_is_refused_and_nobody_waits_for_its_other_end(
    path: Path,
) -> None:
    os.mkfifo(path.with_name("oi.db-lock"))
    with pytest.raises(RecordingError, match="remove it"):
        RecorderLock(path)


def test_a_lock_in_a_directory_that_was_replaced_leaves_the_other_recorders_lock(
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


def test_an_sqlite_without_strict_tables_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(RecordingError, match=r"SQLite 3\.37 is needed"):
        Store(path)
    assert not path.exists()
