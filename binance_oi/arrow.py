"""Samples as Arrow, so that polars, pandas, DuckDB and pyarrow read them without a copy of ours.

The rule of this file: numbers arrive as the exchange's text and leave as decimals, never through a
float; times are UTC. A number that does not fit is an error, it is not rounded. pyarrow (the extra
`parquet`) is imported when it is used; it has no types, and nothing of it leaves this file.
"""

from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

PRECISION, SCALE = 38, 18  # digits: the widest decimal that polars and DuckDB know, too
ROW_GROUP = 1 << 20  # rows; one symbol's day is a small part of it, found by its statistics


class Batch(NamedTuple):
    """Samples by column."""

    symbol: list[str]
    time: list[int]
    """Transaction times, Unix ms."""
    open_interest: list[str]
    received: list[int]
    """When the answers came, Unix ms."""
    mark_price: list[str | None]


def stream(batches: Callable[[], Iterable[Batch]], requested_schema: object | None) -> object:
    """An Arrow C stream, as `__arrow_c_stream__` gives it.

    Source: the Arrow PyCapsule interface, https://arrow.apache.org/docs/format/CDataInterface.
    """
    pyarrow = _library("pyarrow")
    arrays = (record_batch(batch) for batch in batches())
    reader = pyarrow.RecordBatchReader.from_batches(_schema(), arrays)
    capsule: object = reader.__arrow_c_stream__(requested_schema)
    return capsule


def write_parquet(batches: Iterable[Batch], path: Path, tell: Callable[[int], object]) -> int:
    """Write one file, compressed with zstd; the batches are sorted by symbol and time.

    Args:
        batches: What to write.
        path: Where to.
        tell: Called with the number of rows of each batch.

    Returns:
        The number of rows.
    """
    parquet, schema, rows = _library("pyarrow.parquet"), _schema(), 0
    order = [("symbol", "ascending"), ("time", "ascending")]
    sorting = parquet.SortingColumn.from_ordering(schema, order)
    with parquet.ParquetWriter(path, schema, compression="zstd", sorting_columns=sorting) as file:
        for batch in batches:
            file.write_batch(record_batch(batch), ROW_GROUP)
            rows += len(batch.symbol)
            tell(len(batch.symbol))
    return rows


def record_batch(batch: Batch) -> object:
    """The same as a `pyarrow.RecordBatch`.

    Raises:
        ValueError: A number has more than 20 digits before the point or 18 after it.
    """
    pyarrow, schema = _library("pyarrow"), _schema()
    columns: list[object] = []
    for values, field in zip(batch, schema, strict=True):
        decimal = pyarrow.types.is_decimal(field.type)
        array = pyarrow.array(values, pyarrow.string() if decimal else field.type)
        columns.append(array.cast(field.type) if decimal else array)
    made: object = pyarrow.record_batch(columns, schema=schema)
    return made


def _schema() -> Any:
    pyarrow = _library("pyarrow")
    number = pyarrow.decimal128(PRECISION, SCALE)
    instant = pyarrow.timestamp("ms", tz="UTC")
    return pyarrow.schema(
        [
            pyarrow.field("symbol", pyarrow.string(), nullable=False),
            pyarrow.field("time", instant, nullable=False),
            pyarrow.field("open_interest", number, nullable=False),
            pyarrow.field("received", instant, nullable=False),
            pyarrow.field("mark_price", number),
        ]
    )


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ModuleNotFoundError(
            "this needs pyarrow: pip install 'binance-oi[parquet]'", name="pyarrow"
        ) from error
