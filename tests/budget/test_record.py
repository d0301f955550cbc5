"""A record with a valid checksum may contain impossible values, which must affect no decision.

Rule of this file: tests count steps, not seconds. A step is a call of a Python or a C function.
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from binance_oi.budget import machine, record, stored
from binance_oi.budget.bucket import Bucket
from binance_oi.budget.knowledge import UNKNOWN, Known, Parts
from binance_oi.budget.ledger import Ledger, Minute
from binance_oi.budget.machine import MachineBudget, machine_pools
from binance_oi.budget.others import Curve, Others
from binance_oi.budget.pool import ProcessBudget
from binance_oi.budget.pool_file import MAX_RECORD_BYTES, PoolFile
from binance_oi.budget.record import MAX_COOLDOWN_S, MAX_WEIGHT, OLD_S, flaw, merge
from binance_oi.budget.server_clock import MAX_WIDTH_S, MINUTE, ServerClock
from binance_oi.budget.shared import SharedPool
from binance_oi.budget.tuning import DISTRUST, UNDECIDED
from binance_oi.budget.usage import Reason, Receipt, Wait
from binance_oi.budget.window import SLOTS, Window
from binance_oi.exchange.models import MAX_LIMIT
from support.lanes import thorough

NOON = 1_795_435_200.0  # the beginning of a minute, Unix s
NOW = 1_000.0  # monotonic s
K = int((NOON + NOW) // MINUTE)
STEPS = 20_000  # steps in which all calls of one `few_steps` block must end
NAN = float("nan")


def clock(lo: float = -2.0, hi: float = 2.0, at: float = NOW) -> ServerClock:
    return ServerClock(NOON + lo, NOON + hi, at)


def state(**fields: object) -> Known:
    """Make what a busy process knows. `fields` set attributes of it, `.ledger` or `.others`."""
    minutes = {K - 1: Minute(booked=70, reported=70), K: Minute(30, 10, [], 0, 25, 5)}
    others = Others({K: Curve(40.0, [3, 5], 3, 2.0, 9.0)}, expected_until=K + 5)
    made = Known(100, clock(), Ledger(minutes, K), others, counted_at=NOW - 1.0)
    for name, value in fields.items():
        owner = next(o for o in (made, made.ledger, made.others) if hasattr(o, name))
        setattr(owner, name, value)
    return made


def minute(**fields: object) -> Known:
    made = state()
    for name, value in fields.items():
        setattr(made.ledger.minutes[K], name, value)
    return made


def curve(*fields: object) -> Known:
    return state(curves={K: Curve(*fields)})  # type: ignore[arg-type]


def windows(*made: Window) -> Known:
    return state(windows=list(made))


@contextmanager
def few_steps(most: int = STEPS) -> Iterator[None]:
    """Fail after too many steps, so that an endless loop fails the test."""
    left = most

    def count(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal left
        left -= event in ("call", "c_call")
        if left < 0:
            sys.setprofile(None)
            raise AssertionError(f"no decision within {most} steps")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)


@pytest.fixture
def pool_with(tmp_path: Path) -> Callable[[Known, str], SharedPool]:
    """Return a function that makes the pool of a process which starts with a given record."""
    names = iter(range(10**6))

    def make(found: Known, boot: str = "") -> SharedPool:
        name = f"exchange {next(names)}"
        data = record.encode(record.Record(name, boot or stored.BOOT, found))
        file = PoolFile(tmp_path / "budgets", name)
        assert file.lock()
        file.read()
        file.write(data, 0.0)
        file.close()
        budget = MachineBudget(
            directory=tmp_path / "budgets",
            limit=100,
            reserve=0,
            clock=lambda: NOW,
            wall=lambda: NOON + NOW,
        )
        pool = budget.pool(name)
        assert isinstance(pool, SharedPool)
        return pool

    return make


Pools = Callable[..., SharedPool]


def test_a_record_of_a_busy_process_is_trusted(
    pool_with: Pools, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pool_with(state())
    assert (pool.usage.used, pool.usage.in_flight, pool.usage.others) == (35, 10, 5)
    pool.charge(1)
    assert pool.usage.charged == 30 + (pool.usage.in_flight - 10)
    assert pool._bucket.known.others.expected_until == K + 5
    assert caplog.records == []


def test_the_limit_bounds_the_numbers_of_a_record_about_others() -> None:
    found = state(limit=10, expected_surge=MAX_WEIGHT, refused_count=MAX_WEIGHT)
    assert flaw(found, NOW) == ""
    assert (found.others.expected_surge, found.others.refused_count) == (10, 10)
    within = state(limit=100, expected_surge=30, refused_count=70)
    assert flaw(within, NOW) == ""
    assert (within.others.expected_surge, within.others.refused_count) == (30, 70)


@pytest.mark.parametrize("limit", [1, MAX_LIMIT, record.MAX_LIMIT])
def test_a_limit_of_the_exchange_or_of_a_user_is_trusted(limit: int) -> None:
    assert ProcessBudget(limit=limit).pool("a").usage.limit == limit
    assert flaw(state(limit=limit), NOW) == ""


def test_a_limit_above_the_largest_in_a_record_is_refused() -> None:
    with pytest.raises(ValueError, match="limit must be"):
        ProcessBudget(limit=record.MAX_LIMIT + 1)


def test_a_record_with_the_smallest_limit_lets_requests_through(tmp_path: Path) -> None:
    now = [NOW]
    pool = MachineBudget(directory=tmp_path, clock=lambda: now[0], wall=lambda: NOON + now[0])
    made = pool.pool("a")
    made.set_limit(1)
    sent = 0
    for _ in range(4):
        now[0] += 60.0
        answer = made.charge(1)
        if isinstance(answer, Receipt):
            made.settle(answer, 1, NOON + now[0])
            sent += 1
    assert sent >= 3


IMPOSSIBLE = {
    "a clock whose interval is endless on one side": state(clock=clock(hi=1e15)),
    "a clock of nan": state(clock=clock(NAN, NAN)),
    "an endless clock": state(clock=clock(-math.inf, math.inf)),
    "a clock uncertain by two minutes": state(clock=clock(hi=MAX_WIDTH_S + 1)),
    "a clock whose ends are swapped": state(clock=clock(2.0, -2.0)),
    "a clock ahead by thousands of years": state(clock=clock(1e12, 1e12)),
    "a clock from the future": state(clock=clock(at=NOW + 1e6)),
    "a cooldown longer than any ban": state(cooldown_until=NOON + NOW + MAX_COOLDOWN_S + 10),
    "an endless cooldown": state(cooldown_until=math.inf),
    "a cooldown of nan": state(cooldown_until=NAN),
    "a ban for 1e300 s": state(banned_until=1e300),
    "a cooldown before 1970": state(cooldown_until=-1.0),
    "a probe that ends in 1e300 s": state(probe_ends_at=1e300),
    "a probe that never ends": state(probe_ends_at=math.inf),
    "a count from the future": state(counted_at=NOW + 1e9),
    "a count at nan": state(counted_at=NAN),
    "a limit of 0": state(limit=0),
    "a negative limit": state(limit=-5),
    "a limit of 2**60": state(limit=2**60),
    "a limit of 10**12": state(limit=10**12),
    "a limit that no user may give": state(limit=record.MAX_LIMIT + 1),
    "a surge of 2**60": state(expected_surge=2**60),
    "a negative surge": state(expected_surge=-1),
    "a refusal at 2**60": state(refused_count=2**60),
    "a newest minute in a billion years": state(newest=10**15),
    "a negative newest minute": state(newest=-1),
    "others for a billion years": state(expected_until=10**15),
    "others before 1970": state(expected_until=-10),
    "2**63 answers without a header": state(silent=2**63),
    "-1 answers without a header": state(silent=-1),
    "a weight of 2**60": minute(booked=2**60),
    "a negative weight of 2**60": minute(unconfirmed=-(2**60)),
    "a count of 2**60": minute(reported=2**60),
    "a hundred undecided entries": minute(undecided=[(1, 1)] * 100),
    "a negative undecided weight": minute(undecided=[(1, -1)]),
    "an undecided weight of 2**60": minute(undecided=[(1, 2**60)]),
    "an undecided weight from the future": minute(undecided=[(10**12, 1)]),
    "a curve that is too short": curve(40.0, [], 0, 0.0, 60.0),
    "a curve that is too long": curve(40.0, [1] * 300, 0, 0.0, 60.0),
    "a curve of an hour": curve(40.0, [1] * 720, 0, 0.0, 3600.0),
    "a curve until nan": curve(40.0, [1], 0, 0.0, NAN),
    "a curve that ends where it begins": curve(40.0, [1], 0, 0.0, 1e-300),
    "a curve from nan": curve(40.0, [1], 0, NAN, 5.0),
    "a curve of 2**60": curve(40.0, [2**60], 0, 0.0, 5.0),
    "a negative curve": curve(40.0, [-5], 0, 0.0, 5.0),
    "a curve with a base of 2**60": curve(40.0, [5], 2**60, 0.0, 5.0),
    "a negative base": curve(40.0, [5], -1, 1.0, 5.0),
    "a base above the curve": curve(40.0, [5, 9], 6, 1.0, 10.0),
    "a base before a first count at second 0": curve(40.0, [5], 5, 0.0, 5.0),
    "a base of a curve without counts": curve(40.0, [], 5, 1.0, 0.0),
    "an endlessly fast curve": curve(math.inf, [5], 0, 0.0, 5.0),
    "a window of 2**60 s": windows(Window(2**60, 100, False, NOW)),
    "a window of 0 s": windows(Window(0, 100, False, NOW)),
    "a window with a limit of 0": windows(Window(10, 0, False, NOW)),
    "a window that begins in a million years": windows(Window(10, 100, False, 1e14)),
    "a window that begins at nan": windows(Window(10, 100, False, NAN)),
    "a window of 200 slots": windows(Window(10, 100, False, NOW, dict.fromkeys(range(200), 1))),
    "a window with a slot from the future": windows(Window(10, 100, False, NOW, {10**15: 1})),
    "a window with a weight of 2**60": windows(Window(10, 100, False, NOW, {2_000: 2**60})),
    "a window without parts": windows(Window(10, 100, False, NOW, parts=0)),
    "a window of a million parts": windows(Window(10, 100, False, NOW, parts=10**6)),
    "bulk requests that wait for a year": windows(Window(10, 100, False, NOW, bulk_at=NOW + 3e7)),
    "bulk requests that wait until nan": windows(Window(10, 100, False, NOW, bulk_at=NAN)),
    "room kept for a year": windows(Window(10, 100, False, NOW, kept_until=NOW + 3e7)),
    "room kept until nan": windows(Window(10, 100, False, NOW, kept_until=NAN)),
    "a window with a negative weight": windows(Window(10, 100, False, NOW, {2_000: -1})),
    "twenty windows": windows(*(Window(n, 100, False, NOW) for n in range(1, 21))),
}


@pytest.mark.parametrize("found", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_an_impossible_record_is_rejected_and_logged_once(
    found: Known, pool_with: Pools, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pool_with(found)
    with few_steps():
        usage = pool.usage
        receipt = pool.charge(1)
    assert (usage.limit, usage.used, usage.held_until) == (100, 0, None)
    assert isinstance(receipt, Receipt)
    assert receipt.probe  # as after any start
    with few_steps():
        pool.settle(receipt, 1, NOON + NOW)
        pool.charge(1)
    assert pool.usage.used >= 1
    assert len(caplog.records) == 1
    assert "not trusted" in caplog.text


def test_a_second_impossible_record_logs_no_other_warning(
    pool_with: Pools, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pool_with(state(limit=0))
    for _ in range(2):
        pool.charge(1)
        pool._bucket.known.limit = 0
        pool._leave(changed=True)
        pool._store = None
        pool._check_at = UNKNOWN
    assert "a weight" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "name", ["a clock whose interval is endless on one side", "a weight of 2**60", "a limit of 0"]
)
def test_a_ban_in_an_impossible_record_is_obeyed(name: str, pool_with: Pools) -> None:
    absurd = IMPOSSIBLE[name]
    found = Known(
        absurd.limit,
        absurd.clock,
        absurd.ledger,
        cooldown_until=NOON + NOW + 500,
        banned_until=NOON + NOW + 400,
    )
    pool = pool_with(found)
    with few_steps():
        assert pool.usage.banned_until is not None
        assert not isinstance(pool.charge(1), Receipt)
        assert pool.held_for(ban=True)
    assert pool._bucket.known.cooldown_until == NOON + NOW + 500


def test_a_ban_without_a_cooldown_is_obeyed(pool_with: Pools) -> None:
    pool = pool_with(Known(100, clock(hi=1e15), banned_until=NOON + NOW + 400))
    assert not isinstance(pool.charge(1), Receipt)


@pytest.mark.parametrize("until", [NOON, NOON + NOW + 1e9, math.inf, NAN, -1.0])
def test_a_ban_that_is_over_or_impossible_is_not_obeyed(until: float, pool_with: Pools) -> None:
    found = Known(100, clock(hi=1e15), cooldown_until=until, banned_until=until)
    assert isinstance(pool_with(found).charge(1), Receipt)


@pytest.mark.parametrize("boot", ["another run", " "])
def test_after_a_reboot_only_the_cooldowns_of_a_record_are_used(
    boot: str, pool_with: Pools
) -> None:
    pool = pool_with(state(), boot)
    assert pool.usage.used == 0
    assert isinstance(pool.charge(1), Receipt)
    held = state(cooldown_until=NOON + NOW + 500, banned_until=NOON + NOW + 500)
    assert not isinstance(pool_with(held, boot).charge(1), Receipt)


def test_without_a_boot_identity_no_monotonic_time_is_trusted(
    pool_with: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_with(state(probe_ends_at=NOW + 1))
    monkeypatch.setattr(stored, "BOOT", "")
    assert pool.usage.used == 0
    assert isinstance(pool.charge(1), Receipt)


def test_only_the_cooldown_of_an_old_record_is_used(pool_with: Pools) -> None:
    found = state(clock=clock(at=NOW - OLD_S - 1), cooldown_until=NOON + NOW + 500)
    pool = pool_with(found)
    assert pool.usage.used == 0
    assert not isinstance(pool.charge(1), Receipt)


def old(*made: Window) -> Known:
    return state(clock=clock(at=NOW - OLD_S - 1), windows=list(made))


WEEK = 7 * 86_400
USED_YESTERDAY = int((NOW - OLD_S - 60) // (WEEK / SLOTS))


def test_a_window_of_an_old_record_is_used_until_its_span_is_over(pool_with: Pools) -> None:
    week = Window(WEEK, 90, False, NOW - OLD_S - 60, {USED_YESTERDAY: 80})
    hour = Window(3600, 90, False, NOW - OLD_S - 60, {int((NOW - OLD_S - 60) // 180): 80})
    pool = pool_with(old(week, hour))
    assert pool.usage.remaining == 10
    assert pool.usage.used == 0
    refused = pool.charge(11)
    assert isinstance(refused, Wait)
    assert refused.reason is Reason.OTHER_LIMIT
    assert isinstance(pool.charge(10), Receipt)
    assert [window.seconds for window in pool._bucket.known.windows] == [WEEK]


@pytest.mark.parametrize("boot", ["another run", ""])
def test_only_a_possible_window_of_this_boot_is_used(boot: str, pool_with: Pools) -> None:
    used = {USED_YESTERDAY: 80 if boot else 2**60}
    pool = pool_with(old(Window(WEEK, 90, False, NOW - OLD_S - 60, used)), boot)
    assert pool.usage.remaining == 100
    assert isinstance(pool.charge(1), Receipt)
    assert pool._bucket.known.windows == []


def test_a_window_of_an_old_record_is_not_added_to_the_same_window_of_ours() -> None:
    ours, found = (
        old(Window(WEEK, 90, False, NOW - OLD_S - 60, slots))
        for slots in ({USED_YESTERDAY: 30, USED_YESTERDAY - 1: 5}, {USED_YESTERDAY: 40})
    )
    record.keep_windows(ours, found, NOW)
    assert [window.slots for window in ours.windows] == [
        {USED_YESTERDAY: 40, USED_YESTERDAY - 1: 5}
    ]


@pytest.mark.parametrize("data", [b"\x91" * 4000, b"\xff", b"\xa1\xff", b"\x93\xa0\xa0\xa1\xff"])
def test_an_undecodable_record_is_ignored(data: bytes) -> None:
    assert record.decode(data) is None


def test_an_empty_record_is_ignored() -> None:
    assert record.decode(b"") is None


def test_machine_pools_omits_impossible_records(
    pool_with: Pools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "steady_clock", lambda: NOW)
    pool_with(state(clock=clock(hi=1e15)))
    pool_with(state())
    with few_steps():
        pools = machine_pools(tmp_path / "budgets")
    assert [usage.used for usage in pools.values()] == [35]


# -- values that our own arithmetic can produce ------------------------------------------------


def test_minutes_of_a_wrong_clock_are_dropped() -> None:
    found = state()
    found.ledger.minutes |= {k: Minute(99) for k in (K + 10**6, K - 60, -1, 2**60)}
    assert flaw(found, NOW) == ""
    assert sorted(found.ledger.minutes) == [K - 1, K]


def test_a_count_below_0_becomes_0() -> None:
    found = minute(unconfirmed=-3, booked=-1)
    assert flaw(found, NOW) == ""
    assert (found.ledger.minutes[K].unconfirmed, found.ledger.minutes[K].booked) == (0, 0)


def test_a_falling_curve_is_flattened() -> None:
    found = curve(40.0, [7, 3], 0, 0.0, 10.0)
    assert flaw(found, NOW) == ""
    assert found.others.curves[K].heights == [7, 7]


# -- any state ---------------------------------------------------------------------------------


def near(*values: float) -> st.SearchStrategy[float]:
    usual = [st.floats(value - 200, value + 200) for value in values]
    return st.one_of(*usual, st.floats(), st.sampled_from([0.0, UNKNOWN, NAN, math.inf, 1e300]))


counts = st.one_of(
    st.integers(0, 120),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([0, -1, MAX_WEIGHT, 2**53]),
)
minutes_near = st.one_of(st.integers(K - 8, K + 3), counts)
curves = st.builds(
    Curve,
    near(40.0),
    st.lists(counts, max_size=14) | st.lists(st.integers(0, 50), max_size=12).map(sorted),
    counts,
    st.floats(0, 60) | near(30.0),
    st.floats(0, 60) | near(30.0),
)
some_minutes = st.builds(
    Minute,
    *(counts,) * 2,
    st.lists(st.tuples(st.integers(900, 1100) | counts, counts), max_size=9),
    *(counts,) * 5,
)
clocks = st.one_of(
    st.builds(clock, st.floats(-60, 0), st.floats(0, 60), st.floats(NOW - 90, NOW)),
    st.builds(ServerClock, near(NOON), near(NOON), near(NOW), st.booleans(), counts),
)
ledgers = st.builds(Ledger, st.dictionaries(minutes_near, some_minutes, max_size=8), minutes_near)
all_others = st.builds(
    Others, st.dictionaries(minutes_near, curves, max_size=8), minutes_near, counts, counts
)
states = st.builds(
    Known,
    st.integers(1, 3000) | counts,
    clocks,
    ledgers,
    all_others,
    near(0.0, NOON + NOW),
    near(0.0, NOON + NOW),
    near(NOW),
    near(NOW),
    counts,
    careful_since=near(NOW) | st.just(math.inf),
    after_ban=st.booleans(),
    announced=counts,
    lowered_until=minutes_near,
    rolling_until=minutes_near,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(found=states, used=st.none() | st.integers(0, 3000), dated=st.booleans())
def test_no_record_makes_a_decision_slow(
    found: Known, used: int | None, dated: bool, pool_with: Pools
) -> None:
    pool = pool_with(found)
    with few_steps():
        usage = pool.usage
        answer = pool.charge(1)
        if isinstance(answer, Receipt):
            pool.settle(answer, used, NOON + NOW if dated else None)
            pool.flush()
            answer = pool.charge(2)
            if isinstance(answer, Receipt):
                pool.lose(answer)
                answer = pool.charge(1)
        after = pool.usage
    assert isinstance(answer, Receipt) or answer.seconds is None or answer.seconds >= 0.0
    assert usage.used >= usage.charged >= 0
    assert after.limit >= 1
    for until in (usage.held_until, usage.banned_until):
        assert until is None or until.timestamp() <= NOON + NOW + MAX_COOLDOWN_S + 3 * MAX_WIDTH_S


@given(found=states)
def test_a_trusted_record_can_be_written_again(found: Known) -> None:
    if flaw(found, NOW) == "":
        again = record.decode(record.encode(record.Record("a", "boot", found)))
        assert again is not None
        assert flaw(again.state, NOW) == ""
        assert msgspec.msgpack.encode(again.state) == msgspec.msgpack.encode(found)


weights = st.sampled_from([0, 7, 300, 70_000, 2**33])  # a hundred of these are below MAX_WEIGHT


@st.composite
def believed(draw: st.DrawFn) -> Known:
    """Draw a state with values that a reader trusts, some of them large."""
    width = draw(st.sampled_from([0.0, 4.0, 60.0, MAX_WIDTH_S]))
    found = Known(2400, clock(0.0, width), cooldown_until=NOON + NOW + 300, counted_at=NOW)
    first, last = record._live_minutes(found, NOW)
    for k in range(first, last + 1):
        lost = [(1000 + n, draw(weights)) for n in range(draw(st.sampled_from([0, 8, 32])))]
        booked, unconfirmed, doubtful, reported, others = (draw(weights) for _ in range(5))
        found.ledger.minutes[k] = Minute(booked, unconfirmed, lost, doubtful, reported, others)
        top = draw(weights)
        found.others.curves[k] = Curve(40.0, [top] * 12, top, 0.5, 60.0)
    slots = draw(st.sampled_from([0, 1, 3, 20, record.MAX_SLOTS_PER_PART * SLOTS]))
    for n in range(draw(st.sampled_from([0, 1, record.MAX_WINDOWS]))):
        used = {2_000 - slot: draw(weights) for slot in range(slots)}
        found.windows.append(Window(10 + n, 100, False, NOW, used))
    return found


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(found=believed(), length=st.sampled_from([1, 40, 400]))
def test_the_longest_record_fits_its_page_and_loses_no_weight(found: Known, length: int) -> None:
    assert flaw(record.copied(found), NOW) == ""
    before = record.copied(found)
    made = record.decode(
        record.fitted(record.Record("x" * length, "b" * 60, found), MAX_RECORD_BYTES)
    )
    assert (
        len(record.fitted(record.Record("x" * length, "b" * 60, found), MAX_RECORD_BYTES))
        <= MAX_RECORD_BYTES
    )
    assert found == before
    assert made is not None
    assert flaw(made.state, NOW) == ""
    assert made.state.cooldown_until == found.cooldown_until
    for k in range(found.clock.earliest(NOW), found.clock.latest(NOW + 10) + 1):
        assert made.state.ledger.minutes[k].used == found.ledger.minutes[k].used
    for slim, window in zip(made.state.windows, found.windows, strict=True):
        assert all(slim.used(NOW + s) >= window.used(NOW + s) for s in range(-90, 60, 2))


def test_a_record_with_an_impossible_clock_fits_its_page() -> None:
    found = Known(100, clock(-4000.0, 4000.0))
    first, last = found.clock.earliest(NOW), found.clock.latest(NOW)
    found.ledger.book(Receipt(1, NOW, first, last, 0, False))
    assert len(found.ledger.minutes) > 100
    made = record.decode(record.fitted(record.Record("a", "b", found), MAX_RECORD_BYTES))
    assert made is not None
    assert K in made.state.ledger.minutes
    assert flaw(made.state, NOW) == "its clock"


def test_a_copy_is_consistent_even_if_a_finalizer_runs_another_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, mixed, encode = state(), iter([True]), record.encode

    def interrupted(known: Known) -> bytes:
        data = encode(known)
        if next(mixed, False):
            known.ledger.minutes[K].reported += 5  # changed while it is being encoded
            torn = record.copied(known)
            torn.ledger.minutes[K].booked -= 5
            return encode(torn)
        return data

    monkeypatch.setattr(record, "encode", interrupted)
    made = record.copied(found)
    assert made == found


def test_a_copy_of_ever_changing_books_is_made_after_some_tries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, encode, made = state(), record.encode, list[bytes]()

    def restless(known: Known) -> bytes:
        known.ledger.minutes[K].booked += 1
        made.append(encode(known))
        return made[-1]

    monkeypatch.setattr(record, "encode", restless)
    assert record.copied(found).ledger.minutes[K].booked == 30 + len(made)
    assert 2 < len(made) < 20


# -- merging after sharing was interrupted -----------------------------------------------------


def parted() -> tuple[Known, Known, Known]:
    """Make equal arguments `shared`, `ours` and `base` for a merge."""
    return record.copied(state()), record.copied(state()), record.copied(state())


def test_a_merge_adds_the_weight_that_both_sides_charged() -> None:
    shared, ours, base = parted()
    for side, weight in ((shared, 7), (ours, 4)):
        Bucket(side, Parts(reserve=0)).charge(NOW, 1)
        side.ledger.minutes[K].booked += weight - (side.ledger.minutes[K].booked - 30)
        side.ledger.minutes[K].unconfirmed += weight - (side.ledger.minutes[K].unconfirmed - 10)
    merge(shared, ours, base, NOW)
    assert (shared.ledger.minutes[K].booked, shared.ledger.minutes[K].unconfirmed) == (41, 21)


def test_a_merge_no_longer_counts_either_sides_weight_as_that_of_others() -> None:
    shared, ours, base = parted()
    shared.ledger.minutes[K].others, shared.ledger.minutes[K].reported = 5 + 20, 75
    ours.ledger.minutes[K].booked += 20
    ours.ledger.minutes[K].reported = 70
    merge(shared, ours, base, NOW)
    there = shared.ledger.minutes[K]
    assert (there.booked, there.others, there.reported) == (50, 5, 75)
    assert there.used >= 75


def test_a_merge_adds_minutes_limits_and_refusals_that_only_one_side_knows() -> None:
    shared, ours, base = parted()
    ours.ledger.minutes[K + 1] = Minute(8, 8)
    ours.limit, ours.others.expected_surge = 50, 9
    ours.others.refused_count, ours.others.expected_until = 60, K + 9
    ours.others.curves[K] = Curve(40.0, [3, 5, 9], 3, 2.0, 12.0)
    merge(shared, ours, base, NOW)
    assert shared.ledger.minutes[K + 1].booked == 8
    assert (shared.limit, shared.others.expected_surge) == (50, 9)
    assert (shared.others.refused_count, shared.others.expected_until) == (60, K + 9)
    assert shared.others.curves[K].top == 9


@pytest.mark.parametrize("limits", [(2400, 1200), (1200, 2400)])
def test_a_merge_without_a_base_keeps_the_lower_limit(limits: tuple[int, int]) -> None:
    shared, ours = (state(limit=limit) for limit in limits)
    merge(shared, ours, None, NOW)
    assert shared.limit == 1200


def test_a_process_that_joins_a_running_record_is_no_longer_cautious() -> None:
    shared, ours = state(), state()
    shared.careful_since, ours.careful_since = NOW - 180.0, NOW - 30.0
    merge(shared, ours, None, NOW)
    assert shared.careful_since == NOW - 180.0


def test_after_a_ban_a_merge_stays_cautious() -> None:
    for banned, free in ((0, 1), (1, 0)):
        both = state(), state()
        both[banned].after_ban, both[banned].careful_since = True, NOW - 30.0
        both[free].careful_since = NOW - 120.0
        merge(*both, None, NOW)
        assert both[0].after_ban
        assert both[0].careful_since == NOW - 30.0


def test_a_client_that_just_started_sends_at_once_if_another_one_was_banned_long_ago() -> None:
    for banned, free in ((0, 1), (1, 0)):
        both = state(), state()
        both[banned].after_ban, both[banned].careful_since = True, NOW - 180.0
        both[free].careful_since = NOW
        merge(*both, None, NOW)
        assert both[0].until_allowed(NOW + 1.0, K, 30, 2376) <= 0.0
        assert both[0].careful_until == NOW + 60.0


def test_after_a_merge_a_lowered_limit_stays_lowered() -> None:
    shared, ours, base = state(limit=100), state(limit=100), state(limit=100)
    ours.lower(40, K)
    merge(shared, ours, base, NOW)
    assert (shared.limit, shared.announced, shared.lowered_until) == (40, 100, K + DISTRUST)


def test_a_merge_ignores_minutes_that_are_over() -> None:
    shared, ours, base = parted()
    ours.ledger.minutes[K - 1].booked += 50
    merge(shared, ours, base, NOW)
    assert shared.ledger.minutes[K - 1].booked == 70


@pytest.mark.parametrize("who", ["ours", "shared"])
def test_a_merge_keeps_the_longer_cooldown(who: str) -> None:
    shared, ours, base = parted()
    holder = ours if who == "ours" else shared
    holder.cooldown_until = holder.banned_until = NOON + NOW + 300
    merge(shared, ours, base, NOW)
    assert shared.cooldown_until == shared.banned_until == NOON + NOW + 300
    assert (shared.counted_at == UNKNOWN) is (who == "ours")


def test_a_merge_without_a_base_adds_all_our_weight() -> None:
    shared, ours, _ = parted()
    ours.limit = 50
    merge(shared, ours, None, NOW)
    assert shared.ledger.minutes[K].booked == 60
    assert shared.ledger.minutes[K].others == 0
    assert shared.ledger.minutes[K].used >= 60
    assert shared.limit == 50  # the lower of the two


def test_a_merge_prefers_a_clock_from_dates_to_a_guess() -> None:
    shared, ours, base = parted()
    shared.clock = ServerClock(NOON - 3600, NOON - 3590, NOW, dated=False)
    merge(shared, ours, base, NOW)
    assert shared.clock.lo == NOON - 2.0


@pytest.mark.parametrize("who", ["ours", "shared"])
@pytest.mark.parametrize("off", [-3600.0, 3600.0])
def test_a_cooldown_by_a_wrong_clock_keeps_its_remaining_time(who: str, off: float) -> None:
    shared, ours, base = parted()
    holder = ours if who == "ours" else shared
    holder.clock = ServerClock(NOON + off - 2.5, NOON + off + 2.5, NOW, dated=False)
    Bucket(holder, Parts()).hold(NOW, 600.0, ban=True)
    merge(shared, ours, base, NOW)
    for until in (shared.cooldown_until, shared.banned_until):
        assert 600.0 <= until - NOW - shared.clock.lo <= 615.0
    assert flaw(shared, NOW) == ""


@pytest.mark.parametrize("is_base_known", [True, False])
@pytest.mark.parametrize("dated", [(True, False), (False, True), (False, False), (True, True)])
@pytest.mark.parametrize("wrong", ["ours", "shared"])
@pytest.mark.parametrize("off", [-60.0, 3600.0, *thorough(-3600.0, 60.0)])
def test_a_merge_of_contradicting_clocks_keeps_all_weight(
    off: float, wrong: str, dated: tuple[bool, bool], is_base_known: bool
) -> None:
    sides = {}
    for who, is_dated in zip(("ours", "shared"), dated, strict=True):
        middle = NOON + (off if who == wrong else 0.0)
        k = int((middle + NOW) // MINUTE)
        sides[who] = state(
            clock=ServerClock(middle - 2.0, middle + 2.0, NOW, is_dated),
            minutes={k: Minute(booked=30)},
            newest=k,
            curves={},
            expected_until=-1,
        )
    ours, shared = sides["ours"], sides["shared"]
    base = record.copied(shared) if is_base_known else None
    for side, weight in ((ours, 700), (shared, 500)):
        k = side.ledger.newest
        side.ledger.minutes[k].booked += weight
        side.ledger.minutes[k].unconfirmed += weight
    is_ours = dated == (True, False)
    clock = record.copied(ours if is_ours else shared).clock
    merge(shared, ours, base, NOW)
    assert (shared.clock.lo, shared.clock.hi, shared.clock.dated) == (
        clock.lo,
        clock.hi,
        any(dated),
    )
    for k in range(clock.earliest(NOW), clock.latest(NOW) + 1):
        assert shared.ledger.minutes[k].booked >= 700 + 500 + 30
    assert shared.ledger.newest <= clock.latest(NOW)
    assert flaw(shared, NOW) == ""


def test_a_merge_with_a_wrong_clock_near_a_rollover_keeps_all_weight() -> None:
    shared, ours, _ = parted()
    shared.clock = ServerClock(NOON - 3600 - 2.5, NOON - 3600 + 2.5, NOW, dated=False)
    ours.clock = ServerClock(NOON + 18.0, NOON + 22.0, NOW)  # either of two minutes may be current
    ours.ledger.minutes, ours.ledger.newest = {}, 0
    shared.ledger.minutes, shared.ledger.newest = {K - 60: Minute(40, 40)}, 0
    merge(shared, ours, None, NOW)
    first, last = ours.clock.earliest(NOW), ours.clock.latest(NOW)
    assert last == first + 1
    assert [shared.ledger.minutes[k].booked for k in (first, last)] == [40, 40]


def test_a_cooldown_that_a_wrong_clock_ended_is_not_revived() -> None:
    shared, ours, base = parted()
    shared.clock = ServerClock(NOON + 3600, NOON + 3605, NOW, dated=False)
    shared.cooldown_until = shared.banned_until = NOON + NOW + 3500
    merge(shared, ours, base, NOW)
    assert shared.cooldown_until == shared.banned_until == 0.0


def test_a_merge_counts_the_lost_weight_of_each_side_once() -> None:
    shared, ours, base = parted()
    both = (1003, 2)
    for side in (shared, ours, base):
        side.ledger.minutes[K].undecided = [both]
    ours.ledger.minutes[K].undecided = [both, *((1010 + n, 1) for n in range(6))]
    ours.ledger.minutes[K].booked += 6
    ours.ledger.minutes[K].unconfirmed += 6
    shared.ledger.minutes[K].undecided = [both, *((1020 + n, 1) for n in range(4))]
    shared.ledger.minutes[K].booked += 4
    shared.ledger.minutes[K].unconfirmed += 4
    merge(shared, ours, base, NOW)
    there = shared.ledger.minutes[K]
    assert (there.booked, there.unconfirmed) == (40, 20)
    assert len(there.undecided) == UNDECIDED
    assert sum(weight for _, weight in there.undecided) == 12
    assert there.undecided == sorted(there.undecided)


def test_a_merge_adds_the_use_of_another_limit_by_both_sides() -> None:
    def with_slots(*made: dict[int, int]) -> Known:
        seconds = (10, 86_400)
        return windows(
            *(Window(n, 100, False, 0.0, s) for n, s in zip(seconds, made, strict=False))
        )

    base, ours = with_slots({2_000: 5}), with_slots({2_000: 3, 2_001: 4}, {7: 2})
    shared = with_slots({2_000: 6})
    merge(shared, ours, base, NOW)
    assert [window.slots for window in shared.windows] == [{2_000: 6, 2_001: 4}, {7: 2}]
    again = with_slots({2_000: 6})
    merge(again, ours, None, NOW)
    assert again.windows[0].slots == {2_000: 9, 2_001: 4}


def test_a_merge_of_too_many_windows_keeps_the_tightest() -> None:
    ours, shared = (
        windows(*(Window(first + n, 100, False, 0.0) for n in range(record.MAX_WINDOWS)))
        for first in (10, 50)
    )
    merge(shared, ours, None, NOW)
    assert flaw(shared, NOW) == ""
    assert sorted(window.seconds for window in shared.windows) == list(range(50, 58))
