"""One budget for several real processes, on a real clock and a real socket.

Rule of this file: the verdict is the exchange's. These are short versions; `nox -s machine` runs
the drills at full length.
"""

import time
from pathlib import Path

from binance_oi.budget import MachineBudget, Pool, ProcessBudget
from binance_oi.minutes import Receipt
from binance_oi.simulator.local import LocalExchange
from simulation.machine import Process, kills, running

LIMIT = 300


def test_processes_stay_within_one_limit_and_use_it(tmp_path: Path) -> None:
    offset = 5.0 - time.time() % 60.0  # the exchange's minute is 5 s old
    exchange = LocalExchange(limit=LIMIT, latency=0.01, clock_offset=offset)
    with exchange.in_thread(), running(exchange.url, 3, tmp_path) as processes:
        ends = time.monotonic() + 10.0
        while exchange.used < 0.97 * LIMIT and time.monotonic() < ends:
            time.sleep(0.05)
        answers = [process.stop()["answers"] for process in processes]
    assert exchange.answers.keys() == {200}
    assert 0.97 * LIMIT <= max(exchange.weights.values()) <= LIMIT
    assert 0 < sum(answers) <= LIMIT


def test_a_process_that_is_killed_blocks_nobody() -> None:
    assert kills(2) <= 1.5  # 1 s, and what a busy machine adds


def test_a_ban_that_one_learned_of_reaches_all_and_those_who_start_later(tmp_path: Path) -> None:
    exchange = LocalExchange(limit=LIMIT, latency=0.01)
    with exchange.in_thread(), running(exchange.url, 2, tmp_path) as processes:
        exchange.counter.ban(exchange.now())
        exchange.counter.limit = LIMIT * 100  # so that only the ban is in the way
        waited = time.monotonic() + 5.0
        while not exchange.answers[418] and time.monotonic() < waited:
            time.sleep(0.05)
        time.sleep(0.3)  # what was under way
        sent = exchange.answers.total()
        later = Process(exchange.url, tmp_path)
        later.started()  # told of the ban, and has sent nothing
        assert exchange.answers.total() == sent
        assert later.stop()["answers"] == 0
        assert all(process.stop()["errors"] > 0 for process in processes)


def cost_us(pool: Pool, calls: int = 3000) -> float:
    """CPU for one call's charge and its answer, in µs; the quickest of three."""
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        for used in range(1, calls + 1):
            receipt = pool.charge(1)
            assert isinstance(receipt, Receipt)
            pool.settle(receipt, used, None)
        best = min(best, (time.process_time() - began) / calls * 1e6)
    return best


def test_sharing_with_other_processes_costs_little(tmp_path: Path) -> None:
    limit = 100_000_000
    alone = cost_us(ProcessBudget(limit=limit).pool("a"))
    shared = cost_us(MachineBudget(limit=limit, directory=tmp_path / "budgets").pool("a"))
    assert shared - alone <= 40.0  # 20 µs on a quiet machine
