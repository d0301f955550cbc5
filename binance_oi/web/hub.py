"""Passes the values of one poller to any number of listeners.

The rule of this file: events have numbers. The hub keeps the latest events once for all listeners,
and each listener has only the number of its last event. So a listener that does not read needs
almost no memory, and delays no other. If the hub no longer has the next event of a listener, the
listener gets the number of lost events (null after a restart), and then the state of the market.
`Last-Event-ID` contains the number of an event, so a listener can continue on a new connection.
"""

import asyncio
import math
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Protocol

from binance_oi.budget.usage import Usage
from binance_oi.encoding import json_text
from binance_oi.market.gap import Gap, add_gap
from binance_oi.web.events import KEEP_ALIVE, Cell, Event, Observation, Reading, View, lost, pick_of
from binance_oi.web.limits import Limits

LISTENERS_PER_STEP = 250  # listeners that the hub wakes before other tasks may run
TICK = 2.0  # s between two checks for idle or dead listeners, at most
KEPT_GAPS = 32  # gaps that the state of the market shows
UNKNOWN_S = 5.0  # s: our guess of the time until the first sweep
STALE_AFTER = 3.0  # periods without a sweep, after which the values are stale
NEVER = 0  # stands for no event; the first event has number 1


class Source(Protocol):
    """The origin of the values."""

    @property
    def name(self) -> str:
        """The exchange: ``production``, ``testnet``, ``local`` or a URL."""
        ...

    @property
    def usage(self) -> Usage | None:
        """The state of the budget at this moment; None if the source sends no requests."""
        ...

    def outcomes(self) -> AsyncGenerator[Reading | Gap, None]:
        """Yield a reading for each slot, or a gap of slots without a reading."""
        ...


class FullError(Exception):
    """The hub has as many listeners as it allows, or is closed."""


