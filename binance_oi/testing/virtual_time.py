"""Gives a test virtual time for its length, with any asyncio plugin.

The rule of this file: while a test has virtual time, every event loop that its thread makes without
a loop factory is virtual, and every default clock of this package is the loop's. The local exchange
of the test runs in the same loop, because a virtual loop cannot know what another thread is about
to send.
"""

import asyncio
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from threading import get_ident
from typing import TYPE_CHECKING

from binance_oi.simulator import LocalExchange
from binance_oi.testing.default_clocks import replace_default_clocks
from binance_oi.testing.virtual_clock import EPOCH_S, START_S, VirtualDatetime, VirtualLoop

if TYPE_CHECKING:
    import pytest

# These import every module with default clocks. We import them before we replace the clocks.
_CLOCKED = ("client", "recorder", "simulator")
# The modules whose `datetime` we replace.
_DATETIMES = ("sending.governor", "market.sweep")


class VirtualTime:
    """The clock of a test in virtual time. `asyncio.sleep` moves it and takes no time."""

    def __init__(self) -> None:
        self._loop: VirtualLoop | None = None
        self._exchanges: list[LocalExchange] = []
        self._serving: list[asyncio.Task[None]] = []  # a loop alone does not keep a task alive

    def __repr__(self) -> str:
        return f"<VirtualTime {self.monotonic():.6f}>"

    @property
    def is_used(self) -> bool:
        """Whether the test made an event loop."""
        return self._loop is not None

    @property
    def is_over(self) -> bool:
        """Whether the event loop is closed, or the test made none."""
        return self._loop is None or self._loop.is_closed()

    def monotonic(self) -> float:
        """The time of the loop, in seconds."""
        return START_S if self._loop is None else self._loop.time()

    def time(self) -> float:
        """Unix seconds; they start at 2026-11-23T12:00:00Z, the beginning of a minute."""
        return EPOCH_S + self.monotonic()

    def make_loop(self) -> VirtualLoop:
        """Make a virtual loop, and start the exchanges of `serve` in it."""
        self._loop = VirtualLoop()
        for exchange in self._exchanges:
            self._start(self._loop, exchange)
        return self._loop

    def serve(self, exchange: LocalExchange) -> None:
        """Run an exchange in the loop of the test; its `url` is known at once."""
        exchange.bind()
        self._exchanges.append(exchange)
        if self._loop is not None and not self._loop.is_closed():
            self._start(self._loop, exchange)

    def _start(self, loop: VirtualLoop, exchange: LocalExchange) -> None:
        # Whoever runs the loop cancels its tasks at the end. That closes the exchange.
        self._serving.append(loop.create_task(_serve(exchange), name="local-exchange"))

    @contextmanager
    def installed(self, patch: "pytest.MonkeyPatch") -> Generator[None]:
        """Install virtual time until `patch` undoes its patches."""
        for name in _CLOCKED:
            import_module(f"binance_oi.{name}")
        replace_default_clocks(patch, steady=self.monotonic, wall=self.time)
        # The schedule compares two steady clocks to see how long the machine was suspended. Virtual
        # time has no suspend, so make both clocks the same.
        patch.setattr("binance_oi.market.schedule.steady_clock", time.monotonic)
        for name in _DATETIMES:
            patch.setattr(f"binance_oi.{name}.datetime", VirtualDatetime)
        patch.setattr("binance_oi.market.sweep.time", _TimeOfDay(self.time))
        make = self._maker(asyncio.new_event_loop)
        patch.setattr(asyncio.events, "new_event_loop", make)  # for asyncio.Runner
        patch.setattr(asyncio, "new_event_loop", make)
        yield

    def _maker(
        self, real: Callable[[], asyncio.AbstractEventLoop]
    ) -> Callable[[], asyncio.AbstractEventLoop]:
        here = get_ident()

        def make() -> asyncio.AbstractEventLoop:
            return self.make_loop() if get_ident() == here else real()

        return make


class _TimeOfDay:
    """The module `time` with another `time_ns`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def time_ns(self) -> int:
        return int(self._clock() * 1_000_000_000)

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)


async def _serve(exchange: LocalExchange) -> None:
    async with exchange:
        await asyncio.get_running_loop().create_future()
