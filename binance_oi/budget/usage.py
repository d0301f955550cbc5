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
    """Seconds after which the answer may differ; None if waiting does not help."""
    reason: Reason
    end: float | None = None
    """Seconds after which there should be room, for a caller who comes back only once. None if that
    equals `seconds`."""


class Wait(_Wait, Encodable):
    """The request may not be sent now."""

    __slots__ = ()


class _Receipt(NamedTuple):
    weight: int
    sent: float
    """Monotonic s of the charge, or of the sending if that is more than `PATIENCE` later."""
    first: int
    """The earliest minute in which the exchange may count the request."""
    last: int
    """The latest minute in which the exchange may count the request."""
    reported: int
    """The largest count of `first` before the request. The request's own count exceeds it."""
    probe: bool
    """Whether all other requests wait for its answer."""
    single: int = 0
    """`weight` for a single call, 0 for bulk work."""


class Receipt(_Receipt, Encodable):
    """What `charge` booked. Give it back exactly once: `settle`, `lose` or `refund` it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Encodable):
    """The budget at one moment, as far as we know it. Numbers are weight unless noted."""

    limit: int
    """Weight that the exchange allows in a minute."""
    used: int
    """The most that the exchange may have counted in this minute, for the whole IP address."""
    remaining: int
    """Weight that we may still send in this minute: limit less reserve less `used`, at least 0. It
    is less if our `share` or another limit of the exchange leaves less."""
    charged: int
    """The part of `used` that is ours: of everyone who shares this budget."""
    others: int
    """The part of `used` that is not ours."""
    in_flight: int
    """Our weight that no answer has confirmed yet."""
    reserve: int
    """Weight that we leave unused."""
    share: int
    """The most of the limit that we use ourselves, before the reserve is subtracted."""
    resets_at: datetime
    """The next rollover of the exchange's minute: aware UTC, by the exchange's clock."""
    held_until: datetime | None
    """The end of the cooldown, before which we send nothing; None if there is none."""
    banned_until: datetime | None
    """The end of the ban of this IP address; None if there is none."""
    sustained: float = math.inf
    """Weight per minute that we may use minute after minute, less the reserve, at least 0. The
    limit of the minute bounds it, and so do limits of other spans, such as per 10 s or per day. A
    budget always sets it, so it is finite, as JSON requires."""
    waiting_for: Mapping[Reason, int] = field(default_factory=dict[Reason, int], hash=False)
    """Calls of this client that wait to be sent, by reason; empty if none waits. The calls wait in
    one queue, so all of them have the reason of the first one. It is also empty in the usage of a
    budget, which knows no client."""
