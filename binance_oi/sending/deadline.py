"""Deadlines for many calls with one timer.

A timer for each call would cost a tenth of a request. The calls of a client have the same timeout,
so they end in the order in which they began, and the loop needs a timer only for the first.

The rule of this file: nothing outlives the call it belongs to, even if its time is not over.

An answer that arrived in time counts, even if the loop could not read it in time. When the caller's
code has blocked the loop, an answer may lie in the socket while the timer fires. So an expired
deadline first lets the loop read: it ends its task once `QUIET` passes of the loop in a row have
brought no byte. The passes follow each other at once, so they delay nothing. Their number is
bounded by the reads that the longest answer needs, so a server that never stops gains nothing.
"""

import asyncio
from collections import deque
from contextvars import Context
from typing import Protocol

# Passes of the loop in a row without a byte. asyncio reads the sockets before it runs the timers,
# and in the next pass the task that waits goes on. uvloop runs the timers first. And one more, for
# what a session of the caller's does on the way.
QUIET = 4


class Arrival(Protocol):
    """What a deadline has to know of the answer that its task waits for."""

    @property
    def received(self) -> int:
        """Bytes by now; -1 when nothing was asked yet, and so nothing can have arrived."""
        ...

    @property
    def pieces(self) -> int:
        """The largest number of reads that it takes."""
        ...


class Deadline:
    """The end of one task's time. The task calls `done` when it no longer needs it."""

    __slots__ = ("_arrival", "_cancelling", "expired", "task", "when")

    def __init__(
        self, when: float, task: asyncio.Task[object], arrival: Arrival | None = None
    ) -> None:
        self._arrival = arrival
        self.when: float = when
        self.expired: bool = False
        self.task: asyncio.Task[object] | None = task
        self._cancelling = task.cancelling()

    def done(self) -> bool:
        """End it; return whether the cancellation that just arrived was its own, and no other."""
        task, self.task = self.task, None
        return self.expired and task is not None and task.uncancel() <= self._cancelling

    def expire(self) -> None:
        """Cancel the task, because its time is over."""
        if self.task is not None and not self.expired:
            self.expired = True
            self.task.cancel()

    def ring(self, loop: asyncio.AbstractEventLoop, context: Context) -> None:
        """The time is over: expire, unless what has arrived by now is all that is needed."""
        arrival = self._arrival
        if arrival is None or arrival.received < 0:
            self.expire()
        else:
            self._wait(loop, context, arrival, arrival.received, QUIET, QUIET + arrival.pieces)

    def _wait(
        self,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        arrival: Arrival,
        before: int,
        quiet: int,
        passes: int,
    ) -> None:
        """One pass of the loop later.

        Args:
            loop: Of the task.
            context: For its callbacks.
            arrival: Of the answer.
            before: Bytes that had arrived before this pass.
            quiet: Passes without a byte until it expires.
            passes: Passes until it expires, whatever arrives.
        """
        received = arrival.received
        quiet = quiet - 1 if received == before else QUIET
        if not self.pending:
            return
        if received < 0 or not quiet or not passes:
            self.expire()
            return
        more = (arrival, received, quiet, passes - 1)
        loop.call_soon(self._wait, loop, context, *more, context=context)

    @property
    def pending(self) -> bool:
        """Whether it may still cancel its task."""
        return self.task is not None and not self.expired


class _EarlyDeadline(Deadline):
    """A deadline before that of an earlier call: a second attempt has less time left."""

    __slots__ = ("_early", "_timer")

    def __init__(
        self,
        when: float,
        task: asyncio.Task[object],
        early: "set[_EarlyDeadline]",
        context: Context,
        arrival: Arrival | None,
    ) -> None:
        super().__init__(when, task, arrival)
        self._early = early
        loop = task.get_loop()
        self._timer = loop.call_at(when, self.ring, loop, context, context=context)
        early.add(self)

    def done(self) -> bool:
        self._timer.cancel()
        self._early.discard(self)
        return super().done()


class Deadlines:
    """Gives tasks a time limit with the effect of `asyncio.timeout`, at a lower cost."""

    def __init__(self) -> None:
        self._queue: deque[Deadline] = deque()  # in the order of their times
        self._early: set[_EarlyDeadline] = set()
        self._timer: asyncio.TimerHandle | None = None
        # A timer keeps its context, even after it was cancelled: the call's connection and buffer,
        # and anything that the caller put there. So these timers get an empty context.
        self._context = Context()

    def start(self, seconds: float, arrival: Arrival | None = None) -> Deadline:
        """Start a deadline for the current task, which is cancelled after `seconds`.

        Args:
            seconds: From now on.
            arrival: The answer that the task waits for; bytes that arrived in time are read first.
        """
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None, "a coroutine of ours always runs in a task"
        when = loop.time() + seconds
        if self._queue and when < self._queue[-1].when:
            return _EarlyDeadline(when, task, self._early, self._context, arrival)
        self._forget_done()
        deadline = Deadline(when, task, arrival)
        self._queue.append(deadline)
        if self._timer is None:
            self._arm(loop, when)
        return deadline

    def expire_all(self) -> None:
        """End the time of every task now."""
        for deadline in (*self._queue, *self._early):
            deadline.expire()

    def cancel(self) -> None:
        """Stop the timer; no task needs it any more."""
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget_done(self) -> None:
        """Drop finished deadlines, which would pile up: most calls end long before their deadline.

        One deadline always stays, because `start` compares with the last one.
        """
        queue = self._queue
        while len(queue) > 1 and not queue[0].pending:
            queue.popleft()

    def _arm(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        self._timer = loop.call_at(when, self._expire_due, loop, context=self._context)

    def _expire_due(self, loop: asyncio.AbstractEventLoop) -> None:
        queue, now = self._queue, loop.time()
        while queue and (queue[0].when <= now or not queue[0].pending):
            queue.popleft().ring(loop, self._context)
        self._timer = None
        if queue:
            self._arm(loop, queue[0].when)
