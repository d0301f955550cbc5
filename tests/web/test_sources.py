"""A hub reads from a client that polls, or from a recording that another process writes."""

import asyncio
import shutil
from contextlib import aclosing, closing
from pathlib import Path

import pytest

from binance_oi import Gap
from binance_oi.recorder.store import Store
from binance_oi.simulator import LocalExchange
from binance_oi.testing import simulated_client
from binance_oi.testing.virtual_clock import wall_time
from binance_oi.web import ClientSource, Hub, RecordingSource
from binance_oi.web.events import Reading
from support.recorded import BEGIN, EVERY, VALUES, sweep, write_recording
from support.virtual_clocks import use_virtual_clocks

pytestmark = pytest.mark.virtual_time

MINUTE = 60_000
FIRST = round(BEGIN.timestamp()) * 1000


@pytest.fixture(autouse=True)
def one_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    use_virtual_clocks(monkeypatch)


def slots(found: list[Reading | Gap]) -> list[int]:
    return [(each.last if isinstance(each, Gap) else each.slot) - FIRST for each in found]


async def test_a_recording_is_followed_from_its_latest_sweep(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "oi.db")  # it has the sweeps of minutes 0, 1 and 4
    source, found = RecordingSource(path), list[Reading | Gap]()
    async with aclosing(source.outcomes()) as outcomes:
        found.append(await anext(outcomes))
        with closing(Store(path)) as store:
            store.save(sweep(5), [], MINUTE)
        found.append(await anext(outcomes))
        gap = Gap(FIRST + 6 * MINUTE, FIRST + 7 * MINUTE, "banned", "until 00:09")
        with closing(Store(path)) as store:
            store.save(sweep(8), [gap], MINUTE)
        found += [await anext(outcomes), await anext(outcomes)]
    assert slots(found) == [4 * MINUTE, 5 * MINUTE, 7 * MINUTE, 8 * MINUTE]
    first, last = found[0], found[-1]
    assert isinstance(first, Reading)
    assert isinstance(last, Reading)
    assert {each.value.symbol for each in first.observations} == set(VALUES)
    assert first.next_slot - first.slot == MINUTE
    values = {each.value.symbol: each.value.open_interest for each in last.observations}
    assert f"{values['BTCUSDT']}" == "96092.544"
    assert f"{values['币安人生USDT']:f}" == VALUES["币安人生USDT"]
    prices = {each.value.symbol: each.mark_price for each in last.observations}
    assert prices["BTCUSDT"] is not None
    assert source.usage is None


async def test_a_missing_or_invalid_recording_is_awaited(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "oi.db"
    async with aclosing(RecordingSource(path).outcomes()) as outcomes:
        waiting = asyncio.ensure_future(anext(outcomes))
        await asyncio.sleep(5.0)
        path.write_bytes(b"no recording")
        await asyncio.sleep(5.0)
        assert not waiting.done()
        path.unlink()
        shutil.copy(write_recording(tmp_path / "other.db"), path)
        reading = await waiting
    assert slots([reading]) == [4 * MINUTE]
    warnings = [record for record in caplog.records if "cannot be read" in record.message]
    assert len(warnings) == 1


async def test_values_older_than_an_hour_are_not_part_of_the_market(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "oi.db")
    later = sweep(4 + 24 * 60)
    with closing(Store(path)) as store:
        store.save(later, [], MINUTE)
    with closing(Store(path)) as store:
        day = sweep(5 + 24 * 60)
        store.save(day, [], MINUTE)
    async with aclosing(RecordingSource(path).outcomes()) as outcomes:
        reading = await anext(outcomes)
    assert isinstance(reading, Reading)
    oldest = min(each.value.time for each in reading.observations)
    assert reading.slot - oldest <= 60 * MINUTE
    assert EVERY.total_seconds() == 60.0


async def test_a_client_is_read_at_once_if_the_first_slot_is_far_away() -> None:
    async with simulated_client() as client:
        await asyncio.sleep(1.0)
        source = ClientSource(client, ["BTCUSDT", "NOSUCHUSDT"], every=600.0, notional=True)
        async with aclosing(source.outcomes()) as outcomes:
            first, second = await anext(outcomes), await anext(outcomes)
    assert isinstance(first, Reading)
    assert isinstance(second, Reading)
    assert second.slot - first.slot == 600_000
    assert (first.next_slot, first.asked) == (second.slot, 2)
    assert [each.value.symbol for each in first.observations] == ["BTCUSDT"]
    assert first.observations[0].mark_price is not None
    assert first.errors == second.errors == {"NOSUCHUSDT": "unknown"}
    assert source.name == "local"


async def test_no_reading_precedes_the_first_slot_when_the_poll_needs_the_budget() -> None:
    names = [f"{name}USDT" for name in ("BTC", "ETH", "XRP", "BNB", "ADA", "SOL")]
    for limit, is_early in ((60, False), (2400, True)):
        async with simulated_client(LocalExchange(limit=limit, clock=wall_time)) as client:
            await asyncio.sleep(1.0)
            await client.exchange_info()  # the client learns the limit
            began = wall_time() * 1000
            async with aclosing(ClientSource(client, names, every=20.0).outcomes()) as outcomes:
                reading = await anext(outcomes)
        assert isinstance(reading, Reading)
        assert (reading.slot < began) is is_early, limit


async def test_a_recording_that_stopped_long_ago_is_stale_as_soon_as_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_recording(tmp_path / "oi.db")
    latest = (BEGIN + 4 * EVERY).timestamp()
    for hours, is_stale in ((0, False), (1, True)):
        monkeypatch.setattr("time.time", lambda hours=hours: latest + 3600.0 * hours + 2.0)
        hub = Hub(RecordingSource(path))
        async with aclosing(hub.source.outcomes()) as outcomes:
            hub.publish(await anext(outcomes))
        assert hub.is_stale is is_stale
        assert hub.read_at is not None
        assert hub.age_of(hub.read_at) == 3600 * hours + 1
