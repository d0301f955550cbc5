"""Decides whether a request may be sent now, and shares that decision between clients.

`README.md` in this folder explains the guarantee, the facts behind it, and every rule.

boot.py          identifies the current boot of the machine
window.py        limits whose use no header reports, such as one of 10 s
demand.py        the weight that pollers plan to use; only information for other pollers
process.py       identifies the process that declared a demand, and checks whether it has ended
usage.py         the values that a budget returns
tuning.py        every number of the decision
server_clock.py  our estimate of the exchange's clock: an interval around ours
ledger.py        the most that the exchange may have counted, by minute
bursts.py        the room for bursts of other clients, which may come at any second
others.py        the use of other clients, and a forecast of it
knowledge.py     everything we know about an IP address, as numbers that processes can share
attribution.py   finds the minute that counted a request
probing.py       decides when to send a probe, and how much weight it may use
admission.py     the rules that decide
learning.py      what the budget learns from answers and refusals
bucket.py        the token bucket: asks the rules, books, and settles
rolling.py       the bucket of a limit that no header reports
record.py        the shared knowledge as a record: encoding, checks and merging
place.py         finds the directory of the shared file for a user id
pool_file.py     the shared file: its records and its lock
pool.py          pools share a bucket between clients; `ProcessBudget`, for one process
beside.py        a pool of another limit, which also obeys the cooldowns of the minute limit
deferred.py      a pool whose changes reach its record later
stored.py        how a pool uses the shared record, goes on without it, and joins it again
shared.py        the pool that processes share: leases, late settlements
machine.py       `MachineBudget`: one file for all processes of a user
journal.py       what one process (a member) has booked in a record on a server
record_time.py   the clock of a record on a server; it does not jump when the server's does
record_server.py the interface of that server: one step that swaps the record
member_record.py the content of that record: the shared knowledge, and a line for each member
record_pool.py   a pool whose record is on a server; books lost changes again
turns.py         chooses the calls to the server, and handles its answers
apart.py         how a member continues while the server is lost
member.py        the pool of one member
courier.py       the task that talks to the server
redis_server.py  Redis or Valkey as that server
redis.py         `RedisBudget`: one budget for several machines
"""

from typing import TYPE_CHECKING

from binance_oi.budget.machine import MachineBudget, forget_pool, machine_pools
from binance_oi.budget.pool import Budget, Clock, Pool, ProcessBudget, steady_clock
from binance_oi.budget.usage import Reason, Receipt, Usage, Wait
from binance_oi.lazy import on_first_use

if TYPE_CHECKING:
    from binance_oi.budget.redis import RedisBudget, redis_pools

__all__ = [
    "Budget",
    "Clock",
    "MachineBudget",
    "Pool",
    "ProcessBudget",
    "Reason",
    "Receipt",
    "RedisBudget",
    "Usage",
    "Wait",
    "forget_pool",
    "machine_pools",
    "redis_pools",
    "steady_clock",
]

if not TYPE_CHECKING:  # most programs need no server
    __getattr__ = on_first_use(__name__, {"redis": ("RedisBudget", "redis_pools")})
