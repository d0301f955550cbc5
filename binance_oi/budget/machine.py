"""`MachineBudget`, the default, keeps one file for all processes of a user on this machine.

The rule of this file: all processes of a user find the same file. Of their environment, only
`BINANCE_OI_BUDGET_DIR` changes that.
"""

import time
from functools import partial
from pathlib import Path
from typing import Unpack

from binance_oi.arguments import StrPath, check_path
from binance_oi.budget import record, rolling
from binance_oi.budget.bucket import Bucket
from binance_oi.budget.knowledge import Known, Parts
from binance_oi.budget.place import ADVICE, budget_directory
from binance_oi.budget.pool import Options, ProcessBudget, fresh_state, steady_clock
from binance_oi.budget.pool_file import PoolFile, read_records
from binance_oi.budget.shared import SharedPool
from binance_oi.budget.stored import Store, keep_of_doubtful, reason_to_doubt
from binance_oi.budget.usage import Usage
from binance_oi.exchange.limits import WEIGHT, Limit

# How often `forget_pool` tries to take the lock, at most, and the seconds between two tries. If a
# suspended process has the lock, `PoolFile` replaces the file after 200 tries.
LOCK_TRIES, LOCK_PAUSE = 1000, 0.01


class MachineBudget(ProcessBudget):
    """A budget for every process of this user on this machine. The default.

    All these processes share one count of weight and one ban, even after a restart. A killed
    process blocks no other process. The others lose at most the weight that it had in flight or
    charged in advance, until the minute ends (for history requests: until the 5-minute window that
    counts them ends). The budget treats other users, containers and machines behind the same
    address as *others*: it sees their weight in the header, and leaves them room.

    Each user id has one place for the file: `/dev/shm/binance-oi-UID`, or the same directory in
    `/var/tmp` or `/tmp` if `/dev/shm` cannot be used. Of the environment, only
    `BINANCE_OI_BUDGET_DIR` changes this place, for containers that share a directory.

    If the file cannot be used, the process logs one warning and continues alone, like
    `ProcessBudget`. When it charges, it tries the file again: at first after a second, then after
    longer pauses, up to 30 s. With the first charge for which the file can be used, the process
    adds the weight that it charged alone, and adopts the cooldowns of the other processes.

    Args:
        directory: The directory of the file, instead of the default one. A relative path starts at
            the directory that is current now; a later change of directory does not move the file.
        options: The arguments of `ProcessBudget`, with the same defaults. Processes may differ in
            them. Each process leaves its own `reserve` unused in the common count. `share` bounds
            all processes together. The largest `interactive` of the processes that sent a request
            in this minute or the last five applies to all. `clock` must be the same in every
            process.

    Raises:
        TypeError: `directory` is not a path, or an option has a wrong type.
        ValueError: `directory` is empty, or cannot be a path on any system; or an option is out of
            range.
    """

    def __init__(
        self,
        *,
        directory: StrPath | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self._directory = _directory(directory)

    def close(self) -> None:
        """Refund weight charged in advance, and close the shared file. The rest stays charged."""
        for pool in list(self._pools.values()):
            pool.close()
        self._pools.clear()

    def _make_pool(self, name: str) -> SharedPool:
        open_store = partial(self._open, name)
        return SharedPool(self._make_bucket, self._fresh_state(), self._clock, open_store, ADVICE)

    def _open(self, name: str, current: Store | None) -> PoolFile:
        """Return the file of a pool: `current` if its directory is still right, or a new one."""
        directory = self._directory or budget_directory()
        if isinstance(current, PoolFile) and current.path.parent == directory:
            return current
        return PoolFile(directory, name)


def machine_pools(directory: StrPath | None = None) -> dict[str, Usage]:
    """Return the state of every pool of this user on this machine; send and change nothing.

    A record may be doubtful, for example if it was written before a reboot. Then its pool shows the
    cooldown of the record, and little else. If that cooldown is over, the result does not contain
    the pool.

    Args:
        directory: The directory of the file, instead of the default one.

    Returns:
        The usage of each pool, by the name of the pool.

    Raises:
        TypeError: `directory` is not a path.
        ValueError: `directory` is empty, or cannot be a path on any system.
        OSError: There is no suitable directory, or the file cannot be read now.
    """
    pools: dict[str, Usage] = {}
    for data in read_records(_directory(directory) or budget_directory()):
        found, now = record.decode(data), steady_clock()
        if found is None:
            continue
        known = found.state
        if reason_to_doubt(found, now):
            known = _fresh_like(found.state)
            keep_of_doubtful(known, found, now)
            if not known.is_held(now):
                continue
        kind = rolling.RollingBucket if rolling.is_rolling(known) else Bucket
        pools[found.pool] = kind(known, Parts()).usage(now)
    return pools


def _fresh_like(known: Known) -> Known:
    """Return the knowledge of a new pool of the same kind as the pool of `known`."""
    fresh = fresh_state(WEIGHT.most, steady_clock, time.time)
    if not rolling.is_rolling(known):
        return fresh
    window = known.windows[0]
    return rolling.fresh(fresh, Limit(window.seconds, window.most, window.counts_requests))


def _directory(named: StrPath | None) -> Path | None:
    if named is None:
        return None
    directory = check_path("directory", named).absolute()
    if "\0" in str(directory):  # `open` would raise a ValueError later, with the first request
        raise ValueError(f"directory must be a path: {str(directory)!r}")
    return directory


def forget_pool(name: str, directory: StrPath | None = None) -> bool:
    """Delete the record of one pool on this machine: its weight, its cooldown and its ban.

    The exchange does not forget them, and requests during a ban may make the ban longer. A running
    process that uses the pool still knows them, and writes them again.

    Args:
        name: The name of the pool, as in the result of `machine_pools`.
        directory: The directory of the file, instead of the default one.

    Returns:
        Whether there was a record.

    Raises:
        TypeError: `directory` is not a path.
        ValueError: `directory` is empty, or cannot be a path on any system.
        OSError: There is no suitable directory, or the file cannot be changed now. The record
            stays.
    """
    place = _directory(directory) or budget_directory()
    names = {found.pool for data in read_records(place) if (found := record.decode(data))}
    if name not in names:
        return False
    file = PoolFile(place, name)
    try:
        for _ in range(LOCK_TRIES):
            if file.lock():
                file.erase()
                file.unlock()
                return True
            time.sleep(LOCK_PAUSE)
    finally:
        file.close()
    raise TimeoutError(f"{file.path} is locked by another process")
