"""The forecast of others' use of a minute, from hand-drawn curves of earlier minutes."""

import math

import pytest

from binance_oi.budget.others import MINUTE, Curve, Others, expected
from binance_oi.budget.tuning import CHANCE, LATE, SLOT

FASTEST = 40.0  # weight/s


def curve(*looks: tuple[float, int]) -> Curve:
    """A curve through these points: what others had used by when."""
    drawn = Curve(FASTEST)
    for into, height in looks:
        drawn.draw(into, height)
    return drawn


def steadily(rate: float, until: float = MINUTE) -> Curve:
    return curve(*((float(into), int(rate * into)) for into in range(1, int(until) + 1)))


def burst(at: float, size: int = 500, until: float = MINUTE) -> Curve:
    looks = range(1, int(until) + 1)
    return curve(*((float(into), size if into >= at else 0) for into in looks))


NOTHING = Curve(FASTEST)


def test_a_curve_shows_what_was_used_by_when() -> None:
    drawn = steadily(10.0)
    assert [drawn.at(into) for into in (0.0, 12.5, 30.0, 59.0, 60.0)] == [0, 125, 300, 590, 600]
    assert drawn.whole


def test_a_curve_rises_evenly_between_two_counts() -> None:
    drawn = curve((10.0, 100), (30.0, 500))
    assert drawn.at(20.0) == 300
    assert len(drawn.heights) == 30 / SLOT


def test_a_late_count_lowers_no_curve() -> None:
    drawn = curve((30.0, 300), (29.0, 250))
    assert (drawn.top, drawn.until) == (300, 30.0)


@pytest.mark.parametrize("into", [12.0, 15.0, 19.0, 30.0, 59.0, 60.0])
@pytest.mark.parametrize("height", [99, 0, -5])
def test_a_count_that_falls_lowers_no_curve(into: float, height: int) -> None:
    drawn = curve((12.0, 100), (into, height))
    assert drawn.heights == sorted(drawn.heights)
    assert drawn.top == 100
    assert drawn.calm >= 0.0
    assert expected([drawn], curve(), 20.0, 0) >= 0.0
    others = Others({7: drawn})
    assert others.unseen(7, 6000, 10.0) >= 0.0


@pytest.mark.parametrize("into", [0.0, 0.1, 4.999, 5.0, 5.001, 59.99, 60.0, 61.0])
def test_a_curve_can_be_drawn_to_any_moment(into: float) -> None:
    drawn = curve((into, 7))
    assert drawn.top == drawn.at(MINUTE + 1, rate=0.0) == 7
    assert 0.0 <= drawn.at(into / 2) <= 7
    assert len(drawn.heights) == max(1, math.ceil(min(into, MINUTE) / SLOT))


def test_beyond_our_last_count_others_go_on_at_their_usual_rate() -> None:
    assert steadily(10.0, until=50).at(60.0) == pytest.approx(600)
    assert burst(at=30.0, until=50).at(60.0) == 500
    assert NOTHING.at(60.0) == 0


def test_others_are_expected_to_go_on_no_faster_than_the_limit_allows() -> None:
    assert curve((2.0, 2300)).rate == FASTEST
    assert curve((2.0, 2300)).calm == FASTEST


def test_steady_others_need_their_rate_for_the_rest_of_the_minute() -> None:
    for into in (0.0, 17.0, 30.0, 55.0):
        need = expected([steadily(10.0)], NOTHING, into, int(10 * into))
        assert need == pytest.approx(10 * (MINUTE - into), abs=1)


def test_a_burst_is_expected_until_it_has_come() -> None:
    past = [burst(at=30.0)]
    assert expected(past, NOTHING, 10.0, 0) == 500
    assert expected(past, NOTHING, 35.0, 500) <= 0.1 * 500
    assert expected(past, NOTHING, 25.0, 500) == 500  # it may have been another burst


