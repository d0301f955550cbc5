"""A recorder that waits until another one ends.

The rule of this file: a standby never gives up. A place that is recorded, and a server that is out
of reach, are reasons to wait; a place that is no recording is an error at once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from binance_oi.errors import OccupiedError, RecordingError, StorageError

PAUSE_S = 1.0  # between two tries to take over

logger: logging.Logger = logging.getLogger("binance_oi")


def is_temporary(error: RecordingError) -> bool:
    """Whether a standby should wait: another recorder took over, or the store is out of reach."""
    return any(isinstance(each, OccupiedError | StorageError) for each in (error, error.__cause__))


async def stand_by(
    claim: Callable[[], Awaitable[None]],
    record: Callable[[], Awaitable[None]],
    give_way: Callable[[], Awaitable[None]],
    name: object,
    says: Callable[[str | None], object],
) -> None:
    """Wait until the place is free, and record there; wait again when another one took over.

    Args:
        claim: See `Sink.claim`.
        record: Records until it is stopped.
        give_way: Lets go of the place.
        name: The sink, for messages.
        says: Called with the reason whenever it has to wait, and with None when it need not.

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
