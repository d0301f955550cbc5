"""Counts the weight of one IP address as the exchange does, and decides which requests it refuses.

The rule of this file: arithmetic only, no I/O and no clock. Time is an argument, in Unix seconds by
the exchange's own clock. A request counts in the UTC minute in which it arrives, and the count
starts again at the rollover (Source: measured 2026-10-07; the window is fixed, not rolling).
"""

from collections import deque
from dataclasses import dataclass
from math import floor
from typing import NamedTuple, Protocol

MINUTE_S = 60
KEPT_MINUTES = 1500  # a day and an hour, so that a test can read a whole day

OK = 200
LIMITED = 429
BANNED = 418


class Others(Protocol):
    """Weight that other clients on this IP address use."""

    def weight(self, since: float, until: float) -> int:
        """Weight used from `since` to `until` (Unix s). The parts of a span sum to the whole."""
        ...


@dataclass(frozen=True, slots=True)
class Steady:
    """Other clients that use `rate` weight every second."""

    rate: float

    def weight(self, since: float, until: float) -> int:
        # Floor each bound, not the difference: then the parts of a span sum to the whole.
        return floor(self.rate * until) - floor(self.rate * since)


@dataclass(frozen=True, slots=True)
class Bursts:
    """Other clients that use `size` weight at once, `at_second` s into each period of `every` s."""

    size: int
    at_second: float = 0.0
    every: float = 60.0

    def weight(self, since: float, until: float) -> int:
        def bursts(moment: float) -> int:
            return floor((moment - self.at_second) / self.every)

        return self.size * (bursts(until) - bursts(since))


@dataclass(frozen=True, slots=True)
class Bans:
    """The rule by which refusals turn into a ban, and the length of bans.

    The first `after` refusals get a 429, and the next one starts a ban (`None`: never). After a
    whole minute without a refusal, the count starts again from 0. The first ban lasts `first_s`,
    and each ban is twice as long as the previous one, up to `longest_s`. If `lengthen`, a request
    during a ban makes the ban begin again.

    Source: bans last 2 minutes to 3 days and grow for repeat offenders (documented). Requests
    during a ban lengthen it (observed). How many 429s the exchange tolerates is unknown.
    """

    after: int | None = 40
    first_s: float = 120.0
    longest_s: float = 259_200.0
    lengthen: bool = True


class Verdict(NamedTuple):
    """The exchange's decision about one request."""

    status: int
    """200, 429 or 418."""
    used: int
    """Weight counted in this minute, including this request if it counts. For a limit on requests,
    it is the number of requests in the window."""
    until: float
    """Unix s at which the refusal ends; 0 if there is none."""


