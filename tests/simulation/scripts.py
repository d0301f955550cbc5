"""Hand-made scripts. Each charges one pool at given times, and answers for the exchange.

Rule of this file: a script plays events that the rows of `situations` omit, or reach only by
chance. It runs without an event loop, so a reader can follow it with a pencil. It asserts nothing:
`traces` records each decision and compares it with the decision of another version of the source.
Names in capitals in the docstring of a script are the constants that decide its answers.
"""

from collections import deque
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from binance_oi.budget import Pool, ProcessBudget, knowledge
from binance_oi.budget.usage import Receipt

NOON = 1_795_435_200.0  # Unix s; the beginning of a minute
START = 1_000.0  # monotonic s at `NOON`
LIMIT = 2_400
EVERY = range(1_000)  # all minutes that a script can reach

Note = Callable[[float, int, object], None]
"""Gets the time in seconds, the weight, and the answer of `charge` or of `sending`."""


class WatchedPool:
    """A pool that notes each answer of `charge`."""

    def __init__(self, pool: Pool, note: Note) -> None:
        self._pool, self._note = pool, note
        self._clock: Callable[[], float] = pool._clock  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def charge(self, weight: int, waiting: int = 0, bulk: bool = False) -> object:
        answer = self._pool.charge(weight, waiting, bulk)
        self._note(self._clock(), weight, answer)
        return answer


def room(pool: Pool, ask: Callable[[int], Receipt | None]) -> int:
    """Find the largest weight that may be sent now, by bisection; refund the receipts of `ask`."""
    fits, too_much = 0, pool.usage.limit + 1
    while too_much - fits > 1:
        weight = (fits + too_much) // 2
        receipt = ask(weight)
        if receipt is None:
            too_much = weight
        else:
            pool.refund(receipt)
            fits = weight
    return fits


