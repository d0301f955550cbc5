"""What a piece of code does, counted: the same number on every machine, however busy it is.

Rule of this file: no clock. A figure in seconds belongs into `tests/benchmarks`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Calls:
    """How many functions were called."""

    def __init__(self) -> None:
        self.count = 0

    def _note(self, _frame: FrameType, event: str, _argument: object) -> None:
        if event in ("call", "c_call"):
            self.count += 1


@contextmanager
def calls_counted() -> Iterator[Calls]:
    """Count the function calls of this thread in the block, those into C included."""
    calls, before = Calls(), sys.getprofile()
    sys.setprofile(calls._note)
    try:
        yield calls
    finally:
        sys.setprofile(before)
