"""Which pools share a bucket, and what they do when the shared file fails.

Rule of this file: two budgets on one directory, or two pools of `make`, stand for two processes.
"""

import importlib.util
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from binance_oi.budget import machine, record, stored
from binance_oi.budget import pool as pool_module
from binance_oi.budget.machine import MachineBudget, forget_pool, machine_pools
from binance_oi.budget.pool import Pool, ProcessBudget
from binance_oi.budget.pool_file import FILE_NAME, PAGE_BYTES, PoolFile
from binance_oi.budget.shared import (
    LEASE_S,
    LOCKED_RETRY_S,
    MAX_LATE_SETTLEMENTS,
    MAX_LEASED_CALLS,
    QUICK_SUCCESSION_S,
    SharedPool,
)
from binance_oi.budget.tuning import CONTRADICTIONS
from binance_oi.budget.usage import Reason, Receipt, Wait
from binance_oi.exchange.limits import Limit
from support.clocks import NOON, Time
from support.memory_store import Memory, Options, shared_pool

if sys.platform != "win32":
    import fcntl

pytestmark = pytest.mark.usefixtures("known_address")

Make = Callable[..., SharedPool]
HUNG_S = 300.0  # s after which a thread counts as hung


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path, memory: Memory, clock: Time) -> Make:
    """Return a function that makes pools. Each stands for one process, by default on a file."""
    kind = getattr(request, "param", "file")

    def make(**more: float) -> SharedPool:
        options = Options(limit=100, reserve=0, clock=clock, wall=clock.wall)
        options.update(more)  # type: ignore[typeddict-item]
        return shared_pool(kind, tmp_path / "budgets", memory, options)

    return make


BOTH = pytest.mark.parametrize("make", ["file", "memory"], indirect=True)


def take(pool: Pool, weight: int = 1) -> Receipt:
    receipt = pool.charge(weight)
    assert isinstance(receipt, Receipt), receipt
    return receipt


def use(pool: Pool, clock: Time, weight: int = 1, used: int | None = None) -> None:
    """Send a request and get its answer, slowly enough that no lease is taken."""
    clock.now += 2 * QUICK_SUCCESSION_S
    receipt = take(pool, weight)
    count = pool.usage.used if used is None else used
    pool.settle(receipt, count, NOON + int(clock.now))
    pool.flush()
    clock.now += 2 * QUICK_SUCCESSION_S


