"""How a member, a process that shares a record on a server, handles answers and missing answers.

Rule of this file: the server is a `Keeper` in memory. A test makes each call to it, so the test
decides which answer is lost, and what the server forgets. Only the test moves the clock.
"""

import logging
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis.strategies import integers, lists

from binance_oi import fork
from binance_oi.budget import member_record
from binance_oi.budget.journal import Booked
from binance_oi.budget.ledger import Minute
from binance_oi.budget.member import MemberPool
from binance_oi.budget.member_record import (
    APART_AFTER_S,
    CLAIM_BY_S,
    COUNTED_AFTER_S,
    EVEN_PART_S,
    LATE_CLAIM_S,
    MOST_PARTS,
    PRESENCE_S,
    PROBE_ROOM,
    SILENT_AFTER_S,
)
from binance_oi.budget.pool import ProcessBudget, fresh_state
from binance_oi.budget.record_pool import RESTORE_S, UPDATE_S, Turn
from binance_oi.budget.record_server import Answer, Outcome, Swap
from binance_oi.budget.tuning import MEMORY, PATIENCE
from binance_oi.budget.turns import LEASE_S, LOST_AFTER_CALLS, LOST_AFTER_S, MAX_LEASE_WEIGHT
from binance_oi.budget.usage import Reason, Receipt, Wait
from support.clocks import NOON, Time
from support.lanes import thorough
from support.record_keeper import Keeper

pytestmark = pytest.mark.usefixtures("known_address")

LIMIT = 1000
POOL = "exchange"


