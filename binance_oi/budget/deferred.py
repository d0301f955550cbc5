"""A pool whose changes reach its record later: what its file and its server have in common.

The rule of this file: a cooldown is a change like any other, and a process keeps no receipt that
its parent charged before a fork.
"""

from abc import ABC, abstractmethod
from operator import methodcaller

from binance_oi import fork
from binance_oi.budget.pool import Change, ProcessPool
from binance_oi.budget.usage import Receipt


class DeferredPool(ProcessPool, ABC):
    """A pool that applies changes to its own books, and writes them into a record afterwards."""

    _process: object
    _inherited_until: float  # by the clock of the pool; earlier receipts are our parent's

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
        """Begin a cooldown, and let the others who use the record know at once."""
        ...

    @abstractmethod
    def _notice_fork(self) -> None:
        """Become a process of its own if this is a child of the one that made the pool."""
        ...

    def _is_of_parent(self, receipt: Receipt) -> bool:
        """Whether our parent charged it before a fork: the call is under way there, not here."""
        if self._process is not fork.current:
            self._notice_fork()
        return receipt.sent <= self._inherited_until
