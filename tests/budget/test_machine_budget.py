"""One budget for several real processes, on a real clock and a real socket.

Rule of this file: the verdict is the exchange's. These are short versions; `nox -s machine` runs
the drills at full length. Nothing depends on how fast the machine is but what is marked
`wallclock`.
"""

import time
from pathlib import Path
from typing import cast

import pytest

from binance_oi.budget.knowledge import UNKNOWN
from binance_oi.budget.machine import MachineBudget
from binance_oi.budget.pool import Pool, ProcessBudget, ProcessPool
from binance_oi.budget.shared import LOT
from binance_oi.budget.usage import Receipt
from binance_oi.simulator import Bans
from binance_oi.simulator.local import LocalExchange
from simulation.machine import Process, kills, running, until
from support.counting import calls_counted

LIMIT = 300


def test_processes_stay_within_one_limit_and_use_it(tmp_path: Path) -> None:
    young = 5.0 - time.time() % 60.0  # quick if they start within this minute, right if not
    exchange = LocalExchange(limit=LIMIT, latency=0.01, clock_offset=young)
    with exchange.in_thread(), running(exchange.url, 3, tmp_path) as processes:
        until(lambda: exchange.used >= 0.97 * LIMIT)  # in the first minute, or in a later one
        answers = [process.stop()["answers"] for process in processes]
    assert exchange.answers.keys() == {200}
    assert 0.97 * LIMIT <= max(exchange.weights.values()) <= LIMIT
    assert 0 < sum(answers) <= sum(exchange.weights.values())


def test_a_directory_may_be_named_by_its_path_or_by_its_text(tmp_path: Path) -> None:
    named = [MachineBudget(directory=each) for each in (tmp_path / "b", str(tmp_path / "b"))]
    first, second = (budget.pool("a pool") for budget in named)
    first.hold(60.0)
    assert not second.held_for(ban=True)
    assert second.usage.held_until is not None
    for budget in named:
        budget.close()


def test_while_a_killed_process_is_away_the_others_are_answered() -> None:
    kills(1)


@pytest.mark.wallclock
def test_a_process_that_is_killed_stops_nobody_for_longer_than_a_second_and_a_half() -> None:
    assert kills(2) <= 1.5  # 1 s, and what a busy machine adds


@pytest.mark.thorough
def test_a_ban_that_one_learned_of_reaches_all_and_those_who_start_later(tmp_path: Path) -> None:
    far_away = 9_999_999  # so that only the ban is in the way
    exchange = LocalExchange(limit=far_away, latency=0.01, bans=Bans(first_s=86_400.0))
    with exchange.in_thread(), running(exchange.url, 2, tmp_path) as processes:
        exchange.counter.ban(exchange.now())
        for process in processes:
            process.banned()
        assert exchange.answers[418] > 0
        sent = exchange.answers.total()
        later = Process(exchange.url, tmp_path)
        later.started()  # it learned of the ban from the file, and has sent nothing
        assert exchange.answers.total() == sent
        assert later.stop()["answers"] == 0
        assert all(process.stop()["errors"] > 0 for process in processes)


CALLS = 30 * LOT


class Slowly:
    """A clock that goes on by 0.1 ms with every look: calls in quick succession, on any machine."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        self.now += 0.0001
        return self.now

    @staticmethod
    def wall() -> float:
        """In the middle of a minute, which does not turn while calls are counted."""
        return 1_795_435_230.0


def cost(pool: Pool) -> tuple[float, float]:
    """Function calls, and locks of the file, for one request's charge and its answer."""
    first = pool.charge(1)  # the first minute, in which a client is careful, takes a few more
    assert isinstance(first, Receipt)
    pool.settle(first, 1, None)
    pool.flush()
    cast(ProcessPool, pool)._bucket.known.cautious_until = UNKNOWN
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
    assert 0 < locks <= 2 / LOT  # locked and unlocked once for a whole lot
    assert alone < shared <= alone + 20
