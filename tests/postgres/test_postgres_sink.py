"""A recording in PostgreSQL has the same content as a file, even if connections fail.

Rule of this file: the server is real, on a Unix socket, and most failures are real too.
"""

import asyncio
import json
import logging
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import psycopg
import pytest

from binance_oi import Gap, OccupiedError, OpenInterest, RecordingError, Snapshot, StorageError
from binance_oi.cli import main
from binance_oi.output import export, plot
from binance_oi.output.report import report
from binance_oi.recorder import Recorder, Recording, care, postgres_connection
from binance_oi.recorder import postgres_schema as schema
from binance_oi.recorder.check import check
from binance_oi.recorder.postgres import YIELD_S, PostgresSink
from binance_oi.recorder.sqlite import SqliteSink
from support.filled import sink_at
from support.postgres_server import Server
from support.recorded import BEGIN, EVERY, VALUES, sweep
from support.recording_market import Market, tables
from support.virtual_clock import wall_time

pyarrow: Any = pytest.importorskip("pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet")

PERIOD = 60_000
ORIGIN = round(BEGIN.timestamp() * 1000)
HANGS = 600.0


@contextmanager
def opened(url: str, source: str | None = None) -> Iterator[PostgresSink]:
    with closing(PostgresSink(url, source)) as sink:
        sink.claim(time.monotonic)
        sink.open()
        yield sink


def write(sink: PostgresSink | SqliteSink) -> None:
    """Write the sweeps and the gap of `support.recorded.write_recording` into a sink."""
    for number in (0, 1):
        sink.save(sweep(number), [], PERIOD)
    gap = Gap(ORIGIN + 2 * PERIOD, ORIGIN + 3 * PERIOD, "banned", "until 00:02")
    sink.save(sweep(4), [gap], PERIOD)


@pytest.fixture
def both(url: str, tmp_path: Path) -> tuple[str, str]:
    """The same recording as a file and as a database."""
    file = SqliteSink(tmp_path / "oi.db", "production")
    with closing(file), opened(url, "production") as database:
        file.claim(time.monotonic)
        file.open()
        write(file)
        write(database)
    return str(tmp_path / "oi.db"), url


def test_a_database_returns_the_same_recording_as_a_file(both: tuple[str, str]) -> None:
    def everything(place: str) -> list[object]:
        with Recording.open(place) as recording:
            return [
                recording.source,
                recording.symbols(),
                recording.span(),
                list(recording.samples()),
                list(recording.samples().rows()),
                recording.samples().span(),
                recording.samples().count(),
                recording.samples().columns(),
                recording.samples().to_columns(),
                list(recording.samples(["BTCUSDT"], since=BEGIN, until=BEGIN + 5 * EVERY)),
                list(recording.first_and_last()),
                list(recording.sweeps()),
                list(recording.gaps()),
                list(recording.gaps("BTCUSDT")),
                list(recording.counted_gaps((ORIGIN + 3 * PERIOD, ORIGIN + 9 * PERIOD))),
                list(recording.failures()),
                recording.missed(),
            ]

    assert everything(both[1]) == everything(both[0])


def test_outputs_of_a_database_equal_those_of_a_file(both: tuple[str, str], tmp_path: Path) -> None:
    made: list[list[bytes]] = []
    for place in both:
        folder = tmp_path / f"of {len(made)}"
        folder.mkdir()
        with Recording.open(place) as recording:
            for ending in ("csv", "jsonl", "parquet"):
                export(recording, folder / f"oi.{ending}")
            plot(recording, folder / "oi.png", ["BTCUSDT"])
            page = report(recording, made=BEGIN)
            (folder / "oi.html").write_text(page, encoding="utf-8")
            title = recording.title.encode()
        names = sorted(folder.iterdir())
        made.append([file.read_bytes().replace(title, b"NAME") for file in names])
    assert made[0] == made[1]


