"""The cache of history saves requests, and its failures affect no command.

Rule of this file: the exchange is a local one, and files and processes are real.
"""

import json
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from contextlib import ExitStack, aclosing
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest

from binance_oi import HistoryRow, OpenInterestClient
from binance_oi.market.history import SETTLED_MS
from binance_oi.recorder import history_cache
from binance_oi.recorder.history_cache import (
    APPEARS_MS,
    LARGEST,
    STEP,
    SUFFIX,
    HistoryCache,
    Kept,
    Recent,
    cache_directory,
    read_recent,
)
from binance_oi.simulator import LocalExchange
from support.generators import note_ends
from support.lanes import thorough

BEGIN = 1_795_003_200_000
SPAN = timedelta(days=2)
HANGS = 600.0  # s after which a process counts as hung


def rows_of(symbol: str, first: int, last: int) -> tuple[HistoryRow, ...]:
    """Rows of the instants `first` to `last` - 1; instant 0 is `BEGIN`, and a step is 5 minutes."""
    return tuple(
        HistoryRow(
            symbol,
            BEGIN + n * STEP,
            Decimal(f"{n + 1000}.10000000"),
            Decimal("0.00000010"),
            None if n % 3 else Decimal("19900000.50"),
        )
        for n in range(first, last)
    )


def kept(first: int, last: int, symbol: str = "BTCUSDT") -> Kept:
    return Kept(rows_of(symbol, first, last), BEGIN + first * STEP, BEGIN + (last - 1) * STEP)


@pytest.mark.parametrize("symbol", ["BTCUSDT", "币安人生USDT", "A/../B", "BTC-USDT"])
def test_cached_rows_are_loaded_digit_by_digit(symbol: str, tmp_path: Path) -> None:
    cache = HistoryCache(tmp_path / "deep" / "er")
    assert cache.load(symbol) is None
    cache.save(symbol, kept(0, 50, symbol), 0)
    found = cache.load(symbol)
    assert found == kept(0, 50, symbol)
    assert found is not None
    assert str(found.rows[3].notional) == "1.0E-7"
    assert f"{found.rows[0].circulating_supply:f}" == "19900000.50"
    assert [file.name for file in tmp_path.iterdir()] == ["deep"]
    assert len(list((tmp_path / "deep" / "er").iterdir())) == 1


