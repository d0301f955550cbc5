"""Reading a recording: samples, sweeps and gaps.

A recording is an SQLite file or a PostgreSQL database; any tool may read it while a recorder writes
it. The rule of this file: reading changes nothing, and numbers leave as the exchange wrote them.
Every way to read reports damage as a `RecordingError` that names the recording.
"""

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
    period: int
    started: int
    finished: int
    asked: int
    read: int
    new: int
    weight: int


class Sweep(_Sweep, Encodable):
    """One row of the table `sweeps`. Times are Unix ms."""

    __slots__ = ()


class _CountedGap(NamedTuple):
    gap: Gap
    period: int
    """From slot to slot of this gap, ms; 0 when the file holds an impossible period."""
    slots: int
    """Slots without a sweep; 0 for an empty gap. A slot in two gaps counts in the first one."""


class CountedGap(_CountedGap, Encodable):
    """Slots without any sweep, and their number."""

    __slots__ = ()


def _span(since: datetime | None, until: datetime | None) -> tuple[int, int]:
    """These bounds in Unix ms.

    Raises:
        ValueError: A time has no time zone, or `since` is later than `until`.
    """
    if since is not None and until is not None and unix_ms(since) > unix_ms(until):
        raise ValueError(f"since ({since.isoformat()}) is later than until ({until.isoformat()})")
    first = ALL_TIME_MS[0] if since is None else unix_ms(since)
    return first, ALL_TIME_MS[1] if until is None else unix_ms(until)


