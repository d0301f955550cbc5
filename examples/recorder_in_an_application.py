"""Run a recorder in an application that also uses the client for other calls."""

import asyncio
import tempfile
from pathlib import Path

from binance_oi import OpenInterestClient, Snapshot
from binance_oi.recorder import Recorder, Recording
from binance_oi.simulator import LocalExchange


async def record(client: OpenInterestClient, path: Path) -> None:
    def count(_: Snapshot) -> None:
        if recorder.status.sweeps == 3:  # a real application calls this when it shuts down
            recorder.stop()

    symbols = ["BTCUSDT", "ETHUSDT"]
    recorder = Recorder(client, path, every=1.0, symbols=symbols, on_sweep=count)
    await recorder.run()
    print(f"recorded: {recorder.status.sweeps} sweeps, {recorder.status.missed} slots missed")


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "oi.db"
        async with (
            LocalExchange() as exchange,
            OpenInterestClient(base_url=exchange.url) as client,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(record(client, path))
            value = await client.get_open_interest("SOLUSDT")  # a single call goes first
            print(f"meanwhile: {value.symbol} {value.open_interest}")
        with Recording(path) as recording:
            print("symbols:", *recording.symbols())
            print("gaps:", *recording.gaps())


asyncio.run(main())
