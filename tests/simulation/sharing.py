"""Scripts (see `scripts`) for two processes that share a file, and for a governor with its queue.

Rule of this file: in a script about a file, each of two pools stands for a process, and the script
advances the clock of both. The pools share a real file in a new directory. A lease is weight that a
process has charged in advance. The free weight that one process sees shows how long the other one
keeps its lease. A script about a queue runs a governor in the simulation.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, cast

from binance_oi.budget import Pool
from binance_oi.budget.bucket import Bucket
from binance_oi.budget.knowledge import Parts
from binance_oi.budget.pool import fresh_state
from binance_oi.budget.pool_file import PoolFile
from binance_oi.budget.shared import SharedPool
from binance_oi.budget.stored import Store
from binance_oi.budget.usage import Receipt

from .scripts import (
    NOON,
    START,
    Note,
    Script,
    Scripts,
    WatchedPool,
    adding_to,
    every,
    of_a_known_address,
    room,
)
from .world import Situation, run

SCRIPTS: Scripts = {}
script = adding_to(SCRIPTS)

NAME = "the exchange"
Desks = Callable[..., "_Desks"]
"""Makes two processes that share a new file."""


class _Desks:
    """Two processes, `one` and `other`, which start at second 20 of a minute.

    Args:
        note: Gets each decision of both.
        place: The directory of their file.
        limit: Weight a minute.
        together: Whether `one` can use the file from the start.
    """

    def __init__(self, note: Note, place: Path, *, limit: int = 100, together: bool = True) -> None:
        self.now = 20.0
        self.shared = place
        self.place: Path | None = place if together else None
        self._note, self._limit = note, limit
        self.other = self.process(lambda _: PoolFile(place, NAME))
        self.one = self.process(self._file)

    def process(self, open_store: Callable[[Store | None], Store]) -> SharedPool:
        """Start a process."""

        def clock() -> float:
            return START + self.now

        def wall() -> float:
            return NOON + self.now

        state = fresh_state(self._limit, clock, wall)
        return SharedPool(partial(Bucket, parts=Parts()), state, clock, open_store)

    def _file(self, current: Store | None) -> Store:
        if self.place is None:
            raise OSError("there is no place for the file")
        if isinstance(current, PoolFile) and current.path.parent == self.place:
            return current
        return PoolFile(self.place, NAME)

    def ask(self, pool: Pool, weight: int = 1) -> Receipt | None:
        """Charge once, and note the answer."""
        answer = pool.charge(weight)
        self._note(self.now, weight, answer)
        return answer if isinstance(answer, Receipt) else None

    def begin(self, pool: Pool) -> None:
        """Send a first request, whose answer shows the count and the time of the exchange."""
        receipt = self.ask(pool)
        assert receipt is not None
        pool.settle(receipt, 1, NOON + int(self.now))
        pool.flush()

    def room(self, pool: Pool) -> int:
        """Find the largest weight that may be sent now, and send nothing."""
        return room(pool, lambda weight: self.ask(pool, weight))

    def fill(self, pool: Pool) -> None:
        """Charge all weight that may be sent now, and send nothing."""
        while weight := self.room(pool):
            self.ask(pool, weight)

    def close(self) -> None:
        self.one.close()
        self.other.close()


def _shared(play: Callable[[Note, Desks], None]) -> Script:
    """Return a script that makes processes, and deletes their files at its end."""

    def with_files(note: Note) -> None:
        with tempfile.TemporaryDirectory() as directory:
            places, made = count(), list[_Desks]()

            def desks(**more: Any) -> _Desks:
                made.append(_Desks(note, Path(directory) / str(next(places)), **more))
                return made[-1]

            play(note, desks)
            for each in made:
                each.close()

    with_files.__name__, with_files.__doc__ = play.__name__, play.__doc__
    return script(of_a_known_address(with_files))


@_shared
def calls_in_quick_succession_take_a_lease(_note: Note, make: Desks) -> None:
    """QUICK_SUCCESSION_S, MAX_LEASED_CALLS: when a pool takes a lease, and for how many calls.

    LEASE_PART, LARGEST_LEASE: for how many calls it takes a lease while much weight is free.
    """
    pauses = every(0.00002, 0.0049, 0.0051)
    limits = *range(420, 460, 4), 2_400
    for pause, limit in [*((pause, 100) for pause in pauses), *((0.0, most) for most in limits)]:
        desks = make(limit=limit)
        desks.begin(desks.one)
        desks.ask(desks.one)
        desks.now += pause
        desks.ask(desks.one)
        desks.room(desks.other)


@_shared
def a_lease_is_refunded(_note: Note, make: Desks) -> None:
    """LEASE_S: when other processes may use the weight of an unused lease."""
    for pause in every(0.0001, 0.0195, 0.0205):
        desks = make()
        desks.begin(desks.one)
        desks.ask(desks.one)
        desks.ask(desks.one)
        desks.fill(desks.other)
        desks.now += pause
        desks.ask(desks.one)
        desks.ask(desks.other)


@_shared
def many_settlements_are_written_at_once(_note: Note, make: Desks) -> None:
    """MAX_LATE_SETTLEMENTS: after how many settlements the pool writes."""
    desks = make(limit=1_000)
    desks.begin(desks.one)
    receipts = list[Receipt]()
    for _ in range(70):
        desks.now += 0.1
        receipt = desks.ask(desks.one)
        assert receipt is not None
        receipts.append(receipt)
    for used, receipt in enumerate(receipts, start=300):
        desks.one.settle(receipt, used, None)
        seen = desks.ask(desks.other, 600)
        if seen is not None:
            desks.other.refund(seen)


@_shared
def another_process_has_locked_the_file(_note: Note, make: Desks) -> None:
    """LOCKED_RETRY_S: how soon a caller tries again."""
    desks = make()
    desks.begin(desks.one)
    assert desks.place is not None
    file = PoolFile(desks.place, NAME)
    assert file.lock()
    desks.ask(desks.one)
    file.unlock()
    file.close()
    desks.ask(desks.one)


def _come_back(desks: _Desks, moments: list[float]) -> None:
    """Let `one` charge at each moment. `other` used all weight: `one` gets none once it shares."""
    for desks.now in moments:
        receipt = desks.ask(desks.one)
        if receipt is not None:
            desks.one.refund(receipt)


@_shared
def a_process_that_is_alone_tries_to_share_again(_note: Note, make: Desks) -> None:
    """RETRY_S: after how many seconds the process tries again."""
    desks = make(together=False)
    desks.begin(desks.other)
    desks.fill(desks.other)
    desks.place = desks.shared
    _come_back(desks, every(0.002, 20.98, 21.02))


@_shared
def a_process_that_stays_alone_tries_more_and_more_rarely(_note: Note, make: Desks) -> None:
    """MAX_RETRY_S: the longest interval between two attempts."""
    desks = make(together=False)
    _come_back(desks, every(0.5, 21.0, 100.0))
    desks.begin(desks.other)
    desks.fill(desks.other)
    desks.place = desks.shared
    _come_back(desks, every(0.05, 110.0, 112.5))


@_shared
def the_place_of_the_file_changes(_note: Note, make: Desks) -> None:
    """CHECK_S: when a running process finds the new file."""
    desks, others = make(), make()
    desks.begin(desks.one)
    others.now = desks.now = 65.0
    others.begin(others.other)
    others.fill(others.other)
    desks.place = others.place
    _come_back(desks, every(0.05, 79.0, 81.0))


def _simulate(note: Note, situation: Situation) -> None:
    run(situation, 1, lambda pool: cast(Pool, WatchedPool(pool, note)))


@script
def calls_wait_in_a_queue(note: Note) -> None:
    """LONGEST_SLEEP_S of `governor`: how often the dispatcher charges for waiting calls."""
    _simulate(note, Situation(minutes=1, limit=60, start=20.0, in_flight=5))


@script
def calls_wait_for_the_pacer(note: Note) -> None:
    """BATCHES_PER_SECOND of `pacer`: how many calls the pacer admits at once."""
    for pace in (198.0, 200.0):
        _simulate(note, Situation(minutes=1, start=57.0, in_flight=20, pace=pace))
