"""Pruning, compacting, copying and rotating keep every row that they should; a check finds losses.

Rule of this file: a test with the fixture `place` runs on a file, and with `nox -s postgres` on a
database too. The other tests are about files.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import chain, count, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from binance_oi import Gap, OccupiedError, RecordingError, StorageError
from binance_oi.cli import caring, main
from binance_oi.cli.endings import SOME_FAILED
from binance_oi.recorder import Recorder, Recording, care, copying, retention
from binance_oi.recorder.address import is_database
from binance_oi.recorder.check import check
from binance_oi.recorder.postgres_connection import Connection
from binance_oi.recorder.retention import SWEPT, Pruned
from binance_oi.recorder.sink import Sink
from binance_oi.recorder.sqlite_keeper import STEP_S, SqliteKeeper
from binance_oi.recorder.store import Kept, Store
from binance_oi.times import instant, unix_ms
from support.filled import BEFORE, DAY, HOUR, START, fill, sink_at, sweep_of
from support.recording_market import Market, tables
from support.version_3 import VERSION_3
from support.virtual_clock import wall_time

END = START + 5 * DAY
SLOTS = range(START, END, HOUR)
RARE = 6 * HOUR
RARE_SLOTS = range(START, END, RARE)


def thread_clock() -> Callable[[], float]:
    """The virtual clock, which the writing thread may read too."""
    loop = asyncio.get_running_loop()
    ahead = wall_time() - loop.time()
    return lambda: ahead + loop.time()


def at(ms: int) -> Callable[[], float]:
    return lambda: ms / 1000


def content(place: str) -> list[object]:
    with Recording.open(place) as recording:
        return [
            list(recording.samples().rows()),
            list(recording.sweeps()),
            [*map(tuple, recording.periods())],
            list(recording.past().rows()),
            list(recording.pruned()),
            recording.source,
        ]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def with_password(place: str) -> str:
    """The same place; the URL of a database gets a password, which the server does not ask for."""
    return f"{place}&password=secret" if is_database(place) else place


def alter(place: str, statement: str) -> None:
    """Change the tables of a recording, as damage or another program does."""
    if is_database(place):
        with closing(Connection(place, "test")) as database:
            database.execute(statement)
        return
    with closing(sqlite3.connect(place)) as connection, connection:
        connection.execute(statement)


# -- prune ------------------------------------------------------------------------------------


def test_whole_days_are_removed_and_the_others_keep_every_row(place: str) -> None:
    fill(place, SLOTS)
    assert care.prune(place, 2, now=at(END - 1)) == 2
    with Recording.open(place) as recording:
        assert [sweep.slot for sweep in recording.sweeps()] == list(SLOTS[48:])
        times = [sample.time for sample in recording.samples(["S000USDT"])]
        # The first kept sweep has samples that are dated before midnight.
        assert times == [slot - BEFORE for slot in SLOTS[48:]]
        assert recording.samples().count() == 3 * 72
        assert list(recording.pruned()) == [
            Pruned(START + day * DAY, "swept", 24, START + (day + 1) * DAY - HOUR, 72)
            for day in (0, 1)
        ]
        assert check(recording).is_whole
    assert care.prune(place, 2, now=at(END - 1)) == 0


def test_gaps_of_removed_days_are_kept_as_a_summary_and_cut_at_midnight(place: str) -> None:
    with sink_at(place) as sink:
        sink.save(sweep_of(START), [], HOUR)
        banned = Gap(START + HOUR, START + 3 * HOUR, "banned", "until 04:00")
        sink.save(sweep_of(START + 4 * HOUR, without=1), [banned], HOUR)
        sink.save(sweep_of(START + 5 * HOUR, without=1), [], HOUR)
        stopped = Gap(START + 6 * HOUR, END - 2 * HOUR, "stopped")
        sink.save(sweep_of(END - HOUR, without=1), [stopped], HOUR)
    assert care.prune(place, 3, now=at(END - 1)) == 1
    with Recording.open(place) as recording:
        assert [(p.reason, p.slots) for p in recording.pruned()] == [
            ("banned", 3),
            ("stopped", 18),
            ("swept", 3),
        ]
        (gap,) = recording.gaps()
        assert (gap.first, gap.last, gap.reason) == (START + DAY, END - 2 * HOUR, "stopped")
        (failed,) = recording.gaps("S002USDT")
        assert failed.first == END - HOUR
        assert recording.missed() == 4 * 24 - 1
    with sink_at(place) as sink:
        assert sink.last_slot() == END - HOUR


def test_a_gap_of_one_symbol_is_cut_at_midnight(place: str) -> None:
    slots = range(START + 22 * HOUR, START + 26 * HOUR, HOUR)
    with sink_at(place) as sink:
        for slot in slots:
            sink.save(sweep_of(slot, without=1), [], HOUR)
        sink.save(sweep_of(START + 2 * DAY + HOUR), [], HOUR)
    care.prune(place, 1, now=at(START + 2 * DAY + 2 * HOUR))
    with Recording.open(place) as recording:
        (gap,) = recording.gaps("S002USDT")
    assert (gap.first, gap.last) == (START + DAY, START + 25 * HOUR)


def test_a_recording_without_days_still_knows_its_last_slot(place: str) -> None:
    fill(place, range(START, START + DAY, HOUR))
    with sink_at(place) as sink:
        sink.save(None, [Gap(END, END, "stopped")], HOUR)
        sink.save(sweep_of(END), [], HOUR)
    care.prune(place, 1, now=at(END + 1))
    with Recording.open(place) as recording:
        assert [sweep.slot for sweep in recording.sweeps()] == [END]
    with sink_at(place) as sink:
        assert sink.last_slot(END) == START + 23 * HOUR


def test_a_clock_that_is_ahead_removes_no_day_that_should_be_kept(place: str) -> None:
    fill(place, SLOTS)
    assert care.prune(place, 10, now=at(END + 3650 * DAY)) == 0
    with Recording.open(place) as recording:
        assert len(list(recording.sweeps())) == len(SLOTS)


def test_pruning_keeps_history_rows(place: str) -> None:
    fill(place, SLOTS)
    row = ("S000USDT", START - 300 * DAY, 2, "1.10", None, None)
    with sink_at(place) as sink:
        sink.save_past([row])
    care.prune(place, 1, now=at(END))
    with Recording.open(place) as recording:
        assert list(recording.past().rows()) == [row]


def test_a_prune_that_stops_after_any_step_is_completed_by_the_next(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("binance_oi.recorder.sqlite_keeper.STEP_ROWS", 7)
    monkeypatch.setattr("binance_oi.recorder.sqlite_keeper.PAGES_PER_STEP", 5)
    monkeypatch.setattr("binance_oi.recorder.postgres_keeper.STEP_ROWS", 7)
    fill(place, SLOTS)
    steps = 0

    def stop(_: float) -> None:
        nonlocal steps
        steps += 1
        if steps <= 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", stop)
    while True:
        try:
            care.prune(place, 2, now=at(END - 1))
        except KeyboardInterrupt:
            with Recording.open(place) as recording:
                rows: dict[int, list[str]] = {}
                for sample in recording.samples():
                    rows.setdefault(sample.time + BEFORE, []).append(sample.symbol)
                for sweep in recording.sweeps():  # no sweep is without its samples
                    assert len(rows[sweep.slot]) == sweep.new
                kept = [sweep.slot for sweep in recording.sweeps() if sweep.slot >= SLOTS[48]]
                assert kept == list(SLOTS[48:])
        else:
            break
    assert steps > 5
    with Recording.open(place) as recording:
        assert recording.samples().count() == 3 * 72
        assert sum(p.slots for p in recording.pruned()) == 48


@pytest.mark.virtual_time
async def test_a_recorder_with_keep_days_removes_old_days_while_it_records(place: str) -> None:
    recorder = Recorder(Market(), place, every=3600.0, keep_days=2, clock=thread_clock())
    running = asyncio.create_task(recorder.run())
    await asyncio.sleep(6 * 86_400.0)
    recorder.stop()
    await running
    slots, gaps, samples = tables(place)
    first = (slots[-1] // DAY - 2) * DAY
    assert (slots[0], gaps) == (first, [])
    assert samples == 3 * len(slots)
    with Recording.open(place) as recording:
        assert sum(p.slots for p in recording.pruned()) + len(slots) == recorder.status.sweeps


@pytest.mark.parametrize("days", [0, -1, 1.5, True, "3"])
def test_keep_days_must_be_a_positive_whole_number(place: str, days: object) -> None:
    with pytest.raises((ValueError, TypeError), match="keep_days must be"):
        Recorder(Market(), place, every=20.0, keep_days=days)  # type: ignore[arg-type]
    with pytest.raises((ValueError, TypeError), match="keep_days must be"):
        care.prune(place, days)  # type: ignore[arg-type]


def test_a_pruning_looks_for_the_newest_sample_once(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search must skip the entries of removed samples, and each step leaves more of them."""
    fill(place, SLOTS)
    looks, steps = list[int | None](), 0

    def newest(_: object) -> int:
        looks.append(END)
        return END

    for name in ("sqlite_keeper.SqliteKeeper", "postgres_keeper.PostgresKeeper"):
        monkeypatch.setattr(f"binance_oi.recorder.{name}.now", newest)
        monkeypatch.setattr(f"binance_oi.recorder.{name.partition('.')[0]}.STEP_ROWS", 7)

    def sleep(_: float) -> None:
        nonlocal steps
        steps += 1

    monkeypatch.setattr(time, "sleep", sleep)
    assert care.prune(place, 2, now=at(END - 1)) == 2
    assert steps > len(looks)
    assert looks == [END]


