"""Recordings as Parquet, CSV and JSON Lines.

The rule of this file: a number leaves as the exchange wrote it, in text digit by digit and in
Parquet as a decimal of the same value; a row that is in the target stays there; and a file appears
under its name when it is whole, so an export that was interrupted leaves what was there before. A
row that cannot leave in this way costs itself: a warning names it, and the others leave.

An export adds to what is there. The rows of the file and of the recording are read side by side,
both by symbol and time, and written in one order; memory does not grow with either. A row is known
by its symbol and time. Where both have it the file's stays, for a row that was there must not
change. A file that gains nothing is not written.
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
    version,
    whole,
    writing,
)
from binance_oi.recorder.recording import BATCH, NUMBER
from binance_oi.times import instant, iso_ms, unix_ms

DAY_MS = 86_400_000
DAYS, DAY_FILE = "date=*", "open_interest.parquet"
CSV, CSV_HEADER = ".csv", "symbol,time,open_interest,received,mark_price\n"
ROUNDS = 20  # of an export whose file another one replaces each time
LONGEST_LINE = 4096  # characters; of a file that is no export, a line may be all of it

Progress = Callable[[int], object]
Line = Callable[[str, int, str, int, str | None], str]


class Form(NamedTuple):
    """How rows become a file, and a file rows."""

    write: Callable[[Iterable[Batch], BinaryIO, Columns, OddRows], object]
    """Raises `TooNarrowError` for a row that the columns do not hold."""
    read: Callable[[Path], Iterator[Row]]
    """The rows in the order of the file; a RecordingError for what `write` did not write."""
    check: Callable[[Path], object] = lambda _: None
    """The same, as far as it can be known at once."""
    takes: Callable[[Row], bool] = lambda _: True
    """Whether some columns hold a row."""


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

    Every row that a file of the target has stays, unchanged, whatever is selected and whether the
    recording still has it. A file to which nothing would be added is not touched. Each file is
    replaced at once; when two exports add to one file at the same time, it gets the rows of both.

    A sample that is dated before 2020 or after 2099 is left out, and of Parquet one with a number
    of more than 20 digits before the point or 18 after it. A warning names the first of them.

    Args:
        recording: Where they are.
        target: A file whose name ends in ``.parquet``, ``.csv`` or ``.jsonl``; or a directory,
            which gets Parquet by day: ``date=2026-11-23/open_interest.parquet``. It is made, unless
            its name has another ending: that is taken for a mistake. A file's directory is not.
        symbols: None takes all.
        since: The earliest transaction time (aware).
        until: Before this one (aware).
        replace: Write the selected samples alone: a file of the target (of a directory: that of a
            day with selected samples) loses its other rows.
        new: Leave files alone that have every selected sample. Only with `replace` this changes
            anything: such files are not replaced, only those that are missing or have fallen
            behind the recording.
        csv_safe: In CSV, put an apostrophe before a cell that begins like a formula (``=``, ``+``,
            ``-``, ``@``, a tab or the end of a line), which a spreadsheet would run. A file takes
            rows of one kind only, as soon as it has such a cell.
        on_rows: Called with the number of samples read since the last call.

    Returns:
        How many rows were written that the target did not have (with `replace`: that were
        written); 0 writes nothing.

    Raises:
        RecordingError: One of the symbols was never recorded; or the target cannot be written, is
            the recording or a file beside it; or a file of the target has rows that cannot be read
            or are not sorted by symbol and time, and would be lost: nothing was changed there.
        ModuleNotFoundError: Parquet without pyarrow; it comes with the extra `parquet`.
        ValueError: A moment without a time zone, or `since` later than `until`; nothing was
            written.
    """
    path, tell = check_path("target", target), on_rows or _tell_nobody
    recording.check_target(path)
    samples = recording.samples(symbols, since=since, until=until)
    with writing(path):
        form, samples = _form(path, csv_safe), dated(samples, recording.path)
        columns = Columns() if form not in (None, PARQUET) else samples.columns()
        update = partial(_update, columns=columns, replace=replace, new=new, tell=tell)
        if form is not None:
            remove_stale(path.parent)
            return update(form, samples, path)
        _remove_stale_days(path)
        days = list(_days(samples, path))
        for _, file in days:  # before any of them is changed
            recording.check_target(file)
            if file.exists() and not replace:
                PARQUET.check(file)
        return sum(_update_day(update, *day) for day in days)


