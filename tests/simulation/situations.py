"""The simulated situations, each with its bound.

Rule of this file: it has only data. Each run draws its situation from its seed, so all runs differ.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from binance_oi.simulator.counter import Bursts, Others, Steady

from .networks import Even, Leg, Moments, Stalling, Together, Uneven
from .world import EPOCH_S, Situation

Draw = Callable[[Random], Situation]


@dataclass(frozen=True, slots=True)
class Row:
    """A situation, and its bounds."""

    name: str
    draw: Draw
    used: float  # at least this share of the limit must be used
    first: int = 1  # minute from which the used share counts
    fair: float = 0.0  # the least part of the poorest process, as a share of an even part
    longest_wait: float = 150.0  # s that a call may wait


def _leg(random: Random) -> Leg:
    """Draw any network."""
    quick = Uneven(random.uniform(0.005, 0.15), random.uniform(0.1, 1.0))
    legs: list[Leg] = [
        Even(random.uniform(0.001, 0.2)),
        quick,
        Uneven(quick.median, 0.8, slow_share=random.uniform(0.0, 0.03)),
        Stalling(random.uniform(0.5, 4.0), random.uniform(7.0, 40.0), quick),
    ]
    return random.choice(legs)


def alone(random: Random) -> Situation:
    return Situation(leg=_leg(random))


def wrong_clock(random: Random) -> Situation:
    return Situation(leg=_leg(random), wall_error=random.choice((-2.5, -2.0, -0.7, 0.9, 2.0, 2.5)))


def wrong_clock_no_date(random: Random) -> Situation:
    return Situation(leg=_leg(random), wall_error=random.uniform(-2.5, 2.5), no_date=1.0)


def edge(random: Random, *, spread: float = 0.0, bias: float = 0.0) -> Situation:
    """Draw a situation in which the clock for `Date` differs from the clock for counting."""
    shift = random.choice((-bias, bias))
    return Situation(leg=_leg(random), date_error=(shift - spread, shift + spread))


def lossy(random: Random) -> Situation:
    return Situation(leg=_leg(random), lost=0.005)  # of requests, and also of answers: 1 % in all


def some_headers(random: Random) -> Situation:
    return Situation(leg=_leg(random), no_header=0.1)


def lagging(random: Random) -> Situation:
    return Situation(leg=_leg(random), lag=random.uniform(0.05, 0.8))


def no_header(random: Random) -> Situation:
    return Situation(leg=_leg(random), no_header=1.0, wall_error=random.uniform(-2.0, 2.0))


def nothing_usable(random: Random) -> Situation:
    return Situation(
        leg=_leg(random), no_header=1.0, no_date=1.0, wall_error=random.uniform(-2.0, 2.0)
    )


def lying_dates(random: Random) -> Situation:
    return Situation(leg=_leg(random), date_lies=0.001)


def cold(random: Random, *, used: int) -> Situation:
    start = random.uniform(0.0, 50.0)  # the network decides how much a later start can use
    return Situation(leg=_leg(random), used=used, start=start)


def steady(random: Random, *, stalls: bool = False) -> Situation:
    leg: Leg = Uneven(random.uniform(0.01, 0.1), random.uniform(0.1, 1.0))
    if stalls:
        leg = Stalling(random.uniform(0.5, 4.0), random.uniform(7.0, 40.0), leg)
    others = Steady(random.uniform(5.0, 30.0))
    return Situation(leg=leg, others=others, start=random.uniform(0.0, 40.0))


def bursts(random: Random) -> Situation:
    at = random.uniform(1.0, 60.0)  # after our start, so that we see the first burst whole
    start = random.uniform(0.0, min(at, 40.0))
    return Situation(others=Bursts(500, at_second=at), start=start)


def jittered_bursts(random: Random) -> Situation:
    at = random.uniform(5.0, 55.0)
    moments = [EPOCH_S + 60.0 * k + at + random.uniform(-4.0, 4.0) for k in range(12)]
    start = random.uniform(0.0, at - 4.0)
    return Situation(others=Moments(tuple((moment, 500) for moment in moments)), start=start)


def sweeping_others(random: Random) -> Situation:
    every = random.choice((10.0, 15.0, 20.0, 30.0))
    size = int(random.uniform(2.0, 25.0) * every)
    others = Bursts(size, at_second=random.uniform(0.0, every), every=every)
    start = every + random.uniform(0.0, 25.0)  # the others begin before us
    return Situation(others=others, start=start, leg=Uneven(random.uniform(0.01, 0.1)))


def mixed_weights(random: Random) -> Situation:
    return Situation(
        weights=random.choice(((1, 1, 1, 1, 10), (1, 1, 1, 40), (1, 10, 10, 40))),
        others=Steady(random.uniform(0.0, 20.0)),
        start=random.uniform(5.0, 40.0),
        leg=Uneven(random.uniform(0.01, 0.1)),
    )


def shared(random: Random, *, processes: int) -> Situation:
    return Situation(leg=_leg(random), processes=processes, start=random.uniform(0.0, 30.0))


def isolated(random: Random, *, budgets: int) -> Situation:
    return Situation(leg=_leg(random), budgets=budgets)


def killed(random: Random) -> Situation:
    return Situation(leg=_leg(random), processes=3, kills=5)


def sweeps(random: Random) -> Situation:
    return Situation(minutes=30, sweep=789, start=random.uniform(0.0, 59.0), leg=Uneven(0.04, 0.6))


def everything(random: Random) -> Situation:
    """Draw a situation in which most of the difficulties may occur at once."""
    budgets = random.choice((1, 1, 1, 2, 3))
    others: list[Others] = []
    if random.random() < 0.5:
        others.append(Steady(random.uniform(0.5, 25.0)))
    start = random.uniform(0.0, 40.0)
    if random.random() < 0.3 and budgets == 1:
        others.append(Bursts(random.randint(50, 500), at_second=random.uniform(0.0, 60.0)))
    spread, bias = random.uniform(0.0, 0.4), random.uniform(-0.4, 0.4)
    processes = random.choice((1, 1, 2, 3))
    return Situation(
        start=start,
        budgets=budgets,
        processes=processes,
        kills=random.choice((0, 2)) if processes > 1 else 0,
        leg=_leg(random) if budgets == 1 else Uneven(random.uniform(0.01, 0.1)),
        wall_error=random.uniform(-2.5, 2.5),
        date_error=(bias - spread, bias + spread),
        lost=random.choice((0.0, 0.002, 0.005)),
        no_header=random.choice((0.0, 0.02, 0.1)),
        no_date=random.choice((0.0, 0.1)),
        lag=random.choice((0.0, 0.0, 0.1)) if budgets == 1 else 0.0,
        used=random.choice((0, 0, 300)),
        others=Together(tuple(others)) if others else None,
        in_flight=random.choice((20, 100)),
    )


ROWS = (
    Row("alone, any latency, stalls", alone, 0.985),
    Row("wall clock off by up to 2.5 s", wrong_clock, 0.985),
    Row("the same without `Date`", wrong_clock_no_date, 0.985),
    Row("edge clocks scattered by 0.8 s", partial(edge, spread=0.8), 0.985),
    Row("edge clocks off by 0.8 s", partial(edge, bias=0.8), 0.985),
    Row("edge clocks off by 1.2 s", partial(edge, bias=1.2), 0.985),
    Row("1 % lost", lossy, 0.985),
    Row("10 % without header", some_headers, 0.985),
    Row("headers up to 0.8 s old", lagging, 0.97),
    Row("`Date` off by hours, 1 in 1000", lying_dates, 0.97),
    Row("no header", no_header, 0.80),
    Row("no header and no `Date`", nothing_usable, 0.80),
    Row("1,500 already used", partial(cold, used=1500), 0.98, first=0),
    Row("2,300 already used", partial(cold, used=2300), 0.98, first=0),
    Row("2,399 already used", partial(cold, used=2399), 0.98, first=0),
    Row("steady others, 5 to 30 a second", steady, 0.97),
    # During a stall we cannot see the use of others, and cannot use the end of a minute.
    Row("the same, over a link that stalls", partial(steady, stalls=True), 0.95),
    Row("bursts of 500, once a minute", bursts, 0.93, first=1),
    Row("the same, 4 s early or late", jittered_bursts, 0.93, first=1),
    Row("others that sweep every 10 to 30 s", sweeping_others, 0.93),
    Row("weights of 1 to 40, steady others", mixed_weights, 0.93),
    Row("2 processes, one budget", partial(shared, processes=2), 0.98, fair=0.5),
    Row("5 processes, one budget", partial(shared, processes=5), 0.98, fair=0.5),
    Row("3 processes, 5 killed a minute", killed, 0.90),
    Row(
        "2 budgets that do not know each other",
        partial(isolated, budgets=2),
        0.90,
        longest_wait=300.0,
    ),
    Row(
        "3 budgets that do not know each other",
        partial(isolated, budgets=3),
        0.90,
        longest_wait=300.0,
    ),
    Row("sweeps of 789 every 20 s, 30 minutes", sweeps, 0.98),
    Row("everything at once", everything, 0.0, longest_wait=600.0),
)
