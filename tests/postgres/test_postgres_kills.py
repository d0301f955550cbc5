"""``kill -9`` of recorders and of the server loses no acknowledged sweep; a standby takes over.

Rule of this file: recorders are real processes that sweep fifty times a second.
BINANCE_OI_KILLS says how many of them are killed.
"""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

from support.postgres_server import Server
from support.recorder_processes import Process, check_all

KILLS = int(os.environ.get("BINANCE_OI_KILLS", "3"))


def test_kill_9_of_recorders_loses_no_acknowledged_sweep(url: str) -> None:
    chance = random.Random(6)
    acknowledged: list[tuple[int, int]] = []
    for kill in range(KILLS):
        process = Process(url)
        if kill % 2 == 0:
            process.wait(1)
        time.sleep(chance.uniform(0.0, 0.3))
        acknowledged += process.kill()
    assert len(acknowledged) >= KILLS // 2
    check_all(url, acknowledged)


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
    with Recording.open(url) as recording:  # they waited in memory
        assert "storage" not in {gap.reason for gap in recording.gaps()}


def test_a_standby_takes_over_after_a_kill_and_no_slot_is_there_twice(url: str) -> None:
    acknowledged: list[tuple[int, int]] = []
    first = Process(url)
    first.wait(3)
    took: list[float] = []
    for _ in range(max(2, KILLS // 40)):
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
    print("took over after", [round(seconds, 1) for seconds in took], "s")
