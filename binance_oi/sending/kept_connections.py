"""Decides which kept (pooled) connections may be used again, and how long one may be silent.

The rule of this file: a handshake costs no weight, a second request does, and a failed call costs
most. In doubt the client opens a new connection; it sends a request twice only on evidence.

Theory of operation. A kept connection can be dead without a sign: a NAT or a VPN forgot it, or the
laptop was suspended. The network drops all that is written to it, and no answer comes. Only silence
shows that, but a slow exchange is silent as well. Three rules separate the two:

1. A request on a kept connection that gets no byte within `patience` is abandoned, and its caller
   sends it once more on a new connection. A new connection is never abandoned: its handshake has
   just shown that the network works, so only the exchange can be slow.
2. A dead connection makes others suspect: those that received nothing since it sent its last
   request. The client does not use them again, so the next 99 calls do not wait as well.
3. An answer that begins after more than `PATIENCE` shows that the exchange is slow. Patience grows
   to `PATIENCE_FACTOR` times the slowest recent answer, and shrinks when answers are quick again.
   It has an upper bound, so that the second request fits into its call's timeout. While answers are
   slower than that bound, a dead connection cannot be found in time, so each request opens a new
   connection.

Cost in weight. A dead connection costs 1 for the request that it swallowed. An exchange that turns
slow costs 1 for each request on a kept connection at that moment, and nothing more while it stays
slow. When only a share of its answers takes 3 s, at most 1.5 % of requests are sent twice.

Requests are counted rather than timed: "before request 17 was sent" needs no clock.
"""

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass

PATIENCE = 2.0  # s without a byte; a real answer takes 0.1 s, and a call has 10 s for both attempts
SUSPECT_AFTER = 0.25  # of patience; a request that ends after so long a silence makes it suspect
PATIENCE_FACTOR = 1.5  # times the slowest answer; the next one may be slower still
NEVER = -1  # a generation in which no connection is opened
ANSWERS_REMEMBERED = 100  # the slowest of the last 100 to 200 answers counts
# Seconds. uvloop runs timers before it reads its sockets. If the caller has blocked the loop, an
# answer may have arrived that the loop has not read yet.
LAST_READ_S = 0.01


@dataclass(slots=True, eq=False)
class Line:
    """The state of one connection, which decides whether it may be used again."""

    generation: int
    heard: int
    """The number of requests sent, on all connections, when a byte last came on this one."""
    request: int = 0
    """The number of its last request; requests are numbered over all connections."""
    since: float = 0.0
    """Loop time at which that request was sent."""
    kept: bool = False
    """Whether it has served a request before, or was opened ahead of its first one."""
    silent: bool = False
    """Whether no byte has come since that request was sent."""


class KeptConnections:
    """The state of all connections of one client.

    Args:
        replace: Whether a request may be sent once more. If not, no connection is abandoned, since
            its call has no time for a second request.
        longest: The upper bound of patience, s, however slow the answers are; at least `PATIENCE`.
    """

    def __init__(self, *, replace: bool = True, longest: float = math.inf) -> None:
        self.patience: float = PATIENCE
        self._longest = max(PATIENCE, longest) if replace else math.inf
        self._is_slow = False  # a recent answer began after more than `PATIENCE`
        self.are_usable: bool = True
        """Whether recent answers began within the longest patience. Otherwise a dead connection
        cannot be found in time, and each request needs a new one."""
        self._replace = replace
        self._generation = 0
        self._sent = 0
        self._suspected = 0  # connections that were last heard before this request may be dead
        self._slowest = self._slowest_before = 0.0  # s, in this period and in the previous one
        self._answers = 0  # in this period of `ANSWERS_REMEMBERED` answers
        # Kept connections without a byte, in the order of their requests, and how to abandon them.
        self._silent: dict[Line, Callable[[], None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._context = Context()  # or a timer would keep the whole context of its call

    def opened(self) -> Line:
        """Register a new connection."""
        return Line(self._generation, self._sent)

    def distrust(self) -> None:
        """Stop using all open connections: one delivered the answer to another request."""
        self._generation += 1

    def refuse(self, line: Line) -> None:
        """Never use this connection again."""
        line.generation = NEVER

    def suspect(self, line: Line) -> None:
        """Note that it is dead. Connections last heard before its request are not used again."""
        self._suspected = max(self._suspected, line.request)

    def trusts(self, line: Line) -> bool:
        """Whether a connection may be used again."""
        return line.generation == self._generation and line.heard >= self._suspected

    def sent(self, line: Line, abandon: Callable[[], None], now: float) -> None:
        """Note a request at `now`, loop time; call `abandon` if a kept connection stays silent."""
        line.request = self._sent = self._sent + 1
        line.silent = True
        line.since = now
        if line.kept and self._replace:
            self._silent[line] = abandon
            if self._timer is None:
                self._arm(line.since + self.patience)

    def heard(self, line: Line) -> None:
        """Note the first byte of an answer."""
        line.silent, line.heard = False, self._sent
        self._silent.pop(line, None)
        if line.kept and not self._is_slow:  # nearly always: within patience, or else abandoned
            return
        waited = asyncio.get_running_loop().time() - line.since
        if waited > PATIENCE or self._is_slow:
            self._learn(waited)

    def lost(self, line: Line) -> None:
        """Note the end of a connection. A kept one that ends instead of answering was dead."""
        if line.silent and line.kept:
            self.suspect(line)

    def ended(self, line: Line) -> None:
        """Note that a request ended without a byte: by a timeout or a cancellation."""
        line.silent = False
        self._silent.pop(line, None)
        waited = asyncio.get_running_loop().time() - line.since
        if line.kept and waited >= self.patience * SUSPECT_AFTER:  # the caller gave up earlier
            self.suspect(line)

    def close(self) -> None:
        """Stop abandoning connections."""
        self._silent.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _learn(self, waited: float) -> None:
        """Adapt patience to the start of an answer, while the exchange is or was slow."""
        self._slowest = max(self._slowest, waited)
        self._answers += 1
        if self._answers == ANSWERS_REMEMBERED:
            self._slowest_before, self._slowest, self._answers = self._slowest, 0.0, 0
        slowest = max(self._slowest, self._slowest_before)
        before, self.patience = self.patience, PATIENCE
        self._is_slow, self.are_usable = slowest > PATIENCE, slowest <= self._longest
        if self._is_slow:
            self.patience = min(PATIENCE_FACTOR * slowest, self._longest)
        if self.patience < before and self._timer is not None:
            self._timer.cancel()
            self._arm_next()

    def _arm(self, when: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(when, self._check_silent, context=self._context)

    def _arm_next(self) -> None:
        """Arm the timer for the request that has waited longest."""
        self._timer = None
        for line in self._silent:
            self._arm(line.since + self.patience)
            break

    def _check_silent(self) -> None:
        """Find the requests that have waited too long; give their answers a last chance."""
        loop = asyncio.get_running_loop()
        now, due = loop.time(), list[tuple[Line, int]]()
        for line in self._silent:
            if line.since + self.patience > now:
                break
            due.append((line, line.request))
        if due:
            self._timer = loop.call_later(LAST_READ_S, self._abandon, due, context=self._context)
        else:
            self._arm_next()

    def _abandon(self, due: list[tuple[Line, int]]) -> None:
        """Abandon those that are still silent after the loop has read its sockets once more."""
        for line, request in due:
            if line.request == request and (abandon := self._silent.pop(line, None)) is not None:
                self.suspect(line)
                abandon()
        self._arm_next()
