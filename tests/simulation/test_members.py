"""Short runs of a few failures of members on several machines, in virtual time.

`python -m tests.simulation.members` plays all failures with many seeds.
"""

import pytest

from simulation.members import FAILURES, run
from support.lanes import some


@pytest.mark.parametrize("failure", some(list(FAILURES), always=3))
def test_no_failure_makes_members_exceed_the_limit(failure: str) -> None:
    found = run(failure, 3, 1, minutes=3, limit=240)
    assert found.outcome.statuses.keys() == {200}
    assert found.most <= 240
    assert found.outcome.used() >= 0.9
    assert found.outcome.fairness() >= 0.35
