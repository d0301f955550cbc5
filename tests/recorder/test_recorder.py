"""A recorder stores each acknowledged sweep, writes a gap for each missing one, and keeps polling.

Rule of this file: another connection checks what a recorder has written.
"""

import asyncio
import contextlib
import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from binance_oi import (
    ExchangeInfo,
    InvalidSymbolError,
    OccupiedError,
    OpenInterest,
    RecordingError,
    Snapshot,
)
from binance_oi.recorder import Recorder, Recording, Status
from binance_oi.recorder.lock import RecorderLock
from binance_oi.recorder.store import Store
from support import SUPPORT, TESTS, virtual_clock
from support.lanes import thorough
from support.recording_market import Market, tables
from support.recording_process import NAMES
from support.virtual_clock import wall_time

PERIOD = 20_000  # ms
START = 1_795_435_200_000  # Unix ms
KILLS = int(os.environ.get("BINANCE_OI_KILLS", "3"))
STARTED = 2.0  # s, at most, from the end of a new process's imports to its first sweep
CHILD = SUPPORT / "recording_process.py"
READER = SUPPORT / "reading_process.py"


async def record(
    place: Path | str,
    sweeps: int,
    market: Market | None = None,
    *,
    then: Callable[[int], object] = print,
    acknowledged: list[int] | None = None,
) -> Recorder:
    """Record some sweeps in virtual time; start midway between two slots."""
    await asyncio.sleep(10.0 - wall_time() % 20.0 + 20.0)
    done = 0

    def count(snapshot: Snapshot) -> None:
        nonlocal done
        done += 1
        if acknowledged is not None:
            acknowledged.append(slot_of(snapshot))
        then(done)
        if done == sweeps:
            recorder.stop()

    recorder = Recorder(market or Market(), place, every=20.0, on_sweep=count, clock=wall_time)
    await recorder.run()
    return recorder


def slot_of(snapshot: Snapshot) -> int:
    assert snapshot.slot is not None
    return round(snapshot.slot.timestamp() * 1000)


def copied(path: Path) -> Path:
    """A copy of the file without its log, as `cp` makes it."""
    return Path(shutil.copy(path, path.with_name("alone.db")))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "oi.db"


@pytest.mark.virtual_time
async def test_sweeps_are_recorded_exactly_as_the_exchange_wrote_them(place: str) -> None:
    recorder = await record(place, 4)
    slots, gaps, samples = tables(place)
    assert [slot % PERIOD for slot in slots] == [0] * 4
    assert (gaps, samples) == ([], 12)
    with Recording(place) as recording:
        assert {value for _, _, value, _, _ in recording.samples().rows()} == {"0.00000010"}
    assert (recorder.status.sweeps, recorder.status.rows) == (4, 12)


@pytest.mark.virtual_time
async def test_a_symbol_that_failed_is_in_the_gaps_with_its_reason(place: str) -> None:
    market = Market()
    market.failing = {1: NAMES[0], 2: NAMES[0], 3: "*", 4: "*", 6: NAMES[1]}
    recorder = await record(place, 6, market)
    slots, gaps, samples = tables(place)
    first = slots[0]
    assert gaps == [
        ("", first + 3 * PERIOD, first + 4 * PERIOD, "banned"),
        (NAMES[0], first + PERIOD, first + 2 * PERIOD, "outage"),
        (NAMES[1], first + 6 * PERIOD, first + 6 * PERIOD, "outage"),
    ]
    assert samples == 6 * 3 - 3
    assert (recorder.status.missed, recorder.status.failed) == (2, 3)


@pytest.mark.virtual_time
async def test_the_next_start_records_a_gap_for_the_time_without_a_recorder(place: str) -> None:
    await record(place, 2)
    before = tables(place)[0]
    await asyncio.sleep(600.0)
    await record(place, 2)
    slots, gaps, samples = tables(place)
    assert gaps == [("", before[-1] + PERIOD, slots[2] - PERIOD, "stopped")]
    assert (len(slots), samples) == (4, 12)
    with Recording(place) as recording:
        assert [round(at.timestamp() * 1000) for at in recording.span() or ()] == [
            slots[0],
            slots[-1],
        ]


