"""The guard for refactorings: a trace must change with a decision, and with nothing else.

Rule of this file: `nox -s traces` plays every run; these tests play only scripts. One test changes
each number of the decision by a hundredth: the trace of at least one script must change.
"""

import ast
import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import binance_oi
from binance_oi.budget.tuning import MEMORY
from binance_oi.budget.usage import Reason, Receipt, Wait
from simulation import traces
from simulation.situations import ROWS
from simulation.traces import SCRIPTS
from support.lanes import some, thorough

A_FEW = "a small limit", "answers without anything", "lost requests stay charged"


def test_each_answer_has_one_normal_form_in_a_trace() -> None:
    receipt = Receipt(1, 0.0, 5, 5, 0, False)
    answers = (
        receipt,
        receipt._replace(probe=True),
        Wait(0.25, Reason.OTHERS),
        Wait(None, Reason.TOO_HEAVY),
        None,  # charged, but too late to be written
    )
    forms = [traces.normal_form(answer) for answer in answers]
    assert forms == ["send", "probe", "wait 0.250000", "never", "refund"]


def test_every_situation_is_traced_with_three_seeds_and_every_script_once() -> None:
    names = traces.runs().keys()
    assert all(sum(name.startswith(f"{row.name}, seed") for name in names) == 3 for row in ROWS)
    assert set(SCRIPTS) <= set(names)
    assert len(names) >= 80


@pytest.mark.parametrize("name", some(list(SCRIPTS), always=4))
def test_a_script_makes_decisions_of_more_than_one_kind(name: str) -> None:
    kinds = {line.split()[2] for line in traces._traced(name, 100_000).lines}
    assert len(kinds) > 1


