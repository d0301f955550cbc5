"""Forecasts of other clients' weight in a minute, from hand-drawn earlier minutes."""

import math

import pytest

from binance_oi.budget.ledger import Minute
from binance_oi.budget.others import (
    MINUTE,
    Curve,
    Forecast,
    Others,
    expected_rest,
    is_surprising,
    rest_if_in_bursts,
)
from binance_oi.budget.tuning import CHANCE, LATE, SLOT, SURPRISE

LIMIT = 2400
FASTEST = LIMIT / MINUTE  # weight/s


def curve(*points: tuple[float, int]) -> Curve:
    """A curve through these points, each a second and the weight that others had used by then."""
    drawn = Curve(FASTEST)
    for into, height in points:
        drawn.draw(into, height)
    return drawn


def steadily(rate: float, until: float = MINUTE) -> Curve:
    return curve(*((float(into), int(rate * into)) for into in range(1, int(until) + 1)))


def burst(at: float, size: int = 500, until: float = MINUTE) -> Curve:
    points = range(1, int(until) + 1)
    return curve(*((float(into), size if into >= at else 0) for into in points))


NOTHING = Curve(FASTEST)


def test_a_curve_shows_how_much_was_used_until_any_second() -> None:
    drawn = steadily(10.0)
    assert [drawn.at(into) for into in (0.0, 12.5, 30.0, 59.0, 60.0)] == [0, 125, 300, 590, 600]
    assert drawn.whole


def test_between_two_counts_a_curve_rises_evenly() -> None:
    drawn = curve((10.0, 100), (30.0, 500))
    assert drawn.at(20.0) == 300
    assert len(drawn.heights) == 30 / SLOT


def test_a_late_count_does_not_lower_a_curve() -> None:
    drawn = curve((30.0, 300), (29.0, 250))
    assert (drawn.top, drawn.until) == (300, 30.0)


@pytest.mark.parametrize("into", [12.0, 15.0, 19.0, 30.0, 59.0, 60.0])
@pytest.mark.parametrize("height", [99, 0, -5])
def test_a_falling_count_does_not_lower_a_curve(into: float, height: int) -> None:
    drawn = curve((12.0, 100), (into, height))
    assert drawn.heights == sorted(drawn.heights)
    assert drawn.top == 100
    assert drawn.calm >= 0.0
    assert expected_rest([drawn], curve(), 20.0, 0) >= 0.0
    others = Others({7: drawn})
    assert others.unseen(7, 6000, 10.0) >= 0.0


@pytest.mark.parametrize("into", [0.0, 0.1, 4.999, 5.0, 5.001, 59.99, 60.0, 61.0])
def test_a_curve_may_end_at_any_second(into: float) -> None:
    drawn = curve((into, 7))
    assert drawn.top == drawn.at(MINUTE + 1, rate=0.0) == 7
    assert 0.0 <= drawn.at(into / 2) <= 7
    assert len(drawn.heights) == max(1, math.ceil(min(into, MINUTE) / SLOT))


def test_a_curve_continues_at_the_usual_rate_after_our_last_count() -> None:
    assert steadily(10.0, until=50).at(60.0) == pytest.approx(600)
    assert burst(at=30.0, until=50).at(60.0) == 500
    assert NOTHING.at(60.0) == 0


def test_others_are_expected_to_use_no_more_than_the_limit_allows() -> None:
    assert curve((2.0, 2300)).rate == FASTEST
    assert curve((2.0, 2300)).calm == FASTEST


def test_steady_others_are_expected_to_continue_at_their_rate() -> None:
    for into in (0.0, 17.0, 30.0, 55.0):
        need = expected_rest([steadily(10.0)], NOTHING, into, int(10 * into))
        assert need == pytest.approx(10 * (MINUTE - into), abs=1)


def test_a_burst_is_expected_until_it_has_been_seen() -> None:
    past = [burst(at=30.0)]
    assert expected_rest(past, NOTHING, 10.0, 0) == 500
    assert expected_rest(past, NOTHING, 35.0, 500) <= 0.1 * 500
    assert (
        expected_rest(past, NOTHING, 25.0, 500) == 500
    )  # the weight seen may have been another burst


