"""The interface of a server that keeps a record: a compare-and-swap, and messages to all members.

The rule of this file: it imports no library of a server. `redis_server` implements the interface
with Redis, and the tests implement it in memory.
"""

import asyncio
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple, Protocol


class Outcome(IntEnum):
    """The result of a swap."""

    LATE = 0
    """The server wrote nothing: another member wrote first, or the call only reads."""
    DONE = 1
    """The server replaced the record."""
    TURN = 2
    """The server wrote nothing: it is another member's turn. The server keeps our place in the
    queue, unless the queue is full."""
    OUTDATED = 3
    """A newer version of this package uses this budget, and writes another format."""


class Swap(NamedTuple):
    """A call to the server: replace the record if it still has the expected version."""

    expected: bytes
    """The version that the caller has read; empty if it has read no record."""
    record: bytes = b""
    """The new record; empty if the call only reads."""
    member: bytes = b""
    """The id of the member that asks for a turn. A write that charges nothing needs no turn, and
    leaves this empty."""
    news: bytes = b""
    """The message that the server publishes to all members if it replaces the record; empty for
    none."""
    kept_ms: int = 0
    """Milliseconds after which the server drops the new record."""


class Answer(NamedTuple):
    """The server's answer to a swap."""

    outcome: Outcome
    time: float
    """Unix s of the server's clock."""
    found: bytes | None
    """The server's record, if its version is not the expected one; empty if the server has none,
    and after `OUTDATED`. None if the record has the expected version, and after `DONE`."""


class ServerError(Exception):
    """The call failed. The server may still have made the change."""


class RecordServer(Protocol):
    """Keeps records. A call may raise `ServerError` even if the server made the change."""

    async def swap(self, pool: str, swap: Swap) -> Answer:
        """Compare the versions, and replace the record if they agree, in one atomic step."""
        ...

    async def publish(self, pool: str, news: bytes) -> None:
        """Publish the message `news` to all members of `pool`."""
        ...

    async def listen(
        self, pool: str, hear: Callable[[bytes], object], reset: Callable[[], object]
    ) -> None:
        """Call `hear` with each message, and `reset` after each new connection.

        The call runs until its task is cancelled.

        Raises:
            ServerError: The connection is lost.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


def is_cancelled() -> bool:
    """Whether this task was cancelled, even if a library swallowed the `CancelledError`."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
