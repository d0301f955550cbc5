"""Read a recording with polars, pandas and DuckDB, if installed; needs the extra `parquet`."""

import asyncio
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from binance_oi import OpenInterestClient
from binance_oi.recorder import Recorder, Recording
from binance_oi.simulator import LocalExchange

READ: dict[str, Callable[[Any, Any], object]] = {
    "polars": lambda polars, samples: polars.DataFrame(samples),
    "pandas": lambda pandas, samples: pandas.DataFrame.from_arrow(samples),  # since pandas 3
    "duckdb": lambda duckdb, samples: duckdb.sql("SELECT * FROM samples"),
}


async def record(path: Path) -> None:
    async with LocalExchange() as exchange, OpenInterestClient(base_url=exchange.url) as client:
        recorder = Recorder(
            client, path, every=1.0, symbols=["BTCUSDT"], on_sweep=lambda _: recorder.stop()
        )
        await recorder.run()  # until the first sweep is on the disk


with tempfile.TemporaryDirectory() as directory:
    asyncio.run(record(Path(directory) / "oi.db"))
    with Recording(Path(directory) / "oi.db") as recording:
        samples = recording.samples(["BTCUSDT"])
        print("without any extra:", samples.to_columns()["open_interest"])
        for name, read in READ.items():
            try:
                print(name, read(import_module(name), samples), sep="\n")
            except ModuleNotFoundError as error:
                print(f"{error.name} is not installed")
