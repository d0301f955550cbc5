"""The protocol through which readers use a recording, in a file or in a database.

The rule of this file: readers use `Tables`, as recorders use `Sink`. The SQL that reads sweeps and
gaps is the same for both kinds of store (see `coverage`). Samples are stored differently, so each
kind has its own `Queries` for them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from binance_oi.recorder.statements import Statements

ALL_TIME_MS: tuple[int, int] = (0, 1 << 62)  # Unix ms
# Unix ms. All slots, even those that damage has moved to before 1970.
ALWAYS: tuple[int, int] = (-(1 << 62), 1 << 62)

BY_TIME, FIRST, LAST = "ORDER BY time", "ORDER BY time LIMIT 1", "ORDER BY time DESC LIMIT 1"


class Steps(NamedTuple):
    """Three queries on the samples of one table, for one symbol and span.

    ``?1`` is the symbol. ``?2`` and ``?3`` are the first and last time of the span, both included,
    in Unix ms. `samples` and `last` find rows in the order of time. Each row has the time, the open
    interest and the mark price.
    """

    number: str
    """Counts the samples."""
    samples: str
    """Finds all samples."""
    last: str
    """Finds the last sample of each step of ``?4`` ms."""


class Queries(NamedTuple):
    """The queries with which one kind of store finds samples.

    ``?1`` is a symbol. ``?2`` (included) and ``?3`` (not included) bound a span, in Unix ms.
    """

    symbols: str
    """Finds every symbol, sorted."""
    samples: str
    """Finds the samples of one symbol, in no particular order, with numbers as text."""
    ends: str
    """Finds the first and the last time of one symbol in each table, each in a row of its own. The
    time is NULL if the table has no such sample."""
    numbers: str
    """Finds whether one symbol has mark prices, and whether any of its numbers has more digits than
    the usual Arrow columns hold."""
    steps: tuple[Steps, ...]
    """One `Steps` for each table with samples. A recorder moves samples only from an earlier of
    these tables to a later one. If two tables have the same sample, readers use the later table."""
    next_time: str
    """Finds the first time of a symbol at or after ``?2``; NULL if there is none."""
    newest_time: str
    """Finds the last time of a symbol before ``?2``; NULL if there is none."""


@runtime_checkable
class Tables(Protocol):
    """The tables of one recording. Their `str` names the recording in messages.

    Every call that reads raises `RecordingError` if the recording cannot be read.
    """

    @property
    def title(self) -> str:
        """A short name, for the heading of a page."""
        ...

    @property
    def queries(self) -> Queries:
        """The queries that find samples in this store."""
        ...

    def open(self) -> None:
        """Check that the recording exists, and keep a connection to it.

        Raises:
            RecordingError: There is no recording, or it has an unknown version.
        """
        ...

    def close(self) -> None:
        """Close the connection that `open` made. A second call does nothing."""
        ...

    def rows(self, query: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """Run a query on the present state; the iterator reads one row after the other."""
        ...

    def moment(self, symbols: int) -> AbstractContextManager[Statements]:
        """Give the block a connection that no other reader uses until the end of the block.

        An error of the store within the block becomes a `RecordingError`.

        Args:
            symbols: How many symbols the block will read, one by one. If they are many, all queries
                of the block see the same state of the recording.
        """
        ...

    def has(self, table: str, run: Statements) -> bool:
        """Whether the recording has a table. Older recordings lack some.

        Args:
            table: ``about``, ``past`` or ``pruned``.
            run: A connection of `moment`.
        """
        ...

    def integrity(self) -> Iterator[str]:
        """Let the store check itself; return one message for each fault that it finds."""
        ...

    def source(self) -> str | None:
        """Return the name of the recorded exchange; None if the recording does not contain it."""
        ...

    def check_target(self, target: Path) -> None:
        """Check that `target` is not a file of the recording, so that an output may replace it.

        Raises:
            RecordingError: `target` belongs to the recording.
        """
        ...

    def backup(
        self, target: Path, *, replace: bool, on_pages: Callable[[int, int], object] | None
    ) -> None:
        """Copy the recording into one file; see `Recording.backup`."""
        ...
