"""`python -m tests.simulation.traces`: do two trees make the same send decisions?

Each run plays one situation or one script, and records every answer of the pool: the time, the
weight, and whether the request is sent, is sent as a probe, waits (and for how long), is never
sent, or is refunded. A refactoring changes no trace. A change of behaviour does; judge it by
`nox -s simulate`.

    python -m tests.simulation.traces                        against the last commit
    python -m tests.simulation.traces --against main~3       against any revision
    python -m tests.simulation.traces --against ../before    against another checkout
    python -m tests.simulation.traces --save traces.json     store the digests ...
    python -m tests.simulation.traces --against traces.json  ... and compare with them later
    python -m tests.simulation.traces --scale budget.tuning.LATE=1.01    with a changed number

If a trace differs or is missing here, the exit code is 1. Against a revision or a checkout, the
program also prints the first different decision. Compare a stored digest only on the machine that
made it: another C library may round a logarithm differently.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from hashlib import blake2b
from importlib import import_module
from math import inf
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import cast

from binance_oi.budget import Pool
from binance_oi.budget.usage import Receipt, Wait
from binance_oi.simulator.counter import Steady

from . import scripts, sharing, thresholds
from .networks import Between, Together
from .scripts import Script, WatchedPool
from .situations import ROWS
from .world import EPOCH_S, Situation, run

SCRIPTS = scripts.SCRIPTS | thresholds.SCRIPTS | sharing.SCRIPTS
SEEDS = 1, 2, 3
BEFORE = 3  # decisions shown before the first one that differs
HERE = Path(__file__).parents[2]
HALF_PAST_3 = EPOCH_S + 3.5 * 60.0  # Unix s: the middle of minute 3 of a run
# Situations that are in no row of `situations`: refusals, bans, other clients that join or leave,
# and a limit that is not the usual one, or not the announced one.
EVENTS = {
    "a start into a full minute": Situation(minutes=6, used=2400, processes=2, start=10.0),
    "a ban, and its end": Situation(minutes=8, used=2400, bans=True, in_flight=40),
    "a ban of several processes": Situation(minutes=8, used=2399, bans=True, processes=3),
    "a small limit": Situation(minutes=6, limit=60, in_flight=20),
    "a large limit": Situation(minutes=4, limit=6000),
    "a limit that is lower than announced": Situation(minutes=8, limit=1200, announced=2400),
    "others that leave": Situation(minutes=8, others=Between(Steady(25.0), 0.0, HALF_PAST_3)),
    "others that join": Situation(
        minutes=8, others=Together((Steady(3.0), Between(Steady(25.0), HALF_PAST_3, inf)))
    ),
    "others that join a client that polls": Situation(
        minutes=7,
        sweep=600,
        others=Together((Steady(3.0), Between(Steady(20.0), EPOCH_S + 185.0, inf))),
    ),
}

Traces = dict[str, str]
"""For the name of each run, the number of decisions and their digest."""


def normal_form(answer: object) -> str:
    """An answer of `charge` or `sending` in a form that does not depend on our types."""
    if answer is None:
        return "refund"
    if isinstance(answer, Receipt):
        return "probe" if answer.probe else "send"
    assert isinstance(answer, Wait), answer
    return "never" if answer.seconds is None else f"wait {answer.seconds:.6f}"


class Notes:
    """The decisions of one run as a digest, and the first `lines` of them as text."""

    def __init__(self, lines: int = 0) -> None:
        self.lines: list[str] = []
        self._kept = lines
        self._digest, self._count = blake2b(digest_size=16), 0

    def __str__(self) -> str:
        return f"{self._count} {self._digest.hexdigest()}"

    def take(self, now: float, weight: int, answer: object) -> None:
        """Note one decision; `now` is in virtual seconds."""
        line = f"{now:.6f} {weight} {normal_form(answer)}"
        self._count += 1
        self._digest.update(line.encode() + b"\n")
        if len(self.lines) < self._kept:
            self.lines.append(line)


def _simulate(situation: Situation, seed: int, notes: Notes) -> None:
    run(situation, seed, lambda pool: cast(Pool, WatchedPool(pool, notes.take)))


def _play(script: Script, notes: Notes) -> None:
    script(notes.take)


def runs() -> dict[str, Callable[[Notes], None]]:
    """All runs, by name."""
    found: dict[str, Callable[[Notes], None]] = {}
    for name, play in SCRIPTS.items():
        found[name] = partial(_play, play)
    for seed in SEEDS:
        drawn = {row.name: row.draw(Random(f"{row.name} {seed}")) for row in ROWS}
        for name, situation in (drawn | EVENTS).items():
            found[f"{name}, seed {seed}"] = partial(_simulate, situation, seed)
    return found


def _traced(name: str, lines: int = 0) -> Notes:
    notes = Notes(lines)
    runs()[name](notes)
    return notes


def _digest(name: str) -> tuple[str, str]:
    return name, str(_traced(name))


def trace(jobs: int | None) -> Traces:
    """Play all runs in several processes, which inherit changed constants."""
    with ProcessPoolExecutor(jobs, get_context("fork")) as pool:
        return dict(pool.map(_digest, runs()))


def _scale(change: str, assign: Callable[[object, str, float], None] = setattr) -> None:
    """Multiply a constant in every module of ours that imports it: `budget.tuning.LATE=1.01`.

    An integer changes by at least 1.
    """
    place, _, factor = change.partition("=")
    module, _, name = place.rpartition(".")
    value: float = getattr(import_module(f"binance_oi.{module}"), name)
    changed = value * float(factor)
    if isinstance(value, int):
        changed = max(value + 1, round(changed)) if changed > value else round(changed - 0.5)
    for module in [m for m in sys.modules if m.startswith("binance_oi.")]:
        found = sys.modules[module]
        if getattr(found, name, None) is value:
            assign(found, name, changed)


@contextmanager
def _checkout(revision: str) -> Iterator[Path]:
    """A checkout of `revision`, removed after the comparison."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "tree"
        git = "git", "-C", str(HERE), "worktree"
        subprocess.run([*git, "add", "--quiet", "--detach", str(place), revision], check=True)
        try:
            yield place
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True)


