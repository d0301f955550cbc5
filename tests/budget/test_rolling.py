"""A `RollingBucket` keeps a limit that no header reports, such as that of history requests.

Rule of this file: time is a number. Each constant of `rolling` has a test at its threshold.
"""

from collections import deque
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binance_oi.budget import record, rolling
from binance_oi.budget.beside import PoolBeside, pool_of
from binance_oi.budget.knowledge import Parts
from binance_oi.budget.machine import MachineBudget, machine_pools
from binance_oi.budget.pool import ProcessBudget, fresh_state
from binance_oi.budget.pool_file import MAX_RECORD_BYTES
from binance_oi.budget.rolling import RollingBucket
from binance_oi.budget.shared import WINDOW_LEASE_S, WINDOW_LEASED_CALLS
from binance_oi.budget.tuning import FLIGHT, PATIENCE
from binance_oi.budget.usage import Reason, Receipt, Wait
from binance_oi.exchange.hosts import is_local_exchange, local_place
from binance_oi.exchange.limits import HISTORY, Limit
from support.memory_store import Memory, MemoryBudget, Options

NOON = 1_795_435_200.0  # the beginning of a minute, Unix s
EVERY = 303.0 / 990.0  # s between two bulk requests: 990 of them in 300 s + `SPARE_S`
SLOT = 1.5  # s: the width of a slot of a window of 300 s


def bucket(limit: Limit = HISTORY, *, reserve: float = 0.01, share: float = 1.0) -> RollingBucket:
    known = rolling.fresh(fresh_state(2400, lambda: 0.0, lambda: NOON), limit)
    return RollingBucket(known, Parts(reserve=reserve, share=share))


def take(made: RollingBucket, now: float, *, bulk: bool = False, weight: int = 1) -> Receipt:
    answer = made.charge(now, weight, bulk)
    assert isinstance(answer, Receipt), answer
    return answer


def wait(made: RollingBucket, now: float, *, bulk: bool = False, weight: int = 1) -> Wait:
    answer = made.charge(now, weight, bulk)
    assert isinstance(answer, Wait), answer
    return answer


def fill(made: RollingBucket, now: float) -> int:
    """Send single requests, each answered at once, until one has to wait; return their number."""
    count = 0
    while isinstance(receipt := made.charge(now, 1), Receipt):
        made.settle(receipt, now, None, None)
        count += 1
    return count


# -- the guarantee -------------------------------------------------------------------------------


class Sent(NamedTuple):
    receipt: Receipt
    answered: float | None
    """When the answer came; None if it never came."""


@given(st.data())
def test_no_window_exceeds_the_budget_wherever_requests_are_counted(
    data: st.DataObject,
) -> None:
    made = bucket(Limit(300, 40, counts_requests=True), reserve=0.1)
    now, sent, under_way = 0.0, list[Sent](), deque[Receipt]()
    for _ in range(data.draw(st.integers(1, 150))):
        now += data.draw(st.sampled_from([0.0, 0.01, 1.0, 7.0, 40.0, 299.0]))
        while len(under_way) > 0 and data.draw(st.booleans()):
            receipt = under_way.popleft()
            fate = data.draw(st.sampled_from(["answer", "answer", "none", "unsent"]))
            if fate == "unsent":
                made.refund(receipt)
            elif fate == "none":
                made.lose(receipt, now)
                sent.append(Sent(receipt, None))
            else:
                made.settle(receipt, now, None, None)
                sent.append(Sent(receipt, now))
        answer = made.charge(now, 1, data.draw(st.booleans()))
        if isinstance(answer, Receipt):
            under_way.append(answer)
    sent += [Sent(receipt, None) for receipt in under_way]
    for earliest in (True, False):
        counted = sorted(
            each.receipt.sent if earliest else each.answered or each.receipt.sent + FLIGHT
            for each in sent
        )
        inside = deque[float]()
        for moment in counted:
            inside.append(moment)
            while inside[0] <= moment - 300.0:
                inside.popleft()
            assert len(inside) <= 36


