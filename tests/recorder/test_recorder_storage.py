"""While the file cannot be written, sweeps wait in memory, and lost ones are counted.

Rule of this file: locks, files and threads are real. Time is virtual, except in tests that block
the writing thread.
"""

import asyncio
import logging
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from binance_oi import RecordingError, Snapshot
from binance_oi.recorder import Recorder, recorder, store
from binance_oi.recorder.lock import RecorderLock
from binance_oi.recorder.pending import KEPT_FOR_S
from binance_oi.times import unix_ms
from support.lanes import thorough
from support.patience import wait_briefly
from support.recording_market import Market, tables
from support.virtual_clock import wall_time

PERIOD = 20_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "oi.db"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the recorder wait for a lock for only 1 ms.

    That wait takes real time, while tests hold locks for virtual time.
    """
    monkeypatch.setattr(store, "LOCK_TIMEOUT_S", 0.001)


@contextmanager
def locked(path: Path, timeout: float = 60.0) -> Iterator[None]:
    """Hold the write lock, as another program may."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=timeout)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def is_locked(path: Path) -> bool:
    try:
        with locked(path, timeout=0.0):
            return False
    except sqlite3.OperationalError:
        return True


class Running:
    """A running recorder that started midway between two slots."""

    def __init__(self, path: Path, every: float = 20.0) -> None:
        self.path = path
        self.acknowledged: list[int] = []
        self.recorder = Recorder(
            Market(), path, every=every, on_sweep=self._acknowledge, clock=wall_time
        )

    def _acknowledge(self, snapshot: Snapshot) -> None:
        assert snapshot.slot is not None
        slot = unix_ms(snapshot.slot)
        assert slot in tables(self.path)[0]  # `on_sweep` runs after the commit
        self.acknowledged.append(slot)

    async def __aenter__(self) -> "Running":
        await asyncio.sleep(10.0)
        self._task = asyncio.create_task(self.recorder.run())
        await asyncio.sleep(60.0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.recorder.stop()
        await self._task

    def checked_slots(self) -> tuple[list[int], list[int]]:
        """Check that each slot has a sweep or is in one gap; return both kinds of slots."""
        slots, gaps, samples = tables(self.path)
        missed = [s for _, a, b, _ in gaps for s in range(a, b + 1, PERIOD)]
        known = sorted([*slots, *missed])
        assert known == list(range(known[0], known[-1] + 1, PERIOD))
        assert self.acknowledged == slots
        assert samples == 3 * len(slots)
        assert self.recorder.status.unwritten == 0
        return slots, missed


@pytest.mark.virtual_time
@pytest.mark.parametrize("seconds", [3.5, 580.0, *thorough(19.0, 62.0)])
async def test_a_lock_of_another_program_costs_no_sweep(
    path: Path, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    async with Running(path) as running:
        await asyncio.sleep(9.0)  # 1 s before a slot
        with locked(path):
            await asyncio.sleep(seconds)
            status = running.recorder.status
        await asyncio.sleep(30.0)
    assert status.unwritten == 1 + (seconds - 1.0) // 20.0
    assert status.storage_error == "database is locked"
    slots, missed = running.checked_slots()
    assert (missed, len(slots)) == ([], running.recorder.status.sweeps)
    assert (running.recorder.status.lost, running.recorder.status.storage_error) == (0, None)
    assert [r.levelname for r in caplog.records] == ["WARNING"] * 2


@pytest.mark.virtual_time
async def test_sweeps_that_cannot_be_written_for_ten_minutes_are_lost_and_named(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Running(path) as running:
        with locked(path):
            await asyncio.sleep(3 * KEPT_FOR_S)
            status = running.recorder.status
        await asyncio.sleep(30.0)
    slots, missed = running.checked_slots()
    assert {reason for _, _, _, reason in tables(path)[1]} == {"storage"}
    assert status.unwritten == KEPT_FOR_S / 20
    assert status.lost == status.missed == len(missed) == 2 * KEPT_FOR_S / 20
    assert missed == list(range(missed[0], missed[0] + len(missed) * PERIOD, PERIOD))
    assert slots[2] < missed[0] < slots[3]
    assert [r.message.split(str(path))[1][:21] for r in caplog.records] == [
        " cannot be written, p",
        ": sweeps are lost: da",
        " can be written again",
    ]


@pytest.mark.virtual_time
async def test_memory_is_bounded_before_the_ten_minutes_are_over(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This is room for two sweeps of 3,584 bytes.
    monkeypatch.setattr("binance_oi.recorder.pending.KEPT_BYTES", 10_000)
    async with Running(path) as running:
        with locked(path):
            await asyncio.sleep(200.0)
            assert running.recorder.status.unwritten == 2
        await asyncio.sleep(30.0)
    assert running.recorder.status.lost == len(running.checked_slots()[1]) == 8


@pytest.mark.virtual_time
async def test_a_pending_sweep_is_written_without_waiting_for_the_next_one(
    path: Path,
) -> None:
    async with Running(path, every=3600.0) as running:
        await asyncio.sleep(3600.0 - wall_time() % 3600.0 - 1.0)
        with locked(path):
            await asyncio.sleep(30.0)
            assert running.recorder.status.unwritten == 1
        await asyncio.sleep(5.0)
        assert len(running.acknowledged) == len(tables(path)[0]) == 1
        assert running.recorder.status.unwritten == 0


@pytest.mark.virtual_time
async def test_a_vacuum_of_another_program_costs_no_sweep(path: Path) -> None:
    has_locked, go_on = threading.Event(), threading.Event()

    def pause() -> None:
        """Block as soon as no other connection can write."""
        if not has_locked.is_set() and is_locked(path):
            has_locked.set()
            go_on.wait(120.0)

    def vacuum() -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.set_progress_handler(pause, 1)
            other.execute("VACUUM")

    async with Running(path) as running:
        thread = threading.Thread(target=vacuum)
        thread.start()
        assert has_locked.wait(110.0)
        await asyncio.sleep(100.0)
        assert running.recorder.status.unwritten == 5
        go_on.set()
        thread.join(120.0)
        await asyncio.sleep(30.0)
    assert running.checked_slots()[1] == []
    assert running.recorder.status.lost == 0


@pytest.mark.virtual_time
async def test_pending_sweeps_are_written_into_a_new_file_after_a_removal(
    path: Path,
) -> None:
    async with Running(path) as running:
        with locked(path):
            await asyncio.sleep(60.0)
            assert running.recorder.status.unwritten == 3
            old = Path(shutil.copy(path, path.with_name("old.db")))  # without the log
            path.unlink()  # noqa: ASYNC240
            await asyncio.sleep(30.0)
    slots, gaps, _ = tables(path)
    before = [slot for slot in tables(old)[0] if slot not in slots]
    assert (running.acknowledged, gaps) == ([*before, *slots], [])
    assert len(slots) > 4  # the pending sweeps, and those in the old file's log
    status = running.recorder.status
    assert (status.lost, status.missed, status.unwritten) == (0, 0, 0)


@pytest.mark.virtual_time
@pytest.mark.parametrize("goes_on", [True, False])
async def test_the_content_of_the_log_survives_an_error_and_the_removal_of_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    failing, save = [False], store.Store.save

    def save_or_fail(*arguments: object) -> int:
        if failing[0]:
            raise sqlite3.OperationalError("disk I/O error")
        return save(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store.Store, "save", save_or_fail)
    async with Running(path) as running:
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")  # now the log cannot be emptied
            assert reader.execute("SELECT count(*) FROM sweeps").fetchone() == (3,)
            await asyncio.sleep(40.0)
            failing[0] = True
            await asyncio.sleep(20.0)
            failing[0] = not goes_on
            await asyncio.sleep(20.0)
            old = Path(shutil.copy(path, path.with_name("old.db")))  # without the log
            path.unlink()  # noqa: ASYNC240
            failing[0] = False
            await asyncio.sleep(20.0 * goes_on)
    slots, gaps, _ = tables(path)
    before = [slot for slot in tables(old)[0] if slot not in slots]
    assert (running.acknowledged, gaps) == ([*before, *slots], [])
    assert len(before) < 3
    status = running.recorder.status
    assert (status.lost, status.missed, status.unwritten) == (0, 0, 0)


@pytest.mark.virtual_time
async def test_sweeps_of_a_removed_file_beyond_the_memory_bound_are_lost_and_named(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store, "KEPT_ROWS", 3)  # one sweep
    async with Running(path) as running:
        path.unlink()  # noqa: ASYNC240
        await asyncio.sleep(20.0)
    slots, gaps, _ = tables(path)
    missed = [slot for _, a, b, _ in gaps for slot in range(a, b + 1, PERIOD)]
    assert sorted([*slots, *missed]) == running.acknowledged
    assert {reason for _, _, _, reason in gaps} == {"storage"}
    status = running.recorder.status
    assert (status.lost, status.missed, status.unwritten) == (len(missed), len(missed), 0)
    assert missed
    assert f"{len(missed)} sweeps are lost" in caplog.text


@pytest.mark.virtual_time
async def test_sweeps_lost_with_their_directory_count_once_and_are_named_by_the_next_run(
    path: Path,
) -> None:
    home = path.parent / "home"
    home.mkdir()
    running = Running(home / "oi.db")
    task = asyncio.create_task(running.recorder.run())
    await asyncio.sleep(75.0)
    shutil.rmtree(home)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    first, *vanished = running.acknowledged  # the file itself already had the first sweep
    assert running.recorder.status.lost == running.recorder.status.missed == len(vanished) > 1
    home.mkdir()
    async with running:
        pass
    slots, gaps, _ = tables(running.path)
    named = [s for _, a, b, why in gaps if why == "storage" for s in range(a, b + 1, PERIOD)]
    assert (named, running.acknowledged) == (vanished, [first, *vanished, *slots])
    assert running.recorder.status.lost == len(vanished)


@pytest.mark.virtual_time
async def test_stopping_retries_the_write_and_counts_lost_sweeps(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_briefly(monkeypatch, 0.001)  # s, in each of 50 attempts during the last ten seconds
    async with Running(path) as running:
        with locked(path):
            await asyncio.sleep(60.0)
            running.recorder.stop()
            running.recorder.stop()
            await asyncio.sleep(60.0)
    status = running.recorder.status
    assert (status.lost, status.missed, status.unwritten) == (3, 3, 0)
    assert "sweeps are lost" in caplog.records[-1].message
    async with Running(path) as again:
        pass
    slots, gaps, _ = tables(path)
    assert [reason for _, _, _, reason in gaps] == ["stopped"]
    assert slots == [*running.acknowledged, *again.acknowledged]


@pytest.mark.virtual_time
@pytest.mark.parametrize("way", ["stopped", "cancelled"])
async def test_pending_sweeps_are_written_at_the_end_if_possible(path: Path, way: str) -> None:
    running = Running(path)
    async with running:
        with locked(path):
            await asyncio.sleep(61.0)
        if way == "cancelled":
            running._task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running._task
            running._task = asyncio.create_task(asyncio.sleep(0))
    assert running.checked_slots()[1] == []
    assert len(running.acknowledged) == 6
    assert running.recorder.status.lost == 0


@pytest.mark.virtual_time
async def test_the_last_writes_are_bounded_in_time_and_name_the_lost_sweeps(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "LAST_WRITES_WITHIN_S", 0.0)
    async with Running(path) as running:
        with locked(path):
            await asyncio.sleep(61.0)
    slots, missed = running.checked_slots()
    assert (len(slots), len(missed), running.recorder.status.lost) == (3, 3, 3)
    assert {reason for _, _, _, reason in tables(path)[1]} == {"storage"}


async def test_polling_continues_while_the_writing_thread_is_blocked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, go_on = threading.Event(), threading.Event()
    save = store.Store.save

    def stand_still(*arguments: object) -> int:
        if arguments[1] is not None:
            stuck.set()
            go_on.wait(120.0)
        return save(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store.Store, "save", stand_still)
    acknowledged: list[Snapshot] = []
    running = Recorder(RealMarket(), path, every=0.05, on_sweep=acknowledged.append)
    task = asyncio.create_task(running.run())
    try:
        async with asyncio.timeout(110.0):
            while running.status.unwritten < 5:  # noqa: ASYNC110 - a status has no wakeup
                await asyncio.sleep(0.01)
        assert (stuck.is_set(), acknowledged) == (True, [])
        assert running.status.storage_error is None
    finally:
        go_on.set()
        running.stop()
        await task
    assert len(acknowledged) == len(tables(path)[0]) >= 5
    assert (running.status.lost, running.status.unwritten) == (0, 0)


class RealMarket(Market):
    async def snapshot(self, symbols: object = None, **more: object) -> Snapshot:
        return await super(Market, self).snapshot(["S0USDT"])


@pytest.mark.virtual_time
async def test_an_error_of_the_caller_ends_the_recorder_after_pending_writes(
    path: Path,
) -> None:
    def refuse(_: Snapshot) -> None:
        raise LookupError("of the caller")

    await asyncio.sleep(10.0)
    running = Recorder(Market(), path, every=20.0, on_sweep=refuse, clock=wall_time)
    with pytest.raises(LookupError, match="of the caller"):
        await running.run()
    assert len(tables(path)[0]) == running.status.sweeps == 1


@pytest.mark.virtual_time
async def test_a_locked_file_is_not_opened_again(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "binance_oi")
    async with Running(path):
        with locked(path):
            await asyncio.sleep(60.0)
    assert not [r for r in caplog.records if "opened again" in r.message]


@pytest.mark.virtual_time
async def test_a_cancelled_recorder_may_run_again(path: Path) -> None:
    running = Running(path)
    for slots in (4, 8):
        await asyncio.sleep(10.0)
        task = asyncio.create_task(running.recorder.run())
        await asyncio.sleep(75.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(running.checked_slots()[0]) == running.recorder.status.sweeps == slots


async def test_a_second_cancellation_ends_the_recorder_after_the_current_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, go_on = asyncio.Event(), threading.Event()
    loop, save = asyncio.get_running_loop(), store.Store.save

    def stand_still(*arguments: object) -> int:
        if arguments[1] is not None:  # a sweep; before it, a slow machine may write a gap
            loop.call_soon_threadsafe(stuck.set)
            go_on.wait(120.0)
        return save(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store.Store, "save", stand_still)
    task = asyncio.create_task(Recorder(RealMarket(), path, every=0.05).run())
    await stuck.wait()
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(tables(path)[0]) == 1


@pytest.mark.virtual_time
async def test_stop_waits_for_a_lock_of_another_program(path: Path) -> None:
    async with Running(path) as running:
        with locked(path):
            await asyncio.sleep(41.0)
            assert running.recorder.status.unwritten
            running.recorder.stop()
            await asyncio.sleep(4.0)
        await running._task
    slots, missed = running.checked_slots()
    assert (missed, running.recorder.status.lost) == ([], 0)
    assert len(slots) >= 4


def truncate(path: Path) -> None:
    shutil.copy(path, path.with_name("old.db"))
    os.truncate(path, 0)


def remove_log(path: Path) -> None:
    path.with_name("oi.db-wal").unlink()


def remove_all_beside(path: Path) -> None:
    for ending in ("-wal", "-shm", "-lock"):
        path.with_name(f"oi.db{ending}").unlink()


def overwrite(path: Path) -> None:
    other = path.with_name("other.db")
    store.Store(other).close()
    shutil.copyfile(other, path)


@pytest.mark.virtual_time
@pytest.mark.parametrize("way", [truncate, remove_log, remove_all_beside, overwrite])
@pytest.mark.parametrize("goes_on", [0.0, 100.0], ids=["at the end", "in the middle"])
async def test_damage_to_the_files_of_a_live_recording_costs_no_sweep(
    path: Path, way: Callable[[Path], None], goes_on: float, caplog: pytest.LogCaptureFixture
) -> None:
    async with Running(path) as running:
        way(path)
        await asyncio.sleep(goes_on)
    slots, gaps, samples = tables(path)
    assert gaps == []
    assert len(slots) == running.recorder.status.sweeps
    assert samples == 3 * len(slots)
    status = running.recorder.status
    assert (status.lost, status.missed, status.unwritten) == (0, 0, 0)
    said = [r.message for r in caplog.records if "Errno" not in r.message]
    assert len(said) == (1 if goes_on else 0)


@pytest.mark.virtual_time
@pytest.mark.parametrize("way", ["moved", "lock removed", "link"])
async def test_a_recorder_at_the_old_place_excludes_the_moved_one_until_it_ends(
    path: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    home = path.parent / "home"
    home.mkdir()
    link = path.parent / "link"
    link.symlink_to(home)
    path = (link if way == "link" else home) / "oi.db"
    first, second = Running(path), Running(path)
    async with first:
        await asyncio.sleep(15.0)  # so the second starts 5 s before a slot of the first
        if way == "moved":
            home.rename(path.parent.with_name("away"))
            home.mkdir()
        elif way == "link":
            link.unlink()
            path.parent.with_name("away").mkdir()
            link.symlink_to(path.parent.with_name("away"))
        else:
            (home / "oi.db-lock").unlink()
        async with second:
            status = first.recorder.status
            assert status.storage_error == f"{path} is being recorded by process {os.getpid()}"
            assert status.unwritten >= 3
            assert second.recorder.status.storage_error is None
        await asyncio.sleep(30.0)
    old = {"moved": path.parent.with_name("away"), "link": home}.get(way)
    before = tables(old / "oi.db")[0] if old else []
    slots, gaps, _ = tables(path)
    assert {*first.acknowledged, *second.acknowledged} <= {*before, *slots}
    assert not [gap for gap in gaps if gap[3] == "storage"]
    assert (first.recorder.status.lost, first.recorder.status.unwritten) == (0, 0)
    assert [p.name for p in path.parent.parent.rglob("*-lock")] == []


@pytest.mark.virtual_time
async def test_a_recorder_continues_after_a_link_replaces_its_directory(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, away = path.parent / "home", path.parent / "away"
    home.mkdir()
    running = Running(home / "oi.db")
    async with running:
        home.rename(away)
        home.symlink_to(away)
        await asyncio.sleep(100.0)
        assert running.recorder.status.storage_error is None
        with pytest.raises(RecordingError, match="is being recorded by process"):
            RecorderLock(away / "oi.db")
    assert running.checked_slots()[1] == []
    assert caplog.records == []
    assert [file.name for file in away.iterdir()] == ["oi.db"]


@pytest.mark.virtual_time
async def test_a_recorder_continues_in_the_copy_to_which_its_link_is_redirected(
    path: Path,
) -> None:
    home, away, copy = (path.parent / name for name in ("home", "away", "copy"))
    home.mkdir()
    running = Running(home / "oi.db")
    async with running:
        home.rename(away)
        home.symlink_to(away)
        await asyncio.sleep(60.0)
        shutil.copytree(away, copy)
        home.unlink()
        home.symlink_to(copy)
        await asyncio.sleep(100.0)
        assert running.recorder.status.storage_error is None
    slots = tables(copy / "oi.db")[0]
    assert {*tables(away / "oi.db")[0], *slots} == set(running.acknowledged)
    assert running.acknowledged[-1] in slots
    assert running.recorder.status.unwritten == 0
    assert not [*away.glob("*-lock"), *copy.glob("*-lock")]


@pytest.mark.virtual_time
async def test_sweeps_given_up_without_the_lock_are_counted_and_named(
    path: Path,
) -> None:
    first = Running(path)
    async with first:
        path.with_name("oi.db-lock").unlink()
        lock = RecorderLock(path)
        await asyncio.sleep(KEPT_FOR_S + 100.0)
        assert first.recorder.status.lost > 0
        lock.close()
        await asyncio.sleep(30.0)
    slots, missed = first.checked_slots()
    assert len(missed) == first.recorder.status.lost
    assert len(slots) == first.recorder.status.sweeps
