"""Arrow libraries read snapshots and recorded samples with exact numbers and UTC times."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from binance_oi import OpenInterest
from binance_oi.recorder import Recording, Samples
from binance_oi.recorder.connection import Connection
from support.recorded import BEGIN, PRICE, VALUES, sweep, write_recording

pa = pytest.importorskip("pyarrow")

TIME = datetime.fromtimestamp(BEGIN.timestamp() - 2.5, UTC)


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    with Recording(write_recording(tmp_path / "oi.db")) as recording:
        return recording.samples()


def test_a_snapshot_becomes_a_table_with_exact_decimals_and_utc_times() -> None:
    table = pa.table(sweep(0))
    assert str(table.schema.field("open_interest").type) == "decimal128(22, 8)"
    assert str(table.schema.field("time").type) == "timestamp[ms, tz=UTC]"
    rows = table.to_pylist()
    assert [row["open_interest"] for row in rows] == [Decimal(v) for v in VALUES.values()]
    assert (rows[0]["time"], rows[0]["mark_price"]) == (TIME, Decimal(PRICE))
    assert rows[1]["mark_price"] is None


def test_recorded_samples_become_the_same_table_and_can_be_read_twice(samples: Samples) -> None:
    table = pa.table(samples)
    assert table.schema == pa.table(sweep(0)).schema
    assert table["open_interest"].to_pylist() == samples.to_columns()["open_interest"]
    assert pa.table(samples) == table


TOO_LONG = "1" * 21
LONG = "0." + "0" * 17 + "1"


def insert(path: Path, *rows: tuple[str, str, str | None]) -> None:
    """Write samples into a recording: symbol, open interest and mark price; all at one instant."""
    with closing(sqlite3.connect(path, factory=Connection)) as connection, connection:
        connection.executemany("INSERT INTO settled VALUES (?1, 1795435200000, ?2, 1, ?3)", rows)


def test_samples_that_fit_no_decimal_are_omitted_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_recording(tmp_path / "oi.db")
    insert(path, ("N1", TOO_LONG, None), ("N2", LONG, None), ("N3", "1.5", TOO_LONG))
    with Recording(path) as recording:
        table = pa.table(recording.samples())
    assert len(table) == 8 + 1
    assert str(table.schema.field("open_interest").type) == "decimal128(38, 18)"
    assert str(table.schema.field("mark_price").type) == "decimal128(15, 8)"
    found = dict(zip(table["symbol"].to_pylist(), table["open_interest"].to_pylist(), strict=True))
    assert found["N2"] == Decimal(LONG)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith(f"{path}: odd rows are left out: N1 of 2026-11-23T12:00:00.000Z (")
    assert ", N3 of " in warning


def test_snapshot_rows_that_fit_no_decimal_are_omitted_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = sweep(0)
    values = {**seen, "N1": OpenInterest("N1", Decimal(TOO_LONG), 1_795_435_200_000)}
    table = pa.table(replace(seen, values_by_symbol=values))
    assert table["symbol"].to_pylist() == list(VALUES)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("snapshot: odd rows are left out: N1 of ")


def test_a_long_number_recorded_during_a_read_is_omitted_and_the_other_rows_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_recording(tmp_path / "oi.db")
    with Recording(path) as recording:
        reader = pa.RecordBatchReader.from_stream(recording.samples(["BTCUSDT"]))
        insert(path, ("BTCUSDT", LONG, None))  # a recorder writes meanwhile
        assert len(reader.read_all()) == 2
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "odd rows are left out: BTCUSDT of 2026-11-23T12:00:00.000Z" in warning


def test_the_notional_is_the_exact_product_and_needs_mark_prices(
    tmp_path: Path,
) -> None:
    path = write_recording(tmp_path / "oi.db")
    insert(path, ("N1", "1.23456789", "0.00000001"))
    with Recording(path) as recording:
        table = pa.table(recording.samples())
        for row in table.to_pylist():
            price = row["mark_price"]
            assert row["notional"] == (None if price is None else row["open_interest"] * price)
        assert "notional" not in pa.table(recording.samples(["1000SHIBUSDT"])).column_names
    assert "notional" not in pa.table(replace(sweep(0), mark_prices={})).column_names
    assert pa.table(sweep(0))["notional"].to_pylist()[0] == sweep(0).notional["BTCUSDT"]


def test_columns_of_usual_numbers_can_be_multiplied(samples: Samples) -> None:
    compute = pytest.importorskip("pyarrow.compute")
    table = pa.table(samples)
    product = compute.multiply(table["open_interest"], table["mark_price"])
    assert product == table["notional"]


def test_polars_reads_samples_and_snapshots(samples: Samples) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(samples)
    assert frame["open_interest"].to_list() == samples.to_columns()["open_interest"]
    assert frame["time"].to_list()[0] == TIME
    assert polars.from_arrow(sweep(0)).struct.unnest().height == 3
    floats = frame.select(polars.col("notional").cast(polars.Float64))
    assert floats["notional"].drop_nulls()[0] == pytest.approx(96012.544 * 66012.544)


def test_duckdb_reads_samples(samples: Samples) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        connection.register("recorded", samples)
        found = connection.sql(
            "SELECT max(open_interest) FROM recorded WHERE symbol = 'BTCUSDT'"
        ).fetchall()
        product = connection.sql(
            "SELECT open_interest * mark_price = notional, notional::DOUBLE FROM recorded"
            " WHERE mark_price IS NOT NULL"
        ).fetchall()
    assert found == [(Decimal("96052.544"),)]
    assert product[0] == (True, pytest.approx(96012.544 * 66012.544))


def test_pandas_reads_samples(samples: Samples) -> None:
    pandas = pytest.importorskip("pandas", minversion="3")
    frame = pandas.DataFrame.from_arrow(samples)
    assert list(frame["open_interest"]) == samples.to_columns()["open_interest"]
    floats = frame["notional"].astype("float64").dropna()
    assert floats.iloc[0] == pytest.approx(96012.544 * 66012.544)
