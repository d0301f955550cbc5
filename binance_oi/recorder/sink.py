"""The protocol of a store for sweeps and gaps: a file, a database, or a store of the user's own.

The rule of this file: the recorder decides when to store, and the sink decides how. When `save`
returns, it has stored everything. When `save` raises, it has stored nothing, or a second call with
the same arguments does no harm: a server may store a sweep, but its answer may get lost.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from binance_oi.encoding import Encodable
from binance_oi.errors import RecordingError, StorageError
from binance_oi.market.gap import Gap
from binance_oi.market.rows import InstantRow
from binance_oi.market.snapshot import Snapshot


class _Saved(NamedTuple):
    new: int
    """How many samples are new."""
    swept: int
    """How many slots of the gaps already had a sweep; those sweeps stay."""


class Saved(_Saved, Encodable):
    """The result of a write."""

    __slots__ = ()


@contextmanager
def as_unusable(sink: object, what: str) -> Generator[None]:
    """Turn a `StorageError`, after which a caller may try again, into a plain `RecordingError`.

    Raises:
        RecordingError: The message says that `sink` cannot be `what`, such as ``written``. It has
            the name of the sink only once.
    """
    try:
        yield
    except StorageError as error:
        reason = str(error).removeprefix(f"{sink}: ")
        raise RecordingError(f"{sink} cannot be {what}: {reason}") from error


class Sink(Protocol):
    """Stores the sweeps and gaps of one recorder. Its `str` names it in messages.

    The recorder calls a sink from one thread at a time, and not from the event loop's thread, so a
    call may wait for a disk or a server. Only `is_due` and `take_lost` may be called in any thread.
    Every other call may raise `StorageError`.
    """

    def claim(self, clock: Callable[[], float]) -> None:
        """Exclude other recorders, and check that this one may record here. It stores nothing.

        Args:
            clock: Returns monotonic seconds.

        Raises:
            OccupiedError: Another recorder has claimed the store. A standby tries again later.
            RecordingError: The store has another source, or cannot be a recording.
        """
        ...

    def open(self) -> None:
        """Create the store, or continue an existing one.

        Raises:
            RecordingError: Something that is not a recording is in the store's place.
        """
        ...

    def last_slot(self, before: int | None = None) -> int | None:
        """Return the last slot before `before` with a sweep or a gap; None if no slot has either.

        Slots of pruned days count too.

        Args:
            before: Unix ms; None for the last slot of all.
        """
        ...

    def save(self, sweep: Snapshot | None, gaps: Sequence[Gap], period: int) -> Saved:
        """Store a sweep and gaps, all or nothing.

        If a slot has a sweep already, that sweep stays, and no gap covers the slot. Of the new
        sweep only the samples are stored.

        Args:
            sweep: A sweep with its slot; None if there are only gaps.
            gaps: Slots without a sweep.
            period: From slot to slot, ms.

        Raises:
            OccupiedError: Another recorder has taken over the store since the last call.
        """
        ...

    def save_past(self, rows: Sequence[InstantRow]) -> int:
        """Store rows of the past beside the sweeps, all or nothing.

        There is at most one row for each symbol, instant and source. A new row replaces the numbers
        of a stored one, because the exchange may correct its archive. No sweep, sample or gap
        changes.

        Args:
            rows: The rows, in any order, with or without repetitions. Rows sorted by symbol and
                time are the fastest.

        Returns:
            The number of rows that are new or have new numbers.
        """
        ...

    def past_times(self, symbol: str, source: int, first: int, last: int) -> list[int]:
        """Return the stored instants of one symbol and source, sorted, in Unix ms.

        Args:
            symbol: The symbol.
            source: The number of the source; see `binance_oi.market.rows.SOURCES`.
            first: The first instant, Unix ms, included.
            last: The last instant, Unix ms, included. Thirty days have 8640 instants.
        """
        ...

    def gaps_since(self, since: int) -> list[tuple[str, Gap, int]]:
        """Return the stored gaps that end at `since` (Unix ms) or later, the oldest first.

        Returns:
            For each gap: its symbol, which is empty for a gap of whole sweeps; the gap; its period
            in ms.
        """
        ...

    def is_due(self) -> bool:
        """Whether `tidy` must run now instead of after the next sweep. Called in any thread."""
        ...

    def tidy(self) -> None:
        """Do work that can wait, such as deleting old days. Called between two sweeps."""
        ...

    def take_lost(self) -> int:
        """Return how many stored sweeps were lost since the last call. Called in any thread."""
        ...

    def close(self) -> None:
        """Let other recorders record here. Afterwards, this sink can claim the store again.

        The recorder may call it twice, or after a `claim` that raised.
        """
        ...