class Interrupted(Time):
    """A clock that blocks its first reading in another thread until `go_on` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()
        self.held, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> float:
        if threading.get_ident() != self.thread and not self.held.is_set():
            self.held.set()
            assert self.go_on.wait(HUNG_S)
        return super().__call__()


@pytest.mark.parametrize("shared", [False, True], ids=["one process", "all processes"])
def test_a_thread_sees_a_ban_while_the_clock_is_replaced(shared: bool, tmp_path: Path) -> None:
    clock = Interrupted()
    budget = (
        MachineBudget(directory=tmp_path / "budgets", clock=clock, wall=clock.wall)
        if shared
        else ProcessBudget(clock=clock, wall=clock.wall)
    )
    pool = budget.pool("exchange")
    use(pool, clock)
    receipts = [take(pool) for _ in range(CONTRADICTIONS)]
    pool.hold(600, ban=True)
    with ThreadPoolExecutor(1) as other:
        seen = other.submit(lambda: pool.held_for(ban=True))
        assert clock.held.wait(HUNG_S)
        for receipt in receipts:  # each `Date` is two hours ahead
            pool.settle(receipt, 2, NOON + 7200)
        pool.flush()
        clock.go_on.set()
        assert seen.result(HUNG_S) == pool.held_for(ban=True) > 0.0
    budget.close()


# -- one process -------------------------------------------------------------------------------


def test_all_users_of_one_budget_share_its_pools(clock: Time) -> None:
    budget = ProcessBudget(limit=100, reserve=0, clock=clock, wall=clock.wall)
    use(budget.pool("a"), clock, 60)
    assert (budget.pool("a").usage.used, budget.pool("b").usage.used) == (60, 0)
    assert budget.pool("a") is budget.pool("a")
    budget.close()


def test_the_pool_of_one_process_passes_each_call_on_to_its_bucket(clock: Time) -> None:
    pool = ProcessBudget(limit=100, reserve=0, clock=clock, wall=clock.wall).pool("a")
    use(pool, clock, 10)
    pool.refund(take(pool, 5))
    pool.lose(take(pool, 7))
    assert pool.usage.used == 17
    pool.set_limit(200)
    assert pool.usage.limit == 200
    pool.hold(5)
    pool.refused(10)
    pool.hold_until(NOON + 500, ban=True)
    until = pool.usage.banned_until
    assert until is not None
    assert until.timestamp() == NOON + 500


@pytest.mark.parametrize("reserve", [-1, -0.1, 1.0, 2400, float("nan")])
def test_an_invalid_reserve_is_refused(reserve: float) -> None:
    with pytest.raises(ValueError, match="reserve"):
        ProcessBudget(reserve=reserve)


@pytest.mark.parametrize("share", [0, -1, 1.01, float("nan")])
def test_an_invalid_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        ProcessBudget(share=share)


def test_interactive_must_be_between_0_and_1() -> None:
    for sound in (0.0, 1):
        ProcessBudget(interactive=sound)
    with pytest.raises(ValueError, match="interactive must be 0 to 1"):
        ProcessBudget(interactive=1.01)


@pytest.mark.parametrize("interactive, left", [(0.0, 0), (0.1, 9), (0.5, 49)])
def test_bulk_work_leaves_room_after_single_calls(
    interactive: float, left: int, clock: Time
) -> None:
    budget = ProcessBudget(
        limit=100, reserve=0, interactive=interactive, clock=clock, wall=clock.wall
    )
    pool = budget.pool("a")
    use(pool, clock, 40)
    clock.now += 60.0
    use(pool, clock, 1)
    assert isinstance(pool.charge(99 - left, 0, True), Receipt)
    answer = pool.charge(1, 0, True)
    assert not isinstance(answer, Receipt)
    if not left:
        assert answer.reason is Reason.MINUTE_FULL
        return
    assert answer.reason is Reason.SINGLE_CALLS
    assert pool.room_in(1, True) == answer.seconds
    assert isinstance(pool.charge(left), Receipt)


def test_a_pool_leaves_the_reserve_and_the_rest_of_its_share_unused(clock: Time) -> None:
    pool = ProcessBudget(limit=100, reserve=20, share=0.5, clock=clock, wall=clock.wall).pool("a")
    use(pool, clock)
    assert isinstance(pool.charge(49), Receipt)
    assert not isinstance(pool.charge(1), Receipt)
    assert pool.usage.reserve == 20


def test_the_repr_of_a_budget_names_its_pools() -> None:
    budget = ProcessBudget()
    assert repr(budget) == "<ProcessBudget unused>"
    take(budget.pool("a"), 7)
    budget.pool("b")
    assert repr(budget) == (
        "<ProcessBudget a: <ProcessPool used=7 of 2400, 7 in flight>,"
        " b: <ProcessPool used=0 of 2400, 0 in flight>>"
    )


def test_the_repr_of_a_pool_shows_weight_used_and_in_flight_and_a_cooldown(clock: Time) -> None:
    pool = ProcessBudget(clock=clock, wall=clock.wall).pool("a")
    use(pool, clock, 3)
    take(pool, 2)
    assert repr(pool) == "<ProcessPool used=5 of 2400, 2 in flight>"
    pool.hold(600.0)
    until = pool.usage.held_until
    assert until is not None
    shown = f"{until:%Y-%m-%d %H:%M:%S} UTC"
    assert repr(pool) == (f"<ProcessPool used=5 of 2400, 2 in flight, cooling down until {shown}>")


@BOTH
def test_the_repr_of_a_shared_pool_reads_no_record(make: Make, clock: Time) -> None:
    pool, other = make(), make()
    use(pool, clock, 7)
    assert (repr(pool), repr(other)) == (
        "<SharedPool used=7 of 100, 0 in flight>",
        "<SharedPool used=0 of 100, 0 in flight>",
    )
    assert other.usage.used == 7


NO_NUMBERS = (Decimal(1), "1", timedelta(seconds=1), True, None, float("inf"), float("nan"), -1)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
@pytest.mark.parametrize("name", ["reserve", "share", "interactive", "limit"])
@pytest.mark.parametrize("kind", [ProcessBudget, MachineBudget])
def test_the_error_for_an_argument_that_is_not_a_number_has_its_name(
    kind: type[ProcessBudget], name: str, value: object
) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{name} must be "):
        kind(**{name: value})  # type: ignore[arg-type]


def test_every_type_of_real_number_is_a_valid_reserve_and_share(clock: Time) -> None:
    options = {"reserve": Fraction(1, 4), "share": Fraction(1, 2), "limit": 200}
    pool = ProcessBudget(**options, clock=clock, wall=clock.wall).pool("a")  # type: ignore[arg-type]
    assert (pool.usage.reserve, pool.usage.share) == (50, 100)


# -- several processes -------------------------------------------------------------------------


@BOTH
def test_two_processes_share_one_count(make: Make, clock: Time) -> None:
    one, other = make(), make()
    use(one, clock)
    take(one, 60)
    assert other.usage.used == 61
    assert not isinstance(other.charge(40), Receipt)
    take(other, 39)
    assert one.usage.remaining == 0


@BOTH
def test_weight_of_a_killed_process_is_free_again_in_the_next_minute(
    make: Make, clock: Time
) -> None:
    killed, other = make(), make()
    use(killed, clock, 10)
    take(killed, 30)
    del killed
    assert other.usage.used == 40
    clock.now += 60
    assert other.usage.used == 0


@BOTH
def test_all_processes_share_one_clock_and_one_ban(make: Make, clock: Time) -> None:
    one, other = make(), make()
    use(one, clock)
    one.refused(300, ban=True)
    assert other.usage.banned_until is not None
    assert not isinstance(other.charge(1), Receipt)
    assert not isinstance(make().charge(1), Receipt)  # not even in a process that starts now
    clock.now += 310
    assert take(make(), 1).probe
    assert not isinstance(other.charge(1), Receipt)


@BOTH
def test_all_processes_wait_for_a_single_probe(make: Make, clock: Time) -> None:
    one, other = make(), make()
    first = take(one)
    assert first.probe
    assert not isinstance(other.charge(1), Receipt)
    one.settle(first, 1, NOON + 10)
    assert isinstance(other.charge(1), Receipt)


@BOTH
@pytest.mark.parametrize("what", ["hold", "hold_until", "refused", "set_limit", "lose", "refund"])
def test_every_process_knows_what_one_of_them_learned(what: str, make: Make, clock: Time) -> None:
    one, other = make(), make()
    use(one, clock)
    receipt = take(one, 5)
    argument = {"hold_until": NOON + 900, "lose": receipt, "refund": receipt, "set_limit": 50}
    getattr(one, what)(argument.get(what, 100.0))
    theirs, ours = other.usage, one.usage
    assert theirs == ours
    assert theirs.used == (1 if what == "refund" else 6)


@BOTH
def test_all_processes_obey_a_limit_that_one_of_them_has_read(make: Make, clock: Time) -> None:
    one, other = make(), make()
    use(one, clock)
    one.set_limits(None, [Limit(10, 20, False)])
    use(one, clock, 12)
    assert other.usage.remaining == 7  # of 20, after 12 and the 1 that was used first
    use(other, clock, 7)
    assert not isinstance(one.charge(1), Receipt)
    assert one.room_in(1) == pytest.approx(10.0, abs=1.0)
    clock.now += 11.0
    assert isinstance(make().charge(1), Receipt)


@BOTH
def test_the_longest_record_fits_into_its_page(make: Make, clock: Time) -> None:
    clock.now = 1e7
    pool = make()
    pool.set_limits(9_999_999, [Limit(n, 10**12, n % 2 > 0) for n in (2, 10, 61, 86_400)])
    for n in range(4 * 60 * 4):
        clock.now += 0.25
        receipt = pool.charge(1000)
        if isinstance(receipt, Receipt) and n % 3:
            pool.settle(receipt, pool.usage.used + 7777, NOON + int(clock.now))
        elif isinstance(receipt, Receipt):
            pool.lose(receipt)
    pool.flush()
    assert make().usage.used == pool.usage.used > 1000


@BOTH
def test_a_request_charged_before_another_process_was_refused_is_not_sent(
    make: Make, clock: Time
) -> None:
    one, other = make(), make()
    use(one, clock)
    receipt = take(one)
    assert one.sending(receipt) is receipt
    other.hold(500, ban=True)
    clock.now += 2 * LEASE_S  # if the receipt is that old, `sending` checks for a new cooldown
    assert one.sending(receipt) is None
    one.refund(receipt)
    assert other.usage.charged == 1


@BOTH
def test_nothing_is_sent_while_the_record_is_locked_and_may_have_a_cooldown(
    make: Make, clock: Time
) -> None:
    one, other = make(), make()
    use(one, clock)
    receipt = take(one)
    other.hold(500, ban=True)
    assert isinstance(other, SharedPool)
    assert other._store is not None
    assert other._store.lock()
    clock.now += 2 * LEASE_S
    assert one.sending(receipt) is None
    other._store.unlock()


@BOTH
def test_a_restart_during_a_ban_sends_nothing(
    make: Make, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make()
    use(pool, clock, 50)
    pool.hold(1000, ban=True)
    monkeypatch.setattr(stored, "BOOT", "another run of the machine")
    clock.wall = lambda: NOON + 20  # type: ignore[method-assign]
    clock.now = 3.0  # the monotonic clock restarted
    pool = make()
    assert pool.usage.banned_until is not None
    assert pool.usage.used == 0
    assert not isinstance(pool.charge(1), Receipt)


@BOTH
def test_a_clock_that_is_wrong_by_an_hour_forgets_no_used_weight(make: Make, clock: Time) -> None:
    use(make(), clock, 90)
    for wrong in (-3600, 3600):
        clock.wall = lambda wrong=wrong: NOON + clock.now + wrong  # type: ignore[misc, method-assign]
        assert make().usage.used == 90


@BOTH
def test_after_a_suspended_machine_resumes_the_first_request_is_a_probe_of_a_new_minute(
    make: Make, clock: Time
) -> None:
    pool = make()
    use(pool, clock, 90)
    clock.now += 8 * 3600
    receipt = take(pool)
    assert receipt.probe
    assert pool.usage.used == 1


@BOTH
def test_bulk_work_of_one_process_leaves_room_for_single_calls_of_another(
    make: Make, clock: Time
) -> None:
    bot, recorder = make(interactive=0.2), make()
    use(bot, clock, 40)
    clock.now += 60.0
    use(bot, clock, 1)
    assert isinstance(recorder.charge(80, 0, True), Receipt)
    answer = recorder.charge(1, 0, True)
    assert not isinstance(answer, Receipt)
    assert answer.reason is Reason.SINGLE_CALLS
    assert isinstance(bot.charge(19), Receipt)


# -- charging in advance -----------------------------------------------------------------------


@BOTH
def test_a_single_call_does_not_use_a_lease_of_bulk_work(make: Make, clock: Time) -> None:
    pool, other = make(), make()
    use(pool, clock)
    for _ in range(2):  # at one instant, so that a lease is taken
        assert isinstance(pool.charge(1, 0, True), Receipt)
    assert other.usage.used > 3
    receipt = pool.charge(1)
    assert isinstance(receipt, Receipt)
    assert not receipt.bulk
    pool.flush()
    assert other.usage.used == 4


def warm(pool: Pool, clock: Time) -> None:
    """Use a weight of 3, so that the pool has a lease."""
    use(pool, clock)
    take(pool)
    take(pool)  # at one instant: calls come in quick succession


@BOTH
def test_calls_in_quick_succession_lock_the_store_once(make: Make, clock: Time) -> None:
    pool, other = make(), make()
    warm(pool, clock)
    assert other.usage.used == 3 + MAX_LEASED_CALLS
    for _ in range(MAX_LEASED_CALLS):
        take(pool)
    assert other.usage.used == 3 + MAX_LEASED_CALLS


@BOTH
def test_a_lease_that_is_not_sent_is_refunded(make: Make, clock: Time) -> None:
    pool, other = make(), make()
    warm(pool, clock)
    pool.flush()
    assert other.usage.used == 3
    warm(pool, clock)
    clock.now += LEASE_S + 0.001
    assert take(pool).sent == clock.now
    assert other.usage.charged == 3 + 3 + 1


@BOTH
@pytest.mark.parametrize(
    "waiting", [0, 1, MAX_LEASED_CALLS - 1, MAX_LEASED_CALLS, MAX_LEASED_CALLS + 1, 10**6]
)
def test_a_lease_covers_the_waiting_calls_up_to_its_largest_weight(
    waiting: int, make: Make, clock: Time
) -> None:
    pool, other = make(), make()
    use(pool, clock)
    assert isinstance(pool.charge(1, waiting), Receipt)
    charged = 2 + min(waiting, MAX_LEASED_CALLS)
    assert other.usage.charged == charged
    for behind in reversed(range(min(waiting, MAX_LEASED_CALLS))):
        assert isinstance(pool.charge(1, behind), Receipt)
    assert other.usage.charged == charged
    pool.flush()
    assert other.usage.charged == pool.usage.charged == charged  # the whole lease was used


@BOTH
def test_calls_in_quick_succession_get_a_lease_even_if_none_waits(make: Make, clock: Time) -> None:
    pool, other = make(), make()
    use(pool, clock)
    for _ in range(2):
        assert isinstance(pool.charge(1, 0), Receipt)
    assert other.usage.charged == 3 + MAX_LEASED_CALLS


@BOTH
def test_a_call_of_weight_5_leases_nothing_for_the_waiting_calls(make: Make, clock: Time) -> None:
    pool, other = make(), make()
    use(pool, clock)
    assert isinstance(pool.charge(5, 3), Receipt)
    assert other.usage.charged == 6


@BOTH
def test_no_lease_is_taken_while_others_are_expected(make: Make, clock: Time) -> None:
    pool, other = make(), make()
    use(pool, clock, 1, used=4)  # other clients used 3
    before = other.usage.charged
    assert isinstance(pool.charge(1, 3), Receipt)
    assert other.usage.charged == before + 1


@BOTH
def test_a_lease_for_waiting_calls_is_no_larger_than_the_room(make: Make, clock: Time) -> None:
    pool, other = make(), make()
    use(pool, clock, 96)
    assert isinstance(pool.charge(1, MAX_LEASED_CALLS), Receipt)
    assert other.usage.charged == 100
    for _ in range(3):
        take(pool)
    assert not isinstance(pool.charge(1, MAX_LEASED_CALLS), Receipt)


@BOTH
def test_a_lease_is_no_larger_than_the_room(make: Make, clock: Time) -> None:
    pool = make()
    use(pool, clock, 95)
    for _ in range(5):
        take(pool)
    assert not isinstance(pool.charge(1), Receipt)


@pytest.mark.skipif(sys.platform == "win32", reason="the shared file needs POSIX locks")
def test_no_leased_request_is_sent_after_a_cooldown_began(
    make: Make, clock: Time, tmp_path: Path
) -> None:
    pool = make()
    warm(pool, clock)
    with open(tmp_path / "budgets" / FILE_NAME, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # so the cooldown cannot be written
        pool.hold(100)
        assert not isinstance(pool.charge(1), Receipt)
    answer = pool.charge(1)
    assert isinstance(answer, Wait)
    assert answer.seconds == pytest.approx(103, abs=2)  # our clock is uncertain by some seconds


@BOTH
def test_no_leased_request_is_sent_after_a_cooldown_of_another_process_began(
    make: Make, clock: Time
) -> None:
    pool, other = make(), make()
    warm(pool, clock)
    other.refused(0.0)
    assert not isinstance(pool.charge(1), Receipt)
    assert other.usage.charged == 3  # the unused lease was refunded


@BOTH
def test_settlements_are_written_before_too_many_are_pending(make: Make, clock: Time) -> None:
    pool, other = make(), make()
    use(pool, clock)
    receipts = [take(pool) for _ in range(MAX_LATE_SETTLEMENTS + 2)]
    for n, receipt in enumerate(receipts[:-1]):
        pool.settle(receipt, n + 2, NOON + 10)
    assert other.usage.in_flight <= 2


# -- when another process has the lock ---------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="the shared file needs POSIX locks")
def test_no_call_waits_for_the_lock_and_no_weight_is_lost(
    make: Make, clock: Time, tmp_path: Path
) -> None:
    pool, other = make(), make()
    use(pool, clock, 10)
    receipt = take(pool, 20)
    with open(tmp_path / "budgets" / FILE_NAME, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert pool.charge(1) == Wait(LOCKED_RETRY_S, Reason.STORE_BUSY)
        pool.settle(receipt, 30, NOON + 10)
        pool.hold(100)
        assert pool.usage.held_until is not None  # the other processes do not know this yet
        assert other.usage.held_until is None
    # The next charge that gets the lock writes the settlement and the cooldown, even if it waits.
    assert pool.charge(1) != Wait(LOCKED_RETRY_S, Reason.STORE_BUSY)
    assert other.usage.held_until is not None
    assert other.usage.in_flight == 0


HOLDS: dict[str, Callable[[Pool, Receipt], None]] = {
    "418": lambda pool, receipt: pool.settle_refused(receipt, 2, NOON + 10, 500.0, ban=True),
    "429": lambda pool, receipt: pool.settle_refused(receipt, 2, NOON + 10, 500.0, ban=False),
    "refused": lambda pool, receipt: pool.refused(500.0, ban=True),
    "hold": lambda pool, receipt: pool.hold(500.0, ban=True),
    "hold_until": lambda pool, receipt: pool.hold_until(NOON + 510.0, ban=True),
}


@pytest.mark.skipif(sys.platform == "win32", reason="the shared file needs POSIX locks")
@pytest.mark.parametrize("name", HOLDS)
def test_a_process_obeys_its_own_cooldown_before_it_can_write_it(
    name: str, make: Make, clock: Time, tmp_path: Path
) -> None:
    pool = make()
    use(pool, clock)
    first, second = take(pool), take(pool)
    with open(tmp_path / "budgets" / FILE_NAME, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        HOLDS[name](pool, first)
        assert pool.sending(second) is None
        clock.now += 2 * LEASE_S
        assert pool.sending(second) is None
        assert pool.charge(1) == Wait(LOCKED_RETRY_S, Reason.STORE_BUSY)
        assert (pool.room_in(1) or 0.0) > 400
        assert (pool.held_for(ban=True) > 0.0) == (pool.usage.banned_until is not None)
        assert (pool.held_for(ban=True) > 0.0) == (name != "429")
    # The lock is free now, but no call has used it since.
    assert pool.sending(second) is None
    assert (pool.held_for(ban=True) > 0.0) == (pool.usage.banned_until is not None)
    answer = pool.charge(1)
    assert isinstance(answer, Wait)
    assert answer.reason is Reason.COOLDOWN
    assert make().usage.held_until == pool.usage.held_until
    assert pool.sending(second) is None


@pytest.mark.skipif(sys.platform == "win32", reason="the shared file needs POSIX locks")
def test_a_cooldown_that_could_not_be_written_at_once_ends_on_time(
    make: Make, clock: Time, tmp_path: Path
) -> None:
    pool = make()
    use(pool, clock)
    with open(tmp_path / "budgets" / FILE_NAME, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        pool.hold(100, ban=True)
        clock.now += 110
        assert not pool.held_for(ban=True)
    receipt = take(pool)
    assert pool.sending(receipt) is receipt


# -- when the file fails -----------------------------------------------------------------------


def test_one_warning_is_logged_when_no_file_can_be_made(
    tmp_path: Path, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "budgets").write_text("not a directory")
    budget = MachineBudget(directory=tmp_path / "budgets", clock=clock, wall=clock.wall)
    use(budget.pool("a"), clock)
    use(budget.pool("a"), clock)
    budget.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("when", ["lock", "read", "write", "unlock"])
def test_when_the_file_fails_a_process_continues_alone_and_keeps_its_books(
    when: str,
    make: Make,
    clock: Time,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = make()
    use(pool, clock, 60)

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(f"binance_oi.budget.pool_file.PoolFile.{when}", fail)
    take(pool, 30)
    assert pool.usage.used == 90
    assert not isinstance(pool.charge(11), Receipt)
    assert len(caplog.records) == 1


@BOTH
def test_a_record_of_another_version_is_not_trusted(
    make: Make, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make()
    store = pool._store
    assert store is not None
    store.lock()
    store.read()
    store.write(msgspec.msgpack.encode(["exchange", "boot", 3]))
    store.unlock()
    use(make(), clock, 7)
    assert pool.usage.used == 7
    assert "another version" in caplog.text


def test_after_damage_a_new_record_contains_all_known_weight(
    make: Make, clock: Time, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make()
    use(pool, clock, 60)
    path = tmp_path / "budgets" / FILE_NAME
    content = bytearray(path.read_bytes())
    content[PAGE_BYTES + 8] ^= 1
    path.write_bytes(content)
    assert pool.usage.used == 60
    take(pool, 30)
    assert make().usage.used == 90
    assert "damaged" in caplog.text


@BOTH
def test_without_any_header_the_record_still_fits(make: Make, clock: Time) -> None:
    pool = make()
    for _ in range(4 * 600):
        clock.now += 0.25
        receipt = pool.charge(1)
        if isinstance(receipt, Receipt):
            pool.settle(receipt, None, NOON + int(clock.now))
            pool.flush()
    assert make().usage.charged == pool.usage.charged > 0


@BOTH
def test_charges_stay_after_their_pool_is_closed(make: Make, clock: Time) -> None:
    pool = make()
    use(pool, clock, 10)
    take(pool, 20)
    pool.close()
    pool.close()
    assert make().usage.used == 30


def test_closing_a_budget_closes_its_files(tmp_path: Path, clock: Time) -> None:
    def opened() -> int:
        """Count the open descriptors of this test's file; other tests may have files open too."""
        links = list[str]()
        for link in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # `iterdir` has closed its own descriptor
                links.append(os.readlink(link))
        return links.count(str(tmp_path / "budgets" / FILE_NAME))

    budget = MachineBudget(directory=tmp_path / "budgets", clock=clock, wall=clock.wall)
    pool = budget.pool("a")  # while we refer to the pool, only `close` closes its file
    use(pool, clock)
    assert opened() == 1
    budget.close()
    assert opened() == 0