class Hub:
    """Reads one source, and passes its values to all listeners.

        hub = Hub(ClientSource(client))
        running = asyncio.create_task(hub.run())
        listener = hub.listen(View(("BTCUSDT", "ETHUSDT")))
        while (data := await listener.next()) is not None:
            ...  # bytes of `text/event-stream`

    It belongs to one event loop. Listeners with equal views share the bytes of the event that was
    encoded last.

    Args:
        source: The source to read.
        limits: How many events and listeners to keep, and when to end listeners that read nothing.
        on_values: Called with the new values of each sweep.
        wall: Returns Unix seconds.
    """

    def __init__(
        self,
        source: Source,
        *,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        on_values: Callable[[Mapping[str, Cell]], object] = lambda _: None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.source: Source = source
        self.cells: dict[str, Cell] = {}
        """The latest value of every symbol."""
        self.number: int = NEVER
        """The number of the latest event."""
        self.gaps: list[Gap] = []
        """The latest gaps."""
        self.is_closed: bool = False
        """Whether the hub is closed. Then each stream ends after its remaining events."""
        self.read_at: float | None = None
        """Loop time of the latest sweep; None before the first one."""
        self.period: int | None = None
        """The time from slot to slot, ms; None before the first sweep."""
        self._limits, self._wall, self._on_values = limits, wall, on_values
        self._epoch = ""  # part of event ids; made with the first event, so each fork has its own
        self._kept: deque[Event] = deque(maxlen=limits.kept_events)
        self._latest: Reading | None = None
        self._state: Event | None = None  # the state after event `number`; None until needed
        self._listeners: dict[Listener, None] = {}
        self._subscriptions: dict[View, _Subscription] = {}
        self._news = asyncio.Event()
        self._checking: asyncio.Task[None] | None = None

    # -- the source ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read the source until it ends or this call is cancelled; then end every stream.

        Listeners may still take the remaining events, and have `Limits.stalled` seconds for each.
        If the source raises an error, this call raises it.
        """
        self._checking = asyncio.create_task(self._check_listeners())
        try:
            async with aclosing(self.source.outcomes()) as outcomes:
                async for outcome in outcomes:
                    self.publish(outcome)
                    await self.wake()
        finally:
            self.close()
            if not self._listeners:
                await asyncio.wait([self._checking])

    def publish(self, outcome: Reading | Gap) -> None:
        """Make the next event. Listeners that wait get it after `wake`."""
        if not self.number:
            self._epoch = secrets.token_hex(4)
        self.number += 1
        if isinstance(outcome, Gap):
            add_gap(self.gaps, outcome, self.period or 0)
            del self.gaps[:-KEPT_GAPS]
            first, last, reason, _ = outcome  # omit the detail: it may contain the exchange's text
            event = self._event("gap", {"first": first, "last": last, "reason": reason})
        else:
            event = self._swept(outcome)
        self._kept.append(event)
        self._state = None
        self._news.set()

    async def wake(self) -> None:
        """Wake the waiting listeners, and let other tasks run in between."""
        for count, listener in enumerate(tuple(self._listeners), 1):
            listener.wake()
            if not count % LISTENERS_PER_STEP:
                await asyncio.sleep(0)

    def _swept(self, reading: Reading) -> Event:
        now = asyncio.get_running_loop().time()
        self.read_at = now - reading.age
        self.period = reading.next_slot - reading.slot
        new = {
            seen.value.symbol: cell
            for seen in reading.observations
            if (cell := self._news_of(seen, now)) is not None
        }
        read = {seen.value.symbol for seen in reading.observations}
        gone = [name for name in self.cells if name not in read and name not in reading.errors]
        for name in gone:
            del self.cells[name]
        self._latest = reading
        self._on_values(new)
        return self._event("sweep", self._fields(reading), new, reading.errors, gone)

    def _news_of(self, seen: Observation, now: float) -> Cell | None:
        """Return the new cell of an observation; None if its value is not new."""
        # The clock of a recorder may be ahead of ours, so an age may seem negative.
        age, symbol = max(0.0, self._wall() - seen.received / 1000), seen.value.symbol
        at = now - age
        known = self.cells.get(symbol)
        if known is not None and (known.value.time > seen.value.time or known.is_same(seen)):
            known.at = max(known.at, at)
            return None
        cell = self.cells[symbol] = Cell(seen, at)
        return cell

    def _event(
        self,
        kind: str,
        fields: Mapping[str, object],
        cells: Mapping[str, Cell] | None = None,
        errors: Mapping[str, str] | None = None,
        gone: Sequence[str] = (),
    ) -> Event:
        identity = f"{self._epoch}-{self.number}"
        return Event(self.number, kind, fields, identity, self._head(), cells, errors, gone)

    def _fields(self, reading: Reading) -> dict[str, object]:
        read = len(reading.observations)
        found = {"slot": reading.slot, "next_slot": reading.next_slot}
        return {**found, "asked": reading.asked, "read": read}

    def _head(self) -> bytes:
        period = None if self.period is None else self.period / 1000
        head = {"source": self.source.name, "every": period, "budget": self.source.usage}
        return json_text(head).encode()

    # -- the present state -------------------------------------------------------------------------

    @property
    def state(self) -> Event | None:
        """The whole market after the latest event; None before the first event."""
        if self._state is None and self.number:
            latest = self._latest
            fields = {} if latest is None else self._fields(latest)
            gaps = [
                {"first": gap.first, "last": gap.last, "reason": gap.reason} for gap in self.gaps
            ]
            errors = None if latest is None else latest.errors
            self._state = self._event("state", {**fields, "gaps": gaps}, dict(self.cells), errors)
        return self._state

    @property
    def now(self) -> float:
        """The time of the running loop."""
        return asyncio.get_running_loop().time()

    def age_of(self, at: float) -> int:
        """Return the whole seconds since `at`, loop time."""
        return max(0, math.floor(self.now - at))

    async def ready(self) -> None:
        """Wait for the first event, or until the hub is closed."""
        while not self.number and not self.is_closed:
            self._news.clear()
            await self._news.wait()

    @property
    def latest(self) -> Reading | None:
        """The latest sweep; None before the first one."""
        return self._latest

    def seconds_to_next(self) -> float:
        """Seconds until the next sweep is due, by the wall clock; a guess before the first one."""
        if self._latest is None:
            return max(UNKNOWN_S, self.seconds_held())
        return self._latest.next_slot / 1000 - self._wall()

    def seconds_held(self) -> float:
        """Seconds until the end of the cooldown, by the wall clock; 0 if there is none."""
        usage = self.source.usage
        until = None if usage is None else usage.held_until
        return 0.0 if until is None else max(0.0, until.timestamp() - self._wall())

    @property
    def is_stale(self) -> bool:
        """Whether there is no sweep, or the latest one is too old for its schedule."""
        if self.read_at is None or self.period is None:
            return True
        age = asyncio.get_running_loop().time() - self.read_at
        return age > STALE_AFTER * self.period / 1000

    # -- listeners -----------------------------------------------------------------------------

    @property
    def listeners(self) -> int:
        """The number of listeners."""
        return len(self._listeners)

    def listen(
        self,
        view: View = View(),  # noqa: B008 - a named tuple
        *,
        last_event_id: str = "",
        cut: Callable[[], object] | None = None,
        is_gone: Callable[[], bool] | None = None,
    ) -> "Listener":
        """Add a listener. Its stream begins after `last_event_id`, or else with the state.

        Args:
            view: The part of the market that the listener sees.
            last_event_id: The id of the last event that the listener has; empty if it has none.
            cut: Ends the listener's connection at once. The hub calls it if the listener takes
                nothing for `Limits.stalled` seconds.
            is_gone: Returns whether the listener's connection has ended.

        Raises:
            FullError: There are too many listeners, or the hub is closed.
        """
        if self.is_closed or len(self._listeners) >= self._limits.listeners:
            raise FullError
        view = self._shared(view)
        subscription = self._subscriptions.setdefault(view, _Subscription(view))
        subscription.listeners += 1
        listener = Listener(self, subscription, self._place(last_event_id), cut, is_gone)
        self._listeners[listener] = None
        return listener

    def forget(self, listener: "Listener") -> None:
        """Remove a listener."""
        if listener in self._listeners:
            del self._listeners[listener]
            subscription = listener.subscription
            subscription.listeners -= 1
            if not subscription.listeners:
                del self._subscriptions[subscription.view]
        self._end_checks()

    def _end_checks(self) -> None:
        """Stop checking listeners when the hub is closed and the last listener has left."""
        if self.is_closed and not self._listeners and self._checking is not None:
            self._checking.cancel()

    def close(self) -> None:
        """End every stream, after each listener has taken its remaining events."""
        self.is_closed = True
        self._news.set()
        for listener in tuple(self._listeners):
            listener.wake()
        self._end_checks()

    def after(self, number: int) -> Event | None:
        """Return the event after event `number`, which is not the latest; None if it is dropped."""
        index = number - self.number + len(self._kept)
        return self._kept[index] if index >= 0 else None

    def _shared(self, view: View) -> View:
        """Return the view with the hub's own name objects, so that listeners share the memory."""
        if view.names is None:
            return view
        cells = self.cells
        ours = (cells[name].value.symbol if name in cells else name for name in view.names)
        return view._replace(names=tuple(ours))

    def _place(self, last_event_id: str) -> int | None:
        """Return the number in an event id; `NEVER` for no id, None if it is not from this run."""
        epoch, _, number = last_event_id.partition("-")
        if not last_event_id:
            return NEVER
        if epoch != self._epoch or not (number.isascii() and number.isdigit()):
            return None
        return int(number) if 0 < len(number) < 16 and 0 < int(number) <= self.number else None

    async def _check_listeners(self) -> None:
        """Keep idle streams open; end a stream whose listener has gone or takes nothing."""
        while True:
            await asyncio.sleep(min(TICK, self._limits.keep_alive, self._limits.stalled))
            await self._check_each(self.now)

    async def _check_each(self, now: float) -> None:
        for count, listener in enumerate(tuple(self._listeners), 1):
            listener.check(now, self._limits)
            if not count % LISTENERS_PER_STEP:
                await asyncio.sleep(0)


class _Subscription:
    """All listeners with equal views. They share the bytes of the event encoded last."""

    __slots__ = ("_encoded", "_pick", "listeners", "view")

    def __init__(self, view: View) -> None:
        self.view: View = view
        self._pick = pick_of(view)
        self.listeners: int = 0
        self._encoded: tuple[Event, bytes] | None = None

    def encode(self, event: Event) -> bytes:
        """Return the bytes of the event for this view."""
        if self.listeners == 1:
            self._encoded = None
            return event.framed(self.view, self._pick)
        if self._encoded is None or self._encoded[0] is not event:
            self._encoded = event, event.framed(self.view, self._pick)
        return self._encoded[1]


class Listener:
    """One stream. `Hub.listen` makes it. Its owner calls `next` repeatedly, and `leave` at the end.

    Args:
        hub: Its hub.
        subscription: The listeners with the same view.
        place: The number of the last event that the listener has; `NEVER` if it has none; None if
            that event is from another run of the service.
        cut: See `Hub.listen`.
        is_gone: See `Hub.listen`.
    """

    __slots__ = (
        "_cut",
        "_hub",
        "_is_gone",
        "_is_over",
        "_place",
        "_waiter",
        "subscription",
        "taken_at",
    )

    def __init__(
        self,
        hub: Hub,
        subscription: _Subscription,
        place: int | None,
        cut: Callable[[], object] | None,
        is_gone: Callable[[], bool] | None,
    ) -> None:
        self.subscription: _Subscription = subscription
        self.taken_at: float = asyncio.get_running_loop().time()
        """Loop time at which it last took bytes, or began."""
        self._hub, self._place, self._cut, self._is_gone = hub, place, cut, is_gone
        self._waiter: asyncio.Future[bool] | None = None
        self._is_over = False

    async def next(self) -> bytes | None:
        """Wait for the next bytes of the stream; None at its end."""
        hub, loop = self._hub, asyncio.get_running_loop()
        while not self._is_over:
            if self._place != hub.number and (data := self._pending()) is not None:
                self.taken_at = loop.time()
                return data
            if hub.is_closed:
                break
            self._waiter = loop.create_future()
            try:
                is_idle = await self._waiter
            finally:
                self._waiter = None
            if is_idle and self._place == hub.number:
                self.taken_at = loop.time()
                return KEEP_ALIVE
        return None

    def leave(self) -> None:
        """End the stream; `next` returns None from now on."""
        self._is_over = True
        self._hub.forget(self)
        self.wake()

    def wake(self, *, is_idle: bool = False) -> None:
        """Let `next` check for an event again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(is_idle)

    def check(self, now: float, limits: Limits) -> None:
        """End the stream if its listener has gone or reads nothing; keep an idle stream open."""
        idle = now - self.taken_at
        if self._is_gone is not None and self._is_gone():
            self.leave()
        elif self._waiter is not None:
            if idle >= limits.keep_alive:
                self.wake(is_idle=True)
        elif idle >= limits.stalled:
            self.leave()
            if self._cut is not None:
                self._cut()

    def _pending(self) -> bytes | None:
        """Return the bytes of the next event; None before the first event.

        A new listener gets the state instead. A listener whose next event the hub no longer has
        gets the event `lost`, and then the state.
        """
        hub, place = self._hub, self._place
        event = None if place is None or place == NEVER else hub.after(place)
        if event is not None:
            self._place = event.number
            return self.subscription.encode(event)
        state, self._place = hub.state, hub.number
        if state is None:
            self._place = place
            return None
        data = self.subscription.encode(state)
        if place == NEVER:
            return data
        return lost(None if place is None else hub.number - place) + data
