"""Converts rows to Arrow, which polars, pandas, DuckDB and pyarrow read directly.

The rule of this file: it converts the exchange's text to decimals, without floats, and times to
UTC. It rounds no number: it omits a row with a number that fits into no column. In samples, a
notional that we computed becomes null instead. This module imports pyarrow (the extra `parquet`) on
its first use. pyarrow has no type hints, so no other module uses it.

The columns of numbers are as narrow as the exchange's numbers allow. The reason is that a product
needs the digits of both factors: pyarrow multiplies two decimals only if they have fewer than 38
digits together, and DuckDB only if the product, with the scales of both, fits into 38 digits. If
numbers have more digits, their column is wider, with the smallest scale that is enough.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from binance_oi.errors import RecordingError, printable
from binance_oi.extras import library
from binance_oi.market.rows import Batch, OddRows, PastRow, PointRow, Row, digits, notional

PRECISION = 38  # digits: the widest decimal of polars and DuckDB
SCALE = 18  # the most digits after the point
WHOLE_DIGITS = PRECISION - SCALE  # the most digits before the point
PLAIN_SCALE = 8  # digits after the point; the exchange writes no more (seen 2026-11)
PLAIN_SUPPLY = 16  # digits before the point: enough for 1000000MOG and similar tokens
PLAIN_VALUE, PLAIN_PRICE = 14, 7  # digits before the point; seen: 51857726234713 and 63759
SHORT = min(WHOLE_DIGITS, SCALE)  # a number of at most this many characters always fits
TOO_WIDE = f"a number of more than {WHOLE_DIGITS} digits before the point or {SCALE} after it"
WITHOUT_NOTIONAL = "rows have no notional"
NOTIONAL_AT = 5  # the index of the column `notional`
ROW_GROUP = 1 << 20  # rows of a group; its statistics let readers skip all of them
BATCH_ROWS = 65_536  # rows of a file in memory at once

_library = partial(library, extra="parquet")


class Kind(NamedTuple):
    """The type of a column of numbers."""

    precision: int
    """Digits before and after the point together."""
    scale: int
    """Digits after the point."""

    @classmethod
    def plain(cls, whole: int) -> Self:
        """Return a type with `whole` digits before the point and `PLAIN_SCALE` after it."""
        return cls(whole + PLAIN_SCALE, PLAIN_SCALE)

    def holds(self, number: str) -> bool:
        """Whether a number fits without rounding."""
        point = number.find(".") % (len(number) + 1)  # the length if there is no point
        most = self.precision - self.scale
        if point <= most and len(number) - point <= self.scale + 1 and "E" not in number:
            return True  # nearly always
        whole, decimals = _width(number)
        return decimals <= self.scale and whole <= most

    def widened(self, numbers: Iterable[str | None]) -> Self:
        """Return a kind that also holds these numbers, except those that no kind can hold."""
        widest, scale = type(self)(PRECISION, SCALE), self.scale
        others = [n for n in numbers if n is not None and not self.holds(n) and widest.holds(n)]
        for number in others:
            scale = max(scale, _width(number)[1])
        return type(self)(PRECISION, scale) if others else self


class Columns(NamedTuple):
    """The types of the columns of numbers; by default, those for the exchange's usual numbers."""

    open_interest: Kind = Kind.plain(PLAIN_VALUE)
    mark_price: Kind = Kind.plain(PLAIN_PRICE)
    has_notional: bool = False

    @classmethod
    def of(cls, batches: Iterable[Batch]) -> Self:
        """Return the columns for the usual numbers, wider only where these rows need it."""
        columns = cls()
        for batch in batches:
            columns = columns.widened(batch)
        return columns

    def widened(self, batch: Batch) -> Self:
        """Return columns that also hold these rows, except rows that no column can hold."""
        return type(self)(
            self.open_interest.widened(batch.open_interest),
            self.mark_price.widened(batch.mark_price),
            self.has_notional or any(price is not None for price in batch.mark_price),
        )

    def hold(self, row: Row) -> bool:
        """Whether the numbers of a row fit."""
        _, _, value, _, price = row
        return self.open_interest.holds(value) and (price is None or self.mark_price.holds(price))

    @property
    def notional(self) -> Kind:
        """The type of the product. If both factors have the usual types, it holds every product."""
        return Kind(PRECISION, min(SCALE, self.open_interest.scale + self.mark_price.scale))

    @property
    def is_plain(self) -> bool:
        """Whether the columns have the types for the exchange's usual numbers."""
        return self[:2] == Columns()[:2]