class WeightCounter:
    """Counts the weight of one IP address and refuses requests over the limit.

    Args:
        limit: weight allowed in a minute.
        start: Unix s at which counting begins; others are not counted before it.
        used: weight already counted in the minute of `start`.
        others: other clients on this IP address; counted, never banned.
        bans: when refusals lead to a ban.
        count_refused: whether a refused request counts. The behaviour of the real exchange is
            unknown; counting is the worse case for a client.
    """

    def __init__(
        self,
        limit: int,
        *,
        start: float,
        used: int = 0,
        others: Others | None = None,
        bans: Bans | None = None,
        count_refused: bool = True,
    ) -> None:
        self.limit = limit
        self.bans: Bans = bans or Bans()
        self.banned_until: float = 0.0
        self._start = start
        self._others = others
        self._count_refused = count_refused
        self._own = {_minute(start): used}
        self._refusals = 0
        self._refused_minute = 0
        self._ban_s = 0.0

    def __repr__(self) -> str:
        return f"<WeightCounter limit={self.limit} banned_until={self.banned_until:.3f}>"

    def used(self, now: float) -> int:
        """Weight counted in the minute of `now`, by everyone on this IP address."""
        minute = _minute(now)
        return self._own.get(minute, 0) + self._others_in(minute, now)

    def weights(self, now: float) -> dict[int, int]:
        """The weight counted up to `now`, by minute (Unix s // 60).

        It has the last 1500 minutes in which a request counted. The minute in which counting began
        counts as one of these.
        """
        return {minute: own + self._others_in(minute, now) for minute, own in self._own.items()}

    def count(self, weight: int, now: float) -> Verdict:
        """Count a request that arrives at `now`, and decide whether it is served."""
        used = self.used(now) + weight
        refused = used > self.limit or now < self.banned_until
        if refused and not self._count_refused:
            return self._refuse(used - weight, now)
        self._add(weight, _minute(now))
        return self._refuse(used, now) if refused else Verdict(OK, used, 0.0)

    def refuse(self, used: int, now: float, room_at: float) -> Verdict:
        """Refuse a request over another limit, or in a ban; that limit has room at `room_at`.

        Refusals because of any limit count towards a ban, and a ban applies to all limits.
        """
        verdict = self._refuse(used, now)
        return verdict._replace(until=room_at) if verdict.status == LIMITED else verdict

    def ban(self, now: float, seconds: float | None = None) -> None:
        """Ban this IP address from `now` on.

        Args:
            now: Unix s.
            seconds: how long; None for the length that `Bans` gives.
        """
        twice = min(self._ban_s * 2 or self.bans.first_s, self.bans.longest_s)
        self._ban_s = twice if seconds is None else seconds
        self.banned_until = now + self._ban_s
        self._refusals = 0

    def end_ban(self) -> None:
        """Serve this IP address again."""
        self.banned_until = 0.0

    def _refuse(self, used: int, now: float) -> Verdict:
        if now < self.banned_until:
            if self.bans.lengthen:
                self.banned_until = now + self._ban_s
        elif self._is_one_too_many(_minute(now)):
            self.ban(now)
        else:
            return Verdict(LIMITED, used, float((_minute(now) + 1) * MINUTE_S))
        return Verdict(BANNED, used, self.banned_until)

    def _is_one_too_many(self, minute: int) -> bool:
        if minute - self._refused_minute > 1:
            self._refusals = 0
        self._refused_minute = minute
        self._refusals += 1
        return self.bans.after is not None and self._refusals > self.bans.after

    def _add(self, weight: int, minute: int) -> None:
        own = self._own
        own[minute] = own.get(minute, 0) + weight
        if len(own) > KEPT_MINUTES:
            del own[min(own)]

    def _others_in(self, minute: int, now: float) -> int:
        if self._others is None:
            return 0
        since = max(self._start, float(minute * MINUTE_S))
        until = min(now, float((minute + 1) * MINUTE_S))
        return self._others.weight(since, until) if since < until else 0


class RollingCounter:
    """Counts requests in a rolling window, and refuses requests above the limit.

    Args:
        limit: requests allowed in any span of `seconds`.
        seconds: the length of the window.
        address: the counter of the IP address, which decides about bans.
    """

    def __init__(self, limit: int, seconds: float, address: WeightCounter) -> None:
        self.limit = limit
        self.seconds = seconds
        self.total: int = 0
        """The number of requests counted so far."""
        self.most: int = 0
        """The largest number of requests that any window has contained."""
        self._address = address
        self._times: deque[float] = deque()

    def __repr__(self) -> str:
        return f"<RollingCounter {len(self._times)} of {self.limit} in {self.seconds:g} s>"

    def used(self, now: float) -> int:
        """Requests counted in the `seconds` up to `now`."""
        times = self._times
        while times and times[0] <= now - self.seconds:
            times.popleft()
        return len(times)

    def count(self, now: float) -> Verdict:
        """Count a request that arrives at `now`, and decide whether it is served.

        A refused request counts too. The behaviour of the real exchange is unknown; counting is the
        worse case for a client.
        """
        used = self.used(now) + 1
        self._times.append(now)
        self.total += 1
        self.most = max(self.most, used)
        if used <= self.limit and now >= self._address.banned_until:
            return Verdict(OK, used, 0.0)
        return self._address.refuse(used, now, self._times[0] + self.seconds)


def _minute(moment: float) -> int:
    return int(moment // MINUTE_S)