def _form(path: Path, csv_safe: bool) -> "Form | None":
    """That of a file; None when it is a directory of days."""
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
    """The samples of each day (UTC) that has some, and the file for them."""
    rest = samples
    while (span := rest.span()) is not None:
        day = span[0] // DAY_MS
        begin, end = day * DAY_MS, (day + 1) * DAY_MS
        date = instant(begin).date()
        yield samples.between(begin, end), directory / f"date={date}" / DAY_FILE
        rest = samples.between(end, samples.until)  # to the next sample: empty days cost nothing


def _remove_stale_days(directory: Path) -> None:
    """Remove what a killed export left, also in the days that this one does not write."""
    for path in (directory, *directory.glob(DAYS)):
        remove_stale(path)


def _update_day(update: Callable[[Form, Samples, Path], int], samples: Samples, path: Path) -> int:
    with _made(path.parent):
        return update(PARQUET, samples, path)


@contextmanager
def _made(directory: Path) -> Generator[None]:
    """A directory is there; when the block puts nothing into it, what was made is removed."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for path in missing:
            with suppress(OSError):  # something is in it
                path.rmdir()


def _update(
    form: Form,
    samples: Samples,
    path: Path,
    *,
    columns: Columns,
    replace: bool,
    new: bool,
    tell: Progress,
) -> int:
    """Bring one file up to date; gives the number of rows that it gained."""
    for _ in range(ROUNDS):
        before, part = version(path), _Part(form, samples, columns)
        looked_at = before is not None and (new or not replace)
        if looked_at and not _gains(part, path, replace, tell):
            part.tell_odd(path)
            return 0
        kept = () if before is None or replace else form.read(path)
        part = _Part(form, samples, columns)
        try:
            written = _write(part, Merged(_in_order(kept, path), part.rows()), path, before, tell)
        except OvertakenError:  # what others have added meanwhile stays, too
            continue
        except TooNarrowError as error:
            columns = error.columns
            continue
        part.tell_odd(path)
        return written
    raise RecordingError(f"{path} cannot be written: others replace it all the time")


class _Part:
    """What a form takes of some samples."""

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

    def tell_odd(self, path: Path) -> None:
        """Warn of rows that are not in the file as they are in the recording."""
        self.left_out.tell(path)
        self.priceless.tell(path, WITHOUT_NOTIONAL)


def _gains(part: _Part, path: Path, replace: bool, tell: Progress) -> bool:
    """Whether there are samples that a file lacks. It costs little when there are: one is enough.

    Raises:
        RecordingError: Its rows cannot be read, and must not be replaced.
    """
    merged = Merged(_in_order(part.form.read(path), path), part.rows())
    try:
        gains = any(merged.added for _ in merged)
    except RecordingError:
        if not replace:
            raise
        return True
    if not gains:
        tell(merged.read)
    return gains


def _write(
    part: _Part, merged: "Merged", path: Path, before: Version | None, tell: Progress
) -> int:
    batches = merged.batches(tell)
    first = next(batches, None)
    if first is None:
        return 0
    with whole(path, lambda: version(path) == before) as file:
        part.form.write(chain((first,), batches), file, part.columns, part.priceless)
    return merged.added


class Merged:
    """The rows of a file and those of a recording that the file lacks, by symbol and time.

    Args:
        kept: Of the file, all of which come.
        found: Of the recording, in the same order.
    """

    def __init__(self, kept: Iterable[Row], found: Iterable[Row]) -> None:
        self._kept, self._found = kept, found
        self.read: int = 0
        """How many rows of the recording were read so far."""
        self.added: int = 0
        """How many of them the file lacks."""

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
        """No row of the recording twice, also if a fault of the recorder put it into two tables."""
        last: tuple[object, ...] = ()
        for row in self._found:
            self.read += 1
            if (key := row[:2]) != last:
                yield row
            last = key

    def batches(self, tell: Progress) -> Iterator[Batch]:
        """The same by column; `tell` gets the number of rows of the recording in each batch."""
        rows, told = iter(self), 0
        while batch := list(islice(rows, BATCH)):
            yield Batch.of(batch)
            tell(self.read - told)
            told = self.read


def _in_order(rows: Iterable[Row], path: Path) -> Iterator[Row]:
    """Rows of a file, which must come by symbol and time."""
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
    """A form of one line for each row."""

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
    """The row of a line that an export would write in the same way, to the last digit."""
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


def _tell_nobody(_: int) -> None:
    pass
