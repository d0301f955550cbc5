"""A separate process that reads until its input ends: `python reading_process.py FILE`.

Rule of this file: it reads as any other program does, both with a new connection for each check and
with one that stays open. At the first error, it exits with 1 and a traceback. It prints `checking`
after its first check, and checks once more when its input ends.
"""

import select
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from binance_oi.recorder import Recording

PAUSE_S = 0.01  # s between two checks


def check_recording(path: Path, staying: sqlite3.Connection, least: int) -> int:
    """Check that rows and sweeps agree, and that there are `least` sweeps; return how many."""
    with Recording(path) as recording:
        sweeps = list(recording.sweeps())
        sample = next(iter(recording.samples(recording.symbols()[:1])))
    assert len(sweeps) >= least
    assert sample.open_interest > 0
    (rows, new) = staying.execute(
        "SELECT (SELECT count(*) FROM samples), (SELECT sum(new) FROM sweeps)"
    ).fetchone()  # in one statement, so that all values are of one moment
    assert rows == new
    return len(sweeps)


def main(path: Path) -> None:
    sweeps = 0
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as staying:
        sweeps = check_recording(path, staying, sweeps)
        print("checking", flush=True)
        while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
            sweeps = check_recording(path, staying, sweeps)
        check_recording(path, staying, sweeps)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
