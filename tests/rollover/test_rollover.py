"""The rollover comes when `BINANCE_OI_ROLLOVER` says, for a test and for its processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import rollover
from rollover import moved_clock

A_DAY = 86_400.0  # s
HERE = Path(__file__).parent


@pytest.mark.parametrize("second", [0.0, 17.25, 59.875])
@pytest.mark.parametrize("after_ms", [5.0, 500.0])
def test_the_rollover_comes_the_given_milliseconds_after_a_test_begins(
    second: float, after_ms: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_795_435_200.0 + second]
    monkeypatch.setattr(rollover, "real_time", lambda: now[0])
    monkeypatch.setattr(moved_clock, "real_time", lambda: now[0])
    rollover.turn_soon(monkeypatch, after_ms)
    minute = moved_clock.moved_time() // 60
    now[0] += after_ms / 1000 - 0.001
    assert moved_clock.moved_time() // 60 == minute
    now[0] += 0.002
    assert moved_clock.moved_time() // 60 == minute + 1


def test_a_process_that_a_test_starts_uses_the_moved_clock_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rollover.turn_soon(monkeypatch, 20.0)
    monkeypatch.setenv(moved_clock.MOVED, repr(-A_DAY))
    behind = (
        "import time; now = time.clock_gettime(time.CLOCK_REALTIME);"
        "from binance_oi.simulator import LocalExchange; exchange = LocalExchange();"
        "print(*(moment < now for moment in (exchange.now(), time.time(), time.time_ns() / 1e9)))"
    )
    done = subprocess.run([sys.executable, "-c", behind], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True True True\n", "")


@pytest.mark.skipif(rollover.AFTER_MS is not None, reason="the clocks are moved now")
def test_without_the_variable_no_clock_is_moved() -> None:
    assert time.time is moved_clock.real_time
    assert moved_clock.MOVED not in os.environ


@pytest.mark.thorough
def test_pytest_starts_with_moved_clocks() -> None:
    """pytest imports our plugin first, so the plugin must not use a clock."""
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", str(HERE)]
    env = {**os.environ, "BINANCE_OI_ROLLOVER": "20"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=HERE)
    assert done.returncode == 0, done.stdout
