"""A pool of another limit, beside the minute pool of the same IP address.

The rule of this file: the two pools count separately, and a ban stops both. Every cooldown of the
minute pool stops this pool too, because more requests after a refusal may cause a ban, and requests
for the past can wait. A 429 of this limit stops only this pool.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from binance_oi.budget.pool import Budget, Pool
from binance_oi.budget.usage import Reason, Receipt, Usage, Wait
from binance_oi.exchange.limits import Limit


class PoolBeside:
    """A `Pool` of a limit that the exchange counts separately from the minute.

    Args:
        own: The pool of that limit.
        minute: The minute pool, which knows every ban and every refusal of the firewall.
    """

    def __init__(self, own: Pool, minute: Pool) -> None:
        self._own = own
        self._minute = minute

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._own!r}>"

    def charge(self, weight: int, waiting: int = 0, bulk: bool = False) -> Receipt | Wait:
        """See `Pool.charge`."""
        left = self._minute.held_for()
        if left:
            return Wait(left, Reason.COOLDOWN, left)
        return self._own.charge(weight, waiting, bulk)

    def listen(self, callback: Callable[[], object]) -> Callable[[], None]:
        """See `Pool.listen`."""
        stops = self._own.listen(callback), self._minute.listen(callback)

        def stop() -> None:
            for each in stops:
                each()

        return stop

    def sending(self, receipt: Receipt) -> Receipt | None:
        """See `Pool.sending`."""
        return None if self._minute.held_for() else self._own.sending(receipt)

    def room_in(self, weight: int, bulk: bool = False) -> float | None:
        """See `Pool.room_in`."""
        seconds = self._own.room_in(weight, bulk)
        return None if seconds is None else max(seconds, self._minute.held_for())

    def settle(self, receipt: Receipt, used: int | None, date: float | None) -> None:
        """See `Pool.settle`."""
        self._own.settle(receipt, used, date)

    def lose(self, receipt: Receipt) -> None:
        """See `Pool.lose`."""
        self._own.lose(receipt)

    def refund(self, receipt: Receipt) -> None:
        """See `Pool.refund`."""
        self._own.refund(receipt)

    def hold(self, seconds: float, *, ban: bool = False) -> None:
        """See `Pool.hold`. Both pools stop: a firewall or a ban refuses the whole address."""
        self._minute.hold(seconds, ban=ban)
        self._own.hold(seconds, ban=ban)

    def hold_until(self, until: float, *, ban: bool = False) -> None:
        """See `Pool.hold_until`. Both pools stop, because a ban applies to the whole address."""
        self._minute.hold_until(until, ban=ban)
        self._own.hold_until(until, ban=ban)

    def refused(self, seconds: float, *, ban: bool = False) -> None:
        """See `Pool.refused`."""
        if ban:
            self._minute.hold(seconds, ban=True)
        self._own.refused(seconds, ban=ban)

    def settle_refused(
        self, receipt: Receipt, used: int | None, date: float | None, seconds: float, *, ban: bool
    ) -> None:
        """See `Pool.settle_refused`."""
        if ban:
            self._minute.hold(seconds, ban=True)
        self._own.settle_refused(receipt, used, date, seconds, ban=ban)

    def set_limit(self, limit: int) -> None:
        """Ignore the limit of a minute, because this pool has another limit."""

    def set_limits(self, limit: int | None, others: Sequence[Limit]) -> None:
        """Ignore the limits that the exchange announces: they do not include this pool's."""

    def declare(self, key: object, weight: float, *, anew: bool = False) -> None:
        """See `Pool.declare`. It is for this pool alone: the minute pool has other pollers."""
        self._own.declare(key, weight, anew=anew)

    def demand(self, key: object) -> float:
        """See `Pool.demand`."""
        return self._own.demand(key)

    def when_idle(self) -> bool:
        """See `Pool.when_idle`. The minute pool has other callers."""
        return self._own.when_idle()

    def flush(self) -> None:
        """See `Pool.flush`. It flushes only this pool: the minute pool has other callers.

        Answers under this limit have no count, so no other process waits for our settlements. Until
        the pool writes a settlement, other processes keep the weight of that request some seconds
        too long.
        """
        self._own.flush()

    def close(self) -> None:
        """See `Pool.close`; the minute pool stays open."""
        self._own.close()

    def held_for(self, *, ban: bool = False) -> float:
        """See `Pool.held_for`."""
        return max(self._own.held_for(ban=ban), self._minute.held_for(ban=ban))

    @property
    def exchange_time(self) -> float:
        """See `Pool.exchange_time`."""
        return self._own.exchange_time

    @property
    def usage(self) -> Usage:
        """See `Pool.usage`; it shows the later cooldown of the two pools."""
        own, minute = self._own.usage, self._minute.usage
        return replace(
            own,
            held_until=_later(own.held_until, minute.held_until),
            banned_until=_later(own.banned_until, minute.banned_until),
        )


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((each for each in (one, other) if each is not None), default=None)


def pool_of(budget: Budget, name: str, limit: Limit) -> PoolBeside:
    """Return the pool of `limit` in `budget`, beside the minute pool of the same name."""
    return PoolBeside(budget.pool(name, limit), budget.pool(name))