class Recording:
    """Reads a recording, also while a recorder writes it. Its `str` is where it is.

        with Recording("oi.db") as recording:
            for sample in recording.samples(["BTCUSDT"]):
                ...

    Args:
        place: A file, or the URL of a PostgreSQL database (``postgresql://...``, the extra
            `postgres`).

    Raises:
        RecordingError: The recording is missing, is not a recording, or has an unknown version.
            Every method that reads raises it as well, also in the middle of an iteration: the file
            is damaged or truncated, the server is gone, or it cannot be read.
        ModuleNotFoundError: psycopg is missing; it comes with the extra `postgres`.
    """

    def __init__(self, place: StrPath) -> None:
        self._tables = tables_of(place)
        self.path: Path | None = getattr(self._tables, "path", None)
        """The file; None for a database."""
        self._tables.open()

    @classmethod
    def open(cls, place: StrPath) -> Self:
        """Open a recording, a file or a database; the same as `Recording(place)`."""
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
        """Close it. May be repeated."""
        self._tables.close()

    def check_target(self, target: StrPath) -> None:
        """Check that a file or a directory at `target` would not replace what must stay.

        The name alone does not decide: links, hard links, other ways to the directory and, where
        the file system ignores it, other case lead to the same place. The name of a side file is
        refused beside any recording, even if there is no such file: SQLite would take it for one.

        Raises:
            RecordingError: The target is the recording, its log or another file beside it, or a
                device, a pipe or a socket.
        """
        target = check_path("target", target)
        check_place(target)
        self._tables.check_target(target)
        if has_side_name(target):
            raise RecordingError(f"{target} has the name of a file beside a recording")

    def backup(
        self,
        target: StrPath,
        *,
        replace: bool = False,
        on_pages: Callable[[int, int], object] | None = None,
    ) -> None:
        """Copy the recording as it is at this moment, also while a recorder writes it.

        The copy is one file that is complete when it gets its name. It holds everything that was
        acknowledged before this call, and can be read, moved and continued like any recording. A
        recorder continues meanwhile; its log grows more than usual until the copy is complete.

        Args:
            target: Name of the copy.
            replace: Replace an existing file of that name; otherwise it is an error.
            on_pages: Called repeatedly with the number of copied pages and of all pages.

        Raises:
            RecordingError: The target exists, is the recording or belongs to it, is being written
                by another process, or cannot be written.
        """
        path = check_path("target", target)
        self.check_target(path)
        self._tables.backup(path, replace=replace, on_pages=on_pages)

    @property
    def source(self) -> str | None:
        """Where it was recorded: ``production``, ``testnet``, ``local`` or another base URL.

        None when the file does not say, as in version 2.
        """
        return self._tables.source()

    def _rows(self, query: str, values: Sequence[object], *kinds: type) -> Iterator[Any]:
        """The rows of a query on the current state, read while they are iterated over."""
        return typed(self._tables.rows(query, values), self._tables, *kinds)

    def symbols(self) -> tuple[str, ...]:
        """Every symbol that has samples, sorted."""
        return tuple(symbol for (symbol,) in self._rows(self._tables.queries.symbols, (), str))

    def samples(
        self,
        symbols: Iterable[str] | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Samples:
        """Samples by symbol and time.

        Args:
            symbols: None takes all.
            since: The earliest transaction time (aware).
            until: The end of the span, excluded (aware).

        Raises:
            InvalidSymbolError: One of `symbols` cannot be a symbol.
            RecordingError: One of `symbols` was never recorded.
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
        """Samples of names as the recording has them, without a check of the names.

        Args:
            symbols: Names; one that was never recorded has no samples.
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
        """Instants of the past that were stored beside the samples, by symbol, time and source.

        A symbol without such rows has none here; that is no error.

        Args:
            symbols: None takes all.
            since: The earliest instant (aware).
            until: The end of the span, excluded (aware).
            source: ``history`` or ``archive``; None takes both.

        Raises:
            InvalidSymbolError: One of `symbols` cannot be a symbol.
            ValueError: A time has no time zone, `since` is later than `until`, or there is no such
                source.
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
        """Samples and the past as one series: at most one row for each symbol and instant.

        Instants are the multiples of `step` since 1970. The row of an instant is the last sample at
        or before it that is at most one step old; else the row of the exchange's history for it;
        else that of the archive. `Point.source` says which. Where none of them is, there is no row.
        The last instant may lie up to one step after the last sample; while the recorder runs, its
        row may still change.

        Args:
            symbols: None takes all.
            step: 5 minutes or a multiple: ``5m``, ``1h``, a `timedelta` or milliseconds.
            since: The earliest instant (aware).
            until: The end of the span, excluded (aware).

        Raises:
            InvalidSymbolError: One of `symbols` cannot be a symbol.
            RecordingError: The recording has nothing of one of `symbols`.
            TypeError: `step` is of another type.
            ValueError: A time has no time zone, `since` is later than `until`, or there is no such
                step.
        """
        ms, span = step_ms(step), _span(since, until)
        known = {*self.symbols(), *self._past_symbols()}
        wanted = sorted(known if symbols is None else check_symbols(symbols))
        if unknown := [symbol for symbol in wanted if symbol not in known]:
            raise RecordingError(f"{self} has no {', '.join(unknown)}")
        return self.points(wanted, ms, span)

    def _past_symbols(self) -> list[str]:
        with self._tables.moment(1) as run:
            return list(past_symbols(run)) if self._tables.has("past", run) else []

    def points(self, symbols: Iterable[str], step: int, span: tuple[int, int]) -> Series:
        """The series of names as the recording has them, without a check of the names.

        Args:
            symbols: Names; one that was never recorded has no rows.
            step: Ms from instant to instant.
            span: Unix ms; the start is included, the end is not.
        """
        return Series(self._tables, tuple(symbols), step, *span)

    def values_at(
        self, symbols: Iterable[str], instants: Sequence[int], within: int
    ) -> Iterator[tuple[str, list[Sample | None]]]:
        """Yield each symbol with its last sample at or before each instant.

        Args:
            symbols: Names as the recording has them.
            instants: Unix ms.
            within: How old a sample may be at an instant, in ms; an older one counts as none.
        """
        return values_at(self._tables, symbols, instants, within)

    def _has(self, symbol: str) -> bool:
        query = "SELECT 1 FROM samples WHERE symbol = ?1 LIMIT 1"
        return any(self._rows(query, (symbol,), int))

    def first_and_last(
        self, span: tuple[int, int] = ALL_TIME_MS
    ) -> Iterator[tuple[Sample, Sample]]:
        """The first and the last sample of every symbol that has samples in `span`.

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
        """The first and the last slot of the schedule, gaps included; None when there is none."""
        for first, last in self._rows(coverage.SPAN, (), int, int):
            return instant(first), instant(last)
        return None

    def sweeps(self, span: tuple[int, int] = ALWAYS) -> Iterator[Sweep]:
        """Every sweep, in the order of the schedule.

        Args:
            span: Of slots, Unix ms, from the first on and before the second; so it is below.
        """
        kinds = [int] * len(Sweep._fields)
        return map(Sweep._make, self._rows(coverage.SWEEPS, span, *kinds))

    def periods(self) -> Iterator[tuple[str, Gap, int]]:
        """Every gap with its symbol (empty: of the whole sweep) and its period in ms."""
        kinds = str, int, int, str, str, int
        for symbol, *gap, period in self._rows(coverage.PERIODS, (), *kinds):
            yield symbol, Gap._make(gap), period

    def pruned(self) -> Iterator[Pruned]:
        """What is left of the days that were pruned."""
        if not self._has_table("pruned"):
            return iter(())
        return map(Pruned._make, self._rows(coverage.PRUNED, (), int, str, int, int, int))

    @property
    def is_merged(self) -> bool:
        """Whether another recording was copied into it, when it had sweeps already."""
        return self._has_table("about") and any(self._rows(coverage.MERGED, (), int))

    def integrity(self) -> Iterator[str]:
        """What the store itself finds damaged, in words for people; see `check` for the rest."""
        return self._tables.integrity()

    def _has_table(self, name: str) -> bool:
        with self._tables.moment(1) as run:
            return self._tables.has(name, run)

    def missed(self) -> int:
        """The number of slots without a sweep."""
        ((missed,),) = self._rows(coverage.MISSED, ALWAYS, int)
        return int(missed)

    def counted_gaps(self, span: tuple[int, int] = ALWAYS) -> Iterator[CountedGap]:
        """The same as `gaps`, with the number of slots of each; they add up to `missed`.

        Of a gap that begins before `span`, or ends after it, only the slots within.
        """
        kinds = int, int, str, str, int, int
        for *gap, period, slots in self._rows(coverage.COUNTED, span, *kinds):
            yield CountedGap(Gap._make(gap), period, slots)

    def failures(self, span: tuple[int, int] = ALWAYS) -> Iterator[tuple[str, str, int]]:
        """Symbols that some sweeps lack: symbol, reason, number of sweeps; the most first."""
        return self._rows(coverage.FAILED, span, str, str, int)

    def gaps(self, symbol: str = EVERY_SYMBOL) -> Iterator[Gap]:
        """Slots without any sweep; with `symbol`, sweeps that lack only this one."""
        return map(Gap._make, self._rows(coverage.GAPS, (symbol,), int, int, str, str))