class PastColumns(NamedTuple):
    """The types of the columns of numbers, for rows of the past."""

    open_interest: Kind = Kind.plain(PLAIN_VALUE)
    notional: Kind = Kind.plain(PLAIN_VALUE)
    circulating_supply: Kind = Kind.plain(PLAIN_SUPPLY)

    def widened(self, rows: Sequence[PastRow] | Sequence[PointRow]) -> Self:
        """Return columns that also hold these rows, except rows that no column can hold."""
        numbers = zip(self, list(zip(*rows, strict=True))[2:5], strict=True)
        return type(self)(*(kind.widened(column) for kind, column in numbers))

    def hold(self, row: PastRow | PointRow) -> bool:
        """Whether the numbers of a row fit."""
        pairs = zip(self, row[2:5], strict=True)
        return all(number is None or kind.holds(number) for kind, number in pairs)


# A series (`Recording.series`) also has values that we polled. Their notional is a product of two
# numbers, so it has the decimal places of both.
POINTS = PastColumns(notional=Kind(PRECISION, 2 * PLAIN_SCALE))
"""The columns of a series, unless its numbers are longer than the exchange's usual numbers."""


class TooNarrowError(Exception):
    """A row does not fit into the columns of a file. An export catches this error."""

    def __init__(self, columns: Columns) -> None:
        super().__init__(columns)
        self.columns = columns
        """Wider columns, into which the row fits."""


WIDEST = Columns(Kind(PRECISION, SCALE), Kind(PRECISION, SCALE), has_notional=True)


def fits(row: Row) -> bool:
    """Whether the widest columns hold the numbers of a row."""
    _, _, value, _, price = row
    if len(value) <= SHORT and (price is None or len(price) <= SHORT):  # nearly always
        return True
    return WIDEST.hold(row)


def stream(
    batches: Iterable[Batch], columns: Columns, where: object, requested_schema: object | None
) -> object:
    """Make an Arrow C stream, as `__arrow_c_stream__` returns it.

    Args:
        batches: The rows. The stream omits rows that do not fit into `columns`, with one warning.
        columns: The types of the columns of numbers.
        where: The name of the rows in the warning.
        requested_schema: The argument of `__arrow_c_stream__`.

    Source: the Arrow PyCapsule interface, https://arrow.apache.org/docs/format/CDataInterface.
    """
    pyarrow = _library("pyarrow")
    arrays = _without_odd(batches, columns, where)
    reader = pyarrow.RecordBatchReader.from_batches(_schema(columns), arrays)
    capsule: object = reader.__arrow_c_stream__(requested_schema)
    return capsule


def _without_odd(batches: Iterable[Batch], columns: Columns, where: object) -> Iterator[object]:
    left_out, priceless = OddRows(), OddRows()
    for batch in batches:
        try:
            made = record_batch(batch, columns, priceless)
        except ValueError:
            rows = list[Row]()
            for row in batch.rows():
                if columns.hold(row):
                    rows.append(row)
                else:
                    left_out.add(row, TOO_WIDE)
            made = record_batch(Batch.of(rows), columns, priceless)
        yield made
    left_out.warn(where)
    priceless.warn(where, WITHOUT_NOTIONAL)


def write_parquet(batches: Iterable[Batch], file: BinaryIO, columns: Columns, odd: OddRows) -> None:
    """Write one file, compressed with zstd.

    Args:
        batches: The rows to write, sorted by symbol and time.
        file: The file to write to; it stays open.
        columns: The types of the columns of numbers.
        odd: Collects the rows whose notional fits into no column; the file has null there.

    Raises:
        TooNarrowError: `columns` do not hold a row, or lack the column for its notional.
    """
    parquet, schema = _library("pyarrow.parquet"), _schema(columns)
    order = [("symbol", "ascending"), ("time", "ascending")]
    sorting = parquet.SortingColumn.from_ordering(schema, order)
    with parquet.ParquetWriter(file, schema, compression="zstd", sorting_columns=sorting) as writer:
        for batch in batches:
            if not columns.has_notional and batch.mark_price.count(None) < len(batch.mark_price):
                raise TooNarrowError(columns.widened(batch))
            try:
                made = record_batch(batch, columns, odd)
            except ValueError as error:
                raise TooNarrowError(columns.widened(batch)) from error
            writer.write_batch(made, ROW_GROUP)


