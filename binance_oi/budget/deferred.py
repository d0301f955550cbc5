"""A pool that writes its changes into a shared record later: the base of two kinds of pools.

One kind shares a file (`stored`), the other a record on a server (`record_pool`). The rule of this
file: every cooldown goes through `_hold`, and a forked child does not use its parent's receipts.
"""

from abc import ABC, abstractmethod
from operator import methodcaller

from binance_oi import fork
from binance_oi.budget.pool import Change, ProcessPool
from binance_oi.budget.usage import Receipt


class DeferredPool(ProcessPool, ABC):
    """A pool that applies changes to its own books, and writes them into a record afterwards."""

    _process: object
    _inherited_until: float  # s by the pool's clock; a receipt charged by then is our parent's

    def hold(self, seconds: float, *, ban: bool = False) -> None:
        """See `Pool.hold`."""
        self._hold(methodcaller("hold", self._clock(), seconds, ban=ban))

    def hold_until(self, until: float, *, ban: bool = False) -> None:
        """See `Pool.hold_until`."""
        self._hold(methodcaller("hold_until", until, ban=ban))

    def refused(self, seconds: float, *, ban: bool = False) -> None:
        """See `Pool.refused`."""
        self._hold(methodcaller("refused", self._clock(), seconds, ban=ban))

    @abstractmethod
    def _hold(self, change: Change) -> None:
        """Begin a cooldown, and publish it at once to all processes that use the record."""
        ...

    @abstractmethod
    def _notice_fork(self) -> None:
        """In a forked child, begin with books of our own."""
        ...

    def _is_of_parent(self, receipt: Receipt) -> bool:
        """Whether our parent charged the receipt before a fork. Then only the parent may use it."""
        if self._process is not fork.current:
            self._notice_fork()
        return receipt.sent <= self._inherited_until