def test_a_request_counts_for_a_full_window_after_the_exchange_may_last_have_counted_it() -> None:
    made = bucket(Limit(300, 1, counts_requests=True), reserve=0.0)
    made.settle(take(made, 0.0), 3.0, None, None)
    assert isinstance(made.charge(302.9, 1), Wait)
    assert take(made, 303.0 + SLOT)
    lost = bucket(Limit(300, 1, counts_requests=True), reserve=0.0)
    lost.lose(take(lost, 0.0), 1.0)
    assert isinstance(lost.charge(309.9, 1), Wait)
    assert take(lost, 310.0 + SLOT)
    late = bucket(Limit(300, 1, counts_requests=True), reserve=0.0)
    late.lose(take(late, 0.0), 50.0)  # its connection was open until then, and brought no answer
    assert isinstance(late.charge(349.9, 1), Wait)
    assert take(late, 350.0 + SLOT)


def test_a_refunded_request_no_longer_counts() -> None:
    made = bucket(Limit(300, 1, counts_requests=True), reserve=0.0)
    made.refund(take(made, 0.0))
    assert take(made, 0.0)


def test_a_request_is_not_sent_after_its_patience_or_during_a_cooldown() -> None:
    made = bucket()
    receipt = take(made, 0.0)
    assert made.sending(receipt, PATIENCE) is receipt
    assert made.sending(receipt, PATIENCE + 0.01) is None
    made.hold(0.0, 5.0)
    assert made.sending(receipt, 1.0) is None


# -- how much, and when --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reserve, share, most", [(0.01, 1.0, 990), (0.25, 1.0, 750), (0.0, 0.5, 500), (0.0, 1e-9, 1)]
)
def test_reserve_and_share_bound_the_requests_of_a_window(
    reserve: float, share: float, most: int
) -> None:
    made = bucket(reserve=reserve, share=share)
    assert fill(made, 0.0) == most
    usage = made.usage(1.0)
    assert (usage.limit, usage.used, usage.charged, usage.remaining) == (1000, most, most, 0)
    assert usage.sustained == most / 5
    assert usage.resets_at.timestamp() == pytest.approx(NOON + 300.0 + SLOT, abs=3.0)


def test_a_request_leaves_the_window_at_most_one_slot_late() -> None:
    made = bucket()
    fill(made, 0.1)
    assert made.room_in(100.0, 1) == pytest.approx(200.0 + SLOT)
    assert made.room_in(300.0 + SLOT, 1) == 0.0
    assert wait(made, 1.0).reason is Reason.OTHER_LIMIT


def test_a_request_above_the_budget_never_fits() -> None:
    made = bucket()
    assert take(made, 0.0, weight=991)  # whatever its weight, it counts as one request
    weights = bucket(Limit(300, 1000, counts_requests=False))
    assert wait(weights, 0.0, weight=991) == Wait(None, Reason.TOO_HEAVY)
    assert weights.room_in(0.0, 991) is None


def test_bulk_requests_are_spread_evenly_over_the_window() -> None:
    made = bucket()
    made.known.windows[0].bulk_at = 10.0
    take(made, 10.0, bulk=True)
    assert wait(made, 10.0, bulk=True).seconds == pytest.approx(EVERY)
    sent, now = 1, 10.0
    while now < 1000.0:
        answer = made.charge(now, 1, bulk=True)
        if isinstance(answer, Receipt):
            made.settle(answer, now + 0.2, None, None)
            sent += 1
        else:
            now += answer.seconds or 0.0
            assert made.room_in(now, 1) == 0.0  # a single request never waits for bulk requests
    assert sent >= 0.97 * 1000 / 300 * 990


def test_late_bulk_requests_catch_up_by_at_most_a_second() -> None:
    made = bucket()
    take(made, 0.0, bulk=True)
    sent = 0
    while isinstance(made.charge(100.0, 1, bulk=True), Receipt):
        sent += 1
    assert sent == 4  # 1 that is due, and 3 to catch up by 1 s (`CREDIT_S`)


def test_after_a_single_request_a_tenth_stays_free_for_one_window() -> None:
    made = bucket()
    made.settle(take(made, 0.0), 0.0, None, None)
    window = made.known.windows[0]
    for _ in range(890):
        window.charge(0.0, 0.0, 1)
    assert take(made, 1.0, bulk=False)
    window.bulk_at = 0.0
    seconds = wait(made, 1.0, bulk=True).seconds
    assert seconds is not None
    assert seconds > 1.0
    window.kept_until = 0.0
    assert take(made, 1.0, bulk=True)


def test_bulk_requests_wait_while_room_is_kept_for_single_ones() -> None:
    made = bucket(Limit(300, 1000, counts_requests=False))
    take(made, 0.0)
    assert wait(made, 100.0, bulk=True, weight=950).seconds == pytest.approx(200.0)


