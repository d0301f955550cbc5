"""All that is known of one IP address: plain numbers, so that processes can share them."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from binance_oi.budget.demand import Demand
from binance_oi.budget.ledger import Ledger
from binance_oi.budget.others import Forecast, Others
from binance_oi.budget.server_clock import MINUTE, ServerClock
from binance_oi.budget.tuning import (
    BLIND_AFTER,
    EARLY,
    FAIR,
    FEW,
    FEW_SHARE,
    FLIGHT,
    MEMORY,
    WHOLE,
)
from binance_oi.budget.window import Window

UNKNOWN = -math.inf


@dataclass(slots=True)
class Known:
    """Times with `_at` are monotonic seconds, those with `_until` are Unix s of the exchange."""

    limit: int
    clock: ServerClock
    ledger: Ledger = field(default_factory=Ledger)
    others: Others = field(default_factory=Others)
    cooldown_until: float = 0.0
    """Nothing is sent before; 0.0: there is none."""
    banned_until: float = 0.0
    """The same, when the exchange calls it a ban."""
    counted_at: float = UNKNOWN
    """When the latest request was sent whose count we know; `UNKNOWN`: we have seen none since the
    start or the last cooldown."""
    probe_ends_at: float = UNKNOWN
    """Until then everyone waits for a probe: for its answer, or, when no count could tell which
    minute it is of, for the moment from which the next one can."""
    silent: int = 0
    """Answers in a row without a usable count."""
    windows: list[Window] = field(default_factory=list[Window])
    """Of the limits of other spans than a minute."""
    demands: list[Demand] = field(default_factory=list[Demand])
    """What pollers are going to need; no rule reads it."""

    @property
    def is_blind(self) -> bool:
        """Whether no count comes any more, so that only our books are left."""
        return self.silent >= BLIND_AFTER

    @property
    def few(self) -> int:
        """Weight of others that means nothing: a listing, a ping."""
        return max(FEW, int(FEW_SHARE * self.limit))

    def is_held(self, now: float) -> bool:
        """Whether a cooldown is not over for certain."""
        return not self.clock.is_over(self.cooldown_until, now)

    def start_again(self, after: ServerClock, now: float) -> None:
        """Go on by a clock that contradicts the one so far; no weight and no hold is lost.

        Nobody knows which minute of the new clock holds what is live by the old one, so each
        minute that may be on holds all of it. A hold keeps the time that it has left: as an instant
        it would end at once, or hours late.
        """
        ledger, others = self.ledger, self.others
        live = max((m.used for k, m in ledger.minutes.items() if k >= ledger.newest), default=0)
        left = others.expected_until - self.clock.latest(now)
        self.cooldown_until = self.clock.carried(self.cooldown_until, now, after)
        self.banned_until = self.clock.carried(self.banned_until, now, after)
        others.expected_until = after.latest(now) + left if left >= 0 else -1
        others.curves.clear()  # of minutes that do not come again
        self.clock.start_again(after.lo, after.hi)
        self.counted_at, ledger.newest = UNKNOWN, after.earliest(now)
        ledger.keep(ledger.newest, after.latest(now))
        for minute in ledger.minutes.values():
            minute.booked = max(minute.booked, live)

    def span(self, now: float) -> tuple[int, int, int]:
        """The minutes in which a request sent now may be counted: earliest, likeliest, latest."""
        clock = self.clock
        first, last = int((now + clock.lo) // MINUTE), int((now + clock.hi + FLIGHT) // MINUTE)
        if self.ledger.newest > first:
            first = self.ledger.newest
        if first >= last:
            return first, first, first
        return first, min(max(first, clock.likeliest(now)), last), last

    def of_copies(self, k: int) -> float:
        """What others used early in minute `k`, if they may be copies of us; 0 if not.

        Copies use up a minute early, with us, or more than the part of one of them; and never more
        than the limit.
        """
        early = self.others.curve(k, self.limit).at(EARLY, 0.0)
        is_used_up = early + self.ledger.minute(k).booked >= WHOLE * self.limit
        if not is_used_up and early <= FAIR * self.limit:
            return 0.0
        most = max(self.ledger.minute(j).reported for j in range(k - MEMORY, k + 1))
        return early if most <= self.limit else 0.0

    def is_in_a_crowd(self, k: int) -> bool:
        """Whether copies of us used more of minute `k` than the part of a single one."""
        return self.of_copies(k) > FAIR * self.limit

    def unseen(self, now: float, k: int) -> float:
        """Weight that others may have used of minute `k` since our last count."""
        gap = max(0.0, min(now - self.counted_at, self.clock.into(now, k)))
        return self.others.unseen(k, self.limit, gap)


class Parts(NamedTuple):
    """What a budget was asked for: shares of the limit when `float`, weight when `int`."""

    reserve: float
    share: float
    interactive: float

    def of(self, limit: int) -> tuple[int, int, int]:
        """Their weight. Shares of a small limit leave 1."""
        given = self.reserve
        reserve = given if isinstance(given, int) else min(math.ceil(given * limit), limit - 1)
        return reserve, max(1, int(self.share * limit)), int(self.interactive * limit)


class Ask(NamedTuple):
    """One request that wants to be sent, and the bounds that it must keep. Weight, and minutes."""

    now: float
    """Monotonic s."""
    weight: int
    first: int
    """The earliest minute in which the exchange may count it."""
    likeliest: int
    last: int
    """The latest one."""
    reserve: int
    """Weight that we leave unused."""
    budget: int
    """The most that a minute may reach, for the whole IP address."""
    share: int
    """The most of the limit that is our own weight."""
    forecast: Forecast
    """The latest one, which stands for a while: see `FORECAST_AGE`."""
    bulk: bool = False
    """Whether it leaves single calls their part of the minute."""
    interactive: int = 0
    """The most that we leave them."""
