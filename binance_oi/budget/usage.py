"""The values that a budget returns.

The rule of this file: values decide nothing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from binance_oi.encoding import Encodable
from binance_oi.errors import Reason

__all__ = ["Reason", "Receipt", "Usage", "Wait"]


class _Wait(NamedTuple):
    seconds: float | None
    """Seconds after which the budget may answer differently; None if waiting does not help."""
    reason: Reason
    """Why the request may not be sent now."""
    end: float | None = None
    """Seconds after which there should be room. A caller that asks only once more waits that long.
    If None, there should be room after `seconds`."""


class Wait(_Wait, Encodable):
    """The answer of a budget: the request may not be sent now."""

    __slots__ = ()


class _Receipt(NamedTuple):
    weight: int
    """The weight of the request."""
    sent: float
    """Monotonic s: when the request was charged, or when it was written to the wire, if that was
    more than `PATIENCE` seconds after the charge."""
    first: int
    """The earliest minute in which the exchange may count the request."""
    last: int
    """The latest minute in which the exchange may count the request."""
    reported: int
    """The largest count of minute `first` that we knew when the request was sent. If that minute
    counts the request, the answer reports a higher count, unless the answer comes from a node that
    lags behind."""
    probe: bool
    """Whether the request is a probe: all others wait up to `PROBE_PATIENCE` s for its answer."""
    bulk: bool = True
    """Whether the request is bulk work, and not a single call."""


class Receipt(_Receipt, Encodable):
    """The proof of a charge.

    Give it back to the pool exactly once: with `settle`, `settle_refused`, `lose` or `refund`.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Encodable):
    """The state of a budget at one moment, as far as we know it.

    Numbers are weight in this minute. For a limit that no header reports, they are requests in the
    window of that limit (`rolling`).
    """

    limit: int
    """Weight that the exchange allows in a minute."""
    used: int
    """The most that the exchange may have counted in this minute, for the whole IP address."""
    remaining: int
    """Weight that we may still send in this minute: `limit` less `reserve` less `used`, at least 0.
    It is lower if our `share`, or another limit of the exchange, leaves less."""
    charged: int
    """The part of `used` that belongs to the clients that share this budget."""
    others: int
    """The part of `used` that belongs to other clients on the IP address."""
    in_flight: int
    """The part of `charged` that no count has confirmed yet."""
    reserve: int
    """Weight that we leave unused."""
    share: int
    """The most of `limit` that the clients of this budget may use together. The reserve still
    applies: except for probes, they never use more than `limit` less `reserve`."""
    resets_at: datetime
    """When the exchange's next minute begins and its count starts again from 0: aware UTC, by the
    exchange's clock. For a limit without a header: when the window is empty if we send no more."""
    held_until: datetime | None
    """The end of the cooldown, in which we send nothing; None if there is no cooldown."""
    banned_until: datetime | None
    """The end of the ban of this IP address; None if there is no ban."""
    sustained: float = math.inf
    """Weight per minute that we may use every minute, the reserve already subtracted, at least 0.
    Every limit of the exchange bounds it: that of a minute, and those of other spans, such as 10 s
    or a day. A budget always sets a finite value, because JSON knows no infinity."""
    waiting_for: Mapping[Reason, int] = field(default_factory=dict[Reason, int], hash=False)
    """How many calls of this client wait to be sent, by reason; empty if none waits. All of them
    count under the reason of the call that goes next. A budget serves many clients and does not
    know their calls, so the mapping is empty in the usage that a budget returns."""
