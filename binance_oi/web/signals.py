"""Ends the streams of a service at a signal, before its server waits for them.

The rule of this file: every signal does what it did before. A server may install its handlers after
ours, and two services may end in any order, so handlers of this file are links of a chain, and each
removes only itself.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

Handler = Callable[[int, FrameType | None], object]


class Draining:
    """Calls `drain` in the running loop at SIGINT and SIGTERM.

    Args:
        drain: Ends the streams.
    """

    def __init__(self, drain: Callable[[], object]) -> None:
        self._drain, self._loop = drain, asyncio.get_running_loop()

    def heed(self) -> None:
        """Heed the signals for which somebody has a handler; may be repeated, and should be.

        Outside the main thread it does nothing: Python has signals there alone.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler) and all(link.owner is not self for link in _links(handler)):
                signal.signal(number, _Link(self, handler))

    def forget(self) -> None:
        """Leave the signals as they are without this object."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            for link in _links(signal.getsignal(number)):
                while isinstance(link.before, _Link) and link.before.owner is self:
                    link.before = link.before.before
            handler = signal.getsignal(number)
            if isinstance(handler, _Link) and handler.owner is self:
                signal.signal(number, handler.before)

    def act(self) -> None:
        """End the streams, if the loop still runs."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._drain)


class _Link:
    """A handler that calls the one before it."""

    def __init__(self, owner: Draining, before: Handler) -> None:
        self.owner: Draining = owner
        self.before: Handler = before

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.owner.act()
        self.before(number, frame)


def _links(handler: object) -> Iterator[_Link]:
    """Our links of a chain of handlers, the newest first."""
    while isinstance(handler, _Link):
        yield handler
        handler = handler.before
