"""A few minutes of each situation of `unknowns`, whose command runs several seeds of each.

Rule of this file: its bounds are no stricter than those of the table.
"""

from dataclasses import replace
from random import Random

import pytest

from binance_oi.simulator.counter import Bans
from simulation import unknowns
from simulation.counters import RollingCounter
from simulation.unknowns import ROWS, Row
from simulation.world import Situation, run

THOROUGH = pytest.mark.thorough
ALWAYS = (
    "another client of 10/s that starts with us",
    "95 % without header",
    "refusals without header or text",
    "a rolling window",
    "half of the announced limit",
    "two budgets at a limit of 50",
)


def small(drawn: Situation) -> Situation:
    """Shorten a situation; quarter its limit too, unless other fields depend on the limit."""
    if drawn.others is not None or drawn.sweep or drawn.used or drawn.limit < 1000:
        return replace(drawn, minutes=min(drawn.minutes, 3))
    announced = None if drawn.announced is None else drawn.announced // 4
    return replace(
        drawn, limit=drawn.limit // 4, announced=announced, minutes=min(drawn.minutes, 7)
    )


def marked(row: Row) -> object:
    name = f"{row.name}: {row.what}"
    return pytest.param(row, id=name, marks=() if row.name in ALWAYS else THOROUGH)


def test_the_situations_that_always_run_exist() -> None:
    assert {row.name for row in ROWS} >= set(ALWAYS)


@pytest.mark.parametrize("row", [marked(row) for row in ROWS])
def test_a_situation_with_little_knowledge_stays_within_its_bound(row: Row) -> None:
    situation = small(row.draw(Random(1)))
    value = row.measure(situation, run(situation, seed=1))
    assert row.is_met(value), row.figure(value)


def test_a_rolling_counter_forgets_weight_after_60_s_and_not_earlier() -> None:
    counter = RollingCounter(100, start=0.0, used=7, others=None, bans=Bans(after=None))
    counter.count(5, 10.0)
    times = 10.0, 59.9, 60.0, 69.9, 70.0  # s; 7 leave the window at 60 s, and 5 at 70 s
    assert [counter.used(now) for now in times] == [12, 12, 5, 5, 0]


@pytest.mark.parametrize("count, every", [(5, 5.0), pytest.param(840, 30.0, marks=THOROUGH)])
def test_the_market_is_read_soon_after_a_ban(count: int, every: float) -> None:
    polled = unknowns.polled(count, every, seed=1)
    assert polled.whole <= 60.0
    assert polled.missed == 0
    assert any("banned" in detail for detail in polled.details)
