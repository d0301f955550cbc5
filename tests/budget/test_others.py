"""Tests draw how much other clients used in earlier minutes, and check the forecast from that."""

import math
from collections.abc import Sequence

import pytest

from binance_oi.budget.bursts import _likely, find_bursts, room_for_bursts
from binance_oi.budget.ledger import Minute
from binance_oi.budget.others import (
    MINUTE,
    Curve,
    Forecast,
    Others,
    rest_if_repeated,
    row_of,
)
from binance_oi.budget.tuning import BURST, BURST_RISK, BURST_RISK_FOR, CHANCE, LATE, SIGMA, SLOT

LIMIT = 2400
FASTEST = LIMIT / MINUTE  # weight/s


def curve(*points: tuple[float, int]) -> Curve:
    """Draw a curve. Each point is a second, and the weight that others had used by that second."""
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
    assert rest_if_repeated(drawn, 20.0, 0) >= 0.0
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


def need(past: Sequence[Curve], current: Curve, into: float, others: int = 0) -> float:
    """The forecast of `current`, if others used the minutes before it as in `past`."""
    return noted(past, current, into, others).need


def noted(past: Sequence[Curve], current: Curve, into: float, others: int = 0) -> Forecast:
    known = Others({**dict(enumerate(past)), len(past): current})
    known.forecast(len(past), Minute(others=others), LIMIT, into, latest := Forecast())
    return latest


def room(past: Sequence[Curve], current: Curve, into: float, others: int = 0) -> float:
    """The room for bursts alone, without the use at the usual rate."""
    row = row_of(dict(enumerate(past)), len(past), current)
    bursts = find_bursts(row, LIMIT)
    return room_for_bursts(row, bursts, into, LIMIT, others) if bursts else 0.0


def test_steady_others_are_expected_to_continue_at_their_rate() -> None:
    for into in (0.0, 17.0, 30.0, 55.0):
        rest = need([steadily(10.0)], NOTHING, into, int(10 * into))
        assert rest == pytest.approx(10 * (MINUTE - into), abs=1)


def test_a_burst_is_expected_until_it_has_been_seen() -> None:
    past = burst(at=30.0)
    assert rest_if_repeated(past, 10.0, 0) == 500
    assert rest_if_repeated(past, 35.0, 500) == 0
    assert rest_if_repeated(past, 24.0, 500) == 500  # the weight seen may have been another burst


def test_an_overdue_burst_is_expected_for_a_bounded_time() -> None:
    past = burst(at=30.0)  # the curve rises in the slot that ends at second 30
    overdue = 500 - CHANCE * math.sqrt(500)
    assert rest_if_repeated(past, 29.0, 0) > overdue
    assert rest_if_repeated(past, 31.0 + LATE / 2, 0) == pytest.approx(overdue)
    assert rest_if_repeated(past, 31.0 + LATE, 0) == 0


def test_two_bursts_in_a_minute_are_both_expected() -> None:
    past = curve((9.0, 0), (10.0, 300), (39.0, 300), (40.0, 600), (60.0, 600))
    assert rest_if_repeated(past, 20.0, 300) == 300


def test_the_minute_in_which_others_used_most_decides_if_they_send_no_bursts() -> None:
    past = [steadily(5.0), steadily(1.5), steadily(1.0)]
    assert need(past, steadily(1.0, until=20), 20.0, 20) == pytest.approx(5 * 40, abs=90)
    assert need(past[1:], steadily(1.0, until=20), 20.0, 20) == pytest.approx(1.5 * 40, abs=5)


def test_without_earlier_minutes_others_are_expected_to_continue_at_their_mean_rate() -> None:
    assert need([], curve((10.0, 50)), 10.0, 50) == 50 * 5


def test_use_before_our_first_count_is_not_expected_again_at_the_same_seconds() -> None:
    part = curve((10.0, 90), (12.0, 90), (60.0, 90))
    assert rest_if_repeated(part.seen(), 5.0, 0) == 0
    assert need([part], steadily(0.0, until=20), 20.0) == 90 / MINUTE * 40  # their mean rate


