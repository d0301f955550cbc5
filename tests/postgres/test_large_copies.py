"""If a copy of many rows is killed and repeated, it ends with all rows, and needs little memory.

Rule of this file: each copy runs in a separate process, and kills are spread over all its work.
BINANCE_OI_ROWS (by default 200000) is the number of rows. BINANCE_OI_KILLS (by default 3) is how
often a copy is killed before its last part.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from support import TESTS
from support.filled import START
from support.large import ROWS, SYMBOLS, digests, fill_large

KILLS = int(os.environ.get("BINANCE_OI_KILLS", "3"))
GROWTH_KIB = 16 << 10  # KiB that the allocator may add; keeping all rows would need hundreds
PERIOD = 20_000  # ms

pytestmark = pytest.mark.thorough


class Run(NamedTuple):
    """A process that copied until its end or a kill."""

    ended: bool
    read: int
    """The number of rows read."""
    peaks: list[int]
    """Its peak memory after each transaction, KiB."""


def run(source: str, target: str, kill_after: int | None, pause: float) -> Run:
    """Copy, and kill the process `pause` s after it has read `kill_after` rows; None: no kill."""
    command = [sys.executable, "-m", "support.caring_process", "copy", source, target]
    read, peaks = 0, list[int]()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=TESTS) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        while kill_after is None or read < kill_after:
            line = process.stdout.readline()
            if line in {"done\n", ""}:
                break
            read, peak = map(int, line.split())
            peaks.append(peak)
        if kill_after is not None:
            time.sleep(pause)
            process.kill()
        ended = process.wait() == 0
        for line in process.stdout:  # what it printed before the kill
            if line[0].isdigit() and line.endswith("\n"):
                read = int(line.split()[0])
    return Run(ended, read, peaks)


def copy_with_kills(source: str, target: str, chance: random.Random) -> None:
    """Copy with `KILLS` kills while samples are copied, and up to two more near the end."""
    points = sorted(chance.randrange(ROWS * 98 // 100) for _ in range(KILLS))
    runs, done = list[Run](), 0
    for point in [*points, ROWS * 99 // 100, ROWS * 99 // 100]:
        runs.append(run(source, target, max(0, point - done), chance.uniform(0.0, 0.3)))
        done += runs[-1].read
        if runs[-1].ended:
            break
    else:
        runs.append(run(source, target, None, 0.0))
    kills = sum(not each.ended for each in runs)
    assert (kills >= KILLS, runs[-1].ended) == (True, True)
    check_memory(max(runs, key=lambda each: each.read))
    print(f"{kills} kills, {sum(each.read for each in runs):,} rows read")


def check_memory(seen: Run) -> None:
    """Check that the peak memory grows by less than `GROWTH_KIB` after the sixth transaction."""
    early, last = seen.peaks[min(5, len(seen.peaks) - 1)], seen.peaks[-1]
    print(f"{seen.read:,} rows: memory {early >> 10} MiB early, {last >> 10} MiB at the end")
    assert last < early + GROWTH_KIB


def test_a_copy_killed_at_any_instant_ends_with_the_same_rows_in_both_directions(
    url: str, tmp_path: Path
) -> None:
    chance = random.Random(22)
    place, back = str(tmp_path / "oi.db"), str(tmp_path / "back.db")
    fill_large(place, range(START, START + ROWS // len(SYMBOLS) * PERIOD, PERIOD))
    there = digests(place)
    print("\n", there)
    for source, target in ((place, url), (url, back)):
        began = time.monotonic()
        copy_with_kills(source, target, chance)
        print(f"copied in {time.monotonic() - began:.0f} s")
        assert digests(target) == there
        again = run(source, target, None, 0.0)  # it reads all rows again
        assert again.ended
        check_memory(again)
        assert digests(target) == there