def test_a_clock_that_is_set_back_while_days_are_removed_keeps_the_other_days(place: str) -> None:
    fill(place, SLOTS)
    times = chain([END - 1], repeat(END - 1 - 2 * DAY))
    assert care.prune(place, 1, now=lambda: next(times) / 1000) == 1
    with Recording.open(place) as recording:
        assert [sweep.slot for sweep in recording.sweeps()] == list(SLOTS[24:])
        assert recording.samples().count() == 3 * len(SLOTS[24:])


# -- compact ----------------------------------------------------------------------------------


def test_pruning_shrinks_the_file(tmp_path: Path) -> None:
    path = tmp_path / "oi.db"
    fill(str(path), range(START, END, HOUR // 4), 40)
    before = path.stat().st_size
    care.prune(str(path), 1, now=at(END - 1))
    assert path.stat().st_size < before / 2
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA freelist_count").fetchone() == (0,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("of_step", [0.06, 1.5])
def test_pruning_pauses_often_enough_for_a_waiting_recorder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_step: float
) -> None:
    """A recorder that waits for the lock tries every 100 ms, so it needs longer pauses than that.

    One follows a quarter of a second of work, or a longer step, and lasts at least as long.
    """
    fill(str(tmp_path / "oi.db"), SLOTS)
    monkeypatch.setattr("binance_oi.recorder.sqlite_keeper.STEP_ROWS", 7)
    now, worked, longest, slept = 0.0, 0.0, 0.0, 0.0
    step = SqliteKeeper.drop_samples

    def slow(keeper: SqliteKeeper, before: int) -> bool:
        nonlocal now, worked, longest
        now, worked = now + of_step, worked + of_step
        longest = max(longest, worked)
        return step(keeper, before)

    def sleep(seconds: float) -> None:
        nonlocal now, worked, slept
        now += seconds
        if seconds > 0.1:
            slept += seconds
            assert seconds >= worked
            worked = 0.0

    monkeypatch.setattr(SqliteKeeper, "drop_samples", slow)
    monkeypatch.setattr(care, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    assert care.prune(tmp_path / "oi.db", 2, now=at(END - 1)) > 0
    assert 0.0 < longest < max(0.25, of_step + 0.01)
    assert slept > 0.0


def test_the_end_of_maintenance_waits_for_readers_for_a_moment_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the last checkpoint waits for a reader, no recorder can write."""
    path, waits = tmp_path / "oi.db", list[int]()
    fill(str(path), SLOTS)
    close = Store.close

    def close_with(store: Store) -> list[Kept]:
        waits.append(store.connection.execute("PRAGMA busy_timeout").fetchone()[0])
        return close(store)

    monkeypatch.setattr(Store, "close", close_with)
    care.compact(path)
    care.prune(path, 2, now=at(END - 1))
    assert waits
    assert max(waits) <= 1000


def test_compacting_frees_many_pages_in_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause follows each step, so small steps would take hours for a large recording."""
    monkeypatch.setattr("binance_oi.recorder.sqlite_keeper.PAGES_PER_STEP", 50)
    path = tmp_path / "oi.db"
    fill(str(path), range(START, END, HOUR // 4), 40)
    with closing(Store(path)) as store:
        with store.writing() as run:
            run.execute("DELETE FROM settled WHERE symbol > 'S003'")
        keeper, steps = SqliteKeeper(store, lambda: 0.0), 1
        (free,) = store.connection.execute("PRAGMA freelist_count").fetchone()
        while keeper.compact():
            steps += 1
    assert free > 50
    assert steps == -(-free // 50)


def test_a_step_of_compacting_is_short_even_if_each_page_takes_long(tmp_path: Path) -> None:
    """The more pages are free, the longer SQLite searches for the next one to return."""
    path = tmp_path / "oi.db"
    fill(str(path), range(START, END, HOUR // 4), 40)
    with closing(Store(path)) as store:

        def free() -> int:
            (count,) = store.connection.execute("PRAGMA freelist_count").fetchone()
            return int(count)

        with store.writing() as run:
            run.execute("DELETE FROM settled WHERE symbol > 'S003'")
        left = free()
        assert left > 20
        for of_page, pages in ((STEP_S / 9.5, 10), (2 * STEP_S, 1)):
            times = count(0.0, of_page)
            assert SqliteKeeper(store, partial(next, times)).compact()
            left -= pages
            assert free() == left


def test_a_file_of_an_earlier_version_is_rewritten_once(tmp_path: Path) -> None:
    path = tmp_path / "oi.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_3)
    with closing(Store(path, "local")) as store:
        for slot in range(START, START + DAY, HOUR // 4):
            store.save(sweep_of(slot, 40), [], HOUR // 4)
    before = content(str(path))
    size = path.stat().st_size
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE filler (x)")
        connection.executemany("INSERT INTO filler VALUES (?)", [("x" * 900,)] * 2000)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE filler")
    was, now = care.compact(str(path))
    assert now < was / 1.5
    assert now <= size * 1.1
    assert content(str(path)) == before
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)


@pytest.mark.virtual_time
async def test_prune_and_compact_cost_a_running_recorder_no_sweep(place: str) -> None:
    now = round(wall_time() * 1000)
    begin = (now // DAY - 5) * DAY
    fill(place, range(begin, begin + 4 * DAY, HOUR // 4), 40, source=None)
    recorder = Recorder(Market(), place, every=20.0, clock=wall_time)
    running = asyncio.create_task(recorder.run())
    await asyncio.sleep(65.0)
    days = await asyncio.to_thread(care.prune, place, 2, now=at(now))
    await asyncio.sleep(65.0)
    await asyncio.to_thread(care.compact, place)
    await asyncio.sleep(65.0)
    recorder.stop()
    await running
    assert days == 3
    assert (recorder.status.lost, recorder.status.unwritten) == (0, 0)
    with Recording.open(place) as recording:
        found = check(recording)
        assert found.damage == ()
        assert found.unaccounted == 0
        assert recording.samples(["S000USDT"]).count() == 96
        slots = [s.slot for s in recording.sweeps() if s.period == 20_000]
    assert len(slots) == recorder.status.sweeps


# -- check ------------------------------------------------------------------------------------


def test_a_check_lists_missing_slots_with_their_reason(place: str) -> None:
    with sink_at(place) as sink:
        sink.save(sweep_of(START), [], HOUR)
        sink.save(sweep_of(START + HOUR, without=1), [], HOUR)
        gap = Gap(START + 2 * HOUR, START + 3 * HOUR, "banned")
        sink.save(sweep_of(START + 4 * HOUR), [gap], HOUR)
        sink.save(sweep_of(START + 8 * HOUR), [], HOUR)  # three slots have no sweep and no gap
        sink.save(sweep_of(START + 8 * HOUR + HOUR // 2), [], HOUR // 2)
    with Recording.open(place) as recording:
        found = check(recording)
    assert not found.is_whole
    assert found.damage == ()
    assert found.missed == (("banned", 2),)
    assert found.failed == (("S002USDT", "outage", 1),)
    assert found.unaccounted == 3
    assert found.stretches == ((START + 5 * HOUR, START + 7 * HOUR),)
    assert (found.sweeps, found.rows) == (5, 14)


@pytest.mark.parametrize(
    # In h from the beginning of the kept days: the hole, and the first and last slot reported.
    "begin, end, missing",
    [
        (-30, 4, (0, 3)),  # only the part of the hole that is in the kept days
        (-30, 0, None),
        (-4, 1, (0, 0)),
        (-10, -4, None),
        (3, 5, (3, 4)),
    ],
)
def test_a_check_after_a_prune_reports_a_hole_that_reaches_into_the_kept_days(
    place: str, other: str, begin: int, end: int, missing: tuple[int, int] | None
) -> None:
    kept = END - 3 * DAY
    with sink_at(place) as sink:
        for slot in SLOTS:
            if not kept + begin * HOUR <= slot < kept + end * HOUR:
                sink.save(sweep_of(slot), [], HOUR)
    care.prune(place, 3, now=at(END - 1))
    care.prune(place, 2, now=at(END - 1))
    care.prune(place, 4, now=at(END - 1))
    care.copy(place, other)
    holes = [] if missing is None else [tuple(kept + hour * HOUR for hour in missing)]
    for each in (place, other):
        with Recording.open(each) as recording:
            found = check(recording)
        assert list(found.stretches) == holes
        assert found.unaccounted == sum((last - first) // HOUR + 1 for first, last in holes)
        assert (found.damage, found.is_whole) == ((), missing is None)


def test_a_prune_that_removes_nothing_does_not_move_the_beginning_of_a_recording(
    place: str,
) -> None:
    fill(place, range(END - 5 * HOUR, END, HOUR))
    assert care.prune(place, 2, now=at(END - 1)) == 0
    with Recording.open(place) as recording:
        assert recording.pruned_until is None
        assert check(recording).is_whole


def test_a_check_finds_removed_samples_and_sweeps(tmp_path: Path) -> None:
    path = tmp_path / "oi.db"
    fill(str(path), SLOTS)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM settled WHERE symbol = 'S001USDT'")
        connection.execute("DELETE FROM recent WHERE symbol = 'S001USDT'")
        connection.execute("DELETE FROM sweeps WHERE slot = ?", (SLOTS[7],))
        connection.execute(
            "INSERT INTO gaps VALUES ('', ?, ?, ?, 'outage', '')", (SLOTS[9], SLOTS[9], HOUR)
        )
    with Recording(path) as recording:
        found = check(recording)
    assert found.unaccounted == 1
    assert found.stretches == ((SLOTS[7], SLOTS[7]),)
    assert [text.rpartition(": ")[0] for text in found.damage] == [
        "samples that sweeps count but that are missing",
        "slots with a sweep and a gap",
    ]


def test_a_check_reports_a_value_that_no_recorder_writes(tmp_path: Path) -> None:
    path = tmp_path / "oi.db"
    fill(str(path), SLOTS)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE recent SET open_interest = 'x' WHERE symbol = 'S001USDT'")
        connection.execute("UPDATE settled SET open_interest = 'x' WHERE symbol = 'S001USDT'")
    with Recording(path) as recording:
        (damage,) = check(recording).damage
    assert "a value that no recorder writes" in damage


@pytest.mark.parametrize("has_past", [False, True])
def test_a_recording_without_slots_is_not_said_to_have_every_sweep(
    place: str, has_past: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with sink_at(place) as sink:
        if has_past:
            sink.save_past([("S000USDT", START, 1, "1.10", "7.0", None)])
    assert caring.check(place, as_json=False) == 0
    assert capsys.readouterr().out == "sweeps 0, rows 0\nno slots: no sweep was due\n"


def test_after_its_only_gap_is_pruned_a_recording_is_not_said_to_have_had_no_slot(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with sink_at(place) as sink:
        sink.save(None, [Gap(START, START + 30 * HOUR, "outage")], HOUR)
    care.prune(place, 1, now=at(START + 9 * DAY))
    assert caring.check(place, as_json=False) == 0
    assert capsys.readouterr().out.endswith("\nno slots besides those of pruned days\n")


@pytest.mark.parametrize(
    "sweeps, gap, missed",
    [
        (range(0, 13, 6), range(0, 13, 12), 0),
        (range(2, 3, 24), range(1, 5), 3),
    ],
)
def test_sweeps_within_a_gap_count_by_the_period_of_the_gap(
    tmp_path: Path, sweeps: range, gap: range, missed: int
) -> None:
    path = str(tmp_path / "oi.db")
    fill(path, range(START + sweeps[0] * HOUR, START + sweeps.stop * HOUR, sweeps.step * HOUR))
    row = START + gap[0] * HOUR, START + gap[-1] * HOUR, gap.step * HOUR
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO gaps VALUES ('', ?, ?, ?, 'outage', '')", row)
    with Recording(path) as recording:
        assert recording.missed() == missed


def test_samples_without_any_sweep_or_gap_are_damage(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(place, range(START, START + 2 * HOUR, HOUR))
    alter(place, "DELETE FROM sweeps")
    assert caring.check(place, as_json=False) == SOME_FAILED
    said = "DAMAGED: samples without a sweep, although no gap gives a reason: 6"
    assert capsys.readouterr().out == f"sweeps 0, rows 6\n{said}\n"


def test_samples_that_an_interrupted_pruning_left_are_no_damage(place: str) -> None:
    fill(place, range(START, START + 2 * HOUR, HOUR))
    alter(place, "DELETE FROM sweeps")
    alter(place, f"INSERT INTO pruned VALUES ({START}, 'swept', 2, {START + HOUR}, 6)")
    with Recording.open(place) as recording:
        assert check(recording).is_whole


# -- copy -------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "same"])
def other(request: pytest.FixtureRequest, place: str, tmp_path: Path) -> str:
    """A second place: a file, or a place of the same kind as the first."""
    if request.param == "sqlite" or not place.startswith("postgresql"):
        return str(tmp_path / f"other {request.param}.db")
    url: str = request.getfixturevalue("server").database()
    return url


def variety(place: str) -> None:
    """Record every kind of row."""
    with sink_at(place) as sink:
        sink.save(sweep_of(START), [], HOUR)
        sink.save(sweep_of(START + HOUR, without=1), [], HOUR)
        sink.save(sweep_of(START + 2 * HOUR, without=1), [], HOUR)
        gap = Gap(START + 3 * HOUR, START + 5 * HOUR, "banned", "until then")
        sink.save(sweep_of(START + 6 * HOUR), [gap], HOUR)
        sink.save(None, [Gap(START + 7 * HOUR, START + 6 * HOUR, "clock", "set back")], HOUR)
        sink.save(sweep_of(START + 7 * HOUR), [], HOUR)
        sink.save_past([("S000USDT", START, 1, "1.10", "7.0", None)])


def test_a_copy_holds_every_row_of_its_source(place: str, other: str) -> None:
    variety(place)
    read: list[int] = []
    assert care.copy(place, other, on_rows=read.append) == 13
    assert sum(read) == 13
    assert content(other) == content(place)
    assert care.copy(place, other) == 0  # the second copy
    assert content(other) == content(place)
    assert care.copy(other, place) == 0  # the copy in the other direction
    assert content(other) == content(place)


def test_after_a_copy_a_gap_remains_only_where_neither_recording_has_a_sweep(
    place: str, other: str
) -> None:
    for target, hours in ((place, (0, 1, 2, 9)), (other, (0, 4, 5, 6, 9))):
        last = -1
        with sink_at(target) as sink:
            for hour in hours:
                gap = Gap(START + (last + 1) * HOUR, START + (hour - 1) * HOUR, f"in {len(hours)}")
                gaps = [gap] if gap.first <= gap.last else []
                sink.save(sweep_of(START + hour * HOUR), gaps, HOUR)
                last = hour
    care.copy(place, other)
    with Recording.open(other) as recording:
        slots = [(sweep.slot - START) // HOUR for sweep in recording.sweeps()]
        assert slots == [0, 1, 2, 4, 5, 6, 9]
        left = [((g.first - START) // HOUR, (g.last - START) // HOUR) for g in recording.gaps()]
        assert left == [(3, 3), (7, 8)]
        found = check(recording)
        assert (found.damage, found.unaccounted) == ((), 0)
        assert recording.samples().count() == 3 * len(slots)


def test_copying_into_a_recording_that_does_not_adjoin_adds_a_gap(place: str, other: str) -> None:
    fill(place, range(START, START + 3 * HOUR, HOUR))
    fill(other, range(START + 9 * HOUR, START + 12 * HOUR, HOUR))
    care.copy(place, other)
    with Recording.open(other) as recording:
        assert check(recording).missed == (("stopped", 6),)
        assert check(recording).unaccounted == 0


@pytest.mark.parametrize("is_source", [True, False])
@pytest.mark.parametrize(
    "begin, missed",
    [
        (0, 3),  # h from `START` to the first sweep of `place`; slots that were missed
        (5, 8),
        (-5, 3),  # `other` has slots of the first pruned day, so its summary goes
    ],
)
def test_a_copy_does_not_count_pruned_days_as_missed(
    place: str, other: str, begin: int, missed: int, is_source: bool
) -> None:
    """In the first case, three slots lie between the end of `other` and the start of `place`."""
    fill(place, range(START + begin * HOUR, END, HOUR))
    care.prune(place, 2, now=at(END - 1))
    fill(other, range(START - 6 * HOUR, START - 3 * HOUR, HOUR))
    source, target = (place, other) if is_source else (other, place)
    care.copy(source, target)
    with Recording.open(target) as recording:
        found = check(recording)
        assert found.missed == (("stopped", missed),)
        assert (found.unaccounted, found.pruned) == (0, 2)


@pytest.mark.parametrize("pruned_first", [True, False])
def test_a_copy_has_each_day_as_slots_or_as_a_summary(
    place: str, other: str, pruned_first: bool
) -> None:
    for target in (place, other):
        with sink_at(target) as sink:
            stopped = Gap(START, START + DAY - RARE, "stopped")  # a day without any sweep
            sink.save(sweep_of(START + DAY), [stopped], RARE)
        fill(target, range(START + DAY + RARE, END, RARE))
    care.prune(place, 2, now=at(END - 1))
    summaries = content(place)[4]
    source, target = (place, other) if pruned_first else (other, place)
    assert care.copy(source, target) == (0 if pruned_first else 12)
    with Recording.open(target) as recording:
        assert [sweep.slot for sweep in recording.sweeps()] == list(RARE_SLOTS[4:])
        assert (recording.missed(), list(recording.pruned())) == (4, [])
        assert check(recording).pruned == 0
    assert care.prune(target, 2, now=at(END - 1)) == 2
    assert content(target)[4] == summaries


@pytest.mark.parametrize("fails_at", range(1, 9))
def test_an_interrupted_copy_is_continued_by_the_next_one(
    place: str, other: str, fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    variety(place)
    monkeypatch.setattr(copying, "ROWS", 2)
    monkeypatch.setattr(copying, "SWEEPS", 2)
    remembered, count = copying._remember, 0

    def remember(*arguments: object) -> None:
        nonlocal count
        count += 1
        if count == fails_at:
            raise KeyboardInterrupt
        remembered(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(copying, "_remember", remember)
    with pytest.raises(KeyboardInterrupt):
        care.copy(place, other)
    read: list[int] = []
    care.copy(place, other, on_rows=read.append)
    assert content(other) == content(place)
    # The second copy reads no committed part again; some parts have one row instead of two (+ 4).
    assert sum(read) <= 13 - 2 * (fails_at - 2) + 4


def test_a_check_reports_a_copy_that_has_not_ended(
    place: str,
    other: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill(place, range(START, START + 2 * HOUR, HOUR))
    with monkeypatch.context() as patched:
        patched.setattr(copying._Copy, "_sweeps", interrupt)
        with pytest.raises(KeyboardInterrupt):
            care.copy(with_password(place), other)
    assert caring.check(other, as_json=False) == SOME_FAILED
    with Recording(place) as source:
        said = f"incomplete: the copy from {source} has not ended; run it again to continue"
    assert capsys.readouterr().out == f"sweeps 0, rows 6\n{said}\n"
    care.copy(with_password(place), other)
    assert caring.check(other, as_json=False) == 0
    assert capsys.readouterr().out == "sweeps 2, rows 6\nwhole: every slot has its sweep\n"


@pytest.mark.parametrize("state", ["", "[]", "{}", "[" * 100_000])
def test_a_damaged_state_of_a_copy_is_damage(place: str, state: str) -> None:
    fill(place, range(START, START + HOUR, HOUR))
    alter(place, f"INSERT INTO about VALUES ('copying', '{state}')")
    with Recording.open(place) as recording:
        (damage,) = check(recording).damage
    assert "the state of a copy is not readable" in damage


def test_a_copy_into_a_recording_in_use_is_refused_and_a_copy_leaves_its_source_unchanged(
    place: str, other: str
) -> None:
    fill(place, range(START, START + HOUR, HOUR))
    with sink_at(other), pytest.raises(OccupiedError):
        care.copy(place, other)
    with sink_at(other) as sink:
        sink.save(sweep_of(START), [], HOUR)
    before = content(other)
    care.copy(other, place)
    assert content(other) == before


def test_a_copy_of_another_exchange_is_refused(place: str, other: str) -> None:
    fill(place, range(START, START + HOUR, HOUR))
    with sink_at(other, "testnet") as sink:
        sink.save(sweep_of(START), [], HOUR)
    before = content(other)
    with pytest.raises(RecordingError, match="is a recording of"):
        care.copy(place, other)
    assert content(other) == before


def test_a_target_that_cannot_be_opened_ends_a_copy_with_exit_code_2(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(place, range(START, START + HOUR, HOUR))
    missing = tmp_path / "nowhere" / "oi.db"
    assert main(["copy", place, str(missing)]) == 2
    assert capsys.readouterr() == ("", f"binance-oi: {missing}: No such file or directory\n")


@pytest.mark.parametrize("command", ["copy", "check"])
def test_a_directory_is_no_recording(
    place: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(place, range(START, START + HOUR, HOUR))
    given = [command, place, str(tmp_path)] if command == "copy" else [command, str(tmp_path)]
    assert main(given) == 2
    text = f"binance-oi: {tmp_path} is a directory; a recording is a file\n"
    assert capsys.readouterr() == ("", text)


@pytest.mark.parametrize("error", [RecordingError("of the source"), StorageError("of the target")])
def test_a_copy_that_fails_after_its_first_rows_ends_with_exit_code_1(
    place: str,
    other: str,
    error: RecordingError,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 2 would say that the command changed nothing."""

    def fail(*_: object) -> None:
        raise error

    fill(place, range(START, START + HOUR, HOUR))
    monkeypatch.setattr(copying._Copy, "_sweeps", fail)
    assert main(["copy", place, other]) == 1
    assert capsys.readouterr().err == f"binance-oi: {error}\n"
    with Recording(other) as recording:
        assert recording.samples().count() == 3


def test_a_recording_cannot_be_copied_into_itself(place: str) -> None:
    fill(place, range(START, START + HOUR, HOUR))
    kind = "database" if is_database(place) else "file"
    with pytest.raises(RecordingError, match=f"source and target are the same {kind}: "):
        care.copy(place, place)


# -- rotate -----------------------------------------------------------------------------------


def files(tmp_path: Path) -> list[str]:
    return sorted(file.name for file in tmp_path.iterdir())


@pytest.mark.virtual_time
async def test_a_rotating_recorder_writes_a_file_for_each_day_and_loses_no_slot(
    tmp_path: Path,
) -> None:
    await asyncio.sleep(86_400.0 - wall_time() % 86_400.0 - 4 * 3600.0 + 60.0)
    market = Market()
    market.failing = {3: "*", 4: "*", 30: "*"}
    recorder = Recorder(market, tmp_path / "oi.db", every=3600.0, rotate="day", clock=wall_time)
    running = asyncio.create_task(recorder.run())
    await asyncio.sleep(40 * 3600.0)
    recorder.stop()
    await running
    await asyncio.sleep(30 * 3600.0)  # over midnight without a recorder
    again = Recorder(Market(), tmp_path / "oi.db", every=3600.0, rotate="day", clock=wall_time)
    running = asyncio.create_task(again.run())
    await asyncio.sleep(3 * 3600.0)
    again.stop()
    await running
    names = files(tmp_path)
    assert len(names) == 4
    assert all(name.startswith("oi.20") and len(name) == len("oi.2026-11-26.db") for name in names)
    known: list[int] = []
    for name in names:
        slots, gaps, _ = tables(tmp_path / name)
        missed = [s for symbol, a, b, _ in gaps if not symbol for s in range(a, b + 1, HOUR)]
        here = sorted([*slots, *missed])
        assert {f"oi.{instant(slot):%Y-%m-%d}.db" for slot in here} == {name}
        known += here
    assert known == list(range(known[0], known[-1] + 1, HOUR))
    whole = str(tmp_path / "whole.db")
    for name in names:
        care.copy(str(tmp_path / name), whole)
    with Recording(whole) as recording:
        assert recording.missed() + len(list(recording.sweeps())) == len(known)
        assert check(recording).unaccounted == 0


@pytest.mark.virtual_time
async def test_a_rotating_recorder_with_keep_days_removes_files_and_keeps_a_summary(
    tmp_path: Path,
) -> None:
    recorder = Recorder(
        Market(), tmp_path / "oi.db", every=3600.0, rotate="day", keep_days=2, clock=thread_clock()
    )
    running = asyncio.create_task(recorder.run())
    await asyncio.sleep(7 * 86_400.0)
    recorder.stop()
    await running
    names = files(tmp_path)
    assert len(names) == 3
    kept = sum(len(tables(tmp_path / name)[0]) for name in names)
    pruned: list[Pruned] = []
    for name in names:
        with Recording(tmp_path / name) as recording:
            pruned += recording.pruned()
    assert sum(each.slots for each in pruned) + kept == recorder.status.sweeps
    assert sum(each.rows for each in pruned) + 3 * kept == recorder.status.rows


@pytest.mark.virtual_time
async def test_a_second_rotating_recorder_is_refused(tmp_path: Path) -> None:
    def recorder() -> Recorder:
        return Recorder(Market(), tmp_path / "oi.db", every=20.0, rotate="month", clock=wall_time)

    first = recorder()
    running = asyncio.create_task(first.run())
    await asyncio.sleep(50.0)
    with pytest.raises(OccupiedError, match="is being recorded by process"):
        await recorder().run()
    first.stop()
    await running
    assert [name[:5] + name[10:] for name in files(tmp_path)] == ["oi.20.db"]


def test_a_rotating_sink_stores_each_slot_in_the_file_of_its_day(tmp_path: Path) -> None:
    from binance_oi.recorder.rotating import RotatingSink

    def row(day: int) -> tuple[str, int, int, str, None, None]:
        return "S000USDT", START + day * DAY, 2, "1.5", None, None

    with closing(RotatingSink(tmp_path / "oi.db", None, "day")) as sink:
        sink.claim(time.monotonic)
        sink.open()
        assert (sink.last_slot(), sink.is_due(), sink.take_lost()) == (None, False, 0)
        sink.tidy()
        gap = Gap(START + 20 * HOUR, START + 2 * DAY + HOUR, "banned")
        assert sink.save(sweep_of(START + 2 * DAY + 2 * HOUR), [gap], HOUR).new == 3
        assert sink.save_past([row(2), row(0)]) == 2
        assert sink.past_times("S000USDT", 2, 0, END) == [START, START + 2 * DAY]
        found = [gap for _, gap, _ in sink.gaps_since(0)]
        assert [(g.first - START) // HOUR for g in found] == [20, 24, 48]
        assert sink.last_slot() == START + 2 * DAY + 2 * HOUR
        assert sink.last_slot(START + 2 * DAY) == START + 2 * DAY - HOUR
        assert sink.last_slot(START) is None
        # The clock was set back over midnight. Yesterday's slot goes into yesterday's file.
        sink.save(sweep_of(START + DAY), [], HOUR)
        sink.save(None, [Gap(START + DAY, START + DAY - HOUR, "clock")], HOUR)
    assert files(tmp_path) == [f"oi.2026-11-{day}.db" for day in (23, 24, 25)]
    slots, gaps, _ = tables(tmp_path / "oi.2026-11-24.db")
    assert slots == [START + DAY]
    assert [(gap[1] - START) // HOUR for gap in gaps] == [24, 25]


@pytest.mark.parametrize("rotation", ["day", "month"])
def test_a_clock_set_back_into_an_earlier_file_leaves_no_slot_out(
    tmp_path: Path, rotation: Literal["day", "month"]
) -> None:
    from binance_oi.recorder.rotating import RotatingSink

    begin = START + 7 * DAY  # 2026-11-30
    now, ahead = begin + 12 * HOUR, begin + DAY + 10 * HOUR

    def record(sink: Sink) -> None:
        sink.save(sweep_of(ahead), [], HOUR)
        sink.save(sweep_of(now), [Gap(now, now - HOUR, "clock")], HOUR)
        sink.save(sweep_of(now + HOUR), [], HOUR)

    def counted(file: Path) -> list[tuple[int, int, str, int]]:
        with Recording(file) as recording:
            return [(g.first, g.last, g.reason, slots) for g, _, slots in recording.counted_gaps()]

    with sink_at(str(tmp_path / "one.db")) as sink:
        record(sink)
    with closing(RotatingSink(tmp_path / "oi.db", None, rotation)) as sink:
        sink.claim(time.monotonic)
        sink.open()
        record(sink)
    (first, last, reason, slots), *others = counted(tmp_path / "one.db")
    assert (first, last, reason, others) == (now + 2 * HOUR, ahead - HOUR, "clock", [])
    names = [name for name in files(tmp_path) if name != "one.db"]
    parts = [gap for name in names for gap in counted(tmp_path / name) if gap[3]]
    midnight = begin + DAY
    assert parts == [
        (first, midnight - HOUR, "clock", 10),
        (midnight, last, "clock", slots - 10),
    ]


def test_a_clock_set_back_makes_no_files_for_days_without_one(tmp_path: Path) -> None:
    from binance_oi.recorder.rotating import RotatingSink

    with closing(RotatingSink(tmp_path / "oi.db", None, "day")) as sink:
        sink.claim(time.monotonic)
        sink.open()
        sink.save(sweep_of(START + 400 * DAY), [], HOUR)
        sink.save(sweep_of(START), [Gap(START, START - HOUR, "clock")], HOUR)
    assert files(tmp_path) == ["oi.2026-11-23.db", "oi.2027-12-28.db"]


def test_the_summary_of_a_month_counts_a_gap_in_each_of_its_days(tmp_path: Path) -> None:
    from binance_oi.recorder.rotating import RotatingSink

    later = START + 60 * DAY
    sink = RotatingSink(tmp_path / "oi.db", None, "month", keep_days=2, now=at(later))
    with closing(sink):
        sink.claim(time.monotonic)
        sink.open()
        sink.save(sweep_of(START), [], HOUR)
        gaps = [
            Gap(START + HOUR, START + 2 * DAY + 5 * HOUR, "outage"),
            Gap(START + 2 * DAY + 6 * HOUR, START + 2 * DAY + 7 * HOUR, "banned"),
        ]
        sink.save(sweep_of(START + 2 * DAY + 8 * HOUR), gaps, HOUR)
        sink.save(sweep_of(later), [], HOUR)
        sink.tidy()
    (name,) = files(tmp_path)
    with Recording(tmp_path / name) as recording:
        found = [((p.day - START) // DAY, p.reason, p.slots) for p in recording.pruned()]
    assert sorted(found) == [
        *((0, "outage", 23), (0, SWEPT, 1), (1, "outage", 24)),
        *((2, "banned", 2), (2, "outage", 6), (2, SWEPT, 1)),
    ]


class KilledError(BaseException):
    """Stands for the end of the process, because no code of ours catches it."""


@pytest.mark.parametrize("oldest_first", [True, False])
def test_a_day_counts_once_after_a_kill_between_its_summary_and_the_removal_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, oldest_first: bool
) -> None:
    from binance_oi.recorder.rotating import RotatingSink

    def kill(*_: object, **__: object) -> None:
        raise KilledError

    def recorded(slots: range) -> None:
        """Record, and then try to remove one file; with the slots `first`, a kill prevents it."""
        with closing(RotatingSink(tmp_path / "oi.db", None, "day", keep_days=2, now=at(END))) as s:
            s.claim(time.monotonic)
            s.open()
            for slot in slots:
                s.save(sweep_of(slot), [], RARE)
            with monkeypatch.context() as patched:
                if slots is first:
                    patched.setattr(Path, "unlink", kill)
                s.tidy()

    def found() -> tuple[list[int], list[int]]:
        """The days that have sweeps, and those that have a summary; `START` is in day 0."""
        days, summaries = list[int](), list[int]()
        for file in sorted(tmp_path.glob("oi.*.db")):
            with Recording(file) as recording:
                assert check(recording).is_whole
                days += sorted({(sweep.slot - START) // DAY for sweep in recording.sweeps()})
                summaries += [(each.day - START) // DAY for each in recording.pruned()]
        return days, summaries

    first = RARE_SLOTS[:16]
    with pytest.raises(KilledError):
        recorded(first)
    assert found() == ([0, 1, 2, 3], [0])
    whole = str(tmp_path / "whole.db")
    for file in sorted(tmp_path.glob("oi.*.db"), reverse=not oldest_first):
        care.copy(str(file), whole)
    with Recording(whole) as recording:
        assert [sweep.slot for sweep in recording.sweeps()] == list(first)
        assert check(recording).pruned == 0
    care.prune(whole, 2, now=at(first[-1]))
    with Recording(whole) as recording:
        assert [each.slots for each in recording.pruned()] == [4]
    recorded(RARE_SLOTS[16:17])  # a new process, which no kill ends
    assert found() == ([1, 2, 3, 4], [0, 0])  # two files have the summary of day 0
    for file in sorted(tmp_path.glob("oi.*.db"), reverse=not oldest_first):
        care.copy(str(file), whole)
    with Recording(whole) as recording:
        assert [each.slots for each in recording.pruned()] == [4]
        assert [sweep.slot for sweep in recording.sweeps()] == list(RARE_SLOTS[4:17])


@pytest.mark.parametrize("rotate", ["week", 1, ""])
def test_only_files_can_rotate_and_only_by_day_or_month(tmp_path: Path, rotate: str) -> None:
    with pytest.raises(ValueError, match="rotate must be day or month"):
        Recorder(Market(), tmp_path / "oi.db", every=20.0, rotate=rotate)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rotate is only for files"):
        Recorder(Market(), "postgresql:///x", every=20.0, rotate="day")


def test_a_missing_store_is_an_error_that_says_so(tmp_path: Path) -> None:
    for call in (care.compact, lambda place: care.prune(place, 1)):
        with pytest.raises(RecordingError, match="does not exist"):
            call(str(tmp_path / "none.db"))
    fill(str(tmp_path / "oi.db"), range(START, START + HOUR, HOUR))
    with pytest.raises(StorageError):
        care.copy(str(tmp_path / "oi.db"), str(tmp_path / "nowhere" / "oi.db"))


def test_the_oldest_kept_day_begins_at_midnight() -> None:
    assert retention.end_of(2, START + 5) == START - 2 * DAY
    assert unix_ms(instant(START)) % DAY == 0
