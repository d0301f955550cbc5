"""Step tables check the bucket's decisions, and a state machine tries to break its guarantee.

Rule of this file: time is a number. Minutes begin at multiples of 60 s, and the exchange's clock is
known exactly unless a test says otherwise.
"""

import copy
import heapq
import math
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from binance_oi.budget.admission import Probe, Send, decide
from binance_oi.budget.bucket import Bucket
from binance_oi.budget.knowledge import UNKNOWN, Known, Parts
from binance_oi.budget.others import Curve
from binance_oi.budget.server_clock import ServerClock
from binance_oi.budget.tuning import (
    BLIND_AFTER,
    BLIND_RESERVE,
    CAREFUL,
    CLOSING,
    CONTRADICTIONS,
    DISTRUST,
    DRIFT,
    EDGE,
    FLIGHT,
    MEMORY,
    OURS,
    PATIENCE,
    POLL,
    PROBE_PATIENCE,
    PROBE_PAUSE,
    PROBES,
    TRAVEL,
)
from binance_oi.budget.usage import Reason, Receipt, Wait
from binance_oi.exchange.limits import Limit
from support.lanes import some

NOON = 1_795_435_200.0  # the beginning of a minute, Unix s
HALFWAY = 28.5  # s from :02 to :30.5, which is halfway from a count at :01 to the minute's end


