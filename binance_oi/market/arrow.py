"""Samples as Arrow, so that polars, pandas, DuckDB and pyarrow read them without a copy of ours.

The rule of this file: numbers arrive as the exchange's text and leave as decimals, never through a
float; times are UTC. A number that no column can hold costs its row and is never rounded. pyarrow
(the extra `parquet`) is imported when it is used; it has no types, and nothing of it leaves this
file.

The columns of numbers are as narrow as the exchange's numbers allow, because the types of a product
add up: pyarrow multiplies two decimals only when their digits are less than 38 together, and DuckDB
only when those after the point leave room for those before it. Numbers that need more get a wider
column, with the smallest scale that holds them.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from binance_oi.errors import RecordingError, printable
from binance_oi.extras import library
from binance_oi.market.rows import Batch, OddRows, PastRow, Row, digits, notional

PRECISION = 38  # digits: the widest decimal that polars and DuckDB know, too
SCALE = 18  # digits after the point at the most
WHOLE = PRECISION - SCALE  # digits before it at the most
PLAIN_SCALE = 8  # the exchange writes no more [O] 2026-11
PLAIN_SUPPLY = 16  # digits before the point: as many tokens as a name of 1000000 may have
PLAIN_VALUE, PLAIN_PRICE = 14, 7  # digits before the point: 51857726234713 and 63759 were seen
NARROW = min(WHOLE, SCALE)  # characters: a number that is no longer always fits
TOO_WIDE = f"a number of more than {WHOLE} digits before the point or {SCALE} after it"
WITHOUT_NOTIONAL = "rows have no notional"
NOTIONAL_AT = 5  # its place among the columns
ROW_GROUP = 1 << 20  # rows; one symbol's day is a small part of it, found by its statistics
READ = 65_536  # rows of a file in memory at a time

_library = partial(library, extra="parquet")


class Kind(NamedTuple):
    """The type of a column of numbers."""

    precision: int
    """Digits in all."""
    scale: int
    """Digits after the point."""

    @classmethod
    def plain(cls, whole: int) -> Self:
        """With so many digits before the point, and as many after it as the exchange writes."""
        return cls(whole + PLAIN_SCALE, PLAIN_SCALE)

    def holds(self, number: str) -> bool:
        """Whether a number fits, to the last digit."""
        point = number.find(".") % (len(number) + 1)  # its end where it has none
        most = self.precision - self.scale
        if point <= most and len(number) - point <= self.scale + 1 and "E" not in number:
            return True  # nearly always
        whole, decimals = _width(number)
        return decimals <= self.scale and whole <= most

    def widened(self, numbers: Iterable[str | None]) -> Self:
        """The kind that holds these as well, but for those that no kind can hold."""
        widest, scale = type(self)(PRECISION, SCALE), self.scale
        others = [n for n in numbers if n is not None and not self.holds(n) and widest.holds(n)]
        for number in others:
            scale = max(scale, _width(number)[1])
        return type(self)(PRECISION, scale) if others else self


class Columns(NamedTuple):
    """What the columns of numbers are; those of the exchange's usual numbers without more."""

    open_interest: Kind = Kind.plain(PLAIN_VALUE)
    mark_price: Kind = Kind.plain(PLAIN_PRICE)
    has_notional: bool = False

    @classmethod
    def of(cls, batches: Iterable[Batch]) -> Self:
        """The narrowest for these."""
        columns = cls()
        for batch in batches:
            columns = columns.widened(batch)
        return columns

    def widened(self, batch: Batch) -> Self:
        """The columns that hold these rows as well, but for those that none can hold."""
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
        """That of the product; as long as both are usual, it holds each product."""
        return Kind(PRECISION, min(SCALE, self.open_interest.scale + self.mark_price.scale))

    @property
    def is_plain(self) -> bool:
        """Whether the numbers are the exchange's usual ones."""
        return self[:2] == Columns()[:2]


class PastColumns(NamedTuple):
    """What the columns of numbers of the past are."""

    open_interest: Kind = Kind.plain(PLAIN_VALUE)
    notional: Kind = Kind.plain(PLAIN_VALUE)
    circulating_supply: Kind = Kind.plain(PLAIN_SUPPLY)

    def widened(self, rows: Sequence[PastRow]) -> Self:
        """The columns that hold these rows as well, but for those that none can hold."""
        numbers = zip(self, list(zip(*rows, strict=True))[2:], strict=True)
        return type(self)(*(kind.widened(column) for kind, column in numbers))

    def hold(self, row: PastRow) -> bool:
        """Whether the numbers of a row fit."""
        pairs = zip(self, row[2:], strict=True)
        return all(number is None or kind.holds(number) for kind, number in pairs)


