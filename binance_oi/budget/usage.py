"""The values that a budget hands out. They decide nothing, and import nothing of ours."""

import math
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple


class Reason(StrEnum):
    """Why a request waits, or is never sent."""

    COOLDOWN = "cooldown"
    """The exchange refused a request; nothing is sent until an instant."""
    PROBE_PENDING = "probe_pending"
    """A probe is under way, or due at the rollover, and its count decides."""
    MINUTE_FULL = "minute_full"
    """The budget of a minute in which the request may be counted is used."""
    MINUTE_UNCERTAIN = "minute_uncertain"
    """The minute before may not be over, and has no room for what others may have used of it."""
    OTHERS = "others"
    """The rest of the minute is kept for other clients on this IP address."""
    SHARE = "share"
    """Our share of the limit is used."""
    STORE_BUSY = "store_busy"
    """Another process is changing the shared budget."""
    OTHER_LIMIT = "other_limit"
    """A limit of another span than a minute is used: per 10 s, per day."""
    TOO_HEAVY = "too_heavy"
    """The weight does not fit into any minute."""


class Wait(NamedTuple):
    """Not now."""

    seconds: float | None
    """After which the answer may differ; None: waiting does not help."""
    reason: Reason


class Receipt(NamedTuple):
    """What `charge` booked. It goes back exactly once, with the answer."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
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
    """What we may use in a minute, minute after minute, by the exchange's limits for other spans
    of time (per 10 s, per day), less reserve; never negative, and infinite without such a
    limit."""
