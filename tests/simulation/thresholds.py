"""Scripts at the threshold of a number: a change of the number by 1 % changes their decisions.

Rule of this file: the docstring of a script names its numbers. The scripts of `scripts` charge only
now and then, so a slight change of a number may change none of their decisions. The scripts of this
file charge at moments close together, or find the largest weight that may be sent.
"""

from collections.abc import Callable
from functools import partial

from binance_oi.budget.usage import Receipt
from binance_oi.exchange.limits import Limit
from binance_oi.sending.governor import Governor

from .scripts import NOON, Desk, Note, Scripts, adding_to, bursts, every, of_a_known_address

SCRIPTS: Scripts = {}
script = adding_to(SCRIPTS)


def _receipt(desk: Desk, weight: int = 1) -> Receipt:
    receipt = desk.ask(weight)
    assert receipt is not None
    return receipt


def _acquainted(note: Note, at: float, limit: int = 100) -> Desk:
    """Make a desk whose pool has had its first answer, and expects no other clients."""
    desk = Desk(note, at=at, limit=limit)
    desk.send()
    desk.to(at + 0.5)
    return desk


def _room_beside_others(desk: Desk, second: float) -> None:
    """Note the largest weight that may be sent at `second`, just after a count."""
    desk.to(second)
    desk.send()
    desk.to(second + desk.latency)
    desk.room()


@script
def a_request_may_be_counted_in_the_minute_after_its_own(note: Note) -> None:
    """FLIGHT: from which second on a request is booked to the next minute too."""
    for second in every(0.02, 47.5, 48.1):
        desk = _acquainted(note, 5.3)
        desk.to(second)
        desk.ask(60)
        desk.to(63.0)
        desk.ask(60)


@script
def a_request_is_written_late_beside_a_limit_of_ten_seconds(note: Note) -> None:
    """PATIENCE: how long after its charge a request may be written without a new charge."""
    for late in every(0.005, 1.95, 2.05):
        desk = _acquainted(note, 20.0)
        desk.pool.set_limits(None, [Limit(10, 1_000, False)])
        receipt = _receipt(desk)
        desk.to(20.5 + late)
        desk.write(receipt)


@script
def a_request_is_written_late_in_its_minute(note: Note) -> None:
    """TRAVEL: until when a late request can only be counted in a minute to which it is booked."""
    for second in every(0.02, 49.5, 50.1):
        desk = _acquainted(note, 5.3)
        desk.to(46.0)
        receipt = _receipt(desk)
        desk.to(second)
        desk.write(receipt)


@script
def the_others_wait_for_a_probe_without_an_answer(note: Note) -> None:
    """PROBE_PATIENCE: how long the other requests wait for a probe."""
    desk = Desk(note, at=20.0, latency=9.0)
    desk.send()
    for second in every(0.002, 20.9, 21.1):
        desk.to(second)
        desk.ask()


@script
def a_count_without_a_request_gives_its_weight_back(note: Note) -> None:
    """LAG, in whole seconds: which later count proves that a request was never counted."""
    for answered in every(0.001, 5.99, 6.01):
        desk = _acquainted(note, 5.0)
        receipt = _receipt(desk, 40)
        desk.to(answered)
        desk.pool.settle(receipt, None, None)
        desk.to(7.5)
        desk.send()
        desk.to(8.0)
        desk.room()


@script
def a_count_soon_after_another_one_gives_nothing_back(note: Note) -> None:
    """LAG: how old the count in a header may be."""
    for second in every(0.002, 7.88, 7.92):
        desk = _acquainted(note, 5.0)
        receipt = _receipt(desk, 40)
        desk.to(5.7)
        desk.pool.settle(receipt, None, None)
        desk.to(6.9)
        desk.send()
        desk.to(second)
        desk.send()
        desk.to(8.0)
        desk.room()


