"""A recording in polars, pandas and DuckDB, whichever is there; needs the extra `parquet`."""

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import suppress
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


async def record(path: Path, seconds: float) -> None:
    async with LocalExchange() as exchange, OpenInterestClient(base_url=exchange.url) as client:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await Recorder(client, path, every=1.0, symbols=["BTCUSDT"]).run()


with tempfile.TemporaryDirectory() as directory:
    asyncio.run(record(Path(directory) / "oi.db", 1.5))
    with Recording(Path(directory) / "oi.db") as recording:
        samples = recording.samples(["BTCUSDT"])
        print("without any extra:", samples.to_columns()["open_interest"])
        for name, read in READ.items():
            try:
                print(name, read(import_module(name), samples), sep="\n")
            except ModuleNotFoundError as error:
                print(f"{error.name} is not installed")
