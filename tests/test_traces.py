"""The guard for changes of shape: it must notice a changed decision, and nothing else.

`nox -s traces` plays every run; here each part of it is tried on a few.
"""

import pytest

from binance_oi.budget.usage import Reason, Receipt, Wait
from simulation import traces
from simulation.scripts import SCRIPTS
from simulation.situations import ROWS

A_FEW = "a small limit", "answers without anything", "lost requests stay charged"


def test_an_answer_has_one_normal_form() -> None:
    receipt = Receipt(1, 0.0, 5, 5, 0, False)
    answers = (
        receipt,
        receipt._replace(probe=True),
        Wait(0.25, Reason.OTHERS),
        Wait(None, Reason.TOO_HEAVY),
    )
    forms = [traces.normal_form(answer) for answer in answers]
    assert forms == ["send", "probe", "wait 0.250000", "never"]


def test_every_row_is_traced_with_three_seeds_and_every_script_once() -> None:
    names = traces.runs().keys()
    assert all(sum(name.startswith(f"{row.name}, seed") for name in names) == 3 for row in ROWS)
    assert set(SCRIPTS) <= set(names)
    assert len(names) >= 80


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_makes_decisions_of_more_than_one_kind(name: str) -> None:
    kinds = {line.split()[2] for line in traces._traced(name, 100_000).lines}
    assert len(kinds) > 1


def test_the_same_tree_gives_the_same_traces(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = ({name: str(traces._traced(name)) for name in A_FEW} for _ in range(2))
    assert traces._compare(first, second, None) == 0
    assert "3 runs" in (said := capsys.readouterr().out)
    assert "0 differences" in said


@pytest.mark.parametrize(
    "name, constant",
    [
        ("a small limit", "budget.tuning.POLL"),
        ("answers without anything", "budget.tuning.BLIND_RESERVE"),
        ("lost requests stay charged", "budget.tuning.FLIGHT"),
        ("others come at once each minute", "budget.tuning.CHANCE"),
    ],
)
def test_a_constant_that_changes_by_a_hundredth_is_noticed(
    name: str, constant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = str(traces._traced(name))
    with monkeypatch.context() as patch:
        traces._scale(f"{constant}=1.01", patch.setattr)
        assert str(traces._traced(name)) != before
    assert str(traces._traced(name)) == before


def test_a_difference_is_reported_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    theirs = {"a": "3 00", "b": "3 00", "gone": "3 00"}
    ours = {"a": "3 00", "b": "3 11", "new": "3 00"}
    assert traces._compare(theirs, ours, None) == 2
    said = capsys.readouterr().out
    assert "1 differences" in said
    assert "different: b" in said
    assert "not here: gone" in said
    assert "only here: new" in said