# -- all pools of the machine ------------------------------------------------------------------


def test_machine_pools_lists_every_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = MachineBudget(directory=tmp_path / "budgets")
    for name, weight in (("a", 5), ("b", 7)):
        take(budget.pool(name), weight)
    usage = machine_pools(tmp_path / "budgets")
    assert {name: each.charged for name, each in usage.items()} == {"a": 5, "b": 7}
    assert machine_pools() == {}  # the default directory, in which no process has charged
    with monkeypatch.context() as changed:
        changed.setattr(stored, "BOOT", "another run of the machine")
        assert machine_pools(tmp_path / "budgets") == {}
    with monkeypatch.context() as changed:
        changed.setattr(record, "decode", lambda _data: None)
        assert machine_pools(tmp_path / "budgets") == {}
    take(MachineBudget().pool("c"), 1)
    assert list(machine_pools()) == ["c"]


def test_machine_pools_shows_a_ban_from_before_a_reboot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MachineBudget(directory=tmp_path).pool("a").hold(3600.0, ban=True)
    monkeypatch.setattr(stored, "BOOT", "another run of the machine")
    assert MachineBudget(directory=tmp_path).pool("a").held_for(ban=True) > 0.0
    assert machine_pools(tmp_path)["a"].banned_until is not None


def test_forgetting_one_pool_keeps_the_others(tmp_path: Path) -> None:
    budget = MachineBudget(directory=tmp_path)
    for name in ("a", "b"):
        budget.pool(name).hold(3600.0, ban=True)
    budget.close()
    assert forget_pool("a", tmp_path)
    assert list(machine_pools(tmp_path)) == ["b"]
    assert not forget_pool("a", tmp_path)
    later = MachineBudget(directory=tmp_path)
    assert (later.pool("a").held_for(ban=True), later.pool("b").held_for(ban=True) > 0) == (0, True)


