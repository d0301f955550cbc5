"""``kill -9`` at random instants of a prune, copy or rotation loses no row that should be kept.

Rule of this file: processes are real, and each kill comes after a random part of their work.
BINANCE_OI_KILLS is the number of kills.
"""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from binance_oi.recorder import Recording, care
from binance_oi.recorder.address import is_database
from binance_oi.recorder.check import check
from binance_oi.recorder.rotating import RotatingSink
from support import TESTS
from support.filled import BEFORE, DAY, HOUR, START, fill
from support.postgres_server import Server
from support.recording_market import tables

HANGS = 600.0
KILLS = int(os.environ.get("BINANCE_OI_KILLS", "3"))
LONGEST = 1.0  # s of work before a kill
STEP = HOUR // 4
END = START + 10 * DAY
SYMBOLS = 40

pytestmark = pytest.mark.thorough


def killed(seconds: float, *arguments: str) -> tuple[bool, list[str]]:
    """Run a process and kill it after some seconds; return whether it had ended, and its output."""
    command = [sys.executable, "-m", "support.caring_process", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=TESTS) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        lines = process.stdout.read().splitlines()
    return "done" in lines, lines


def killed_until_it_ends(
    chance: random.Random, new: Callable[[], str], check_one: Callable[[str], None], *words: str
) -> int:
    """Kill a command `KILLS` times, each at a random instant of its work; return how often.

    Args:
        chance: Chooses the instants.
        new: Makes a place for the command, which is repeated there until it ends.
        check_one: Checks the place after each kill and each end.
        words: The command. The place is inserted after its first word.
    """
    began = time.monotonic()
    assert killed(HANGS, words[0], new(), *words[1:])[0]
    longest, kills = time.monotonic() - began, 0
    while kills < KILLS:
        place, ended = new(), False
        while not ended:
            seconds = chance.uniform(0.0, longest / 2) if kills < KILLS else HANGS
            ended, _ = killed(seconds, words[0], place, *words[1:])
            kills += not ended
            check_one(place)
    return kills


@pytest.fixture(name="copies")
def _copies(place: str, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Return a function that copies the recording in `place` page by page."""
    numbers = count()

    def copied() -> str:
        if not is_database(place):
            target = tmp_path / f"copy{next(numbers)}.db"
            shutil.copy(place, target)
            return str(target)
        server: Server = request.getfixturevalue("server")
        return server.database(template=place)

    return copied


def check_kept(place: str, first: int) -> None:
    """Check that every slot from `first` on has a sweep, and every sweep all its samples."""
    with Recording.open(place) as recording:
        slots = [sweep.slot for sweep in recording.sweeps()]
        assert [slot for slot in slots if slot >= first] == list(range(first, END, STEP))
        least = recording.selection(["S000USDT", "S039USDT"])
        times = [time for _, time, *_ in least.rows()]
        assert {slot - BEFORE for slot in slots} <= set(times)
        assert check(recording).damage == ()


def test_a_prune_killed_at_any_instant_loses_no_row_that_should_be_kept(
    place: str, copies: Callable[[], str]
) -> None:
    fill(place, range(START, END, STEP), SYMBOLS)

    def check_one(copy: str) -> None:
        check_kept(copy, END - 3 * DAY)

    words = ("prune", "2", str(END - 1))
    print(killed_until_it_ends(random.Random(1), copies, check_one, *words), "kills")
    care.prune(place, 2, now=lambda: (END - 1) / 1000)
    with Recording.open(place) as recording:
        assert recording.samples().count() == SYMBOLS * 3 * DAY // STEP
        assert sum(each.slots for each in recording.pruned()) == 7 * DAY // STEP
        assert check(recording).is_whole


def test_compacting_killed_at_any_instant_loses_no_row(
    place: str, copies: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(place, range(START, END, STEP), SYMBOLS)
    with monkeypatch.context() as patched:  # prune without compacting
        for keeper in ("sqlite_keeper.SqliteKeeper", "postgres_keeper.PostgresKeeper"):
            patched.setattr(f"binance_oi.recorder.{keeper}.compact", lambda _: False)
        care.prune(place, 1, now=lambda: (END - 1) / 1000)
    with Recording.open(place) as recording:
        rows = list(recording.samples().rows())

    def check_one(copy: str) -> None:
        with Recording.open(copy) as recording:
            assert list(recording.samples().rows()) == rows
            assert check(recording).is_whole

    before, _ = care.compact(copies())
    print(killed_until_it_ends(random.Random(2), copies, check_one, "compact"), "kills")
    _, now = care.compact(copies())
    assert now < before / 2


def test_a_rotating_recorder_killed_at_any_instant_keeps_every_acknowledged_slot(
    tmp_path: Path,
) -> None:
    chance, path = random.Random(3), tmp_path / "oi.db"
    acknowledged: list[int] = []
    for _ in range(KILLS):
        ended, lines = killed(chance.uniform(0.0, LONGEST), "rotate", str(path), str(START), "300")
        assert not ended
        acknowledged += [int(line) for line in lines if line.isdigit()]
    assert acknowledged
    with closing(RotatingSink(path, "production", "day")) as sink:
        sink.claim(lambda: 0.0)
        sink.open()  # a kill may leave the newest file without its tables
    known: set[int] = set()
    removed: dict[tuple[int, str], int] = {}  # a kill may leave a summary in two files
    for file in sorted(tmp_path.glob("oi.*.db")):
        slots, gaps, samples = tables(file)
        assert (gaps, samples) == ([], 3 * len(slots))
        known |= set(slots)
        with Recording(file) as recording:
            removed |= {(each.day, each.reason): each.slots for each in recording.pruned()}
    last = max(known)
    kept = (last // DAY - 3) * DAY
    assert {slot for slot in acknowledged if slot >= kept} <= known
    assert sorted(known) == list(range(min(known), last + 1, HOUR))
    assert min(known) <= max(START, kept)
    assert sum(removed.values()) == (min(known) - START) // HOUR


def test_a_copy_into_a_file_without_tables_creates_them(tmp_path: Path) -> None:
    """A kill during the creation of a file leaves such a file."""
    source, target = str(tmp_path / "oi.db"), tmp_path / "other.db"
    fill(source, range(START, START + 3 * HOUR, HOUR))
    with closing(sqlite3.connect(target)) as connection:
        connection.execute("PRAGMA auto_vacuum = 2")
        connection.execute("PRAGMA journal_mode = WAL")
    assert target.stat().st_size
    assert care.copy(source, target) == 9


def test_a_copy_killed_at_any_instant_ends_with_the_same_rows(place: str, tmp_path: Path) -> None:
    chance, other = random.Random(4), str(tmp_path / "other.db")
    back = str(tmp_path / "back.db")
    fill(place, range(START, END, STEP), SYMBOLS)
    for source, target in ((place, other), (other, back)):
        for _ in range(min(KILLS, 20)):
            ended, _ = killed(chance.uniform(0.0, LONGEST), "copy", source, target)
            if ended:
                break
        assert killed(600.0, "copy", source, target)[0]
    with Recording.open(place) as first, Recording(back) as last:
        assert list(first.samples().rows()) == list(last.samples().rows())
        assert list(first.sweeps()) == list(last.sweeps())
        assert [*first.periods()] == [*last.periods()]
