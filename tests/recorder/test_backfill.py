"""A backfill stores every row of the exchange once, however often it is interrupted.

Rule of this file: tests compare rows with those of the local exchange. Time is virtual; files and
sockets are real.
"""

import asyncio
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from binance_oi import (
    Archive,
    InvalidSymbolError,
    OpenInterestClient,
    ProcessBudget,
    RecordingError,
    UnknownSymbolError,
    backfill,
)
from binance_oi.market.rows import ARCHIVE, HISTORY, InstantRow
from binance_oi.recorder import Backfilled, BackfillProgress, Recording
from binance_oi.recorder.backfill import PAGE_MS, Filler, Span, spans_of
from binance_oi.recorder.store import Store
from binance_oi.recorder.writing_thread import WritingThread
from binance_oi.simulator import LocalExchange
from support.lanes import some
from support.memory_sink import MemorySink
from support.recorded import write_recording
from support.version_3 import VERSION_3
from support.virtual_clock import wall_time

pytestmark = pytest.mark.virtual_time

STEP = 300_000
DAY_MS = 86_400_000
NOON_MS = 1_795_435_200_000  # when virtual time begins
NAMES = ("BTCUSDT", "1000SHIBUSDT", "币安人生USDT", "ETHUSDT")
SINCE, UNTIL = NOON_MS - 3 * DAY_MS, NOON_MS - STEP


def local(**options: Any) -> LocalExchange:
    return LocalExchange(clock=wall_time, **options)


def client_of(exchange: LocalExchange) -> OpenInterestClient:
    budget = ProcessBudget(clock=asyncio.get_running_loop().time, wall=wall_time)
    return OpenInterestClient(base_url=exchange.url, budget=budget)


def archive_of(exchange: LocalExchange, path: Path) -> Archive:
    cache = path.with_name("cache")
    return Archive(cache, base_url=exchange.url, pace=1000.0, clock=wall_time)


async def fill(exchange: LocalExchange, to: Any, *names: str, **options: Any) -> Backfilled:
    usual: dict[str, Any] = {"since": SINCE, "until": UNTIL, "clock": wall_time}
    async with client_of(exchange) as client:
        return await backfill(client, to, names or None, **usual | options)


def kept(path: str | Path, source: str | None = None) -> list[InstantRow]:
    with Recording(path) as recording:
        return list(recording.past(source=source).rows())


def truth(exchange: LocalExchange, name: str, first: int = SINCE, last: int = UNTIL) -> list[Any]:
    return [
        (name, row.time, HISTORY, row.open_interest, row.value)
        for row in exchange.history(name, "5m", first, last)
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "oi.db"


# -- from history --------------------------------------------------------------------------------


async def test_a_backfill_stores_every_row_and_the_next_run_requests_none(
    place: str,
) -> None:
    async with local() as exchange:
        found = await fill(exchange, place, *NAMES)
        rows = kept(place)
        expected = [row for name in sorted(NAMES) for row in truth(exchange, name)]
        assert [row[:5] for row in rows] == expected
        assert all(supply for *_, supply in rows)
        assert (found.symbols, found.rows, found.new) == (4, len(rows), len(rows))
        assert found.failed == {}
        holes = (UNTIL - SINCE) // STEP + 1 - len(rows) // 4
        before = exchange.history_counter.total
        again = await fill(exchange, place, *NAMES)
        assert kept(place) == rows
        assert again.new == 0
        # The second run requests only the instants that have no row.
        assert exchange.history_counter.total - before <= (4 if found.holes else 0) + holes
        assert exchange.used == 0


async def test_a_backfill_without_names_reads_the_symbols_of_the_recording(place: str) -> None:
    async with local() as exchange:
        await fill(exchange, place, "BTCUSDT", "ETHUSDT", since=UNTIL - 10 * STEP)
        found = await fill(exchange, place)
        assert found.symbols == 2
        assert {row[0] for row in kept(place)} == {"BTCUSDT", "ETHUSDT"}
        assert {row[1] for row in kept(place)} >= {SINCE + STEP, UNTIL}


async def test_rows_of_symbols_that_are_stored_concurrently_are_all_counted() -> None:
    async with local() as exchange, client_of(exchange) as client:
        with WritingThread() as thread:
            filler = Filler(client, MemorySink(), thread, wall_time)
            rows = [[(name, SINCE, HISTORY, "1.5", None, None)] for name in NAMES]
            await asyncio.gather(*map(filler.save, rows))
        assert (filler.rows, filler.new) == (4, 4)


async def test_only_missing_rows_are_requested(path: Path) -> None:
    since = NOON_MS - 20 * DAY_MS
    async with local(seed=3) as exchange:
        first = await fill(exchange, path, "BTCUSDT", since=since)
        whole = exchange.history_counter.total
        rows = kept(path)
        with closing(sqlite3.connect(path)) as connection:
            cut = f"DELETE FROM past WHERE time BETWEEN {since + DAY_MS} AND {since + 90_000_000}"
            assert connection.execute(cut).rowcount > 5
            connection.commit()
        again = await fill(exchange, path, "BTCUSDT", since=since)
        assert kept(path) == rows
        assert exchange.history_counter.total - whole <= first.holes + 1 < whole
        assert again.new < 20


async def test_by_default_thirty_days_are_read_except_for_the_last_minute(
    path: Path,
) -> None:
    async with local() as exchange, client_of(exchange) as client:
        await backfill(client, path, ["BTCUSDT"], clock=wall_time)
        times = [row[1] for row in kept(path)]
        assert (times[0], times[-1]) == (NOON_MS - 30 * DAY_MS + STEP, NOON_MS - STEP)


async def test_a_range_beyond_thirty_days_returns_the_rows_that_the_exchange_keeps(
    path: Path,
) -> None:
    async with local() as exchange:
        found = await fill(exchange, path, "BTCUSDT", since=timedelta(days=400))
        assert kept(path)[0][1] >= NOON_MS - 30 * DAY_MS
        assert (found.failed, exchange.history_counter.total) == ({}, 18)


async def test_a_backfill_keeps_samples_and_migrates_an_older_recording(path: Path) -> None:
    write_recording(path.with_name("newest.db"))
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_3)
        connection.execute("ATTACH ? AS newest", (str(path.with_name("newest.db")),))
        for table in ("settled", "recent", "sweeps", "gaps"):
            connection.execute(f"INSERT INTO {table} SELECT * FROM newest.{table}")
        connection.commit()
    with Recording(path) as recording:
        before = list(recording.samples()), list(recording.sweeps()), list(recording.gaps())
    async with local() as exchange:
        await fill(exchange, path)
        with Recording(path) as recording:
            names = recording.symbols()
            after = list(recording.samples()), list(recording.sweeps()), list(recording.gaps())
        assert after == before
        assert {row[0] for row in kept(path)} == {*names}