def test_others_that_joined_in_a_partly_seen_minute_are_expected_to_continue() -> None:
    before, joined = steadily(3.0), steadily(28.0, until=12)
    assert need([before], NOTHING, 1.0) == pytest.approx(3 * 59, abs=3)
    assert need([before, joined], NOTHING, 1.0) >= 28 * 59


def test_a_rate_keeps_its_value_while_our_weight_may_hide_others() -> None:
    drawn = curve((10.0, 50))
    assert need([], drawn, 12.0, 50) == 5 * 50  # 300 in the minute, less the 50 seen


def test_others_are_never_expected_to_use_more_than_the_limit() -> None:
    assert curve((0.5, 2399)).at(MINUTE, FASTEST) == FASTEST * MINUTE
    assert curve((0.5, 2500)).at(MINUTE, FASTEST) == 2500


def every(seconds: float, size: int, *, first: float, minutes: int = 3) -> list[Curve]:
    """Draw a curve of each minute: others use `size` every `seconds` s, from second `first` on."""
    made: list[Curve] = []
    for begin in range(0, 60 * minutes, 60):
        used = [size * max(0, math.floor((begin + n - first) / seconds) + 1) for n in range(61)]
        before = size * max(0, math.ceil((begin - first) / seconds))
        made.append(curve(*((float(n), used[n] - before) for n in range(1, 61))))
    return made


def test_a_curve_shows_the_use_of_each_slot() -> None:
    drawn = curve((2.0, 0), (4.0, 30), (12.0, 30), (14.0, 100))
    assert drawn.rises(0.0, keep_all=True) == [30, 0, 70]
    assert NOTHING.rises(0.0, keep_all=True) == []


@pytest.mark.parametrize("usual, keep_all", [(10, True), (10, False), (90, True)])
def test_use_from_before_our_first_count_is_spread_evenly_up_to_the_usual_use(
    usual: int, keep_all: bool
) -> None:
    drawn = curve((12.0, 60), (14.0, 67), (24.0, 70))
    even = min(usual, 20)
    rises = [even, even, 60 - 2 * even + 7 if keep_all else even + 7, 1, 2]
    assert drawn.rises(usual, keep_all=keep_all) == rises


def test_bursts_every_45_s_get_room_when_the_next_one_is_due() -> None:
    past = every(45.0, 300, first=28.0, minutes=2)  # at :28, :13 and :58
    assert room(past, burst(at=43.0, size=300, until=50), 50.0, 300) == 0  # due in 38 s, at :28
    assert room(past, NOTHING, 20.0) == 300
    assert room(past[:1], burst(at=13.0, size=300, until=57), 57.0, 300) == 300  # due at :58
    assert rest_if_repeated(past[0], 57.0, 300) < 300


def test_a_burst_that_is_late_gets_room_until_the_minute_ends() -> None:
    past = every(90.0, 600, first=8.0, minutes=4)  # at :08, :38, never, and :08
    assert [room(past, NOTHING, into) for into in (10.0, 25.0, 45.0, 55.0)] == [600] * 4


def test_a_burst_that_comes_no_earlier_than_the_next_minute_gets_no_room() -> None:
    past = every(90.0, 600, first=14.0, minutes=2)  # at :14 and :44
    assert [room(past, NOTHING, into) for into in (0.0, 30.0, 59.0)] == [0, 0, 0]


def test_a_single_gap_may_be_one_slot_shorter_than_it_looks() -> None:
    seen_late = curve((24.0, 0), (29.0, 0), (29.9, 300), (60.0, 300))  # in slot 5, then in slot 3
    assert room([seen_late], burst(at=16.0, size=300, until=58), 58.0, 300) == 300


def test_a_short_gap_alone_may_be_chance() -> None:
    short, long = (
        curve((1.0, 0), (9.0, 0), (10.0, 200), (at - 1.0, 200), (at, 400)) for at in (41.0, 59.0)
    )
    assert room([], short, 59.5, 400) == 200
    assert room([], long, 59.5, 400) == 0