def bucket(
    limit: int = 100,
    *,
    reserve: float = 0,
    share: float = 1.0,
    off: float = 0.0,
    known: bool = True,
) -> Bucket:
    """Make a bucket that takes the exchange's clock to be `NOON` + now ± `off`.

    If `known`, the bucket has had an answer in the minute before.
    """
    state = Known(limit, ServerClock(NOON - off, NOON + off, 0.0))
    if known:
        state.counted_at = -60.0
        state.careful_since = UNKNOWN
        state.ledger.newest = int(NOON // 60) - 1
    made = Bucket(state, Parts(reserve=reserve, share=share))
    if known:
        state.ledger.open_minute(int(NOON // 60) - 1).reported = 1
    return made


def take(bucket: Bucket, now: float, weight: int = 1) -> Receipt:
    receipt = bucket.charge(now, weight)
    assert isinstance(receipt, Receipt), receipt
    return receipt


def refuse(bucket: Bucket, now: float, weight: int = 1) -> float:
    wait = bucket.charge(now, weight)
    assert isinstance(wait, Wait), wait
    return math.inf if wait.seconds is None else wait.seconds


def fill(bucket: Bucket, now: float, weight: int, used: int | None = None) -> None:
    """Send a request of `weight` and get its answer."""
    receipt = take(bucket, now, weight)
    seen = bucket.usage(now).used if used is None else used
    bucket.settle(receipt, now + 0.05, seen, NOON + int(now))


class Step(NamedTuple):
    """Charge `weight` at second `at`. The bucket grants it, or lets it wait for about `wait` s."""

    at: float
    weight: int
    wait: float | None = None
    used: int | None = None  # the count in the answer; None: no answer comes


# Each row makes its bucket in the test, because using a bucket changes its answers.
TABLES: dict[str, tuple[Callable[[], Bucket], list[Step]]] = {
    "the whole limit may be used": (
        lambda: bucket(10),
        [Step(1, 4, used=4), Step(2, 6, used=10), Step(3, 1, 57), Step(60.1, 1)],
    ),
    "a reserve given as weight stays free": (
        lambda: bucket(10, reserve=3),
        [Step(1, 7, used=7), Step(2, 1, HALFWAY), Step(61, 7)],
    ),
    "a reserve given as a fraction of the limit stays free": (
        lambda: bucket(100, reserve=0.25),
        [Step(1, 75, used=75), Step(2, 1, HALFWAY)],
    ),
    "we use at most our share": (
        lambda: bucket(100, share=0.5),
        [Step(1, 50, used=50), Step(2, 1, 58)],
    ),
    "a count in a header fills the minute": (
        lambda: bucket(100),
        [Step(1, 1, used=100), Step(2, 1, 58)],
    ),
    "weight above the budget is never sent": (
        lambda: bucket(100, reserve=10),
        [Step(1, 91, math.inf), Step(1, 90)],
    ),
    "weight above our share is never sent": (
        lambda: bucket(100, share=0.5),
        [Step(1, 51, math.inf)],
    ),
    "near the rollover both minutes must have room": (
        lambda: bucket(10),
        [Step(5, 4, used=4), Step(55, 6, used=None), Step(61, 5, POLL), Step(61, 4)],
    ),
    "the answer frees the minute that did not count the request": (
        lambda: bucket(10),
        [Step(5, 4, used=4), Step(55, 6, used=10), Step(61, 10)],
    ),
    "while weight is under way we ask again soon": (
        lambda: bucket(10),
        [Step(1, 10), Step(2, 1, POLL)],
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_bucket_charges_and_waits_as_the_step_table_says(name: str) -> None:
    make, steps = TABLES[name]
    made = make()
    for step in steps:
        if step.wait is not None:
            wait = refuse(made, step.at, step.weight)
            assert wait == pytest.approx(step.wait, abs=0.01), step
            continue
        answer = take(made, step.at, step.weight)
        if step.used is not None:
            made.settle(answer, step.at + 0.05, step.used, NOON + int(step.at))


def test_the_bucket_of_these_tests_knows_only_the_minute_before() -> None:
    assert list(bucket().known.ledger.minutes) == [int(NOON // 60) - 1]
    assert bucket(known=False).known.ledger.minutes == {}


def test_a_refund_undoes_the_charge() -> None:
    made = bucket(10)
    receipt = take(made, 55, 10)
    assert (receipt.first + 1, made.usage(55).remaining) == (receipt.last, 0)
    made.refund(receipt)
    assert (made.usage(55).remaining, made.usage(61).remaining) == (10, 10)
    assert isinstance(take(made, 55, 10), Receipt)


def test_lost_weight_stays_charged_in_every_possible_minute() -> None:
    made = bucket(10)
    made.lose(take(made, 55, 6), 56)
    assert (made.usage(56).used, made.usage(61).used) == (6, 6)


def test_a_count_that_excludes_lost_weight_releases_it() -> None:
    made = bucket(100, reserve=10)
    fill(made, 1, 10)
    made.lose(take(made, 2, 40), 3)
    assert made.usage(4).used == 50
    fill(made, 20, 1, used=11)  # by then the exchange has counted the lost weight, or never will
    assert made.usage(21).used == 11


def test_a_count_that_includes_lost_weight_keeps_it_charged() -> None:
    made = bucket(100, reserve=10)
    fill(made, 1, 10)
    made.lose(take(made, 2, 40), 3)
    fill(made, 20, 1, used=51)
    assert (made.usage(21).used, made.usage(21).in_flight) == (51, 0)


def test_lost_weight_of_one_second_is_one_undecided_amount() -> None:
    made = bucket(100)
    fill(made, 1, 1)
    for _ in range(3):
        made.lose(take(made, 2, 5), 2.5)
    (minute,) = [m for m in made.known.ledger.minutes.values() if m.undecided]
    assert [weight for _, weight in minute.undecided] == [15]


def test_a_full_minute_is_probed_once_a_count_can_decide_the_lost_weight() -> None:
    made = bucket(10, reserve=1)
    fill(made, 1, 1)
    made.lose(take(made, 2, 8), 2.5)
    wait = refuse(made, 3, 2)
    assert wait <= 2 + FLIGHT + 1 - 3
    probe = take(made, 2 + FLIGHT + 1, 1)
    assert probe.probe
    made.settle(probe, 14, 2, NOON + 14)
    assert made.usage(14).used == 2


def test_a_lower_header_never_lowers_the_count() -> None:
    made = bucket(6000)
    fill(made, 1, 1, used=50)
    fill(made, 2, 1, used=20)
    assert made.usage(3).used >= 51


def test_a_header_below_our_own_weight_does_not_reduce_what_we_have_booked() -> None:
    made = bucket()
    fill(made, 1, 30, used=1)
    assert made.usage(2).used == 30


def test_others_are_the_excess_of_the_header_over_our_weight() -> None:
    made = bucket()
    fill(made, 1, 5, used=25)
    usage = made.usage(2)
    assert (usage.used, usage.charged, usage.others, usage.in_flight) == (25, 5, 20, 0)


@pytest.mark.parametrize("used", [None, 5])
def test_an_answer_without_a_date_far_from_a_rollover_counts_in_the_current_minute(
    used: int | None,
) -> None:
    made = bucket(off=1.0)
    receipt = take(made, 10, 5)
    made.settle(receipt, 10.1, used, None)
    usage = made.usage(11)
    assert (usage.used, usage.in_flight) == (5, 0 if used else 5)


# -- the first request is a probe --------------------------------------------------------------


def test_the_first_request_is_a_probe() -> None:
    made = bucket(known=False)
    first = take(made, 1)
    assert first.probe
    assert refuse(made, 1) == POLL
    made.settle(first, 1.05, 1, NOON + 1)
    assert not take(made, 1.05).probe


@pytest.mark.parametrize("ending", ["lose", "refund", "time"])
def test_the_other_requests_wait_at_most_a_second_for_the_probe(ending: str) -> None:
    made = bucket(known=False)
    first = take(made, 1)
    if ending == "lose":
        made.lose(first, 2)
    elif ending == "refund":
        made.refund(first)
    assert take(made, 1 + PROBE_PATIENCE).probe


def test_the_first_request_after_idling_is_a_probe() -> None:
    made = bucket()
    fill(made, 1, 1)
    assert not take(made, 61).probe
    assert take(made, 600).probe


def test_while_others_are_active_the_first_request_of_each_minute_is_a_probe() -> None:
    made = bucket()
    fill(made, 1, 1, used=30)
    assert take(made, 61).probe


def test_a_full_minute_is_probed_just_before_its_end() -> None:
    made = bucket(100, reserve=1)
    fill(made, 1, 99)
    assert refuse(made, 30) == pytest.approx(30 - CLOSING, abs=0.01)
    assert take(made, 60 - CLOSING).probe


def test_without_a_reserve_a_request_waits_until_the_full_minute_ends() -> None:
    made = bucket(100, off=0.5)
    fill(made, 1, 100)
    assert refuse(made, 59.9) == pytest.approx(0.1 + CLOSING, abs=0.3)
    assert isinstance(take(made, 60.6), Receipt)


@pytest.mark.parametrize("reserve, theirs", [(0, 1), (0, 2), (0.001, 2), (1, 2), (2, 2)])
def test_a_probe_stays_within_the_limit_when_others_use_a_little_weight(
    reserve: float, theirs: int
) -> None:
    made = bucket(1000, reserve=reserve)
    count, now = theirs, 1.0
    fill(made, now, 1, used=(count := count + 1))
    while now < 59.5:
        answer = made.charge(now, 1)
        if isinstance(answer, Wait):
            assert answer.seconds is not None
            now += min(answer.seconds, 0.1)
            continue
        count += 1
        made.settle(answer, now, count, NOON + int(now))
        now += 0.01
        assert count <= 1000
    assert count >= 1000 - 2 - made.usage(now).reserve


def test_the_last_probe_of_a_minute_is_sent_at_varying_seconds() -> None:
    made = bucket(100, reserve=1, off=1.0)
    leads = list[float]()
    for k in range(3):
        fill(made, 60 * k + 10, 99)
        leads.append(30 - refuse(made, 60 * k + 30))
    assert sorted(leads) == pytest.approx([CLOSING, CLOSING + 0.5, CLOSING + 1.0], abs=0.05)


# -- after a start -------------------------------------------------------------------------------


def sent_at_once(made: Bucket, now: float, weight: int = 1) -> int:
    """Charge until the bucket makes us wait; return the weight that it granted at once."""
    sent = 0
    while isinstance(made.charge(now, weight), Receipt):
        sent += weight
    return sent


def test_a_client_that_just_started_uses_half_at_once_and_most_of_the_rest_late() -> None:
    made = bucket(2400, reserve=24, known=False)
    fill(made, 2.0, 1, used=1)
    assert sent_at_once(made, 2.0) == 1199
    assert refuse(made, 2.0) == pytest.approx((58 - EDGE) / math.sqrt(1176), abs=0.01)
    assert sent_at_once(made, 2.0 + (58 - EDGE) / 2) == 294  # half the time, a quarter of the rest
    assert sent_at_once(made, 60.0 - EDGE) == 882 + 1  # all of the rest, and a probe
    made.known.ledger.minutes.clear()
    fill(made, 122.5, 1, used=1)
    assert sent_at_once(made, 122.6) == 2375


def test_a_starting_client_may_read_the_market_but_uses_at_most_half_of_the_limit() -> None:
    made = bucket(2400, reserve=0.01, off=1.0, known=False)
    fill(made, 0.5, 1, used=2)
    assert 840 <= 1 + sent_at_once(made, 0.6) <= 2400 / 2  # a market has about 840 symbols


def test_a_client_sends_carefully_until_it_has_seen_two_minutes() -> None:
    made = bucket(2400, reserve=24, known=False)
    fill(made, 45.0, 1, used=1)
    for minute in (60.0, 120.0):
        made.known.probe_ends_at = UNKNOWN
        made.known.ledger.minutes.clear()
        fill(made, minute + 1.0, 1, used=1)
        end = min(minute + 60.0 - EDGE, 45.0 + CAREFUL)
        sent = [1 + sent_at_once(made, minute + 1.0)]
        sent += [sent_at_once(made, at) for at in ((minute + end) / 2, end)]
        assert sent[0] == pytest.approx(1200, abs=2)
        assert sum(sent[:2]) == pytest.approx(1200 + 1176 / 4, abs=2)
        assert 2376 <= sum(sent) <= 2377  # the last request may be a probe, which uses the reserve
    made.known.probe_ends_at = UNKNOWN
    made.known.ledger.minutes.clear()
    fill(made, 181.0, 1, used=1)
    assert 1 + sent_at_once(made, 181.0) == 2376


@pytest.mark.parametrize("at", [57.5, 58.4, 58.6, 59.5])
def test_a_client_that_starts_near_the_end_of_a_minute_uses_half_at_once(at: float) -> None:
    made = bucket(2400, reserve=24, known=False)
    fill(made, at, 1, used=1)
    assert 1 + sent_at_once(made, at) == 1200
    sent_soon = 1200 + sent_at_once(made, at + 0.2)
    assert sent_soon == pytest.approx(1200 + 1176 * (0.2 / EDGE) ** 2, abs=2)


@pytest.mark.parametrize("after_ban", [False, True])
def test_without_counts_careful_sending_ends_after_60_s(after_ban: bool) -> None:
    known = bucket(2400).known
    known.careful_since, known.after_ban = 45.0, after_ban
    assert known.careful_until == 45.0 + (60.0 if after_ban else CAREFUL)
    known.silent = BLIND_AFTER
    assert known.careful_until == 45.0 + 60.0


@pytest.mark.parametrize("minute, forgets", [(1, True), (2, False)])
def test_only_after_the_first_rollover_a_higher_first_count_corrects_the_minute_before(
    minute: int, forgets: bool
) -> None:
    made = bucket(2400, reserve=24, known=False)
    for begin in range(0, 60 * minute, 60):
        fill(made, begin + 20.0, 1, used=100)
    fill(made, 60.0 * minute + 5.0, 1, used=400)
    before = made.known.ledger.minutes[int(NOON // 60) + minute - 1]
    assert (before.others == 0) == forgets


def test_after_more_than_ten_minutes_without_an_answer_a_client_sends_as_after_a_start() -> None:
    for minutes, at_once in ((10, 2376), (12, 1200)):
        made = bucket(2400, reserve=24)
        fill(made, 2.0, 1, used=1)
        fill(made, 60.0 * minutes + 5, 1, used=1)
        assert 1 + sent_at_once(made, 60.0 * minutes + 5) == at_once


def test_without_headers_a_client_that_just_started_sends_carefully_for_60_s() -> None:
    made = bucket(100, known=False)
    go_blind(made)
    assert sent_at_once(made, 2) == 40
    assert sent_at_once(made, 40) == 18
    assert sent_at_once(made, 61) == 91


def test_a_full_minute_that_may_be_over_is_probed_only_once() -> None:
    made = bucket(2400, off=1.0, known=False)
    made.settle(take(made, 59.5), 59.6, 2400, None)
    assert not any(sent_at_once(made, now) for now in (61.5, 90.0, 118.9))
    assert take(made, 121.1).probe


def test_a_later_count_moves_a_count_from_near_the_rollover_into_the_new_minute() -> None:
    made = bucket(2400, off=1.0, known=False)
    made.settle(take(made, 59.5), 59.6, 1500, None)
    fill(made, 61.1, 1, used=1502)
    assert not made.known.others.past(int(NOON // 60) + 1)
    assert made.known.ledger.minutes[int(NOON // 60) + 1].others == 1500


def test_we_assume_that_others_used_as_much_unseen_weight_as_we_have_under_way() -> None:
    alone, busy = bucket(2400), bucket(2400)
    for made, size in ((alone, 0), (busy, 200)):
        fill(made, 40, 1, used=101)
        if size:
            take(made, 40.5, size)
    assert 0 < sent_at_once(busy, 40.6) + 200 <= sent_at_once(alone, 40.6)


# -- others ------------------------------------------------------------------------------------


def steadily(made: Bucket, rate: int, minutes: int, size: int = 1) -> int:
    """Charge four times a second, while others use `rate` weight/s.

    Returns:
        How many counts, and how many whole minutes, exceeded the limit. The first minute is left
        out, because the bucket does not know the others yet.
    """
    ours: Counter[int] = Counter()
    over = 0
    for tick in range(minutes * 240):
        now = tick / 4 + 0.1
        k = int(now // 60)
        receipt = made.charge(now, size)
        if isinstance(receipt, Receipt):
            ours[k] += size
            used = ours[k] + int(rate * (now % 60))
            over += used > made.known.limit and k > 0
            made.settle(receipt, now + 0.05, used, NOON + int(now + 0.05))
    return over + sum(1 for k in range(1, minutes) if ours[k] + rate * 60 > made.known.limit)


def test_while_others_are_steady_the_limit_is_never_exceeded() -> None:
    assert steadily(bucket(1000, reserve=10), rate=10, minutes=6, size=2) == 0


def test_while_others_are_steady_we_use_the_rest() -> None:
    made = bucket(1000, reserve=10)
    steadily(made, rate=10, minutes=6, size=2)
    minute = made.known.ledger.minutes[int(NOON // 60) + 5]
    assert minute.booked >= 300


def test_a_surge_of_others_is_expected_again() -> None:
    made = bucket(1000, reserve=10)
    fill(made, 1, 1)
    fill(made, 30, 1, used=402)  # others used 400 at once
    fill(made, 61, 1)
    while isinstance(receipt := made.charge(62, 10), Receipt):
        made.settle(receipt, 62.01, made.usage(62).used, NOON + 62)
    assert made.usage(62).remaining >= 400


def test_while_only_the_forecast_prevents_requests_probes_check_it() -> None:
    made = bucket(1000, reserve=10)
    fill(made, 1, 1)
    fill(made, 30, 1, used=602)
    fill(made, 61, int(OURS * 1000))
    pause = 60 / (PROBES * 1000)  # s between probes of weight 1 that use `PROBES` of the limit
    assert refuse(made, 61.2) == pytest.approx(pause - 0.2)
    assert refuse(made, 61.2, 2) == pytest.approx(2 * pause - 0.2)
    assert take(made, 61.001 + pause).probe


OURS_AND_NO_PROBE = round((OURS - PROBES) * 1000)  # weight; probes may use `PROBES` in addition


@pytest.mark.parametrize("had, part", [(30, 31), (int(OURS * 1000), OURS_AND_NO_PROBE)])
def test_however_much_others_use_we_keep_a_part_of_our_use_of_the_last_minute(
    had: int, part: int
) -> None:
    made = bucket(1000, reserve=10)
    fill(made, 1, had)
    fill(made, 50, 1, used=1000)  # others have used all the rest of the limit
    for k in range(1, MEMORY + 1):
        fill(made, 60 * k + 1, 1)
        assert 1 + sent_at_once(made, 60 * k + 1.2) == part


def test_after_a_refusal_we_keep_no_part_for_ourselves() -> None:
    made = bucket(1000, reserve=10)
    fill(made, 1, 1)
    fill(made, 50, 1, used=1000)
    made.known.others.expected_surge = 10
    fill(made, 61, 1)
    assert sent_at_once(made, 61.2) == 0


def test_while_others_are_active_we_keep_little_weight_under_way() -> None:
    made = bucket(1000, reserve=10)
    fill(made, 1, 1, used=100)
    made.known.others.curves[int(NOON // 60)] = Curve(fastest=0.0)
    sent = 0
    while isinstance(made.charge(2, 10), Receipt):
        sent += 10
    assert 0 < sent <= 1000 // 8
    assert refuse(made, 1.5, 10) == POLL


def test_a_request_waits_while_others_may_have_used_the_rest_unseen() -> None:
    made = bucket(100, reserve=0)
    fill(made, 1, 1, used=20)
    made.known.others.curves[int(NOON // 60)] = Curve(fastest=200.0, heights=[200], until=1.0)
    assert refuse(made, 1.5) == PROBE_PAUSE


def test_others_are_forgotten_after_five_minutes() -> None:
    made = bucket()
    fill(made, 1, 1, used=50)
    for k in range(1, MEMORY + 1):
        assert take(made, 60 * k + 1).probe
        made.known.probe_ends_at = -math.inf
        fill(made, 60 * k + 2, 1)
    fill(made, 60 * MEMORY + 61, 1)
    assert made.known.others.expected_until < made.known.ledger.newest
    assert not take(made, 60 * MEMORY + 62).probe


@pytest.mark.parametrize("days", [1, 24, 30, 400])
def test_a_client_may_send_again_after_weeks_of_idling(days: int) -> None:
    made = bucket(off=1.0)
    fill(made, 10, 1)
    now = 86_400.0 * days + 30  # our clock and the exchange's may have drifted apart
    first = take(made, now)
    assert first.probe
    made.settle(first, now + 0.1, 1, NOON + int(now))
    assert not take(made, now + 0.2).probe
    assert len(made.known.ledger.minutes) <= MEMORY + 3 + first.last - first.first


def test_the_number_of_kept_minutes_is_bounded() -> None:
    made = bucket()
    for k in range(50):
        made.lose(take(made, 60 * k + 50.5), 60 * k + 51)
    assert len(made.known.ledger.minutes) <= MEMORY + 3
    assert sum(bool(minute.undecided) for minute in made.known.ledger.minutes.values()) <= 3


# -- no header ---------------------------------------------------------------------------------


def go_blind(made: Bucket, now: float = 1.0) -> None:
    """Send requests whose answers have no count, until the bucket relies on its books alone."""
    for _ in range(BLIND_AFTER):
        made.known.probe_ends_at = -math.inf
        made.settle(take(made, now), now, None, NOON + int(now))


def test_without_headers_a_larger_reserve_applies_to_our_own_books() -> None:
    made = bucket(100, known=False)
    go_blind(made)
    made.known.careful_since = UNKNOWN
    left = 100 - BLIND_RESERVE * 100 - BLIND_AFTER
    assert made.usage(2).remaining == left
    assert not take(made, 2, int(left)).probe
    assert refuse(made, 3) == POLL


def test_a_reserve_above_the_blind_reserve_stays_the_same_without_headers() -> None:
    made = bucket(100, reserve=40, known=False)
    go_blind(made)
    assert made.usage(2).reserve == 40


def test_the_first_header_makes_us_use_counts_again() -> None:
    made = bucket(100, known=False)
    go_blind(made)
    fill(made, 2, 1)
    assert made.usage(3).reserve == 0


# -- which minute counted a request ------------------------------------------------------------


def test_each_answer_narrows_the_interval_of_the_server_clock() -> None:
    made = bucket(off=2.5)
    made.settle(take(made, 10), 10.1, 1, NOON + 8)
    clock = made.known.clock
    assert (clock.lo - NOON, clock.hi - NOON) == pytest.approx((-2.5, -1 + EDGE), abs=0.01)
    made.settle(take(made, 11), 11.1, 2, NOON + 12)
    assert (clock.lo - NOON, clock.hi - NOON) == pytest.approx((0.9 - EDGE, -1 + EDGE), abs=0.01)


def test_the_interval_of_the_server_clock_widens_with_time() -> None:
    made = bucket()
    clock = made.known.clock
    take(made, 1000)
    assert clock.hi - clock.lo == pytest.approx(0.2)
    made.settle(take(made, 1001.5), 2001.5, 1, None)
    assert clock.hi - clock.lo == pytest.approx(0.4, abs=0.01)


def test_a_single_wrong_date_is_not_trusted() -> None:
    made = bucket()
    fill(made, 1, 1)
    receipt = take(made, 2, 50)
    made.settle(receipt, 2.1, 51, NOON + 7200)
    assert (made.usage(3).used, made.known.ledger.newest) == (51, int(NOON // 60))


def test_several_wrong_dates_in_a_row_are_trusted_and_no_weight_is_forgotten() -> None:
    made = bucket()
    fill(made, 1, 60)
    for n in range(CONTRADICTIONS):
        receipt = take(made, 2 + n)
        made.settle(receipt, 2.1 + n, 61 + n, NOON + 3602 + n)
    assert made.usage(6).resets_at.timestamp() == NOON + 3660
    assert made.usage(6).used >= 60


def test_the_first_date_is_trusted_at_once() -> None:
    made = bucket(known=False)
    made.known.clock.dated = False
    made.settle(take(made, 1), 1.1, 1, NOON + 3601)
    assert made.usage(2).resets_at.timestamp() == NOON + 3660


def test_an_unconfirmed_clock_costs_one_probe_and_no_refusal() -> None:
    made = bucket(100, reserve=2, off=2.0)
    receipt = take(made, 30, 98)
    made.settle(receipt, 30.1, 98, None)
    assert refuse(made, 40) > 1.0
    probe = take(made, 60 - CLOSING)  # the exchange's minute may be over
    assert probe.probe
    made.settle(probe, 60.0, 1, None)  # the count fell, so that minute is over
    assert made.known.ledger.newest == int(NOON // 60) + 1
    assert isinstance(take(made, 60.1, 90), Receipt)


def test_a_request_is_never_booked_to_a_minute_that_is_over() -> None:
    made = bucket()
    made.known.ledger.newest = int(NOON // 60) + 1
    assert take(made, 49).first == made.known.ledger.newest


def test_a_probe_that_the_old_minute_counted_begins_no_new_minute() -> None:
    made = bucket(100, reserve=2, off=2.0)
    made.settle(take(made, 30, 98), 30.1, 98, None)
    probe = take(made, 60 - CLOSING)
    made.settle(probe, 60.0, 99, None)
    assert made.known.ledger.newest == int(NOON // 60)
    assert refuse(made, 60.1) > 0


def test_near_a_rollover_an_ambiguous_answer_counts_in_both_minutes() -> None:
    made = bucket(100, off=2.0)
    receipt = take(made, 59.5, 5)
    made.settle(receipt, 60.0, 5, None)  # a count that either minute may have
    assert (made.usage(63).used, made.usage(63).in_flight) == (5, 5)


def test_a_late_answer_is_booked_to_the_minute_that_counted_it() -> None:
    made = bucket()
    receipt = take(made, 10, 5)
    made.settle(receipt, 75, 5, NOON + 63)  # the server answered late
    assert made.usage(75).used == 5


# -- the clock of the exchange and a ban -------------------------------------------------------

HOUR = 3600.0
WRONG = [-30 * 365 * 24 * HOUR, -24 * HOUR, -HOUR, -60.0, 60.0, HOUR, 24 * HOUR, 2e9]


def guessed(off: float = 0.0, limit: int = 100) -> Bucket:
    """Make a bucket that has had no answer. It guesses from a wall clock that is `off` s ahead."""
    offset = NOON + off
    clock = ServerClock(offset - 2.5, offset + 2.5, 0.0, dated=False)
    return Bucket(Known(limit, clock), Parts())


def banned_for(made: Bucket, now: float) -> float:
    """Seconds until the first request is sent, if a caller tries again after each wait."""
    begun = now
    for _ in range(1000):
        answer = made.charge(now, 1)
        if isinstance(answer, Receipt):
            return now - begun
        assert answer.seconds is not None
        now += max(answer.seconds, 0.001)
    pytest.fail("the bucket sends nothing")


@pytest.mark.parametrize("off", some(WRONG, always=3))
@pytest.mark.parametrize("dates", [1, CONTRADICTIONS, 2 * CONTRADICTIONS])
@pytest.mark.parametrize("is_guess", [False, True])
def test_no_date_changes_the_end_of_a_ban(off: float, dates: int, is_guess: bool) -> None:
    made = guessed() if is_guess else bucket(off=1.0)
    flying = [made._book(made.question(2.0, 1), False) for _ in range(dates)]
    made.refused(3.0, 600.0, ban=True)
    for receipt in flying:
        made.settle(receipt, 3.1, 5, NOON + 3 + off)
    assert made.usage(4).banned_until is not None
    assert 595.0 <= banned_for(made, 4.0) <= 615.0


@pytest.mark.parametrize("off", WRONG)
def test_no_later_date_revives_a_ban_that_is_over(off: float) -> None:
    made = bucket(off=1.0)
    made.refused(3.0, 120.0, ban=True)
    for n in range(CONTRADICTIONS):
        receipt = made._book(made.question(200.0 + n, 1), False)
        made.settle(receipt, 200.1 + n, 5, NOON + 200 + n + off)
    assert made.usage(203).held_until is made.usage(203).banned_until is None


@pytest.mark.parametrize("off", WRONG)
def test_the_first_date_does_not_move_a_ban_that_began_under_a_wrong_wall_clock(off: float) -> None:
    made = guessed(off)
    flying = take(made, 1)
    made.hold(1.5, 600.0, ban=True)
    made.settle(flying, 2.0, 1, NOON + 2)
    assert 598.0 <= banned_for(made, 2.0) <= 612.0
    assert made.usage(2).banned_until == made.usage(2).held_until is not None


def test_a_single_wrong_date_is_not_trusted_after_a_cooldown() -> None:
    made = bucket(off=1.0)
    made.refused(3, 0.0)
    receipt = take(made, 62)
    made.settle(receipt, 62.1, 1, NOON + HOUR)
    assert made.usage(63).resets_at.timestamp() == NOON + 120


@pytest.mark.parametrize("off", WRONG)
def test_sending_resumes_within_two_minutes_after_a_trusted_date_proved_wrong(off: float) -> None:
    made = guessed(limit=1000)
    flying = [made._book(made.question(1.0, 1), False) for _ in range(20)]
    for n, receipt in enumerate(flying):  # the first date is wrong, all others are right
        made.settle(receipt, 1.5, 100 + n, NOON + 1 + (0 if n else off))
    assert banned_for(made, 2.0) <= 120.0
    assert made.usage(2).resets_at.timestamp() <= NOON + 120
    assert made.known.others.expected_until <= int(NOON // 60) + 2 + MEMORY
    assert len(made.known.ledger.minutes) <= 4


@pytest.mark.parametrize("ending", ["lose", "refund"])
@pytest.mark.parametrize("off", WRONG)
def test_a_charge_under_a_wrong_clock_leaves_no_wrong_minute_in_the_books(
    ending: str, off: float
) -> None:
    made = guessed(off)
    flying = [made._book(made.question(1.0, 1), False) for _ in range(9)]
    made.settle(flying.pop(), 1.5, 9, NOON + 1)
    for receipt in flying:
        if ending == "lose":
            made.lose(receipt, 2.0)
        else:
            made.refund(receipt)
    k = int(NOON // 60)
    assert all(k - 2 <= j <= k + 1 for j in made.known.ledger.minutes)
    assert made.usage(2).used >= 8 * (ending == "lose")


# Unix s in the years 1, 1970, 2019, 2100 and 9999.
NO_DATES = [-62_135_596_800.0, 0.0, 1_577_836_799.0, 4_102_444_800.0, 253_402_300_799.0]


@pytest.mark.parametrize("date", [*NO_DATES, -math.inf, math.inf, math.nan, 1e300])
@pytest.mark.parametrize("is_guess", [False, True])
def test_an_impossible_date_is_ignored(date: float, is_guess: bool) -> None:
    made, same = (guessed() if is_guess else bucket(off=1.0) for _ in range(2))
    for n in range(2 * CONTRADICTIONS):
        made.settle(take(made, 1 + n), 1.1 + n, 1 + n, date)
        same.settle(take(same, 1 + n), 1.1 + n, 1 + n, None)
    assert made.known == same.known
    assert made.usage(20) == same.usage(20)


@pytest.mark.parametrize("wall", [-62_135_596_000.0, -1e6, 0.0, 1.0, 1e6, NOON])
def test_without_a_cooldown_no_clock_error_invents_one(wall: float) -> None:
    clock = ServerClock(wall - 2.5, wall + 2.5, 0.0, dated=False)
    made = Bucket(Known(100, clock), Parts())
    usage = made.usage(0.0)
    assert usage.held_until is usage.banned_until is None
    assert isinstance(made.charge(0.0, 1), Receipt)
    assert (made.room_in(0.0, 1) or 0.0) <= 60.0


@pytest.mark.parametrize("late", [57.0, 120.0, HOUR, 24 * HOUR, 400 * 24 * HOUR])
@pytest.mark.parametrize("off", [-1e6, -HOUR, HOUR, 1e6])
@pytest.mark.parametrize("is_guess", [False, True])
def test_late_answers_never_widen_the_clock_interval_beyond_a_minute(
    late: float, off: float, is_guess: bool
) -> None:
    made = guessed() if is_guess else bucket(off=1.0)
    flying = [made._book(made.question(2.0, 1), False) for _ in range(2 * CONTRADICTIONS)]
    made.hold(2.0, 1.0)
    for receipt in flying:
        made.settle(receipt, 2.0 + late, 5, NOON + late + off)
    clock = made.known.clock
    drifted = 2 * DRIFT * late
    assert clock.hi - clock.lo <= 60.0 + drifted
    assert len(made.known.ledger.minutes) <= MEMORY + 5 + drifted / 60


# -- the moment of sending -----------------------------------------------------------------------


def test_a_request_is_not_sent_once_an_unbooked_minute_may_count_it() -> None:
    made = bucket(100)
    early = [take(made, 40, 10) for _ in range(9)]
    assert early[0].first == early[0].last
    now = 65.0  # the loop was blocked, or the connection took long to open
    fill(made, 61, 95)  # the new minute is nearly full
    for receipt in early:
        assert made.sending(receipt, now) is None
        made.refund(receipt)
    assert made.usage(now).used == 95


@pytest.mark.parametrize("charged, sent", [(40, 40 + PATIENCE), (49, 49 + PATIENCE), (1, 51.9)])
def test_a_request_is_sent_while_every_possible_minute_is_booked(
    charged: float, sent: float
) -> None:
    made = bucket(100)
    receipt = take(made, charged)
    going = made.sending(receipt, sent)
    assert going is not None
    assert (going.first, going.last) == (receipt.first, receipt.last)


def test_a_request_near_a_rollover_is_not_sent_if_the_next_minute_is_not_booked() -> None:
    made = bucket(100)
    receipt = take(made, 1)
    assert made.sending(receipt, 60 - TRAVEL) is None
    off = bucket(100, off=2.0)
    assert off.sending(take(off, 3), 60 - TRAVEL - 1.9) is None  # the next minute may have begun


def test_a_request_sent_late_may_be_counted_from_then_on() -> None:
    made = bucket(100, reserve=1)
    receipt = made.sending(take(made, 1, 40), 30.0)
    assert receipt is not None
    made.lose(receipt, 31.0)
    (minute,) = [m for m in made.known.ledger.minutes.values() if m.undecided]
    assert minute.undecided[0][0] >= 30.0 + TRAVEL
    fill(made, 32, 1, used=1)  # the late request may still be under way
    assert made.usage(33).used >= 41


def test_a_request_is_not_sent_into_a_cooldown_that_began_after_its_charge() -> None:
    made = bucket(100)
    receipt = take(made, 10)
    made.refused(10.1, 0.0)
    assert made.sending(receipt, 10.2) is None
    assert made.sending(receipt, 60.1) is None  # the cooldown is over, and the request is too old


def test_a_request_whose_minute_is_no_longer_in_the_books_is_not_sent() -> None:
    made = bucket(100)
    receipt = take(made, 1)
    made.known.ledger.minutes.clear()  # another process replaced the shared state
    assert made.sending(receipt, 10) is None
    made.refund(receipt)
    assert not made.known.ledger.minutes


def test_a_late_ambiguous_answer_counts_in_each_minute_up_to_now() -> None:
    made = bucket(100)
    receipt = take(made, 30, 7)
    made.settle(receipt, 75, None, None)
    assert (made.usage(75).used, made.known.ledger.minutes[int(NOON // 60)].used) == (7, 7)


def test_a_late_answer_is_booked_to_the_minute_of_its_date() -> None:
    made = bucket(100)
    receipt = take(made, 30, 7)
    made.settle(receipt, 75, 7, NOON + 31)  # the exchange counted it at once, and answered late
    assert (made.usage(75).used, made.known.ledger.minutes[int(NOON // 60)].used) == (0, 7)


def test_an_answer_hours_late_takes_no_minute_below_zero() -> None:
    made = bucket(100)
    receipt = take(made, 30, 7)
    made.settle(receipt, 7261, 9, None)
    assert len(made.known.ledger.minutes) <= MEMORY + 3
    assert all(m.booked >= 0 and m.unconfirmed >= 0 for m in made.known.ledger.minutes.values())
    assert made.usage(7262).used >= 9


def test_a_refund_hours_late_takes_no_minute_below_zero() -> None:
    made = bucket(100)
    receipt = take(made, 30, 7)
    take(made, 7230)
    made.refund(receipt)
    assert all(m.booked >= 0 and m.unconfirmed >= 0 for m in made.known.ledger.minutes.values())


@pytest.mark.parametrize("lost_at", [41.0, 49.0, 51.0, 75.0, 300.0])
def test_a_late_loss_is_booked_only_to_possible_minutes(
    lost_at: float,
) -> None:
    made = bucket(100)
    receipt = take(made, 40, 60)
    made.lose(receipt, lost_at)
    booked = {k: minute.booked for k, minute in made.known.ledger.minutes.items()}
    possible = range(receipt.first, receipt.last + 1)
    assert {k: weight for k, weight in booked.items() if weight} == dict.fromkeys(possible, 60)


# -- when there is room again --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, wait",
    [
        ("hold", 30.0),
        ("probe", PROBE_PATIENCE - 0.1),
        ("full", 58.0),
        ("share", 58.0),
        ("in flight", 58.0),
        ("in flight, and in the count", PROBE_PAUSE),
        ("lost", FLIGHT - 1.0),
        ("lost, and no reserve", 58.0),
        ("nothing", 0.0),
        ("window", 10.0),
    ],
)
def test_room_is_expected_when_the_reason_of_the_wait_ends(name: str, wait: float) -> None:
    made = bucket(100, reserve=0 if name in ("in flight", "lost, and no reserve") else 1)
    if name == "hold":
        made.hold(2, 30)
    elif name == "probe":
        made = bucket(100, known=False)
        take(made, 1.9)
    elif name == "full":
        fill(made, 1, 99)
    elif name == "share":
        made = bucket(100, share=0.5)
        fill(made, 1, 50)
    elif name == "in flight":
        take(made, 1, 100)
    elif name == "in flight, and in the count":
        first, *_ = [take(made, 1) for _ in range(50)]
        made.settle(first, 1.5, 50, NOON + 1)
        assert made.usage(1.6).remaining == 0
    elif name == "window":
        made.set_limits(0.0, None, [Limit(10, 50, False)])
        take(made, 1, 49)
    elif name.startswith("lost"):
        made.lose(take(made, 1, made.usage(1).remaining), 1.5)
    before = repr(made.known)
    assert made.room_in(2, 1) == pytest.approx(wait, abs=0.01)
    assert repr(made.known) == before  # a question changes no state


def test_room_is_expected_when_every_possible_minute_has_room() -> None:
    made = bucket(100)
    fill(made, 1, 1)
    made.known.ledger.open_minute(int(NOON // 60) + 1).booked = 100
    assert made.room_in(55, 1) == pytest.approx(65, abs=0.02)


@pytest.mark.parametrize("name", ["full", "held"])
def test_despite_clock_drift_a_caller_finds_room_when_it_is_expected(name: str) -> None:
    made = bucket(100)
    fill(made, 1, 99)
    if name == "held":
        made.hold(2, 3600.0)
    room = made.room_in(2, 1)
    assert room is not None
    assert isinstance(made.charge(2 + room + 1e-6, 1), Receipt)


def test_room_is_expected_soon_if_answers_may_show_that_the_minute_before_counted_them() -> None:
    made = bucket(100, reserve=1)
    late = [take(made, 55) for _ in range(80)]  # booked to two minutes
    # A request sent at 61.6 belongs to the second minute, in which 80 + 50 exceed the limit of 100.
    assert made.room_in(61.6, 50) == pytest.approx(1.0, abs=0.01)
    for receipt in late:
        made.settle(receipt, 61.7, 80, NOON + 57)
    assert isinstance(made.charge(61.75, 50), Receipt)


def test_room_is_expected_when_a_probe_can_decide_lost_weight() -> None:
    made = bucket(100, reserve=1)
    made.lose(take(made, 49, 99), 59)
    assert made.room_in(59.5, 1) == 0.0  # a probe may go now, and its count decides the lost weight
    assert made.room_in(59.5, 100) is None  # 100 exceeds the budget of 99


# -- other limits of the exchange ----------------------------------------------------------------


def test_a_request_is_sent_only_if_every_announced_limit_has_room() -> None:
    made = bucket(1000)
    made.set_limits(0.0, 500, [Limit(10, 100, False), Limit(86_400, 150, False)])
    fill(made, 1, 90)
    assert made.usage(1.1).remaining == 10
    assert refuse(made, 1.2, 11) == pytest.approx(10, abs=1.0)  # until the 90 leave the window
    fill(made, 1.3, 10)
    assert refuse(made, 1.4) > 9
    fill(made, 13, 50)
    assert refuse(made, 14) > 80_000
    assert made.usage(14).limit == 500


def test_a_limit_of_requests_counts_requests_and_not_weight() -> None:
    made = bucket(1000)
    made.set_limits(0.0, None, [Limit(60, 5, True)])
    for n in range(5):
        fill(made, 1 + n / 10, 40)
    assert refuse(made, 2) > 50
    assert made.usage(2).limit == 1000


def test_reserve_and_share_apply_to_every_limit() -> None:
    made = bucket(1000, reserve=100, share=0.5)
    made.set_limits(0.0, None, [Limit(10, 100, False), Limit(20, 100, False)])
    assert refuse(made, 1, 51) == math.inf
    assert made.usage(1).remaining == 50
    assert made.usage(1).sustained == 150.0
    kept = bucket(1000, reserve=100)
    kept.set_limits(0.0, None, [Limit(10, 100, False)])
    assert kept.usage(1).remaining == 90


def test_a_reserve_above_a_lowered_limit_leaves_zero_and_not_less() -> None:
    made = bucket(1000, reserve=100)
    made.set_limits(0.0, 50, [Limit(10, 100, False), Limit(20, 3, True)])
    usage = made.usage(1)
    assert (usage.sustained, usage.remaining) == (0.0, 0)
    assert made.charge(1, 1) == Wait(None, Reason.TOO_HEAVY)


@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.parametrize("requests", [False, True])
def test_a_limit_per_second_is_used_repeatedly_and_never_exceeded(
    most: int, requests: bool
) -> None:
    made = bucket(1000)
    made.set_limits(0.0, None, [Limit(1, most, requests)])
    sent: list[float] = []
    for n in range(400):
        now = n / 10
        receipt = made.charge(now, 1)
        if isinstance(receipt, Receipt):
            made.settle(receipt, now + 0.05, len(sent) + 1, NOON + int(now))
            sent.append(now)
    assert len(sent) >= 20
    assert all(sum(0 <= other - one < 1 for other in sent) <= most for one in sent)


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
@pytest.mark.parametrize("share", [1.0, 0.1])
def test_even_a_tiny_limit_is_used_and_never_exceeded(limit: int, share: float) -> None:
    made = bucket(2400, share=share)
    made.set_limits(0.0, limit, [])
    fill(made, 1, 1)
    while isinstance(receipt := made.charge(2, 1), Receipt):
        made.settle(receipt, 2, made.usage(2).used, NOON + 2)
    assert 1 <= made.usage(3).used <= limit
    assert isinstance(made.charge(62, 1), Receipt)


def test_a_limit_of_one_admits_a_request_without_counts() -> None:
    made = bucket(1)
    made.known.silent = BLIND_AFTER
    assert isinstance(made.charge(1, 1), Receipt)


def test_a_refund_gives_weight_back_to_every_limit() -> None:
    made = bucket(1000)
    made.set_limits(0.0, None, [Limit(10, 10, False)])
    made.refund(take(made, 1, 10))
    assert isinstance(take(made, 1, 10), Receipt)


def test_a_request_without_an_answer_stays_in_a_window_as_long_as_it_may_be_counted() -> None:
    made = bucket(1000)
    made.set_limits(0.0, None, [Limit(10, 10, False)])
    made.lose(take(made, 1, 10), 2)
    assert refuse(made, 1 + FLIGHT + 9.9, 10) > 0
    fill(made, 1 + FLIGHT + 11, 10)


def test_a_limit_announced_later_begins_with_the_weight_used_before() -> None:
    made = bucket(1000)
    fill(made, 1, 30)
    flying = take(made, 2, 40)
    made.set_limits(3.0, None, [Limit(10, 100, False)])
    assert made.usage(3).remaining == 30
    made.settle(flying, 3.1, 70, NOON + 3)
    assert made.usage(3.2).remaining == 30  # the exchange may have counted the 40 just now
    assert made.usage(25).remaining == 100


def test_a_repeated_limit_keeps_its_count_and_an_omitted_limit_ends() -> None:
    made = bucket(1000)
    made.set_limits(0.0, None, [Limit(10, 100, False)])
    fill(made, 1, 30)
    made.set_limits(2.0, None, [Limit(10, 50, False)])
    assert made.usage(2).remaining == 20
    made.set_limits(2.0, 800, [])
    assert made.usage(2).remaining == 770


def test_under_a_limit_of_another_span_a_request_older_than_its_patience_is_not_sent() -> None:
    made = bucket(1000)
    made.set_limits(0.0, None, [Limit(1, 10, False)])
    receipt = take(made, 1)
    assert made.sending(receipt, 1 + PATIENCE) is receipt
    assert made.sending(receipt, 1.1 + PATIENCE) is None


# -- cooldown ----------------------------------------------------------------------------------


def test_a_cooldown_ends_when_it_is_certainly_over_by_the_exchanges_clock() -> None:
    made = bucket(off=1.0)
    made.hold(5, 30)
    assert refuse(made, 6) == pytest.approx(31, abs=0.01)
    assert take(made, 37.1).probe


def test_cooldowns_only_ever_extend() -> None:
    made = bucket()
    made.hold(5, 30, ban=True)
    made.hold(6, 1)
    made.hold_until(NOON + 20, ban=True)
    usage = made.usage(7)
    assert usage.held_until == usage.banned_until == datetime.fromtimestamp(NOON + 35, UTC)


@pytest.mark.parametrize("after, until", [(0.0, 60.0), (10.0, 60.0), (100.0, 105.0)])
def test_a_refusal_cools_down_until_the_next_minute_or_longer(after: float, until: float) -> None:
    made = bucket()
    made.refused(5, after)
    assert refuse(made, 6) == pytest.approx(until - 6, abs=0.01)
    assert take(made, until + 0.1).probe
    assert made.usage(until + 0.1).held_until is None


def test_the_surge_expected_after_a_refusal_fades() -> None:
    made = bucket(1000)
    made.refused(5, 0.0)
    made.refused(5.1, 0.0)  # in the same cooldown, so the two refusals count as one
    assert made.known.others.expected_surge == 250
    for k in range(1, 12):
        made.known.probe_ends_at = -math.inf
        fill(made, 60 * k + 1, 1)
    assert made.known.others.expected_surge < 30


def test_a_ban_does_not_change_the_expected_surge() -> None:
    made = bucket(1000)
    made.refused(5, 0.0)
    made.refused(65, 120.0, ban=True)
    assert made.known.others.expected_surge == 250


def test_a_minute_with_a_cooldown_does_not_fade_a_surge() -> None:
    made = bucket(1000)
    made.refused(5, 0.0)
    made.hold(6, 85)
    fill(made, 95, 1)
    fill(made, 121, 1)
    assert made.known.others.expected_surge == 250
    fill(made, 181, 1)
    assert made.known.others.expected_surge == 125


def test_a_refusal_after_a_ban_does_not_shorten_how_long_others_are_expected() -> None:
    made = bucket(1000)
    made.known.others.expect_until(until := int(NOON // 60) + 125)
    made.refused(5, 7200.0, ban=True)
    made.refused(5.1, 0.0)  # the answer to a request that was under way before the ban
    assert made.known.others.expected_until == until


def test_without_headers_a_refusal_does_not_make_every_request_a_probe() -> None:
    made = bucket(100)
    made.refused(5, 0.0)
    sent = 0
    for n in range(90):
        receipt = made.charge(61 + n / 100, 1)
        if isinstance(receipt, Receipt):
            sent += not receipt.probe
            made.settle(receipt, 61 + n / 100, None, NOON + 61)
    assert sent >= 75  # after `BLIND_AFTER` answers without a count, the bucket sends no probes


def test_a_second_refusal_doubles_the_expected_surge_up_to_half_the_limit() -> None:
    made = bucket(1000)
    for k in range(4):
        made.refused(60 * k + 5, 0.0)
    assert made.known.others.expected_surge == 500


def test_a_refusal_below_the_limit_lowers_it_for_75_minutes() -> None:
    made = bucket(1000)
    made.refused(2, 0.0, minute=int(NOON // 60), used=501)
    assert made.usage(2).limit == 500
    made.set_limits(3, 1000, [])  # the exchange still announces the old limit
    for k in range(1, DISTRUST + 1):
        fill(made, 60 * k + 1, 1, used=1)
        assert made.usage(60 * k + 1).limit == 500
    fill(made, 60 * DISTRUST + 61, 1, used=1)
    assert made.usage(60 * DISTRUST + 61).limit == 1000


def test_75_minutes_after_a_refusal_requests_above_its_count_are_sent_one_at_a_time() -> None:
    made = bucket(1000)
    made.refused(2, 0.0, minute=int(NOON // 60), used=501)
    late = 60 * DISTRUST + 60
    fill(made, late - 30, 1, used=1)
    fill(made, late + 1, 1, used=1)
    fill(made, late + 2, 100)
    fill(made, late + 3, 399)
    assert take(made, late + 47, 100).probe
    made.known.probe_ends_at = -math.inf
    fill(made, late + 61, 1, used=1)
    assert made.known.others.refused_count == 501  # no request above that count was served
    fill(made, late + 92, 503)
    fill(made, late + 121, 1, used=1)
    assert made.known.others.refused_count == 0


@pytest.mark.parametrize("used", [99, 1000, 1001])
def test_a_refusal_at_or_above_or_far_below_the_limit_does_not_lower_it(used: int) -> None:
    made = bucket(1000)
    made.refused(2, 0.0, minute=int(NOON // 60), used=used)
    assert made.usage(2).limit == 1000
    assert made.known.others.expected_surge == 250


def test_the_count_of_a_ban_does_not_lower_the_limit() -> None:
    made = bucket(1000)
    made.refused(2, 120.0, ban=True, minute=int(NOON // 60), used=501)
    assert made.usage(2).limit == 1000


def test_an_announced_limit_below_the_lowered_one_applies_at_once() -> None:
    made = bucket(1000)
    made.refused(2, 0.0, minute=int(NOON // 60), used=501)
    made.set_limits(3, 300, [])
    assert made.usage(3).limit == 300


def test_the_count_of_a_refusal_above_the_limit_is_not_kept() -> None:
    made = bucket(1000)
    made.refused(2, 0.0, minute=int(NOON // 60), used=1001)
    assert made.known.others.refused_count == 0


def test_after_a_start_near_a_rollover_while_others_are_active_a_second_probe_follows() -> None:
    made = bucket(2400, off=1.0, known=False)
    probe = take(made, 59.5)
    made.settle(probe, 59.6, 2300, None)
    assert refuse(made, 59.7) == POLL
    assert refuse(made, 60.99) < POLL
    assert take(made, 61.01).probe
    assert made.usage(59.7).used >= 2300
    assert made.usage(61.01).used <= 2


def test_near_a_rollover_no_request_goes_into_a_minute_that_others_may_have_filled() -> None:
    made = bucket(1000, off=1.0)
    fill(made, 10, 1, used=200)
    fill(made, 50, 1, used=960)
    assert refuse(made, 60.5, 30) == POLL  # the old minute may not be over
    assert isinstance(take(made, 61.1, 30), Receipt)


def test_others_that_were_steady_before_a_cooldown_are_expected_to_stay_steady() -> None:
    made = bucket(1000)
    fill(made, 1, 1, used=20)
    fill(made, 30, 1, used=300)
    made.hold(31, 20)
    fill(made, 61, 1, used=2)
    assert isinstance(made.charge(62, 100), Receipt)
    assert refuse(made, 62, 300) > 1  # at 10 weight/s, others use about 600


def test_a_changed_limit_applies_at_once() -> None:
    made = bucket(100, reserve=0.5)
    made.known.limit = 1000
    assert isinstance(take(made, 1, 500), Receipt)
    assert made.usage(1).limit == 1000


# -- the guarantee -----------------------------------------------------------------------------


class Guarantee(RuleBasedStateMachine):
    """The exchange's own count never exceeds a limit, whatever is late, lost or without headers."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.counted: Counter[int] = Counter()  # the weight that the exchange counted, by minute
        self.log: list[tuple[float, int]] = []  # when a request was counted, and its weight
        self.limits: tuple[Limit, ...] = ()
        self.events: list[tuple[float, int, Receipt, float, float, str]] = []  # see `later`
        self.order = count()  # gives events at one instant an order

    @initialize(
        limit=st.integers(20, 400),
        reserve=st.sampled_from([0.01, 0.1, 3]),
        wrong=st.floats(-2.4, 2.4),
        into=st.floats(0.0, 59.0),
        spans=st.lists(st.sampled_from([1, 7, 60, 300]), max_size=2, unique=True),
        requests=st.booleans(),
    )
    def begin(
        self,
        limit: int,
        reserve: float,
        wrong: float,
        into: float,
        spans: list[int],
        requests: bool,
    ) -> None:
        self.offset = NOON + into
        self.limit, self.reserve = limit, reserve
        guess = self.offset + wrong
        clock = ServerClock(guess - 2.5, guess + 2.5, 0.0)
        self.bucket = Bucket(Known(limit, clock), Parts(reserve=reserve))
        self.limits = tuple(Limit(span, 5 + limit // 2, requests) for span in spans)
        self.bucket.set_limits(0.0, None, self.limits)

    def minute(self) -> int:
        return int((self.now + self.offset) // 60)

    @rule(
        weight=st.integers(1, 12),
        times=st.integers(1, 30),
        held=st.one_of(st.just(0.0), st.floats(0.0, PATIENCE), st.floats(0.0, 40.0)),
        up=st.floats(0.0, 0.99),
        down=st.one_of(st.floats(0.0, 3.0), st.floats(0.0, 200.0)),
        fate=st.sampled_from(["answer"] * 4 + ["no header", "no date", "no answer", "never sent"]),
    )
    def ask(self, weight: int, times: int, held: float, up: float, down: float, fate: str) -> None:
        for _ in range(times):
            receipt = self.bucket.charge(self.now, weight)
            if not isinstance(receipt, Receipt):
                return
            if fate == "never sent":
                self.bucket.refund(receipt)
                continue
            self.later(held, receipt, up * (FLIGHT - min(held, PATIENCE)), down, f"send {fate}")

    def later(self, after: float, receipt: Receipt, up: float, down: float, what: str) -> None:
        """Plan an event in `after` s; the request takes `up` s, and its answer `down` s."""
        event = (self.now + after, next(self.order), receipt, up, down, what)
        heapq.heappush(self.events, event)

    @rule(seconds=st.one_of(st.floats(0.001, 1.0), st.floats(1.0, 70.0)))
    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.events and self.events[0][0] <= until:
            self.now, _, receipt, up, down, what = heapq.heappop(self.events)
            kind, _, rest = what.partition(" ")
            if kind == "send":
                self.send(receipt, up, down, rest)
            elif kind == "arrive":
                self.arrive(receipt, down, rest)
            else:
                self.settle(receipt, rest)
        self.now = until

    def send(self, receipt: Receipt, up: float, down: float, fate: str) -> None:
        sent = self.bucket.sending(receipt, self.now)
        if sent is None:
            self.bucket.refund(receipt)
        else:
            self.later(up, sent, 0.0, down, f"arrive {fate}")

    def arrive(self, receipt: Receipt, down: float, fate: str) -> None:
        k = self.minute()
        self.counted[k] += receipt.weight
        self.log.append((self.now, receipt.weight))
        used = "" if fate == "no header" else self.counted[k]
        date = "" if fate == "no date" else int(self.now + self.offset)
        answer = "lost" if fate == "no answer" else f"{used} {date}"
        self.later(down, receipt, 0.0, 0.0, f"settle {answer}")

    def settle(self, receipt: Receipt, answer: str) -> None:
        if answer == "lost":
            self.bucket.lose(receipt, self.now)
            return
        used, date = answer.split(" ")
        used_weight = int(used) if used else None
        self.bucket.settle(receipt, self.now, used_weight, float(date) if date else None)

    @invariant()
    def the_limit_is_obeyed(self) -> None:
        assert not self.counted or max(self.counted.values()) <= self.limit

    @invariant()
    def every_other_limit_is_obeyed_wherever_its_window_begins(self) -> None:
        for limit in self.limits:
            for end, _ in self.log[-1:]:  # earlier entries were checked when they were the last
                inside = [weight for at, weight in self.log if end - limit.seconds < at <= end]
                assert (len(inside) if limit.counts_requests else sum(inside)) <= limit.most

    @invariant()
    def asking_changes_nothing_and_charge_answers_as_the_rules_do(self) -> None:
        if not hasattr(self, "bucket"):
            return
        known = self.bucket.known
        if self.now - known.clock.at > 1.0:
            known.clock.drift(self.now)
        before = copy.deepcopy(known)
        verdict = decide(self.bucket.question(self.now, 3), known)
        self.bucket.usage(self.now)
        self.bucket.room_in(self.now, 3)
        assert known == before
        answer = Bucket(before, Parts(reserve=self.reserve)).charge(self.now, 3)
        if isinstance(answer, Receipt):
            assert isinstance(verdict, Probe if answer.probe else Send)
        else:
            assert answer == verdict

    @invariant()
    def no_weight_is_given_back_twice(self) -> None:
        if hasattr(self, "bucket"):
            for minute in self.bucket.known.ledger.minutes.values():
                assert minute.unconfirmed >= 0
                assert minute.booked >= 0


TestGuarantee = Guarantee.TestCase
TestGuarantee.settings = settings(stateful_step_count=40)
