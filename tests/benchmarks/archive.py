"""Measures the archive and backfills: the CPU time of a row, and memory.

The rule of this file: our way is compared with a plain way, which reads the same files, or writes
or selects the same rows, without a check. For a backfill, the plain way is `client.history`, which
stores nothing. The server of the archive is in this process, so a download would also count the
server's CPU. Therefore both ways read files that are already on disk.
"""

import asyncio
import csv
import hashlib
import io
import sqlite3
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from statistics import median

from binance_oi import Archive, OpenInterestClient, ProcessBudget, backfill
from binance_oi.exchange.archive import midnight_ms
from binance_oi.market.rows import InstantRow
from binance_oi.recorder import Recording
from binance_oi.recorder.sqlite import SqliteSink
from binance_oi.simulator import LocalExchange

from .loopback import SYMBOLS, loopback
from .past import PAGES

DAYS, SYMBOL, BEGIN = 120, "BTCUSDT", date(2026, 5, 1)
ROWS = 1_000_000  # rows that a measurement stores, and that it reads back
PER_WRITE = 4096  # rows of a transaction
CALLS = 3  # symbols; 3 x `PAGES` (17) = 51 requests, and a new budget admits 990 at once
STEP = 300_000  # ms from row to row

Cost = tuple[float, int]
"""Seconds of CPU, and rows."""