async def test_without_symbols_those_of_the_recording_are_read_or_else_all_trading_ones(
    path: Path,
) -> None:
    async with local() as exchange:
        for symbol in exchange.universe.symbols.values():
            if symbol.name not in NAMES:
                exchange.set_status(symbol.name, "SETTLING")
        since = NOON_MS - 6 * STEP
        found = await fill(exchange, path, since=since)
        assert found.symbols == 4
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DELETE FROM past WHERE symbol != 'ETHUSDT'")
            connection.commit()
        found = await fill(exchange, path, since=since - STEP)
        assert {row[0] for row in kept(path)} == {"ETHUSDT"}


async def test_a_symbol_that_fails_is_named_and_the_others_are_stored(path: Path) -> None:
    async with local() as exchange:
        found = await fill(exchange, path, "NOUSDT", "BTCUSDT")
        assert isinstance(found.failed["NOUSDT"], UnknownSymbolError)
        assert [row[:5] for row in kept(path)] == truth(exchange, "BTCUSDT")


async def test_a_backfill_waits_for_the_end_of_a_ban(path: Path) -> None:
    async with local() as exchange:
        exchange.ban(600.0)
        found = await fill(exchange, path, "BTCUSDT")
        assert found.failed == {}
        assert [row[:5] for row in kept(path)] == truth(exchange, "BTCUSDT")
        assert exchange.answers[418] <= 8
        assert wall_time() * 1000 > NOON_MS + 600_000


async def test_progress_counts_symbols_and_then_days(path: Path) -> None:
    seen = list[BackfillProgress]()
    async with local() as exchange, archive_of(exchange, path) as archive:
        found = await fill(exchange, path, *NAMES, archive=archive, on_progress=seen.append)
    assert [each.done for each in seen if each.source == "history"] == [1, 2, 3, 4]
    days = [each for each in seen if each.source == "archive"]
    assert [each.done for each in days] == [*range(1, 13)]  # four symbols, three days each
    assert days[-1].of == 12
    assert seen[-1].rows <= found.rows


# -- from the archive ----------------------------------------------------------------------------


async def test_rows_of_the_archive_are_stored_beside_those_of_history(path: Path) -> None:
    async with local() as exchange, archive_of(exchange, path) as archive:
        found = await fill(exchange, path, *NAMES, archive=archive, since=NOON_MS - 9 * DAY_MS)
        archived = kept(path, "archive")
        assert len(archived) + len(kept(path, "history")) == found.new
        last = UNTIL // DAY_MS * DAY_MS - 1
        assert max(row[1] for row in archived) <= last
        for name in NAMES:
            history = {t: value for _, t, _, value, _ in truth(exchange, name, SINCE, last)}
            ours = {row[1]: row[3] for row in archived if row[0] == name and row[1] >= SINCE}
            assert ours.keys() <= history.keys()
            assert all(value == f"{history[time]}00000000" for time, value in ours.items())
            assert len(ours) > 0.9 * len(history)
        assert {source for _, _, source, *_ in kept(path)} == {HISTORY, ARCHIVE}