def test_an_overdue_burst_is_expected_for_a_bounded_time() -> None:
    past = [burst(at=30.0)]  # the curve rises in the slot that ends there
    overdue = 500 - CHANCE * math.sqrt(500)
    assert expected_rest(past, NOTHING, 29.0 + LATE / 2, 0) == pytest.approx(overdue)
    assert expected_rest(past, NOTHING, 31.0 + LATE, 0) == 0


def test_two_bursts_in_a_minute_are_both_expected() -> None:
    past = [curve((9.0, 0), (10.0, 300), (39.0, 300), (40.0, 600), (60.0, 600))]
    assert expected_rest(past, NOTHING, 20.0, 300) == 300


def test_the_minute_in_which_others_used_most_decides() -> None:
    past = [steadily(5.0), burst(at=40.0), steadily(1.0)]
    assert expected_rest(past, NOTHING, 35.0, 0) == 500


def test_others_that_use_less_than_before_are_expected_to_need_less() -> None:
    past = [steadily(20.0)]
    assert expected_rest(past, NOTHING, 30.0, 0) == pytest.approx(0)  # the steady use has ended
    assert 0 < expected_rest(past, NOTHING, 30.0, 100) < 600


def test_a_burst_is_expected_even_when_steady_use_has_stopped() -> None:
    past = [curve(*((float(into), 5 * into + 400 * (into >= 40)) for into in range(1, 61)))]
    assert expected_rest(past, NOTHING, 30.0, 0) == pytest.approx(400, abs=10)


def test_without_earlier_minutes_others_are_expected_to_continue_at_their_mean_rate() -> None:
    assert expected_rest([], curve((10.0, 200)), 10.0, 200) == 50 * 20


def test_others_that_exceed_every_earlier_minute_are_expected_to_continue_at_their_rate() -> None:
    assert expected_rest([steadily(5.0)], steadily(20.0, until=30), 30.0, 600) == 30 * 20


def test_a_partly_seen_minute_is_ignored_once_a_whole_one_was_seen() -> None:
    part = curve((10.0, 100))
    assert expected_rest([part], NOTHING, 0.0, 0) == pytest.approx(600)
    assert expected_rest([part, burst(at=5.0, size=100)], NOTHING, 0.0, 0) == pytest.approx(100)
    assert expected_rest([part], steadily(1.0, until=55), 55.0, 55) < 50


def test_use_from_before_our_first_count_is_expected_at_any_second() -> None:
    past = [curve((40.0, 500), (50.0, 500), (60.0, 500))]
    for into in (0.0, 20.0, 39.9):  # the use may have been a burst at :40
        assert expected_rest(past, NOTHING, into, 0) == 500
    assert expected_rest(past, NOTHING, 41.0, 0) > 400  # or soon after
    assert expected_rest(past, NOTHING, 40.0 + (MINUTE - 40.0) / 4 + 0.1, 0) == 0


def test_once_a_whole_minute_was_seen_only_the_seen_part_of_another_one_is_used() -> None:
    part = curve((40.0, 500), (50.0, 500), (51.0, 700), (60.0, 700))
    past = [part, steadily(0.1)]
    assert expected_rest(past, NOTHING, 5.0, 0) == 200
    assert expected_rest(past, NOTHING, 56.0, 200) < 50


def test_others_that_joined_in_a_partly_seen_minute_are_expected_to_continue() -> None:
    before, joined = steadily(3.0), steadily(28.0, until=12)
    assert expected_rest([before], NOTHING, 1.0, 0) == pytest.approx(3 * 59, abs=3)
    assert expected_rest([before, joined], NOTHING, 1.0, 0) == pytest.approx(28 * 59, abs=28)


def test_a_rate_keeps_its_value_while_our_weight_may_hide_others() -> None:
    drawn = curve((10.0, 200))
    assert expected_rest([], drawn, 12.0, 200) == 20 * 50  # at this rate they have used 240 by now


