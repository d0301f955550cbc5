"""A million requests, with one call in twenty cancelled or asking for nonsense.

Rule of this file: the exchange is another process, so that what is measured here is ours alone.

    python -m fuzz.soak --requests 1000000
"""

import argparse
import asyncio
import gc
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from binance_oi import BinanceOIError, OpenInterestClient, ProcessBudget

LIMIT = 9_999_999  # weight per minute: the exchange counts, and never refuses
CALLERS = 50
CHAOS = 0.05
WARM_UP = 60.0  # s
MAX_GROWTH, MAX_FILES = 2**20, 2  # bytes, file descriptors
SYMBOLS = ("BTCUSDT", "ETHUSDT")


class Size(NamedTuple):
    memory: int  # bytes
    files: int
    tasks: int


def size() -> Size:
    gc.collect()
    status = Path("/proc/self/status").read_text()
    memory = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return Size(
        int(memory) * 1024, len(list(Path("/proc/self/fd").iterdir())), len(asyncio.all_tasks())
    )


async def one(client: OpenInterestClient, chance: random.Random) -> str:
    if chance.random() >= CHAOS:
        return type(await client.get_open_interest(chance.choice(SYMBOLS))).__name__
    if chance.random() < 0.5:
        call = asyncio.ensure_future(client.get_open_interest(SYMBOLS[0]))
        await asyncio.sleep(chance.uniform(0.0, 0.01))
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
        return "cancelled"
    return type(await client.get_open_interest("NOSUCHUSDT")).__name__


async def soak(url: str, requests: int, warm_up: float) -> tuple[Counter[str], Size, Size]:
    outcomes: Counter[str] = Counter()
    chance, todo = random.Random(0), iter(range(requests))
    began, first = time.monotonic(), None
    budget = ProcessBudget(limit=LIMIT)
    async with OpenInterestClient(base_url=url, budget=budget, pace=100_000.0) as client:

        async def caller() -> None:
            nonlocal first
            for _ in todo:
                try:
                    outcomes[await one(client, chance)] += 1
                except BinanceOIError as error:
                    outcomes[type(error).__name__] += 1
                if first is None and time.monotonic() - began >= warm_up:
                    first = size()

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        assert first is not None, "it was over before the warm-up was"
        return outcomes, first, size()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--warm-up", type=float, default=WARM_UP)
    options = parser.parse_args()
    command = [sys.executable, "-m", "binance_oi.simulator", "--port", "0", "--limit", str(LIMIT)]
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
    growth = last.memory - first.memory
    # The callers themselves are gone in the end.
    files = last.files - first.files
    print(f"{time.monotonic() - began:.0f} s, memory {growth / 2**20:+.2f} MiB, files {files:+d}")
    print(f"tasks {first.tasks} under way, {last.tasks} in the end")
    return int(growth > MAX_GROWTH or files > MAX_FILES or last.tasks > 2)


if __name__ == "__main__":
    sys.exit(main())