def point_stream(
    blocks: Iterable[Sequence[PointRow]],
    columns: PastColumns,
    where: object,
    requested_schema: object | None,
) -> object:
    """Make an Arrow C stream of a series; see `stream`."""
    pyarrow, schema = _library("pyarrow"), _past_schema(columns, is_series=True)
    reader = pyarrow.RecordBatchReader.from_batches(schema, _points(blocks, columns, schema, where))
    capsule: object = reader.__arrow_c_stream__(requested_schema)
    return capsule


def _points(
    blocks: Iterable[Sequence[PointRow]], columns: PastColumns, schema: Any, where: object
) -> Iterator[object]:
    odd = OddRows()
    yield from _past_batches(blocks, columns, schema, odd)
    odd.warn(where)


def write_past(
    blocks: Iterable[Sequence[PastRow]] | Iterable[Sequence[PointRow]],
    file: BinaryIO,
    columns: PastColumns,
    odd: OddRows,
    *,
    is_series: bool = False,
) -> None:
    """Write one file of the past or of a series, compressed with zstd.

    Args:
        blocks: The rows to write, sorted by symbol and time.
        file: The file to write to; it stays open.
        columns: The types of the columns of numbers.
        odd: Collects the rows that do not fit into `columns`; the file omits them.
        is_series: Whether the rows are those of a series, which have a source.
    """
    parquet, schema = _library("pyarrow.parquet"), _past_schema(columns, is_series=is_series)
    order = [("symbol", "ascending"), ("time", "ascending")]
    sorting = parquet.SortingColumn.from_ordering(schema, order)
    with parquet.ParquetWriter(file, schema, compression="zstd", sorting_columns=sorting) as writer:
        for batch in _past_batches(blocks, columns, schema, odd):
            writer.write_batch(batch, ROW_GROUP)


def _past_schema(columns: PastColumns, *, is_series: bool) -> Any:
    pyarrow = _library("pyarrow")
    fields = [
        pyarrow.field("symbol", pyarrow.string(), nullable=False),
        pyarrow.field("time", pyarrow.timestamp("ms", tz="UTC"), nullable=False),
        pyarrow.field("open_interest", pyarrow.decimal128(*columns[0]), nullable=False),
        pyarrow.field("notional", pyarrow.decimal128(*columns[1]), nullable=is_series),
        pyarrow.field("circulating_supply", pyarrow.decimal128(*columns[2])),
    ]
    if is_series:
        fields.append(pyarrow.field("source", pyarrow.string(), nullable=False))
    return pyarrow.schema(fields)


def _past_batches(
    blocks: Iterable[Sequence[PastRow]] | Iterable[Sequence[PointRow]],
    columns: PastColumns,
    schema: Any,
    odd: OddRows,
) -> Iterator[object]:
    """Yield the rows that fit into the columns, as record batches."""
    pyarrow = _library("pyarrow")
    for rows in blocks:
        kept = [row for row in rows if columns.hold(row)]
        for row in rows if len(kept) < len(rows) else ():
            if not columns.hold(row):
                odd.add(row, TOO_WIDE)
        if kept:
            symbols, times, *others = zip(*kept, strict=True)
            arrays = [pyarrow.array(symbols), pyarrow.array(times, schema.field("time").type)]
            arrays += map(_numbers, others[:3], [schema.field(n).type for n in range(2, 5)])
            arrays += map(pyarrow.array, others[3:])
            yield pyarrow.record_batch(arrays, schema=schema)


def read_parquet(path: Path) -> Iterator[Row]:
    """Read the rows of a file with the columns of `write_parquet`, in the order of the file.

    Memory does not grow with the file. Decimals are exact. The function ignores the column
    `notional`: older files lack it, and it follows from the other columns.

    Raises:
        RecordingError: The file cannot be read, or has other columns.
    """
    text, schema = _library("pyarrow").string(), _schema(WIDEST).remove(NOTIONAL_AT)
    with _parquet(path) as file:
        for found in file.iter_batches(BATCH_ROWS, columns=schema.names):
            batch = found.cast(schema)
            yield from zip(
                batch["symbol"].to_pylist(),
                batch["time"].cast("int64").to_pylist(),
                batch["open_interest"].cast(text).to_pylist(),
                batch["received"].cast("int64").to_pylist(),
                batch["mark_price"].cast(text).to_pylist(),
                strict=True,
            )