def measure(rounds: int) -> None:
    """Print every figure."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with LocalExchange().in_thread() as exchange:
            days = asyncio.run(_read(exchange.url, directory / "cache", DAYS))  # fills the cache
            print(f"{days:,} rows of {DAYS} days are in the cache.\n")
            pairs = {
                "a cached day: zip, CSV, checks, holes, values": lambda: _ours(
                    exchange.url, directory
                ),
                "the same file with zipfile and csv.DictReader": lambda: _plain(
                    directory / "cache"
                ),
            }
            _ratio(rounds, pairs)
            memory = [asyncio.run(_peak(exchange.url, directory / "cache", n)) for n in (30, 120)]
            print(f"\nmemory: {memory[0]:.1f} MiB for 30 days, {memory[1]:.1f} MiB for 120\n")
        _ratio(
            max(1, rounds // 3),
            {
                "stored by a sink, 4096 rows a transaction": lambda: _stored(directory),
                "INSERT OR REPLACE, same table and transactions": lambda: _inserted(directory),
            },
        )
        with loopback() as url:
            _ratio(
                rounds,
                {
                    "backfill of 29 days from the history": lambda: _backfilled(url, directory),
                    "the same rows from client.history, not stored": lambda: _only_read(url),
                },
            )
        _ratio(
            rounds,
            {
                "read back as text, checked": lambda: _read_back(directory),
                "the same SELECT": lambda: _selected(directory),
            },
        )


def _ratio(rounds: int, both: dict[str, Callable[[], Cost]]) -> None:
    """Measure both in turn, and print each with its ratio to the second."""
    found: dict[str, list[float]] = {name: [] for name in both}
    for _ in range(rounds):
        for name, cost in both.items():
            seconds, rows = cost()
            found[name].append(seconds / rows)
    print("| | CPU of a row, µs | rows a second of CPU | ratio |\n|---|---|---|---|")
    base = median(list(found.values())[1])
    for name, costs in found.items():
        each = median(costs)
        print(f"| {name} | {each * 1e6:.2f} | {1 / each:,.0f} | {each / base:.2f} |")


async def _read(url: str, cache: Path, days: int) -> int:
    rows = 0
    first, last = midnight_ms(BEGIN), midnight_ms(BEGIN + timedelta(days=days)) - 1
    async with Archive(cache, base_url=url, pace=100_000.0) as archive:
        async for day in archive.days([SYMBOL], since=first, until=last):
            rows += sum(1 for _ in day)
    return rows


async def _peak(url: str, cache: Path, days: int) -> float:
    tracemalloc.start()
    try:
        await _read(url, cache, days)
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def _ours(url: str, directory: Path) -> Cost:
    """Read the cached files with every check, without the download."""
    from binance_oi.market import archive as module

    del url
    began, rows = time.thread_time(), 0
    for file in sorted((directory / "cache" / SYMBOL).iterdir()):
        day = date.fromisoformat(file.stem.removeprefix(f"{SYMBOL}-metrics-"))
        first = midnight_ms(day)
        asked = module._Stretch(first, first + 86_400_000 - 1)
        checksum = hashlib.sha256(file.read_bytes()).hexdigest()
        found = module._cached(file, checksum, SYMBOL, day)
        whole = module._File(found, is_cached=True)
        built = module._day(SYMBOL, day, asked, whole, module._NOTHING, first)
        rows += sum(1 for _ in built)
    return time.thread_time() - began, rows


def _plain(cache: Path) -> Cost:
    began, rows = time.thread_time(), 0
    for file in sorted((cache / SYMBOL).iterdir()):
        with zipfile.ZipFile(file) as packed, packed.open(packed.namelist()[0]) as text:
            for row in csv.DictReader(io.TextIOWrapper(text)):
                value = row["sum_open_interest"]
                kept = (
                    row["create_time"],
                    Decimal(value or 0),
                    Decimal(row["sum_open_interest_value"]),
                )
                rows += bool(kept)
    return time.thread_time() - began, rows


def _rows() -> Iterator[list[InstantRow]]:
    for first in range(0, ROWS, PER_WRITE):
        yield [
            (SYMBOL, n * STEP, 2, f"{97_000 + n % 977}.544", f"{n}.12345678", None)
            for n in range(first, min(ROWS, first + PER_WRITE))
        ]


def _stored(directory: Path) -> Cost:
    (directory / "ours.db").unlink(missing_ok=True)
    sink = SqliteSink(directory / "ours.db", None)
    sink.claim(time.monotonic)
    sink.open()
    spent = 0.0
    for rows in _rows():
        began = time.thread_time()
        sink.save_past(rows)
        sink.tidy()
        spent += time.thread_time() - began
    sink.close()
    return spent, ROWS


def _inserted(directory: Path) -> Cost:
    path = directory / "plain.db"
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(
        "CREATE TABLE past (symbol TEXT NOT NULL, time INTEGER NOT NULL, source INTEGER NOT NULL,"
        " open_interest TEXT NOT NULL, notional TEXT, circulating_supply TEXT,"
        " PRIMARY KEY (symbol, time, source)) STRICT, WITHOUT ROWID"
    )
    spent = 0.0
    for rows in _rows():
        began = time.thread_time()
        connection.execute("BEGIN")
        connection.executemany("INSERT OR REPLACE INTO past VALUES (?, ?, ?, ?, ?, ?)", rows)
        connection.execute("COMMIT")
        spent += time.thread_time() - began
    connection.close()
    return spent, ROWS


def _span() -> tuple[int, int]:
    last = int(time.time()) // 300 * STEP - STEP
    return last - PAGES * 500 * STEP + 1, last


def _backfilled(url: str, directory: Path) -> Cost:
    async def run() -> Cost:
        (directory / "filled.db").unlink(missing_ok=True)
        async with OpenInterestClient(base_url=url, budget=ProcessBudget()) as client:
            began, (since, until) = time.process_time(), _span()
            path, names = directory / "filled.db", SYMBOLS[:CALLS]
            done = await backfill(client, path, names, since=since, until=until)
            return time.process_time() - began, done.rows

    return asyncio.run(run())


def _only_read(url: str) -> Cost:
    async def run() -> Cost:
        async with OpenInterestClient(base_url=url, budget=ProcessBudget()) as client:
            began, rows, (since, until) = time.process_time(), 0, _span()
            for symbol in SYMBOLS[:CALLS]:
                rows += len(await client.history(symbol, since=since, until=until))
            return time.process_time() - began, rows

    return asyncio.run(run())


def _read_back(directory: Path) -> Cost:
    began = time.thread_time()
    with Recording(directory / "ours.db") as recording:
        rows = sum(1 for _ in recording.past([SYMBOL]).rows())
    return time.thread_time() - began, rows


def _selected(directory: Path) -> Cost:
    began = time.thread_time()
    connection = sqlite3.connect(directory / "ours.db")
    query = "SELECT * FROM past WHERE symbol = ? ORDER BY time, source"
    rows = sum(1 for _ in connection.execute(query, (SYMBOL,)))
    connection.close()
    return time.thread_time() - began, rows
