"""SQL that runs both in SQLite and in PostgreSQL.

The rule of this file: a shared statement writes its parameters as ``?1``, ``?2``, ..., and uses
only SQL that both databases know. So slots and gaps mean the same in a file and in a database.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol


class Found(Protocol):
    """The result of a statement: a cursor of the store."""

    @property
    def rowcount(self) -> int:
        """The number of changed rows."""
        ...

    def fetchone(self) -> Any:
        """Return the next row; None after the last one."""
        ...

    def fetchmany(self, size: int) -> list[Any]:
        """Return the next rows, at most `size`."""
        ...

    def fetchall(self) -> list[Any]:
        """Return the remaining rows."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Statements(Protocol):
    """A connection that runs statements. A caller that writes has begun a transaction before."""

    def execute(self, query: str, values: Sequence[Any] = (), /) -> Found:
        """Run one statement."""
        ...


def larger(first: str, second: str) -> str:
    """Return SQL for the larger of two numbers; the databases share no function for it."""
    return f"CASE WHEN {first} > {second} THEN {first} ELSE {second} END"


def smaller(first: str, second: str) -> str:
    """Return SQL for the smaller of two numbers; see `larger`."""
    return f"CASE WHEN {first} < {second} THEN {first} ELSE {second} END"
