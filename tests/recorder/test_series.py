"""A series equals the rows that a plain loop, and also polars, compute from its rule.

The rule: an instant gets the last sample that is at most one step old. If it has none, it gets its
row of history, and if it has no such row either, its row of the archive.

Rule of this file: a case is one symbol with its own samples, history and archive. A sample is in
one table of the recording, or in both. Tests compute the expected rows from the rule alone.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from binance_oi import ChangeTracker, RecordingError, changes_of
from binance_oi.market import Change, Point
from binance_oi.market.changes import LATE_MS
from binance_oi.recorder import Recording, Series, samples
from binance_oi.recorder import series as series_module
from binance_oi.recorder.connection import Connection
from support.lanes import thorough
from support.recorded import VALUES, write_recording

ROW = 300_000  # ms from row to row of history
BEGIN = 1_795_003_200_000  # ms; a midnight
CASES = int(os.environ.get("BINANCE_OI_SERIES", "300"))  # `nox -s series` has 10,000
OF_ONE_FILE = 100  # cases in one recording
STEPS = (1, 1, 1, 2, 3, 12)  # from row to row of a series, in steps of history

Sampled = tuple[int, str, str | None]


class Case(NamedTuple):
    """The rows of one symbol in a recording, and the requested series."""

    symbol: str
    settled: Mapping[int, Sampled]
    recent: Mapping[int, Sampled]
    past: Mapping[tuple[int, int], tuple[str, str | None, str | None]]
    step: int
    since: int | None
    until: int | None

    @property
    def samples(self) -> dict[int, Sampled]:
        return {**self.recent, **self.settled}


def a_case(draw: Random, symbol: str) -> Case:
    step, span = draw.choice(STEPS) * ROW, draw.choice([3, 12, 40]) * ROW

    def time() -> int:
        near = BEGIN + draw.randrange(0, span + ROW, ROW if draw.random() < 0.5 else step)
        return near + draw.choice([0, 0, 1, -1, 2500, draw.randrange(-step, step)])

    def sample() -> Sampled:
        price = None if draw.random() < 0.4 else f"{draw.randrange(10**6)}.{draw.randrange(100):02}"
        return time(), f"{draw.randrange(10**7)}.{draw.randrange(1000):03}", price

    def amount() -> str | None:
        return None if draw.random() < 0.3 else f"{draw.randrange(10**9)}.50000000"

    samples = [sample() for _ in range(draw.choice([0, 1, 5, 40]))]
    past = {
        (BEGIN + draw.randrange(0, span + ROW, ROW), draw.choice([1, 2])): (
            f"{draw.randrange(10**7)}.00000000",
            amount(),
            amount(),
        )
        for _ in range(draw.choice([0, 1, 5, 40]))
    }
    tables = dict[int, Sampled](), dict[int, Sampled]()
    for each in samples:
        for table in draw.choice([tables[:1], tables[1:], tables]):
            table[each[0]] = each
    ends = sorted(draw.choice([None, time()]) or BEGIN + draw.randrange(span) for _ in range(2))
    since, until = (end if draw.random() < 0.7 else None for end in ends)
    return Case(symbol, *tables, past, step, since, until)


def write_cases(path: Path, cases: Sequence[Case]) -> None:
    """Write a recording with these cases only."""
    write_recording(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        for name in ("settled", "recent"):
            connection.execute(f"DELETE FROM {name}")
            rows = [
                (case.symbol, time, value, time + 125, price)
                for case in cases
                for time, value, price in getattr(case, name).values()
            ]
            connection.executemany(f"INSERT INTO {name} VALUES (?, ?, ?, ?, ?)", rows)
        past = [(case.symbol, *key, *row) for case in cases for key, row in case.past.items()]
        connection.executemany("INSERT INTO past VALUES (?, ?, ?, ?, ?, ?)", past)


def case_files(count: int, directory: Path) -> Iterator[tuple[Path, list[Case]]]:
    for number in range(-(-count // OF_ONE_FILE)):
        draw = Random(number)
        cases = [a_case(draw, f"S{i:03}USDT") for i in range(min(OF_ONE_FILE, count))]
        path = directory / f"{number}.db"
        write_cases(path, [case for case in cases if case.samples or case.past])
        yield path, [case for case in cases if case.samples or case.past]
        path.unlink()


def moment(ms: int | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)


def asked(recording: Recording, case: Case) -> Series:
    return recording.series(
        [case.symbol], step=case.step, since=moment(case.since), until=moment(case.until)
    )


def product(value: str, price: str | None) -> Decimal | None:
    return None if price is None else Decimal(value) * Decimal(price)


def number(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def instants(case: Case) -> range:
    """Every instant at which the case may have a row."""
    known = [*case.samples, *(time for time, _ in case.past)]
    first = min(known) if case.since is None else case.since
    end = max(known) + case.step + 1 if case.until is None else case.until
    return range(-(-first // case.step) * case.step, end, case.step)


def by_brute_force(case: Case) -> list[Point]:
    """Compute the rows by the rule, with a loop over all rows for each instant."""
    found: list[Point] = []
    for at in instants(case):
        near = [each for time, each in case.samples.items() if at - case.step <= time <= at]
        if near:
            _, value, price = max(near)
            notional = product(value, price)
            found.append(Point(case.symbol, at, Decimal(value), notional, None, "sample"))
            continue
        for source, name in ((1, "history"), (2, "archive")):
            if (at, source) in case.past:
                value, notional_text, supply = case.past[at, source]
                amounts = number(notional_text), number(supply)
                found.append(Point(case.symbol, at, Decimal(value), *amounts, name))
                break
    return found


def by_polars(case: Case) -> list[Point]:
    """Compute the rows by the rule, with a join by time."""
    pl: Any = import_module("polars")
    grid = pl.DataFrame({"time": list(instants(case))}, schema={"time": pl.Int64})
    texts = {"value": pl.String, "amount": pl.String}
    samples = pl.DataFrame(
        sorted(case.samples.values()), schema={"time": pl.Int64} | texts, orient="row"
    ).with_columns(supply=pl.lit(None, pl.String), source=pl.lit("sample"))
    found = grid.join_asof(samples, on="time", strategy="backward", tolerance=case.step)
    names = ("value", "amount", "supply", "source")
    for source, name in ((1, "history"), (2, "archive")):
        rows = [(time, *row, name) for (time, of), row in case.past.items() if of == source]
        schema = {"time": pl.Int64} | dict.fromkeys(names, pl.String)
        past = pl.DataFrame(rows, schema=schema, orient="row")
        has_none = pl.col("source").is_null()
        found = found.join(past, on="time", how="left", suffix="_past").select(
            "time",
            *(
                pl.when(has_none).then(pl.col(f"{each}_past")).otherwise(pl.col(each)).alias(each)
                for each in names
            ),
        )
    rows = found.filter(pl.col("source").is_not_null()).sort("time").iter_rows()
    return [
        Point(
            case.symbol,
            time,
            Decimal(value),
            product(value, amount) if source == "sample" else number(amount),
            number(supply),
            source,
        )
        for time, value, amount, supply, source in rows
    ]


def compare(count: int, directory: Path, expected: Any) -> tuple[int, set[str]]:
    """Check every case; return the number of all rows, and their sources."""
    rows, sources = 0, set[str]()
    for path, cases in case_files(count, directory):
        with Recording(path) as recording:
            for case in cases:
                found = list(asked(recording, case))
                assert found == expected(case), case
                rows += len(found)
                sources |= {point.source for point in found}
    return rows, sources


def test_random_cases_equal_a_brute_force_computation(tmp_path: Path) -> None:
    rows, sources = compare(CASES, tmp_path, by_brute_force)
    assert rows > CASES
    assert sources == {"sample", "history", "archive"}


def test_random_cases_equal_a_polars_computation(tmp_path: Path) -> None:
    pytest.importorskip("polars")
    rows, sources = compare(CASES, tmp_path, by_polars)
    assert rows > CASES
    assert sources == {"sample", "history", "archive"}


def write_one(
    path: Path, samples: Sequence[int] = (), past: Sequence[tuple[int, int]] = ()
) -> Path:
    """Write the symbol X. A value shows the time of a sample, or the source of a past row."""
    settled = {time: (time, str(time), None) for time in samples}
    rows = {(time, of): (f"{of}.5", None, None) for time, of in past}
    write_cases(path, [Case("X", settled, {}, rows, ROW, None, None)])
    return path


def times(series: Series) -> list[tuple[int, str]]:
    return [((point.time - BEGIN) // ROW, point.source) for point in series]


@pytest.mark.parametrize(
    "sample, found",
    [
        (0, [(0, "sample"), (1, "sample")]),
        (1, [(1, "sample")]),
        (ROW - 1, [(1, "sample")]),
        (ROW, [(1, "sample"), (2, "sample")]),
    ],
)
def test_a_sample_is_used_at_instants_up_to_one_step_later(
    sample: int, found: list[tuple[int, str]], tmp_path: Path
) -> None:
    with Recording(write_one(tmp_path / "oi.db", [BEGIN + sample])) as recording:
        assert times(recording.series(["X"])) == found


def test_samples_take_precedence_over_history_and_history_over_the_archive(tmp_path: Path) -> None:
    past = [(BEGIN + n * ROW, of) for n in range(4) for of in (1, 2) if n != 3 or of == 2]
    path = write_one(tmp_path / "oi.db", [BEGIN + 1], [*past, (BEGIN + 9 * ROW, 2)])
    with Recording(path) as recording:
        assert times(recording.series()) == [
            *((0, "history"), (1, "sample"), (2, "history"), (3, "archive"), (9, "archive"))
        ]
        assert times(recording.series(step="15m")) == [
            (0, "history"),
            (3, "sample"),
            (9, "archive"),
        ]


def test_a_range_includes_its_start_and_excludes_its_end(tmp_path: Path) -> None:
    past = [(BEGIN + n * ROW, 1) for n in range(5)]
    with Recording(write_one(tmp_path / "oi.db", past=past)) as recording:
        part = recording.series(since=moment(BEGIN + ROW - 1), until=moment(BEGIN + 3 * ROW))
        assert times(part) == [(1, "history"), (2, "history")]
        assert times(recording.series(until=moment(BEGIN))) == []
        assert recording.series(since=moment(BEGIN + 5 * ROW)).to_columns()["time"] == []


def test_years_without_rows_take_only_a_few_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = list[int]()
    reader = series_module._Reader
    chunk = reader.chunk

    def counted(self: Any, symbol: str, first: int, last: int) -> Any:
        queries.append(first)
        return chunk(self, symbol, first, last)

    monkeypatch.setattr(reader, "chunk", counted)
    path = write_one(tmp_path / "oi.db", [5, BEGIN + 7], [(BEGIN * 100 // ROW * ROW, 2)])
    with Recording(path) as recording:
        found = [point.source for point in recording.series()]
    assert found == ["sample", "sample", "archive"]
    assert len(queries) == 3


def test_the_rows_columns_and_count_of_a_series_agree(tmp_path: Path) -> None:
    path, cases = next(case_files(60, tmp_path))
    with Recording(path) as recording:
        series = recording.series([case.symbol for case in cases], step="10m")
        points = list(series)
        assert series.symbols == tuple(case.symbol for case in cases)
        assert series.count() == len(points) > 100
        columns = series.to_columns()
        assert list(zip(*columns.values(), strict=True)) == [tuple(point) for point in points]
        texts = [
            (s, t, Decimal(v), number(n), number(c), source)
            for s, t, v, n, c, source in series.rows()
        ]
        assert texts == [tuple(point) for point in points]
        assert points == sorted(points, key=lambda point: (point.symbol, point.time))


def test_a_series_is_an_arrow_table_with_exact_decimals(tmp_path: Path) -> None:
    pyarrow: Any = pytest.importorskip("pyarrow")
    path, _ = next(case_files(60, tmp_path))
    with Recording(path) as recording:
        series = recording.series()
        table = pyarrow.table(series)
        columns = series.to_columns()
    kinds = [str(field.type) for field in table.schema]
    assert kinds == [
        *("string", "timestamp[ms, tz=UTC]", "decimal128(22, 8)", "decimal128(38, 16)"),
        *("decimal128(24, 8)", "string"),
    ]
    assert table["time"].cast("int64").to_pylist() == columns["time"]
    for name in ("symbol", "open_interest", "notional", "circulating_supply", "source"):
        assert table[name].to_pylist() == columns[name]


def test_a_row_that_fits_no_decimal_is_omitted_from_arrow_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pyarrow: Any = pytest.importorskip("pyarrow")
    rows = {
        (BEGIN, 1): ("1" * 21, None, None),
        (BEGIN + ROW, 2): ("0." + "0" * 17 + "1", None, None),
    }
    write_cases(tmp_path / "oi.db", [Case("X", {}, {}, rows, ROW, None, None)])
    with Recording(tmp_path / "oi.db") as recording:
        table = pyarrow.table(recording.series())
    assert table["open_interest"].to_pylist() == [Decimal("1E-18")]
    assert ["rows are left out: X of" in record.getMessage() for record in caplog.records] == [True]


def test_impossible_arguments_of_a_series_are_refused(tmp_path: Path) -> None:
    with Recording(write_one(tmp_path / "oi.db", [BEGIN])) as recording:
        with pytest.raises(RecordingError, match="has no ETHUSDT, Y"):
            recording.series(["Y", "x", "ETHUSDT"])
        for step in ("7m", "0m", "5", "", 0, -ROW, ROW + 1):
            with pytest.raises(ValueError, match="step must be"):
                recording.series(step=step)
        for kind in (True, 300.0, None):
            with pytest.raises(TypeError):
                recording.series(step=kind)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="is later than until"):
            recording.series(since=moment(BEGIN + 1), until=moment(BEGIN))


def test_a_recording_without_a_history_table_has_a_series_of_samples(tmp_path: Path) -> None:
    path = write_one(tmp_path / "oi.db", [BEGIN + 1])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE past")
        connection.execute("PRAGMA user_version = 3")
    with Recording(path) as recording:
        assert times(recording.series()) == [(1, "sample")]
        with pytest.raises(RecordingError, match="has no Y"):
            recording.series(["Y"])


@pytest.mark.parametrize(
    "table, row",
    [
        ("settled", ("X", BEGIN + 5, "1e5", BEGIN, None)),
        ("recent", ("X", BEGIN + 5, "1", BEGIN, "abc")),
        ("past", ("X", BEGIN + ROW, 3, "1", None, None)),
        ("past", ("X", BEGIN + ROW, 1, "NaN", None, None)),
    ],
)
def test_damage_is_an_error_that_names_the_file(
    table: str, row: tuple[object, ...], tmp_path: Path
) -> None:
    path = write_one(tmp_path / "oi.db", [BEGIN - 10 * ROW])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    with Recording(path) as recording, pytest.raises(RecordingError, match="is damaged"):
        list(recording.series(["X"]))


def test_a_sample_that_a_recorder_moves_during_a_read_appears_exactly_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recent = {BEGIN + n * ROW + 1: (BEGIN + n * ROW + 1, "7", None) for n in range(9)}
    path = tmp_path / "oi.db"
    write_cases(path, [Case("X", {}, recent, {}, ROW, None, None)])
    check = samples.are_right

    def moved(*columns: Any) -> bool:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("INSERT INTO settled SELECT * FROM recent")
            connection.execute("DELETE FROM recent")
        monkeypatch.setattr(series_module, "are_right", check)
        return check(*columns)

    monkeypatch.setattr(series_module, "are_right", moved)
    with Recording(path) as recording:
        assert times(recording.series()) == [(n, "sample") for n in range(1, 10)]


def test_a_series_has_the_symbols_of_its_recording(tmp_path: Path) -> None:
    with Recording(write_recording(tmp_path / "oi.db")) as recording:
        assert recording.series().symbols == tuple(sorted(VALUES))
        (point, *_) = recording.series(["btcusdt"])
    assert point.notional == point.open_interest * Decimal("66012.544")


WINDOWS = ("5m", "30m")


@pytest.mark.parametrize("seed", [1, *thorough(*range(2, 8))])
def test_a_tracker_that_continues_from_a_recording_gives_the_changes_of_the_series(
    seed: int, tmp_path: Path
) -> None:
    draw, path, now = Random(seed), tmp_path / "oi.db", BEGIN
    past = [(BEGIN - n * ROW, draw.choice([1, 2])) for n in range(300) if draw.random() < 0.9]
    write_one(path, past=past)
    stream = list[tuple[int, str]]()
    for count in range(600):
        now += draw.choice([20_000, 299_000, 300_000, 301_000, 7 * ROW if count % 50 == 0 else 1])
        now = -(-now // ROW) * ROW if draw.random() < 0.1 else now
        behind = draw.choice([0, 0, 40_000])
        stream.append((now - behind, f"{draw.randrange(9 * 10**6, 10**7)}.5"))
    restarts = {0, *(draw.randrange(len(stream)) for _ in range(20))}
    tracker, seen = ChangeTracker(WINDOWS), dict[tuple[int, str], Change]()
    with closing(sqlite3.connect(path, factory=Connection)) as connection:
        for count, (time, value) in enumerate(stream):
            if count in restarts:
                tracker = ChangeTracker(WINDOWS)
                with Recording(path) as recording:
                    recording.series().fill(tracker)
            table = draw.choice(["settled", "recent"])
            query = f"INSERT INTO {table} SELECT 'X', ?1, ?2, ?1, NULL WHERE NOT EXISTS"
            connection.execute(f"{query} (SELECT 1 FROM samples WHERE time = ?1)", (time, value))
            connection.commit()
            tracker.observe("X", time, Decimal(value))
            for change in map(partial(tracker.settled, "X"), WINDOWS):
                if change is not None:
                    seen[change.time, change.window] = change
    with Recording(path) as recording:
        batch = {(c.time, c.window): c for c in changes_of(recording.series(), WINDOWS)}
    assert {key: batch[key] for key in seen} == seen
    newest = max(stream)[0]
    late = [key for key in batch if BEGIN < key[0] < newest - LATE_MS - ROW]
    assert len(set(late) & seen.keys()) > 0.8 * len(late) > 100
    assert any(change.z_score is not None for change in seen.values())
