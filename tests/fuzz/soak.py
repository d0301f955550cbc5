"""Makes a million requests; one in twenty is cancelled, or gets a faulty answer.

Rule of this file: the exchange is another process, so that this process measures the client alone.
The sizes are comparable, because no call runs and every connection is open while they are measured.
The size of the process includes free memory that the allocator keeps. The number of used blocks
excludes it, and so shows smaller leaks.

    python -m tests.fuzz.soak --requests 1000000
"""

import argparse
import asyncio
import gc
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from binance_oi import BinanceOIError, OpenInterestClient, ProcessBudget
from faults.exchange import BAD, GOOD

LIMIT = 9_999_999  # weight per minute, so much that the budget delays no call
CALLERS = 50
CHAOS = 0.05
WARM_UP = 60.0  # s
MAX_GROWTH, MAX_FILES = 2**20, 2  # bytes, file descriptors
MAX_BLOCKS = 2_000  # 1,000,000 x 5 % = 50,000 calls of `CHAOS`; 50,000 / 2,000 = 25 a block


class Size(NamedTuple):
    memory: int  # bytes
    blocks: int  # of Python's allocator, in use
    files: int
    tasks: int


def size() -> Size:
    gc.collect()
    status = Path("/proc/self/status").read_text()
    memory = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    files = len(list(Path("/proc/self/fd").iterdir()))
    tasks = len(asyncio.all_tasks())
    return Size(int(memory) * 1024, sys.getallocatedblocks(), files, tasks)


async def size_at_rest(client: OpenInterestClient) -> Size:
    await asyncio.gather(*(client.get_open_interest(GOOD) for _ in range(CALLERS)))
    await asyncio.sleep(0.1)  # by then, cancelled calls have ended
    return size()


async def one(client: OpenInterestClient, chance: random.Random) -> str:
    fate = chance.random()
    if fate >= CHAOS:
        return type(await client.get_open_interest(GOOD)).__name__
    if fate >= CHAOS / 2:
        return f"fault: {type(await client.get_open_interest(BAD)).__name__}"
    call = asyncio.ensure_future(client.get_open_interest(GOOD))
    await asyncio.sleep(chance.uniform(0.0, 0.01))
    call.cancel()
    with suppress(asyncio.CancelledError):
        await call
    return "cancelled"


async def calls(
    client: OpenInterestClient, chance: random.Random, todo: Iterator[int], seconds: float
) -> Counter[str]:
    """Make the calls that are left in `todo`, but begin none after `seconds` s."""
    outcomes: Counter[str] = Counter()
    until = time.monotonic() + seconds

    async def caller() -> None:
        while time.monotonic() < until and next(todo, None) is not None:
            try:
                outcomes[await one(client, chance)] += 1
            except BinanceOIError as error:
                outcomes[f"fault: {type(error).__name__}"] += 1

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return outcomes


async def soak(url: str, requests: int, warm_up: float) -> tuple[Counter[str], Size, Size]:
    chance, todo = random.Random(0), iter(range(requests))
    budget = ProcessBudget(limit=LIMIT)
    async with OpenInterestClient(base_url=url, budget=budget, pace=100_000.0) as client:
        outcomes = await calls(client, chance, todo, warm_up)
        first = await size_at_rest(client)
        outcomes += await calls(client, chance, todo, float("inf"))
        return outcomes, first, await size_at_rest(client)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--warm-up", type=float, default=WARM_UP)
    options = parser.parse_args()
    command = [sys.executable, "-m", "tests.fuzz.exchange", "0"]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as exchange:
        assert exchange.stdout is not None
        try:
            url = exchange.stdout.readline().strip()
            outcomes, first, last = asyncio.run(soak(url, options.requests, options.warm_up))
        finally:
            exchange.terminate()
    for name, count in outcomes.most_common():
        print(f"{count:10,}  {name}")
    growth, files = last.memory - first.memory, last.files - first.files
    blocks = last.blocks - first.blocks
    print(f"{time.monotonic() - began:.0f} s, files {files:+d}")
    print(f"memory {growth / 2**20:+.2f} MiB, blocks {blocks:+,d} (from {first.blocks:,})")
    print(f"tasks at rest: {first.tasks} after the warm-up, {last.tasks} at the end")
    grown = growth > MAX_GROWTH or blocks > MAX_BLOCKS
    return int(grown or abs(files) > MAX_FILES or last.tasks != first.tasks)


if __name__ == "__main__":
    sys.exit(main())