def at_random() -> list[Curve]:
    """Draw three minutes twice: with six bursts of 150, with none, and with two."""
    return [*bursts_at(3.0, 12.0, 21.0, 33.0, 44.0, 58.0), *bursts_at(), *bursts_at(8.0, 52.0)] * 2


def bursts_at(*seconds: float, size: int = 150) -> list[Curve]:
    looks = range(1, int(MINUTE) + 1)
    return [curve(*((float(into), size * sum(into >= at for at in seconds)) for into in looks))]


def test_bursts_without_a_rhythm_get_room_that_chance_rarely_exceeds() -> None:
    past = at_random()[1:]
    seen, span = sum(each.top for each in past) // 150, len(past) * MINUTE
    for into in (0.0, 10.0, 30.0, 44.0, 54.0, 58.0, 59.0):
        kept = room(past, NOTHING, into)
        chances = [chance_of(n, seen, span + into, MINUTE - into) for n in range(60)]
        assert sum(chances) == pytest.approx(1.0)
        bursts = round(kept / 150)
        assert kept == 150 * bursts
        risk = BURST_RISK * min(1.0, BURST_RISK_FOR / (MINUTE - into))
        assert sum(chances[bursts + 1 :]) <= risk < sum(chances[bursts:])


def chance_of(number: int, seen: int, span: float, left: float) -> float:
    """The chance that `number` bursts come in `left` seconds before `seen` more in `span` seconds.

    Each burst comes in one of the two times, and which one depends on their lengths alone.
    """
    part = left / (span + left)
    return math.comb(number + seen - 1, number) * part**number * (1.0 - part) ** seen


@pytest.mark.parametrize("seen", [1.0, 400.0])
def test_however_often_bursts_come_room_for_no_more_than_the_limit_is_kept(seen: float) -> None:
    assert _likely(seen, 1.0, 59.0, 16.0) == 16


def test_several_bursts_at_the_same_seconds_of_each_minute_get_no_further_one() -> None:
    past, current = bursts_at(8.0, 21.0, 26.0) * 4, bursts_at(8.0, 21.0, 26.0)
    assert room(past, current[0], 30.0, 450) == 0
    past = bursts_at(8.0, 16.0, 40.0) * 2
    now = curve((7.0, 0), (8.0, 150), (15.0, 150), (16.0, 300), (39.0, 300), (40.0, 450))
    assert room(past, now, 40.0, 450) >= 150  # we have not seen enough minutes yet


def test_equal_gaps_show_that_no_burst_comes_in_this_minute() -> None:
    past = every(90.0, 600, first=14.0, minutes=4)  # at :14, :44, never and :14
    assert room(past[:2], NOTHING, 5.0) == 0
    assert room(past[:4], NOTHING, 5.0) == 600  # due at :44
    assert room([*past, past[1]], NOTHING, 5.0) == 0


def test_a_burst_that_goes_on_is_expected_to_become_as_large_as_the_others() -> None:
    past, looks = [evenly(10, 35)] * 3, range(1, 25)
    current = curve(*((float(n), 10 * max(0, n - 10)) for n in looks))
    assert room(past, current, 24.0, 140) == 250 - 140
    assert room(past, current, 29.9, 140) == 250 - 140
    assert room(past, current, 30.0, 140) == 0  # no count shows that it goes on


def test_use_of_about_a_minute_bounds_the_room_for_bursts() -> None:
    past = at_random()
    bound = 6 * 150 + 6 * 150  # use of the busiest 55 s, and its excess over the calmest 65 s
    assert room(past, NOTHING, 0.0, bound - 150) == 150
    assert room(past, NOTHING, 0.0, bound) == 0
    even = [
        curve(*((float(n), round(each.at(float(n))) + n) for n in range(1, 61))) for each in past
    ]
    more = 55 + (55 - 65) - 60 * 1  # at 1 weight/s: 55 s, their excess over 65 s, less 60 s
    assert room(even, NOTHING, 0.0, 1500) == pytest.approx(bound + more - 1500, abs=2)


