"""A server in memory that stores records, and swaps them as the script of a real server does.

Rule of this file: `Keeper.swap` is atomic, and a test checks that it answers as the script does. A
`Link` is the network between the keeper and one member, that is, one process that shares the
record. A link has delays and faults.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from random import Random

from binance_oi.budget.member_record import FORMAT, ID_BYTES, VERSION_BYTES
from binance_oi.budget.record_server import Answer, Outcome, ServerError, Swap
from binance_oi.budget.turns import NEXT, TURN_S

MEMORY_S = 60.0  # s of writes that a restart from an older copy may undo
NEVER = 1e9


@dataclass
class _Place:
    """The server's record of one pool."""

    record: bytes = b""
    until: float = 0.0  # when the record expires
    queue: bytes = b""  # the members that wait for their turn
    turn_ends: float = 0.0
    newest: int = 0  # the newest format in which the record was written


class Keeper:
    """A server that stores records.

    Args:
        clock: Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.ahead = 0.0  # s by which the server's clock is ahead
        self.places: dict[str, _Place] = {}
        self.writes: deque[tuple[float, str, bytes]] = deque()
        self.hearers: dict[str, list[Callable[[str, bytes], object]]] = {}
        self.down_until = 0.0
        self.connections = 0  # restarts so far; each one closes all connections
        self.calls = 0

    def time(self) -> float:
        return self._clock() + self.ahead

    def swap(self, pool: str, swap: Swap, form: int = FORMAT) -> Answer:
        """Make a swap in one step; see `RecordServer.swap`."""
        self.calls += 1
        now, place = self._clock(), self.places.setdefault(pool, _Place())
        if place.newest > form:
            return Answer(Outcome.OUTDATED, self.time(), b"")
        if now >= place.until:
            place.record = b""
        if now >= place.turn_ends:
            place.queue = b""
        found, queue = place.record, place.queue
        is_next = not swap.member or not queue or queue[:ID_BYTES] == swap.member
        is_same = found[:VERSION_BYTES] == swap.expected
        if swap.record and is_next and is_same:
            place.record, place.until = swap.record, now + swap.kept_ms / 1000
            place.newest = form
            self._note(now, pool, swap.record)
            if swap.member and queue:
                place.queue, place.turn_ends = queue[ID_BYTES:], now + TURN_S
            if swap.news:
                self.publish(pool, swap.news)
            if place.queue and swap.member:
                self.publish(pool, NEXT + place.queue[:ID_BYTES])
            return Answer(Outcome.DONE, self.time(), None)
        if swap.member and swap.member not in queue:
            place.queue += swap.member
            if not queue:
                place.turn_ends = now + TURN_S
        outcome = Outcome.LATE if is_next else Outcome.TURN
        return Answer(outcome, self.time(), None if is_same else found)

    def _note(self, now: float, pool: str, record: bytes) -> None:
        self.writes.append((now, pool, record))
        while self.writes[0][0] < now - MEMORY_S:
            self.writes.popleft()

    def publish(self, pool: str, news: bytes) -> None:
        for hear in list(self.hearers.get(pool, [])):
            hear(pool, news)

    def restart(self, down: float = 0.0, *, lost: float | None = None) -> None:
        """Restart after `down` s, without the last `lost` s of writes; None: without any data."""
        now = self._clock()
        self.down_until, self.connections = now + down, self.connections + 1
        kept = {
            pool: record
            for at, pool, record in self.writes
            if lost is not None and at <= now - lost
        }
        for pool, place in self.places.items():
            place.record, place.until = kept.get(pool, b""), inf
            place.queue = b""

    @property
    def is_down(self) -> bool:
        return self._clock() < self.down_until


@dataclass
class Link:
    """The connection of one member to the keeper, as a `RecordServer`."""

    keeper: Keeper
    random: Random = field(default_factory=lambda: Random(0))
    delay: float = 0.0005  # s each way
    lost: float = 0.0  # share of calls without an answer; the keeper executes half of them
    # Loop time at which a cut ends. Swaps sent during the cut and news for the member arrive then.
    # What the member publishes during the cut never arrives, and neither does an answer to a swap.
    cut_until: float = 0.0
    is_refused: bool = False  # whether the keeper refuses connections

    async def swap(self, pool: str, swap: Swap) -> Answer:
        loop = asyncio.get_running_loop()
        await self._travel()
        before = self.keeper.connections
        is_lost = self.random.random() < self.lost
        if is_lost and self.random.random() < 0.5:
            await asyncio.sleep(NEVER)
        if loop.time() < self.cut_until:  # an answer after the cut would be of no use
            loop.call_at(self.cut_until, self._late, pool, swap)
            await asyncio.sleep(NEVER)
        answer = self.keeper.swap(pool, swap)
        await self._travel()
        if is_lost or loop.time() < self.cut_until:
            await asyncio.sleep(NEVER)
        if before != self.keeper.connections:
            raise ServerError("the connection was closed")
        return answer

    def _late(self, pool: str, swap: Swap) -> None:
        if not self.keeper.is_down:
            self.keeper.swap(pool, swap)

    async def _travel(self) -> None:
        if self.keeper.is_down or self.is_refused:
            await asyncio.sleep(self.delay)
            raise ServerError("connection refused")
        await asyncio.sleep(self.delay)

    async def publish(self, pool: str, news: bytes) -> None:
        await self._travel()
        if asyncio.get_running_loop().time() < self.cut_until:
            await asyncio.sleep(NEVER)
        self.keeper.publish(pool, news)
        await self._travel()

    async def listen(
        self, pool: str, hear: Callable[[bytes], object], reset: Callable[[], object]
    ) -> None:
        loop = asyncio.get_running_loop()
        await self._travel()
        connection = self.keeper.connections
        reset()

        def arrive(news: bytes) -> None:
            if connection == self.keeper.connections:
                hear(news)

        def heard(_: str, news: bytes) -> None:
            loop.call_at(max(loop.time() + self.delay, self.cut_until), arrive, news)

        hearers = self.keeper.hearers.setdefault(pool, [])
        hearers.append(heard)
        try:
            for _ in iter(lambda: connection == self.keeper.connections, False):
                await asyncio.sleep(0.1)
            raise ServerError("the connection was closed")
        finally:
            hearers.remove(heard)

    async def aclose(self) -> None:
        pass
