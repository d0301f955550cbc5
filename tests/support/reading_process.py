"""A reader in a process of its own: `python reading_process.py FILE`, until its input ends.

Rule of this file: it reads as a stranger does, with a connection for each look and with one that
stays, and it ends with 1 and a traceback at the first thing that is not as it should be. It says
`looking` after its first look, and looks once more when its input ends.
"""

import select
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from binance_oi.recorder import Recording

PAUSE = 0.01  # s between two looks


def look(path: Path, staying: sqlite3.Connection, least: int) -> int:
    """Sweeps found; each is whole, and there are never fewer than before."""
    with Recording(path) as recording:
        sweeps = list(recording.sweeps())
        sample = next(iter(recording.samples(recording.symbols()[:1])))
    assert len(sweeps) >= least
    assert sample.open_interest > 0
    (rows, new) = staying.execute(
        "SELECT (SELECT count(*) FROM samples), (SELECT sum(new) FROM sweeps)"
    ).fetchone()  # one statement: one moment
    assert rows == new
    return len(sweeps)


def main(path: Path) -> None:
    sweeps = 0
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as staying:
        sweeps = look(path, staying, sweeps)
        print("looking", flush=True)
        while not select.select([sys.stdin], [], [], PAUSE)[0]:
            sweeps = look(path, staying, sweeps)
        look(path, staying, sweeps)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
