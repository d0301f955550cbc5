"""Where a recorder puts sweeps and gaps: a file, or whatever else can keep them.

The rule of this file: a sink knows how to store, and nothing about when. What `save` returned from
is stored, whole; what it raised from is not there at all.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from binance_oi.encoding import Encodable
from binance_oi.market.gap import Gap
from binance_oi.market.snapshot import Snapshot


class _Saved(NamedTuple):
    new: int
    """Samples that were not there."""
    swept: int
    """Slots of the gaps that have a sweep, which stays."""


class Saved(_Saved, Encodable):
    """What a write has changed."""

    __slots__ = ()


class Sink(Protocol):
    """Stores what a recorder reads. Its `str` names it in messages.

    It belongs to one recorder. One thread uses it at a time, and any call may take as long as a
    disk does. Every call but `is_due` and `take_lost` may raise `StorageError`.
    """

    def claim(self, clock: Callable[[], float]) -> None:
        """Keep other recorders away, and see that this one may go on here; stores nothing.

        Args:
            clock: Seconds that only grow.

        Raises:
            RecordingError: Another recorder has it, or it is of another source.
        """
        ...

    def open(self) -> None:
        """Make it, or go on with what is there.

        Raises:
            RecordingError: It is not a recording, or not ours.
        """
        ...

    def last_slot(self, before: int | None = None) -> int | None:
        """The last slot before `before` of which something is known, Unix ms."""
        ...

    def save(self, sweep: Snapshot | None, gaps: Sequence[Gap], period: int) -> Saved:
        """Store a sweep and gaps, all or nothing.

        A slot that has a sweep keeps it: of a second one, only the observations are stored, and no
        gap covers it.

        Args:
            sweep: With its slot; None when there are only gaps.
            gaps: Slots without a sweep.
            period: From slot to slot, ms.
        """
        ...

    def is_due(self) -> bool:
        """Whether `tidy` must come now and not only after the next sweep; from any thread."""
        ...

    def tidy(self) -> None:
        """Put what is stored where it belongs; for the time between two sweeps."""
        ...

    def take_lost(self) -> int:
        """Sweeps that were stored and are lost since the last call; from any thread."""
        ...

    def close(self) -> None:
        """Let others record here, also after a `claim` that failed.

        May be repeated, and the sink claimed again.
        """
        ...