def odd_numbers(count: int) -> list[Decimal]:
    """Random numbers with up to 30 digits on each side of the point, after six special ones."""
    chance = random.Random(22)
    edges = ["0", "0.0", "0.00000000", "1.10", "9" * 30 + "." + "9" * 30, "0." + "0" * 29 + "1"]
    texts = [*edges]
    while len(texts) < count:
        whole = str(chance.randrange(10 ** chance.randrange(1, 31)))
        part = "".join(chance.choice("0123456789") for _ in range(chance.randrange(31)))
        texts.append(f"{whole}.{part}" if part else whole)
    return [Decimal(text) for text in texts]


def store_numbers(place: str, numbers: list[Decimal]) -> None:
    """Record these numbers, a thousand in each sweep."""
    with sink_at(place, None) as sink:
        for minute in range(0, len(numbers), 1000):
            part = {f"S{n}USDT": number for n, number in enumerate(numbers[minute : minute + 1000])}
            values = {n: OpenInterest(n, value, ORIGIN + minute) for n, value in part.items()}
            slot = BEGIN + minute * EVERY
            sink.save(
                Snapshot(
                    values_by_symbol=values,
                    errors={},
                    started=slot,
                    finished=slot,
                    weight=1,
                    slot=slot,
                ),
                [],
                PERIOD,
            )


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_ten_thousand_unusual_numbers_are_the_same_in_every_output(
    store: str, url: str, tmp_path: Path
) -> None:
    place, numbers = url if store == "postgres" else str(tmp_path / "odd.db"), odd_numbers(10_000)
    store_numbers(place, numbers)
    wrote = sorted(f"{number:f}" for number in numbers)
    with Recording.open(place) as recording:
        assert sorted(value for _, _, value, _, _ in recording.samples().rows()) == wrote
        assert sorted(f"{sample.open_interest:f}" for sample in recording.samples()) == wrote
        export(recording, tmp_path / "odd.csv")
        export(recording, tmp_path / "odd.jsonl")
    lines = (tmp_path / "odd.csv").read_text().splitlines()[1:]
    assert sorted(line.split(",")[2] for line in lines) == wrote
    texts = (tmp_path / "odd.jsonl").read_text().splitlines()
    assert sorted(json.loads(text)["open_interest"] for text in texts) == wrote


def fits_decimals(number: Decimal) -> bool:
    """Whether a number fits into Parquet's widest column: 20 digits before the point, 18 after."""
    whole, _, part = f"{number:f}".partition(".")
    return len(whole.lstrip("0")) <= 20 and len(part.rstrip("0")) <= 18


