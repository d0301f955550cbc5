"""Everything that we know about one IP address, as plain numbers that processes can share.

Pure. The rule of this file: a field is a number or a container of numbers, and `now` is always an
argument, in monotonic seconds. `k` is a minute: the number of minutes from 1970 to its beginning,
by the exchange's clock.
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
    CAREFUL,
    DISTRUST,
    EARLY,
    EDGE,
    FAIR,
    FLIGHT,
    MEMORY,
    NEGLIGIBLE_SHARE,
    NEGLIGIBLE_WEIGHT,
    OURS,
    PROBED,
    PROBES,
    SLACK,
    USED_UP,
)
from binance_oi.budget.window import Window
from binance_oi.exchange.limits import Limit

UNKNOWN = -math.inf


@dataclass(slots=True)
class Known:
    """What we know about one IP address.

    A field whose name ends with `_at` is in monotonic seconds. One that ends with `_until` is in
    Unix seconds by the exchange's clock, or is a minute of that clock if it is an `int`. The one
    exception is `careful_since`, in monotonic seconds.
    """

    limit: int
    """Weight that the exchange allows in a minute, or a lower limit that a refusal showed. For a
    limit that no header reports (`rolling`): requests in its window."""
    clock: ServerClock
    ledger: Ledger = field(default_factory=Ledger)
    others: Others = field(default_factory=Others)
    cooldown_until: float = 0.0
    """The end of the cooldown, before which we send nothing; 0.0 if there is none."""
    banned_until: float = 0.0
    """The end of the latest cooldown that the exchange called a ban; 0.0 if there is none."""
    counted_at: float = UNKNOWN
    """When we sent the newest request whose answer had a count. `UNKNOWN` if no count came since
    the start, since the last cooldown began, or since we replaced our estimate of the clock."""
    probe_ends_at: float = UNKNOWN
    """Monotonic s until which all requests wait for the answer to a probe. If the count of the
    probe is the first after a start or a cooldown, shows others, and may belong to either of two
    minutes, they wait until the older minute is certainly over. Then another probe shows the count
    of the newer minute."""
    silent: int = 0
    """How many answers in a row had no usable count; at most `BLIND_AFTER`."""
    windows: list[Window] = field(default_factory=list[Window])
    """Our use of each limit whose span is not a minute of the exchange's clock."""
    demands: list[Demand] = field(default_factory=list[Demand])
    """The weight that pollers plan to use. No rule reads it."""
    careful_since: float = math.inf
    """Monotonic s since which we send carefully (`until_allowed`). After a start, a ban, or `IDLE`
    minutes without an answer it is infinite. The first answer sets it to when its request was
    sent."""
    after_ban: bool = False
    """Whether we send carefully because of a ban."""
    announced: int = 0
    """The limit that the exchange announces, if `limit` is lower because of a refusal; otherwise
    0."""
    lowered_until: int = 0
    """The last minute in which we obey the lower limit."""
    rolling_until: int = 0
    """The last minute in which we assume that the exchange counts a rolling window of 60 s."""

    @property
    def is_blind(self) -> bool:
        """Whether so many answers had no count that we rely on our own books alone."""
        return self.silent >= BLIND_AFTER

    @property
    def negligible(self) -> int:
        """Weight of others that is too small to matter, such as a ping."""
        return max(NEGLIGIBLE_WEIGHT, int(NEGLIGIBLE_SHARE * self.limit))

    def is_rolling(self, k: int) -> bool:
        """Whether we assume, in minute `k`, that the exchange counts a rolling window of 60 s."""
        return k <= self.rolling_until

    def is_held(self, now: float) -> bool:
        """Whether we are in a cooldown, or cannot be certain that it is over."""
        return not self.clock.is_over(self.cooldown_until, now)

    def announce(self, limit: int) -> None:
        """Adopt the limit that the exchange announced; keep a lower one that a refusal showed."""
        if self.announced:
            self.announced, limit = limit, min(limit, self.limit)
        self.limit = limit

    def miss_count(self, now: float) -> None:
        """Note an answer without a count; for `BLIND_FOR` s after a count, do not become blind."""
        is_count_recent = now <= self.counted_at + BLIND_FOR
        self.silent = min(self.silent + 1, BLIND_AFTER - is_count_recent)

    def lower(self, limit: int, k: int) -> None:
        """Obey `limit`, which a refusal in minute `k` showed, for `DISTRUST` minutes."""
        self.announced = self.announced or self.limit
        self.limit, self.lowered_until = limit, k + DISTRUST

    def open_window(self, now: float, used: int) -> None:
        """Open a window for the last 60 s if there is none; it starts with the count `used`."""
        if not any(window.is_minute for window in self.windows):
            limit = Limit(int(MINUTE), self.limit, False)
            self.windows.append(Window.begin(limit, now, now + FLIGHT, counted=used, flying=0))

    @property
    def careful_until(self) -> float:
        """Monotonic s until which we send carefully: for 60 s after a ban, or if we are blind."""
        is_short = self.after_ban or self.is_blind
        return self.careful_since + (MINUTE if is_short else CAREFUL)

    def until_allowed(self, now: float, k: int, ours: float, budget: int) -> float:
        """Seconds until careful sending allows our weight in minute `k` to be `ours`.

        After a start we may send a part at once. What we may send of the rest grows with the square
        of the time, until `EDGE` s before the minute ends, or until careful sending ends if that is
        earlier. So much room stays free until late, for a burst of others, and yet counts come all
        the time. The exchange might count later requests in the next minute. Soon after a start
        near the end of a minute, the time is `EDGE`. After a ban we may send nothing at once, and
        the pace uses up one budget in 60 s.

        Returns:
            Seconds; 0.0 or less if it is allowed now, or if careful sending is over.
        """
        first = 0 if self.after_ban else int(AT_ONCE * self.limit)
        if ours <= first:
            return 0.0
        part = (ours - first) / max(1, budget - first)
        begin = MINUTE * k - self.clock.middle
        since = max(min(now, self.careful_since), begin)
        until = self.careful_until
        end = min(begin + MINUTE - EDGE, until)
        time = part * MINUTE if self.after_ban else math.sqrt(part) * max(end - since, EDGE)
        return min(since + time, until) - now

    def start_again(self, after: ServerClock, now: float) -> None:
        """Replace the estimate of the exchange's clock with `after`, which contradicts it.

        We lose no weight and no cooldown. The new clock does not show which minute counted our
        weight. So we book the weight of the fullest live minute to each minute that may be the
        current one. A cooldown keeps the seconds that are left of it. If it kept its end in Unix
        time, it would end at once by the new clock, or hours late.
        """
        clock, ledger, others = self.clock, self.ledger, self.others
        first, last = after.earliest(now), after.latest(now)
        live = max((m.used for k, m in ledger.minutes.items() if k >= ledger.newest), default=0)
        shift = last - clock.latest(now)
        left = others.expected_until - clock.latest(now)
        self.cooldown_until = clock.convert(self.cooldown_until, now, after)
        self.banned_until = clock.convert(self.banned_until, now, after)
        others.expected_until = last + left if left >= 0 else -1
        self.lowered_until += shift
        self.rolling_until += shift
        others.curves.clear()  # they belong to minutes of the old clock
        clock.lo, clock.hi, clock.contradictions = after.lo, after.hi, 0
        self.counted_at, ledger.newest = UNKNOWN, first
        ledger.minutes = {k: ledger.minute(k) for k in range(first, last + 1)}
        for minute in ledger.minutes.values():
            minute.booked = max(minute.booked, live)

    def span(self, now: float) -> tuple[int, int, int]:
        """Return the earliest, likeliest and latest minute that may count a request sent now."""
        clock = self.clock
        first, last = int((now + clock.lo) // MINUTE), int((now + clock.hi + FLIGHT) // MINUTE)
        if self.ledger.newest > first:
            first = self.ledger.newest
        if first >= last:
            return first, first, first
        return first, min(max(first, clock.likeliest(now)), last), last

    def forget_others(self, k: int) -> None:
        """Expect no others after minute `k`, unless we know a curve or a surge of theirs."""
        others = self.others
        if not others.curves and not others.expected_surge:
            others.expected_until = min(others.expected_until, k)

    def weight_of_copies(self, k: int) -> float:
        """Weight that copies of us may have used in the busiest `EARLY` seconds of minute `k`.

        Copies are other clients that run this library; 0 means that the others do not look like
        copies. Others may be copies in three cases. First, they used over `FAIR` of the limit, less
        `SLACK`, within `EARLY` seconds of the minute. Second, their use in its first `EARLY`
        seconds and all our use of the minute add up to `USED_UP` of the limit. Third, they sent
        as copies do that probe while they keep room for others: in `PROBED` slots they used about
        as much as our probes of a reserved minute do, and over `OURS` in the whole minute. In no
        case are they copies if a count of minute `k`, or of the `MEMORY` minutes before it, exceeds
        the limit: copies never exceed it.
        """
        limit, curve = self.limit, self.others.curve(k, self.limit)
        early, seen = curve.at(EARLY, 0.0), curve.seen()
        busiest = max(early, seen.busiest(EARLY))
        is_used_up = early + self.ledger.minute(k).booked >= USED_UP * limit
        pace = PROBES * limit / MINUTE
        is_probing = curve.top > OURS * limit and seen.slots_with_rate(pace) >= PROBED
        if not (is_used_up or is_probing or busiest > (FAIR - SLACK) * limit):
            return 0.0
        most = max(self.ledger.minute(j).reported for j in range(k - MEMORY, k + 1))
        return busiest if most <= limit else 0.0

    def is_in_a_crowd(self, k: int) -> bool:
        """Whether possible copies used minute `k` so fast that they are more than one."""
        return self.weight_of_copies(k) > FAIR * self.limit

    def unseen(self, now: float, k: int) -> float:
        """Weight that others, at their usual rate, have used of minute `k` since our last count."""
        gap = max(0.0, min(now - self.counted_at, self.clock.into(now, k)))
        return self.others.unseen(k, self.limit, gap)


class Parts(NamedTuple):
    """The parts of the limit, as the user set them for a budget."""

    reserve: float = 0.01
    """What we leave unused: a weight if `int`, a share of the limit if `float`."""
    share: float = 1.0
    """The largest share of the limit that we use ourselves, 0 to 1."""
    interactive: float = 0.05
    """The largest share of the limit that bulk work leaves for single calls, 0 to 1."""

    def of(self, limit: int) -> tuple[int, int, int]:
        """Return the parts in weight, for this limit.

        A reserve that is a share leaves a budget of at least 1. `share` is at least 1 too.
        """
        given = self.reserve
        reserve = given if isinstance(given, int) else min(math.ceil(given * limit), limit - 1)
        return reserve, max(1, int(self.share * limit)), int(self.interactive * limit)


class Ask(NamedTuple):
    """A request that asks to be sent, and the bounds that it must keep, in weight and minutes."""

    now: float
    """When the request asks, monotonic s."""
    weight: int
    """The weight of the request."""
    first: int
    """The earliest minute in which the exchange may count the request."""
    likeliest: int
    """The current minute by the middle of our estimate of the exchange's clock."""
    last: int
    """The latest minute in which the exchange may count the request."""
    reserve: int
    """Weight that we leave unused."""
    budget: int
    """The most that everyone on the IP address may use of a minute: the limit less `reserve`. While
    we are blind, it is lower."""
    share: int
    """The most that we may use of a minute ourselves."""
    forecast: Forecast
    """The latest forecast of others. A rule that makes a new one stores it here."""
    bulk: bool = False
    """Whether the request is bulk work, which leaves single calls their part of the minute."""
    interactive: int = 0
    """The most weight of a minute that bulk work leaves for single calls."""
