"""Makes the calls of a pool to the server of its shared record, in a task of the event loop.

A turn is one such call: a read or a write of the record. The rule of this file: it sleeps and
sends, and decides nothing. It passes the answer or the failure of each turn to the pool, and the
pool decides when to continue without the server. A lease is weight that the pool has charged in
advance.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context

from binance_oi import fork
from binance_oi.budget.member import MemberPool
from binance_oi.budget.record_pool import logger
from binance_oi.budget.record_server import RecordServer, is_cancelled
from binance_oi.budget.turns import CALL_TIMEOUT_S, READ_PAUSE_S, RETRY_S
from binance_oi.errors import ClientClosedError

ANOTHER_LOOP = "the budget belongs to another event loop, which is running"
LAST_TURNS = 4  # turns, at most, in which a closing pool writes its late changes


class Courier:
    """Talks to the server for one pool.

    It belongs to the first event loop that uses it. When that loop no longer runs, it belongs to
    the next loop that uses it. In a forked child it starts anew.

    Args:
        pool: Decides which calls to make.
        name: The name of the pool.
        connect: Makes a connection to the server, for the running event loop.
        steady: The clock of the pool, monotonic s.
    """

    def __init__(
        self,
        pool: MemberPool,
        name: str,
        connect: Callable[[], RecordServer],
        steady: Callable[[], float],
    ) -> None:
        self._pool, self._name, self._connect, self._steady = pool, name, connect, steady
        pool.wake, pool.nudge = self.wake, self.nudge
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._process = fork.current
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wakeup: asyncio.Future[None] | None = None
        self._is_woken = False
        self._tasks: list[asyncio.Task[None]] = []

    def wake(self) -> None:
        """Wake the task because a call may be due; start the task if it does not run.

        Raises:
            ClientClosedError: The budget belongs to another event loop, which is running.
        """
        self._is_woken = True
        if self._wakeup is not None and not self._wakeup.done() and self._is_on_its_loop():
            self._wakeup.set_result(None)
        elif not self._tasks or not self._is_on_its_loop():
            self._start()

    def nudge(self) -> None:
        """Wake the task only if it runs: a receipt that returns after `aclose` starts no task."""
        if self._tasks and self._is_on_its_loop():
            self._is_woken = True
            self._end_sleep()

    def _is_on_its_loop(self) -> bool:
        return self._process is fork.current and self._loop is _running_loop()

    def _start(self) -> None:
        loop = _running_loop()
        if loop is None:
            return  # the next call in a loop starts the task
        if self._process is not fork.current:
            self._begin_anew()
        if self._loop is not loop and self._loop is not None and self._loop.is_running():
            raise ClientClosedError(ANOTHER_LOOP)
        if self._loop is not loop:
            self._begin_anew()
        self._loop = loop
        server = self._connect()
        coroutines = self._make_calls(server), self._listen(server)
        # The tasks serve all callers, so they do not inherit the context of the first caller.
        self._tasks = [loop.create_task(each, context=Context()) for each in coroutines]
        self._pool.reset()

    async def _make_calls(self, server: RecordServer) -> None:
        """Make the calls of the pool until this task is cancelled."""
        try:
            while not is_cancelled():
                try:
                    await self._step(server)
                except Exception:
                    logger.exception("a turn at the shared budget failed")
                    await asyncio.sleep(RETRY_S)
        finally:
            if self._process is fork.current:
                await self._finish(server)

    async def _step(self, server: RecordServer) -> None:
        """Sleep until a call is due, or make the call that is due now."""
        self._is_woken = False
        seconds = self._pool.due_in()
        if seconds is None or seconds > 0.0:
            await self._sleep(seconds)
            return
        await self._publish_cooldown(server)
        if not await self._take_turn(server) and self._pool.due_in() == 0.0:
            await self._sleep(READ_PAUSE_S)  # the pool had no call after all: do not spin

    async def _sleep(self, seconds: float | None) -> None:
        if self._is_woken:
            return
        loop = asyncio.get_running_loop()
        self._wakeup = loop.create_future()
        timer = None if seconds is None else loop.call_later(seconds, self._end_sleep)
        try:
            await self._wakeup
        finally:
            self._wakeup = None
            if timer is not None:
                timer.cancel()

    def _end_sleep(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    async def _publish_cooldown(self, server: RecordServer) -> None:
        """Publish a new cooldown before the pool writes it: a write may take several turns."""
        news = self._pool.take_news()
        if news:
            with suppress(Exception):  # the next write contains the cooldown too
                async with asyncio.timeout(CALL_TIMEOUT_S):
                    await server.publish(self._name, news)

    async def _take_turn(self, server: RecordServer) -> bool:
        """Make one call to the server; return False if the pool has no call to make."""
        turn = self._pool.begin()
        if turn is None:
            return False
        sent = self._steady()
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                answer = await server.swap(self._name, turn.swap)
        except TimeoutError:
            self._pool.failed(turn, f"no answer within {CALL_TIMEOUT_S:g} s", sent)
        except asyncio.CancelledError:
            self._pool.failed(turn, "the task of the budget was cancelled", sent)
            raise
        except Exception as error:  # the pool counts failures, and may continue alone
            self._pool.failed(turn, str(error), sent)
        else:
            self._pool.answered(turn, answer, sent)
        return True

    async def _listen(self, server: RecordServer) -> None:
        """Receive messages. A lost message does no harm: the next turn reads the record anyway."""
        while not is_cancelled():
            with suppress(Exception):
                await server.listen(self._name, self._pool.hear, self._pool.reset)
            if not is_cancelled():
                await asyncio.sleep(RETRY_S)

    async def _finish(self, server: RecordServer) -> None:
        """Return the leases, and write the late changes in a few turns, if the server answers."""
        self._pool.give_back()
        for _ in range(LAST_TURNS):
            if self._pool.is_written() or not await self._take_turn(server):
                break
        await server.aclose()

    async def aclose(self) -> None:
        """Return the leases, write the late changes, and close the connections.

        A later charge connects again.

        Raises:
            ClientClosedError: The budget belongs to another event loop, which is running.
        """
        if self._process is not fork.current or self._loop is None:
            return
        if self._loop is not asyncio.get_running_loop():
            if self._loop.is_running():
                raise ClientClosedError(ANOTHER_LOOP)
            self._begin_anew()
            return
        pending = set(self._tasks)
        while pending:  # a library may swallow a cancellation
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=LAST_TURNS * CALL_TIMEOUT_S + RETRY_S)
        self._begin_anew()

    def close(self) -> None:
        """Close without waiting for a last write.

        If the event loop goes on, the cancelled task may still return the leases. Otherwise they
        stay charged until their minute ends.
        """
        if self._is_on_its_loop():
            for task in self._tasks:
                task.cancel()
        self._begin_anew()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
