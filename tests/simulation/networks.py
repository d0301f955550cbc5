"""The network between us and the exchange, and other clients of the exchange.

Rule of this file: it has no state. A leg draws from the random numbers that its caller passes.
The use by others is a function of time, so that the counter can ask for any span of time.
"""

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random
from typing import Protocol

from binance_oi.simulator.counter import Others

LONGEST_S = 9.5  # a slower message would count as lost, because our time-out is 10 s


class Leg(Protocol):
    """The distribution of a message's delay."""

    def __call__(self, now: float, random: Random) -> float:
        """Draw the delay of a message that leaves at `now`, s."""
        ...


@dataclass(frozen=True, slots=True)
class Even:
    """All messages take nearly the same time."""

    seconds: float = 0.025
    jitter: float = 0.0

    def __call__(self, now: float, random: Random) -> float:
        return self.seconds + self.jitter * random.random()


@dataclass(frozen=True, slots=True)
class Uneven:
    """Messages overtake each other, and a share of them may be very slow."""

    median: float = 0.03
    sigma: float = 0.5
    slow_share: float = 0.0
    slowest: float = 4.0

    def __call__(self, now: float, random: Random) -> float:
        if random.random() < self.slow_share:
            return random.uniform(0.5, self.slowest)
        return min(random.lognormvariate(0.0, self.sigma) * self.median, self.slowest)


@dataclass(frozen=True, slots=True)
class Stalling:
    """Every `every` s, the link holds messages for `seconds` s, then passes them all on at once."""

    seconds: float = 2.0
    every: float = 13.7
    leg: Leg = field(default_factory=Uneven)

    def __call__(self, now: float, random: Random) -> float:
        into = now % self.every
        wait = self.seconds - into if into < self.seconds else 0.0
        return min(wait + self.leg(now, random), LONGEST_S)


@dataclass(frozen=True, slots=True)
class Moments:
    """Others that use weight at given moments: sorted pairs of Unix s and weight."""

    uses: tuple[tuple[float, int], ...]
    moments: list[float] = field(init=False, repr=False)
    sums: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "moments", [moment for moment, _ in self.uses])
        object.__setattr__(self, "sums", [0, *accumulate(weight for _, weight in self.uses)])

    def weight(self, since: float, until: float) -> int:
        return (
            self.sums[bisect_right(self.moments, until)]
            - self.sums[bisect_right(self.moments, since)]
        )


@dataclass(frozen=True, slots=True)
class Together:
    """Several others on one IP address."""

    parts: tuple[Others, ...]

    def weight(self, since: float, until: float) -> int:
        return sum(part.weight(since, until) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Between:
    """Others that are present only from `begin` to `end`, Unix s."""

    others: Others
    begin: float
    end: float

    def weight(self, since: float, until: float) -> int:
        since, until = max(since, self.begin), min(until, self.end)
        return self.others.weight(since, until) if since < until else 0
