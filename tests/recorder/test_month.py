"""In weeks of polling, every slot gets a sweep or is in a gap.

The rule of this file: time is virtual; the client, the sockets and the file are real. The default
suite runs a few hours of three symbols, and `nox -s recorder` runs 30 days. BINANCE_OI_DAYS and
BINANCE_OI_SYMBOLS set other numbers. A day of the whole market (789 symbols) is 3.4 million
requests, and takes a quarter of an hour of CPU time. `pytest -rP` shows the events.
"""

import asyncio
import gc
import os
import socket
import sqlite3
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from binance_oi import MachineBudget, OpenInterestClient
from binance_oi.recorder import Recorder
from binance_oi.simulator import Bans, LocalExchange
from support.virtual_clock import wall_time

DAYS = float(os.environ.get("BINANCE_OI_DAYS", "0.04"))
SYMBOLS = int(os.environ.get("BINANCE_OI_SYMBOLS", "3"))
PERIOD = 20_000  # ms
MOST = 791  # symbols that can be read three times a minute with a limit of 2400

pytestmark = pytest.mark.virtual_time


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Life:
    """Runs recorders while random events happen: about four a day, or more in a short run."""

    def __init__(self, exchange: LocalExchange, directory: Path) -> None:
        self.exchange, self.directory = exchange, directory
        self.path = directory / "oi.db"
        self.happened: Counter[str] = Counter()
        self.statuses = (0, 0)  # sweeps and missed slots, summed over recorders that have ended
        self._chance = Random(6)
        self._listed: list[str] = []
        self._number = 0

    async def live(self, days: float) -> None:
        events = (self.ban, self.outage, self.restart, self.list_one, self.delist_one)
        hours = days * 24.0
        while hours > 0.0:
            wait = min(hours, self._chance.uniform(0.1, 1.0) * min(12.0, days * 24.0 / 4))
            await self.record(wait * 3600.0, self._chance.choice(events))
            hours -= wait

    async def record(self, seconds: float, event: Callable[[], Awaitable[None]]) -> None:
        """Record for a while, with an event in the middle."""
        budget = MachineBudget(
            directory=self.directory, clock=asyncio.get_running_loop().time, wall=wall_time
        )
        async with OpenInterestClient(base_url=self.exchange.url, budget=budget) as client:
            recorder = Recorder(client, self.path, every=20.0, clock=wall_time)
            running = asyncio.create_task(recorder.run())
            await asyncio.sleep(seconds / 2)
            self.happened[str(getattr(event, "__name__", event))] += 1
            await event()
            await asyncio.sleep(seconds / 2)
            recorder.stop()
            await running
        budget.close()
        sweeps, missed = self.statuses
        self.statuses = (sweeps + recorder.status.sweeps, missed + recorder.status.missed)
        await asyncio.sleep(self._chance.uniform(0.0, 600.0))  # then a user starts the next one

    async def ban(self) -> None:
        self.exchange.counter.ban(wall_time())

    async def outage(self) -> None:
        await self.exchange.close()
        await asyncio.sleep(self._chance.uniform(5.0, 1800.0))
        await self.exchange.start()

    async def restart(self) -> None:
        """Do nothing: after every event, this recorder ends, and a new one starts later."""

    async def list_one(self) -> None:
        if len(self.exchange.universe.trading) == MOST:
            await self.delist_one()
        self._number += 1
        self._listed.append(f"NEW{self._number}USDT")
        self.exchange.set_status(self._listed[-1], "TRADING")

    async def delist_one(self) -> None:
        if self._listed:
            self.exchange.set_status(self._listed.pop(0), "SETTLING")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident_kib() -> int:
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


@pytest.mark.skipif(sys.platform != "linux", reason="counts files and memory as Linux shows them")
async def test_every_slot_is_a_sweep_or_a_gap_with_its_reason(tmp_path: Path) -> None:
    bans = Bans(longest_s=7200.0)  # bans of three days would fill the month
    async with LocalExchange(clock=wall_time, port=free_port(), bans=bans) as exchange:
        for name in exchange.universe.trading[SYMBOLS:]:
            exchange.set_status(name, "SETTLING")
        life = Life(exchange, tmp_path)
        await life.live(DAYS / 4)  # fills every cache
        files, memory = open_files(), resident_kib()
        await life.live(DAYS * 3 / 4)
        assert open_files() <= files
        assert resident_kib() - memory < 8 * 1024
        assert exchange.answers[429] == 0
        assert max(exchange.weights.values()) <= 2400
    with closing(sqlite3.connect(life.path)) as connection:
        slots = [slot for (slot,) in connection.execute("SELECT slot FROM sweeps")]
        asked, read = connection.execute("SELECT sum(asked), sum(read) FROM sweeps").fetchone()
        alone = connection.execute(
            "SELECT coalesce(sum((last - first) / period + 1), 0) FROM gaps WHERE symbol != ''"
        ).fetchone()[0]
        gaps = connection.execute(
            "SELECT first, last, reason FROM gaps WHERE symbol = ''"
        ).fetchall()
        new, samples = connection.execute(
            "SELECT sum(new), (SELECT count(*) FROM samples) FROM sweeps"
        ).fetchone()
    missed = [slot for first, last, _ in gaps for slot in range(first, last + 1, PERIOD)]
    every = sorted([*slots, *missed])
    assert every == list(range(every[0], every[-1] + 1, PERIOD))
    assert len(every) >= DAYS * 4320 * 0.99  # pauses and outages add slots
    assert asked - read == alone
    assert new == samples
    assert life.happened.keys() >= {"ban", "outage"}
    reasons = {reason for _, _, reason in gaps}
    assert "stopped" in reasons
    assert reasons <= {"banned", "outage", "stopped", "overrun"}
    assert life.statuses[0] == len(slots)
    print(f"{len(slots):,} sweeps, {len(missed):,} slots in gaps, {samples:,} samples,", end=" ")
    print(f"{alone:,} single reads failed; {dict(life.happened)}; answers {exchange.answers}")
