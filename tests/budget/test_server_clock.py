"""Our estimate of the exchange's clock is an interval. A `Date` narrows it, and drift widens it.

In these tests, the exchange's clock is about 1,000,000 s ahead of ours.
"""

import pytest

from binance_oi.budget.knowledge import Known
from binance_oi.budget.server_clock import (
    CORES_APART_S,
    MAX_CONTRADICTIONS,
    MAX_UNIX_S,
    MAX_WIDTH_S,
    MINUTE,
    ServerClock,
    dated,
)
from binance_oi.budget.tuning import DRIFT, EDGE

AHEAD_S = 1_000_020.0  # s by which the exchange's clock is ahead of ours: 16,667 minutes
K = int(AHEAD_S // MINUTE)


def clock(lo: float = -2.0, hi: float = 2.0, *, dated: bool = True) -> ServerClock:
    return ServerClock(AHEAD_S + lo, AHEAD_S + hi, 0.0, dated)


def interval_of(made: ServerClock) -> tuple[float, float]:
    return made.lo - AHEAD_S, made.hi - AHEAD_S


def test_near_a_rollover_either_of_two_minutes_may_be_current() -> None:
    made = clock(-1.0, 2.0)
    moments = [(made.earliest(now), made.likeliest(now), made.latest(now)) for now in (57, 59, 60)]
    assert moments == [(K, K, K), (K, K, K + 1), (K, K + 1, K + 1)]
    assert (made.middle - AHEAD_S, (made.hi - made.lo) / 2) == (0.5, 1.5)


@pytest.mark.parametrize("now, into, left", [(-9, 0, 69), (0, 0, 60), (20, 20, 40), (70, 60, 0)])
def test_the_middle_of_the_interval_decides_how_old_a_minute_is(
    now: float, into: float, left: float
) -> None:
    assert (clock().into(now, K), clock().left(now, K)) == (into, left)


def test_drift_widens_the_interval_in_both_directions() -> None:
    made = clock()
    made.drift(1000.0)
    made.drift(1000.0)
    assert interval_of(made) == pytest.approx((-2 - 1000 * DRIFT, 2 + 1000 * DRIFT))


def test_the_interval_of_a_date_allows_for_the_round_trip_and_a_wrong_edge_server() -> None:
    lo, hi = dated(AHEAD_S + 10, 10.2, 10.3)
    assert (lo - AHEAD_S, hi - AHEAD_S) == pytest.approx((-0.3 - EDGE, 0.8 + EDGE))


def test_a_dated_clock_is_not_replaced_by_another_date() -> None:
    made = clock()
    made.replace_guess(*dated(AHEAD_S + 10, 10.2, 10.3))
    assert interval_of(made) == (-2.0, 2.0)


def test_an_agreeing_interval_narrows_and_a_contradicting_one_is_counted() -> None:
    made = clock()
    assert made.narrow(AHEAD_S - 1, AHEAD_S + 3)
    assert interval_of(made) == (-1, 2)
    assert not made.narrow(AHEAD_S + 2.1, AHEAD_S + 3)
    assert not made.narrow(AHEAD_S - 9, AHEAD_S - 1.1)
    assert (interval_of(made), made.contradictions) == ((-1, 2), 2)
    assert made.narrow(AHEAD_S - 9, AHEAD_S + 9)
    assert (interval_of(made), made.contradictions) == ((-1, 2), 0)


def test_a_restarted_clock_forgets_its_contradictions() -> None:
    made = clock()
    made.narrow(AHEAD_S + 100, AHEAD_S + 101)
    after = ServerClock(AHEAD_S + 100, AHEAD_S + 101, 0.0)
    Known(100, made).start_again(after, 0.0)
    assert (interval_of(made), made.contradictions) == ((100, 101), 0)


def test_a_clock_that_was_decades_wrong_makes_us_expect_no_others() -> None:
    known = Known(100, ServerClock(0.0, 1.0, 0.0))  # a machine whose clock starts in 1970
    known.start_again(clock(), 0.0)
    assert known.others.expected_until == -1


def test_the_first_date_replaces_a_guess_that_agrees_with_it() -> None:
    made = clock(0.0, 5.0, dated=False)
    lo, hi = dated(AHEAD_S + 10, 10.0, 10.0)
    made.replace_guess(lo, hi)
    assert (made.lo, made.hi, made.dated) == (lo, hi, True)


def test_a_contradicted_guess_keeps_its_interval_and_is_marked_as_dated() -> None:
    made = clock(dated=False)
    made.replace_guess(*dated(AHEAD_S + 3600, 0.0, 0.0))
    assert (interval_of(made), made.dated) == ((-2, 2), True)


def test_a_date_of_a_very_slow_answer_replaces_no_guess() -> None:
    made = clock(dated=False)
    made.replace_guess(*dated(AHEAD_S + 10, 0.0, 40.0))
    assert (interval_of(made), made.dated) == ((-2, 2), False)


def test_clocks_that_the_program_makes_are_possible() -> None:
    made = clock()
    assert made.is_possible(0.0)
    made.drift(86_400.0)
    assert made.is_possible(86_400.0)
    assert clock(0.0, 0.0).is_possible(0.0)
    assert clock(0.0, MAX_WIDTH_S).is_possible(0.0)


@pytest.mark.parametrize(
    "until, now, over", [(30.0, 31.9, False), (30.0, 32.1, True), (-AHEAD_S, -2e6, True)]
)
def test_the_early_end_of_the_interval_decides_what_is_certainly_over(
    until: float, now: float, over: bool
) -> None:
    assert clock().is_over(AHEAD_S + until, now) is over


def test_the_wait_until_an_instant_is_over_includes_the_drift_until_then() -> None:
    made = clock()
    moment = made.when_over(AHEAD_S + 3600)
    assert 3602 < moment < 3602 + 2 * DRIFT * 3602
    made.drift(moment)
    assert not made.is_over(AHEAD_S + 3600, moment - 0.01)
    assert made.is_over(AHEAD_S + 3600, moment + 1e-6)


def test_a_converted_instant_leaves_at_least_as_much_time() -> None:
    made, after = clock(), clock(-3602.0, -3598.0)
    assert made.convert(AHEAD_S + 600, 10.0, after) - AHEAD_S == 600 + 2 - 3598
    assert made.convert(AHEAD_S + 600, 603.0, after) == 0.0
    assert made.convert(0.0, -1e9, after) == 0.0


@pytest.mark.parametrize(
    "made",
    [
        clock(0.0, -0.1),
        clock(0.0, MAX_WIDTH_S + 0.1),
        clock(0.0, 1e15),
        clock(-1e308, 1e308),
        clock(float("nan"), 0.0),
        clock(0.0, float("nan")),
        clock(float("-inf"), 0.0),
        clock(float("inf"), float("inf")),
        clock(-AHEAD_S - 1, -AHEAD_S),
        clock(MAX_UNIX_S, MAX_UNIX_S),
        ServerClock(AHEAD_S, AHEAD_S, CORES_APART_S + 0.1),
        ServerClock(AHEAD_S, AHEAD_S, float("nan")),
        ServerClock(AHEAD_S, AHEAD_S, 0.0, contradictions=-1),
        ServerClock(AHEAD_S, AHEAD_S, 0.0, contradictions=MAX_CONTRADICTIONS + 1),
    ],
    ids=str,
)
def test_a_clock_that_no_answer_can_produce_is_impossible(made: ServerClock) -> None:
    assert not made.is_possible(0.0)