class Desk:
    """One pool, a clock that the script advances, and an exchange that answers after `latency` s.

    Args:
        note: Gets each decision.
        limit: Weight a minute.
        reserve: See `ProcessBudget`.
        share: See `ProcessBudget`.
        at: Seconds after `NOON` at which the script begins.
        wall_error: Our wall clock less the exchange's, s.
        latency: Seconds from sending to the answer.
        others: Gets the number of a minute and the seconds since it began; returns the weight that
            others have used in that minute.
        headers: Whether an answer has the count, and whether it has a `Date`.
    """

    def __init__(
        self,
        note: Note,
        *,
        limit: int = LIMIT,
        reserve: float = 0.01,
        share: float = 1.0,
        at: float = 0.0,
        wall_error: float = 0.0,
        latency: float = 0.05,
        others: Callable[[int, float], int] = lambda _minute, _into: 0,
        headers: tuple[bool, bool] = (True, True),
    ) -> None:
        self.now = START + at
        self.latency = latency
        self.headers = headers
        self.date_error = 0.0  # s by which the next answers' `Date` is wrong
        self._note, self._others = note, others
        self._ours: dict[int, int] = {}
        self._under_way: deque[tuple[float, Receipt, int, float]] = deque()
        budget = ProcessBudget(
            limit=limit,
            reserve=reserve,
            share=share,
            clock=lambda: self.now,
            wall=lambda: NOON + self.now - START + wall_error,
        )
        self.pool: Pool = budget.pool("the exchange")

    def ask(self, weight: int = 1, *, bulk: bool = False) -> Receipt | None:
        """Charge once, note the answer, and send nothing."""
        answer = self.pool.charge(weight, 0, bulk)
        self._note(self.now - START, weight, answer)
        return answer if isinstance(answer, Receipt) else None

    def room(self, *, bulk: bool = False) -> int:
        """Find the largest weight that may be sent now, and send nothing."""
        return room(self.pool, lambda weight: self.ask(weight, bulk=bulk))

    def write(self, receipt: Receipt) -> None:
        """Note whether the request may still be written."""
        self._note(self.now - START, receipt.weight, self.pool.sending(receipt))

    def send(self, weight: int = 1, most: int = 1) -> int:
        """Charge up to `most` times and send each admitted request; return their number."""
        for sent in range(most):
            receipt = self.ask(weight)
            if receipt is None:
                return sent
            minute = self._minute()
            self._ours[minute] = self._ours.get(minute, 0) + weight
            self._under_way.append((self.now + self.latency, receipt, self.used(), self.now))
        return most

    def used(self) -> int:
        """The weight of all clients that the exchange has counted in the current minute."""
        minute = self._minute()
        return self._ours.get(minute, 0) + self._others(minute, (self.now - START) % 60.0)

    def to(self, second: float) -> None:
        """Advance the clock to `second` after `NOON`; answers arrive when they are due."""
        until = START + second
        while self._under_way and self._under_way[0][0] <= until:
            due, receipt, used, counted = self._under_way.popleft()
            self.now = max(self.now, due)
            date = float(int(NOON + counted - START + self.date_error))
            header, dated = self.headers
            self.pool.settle(receipt, used if header else None, date if dated else None)
        self.now = max(self.now, until)

    def go_on(self, until: float, *, every: float = 0.25, weight: int = 1, most: int = 50) -> None:
        """Send up to `most` admitted requests every `every` s until `until`."""
        second = self.now - START
        while second < until:
            self.send(weight, most)
            second += every
            self.to(second)

    def lose(self) -> None:
        """Lose the answer of the oldest request under way."""
        self.pool.lose(self._under_way.popleft()[1])

    def refuse(self, after: float = 0.0, *, ban: bool = False, shown: int | None = None) -> None:
        """Refuse the oldest request under way, with the count `shown` in the header."""
        _, receipt, _, counted = self._under_way.popleft()
        date = float(int(NOON + counted - START))
        self.pool.settle_refused(receipt, shown, date, after, ban=ban)

    def _minute(self) -> int:
        return int((self.now - START) // 60.0)


def every(step: float, first: float, last: float) -> list[float]:
    """The moments from `first` to about `last`, `step` s apart, in s."""
    return [first + step * n for n in range(round((last - first) / step) + 1)]


Script = Callable[[Note], None]
Scripts = dict[str, Script]
"""All scripts, each by the name of its function, with spaces for underscores."""


def adding_to(scripts: Scripts) -> Callable[[Script], Script]:
    """Make a decorator that stores a script under its name."""

    def script(play: Script) -> Script:
        scripts[play.__name__.replace("_", " ")] = play
        return play

    return script


SCRIPTS: Scripts = {}
script = adding_to(SCRIPTS)


def of_a_known_address(play: Script) -> Script:
    """Let the client of a script send the whole limit at once in its first two minutes."""

    @wraps(play)
    def known(note: Note) -> None:
        before: float = getattr(knowledge, "AT_ONCE", 1.0)
        setattr(knowledge, "AT_ONCE", 1.0)  # noqa: B010 - to a type checker it is a constant
        try:
            play(note)
        finally:
            setattr(knowledge, "AT_ONCE", before)  # noqa: B010

    return known


def steady(rate: float) -> Callable[[int, float], int]:
    """Others that use `rate` weight a second."""
    return lambda _minute, into: int(rate * into)


def bursts(weight: int, *seconds: float, minutes: Iterable[int] = EVERY) -> Callable[..., int]:
    """Others that use `weight` at each of these seconds of these minutes."""
    chosen = frozenset(minutes)
    return lambda minute, into: weight * sum(into >= at for at in seconds) * (minute in chosen)


def at_once(first: int, later: int) -> Callable[[int, float], int]:
    """Others that use `first` when minute 0 begins, and `later` when each later minute begins."""
    return lambda minute, _into: later if minute else first


@script
def a_minute_is_filled_and_the_next_one_is_probed(note: Note) -> None:
    desk = Desk(note, at=5.0)
    desk.go_on(130.0)


@script
def a_small_limit(note: Note) -> None:
    """POLL, CLOSING, EDGE, DRIFT, MINUTE: when the pool notices that a minute is over."""
    desk = Desk(note, limit=50, at=20.0)
    desk.go_on(190.0, every=0.5, most=3)


@script
def a_wrong_wall_clock_until_the_first_date(note: Note) -> None:
    for wall_error in (-2.4, 2.4):
        desk = Desk(note, at=50.0, wall_error=wall_error, latency=0.4)
        desk.go_on(75.0)


@script
def newcomers_near_the_rollover(note: Note) -> None:
    for at in (52.0, 57.0, 59.7, 60.2, 61.8):
        desk = Desk(note, at=at, others=steady(12.0))
        desk.go_on(at + 12.0)


@script
def steady_others(note: Note) -> None:
    desk = Desk(note, at=10.0, others=steady(25.0))
    desk.go_on(250.0, every=0.5)


@script
def others_of_one_weight_a_second(note: Note) -> None:
    desk = Desk(note, at=0.5, others=steady(1.0), latency=0.2)
    desk.go_on(190.0, every=0.5, most=10)


@script
def others_come_at_once_each_minute(note: Note) -> None:
    desk = Desk(note, at=3.0, others=bursts(600, 31.0))
    desk.go_on(310.0, every=0.5)


@script
def others_come_once_and_never_again(note: Note) -> None:
    desk = Desk(note, at=3.0, others=bursts(700, 20.0, minutes=(1,)))
    desk.go_on(480.0, every=1.0)


@script
def others_come_every_twenty_seconds(note: Note) -> None:
    desk = Desk(note, at=8.0, others=bursts(400, 4.0, 24.0, 44.0))
    desk.go_on(250.0, every=0.5)


@script
def others_used_most_of_the_minute_before_we_start(note: Note) -> None:
    for used in (1_500, 2_300, 2_399, 2_400):
        desk = Desk(note, at=33.0, others=bursts(used, 1.0, minutes=(0,)))
        desk.go_on(130.0, every=0.5)


@script
def a_copy_of_us_uses_the_rest(note: Note) -> None:
    desk = Desk(note, at=4.0, others=bursts(1_100, 0.5, 1.0))
    desk.go_on(310.0, every=0.5)


@script
def heavy_requests_beside_light_ones(note: Note) -> None:
    desk = Desk(note, at=6.0, others=steady(8.0))
    for second in range(6, 190):
        desk.send(40)
        desk.send(1, 20)
        desk.send(10)
        desk.to(second + 1.0)


@script
def a_share_and_a_reserve_of_weight(note: Note) -> None:
    desk = Desk(note, at=2.0, share=0.4, reserve=600, others=steady(3.0))
    desk.go_on(130.0, every=0.5)
    desk.ask(961)  # above our share: 0.4 x 2,400 = 960
    desk.ask(1_801)  # above the budget: 2,400 - 600 = 1,800


@script
@of_a_known_address
def lost_requests_stay_charged(note: Note) -> None:
    """UNDECIDED: how many entries of undecided weight a minute keeps."""
    desk = Desk(note, at=2.0, limit=100, latency=0.1)
    desk.go_on(4.0, most=2)
    for second in range(4, 125):
        desk.latency = 5.0
        if desk.send(3):
            desk.lose()
        desk.latency = 0.1
        desk.send(1)
        desk.to(second + 1.0)


@script
def refunds_give_the_weight_back(note: Note) -> None:
    desk = Desk(note, limit=20, at=3.0)
    desk.send()
    desk.to(4.0)
    for second in range(4, 64):
        receipts = [desk.ask(7) for _ in range(3)]
        for receipt in receipts:
            if receipt is not None:
                desk.pool.refund(receipt)
        desk.to(second + 1.0)


@script
def answers_without_a_count(note: Note) -> None:
    desk = Desk(note, at=5.0, limit=300, headers=(False, True))
    desk.go_on(130.0, every=0.5, most=10)
    desk.headers = (True, True)
    desk.go_on(190.0, every=0.5, most=10)


@script
def answers_without_anything(note: Note) -> None:
    desk = Desk(note, at=5.0, limit=300, headers=(False, False), wall_error=1.3)
    desk.go_on(130.0, every=0.5, most=10)


@script
def dates_that_contradict(note: Note) -> None:
    """CONTRADICTIONS: how many contradictory `Date`s in a row make the pool trust them."""
    desk = Desk(note, at=5.0, limit=300)
    desk.go_on(20.0, every=0.5, most=3)
    for error in (300.0, 0.0, -40.0, -40.0, -40.0, -40.0, 0.0):
        desk.date_error = error
        desk.go_on(desk.now - START + 3.0, every=1.0, most=1)
    desk.go_on(140.0, every=0.5, most=3)


@script
def a_refusal_and_a_second_one(note: Note) -> None:
    desk = Desk(note, at=12.0)
    desk.send(1, 3)
    desk.refuse(shown=2_400)
    desk.go_on(125.0, every=0.5)
    while not desk.send():
        desk.to(desk.now - START + 0.5)
    desk.refuse(17.0, shown=1_800)  # below the limit
    desk.go_on(500.0, every=1.0)


@script
def refused_twice_in_a_row(note: Note) -> None:
    """SURGE_LEAST, SURGE_MOST, SURGE_GROWS, SURGE_FADES: weight kept free after refusals."""
    for refusals in (1, 2, 3):
        desk = Desk(note, at=12.0)
        desk.go_on(15.0)
        for number in range(refusals):
            desk.to(70.0 + 60.0 * number)
            desk.send()
            desk.refuse(shown=2_400)
        desk.go_on(500.0, every=1.0)


@script
@of_a_known_address
def others_of_negligible_weight(note: Note) -> None:
    """NEGLIGIBLE_WEIGHT, NEGLIGIBLE_SHARE: how much use by others makes the pool expect them."""
    for limit, weight in ((1_000, 2), (2_400, 2), (2_400, 3), (3_990, 4), (4_000, 4)):
        desk = Desk(note, limit=limit, at=5.0, others=bursts(weight, 20.0))
        for second in (30.0, 65.0, 75.0):
            desk.go_on(second, every=1.0, most=20)
            desk.room()


@script
def a_count_that_is_nearly_as_high_in_the_next_minute(note: Note) -> None:
    """SLACK: by how much a count must fall to belong to another minute."""
    for theirs in range(100, 110):
        desk = Desk(
            note,
            limit=5_000,
            at=30.0,
            headers=(True, False),
            others=at_once(199, theirs),
        )
        desk.send()
        for second in every(0.5, 58.0, 63.0):
            desk.to(second)
            desk.send()
            desk.to(second + 0.1)
            desk.room()


@script
def a_wait_of_less_than_a_millisecond(note: Note) -> None:
    """LEAST_WAIT: how long a caller waits just before the last probe of a full minute is due."""
    desk = Desk(note, limit=50, at=5.0)
    desk.go_on(59.0, every=0.5, most=3)
    for second in every(0.0007, 59.2, 61.0):
        desk.to(second)
        receipt = desk.ask()
        if receipt is not None:
            desk.pool.refund(receipt)
            break


@script
@of_a_known_address
def heavy_probes_of_a_full_minute(note: Note) -> None:
    """FROM_RESERVE: how much of the reserve all probes but the last one may use."""
    for weight in (99, 100, 101, 102):
        desk = Desk(note, reserve=201, at=5.0)
        desk.go_on(20.0, weight=73, every=0.5, most=10)
        while desk.send(1):
            pass
        desk.go_on(61.0, weight=weight, every=0.1, most=1)


@script
def use_before_the_first_count_of_the_last_minute(note: Note) -> None:
    """How long the next minute keeps room for use that came before the first count."""
    for at in every(0.03, 33.0, 33.4):
        desk = Desk(note, at=at, others=bursts(1000, 10.0, minutes=(0,)))
        desk.go_on(59.0, every=1.0, most=5)
        for second in (62.0, 75.0, 90.0, 100.0):
            desk.to(second)
            desk.send()
        desk.to(desk.now - START + 0.1)
        desk.room()


@script
def a_ban_and_what_follows(note: Note) -> None:
    desk = Desk(note, at=40.0, others=bursts(300, 10.0))
    desk.go_on(45.0)
    desk.to(50.0)
    desk.send()
    desk.refuse(120.0, ban=True, shown=None)
    desk.go_on(320.0, every=1.0)


@script
def a_cooldown_that_is_extended(note: Note) -> None:
    desk = Desk(note, at=7.0)
    desk.go_on(9.0)
    desk.pool.hold(20.0)
    desk.to(15.0)
    desk.ask()
    desk.pool.hold(60.0)
    desk.pool.hold(5.0)
    desk.go_on(140.0, every=1.0)


@script
def a_limit_that_changes(note: Note) -> None:
    desk = Desk(note, at=4.0)
    for second, limit in ((20.0, 6_000), (70.0, 1_200), (130.0, 2_400)):
        desk.go_on(second, every=0.5)
        desk.pool.set_limit(limit)
    desk.go_on(190.0, every=0.5)


@script
def long_idleness(note: Note) -> None:
    desk = Desk(note, at=5.0, others=steady(10.0))
    desk.go_on(70.0)
    desk.to(1_000.0)
    desk.go_on(1_080.0)
    desk.to(50_000.0)  # clocks drift apart
    desk.go_on(50_130.0)


@script
def slow_answers(note: Note) -> None:
    desk = Desk(note, at=40.0, latency=7.0, others=steady(15.0))
    desk.go_on(140.0, every=0.5, most=30)
