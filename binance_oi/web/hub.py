"""One poller, any number of listeners.

The rule of this file: a listener is a place in one row of events. The hub keeps the latest events
once, for everybody, and each listener says which one comes next for it. So a listener that does not
read costs nothing and delays nobody: when its next event is no longer kept, it gets the number of
events that it lost, and then the state of the market. `Last-Event-ID` is the same place, carried by
the listener from one connection to the next.
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

SLICE = 250  # listeners that the hub wakes before it lets other work run
TICK = 2.0  # s between two looks at what listeners need besides events
KEPT_GAPS = 32
UNKNOWN_S = 5.0  # s until the first sweep, as long as nobody knows
STALE_AFTER = 3.0  # periods without a sweep
NEVER = 0  # the number before that of the first event


class Source(Protocol):
    """Where values come from."""

    @property
    def name(self) -> str:
        """The exchange: ``production``, ``testnet``, ``local`` or a URL."""
        ...

    @property
    def usage(self) -> Usage | None:
        """The budget at this moment; None when the source sends nothing."""
        ...

    def outcomes(self) -> AsyncGenerator[Reading | Gap, None]:
        """Yield what was read for each slot, or the gap of slots for which nothing was."""
        ...


class FullError(Exception):
    """There are as many listeners as the service allows."""


class Hub:
    """Reads one source, and hands out what it reads.

        hub = Hub(ClientSource(client))
        running = asyncio.create_task(hub.run())
        listener = hub.listen(View(("BTCUSDT", "ETHUSDT")))
        while (data := await listener.next()) is not None:
            ...  # bytes of `text/event-stream`

    It belongs to one event loop. Encoding costs once for each event and each different view.

    Args:
        source: What to read.
        limits: How many events are kept, and how many listeners there may be.
        on_values: Called with the new values of each sweep.
        wall: Unix seconds.
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
        """Of the latest event."""
        self.gaps: list[Gap] = []
        """The latest slots without a sweep."""
        self.is_closed: bool = False
        self.read_at: float | None = None
        """Loop time of the latest sweep; None while there was none."""
        self.period: int | None = None
        """From slot to slot, ms, as far as it is known."""
        self._limits, self._wall, self._on_values = limits, wall, on_values
        self._epoch = secrets.token_hex(4)
        self._kept: deque[Event] = deque(maxlen=limits.kept_events)
        self._latest: Reading | None = None
        self._state: Event | None = None  # of `number`
        self._listeners: dict[Listener, None] = {}
        self._subscriptions: dict[View, _Subscription] = {}
        self._news = asyncio.Event()
        self._caring: asyncio.Task[None] | None = None

    # -- the source ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read the source until it ends, or this call is cancelled; then end every stream.

        A listener still takes what it has not taken yet, and has `Limits.stalled` for each event.
        Raises whatever ends the source.
        """
        self._caring = asyncio.create_task(self._care())
        try:
            async with aclosing(self.source.outcomes()) as outcomes:
                async for outcome in outcomes:
                    self.publish(outcome)
                    await self.wake()
        finally:
            self.close()
            if not self._listeners:
                await asyncio.wait([self._caring])

    def publish(self, outcome: Reading | Gap) -> None:
        """Make the next event; the listeners get it after `wake`."""
        self.number += 1
        if isinstance(outcome, Gap):
            add_gap(self.gaps, outcome, self.period or 0)
            del self.gaps[:-KEPT_GAPS]
            first, last, reason, _ = outcome  # the detail may hold text of the exchange
            event = self._event("gap", {"first": first, "last": last, "reason": reason})
        else:
            event = self._swept(outcome)
        self._kept.append(event)
        self._state = None
        self._news.set()

    async def wake(self) -> None:
        """Wake the listeners that wait; other work runs in between."""
        for count, listener in enumerate(tuple(self._listeners), 1):
            listener.wake()
            if not count % SLICE:
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
        """The new cell of an observation; None if it says nothing new."""
        # The clock of a recorder may be ahead of ours: no value is newer than now.
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

    # -- what there is now -------------------------------------------------------------------------

    @property
    def state(self) -> Event | None:
        """The whole market as of the latest event; None while there was none."""
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
        """Whole seconds since `at`, loop time."""
        return max(0, math.floor(self.now - at))

    async def ready(self) -> None:
        """Wait until there was an event."""
        while not self.number and not self.is_closed:
            self._news.clear()
            await self._news.wait()

    @property
    def latest(self) -> Reading | None:
        """The latest sweep; None while there was none."""
        return self._latest

    def seconds_to_next(self) -> float:
        """Seconds until the next sweep is due, on the wall clock; a guess before the first one."""
        if self._latest is None:
            return max(UNKNOWN_S, self.seconds_held())
        return self._latest.next_slot / 1000 - self._wall()

    def seconds_held(self) -> float:
        """Seconds for which the exchange takes no requests, on the wall clock; 0 if it does."""
        usage = self.source.usage
        until = None if usage is None else usage.held_until
        return 0.0 if until is None else max(0.0, until.timestamp() - self._wall())

    @property
    def is_stale(self) -> bool:
        """Whether the latest sweep is too old for its schedule."""
        if self.read_at is None or self.period is None:
            return True
        age = asyncio.get_running_loop().time() - self.read_at
        return age > STALE_AFTER * self.period / 1000

    # -- listeners -----------------------------------------------------------------------------

    @property
    def listeners(self) -> int:
        """How many there are."""
        return len(self._listeners)

    def listen(
        self,
        view: View = View(),  # noqa: B008 - a named tuple
        *,
        last_event_id: str = "",
        cut: Callable[[], object] | None = None,
        is_gone: Callable[[], bool] | None = None,
    ) -> "Listener":
        """Add a listener. It gets the state first, or what came after its last event.

        Args:
            view: What it sees.
            last_event_id: The id of the last event that it has; empty if it has none.
            cut: Ends its connection at once; called when it took nothing for `Limits.stalled`.
            is_gone: Whether its connection has ended.

        Raises:
            FullError: There are too many.
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
        self._end_care()

    def _end_care(self) -> None:
        """End the care after the last listener; one that does not read still needs it."""
        if self.is_closed and not self._listeners and self._caring is not None:
            self._caring.cancel()

    def close(self) -> None:
        """End every stream, after the events that a listener has not taken yet."""
        self.is_closed = True
        self._news.set()
        for listener in tuple(self._listeners):
            listener.wake()
        self._end_care()

    def after(self, number: int) -> Event | None:
        """The event after that of this number; None if it is not kept."""
        index = number - self.number + len(self._kept)
        return self._kept[index] if index >= 0 else None

    def _shared(self, view: View) -> View:
        """The view, with our own copies of the names: they are the same for all listeners."""
        if view.names is None:
            return view
        cells = self.cells
        ours = (cells[name].value.symbol if name in cells else name for name in view.names)
        return view._replace(names=tuple(ours))

    def _place(self, last_event_id: str) -> int | None:
        """The number in an id of this run; None if it is of another one, `NEVER` without any."""
        epoch, _, number = last_event_id.partition("-")
        if not last_event_id:
            return NEVER
        if epoch != self._epoch or not (number.isascii() and number.isdigit()):
            return None
        return int(number) if 0 < len(number) < 16 and 0 < int(number) <= self.number else None

    async def _care(self) -> None:
        """Keep idle streams open, and end those whose listener is gone or takes nothing."""
        while True:
            await asyncio.sleep(min(TICK, self._limits.keep_alive, self._limits.stalled))
            await self._care_for_each(self.now)

    async def _care_for_each(self, now: float) -> None:
        for count, listener in enumerate(tuple(self._listeners), 1):
            listener.care(now, self._limits)
            if not count % SLICE:
                await asyncio.sleep(0)


class _Subscription:
    """All listeners with one view. They share the bytes of the latest event."""

    __slots__ = ("_encoded", "_pick", "listeners", "view")

    def __init__(self, view: View) -> None:
        self.view: View = view
        self._pick = pick_of(view)
        self.listeners: int = 0
        self._encoded: tuple[Event, bytes] | None = None

    def encode(self, event: Event) -> bytes:
        """The event as this view has it."""
        if self.listeners == 1:
            self._encoded = None
            return event.framed(self.view, self._pick)
        if self._encoded is None or self._encoded[0] is not event:
            self._encoded = event, event.framed(self.view, self._pick)
        return self._encoded[1]


class Listener:
    """One stream. The hub makes it; its owner calls `next` again and again, and `leave` at the end.

    Args:
        hub: Its hub.
        subscription: The listeners with the same view.
        place: The number of the last event that it has; None if that is of another run.
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
        """Loop time at which it took something last."""
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
        """Let `next` look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(is_idle)

    def care(self, now: float, limits: Limits) -> None:
        """End the stream if nobody reads it; keep it open if nothing happens."""
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
        """The next event that this listener does not have; None while there was none."""
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