def damaged(packed: bytes) -> dict[str, bytes]:
    text = zlib.decompress(packed).decode()
    content = json.loads(text)

    def with_changes(**changes: object) -> bytes:
        return zlib.compress(json.dumps(content | changes).encode())

    row = content["rows"][0]
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0xFF
    return {
        "empty": b"",
        "cut": packed[:-1],
        "half": packed[: len(packed) // 2],
        "flipped": bytes(flipped),
        "text": text.encode(),
        "no JSON": zlib.compress(b"{"),
        "deep": zlib.compress(b"[" * 100_000),
        "a list": zlib.compress(b"[]"),
        "a number": zlib.compress(b"7"),
        "bytes": zlib.compress(b"\xff\xfe"),
        "huge": zlib.compress(b" " * (LARGEST + 1) + text.encode()),
        "another symbol": with_changes(symbol="ETHUSDT"),
        "another format": with_changes(format=0),
        "no rows": with_changes(rows=None),
        "an empty row": with_changes(rows=[[]]),
        "short rows": with_changes(rows=[row[:2]]),
        "text as time": with_changes(rows=[["1", *row[1:]]]),
        "a flag as time": with_changes(rows=[[True, *row[1:]]]),
        "a time in the year 10000": with_changes(rows=[[10**15, *row[1:]]]),
        "NaN": with_changes(rows=[[row[0], "NaN", *row[2:]]]),
        "a float": with_changes(rows=[[row[0], 1.5, *row[2:]]]),
        "no notional": with_changes(rows=[[row[0], row[1], None, None]]),
        "a negative end": with_changes(until=-1),
        "order": with_changes(rows=content["rows"][::-1]),
    }


def test_an_unusable_file_counts_as_empty_and_is_replaced(tmp_path: Path) -> None:
    cache = HistoryCache(tmp_path)
    cache.save("BTCUSDT", kept(0, 5), 0)
    (file,) = tmp_path.iterdir()
    for name, content in damaged(file.read_bytes()).items():
        file.write_bytes(content)
        assert cache.load("BTCUSDT") is None, name
        cache.save("BTCUSDT", kept(2, 7), 0)
        assert cache.load("BTCUSDT") == kept(2, 7), name
        cache.save("BTCUSDT", kept(0, 5), 0)
    file.unlink()
    file.mkdir()
    assert cache.load("BTCUSDT") is None


def test_an_unwritable_directory_is_reported_once_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    cache = HistoryCache(tmp_path / "file" / "cache")
    for _ in range(3):
        assert cache.load("BTCUSDT") is None
        cache.save("BTCUSDT", kept(0, 5), 0)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith(f"history is not cached in {tmp_path}/file/cache: ")


@pytest.mark.skipif(sys.platform != "linux", reason="needs XDG_CACHE_HOME, as on Linux")
def test_the_cache_is_in_the_cache_directory_of_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "binance-oi"
    place = HistoryCache.of("https://user:secret@example.com:8443/x").directory
    assert place == tmp_path / "binance-oi" / "history-1" / "example.com%3A8443"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative/cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_directory() == tmp_path / "home" / ".cache" / "binance-oi"

    def no_home() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", no_home)
    assert cache_directory() is None
    cache = HistoryCache.of("https://example.com")
    cache.save("BTCUSDT", kept(0, 5), 0)
    assert cache.load("BTCUSDT") is None


@pytest.mark.parametrize(
    "one, two, wanted",
    [
        ((0, 5), (5, 9), (0, 9)),
        ((0, 5), (2, 9), (0, 9)),
        ((2, 9), (0, 5), (0, 9)),
        ((0, 9), (2, 5), (0, 9)),
        ((0, 5), (7, 9), (7, 9)),
        ((7, 9), (0, 5), (7, 9)),
    ],
)
def test_two_ranges_are_joined_unless_there_is_a_hole_between_them(
    one: tuple[int, int], two: tuple[int, int], wanted: tuple[int, int], tmp_path: Path
) -> None:
    first, second = kept(*one), kept(*two)
    if one[1] == two[0]:  # the second range begins after the last row of the first
        second = second._replace(first=first.until + 1)
    cache = HistoryCache(tmp_path)
    cache.save("BTCUSDT", first, 0)
    cache.save("BTCUSDT", second, 0)
    assert cache.load("BTCUSDT") == kept(*wanted)


def test_rows_older_than_the_limit_are_dropped(tmp_path: Path) -> None:
    cache = HistoryCache(tmp_path)
    cache.save("BTCUSDT", kept(0, 9), BEGIN + 4 * STEP)
    assert cache.load("BTCUSDT") == kept(4, 9)


def test_files_of_an_exchange_that_was_not_read_for_a_month_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "127.0.0.1%3A4000", tmp_path / "127.0.0.1%3A5000"
    HistoryCache(old).save("BTCUSDT", kept(0, 2), 0)
    HistoryCache(new).save("BTCUSDT", kept(0, 2), 0)
    assert old.exists()
    later = time.time() + 31 * 86_400
    monkeypatch.setattr(history_cache, "time", type("Clock", (), {"time": lambda: later}))
    HistoryCache(new).save("BTCUSDT", kept(0, 3), 0)
    assert [each.name for each in tmp_path.iterdir()] == [new.name]


WRITER = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
from test_history_cache import kept
from binance_oi.recorder import atomic
from binance_oi.recorder.history_cache import HistoryCache
atomic.LOCK_TRIES = 10**9  # wait, even if a busy machine suspends the owner of the lock
cache = HistoryCache(Path(sys.argv[2]))
for last in range(10, 40):
    cache.save("BTCUSDT", kept(int(sys.argv[3]), last), 0)
    if last == 25 and "wait" in sys.argv:
        print("half", flush=True)
        sys.stdin.readline()
"""


def test_processes_that_write_at_the_same_time_leave_complete_files(tmp_path: Path) -> None:
    here = str(Path(__file__).parent)
    command, pipe = [sys.executable, "-c", WRITER, here, str(tmp_path)], subprocess.PIPE
    cache = HistoryCache(tmp_path)
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                subprocess.Popen([*command, str(first), "wait"], stdin=pipe, stdout=pipe, text=True)
            )
            for first in range(3)
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "half\n"
        assert cache.load("BTCUSDT") == kept(0, 25)
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("\n")
            writer.stdin.flush()
        while any(writer.poll() is None for writer in writers):
            found = cache.load("BTCUSDT")
            assert found is not None
            first = (found.first - BEGIN) // STEP
            assert found.rows == rows_of("BTCUSDT", first, first + len(found.rows))
        assert [writer.wait(HANGS) for writer in writers] == [0, 0, 0]
    assert cache.load("BTCUSDT") == kept(0, 39)


@pytest.mark.parametrize("kills", [3, *thorough(50)])
def test_a_killed_writer_leaves_complete_files_and_no_lasting_leftovers(
    kills: int, tmp_path: Path
) -> None:
    here, cache, draw = str(Path(__file__).parent), HistoryCache(tmp_path), Random(kills)
    for _ in range(kills):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, here, str(tmp_path), "0"])
        for _ in range(draw.randrange(1, 4)):  # each change of the directory is a step of a write
            seen = {file.name for file in tmp_path.iterdir()}
            while {file.name for file in tmp_path.iterdir()} == seen and writer.poll() is None:
                time.sleep(0.001)
        writer.kill()
        writer.wait(HANGS)
        found = cache.load("BTCUSDT")
        assert found is None or found.rows == rows_of("BTCUSDT", 0, len(found.rows))
    cache.save("BTCUSDT", kept(0, 40), 0)
    assert [file.name for file in tmp_path.iterdir()] == [f"BTCUSDT{SUFFIX}"]
    assert cache.load("BTCUSDT") == kept(0, 40)


async def recent(
    exchange: LocalExchange, cache: HistoryCache, symbols: Sequence[str]
) -> dict[str, Recent]:
    async with OpenInterestClient(base_url=exchange.url) as client:
        found = read_recent(client, cache, symbols, SPAN)
        return {each.symbol: each async for each in found}


async def test_the_requests_end_with_the_iteration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = note_ends(monkeypatch, OpenInterestClient, "histories")
    async with LocalExchange() as exchange, OpenInterestClient(base_url=exchange.url) as client:
        names, cache = ("BTCUSDT", "ETHUSDT"), HistoryCache(tmp_path)
        async with aclosing(read_recent(client, cache, names, SPAN)) as found:
            await anext(found)
        assert ended == ["histories"]


def instants_between(began: float, ended: float) -> int:
    """The number of rows of a symbol that may have appeared between two times."""
    first, last = began * 1000 - SETTLED_MS, ended * 1000 - APPEARS_MS
    return int(last // STEP) - int(first // STEP)


async def test_only_newer_rows_are_requested(tmp_path: Path) -> None:
    symbols, cache = ("BTCUSDT", "ETHUSDT"), HistoryCache(tmp_path / "whole")
    shorter = HistoryCache(tmp_path / "shorter")
    async with LocalExchange() as exchange:
        began = time.time()
        first = await recent(exchange, cache, symbols)
        asked = exchange.history_counter.total
        assert asked >= 2 * len(symbols)
        again = await recent(exchange, cache, symbols)
        new = exchange.history_counter.total - asked
        assert new <= len(symbols) * instants_between(began, time.time())
        for symbol in symbols:
            assert again[symbol].rows[: len(first[symbol].rows)] == first[symbol].rows
            old = cache.load(symbol)
            assert old is not None
            cut = old.rows[:-20]
            shorter.save(symbol, Kept(cut, old.first, cut[-1].time), 0)
        asked = exchange.history_counter.total
        third = await recent(exchange, shorter, symbols)
        strays = exchange.history_counter.total - asked
        assert len(symbols) <= strays <= 2 * len(symbols)  # a page may need a second request
        for symbol in symbols:
            assert third[symbol].rows[: len(first[symbol].rows)] == first[symbol].rows
            truth = exchange.history(
                symbol, "5m", first[symbol].rows[0].time, first[symbol].rows[-1].time
            )
            assert [row.time for row in first[symbol].rows] == [row.time for row in truth]


async def test_a_symbol_that_fails_returns_its_cached_rows_and_the_error(tmp_path: Path) -> None:
    cache = HistoryCache(tmp_path)
    now = round(time.time() * 1000) // STEP * STEP
    old = Kept(rows_of("NOUSDT", 0, 2), now - round(SPAN.total_seconds() * 1000), now - 9 * STEP)
    cache.save("NOUSDT", old, 0)
    async with LocalExchange() as exchange:
        found = await recent(exchange, cache, ["NOUSDT", "NEITHERUSDT"])
    assert found["NOUSDT"].rows == old.rows
    assert found["NEITHERUSDT"].rows == ()
    assert all(each.error is not None for each in found.values())


async def test_a_cache_that_reaches_less_far_back_is_read_again_completely(tmp_path: Path) -> None:
    cache = HistoryCache(tmp_path)
    async with LocalExchange() as exchange:
        whole = (await recent(exchange, HistoryCache(None), ["BTCUSDT"]))["BTCUSDT"].rows
        part = whole[-30:]
        cache.save("BTCUSDT", Kept(part, part[0].time, part[-1].time), 0)
        found = (await recent(exchange, cache, ["BTCUSDT"]))["BTCUSDT"].rows
    assert found[0] in whole[:3]  # meanwhile, the range may have moved on by a row or two
    assert set(whole[3:]) <= set(found)


def test_a_new_row_is_requested_once_it_must_have_appeared() -> None:
    known = kept(0, 5)
    new = BEGIN + 5 * STEP
    assert not known.lacks(new + APPEARS_MS - 1)
    assert known.lacks(new + APPEARS_MS)
    assert not known.lacks(known.until)
    assert known.lacks(known.until - 1)  # the clock was set back
