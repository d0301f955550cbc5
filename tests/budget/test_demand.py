"""A poller declares how much weight per minute it needs; this demand ends with its process.

The rule of this file: where time matters, the test sets it. Several pools stand for several
processes. If a process must end, it is a real one.
"""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from binance_oi.budget import MachineBudget, ProcessBudget, Receipt, record
from binance_oi.budget.boot import boot_identity
from binance_oi.budget.demand import (
    DEMAND_LIFE_S,
    MAX_DEMANDS,
    RENEWAL_S,
    Declared,
    Demand,
    Process,
    believed,
    merged,
    with_own,
)
from binance_oi.budget.process import UNKNOWN_NAMESPACE, is_gone, this_process
from binance_oi.budget.shared import SharedPool
from support.memory_store import Memory, MemoryBudget

HERE = this_process()


class Time:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def memory_budget(memory: Memory, clock: Time) -> MemoryBudget:
    return MemoryBudget(memory, limit=2400, reserve=0.01, clock=clock, wall=clock)


def need(
    owner: int = 1, *, weight: float = 60.0, since: float = 0.0, until: float = 100.0
) -> Demand:
    return Demand(owner, HERE, weight, since, until)


# -- pollers of one process --------------------------------------------------------------------


def test_a_poller_sees_the_demand_of_earlier_pollers_and_a_new_one_sees_all() -> None:
    pool = ProcessBudget().pool("")
    pool.declare("first", 100.0)
    pool.declare("second", 20.0)
    assert [pool.demand(key) for key in ("first", "second", "third")] == [0.0, 100.0, 120.0]


def test_a_poller_that_declares_anew_comes_after_all_others() -> None:
    pool = ProcessBudget().pool("")
    pool.declare("first", 100.0)
    pool.declare("second", 20.0)
    pool.declare("first", 150.0)
    assert pool.demand("first") == 0.0
    pool.declare("first", 150.0, anew=True)
    assert [pool.demand(key) for key in ("first", "second")] == [20.0, 0.0]


def test_a_poller_that_ends_has_no_demand() -> None:
    pool = ProcessBudget().pool("")
    pool.declare("first", 100.0)
    pool.declare("first", 0.0)
    pool.declare("never there", 0.0)
    assert pool.demand("other") == 0.0


def test_a_demand_does_not_affect_whether_requests_are_admitted() -> None:
    pool = ProcessBudget(limit=100).pool("")
    before = pool.usage
    pool.declare("greedy", 1e9)
    assert pool.usage == before
    assert isinstance(pool.charge(1), Receipt)


# -- pollers of several processes --------------------------------------------------------------


def test_processes_that_share_a_budget_see_each_others_demand(tmp_path: Path) -> None:
    clock = Time()
    pools = [MachineBudget(directory=tmp_path, clock=clock).pool("x") for _ in range(3)]
    for number, pool in enumerate(pools):
        pool.declare("poller", 100.0 * (number + 1))
        clock.now += 1.0
    assert [pool.demand("poller") for pool in pools] == [0.0, 100.0, 300.0]
    assert [pool.demand("another") for pool in pools] == [600.0] * 3
    pools[0].declare("poller", 0.0)
    assert [pool.demand("poller") for pool in pools[1:]] == [0.0, 200.0]


def test_two_pollers_that_begin_at_the_same_moment_still_have_an_order(tmp_path: Path) -> None:
    clock = Time()
    pools = [MachineBudget(directory=tmp_path, clock=clock).pool("x") for _ in range(2)]
    for pool in pools:
        pool.declare("poller", 100.0)
    assert sorted(pool.demand("poller") for pool in pools) == [0.0, 100.0]


def test_a_closed_budget_has_no_demand(tmp_path: Path) -> None:
    clock = Time()
    budget, other = (MachineBudget(directory=tmp_path, clock=clock) for _ in range(2))
    budget.pool("x").declare("poller", 100.0)
    assert other.pool("x").demand("other") == 100.0
    budget.close()
    assert other.pool("x").demand("other") == 0.0


