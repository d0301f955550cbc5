"""An export writes what the exchange wrote, and removes no row of the target unless asked to."""

import asyncio
import csv
import json
import logging
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Context, Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies

from binance_oi import OpenInterest, OpenInterestClient, ProcessBudget, RecordingError
from binance_oi.market.rows import Row
from binance_oi.output.export import CSV_HEADER, Merged, export
from binance_oi.recorder import Recorder, Recording
from binance_oi.recorder.connection import Connection
from binance_oi.recorder.samples import ROWS_PER_BATCH, Samples
from binance_oi.recorder.store import Store
from binance_oi.times import iso_ms
from support.lanes import some, thorough
from support.raw_exchange import RawExchange, answer
from support.recorded import BEGIN, VALUES, sweep, write_recording
from support.virtual_clock import wall_time

MIDNIGHT = datetime(2026, 11, 24, tzinfo=UTC)


# Numbers as on the wire, in different shapes that a decimal(38, 18) can hold.
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
        (symbol, iso_ms(time), value, iso_ms(received), mark)
        for symbol, time, value, received, mark in recording.samples().rows()
    ]


async def record_from_the_wire(path: Path) -> None:
    """Record one sweep of a server that answers with the numbers of `ON_THE_WIRE`."""
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
async def test_every_number_is_exported_as_the_exchange_wrote_it(tmp_path: Path) -> None:
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


