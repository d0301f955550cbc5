"""Lets signals stop a long-running command.

The rule of this file: a stop signal only asks the command to end, so the command can end cleanly.
The signal interrupts no code, except on Windows.
"""

import asyncio
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

from binance_oi.cli.endings import SIGHUP


class Stop:
    """The state of a requested stop."""

    def __init__(self) -> None:
        self.event: asyncio.Event = asyncio.Event()
        """Set when a stop signal has come."""
        self.received: set[int] = set()
        """The numbers of the signals that have come."""


@contextmanager
def stopped_by_signals(stop: Callable[[], object] = lambda: None) -> Generator[Stop]:
    """While the block runs, let each stop signal set the event and call `stop`."""
    loop, state = asyncio.get_running_loop(), Stop()

    def receive(number: int) -> None:
        state.received.add(number)
        state.event.set()
        stop()

    numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
    if SIGHUP is not None and signal.getsignal(SIGHUP) != signal.SIG_IGN:  # nohup ignores it
        numbers.append(SIGHUP)
    for number in numbers:
        # Windows has no such handlers: there, Ctrl-C interrupts the code, but files stay valid.
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, receive, number)
    try:
        yield state
    finally:
        for number in numbers:
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
        if SIGHUP is not None and SIGHUP in state.received:  # the shell may send another
            signal.signal(SIGHUP, signal.SIG_IGN)
