"""Stalls the main thread at random moments, as a busy machine does: `BINANCE_OI_STALLS=1 pytest`.

Rule of this file: a stall may begin between any two steps of the interpreter, so also between two
readings of a clock. The value of the variable is the seed. Other threads and child processes run
on.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from time import sleep

SEED = os.environ.get("BINANCE_OI_STALLS")
STALLS_S = 0.001, 0.005, 0.02, 0.06  # the possible lengths of a stall
LONGEST_PAUSE_S = 0.2  # from one stall to the next


@contextmanager
def stalling(name: str) -> Iterator[None]:
    """Stall the main thread at random until the end of the block; `name` is a part of the seed."""
    random, is_over = Random(f"{SEED} {name}"), False

    def stall(*_: object) -> None:
        if not is_over:  # a signal may be handled after the last line that stops the timer
            sleep(random.choice(STALLS_S))
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.001, LONGEST_PAUSE_S))

    before = signal.signal(signal.SIGALRM, stall)
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.001, LONGEST_PAUSE_S))
    try:
        yield
    finally:
        is_over = True
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
