"""A sweep is written whole or not at all, and the lock stands while its owner does."""

import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import TextIO

import pytest

from binance_oi import Gap, OpenInterest, RecordingError
from binance_oi.recorder import Recording, recording, store
from binance_oi.recorder.recording import unix_ms
from binance_oi.recorder.store import RecorderLock, Store
from recorded import BEGIN, sweep

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

    def let_the_first_go(file: TextIO, of: Path) -> None:
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


def test_an_sqlite_without_strict_tables_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(RecordingError, match=r"SQLite 3\.37 is needed"):
        Store(path)
    assert not path.exists()


def state(path: Path) -> dict[int, str]:
    """What is known of each slot: "sweep", or the reason of its gap. None has both."""
    with Recording(path) as recording:
        found = {each.slot: "sweep" for each in recording.sweeps()}
        for gap in recording.gaps():
            for slot in range(gap.first, gap.last + 1, PERIOD):
                assert slot not in found, f"{slot} is in {gap}, and {found[slot]}"
                found[slot] = gap.reason
    return found


def slot_of(number: int) -> int:
    return unix_ms(sweep(number).slot or BEGIN)


@pytest.mark.parametrize("seed", range(20))
def test_a_slot_has_a_sweep_or_one_gap_in_whatever_order_slots_come(path: Path, seed: int) -> None:
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


def test_a_second_sweep_of_a_slot_adds_its_observations_and_leaves_the_first_as_it_is(
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
        assert list(recording.failures()) == []  # BTCUSDT failed in the second one


def test_a_gap_is_written_for_the_slots_that_have_no_sweep(path: Path) -> None:
    with closing(Store(path)) as opened:
        for number in (2, 3, 6):
            opened.save(sweep(number), [], PERIOD)
        gap = Gap(slot_of(0), slot_of(8), "stopped")
        assert opened.swept([gap], PERIOD) == 3
        opened.save(None, [gap], PERIOD)
    with Recording(path) as recording:
        found = [(gap.first, gap.last) for gap in recording.gaps()]
    ends = [(0, 1), (4, 5), (7, 8)]
    assert found == [(slot_of(first), slot_of(last)) for first, last in ends]


def test_a_clock_that_was_set_back_before_the_recording_is_a_gap_until_sweeps_come(
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


def test_a_clock_that_was_set_back_where_all_slots_are_known_is_an_empty_gap(path: Path) -> None:
    step = Gap(slot_of(1), slot_of(0), "clock", "set back")
    with closing(Store(path)) as opened:
        for number in range(4):
            opened.save(sweep(number), [], PERIOD)
        for _ in range(2):
            opened.save(sweep(1), [step], PERIOD)
    with Recording(path) as recording:
        assert (list(recording.gaps()), recording.missed()) == ([step], 0)
        assert recording.span() == (sweep(0).slot, sweep(3).slot)


def test_the_first_slot_set_back_to_does_not_make_the_span_longer(path: Path) -> None:
    with closing(Store(path)) as opened:
        opened.save(sweep(1), [], PERIOD)
        opened.save(None, [Gap(slot_of(1), slot_of(0), "clock")], PERIOD)
    with Recording(path) as recording:
        assert recording.span() == (sweep(1).slot, sweep(1).slot)


def test_the_last_slot_before_a_moment_is_not_one_of_a_clock_that_was_wrong(path: Path) -> None:
    with closing(Store(path)) as opened:
        assert opened.last_slot() is None
        opened.save(sweep(0), [Gap(slot_of(1), slot_of(2), "banned")], PERIOD)
        opened.save(sweep(90), [Gap(slot_of(3), slot_of(89), "clock")], PERIOD)
        assert opened.last_slot() == slot_of(90)
        assert opened.last_slot(slot_of(50)) == slot_of(2)
        assert opened.last_slot(slot_of(2)) == slot_of(2) - 1
        assert opened.last_slot(slot_of(90)) == slot_of(89)
