"""Deadlines for many calls with one timer.

A timer per call costs a tenth of a whole request. Calls of one client have the same timeout, so
they end in the order in which they began, and the loop needs a timer for the first of them only.
"""

import asyncio
import heapq
from types import TracebackType


class Deadlines:
    """Gives calls a time limit: ``with deadlines.after(seconds): await …``.

    Raises `TimeoutError` at the end of the block when the time is over, exactly as
    `asyncio.timeout` does; a cancellation from outside stays a cancellation.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, _Deadline]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._count = 0
        self._active = 0

    def after(self, seconds: float) -> "_Deadline":
        """A block that may take `seconds`."""
        return _Deadline(self, seconds)

    def add(self, deadline: "_Deadline", when: float, loop: asyncio.AbstractEventLoop) -> None:
        """Remember a block that was entered."""
        self._count += 1
        self._active += 1
        heapq.heappush(self._heap, (when, self._count, deadline))
        if self._timer is None or when < self._timer.when():
            self._arm(loop)

    def remove(self) -> None:
        """A block was left. Its entry goes when its time comes, or with the last block."""
        self._active -= 1
        if not self._active:
            self._heap.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def expire_all(self) -> None:
        """Every block's time is over."""
        for _, _, deadline in self._heap:
            deadline.expire()

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._heap[0][0], self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        while self._heap and (self._heap[0][0] <= now or self._heap[0][2].task is None):
            heapq.heappop(self._heap)[2].expire()
        if self._heap:
            self._arm(loop)


class _Deadline:
    __slots__ = ("_cancelling", "_deadlines", "_expired", "_seconds", "task")

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        self._deadlines = deadlines
        self._seconds = seconds
        self._expired = False
        self.task: asyncio.Task[object] | None = None

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline needs a task")
        self.task = task
        self._cancelling = task.cancelling()
        loop = task.get_loop()
        self._deadlines.add(self, loop.time() + self._seconds, loop)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self.task = self.task, None
        self._deadlines.remove()
        if self._expired and task is not None and task.uncancel() <= self._cancelling:
            if kind is asyncio.CancelledError:
                raise TimeoutError from error

    def expire(self) -> None:
        """The time is over."""
        if self.task is not None:
            self._expired = True
            self.task.cancel()