# -- refusals ------------------------------------------------------------------------------------


def test_after_a_refusal_nothing_is_sent_for_a_window_or_longer() -> None:
    made = bucket()
    made.refused(0.0, 5.0)
    answer = wait(made, 10.0)
    assert answer.reason is Reason.COOLDOWN
    assert answer.seconds == pytest.approx(290.0, abs=6.0)
    assert made.room_in(10.0, 1) == answer.end
    assert not made.held_for(10.0, ban=True)
    made.refused(0.0, 3600.0, ban=True)
    assert made.held_for(10.0, ban=True) == pytest.approx(3590.0, abs=6.0)
    assert made.usage(10.0).banned_until is not None


def test_an_answer_narrows_the_interval_of_the_server_clock() -> None:
    made = bucket()
    made.settle(take(made, 10.0), 10.1, None, NOON + 500.0)
    assert made.known.clock.dated
    receipt = take(made, 20.0)
    made.settle(receipt, 20.1, None, 0.0)  # an impossible date
    assert made.known.clock.likeliest(20.0) == (NOON + 510.0) // 60


# -- shared --------------------------------------------------------------------------------------


class Hand:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def clock(self) -> float:
        return self.now

    def options(self) -> Options:
        return Options(limit=2400, reserve=0.01, clock=self.clock, wall=lambda: NOON + self.now)


def test_processes_share_the_window_and_the_even_spread() -> None:
    hand, memory = Hand(), Memory()
    pools = [MemoryBudget(memory, **hand.options()).pool("x", HISTORY) for _ in range(2)]
    receipts = [pools[n % 2].charge(1, bulk=True) for n in range(5)]
    assert [isinstance(each, Receipt) for each in receipts] == [True] * 4 + [False]
    hand.now += EVERY
    assert isinstance(pools[0].charge(1, bulk=True), Receipt)
    assert isinstance(pools[1].charge(1, bulk=True), Wait)
    pools[0].settle(_taken(receipts[0]), None, None)
    pools[0].flush()
    assert [pool.usage.used for pool in pools] == [5, 5]
    while isinstance(pools[1].charge(1), Receipt):
        hand.now += 0.001
    assert pools[0].usage.used == 990
    assert isinstance(pools[0].charge(1), Wait)


class Two:
    """The pools of two processes, which share one window through a store in memory."""

    def __init__(self) -> None:
        self.hand, self.memory = Hand(), Memory()
        budgets = [MemoryBudget(self.memory, **self.hand.options()) for _ in range(2)]
        self.one, self.other = (each.pool("x", HISTORY) for each in budgets)

    def read(self, pages: int, *, every: float = 0.1) -> None:
        """Read pages of history one after the other, each with a single request."""
        for _ in range(pages):
            self.one.settle(_taken(self.one.charge(1)), None, None)
            self.hand.now += every


@pytest.mark.parametrize("every, locks", [(0.0005, 2), (0.1, 3), (0.249, 5), (0.251, 18)])
def test_pages_in_quick_succession_share_one_lock(every: float, locks: int) -> None:
    two = Two()
    before = two.memory.locks
    two.read(18, every=every)
    assert two.memory.locks - before == locks


def test_a_lease_of_pages_is_charged_for_all_processes() -> None:
    two = Two()
    two.read(2)
    assert two.other.usage.used == 2 + WINDOW_LEASED_CALLS
    assert two.one.usage.used == 2


def test_bulk_work_leases_no_pages() -> None:
    two = Two()
    for _ in range(4):
        _taken(two.one.charge(1, 8, bulk=True))
    assert two.other.usage.used == 4
    assert isinstance(two.one.charge(1, 8, bulk=True), Wait)
    two.read(2)  # the second page takes a lease, which no bulk request uses
    two.hand.now += 1.0
    _taken(two.one.charge(1, 8, bulk=True))
    two.one.flush()
    assert two.other.usage.used == 7


@pytest.mark.parametrize("end", ["flush", "when idle", "close", "a cooldown", "a second"])
def test_an_unused_lease_of_pages_is_returned(end: str) -> None:
    two = Two()
    two.read(2, every=0.0)
    match end:
        case "flush":
            two.one.flush()
        case "when idle":
            assert not two.one.when_idle()
        case "close":
            two.one.close()
        case "a cooldown":
            two.one.hold(60.0)
        case _:
            two.hand.now += WINDOW_LEASE_S - 0.001
            _taken(two.one.charge(1))
            assert two.other.usage.used == 2 + WINDOW_LEASED_CALLS
            two.hand.now += 0.001
            _taken(two.one.charge(1))
            two.one.flush()
            assert two.other.usage.used == 4
            return
    assert two.other.usage.used == 2