@script
@of_a_known_address
def others_rest_after_a_busy_minute(note: Note) -> None:
    """SLOT, CHANCE, SIGMA, PROBES: how much weight the pool keeps free at each moment."""
    desk = Desk(
        note,
        at=4.0,
        limit=240_000,
        latency=0.02,
        others=lambda minute, into: int(1_500 * into) if minute == 0 else 0,
    )
    desk.go_on(62.5, every=0.5, most=1)
    for second in [*every(0.05, 78.0, 79.0), *every(0.1, 83.5, 85.5)]:
        _room_beside_others(desk, second)


@script
def a_burst_of_half_the_limit_is_late(note: Note) -> None:
    """LATE, FORECAST_AGE: how long the pool expects an overdue burst."""
    desk = Desk(note, at=4.0, others=bursts(1_300, 32.0, minutes=(0, 1)))
    for second in (4, 31, 33, 58, 62, 91, 93, 118, 121):
        _room_beside_others(desk, second)
    for moment in [*every(0.25, 156.0, 170.0), *every(0.05, 170.05, 174.0), 176.0]:
        _room_beside_others(desk, moment)


@script
def others_came_in_one_minute_and_never_again(note: Note) -> None:
    """MEMORY, MINUTE: for how many minutes the pool keeps room for the others."""
    desk = Desk(note, at=4.0, others=bursts(900, 30.0, minutes=(0,)))
    for second in (4, 29, 32, *range(65, 600, 60)):
        _room_beside_others(desk, second)


@script
def a_client_starts_just_before_the_rollover(note: Note) -> None:
    """AT_ONCE, PROBE_PAUSE: how much a client may use while the minute of its count is unknown."""
    desk = Desk(note, at=58.0)
    desk.send()
    desk.to(58.2)
    desk.room()


@script
def a_client_comes_back_after_minutes_without_a_request(note: Note) -> None:
    """IDLE: after how many minutes the client sends carefully again, as after a start."""
    for minute in (9, 10, 11, 12):
        desk = _acquainted(note, 5.3)
        desk.to(60.0 * minute + 10.0)
        desk.send()
        desk.to(60.0 * minute + 12.0)
        desk.room()


@script
def counts_that_are_rare(note: Note) -> None:
    """BLIND_FOR, BLIND_AFTER: when answers without a count leave the pool only its own books."""
    for second in every(0.02, 25.2, 25.8):
        desk = _acquainted(note, 5.3, limit=1_000)
        desk.to(second)
        receipts = [_receipt(desk) for _ in range(10)]
        desk.to(second + 0.05)
        for receipt in receipts:
            desk.pool.settle(receipt, None, NOON + int(second))
        desk.room()


@script
def refusals_far_below_the_limit(note: Note) -> None:
    """LOWEST: the least count at which a refusal shows a lower limit."""
    for count in range(95, 106):
        desk = _acquainted(note, 5.3, limit=1_000)
        desk.send()
        desk.refuse(shown=count)
        desk.to(70.0)
        desk.room()


@script
def an_hour_after_a_refusal_below_the_limit(note: Note) -> None:
    """DISTRUST: for how many minutes (over 60) the pool obeys the lower limit."""
    desk = _acquainted(note, 5.3, limit=1_000)
    desk.send()
    desk.refuse(shown=500)
    for minute in (73, 74, 75, 76, 77):
        desk.to(60.0 * minute + 20.0)
        desk.send()
        desk.to(60.0 * minute + 50.0)
        desk.room()


@script
@of_a_known_address
def a_minute_begins_after_one_that_was_full(note: Note) -> None:
    """UNSEEN_AT_ONCE: how much weight may be under way before the first count of the minute."""
    desk = _acquainted(note, 5.3, limit=2_400)
    desk.to(70.0)
    desk.send()
    desk.to(75.0)
    desk.send(weight=2_373)
    desk.to(130.0)
    for _ in range(30):
        desk.ask()


@script
def others_leave_us_the_part_that_we_used_before(note: Note) -> None:
    """OURS: the part of the limit that we may use, although others used all the rest."""
    desk = Desk(note, at=5.0, others=bursts(2_200, 40.0, minutes=(0,)))
    for second, weight in ((5.0, 1), (6.0, 150), (45.0, 1), (50.0, 1), (64.0, 1)):
        desk.to(second)
        desk.send(weight)
    desk.to(70.0)
    desk.room()


