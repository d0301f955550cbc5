"""An event loop in which waiting takes no time, and which still talks over real sockets.

Rule of this file: virtual time moves only when nothing else can happen. Before a jump to the next
timer the loop has looked at its sockets and found nothing to read, nothing waiting to be written,
and no thread at work.

Both ends of every connection must live in the same loop: what another thread or process is about
to send cannot be seen coming. Use `127.0.0.1`, because a name would be looked up in a thread.

    virtual_clock.run(main())                  outside pytest
    @pytest.mark.virtual_time                  inside: one test, or `pytestmark` for a file
"""

import asyncio
import os
import selectors
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from datetime import datetime, tzinfo
from typing import Any, Self, TypeVar, TypeVarTuple

__all__ = ["Deadlock", "VirtualDatetime", "VirtualLoop", "run", "wall_time"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")
_Events = list[tuple[selectors.SelectorKey, int]]

START_S = 1_000.0  # not 0, so that code which takes 0 for "never" behaves as it does for real
EPOCH_S = 1_795_434_200.0  # 2026-11-23T12:00:00Z less START_S: what `wall_time` counts from
STEP_S = 1e-6  # smallest move; without one, a timer re-armed for "now" would spin for ever

# Linux delivers over the loopback before `send` returns (no miss in 13,000 sends and connects, with
# four busy processes on two cores). The looks beyond the first are for a kernel that hands
# delivery to a thread of its own: each gives up the core once.
_LOOKS = 3
# A sender that is blocked waits for an acknowledgement, which the kernel may hold back for 200 ms.
_BLOCKED_WRITE_S = 0.25
_DEADLOCK_S = 120.0  # real time in which somebody outside (a signal, a thread) may still wake us


# `time.sleep(0)` arms a timer on Linux, which costs 50 us and more; `sched_yield` arms none.
_give_up_the_core: Callable[[], object] = getattr(os, "sched_yield", lambda: time.sleep(0))


class Deadlock(RuntimeError):
    """Every task waits, no timer is armed, and nothing came in."""


class _JumpingSelector(selectors.DefaultSelector):
    """A real selector that moves a clock forward where it would have slept."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START_S
        self.steps = 0  # turns of the loop
        self.threads = 0  # at work for this loop; while there are any, time stands still
        self._given_up: set[int] = set()  # senders whose peer does not read

    def select(self, timeout: float | None = None) -> _Events:
        """Return what is ready; when nothing can become ready, let `timeout` pass at once."""
        self.steps += 1
        if timeout is not None and timeout <= 0:
            return super().select(0)
        if (events := self._ready_now()) or (events := self._blocked_writes()):
            return events
        if self.threads:
            return super().select(None)
        if timeout is None:
            return self._wait_for_outsiders()
        self.now += max(timeout, STEP_S)
        return []

    def _ready_now(self) -> _Events:
        for _ in range(_LOOKS):
            if events := super().select(0):
                return events
            _give_up_the_core()
        return []

    def _blocked_writes(self) -> _Events:
        """Wait for senders that are blocked, once for each: their peers may not read at all."""
        blocked = {key.fd for key in self.get_map().values() if key.events & selectors.EVENT_WRITE}
        self._given_up &= blocked
        if blocked == self._given_up:
            return []
        events = super().select(_BLOCKED_WRITE_S)
        if not events:
            self._given_up = blocked
        return events

    def _wait_for_outsiders(self) -> _Events:
        events = super().select(_DEADLOCK_S)
        if not events:
            raise Deadlock("every task waits and no timer is armed")
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """A selector event loop whose `time()` is virtual. It starts at 1,000 s."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds of virtual time."""
        return self._jumping.now

    @property
    def steps(self) -> int:
        """Iterations of the loop: a measure of cost that does not depend on the machine."""
        return self._jumping.steps

    def stall(self, seconds: float) -> None:
        """Let time pass in the middle of a callback, as code that blocks a real loop does."""
        self._jumping.now += seconds

    def call_at(
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Any = None
    ) -> asyncio.TimerHandle:
        """Arm a timer, at the earliest one step from now: two timers in a row are never at once."""
        when = max(when, self.time() + STEP_S)
        return super().call_at(when, callback, *args, context=context)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*_Ts], _T], *args: *_Ts
    ) -> asyncio.Future[_T]:
        """Run `func` in a thread; virtual time stands still until it is done."""
        future = super().run_in_executor(executor, func, *args)
        self._jumping.threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _future: asyncio.Future[Any]) -> None:
        self._jumping.threads -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the threads, however long: the 300 s of Python 3.12 would pass at once."""
        self._jumping.threads += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._jumping.threads -= 1


def wall_time() -> float:
    """Unix time in seconds on the running virtual loop's clock, a stand-in for `time.time`.

    It starts at 2026-11-23T12:00:00Z, the beginning of a minute.
    """
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return EPOCH_S + loop.time()


class VirtualDatetime(datetime):
    """`datetime` whose `now` is the virtual clock's."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.fromtimestamp(wall_time(), tz)


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine on a fresh virtual loop to its end, as `asyncio.run` does on a real one."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