def test_a_late_burst_is_expected_for_a_while() -> None:
    past = [burst(at=30.0)]  # the curve rises in the slot that ends there
    overdue = 500 - CHANCE * math.sqrt(500)
    assert expected(past, NOTHING, 29.0 + LATE / 2, 0) == pytest.approx(overdue)
    assert expected(past, NOTHING, 31.0 + LATE, 0) == 0


def test_two_bursts_in_a_minute_are_both_expected() -> None:
    past = [curve((9.0, 0), (10.0, 300), (39.0, 300), (40.0, 600), (60.0, 600))]
    assert expected(past, NOTHING, 20.0, 300) == 300


def test_the_most_demanding_minute_counts() -> None:
    past = [steadily(5.0), burst(at=40.0), steadily(1.0)]
    assert expected(past, NOTHING, 35.0, 0) == 500


def test_others_that_use_less_than_before_are_expected_to_need_less() -> None:
    past = [steadily(20.0)]
    assert expected(past, NOTHING, 30.0, 0) == pytest.approx(0)  # they have gone
    assert 0 < expected(past, NOTHING, 30.0, 100) < 600


def test_a_burst_is_expected_although_steady_others_have_gone() -> None:
    past = [curve(*((float(into), 5 * into + 400 * (into >= 40)) for into in range(1, 61)))]
    assert expected(past, NOTHING, 30.0, 0) == pytest.approx(400, abs=10)


def test_without_a_past_others_are_expected_to_go_on_at_their_mean_rate() -> None:
    assert expected([], curve((10.0, 200)), 10.0, 200) == 50 * 20


def test_others_that_exceed_every_past_minute_are_expected_to_go_on() -> None:
    assert expected([steadily(5.0)], steadily(20.0, until=30), 30.0, 600) == 30 * 20


def test_a_partly_seen_minute_is_no_pattern_beside_a_whole_one() -> None:
    part = curve((10.0, 100))
    assert expected([part], NOTHING, 0.0, 0) == pytest.approx(600)
    assert expected([part, burst(at=5.0, size=100)], NOTHING, 0.0, 0) == pytest.approx(100)
    assert expected([part], steadily(1.0, until=55), 55.0, 55) < 50


def test_use_before_our_first_count_may_come_at_any_time() -> None:
    past = [curve((40.0, 500), (50.0, 500), (60.0, 500))]
    for into in (0.0, 20.0, 39.9):  # it may have been a burst at :40
        assert expected(past, NOTHING, into, 0) == 500
    assert expected(past, NOTHING, 41.0, 0) > 400  # or soon after
    assert expected(past, NOTHING, 40.0 + (MINUTE - 40.0) / 4 + 0.1, 0) == 0


def test_beside_a_whole_minute_only_the_seen_part_of_another_counts() -> None:
    part = curve((40.0, 500), (50.0, 500), (51.0, 700), (60.0, 700))
    past = [part, steadily(0.1)]
    assert expected(past, NOTHING, 5.0, 0) == 200
    assert expected(past, NOTHING, 56.0, 200) < 50


def test_others_that_joined_in_a_partly_seen_minute_are_expected_to_go_on() -> None:
    before, joined = steadily(3.0), steadily(28.0, until=12)
    assert expected([before], NOTHING, 1.0, 0) == pytest.approx(3 * 59, abs=3)
    assert expected([before, joined], NOTHING, 1.0, 0) == pytest.approx(28 * 59, abs=28)


def test_a_rate_stays_while_our_weight_may_hide_others() -> None:
    drawn = curve((10.0, 200))
    assert expected([], drawn, 12.0, 200) == 20 * 50  # at this rate they have used 240 by now


def test_others_are_never_expected_to_use_more_than_the_limit() -> None:
    assert curve((0.5, 2399)).at(MINUTE, FASTEST) == FASTEST * MINUTE
    assert curve((0.5, 2500)).at(MINUTE, FASTEST) == 2500
