"""Members whose demand changes while they lose the server, in virtual time.

Rule of this file: a plan is data. The seed draws the moments and rates of a plan, and everything
else is as in `members`. `python -m tests.simulation.outages` prints the table.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from random import Random

from .members import Run, Stage, Steps, in_virtual_time, play
from .world import EPOCH_S

LIMIT = 600  # the reserve is only 6, so even a small error can exceed the limit
INTO_S = 5.0  # s into the first minute at which the members start
FOR_EVER_S = 1000.0


@dataclass(frozen=True)
class Plan:
    """The demand of each member, and when members lose the server."""

    demands: tuple[Steps, ...]
    cuts: tuple[tuple[float, int, float], ...]
    """For each cut: beginning, s since minute 0 began; number of the member; duration, s."""
    minutes: int


def _two_beside_a_burst(random: Random) -> Plan:
    """Two members lose the server while a third one sends more than an even part."""
    cut = 60.0 + random.uniform(4.0, 8.0)
    burst = (0.0, 1.25), (60.5, 50.0), (cut + random.uniform(2.5, 4.0), 0.0)
    late = (0.0, 0.25), (cut + 3.0, inf)
    return Plan((burst, late, late), ((cut, 1, 100.0), (cut, 2, 100.0)), 3)


def _the_third_follows(random: Random) -> Plan:
    """Two members lose the server, and within 5 s the busy third one loses it too."""
    cut = 60.0 + random.uniform(6.0, 12.0)
    busy = (0.0, 1.25), (60.5, random.uniform(37.5, 75.0)), (120.0, 5.0)
    late = (0.0, 0.5), (cut + 1.0, inf)
    cuts = (cut, 1, 100.0), (cut, 2, 100.0), (cut + random.uniform(0.0, 5.0), 0, 100.0)
    return Plan((busy, late, late), cuts, 3)


def _all_after_a_long_cut(random: Random) -> Plan:
    """One member loses the server, and some minutes later all others do."""
    first, then = 60.0 + random.uniform(5.0, 50.0), 240.0 + random.uniform(-10.0, 10.0)
    cuts = (first, 0, FOR_EVER_S), (then, 1, FOR_EVER_S), (then, 2, FOR_EVER_S)
    return Plan((((0.0, inf),),) * 3, cuts, 6)


def _before_a_rollover(random: Random) -> Plan:
    """Two members or all three lose the server near a rollover, after which all are busy."""
    cut = 120.0 - random.choice((0.3, 1.0, 2.0, 3.5))
    late = (0.0, 0.5), (cut + 3.0, inf)
    cuts = [(cut, 1, 70.0), (cut, 2, 70.0)]
    if random.random() < 0.4:
        cuts.append((cut + random.uniform(0.0, 6.0), 0, 70.0))
    return Plan((((0.0, 2.5), (119.0, inf)), late, late), tuple(cuts), 4)


def _two_of_five(random: Random) -> Plan:
    """Two of five members with different demands lose the server, one after the other."""
    cut = 60.0 + random.uniform(3.0, 30.0)
    then = cut + random.uniform(0.3, 10.0)
    demands = tuple(
        (
            (0.0, random.choice((0.25, 1.25, 10.0, 37.5))),
            (cut + random.uniform(-2.0, 10.0), random.choice((inf, inf, 7.5))),
        )
        for _ in range(5)
    )
    cuts = (cut, 1, random.uniform(20.0, 100.0)), (then, 2, random.uniform(20.0, 100.0))
    return Plan(demands, cuts, 4)


PLANS: dict[str, Callable[[Random], Plan]] = {
    "two beside a burst": _two_beside_a_burst,
    "the third follows": _the_third_follows,
    "all after a long cut": _all_after_a_long_cut,
    "before a rollover": _before_a_rollover,
    "two of five": _two_of_five,
}


def run(name: str, seed: int) -> Run:
    """Play one run of a plan."""
    random = Random(seed)
    plan = PLANS[name](random)
    trouble = partial(_cut, cuts=plan.cuts)
    members = len(plan.demands)
    return in_virtual_time(
        play(trouble, random, members, plan.minutes, LIMIT, into=INTO_S, demands=plan.demands)
    )


async def _cut(stage: Stage, end: float, *, cuts: tuple[tuple[float, int, float], ...]) -> None:
    loop = asyncio.get_running_loop()
    for at, number, seconds in cuts:
        await asyncio.sleep(EPOCH_S + at - stage.keeper.time())
        stage.links[number].cut_until = loop.time() + seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.outages")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--plans", nargs="+", default=list(PLANS))
    options = parser.parse_args()
    logging.getLogger("binance_oi").setLevel(logging.ERROR)
    print("| plan | runs | refused | most | used, worst | seeds with a refusal")
    refused = 0
    for name in options.plans:
        seeds = range(options.first, options.first + options.seeds)
        runs = [run(name, seed) for seed in seeds]
        failed = [seed for seed, each in zip(seeds, runs, strict=True) if each.refused]
        over = sum(each.refused for each in runs)
        most, used = max(each.most for each in runs), min(each.outcome.used() for each in runs)
        print(f"| {name} | {len(runs)} | {over} | {most} | {used:.2%} | {failed or ''}", flush=True)
        refused += over
    sys.exit(refused > 0)


if __name__ == "__main__":
    main()
