"""A few minutes of each situation of `tests/simulation`; `nox -s simulate` runs hours.

Rule of this file: its bounds are no stricter than those of the table at full length.
"""

from dataclasses import replace
from random import Random

import pytest

from simulation.situations import ROWS, Row
from simulation.world import Situation, run

THOROUGH = pytest.mark.thorough
# Three rows that always run; `nox -s thorough` plays every row.
ALWAYS = "2,300 already used", "3 processes, 5 killed a minute", "everything at once"


def _marked(row: Row) -> object:
    return pytest.param(row, id=row.name, marks=() if row.name in ALWAYS else THOROUGH)


def test_the_situations_that_always_run_exist() -> None:
    assert {row.name for row in ROWS} >= set(ALWAYS)


@pytest.mark.parametrize("row", [_marked(row) for row in ROWS])
def test_no_avoidable_weight_is_over_the_limit(row: Row) -> None:
    drawn = row.draw(Random(f"{row.name} 1"))
    # A run with others lasts a minute longer, because we must see them first.
    situation = replace(drawn, minutes=2 if drawn.others is None else 3)
    outcome = run(situation, seed=1)
    assert outcome.over() == 0
    assert outcome.sent_in_hold == 0
    last = outcome.used(situation.minutes - 1)
    assert last >= row.used - 0.05  # a margin, because the run is short
    assert bool(outcome.sweeps) == bool(situation.sweep)
    assert all(seconds <= situation.every for seconds in outcome.sweeps)


def test_the_same_seed_gives_the_same_trace() -> None:
    situation = Situation(minutes=1, limit=600, lost=0.01, processes=2, kills=4, no_header=0.1)
    traces = [run(situation, seed).trace for seed in (1, 1, 2)]
    assert traces[0] == traces[1] != traces[2]


def test_after_a_refusal_we_wait_and_the_expected_surge_fades() -> None:
    situation = Situation(minutes=5, limit=600, used=600, processes=2, start=10.0)
    outcome = run(situation, seed=1)
    assert outcome.statuses[429] + outcome.statuses[418] == 1  # only the first request is refused
    assert outcome.sent_in_hold == 0
    assert outcome.used(1) < outcome.used(4) > 0.9
    assert outcome.used(2) > 0.85  # we no longer expect the use before our start