def test_a_demand_ends_unless_it_is_renewed(tmp_path: Path) -> None:
    clock = Time()
    ours, other = (MachineBudget(directory=tmp_path, clock=clock).pool("x") for _ in range(2))
    ours.declare("poller", 100.0)
    for _ in range(10):
        clock.now += RENEWAL_S
        ours.declare("poller", 100.0)
        assert other.demand("other") == 100.0
    clock.now += DEMAND_LIFE_S
    assert other.demand("other") == 0.0
    ours.declare("poller", 100.0)
    assert other.demand("other") == 100.0


def test_a_repeated_declaration_is_written_once_a_minute() -> None:
    memory, clock = Memory(), Time()
    pool = memory_budget(memory, clock).pool("x")
    pool.declare("poller", 100.0)
    locks = memory.locks
    for _ in range(600):
        clock.now += 0.2
        pool.declare("poller", 100.0)
    assert memory.locks - locks == 2


def test_a_demand_can_be_declared_while_another_process_has_the_lock() -> None:
    memory, clock = Memory(), Time()
    pool, other = (memory_budget(memory, clock).pool("x") for _ in range(2))
    memory.is_locked = True
    pool.declare("poller", 100.0)
    assert other.demand("other") == 0.0
    memory.is_locked = False
    pool.flush()
    assert other.demand("other") == 100.0


def test_a_process_that_resumes_sharing_shares_its_demand() -> None:
    memory, clock = Memory(), Time()
    pool, other = (memory_budget(memory, clock).pool("x") for _ in range(2))
    other.declare("other", 30.0)
    memory.lose()
    pool.declare("poller", 100.0)
    clock.now += RENEWAL_S
    other.declare("other", 30.0)
    assert other.demand("a stranger") == pool.demand("a stranger") == 130.0


KILLED = """
import sys
from binance_oi.budget import MachineBudget
pool = MachineBudget(directory=sys.argv[1]).pool("x")
pool.declare("poller", 100.0)
print("declared", flush=True)
sys.stdin.read()
"""


def test_the_demand_of_a_killed_process_ends_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    pool = MachineBudget(directory=tmp_path).pool("x")
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "declared\n"
        assert pool.demand("other") == 100.0
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it ended and is a zombie
        assert pool.demand("other") == 0.0
        process.wait()
        assert pool.demand("other") == 0.0
    pool.declare("other", 1.0)  # this write removes the demand of the dead process
    assert isinstance(pool, SharedPool)
    assert len(pool._written().demands) == 1


def test_a_forked_child_has_no_demand_of_its_own_and_its_exit_keeps_that_of_its_parent(
    tmp_path: Path,
) -> None:
    budgets = MachineBudget(directory=tmp_path), ProcessBudget()
    pools = [budget.pool("x") for budget in budgets]
    for pool in pools:
        pool.declare("poller", 100.0)
    child = os.fork()
    if child == 0:
        shared, alone = (pool.demand("other") for pool in pools)
        budgets[0].close()
        os._exit(0 if (shared, alone) == (100.0, 0.0) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [pool.demand("other") for pool in pools] == [100.0, 100.0]
    assert MachineBudget(directory=tmp_path).pool("x").demand("other") == 100.0


# -- demands that another process has written --------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        need(weight=math.nan),
        need(weight=math.inf),
        need(weight=-1.0),
        need(weight=0.0),
        need(since=1e9),
        need(since=math.nan),
        need(until=1e9),
        need(until=math.nan),
        need(until=49.0),
    ],
)
def test_an_expired_or_impossible_demand_is_dropped(wrong: Demand) -> None:
    sound = need(2)
    assert believed([wrong, sound], 50.0) == [sound]


def test_a_record_keeps_only_the_newest_demands() -> None:
    many = [need(n, since=float(n % 50)) for n in range(1000)]
    kept = believed(many, 50.0)
    assert len(kept) == MAX_DEMANDS
    assert min(each.since for each in kept) == 48.0