def _ask(tree: Path, *arguments: str) -> None:
    """Let another tree trace itself, with its own version of this program."""
    environment = {**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'tests'}"}
    command = [sys.executable, "-m", "tests.simulation.traces", *arguments]
    subprocess.run(command, cwd=tree, env=environment, check=True)


def _of(tree: Path, jobs: int | None) -> Traces:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "traces.json"
        _ask(tree, "--save", str(file), *(("--jobs", str(jobs)) if jobs else ()))
        return cast(Traces, json.loads(file.read_text()))


def _lines_of(tree: Path, name: str) -> list[str]:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "lines"
        _ask(tree, "--show", name, "--save", str(file))
        return file.read_text().splitlines()


def _first_difference(name: str, tree: Path) -> str:
    theirs, ours = _lines_of(tree, name), _traced(name, sys.maxsize).lines
    same = next(
        (n for n, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b),
        min(len(theirs), len(ours)),
    )
    shown = [f"  {line}" for line in theirs[max(0, same - BEFORE) : same]]
    shown += [f"- {line}" for line in theirs[same : same + 1]]
    shown += [f"+ {line}" for line in ours[same : same + 1]]
    return "\n".join([f"{name}, decision {same + 1}:", *shown])


def _compare(theirs: Traces, ours: Traces, tree: Path | None) -> int:
    """Print the differences; return how many traces differ or are missing here."""
    different = [name for name in ours if ours[name] != theirs.get(name, ours[name])]
    new, gone = ours.keys() - theirs.keys(), theirs.keys() - ours.keys()
    decisions = sum(int(text.split()[0]) for text in ours.values())
    print(f"{len(ours)} runs, {decisions:,} decisions, {len(different)} differences")
    for text, names in (("only here", new), ("not here", gone), ("different", different)):
        if names:
            print(f"{text}: {'; '.join(sorted(names))}")
    if different and tree is not None:
        print(_first_difference(different[0], tree))
    return len(different) + len(gone)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.traces",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--against", default="", help="a revision, a checkout, or a stored file")
    parser.add_argument("--save", type=Path, help="write the digests, and compare nothing")
    parser.add_argument("--scale", default="", help="multiply a constant of this tree first")
    parser.add_argument("--show", default="", help="with --save: write the decisions of this run")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if options.scale:
        _scale(options.scale)
    if options.show:
        options.save.write_text("\n".join(_traced(options.show, sys.maxsize).lines))
        return
    ours = trace(options.jobs)
    if options.save is not None:
        options.save.write_text(json.dumps(ours, indent=1))
        return
    against = Path(options.against or "HEAD")
    if against.is_file():
        sys.exit(_compare(json.loads(against.read_text()), ours, None) > 0)
    with nullcontext(against) if against.is_dir() else _checkout(str(against)) as tree:
        theirs = _of(tree.resolve(), options.jobs)
        sys.exit(_compare(theirs, ours, tree.resolve()) > 0)


if __name__ == "__main__":
    main()
