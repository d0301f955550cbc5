"""The local exchange as a thing to start: in the caller's loop, in a thread, in a process.

It listens on 127.0.0.1 only, and sees one IP address whoever asks.
"""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from binance_oi.simulator.app import HISTORY_LIMIT, Change, Exchange
from binance_oi.simulator.commands import Commands
from binance_oi.simulator.counter import Bans, Others, RollingCounter, WeightCounter
from binance_oi.simulator.history import Pages, Row
from binance_oi.simulator.responses import Headers
from binance_oi.simulator.universe import Universe

HOST = "127.0.0.1"
BACKLOG = 2048  # connections a load test opens at once
CLOSE_S = 0.1  # what a request in flight still gets when the exchange closes


class LocalExchange(Commands):
    """A futures exchange on this machine that counts weight as the real one does.

        async with LocalExchange(limit=100) as exchange:
            ...  # requests to exchange.url
        with LocalExchange().in_thread() as exchange:
            ...  # the same from code that has no loop

    It works on every event loop, also on one whose time is virtual: give `clock` the loop's
    time, and latency costs no real time.

    `url` has a path of its own for each exchange, and so a budget of its own: a ban that a client
    has seen is not that of the next exchange on the same port. The commands of `Commands`, such as
    `jump` and `ban`, may come from any thread.

    Args:
        limit: weight allowed in a minute; also what `exchangeInfo` says.
        seed: of everything that varies.
        latency: seconds from request to answer; counted after half of them.
        jitter: up to so many seconds more.
        clock_offset: seconds by which the exchange's clock is ahead of the caller's.
        used: weight already used in the minute in which the exchange is made.
        others: weight used by others on this IP address, `Steady` or `Bursts`.
        clock: the caller's clock, Unix s.
        port: 0 takes a free one.
        bans: when 429 becomes 418, and for how long.
        count_refused: whether a refused request counts (not known of the real exchange).
        headers: how far the headers can be relied on, and what `Retry-After` says.
        changes: `(unix_s, symbol, status)` of listings and delistings to come.
        history_limit: requests of `/futures/data` allowed in any 5 minutes.
        pages: how far a page of history can be relied on.
    """

    def __init__(
        self,
        *,
        limit: int = 2400,
        seed: int = 0,
        latency: float = 0.0,
        jitter: float = 0.0,
        clock_offset: float = 0.0,
        used: int = 0,
        others: Others | None = None,
        clock: Callable[[], float] = time.time,
        port: int = 0,
        bans: Bans | None = None,
        count_refused: bool = True,
        headers: Headers | None = None,
        changes: Iterable[Change | tuple[float, str, str]] = (),
        history_limit: int = HISTORY_LIMIT,
        pages: Pages | None = None,
    ) -> None:
        self.url: str = ""
        self._clock = clock
        self._clock_offset = clock_offset
        self._port = port
        self.counter: WeightCounter = WeightCounter(
            limit,
            start=self.now(),
            used=used,
            others=others,
            bans=bans,
            count_refused=count_refused,
        )
        self._exchange = Exchange(
            self.counter,
            self.now,
            seed=seed,
            latency=latency,
            jitter=jitter,
            headers=headers,
            changes=changes,
            history_limit=history_limit,
            pages=pages,
        )
        self._runner: web.ServerRunner | None = None
        self._socket: socket.socket | None = None

    def __repr__(self) -> str:
        where = self.url or "closed"
        return f"<LocalExchange {where} used={self.used} of {self.counter.limit}>"

    @property
    def used(self) -> int:
        """Weight counted in the current minute."""
        with self._exchange.lock:
            return self.counter.used(self.now())

    @property
    def weights(self) -> dict[int, int]:
        """Minute (Unix s // 60) to the weight counted in it, others included."""
        with self._exchange.lock:
            return self.counter.weights(self.now())

    @property
    def history_counter(self) -> RollingCounter:
        """What was counted of the limit of `/futures/data`."""
        return self._exchange.history_counter

    def history(self, symbol: str, period: str, first: int, last: int) -> list[Row]:
        """Every row of the past from `first` to `last` (Unix ms) that is there now.

        Raises:
            KeyError: the symbol is not listed, or there is no such period.
        """
        with self._exchange.lock:
            now = int(self.now() * 1000)
            return self._exchange.history(symbol).rows(period, first, last, now)

    @property
    def answers(self) -> Counter[int]:
        """How many answers of each status were given."""
        return self._exchange.answers

    @property
    def universe(self) -> Universe:
        """What is listed."""
        return self._exchange.universe

    def now(self) -> float:
        """The exchange's own clock, Unix s."""
        return self._clock() + self._clock_offset

    @property
    def port(self) -> int:
        """Where it listens; 0 while it does not."""
        port: int = self._socket.getsockname()[1] if self._socket else 0
        return port

    def _do(self, command: str, **arguments: Any) -> None:
        self._exchange.do(command, **arguments)

    def bind(self) -> None:
        """Take the port, and have a `url`, before there is a loop: connections wait for `start`."""
        if self._socket is None:
            self._socket = socket.create_server((HOST, self._port), backlog=BACKLOG)
            self._port = self.port  # also when it is closed and started again
            self.url = f"http://{HOST}:{self._port}{self._exchange.place}"

    def release(self) -> None:
        """Give the port back. `close` does it."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self.url = None, ""

    async def start(self) -> None:
        """Listen. `async with` does it."""
        self.bind()
        assert self._socket is not None
        server = web.Server(self._exchange.handle, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=CLOSE_S)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket, backlog=BACKLOG).start()

    async def close(self) -> None:
        """Stop listening and drop every connection. `async with` does it."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self.release()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @contextmanager
    def in_thread(self) -> Generator[Self, None, None]:
        """Run in a thread and a loop of its own."""
        made: Future[asyncio.AbstractEventLoop] = Future()

        def run() -> None:  # the loop is made in its thread: a test may have others here
            made.set_result(asyncio.new_event_loop())
            made.result().run_forever()

        thread = threading.Thread(target=run, name="local-exchange", daemon=True)
        thread.start()
        loop = made.result()
        try:
            asyncio.run_coroutine_threadsafe(self.start(), loop).result()
            try:
                yield self
            finally:
                asyncio.run_coroutine_threadsafe(self.close(), loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


@contextmanager
def spawn(*arguments: str) -> Generator[str, None, None]:
    """Run an exchange in a process of its own, and give its URL.

    Args:
        arguments: of `python -m binance_oi.simulator`, such as `"--limit", "100"`.

    Raises:
        RuntimeError: the process ended without one; it has said why on stderr.
    """
    command = [sys.executable, "-m", "binance_oi.simulator", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError(f"the local exchange did not start: {' '.join(command)}")
            yield url
        finally:
            process.terminate()