async def test_a_day_that_was_republished_corrects_the_recording(path: Path) -> None:
    async with local() as exchange:
        async with archive_of(exchange, path) as archive:
            await fill(exchange, path, "BTCUSDT", archive=archive)
        async with archive_of(exchange, path) as archive:
            found = await fill(exchange, path, "BTCUSDT", archive=archive)
        assert found.new == 0
        exchange.republish("BTCUSDT", "2026-11-21")
        before = {row[1] for row in kept(path, "archive")}
        async with archive_of(exchange, path) as archive:
            found = await fill(exchange, path, "BTCUSDT", archive=archive)
        after = {row[1] for row in kept(path, "archive")}
        assert before <= after
        assert found.new == len(after - before)


# -- interruptions -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", some(range(20), always=2))
async def test_a_run_cancelled_at_any_moment_continues_to_the_same_rows(
    seed: int, path: Path
) -> None:
    draw, undisturbed = random.Random(seed), path.with_name("undisturbed.db")
    async with local(latency=0.05, seed=seed) as exchange:
        async with archive_of(exchange, path) as archive:
            began = asyncio.get_running_loop().time()
            await fill(exchange, undisturbed, *NAMES, archive=archive)
            longest = asyncio.get_running_loop().time() - began
        for _ in range(6):
            async with archive_of(exchange, path.with_name("other")) as archive:
                with suppress(TimeoutError):
                    async with asyncio.timeout(draw.uniform(0.0, longest)):
                        await fill(exchange, path, *NAMES, archive=archive)
        async with archive_of(exchange, path.with_name("other")) as archive:
            await fill(exchange, path, *NAMES, archive=archive)
    assert kept(path) == kept(undisturbed)


async def test_a_failing_sink_ends_the_run_and_the_next_run_continues() -> None:
    sink = MemorySink()
    async with local() as exchange:
        sink.failing["save_past"] = "no room"
        with pytest.raises(RecordingError, match="memory cannot be written: no room"):
            await fill(exchange, sink, *NAMES)
        assert not sink.is_claimed
        del sink.failing["save_past"]
        await fill(exchange, sink, *NAMES)
        rows = sorted(row[:5] for row in sink.past.values())
        assert rows == sorted(row for name in NAMES for row in truth(exchange, name))


async def test_another_writer_or_another_source_is_refused_before_any_request(path: Path) -> None:
    write_recording(path)
    with closing(Store(path, "testnet")):
        pass
    async with local() as exchange:
        with pytest.raises(RecordingError, match="is a recording of testnet, and not of local"):
            await fill(exchange, path, "BTCUSDT")
        path.with_name("text.db").write_text("no recording")
        with pytest.raises(RecordingError, match="is not a recording"):
            await fill(exchange, path.with_name("text.db"), "BTCUSDT")
        assert exchange.history_counter.total == 0


async def test_two_backfills_of_one_recording_exclude_each_other(path: Path) -> None:
    async with local(latency=0.5) as exchange:
        first = asyncio.create_task(fill(exchange, path, *NAMES))
        await asyncio.sleep(0.6)
        with pytest.raises(RecordingError, match="is being recorded by process"):
            await fill(exchange, path, "BTCUSDT")
        assert (await first).failed == {}
    assert not path.with_name("oi.db-lock").exists()


async def test_impossible_arguments_are_refused_at_once(path: Path) -> None:
    async with local() as exchange:
        with pytest.raises(TypeError, match="since"):
            await fill(exchange, path, since="3d")
        with pytest.raises(ValueError, match="must not be later than until"):
            await fill(exchange, path, since=UNTIL, until=SINCE)
        with pytest.raises(TypeError, match="to must be a path or a Sink"):
            await fill(exchange, 5)
        with pytest.raises(InvalidSymbolError):
            await fill(exchange, path, "BTC USDT")
    assert not path.exists()  # noqa: ASYNC240


# -- which requests ------------------------------------------------------------------------------


def covered(spans: Iterator[Span]) -> list[tuple[int, int]]:
    return [(span.first // STEP, span.last // STEP) for span in spans]


def test_distant_instants_take_separate_requests_and_close_ones_share_one() -> None:
    page = PAGE_MS // STEP
    assert covered(spans_of([])) == []
    assert covered(spans_of([0])) == [(0, 0)]
    assert covered(spans_of(n * STEP for n in range(2000))) == [(0, 1999)]
    assert covered(spans_of([0, (page - 1) * STEP])) == [(0, page - 1)]
    assert covered(spans_of([0, page * STEP])) == [(0, 0), (page, page)]


@pytest.mark.parametrize("seed", range(20))
def test_spans_cover_each_instant_with_no_more_pages_than_instants(seed: int) -> None:
    draw = random.Random(seed)
    wanted = sorted(draw.sample(range(9000), draw.randrange(1, 400)))
    spans = covered(spans_of(n * STEP for n in wanted))
    assert all(any(first <= n <= last for first, last in spans) for n in wanted)
    assert {first for first, _ in spans} | {last for _, last in spans} <= {*wanted}
    pages = sum(-(-(last - first + 1) // 500) for first, last in spans)
    assert pages <= min(len(wanted), 19)
