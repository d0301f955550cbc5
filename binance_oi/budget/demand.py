"""What pollers are going to need, as they say it themselves: for plans, never for a request.

The rule of this file: a demand admits nothing and refuses nothing. `charge` does not know of it, so
a demand that is missing, too high or left behind changes which schedule somebody plans, and no
weight. Each process writes one demand into the shared record, and renews it; one that is not
renewed ends after `LIFE`.

Whoever came first keeps its plan. A poller counts the demands of those who came before it, so of
two that do not fit together one goes on as it is.
"""

import math
import os
from collections.abc import Iterable
from typing import NamedTuple

from binance_oi import fork

LIFE = 180.0  # s from a renewal to the end; a machine that is busy may skip two of them
RENEWAL = 60.0  # s from one to the next at the least
AHEAD = 1.0  # s by which two readings of one monotonic clock may differ
MOST_DEMANDS = 32  # in one record: 2 KB of its 4; more of them make plans too hopeful
MOST_NEED = 1e12  # weight a minute


class Process(NamedTuple):
    """Names a process of this machine; see `process.this_process`."""

    namespace: int
    """Of process ids; 0 where the system has none, and below 0 where it does not tell."""
    pid: int
    start: int
    """When it started, in ticks since the boot; 0 where the system does not tell."""


class Demand(NamedTuple):
    """What the pollers of one pool object need."""

    owner: int
    """Names the pool object."""
    process: Process
    weight: float
    """In each minute."""
    since: float
    """When the latest of its pollers began, monotonic s."""
    until: float
    """When it ends unless it is renewed, monotonic s."""


class Declared:
    """What the pollers of this process need, by poller, in the order in which they began.

    A child that was forked has no pollers: those of its parent run in the parent.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = fork.current
        self._needs: dict[object, tuple[float, float]] = {}  # since when, and weight a minute
        self.owner: int = int.from_bytes(os.urandom(6), "little")
        """Names these pollers in a shared record."""
        self.renewed_at: float = -math.inf
        """When it was written last, monotonic s."""
        self.is_written: bool = False

    def notice_fork(self) -> None:
        """Begin as a process of our own."""
        if self._process is not fork.current:
            self._begin()

    def __contains__(self, key: object) -> bool:
        return key in self._needs

    def clear(self) -> None:
        """Forget all of them."""
        self._needs.clear()

    def put(self, key: object, weight: float, now: float, *, anew: bool) -> bool:
        """Keep the need of one poller; whether that changes what all of them need.

        Args:
            key: The poller.
            weight: In each minute; 0 forgets it.
            now: Monotonic s.
            anew: Whether it begins now, also when it is known.
        """
        before = self._needs.get(key)
        if before is None and weight <= 0.0:
            return False
        if weight <= 0.0:
            del self._needs[key]
        elif before is None or anew:
            self._needs.pop(key, None)
            self._needs[key] = (now, weight)
        else:
            self._needs[key] = (before[0], weight)
        return anew or before is None or before[1] != weight

    @property
    def total(self) -> float:
        """Weight a minute of all of them."""
        return sum(weight for _, weight in self._needs.values())

    @property
    def since(self) -> float:
        """When the latest of them began."""
        return max((since for since, _ in self._needs.values()), default=-math.inf)

    def before(self, key: object) -> float:
        """Weight a minute of those who began before `key`; of all of them if it is not known."""
        total = 0.0
        for other, (_, weight) in self._needs.items():
            if other is key:
                break
            total += weight
        return total


def believed(demands: Iterable[Demand], now: float) -> list[Demand]:
    """Those that are possible and have not ended; as many as a record may have, the newest."""
    possible = [each for each in demands if _is_possible(each, now)]
    possible.sort(key=lambda each: each.since)
    return possible[-MOST_DEMANDS:]


def _is_possible(demand: Demand, now: float) -> bool:
    return (
        0.0 < demand.weight <= MOST_NEED
        and demand.since <= now + AHEAD
        and now < demand.until <= now + LIFE + AHEAD
    )


def with_own(demands: Iterable[Demand], own: Demand, now: float) -> list[Demand]:
    """`demands` with `own` in the place of the one before it; without it if it needs nothing."""
    others = [each for each in demands if each.owner != own.owner]
    return believed([*others, own], now)


def merged(shared: Iterable[Demand], ours: Iterable[Demand]) -> list[Demand]:
    """Those of two records; of two of one owner the one that was renewed later."""
    latest: dict[int, Demand] = {}
    for each in (*shared, *ours):
        known = latest.get(each.owner)
        if known is None or each.until > known.until:
            latest[each.owner] = each
    return list(latest.values())
