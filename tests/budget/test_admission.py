"""These tests check which rule of admission decides, and that a decision changes no state.

Rule of this file: each test makes the whole state that a rule may read. In states that are not
random, the exchange's clock is known exactly: its minute 1,000 (`K`) began at 0 s of our clock.
"""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from binance_oi.budget import admission, probing
from binance_oi.budget.admission import RULES, Probe, Send, Verdict, decide
from binance_oi.budget.bucket import Bucket
from binance_oi.budget.knowledge import UNKNOWN, Ask, Known, Parts
from binance_oi.budget.ledger import Ledger, Minute
from binance_oi.budget.others import Curve, Forecast, Others
from binance_oi.budget.server_clock import ServerClock
from binance_oi.budget.tuning import BLIND_AFTER, EDGE, POLL, PROBE_PAUSE
from binance_oi.budget.usage import Reason, Receipt, Wait
from binance_oi.budget.window import Window

K = 1_000
LIMIT, RESERVE = 1_000, 10


def known(minute: Minute | None = None, **fields: object) -> Known:
    """Make a state without others. The latest count came at second 19 of minute `K`."""
    minutes = {K - 1: Minute(reported=1), K: minute or Minute(booked=1, reported=1)}
    made = Known(LIMIT, ServerClock(60.0 * K, 60.0 * K, 20.0), Ledger(minutes, K))
    made.counted_at, made.careful_since = 19.0, UNKNOWN
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def beside_others(minute: Minute, *, curve: Curve | None = None) -> Known:
    """A state in which we expect others; `curve` shows their use of minute `K`."""
    others = Others({K: curve or Curve(LIMIT / 60)}, expected_until=K + 5)
    return known(minute, others=others)


def ask(weight: int = 1, *, now: float = 20.0, first: int = K, last: int = K) -> Ask:
    return Ask(now, weight, first, first, last, RESERVE, LIMIT - RESERVE, LIMIT, Forecast())


class Case(NamedTuple):
    """A state and a question, with the rule that must decide and its verdict or reason to wait.

    If `rule` is None, no rule may decide, so the request is sent.
    """

    known: Callable[[], Known]
    ask: Ask
    rule: admission.Rule | None
    verdict: Verdict | Reason


FULL = LIMIT - RESERVE
STEADY = Curve(LIMIT / 60, heights=[50, 100, 150, 200], since=1.0, until=20.0)

