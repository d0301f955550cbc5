"""SQL that a file and a database both run.

The rule of this file: a statement that both stores share says ``?1``, ``?2``, ... for its values,
and uses only what SQLite and PostgreSQL have in common. So what a slot is, and what a gap is, is
decided once.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol


class Found(Protocol):
    """What a statement found or changed; a cursor of the store."""

    @property
    def rowcount(self) -> int:
        """The number of changed rows."""
        ...

    def fetchone(self) -> Any:
        """The next row; None after the last one."""
        ...

    def fetchmany(self, size: int) -> list[Any]:
        """The next rows, at most `size`."""
        ...

    def fetchall(self) -> list[Any]:
        """The remaining rows."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Statements(Protocol):
    """A connection that runs statements, within a transaction of its caller."""

    def execute(self, query: str, values: Sequence[Any] = (), /) -> Found:
        """Run one statement."""
        ...


def larger(first: str, second: str) -> str:
    """The larger of two numbers, as SQL: the stores have no function in common."""
    return f"CASE WHEN {first} > {second} THEN {first} ELSE {second} END"


def smaller(first: str, second: str) -> str:
    """The smaller of two numbers, as SQL."""
    return f"CASE WHEN {first} < {second} THEN {first} ELSE {second} END"
