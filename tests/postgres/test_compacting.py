"""Compacting frees the space of removed rows while other programs read and write.

Rule of this file: the server is real. A test counts the pages of a table. It waits for events, and
never for a fixed time.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import psycopg
import pytest

from binance_oi.errors import StorageError
from binance_oi.market.rows import Row
from binance_oi.recorder import Recording, care, postgres_compacting
from binance_oi.recorder.postgres_compacting import PAGES_PER_STEP, compacting
from binance_oi.recorder.postgres_connection import Connection
from binance_oi.recorder.postgres_keeper import DROP_AGAIN_S, PostgresKeeper
from binance_oi.recorder.postgres_tables import QUERIES
from support.filled import sink_at

NOVEMBER, DECEMBER = 1_793_491_200_000, 1_796_083_200_000  # 2026-11-01 and 2026-12-01
ROWS = 40_000  # rows of a month; they fill some 370 pages
PLENTY = 60  # pages; a table of few rows has fewer once it is compact
FILL = """
INSERT INTO samples SELECT 'S' || n % 40 || 'USDT', {begin} + n / 40 * 1000, 90000.500 + n, {begin},
    CASE n % 3 WHEN 0 THEN 1.10 END FROM generate_series(0, {last}) AS n
"""
# Which rows stay: conditions on `n`. It numbers the rows in the order in which they were written.
REMAINS = {
    "the last row": f"n = {ROWS - 1}",
    "a few at the end": f"n >= {ROWS - 40}",
    "a few at the start": "n < 40",
    "a few at both ends": f"n < 40 OR n >= {ROWS - 40}",
    "one of each hundred": "n % 100 = 7",
    "a tenth at the end": f"n >= {ROWS * 9 // 10}",
    "no row": "false",
}
READ_ONLY = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
QUEUES = """
SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted
    AND relation = 'samples'::regclass
