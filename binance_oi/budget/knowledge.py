"""Everything we know about one IP address, as plain numbers that processes can share.

Pure. The rule of this file: a field is a number or a container of numbers, and `now` is always an
argument.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from binance_oi.budget.demand import Demand
from binance_oi.budget.ledger import Ledger
from binance_oi.budget.others import Forecast, Others
from binance_oi.budget.server_clock import MINUTE, ServerClock
from binance_oi.budget.tuning import (
    AT_ONCE,
    BLIND_AFTER,
    BLIND_FOR,
    DISTRUST,
    EARLY,
    FAIR,
    FLIGHT,
    MEMORY,
    NEGLIGIBLE_SHARE,
    NEGLIGIBLE_WEIGHT,
    POLL,
    WHOLE,
)
from binance_oi.budget.window import Window
from binance_oi.exchange.limits import Limit

UNKNOWN = -math.inf


@dataclass(slots=True)
class Known:
    """What we know about one IP address.

    Names that end with `_at` are monotonic seconds. Names that end with `_until` are Unix seconds
    by the exchange's clock, or minutes of it if they are `int`.
    """

    limit: int
    """Weight that the exchange allows in a minute, or a lower limit that a refusal showed."""
    clock: ServerClock
    ledger: Ledger = field(default_factory=Ledger)
    others: Others = field(default_factory=Others)
    cooldown_until: float = 0.0
    """The end of the cooldown, before which we send nothing; 0.0 if there is none."""
    banned_until: float = 0.0
    """The same for a cooldown that the exchange calls a ban."""
    counted_at: float = UNKNOWN
    """When we sent the newest request whose count we know; `UNKNOWN` if no count came since the
    start or since the last cooldown."""
    probe_ends_at: float = UNKNOWN
    """Until then all requests wait for a probe. They wait for its answer. If the answer does not
    show which minute its count belongs to, they wait until the next probe can show it."""
    silent: int = 0
    """Answers in a row without a usable count."""
    windows: list[Window] = field(default_factory=list[Window])
    """Our use of each limit of another span than a minute."""
    demands: list[Demand] = field(default_factory=list[Demand])
    """The weight that pollers plan to use; no rule reads it."""
    cautious_until: float = math.inf
    """Monotonic s until which we send evenly: 60 s after the first answer that follows a start, a
    ban, or `IDLE` minutes without an answer. Infinite until that answer comes."""
    after_ban: bool = False
    """Whether a ban is the reason to send evenly."""
    announced: int = 0
    """The limit that the exchange announces, while we obey a lower one; otherwise 0."""
    lowered_until: int = 0
    """The last minute in which we obey the lower limit."""
    rolling_until: int = 0
    """The last minute in which we take the exchange's count for that of the last 60 s."""

    @property
    def is_blind(self) -> bool:
        """Whether answers no longer have counts, so that we have only our own books."""
        return self.silent >= BLIND_AFTER

    @property
    def negligible(self) -> int:
        """Weight of others that is too small to matter, such as a ping."""
        return max(NEGLIGIBLE_WEIGHT, int(NEGLIGIBLE_SHARE * self.limit))

    def is_rolling(self, k: int) -> bool:
        """Whether we take the exchange's count in minute `k` for that of the last 60 s."""
        return k <= self.rolling_until

    def is_held(self, now: float) -> bool:
        """Whether there is a cooldown that is not certainly over."""
        return not self.clock.is_over(self.cooldown_until, now)

    def announce(self, limit: int) -> None:
        """Adopt the limit that the exchange announced, unless a refusal showed a lower one."""
        if self.announced:
            self.announced, limit = limit, min(limit, self.limit)
        self.limit = limit

    def miss_count(self, now: float) -> None:
        """Note an answer without a count. Rare counts do not make us blind: we wait for them."""
        is_rare = now <= self.counted_at + BLIND_FOR
        self.silent = min(self.silent + 1, BLIND_AFTER - is_rare)

    def lower(self, limit: int, k: int) -> None:
        """Obey a lower limit than the announced one for `DISTRUST` minutes, from minute `k` on."""
        self.announced = self.announced or self.limit
        self.limit, self.lowered_until = limit, k + DISTRUST

    def open_window(self, now: float, used: int) -> None:
        """Open a window for the last 60 s if there is none; it starts with the count, `used`."""
        if not any(window.is_minute for window in self.windows):
            limit = Limit(int(MINUTE), self.limit, False)
            self.windows.append(Window.begin(limit, now, now + FLIGHT, counted=used, flying=0))

    def end_caution(self, sent: float, now: float) -> None:
        """The first answer after a start or a ban came: even sending ends 60 s after `sent`."""
        if not self.is_held(now):
            self.cautious_until = sent + MINUTE

    def evenly(self, now: float, k: int, budget: int) -> tuple[float, float]:
        """Weight that we may have booked to minute `k` by now, and weight/s by which it grows.

        After a start we may send a part at once. The rest follows evenly until the minute ends, or
        until we have seen 60 s. After a ban we send nothing at once, and the pace uses up the
        budget in exactly a minute.
        """
        if now >= self.cautious_until:
            return math.inf, 0.0
        begin = MINUTE * k - self.clock.middle
        since = max(min(now, self.cautious_until - MINUTE), begin)
        end = min(begin + MINUTE, max(self.cautious_until, now))
        first = 0 if self.after_ban else min(budget, int(AT_ONCE * self.limit))
        span = MINUTE if self.after_ban else max(end - since, POLL)
        rate = (budget - first) / span
        return first + rate * max(0.0, now - since), rate

    def is_even(self, now: float, k: int, ours: int, budget: int) -> bool:
        """Whether `ours`, without single calls to leave room for, certainly keeps to `evenly`.

        A quick answer for nearly every charge; before the first answer it is no.
        """
        if now >= self.cautious_until:
            return True
        if self.cautious_until == math.inf:
            return False
        if not self.after_ban and ours <= min(budget, int(AT_ONCE * self.limit)):
            return True
        most, _ = self.evenly(now, k, budget)
        return ours <= most or most >= budget

    def start_again(self, after: ServerClock, now: float) -> None:
        """Switch to a clock that contradicts the current one; no weight and no cooldown is lost.

        We do not know which minute of the new clock counted the weight of the old clock's minutes.
        So each minute that may be the current one gets all of it. A cooldown keeps the seconds that
        are left: as an instant of the old clock it would end at once, or hours late.
        """
        ledger, others = self.ledger, self.others
        live = max((m.used for k, m in ledger.minutes.items() if k >= ledger.newest), default=0)
        left = others.expected_until - self.clock.latest(now)
        self.cooldown_until = self.clock.carried(self.cooldown_until, now, after)
        self.banned_until = self.clock.carried(self.banned_until, now, after)
        others.expected_until = after.latest(now) + left if left >= 0 else -1
        shift = after.latest(now) - self.clock.latest(now)
        self.lowered_until += shift
        self.rolling_until += shift
        others.curves.clear()  # their minutes do not exist by the new clock
        self.clock.start_again(after.lo, after.hi)
        self.counted_at, ledger.newest = UNKNOWN, after.earliest(now)
        ledger.keep(ledger.newest, after.latest(now))
        for minute in ledger.minutes.values():
            minute.booked = max(minute.booked, live)

    def span(self, now: float) -> tuple[int, int, int]:
        """The minutes that may count a request sent now: the earliest, likeliest and latest."""
        clock = self.clock
        first, last = int((now + clock.lo) // MINUTE), int((now + clock.hi + FLIGHT) // MINUTE)
        if self.ledger.newest > first:
            first = self.ledger.newest
        if first >= last:
            return first, first, first
        return first, min(max(first, clock.likeliest(now)), last), last

    def of_copies(self, k: int) -> float:
        """Weight that others used early in minute `k`, if they may be copies of us; otherwise 0.

        Copies use up a minute early together with us, or use more than a single copy's part. They
        never exceed the limit.
        """
        early = self.others.curve(k, self.limit).at(EARLY, 0.0)
        is_used_up = early + self.ledger.minute(k).booked >= WHOLE * self.limit
        if not is_used_up and early <= FAIR * self.limit:
            return 0.0
        most = max(self.ledger.minute(j).reported for j in range(k - MEMORY, k + 1))
        return early if most <= self.limit else 0.0

    def is_in_a_crowd(self, k: int) -> bool:
        """Whether copies of us used more of minute `k` than a single copy's part."""
        return self.of_copies(k) > FAIR * self.limit

    def unseen(self, now: float, k: int) -> float:
        """Weight that others may have used of minute `k` since our last count."""
        gap = max(0.0, min(now - self.counted_at, self.clock.into(now, k)))
        return self.others.unseen(k, self.limit, gap)


class Parts(NamedTuple):
    """What the user asked of a budget: shares of the limit if `float`, weight if `int`."""

    reserve: float
    share: float
    interactive: float

    def of(self, limit: int) -> tuple[int, int, int]:
        """Their weight at this limit. Shares of a small limit leave at least 1 to use."""
        given = self.reserve
        reserve = given if isinstance(given, int) else min(math.ceil(given * limit), limit - 1)
        return reserve, max(1, int(self.share * limit)), int(self.interactive * limit)


class Ask(NamedTuple):
    """A request that asks to be sent, and the bounds that it must keep, in weight and minutes."""

    now: float
    """Monotonic s."""
    weight: int
    first: int
    """The earliest minute in which the exchange may count it."""
    likeliest: int
    """The minute that it is now by the middle of our estimate of the exchange's clock."""
    last: int
    """The latest minute in which the exchange may count it."""
    reserve: int
    """Weight that we leave unused."""
    budget: int
    """The most that a minute may reach, for the whole IP address."""
    share: int
    """The most that our own weight may reach in a minute."""
    forecast: Forecast
    """The latest forecast of others. It stays valid for `FORECAST_AGE`."""
    bulk: bool = False
    """Whether the request leaves single calls their part of the minute."""
    interactive: int = 0
    """The most that bulk work leaves single calls."""
