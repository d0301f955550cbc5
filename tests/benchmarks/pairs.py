"""Measures whether `MachineBudget` is slower in one tree of the source than in an older one.

    python -m tests.benchmarks.pairs OLDER [NEWER] [--pairs 31]     # directories with the source

The rule of this file: each measurement has its own process, and the trees take turns, so that other
work on the machine affects both. The program prints the geometric mean of the ratios, and its
confidence interval at 95 %.
"""

import argparse
import asyncio
import gc
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from pathlib import Path

from binance_oi import MachineBudget
from binance_oi.sending.governor import Governor

ROOT = Path(__file__).resolve().parents[2]
HUGE = 10**9  # weight, and requests a second: neither stops a request
TOGETHER = 50  # requests at a time
REPEATS = 5  # runs of each job; the quickest one counts
NORMAL = 1.96  # standard errors on each side of the mean


def main() -> None:
    """Print the ratios, newer / older."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pairs")
    parser.add_argument("trees", type=Path, nargs="*")
    parser.add_argument("--pairs", type=int, default=31)
    options = parser.parse_args()
    if not options.trees:
        print(*asyncio.run(_measure()))
        return
    older, newer = [*options.trees, ROOT][:2]
    ratios: dict[str, list[float]] = {f"{TOGETHER} at a time": [], "one at a time": []}
    for number in range(options.pairs):
        order = (older, newer) if number % 2 else (newer, older)
        taken = {tree: _of(tree) for tree in order}
        for kept, a, b in zip(ratios.values(), taken[newer], taken[older], strict=True):
            kept.append(math.log(a / b))
    for name, kept in ratios.items():
        mean = statistics.mean(kept)
        error = NORMAL * statistics.stdev(kept) / math.sqrt(len(kept))
        low, high = math.exp(mean - error), math.exp(mean + error)
        print(f"| {name} | {math.exp(mean):.3f} | {low:.3f} to {high:.3f} |")


def _of(tree: Path) -> list[float]:
    """The result of `_measure` with the source of `tree`, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(tree.resolve())}
    command = [sys.executable, __file__]
    made = subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.PIPE, check=True)
    return [float(each) for each in made.stdout.split()]


async def _measure() -> list[float]:
    """The CPU to admit, settle and release a request, s: with 50 at a time, and with one."""
    with tempfile.TemporaryDirectory() as directory:
        budget = MachineBudget(limit=HUGE, directory=Path(directory) / "budget")
        governor = Governor(budget.pool("exchange"), pace=HUGE, max_in_flight=2 * TOGETHER)
        headers = {
            "X-MBX-USED-WEIGHT-1M": "1",
            "Date": formatdate(time.time(), usegmt=True),
        }

        async def together() -> None:
            permits = await asyncio.gather(*(governor.admit() for _ in range(TOGETHER)))
            for permit in permits:
                permit.settle(200, headers)
                permit.release()

        async def one() -> None:
            permit = await governor.admit()
            permit.settle(200, headers)
            permit.release()

        await _quickest(one, 200)
        gc.disable()
        return [await _quickest(together, 60) / TOGETHER, await _quickest(one, 1500)]


async def _quickest(job: Callable[[], Awaitable[None]], count: int) -> float:
    taken: list[float] = []
    for _ in range(REPEATS):
        began = time.process_time()
        for _ in range(count):
            await job()
        taken.append((time.process_time() - began) / count)
    return min(taken)


if __name__ == "__main__":
    main()
