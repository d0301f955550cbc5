"""Deadlines for many calls with one timer.

A timer for each call costs a tenth of a whole request. Calls of one client have the same timeout,
so they end in the order in which they began, and the loop needs a timer for the first one only.
"""

import asyncio
from collections import deque


class Deadline:
    """The end of one task's time. Call `done` when the task needs it no longer."""

    __slots__ = ("_cancelling", "expired", "task", "when")

    def __init__(self, when: float, task: asyncio.Task[object]) -> None:
        self.when = when
        self.expired = False
        self.task: asyncio.Task[object] | None = task
        self._cancelling = task.cancelling()

    def done(self) -> bool:
        """Whether the cancellation that just arrived was this deadline's, and nobody else's."""
        task, self.task = self.task, None
        return self.expired and task is not None and task.uncancel() <= self._cancelling

    def expire(self) -> None:
        """The time is over: cancel what the task waits for."""
        if self.task is not None and not self.expired:
            self.expired = True
            self.task.cancel()

    @property
    def pending(self) -> bool:
        """Whether the task still counts on it."""
        return self.task is not None and not self.expired


class Deadlines:
    """Gives tasks a time limit, exactly as `asyncio.timeout` does, for less."""

    def __init__(self) -> None:
        self._queue: deque[Deadline] = deque()  # in the order of their ends
        self._early: set[Deadline] = set()  # those that end before one that began earlier
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float) -> Deadline:
        """A deadline for the task that runs now; it is cancelled after `seconds`."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None, "a coroutine of ours always runs in a task"
        deadline = Deadline(loop.time() + seconds, task)
        if self._queue and deadline.when < self._queue[-1].when:
            self._early.add(deadline)
            loop.call_at(deadline.when, self._end_early, deadline)
        else:
            self._forget_done()
            self._queue.append(deadline)
            if self._timer is None:
                self._timer = loop.call_at(deadline.when, self._ring, loop)
        return deadline

    def expire_all(self) -> None:
        """Everybody's time is over."""
        for deadline in (*self._queue, *self._early):
            deadline.expire()

    def cancel(self) -> None:
        """Stop the timer; nobody needs it any more."""
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget_done(self) -> None:
        """Most are done long before they end, and must not pile up until then.

        One always stays: it tells which end is the last.
        """
        queue = self._queue
        while len(queue) > 1 and not queue[0].pending:
            queue.popleft()

    def _end_early(self, deadline: Deadline) -> None:
        self._early.discard(deadline)
        deadline.expire()

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        queue, now = self._queue, loop.time()
        while queue and (queue[0].when <= now or not queue[0].pending):
            queue.popleft().expire()
        self._timer = loop.call_at(queue[0].when, self._ring, loop) if queue else None
