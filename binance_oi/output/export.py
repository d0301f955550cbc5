"""Exports recordings to Parquet, CSV and JSON Lines.

The rule of this file: a text file gets each number with the digits that the exchange wrote, and a
Parquet file gets a decimal of the same value. Existing rows of the target stay. A file gets its
name only when it is complete, so an interrupted export leaves the old file. The export omits rows
with an impossible date, and in Parquet also rows with too long a number. A warning names the first
of them.

An export adds rows to the target. It reads the file and the recording in parallel, both sorted by
symbol and time, and merges them. Its memory does not grow with their size. Symbol and time identify
a row. If the file and the recording both have a row, the row of the file stays. A file that would
get no new row is not written. The option `replace` changes this: see `export`.
"""

import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from binance_oi.arguments import StrPath, check_path
from binance_oi.errors import RecordingError, printable
from binance_oi.market import arrow
from binance_oi.market.arrow import TOO_WIDE, WITHOUT_NOTIONAL, Columns, TooNarrowError
from binance_oi.market.rows import Batch, OddRows, Row
from binance_oi.output.cells import quoted, unquoted
from binance_oi.output.selection import dated
from binance_oi.recorder import Recording, Samples
from binance_oi.recorder.atomic import (
    OvertakenError,
    Version,
    remove_stale,
    replace_atomically,
    translate_write_errors,
    version,
)
from binance_oi.recorder.samples import ROWS_PER_BATCH
from binance_oi.recorder.schema import NUMBER
from binance_oi.times import instant, iso_ms, unix_ms

DAY_MS = 86_400_000
DAYS, DAY_FILE = "date=*", "open_interest.parquet"
CSV, CSV_HEADER = ".csv", "symbol,time,open_interest,received,mark_price\n"
REPLACED_AT_MOST = 20  # attempts: another program may replace the file meanwhile
LONGEST_LINE = 4096  # characters; a file that is no export may have one endless line

Progress = Callable[[int], object]
Line = Callable[[str, int, str, int, str | None], str]


class Form(NamedTuple):
    """A file format: writes rows to a file, and reads them again."""

    write: Callable[[Iterable[Batch], BinaryIO, Columns, OddRows], object]
    """Raises `TooNarrowError` for a row that does not fit the columns."""
    read: Callable[[Path], Iterator[Row]]
    """Yields the rows in the order of the file; raises RecordingError for a row that no export
    writes."""
    check: Callable[[Path], object] = lambda _: None
    """Raises the errors of `read` that can be found without reading the rows."""
    takes: Callable[[Row], bool] = lambda _: True
    """Returns whether a file of this form can have the row."""