@pytest.mark.parametrize("rate, lasts, number", [(4.8, 40, 0), (5, 15, 0), (5, 25, 1), (8, 15, 1)])
def test_a_slot_of_a_burst_has_more_than_a_quarter_of_the_threshold(
    rate: float, lasts: int, number: int
) -> None:
    drawn = curve(*((float(n), round(rate * min(max(0, n - 10), lasts))) for n in range(1, 61)))
    assert len(find_bursts(row_of({}, 0, drawn), LIMIT)) == number


def test_slots_with_a_rate_have_half_to_one_and_a_half_times_as_much_use() -> None:
    for rise, number in ((0, 0), (1, 4), (2, 4), (3, 4), (4, 0)):  # 0.4/s are 2 in a slot
        steady = [(5.0 * n, 50 + rise * n) for n in range(1, 6)]
        assert curve((0.5, 50), *steady).slots_with_rate(0.4) == number


def test_a_single_request_in_a_slot_has_a_rate_that_is_lower() -> None:
    rare = curve((0.5, 50), (5.0, 51), (10.0, 51), (15.0, 52), (20.0, 54))
    assert rare.slots_with_rate(0.1) == 1


def test_use_before_the_first_count_is_in_no_slot_with_a_rate() -> None:
    drawn = curve((7.0, 2), (12.0, 4), (17.0, 6), (22.0, 8))
    assert drawn.seen().slots_with_rate(0.4) == 3


def test_possible_copies_of_us_get_no_room_for_a_burst() -> None:
    past = [burst(at=2.0, size=1200), burst(at=30.0, size=1200)] * 2
    assert need(past, curve((1.0, 0)), 1.0) == 1200
    past[-1] = past[1] = burst(at=30.0, size=150)
    assert need(past, curve((1.0, 0)), 1.0) > 1200  # copies would use much of every minute


@pytest.mark.parametrize("at", [8.0, 20.0, 48.0])
def test_others_that_came_once_a_minute_get_no_second_burst(at: float) -> None:
    past = [burst(at) for _ in range(3)]
    assert room(past, NOTHING, at - 2.0) == 500
    assert room(past, burst(at, until=at + 2), at + 2.0, 500) == 0


def test_others_that_came_in_two_minutes_at_one_second_get_no_second_burst() -> None:
    assert room([burst(at=3.6)], burst(at=3.6, until=6), 6.0, 500) == 0


def evenly(begin: int, end: int, rate: int = 10) -> Curve:
    """Others that use `rate` weight/s from second `begin` to `end`, and nothing else."""
    return curve(*((float(n), rate * min(max(0, n - begin), end - begin)) for n in range(1, 61)))


def test_ten_seconds_of_a_sweep_show_no_usual_rate() -> None:
    part = curve((2.3, 0), (5.0, 64), (10.0, 224), (12.3, 384))
    assert room([part], curve((24.0, 0)), 24.0) >= 384


def both(one: Curve, other: Curve) -> Curve:
    """Draw the curve of two clients together."""
    return curve(*((float(n), round(one.at(n) + other.at(n))) for n in range(1, 61)))


def test_longer_use_beside_steady_use_gets_room_only_for_itself() -> None:
    kept = room([both(evenly(10, 35), steadily(5.0))] * 3, NOTHING, 0.0)
    assert kept == pytest.approx(250, abs=30)


def test_others_that_used_more_than_ever_get_no_room_for_bursts() -> None:
    assert need(at_random()[1:], curve((20.0, 0)), 20.0, 2000) == 0


@pytest.mark.parametrize("seconds", [(3.6, 5.2, 4.9), (59.2, 54.8, 56.0), (0.5, 2.0, 4.9)])
def test_a_burst_on_the_edge_of_a_slot_still_comes_once_a_minute(
    seconds: tuple[float, ...],
) -> None:
    past = [burst(at) for at in seconds * 2][:5]
    current = burst(seconds[-1], until=min(59.0, seconds[-1] + 2))
    assert room(past, current, current.until, 500) == 0