def test_parquet_by_day_is_sorted_and_exact(recording: Recording, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    reported: list[int] = []
    assert export(recording, tmp_path / "out", on_rows=reported.append) == sum(reported) == 8
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.parquet"))
    days = ("2026-11-23", "2026-11-24")
    assert files == [f"out/date={day}/open_interest.parquet" for day in days]
    rows: list[tuple[object, ...]] = []
    for name in files:
        table = pq.ParquetFile(tmp_path / name).read()
        part = list(zip(*table.drop_columns(["notional"]).to_pydict().values(), strict=True))
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


def test_a_single_parquet_file_can_hold_every_row(recording: Recording, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    assert export(recording, tmp_path / "oi.parquet") == 8
    table = pq.read_table(tmp_path / "oi.parquet")
    assert set(table["symbol"].to_pylist()) == set(VALUES)


def test_symbols_and_a_time_range_select_the_samples(recording: Recording, tmp_path: Path) -> None:
    target = tmp_path / "oi.csv"
    assert export(recording, target, symbols=["BTCUSDT"], since=MIDNIGHT) == 1
    assert target.read_text().splitlines()[1].startswith("BTCUSDT,2026-11-24T00:01:57.500Z,96052.")
    assert export(recording, target, until=MIDNIGHT) == 5


@pytest.mark.parametrize("target", ["oi.csv", "oi.jsonl", "oi.parquet", "directory"])
def test_a_time_range_without_data_writes_nothing(
    recording: Recording, tmp_path: Path, target: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert export(recording, tmp_path / target, until=BEGIN.replace(year=2025)) == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_target_that_cannot_be_written_raises_recording_error(
    recording: Recording, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecordingError, match=r"oi\.csv cannot be written: Not a directory"):
        export(recording, tmp_path / "file" / "oi.csv")
    with pytest.raises(RecordingError, match="cannot be written: No such file or directory"):
        export(recording, tmp_path / "nowhere" / "oi.csv")
    with pytest.raises(
        RecordingError, match=r"a file's name must end in one of \.parquet, \.csv, \.jsonl"
    ):
        export(recording, tmp_path / "file")


def test_an_interrupted_export_keeps_the_old_file(recording: Recording, tmp_path: Path) -> None:
    target = tmp_path / "oi.csv"

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    for before in ("", CSV_HEADER, "of another program"):
        target.write_text(before)
        with pytest.raises(KeyboardInterrupt):
            export(recording, target, replace=before not in ("", CSV_HEADER), on_rows=interrupt)
        assert target.read_text() == before
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_text_export_works_without_any_extra(recording: Recording, tmp_path: Path) -> None:
    source = (
        "import sys; sys.modules.update(dict.fromkeys(['pyarrow', 'cyclopts', 'rich']))\n"
        "from binance_oi.recorder import Recording\n"
        "from binance_oi.output.export import export\n"
        f"print(export(Recording({str(recording.path)!r}), {str(tmp_path / 'oi.csv')!r}))"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("8\n", "")


EXACTLY = Context(prec=120)
FORMS = ["days", "oi.parquet", "oi.csv", "oi.jsonl"]
EARLY: dict[str, Any] = {"until": MIDNIGHT}
LATE: dict[str, Any] = {"since": MIDNIGHT}
BITCOIN: dict[str, Any] = {"symbols": ["BTCUSDT"]}
OTHERS: dict[str, Any] = {"symbols": ["1000SHIBUSDT", "币安人生USDT"]}
Found = tuple[Any, ...]


def files(target: Path) -> list[Path]:
    return [target] if target.is_file() else sorted(target.rglob("*.parquet"))


def rows(target: Path) -> list[Found]:
    """Every row of a target, in the order of its files."""
    return [row for file in files(target) for row in rows_of(file)]


def rows_of(file: Path) -> list[Found]:
    if file.suffix == ".parquet":
        table = pytest.importorskip("pyarrow.parquet").ParquetFile(file).read().to_pylist()
        for row in table:
            price = row["mark_price"]
            product = None if price is None else EXACTLY.multiply(row["open_interest"], price)
            assert row.pop("notional", product) == product
        return [tuple(at(v) if isinstance(v, datetime) else v for v in r.values()) for r in table]
    with file.open(encoding="utf-8", newline="") as opened:
        found = csv.DictReader(opened) if file.suffix == ".csv" else map(json.loads, opened)
        return [
            (
                *(row["symbol"], row["time"], Decimal(row["open_interest"]), row["received"]),
                Decimal(row["mark_price"]) if row["mark_price"] else None,
            )
            for row in found
        ]


def ms_of(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def at(moment: datetime) -> str:
    return iso_ms(round(moment.timestamp() * 1000))


def is_sorted(target: Path) -> bool:
    return all(
        [row[:2] for row in rows_of(file)] == sorted({row[:2] for row in rows_of(file)})
        for file in files(target)
    )


def state(target: Path) -> list[tuple[Path, int, int, bytes]]:
    found = [(file, file.stat()) for file in files(target)]
    return [(file, s.st_ino, s.st_mtime_ns, file.read_bytes()) for file, s in found]


@pytest.fixture(params=FORMS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if "parquet" in request.param or request.param == "days":
        pytest.importorskip("pyarrow")
    return tmp_path / str(request.param)


@pytest.mark.parametrize(
    "selection", some([EARLY, LATE, BITCOIN, OTHERS, {}, {**BITCOIN, **LATE}], always=1)
)
@pytest.mark.parametrize("new", [False, *thorough(True)])
def test_a_second_export_of_a_part_changes_no_file(
    recording: Recording, target: Path, selection: dict[str, Any], new: bool
) -> None:
    assert export(recording, target) == 8
    before = state(target)
    reported: list[int] = []
    assert export(recording, target, **selection, new=new, on_rows=reported.append) == 0
    assert state(target) == before
    assert sum(reported) == len(list(recording.samples(**selection)))


@pytest.mark.parametrize(
    "first, second", [(EARLY, LATE), *thorough((LATE, EARLY), (BITCOIN, OTHERS))]
)
@pytest.mark.parametrize("third", [{}, *thorough(BITCOIN)])
def test_exports_of_parts_together_equal_one_export_of_everything(
    recording: Recording,
    target: Path,
    tmp_path: Path,
    first: dict[str, Any],
    second: dict[str, Any],
    third: dict[str, Any],
) -> None:
    whole = tmp_path / "at once" / target.name
    whole.parent.mkdir()
    export(recording, whole)
    added = [export(recording, target, **part) for part in (first, second, third)]
    assert (sum(added), added[2]) == (8, 0)
    assert rows(target) == rows(whole)
    assert is_sorted(target)
    if target.suffix in (".csv", ".jsonl"):
        assert target.read_bytes() == whole.read_bytes()


def other_recording(path: Path) -> Path:
    """Write another recording: its sweep of minute 0 is later, and has AUSDT instead of BTCUSDT."""
    seen = sweep(0)
    values = {s: v for s, v in seen.items() if s != "BTCUSDT"}
    values["AUSDT"] = OpenInterest("AUSDT", Decimal("0.5"), values["1000SHIBUSDT"].time)
    later = dict.fromkeys(values, max(seen.received_ms.values()) + 1)
    with closing(Store(path)) as store:
        only = replace(seen, values_by_symbol=values, received_ms=later, mark_prices={})
        store.save(only, [], 60_000)
    return path


def test_rows_that_the_recording_lacks_stay_in_the_target(
    recording: Recording, target: Path, tmp_path: Path
) -> None:
    export(recording, target)
    before = rows(target)
    with Recording(other_recording(tmp_path / "other.db")) as other:
        assert export(other, target) == 1
        assert export(other, target, new=True) == 0
    after = rows(target)
    assert [row for row in after if row in before] == before
    assert [row[0] for row in after if row not in before] == ["AUSDT"]
    assert is_sorted(target)


def test_the_option_replace_removes_rows_only_of_days_with_selected_samples(
    recording: Recording, target: Path
) -> None:
    export(recording, target)
    assert export(recording, target, symbols=["BTCUSDT"], since=MIDNIGHT, replace=True) == 1
    left = rows(target)
    assert [row[0] for row in left if row[1] >= at(MIDNIGHT)] == ["BTCUSDT"]
    assert len(left) == (6 if target.is_dir() else 1)
    assert export(recording, target, until=BEGIN.replace(year=2025), replace=True) == 0
    assert rows(target) == left


def test_the_options_new_and_replace_together_rewrite_only_files_that_lack_samples(
    recording: Recording, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    export(recording, tmp_path / "out")
    with Recording(other_recording(tmp_path / "other.db")) as other:
        export(other, tmp_path / "out")
    first, second = files(tmp_path / "out")
    kept, lost = state(first), state(second)
    assert kept[0][0].parent.name == "date=2026-11-23"
    # Now the second file lacks the samples of its own day.
    export(recording, second, until=MIDNIGHT, replace=True)
    assert export(recording, tmp_path / "out", replace=True, new=True) == 3
    assert state(first) == kept  # it keeps the row of the other recording
    assert len(rows(second)) == 3
    assert state(second) != lost


def test_the_option_new_adds_days_that_are_missing_or_have_grown(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    out, minutes = tmp_path / "out", 60_000
    with closing(Store(tmp_path / "oi.db")) as store, Recording(tmp_path / "oi.db") as recording:
        for number, days in ((0, 1), (1, 1), (4, 2), (5, 2)):
            store.save(sweep(number), [], minutes)
            before = {file: state(file) for file in files(out)}
            assert export(recording, out, new=True) == len(sweep(number))
            assert len(files(out)) == days
            if days == 2 and len(before) == 2:
                assert state(files(out)[0]) == before[files(out)[0]]
        assert rows(out) == rows_by_day(recording)


def rows_by_day(recording: Recording) -> list[Found]:
    found = [
        (s.symbol, iso_ms(s.time), s.open_interest, iso_ms(s.received), s.mark_price)
        for s in recording.samples()
    ]
    return sorted(found, key=lambda row: (row[1][:10], *row[:2]))


INSTANT = "2026-11-23T23:57:57.500Z"


def csv_text(
    symbol: str = "A", time: str = INSTANT, value: str = "1", mark: str = "", end: str = "\n"
) -> str:
    return f"{symbol},{time},{value},{INSTANT},{mark}{end}"


def json_text(
    symbol: str = '"A"', time: str = f'"{INSTANT}"', value: str = '"1"', mark: str = "null"
) -> str:
    return (
        f'{{"symbol": {symbol}, "time": {time}, "open_interest": {value}, '
        f'"received": "{INSTANT}", "mark_price": {mark}}}\n'
    )


BAD = {
    "oi.csv": [
        "before",
        f"symbol,time\nA,{INSTANT}\n",
        *(
            CSV_HEADER + lines
            for lines in (
                csv_text(end=""),
                csv_text(end="\r\n"),
                csv_text(time="2026-11-23 23:57:57.500Z"),
                csv_text(time="2026-11-23T23:57:57.500"),
                csv_text(time="2026-11-23T23:57:57.500+01:00"),
                csv_text(time="yesterday"),
                csv_text(value=""),
                csv_text(value="much"),
                csv_text(value="1e3"),
                csv_text(mark="1,2"),
                csv_text(mark="NaN"),
                csv_text() + "\n",
                "A" * 5000,
                "\udcff\n",
                csv_text("B") + csv_text("A"),
                csv_text(time=INSTANT) + csv_text(time=INSTANT.replace("57:57", "57:56")),
            )
        ),
    ],
    "oi.jsonl": [
        "before",
        "{}\n",
        "[1, 2, 3, 4, 5]\n",
        "[" * 4000 + "\n",
        json_text(symbol="5"),
        json_text(time="5"),
        json_text(value="1"),
        json_text(value="null"),
        json_text(mark="1"),
        json_text().rstrip("\n"),
        json_text().replace(" ", ""),
        json_text('"B"') + json_text('"A"'),
    ],
}


@pytest.mark.parametrize(
    "name, content",
    some([(name, text) for name, contents in BAD.items() for text in contents], always=10),
)
@pytest.mark.parametrize("new", [False, *thorough(True)])
def test_a_text_file_of_another_program_is_refused_and_unchanged(
    recording: Recording, tmp_path: Path, name: str, content: str, new: bool
) -> None:
    target = tmp_path / name
    target.write_bytes(content.encode(errors="surrogateescape"))
    before = state(target)
    with pytest.raises(RecordingError, match=r"cannot add to .*: "):
        export(recording, target, new=new)
    assert state(target) == before
    assert [path.name for path in tmp_path.glob(".*")] == []
    assert export(recording, target, replace=True, new=new) == 8


@pytest.mark.parametrize("name", ["oi.csv", "oi.jsonl"])
def test_an_empty_text_file_is_replaced(recording: Recording, tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()  # as `mktemp` does
    assert export(recording, tmp_path / name) == 8


def bad_parquet(kind: str, path: Path) -> None:
    """Turn the file at `path` into one that cannot be added to."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table, content = pq.ParquetFile(path).read(), path.read_bytes()
    if kind == "no Parquet":
        path.write_bytes(b"before")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "broken inside":
        path.write_bytes(content[:4] + b"\xff" * 200 + content[204:])
    elif kind == "a column more":
        pq.write_table(table.append_column("note", pa.array(["x"] * len(table))), path)
    elif kind == "a column less":
        pq.write_table(table.drop_columns(["received"]), path)
    elif kind == "another order of columns":
        pq.write_table(table.select(table.column_names[::-1]), path)
    elif kind == "no decimals":
        values = table["open_interest"].cast("float64")
        pq.write_table(table.set_column(2, "open_interest", values), path)
    elif kind == "no times":
        pq.write_table(table.set_column(1, "time", table["time"].cast("int64")), path)
    elif kind == "times without a zone":
        times = table["time"].cast(pa.timestamp("ms"))
        pq.write_table(table.set_column(1, "time", times), path)
    elif kind == "finer times":
        times = pa.array([1] * len(table), pa.timestamp("us", tz="UTC"))
        pq.write_table(table.set_column(1, "time", times), path)
    elif kind == "a hole":
        pq.write_table(table.set_column(0, "symbol", pa.array([None] * len(table), "str")), path)
    else:
        pq.write_table(table.sort_by([("time", "descending"), ("symbol", "descending")]), path)


@pytest.mark.parametrize(
    "kind",
    [
        *("no Parquet", "broken inside", "a column less", "finer times", "not sorted"),
        *thorough("empty", "cut off", "a column more"),
        *thorough(
            "another order of columns",
            "no decimals",
            "no times",
            "times without a zone",
            "a hole",
        ),
    ],
)
@pytest.mark.parametrize("name", ["days", *thorough("oi.parquet")])
def test_a_parquet_file_that_cannot_be_added_to_is_refused_and_unchanged(
    recording: Recording, tmp_path: Path, kind: str, name: str
) -> None:
    pytest.importorskip("pyarrow")
    target = tmp_path / name
    export(recording, target)
    bad_parquet(kind, files(target)[-1])
    before = state(target)
    for selection in (EARLY, LATE, {}):
        if selection is EARLY and name == "days":
            continue  # the damaged file is that of the later day
        with pytest.raises(RecordingError, match=r"cannot add to .*parquet: .*; replace the file"):
            export(recording, target, **selection)
    assert state(target) == before
    assert [path.name for path in tmp_path.rglob(".*")] == []
    assert export(recording, target, replace=True, new=True) in (3, 8)
    assert sorted(rows(target)) == sorted(rows_by_day(recording))


def test_an_unreadable_day_stops_an_export_before_any_change(
    recording: Recording, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    export(recording, tmp_path / "out", symbols=["BTCUSDT"])
    files(tmp_path / "out")[1].write_bytes(b"broken")
    before = state(tmp_path / "out")
    with pytest.raises(RecordingError, match=r"date=2026-11-24/open_interest\.parquet"):
        export(recording, tmp_path / "out")
    assert state(tmp_path / "out") == before


def test_an_export_adds_to_another_programs_parquet_with_the_same_columns(
    recording: Recording, tmp_path: Path
) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    target = tmp_path / "oi.parquet"
    export(recording, target, until=MIDNIGHT)
    table = pq.read_table(target)
    kinds = {"symbol": pa.large_string(), "time": pa.timestamp("us", tz="UTC")}
    fields = [pa.field(f.name, kinds.get(f.name, f.type)) for f in table.schema]
    pq.write_table(table.cast(pa.schema(fields)), target)
    assert export(recording, target) == 3
    assert sorted(rows(target)) == sorted(rows_by_day(recording))


def insert(file: Path, *rows: tuple[str, int, str, str | None]) -> None:
    """Insert samples into a recording, even samples that a recorder would not write."""
    with closing(sqlite3.connect(file, factory=Connection)) as connection, connection:
        connection.executemany("INSERT INTO settled VALUES (?1, ?2, ?3, ?2, ?4)", rows)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


# ms: a clock that was never set, seconds instead of ms, the second day of 1970, the last instant
# before 2020, the first one of 2100, and the latest `datetime`.
WRONG_DATES = [
    1,
    1_795_435_200,
    86_400_000,
    1_577_836_799_999,
    4_102_444_800_000,
    253_402_300_799_999,
]


@pytest.mark.parametrize("name", ["days", "oi.parquet", "oi.csv", "oi.jsonl"])
@pytest.mark.parametrize("wrong", some(WRONG_DATES, always=3))
def test_an_export_omits_only_samples_of_impossible_dates(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wrong: int,
    name: str,
) -> None:
    if name not in ("oi.csv", "oi.jsonl"):
        pytest.importorskip("pyarrow")
    file = write_recording(tmp_path / "oi.db")
    with Recording(file) as recording:
        expected = rows_by_day(recording)
    insert(file, ("BTCUSDT", wrong, "1.5", None))
    spans, asked = Samples.span, list[tuple[int, int]]()

    def span(samples: Samples) -> tuple[int, int] | None:
        asked.append((samples.since, samples.until))
        assert len(asked) < 100
        return spans(samples)

    monkeypatch.setattr(Samples, "span", span)
    with Recording(file) as recording:
        assert export(recording, tmp_path / name) == 8
        assert export(recording, tmp_path / name, new=True) == 0
    assert sorted(rows(tmp_path / name)) == sorted(expected)
    if name == "days":
        days = sorted(day.name for day in (tmp_path / name).iterdir())
        assert days == ["date=2026-11-23", "date=2026-11-24"]
    first, second = warned(caplog)
    assert (
        first == second == f"{file}: odd rows are left out: BTCUSDT of {iso_ms(wrong)} (its date)"
    )


def test_the_first_of_many_wrong_dates_are_named_and_the_rest_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_recording(tmp_path / "oi.db")
    insert(file, *(("BTCUSDT", 1000 + number, "1.5", None) for number in range(5000)))
    with Recording(file) as recording:
        assert export(recording, tmp_path / "oi.csv", symbols=["1000SHIBUSDT"]) == 3
        assert warned(caplog) == []
        assert export(recording, tmp_path / "oi.csv") == 5
    (warning,) = warned(caplog)
    assert warning.count("BTCUSDT of 1970-01-01T00:00:01.00") == 3
    assert warning.endswith(", and 4997 more")


def test_all_possible_dates_are_exported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write_recording(tmp_path / "oi.db")
    ends = (1_577_836_800_000, 4_102_444_799_999)  # the start of 2020 and the end of 2099
    insert(file, *(("BTCUSDT", time, "1.5", None) for time in ends))
    with Recording(file) as recording:
        assert export(recording, tmp_path / "oi.csv") == 10
    assert warned(caplog) == []


# -- numbers of Parquet ------------------------------------------------------------------------

TOO_LONG = ["123456789012345678901", "0.1234567890123456789", "9" * 30, "0." + "0" * 29 + "1"]
LONG = ["12345678901234567890.123456789012345678", "0." + "0" * 17 + "1", "99999999999999999999"]
PADDED = ["1.500000000000000000000000000000", "0" * 29 + "1.5", "0" * 20 + "12345678.25" + "0" * 28]


def numbers_of(file: Path, column: str = "open_interest") -> dict[str, Decimal]:
    table = pytest.importorskip("pyarrow.parquet").ParquetFile(file).read().to_pylist()
    return {row["symbol"]: row[column] for row in table if row["symbol"].startswith("N")}


@pytest.mark.parametrize("name", ["days", "oi.parquet"])
def test_a_number_that_fits_no_decimal_is_omitted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    pytest.importorskip("pyarrow")
    file, time = write_recording(tmp_path / "oi.db"), ms_of(MIDNIGHT)
    rows = [(f"N{n}", time, text, None) for n, text in enumerate([*LONG, *PADDED, *TOO_LONG])]
    insert(file, *rows, ("NPRICE", time, "1.5", TOO_LONG[0]))
    with Recording(file) as recording:
        assert export(recording, tmp_path / name) == 8 + 6
        before = state(tmp_path / name)
        assert export(recording, tmp_path / name) == export(recording, tmp_path / name) == 0
        assert state(tmp_path / name) == before
    written = files(tmp_path / name)[-1]
    assert list(numbers_of(written).values()) == list(map(Decimal, [*LONG, *PADDED]))
    assert len(set(warned(caplog))) == 1
    warning = warned(caplog)[0]
    assert warning.startswith(f"{written}: odd rows are left out: N6 of 2026-11-24T00:00:00.000Z (")
    assert warning.endswith(", and 2 more")


@pytest.mark.parametrize("text", TOO_LONG)
def test_text_files_hold_numbers_of_any_length(tmp_path: Path, text: str) -> None:
    file = write_recording(tmp_path / "oi.db")
    insert(file, ("N", ms_of(MIDNIGHT), text, text))
    with Recording(file) as recording:
        assert export(recording, tmp_path / "oi.csv") == 9
    assert f",{text},2026-11-24T00:00:00.000Z,{text}\n" in (tmp_path / "oi.csv").read_text()


def types_of(file: Path) -> list[str]:
    schema = pytest.importorskip("pyarrow.parquet").read_schema(file)
    return [
        str(field.type).removeprefix("decimal128") for field in schema if "dec" in str(field.type)
    ]


@pytest.mark.parametrize(
    "value, price, types",
    [
        ("1.5", None, ["(22, 8)", "(15, 8)"]),
        ("12345678901234.12345678", "1234567.12345678", ["(22, 8)", "(15, 8)", "(38, 16)"]),
        ("123456789012345", None, ["(38, 8)", "(15, 8)"]),
        ("0.123456789", "1.5", ["(38, 9)", "(15, 8)", "(38, 17)"]),
        ("1.5", "12345678.9", ["(22, 8)", "(38, 8)", "(38, 16)"]),
        ("0." + "0" * 17 + "1", "1000000000000", ["(38, 18)", "(38, 8)", "(38, 18)"]),
    ],
)
def test_a_column_has_the_smallest_scale_that_holds_its_numbers(
    tmp_path: Path, value: str, price: str | None, types: list[str]
) -> None:
    pytest.importorskip("pyarrow")
    file = write_recording(tmp_path / "oi.db")
    insert(file, ("N", ms_of(MIDNIGHT), value, price))
    with Recording(file) as recording:
        export(recording, tmp_path / "oi.parquet", symbols=["N"])
        assert types_of(tmp_path / "oi.parquet") == types
        assert numbers_of(tmp_path / "oi.parquet") == {"N": Decimal(value)}
        # Existing rows stay, and get wider columns.
        export(recording, tmp_path / "more.parquet", symbols=["BTCUSDT"])
        assert export(recording, tmp_path / "more.parquet", symbols=["N"]) == 1
        wider = [*types[:2], types[2] if price else "(38, 16)"]
        if price is None and value.startswith("123"):
            wider = ["(38, 8)", "(15, 8)", "(38, 16)"]
        assert types_of(tmp_path / "more.parquet") == wider
        assert len(rows_of(tmp_path / "more.parquet")) == 3
        assert export(recording, tmp_path / "more.parquet") == 6


def test_usual_numbers_can_be_multiplied_and_the_notional_is_their_product(
    recording: Recording, tmp_path: Path
) -> None:
    pq, pc = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow.compute")
    export(recording, tmp_path / "oi.parquet")
    table = pq.read_table(tmp_path / "oi.parquet")
    product = pc.multiply(table["open_interest"], table["mark_price"])
    assert product.to_pylist() == table["notional"].to_pylist()
    assert table["notional"].null_count == 6
    assert table["notional"].cast("float64").to_pylist()[3] == pytest.approx(
        6338032285.35, rel=1e-9
    )


def test_a_notional_that_fits_no_decimal_is_null_and_its_row_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("pyarrow")
    file, time = write_recording(tmp_path / "oi.db"), ms_of(MIDNIGHT)
    insert(
        file,
        ("N1", time, "0." + "0" * 17 + "1", "0.1"),
        ("N2", time, "1" + "0" * 19, "10.5"),
        ("N3", time, "2.5", "0.000000001"),
    )
    with Recording(file) as recording:
        assert export(recording, tmp_path / "oi.parquet") == 11
    found = numbers_of(tmp_path / "oi.parquet", "notional")
    assert found == {"N1": None, "N2": None, "N3": Decimal("0.0000000025")}
    (warning,) = warned(caplog)
    assert "odd rows have no notional: N1 of 2026-11-24T00:00:00.000Z (it has 0 digits" in warning
    assert "N2 of" in warning


def test_without_mark_prices_there_is_no_notional(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    with Recording(write_recording(tmp_path / "oi.db")) as recording:
        export(recording, tmp_path / "oi.parquet", symbols=["1000SHIBUSDT"])
        assert "notional" not in pq.read_schema(tmp_path / "oi.parquet").names
        assert export(recording, tmp_path / "oi.parquet") == 5
        assert "notional" in pq.read_schema(tmp_path / "oi.parquet").names
        export(recording, tmp_path / "days")
        for day in files(tmp_path / "days"):  # the files of one export have the same columns
            assert pq.read_schema(day) == pq.read_schema(tmp_path / "oi.parquet")


def test_an_older_file_is_added_to_and_gets_the_current_columns(
    recording: Recording, tmp_path: Path
) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    target = tmp_path / "oi.parquet"
    export(recording, target, until=MIDNIGHT)
    table = pq.read_table(target).drop_columns(["notional"])
    for name in ("open_interest", "mark_price"):
        at = table.column_names.index(name)
        table = table.set_column(at, name, table[name].cast(pa.decimal128(38, 18)))
    pq.write_table(table, target)
    assert export(recording, target, until=MIDNIGHT) == 0
    assert export(recording, target) == 3
    assert sorted(rows(target)) == sorted(rows_by_day(recording))
    assert types_of(target) == ["(22, 8)", "(15, 8)", "(38, 16)"]


def test_no_directory_is_left_for_a_day_that_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("pyarrow")
    seen = sweep(0)
    value = OpenInterest("BTCUSDT", Decimal("0.1234567890123456789"), seen["BTCUSDT"].time)
    with closing(Store(tmp_path / "oi.db")) as store:
        store.save(replace(seen, values_by_symbol={"BTCUSDT": value}), [], 60_000)
    (tmp_path / "there").mkdir()
    with Recording(tmp_path / "oi.db") as recording:
        for target in (tmp_path / "there", tmp_path / "new" / "out"):
            assert export(recording, target) == 0
    assert len(warned(caplog)) == 2
    assert list((tmp_path / "there").iterdir()) == []
    assert not (tmp_path / "new").exists()


def test_two_exports_at_the_same_time_lose_no_row(recording: Recording, target: Path) -> None:
    others: list[int] = []

    def meanwhile(_: int) -> None:
        """Let another program add to the file or create it during our write."""
        if not others:
            others.append(0)
            others[0] = export(recording, target, **OTHERS)

    assert export(recording, target, **BITCOIN, on_rows=meanwhile) == 2
    assert others == [6]
    assert sorted(rows(target)) == sorted(rows_by_day(recording))


def test_an_export_gives_up_when_others_replace_its_file_again_and_again(
    recording: Recording, tmp_path: Path
) -> None:
    target = tmp_path / "oi.csv"

    def replace_it(_: int) -> None:
        target.unlink(missing_ok=True)
        target.write_text(CSV_HEADER)

    with pytest.raises(RecordingError, match="other programs replace it all the time"):
        export(recording, target, on_rows=replace_it)
    assert target.read_text() == CSV_HEADER


KEYS = strategies.tuples(strategies.sampled_from("AB"), strategies.integers(0, 9))
ROWS = strategies.dictionaries(KEYS, strategies.sampled_from(["1", "2"]))


@given(kept=ROWS, found=ROWS)
def test_merged_rows_are_sorted_and_the_row_of_the_file_is_kept(
    kept: dict[tuple[str, int], str], found: dict[tuple[str, int], str]
) -> None:
    def by_key(values: dict[tuple[str, int], str]) -> list[Row]:
        return [(*key, value, 0, None) for key, value in sorted(values.items())]

    merged = Merged(by_key(kept), by_key(found))
    assert list(merged) == by_key(found | kept)
    assert (merged.read, merged.added) == (len(found), len(found.keys() - kept.keys()))


def test_a_row_that_the_recording_has_twice_is_written_once() -> None:
    row: Row = ("A", 1, "1", 2, None)
    assert list(Merged([], [row, row])) == [row]
    assert list(Merged([row], [row, row])) == [row]


def test_merging_keeps_no_more_rows_than_one_batch() -> None:
    def endless(step: int) -> Iterator[Row]:
        return (("A", time, "1", time, None) for time in count(0, step))

    batches = Merged(endless(2), endless(3)).batches(lambda _: None)
    first, second = next(batches), next(batches)
    assert len(first.time) == len(second.time) == ROWS_PER_BATCH
    assert first.time[:5] == [0, 2, 3, 4, 6]


FORMULA, ORDINARY = "=1+1", "BTCUSDT"


def record_names(path: Path, number: int, *names: str) -> None:
    """Record a sweep of minute `number` with these names of symbols."""
    market = sweep(number)
    values = {n: OpenInterest(n, Decimal(7), market[ORDINARY].time) for n in names}
    with closing(Store(path)) as store:
        store.save(replace(market, values_by_symbol=values, errors={}), [], 60_000)


def cells(path: Path) -> list[str]:
    """The cells of a CSV file, without those of its header."""
    with path.open(encoding="utf-8", newline="") as file:
        return [cell for row in list(csv.reader(file))[1:] for cell in row]


def test_safe_csv_has_no_cell_that_a_spreadsheet_runs_and_can_be_added_to(tmp_path: Path) -> None:
    path, target = tmp_path / "oi.db", tmp_path / "oi.csv"
    names = (FORMULA, "+1", "-1", "@x", "'=1", "＝1", ORDINARY)
    for number in (0, 4):
        record_names(path, number, *names)
        with Recording(path) as recording:
            assert export(recording, target, csv_safe=True) == len(names)
            assert export(recording, target, csv_safe=True) == 0  # the file has all rows
    found = cells(target)
    assert not [cell for cell in found if cell.startswith(tuple("=+-@＝"))]
    symbols = {cell.removeprefix("'") for cell in found[::5]}
    assert symbols == {*names}
    assert found.count("'" + FORMULA) == 2
    assert ORDINARY in found


def test_csv_has_the_values_of_the_exchange_unless_safe_csv_is_requested(tmp_path: Path) -> None:
    path = tmp_path / "oi.db"
    record_names(path, 0, FORMULA)
    with Recording(path) as recording:
        export(recording, tmp_path / "plain.csv")
        export(recording, tmp_path / "oi.jsonl", csv_safe=True)
    assert cells(tmp_path / "plain.csv")[0] == FORMULA
    assert json.loads((tmp_path / "oi.jsonl").read_text())["symbol"] == FORMULA


@pytest.mark.parametrize("safe_first", [True, False])
def test_an_export_is_refused_if_the_file_has_its_cells_in_the_other_form(
    safe_first: bool, tmp_path: Path
) -> None:
    path, target = tmp_path / "oi.db", tmp_path / "oi.csv"
    record_names(path, 0, FORMULA)
    with Recording(path) as recording:
        export(recording, target, csv_safe=safe_first)
        before = target.read_bytes()
        why = "csv_safe, which is not set" if safe_first else "as an export writes it"
        with pytest.raises(RecordingError, match=f"cannot add to .*: line 2: .* {why}"):
            export(recording, target, csv_safe=not safe_first)
        assert target.read_bytes() == before
        assert export(recording, target, csv_safe=not safe_first, replace=True) == 1
    assert target.read_bytes() != before
