"""An event loop in which waiting takes no time, although its sockets are real.

The rule of this file: virtual time moves only when nothing else can happen. Before the loop jumps
to the next timer, it checks that no socket is ready to read or to write, and that no thread
works for it.

Both ends of every connection must be in the same loop: the loop cannot know what another thread or
process is about to send. Use `127.0.0.1`: the lookup of a name would take a thread.

In a test, use the fixture `virtual_time`; outside pytest, call ``virtual_clock.run(main())``.
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

START_S = 1_000.0  # s: not 0, because some code uses 0 for "never"
EPOCH_S = 1_795_434_200.0  # Unix s at a loop time of 0: 2026-11-23T12:00:00Z less START_S
# s: less than `STEP_S`. For the first 17 years, neighbouring floats are closer together than this.
_RESOLUTION_S = 1e-7
STEP_S = 1e-6  # s: the smallest step; otherwise a timer re-armed for "now" would spin forever

# Linux delivers over the loopback before `send` returns (no miss in 13,000 sends and connects, with
# four busy processes on two cores). Another kernel may deliver in a thread of its own, so the loop
# checks its sockets three times, and gives up the core between two checks.
_SOCKET_CHECKS = 3
# A blocked sender waits for an acknowledgement, which the kernel may delay by 200 ms.
_BLOCKED_WRITE_S = 0.25  # real s
_DEADLOCK_S = 120.0  # real s in which a signal or a thread may still wake the loop


# `time.sleep(0)` arms a timer on Linux, which costs 50 us and more; `sched_yield` arms none.
_give_up_the_core: Callable[[], object] = getattr(os, "sched_yield", lambda: time.sleep(0))


class Deadlock(RuntimeError):
    """Every task waits, no timer is armed, and no data arrived."""


class _JumpingSelector(selectors.DefaultSelector):
    """A real selector that moves a clock forward instead of sleeping."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START_S
        self.steps = 0  # iterations of the loop
        self.threads = 0  # threads that work for this loop; while there are any, time stands still
        self._given_up: set[int] = set()  # blocked senders whose peer does not read

    def select(self, timeout: float | None = None) -> _Events:
        """Return the ready sockets; if none can become ready, let `timeout` pass at once."""
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
        events = super().select(0)
        for _ in range(_SOCKET_CHECKS - 1):
            if events:
                break
            _give_up_the_core()  # on a busy machine, this takes milliseconds
            events = super().select(0)
        return events

    def _blocked_writes(self) -> _Events:
        """Wait for blocked senders, but only if one of them is new: a peer may never read."""
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
    """A selector event loop whose `time()` is virtual and starts at 1,000 s."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        # asyncio runs a timer whose time is below `time() + resolution`. Usually, the resolution is
        # 1 ns. After half a year of virtual time, adding 1 ns gives the same float, so a timer that
        # is due would never run.
        self._clock_resolution = _RESOLUTION_S

    def time(self) -> float:
        """Seconds of virtual time."""
        return self._jumping.now

    @property
    def steps(self) -> int:
        """The number of iterations so far: a cost that does not depend on the machine."""
        return self._jumping.steps

    def stall(self, seconds: float) -> None:
        """Let time pass within a callback, as in code that blocks a real loop."""
        self._jumping.now += seconds

    def call_at(
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Any = None
    ) -> asyncio.TimerHandle:
        """Arm a timer for one step from now or later, so a re-armed timer always moves time."""
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
        """Wait for the threads without Python's timeout of 300 s, which would pass at once."""
        self._jumping.threads += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._jumping.threads -= 1


def wall_time() -> float:
    """Unix time in seconds of the running virtual loop; replaces `time.time`.

    It starts at 2026-11-23T12:00:00Z, the beginning of a minute.
    """
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return EPOCH_S + loop.time()


class VirtualDatetime(datetime):
    """A `datetime` class whose `now` uses the virtual clock."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.fromtimestamp(wall_time(), tz)


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine on a new virtual loop, as `asyncio.run` does on a real one."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
