"""Samples as Arrow, so that polars, pandas, DuckDB and pyarrow read them without a copy of ours.

The rule of this file: numbers arrive as the exchange's text and leave as decimals, never through a
float; times are UTC. A number that does not fit is an error, it is not rounded. pyarrow (the extra
`parquet`) is imported when it is used; it has no types, and nothing of it leaves this file.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from binance_oi.errors import RecordingError, printable
from binance_oi.extras import library
from binance_oi.market.rows import Batch, Row

PRECISION, SCALE = 38, 18  # digits: the widest decimal that polars and DuckDB know, too
ROW_GROUP = 1 << 20  # rows; one symbol's day is a small part of it, found by its statistics
READ = 65_536  # rows of a file in memory at a time

_library = partial(library, extra="parquet")


def stream(batches: Callable[[], Iterable[Batch]], requested_schema: object | None) -> object:
    """An Arrow C stream, as `__arrow_c_stream__` gives it.

    Source: the Arrow PyCapsule interface, https://arrow.apache.org/docs/format/CDataInterface.
    """
    pyarrow = _library("pyarrow")
    arrays = (record_batch(batch) for batch in batches())
    reader = pyarrow.RecordBatchReader.from_batches(_schema(), arrays)
    capsule: object = reader.__arrow_c_stream__(requested_schema)
    return capsule


def write_parquet(batches: Iterable[Batch], file: BinaryIO) -> None:
    """Write one file, compressed with zstd; the batches are sorted by symbol and time.

    Args:
        batches: What to write.
        file: Where to; it stays open.
    """
    parquet, schema = _library("pyarrow.parquet"), _schema()
    order = [("symbol", "ascending"), ("time", "ascending")]
    sorting = parquet.SortingColumn.from_ordering(schema, order)
    with parquet.ParquetWriter(file, schema, compression="zstd", sorting_columns=sorting) as writer:
        for batch in batches:
            writer.write_batch(record_batch(batch), ROW_GROUP)


def read_parquet(path: Path) -> Iterator[Row]:
    """The rows of a file with the columns of `write_parquet`, in its order.

    Memory does not grow with the file. Decimals are exact.

    Raises:
        RecordingError: It cannot be read, or has other columns.
    """
    text = _library("pyarrow").string()
    with _parquet(path) as file:
        for found in file.iter_batches(READ):
            batch = found.cast(_schema())
            yield from zip(
                batch["symbol"].to_pylist(),
                batch["time"].cast("int64").to_pylist(),
                batch["open_interest"].cast(text).to_pylist(),
                batch["received"].cast("int64").to_pylist(),
                batch["mark_price"].cast(text).to_pylist(),
                strict=True,
            )


def check_parquet(path: Path) -> None:
    """See that a file has the columns of `write_parquet`; its rows are not read.

    Raises:
        RecordingError: It cannot be read, or has other columns.
    """
    with _parquet(path):
        pass


@contextmanager
def _parquet(path: Path) -> Generator[Any]:
    """An open file; what pyarrow says of it becomes an error of ours."""
    pyarrow, parquet = _library("pyarrow"), _library("pyarrow.parquet")
    try:
        # Opened here: pyarrow takes some names for addresses.
        with path.open("rb") as opened, parquet.ParquetFile(opened) as file:
            _check_kinds(file.schema_arrow)
            yield file
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        why = printable(str(error), 200)
        raise RecordingError(f"{path} cannot be added to: {why}; replace it") from error


def _check_kinds(found: Any) -> None:
    """See that a cast to our columns keeps every value; others may write them a little otherwise.

    Raises:
        ValueError: It has other columns, or of another kind: a float is no decimal, an instant
            without a time zone may be any.
    """
    types, wanted = _library("pyarrow").types, _schema()
    if found.names != wanted.names:
        raise ValueError(f"it has the columns {', '.join(found.names)}")
    for field in found:
        kind = wanted.field(field.name).type
        if types.is_decimal(kind):
            same = types.is_decimal(field.type)
        elif types.is_timestamp(kind):
            same = types.is_timestamp(field.type) and field.type.tz == kind.tz
        else:
            same = types.is_string(field.type) or types.is_large_string(field.type)
        if not same:
            raise ValueError(f"its {field.name} is {field.type} and not {kind}")


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
