"""The budget is careful after refusals and bans, and with rare or surprising counts.

Rule of this file: each test writes the answers of the exchange. A bucket made by `bucket` knows
the exchange's clock exactly.
"""

import logging
import math
from pathlib import Path

import pytest

from binance_oi.budget import MachineBudget, ProcessBudget
from binance_oi.budget.admission import Probe, decide, probe_for_a_fall
from binance_oi.budget.bucket import Bucket
from binance_oi.budget.knowledge import UNKNOWN, Known, Parts
from binance_oi.budget.server_clock import ServerClock
from binance_oi.budget.tuning import BLIND_AFTER, BLIND_FOR, DISTRUST, FLIGHT, UNSEEN_AT_ONCE
from binance_oi.budget.usage import Reason, Receipt, Wait
from binance_oi.exchange.limits import Limit

NOON = 1_795_435_200.0  # the beginning of a minute, Unix s
K = int(NOON // 60)
LIMIT = 2400


def bucket() -> Bucket:
    """A bucket that had an answer in the minute before, and is not cautious as after a start."""
    state = Known(LIMIT, ServerClock(NOON, NOON, 0.0), counted_at=-60.0, careful_since=UNKNOWN)
    state.ledger.newest = K - 1
    state.ledger.open_minute(K - 1).reported = 1
    return Bucket(state, Parts())


def take(made: Bucket, now: float, weight: int = 1) -> Receipt:
    answer = made.charge(now, weight)
    assert isinstance(answer, Receipt), answer
    return answer


def use(made: Bucket, now: float, weight: int, count: int) -> None:
    """Send a request of `weight`; its answer has this count, and comes after 50 ms."""
    made.settle(take(made, now, weight), now + 0.05, count, NOON + int(now))


def at_once(made: Bucket, now: float) -> int:
    """Charge requests of weight 1 until one has to wait; return how many were charged."""
    sent = 0
    while isinstance(made.charge(now, 1), Receipt):
        sent += 1
    return sent


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ban", [False, True])
@pytest.mark.parametrize("number", [1, BLIND_AFTER, 4 * BLIND_AFTER])
def test_after_refusals_without_a_count_the_next_request_is_a_probe(number: int, ban: bool) -> None:
    made = bucket()
    use(made, 1.0, 1, 1)
    under_way = [take(made, 1.2) for _ in range(number)]
    for receipt in under_way:
        minute = made.settle(receipt, 1.3, None, None)
        made.refused(1.3, 120.0, ban=ban, minute=minute)
    assert at_once(made, 61.5) == 0  # the cooldown is not over
    assert at_once(made, 121.5 + 60.0) == 1


def test_after_refusals_of_a_firewall_the_next_request_is_a_probe() -> None:
    made = bucket()
    for receipt in [take(made, 1.2), *(made.charge(2.3 + n, 1) for n in range(20))]:
        assert isinstance(receipt, Receipt)
        made.settle(receipt, receipt.sent + 0.1, None, None)
    made.hold(30.0, 60.0)
    assert at_once(made, 95.0) == 1


def test_after_a_ban_requests_are_sent_evenly_for_a_minute() -> None:
    made = bucket()
    made.refused(1.0, 120.0, ban=True)
    use(made, 130.0, 1, 1)
    wait = decide(made.question(130.05, 10), made.known)
    assert isinstance(wait, Wait)
    assert wait.reason is Reason.CAUTION
    assert wait.seconds == pytest.approx(9 / 39.6, abs=0.01)  # 2376 in 60 s are 39.6 per second
    sent = [1 + at_once(made, now) for now in (140.0, 150.0)]
    assert sent == [pytest.approx(396, abs=2), pytest.approx(397, abs=2)]
    made.known.ledger.minutes.clear()
    made.known.ledger.open_minute(K + 3).reported = 1
    assert at_once(made, 190.5) == 2376


def test_a_ban_alone_keeps_no_room_for_others() -> None:
    made = bucket()
    made.refused(1.0, 120.0, ban=True)
    assert made.known.others.expected_until < K
    assert made.known.others.expected_surge == 0


def test_after_a_ban_we_stay_cautious_whatever_answers_arrived_during_it() -> None:
    made = bucket()
    use(made, 1.0, 1, 1)
    receipt = take(made, 1.1)
    made.refused(1.2, 120.0, ban=True)
    made.settle(receipt, 1.3, 2, NOON + 1)
    assert made.known.careful_since == math.inf


# -- answers without counts ----------------------------------------------------------------------


def answer_without_count(made: Bucket, now: float, number: int) -> None:
    for receipt in [take(made, now) for _ in range(number)]:
        made.settle(receipt, now + 0.05, None, NOON + int(now))


def test_answers_without_a_count_are_ignored_while_the_last_count_is_recent() -> None:
    made = bucket()
    use(made, 1.0, 1, 1)
    answer_without_count(made, 2.0, 200)
    assert not made.known.is_blind
    answer_without_count(made, 2.0 + BLIND_FOR, BLIND_AFTER)
    assert made.known.is_blind


def test_a_full_minute_without_counts_is_probed_until_an_answer_has_one() -> None:
    made = bucket()
    use(made, 1.0, 1, 1)
    answer_without_count(made, 1.1, 1200)
    use(made, 1.5, 1, 1202)  # a node that lags may omit the 1200 from this count
    assert made.usage(2.5).remaining == 0
    for n in range(20):  # each is a probe, and gets no count
        receipt = take(made, 4.0 + n / 10)
        assert receipt.probe
        made.settle(receipt, 4.05 + n / 10, None, NOON + 4)
    use(made, 7.0, 1, 1223)
    assert made.usage(7.1).remaining > 1100


def test_probes_that_get_no_count_leave_half_of_the_reserve_to_the_last_probe() -> None:
    made = bucket()
    use(made, 1.0, 1, 1)
    answer_without_count(made, 1.1, 2375)
    for n in range(60):
        answer = made.charge(5.0 + n / 2, 1)
        if isinstance(answer, Receipt):
            made.settle(answer, 5.05 + n / 2, None, NOON + int(5 + n / 2))
    assert made.known.ledger.minute(K).booked <= 2376 + 12 + 1  # half of the reserve, and one more


# -- a count that does not fall at the rollover --------------------------------------------------


def rolling() -> Bucket:
    """A bucket that used 2,000 at 5 s of the last minute; this minute's first count is 2,001."""
    made = bucket()
    use(made, 5.0, 2000, 2000)
    use(made, 61.0, 1, 2001)
    return made


def test_a_count_that_did_not_fall_at_the_rollover_is_probed_again() -> None:
    made = rolling()
    assert not isinstance(decide(made.question(61.0 + FLIGHT, 1), made.known), Probe)
    assert isinstance(decide(made.question(61.2 + FLIGHT, 1), made.known), Probe)


@pytest.mark.parametrize("count, probes", [(2387, True), (2388, False)])
def test_probes_of_a_count_that_did_not_fall_leave_half_of_the_reserve(
    count: int, probes: bool
) -> None:
    made = bucket()
    use(made, 5.0, 2000, 2000)
    use(made, 61.0, 1, count)
    verdict = probe_for_a_fall(made.question(61.2 + FLIGHT, 1), made.known)
    assert isinstance(verdict, Probe) is probes


def test_a_count_that_falls_within_a_minute_shows_a_rolling_window() -> None:
    made = rolling()
    use(made, 75.0, 1, 2)
    assert made.known.is_rolling(K + DISTRUST)
    assert at_once(made, 76.0) > 100


@pytest.mark.parametrize(
    "later, count",
    [
        (75.0, 1990),  # the counts of two nodes may differ by as much
        (61.0 + FLIGHT - 0.1, 2),  # this request may have been counted before the previous one
        (115.0, 2),  # the next minute may have begun
    ],
)
def test_a_lower_count_that_has_another_explanation_does_not_show_a_rolling_window(
    later: float, count: int
) -> None:
    made = rolling()
    made.settle(
        Receipt(1, later, K + 1, K + 1, 2001, False), later + 0.05, count, NOON + int(later)
    )
    assert not made.known.rolling_until


@pytest.mark.parametrize("ban", [False, True])
def test_a_late_answer_from_before_a_cooldown_shows_no_rolling_window(ban: bool) -> None:
    made = bucket()
    use(made, 5.0, 1, 1)
    early, late = take(made, 10.0), take(made, 10.0, 1999)
    made.settle(late, 10.1, 2001, NOON + 10)
    made.hold(10.2, 5.0, ban=ban)
    made.settle(early, 10.3, 2, NOON + 10)
    assert not made.known.rolling_until


def test_while_the_window_rolls_we_never_exceed_the_limit_in_any_60_s() -> None:
    made = rolling()
    use(made, 75.0, 1, 2)
    sent: list[float] = []
    for second in range(76, 400):
        while isinstance(receipt := made.charge(second, 40), Receipt):
            sent.append(second)
            count = 40 * sum(moment > second - 60 for moment in sent)
            made.settle(receipt, second + 0.001, count, NOON + second)
        assert 40 * sum(moment > second - 60 for moment in sent) <= LIMIT
    assert 40 * len(sent) > 0.75 * LIMIT * (400 - 76) / 60


def test_a_falling_count_of_a_rolling_window_does_not_start_a_new_minute() -> None:
    made = rolling()
    made.set_limits(62.0, None, [Limit(10, 1000, False)])
    use(made, 75.0, 1, 2)
    other, window = made.known.windows
    assert (other.most, window.seconds) == (1000, 60)
    made.settle(take(made, 119.0), 120.5, 3, None)
    assert made.known.ledger.newest == K + 1


def test_an_early_refusal_that_the_last_minute_explains_shows_a_rolling_window() -> None:
    made = bucket()
    use(made, 5.0, 2376, 2376)
    made.charge(62.0, 24)
    made.refused(62.1, 0.0, minute=K + 1, used=2400)
    assert made.known.is_rolling(K + 1)


@pytest.mark.parametrize(
    "now, used, minute",
    [
        (62.1, 2401, K + 1),
        (90.0, 2400, K + 1),
        (62.1, 2400, None),  # the old minute may have counted the request
    ],
)
def test_a_refusal_that_the_last_minute_does_not_explain_shows_others(
    now: float, used: int, minute: int | None
) -> None:
    made = bucket()
    use(made, 5.0, 2376, 2376)
    made.charge(62.0, 24)
    made.refused(now, 0.0, minute=minute, used=used)
    assert not made.known.is_rolling(K + 1)
    assert made.known.others.expected_surge > 0


@pytest.mark.parametrize("first, is_rolling", [(24, False), (1211, False), (1212, True)])
def test_a_count_that_began_from_0_shows_that_others_caused_an_early_refusal(
    first: int, is_rolling: bool
) -> None:
    made = bucket()
    use(made, 5.0, 2376, 2376)
    use(made, 61.0, 24, first)  # 1212 - 24 = 1188 by others: half of the minute before
    made.refused(62.1, 0.0, minute=K + 1, used=2400)
    assert made.known.is_rolling(K + 1) is is_rolling
    assert (made.known.others.expected_surge > 0) is not is_rolling


def test_after_75_minutes_we_assume_aligned_minutes_again() -> None:
    made = rolling()
    use(made, 75.0, 1, 2)
    later = 60.0 * (DISTRUST + 3) + 5
    made.known.counted_at, made.known.probe_ends_at = later - 60.0, UNKNOWN
    use(made, later, 1, 1)
    assert not made.known.is_rolling(K + DISTRUST + 3)
    assert made.known.windows == []


def test_after_a_full_minute_we_keep_little_under_way_until_the_next_count() -> None:
    made = bucket()
    use(made, 5.0, 2376, 2376)
    assert at_once(made, 61.0) == UNSEEN_AT_ONCE
    made = bucket()
    use(made, 5.0, 840, 840)
    assert at_once(made, 61.0) == 1536  # together with the minute before, they fit into 2376


# -- log messages --------------------------------------------------------------------------------


def test_a_lower_limit_is_logged_once_with_the_refused_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = ProcessBudget(clock=lambda: 10.0, wall=lambda: NOON + 10.0).pool("exchange")
    for _ in range(3):
        receipt = pool.charge(1)
        if isinstance(receipt, Receipt):
            pool.settle_refused(receipt, 1201, NOON + 10.0, 0.0, ban=False)
    (text,) = (entry.getMessage() for entry in caplog.records if entry.levelno == logging.WARNING)
    assert "1201" in text
    assert "2400" in text
    assert "1200" in text
    assert pool.usage.limit == 1200


def test_each_process_that_shares_a_budget_logs_a_lower_limit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    budgets = [
        MachineBudget(directory=tmp_path / "b", clock=lambda: 10.0, wall=lambda: NOON + 10.0)
        for _ in range(2)
    ]
    first, second = (budget.pool("exchange") for budget in budgets)
    receipt = first.charge(1)
    assert isinstance(receipt, Receipt)
    first.settle_refused(receipt, 1201, NOON + 10.0, 0.0, ban=False)
    assert not isinstance(second.charge(1), Receipt)
    assert second.usage.limit == 1200
    texts = [entry.getMessage() for entry in caplog.records]
    assert [text.split()[-1] for text in texts] == ["1200", "1200"]  # one warning per process
    for budget in budgets:
        budget.close()


def test_a_rolling_window_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    now = [10.0]
    pool = ProcessBudget(clock=lambda: now[0], wall=lambda: NOON + now[0]).pool("exchange")
    for moment, weight, count in ((10.0, 1000, 1000), (25.0, 1, 1), (40.0, 1, 2)):
        now[0] = moment
        receipt = pool.charge(weight)
        assert isinstance(receipt, Receipt)
        pool.settle(receipt, count, NOON + int(moment))
    (text,) = (entry.getMessage() for entry in caplog.records)
    assert "did not start again with its minute" in text
