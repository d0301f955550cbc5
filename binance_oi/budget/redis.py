"""`RedisBudget` shares one budget between several machines, through Redis or Valkey.

The rule of this file: machines share a budget if the exchange sees them under one IP address. A
machine cannot find out its public address, so the caller names that address in `egress`.
"""

from copy import copy
from typing import NamedTuple, Unpack, get_args

from binance_oi.budget import member_record, record, rolling
from binance_oi.budget.apart import WithoutServer
from binance_oi.budget.bucket import Bucket
from binance_oi.budget.courier import Courier
from binance_oi.budget.knowledge import Known, Parts
from binance_oi.budget.member import MemberPool
from binance_oi.budget.place import budget_directory
from binance_oi.budget.pool import Clock, Options, ProcessBudget, fresh_state, steady_clock
from binance_oi.budget.pool_file import read_records
from binance_oi.budget.record_pool import logger
from binance_oi.budget.record_server import RecordServer
from binance_oi.budget.redis_server import RedisServer, check_egress, make_client
from binance_oi.budget.server_clock import MINUTE
from binance_oi.budget.stored import reason_to_doubt
from binance_oi.budget.usage import Usage


class RedisBudget(ProcessBudget):
    """A budget for every process on every machine behind one IP address.

    All processes share one count of weight, one count of requests for the past, and one ban. If a
    process is killed, the others continue. The weight that it had in flight or charged in advance
    may stay charged until the minute ends, and a request for the past until its window ends.

    The budget needs the extra `redis`, and a server that answers within half a second: Redis 6.2 or
    later, Valkey, or a cluster. Anybody who may write the keys on that server can stop all these
    processes.

    When a process loses the server, it logs one warning. With `"share"` it then uses a part of the
    limit: the limit divided by the number of processes that it saw in the budget, or by two if it
    saw only itself. If others were killed or lost the server in the last five minutes, it divides
    only what their parts leave. It sends again in the next minute. If enough weight is left in the
    present minute, it sends as soon as the exchange has counted all that the others sent before.
    With `"wait"` it sends nothing. Either way it obeys the last ban that it knows. When the server
    is back, each process books the weight that it used meanwhile.

    The budget belongs to one event loop at a time, and to the process that made it. A forked child
    takes part as another process. Close the budget with `await budget.aclose()`. Otherwise weight
    that it charged in advance may stay charged until its minute ends.

    Args:
        server: A URL (`redis://`, `rediss://`, `unix://`, with a user and a password if needed), or
            a client of `redis.asyncio`, for example for a cluster or for Sentinel. You close that
            client yourself.
        egress: A name for the IP address that the exchange sees. Use the same name in all processes
            behind that address, and in no other. 1 to 64 letters, digits, dots, colons, hyphens and
            underscores; the first is a letter or a digit.
        without_server: What to do while the server is lost: `"share"` or `"wait"`, see above.
        options: The arguments of `ProcessBudget`, with its defaults. Each process applies its own
            `reserve` to the common count. `share` is the share of all processes together.

    Raises:
        ModuleNotFoundError: The extra `redis` is not installed.
        TypeError: An argument has a wrong type.
        ValueError: An argument is out of range, the URL is invalid, or the client decodes its
            answers (`decode_responses=True`).
    """

    def __init__(
        self,
        server: object,
        *,
        egress: str,
        without_server: WithoutServer = "share",
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self._egress = check_egress(egress)
        if without_server not in get_args(WithoutServer):
            raise ValueError(f"without_server must be 'share' or 'wait': {without_server!r}")
        self._without_server: WithoutServer = without_server
        make_client(server)
        self._server = server
        self._couriers: dict[str, Courier] = {}

    def close(self) -> None:
        """Drop the connections. Weight charged in advance may stay charged; see `aclose`."""
        for courier in list(self._couriers.values()):
            courier.close()
        self._couriers.clear()
        self._pools.clear()

    async def aclose(self) -> None:
        """Refund the weight that is charged in advance, write the late changes, and disconnect.

        A request that is still under way stays charged until its minute ends. A second call does
        nothing. A later charge connects again.

        Raises:
            ClientClosedError: The budget belongs to another event loop, which is running.
        """
        for courier in list(self._couriers.values()):
            await courier.aclose()

    def _make_pool(self, name: str) -> MemberPool:
        if _is_used_on_this_machine(name):
            logger.warning(
                "another process of this machine uses MachineBudget for %s: it is not part of this"
                " budget, so its requests are those of others",
                name,
            )
        pool = MemberPool(
            self._make_part, self._make_state, self._clock, self._wall, self._without_server
        )
        self._couriers[name] = Courier(pool, name, self._connect, self._clock)
        return pool

    def _connect(self) -> RecordServer:
        return RedisServer(self._server, self._egress)

    def _make_part(self, state: Known, members: int = 1) -> Bucket:
        """Make a bucket with our share, or with an even part of the limit for one of `members`."""
        if members == 1:
            return self._make_bucket(state)
        part = copy(self)
        part._parts = self._parts._replace(share=min(self._parts.share, 1.0 / members))
        return part._make_bucket(state)

    def _make_state(self, clock: Clock) -> Known:
        state = fresh_state(self._limit, clock, self._wall)
        return state if self._rolling is None else rolling.fresh(state, self._rolling)


def _is_used_on_this_machine(name: str) -> bool:
    """Whether a process of this machine used `MachineBudget` for this pool in the last minute."""
    try:
        pages = list(read_records(budget_directory()))
    except OSError:
        return False
    found = [each for each in map(record.decode, pages) if each is not None and each.pool == name]
    now = steady_clock()
    return any(
        not reason_to_doubt(each, now) and now - each.state.clock.at < MINUTE for each in found
    )


class SharedUsage(NamedTuple):
    """The state of one pool on a server."""

    usage: Usage
    members: int
    """The number of processes that took part in this minute or in the minute before."""


async def redis_pools(server: object, egress: str) -> dict[str, SharedUsage]:
    """Read the state of every pool behind one address, by the name of the pool; change nothing.

    Args:
        server: See `RedisBudget`.
        egress: See `RedisBudget`.

    Raises:
        ServerError: The server does not answer.
        ModuleNotFoundError, TypeError, ValueError: See `RedisBudget`.
    """
    made = RedisServer(server, check_egress(egress))
    try:
        found = await made.records()
    finally:
        await made.aclose()
    pools: dict[str, SharedUsage] = {}
    for name, (data, time) in found.items():
        shared = member_record.decode(data)
        if shared is not None:
            now = time + shared.shift
            kind = rolling.RollingBucket if rolling.is_rolling(shared.state) else Bucket
            members = shared.seen(shared.state.clock.likeliest(now))
            pools[name] = SharedUsage(kind(shared.state, Parts()).usage(now), members)
    return pools
