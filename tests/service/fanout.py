"""Compares the cost of an event with that of a bare aiohttp handler that writes the same bytes.

Rule of this file: all servers run at the same time and publish each event in turn, so a busy
machine slows all of them down equally.
"""

import asyncio
import json
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from .crowd import Crowd, queries
from .served import SYMBOLS

EVENTS = 14
MOST_CPU = MOST_MEMORY = 1.5  # times the bare handler
MOST_SPREAD = 1.5  # times the CPU, and the spread of deliveries, without stalled listeners
STALLED = 10


class Server:
    """A process of `service.served`."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process, self.port = process, port

    async def ask(self, command: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n".encode())
        return (await self._process.stdout.readline()).decode().strip()

    async def figures(self) -> dict[str, Any]:
        return dict(json.loads(await self.ask("figures")))


@asynccontextmanager
async def serving(kind: str) -> AsyncIterator[Server]:
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "tests.service.served", kind)
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    try:
        yield Server(process, int(await process.stdout.readline()))
    finally:
        process.kill()
        await process.wait()


async def measure(of_symbols: int, of_market: int) -> bool:
    """Print the figures; return whether they stay within their bounds."""
    wanted = queries(SYMBOLS, of_symbols, of_market)
    async with serving("ours") as ours, serving("bare") as bare, serving("ours") as stalled:
        servers = {"ours": ours, "bare": bare, "stalled": stalled}
        crowds = {name: Crowd(server.port) for name, server in servers.items()}
        memory = {name: -(await server.figures())["rss"] for name, server in servers.items()}
        for name, server in servers.items():
            await server.ask("prepare 0")
            await server.ask("publish 0")
            await crowds[name].join(wanted)
        # The bare handler sends no state, so we measure memory after one event from each server.
        cpu = [await _publish(servers, crowds, 1)]
        for name, server in servers.items():
            memory[name] += (await server.figures())["rss"]
        await crowds["stalled"].join([""] * STALLED, reads=False)
        cpu += [await _publish(servers, crowds, number) for number in range(2, EVENTS)]
    missing = sum(abs(each.missing) for crowd in crowds.values() for each in crowd.listeners)
    spreads = [crowds["stalled"].spread(n) / crowds["ours"].spread(n) for n in range(3, EVENTS)]
    return _report(len(wanted), cpu, memory, spreads, missing)


async def _publish(
    servers: dict[str, Server], crowds: dict[str, Crowd], number: int
) -> dict[str, float]:
    """Publish an event on each server in turn, and wait until every listener that reads has it.

    Returns the CPU seconds of each server for one delivery.
    """
    cpu: dict[str, float] = {}
    for name, server in servers.items():
        count = len(crowds[name].listeners)
        await server.ask(f"prepare {number}")
        before = (await server.figures())["cpu"]
        await server.ask(f"publish {number}")
        await crowds[name].until(number + 1, count)
        cpu[name] = ((await server.figures())["cpu"] - before) / count
    return cpu


def _report(
    count: int,
    cpu: list[dict[str, float]],
    memory: dict[str, int],
    spreads: list[float],
    missing: int,
) -> bool:
    ours, bare = (statistics.median(each[name] for each in cpu) * 1e6 for name in ("ours", "bare"))
    ratio = statistics.median(each["ours"] / each["bare"] for each in cpu)
    beside = statistics.median(each["stalled"] / each["ours"] for each in cpu)
    part, slower = memory["ours"] / memory["bare"], statistics.median(spreads)
    kib = {name: value / count / 1024 for name, value in memory.items()}
    print(f"\n{count} listeners\n\n| | ours | bare | ratio |\n|---|---|---|---|")
    print(f"| CPU of a delivered event, us | {ours:.1f} | {bare:.1f} | {ratio:.2f} |")
    print(f"| memory of a listener, KiB | {kib['ours']:.1f} | {kib['bare']:.1f} | {part:.2f} |")
    print(f"\nratios of a server with {STALLED} listeners that do not read to one without them:")
    print(f"time from the first delivery of an event to the last {slower:.2f}, CPU {beside:.2f}")
    print(f"events missing, or wrongly reported as lost: {missing}")
    is_delayed = max(slower, beside) > MOST_SPREAD
    return ratio <= MOST_CPU and part <= MOST_MEMORY and not is_delayed and missing == 0
