"""Decides which kept (pooled) connections may be used again, and how long one may be silent.

The rule of this file: a new connection costs no weight, a second request costs weight, and a failed
call costs its caller the answer. So in doubt the client opens a new connection. It sends a request
twice only if there is evidence that the first connection is dead.

Theory of operation. A kept connection can be dead without a sign: a NAT or a VPN forgot it, or the
laptop was suspended. The network then drops every request that we write to the connection, and no
answer comes. The silence is the only symptom, but a slow exchange is also silent. Three rules
tell a dead connection from a slow exchange:

1. A request on a kept connection that gets no byte within `patience` is abandoned, and its caller
   sends it once more on a new connection. A new connection is never abandoned: its handshake has
   just shown that the network works, so only the exchange can be slow.
2. A dead connection makes other connections suspect: all that have received nothing since the dead
   connection sent its last request. The client does not use them again. Otherwise, with 100 dead
   connections, the next 99 calls would each wait for `patience`.
3. An answer that begins after more than `PATIENCE` shows that the exchange is slow. Patience grows
   to `PATIENCE_FACTOR` times the slowest recent answer, and shrinks when answers are quick again.
   It has an upper bound, so that the second request fits into its call's timeout. While answers are
   slower than that bound, the client cannot detect a dead connection in time, so it opens a new
   connection for each request.

Cost in weight. A dead connection costs the weight of the lost request. When an exchange turns slow,
the client sends twice each request that is on a kept connection at that time. While the exchange
stays slow, it sends no other request twice. When only a part of the answers takes 3 s, it sends at
most 1.5 % of its requests twice.

The client numbers its requests, so "since request 17 was sent" needs no clock. Each connection
keeps the number of the generation in which it opened. When the client distrusts all open
connections, it begins a new generation.
"""

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass

PATIENCE = 2.0  # s without a byte; an answer takes 0.1 s, and by default a call has 10 s
# A kept connection is suspect if a call ended without a byte after this part of patience.
SUSPECT_AFTER = 0.25
PATIENCE_FACTOR = 1.5  # patience / slowest recent answer; the next answer may be even slower
NEVER = -1  # the generation of a connection that must not be used again
ANSWERS_REMEMBERED = 100  # patience depends on the slowest of the last 100 to 200 answers
# Seconds from the end of patience until we abandon a connection. If the application has blocked the
# loop, an answer may be in the socket, and uvloop runs timers before it reads sockets.
LAST_READ_S = 0.01


@dataclass(slots=True, eq=False)
class ConnectionState:
    """The state of one connection, which decides whether it may be used again."""

    generation: int
    """The generation in which the connection was opened; see `KeptConnections.distrust`."""
    heard: int
    """How many requests all connections had sent when this connection opened, or last received the
    first byte of an answer."""
    request: int = 0
    """The number of the connection's last request; all connections share one numbering."""
    since: float = 0.0
    """Loop time at which the connection's last request was sent."""
    kept: bool = False
    """Whether the connection was open before its present request needed a connection."""
    silent: bool = False
    """Whether the last request still waits for its first byte."""