def test_others_are_never_expected_to_use_more_than_the_limit() -> None:
    assert curve((0.5, 2399)).at(MINUTE, FASTEST) == FASTEST * MINUTE
    assert curve((0.5, 2500)).at(MINUTE, FASTEST) == 2500


def every(seconds: float, size: int, *, first: float, minutes: int = 3) -> list[Curve]:
    """The curves of others that use `size` every `seconds` s, one for each minute."""
    made: list[Curve] = []
    for begin in range(0, 60 * minutes, 60):
        used = [size * max(0, math.floor((begin + n - first) / seconds) + 1) for n in range(61)]
        before = size * max(0, math.ceil((begin - first) / seconds))
        made.append(curve(*((float(n), used[n] - before) for n in range(1, 61))))
    return made


def test_a_curve_shows_the_use_of_each_slot() -> None:
    drawn = curve((2.0, 0), (4.0, 30), (12.0, 30), (14.0, 100))
    assert drawn.rises() == [30, 0, 70]
    assert NOTHING.rises() == []


def test_use_from_before_our_first_count_is_spread_evenly_up_to_the_usual_rate() -> None:
    from_second_12 = curve(*((float(second), 10 * second) for second in range(12, 41)))
    assert from_second_12.rises() == [40, 40, 70, 50, 50, 50, 50, 50]
    assert curve((12.0, 600), (24.0, 600)).rises() == [0, 0, 600, 0, 0]


def test_slots_after_our_last_count_are_filled_at_the_usual_rate() -> None:
    assert steadily(10.0, until=40).all_rises() == [50] * 12
    assert burst(at=7.0, size=300, until=40).all_rises() == [0, 300] + [0] * 10
    seen_for_a_moment = curve((1.0, 5), (2.0, 10), (10.0, 50))
    assert seen_for_a_moment.all_rises() == seen_for_a_moment.rises() + [0] * 10


def test_room_is_left_for_bursts_at_a_different_second_each_minute() -> None:
    past, current = every(45.0, 300, first=37.0, minutes=2), burst(at=7.0, size=300, until=40)
    assert expected_rest(past, current, 40.0, 300) < 10  # `expected_rest` has seen none at :52
    assert rest_if_in_bursts(past, current, 40.0, 300) >= 300


@pytest.mark.parametrize("into", [10.0, 25.0, 45.0])
def test_room_is_left_for_a_burst_that_is_later_than_ever_before(into: float) -> None:
    past = every(90.0, 600, first=5.0, minutes=4)
    assert rest_if_in_bursts(past, NOTHING, into, 0) >= 600


def test_bursts_without_a_rhythm_get_the_use_of_the_busiest_span() -> None:
    past = [*every(60.0, 150, first=10.0, minutes=2), *every(15.0, 150, first=4.0, minutes=1)]
    seen = [rest_if_in_bursts(past, NOTHING, into, 0) for into in (5.0, 30.0, 44.0, 54.0, 56.0)]
    assert seen == [600, 300, 300, 150, 150]


def test_no_room_is_left_for_a_rare_burst_in_the_last_slot() -> None:
    past = every(90.0, 600, first=5.0, minutes=4)
    assert rest_if_in_bursts(past, NOTHING, 54.0, 0) == 600
    assert rest_if_in_bursts(past, NOTHING, 56.0, 0) == 0


def test_possible_copies_of_us_get_no_room_for_a_burst() -> None:
    past = [burst(at=2.0, size=1200), burst(at=30.0, size=1200)] * 2
    assert rest_if_in_bursts(past, NOTHING, 1.0, 0) == 0
    assert rest_if_in_bursts([], burst(at=2.0, size=1200, until=10), 10.0, 1200) == 0


@pytest.mark.parametrize("at", [3.0, 20.0, 48.0])
def test_others_that_came_once_a_minute_get_no_second_burst(at: float) -> None:
    past = [burst(at) for _ in range(3)]
    assert rest_if_in_bursts(past, burst(at, until=at + 2), at + 2.0, 500) == 0


