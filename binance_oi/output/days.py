"""Writes the rows of the exchange's archive: for each symbol, a file of rows and a file of holes.

The rule of this file: both files get their names when the symbol is complete. Until then, earlier
files of these names stay as they are.
"""

import csv
import io
import json
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from binance_oi.exchange.archive import STEP_MS
from binance_oi.market.archive import ArchiveDay
from binance_oi.market.gap import Gap, add_gap
from binance_oi.market.rows import InstantRow
from binance_oi.recorder.atomic import check_place, replace_atomically, translate_write_errors
from binance_oi.times import iso_ms

Format = Literal["csv", "jsonl"]
COLUMNS = ("symbol", "time", "open_interest", "notional")
HOLES = ("symbol", "first", "last", "reason", "detail")


class DaysWriter:
    """Writes the days of one symbol. The caller adds the oldest day first."""

    def __init__(self, file: BinaryIO, form: Format) -> None:
        self._file, self._is_csv = file, form == "csv"
        self.holes: list[Gap] = []
        """The holes of all added days. A hole that continues over midnight is one hole."""
        self.rows: int = 0
        if self._is_csv:
            file.write(f"{','.join(COLUMNS)}\n".encode())

    def add(self, day: ArchiveDay) -> None:
        """Write a day."""
        write = _csv_line if self._is_csv else _json_line
        self._file.write("".join(map(write, day.written)).encode())
        self.rows += len(day)
        for hole in day.holes:
            add_gap(self.holes, hole, STEP_MS)


@contextmanager
def writing(directory: Path, symbol: str, form: Format) -> Generator[DaysWriter]:
    """Write the rows and the holes of a symbol into a directory; create a missing directory.

    Raises:
        RecordingError: The directory or a file cannot be written.
    """
    rows, holes = directory / f"{symbol}.{form}", directory / f"{symbol}.holes.csv"
    check_place(rows)
    with translate_write_errors(rows):
        directory.mkdir(parents=True, exist_ok=True)
        with replace_atomically(rows) as file:
            writer = DaysWriter(file, form)
            yield writer
            with replace_atomically(holes) as beside:
                beside.write(_holes_text(symbol, writer.holes).encode())


def _csv_line(row: InstantRow) -> str:
    symbol, time, _, value, notional, _ = row
    return f"{symbol},{iso_ms(time)},{value},{notional or ''}\n"


def _json_line(row: InstantRow) -> str:
    symbol, time, _, value, notional, _ = row
    found = dict(zip(COLUMNS, (symbol, iso_ms(time), value, notional), strict=True))
    return f"{json.dumps(found, ensure_ascii=False)}\n"


def _holes_text(symbol: str, holes: Iterable[Gap]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HOLES)
    for first, last, reason, detail in holes:
        writer.writerow([symbol, iso_ms(first), iso_ms(last), reason, detail])
    return file.getvalue()
