"""Where a recorder stores sweeps and gaps: a file, or anything else that can keep them.

The rule of this file: a sink knows how to store, and the recorder knows when. When `save` returns,
everything is stored; when it raises, nothing is.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from binance_oi.encoding import Encodable
from binance_oi.market.gap import Gap
from binance_oi.market.rows import InstantRow
from binance_oi.market.snapshot import Snapshot


class _Saved(NamedTuple):
    new: int
    """New samples."""
    swept: int
    """Slots of the gaps that already have a sweep, which stays."""


class Saved(_Saved, Encodable):
    """What a write has changed."""

    __slots__ = ()


class Sink(Protocol):
    """Stores what a recorder reads. Its `str` names it in messages.

    A sink belongs to one recorder. One thread uses it at a time, and a call may take as long as a
    disk does. Every call but `is_due` and `take_lost` may raise `StorageError`.
    """

    def claim(self, clock: Callable[[], float]) -> None:
        """Exclude other recorders, and check that this one may continue here; stores nothing.

        Args:
            clock: Monotonic seconds.

        Raises:
            OccupiedError: Another recorder has claimed the place. A standby claims again later.
            RecordingError: The source is another one, or this is no place for a recording.
        """
        ...

    def open(self) -> None:
        """Make the store, or continue an existing one.

        Raises:
            RecordingError: What is there is not a recording.
        """
        ...

    def last_slot(self, before: int | None = None) -> int | None:
        """The last slot before `before` that has a sweep or a gap, Unix ms."""
        ...

    def save(self, sweep: Snapshot | None, gaps: Sequence[Gap], period: int) -> Saved:
        """Store a sweep and gaps, all or nothing.

        A slot that has a sweep keeps it. Of a second sweep, only the observations are stored, and
        no gap covers the slot.

        Args:
            sweep: A sweep with its slot; None when there are only gaps.
            gaps: Slots without a sweep.
            period: From slot to slot, ms.

        Raises:
            OccupiedError: Another recorder has taken the place over since the last call.
        """
        ...

    def save_past(self, rows: Sequence[InstantRow]) -> int:
        """Store instants of the past beside the sweeps, all or nothing.

        A row is there once for each symbol, instant and source. Stored again, it gets the numbers
        of the last call: the exchange corrects its archive. No sweep, sample or gap changes.

        Args:
            rows: In the order of their symbols and times, which is the cheapest; any order is
                allowed, also rows that repeat.

        Returns:
            The number of rows that are new or have new numbers.
        """
        ...

    def past_times(self, symbol: str, source: int, first: int, last: int) -> list[int]:
        """The instants of one symbol and source that are stored, sorted.

        Args:
            symbol: A name.
            source: Its number; see `binance_oi.market.rows.SOURCES`.
            first: Unix ms, included.
            last: Unix ms, included. Thirty days have 8640 instants.
        """
        ...

    def gaps_since(self, since: int) -> list[tuple[str, Gap, int]]:
        """Stored gaps that end at `since` (Unix ms) or later, the oldest first.

        Returns:
            The symbol, empty for a gap of the whole sweep; the gap; its period in ms.
        """
        ...

    def is_due(self) -> bool:
        """Whether `tidy` must run now, and not only after the next sweep. Called in any thread."""
        ...

    def tidy(self) -> None:
        """Do deferred work on what is stored. The recorder calls it between two sweeps."""
        ...

    def take_lost(self) -> int:
        """The number of stored sweeps lost since the last call. Called in any thread."""
        ...

    def close(self) -> None:
        """Let others record here, also after a `claim` that failed.

        May be repeated. The sink may be claimed again.
        """
        ...
