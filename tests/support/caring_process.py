"""A process that works on a recording and that a test may kill: `-m support.caring_process WHAT`.

Rule of this file: it prints `ready` after its imports, and `done` if it reaches its end. While it
works, `copy` prints the number of rows read so far and its peak memory in KiB, and `rotate` prints
each stored slot.

    prune PLACE DAYS NOW_MS    compact PLACE    copy SOURCE TARGET    rotate PATH BEGIN_MS DAYS
"""

import resource
import sys
from contextlib import closing
from pathlib import Path

from binance_oi.recorder import care
from binance_oi.recorder.rotating import RotatingSink
from support.filled import DAY, HOUR, sweep_of


def rotate(path: str, begin: int, days: int) -> None:
    """Record some days, and print each acknowledged slot."""
    now = begin / 1000
    with closing(RotatingSink(Path(path), "production", "day", keep_days=3, now=lambda: now)) as s:
        s.claim(lambda: 0.0)
        s.open()
        last = s.last_slot()
        first = begin if last is None else last + HOUR
        for slot in range(first, first + days * DAY, HOUR):
            now = slot / 1000
            s.save(sweep_of(slot), [], HOUR)
            print(slot, flush=True)
            s.tidy()


def copy(source: str, target: str) -> None:
    """Copy, and print the progress."""
    read = 0

    def on_rows(count: int) -> None:
        nonlocal read
        read += count
        print(read, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)

    care.copy(source, target, on_rows=on_rows)


def main(what: str, *arguments: str) -> None:
    print("ready", flush=True)
    match what, arguments:
        case "prune", (place, days, now):
            care.prune(place, int(days), now=lambda: int(now) / 1000)
        case "compact", (place,):
            care.compact(place)
        case "copy", (source, target):
            copy(source, target)
        case "rotate", (path, begin, days):
            rotate(path, int(begin), int(days))
        case _:
            sys.exit(f"what is {what} {arguments}?")
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
