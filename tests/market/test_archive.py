"""Each archive day has rows, and holes with reasons; no outdated or damaged file is used.

Rule of this file: a test makes its files, or reads those of the local exchange. Time is virtual.
"""

import asyncio
import hashlib
import os
import random
import tracemalloc
import zipfile
from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from binance_oi import (
    Archive,
    ArchiveDay,
    ArchiveProgress,
    ClientClosedError,
    DecodeError,
    ForbiddenError,
    Gap,
    InvalidSymbolError,
    RecordingError,
    ServerError,
    TransportError,
)
from binance_oi.exchange.archive import MAX_ZIP
from binance_oi.market.archive import AHEAD, FAILED_IN_A_ROW, MAX_CONNECTIONS
from binance_oi.simulator import Files, LocalExchange
from support.archive_files import (
    DAY_MS,
    STEP,
    ArchiveServer,
    line,
    midnight,
    pack,
    path_of,
    published,
    whole_day,
)
from support.lanes import some
from support.virtual_clock import wall_time

pytestmark = pytest.mark.virtual_time

TODAY = date(2026, 11, 23)  # in virtual time
DAY = date(2026, 11, 10)
BEGIN = midnight(DAY)
ONE = timedelta(days=1)
NAMES = ("BTCUSDT", "1000SHIBUSDT", "币安人生USDT", "BTCUSDT_261225")


def archive_of(server: ArchiveServer | LocalExchange, cache: Path, **options: Any) -> Archive:
    merged: dict[str, Any] = {"base_url": server.url, "pace": 1000.0, "clock": wall_time}
    return Archive(cache, **merged | options)


def files_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


async def read(
    server: ArchiveServer | LocalExchange,
    cache: Path,
    symbols: Iterable[str] = ("BTCUSDT",),
    *,
    since: date | int = DAY,
    until: date | int = DAY,
    **options: Any,
) -> list[ArchiveDay]:
    """Read all days from `since` to `until`; a date includes its whole day."""
    first = midnight(since) if isinstance(since, date) else since
    last = midnight(until) + DAY_MS - 1 if isinstance(until, date) else until
    async with archive_of(server, cache, **options) as archive:
        return [day async for day in archive.days(symbols, since=first, until=last)]


def instants(days: Iterable[ArchiveDay]) -> dict[int, str]:
    return {row.time: f"{row.open_interest:f}" for day in days for row in day}


