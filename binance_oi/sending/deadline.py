"""Gives many calls their deadlines, with one timer for all of them.

A timer for each call would take a tenth of a request's CPU time. The calls of a client usually have
the same timeout, so their deadlines come in the order in which the calls began. One timer for the
earliest deadline is enough.

The rule of this file: after a call has ended, no timer and no deadline keeps its task or its
context alive.

If an answer arrives in time, the call must get it, even if the loop could not read it in time. For
example, the application may have blocked the loop, so that the answer is still in the socket when
the timer fires. Therefore a deadline whose time is over first lets the loop read. It cancels its
task only after `QUIET_PASSES` consecutive passes of the loop have brought no byte. The first of
these is the pass in which the timer fires. The passes follow each other without a pause, so they
take almost no time. A server that keeps sending cannot delay the end for long, because the size of
the longest answer bounds the number of passes.
"""

import asyncio
from collections import deque
from contextvars import Context
from typing import Protocol

# A deadline expires if this many consecutive passes of the loop bring no byte. asyncio reads the
# sockets before it runs the timers, and the waiting task continues in the next pass. uvloop runs
# the timers first, and a session of the caller may need one more pass.
QUIET_PASSES = 4


class Arrival(Protocol):
    """The progress of the answer that the task of a deadline waits for."""

    @property
    def received(self) -> int:
        """The number of bytes received so far; -1 before the request is sent."""
        ...

    @property
    def most_reads(self) -> int:
        """The number of reads that the answer needs at most."""
        ...


class Deadline:
    """The deadline of one task. The task calls `done` when it no longer needs the deadline."""

    __slots__ = ("_arrival", "_cancelling", "expired", "task", "when")

    def __init__(
        self, when: float, task: asyncio.Task[object], arrival: Arrival | None = None
    ) -> None:
        self._arrival: Arrival | None = arrival
        self.begin(when, task)

    def begin(self, when: float, task: asyncio.Task[object]) -> None:
        """Start: `task` may run until the loop time `when`."""
        self.when: float = when
        self.expired: bool = False
        self.task: asyncio.Task[object] | None = task
        self._cancelling = task.cancelling()

    def done(self) -> bool:
        """End the deadline; return whether only this deadline has cancelled the task."""
        task, self.task = self.task, None
        return self.expired and task is not None and task.uncancel() <= self._cancelling

    def _progress(self) -> Arrival | None:
        """The progress of the answer that the task waits for, if there is one."""
        return self._arrival

    def expire(self) -> None:
        """Cancel the task, because its time is over."""
        if self.task is not None and not self.expired:
            self.expired = True
            self.task.cancel()

    def read_then_expire(self, loop: asyncio.AbstractEventLoop, context: Context) -> None:
        """Let the loop read the bytes that arrived; then expire if the task still waits."""
        arrival = self._progress()
        if arrival is None or arrival.received < 0:
            self.expire()
        else:
            passes = QUIET_PASSES + arrival.most_reads
            self._wait(loop, context, arrival, arrival.received, QUIET_PASSES, passes)

    def _wait(
        self,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        arrival: Arrival,
        before: int,
        quiet: int,
        passes: int,
    ) -> None:
        """Expire, or wait for one more pass of the loop.

        Args:
            loop: The task's loop.
            context: The context for the callbacks.
            arrival: The progress of the answer.
            before: Bytes that had arrived before this pass.
            quiet: The number of consecutive passes, beginning with this one, after which the
                deadline expires if they bring no byte.
            passes: The number of further passes after which it expires, even if bytes arrive.
        """
        received = arrival.received
        quiet = quiet - 1 if received == before else QUIET_PASSES
        if not self.pending:
            return
        if received < 0 or not quiet or not passes:
            self.expire()
            return
        more = (arrival, received, quiet, passes - 1)
        loop.call_soon(self._wait, loop, context, *more, context=context)

    @property
    def pending(self) -> bool:
        """Whether the deadline may still cancel its task."""
        return self.task is not None and not self.expired


class _EarlyDeadline(Deadline):
    """A deadline before the last one in the queue, so it needs a timer of its own.

    An example is the deadline of a second attempt, which has less time left than a first attempt.
    """

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
        self._timer = loop.call_at(when, self.read_then_expire, loop, context, context=context)
        early.add(self)

    def done(self) -> bool:
        self._timer.cancel()
        self._early.discard(self)
        return super().done()


class Deadlines:
    """Gives tasks a time limit with the effect of `asyncio.timeout`, at a lower cost."""

    def __init__(self) -> None:
        self._queue: deque[Deadline] = deque()  # the earliest first
        self._early: set[_EarlyDeadline] = set()
        self._timer: asyncio.TimerHandle | None = None
        # A timer keeps its context alive even after it is cancelled. The context of a call has the
        # call's connection and buffer, and anything that the caller put there. So these timers get
        # an empty context.
        self._context = Context()

    def start(self, seconds: float, arrival: Arrival | None = None) -> Deadline:
        """Start a deadline that cancels the current task after `seconds`.

        Args:
            seconds: The time from now.
            arrival: The progress of the answer that the task waits for. Before the deadline
                expires, the loop reads the bytes that arrived in time.
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

    def add(self, deadline: Deadline, when: float, task: asyncio.Task[object], now: float) -> bool:
        """Start a deadline that the caller made; return whether it was started.

        It is not started if it is earlier than the last one in the queue. Then use `start`.

        Args:
            deadline: A deadline without a task; this method calls its `begin`.
            when: The loop time at which it cancels the task.
            task: The current task.
            now: The loop's time.
        """
        queue = self._queue
        if queue:
            if when < queue[-1].when:
                return False
            first = queue[0]
            while len(queue) > 1 and (first.task is None or first.expired):
                queue.popleft()
                first = queue[0]
        deadline.begin(when, task)
        queue.append(deadline)
        if self._timer is None:
            self._arm(task.get_loop(), when)
        return True

    def expire_all(self) -> None:
        """Cancel every task now."""
        for deadline in (*self._queue, *self._early):
            deadline.expire()

    def cancel(self) -> None:
        """Stop the timer, and forget all deadlines in its queue."""
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget_done(self) -> None:
        """Drop finished deadlines from the queue, where they would pile up.

        Most calls end long before their deadline. The last deadline always stays, because `start`
        compares a new one with it.
        """
        queue = self._queue
        while len(queue) > 1 and not queue[0].pending:
            queue.popleft()

    def _arm(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        self._timer = loop.call_at(when, self._expire_due, loop, context=self._context)

    def _expire_due(self, loop: asyncio.AbstractEventLoop) -> None:
        queue, now = self._queue, loop.time()
        while queue and (queue[0].when <= now or not queue[0].pending):
            queue.popleft().read_then_expire(loop, self._context)
        self._timer = None
        if queue:
            self._arm(loop, queue[0].when)
