"""`python -m tests.simulation.ablation`: how much does each mechanism of the core improve?

Each switch replaces a few characters of the source in a copy of the tree, so that a mechanism does
nothing or a number has another value. Then the program runs the same situations with the same
seeds, with the switch and without it. By default, the situations are six rows of `situations` and
the events of `traces`, such as refusals and bans. A mechanism earns its lines if one of these
happens without it:

- More weight exceeds the limit in minutes in which we could have avoided that.
- In minutes in which we could not, the weight over the limit grows by more than 50.
- In one row, we use at least 0.3 percentage points less of the limit.
- A call waits longer than its row allows, and in the same run with the mechanism, none did.

If none of these happens, the mechanism is a candidate for removal.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple

from .situations import ROWS, Row
from .switches import SWITCHES, Switch
from .traces import EVENTS
from .world import Situation, run

HERE = Path(__file__).parents[2]
SIX = (
    "1,500 already used",
    "steady others, 5 to 30 a second",
    "bursts of 500, once a minute",
    "others that sweep every 10 to 30 s",
    "3 budgets that do not know each other",
    "everything at once",
)
MEASURED = (*SIX, *EVENTS)
WORSE = 0.003  # share of the limit; a mechanism that gains this in one table row earns its lines
NOTHING = 50  # weight in all runs; chance alone may raise the unavoidable excess by this much


def _drawing(situation: Situation) -> Callable[[Random], Situation]:
    return lambda _: situation


ALL = {row.name: row for row in ROWS} | {
    name: Row(name, _drawing(situation), 0.0, longest_wait=600.0)
    for name, situation in EVENTS.items()
}


class Figure(NamedTuple):
    """The result of one run."""

    over: int
    """Avoidable weight over the limit."""
    more: int
    """Unavoidable weight over the limit, such as when others join."""
    used: float
    """The used share of the limit."""
    longest_wait: float
    """Seconds."""


def _measure(job: tuple[str, int]) -> tuple[str, Figure]:
    name, seed = job
    row = ALL[name]
    outcome = run(row.draw(Random(f"{row.name} {seed}")), seed)
    return f"{name}|{seed}", Figure(
        outcome.over(),
        outcome.over(avoidable=False),
        outcome.used(row.first),
        outcome.longest_wait,
    )


def measure(rows: list[Row], seeds: range, jobs: int | None) -> dict[str, Figure]:
    """Run every row with every seed."""
    work = [(row.name, seed) for row in rows for seed in seeds]
    with ProcessPoolExecutor(jobs) as pool:
        return dict(pool.map(_measure, work))


@contextmanager
def without(switches: list[Switch]) -> Iterator[Path]:
    """Make a copy of the tree with these switches applied, and delete it at the end."""
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory)
        for name in ("binance_oi", "tests"):
            shutil.copytree(HERE / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        for switch in switches:
            file = tree / "binance_oi" / switch.module
            text = file.read_text()
            if text.count(switch.old) != 1:
                sys.exit(f"{switch.name}: its text does not occur exactly once in {switch.module}")
            file.write_text(text.replace(switch.old, switch.new))
        yield tree


def _measured_in(tree: Path, options: argparse.Namespace) -> dict[str, Figure]:
    environment = {**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'tests'}"}
    numbers = "--seeds", str(options.seeds), "--first", str(options.first)
    command = [sys.executable, "-m", "tests.simulation.ablation", "--rows", options.rows, *numbers]
    if options.jobs:
        command += ["--jobs", str(options.jobs)]
    done = subprocess.run(
        [*command, "--measure"], cwd=tree, env=environment, check=True, stdout=subprocess.PIPE
    )
    return {key: Figure(*value) for key, value in json.loads(done.stdout).items()}


def _report(name: str, before: dict[str, Figure], after: dict[str, Figure]) -> None:
    """Print one line: what changes without the mechanism, and whether it earns its lines."""
    by_row: dict[str, list[float]] = {}
    for key, figure in before.items():
        by_row.setdefault(key.split("|")[0], []).append(after[key].used - figure.used)
    means = {row: sum(found) / len(found) for row, found in by_row.items()}
    # Compare the avoidable excess run by run: less of it in one run does not compensate for more in
    # another run.
    over = sum(max(0, after[key].over - before[key].over) for key in before)
    waits = max(after[key].longest_wait - before[key].longest_wait for key in before)
    too_long = any(
        before[key].longest_wait <= ALL[key.split("|")[0]].longest_wait < after[key].longest_wait
        for key in before
    )
    more = sum(after[key].more - before[key].more for key in before)
    earns = over > 0 or more > NOTHING or min(means.values()) <= -WORSE or too_long
    row = min(means, key=lambda row: means[row])
    mean = sum(means.values()) / len(means)
    print(
        f"| {name} | {over:+d} | {more:+d} | {100 * means[row]:+.2f} ({row}) | {100 * mean:+.2f} |"
        f" {waits:+.0f} s | {'earns its lines' if earns else 'changes too little'} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.ablation")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--rows", default="|".join(MEASURED), help="rows: a|b, or all")
    parser.add_argument("--only", default="", help="switches whose name contains one of these: a,b")
    parser.add_argument("--together", action="store_true", help="apply all chosen switches at once")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = ALL if options.rows == "all" else options.rows.split("|")
    rows = [ALL[name] for name in names]
    seeds = range(options.first, options.first + options.seeds)
    before = measure(rows, seeds, options.jobs)
    if options.measure:
        json.dump(before, sys.stdout)
        return
    chosen = [s for s in SWITCHES if any(part in s.name for part in options.only.split(","))]
    groups = [chosen] if options.together else [[switch] for switch in chosen]
    print("| without | avoidable | unavoidable | used, worst row | used, mean | longest wait | |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for group in groups:
        with without(group) as tree:
            _report(" + ".join(s.name for s in group), before, _measured_in(tree, options))


if __name__ == "__main__":
    main()
