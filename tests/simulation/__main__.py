"""`python -m tests.simulation` runs the situations with many seeds, and prints a table.

The rule of this file: the exit code is 1 if a row misses a bound.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from random import Random

from .command import chosen
from .situations import ROWS, Row
from .world import Outcome, run


def outcome(row: Row, seed: int) -> Outcome:
    """Play one run. The situation and the events in it each have a seed."""
    return run(row.draw(Random(f"{row.name} {seed}")), seed)


def failures(row: Row, outcome: Outcome) -> list[str]:
    """The bounds that this run missed."""
    missed = {
        f"{outcome.over()} over the limit": outcome.over() > 0,
        f"{outcome.sent_in_hold} sent during a cooldown": outcome.sent_in_hold > 0,
        f"a call waited {outcome.longest_wait:.0f} s": outcome.longest_wait > row.longest_wait,
        f"{outcome.used(row.first):.1%} used": outcome.used(row.first) < row.used,
        f"the poorest had {outcome.fairness():.0%}": outcome.fairness() < row.fair,
        f"a sweep took {max(outcome.sweeps, default=0):.1f} s": max(outcome.sweeps, default=0) > 20,
    }
    return [text for text, is_so in missed.items() if is_so]


def main() -> None:
    rows, seeds, jobs = chosen("tests.simulation", ROWS, seeds=20)
    heads = "over the limit", "unavoidably", "used, worst", "used, mean", "demanded", "missed"
    print(f"| situation | runs | {' | '.join(heads)} |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    missed: list[str] = []
    with ProcessPoolExecutor(jobs) as pool:
        for row in rows:
            outcomes = list(pool.map(partial(outcome, row), seeds))
            missed += report(row, dict(zip(seeds, outcomes, strict=True)))
    sys.exit("\n".join(missed) if missed else None)


def report(row: Row, outcomes: dict[int, Outcome]) -> list[str]:
    """Print a row of the table; return the missed bounds, by seed."""
    used = [outcome.used(row.first) for outcome in outcomes.values()]
    over = sum(outcome.over() for outcome in outcomes.values())
    unavoidable = sum(outcome.over(avoidable=False) for outcome in outcomes.values())
    missed = [
        f"{row.name}, seed {seed}: {', '.join(texts)}"
        for seed, outcome in outcomes.items()
        if (texts := failures(row, outcome))
    ]
    shares = f"{min(used):.1%} | {sum(used) / len(used):.1%} | {row.used:.1%}"
    figures = f"{over} | {unavoidable} | {shares} | {len(missed)}"
    print(f"| {row.name} | {len(used)} | {figures} |", flush=True)
    return missed


if __name__ == "__main__":
    main()