"""

Run = Callable[[str], list[tuple[object, ...]]]


@contextmanager
def running(url: str) -> Iterator[Run]:
    """Yield a function that runs statements in a new connection; without BEGIN, each commits.

    The driver prepares no statement. In a transaction, the server would keep the snapshot of a
    prepared query, and with it the removed rows, until the transaction ends.
    """
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:

        def run(statement: str) -> list[tuple[object, ...]]:
            found = connection.execute(statement.encode())
            return found.fetchall() if found.description else []

        yield run


@pytest.fixture(name="run")
def _run(url: str) -> Iterator[Run]:
    with running(url) as run:
        yield run


def fill(url: str, run: Run, *begins: int, remain: str) -> None:
    """Fill these months with rows, and delete all rows that do not match `remain`.

    Autovacuum is off, so only compacting can free the pages of the deleted rows.
    """
    with sink_at(url) as sink:
        sink.save_past([])
    for begin in begins:
        name = table(begin)
        run(f"CREATE TABLE {name} (LIKE samples INCLUDING ALL) WITH (autovacuum_enabled = off)")
        last = begin + 28 * 86_400_000
        run(f"ALTER TABLE samples ATTACH PARTITION {name} FOR VALUES FROM ({begin}) TO ({last})")
        run(FILL.format(begin=begin, last=ROWS - 1))
        number = f"(time - {begin}) / 1000 * 40 + substr(symbol, 2, length(symbol) - 5)::int"
        run(f"DELETE FROM {name} WHERE NOT coalesce({remain.replace('n ', number + ' ')}, false)")


def table(begin: int) -> str:
    return {NOVEMBER: "samples_2026_11", DECEMBER: "samples_2026_12"}[begin]


def pages(run: Run, name: str) -> tuple[int, int]:
    """The number of pages of a table, and of its indexes."""
    sizes = f"pg_relation_size('{name}') / 8192, pg_indexes_size('{name}') / 8192"
    (found,) = run(f"SELECT {sizes}")
    return int(str(found[0])), int(str(found[1]))


def rows(url: str) -> list[Row]:
    with Recording.open(url) as recording:
        return list(recording.samples().rows())


@pytest.mark.parametrize("remains", REMAINS)
def test_wherever_the_remaining_rows_lie_their_table_becomes_short(
    url: str, run: Run, remains: str
) -> None:
    fill(url, run, NOVEMBER, DECEMBER, remain=REMAINS[remains])
    before, kept = pages(run, "samples_2026_11"), rows(url)
    was, now = care.compact(url)
    assert rows(url) == kept
    for begin in (NOVEMBER, DECEMBER):
        assert max(pages(run, table(begin))) < PLENTY < before[0] / 4
    assert now < was / 3
    assert care.compact(url) == (now, now)


def test_while_another_program_writes_no_row_is_lost_and_the_table_becomes_short(
    url: str, run: Run
) -> None:
    fill(url, run, NOVEMBER, remain=REMAINS["a few at the end"])
    kept, written = rows(url), 0
    with ThreadPoolExecutor(1) as pool, running(url) as write:
        job = pool.submit(care.compact, url)
        while not job.done() or not written:
            written += 1
            write(f"INSERT INTO samples VALUES ('NEW', {NOVEMBER + written}, 1, {NOVEMBER}, NULL)")
        job.result()
    found = rows(url)
    assert [row for row in found if row[0] != "NEW"] == kept
    assert len(found) == len(kept) + written
    care.compact(url)
    assert pages(run, "samples_2026_11")[0] < PLENTY + written // 50


def test_while_a_reader_sees_the_removed_rows_we_wait_and_the_table_does_not_grow(
    url: str, run: Run
) -> None:
    fill(url, run, NOVEMBER, remain="true")
    name, count = "samples_2026_11", "SELECT count(*) FROM samples"
    with running(url) as reader, closing(Connection(url, "compact", StorageError)) as connection:
        reader(READ_ONLY)
        assert reader(count) == [(ROWS,)]
        run(f"DELETE FROM samples WHERE time < {NOVEMBER + (ROWS // 40 - 1) * 1000}")
        full = pages(run, name)[0]
        steps = compacting(lambda: connection)
        for _ in range(100):  # far more steps than compacting makes before it waits for the reader
            next(steps)
        assert pages(run, name)[0] == full
        assert reader(count) == [(ROWS,)]
        reader("COMMIT")
        for _ in steps:
            pass
    assert pages(run, name)[0] < PLENTY
    assert run(count) == [(40,)]


def test_readers_that_are_always_there_make_room_for_a_moment(url: str, run: Run) -> None:
    """VACUUM alone would never find a moment without readers, and would leave the table long."""
    fill(url, run, NOVEMBER, remain=REMAINS["a few at the end"])
    kept = rows(url)
    with ThreadPoolExecutor(1) as pool, running(url) as first, running(url) as second:
        first("BEGIN")
        first("SELECT count(*) FROM samples")
        job = pool.submit(care.compact, url)

        def must_wait() -> bool:
            return not job.done() and pages(run, "samples_2026_11")[0] > PLENTY

        while must_wait():
            while must_wait() and run(QUEUES) == [(0,)]:
                pass
            first, second = second, first
            first("BEGIN")
            second("COMMIT")
            first("SELECT count(*) FROM samples")  # it queues behind the waiting job
        first("COMMIT")
        job.result()
    assert rows(url) == kept
    assert pages(run, "samples_2026_11")[0] < PLENTY


def test_a_transaction_that_never_ends_costs_the_space_and_no_more(
    url: str, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """We log a warning, and the next run returns the space."""
    fill(url, run, NOVEMBER, remain="true")
    name, count = "samples_2026_11", "SELECT count(*) FROM samples"
    with running(url) as reader, monkeypatch.context() as patched:
        patched.setattr(postgres_compacting, "PATIENT_S", 0.5)
        reader(READ_ONLY)
        reader(count)
        run(f"DELETE FROM samples WHERE time < {NOVEMBER + (ROWS // 40 - 1) * 1000}")
        full = pages(run, name)[0]
        with caplog.at_level(logging.WARNING, "binance_oi"):
            care.compact(url)
        assert pages(run, name)[0] <= full + PAGES_PER_STEP
        assert reader(count) == [(ROWS,)]
        reader("COMMIT")
    assert [record.getMessage().partition(" ")[2] for record in caplog.records] == [
        "may keep free space: a transaction lasts too long"
    ]
    assert run(count) == [(40,)]
    care.compact(url)
    assert max(pages(run, name)) < PLENTY
    assert run("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid") == []


def test_the_run_after_a_killed_one_builds_the_indexes_that_the_killed_one_left(
    url: str, run: Run
) -> None:
    fill(url, run, NOVEMBER, remain=REMAINS["a few at the end"])
    with closing(Connection(url, "compact", StorageError)) as connection:
        for _ in compacting(lambda: connection):
            if pages(run, "samples_2026_11")[0] < PLENTY:
                break
    assert pages(run, "samples_2026_11")[1] > PLENTY
    care.compact(url)
    assert pages(run, "samples_2026_11")[1] < PLENTY


def test_a_month_that_a_pruning_drops_meanwhile_is_no_error(url: str, run: Run) -> None:
    fill(url, run, NOVEMBER, DECEMBER, remain=REMAINS["a few at the end"])
    with closing(Connection(url, "compact", StorageError)) as connection:
        for _ in compacting(lambda: connection):
            if run("SELECT to_regclass('samples_2026_11')") != [(None,)]:
                run("DROP TABLE samples_2026_11")
    assert pages(run, "samples_2026_12")[0] < PLENTY


def test_while_readers_use_a_month_its_rows_are_deleted_and_a_drop_is_tried_now_and_then(
    url: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a drop waits for its lock, readers wait too. A try in each step would slow them."""
    fill(url, run, NOVEMBER, DECEMBER, remain="true")
    end, now, tries = DECEMBER + 60 * 86_400_000, 1000.0, list[str]()
    drop = Connection.has_locked

    def has_locked(connection: Connection, statement: str) -> bool:
        tries.append(statement)
        return drop(connection, statement)

    monkeypatch.setattr("binance_oi.recorder.postgres_keeper.STEP_ROWS", 1)  # one symbol a step
    monkeypatch.setattr(Connection, "has_locked", has_locked)
    with running(url) as reader, closing(Connection(url, "prune", StorageError)) as connection:
        keeper = PostgresKeeper(lambda: connection, lambda: now)
        reader(READ_ONLY)
        reader("SELECT count(*) FROM samples")
        for step in range(1, 6):
            assert keeper.drop_samples(end)
            left = 2 * (ROWS - step * ROWS // 40)
            assert run("SELECT count(*) FROM samples") == [(left,)]
        assert len(tries) == 1
        now += DROP_AGAIN_S
        assert keeper.drop_samples(end)
        assert len(tries) == 2
        assert run("SELECT count(*) FROM samples") == [(2 * (ROWS - 6 * ROWS // 40),)]
        reader("COMMIT")
        assert keeper.drop_samples(end)
        assert len(tries) == 2
        now += DROP_AGAIN_S
        for name in ("samples_2026_11", "samples_2026_12"):  # each step drops one month
            assert run(f"SELECT to_regclass('{name}')") == [(name,)]
            assert keeper.drop_samples(end)
            assert run(f"SELECT to_regclass('{name}')") == [(None,)]
        assert not keeper.drop_samples(end)
    assert len(tries) == 4


def test_symbols_are_found_without_scanning_removed_rows_again_and_again(
    url: str, run: Run
) -> None:
    """Until VACUUM removes the deleted rows, a search visits each of them that is on its way."""
    fill(url, run, NOVEMBER, DECEMBER, remain="true")
    with running(url) as reader:
        reader(READ_ONLY)  # VACUUM cannot remove rows that this reader may see
        reader("SELECT count(*) FROM sweeps")
        run("DELETE FROM samples_2026_11")
        ((plan,),) = run(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {QUERIES.symbols}")
        reader("COMMIT")
    assert isinstance(plan, list)
    root = plan[0]["Plan"]
    pages = root["Shared Hit Blocks"] + root["Shared Read Blocks"]
    assert root["Actual Rows"] == 40
    assert pages < 2 * ROWS
