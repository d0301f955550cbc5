"""Several real processes share one budget, on a real clock and real sockets.

Rule of this file: a test that starts processes checks what the exchange counted. The tests are
short; `nox -s machine` runs longer ones. Only tests marked `wallclock` depend on the speed of the
machine.
"""

import time
from pathlib import Path
from typing import cast

import pytest

from binance_oi.budget.knowledge import UNKNOWN
from binance_oi.budget.machine import MachineBudget
from binance_oi.budget.pool import Pool, ProcessBudget, ProcessPool
from binance_oi.budget.shared import MAX_LEASED_CALLS
from binance_oi.budget.usage import Receipt
from binance_oi.simulator import Bans
from binance_oi.simulator.local import LocalExchange
from simulation.machine import Process, kills, running, until
from support.counting import calls_counted

LIMIT = 300


def test_processes_together_use_one_limit_and_never_exceed_it(tmp_path: Path) -> None:
    late = 45.0 - time.time() % 60.0  # s; the exchange starts at second 45 of its minute
    exchange = LocalExchange(limit=LIMIT, latency=0.01, clock_offset=late)
    with exchange.in_thread(), running(exchange.url, 3, tmp_path) as processes:
        until(lambda: exchange.used >= 0.97 * LIMIT)  # in the first minute, or in a later one
        answers = [process.stop()["answers"] for process in processes]
    assert exchange.answers.keys() == {200}
    assert 0.97 * LIMIT <= max(exchange.weights.values()) <= LIMIT
    assert 0 < sum(answers) <= sum(exchange.weights.values())


def test_a_directory_may_be_a_path_or_a_string(tmp_path: Path) -> None:
    named = [MachineBudget(directory=each) for each in (tmp_path / "b", str(tmp_path / "b"))]
    first, second = (budget.pool("a pool") for budget in named)
    first.hold(60.0)
    assert not second.held_for(ban=True)
    assert second.usage.held_until is not None
    for budget in named:
        budget.close()


def test_killing_a_process_does_not_stop_the_others() -> None:
    kills(1)


@pytest.mark.wallclock
def test_a_killed_process_stops_no_other_for_more_than_a_second_and_a_half() -> None:
    assert kills(2) <= 1.5  # 1 s, and a margin for a busy machine


@pytest.mark.thorough
def test_a_ban_of_one_process_reaches_running_and_later_processes(tmp_path: Path) -> None:
    far_away = 9_999_999  # a limit that no process reaches, so that only the ban stops requests
    exchange = LocalExchange(limit=far_away, latency=0.01, bans=Bans(first_s=86_400.0))
    with exchange.in_thread(), running(exchange.url, 2, tmp_path) as processes:
        exchange.counter.ban(exchange.now())
        for process in processes:
            process.banned()
        assert exchange.answers[418] > 0
        sent = exchange.answers.total()
        later = Process(exchange.url, tmp_path)
        later.started()  # this process has read the ban from the file, and sent nothing
        assert exchange.answers.total() == sent
        assert later.stop()["answers"] == 0
        assert all(process.stop()["errors"] > 0 for process in processes)


CALLS = 30 * MAX_LEASED_CALLS


class Slowly:
    """A clock that advances by 0.1 ms for each reading, so that calls come in quick succession."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        self.now += 0.0001
        return self.now

    @staticmethod
    def wall() -> float:
        """Return the middle of a minute, so that no rollover comes while the test counts calls."""
        return 1_795_435_230.0


def cost(pool: Pool) -> tuple[float, float]:
    """Return the mean numbers of function calls and of `flock` calls that one request costs."""
    first = pool.charge(1)  # not counted, because the first request takes a few more calls
    assert isinstance(first, Receipt)
    pool.settle(first, 1, None)
    pool.flush()
    cast(ProcessPool, pool)._bucket.known.careful_since = UNKNOWN
    with calls_counted() as calls:
        for used in range(2, CALLS + 2):
            receipt = pool.charge(1)
            assert isinstance(receipt, Receipt)
            pool.settle(receipt, used, None)
    return calls.count / CALLS, calls.into_c["flock"] / CALLS


def test_sharing_with_other_processes_costs_little(tmp_path: Path) -> None:
    limit = 100_000_000
    directory = tmp_path / "budgets"
    alone, _ = cost(ProcessBudget(limit=limit, clock=Slowly(), wall=Slowly.wall).pool("a"))
    budget = MachineBudget(limit=limit, directory=directory, clock=Slowly(), wall=Slowly.wall)
    shared, locks = cost(budget.pool("a"))
    assert 0 < locks <= 2 / MAX_LEASED_CALLS  # a lease calls `flock` twice: lock and unlock
    assert 0 < shared <= alone + 3  # a lease of any size costs one charge in the file
