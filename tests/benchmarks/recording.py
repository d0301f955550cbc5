"""Measures a recorder and its file: ten million rows, written as a recorder writes them.

    python -m tests.benchmarks recorder

Rule of this file: `Store.save` writes the file sweep by sweep, so that its pages are in the same
order as in a recording. Only work outside a measurement skips the wait for the disk.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path

from binance_oi import OpenInterest, Snapshot
from binance_oi.output.export import export
from binance_oi.recorder import Recording
from binance_oi.recorder.schema import PAGE_SIZE
from binance_oi.recorder.store import Store

from .loopback import SYMBOLS

ROWS = int(os.environ.get("BINANCE_OI_ROWS", "10_000_000"))
BEGIN = datetime(2026, 11, 20, tzinfo=UTC)
EVERY = timedelta(seconds=20)
PERIOD = 20_000  # ms
MEASURED = 500  # commits of a measurement
PAUSE = 0.1  # s between two commits; a recorder commits every 20 s


def sweep(number: int) -> Snapshot:
    """A sweep of the whole market. All its values differ, also from those of the last sweep."""
    slot = BEGIN + number * EVERY
    ms = round(slot.timestamp() * 1000)
    values = {
        name: OpenInterest(name, Decimal(f"{90_000 + i * 37 + number % 977}.{i:03d}"), ms - i)
        for i, name in enumerate(SYMBOLS)
    }
    return Snapshot(
        values_by_symbol=values, errors={}, started=slot, finished=slot, weight=789, slot=slot
    )


def measure(_: int) -> None:
    """Measure commits, exports and the read of a day, with a file of ten million rows."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        path = Path(name) / "oi.db"
        sweeps = ROWS // len(SYMBOLS)
        began = time.perf_counter()
        _fill(path, sweeps)
        print(
            f"{sweeps * len(SYMBOLS):,} rows made in {time.perf_counter() - began:.0f} s, ", end=""
        )
        print(f"{path.stat().st_size / 2**20:.0f} MiB", flush=True)
        _commits(path, sweeps)
        _written(path, sweeps + MEASURED)
        _day(path)
        for target in ("oi.parquet", "days", "oi.csv"):
            _export(path, Path(name) / target)


def _fill(path: Path, sweeps: int) -> None:
    with closing(Store(path)) as store:
        store._connection.execute("PRAGMA synchronous = OFF")
        for number in range(sweeps):
            store.save(sweep(number), [], PERIOD)
            store.tidy()


def _commits(path: Path, begin: int) -> None:
    """Time each commit of 789 rows; to judge the disk, time also a plain write of 789 pages.

    Between two commits, the store tidies its file, as in a recorder.
    """
    commits, plain, cpu = list[float](), list[float](), list[float]()
    page = os.urandom(PAGE_SIZE) * len(SYMBOLS)
    with closing(Store(path)) as store, (path.parent / "plain").open("w+b", buffering=0) as file:
        file.write(page)
        for number in range(begin, begin + MEASURED):
            snapshot = sweep(number)
            began = time.process_time()
            commits.append(_seconds(partial(store.save, snapshot, [], PERIOD)))
            cpu.append(time.process_time() - began)
            plain.append(_seconds(partial(_write, file.fileno(), page)))
            store.tidy()
            time.sleep(PAUSE)
    for name, seconds in (("a commit", commits), ("its CPU", cpu), ("a plain write", plain)):
        parts = statistics.quantiles(seconds, n=100)
        shown = ", ".join(f"{p} % {parts[p - 1] * 1000:.1f}" for p in (50, 90, 99))
        print(f"{name}, ms: {shown}, longest {max(seconds) * 1000:.1f}", flush=True)


def _written(path: Path, begin: int) -> None:
    """Measure the bytes that one sweep writes: the log, moved rows, and one checkpoint a minute."""
    now = 0.0
    with closing(Store(path, clock=lambda: now)) as store:
        store.tidy()
        before = _io()
        for number in range(begin, begin + MEASURED):
            store.save(sweep(number), [], PERIOD)
            store.tidy()
            now += EVERY.total_seconds()
        written, to_disk = ((b - a) / MEASURED / 1e6 for a, b in zip(before, _io(), strict=True))
    print(f"written for a sweep: {written:.2f} MB, in whole blocks {to_disk:.2f} MB", flush=True)


def _io() -> tuple[int, int]:
    """Bytes that this process has given to write() so far, and bytes of the blocks for the disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    counts = {name: int(count) for name, count in (line.split(": ") for line in lines)}
    return counts["wchar"], counts["write_bytes"]


def _write(file: int, content: bytes) -> None:
    os.pwrite(file, content, 0)
    os.fdatasync(file)


def _day(path: Path) -> None:
    with Recording(path) as recording:
        name = SYMBOLS[400]
        part = {"since": BEGIN + timedelta(hours=20), "until": BEGIN + timedelta(hours=44)}
        samples = recording.samples([name], **part)
        ways: dict[str, Callable[[], object]] = {
            "samples": lambda: list(samples),
            "rows": lambda: list(samples.rows()),
            "columns": lambda: samples.to_columns(),
        }
        for way, read in ways.items():
            times = [_seconds(read) for _ in range(15)]
            print(
                f"a day of one symbol as {way} ({len(list(samples))}), ms: first "
                f"{times[0] * 1000:.1f}, median {statistics.median(times) * 1000:.1f}",
                flush=True,
            )


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _export(path: Path, target: Path) -> None:
    """Export in a process of its own; read its memory after a tenth of the rows and at the end."""
    command = [sys.executable, "-m", "tests.benchmarks.recording", str(path), str(target)]
    print(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip(),
        flush=True,
    )


def _export_here(path: Path, target: Path) -> None:
    written, early = 0, 0

    def count(rows: int) -> None:
        nonlocal written, early
        written += rows
        if not early and written > ROWS / 10:
            early = _most_resident_mib()

    with Recording(path) as recording:
        seconds = _seconds(lambda: export(recording, target, on_rows=count))
    size = sum(f.stat().st_size for f in [target, *target.rglob("*")] if f.is_file()) / 2**20
    print(
        f"export of {written:,} rows to {target.name}: {seconds:.0f} s, {size:.0f} MiB; peak "
        f"memory {early} MiB after a tenth, {_most_resident_mib()} MiB at the end"
    )


def _most_resident_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    _export_here(Path(sys.argv[1]), Path(sys.argv[2]))