@dataclass
class Machines:
    """Makes members on machines with clocks of their own, and has the server that they share."""

    time: Time = field(default_factory=Time)
    without_server: Any = "share"
    made: int = 0

    def __post_init__(self) -> None:
        self.keeper = Keeper(self.time.wall)

    def member(self, *, limit: int = LIMIT, wall_error: float = 0.0) -> MemberPool:
        self.made += 1
        boot, time = 1000.0 * self.made, self.time

        def make(state: Any, members: int = 1) -> Any:
            budget = ProcessBudget(limit=limit, reserve=0, share=1.0 / members)
            return budget._make_bucket(state)

        def wall() -> float:
            return time.wall() + wall_error

        return MemberPool(
            make,
            lambda clock: fresh_state(limit, clock, wall),
            lambda: time.now + boot,
            wall,
            self.without_server,
        )

    def ask(self, pool: MemberPool) -> Turn | None:
        """Make one call to the server."""
        turn = pool.begin()
        if turn is not None:
            pool.answered(turn, self.keeper.swap(POOL, turn.swap), pool._steady())
        return turn

    def talk(self, pool: MemberPool) -> int:
        """Make calls to the server until none is due."""
        calls = 0
        while pool.due_in() == 0.0 and calls < 20 and self.ask(pool) is not None:
            calls += 1
        return calls

    def take(self, pool: MemberPool, weight: int = 1, waiting: int = 0) -> Receipt:
        answer = self.want(pool, weight, waiting)
        assert isinstance(answer, Receipt), answer
        return answer

    def want(self, pool: MemberPool, weight: int = 1, waiting: int = 0) -> Receipt | Wait:
        """Charge, and make the calls to the server that the charge needs."""
        answer = pool.charge(weight, waiting)
        for _ in range(20):
            if isinstance(answer, Receipt) or not self.talk(pool):
                break
            answer = pool.charge(weight, waiting)
        return answer

    def use(self, pool: MemberPool, weight: int = 1) -> None:
        """Send a request; its answer has the count of all weight used."""
        receipt = self.take(pool, weight)
        pool.settle(receipt, self.used(pool), NOON + int(self.time.now))
        self.tell(pool)

    def used(self, pool: MemberPool) -> int:
        return max(1, pool.usage.used)

    def tell(self, pool: MemberPool) -> None:
        """Write pending settlements to the server."""
        self.time.move(UPDATE_S)
        self.talk(pool)

    def record(self) -> member_record.Shared:
        shared = member_record.decode(self.keeper.places[POOL].record)
        assert shared is not None
        return shared

    def booked(self) -> int:
        """The weight that the record has booked for this minute."""
        state = self.record().state
        return state.ledger.minute(int((NOON + self.time.now) // 60)).booked

    def lose(self, pool: MemberPool) -> None:
        """Let the server fail until the pool treats it as lost."""
        for _ in range(LOST_AFTER_CALLS + 2):
            turn = pool.begin()
            if turn is None:
                pool.charge(1)
                continue
            sent = pool._steady()
            self.time.move(LOST_AFTER_S / 2)
            pool.failed(turn, "no answer", sent)


@pytest.fixture
def machines() -> Machines:
    return Machines()


def members_that_used(machines: Machines, *weights: int) -> list[MemberPool]:
    """Make one member for each weight, which has used that weight."""
    pools = [machines.member() for _ in weights]
    for pool, weight in zip(pools, weights, strict=True):
        machines.use(pool, weight)
    return pools


def errors_of_time(machines: Machines, *pools: MemberPool) -> set[float]:
    """Return by how many seconds the times of these members differ from the time of the test."""
    return {round(pool._now() - NOON - machines.time.now, 6) for pool in pools}


def test_members_share_one_count(machines: Machines) -> None:
    one, other = machines.member(), machines.member()
    machines.use(one, 10)
    machines.use(other, 20)
    machines.use(one, 3)
    machines.tell(other)
    machines.use(other, 4)
    assert machines.booked() == 37
    assert other.usage.charged == 37
    assert other.usage.others == 0


def test_all_members_together_use_the_budget_and_never_exceed_it(machines: Machines) -> None:
    pools = [machines.member() for _ in range(3)]
    for pool in pools:
        machines.use(pool)
    total = 3
    for _ in range(400):
        for pool in pools:
            answer = machines.want(pool, 5)
            if isinstance(answer, Receipt):
                total += 5
                pool.settle(answer, total, NOON + int(machines.time.now))
        machines.time.move(0.05)
    assert 0.98 * LIMIT <= total <= LIMIT
    assert machines.booked() == total


def test_a_lease_admits_the_waiting_calls_without_another_call_to_the_server(
    machines: Machines,
) -> None:
    pool = machines.member()
    machines.use(pool)
    machines.take(pool, waiting=9)
    calls = machines.keeper.calls
    served = [pool.charge(1, 9) for _ in range(9)]
    assert all(isinstance(each, Receipt) for each in served)
    assert machines.keeper.calls == calls


def test_a_lease_doubles_each_time_it_is_used_up(machines: Machines) -> None:
    pool = machines.member()
    machines.use(pool)
    sizes, count = list[int](), 1
    for _ in range(6):
        charged = [machines.take(pool, waiting=9)]
        while isinstance(answer := pool.charge(1, 9), Receipt):
            charged.append(answer)
        sizes.append(len(charged))
        for receipt in charged:
            count += 1
            pool.settle(receipt, count, NOON + int(machines.time.now))
    assert sizes == [10, 19, 37, 73, MAX_LEASE_WEIGHT + 1, MAX_LEASE_WEIGHT + 1]


def test_an_unused_lease_is_returned_after_its_life(machines: Machines) -> None:
    pool = machines.member()
    machines.use(pool)
    machines.take(pool, waiting=9)
    assert machines.booked() == 1 + 10
    machines.time.move(LEASE_S)
    machines.talk(pool)
    machines.tell(pool)
    assert machines.booked() == 1 + 1


def test_an_expired_lease_is_not_used(machines: Machines) -> None:
    pool = machines.member()
    machines.use(pool)
    machines.take(pool, waiting=9)
    machines.time.move(LEASE_S)
    assert not isinstance(pool.charge(1, 8), Receipt)


def test_a_swap_that_another_member_won_needs_only_one_more_call_to_the_server(
    machines: Machines,
) -> None:
    one, other = machines.member(), machines.member()
    machines.use(one)
    machines.use(other)
    one.charge(1)
    turn = one.begin()
    assert turn is not None
    machines.use(other, 7)
    one.answered(turn, machines.keeper.swap(POOL, turn.swap), one._steady())
    calls = machines.keeper.calls
    assert isinstance(machines.want(one), Receipt)
    assert machines.keeper.calls == calls + 1
    assert machines.booked() == 1 + 1 + 7 + 1


def test_a_member_whose_swap_came_too_late_is_served_next(machines: Machines) -> None:
    one, other = machines.member(), machines.member()
    machines.use(one)
    machines.use(other)
    one.charge(1)
    late = one.begin()
    assert late is not None
    machines.use(other)
    assert machines.keeper.swap(POOL, late.swap).outcome is Outcome.LATE
    one.failed(late, "a test", one._steady())
    other.charge(1)
    assert machines.ask(other) is not None
    assert machines.record().lines[other.member].serial == other._serial - 1
    assert isinstance(machines.want(one), Receipt)
    machines.time.move(0.2)
    assert isinstance(machines.want(other), Receipt)


@pytest.mark.parametrize("is_done", [True, False])
def test_a_change_is_applied_once_even_if_its_answer_was_lost(
    machines: Machines, is_done: bool
) -> None:
    pool = machines.member()
    machines.use(pool)
    receipt = machines.take(pool, 10)
    pool.settle(receipt, machines.used(pool), NOON + int(machines.time.now))
    pool.charge(5)
    turn = pool.begin()
    assert turn is not None
    if is_done:
        machines.keeper.swap(POOL, turn.swap)
    pool.failed(turn, "no answer", pool._steady())
    machines.talk(pool)
    machines.tell(pool)
    state = machines.record().state
    minute = state.ledger.minute(int((NOON + machines.time.now) // 60))
    # No call takes the charge of 5: it is a lease at first, and then refunded.
    out = 5 if pool._has_leases else 0
    assert (minute.booked, minute.unconfirmed) == (11 + out, out)


def test_a_delayed_write_that_was_already_replaced_changes_nothing(machines: Machines) -> None:
    pool = machines.member()
    machines.use(pool)
    pool.charge(5)
    delayed = pool.begin()
    assert delayed is not None
    pool.failed(delayed, "no answer", pool._steady())
    assert isinstance(machines.want(pool, 5), Receipt)
    assert machines.keeper.swap(POOL, delayed.swap).outcome is not Outcome.DONE
    assert machines.booked() == 1 + 5


def test_members_book_their_weight_again_on_a_server_that_restarted_empty(
    machines: Machines,
) -> None:
    one, other = members_that_used(machines, 30, 20)
    receipt = machines.take(other, 7)
    machines.keeper.restart()
    for pool in (one, other):
        pool.reset()
        machines.talk(pool)
    assert machines.booked() == 57
    minute = machines.record().state.ledger.minute(int((NOON + machines.time.now) // 60))
    assert minute.under_way == 7
    other.settle(receipt, 57, NOON + int(machines.time.now))
    machines.tell(other)
    minute = machines.record().state.ledger.minute(int((NOON + machines.time.now) // 60))
    assert (minute.booked, minute.unconfirmed) == (57, 0)


@pytest.mark.parametrize("lost", [0.5, 1.5, *thorough(2.5, 3.5, 10.0)])
def test_members_book_again_exactly_what_a_restored_older_record_lacks(
    machines: Machines, lost: float
) -> None:
    one, other = machines.member(), machines.member()
    for weight in (30, 20, 10):
        machines.use(one, weight)
        machines.use(other, weight)
    machines.keeper.restart(lost=lost)
    for pool in (one, other):
        pool.reset()
        machines.talk(pool)
    assert machines.booked() == 120


def test_a_minute_that_a_restored_older_record_lacks_gets_the_weight_of_each_member_once(
    machines: Machines,
) -> None:
    one, other = both(machines)
    machines.time.now = BEGUN
    for weight in (30, 20, 10):
        machines.use(one, weight)
        machines.use(other, weight)
    machines.keeper.restart(lost=machines.time.now - 30.0)
    for pool in (one, other):
        read(machines, pool)
    assert minute(machines).used == 120


@pytest.mark.parametrize("lost", [1.5, *thorough(0.5, 4.5)])
def test_after_the_restore_of_an_older_copy_a_late_answer_shows_no_rolling_window(
    machines: Machines, lost: float
) -> None:
    one, other = machines.member(), machines.member()
    machines.use(one, 10)
    receipt = machines.take(one)
    for _ in range(4):
        machines.use(other, 100)
    machines.keeper.restart(lost=lost)
    for pool in (other, one):
        read(machines, pool)
    one.settle(receipt, 11, NOON + int(machines.time.now))
    machines.tell(one)
    assert machines.booked() == 411
    assert not machines.record().state.rolling_until


@pytest.mark.parametrize("is_idle", [False, True])
@pytest.mark.parametrize("is_noticed", ["by a new connection", "by a failed call"])
def test_an_older_copy_makes_no_member_look_silent(
    machines: Machines, is_idle: bool, is_noticed: str
) -> None:
    one, *others = (machines.member() for _ in range(4))
    machines.use(one)
    receipts = [(each, machines.take(each, 100)) for each in others]
    taken = machines.time.now
    for pool, receipt in receipts:
        pool.settle(receipt, 301, NOON + int(machines.time.now))
        machines.tell(pool)
    machines.time.move(COUNTED_AFTER_S)
    for pool in (one, *others):
        machines.talk(pool)
    if not is_idle:
        machines.use(one)
    booked = 301 if is_idle else 302
    machines.keeper.restart(lost=machines.time.now - taken - UPDATE_S / 2)
    for pool in (one, *others):
        if is_noticed == "by a failed call":
            while (turn := pool.begin()) is None:
                pool.charge(1)
            pool.failed(turn, "the connection was closed", pool._steady())
        read(machines, pool)
    assert machines.booked() == booked


def test_a_member_that_lost_nothing_waits_until_other_members_may_have_booked_again(
    machines: Machines,
) -> None:
    one, other = machines.member(), machines.member()
    machines.use(one)
    machines.time.move(COUNTED_AFTER_S)
    machines.talk(one)
    machines.use(other, LIMIT - 300)
    machines.keeper.restart(lost=2 * UPDATE_S)
    while (turn := one.begin()) is None:
        one.charge(300)
    one.failed(turn, "the connection was closed", one._steady())
    assert isinstance(machines.want(one, 300), Wait)
    read(machines, other)
    machines.time.move(RESTORE_S + 0.01)
    assert isinstance(machines.want(one, 300), Wait)
    assert machines.booked() == LIMIT - 299


def test_the_weight_of_a_member_that_stays_silent_after_a_restore_is_released(
    machines: Machines,
) -> None:
    one, other = machines.member(), machines.member()
    machines.use(one)
    machines.use(other)
    machines.take(other, 100)
    machines.use(one)
    machines.keeper.restart(lost=0.5)
    read(machines, one)
    machines.time.move(COUNTED_AFTER_S)
    machines.take(one)
    minute = machines.record().state.ledger.minute(int((NOON + machines.time.now) // 60))
    assert sum(weight for _, weight in minute.undecided) == 100


def test_weight_that_members_book_again_no_longer_counts_as_that_of_others(
    machines: Machines,
) -> None:
    one, other = members_that_used(machines, 30, 20)
    receipt = machines.take(one)
    machines.use(other, 200)
    machines.keeper.restart()
    one.reset()
    machines.talk(one)
    one.settle(receipt, 251, NOON + int(machines.time.now))
    machines.tell(one)
    assert one.usage.others > 100
    other.reset()
    machines.talk(other)
    shared = machines.record()
    minute = int((NOON + machines.time.now) // 60)
    assert shared.state.ledger.minute(minute).others == 0
    assert shared.state.others.expected_until < minute


def test_after_a_restart_members_first_book_again_and_then_send_a_single_probe(
    machines: Machines,
) -> None:
    one, _ = members_that_used(machines, 30, 20)
    machines.keeper.restart()
    one.reset()
    machines.talk(one)
    answer = machines.want(one)
    assert isinstance(answer, Wait)
    assert answer.reason is Reason.LEASE
    machines.time.move(RESTORE_S + 0.01)
    receipt = machines.take(one)
    assert receipt.probe
    assert isinstance(machines.want(one), Wait)


def test_a_damaged_record_is_rewritten_from_what_the_member_knows(
    machines: Machines,
) -> None:
    pool = machines.member()
    machines.use(pool, 30)
    place = machines.keeper.places[POOL]
    for damage in (b"x", b"\0" * 40, place.record[:-3]):
        place.record = damage
        pool.reset()
        machines.talk(pool)
        assert machines.booked() == 30


@pytest.mark.parametrize("jump", [0.5, -0.5, 3600.0, -3600.0])
def test_setting_the_servers_clock_does_not_change_the_members_time(
    machines: Machines, jump: float
) -> None:
    one, other = members_that_used(machines, 30, 20)
    machines.keeper.ahead = jump
    machines.use(one, 5)
    machines.use(other, 6)
    newcomer = machines.member()
    machines.use(newcomer, 2)
    assert machines.booked() == 63
    assert errors_of_time(machines, one, other, newcomer) == {0.0}


@pytest.mark.parametrize("jump", [-3600.0, 60.0])
def test_after_the_servers_clock_was_set_an_older_record_does_not_change_a_members_time(
    machines: Machines, jump: float
) -> None:
    one, other = members_that_used(machines, 30, 20)
    machines.keeper.ahead = jump
    for _ in range(2):  # the first answer shows the jump, but its record is from before the jump
        read(machines, one)
    machines.keeper.ahead += jump
    for _ in range(2):
        read(machines, one)
    machines.use(other, 6)
    machines.use(one, 5)
    assert machines.booked() == 61
    assert errors_of_time(machines, one, other) == {0.0}


def test_members_agree_on_the_time_although_their_machines_clocks_differ(
    machines: Machines,
) -> None:
    pools = [machines.member(wall_error=error) for error in (-2.0, 0.0, 2.0)]
    for pool in pools:
        machines.use(pool, 10)
    assert machines.booked() == 30
    assert len({round(pool._now(), 6) for pool in pools}) == 1


def test_without_the_server_a_member_uses_its_part_of_the_limit_from_the_next_minute_on(
    machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = machines.member(), machines.member()
    machines.use(one)
    machines.use(other)
    machines.lose(one)
    assert "1/2 of the limit" in caplog.text
    assert isinstance(one.charge(1), Wait)
    machines.time.now = 63.0
    total = 0
    for _ in range(600):
        answer = one.charge(1)
        if isinstance(answer, Receipt):
            total += 1
            one.settle(answer, total, NOON + int(machines.time.now))
        machines.time.move(0.05)
    assert 0.9 * LIMIT / 2 <= total <= LIMIT / 2
    assert len([each for each in caplog.records if each.levelno == logging.WARNING]) == 1


def read(machines: Machines, pool: MemberPool) -> None:
    """Let the pool read the record, as after a new connection."""
    pool.reset()
    machines.talk(pool)


def test_the_minute_of_a_lost_server_is_used_again_once_all_sent_weight_is_counted(
    machines: Machines,
) -> None:
    one, other = machines.member(), machines.member()
    machines.use(one, 30)
    machines.use(other, 300)
    read(machines, one)
    machines.lose(one)
    assert isinstance(one.charge(1), Wait)
    machines.time.now = APART_AFTER_S + 13.0
    receipt = one.charge(1)
    assert isinstance(receipt, Receipt)
    assert receipt.probe
    assert isinstance(one.charge(1), Wait)  # until the probe is answered
    one.settle(receipt, 331, NOON + int(machines.time.now))
    total = 31
    for _ in range(400):
        answer = one.charge(1)
        if isinstance(answer, Receipt):
            total += 1
            one.settle(answer, 300 + total, NOON + int(machines.time.now))
        machines.time.move(0.05)
    # At most half of the limit, and at most its own 30, half of what was left, and the probe.
    assert 100 < total <= min(LIMIT // 2, 30 + (LIMIT - 330) // 2 + 1)


def test_a_member_that_used_more_than_an_even_part_gets_an_even_part_of_the_rest(
    machines: Machines,
) -> None:
    one, _ = members_that_used(machines, 600, 100)
    read(machines, one)
    machines.use(one)
    assert machines.record().lines[one.member].left == (LIMIT - 701) // 2
    machines.lose(one)
    own = one._bucket.known.ledger.minute(int(NOON // 60))
    assert own.booked + own.others == 701
    machines.time.move(one._alone_from - one._now())
    total = 0
    while isinstance(receipt := one.charge(1), Receipt):
        total += 1
        one.settle(receipt, 701 + total, NOON + int(machines.time.now))
    assert total == (LIMIT - 701) // 2
    assert one.usage.used == 701 + total
    machines.time.move(1.0)
    machines.talk(one)
    assert (minute(machines).booked, minute(machines).others) == (701 + total, 0)


def test_weight_under_way_stays_booked_when_the_server_is_lost(machines: Machines) -> None:
    one, _ = members_that_used(machines, 10, 10)
    machines.take(one, 40)
    machines.lose(one)
    own = one._bucket.known.ledger.minute(int(NOON // 60))
    assert own.booked >= own.unconfirmed == 40


def test_nothing_is_sent_in_a_minute_that_was_nearly_full_when_the_server_was_lost(
    machines: Machines,
) -> None:
    one, other = machines.member(), machines.member()
    machines.use(one)
    machines.use(other, LIMIT - 10)
    read(machines, one)
    machines.lose(one)
    machines.time.now = COUNTED_AFTER_S + 20.0
    assert isinstance(one.charge(1), Wait)


def test_without_the_server_a_part_counts_all_members_that_the_last_answer_showed(
    machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    pools = [machines.member() for _ in range(4)]
    for pool in pools:  # when the first member wrote, the later ones were unknown
        machines.use(pool)
    read(machines, pools[0])
    machines.lose(pools[0])
    assert "1/4 of the limit" in caplog.text


def test_after_a_long_outage_the_first_member_to_rejoin_waits_for_the_others(
    machines: Machines,
) -> None:
    one, other = machines.member(), machines.member()
    machines.use(one)
    machines.use(other)
    for pool in (one, other):
        machines.lose(pool)
    machines.time.now = 183.0  # nearly three minutes later
    for pool in (one, other):
        receipt = pool.charge(1)
        assert isinstance(receipt, Receipt)
        pool.settle(receipt, 2, NOON + 183)
    machines.time.move(UPDATE_S)
    machines.talk(one)
    assert isinstance(machines.want(one), Wait)
    assert machines.record().quiet_until > one._now()
    machines.talk(other)
    machines.time.move(RESTORE_S)
    assert isinstance(machines.want(one), Receipt)


def test_weight_that_was_used_alone_is_booked_when_the_server_returns(
    machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = machines.member(), machines.member()
    machines.use(one)
    machines.use(other)
    machines.lose(one)
    machines.time.now = 63.0
    receipt = one.charge(1)
    assert isinstance(receipt, Receipt)
    one.settle(receipt, 1, NOON + 63)
    under_way = one.charge(40)
    assert isinstance(under_way, Receipt)
    machines.use(other, 9)
    machines.time.move(1.0)
    machines.talk(one)
    assert "with other machines again" in caplog.text
    assert machines.booked() == 50
    one.settle(under_way, 50, NOON + int(machines.time.now))
    machines.tell(one)
    minute = machines.record().state.ledger.minute(int((NOON + machines.time.now) // 60))
    assert (minute.booked, minute.unconfirmed) == (50, 0)


def test_weight_that_only_reserved_the_rest_of_a_minute_is_dropped_when_the_server_returns(
    machines: Machines,
) -> None:
    one, other = machines.member(), machines.member()
    machines.use(one, 29)
    machines.use(other, 600)
    machines.use(one)
    machines.lose(one)
    assert one._padding[int(NOON // 60)] > 0  # `one` may use only half of the 370 that were left
    machines.keeper.restart()
    machines.time.move(2.0)
    for pool in (one, other):
        read(machines, pool)
        assert pool.member in machines.record().lines
    assert (minute(machines).booked, minute(machines).others) == (630, 0)


def test_weight_that_was_used_alone_in_an_earlier_minute_is_not_that_of_others(
    machines: Machines,
) -> None:
    one, other = both(machines)
    machines.lose(one)
    machines.time.now = BEGUN
    receipt = one.charge(50)
    assert isinstance(receipt, Receipt)
    one.settle(receipt, 50, NOON + int(machines.time.now))
    send(machines, other, 9, 59)
    k = int((NOON + machines.time.now) // 60)
    assert machines.record().state.ledger.minute(k).others == 50
    machines.time.now = BEGUN + 60.0
    machines.use(other)
    machines.talk(one)
    assert machines.record().lines[one.member].at > NOON + BEGUN + 50.0
    assert machines.record().state.ledger.minute(k).others == 0


def test_a_member_that_is_set_to_wait_sends_nothing_without_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    machines = Machines(without_server="wait")
    pool = machines.member()
    machines.use(pool)
    machines.lose(pool)
    assert "sends nothing" in caplog.text
    for machines.time.now in (30.0, 63.0, 200.0):
        answer = pool.charge(1)
        assert isinstance(answer, Wait)
        assert answer.reason is Reason.LEASE
    machines.talk(pool)
    assert isinstance(machines.want(pool), Receipt)


def test_a_member_that_starts_without_a_server_uses_its_part_from_the_next_minute_on(
    machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    pool = machines.member(wall_error=1.5)
    assert isinstance(pool.charge(1), Wait)
    assert not caplog.records
    machines.lose(pool)
    assert "1/2 of the limit" in caplog.text
    machines.time.now = 70.0
    receipt = pool.charge(1)
    assert isinstance(receipt, Receipt)
    assert receipt.probe
    late = pool.charge(1)
    assert isinstance(late, Wait)
    pool.settle(receipt, 1, NOON + 70)
    late = pool.charge(30)
    assert isinstance(late, Receipt)
    machines.time.move(1.5)
    machines.talk(pool)
    assert machines.booked() == 31
    pool.settle(late, 31, NOON + int(machines.time.now))
    machines.tell(pool)
    minute = machines.record().state.ledger.minute(int((NOON + machines.time.now) // 60))
    assert (minute.booked, minute.unconfirmed) == (31, 0)


def test_the_news_of_a_ban_arrives_before_the_record_is_written(machines: Machines) -> None:
    one, other = machines.member(), machines.member()
    machines.use(one)
    machines.use(other)
    machines.take(other, waiting=5)
    one.refused(300.0, ban=True)
    news = one.take_news()
    assert one.take_news() == b""
    other.hear(news)
    assert not isinstance(other.charge(1), Receipt)
    assert other.held_for(ban=True) == pytest.approx(one.held_for(ban=True), abs=5.0)
    assert other.usage.banned_until == one.usage.banned_until is not None


def test_a_ban_during_an_outage_is_obeyed_and_written_when_the_server_returns(
    machines: Machines,
) -> None:
    one, other = machines.member(), machines.member()
    machines.use(one)
    machines.use(other)
    machines.lose(one)
    one.refused(300.0, ban=True)
    machines.time.move(1.0)
    machines.talk(one)
    machines.tell(other)
    machines.want(other)
    assert other.held_for(ban=True)


@pytest.mark.parametrize(
    "news", [b"", b"x", b"h", b"h" + b"\xff" * 16, b"h" + bytes(15), b"t", b"n", b"\0" * 99]
)
def test_impossible_news_is_ignored(machines: Machines, news: bytes) -> None:
    pool = machines.member()
    machines.use(pool)
    pool.hear(news)
    assert not pool.held_for()
    assert isinstance(machines.want(pool), Receipt)


def test_one_warning_is_logged_when_others_look_like_a_second_group_of_members(
    machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    pool = machines.member()
    machines.use(pool)
    for minute in (1, 2, 3, 4, 5):
        machines.time.now = 60.0 * minute + 3.0
        pool.settle(machines.take(pool), 700, NOON + int(machines.time.now))
    said = [each for each in caplog.records if "another group" in each.getMessage()]
    assert len(said) == 1


def test_a_member_of_an_older_format_uses_its_part_alone_beside_a_newer_one(
    machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    pool = machines.member()
    machines.use(pool)
    machines.keeper.places[POOL].newest = member_record.FORMAT + 1
    machines.want(pool)
    assert "a newer version of this package" in caplog.text
    machines.time.now = 63.0
    assert isinstance(pool.charge(1), Receipt)


def test_a_server_that_refuses_writes_counts_as_lost(machines: Machines) -> None:
    pool = machines.member()
    machines.use(pool)
    for _ in range(20):
        pool.charge(1)
        turn = pool.begin()
        if turn is None:
            machines.time.move(0.3)
        elif turn.swap.record:
            pool.failed(turn, "OOM command not allowed", pool._steady())
            machines.time.move(0.6)
        else:
            pool.answered(turn, machines.keeper.swap(POOL, turn.swap), pool._steady())
    assert pool._is_lost


def test_a_forked_child_is_a_new_member_and_writes_nothing_for_its_parent(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = machines.member()
    machines.use(pool, 10)
    receipt = machines.take(pool, 5)
    parent = pool.member
    machines.time.move(0.001)
    monkeypatch.setattr(fork, "current", object())
    pool.settle(receipt, 15, NOON + int(machines.time.now))
    machines.time.move(0.001)
    machines.use(pool, 2)
    assert pool.member != parent
    assert machines.booked() == 17
    minute = machines.record().state.ledger.minute(int((NOON + machines.time.now) // 60))
    assert minute.unconfirmed == 5


def test_the_demand_of_pollers_is_known_on_other_machines(machines: Machines) -> None:
    one, other = machines.member(), machines.member()
    machines.use(one)
    machines.use(other)
    one.declare("poller", 700.0)
    machines.tell(one)
    machines.use(other)
    assert other.demand("another") == 700.0
    one.withdraw()
    machines.tell(one)
    machines.use(other)
    assert other.demand("another") == 0.0


def test_a_starting_member_keeps_the_limit_that_other_members_learned(
    machines: Machines,
) -> None:
    one, other = machines.member(), machines.member()
    machines.use(one)
    one.set_limit(400)
    machines.tell(one)
    machines.use(other)
    assert other.usage.limit == 400
    assert machines.record().state.limit == 400


def test_the_rest_is_shared_evenly_among_the_members_that_still_want_weight() -> None:
    state = fresh_state(LIMIT, lambda: NOON + 10.0, lambda: NOON + 10.0)
    now = NOON + 10.0
    k = state.clock.likeliest(now)
    lines = {
        b"hungry": member_record.Line(1, now, k, 100, True),
        b"content": member_record.Line(1, now, k, 0, False),
        b"gone": member_record.Line(1, now - 5.0, k, 0, True),
    }
    shared = member_record.Shared(0.0, 0.0, lines, state)
    assert shared.even_part(b"me", 0, 300, now) == 200
    assert shared.even_part(b"me", 100, 300, now) == 150
    assert shared.even_part(b"me", 600, 300, now) == 0
    assert shared.even_part(b"me", 600, 0, now) == 0


@given(used=lists(integers(0, LIMIT), min_size=2, max_size=6), theirs=integers(0, LIMIT))
def test_all_parts_without_the_server_together_fit_into_the_weight_that_is_left(
    used: list[int], theirs: int
) -> None:
    now, members = NOON + 10.0, len(used)
    state = fresh_state(LIMIT, lambda: now, lambda: now)
    k = state.clock.likeliest(now)
    shared = member_record.Shared(0.0, 0.0, {}, state)
    state.ledger.open_minute(k).booked = sum(used) + theirs
    free = max(0, LIMIT - sum(used) - theirs)
    assert free - members < shared.left(k, members) * members <= free
    assert not shared.left(k, 0)  # a member that leaves has no part


def test_a_record_drops_members_that_have_not_written_for_long(machines: Machines) -> None:
    one, other = machines.member(), machines.member()
    machines.use(one)
    machines.use(other)
    machines.time.move(60.0 * (member_record.KEPT_MINUTES + 2))
    machines.use(other)
    assert set(machines.record().lines) == {other.member}
    machines.use(one, 5)
    assert machines.booked() == 6


def test_weight_to_book_again_is_the_difference_to_what_the_record_has() -> None:
    before, after = Booked(), Booked()
    before.booked.update({1: 5, 2: 3})
    after.booked.update({1: 7, 2: 3, 3: 1})
    change = after.since(before)
    assert dict(change.booked) == {1: 2, 3: 1}
    assert change
    assert not before.since(before)


def test_a_swap_without_a_record_only_reads(machines: Machines) -> None:
    pool = machines.member()
    machines.use(pool)
    before = machines.keeper.places[POOL].record
    answer = machines.keeper.swap(POOL, Swap(b""))
    assert answer == Answer(Outcome.LATE, answer.time, before)
    assert machines.keeper.places[POOL].record == before


# -- silent members --------------------------------------------------------------------------------


def minute(machines: Machines) -> Minute:
    return machines.record().state.ledger.minute(int((NOON + machines.time.now) // 60))


def send(machines: Machines, pool: MemberPool, weight: int, counted: int) -> None:
    """Send a request; its answer has the count `counted`."""
    receipt = machines.take(pool, weight)
    pool.settle(receipt, counted, NOON + int(machines.time.now))
    machines.tell(pool)


def test_unsent_weight_of_a_killed_member_is_released_by_a_later_count(
    machines: Machines,
) -> None:
    killed, one = machines.member(), machines.member()
    machines.use(killed)
    machines.use(one)
    machines.take(killed, 100, waiting=40)  # nothing of the 100 is sent
    machines.time.move(COUNTED_AFTER_S - 1.0)
    send(machines, one, 10, 12)
    assert minute(machines).used == 12 + 100
    machines.time.move(2.0)
    send(machines, one, 10, 22)
    assert minute(machines).used == 22
    assert machines.record().lines[killed.member].under_way == {}


def test_sent_weight_of_a_killed_member_stays_booked(machines: Machines) -> None:
    killed, one = machines.member(), machines.member()
    machines.use(killed)
    machines.use(one)
    machines.take(killed, 100)  # all of it is sent, and the exchange counts it
    machines.time.move(COUNTED_AFTER_S + 1.0)
    send(machines, one, 10, 112)
    assert minute(machines).used == 112


def test_members_keep_some_weight_for_a_count_that_decides_what_a_killed_member_sent(
    machines: Machines,
) -> None:
    killed, one = machines.member(), machines.member()
    machines.use(killed)
    machines.use(one)
    machines.take(killed, 100)
    machines.time.move(EVEN_PART_S + UPDATE_S)
    rest = LIMIT - 102 - PROBE_ROOM
    send(machines, one, rest, 2 + rest)
    assert isinstance(machines.want(one), Wait)
    machines.time.move(APART_AFTER_S + LATE_CLAIM_S + COUNTED_AFTER_S)
    send(machines, one, 1, 3 + rest)
    assert minute(machines).used == 3 + rest
    assert isinstance(machines.want(one, 100), Receipt)


def after_a_silence(machines: Machines) -> tuple[MemberPool, Receipt, MemberPool]:
    """Return a silent member, the receipt of the 100 that it has under way, and another member.

    The silence is so long that the other member may release the 100.
    """
    silent, one = members_that_used(machines, 1, 1)
    receipt = machines.take(silent, 100)
    machines.time.move(COUNTED_AFTER_S + 1.0)
    return silent, receipt, one


@pytest.mark.parametrize("is_counted", [False, True])
def test_a_member_that_returns_settles_the_weight_that_it_had_under_way(
    machines: Machines, is_counted: bool
) -> None:
    silent, receipt, one = after_a_silence(machines)
    machines.use(one, 10)
    if is_counted:  # a later count decides the 100 before the silent member returns
        machines.use(one, 1)
    assert machines.record().lines[silent.member].released
    machines.talk(silent)
    machines.tell(silent)
    assert minute(machines).under_way == 100
    silent.settle(receipt, 300, NOON + int(machines.time.now))
    machines.tell(silent)
    assert minute(machines).under_way == 0
    assert minute(machines).used >= 300
    assert not machines.record().lines[silent.member].released


def test_weight_that_a_count_has_decided_is_not_booked_again_when_its_member_returns(
    machines: Machines,
) -> None:
    silent, receipt, one = after_a_silence(machines)
    send(machines, one, 10, 112)
    send(machines, one, 10, 122)  # the exchange has counted the 100
    machines.talk(silent)
    assert (minute(machines).booked, minute(machines).under_way) == (122, 100)
    silent.settle(receipt, 102, NOON + int(machines.time.now))
    machines.tell(silent)
    assert (minute(machines).used, minute(machines).under_way) == (122, 0)


@pytest.mark.parametrize("jump", [15.0, 60.0])
def test_a_member_that_starts_while_the_servers_clock_is_wrong_releases_no_weight(
    machines: Machines, jump: float
) -> None:
    one = machines.member()
    machines.use(one)
    machines.take(one, 100)
    machines.keeper.ahead += jump
    other = machines.member()
    machines.use(other)
    assert minute(machines).under_way == 100
    assert not machines.record().lines[one.member].released


def test_a_request_whose_weight_other_members_may_have_released_is_not_sent(
    machines: Machines,
) -> None:
    pool = machines.member()
    machines.use(pool)
    fresh, old = machines.take(pool), machines.take(pool)
    assert pool.sending(fresh) == fresh
    machines.time.move(PATIENCE + 0.1)
    assert pool.sending(old) is None
    pool.refund(old)
    machines.tell(pool)
    assert minute(machines).under_way == 1


# -- the part of the limit that members leave to a silent member -----------------------------------

BEGUN = 63.0  # s of the tests' clock: 3 s into a minute, which has certainly begun by then


def both(machines: Machines) -> tuple[MemberPool, MemberPool]:
    """Make two members that have used weight, and that know each other from the record."""
    one, other = machines.member(), machines.member()
    for pool in (one, other, one):
        machines.use(pool)
    return one, other


def one_beside_a_silent_member(machines: Machines) -> tuple[MemberPool, int]:
    """Return a member that has used up its part of a new minute, and the size of that part."""
    _, other = both(machines)
    machines.time.now = BEGUN
    part = LIMIT // 2
    machines.use(other, part)
    return other, part


def test_others_leave_a_silent_member_its_part_until_a_count_shows_that_it_did_not_begin(
    machines: Machines,
) -> None:
    other, part = one_beside_a_silent_member(machines)
    assert isinstance(machines.want(other, 10), Wait)
    machines.time.now = 60.0 + CLAIM_BY_S + COUNTED_AFTER_S
    machines.talk(other)
    assert isinstance(machines.want(other, 10), Wait)
    machines.time.move(4.0)  # the uncertainty of the exchange's clock
    send(machines, other, 1, part + 1)
    assert isinstance(machines.want(other, part - 1), Receipt)


def test_others_leave_a_silent_member_its_part_for_the_whole_minute_once_it_has_begun(
    machines: Machines,
) -> None:
    other, part = one_beside_a_silent_member(machines)
    machines.time.now = 60.0 + CLAIM_BY_S + COUNTED_AFTER_S + 4.0
    send(machines, other, 1, part + 1 + 100)  # the silent member has used 100
    assert machines.record().state.others.expected_until < int((NOON + machines.time.now) // 60)
    machines.time.now = 110.0
    machines.talk(other)
    assert isinstance(machines.want(other, 1), Wait)


def test_in_the_minute_of_its_last_write_a_silent_member_has_a_part_of_what_was_left(
    machines: Machines,
) -> None:
    one, other = both(machines)
    machines.use(other, 597)
    machines.talk(one)
    read(machines, one)
    machines.use(one)
    machines.time.move(SILENT_AFTER_S + 0.5)
    machines.talk(other)
    assert isinstance(machines.want(other, 220), Wait)
    assert isinstance(machines.want(other, 190), Receipt)


def test_near_a_rollover_others_leave_a_silent_member_its_part_of_both_minutes(
    machines: Machines,
) -> None:
    one, other = both(machines)
    machines.time.now = BEGUN
    machines.talk(other)
    machines.use(one)
    machines.use(other, 300)
    machines.time.now = 120.3  # by the middle of the clock's interval, the next minute has begun
    machines.talk(other)
    first, likeliest, _ = other._bucket.known.span(other._now())
    assert first < likeliest
    assert isinstance(machines.want(other, 300), Wait)


def test_a_member_without_calls_writes_until_it_has_used_nothing_for_a_whole_minute(
    machines: Machines,
) -> None:
    pool = machines.member()
    machines.use(pool)
    assert machines.record().lines[pool.member].members == 2
    moments = list[float]()
    while (due := pool.due_in()) is not None and machines.time.now < 300.0:
        machines.time.move(due)
        machines.talk(pool)
        moments.append(machines.time.now)
    assert 60.0 / PRESENCE_S < len(moments) < 120.0 / PRESENCE_S + 2
    assert 120.0 <= moments[-1] <= 120.0 + PRESENCE_S
    assert machines.record().lines[pool.member].members == 0
    assert isinstance(machines.want(pool), Receipt)
    assert machines.record().lines[pool.member].members == 2


def test_a_member_that_closes_leaves_its_part_to_the_others(machines: Machines) -> None:
    one, other = both(machines)
    one.give_back()
    assert not one.is_written()
    machines.talk(one)
    assert one.is_written()
    machines.time.now = BEGUN
    machines.use(other, LIMIT - 10)


def test_a_member_without_the_server_begins_early_in_a_minute_or_not_at_all(
    machines: Machines,
) -> None:
    one, _ = both(machines)
    machines.lose(one)
    machines.time.now = 60.0 + CLAIM_BY_S + 2.0
    answer = one.charge(1)
    assert isinstance(answer, Wait)
    assert answer.seconds is not None
    assert 110.0 < machines.time.now + answer.seconds < 125.0
    machines.time.now = 120.0 + 3.0
    receipt = one.charge(10)
    assert isinstance(receipt, Receipt)
    machines.time.now = 120.0 + CLAIM_BY_S + 2.0
    assert isinstance(one.charge(1), Wait)  # the first request has no answer yet
    one.settle(receipt, 10, NOON + int(machines.time.now))
    machines.time.now = 165.0
    assert isinstance(one.charge(LIMIT // 2 - 10), Receipt)
    assert isinstance(one.charge(1), Wait)


def test_a_member_without_the_server_uses_its_part_beside_busy_others(machines: Machines) -> None:
    one, _ = both(machines)
    machines.lose(one)
    used, counted = 0, 0
    for machines.time.now in (63.0, 63.5, 64.0, 64.5, 65.0):
        receipt = one.charge(50)
        assert isinstance(receipt, Receipt)
        used, counted = used + 50, counted + 150
        one.settle(receipt, counted, NOON + int(machines.time.now))


def test_weight_that_replaces_leases_is_no_sign_that_a_member_uses_its_part(
    machines: Machines,
) -> None:
    one, _ = both(machines)
    machines.take(one, waiting=200)
    leased = sum(len(queue) for queue in one._leased.values())
    assert leased > 50
    while one._claim_from is None:
        sent = one._steady()
        machines.time.move(LOST_AFTER_S / 2)
        one.failed(Turn(Swap(b"")), "no answer", sent)
    claim_from = one._claim_from
    assert claim_from is not None
    machines.time.move(claim_from - one._now() + LATE_CLAIM_S - 0.5)
    receipt = one.charge(leased)
    assert isinstance(receipt, Receipt)
    one.settle(receipt, LIMIT // 2, NOON + int(machines.time.now))
    machines.time.move(1.0)
    assert isinstance(one.charge(1), Wait)


def test_two_members_without_the_server_stay_within_the_limit_while_a_third_goes_on(
    machines: Machines,
) -> None:
    *apart, busy = (machines.member() for _ in range(3))
    for pool in (*apart, busy) * 2:
        machines.use(pool)
    machines.time.now = BEGUN
    for pool in apart:
        machines.talk(pool)
    for pool, weight in [*((pool, 1) for pool in (*apart, busy)), (busy, 340)]:
        send(machines, pool, weight, machines.used(pool))
    for pool in apart:
        send(machines, pool, 1, machines.used(pool))
    written = machines.time.now
    for pool in apart:
        while pool._claim_from is None:
            pool.failed(Turn(Swap(b"")), "no answer", pool._steady() - 2 * LOST_AFTER_S)
    send(machines, busy, 198, machines.used(busy))  # before the two look silent
    counted = machines.booked()
    machines.time.now = written + APART_AFTER_S + 0.5
    for pool, receipt in [(pool, pool.charge(1)) for pool in apart]:
        assert isinstance(receipt, Receipt)
        pool.settle(receipt, counted + 2, NOON + int(machines.time.now))
    under_way = [0, 0]
    for n, pool in enumerate(apart):
        while isinstance(pool.charge(1), Receipt):
            under_way[n] += 1
    assert min(under_way) > 0
    assert counted + 2 + sum(under_way) <= LIMIT


@pytest.mark.parametrize("left", [3, 4])
def test_members_without_the_server_leave_each_other_the_last_room_of_the_limit(
    machines: Machines, left: int
) -> None:
    pools = both(machines)
    for pool in pools:
        machines.lose(pool)
    machines.time.now = BEGUN
    counted, answers = LIMIT - left, [pool.charge(1) for pool in pools]
    while sent := [each for each in answers if isinstance(each, Receipt)]:
        counted += len(sent)
        for pool, receipt in zip(pools, sent, strict=True):
            pool.settle(receipt, counted, NOON + int(machines.time.now))
        answers = [pool.charge(1) for pool in pools]
    assert LIMIT - 1 <= counted <= LIMIT
    for wait in answers:  # each wait lasts until the minute is certainly over
        assert isinstance(wait, Wait)
        assert wait.seconds is not None
        assert 115.0 < machines.time.now + wait.seconds < 125.0


def test_a_request_from_the_reserve_leaves_room_for_one_of_each_silent_member() -> None:
    now = NOON + 20.0
    state = fresh_state(LIMIT, lambda: now, lambda: now)
    k = state.clock.likeliest(now)
    silent = member_record.Line(1, now - 10.0, k, 0, False, members=3, left=100)
    shared = member_record.Shared(0.0, 0.0, {b"one": silent, b"other": silent}, state)
    budget = LIMIT - 10
    waits = dict[int, float]()
    for used in (budget - 1, LIMIT - 3, LIMIT - 2):
        state.ledger.open_minute(k).booked = used
        waits[used] = shared.until_reserve_is_free(b"me", 1, now, budget)
    assert waits.pop(LIMIT - 2) == state.clock.when_over(60 * (k + 1)) - now
    assert set(waits.values()) == {0.0}
    assert shared.until_reserve_is_free(b"me", 20, now, LIMIT) > 0.0
    state.ledger.open_minute(k).booked = LIMIT - 45
    assert not shared.until_reserve_is_free(b"me", 20, now, LIMIT - 20)  # fits without reserve
    shared.lines.clear()
    state.ledger.open_minute(k).booked = LIMIT - 1
    assert not shared.until_reserve_is_free(b"me", 1, now, budget)  # no member is silent


def test_members_share_what_the_part_of_a_lost_member_leaves(
    machines: Machines, caplog: pytest.LogCaptureFixture
) -> None:
    lost, *others = (machines.member() for _ in range(3))
    for pool in (lost, *others) * 2:
        machines.use(pool)
    for machines.time.now in (80.0, 140.0, 200.0):
        for pool in others * 2:
            machines.use(pool)
    lines = machines.record().lines
    assert [lines[pool.member].members for pool in others] == [3, 3]
    newcomer = machines.member()
    machines.ask(newcomer)  # the newcomer reads the record, and has no line in it yet
    machines.lose(newcomer)
    assert "1/5 of the limit" in caplog.text  # three share 2/3: 2/9 each, so at most 1/5


@given(
    silent=lists(integers(2, MOST_PARTS), max_size=6),
    live=integers(2, 8),
    limit=integers(MOST_PARTS, 6000),
)
def test_all_parts_together_fit_into_the_limit(silent: list[int], live: int, limit: int) -> None:
    now = NOON + 10.0
    state = fresh_state(limit, lambda: now, lambda: now)
    k = state.clock.likeliest(now)
    shared = member_record.Shared(0.0, 0.0, {}, state)
    kept, before = 0, list[member_record.Line]()
    for n, members in enumerate(silent):
        if kept + limit // members <= limit:
            kept += limit // members
            before.append(member_record.Line(1, now - 60.0, k - 1, 0, False, members=members))
            shared.lines[b"silent %d" % n] = before[-1]
    for n in range(live):
        shared.lines[b"live %d" % n] = member_record.Line(1, now, k, 0, False, members=live)
    sharers = shared.sharers(b"live 0", k, now)
    assert sharers == shared.sharers(b"live 1", k, now)
    assert sharers == MOST_PARTS or kept + live * (limit // sharers) <= limit
    if not before:
        assert sharers == live


def test_a_silent_member_is_forgotten_after_some_minutes() -> None:
    now = NOON + 10.0
    state = fresh_state(LIMIT, lambda: now, lambda: now)
    k = state.clock.likeliest(now)
    shared = member_record.Shared(0.0, 0.0, {}, state)
    for age, sharers in ((MEMORY, 4), (MEMORY + 1, 2)):
        line = member_record.Line(1, now - 60.0 * age, k - age, 0, False, members=2)
        shared.lines[b"silent"] = line
        assert shared.sharers(b"me", k, now) == sharers


def test_without_the_server_a_member_keeps_little_weight_under_way(machines: Machines) -> None:
    one, other = machines.member(), machines.member()
    machines.use(one, 10)
    machines.use(other, 10)
    machines.lose(one)
    machines.time.now = BEGUN
    probe = one.charge(1)
    assert isinstance(probe, Receipt)
    one.settle(probe, 701, NOON + int(machines.time.now))  # others have used 700
    receipt = one.charge(140)  # the room is 299, and half of it is for the other member
    assert isinstance(receipt, Receipt)
    assert isinstance(one.charge(10), Wait)
    one.settle(receipt, 841, NOON + int(machines.time.now))
    assert isinstance(one.charge(10), Receipt)


def test_a_member_that_lost_the_server_in_a_write_obeys_both_of_its_lines(
    machines: Machines,
) -> None:
    one, _ = both(machines)
    confirmed = one._line
    machines.take(one)
    machines.time.move(UPDATE_S)
    turn = one.begin()
    assert turn is not None
    assert turn.line is not None
    assert confirmed is not None
    one.failed(turn, "no answer", one._steady())
    machines.lose(one)
    lines = one._own_lines()
    assert one._line in lines
    assert turn.line in lines
    assert one._claim_from == min(line.at for line in lines) + APART_AFTER_S
    assert one._alone_from >= max(line.at for line in lines) + APART_AFTER_S
