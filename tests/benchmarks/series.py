"""Measures reads of series, from a recording of ten million rows in 30 days.

    python -m tests.benchmarks series

Rule of this file: the time of a read is given as a ratio to that of a plain SQLite query for the
same rows, and the two take turns. The rows go to their table in the order in which a recorder moves
them there, sixty sweeps at a time. So the file's pages are in the same order as in a recording.
"""

import os
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path

from binance_oi import changes_of
from binance_oi.recorder import Recording
from binance_oi.recorder.store import Store

from .loopback import SYMBOLS

ROWS = int(os.environ.get("BINANCE_OI_ROWS", "10_000_000"))
BEGIN = 1_795_003_200_000  # Unix ms
EVERY, STEP = 20_000, 300_000  # ms
SWEEPS = 30 * 86_400_000 // EVERY
MOVED = 60  # sweeps that a recorder moves at a time
SPARSE, PAST = "SPARSEUSDT", "PASTUSDT"  # a sample every 5 minutes; history alone
PLAIN = (
    "SELECT symbol, time, open_interest, mark_price FROM settled"
    " WHERE symbol = ? AND time >= ? AND time < ? ORDER BY time"
)
PLAIN_PAST = PLAIN.replace("mark_price", "notional").replace("settled", "past")


def measure(rounds: int) -> None:
    """Measure one symbol as columns against a plain query, CPU for each row, and memory."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        path = Path(name) / "oi.db"
        count = _fill(path)
        print(f"{count:,} rows in {path.stat().st_size / 2**20:.0f} MiB", flush=True)
        symbol = SYMBOLS[ROWS // SWEEPS // 2]
        for what, of, query in (
            ("a sample every 20 s", symbol, PLAIN),
            ("a sample every 5 min", SPARSE, PLAIN),
            ("history alone", PAST, PLAIN_PAST),
        ):
            _compare(path, what, of, query, max(5, rounds))
        _changes(path, symbol)
        command = [sys.executable, "-m", "tests.benchmarks.series", str(path)]
        print(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def _fill(path: Path) -> int:
    with closing(Store(path)):
        pass
    symbols = SYMBOLS[: max(1, ROWS // SWEEPS)]
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for first in range(0, SWEEPS, MOVED):
            rows = (
                _row(name, i, number, EVERY)
                for i, name in enumerate(symbols)
                for number in range(first, first + MOVED)
            )
            connection.executemany("INSERT INTO settled VALUES (?, ?, ?, ?, ?)", rows)
            connection.commit()
        few = range(30 * 86_400_000 // STEP)
        rows = (_row(SPARSE, 1, number, STEP) for number in few)
        connection.executemany("INSERT INTO settled VALUES (?, ?, ?, ?, ?)", rows)
        past = (
            (PAST, BEGIN + n * STEP, 1, f"{90_000 + n % 977}.1", f"{n + 10**9}.50000000", None)
            for n in few
        )
        connection.executemany("INSERT INTO past VALUES (?, ?, ?, ?, ?, ?)", past)
        connection.commit()
    return len(symbols) * SWEEPS + 2 * len(few)


def _row(name: str, i: int, number: int, every: int) -> tuple[str, int, str, int, str]:
    at = BEGIN + number * every
    value = f"{90_000 + i * 37 + number % 977}.{i:03d}"
    return name, at - 2500 - i, value, at, f"{60_000 + number % 977}.{i:03d}00000"


def _compare(path: Path, what: str, symbol: str, query: str, rounds: int) -> None:
    """Measure the CPU of query and series, in turn, while the file is in the system's cache."""
    with Recording(path) as recording, closing(sqlite3.connect(path)) as connection:
        series = recording.series([symbol])
        span = symbol, BEGIN - STEP, BEGIN + SWEEPS * EVERY

        def plain() -> int:
            return len(connection.execute(query, span).fetchall())

        def ours() -> int:
            return len(series.to_columns()["time"])

        cpu: dict[str, list[float]] = {"plain": [], "ours": [], "rows": []}
        for _ in range(rounds):
            for name, work in (("plain", plain), ("ours", ours), ("rows", partial(_each, series))):
                cpu[name].append(_cpu(work))
        read, made = plain(), ours()
    ratio = statistics.median(o / p for o, p in zip(cpu["ours"], cpu["plain"], strict=True))
    each = statistics.median(cpu["rows"]) / made * 1e6
    print(
        f"{what}: {made:,} rows as columns, {ratio:.2f} of a plain query of {read:,} rows"
        f" ({statistics.median(cpu['plain']) * 1e3:.0f} ms); {each:.1f} µs of CPU for each row as"
        " an object",
        flush=True,
    )


def _each(rows: Iterable[object]) -> int:
    return sum(1 for _ in rows)


def _changes(path: Path, symbol: str) -> None:
    with Recording(path) as recording:
        points = list(recording.series([symbol]))
    for windows in (["1h"], ["5m", "15m", "1h", "4h", "24h"]):
        seconds = _cpu(partial(_each, changes_of(points, windows)))
        print(f"changes over {len(windows)} windows: {seconds / len(points) * 1e6:.1f} µs a row")


def _cpu(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _read_all(path: Path) -> None:
    """Read every row; print the memory after the first symbol and at the end."""
    early = count = 0
    began = time.process_time()
    with Recording(path) as recording:
        for rows in recording.series().blocks():
            count += len(rows)
            early = early or (_most_resident_mib() if rows[0][0] != SYMBOLS[0] else 0)
    seconds = time.process_time() - began
    print(
        f"{count:,} rows of all symbols: {seconds / count * 1e6:.1f} µs of CPU for each; memory at"
        f" most {early} MiB after the first symbol, {_most_resident_mib()} MiB at the end"
    )


def _most_resident_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    _read_all(Path(sys.argv[1]))
