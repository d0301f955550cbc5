"""``kill -9`` during care, at random instants, loses nothing that should stay.

Rule of this file: processes are real, and a random part of their work is done when they are killed.
BINANCE_OI_KILLS says how many are killed.
"""

import os
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from binance_oi.recorder import Recording, care
from binance_oi.recorder.check import check
from binance_oi.recorder.rotating import RotatingSink
from support import TESTS
from support.filled import BEFORE, DAY, HOUR, START, fill
from support.recording_market import tables

KILLS = int(os.environ.get("BINANCE_OI_KILLS", "3"))
LONGEST = 1.0  # s of work before a kill
STEP = HOUR // 4 if KILLS > 20 else HOUR
END = START + 10 * DAY
SYMBOLS = 40

pytestmark = pytest.mark.thorough


def killed(seconds: float, *arguments: str) -> tuple[bool, list[str]]:
    """Run a process and kill it after some seconds; whether it had ended, and what it printed."""
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


def check_kept(place: str, first: int) -> None:
    """Every slot from `first` on has its sweep with all samples, and every sweep has all."""
    with Recording.open(place) as recording:
        slots = [sweep.slot for sweep in recording.sweeps()]
        assert [slot for slot in slots if slot >= first] == list(range(first, END, STEP))
        least = recording.selection(["S000USDT", "S039USDT"])
        times = [time for _, time, *_ in least.rows()]
        assert {slot - BEFORE for slot in slots} <= set(times)
        assert check(recording).damage == ()


def test_a_prune_killed_at_any_instant_loses_nothing_that_should_stay(place: str) -> None:
    chance = random.Random(1)
    fill(place, range(START, END, STEP), SYMBOLS)
    kills = 0
    for days in (8, 6, 4, 2):
        while True:
            seconds = chance.uniform(0.0, LONGEST) if kills < KILLS else 600.0
            ended, _ = killed(seconds, "prune", place, str(days), str(END - 1))
            kills += not ended
            check_kept(place, END - (days + 1) * DAY)
            if ended:
                break
    with Recording.open(place) as recording:
        assert recording.samples().count() == SYMBOLS * 3 * DAY // STEP
        assert sum(each.slots for each in recording.pruned()) == 7 * DAY // STEP
        assert check(recording).is_whole


def test_a_compact_killed_at_any_instant_loses_nothing(tmp_path: Path) -> None:
    chance, place = random.Random(2), str(tmp_path / "oi.db")
    fill(place, range(START, END, STEP), SYMBOLS)
    for kill in range(KILLS):
        if kill % 20 == 0:  # something to return
            care.prune(place, 8 - kill // 20, now=lambda: (END - 1) / 1000)
        killed(chance.uniform(0.0, LONGEST / 4), "compact", place)
        with Recording(place) as recording:
            first = next(iter(recording.sweeps())).slot
        check_kept(place, first)


def test_a_rotating_recorder_killed_at_any_instant_keeps_every_acknowledged_slot(
    tmp_path: Path,
) -> None:
    chance, path = random.Random(3), tmp_path / "oi.db"
    acknowledged: list[int] = []
    for _ in range(KILLS):
        _, lines = killed(chance.uniform(0.0, LONGEST), "rotate", str(path), str(START), "30")
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
