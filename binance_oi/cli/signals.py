"""Signals that stop a command that runs for long.

The rule of this file: a stop signal asks for a clean end, and interrupts nothing.
"""

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

from binance_oi.cli.endings import SIGHUP


class Stop:
    """Whether the command is to stop, and by which signals."""

    def __init__(self) -> None:
        self.event: asyncio.Event = asyncio.Event()
        self.received: set[int] = set()


@contextmanager
def stopped_by_signals(stop: Callable[[], object] = lambda: None) -> Generator[Stop]:
    """Let signals call `stop` and set the event, and none interrupt a clean end."""
    loop, state = asyncio.get_running_loop(), Stop()

    def receive(number: int) -> None:
        state.received.add(number)
        state.event.set()
        stop()

    numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
    if SIGHUP is not None and signal.getsignal(SIGHUP) != signal.SIG_IGN:  # as with nohup
        numbers.append(SIGHUP)
    for number in numbers:
        with suppress(NotImplementedError):  # Windows: Ctrl-C interrupts, and the file stays valid
            loop.add_signal_handler(number, receive, number)
    try:
        yield state
    finally:
        for number in numbers:
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
        if SIGHUP is not None and SIGHUP in state.received:  # the shell sends a second
            signal.signal(SIGHUP, signal.SIG_IGN)