def test_several_clients_that_come_once_a_minute_get_one_burst_each() -> None:
    offsets = (0.0, 4.0, 1.0, 3.0, 2.0)
    past = [bursts_at(*(at + n for at in (4.0, 21.0, 33.0)))[0] for n in offsets]
    whole = bursts_at(6.0, 23.0, 35.0)[0]
    assert (
        room(past, curve(*((float(n), round(whole.at(n))) for n in range(1, 41))), 40.0, 450) == 0
    )


def test_after_a_first_burst_another_one_is_expected() -> None:
    part = curve((20.0, 0), (24.0, 0), (25.0, 500), (59.0, 500))
    assert room([part], NOTHING, 5.0) >= 500
    assert room([], burst(at=10.0, until=20), 20.0, 500) >= 500


def test_a_first_count_without_use_by_others_shows_the_time_before_it() -> None:
    part = curve((24.0, 0), (24.9, 500), (59.0, 500))
    assert room([part], burst(at=26.0, until=30), 30.0, 500) == 0  # the gap is 60 s


@pytest.mark.parametrize("size, expected", [(900, 900), (901, 0), (2399, 0)])
def test_only_little_use_before_our_first_count_is_a_burst(size: int, expected: int) -> None:
    part = curve((40.0, size), (59.0, size))
    assert min(room([part], NOTHING, 5.0), 900) == expected


def test_use_before_our_first_count_is_left_out_once_we_know_enough_minutes() -> None:
    part, quiet = curve((40.0, 500), (59.0, 500)), curve((1.0, 0), (60.0, 0))
    assert room([part, *[quiet] * 2], NOTHING, 5.0) > 0
    assert room([part, *[quiet] * 3], NOTHING, 5.0) == 0


def test_the_margin_is_that_of_the_steady_or_the_repeated_use() -> None:
    bursts = noted([burst(8.0)] * 4, curve((1.0, 0)), 1.0)
    assert bursts.need == 500
    assert bursts.margin == 0
    small = noted([burst(8.0, size=90)] * 4, curve((1.0, 0)), 1.0)
    assert small.need == 90
    assert small.margin == SIGMA * math.sqrt(90)


def test_much_use_before_the_first_count_of_a_later_minute_is_a_burst() -> None:
    quiet, much = curve((1.0, 0), (60.0, 0)), curve((9.0, 1000), (60.0, 1000))
    assert room([quiet, much], NOTHING, 5.0) >= 1000
    assert room([much, quiet], NOTHING, 5.0) == 0


def test_early_in_our_first_minute_the_rate_of_bursts_has_a_bound() -> None:
    current = curve((0.3, 2300), (0.8, 2300), (1.0, 2400))
    assert need([], current, 1.0, 2400) == 0
    current = curve((0.3, 899), (0.8, 899), (1.0, 900))
    assert room([], current, 1.0, 900) <= 10 * 900


@pytest.mark.parametrize("into", [0.0, 12.0, 33.0, 58.0])
@pytest.mark.parametrize("until", [52.0, 60.0])
def test_steady_others_get_no_room_for_a_burst(into: float, until: float) -> None:
    past, now = [steadily(10.0, until) for _ in range(3)], steadily(10.0, max(1.0, into))
    assert room(past, now, into, int(10 * into)) == 0


def test_bursts_beside_steady_others_leave_room_for_both() -> None:
    both = curve(*((float(into), 10 * into + 300 * (into >= 20)) for into in range(1, 61)))
    assert room([both] * 3, NOTHING, 15.0) == pytest.approx(300, abs=30)
    assert need([both] * 3, NOTHING, 15.0, 150) == pytest.approx(300 + 10 * 45, abs=30)


def test_others_that_were_never_seen_get_no_room() -> None:
    assert [room([], NOTHING, into) for into in (0.0, 30.0, 57.0, 60.0)] == [0] * 4


