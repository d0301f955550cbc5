"""Reading a recording: samples, sweeps and gaps.

A recording is an SQLite file or a PostgreSQL database. Any tool may read it while a recorder writes
it. The rule of this file: a reader changes nothing, and returns each number exactly as the exchange
wrote it. A method that finds damage raises a `RecordingError` that names the recording; only
`integrity` returns the damage as text.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from binance_oi.arguments import StrPath, check_path
from binance_oi.encoding import Encodable
from binance_oi.errors import RecordingError
from binance_oi.exchange.symbols import check_symbols
from binance_oi.market.gap import Gap
from binance_oi.market.windows import Length, step_ms
from binance_oi.recorder import coverage
from binance_oi.recorder.atomic import check_place
from binance_oi.recorder.lookup import values_at
from binance_oi.recorder.past import Past, past_symbols, source_number
from binance_oi.recorder.retention import Pruned
from binance_oi.recorder.samples import (
    Sample,
    Samples,
    check_samples,
    damaged,
    sample,
    tables_of,
    typed,
)
from binance_oi.recorder.schema import EVERY_SYMBOL
from binance_oi.recorder.series import Series
from binance_oi.recorder.sides import has_side_name
from binance_oi.recorder.tables import ALL_TIME_MS, ALWAYS, FIRST, LAST
from binance_oi.times import instant, unix_ms


class _Sweep(NamedTuple):
    slot: int
    """When the sweep was due, Unix ms."""
    period: int
    """From slot to slot, ms."""
    started: int
    """When the sweep began, Unix ms."""
    finished: int
    """When the sweep ended, Unix ms."""
    asked: int
    """How many symbols the sweep requested."""
    read: int
    """How many symbols the exchange answered for."""
    new: int
    """How many of its samples were new to the recording."""
    weight: int
    """The weight of the sweep's requests."""


class Sweep(_Sweep, Encodable):
    """One row of the table `sweeps`."""

    __slots__ = ()


class _CountedGap(NamedTuple):
    gap: Gap
    """The gap."""
    period: int
    """From slot to slot of this gap, ms; 0 if the stored period is impossible."""
    slots: int
    """How many of its slots have no sweep; 0 for an empty gap, whose `last` is before its `first`.
    Where gaps overlap, only the first of them counts the slots."""


class CountedGap(_CountedGap, Encodable):
    """A gap of whole sweeps, and the number of its slots that have no sweep."""

    __slots__ = ()


def _span(since: datetime | None, until: datetime | None) -> tuple[int, int]:
    """Convert these bounds to Unix ms; None leaves a side open.

    Raises:
        ValueError: A time has no time zone, or `since` is later than `until`.
    """
    if since is not None and until is not None and unix_ms(since) > unix_ms(until):
        raise ValueError(f"since ({since.isoformat()}) is later than until ({until.isoformat()})")
    first = ALL_TIME_MS[0] if since is None else unix_ms(since)
    return first, ALL_TIME_MS[1] if until is None else unix_ms(until)


