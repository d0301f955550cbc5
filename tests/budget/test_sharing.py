"""After an error of its store a process works alone, and later shares again.

Rule of this file: two pools on one store stand for two processes, unless a test starts or forks
real ones. Any thread may read a pool. Only the test
advances the clock of these pools.
"""

import errno
import gc
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from subprocess import PIPE
from types import FrameType
from typing import Any

import pytest
from _pytest.mark import MarkDecorator

from binance_oi import fork
from binance_oi.budget import place
from binance_oi.budget import pool as pool_module
from binance_oi.budget.bucket import Bucket
from binance_oi.budget.machine import MachineBudget
from binance_oi.budget.pool import Pool, ProcessBudget
from binance_oi.budget.pool_file import FILE_NAME, PAGE_BYTES, PoolFile
from binance_oi.budget.shared import (
    LOCKED_RETRY_S,
    MAX_LEASED_CALLS,
    QUICK_SUCCESSION_S,
    SharedPool,
)
from binance_oi.budget.stored import CHECK_S, MAX_RETRY_S, RETRY_S
from binance_oi.budget.usage import Reason, Receipt, Usage, Wait
from binance_oi.exchange.limits import Limit
from support.clocks import NOON, Time
from support.lanes import some, thorough
from support.memory_store import Memory, MemoryStore, Options, shared_pool

if sys.platform != "win32":
    import fcntl
    import resource

pytestmark = [
    pytest.mark.usefixtures("known_address"),
    pytest.mark.skipif(sys.platform == "win32", reason="the shared file needs POSIX locks"),
]

LIMIT = 1000


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def budgets(tmp_path: Path) -> Path:
    return tmp_path / "home" / "budgets"


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def make(
    request: pytest.FixtureRequest, budgets: Path, memory: Memory, clock: Time
) -> Callable[[], SharedPool]:
    """Return a function that makes pools. Each stands for one process, by default on a file."""
    kind = getattr(request, "param", "file")

    options = Options(limit=LIMIT, reserve=0, clock=clock, wall=clock.wall)
    return lambda: shared_pool(kind, budgets, memory, options)


Make = Callable[[], SharedPool]
BOTH = pytest.mark.parametrize("make", ["file", "memory"], indirect=True)


def take(pool: Pool, weight: int = 1) -> Receipt:
    receipt = pool.charge(weight)
    assert isinstance(receipt, Receipt), receipt
    return receipt


def use(pool: Pool, clock: Time, weight: int = 1) -> None:
    """Send a request and get its answer, slowly enough that no lease is taken."""
    clock.now += 2 * QUICK_SUCCESSION_S
    receipt = take(pool, weight)
    pool.settle(receipt, pool.usage.used, NOON + int(clock.now))
    pool.flush()
    clock.now += 2 * QUICK_SUCCESSION_S


