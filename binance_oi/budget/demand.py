"""Keeps what pollers declare: how much weight they plan to use.

The rule of this file: a demand is only information for pollers. `charge` ignores it. So a demand
that is missing, too high or outdated may change the schedule of a poller, but never whether a
request is sent. Each pool object writes one demand into the shared record. That demand is the sum
for all pollers of the object, and the object renews it. A demand ends `DEMAND_LIFE_S` after its
last renewal.

A poller subtracts the demands of the pollers that began before it, and plans with the rest. So if
two pollers do not fit together, the older one polls as before. A demand names only the start of its
newest poller. So if the demand of a pool object has the newest start, all pollers of that object
subtract the demands of all other pool objects.
"""

import math
import os
from collections.abc import Iterable
from typing import NamedTuple

from binance_oi import fork

DEMAND_LIFE_S = 180.0  # s from the last renewal to the end: a busy machine may miss two renewals
RENEWAL_S = 60.0  # s between two renewals, at least
CLOCK_TOLERANCE_S = 1.0  # s by which two processes may read the monotonic clock differently
MAX_DEMANDS = 32  # demands in a record, at most, which fill half of its 4 KB; the newest stay
MAX_NEED = 1e12  # weight per minute; a higher demand comes from a damaged record


class Process(NamedTuple):
    """The identity of a process on this machine; see `process.this_process`."""

    namespace: int
    """The namespace of process ids; 0 if the system has none, negative if it is unknown."""
    pid: int
    """The process id."""
    start: int
    """When the process started, in ticks since the boot; 0 if that is unknown."""


class Demand(NamedTuple):
    """The weight that the pollers of one pool object need."""

    owner: int
    """A random number that identifies the pool object."""
    process: Process
    """The process of the pool object."""
    weight: float
    """Weight per minute, of all these pollers together."""
    since: float
    """When the newest of the pollers began, monotonic s."""
    until: float
    """When the demand ends unless it is renewed, monotonic s."""


class Declared:
    """The weight that each poller of one pool object needs, in the order in which they began.

    A forked child begins without pollers, because those of its parent run only in the parent.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = fork.current
        self._needs: dict[object, tuple[float, float]] = {}  # the start, and weight per minute
        self.owner: int = int.from_bytes(os.urandom(6), "little")
        """A random number that identifies these pollers in a shared record."""
        self.renewed_at: float = -math.inf
        """When we last wrote the demand of these pollers, monotonic s."""
        self.is_written: bool = False
        """Whether the shared record has a demand of these pollers."""

    def notice_fork(self) -> None:
        """Start empty in a forked child."""
        if self._process is not fork.current:
            self._begin()

    def __contains__(self, key: object) -> bool:
        return key in self._needs

    def clear(self) -> None:
        """Forget all pollers."""
        self._needs.clear()

    def put(self, key: object, weight: float, now: float, *, anew: bool) -> bool:
        """Store how much weight one poller needs.

        Args:
            key: The poller.
            weight: Weight per minute; 0 removes the poller.
            now: Monotonic s.
            anew: Whether a known poller counts as one that begins now.

        Returns:
            Whether the demand of these pollers changed.
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
        """Weight per minute of all pollers."""
        return sum(weight for _, weight in self._needs.values())

    @property
    def since(self) -> float:
        """When the newest poller began, monotonic s; `-inf` if there is none."""
        return max((since for since, _ in self._needs.values()), default=-math.inf)

    def before(self, key: object) -> float:
        """Weight per minute of the pollers before `key`; of all if `key` is no poller here."""
        total = 0.0
        for other, (_, weight) in self._needs.items():
            if other is key:
                break
            total += weight
        return total


def believed(demands: Iterable[Demand], now: float) -> list[Demand]:
    """Return the demands that are possible and have not ended; at most the `MAX_DEMANDS` newest."""
    possible = [each for each in demands if _is_possible(each, now)]
    possible.sort(key=lambda each: each.since)
    return possible[-MAX_DEMANDS:]


def _is_possible(demand: Demand, now: float) -> bool:
    return (
        0.0 < demand.weight <= MAX_NEED
        and demand.since <= now + CLOCK_TOLERANCE_S
        and now < demand.until <= now + DEMAND_LIFE_S + CLOCK_TOLERANCE_S
    )


def with_own(demands: Iterable[Demand], own: Demand, now: float) -> list[Demand]:
    """Return `demands` with the new version of `own`; without it if its weight is 0."""
    others = [each for each in demands if each.owner != own.owner]
    return believed([*others, own], now)


def merged(shared: Iterable[Demand], ours: Iterable[Demand]) -> list[Demand]:
    """Return the demands of two records. If both have one of an owner, keep the later renewal."""
    latest: dict[int, Demand] = {}
    for each in (*shared, *ours):
        known = latest.get(each.owner)
        if known is None or each.until > known.until:
            latest[each.owner] = each
    return list(latest.values())