def test_a_lease_of_pages_is_not_sent_into_a_cooldown_of_another_process() -> None:
    two = Two()
    two.read(3)
    two.other.hold(60.0)
    assert _waited(two.one.charge(1)).reason is Reason.COOLDOWN


def test_leased_pages_never_exceed_the_limit_even_if_a_process_is_killed() -> None:
    two = Two()
    pools = [two.one, two.other]
    sent = 0
    while True:
        if sent == 400:  # the first process is killed while it has leased pages
            budget = MemoryBudget(two.memory, **two.hand.options())
            pools[0] = budget.pool("x", HISTORY)
        if not isinstance(pools[sent % 2].charge(1), Receipt):
            break
        sent += 1
        two.hand.now += 0.01
    assert 990 - 3 * WINDOW_LEASED_CALLS <= sent <= 990
    two.hand.now += 330.0
    assert pools[0].usage.used == 0


def test_the_shared_file_has_a_record_of_the_rolling_limit(
    tmp_path: Path,
) -> None:
    budget = MachineBudget(directory=tmp_path)
    pool = budget.pool("exchange", HISTORY)
    assert budget.pool("exchange", HISTORY) is pool
    assert budget.pool("exchange") is not pool
    assert isinstance(pool.charge(1), Receipt)
    usage = machine_pools(tmp_path)["exchange, 1000 in 300 s"]
    assert (usage.limit, usage.used, usage.in_flight) == (1000, 1, 1)
    budget.close()
    again = MachineBudget(directory=tmp_path)
    assert again.pool("exchange", HISTORY).usage.used == 1
    assert abs(again.pool("exchange", HISTORY).exchange_time - NOON) > 0
    again.close()


def test_a_full_window_fits_into_its_record_with_every_slot() -> None:
    now = 1e9
    known = rolling.fresh(fresh_state(2400, lambda: 1e9, lambda: NOON), HISTORY)
    made = RollingBucket(known, Parts())
    while now < 1e9 + 320.0:
        take(made, now)
        now += 0.5
    made.known.clock.drift(now)
    found = record.Record("x" * 400, "b" * 60, made.known)
    read = record.decode(record.fitted(found, MAX_RECORD_BYTES))
    assert read is not None
    assert read.state.windows == made.known.windows
    assert record.flaw(read.state, now) == ""
    assert rolling.is_rolling(read.state)


def test_a_merge_keeps_the_pace_and_the_room_for_single_requests() -> None:
    ours, shared = bucket(), bucket()
    take(ours, 5.0, bulk=True)
    take(shared, 7.0)
    record.merge(shared.known, ours.known, None, 8.0)
    (window,) = shared.known.windows
    assert window.used(8.0) == 2
    assert window.bulk_at == pytest.approx(5.0 - rolling.CREDIT_S + EVERY)
    assert window.kept_until == 307.0


def test_a_reserve_of_weight_becomes_the_same_fraction_of_this_limit() -> None:
    budget = ProcessBudget(limit=2400, reserve=600)
    assert budget.pool("x", HISTORY).usage.reserve == 250
    assert ProcessBudget(reserve=0.1).pool("x", HISTORY).usage.reserve == 100


# -- together with the pool of the minute --------------------------------------------------------


def beside() -> tuple[PoolBeside, ProcessBudget]:
    budget = ProcessBudget(**Hand().options())
    return pool_of(budget, "x", HISTORY), budget


def test_the_minute_and_history_are_counted_separately() -> None:
    past, budget = beside()
    minute = budget.pool("x")
    receipt = past.charge(1)
    assert isinstance(receipt, Receipt)
    assert minute.usage.used == 0
    minute.settle(first := _taken(minute.charge(1)), 2400, NOON + 100.0)
    assert first
    assert isinstance(minute.charge(1), Wait)  # the minute is full
    assert past.room_in(1) == 0.0
    assert past.sending(receipt) is receipt
    past.settle(receipt, None, NOON + 100.0)
    assert past.usage.used == 1
    past.lose(_taken(past.charge(1)))
    past.refund(_taken(past.charge(1)))
    assert past.usage.used == 2
    assert past.exchange_time == pytest.approx(NOON + 100.0, abs=3.0)
    past.set_limit(5)
    past.set_limits(5, [])
    assert not past.when_idle()
    past.flush()
    past.close()
    assert past.usage.limit == 1000
    assert "used=2 of 1000" in repr(past)


