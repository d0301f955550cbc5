"""Pruning a large recording to a tenth returns space, and disturbs no recorder and no reader.

Rule of this file: the recorder, each reader and the pruning are separate processes. BINANCE_OI_ROWS
is the number of rows, 200,000 by default.
"""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psycopg
import pytest

from binance_oi.recorder import Recording
from binance_oi.recorder.address import is_database
from binance_oi.recorder.check import check
from binance_oi.recorder.postgres_keeper import SIZE
from support import SUPPORT, TESTS
from support.filled import DAY
from support.large import ROWS, SYMBOLS, fill_large
from support.recorder_processes import Process
from support.recording_process import NAMES

DAYS, KEPT = 44, 4  # days that are recorded, and days that a prune keeps
READERS = ("days", "days", "whole")
HANGS = 600.0  # s, at most, from the end of a prune until the recording is small

pytestmark = pytest.mark.thorough


class Reader:
    """A process that reads continuously."""

    def __init__(self, place: str, how: str) -> None:
        command = [sys.executable, "-W", "error", str(SUPPORT / "browsing_process.py"), place, how]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def end(self) -> int:
        """End the process; return how often it has read.

        Raises:
            AssertionError: The process failed.
        """
        said, errors = self._process.communicate("")
        assert (self._process.returncode, errors) == (0, "")
        return int(said.split()[-1])


def size(place: str) -> int:
    """The size of a recording in bytes; for a file, without its log."""
    if not is_database(place):
        return Path(place).stat().st_size
    with psycopg.connect(place) as connection:
        row = connection.execute(SIZE.encode()).fetchone()
        assert row is not None
        return int(row[0])


def kept(place: str, since: int) -> list[object]:
    """A sample of the rows of `KEPT` days from `since`, and the number of all their rows."""
    with Recording.open(place) as recording:
        rows = list(recording.selection(SYMBOLS[::100], (since, since + KEPT * DAY)).rows())
        count = sum(1 for _ in recording.selection(SYMBOLS, (since, since + KEPT * DAY)).rows())
        return [rows, count]


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_pruning_to_a_tenth_returns_space_without_disturbing_recorders_and_readers(
    store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place = str(tmp_path / "oi.db")
    if store == "postgres":
        place = request.getfixturevalue("url")
    sweeps = ROWS // len(SYMBOLS)
    period = DAYS * DAY // sweeps // 1000 * 1000
    now = round(time.time() * 1000)
    begin = (now - sweeps * period) // period * period
    fill_large(place, range(begin, begin + (sweeps - 1) * period, period), source=None)
    since = (now // DAY - KEPT) * DAY
    before, rows = size(place), kept(place, since)
    recorder = Process(place, 0.5)
    recorder.wait(3)
    readers = [Reader(place, how) for how in READERS]
    began, recorded = time.monotonic(), len(recorder.acknowledged)
    command = [sys.executable, "-m", "support.caring_process", "prune", place, str(KEPT), str(now)]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True)
    took, recorded = time.monotonic() - began, len(recorder.acknowledged) - recorded
    assert (done.returncode, done.stderr) == (0, "")
    recorder.wait(len(recorder.acknowledged) + 3)
    # A file shrinks at the recorder's next checkpoint. We deduct the space of its new rows.
    while size(place) - len(recorder.acknowledged) * len(NAMES) * before // ROWS > before / 4:
        time.sleep(0.05)
        assert time.monotonic() - began < took + HANGS
    after = size(place)
    reads = [reader.end() for reader in readers]
    acknowledged = recorder.kill()
    print(f"\n{store}: {before >> 20} MiB, then {after >> 20} MiB; {took:.0f} s")
    print(f"meanwhile {recorded} sweeps were recorded, and {sum(reads):,} reads had no error")
    assert min(reads) > 0
    assert kept(place, since) == rows
    with Recording.open(place) as recording:
        new = {sweep.slot: sweep.new for sweep in recording.sweeps() if sweep.period == 500}
        assert {slot for slot, _ in acknowledged} <= new.keys()
        assert set(new.values()) == {len(NAMES)}
        lost = Counter[str]()
        for each in recording.counted_gaps((acknowledged[0][0], acknowledged[-1][0])):
            lost[each.gap.reason] += each.slots
        print(f"{len(new):,} slots have a sweep, and these were lost: {dict(lost)}")
        assert "storage" not in lost
        assert check(recording).damage == ()
