"""``kill -9`` of recorders and of the server loses no acknowledged sweep; a standby takes over.

Rule of this file: recorders are real processes that sweep fifty times a second.
BINANCE_OI_KILLS says how many of them are killed.
"""

import os
import random
import subprocess
import sys
import threading
import time

from binance_oi.recorder import Recording
from binance_oi.recorder.check import check
from support import SUPPORT
from support.postgres_server import Server
from support.recording_process import NAMES

KILLS = int(os.environ.get("BINANCE_OI_KILLS", "3"))
CHILD = SUPPORT / "recording_process.py"


class Process:
    """A recorder in a process; it notes what was acknowledged."""

    def __init__(self, url: str, every: float = 0.1, *options: str) -> None:
        command = [sys.executable, str(CHILD), url, str(every), *options]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdout=pipe, stderr=subprocess.PIPE, text=True)
        self.acknowledged: list[tuple[int, int]] = []
        self.any = threading.Event()
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith("\n"):
                slot, at = line.split()
                self.acknowledged.append((int(slot), int(at)))
                self.any.set()

    def wait(self, sweeps: int) -> None:
        """Wait until so many sweeps are acknowledged."""
        while len(self.acknowledged) < sweeps:
            assert self._process.poll() is None, self._process.stderr
            time.sleep(0.01)

    def kill(self) -> list[tuple[int, int]]:
        self._process.kill()
        self._process.wait()
        self._reading.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
        return self.acknowledged


def check_all(url: str, acknowledged: list[tuple[int, int]]) -> None:
    """Every acknowledged sweep is whole, and every slot has a sweep or one gap."""
    with Recording.open(url) as recording:
        new = {sweep.slot: sweep.new for sweep in recording.sweeps()}
        assert [slot for slot, _ in acknowledged if new.get(slot) != len(NAMES)] == []
        assert set(new.values()) == {len(NAMES)}
        assert recording.samples().count() == len(new) * len(NAMES)
        found = check(recording)
    assert (found.damage, found.unaccounted) == ((), 0)
    assert len({slot for slot, _ in acknowledged}) == len(acknowledged)  # no slot twice


def test_kill_9_of_recorders_loses_no_acknowledged_sweep(url: str) -> None:
    chance = random.Random(6)
    acknowledged: list[tuple[int, int]] = []
    for kill in range(KILLS):
        process = Process(url)
        if kill % 2 == 0:
            process.wait(1)
        time.sleep(chance.uniform(0.0, 0.3))
        acknowledged += process.kill()
    assert len(acknowledged) >= KILLS // 2
    check_all(url, acknowledged)


def test_kill_9_of_the_server_loses_no_acknowledged_sweep(server: Server, url: str) -> None:
    chance = random.Random(7)
    process = Process(url)
    for _ in range(max(2, KILLS // 4)):
        process.wait(len(process.acknowledged) + 1)
        time.sleep(chance.uniform(0.0, 0.3))
        server.kill()
        server.start()
    process.wait(len(process.acknowledged) + 3)
    acknowledged = process.kill()
    check_all(url, acknowledged)
    with Recording.open(url) as recording:  # they waited in memory
        assert "storage" not in {gap.reason for gap in recording.gaps()}


def test_a_standby_takes_over_after_a_kill_and_no_slot_is_there_twice(url: str) -> None:
    acknowledged: list[tuple[int, int]] = []
    first = Process(url)
    first.wait(3)
    took: list[float] = []
    for _ in range(max(2, KILLS // 40)):
        second = Process(url, 0.1, "--standby")
        first.wait(len(first.acknowledged) + 3)
        assert second.acknowledged == []
        acknowledged += first.kill()
        began = time.monotonic()
        second.wait(1)
        took.append(time.monotonic() - began)
        first = second
    acknowledged += first.kill()
    check_all(url, acknowledged)
    print("took over after", [round(seconds, 1) for seconds in took], "s")
