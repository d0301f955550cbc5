"""Runs recorders in separate processes, which a test can kill, and checks their recordings.

Rule of this file: `Process` notes every sweep that its recorder acknowledges, as a caller would.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from binance_oi.recorder import Recording
from binance_oi.recorder.check import check
from support import SUPPORT
from support.recording_process import NAMES

CHILD = SUPPORT / "recording_process.py"


class Process:
    """A recorder in a separate process, and its acknowledged sweeps."""

    def __init__(
        self, url: str, every: float = 0.1, *options: str, host: Sequence[str] = ()
    ) -> None:
        command = [*host, sys.executable, str(CHILD), url, str(every), *options]
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
        """Wait until this many sweeps are acknowledged."""
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
    """Check that each acknowledged sweep is stored, and each slot has a whole sweep or a gap."""
    with Recording.open(url) as recording:
        new = {sweep.slot: sweep.new for sweep in recording.sweeps()}
        assert [slot for slot, _ in acknowledged if new.get(slot) != len(NAMES)] == []
        assert set(new.values()) == {len(NAMES)}
        assert recording.samples().count() == len(new) * len(NAMES)
        found = check(recording)
    assert (found.damage, found.unaccounted) == ((), 0)
    assert len({slot for slot, _ in acknowledged}) == len(acknowledged)  # no slot twice
