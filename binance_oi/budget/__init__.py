"""May a request be sent now, and who shares the answer.

`README.md` in this folder is the theory of operation: the guarantee, what it rests on, the rules.

boot.py          which run of the machine this is
window.py        limits of other spans than a minute
demand.py        what pollers are going to need: for plans, never for a request
process.py       which process a demand is of, and whether that has ended
usage.py         the values that a budget hands out
tuning.py        every number of the decision
server_clock.py  the exchange's clock: an interval around ours
ledger.py        the most that the exchange may have counted, by minute
attribution.py   which minute counted a request
others.py        what other clients used, and may still use
knowledge.py     all of that, as numbers that processes can share
probing.py       when to look at the exchange's count, and who pays
admission.py     the rules that decide
learning.py      what an answer and a refusal teach
bucket.py        the token bucket: asks the rules, books, and settles
rolling.py       the bucket of a limit without a header
record.py        what is known, as a record that another process may believe
place.py         where the shared file is, for one user id
pool_file.py     the shared file: records, locks
pool.py          who shares a bucket: `ProcessBudget`, for one process
beside.py        a pool of another limit, beside the minute's
stored.py        entering the shared record, going on alone and joining again
shared.py        leases and late settlements: the pool that processes share
machine.py       `MachineBudget`: one file for all processes of a user
"""

from binance_oi.budget.machine import MachineBudget, forget_pool, machine_pools
from binance_oi.budget.pool import Budget, Clock, Pool, ProcessBudget, steady_clock
from binance_oi.budget.usage import Reason, Receipt, Usage, Wait

__all__ = [
    "Budget",
    "Clock",
    "MachineBudget",
    "Pool",
    "ProcessBudget",
    "Reason",
    "Receipt",
    "Usage",
    "Wait",
    "forget_pool",
    "machine_pools",
    "steady_clock",
]
