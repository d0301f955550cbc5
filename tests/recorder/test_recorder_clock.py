"""A recording stays valid if the clock is set, or if the machine starts with a wrong clock.

Rule of this file: the test sets the clock. The virtual loop stands for real time, and the file or
the database is real.
"""

import asyncio
import logging
from collections.abc import Callable
from random import Random

import pytest

from binance_oi import Snapshot
from binance_oi.recorder import Recorder, Recording, Status
from binance_oi.recorder.postgres import PostgresSink
from binance_oi.recorder.sqlite import SqliteSink
from support.lanes import some
from support.recording_market import Market, tables
from support.virtual_clock import wall_time

PERIOD = 20_000
HOUR = 3600.0

pytestmark = pytest.mark.virtual_time


class Machine:
    """A machine's clock, its recording, and the number of acknowledged sweeps."""

    def __init__(self, place: str) -> None:
        self.path = place
        self.shift = 0.0
        self.acknowledged = 0

    def clock(self) -> float:
        return wall_time() + self.shift

    async def record(self, sweeps: int, then: Callable[[int], object] = int) -> Status:
        """Record until `sweeps` are acknowledged; call `then` with the number of each."""
        await asyncio.sleep(7.0)  # so that it does not start at a slot
        done = 0

        def count(_: Snapshot) -> None:
            nonlocal done
            done += 1
            self.acknowledged += 1
            then(done)
            if done == sweeps:
                running.stop()

        running = Recorder(Market(), self.path, every=20.0, on_sweep=count, clock=self.clock)
        await running.run()
        return running.status

    def set_to(self, shift: float) -> None:
        self.shift = shift

    def sweeps(self) -> dict[int, tuple[object, ...]]:
        with Recording(self.path) as recording:
            return {sweep.slot: tuple(sweep) for sweep in recording.sweeps()}

    def check_slots(self) -> set[str]:
        """Check that every slot is a sweep or in one gap, and every observation is stored.

        Returns:
            The reasons of the gaps.
        """
        slots, gaps, samples = tables(self.path)
        missed = [slot for _, a, b, _ in gaps for slot in range(a, b + 1, PERIOD)]
        known = sorted([*slots, *missed])
        assert known == list(range(known[0], known[-1] + 1, PERIOD))
        assert samples == 3 * self.acknowledged
        with Recording(self.path) as recording:
            assert recording.missed() == len(missed)
        return {reason for _, _, _, reason in gaps}


@pytest.fixture
def machine(place: str) -> Machine:
    return Machine(place)


@pytest.mark.parametrize("back", [60.0, 95.0, HOUR, 86_400.0])
async def test_setting_the_clock_back_costs_no_observation_and_no_recorded_sweep(
    machine: Machine, back: float, caplog: pytest.LogCaptureFixture
) -> None:
    await machine.record(10)
    before, began = machine.sweeps(), wall_time()
    with caplog.at_level(logging.WARNING, "binance_oi"):
        status = await machine.record(10, lambda n: machine.set_to(-back) if n == 5 else None)
    assert wall_time() - began <= 11 * 20.0
    assert machine.sweeps().items() >= before.items()
    assert machine.check_slots() >= {"clock"}
    assert (status.missed, status.lost) == (0, 0)
    assert len(caplog.records) == 1
    assert f"the clock was set back by {back:,.1f} s" in caplog.records[0].message


async def test_slots_skipped_by_setting_the_clock_forward_are_a_gap_with_reason_clock(
    machine: Machine,
) -> None:
    status = await machine.record(6, lambda n: machine.set_to(HOUR) if n == 3 else None)
    assert machine.check_slots() == {"clock"}
    assert (status.sweeps, status.missed) == (6, 180)


async def test_correcting_a_wrong_clock_after_the_start_replaces_no_sweep(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    await machine.record(40)
    before = machine.sweeps()
    machine.shift = -600.0  # a machine starts with an old time until NTP corrects it
    with caplog.at_level(logging.WARNING, "binance_oi"):
        status = await machine.record(10, lambda n: machine.set_to(0.0) if n == 5 else None)
    assert machine.sweeps().items() >= before.items()
    assert machine.check_slots() == {"clock"}
    slots, gaps, _ = tables(machine.path)
    missed = [slot for _, a, b, _ in gaps for slot in range(a, b + 1, PERIOD)]
    # Instead of these slots, the wrong clock showed five that already had a sweep.
    assert len(missed) == status.missed == 5
    assert len(slots) == 45
    assert "the clock is before the last slot of the recording" in caplog.records[0].message
    assert "the clock was set forward by 600.0 s" in caplog.records[1].message
    assert len(caplog.records) == 2


async def test_a_recorder_with_a_slow_clock_accounts_for_every_slot(
    machine: Machine,
) -> None:
    await machine.record(3)
    machine.shift = -HOUR
    await machine.record(4)
    assert machine.check_slots() == {"clock"}
    machine.shift = 0.0
    await machine.record(2)
    assert machine.check_slots() == {"clock", "stopped"}


async def test_a_recording_with_slots_in_the_future_continues_at_the_current_time(
    machine: Machine,
) -> None:
    await machine.record(6, lambda n: machine.set_to(86_400.0) if n == 3 else None)
    machine.shift = 0.0
    await machine.record(3)
    before = wall_time()
    await asyncio.sleep(200.0)
    await machine.record(3)
    assert machine.check_slots() == {"clock", "stopped"}
    with Recording(machine.path) as recording:
        stopped = [gap for gap in recording.gaps() if gap.reason == "stopped"][-1]
    assert 0.0 < stopped.first / 1000 - before <= 20.0
    assert stopped.last - stopped.first == 9 * PERIOD  # 207 s without a recorder


@pytest.mark.parametrize("shift", [-1.0, 1.0])
async def test_a_start_with_a_slightly_wrong_clock_makes_no_gap_with_reason_clock(
    machine: Machine, shift: float
) -> None:
    await machine.record(3)
    machine.shift = shift
    await machine.record(3)
    assert "clock" not in machine.check_slots()


@pytest.mark.parametrize("seed", some(range(8), always=2))
async def test_clock_changes_never_alter_a_sweep_or_lose_a_slot(
    machine: Machine, seed: int
) -> None:
    chance = Random(seed)
    recorded: dict[int, tuple[object, ...]] = {}
    for _ in range(6):
        steps = {n: chance.choice([-1, 1]) * chance.uniform(0.0, 900.0) for n in (2, 4, 5)}
        await machine.record(7, lambda n, to=steps: machine.set_to(to.get(n, machine.shift)))  # type: ignore[misc]
        await asyncio.sleep(chance.choice([0.0, 5.0, 300.0]))
        assert machine.sweeps().items() >= recorded.items()
        recorded = machine.sweeps()
        machine.check_slots()


async def test_the_clock_may_be_set_back_between_the_start_and_the_first_slot(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file, open_database = SqliteSink.open, PostgresSink.open

    def set_back(sink: SqliteSink | PostgresSink) -> None:
        machine.shift = -HOUR
        return open_file(sink) if isinstance(sink, SqliteSink) else open_database(sink)

    monkeypatch.setattr(SqliteSink, "open", set_back)
    monkeypatch.setattr(PostgresSink, "open", set_back)
    began = wall_time()
    await machine.record(2)
    assert wall_time() - began <= 60.0
    assert machine.check_slots() == {"clock"}