def hourly(minutes: int, *, without: tuple[int, ...] = (), at: float = 8.0) -> dict[int, Curve]:
    """Draw a burst of 500 at second `at` of each minute. We have no counts of minutes `without`."""
    return {k: burst(at) for k in range(minutes) if k not in without}


def test_a_minute_without_counts_does_not_look_like_one_without_bursts() -> None:
    seen = hourly(5, without=(1, 3))
    for into in (1.0, 6.0, 10.0):
        others = Others({**seen, 5: curve((into, 0))})
        assert others.forecast(5, Minute(), LIMIT, into, Forecast())[0] > 450  # chance explains 45
    assert Others({**seen, 5: burst(8.0, until=9), 6: NOTHING}).forecast(
        6, Minute(), LIMIT, 1.0, Forecast()
    ) >= (500, 500.0)


def test_a_late_answer_may_begin_the_curve_of_an_older_minute() -> None:
    minutes = {4: burst(40.0, size=300), 5: burst(20.0, size=300), 6: curve((20.0, 0))}
    asked = 6, Minute(), LIMIT, 20.0
    in_order = Others(minutes).forecast(*asked, Forecast())
    late = Others({k: minutes[k] for k in (5, 4, 6)}).forecast(*asked, Forecast())
    assert late == in_order


def test_the_time_of_a_minute_without_counts_passes_too() -> None:
    seen = dict(enumerate(every(90.0, 600, first=14.0, minutes=7)))  # at 0:14, 1:44, 3:14, 4:44
    for without, k, kept in ((2, 3, True), (2, 5, False)):
        known = {j: each for j, each in seen.items() if j < k and j != without}
        row = row_of(known, k, curve((5.0, 0)))
        assert (room_for_bursts(row, find_bursts(row, LIMIT), 5.0, LIMIT, 0) > 0) == kept


def test_only_use_above_the_threshold_is_a_burst() -> None:
    least = int(BURST * LIMIT)
    assert room([burst(at=40.0, size=least)], NOTHING, 0.0) == 0
    assert room([burst(at=40.0, size=least + 1)], NOTHING, 0.0) > 0


def forecast(past: list[Curve], current: Curve, into: float) -> float:
    others = Others({**dict(enumerate(past)), len(past): current})
    minute = Minute(others=current.top)
    return others.forecast(len(past), minute, LIMIT, into, Forecast())[0]


def test_a_forecast_leaves_room_for_a_second_burst_at_any_second() -> None:
    past, current = [burst(at=8.0, size=300)], curve((55.0, 0))
    assert rest_if_repeated(past[0], 56.0, 0) == 0
    assert forecast(past, current, 56.0) == 300


def test_a_forecast_expects_no_burst_before_it_is_due() -> None:
    past = every(90.0, 600, first=8.0, minutes=5)  # at :08, :38, never, :08 and :38
    assert rest_if_repeated(past[0], 10.0, 0) > 500
    assert forecast(past, curve((9.0, 0)), 10.0) == 0


def test_the_seconds_of_earlier_bursts_matter_only_if_all_minutes_have_them() -> None:
    past, now = at_random()[1:], curve((50.0, 0))
    assert rest_if_repeated(past[2], 50.0, 0) > 150 * 2  # at :44, which may be late, and at :58
    assert need(past, now, 50.0) == room(past, now, 50.0)
    late = burst(at=57.0, size=600)
    assert need([both(each, late) for each in past], curve((59.0, 0)), 59.0) > 550  # less chance


@pytest.mark.parametrize("joined", ["in this minute", "in the minute before"])
def test_the_room_for_bursts_keeps_the_steady_use_of_a_new_client(joined: str) -> None:
    past = at_random()[1:]
    current = steadily(4.0, until=20.0)
    if joined == "in the minute before":
        past[-1], current = steadily(4.0), curve((20.0, 0))
    bursts, steady = room(past, current, 20.0, current.top), 4.0 * 40
    latest = noted(past, current, 20.0, current.top)
    assert latest.need == pytest.approx(bursts + steady, abs=5)
    assert latest.margin == pytest.approx(SIGMA * math.sqrt(steady), abs=1)


