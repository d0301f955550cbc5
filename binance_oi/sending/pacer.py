"""How fast requests leave: so many in a second, in lots.

The rule of this file: aiolimiter is the pacer and nothing else. It smooths bursts, so that a
firewall takes no offence and headers can steer. It is never the accountant:
`AsyncLimiter(2400, 60)` lets 4799 through in one minute, serves small amounts first so that large
ones starve, and cannot be paused, refunded or corrected.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context

from aiolimiter import AsyncLimiter

LOTS = 100  # a second: the limiter is asked for this part of a second's requests at once
FAR = 1e9  # s that nobody waits for; from there on no `datetime` and no timer is certain to fit


class Pacer:
    """Lets requests pass, a lot of them at once.

    Args:
        pace: Requests per second, above 0; a second's worth may go at once.
    """

    def __init__(self, pace: float) -> None:
        self.pace: float = pace
        self.passed: int = 0
        """Requests that it has let pass and that were not sent yet."""
        self._limiter = AsyncLimiter(max(1.0, pace), min(max(1.0, 1.0 / pace), FAR))
        self._lot = max(1, int(pace / LOTS))
        self.every: float = min(self._lot / pace, FAR)
        """Seconds from lot to lot."""
        self._pacing: asyncio.Task[None] | None = None  # asks the limiter for a lot

    async def take_at_once(self) -> bool:
        """Let a lot pass if that takes no time."""
        if not self._limiter.has_capacity(self._lot):
            return False
        await self._limiter.acquire(self._lot)  # there is room, so this does not wait
        self.passed = self._lot
        return True

    async def take(self, ring: Callable[[], object]) -> bool:
        """Whether a lot has passed; a task waits for it until it does, and then calls `ring`.

        The caller must not wait for the limiter: it keeps deadlines meanwhile. Exactly one request
        to the limiter is ever outstanding.
        """
        if self._pacing is None:
            if await self.take_at_once():
                return True
            acquire = self._limiter.acquire(self._lot)
            self._pacing = asyncio.get_running_loop().create_task(acquire, context=Context())
            self._pacing.add_done_callback(lambda _: ring())
            return False
        if not self._pacing.done():
            return False
        pacing, self._pacing = self._pacing, None
        if pacing.cancelled():  # by somebody who cancels every task of the loop
            return False
        pacing.result()
        self.passed = self._lot
        return True

    def stop(self) -> None:
        """Wait for no lot any more."""
        if self._pacing is not None:
            self._pacing.cancel()
            self._pacing = None

    def abandon(self) -> None:
        """`stop`, for a loop that is closed: its tasks cannot be cancelled."""
        self._pacing = None
