"""Measures a budget that machines share: `python -m tests.benchmarks machines`.

Rule of this file: the server is a `Keeper` in memory, whose work is not measured. So every time is
CPU time of this package. The clock stands still until the program moves it.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from binance_oi.budget import ProcessBudget
from binance_oi.budget.member import MemberPool
from binance_oi.budget.pool import fresh_state
from binance_oi.budget.turns import MAX_LEASE_WEIGHT
from binance_oi.budget.usage import Receipt
from simulation.members import run
from support.record_keeper import Keeper

HUGE = 10**7  # weight: a limit that no round reaches
MEMBERS = 4
BEGINNING = 1_795_434_000.0  # Unix s: the beginning of a minute
LAST_S = 45.0  # s: the latest moment of a minute at which a round begins
ROUNDS = 100  # measured rounds for each one that `--rounds` asks for
ANSWER_S = 0.02  # s from the requests of a round to their answers


class _Round(NamedTuple):
    """The CPU time of one round, s."""

    charge: float  # to charge one weight from a lease
    turn: float  # to take a turn that writes 100 settled requests and charges 100


class _Machines:
    """Members that share a record on the server; the first member is measured."""

    def __init__(self) -> None:
        self.now, self.counted = BEGINNING + 1.0, 0
        self.keeper = Keeper(self.clock)
        self.members = [self._member() for _ in range(MEMBERS)]
        for member in self.members:
            for _ in range(5):  # join, and learn the time of the exchange
                self.charge(member)
                self.ask(member)
                self.settle(member, self.taken(member))
                self.now += 0.5

    def clock(self) -> float:
        return self.now

    def _member(self) -> MemberPool:
        def make(state: Any, members: int = 1) -> Any:
            return ProcessBudget(limit=HUGE, share=1.0 / members)._make_bucket(state)

        def fresh(clock: Callable[[], float]) -> Any:
            return fresh_state(HUGE, clock, self.clock)

        return MemberPool(make, fresh, self.clock, self.clock)

    def charge(self, member: MemberPool) -> None:
        """Charge without a lease, so that the next turn charges as much as it may."""
        member._lease_weight = MAX_LEASE_WEIGHT
        assert not isinstance(member.charge(1, MAX_LEASE_WEIGHT), Receipt)

    def ask(self, member: MemberPool) -> float:
        """Take turns until the member has leases, or has nothing to write.

        Returns:
            The CPU time of the last turn, s.
        """
        taken = 0.0
        while not member._has_leases:
            began = time.thread_time()
            turn = member.begin()
            taken = time.thread_time() - began
            if turn is None:
                break
            answer = self.keeper.swap("exchange", turn.swap)
            began = time.thread_time()
            member.answered(turn, answer, self.now)
            taken += time.thread_time() - began
            self.now += 0.001
        return taken

    def taken(self, member: MemberPool) -> list[Receipt]:
        """Take every leased weight."""
        receipts: list[Receipt] = []
        while member._has_leases:
            answer = member.charge(1, MAX_LEASE_WEIGHT)
            assert isinstance(answer, Receipt)
            receipts.append(answer)
        return receipts

    def settle(self, member: MemberPool, receipts: list[Receipt]) -> None:
        self.now += ANSWER_S
        for receipt in receipts:
            self.counted += receipt.weight
            member.settle(receipt, self.counted, float(int(self.now)))

    def round(self) -> _Round | None:
        """Charge and settle once; None if the turn charged less than a turn can charge."""
        if self.now % 60.0 > LAST_S:
            self.now += 61.0 - self.now % 60.0
            self.counted = 0
        member = self.members[0]
        self.charge(member)
        turn = self.ask(member)
        began = time.thread_time()
        receipts = self.taken(member)
        charge = (time.thread_time() - began) / max(1, len(receipts))
        self.settle(member, receipts)
        return _Round(charge, turn) if len(receipts) > MAX_LEASE_WEIGHT else None


def _plain_charge() -> float:
    """The CPU time of one charge of a `ProcessBudget` after its first two minutes, s."""
    now = BEGINNING
    budget = ProcessBudget(limit=HUGE, clock=lambda: now, wall=lambda: now)
    pool = budget.pool("exchange")
    for now in (BEGINNING + 1.0, BEGINNING + 125.0, BEGINNING + 130.0):
        pool.settle(cast(Receipt, pool.charge(1)), 1, float(int(now)))
    began = time.thread_time()
    charged = [pool.charge(1, MAX_LEASE_WEIGHT) for _ in range(MAX_LEASE_WEIGHT)]
    taken = (time.thread_time() - began) / MAX_LEASE_WEIGHT
    assert all(isinstance(each, Receipt) for each in charged)
    return taken


def measure(rounds: int) -> None:
    """Measure a charge from a lease, a turn of 100, and the calls to the server for each weight."""
    machines = _Machines()
    made = [each for _ in range(ROUNDS * rounds) if (each := machines.round())]
    leased = statistics.median(each.charge for each in made)
    plain = statistics.median(_plain_charge() for _ in range(ROUNDS * rounds))
    turn = statistics.median(each.turn for each in made)
    print("| | | target |\n|---|---|---|")
    print(
        f"| a charge from a lease ({leased * 1e6:.2f} µs), `ProcessBudget` = 1 |"
        f" {leased / plain:.2f} | 1.5 |"
    )
    print(f"| CPU of a turn that settles and charges 100 | {turn * 1e3:.2f} ms | 0.6 ms |")
    for members in (3, 8, 16):
        calls = run("none", members, 1).calls_per_weight
        print(f"| calls to the server for each weight, {members} members | {calls:.2f} | 1.0 |")
