"""The slots of the schedule that was asked for, while a slower one is kept.

The rule of this file: pure. Each slot that was asked for is swept or in a gap, also while sweeps
come at other instants.
"""

from collections.abc import Iterator

from binance_oi.market.gap import Gap
from binance_oi.market.snapshot import Snapshot
from binance_oi.times import unix_ms


class Asked:
    """What has become of the slots that were asked for.

    Args:
        period: From one to the next, ms.
        begin: The first one, Unix ms.
    """

    def __init__(self, period: int, begin: int) -> None:
        self._period = period
        self._next = begin  # the first one of which nothing is known

    def account(
        self, outcome: Snapshot | Gap, step: int, why: tuple[str, str]
    ) -> list[Snapshot | Gap]:
        """`outcome` of the schedule that is kept, and what is missing of the other before it.

        Args:
            outcome: A gap is given for the slots that were asked for instead of its own.
            step: From slot to slot of the schedule that is kept, ms.
            why: Reason and detail of slots that it leaves out.
        """
        if isinstance(outcome, Snapshot):
            assert outcome.slot is not None
            slot = unix_ms(outcome.slot)
            left_out = list(self._until(slot, *why))
            self._next = max(self._next, (slot // self._period + 1) * self._period)
            return [*left_out, outcome]
        if outcome.last < outcome.first:  # the clock was set back
            self._next = self._at_or_after(outcome.first)
            return [outcome]
        left_out = list(self._until(outcome.first, *why))
        return [*left_out, *self._until(outcome.last + step, outcome.reason, outcome.detail)]

    def _until(self, end: int, reason: str, detail: str) -> Iterator[Gap]:
        """What is missing before `end`."""
        first, end = self._next, self._at_or_after(end)
        if first < end:
            self._next = end
            yield Gap(first, end - self._period, reason, detail)

    def _at_or_after(self, moment: int) -> int:
        return -(-moment // self._period) * self._period