CASES = {  # each key completes the phrase "a request ..."
    "alone, with room": Case(known, ask(), None, Send()),
    "in a cooldown": Case(
        lambda: known(cooldown_until=60.0 * K + 30), ask(), admission.in_cooldown, Reason.COOLDOWN
    ),
    "while a probe is under way": Case(
        lambda: known(probe_ends_at=20.5), ask(), admission.probe_pending, Reason.PROBE_PENDING
    ),
    "heavier than the budget": Case(known, ask(FULL + 1), admission.too_heavy, Reason.TOO_HEAVY),
    "into a full minute": Case(
        lambda: known(Minute(booked=FULL, reported=FULL)),
        ask(),
        admission.every_minute_has_room,
        Reason.MINUTE_FULL,
    ),
    "into a full minute that may be over": Case(
        lambda: known(Minute(booked=FULL, reported=FULL)),
        ask(now=59.8, last=K),
        admission.every_minute_has_room,
        Probe(),
    ),
    "into a full minute that may be over, before one that is at its limit": Case(
        lambda: known(
            ledger=Ledger({K: Minute(booked=FULL, reported=FULL), K + 1: Minute(booked=LIMIT)}, K)
        ),
        ask(now=59.8, last=K + 1),
        admission.every_minute_has_room,
        Reason.MINUTE_FULL,
    ),
    "near the rollover, where the next minute is full": Case(
        lambda: known(ledger=Ledger({K: Minute(reported=1), K + 1: Minute(booked=FULL)}, K)),
        ask(now=55.0, last=K + 1),
        admission.every_minute_has_room,
        Reason.MINUTE_FULL,
    ),
    "when our share is used up": Case(
        lambda: known(Minute(booked=500, reported=500)),
        ask()._replace(share=500),
        admission.every_minute_has_room,
        Reason.SHARE,
    ),
    "into an old minute that may not be over, and that others may have filled": Case(
        lambda: beside_others(
            Minute(booked=1, others=970, reported=971), curve=Curve(50.0, [971], until=5.0)
        ),
        ask()._replace(likeliest=K + 1, last=K + 1),
        admission.every_minute_has_room,
        Reason.MINUTE_UNCERTAIN,
    ),
    "before any count has come": Case(
        lambda: Known(LIMIT, ServerClock(60.0 * K, 60.0 * K, 20.0)),
        ask(),
        admission.probe_first,
        Probe(),
    ),
    "that is the first of a minute, beside others": Case(
        lambda: beside_others(Minute()), ask(), admission.probe_first, Probe()
    ),
    "where others need the rest": Case(
        lambda: beside_others(Minute(booked=600, others=200, reported=800), curve=STEADY),
        ask(50),
        admission.leave_room_for_others,
        Reason.OTHERS,
    ),
    "where others leave enough": Case(
        lambda: beside_others(Minute(booked=1, others=200, reported=201), curve=STEADY),
        ask(),
        None,
        Send(),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_first_rule_that_answers_decides(name: str) -> None:
    case = CASES[name]
    state = case.known()
    answers = [(rule, verdict) for rule in RULES if (verdict := rule(case.ask, state)) is not None]
    assert (answers[0][0] if answers else None) is case.rule
    verdict = decide(case.ask, state)
    assert verdict == (answers[0][1] if answers else Send())
    assert (verdict.reason if isinstance(verdict, Wait) else verdict) == case.verdict


def test_a_wait_says_after_how_many_seconds_the_answer_may_differ() -> None:
    cooling = known(cooldown_until=60.0 * K + 30)
    assert decide(ask(), cooling)[:2] == (10.0, Reason.COOLDOWN)
    assert decide(ask(FULL + 1), known()) == Wait(None, Reason.TOO_HEAVY)
    pending = known(probe_ends_at=20.01)
    verdict = decide(ask(), pending)
    assert isinstance(verdict, Wait)
    assert verdict.reason is Reason.PROBE_PENDING
    assert verdict.seconds == pytest.approx(0.01)
    assert decide(ask(), known(probe_ends_at=25.0)) == Wait(POLL, Reason.PROBE_PENDING, 5.0)


@pytest.mark.parametrize("silent, kind", [(0, Probe), (BLIND_AFTER, Send)])
def test_after_many_answers_without_a_count_no_probe_is_sent(silent: int, kind: type) -> None:
    state = Known(LIMIT, ServerClock(60.0 * K, 60.0 * K, 20.0), silent=silent)
    assert isinstance(decide(ask(), state), kind)


def test_if_both_the_minute_and_our_share_are_full_the_reason_is_the_minute() -> None:
    full = known(Minute(booked=LIMIT - 5, reported=LIMIT - 5))
    verdict = decide(ask(10), full)
    assert isinstance(verdict, Wait)
    assert verdict.reason is Reason.MINUTE_FULL


def test_while_others_are_active_probes_are_at_least_the_probe_pause_apart() -> None:
    state = beside_others(Minute(booked=600, others=200, reported=800), curve=STEADY)
    state.counted_at = 20.0
    verdict = decide(ask(50), state)
    assert isinstance(verdict, Wait)
    assert verdict.seconds is not None
    assert verdict.seconds >= PROBE_PAUSE


@pytest.mark.parametrize("name", CASES)
def test_deciding_changes_no_state(name: str) -> None:
    case = CASES[name]
    state, before = case.known(), case.known()
    for rule in RULES:
        rule(case.ask, state)
    decide(case.ask, state)
    bucket = Bucket(state, Parts(reserve=RESERVE))
    bucket.question(case.ask.now, case.ask.weight)
    bucket.usage(case.ask.now)
    for k in range(K - 2, K + 3):
        state.ledger.minute(k)
        state.unseen(case.ask.now, k)
        state.others.past(k)
        state.others.curve(k, LIMIT)
        state.others.forecast(k, state.ledger.minute(k), LIMIT, 20.0, Forecast())
        probing.until_last(case.ask.now, state, k)
    _ = state.clock.earliest(20.0), state.clock.latest(20.0), state.clock.left(20.0, K)
    assert state == before


@pytest.mark.parametrize("name", CASES)
def test_the_fast_path_answers_as_the_rules_do(name: str) -> None:
    case = CASES[name]
    bucket = Bucket(case.known(), Parts(reserve=RESERVE))
    if case.ask.now - bucket.known.clock.at > 1.0:
        bucket.known.clock.drift(case.ask.now)  # as the fast path does first
    asked = bucket.question(case.ask.now, case.ask.weight)
    verdict = decide(asked, copy.deepcopy(bucket.known))
    answer = bucket.charge(case.ask.now, case.ask.weight)
    if isinstance(verdict, Wait):
        assert answer == verdict
    else:
        assert isinstance(answer, Receipt)
        assert answer.probe == isinstance(verdict, Probe)


@st.composite
def minutes(draw: st.DrawFn) -> Minute:
    """Draw a minute that has consistent books and is often full."""
    weights = st.one_of(st.integers(0, 5), st.integers(0, LIMIT))
    undecided = [(second, draw(st.integers(1, 9))) for second in draw(st.sets(st.integers(0, 40)))]
    lost = sum(weight for _, weight in undecided)
    unconfirmed = lost + draw(weights)
    doubtful = draw(st.integers(0, 3))
    return Minute(
        unconfirmed + doubtful + draw(weights),
        unconfirmed,
        sorted(undecided),
        doubtful,
        draw(weights),
        draw(st.one_of(st.just(0), weights)),
        draw(st.integers(0, 100)),
        draw(st.sampled_from([0, 100])),
    )


WINDOWS = [[], [], [Window(10, 100, False, 0.0, {30: 95})]]


@st.composite
def states(draw: st.DrawFn) -> Known:
    """Draw a state in minute `K`; its fields often have their usual values."""
    off = draw(st.sampled_from([0.0, 0.0, 0.5, 2.0]))
    clock = ServerClock(60.0 * K - off, 60.0 * K + off, draw(st.sampled_from([0.0, 18.0, 20.0])))
    seen = draw(st.sets(st.sampled_from([K - 1, K, K + 1])))
    books = Ledger({k: draw(minutes()) for k in sorted(seen)}, draw(st.integers(K - 1, K + 1)))
    others = Others(
        {K: Curve(LIMIT / 60, [draw(st.integers(0, LIMIT))], since=1.0, until=5.0)},
        draw(st.sampled_from([-1, K - 1, K, K + 1])),
        draw(st.sampled_from([0, 0, 100])),
        draw(st.one_of(st.just(0), st.integers(1, LIMIT))),
    )
    is_rolling = draw(st.sampled_from([False, False, False, True]))
    windows = [[Window(60, 100, False, 0.0, {8: 95})]] if is_rolling else WINDOWS
    return Known(
        LIMIT,
        clock,
        books,
        others,
        cooldown_until=draw(st.sampled_from([0.0, 0.0, 60.0 * K + 10, 60.0 * K + 100])),
        counted_at=draw(st.sampled_from([UNKNOWN, -30.0, 5.0, 10.0])),
        probe_ends_at=draw(st.sampled_from([UNKNOWN, UNKNOWN, 10.0, 30.0])),
        silent=draw(st.sampled_from([0, 0, BLIND_AFTER - 1, BLIND_AFTER])),
        windows=draw(st.sampled_from(windows)),
        careful_since=draw(st.sampled_from([UNKNOWN, UNKNOWN, -40.0, 10.0, 10.0, math.inf])),
        after_ban=draw(st.booleans()),
        rolling_until=K + 1 if is_rolling else 0,
    )


@given(
    state=states(),
    now=st.floats(5.0, 60.0),
    weight=st.one_of(st.just(1), st.integers(1, LIMIT)),
    reserve=st.sampled_from([0, 0.01, RESERVE, 0.3]),
    share=st.sampled_from([1.0, 0.5]),
    bulk=st.booleans(),
)
def test_in_any_state_a_charge_answers_and_books_as_the_rules_do(
    state: Known, now: float, weight: int, reserve: float, share: float, bulk: bool
) -> None:
    charged = Bucket(copy.deepcopy(state), Parts(reserve=reserve, share=share))
    ruled = Bucket(state, Parts(reserve=reserve, share=share))
    if now - state.clock.at > 1.0:
        state.clock.drift(now)
    asked = ruled.question(now, weight, bulk)
    verdict = decide(asked, state)
    expected: Receipt | admission.Verdict = verdict
    if not isinstance(verdict, Wait):
        expected = ruled._book(asked, isinstance(verdict, Probe))
    assert charged.charge(now, weight, bulk) == expected
    assert charged.known == state


@given(
    state=states(),
    now=st.floats(5.0, 60.0),
    weight=st.one_of(st.just(1), st.integers(1, LIMIT)),
    bulk=st.booleans(),
)
def test_in_any_state_room_for_others_is_decided_only_after_the_first_count(
    state: Known, now: float, weight: int, bulk: bool
) -> None:
    state.others.expected_until = state.clock.latest(now)
    state.cooldown_until, state.probe_ends_at, state.windows = 0.0, UNKNOWN, []
    asked = Bucket(state, Parts(reserve=RESERVE)).question(now, weight, bulk)
    earlier = RULES[: RULES.index(admission.leave_room_for_others)]
    is_asked = all(rule(asked, state) is None for rule in earlier)
    event(f"the rule is asked: {is_asked}")
    if admission._keeps_room(asked, state) and is_asked:
        assert state.counted_at != UNKNOWN
        assert state.ledger.minute(asked.likeliest).reported > 0


@given(
    state=states(),
    now=st.floats(5.0, 60.0),
    count=st.integers(1, 40),
    share=st.sampled_from([1.0, 0.5]),
    bulk=st.booleans(),
)
def test_in_any_state_one_charge_for_several_requests_books_as_a_charge_for_each(
    state: Known, now: float, count: int, share: float, bulk: bool
) -> None:
    books_together(state, now, count, share, bulk)


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize(
    "most, share, careful_since",
    [(FULL, 1.0, UNKNOWN), (LIMIT // 2, 0.5, UNKNOWN), (LIMIT // 2, 1.0, 20.0)],
    ids=["a minute", "a share", "a first minute, sent carefully"],
)
def test_one_charge_for_several_requests_needs_room_for_all_of_them(
    most: int, share: float, careful_since: float, bulk: bool
) -> None:
    minute = Minute(most - 8, reported=most - 8)
    state = known(minute, counted_at=20.0, careful_since=careful_since)
    fit = [count for count in range(1, 20) if books_together(state, 20.0, count, share, bulk)]
    assert fit == list(range(1, 9))


def books_together(state: Known, now: float, count: int, share: float, bulk: bool) -> bool:
    """Charge for several requests at once, and check that a charge for each books the same.

    Returns:
        Whether the bucket charged for all of them at once.
    """
    made = (Bucket(copy.deepcopy(state), Parts(reserve=RESERVE, share=share)) for _ in range(2))
    together, one_by_one = made
    whole = together.charge_plainly(now, count, bulk)
    if whole is not None:
        receipts = [one_by_one.charge(now, 1, bulk) for _ in range(count)]
        assert receipts == [whole._replace(weight=1)] * count
        assert together.known == one_by_one.known
    return whole is not None


@pytest.mark.parametrize("after_ban, weight, more", [(False, 3, 200), (True, 1, 742)])
def test_charges_that_careful_sending_allows_skip_the_rules(
    after_ban: bool, weight: int, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def noted(ask: Ask, _: Known) -> Wait:
        asked.append(ask.now)
        return Wait(1.0, Reason.CAUTION)

    monkeypatch.setattr(admission, "decide", noted)
    since = 20.0
    state = known(Minute(1, 0, reported=1), counted_at=since)
    state.careful_since, state.after_ban = since, after_ban
    made = Bucket(state, Parts(reserve=RESERVE))
    for number in range(60, 290):  # a bit less than careful sending allows
        made.charge(since + number / 10, weight)
    assert asked == []
    made.charge(since + 29.0, more)
    assert asked == [since + 29.0]


@given(
    state=states(),
    now=st.floats(5.0, 60.0),
    weight=st.one_of(st.just(1), st.integers(1, LIMIT)),
    reserve=st.sampled_from([0, 0.01, RESERVE, 0.3]),
)
def test_a_probe_and_all_booked_or_reported_weight_stay_within_the_limit(
    state: Known, now: float, weight: int, reserve: float
) -> None:
    asked = Bucket(state, Parts(reserve=reserve)).question(now, weight)
    if not state.rolling_until and isinstance(decide(asked, state), Probe):
        for k in range(asked.first, asked.last + 1):
            minute = state.ledger.minute(k)
            counted = max(minute.booked + minute.others, minute.reported)
            assert counted + weight <= LIMIT


def test_requests_above_the_count_of_a_refusal_are_probes() -> None:
    others = Others(refused_count=60, expected_until=K + 5)
    made = Bucket(known(Minute(50, 0, reported=50), others=others), Parts(reserve=0))
    answer = made.charge(20.0, 20)
    assert isinstance(answer, Receipt)
    assert answer.probe


@pytest.mark.parametrize(
    "name, end",
    [
        ("where others need the rest", None),
        ("into an old minute that may not be over, and that others may have filled", PROBE_PAUSE),
    ],
)
def test_the_end_of_a_wait_is_when_a_single_retry_should_find_room(
    name: str, end: float | None
) -> None:
    verdict = decide(CASES[name].ask, CASES[name].known())
    assert isinstance(verdict, Wait)
    assert verdict.end == end


def refusals_before_sending(state: Known, now: float, until: float, most: int) -> int:
    """Count how often a caller is refused before its request is sent, if it obeys each wait."""
    bucket = Bucket(state, Parts(reserve=RESERVE))
    for refused in range(most + 1):
        answer = bucket.charge(now, 1)
        if isinstance(answer, Receipt):
            assert now <= until
            return refused
        assert answer.seconds is not None
        now += answer.seconds
    pytest.fail(f"the caller was refused more than {most} times, and asks again at {now} s")


@pytest.mark.parametrize("silent", [0, BLIND_AFTER])
@pytest.mark.parametrize("booked", [FULL, LIMIT])
def test_a_full_minute_of_undecided_weight_refuses_a_caller_at_most_five_times(
    silent: int, booked: int
) -> None:
    full = Minute(booked, booked, [(30, booked)])
    assert refusals_before_sending(known(full, silent=silent), 20.0, 60.1, most=5) >= 1


def test_a_caller_asks_again_soon_for_a_full_minute_of_weight_under_way() -> None:
    full = Minute(FULL, FULL, [(30, FULL - 1)])
    verdict = decide(ask(), known(full, silent=BLIND_AFTER))
    assert verdict[:2] == (POLL, Reason.MINUTE_FULL)


# -- the part of a minute that bulk work leaves to single calls -----------------------------------


def with_singles(
    used: int, singles: dict[int, int], now: float = 20.0, asked_for: int = 0
) -> tuple[Ask, Known]:
    """Make a question of bulk work in minute `K`, and the state in which it asks.

    Args:
        used: Our use of minute `K`.
        singles: The weight of single calls, by minute.
        now: The second of the question and of the latest count.
        asked_for: The largest `interactive` of an earlier request.
    """
    minutes = {k: Minute(reported=1, single=single) for k, single in singles.items()}
    current = Minute(used, 0, reported=used, single=singles.get(K, 0), interactive=asked_for)
    books = Ledger(minutes | {K - 1: minutes.get(K - 1, Minute(reported=1)), K: current}, K)
    return ask(now=now)._replace(bulk=True, interactive=50), known(ledger=books, counted_at=now)


@pytest.mark.parametrize(
    "singles, part",
    [
        ({}, 0),
        ({K - 1: 1}, 10),  # at least 1 % of the limit
        ({K - 1: 20}, 40),  # twice their use
        ({K - 1: 20, K - 3: 8}, 40),  # twice the use of the busiest minute
        ({K - 1: 20, K: 15}, 25),  # 2 * 20, less the 15 that they have used already
        ({K: 3}, 7),  # 10, less the 3 that they have used already
        ({K: 20}, 20),  # 2 * 20, less the 20 that they have used already
        ({K - 1: 400}, 50),  # at most `interactive`
        ({K - 1: 400, K: 80}, 0),  # they have used more than `interactive` already
        ({K - 5: 20}, 40),
        ({K - 6: 20}, 0),  # more than five minutes ago
    ],
)
def test_bulk_work_leaves_single_calls_a_part_of_the_minute(
    singles: dict[int, int], part: int
) -> None:
    fits, too_much = (with_singles(FULL - part - 1 + more, singles) for more in (0, 1))
    assert decide(*fits) == Send()
    reason = Reason.SINGLE_CALLS if part else Reason.MINUTE_FULL
    verdict = decide(*too_much)
    assert isinstance(verdict, Wait)
    assert verdict.reason is reason


def test_single_calls_may_use_the_whole_budget() -> None:
    asked, state = with_singles(FULL - 1, {K - 1: 20})
    assert decide(asked._replace(bulk=False), state) == Send()


def test_the_largest_interactive_part_that_any_process_asked_for_is_kept() -> None:
    singles = {K - 1: 400}
    assert decide(*with_singles(FULL - 71, singles, asked_for=70)) == Send()
    verdict = decide(*with_singles(FULL - 70, singles, asked_for=70))
    assert isinstance(verdict, Wait)
    assert verdict.reason is Reason.SINGLE_CALLS


@pytest.mark.parametrize("left, kept", [(5.0, 40), (4.0, 32), (2.5, 20), (0.5, 4)])
def test_at_the_end_of_a_minute_bulk_work_may_use_the_part_of_single_calls(
    left: float, kept: int
) -> None:
    fits, too_much = (
        with_singles(FULL - kept - 1 + more, {K - 1: 20}, 60.0 - left) for more in (0, 1)
    )
    assert decide(*fits) == Send()
    verdict = decide(*too_much)
    assert isinstance(verdict, Wait)
    assert verdict.reason is Reason.SINGLE_CALLS
    assert verdict.seconds == pytest.approx(0.125)  # 40 in 5 s: a weight of 1 in 1/8 s


def test_a_wait_for_the_part_of_single_calls_ends_when_bulk_work_may_use_it() -> None:
    asked, state = with_singles(FULL - 1, {K - 1: 20})
    verdict = decide(asked, state)
    assert isinstance(verdict, Wait)
    assert verdict.seconds == 40.0
    assert decide(asked._replace(now=60.0), state) == Send()


def test_while_others_are_active_bulk_work_leaves_single_calls_their_part() -> None:
    state = beside_others(Minute(booked=50, reported=250, others=200), curve=STEADY)
    state.ledger.minutes[K - 1].single = 20
    asked = ask()._replace(interactive=50)
    most = max(n for n in range(1, 500) if decide(asked._replace(weight=n), state) == Send())
    bulk = asked._replace(bulk=True)
    assert decide(bulk._replace(weight=most - 40), state) == Send()
    verdict = decide(bulk._replace(weight=most - 39), state)
    assert isinstance(verdict, Wait)
    assert verdict.reason is Reason.OTHERS


def test_a_refund_of_a_single_call_lowers_the_use_of_single_calls() -> None:
    bucket = Bucket(known(), Parts())
    receipts = [bucket.charge(20.0, 3), bucket.charge(20.0, 5, bulk=True), bucket.charge(20.0, 2)]
    minute = bucket.known.ledger.minutes[K]
    assert (minute.booked, minute.single) == (11, 5)
    assert isinstance(receipts[0], Receipt)
    bucket.refund(receipts[0])
    assert (minute.booked, minute.single) == (8, 2)


# -- copies of us that share no budget ------------------------------------------------------------


def among_copies(
    theirs: list[int], ours: int, *, now: float = 20.0, booked: int = 1, reported: int = 0
) -> Known:
    """Make a state in minute `K`. Others have used as much of it as of the whole minute before.

    Args:
        theirs: What others had used of the minute before, after each 5 s of it.
        ours: Our use of the minute before.
        now: The second of the latest count.
        booked: Our use of minute `K`.
        reported: The largest count of the minute before; 0 means our use and theirs together.
    """
    before = Curve(LIMIT / 60, theirs, since=0.5, until=5.0 * len(theirs))
    minutes = {K - 1: Minute(ours, reported=reported or ours + theirs[-1])}
    minutes[K] = Minute(booked, reported=booked + theirs[-1], others=theirs[-1])
    others = Others({K - 1: before}, expected_until=K + 5)
    others.draw(K, LIMIT, now, theirs[-1])
    return known(ledger=Ledger(minutes, K), others=others, counted_at=now)


EARLY_ON = [400] * 12
ALL_ALONG = [400 * n // 12 for n in range(1, 13)]


@pytest.mark.parametrize(
    "theirs, ours, reported, part",
    [
        (EARLY_ON, 400, 0, 450),  # 400 + 400 is over three quarters: our part grows by 5 %
        (EARLY_ON, 480, 0, 500),  # up to half of the limit
        (EARLY_ON, 600, 0, 500),
        (EARLY_ON, 300, 0, 40),  # 400 + 300 is less than three quarters of the limit
        ([481] * 12, 100, 0, 150),  # others use over 48 % of the limit in 15 s
        ([480] * 12, 100, 0, 40),
        ([60] * 8 + [61, 62, 63, 64], 100, 0, 150),  # in four slots they sent as copies probe
        ([61] * 9 + [62, 63, 64], 100, 0, 40),
        ([60] * 8 + [62, 64, 66, 68], 100, 0, 40),  # twice as much: 0.2 %, and not 0.1 %
        ([47, 48, 49, 50, 51, *[51] * 7], 100, 0, 150),
        ([46, 47, 48, 49, 50, *[50] * 7], 100, 0, 40),  # not more than 5 % in all
        (ALL_ALONG, 540, 0, 40),  # 100 in the first 15 s + 540: less than three quarters
        ([0] * 9 + [161, 321, 481], 100, 0, 150),  # over 48 % in the last 15 s
        ([0] * 9 + [160, 320, 480], 100, 0, 40),
        ([0] * 8 + [1, 161, 321, 481], 100, 0, 40),  # over 48 %, but in 20 s
        (EARLY_ON, 400, 1_001, 40),  # a count exceeded the limit, so the others are no copies
    ],
)
def test_while_a_copy_is_active_our_part_grows_up_to_half_of_the_limit(
    theirs: list[int], ours: int, reported: int, part: int
) -> None:
    state = among_copies(theirs, ours, reported=reported)
    parts = [
        n for n in range(1, 601) if admission._is_our_part(ask(n)._replace(weight=n - 1), state)
    ]
    assert max(parts) == part


def test_our_part_grows_from_the_most_that_we_used_in_the_last_five_minutes() -> None:
    state = among_copies(EARLY_ON, 350)
    state.ledger.minutes[K - 4] = Minute(410)
    state.ledger.minutes[K - 6] = Minute(500)  # more than five minutes ago
    assert admission._is_our_part(ask(459), state)
    assert not admission._is_our_part(ask(460), state)


def test_while_a_copy_is_active_a_refusal_does_not_reduce_our_part() -> None:
    state = among_copies(EARLY_ON, 400)
    state.others.expected_surge = 250
    assert admission._is_our_part(ask(449), state)


@pytest.mark.parametrize(
    "theirs, now, most",
    [
        ([501] * 12, 4.0, 150),  # 50 at once, and 25 in each second (1/40 of the limit)
        ([501] * 12, 0.4, 60),
        ([301] * 12, 4.0, 150),  # a copy that uses just over 30 % of the limit in 15 s
        ([300] * 12, 4.0, None),
        ([601 * n // 12 for n in range(1, 13)], 4.0, None),  # evenly: 30 % take 30 s
    ],
)
def test_while_a_copy_uses_much_of_the_minute_early_we_send_slowly(
    theirs: list[int], now: float, most: int | None
) -> None:
    state, asked = among_copies(theirs, 499, now=now), ask(now=now)
    state.ledger.minutes[K - 1].booked = 749  # so we and others used up that minute early
    if most is None:
        assert admission.spread_beside_copies(asked._replace(weight=800), state) is None
        return
    state.ledger.minutes[K].booked = most - 1
    assert admission.spread_beside_copies(asked, state) is None
    state.ledger.minutes[K].booked = most
    verdict = admission.spread_beside_copies(asked, state)
    assert isinstance(verdict, Wait)
    assert verdict.reason is Reason.OTHERS
    assert verdict.seconds == pytest.approx(0.04)


def test_while_several_copies_are_active_we_keep_less_weight_under_way() -> None:
    for theirs, most in ((500, 61), (501, 15)):
        state = among_copies([theirs] * 12, 499, now=19.0)
        minute = state.ledger.minutes[K]
        minute.reported = minute.booked + minute.others
        minute.booked, minute.unconfirmed = minute.booked + most - 1, most - 1
        assert not admission._is_crowded(ask(), state, minute)
        minute.booked, minute.unconfirmed = minute.booked + 1, most
        assert admission._is_crowded(ask(), state, minute)


def test_a_minute_that_copies_filled_is_probed_within_the_reserve() -> None:
    full = [980] * 4
    state = among_copies(EARLY_ON, 400, now=20.0, booked=10)
    state.others.curves[K] = Curve(LIMIT / 60, full, since=1.7, until=1.7)
    state.ledger.minutes[K] = Minute(10, reported=FULL, others=980)
    assert probing.is_affordable(ask(5, now=50.0), state, K)  # 990 + 5 + 5 (half of the reserve)
    assert not probing.is_affordable(ask(6, now=50.0), state, K)
    state.ledger.minutes[K].reported = LIMIT + 1
    assert not probing.is_affordable(ask(now=50.0), state, K)


CALM = Curve(LIMIT / 60, heights=[5 * n for n in range(11)], since=5.0, until=55.0)


def near_the_end(used: int) -> Known:
    """Make a state beside others that use 1 weight/s. The latest count came at second 55."""
    state = beside_others(Minute(used - 45, reported=used, others=45), curve=CALM)
    state.counted_at = 55.0
    return state


@pytest.mark.parametrize(
    "weight, used, is_probe",
    [
        (40, 955, True),  # 955 + 3 that others used unseen + 2 that they will use + 40 = 1,000
        (40, 956, False),
        (1, 990, True),
    ],
)
def test_a_heavy_probe_leaves_others_their_weight_until_the_minute_ends(
    weight: int, used: int, is_probe: bool
) -> None:
    verdict = decide(ask(weight, now=58.0), near_the_end(used))
    assert isinstance(verdict, Probe) is is_probe
    assert is_probe or (isinstance(verdict, Wait) and verdict.reason is Reason.MINUTE_FULL)


def test_in_the_first_minute_bulk_work_leaves_single_calls_their_part() -> None:
    state = known(Minute(booked=480, reported=480, single=20, interactive=50))
    state.careful_since = 10.0  # the first request went at 10 s: 500 at once
    bulk = ask(now=10.0)._replace(bulk=True, interactive=50)
    wait = decide(bulk, state)
    assert isinstance(wait, Wait)
    assert wait.reason is Reason.CAUTION
    assert wait.seconds == pytest.approx((50 - EDGE) * math.sqrt((480 + 1 + 20 - 500) / 490))
    assert decide(bulk._replace(bulk=False), state) == Send()


def test_at_the_end_of_the_first_minute_bulk_work_may_use_the_part_of_single_calls() -> None:
    state = known(Minute(booked=942, reported=942, single=20, interactive=50))
    state.careful_since = 10.0
    bulk = ask(now=57.0)._replace(bulk=True, interactive=50)
    assert (
        decide(bulk, state) == Send()
    )  # 960 is allowed by then, and 3/5 of the part of 30 is left
    state.ledger.minute(K).booked += 10
    assert isinstance(decide(bulk, state), Wait)
