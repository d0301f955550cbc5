"""Snapshots and recorded samples are read by whatever reads Arrow: exact, and in UTC."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from binance_oi.recorder import Recording, Samples
from support.recorded import BEGIN, PRICE, VALUES, sweep, write_recording

pa = pytest.importorskip("pyarrow")

TIME = datetime.fromtimestamp(BEGIN.timestamp() - 2.5, UTC)


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    with Recording(write_recording(tmp_path / "oi.db")) as recording:
        return recording.samples()


def test_a_snapshot_is_a_table_with_exact_decimals_and_utc() -> None:
    table = pa.table(sweep(0))
    assert str(table.schema.field("open_interest").type) == "decimal128(38, 18)"
    assert str(table.schema.field("time").type) == "timestamp[ms, tz=UTC]"
    rows = table.to_pylist()
    assert [row["open_interest"] for row in rows] == [Decimal(v) for v in VALUES.values()]
    assert (rows[0]["time"], rows[0]["mark_price"]) == (TIME, Decimal(PRICE))
    assert rows[1]["mark_price"] is None


def test_recorded_samples_are_the_same_table_and_can_be_read_twice(samples: Samples) -> None:
    table = pa.table(samples)
    assert table.schema == pa.table(sweep(0)).schema
    assert table["open_interest"].to_pylist() == samples.to_columns()["open_interest"]
    assert pa.table(samples) == table


def test_polars_reads_them(samples: Samples) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(samples)
    assert frame["open_interest"].to_list() == samples.to_columns()["open_interest"]
    assert frame["time"].to_list()[0] == TIME
    assert polars.from_arrow(sweep(0)).struct.unnest().height == 3


def test_duckdb_reads_them(samples: Samples) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect() as connection:
        connection.register("recorded", samples)
        found = connection.sql(
            "SELECT max(open_interest) FROM recorded WHERE symbol = 'BTCUSDT'"
        ).fetchall()
    assert found == [(Decimal("96052.544"),)]


def test_pandas_reads_them(samples: Samples) -> None:
    pandas = pytest.importorskip("pandas", minversion="3")
    frame = pandas.DataFrame.from_arrow(samples)
    assert list(frame["open_interest"]) == samples.to_columns()["open_interest"]
