"""With any sink, a recorder writes in order, retries, counts losses, and releases the sink.

Rule of this file: sinks are in memory, and no test uses SQLite.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from binance_oi import Gap, RecordingError, Snapshot, StorageError
from binance_oi.recorder import Recorder, Sink
from binance_oi.recorder.pending import KEPT_FOR_S
from binance_oi.recorder.sink import Saved
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
    """Record for some time; start midway between two slots."""
    await asyncio.sleep(10.0 - wall_time() % 20.0 + 20.0)
    recorder = recorder_into(sink, market=market)
    asyncio.get_running_loop().call_later(seconds, recorder.stop)
    await recorder.run()
    return recorder


async def test_a_recorder_writes_to_any_sink_in_order_and_releases_it(sink: MemorySink) -> None:
    recorder = await record(sink, 65.0)
    assert list(sink.sweeps) == sorted(sink.sweeps)
    assert len(sink.sweeps) == recorder.status.sweeps == 3
    assert sink.calls[:2] == ["claim", "open"]
    assert (sink.calls[-1], sink.is_claimed) == ("close", False)
    assert recorder.path is None
    assert repr(recorder).startswith("<Recorder memory ")


async def test_a_continued_sink_gets_a_gap_for_the_slots_in_between(sink: MemorySink) -> None:
    await record(sink, 25.0)
    last = max(sink.sweeps)
    await asyncio.sleep(100.0)
    await record(sink, 25.0)
    (gap,) = sink.gaps
    assert (gap.reason, gap.first) == ("stopped", last + PERIOD)
    assert gap.last + PERIOD == max(sink.sweeps)


async def test_sweeps_refused_for_a_while_are_stored_once_and_in_order(
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
        "memory cannot be written, polling continues and sweeps wait in memory: no room",
        "memory can be written again",
    ]


async def test_sweeps_refused_for_too_long_become_a_counted_gap(sink: MemorySink) -> None:
    loop = asyncio.get_running_loop()
    loop.call_later(45.0, sink.failing.update, {"save": "no room"})
    loop.call_later(45.0 + KEPT_FOR_S + 100.0, sink.failing.clear)
    recorder = await record(sink, KEPT_FOR_S + 200.0)
    assert recorder.status.lost > 0
    assert {gap.reason for gap in sink.gaps} == {"storage"}
    slots = sum((gap.last - gap.first) // PERIOD + 1 for gap in sink.gaps)
    assert slots == recorder.status.lost == recorder.status.missed
    assert min(slot for slot in sink.sweeps if slot > sink.gaps[-1].last) - PERIOD == (
        sink.gaps[-1].last
    )


async def test_sweeps_lost_by_the_sink_count_as_lost(sink: MemorySink) -> None:
    asyncio.get_running_loop().call_later(45.0, setattr, sink, "lost", 2)
    recorder = await record(sink, 65.0)
    assert (recorder.status.lost, recorder.status.missed) == (2, 2)


async def test_a_failing_tidy_is_retried_and_logged_once(
    sink: MemorySink, caplog: pytest.LogCaptureFixture
) -> None:
    sink.failing["tidy"] = "a reader holds it up"
    with caplog.at_level(logging.WARNING, "binance_oi"):
        await record(sink, 65.0)
    assert sink.calls.count("tidy") > 3
    assert [record.message for record in caplog.records] == ["a reader holds it up"]


@pytest.mark.parametrize("call", ["open", "last_slot"])
async def test_a_sink_that_cannot_be_opened_ends_the_recorder_and_is_released(
    sink: MemorySink, call: str
) -> None:
    sink.failing[call] = "no room"
    with pytest.raises(RecordingError, match="memory cannot be recorded into: no room"):
        await recorder_into(sink).run()
    assert not sink.is_claimed


async def test_a_refused_claim_ends_the_recorder_before_any_request_or_write(
    sink: MemorySink,
) -> None:
    sink.failing["claim"] = "recorded by process 7"
    market = Market()
    with pytest.raises(
        RecordingError, match=r"^memory cannot be recorded into: recorded by process 7$"
    ):
        await recorder_into(sink, market=market).run()
    assert sink.calls == ["claim", "close"]
    assert market.number == 0


async def test_a_second_run_is_refused_and_the_first_continues(sink: MemorySink) -> None:
    recorder = recorder_into(sink)
    first = asyncio.create_task(recorder.run())
    await asyncio.sleep(65.0)
    with pytest.raises(RecordingError, match="this recorder already records"):
        await recorder.run()
    assert sink.is_claimed
    stored = len(sink.sweeps)
    await asyncio.sleep(60.0)
    assert len(sink.sweeps) == stored + 3
    recorder.stop()
    await first
    assert (recorder.status.lost, sink.is_claimed) == (0, False)


class Unclosable(MemorySink):
    def close(self) -> None:
        super().close()
        raise StorageError("the disk is gone")


async def test_a_sink_that_cannot_be_closed_hides_no_cancellation_and_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = Unclosable()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(45.0):
            await recorder_into(sink).run()
    assert "the disk is gone" in caplog.text
    await record(sink, 25.0)  # a stop raises no error
    broken = asyncio.create_task(recorder_into(Broken()).run())
    with pytest.raises(KeyError, match="a bug"):
        await broken


class Broken(Unclosable):
    def save(self, sweep: Snapshot | None, gaps: Sequence[Gap], period: int) -> Saved:
        raise KeyError("a bug")


async def test_sweeps_lost_by_a_bug_of_the_sink_are_counted() -> None:
    recorder = recorder_into(Broken())
    with pytest.raises(KeyError):
        await recorder.run()
    assert recorder.status.unwritten == 1


class Cancelling(MemorySink):
    """A sink whose writes are cancelled for a while, as when its driver stops an executor."""

    def save(self, sweep: Snapshot | None, gaps: Sequence[Gap], period: int) -> Saved:
        if "cancel" in self.failing:
            raise CancelledError
        return super().save(sweep, gaps, period)


async def test_a_write_cancelled_by_another_executor_is_retried() -> None:
    sink = Cancelling()
    loop = asyncio.get_running_loop()
    loop.call_later(25.0, sink.failing.update, {"cancel": ""})
    loop.call_later(65.0, sink.failing.clear)
    recorder = await record(sink, 125.0)
    assert len(sink.sweeps) == recorder.status.sweeps == 6
    assert recorder.status.lost == 0


@pytest.mark.parametrize("path", [None, 5, b"oi.db", ["oi.db"]], ids=repr)
def test_anything_but_a_path_or_a_sink_is_refused_at_once(path: object) -> None:
    with pytest.raises(TypeError, match=r"^path must be a path or a Sink: "):
        Recorder(Market(), path, every=20.0)  # type: ignore[arg-type]


def test_any_os_path_like_is_accepted_as_a_path(tmp_path: Path) -> None:
    with os.scandir(tmp_path.parent) as entries:
        entry = next(entry for entry in entries if entry.name == tmp_path.name)
    assert Recorder(Market(), entry, every=20.0).path == tmp_path
    assert Recorder(Market(), str(tmp_path), every=20.0).path == tmp_path