def test_the_usual_use_keeps_its_room_after_the_last_burst_of_a_minute() -> None:
    past = [
        curve(*((float(n), int(each.at(float(n))) + 5 * n) for n in range(1, 61)))
        for each in every(90.0, 300, first=8.0, minutes=5)
    ]
    current = steadily(5.0, until=10.0)
    assert room(past, current, 10.0, 50) == 0
    latest = noted(past, current, 10.0, 50)
    assert latest.need == pytest.approx(250, abs=5)
    assert latest.margin == pytest.approx(SIGMA * math.sqrt(250), abs=1)


def others_of(moments: Sequence[tuple[float, int]], minute: int, into: float) -> tuple[float, int]:
    """Return the room that we keep for others, and what they then use of the rest of the minute.

    We see a count of their use every 2 s.

    Args:
        moments: When they use weight, in seconds since the first minute began, and how much.
        minute: The number of the minute, from 0.
        into: The second of that minute.
    """

    def used(k: int, until: float) -> int:
        return sum(size for at, size in moments if 60 * k <= at < 60 * k + until)

    others = Others()
    for k in range(minute + 1):
        for second in range(0, math.ceil(into - 0.5) if k == minute else 60, 2):
            others.draw(k, LIMIT, second + 0.5, used(k, second + 0.5))
    others.draw(minute, LIMIT, into, now := used(minute, into))
    _, most = others.forecast(minute, Minute(others=now), LIMIT, into, Forecast())
    return most, used(minute, MINUTE) - now


def repeated(every: int, size: int, first: int, since: int = 0) -> list[tuple[float, int]]:
    """List uses of `size` every `every` s from second `first` on, without those before `since`."""
    return [(float(at), size) for at in range(first, 720, every) if at >= since]


def test_a_new_client_that_polls_every_10_s_keeps_its_room_beside_bursts_every_90_s() -> None:
    moments = repeated(90, 600, first=8) + repeated(10, 90, first=5, since=240)
    for into in (0.5, 10.5, 20.5, 30.5):  # the new client used 540 in the minute before
        kept, rest = others_of(moments, 5, into)
        assert kept >= rest


def test_sweeps_of_25_s_every_90_s_get_room() -> None:
    moments = [(at + n / 2, 16) for at, _ in repeated(90, 800, first=40) for n in range(50)]
    for minute in range(2, 9):
        for into in (5.0, 9.0, 20.0, 30.0, 39.0):
            kept, rest = others_of(moments, minute, into)
            assert kept >= rest - 120


@pytest.mark.parametrize("into", [0.1, 20.0, 59.9])
@pytest.mark.parametrize("used", [0, 600, 2399, 2500])
def test_no_forecast_from_bursts_is_negative_or_beyond_the_limit(into: float, used: int) -> None:
    for past in (at_random()[1:], every(25.0, 800, first=3.0, minutes=2), [], [burst(8.0)]):
        current = curve((0.05, 0), (max(into, 0.3), used))
        others = Others(dict(enumerate([*past, current])))
        need, most = others.forecast(
            len(past), Minute(others=used), LIMIT, into, latest := Forecast()
        )
        assert latest.need >= 0
        assert most >= need
        assert 0 <= need <= max(latest.need, LIMIT - used)


def test_a_late_count_of_an_earlier_minute_changes_the_room_for_bursts() -> None:
    past, latest = [curve((1.0, 0), (52.0, 0))] * 2, Forecast()
    others = Others({0: past[0], 1: curve((1.0, 0), (52.0, 0)), 2: curve((1.0, 0))})
    others.forecast(2, Minute(), LIMIT, 1.0, latest)
    assert latest.need == 0
    others.draw(1, LIMIT, 53.0, 400)
    others.forecast(2, Minute(), LIMIT, 2.0, latest)
    assert latest.need >= 400
