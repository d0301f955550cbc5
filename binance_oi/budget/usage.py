"""The values that a budget hands out. They decide nothing."""

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
    """After which the answer may differ; None: waiting does not help."""
    reason: Reason
    end: float | None = None
    """Seconds after which nothing is in the way any more, as far as is known, where the queue asks
    earlier: for a caller who comes back only once."""


class Wait(_Wait, Encodable):
    """Not now."""

    __slots__ = ()


class _Receipt(NamedTuple):
    weight: int
    sent: float
    """Monotonic s: when it was charged; when it was sent if that is `PATIENCE` later."""
    first: int
    """The earliest minute in which the request may be counted."""
    last: int
    """The latest one."""
    reported: int
    """The largest count of `first` when the request was sent: it is counted above that."""
    probe: bool
    """Everyone waits for its answer."""
    single: int = 0
    """`weight` for a single call, 0 for bulk work."""


class Receipt(_Receipt, Encodable):
    """What `charge` booked. It goes back exactly once, with the answer."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Encodable):
    """The budget at one moment, as far as we know it; weight unless said otherwise."""

    limit: int
    """Weight the exchange allows in a minute."""
    used: int
    """The most it may have counted in this minute, for the whole IP address."""
    remaining: int
    """What we may still send in this minute: limit less reserve less used, never negative; not
    more than is left of `share`, and not more than any other limit of the exchange leaves now."""
    charged: int
    """The part of `used` that is ours (of everyone who shares this budget)."""
    others: int
    """The part of `used` that is not ours."""
    in_flight: int
    """Ours that no answer has confirmed yet."""
    reserve: int
    """What we leave unused."""
    share: int
    """The most of the limit that we use ourselves; the reserve is not taken off."""
    resets_at: datetime
    """When the exchange's minute turns (aware UTC, by the exchange's clock)."""
    held_until: datetime | None
    """Nothing is sent before this instant; None when nothing is held."""
    banned_until: datetime | None
    """The end of a ban of this IP address; None when there is none."""
    sustained: float = math.inf
    """What we may use in a minute, minute after minute, less reserve: by the limit of a minute, and
    by the exchange's limits for other spans of time (per 10 s, per day); never negative. A budget
    always knows it, so it is finite, as JSON needs it."""
    waiting_for: Mapping[Reason, int] = field(default_factory=dict[Reason, int], hash=False)
    """Calls of this client that wait to be sent, by what they wait for; empty when none waits.
    They stand in one queue, so all of them wait for what the first one waits for. The usage of a
    budget that no client was asked for has none."""