def spans(day: ArchiveDay) -> list[tuple[int, int, str]]:
    """Each hole as its first and last instant, in steps after `BEGIN`, and its reason."""
    return [((h.first - BEGIN) // STEP, (h.last - BEGIN) // STEP, h.reason) for h in day.holes]


# -- days and holes ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
async def test_a_day_has_its_rows_and_the_next_run_reads_only_its_checksum(
    name: str, tmp_path: Path
) -> None:
    server = ArchiveServer(published(name, DAY, whole_day(name, DAY)))
    async with server.running():
        (found,) = await read(server, tmp_path, [name])
        (again,) = await read(server, tmp_path, [name])
    assert [row.time for row in found] == [BEGIN + n * STEP for n in range(288)]
    assert [row.open_interest for row in found] == [Decimal(f"{n + 1}.50") for n in range(288)]
    assert {(row.symbol, row.source) for row in found} == {(name, "archive")}
    assert (found.holes, found.error, found.is_cached) == ((), None, False)
    assert (again.written, again.is_cached) == (found.written, True)
    path = path_of(name, DAY)
    assert server.asked == [f"{path}.CHECKSUM", path, f"{path}.CHECKSUM"]


async def test_several_runs_use_one_cache_at_the_same_time(tmp_path: Path) -> None:
    name = NAMES[0]
    for number in range(5):
        server = ArchiveServer(published(name, DAY, whole_day(name, DAY)))
        async with server.running():
            cache = tmp_path / str(number)
            runs = await asyncio.gather(*(read(server, cache, [name]) for _ in range(4)))
        assert [len(list(day)) for (day,) in runs] == [288] * 4
        assert not [file for file in files_in(cache) if file.suffix == ".part"]


STYLES = [(a, b, c) for a in (False, True) for b in (False, True) for c in (False, True)]


@pytest.mark.parametrize("late", STYLES, ids=str)
async def test_each_midnight_is_read_once_from_whichever_file_contains_it(
    late: tuple[bool, bool, bool], tmp_path: Path
) -> None:
    files: dict[str, bytes] = {}
    for number, is_late in enumerate(late):
        day = DAY + number * ONE
        files |= published("BTCUSDT", day, whole_day("BTCUSDT", day, late=is_late))
    server = ArchiveServer(files)
    async with server.running():
        found = await read(server, tmp_path, since=DAY + ONE, until=DAY + 2 * ONE)
    times = [row.time for day in found for row in day]
    assert times == sorted(set(times))
    holes = {hole.first for day in found for hole in day.holes}
    expected = {
        midnight(DAY + number * ONE)
        for number in (1, 2)
        if late[number] and not late[number - 1]  # no file has this instant
    }
    assert holes == expected
    assert {*times, *holes} == {*range(midnight(DAY + ONE), midnight(DAY + 3 * ONE), STEP)}


async def test_each_instant_without_a_row_is_in_a_hole_that_states_the_reason(
    tmp_path: Path,
) -> None:
    lines = whole_day("BTCUSDT", DAY)
    for number in (3, 4, 6):
        lines[number] = line("BTCUSDT", BEGIN + number * STEP, "0.0")
    lines[9:20] = []
    server = ArchiveServer(published("BTCUSDT", DAY, lines))
    async with server.running():
        found, missing = await read(server, tmp_path, until=DAY + ONE)
    assert spans(found) == [(3, 4, "no_value"), (6, 6, "no_value"), (9, 19, "no_row")]
    assert spans(missing) == [(288, 575, "no_file")]
    assert (len(missing), missing.error) == (0, None)


async def test_a_file_that_may_still_appear_is_reported_as_not_published(tmp_path: Path) -> None:
    server = ArchiveServer({})
    async with server.running():
        found = await read(server, tmp_path, since=TODAY - 3 * ONE, until=TODAY + 9 * ONE)
    assert [day.day for day in found] == [TODAY - 3 * ONE, TODAY - 2 * ONE, TODAY - ONE]
    assert [hole.reason for day in found for hole in day.holes] == [
        "no_file",
        "not_published",
        "not_published",
    ]


async def test_rows_and_holes_cover_only_the_requested_range(tmp_path: Path) -> None:
    lines = whole_day("BTCUSDT", DAY)
    del lines[:10], lines[20:]
    server = ArchiveServer(published("BTCUSDT", DAY, lines))
    async with server.running():
        (found,) = await read(server, tmp_path, since=BEGIN + 8 * STEP - 1, until=BEGIN + 31 * STEP)
    assert list(instants([found])) == [BEGIN + n * STEP for n in range(10, 30)]
    assert spans(found) == [(8, 9, "no_row"), (30, 31, "no_row")]


@pytest.mark.parametrize(
    "since, until",
    [(TODAY, None), (DAY, DAY - ONE)],
    ids=["since today", "reversed"],
)
async def test_an_empty_range_is_no_error_and_a_reversed_range_is_one(
    since: date, until: date | None, tmp_path: Path
) -> None:
    server = ArchiveServer({})
    async with server.running(), archive_of(server, tmp_path) as archive:
        first = midnight(since)
        if until is None:
            assert [day async for day in archive.days(["BTCUSDT"], since=first)] == []
        else:
            with pytest.raises(ValueError, match="must not be later than until"):
                archive.days(["BTCUSDT"], since=first, until=midnight(until))
    assert server.asked == []


async def test_impossible_arguments_are_refused_at_once(tmp_path: Path) -> None:
    async with archive_of(ArchiveServer({}), tmp_path, base_url="http://127.0.0.1:9") as archive:
        with pytest.raises(InvalidSymbolError):
            archive.days("BTCUSDT")
        with pytest.raises(InvalidSymbolError):
            archive.days(["../../etc"])
        with pytest.raises(TypeError, match="since"):
            archive.days(["BTCUSDT"], since="yesterday")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="time zone"):
            archive.days(["BTCUSDT"], since=datetime(2026, 1, 1))
    wrong: dict[str, Any] = {"connections": 5, "pace": 0, "timeout": -1, "proxy": "ftp://x"}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            Archive(tmp_path, **{name: value})
    with pytest.raises(ValueError, match="base_url must be https"):
        Archive(tmp_path, base_url="http://example.com")


async def test_days_of_many_symbols_are_returned_in_order_and_reported_as_progress(
    tmp_path: Path,
) -> None:
    files: dict[str, bytes] = {}
    for name in NAMES:
        for number in range(6):
            day = DAY + number * ONE
            files |= published(name, day, whole_day(name, day))
    server, seen = ArchiveServer(files), list[ArchiveProgress]()
    async with server.running(), archive_of(server, tmp_path) as archive:
        since, until = midnight(DAY), midnight(DAY + 6 * ONE) - 1
        days = archive.days(NAMES, since=since, until=until, on_progress=seen.append)
        found = [(day.symbol, day.day) async for day in days]
    assert found == [(name, DAY + n * ONE) for name in NAMES for n in range(6)]
    assert seen[-1] == ArchiveProgress(NAMES[-1], DAY + 5 * ONE, 24, 24, 24 * 288, 48)


# -- the cache -----------------------------------------------------------------------------------


async def test_a_day_that_was_republished_is_downloaded_again(tmp_path: Path) -> None:
    server = ArchiveServer(published("BTCUSDT", DAY, whole_day("BTCUSDT", DAY)[:200]))
    async with server.running():
        (before,) = await read(server, tmp_path)
        server.files |= published("BTCUSDT", DAY, whole_day("BTCUSDT", DAY))
        (after,) = await read(server, tmp_path)
        (again,) = await read(server, tmp_path)
    assert (len(before), len(after), after.is_cached) == (200, 288, False)
    assert (again.written, again.is_cached) == (after.written, True)
    assert server.downloads == 2


DAMAGE: dict[str, Callable[[Path], object]] = {
    "torn": lambda file: file.write_bytes(file.read_bytes()[:100]),
    "empty": lambda file: file.write_bytes(b""),
    "other bytes": lambda file: file.write_bytes(b"x" * 5000),
    "huge": lambda file: os.truncate(file, 64 * 1024 * 1024),
    "gone": lambda file: file.unlink(),
}


@pytest.mark.parametrize("kind", DAMAGE)
async def test_a_damaged_file_in_the_cache_is_downloaded_again(kind: str, tmp_path: Path) -> None:
    server = ArchiveServer(published("BTCUSDT", DAY, whole_day("BTCUSDT", DAY)))
    async with server.running():
        (before,) = await read(server, tmp_path)
        (file,) = files_in(tmp_path)
        DAMAGE[kind](file)
        (after,) = await read(server, tmp_path)
        (again,) = await read(server, tmp_path)
    assert (after.written, after.is_cached, again.is_cached) == (before.written, False, True)


async def test_a_cache_that_cannot_be_used_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    server = ArchiveServer(published("BTCUSDT", DAY, whole_day("BTCUSDT", DAY)))
    async with server.running():
        (tmp_path / "file").write_text("")
        with pytest.raises(RecordingError, match=r"file/BTCUSDT/BTCUSDT-metrics.*cannot be "):
            await read(server, tmp_path / "file")
        (tmp_path / "BTCUSDT" / f"BTCUSDT-metrics-{DAY}.zip").mkdir(parents=True)
        with pytest.raises(RecordingError, match="cannot be read"):
            await read(server, tmp_path)


async def test_a_file_that_does_not_match_its_checksum_is_downloaded_again(
    tmp_path: Path,
) -> None:
    old = published("BTCUSDT", DAY, whole_day("BTCUSDT", DAY)[:5])
    server = ArchiveServer(published("BTCUSDT", DAY, whole_day("BTCUSDT", DAY)))
    path = path_of("BTCUSDT", DAY)
    stale = web.Response
    server.script = lambda asked, times: (
        stale(body=old[path]) if (asked, times) == (path, 1) else None
    )
    async with server.running():
        (found,) = await read(server, tmp_path)
    assert len(found) == 288


async def test_a_wrong_checksum_is_an_error_of_its_day_only(tmp_path: Path) -> None:
    files = published("BTCUSDT", DAY, whole_day("BTCUSDT", DAY))
    files |= published("BTCUSDT", DAY + ONE, whole_day("BTCUSDT", DAY + ONE))
    files[f"{path_of('BTCUSDT', DAY)}.CHECKSUM"] = b"0" * 64
    server = ArchiveServer(files)
    async with server.running():
        wrong, right = await read(server, tmp_path, until=DAY + ONE)
    assert isinstance(wrong.error, DecodeError)
    assert "does not have its checksum" in str(wrong.error)
    assert [hole.reason for hole in wrong.holes] == ["unreadable"]
    assert (len(wrong), len(right), right.error) == (0, 288, None)
    assert [path.name for path in files_in(tmp_path)] == [f"BTCUSDT-metrics-{DAY + ONE}.zip"]


def signed(data: bytes) -> dict[str, bytes]:
    """A file of `DAY` with any content, and the checksum that matches it."""
    path = path_of("BTCUSDT", DAY)
    return {path: data, f"{path}.CHECKSUM": hashlib.sha256(data).hexdigest().encode()}


BROKEN = {
    "no zip": b"<html>",
    "empty": b"",
    "bomb": pack(f"BTCUSDT-metrics-{DAY}.csv", bytes(100 * 1024 * 1024)),
    "lzma": pack(f"BTCUSDT-metrics-{DAY}.csv", b"", zipfile.ZIP_LZMA),
    "other columns": pack(f"BTCUSDT-metrics-{DAY}.csv", b"create_time,symbol\n"),
    "too long": random.Random(1).randbytes(MAX_ZIP + 1),
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_an_unreadable_file_is_an_error_of_its_day_only(kind: str, tmp_path: Path) -> None:
    files = signed(BROKEN[kind])
    files |= published("BTCUSDT", DAY + ONE, whole_day("BTCUSDT", DAY + ONE))
    server = ArchiveServer(files)
    async with server.running():
        tracemalloc.start()
        try:
            for _ in range(2):  # the second time from the cache, unless the file is too long
                wrong, right = await read(server, tmp_path, until=DAY + ONE)
                assert isinstance(wrong.error, DecodeError)
                assert (len(right), right.error) == (288, None)
            assert tracemalloc.get_traced_memory()[1] < 32 * 1024 * 1024
        finally:
            tracemalloc.stop()


async def test_a_file_without_a_checksum_counts_as_missing(tmp_path: Path) -> None:
    files = published("BTCUSDT", DAY, whole_day("BTCUSDT", DAY))
    del files[f"{path_of('BTCUSDT', DAY)}.CHECKSUM"]
    server = ArchiveServer(files)
    async with server.running():
        (found,) = await read(server, tmp_path)
    assert [hole.reason for hole in found.holes] == ["no_file"]


# -- the server ----------------------------------------------------------------------------------


async def test_no_more_than_four_requests_are_under_way(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for number in range(12):
        day = DAY - number * ONE
        files |= published("BTCUSDT", day, whole_day("BTCUSDT", day))
    server, all_there = ArchiveServer(files), asyncio.Event()

    async def hold() -> None:
        if server.under_way == MAX_CONNECTIONS:
            all_there.set()
        await all_there.wait()

    server.hold = hold  # type: ignore[method-assign]
    async with server.running():
        found = await read(server, tmp_path, since=DAY - 11 * ONE)
    assert (len(found), server.most) == (12, MAX_CONNECTIONS)


async def test_requests_are_sent_at_an_even_pace(tmp_path: Path) -> None:
    times = list[float]()
    server = ArchiveServer({})

    async def hold() -> None:
        times.append(asyncio.get_running_loop().time())

    server.hold = hold  # type: ignore[method-assign]
    async with server.running():
        await read(server, tmp_path, since=DAY - 19 * ONE, pace=2.0)
    assert len(times) == 21  # 20 days, and the day before the first one
    steps = [later - before for before, later in pairwise(times)]
    assert min(steps[1:]) > 0.4
    assert times[-1] - times[0] >= 9.5


async def test_a_temporary_failure_is_retried_after_the_requested_wait(tmp_path: Path) -> None:
    server = ArchiveServer(published("BTCUSDT", DAY, whole_day("BTCUSDT", DAY)))
    asked_to_wait = {"Retry-After": "70"}
    server.script = lambda path, times: (
        web.Response(status=[503, 429][times - 1], headers=asked_to_wait)
        if times < 3 and "CHECKSUM" in path
        else None
    )
    began = asyncio.get_running_loop().time()
    async with server.running():
        (found,) = await read(server, tmp_path)
    assert len(found) == 288
    assert 70.0 < asyncio.get_running_loop().time() - began < 80.0


@pytest.mark.parametrize("status", [403, 451])
async def test_a_refusal_of_our_address_ends_the_run_at_once(status: int, tmp_path: Path) -> None:
    server = ArchiveServer({})
    server.script = lambda _path, _times: web.Response(status=status, text="not here")
    async with server.running():
        with pytest.raises(ForbiddenError, match="not here"):
            await read(server, tmp_path)
    assert len(server.asked) == 1


async def test_one_file_that_always_fails_is_an_error_of_its_day_only(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for number in range(4):
        day = DAY + number * ONE
        files |= published("BTCUSDT", day, whole_day("BTCUSDT", day))
    server = ArchiveServer(files)
    bad = path_of("BTCUSDT", DAY + ONE)
    server.script = lambda path, _: web.Response(status=500) if path == bad else None
    async with server.running():
        found = await read(server, tmp_path, until=DAY + 3 * ONE)
    assert [len(day) for day in found] == [288, 0, 288, 288]
    assert isinstance(found[1].error, ServerError)


async def test_an_outage_ends_the_run_and_the_next_one_continues(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for number in range(20):
        day = DAY - number * ONE
        files |= published("BTCUSDT", day, whole_day("BTCUSDT", day))
    server = ArchiveServer(files)
    async with server.running():
        server.script = lambda path, _: web.Response(status=503) if server.downloads > 9 else None
        with pytest.raises(ServerError):
            await read(server, tmp_path, since=DAY - 19 * ONE)
        kept = len(files_in(tmp_path))
        server.script = lambda _path, _times: None
        before = server.downloads
        found = await read(server, tmp_path, since=DAY - 19 * ONE)
    assert FAILED_IN_A_ROW < kept < 20
    assert server.downloads - before == 20 - kept
    assert [len(day) for day in found] == [288] * 20


async def test_a_missing_server_is_a_transport_error(tmp_path: Path) -> None:
    server = ArchiveServer({})
    async with server.running():
        pass
    with pytest.raises(TransportError):
        await read(server, tmp_path, until=DAY + 5 * ONE)


async def test_reading_from_a_closed_archive_raises_client_closed(tmp_path: Path) -> None:
    server = ArchiveServer(published("BTCUSDT", DAY, whole_day("BTCUSDT", DAY)))
    async with server.running(), archive_of(server, tmp_path) as archive:
        await archive.aclose()
        with pytest.raises(ClientClosedError):
            await anext(archive.days(["BTCUSDT"], since=BEGIN))


async def test_leaving_the_loop_early_cancels_requests_under_way(tmp_path: Path) -> None:
    server, never = ArchiveServer({}), asyncio.Event()

    async def hold() -> None:
        if not any(str(DAY - n * ONE) in server.asked[-1] for n in (9, 10)):
            await never.wait()

    server.hold = hold  # type: ignore[method-assign]
    async with server.running():
        before = asyncio.all_tasks()
        async with archive_of(server, tmp_path) as archive:
            days = archive.days(["BTCUSDT"], since=BEGIN - 9 * DAY_MS)
            assert (await anext(days)).day == DAY - 9 * ONE
            await days.aclose()
            ours = [task for task in asyncio.all_tasks() - before if "_file" in repr(task)]
            assert ours == []
        never.set()
    assert len(server.asked) <= AHEAD + 2


async def test_a_slow_reader_pauses_the_requests(tmp_path: Path) -> None:
    server = ArchiveServer({})
    async with server.running(), archive_of(server, tmp_path) as archive:
        days = archive.days(["BTCUSDT"], since=BEGIN - 100 * DAY_MS)
        await anext(days)
        await asyncio.sleep(60.0)
        assert len(server.asked) <= AHEAD + 1
        await days.aclose()


# -- the local exchange, and memory over many days -------------------------------------------------

FAULTY = Files(
    late_begin=0.5,
    doubled=0.2,
    shuffled=0.2,
    missing_day=0.1,
    missing_row=0.02,
    no_value=0.02,
    blank_ratios=0.2,
)


@pytest.mark.parametrize("seed", some(range(3), always=1))
async def test_rows_equal_the_history_and_the_files_of_the_local_exchange(
    seed: int, tmp_path: Path
) -> None:
    since = TODAY - 25 * ONE
    async with LocalExchange(clock=wall_time, seed=seed, files=FAULTY) as exchange:
        found = await read(exchange, tmp_path, NAMES, since=since, until=TODAY)
        for name in NAMES:
            expected: dict[int, str] = {}
            for number in range(-1, 25):
                rows = exchange.archived(name, since + number * ONE)
                expected |= {row.time: row.open_interest for row in rows or ()}
            first, last = midnight(since), midnight(TODAY) - 1
            expected = {t: value for t, value in expected.items() if first <= t <= last}
            ours = [day for day in found if day.symbol == name]
            got = {row.time: f"{row.open_interest:.8f}" for day in ours for row in day}
            assert got == dict(sorted(expected.items()))
            holes = {
                at
                for day in ours
                for hole in day.holes
                for at in range(hole.first, hole.last + 1, STEP)
            }
            assert holes == {*range(first, last, STEP)} - {*got}
            history = exchange.history(name, "5m", first, last)
            assert {*got.items()} <= {(row.time, row.open_interest) for row in history}
        assert exchange.used == exchange.history_counter.total == 0


async def test_the_local_exchange_can_republish_a_day(tmp_path: Path) -> None:
    async with LocalExchange(clock=wall_time, files=FAULTY) as exchange:
        (before,) = await read(exchange, tmp_path)
        exchange.republish("BTCUSDT", str(DAY))
        (after,) = await read(exchange, tmp_path)
        assert after.written != before.written
        assert not after.is_cached
        with pytest.raises(ValueError, match="not listed"):
            exchange.republish("NEVERUSDT", str(DAY))
        with pytest.raises(ValueError, match="isoformat"):
            exchange.republish("BTCUSDT", "someday")


async def test_memory_does_not_grow_with_the_number_of_days(tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for number in range(24):
        day = DAY - number * ONE
        files |= published("BTCUSDT", day, whole_day("BTCUSDT", day))
    server = ArchiveServer(files)

    async def peak(days: int) -> int:
        async with archive_of(server, tmp_path) as archive:
            tracemalloc.start()
            try:
                until, since = BEGIN + DAY_MS - 1, BEGIN - (days - 1) * DAY_MS
                async for _ in archive.days(["BTCUSDT"], since=since, until=until):
                    pass
                return tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    async with server.running():
        await peak(24)
        assert await peak(24) < 1.5 * await peak(8)


def test_a_hole_is_printed_with_its_times_and_its_reason() -> None:
    hole = Gap(BEGIN, BEGIN + STEP, "no_row")
    assert str(hole) == "2026-11-10 00:00:00 to 2026-11-10 00:05:00 UTC: no_row"
