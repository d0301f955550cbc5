"""What a reader needs of the place that holds a recording: a file, or a database.

The rule of this file: `Tables` is to readers what `Sink` is to recorders. Sweeps and gaps are read
with the same SQL everywhere (`coverage`); only the samples lie differently.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from binance_oi.recorder.statements import Statements

ALL_TIME_MS: tuple[int, int] = (0, 1 << 62)  # Unix ms
ALWAYS: tuple[int, int] = (-(1 << 62), 1 << 62)  # Unix ms, of slots: damage may put one before 1970

BY_TIME, FIRST, LAST = "ORDER BY time", "ORDER BY time LIMIT 1", "ORDER BY time DESC LIMIT 1"


class Steps(NamedTuple):
    """How to find the last sample of each step in one table, up to and with ``?3``.

    The rows have the time, the open interest and the mark price, and are in the order of time.
    """

    number: str
    """How many samples there are."""
    samples: str
    """All of them."""
    last: str
    """The last one of each step of ``?4`` ms."""


class Queries(NamedTuple):
    """How one store finds samples. ``?1`` is a symbol, ``?2`` and ``?3`` are the ends of a span."""

    symbols: str
    """Every symbol, sorted."""
    samples: str
    """Rows of one symbol, in no order, with numbers as text."""
    ends: str
    """First and last times of one symbol; several rows, and NULL for none."""
    numbers: str
    """Of one symbol: whether there are mark prices, and whether there are long numbers."""
    steps: tuple[Steps, ...]
    """For each table with samples. A recorder moves them only from one to a later one, and a sample
    in two tables is that of the later one."""
    next_time: str
    """The first time of a symbol from ``?2`` on; NULL for none."""
    newest_time: str
    """The last time of a symbol before ``?2``; NULL for none."""


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
        """How to find samples here."""
        ...

    def open(self) -> None:
        """Check that a recording is there, and keep a connection to it.

        Raises:
            RecordingError: There is none, or it has an unknown version.
        """
        ...

    def close(self) -> None:
        """Close that connection. May be repeated."""
        ...

    def rows(self, query: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a query on the current state, read while they are iterated over."""
        ...

    def moment(self, symbols: int) -> AbstractContextManager[Statements]:
        """A connection of its own, closed at the end of the block.

        An error of the store within the block becomes a `RecordingError`.

        Args:
            symbols: How many symbols will be read, one by one. Many of them see one moment.
        """
        ...

    def has(self, table: str, run: Statements) -> bool:
        """Whether there is a table ``about``, ``past`` or ``pruned``; older recordings lack some.

        Args:
            table: Its name.
            run: A connection of `moment`.
        """
        ...

    def integrity(self) -> Iterator[str]:
        """What the store itself finds damaged, in words for people."""
        ...

    def source(self) -> str | None:
        """The exchange that was recorded; None when the recording does not say."""
        ...

    def check_target(self, target: Path) -> None:
        """Check that a file at `target` would replace no part of the recording.

        Raises:
            RecordingError: It would.
        """
        ...

    def backup(
        self, target: Path, *, replace: bool, on_pages: Callable[[int, int], object] | None
    ) -> None:
        """Copy the recording into one file; see `Recording.backup`."""
        ...
