"""A recording as one file for each day or month.

The rule of this file: a slot belongs to the file of its own day or month, even if it is stored
later. Each file is a complete recording that any reader can open. `binance-oi copy` joins several
files. A call that stores in several files starts with the oldest. If the call fails midway, the
caller may repeat it. Before the sink removes the oldest file, it writes a summary of each of that
file's days into the file that is open. If the process is killed before it has removed the old file,
the next process removes that file. Until then, a copy of both files counts those days once.
"""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from binance_oi.errors import RecordingError, StorageError
from binance_oi.market.gap import Gap
from binance_oi.market.rows import InstantRow
from binance_oi.market.snapshot import Snapshot
from binance_oi.recorder.atomic import SIDES
from binance_oi.recorder.lock import RecorderLock
from binance_oi.recorder.recording import Recording
from binance_oi.recorder.retention import DAY_MS, SWEPT, end_of
from binance_oi.recorder.sides import beside
from binance_oi.recorder.sink import Saved
from binance_oi.recorder.sqlite import SqliteSink
from binance_oi.times import instant, unix_ms

Rotation = Literal["day", "month"]
"""How much time one file covers: one UTC day, or one UTC month."""
_FORMATS = {"day": "%Y-%m-%d", "month": "%Y-%m"}
_PATTERNS = {"day": r"\d{4}-\d\d-\d\d", "month": r"\d{4}-\d\d"}
# A process that was killed while it removed a file may have stored the summaries already.
_SUMMARY = """
INSERT INTO pruned (day, reason, slots, last, rows) VALUES (?1, ?2, ?3, ?4, ?5)
ON CONFLICT DO NOTHING
"""


