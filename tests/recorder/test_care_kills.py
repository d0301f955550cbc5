"""``kill -9`` during a prune, compacting, a copy or a rotation loses no row that should be kept.

Rule of this file: processes are real, and each kill comes after a random part of their work.
BINANCE_OI_KILLS is the number of kills in a test, and BINANCE_OI_SEED chooses other instants.
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

KILLS = int(os.environ.get("BINANCE_OI_KILLS", "3"))
SEED = os.environ.get("BINANCE_OI_SEED", "")
LONGEST = 1.0  # s; a copy is killed at most so long after its start
SHORTLY = 0.05  # s; a rotating recorder is killed at most so long after a line of output
STEP = HOUR // 4
END = START + 10 * DAY
SYMBOLS = 40

pytestmark = pytest.mark.thorough


def chance_of(test: int) -> random.Random:
    return random.Random(f"{test} {SEED}")


def killed(seconds: float | None, *arguments: str, lines: int = 0) -> tuple[bool, list[str]]:
    """Run a process and kill it; return whether it had ended, and its output.

    Args:
        seconds: Kill the process after this time; None lets it end.
        arguments: What the process does; see `support.caring_process`.
        lines: `seconds` begins after the process has printed this number of lines.
    """
    command = [sys.executable, "-m", "support.caring_process", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=TESTS) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        output = [process.stdout.readline() for _ in range(lines)]
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        output += process.stdout.read().splitlines(keepends=True)
    words = [line.strip() for line in output]
    return "done" in words, words


def killed_until_it_ends(
    chance: random.Random, new: Callable[[], str], check_one: Callable[[str], None], *words: str
) -> int:
    """Kill a command `KILLS` times in all, at random instants of its work.

    Args:
        chance: Chooses the instants.
        new: Makes a place. The command is repeated there until it ends.
        check_one: Checks the place after each kill and each end.
        words: The command. The place is inserted after its first word.

    Returns:
        The number of kills.
    """
    began = time.monotonic()
    assert killed(None, words[0], new(), *words[1:])[0]
    longest, kills = time.monotonic() - began, 0
    while kills < KILLS:
        place, ended = new(), False
        while not ended:
            seconds = chance.uniform(0.0, longest / 2) if kills < KILLS else None
            ended, _ = killed(seconds, words[0], place, *words[1:])
            kills += not ended
            check_one(place)
    return kills


@pytest.fixture(name="copies")
def _copies(place: str, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Return a function that copies the file or the database at `place`."""
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
    """Check for damage, for sweeps without samples, and for missing slots from `first` on."""
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
    print(killed_until_it_ends(chance_of(1), copies, check_one, *words), "kills")
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
    print(killed_until_it_ends(chance_of(2), copies, check_one, "compact"), "kills")
    _, now = care.compact(copies())
    assert now < before / 2


def test_a_rotating_recorder_killed_at_any_instant_keeps_every_acknowledged_slot(
    tmp_path: Path,
) -> None:
    chance, path = chance_of(3), tmp_path / "oi.db"
    acknowledged: list[int] = []
    for _ in range(KILLS):
        least, seconds = chance.randint(1, 200), chance.uniform(0.0, SHORTLY)
        ended, lines = killed(seconds, "rotate", str(path), str(START), "300", lines=least)
        assert not ended
        acknowledged += [int(line) for line in lines if line.isdigit()]
        assert len(lines) >= least
    with closing(RotatingSink(path, "production", "day")) as sink:
        sink.claim(lambda: 0.0)
        sink.open()  # a kill may leave the newest file without its tables
    known: set[int] = set()
    removed: set[int] = set()  # a set: after a kill, two files may have the same summary
    for file in sorted(tmp_path.glob("oi.*.db")):
        slots, gaps, samples = tables(file)
        assert (gaps, samples) == ([], 3 * len(slots))
        known |= set(slots)
        with Recording(file) as recording:
            assert check(recording).is_whole
            for each in recording.pruned():
                assert (each.reason, each.slots, each.rows) == ("swept", DAY // HOUR, 72)
                removed.add(each.day)
    first, last = min(known), max(known)
    kept = (last // DAY - 3) * DAY
    assert {slot for slot in acknowledged if slot >= kept} <= known
    assert sorted(known) == list(range(first, last + 1, HOUR))
    assert first <= max(START, kept)
    # A kill before the removal of the oldest file leaves it and its summary; see `rotating`.
    assert [*range(START, first, DAY)] == sorted(removed - {first})
    whole = tmp_path / "whole.db"
    for file in sorted(tmp_path.glob("oi.*.db")):
        care.copy(str(file), str(whole))
    with Recording(whole) as recording:
        assert [each.day for each in recording.pruned()] == [*range(START, first, DAY)]
        assert [sweep.slot for sweep in recording.sweeps()] == sorted(known)


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
    chance, other = chance_of(4), str(tmp_path / "other.db")
    back = str(tmp_path / "back.db")
    fill(place, range(START, END, STEP), SYMBOLS)
    for source, target in ((place, other), (other, back)):
        for _ in range(min(KILLS, 20)):
            ended, _ = killed(chance.uniform(0.0, LONGEST), "copy", source, target)
            if ended:
                break
        assert killed(None, "copy", source, target)[0]
    with Recording.open(place) as first, Recording(back) as last:
        assert list(first.samples().rows()) == list(last.samples().rows())
        assert list(first.sweeps()) == list(last.sweeps())
        assert [*first.periods()] == [*last.periods()]
