"""What a member needs of a server that keeps the record: one step that swaps it.

The rule of this file: no library of a server is imported. `redis_server` is one such server; tests
have another, in memory.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple, Protocol


class Outcome(IntEnum):
    """What became of a swap."""

    LATE = 0
    """Somebody else was quicker, and the answer has the record that was found; or it was to read
    only."""
    DONE = 1
    """The record is replaced."""
    TURN = 2
    """Somebody else is next. The server keeps the place of who asked."""
    OUTDATED = 3
    """A newer version of this package, with another format, uses this budget."""


class Swap(NamedTuple):
    """Replace the record if it is still of that version. Without a record: read only."""

    expected: bytes
    record: bytes = b""
    member: bytes = b""
    """Who asks for a turn; empty for a write that takes nothing, which waits for no turn."""
    news: bytes = b""
    """What to tell all members if it is done; empty for nothing."""
    kept_ms: int = 0
    """How long the server keeps the record."""


class Answer(NamedTuple):
    """What the server says."""

    outcome: Outcome
    time: float
    """Unix s of the server's clock."""
    found: bytes | None
    """The record, if it is not of the version that was expected; empty when there is none; None
    when it is of that version."""


class ServerError(Exception):
    """The server did not do it, or nobody knows whether it did."""


class RecordServer(Protocol):
    """Keeps records. Every call may raise `ServerError`, also when the change was made."""

    async def swap(self, pool: str, swap: Swap) -> Answer:
        """One step: no other member reads or writes meanwhile."""
        ...

    async def tell(self, pool: str, news: bytes) -> None:
        """Tell all members something."""
        ...

    async def listen(
        self, pool: str, hear: Callable[[bytes], object], reset: Callable[[], object]
    ) -> None:
        """Call `hear` with each news, and `reset` whenever the connection had to be made anew.

        It ends when it is cancelled, and raises `ServerError` when the connection is lost.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...