def export(
    recording: Recording,
    target: StrPath,
    *,
    symbols: Iterable[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    replace: bool = False,
    new: bool = False,
    csv_safe: bool = False,
    on_rows: Progress | None = None,
) -> int:
    """Add recorded samples to a file or a directory, sorted by symbol and time.

    All existing rows of the target stay unchanged, even rows that are not selected or that the
    recording no longer has. A file that would get no new row is not written. `replace` changes
    both. In any case a new file appears in a single step. If two exports add to a file at the
    same time, it gets the rows of both.

    An export omits samples dated before 2020 or after 2099. A Parquet file also omits samples with
    more than 20 digits before the point, or more than 18 after it. A warning names the first of
    them.

    Args:
        recording: The source of the samples.
        target: A file whose name ends in ``.parquet``, ``.csv`` or ``.jsonl``; or a directory,
            which gets one Parquet file a day: ``date=2026-11-23/open_interest.parquet``. A missing
            target whose name has no suffix becomes a directory. A suffix that is not one of these
            three is an error. The parent directory of a file must exist.
        symbols: The symbols to export; None for all.
        since: The earliest transaction time, included (aware).
        until: The end of the span, excluded (aware).
        replace: Write only the selected samples; the file loses its other rows. In a directory,
            this applies only to the days with selected samples; files of other days stay.
        new: Together with `replace`, do not write files that have every selected sample already.
            Write only missing files, and files that lack a selected sample.
        csv_safe: In CSV, put an apostrophe before a cell that begins like a formula (``=``, ``+``,
            ``-``, ``@``, a tab or the end of a line), because a spreadsheet would run it. To add to
            such a file later, set this option again.
        on_rows: Called with the number of samples read since the last call.

    Returns:
        The number of new rows in the target; with `replace`, the number of all written rows. If it
        is 0, nothing was written.

    Raises:
        InvalidSymbolError: One of `symbols` cannot be a symbol, or `symbols` is a single `str`.
        RecordingError: The recording has no sample of one of the symbols. Or the target cannot be
            written, belongs to the recording, or has another suffix. Or a file of the target has
            unreadable or unsorted rows, which would be lost; that file is not changed.
        ModuleNotFoundError: A Parquet file needs pyarrow, which the extra `parquet` installs.
        TypeError: `target` is not a path, or `symbols` is not iterable.
        ValueError: `target` is empty, a time has no time zone, or `since` is later than `until`;
            nothing was written.
    """
    path, progress = check_path("target", target), on_rows or _ignore
    recording.check_target(path)
    samples = recording.samples(symbols, since=since, until=until)
    with translate_write_errors(path):
        form, samples = _form(path, csv_safe), dated(samples, recording)
        columns = Columns() if form not in (None, PARQUET) else samples.columns()
        update = partial(_update, columns=columns, replace=replace, new=new, progress=progress)
        if form is not None:
            remove_stale(path.parent)
            return update(form, samples, path)
        _remove_stale_days(path)
        days = list(_days(samples, path))
        for _, file in days:  # check all days before any of them changes
            recording.check_target(file)
            if file.exists() and not replace:
                PARQUET.check(file)
        return sum(_update_day(update, *day) for day in days)


def _form(path: Path, csv_safe: bool) -> "Form | None":
    """Return the form of a file; None for a directory of days."""
    ending = path.suffix.lower()
    form = SAFE_CSV if csv_safe and ending == CSV else FORMS.get(ending)
    if path.is_dir():
        if form not in (None, PARQUET):  # a directory may be named x.parquet
            raise RecordingError(f"{path} is a directory")
        return None
    if form is None and (path.suffix or path.exists()):
        raise RecordingError(f"{path}: a file's name must end in one of {', '.join(FORMS)}")
    return form


def _days(samples: Samples, directory: Path) -> Iterator[tuple[Samples, Path]]:
    """Yield the samples of each day (UTC) that has samples, and the file for them."""
    rest = samples
    while (span := rest.span()) is not None:
        day = span[0] // DAY_MS
        begin, end = day * DAY_MS, (day + 1) * DAY_MS
        date = instant(begin).date()
        yield samples.between(begin, end), directory / f"date={date}" / DAY_FILE
        rest = samples.between(end, samples.until)  # `span` then skips empty days


def _remove_stale_days(directory: Path) -> None:
    """Remove unfinished files of killed exports, even in days that this export does not write."""
    for path in (directory, *directory.glob(DAYS)):
        remove_stale(path)


def _update_day(update: Callable[[Form, Samples, Path], int], samples: Samples, path: Path) -> int:
    with _made(path.parent):
        return update(PARQUET, samples, path)


@contextmanager
def _made(directory: Path) -> Generator[None]:
    """Create a directory; remove it again if the block puts nothing into it."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for path in missing:
            with suppress(OSError):  # it is not empty
                path.rmdir()


def _update(
    form: Form,
    samples: Samples,
    path: Path,
    *,
    columns: Columns,
    replace: bool,
    new: bool,
    progress: Progress,
) -> int:
    """Update one file; return the number of rows that `export` returns."""
    for _ in range(REPLACED_AT_MOST):
        before, part = version(path), _Part(form, samples, columns)
        is_compared = before is not None and (new or not replace)
        if is_compared and not _gains(part, path, replace, progress):
            part.warn_of_odd_rows(path)
            return 0
        kept = () if before is None or replace else form.read(path)
        part = _Part(form, samples, columns)
        try:
            written = _write(
                part, Merged(_in_order(kept, path), part.rows()), path, before, progress
            )
        except OvertakenError:  # start again, to keep the rows that another export has added
            continue
        except TooNarrowError as error:
            columns = error.columns
            continue
        part.warn_of_odd_rows(path)
        return written
    raise RecordingError(f"{path} cannot be written: other programs replace it all the time")


class _Part:
    """The selected samples, without rows that a file of this form cannot have."""

    def __init__(self, form: Form, samples: Samples, columns: Columns) -> None:
        self.form, self.columns = form, columns
        self.left_out, self.priceless = OddRows(), OddRows()
        self._samples = samples

    def rows(self) -> Iterator[Row]:
        takes = self.form.takes
        for row in self._samples.rows():
            if takes(row):
                yield row
            else:
                self.left_out.add(row, TOO_WIDE)

    def warn_of_odd_rows(self, path: Path) -> None:
        """Warn of rows that the file omits, and of rows whose notional fits into no column."""
        self.left_out.warn(path)
        self.priceless.warn(path, WITHOUT_NOTIONAL)


def _gains(part: _Part, path: Path, replace: bool, progress: Progress) -> bool:
    """Whether a selected sample is not in the file yet.

    Raises:
        RecordingError: The rows of the file cannot be read, and `replace` is not set.
    """
    merged = Merged(_in_order(part.form.read(path), path), part.rows())
    try:
        gains = any(merged.added for _ in merged)
    except RecordingError:
        if not replace:
            raise
        return True
    if not gains:
        progress(merged.read)
    return gains


def _write(
    part: _Part, merged: "Merged", path: Path, before: Version | None, progress: Progress
) -> int:
    batches = merged.batches(progress)
    first = next(batches, None)
    if first is None:
        return 0
    with replace_atomically(path, lambda: version(path) == before) as file:
        part.form.write(chain((first,), batches), file, part.columns, part.priceless)
    return merged.added


class Merged:
    """The rows of a file and the rows of a recording that the file lacks, merged in order.

    Args:
        kept: The rows of the file, sorted. All of them stay.
        found: The rows of the recording, in the same order.
    """

    def __init__(self, kept: Iterable[Row], found: Iterable[Row]) -> None:
        self._kept, self._found = kept, found
        self.read: int = 0
        """The number of rows of the recording that were read so far."""
        self.added: int = 0
        """How many of these the file lacks."""

    def __iter__(self) -> Iterator[Row]:
        found = self._once()
        row = next(found, None)
        for kept in self._kept:
            while row is not None and row[:2] < kept[:2]:
                self.added += 1
                yield row
                row = next(found, None)
            if row is not None and row[:2] == kept[:2]:
                row = next(found, None)
            yield kept
        while row is not None:
            self.added += 1
            yield row
            row = next(found, None)

    def _once(self) -> Iterator[Row]:
        """Skip a row with the symbol and the time of the row before."""
        last: tuple[object, ...] = ()
        for row in self._found:
            self.read += 1
            if (key := row[:2]) != last:
                yield row
            last = key

    def batches(self, progress: Progress) -> Iterator[Batch]:
        """Yield batches of rows, and report to `progress` how many rows were read for each."""
        rows, reported = iter(self), 0
        while batch := list(islice(rows, ROWS_PER_BATCH)):
            yield Batch.of(batch)
            progress(self.read - reported)
            reported = self.read


def _in_order(rows: Iterable[Row], path: Path) -> Iterator[Row]:
    """Check that the rows of a file are sorted by symbol and time."""
    last = ("", 0)
    for row in rows:
        if (key := row[:2]) < last:
            raise RecordingError(
                f"cannot add to {path}: it is not sorted by symbol and time; replace the file"
            )
        yield row
        last = key


def _csv_line(symbol: str, time: int, value: str, received: int, mark: str | None) -> str:
    return f"{symbol},{iso_ms(time)},{value},{iso_ms(received)},{mark or ''}\n"


class _SafeCsvError(Exception):
    """A line has an apostrophe before a cell, as `csv_safe` writes it."""


def _csv_row(line: str) -> Row:
    symbol, time, value, received, mark = line.rstrip("\n").split(",")
    if symbol != unquoted(symbol):
        raise _SafeCsvError("it was written with csv_safe, which is not set now")
    return symbol, _ms(time), value, _ms(received), mark or None


def _safe_csv_line(symbol: str, time: int, value: str, received: int, mark: str | None) -> str:
    return _csv_line(quoted(symbol), time, quoted(value), received, quoted(mark or ""))


def _safe_csv_row(line: str) -> Row:
    symbol, time, value, received, mark = map(unquoted, line.rstrip("\n").split(","))
    return symbol, _ms(time), value, _ms(received), mark or None


def _json_line(symbol: str, time: int, value: str, received: int, mark: str | None) -> str:
    price = "null" if mark is None else f'"{mark}"'
    return (
        f'{{"symbol": {json.dumps(symbol, ensure_ascii=False)}, "time": "{iso_ms(time)}", '
        f'"open_interest": "{value}", "received": "{iso_ms(received)}", "mark_price": {price}}}\n'
    )


def _json_row(line: str) -> Row:
    symbol, time, value, received, mark = json.loads(line).values()
    return str(symbol), _ms(time), value, _ms(received), mark


def _ms(text: str) -> int:
    return unix_ms(datetime.fromisoformat(text))


def _text(line: Line, row: Callable[[str], Row], header: str = "") -> Form:
    """Make a form that has one line for each row."""

    def write(batches: Iterable[Batch], file: BinaryIO, _: Columns, __: OddRows) -> None:
        file.write(header.encode())
        for batch in batches:
            file.write("".join(map(line, *batch)).encode())

    def read(path: Path) -> Iterator[Row]:
        number = 0
        try:
            with path.open(encoding="utf-8", newline="\n") as file:
                for number, text in enumerate(iter(partial(file.readline, LONGEST_LINE), ""), 1):
                    if number > 1 or not header:
                        yield _checked(row, line, text)
                    elif text != header:
                        raise ValueError("it does not begin as an export does")
        except (OSError, ValueError, _SafeCsvError) as error:
            why = printable(str(error), 200)
            raise RecordingError(
                f"cannot add to {path}: line {number}: {why}; replace the file"
            ) from error

    return Form(write, read)


def _checked(row: Callable[[str], Row], line: Line, text: str) -> Row:
    """Return the row of a line; raise ValueError unless its export gives the same line."""
    with suppress(ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        found = row(text)
        numbers = (found[2], "0" if found[4] is None else found[4])
        if line(*found) == text and all(map(NUMBER.fullmatch, numbers)):
            return found
    raise ValueError("it is not as an export writes it")


PARQUET = Form(arrow.write_parquet, arrow.read_parquet, arrow.check_parquet, arrow.fits)
FORMS = {
    ".parquet": PARQUET,
    CSV: _text(_csv_line, _csv_row, CSV_HEADER),
    ".jsonl": _text(_json_line, _json_row),
}
SAFE_CSV = _text(_safe_csv_line, _safe_csv_row, CSV_HEADER)


def _ignore(_: int) -> None:
    pass
