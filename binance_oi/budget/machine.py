"""One file for all processes of a user on this machine: `MachineBudget`, the default.

The rule of this file: all processes of a user find the same file, whatever their environment is.
"""

import time
from functools import partial
from pathlib import Path
from typing import Unpack

from binance_oi.arguments import StrPath, check_path
from binance_oi.budget import record, rolling
from binance_oi.budget.bucket import Bucket
from binance_oi.budget.knowledge import Known
from binance_oi.budget.place import ADVICE, budget_directory
from binance_oi.budget.pool import Options, ProcessBudget, fresh_state, steady_clock
from binance_oi.budget.pool_file import PoolFile, read_records
from binance_oi.budget.shared import SharedPool
from binance_oi.budget.stored import Store, keep_of_doubtful, reason_to_doubt
from binance_oi.budget.usage import Usage
from binance_oi.exchange.limits import WEIGHT, Limit

LOCK_TRIES, LOCK_PAUSE = 1000, 0.01  # and s between them; after 200 a lock that is stuck is left


class MachineBudget(ProcessBudget):
    """A budget for every process of this user on this machine. The default.

    All of them obey one bucket and one ban, also after a restart. A process that is killed blocks
    nobody, and costs at most what it had in flight, until the minute ends. Other users, containers
    and other machines behind the same address are *others*: seen in the header, and given room.

    The file is in one place for each user id, whatever the environment of the process is: in
    `/dev/shm/binance-oi-UID`, or in the same directory of `/var/tmp` or `/tmp` where that place
    cannot be used. `BINANCE_OI_BUDGET_DIR` names another directory, for containers that share one.

    While the file cannot be used, the process says so once, goes on like `ProcessBudget`, and tries
    again at each charge, every second at first and every 30 s at last. When it can, it adds what it
    has charged meanwhile, and obeys the holds of others before it charges anything more.

    Args:
        directory: Where the file is, instead of the place of this user id. A relative path
            starts at the directory that is current now, wherever the process goes later.
        options: The arguments of `ProcessBudget`, with its defaults. Each process keeps its own
            `reserve`, on the common count; `share` is that of all processes together; of
            `interactive` the largest counts among those that sent something in the last five
            minutes; `clock` is the same in every process.

    Raises:
        TypeError: `directory` is no path.
        ValueError: `directory` is empty, or no system has such a path.
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
        """Close the shared file. What was charged stays charged."""
        for pool in list(self._pools.values()):
            pool.close()
        self._pools.clear()

    def _make_pool(self, name: str) -> SharedPool:
        open_store = partial(self._open, name)
        return SharedPool(self._make_bucket, self._fresh_state(), self._clock, open_store, ADVICE)

    def _open(self, name: str, current: Store | None) -> PoolFile:
        """The file of that pool: `current`, if it is still where it has to be, or another one."""
        directory = self._directory or budget_directory()
        if isinstance(current, PoolFile) and current.path.parent == directory:
            return current
        return PoolFile(directory, name)


def machine_pools(directory: StrPath | None = None) -> dict[str, Usage]:
    """What is known of every pool on this machine; sends nothing and changes nothing.

    Of a record that is not believed, such as one from before a restart of the machine, the holds
    count all the same; without one it is left out.
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
        pools[found.pool] = kind(known).usage(now)
    return pools


def _fresh_like(known: Known) -> Known:
    """What is known of the same limit at first."""
    fresh = fresh_state(WEIGHT.most, steady_clock, time.time)
    if not rolling.is_rolling(known):
        return fresh
    window = known.windows[0]
    return rolling.fresh(fresh, Limit(window.seconds, window.most, window.counts_requests))


def _directory(named: StrPath | None) -> Path | None:
    if named is None:
        return None
    directory = check_path("directory", named).absolute()
    if "\0" in str(directory):  # opening it would raise no OSError, with the first request
        raise ValueError(f"directory must be a path: {str(directory)!r}")
    return directory


def forget_pool(name: str, directory: StrPath | None = None) -> bool:
    """Forget all that is known of one pool on this machine: weight, holds, and a ban.

    The exchange forgets nothing: who sends during a ban makes it longer. A process that runs and
    has used this pool still knows it, and writes it again.

    Args:
        name: Of the pool, as `machine_pools` names it.
        directory: Where the file is, instead of the place of this user id.

    Returns:
        Whether there was something to forget.

    Raises:
        TypeError: `directory` is no path.
        ValueError: `directory` is empty, or no system has such a path.
        OSError: The file cannot be changed now; nothing is forgotten.
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
