"""Fills in the slots of the requested schedule while a slower schedule runs.

The rule of this file: no I/O and no clock. Each requested slot gets a snapshot or is in a gap, even
while the slower schedule sweeps at other instants. Example: the user requested a sweep every 20 s,
but the schedule that runs sweeps every 60 s. Then the slots :20 and :40 become a gap with the
reason `budget`, before the snapshot of :00.
"""

from collections.abc import Iterator

from binance_oi.market.gap import Gap
from binance_oi.market.snapshot import Snapshot
from binance_oi.times import unix_ms


class RequestedSlots:
    """Accounts for each slot of the requested schedule.

    Args:
        period: From slot to slot, ms.
        begin: The first slot, Unix ms.
    """

    def __init__(self, period: int, begin: int) -> None:
        self._period = period
        self._next = begin  # the first slot that has neither a snapshot nor a gap yet

    def account(
        self, outcome: Snapshot | Gap, step: int, why: tuple[str, str]
    ) -> list[Snapshot | Gap]:
        """Return gaps for the requested slots before `outcome`, and `outcome` itself.

        Args:
            outcome: The outcome of a slot of the schedule that runs. In place of a gap with slots,
                the result has a gap of requested slots.
            step: From slot to slot of the schedule that runs, ms.
            why: The reason and the detail for requested slots that the running schedule omits.
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
        """Yield a gap of the slots before `end` that have neither a snapshot nor a gap, if any."""
        first, end = self._next, self._at_or_after(end)
        if first < end:
            self._next = end
            yield Gap(first, end - self._period, reason, detail)

    def _at_or_after(self, moment: int) -> int:
        return -(-moment // self._period) * self._period
