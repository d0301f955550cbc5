"""Reads the command line of the programs that print a table of the simulation.

Rule of this file: it chooses the rows, the seeds and the number of processes, and runs nothing.
"""

import argparse
import os
from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar


class Named(Protocol):
    """A row of a table."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


class Chosen(NamedTuple, Generic[T]):
    """The options that the user chose."""

    rows: list[T]
    seeds: range
    jobs: int | None
    """The number of processes; None means one per core."""


def chosen(program: str, rows: Sequence[T], *, seeds: int, between: str = ",") -> Chosen[T]:
    """Read the arguments of this process.

    Args:
        program: The name of the module that runs.
        rows: All rows of its table.
        seeds: The default number of seeds.
        between: The separator of names in ``--rows``; no name contains it.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    help_ = f"rows whose name contains one of these: a{between}b"
    parser.add_argument("--rows", default="", help=help_)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    parts = options.rows.split(between)
    return Chosen(
        [row for row in rows if any(part in row.name for part in parts)],
        range(options.first, options.first + options.seeds),
        options.jobs,
    )
