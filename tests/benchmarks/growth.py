"""Measures how the CPU of each path of the code grows from one size to the next, ten times larger.

    python -m tests.benchmarks growth

The rule of this file: a cost grows as a power of the size. Its exponent is computed from the two
larger sizes, because fixed costs dominate at the smallest one. Linear costs have the exponent 1;
`n log n` has the exponent 1.12 between 1,000 and 10,000.
"""

import asyncio
import json
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from binance_oi import Gap, History, HistoryRow, MachineBudget, OpenInterestClient, ProcessBudget
from binance_oi.budget.usage import Receipt
from binance_oi.exchange.decoding import decode_exchange_info
from binance_oi.output import write_report
from binance_oi.output.export import export
from binance_oi.output.past import PastFile
from binance_oi.recorder import Recording
from binance_oi.recorder.store import Store
from binance_oi.sending.governor import Governor
from binance_oi.web import Hub, Limits
from support.market_source import FedSource, reading
from support.recorded import BEGIN, EVERY, sweep

from .contenders import HUGE
from .loopback import STEP, loopback

Measure = Callable[[int], Coroutine[object, object, float]]
ROUNDS_OF_CHARGES = 20  # charges that each pool makes
AT_THE_LEAST = 1e-9  # s in place of 0, because two readings of a CPU clock may be equal


class Path3(NamedTuple):
    """A path of the code, and the sizes at which it is measured."""

    what: str
    sizes: tuple[int, int, int]
    measure: Measure
    """Seconds of CPU at a size."""


async def snapshot(symbols: int) -> float:
    """Read this many symbols a second time."""
    names = [f"S{number}USDT" for number in range(symbols)]
    with loopback() as url:
        budget = ProcessBudget(limit=HUGE)
        async with OpenInterestClient(base_url=url, budget=budget, pace=1e6) as client:
            await client.snapshot(names)
            began = time.process_time()
            await client.snapshot(names)
            return time.process_time() - began


async def waiters(count: int) -> float:
    """Queue this many calls, and admit them one at a time."""
    pool = ProcessBudget(limit=HUGE).pool("benchmark")
    queue = Governor(pool, pace=1e9, max_in_flight=1)
    first = await queue.admit()
    first.settle(200, {"X-MBX-USED-WEIGHT-1M": "1"})

    async def call() -> None:
        permit = await queue.admit(max_wait=1000.0)
        permit.refund()
        permit.release()

    began = time.process_time()
    tasks = [asyncio.create_task(call()) for _ in range(count)]
    await asyncio.sleep(0)
    first.release()
    await asyncio.gather(*tasks)
    return time.process_time() - began


async def processes(count: int) -> float:
    """Let this many pools on one file charge in turn; each has the plan of a poller."""
    with TemporaryDirectory() as directory:
        budgets = [MachineBudget(limit=HUGE, directory=Path(directory)) for _ in range(count)]
        pools = [budget.pool("benchmark") for budget in budgets]
        for pool in pools:
            pool.declare(pool, 10.0)
        began = time.process_time()
        for number in range(ROUNDS_OF_CHARGES * count):
            pool = pools[number % count]
            receipt = pool.charge(1)
            assert isinstance(receipt, Receipt)
            pool.settle(receipt, number + 1, None)
            pool.flush()
        spent = time.process_time() - began
        for budget in budgets:
            budget.close()
        return spent


def recorded(work: Callable[[Recording, Path], object]) -> Measure:
    """Measure `work` on a recording of this many sweeps, with a gap before each but the first."""

    async def measure(sweeps: int) -> float:
        with TemporaryDirectory() as directory:
            path = Path(directory) / "oi.db"
            _record(path, sweeps)
            with Recording(path) as recording:
                began = time.process_time()
                work(recording, Path(directory))
                return time.process_time() - began

    return measure


