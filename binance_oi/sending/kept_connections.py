"""Kept connections: which of them may be used again, and for how long one may be silent.

The rule of this file: a handshake costs no weight, a second request does, and a failed call costs
most. When in doubt a connection is replaced; a request is sent twice only on evidence.

Theory of operation. A kept connection can be dead without a sign: a NAT or a VPN forgot it, or the
laptop slept. What is written to it is lost, and nothing ever comes back. Only silence tells, and
silence may also be a slow exchange. Three rules tell them apart:

1. A request on a kept connection that brings no byte within `patience` is abandoned, and its caller
   sends it once more on a new connection. A new connection is never abandoned: its handshake just
   showed that the network works, so only the exchange can be slow.
2. A dead connection makes others suspect: every one that delivered its last byte before that
   request was sent. None of those is used again, so the next 99 calls do not wait as well.
3. An answer that begins after more than `PATIENCE` shows that the exchange is slow. Patience grows
   to `SLACK` times the slowest of the last answers, and shrinks when they are quick again. It never
   grows above a bound, so that the second request fits into its call's timeout. While answers are
   slower than that bound, silence tells nothing in time, and each request has a new connection.

Cost in weight. A dead connection costs 1 for the request that it swallowed. An exchange that turns
slow costs 1 for each request on a kept connection at that moment, then nothing for as long as it
stays slow. When only a share of its answers takes 3 s, at most 1.5 % of requests are sent twice.

Requests are counted rather than timed: "before request 17 was sent" needs no clock.
"""

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass

PATIENCE = 2.0  # s without a byte; a real answer takes 0.1 s, and a call has 10 s for both attempts
SUSPICIOUS = 0.25  # of patience: silence for so long, then an end, and others are suspect as well
SLACK = 1.5  # times the slowest answer; the next one may be slower still
NEVER = -1  # a generation that no connection is opened in
MEMORY = 100  # answers after which the slowest of the 100 before them is forgotten
# Seconds. uvloop runs timers before it reads its sockets, so after a standstill of the caller's
# loop an answer may be there and not be read yet.
LOOK = 0.01


@dataclass(slots=True, eq=False)
class Line:
    """A connection, as far as it matters for its next use."""

    generation: int
    heard: int
    """How many requests had been sent, on any connection, when a byte last came on this one."""
    request: int = 0
    """Which of them all its own last request was."""
    since: float = 0.0
    """Loop time at which that was sent."""
    kept: bool = False
    """It is not new: it had served before, or was opened for later."""
    silent: bool = False
    """No byte has come since that was sent."""


class KeptConnections:
    """What one client knows of all its connections.

    Args:
        replace: Whether a request may be sent once more. Without that no connection is abandoned:
            the rest of its caller's time is all the caller has.
        longest: Seconds of patience at the most, however slow the answers are; never less than
            `PATIENCE`.
    """

    def __init__(self, *, replace: bool = True, longest: float = math.inf) -> None:
        self.patience: float = PATIENCE
        self._longest = max(PATIENCE, longest) if replace else math.inf
        self._is_slow = False  # some of the last answers began after more than `PATIENCE`
        self.are_usable: bool = True
        """Whether none of the last answers began after more than the longest patience. Otherwise
        silence tells nothing in time, and a request needs a new connection."""
        self._replace = replace
        self._generation = 0
        self._sent = 0
        self._suspected = 0  # what was last heard before this request may be dead
        self._slowest = self._slowest_before = 0.0  # s, of the answers of this memory and the last
        self._answers = 0  # in this memory
        # Kept connections without a byte, in the order of their requests; how to abandon each.
        self._silent: dict[Line, Callable[[], None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._context = Context()  # or a timer would keep all that its call had in its context

    def opened(self) -> Line:
        """A connection was opened."""
        return Line(self._generation, self._sent)

    def distrust(self) -> None:
        """An answer was somebody else's: use no connection again that is open now."""
        self._generation += 1

    def refuse(self, line: Line) -> None:
        """Use this connection never again."""
        line.generation = NEVER

    def suspect(self, line: Line) -> None:
        """This one is dead: use none again that was last heard before its request was sent."""
        self._suspected = max(self._suspected, line.request)

    def trusts(self, line: Line) -> bool:
        """Whether it may be used again."""
        return line.generation == self._generation and line.heard >= self._suspected

    def sent(self, line: Line, abandon: Callable[[], None]) -> None:
        """A request was sent; on a kept connection that stays silent `abandon` is called."""
        line.request = self._sent = self._sent + 1
        line.silent = True
        line.since = asyncio.get_running_loop().time()
        if line.kept and self._replace:
            self._silent[line] = abandon
            if self._timer is None:
                self._arm(line.since + self.patience)

    def heard(self, line: Line) -> None:
        """The first byte of its answer came."""
        line.silent, line.heard = False, self._sent
        self._silent.pop(line, None)
        if line.kept and not self._is_slow:  # nearly always; or it had been abandoned
            return
        waited = asyncio.get_running_loop().time() - line.since
        if waited > PATIENCE or self._is_slow:
            self._learn(waited)

    def lost(self, line: Line) -> None:
        """The connection ended. When a kept one did so instead of answering, it was dead."""
        if line.silent and line.kept:
            self.suspect(line)

    def ended(self, line: Line) -> None:
        """Its request ended without a byte, for whatever reason: a timeout, or cancelled."""
        line.silent = False
        self._silent.pop(line, None)
        waited = asyncio.get_running_loop().time() - line.since
        if line.kept and waited >= self.patience * SUSPICIOUS:  # its caller had less patience
            self.suspect(line)

    def close(self) -> None:
        """Abandon nobody any more."""
        self._silent.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _learn(self, waited: float) -> None:
        """From how long an answer took to begin, while the exchange is or was slow."""
        self._slowest = max(self._slowest, waited)
        self._answers += 1
        if self._answers == MEMORY:
            self._slowest_before, self._slowest, self._answers = self._slowest, 0.0, 0
        slowest = max(self._slowest, self._slowest_before)
        before, self.patience = self.patience, PATIENCE
        self._is_slow, self.are_usable = slowest > PATIENCE, slowest <= self._longest
        if self._is_slow:
            self.patience = min(SLACK * slowest, self._longest)
        if self.patience < before and self._timer is not None:
            self._timer.cancel()
            self._arm_next()

    def _arm(self, when: float) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(when, self._ring, context=self._context)

    def _arm_next(self) -> None:
        """For the request that has waited longest."""
        self._timer = None
        for line in self._silent:
            self._arm(line.since + self.patience)
            break

    def _ring(self) -> None:
        """Somebody's patience is over, or would be if its answer had not come."""
        loop = asyncio.get_running_loop()
        now, due = loop.time(), list[tuple[Line, int]]()
        for line in self._silent:
            if line.since + self.patience > now:
                break
            due.append((line, line.request))
        if due:
            self._timer = loop.call_later(LOOK, self._abandon, due, context=self._context)
        else:
            self._arm_next()

    def _abandon(self, due: list[tuple[Line, int]]) -> None:
        """Those that are still silent after their sockets were read once more."""
        for line, request in due:
            if line.request == request and (abandon := self._silent.pop(line, None)) is not None:
                self.suspect(line)
                abandon()
        self._arm_next()
