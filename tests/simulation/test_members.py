"""Short runs of a few failures of members on several machines, in virtual time.

`python -m tests.simulation.members` and `python -m tests.simulation.outages` play all of them with
many seeds.
"""

import pytest

from binance_oi.budget.member import MemberPool
from simulation import outages
from simulation.members import BAN, FAILURES, run
from support.lanes import some


@pytest.mark.parametrize("failure", some(list(FAILURES), always=3))
def test_no_failure_makes_members_exceed_the_limit(failure: str) -> None:
    found = run(failure, 3, 1, minutes=3, limit=240)
    assert found.outcome.statuses.keys() == {200}
    assert found.most <= 240
    assert found.outcome.used() >= 0.9
    assert found.outcome.fairness() >= 0.35


# With these seeds, members of earlier versions exceeded the limit: their pool lacked a rule.
SEEDS = {
    "two beside a burst": 1,
    "the third follows": 3,
    "all after a long cut": 15,
    "before a rollover": 4,
    "two of five": 11,
}


@pytest.mark.parametrize("plan", some(list(SEEDS), always=3))
def test_members_without_the_server_stay_within_the_limit_while_their_demand_changes(
    plan: str,
) -> None:
    found = outages.run(plan, SEEDS[plan])
    assert found.outcome.statuses.keys() == {200}
    assert found.most <= outages.LIMIT


def test_no_member_sends_once_it_can_know_of_a_ban() -> None:
    found = run(BAN, 3, 2, minutes=5, limit=600)
    assert found.is_met(BAN)
    assert found.refused > 3  # several requests were under way


def test_the_drill_of_a_ban_notices_members_that_learn_of_it_with_their_next_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MemberPool, "take_news", lambda _: b"")
    found = run(BAN, 3, 2, minutes=5, limit=600)
    assert found.late > 0
    assert not found.is_met(BAN)
