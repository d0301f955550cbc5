"""Short runs like some `CASES` of `fairness`; `nox -s fairness` runs all cases at full length.

Rule of this file: in the default tests the limit is small, so that a run takes a second. Most
bounds are close to those of `CASES`.
"""

from math import inf
from random import Random

import pytest

from binance_oi.simulator.counter import Bursts, Others, Steady
from simulation.fairness import CASES, figures, missed
from simulation.networks import Even
from simulation.world import Situation, run
from support.lanes import thorough


def test_two_clients_without_a_shared_budget_get_about_even_parts() -> None:
    situation = Situation(
        minutes=16, limit=600, budgets=2, apart=11.0, start=20.0, in_flight=20, leg=Even(0.04)
    )
    outcome = run(situation, seed=1)
    assert outcome.fairness_since(12) >= 0.8
    assert outcome.used(12) >= 0.94  # a budget keeps more of a small limit free for chance
    assert outcome.statuses.keys() == {200}


def test_single_calls_are_served_while_another_client_polls_without_sharing() -> None:
    situation = Situation(
        minutes=9, limit=1200, budgets=2, bots=1, apart=7.0, start=20.0, in_flight=40
    )
    outcome = run(situation, seed=1)
    waits = sorted(wait for k, wait in outcome.waits if 5 <= k < 8)
    assert waits[len(waits) // 2] <= 1.0
    assert waits[len(waits) * 99 // 100] <= 15.0
    assert outcome.statuses.keys() == {200}


@pytest.mark.parametrize("sweep", [0, *thorough(400)])
def test_single_calls_on_the_budget_of_bulk_work_are_served_at_once(sweep: int) -> None:
    situation = Situation(
        minutes=5, limit=1800, bulk=True, singles=True, sweep=sweep, every=30.0, start=20.0
    )
    outcome = run(situation, seed=1)
    waits = sorted(wait for k, wait in outcome.waits if 3 <= k < 5 and wait < inf)
    assert len(waits) > 100
    assert waits[len(waits) // 2] <= 0.1
    assert waits[len(waits) * 99 // 100] <= 1.0
    assert waits[-1] <= 5.0
    assert sweep or outcome.used(3) >= 0.98


def beside(others: Others) -> list[int]:
    """The weight over the limit in each minute, with these others."""
    situation = Situation(
        minutes=5, limit=600, start=5.0, in_flight=20, leg=Even(0.04), others=others
    )
    outcome = run(situation, seed=1)
    return [max(0, outcome.weights[k] - 600) for k in range(5)]


def test_the_limit_is_never_exceeded_while_steady_others_use_nearly_all_of_it() -> None:
    assert beside(Steady(9.5)) == [0] * 5


@pytest.mark.parametrize("at", [8.0, *thorough(24.0)])
def test_bursts_every_45_s_do_not_exceed_the_limit_from_the_third_minute_on(at: float) -> None:
    assert beside(Bursts(75, at_second=at, every=45.0))[2:] == [0] * 3


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name",
    [
        *("2 copies, 11 s apart", "2 copies, 45 s apart", "3 copies, 11 s apart"),
        "600 within 5 s, once a minute",
    ],
)
def test_each_case_of_the_table_stays_within_its_bounds(name: str) -> None:
    (case,) = (case for case in CASES if case.name == name)
    assert missed(case, figures(case, seed=1_000)) == []


def test_each_case_has_a_unique_name_and_a_situation() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(case.draw(Random(1)).minutes >= 12 for case in CASES)