class Recording:
    """Reads a recording, even while a recorder writes it.

    Its `str` is its path, or its URL without user, password and parameters.

        with Recording("oi.db") as recording:
            for sample in recording.samples(["BTCUSDT"]):
                ...

    Args:
        place: A file, or the URL of a PostgreSQL database (``postgresql://...``, which needs the
            extra `postgres`).

    Raises:
        RecordingError: There is no such recording, or it has an unknown version. Every method that
            reads may raise this error too, even in the middle of an iteration: the file is damaged,
            or cannot be read; or the server has closed the connection.
        TypeError: `place` is neither a path nor a URL.
        ValueError: `place` is empty, or a URL that names no PostgreSQL database.
        ModuleNotFoundError: psycopg is not installed; the extra `postgres` installs it.
    """

    def __init__(self, place: StrPath) -> None:
        self._tables = tables_of(place)
        self.path: Path | None = getattr(self._tables, "path", None)
        """The file; None for a database."""
        self._tables.open()

    @classmethod
    def open(cls, place: StrPath) -> Self:
        """Open a recording; the same as `Recording(place)`."""
        return cls(place)

    def __str__(self) -> str:
        return str(self._tables)

    @property
    def title(self) -> str:
        """A short name, for the heading of a page."""
        return self._tables.title

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the recording. A second call does nothing."""
        self._tables.close()

    def check_target(self, target: StrPath) -> None:
        """Check that a new file or directory at `target` would replace no part of the recording.

        Two names may lead to one file: by a link, a hard link, another path to the directory, or
        upper and lower case on some file systems. The check finds all of these. It also refuses the
        name of a side file (`-wal`, `-shm`, `-journal`, `-lock`) of any recording, even if there is
        no such file, because SQLite or a recorder would use a file of that name.

        Raises:
            RecordingError: The target is the recording or one of its side files, or has the name of
                a side file; or it is a device, a pipe or a socket, or lies among such files.
            TypeError: `target` is not a path.
            ValueError: `target` is empty.
        """
        target = check_path("target", target)
        check_place(target)
        self._tables.check_target(target)
        if has_side_name(target):
            raise RecordingError(f"{target} has the name of a side file of a recording")

    def backup(
        self,
        target: StrPath,
        *,
        replace: bool = False,
        on_pages: Callable[[int, int], object] | None = None,
    ) -> None:
        """Copy the recording as it is at this moment, even while a recorder writes it.

        The copy is one file, which gets its name when it is complete. It contains every sweep that
        a recorder had committed before this call. It can be read, moved and continued like any
        recording. A recorder continues meanwhile, but its log grows until the copy ends.

        Args:
            target: The path of the copy.
            replace: Whether to replace an existing file there; otherwise an existing file is an
                error.
            on_pages: Called repeatedly with the number of copied pages and of all pages.

        Raises:
            RecordingError: The target exists and `replace` is not set, belongs to the recording, or
                cannot be written; or another process writes the target. Or the recording is
                damaged, cannot be read, or is a database: `binance_oi.recorder.care.copy` copies a
                database.
            TypeError: `target` is not a path.
            ValueError: `target` is empty.
        """
        path = check_path("target", target)
        self.check_target(path)
        self._tables.backup(path, replace=replace, on_pages=on_pages)

    @property
    def source(self) -> str | None:
        """The exchange of the data: ``production``, ``testnet``, ``local`` or another base URL.

        None if the recording does not name it; files of version 2 do not.
        """
        return self._tables.source()

    def _rows(self, query: str, values: Sequence[object], *kinds: type) -> Iterator[Any]:
        """Query the current state, and yield the rows; fetch and check them only when needed."""
        return typed(self._tables.rows(query, values), self._tables, *kinds)

    def symbols(self) -> tuple[str, ...]:
        """Return every symbol that has samples, sorted."""
        return tuple(symbol for (symbol,) in self._rows(self._tables.queries.symbols, (), str))

    def samples(
        self,
        symbols: Iterable[str] | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Samples:
        """Return samples, sorted by symbol and time.

        Args:
            symbols: The symbols to read; None for all.
            since: The earliest transaction time, included: a `datetime` with a time zone.
            until: The end of the span, excluded: a `datetime` with a time zone.

        Raises:
            InvalidSymbolError: One of `symbols` cannot be a symbol.
            RecordingError: The recording has no sample of one of `symbols`.
            TypeError: `symbols` is not iterable.
            ValueError: A time has no time zone, or `since` is later than `until`.
        """
        span = _span(since, until)
        if symbols is None:
            return self.selection(self.symbols(), span)
        wanted = sorted(check_symbols(symbols))
        if unknown := [symbol for symbol in wanted if not self._has(symbol)]:
            raise RecordingError(f"{self} has no {', '.join(unknown)}")
        return self.selection(wanted, span)

    def selection(self, symbols: Iterable[str], span: tuple[int, int] = ALL_TIME_MS) -> Samples:
        """Return samples like `samples`, without a check of the symbols.

        Args:
            symbols: Names as the recording spells them; an unknown name has no samples.
            span: Unix ms; the start is included, the end is not.
        """
        return Samples(self._tables, tuple(symbols), *span)

    def past(
        self,
        symbols: Iterable[str] | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        source: str | None = None,
    ) -> Past:
        """Return the stored rows of the past, sorted by symbol, time and source.

        These rows come from the exchange's history or from its archive, not from sweeps. A symbol
        without such rows is not an error.

        Args:
            symbols: The symbols to read; None for all.
            since: The earliest instant, included: a `datetime` with a time zone.
            until: The end of the span, excluded: a `datetime` with a time zone.
            source: ``history`` or ``archive``; None for both.

        Raises:
            InvalidSymbolError: One of `symbols` cannot be a symbol.
            TypeError: `symbols` is not iterable.
            ValueError: A time has no time zone, `since` is later than `until`, or `source` is
                unknown.
        """
        wanted = None if symbols is None else sorted(check_symbols(symbols))
        return Past(self._tables, wanted, *_span(since, until), source_number(source))

    def series(
        self,
        symbols: Iterable[str] | None = None,
        *,
        step: Length = "5m",
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Series:
        """Return samples and the past as one series: at most one row for each symbol and instant.

        The instants are the multiples of `step` since 1970, UTC. The row of an instant has the last
        sample at or before the instant, unless that sample is older than one step. Otherwise it has
        the value from the exchange's history, or else the value from its archive. `Point.source`
        says which. If there is no such value, there is no row. The last instant may lie up to one
        step after the last sample. While a recorder runs, the row of that instant may still change.

        Args:
            symbols: The symbols to read; None for all.
            step: 5 minutes or a multiple of them: ``5m``, ``1h``, a `timedelta` or milliseconds.
            since: The earliest instant, included: a `datetime` with a time zone.
            until: The end of the span, excluded: a `datetime` with a time zone.

        Raises:
            InvalidSymbolError: One of `symbols` cannot be a symbol.
            RecordingError: The recording has neither samples nor rows of the past for one of
                `symbols`.
            TypeError: `step` is of another type, or `symbols` is not iterable.
            ValueError: A time has no time zone, `since` is later than `until`, or `step` is not a
                multiple of 5 minutes, or is longer than 366 days.
        """
        ms, span = step_ms(step), _span(since, until)
        known = {*self.symbols(), *self.past_symbols()}
        wanted = sorted(known if symbols is None else check_symbols(symbols))
        if unknown := [symbol for symbol in wanted if symbol not in known]:
            raise RecordingError(f"{self} has no {', '.join(unknown)}")
        return self.points(wanted, ms, span)

    def past_symbols(self) -> list[str]:
        """Return every symbol that has rows of the past, sorted; see `past`."""
        with self._tables.moment(1) as run:
            return list(past_symbols(run)) if self._tables.has("past", run) else []

    def points(self, symbols: Iterable[str], step: int, span: tuple[int, int]) -> Series:
        """Return a series like `series`, without a check of the symbols.

        Args:
            symbols: Names as the recording spells them; an unknown name has no rows.
            step: From instant to instant, ms.
            span: Unix ms; the start is included, the end is not.
        """
        return Series(self._tables, tuple(symbols), step, *span)

    def values_at(
        self, symbols: Iterable[str], instants: Sequence[int], within: int
    ) -> Iterator[tuple[str, list[Sample | None]]]:
        """Yield each symbol with its last sample at or before each instant.

        Args:
            symbols: Names as the recording spells them.
            instants: Unix ms.
            within: The greatest age of a sample at an instant, ms. If the last sample is older, the
                value of that instant is None.
        """
        return values_at(self._tables, symbols, instants, within)

    def _has(self, symbol: str) -> bool:
        query = "SELECT 1 FROM samples WHERE symbol = ?1 LIMIT 1"
        return any(self._rows(query, (symbol,), int))

    def first_and_last(
        self, span: tuple[int, int] = ALL_TIME_MS
    ) -> Iterator[tuple[Sample, Sample]]:
        """Yield the first and the last sample of every symbol that has samples in `span`.

        Args:
            span: Unix ms; the start is included, the end is not. The default is all time.
        """
        symbols, query = self.symbols(), self._tables.queries.samples
        with self._tables.moment(len(symbols)) as run:
            for symbol in symbols:
                both = [
                    row
                    for end in (FIRST, LAST)
                    for row in run.execute(f"{query} {end}", (symbol, *span)).fetchall()
                ]
                if not both and span != ALL_TIME_MS:
                    continue
                if not both:  # the table lists the symbol, but a search for it finds nothing
                    raise damaged(self._tables, f"the samples of {symbol!r:.40} are not found")
                check_samples(both, self._tables)
                yield sample(both[0]), sample(both[-1])

    def span(self) -> tuple[datetime, datetime] | None:
        """Return the first and the last slot with a sweep or a gap; None if no slot has either."""
        for first, last in self._rows(coverage.SPAN, (), int, int):
            return instant(first), instant(last)
        return None

    def sweeps(self, span: tuple[int, int] = ALWAYS) -> Iterator[Sweep]:
        """Yield every sweep, in the order of the slots.

        Args:
            span: The span of slots, Unix ms; the start is included, the end is not. It has the same
                meaning in `counted_gaps` and `failures`.
        """
        kinds = [int] * len(Sweep._fields)
        return map(Sweep._make, self._rows(coverage.SWEEPS, span, *kinds))

    def periods(self) -> Iterator[tuple[str, Gap, int]]:
        """Yield every gap with its symbol and its period in ms.

        The symbol is empty if whole sweeps are missing.
        """
        kinds = str, int, int, str, str, int
        for symbol, *gap, period in self._rows(coverage.PERIODS, (), *kinds):
            yield symbol, Gap._make(gap), period

    def pruned(self) -> Iterator[Pruned]:
        """Yield the summaries of the pruned days."""
        if not self._has_table("pruned"):
            return iter(())
        return map(Pruned._make, self._rows(coverage.PRUNED, (), int, str, int, int, int))

    @property
    def pruned_until(self) -> int | None:
        """The end of the days that were removed, Unix ms; None if no slot was removed."""
        if not self._has_table("about"):
            return None
        return next((end for (end,) in self._rows(coverage.PRUNED_UNTIL, (), int)), None)

    @property
    def is_merged(self) -> bool:
        """Whether a second recording was copied into this one."""
        return self._has_table("about") and any(self._rows(coverage.MERGED, (), int))

    def unfinished_copy(self) -> str | None:
        """Return the source of an unfinished copy into this recording; None if there is none.

        An unfinished copy was interrupted, or still runs. If its source is a URL, the result lacks
        user, password and parameters.
        """
        if not self._has_table("about"):
            return None
        for (state,) in self._rows(coverage.COPYING, (), str):
            try:
                return str(json.loads(state)["from"])
            except (ValueError, TypeError, LookupError, RecursionError):
                raise damaged(self._tables, "the state of a copy is not readable") from None
        return None

    def integrity(self) -> Iterator[str]:
        """Yield the damage that SQLite itself finds, as text for people; nothing for PostgreSQL.

        `binance_oi.recorder.check.check` finds more, such as impossible values.
        """
        return self._tables.integrity()

    def _has_table(self, name: str) -> bool:
        with self._tables.moment(1) as run:
            return self._tables.has(name, run)

    def missed(self) -> int:
        """Return how many slots in gaps have no sweep. Slots of pruned days do not count."""
        ((missed,),) = self._rows(coverage.MISSED, ALWAYS, int)
        return int(missed)

    def counted_gaps(self, span: tuple[int, int] = ALWAYS) -> Iterator[CountedGap]:
        """Yield each gap of whole sweeps, with the number of its slots that have no sweep.

        The sum of these numbers is `missed`. If a gap begins before `span` or ends after it, only
        the part within `span` counts, and the yielded gap is that part.
        """
        kinds = int, int, str, str, int, int
        for *gap, period, slots in self._rows(coverage.COUNTED, span, *kinds):
            yield CountedGap(Gap._make(gap), period, slots)

    def failures(self, span: tuple[int, int] = ALWAYS) -> Iterator[tuple[str, str, int]]:
        """Yield the symbols that sweeps failed to read: symbol, reason, number of sweeps.

        The largest number comes first.
        """
        return self._rows(coverage.FAILED, span, str, str, int)

    def gaps(self, symbol: str = EVERY_SYMBOL) -> Iterator[Gap]:
        """Yield the gaps of whole sweeps, or the gaps of sweeps that failed to read `symbol`."""
        return map(Gap._make, self._rows(coverage.GAPS, (symbol,), int, int, str, str))
