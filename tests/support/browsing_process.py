"""A separate process that reads a large recording: `python browsing_process.py PLACE HOW`.

Rule of this file: it reads as a user does, until its input ends. It prints `reading` after the
first read, and the number of its reads at the end. At the first error, it exits with 1 and a
traceback. HOW names what one read covers:

    days: the last day of three symbols, and all sweeps    whole: every row, in one transaction
"""

import random
import select
import sys
from datetime import timedelta

from binance_oi.recorder import Recording


def days(recording: Recording, chance: random.Random) -> None:
    """Read the last day of three random symbols, and count sweeps and missed slots."""
    span = recording.span()
    assert span is not None
    for symbol in chance.sample(recording.symbols(), 3):
        found = recording.samples([symbol], since=span[1] - timedelta(days=1))
        times = [time for _, time, *_ in found.rows()]
        assert times == sorted(set(times))
    assert sum(1 for _ in recording.sweeps()) > 0
    assert recording.missed() >= 0


def whole(recording: Recording, _: random.Random) -> None:
    """Read every row in one transaction."""
    assert sum(1 for _ in recording.samples().rows()) > 0


def main(place: str, how: str) -> None:
    chance, reads = random.Random(place), 0
    while not reads or not select.select([sys.stdin], [], [], 0.01)[0]:
        with Recording.open(place) as recording:
            {"days": days, "whole": whole}[how](recording, chance)
        reads += 1
        if reads == 1:
            print("reading", flush=True)
    print(reads, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