def short_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Each warning in a word: `alone` if sharing has ended, `again` if it has resumed."""
    assert {record.levelno for record in caplog.records} <= {logging.WARNING}
    messages = [record.getMessage() for record in caplog.records]
    return ["alone" if "is not shared" in message else "again" for message in messages]


@contextmanager
def failing(call: str, number: int) -> Iterator[None]:
    """Make a call of the system or of a store in memory fail; `open` fails for our file only."""
    with pytest.MonkeyPatch.context() as patch:
        where: object = fcntl if call == "flock" else os
        if hasattr(MemoryStore, call):
            where = MemoryStore
        elif hasattr(Memory, call):
            where = Memory
        real = getattr(where, call)

        def fail(*arguments: object, **more: object) -> object:
            if call == "open" and not str(arguments[0]).endswith(FILE_NAME):
                return real(*arguments, **more)
            raise OSError(number, os.strerror(number))

        patch.setattr(where, call, fail)
        yield


def no_writes() -> ExitStack:
    """Make writing fail in both kinds of stores."""
    stack = ExitStack()
    stack.enter_context(failing("pwrite", errno.ENOSPC))
    stack.enter_context(failing("write", errno.ENOSPC))
    return stack


# Faults: a call of the system, and the error with which it fails.
FAULTS = [
    *(("pwrite", n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE)),
    *(("pread", n) for n in (errno.EIO, errno.ESTALE)),
    *(("lstat", n) for n in (errno.EIO, errno.ESTALE, errno.EACCES)),
    *(("flock", n) for n in (errno.ENOLCK, errno.EIO, errno.EBADF, errno.EINTR)),
]
AT_THE_START = [
    *(("open", n) for n in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EROFS)),
    *(("open", n) for n in (errno.ENOSPC, errno.EIO, errno.ESTALE)),
    *(("mkdir", n) for n in (errno.ENOSPC, errno.EROFS, errno.EACCES)),
    ("pwrite", errno.ENOSPC),
]


# Faults of a store in memory: a method, and the error with which it fails.
OPERATIONS = [(name, errno.EIO) for name in ("lock", "read", "write", "unlock")]


def on_both(faults: list[tuple[str, int]], operations: list[tuple[str, int]]) -> MarkDecorator:
    """Parametrize a test with faults of the file and with faults of a store in memory."""
    rows = [("file", *fault) for fault in faults] + [("memory", *each) for each in operations]
    return pytest.mark.parametrize("make, call, number", rows, indirect=["make"], ids=name_of)


def name_of(value: object) -> str | None:
    return errno.errorcode[value] if isinstance(value, int) else None


@on_both(FAULTS, OPERATIONS)
def test_one_error_interrupts_sharing_briefly_and_loses_no_weight(
    call: str, number: int, make: Make, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = make(), make()
    use(one, clock, 10)
    use(other, clock, 20)
    with failing(call, number):
        use(one, clock, 3)
        assert one.usage.charged >= 13
        assert short_warnings(caplog) == ["alone"]
    use(other, clock, 5)
    clock.now += RETRY_S
    use(one, clock, 1)
    assert short_warnings(caplog) == ["alone", "again"]
    assert one.usage == other.usage
    assert (one.usage.charged, one.usage.in_flight, one.usage.others) == (39, 0, 0)


@on_both(FAULTS, OPERATIONS)
def test_the_first_charge_after_an_error_obeys_a_ban_of_another_process(
    call: str, number: int, make: Make, clock: Time
) -> None:
    one, other = make(), make()
    use(one, clock)
    with failing(call, number):
        use(one, clock)
    other.refused(300, ban=True)
    clock.now += RETRY_S
    assert not isinstance(one.charge(1), Receipt)
    assert one.held_for(ban=True)
    assert one.usage.banned_until == other.usage.banned_until is not None


@on_both(FAULTS, OPERATIONS)
def test_a_ban_learned_while_alone_reaches_the_others(
    call: str, number: int, make: Make, clock: Time
) -> None:
    one, other = make(), make()
    use(one, clock)
    with failing(call, number):
        use(one, clock)
        one.refused(300, ban=True)
        assert not isinstance(one.charge(1), Receipt)
    clock.now += 2 * RETRY_S
    one.charge(1)
    assert other.held_for(ban=True)
    assert not isinstance(other.charge(1), Receipt)


@BOTH
def test_a_ban_is_written_at_once_when_the_store_works_again(make: Make, clock: Time) -> None:
    one, other = make(), make()
    use(one, clock)
    with no_writes():
        use(one, clock)
    one.refused(300, ban=True)  # it is too early for the next attempt
    assert other.held_for(ban=True)


@on_both(AT_THE_START, [("store", errno.EIO)])
def test_a_process_that_starts_alone_joins_the_others_later(
    call: str, number: int, make: Make, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    with failing(call, number):
        one = make()
        use(one, clock, 7)
        assert short_warnings(caplog) == ["alone"]
    other = make()
    use(other, clock, 20)
    clock.now += 4 * RETRY_S
    one.charge(1)
    assert short_warnings(caplog) == ["alone", "again"]
    assert (one.usage.charged, other.usage.charged) == (28, 28)
    other.refused(300, ban=True)
    assert not isinstance(one.charge(1), Receipt)


def test_a_reserve_is_kept_by_a_process_that_is_alone(budgets: Path, clock: Time) -> None:
    budget = MachineBudget(directory=budgets, limit=100, reserve=20, clock=clock, wall=clock.wall)
    with failing("open", errno.EMFILE):
        pool = budget.pool("exchange")
        use(pool, clock, 1)
        take(pool, 79)
        assert not isinstance(pool.charge(1), Receipt)
        assert pool.usage.remaining == 0


def test_a_process_that_stays_alone_keeps_retrying_and_warns_once(
    make: Make, clock: Time, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[float] = []

    def fail(_self: object, *_: object) -> None:
        tries.append(clock.now)
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(PoolFile, "__init__", fail)
    pool = make()
    for _ in range(3600):
        clock.now += 1.0
        pool.charge(1)
    pauses = [later - sooner for sooner, later in pairwise(tries)]
    assert max(pauses) <= min(CHECK_S, MAX_RETRY_S + 1)
    assert pauses[0] <= RETRY_S + 1
    assert len(tries) < 200
    assert short_warnings(caplog) == ["alone"]


@BOTH
def test_repeated_failures_are_retried_more_and_more_rarely(
    make: Make, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make()
    use(pool, clock)
    for _ in range(600):
        with no_writes():
            pool.charge(1)
        clock.now += 1.0
        pool.charge(1)
    assert 4 <= len(short_warnings(caplog)) <= 2 * 600 / MAX_RETRY_S + 12


@BOTH
@pytest.mark.parametrize("way", ["flush", "when_idle"])
def test_an_idle_process_retries_when_nothing_is_under_way(
    way: str, make: Make, clock: Time
) -> None:
    one, other = make(), make()
    use(one, clock)
    with no_writes():
        use(one, clock, 5)
    clock.now += RETRY_S
    assert not getattr(one, way)()
    assert other.usage.charged == 6


@BOTH
def test_the_settlements_of_an_idle_process_wait_for_its_next_charge(
    make: Make, clock: Time
) -> None:
    one, other = make(), make()
    use(one, clock)
    one.settle(take(one), 2, NOON + int(clock.now))
    assert one.when_idle()
    assert one.usage.in_flight == 0
    assert (other.usage.charged, other.usage.in_flight) == (2, 1)
    take(one, 5)  # takes no lease: after `when_idle`, a call does not count as in quick succession
    assert (other.usage.charged, other.usage.in_flight) == (7, 5)
    assert not one.when_idle()  # everything is written


@BOTH
def test_an_idle_process_returns_its_leases_and_writes_its_settlements(
    make: Make, clock: Time
) -> None:
    one, other = make(), make()
    use(one, clock)
    receipts = [take(one), take(one)]
    assert other.usage.charged > 3 + MAX_LEASED_CALLS
    for count, receipt in enumerate(receipts, 2):
        one.settle(receipt, count, NOON + int(clock.now))
    assert not one.when_idle()
    assert (other.usage.charged, other.usage.in_flight) == (3, 0)


@BOTH
def test_closing_writes_what_was_charged_alone(make: Make, clock: Time) -> None:
    one, other = make(), make()
    use(one, clock)
    with no_writes():
        use(one, clock, 5)
    one.close()
    assert other.usage.charged == 6
    clock.now += 10 * CHECK_S
    one.charge(1)  # a closed pool has no store, and continues alone
    assert one._store is None


@BOTH
def test_answers_to_requests_from_before_an_error_are_counted_once(make: Make, clock: Time) -> None:
    one, other = make(), make()
    use(one, clock)
    before = take(one, 10)
    with no_writes():
        during = take(one, 4)
        one.settle(before, 15, NOON + 10)
        one.flush()
    use(other, clock, 2)
    clock.now += RETRY_S
    one.flush()
    assert other.usage.in_flight == 4
    one.settle(during, 17, NOON + 11)
    one.flush()
    usage = other.usage
    assert (usage.used, usage.charged, usage.in_flight, usage.others) == (17, 17, 0, 0)


def test_an_error_while_checking_for_cooldowns_ends_sharing_like_any_other(
    make: Make, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make()
    use(pool, clock)
    for _ in range(2):  # at one instant, so that a lease is taken
        take(pool)
    with failing("pread", errno.EIO):
        take(pool)
    assert short_warnings(caplog) == ["alone"]


@BOTH
def test_an_error_after_long_sharing_is_retried_soon(
    make: Make, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    pool = make()
    with no_writes():
        for _ in range(20):
            use(pool, clock)
            clock.now += MAX_RETRY_S
    use(pool, clock)
    clock.now += 2 * CHECK_S
    with no_writes():
        use(pool, clock)
    clock.now += RETRY_S
    use(pool, clock)
    assert short_warnings(caplog) == ["alone", "again"] * 2


@BOTH
def test_a_refusal_learned_while_alone_reaches_the_others_later(make: Make, clock: Time) -> None:
    one, other = make(), make()
    use(one, clock)
    with no_writes():
        receipt = take(one, 4)
        one.settle_refused(receipt, 5, NOON + 10, 100.0, ban=False)
        one.set_limit(500)
    clock.now += 4 * RETRY_S
    one.flush()
    assert other.usage == one.usage
    assert other.usage.held_until is not None
    assert (other.usage.limit, other.usage.charged) == (500, 5)


# -- real causes -----------------------------------------------------------------------------------


@contextmanager
def limited(what: int, most: int) -> Iterator[None]:
    before = resource.getrlimit(what)
    resource.setrlimit(what, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


def free_descriptor() -> int:
    """The lowest free descriptor, after collecting garbage that might free a lower one."""
    gc.collect()
    number = os.dup(0)
    os.close(number)
    return number


def test_without_a_free_descriptor_a_process_starts_alone_and_joins_later(
    make: Make, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    other = make()
    with limited(resource.RLIMIT_NOFILE, free_descriptor()):
        one = make()
        use(one, clock, 3)
    other.refused(300, ban=True)
    clock.now += 4 * RETRY_S
    assert not isinstance(one.charge(1), Receipt)
    assert other.usage.charged == 3
    assert short_warnings(caplog) == ["alone", "again"]


def test_a_file_that_cannot_grow_ends_sharing_until_it_can(
    make: Make, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    one = make()
    with limited(resource.RLIMIT_FSIZE, PAGE_BYTES):
        use(one, clock, 3)
    assert make().usage.charged == 0
    clock.now += RETRY_S
    one.flush()
    assert make().usage.charged == 3
    assert short_warnings(caplog) == ["alone", "again"]


def test_running_processes_lose_nothing_when_a_logout_removes_the_directory(
    make: Make, clock: Time, budgets: Path
) -> None:
    one, other = make(), make()
    use(one, clock, 10)
    use(other, clock, 20)
    shutil.rmtree(budgets.parent)
    assert one.usage.charged == 10  # from its own books
    use(one, clock, 1)
    use(other, clock, 1)
    assert one.usage == other.usage
    assert one.usage.charged >= 32
    assert one.usage.in_flight == 0
    other.refused(300, ban=True)
    shutil.rmtree(budgets.parent)
    clock.now += 1.0
    assert not isinstance(other.charge(1), Receipt)
    assert make().held_for(ban=True)
    assert not isinstance(one.charge(1), Receipt)


def test_a_directory_that_cannot_be_created_again_ends_sharing_until_it_can(
    make: Make, clock: Time, budgets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = make()
    use(one, clock, 3)
    shutil.rmtree(budgets.parent)
    budgets.parent.write_text("in the way")
    use(one, clock, 4)
    assert short_warnings(caplog) == ["alone"]
    budgets.parent.unlink()
    other = make()
    use(other, clock, 5)
    clock.now += RETRY_S
    use(one, clock, 1)
    assert short_warnings(caplog) == ["alone", "again"]
    assert one.usage.charged == other.usage.charged == 13
    assert one.usage.in_flight == 0


def test_a_directory_that_becomes_writable_for_other_users_is_not_used_until_private(
    make: Make, clock: Time, budgets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = make()
    use(one, clock, 3)
    (budgets / FILE_NAME).unlink()
    budgets.chmod(0o777)
    use(one, clock, 4)
    assert short_warnings(caplog) == ["alone"]
    budgets.chmod(0o700)
    clock.now += RETRY_S
    one.flush()
    assert make().usage.charged == 7


def test_a_record_that_does_not_fit_ends_sharing_but_not_the_call(
    make: Make, clock: Time, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = make(), make()
    use(one, clock)
    with monkeypatch.context() as patch:
        patch.setattr("binance_oi.budget.pool_file.PAGE_BYTES", 100)
        use(one, clock, 2)
    assert short_warnings(caplog) == ["alone"]
    use(other, clock)  # the lock is free
    clock.now += RETRY_S
    one.flush()
    assert other.usage.charged == 4


# -- a file that is deleted or replaced while processes use it -----------------------------------


def another(where: Path, clock: Time) -> Path:
    """Make the file of another budget, with records of a pool of the same name and of another."""
    for name in ("exchange", "another"):
        pool = MachineBudget(directory=where, limit=LIMIT, clock=clock, wall=clock.wall).pool(name)
        take(pool, 3)
        pool.close()
    return where / FILE_NAME


def replace_file(how: str, budgets: Path, clock: Time, early: bytes) -> None:
    file, made = budgets / FILE_NAME, budgets.parent / "made"
    if how == "deleted":
        file.unlink()
    elif how == "moved away":
        file.rename(made)
    elif how == "deleted, and linked elsewhere":
        os.link(file, made)
        file.unlink()
    elif how == "with its directory":
        budgets.rename(made)
    elif how == "replaced by another budget":
        os.replace(another(budgets.parent / "theirs", clock), file)
    else:
        made.write_bytes({"an empty file": b"", "no budget": b"x" * 99, "a copy": early}[how])
        os.replace(made, file)


REPLACED = [
    *("deleted", "moved away", "deleted, and linked elsewhere", "with its directory"),
    *("replaced by another budget", "an empty file", "no budget", "a copy"),
]


@pytest.mark.parametrize("how", REPLACED)
def test_the_last_write_of_another_process_survives_a_replaced_file(
    how: str, make: Make, clock: Time, budgets: Path
) -> None:
    one, other = make(), make()
    use(one, clock, 10)
    early = (budgets / FILE_NAME).read_bytes()
    use(other, clock, 20)
    other.hold(300, ban=True)
    replace_file(how, budgets, clock, early)
    answer = one.charge(1)  # the other process has not written again
    assert isinstance(answer, Wait)
    assert answer.reason is Reason.COOLDOWN
    assert one.held_for(ban=True)
    assert one.usage.charged >= 30
    late = make()  # a process that starts now obeys the ban too
    assert not isinstance(late.charge(1), Receipt)
    assert late.usage.banned_until is not None
    clock.now += 310.0
    use(one, clock, 1)
    clock.now += 5.0  # after a ban, requests go evenly
    use(one, clock, 4)
    use(other, clock, 6)
    assert one.usage == other.usage == late.usage
    assert one.usage.charged >= 11


@pytest.mark.parametrize("how", ["deleted", "moved away", "an empty file", "no budget"])
def test_weight_that_is_carried_into_a_new_file_is_counted_once(
    how: str, make: Make, clock: Time, budgets: Path
) -> None:
    one, other, third = make(), make(), make()
    for n, pool in enumerate((one, other, third)):
        use(pool, clock, 10 + n)
    replace_file(how, budgets, clock, b"")
    for pool in (third, one, other):
        use(pool, clock, 1)
    assert one.usage == other.usage == third.usage
    assert (one.usage.charged, one.usage.in_flight, one.usage.others) == (36, 0, 0)


def test_a_write_into_a_file_that_other_processes_left_is_repeated_in_the_new_one(
    make: Make, clock: Time, budgets: Path
) -> None:
    one, other = make(), make()
    use(one, clock, 10)
    use(other, clock, 20)
    clock.now += 1.0
    assert one._enter()
    (budgets / FILE_NAME).unlink()  # while `one` has the lock
    assert other.charge(1) == Wait(LOCKED_RETRY_S, Reason.STORE_BUSY)
    use(other, clock, 1)
    answer = one._bucket.charge(clock(), 4)
    assert isinstance(answer, Receipt)
    one._bucket.hold(clock(), 300.0, ban=True)
    one._leave(changed=True)  # `one` writes into the old file
    assert one.charge(1) == other.charge(1)
    assert one.usage == other.usage
    assert one.usage.charged == 35
    assert other.usage.banned_until is not None


def cut_off(how: str, file: Path, early: bytes) -> None:
    """Damage the file in place, while processes have it open."""
    if how == "first page overwritten":
        with open(file, "r+b") as opened:
            opened.write(b"x" * PAGE_BYTES)
    elif how == "an older copy":
        file.write_bytes(early)
    else:
        size = {
            "emptied": 0,
            "one byte": 1,
            "no records": PAGE_BYTES,
            "half a record": PAGE_BYTES + 60,
        }[how]
        os.truncate(file, size)


CUT_OFF = [
    *("emptied", "one byte", "no records", "half a record"),
    *("first page overwritten", "an older copy"),
]


@pytest.mark.parametrize("ends", [False, True], ids=["its writer lives", "its writer ends"])
@pytest.mark.parametrize("when", ["before the ban", "after the ban"])
@pytest.mark.parametrize("how", some(CUT_OFF, always=2))
def test_new_processes_obey_a_ban_that_a_process_wrote_after_damage(
    how: str, when: str, ends: bool, make: Make, clock: Time, budgets: Path
) -> None:
    banned = make()
    use(banned, clock, 10)
    early = (budgets / FILE_NAME).read_bytes()
    use(banned, clock, 10)
    if when == "before the ban":
        cut_off(how, budgets / FILE_NAME, early)
        receipt = take(banned)
        banned.settle_refused(receipt, 21, NOON + int(clock.now), 120.0, ban=True)
    else:
        banned.hold(120.0, ban=True)
        cut_off(how, budgets / FILE_NAME, early)
        assert isinstance(banned.charge(1), Wait)
    if ends:
        banned.close()
    late = make()
    answer = late.charge(1)
    assert isinstance(answer, Wait)
    assert answer.reason is Reason.COOLDOWN
    assert late.held_for(ban=True)
    assert late.usage.charged >= 20


@pytest.mark.parametrize("how", CUT_OFF[:-1])
def test_new_processes_obey_a_ban_written_during_damage(
    how: str, make: Make, clock: Time, budgets: Path
) -> None:
    banned = make()
    use(banned, clock, 10)
    assert banned._enter()
    cut_off(how, budgets / FILE_NAME, b"")  # between the lock and the write
    banned._bucket.hold(clock(), 300.0, ban=True)
    banned._leave(changed=True)
    answer = make().charge(1)
    assert isinstance(answer, Wait)
    assert answer.reason is Reason.COOLDOWN


def behind_by_two_files(make: Make, clock: Time, budgets: Path) -> SharedPool:
    """Return a pool whose file was deleted, and then the next file too. The first one has a ban."""
    one, banned = make(), make()
    use(one, clock, 10)
    use(banned, clock, 20)
    banned.hold(600.0, ban=True)
    banned.close()
    (budgets / FILE_NAME).unlink()
    second = make()
    use(second, clock, 3)
    assert second._enter()  # the second process has the lock
    assert one.charge(1) == Wait(LOCKED_RETRY_S, Reason.STORE_BUSY)
    second._leave(changed=False)
    (budgets / FILE_NAME).unlink()
    return one


def test_a_ban_survives_two_files_deleted_before_the_lock_is_free(
    make: Make, clock: Time, budgets: Path
) -> None:
    one = behind_by_two_files(make, clock, budgets)
    answer = one.charge(1)
    assert isinstance(answer, Wait)
    assert answer.reason is Reason.COOLDOWN
    assert one.held_for(ban=True)
    assert one.usage.charged >= 33
    assert make().charge(1) == answer


def test_a_ban_survives_two_deleted_files_without_a_new_one(
    make: Make, clock: Time, budgets: Path
) -> None:
    one = behind_by_two_files(make, clock, budgets)
    with failing("open", errno.EMFILE):
        answer = one.charge(1)
    assert isinstance(answer, Wait)
    assert answer.reason is Reason.COOLDOWN


def test_a_ban_survives_a_deleted_file_that_another_process_had_emptied(
    make: Make, clock: Time, budgets: Path
) -> None:
    banned = make()
    use(banned, clock, 10)
    banned.hold(600.0, ban=True)
    os.truncate(budgets / FILE_NAME, 0)
    use(make(), clock, 3)  # this process does not know the ban
    (budgets / FILE_NAME).unlink()
    last = make()
    use(last, clock, 4)
    answer = banned.charge(1)
    assert isinstance(answer, Wait)
    assert answer.reason is Reason.COOLDOWN
    assert last.charge(1) == answer
    assert last.usage.charged >= 17


def test_a_request_that_waits_for_its_connection_is_not_sent_into_a_ban_in_another_file(
    make: Make, clock: Time, budgets: Path
) -> None:
    one, other = make(), make()
    use(other, clock, 20)
    receipt = take(one, 1)
    (budgets / FILE_NAME).unlink()
    other.hold(300, ban=True)
    clock.now += 1.0
    assert one.sending(receipt) is None
    assert one.held_for(ban=True)


@pytest.mark.parametrize("how", ["with its directory", "deleted"])
def test_a_ban_survives_a_deleted_file_without_a_new_one(
    how: str, make: Make, clock: Time, budgets: Path
) -> None:
    one, other = make(), make()
    use(one, clock, 10)
    use(other, clock, 20)
    other.hold(300, ban=True)
    replace_file(how, budgets, clock, b"")
    if how == "deleted":
        (budgets / FILE_NAME).mkdir()
    else:
        budgets.write_text("in the way")
    answer = one.charge(1)
    assert isinstance(answer, Wait)
    assert answer.reason is Reason.COOLDOWN
    assert one.usage.charged == 30


PROCESS = r"""
import sys
from pathlib import Path
from binance_oi.budget import MachineBudget
from binance_oi.budget.usage import Wait
pool = MachineBudget(directory=Path(sys.argv[1]), limit=1000).pool("exchange")
while isinstance(first := pool.charge(1), Wait):
    pass  # the other process probes
