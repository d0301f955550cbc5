"""Recordings as Parquet, CSV and JSON Lines.

The rule of this file: a number leaves as the exchange wrote it, digit by digit in text, and as a
decimal of the same value in Parquet. A row of the target stays there. A file gets its name only
when it is complete, so an interrupted export keeps the old file. A row that cannot leave like this
is left out alone, and a warning names it.

An export adds to the target. It reads the rows of the file and of the recording side by side, both
sorted by symbol and time, and merges them; memory grows with neither. A row is identified by its
symbol and time. Where both have a row, the file's stays, for a row of the target must not change. A
file that gains nothing is not written.
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
REPLACED_AT_MOST = 20  # times that other exports may replace the file during this one
LONGEST_LINE = 4096  # characters; a file that is no export may be one long line

Progress = Callable[[int], object]
Line = Callable[[str, int, str, int, str | None], str]


class Form(NamedTuple):
    """A file format: writes rows to a file, and reads them again."""

    write: Callable[[Iterable[Batch], BinaryIO, Columns, OddRows], object]
    """Raises `TooNarrowError` for a row that does not fit the columns."""
    read: Callable[[Path], Iterator[Row]]
    """The rows in the order of the file; raises RecordingError for what `write` did not write."""
    check: Callable[[Path], object] = lambda _: None
    """Raises the errors of `read` that it can find without reading the rows."""
    takes: Callable[[Row], bool] = lambda _: True
    """Whether a row fits some columns."""


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

    Every row of the target stays unchanged, whatever is selected, and whether or not the recording
    still has it. A file that gains nothing is not touched. Each file is replaced at once; when two
    exports add to a file at the same time, it gets the rows of both.

    An export leaves out samples dated before 2020 or after 2099. From Parquet it also leaves out
    samples with a number of more than 20 digits before the point or 18 after it. A warning names
    the first of them.

    Args:
        recording: The source of the samples.
        target: A file whose name ends in ``.parquet``, ``.csv`` or ``.jsonl``; or a directory,
            which gets one Parquet file a day: ``date=2026-11-23/open_interest.parquet``. A missing
            directory is made, unless its name has another suffix: that is probably a mistake. The
            directory of a file is not made.
        symbols: None takes all.
        since: The earliest transaction time (aware).
        until: The end of the span, excluded (aware).
        replace: Write the selected samples alone: a file of the target loses its other rows. In a
            directory, this concerns the days with selected samples.
        new: With `replace`, leave files alone that already have every selected sample. Only
            missing files, and files that lack samples of the recording, are written.
        csv_safe: In CSV, put an apostrophe before a cell that begins like a formula (``=``, ``+``,
            ``-``, ``@``, a tab or the end of a line), which a spreadsheet would run. A file that
            has such a cell takes rows of the same kind only.
        on_rows: Called with the number of samples read since the last call.

    Returns:
        The number of written rows that the target did not have; with `replace`, of all written
        rows. 0 means that nothing was written.

    Raises:
        RecordingError: One of the symbols was never recorded; or the target cannot be written, is
            the recording or a side file of it; or a file of the target has unreadable or unsorted
            rows, which would be lost. Such a file is not changed.
        ModuleNotFoundError: Parquet without pyarrow; it comes with the extra `parquet`.
        ValueError: A time has no time zone, or `since` is later than `until`; nothing was written.
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
    """The form of a file; None for a directory of days."""
    ending = path.suffix.lower()
    form = SAFE_CSV if csv_safe and ending == CSV else FORMS.get(ending)
    if path.is_dir():
        if form not in (None, PARQUET):  # some programs write directories named x.parquet
            raise RecordingError(f"{path} is a directory")
        return None
    if form is None and (path.suffix or path.exists()):
        raise RecordingError(f"{path}: a file's name ends in {', '.join(FORMS)}")
    return form


def _days(samples: Samples, directory: Path) -> Iterator[tuple[Samples, Path]]:
    """The samples of each day (UTC) that has samples, and the file for them."""
    rest = samples
    while (span := rest.span()) is not None:
        day = span[0] // DAY_MS
        begin, end = day * DAY_MS, (day + 1) * DAY_MS
        date = instant(begin).date()
        yield samples.between(begin, end), directory / f"date={date}" / DAY_FILE
        rest = samples.between(end, samples.until)  # jumps to the next sample, over empty days


def _remove_stale_days(directory: Path) -> None:
    """Remove files of killed exports, also in days that this export does not write."""
    for path in (directory, *directory.glob(DAYS)):
        remove_stale(path)


def _update_day(update: Callable[[Form, Samples, Path], int], samples: Samples, path: Path) -> int:
    with _made(path.parent):
        return update(PARQUET, samples, path)


@contextmanager
def _made(directory: Path) -> Generator[None]:
    """Make a directory; remove it again when the block puts nothing into it."""
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
    """Update one file; return the number of rows that it gained."""
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
        except OvertakenError:  # keep what another export has added in the meantime, too
            continue
        except TooNarrowError as error:
            columns = error.columns
            continue
        part.warn_of_odd_rows(path)
        return written
    raise RecordingError(f"{path} cannot be written: other programs replace it all the time")


class _Part:
    """The samples of a selection that a form can hold."""

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
        """Warn of rows that are left out or lack their notional."""
        self.left_out.warn(path)
        self.priceless.warn(path, WITHOUT_NOTIONAL)


def _gains(part: _Part, path: Path, replace: bool, progress: Progress) -> bool:
    """Whether the file lacks samples of the selection. The first such sample ends the search.

    Raises:
        RecordingError: The rows of the file cannot be read, and must not be replaced.
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
    """The rows of a file, and those of a recording that the file lacks, by symbol and time.

    Args:
        kept: Rows of the file, sorted; all of them are kept.
        found: Rows of the recording, in the same order.
    """

    def __init__(self, kept: Iterable[Row], found: Iterable[Row]) -> None:
        self._kept, self._found = kept, found
        self.read: int = 0
        """The number of rows of the recording read so far."""
        self.added: int = 0
        """The number of them that the file lacks."""

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
        """Skip repeated rows, which a faulty recording may have in both of its tables."""
        last: tuple[object, ...] = ()
        for row in self._found:
            self.read += 1
            if (key := row[:2]) != last:
                yield row
            last = key

    def batches(self, progress: Progress) -> Iterator[Batch]:
        """The rows by column; `progress` gets the number of the recording's rows in each batch."""
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
                f"{path} cannot be added to: it is not sorted by symbol and time; replace it"
            )
        yield row
        last = key


def _csv_line(symbol: str, time: int, value: str, received: int, mark: str | None) -> str:
    return f"{symbol},{iso_ms(time)},{value},{iso_ms(received)},{mark or ''}\n"


def _csv_row(line: str) -> Row:
    symbol, time, value, received, mark = line.rstrip("\n").split(",")
    if symbol != unquoted(symbol):
        raise ValueError("it was made with csv_safe")
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
    """A form with one line for each row."""

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
        except (OSError, ValueError) as error:
            why = printable(str(error), 200)
            raise RecordingError(
                f"{path} cannot be added to: line {number}: {why}; replace it"
            ) from error

    return Form(write, read)


def _checked(row: Callable[[str], Row], line: Line, text: str) -> Row:
    """The row of a line, if an export would write the same line, to the last digit."""
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
