"""Counts function calls, whose number is the same on every machine, however busy.

Rule of this file: it reads no clock. Figures in seconds belong in `tests/benchmarks`.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rollover import moved_clock

# `nox -s rollovers` moves the clock with functions of its own, whose calls do not count.
MOVED_CLOCK = str(Path(moved_clock.__file__).parent)


class Calls:
    """The number of all function calls (`count`), and of those to each C function (`into_c`)."""

    def __init__(self) -> None:
        self.count = 0
        self.into_c: Counter[str] = Counter()

    def _note(self, frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code.co_filename.startswith(MOVED_CLOCK):
            return
        if event == "c_call":
            self.into_c[getattr(argument, "__name__", "")] += 1
        elif event != "call":
            return
        self.count += 1


@contextmanager
def calls_counted() -> Iterator[Calls]:
    """Count the function calls of this thread in the block."""
    calls, before = Calls(), sys.getprofile()
    sys.setprofile(calls._note)
    try:
        yield calls
    finally:
        sys.setprofile(before)