pool.settle(first, 1, None)
pool.flush()
print("charged", flush=True)
for line in sys.stdin:
    if line == "ban\n":
        pool.hold(86_400.0, ban=True)
        print("banned", flush=True)
    else:
        print(type(pool.charge(1)).__name__, flush=True)
"""


@pytest.mark.parametrize(
    "how", ["deleted", *thorough("replaced by another budget", "an empty file")]
)
def test_a_ban_of_a_real_process_survives_its_file(how: str, budgets: Path, clock: Time) -> None:
    command = [sys.executable, "-c", PROCESS, str(budgets)]
    with (
        subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as one,
        subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as other,
    ):

        def ask(process: subprocess.Popen[str], question: str) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(question + "\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        for process in (one, other):
            assert process.stdout is not None
            assert process.stdout.readline() == "charged\n"
        assert ask(other, "ban") == "banned"
        replace_file(how, budgets, clock, b"")
        assert ask(one, "charge") == "Wait"
        assert MachineBudget(directory=budgets).pool("exchange").held_for(ban=True)
        assert ask(other, "charge") == "Wait"


@BOTH
@pytest.mark.parametrize("days", [2, 30, 400])
def test_a_process_continues_sharing_after_a_long_sleep(
    days: int, make: Make, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = make(), make()
    use(one, clock, 10)
    clock.now += 86_400.0 * days
    use(one, clock, 2)
    use(other, clock, 3)
    assert one.usage == other.usage
    assert one.usage.charged >= 5
    assert "is not shared" not in caplog.text


@BOTH
def test_a_large_record_does_not_end_sharing(
    make: Make, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    clock.now = 1e6 + 30.0
    one, other = make(), make()
    one.set_limits(10**9, [Limit(10 + n, 10**9, False) for n in range(8)])
    use(one, clock)
    sent = 0
    for n in range(400):
        clock.now += 0.3
        for pool in (one, other):
            answer = pool.charge(700_000 + n)
            if isinstance(answer, Receipt):
                sent += 1
                if n % 3:
                    pool.lose(answer)
                else:
                    pool.settle(answer, pool.usage.used, NOON + int(clock.now))
    one.flush()
    other.flush()
    assert sent > 200
    assert one.usage == other.usage
    assert short_warnings(caplog) == []


# -- a store in memory ---------------------------------------------------------------------------


IN_MEMORY = pytest.mark.parametrize("make", ["memory"], indirect=True)


@IN_MEMORY
def test_a_store_that_refuses_its_lock_delays_no_call(
    make: Make, memory: Memory, clock: Time
) -> None:
    one, other = make(), make()
    use(one, clock, 10)
    flying = take(one, 5)
    memory.is_locked = True
    assert one.charge(1) == other.charge(1) == Wait(LOCKED_RETRY_S, Reason.STORE_BUSY)
    one.settle(flying, 15, NOON + 10)
    one.hold(300.0, ban=True)
    assert other.usage.banned_until is None
    memory.is_locked = False
    one.flush()
    assert (other.usage.charged, other.usage.in_flight) == (15, 0)
    assert other.usage.banned_until is not None


@IN_MEMORY
def test_every_process_restores_its_weight_in_a_store_that_lost_its_record(
    make: Make, memory: Memory, clock: Time
) -> None:
    one, other = make(), make()
    use(one, clock, 10)
    use(other, clock, 20)
    memory.lose()
    for pool in (one, other):
        use(pool, clock, 1)
    one.flush()
    assert one.usage == other.usage == make().usage
    assert one.usage.charged >= 32


@IN_MEMORY
@pytest.mark.parametrize("is_copy", [False, True])
def test_the_last_write_of_another_process_survives_a_replaced_store(
    make: Make, memory: Memory, clock: Time, is_copy: bool
) -> None:
    one, other = make(), make()
    use(one, clock, 10)
    early = memory.copy()
    use(other, clock, 20)
    other.hold(300, ban=True)
    memory.replace(early if is_copy else None)
    answer = one.charge(1)  # the other process has not written again
    assert isinstance(answer, Wait)
    assert answer.reason is Reason.COOLDOWN
    assert one.usage.charged >= 30
    assert make().usage.banned_until is not None


@IN_MEMORY
def test_a_ban_survives_a_replaced_store_whatever_else_its_record_contains(
    make: Make, memory: Memory, clock: Time
) -> None:
    one, other = make(), make()
    use(one, clock, 10)
    other.hold(300, ban=True)
    clock.now += 1.0
    other.charge(1)
    other._bucket.known.clock.hi = 1e15
    other._leave(changed=True)
    memory.replace()
    use(make(), clock, 2)  # a process has started a new record there
    assert isinstance(one.charge(1), Wait)
    assert one.usage.banned_until is not None
    assert one.usage.charged == 12


@IN_MEMORY
def test_an_unreadable_record_of_a_replaced_store_changes_nothing(
    make: Make, memory: Memory, clock: Time
) -> None:
    one = make()
    use(one, clock, 10)
    memory.cell.record = b"x"
    memory.replace()
    use(make(), clock, 2)
    use(one, clock, 1)
    assert one.usage == make().usage
    assert one.usage.charged == 13


@IN_MEMORY
def test_replacing_a_store_before_a_process_returns_loses_no_weight_of_either_side(
    make: Make, memory: Memory, clock: Time
) -> None:
    one, other = make(), make()
    use(one, clock, 10)
    use(other, clock, 5)
    with no_writes():
        use(one, clock, 3)
    clock.now += RETRY_S
    memory.is_locked = True
    assert one.charge(1) == Wait(LOCKED_RETRY_S, Reason.STORE_BUSY)
    memory.replace()
    memory.is_locked = False
    use(make(), clock, 2)
    one.flush()
    use(other, clock, 1)
    assert one.usage == other.usage == make().usage
    assert one.usage.charged >= 21  # weight that both sides knew may count twice


@IN_MEMORY
def test_a_store_that_fails_the_check_for_cooldowns_shows_its_last_record(
    make: Make, clock: Time
) -> None:
    one, other = make(), make()
    other.hold(300, ban=True)
    with failing("is_cooldown_new", errno.EIO):
        assert one.held_for(ban=True) == other.held_for(ban=True) > 0.0


@IN_MEMORY
def test_leaving_an_empty_store_for_another_one_leaves_the_first_one_empty(
    make: Make, memory: Memory, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make()
    elsewhere = Memory()
    monkeypatch.setattr(Memory, "store", lambda *_: MemoryStore(elsewhere))
    clock.now += CHECK_S
    use(one, clock, 3)
    assert (make().usage.charged, memory.cell.record) == (3, b"")


@IN_MEMORY
def test_a_store_in_another_directory_takes_over_the_earlier_record(
    make: Make, memory: Memory, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make()
    use(one, clock, 10)
    elsewhere = Memory()
    monkeypatch.setattr(Memory, "store", lambda *_: MemoryStore(elsewhere))
    clock.now += CHECK_S
    newcomer = make()
    assert newcomer.usage.charged == 0
    one.refused(300, ban=True)
    assert newcomer.usage.banned_until is not None
    assert memory.cell.holder is None


@IN_MEMORY
def test_calls_that_a_lease_covers_take_no_lock(make: Make, memory: Memory, clock: Time) -> None:
    pool = make()
    use(pool, clock)
    take(pool)
    take(pool)  # at one instant, so that a lease is taken
    before = memory.locks
    for _ in range(MAX_LEASED_CALLS):
        take(pool)
    assert memory.locks == before


# -- another directory, another record -----------------------------------------------------------


def test_after_the_directory_changes_all_processes_share_again_within_a_minute(
    tmp_path: Path, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(place.VARIABLE)
    places = [tmp_path / "first", tmp_path / "second"]
    places[1].mkdir()
    monkeypatch.setattr(place, "PLACES", tuple(map(str, places)))

    def make() -> Pool:
        budget = MachineBudget(limit=LIMIT, reserve=0, clock=clock, wall=clock.wall)
        return budget.pool("exchange")

    early = make()
    use(early, clock, 5)
    clock.now = 61.0
    use(early, clock, 6)
    places[0].mkdir()  # as if a file system was mounted late
    late = make()
    use(late, clock, 3)
    clock.now = 61.0 + CHECK_S - 3.0
    late.refused(300, ban=True)
    clock.now = 10.0 + CHECK_S + 1.0
    assert not isinstance(early.charge(1), Receipt)
    assert early.held_for(ban=True) == pytest.approx(late.held_for(ban=True))
    assert early.held_for(ban=True) > 300.0
    assert early.usage == late.usage
    assert early.usage.charged == 9


def test_a_process_restores_its_weight_in_a_record_that_another_one_restarted(
    make: Make, clock: Time, budgets: Path
) -> None:
    one, other = make(), make()
    use(one, clock, 10)
    flying = take(one, 5)
    assert other.usage.charged == 15
    page = bytearray((budgets / FILE_NAME).read_bytes())
    page[PAGE_BYTES + 60] ^= 1  # so that the checksum is wrong
    (budgets / FILE_NAME).write_bytes(page)
    newcomer = make()
    use(newcomer, clock, 1)
    one.settle(flying, 16, NOON + 10)
    one.flush()
    assert make().usage.charged >= 16


def test_a_process_restores_its_weight_in_a_record_deleted_while_it_was_alone(
    make: Make, clock: Time, budgets: Path
) -> None:
    one = make()
    use(one, clock, 10)
    with no_writes():
        use(one, clock, 5)
    shutil.rmtree(budgets)
    other = make()
    use(other, clock, 2)
    clock.now += RETRY_S
    one.flush()
    assert one.usage == other.usage
    assert one.usage.charged == 17


@BOTH
def test_replacing_an_impossible_record_loses_no_known_weight(make: Make, clock: Time) -> None:
    one, broken = make(), make()
    use(one, clock, 10)
    assert broken.charge(2 * LIMIT) == Wait(None, Reason.TOO_HEAVY)
    broken._bucket.known.clock.hi = 1e15
    broken._store.lock()  # type: ignore[union-attr]
    broken._leave(changed=True)
    newcomer = make()
    use(newcomer, clock, 1)
    assert newcomer.usage.charged == 1
    one.charge(1)
    assert newcomer.usage.charged == 12


def test_an_answer_to_a_forgotten_minute_still_raises_the_count(make: Make, clock: Time) -> None:
    one, other = make(), make()
    use(one, clock)
    flying = take(one, 5)
    file = PoolFile(one._store.path.parent, "exchange")  # type: ignore[union-attr]
    other.charge(1)
    other._bucket.known.ledger.minutes.clear()
    other._leave(changed=True)
    assert file.peek()
    one._bucket.known.ledger.minutes.clear()
    one.settle(flying, 6, NOON + 10)
    one.flush()
    assert one.usage.used >= 6


# -- from another thread ---------------------------------------------------------------------------


@contextmanager
def looking(*looks: Callable[[], object], threads: int = 4) -> Iterator[list[BaseException]]:
    """Run threads that call `looks` again and again; yield the list of the threads' errors.

    Python switches between threads as often as possible. Each thread calls them at least once, even
    on a machine so busy that it runs only after the block.
    """
    errors: list[BaseException] = []
    stop = threading.Event()
    began = threading.Barrier(threads + 1)

    def run() -> None:
        began.wait(60)
        try:
            while True:
                for look in looks:
                    look()
                if stop.is_set():
                    break
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=run) for _ in range(threads)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in running:
            thread.start()
        began.wait(60)
        yield errors
    finally:
        stop.set()
        for thread in running:
            thread.join(120)
        sys.setswitchinterval(interval)


def make_kind(kind: str, budgets: Path, clock: Time) -> Pool:
    """A pool of one process, a shared pool, or a pool that cannot be shared now."""
    options = {"limit": 10**6, "reserve": 0, "clock": clock, "wall": clock.wall}
    if kind == "process":
        return ProcessBudget(**options).pool("exchange")  # type: ignore[arg-type]
    budget = MachineBudget(directory=budgets, **options)  # type: ignore[arg-type]
    if kind == "machine":
        return budget.pool("exchange")
    with failing("open", errno.EMFILE):
        return budget.pool("exchange")


@pytest.mark.parametrize("kind", ["machine", *thorough("process", "alone")])
def test_any_thread_may_read_the_books_and_they_stay_exact(
    kind: str, budgets: Path, clock: Time
) -> None:
    count = 1500
    pool = make_kind(kind, budgets, clock)
    seen: list[tuple[int, int, int]] = []

    def look() -> None:
        usage = pool.usage
        seen.append((usage.charged, usage.in_flight, usage.others))

    def look_around() -> None:
        assert not pool.held_for(ban=True)
        assert repr(pool)

    first = take(pool)
    pool.settle(first, 1, NOON + 10)
    with looking(look, look_around) as errors:
        flying: list[Receipt] = []
        for number in range(2, count + 1):
            flying.append(take(pool))
            if len(flying) == 10:
                for k, receipt in enumerate(flying):
                    pool.settle(receipt, number - 9 + k, NOON + 10)
                flying.clear()
        for k, receipt in enumerate(flying):  # in order: a jump would count as use by others
            pool.settle(receipt, count - len(flying) + 1 + k, NOON + 10)
        pool.flush()
    assert errors == []
    usage = pool.usage
    assert (usage.charged, usage.used, usage.in_flight, usage.others) == (count, count, 0, 0)
    assert seen
    for charged, in_flight, others in seen:
        assert 0 <= in_flight <= charged <= count
        assert others == 0


def changes_of(pool: Pool, clock: Time) -> Iterator[Callable[[], object]]:
    """Yield changes of many kinds, in an order in which each changes many values of the books."""
    date, flying = NOON + 10, list[Receipt]()

    def charge(weight: int = 1) -> None:
        flying.append(take(pool, weight))

    def ask_again() -> None:
        receipt = pool.sending(flying.pop())
        assert receipt is not None
        flying.append(receipt)

    def settle(used: int, date: float | None = date) -> None:
        pool.settle(flying.pop(0), used, date)

    yield charge
    yield lambda: settle(1)
    for weight in (3, 1, 1, 1, 1, 1, 1):  # the last charges use a lease
        yield partial(charge, weight)
    yield lambda: clock.move(3.0)
    yield ask_again
    yield lambda: pool.lose(flying.pop())
    yield lambda: pool.refund(flying.pop())
    yield lambda: settle(4)
    yield lambda: settle(90)  # a count that shows weight of others
    yield lambda: pool.set_limit(5000)
    yield lambda: pool.set_limits(6000, [Limit(10, 400, False), Limit(86_400, 10**6, True)])
    yield partial(charge, 2)
    yield lambda: pool.settle(flying.pop(), None, None)
    yield lambda: clock.move(41.0)
    yield partial(charge, 5)  # either of two minutes may count it
    yield lambda: pool.settle(flying.pop(), 5, NOON + 54)
    yield partial(charge, 5)
    yield lambda: pool.refund(flying.pop())
    yield lambda: clock.move(30.0)
    yield partial(charge, 5)
    yield lambda: pool.settle(flying.pop(), 5, NOON + 84)  # the new minute counted it
    yield partial(charge, 5)
    yield lambda: pool.settle_refused(flying.pop(), 20, NOON + 84, 0.0, ban=False)
    yield lambda: pool.refused(2.0)
    yield lambda: pool.hold(90.0)
    yield lambda: pool.hold_until(NOON + 600, ban=True)
    yield lambda: settle(7)
    yield pool.flush


@contextmanager
def stopping(before: Callable[[], object], *files: str) -> Iterator[None]:
    """Call `before` ahead of every bytecode instruction that this thread runs in these files."""

    def trace(frame: FrameType, event: str, _argument: object) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.endswith(files):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            before()
        return trace

    earlier = sys.gettrace()
    # Python 3.12.0 to 3.12.3 trace opcodes only if a frame asked for it before `settrace`.
    sys._getframe().f_trace_opcodes = True
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(earlier)


class NotNowError(Exception):
    """A reader would have to wait, and raises this instead."""


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadPoolExecutor]:
    """Run another thread that raises `NotNowError` instead of waiting for the end of a change."""

    def sleep(_seconds: float) -> None:
        raise NotNowError

    monkeypatch.setattr(time, "sleep", sleep)
    with ThreadPoolExecutor(1) as thread:
        yield thread


MODULES = (
    *("pool.py", "stored.py", "shared.py", "bucket.py", "ledger.py", "attribution.py", "others.py"),
    "server_clock.py",
)


@pytest.mark.thorough  # the next test always runs
@pytest.mark.parametrize("kind", ["machine", "process", "alone"])
def test_another_thread_never_sees_half_of_a_change(
    kind: str, budgets: Path, clock: Time, reader: ThreadPoolExecutor
) -> None:
    pool, seen, waits = make_kind(kind, budgets, clock), list[Usage | str](), 0

    def look() -> None:
        nonlocal waits
        looks: list[Callable[[], Usage | str]] = [lambda: pool.usage, lambda: repr(pool)]
        for each in looks:
            try:
                seen.append(reader.submit(each).result())
            except NotNowError:
                waits += 1

    for change in changes_of(pool, clock):
        allowed: list[Usage | str] = [pool.usage, repr(pool)]
        seen.clear()
        with stopping(look, *MODULES):
            change()
        allowed += [pool.usage, repr(pool)]
        assert [each for each in seen if each not in allowed] == []
    assert waits > 1000


@pytest.mark.parametrize("kind", ["machine", *thorough("process", "alone")])
def test_a_change_during_a_view_is_seen_completely_or_not_at_all(
    kind: str, budgets: Path, clock: Time
) -> None:
    pool, moment, steps = make_kind(kind, budgets, clock), 0, 0
    pool.settle(take(pool), 1, NOON + 10)
    pool.flush()

    def change() -> None:
        nonlocal steps
        steps += 1
        if steps == moment:
            charger.submit(pool.hold, 60.0 + moment).result()
            charger.submit(pool.set_limit, 5000 + moment).result()

    with ThreadPoolExecutor(1) as charger:
        while steps >= moment:
            moment, steps = moment + 1, 0
            before = pool.usage
            with stopping(change, *MODULES):
                usage = pool.usage
            assert usage in (before, pool.usage)
    assert moment > 100


def test_a_view_waits_for_a_slow_change(clock: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ProcessBudget(limit=LIMIT, clock=clock, wall=clock.wall).pool("exchange")
    began, go_on, waited = threading.Event(), threading.Event(), 0.0
    apply_limit = pool_module.apply_limit

    def slow(limit: int, bucket: Bucket) -> None:
        bucket.known.limit = limit // 2
        began.set()
        assert go_on.wait(120)
        apply_limit(limit, bucket)

    def count(seconds: float) -> None:
        nonlocal waited
        waited += seconds
        if waited > 0.1:  # s; a change may last so long if its thread waits for a core
            go_on.set()
            changer.join(120)

    monkeypatch.setattr(pool_module, "apply_limit", slow)
    monkeypatch.setattr(time, "sleep", count)
    changer = threading.Thread(target=pool.set_limit, args=(500,))
    changer.start()
    assert began.wait(120)
    assert pool.usage.limit == 500
    changer.join(120)


def test_a_view_during_an_endless_change_shows_the_current_books(
    clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ProcessBudget(limit=LIMIT, clock=clock, wall=clock.wall).pool("exchange")
    take(pool, 5)
    pool.begun += 1  # as if by another thread
    pool.changer = 0
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    assert pool.usage.charged == 5
    assert len(pauses) == pool_module.MAX_VIEWS


def test_a_view_inside_a_change_of_its_own_thread_does_not_wait(
    clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ProcessBudget(limit=LIMIT, clock=clock, wall=clock.wall).pool("exchange")
    seen: list[Usage] = []

    def interrupted(limit: int, bucket: Bucket) -> None:
        bucket.known.limit = limit
        seen.append(pool.usage)  # as a signal handler may do

    def sleep(_seconds: float) -> None:
        raise NotNowError

    monkeypatch.setattr(pool_module, "apply_limit", interrupted)
    monkeypatch.setattr(time, "sleep", sleep)
    pool.set_limit(500)
    assert [usage.limit for usage in seen] == [500]


def test_a_view_changes_neither_the_file_nor_the_pool(
    make: Make, clock: Time, budgets: Path
) -> None:
    one, other = make(), make()
    use(one, clock)
    one.settle(take(one, 3), 4, NOON + 10)  # not written yet
    for _ in range(3):  # some of these charges use a lease
        take(one)
    other.refused(10.0)
    content = (budgets / FILE_NAME).read_bytes()
    objects = one._late, one._leased, one._bucket.known
    inside = [list(one._late), list(one._leased), repr(one._bucket.known)]
    for _ in range(3):
        assert one.usage.held_until is not None
        assert not one.held_for(ban=True)
        assert repr(one)
    assert (budgets / FILE_NAME).read_bytes() == content
    after = one._late, one._leased, one._bucket.known
    assert all(same is before for same, before in zip(after, objects, strict=True))
    assert inside == [list(one._late), list(one._leased), repr(one._bucket.known)]


def test_a_view_needs_no_lock_and_keeps_no_descriptor(
    make: Make, clock: Time, budgets: Path
) -> None:
    one, other = make(), make()
    use(one, clock, 5)
    with open(budgets / FILE_NAME, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert other.usage.charged == 5
    with limited(resource.RLIMIT_NOFILE, free_descriptor()):
        assert one.usage.charged == 5


def test_a_view_of_ever_changing_books_shows_the_last_record(
    make: Make, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make()
    use(pool, clock, 5)
    peek = PoolFile.peek

    def busy(file: PoolFile) -> bytes:
        pool.flush()  # as if the loop changed the books now
        return peek(file)

    monkeypatch.setattr(PoolFile, "peek", busy)
    assert pool.usage.charged == 5


def test_two_threads_get_the_same_pool(budgets: Path) -> None:
    budget = MachineBudget(directory=budgets)
    pools: list[Pool] = []
    with looking(lambda: pools.append(budget.pool("exchange"))):
        pools.append(budget.pool("exchange"))
    assert len(set(map(id, pools))) == 1


def test_processes_continue_sharing_after_the_largest_sequence_number(
    make: Make, clock: Time
) -> None:
    one, other = make(), make()
    use(one, clock)
    use(other, clock)
    store = one._store
    assert isinstance(store, PoolFile)
    store.lock()
    store.read()
    store._sequence = 2**64 - 2
    store.write(store.peek())
    store.unlock()
    for pool in (other, one, make()):
        use(pool, clock)
    assert make().usage.charged >= 5
    assert one.usage == other.usage


# -- a budget that is used on both sides of a fork -----------------------------------------------


def busy(make: Make, clock: Time) -> tuple[SharedPool, list[Receipt]]:
    """A pool with 3 calls under way, 2 settlements not written yet, and a lease."""
    pool = make()
    use(pool, clock)
    flying = [take(pool) for _ in range(5)]
    for receipt in flying[3:]:
        pool.settle(receipt, 6, NOON + int(clock.now))
    assert pool._late
    assert pool._leased
    return pool, flying[:3]


def give_back(pool: SharedPool, receipts: list[Receipt], how: str) -> None:
    """Give the receipts back; `how` is the method of the pool to call."""
    for receipt in receipts:
        if how == "settle":
            pool.settle(receipt, 7, NOON + 10)
        elif how == "settle_refused":
            pool.settle_refused(receipt, 7, NOON + 10, 0.0, ban=False)
        else:
            getattr(pool, how)(receipt)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("how", ["settle", "lose", "refund"])
@pytest.mark.parametrize("first", ["child", "parent"])
def test_a_forked_child_does_not_repeat_the_changes_of_its_parent(
    how: str, first: str, make: Make, clock: Time
) -> None:
    pool, flying = busy(make, clock)
    if first == "parent":
        make().set_limit(LIMIT)  # another process writes, so the child's copy is outdated
    wait_for_parent, parent_done = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            if first == "parent":
                os.read(wait_for_parent, 1)
            give_back(pool, flying, how)
            use(pool, clock)
            code = 0
        finally:
            os._exit(code)
    if first == "parent":
        pool.flush()
        os.write(parent_done, b"!")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(wait_for_parent)
    os.close(parent_done)
    pool.flush()
    usage = make().usage
    assert (usage.charged, usage.in_flight) == (7, 3)  # 6 of the parent, 1 of the child
    give_back(pool, flying, "settle")
    pool.flush()
    assert (make().usage.charged, make().usage.in_flight) == (7, 0)


@BOTH
@pytest.mark.parametrize("how", ["settle", "lose", "refund", "settle_refused"])
def test_a_forked_child_does_not_settle_calls_of_its_parent(
    how: str, make: Make, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, flying = busy(make, clock)
    monkeypatch.setattr(fork, "current", object())  # as if we were the child
    assert pool.usage.in_flight > 3  # the parent has not written its settlements yet
    assert all(pool.sending(receipt) is None for receipt in flying)
    before = make().usage
    give_back(pool, flying, how)
    pool.flush()
    after = make().usage
    assert (after.charged, after.in_flight) == (before.charged, before.in_flight)
    assert (after.held_until is None) is (how != "settle_refused")


@BOTH
def test_a_forked_child_settles_its_own_calls_even_at_the_instant_of_the_fork(
    make: Make, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, _ = busy(make, clock)
    pool.flush()
    charged, in_flight = pool.usage.charged, pool.usage.in_flight
    monkeypatch.setattr(fork, "current", object())
    receipt = take(pool)
    assert pool.sending(receipt) is receipt
    pool.flush()
    assert pool.usage.in_flight == in_flight + 1
    pool.settle(receipt, charged + 1, NOON + int(clock.now))
    pool.flush()
    assert (pool.usage.charged, pool.usage.in_flight) == (charged + 1, in_flight)


def test_a_forked_child_does_not_write_what_its_parent_charged_alone(
    make: Make, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, other = make(), make()
    use(other, clock)
    with failing("flock", errno.EIO):
        use(pool, clock, 5)
    assert pool.usage.charged >= 5
    monkeypatch.setattr(fork, "current", object())
    clock.now += MAX_RETRY_S
    use(pool, clock, 2)
    assert other.usage.charged == 3


def test_a_forked_child_obeys_a_cooldown_that_its_parent_could_not_write(
    make: Make, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, other = make(), make()
    use(pool, clock)
    with failing("flock", errno.EWOULDBLOCK):
        pool.hold(300, ban=True)
    assert not other.held_for(ban=True)
    monkeypatch.setattr(fork, "current", object())
    assert not isinstance(pool.charge(1), Receipt)
    assert pool.held_for(ban=True)
    assert other.usage.banned_until is not None


def test_a_budget_closed_before_a_fork_stays_closed(
    make: Make, clock: Time, monkeypatch: pytest.MonkeyPatch, budgets: Path
) -> None:
    pool = make()
    use(pool, clock)
    pool.close()
    shutil.rmtree(budgets)
    monkeypatch.setattr(fork, "current", object())
    take(pool)
    assert not budgets.exists()