def test_before_a_whole_minute_was_seen_another_burst_is_expected() -> None:
    part = curve((20.0, 0), (24.0, 0), (25.0, 500), (59.0, 500))
    assert rest_if_in_bursts([part], burst(at=10.0, until=20), 20.0, 500) >= 500
    assert rest_if_in_bursts([], burst(at=10.0, until=20), 20.0, 500) >= 500


@pytest.mark.parametrize("into", [0.0, 12.0, 33.0, 58.0])
@pytest.mark.parametrize("until", [52.0, 60.0])
def test_steady_others_get_no_room_for_a_burst(into: float, until: float) -> None:
    past, now = [steadily(10.0, until) for _ in range(3)], steadily(10.0, max(1.0, into))
    assert rest_if_in_bursts(past, now, into, int(10 * into)) <= 10 * (60 - into) + 10


def test_a_start_while_others_are_steady_leaves_no_room_for_a_burst() -> None:
    part = curve((37.5, 500), (40.0, 533))  # a full minute: no requests, so no more counts
    assert rest_if_in_bursts([part], NOTHING, 40.0, 0) <= 20 * 15


def test_others_that_were_never_seen_get_no_room() -> None:
    assert [rest_if_in_bursts([], NOTHING, into, 0) for into in (0.0, 30.0, 57.0, 60.0)] == [0] * 4


def test_everything_is_a_surprise_until_two_whole_minutes_were_seen() -> None:
    assert is_surprising([], NOTHING)
    assert is_surprising([steadily(5.0), steadily(5.0, until=40)], NOTHING)
    assert not is_surprising([steadily(5.0), steadily(5.0)], NOTHING)


def test_a_burst_at_a_new_second_is_a_surprise_for_two_minutes() -> None:
    past = [burst(at=8.0)] * 2
    new = burst(at=40.0)
    assert is_surprising(past, new)
    assert is_surprising([*past, new], burst(at=8.0))
    assert not is_surprising([*past, new, burst(at=8.0)], burst(at=8.0))


@pytest.mark.parametrize(
    "at, is_new",
    [(24.0, True), (28.0, False), (33.0, False), (33.0 + LATE, False), (33.0 + LATE + SLOT, True)],
)
def test_a_burst_that_an_earlier_minute_explains_is_no_surprise(at: float, is_new: bool) -> None:
    for past in ([burst(at=33.0)] * 2, [burst(at=33.0), steadily(1.0)]):
        assert is_surprising(past, burst(at)) == is_new


def test_only_use_above_the_surprise_threshold_is_a_surprise() -> None:
    much = int(SURPRISE * LIMIT)
    past = [burst(at=5.0, size=10)] * 2
    assert not is_surprising(past, burst(at=40.0, size=much))
    assert is_surprising(past, burst(at=40.0, size=much + 1))
    past = [burst(at=40.0)] * 2
    assert not is_surprising(past, burst(at=40.0, size=500 + much))
    assert is_surprising(past, burst(at=40.0, size=500 + much + 1))


def forecast(past: list[Curve], current: Curve, into: float) -> float:
    others = Others({**dict(enumerate(past)), len(past): current})
    minute = Minute(others=current.top)
    return others.forecast(len(past), minute, LIMIT, into, Forecast())[0]


def test_a_forecast_leaves_room_for_a_burst_at_any_second_only_after_a_surprise() -> None:
    past = [burst(at=8.0, size=300)] * 4
    as_ever, late = burst(at=8.0, size=300, until=12), burst(at=40.0, size=300, until=42)
    assert forecast(past, as_ever, 12.0) == expected_rest(past, as_ever, 12.0, 300)
    surprised = [*past, burst(at=40.0, size=300)]
    assert expected_rest(surprised, NOTHING, 50.0, 0) < 300
    assert forecast(surprised, curve((49.0, 0)), 50.0) == 300
    assert forecast(past, late, 42.0) >= expected_rest(past, late, 42.0, 300)
