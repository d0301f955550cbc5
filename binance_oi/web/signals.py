"""Ends the streams of a service at a stop signal, because its server waits for them to end.

The rule of this file: a signal keeps its earlier effect, because each of our handlers also calls
the handler that it replaced. So the handlers form a chain. A server may install its handlers after
ours, and several services may end in any order. Therefore a service that ends removes only its own
links from the chain. It can see the chain only up to the first handler of somebody else.
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
        drain: Ends the streams of the service.
    """

    def __init__(self, drain: Callable[[], object]) -> None:
        self._drain, self._loop = drain, asyncio.get_running_loop()

    def install(self) -> None:
        """Install our handler for each signal that already has a handler in Python.

        Call this again for each new stream: the server may have replaced our handler meanwhile. If
        our handler is still in place, a repeated call changes nothing. Outside the main thread,
        this method does nothing, because only the main thread can set handlers.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler) and all(link.owner is not self for link in _links(handler)):
                signal.signal(number, _Link(self, handler))

    def forget(self) -> None:
        """Remove our links from the chain of each signal, up to the first foreign handler."""
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
        """Let the loop call `drain`, unless the loop is closed."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._drain)


class _Link:
    """A handler of one service. It also calls the handler that it replaced (`before`)."""

    def __init__(self, owner: Draining, before: Handler) -> None:
        self.owner: Draining = owner
        self.before: Handler = before

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.owner.act()
        self.before(number, frame)


def _links(handler: object) -> Iterator[_Link]:
    """The links of this module at the start of a chain of handlers, the newest first."""
    while isinstance(handler, _Link):
        yield handler
        handler = handler.before
