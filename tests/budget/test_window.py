"""A `Window` keeps a limit of any span by our own books.

Rule of this file: time is a number.
"""

import pytest

from binance_oi.budget.window import MIN_SLOTTED_S, MIN_WAIT_S, SLOTS, Window
from binance_oi.exchange.limits import Limit

FLIGHT = 10.0  # s after its charge in which the exchange may count a request


def window(seconds: int = 10, most: int = 100, *, requests: bool = False) -> Window:
    limit = Limit(seconds, most, requests)
    return Window.begin(limit, 0.0, FLIGHT, counted=0, flying=0)


def use(made: Window, now: float, weight: int, answered: float | None = None) -> None:
    made.charge(now, now + FLIGHT, weight)
    if answered is not None:
        made.settle(now + FLIGHT, answered, weight)


def test_weight_leaves_the_window_after_the_span_of_the_limit_and_not_before() -> None:
    made = window()
    use(made, 1.0, 100, answered=1.2)
    assert made.used(11.2) == 100
    assert made.used(11.2 + MIN_SLOTTED_S / SLOTS) == 0


def test_moving_a_window_moves_all_its_instants() -> None:
    made = window()
    use(made, 1.0, 60, answered=1.2)
    made.bulk_at, made.kept_until = 1.0, 2.0
    width = MIN_SLOTTED_S / SLOTS
    slots = made.move(30.0)
    assert slots * width >= 30.0
    assert (made.bulk_at, made.kept_until) == (31.0, 32.0)
    assert made.used(31.2) == 60
    assert made.used(41.2 + 2 * width) == 0


@pytest.mark.parametrize("seconds", [1, 10, 60, 86_400])
def test_the_number_of_slots_is_bounded(seconds: int) -> None:
    made = window(seconds, 10_000_000)
    for n in range(1000):
        use(made, n * seconds / 50, 1, answered=n * seconds / 50 + 0.1 if n % 2 else None)
    assert len(made.slots) <= 3 * SLOTS


def test_there_is_room_once_enough_weight_has_left_the_window() -> None:
    made = window()
    use(made, 1.0, 60, answered=1.1)
    use(made, 5.0, 40, answered=5.1)
    assert made.until_room(6.0, 60, 100) == pytest.approx(5.5, abs=0.51)
    assert made.until_room(6.0, 61, 100) == pytest.approx(9.5, abs=0.51)
    assert made.until_room(6.0, 101, 100) is None
    assert made.until_room(20.0, 100, 100) == 0.0


def test_weight_under_way_leaves_as_if_its_answer_arrived_now() -> None:
    made = window()
    use(made, 11.0, 100)
    assert made.until_room(12.0, 1, 100) == 10.0


def test_the_shortest_wait_for_room_is_not_zero() -> None:
    made = window(most=5)
    use(made, 11.0, 5, answered=11.1)
    left = made.until_room(12.0, 1, 5)
    assert left is not None
    again = made.until_room(12.0 + left - 1e-9, 1, 5)
    assert again is not None
    assert again >= MIN_WAIT_S


def test_a_limit_of_requests_counts_each_request_as_one() -> None:
    made = window(requests=True)
    use(made, 11.0, 40)
    assert made.used(12.0) == 1


def test_a_request_whose_answer_comes_after_its_slot_left_counts_again() -> None:
    made = window(1)
    use(made, 11.0, 5)
    use(made, 40.0, 1)
    made.settle(11.0 + FLIGHT, 41.0, 5)
    assert made.used(41.5) == 6
    made.refund(11.0 + FLIGHT, 5)  # the weight has left the window already
    assert made.used(41.5) == 6


def test_a_charge_from_before_the_window_counts_once() -> None:
    made = Window.begin(Limit(10, 100, False), 50.0, 60.0, counted=30, flying=20)
    made.settle(59.0, 51.0, 20)
    made.refund(59.0, 20)
    assert made.used(52.0) == 50
    assert made.used(62.0) == 20
    assert made.used(72.0) == 0


@pytest.mark.parametrize(
    "reserve, share, limit, cap",
    [
        (24, 2400, 2400, 1),  # a reserve of 1 %
        (0, 240, 2400, 1),  # a share of 10 %
        (2399, 1, 2400, 1),
        (1, 2, 3, 1),
        (2400, 2400, 2400, 0),  # the reserve is the whole limit of the minute
        (100, 50, 50, -1),
    ],
)
def test_a_limit_of_one_admits_a_request_unless_the_reserve_is_the_whole_minute(
    reserve: int, share: int, limit: int, cap: int
) -> None:
    assert window(1, 1).cap(reserve, share, limit) == cap


@pytest.mark.parametrize(
    "one, other, is_implied",
    [
        (Limit(1, 10, False), Limit(10, 100, False), True),
        (Limit(1, 10, False), Limit(10, 99, False), False),
        (Limit(10, 100, False), Limit(1, 100, False), True),
        (Limit(10, 100, False), Limit(1, 99, False), False),
        (Limit(7, 10, False), Limit(10, 19, False), False),  # two windows of 7 s: up to 20 in 10 s
        (Limit(7, 10, False), Limit(10, 20, False), True),
        (Limit(1, 10, False), Limit(1, 10, True), True),  # a request weighs at least 1
        (Limit(1, 10, True), Limit(1, 10, False), False),
        (Limit(1, 10, True), Limit(1, 11, True), True),
    ],
)
def test_a_limit_implies_another_that_nobody_can_exceed_within_the_first(
    one: Limit, other: Limit, is_implied: bool
) -> None:
    assert one.implies(other) is is_implied
