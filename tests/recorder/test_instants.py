"""A recording stores each history row once, and a write stores all its rows or none.

Rule of this file: the store itself writes the rows, in which amounts are texts.
"""

import gc
import random
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from binance_oi import InvalidSymbolError, RecordingError
from binance_oi.market import Instant
from binance_oi.market.rows import InstantRow
from binance_oi.recorder import Recording
from binance_oi.recorder.sqlite import SqliteSink
from binance_oi.recorder.store import PAST_ROWS_IN_LOG, Store
from support import TESTS
from support.recorded import BEGIN, write_recording

STEP = 300_000
ROWS: list[InstantRow] = [
    ("1000SHIBUSDT", STEP, 1, "51857726234713", "0.00000010", None),
    ("BTCUSDT", STEP, 1, "96012.544", "6612544.00000000", "19900000"),
    ("BTCUSDT", STEP, 2, "96012.5440000000000000", None, None),
    ("BTCUSDT", 2 * STEP, 2, "96013", "6612544", None),
    ("币安人生USDT", 3 * STEP, 1, "1", "2", "3"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "oi.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with closing(Store(path)) as opened:
        yield opened


def kept(path: Path) -> list[InstantRow]:
    with Recording(path) as recording:
        return list(recording.past().rows())


def test_rows_are_read_back_exactly_and_sorted_by_symbol_time_and_source(
    store: Store, path: Path
) -> None:
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    assert store.save_past(shuffled) == len(ROWS)
    assert kept(path) == ROWS
    with Recording(path) as recording:
        first, *_, last = recording.past()
    assert first == Instant(
        "1000SHIBUSDT", STEP, "history", Decimal("51857726234713"), Decimal("0.00000010"), None
    )
    assert last.to_dict()["source"] == "history"


def test_a_row_written_again_is_stored_once_with_the_last_numbers(store: Store, path: Path) -> None:
    store.save_past(ROWS)
    assert store.save_past(ROWS) == 0
    corrected: InstantRow = ("BTCUSDT", 2 * STEP, 2, "96014", None, None)
    assert store.save_past([*ROWS, corrected, corrected]) == 1
    assert kept(path) == [corrected if row[:3] == corrected[:3] else row for row in ROWS]


@pytest.mark.parametrize("broken", [("BTCUSDT", "noon", 2, "1", None, None), ("X", 9)], ids=repr)
def test_a_write_with_an_impossible_row_stores_nothing(
    store: Store, path: Path, broken: InstantRow
) -> None:
    with pytest.raises(sqlite3.Error):
        store.save_past([*ROWS, broken])
    assert kept(path) == []


def test_symbols_span_and_source_choose_the_rows(store: Store, path: Path) -> None:
    store.save_past(ROWS)
    at = datetime.fromtimestamp
    since, until = at(STEP / 1000, UTC), at(2 * STEP / 1000, UTC)
    with Recording(path) as recording:
        assert list(recording.past(["btcusdt", "NEVERUSDT"]).rows()) == ROWS[1:4]
        assert list(recording.past(source="archive").rows()) == ROWS[2:4]
        assert list(recording.past(source="history", since=until).rows()) == ROWS[4:]
        assert list(recording.past(since=since, until=until).rows()) == ROWS[:3]
        assert list(recording.past([]).rows()) == []


def test_impossible_arguments_are_refused_at_once(store: Store, path: Path) -> None:
    now = datetime.now(UTC)
    with Recording(path) as recording:
        with pytest.raises(ValueError, match="source must be one of history, archive: 'both'"):
            recording.past(source="both")
        with pytest.raises(ValueError, match="time zone"):
            recording.past(since=now.replace(tzinfo=None))
        with pytest.raises(ValueError, match="is later than until"):
            recording.past(since=now, until=datetime(2020, 1, 1, tzinfo=UTC))
        with pytest.raises(InvalidSymbolError):
            recording.past("BTCUSDT")


def test_history_rows_change_neither_samples_nor_sweeps_nor_gaps(path: Path) -> None:
    def seen() -> object:
        with Recording(path) as recording:
            return (
                list(recording.samples()),
                list(recording.sweeps()),
                list(recording.gaps()),
                recording.span(),
                recording.symbols(),
            )

    write_recording(path)
    before = seen()
    with closing(Store(path)) as store:
        store.save_past(ROWS)
        store.tidy()
    assert seen() == before
    assert kept(path) == ROWS


@pytest.mark.parametrize(
    "damage",
    [
        "open_interest = 'NaN'",
        "notional = 'x'",
        "time = 253402300800000",
        "source = 3",
        "circulating_supply=''",
    ],
)
def test_a_damaged_row_is_an_error_that_names_the_file(
    store: Store, path: Path, damage: str
) -> None:
    store.save_past(ROWS)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE past SET {damage} WHERE symbol = '1000SHIBUSDT'")
        connection.commit()
    with pytest.raises(RecordingError, match=r"oi\.db is damaged: a row of the past"):
        kept(path)


def test_a_sink_lists_its_stored_instants_and_gaps(path: Path) -> None:
    write_recording(path)
    sink = SqliteSink(path, None)
    sink.claim(lambda: 0.0)
    sink.open()
    with closing(sink):
        sink.save_past(ROWS)
        assert sink.past_times("BTCUSDT", 2, 0, 3 * STEP) == [STEP, 2 * STEP]
        assert sink.past_times("BTCUSDT", 2, STEP + 1, 2 * STEP) == [2 * STEP]
        assert sink.past_times("BTCUSDT", 1, 0, STEP) == [STEP]
        assert sink.past_times("ETHUSDT", 1, 0, STEP) == []
        begin = round(BEGIN.timestamp() * 1000)
        both = sink.gaps_since(0)
        assert [(symbol, gap.reason, period) for symbol, gap, period in both] == [
            ("BTCUSDT", "outage", 60_000),
            ("", "banned", 60_000),
        ]
        assert sink.gaps_since(begin + 3 * 60_000) == both[1:]
        assert sink.gaps_since(begin + 3 * 60_000 + 1) == []


def test_a_copy_of_a_recording_has_its_history_rows(store: Store, path: Path) -> None:
    store.save_past(ROWS)
    with Recording(path) as recording:
        recording.backup(path.with_name("copy.db"))
    assert kept(path.with_name("copy.db")) == ROWS


def many(count: int) -> Iterator[InstantRow]:
    return (("BTCUSDT", number * STEP, 2, "96012.544", "1", None) for number in range(count))


def test_a_long_backfill_keeps_the_log_short(path: Path) -> None:
    with closing(Store(path, clock=lambda: 0.0)) as store:  # time stands still, only rows count
        for first in range(0, 2 * PAST_ROWS_IN_LOG, 65_536):
            store.save_past([(*row[:1], row[1] + first * STEP, *row[2:]) for row in many(65_536)])
            store.tidy()
        written = path.stat().st_size + path.with_name("oi.db-wal").stat().st_size
        assert path.with_name("oi.db-wal").stat().st_size < written * 2 / 3


def test_memory_does_not_grow_with_the_number_of_rows_read(store: Store, path: Path) -> None:
    def peak(count: int) -> int:
        store.save_past(list(many(count)))
        gc.collect()  # or tuples that Python keeps for reuse, and does not trace, serve some rows
        tracemalloc.start()
        try:
            with Recording(path) as recording:
                assert sum(1 for _ in recording.past()) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few = peak(5_000)
    assert peak(20_000) < 1.2 * few


KILLED = """
import os, sys
from pathlib import Path
from binance_oi.recorder.sqlite import SqliteSink
from binance_oi.recorder.store import Store
from support.killing import kill_at_statement

path = Path(sys.argv[1])
rows = [("BTCUSDT", n * 300_000, 1 + n % 2, str(n), None, None) for n in range(50)]
for number in range(1000):
    child = os.fork()
    if not child:
        kill_at_statement(number)
        store = Store(path)
        store.save_past(rows)
        store.close()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    from binance_oi.recorder import Recording
    try:
        with Recording(path) as recording:
            print(os.WIFSIGNALED(status), len(list(recording.past())))
    except Exception:  # killed before the file was a recording
        print(os.WIFSIGNALED(status), 0)
    if not os.WIFSIGNALED(status):
        break
    for file in path.parent.glob(path.name + "*"):
        file.unlink()
"""


def test_kill_9_leaves_all_rows_of_a_write_or_none(path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, cwd=TESTS, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    *killed, last = [line.split() for line in done.stdout.splitlines()]
    assert last == ["False", "50"]
    assert {number for _, number in killed} == {"0", "50"}
