"""A recorded slot stays recorded and is in no gap, whatever gaps the file has.

Rule of this file: gaps may have any form that another program can write.
"""

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from binance_oi import Gap
from binance_oi.recorder import Recording
from binance_oi.recorder.store import Store
from binance_oi.times import unix_ms
from support.lanes import some
from support.recorded import BEGIN, sweep
from support.version_2 import VERSION_2

PERIOD = 60_000
ORIGIN = unix_ms(BEGIN)
Row = tuple[int, int, int, str]
"""A gap: first and last slot, minutes since `ORIGIN`; period, minutes; reason."""
Step = tuple[int, int, str]
"""A step: first and last minute since `ORIGIN`, and "sweep" or the reason of a gap."""


def write_version_2(path: Path, gaps: list[Row]) -> list[tuple[object, ...]]:
    """Make a file of version 2 with these gaps; return the rows of its table."""
    rows = [
        ("", ORIGIN + a * PERIOD, ORIGIN + b * PERIOD, p * PERIOD, why, f"gap {number}")
        for number, (a, b, p, why) in enumerate(gaps)
    ]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(VERSION_2)
        connection.executemany("INSERT OR IGNORE INTO gaps VALUES (?, ?, ?, ?, ?, ?)", rows)
        return connection.execute("SELECT * FROM gaps ORDER BY first").fetchall()


