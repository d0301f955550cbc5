"""Compares a cached `/snapshot` with a bare handler that sends the same bytes.

Rule of this file: the requests alternate between the two servers in batches.
"""

import asyncio
import re
import statistics

from service.fanout import Server, serving

BATCHES, OF_A_BATCH = 60, 100
MOST_CPU = 1.3  # times the bare handler
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: ([0-9]+)\r\n")


class Visitor:
    """One kept connection that asks again and again."""

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
    """Print the figures; return whether they keep their bound."""
    async with serving("ours") as ours, serving("bare") as bare:
        servers, ratios = {"ours": ours, "bare": bare}, list[float]()
        for server in servers.values():
            await server.ask("prepare 0")
            await server.ask("publish 0")
        visitors = {
            name: Visitor(*await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 20))
            for name, server in servers.items()
        }
        bodies = [await visitor.get() for visitor in visitors.values()]
        costs = dict[str, list[float]](ours=[], bare=[])
        for _ in range(BATCHES):
            for name, server in servers.items():
                costs[name].append(await _batch(server, visitors[name]))
            ratios.append(costs["ours"][-1] / costs["bare"][-1])
    us = {name: statistics.median(values) * 1e6 for name, values in costs.items()}
    ratio = statistics.median(ratios)
    print(
        f"\n/snapshot from the cache, {len(bodies[0]):,} bytes: {us['ours']:.0f} us of CPU, ",
        end="",
    )
    print(f"a bare handler {us['bare']:.0f} us: {ratio:.2f}")
    return ratio <= MOST_CPU and abs(len(bodies[0]) - len(bodies[1])) < 100


async def _batch(server: Server, visitor: Visitor) -> float:
    before = (await server.figures())["cpu"]
    for _ in range(OF_A_BATCH):
        await visitor.get()
    return float((await server.figures())["cpu"] - before) / OF_A_BATCH