@pytest.mark.parametrize("form", ["oi.parquet", "days", "stream"])
@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_parquet_holds_each_of_ten_thousand_unusual_numbers_exactly_or_a_warning_counts_it(
    store: str, form: str, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All values of a Parquet column have one scale, so we compare numbers instead of texts."""
    place, numbers = url if store == "postgres" else str(tmp_path / "odd.db"), odd_numbers(10_000)
    store_numbers(place, numbers)
    exact = {
        (f"S{n % 1000}USDT", ORIGIN + n // 1000 * 1000): number
        for n, number in enumerate(numbers)
        if fits_decimals(number)
    }
    with Recording.open(place) as recording:
        if form == "stream":
            table = pyarrow.table(recording.samples())
        else:
            assert export(recording, tmp_path / form) == len(exact)
            target = tmp_path / form
            files = [target] if target.is_file() else sorted(target.rglob("*.parquet"))
            table = pyarrow.concat_tables([parquet.ParquetFile(file).read() for file in files])
    keys = zip(table["symbol"].to_pylist(), table["time"].cast("int64").to_pylist(), strict=True)
    assert dict(zip(keys, table["open_interest"].to_pylist(), strict=True)) == exact
    (warning,) = {each.getMessage() for each in caplog.records if each.levelname == "WARNING"}
    assert "odd rows are" in warning
    assert warning.endswith(f", and {len(numbers) - len(exact) - 3:d} more")
    assert len(exact) > 3000


def test_storing_a_sweep_again_changes_nothing_and_returns_the_same_count(url: str) -> None:
    """If the answer to a COMMIT is lost, the sink repeats the transaction."""
    gap = Gap(ORIGIN + 2 * PERIOD, ORIGIN + 3 * PERIOD, "banned", "until 00:02")
    with opened(url) as sink:
        write(sink)
        before = everything_in(url)
        assert sink.save(sweep(4), [gap], PERIOD).new == 3
        assert everything_in(url) == before
        assert sink.save(None, [gap], PERIOD).new == 0
        assert everything_in(url) == before


def everything_in(url: str) -> list[list[tuple[object, ...]]]:
    with psycopg.connect(url) as connection:
        return [
            connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2".encode()).fetchall()
            for table in ("samples", "sweeps", "gaps", "past")
        ]


def test_history_rows_are_stored_once_and_may_be_corrected(url: str) -> None:
    row = ("BTCUSDT", ORIGIN, 1, "1.10", None, None)
    with opened(url) as sink:
        assert sink.save_past([]) == 0
        assert sink.save_past([row, ("BTCUSDT", ORIGIN, 2, "1.1", "7", "30")]) == 2
        assert sink.save_past([row]) == 0
        assert sink.save_past([row, (*row[:3], "1.100", None, None)]) == 1
    with Recording.open(url) as recording:
        found = list(recording.past().rows())
        assert found == [(*row[:3], "1.100", None, None), ("BTCUSDT", ORIGIN, 2, "1.1", "7", "30")]
        assert [each.source for each in recording.past(source="archive")] == ["archive"]


def test_every_sweep_notifies_listeners_with_its_slot(url: str) -> None:
    with opened(url) as sink, psycopg.connect(url, autocommit=True) as listener:
        listener.execute("LISTEN binance_oi")
        sink.save(sweep(0), [], PERIOD)
        sink.save(sweep(0), [], PERIOD)  # a repeated sweep notifies no listener
        sink.save(sweep(1), [], PERIOD)
        found = list(listener.notifies(timeout=HANGS, stop_after=2))
    assert [int(notify.payload) for notify in found] == [ORIGIN, ORIGIN + PERIOD]


def test_samples_are_partitioned_by_month_and_impossible_times_have_a_partition(url: str) -> None:
    first = sweep(0)
    months = [ORIGIN, ORIGIN + 40 * 86_400_000, 0, 4_200_000_000_000]
    values = {
        f"S{n}USDT": OpenInterest(f"S{n}USDT", Decimal(n), time) for n, time in enumerate(months)
    }
    with opened(url) as sink:
        sink.save(replace(first, values_by_symbol=values, mark_prices={}), [], PERIOD)
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT tableoid::regclass::text FROM samples ORDER BY time")
        names = [name for (name,) in found]
        at = connection.execute("SELECT at FROM samples_utc WHERE symbol = 'S0USDT'").fetchone()
    assert names == ["samples_before_2000", "samples_2026_11", "samples_2027_01", names[-1]]
    assert at == (BEGIN,)


def test_a_second_recorder_is_refused_and_the_first_one_is_named(url: str) -> None:
    with opened(url), pytest.raises(OccupiedError) as refused, opened(url):
        pass
    assert (
        f"is being recorded by binance-oi record {socket.gethostname()[:24]}:{os.getpid()} "
        in str(refused.value)
    )
    with opened(url):  # the lock ended with its connection
        pass


def test_two_schemas_of_one_database_are_two_recordings(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA other")
    other = f"{url}&options={quote('-csearch_path=other')}"
    with opened(url, "production") as one, opened(other, "testnet") as two:
        one.save(sweep(0), [], PERIOD)
        two.save(sweep(1), [], PERIOD)
        two.save(sweep(2), [], PERIOD)
    with Recording.open(url) as first, Recording.open(other) as second:
        assert (first.source, second.source) == ("production", "testnet")
        assert (len(list(first.sweeps())), len(list(second.sweeps()))) == (1, 2)


def test_tables_of_another_program_are_refused_and_unchanged(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE samples (mine int)")
    with pytest.raises(RecordingError, match="it has other tables of these names: sampl"):
        Recording.open(url)
    with pytest.raises(RecordingError, match="is not a recording"), opened(url):
        pass


def test_an_empty_database_and_a_newer_version_are_refused(url: str) -> None:
    with pytest.raises(RecordingError, match="holds no recording"):
        Recording.open(url)
    with opened(url):
        pass
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE recording SET version = 99")
    with pytest.raises(RecordingError, match="has version 99; this program reads 1"):
        Recording.open(url)
    with pytest.raises(RecordingError, match="has version 99"), opened(url):
        pass


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://oi:se%cret@127.0.0.1/x",
        "postgresql://oi:secret@127.0.0.1:1/x?nonsense=secret",
        "postgresql://oi:secret@127.0.0.1:1/x",
        "postgresql://oi:secret@[::1/x",
        "postgresql://oi:se@cret@127.0.0.1:1/x",
        "postgresql://oi:se@127.0.0.1:cret@127.0.0.1/x",
        "postgresql://oi:12,se/cret@127.0.0.1/x",
        "postgresql://oi:12/se?cret@127.0.0.1/x",
        "postgresql://oi:100%a1cret@127.0.0.1:1/x",
    ],
)
def test_no_error_names_a_password(url: str) -> None:
    with pytest.raises(RecordingError) as refused:
        Recording.open(url)
    with pytest.raises(RecordingError) as unclaimed, opened(url):
        pass
    said = f"{refused.value}{unclaimed.value}{PostgresSink(url, None)}"
    assert "cret" not in said


def test_a_failed_transaction_changes_nothing(url: str) -> None:
    with opened(url) as sink:
        sink.save(sweep(0), [], PERIOD)
        before = everything_in(url)
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("ALTER TABLE sweeps ADD CHECK (slot < 0) NOT VALID")
        with pytest.raises(StorageError, match="violates check constraint"):
            sink.save(sweep(1), [Gap(0, 0, "banned")], PERIOD)
        assert everything_in(url) == before
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("ALTER TABLE sweeps DROP CONSTRAINT sweeps_slot_check")
        assert sink.save(sweep(1), [], PERIOD).new == 2


def test_text_that_a_server_refuses_costs_no_sweep(url: str) -> None:
    with opened(url) as sink:
        sink.save(None, [Gap(ORIGIN, ORIGIN, "outage", "a\0b\ud800c")], PERIOD)
    with Recording.open(url) as recording:
        assert [gap.detail for gap in recording.gaps()] == ["ab\\ud800c"]


class Relay:
    """Relays between clients and the server's socket, and can swallow the answer to a COMMIT."""

    def __init__(self, server: Server, home: Path) -> None:
        self._there = str(server.home / ".s.PGSQL.5432")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(home / ".s.PGSQL.5432"))
        self._listener.listen()
        self._sockets = list[socket.socket]()
        self.commits_to_swallow = 0
        self.is_silent = False  # whether the server does not notice that a client has gone
        Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                ours, _ = self._listener.accept()
                theirs = socket.socket(socket.AF_UNIX)
                self._sockets += [ours, theirs]
                theirs.connect(self._there)
                Thread(target=self._pump, args=(ours, theirs, False), daemon=True).start()
                Thread(target=self._pump, args=(theirs, ours, True), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if answers and self.commits_to_swallow and b"COMMIT\0" in data:
                    self.commits_to_swallow -= 1
                    break
                target.sendall(data)
        for end in (target,) if answers and self.is_silent else (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for end in (self._listener, *self._sockets):
            end.close()


@pytest.mark.parametrize("is_silent", [False, True], ids=["noticed", "unnoticed"])
def test_a_commit_whose_answer_was_lost_is_not_written_twice(
    server: Server, url: str, is_silent: bool
) -> None:
    home = server.home / "relay"
    home.mkdir(exist_ok=True)
    relay = Relay(server, home)
    relay.is_silent = is_silent
    through = url.replace(quote(str(server.home), safe=""), quote(str(home), safe=""))
    assert through != url
    gap = Gap(ORIGIN - 3 * PERIOD, ORIGIN - PERIOD, "banned")
    with closing(relay), opened(through) as sink:
        sink.save(sweep(0), [], PERIOD)
        before = everything_in(url)
        relay.commits_to_swallow = 1
        saved = sink.save(sweep(1), [gap], PERIOD)  # connects again, and repeats the transaction
        assert relay.commits_to_swallow == 0
        assert saved.new == 2
        after = everything_in(url)
        relay.commits_to_swallow = 2
        with pytest.raises(StorageError):  # a recorder would try again
            sink.save(sweep(1), [gap], PERIOD)
        assert sink.save(sweep(1), [gap], PERIOD).new == 2
    assert everything_in(url) == after != before
    (home / ".s.PGSQL.5432").unlink()


def test_a_server_that_stops_answering_blocks_for_a_bounded_time(
    server: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(url) as sink:
        monkeypatch.setattr(postgres_connection, "PATIENCE_S", 0.2)
        monkeypatch.setitem(postgres_connection._OURS, "connect_timeout", 2)
        with psycopg.connect(url) as other:
            row = other.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'binance-oi record%'"
                " AND datname = current_database()"
            ).fetchone()
        assert row is not None
        os.kill(row[0], signal.SIGSTOP)
        try:
            with pytest.raises(RecordingError):  # the stopped process still has the lock
                sink.save(sweep(0), [], PERIOD)
        finally:
            os.kill(row[0], signal.SIGCONT)
        monkeypatch.setattr(postgres_connection, "PATIENCE_S", HANGS)
        saved = until(lambda: sink.save(sweep(0), [], PERIOD).new)
    assert saved == 3


@pytest.mark.parametrize("more", ["", "&application_name=other"])
def test_a_recorder_ends_its_former_connection_that_still_holds_the_lock(
    url: str, more: str
) -> None:
    """The server has not noticed yet that the former connection is lost."""
    with opened(f"{url}{more}") as sink:
        former, sink._connection = sink._connection, None
        assert former is not None
        with closing(former):
            assert sink.save(sweep(0), [], PERIOD).new == 3


def until(work: Callable[[], int]) -> int:
    """Repeat a call until it raises no `RecordingError`. pytest ends a test that hangs."""
    while True:
        try:
            return work()
        except RecordingError:
            time.sleep(0.01)


@pytest.mark.virtual_time
async def test_sweeps_wait_while_the_server_is_away_and_are_written_once(
    server: Server, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(Market(), url, every=20.0, clock=wall_time)
    with caplog.at_level(logging.WARNING, "binance_oi"):
        running = asyncio.create_task(recorder.run())
        await asyncio.sleep(65.0)
        server.kill()
        await asyncio.sleep(120.0)
        waiting = recorder.status
        server.start()
        await asyncio.sleep(45.0)
        recorder.stop()
        await running
    assert waiting.unwritten == 6
    assert waiting.storage_error is not None
    slots, gaps, samples = tables(url)
    assert (gaps, slots) == ([], list(range(slots[0], slots[-1] + 1, 20_000)))
    assert samples == 3 * len(slots) == 3 * recorder.status.sweeps
    assert (recorder.status.lost, recorder.status.missed) == (0, 0)
    assert [record.message.endswith("can be written again") for record in caplog.records] == [
        False,
        True,
    ]


@pytest.mark.virtual_time
async def test_after_a_restart_of_the_server_the_active_recorder_stays_active(
    server: Server, url: str
) -> None:
    first = Recorder(Market(), url, every=20.0, clock=wall_time)
    second = Recorder(Market(), url, every=20.0, standby=True, clock=wall_time)
    tasks = [asyncio.create_task(first.run())]
    await asyncio.sleep(45.0)
    tasks.append(asyncio.create_task(second.run()))
    await asyncio.sleep(45.0)
    server.kill()
    await asyncio.sleep(30.0)
    server.start()
    await asyncio.sleep(60.0)
    status = first.status
    first.stop()
    await tasks[0]
    await asyncio.sleep(2 * YIELD_S + 45.0)
    second.stop()
    await tasks[1]
    assert (status.lost, status.unwritten, status.storage_error) == (0, 0, None)
    slots, gaps, _ = tables(url)
    missed = [slot for _, a, b, _ in gaps for slot in range(a, b + 1, 20_000)]
    assert sorted([*slots, *missed]) == list(range(slots[0], slots[-1] + 1, 20_000))
    assert second.status.sweeps > 0


def end_recorders(url: str) -> None:
    """End the connections of all recorders, and wait until the server has released their locks."""
    of_recorders = (
        "FROM pg_stat_activity"
        " WHERE application_name LIKE 'binance-oi record%' AND datname = current_database()"
    )
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(f"SELECT pg_terminate_backend(pid) {of_recorders}".encode())
        while other.execute(f"SELECT count(*) {of_recorders}".encode()).fetchone() != (0,):
            time.sleep(0.01)


def test_a_lock_that_is_released_while_we_ask_for_its_holder_is_taken(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At that moment, the server may notice that the holder's connection is lost."""
    execute = postgres_connection.Connection.execute
    with psycopg.connect(url, autocommit=True) as former:
        former.execute(schema.LOCK_WHEN_FREE.encode())

        def release_before(
            connection: postgres_connection.Connection, query: str, *values: Any
        ) -> Any:
            if query == schema.HOLDER:
                former.execute(b"SELECT pg_advisory_unlock_all()")
            return execute(connection, query, *values)

        monkeypatch.setattr(postgres_connection.Connection, "execute", release_before)
        with opened(url) as sink:
            assert sink.save(sweep(0), [], PERIOD).new == 3


@pytest.mark.virtual_time
@pytest.mark.parametrize("standby", [False, True])
async def test_a_recorder_that_was_replaced_by_a_standby_writes_no_more(
    url: str, standby: bool
) -> None:
    """The recorder lost its connection, and another sink took the lock."""
    first = Recorder(Market(), url, every=20.0, standby=standby, clock=wall_time)
    running = asyncio.create_task(first.run())
    await asyncio.sleep(45.0)
    end_recorders(url)
    with opened(url) as sink:
        if standby:
            await asyncio.sleep(60.0)
            assert (first.status.trouble or "").startswith("standby")
        else:
            with pytest.raises(OccupiedError, match="is being recorded by"):
                await running
        count = len(tables(url)[0])
        sink.save(None, [], 20_000)
    if standby:
        for _ in range(600):
            await asyncio.sleep(1.0)
            if len(tables(url)[0]) > count:
                break
        first.stop()
        await running
        assert len(tables(url)[0]) > count


def test_both_sides_enable_tcp_keepalive(url: str) -> None:
    """So the server ends the session of a vanished host after 15 s, and releases its lock."""
    with closing(postgres_connection.Connection(url, "test")) as connection:
        row = connection.execute("SELECT current_setting('tcp_keepalives_idle')").fetchone()
        parameters = connection._connection.info.get_parameters()
    assert row == ("0",)  # on a Unix socket, the server accepts the setting and reports 0
    assert parameters["keepalives_idle"] == "5"
    assert parameters["tcp_user_timeout"] == "15000"


def test_names_of_symbols_sort_as_in_a_file(url: str) -> None:
    with opened(url) as sink:
        write(sink)
    with Recording.open(url) as recording:
        assert recording.symbols() == tuple(sorted(VALUES))
        assert {gap.reason for gap in recording.gaps("BTCUSDT")} == {"outage"}


def test_a_recording_is_not_copied_into_itself_by_another_url(url: str) -> None:
    with opened(url) as sink:
        write(sink)
    before = everything_in(url)
    for other in (url, f"{url}&application_name=other", f"{url}&password=secret"):
        with pytest.raises(RecordingError, match="are the same database") as refused:
            care.copy(url, other)
        assert "secret" not in str(refused.value)
    with Recording.open(url) as recording:
        assert not recording.is_merged
    assert everything_in(url) == before


@pytest.mark.parametrize("is_source", [True, False])
def test_an_unreachable_database_ends_a_copy_with_exit_code_2(
    url: str, is_source: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(url) as sink:
        write(sink)
    there = "postgresql://oi:secret@127.0.0.1:1/oi"
    assert main(["copy", *((there, url) if is_source else (url, there))]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("binance-oi: postgresql://127.0.0.1:1/oi: connection to server at ")
    assert "secret" not in err


@pytest.mark.parametrize("command", [("record", "--to"), ("backfill",)])
def test_an_unreachable_database_ends_a_recorder_with_exit_code_2(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    there = "postgresql://oi:secret@127.0.0.1:1/oi"
    assert main([*command, there, "BTCUSDT", "--simulated"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("binance-oi: postgresql://127.0.0.1:1/oi cannot be ")
    assert err.count("postgresql://") == 1
    assert "secret" not in err


def test_two_schemas_of_one_database_are_copied_into_each_other(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA other")
    with opened(url) as sink:
        write(sink)
    assert care.copy(url, f"{url}&options={quote('-csearch_path=other')}") == 8


def test_a_missing_schema_is_an_error_at_once(url: str) -> None:
    """A standby raises the error too. Otherwise it would wait endlessly."""
    nowhere = f"{url}&options={quote('-csearch_path=nowhere')}"
    for place in (lambda: opened(nowhere), lambda: Recording.open(nowhere)):
        with pytest.raises(RecordingError, match="has no schema for this user") as refused, place():
            pass
        assert not isinstance(refused.value, OccupiedError | StorageError)


def test_only_the_owner_of_the_tables_can_return_space(server: Server, url: str) -> None:
    with opened(url) as sink:
        write(sink)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS guest")
        connection.execute("CREATE ROLE guest LOGIN")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO guest")
    guest = url.replace("user=postgres", "user=guest")
    with pytest.raises(StorageError, match="only the owner of the tables"):
        care.compact(guest)
    with Recording.open(guest) as recording:  # a guest may read everything
        assert check(recording).rows == 8
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP OWNED BY guest")
        connection.execute("DROP ROLE guest")


def test_an_index_that_a_killed_run_left_unfinished_is_removed(url: str) -> None:
    with opened(url) as sink:
        write(sink)
    with psycopg.connect(url, autocommit=True) as connection:
        unfinished = "samples_2026_11_pkey_ccnew"
        connection.execute(f"CREATE INDEX {unfinished} ON samples_2026_11 (time)".encode())
        catalog = "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass"
        connection.execute(catalog, (unfinished,))
        care.compact(url)
        row = connection.execute("SELECT to_regclass(%s)", (unfinished,)).fetchone()
    assert row == (None,)


def test_unusual_settings_of_a_database_do_not_affect_the_recording(url: str) -> None:
    name = url.partition("///")[2].partition("?")[0]
    with psycopg.connect(url, autocommit=True) as connection:
        for setting in (
            "timezone = 'Asia/Kathmandu'",
            "datestyle = 'German, DMY'",
            "default_transaction_isolation = 'serializable'",
            "standard_conforming_strings = off",
            "extra_float_digits = -15",
            "bytea_output = 'escape'",
            "synchronous_commit = off",
        ):
            connection.execute(f"ALTER DATABASE {name} SET {setting}".encode())
    names = ('A"B', "A\\B", "A,B", "{A}", "NULL", "币安人生USDT")
    values = {n: OpenInterest(n, Decimal("1.10"), ORIGIN) for n in names}
    with opened(url) as sink:
        sink.save(replace(sweep(0), values_by_symbol=values, mark_prices={}), [], PERIOD)
        assert sink.save_past([(n, ORIGIN, 1, "1.10", None, "7.0") for n in names]) == len(names)
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT symbol, open_interest::text, extract(epoch FROM at)::text FROM samples_utc"
        )
        rows = found.fetchall()
        past = connection.execute("SELECT symbol FROM past").fetchall()
    assert {row[0] for row in rows} == {row[0] for row in past} == set(names)
    assert {row[1:] for row in rows} == {("1.10", f"{BEGIN.timestamp():.6f}")}
