"""Reading the shared file returns a complete record that this package wrote, or nothing.

Rule of this file: two `PoolFile` objects stand for two processes, because a lock belongs to an
open file and not to a process.
"""

import errno
import importlib.util
import logging
import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from binance_oi import fork
from binance_oi.budget import pool_file
from binance_oi.budget.pool_file import (
    FILE_NAME,
    MAGIC,
    MAX_RECORDS,
    PAGE_BYTES,
    STUCK_S,
    STUCK_TRIES,
    UNUSED_LOCAL_S,
    UNUSED_S,
    PoolFile,
    read_records,
)

if sys.platform != "win32":
    import fcntl
    import resource


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the shared file needs POSIX locks")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "budgets"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stop both clocks, and return a function that advances them."""
    moved = [0.0]

    def move(seconds: float) -> None:
        moved[0] += seconds

    monotonic, wall = time.monotonic(), time.time()
    monkeypatch.setattr(time, "monotonic", lambda: monotonic + moved[0])
    monkeypatch.setattr(time, "time", lambda: wall + moved[0])
    return move


def exchange(file: PoolFile, record: bytes | None = None, until: float = 0.0) -> bytes | None:
    """Take the lock, read the record, and write `record` if it is given; return what was read."""
    assert file.lock()
    found = file.read()
    if record is not None:
        file.write(record, until)
    file.unlock()
    return found


def test_a_process_reads_the_record_that_another_process_wrote(place: Path) -> None:
    one, other = PoolFile(place, "a"), PoolFile(place, "a")
    assert exchange(one, b"first") == b""
    assert exchange(other, b"second") == b"first"
    assert exchange(one) == b"second"
    assert exchange(one) is None  # no other process has written


def count_to(file: PoolFile, sequence: int) -> None:
    """Write a complete record with this sequence number."""
    assert file.lock()
    file.read()
    file._sequence = sequence - 1
    file.write(b"late")
    file.unlock()


@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_sequence_at_its_largest_value_starts_a_new_lineage_with_the_same_record(
    place: Path, before: int
) -> None:
    one, other = PoolFile(place, "a"), PoolFile(place, "a")
    exchange(other, b"first")
    count_to(one, 2**64 - 1 - before)
    for n in range(4):
        assert exchange(other, b"theirs %d" % n) == (b"ours %d" % (n - 1) if n else b"late")
        assert exchange(one, b"ours %d" % n) == b"theirs %d" % n
    assert exchange(PoolFile(place, "a"), b"new") == b"ours 3"


def test_each_pool_has_its_own_record(place: Path) -> None:
    one, other = PoolFile(place, "a"), PoolFile(place, "b")
    exchange(one, b"of a")
    assert exchange(other, b"of b") == b""
    assert sorted(read_records(place)) == [b"of a", b"of b"]
    assert exchange(PoolFile(place, "a")) == b"of a"


def test_only_one_process_has_the_lock_and_none_waits_for_it(place: Path) -> None:
    one, other = PoolFile(place, "a"), PoolFile(place, "a")
    assert one.lock()
    assert not other.lock()
    one.unlock()
    assert other.lock()


def test_closing_a_file_releases_its_lock(place: Path) -> None:
    one, other = PoolFile(place, "a"), PoolFile(place, "a")
    assert one.lock()
    one.close()
    assert other.lock()