class RotatingSink:
    """Stores sweeps in one file for each day or month; see `Sink`.

    Args:
        path: The name without a date. For ``oi.db``, the files are called ``oi.2026-11-26.db`` or
            ``oi.2026-11.db``.
        source: The exchange's name. The sink compares it with the name in a file, or writes it if
            the file has none. None skips both.
        rotation: How much time one file covers.
        keep_days: The number of whole days to keep, besides the current one. The sink removes a
            file, with its rows of the past, when all days of the file are older. None keeps all
            files.
        now: Returns Unix seconds.
    """

    def __init__(
        self,
        path: Path,
        source: str | None,
        rotation: Rotation,
        *,
        keep_days: int | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._source, self._rotation = path, source, rotation
        self._keep_days, self._now = keep_days, now
        name = re.escape(path.stem), _PATTERNS[rotation], re.escape(path.suffix)
        self._pattern = re.compile(r"{}\.({}){}".format(*name))
        self._clock: Callable[[], float] = time.monotonic
        self._lock: RecorderLock | None = None
        self._begin: int | None = None  # the beginning of the open file, Unix ms
        self._sink: SqliteSink | None = None
        self._lost = 0  # sweeps that closed files lost, not yet returned by `take_lost`
        self._newest = 0  # the newest transaction time of the latest sweep, Unix ms

    def __str__(self) -> str:
        return str(self._path)

    def claim(self, clock: Callable[[], float]) -> None:
        """See `Sink.claim`. The lock file is named after the path without a date."""
        self._clock = clock
        try:
            self._lock = RecorderLock(self._path)
        except OSError as error:
            reason = error.strerror or error
            raise RecordingError(f"{self} cannot be recorded into: {reason}") from error

    def open(self) -> None:
        """See `Sink.open`. It opens the newest file; if there is none, `save` creates the first."""
        for begin in self._begins()[-1:]:
            self._at(begin)

    def last_slot(self, before: int | None = None) -> int | None:
        """See `Sink.last_slot`."""
        for begin in reversed(self._begins()):
            if before is not None and begin >= before:
                continue
            if (last := self._at(begin).last_slot(before)) is not None:
                return last
        return None

    def save(self, sweep: Snapshot | None, gaps: Sequence[Gap], period: int) -> Saved:
        """See `Sink.save`."""
        parts: dict[int, list[Gap]] = {}
        for gap in gaps:
            for part in self._parts(gap, period):
                parts.setdefault(self._begin_of(part.first), []).append(part)
        slot = None if sweep is None or sweep.slot is None else self._begin_of(unix_ms(sweep.slot))
        if slot is not None:
            parts.setdefault(slot, [])
        saved = Saved(0, 0)
        for begin in sorted(parts):
            within = sweep if begin == slot else None
            new, swept = self._at(begin).save(within, parts[begin], period)
            saved = Saved(saved.new + new, saved.swept + swept)
        if sweep is not None:
            self._newest = max((value.time for value in sweep.values()), default=self._newest)
        return saved

    def save_past(self, rows: Sequence[InstantRow]) -> int:
        """See `Sink.save_past`. Each row goes to the file of its instant."""
        parts: dict[int, list[InstantRow]] = {}
        for row in rows:
            parts.setdefault(self._begin_of(row[1]), []).append(row)
        return sum(self._at(begin).save_past(parts[begin]) for begin in sorted(parts))

    def past_times(self, symbol: str, source: int, first: int, last: int) -> list[int]:
        """See `Sink.past_times`."""
        begins = [b for b in self._begins() if b <= last and self._after(b) > first]
        found = [self._at(begin).past_times(symbol, source, first, last) for begin in begins]
        return [time for times in found for time in times]

    def gaps_since(self, since: int) -> list[tuple[str, Gap, int]]:
        """See `Sink.gaps_since`."""
        begins = [begin for begin in self._begins() if self._after(begin) > since]
        return [gap for begin in begins for gap in self._at(begin).gaps_since(since)]

    def is_due(self) -> bool:
        """See `Sink.is_due`."""
        sink = self._sink
        return sink is not None and sink.is_due()

    def tidy(self) -> None:
        """See `Sink.tidy`. It also removes the oldest file, if that file is too old."""
        if self._sink is None:
            return
        self._sink.tidy()
        if self._keep_days is not None and self._newest:
            now = min(round(self._now() * 1000), self._newest)
            end = end_of(self._keep_days, now)
            for begin in self._begins()[:1]:
                if self._after(begin) <= end and begin != self._begin:
                    self._remove(begin)

    def take_lost(self) -> int:
        """See `Sink.take_lost`."""
        sink, lost, self._lost = self._sink, self._lost, 0
        return lost + (0 if sink is None else sink.take_lost())

    def close(self) -> None:
        """See `Sink.close`."""
        try:
            self._leave()
        finally:
            lock, self._lock = self._lock, None
            if lock is not None:
                lock.close()

    # -- files ---------------------------------------------------------------------------------

    def _begins(self) -> list[int]:
        """Return the time at which each existing file begins, Unix ms, sorted."""
        found = (self._pattern.fullmatch(file.name) for file in self._path.parent.iterdir())
        begins = list[int]()
        for match in filter(None, found):
            with suppress(ValueError):  # an impossible date, such as February 31
                date = datetime.strptime(match[1], _FORMATS[self._rotation])
                begins.append(unix_ms(date.replace(tzinfo=UTC)))
        return sorted(begins)

    def _begin_of(self, slot: int) -> int:
        """Return the beginning of the file to which a time belongs; both are Unix ms."""
        day = slot // DAY_MS * DAY_MS
        if self._rotation == "day":
            return day
        return unix_ms(instant(day).replace(day=1))

    def _after(self, begin: int) -> int:
        """Return when the next file begins, after a file that begins at `begin`; both Unix ms."""
        later = instant(begin) + timedelta(days=1 if self._rotation == "day" else 32)
        return self._begin_of(unix_ms(later))

    def _name(self, begin: int) -> Path:
        date = instant(begin).strftime(_FORMATS[self._rotation])
        return self._path.with_name(f"{self._path.stem}.{date}{self._path.suffix}")

    def _parts(self, gap: Gap, period: int) -> Iterator[Gap]:
        """Split a gap where a file ends; if it is empty, also mark the slots of later files.

        An empty gap means that someone set the clock back. Its own file extends it only to the last
        slot that this file knows; see `slots.write_missed`. So we extend it to the last slot of the
        newest file, but we make no file for days without one.
        """
        last = self.last_slot() if gap.last < gap.first else None
        if last is not None and self._begin_of(last) > self._begin_of(gap.first):
            known = {*self._begins(), self._begin_of(gap.first)}
            for part in self._split(gap._replace(last=last), period):
                if self._begin_of(part.first) in known:
                    yield part
        yield from self._split(gap, period)

    def _split(self, gap: Gap, period: int) -> Iterator[Gap]:
        """Split a gap where a file ends; each part belongs to one file."""
        first = gap.first
        while first <= gap.last:
            end = self._after(self._begin_of(first))
            last = min(gap.last, first + (end - 1 - first) // period * period)
            yield gap._replace(first=first, last=last)
            first = last + period
        if gap.last < gap.first:  # it has no slots: it marks that someone set the clock back
            yield gap

    def _at(self, begin: int) -> SqliteSink:
        """Open the file that begins at `begin`, and close the one that was open before.

        Raises:
            RecordingError: The file is not a recording, or has another source.
            StorageError: The file cannot be opened now.
        """
        if self._sink is not None and begin == self._begin:
            return self._sink
        self._leave()
        sink = SqliteSink(self._name(begin), self._source)
        try:
            sink.claim(self._clock)
            sink.open()
        except BaseException:
            sink.close()
            raise
        self._begin, self._sink = begin, sink
        return sink

    def _leave(self) -> None:
        sink, self._sink, self._begin = self._sink, None, None
        if sink is not None:
            sink.close()
            self._lost += sink.take_lost()

    def _remove(self, begin: int) -> None:
        """Remove an old file, after writing a summary of its days into the open file.

        Raises:
            StorageError: An error prevented the removal of the file or of a file beside it.
        """
        assert self._sink is not None
        path = self._name(begin)
        try:
            with Recording(path) as recording:
                days = _summaries(recording, (begin, self._after(begin)))
                rows = [*map(tuple, recording.pruned()), *days]
            self._sink.write(lambda run: [run.execute(_SUMMARY, row) for row in rows])
            for file in (path, *(beside(path, ending) for ending in SIDES)):
                file.unlink(missing_ok=True)
        except (OSError, RecordingError) as error:
            raise StorageError(f"{path} is too old, but cannot be removed yet: {error}") from error


def _summaries(
    recording: Recording, span: tuple[int, int]
) -> Iterator[tuple[int, str, int, int, int]]:
    """Summarise each day of a file, which covers `span`, as rows of `pruned`; see `schema`."""
    found: dict[tuple[int, str], tuple[int, int, int]] = {}

    def add(last: int, reason: str, slots: int, rows: int) -> None:
        key = (last // DAY_MS * DAY_MS, reason)
        before = found.get(key, (0, 0, 0))
        found[key] = before[0] + slots, max(before[1], last), before[2] + rows

    for sweep in recording.sweeps():
        add(sweep.slot, SWEPT, 1, sweep.new)
    for day in range(*span, DAY_MS):
        for gap, _, slots in recording.counted_gaps((day, day + DAY_MS)):
            if slots:
                add(gap.last, gap.reason, slots, 0)
    for (day, reason), counts in sorted(found.items()):
        yield day, reason, *counts
