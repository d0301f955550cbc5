"""``kill -9`` of recorders or the server loses no acknowledged sweep, and a standby takes over.

Rule of this file: recorders are real processes that sweep ten times a second. The first test
kills BINANCE_OI_KILLS recorders. The second kills the server a quarter as often, at least twice.
"""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from binance_oi.recorder import Recording
from support.postgres_server import Server
from support.recorder_processes import Process, check_all

KILLS = int(os.environ.get("BINANCE_OI_KILLS", "3"))
DATABASES = 4 if KILLS > 20 else 1  # databases whose recorders we kill at the same time
RECORDERS = """
SELECT count(*) FROM pg_stat_activity
WHERE application_name LIKE 'binance-oi record%' AND datname = current_database()
"""
WITHIN_S = 5.0  # s, at most, from a kill to the standby's first sweep on an idle machine


def until_gone(url: str) -> None:
    """Wait until the server has seen that the recorder is gone, and has released its lock."""
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute(RECORDERS).fetchone() != (0,):
            time.sleep(0.01)


def kill_recorders(url: str, kills: int) -> int:
    """Kill this many recorders, one after the other; return the number of acknowledged sweeps."""
    chance = random.Random(url)
    acknowledged: list[tuple[int, int]] = []
    for kill in range(kills):
        process = Process(url)
        if kill % 2 == 0:
            process.wait(1)
        time.sleep(chance.uniform(0.0, 0.3))
        acknowledged += process.kill()
        until_gone(url)
    assert len(acknowledged) >= kills // 2
    check_all(url, acknowledged)
    return len(acknowledged)


def test_kill_9_of_recorders_loses_no_acknowledged_sweep(server: Server) -> None:
    urls = [server.database() for _ in range(DATABASES)]
    kills = -(-KILLS // DATABASES)
    with ThreadPoolExecutor(DATABASES) as pool:
        sweeps = list(pool.map(kill_recorders, urls, [kills] * DATABASES))
    print(f"{kills * DATABASES} kills, {sum(sweeps):,} acknowledged sweeps are stored")


def test_kill_9_of_the_server_loses_no_acknowledged_sweep(server: Server, url: str) -> None:
    chance = random.Random(7)
    process = Process(url)
    for _ in range(max(2, KILLS // 4)):
        process.wait(len(process.acknowledged) + 1)
        time.sleep(chance.uniform(0.0, 0.3))
        server.kill()
        server.start()
    process.wait(len(process.acknowledged) + 3)
    acknowledged = process.kill()
    check_all(url, acknowledged)
    with Recording.open(url) as recording:  # sweeps waited in memory for the server
        assert "storage" not in {gap.reason for gap in recording.gaps()}
    print(f"{len(acknowledged):,} acknowledged sweeps are stored")


def hand_over(url: str, times: int) -> list[float]:
    """Kill `times` recorders in turn; return the seconds until the first sweep of each standby."""
    acknowledged: list[tuple[int, int]] = []
    first = Process(url)
    first.wait(3)
    took: list[float] = []
    for _ in range(times):
        second = Process(url, 0.1, "--standby")
        first.wait(len(first.acknowledged) + 3)
        assert second.acknowledged == []
        acknowledged += first.kill()
        began = time.monotonic()
        second.wait(1)
        took.append(time.monotonic() - began)
        first = second
    acknowledged += first.kill()
    check_all(url, acknowledged)
    return took


def test_a_standby_takes_over_after_a_kill_and_stores_no_slot_twice(url: str) -> None:
    hand_over(url, 2)


@pytest.mark.wallclock
@pytest.mark.thorough
def test_a_standby_takes_over_within_five_seconds(url: str) -> None:
    took = hand_over(url, 20)
    print(f"standbys took over after {min(took):.1f} to {max(took):.1f} s, {len(took)} times")
    assert max(took) < WITHIN_S
