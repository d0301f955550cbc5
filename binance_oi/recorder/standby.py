"""A recorder that waits until another one ends.

The rule of this file: a standby never gives up. It waits while another recorder uses the recording,
and while its store cannot be reached. It fails at once only if waiting cannot help, such as for a
file that is not a recording.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from binance_oi.errors import OccupiedError, RecordingError, StorageError

PAUSE_S = 1.0  # s between two attempts to become the recorder

logger: logging.Logger = logging.getLogger("binance_oi")


def is_temporary(error: RecordingError) -> bool:
    """Whether waiting helps: another recorder took over, or the store cannot be reached."""
    return any(isinstance(each, OccupiedError | StorageError) for each in (error, error.__cause__))


async def stand_by(
    claim: Callable[[], Awaitable[None]],
    record: Callable[[], Awaitable[None]],
    give_way: Callable[[], Awaitable[None]],
    name: object,
    says: Callable[[str | None], object],
) -> None:
    """Wait until the sink is free, then record; wait again if another recorder takes over.

    Args:
        claim: See `Sink.claim`.
        record: Records until it is stopped.
        give_way: Releases the sink for the other recorder.
        name: The sink, for messages.
        says: Called with the reason at each failed attempt to begin, and with None at success.

    Raises:
        RecordingError: Waiting does not help.
    """
    while True:
        await _claimed(claim, name, says)
        says(None)
        try:
            return await record()
        except RecordingError as error:
            if not is_temporary(error):
                raise
            await give_way()
            logger.warning("standing by again: %s", error)


async def _claimed(
    claim: Callable[[], Awaitable[None]], name: object, says: Callable[[str | None], object]
) -> None:
    """Wait until `claim` succeeds.

    Raises:
        RecordingError: Waiting does not help.
    """
    since: float | None = None
    clock = asyncio.get_running_loop().time
    while True:
        try:
            await claim()
        except (OccupiedError, StorageError) as error:
            if since is None:
                since = clock()
                logger.warning("standing by: %s", error)
            says(f"standby: {error}")
            await asyncio.sleep(PAUSE_S)
        else:
            if since is not None:
                logger.warning("%s: this standby records, after %.0f s", name, clock() - since)
            return