@script
def bulk_work_leaves_room_for_single_calls(note: Note) -> None:
    """SINGLE_LEAST, SINGLE_GROWS, RELEASE: how much room bulk work leaves, and until when."""
    for weight in (1, 300):
        desk = _acquainted(note, 5.0, limit=24_000)
        desk.send(weight)
        for second in (65.0, 66.0, 118.0):
            desk.to(second)
            desk.send()
            desk.room(bulk=True)


def _among_copies(note: Note, theirs: float, ours: int, until: float = 3.0) -> Desk:
    """Use `ours` in minute 1; others use `theirs` in seconds 2 to `until` of minutes 1, 2, ..."""

    def used(minute: int, into: float) -> int:
        return int(theirs * min(1.0, max(0.0, into - 2.0) / (until - 2.0))) if minute else 0

    return _beside(note, used, ours)


def _beside(note: Note, others: Callable[[int, float], int], ours: int) -> Desk:
    """Use `ours` in minute 1, beside `others`."""
    desk = Desk(note, at=20.0, limit=24_000, others=others)
    for second in (20.0, 30.0, 61.2, *every(1.0, 63.0, 83.0), 110.0):
        desk.to(second)
        desk.send()
        desk.to(second + 0.2)
        if second == 61.2:
            desk.send(ours)
    return desk


@script
def copies_of_us_share_the_address(note: Note) -> None:
    """GROWS, FAIR, PACE: how large our part is, and when we may use it."""
    for theirs, until in (
        (17_000, 14.0),
        (12_080, 14.0),
        (11_920, 14.0),
        (11_600, 9.0),
        (11_440, 9.0),
    ):
        desk = _among_copies(note, theirs, 5_400, until)
        for second in (124.0, 131.0):
            desk.to(second)
            desk.send()
            desk.to(second + 0.2)
            desk.room()


@script
def copies_of_us_have_grown(note: Note) -> None:
    """BUSY: how much copies must use early, so that we send slowly."""
    for theirs in range(7_100, 7_320, 20):
        desk = _among_copies(note, theirs, 11_200)
        for second in (124.0, 131.0):
            desk.to(second)
            desk.send()
            desk.to(second + 0.2)
            desk.room()


@script
def others_may_be_copies_of_us(note: Note) -> None:
    """EARLY, USED_UP: others may be copies if their early use and our use fill a minute."""
    for ours in range(9_160, 9_680, 40):
        desk = _among_copies(note, 13_500, ours, until=20.87)
        for second in (122.0, 131.0):
            desk.to(second)
            desk.send()
        desk.to(131.2)
        desk.room()


@script
@of_a_known_address
def copies_of_us_send_probes(note: Note) -> None:
    """PROBED: others may be copies if they send as copies probe in so many slots."""

    def used(slots: int, minute: int, into: float) -> int:
        probes, later = (min(max(0.0, into - begin), 20.0) for begin in (5.0, 30.0))
        return 1_500 + int(4.0 * min(probes, 5.0 * slots) + 760.0 * later) if minute else 0

    for slots in (2, 3, 4):
        desk = _beside(note, partial(used, slots), 6_000)
        for second in (122.0, 131.0):
            desk.to(second)
            desk.send()
        desk.to(131.2)
        desk.room()


@script
def copies_of_us_send_at_the_same_time(note: Note) -> None:
    """CROWD: how much of our weight may be under way at once."""
    desk = _among_copies(note, 17_000, 5_000)
    for second in (122.0, 131.0):
        desk.to(second)
        desk.send()
    desk.to(131.2)
    desk.send(1, most=800)


@script
def answers_no_longer_have_a_count(note: Note) -> None:
    """BLIND_RESERVE, BLIND_AFTER: how much the pool keeps free when it has only its own books."""
    desk = Desk(note, at=20.0, headers=(False, True))
    for second in range(20, 32):
        desk.to(second)
        desk.send()
        desk.room()


