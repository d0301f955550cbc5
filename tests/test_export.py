"""What leaves a recording is what the exchange wrote, and a file is whole or not there."""

import asyncio
import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from binance_oi import OpenInterestClient, ProcessBudget, RecordingError
from binance_oi.export import export, iso
from binance_oi.recorder import Recorder, Recording
from raw_exchange import RawExchange, answer
from recorded import BEGIN, VALUES, write_recording
from virtual_clock import wall_time

MIDNIGHT = datetime(2026, 11, 24, tzinfo=UTC)


# As they come over the wire, with every shape a decimal(38, 18) can hold.
ON_THE_WIRE = {
    "A": "96012.544",
    "B": "0.00000010",
    "C": "51857726234713",
    "D": "12345678901234567890.123456789012345678",
    "E": "0.000000000000000001",
    "F": "0",
    "G": "100.000",
}


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    with Recording(write_recording(tmp_path / "oi.db")) as opened:
        yield opened


def expected(recording: Recording) -> list[tuple[str, str, str, str, str | None]]:
    return [
        (symbol, iso(time), value, iso(received), mark)
        for symbol, time, value, received, mark in recording.samples().rows()
    ]


async def record_from_the_wire(path: Path) -> None:
    """One sweep of a server that answers with exactly these numbers."""
    listed = json.dumps({"symbols": [{"symbol": s, "status": "TRADING"} for s in ON_THE_WIRE]})

    def script(_: int) -> bytes:
        target = exchange.requests[-1].split()[1].decode()
        if "exchangeInfo" in target:
            return answer(200, listed)
        symbol = target.partition("symbol=")[2]
        body = (
            f'{{"symbol":"{symbol}","openInterest":"{ON_THE_WIRE[symbol]}","time":1795435200000}}'
        )
        return answer(200, body)

    loop = asyncio.get_running_loop()
    budget = ProcessBudget(limit=10_000, clock=loop.time, wall=wall_time)
    async with (
        RawExchange(script) as exchange,
        OpenInterestClient(base_url=exchange.url, budget=budget) as client,
    ):
        recorder = Recorder(
            client, path, every=0.1, on_sweep=lambda _: recorder.stop(), clock=wall_time
        )
        await recorder.run()


