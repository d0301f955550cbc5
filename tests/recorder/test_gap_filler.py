"""A recorder fills its own gaps from history without losing a live slot.

Rule of this file: recorders run with a real client, a local exchange and virtual time.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from binance_oi import Gap, OpenInterestClient, ProcessBudget
from binance_oi.exchange.routes import KEPT_MS
from binance_oi.recorder import Recorder, Recording, Status
from binance_oi.recorder.gap_filler import GapFiller, instants_in
from binance_oi.simulator import Bans, LocalExchange
from support.memory_sink import MemorySink
from support.recording_market import Market
from support.virtual_clock import wall_time

pytestmark = pytest.mark.virtual_time

STEP, PERIOD = 300_000, 20_000
NAMES = ("BTCUSDT", "1000SHIBUSDT", "ETHUSDT")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "oi.db"


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[tuple[LocalExchange, OpenInterestClient]]:
    budget = ProcessBudget(clock=asyncio.get_running_loop().time, wall=wall_time)
    async with (
        LocalExchange(clock=wall_time, **options) as exchange,
        OpenInterestClient(base_url=exchange.url, budget=budget) as client,
    ):
        yield exchange, client


async def record(
    client: OpenInterestClient, path: str | Path | MemorySink, minutes: float, **options: Any
) -> Status:
    usual: dict[str, Any] = {"every": 20.0, "symbols": NAMES, "backfill": True, "clock": wall_time}
    recorder = Recorder(client, path, **usual | options)
    asyncio.get_running_loop().call_later(60.0 * minutes, recorder.stop)
    await recorder.run()
    return recorder.status


def missed(path: str | Path) -> set[int]:
    """The 5-minute instants of all gaps of whole sweeps."""
    with Recording(path) as recording:
        return {at for gap in recording.gaps() for at in instants_in(gap, PERIOD)}


def kept(path: str | Path, name: str) -> dict[int, str]:
    with Recording(path) as recording:
        rows = recording.past([name], source="history").rows()
        return {row[1]: row[3] for row in rows}


def truth(exchange: LocalExchange, name: str, instants: set[int]) -> dict[int, str]:
    rows = exchange.history(name, "5m", min(instants), max(instants))
    return {row.time: row.open_interest for row in rows if row.time in instants}


def swept(path: Path) -> list[int]:
    with Recording(path) as recording:
        return [sweep.slot for sweep in recording.sweeps()]


async def test_a_gap_from_a_ban_is_filled_from_history(place: str) -> None:
    async with running(bans=Bans(after=None)) as (exchange, client):
        asyncio.get_running_loop().call_later(250.0, exchange.ban, 1500.0)
        status = await record(client, place, 45.0)
        instants = missed(place)
        assert len(instants) >= 5
        for name in NAMES:
            expected = truth(exchange, name, instants)
            assert len(expected) >= 5
            assert expected.items() <= kept(place, name).items()
        assert status.backfilled == sum(len(kept(place, name)) for name in NAMES)
        assert exchange.history_counter.total <= 2 * len(NAMES)  # two fills of one page per symbol


async def test_filling_gaps_loses_no_live_slot(tmp_path: Path) -> None:
    slots = []
    for backfills in (False, True):
        path = tmp_path / f"{backfills}.db"
        async with running(latency=0.2, bans=Bans(after=None)) as (exchange, client):
            loop = asyncio.get_running_loop()
            await asyncio.sleep(3600.0 - loop.time() % 3600.0)
            for at in (130.0, 1900.0):
                loop.call_later(at, exchange.ban, 900.0)
            began = wall_time() * 1000
            status = await record(client, path, 70.0, backfill=backfills)
            assert status.failed == 0
        slots.append([round(slot - began) // PERIOD for slot in swept(path)])
    assert slots[0] == slots[1]
    assert kept(tmp_path / "False.db", "BTCUSDT") == {}
    assert len(kept(tmp_path / "True.db", "BTCUSDT")) >= 4


async def test_a_restart_fills_the_gap_since_the_last_sweep(path: Path) -> None:
    async with running() as (exchange, client):
        await record(client, path, 2.0)
        await asyncio.sleep(3 * 3600.0)
        await record(client, path, 5.0)
        instants = missed(path)
        assert len(instants) >= 35
        for name in NAMES:
            assert truth(exchange, name, instants).items() <= kept(path, name).items()


async def test_gaps_that_an_earlier_run_left_are_filled(path: Path) -> None:
    async with running() as (exchange, client):
        await record(client, path, 2.0, backfill=False)
        await asyncio.sleep(3600.0)
        await record(client, path, 2.0, backfill=False)
        assert kept(path, "BTCUSDT") == {}
        await record(client, path, 5.0)
        assert truth(exchange, "BTCUSDT", missed(path)).items() <= kept(path, "BTCUSDT").items()
        await asyncio.sleep(1.0)
        before = exchange.history_counter.total
        await record(client, path, 5.0)
        # The last run knows that these instants are stored.
        assert exchange.history_counter.total - before <= len(NAMES)


async def test_a_gap_without_an_instant_of_the_history_costs_no_request(path: Path) -> None:
    async with running() as (exchange, client):
        await asyncio.sleep(360.0 - wall_time() % 300.0)  # one minute after an instant
        asyncio.get_running_loop().call_later(50.0, exchange.fail, 60)
        status = await record(client, path, 3.5)
        assert status.failed + status.missed > 0
        assert exchange.history_counter.total == 0


async def test_only_the_missing_instants_of_a_failed_symbol_are_filled(path: Path) -> None:
    async with running() as (exchange, client):
        loop = asyncio.get_running_loop()
        await asyncio.sleep(240.0 - wall_time() % 300.0 + 300.0)  # a minute before an instant
        loop.call_later(30.0, lambda: exchange.fail(60, symbol="ETHUSDT"))
        loop.call_later(100.0, exchange.reset)
        status = await record(client, path, 6.0)
        assert status.failed > 0
        assert {name: len(kept(path, name)) for name in NAMES} == {
            "BTCUSDT": 0,
            "1000SHIBUSDT": 0,
            "ETHUSDT": 1,
        }


async def test_a_failed_history_request_is_retried_later(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as (exchange, client):
        await record(client, path, 2.0)
        await asyncio.sleep(1800.0)
        recorder = Recorder(client, path, every=20.0, symbols=NAMES, backfill=True, clock=wall_time)
        failing = asyncio.create_task(recorder.run())
        refuse = exchange._exchange._answer
        is_down = True

        def answer(method: str, target: str, now: float) -> Any:
            if is_down and "openInterestHist" in target:
                return type(refuse(method, target, now))(503, b"{}")
            return refuse(method, target, now)

        exchange._exchange._answer = answer  # type: ignore[method-assign]
        with caplog.at_level(logging.WARNING, "binance_oi"):
            await asyncio.sleep(900.0)
        assert kept(path, "BTCUSDT") == {}
        assert "stay open for now: BTCUSDT: 503" in caplog.text
        assert caplog.text.count("stay open for now") == 1
        is_down = False
        await asyncio.sleep(1200.0)
        recorder.stop()
        await failing
        instants = missed(path)
        for name in NAMES:
            assert truth(exchange, name, instants).items() <= kept(path, name).items()


@pytest.mark.parametrize("failing", ["gaps_since", "save_past", "past_times"])
async def test_a_sink_that_fails_to_fill_gaps_still_gets_every_sweep(
    failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    sink = MemorySink()
    async with running(bans=Bans(after=None)) as (exchange, client):
        sink.failing[failing] = "no room"
        asyncio.get_running_loop().call_later(130.0, exchange.ban, 600.0)
        status = await record(client, sink, 30.0)
        assert len(sink.sweeps) == status.sweeps > 40
        assert "memory stay open" in caplog.text
        has_gaps = failing == "gaps_since"  # only gaps of this run are known
        assert bool(sink.past) is has_gaps


def test_a_client_without_history_is_refused_at_once(path: Path) -> None:
    with pytest.raises(TypeError, match="a Market reads no history to backfill gaps from"):
        Recorder(Market(), path, every=20.0, backfill=True)


@pytest.mark.parametrize(
    "first, last, period, expected",
    [
        (0, 0, 20, [0]),
        (1, 279, 20, []),
        (1, 299, 60, [300]),
        (290, 310, 20, [300]),
        (20, 1180, 20, [300, 600, 900]),
        (0, 1200, 600, [0, 300, 600, 900, 1200, 1500]),
    ],
)
def test_a_gap_is_filled_at_every_instant_until_the_next_sweep(
    first: int, last: int, period: int, expected: list[int]
) -> None:
    gap = Gap(first * 1000, last * 1000, "banned")
    assert [at // 1000 for at in instants_in(gap, period * 1000)] == expected


def test_after_a_clock_error_of_decades_only_kept_history_is_requested() -> None:
    now = 1_796_000_000.0
    nothing: Any = None
    filler = GapFiller(nothing, nothing, nothing, lambda: now)
    filler.note(Gap(0, round(now * 1000), "clock"), PERIOD)
    filler.note(Gap(round(now * 1000), 253_000_000_000_000, "clock"), PERIOD)
    (wanted,) = filler._wanted.values()
    assert 0 < len(wanted) <= KEPT_MS // STEP + 2
