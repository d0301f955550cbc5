"""Starts the local exchange: in the caller's event loop, in a thread, or in a process.

The rule of this file: it listens on 127.0.0.1 only, and counts all clients as one IP address.
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
from datetime import date
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from binance_oi.simulator.app import HISTORY_LIMIT, Change, Exchange
from binance_oi.simulator.archive import Files
from binance_oi.simulator.commands import Commands
from binance_oi.simulator.counter import Bans, Others, RollingCounter, WeightCounter
from binance_oi.simulator.history import Pages, Row
from binance_oi.simulator.responses import Headers
from binance_oi.simulator.universe import Universe

HOST = "127.0.0.1"
BACKLOG = 2048  # connections that a load test may open at once
CLOSE_S = 0.1  # s for the answers to requests in flight when the exchange closes


class LocalExchange(Commands):
    """A futures exchange on this machine that counts weight as the real one does.

        async with LocalExchange(limit=100) as exchange:
            ...  # requests to exchange.url
        with LocalExchange().in_thread() as exchange:
            ...  # the same for code without an event loop

    It runs on every event loop, even on one with virtual time, where latency takes no real time.
    Let `clock` return the time of such a loop, so that the minutes of the exchange follow it.

    The `url` of each exchange has a path of its own, so each exchange has a budget of its own: a
    ban by one exchange does not hold for the next one on the same port. Any thread may call the
    commands of `Commands`, such as `jump` and `ban`.

    Args:
        limit: weight allowed in a minute; `exchangeInfo` announces it.
        seed: the seed of everything random.
        latency: seconds from request to answer; the request is counted after half of them.
        jitter: the largest additional delay of an answer, s; up to half of it precedes the count.
        clock_offset: seconds by which the exchange's clock is ahead of the caller's.
        used: weight already used in the minute in which the exchange is made.
        others: weight used by other clients on this IP address, such as `Steady` or `Bursts`.
        clock: the caller's clock, Unix s.
        port: the port; 0 chooses a free one.
        bans: when 429 becomes 418, and for how long.
        count_refused: whether a refused request counts (unknown for the real exchange).
        headers: how reliable the headers are, and what `Retry-After` says.
        changes: `(unix_s, symbol, status)` of future listings and delistings.
        history_limit: requests of `/futures/data` that are allowed in any 5 minutes.
        pages: how reliable a page of history is.
        files: how reliable a file of the archive is.
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
        files: Files | None = None,
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
            files=files,
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
        """The counted weight by minute (Unix s // 60), including others."""
        with self._exchange.lock:
            return self.counter.weights(self.now())

    @property
    def history_counter(self) -> RollingCounter:
        """The counter of the limit of `/futures/data`."""
        return self._exchange.history_counter

    def history(self, symbol: str, period: str, first: int, last: int) -> list[Row]:
        """Every row of the past from `first` to `last` (Unix ms) that the exchange serves now.

        Raises:
            KeyError: the symbol is not listed, or there is no such period.
        """
        with self._exchange.lock:
            now = int(self.now() * 1000)
            return self._exchange.history(symbol).rows(period, first, last, now)

    def archived(self, symbol: str, day: date) -> list[Row] | None:
        """The rows with open interest in the archive's file for a day; None without a file.

        Raises:
            KeyError: the symbol is not listed.
        """
        with self._exchange.lock:
            found = self._exchange.archives.of(symbol).file(day, int(self.now() * 1000))
            return None if found is None else found.rows

    @property
    def answers(self) -> Counter[int]:
        """The number of answers of each status, without dropped ones and files of the archive."""
        return self._exchange.answers

    @property
    def universe(self) -> Universe:
        """The listed symbols."""
        return self._exchange.universe

    def now(self) -> float:
        """The exchange's own clock, Unix s."""
        return self._clock() + self._clock_offset

    @property
    def port(self) -> int:
        """The port on which it listens; 0 while it does not."""
        port: int = self._socket.getsockname()[1] if self._socket else 0
        return port

    def _do(self, command: str, **arguments: Any) -> None:
        self._exchange.do(command, **arguments)

    def bind(self) -> None:
        """Bind the port and set `url` without an event loop; connections wait for `start`."""
        if self._socket is None:
            self._socket = socket.create_server((HOST, self._port), backlog=BACKLOG)
            self._port = self.port  # reuse it if the exchange starts again
            self.url = f"http://{HOST}:{self._port}{self._exchange.place}"

    def release(self) -> None:
        """Release the port. `close` calls it."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self.url = None, ""

    async def start(self) -> None:
        """Listen. `async with` calls it."""
        self.bind()
        assert self._socket is not None
        server = web.Server(self._exchange.handle, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=CLOSE_S)
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket, backlog=BACKLOG).start()

    async def close(self) -> None:
        """Stop listening and drop every connection. `async with` calls it."""
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
        """Run in a thread with an event loop of its own."""
        made: Future[asyncio.AbstractEventLoop] = Future()

        def run() -> None:  # make the loop in this thread: the test may have another loop
            with asyncio.Runner() as runner:  # at its end, it cancels answers that are delayed
                made.set_result(runner.get_loop())
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


@contextmanager
def spawn(*arguments: str) -> Generator[str, None, None]:
    """Run an exchange in a process of its own; yields its URL.

    Args:
        arguments: arguments of `python -m binance_oi.simulator`, such as `"--limit", "100"`.

    Raises:
        RuntimeError: the process ended without a URL; its stderr says why.
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