class TooNarrowError(Exception):
    """Rows came that the columns of a file do not hold. It never leaves an export."""

    def __init__(self, columns: Columns) -> None:
        super().__init__(columns)
        self.columns = columns
        """Those that hold them."""


WIDEST = Columns(Kind(PRECISION, SCALE), Kind(PRECISION, SCALE), has_notional=True)


def fits(row: Row) -> bool:
    """Whether some columns can hold the numbers of a row."""
    _, _, value, _, price = row
    if len(value) <= NARROW and (price is None or len(price) <= NARROW):  # nearly always
        return True
    return WIDEST.hold(row)


def stream(
    batches: Iterable[Batch], columns: Columns, where: object, requested_schema: object | None
) -> object:
    """An Arrow C stream, as `__arrow_c_stream__` gives it.

    Args:
        batches: The rows; one that `columns` do not hold is left out, with one warning for all.
        columns: What the columns are.
        where: What the warning calls the rows.
        requested_schema: As the interface has it.

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
    left_out.tell(where)
    priceless.tell(where, WITHOUT_NOTIONAL)


def write_parquet(batches: Iterable[Batch], file: BinaryIO, columns: Columns, odd: OddRows) -> None:
    """Write one file, compressed with zstd; the batches are sorted by symbol and time.

    Args:
        batches: What to write.
        file: Where to; it stays open.
        columns: What the columns are.
        odd: Gets the rows that are written without their notional.

    Raises:
        TooNarrowError: `columns` do not hold a row.
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


def write_past(
    blocks: Iterable[Sequence[PastRow]], file: BinaryIO, columns: PastColumns, odd: OddRows
) -> None:
    """Write one file of the past, compressed with zstd.

    Args:
        blocks: What to write, sorted by symbol and time.
        file: Where to; it stays open.
        columns: What the columns are.
        odd: Gets the rows that no columns can hold; they are left out.
    """
    pyarrow, parquet = _library("pyarrow"), _library("pyarrow.parquet")
    schema = pyarrow.schema(
        [
            pyarrow.field("symbol", pyarrow.string(), nullable=False),
            pyarrow.field("time", pyarrow.timestamp("ms", tz="UTC"), nullable=False),
            pyarrow.field("open_interest", pyarrow.decimal128(*columns[0]), nullable=False),
            pyarrow.field("notional", pyarrow.decimal128(*columns[1]), nullable=False),
            pyarrow.field("circulating_supply", pyarrow.decimal128(*columns[2])),
        ]
    )
    order = [("symbol", "ascending"), ("time", "ascending")]
    sorting = parquet.SortingColumn.from_ordering(schema, order)
    with parquet.ParquetWriter(file, schema, compression="zstd", sorting_columns=sorting) as writer:
        for rows in blocks:
            kept = [row for row in rows if columns.hold(row)]
            for row in rows if len(kept) < len(rows) else ():
                if not columns.hold(row):
                    odd.add(row, TOO_WIDE)
            if kept:
                symbols, times, *numbers = zip(*kept, strict=True)
                arrays = [pyarrow.array(symbols), pyarrow.array(times, schema.field("time").type)]
                kinds = [schema.field(n).type for n in range(2, 5)]
                arrays += map(_numbers, numbers, kinds)
                writer.write_batch(pyarrow.record_batch(arrays, schema=schema), ROW_GROUP)


def read_parquet(path: Path) -> Iterator[Row]:
    """The rows of a file with the columns of `write_parquet`, in its order.

    Memory does not grow with the file. Decimals are exact. The notional is left out, for it follows
    from the others; files of before have none.

    Raises:
        RecordingError: It cannot be read, or has other columns.
    """
    text, schema = _library("pyarrow").string(), _schema(WIDEST).remove(NOTIONAL_AT)
    with _parquet(path) as file:
        for found in file.iter_batches(READ, columns=schema.names):
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
    """The same as a `pyarrow.RecordBatch`.

    Args:
        batch: The rows.
        columns: What the columns are.
        odd: Gets the rows whose notional no column can hold; theirs is null.

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
    except pyarrow.ArrowInvalid:  # also of zeros at the end, which are more than 38 digits
        shorter = [text and _shortest(text) for text in texts]
        return pyarrow.array(shorter, pyarrow.string()).cast(kind)


def _products(batch: Batch, columns: Columns, odd: OddRows, values: Any, prices: Any) -> Any:
    """Each notional, exact; null without a mark price."""
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
    """Digits before the point and after it, without zeros at the ends."""
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