def test_the_same_tree_gives_the_same_traces(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = ({name: str(traces._traced(name)) for name in A_FEW} for _ in range(2))
    assert traces._compare(first, second, None) == 0
    assert "3 runs" in (said := capsys.readouterr().out)
    assert "0 differences" in said


PACKAGE = Path(binance_oi.__file__).parent
DECIDING = (
    *("sending.governor", "sending.pacer", "exchange.refusals"),
    *(f"budget.{file.stem}" for file in PACKAGE.glob("budget/*.py")),
)
BOUND = "a bound for records of other processes; a valid record is within it"
LAYOUT = "where a record is in the file, how long it may be, or for how long the file keeps it"
REAL = "it counts attempts on the real clock, or between threads, which no script can repeat"
PAST = "it concerns requests of history, and no script makes any"
PLANS = "it concerns plans of pollers; no rule reads them"
SERVER = "it concerns sharing through a server, which tests/simulation/members.py plays"
# The numbers that change no trace, each with the reason.
UNNOTICED = {
    "budget.knowledge.UNKNOWN": "it is infinite",
    "budget.server_clock.MAX_WIDTH_S": BOUND,
    "budget.server_clock.CORES_APART_S": BOUND,
    "budget.server_clock.MAX_CONTRADICTIONS": BOUND,
    "budget.server_clock.MAX_UNIX_S": BOUND,
    "budget.record.MAX_WEIGHT": BOUND,
    "budget.record.MAX_LIMIT": BOUND,
    "budget.record.MAX_COUNT": BOUND,
    "budget.record.MAX_UNDECIDED": BOUND,
    "budget.record.MAX_WINDOWS": BOUND,
    "budget.record.MAX_WINDOW_S": BOUND,
    "budget.record.MAX_SLOTS_PER_PART": BOUND,
    "budget.record.MAX_PARTS": BOUND,
    "budget.rolling.WINDOW_PARTS": PAST,
    "budget.rolling.SINGLE_SHARE": PAST,
    "budget.rolling.SPARE_S": PAST,
    "budget.rolling.CREDIT_S": PAST,
    "budget.shared.WINDOW_LEASED_CALLS": PAST,
    "budget.shared.WINDOW_LEASE_S": PAST,
    "budget.shared.WINDOW_SUCCESSION_S": PAST,
    "budget.record.MAX_COOLDOWN_S": BOUND,
    "budget.record.MAX_WAIT_S": BOUND,
    "budget.record.MIN_CURVE_S": BOUND,
    "budget.record.OLD_S": BOUND,
    "budget.record.MINUTES_IF_LONG": LAYOUT,
    "budget.record.SLOTS_IF_LONG": LAYOUT,
    "budget.pool_file.MAX_RECORD_BYTES": LAYOUT,
    "budget.record.COPY_TRIES": REAL,
    "budget.boot.SAME_BOOT_S": "by how much two readings of one boot may differ",
    "budget.demand.DEMAND_LIFE_S": PLANS,
    "budget.demand.RENEWAL_S": PLANS,
    "budget.demand.CLOCK_TOLERANCE_S": PLANS,
    "budget.demand.MAX_DEMANDS": PLANS,
    "budget.demand.MAX_NEED": BOUND,
    "budget.process.UNKNOWN_NAMESPACE": "a name that no namespace has",
    "budget.stored.NO_LINEAGE": "a name that no record has",
    **dict.fromkeys(
        (
            *(f"budget.journal.{name}" for name in ("ENTRY_LIFE_S", "ENTRY_SPAN_S", "UNWRITTEN")),
            *(
                f"budget.record_time.{name}"
                for name in ("CLOCK_SET_S", "MIN_DRIFT_S", "DRIFT_STEP_S", "CORRECTABLE_S")
            ),
            *(
                f"budget.member_record.{name}"
                for name in ("FORMAT", "VERSION_BYTES", "ID_BYTES", "KEPT_MINUTES")
            ),
            *(f"budget.member_record.{name}" for name in ("MOST_MEMBERS", "EVEN_PART_S")),
            *(
                f"budget.member_record.{name}"
                for name in ("COUNTED_AFTER_S", "PROBE_ROOM", "PRESENCE_S")
            ),
            *(
                f"budget.member_record.{name}"
                for name in ("SILENT_AFTER_S", "APART_AFTER_S", "CLAIM_BY_S", "LATE_CLAIM_S")
            ),
            "budget.member_record.LONGEST_SHIFT",
            *(
                f"budget.record_pool.{name}"
                for name in ("UPDATE_S", "RESTORE_S", "NOTICE_LOSS_S", "TRUSTED")
            ),
            *(
                f"budget.turns.{name}"
                for name in (
                    "MAX_LEASE_WEIGHT",
                    "SMALL_LEASE_WEIGHT",
                    "LEASE_S",
                    "READ_PAUSE_S",
                    "CALL_TIMEOUT_S",
                )
            ),
            *(
                f"budget.turns.{name}"
                for name in (
                    "LOST_AFTER_S",
                    "LOST_AFTER_CALLS",
                    "QUICK_RETRY_S",
                    "RETRY_S",
                    "WANT_LIFE_S",
                )
            ),
            *(
                f"budget.turns.{name}"
                for name in ("TURN_S", "RECORD_LIFE_S", "CROWD_MEMBERS", "CROWD_UPDATE_S")
            ),
            "budget.member_record.LEAST_MEMBERS",
            "budget.member_record.MOST_PARTS",
            "budget.apart.MIN_PART_WEIGHT",
            "budget.record_pool.NEVER",
            "budget.member.GROUP_MINUTES",
            "budget.member.MAX_LATE_CHANGES",
            "budget.courier.LAST_TURNS",
            *(
                f"budget.redis_server.{name}"
                for name in ("FORMAT_KEPT_MS", "MOST_WAITING", "LISTEN_S")
            ),
        ),
        SERVER,
    ),
    "budget.pool.MAX_VIEWS": REAL,
    "budget.pool.QUICK_VIEWS": REAL,
    "budget.pool.VIEW_PAUSE_S": REAL,
    "budget.pool_file.LOCK_TRIES": REAL,
    "budget.pool_file.STUCK_S": REAL,
    "budget.pool_file.STUCK_TRIES": REAL,
    "budget.pool_file.FORMAT": LAYOUT,
    "budget.pool_file.PAGE_BYTES": LAYOUT,
    "budget.pool_file.MAX_RECORDS": LAYOUT,
    "budget.pool_file.UNUSED_S": LAYOUT,
    "budget.pool_file.UNUSED_LOCAL_S": LAYOUT,
    "budget.pool_file._SAFE": LAYOUT,
    "budget.pool_file._WRITES": LAYOUT,
    "budget.pool_file._MAX_SEQUENCE": LAYOUT,
    "exchange.refusals.MAX_TEXT_READ": "how much of a text we read; no script has texts",
    "exchange.refusals.MIN_STATED": "which limit of a text we trust; no script has texts",
    "exchange.refusals.FIREWALL": "a status code, 403",
    "sending.pacer.LONGEST_S": "no wait is as long",
    "sending.governor.MAX_FINISHED": "when finished calls are removed; it decides nothing",
    "sending.governor.ENDED_PER_STEP": "how many calls, all unsent, end in one step of the loop",
    "sending.governor.LEAST_RETRY_S": "the `retry_at` of a refused call; it decides nothing",
}


def numbers(module: str) -> list[str]:
    """The numeric constants that a module of ours defines."""
    found = import_module(f"binance_oi.{module}")
    assert found.__file__ is not None
    names: list[str] = []
    for line in ast.parse(Path(found.__file__).read_text()).body:
        targets = line.targets if isinstance(line, ast.Assign) else []
        if isinstance(line, ast.AnnAssign):
            targets = [line.target]
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return [
        f"{module}.{name}"
        for name in names
        if name.isupper() and isinstance(getattr(found, name), (int, float))
    ]


NUMBERS = [each for module in sorted(DECIDING) for each in numbers(module)]
NOTICED = [each for each in NUMBERS if each not in UNNOTICED]


@cache
def unchanged(script: str) -> str:
    return played(script)


def played(script: str) -> str:
    notes = traces.Notes()
    SCRIPTS[script](notes.take)
    return str(notes)


def likeliest_first(number: str) -> list[str]:
    """All scripts; for speed, those whose docstring names the number come first."""
    name = re.compile(rf"\b{number.rpartition('.')[2]}\b")
    return sorted(SCRIPTS, key=lambda script: not name.search(SCRIPTS[script].__doc__ or ""))


@pytest.mark.parametrize("factor", [1.01, *thorough(0.99)])
@pytest.mark.parametrize("number", some(NOTICED, always=2))
def test_changing_a_number_of_the_decision_by_a_hundredth_changes_a_trace(
    number: str, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def notices(script: str) -> bool:
        before = unchanged(script)
        with monkeypatch.context() as patch:
            traces._scale(f"{number}={factor}", patch.setattr)
            return played(script) != before

    noticing = next(filter(notices, likeliest_first(number)), None)
    assert noticing is not None, f"write a script that stands at the threshold of {number}"
    assert played(noticing) == unchanged(noticing)


def test_every_number_listed_as_unnoticed_exists_and_has_a_reason() -> None:
    assert set(UNNOTICED) <= set(NUMBERS)
    assert all(UNNOTICED.values())


def test_a_new_number_in_a_module_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "added.py").write_text("A = 1.5\nB: int = 2\nC = A * B\nD = 'text'\n_e = 3\n")
    monkeypatch.setattr(binance_oi, "__path__", [*binance_oi.__path__, str(tmp_path)])
    assert numbers("added") == ["added.A", "added.B", "added.C"]


def test_an_integer_is_changed_by_at_least_one() -> None:
    made: dict[str, float] = {}
    for factor in (0.99, 1.01):
        traces._scale(
            f"budget.tuning.MEMORY={factor}", lambda _, name, v: made.update({f"{name} {v}": v})
        )
    assert sorted(made.values()) == [MEMORY - 1, MEMORY + 1]


def test_a_difference_between_traces_is_reported_and_fails(
    capsys: pytest.CaptureFixture[str],
) -> None:
    theirs = {"a": "3 00", "b": "3 00", "gone": "3 00"}
    ours = {"a": "3 00", "b": "3 11", "new": "3 00"}
    assert traces._compare(theirs, ours, None) == 2
    said = capsys.readouterr().out
    assert "1 differences" in said
    assert "different: b" in said
    assert "not here: gone" in said
    assert "only here: new" in said