def _taken(answer: Receipt | Wait) -> Receipt:
    assert isinstance(answer, Receipt), answer
    return answer


def test_a_refusal_of_history_does_not_stop_current_requests() -> None:
    past, budget = beside()
    past.settle_refused(_taken(past.charge(1)), None, None, 0.0, ban=False)
    assert past.held_for() > 290.0
    assert not budget.pool("x").held_for()
    past.refused(0.0)
    assert not budget.pool("x").held_for()


@pytest.mark.parametrize("how", ["settled", "refused", "until", "hold", "hold of the minute"])
def test_a_ban_stops_current_requests_and_history(how: str) -> None:
    past, budget = beside()
    minute, receipt = budget.pool("x"), _taken(beside()[0].charge(1))
    if how == "settled":
        past.settle_refused(_taken(past.charge(1)), None, None, 120.0, ban=True)
    elif how == "refused":
        past.refused(120.0, ban=True)
    elif how == "until":
        past.hold_until(NOON + 400.0, ban=True)
    elif how == "hold":
        past.hold(120.0, ban=True)
    else:
        minute.hold(120.0, ban=True)
    for pool in (past, minute):
        assert pool.held_for(ban=True) > 100.0
        answer = pool.charge(1)
        assert isinstance(answer, Wait)
        assert answer.reason is Reason.COOLDOWN
        assert pool.usage.banned_until is not None
    assert past.sending(receipt) is None
    assert past.room_in(1) == pytest.approx(past.held_for(), abs=0.1)


def test_no_room_is_expected_for_a_request_that_never_fits() -> None:
    _, budget = beside()
    weights = pool_of(budget, "x", Limit(300, 10, counts_requests=False))
    assert weights.room_in(11) is None


def test_a_listener_is_called_for_both_pools_until_it_stops_listening() -> None:
    past, budget = beside()
    heard: list[None] = []
    stop = past.listen(lambda: heard.append(None))
    past.refund(_taken(past.charge(1)))
    budget.pool("x").hold(1.0)
    assert len(heard) == 2
    stop()
    budget.pool("x").hold(1.0)
    assert len(heard) == 2


def test_room_is_expected_later_for_bulk_requests_than_for_a_single_one() -> None:
    pool = beside_of(ProcessBudget())
    while isinstance(pool.charge(1, bulk=True), Receipt):
        pass
    assert pool.room_in(1) == 0.0
    later = pool.room_in(1, bulk=True)
    assert later is not None
    assert 0.0 < later <= EVERY


def test_the_minute_and_history_have_separate_demands() -> None:
    budget = ProcessBudget()
    pool = beside_of(budget)
    budget.pool("exchange").declare("poller", 100.0)
    assert pool.demand("another") == 0.0
    pool.declare("reader", 5.0)
    assert pool.demand("another") == 5.0
    assert budget.pool("exchange").demand("another") == 100.0


def test_a_cooldown_in_an_untrusted_record_is_shown_for_the_same_limit(tmp_path: Path) -> None:
    # The record's clock is ahead of this machine's, as after a reboot.
    budget = MachineBudget(directory=tmp_path, clock=lambda: 1e9)
    beside = pool_of(budget, "exchange", HISTORY)
    beside.charge(1)
    beside.hold(600.0, ban=True)
    budget.close()
    usage = machine_pools(tmp_path)["exchange, 1000 in 300 s"]
    assert (usage.limit, usage.used) == (1000, 0)
    assert usage.held_until is not None


def test_a_history_record_of_a_local_exchange_counts_as_local() -> None:
    local = "http://127.0.0.1:8000/local-0123456789ab"
    assert is_local_exchange(f"{local}, 1000 in 300 s")
    assert local_place(f"{local}, 1000 in 300 s") == ("127.0.0.1", 8000)
    assert not is_local_exchange("binance-futures, 1000 in 300 s")
    assert local_place("binance-futures, 1000 in 300 s") is None


def beside_of(budget: ProcessBudget) -> PoolBeside:
    return pool_of(budget, "exchange", HISTORY)


def _waited(answer: Receipt | Wait) -> Wait:
    assert isinstance(answer, Wait), answer
    return answer
