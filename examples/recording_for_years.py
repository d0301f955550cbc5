"""Copy, prune and check a recording. The URL of a database works in place of a file."""

import asyncio
import tempfile
from pathlib import Path

from binance_oi.recorder import Recorder, Recording, care
from binance_oi.recorder.check import check
from binance_oi.testing import simulated_client


async def record(place: str) -> None:
    async with simulated_client() as client:  # yours: OpenInterestClient()
        recorder = Recorder(
            client,
            place,  # or postgresql://user@host/database, with standby=True on a second machine
            every=1.0,
            symbols=["BTCUSDT", "ETHUSDT"],
            keep_days=90,
            on_sweep=lambda _: recorder.stop(),
        )
        await recorder.run()


with tempfile.TemporaryDirectory() as directory:
    here, there = str(Path(directory) / "oi.db"), str(Path(directory) / "copy.db")
    asyncio.run(record(here))
    print(care.copy(here, there), "rows copied,", care.prune(there, 90), "days pruned")
    with Recording.open(there) as recording:
        found = check(recording)
        print(found.sweeps, "sweeps;", "whole" if found.is_whole else found.missed)
