"""What a member needs of the server that keeps the record: a compare and swap.

The rule of this file: it imports no library of a server. `redis_server` has one implementation, and
the tests have another, in memory.
"""

import asyncio
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple, Protocol


class Outcome(IntEnum):
    """What became of a swap."""

    LATE = 0
    """Another member was quicker, or the call only reads; the answer holds the record found."""
    DONE = 1
    """The server replaced the record."""
    TURN = 2
    """Another member is next. The server keeps our place in the queue."""
    OUTDATED = 3
    """A newer version of this package uses this budget, with another format."""


class Swap(NamedTuple):
    """Replace the record if it still has the expected version. Without a record: only read."""

    expected: bytes
    record: bytes = b""
    member: bytes = b""
    """Who asks for a turn; empty for a write that charges nothing, which needs no turn."""
    news: bytes = b""
    """What to publish to all members if the swap is done; empty for nothing."""
    kept_ms: int = 0
    """How long the server keeps the record."""


class Answer(NamedTuple):
    """What the server says."""

    outcome: Outcome
    time: float
    """Unix s of the server's clock."""
    found: bytes | None
    """The record, if it has another version than the expected one; empty when there is no record;
    None when it has that version."""


class ServerError(Exception):
    """The call failed; the server may have made the change all the same."""


class RecordServer(Protocol):
    """Keeps records. Every call may raise `ServerError`, also after it made the change."""

    async def swap(self, pool: str, swap: Swap) -> Answer:
        """Compare and swap, as one step."""
        ...

    async def tell(self, pool: str, news: bytes) -> None:
        """Publish something to all members."""
        ...

    async def listen(
        self, pool: str, hear: Callable[[bytes], object], reset: Callable[[], object]
    ) -> None:
        """Call `hear` with each message, and `reset` after each new connection, until cancelled.

        Raises:
            ServerError: The connection is lost.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


def is_cancelled() -> bool:
    """Whether this task has to end, even if a library swallowed its cancellation."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
