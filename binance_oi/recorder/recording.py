"""Reading a recording: samples, sweeps and gaps.

A recording is an SQLite database that any tool may read while a recorder writes it. The rule of
this file: reading changes nothing, and numbers leave as the exchange wrote them. Every way to read
reports damage as a `RecordingError` that names the file. SQLite finds some damage; this module
checks what SQLite does not: the type of a value, the text of a number.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
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
from binance_oi.recorder.atomic import check_place
from binance_oi.recorder.backup import copy
from binance_oi.recorder.opening import open_to_read
from binance_oi.recorder.past import Past, past_symbols, source_number
from binance_oi.recorder.samples import (
    ALL_TIME_MS,
    FIRST,
    LAST,
    SAMPLES,
    Sample,
    Samples,
    check_samples,
    damaged,
    open_for,
    sample,
    typed,
)
from binance_oi.recorder.schema import (
    EVERY_SYMBOL,
    PAST_SINCE,
    read_source,
    read_version,
    translate_read_errors,
)
from binance_oi.recorder.series import Series
from binance_oi.recorder.sides import SIDE_FILES, beside, has_side_name, is_same
from binance_oi.times import instant, unix_ms

# SELECT DISTINCT would read every row. This reads one row for each symbol, and all of `recent`.
_SYMBOLS = """
WITH RECURSIVE found(symbol) AS (
    SELECT min(symbol) FROM settled
    UNION  -- UNION ALL would loop for ever if damage put an earlier symbol behind a later one
    SELECT (SELECT min(symbol) FROM settled WHERE settled.symbol > found.symbol)
    FROM found WHERE found.symbol IS NOT NULL
)
SELECT symbol FROM found WHERE symbol IS NOT NULL
UNION SELECT symbol FROM recent ORDER BY symbol
"""
# Each gap with its period and the number of its slots that have no sweep, from ?1 on and before ?2.
# Where gaps overlap, a slot counts once: a gap counts only after the end of all gaps that begin
# before it. The period is the gap's own, for a recording may change its period. A gap with an
# impossible period has no slot. An empty gap is where it begins.
_COUNTED = """
WITH gap AS (
    SELECT first, last, reason, detail, iif(period > 0, period, NULL) AS period, coalesce(
        max(last) OVER (ORDER BY first ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
        first - 1
    ) AS before FROM gaps WHERE symbol = ''
), inside AS (
    SELECT reason, detail, period, before,
        first + coalesce(max(0, (?1 - first + period - 1) / period) * period, 0) AS first,
        iif(last < ?2, last, coalesce(first + (?2 - 1 - first) / period * period, ?2 - 1)) AS last
    FROM gap WHERE first < ?2 AND max(first, last) >= ?1
), part AS (
    SELECT *, first + max(0, (before - first + period) / period) * period AS due FROM inside
)
SELECT first, last, reason, detail, coalesce(period, 0) AS period, CASE WHEN due <= last THEN
    (last - due) / period + 1 - (
        SELECT count(*) FROM sweeps
        WHERE slot BETWEEN due AND last AND (slot - due) % period = 0
    )
ELSE 0 END AS slots FROM part ORDER BY first
"""
# The slots from ?1 on and before ?2 in which sweeps lack one symbol alone.
_FAILED = """
WITH part AS (
    SELECT symbol, reason, period, min(last, ?2 - 1) AS ends,
        first + max(0, (?1 - first + period - 1) / period) * period AS begins
    FROM gaps WHERE symbol != '' AND period > 0
)
SELECT symbol, reason, sum((ends - begins) / period + 1) AS sweeps FROM part
WHERE begins <= ends GROUP BY symbol, reason ORDER BY sweeps DESC, symbol
"""

ALWAYS = -(1 << 62), 1 << 62  # Unix ms, of slots: damage may put one before 1970


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
    """Reads a recording, also while a recorder writes it.

        with Recording("oi.db") as recording:
            for sample in recording.samples(["BTCUSDT"]):
                ...

    Raises:
        RecordingError: The file is missing, is not a recording, or has an unknown version. Every
            method that reads raises it as well, also in the middle of an iteration: the file is
            damaged or truncated, or cannot be read.
    """

    def __init__(self, path: StrPath) -> None:
        self.path: Path = check_path("path", path)
        self._connection = open_to_read(self.path)

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
        """Close the file. May be repeated."""
        self._connection.close()

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
        if is_same(target, self.path):
            raise RecordingError(f"{target} is the recording itself")
        made = (target, *(path for path in target.parents if not os.path.exists(path)))
        for own in (beside(self.path, ending) for ending in SIDE_FILES):
            if any(is_same(path, own) for path in made):
                raise RecordingError(f"{target} belongs to the recording {self.path}")
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
        copy(self.path, path, replace=replace, on_pages=on_pages)

    @property
    def source(self) -> str | None:
        """Where it was recorded: ``production``, ``testnet``, ``local`` or another base URL.

        None when the file does not say, as in version 2.
        """
        with translate_read_errors(self.path):
            return read_source(self._connection)

    def _rows(self, query: str, values: Sequence[object], *kinds: type) -> Iterator[Any]:
        """The rows of a query on the current state, read while they are iterated over."""
        with translate_read_errors(self.path):
            found = self._connection.execute(query, values)
        return typed(found, self.path, *kinds)

    def symbols(self) -> tuple[str, ...]:
        """Every symbol that has samples, sorted."""
        return tuple(symbol for (symbol,) in self._rows(_SYMBOLS, (), str))

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
        wanted = self.symbols() if symbols is None else sorted(check_symbols(symbols))
        if unknown := [symbol for symbol in wanted if not self._has(symbol)]:
            raise RecordingError(f"{self.path} has no {', '.join(unknown)}")
        return Samples(self.path, tuple(wanted), *span)

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
        return Past(self.path, wanted, *_span(since, until), source_number(source))

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
            raise RecordingError(f"{self.path} has no {', '.join(unknown)}")
        return Series(self.path, tuple(wanted), ms, *span)

    def _past_symbols(self) -> list[str]:
        with translate_read_errors(self.path):
            has_past = read_version(self._connection) >= PAST_SINCE
            return list(past_symbols(self._connection)) if has_past else []

    def _has(self, symbol: str) -> bool:
        query = "SELECT 1 FROM samples WHERE symbol = ? LIMIT 1"
        return any(self._rows(query, (symbol,), int))

    def first_and_last(
        self, span: tuple[int, int] = ALL_TIME_MS
    ) -> Iterator[tuple[Sample, Sample]]:
        """The first and the last sample of every symbol that has samples in `span`.

        Args:
            span: Unix ms; the start is included, the end is not. The default is all time.
        """
        symbols = self.symbols()
        with (
            translate_read_errors(self.path),
            closing(open_for(self.path, symbols)) as connection,
        ):
            for symbol in symbols:
                both = [
                    row
                    for end in (FIRST, LAST)
                    for row in connection.execute(f"{SAMPLES} {end}", (symbol, *span)).fetchall()
                ]
                if not both and span != ALL_TIME_MS:
                    continue
                if not both:  # the table lists the symbol, but a search for it finds nothing
                    raise damaged(self.path, f"the samples of {symbol!r:.40} are not found")
                check_samples(both, self.path)
                yield sample(both[0]), sample(both[-1])

    def span(self) -> tuple[datetime, datetime] | None:
        """The first and the last slot of the schedule, gaps included; None when there is none."""
        query = (
            "SELECT min(slot), max(slot) FROM (SELECT slot FROM sweeps UNION ALL"
            " SELECT first FROM gaps WHERE symbol = '' UNION ALL"
            " SELECT last FROM gaps WHERE symbol = '' AND last >= first) HAVING count(*) > 0"
        )
        for first, last in self._rows(query, (), int, int):
            return instant(first), instant(last)
        return None

    def sweeps(self, span: tuple[int, int] = ALWAYS) -> Iterator[Sweep]:
        """Every sweep, in the order of the schedule.

        Args:
            span: Of slots, Unix ms, from the first on and before the second; so it is below.
        """
        columns = ", ".join(Sweep._fields)
        query = f"SELECT {columns} FROM sweeps WHERE slot >= ? AND slot < ? ORDER BY slot"
        return map(Sweep._make, self._rows(query, span, *[int] * len(Sweep._fields)))

    def missed(self) -> int:
        """The number of slots without a sweep."""
        query = f"SELECT coalesce(sum(slots), 0) FROM ({_COUNTED})"
        ((missed,),) = self._rows(query, ALWAYS, int)
        return int(missed)

    def counted_gaps(self, span: tuple[int, int] = ALWAYS) -> Iterator[CountedGap]:
        """The same as `gaps`, with the number of slots of each; they add up to `missed`.

        Of a gap that begins before `span`, or ends after it, only the slots within.
        """
        for *gap, period, slots in self._rows(_COUNTED, span, int, int, str, str, int, int):
            yield CountedGap(Gap._make(gap), period, slots)

    def failures(self, span: tuple[int, int] = ALWAYS) -> Iterator[tuple[str, str, int]]:
        """Symbols that some sweeps lack: symbol, reason, number of sweeps; the most first."""
        return self._rows(_FAILED, span, str, str, int)

    def gaps(self, symbol: str = EVERY_SYMBOL) -> Iterator[Gap]:
        """Slots without any sweep; with `symbol`, sweeps that lack only this one."""
        query = "SELECT first, last, reason, detail FROM gaps WHERE symbol = ? ORDER BY first"
        return map(Gap._make, self._rows(query, (symbol,), int, int, str, str))