@pytest.mark.virtual_time
async def test_a_recorder_that_ended_leaves_only_its_file(path: Path) -> None:
    await record(path, 4)
    assert sorted(file.name for file in path.parent.iterdir() if "oi" in file.name) == ["oi.db"]


@pytest.mark.virtual_time
async def test_a_deleted_file_is_created_again_with_the_content_of_its_log(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    acknowledged: list[int] = []

    def delete(number: int) -> None:
        if number == 2:
            path.unlink()

    with caplog.at_level(logging.WARNING, "binance_oi"):
        recorder = await record(path, 4, then=delete, acknowledged=acknowledged)
    assert tables(path) == (acknowledged, [], 12)
    assert (recorder.status.sweeps, recorder.status.lost) == (4, 0)
    assert [r.message for r in caplog.records] == [
        f"{path} was moved, removed or replaced; recording continues in a new file"
    ]


@pytest.mark.virtual_time
async def test_a_file_deleted_before_the_end_leaves_the_content_of_its_log(path: Path) -> None:
    acknowledged: list[int] = []

    def delete(number: int) -> None:
        if number == 3:
            path.unlink()

    recorder = await record(path, 3, then=delete, acknowledged=acknowledged)
    assert tables(path) == (acknowledged, [], 9)
    assert recorder.status.lost == 0


@pytest.mark.virtual_time
async def test_sweeps_of_a_deleted_file_that_no_file_can_take_count_as_lost(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = path.parent / "home"
    home.mkdir()

    def delete(number: int) -> None:
        if number == 3:
            (home / "oi.db").unlink()
            home.rename(path.parent / "away")  # so that no new file can be made

    recorder = await record(home / "oi.db", 3, then=delete)
    assert (recorder.status.sweeps, recorder.status.lost) == (3, 3)
    assert "was removed with its log" in caplog.text


@pytest.mark.virtual_time
@pytest.mark.parametrize("read", [False, True])
async def test_rotating_a_live_recording_keeps_every_acknowledged_sweep(
    path: Path, read: bool
) -> None:
    acknowledged: list[int] = []
    old = path.with_name("old.db")
    with contextlib.ExitStack() as stack:

        def rotate(number: int) -> None:
            if number == 4:
                if read:
                    uri = f"{path.as_uri()}?mode=ro"
                    reader = stack.enter_context(closing(sqlite3.connect(uri, uri=True)))
                    assert reader.execute("SELECT count(*) FROM sweeps").fetchone() == (4,)
                path.rename(old)

        recorder = await record(path, 9, then=rotate, acknowledged=acknowledged)
    assert tables(old)[0] + tables(path)[0] == acknowledged
    assert (recorder.status.lost, recorder.status.missed) == (0, 0)


@pytest.mark.virtual_time
@pytest.mark.parametrize("every", [1.0, 600.0, *thorough(20.0, 60.0)])
async def test_the_file_without_its_log_is_never_more_than_a_minute_behind(
    path: Path, every: float
) -> None:
    """`cp oi.db` copies the file without its log."""
    acknowledged: list[int] = []
    recorder = Recorder(
        Market(),
        path,
        every=every,
        on_sweep=lambda s: acknowledged.append(slot_of(s)),
        clock=wall_time,
    )
    running = asyncio.create_task(recorder.run())
    due: list[int] = []
    for _ in range(12):
        await asyncio.sleep(max(17.0, every / 3))
        due = [slot for slot in acknowledged if slot <= wall_time() * 1000 - 60_000]
        assert not due or set(due) <= set(tables(copied(path))[0])
    recorder.stop()
    await running
    assert len(acknowledged) >= 4
    assert due


class WholeMarket(Market):
    """A market of 789 symbols, all of which change with every sweep."""

    async def snapshot(self, symbols: object = None, **_: object) -> Snapshot:
        self.number += 1
        now, ms = datetime.fromtimestamp(wall_time(), UTC), round(wall_time() * 1000)
        values = {
            f"S{n}USDT": OpenInterest(f"S{n}USDT", Decimal(f"{10**5 + n}.{self.number:03}"), ms)
            for n in range(789)
        }
        return Snapshot(values_by_symbol=values, errors={}, started=now, finished=now, weight=789)


def written() -> int:
    """Bytes that this process has handed to the kernel."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["wchar"])


@pytest.mark.thorough
@pytest.mark.virtual_time
@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="only Linux counts the bytes")
async def test_a_sweep_of_the_whole_market_writes_half_a_megabyte_at_most(path: Path) -> None:
    market = WholeMarket()
    recorder = Recorder(market, path, every=20.0, clock=wall_time)
    running, before = asyncio.create_task(recorder.run()), written()
    await asyncio.sleep(2 * 3600.0)
    recorder.stop()
    await running
    assert market.number >= 360
    assert (written() - before) / market.number <= 0.5e6


@pytest.mark.virtual_time
async def test_a_failing_move_warns_once_and_loses_no_sweep(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Store) -> None:
        raise sqlite3.IntegrityError("UNIQUE constraint failed")

    monkeypatch.setattr(Store, "_settle", broken)
    with caplog.at_level(logging.WARNING, "binance_oi"):
        await record(path, 4)
    assert len(tables(path)[0]) == 4
    assert [record.message for record in caplog.records] == [
        f"{path} cannot be tidied yet: UNIQUE constraint failed"
    ]


class Named(Market):
    """A market that has a source, and counts the requests for its listing."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source, self.asked = source, 0

    async def exchange_info(self, *, max_age: float = 0.0) -> ExchangeInfo:
        self.asked += 1
        return await super().exchange_info(max_age=max_age)


@pytest.mark.virtual_time
async def test_another_source_is_refused_before_any_request(
    path: Path,
) -> None:
    await record(path, 1, Named("production"))
    await record(path, 1, Named("production"))
    before = tables(copied(path))
    others = [Named("testnet"), Named("local"), Named("https://oi.example:443")]
    for other in others:
        said = f"is a recording of production, and not of {other.source}"
        with pytest.raises(RecordingError, match=said):
            await record(path, 1, other)
    with pytest.raises(RecordingError, match="production, and not of None"):
        await record(path, 1)  # a market without a source
    assert [other.asked for other in others] == [0, 0, 0]
    assert tables(copied(path)) == before
    assert sorted(f.name for f in path.parent.glob("oi*")) == ["oi.db"]
    with Recording(path) as recording:
        assert recording.source == "production"


@pytest.mark.virtual_time
async def test_a_file_whose_recorder_was_killed_before_it_made_its_tables_is_continued(
    path: Path,
) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
    await record(path, 2, Named("production"))
    assert len(tables(path)[0]) == 2


@pytest.mark.virtual_time
async def test_another_source_is_refused_by_every_store(place: str) -> None:
    await record(place, 1, Named("production"))
    before, other = tables(place), Named("testnet")
    with pytest.raises(RecordingError, match="is a recording of production, and not of testnet"):
        await record(place, 1, other)
    assert (tables(place), other.asked) == (before, 0)


@pytest.mark.virtual_time
async def test_a_standby_takes_over_when_the_recorder_ends(place: str) -> None:
    first = Recorder(Market(), place, every=20.0, clock=wall_time)
    running = asyncio.create_task(first.run())
    await asyncio.sleep(65.0)
    with pytest.raises(OccupiedError):
        await record(place, 1)
    second = Recorder(Market(), place, every=20.0, standby=True, clock=wall_time)
    waiting = asyncio.create_task(second.run())
    await asyncio.sleep(60.0)
    assert second.status.sweeps == 0
    assert (second.status.trouble or "").startswith("standby: ")
    first.stop()
    await running
    for _ in range(3600):  # a database server may release the lock late
        await asyncio.sleep(1.0)
        if second.status.sweeps >= 3:
            break
    second.stop()
    await waiting
    slots, gaps, _ = tables(place)
    assert len(slots) == first.status.sweeps + second.status.sweeps
    missed = [slot for _, a, b, _ in gaps for slot in range(a, b + 1, PERIOD)]
    assert sorted([*slots, *missed]) == list(range(slots[0], slots[-1] + 1, PERIOD))
    assert second.status.trouble is None


@pytest.mark.virtual_time
async def test_a_standby_that_is_stopped_while_it_waits_ends_at_once(place: str) -> None:
    first = Recorder(Market(), place, every=20.0, clock=wall_time)
    running = asyncio.create_task(first.run())
    await asyncio.sleep(65.0)
    second = Recorder(Market(), place, every=20.0, standby=True, clock=wall_time)
    waiting = asyncio.create_task(second.run())
    await asyncio.sleep(30.0)
    second.stop()
    await waiting
    first.stop()
    await running
    assert (second.status.sweeps, len(tables(place)[0])) == (0, first.status.sweeps)


@pytest.mark.virtual_time
async def test_a_file_of_another_source_that_replaced_ours_gets_no_sweep(
    path: Path,
) -> None:
    other = path.with_name("other.db")
    Store(other, "testnet").close()
    recorder = await record(
        path, 3, Named("production"), then=lambda n: other.replace(path) if n == 3 else None
    )
    assert tables(path) == ([], [], 0)
    assert recorder.status.lost == 3


@pytest.mark.virtual_time
async def test_a_file_that_cannot_be_written_costs_no_sweep_and_polling_continues(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, away = path.parent, path.parent.with_name("away")
    statuses: list[Status] = []

    async def watch(recorder: Recorder) -> None:
        await asyncio.sleep(70.0)
        home.rename(away)
        await asyncio.sleep(60.0)
        statuses.append(recorder.status)
        away.rename(home)
        await asyncio.sleep(40.0)
        recorder.stop()

    recorder = Recorder(Market(), path, every=20.0, clock=wall_time)
    with caplog.at_level(logging.WARNING, "binance_oi"):
        await asyncio.gather(recorder.run(), watch(recorder))
    slots, gaps, _ = tables(path)
    assert (gaps, slots) == ([], list(range(slots[0], slots[-1] + 1, PERIOD)))
    assert statuses[0].storage_error
    assert statuses[0].unwritten == 3
    assert (recorder.status.lost, recorder.status.missed, recorder.status.unwritten) == (0, 0, 0)
    assert recorder.status.storage_error is None
    assert [r.message.split(str(path))[1][:24] for r in caplog.records] == [
        " cannot be written, poll",
        " can be written again",
    ]


@pytest.mark.virtual_time
async def test_a_second_recorder_is_refused_with_the_process_id(path: Path) -> None:
    lock = RecorderLock(path)
    with pytest.raises(RecordingError, match=rf"recorded by process {os.getpid()}$"):
        await record(path, 1)
    lock.close()
    await record(path, 1)


@pytest.mark.parametrize("leads", ["itself", "link", "link to a link", "directory", "link away"])
@pytest.mark.parametrize("ending", ["-wal", "-shm", "-journal", "-lock", "-WAL", "-\u017fhm"])
def test_a_recorder_refuses_the_name_of_a_side_file(path: Path, ending: str, leads: str) -> None:
    """SQLite takes a file of that name for part of another recording, and would overwrite it."""
    side = target = Path(f"{path}{ending}")
    match leads:
        case "link" | "link to a link":
            target = path.with_name("link.db")
            target.symlink_to(side)
            if leads == "link to a link":
                first, target = target, path.with_name("first.db")
                target.symlink_to(first)
        case "directory":
            away = path.with_name("away")
            away.symlink_to(path.parent)
            target = away / side.name
        case "link away":
            side.symlink_to(path.with_name("away.db"))
    before = sorted(path.parent.iterdir())
    with pytest.raises(RecordingError, match="has the name of a side file of a recording"):
        virtual_clock.run(record(target, 1))
    assert sorted(path.parent.iterdir()) == before


@pytest.mark.parametrize("kind", ["text", "database", "version"])
def test_a_file_that_is_no_recording_is_refused_and_unchanged(path: Path, kind: str) -> None:
    if kind == "text":
        path.write_text("not a database, and longer than a header of one" * 10)
    else:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE mine (x)")
            if kind == "version":
                connection.execute(f"PRAGMA application_id = {0x624F4931}")
                connection.execute("PRAGMA user_version = 999")
            connection.commit()
    before = path.read_bytes()
    with pytest.raises(RecordingError, match={"version": "version 999"}.get(kind, "not a record")):
        virtual_clock.run(record(path, 1))
    with pytest.raises(RecordingError):
        Recording(path)
    assert path.read_bytes() == before


@pytest.mark.virtual_time
async def test_a_missing_directory_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="cannot be recorded into"):
        await record(tmp_path / "nowhere" / "oi.db", 1)


@pytest.mark.virtual_time
async def test_cancelling_run_raises_cancelled_error_and_stop_returns_normally(place: str) -> None:
    recorder = Recorder(Market(), place, every=20.0, clock=wall_time)
    running = asyncio.create_task(recorder.run())
    await asyncio.sleep(50.0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(tables(place)[0]) == recorder.status.sweeps > 0


def one_sample() -> Snapshot:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    return Snapshot(
        values_by_symbol={"A": OpenInterest("A", Decimal("1.50"), START)},
        errors={},
        started=now,
        finished=now,
        weight=1,
        slot=now,
    )


def test_writing_the_same_sweep_twice_changes_nothing(path: Path) -> None:
    snapshot = one_sample()
    with closing(Store(path)) as store:
        assert store.save(snapshot, [], PERIOD) == 1
        before = tables(path)
        assert store.save(snapshot, [], PERIOD) == 0
        assert tables(path) == before


def test_a_single_str_is_refused_as_symbols(path: Path) -> None:
    with pytest.raises(InvalidSymbolError, match=r"such as \['BTCUSDT'\]"):
        Recorder(Market(), path, every=20.0, symbols="BTCUSDT")
    with closing(Store(path)) as store:
        store.save(one_sample(), [], PERIOD)
    with Recording(path) as recording, pytest.raises(InvalidSymbolError):
        recording.samples("A")


async def test_a_stopped_recorder_does_not_start(path: Path) -> None:
    recorder = Recorder(Market(), path, every=20.0)
    recorder.stop()
    await recorder.run()
    assert list(path.parent.glob("oi*")) == []


@contextmanager
def read_throughout(path: Path) -> Iterator[None]:
    """Read continuously in another process, which ends at the first error."""
    command = [sys.executable, str(READER), str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        try:
            began = process.stdout.readline()
            yield
        finally:
            _, complaint = process.communicate()
    assert (process.returncode, began, complaint) == (0, "checking\n", "")


def start(path: Path, every: float) -> "subprocess.Popen[str]":
    """Start a recorder and wait for its imports, which a busy machine slows down."""
    command = [sys.executable, str(CHILD), str(path), str(every)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def acknowledged_until_killed(path: Path, seconds: float, *, sweeps: int) -> list[tuple[int, int]]:
    """Kill a recorder `seconds` s after `sweeps` sweeps; return what it has acknowledged."""
    with start(path, 0.02) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(sweeps)]
        time.sleep(seconds)
        process.kill()
        lines += process.stdout.readlines()
    pairs = [line.split() for line in lines if line.endswith("\n")]
    return [(int(slot), int(at)) for slot, at in pairs]


def test_kill_9_loses_no_acknowledged_sweep_and_leaves_none_in_part(path: Path) -> None:
    chance = random.Random(6)
    acknowledged = acknowledged_until_killed(path, 0.0, sweeps=3)
    with read_throughout(path):
        for kill in range(KILLS):
            instant = chance.uniform(0.0, 0.2)  # every second kill waits for no sweep
            acknowledged += acknowledged_until_killed(path, instant, sweeps=3 * (kill % 2))
    with closing(sqlite3.connect(path)) as connection:
        (check,) = connection.execute("PRAGMA integrity_check").fetchone()
        new = dict(connection.execute("SELECT slot, new FROM sweeps"))
        per_time = dict(connection.execute("SELECT time, count(*) FROM samples GROUP BY time"))
        gaps = connection.execute("SELECT first, last, period FROM gaps").fetchall()
    assert check == "ok"
    assert len(acknowledged) > KILLS
    assert [slot for slot, _ in acknowledged if new.get(slot) != len(NAMES)] == []
    assert [at for _, at in acknowledged if per_time.get(at) != len(NAMES)] == []
    assert set(per_time.values()) == {len(NAMES)}  # every sweep is complete
    missed = [slot for first, last, step in gaps for slot in range(first, last + 1, step)]
    every = sorted([*new, *missed])
    assert every == list(range(every[0], every[-1] + 1, 20))


@pytest.mark.wallclock
def test_a_recorder_starts_within_two_seconds_after_a_kill(path: Path) -> None:
    for _ in range(KILLS):
        with start(path, 0.02) as process:
            assert process.stdout is not None
            began = time.monotonic()
            process.stdout.readline()
            assert time.monotonic() - began < STARTED
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_lock_is_released_however_a_recorder_ends(path: Path, number: signal.Signals) -> None:
    with start(path, 0.02) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(RecordingError, match=f"recorded by process {process.pid}$"):
            RecorderLock(path)
        process.send_signal(number)
    RecorderLock(path).close()


FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
from support import recording_process as child
from support import virtual_clock
import asyncio
from binance_oi.recorder import Recorder
def free_disk_in_time():
    status = recorder.status
    if status.unwritten >= 3 and status.storage_error and not room:
        room.append(status.sweeps)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    if room and status.sweeps >= room[0] + 6:
        recorder.stop()
    else:
        asyncio.get_running_loop().call_later(0.05, free_disk_in_time)
async def main():
    asyncio.get_running_loop().call_soon(free_disk_in_time)
    await recorder.run()
    print(recorder.status.lost)
room = []
now = virtual_clock.wall_time
recorder = Recorder(child.Reader(now), sys.argv[1], every=0.05, clock=now)
virtual_clock.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on the size of files")
def test_sweeps_delayed_by_a_full_disk_are_written_when_there_is_room(
    path: Path,
) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, cwd=TESTS, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "0\n"
    with Recording(path) as recording:
        slots = [sweep.slot for sweep in recording.sweeps()]
        missed = [s for gap in recording.gaps() for s in range(gap.first, gap.last + 1, 50)]
        assert len(list(recording.samples())) == len(slots) * len(NAMES)
        assert "storage" not in {gap.reason for gap in recording.gaps()}
    assert sorted([*slots, *missed]) == list(range(slots[0], slots[-1] + 1, 50))


READ_ONLY = """
import asyncio, os, sys
from support import recording_process as child
from binance_oi import RecordingError
from binance_oi.recorder import Recorder, Recording, Status
if os.getuid() == 0:  # root may write anywhere
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    asyncio.run(Recorder(child.Reader(), sys.argv[1], every=0.05).run())
except RecordingError as error:
    print(error)
with Recording(sys.argv[1]) as recording:
    print(recording.symbols())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs permissions of POSIX")
def test_a_read_only_directory_can_be_read_but_not_recorded_into() -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "oi.db"
        with closing(Store(path)) as store:
            store.save(one_sample(), [], PERIOD)
        os.chmod(path, 0o444)
        os.chmod(name, 0o555)
        command = [sys.executable, "-c", READ_ONLY, str(path)]
        done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True)
        os.chmod(name, 0o755)
    refusal, symbols = done.stdout.splitlines()
    assert refusal.startswith(f"{path} cannot be recorded into: ")
    assert symbols == "('A',)"
