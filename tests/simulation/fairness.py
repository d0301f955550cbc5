"""`python -m tests.simulation.fairness`: how clients share the limit with others and with copies.

Copies are clients of ours on the same IP address, each with a budget of its own.

Rule of this file: it has the cases as data, and computes figures of complete runs. The bounds of a
case hold from a given minute on. The exit code is 1 if a run misses a bound.
"""

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import inf
from random import Random
from statistics import quantiles

from binance_oi.simulator.counter import Bursts, Others, Steady

from .command import chosen
from .networks import Moments, Together, Uneven
from .world import EPOCH_S, Outcome, Situation, run

Draw = Callable[[Random], Situation]


@dataclass(frozen=True, slots=True)
class Case:
    """A situation and its bounds."""

    name: str
    draw: Draw
    first: int = 1  # the minute from which `used`, `poorest` and `waits` count
    used: float = 0.0  # at least this share of the limit must be used
    poorest: float = 0.0  # the least part that a copy may get, as a share of an even part
    waits: tuple[float, float, float] = (inf, inf, inf)  # s: bounds of median, 99 %, maximum
    calm: int = 0  # the minute from which `refused` bounds the weight over the limit
    # The most weight over the limit, as a share of others' weight; with 0, the exchange may not
    # refuse any of our requests either.
    refused: float = 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one run."""

    used: float
    poorest: float
    waits: tuple[float, float, float]
    refused: int  # our refused requests, from minute `calm` on
    over: int  # weight over the limit from minute `calm` on, ours and others'
    theirs: float  # `over` as a share of others' weight


def copies(random: Random, count: int, apart: float) -> Situation:
    return Situation(
        minutes=20,
        budgets=count,
        apart=apart,
        start=random.uniform(0.0, 59.0),
        leg=Uneven(random.uniform(0.01, 0.1), random.uniform(0.2, 0.8)),
    )


def bot_beside_a_copy(random: Random) -> Situation:
    return Situation(
        minutes=20,
        budgets=2,
        bots=1,
        apart=random.uniform(0.0, 60.0),
        start=random.uniform(0.0, 59.0),
        leg=Uneven(random.uniform(0.01, 0.1)),
    )


def singles(random: Random, sweep: int) -> Situation:
    return Situation(
        minutes=12,
        bulk=True,
        singles=True,
        sweep=sweep,
        every=30.0,
        start=random.uniform(0.0, 59.0),
        leg=Uneven(random.uniform(0.01, 0.1)),
    )


def beside(random: Random, others: Callable[[Random], Others]) -> Situation:
    return Situation(
        minutes=12,
        others=others(random),
        start=random.uniform(0.0, 59.0),
        leg=Uneven(random.uniform(0.01, 0.1)),
    )


def steady(random: Random, least: float, most: float) -> Others:
    return Steady(random.uniform(least, most))


def rhythm(random: Random, every: float, size: int) -> Others:
    return Bursts(size, at_second=random.uniform(0.0, every), every=every)


def poisson(random: Random, every: float, size: int) -> Others:
    """Bursts without a rhythm, with this mean interval."""
    moments, now = list[tuple[float, int]](), EPOCH_S
    while now < EPOCH_S + 1800.0:
        now += random.expovariate(1.0 / every)
        moments.append((now, size))
    return Moments(tuple(moments))


def resembling(random: Random) -> Others:
    """Others that use 600 within 5 s, once a minute."""
    at = random.uniform(0.0, 55.0)
    return Together(tuple(Bursts(60, at_second=at + n / 2) for n in range(10)))


def sweeps(random: Random) -> Others:
    """Others that use 800 within 25 s, every 90 s."""
    at = random.uniform(0.0, 90.0)
    return Together(tuple(Bursts(16, at_second=at + n / 2, every=90.0) for n in range(50)))


TOGETHER = {f"{n} copies, {name}": (n, s) for n in (2, 3, 5, 8) for name, s in (
    ("together", 0.0), ("11 s apart", 11.0), ("45 s apart", 45.0))}  # fmt: skip
RHYTHMS = {7.0: 80, 13.0: 150, 25.0: 250, 45.0: 300, 61.0: 400, 90.0: 600}

CASES = (
    *(
        Case(
            name,
            partial(copies, count=n, apart=s),
            first=10,
            used=0.97 if n == 2 else 0.96,
            poorest=0.8 if n == 2 else 0.5,
            calm=0 if n == 2 else 2,
        )
        for name, (n, s) in TOGETHER.items()
    ),
    Case("1/s beside a copy", bot_beside_a_copy, first=5, waits=(1.0, 15.0, inf)),
    Case(
        "1/s on the budget of a recorder that saturates",
        partial(singles, sweep=0),
        first=6,
        used=0.98,
        waits=(0.1, 1.0, 5.0),
    ),
    Case("1/s beside sweeps of 840 every 30 s", partial(singles, sweep=840), waits=(0.1, 1.0, 5.0)),
    Case(
        "steady others, 5 to 30/s",
        partial(beside, others=partial(steady, least=5.0, most=30.0)),
        used=0.98,
        calm=1,
    ),
    Case(
        "steady others of 38/s",
        partial(beside, others=partial(steady, least=38.0, most=38.0)),
        refused=0.001,
    ),
    *(
        Case(
            f"{size} every {every:.0f} s",
            partial(beside, others=partial(rhythm, every=every, size=size)),
            used=0.88,
            refused=0.02,
        )
        for every, size in RHYTHMS.items()
    ),
    Case(
        "150 every 15 s, at random",
        partial(beside, others=partial(poisson, every=15.0, size=150)),
        used=0.88,
        refused=0.02,
    ),
    Case(
        "800 over 25 s, every 90 s",
        partial(beside, others=sweeps),
        used=0.88,
        refused=0.02,
    ),
    Case("600 within 5 s, once a minute", partial(beside, others=resembling), calm=3),
)


def figures(case: Case, seed: int) -> Figures:
    """Play one run. `seed` decides the situation, and then the events in it."""
    situation = case.draw(Random(f"{case.name} {seed}"))
    outcome = run(situation, seed)
    late = {k: weight for k, weight in outcome.weights.items() if k >= case.calm}
    over = sum(max(0, weight - situation.limit) for weight in late.values())
    theirs = sum(late.values()) - sum(outcome.ours[k] for k in late)
    return Figures(
        outcome.used(case.first),
        outcome.fairness_since(case.first),
        _spread(outcome, case.first),
        sum(count for k, count in outcome.refused.items() if k >= case.calm),
        over,
        over / max(1, theirs),
    )


def _spread(outcome: Outcome, first: int) -> tuple[float, float, float]:
    """The median, the 99 % quantile and the maximum of the waits of single calls, s."""
    last = outcome.minutes - 1  # calls of the last minute may still wait
    waits = [wait for k, wait in outcome.waits if first <= k < last or (k == last and wait < inf)]
    waits = waits or [0.0, 0.0]
    parts = quantiles(waits, n=100, method="inclusive")
    return parts[49], parts[98], max(waits)


def missed(case: Case, found: Figures) -> list[str]:
    """The bounds that a run missed."""
    bounds = {
        f"{found.used:.1%} used": found.used >= case.used,
        f"the poorest had {found.poorest:.0%}": found.poorest >= case.poorest,
        f"{found.refused} of ours refused": found.refused == 0 or case.refused > 0.0,
        f"{found.theirs:.2%} over the limit": found.over == 0 or found.theirs <= case.refused,
    }
    for name, wait, most in zip(("half", "99 %", "all"), found.waits, case.waits, strict=True):
        bounds[f"{name} waited {wait:.2f} s"] = wait <= most
    return [text for text, is_met in bounds.items() if not is_met]


def _report(case: Case, found: Sequence[Figures]) -> list[str]:
    """Print a row of the table; return the missed bounds, by run."""
    waits = [max(each.waits[n] for each in found) for n in range(3)]
    waited = ", ".join(f"{wait:.2f}" for wait in waits) if any(waits) else ""
    worst = f"{min(f.used for f in found):.1%} | {min(f.poorest for f in found):.0%} | {waited}"
    over = max(each.theirs for each in found)
    refused = f"{sum(each.refused for each in found)} | {sum(each.over for each in found)}"
    missing = [text for each in found if (text := ", ".join(missed(case, each)))]
    print(
        f"| {case.name} | {len(found)} | {worst} | {refused} | {over:.2%} | {len(missing)} |",
        flush=True,
    )
    return [f"{case.name}: {text}" for text in missing]


def main() -> None:
    cases, seeds, jobs = chosen("tests.simulation.fairness", CASES, seeds=4, between="|")
    heads = "used", "poorest", "waits: half, 99 %, all, s", "429", "over limit", "of others' weight"
    print(f"| case | runs | {' | '.join(heads)} | missed |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    texts: list[str] = []
    with ProcessPoolExecutor(jobs) as pool:
        for case in cases:
            texts += _report(case, list(pool.map(partial(figures, case), seeds)))
    sys.exit("\n".join(texts) if texts else None)


if __name__ == "__main__":
    main()