def test_a_running_process_writes_a_forgotten_pool_again(tmp_path: Path) -> None:
    pool = MachineBudget(directory=tmp_path).pool("a")
    pool.hold(3600.0, ban=True)
    assert forget_pool("a", tmp_path)
    assert machine_pools(tmp_path) == {}
    assert isinstance(pool.charge(1), Wait)
    pool.hold(1.0)
    assert machine_pools(tmp_path)["a"].banned_until is not None


def test_forgetting_without_a_file_creates_none(tmp_path: Path) -> None:
    assert not forget_pool("a", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_forgetting_a_pool_of_a_locked_file_raises_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MachineBudget(directory=tmp_path).pool("a").hold(3600.0, ban=True)
    asked: list[float] = []
    monkeypatch.setattr(PoolFile, "lock", lambda _: False)
    monkeypatch.setattr(machine, "time", SimpleNamespace(sleep=asked.append, time=time.time))
    with pytest.raises(OSError, match="is locked by another process"):
        forget_pool("a", tmp_path)
    assert len(asked) == machine.LOCK_TRIES
    assert list(machine_pools(tmp_path)) == ["a"]


def test_a_system_without_a_boot_time_clock_uses_the_monotonic_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    spec = importlib.util.spec_from_file_location("budget_elsewhere", pool_module.__file__)
    assert spec is not None
    assert spec.loader is not None
    elsewhere = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(elsewhere)
    assert elsewhere.steady_clock is time.monotonic


@pytest.mark.parametrize("wrong_s", [-3600.0, -3.7, -3.2, 3.1, 3.9])
def test_the_first_date_replaces_a_wrong_wall_clock(
    wrong_s: float,
) -> None:
    true = 1_795_434_230.0  # Unix s: 10 s before a rollover
    pool = ProcessBudget(clock=lambda: 0.0, wall=lambda: true + wrong_s).pool("a")
    receipt = pool.charge(1)
    assert isinstance(receipt, Receipt)
    pool.settle(receipt, 1, float(int(true)))
    state = pool._bucket.known
    assert state.clock.lo <= true <= state.clock.hi