def test_an_impossible_demand_does_not_invalidate_its_record() -> None:
    pool = ProcessBudget(clock=Time(50.0)).pool("")
    known = pool._bucket.known
    known.demands = [need(until=1e9), need(2)]
    assert record.flaw(known, 50.0) == ""
    assert known.demands == [need(2)]


def test_a_record_that_is_too_long_loses_demands_first() -> None:
    known = ProcessBudget(clock=Time(50.0)).pool("")._bucket.known
    known.demands = [need(n) for n in range(MAX_DEMANDS)]
    made = record.Record("x", boot_identity(0.0), known)
    full = record.encode(made)
    fitted = record.decode(record.fitted(made, len(full) - 1))
    assert fitted is not None
    assert fitted.state.demands == []
    assert len(known.demands) == MAX_DEMANDS
    known.demands = []
    assert fitted.state == known


def test_a_merge_keeps_the_latest_demand_of_each_owner() -> None:
    older, newer, other = need(until=60.0), need(until=70.0), need(2)
    assert merged([older, other], [newer]) == [newer, other]
    assert merged([newer], [older, other]) == [newer, other]


def test_a_demand_replaces_the_previous_one_of_its_owner() -> None:
    assert with_own([need(weight=1.0), need(2)], need(), 50.0) == [need(2), need()]


def test_a_process_has_the_sum_of_its_demands_and_the_start_of_its_newest_poller() -> None:
    declared = Declared()
    assert (declared.total, declared.since) == (0.0, -math.inf)
    assert declared.put("a", 5.0, 1.0, anew=False)
    assert not declared.put("a", 5.0, 2.0, anew=False)
    assert declared.put("b", 6.0, 3.0, anew=False)
    assert (declared.total, declared.since) == (11.0, 3.0)


# -- the identity of a process -----------------------------------------------------------------


def test_a_later_process_with_the_same_id_is_another_process() -> None:
    assert not is_gone(HERE)
    assert is_gone(HERE._replace(start=HERE.start + 1))


@pytest.mark.parametrize(
    "stat, gone",
    [
        ("7 (name) S " + "0 " * 18 + "55 0", False),
        ("7 (na) S me) S " + "0 " * 18 + "55 0", False),
        ("7 (name) Z " + "0 " * 18 + "55 0", True),
        ("7 (name) S " + "0 " * 18 + "56 0", True),
        ("nonsense", False),
        ("7 (name) S " + "x " * 40, False),
        (FileNotFoundError(), True),
        (ProcessLookupError(), True),
        (PermissionError(), False),
    ],
)
def test_a_process_counts_as_ended_if_the_system_reports_its_end(
    stat: str | OSError, gone: bool
) -> None:
    def read(pid: int) -> str:
        if isinstance(stat, OSError):
            raise stat
        return stat

    assert is_gone(Process(HERE.namespace, 7, 55), read) == gone


def test_a_process_in_another_namespace_never_counts_as_ended() -> None:
    assert not is_gone(Process(HERE.namespace + 1, 2**22 - 3, 1))
    assert not is_gone(Process(UNKNOWN_NAMESPACE, 2**22 - 3, 1))
    assert not is_gone(Process(HERE.namespace, -1, 1))


def test_a_process_without_a_readable_stat_is_identified_without_its_start() -> None:
    def refuse(pid: int) -> str:
        raise PermissionError

    assert this_process(refuse) == Process(UNKNOWN_NAMESPACE, os.getpid(), 0)


def test_without_namespaces_the_process_id_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("binance_oi.budget.process._namespace", lambda: 0)
    assert this_process() == Process(0, os.getpid(), 0)
    assert not is_gone(this_process())
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert is_gone(Process(0, process.pid, 0))
    assert not is_gone(Process(0, 2**80, 0))


def test_a_stopped_process_has_not_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    pool = MachineBudget(directory=tmp_path).pool("x")
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert pool.demand("other") == 100.0
        process.kill()