def test_no_other_user_can_read_the_file(place: Path) -> None:
    PoolFile(place, "a")
    assert stat.S_IMODE((place / FILE_NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_a_file_that_other_users_could_read_becomes_private(place: Path) -> None:
    PoolFile(place, "a")
    (place / FILE_NAME).chmod(0o644)
    PoolFile(place, "a")
    assert stat.S_IMODE((place / FILE_NAME).stat().st_mode) == 0o600


def test_a_directory_that_other_users_can_write_to_is_refused(place: Path) -> None:
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(PermissionError):
        PoolFile(place, "a")


def test_a_file_of_another_user_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PoolFile(place, "a")
    owner = os.lstat(place)
    monkeypatch.setattr(os, "getuid", lambda: owner.st_uid + 1)
    theirs = os.stat_result((owner.st_mode, 0, 0, 0, owner.st_uid + 1, 0, 0, 0, 0, 0))
    monkeypatch.setattr(os, "lstat", lambda _path: theirs)
    with pytest.raises(PermissionError, match=FILE_NAME):
        PoolFile(place, "a")


def test_a_symbolic_link_is_refused(place: Path) -> None:
    place.mkdir(mode=0o700)
    (place / FILE_NAME).symlink_to(place / "elsewhere")
    with pytest.raises(OSError, match=FILE_NAME):
        PoolFile(place, "a")


def test_without_file_locks_the_file_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    spec = importlib.util.spec_from_file_location("pool_file_elsewhere", pool_file.__file__)
    assert spec is not None
    assert spec.loader is not None
    elsewhere = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(elsewhere)
    with pytest.raises(OSError, match="not available"):
        elsewhere.PoolFile(place, "a")


@pytest.mark.parametrize("content", [b"x", b"binance-oi budget 0\n" + bytes(9000), b"{}" * 5000])
def test_a_foreign_or_older_file_is_replaced_with_a_warning(
    place: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    place.mkdir(mode=0o700)
    (place / FILE_NAME).write_bytes(content)
    assert exchange(PoolFile(place, "a"), b"new") == b""
    assert exchange(PoolFile(place, "a")) == b"new"
    assert (place / FILE_NAME).read_bytes().startswith(MAGIC)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def damage(place: Path, offset: int, content: bytes) -> None:
    """Write other bytes at `offset` of the first record."""
    with open(place / FILE_NAME, "r+b") as file:
        file.seek(PAGE_BYTES + offset)
        before = file.read(len(content))
        file.seek(PAGE_BYTES + offset)
        file.write(content if content != before else bytes(len(content)))


@pytest.mark.parametrize("offset", [0, 4, 49], ids=["checksum", "length", "record"])
def test_a_damaged_record_is_not_trusted(
    place: Path, offset: int, caplog: pytest.LogCaptureFixture
) -> None:
    exchange(PoolFile(place, "a"), b"a record")
    damage(place, offset, b"\xff")
    assert exchange(file := PoolFile(place, "a"), b"new") == b""
    assert exchange(PoolFile(place, "a")) == b"new"
    assert exchange(file) is None
    assert "damaged" in caplog.text


def test_damage_after_a_read_is_noticed_by_the_next_read(place: Path) -> None:
    file = PoolFile(place, "a")
    exchange(file, b"a record")
    damage(place, 8, bytes(8))  # the sequence number
    assert exchange(file, b"new") == b""
    assert exchange(PoolFile(place, "a")) == b"new"


@pytest.mark.parametrize("size", [len(MAGIC), PAGE_BYTES + 20, PAGE_BYTES + 60])
def test_a_truncated_file_starts_empty(place: Path, size: int) -> None:
    file = PoolFile(place, "a")
    exchange(file, b"a longer record than twenty bytes")
    os.truncate(place / FILE_NAME, size)
    exchange(file, b"again")
    assert exchange(PoolFile(place, "a")) == b"again"


@pytest.mark.parametrize(
    "size", [0, 1, len(MAGIC) - 1, len(MAGIC), PAGE_BYTES, PAGE_BYTES + 20, PAGE_BYTES + 60]
)
def test_later_processes_find_a_record_written_after_a_truncation(place: Path, size: int) -> None:
    one = PoolFile(place, "a")
    exchange(one, b"a longer record than twenty bytes")
    os.truncate(place / FILE_NAME, size)
    assert exchange(one) == b""  # None would mean "unchanged"; now the pool writes its record again
    exchange(one, b"again")
    assert (place / FILE_NAME).read_bytes().startswith(MAGIC)
    assert exchange(PoolFile(place, "a")) == b"again"
    assert exchange(one) is None


@pytest.mark.parametrize("first", [b"", b"x", b"{}" * (PAGE_BYTES // 2), bytes(PAGE_BYTES)])
def test_an_overwritten_first_page_loses_no_record(
    place: Path, first: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = PoolFile(place, "a"), PoolFile(place, "b")
    exchange(one, b"of a")
    exchange(other, b"of b")
    with open(place / FILE_NAME, "r+b") as file:
        file.write(first.ljust(len(MAGIC), b"\0"))
    assert exchange(PoolFile(place, "a")) == b"of a"
    assert exchange(PoolFile(place, "b")) == b"of b"
    assert exchange(one) is None
    assert (place / FILE_NAME).read_bytes().startswith(MAGIC)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("size", [0, 1, PAGE_BYTES + 20])
def test_a_record_written_during_a_truncation_survives(place: Path, size: int) -> None:
    one = PoolFile(place, "a")
    exchange(one, b"a longer record than twenty bytes")
    assert one.lock()
    assert one.read() is None
    os.truncate(place / FILE_NAME, size)
    one.write(b"again")
    one.unlock()
    assert exchange(PoolFile(place, "a")) == b"again"


def test_a_larger_foreign_file_shrinks_to_our_size(place: Path) -> None:
    place.mkdir(mode=0o700)
    (place / FILE_NAME).write_bytes(b"{}" * PAGE_BYTES * MAX_RECORDS)
    assert exchange(PoolFile(place, "a"), b"new") == b""
    assert list(read_records(place)) == [b"new"]
    assert (place / FILE_NAME).stat().st_size == PAGE_BYTES * (MAX_RECORDS + 1)


@pytest.mark.parametrize("more", [0, 1], ids=["only the copy", "the copy and a write"])
def test_a_restored_older_copy_starts_a_new_lineage(place: Path, more: int) -> None:
    one, other = PoolFile(place, "a"), PoolFile(place, "a")
    exchange(one, b"early")
    early = (place / FILE_NAME).read_bytes()
    exchange(one, b"later")
    begun = one.lineage
    (place / FILE_NAME).write_bytes(early)
    for _ in range(more):
        exchange(other, b"other")
    assert exchange(one) == (b"other" if more else b"early")
    assert one.lineage != begun


def test_the_records_of_two_replaced_files_are_kept_until_the_pool_takes_them(place: Path) -> None:
    one = PoolFile(place, "a")
    exchange(one, b"first")
    (place / FILE_NAME).unlink()
    second = PoolFile(place, "a")
    exchange(second, b"second")
    assert second.lock()
    assert not one.lock()  # but now `one` has switched to the second file
    second.unlock()
    (place / FILE_NAME).unlink()
    assert exchange(PoolFile(place, "a"), b"third") == b""
    assert exchange(one) == b"third"
    earlier = [one.take_earlier_record(), one.take_earlier_record()]
    assert [each and each.record for each in earlier] == [b"first", b"second"]
    assert one.take_earlier_record() is None


def test_a_record_that_a_later_file_continues_is_not_kept(place: Path) -> None:
    one, other = PoolFile(place, "a"), PoolFile(place, "a")
    exchange(one, b"first")
    exchange(other)
    (place / FILE_NAME).unlink()
    assert other.lock()
    assert other.read() == b""
    earlier = other.take_earlier_record()
    assert earlier is not None
    other.continue_record(earlier)
    other.write(b"second")
    assert not one.lock()
    other.unlock()
    (place / FILE_NAME).unlink()
    exchange(PoolFile(place, "a"), b"third")
    assert exchange(one) == b"third"
    earlier = one.take_earlier_record()
    assert earlier is not None
    assert earlier.record == b"second"
    assert one.take_earlier_record() is None


def test_a_deleted_file_is_created_again_and_all_processes_follow(place: Path) -> None:
    one, other = PoolFile(place, "a"), PoolFile(place, "a")
    exchange(one, b"old")
    exchange(other)
    (place / FILE_NAME).unlink()
    assert exchange(one, b"new") == b""
    assert exchange(other) == b"new"


def test_a_forked_child_does_not_share_its_parents_lock(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = PoolFile(place, "a")
    assert file.lock()
    pid = os.fork()
    if not pid:  # in the child
        os._exit(1 if file.lock() else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    monkeypatch.setattr(fork, "current", object())  # as if we were the child
    assert not PoolFile(place, "a").lock()
    assert not file.lock()


def test_a_record_that_is_too_long_raises(place: Path) -> None:
    file = PoolFile(place, "a")
    with pytest.raises(ValueError, match="does not fit"):
        file.write(bytes(PAGE_BYTES))


# -- a suspended process -----------------------------------------------------------------------


def test_a_process_suspended_with_the_lock_does_not_block_other_processes_for_long(
    place: Path, later: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    suspended, one, other = (PoolFile(place, "a") for _ in range(3))
    exchange(one, b"known")
    exchange(other)
    assert suspended.lock()
    for _ in range(STUCK_TRIES):
        assert not one.lock()
    later(STUCK_S + 0.1)
    assert not one.lock()  # this attempt copies the file
    assert exchange(one, b"newer") is None  # the copy has nothing new
    assert not other.lock()  # this attempt finds the copied file
    assert exchange(other) == b"newer"
    suspended.write(b"stale")  # the suspended process resumes
    suspended.unlock()
    assert exchange(suspended) == b"newer"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert os.listdir(place) == [FILE_NAME]


def test_a_file_whose_lock_is_sometimes_free_is_not_replaced(
    place: Path, later: Callable[[float], None]
) -> None:
    busy, unlucky = PoolFile(place, "a"), PoolFile(place, "a")
    exchange(unlucky, b"known")
    for _ in range(STUCK_TRIES):
        assert busy.lock()
        assert not unlucky.lock()
        busy.unlock()
    exchange(unlucky)
    later(STUCK_S + 0.1)
    assert busy.lock()
    assert not unlucky.lock()
    busy.unlock()
    assert exchange(busy) == b"known"
    assert exchange(unlucky) is None


# -- removing old records ----------------------------------------------------------------------


def test_a_record_unused_for_32_days_is_removed(
    place: Path, later: Callable[[float], None]
) -> None:
    exchange(PoolFile(place, "old"), b"old")
    later(UNUSED_S - 60)
    exchange(PoolFile(place, "young"), b"young")
    assert sorted(read_records(place)) == [b"old", b"young"]
    later(120)
    exchange(PoolFile(place, "new"), b"new")
    assert sorted(read_records(place)) == [b"new", b"young"]


def test_a_record_with_a_ban_is_kept_until_after_the_ban(
    place: Path, later: Callable[[float], None]
) -> None:
    exchange(PoolFile(place, "banned"), b"banned", until=time.time() + 3 * UNUSED_S)
    later(2.9 * UNUSED_S)
    exchange(PoolFile(place, "new"), b"new")
    assert exchange(PoolFile(place, "banned")) == b"banned"


def test_setting_the_clock_back_removes_no_record(
    place: Path, later: Callable[[float], None]
) -> None:
    exchange(PoolFile(place, "a"), b"of a")
    later(-3600)
    exchange(PoolFile(place, "b"), b"of b")
    assert exchange(PoolFile(place, "a")) == b"of a"


def test_a_process_writes_its_record_again_after_it_was_removed(
    place: Path, later: Callable[[float], None]
) -> None:
    sleeper = PoolFile(place, "sleeper")
    exchange(sleeper, b"asleep")
    later(2 * UNUSED_S)
    exchange(PoolFile(place, "new"), b"new")
    assert exchange(sleeper, b"awake") == b""
    assert sorted(read_records(place)) == [b"awake", b"new"]


def test_records_of_local_exchanges_are_overwritten_before_real_ones(
    place: Path, later: Callable[[float], None]
) -> None:
    exchange(PoolFile(place, "binance-futures"), b"real")
    for number in range(MAX_RECORDS + 10):
        later(1.0)
        local = PoolFile(place, f"http://127.0.0.1:{8000 + number}/local-{number:012x}")
        exchange(local, b"%d" % number, until=time.time() + 3 * UNUSED_S)
    found = list(read_records(place))
    assert (len(found), b"real" in found, b"73" in found, b"0" in found) == (64, True, True, False)
    later(UNUSED_LOCAL_S + 1.0)
    exchange(PoolFile(place, "http://127.0.0.1:8080"), b"a gateway")
    assert sorted(read_records(place)) == [b"a gateway", b"real"]


def test_a_full_file_overwrites_the_record_that_expires_first(
    place: Path, later: Callable[[float], None]
) -> None:
    for number in range(MAX_RECORDS + 1):
        exchange(PoolFile(place, str(number)), b"%d" % number)
        later(1)
    records = set(read_records(place))
    assert len(records) == MAX_RECORDS
    assert b"0" not in records


def test_without_a_file_there_are_no_records(place: Path) -> None:
    assert list(read_records(place)) == []


def test_damaged_records_are_not_read(place: Path) -> None:
    exchange(PoolFile(place, "a"), b"of a")
    exchange(PoolFile(place, "b"), b"of b")
    damage(place, 41, b"\xff")
    assert list(read_records(place)) == [b"of b"]


# -- reading without the lock ------------------------------------------------------------------


def test_a_peek_finds_the_last_write_and_changes_nothing(place: Path) -> None:
    writer, reader = PoolFile(place, "a"), PoolFile(place, "a")
    assert reader.peek() == b""
    exchange(PoolFile(place, "other"), b"of another")
    assert writer.lock()
    writer.read()
    writer.write(b"first")
    before = dict(vars(reader))
    assert reader.peek() == b"first"  # even while another process has the lock
    assert dict(vars(reader)) == before
    writer.write(b"second")
    assert reader.peek() == b"second"
    writer.unlock()
    assert exchange(reader) == b"second"
    assert reader.peek() == b"second"


def test_a_peek_at_a_damaged_or_missing_record_finds_nothing(place: Path) -> None:
    file = PoolFile(place, "a")
    exchange(file, b"a record")
    damage(place, 49, b"\xff")
    assert file.peek() == b""
    (place / FILE_NAME).unlink()
    assert file.peek() == b""


def test_a_peek_finds_a_record_that_moved_to_another_page(
    place: Path, later: Callable[[float], None]
) -> None:
    sleeper = PoolFile(place, "sleeper")
    exchange(sleeper, b"asleep")
    later(2 * UNUSED_S)
    exchange(PoolFile(place, "new"), b"new")  # the new record gets the old record's page
    exchange(PoolFile(place, "sleeper"), b"awake")
    assert sleeper.peek() == b"awake"


def test_a_page_that_is_being_written_is_read_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = PoolFile(place, "a")
    exchange(file, b"a record")
    pages = iter([b"half" + bytes(PAGE_BYTES - 4)])
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *where: next(pages, b"") or pread(*where))
    assert file.peek() == b"a record"
    pages = iter([b"half" + bytes(PAGE_BYTES - 4)])
    assert list(read_records(place)) == [b"a record"]


# -- what the system refuses -------------------------------------------------------------------


@pytest.mark.parametrize("size", [PAGE_BYTES, PAGE_BYTES + 100], ids=["none of it", "a part of it"])
def test_an_incomplete_write_raises(place: Path, size: int) -> None:
    file = PoolFile(place, "a")
    assert file.lock()
    file.read()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(OSError, match=r"too large|No space"):
            file.write(b"a record" * 50)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    file.write(b"a record")
    file.unlock()
    assert exchange(PoolFile(place, "a")) == b"a record"


def test_a_failed_replacement_leaves_no_other_file(
    place: Path, later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    suspended, file = PoolFile(place, "a"), PoolFile(place, "a")
    exchange(file, b"known")
    assert suspended.lock()
    for _ in range(STUCK_TRIES):
        assert not file.lock()
    later(STUCK_S + 0.1)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        file.lock()
    assert os.listdir(place) == [FILE_NAME]


def test_a_new_record_has_a_new_lineage_and_a_copy_keeps_it(
    place: Path, later: Callable[[float], None]
) -> None:
    suspended, one, other = (PoolFile(place, "a") for _ in range(3))
    exchange(one, b"known")
    begun = one.lineage
    assert suspended.lock()
    for _ in range(STUCK_TRIES):
        assert not one.lock()
    later(STUCK_S + 0.1)
    assert not one.lock()
    assert not other.lock()
    exchange(one, b"newer")
    exchange(other)
    assert one.lineage == other.lineage == begun
    (place / FILE_NAME).unlink()
    exchange(one, b"anew")
    exchange(other)
    assert one.lineage == other.lineage != begun
    begun = one.lineage
    damage(place, 49, b"\xff")
    exchange(PoolFile(place, "a"), b"once more")
    exchange(one)
    assert one.lineage != begun


@pytest.mark.parametrize("kind", ["hard link", "pipe", "directory"])
def test_a_link_or_special_file_is_refused_and_unchanged(place: Path, kind: str) -> None:
    place.mkdir(mode=0o700)
    precious = place / "precious"
    precious.write_text("of the user")
    if kind == "hard link":
        os.link(precious, place / FILE_NAME)
    elif kind == "pipe":
        os.mkfifo(place / FILE_NAME)
    else:
        (place / FILE_NAME).mkdir()
    with pytest.raises(OSError, match=FILE_NAME):
        PoolFile(place, "a")
    assert precious.read_text() == "of the user"


def test_an_error_of_the_lock_is_raised(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = PoolFile(place, "a")

    def fail(_fd: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="no locks"):
        file.lock()
