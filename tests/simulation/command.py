"""The command line that the tables of the simulation share.

Rule of this file: it says which rows are run, with which seeds, and by how many processes.
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
    """What the user asks for."""

    rows: list[T]
    seeds: range
    jobs: int | None
    """Processes; None is one for each core."""


def chosen(program: str, rows: Sequence[T], *, seeds: int, between: str = ",") -> Chosen[T]:
    """Read the arguments of this process.

    Args:
        program: The name of the module that runs.
        rows: All rows of its table.
        seeds: How many there are by default.
        between: Separates names in ``--rows``; it is in no name.
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
