"""What a recorder does with any sink: order, failures, losses and the end.

Rule of this file: sweeps go into memory, and no test here knows SQLite.
"""

import asyncio
import logging
from collections.abc import Callable

import pytest

from binance_oi import RecordingError, Snapshot
from binance_oi.recorder import Recorder, Sink
from binance_oi.recorder.pending import KEPT_FOR
from support.memory_sink import MemorySink
from support.recording_market import Market
from support.virtual_clock import wall_time

pytestmark = pytest.mark.virtual_time

PERIOD = 20_000


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


def recorder_into(
    sink: Sink, on_sweep: Callable[[Snapshot], object] | None = None, market: Market | None = None
) -> Recorder:
    return Recorder(market or Market(), sink, every=20.0, on_sweep=on_sweep, clock=wall_time)


async def record(sink: MemorySink, seconds: float, market: Market | None = None) -> Recorder:
    """Record for so long, from the middle between two slots on."""
    await asyncio.sleep(10.0 - wall_time() % 20.0 + 20.0)
    recorder = recorder_into(sink, market=market)
    asyncio.get_running_loop().call_later(seconds, recorder.stop)
    await recorder.run()
    return recorder


async def test_a_recorder_stores_in_any_sink_in_order_and_lets_go_of_it(sink: MemorySink) -> None:
    recorder = await record(sink, 65.0)
    assert list(sink.sweeps) == sorted(sink.sweeps)
    assert len(sink.sweeps) == recorder.status.sweeps == 3
    assert sink.calls[:2] == ["claim", "open"]
    assert (sink.calls[-1], sink.is_claimed) == ("close", False)
    assert recorder.path is None
    assert repr(recorder).startswith("<Recorder memory ")


async def test_a_sink_that_goes_on_gets_the_slots_between_as_a_gap(sink: MemorySink) -> None:
    await record(sink, 25.0)
    last = max(sink.sweeps)
    await asyncio.sleep(100.0)
    await record(sink, 25.0)
    (gap,) = sink.gaps
    assert (gap.reason, gap.first) == ("stopped", last + PERIOD)
    assert gap.last + PERIOD == max(sink.sweeps)


async def test_what_a_sink_refuses_for_a_while_is_stored_once_and_in_order(
    sink: MemorySink, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    loop.call_later(45.0, sink.failing.update, {"save": "no room"})
    loop.call_later(125.0, sink.failing.clear)
    with caplog.at_level(logging.WARNING, "binance_oi"):
        recorder = await record(sink, 180.0)
    assert len(sink.sweeps) == recorder.status.sweeps == 9
    assert list(sink.sweeps) == sorted(sink.sweeps)
    assert (recorder.status.lost, recorder.status.storage_error) == (0, None)
    assert [record.message for record in caplog.records] == [
        "memory cannot be written, polling goes on and sweeps are kept: no room",
        "memory can be written again",
    ]


async def test_what_a_sink_refuses_for_too_long_is_a_gap_and_counted(sink: MemorySink) -> None:
    loop = asyncio.get_running_loop()
    loop.call_later(45.0, sink.failing.update, {"save": "no room"})
    loop.call_later(45.0 + KEPT_FOR + 100.0, sink.failing.clear)
    recorder = await record(sink, KEPT_FOR + 200.0)
    assert recorder.status.lost > 0
    assert {gap.reason for gap in sink.gaps} == {"storage"}
    slots = sum((gap.last - gap.first) // PERIOD + 1 for gap in sink.gaps)
    assert slots == recorder.status.lost == recorder.status.missed
    assert min(slot for slot in sink.sweeps if slot > sink.gaps[-1].last) - PERIOD == (
        sink.gaps[-1].last
    )


async def test_sweeps_that_a_sink_has_lost_are_counted_as_lost(sink: MemorySink) -> None:
    asyncio.get_running_loop().call_later(45.0, setattr, sink, "lost", 2)
    recorder = await record(sink, 65.0)
    assert (recorder.status.lost, recorder.status.missed) == (2, 2)


async def test_a_sink_that_cannot_tidy_up_is_tried_again_and_said_once(
    sink: MemorySink, caplog: pytest.LogCaptureFixture
) -> None:
    sink.failing["tidy"] = "a reader holds it up"
    with caplog.at_level(logging.WARNING, "binance_oi"):
        await record(sink, 65.0)
    assert sink.calls.count("tidy") > 3
    assert [record.message for record in caplog.records] == ["a reader holds it up"]


@pytest.mark.parametrize("call", ["open", "last_slot"])
async def test_a_sink_that_cannot_be_opened_ends_the_recorder_and_is_free_again(
    sink: MemorySink, call: str
) -> None:
    sink.failing[call] = "no room"
    with pytest.raises(RecordingError, match="memory cannot be recorded into: no room"):
        await recorder_into(sink).run()
    assert not sink.is_claimed


async def test_a_sink_that_refuses_the_recorder_is_left_before_anything_is_asked_or_stored(
    sink: MemorySink,
) -> None:
    sink.failing["claim"] = "recorded by process 7"
    market = Market()
    with pytest.raises(RecordingError, match=r"^recorded by process 7$"):
        await recorder_into(sink, market=market).run()
    assert sink.calls == ["claim", "close"]
    assert market.number == 0
