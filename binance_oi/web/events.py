"""Makes the events of a stream: new values, gaps, and the state of the market.

The rule of this file: no I/O and no clock. The service encodes each value once for each form of
decimals, however many listeners there are. Listeners with equal views share the bytes of an event.
An event `sweep` has only new values. If the time of a value is earlier than before, the value comes
from an older answer, so the event omits it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from decimal import Decimal
from operator import itemgetter
from typing import Final, NamedTuple

import msgspec

from binance_oi.encoding import Decimals, json_text
from binance_oi.exchange.models import OpenInterest
from binance_oi.market.rows import digits, notional

OPENING: Final = b"retry: 2000\n\n"  # a browser connects again 2000 ms after the stream ends
KEEP_ALIVE: Final = b":\n\n"

_ENCODER: Final = msgspec.json.Encoder()


class Observation(NamedTuple):
    """A value that a source has read."""

    value: OpenInterest
    """The value."""
    mark_price: Decimal | None
    """The mark price; None if the source does not read it."""
    received: int
    """When the answer came, Unix ms."""


class Reading(NamedTuple):
    """The values that a source has read for one slot."""

    slot: int
    """The slot, Unix ms."""
    next_slot: int
    """The next slot, Unix ms."""
    asked: int
    """The number of symbols that the sweep requested."""
    observations: Sequence[Observation]
    """The values."""
    errors: Mapping[str, str]
    """For each symbol without a value, the reason: a word of `binance_oi.market.gap`."""
    age: float = 0.0
    """Seconds since the sweep ended. This is a long time if a recorder stopped long ago."""


class View(NamedTuple):
    """The part of the market that a listener sees, and its form."""

    names: tuple[str, ...] | None = None
    """The symbols, in the order of the request; None for the whole market."""
    decimals: Decimals = "text"
    """Whether JSON has decimals as text or as numbers."""
    head: bool = False
    """Whether each event also contains the source, the schedule and the budget."""


Pick = Callable[[Mapping[str, bytes]], Sequence[bytes]]


def pick_of(view: View) -> Pick | None:
    """Return a fast function that selects the values of a view from a mapping, in order.

    The function raises `KeyError` if the mapping lacks one of them. Views of one symbol or of the
    whole market need no such function; for these, the result is None.
    """
    names = view.names
    return None if names is None or len(names) < 2 else itemgetter(*names)


class Cell:
    """The latest value of one symbol, and its JSON.

    Args:
        seen: The observation.
        at: When the answer came, loop time.
    """

    __slots__ = ("_encoded", "at", "mark_price", "value")

    def __init__(self, seen: Observation, at: float) -> None:
        self.value: OpenInterest = seen.value
        self.mark_price: Decimal | None = seen.mark_price
        self.at: float = at
        """Loop time of the latest answer with this value."""
        self._encoded: dict[Decimals, bytes] = {}

    def is_same(self, seen: Observation) -> bool:
        """Whether `seen` has the same value and the same mark price."""
        return self.value == seen.value and self.mark_price == seen.mark_price

    def encoded(self, decimals: Decimals) -> bytes:
        """Return the value as JSON."""
        known = self._encoded.get(decimals)
        if known is None:
            known = self._encoded[decimals] = self._encode(decimals)
        return known

    def _encode(self, decimals: Decimals) -> bytes:
        value, price = self.value, self.mark_price
        if decimals == "text" and price is None:  # the usual case, so it has to be fast
            text = digits(value.open_interest)
            return _ENCODER.encode(_Plain(value.symbol, text, value.time))
        if price is None:
            return value.to_json(decimals=decimals).encode()
        usd = notional(value.open_interest, price)
        found = {"symbol": value.symbol, "open_interest": value.open_interest, "time": value.time}
        return json_text(
            {**found, "mark_price": price, "notional": usd}, decimals=decimals
        ).encode()


class _Plain(msgspec.Struct):
    """A value with its decimal as text."""

    symbol: str
    open_interest: str
    time: int


class Event:
    """One event: new values, a gap, or the state of the market.

    Args:
        number: The number of the event; each event has a higher number than the one before.
        kind: The name of the event in the stream: ``state``, ``sweep`` or ``gap``.
        fields: The fields that are the same in every view.
        identity: The id of the event in the stream.
        head: The JSON of the source, the schedule and the budget.
        cells: Values by symbol; None for a gap.
        errors: For each symbol without a value, the reason.
        gone: Symbols that are no longer in the market.
    """

    __slots__ = (
        *("_errors", "_fields", "_gone", "_head", "_intro", "_texts"),
        *("cells", "kind", "number"),
    )

    def __init__(
        self,
        number: int,
        kind: str,
        fields: Mapping[str, object],
        identity: str,
        head: bytes,
        cells: Mapping[str, Cell] | None = None,
        errors: Mapping[str, str] | None = None,
        gone: Sequence[str] = (),
    ) -> None:
        self.number: int = number
        self.kind: str = kind
        self.cells: Mapping[str, Cell] | None = cells
        self._errors: Mapping[str, str] = errors or {}
        self._gone = gone
        self._texts: dict[Decimals, dict[str, bytes]] = {}
        self._head = head
        self._fields = json_text(fields)[:-1].encode()
        self._intro = f"id: {identity}\nevent: {kind}\ndata: ".encode()

    def with_cells(self, cells: Mapping[str, Cell]) -> "Event":
        """Return a copy of this event with other values."""
        event = copy(self)
        event.cells, event._texts = cells, {}
        return event

    def framed(self, view: View, pick: Pick | None = None) -> bytes:
        """Return the bytes of the event in a stream.

        Args:
            view: The view of the listener.
            pick: The result of `pick_of` for this view, which makes the call faster.
        """
        return b"".join((self._intro, *self._parts(view, pick), b"\n\n"))

    def data(self, view: View) -> bytes:
        """Return the event as JSON."""
        return b"".join(self._parts(view, None))

    def _parts(self, view: View, pick: Pick | None) -> Sequence[bytes]:
        head = b',"head":%b' % self._head if view.head else b""
        if self.cells is None:
            return self._fields, head, b"}"
        values = b",".join(self._seen(view, pick))
        if view.names is not None and not (self._errors or self._gone or self.kind == "state"):
            return self._fields, head, b',"values":[', values, b"]}"
        return self._fields, head, b',"values":[', values, b"]", self._rest(view.names), b"}"

    def _seen(self, view: View, pick: Pick | None) -> Iterable[bytes]:
        """Return the JSON of each value in a view."""
        texts = self._encoded(view.decimals)
        if view.names is None:
            return texts.values()
        if pick is not None:
            try:
                return pick(texts)
            except KeyError:  # one of them has no new value
                pass
        return [texts[name] for name in view.names if name in texts]

    def _encoded(self, decimals: Decimals) -> dict[str, bytes]:
        """Return the JSON of every value, by symbol."""
        texts = self._texts.get(decimals)
        if texts is None:
            cells = self.cells or {}
            texts = {name: cell.encoded(decimals) for name, cell in cells.items()}
            self._texts[decimals] = texts
        return texts

    def _rest(self, names: tuple[str, ...] | None) -> bytes:
        """Return the JSON fields after the values; usually, there are none."""
        errors, gone, rest = self._errors, self._gone, b""
        if names is not None and (errors or gone):
            errors = {name: errors[name] for name in names if name in errors}
            gone = [name for name in gone if name in names]
        if errors:
            rest += b',"errors":%b' % json_text(errors).encode()
        if gone:
            rest += b',"gone":%b' % json_text(gone).encode()
        if self.kind == "state" and names is not None and self.cells is not None:
            absent = [name for name in names if name not in self.cells and name not in errors]
            rest += b',"absent":%b' % json_text(absent).encode() if absent else b""
        return rest


def lost(events: int | None) -> bytes:
    """Return the event that reports lost events to a listener; the state follows it.

    Args:
        events: The number of lost events; None if it is unknown because the service has restarted.
    """
    return f"event: lost\ndata: {json_text({'events': events})}\n\n".encode()
