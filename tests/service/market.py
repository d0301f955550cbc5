"""Runs `binance-oi serve` as a user does, with thousands of listeners for many sweeps.

Rule of this file: the exchange, the service and the crowd are three processes.
"""

import asyncio
import os
import signal
import sys
import tempfile
import urllib.parse
from pathlib import Path

import aiohttp

from binance_oi.simulator import spawn

from .crowd import Crowd, queries

STALLED = 10
MOST_GROWTH = 1.05  # resident bytes at the end, divided by those after a third of the sweeps
SETTLED = 1 / 3


async def measure(of_symbols: int, of_market: int, sweeps: int) -> bool:
    """Print the figures; return whether they are within bounds and the service did not fail."""
    with spawn() as exchange, tempfile.TemporaryFile() as errors:
        command = ("serve", "--base-url", exchange, "--every", "20s", "--port", "0")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "binance_oi", *command),
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,  # a pipe that nobody reads would block the service
        )
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        crowd = Crowd(urllib.parse.urlsplit(url).port or 0)
        names = await _symbols(url)
        await crowd.join(queries(names, of_symbols, of_market))
        stalled = await crowd.join([""] * STALLED, reads=False)
        resident = await _follow(crowd, sweeps, process.pid)
        process.send_signal(signal.SIGTERM)
        code = await process.wait()
        errors.seek(0)
        said = errors.read().decode()
    open_ = sum(each.is_open for each in stalled)
    print(f"\nof {STALLED} listeners that do not read, {open_} were still connected")
    return _report(crowd, resident, [code, said])


async def _symbols(url: str) -> list[str]:
    """Wait for the first snapshot; return its symbols."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{url}snapshot") as answer:
                if answer.status == 200:
                    return [each["symbol"] for each in (await answer.json())["values"]]


async def _follow(crowd: Crowd, sweeps: int, process: int) -> list[int]:
    """Wait for as many events as `sweeps`; return the service's resident bytes after each event."""
    await crowd.all_have_begun()
    first = max(listener.last for listener in crowd.listeners)
    resident = list[int]()
    for number in range(first + 1, first + 1 + sweeps):
        await crowd.until(number, len(crowd.listeners))
        resident.append(_resident_bytes(process))
    return resident


def _resident_bytes(process: int) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _report(crowd: Crowd, resident: list[int], end: list[object]) -> bool:
    missing = sum(abs(each.missing) for each in crowd.listeners)
    lost = sum(each.lost for each in crowd.listeners)
    growth = resident[-1] / resident[int(len(resident) * SETTLED)]
    print(f"serve: {len(crowd.listeners)} listeners, {len(resident)} events for each")
    print(f"events neither received nor reported as lost: {missing}; reported as lost: {lost}")
    mib = ", ".join(f"{each / 2**20:.0f}" for each in resident)
    print(f"resident MiB after each event: {mib} (growth {growth:.3f})")
    print(f"end: exit code {end[0]}, stderr {end[1]!r}")
    return missing == 0 and growth <= MOST_GROWTH and end == [0, ""]
