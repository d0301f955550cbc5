"""The one thread in which a sink works.

A connection of SQLite may be used only in the thread that opened it. The rule of this file: calls
run one after the other, and a call that has begun is never interrupted.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

from binance_oi.errors import StorageError

T = TypeVar("T")


class WritingThread:
    """A thread for a ``with`` block. The end of the block waits for a running call."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "binance-oi-recorder")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown()

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in the thread, and let it finish even if this call is cancelled."""
        job = asyncio.get_running_loop().run_in_executor(self._pool, _done, work)
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            await asyncio.wait({job})
            raise


def _done(work: Callable[[], T]) -> T:
    """Run `work`. A `CancelledError` that it raises is a failure: nobody cancelled this call."""
    try:
        return work()
    except CancelledError as error:
        raise StorageError("a part of the work was cancelled") from error
