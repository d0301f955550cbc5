"""One file for all processes of a user on this machine: `MachineBudget`, the default.

The rule of this file: all processes of a user find the same file, whatever their environment is.
"""

from functools import partial
from pathlib import Path
from typing import Unpack

from binance_oi.budget import record, rolling
from binance_oi.budget.bucket import Bucket
from binance_oi.budget.place import ADVICE, budget_directory
from binance_oi.budget.pool import Options, ProcessBudget, steady_clock
from binance_oi.budget.pool_file import PoolFile, read_records
from binance_oi.budget.shared import SharedPool
from binance_oi.budget.stored import Store, reason_to_doubt
from binance_oi.budget.usage import Usage


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
        directory: Where the file is, instead of the place of this user id.
        options: The arguments of `ProcessBudget`, with its defaults. Each process keeps its own
            `reserve`, on the common count; `share` is that of all processes together; `clock` is
            the same in every process.
    """

    def __init__(
        self,
        *,
        directory: str | Path | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self._directory = None if directory is None else Path(directory)

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


def machine_pools(directory: Path | None = None) -> dict[str, Usage]:
    """What is known of every pool on this machine; sends nothing and changes nothing."""
    pools: dict[str, Usage] = {}
    for data in read_records(directory or budget_directory()):
        found, now = record.decode(data), steady_clock()
        if found is not None and not reason_to_doubt(found, now):
            kind = rolling.RollingBucket if rolling.is_rolling(found.state) else Bucket
            pools[found.pool] = kind(found.state).usage(now)
    return pools
