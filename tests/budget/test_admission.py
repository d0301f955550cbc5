"""The rules: which one answers, and that a question changes nothing.

Rule of this file: the state is made by hand, so a test says all that a rule may look at. The clock
of the exchange is known exactly, and minute 1,000 began at 0 s.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binance_oi.budget import admission, probing
from binance_oi.budget.admission import RULES, Probe, Send, Verdict, decide
from binance_oi.budget.bucket import Bucket
from binance_oi.budget.knowledge import UNKNOWN, Ask, Known
from binance_oi.budget.ledger import Ledger, Minute
from binance_oi.budget.others import Curve, Forecast, Others
from binance_oi.budget.server_clock import ServerClock
from binance_oi.budget.tuning import BLIND_AFTER, POLL, PROBE_PAUSE
from binance_oi.budget.usage import Reason, Receipt, Wait
from binance_oi.budget.window import Window

K = 1_000
LIMIT, RESERVE = 1_000, 10


def known(minute: Minute | None = None, **fields: object) -> Known:
    """Alone, and the count of minute `K` was read at 19 s."""
    minutes = {K - 1: Minute(reported=1), K: minute or Minute(booked=1, reported=1)}
    made = Known(LIMIT, ServerClock(60.0 * K, 60.0 * K, 20.0), Ledger(minutes, K))
    made.counted_at, made.cautious_until = 19.0, UNKNOWN
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def beside_others(minute: Minute, *, curve: Curve | None = None) -> Known:
    """Others are expected, and used what `curve` says."""
    others = Others({K: curve or Curve(LIMIT / 60)}, expected_until=K + 5)
    return known(minute, others=others)


def ask(weight: int = 1, *, now: float = 20.0, first: int = K, last: int = K) -> Ask:
    return Ask(now, weight, first, first, last, RESERVE, LIMIT - RESERVE, LIMIT, Forecast())


class Case(NamedTuple):
    """What is known, what is asked, and which rule says what."""

    known: Callable[[], Known]
    ask: Ask
    rule: admission.Rule | None
    verdict: Verdict | Reason


FULL = LIMIT - RESERVE
STEADY = Curve(LIMIT / 60, heights=[50, 100, 150, 200], since=1.0, until=20.0)

CASES = {
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
    "more than our share": Case(
        lambda: known(Minute(booked=500, reported=500)),
        ask()._replace(share=500),
        admission.every_minute_has_room,
        Reason.SHARE,
    ),
    "into a minute that others may have filled, before the likeliest": Case(
        lambda: beside_others(
            Minute(booked=1, others=970, reported=971), curve=Curve(50.0, [971], until=5.0)
        ),
        ask()._replace(likeliest=K + 1, last=K + 1),
        admission.every_minute_has_room,
        Reason.MINUTE_UNCERTAIN,
    ),
    "first of all": Case(
        lambda: Known(LIMIT, ServerClock(60.0 * K, 60.0 * K, 20.0)),
        ask(),
        admission.probe_first,
        Probe(),
    ),
    "first of a minute, beside others": Case(
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
def test_no_probe_is_sent_while_no_count_comes(silent: int, kind: type) -> None:
    state = Known(LIMIT, ServerClock(60.0 * K, 60.0 * K, 20.0), silent=silent)
    assert isinstance(decide(ask(), state), kind)


def test_only_a_share_of_ones_own_is_named_as_what_is_used_up() -> None:
    full = known(Minute(booked=LIMIT - 5, reported=LIMIT - 5))
    verdict = decide(ask(10), full)
    assert isinstance(verdict, Wait)
    assert verdict.reason is Reason.MINUTE_FULL


def test_after_a_count_others_are_given_a_pause_before_the_next_probe() -> None:
    state = beside_others(Minute(booked=600, others=200, reported=800), curve=STEADY)
    state.counted_at = 20.0
    verdict = decide(ask(50), state)
    assert isinstance(verdict, Wait)
    assert verdict.seconds is not None
    assert verdict.seconds >= PROBE_PAUSE


@pytest.mark.parametrize("name", CASES)
def test_a_question_changes_nothing(name: str) -> None:
    case = CASES[name]
    state, before = case.known(), case.known()
    for rule in RULES:
        rule(case.ask, state)
    decide(case.ask, state)
    bucket = Bucket(state, reserve=RESERVE)
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
def test_the_short_way_answers_as_the_rules_do(name: str) -> None:
    case = CASES[name]
    bucket = Bucket(case.known(), reserve=RESERVE)
    if case.ask.now - bucket.known.clock.at > 1.0:
        bucket.known.clock.drift(case.ask.now)  # as the short way does first
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
    """Books that agree with themselves, and that are full as often as not."""
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
        draw(st.booleans()),
    )


@st.composite
def states(draw: st.DrawFn) -> Known:
    """Anything that may be known at 0 to 60 s of minute `K`; the usual is frequent."""
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
    return Known(
        LIMIT,
        clock,
        books,
        others,
        cooldown_until=draw(st.sampled_from([0.0, 0.0, 60.0 * K + 10, 60.0 * K + 100])),
        counted_at=draw(st.sampled_from([UNKNOWN, -30.0, 5.0, 10.0])),
        probe_ends_at=draw(st.sampled_from([UNKNOWN, UNKNOWN, 10.0, 30.0])),
        silent=draw(st.sampled_from([0, 0, BLIND_AFTER - 1, BLIND_AFTER])),
        windows=draw(st.sampled_from([[], [], [Window(10, 100, False, 0.0, {30: 95})]])),
    )


@given(
    state=states(),
    now=st.floats(5.0, 60.0),
    weight=st.one_of(st.just(1), st.integers(1, LIMIT)),
    reserve=st.sampled_from([0, 0.01, RESERVE, 0.3]),
    share=st.sampled_from([1.0, 0.5]),
)
def test_whatever_is_known_a_charge_answers_and_books_as_the_rules_do(
    state: Known, now: float, weight: int, reserve: float, share: float
) -> None:
    charged = Bucket(copy.deepcopy(state), reserve=reserve, share=share)
    ruled = Bucket(state, reserve=reserve, share=share)
    if now - state.clock.at > 1.0:
        state.clock.drift(now)
    asked = ruled.question(now, weight)
    verdict = decide(asked, state)
    expected: Receipt | admission.Verdict = verdict
    if not isinstance(verdict, Wait):
        expected = ruled._book(asked, isinstance(verdict, Probe))
    assert charged.charge(now, weight) == expected
    assert charged.known == state


@given(
    state=states(),
    now=st.floats(5.0, 60.0),
    weight=st.one_of(st.just(1), st.integers(1, LIMIT)),
    reserve=st.sampled_from([0, 0.01, RESERVE, 0.3]),
)
def test_with_all_that_is_known_to_be_counted_a_probe_stays_within_the_limit(
    state: Known, now: float, weight: int, reserve: float
) -> None:
    asked = Bucket(state, reserve=reserve).question(now, weight)
    if isinstance(decide(asked, state), Probe):
        for k in range(asked.first, asked.last + 1):
            minute = state.ledger.minute(k)
            counted = max(minute.booked + minute.others, minute.reported)
            assert counted + weight <= LIMIT


def test_beyond_the_count_of_a_refusal_a_newcomer_sends_probes() -> None:
    others = Others(refused_count=60, expected_until=K + 5)
    made = Bucket(known(Minute(50, 0, reported=50), others=others), reserve=0)
    answer = made.charge(20.0, 20)
    assert isinstance(answer, Receipt)
    assert answer.probe


@pytest.mark.parametrize(
    "name, end",
    [
        ("where others need the rest", None),
        ("into a minute that others may have filled, before the likeliest", PROBE_PAUSE),
    ],
)
def test_who_comes_back_only_once_waits_for_what_is_in_the_way(
    name: str, end: float | None
) -> None:
    verdict = decide(CASES[name].ask, CASES[name].known())
    assert isinstance(verdict, Wait)
    assert verdict.end == end


def asked_again(state: Known, now: float, until: float, most: int) -> int:
    """How often a request that obeys each wait is refused before it is sent."""
    bucket = Bucket(state, reserve=RESERVE)
    for refused in range(most + 1):
        answer = bucket.charge(now, 1)
        if isinstance(answer, Receipt):
            assert now <= until
            return refused
        assert answer.seconds is not None
        now += answer.seconds
    pytest.fail(f"it asked {most} times by {now} s")


@pytest.mark.parametrize("silent", [0, BLIND_AFTER])
@pytest.mark.parametrize("booked", [FULL, LIMIT])
def test_a_full_minute_whose_weight_has_no_answer_to_come_is_asked_a_few_times(
    silent: int, booked: int
) -> None:
    full = Minute(booked, booked, [(30, booked)])
    assert asked_again(known(full, silent=silent), 20.0, 60.1, most=5) >= 1


def test_a_full_minute_whose_weight_is_under_way_is_asked_again_soon() -> None:
    full = Minute(FULL, FULL, [(30, FULL - 1)])
    verdict = decide(ask(), known(full, silent=BLIND_AFTER))
    assert verdict[:2] == (POLL, Reason.MINUTE_FULL)
