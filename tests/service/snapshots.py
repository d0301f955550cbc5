"""Compares the cost of a cached `/snapshot` with that of a bare handler that sends the same bytes.

Rule of this file: the requests alternate between the two servers in batches.
"""

import asyncio
import re
import statistics
from collections.abc import Mapping, Sequence

from .fanout import Server, serving

PROCESSES, PAIRS, OF_A_BATCH = 5, 21, 100
MOST_CPU = 1.3  # times the bare handler
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: ([0-9]+)\r\n")


class Visitor:
    """A kept connection that sends request after request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def get(self) -> bytes:
        self._writer.write(b"GET /snapshot HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        assert head.startswith(b"HTTP/1.1 200"), head
        assert length is not None
        return await self._reader.readexactly(int(length[1]))


async def measure() -> bool:
    """Print the figures; return whether they stay within their bound."""
    costs, sizes = dict[str, list[float]](ours=[], bare=[]), set[int]()
    for _ in range(PROCESSES):  # processes of one program differ in speed
        async with serving("ours") as ours, serving("bare") as bare:
            sizes |= await _measure({"ours": ours, "bare": bare}, costs)
    ratios = [a / b for a, b in zip(costs["ours"], costs["bare"], strict=True)]
    us = {name: statistics.median(values) * 1e6 for name, values in costs.items()}
    ratio, (low, high) = statistics.median(ratios), _interval(ratios)
    print(f"\n/snapshot from the cache, {max(sizes):,} bytes: {us['ours']:.0f} us of CPU, ", end="")
    print(f"a bare handler {us['bare']:.0f} us; ratio {ratio:.2f}, {len(ratios)} pairs; ", end="")
    print(f"95 % interval of the median {low:.2f} to {high:.2f}")
    return high < MOST_CPU and max(sizes) - min(sizes) < 100


async def _measure(servers: Mapping[str, Server], costs: Mapping[str, list[float]]) -> set[int]:
    """Add the CPU seconds of a request to `costs`, once for each batch; return the body lengths."""
    for server in servers.values():
        await server.ask("prepare 0")
        await server.ask("publish 0")
    visitors = {
        name: Visitor(*await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 20))
        for name, server in servers.items()
    }
    sizes = {len(await visitor.get()) for visitor in visitors.values()}
    for name, server in servers.items():
        await _batch(server, visitors[name])  # fills caches of the processor and of aiohttp
    for _ in range(PAIRS):
        for name, server in servers.items():
            costs[name].append(await _batch(server, visitors[name]))
    return sizes


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the median, by the ranks of the sign test."""
    rank = int((len(values) - 1.96 * len(values) ** 0.5) / 2)
    ordered = sorted(values)
    return ordered[rank], ordered[-1 - rank]


async def _batch(server: Server, visitor: Visitor) -> float:
    before = (await server.figures())["cpu"]
    for _ in range(OF_A_BATCH):
        await visitor.get()
    return float((await server.figures())["cpu"] - before) / OF_A_BATCH