def check_parquet(path: Path) -> None:
    """Check that a file has the columns of `write_parquet`, without reading its rows.

    Raises:
        RecordingError: The file cannot be read, or has other columns.
    """
    with _parquet(path):
        pass


@contextmanager
def _parquet(path: Path) -> Generator[Any]:
    """Open a file; convert errors of pyarrow to a `RecordingError`."""
    pyarrow, parquet = _library("pyarrow"), _library("pyarrow.parquet")
    try:
        # We open the file ourselves, because pyarrow takes some names for URLs.
        with path.open("rb") as opened, parquet.ParquetFile(opened) as file:
            _check_kinds(file.schema_arrow)
            yield file
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        why = printable(str(error), 200)
        raise RecordingError(f"cannot add to {path}: {why}; replace the file") from error


def _check_kinds(found: Any) -> None:
    """Check that no cast to our columns changes a value.

    We accept similar types, which other programs write, such as decimals of another precision.

    Raises:
        ValueError: The columns have other names or kinds, such as floats instead of decimals, or
            times without a time zone.
    """
    types, wanted = _library("pyarrow").types, _schema(WIDEST)
    if found.names not in (wanted.names, wanted.names[:NOTIONAL_AT]):
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


def record_batch(batch: Batch, columns: Columns, odd: OddRows) -> object:
    """Make a `pyarrow.RecordBatch` of a batch.

    Args:
        batch: The rows.
        columns: The types of the columns of numbers.
        odd: Collects the rows whose notional fits into no column; their notional becomes null.

    Raises:
        ValueError: `columns` do not hold a number.
    """
    pyarrow, schema = _library("pyarrow"), _schema(columns)
    arrays = [
        pyarrow.array(batch.symbol, schema.field("symbol").type),
        pyarrow.array(batch.time, schema.field("time").type),
        _numbers(batch.open_interest, schema.field("open_interest").type),
        pyarrow.array(batch.received, schema.field("received").type),
        _numbers(batch.mark_price, schema.field("mark_price").type),
    ]
    if columns.has_notional:
        arrays.append(_products(batch, columns, odd, arrays[2], arrays[4]))
    made: object = pyarrow.record_batch(arrays, schema=schema)
    return made


def _numbers(texts: Sequence[str | None], kind: Any) -> Any:
    pyarrow = _library("pyarrow")
    try:
        return pyarrow.array(texts, pyarrow.string()).cast(kind)
    except pyarrow.ArrowInvalid:  # a number with zeros at the end may have more than 38 digits
        shorter = [text and _shortest(text) for text in texts]
        return pyarrow.array(shorter, pyarrow.string()).cast(kind)


def _products(batch: Batch, columns: Columns, odd: OddRows, values: Any, prices: Any) -> Any:
    """Return the exact notional of each row; null if it is too long, or without a mark price."""
    pyarrow, kind = _library("pyarrow"), columns.notional
    if columns.is_plain:
        return _library("pyarrow.compute").multiply(values, prices)
    products: list[str | None] = []
    for row in batch.rows():
        _, _, value, _, price = row
        product = None if price is None else notional(Decimal(value), Decimal(price))
        text = None if product is None else digits(product)
        if text is not None and not kind.holds(text):
            odd.add(
                row, f"it has {_width(text)[0]} digits before the point, {_width(text)[1]} after"
            )
            text = None
        products.append(text)
    return _numbers(products, pyarrow.decimal128(*kind))


def _shortest(number: str) -> str:
    plain = digits(Decimal(number))
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def _width(number: str) -> tuple[int, int]:
    """Return the number of digits before and after the point, without zeros at the ends."""
    whole, _, decimals = digits(Decimal(number).copy_abs()).partition(".")
    return len(whole.lstrip("0")), len(decimals.rstrip("0"))


def _schema(columns: Columns) -> Any:
    pyarrow = _library("pyarrow")
    instant = pyarrow.timestamp("ms", tz="UTC")
    fields = [
        pyarrow.field("symbol", pyarrow.string(), nullable=False),
        pyarrow.field("time", instant, nullable=False),
        pyarrow.field("open_interest", pyarrow.decimal128(*columns.open_interest), nullable=False),
        pyarrow.field("received", instant, nullable=False),
        pyarrow.field("mark_price", pyarrow.decimal128(*columns.mark_price)),
    ]
    if columns.has_notional:
        fields.append(pyarrow.field("notional", pyarrow.decimal128(*columns.notional)))
    return pyarrow.schema(fields)