def _record(path: Path, sweeps: int) -> None:
    period = round(EVERY.total_seconds() * 1000)
    begin = round(BEGIN.timestamp() * 1000)
    with closing(Store(path)) as store:
        store._connection.execute("PRAGMA synchronous = OFF")
        for number in range(1, 2 * sweeps, 2):
            missed = begin + (number + 1) * period
            gaps = [Gap(missed, missed, ("banned", "outage")[number // 2 % 2], f"part {number}")]
            store.save(sweep(number + 2), gaps if number > 1 else [], period)
            store.tidy()


async def listing(symbols: int) -> float:
    """Decode a list of this many symbols."""
    rows = [{"symbol": f"S{number}USDT", "status": "TRADING"} for number in range(symbols)]
    body = json.dumps({"symbols": rows, "rateLimits": []}).encode()
    began = time.process_time()
    assert len(decode_exchange_info(body).trading) == symbols
    return time.process_time() - began


async def history(rows: int) -> float:
    """Read this many rows of one symbol."""
    last = int(time.time()) // 300 * STEP
    with loopback() as url:
        async with OpenInterestClient(base_url=url, budget=ProcessBudget()) as client:
            await client.history("BTCUSDT", since=last - STEP, until=last)
            began = time.process_time()
            found = await client.history("BTCUSDT", since=last - rows * STEP + 1, until=last)
            assert len(found) == rows
            return time.process_time() - began


async def past_file(symbols: int) -> float:
    """Write the history of this many symbols to a file, the last name first."""
    with TemporaryDirectory() as directory:
        began = time.process_time()
        with closing(PastFile(Path(directory) / "x.csv", {})) as file:
            for number in range(symbols, 0, -1):
                name = f"S{number:05}USDT"
                rows = [HistoryRow(name, STEP * n, Decimal(n), Decimal(n)) for n in range(1, 11)]
                file.add(
                    History(
                        symbol=name,
                        period="5m",
                        since=BEGIN,
                        until=BEGIN + timedelta(hours=1),
                        rows=tuple(rows),
                        complete_until=STEP * 10,
                    )
                )
            assert file.finish() == 10 * symbols
        return time.process_time() - began


async def listeners(count: int) -> float:
    """Send one sweep to this many listeners of the service."""
    source = FedSource()
    hub = Hub(source, limits=Limits(listeners=count))
    running = asyncio.create_task(hub.run())
    values = {f"S{number}USDT": "1.5" for number in range(100)}

    async def read(number: int) -> None:
        source.feed(reading(number, values))
        for each in there:
            assert await each.next()

    there = [hub.listen() for _ in range(count)]
    await read(0)
    began = time.process_time()
    await read(1)
    spent = time.process_time() - began
    running.cancel()
    await asyncio.wait([running])
    return spent


PATHS = (
    Path3("symbols in a snapshot", (80, 800, 8000), snapshot),
    Path3("waiters, queued and admitted", (100, 1000, 10_000), waiters),
    Path3("processes on the shared file", (2, 20, 200), processes),
    Path3("sweeps in a recording, read", (100, 1000, 10_000), recorded(lambda r, _: _read(r))),
    Path3(
        "gaps in a report",
        (100, 1000, 10_000),
        recorded(lambda r, directory: write_report(r, directory / "report.html")),
    ),
    Path3(
        "rows in an export",
        (100, 1000, 10_000),
        recorded(lambda r, directory: export(r, directory / "oi.csv")),
    ),
    Path3("symbols in a listing", (100, 1000, 10_000), listing),
    Path3("rows of history, read", (80, 800, 8000), history),
    Path3("symbols of history in a file", (100, 1000, 10_000), past_file),
    Path3("listeners of the service", (100, 1000, 10_000), listeners),
)


def _read(recording: Recording) -> None:
    for found in (recording.sweeps(), recording.gaps(), recording.counted_gaps()):
        assert list(found)
    for symbol in recording.symbols():
        assert list(recording.samples([symbol]))


def main(rounds: int) -> None:
    """Print the least CPU of a few rounds at each size, and how it grows."""
    print("| | sizes | ms | exponent | n log n |\n|---|---|---|---|---|")
    for path in PATHS:
        spent = [_least(path, size, min(rounds, 3)) for size in path.sizes]
        shown = ", ".join(f"{seconds * 1e3:.1f}" for seconds in spent)
        sizes = ", ".join(f"{size:,}" for size in path.sizes)
        loglinear = [size * math.log(size) for size in path.sizes]
        print(
            f"| {path.what} | {sizes} | {shown} | {exponent(spent):.2f} "
            f"| {exponent(loglinear):.2f} |",
            flush=True,
        )


def _least(path: Path3, size: int, rounds: int) -> float:
    return max(AT_THE_LEAST, min(asyncio.run(path.measure(size)) for _ in range(rounds)))


def exponent(costs: Sequence[float]) -> float:
    """The exponent of the growth from the second size to the third, which is ten times larger."""
    return math.log10(costs[-1] / costs[-2])
