"""The weight that pollers plan to use, as they declare it themselves.

The rule of this file: a demand admits nothing and refuses nothing. `charge` ignores it. So a demand
that is missing, too high or outdated may change a schedule, and never what is sent. Each process
writes one demand into the shared record and renews it. A demand ends `DEMAND_LIFE_S` after its last
renewal.

The first poller keeps its schedule. Each poller counts the demands of those that began before it,
so of two that do not fit together, the older one goes on unchanged.
"""

import math
import os
from collections.abc import Iterable
from typing import NamedTuple

from binance_oi import fork

DEMAND_LIFE_S = 180.0  # from a renewal to the end; a busy machine may skip two renewals
RENEWAL_S = 60.0  # between two renewals, at least
CLOCK_TOLERANCE_S = 1.0  # by which two readings of one monotonic clock may differ
MAX_DEMANDS = 32  # in one record, where they take 2 of 4 KB; plans ignore older ones
MAX_NEED = 1e12  # weight a minute


class Process(NamedTuple):
    """Identifies a process of this machine; see `process.this_process`."""

    namespace: int
    """The namespace of process ids; 0 if the system has none, negative if it is unknown."""
    pid: int
    start: int
    """When the process started, in ticks since the boot; 0 if that is unknown."""


class Demand(NamedTuple):
    """What the pollers of one pool object need."""

    owner: int
    """Identifies the pool object."""
    process: Process
    weight: float
    """Weight per minute."""
    since: float
    """When the newest of the pollers began, monotonic s."""
    until: float
    """When the demand ends unless it is renewed, monotonic s."""


class Declared:
    """What the pollers of this process need, by poller, in the order in which they began.

    A forked child has no pollers: those of its parent keep running in the parent.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._process = fork.current
        self._needs: dict[object, tuple[float, float]] = {}  # since when, and weight a minute
        self.owner: int = int.from_bytes(os.urandom(6), "little")
        """Identifies these pollers in a shared record."""
        self.renewed_at: float = -math.inf
        """When this process last wrote its demand, monotonic s."""
        self.is_written: bool = False

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
        """Store the need of one poller; True if that changes what all of them need together.

        Args:
            key: The poller.
            weight: Weight per minute; 0 forgets the poller.
            now: Monotonic s.
            anew: Whether the poller begins now, even if it is known already.
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
        """Weight per minute of the pollers that began before `key`; of all if `key` is unknown."""
        total = 0.0
        for other, (_, weight) in self._needs.items():
            if other is key:
                break
            total += weight
        return total


def believed(demands: Iterable[Demand], now: float) -> list[Demand]:
    """The demands that are possible and have not ended; the newest `MAX_DEMANDS` of them."""
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
    """`demands` with `own` instead of its previous version; a demand of 0 is left out."""
    others = [each for each in demands if each.owner != own.owner]
    return believed([*others, own], now)


def merged(shared: Iterable[Demand], ours: Iterable[Demand]) -> list[Demand]:
    """The demands of two records; of one owner, the demand that was renewed later."""
    latest: dict[int, Demand] = {}
    for each in (*shared, *ours):
        known = latest.get(each.owner)
        if known is None or each.until > known.until:
            latest[each.owner] = each
    return list(latest.values())