@pytest.mark.virtual_time
async def test_every_number_leaves_as_it_came_over_the_wire(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    await record_from_the_wire(tmp_path / "oi.db")
    with Recording(tmp_path / "oi.db") as recording:
        for name in ("oi.csv", "oi.jsonl", "oi.parquet"):
            assert export(recording, tmp_path / name) == len(ON_THE_WIRE)
        columns = recording.samples().to_columns()
    with (tmp_path / "oi.csv").open(encoding="utf-8", newline="") as file:
        assert {row["symbol"]: row["open_interest"] for row in csv.DictReader(file)} == ON_THE_WIRE
    lines = map(json.loads, (tmp_path / "oi.jsonl").read_text(encoding="utf-8").splitlines())
    assert {line["symbol"]: line["open_interest"] for line in lines} == ON_THE_WIRE
    exact = [Decimal(text) for text in ON_THE_WIRE.values()]
    assert pq.read_table(tmp_path / "oi.parquet")["open_interest"].to_pylist() == exact
    assert [str(value) for value in columns["open_interest"]] == [str(value) for value in exact]


def test_csv_has_every_digit(recording: Recording, tmp_path: Path) -> None:
    assert export(recording, tmp_path / "oi.csv") == 8
    with (tmp_path / "oi.csv").open(encoding="utf-8", newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [(*row[:4], row[4] or "") for row in expected(recording)]
    assert rows[0][:3] == ("1000SHIBUSDT", "2026-11-23T23:57:57.500Z", "51857726234713")


def test_json_lines_have_every_digit(recording: Recording, tmp_path: Path) -> None:
    export(recording, tmp_path / "oi.jsonl")
    lines = (tmp_path / "oi.jsonl").read_text(encoding="utf-8").splitlines()
    assert [tuple(json.loads(line).values()) for line in lines] == expected(recording)


def test_parquet_goes_by_day_and_is_sorted_and_exact(recording: Recording, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    told: list[int] = []
    assert export(recording, tmp_path / "out", on_rows=told.append) == sum(told) == 8
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.parquet"))
    days = ("2026-11-23", "2026-11-24")
    assert files == [f"out/date={day}/open_interest.parquet" for day in days]
    rows: list[tuple[object, ...]] = []
    for name in files:
        table = pq.ParquetFile(tmp_path / name).read()
        part = list(zip(*table.to_pydict().values(), strict=True))
        assert part == sorted(part, key=lambda row: row[:2])
        group = pq.ParquetFile(tmp_path / name).metadata.row_group(0)
        assert group.column(0).compression == "ZSTD"
        assert [column.column_index for column in group.sorting_columns] == [0, 1]
        rows += part
    wanted = [
        (s.symbol, ms(s.time), s.open_interest, ms(s.received), s.mark_price)
        for s in recording.samples()
    ]
    assert sorted(rows, key=lambda row: str(row[:2])) == sorted(
        wanted, key=lambda row: str(row[:2])
    )


def ms(time: int) -> datetime:
    return datetime.fromtimestamp(time / 1000, UTC)


def test_one_parquet_file_holds_everything(recording: Recording, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    assert export(recording, tmp_path / "oi.parquet") == 8
    table = pq.read_table(tmp_path / "oi.parquet")
    assert set(table["symbol"].to_pylist()) == set(VALUES)


def test_symbols_and_a_span_can_be_chosen(recording: Recording, tmp_path: Path) -> None:
    target = tmp_path / "oi.csv"
    assert export(recording, target, symbols=["BTCUSDT"], since=MIDNIGHT) == 1
    assert target.read_text().splitlines()[1].startswith("BTCUSDT,2026-11-24T00:01:57.500Z,96052.")
    assert export(recording, target, until=MIDNIGHT) == 5


@pytest.mark.parametrize("target", ["oi.csv", "oi.jsonl", "oi.parquet", "directory"])
def test_a_span_without_data_writes_nothing(
    recording: Recording, tmp_path: Path, target: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert export(recording, tmp_path / target, until=BEGIN.replace(year=2025)) == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_target_that_cannot_be_written_is_one_clear_error(
    recording: Recording, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecordingError, match=r"oi\.csv cannot be written: Not a directory"):
        export(recording, tmp_path / "file" / "oi.csv")
    with pytest.raises(RecordingError, match="cannot be written: No such file or directory"):
        export(recording, tmp_path / "nowhere" / "oi.csv")
    with pytest.raises(RecordingError, match=r"a file's name ends in \.parquet, \.csv, \.jsonl"):
        export(recording, tmp_path / "file")


def test_an_export_that_is_interrupted_leaves_what_was_there(
    recording: Recording, tmp_path: Path
) -> None:
    target = tmp_path / "oi.csv"
    target.write_text("before")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(recording, target, on_rows=interrupt)
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_number_that_no_decimal_can_hold_is_refused_and_not_rounded(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from binance_oi.arrow import Batch, record_batch

    exact = Batch(["A"], [0], ["12345678901234567890.123456789012345678"], [0], [None])
    table = pa.Table.from_batches([record_batch(exact)])
    assert table["open_interest"][0].as_py() == Decimal(exact.open_interest[0])
    for text in ("0.1234567890123456789", "123456789012345678901"):
        with pytest.raises(pa.ArrowInvalid):
            record_batch(Batch(["A"], [0], [text], [0], [None]))


def test_text_needs_no_extra(recording: Recording, tmp_path: Path) -> None:
    source = (
        "import sys; sys.modules.update(dict.fromkeys(['pyarrow', 'cyclopts', 'rich']))\n"
        "from binance_oi.recorder import Recording\n"
        "from binance_oi.export import export\n"
        f"print(export(Recording({str(recording.path)!r}), {str(tmp_path / 'oi.csv')!r}))"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("8\n", "")