@script
def others_came_once_and_may_come_again(note: Note) -> None:
    """MINUTE: how much the pool keeps free in the minute after a first burst."""
    for last in every(0.1, 49.4, 50.8):
        desk = Desk(note, at=3.0, others=bursts(500, 22.0))
        for second in (3.0, 5.97, 8.02, 17.0, 23.0, 34.0):
            desk.to(second)
            desk.send()
        _room_beside_others(desk, last)


@script
def others_come_in_a_burst(note: Note) -> None:
    """BURST: which use is a burst, so that we leave room for another one."""
    for size in (955, 965):

        def used(minute: int, into: float, size: int = size) -> int:
            return int(size * min(1.0, max(0.0, into - 11.0))) if minute == 1 else 0

        desk = Desk(note, at=4.0, limit=24_000, others=used)
        for minute in range(3):
            for second in every(1.0, 5.0, 56.0):
                _room_beside_others(desk, 60.0 * minute + second)


@script
def others_come_in_bursts_without_a_rhythm(note: Note) -> None:
    """BURST_RISK, BURST_RISK_FOR, ENOUGH: for how many bursts we leave room."""
    moments = (7, 12, 31, 38, 44), (3, 29), (18, 21, 51, 56), (), ()

    def used(minute: int, into: float) -> int:
        return 1_500 * sum(into >= at for at in moments[minute])

    desk = Desk(note, at=1.0, limit=24_000, others=used)
    for moment in [*every(1.0, 2.0, 180.0), *every(0.25, 180.1, 299.0)]:
        _room_beside_others(desk, moment)


@script
def only_our_own_clock_is_known(note: Note) -> None:
    """WALL_ERROR_S: how much longer a cooldown lasts before the first `Date`."""
    desk = Desk(note, at=20.0)
    desk.pool.hold(7.0)
    desk.ask()
    desk.to(60.0)
    desk.ask()


@script
def refusals_a_minute_and_two_minutes_apart(note: Note) -> None:
    """SURGE_GROWS: how much weight the pool keeps free after the second refusal.

    A calm minute between the refusals halves that weight (the surge). So the surge stays below its
    upper bound, which would hide the factor by which it grows.
    """
    for is_refused in ((True, True, False), (True, False, True, False)):
        desk = _acquainted(note, 5.0, limit=2_400)
        for number, refused in enumerate(is_refused):
            _room_beside_others(desk, 70.0 + 60.0 * number)
            if refused:
                desk.send()
                desk.refuse()


@script
def refusals_in_three_minutes_in_a_row(note: Note) -> None:
    """SURGE_MOST: the most weight that the pool keeps free after several refusals."""
    desk = Desk(note, at=12.0)
    desk.go_on(15.0)
    for second in (70.0, 130.0, 190.0):
        desk.to(second)
        desk.send()
        desk.refuse()
    desk.go_on(290.0, every=1.0, weight=37, most=1)
    for second in (291.0, 293.0):
        _room_beside_others(desk, second)


@script
def limits_of_other_spans(note: Note) -> None:
    """SLOTS, MIN_SLOTTED_S, MIN_WAIT_S of `window`: when weight leaves a window."""
    for limit in (Limit(5, 60, False), Limit(10, 60, False), Limit(300, 60, True)):
        desk = _acquainted(note, 5.0, limit=1_000)
        desk.pool.set_limits(None, [limit])
        for second in every(0.25, 6.24, 36.0):  # slots end 0.01 s after some of these moments
            desk.to(second)
            desk.send(3, 2)


@script
def the_wait_of_a_refusal_is_bounded(note: Note) -> None:
    """MIN_BAN, MAX_BAN, MAX_RETRY_AFTER, FIREWALL_COOLDOWN: the bounds of a cooldown."""
    refusals = [(418, 1), (418, 119), (418, 121), (418, 900_000)]
    refusals += [(429, after) for after in (3_570, 3_599, 3_601, 3_630)] + [(403, 0)]
    for status, after in refusals:
        desk = _acquainted(note, 20.0)
        receipt = _receipt(desk)
        governor = Governor(desk.pool)
        governor.settle(receipt, status, {"Retry-After": str(after)})
        desk.ask()