class KeptConnections:
    """The state of all connections of one client.

    Args:
        replace: Whether the client may send a request a second time. If not, it abandons no
            connection.
        longest: The upper bound of patience in seconds, however slow the answers are. A value below
            `PATIENCE` means `PATIENCE`. Without `replace` it has no effect.
    """

    def __init__(self, *, replace: bool = True, longest: float = math.inf) -> None:
        self.patience: float = PATIENCE
        self._longest = max(PATIENCE, longest) if replace else math.inf
        self._is_slow = False  # a recent answer began after more than `PATIENCE`
        self.are_usable: bool = True
        """Whether recent answers began within the longest patience. Otherwise the client cannot
        detect a dead connection in time, and each request needs a new connection."""
        self._replace = replace
        self._generation = 0
        self._sent = 0
        self._suspected = 0  # a connection without a byte since this request may be dead
        # The slowest answer of this period and of the previous one, s. A period has
        # `ANSWERS_REMEMBERED` answers.
        self._slowest = self._slowest_before = 0.0
        self._answers = 0  # number of answers in this period
        # The kept connections whose last request has got no byte, in the order of these requests.
        # Each value is a function that abandons the connection.
        self._silent: dict[ConnectionState, Callable[[], None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._context = Context()  # empty; otherwise a timer would keep its call's context alive

    def opened(self) -> ConnectionState:
        """Return the state of a new connection."""
        return ConnectionState(self._generation, self._sent)

    def distrust(self) -> None:
        """Stop using all open connections, because one delivered the answer to another request."""
        self._generation += 1

    def refuse(self, state: ConnectionState) -> None:
        """Never use this connection again."""
        state.generation = NEVER

    def suspect(self, state: ConnectionState) -> None:
        """Note that a connection is dead.

        The client does not use it again, nor any other connection that has received no byte since
        the dead one sent its last request.
        """
        self._suspected = max(self._suspected, state.request)

    def trusts(self, state: ConnectionState) -> bool:
        """Whether a connection may be used again."""
        return state.generation == self._generation and state.heard >= self._suspected

    def sent(self, state: ConnectionState, abandon: Callable[[], None], now: float) -> None:
        """Note that a request is sent.

        Args:
            state: The connection.
            abandon: Called if the connection is a kept one and gets no byte within `patience`.
            now: The loop's time.
        """
        state.request = self._sent = self._sent + 1
        state.silent = True
        state.since = now
        if state.kept and self._replace:
            self._silent[state] = abandon
            if self._timer is None:
                self._arm(state.since + self.patience)

    def heard(self, state: ConnectionState) -> None:
        """Note the first byte of an answer."""
        state.silent, state.heard = False, self._sent
        self._silent.pop(state, None)
        if state.kept and not self._is_slow:  # nearly always: it answered within patience
            return
        waited = asyncio.get_running_loop().time() - state.since
        if waited > PATIENCE or self._is_slow:
            self._learn(waited)

    def lost(self, state: ConnectionState) -> None:
        """Note the end of a connection. A kept one that ends without an answer was dead."""
        if state.silent and state.kept:
            self.suspect(state)

    def ended(self, state: ConnectionState) -> None:
        """Note that a timeout or a cancellation ended a request before a byte came."""
        state.silent = False
        self._silent.pop(state, None)
        waited = asyncio.get_running_loop().time() - state.since
        if state.kept and waited >= self.patience * SUSPECT_AFTER:
            self.suspect(state)

    def close(self) -> None:
        """Stop abandoning connections."""
        self._silent.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _learn(self, waited: float) -> None:
        """Adapt patience to an answer that began after `waited` seconds.

        Called for each slow answer, and for each answer while recent ones were slow.
        """
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
        for state in self._silent:
            self._arm(state.since + self.patience)
            break

    def _check_silent(self) -> None:
        """Find the requests that waited for `patience`; abandon them after `LAST_READ_S`."""
        loop = asyncio.get_running_loop()
        now, due = loop.time(), list[tuple[ConnectionState, int]]()
        for state in self._silent:
            if state.since + self.patience > now:
                break
            due.append((state, state.request))
        if due:
            self._timer = loop.call_later(LAST_READ_S, self._abandon, due, context=self._context)
        else:
            self._arm_next()

    def _abandon(self, due: list[tuple[ConnectionState, int]]) -> None:
        """Abandon the connections of `due` that are still silent.

        Since `_check_silent`, the loop has read its sockets once more.

        Args:
            due: Connections, each with the number of the request that waited too long.
        """
        for state, request in due:
            if state.request == request and (abandon := self._silent.pop(state, None)) is not None:
                self.suspect(state)
                abandon()
        self._arm_next()