def gaps_of(path: Path) -> list[Row]:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            "SELECT first, last, period, reason FROM gaps WHERE symbol = '' ORDER BY first"
        ).fetchall()
    return [
        ((a - ORIGIN) // PERIOD, (b - ORIGIN) // PERIOD, p // PERIOD, why) for a, b, p, why in found
    ]


def missed(gaps: list[Row]) -> set[tuple[int, str]]:
    """The slots of the gaps, with the reasons."""
    return {(slot, why) for a, b, p, why in gaps for slot in range(a, b + 1, p)}


def inside(gaps: list[Row]) -> set[int]:
    """The minutes from the first to the last slot of each gap."""
    return {minute for a, b, _, _ in gaps for minute in range(a, b + 1)}


def slots(pairs: set[tuple[int, str]]) -> set[int]:
    return {slot for slot, _ in pairs}


def rows() -> st.SearchStrategy[Row]:
    """Draw gaps: nested, with equal ends, of several periods, and empty (clock set back)."""

    def row(period: int, begin: int, count: int, why: str) -> Row:
        last = begin * period + (count - 1) * period
        return begin * period, last, period, why if count else "clock"

    reasons = st.sampled_from(["banned", "outage", "clock"])
    return st.builds(
        row, st.sampled_from([1, 1, 2, 3]), st.integers(0, 9), st.integers(0, 9), reasons
    )


def steps() -> st.SearchStrategy[Step]:
    minutes = st.integers(0, 24)
    sweeps = st.builds(lambda at: (at, at, "sweep"), minutes)
    reasons = st.sampled_from(["banned", "outage", "clock"])
    spans = st.builds(lambda a, b, why: (a, a + b, why), minutes, st.integers(0, 6), reasons)
    return sweeps | sweeps | spans


@given(st.lists(rows(), max_size=6), st.lists(steps(), max_size=10))
@example([(0, 9, 1, "banned"), (2, 3, 1, "outage")], [(5, 5, "sweep")])  # nested
@example([(0, 3, 1, "banned"), (2, 5, 1, "outage")], [(1, 1, "sweep")])  # then both begin at 2
@example([(0, 4, 2, "outage"), (6, 6, 2, "outage")], [(5, 5, "sweep"), (7, 9, "outage")])
@example([(0, 9, 3, "outage")], [(3, 7, "banned"), (4, 4, "sweep")])
@example([(0, 9, 3, "outage"), (3, 9, 2, "outage")], [(4, 4, "sweep"), (2, 8, "banned")])
def test_every_slot_gets_its_sweep_or_stays_in_a_gap(gaps: list[Row], taken: list[Step]) -> None:
    recorded = set[int]()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "oi.db"
        write_version_2(path, gaps)
        with closing(Store(path)) as store, Recording(path) as recording:
            for first, last, what in taken:
                before, kept = gaps_of(path), list(recording.sweeps())
                if what == "sweep":
                    store.save(sweep(first), [], PERIOD)
                    recorded.add(first)
                    cut = {(slot, why) for slot, why in missed(before) if slot != first}
                    after = missed(gaps_of(path))
                    assert slots(after) == slots(cut)
                    begins = {begin for begin, *_ in gaps_of(path)}
                    assert slots(cut - after) <= begins  # a reason is lost only where a gap begins
                else:
                    gap = Gap(ORIGIN + first * PERIOD, ORIGIN + last * PERIOD, what)
                    store.save(None, [gap], PERIOD)
                    span = set(range(first, last + 1))
                    assert slots(missed(before)) - span <= slots(missed(gaps_of(path)))
                    assert span - recorded <= inside(gaps_of(path))
                assert {each.slot for each in kept} <= {each.slot for each in recording.sweeps()}
                assert kept == [each for each in recording.sweeps() if each in kept]
                assert not inside(gaps_of(path)) & recorded
            found = slots(missed(gaps_of(path)))
            assert recording.missed() <= len(found)
            if {p for _, _, p, _ in gaps_of(path)} <= {1}:
                assert recording.missed() == len(found)


def test_a_version_2_file_keeps_its_overlapping_gaps_when_it_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "oi.db"
    before = write_version_2(path, [(0, 9, 1, "banned"), (2, 3, 1, "outage"), (8, 12, 1, "late")])
    assert len(before) == 3
    Store(path, "local").close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT * FROM gaps ORDER BY first").fetchall() == before
    with Recording(path) as recording:
        assert recording.missed() == 13  # each slot counts once
    with closing(Store(path)) as store:
        for number in range(13):
            store.save(sweep(number), [], PERIOD)
    with Recording(path) as recording:
        assert (recording.missed(), list(recording.gaps())) == (0, [])


def test_a_recorded_slot_inside_an_older_gap_is_not_missed_and_is_cut_out_of_the_gap(
    tmp_path: Path,
) -> None:
    path = tmp_path / "oi.db"
    with closing(Store(path)) as store, Recording(path) as recording:
        store.save(sweep(2), [], PERIOD)
        with closing(sqlite3.connect(path)) as other, other:
            end = ORIGIN + 4 * PERIOD
            other.execute("INSERT INTO gaps VALUES ('', ?, ?, ?, 'x', '')", (ORIGIN, end, PERIOD))
        assert recording.missed() == 4
        store.save(sweep(2), [], PERIOD)
        assert gaps_of(path) == [(0, 1, 1, "x"), (3, 4, 1, "x")]
        assert recording.missed() == 4


def test_a_gap_does_not_grow_over_a_sweep_of_another_period(tmp_path: Path) -> None:
    path = tmp_path / "oi.db"
    with closing(Store(path)) as store:
        store.save(None, [Gap(ORIGIN, ORIGIN + 2 * PERIOD, "outage")], 2 * PERIOD)
        store.save(sweep(3), [], PERIOD)
        later = Gap(ORIGIN + 4 * PERIOD, ORIGIN + 6 * PERIOD, "outage")
        store.save(None, [later], 2 * PERIOD)
    assert gaps_of(path) == [(0, 2, 2, "outage"), (4, 6, 2, "outage")]


@pytest.mark.parametrize("first", some(range(13), always=4))
@pytest.mark.parametrize("last", some(range(13), always=2))
def test_every_missed_slot_of_a_shorter_period_is_in_a_gap(
    tmp_path: Path, first: int, last: int
) -> None:
    """The existing gap has only every third of these slots."""
    path = tmp_path / "oi.db"
    span = set(range(first, last + 1))
    with closing(Store(path)) as store, Recording(path) as recording:
        old = Gap(ORIGIN + 3 * PERIOD, ORIGIN + 9 * PERIOD, "stopped")
        store.save(None, [old], 3 * PERIOD)
        later = Gap(ORIGIN + first * PERIOD, ORIGIN + last * PERIOD, "outage")
        store.save(None, [later], PERIOD) if span else None
        expected = span | {3, 6, 9}
        for number in (4, 6, 8):
            assert slots(missed(gaps_of(path))) == expected
            assert recording.missed() == len(expected)
            store.save(sweep(number), [], PERIOD)
            expected -= {number}
        assert slots(missed(gaps_of(path))) == expected
        assert {3, 9} <= {slot for slot, why in missed(gaps_of(path)) if why == "stopped"}


def test_an_older_gap_over_a_sweep_keeps_its_period(tmp_path: Path) -> None:
    path = tmp_path / "oi.db"
    with closing(Store(path)) as store:
        store.save(sweep(2), [], PERIOD)
        with closing(sqlite3.connect(path)) as other, other:
            row = (ORIGIN, ORIGIN + 6 * PERIOD, 3 * PERIOD)
            other.execute("INSERT INTO gaps VALUES ('', ?, ?, ?, 'x', '')", row)
        store.save(None, [Gap(ORIGIN, ORIGIN + 6 * PERIOD, "outage")], PERIOD)
    assert gaps_of(path) == [(0, 6, 3, "x")]


@pytest.mark.parametrize("period", [0, -60_000])
def test_a_gap_with_an_impossible_period_does_not_stop_a_recorder(
    tmp_path: Path, period: int
) -> None:
    path = tmp_path / "oi.db"
    with closing(Store(path)) as store, Recording(path) as recording:
        with closing(sqlite3.connect(path)) as other, other:
            end = ORIGIN + 2 * PERIOD
            other.execute("INSERT INTO gaps VALUES ('', ?, ?, ?, 'x', '')", (ORIGIN, end, period))
        store.save(sweep(1), [], PERIOD)
        at = ORIGIN + PERIOD
        assert not [gap for gap in recording.gaps() if gap.first <= at <= gap.last]
