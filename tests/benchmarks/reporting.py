"""Measures reports on 3 and on 30 days of the whole market, and on 100,000 gaps.

    python -m tests.benchmarks report

Rule of this file: the recorder's own store writes the samples; a plain `INSERT` writes the gaps.
Each report is made in a process of its own, so its CPU and memory are those of one report alone.
"""

import math
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from binance_oi import OpenInterest, Snapshot
from binance_oi.exchange.models import MarkPrice
from binance_oi.recorder.store import Store

from .loopback import SYMBOLS

BEGIN = datetime(2026, 10, 1, tzinfo=UTC)
DAYS = (3, 30)  # days of each recording: a factor of ten
PERIOD = 300_000  # ms: the recording of 30 days has 8,640 sweeps
GAPS = 100_000
PROGRAM = """
import os, re, sys, time
from pathlib import Path
import binance_oi.output.report as reports
from binance_oi.recorder import Recording
def peak():
    # Not `ru_maxrss`: a child starts with the peak of its parent.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
began = time.process_time()
with Recording(sys.argv[1]) as recording:
    reports.write_report(recording, sys.argv[2])
spent = time.process_time() - began
memory = peak() - before
print(spent, memory / 1024, os.path.getsize(sys.argv[2]) / 1024)
"""


def measure(_: int) -> None:
    """CPU, memory and size of reports on recordings of two lengths, and with many gaps."""
    with tempfile.TemporaryDirectory() as name:
        home, spent = Path(name), list[float]()
        for days in DAYS:
            path = home / f"{days}.db"
            _record(path, days * 86_400_000 // PERIOD)
            spent.append(_report(path, f"{days} days of {len(SYMBOLS)} symbols"))
        exponent = math.log(spent[1] / spent[0]) / math.log(DAYS[1] / DAYS[0])
        print(f"exponent of CPU in samples: {exponent:.2f}")
        _add_gaps(home / "3.db")
        _report(home / "3.db", f"the shorter one with {GAPS:,} gaps")


def _report(path: Path, what: str) -> float:
    command = [sys.executable, "-c", PROGRAM, str(path), str(path.with_suffix(".html"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    cpu, memory, size = map(float, done.stdout.split())
    print(f"{what}: CPU {cpu:.2f} s, {memory:.0f} MiB, page {size:.0f} KiB", flush=True)
    return cpu


def _record(path: Path, sweeps: int) -> None:
    with closing(Store(path)) as store:
        store._connection.execute("PRAGMA synchronous = OFF")
        for number in range(sweeps):
            store.save(_sweep(number), [], PERIOD)
            store.tidy()


def _sweep(number: int) -> Snapshot:
    slot = BEGIN + timedelta(milliseconds=number * PERIOD)
    ms = round(slot.timestamp() * 1000)
    values = {
        name: OpenInterest(name, Decimal(f"{90_000 + i * 37 + number % 977}.{i:03d}"), ms - i)
        for i, name in enumerate(SYMBOLS)
    }
    prices = {name: MarkPrice(name, Decimal("2.5"), ms) for name in SYMBOLS}
    return Snapshot(
        values_by_symbol=values,
        errors={},
        started=slot,
        finished=slot,
        weight=len(SYMBOLS),
        slot=slot,
        mark_prices=prices,
    )


def _add_gaps(path: Path) -> None:
    first = round(BEGIN.timestamp() * 1000) + 86_400_000 * 10
    rows = [(first + n * 20_000, first + n * 20_000 + n % 7 * 1000) for n in range(GAPS)]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO gaps VALUES ('', ?, ?, 1000, 'outage', 'a detail')", rows
        )
