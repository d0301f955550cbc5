"""What happens in the market, as events of a stream.

The rule of this file: no I/O and no clock. A value is encoded once, whatever the number of
listeners; an event is encoded once for each different view of it. A delta has only values that are
new: a value whose time goes back is an older answer, and is left out.
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

OPENING: Final = b"retry: 2000\n\n"  # ms until a browser connects again
KEEP_ALIVE: Final = b":\n\n"

_ENCODER: Final = msgspec.json.Encoder()


class Observation(NamedTuple):
    """A value that a source read."""

    value: OpenInterest
    mark_price: Decimal | None
    received: int
    """When the answer came, Unix ms."""


class Reading(NamedTuple):
    """What a source read for one slot."""

    slot: int
    """Unix ms."""
    next_slot: int
    """When the next one is due, Unix ms."""
    asked: int
    """The number of symbols that the sweep asked for."""
    observations: Sequence[Observation]
    errors: Mapping[str, str]
    """Why a symbol has no value: a word of `binance_oi.market.gap`."""
    age: float = 0.0
    """Seconds since the sweep ended: a recording may have stopped long ago."""


class View(NamedTuple):
    """Which part of the market a listener sees, and in which form."""

    names: tuple[str, ...] | None = None
    """Symbols in the order of the request; None is the whole market."""
    decimals: Decimals = "text"
    head: bool = False
    """Whether each event has the source, the schedule and the budget as well."""


Pick = Callable[[Mapping[str, bytes]], Sequence[bytes]]


def pick_of(view: View) -> Pick | None:
    """A function that takes the values of a view out of a mapping, in order; None if there is none.

    It raises `KeyError` when the mapping does not have all of them.
    """
    names = view.names
    return None if names is None or len(names) < 2 else itemgetter(*names)


class Cell:
    """The latest value of one symbol, and its JSON.

    Args:
        seen: The value.
        at: Loop time at which the answer came.
    """

    __slots__ = ("_encoded", "at", "mark_price", "value")

    def __init__(self, seen: Observation, at: float) -> None:
        self.value: OpenInterest = seen.value
        self.mark_price: Decimal | None = seen.mark_price
        self.at: float = at
        """Loop time of the latest answer with this value."""
        self._encoded: dict[Decimals, bytes] = {}

    def is_same(self, seen: Observation) -> bool:
        """Whether `seen` is the same value."""
        return self.value == seen.value and self.mark_price == seen.mark_price

    def encoded(self, decimals: Decimals) -> bytes:
        """The value as JSON."""
        known = self._encoded.get(decimals)
        if known is None:
            known = self._encoded[decimals] = self._encode(decimals)
        return known

    def _encode(self, decimals: Decimals) -> bytes:
        value, price = self.value, self.mark_price
        if decimals == "text" and price is None:  # nearly always, and for the whole market
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
    """A value whose decimal is text already."""

    symbol: str
    open_interest: str
    time: int


class Event:
    """One event: values, or slots without any.

    Args:
        number: Its place among the events.
        kind: Its name in the stream: ``state``, ``sweep`` or ``gap``.
        fields: What every view has.
        identity: Its id in the stream.
        head: The JSON of the head.
        cells: Values by symbol; None when it has none.
        errors: Why a symbol has no value.
        gone: Symbols that left the market.
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
        """This event with other values."""
        event = copy(self)
        event.cells, event._texts = cells, {}
        return event

    def framed(self, view: View, pick: Pick | None = None) -> bytes:
        """The event as a stream has it.

        Args:
            view: Who sees it.
            pick: Takes the names of the view out of a mapping; it may be kept, and is faster.
        """
        return b"".join((self._intro, *self._parts(view, pick), b"\n\n"))

    def data(self, view: View) -> bytes:
        """The event as JSON."""
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
        """The values of a view."""
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
        """Every value as JSON, by symbol."""
        texts = self._texts.get(decimals)
        if texts is None:
            cells = self.cells or {}
            texts = {name: cell.encoded(decimals) for name, cell in cells.items()}
            self._texts[decimals] = texts
        return texts

    def _rest(self, names: tuple[str, ...] | None) -> bytes:
        """What a view has after its values; mostly nothing."""
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
    """What a listener gets in place of events that it lost; the state follows.

    Args:
        events: How many; None when the number is not known, because the service was restarted.
    """
    return f"event: lost\ndata: {json_text({'events': events})}\n\n".encode()
